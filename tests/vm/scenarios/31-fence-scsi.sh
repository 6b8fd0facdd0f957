# SPDX-License-Identifier: BSD-3-Clause
# Two nodes of a cluster fence each other by fence_scsi (Debian's fence-agents): two initiators, one disk. A fenced node
# cannot write; it can again after it was let in; the devices stay reserved over a SIGKILL of the server.
[ -x /usr/sbin/fence_scsi ] || skip "fence_scsi is not in the guest"
for n in 1 2; do
  adm -m iface -I node$n -o new >/dev/null
  adm -m iface -I node$n -o update -n iface.initiatorname -v iqn.2026-11.com.example:node$n >/dev/null
  adm -m node -o new -T "$T_IQN" -p "$T_PORTAL1" -I node$n >/dev/null
  for kv in node.session.timeo.replacement_timeout=60 node.conn[0].timeo.noop_out_interval=2 node.conn[0].timeo.noop_out_timeout=2; do
    adm -m node -T "$T_IQN" -p "$T_PORTAL1" -I node$n -o update -n "${kv%%=*}" -v "${kv#*=}" || note "$kv is not taken"
  done
  ok "node $n logs in" adm -m node -T "$T_IQN" -p "$T_PORTAL1" -I node$n --login
done
ok "two sessions" wait_for 10 "[ \$(sessions_of $T_IQN | wc -l) = 2 ]"
A=$(blk "$T_IQN" "$T_LUN" 1) B=$(blk "$T_IQN" "$T_LUN" 2)
mkdir -p /var/run/cluster
fence() { local node=$1 dev=$2; shift 2; rm -f /var/run/cluster/fence_scsi.*; echo $dev > /var/run/cluster/fence_scsi.dev; fence_scsi -n "$node" -d "$dev" --plug="$node" --logfile=/tmp/fence.log "$@"; }
on()  { fence "$1" "$2" -k "$3" --aptpl -o on; } # APTPL: kept over the loss of power
wr()  { dd if=/dev/zero of=$1 bs=4k count=1 oflag=direct conv=notrunc 2>&1; }
ok "node 1 joins" on n1 $A 11
ok "node 2 joins" on n2 $B 22
ok "monitor" fence n1 $A -k 11 -o monitor
ok "status of node 1: on" fence n1 $A -k 11 -o status
ok "both write" eval "wr $A && wr $B"
ok "two keys" eval "[ \$(sg_persist -k $A | grep -c '^ *0x') = 2 ]"
# node 1 takes node 2 out: PREEMPT AND ABORT of its key, through node 1's path
ok "node 1 fences node 2" eval "sg_persist -o -A -K 0x11 -S 0x22 -T 5 $A"
nok "node 2 cannot write" wr $B
ok "node 1 writes on" wr $A
ok "node 2 can still read" dd if=$B of=/dev/null bs=4k count=1 iflag=direct
nok "status of node 2: off" fence n2 $B -k 22 -o status
host kill9; host restart
ok "both sessions return" wait_for 60 "[ \$(cat \$(sessions_of $T_IQN | sed 's/\$/\/state/') | grep -c LOGGED_IN) = 2 ]"
ok "node 1 writes after the server was killed" wait_for 30 "wr $A"
nok "node 2 still cannot" wr $B
ok "node 2 joins again" wait_for 20 "on n2 $B 22"
ok "and writes" wr $B
tail -3 /tmp/fence.log 2>/dev/null | sed 's/^/  #    /'
ok "the administrator clears the reservation" sg_persist -o -C -K 0x11 $A
for n in 1 2; do adm -m node -T "$T_IQN" -p "$T_PORTAL1" -I node$n --logout >/dev/null 2>&1; done
rm -rf /etc/iscsi/nodes/* ; for n in 1 2; do adm -m iface -I node$n -o delete >/dev/null; done
dmesg -C
