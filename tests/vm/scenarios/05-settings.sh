# SPDX-License-Identifier: BSD-3-Clause
# The settings that how-tos give people: 1024 commands, queue depth 128, four sessions; fio in all of it.
node "$T_IQN" "$T_PORTAL1"
ok "the settings are taken" setn "$T_IQN" "$T_PORTAL1" node.session.cmds_max=1024 node.session.queue_depth=128 node.session.nr_sessions=4 \
  node.session.timeo.replacement_timeout=120 node.conn[0].timeo.noop_out_interval=5 node.conn[0].timeo.noop_out_timeout=5 \
  node.session.iscsi.InitialR2T=No node.session.iscsi.ImmediateData=Yes node.session.iscsi.FirstBurstLength=262144 \
  node.session.iscsi.MaxBurstLength=16776192 node.conn[0].iscsi.MaxRecvDataSegmentLength=262144 node.session.err_timeo.abort_timeout=15
ok "login" login "$T_IQN" "$T_PORTAL1"
ok "four sessions" wait_for 10 "[ \$(sessions_of $T_IQN | wc -l) = 4 ]"
for n in 1 2 3 4; do blk "$T_IQN" "$T_LUN" $n >/dev/null; done
D=$(blk "$T_IQN" "$T_LUN" 1)
note "queue depth $(cat /sys/block/${D#/dev/}/device/queue_depth)"
i=0; jobs=; for n in 1 2 3 4; do jobs="$jobs --name=j$n --filename=$(blk "$T_IQN" "$T_LUN" $n) --offset=$((i*16))m"; i=$((i+1)); done
ok "fio verify by all four sessions at depth 128" fio --rw=randwrite --bs=4k --size=6m --verify=crc32c --direct=1 --ioengine=libaio --iodepth=128 $jobs
ok "large requests: 1 MiB at depth 16" fio --name=l --filename=$D --rw=write --bs=1m --size=32m --verify=crc32c --direct=1 --ioengine=libaio --iodepth=16
ok "no session was dropped" [ "$(cat $(sessions_of "$T_IQN" | sed 's/$/\/state/') | grep -c LOGGED_IN)" = 4 ]
ok "logout" logout "$T_IQN" "$T_PORTAL1"
