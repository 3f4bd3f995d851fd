#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# The options of dump and restore mean what CRIU's manual says. Names of tests as arguments: only
# those.
. "$(dirname "$0")/lib.sh"
requires_root
requires tmux

# Each test is a function test_NAME that returns 0, or 1 with why, or 2 (skip) with why.
need_victim() {
	start_victim "$@" || return 1
	images=$vdir/images
}

simple_dump() {
	dump "$ENGINE" "$pid" "$images" "$@" && wait_gone "$pid"
}

is() { # WHAT WANT GOT
	[ "$2" = "$3" ] || {
		why="$1 is '$3', not '$2'"
		return 1
	}
}

state() {
	sed 's/.*) //; s/ .*//' "/proc/$pid/stat"
}

# fails_with PATTERN COMMAND...: the command fails and says why, and the victim lives.
fails_with() {
	local pattern=$1
	shift
	if "$@"; then
		why="'$*' did not fail"
		return 1
	fi
	grep -qiE -- "$pattern" <<<"$why" || {
		why="message does not match '$pattern': $why"
		return 1
	}
	alive "$pid" || {
		why="the program did not survive the failure"
		return 1
	}
}

test_pidfile() {
	need_victim single && simple_dump && restore "$ENGINE" "$images" --pidfile "$vdir/pidfile" &&
		is "pidfile" "$pid" "$(cat "$vdir/pidfile")" && verdict
}

test_work_dir() {
	need_victim single || return 1
	mkdir "$vdir/work"
	dump "$ENGINE" "$pid" "$images" -W "$vdir/work" && wait_gone "$pid" || return 1
	[ -s "$vdir/work/dump.log" ] || why="no log in the work directory"
	[ -s "$vdir/work/dump.log" ] && [ ! -e "$images/dump.log" ] || return 1
	restore "$ENGINE" "$images" -W "$vdir/work" && [ -s "$vdir/work/restore.log" ] && verdict
}

test_long_options() {
	local log=$TEST_TMP/long.log
	need_victim single || return 1
	mkdir "$images"
	why=$("$ENGINE" dump --tree "$pid" --images-dir "$images" --work-dir "$vdir" --log-file "$log" -vvv 2>&1) &&
		wait_gone "$pid" && [ -s "$log" ] || return 1
	why=$("$ENGINE" restore --images-dir "$images" --log-file "$log" --restore-detached 2>&1 </dev/null) &&
		verdict
}

test_verbosity() {
	need_victim single || return 1
	mkdir "$images"
	"$ENGINE" dump -R -t "$pid" -D "$images" -o "$vdir/quiet.log" -v1 &&
		"$ENGINE" dump -R -t "$pid" -D "$images" -o "$vdir/loud.log" -v4 || return 1
	[ "$(wc -l <"$vdir/quiet.log")" -lt "$(wc -l <"$vdir/loud.log")" ] || {
		why="-v4 does not say more than -v1"
		return 1
	}
	verdict
}

test_leave_stopped() {
	need_victim single && dump "$ENGINE" "$pid" "$images" -s && is state T "$(state)" || return 1
	kill -CONT "$pid"
	verdict
}

test_restore_stopped() {
	need_victim single && simple_dump && restore "$ENGINE" "$images" -s && is state T "$(state)" ||
		return 1
	kill -CONT "$pid"
	verdict
}

# Without -d the command stays, as the parent of the tree, until the tree ends.
test_foreground() {
	local command
	need_victim single && simple_dump || return 1
	"$ENGINE" restore -D "$images" -o restore.log >"$vdir/out" 2>&1 </dev/null &
	command=$!
	wait_for 20 alive "$pid"
	sleep 0.3
	alive $command || {
		why="the command does not wait: $(cat "$vdir/out")"
		return 1
	}
	is "parent" "$command" "$(awk '/^PPid/ { print $2 }' "/proc/$pid/status")" && verdict || return 1
	wait $command
	is "status" 0 $?
}

test_sibling() {
	need_victim single && simple_dump && restore_below_shell || return 1
	verdict
}

restore_below_shell() {
	local parent
	# No subshell and no timeout between this shell and the command.
	"$ENGINE" restore -d -S -D "$images" -o restore.log >"$vdir/out" 2>&1 </dev/null || {
		why="restore: $(reason "$(cat "$vdir/out")" "$images/restore.log")"
		return 1
	}
	parent=$(awk '/^PPid/ { print $2 }' "/proc/$pid/status")
	is "parent" $BASHPID "$parent"
}

# The restored tree is the child of the command that restore turns into.
test_exec_cmd() {
	need_victim single && simple_dump || return 1
	timeout 60 "$ENGINE" restore -D "$images" -o restore.log --exec-cmd -- sh -c \
		"read -r c </proc/\$\$/task/\$\$/children; echo \$c >'$vdir/children'; echo \"\$1\" >'$vdir/arg'; while [ ! -e '$vdir/result' ]; do sleep 0.05; done" \
		x 'an argument' >"$vdir/out" 2>&1 </dev/null &
	wait_for 20 test -s "$vdir/arg" || {
		why="the command did not run: $(reason "$(cat "$vdir/out")" "$images/restore.log")"
		return 1
	}
	is "child of the command" "$pid" "$(tr -d ' ' <"$vdir/children")" &&
		is "argument" "an argument" "$(cat "$vdir/arg")" && verdict
}

make_script() { # NAME FAIL-AT
	cat >"$vdir/$1" <<-END
		#!/bin/sh
		echo "\$CRTOOLS_SCRIPT_ACTION" >>'$vdir/actions'
		env | grep ^CRTOOLS_ | sort | sed "s/^/\$CRTOOLS_SCRIPT_ACTION /" >>'$vdir/environment'
		[ "\$CRTOOLS_SCRIPT_ACTION" != "$2" ]
	END
	chmod 755 "$vdir/$1"
}

test_action_script() {
	local want
	need_victim single || return 1
	make_script script never
	simple_dump --action-script "$vdir/script" &&
		restore "$ENGINE" "$images" --action-script "$vdir/script" || return 1
	for want in pre-dump post-dump pre-restore post-restore pre-resume post-resume; do
		grep -qx $want "$vdir/actions" || {
			why="$want was not announced: $(tr '\n' ' ' <"$vdir/actions")"
			return 1
		}
	done
	grep -q "^post-dump CRTOOLS_IMAGE_DIR=/" "$vdir/environment" &&
		grep -qx "post-restore CRTOOLS_INIT_PID=$pid" "$vdir/environment" || {
		why="environment: $(tr '\n' ' ' <"$vdir/environment")"
		return 1
	}
	verdict
}

test_action_script_fails() {
	need_victim single || return 1
	make_script at-pre pre-dump
	make_script at-post post-dump
	fails_with 'script|hook' dump "$ENGINE" "$pid" "$images" --action-script "$vdir/at-pre" &&
		fails_with 'script|hook' dump "$ENGINE" "$pid" "$images" --action-script "$vdir/at-post" &&
		verdict
}

test_action_script_stops_restore() {
	need_victim single || return 1
	make_script at-restore post-restore
	simple_dump || return 1
	if restore "$ENGINE" "$images" --action-script "$vdir/at-restore"; then
		why="restore went on after a failed script"
		return 1
	fi
	! alive "$pid" || {
		why="a half-restored tree is left"
		return 1
	}
	restore "$ENGINE" "$images" && verdict
}

# One zero byte when the command is ready.
test_status_fd() {
	need_victim single || return 1
	simple_dump --status-fd 7 7>"$vdir/status" &&
		restore "$ENGINE" "$images" --status-fd 7 7>"$vdir/status2" &&
		is "status of dump" 00 "$(od -An -tx1 "$vdir/status" | tr -d ' \n')" &&
		is "status of restore" 00 "$(od -An -tx1 "$vdir/status2" | tr -d ' \n')" && verdict
}

test_file_locks() {
	need_victim locks && fails_with 'lock' dump "$ENGINE" "$pid" "$images" &&
		simple_dump --file-locks && restore "$ENGINE" "$images" --file-locks && verdict
}

test_link_remap() {
	need_victim linked_ghost && fails_with 'link' dump "$ENGINE" "$pid" "$images" &&
		dump "$ENGINE" "$pid" "$images" -R --link-remap &&
		is "names with -R" 0 "$(find "$vdir" -maxdepth 1 -name '*link_remap*' | wc -l)" &&
		simple_dump --link-remap && restore "$ENGINE" "$images" --link-remap &&
		is "names after restore" 0 "$(find "$vdir" -maxdepth 1 -name '*link_remap*' | wc -l)" && verdict
}

test_ghost_limit() {
	need_victim ghost && fails_with 'ghost' dump "$ENGINE" "$pid" "$images" --ghost-limit 10K &&
		simple_dump --ghost-limit 4M && restore "$ENGINE" "$images" && verdict
}

# A task that cannot be stopped: its child has not yet left vfork.
test_timeout() {
	local start=$SECONDS
	need_victim refuse vfork || return 1
	fails_with 'time|vfork|stop' dump "$ENGINE" "$(cat "$vdir/parent")" "$images" --timeout 2 || return 1
	[ $((SECONDS - start)) -lt 12 ] || {
		why="took $((SECONDS - start)) s"
		return 1
	}
	verdict
}

# One that leaves vfork late, again and again: there is a moment for the dump, and nobody stays stopped or traced.
test_vfork_late() {
	local round
	need_victim refuse vfork_late || return 1
	for round in 1 2 3; do
		dump "$ENGINE" "$pid" "$images.$round" -R || return 1
	done
	verdict
}

# A child that ends, and is not reaped, between two looks of ours at one of its namespaces and the next (strace holds us
# there) is a zombie, and no task of another namespace.
test_ends_while_looked_at() {
	local ns child checker at
	at=$(mktemp -d "$TEST_TMP/looks-XXXXXX")
	for ns in mnt cgroup ipc; do
		setsid sh -c 'sleep 1000 & echo $!; exec sleep 1000' >"$at/child.$ns" </dev/null &
		wait_for 5 test -s "$at/child.$ns"
		read -r child <"$at/child.$ns"
		pid=$(sed -n 's/^PPid:\t//p' "/proc/$child/status")
		strace -f -o "$at/$ns" -P "/proc/$child/ns/$ns" -e inject=stat,newfstatat:delay_enter=1000000 \
			"$ENGINE" check "$pid" >"$at/check" 2>&1 &
		checker=$!
		wait_for 10 grep -qs "ns/$ns" "$at/$ns" && kill -KILL "$child"
		wait $checker || why="$ns: $(tail -n 1 "$at/check")"
		grep -q "ns/$ns.*ENOENT" "$at/$ns" || why="$ns: it was not held there"
		kill -KILL "$pid"
		[ -z "$why" ] || return 1
	done
}

# A writer whose standard output leads out of the tree.
start_writer() { # sets pid; output goes to descriptor 1
	setsid sh -c 'echo $$ >"$0/pid"; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done' \
		"$vdir" </dev/null 2>/dev/null &
	wait_for 5 test -s "$vdir/pid"
	pid=$(cat "$vdir/pid")
}

test_inherit_pipe() {
	local inode
	vdir=$(mktemp -d "$TEST_TMP/inherit-XXXXXX")
	images=$vdir/images
	exec 8> >(cat >"$vdir/first")
	start_writer >&8
	exec 8>&-
	wait_for 5 test -s "$vdir/first"
	inode=$(readlink "/proc/$pid/fd/1")
	simple_dump --external "${inode/:/}" || return 1
	exec 8> >(cat >"$vdir/second")
	restore "$ENGINE" "$images" --inherit-fd "fd[8]:$inode" || return 1
	exec 8>&-
	wait_for 5 test -s "$vdir/second"
	sleep 0.3
	kill -KILL "$pid"
	sleep 0.1
	is "sequence" "$(seq "$(tail -n 1 "$vdir/second")" | tr '\n' ' ')" \
		"$(cat "$vdir/first" "$vdir/second" | tr '\n' ' ')"
}

test_inherit_file() {
	vdir=$(mktemp -d "$TEST_TMP/inherit-XXXXXX")
	images=$vdir/images
	start_writer >"$vdir/first"
	wait_for 5 test -s "$vdir/first"
	simple_dump || return 1
	restore "$ENGINE" "$images" --inherit-fd "fd[8]:${vdir#/}/first" 8>"$vdir/second" || return 1
	wait_for 5 test -s "$vdir/second"
	kill -KILL "$pid"
	is "first line of the second file" "$(($(tail -n 1 "$vdir/first") + 1))" \
		"$(tr -d '\0' <"$vdir/second" | head -n 1)"
}

test_external_file() {
	local mnt inode key
	vdir=$(mktemp -d "$TEST_TMP/external-XXXXXX")
	images=$vdir/images
	start_writer >"$vdir/first"
	wait_for 5 test -s "$vdir/first"
	mnt=$(awk '/^mnt_id/ { printf "%x", $2 }' "/proc/$pid/fdinfo/1")
	inode=$(stat -c %i "$vdir/first" | awk '{ printf "%x", $1 }')
	key="file[$mnt:$inode]"
	simple_dump --external "$key" || return 1
	# CRIU insists on the size.
	cp "$vdir/first" "$vdir/second"
	restore "$ENGINE" "$images" --inherit-fd "fd[8]:$key" 8<>"$vdir/second" || return 1
	sleep 0.3
	kill -KILL "$pid"
	if cmp -s "$vdir/first" "$vdir/second"; then
		why="nothing was written to the second file"
		return 1
	fi
}

# A datagram socket connected to a socket outside.
test_ext_unix_sk() {
	vdir=$(mktemp -d "$TEST_TMP/unixsk-XXXXXX")
	images=$vdir/images
	python3 - "$vdir" <<-'END' &
		import socket, sys
		s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
		s.bind(sys.argv[1] + "/server")
		with open(sys.argv[1] + "/received", "ab", buffering=0) as f:
		    while True:
		        f.write(s.recv(100))
	END
	wait_for 10 test -S "$vdir/server"
	setsid python3 -c '
import os, socket, sys, time
d = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(d + "/server")
open(d + "/pid", "w").write(str(os.getpid()))
i = 0
while True:
    i += 1
    s.send(b"%d\n" % i)
    time.sleep(0.05)
' "$vdir" </dev/null >/dev/null 2>&1 &
	wait_for 10 test -s "$vdir/received"
	pid=$(cat "$vdir/pid")
	fails_with 'unix' dump "$ENGINE" "$pid" "$images" && simple_dump --ext-unix-sk &&
		restore "$ENGINE" "$images" --ext-unix-sk || return 1
	sleep 0.5
	kill -KILL "$pid"
	is "sequence" "$(seq "$(tail -n 1 "$vdir/received")" | tr '\n' ' ')" \
		"$(tr '\n' ' ' <"$vdir/received")"
}

tm() {
	tmux -L "ferry-$$" -f /dev/null "$@"
}

# A job of an interactive shell: refused without --shell-job; with it the restored job talks to the
# terminal in which restore was called.
test_shell_job() {
	vdir=$(mktemp -d "$TEST_TMP/shelljob-XXXXXX")
	images=$vdir/images
	cleanup_fn tm kill-server
	tm new-session -d -x 80 -y 24 "bash --norc" || {
		why="tmux does not start"
		return 2
	}
	cat >"$vdir/job.sh" <<-END
		echo \$\$ >'$vdir/pid'
		while read -r line; do echo "got <\$line>"; done
	END
	tm send-keys "sh '$vdir/job.sh'" Enter
	wait_for 10 test -s "$vdir/pid"
	pid=$(cat "$vdir/pid")
	tm send-keys "first" Enter
	wait_for 5 pane_has 'got <first>'
	fails_with 'shell-job|-j' dump "$ENGINE" "$pid" "$images" && simple_dump -j || return 1
	tm send-keys "clear" Enter
	tm send-keys "'$ENGINE' restore -j -D '$images' -o restore.log" Enter
	wait_for 20 alive "$pid" || {
		why="not restored: $(tm capture-pane -p | tr '\n' ' ') $(reason "" "$images/restore.log")"
		return 1
	}
	sleep 0.3
	tm send-keys "second" Enter
	wait_for 5 pane_has 'got <second>' || {
		why="the job does not answer: $(tm capture-pane -p | tr '\n' ' ')"
		return 1
	}
	tm send-keys C-c
	wait_gone "$pid" || {
		why="the job does not get the terminal's signals"
		return 1
	}
	tm kill-server
}

pane_has() {
	tm capture-pane -p | grep -qF -- "$1"
}

test_wrong_usage() {
	local out
	out=$("$ENGINE" dump -D "$TEST_TMP" 2>&1 </dev/null) && {
		why="dump without -t succeeds"
		return 1
	}
	[ -n "$out" ] || return 1
	out=$("$ENGINE" dump -t 999999 -D "$TEST_TMP" -o "$TEST_TMP/usage.log" 2>&1 </dev/null) && {
		why="dump of a pid that does not exist succeeds"
		return 1
	}
	out=$("$ENGINE" restore -D "$TEST_TMP/nowhere" 2>&1 </dev/null) && {
		why="restore from nowhere succeeds"
		return 1
	}
	out=$("$ENGINE" dump --no-such-option 2>&1 </dev/null) && {
		why="an unknown option is accepted"
		return 1
	}
	return 0
}

# The pid is in use: refused, and the owner lives.
test_pid_taken() {
	need_victim single && dump "$ENGINE" "$pid" "$images" -R || return 1
	fails_with "exists|in use|taken" restore "$ENGINE" "$images" && verdict
}

for name in ${*:-$(declare -F | sed -n 's/^declare -f test_//p')}; do
	why='' pid='' vdir=''
	"test_$name"
	case $? in
	0) ok "$name" ;;
	2) skip "$name" "$why" ;;
	*) not_ok "$name" "${why:-failed}" ;;
	esac
	[ -z "$pid" ] || kill_tree "$pid"
done
finish
