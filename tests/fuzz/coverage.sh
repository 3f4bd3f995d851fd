#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes with clang's libFuzzer, which is led by coverage, under ASan and UBSan:
#
#   tests/fuzz/coverage.sh NAME [SECONDS [DIR]]
#
# DIR (default build-coverage) is a build tree of its own, and keeps the inputs that were found worth
# keeping; a crash leaves its input there.
set -eu
name=${1:?usage: tests/fuzz/coverage.sh NAME [SECONDS [DIR]]}
seconds=${2:-60}
out=${3:-build-coverage}
cd "$(dirname "$0")/../.."
[ -e "$out/build.ninja" ] || CC=clang meson setup "$out" -Db_sanitize=address,undefined -Dc_args=-fsanitize=fuzzer-no-link
ninja -C "$out" "tests/fuzz/fuzz-$name"
mkdir -p "$out/corpus-$name"

# linked VARIANT FLAGS DRIVER: the program, with another driver than ours
linked() {
	(cd "$out" && eval "$(ninja -t commands "tests/fuzz/fuzz-$name" | tail -n 1 |
		sed "s# tests/fuzz/fuzz-$name.p/driver.c.o# $3#; s#-o tests/fuzz/fuzz-$name #-o $1-$name $2 #")")
}
linked coverage -fsanitize=fuzzer ""
if grep -q "^size_t fuzz_seed(" "tests/fuzz/$name.c"; then
	cat >"$out/seed.c" <<-'END'
		#include <stdint.h>
		#include <stdio.h>
		size_t fuzz_seed(uint8_t *out, size_t cap);
		static uint8_t seed[65536];
		int main(void)
		{
			size_t n = fuzz_seed(seed, sizeof(seed));
			return fwrite(seed, 1, n, stdout) != n;
		}
	END
	clang -c "$out/seed.c" -o "$out/seed.o"
	linked seed "" seed.o
	"$out/seed-$name" >"$out/corpus-$name/seed"
fi
seeds=tests/fuzz/corpus/$name
[ -d "$seeds" ] || seeds=
# shellcheck disable=SC2086
exec "$out/coverage-$name" -max_total_time="$seconds" -max_len=20000 -rss_limit_mb=1024 -timeout=120 \
	-artifact_prefix="$out/" "$out/corpus-$name" $seeds
