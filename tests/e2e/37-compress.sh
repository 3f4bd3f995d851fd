#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ferry migrate --compress: memory with contents that can be compressed takes less to send, and is whole; with none
# it goes as it is; by itself the choice goes by the link. Both hosts are this one.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/eavesdrop-lib.sh"
requires_root
requires python3
mib=24

copies() {
	pgrep -f "python3 tests/e2e/text-program $mib $work( pages)?\$"
}

whole() {
	local n
	wait_for 20 [ "$(copies | wc -l)" = 1 ] || { why="copies: $(copies)" && return 1; }
	n=$(copies)
	[ "$n" != "$pid" ] || { why="it has not moved" && return 1; }
	kill -USR1 "$n" && wait_for 20 test -s "$work/report" && grep -q ok "$work/report" ||
		{ why="its memory: $(cat "$work/report")" && return 1; }
	kill_tree "$n"
}

# sent LEAST MOST: how many MiB it took
sent() {
	local n
	n=$(python3 -c 'import json, sys
for line in open(sys.argv[1]):
    event = json.loads(line)
    if event.get("event") == "moved":
        print(event["sent_bytes"] >> 20)' "$work/out")
	[ "$n" -ge "$1" ] && [ "$n" -le "$2" ] || { why="$n MiB were sent" && return 1; }
}

moves() { # NAME LEAST MOST SSH [OPTION...]
	# shellcheck disable=SC2086 # one word, or none
	text_program $mib "$1" ${what:-} || return 1
	timeout -k 5 100 "$FERRY" migrate "$pid" here --pids=new --json --ssh "$4" "${@:5}" >"$work/out" 2>"$work/err" ||
		{ why="$(cat "$work/err")" && return 1; }
	sent "$2" "$3" && whole
}

ssh=$PWD/tools/pseudo-ssh
reached="env SSH_CONNECTION='127.0.0.1 1 127.0.0.1 22' $ssh"
for codec in lz4 zstd; do
	moves $codec-stop 0 12 "$reached" --compress=$codec --mode=stop
	result "$codec, stop, over TLS"
	moves $codec-precopy 0 12 "$ssh" --compress=$codec --mode=precopy
	result "$codec, precopy, through ssh"
	moves $codec-postcopy 0 12 "$reached" --compress=$codec --mode=postcopy --connections=2
	result "$codec, postcopy, over TLS"
done
moves zstd-postcopy-ssh 0 12 "$ssh" --compress=zstd --mode=postcopy
result "zstd, postcopy, through ssh"
# Pages that are the same as others go once in each message, also where the codec would not find that. (Half of so short a
# post-copy goes in answers of 16 pages, in which none is there twice; as they are these would be 27 MiB.)
what=pages
for mode in stop precopy; do
	moves pages-$mode 0 16 "$reached" --compress=lz4 --mode=$mode
	result "the same pages again and again, $mode"
done
moves pages-postcopy 0 23 "$reached" --compress=lz4 --mode=postcopy
result "the same pages again and again, postcopy"
what=
moves none $mib 100 "$ssh" --compress=none --mode=precopy
result "none"
moves none-postcopy $mib 100 "$ssh" --compress=none --mode=postcopy
result "none, postcopy"

# 8 MB/s to the agent: compression is faster on any machine.
cat >"$TEST_TMP/slow.py" <<-'END'
	import os, subprocess, sys, time
	agent = subprocess.Popen(["sh", "-c", sys.argv[2]], stdin=subprocess.PIPE)
	while piece := os.read(0, 80000):
	    agent.stdin.write(piece)
	    agent.stdin.flush()
	    time.sleep(len(piece) / 8e6)
	agent.stdin.close()
	agent.wait()
END
moves auto 0 20 "python3 $TEST_TMP/slow.py" --mode=precopy
result "auto, on a slow link"

# What cannot be compressed does not get larger.
noise() {
	work=$TEST_TMP/noise
	mkdir "$work"
	"$BUILD_DIR/bench/bench-victim" "$work" memory 16 && pid=$(cat "$work/pid") || return 1
	timeout -k 5 100 "$FERRY" migrate "$pid" here --pids=new --json --ssh "$ssh" --mode=stop "$@" \
		>"$work/out" 2>"$work/err" || { why="$(cat "$work/err")" && return 1; }
	pid=$(pgrep -f "^$BUILD_DIR/bench/bench-victim $work memory")
	kill -USR1 "$pid" && wait_for 20 grep -q ok "$work/report" && sent 16 17 && kill_tree "$pid"
}
noise --compress=zstd
result "memory that cannot be compressed"
finish
