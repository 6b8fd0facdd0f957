#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# adapter: Debian's tgtd on loopback, with its own control sockets (-C N), nothing shared with other instances
#   start stop kill9 restart env ports | hot-add | cmd...
# env: T_DIR, TGT_PORT (first of three ports, default 34260), TGT_C (first of two control numbers, default 426)
set -u
: "${T_DIR:?}"; P1=${TGT_PORT:-34260} P2=$((P1+1)) P3=$((P1+2)) C=${TGT_C:-426} C2=$((${TGT_C:-426}+1))
B=iqn.2024-01.lab.host
a()  { tgtadm -C "$C" --lld iscsi "$@"; }
a2() { tgtadm -C "$C2" --lld iscsi "$@"; }
up() { # number, options...
  local c=$1; shift; tgtd -f -C "$c" "$@" >"$T_DIR/tgtd.$c.log" 2>&1 </dev/null & echo $! > "$T_DIR/pid.$c"; disown
  local n=0; until tgtadm -C "$c" --lld iscsi --mode target --op show >/dev/null 2>&1; do n=$((n+1)); [ $n -gt 50 ] && return 1; sleep 0.1; done; }
conf() {
  a --mode account --op new --user inuser --password insecret12345
  a --mode account --op new --user outuser --password outsecret1234
  local t=0 n
  for n in disk chap mutual cd tape; do t=$((t+1)); a --mode target --op new --tid $t --targetname $B:$n; a --mode target --op bind --tid $t --initiator-address ALL; done
  a --mode target --op update --tid 1 --name HeaderDigest --value CRC32C,None; a --mode target --op update --tid 1 --name DataDigest --value CRC32C,None
  a --mode logicalunit --op new --tid 1 --lun 1 --bstype rdwr --backing-store "$T_DIR/disk1.img"
  a --mode logicalunit --op update --tid 1 --lun 1 --params thin_provisioning=1,vendor_id=LAB,product_id=DISK1
  a --mode logicalunit --op new --tid 1 --lun 2 --bstype rdwr --backing-store "$T_DIR/disk2.img"
  a --mode logicalunit --op new --tid 2 --lun 1 --bstype rdwr --backing-store "$T_DIR/disk3.img"
  a --mode account --op bind --tid 2 --user inuser
  a --mode logicalunit --op new --tid 3 --lun 1 --bstype rdwr --backing-store "$T_DIR/disk4.img"
  a --mode account --op bind --tid 3 --user inuser; a --mode account --op bind --tid 3 --user outuser --outgoing
  a --mode logicalunit --op new --tid 4 --lun 1 --device-type cd --backing-store "$T_DIR/cd.iso"
  [ -f "$T_DIR/tape.img" ] && a --mode logicalunit --op new --tid 5 --lun 1 --device-type tape --bstype ssc --backing-store "$T_DIR/tape.img"
  return 0; }
case ${1:-} in
start) mkdir -p "$T_DIR"; cd "$T_DIR" || exit 1
  truncate -s 512M disk1.img; truncate -s 64M disk2.img disk3.img disk4.img
  mkdir -p iso && { echo "hello from a disc" > iso/hello.txt; head -c 5000000 /dev/urandom > iso/big.bin; (cd iso && sha256sum big.bin > big.sha); genisoimage -quiet -R -J -V LABCD -o cd.iso iso; }
  tgtimg --op new --device-type tape --barcode=T0001 --size=64 --type=data --file=tape.img >/dev/null 2>&1 || rm -f tape.img
  up "$C" --iscsi portal=127.0.0.1:$P1,portal=127.0.0.1:$P2 && conf || exit 1
  up "$C2" --iscsi portal=127.0.0.1:$P3 && { a2 --mode account --op new --user duser --password dsecret123456; a2 --mode account --op bind --user duser
    a2 --mode target --op new --tid 1 --targetname $B:disc; a2 --mode target --op bind --tid 1 --initiator-address ALL; } ;;
stop) for c in $C $C2; do [ -f "$T_DIR/pid.$c" ] && kill -9 "$(cat "$T_DIR/pid.$c")" 2>/dev/null; rm -f "$T_DIR/pid.$c" /var/run/tgtd/socket.$c /var/run/tgtd/socket.$c.lock; done; exit 0;;
kill9) kill -9 "$(cat "$T_DIR/pid.$C")"; rm -f "$T_DIR/pid.$C" /var/run/tgtd/socket.$C /var/run/tgtd/socket.$C.lock;;
restart) up "$C" --iscsi portal=127.0.0.1:$P1,portal=127.0.0.1:$P2 && conf;;
hot-add) truncate -s 32M "$T_DIR/hot.img"; a --mode logicalunit --op new --tid 1 --lun 7 --bstype rdwr --backing-store "$T_DIR/hot.img";;
hot-del) a --mode logicalunit --op delete --tid 1 --lun 7;;
ports) echo $P1 $P2 $P3;;
env) cat <<E
T_NAME=tgt T_PORTAL1=10.0.2.2:$P1 T_PORTAL2=10.0.2.2:$P2 T_ADV=127.0.0.1:$P1
T_IQN=$B:disk T_LUN=1 T_LUN2=2 T_IQN_CHAP=$B:chap T_IQN_MUTUAL=$B:mutual T_IQN_CD=$B:cd T_CD_LUN=1
T_IQN_TAPE=$([ -f "$T_DIR/tape.img" ] && echo $B:tape) T_TAPE_LUN=1
T_USER=inuser T_PASS=insecret12345 T_MUSER=outuser T_MPASS=outsecret1234
T_DISC_PORTAL=10.0.2.2:$P3 T_DUSER=duser T_DPASS=dsecret123456 T_DISC_IQN=$B:disc
E
;;
*) echo "unknown: $*" >&2; exit 3;;
esac
