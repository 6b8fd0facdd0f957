#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# vm.sh - a throw-away Linux guest under QEMU/TCG for testing iSCSI targets with real
# kernel initiators.  Made only of Debian packages.
#
#   vm.sh build [--force]              build (or reuse) the cached kernel + root image
#   vm.sh run [opts] SCRIPT [args...]  boot, run SCRIPT in the guest, return its exit status
#   vm.sh info                         show what is cached
#
# run options
#   -m MIB        guest memory (default 768)          -c N       vCPUs (default 1; 2 = MTTCG)
#   -t SEC        time limit (default 300; exit 124)  -e K=V     export K=V to SCRIPT (repeatable)
#   -d DIR        copy DIR into the guest as /job/DIRNAME (repeatable)
#   -o DIR        what SCRIPT leaves under $OUT in the guest is unpacked here
#   -f HP:GP      forward host 127.0.0.1:HP to guest port GP (repeatable)
#   -D FILE       further raw disk for the guest (virtio-blk, writable; repeatable)
#   -k CMD        host hook: guest's `host A B C` runs `CMD A B C` here and gets its output+status
#   -K FILE       keep kernel console log there       -q         no boot-time line
#   -a STR        append to the kernel command line   -x ARG     extra qemu argument (repeatable)
#   env VM_PORTS: ports that the guest reaches as 127.0.0.1:PORT too (DNAT to the host's loopback)
#
# exit status: SCRIPT's own; 124 time limit; 125 guest did not boot / died; 126 usage/build error
#
# env: VM_CACHE (default ${TMPDIR:-/tmp}/lunette-vm), VM_ACCEL (default tcg), VM_KERNEL_PKG, VM_PORTS
set -u -o pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${VM_CACHE:-${TMPDIR:-/tmp}/lunette-vm}
ACCEL=${VM_ACCEL:-tcg}
META=${VM_KERNEL_PKG:-linux-image-amd64}

PKGS="bash coreutils util-linux mount busybox-static e2fsprogs xfsprogs kmod udev open-iscsi
 multipath-tools dmsetup sg3-utils lsscsi fio iproute2 iptables procps psmisc python3-minimal python3
 parted strace diffutils grep sed mawk findutils tar gzip hostname file
 ddpt sdparm python3-pexpect python3-pycurl
 liburing2 libisal2 libjansson4 libyaml-0-2 libmicrohttpd12 libssl3"

# of these only the named files, without what they depend on (fence_scsi needs none of the clouds' libraries)
PARTS="fence-agents:./usr/sbin/fence_scsi,./usr/share/fence"

die() { echo "vm.sh: $*" >&2; exit 126; }

# modules whose trees are dropped from the image (never needed here)
PRUNE="drivers/gpu drivers/media drivers/net/wireless drivers/net/ethernet sound drivers/infiniband
 drivers/iio drivers/hwmon drivers/usb drivers/staging drivers/input drivers/bluetooth
 drivers/isdn net/bluetooth net/wireless net/mac80211 drivers/video drivers/leds drivers/platform
 drivers/firewire drivers/comedi drivers/mfd drivers/mtd drivers/ata drivers/edac drivers/power
 drivers/net/usb drivers/net/can drivers/net/phy drivers/accel drivers/i2c drivers/thunderbolt drivers/hid
 net/batman-adv net/ceph fs/ocfs2 fs/gfs2 fs/nfs fs/nfsd fs/cifs fs/smb fs/ceph fs/dlm fs/jfs fs/reiserfs"

build() {
  local force=${1:-}
  mkdir -p "$CACHE/debs/partial" "$CACHE/apt/none/partial" || die "cannot write $CACHE"
  local stamp; stamp=$( { echo "$META $PKGS $PARTS $PRUNE"; cat "$HERE/lib/init.initramfs" "$HERE/lib/vminit"; } | sha256sum | cut -c1-16)
  [ -z "$force" ] && [ -f "$CACHE/stamp" ] && [ "$(cat "$CACHE/stamp")" = "$stamp" ] \
     && [ -f "$CACHE/root.img" ] && [ -f "$CACHE/vmlinux" ] && [ -f "$CACHE/initrd.img" ] && return 0
  exec 9>"$CACHE/lock"; flock 9
  [ -z "$force" ] && [ -f "$CACHE/stamp" ] && [ "$(cat "$CACHE/stamp")" = "$stamp" ] && { exec 9>&-; return 0; }
  local t0=$SECONDS kpkg
  kpkg=$(apt-cache depends "$META" 2>/dev/null | awk '/Depends: linux-image-/{print $2; exit}')
  [ -n "$kpkg" ] || kpkg=$META
  : > "$CACHE/apt/status"                 # empty dpkg status: apt resolves the whole closure
  # shellcheck disable=SC2086
  apt-get -o Dir::State::status="$CACHE/apt/status" -o Dir::Cache::archives="$CACHE/apt/none" \
     -o Debug::NoLocking=1 -o APT::Install-Recommends=false -o APT::Sandbox::User=root \
     -y --download-only --print-uris install $kpkg $PKGS 2>"$CACHE/apt/err" | sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p" > "$CACHE/apt/list"
  [ -s "$CACHE/apt/list" ] || { cat "$CACHE/apt/err" >&2; die "apt could not resolve the package set"; }
  # shellcheck disable=SC2086
  apt-get -o Dir::State::status="$CACHE/apt/status" -o Dir::Cache::archives="$CACHE/debs" \
     -o Debug::NoLocking=1 -o APT::Install-Recommends=false -o APT::Sandbox::User=root \
     -y -q --download-only install $kpkg $PKGS >"$CACHE/apt/log" 2>&1 || { tail -5 "$CACHE/apt/log" >&2; die "download failed"; }
  echo "vm.sh: $(wc -l <"$CACHE/apt/list") packages at hand after $((SECONDS-t0)) s" >&2

  local R=$CACHE/root; rm -rf "$R"; mkdir -p "$R"
  mkdir -p "$R"/usr/{bin,sbin,lib,lib64}
  ln -s usr/bin "$R/bin"; ln -s usr/sbin "$R/sbin"; ln -s usr/lib "$R/lib"; ln -s usr/lib64 "$R/lib64"
  local d
  while read -r d; do
     dpkg-deb --fsys-tarfile "$CACHE/debs/$d" | tar -x -C "$R" --keep-directory-symlink \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
        --exclude='./usr/share/info/*' --exclude='./usr/lib/debug/*' --exclude='./usr/share/perl/*' || die "unpack $d"
  done < "$CACHE/apt/list"
  local part files
  for part in $PARTS; do
     IFS=, read -r -a files <<<"${part#*:}"
     (cd "$CACHE/debs" && apt-get -q download "${part%%:*}" >>"$CACHE/apt/log" 2>&1) || die "download ${part%%:*}"
     dpkg-deb --fsys-tarfile "$(ls -t "$CACHE/debs/${part%%:*}"_*.deb | head -1)" | tar -x -C "$R" --keep-directory-symlink "${files[@]}" ||
        die "unpack ${part%%:*}"
  done
  local kv; kv=$(ls "$R/lib/modules"); echo "$kv" > "$CACHE/kver"
  local m; for m in $PRUNE; do rm -rf "$R/lib/modules/$kv/kernel/$m"; done
  extract_vmlinux "$R/boot/vmlinuz-$kv" "$CACHE/vmlinux" || cp "$R/boot/vmlinuz-$kv" "$CACHE/vmlinux"
  rm -rf "$R/boot"; 
  # the guest's own kmod, run through the guest's own loader (the host may have none)
  guestbin() { "$R/lib64/ld-linux-x86-64.so.2" --library-path "$R/usr/lib/x86_64-linux-gnu" --argv0 "$1" "$R/usr/bin/kmod" "${@:2}"; }
  guestbin depmod -b "$R" "$kv" || die depmod
  # what maintainer scripts would have done
  ln -sf mawk "$R/usr/bin/awk"; true
  local x; for x in iptables ip6tables; do ln -sf $x-legacy "$R/usr/sbin/$x"; done
  for x in sh; do [ -e "$R/bin/$x" ] || ln -s bash "$R/bin/sh"; done
  [ -e "$R/usr/bin/python3" ] || ln -s python3.11 "$R/usr/bin/python3"
  ln -sf busybox "$R/bin/bb"
  for x in ping nc less vi ifconfig xxd; do [ -e "$R/bin/$x" ] || ln -s busybox "$R/bin/$x"; done
  printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n' > "$R/etc/passwd"
  printf 'root:x:0:\ndisk:x:6:\ncdrom:x:24:\ntape:x:26:\ntty:x:5:\nkvm:x:101:\nkmem:x:15:\ninput:x:102:\nvideo:x:44:\naudio:x:29:\nlp:x:7:\ndialout:x:20:\nsgx:x:103:\nrender:x:104:\nnogroup:x:65534:\n' > "$R/etc/group"
  printf '127.0.0.1 localhost guest\n10.0.2.2 host\n' > "$R/etc/hosts"; echo guest > "$R/etc/hostname"
  printf 'passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n' > "$R/etc/nsswitch.conf"
  echo 0123456789abcdef0123456789abcdef > "$R/etc/machine-id"
  mkdir -p "$R"/{proc,sys,dev,run,tmp,mnt,job,root,var/lib/iscsi,var/lock,var/log,etc/iscsi} "$R/run/lock"
  rm -rf "$R/var/lock" "$R/var/run"; ln -s /run/lock "$R/var/lock"; ln -s /run "$R/var/run"
  ln -sf /proc/self/mounts "$R/etc/mtab"
  # iqn for the guest; open-iscsi's own defaults are kept except "manual" start-up
  echo "InitiatorName=iqn.2024-01.lab.guest:init1" > "$R/etc/iscsi/initiatorname.iscsi"
  install -m755 "$HERE/lib/vminit" "$R/sbin/vminit"
  ldconfig -r "$R" 2>/dev/null
  # no inotify watch on disks: each close after a write would start a round of udev work
  sed -i 's/, *OPTIONS+="watch"//; s/OPTIONS+="watch"//' "$R/usr/lib/udev/rules.d/"60-block.rules
  # small initramfs: busybox + what is needed to mount a virtio ext4 root
  local I=$CACHE/ird; rm -rf "$I"; mkdir -p "$I"/{bin,m,proc,sys,dev,new}
  cp "$R/bin/busybox" "$I/bin/busybox"; ln -s busybox "$I/bin/sh"
  install -m755 "$HERE/lib/init.initramfs" "$I/init"
  : > "$I/m/order"
  for m in virtio_pci virtio_blk ext4 crc32c_intel crc32c_generic; do
     guestbin modprobe -d "$R" -S "$kv" --show-depends $m 2>/dev/null | awk '$1=="insmod"{print $2}'
  done | awk '!s[$0]++' | while read -r m; do cp "$m" "$I/m/"; basename "$m" >> "$I/m/order"; done
  ( cd "$I" && find . | cpio -o -H newc --quiet ) > "$CACHE/initrd.img.new" && mv "$CACHE/initrd.img.new" "$CACHE/initrd.img"
  local mb; mb=$(du -sm --apparent-size "$R" | cut -f1)
  rm -f "$CACHE/root.img.new"
  mke2fs -q -t ext4 -O ^has_journal,^metadata_csum,^resize_inode -E lazy_itable_init=0,root_owner=0:0 -m 0 -L vmroot -d "$R" "$CACHE/root.img.new" $((mb + mb/4 + 256))M || die mke2fs
  mv "$CACHE/root.img.new" "$CACHE/root.img"
  echo "$stamp" > "$CACHE/stamp"; exec 9>&-
  echo "vm.sh: guest built in $((SECONDS-t0)) s: kernel $kv, root $mb MiB" >&2
}

extract_vmlinux() { # bzImage -> ELF, so that QEMU boots it by PVH with no decompression in the guest
  local off
  for off in $(LC_ALL=C grep -abo $'\xFD7zXZ\x00' "$1" 2>/dev/null | cut -d: -f1) ; do
     tail -c +$((off+1)) "$1" | xz -dc 2>/dev/null > "$2.tmp"
     [ "$(head -c4 "$2.tmp" | tail -c3)" = ELF ] && { mv "$2.tmp" "$2"; return 0; }
  done
  for off in $(LC_ALL=C grep -abo -P '\x28\xB5\x2F\xFD' "$1" 2>/dev/null | cut -d: -f1); do
     tail -c +$((off+1)) "$1" | zstd -dc 2>/dev/null > "$2.tmp"
     [ "$(head -c4 "$2.tmp" | tail -c3)" = ELF ] && { mv "$2.tmp" "$2"; return 0; }
  done
  rm -f "$2.tmp"; return 1
}

run() {
  local mem=768 cpus=1 tmo=300 out='' hook='' keep='' quiet='' app='' o
  local -a dirs=() fwds=() disks=() xargs=() envs=()
  while getopts 'm:c:t:e:d:o:f:D:k:K:a:x:q' o; do case $o in
    m) mem=$OPTARG;; c) cpus=$OPTARG;; t) tmo=$OPTARG;; e) envs+=("$OPTARG");; d) dirs+=("$OPTARG");;
    o) out=$OPTARG;; f) fwds+=("$OPTARG");; D) disks+=("$OPTARG");; k) hook=$OPTARG;; K) keep=$OPTARG;;
    a) app=$OPTARG;; x) xargs+=("$OPTARG");; q) quiet=1;; *) die "bad option";; esac; done
  shift $((OPTIND-1)); [ $# -ge 1 ] || die "run: no script"
  [ -f "$1" ] || die "no such script: $1"
  build || exit 126
  local W; W=$(mktemp -d "${TMPDIR:-/tmp}/vm.XXXXXX") || die mktemp
  mkdir -p "$W/job"; install -m755 "$1" "$W/job/script"; shift
  local d; for d in ${dirs[@]+"${dirs[@]}"}; do cp -rL "$d" "$W/job/" || die "copy $d"; done
  { local e; for e in ${envs[@]+"${envs[@]}"}; do printf 'export %s=%q\n' "${e%%=*}" "${e#*=}"; done
    printf 'export VM_PORTS=%q VM_LIMIT=%q\n' "${VM_PORTS:-}" "$tmo"
    printf 'set --'; [ $# -gt 0 ] && printf ' %q' "$@"; echo; } > "$W/job/env"
  tar -C "$W/job" -cf "$W/job.tar" . || die tar
  truncate -s %512 "$W/job.tar"; truncate -s 64M "$W/out.img"; mkfifo "$W/out.in" "$W/out.out" "$W/rpc.in" "$W/rpc.out"
  local net="user,id=n0,ipv6=off" f; for f in ${fwds[@]+"${fwds[@]}"}; do net+=",hostfwd=tcp:127.0.0.1:${f%%:*}-:${f##*:}"; done
  local -a q=(qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot
    -machine "pc,accel=$ACCEL,hpet=off,vmport=off,usb=off,graphics=off" -m "$mem" -smp "$cpus"
    -kernel "$CACHE/vmlinux" -initrd "$CACHE/initrd.img"
    -append "console=ttyS0 loglevel=5 quiet nokaslr mitigations=off nowatchdog no_timer_check tsc=reliable rcupdate.rcu_expedited=1 cryptomgr.notests random.trust_cpu=on audit=0 selinux=0 apparmor=0 net.ifnames=0 panic=-1 oops=panic $app"
    -drive "file=$CACHE/root.img,format=raw,if=none,id=root,snapshot=on,cache=unsafe" -device virtio-blk-pci,drive=root,serial=root
    -drive "file=$W/job.tar,format=raw,if=none,id=job,read-only=on" -device virtio-blk-pci,drive=job,serial=job
    -drive "file=$W/out.img,format=raw,if=none,id=outd,cache=unsafe" -device virtio-blk-pci,drive=outd,serial=outd
    -netdev "$net" -device virtio-net-pci,netdev=n0,romfile=
    -device virtio-rng-pci
    -chardev "file,id=con,path=$W/console" -device isa-serial,chardev=con
    -device virtio-serial-pci
    -chardev "pipe,id=out,path=$W/out" -device virtserialport,chardev=out,name=out
    -chardev "pipe,id=rpc,path=$W/rpc" -device virtserialport,chardev=rpc,name=rpc
    -device isa-debug-exit,iobase=0x501,iosize=1)
  [ "$ACCEL" = tcg ] && q+=(-cpu "max,la57=off,pcid=off") || q+=(-cpu host)
  local i=0; for d in ${disks[@]+"${disks[@]}"}; do q+=(-drive "file=$d,format=raw,if=none,id=x$i,cache=writeback" -device "virtio-blk-pci,drive=x$i,serial=x$i"); i=$((i+1)); done
  q+=(${xargs[@]+"${xargs[@]}"})
  local t0; t0=$(date +%s.%N)
  # keep both ends of the fifos open here, so that qemu never blocks or sees EOF early
  exec 11<>"$W/out.out" 12<>"$W/out.in" 13<>"$W/rpc.out" 14<>"$W/rpc.in"
  TMPDIR=$W "${q[@]}" </dev/null 2>"$W/qemu.err" 11>&- 12>&- 13>&- 14>&- & local qp=$!
  ( sleep "$tmo" & s=$!; trap 'kill $s 2>/dev/null; exit' TERM; wait $s; : > "$W/timeout"; kill -9 $qp 2>/dev/null ) 11>&- 12>&- 13>&- 14>&- </dev/null >/dev/null 2>&1 & local wp=$!
  # output reader: everything up to the end marker goes to stdout
  ( b=''; while IFS= read -r line; do
      case $line in
        '@@BOOT '*) [ -z "$quiet" ] && awk -v a="$t0" -v b="$(date +%s.%N)" -v u="${line#* }" 'BEGIN{printf "vm.sh: guest shell after %.1f s (guest uptime %s s)\n", b-a, u}' >&2;;
        '@@EXIT '*) echo "${line#* }" > "$W/rc"; break;;
        *) printf '%s\n' "$line";;
      esac; done <&11 ) 13>&- 14>&- & local rp=$!
  # hook server
  ( while IFS= read -r line; do
      # shellcheck disable=SC2086
      r=$(eval "${hook:-false} $line" 2>&1 </dev/null 11>&- 12>&- 13>&- 14>&-); c=$?
      printf '%s %s\n' "$c" "$(printf '%s' "$r" | base64 -w0)" >&14
    done <&13 ) 11>&- 12>&- & local hp=$!
  trap 'kill -9 '"$qp"' 2>/dev/null; kill '"$wp $rp $hp"' 2>/dev/null; rm -rf "'"$W"'"; exit 130' INT TERM
  wait "$qp" 2>/dev/null; local qrc=$?
  # let the reader drain what is left, then stop helpers
  local n=0; while [ ! -f "$W/rc" ] && [ $n -lt 20 ] && [ ! -f "$W/timeout" ]; do sleep 0.05; n=$((n+1)); done
  kill "$wp" "$rp" "$hp" 2>/dev/null; wait "$wp" "$rp" "$hp" 2>/dev/null
  exec 11>&- 12>&- 13>&- 14>&-; trap - INT TERM
  [ -n "$keep" ] && cp "$W/console" "$keep"
  local rc=125
  if [ -f "$W/rc" ]; then rc=$(cat "$W/rc")
  elif [ -f "$W/timeout" ]; then rc=124; echo "vm.sh: time limit of $tmo s reached, guest killed" >&2; tail -5 "$W/console" >&2
  else echo "vm.sh: guest died without a status (qemu rc $qrc)" >&2; tail -15 "$W/console" >&2; cat "$W/qemu.err" >&2; fi
  [ -n "$out" ] && { mkdir -p "$out"; tar -C "$out" -xf "$W/out.img" 2>/dev/null; }
  rm -rf "$W"; return "$rc"
}

case ${1:-} in
  build) shift; if [ "${1:-}" = --force ]; then build force; else build; fi;;
  run) shift; run "$@"; exit $?;;
  info) ls -la "$CACHE"; cat "$CACHE/kver" 2>/dev/null;;
  *) sed -n '2,30p' "${BASH_SOURCE[0]}"; exit 126;;
esac
