#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Side by side: limit, lunetted, tgt where it is installed. usage: bench/run.sh BUILD [options of compare.py]
build=$1
shift
dir=$(dirname "$0")
[ "$(id -u)" = 0 ] && [ "$(nproc)" -gt 1 ] && set -- --realtime "$@"
exec python3 "$dir/compare.py" --build "$build" --out "$build/bench.json" "$@"
