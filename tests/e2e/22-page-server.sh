#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# Disk-less migration, step by step as it is told in ferry-page-server(1): with ferry in every role,
# and with real CRIU in any one. Strangers at the port; either side killed; servers that fail.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3
BENCH_VICTIM=$BUILD_DIR/bench/bench-victim

CRIU=
if [ -x "${CRIU_ROOT:=/var/tmp/ferry-criu}/usr/sbin/criu.host" ]; then
	CRIU=$CRIU_ROOT/usr/sbin/criu.host
elif [ -x "$PWD/../shared/bin/criu-root" ]; then
	CRIU=$(timeout 200 "$PWD/../shared/bin/criu-root" "$CRIU_ROOT" 2>"$TEST_TMP/criu-root.log") || CRIU=
fi

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# directories NAME: a tmpfs for each side; sets work, src, dst.
directories() {
	work=$TEST_TMP/$1
	src=$work/src
	dst=$work/dst
	mkdir -p "$src" "$dst"
	mount -t tmpfs "${@:2}" none "$src" && cleanup_fn umount -l "$src"
	mount -t tmpfs "${@:2}" none "$dst" && cleanup_fn umount -l "$dst"
}

# start_server PROGRAM [OPTION...]: in the background; sets server and port when it listens.
start_server() {
	local program=$1
	shift
	port=$(free_port)
	mkfifo "$work/ready"
	timeout -k 5 100 "$program" page-server -D "$dst" --address 127.0.0.1 --port "$port" -o server.log -v4 \
		--status-fd 7 "$@" 7>"$work/ready" >"$work/server.out" 2>&1 &
	server=$!
	[ "$(timeout 20 head -c 1 "$work/ready" | wc -c)" = 1 ] || {
		why="the server does not listen: $(cat "$work/server.out")"
		return 1
	}
}

# server_ends STATUS
server_ends() {
	local status
	wait "$server"
	status=$?
	[ $status = "$1" ] || {
		why="the server ends with $status: $(cat "$work/server.out"; tail -n 3 "$dst/server.log")"
		return 1
	}
}

# dump_to_server PROGRAM PID [OPTION...]
dump_to_server() {
	dump "$1" "$2" "$src" --page-server --address 127.0.0.1 --port "$port" "${@:3}"
}

no_images() { # DIR
	[ -z "$(find "$1" -name '*.img' -o -name '.incoming*')" ] || {
		why="there are images in ${1##*/}: $(ls -A "$1")"
		return 1
	}
}

result() { # NAME: of the last command
	if [ $? = 0 ]; then ok "$1"; else not_ok "$1" "${why:-}"; fi
}

# ---- the procedure ------------------------------------------------------------------------------

# procedure NAME SERVER DUMPER RESTORER VICTIM [ARG...]
procedure() {
	local name=$1 program=$2 dumper=$3 restorer=$4
	shift 4
	directories "$name" && start_victim "$@" && start_server "$program" || return 1
	dump_to_server "$dumper" "$pid" --leave-stopped && server_ends 0 || return 1
	[ -z "$(find "$src" -name 'pages*.img')" ] || { why="there are pages at the source" && return 1; }
	case $(sed 's/.*) //; s/ .*//' "/proc/$pid/stat") in
	T) ;;
	*) why="the program is not stopped" && return 1 ;;
	esac
	cp "$src"/*.img "$dst" # scp, between hosts
	kill_tree "$pid"
	restore "$restorer" "$dst" && verdict
}

# CRIU has a page of its own for each test: NAME SERVER DUMPER RESTORER VICTIM [ARG...]
with_criu() {
	if [ -n "$CRIU" ]; then
		procedure "$@"
		result "$1"
	else
		skip "$1" "no real CRIU here"
	fi
}

procedure ferry-alone "$FERRY" "$FERRY" "$FERRY" memory_writers 12
result ferry-alone
with_criu criu-serves "$CRIU" "$FERRY" "$FERRY" memory_writers 12
with_criu criu-dumps "$FERRY" "$CRIU" "$FERRY" memory_writers 12
with_criu criu-restores "$FERRY" "$FERRY" "$CRIU" memory_writers 12
procedure a-family "$FERRY" "$FERRY" "$FERRY" family
result a-family

# Everything in one directory, the server in the background.
in_one_directory() {
	directories one && start_victim memory_writers 8 || return 1
	port=$(timeout 20 "$FERRY" page-server -D "$dst" --daemon --pidfile server.pid -o server.log -v4) ||
		{ why="page-server --daemon: $?" && return 1; }
	server=$(cat "$dst/server.pid")
	grep -qi "0100007F:$(printf %04x "$port") 00000000:0000 0A" /proc/net/tcp ||
		{ why="it does not listen on the loopback address" && return 1; }
	dump "$FERRY" "$pid" "$dst" --page-server --port "$port" || return 1
	wait_for 10 test ! -e "/proc/$server" || { why="the server has not ended" && return 1; }
	wait_gone "$pid" && restore "$FERRY" "$dst" && verdict
}
in_one_directory
result in-one-directory

# Over a socket that both were given.
given_socket() {
	directories given && start_victim memory_writers 8 || return 1
	timeout 60 tests/e2e/page-peer pair "$FERRY" page-server -D "$dst" --ps-socket FD -- \
		"$FERRY" dump -t "$pid" -D "$src" --page-server --ps-socket FD >"$work/out" 2>&1 ||
		{ why="status $?: $(cat "$work/out")" && return 1; }
	cp "$src"/*.img "$dst"
	wait_gone "$pid" && restore "$FERRY" "$dst" && verdict
}
given_socket
result given-socket

# Memory in two parts, of which the second frees what it replaces.
incremental() {
	local blocks
	directories incremental && start_victim memory_writers 8 && mkdir "$src/1" "$dst/1" || return 1
	port=$(timeout 20 "$FERRY" page-server -D "$dst/1" --daemon -o server.log) || return 1
	timeout 60 "$FERRY" pre-dump -t "$pid" -D "$src/1" --track-mem --page-server --port "$port" >"$work/out" 2>&1 ||
		{ why="pre-dump: $(cat "$work/out")" && return 1; }
	wait_for 10 test -e "$dst/1/pagemap-$pid.img" || { why="nothing arrived" && return 1; }
	blocks=$(du -s "$dst/1" | cut -f 1)
	start_server "$FERRY" --prev-images-dir 1 --auto-dedup || return 1
	dump_to_server "$FERRY" "$pid" --prev-images-dir 1 --track-mem && server_ends 0 || return 1
	grep -q "[1-9][0-9]* left out" "$dst/server.log" || { why="no page was left out" && return 1; }
	[ "$(du -s "$dst/1" | cut -f 1)" -lt "$blocks" ] || { why="nothing was freed" && return 1; }
	cp "$src"/*.img "$dst"
	wait_gone "$pid" && restore "$FERRY" "$dst" && verdict
}
incremental
result incremental

# ---- out of images ------------------------------------------------------------------------------

# from_images NAME SERVER DAEMON RESTORER: a finished dump is served to a lazy restore.
from_images() {
	local daemon
	directories "$1" && start_victim memory_writers 8 && dump "$FERRY" "$pid" "$dst" || return 1
	wait_gone "$pid"
	cp "$dst"/*.img "$src"
	start_server "$2" --lazy-pages || return 1
	mkfifo "$work/daemon"
	timeout -k 5 60 "$3" lazy-pages -D "$src" -o lazy.log -v4 --page-server --address 127.0.0.1 \
		--port "$port" --status-fd 7 7>"$work/daemon" >"$work/lazy.out" 2>&1 &
	daemon=$!
	[ "$(timeout 20 head -c 1 "$work/daemon" | wc -c)" = 1 ] ||
		{ why="lazy-pages: $(cat "$work/lazy.out")" && return 1; }
	restore "$4" "$src" --lazy-pages || return 1
	wait $daemon || { why="lazy-pages: $(cat "$work/lazy.out"; tail -n 3 "$src/lazy.log")" && return 1; }
	server_ends 0 && verdict
}
from_images images-to-ferry "$FERRY" "$FERRY" "$FERRY"
result images-to-ferry
if [ -n "$CRIU" ]; then
	from_images images-to-criu "$FERRY" "$CRIU" "$CRIU"
	result images-to-criu
fi

# ---- strangers ----------------------------------------------------------------------------------

strangers() {
	local kind quiet=()
	directories strangers && start_victim memory_writers 8 && start_server "$FERRY" || return 1
	for kind in silent half; do
		timeout 100 tests/e2e/page-peer stranger $kind "$port" >"$work/$kind" 2>&1 &
		quiet+=($!)
		wait_for 10 test -s "$work/$kind" || { why="$kind" && return 1; }
	done
	for kind in scan garbage unknown early-close asks flags pages-of-nothing no-object twice open-close \
		many-objects reset scan; do
		timeout 30 tests/e2e/page-peer stranger $kind "$port" >"$work/$kind" 2>&1 ||
			{ why="$kind: $(tail -n 1 "$work/$kind")" && return 1; }
	done
	no_images "$dst" && kill -0 "$server" && dump_to_server "$FERRY" "$pid" && server_ends 0 || return 1
	kill "${quiet[@]}"
	[ "$(grep -c dropped: "$dst/server.log")" -ge 15 ] ||
		{ why="the log tells too little: $(grep dropped: "$dst/server.log")" && return 1; }
	cp "$src"/*.img "$dst"
	wait_gone "$pid" && restore "$FERRY" "$dst" && verdict
}
strangers
result strangers

# While the transfer runs, nobody is let in, and nothing is disturbed.
strangers_meanwhile() {
	local knocks=0
	directories meanwhile && start_victim memory_writers 64 && start_server "$FERRY" || return 1
	dump_to_server "$FERRY" "$pid" &
	while kill -0 $! 2>/dev/null && [ $knocks -lt 50 ]; do
		timeout 10 tests/e2e/page-peer stranger garbage "$port" >/dev/null 2>&1
		knocks=$((knocks + 1))
	done
	wait $! || { why="the dump failed: $(tail -n 1 "$src/dump.log")" && return 1; }
	server_ends 0 || return 1
	cp "$src"/*.img "$dst"
	wait_gone "$pid" && restore "$FERRY" "$dst" && verdict
}
strangers_meanwhile
result strangers-meanwhile

# ---- failures -----------------------------------------------------------------------------------

# A program of 16 MiB that knows when it was damaged; sets pid.
program() {
	mkdir -p "$work/victim"
	"$BENCH_VICTIM" "$work/victim" memory 16 >"$work/victim.out" 2>&1 || { why="the victim: $(cat "$work/victim.out")"; return 1; }
	pid=$(cat "$work/victim/pid")
}

runs_well() {
	rm -f "$work/victim/report"
	kill -USR1 "$pid" && wait_for 20 test -s "$work/victim/report" && grep -q ok "$work/victim/report" &&
		return
	why="the program does not run well: $(sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>&1)"
	return 1
}

# The dump must fail, with these words, and the program run on.
dump_fails() { # WORDS
	local words=$1
	if dump_to_server "$FERRY" "$pid"; then
		why="the dump succeeded"
		return 1
	fi
	case $why in
	*"$words"*) ;;
	*) why="it does not say '$words' but: $why" && return 1 ;;
	esac
	no_images "$src" && runs_well && kill_tree "$pid"
}

# start_relay: what goes to the server stops after 2 MiB.
start_relay() {
	timeout 60 tests/e2e/page-peer relay "$port" "$work/port" >"$work/peer.out" 2>&1 &
	wait_for 20 test -s "$work/port" || { why="page-peer: $(cat "$work/peer.out")"; return 1; }
	port=$(cat "$work/port")
}

killed_server() {
	directories killed-server && program && start_server "$FERRY" && start_relay || return 1
	(
		wait_for 20 test -e "$work/port.stalled"
		kill -KILL "$(pgrep -P "$server")"
	) &
	dump_fails "the server closed the connection" && no_images "$dst"
}
killed_server
result server-killed

killed_dump() {
	directories killed-dump && program && start_server "$FERRY" && start_relay || return 1
	timeout -k 5 60 "$FERRY" dump -t "$pid" -D "$src" --page-server --port "$port" >"$work/out" 2>&1 &
	wait_for 20 test -e "$work/port.stalled" || { why="nothing stalls: $(cat "$work/out")" && return 1; }
	kill -KILL "$(pgrep -P $!)"
	server_ends 1 && no_images "$dst" && no_images "$src" || return 1
	grep -q "transfer failed, and nothing of it is kept" "$work/server.out" ||
		{ why="the server says: $(cat "$work/server.out")"; return 1; }
	runs_well && kill_tree "$pid"
}
killed_dump 2>/dev/null
result dump-killed

nobody_listens() {
	directories nobody && program || return 1
	port=$(free_port)
	dump_fails "Connection refused"
}
nobody_listens
result nobody-listens

full_disk() {
	directories full -o size=8m && program && start_server "$FERRY" || return 1
	dump_fails "the server closed the connection" && server_ends 1 && no_images "$dst" || return 1
	grep -q "No space left" "$work/server.out" || { why="the server says: $(cat "$work/server.out")"; return 1; }
}
full_disk
result full-disk

# bad_server KIND WORDS
bad_server() {
	directories "bad-$1" && program || return 1
	timeout 60 tests/e2e/page-peer server "$1" "$work/port" >"$work/peer.out" 2>&1 &
	wait_for 20 test -s "$work/port" || { why="page-peer: $(cat "$work/peer.out")"; return 1; }
	port=$(cat "$work/port")
	dump_fails "$2"
}
while read -r kind words; do
	bad_server "$kind" "$words"
	result "server-$kind"
done <<'END'
wrong-parent answer 7 to PARENT
wrong-answer answer 5 to OPEN2
reset the server closed the connection
closes the server closed the connection
silent-end no answer to CLOSE
bad-status could not store the memory (status -5)
END

# A server that takes nothing more: the user need not wait.
interrupted() {
	directories interrupted && program || return 1
	timeout 60 tests/e2e/page-peer server stalls "$work/port" >"$work/peer.out" 2>&1 &
	wait_for 20 test -s "$work/port" || { why="page-peer: $(cat "$work/peer.out")"; return 1; }
	port=$(cat "$work/port")
	(
		wait_for 20 test -e "$work/port.stalled"
		pkill -TERM -f "ferry dump -t $pid -D $src"
	) &
	dump_fails "interrupted by SIGTERM"
}
interrupted
result interrupted

wrong_use() { # STATUS WORDS OPTION...
	local status=$1 words=$2 output
	shift 2
	output=$(timeout 20 "$FERRY" "$@" 2>&1 </dev/null)
	[ $? = "$status" ] && [[ $output == *"$words"* ]] || { why="$* says: $output"; return 1; }
}
wrong_use 2 "--page-server needs --port" dump -t 1 --page-server &&
	wrong_use 2 "--ps-socket excludes" page-server --ps-socket 3 --port 4 &&
	wrong_use 1 "cannot listen on 192.0.2.1" page-server -D "$TEST_TMP" --address 192.0.2.1 --port 4 &&
	wrong_use 1 "non-socket" page-server -D "$TEST_TMP" --ps-socket 0
result wrong-use
finish
