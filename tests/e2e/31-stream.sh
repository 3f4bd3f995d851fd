#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
# A snapshot as one stream (-D -): through pipes, compressors and files; what becomes of the program; everything
# that is no good stream is refused, and leaves the program alone and nothing behind.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3

result() { # NAME: of the last command
	if [ $? = 0 ]; then ok "$1"; else not_ok "$1" "${why:-}"; fi
}

# dump_stream PID [OPTION...]: the stream on stdout; words in $TEST_TMP/dump.out.
dump_stream() {
	timeout -k 5 60 "$FERRY" dump -t "$1" -D - -W "$TEST_TMP" -o dump.log -v4 "${@:2}" 2>"$TEST_TMP/dump.out" </dev/null
}

# restore_stream [OPTION...]: of stdin.
restore_stream() {
	# shellcheck disable=SC2046
	timeout -k 5 60 "$FERRY" restore -d -D - -W "$TEST_TMP" -o restore.log -v4 "$@" >"$TEST_TMP/restore.out" 2>&1
}

failed_dump() {
	why="dump: $(cat "$TEST_TMP/dump.out")"
	return 1
}

failed_restore() {
	why="restore: $(cat "$TEST_TMP/restore.out")"
	return 1
}

state() {
	sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null
}

# through FILTER BACK VICTIM [ARG...]: the stream through a filter and its reverse.
through() {
	local filter=$1 back=$2 options status
	shift 2
	start_victim "$@" || return 1
	options=$(victim_options "$1")
	# shellcheck disable=SC2086
	dump_stream "$pid" --kill $options | $filter >"$vdir/stream"
	status="${PIPESTATUS[*]}"
	[ "$status" = "0 0" ] || { failed_dump; return 1; }
	[ -s "$TEST_TMP/dump.out" ] && { why="dump is not silent: $(cat "$TEST_TMP/dump.out")" && return 1; }
	wait_gone "$pid" || { why="it is still there" && return 1; }
	# shellcheck disable=SC2086
	$back <"$vdir/stream" | restore_stream $options || { failed_restore; return 1; }
	[ -s "$TEST_TMP/restore.out" ] && { why="restore is not silent: $(cat "$TEST_TMP/restore.out")" && return 1; }
	verdict
	status=$?
	kill_tree "$pid"
	return $status
}

for victim in family memfd mem_anon_shared mem_file_private ghost cow; do
	through cat cat $victim
	result "$victim"
done
for filter in lz4 zstd; do
	if command -v $filter >/dev/null; then
		through "$filter -c -1" "$filter -dc" memory_writers 8
		result "through-$filter"
	else
		skip "through-$filter" "$filter is not installed"
	fi
done

# ---- compressed ---------------------------------------------------------------------------------

mib=24

comes_back() { # STREAM LEAST-MIB MOST-MIB: so large, and it is the program
	local n=$(($(stat -c %s "$1") >> 20))
	[ "$n" -ge "$2" ] && [ "$n" -le "$3" ] || { why="the stream has $n MiB" && return 1; }
	wait_gone "$pid" || { why="it is still there" && return 1; }
	restore_stream <"$1" || { failed_restore; return 1; }
	kill -USR1 "$pid" && wait_for 20 test -s "$work/report" && grep -q ok "$work/report" ||
		{ why="its memory: $(cat "$work/report")" && return 1; }
	kill_tree "$pid"
}

# compressed CODEC LEAST-MIB MOST-MIB VERSION: and what a reader must know at least
compressed() {
	local version
	# shellcheck disable=SC2086 # one word, or none
	text_program $mib "text-$1${what:-}" ${what:-} || return 1
	dump_stream "$pid" --kill --compress="$1" >"$work/stream" || { failed_dump; return 1; }
	version=$(od -An -tu2 -j 10 -N 2 "$work/stream")
	[ "$version" -eq "$4" ] || { why="a reader must know version $version" && return 1; }
	comes_back "$work/stream" "$2" "$3"
}
compressed lz4 0 12 2
result lz4
what=pages compressed lz4 0 12 2
result "the same pages again and again, which lz4 would not find"
compressed zstd 0 12 2
result zstd
compressed none $mib 100 1
result not-compressed

# A reader of 8 MB/s: compression is faster on any machine.
slow_reader() {
	text_program $mib slow-reader || return 1
	dump_stream "$pid" --kill | python3 -c '
import os, time
while piece := os.read(0, 80000):
    os.write(1, piece)
    time.sleep(len(piece) / 8e6)' >"$work/stream"
	[ "${PIPESTATUS[0]}" = 0 ] || { failed_dump; return 1; }
	comes_back "$work/stream" 0 20
}
slow_reader
result slow-reader

# A restore holds no second copy of what it reads: of 300 MiB at most the 128 that may be ahead of it, and what it needs itself.
holds_little() {
	local most
	work=$TEST_TMP/holds-little
	mkdir "$work"
	"$BUILD_DIR/bench/bench-victim" "$work" memory 300 && pid=$(cat "$work/pid") || return 1
	dump_stream "$pid" --kill --compress=none >"$work/stream" || { failed_dump; return 1; }
	wait_gone "$pid" || { why="it is still there" && return 1; }
	python3 -c '
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdin=open("'"$work"'/stream", "rb")).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
sys.exit(status)' timeout -k 5 60 "$FERRY" restore -d -D - -W "$TEST_TMP" -o restore.log -v4 >"$work/most" 2>"$TEST_TMP/restore.out" ||
		{ failed_restore; return 1; }
	most=$(cat "$work/most")
	echo "# at most $most MiB"
	[ "$most" -ge 20 ] && [ "$most" -le 220 ] || { why="the restore took $most MiB" && return 1; }
	kill -USR1 "$pid" && wait_for 20 test -s "$work/report" && grep -q ok "$work/report" || { why="its memory is not whole" && return 1; }
	kill_tree "$pid"
	rm "$work/stream"
}
holds_little
result holds-little

# In a pid namespace of its own, while the original is still there.
beside_the_original() {
	start_victim memory_writers 4 || return 1
	dump_stream "$pid" -R >"$vdir/stream" || failed_dump || return 1
	restore_stream --pids=new <"$vdir/stream" || failed_restore || return 1
	alive "$pid" || { why="the original is gone" && return 1; }
	[ "$(own_processes | wc -l)" -ge 2 ] || { why="there is no second one" && return 1; }
}
beside_the_original
result new-pids
for p in $(own_processes); do kill -KILL "$p" 2>/dev/null; done

# Nobody confirms a stream: the tree stays, stopped, and that is said.
left_stopped() {
	start_victim memory_writers 4 || return 1
	dump_stream "$pid" >"$vdir/stream" || failed_dump || return 1
	grep -q "pid $pid and its descendants are left stopped" "$TEST_TMP/dump.out" || { why="it is not said" && return 1; }
	[ "$(state "$pid")" = T ] || { why="its state is $(state "$pid")" && return 1; }
	# shellcheck disable=SC2046
	kill -CONT $(descendants "$pid")
	verdict
}
left_stopped
result left-stopped
kill_tree "$pid"

# ---- what is no good stream ---------------------------------------------------------------------

start_victim memory_writers 4 || not_ok start "$why"
good=$TEST_TMP/good
dump_stream "$pid" -R --compress=none >"$good"
kill -STOP "$pid" # its pids are taken by nobody else meanwhile
kill_tree "$pid"

# refused NAME TEXT FILE: restore says TEXT, and nothing of the tree is left.
refused() {
	local left
	if restore_stream <"$3"; then
		not_ok "$1" "it was restored"
		kill_tree "$pid"
	elif ! grep -q -- "$2" "$TEST_TMP/restore.out"; then
		not_ok "$1" "it says: $(cat "$TEST_TMP/restore.out")"
	elif [ "$(wc -l <"$TEST_TMP/restore.out")" != 1 ]; then
		not_ok "$1" "more than one sentence: $(cat "$TEST_TMP/restore.out")"
	elif left=$(own_processes) && [ -n "$left" ]; then
		not_ok "$1" "there are still processes: $left"
	else
		ok "$1"
	fi
}

# damaged OFFSET BIT: of the good stream; negative offsets count from its end.
damaged() {
	python3 - "$good" "$TEST_TMP/bad" "$@" <<-'EOF'
		import sys
		data = bytearray(open(sys.argv[1], "rb").read())
		data[int(sys.argv[3])] ^= 1 << int(sys.argv[4])
		open(sys.argv[2], "wb").write(data)
	EOF
}

size=$(stat -c %s "$good")
damaged 200000 3
refused flipped-bit-of-a-page "damaged" "$TEST_TMP/bad"
damaged 30 0
refused flipped-bit-of-a-header "damaged" "$TEST_TMP/bad"
damaged -3 7
refused flipped-bit-of-the-end "damaged" "$TEST_TMP/bad"
for cut in 0 7 100 $((size / 2)) $((size - 1)); do
	head -c "$cut" "$good" >"$TEST_TMP/bad"
	[ "$cut" = 0 ] && text="is empty" || text="ends before it is complete"
	refused "cut-at-$cut" "$text" "$TEST_TMP/bad"
done
# with_version FILE VERSION LOWEST: the good stream, with another preamble.
with_version() {
	python3 - "$good" "$@" <<-'EOF'
		import sys
		data = bytearray(open(sys.argv[1], "rb").read())
		data[8:12] = bytes([int(sys.argv[3]), 0, int(sys.argv[4]), 0])
		crc = 0xffffffff
		for byte in data[:12]:
		    crc ^= byte
		    for _ in range(8):
		        crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
		data[12:16] = (crc ^ 0xffffffff).to_bytes(4, "little")
		open(sys.argv[2], "wb").write(data)
	EOF
}
with_version "$TEST_TMP/bad" 7 5
refused newer-version "version 7.*use a newer one" "$TEST_TMP/bad"
echo "ssh: connect to host b port 22: Connection refused" >"$TEST_TMP/bad"
refused an-error-message "begins with 'ssh: connect to" "$TEST_TMP/bad"
if command -v zstd >/dev/null; then
	zstd -qc "$good" >"$TEST_TMP/bad"
	refused still-compressed "compressed or encrypted" "$TEST_TMP/bad"
fi
# blocks in another order
python3 - "$good" "$TEST_TMP/bad" <<-'EOF'
	import struct, sys
	data = open(sys.argv[1], "rb").read()
	blocks, at = [], 16
	while at < len(data):
	    size = 24 + struct.unpack_from("<I", data, at + 4)[0]
	    blocks.append(data[at:at + size])
	    at += size
	blocks[3], blocks[4] = blocks[4], blocks[3]
	open(sys.argv[2], "wb").write(data[:16] + b"".join(blocks))
EOF
refused swapped-blocks "is missing" "$TEST_TMP/bad"
# and the good one is good; also as ferry wrote it before streams could be compressed
good_one() { # FILE
	restore_stream <"$1" || failed_restore || return 1
	verdict
}
good_one "$good"
result the-good-one
kill_tree "$pid"
with_version "$TEST_TMP/old" 1 1
good_one "$TEST_TMP/old"
result older-version
kill_tree "$pid"

# ---- a dump that fails --------------------------------------------------------------------------

# The reader goes away in the middle: the tree runs on as if nothing had been.
reader_gone() {
	start_victim memory_writers 6 || return 1
	dump_stream "$pid" --kill | head -c 50000 >/dev/null
	[ "${PIPESTATUS[0]}" = 1 ] || { why="status ${PIPESTATUS[0]}" && return 1; }
	grep -q "its reader is gone" "$TEST_TMP/dump.out" || failed_dump || return 1
	verdict
}
reader_gone
result reader-gone
kill_tree "$pid"

# A reader that reads nothing: Ctrl-C ends the dump, and the tree runs on.
reader_stalls() {
	local dumper reader
	start_victim memory_writers 6 || return 1
	mkfifo "$vdir/pipe"
	sleep 60 <"$vdir/pipe" &
	reader=$!
	rm -f "$TEST_TMP/dump.log"
	"$FERRY" dump -t "$pid" -D - -W "$TEST_TMP" -o dump.log -v4 --kill >"$vdir/pipe" 2>"$TEST_TMP/dump.out" &
	dumper=$!
	wait_for 20 grep -qs "collected" "$TEST_TMP/dump.log" || { why="it does not begin" && return 1; }
	kill -TERM "$dumper"
	wait_for 20 test ! -e "/proc/$dumper" || { why="it goes on" && kill -KILL "$dumper" && return 1; }
	kill "$reader"
	grep -q "interrupted by SIGTERM" "$TEST_TMP/dump.out" || failed_dump || return 1
	verdict
}
reader_stalls
result interrupted
kill_tree "$pid"

# The store fails at each of many calls; the reader hears why.
faults() {
	local at
	start_victim memory_writers 4 || return 1
	for at in 1 2 5 9 14; do
		FERRY_STORE_FAULT=$at:28 dump_stream "$pid" --kill >"$vdir/stream" &&
			{ why="call $at did not fail" && return 1; }
		grep -q "injected fault" "$TEST_TMP/dump.out" || failed_dump || return 1
		restore_stream --pids=new <"$vdir/stream" && { why="what failed at call $at was restored" && return 1; }
		grep -q "the dump failed: .*injected fault" "$TEST_TMP/restore.out" || failed_restore || return 1
	done
	verdict
}
faults
result faults-of-the-writer
kill_tree "$pid"

# What is refused before anything is stopped is told to the reader, too.
refused_before() {
	setsid unshare --net sleep 300 </dev/null >/dev/null 2>&1 &
	pid=$!
	wait_for 10 grep -qs sleep "/proc/$pid/comm" || return 1
	dump_stream "$pid" >"$TEST_TMP/refused" && { why="it was dumped" && return 1; }
	restore_stream <"$TEST_TMP/refused" && { why="it was restored" && return 1; }
	grep -q "the dump failed: pid $pid is in a net namespace" "$TEST_TMP/restore.out" || failed_restore
}
refused_before
result refused-before-the-freeze
kill "$pid"

reader_faults() {
	local at
	for at in 1 3 8 15; do
		FERRY_STORE_FAULT=$at:5 restore_stream <"$good" && { why="call $at did not fail" && return 1; }
		grep -q "injected fault" "$TEST_TMP/restore.out" || failed_restore || return 1
		[ -z "$(own_processes)" ] || { why="call $at: there are processes" && return 1; }
	done
}
reader_faults
result faults-of-the-reader

# ---- wrongly called -----------------------------------------------------------------------------

usage() { # NAME TEXT COMMAND...
	local output
	output=$(timeout -k 5 20 "${@:3}" 2>&1 </dev/null)
	if [ $? = 2 ] && echo "$output" | grep -q -- "$2"; then ok "$1"; else not_ok "$1" "$output"; fi
}
usage lazy-pages "excludes" "$FERRY" dump -t 1 -D - --lazy-pages --port 1
usage page-server "excludes" "$FERRY" dump -t 1 -D - --page-server --port 1
usage kill-alone "with -D - only" "$FERRY" dump -t 1 -D /tmp --kill
usage compress-alone "stream that is written" "$FERRY" dump -t 1 -D /tmp --compress=lz4
usage kill-and-run "excludes" "$FERRY" dump -t 1 -D - --kill -R
usage terminal "is a terminal" script -qec "$FERRY dump -t 1 -D -" /dev/null

finish
