#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# Pre-copy through relays: each round is a snapshot with a name of its own, the last builds on those before, and a
# restore takes pages of all of them. What is not there any more, or is another snapshot of the same name, is not built on.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3
# shellcheck source=tests/e2e/relay-lib.sh
. tests/e2e/relay-lib.sh

remote_round() { # NAME [OPTION...]
	timeout -k 5 60 "$FERRY" pre-dump -t "$pid" --remote --snapshot "$1" -D "$src" -W "$src" -o "pre-dump.$1.log" -v4 "${@:2}" \
		>"$src/pre-dump.$1" 2>&1 </dev/null ||
		{ why="pre-dump $1: $(cat "$src/pre-dump.$1")" && return 1; }
}

silent() { # NAME
	[ ! -s "$src/pre-dump.$1" ] || { why="pre-dump $1 says: $(cat "$src/pre-dump.$1")" && return 1; }
}

# How many pages the last dump or round has left to those before.
kept() {
	"$FERRY" show --json "$src/stats-dump" | python3 -c 'import json, sys
print(json.load(sys.stdin)["entries"][0]["dump"].get("pages_skipped_parent", 0))'
}

# Two rounds of a program that never rests, and a dump that has a part of the memory only; all of it is there again.
rounds() {
	relays rounds || return 1
	start_victim mem_busy 6 || return 1
	remote_round a && silent a || return 1
	remote_round b --prev-snapshot a && silent b || return 1
	remote_dump "$pid" --snapshot c --prev-snapshot b || return 1
	wait_gone "$pid" || { why="it is still there" && return 1; }
	[ "$(kept)" -gt 100 ] || { why="only $(kept) pages are in the snapshots before" && return 1; }
	remote_restore --snapshot c && verdict
}
rounds
result rounds

# All was forgotten with the last: the names are free again.
again() {
	start_victim memory_writers 8 || return 1
	remote_round a && remote_round b --prev-snapshot a && remote_dump "$pid" --snapshot c --prev-snapshot b || return 1
	wait_gone "$pid"
	remote_restore --snapshot c && verdict
}
again
result names-are-free-again

# The rest of a program that never rests stays in the frozen tree, and follows when it is used; what the rounds had of it does not.

lazy_dump() { # [OPTION...]: sets dumper when lazy-pages has all images
	local from
	from=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	timeout -k 5 90 "$FERRY" dump -t "$pid" --remote --lazy-pages --port "$from" -D "$src" -W "$src" -o dump.log -v4 "$@" \
		>"$src/dump.out" 2>&1 </dev/null &
	dumper=$!
	timeout -k 5 60 "$FERRY" lazy-pages --remote --snapshot c --page-server --port "$from" -W "$dst" -o lazy.log -v4 --daemon \
		>"$dst/lazy.out" 2>&1 </dev/null || { why="lazy-pages: $(cat "$dst/lazy.out" "$src/dump.out")" && return 1; }
}

handed_out() { # how many pages came from the frozen tree
	sed -n 's/.* lazy: [0-9]* of \([0-9]*\) pages handed out.*/\1/p' "$src/dump.log"
}

follows() {
	start_victim mem_busy 6 || return 1
	remote_round a && remote_round b --prev-snapshot a || return 1
	lazy_dump --snapshot c --prev-snapshot b && remote_restore --lazy-pages --pids=new --snapshot c || return 1
	wait "$dumper" || { why="dump: $(cat "$src/dump.out")" && return 1; }
	wait_gone "$pid" || { why="it is still there" && return 1; }
	[ "$(kept)" -gt 100 ] || { why="only $(kept) pages are in the snapshots before" && return 1; }
	[ "$(handed_out)" -gt 100 ] || { why="only $(handed_out) pages followed" && return 1; }
	verdict
}
follows
result the-rest-follows
end_relays
for p in $(own_processes); do kill -KILL "$p" 2>/dev/null; done

# Of one that rests everything was in the round.
nothing_follows() {
	local work=$TEST_TMP/rests
	relays rests || return 1
	mkdir -p "$work"
	"$BUILD_DIR/bench/bench-victim" "$work" memory 16 && pid=$(cat "$work/pid") || return 1
	remote_round a && lazy_dump --snapshot c --prev-snapshot a && remote_restore --lazy-pages --pids=new --snapshot c || return 1
	wait "$dumper" || { why="dump: $(cat "$src/dump.out")" && return 1; }
	[ "$(kept)" -ge 4096 ] && [ "$(handed_out)" -le 64 ] ||
		{ why="$(kept) pages were there before, $(handed_out) followed" && return 1; }
	pid=$(pgrep -f "^$BUILD_DIR/bench/bench-victim $work memory")
	kill -USR1 "$pid" && wait_for 20 test -s "$work/report" && grep -q ok "$work/report" ||
		{ why="its memory is damaged, or it is gone: $(cat "$work/report")" && return 1; }
}
nothing_follows
result nothing-that-a-round-had-follows
kill_tree "$pid"

# On what this tree was not saved to last, nothing is built: all is sent again, and that is said.
another() {
	start_victim memory_writers 8 || return 1
	remote_round a || return 1
	remote_round b --prev-snapshot nobody || return 1
	grep -q "everything is saved again" "$src/pre-dump.b" || { why="it says: $(cat "$src/pre-dump.b")" && return 1; }
	remote_dump "$pid" --snapshot c --prev-snapshot b || return 1
	wait_gone "$pid"
	remote_restore --snapshot c && verdict
}
another
result another-name

# The cache was started anew, and has a snapshot of that name which is another one.
replaced() {
	local first first_dir
	start_victim memory_writers 8 || return 1
	first=$pid first_dir=$vdir
	remote_round x || return 1
	kill "$cache" && wait "$cache"
	rm -f "$dst/image-cache.log"
	relay image-cache "$dst" --port "$port" --secret-file "$secret" || return 1
	cache=$relay
	remote_dump "$first" --snapshot y --prev-snapshot x && { why="it was built on what is gone" && return 1; }
	echo "$why" | grep -q "is not here" || return 1
	start_victim memory_writers 8 || return 1
	pid=$first vdir=$first_dir
	remote_round x || return 1
	kill "$cache" && wait "$cache"
	relay image-cache "$dst" --port "$port" --secret-file "$secret" || return 1
	cache=$relay
	start_victim memory_writers 8 || return 1
	remote_round x || return 1
	kill_tree "$pid"
	pid=$first vdir=$first_dir
	remote_dump "$pid" --snapshot y --prev-snapshot x && { why="it was built on another one" && return 1; }
	echo "$why" | grep -q "is not here" || return 1
	alive "$pid" || { why="the program is gone" && return 1; }
	verdict
}
replaced
result replaced
end_relays

usage() {
	local option
	for option in "--prev-images-dir a" --auto-dedup "--page-server --port 1"; do
		# shellcheck disable=SC2086
		timeout 10 "$FERRY" pre-dump -t $$ --remote $option >"$TEST_TMP/usage" 2>&1
		[ $? = 2 ] || { why="$option: $(cat "$TEST_TMP/usage")" && return 1; }
	done
	timeout 10 "$FERRY" lazy-pages --remote -W "$TEST_TMP" >"$TEST_TMP/usage" 2>&1
	[ $? = 2 ] && grep -q "needs --page-server" "$TEST_TMP/usage" || { why="$(cat "$TEST_TMP/usage")" && return 1; }
	timeout 10 "$FERRY" pre-dump -t $$ --prev-snapshot a -D "$TEST_TMP" >"$TEST_TMP/usage" 2>&1
	[ $? = 2 ] || { why="$(cat "$TEST_TMP/usage")" && return 1; }
}
usage
result usage
finish
