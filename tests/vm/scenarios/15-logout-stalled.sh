# SPDX-License-Identifier: BSD-3-Clause
# A client lets go of a target while one of its disks hangs for 40 s (pain: a session that can never be ended). Linux itself
# waits for its commands before it logs out, until its own timeouts: they are short here, and what it then asks for (abort,
# reset, a new connection, logout) is answered. The other disks of the target go on.
[ -n "${T_IQN_LAB:-}" ] || skip "this target has no disk that hangs"
node "$T_IQN_LAB" "$T_LAB1"; setn "$T_IQN_LAB" "$T_LAB1" node.session.timeo.replacement_timeout=5 node.session.err_timeo.abort_timeout=2 \
  node.session.err_timeo.lu_reset_timeout=2 node.session.err_timeo.tgt_reset_timeout=2 node.session.err_timeo.host_reset_timeout=5
login "$T_IQN_LAB" "$T_LAB1" >/dev/null; D0=$(blk "$T_IQN_LAB" 0)
h=$(hctl "$T_IQN_LAB" 2); S=$(ls $h/scsi_generic 2>/dev/null | head -1)
ok "the disk that hangs is there" [ -n "$S" ]
sg_raw -t 4 -r 4096 /dev/$S 28 00 00 00 00 00 00 00 08 00 >/tmp/sgraw 2>&1 & P=$!
sleep 1; ok "its read hangs" kill -0 $P
ok "another disk answers meanwhile" dd if=$D0 of=/dev/null bs=4k count=4 iflag=direct
a=$(cut -d. -f1 /proc/uptime)
ok "logout" timeout 35 iscsiadm -m node -T "$T_IQN_LAB" -p "$T_LAB1" --logout
note "logout took $(( $(cut -d. -f1 /proc/uptime) - a )) s"
ok "no session is left" [ -z "$(sessions_of "$T_IQN_LAB")" ]
wait $P
ok "login again" login "$T_IQN_LAB" "$T_LAB1"
ok "the other disk works" dd if=$(blk "$T_IQN_LAB" 0) of=/dev/null bs=4k count=4 iflag=direct
dmesg -C
