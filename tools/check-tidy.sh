#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# clang-tidy (.clang-tidy) over the sources of the program: tools/check-tidy.sh [BUILD]
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
command -v run-clang-tidy >/dev/null || { echo "clang-tidy is not installed"; exit 77; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The analyzer walks as many paths as pay: with its default of 225000 nodes, CI would take an hour.
if run-clang-tidy -quiet -p "$build" -extra-arg=-Xclang -extra-arg=-analyzer-config \
    -extra-arg=-Xclang -extra-arg=max-nodes=20000 \
    -extra-arg=-I"$PWD/src" -extra-arg=-include -extra-arg="$PWD/tools/tidy.h" \
    "$PWD/src/(base/[^e]|[^b]).*\.c$" >"$log" 2>&1; then
    exit 0
fi
grep -E -A 6 '(error|warning):' "$log" || cat "$log"
exit 1
