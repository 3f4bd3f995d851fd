# shellcheck shell=bash disable=SC2015,SC2016,SC2053
# SPDX-License-Identifier: Apache-2.0
#
# What the migration tests (tests/e2e/8*.sh) have in common: two hosts, programs on them, and the
# question where a program runs now. To be sourced by a test that tools/run-tests started, or that
# was started by hand: then FERRY, VICTIMS, BUILD and TEST_TMP get sensible values.

set -u
# shellcheck disable=SC2034 # for the test
top=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
BUILD=${BUILD:-$top/build}
FERRY=${FERRY:-$BUILD/src/cmd/ferry}
VICTIMS=${VICTIMS:-$BUILD/tests/victims}
own_tmp=
[ -n "${TEST_TMP:-}" ] || own_tmp=$(mktemp -d "${TMPDIR:-/tmp}/ferry-test.XXXXXX")
TEST_TMP=${TEST_TMP:-$own_tmp}
export PYTHONDONTWRITEBYTECODE=1
. "$top/tests/hosts/hosts.sh"

dir=$TEST_TMP/hosts
trap 'hosts_down "$dir"; rm -rf "$own_tmp"' EXIT
trap 'exit 130' INT TERM

# begin [OPTION]...: sets up the hosts; skips the whole test where that is not possible.
begin() {
	hosts_requirements 2>"$TEST_TMP/requirements" || {
		cat "$TEST_TMP/requirements"
		exit 77
	}
	hosts_up "$dir" --ferry "$FERRY" "$@" || exit 1
	hosts_put "$dir" a "$BUILD/bench/bench-victim" /opt/bench-victim || exit 1
}

# Standard input is the host's own /dev/null: a file of the machine would not be the program's to move.
on() {
	hosts_exec "$dir" "$@" </dev/null
}

# files_of HOST: where the machine finds the host's files.
files_of() {
	hosts_root "$dir" "$1"
}

other() {
	[ "$1" = a ] && echo b || echo a
}

# wait_for SECONDS COMMAND...: repeats COMMAND until it succeeds, fails after SECONDS.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt "$end" ] || return 1
		sleep 0.05
	done
}

complain() {
	echo "$*" >>"$TEST_TMP/why"
	return 1
}

# test_case NAME FUNCTION [ARGUMENT]...: runs FUNCTION in a subshell, prints the result. It fails by
# returning non-zero; "complain" notes why. What it prints goes to a log that is shown then. It
# skips by "skip_case REASON". With SHOW set the log is shown always.
test_case() {
	local name=$1 status
	shift
	[ -z "${ONLY:-}" ] || [[ $name == $ONLY ]] || return 0
	rm -f "$TEST_TMP/why" "$TEST_TMP/skip"
	("$@") >"$TEST_TMP/case.log" 2>&1
	status=$?
	[ -z "${SHOW:-}" ] || sed 's/^/# /' "$TEST_TMP/case.log"
	if [ -e "$TEST_TMP/skip" ]; then
		echo "skip $name: $(cat "$TEST_TMP/skip")"
	elif [ $status = 0 ] && [ ! -e "$TEST_TMP/why" ]; then
		echo "ok $name"
	else
		sed 's/^/# /' "$TEST_TMP/case.log"
		echo "not ok $name: $(paste -sd ';' "$TEST_TMP/why" 2>/dev/null || echo "status $status")"
	fi
	end_programs
	return 0 # the lines above tell the result
}

skip_case() {
	echo "$*" >"$TEST_TMP/skip"
	exit 0
}

# Everything that runs on the hosts but their sshd and pid 1, for the next case to start clean.
end_programs() {
	local host
	for host in a b; do
		on $host sh -c 'for p in /proc/[0-9]*; do
			p=${p#/proc/}
			case $(cat /proc/$p/comm 2>/dev/null) in sshd | "") continue ;; esac
			[ $p = 1 ] || [ $p = $$ ] || kill -KILL $p
		done' 2>/dev/null
		on $host pkill -KILL -f 'sshd: .*@' 2>/dev/null
	done
}

# migrate FROM PID [OPTION]...: to the other host. Output in $TEST_TMP/migrate.{out,err}.
migrate() {
	local from=$1 pid=$2
	shift 2
	hosts_exec "$dir" "$from" timeout -k 5 "${MIGRATE_LIMIT:-60}" ferry migrate "$@" \
		"$pid" "ferry-$(other "$from")" </dev/null \
		>"$TEST_TMP/migrate.out" 2>"$TEST_TMP/migrate.err"
	local status=$?
	echo "migrate from $from, $* : status $status"
	cat "$TEST_TMP/migrate.out" "$TEST_TMP/migrate.err"
	return $status
}

must_migrate() {
	migrate "$@" || complain "migrate from $1 failed: $(tail -n 1 "$TEST_TMP/migrate.err")"
}

# refused TEXT FROM PID [OPTION]...: migrate must fail with a message that has all of TEXT's words.
refused() {
	local words=$1 word
	shift
	! migrate "$@" || complain "not refused: $*" || return 1
	one_sentence || return 1
	for word in $words; do
		grep -qiF -- "$word" "$TEST_TMP/migrate.err" || complain "message has no '$word': $(cat "$TEST_TMP/migrate.err")" || return 1
	done
}

# A failure is told in few lines, and never by a signal or a sanitizer's report.
one_sentence() {
	local lines
	lines=$(wc -l <"$TEST_TMP/migrate.err")
	[ "$lines" -ge 1 ] && [ "$lines" -le "${MESSAGE_LINES:-3}" ] ||
		complain "the message has $lines lines"
}

# start_victim HOST NAME [ARGUMENT]...: starts a victim, prints its PID. The program and its folder exist on both hosts, as
# those of an installed service do; the files that it makes do not.
start_victim() {
	local host=$1 name=$2 work=/srv/work/$2 each
	shift 2
	for each in a b; do
		hosts_put "$dir" $each "$VICTIMS/$name" "/opt/victims/$name" || return 1
	done
	rm -rf "$(files_of a)$work" "$(files_of b)$work"
	mkdir -p "$(files_of a)$work" "$(files_of b)$work"
	chmod 777 "$(files_of a)$work" "$(files_of b)$work"
	on "$host" timeout 60 "/opt/victims/$name" "$work" "$@" >&2 || return 1
	if grep -q SKIP: "$(files_of "$host")$work/result" 2>/dev/null; then
		skip_case "$(cat "$(files_of "$host")$work/result")"
	fi
	cat "$(files_of "$host")$work/pid"
}

# inner HOST PID: is there a process which has PID in a PID namespace of its own?
inner() {
	on "$1" sh -c 'grep -lE "^NSpid:.[0-9]+.$1\$" /proc/[0-9]*/status' sh "$2" | grep -o '[0-9]*' | head -n 1
}

# seen_by HOST PID: where the machine finds the files as the program sees them: with lazy files not
# those of HOST, as long as it runs.
seen_by() {
	local pid
	pid=$(inner "$@")
	echo "$(files_of "$1")/proc/${pid:-$2}/root"
}

# verdict HOST NAME: lets the victim check itself there. It may end then, and its files are HOST's.
verdict() {
	local work=/srv/work/$2 seen pid result
	pid=$(cat "$(files_of a)$work/pid" 2>/dev/null || cat "$(files_of b)$work/pid")
	seen=$(seen_by "$1" "$pid")$work
	work=$(files_of "$1")$work
	touch "$seen/moved" "$seen/verify" || complain "$2 does not run on $1" || return 1
	wait_for 30 take_result "$seen" "$work" || complain "$2 gives no verdict on $1" || return 1
	[ "$result" = PASS ] || complain "$2 on $1: $result"
}

# take_result DIRECTORY DIRECTORY: what is in either of them, into $result. For a moment after the end it may be in neither.
take_result() {
	result=$(cat "$1/result" "$2/result" 2>/dev/null | head -n 1)
	[ -n "$result" ]
}

# start_bench HOST KIND NUMBER: starts the benchmark's program (see bench/victim.c), prints its PID.
start_bench() {
	local host=$1
	shift
	mkdir -p "$(files_of a)/srv/work/bench" "$(files_of b)/srv/work/bench"
	rm -f "$(files_of a)/srv/work/bench/report" "$(files_of b)/srv/work/bench/report"
	on "$host" /opt/bench-victim /srv/work/bench "$@" >&2 || return 1
	cat "$(files_of "$host")/srv/work/bench/pid"
}

# bench_report HOST PID: lets it check itself; prints its largest gap in ns.
bench_report() {
	local report
	report=$(seen_by "$1" "$2")/srv/work/bench/report
	rm -f "$report"
	on "$1" kill -USR1 "$2" || complain "no program $2 on $1" || return 1
	wait_for 30 [ -e "$report" ] || complain "program $2 on $1 does not answer" || return 1
	read -r gap state <"$report"
	[ "$state" = ok ] || complain "program $2 on $1: $state" || return 1
	echo "$gap"
}

# Is PID there, and not a zombie?
exists() {
	on "$1" sh -c '[ -e /proc/$1 ] && ! grep -q "^State:.Z" /proc/$1/status' sh "$2" 2>/dev/null
}

gone() {
	! exists "$@"
}

# moved FROM PID: runs at the other host only.
moved() {
	exists "$(other "$1")" "$2" || complain "$2 is not on $(other "$1")" || return 1
	gone "$1" "$2" || complain "$2 is still on $1"
}

# at_home HOST PID: runs there, untraced and not stopped, and not on the other host.
at_home() {
	local other
	other=$(other "$1")
	exists "$1" "$2" || complain "$2 is gone from $1" || return 1
	wait_for 5 on "$1" sh -c 'grep -q "^TracerPid:.0$" /proc/$1/status && ! grep -q "^State:.[tT]" /proc/$1/status' sh "$2" ||
		complain "$2 on $1 is stopped or traced" || return 1
	wait_for 5 gone "$other" "$2" || complain "$2 also exists on $other"
}
