#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every C file is what clang-format (.clang-format) makes of it. --fix rewrites instead.
set -eu
cd "$(dirname "$0")/.."

# 14 is Debian 12's; other releases format some constructs in another way.
tool=
for candidate in clang-format-14 clang-format; do
    command -v $candidate >/dev/null || continue
    case $($candidate --version) in
    *"version 14."*) tool=$candidate && break ;;
    esac
done
if [ -z "$tool" ]; then
    echo "clang-format 14 is not installed"
    exit 77
fi

if [ "${1:-}" = --fix ]; then
    find src tests -name '*.[ch]' -print0 | xargs -0 "$tool" -i
    exit
fi
# One run for all files: "FILE:LINE:COLUMN: error: ..." for each difference.
bad=$(find src tests -name '*.[ch]' -print0 | sort -z | xargs -0 "$tool" --dry-run -Werror 2>&1 |
    sed -n 's/^\([^: ]*\):[0-9]*:[0-9]*: error: .*/\1/p' | sort -u)
[ -n "$bad" ] || exit 0
for file in $bad; do
    echo "$file: not formatted (make format)"
done
exit 1
