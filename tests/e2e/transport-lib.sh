# shellcheck shell=bash disable=SC2034 # why is for the test
# SPDX-License-Identifier: Apache-2.0
# A program with memory that moves, for the tests of transports. Both hosts are this one. To be sourced after lib.sh.

BENCH_VICTIM=$BUILD_DIR/bench/bench-victim

program() { # NAME [MIB]: bench-victim with so much memory; sets work, pid
	work=$TEST_TMP/$1
	mkdir "$work"
	"$BENCH_VICTIM" "$work" memory "${2:-8}" && pid=$(cat "$work/pid")
}

# The copies of the program that exist, one a line.
copies() {
	pgrep -f "^$BENCH_VICTIM $work memory"
}

lives() { # home|away: one copy, there, and its memory is whole; ends it
	local n report
	wait_for 20 [ "$(copies | wc -l)" = 1 ] || { why="${why:-} copies: $(copies)" && return 1; }
	n=$(copies)
	case $1 in
	home) [ "$n" = "$pid" ] ;;
	away) [ "$n" != "$pid" ] ;;
	esac || { why="${why:-} it is not $1" && return 1; }
	# as it sees it: its files may have stayed where it came from
	report=/proc/$n/root$work/report
	kill -USR1 "$n" && wait_for 20 test -s "$report" && grep -q ok "$report" ||
		{ why="${why:-} its memory is not whole: $(cat "$report")" && return 1; }
	kill_tree "$n"
}
