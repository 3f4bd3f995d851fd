#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
#
# The modes of ferry migrate between two hosts over real ssh, with a program that writes all of its
# memory all the time, forks, remaps, discards (tests/victims/mem_lively.c): wherever it is cut, one
# copy runs, and no byte of it is wrong. FERRY_FULL=1: 200 random faults instead of a few.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"
. "$(dirname "$0")/modes-lib.sh"

mib=${MIB:-24} # for each of two processes

moves() {
	local pid
	pid=$(start_victim a mem_lively "$mib") || complain "the program does not start" || return 1
	must_migrate a "$pid" "$@" && moved a "$pid" && verdict b mem_lively
}

# A thread that sleeps is stopped by each look at the tree, and must not notice (tests/victims/restart_*.c).
sleepers_move() {
	local victim pid
	for victim in restart_block restart_eintr restart_plain; do
		pid=$(start_victim a "$victim") || complain "$victim does not start" || return 1
		must_migrate a "$pid" --mode "$1" && moved a "$pid" && verdict b "$victim" || return 1
	done
}

# family MODE PAGES: processes that share pages since a fork. With post-copy each gets its own.
family() {
	local pid
	pid=$(start_victim a cow "$2") || complain "the program does not start" || return 1
	# shellcheck disable=SC2046 # words
	must_migrate a "$pid" $([ "$1" = default ] || echo "--mode $1") && moved a "$pid" || return 1
	case $1 in postcopy | hybrid) touch "$(files_of b)/srv/work/cow/separate" ;; esac
	verdict b cow
}

sharing_is_kept() {
	family default 20000 || return 1
	grep -q 'share.*since a fork' "$TEST_TMP/migrate.out" || complain "it is not said" || return 1
	family hybrid 20000 && grep -q 'will be separate' "$TEST_TMP/migrate.out" || complain "it is not said of hybrid"
}

# What the rounds have brought is not said to have moved again; and the little that they have left went in the freeze.
counted_once() {
	local pid
	pid=$(start_bench a memory 48) || complain "the program does not start" || return 1
	must_migrate a "$pid" --json --mode hybrid && moved a "$pid" && bench_report b "$pid" || return 1
	python3 - "$TEST_TMP/migrate.out" <<-'END' || complain "counted twice, or left for later: $(tail -n 1 "$TEST_TMP/migrate.out")"
		import json, sys
		moved = [e for e in map(json.loads, open(sys.argv[1])) if e.get("event") == "moved"][0]
		lazy = moved["postcopy"]
		sys.exit(not (moved["round_bytes"] > 40 << 20 and lazy["bulk_bytes"] + lazy["demand_bytes"] == 0))
	END
}

# classes HOST PATTERN: the scheduling classes and nice values of all threads of those processes.
classes() {
	on "$1" ps -eLo cls=,ni=,comm= | awk -v name="^($2)$" '$3 ~ name { print $1, $2 }' | sort -u
}

# processors HOST PATTERN: where all threads of those processes may run.
processors() {
	on "$1" sh -c 'for p in $(pgrep -x "$1"); do sed -n "s/^Cpus_allowed_list:\s*//p" /proc/$p/task/*/status; done' - "$2" | sort -u
}

# In the freeze ferry's threads come before all others, and the tree is made by such, on one processor: nobody has that in the
# end. Who moves what nobody waits for gives way.
priorities() {
	local pid sender seen own least where
	pid=$(start_victim a threads) || complain "the program does not start" || return 1
	must_migrate a "$pid" --mode "$1" && moved a "$pid" && verdict b threads || return 1
	[ "$1" = postcopy ] || return 0
	pid=$(start_bench a memory 48) || complain "the program does not start" || return 1
	where=$(processors a bench-victim)
	begin_slowly "$pid" 80mbit 20 --mode "$1" || return 1
	own=$(nice) least=$((own + 5 < 19 ? own + 5 : 19)) # the hosts are as nice as we are
	for seen in "$(classes a 'ferry|ferry-keeper')" "$(classes b 'ferry|ferry-guardian')"; do
		[ "$seen" = "$(printf 'TS %d\n' "$own" "$least" | sort -u)" ] || complain "while its memory follows: $seen" || return 1
	done
	seen=$(classes b bench-victim)
	[ "$seen" = "TS $own" ] || complain "the program: $seen" || return 1
	seen=$(processors b bench-victim)
	[ "$seen" = "$where" ] || complain "the program may run on $seen, and not on $where" || return 1
	full_speed
	wait $sender || complain "migrate failed: $(tail -n 1 "$TEST_TMP/migrate.err")" || return 1
	moved a "$pid" && bench_report b "$pid"
}

# cut_at PERCENT HOW MODE [still|lively] [OPTION...]: in the lazy phase every connection breaks, by the end of ssh or of TCP, or
# with the cable. The lively program gives memory back, so that not all of it is ever fetched: one that does
# not is used for the late cuts.
cut_at() {
	local pid sender by
	local -a options=("${@:5}")
	if [ "${4:-}" = still ]; then
		pid=$(start_bench a memory "$((2 * mib))")
	else
		pid=$(start_victim a mem_lively "$mib")
	fi || complain "the program does not start" || return 1
	case $2 in ssh | lanes | one-lane | cable-ssh) by=ssh ;; *) by=tls ;; esac
	begin_slowly "$pid" 120mbit "$1" --mode "$3" --transport=$by "${options[@]}" || return 1
	case $2 in
	ssh) on a pkill -KILL -x ssh ;;
	lanes) on b pkill -KILL -f '^ferry agent --join' ;;
	one-lane)
		# and one for files
		[ "$(on b pgrep -fc '^ferry agent --join')" = 5 ] || complain "lanes: $(on b pgrep -fa agent)" || return 1
		on b pkill -KILL -n -f '^ferry agent --join'
		;;
	tcp) on a ss -K dst 10.88.0.2 dport != 22 ;;
	cable*)
		hosts_link "$dir" down
		sleep 5
		hosts_link "$dir" up
		;;
	esac
	full_speed
	wait $sender || complain "migrate failed: $(tail -n 1 "$TEST_TMP/migrate.err")" || return 1
	# what is left at the end may arrive before the cut comes
	case $2:$1 in
	tcp:90) ;;
	tcp:* | one-lane:*) break_was_noticed || return 1 ;;
	esac
	moved a "$pid" || return 1
	if [ "${4:-}" = still ]; then bench_report b "$pid"; else verdict b mem_lively; fi
}

# The copy there dies with its agent; the one at home goes on from the freeze.
agent_dies() {
	local pid sender
	pid=$(start_victim a mem_lively "$mib") || complain "the program does not start" || return 1
	begin_slowly "$pid" 80mbit 30 --mode "$1" || return 1
	on b pkill -KILL -x ferry
	full_speed
	wait $sender && complain "exit status 0" && return 1
	at_home a "$pid" && verdict a mem_lively
}

# The copy that has lost its guardian, too, would go on with pages of zeros: whoever asks there ends it.
agent_and_guardian_die() {
	local pid sender
	pid=$(start_victim a mem_lively "$mib") || complain "the program does not start" || return 1
	begin_slowly "$pid" 80mbit 30 --mode "$1" || return 1
	on b pkill -KILL '^ferry(-guardian)?$'
	full_speed
	wait $sender && complain "exit status 0" && return 1
	at_home a "$pid" && verdict a mem_lively
}

# Every process of the migration at home is killed in the lazy phase.
recovered() {
	local pid sender
	pid=$(start_victim a mem_lively "$mib") || complain "the program does not start" || return 1
	begin_slowly "$pid" 80mbit 30 --mode "$1" || return 1
	on a pkill -KILL 'ferry|ssh$'
	wait $sender && complain "exit status 0" && return 1
	full_speed
	exists b "$pid" || complain "is gone from b" || return 1
	on a grep -q '^State:.[Tt]' "/proc/$pid/status" || complain "not stopped at home" || return 1
	on a timeout -k 5 60 ferry migrate --recover "$pid" ferry-b >"$TEST_TMP/recover" 2>&1 ||
		complain "--recover: $(cat "$TEST_TMP/recover")" || return 1
	moved a "$pid" && verdict b mem_lively
}

# --- random faults -----------------------------------------------------------------------------------

# none, held (stopped, traced, or being built) or runs
state() {
	on "$1" sh -c 'status=$(cat /proc/$1/status 2>/dev/null) || { echo none; exit; }
		case $status in
		*"State:	Z"*) echo none ;;
		*"State:	T"* | *"State:	t"*) echo held ;;
		*"TracerPid:	0"*) grep -q mem_lively /proc/$1/comm && echo runs || echo held ;;
		*) echo held ;;
		esac' sh "$2"
}

strike() {
	case $((RANDOM % 8)) in
	0) on a pkill -KILL -f '^ferry migrate' ;;
	1) on a pkill -KILL -x ferry-keeper ;;
	2) on a pkill -KILL ferry ;;
	3) on b pkill -KILL -x ferry ;;
	4) on a pkill -KILL -x ssh ;;
	5) on b pkill -KILL -f '^ferry agent --join' ;;
	6)
		hosts_link "$dir" down
		sleep "$((RANDOM % 4))"
		hosts_link "$dir" up
		;;
	7) on b pkill -KILL '^ferry(-guardian)?$' ;;
	esac
}

# Where it runs in the end; --recover is what a user would try when it stands at home.
settle() {
	local pid=$1 end=$((SECONDS + 60)) a b
	while [ $SECONDS -lt $end ]; do
		a=$(state a "$pid") b=$(state b "$pid")
		case $a/$b in
		runs/none | none/runs) return 0 ;;
		runs/runs) complain "two copies run" && return 1 ;;
		none/none) complain "no copy is left" && return 1 ;;
		held/*)
			on a pgrep -x 'ferry|ferry-keeper' >/dev/null ||
				on a timeout -k 5 60 ferry migrate --recover "$pid" ferry-b
			;;
		esac
		sleep 0.3
	done
	complain "not settled: $a on a, $b on b"
}

random_faults() {
	local pid round mode by ways=(auto auto ssh) on_a=0 on_b=0
	for ((round = 1; round <= $1; round++)); do
		mode=${modes[RANDOM % ${#modes[@]}]} by=${ways[RANDOM % ${#ways[@]}]}
		pid=$(start_victim a mem_lively "$mib") || complain "the program does not start" || return 1
		slow_down "$((100 + RANDOM % 400))mbit"
		MIGRATE_LIMIT=100 migrate a "$pid" --mode "$mode" --transport "$by" "${alive[@]}" &
		sleep "$(awk -v r=$RANDOM 'BEGIN { printf "%.3f", 0.2 + r / 32768 * 3 }')"
		strike
		wait $!
		full_speed
		settle "$pid" || complain "round $round, $mode" || return 1
		if [ "$(state a "$pid")" = runs ]; then
			on_a=$((on_a + 1))
			verdict a mem_lively
		else
			on_b=$((on_b + 1))
			verdict b mem_lively
		fi || complain "round $round, $mode" || return 1
		wait_for 30 on b sh -c '! pgrep -x ferry >/dev/null' ||
			complain "round $round, $mode: left on b: $(on b pgrep -ax ferry)" || return 1
	done
	echo "$1 rounds: $on_a times it stayed, $on_b times it moved"
}

begin
modes=(stop precopy postcopy hybrid)
for mode in "${modes[@]}"; do
	test_case "$mode moves a lively program" moves --mode "$mode"
	test_case "$mode moves threads that sleep" sleepers_move "$mode"
	test_case "$mode moves a family" family "$mode" 96
done
test_case "hybrid: what rounds have brought is counted once, and little is left" counted_once
test_case "a family that shares much goes on to share" sharing_is_kept
for mode in stop postcopy; do
	test_case "$mode: the priority of the freeze ends with it" priorities $mode
done
test_case "postcopy over TCP" moves --mode postcopy --insecure-plain-tcp
test_case "postcopy over several lanes" moves --mode postcopy --connections 3
test_case "postcopy over several lanes, ssh" moves --mode postcopy --connections 3 --transport=ssh
test_case "hybrid through ssh" moves --mode hybrid --transport=ssh
for percent in 10 50 90; do
	test_case "postcopy: ssh ends at $percent %" cut_at $percent ssh postcopy still
	test_case "postcopy: TCP ends at $percent %" cut_at $percent tcp postcopy still
done
test_case "postcopy, lively: ssh ends at 20 %" cut_at 20 ssh postcopy
test_case "postcopy: the lanes end at 50 %" cut_at 50 lanes postcopy
test_case "postcopy: one of several lanes ends at 20 %" cut_at 20 one-lane postcopy still --connections 3
test_case "postcopy, lively: several lanes end at 20 %" cut_at 20 tcp postcopy lively --connections 3
test_case "postcopy: the cable is out for a while at 50 %" cut_at 50 cable postcopy
test_case "postcopy: the cable is out for a while at 50 %, ssh" cut_at 50 cable-ssh postcopy
test_case "postcopy: the agent is killed after the commit" agent_dies postcopy
test_case "postcopy: the agent and the guardian are killed after the commit" agent_and_guardian_die postcopy
test_case "postcopy: everything at home is killed, --recover" recovered postcopy
test_case "random faults" random_faults "$([ -n "${FERRY_FULL:-}" ] && echo 200 || echo "${ROUNDS:-5}")"
exit 0
