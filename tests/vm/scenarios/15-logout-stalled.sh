# SPDX-License-Identifier: BSD-3-Clause
# Logout completes while a disk hangs (pain: a session that can never be ended); the other disks of the target go on.
[ -n "${T_IQN_LAB:-}" ] || skip "this target has no disk that hangs"
node "$T_IQN_LAB" "$T_LAB1"; setn "$T_IQN_LAB" "$T_LAB1" node.session.timeo.replacement_timeout=5
login "$T_IQN_LAB" "$T_LAB1" >/dev/null; D0=$(blk "$T_IQN_LAB" 0)
h=$(hctl "$T_IQN_LAB" 2); S=$(ls $h/scsi_generic 2>/dev/null | head -1)
ok "the disk that hangs is there" [ -n "$S" ]
sg_dd if=/dev/$S of=/dev/null bs=512 count=8 bpt=8 time=0 >/tmp/sgdd 2>&1 & P=$!
sleep 1; ok "its read hangs" kill -0 $P
ok "another disk answers meanwhile" dd if=$D0 of=/dev/null bs=4k count=4 iflag=direct
a=$(cut -d. -f1 /proc/uptime)
ok "logout" timeout 30 iscsiadm -m node -T "$T_IQN_LAB" -p "$T_LAB1" --logout
note "logout took $(( $(cut -d. -f1 /proc/uptime) - a )) s"
ok "no session is left" [ -z "$(sessions_of "$T_IQN_LAB")" ]
wait $P
ok "login again" login "$T_IQN_LAB" "$T_LAB1"
dmesg -C
