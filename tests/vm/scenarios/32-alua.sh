# SPDX-License-Identifier: BSD-3-Clause
# dm-multipath with ALUA through two portal groups, set up by multipathd with the entry that we ship: it groups by
# priority, and follows when the administrator changes the state of a group, under fio with verify.
[ -n "${T_IQN_LAB:-}" ] || skip "this target has one portal group"
modprobe -a dm_multipath dm_service_time scsi_dh_alua 2>/dev/null
cp /job/multipath/lunette.conf /etc/multipath.conf
for p in "$T_LAB1" "$T_LAB2"; do node "$T_IQN_LAB" "$p"; setn "$T_IQN_LAB" "$p" node.session.timeo.replacement_timeout=5; login "$T_IQN_LAB" "$p" >/dev/null; done
A=$(blk "$T_IQN_LAB" 0 1) B=$(blk "$T_IQN_LAB" 0 2)
ok "two paths" [ -b "$A" -a -b "$B" ]
ok "the kernel knows the groups" eval "cat /sys/block/${A#/dev/}/device/access_state && cat /sys/block/${B#/dev/}/device/access_state"
multipathd >/tmp/mpd 2>&1; wait_for 10 "multipathd show daemon"
w=$(/lib/udev/scsi_id -g -u -d $A)
ok "multipath map" wait_for 20 "multipathd add path ${A#/dev/} >/dev/null; multipathd add path ${B#/dev/} >/dev/null; dmsetup ls --target multipath | grep -q ."
M=/dev/mapper/$(dmsetup ls --target multipath | while read -r n _; do dmsetup info -c --noheadings -o uuid "$n" | grep -q "$w" && echo "$n"; done | head -1)
ok "multipath -ll shows alua" eval "multipath -ll | tee /tmp/ll | grep -q 'hwhandler=.1 alua'"; sed 's/^/  #    /' /tmp/ll | head -8
prio() { multipath -ll $(basename $M) | grep -c "prio=$1 "; }
ok "both paths optimized: one group of priority 50" [ "$(prio 50)" = 1 ]
fio --name=a --filename=$M --rw=randwrite --bs=4k --size=16m --rate_iops=150 --time_based --runtime=45 --verify=crc32c --verify_backlog=256 --direct=1 --ioengine=libaio --iodepth=8 --output=/tmp/fio.alua & F=$!
sleep 3
ok "the administrator makes group 1 non-optimized" host lab paths set file 1 non-optimized
ok "multipath follows: two priorities" wait_for 30 "[ \$(prio 50) = 1 ] && [ \$(prio 10) = 1 ]"
ok "group 1 is taken out" host lab paths set file 1 unavailable
ok "I/O goes on by group 2" wait_for 20 "multipath -ll | grep -q 'active ready\|active undef'"
sleep 5
ok "group 1 is back" host lab paths set file 1 optimized
ok "group 2 is taken out" host lab paths set file 2 standby
sleep 5
ok "and back" host lab paths set file 2 optimized
wait $F; r=$?
ok "fio with verify over all of it" eval "[ $r -eq 0 ] && grep -q 'err= 0' /tmp/fio.alua"; [ $r -eq 0 ] || tail -20 /tmp/fio.alua
multipath -ll | sed 's/^/  #    /' | head -8
multipath -F; multipathd shutdown >/dev/null 2>&1; rm -f /etc/multipath.conf; sleep 1
