# SPDX-License-Identifier: BSD-3-Clause
# The tools of sg3_utils and sdparm, one for each command, as an administrator would use them; what must be refused is.
[ -n "${T_IQN_LAB:-}" ] || skip "this target has no disks to spare"
quiet_login "$T_IQN_LAB" "$T_LAB1" 0; D=$(sgdev "$T_IQN_LAB" 0) R=$(sgdev "$T_IQN_LAB" 1)
has() { local want=$1 o; shift; o=$("$@" 2>&1) || { echo "$o"; return 1; }; grep -qiE -- "$want" <<<"$o" || { echo "$o"; return 1; }; }
ok "sg_inq: a disk of ours" has "Vendor identification: LUNETTE" sg_inq $D
ok "sg_inq: version descriptors" has "SBC-[34]" sg_inq -d $D
for p in sv di bl bdc lbpv sn ei mpp sp tpc; do ok "sg_vpd $p" sg_vpd -p $p $D; done
ok "sg_vpd: every page that page 00 names can be read" eval 'for x in $(sg_vpd -p sv -l '$D' | grep -oE "0x[0-9a-f]{2}"); do sg_vpd -p $x '$D' >/dev/null || { echo "page $x"; exit 1; }; done'
ok "sg_vpd: identity" has "NAA|EUI" sg_vpd -p di $D
ok "sg_readcap 16" has "Logical block length=" sg_readcap -l $D
ok "sg_luns" has "5" sg_luns -d $D
ok "sg_opcodes: all commands" has "Extended copy|Compare and write" sg_opcodes $D
ok "sg_opcodes: one command with its mask" sg_opcodes -o 0x28 -m $D
ok "sg_opcodes: task management" sg_opcodes -t $D
ok "sg_turs" sg_turs -n 10 $D
ok "sg_requests" sg_requests $D
ok "sg_modes: all pages" has "Caching" sg_modes -a $D
ok "sdparm: write cache can be turned off, and on again" eval "sdparm --clear=WCE $D && sdparm --get=WCE $D | grep -q 'WCE *0' && sdparm --set=WCE $D"
ok "sg_logs: supported pages" sg_logs $D
ok "sg_logs: all pages" sg_logs -a $D
ok "sg_rtpg: two groups" has "target port group id : 0x2" sg_rtpg $D
ok "sg_persist: capabilities" has "Persist Through Power Loss" sg_persist -c $D
ok "sg_persist: register" sg_persist -o -G -S 0xabc $D
ok "sg_persist: the key is there" has "0xabc" sg_persist -k $D
ok "sg_persist: reserve" sg_persist -o -R -K 0xabc -T 5 $D
ok "sg_persist: read reservation" has "Write Exclusive, registrants only" sg_persist -r $D
ok "sg_persist: full status" has "0xabc" sg_persist -s $D
ok "sg_persist: clear" sg_persist -o -C -K 0xabc $D
ok "sg_sync" sg_sync $D
ok "sg_verify" sg_verify -c 64 -l 0 $D
ok "sg_dd: write, FUA" sg_dd if=/dev/urandom of=$R bs=512 count=64 oflag=fua
ok "sg_dd: read, FUA" sg_dd if=$R of=/tmp/r0 bs=512 count=1 iflag=fua
head -c 512 /dev/urandom > /tmp/r1; cat /tmp/r0 /tmp/r1 > /tmp/caw
ok "sg_compare_and_write: equal is written" sg_compare_and_write -i /tmp/caw -l 0 -n 1 -x 1024 $R
nok "sg_compare_and_write: other is a miscompare" sg_compare_and_write -i /tmp/caw -l 0 -n 1 -x 1024 $R
ok "sg_write_same: zeros" sg_write_same -i /dev/zero -x 512 -l 8 -n 100 $R
ok "sg_write_same: unmap" sg_write_same -S -U -l 8 -n 100 $R
ok "sg_unmap" sg_unmap -l 8 -n 1000 $R
ok "sg_get_lba_status: deallocated" has "deallocated|\[1\]|mapped" sg_get_lba_status -l 8 $R
ok "sg_xcopy: from one disk to another" sg_xcopy if=$R of=$D bs=512 count=4096
# Debian 12's ddpt finds its own count= unequal to its gather list; tests/system/vectors.py copies by tokens
maybe "ddpt: a token of one disk, used on another" timeout 20 ddpt --odx if=$R of=$D bs=512 count=4096
ok "sg_rdac refused" eval "! sg_rdac $D"
ok "sg_ident: set" eval "echo -n lab-disk | sg_ident --set $D"
ok "sg_ident: get" has "lab-disk" sg_ident --ascii $D
ok "sg_timestamp" sg_timestamp $D
head -c 64 /dev/urandom > /tmp/echo
ok "sg_read_buffer: echo descriptor" sg_read_buffer -m 11 $D
ok "sg_write_buffer: echo" sg_write_buffer -m 10 -l 64 -I /tmp/echo $D
ok "sg_senddiag: default self-test" sg_senddiag -t $D
ok "sg_senddiag: pages" sg_senddiag -l $D
nok "sg_get_elem_status: a disk without elements" sg_get_elem_status $D
nok "sg_stream_ctl: a disk without streams" sg_stream_ctl -g $D
ok "sg_start: stop and start" eval "sg_start --stop $R && sg_start --start $R"
ok "sg_format" sg_format --format --early --quick $R
ok "it ends" wait_for 60 "sg_turs $R"
ok "sg_sanitize: block erase" sg_sanitize --block --quick --wait $R
ok "all of it reads as zeros" eval "sg_dd if=$R bs=512 count=4096 of=/tmp/z && cmp -n 2097152 /tmp/z /dev/zero"
ok "sg_reset: LUN" sg_reset -d $R
ok "the disk works after it" wait_for 20 "sg_turs $R"
ok "servers are alive" host alive
