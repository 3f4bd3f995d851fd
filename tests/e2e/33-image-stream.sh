#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# Real CRIU with --stream, and ferry image-stream where criu-image-streamer would be: what CRIU streams, CRIU and ferry
# restore, through a pipe and through relays; what ferry streams, CRIU restores. A dump that fails half way
# is no snapshot, and a stranger's words end nothing but his own connection.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3

CRIU_ROOT=${CRIU_ROOT:-/var/tmp/ferry-criu}
script=$PWD/../shared/bin/criu-root
if [ -x "$CRIU_ROOT/usr/sbin/criu.host" ]; then
	CRIU=$CRIU_ROOT/usr/sbin/criu.host
elif [ -x "$script" ]; then
	CRIU=$(timeout 200 "$script" "$CRIU_ROOT" 2>"$TEST_TMP/criu-root.log") ||
		skip_all "no real CRIU: $(tail -n 1 "$TEST_TMP/criu-root.log")"
else
	skip_all "no real CRIU here (../shared/bin/criu-root is absent)"
fi

# shellcheck source=tests/e2e/relay-lib.sh
. tests/e2e/relay-lib.sh

# streamer MODE DIR [OPTION...] <IN >OUT: in the background; sets streamer when it listens.
streamer() {
	local mode=$1 dir=$2
	shift 2
	rm -f "$dir/ready"
	mkfifo "$dir/ready"
	timeout -k 5 100 "$FERRY" image-stream "$mode" -D "$dir" -o "$mode.log" -v4 --status-fd 7 "$@" 7>"$dir/ready" \
		2>"$dir/$mode.err" <&0 &
	streamer=$!
	[ "$(timeout 20 head -c 1 "$dir/ready" | wc -c)" = 1 ] || {
		why="image-stream $mode does not listen: $(cat "$dir/$mode.err")"
		return 1
	}
}

ended() { # MODE DIR: it has ended well
	wait "$streamer" || { why="image-stream $1: $(cat "$2/$1.err")" && return 1; }
}

# criu_dump PID DIR [OPTION...]
criu_dump() {
	timeout -k 5 60 "$CRIU" dump --stream -t "$1" -D "$2" -o dump.log -v4 "${@:3}" >"$2/dump.out" 2>&1 </dev/null ||
		{ why="criu dump: $(reason "$(cat "$2/dump.out")" "$2/dump.log")" && return 1; }
}

criu_restore() { # DIR
	timeout -k 5 60 "$CRIU" restore --stream -d -D "$1" -o restore.log -v4 >"$1/restore.out" 2>&1 </dev/null ||
		{ why="criu restore: $(reason "$(cat "$1/restore.out")" "$1/restore.log")" && return 1; }
}

ferry_restore() { # DIR STREAM
	timeout -k 5 60 "$FERRY" restore -d -D - -W "$1" -o restore.log -v4 <"$2" >"$1/restore.out" 2>&1 ||
		{ why="ferry restore: $(cat "$1/restore.out")" && return 1; }
}

# start VICTIM [ARG...]: and a directory for its sockets.
start() {
	start_victim "$@" || return 1
	dir=$vdir/images
	mkdir -p "$dir"
}

dump_stream() { # STREAM: of the victim, by CRIU
	streamer capture "$dir" >"$1" || return 1
	criu_dump "$pid" "$dir" || return 1
	ended capture "$dir" && wait_gone "$pid"
}

no_images() {
	[ -z "$(find "$dir" -name '*.img')" ] || { why="there are images: $(ls "$dir")" && return 1; }
	[ ! -e "$dir/streamer-capture.sock" ] && [ ! -e "$dir/streamer-serve.sock" ] ||
		{ why="a socket is left" && return 1; }
}

criu_to_criu() {
	start "$@" || return 1
	dump_stream "$dir/stream" || return 1
	streamer serve "$dir" <"$dir/stream" >"$dir/serve.out" || return 1
	criu_restore "$dir" && ended serve "$dir" && no_images && verdict
}

criu_to_ferry() {
	start "$@" || return 1
	dump_stream "$dir/stream" && ferry_restore "$dir" "$dir/stream" && verdict
}

ferry_to_criu() {
	start "$@" || return 1
	timeout -k 5 60 "$FERRY" dump -t "$pid" -D - -W "$dir" -o dump.log -v4 >"$dir/stream" 2>"$dir/dump.out" ||
		{ why="ferry dump: $(cat "$dir/dump.out")" && return 1; }
	kill_tree "$pid" # left stopped, as nobody confirms a stream
	streamer serve "$dir" <"$dir/stream" >"$dir/serve.out" || return 1
	criu_restore "$dir" && ended serve "$dir" && verdict
}

for victim in "memory_writers 24" family mem_anon_shared; do
	name=${victim%% *}
	for way in criu_to_criu criu_to_ferry ferry_to_criu; do
		# shellcheck disable=SC2086
		$way $victim
		result "$way $name"
		kill_tree "$pid"
	done
done

# ---- relays -------------------------------------------------------------------------------------

# Both ends at once. (CRIU writes its inventory last, which a restore needs first; so the relays must have room for all.)
through_relays() {
	local capture serve restorer
	relays through || return 1
	start memory_writers 24 || return 1
	streamer capture "$src" --remote || return 1
	capture=$streamer
	# its pid is taken as long as the dump lasts, so this restore is not CRIU's
	timeout -k 5 90 "$FERRY" restore -d --remote --pids=new -D "$dst" -W "$dst" -o restore.log -v4 >"$dst/restore.out" 2>&1 \
		</dev/null &
	restorer=$!
	criu_dump "$pid" "$src" || return 1
	streamer=$capture
	ended capture "$src" || return 1
	wait $restorer || { why="ferry restore: $(cat "$dst/restore.out")" && return 1; }
	verdict || return 1
	start memory_writers 8 || return 1
	timeout -k 5 60 "$FERRY" dump -t "$pid" --remote --snapshot two -D "$src" -W "$src" >"$src/dump.out" 2>&1 ||
		{ why="ferry dump: $(cat "$src/dump.out")" && return 1; }
	wait_gone "$pid"
	streamer serve "$dst" --remote --snapshot two || return 1
	serve=$streamer
	criu_restore "$dst" || return 1
	streamer=$serve
	ended serve "$dst" && verdict
}
through_relays
result relays
kill_tree "$pid"

# ---- what must not work -------------------------------------------------------------------------

# CRIU refuses in the middle, by a script of the user's: no snapshot, and the program runs on.
half() {
	start memory_writers 8 || return 1
	printf '#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != network-lock ] && [ "$CRTOOLS_SCRIPT_ACTION" != pre-dump ]\n' >"$dir/no"
	chmod 755 "$dir/no"
	streamer capture "$dir" >"$dir/stream" || return 1
	criu_dump "$pid" "$dir" --action-script "$dir/no" && { why="criu's dump went well" && return 1; }
	wait "$streamer" && { why="half a dump was taken for a snapshot" && return 1; }
	grep -q "ended its dump before it was complete" "$dir/capture.err" || { why="$(cat "$dir/capture.err")" && return 1; }
	ferry_restore "$dir" "$dir/stream" && { why="half a dump was restored" && return 1; }
	verdict
}
half
result half-a-dump
kill_tree "$pid"

# What is no request, and a descriptor that is no pipe, are named.
nonsense() { # TEXT PYTHON
	dir=$TEST_TMP/nonsense
	mkdir -p "$dir"
	streamer capture "$dir" >"$dir/stream" || return 1
	timeout 20 python3 - "$dir/streamer-capture.sock" <<-EOF || { why="python" && return 1; }
		import array, socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		$2
		s.shutdown(socket.SHUT_WR)
		try:
		    s.recv(1)
		except ConnectionResetError:
		    pass
	EOF
	wait "$streamer" && { why="it ended well" && return 1; }
	grep -q -- "$1" "$dir/capture.err" || { why="$(cat "$dir/capture.err")" && return 1; }
}
nonsense "a request of 4294967295 bytes" 's.send(b"\xff\xff\xff\xffx")' &&
	nonsense "cannot be the name" 's.send(b"\x0c\0\0\0\x0a\x0a../../../x")' &&
	nonsense "is no pipe" 's.send(b"\x07\0\0\0\x0a\x05x.img"); s.sendmsg([b"\0"], [(1, 1, array.array("i", [s.fileno()]))])' &&
	nonsense "without its descriptor" 's.send(b"\x07\0\0\0\x0a\x05x.img\0")' &&
	nonsense "the stream ends before" 's.send(b"\x07\0\0")'
result nonsense
finish
