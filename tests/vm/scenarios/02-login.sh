# SPDX-License-Identifier: BSD-3-Clause
node "$T_IQN" "$T_PORTAL1"
ok "login, no authentication" login "$T_IQN" "$T_PORTAL1"
ok "disk appears" blk "$T_IQN" "$T_LUN"
D=$(blk "$T_IQN" "$T_LUN"); note "disk $D $(blockdev --getsize64 "$D") bytes, $(cat /sys/block/${D#/dev/}/device/vendor) $(cat /sys/block/${D#/dev/}/device/model) queue depth $(cat /sys/block/${D#/dev/}/device/queue_depth) max_sectors $(cat /sys/block/${D#/dev/}/queue/max_sectors_kb)K discard_max $(cat /sys/block/${D#/dev/}/queue/discard_max_bytes) write_same $(cat /sys/block/${D#/dev/}/queue/write_zeroes_max_bytes) wc $(cat /sys/block/${D#/dev/}/queue/write_cache)"
for c in /sys/class/iscsi_connection/*; do note "max_recv $(cat $c/max_recv_dlength) max_xmit $(cat $c/max_xmit_dlength)"; done
for c in $(sessions_of "$T_IQN"); do note "tpgt $(cat $c/tpgt) first_burst $(cat $c/first_burst_len) max_burst $(cat $c/max_burst_len) imm $(cat $c/immediate_data) initialR2T $(cat $c/initial_r2t) erl $(cat $c/erl) outstanding_r2t $(cat $c/max_outstanding_r2t)"; done
ok "lsblk sees it" lsblk "$D"
ok "udev has a by-path link" wait_for 10 "ls /dev/disk/by-path/ | grep -q '$T_IQN-lun-$T_LUN'"
ls /dev/disk/by-id 2>/dev/null | grep -v virtio | sed 's/^/  #    by-id /'
ok "session info level 3" adm -m session -P 3
ok "session statistics" adm -m session -s
ok "rescan" adm -m session -R
ok "logout" logout "$T_IQN" "$T_PORTAL1"
ok "disk is gone" wait_for 10 "[ ! -e $D ]"
relog() { local i; for i in 1 2 3 4 5; do login "$T_IQN" "$T_PORTAL1" >/dev/null && blk "$T_IQN" "$T_LUN" >/dev/null && logout "$T_IQN" "$T_PORTAL1" >/dev/null || return 1; done; }
ok "five logins and logouts" relog
nok "login to an unknown target name" eval "node ${T_IQN}x $T_PORTAL1 && login ${T_IQN}x $T_PORTAL1"
if host hot-add >/dev/null 2>&1; then
  login "$T_IQN" "$T_PORTAL1" >/dev/null; host hot-del >/dev/null; adm -m session -R >/dev/null; host hot-add >/dev/null
  ok "a LUN added while logged in appears on rescan" eval "adm -m session -R >/dev/null; blk $T_IQN 7"
  host hot-del >/dev/null
fi
