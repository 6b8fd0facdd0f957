# SPDX-License-Identifier: BSD-3-Clause
# Fifty cut connections under one fio with verify: the kernel logs in again each time, no command fails, no byte is lost.
[ -n "${T_PORTAL_CUT:-}" ] || skip "this target has no portal that can be cut"
node "$T_IQN" "$T_PORTAL_CUT"; setn "$T_IQN" "$T_PORTAL_CUT" node.session.timeo.replacement_timeout=120 node.conn[0].timeo.noop_out_interval=2 node.conn[0].timeo.noop_out_timeout=2
ok "login by the portal that can be cut" login "$T_IQN" "$T_PORTAL_CUT"; D=$(blk "$T_IQN" "$T_LUN")
fio --name=c --filename=$D --rw=randwrite --bs=4k --size=24m --time_based --runtime=600 --rate_iops=100 --verify=crc32c --verify_backlog=512 --direct=1 --ioengine=libaio --iodepth=16 --output=/tmp/fio.cut & F=$!
n=0
while kill -0 $F 2>/dev/null && [ $n -lt 50 ]; do
  host cut; n=$((n+1)); sleep 0.3
  wait_for 30 "grep -q LOGGED_IN \$(sessions_of $T_IQN | head -1)/state" || break
  sleep 0.3
done
kill -INT $F 2>/dev/null
wait $F; r=$?
ok "fifty cuts, fio runs through all of them" [ $n -eq 50 ]
ok "fio with verify: no error" eval "grep -q 'err= 0' /tmp/fio.cut && ! grep -q 'verify:.*bad' /tmp/fio.cut"; grep -q 'err= 0' /tmp/fio.cut || tail -20 /tmp/fio.cut
ok "servers are alive" host alive
