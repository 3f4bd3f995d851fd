#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 1800
#
# Whatever dies during a migration, and whenever: exactly one copy of the program runs afterwards,
# at home or at the destination, and nothing in it is damaged. One program lives through all rounds
# of a case: where it is after one round, the next begins. ROUNDS (10) is how many.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"

rounds=${ROUNDS:-10}

# kill_on HOST PATTERN SECONDS: waits for a process whose command line matches, then as long again,
# and kills it. All in one shell there, so that no start of a program blurs the moment.
kill_on() {
	on "$1" sh -c 'i=0
		until pgrep -f "$1" >/dev/null; do
			[ $i -lt 200 ] || exit 1
			i=$((i + 1))
			sleep 0.02
		done
		sleep "$2"
		pkill -KILL -f "$1"' sh "$2" "$3"
}

# strike WHAT SECONDS
strike() {
	case $1 in
	command) kill_on "$home" '^ferry migrate' "$2" ;;
	agent) kill_on "$away" '^ferry agent' "$2" ;;
	sshd) kill_on "$away" '^sshd: root@' "$2" ;;
	ssh) kill_on "$home" '^ssh ' "$2" ;;
	any)
		local all=(command agent sshd ssh)
		strike "${all[RANDOM % 4]}" "$2"
		;;
	esac
}

# Waits until one of the hosts has the program running, free of tracers, and the other has not;
# sets home to that host.
settle() {
	local pid=$1 end=$((SECONDS + 20)) a b
	while [ $SECONDS -lt $end ]; do
		a=$(state a "$pid") b=$(state b "$pid")
		case $a/$b in
		runs/none) home=a && return 0 ;;
		none/runs) home=b && return 0 ;;
		runs/runs) complain "two copies run" && return 1 ;;
		none/none) complain "no copy is left" && return 1 ;;
		esac
		sleep 0.1
	done
	complain "not settled: $a on a, $b on b"
}

# none, held (stopped or traced or still being built) or runs
state() {
	on "$1" sh -c 'status=$(cat /proc/$1/status 2>/dev/null) || { echo none; exit; }
		case $status in
		*"State:	Z"*) echo none ;;
		*"State:	T"* | *"State:	t"*) echo held ;;
		*"TracerPid:	0"*) grep -q bench-victim /proc/$1/comm && echo runs || echo held ;;
		*) echo held ;;
		esac' sh "$2"
}

# survives WHAT PROGRAM SIZE [OPTION]...
# The moment is random in a span that grows with each strike that hit and shrinks with each that
# came too late, so that many come near the commit.
survives() {
	local what=$1 pid round span_ms=400 hits=0 moves=0 was
	home=a
	pid=$(start_bench a "$2" "$3") || return 1
	shift 3
	for ((round = 1; round <= rounds || (hits == 0 && round <= 6 * rounds); round++)); do
		# none has hit: too early counts as too late, so the span starts anew
		[ $round -le "$rounds" ] || span_ms=400
		away=$(other "$home")
		was=$home
		migrate "$home" "$pid" --overwrite-files "$@" &
		strike "$what" "$(awk -v r=$RANDOM -v span=$span_ms 'BEGIN { printf "%.3f", r / 32768 * span / 1000 }')"
		if wait $!; then
			span_ms=$((span_ms * 9 / 10 + 5))
		else
			span_ms=$((span_ms * 5 / 4))
			hits=$((hits + 1))
		fi
		settle "$pid" || complain "round $round, $what" || return 1
		[ "$home" = "$was" ] || moves=$((moves + 1))
		echo "round $round: $what struck within $span_ms ms, from $was, now on $home"
		bench_report "$home" "$pid" >/dev/null || complain "round $round, $what" || return 1
		no_remains || complain "round $round, $what" || return 1
	done
	echo "$rounds rounds: $hits migrations failed, $moves times the program moved"
	[ $hits -gt 0 ] || complain "no strike hit a migration"
}

# strike_both STAGE PID: migrates, and kills both sides when the stage begins: the agent there, and
# both processes here, the front and the driver (ferry keeper), all of which must have been alive until then.
strike_both() {
	"$top/tests/hosts/strike.py" "$1" "$(hosts_pid "$dir" a)" "$(hosts_pid "$dir" b)" \
		"$top/tests/hosts/hosts.sh" exec "$dir" "$home" timeout -k 5 60 \
		ferry migrate --json --overwrite-files --mode="${mode:-hybrid}" "$2" "ferry-$(other "$home")" \
		>"$TEST_TMP/struck" 2>"$TEST_TMP/migrate.err" </dev/null
	cat "$TEST_TMP/struck" "$TEST_TMP/migrate.err"
	grep -q "^struck agent.* keeper.* migrate" "$TEST_TMP/struck"
}

# After the word "commit" nobody is left who knows whether it was heard. What must never be: two that
# run. If one runs there, the one at home stands still; else it is at home, and goes on when told to.
decide() {
	local pid=$1 i
	away=$(other "$home")
	for i in $(seq 20); do
		[ "$(state "$home" "$pid")/$(state "$away" "$pid")" != runs/runs ] ||
			complain "two copies run" || return 1
		sleep 0.05
	done
	case $(state "$home" "$pid")/$(state "$away" "$pid") in
	held/runs) on "$home" pkill -KILL -x bench-victim ;;
	held/none) on "$home" pkill -CONT -x bench-victim ;;
	esac
	settle "$pid"
}

# at_stage STAGE PID: on a machine so busy that the migration is over before it is struck, again.
at_stage() {
	local try was=$home
	for try in 1 2 3 4 5; do
		strike_both "$1" "$2" && break
		[ $try -lt 5 ] || complain "no strike hit" || return 1
		settle "$2" || return 1
		was=$home
	done
	if [ "$1" = commit ]; then
		decide "$2" || return 1
	else
		settle "$2" || return 1
		[ "$home" = "$was" ] || complain "it moved" || return 1
	fi
	echo "both struck at $1, from $was, now on $home"
	bench_report "$home" "$2" >/dev/null && no_remains
}

# Both sides at once, at the beginning of each stage: before the commit it runs on at home.
both_sides() {
	local pid stage round mode=stop
	home=a
	pid=$(start_bench a memory 60) || return 1
	# a slow way for the memory: no strike comes so late that the tree is armed for the commit already
	on a tc qdisc add dev eth0 root tbf rate 400mbit burst 128kb latency 50ms || return 1
	for stage in files freeze changes state commit; do
		[ $stage != commit ] || on a tc qdisc del dev eth0 root
		[ $stage != commit ] || mode=hybrid
		for ((round = 1; round <= (rounds + 4) / 5; round++)); do
			at_stage "$stage" "$pid" || complain "both sides at $stage" || return 1
		done
	done
}

# What a migration started is gone a while after it, on both hosts.
no_remains() {
	local host
	for host in a b; do
		wait_for 15 on $host sh -c '! pgrep -x ferry >/dev/null' ||
			complain "left on $host: $(on $host pgrep -ax ferry)" || return 1
	done
}

# What ssh is for is over when everything has gone over to TLS: nobody misses it.
ssh_is_not_missed() {
	local pid
	home=a
	pid=$(start_bench a memory 100) || return 1
	on a tc qdisc add dev eth0 root tbf rate 400mbit burst 128kb latency 50ms || return 1
	migrate a "$pid" &
	wait_for 20 grep -q 'over TLS' "$TEST_TMP/migrate.out" "$TEST_TMP/migrate.err" ||
		complain "it does not go over TLS" || return 1
	on a pkill -KILL -x ssh
	wait $! || complain "migrate failed: $(tail -n 1 "$TEST_TMP/migrate.err")" || return 1
	on a tc qdisc del dev eth0 root
	moved a "$pid" && bench_report b "$pid"
}

# cable [OPTION]...: it is pulled out for good in the middle of the memory, and plugged in later.
cable() {
	local pid
	home=a
	pid=$(start_bench a memory 200) || return 1
	on a tc qdisc add dev eth0 root tbf rate 200mbit burst 128kb latency 50ms || return 1
	MIGRATE_LIMIT=120 migrate a "$pid" "$@" &
	sleep 3
	hosts_link "$dir" down
	wait $! && complain "migrated over a cable that was unplugged" && return 1
	at_home a "$pid" || return 1
	hosts_link "$dir" up
	on a tc qdisc del dev eth0 root
	bench_report a "$pid" >/dev/null || return 1
	must_migrate a "$pid" && moved a "$pid" && bench_report b "$pid"
}

begin
hosts_put "$dir" b "$BUILD/bench/bench-victim" /opt/bench-victim
test_case "the command is killed" survives command tasks 5
test_case "the agent is killed" survives agent threads 20
test_case "the far sshd is killed" survives sshd tasks 5 --transport=ssh
test_case "the near ssh is killed" survives ssh threads 20 --transport=ssh
test_case "ssh is killed when all goes over TLS" ssh_is_not_missed
test_case "both sides are killed, at each stage" both_sides
test_case "any of them, with much memory" survives any memory 100
test_case "the cable is pulled out" cable --mode=stop --transport=tls --dead-after=3
test_case "the cable is pulled out, ssh" cable --transport=ssh --ssh 'ssh -o ServerAliveInterval=2 -o ServerAliveCountMax=2'
