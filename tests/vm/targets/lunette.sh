#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# adapter: lunetted on loopback, one server for each kind of authentication, nothing shared with other instances
#   start stop kill9 restart cut env ports alive lab WORD...
# env: T_DIR work folder, T_PORT first of seven ports, LUNETTED the program, T_LOOP auto|uring|epoll
set -u
: "${T_DIR:?}" "${LUNETTED:?}"
P1=${T_PORT:-24260} P2=$((P1 + 1)) P3=$((P1 + 2)) P4=$((P1 + 3)) P5=$((P1 + 4)) P6=$((P1 + 5)) P7=$((P1 + 6))
B=iqn.2025-01.test.lunette
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

up() { # name, options...: starts one server and waits for its "ready"
	local n=$1 i=0
	shift
	: >"$T_DIR/$n.out"
	"$LUNETTED" --loop "${T_LOOP:-auto}" --state "$T_DIR/state.$n" "$@" >"$T_DIR/$n.out" 2>>"$T_DIR/$n.log" </dev/null &
	echo $! >"$T_DIR/pid.$n"
	disown
	until grep -qx ready "$T_DIR/$n.out"; do
		i=$((i + 1))
		[ $i -gt 100 ] && { tail -3 "$T_DIR/$n.log" >&2; return 1; }
		sleep 0.1
	done
}
up_disk() {
	up disk --listen 127.0.0.1:$P1 --listen 127.0.0.1:$P2 --target $B:disk \
		--file "$T_DIR/disk0.img,size=640M" --file "$T_DIR/disk1.img,size=64M"
}
# The server "lab": one target by two portal groups, changed while it is in use. LUNs: 0 file, 1 RAM, 2 a disk that hangs,
# 3 file, 4 another RAM disk. Without a word: as at the start; else the words leave out LUNs, the target, or grow a disk.
lab_conf() {
	local luns="0: file, 1: ram, 2: slow, 3: file2, 4: ram2" size=96M target=1 w
	for w in "$@"; do
		case $w in
		no-lun-1) luns=${luns/, 1: ram,/,} ;;
		no-target) target= ;;
		bigger) size=160M ;;
		esac
	done
	echo "portals: [{listen: '127.0.0.1:$P6', group: 1}, {listen: '127.0.0.1:$P7', group: 2}]"
	echo "volumes:"
	echo "  file: {type: file, path: $T_DIR/lab0.img, size: $size}"
	echo "  ram: {type: ram, size: 64M}"
	echo "  ram2: {type: ram, size: 64M}"
	echo "  slow: {type: ram, size: 64M, wce: off, filters: [{type: delay, time: 40s}]}"
	echo "  file2: {type: file, path: $T_DIR/lab3.img, size: 64M}"
	[ -n "$target" ] && echo "targets: {$B:lab: {luns: {$luns}}}" || echo "targets: {$B:other: {luns: {0: ram2}}}"
}
case ${1:-} in
start)
	mkdir -p "$T_DIR" && cd "$T_DIR" || exit 1
	up_disk || exit 1
	cat >chap.yaml <<-E
		portals: ["127.0.0.1:$P3"]
		users: {inuser: insecret12345}
		discovery: {users: [inuser]}
		volumes: {ram: {type: ram, size: 64M}}
		targets:
		  $B:chap: {users: [inuser], luns: {0: ram}}
	E
	up chap --config chap.yaml || exit 1
	up mutual --listen 127.0.0.1:$P4 --target $B:mutual --chap inuser:insecret12345 \
		--mutual outuser:outsecret1234 --ram 64M || exit 1
	lab_conf >lab.yaml
	up lab --config lab.yaml --socket "$T_DIR/lab.sock" || exit 1
	python3 "$here/../../lib/proxy.py" $P5 127.0.0.1 $P1 0 >"$T_DIR/proxy.out" 2>&1 </dev/null &
	echo $! >"$T_DIR/pid.proxy"
	disown
	;;
stop)
	rc=0
	for n in disk chap mutual lab proxy; do
		[ -f "$T_DIR/pid.$n" ] || continue
		p=$(cat "$T_DIR/pid.$n")
		kill "$p" 2>/dev/null || { [ $n = proxy ] || { echo "server $n was gone: $(tail -1 "$T_DIR/$n.log")"; rc=1; }; }
		i=0
		while kill -0 "$p" 2>/dev/null && [ $i -lt 80 ]; do sleep 0.1; i=$((i + 1)); done
		kill -9 "$p" 2>/dev/null && [ $n != proxy ] && { echo "server $n did not drain in 8 s"; rc=1; }
		rm -f "$T_DIR/pid.$n"
	done
	exit $rc
	;;
kill9)
	p=$(cat "$T_DIR/pid.disk")
	kill -9 "$p"
	while kill -0 "$p" 2>/dev/null; do sleep 0.02; done
	;;
restart) up_disk ;;
cut) kill -USR1 "$(cat "$T_DIR/pid.proxy")" ;;
alive) for n in disk chap mutual lab; do kill -0 "$(cat "$T_DIR/pid.$n")" || exit 1; done ;;
lab) # conf WORD...: applies that configuration; else arguments of lunette(1), asked of that server
	shift
	if [ "${1:-}" = conf ]; then
		shift
		n=$(grep -c "configuration applied" "$T_DIR/lab.log")
		lab_conf "$@" >"$T_DIR/lab.yaml"
		kill -HUP "$(cat "$T_DIR/pid.lab")"
		i=0
		until [ "$(grep -c "configuration applied" "$T_DIR/lab.log")" -gt "$n" ]; do
			i=$((i + 1))
			[ $i -gt 100 ] && { tail -2 "$T_DIR/lab.log"; exit 1; }
			sleep 0.1
		done
	elif [ "${1:-}" = used ]; then # KiB that a file occupies
		du -k "$T_DIR/$2" | cut -f1
	else
		"$(dirname "$LUNETTED")/../lunette/lunette" -S "$T_DIR/lab.sock" "$@"
	fi
	;;
ports) echo $P1 $P2 $P3 $P4 $P5 $P6 $P7 ;;
env)
	cat <<-E
		T_NAME=lunette T_PORTAL1=10.0.2.2:$P1 T_PORTAL2=10.0.2.2:$P2 T_ADV1=127.0.0.1:$P1 T_ADV2=127.0.0.1:$P2
		T_PORTAL_CUT=10.0.2.2:$P5 T_PORTAL_CHAP=10.0.2.2:$P3 T_PORTAL_MUTUAL=10.0.2.2:$P4
		T_IQN=$B:disk T_LUN=0 T_LUN2=1 T_IQN_CHAP=$B:chap T_IQN_MUTUAL=$B:mutual
		T_LAB1=10.0.2.2:$P6 T_LAB2=10.0.2.2:$P7 T_IQN_LAB=$B:lab
		T_USER=inuser T_PASS=insecret12345 T_MUSER=outuser T_MPASS=outsecret1234
	E
	;;
*)
	echo "unknown: $*" >&2
	exit 3
	;;
esac
