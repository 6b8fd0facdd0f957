# SPDX-License-Identifier: BSD-3-Clause
# A LUN and then a whole target are deleted under I/O: the client's I/O ends with an error, nothing hangs, what stays works.
[ -n "${T_IQN_LAB:-}" ] || skip "this target cannot change its configuration"
node "$T_IQN_LAB" "$T_LAB1"; setn "$T_IQN_LAB" "$T_LAB1" node.session.timeo.replacement_timeout=3 node.conn[0].timeo.noop_out_interval=1 node.conn[0].timeo.noop_out_timeout=2 node.session.initial_login_retry_max=1
ok "login" login "$T_IQN_LAB" "$T_LAB1"
D0=$(blk "$T_IQN_LAB" 0) D1=$(blk "$T_IQN_LAB" 1)
dd if=/dev/zero of=$D1 bs=4k count=1000000 oflag=direct conv=notrunc >/tmp/dd1 2>&1 & P=$!
sleep 1; ok "I/O runs on LUN 1" kill -0 $P
ok "LUN 1 is deleted" host lab conf no-lun-1
ok "its I/O ends" wait_for 40 "! kill -0 $P"
wait $P; ok "with an error" [ $? -ne 0 ]
ok "LUN 0 works on" dd if=/dev/zero of=$D0 bs=4k count=16 oflag=direct conv=notrunc
ok "LUN 1 is back" host lab conf
ok "and works, after the kernel looked again" wait_for 30 "iscsiadm -m session --rescan >/dev/null; dd if=$D1 of=/dev/null bs=4k count=1 iflag=direct"
dd if=/dev/zero of=$D0 bs=4k count=1000000 oflag=direct conv=notrunc >/tmp/dd0 2>&1 & P=$!
sleep 1; ok "I/O runs on LUN 0" kill -0 $P
ok "the target is deleted" host lab conf no-target
ok "the I/O ends" wait_for 60 "! kill -0 $P"
wait $P; ok "with an error" [ $? -ne 0 ]
ok "no process hangs" eval "! ps axo stat,comm | grep -E '^D.* (dd|fio)'"
ok "the client can let go of the session" wait_for 30 "logout $T_IQN_LAB $T_LAB1 || [ -z \"\$(sessions_of $T_IQN_LAB)\" ]"
ok "the target is back" host lab conf
ok "login again" wait_for 30 "login $T_IQN_LAB $T_LAB1"
dmesg -C
