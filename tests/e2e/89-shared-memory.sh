#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
#
# Shared memory that follows after the program runs: two processes that write all of it all the time, fork, discard,
# punch holes and make second mappings of it (tests/victims/mem_shared_lively.c). Whatever is cut, one copy
# runs, and no byte of it is wrong; and what is sent in the freeze does not grow with it.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"
. "$(dirname "$0")/modes-lib.sh"

mib=${MIB:-16}

moves() {
	local pid
	pid=$(start_victim a mem_shared_lively "$mib") || complain "the program does not start" || return 1
	must_migrate a "$pid" "$@" && moved a "$pid" && verdict b mem_shared_lively
}

# There and back: what came late once can do so again.
and_back() {
	local pid
	moves --mode postcopy && pid=$(start_victim a mem_shared_lively "$mib") || return 1
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
		pid=$(start_victim a mem_shared_lively "$mib" still) || complain "the program does not start" || return 1
		must_migrate a "$pid" --json --mode postcopy --compress=none && moved a "$pid" || return 1
		verdict b mem_shared_lively || return 1
		early+=("$(figure early)")
		[ "$(figure late)" -ge $((mib << 20)) ] || complain "of $mib MiB $(figure late) bytes followed" || return 1
		end_programs
	done
	[ "${early[1]}" -lt $((early[0] + (6 << 20))) ] || complain "bytes before it runs: ${early[*]}"
}

cut_at() {
	local pid sender
	pid=$(start_victim a mem_shared_lively "$mib" "${@:3}") || complain "the program does not start" || return 1
	begin_slowly "$pid" 24mbit "$1" --mode postcopy || return 1
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
	# what is left at the end may arrive before the cut comes
	[ "$2" != tcp ] || [ "$1" -gt 50 ] || break_was_noticed || return 1
	moved a "$pid" && verdict b mem_shared_lively
}

# The copy there dies with its agent; the one at home goes on from the freeze.
agent_dies() {
	local pid sender
	pid=$(start_victim a mem_shared_lively "$mib") || complain "the program does not start" || return 1
	begin_slowly "$pid" 24mbit 30 --mode postcopy || return 1
	on b pkill -KILL -x ferry
	full_speed
	wait $sender && complain "exit status 0" && return 1
	at_home a "$pid" && verdict a mem_shared_lively
}

# The agent is killed early, wherever it is then.
agent_dies_early() {
	local pid sender n
	for n in 1 2 3; do
		pid=$(start_victim a mem_shared_lively "$mib") || complain "the program does not start" || return 1
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

# Every process of the migration at home is killed while memory is missing.
recovered() {
	local pid sender
	pid=$(start_victim a mem_shared_lively "$mib") || complain "the program does not start" || return 1
	begin_slowly "$pid" 24mbit 30 --mode postcopy || return 1
	on a pkill -KILL 'ferry|ssh$'
	wait $sender && complain "exit status 0" && return 1
	full_speed
	exists b "$pid" || complain "is gone from b" || return 1
	on a timeout -k 5 60 ferry migrate --recover "$pid" ferry-b >"$TEST_TMP/recover" 2>&1 ||
		complain "--recover: $(cat "$TEST_TMP/recover")" || return 1
	moved a "$pid" && verdict b mem_shared_lively
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
test_case "everything at home is killed, --recover" recovered
exit 0
