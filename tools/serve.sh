#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# serve.sh BUILD - serve a RAM disk and a file disk; what `make serve` runs. Needs no root.
# LISTEN=ADDR:PORT; the file lies in the user's state directory, sparse.
set -u
build=${1:?build folder}
state=${XDG_STATE_HOME:-${HOME:-/var/tmp}/.local/state}/lunette
mkdir -p "$state" || exit 1
cmd=("$build/src/lunetted/lunetted" --listen "${LISTEN:-127.0.0.1:3260}" --ram 1G
	--file "$state/disk.img,size=10G" --howto)
# Under a terminal, give the server a process group of its own: Ctrl-C then reaches it alone, it drains
# and exits 0, and make ends with that status instead of dying first.
if [ -t 0 ]; then
	set -m
	"${cmd[@]}"
	exit $?
fi
exec "${cmd[@]}"
