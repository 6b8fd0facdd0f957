# SPDX-License-Identifier: BSD-3-Clause
# dm-multipath with the kernel's ALUA handler through two portal groups: it knows their states, follows when the
# administrator changes them, and fio with verify goes on while one group after the other is taken out. (The guest has no
# udev database, which multipathd wants; the entry for multipathd is tried by tests/system/multipath.py.)
[ -n "${T_IQN_LAB:-}" ] || skip "this target has one portal group"
modprobe -a dm_multipath dm_service_time scsi_dh_alua 2>/dev/null
for p in "$T_LAB1" "$T_LAB2"; do node "$T_IQN_LAB" "$p"; setn "$T_IQN_LAB" "$p" node.session.timeo.replacement_timeout=5; login "$T_IQN_LAB" "$p" >/dev/null; done
A=$(blk "$T_IQN_LAB" 0 1) B=$(blk "$T_IQN_LAB" 0 2)
ok "two paths" [ -b "$A" -a -b "$B" ]
for d in $A $B; do s=/sys/block/${d#/dev/}/device; [ "$(cat $s/dh_state)" = alua ] || echo alua > $s/dh_state; done
state() { cat /sys/block/${1#/dev/}/device/access_state; }
ok "the kernel's ALUA handler has both" eval "[ \$(cat /sys/block/${A#/dev/}/device/dh_state) = alua ] && [ \$(cat /sys/block/${B#/dev/}/device/dh_state) = alua ]"
ok "both are active/optimized" eval "[ \$(state $A) = active/optimized ] && [ \$(state $B) = active/optimized ]"
n=$(blockdev --getsz $A)
ok "multipath map, one group of paths for each portal group" dmsetup create mp --table "0 $n multipath 1 queue_if_no_path 1 alua 2 1 service-time 0 1 1 $A 1 service-time 0 1 1 $B 1"
M=/dev/mapper/mp
fio --name=a --filename=$M --rw=randwrite --bs=4k --size=8m --rate_iops=100 --time_based --runtime=60 --verify=crc32c --verify_backlog=128 --direct=1 --ioengine=libaio --iodepth=4 --output=/tmp/fio.alua & F=$!
sleep 3
ok "the administrator makes group 1 non-optimized" host lab paths set file 1 non-optimized
ok "the kernel sees it by itself" wait_for 30 "[ \$(state $A) = active/non-optimized ]"
ok "group 1 is taken out" host lab paths set file 1 unavailable
ok "I/O has moved to group 2" wait_for 30 "dmsetup status mp | grep -qE 'A 0 1 [0-9] ${B#/dev/}|[0-9]+:[0-9]+ A .* A '; a=\$(awk '{print \$5}' /sys/block/${B#/dev/}/stat); sleep 1; [ \$(awk '{print \$5}' /sys/block/${B#/dev/}/stat) -gt \$a ]"
ok "group 1 is back" host lab paths set file 1 optimized
sleep 3
ok "its path is good again" wait_for 30 "dmsetup message mp 0 reinstate_path $(cat /sys/block/${A#/dev/}/dev); sg_turs $A"
ok "group 2 is put into standby" host lab paths set file 2 standby
ok "I/O has moved to group 1" wait_for 30 "a=\$(awk '{print \$5}' /sys/block/${A#/dev/}/stat); sleep 1; [ \$(awk '{print \$5}' /sys/block/${A#/dev/}/stat) -gt \$a ]"
ok "and back" host lab paths set file 2 optimized
wait $F; r=$?
ok "fio with verify over all of it" eval "[ $r -eq 0 ] && grep -q 'err= 0' /tmp/fio.alua"; [ $r -eq 0 ] || tail -20 /tmp/fio.alua
dmsetup status mp | sed 's/^/  #    /'
dmsetup remove --retry mp
dmesg -C
