# SPDX-License-Identifier: BSD-3-Clause
# Connections are cut again and again under fio with verify: the kernel logs in again, nothing is lost.
[ -n "${T_PORTAL_CUT:-}" ] || skip "this target has no portal that can be cut"
node "$T_IQN" "$T_PORTAL_CUT"; setn "$T_IQN" "$T_PORTAL_CUT" node.session.timeo.replacement_timeout=60 node.conn[0].timeo.noop_out_interval=2 node.conn[0].timeo.noop_out_timeout=2
ok "login by the portal that can be cut" login "$T_IQN" "$T_PORTAL_CUT"; D=$(blk "$T_IQN" "$T_LUN")
fio --name=c --filename=$D --rw=randwrite --bs=4k --size=16m --rate_iops=250 --verify=crc32c --direct=1 --ioengine=libaio --iodepth=16 --output=/tmp/fio.cut & F=$!
n=0; while kill -0 $F 2>/dev/null && [ $n -lt 8 ]; do sleep 2; host cut; n=$((n+1)); done
note "$n cuts"
wait $F; r=$?; ok "fio with verify: nothing lost" [ $r -eq 0 ]; [ $r -eq 0 ] || tail -20 /tmp/fio.cut
ok "it was cut at least 3 times" [ $n -ge 3 ]
ok "session is LOGGED IN" wait_for 20 "grep -q LOGGED_IN \$(sessions_of $T_IQN | head -1)/state"
ok "servers are alive" host alive
