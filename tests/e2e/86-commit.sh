#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
#
# The moment of the commit: the connection breaks, or processes of ours are killed, exactly between
# COMMIT and RUNNING (tests/e2e/cut-ssh). Afterwards exactly one copy of the program runs, on the
# right side, and what it wrote has no hole and no repeat. Both hosts are this one. All messages go
# through ssh, where they can be counted.
. "$(dirname "$0")/lib.sh"

requires python3
requires_root

counter() {
	cat >"$TEST_TMP/count.py" <<-'END'
		import sys, time
		with open(sys.argv[1], "a", buffering=1) as log:
		    number = 0
		    while True:
		        log.write(f"{number}\n")
		        number += 1
		        time.sleep(0.005)
	END
	rm -rf "${work:?}"
	mkdir -p "$work"
	setsid /usr/bin/python3 "$TEST_TMP/count.py" "$work/log" </dev/null >/dev/null 2>&1 &
	pid=$!
	disown
	wait_for 10 test -s "$work/log"
}

# Pids of the copies of the counter that exist, one a line.
copies() {
	pgrep -f "python3 $TEST_TMP/count.py $work/log\$"
}

# The log has every number from 0 on.
whole() {
	python3 - "$work/log" <<-'END'
		import sys
		lines = open(sys.argv[1]).read().split("\n")[:-1]
		sys.exit(lines != [str(i) for i in range(len(lines))])
	END
}

grows() {
	local before
	before=$(wc -l <"$work/log")
	wait_for 10 sh -c "[ \$(wc -l <'$work/log') -gt $((before + 20)) ]"
}

settled() { # SIDE
	local there
	there=$(copies)
	case $1 in
	home) [ "$there" = "$pid" ] ;;
	away) [ -n "$there" ] && [ "$(wc -w <<<"$there")" = 1 ] && [ "$there" != "$pid" ] ;;
	esac
}

# cut NAME MODE SIDE [OPTION]...: migrates with a connection that is cut; where must the program be?
cut() {
	local name=$1 mode=$2 side=$3 status
	shift 3
	work=$TEST_TMP/$mode
	counter || {
		not_ok "$name" "the counter does not start"
		return
	}
	[ -z "${refuse:-}" ] || echo "$refuse" >"$work/refuse"
	timeout -k 5 60 "$FERRY" migrate "$pid" here --pids=new --transport=ssh \
		--ssh "$PWD/tests/e2e/cut-ssh $mode $work" "$@" >"$work/out" 2>"$work/err"
	status=$?
	if ! wait_for 20 settled "$side"; then
		not_ok "$name" "not $side: pid $pid, copies: $(copies | paste -sd ' '); $(cat "$work/err")"
	elif [ "$mode" != kill-both ] && ! grows; then
		not_ok "$name" "does not run: $(ps -o pid,stat,wchan -p "$(copies)" | tail -n 1); $(cat "$work/err")"
	elif ! whole; then
		not_ok "$name" "the log has holes or repeats"
	elif [ "$side" = home ] && [ $status = 0 ]; then
		not_ok "$name" "exit status 0"
	elif [ "$side" = away ] && [[ $mode = lose-* || $mode = pass ]] && [ $status != 0 ]; then
		not_ok "$name" "exit status $status: $(cat "$work/err")"
	else
		[ "$mode" = kill-both ] || ok "$name"
	fi
}

end_counter() {
	local copy
	for copy in $(copies); do
		kill -KILL "$copy"
	done
}

simple() {
	cut "$@"
	end_counter
}

simple "nothing breaks" pass away
simple "COMMIT is lost" lose-commit home
simple "COMMIT comes after it was taken back" late-commit home
simple "RUNNING is lost" lose-running away
refuse=2 simple "RUNNING is lost and the host cannot be reached for a while" lose-running away
simple "the driver is killed, COMMIT is lost" kill-driver home
simple "the driver is killed, the tree runs there" kill-driver-late away
simple "the command is killed, COMMIT is lost" kill-front home
simple "the command is killed, the tree runs there" kill-front-late away
refuse=1000 simple "COMMIT is lost and the host stays away: --on-unknown=home" lose-commit home \
	--on-unknown=home --unknown-after=2

# Nobody is left to ask: the tree stands, until --recover asks.
stands() {
	sleep 0.5
	[ "$(sed 's/.*) //; s/ .*//' "/proc/$pid/stat")" = T ]
}

recover() { # ID
	timeout -k 5 60 "$FERRY" migrate --recover "$1" here --ssh "$PWD/tools/pseudo-ssh" >"$work/recover" 2>&1
}

cut "both processes are killed" kill-both home
if ! stands; then
	not_ok "both processes are killed" "the tree does not stand at home"
elif ! recover "$pid"; then
	not_ok "both processes are killed" "--recover: $(cat "$work/recover")"
elif ! settled home || ! grows || ! whole; then
	not_ok "both processes are killed" "does not go on after --recover: $(cat "$work/recover")"
elif recover "$pid"; then
	not_ok "both processes are killed" "--recover finds something a second time"
else
	ok "both processes are killed, --recover lets it go on"
fi
end_counter

work=$TEST_TMP/kill-both-late
counter || not_ok "both are killed late" "the counter does not start"
timeout -k 5 60 "$FERRY" migrate "$pid" here --pids=new --transport=ssh --ssh "$PWD/tests/e2e/cut-ssh kill-both-late $work" \
	>"$work/out" 2>"$work/err"
token=$(cd /run/ferry && ls -t ./*.home | head -n 1)
token=${token#./}
if ! stands; then
	not_ok "both are killed when it runs there" "the tree at home does not stand"
elif [ "$(copies | wc -w)" != 2 ]; then
	not_ok "both are killed when it runs there" "copies: $(copies | paste -sd ' ')"
elif ! recover "${token%.home}"; then
	not_ok "both are killed when it runs there" "--recover: $(cat "$work/recover")"
elif ! wait_for 10 settled away || ! grows || ! whole; then
	not_ok "both are killed when it runs there" "not there alone: pid $pid, copies $(copies | paste -sd ' ')"
else
	ok "both are killed when it runs there, --recover ends the one at home"
fi
end_counter

finish
