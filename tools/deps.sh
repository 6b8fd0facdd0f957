#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# deps.sh GROUP... - install the Debian packages that a group of tasks needs, when they are missing.
# Asks nothing. Without root and without sudo it prints the line to type and fails.
set -u

build="gcc libc6-dev meson ninja-build pkg-config liburing-dev libisal-dev libssl-dev libjansson-dev libyaml-dev
 libmicrohttpd-dev"
test="libcmocka-dev clang clang-tidy libclang-rt-dev llvm python3 libiscsi-bin qemu-utils qemu-block-extra
 iproute2 util-linux fdisk xfsprogs python3-apsw fuse3 libfuse3-dev open-isns-server procps e2fsprogs scdoc man-db"
vm="qemu-system-x86 cpio zstd xz-utils e2fsprogs dpkg gcc python3 iproute2"
bench="tgt python3 util-linux"

want=()
for g in "$@"; do
	case $g in
	build) want+=($build) ;;
	test) want+=($test) ;;
	vm) want+=($vm) ;;
	bench) want+=($bench) ;;
	*) echo "deps.sh: unknown group $g" >&2; exit 2 ;;
	esac
done

command -v dpkg-query >/dev/null || exit 0 # not Debian: Meson says what is missing
missing=()
for p in $(printf '%s\n' "${want[@]}" | sort -u); do
	[ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null)" = "ii " ] || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as=()
if [ "$(id -u)" -ne 0 ]; then
	if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
		as=(sudo)
	else
		echo "These Debian packages are missing; install them as root, then try again:" >&2
		echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
fi
echo "Installing Debian packages: ${missing[*]}"
get=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install_them() { "${get[@]}" install --no-install-recommends "${missing[@]}" </dev/null >"$log" 2>&1; }
install_them && exit 0
"${get[@]}" update </dev/null >>"$log" 2>&1
install_them && exit 0
tail -5 "$log" >&2
echo "deps.sh: apt-get could not install: ${missing[*]}" >&2
exit 1
