#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# The memory of image-cache and image-proxy by the kernel's count: with --max-memory it stays there however much is to go
# through, in whatever pieces, while nobody reads and while somebody reads slowly; and what comes out is what went in.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3

# shellcheck source=tests/e2e/relay-lib.sh
. tests/e2e/relay-lib.sh

BENCH_VICTIM=$BUILD_DIR/bench/bench-victim
bound=16 # MiB, of either
mib=112  # that go through: seven times that

# What a relay has beside what it holds, MiB: for each connection a block on its way and what it is compressed with, what
# of a buffer its block leaves free (up to a sixteenth), and notes on what has gone.
beside=8

# memory WORD: KiB of cache and proxy, of VmHWM (the most there ever was: mapped, anonymous, shared), VmRSS...
memory() {
	local of
	for of in "$cache" "$proxy"; do
		awk -v word="$1:" '$1 == word { print $2 }' "/proc/$(pgrep -P "$of")/status"
	done | paste -sd ' '
}

bounded() { # NAME
	PROXY_OPTIONS="--max-memory ${bound}M" relays "$1" --max-memory ${bound}M || return 1
	idle=$(memory VmHWM)
	[ "$(wc -w <<<"$idle")" = 2 ] || { why="no memory is told: $idle" && return 1; }
}

within() {
	local cache_idle proxy_idle cache_most proxy_most most=$(((bound + beside) << 10))
	read -r cache_idle proxy_idle <<<"$idle"
	read -r cache_most proxy_most <<<"$(memory VmHWM)"
	echo "# $*: image-cache $cache_idle KiB, at most $cache_most, image-proxy $proxy_idle, $proxy_most"
	[ $((cache_most - cache_idle)) -le $most ] || { why="image-cache: $cache_idle KiB, then $cache_most" && return 1; }
	[ $((proxy_most - proxy_idle)) -le $most ] || { why="image-proxy: $proxy_idle KiB, then $proxy_most" && return 1; }
	# not because they would have held nothing
	[ $((cache_most - cache_idle)) -ge $((bound * 1000 / 2)) ] || { why="image-cache held only $cache_most KiB" && return 1; }
}

# stands FILE: what it says has been the same for a while.
stands() {
	local before
	before=$(cat "$1")
	sleep 1
	[ -n "$before" ] && [ "$(cat "$1")" = "$before" ]
}

# stalled FILE: both are full, and the writer waits.
stalled() {
	local taken
	wait_for 60 stands "$1" || { why="it does not stop taking" && return 1; }
	taken=$(cat "$1")
	# and the kernel has some on its way
	[ "$taken" -ge $((2 * bound - 4)) ] && [ "$taken" -lt $mib ] || { why="$taken MiB were taken" && return 1; }
}

pieces() { # BYTES
	local writer
	bounded "pieces-$1" || return 1
	timeout -k 5 250 python3 tests/e2e/relay-peer put-much "$src/image-proxy.socket" much $mib "$1" "$src/taken" >"$src/put" 2>&1 &
	writer=$!
	wait_for 20 test -s "$src/taken" && stalled "$src/taken" || { why="${why:-} $(tail -n 2 "$src/put")" && return 1; }
	within "pieces of $1, nobody reads" || return 1
	timeout -k 5 250 python3 tests/e2e/relay-peer get-slowly "$dst/image-cache.socket" much $mib >"$dst/get" 2>&1 ||
		{ why="$(tail -n 2 "$dst/get")" && return 1; }
	wait "$writer" || { why="$(tail -n 2 "$src/put")" && return 1; }
	within "pieces of $1, slowly"
}

# Whole blocks, blocks that fill their buffer just enough to be kept in it, others, pages.
for bytes in 1048576 983040 606208 65536 4096; do
	pieces $bytes
	result "pieces of $bytes"
	end_relays
done

# Four share the bound, and each waits for the others.
several() {
	local i all=()
	beside=12
	bounded several || return 1
	for i in 1 2 3 4; do
		timeout -k 5 250 python3 tests/e2e/relay-peer get-slowly "$dst/image-cache.socket" "s$i" 28 >"$dst/get.$i" 2>&1 &
		all+=($!)
	done
	wait_for 20 four_read || { why="no four readers" && return 1; }
	for i in 1 2 3 4; do
		timeout -k 5 250 python3 tests/e2e/relay-peer put-much "$src/image-proxy.socket" "s$i" 28 1048576 "$src/taken.$i" >"$src/put.$i" 2>&1 &
		all+=($!)
	done
	for i in "${all[@]}"; do
		wait "$i" || { why="$(cat "$src"/put.? "$dst"/get.? | tail -n 2)" && return 1; }
	done
	within "four at once"
}

# Each connection that is served has a thread; the first one listens.
four_read() {
	[ "$(find "/proc/$(pgrep -P "$cache")/task" -mindepth 1 -maxdepth 1 | wc -l)" -ge 5 ]
}
several
result "several share it"
beside=8
end_relays

# A program: its dump waits, frozen, until a restore comes.
program() {
	local dumper work=$TEST_TMP/program
	bounded through || return 1
	mkdir -p "$work"
	"$BENCH_VICTIM" "$work" memory $mib && pid=$(cat "$work/pid") || return 1
	remote_dump "$pid" &
	dumper=$!
	wait_for 30 grep -qs collected "$src/dump.log" && wait_for 30 full || { why="the dump does not get there" && return 1; }
	within "a dump, nobody reads" || return 1
	remote_restore --pids=new && wait "$dumper" || { why="${why:-} dump: $(cat "$src/dump.out")" && return 1; }
	within "a dump and a restore" || return 1
	wait_gone "$pid"
	pid=$(pgrep -f "^$BENCH_VICTIM $work memory")
	kill -USR1 "$pid" && wait_for 20 test -s "$work/report" && grep -q ok "$work/report" || { why="its memory is not whole" && return 1; }
}

full() {
	local rss
	rss=$(memory VmRSS)
	[ "${rss% *}" -ge $((bound << 10)) ] && [ "${rss#* }" -ge $((bound << 10)) ]
}
program
result "a program"
kill_tree "$pid"
end_relays

# both_full: neither of the two of 8 MiB takes any more; some 7 MiB they have when they hold nothing.
both_full() {
	local most
	most=$(memory VmRSS)
	[ "${most% *}" -ge 13000 ] && [ "${most#* }" -ge 13000 ] && stands_still
}

stands_still() {
	local before
	before=$(memory VmRSS)
	sleep 1
	[ "$(memory VmRSS)" = "$before" ]
}

# small_relays NAME TRUST: of 8 MiB each. TRUST: secret or plain.
small_relays() {
	trust=(--secret-file "$secret")
	[ "$2" = secret ] || trust=(--insecure-plain-tcp)
	src=$TEST_TMP/$1-$2/src dst=$TEST_TMP/$1-$2/dst
	mkdir -p "$src" "$dst"
	relay image-cache "$dst" "${trust[@]}" --max-memory 8M || return 1
	cache=$relay
	port=$(cat "$dst/image-cache.out")
	small_proxy
}

small_proxy() {
	relay image-proxy "$src" --port "$port" "${trust[@]}" --max-memory 8M || return 1
	proxy=$relay
}

# both_noticed: the snapshot has failed, and both relays say so.
both_noticed() {
	grep -q "the writer of the snapshot is gone" "$src/image-proxy.log" && cache_noticed
}

cache_noticed() {
	grep -qE "the writer of the snapshot is gone|the connection is broken" "$dst/image-cache.log"
}

# goes_through NAME: a snapshot of this name, larger than one of them holds, into the proxy while it is read from the cache.
# The writer comes first: whoever reads a snapshot that has failed hears of that until there is another.
goes_through() {
	local writer
	timeout -k 5 100 python3 tests/e2e/relay-peer put-much "$src/image-proxy.socket" "$1" 12 1048576 "$src/taken-$1" >"$src/put" 2>&1 &
	writer=$!
	wait_for 60 test -s "$src/taken-$1" &&
		timeout -k 5 100 python3 tests/e2e/relay-peer get-slowly "$dst/image-cache.socket" "$1" 12 >"$dst/get" 2>&1 &&
		wait "$writer" || { why="$1: $(tail -n 2 "$src/put" "$dst/get")" && return 1; }
}

# dies TRUST: the writer of what nobody restores dies, killed, while both relays are full; they take others, also of its name.
dies() {
	local writer
	small_relays dies "$1" || return 1
	timeout -k 5 250 python3 tests/e2e/relay-peer put-much "$src/image-proxy.socket" dead 64 1048576 "$src/taken" >"$src/put" 2>&1 &
	writer=$!
	wait_for 20 test -s "$src/taken" && wait_for 60 stands "$src/taken" && both_full || { why="they do not get full: $(memory VmRSS)" && return 1; }
	kill -KILL "$(pgrep -P "$writer")"
	# at once: what is dead is not in the way, nor what was said of it
	goes_through dead && goes_through other || return 1
	wait_for 60 both_noticed || { why="not noticed" && return 1; }
}

# proxy_dies TRUST: the proxy is killed. The kernels alone would tell the cache after minutes: it reads nothing, so that the end of
# the connection would wait behind what is on its way.
proxy_dies() {
	small_relays proxy-dies "$1" || return 1
	timeout -k 5 250 python3 tests/e2e/relay-peer put-much "$src/image-proxy.socket" dead 64 1048576 "$src/taken" >"$src/put" 2>&1 &
	wait_for 20 test -s "$src/taken" && wait_for 60 stands "$src/taken" && both_full || { why="they do not get full: $(memory VmRSS)" && return 1; }
	kill -KILL "$(pgrep -P "$proxy")"
	wait_for 20 cache_noticed || { why="not noticed" && return 1; }
	wait "$proxy"
	small_proxy && goes_through dead
}

# dump_dies TRUST: so does ferry's own, and then a program is moved.
dump_dies() {
	local work=$TEST_TMP/dump-dies-$1 killed
	small_relays dump-dies "$1" || return 1
	mkdir -p "$work"
	"$BENCH_VICTIM" "$work" memory 64 && killed=$(cat "$work/pid") || return 1
	remote_dump "$killed" 2>/dev/null &
	wait_for 30 grep -qs collected "$src/dump.log" && wait_for 60 both_full || { why="the dump does not get there" && return 1; }
	kill -KILL "$(pgrep -f "^$FERRY dump -t $killed ")"
	kill_tree "$killed"
	work=$work-again
	mkdir -p "$work"
	"$BENCH_VICTIM" "$work" memory 4 && pid=$(cat "$work/pid") || return 1
	remote_dump "$pid" && wait_gone "$pid" && remote_restore --pids=new || return 1
	both_noticed || { why="not noticed" && return 1; }
	pid=$(pgrep -f "^$BENCH_VICTIM $work memory")
	kill -USR1 "$pid" && wait_for 20 test -s "$work/report" && grep -q ok "$work/report" || { why="its memory is not whole" && return 1; }
}

# ends TRUST: what has been written to its end, by one who says that he says no more, and waits for the answer, is no dead dump.
ends() {
	local writer
	small_relays ends "$1" || return 1
	timeout -k 5 250 python3 tests/e2e/relay-peer put-and-end "$src/image-proxy.socket" whole 64 "$src/taken" >"$src/put" 2>&1 &
	writer=$!
	wait_for 60 test -e "$src/taken" && wait_for 60 both_full && stands_still || { why="it does not come to its end: $(memory VmRSS)" && return 1; }
	timeout -k 5 100 python3 tests/e2e/relay-peer get-slowly "$dst/image-cache.socket" whole 64 >"$dst/get" 2>&1 &&
		wait "$writer" || { why="$(tail -n 2 "$src/put" "$dst/get")" && return 1; }
}

for trust in secret plain; do
	dies $trust
	result "a writer dies while both are full ($trust)"
	end_relays
	proxy_dies $trust
	result "a proxy dies while both are full ($trust)"
	end_relays
	dump_dies $trust
	result "a dump dies while both are full ($trust)"
	kill_tree "$pid"
	end_relays
	ends $trust
	result "the end of what is written is no death ($trust)"
	end_relays
done
finish
