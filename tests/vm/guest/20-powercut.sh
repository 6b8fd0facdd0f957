#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# The server runs in the guest on dm-log-writes, which records writes and flushes. A writer marks the log after each
# acknowledged flush and FUA write; then the log is replayed up to every mark, as if the power had gone there, and what
# had been acknowledged must be there. With fdatasync made a no-op the same check must fail.
. /job/lib/glib.sh
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1
B=/job/bin
modprobe -a dm_mod dm_log_writes ext4 2>/dev/null
ip link set lo up
DATA=/dev/vdd LOG=/dev/vde REPLAY=/dev/vdf
n=$(blockdev --getsz $DATA)

lw_up() { dd if=/dev/zero of=$LOG bs=1M count=1 conv=notrunc,fsync 2>/dev/null; dd if=/dev/zero of=$DATA bs=1M conv=notrunc,fsync 2>/dev/null
  dmsetup --noudevsync create lw --table "0 $n log-writes $DATA $LOG" && [ -b /dev/mapper/lw ] || dmsetup mknodes; }
lw_down() { local i; for i in 1 2 3 4 5; do dmsetup --noudevsync remove lw 2>/dev/null && return 0; sleep 0.5; done; return 1; }
server() { # preload, options...
  local pre=$1 i=0; shift; : > /tmp/out
  LD_PRELOAD=$pre $B/lunetted --listen 127.0.0.1:3999 --target iqn.2025-01.test.lunette:disk --state /tmp/state "$@" >/tmp/out 2>/tmp/err </dev/null & P=$!
  until grep -qx ready /tmp/out; do i=$((i+1)); [ $i -gt 300 ] && { cat /tmp/err; return 1; }; sleep 0.1; done; }
stopit() { kill $P; wait $P; }

device() { # loop preload name
  lw_up || return 1
  server "$2" --loop $1 --block /dev/mapper/lw || return 1
  python3 $B/guest/powercut.py write device /tmp/model.$3 || { stopit; lw_down; return 1; }
  # the power goes now: what the server still holds back does not count
  kill -9 $P; wait $P 2>/dev/null; lw_down
  python3 $B/guest/powercut.py check device /tmp/model.$3 $LOG $n; }

file() { # loop preload name
  lw_up || return 1
  mkfs.ext4 -q -F /dev/mapper/lw && mkdir -p /mnt/l && mount -o commit=600 /dev/mapper/lw /mnt/l || return 1
  sync
  server "$2" --loop $1 --file /mnt/l/disk.img,size=16M || return 1
  python3 $B/guest/powercut.py write file /tmp/model.$3 || { stopit; umount /mnt/l; lw_down; return 1; }
  kill -9 $P; wait $P 2>/dev/null
  umount /mnt/l; lw_down
  python3 $B/guest/powercut.py check file /tmp/model.$3 $LOG $n $REPLAY; }

for loop in uring epoll; do
  ok "device: every acknowledged flush survives a power cut, $loop loop" device $loop "" d$loop
  ok "file: every acknowledged flush survives a power cut, $loop loop" file $loop "" f$loop
done
nok "device: without fdatasync the check fails" device epoll $B/nosync.so dno
nok "file: without fdatasync the check fails" file epoll $B/nosync.so fno
finish
