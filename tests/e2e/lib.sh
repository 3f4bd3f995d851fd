# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the end-to-end scripts have in common. A script sources it and prints one line per result:
#	ok NAME | not ok NAME: why | skip NAME: why
# and ends with `finish`. Everything that it starts has $TEST_TMP in its command line or in its
# session; cleanup kills that and nothing else.
#
# ENGINE is the program that dumps and restores, with CRIU's options: ferry by default. Setting it
# to a real criu shows whether a script itself is right.

set -u
SELF=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
BUILD_DIR=${BUILD_DIR:-$PWD/build}
FERRY=${FERRY:-$BUILD_DIR/src/cmd/ferry}
ENGINE=${ENGINE:-$FERRY}
VICTIMS=${VICTIMS:-$BUILD_DIR/tests/victims}

# Started by hand: run again below a parent that collects orphans at once, as tools/run-tests does.
# (The init of a container may take its time, and a dead victim's pid is not free until then.)
if [ -z "${TEST_TMP:-}" ]; then
	TEST_TMP=$(mktemp -d "${TMPDIR:-/tmp}/ferry-test-XXXXXX")
	export TEST_TMP
	python3 - "$SELF" "$@" <<-'EOF'
		import ctypes, os, signal, subprocess, sys
		ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
		signal.signal(signal.SIGINT, signal.SIG_IGN)
		child = subprocess.Popen(["bash"] + sys.argv[1:], stdin=subprocess.DEVNULL)
		while True:
		    pid, status = os.waitpid(-1, 0)
		    if pid == child.pid:
		        os._exit(os.waitstatus_to_exitcode(status) & 0xff)
	EOF
	status=$?
	[ -n "${KEEP:-}" ] || rm -rf "$TEST_TMP"
	exit $status
fi
chmod 755 "$TEST_TMP"
failed=0

# --- results -------------------------------------------------------------------------------------

ok() {
	echo "ok $1"
}

not_ok() { # NAME WHY...
	local name=$1
	shift
	failed=1
	# One line, whatever the reason looks like.
	echo "not ok $name: $(echo "$*" | tr '\n' ' ' | cut -c1-600)"
}

skip() { # NAME WHY...
	local name=$1
	shift
	echo "skip $name: $*"
}

skip_all() {
	echo "$*"
	exit 77
}

finish() {
	exit "$failed"
}

# --- what this machine must have -----------------------------------------------------------------

# requires PROGRAM...: skip the whole script when one is missing.
requires() {
	local program
	for program; do
		command -v "$program" >/dev/null || skip_all "$program is not installed"
	done
}

requires_root() {
	[ "$(id -u)" = 0 ] || skip_all "must be root"
}

# --- processes -----------------------------------------------------------------------------------

# Pids of all processes that belong to this test.
own_processes() {
	local dir pid
	for dir in /proc/[0-9]*; do
		pid=${dir#/proc/}
		[ "$pid" = $$ ] && continue
		[ "$pid" = "$BASHPID" ] && continue
		if grep -qaF -- "$TEST_TMP" "$dir/cmdline" 2>/dev/null; then
			echo "$pid"
		fi
	done
}

# descendants PID: it and all processes below it.
descendants() {
	local child
	echo "$1"
	for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do
		descendants "$child"
	done
}

kill_tree() {
	local pids
	pids=$(descendants "$1")
	# shellcheck disable=SC2086
	kill -KILL $pids 2>/dev/null
	# The zombies of a killed parent need a moment.
	wait_gone "$1" || true
}

alive() {
	local state
	state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) || return 1
	[ -n "$state" ] && [ "$state" != Z ] && [ "$state" != X ]
}

wait_gone() { # PID
	local i
	for i in $(seq 200); do
		[ -e "/proc/$1" ] || return 0
		sleep 0.01
	done
	return 1
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
	local end=$((SECONDS + $1 + 1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.02
	done
}

cleanup_fns=()

# cleanup_fn COMMAND...: run at the end, whatever the end is.
cleanup_fn() {
	cleanup_fns=("$*" "${cleanup_fns[@]}")
}

cleanup() {
	local status=$? fn pid
	trap - EXIT
	for fn in "${cleanup_fns[@]}"; do
		$fn
	done
	for pid in $(own_processes); do
		kill -KILL "$pid" 2>/dev/null
	done
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- victims -------------------------------------------------------------------------------------

# start_victim NAME [ARG...]: sets vdir and pid. Status 1: it has not started, see why; 2: it does
# not work on this machine, see why.
start_victim() {
	local name=$1
	shift
	vdir=$(mktemp -d "$TEST_TMP/$name-XXXXXX")
	chmod 777 "$vdir"
	pid=
	if ! why=$(timeout 30 "$VICTIMS/$name" "$vdir" "$@" 2>&1); then
		why="did not start: $why"
		return 1
	fi
	if [ -e "$vdir/result" ]; then
		why=$(cat "$vdir/result")
		case $why in
		SKIP:*)
			why=${why#SKIP: }
			return 2
			;;
		esac
		return 1
	fi
	pid=$(cat "$vdir/pid")
}

# verdict [SECONDS]: ask the victim. Status 0 for PASS, else why says what it found.
verdict() {
	: >"$vdir/verify"
	if ! wait_for "${1:-20}" test -e "$vdir/result"; then
		if alive "$pid"; then
			why="victim gives no verdict: it is in $(cat "/proc/$pid/wchan" 2>/dev/null)"
		else
			why="victim is dead"
		fi
		return 1
	fi
	why=$(cat "$vdir/result")
	[ "$why" = PASS ] || return 1
	wait_gone "$pid" || true
}

# The reason of a failure: the first error line of a log file, or what the program has printed.
reason() { # OUTPUT LOG
	local text
	text=$(grep -m 3 -E 'Error|error' "$2" 2>/dev/null | cut -c1-300)
	[ -n "$1" ] && text="$1 $text"
	[ -n "$text" ] || text=$(tail -n 2 "$2" 2>/dev/null)
	echo "$text"
}

# dump ENGINE PID IMAGES [OPTION...]: status of the engine; why has its words.
dump() {
	local engine=$1 target=$2 images=$3 output
	shift 3
	mkdir -p "$images"
	if ! output=$(timeout 60 "$engine" dump -t "$target" -D "$images" -o dump.log -v4 "$@" 2>&1 </dev/null); then
		why="dump: $(reason "$output" "$images/dump.log")"
		return 1
	fi
	if [ -n "$output" ] && [ "$engine" = "$FERRY" ]; then
		why="dump is not silent on success: $output"
		return 1
	fi
}

# restore ENGINE IMAGES [OPTION...]: in the background (-d). Open descriptors go nowhere: a restored
# tree must not keep the test's pipes open.
restore() {
	local engine=$1 images=$2 output
	shift 2
	output=$images/restore.out
	if ! timeout 60 "$engine" restore -d -D "$images" -o restore.log -v4 "$@" >"$output" 2>&1 </dev/null; then
		why="restore: $(reason "$(cat "$output")" "$images/restore.log")"
		return 1
	fi
	if [ -s "$output" ] && [ "$engine" = "$FERRY" ]; then
		why="restore is not silent on success: $(cat "$output")"
		return 1
	fi
}

# The options that a victim needs.
victim_options() {
	case $1 in
	locks) echo --file-locks ;;
	linked_ghost) echo --link-remap ;;
	esac
}

# round_trip NAME DUMPER RESTORER: one victim is dumped (and killed), restored, asked. Prints the
# result line.
round_trip() {
	local name=$1 dumper=$2 restorer=$3 images options
	start_victim "$name"
	case $? in
	1)
		not_ok "$name" "$why"
		return
		;;
	2)
		skip "$name" "$why"
		return
		;;
	esac
	images=$vdir/images
	options=$(victim_options "$name")
	# shellcheck disable=SC2086
	if ! dump "$dumper" "$pid" "$images" $options; then
		not_ok "$name" "$why"
	elif ! wait_gone "$pid"; then
		not_ok "$name" "after the dump its pid $pid is still taken"
	elif ! restore "$restorer" "$images" $options; then
		not_ok "$name" "$why"
	elif ! verdict; then
		not_ok "$name" "$why"
	else
		ok "$name"
	fi
	kill_tree "$pid"
	[ -n "${KEEP:-}" ] || rm -rf "$vdir"
}

# Names of the victims that have a round trip, from the build description.
all_victims() {
	sed -n "s/^\t'\(.*\)',$/\1/p" tests/victims/meson.build | grep -vx refuse
}

# --- comparing a process before and after --------------------------------------------------------

# snapshot PID FILE: all that must be the same before and after a visit (see snapshot.py).
snapshot() {
	python3 tests/e2e/snapshot.py "$1" >"$2"
}

# text_program MIB NAME [pages]: a program with so much text in its memory, or the same pages often; sets work, its
# folder, and pid.
# shellcheck disable=SC2034 # for the test
text_program() {
	work=$TEST_TMP/$2
	mkdir "$work"
	setsid /usr/bin/python3 tests/e2e/text-program "$1" "$work" "${@:3}" </dev/null >/dev/null 2>&1 &
	pid=$!
	disown
	wait_for 20 test -e "$work/ready"
}
