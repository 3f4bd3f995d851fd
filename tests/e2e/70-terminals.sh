#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 120
# Terminals with somebody at them: an interactive shell whose pseudo terminal is part of the tree, with
# a job in the foreground; and a job that is taken away from its shell and comes back to it.
. "$(dirname "$0")/lib.sh"
requires python3 pgrep
requires_root

terminal() { # NAME PROGRAM [ARG]...: sets $dir and $root
	dir=$TEST_TMP/$1
	mkdir "$dir" "$dir/images"
	shift
	setsid python3 tests/e2e/terminal.py "$dir" "$@" </dev/null >/dev/null 2>"$dir/errors" &
	root=$!
	wait_for 10 test -e "$dir/ready"
}

has_child() { # PID
	pgrep -P "$1" >/dev/null
}

type_in() { # TEXT, with Python's escapes
	printf '%s\n' "$1" >>"$dir/typed"
}

screen_has() { # TEXT
	grep -qF -- "$1" "$dir/screen"
}

is_gone() { # PID
	! alive "$1"
}

# The session, its controlling terminal and the group in the foreground: "PGID SID TPGID TTY" of a task.
job_facts() { # PID
	ps -o pgid=,sid=,tpgid=,tty= -p "$1" | tr -s ' '
}

shell_in_tree() {
	local name=shell_in_tree shell job before after
	terminal $name bash --norc -i
	wait_for 10 screen_has '$ '
	type_in 'sleep 1234\n'
	shell=$(pgrep -P "$root")
	wait_for 10 has_child "$shell" || { not_ok $name "the shell starts no job"; return; }
	job=$(pgrep -P "$shell")
	before=$(job_facts "$shell"; job_facts "$job")
	if ! why=$("$FERRY" dump -t "$root" -D "$dir/images" 2>&1); then
		not_ok $name "dump: $why"
	elif wait "$root" 2>/dev/null; ! wait_gone "$shell" || ! wait_gone "$job"; then
		not_ok $name "the dumped shell does not go"
	elif ! why=$("$FERRY" restore -d -D "$dir/images" 2>&1); then
		not_ok $name "restore: $why"
	elif after=$(job_facts "$shell"; job_facts "$job"); [ "$before" != "$after" ]; then
		not_ok $name "pgid, sid, tpgid, tty were $before, are $after"
	else
		type_in '\x03'
		wait_for 10 is_gone "$job" || { not_ok $name "^C does not reach the job"; return; }
		type_in 'echo on $(tty) with $((6 * 7))\n'
		if wait_for 10 screen_has 'with 42'; then
			ok $name
		else
			not_ok $name "the shell does not answer: $(tail -c 200 "$dir/screen")"
		fi
	fi
	kill -KILL "$root" "$shell" "$job" 2>/dev/null
}

shell_job() {
	local name=shell_job shell job
	terminal $name bash --norc -i
	wait_for 10 screen_has '$ '
	type_in "python3 -uc 'import sys\nfor line in sys.stdin: print(\"read\", line.upper())'\n"
	shell=$(pgrep -P "$root")
	wait_for 10 has_child "$shell" || { not_ok $name "the shell starts no job"; return; }
	job=$(pgrep -P "$shell")
	type_in 'before\n'
	wait_for 10 screen_has 'read BEFORE' || { not_ok $name "the job does not answer"; return; }
	if why=$("$FERRY" dump -t "$job" -D "$dir/images" 2>&1); then
		not_ok $name "was dumped without --shell-job"
	elif ! grep -q -- --shell-job <<<"$why"; then
		not_ok $name "the refusal does not name --shell-job: $why"
	elif ! why=$("$FERRY" dump -j -t "$job" -D "$dir/images" 2>&1); then
		not_ok $name "dump: $why"
	else
		wait_for 10 screen_has Killed
		type_in "$FERRY restore -j -D $dir/images\n"
		wait_for 10 test -d "/proc/$job"
		type_in 'after\n'
		wait_for 10 screen_has 'read AFTER' || { not_ok $name "the restored job does not answer"; return; }
		type_in '\x03'
		wait_for 10 is_gone "$job" || { not_ok $name "^C does not reach the restored job"; return; }
		type_in 'echo shell $((6 * 7))\n'
		if wait_for 10 screen_has 'shell 42'; then
			ok $name
		else
			not_ok $name "the shell does not come back: $(tail -c 200 "$dir/screen")"
		fi
	fi
	kill -KILL "$root" "$shell" "$job" 2>/dev/null
}

shell_in_tree
shell_job
finish
