# SPDX-License-Identifier: BSD-3-Clause
# glib.sh - helpers for guest scenario scripts (sourced inside the guest)
# A scenario is a function file run in its own subshell; it calls ok/nok/note/skip.
FAILS=0 OKS=0
ok()   { local d=$1 o r; shift; o=$("$@" 2>&1); r=$?; if [ $r -eq 0 ]; then OKS=$((OKS+1)); echo "  ok   $d"; else FAILS=$((FAILS+1)); echo "  FAIL $d (rc $r)"; printf '%s\n' "$o" | tail -${OKLINES:-4} | sed 's/^/       | /'; fi; return $r; }
nok()  { local d=$1 o r; shift; o=$("$@" 2>&1); r=$?; if [ $r -ne 0 ]; then OKS=$((OKS+1)); echo "  ok   $d (refused, rc $r: $(printf '%s' "$o" | tail -1 | cut -c1-140))"; else FAILS=$((FAILS+1)); echo "  FAIL $d (should have been refused)"; fi; }
# maybe: an optional feature; noted, never fails the scenario
maybe(){ local d=$1 o r; shift; o=$("$@" 2>&1); r=$?; if [ $r -eq 0 ]; then echo "  opt+ $d"; else echo "  opt- $d (rc $r: $(printf '%s' "$o" | tr '\n' ' ' | cut -c1-110))"; fi; return $r; }
note() { echo "  #    $*"; }
skip() { echo "  SKIP $*"; exit 77; }
finish() { [ $FAILS -eq 0 ] && exit 0; exit 1; }

# wait_for SECONDS cmd... : poll every 0.1 s
wait_for() { local n=$(( $1 * 10 )); shift; while ! eval "$*" >/dev/null 2>&1; do n=$((n-1)); [ $n -le 0 ] && return 1; sleep 0.1; done; }

start_iscsid() { [ -n "$(pidof iscsid)" ] && return 0; modprobe -a iscsi_tcp sd_mod sg crc32c_generic 2>/dev/null; mkdir -p /run/lock/iscsi /etc/iscsi
  sed -i 's/^node.startup = .*/node.startup = manual/; s/^node.session.initial_login_retry_max = .*/node.session.initial_login_retry_max = 2/; s/^node.conn\[0\].timeo.login_timeout = .*/node.conn[0].timeo.login_timeout = 8/; s/^#* *discovery.sendtargets.iscsi.*retries.*//' /etc/iscsi/iscsid.conf
  iscsid; wait_for 10 'iscsiadm -m session; [ $? -eq 21 -o $? -eq 0 ]'; }
adm() { iscsiadm "$@"; }
# a node record without discovery: node IQN PORTAL
node() { adm -m node -o new -T "$1" -p "$2" >/dev/null; }
setn() { local i=$1 p=$2; shift 2; local kv; for kv in "$@"; do adm -m node -T "$i" -p "$p" -o update -n "${kv%%=*}" -v "${kv#*=}" || return 1; done; }
login() { adm -m node -T "$1" -p "$2" --login; }
logout() { adm -m node -T "$1" -p "$2" --logout; }
reset_all() { adm -m node --logoutall=all >/dev/null 2>&1; rm -rf /etc/iscsi/nodes/* /etc/iscsi/send_targets/* /var/lib/iscsi/nodes/* /var/lib/iscsi/send_targets/* 2>/dev/null
  mkdir -p /etc/iscsi/nodes /etc/iscsi/send_targets; return 0; }
# sysfs look-ups: sessions_of IQN ; hctl IQN LUN [n-th session]; blk/sgdev/tapedev IQN LUN [n]
sessions_of() { local s; for s in /sys/class/iscsi_session/session*; do [ "$(cat $s/targetname 2>/dev/null)" = "$1" ] && echo "$s"; done | sort -V; }
hctl() { local s; s=$(sessions_of "$1" | sed -n "${3:-1}p"); [ -n "$s" ] || return 1; ls -d $s/device/target*/*:*:*:"$2" 2>/dev/null | head -1; }
blk()  { local h n=0; while :; do h=$(hctl "$@") && [ -n "$h" ] && h=$(ls "$h/block" 2>/dev/null | head -1) && [ -n "$h" ] && [ -b /dev/$h ] && { echo /dev/$h; return 0; }; n=$((n+1)); [ $n -gt 100 ] && return 1; sleep 0.1; done; }
sgdev(){ local h n=0; while :; do h=$(hctl "$@") && [ -n "$h" ] && h=$(ls "$h/scsi_generic" 2>/dev/null | head -1) && [ -n "$h" ] && [ -c /dev/$h ] && { echo /dev/$h; return 0; }; n=$((n+1)); [ $n -gt 100 ] && return 1; sleep 0.1; done; }
quiet_login() { node "$1" "$2" && login "$1" "$2" >/dev/null && blk "$1" "${3:-$T_LUN}" >/dev/null; }
portnum() { echo "${1##*:}"; }
