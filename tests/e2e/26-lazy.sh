#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# Trees that run before their memory is there: from local images and from the frozen source, with
# real CRIU in any one role, over a slow link, over one that breaks, and with the daemon killed.
# Names as arguments: only those cases.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3 unshare

CRIU_ROOT=${CRIU_ROOT:-/var/tmp/ferry-criu}
script=$PWD/../shared/bin/criu-root
CRIU=
if [ -x "$CRIU_ROOT/usr/sbin/criu.host" ]; then
	CRIU=$CRIU_ROOT/usr/sbin/criu.host
elif [ -x "$script" ]; then
	CRIU=$(timeout 200 "$script" "$CRIU_ROOT" 2>"$TEST_TMP/criu-root.log") || CRIU=
fi
cases=" $* "

wanted() {
	[ "$cases" = "  " ] || [[ $cases == *" $1 "* ]]
}

# free_port: a port of the loopback that nobody listens at.
free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

listens() { # PORT
	grep -q "0100007F:$(printf %04X "$1") 00000000:0000 0A" /proc/net/tcp
}

# begin NAME MIB: a lively victim in a directory of its own; sets vdir, pid, images.
begin() {
	name=$1
	restored=
	daemon=
	source=
	start_victim mem_lively "$2" || {
		not_ok "$name" "$why"
		return 1
	}
	images=$vdir/images
	mkdir "$images"
}

# lazy_daemon ENGINE [OPTION...]: in the background, ready when this returns; sets daemon.
lazy_daemon() {
	local engine=$1
	shift
	timeout -k 5 100 "$engine" lazy-pages -D "$images" -o lazy.log -v4 "$@" >"$images/lazy.out" 2>&1 &
	daemon=$!
	wait_for 30 test -S "$images/lazy-pages.socket" || {
		why="the daemon is not ready: $(cat "$images/lazy.out")"
		return 1
	}
}

# lazy_source ENGINE: dumps, and serves what it kept; sets source and port.
lazy_source() {
	local engine=$1
	port=$(free_port)
	timeout -k 5 100 env ${preload:+LD_PRELOAD=$preload} "$engine" dump -t "$pid" -D "$images" -o dump.log -v4 \
		--lazy-pages --address 127.0.0.1 --port "$port" >"$images/dump.out" 2>&1 &
	source=$!
	wait_for 40 listens "$port" && wait_for 40 test -e "$images/inventory.img" || {
		why="the source does not listen: $(cat "$images/dump.out") $(grep -m 2 Error "$images/dump.log")"
		return 1
	}
}

# In a pid namespace of its own, for the source still has the pids. The restore waits for the tree.
lazy_restore() { # ENGINE
	local engine=$1
	if [ "$engine" = "$FERRY" ]; then
		timeout -k 5 100 "$engine" restore -D "$images" -o restore.log -v4 --lazy-pages --pids=new \
			>"$images/restore.out" 2>&1 </dev/null &
	else
		timeout -k 5 100 unshare -p -f --mount-proc "$engine" restore -D "$images" -o restore.log -v4 \
			--lazy-pages >"$images/restore.out" 2>&1 </dev/null &
	fi
	restored=$!
}

# The verdict comes from the restored tree: the source is frozen, or dead. Then everybody must end well.
finish_well() { # SECONDS
	local status
	sleep 0.3
	if ! verdict_only 60; then
		return 1
	fi
	wait "$daemon" || {
		why="the daemon ends with $?: $(cat "$images/lazy.out")"
		return 1
	}
	if [ -n "$source" ]; then
		wait "$source"
		status=$?
		[ $status = 0 ] || {
			why="the source ends with $status: $(cat "$images/dump.out")"
			return 1
		}
		wait_gone "$pid" || {
			why="the source still has the tree"
			return 1
		}
	fi
}

# As verdict of lib.sh, but the pid that is known is the source's.
verdict_only() {
	: >"$vdir/verify"
	wait_for "$1" test -e "$vdir/result" || {
		why="no verdict: $(cat "$images"/*.out) $(tail -n 3 "$images/lazy.log")"
		return 1
	}
	why=$(cat "$vdir/result")
	[ "$why" = PASS ]
}

conclude() { # STATUS
	if [ "$1" = 0 ]; then
		ok "$name"
	else
		not_ok "$name" "$why"
	fi
	end
}

end() {
	local p
	for p in $daemon $source $restored; do
		kill_tree "$p"
	done
	[ -z "$pid" ] || kill_tree "$pid"
	daemon='' source='' restored=''
	[ -n "${KEEP:-}" ] || rm -rf "$vdir"
}

# local_case NAME DAEMON RESTORER
local_case() {
	local engine_daemon=$2 engine_restore=$3
	wanted "$1" || return
	begin "$1" 8 || return
	dump "$FERRY" "$pid" "$images" && wait_gone "$pid" &&
		lazy_daemon "$engine_daemon" && lazy_restore "$engine_restore" && finish_well
	conclude $?
}

# remote_case NAME SOURCE DAEMON RESTORER
remote_case() {
	wanted "$1" || return
	begin "$1" 8 || return
	lazy_source "$2" && lazy_daemon "$3" --page-server --address 127.0.0.1 --port "$port" &&
		lazy_restore "$4" && finish_well
	conclude $?
}

# slow_link RATE: puts a slow link before the source's port; sets port and link.
slow_link() {
	link=$vdir/link
	"$PWD/tests/e2e/slow-link" "$link" "$port" "$1" &
	cleanup_fn kill -KILL $!
	wait_for 10 test -e "$link" || return 1
	port=$(cat "$link")
}

# The lazy phase lasts for seconds: the tree forks, moves and discards memory in it.
slow_case() {
	wanted slow || return
	begin slow 6 || return
	lazy_source "$FERRY" && slow_link 2500000 &&
		lazy_daemon "$FERRY" --page-server --address 127.0.0.1 --port "$port" && lazy_restore "$FERRY" && {
		wait_for 30 test -s "$images/restore.log" && sleep 2.5 && finish_well
	}
	local status=$?
	if [ $status = 0 ] && ! grep -qE " [1-9][0-9]* forks" "$images/lazy.log"; then
		why="no fork fell into the lazy phase: $(tail -n 1 "$images/lazy.log")"
		status=1
	fi
	conclude $status
}

# cut_case NAME: the link is cut twice for a second while pages are missing.
cut_case() {
	wanted cut || return
	begin cut 6 || return
	lazy_source "$FERRY" && slow_link 2500000 &&
		lazy_daemon "$FERRY" --page-server --address 127.0.0.1 --port "$port" && lazy_restore "$FERRY" && {
		for _ in 1 2; do
			sleep 0.8
			: >"$link.cut"
			sleep 1
			rm "$link.cut"
		done
		finish_well
	}
	local status=$?
	if [ $status = 0 ] && ! grep -q "connected again" "$images/lazy.log"; then
		why="the cut was not noticed: $(tail -n 1 "$images/lazy.log")"
		status=1
	fi
	conclude $status
}

# The daemon is killed while pages are missing: the tree ends, and no page of zeros is seen. The
# source, from which pages were taken, is left stopped: nothing runs twice.
killed_case() {
	local status=1 end found
	wanted killed || return
	begin killed 6 || return
	if lazy_source "$FERRY" && slow_link 1500000 &&
		lazy_daemon "$FERRY" --page-server --address 127.0.0.1 --port "$port" && lazy_restore "$FERRY" &&
		wait_for 20 grep -qs "lets it run\|stop: \|registers: " "$images/restore.log" && sleep 1; then
		kill_daemon
		wait "$restored"
		end=$?
		found=$(cat "$vdir/result" "$vdir/reason" 2>/dev/null)
		why="the restored tree ends with $end instead of 137; $found"
		[ $end = 137 ] && [ -z "$found" ] && status=0
	fi
	if [ $status = 0 ] && ! [[ $(sed 's/.*) //; s/ .*//' "/proc/$pid/stat") == [tT] ]]; then
		why="the source, from which pages were taken, is not stopped"
		status=1
	fi
	conclude $status
}

# timeout(1) is the parent of the daemon, which is in the same group.
kill_daemon() {
	kill -KILL "$(pgrep -P "$daemon" | head -n 1)"
}

# The daemon says nothing any more, and tasks that are made wait for memory: whoever waits for the restore can
# end it, and then nothing of the tree is left.
silent_case() {
	local status=1 end
	wanted silent || return
	begin silent 6 || return
	if dump "$FERRY" "$pid" "$images" && wait_gone "$pid" && lazy_daemon "$FERRY"; then
		kill -STOP "$(pgrep -P "$daemon" | head -n 1)"
		lazy_restore "$FERRY"
		why="it does not wait for memory"
		if wait_for 20 grep -qs "descriptors: " "$images/restore.log" && sleep 1; then
			kill -TERM "$(pgrep -P "$restored" | head -n 1)"
			wait "$restored"
			end=$?
			why="ends with $end: $(cat "$images/restore.out")"
			[ $end = 1 ] && grep -q "interrupted by SIGTERM" "$images/restore.out" && status=0
		fi
		if pgrep -f "mem_lively $vdir" >/dev/null; then
			why="tasks are left: $(pgrep -af "mem_lively $vdir")"
			status=1
		fi
		kill_daemon
	fi
	conclude $status
}

# Images whose pages stayed at the source are no images to restore from without a daemon.
refuse_case() {
	local output
	wanted refuse || return
	begin refuse 1 || return
	if ! lazy_source "$FERRY"; then
		conclude 1
	elif output=$(timeout 20 "$FERRY" restore -D "$images" --pids=new 2>&1 </dev/null); then
		why="restored without the memory"
		conclude 1
	elif [[ $output != *"stayed with the source"* ]]; then
		why="said: $output"
		conclude 1
	elif output=$(timeout 20 "$FERRY" restore -D "$images" --pids=new --lazy-pages 2>&1 </dev/null) ||
		[[ $output != *lazy-pages.socket* ]]; then
		why="without a daemon: $output"
		conclude 1
	elif output=$(timeout 20 "$FERRY" lazy-pages -D "$images" 2>&1 </dev/null) ||
		[[ $output != *--page-server* ]]; then
		why="daemon without the server: $output"
		conclude 1
	else
		kill -INT "$(pgrep -P "$source")"
		wait "$source"
		alive "$pid" && verdict
		conclude $?
	fi
}

local_case local "$FERRY" "$FERRY"
remote_case remote "$FERRY" "$FERRY" "$FERRY"
slow_case
cut_case
killed_case
silent_case
refuse_case
if [ -n "$CRIU" ]; then
	# wire.md a.9: a limit of 1 MiB for pipes breaks CRIU's source.
	if [ -f ../shared/doc/criu/tools/pipeclamp.c ] &&
		cc -shared -fPIC -o "$TEST_TMP/pipeclamp.so" ../shared/doc/criu/tools/pipeclamp.c -ldl 2>/dev/null; then
		clamp=$TEST_TMP/pipeclamp.so
	else
		clamp=
	fi
	local_case criu-daemon "$CRIU" "$FERRY"
	local_case criu-restore "$FERRY" "$CRIU"
	remote_case remote-criu-daemon "$FERRY" "$CRIU" "$FERRY"
	remote_case remote-criu-restore "$FERRY" "$FERRY" "$CRIU"
	preload=$clamp
	remote_case remote-criu-source "$CRIU" "$FERRY" "$FERRY"
	preload=
else
	skip interoperation "no real CRIU here"
fi
finish
