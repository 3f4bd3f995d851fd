#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# ferry dump --lazy-pages: the frozen tree hands its memory out on request. Every byte is the right
# one; the tree ends when all of it has been fetched and only then; strangers at the port change
# nothing; an end before a page was handed out lets the tree run on, a later one leaves it stopped.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/criu-lazy-lib.sh"

requires python3
requires_root
BENCH_VICTIM=$BUILD_DIR/bench/bench-victim

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# source NAME [OPTION...]: starts a program and its dump; sets work, pid, images, dumper.
source_of() {
	work=$TEST_TMP/$1
	images=$work/images
	shift
	mkdir -p "$images"
	"$BENCH_VICTIM" "$work" memory 24 || return 1
	pid=$(cat "$work/pid")
	mkfifo "$work/ready"
	timeout -k 5 100 "$FERRY" dump -t "$pid" -D "$images" -o dump.log -v4 --lazy-pages --port "$port" \
		--status-fd 7 "$@" 7>"$work/ready" >"$work/out" 2>&1 &
	dumper=$!
	# the zero byte comes when it listens; without one the end of the dump ends the read
	[ "$(timeout 20 head -c 1 "$work/ready" | wc -c)" = 1 ] || {
		why="the dump does not listen: $(cat "$work/out")"
		return 1
	}
	"$FERRY" show "$images/pagemap-$pid.img" >"$work/pagemap"
}

client() {
	why=$(timeout 60 tests/e2e/get-pages "$@" 2>&1)
}

runs_well() {
	kill -USR1 "$pid" && wait_for 10 test -s "$work/report" && grep -q ok "$work/report"
}

state() {
	sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>/dev/null
}

# result NAME: of the last command
result() {
	if [ $? = 0 ]; then ok "$1"; else not_ok "$1" "${why:-}; $(tail -n 3 "$work/out" "$images/dump.log" 2>/dev/null)"; fi
}

everything_is_fetched() {
	source_of fetched || return 1
	[ "$(stat -c %s "$images"/pages-*.img | awk '{ n += $1 } END { print n }')" -lt 4000000 ] ||
		{ why="the memory is in the images" && return 1; }
	client fetch "$port" "$pid" "$work/pagemap" || return 1
	wait "$dumper" || { why="exit status $?" && return 1; }
	wait_gone "$pid" || { why="the tree is still there" && return 1; }
}
everything_is_fetched
result "all pages are fetched: the right bytes, and the tree ends"

strangers() {
	local kind
	source_of strangers || return 1
	exec 8<>"/dev/tcp/127.0.0.1/$port" # one who only waits
	for kind in scan close garbage half pid outside behind crooked none store reset close-late; do
		client stranger $kind "$port" "$pid" "$work/pagemap" || { why="$kind: $why" && return 1; }
		kill -0 "$dumper" || { why="the dump ended after $kind" && return 1; }
	done
	# a peer whose connection breaks comes back and gets the rest
	client fetch "$port" "$pid" "$work/pagemap" 0.5 || return 1
	client fetch "$port" "$pid" "$work/pagemap" || return 1
	wait "$dumper" || { why="exit status $?" && return 1; }
	exec 8>&-
	wait_gone "$pid" || { why="the tree is still there" && return 1; }
}
strangers
result "strangers are dropped, and the real peer gets through"

interrupted_early() {
	source_of early || return 1
	client stranger garbage "$port" "$pid" "$work/pagemap" || return 1
	kill -INT "$dumper"
	wait "$dumper" && { why="exit status 0" && return 1; }
	runs_well || { why="the program does not run on: state $(state)" && return 1; }
	grep -q 'runs on here' "$work/out" || { why="does not say so" && return 1; }
}
interrupted_early
result "an interrupt before the first page: the tree runs on"

timed_out() {
	source_of timeout --lazy-timeout 1 || return 1
	wait "$dumper" && { why="exit status 0" && return 1; }
	runs_well || { why="the program does not run on: state $(state)" && return 1; }
}
timed_out
result "nobody comes: --lazy-timeout lets the tree run on"

interrupted_late() {
	source_of late || return 1
	client fetch "$port" "$pid" "$work/pagemap" 0.3 || return 1
	kill -TERM "$dumper"
	wait "$dumper" && { why="exit status 0" && return 1; }
	[ "$(state)" = T ] || { why="the program is in state $(state)" && return 1; }
	grep -q 'left stopped' "$work/out" || { why="does not say so" && return 1; }
	kill -CONT "$pid"
	runs_well || { why="damaged after SIGCONT" && return 1; }
}
interrupted_late
result "an interrupt after a page was handed out: the tree is left stopped"

killed() {
	source_of killed || return 1
	client fetch "$port" "$pid" "$work/pagemap" 0.1 || return 1
	pkill -KILL -P "$dumper" ferry || { why="no ferry to kill" && return 1; }
	wait "$dumper"
	wait_for 5 test "$(state)" = T || { why="the program is in state $(state)" && return 1; }
	kill -CONT "$pid"
	runs_well || { why="damaged after SIGCONT" && return 1; }
}
killed
result "the dump is killed while pages are out: the tree is left stopped"

lost_task() {
	source_of lost || return 1
	kill -KILL "$pid"
	client fetch "$port" "$pid" "$work/pagemap" && { why="pages of a dead task" && return 1; }
	wait "$dumper" && { why="exit status 0" && return 1; }
	return 0
}
lost_task
result "the task is killed: the dump fails"

why=$("$FERRY" dump -t $$ -D "$TEST_TMP" --lazy-pages 2>&1) && why="accepted: $why" && false
[ $? = 2 ] || [ -n "$why" ] && grep -q -- --port <<<"$why"
result "--lazy-pages needs a port"

# --- real CRIU fetches -----------------------------------------------------------------------------

CRIU_ROOT=${CRIU_ROOT:-/var/tmp/ferry-criu}
script=$PWD/../shared/bin/criu-root
[ -x "$script" ] && CRIU=$(timeout 200 "$script" "$CRIU_ROOT" 2>"$TEST_TMP/criu-root.log") || CRIU=

criu_fetches() {
	source_of criu && criu_fetches_pages "$images" "$port" || return 1
	wait "$dumper" || { why="exit status $?" && return 1; }
	wait_gone "$pid" || { why="the tree is still there" && return 1; }
}
if [ -n "$CRIU" ]; then
	criu_fetches
	result "criu lazy-pages and criu restore"
else
	skip "criu lazy-pages and criu restore" "no real CRIU here"
fi

finish
