# shellcheck shell=bash disable=SC2015,SC2016,SC2154
# SPDX-License-Identifier: Apache-2.0
#
# Programs whose files stay at home when they are moved: tests/e2e/58-lazy-files.sh and
# 59-lazy-moves.sh. To be sourced after tests/hosts/lib.sh.

work=/srv/app
a_work() { echo "$(files_of a)$work"; }
b_work() { echo "$(files_of b)$work"; }

# What runs on the host now and did not at the beginning.
leftovers() {
	on "$1" pgrep . | sort | comm -13 "$TEST_TMP/base.$1" -
}

nothing_left() {
	[ -z "$(leftovers a)$(leftovers b)" ]
}

# A case that failed has left its tree, and what serves it: they are not for the next one.
end_leftovers() {
	local host pid
	wait_for 5 nothing_left && return
	for host in a b; do
		for pid in $(leftovers $host); do
			echo "left on $host by an earlier case: $(on $host ps -o pid=,args= "$pid")"
			on $host kill -KILL "$pid" 2>/dev/null
		done
	done
	wait_for 10 nothing_left
	for host in a b; do
		rm -rf "$(files_of $host)"/var/tmp/* "$(files_of $host)"/run/ferry/*
	done
}

fresh() {
	end_leftovers
	rm -rf "$(files_of a)"/var/tmp/ferry-files.* "$(files_of b)"/var/tmp/ferry-files.*
	rm -rf "$(a_work)" "$(b_work)" "$(files_of a)/var/lib/ferry/files" "$(files_of b)/var/lib/ferry/files"
	mkdir -p "$(a_work)"
}

# start COMMAND...: on a, in the work folder, which it alone has; prints its PID.
start() {
	on a sh -c 'cd '$work' && exec setsid -f sh -c "echo \$\$ >pid; exec \"\$@\"" sh "$@" <"/dev/null" >out 2>&1' sh "$@"
	wait_for 10 [ -s "$(a_work)/pid" ] || complain "does not start" || return 1
	cat "$(a_work)/pid"
}

# seen PID FILE: where the machine finds a file of the migrated tree (on b, unless $at says otherwise).
seen() {
	echo "$(files_of "${at:-b}")/proc/$1/root$2"
}

# go PID NAME: lets the program on b go on, by a file that it waits for.
go() {
	touch "$(seen "$1" "$work/$2")" || complain "cannot write to the tree's files"
}

# field PID NAME: a number of the mount's status.
field() {
	on "${at:-b}" timeout 20 ferry lazyfs --status --json "/proc/$1/root" |
		python3 -c "import json, sys; print(json.load(sys.stdin)['$2'])"
}

field_is() {
	[ "$(field "$1" "$2")" = "$3" ]
}

running() { # HOST NAME: is there a process with this command name?
	on "$1" pgrep -x "$2" >/dev/null
}

# What is left there but the files for later migrations.
caches() {
	ls -A "$(files_of "$1")/var/tmp" | grep -v '^ferry-files\.'
}

# Nothing is left of it on either side when the program has ended; $1: seconds until what it changed has been fetched.
all_gone() {
	local host
	wait_for "${1:-20}" nothing_runs || complain "left: $(on a pgrep -l ferry-) $(on b pgrep -l ferry-)" || return 1
	for host in a b; do
		[ -z "$(caches $host)" ] || complain "the cache stays on $host: $(caches $host)" || return 1
		[ -z "$(find "$(files_of $host)/run/ferry" -name '*.files' -o -name '*.given' 2>/dev/null)" ] || complain "the door or a record stays on $host" || return 1
	done
}

nothing_runs() {
	! running a ferry-files && ! running b ferry-lazyfs &&
		! running b ferry-files && ! running a ferry-lazyfs
}

listed() { # WORD PATH: in the list of what was kept
	cat "$(files_of b)"/var/lib/ferry/files/*.txt 2>/dev/null | grep -q "^$1 *$2\( \|$\)" ||
		complain "the list does not say '$1 $2': $(cat "$(files_of b)"/var/lib/ferry/files/*.txt 2>&1)"
}

# The hosts; b has no python, and what runs it comes by lazy files.
begin_without_python() {
	local host
	begin --lacks /usr/bin/python3 --lacks /usr/bin/python3.11 --lacks /usr/lib/python3.11 --lacks /usr/lib/python3
	[ -c /dev/fuse ] || {
		echo "no /dev/fuse"
		exit 77
	}
	for host in a b; do on $host pgrep . | sort >"$TEST_TMP/base.$host"; done
}
