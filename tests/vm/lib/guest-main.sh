#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# runs in the guest: every scenario named in the arguments, in order, one verdict line each
. /job/lib/glib.sh; . /job/tenv/env
start_iscsid
# fail fast when the guest cannot even reach the target
node "$T_IQN" "$T_PORTAL1"; timeout 30 iscsiadm -m node -T "$T_IQN" -p "$T_PORTAL1" --login >/tmp/pre 2>&1 || { cat /tmp/pre; echo "RESULT FAIL preflight-login 0"; exit 1; }
reset_all
rc=0
for s in "$@"; do
  f=/job/scenarios/$s.sh; [ -f "$f" ] || { echo "RESULT MISSING $s 0.0"; rc=1; continue; }
  echo "== $s"; a=$(cut -d' ' -f1 /proc/uptime); dmesg -C
  # shellcheck disable=SC1090
  ( . /job/lib/glib.sh; . /job/tenv/env; reset_all; . "$f"; finish ); r=$?
  b=$(cut -d' ' -f1 /proc/uptime)
  iptables -F 2>/dev/null
  bad=$(dmesg | grep -E 'I/O error|Buffer I/O|WARNING:|BUG:|EXT4-fs error|XFS.*(error|corrupt)|blocked for more' | head -3)
  [ -n "$bad" ] && echo "$bad" | sed 's/^/  dmesg| /'
  case $r in 0) v=PASS;; 77) v=SKIP;; *) v=FAIL; rc=1; dmesg | tail -5 | sed 's/^/  dmesg| /';; esac
  reset_all
  awk -v v=$v -v s="$s" -v a="$a" -v b="$b" 'BEGIN{printf "RESULT %s %s %.1f\n", v, s, b-a}'
done
exit $rc
