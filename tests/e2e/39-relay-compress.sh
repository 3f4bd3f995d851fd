#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compression between image-proxy and image-cache: fewer bytes between them, the same ones at both ends; an older cache gets
# nothing that is compressed; what a proxy of bad will sends so is refused.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3

# shellcheck source=tests/e2e/relay-lib.sh
. tests/e2e/relay-lib.sh

# tapped NAME CODEC: an image-cache, somebody who counts, an image-proxy; sets src, dst.
tapped() {
	src=$TEST_TMP/$1/src dst=$TEST_TMP/$1/dst
	mkdir -p "$src" "$dst"
	relay image-cache "$dst" --secret-file "$secret" || return 1
	cache=$relay
	timeout -k 5 100 python3 tests/e2e/relay-tap "$(cat "$dst/image-cache.out")" >"$src/tap.port" 2>"$src/tap.log" &
	tap=$!
	wait_for 10 test -s "$src/tap.port" || { why="$(cat "$src/tap.log")" && return 1; }
	relay image-proxy "$src" --port "$(cat "$src/tap.port")" --secret-file "$secret" --compress="$2" || return 1
	proxy=$relay
}

end_tapped() {
	end_relays
	kill "$tap" 2>/dev/null
	wait "$tap" 2>/dev/null
}

peer() { # WORD ARG...
	timeout -k 5 100 python3 tests/e2e/relay-peer "$@" >"$TEST_TMP/peer.out" 2>&1 ||
		{ why="$1: $(tail -n 3 "$TEST_TMP/peer.out")" && return 1; }
}

# passed LEAST MOST: KiB from proxy to cache
passed() {
	local n
	n=$(($(stat -c %s "$src/tap.log.client.0") >> 10))
	[ "$n" -ge "$1" ] && [ "$n" -le "$2" ] || { why="$n KiB passed" && return 1; }
}

# 10 MiB: 3.9 of text, 0.8 of noise, 2.3 of zeros (which a dump would leave out by itself), 3.2 of the same pages over and over.
through() { # CODEC LEAST MOST
	tapped "$1" "$1" && peer put "$src/image-proxy.socket" s && passed "$2" "$3" &&
		peer get "$dst/image-cache.socket" s
}
through none 10000 10800
result none
end_tapped
for codec in lz4 zstd; do
	through $codec 800 2200 && grep -q "bytes went as .* with $codec" "$src/image-proxy.log" ||
		{ why="${why:-} $(tail -n 2 "$src/image-proxy.log")"; false; }
	result $codec
	end_tapped
done
through auto 800 10800
result auto
end_tapped

# A program goes through it.
program() {
	PROXY_OPTIONS=--compress=zstd relays program || return 1
	start_victim memory_writers 8 && remote_dump "$pid" || return 1
	wait_gone "$pid" || { why="it is still there" && return 1; }
	remote_restore && verdict
}
program
result program
kill_tree "$pid"
end_relays

# An older image-cache, with a proxy that is told to compress.
older() {
	src=$TEST_TMP/older
	mkdir -p "$src"
	timeout -k 5 100 python3 tests/e2e/relay-peer old-cache "$src/blocks" >"$src/port" 2>"$src/old.log" &
	wait_for 10 test -s "$src/port" || { why="$(cat "$src/old.log")" && return 1; }
	relay image-proxy "$src" --port "$(cat "$src/port")" --insecure-plain-tcp --compress=zstd || return 1
	proxy=$relay
	peer put "$src/image-proxy.socket" s || { why="$why; $(tail -n 2 "$src/old.log")" && return 1; }
	wait_for 10 grep -q "blocks, 0 compressed" "$src/blocks" || { why="$(cat "$src/blocks")" && return 1; }
	grep -q "an older ferry, which reads nothing that is compressed" "$src/image-proxy.log" ||
		{ why="it is not said" && return 1; }
	kill "$proxy" && wait "$proxy"
}
older
result older-cache

# Each is refused, with a reason, and the cache serves on.
hostile() {
	src=$TEST_TMP/hostile/src dst=$TEST_TMP/hostile/dst
	mkdir -p "$src" "$dst"
	relay image-cache "$dst" --insecure-plain-tcp || return 1
	cache=$relay
	peer hostile "$(cat "$dst/image-cache.out")" || return 1
	[ "$(grep -c . "$TEST_TMP/peer.out")" = 9 ] || { why="$(cat "$TEST_TMP/peer.out")" && return 1; }
	relay image-proxy "$src" --port "$(cat "$dst/image-cache.out")" --insecure-plain-tcp --compress=lz4 || return 1
	proxy=$relay
	peer put "$src/image-proxy.socket" s && peer get "$dst/image-cache.socket" s
}
hostile
result hostile-blocks
end_relays
finish
