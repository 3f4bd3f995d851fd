#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
#
# Shared memory that follows after the program runs: two processes that write all of it all the time, fork, discard,
# punch holes and make second mappings of it (tests/victims/mem_shared_lively.c). Whatever is cut, one copy
# runs, and no byte of it is wrong; and what is sent in the freeze does not grow with it.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"

mib=${MIB:-16}
work=/srv/work/mem_shared_lively
alive=(--dead-after=2 --ssh 'ssh -o ServerAliveInterval=1 -o ServerAliveCountMax=2 -o ConnectTimeout=3')

# start [ARGUMENT]...: of the victim
start() {
	local host
	for host in a b; do
		hosts_put "$dir" $host "$VICTIMS/mem_shared_lively" /opt/victims/mem_shared_lively || return 1
	done
	rm -rf "$(files_of a)$work" "$(files_of b)$work"
	mkdir -p "$(files_of a)$work" "$(files_of b)$work"
	chmod 777 "$(files_of a)$work" "$(files_of b)$work"
	on a timeout 60 /opt/victims/mem_shared_lively "$work" "$@" >&2 || return 1
	cat "$(files_of a)$work/pid"
}

slow_down() {
	on a tc qdisc add dev eth0 root tbf rate "$1" burst 128kb latency 50ms
}

full_speed() {
	on a tc qdisc del dev eth0 root 2>/dev/null
	return 0
}

moves() {
	local pid
	pid=$(start "$mib") || complain "the program does not start" || return 1
	must_migrate a "$pid" "$@" && moved a "$pid" && verdict b mem_shared_lively
}

# There and back: what came late once can do so again.
and_back() {
	local pid
	moves --mode postcopy && pid=$(start "$mib") || return 1
	must_migrate a "$pid" --mode postcopy && moved a "$pid" || return 1
	must_migrate b "$pid" --mode postcopy && moved b "$pid" && verdict a mem_shared_lively
}

# figure late|early: bytes that followed, as the summary says, or all others.
figure() {
	python3 - "$TEST_TMP/migrate.out" "$1" <<-'END'
		import json, sys
		moved = [e for e in map(json.loads, open(sys.argv[1])) if e.get("event") == "moved"][0]
		late = moved["postcopy"]["bulk_bytes"] + moved["postcopy"]["demand_bytes"]
		print(late if sys.argv[2] == "late" else moved["sent_bytes"] + moved["zero_bytes"] - late)
	END
}

# What is sent before it runs there is the same for 8 MiB and for 256.
freeze_does_not_grow() {
	local pid mib early=()
	for mib in 8 256; do
		pid=$(start "$mib" still) || complain "the program does not start" || return 1
		must_migrate a "$pid" --json --mode postcopy --compress=none && moved a "$pid" || return 1
		verdict b mem_shared_lively || return 1
		early+=("$(figure early)")
		[ "$(figure late)" -ge $((mib << 20)) ] || complain "of $mib MiB $(figure late) bytes followed" || return 1
		end_programs
	done
	[ "${early[1]}" -lt $((early[0] + (6 << 20))) ] || complain "bytes before it runs: ${early[*]}"
}

# Waits until that part of the memory (in percent) has followed. Says by a file that it has begun to look.
until_percent() {
	python3 - "$TEST_TMP/migrate.out" "$1" "$TEST_TMP/watching" <<-'END'
		import json, sys, time
		end = time.monotonic() + 50
		open(sys.argv[3], "w").close()
		while time.monotonic() < end:
		    done = total = 0
		    for line in open(sys.argv[1]):
		        try:
		            event = json.loads(line)
		        except ValueError:
		            continue
		        if event.get("event") == "progress" and event.get("stage") == "postcopy":
		            done, total = event["done"], event["total"]
		        if event.get("event") in ("moved", "failed"):
		            sys.exit(1)
		    if total and done * 100 >= total * int(sys.argv[2]):
		        sys.exit(0)
		    time.sleep(0.02)
		sys.exit(1)
	END
}

# begin_slowly MODE PERCENT [ARGUMENT]...: the program is on its way, and so much has followed. Sets pid and sender.
begin_slowly() {
	local mode=$1 percent=$2 watcher
	shift 2
	rm -f "$TEST_TMP/watching"
	pid=$(start "$mib" "$@") || complain "the program does not start" || return 1
	slow_down 24mbit
	: >"$TEST_TMP/migrate.out"
	# first: on a busy machine it may take as long to start as the program to move
	until_percent "$percent" &
	watcher=$!
	wait_for 30 [ -e "$TEST_TMP/watching" ] || complain "nobody watches" || return 1
	migrate a "$pid" --json --mode "$mode" "${alive[@]}" &
	sender=$!
	wait $watcher || complain "$percent % were never reached" || return 1
	exists b "$pid" || complain "does not run on b at $percent %"
}

# What was cut was in use. The summary cannot tell: the connection for messages, over which the destination says what it has
# counted, is cut, too.
break_was_noticed() {
	grep -q 'the connection broke' "$TEST_TMP/migrate.out" || complain "the break was not noticed"
}

cut_at() {
	local pid sender
	begin_slowly postcopy "$1" "${@:3}" || return 1
	case $2 in
	tcp) on a ss -K dst 10.88.0.2 dport != 22 ;;
	cable)
		hosts_link "$dir" down
		sleep 4
		hosts_link "$dir" up
		;;
	esac
	full_speed
	wait $sender || complain "migrate failed: $(tail -n 1 "$TEST_TMP/migrate.err")" || return 1
	[ "$2" != tcp ] || break_was_noticed || return 1
	moved a "$pid" && verdict b mem_shared_lively
}

# The copy there dies with its agent; the one at home goes on from the freeze.
agent_dies() {
	local pid sender
	begin_slowly postcopy 30 || return 1
	on b pkill -KILL -x ferry
	full_speed
	wait $sender && complain "exit status 0" && return 1
	at_home a "$pid" && verdict a mem_shared_lively
}

# The agent is killed early, wherever it is then.
agent_dies_early() {
	local pid sender n
	for n in 1 2 3; do
		pid=$(start "$mib") || complain "the program does not start" || return 1
		migrate a "$pid" --mode postcopy "${alive[@]}" &
		sender=$!
		wait_for 20 on b pgrep -x ferry >/dev/null || complain "no agent" || return 1
		sleep "0.$n"
		on b pkill -KILL -x ferry
		if wait $sender; then
			moved a "$pid" && verdict b mem_shared_lively || return 1
		else
			at_home a "$pid" && verdict a mem_shared_lively || return 1
		fi
		end_programs
	done
	return 0
}

begin
for mode in stop precopy postcopy hybrid; do
	test_case "$mode moves shared memory in use" moves --mode "$mode"
done
test_case "postcopy there and back" and_back
test_case "what is sent in the freeze does not grow with shared memory" freeze_does_not_grow
test_case "TCP ends at 10 %" cut_at 10 tcp
test_case "TCP ends at 50 %" cut_at 50 tcp still
test_case "TCP ends at 70 %" cut_at 70 tcp still
test_case "the cable is out for a while at 40 %" cut_at 40 cable
test_case "the agent is killed after the commit" agent_dies
test_case "the agent is killed early" agent_dies_early
exit 0
