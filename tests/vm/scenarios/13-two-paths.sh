# SPDX-License-Identifier: BSD-3-Clause
# Two portals, dm-multipath on top; one path dies under fio with verify, I/O goes on by the other.
modprobe -a dm_multipath dm_round_robin dm_service_time 2>/dev/null
for p in "$T_PORTAL1" "$T_PORTAL2"; do node "$T_IQN" "$p"; setn "$T_IQN" "$p" node.session.timeo.replacement_timeout=3 node.conn[0].timeo.noop_out_interval=1 node.conn[0].timeo.noop_out_timeout=2; login "$T_IQN" "$p" >/dev/null; done
A=$(blk "$T_IQN" "$T_LUN" 1) B=$(blk "$T_IQN" "$T_LUN" 2)
ok "two paths" [ -b "$A" -a -b "$B" -a "$A" != "$B" ]
ok "the same WWID by both" [ "$(cat /sys/block/${A#/dev/}/device/wwid)" = "$(cat /sys/block/${B#/dev/}/device/wwid)" ]
n=$(blockdev --getsz $A)
ok "multipath device" dmsetup create mp --table "0 $n multipath 1 queue_if_no_path 0 1 1 round-robin 0 2 1 $A 1 $B 1"
M=/dev/mapper/mp
fio --name=m --filename=$M --rw=randwrite --bs=4k --size=12m --rate_iops=200 --verify=crc32c --direct=1 --ioengine=libaio --iodepth=8 --output=/tmp/fio.mp & F=$!
sleep 4; iptables -A OUTPUT -p tcp --dport ${T_PORTAL1##*:} -j DROP; note "first path is dead"
wait $F; r=$?; ok "fio with verify: I/O went on" [ $r -eq 0 ]; [ $r -eq 0 ] || tail -20 /tmp/fio.mp
ok "the dead path is known as failed" eval "dmsetup status mp | grep -q ' F '"
iptables -F
dmsetup remove --retry mp
ok "the first session comes back" wait_for 40 "grep -q LOGGED_IN \$(sessions_of $T_IQN | head -1)/state"
