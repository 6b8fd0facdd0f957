# SPDX-License-Identifier: BSD-3-Clause
node "$T_IQN" "$T_PORTAL1"; setn "$T_IQN" "$T_PORTAL1" node.session.timeo.replacement_timeout=60 node.conn[0].timeo.noop_out_interval=2 node.conn[0].timeo.noop_out_timeout=2
login "$T_IQN" "$T_PORTAL1" >/dev/null; D=$(blk "$T_IQN" "$T_LUN")
fio --name=r --filename=$D --rw=randwrite --bs=4k --size=16m --rate_iops=300 --verify=crc32c --direct=1 --ioengine=libaio --iodepth=16 --output=/tmp/fio.rec & F=$!
sleep 4; ok "target killed with SIGKILL" host kill9; sleep 4
ok "fio is waiting, not dead" kill -0 $F
ok "target started again" host restart
wait $F; r=$?; ok "fio with verify: nothing lost" [ $r -eq 0 ]; [ $r -eq 0 ] || cat /tmp/fio.rec
ok "session is LOGGED IN" eval "grep -q LOGGED_IN \$(sessions_of $T_IQN | head -1)/state"
sed -n 's/^ *\(write:.*\)/  #    \1/p' /tmp/fio.rec
# the other way: no target for longer than replacement_timeout means errors, then a relogin heals it
logout "$T_IQN" "$T_PORTAL1" >/dev/null
setn "$T_IQN" "$T_PORTAL1" node.session.timeo.replacement_timeout=3
login "$T_IQN" "$T_PORTAL1" >/dev/null; D=$(blk "$T_IQN" "$T_LUN"); host kill9
nok "I/O fails once replacement_timeout (3 s) is over" dd if=/dev/zero of=$D bs=4k count=1 oflag=direct conv=notrunc
host restart; dmesg -C
ok "I/O works again after the target returns" wait_for 40 "dd if=$D of=/dev/null bs=4k count=1 iflag=direct"
