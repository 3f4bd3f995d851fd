# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Migrations that are interfered with while memory follows: what 88 and 89 have in common. To be sourced after
# tests/hosts/lib.sh.
# shellcheck disable=SC2154 # of that library

# So that a dead link is noticed soon.
# shellcheck disable=SC2034 # for those who source this
alive=(--dead-after=2 --ssh 'ssh -o ServerAliveInterval=1 -o ServerAliveCountMax=2 -o ConnectTimeout=3')

slow_down() {
	on a tc qdisc add dev eth0 root tbf rate "$1" burst 128kb latency 50ms
}

full_speed() {
	on a tc qdisc del dev eth0 root 2>/dev/null
	return 0
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

# begin_slowly PID RATE PERCENT OPTION...: the program is on its way from a over a link of that rate, and so
# much of its memory has followed: as it is, or that would not take as long as it is to. Sets sender, the process that waits for the migration.
begin_slowly() {
	local pid=$1 rate=$2 percent=$3 watcher
	shift 3
	rm -f "$TEST_TMP/watching"
	slow_down "$rate"
	: >"$TEST_TMP/migrate.out"
	# first: on a busy machine it may take as long to start as the program to move
	until_percent "$percent" &
	watcher=$!
	wait_for 30 [ -e "$TEST_TMP/watching" ] || complain "nobody watches" || return 1
	migrate a "$pid" --json --compress=none "${alive[@]}" "$@" &
	sender=$!
	wait $watcher || complain "$percent % were never reached" || return 1
	exists b "$pid" || complain "does not run on b at $percent %"
}

# What was cut was in use. The summary cannot tell: the connection for messages, over which the destination says
# what it has counted, is cut, too.
break_was_noticed() {
	grep -q 'the connection broke' "$TEST_TMP/migrate.out" || complain "the break was not noticed"
}
