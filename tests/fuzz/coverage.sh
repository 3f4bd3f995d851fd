#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzzes with clang's libFuzzer, which is led by coverage, under ASan and UBSan:
#
#   tests/fuzz/coverage.sh NAME [SECONDS [DIR]]
#
# DIR (default build-coverage) keeps the program and the inputs that it found worth keeping; a
# crash leaves its input there. Run `ninja -C build` before: the code of the messages is there.
set -eu
name=${1:?usage: tests/fuzz/coverage.sh NAME [SECONDS [DIR]]}
seconds=${2:-60}
out=${3:-build-coverage}
cd "$(dirname "$0")/../.."
mkdir -p "$out/corpus-$name"
case $name in
edits) sources="tests/unit/sample.c tests/fuzz/snapshot_*.c src/store/*.c src/snapshot/*.c" ;;
restore) sources="tests/unit/sample.c tests/fuzz/snapshot_*.c src/store/*.c src/snapshot/*.c
	$(find src/kernel src/mem src/kinds src/restore -name '*.c') build/src/libblob.a" ;;
snapshot) sources="tests/fuzz/snapshot_walk.c src/store/*.c src/snapshot/*.c" ;;
image) sources="src/snapshot/*.c src/store/*.c" ;;
*) sources="src/kernel/*.c" ;;
esac
# shellcheck disable=SC2086
clang -std=gnu17 -g -O1 -D_GNU_SOURCE -fno-strict-aliasing -w \
	-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
	-Isrc -Ibuild/proto -Itests/unit -Itests/fuzz \
	"tests/fuzz/$name.c" $sources src/base/*.c build/proto/libproto.a -lprotobuf-c -lpthread -lcap -lmnl -o "$out/fuzz-$name"
seeds=tests/fuzz/corpus/$name
[ -d "$seeds" ] || seeds=
# shellcheck disable=SC2086
exec "$out/fuzz-$name" -max_total_time="$seconds" -max_len=20000 -rss_limit_mb=1024 -timeout=120 \
	-artifact_prefix="$out/" "$out/corpus-$name" $seeds
