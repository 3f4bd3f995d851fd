#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 1800
#
# ferry migrate between two hosts over real ssh: every victim there and back, PIDs, files, users,
# messages. ONLY='glob' runs some cases only.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"

victim_options() {
	case $1 in
	locks) echo --file-locks ;;
	cow) echo --mode stop ;; # post-copy ends the sharing that it looks for
	esac
}

# same_tree HOST PID NAME BEFORE: but for those whose children come and go all the time: their own verdict counts.
same_tree() {
	local now
	case $3 in mem_lively | mem_shared_lively | mem_busy) return 0 ;; esac
	now=$(tree "$1" "$2" "$3")
	[ "$now" = "$4" ] || complain "the tree changed: $4, then $now"
}

there_and_back() {
	local pid before options
	pid=$(start_victim a "$1") || complain "$1 does not start" || return 1
	before=$(tree a "$pid" "$1")
	options=$(victim_options "$1")
	# shellcheck disable=SC2086 # words
	must_migrate a "$pid" $options && moved a "$pid" || return 1
	same_tree b "$pid" "$1" "$before" || return 1
	# shellcheck disable=SC2086 # words
	must_migrate b "$pid" $options && moved b "$pid" || return 1
	same_tree a "$pid" "$1" "$before" || return 1
	verdict a "$1"
}

# PIDs, thread ids, groups, states and names of a session. The parent of its first task is whoever
# started it. Threads of the victims that test sleeping end when they have slept enough.
tree() {
	case ${3:-} in
	restart_*) on "$1" ps -o pid=,pgid=,comm= --sid "$2" | sort -n | tr -s ' \n' '  ' && return ;;
	esac
	on "$1" ps -L -o pid=,lwp=,pgid=,comm= --sid "$2" | sort -n | tr -s ' \n' '  '
}

# take HOST PID: makes a process of that PID. The shell becomes setsid, whose child is the next one.
take() {
	local try
	for try in 1 2 3 4 5; do # another process may get it first, and be gone when it is looked at
		on "$1" sh -c 'echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
			exec setsid -f sleep 1000 >/dev/null 2>&1' sh "$2"
		wait_for 2 on "$1" grep -qs sleep "/proc/$2/comm" && return
	done
	echo "$try attempts"
	return 1
}

pids_same_refuses() {
	local pid
	pid=$(start_victim a single) && take b "$pid" || complain "cannot take the PID" || return 1
	refused "$pid sleep" a "$pid" --pids=same && at_home_single "$pid" && verdict a single
}

at_home_single() {
	on a sh -c 'grep -q "^TracerPid:.0$" /proc/$1/status' sh "$1" || complain "left traced"
}

pids_auto_moves_into_namespace() {
	local pid
	pid=$(start_victim a single) && take b "$pid" || complain "cannot take the PID" || return 1
	must_migrate a "$pid" || return 1
	grep -qi namespace "$TEST_TMP/migrate.out" "$TEST_TMP/migrate.err" || complain "does not say so" || return 1
	[ -n "$(inner b "$pid")" ] || complain "no process with inner PID $pid on b" || return 1
	verdict b single
}

# The root's PID is free, so that it is made before the images tell that another one is not.
pids_auto_sees_all_pids() {
	local pid tid
	pid=$(start_victim a threads) || return 1
	tid=$(on a ls "/proc/$pid/task" | sort -n | tail -n 1)
	[ "$tid" != "$pid" ] && take b "$tid" || complain "cannot take the id of a thread" || return 1
	must_migrate a "$pid" && [ -n "$(inner b "$pid")" ] || complain "no process with inner PID $pid on b" || return 1
	verdict b threads
}

pids_new_always_does() {
	local pid
	pid=$(start_victim a threads) || return 1
	must_migrate a "$pid" --pids=new || return 1
	[ -n "$(inner b "$pid")" ] || complain "no process with inner PID $pid on b" || return 1
	verdict b threads
}

# Its first task is made in the freeze, by somebody urgent, who has no timer slack.
default_slack_stays() {
	local pid mode=$1
	shift
	pid=$(start_victim a threads_more) || return 1
	must_migrate a "$pid" --mode "$mode" "$@" && verdict b threads_more
}

# A program of our own in /opt of host a only, with an open log.
start_logger() {
	cat >"$TEST_TMP/logger.py" <<-'END'
		#!/usr/bin/python3
		import os, sys, time
		log = open("/srv/work/logger/log", "a", buffering=1)
		settings = open("/srv/work/logger/settings")
		number = 0
		while True:
		    log.write(f"{number}\n")
		    number += 1
		    time.sleep(0.002)
	END
	chmod 755 "$TEST_TMP/logger.py"
	hosts_put "$dir" a "$TEST_TMP/logger.py" /opt/logger.py
	rm -rf "$(files_of a)/srv/work/logger" "$(files_of b)/srv/work/logger"
	mkdir -p "$(files_of a)/srv/work/logger" "$(files_of b)/srv/work/logger"
	echo "colour=green" >"$(files_of a)/srv/work/logger/settings"
	hosts_spawn "$dir" a /dev/null /opt/logger.py
	wait_for 10 [ -s "$(files_of a)/srv/work/logger/log" ] || return 1
	on a pgrep -n logger.py
}

# The log of HOST has every number from 0 on, and grows.
log_is_whole() {
	local log before
	log=$(files_of "$1")/srv/work/logger/log
	before=$(wc -l <"$log")
	sleep 0.3
	[ "$(wc -l <"$log")" -gt "$before" ] || complain "the log on $1 does not grow" || return 1
	python3 - "$log" <<-'END' || complain "the log on $1 has holes or repeats"
		import sys
		lines = open(sys.argv[1]).read().split("\n")[:-1]
		sys.exit(lines != [str(i) for i in range(len(lines))])
	END
}

files_are_copied() {
	local pid
	pid=$(start_logger) || complain "the logger does not start" || return 1
	must_migrate a "$pid" --files=copy && moved a "$pid" && log_is_whole b || return 1
	cmp "$(files_of a)/srv/work/logger/settings" "$(files_of b)/srv/work/logger/settings" ||
		complain "the settings were not copied" || return 1
	must_migrate b "$pid" --files=copy --overwrite-files && moved b "$pid" && log_is_whole a
}

# The program writes to its file after b has found that its own is the same: it gets b's files, brought up to date.
same_files_are_used() {
	local pid
	rm -rf "$(files_of a)/srv/work/twin" "$(files_of b)/srv/work/twin"
	mkdir -p "$(files_of a)/srv/work/twin"
	cat >"$(files_of a)/srv/work/twin/program.py" <<-'END'
		import os, time
		ballast = os.urandom(40 << 20)
		log = open("/srv/work/twin/log", "a", buffering=1)
		log.write("begin\n")
		while not os.path.exists("/srv/work/twin/go"):
		    time.sleep(0.02)
		log.write("goes on\n")
		time.sleep(1000)
	END
	hosts_spawn "$dir" a /dev/null python3 /srv/work/twin/program.py
	wait_for 20 [ -s "$(files_of a)/srv/work/twin/log" ] || complain "does not start" || return 1
	pid=$(on a pgrep -n -f twin/program.py)
	cp -a "$(files_of a)/srv/work/twin" "$(files_of b)/srv/work/"
	on a tc qdisc add dev eth0 root tbf rate 100mbit burst 128kb latency 50ms || return 1
	: >"$TEST_TMP/migrate.out"
	migrate a "$pid" --json --compress=none &
	wait_for 30 grep -q precopy "$TEST_TMP/migrate.out" || complain "does not begin"
	touch "$(files_of a)/srv/work/twin/go" "$(files_of b)/srv/work/twin/go"
	wait $! || complain "migrate failed: $(tail -n 1 "$TEST_TMP/migrate.err")" || return 1
	on a tc qdisc del dev eth0 root
	moved a "$pid" || return 1
	[ "$(paste -sd ' ' "$(files_of b)/srv/work/twin/log")" = "begin goes on" ] ||
		complain "the log on b is $(cat "$(files_of b)/srv/work/twin/log")" || return 1
	on b grep -q 'fuse.ferry' "/proc/$pid/mounts" && complain "it has a root directory of its own" && return 1
	! on a pgrep -x ferry-files || complain "a is still needed"
}

files_none_refuses() {
	local pid
	pid=$(start_logger) || complain "the logger does not start" || return 1
	MESSAGE_LINES=10 refused "/srv/work/logger/log /srv/work/logger/settings" a "$pid" --files=none || return 1
	[ ! -e "$(files_of b)/srv/work/logger/log" ] || complain "copied all the same" || return 1
	at_home a "$pid" && log_is_whole a
}

different_file_is_kept() {
	local pid theirs
	pid=$(start_logger) || complain "the logger does not start" || return 1
	theirs=$(files_of b)/srv/work/logger/settings
	echo "colour=blue!" >"$theirs"
	MESSAGE_LINES=10 refused "/srv/work/logger/settings" a "$pid" --files=copy || return 1
	[ "$(cat "$theirs")" = "colour=blue!" ] || complain "the file of b was overwritten" || return 1
	[ ! -e "$(files_of b)/srv/work/logger/log" ] || complain "left the log on b" || return 1
	at_home a "$pid" && log_is_whole a || return 1
	must_migrate a "$pid" --files=copy --overwrite-files && moved a "$pid" && log_is_whole b || return 1
	[ "$(cat "$theirs")" = "colour=green" ] || complain "--overwrite-files did not"
}

# The interpreter and its library are missing at b, all of them are copied.
program_is_copied() {
	local pid
	hosts_down "$dir" && begin --lacks /usr/bin/python3.11 --lacks /usr/lib/python3.11 || return 1
	pid=$(start_logger) || complain "the logger does not start" || return 1
	must_migrate a "$pid" --files=copy && moved a "$pid" && log_is_whole b || return 1
	cmp /usr/bin/python3.11 "$(files_of b)/usr/bin/python3.11" || complain "python differs" || return 1
	hosts_down "$dir" && begin
}

json_parses() {
	local pid
	pid=$(start_victim a threads) || return 1
	must_migrate a "$pid" --json || return 1
	python3 - "$TEST_TMP/migrate.out" <<-'END' || complain "not JSON lines: $(head -c 300 "$TEST_TMP/migrate.out")" || return 1
		import json, sys
		lines = [json.loads(line) for line in open(sys.argv[1])]
		assert len(lines) >= 3 and all(isinstance(line, dict) for line in lines)
	END
	[ ! -s "$TEST_TMP/migrate.err" ] || complain "noise on stderr: $(head -n 1 "$TEST_TMP/migrate.err")" || return 1
	verdict b threads
}

quiet_on_success() {
	local pid
	pid=$(start_victim a single) || return 1
	must_migrate a "$pid" && verdict b single || return 1
	grep -q '^it moves over TLS, to 10.88.0.2, port' "$TEST_TMP/migrate.out" || complain "does not say how it moves" || return 1
	# how it moves, a forecast, and a summary of at most two lines
	[ ! -s "$TEST_TMP/migrate.err" ] || complain "noise on stderr: $(head -n 1 "$TEST_TMP/migrate.err")" || return 1
	[ "$(wc -l <"$TEST_TMP/migrate.out")" -le 4 ] || complain "prints noise"
}

# A slow cable, so that the signal comes while memory moves.
interrupted() {
	local pid sender
	pid=$(start_bench a memory 200) || return 1
	on a tc qdisc add dev eth0 root tbf rate 200mbit burst 128kb latency 50ms || return 1
	migrate a "$pid" &
	sender=$!
	sleep 3
	on a pkill "-$1" -x ferry || complain "no ferry to interrupt" || return 1
	wait $sender && complain "exit status 0 after SIG$1" && return 1
	on a tc qdisc del dev eth0 root
	at_home a "$pid" && bench_report a "$pid" || return 1
	wait_for 10 sh -c '! pgrep -f "ferry agent" --ns "$1" --nslist pid' sh "$(hosts_pid "$dir" b)" ||
		complain "the agent is still there" || return 1
	must_migrate a "$pid" && moved a "$pid" && bench_report b "$pid"
}

unreachable() {
	local pid
	pid=$(start_victim a single) || return 1
	hosts_exec "$dir" a timeout 30 ferry migrate "$pid" nowhere.invalid </dev/null \
		>"$TEST_TMP/migrate.out" 2>"$TEST_TMP/migrate.err" && complain "no failure" && return 1
	grep -q nowhere.invalid "$TEST_TMP/migrate.err" || complain "does not name the host" || return 1
	one_sentence || return 1
	refused ferry-b a "$pid" --ssh 'ssh -p 2222' || return 1
	refused ferry-b a "$pid" --ssh /bin/false || return 1
	refused no-such-program a "$pid" --ssh no-such-program || return 1
	at_home a "$pid" && verdict a single
}

no_ferry_there() {
	local pid
	pid=$(start_victim a single) || return 1
	mv "$(files_of b)/usr/local/bin/ferry" "$(files_of b)/usr/local/bin/ferry.away"
	refused "ferry-b" a "$pid"
	mv "$(files_of b)/usr/local/bin/ferry.away" "$(files_of b)/usr/local/bin/ferry"
	at_home a "$pid" && verdict a single
}

# What the far shell prints at login must not disturb the protocol silently: told or tolerated.
no_such_process() {
	refused 31999 a 31999 || return 1
	refused 1x a 1x
}

owned_by() {
	local pid
	mkdir -p "$(files_of a)/srv/work/bench" "$(files_of b)/srv/work/bench"
	chown 2001:2001 "$(files_of a)/srv/work/bench" "$(files_of b)/srv/work/bench"
	on a setpriv --reuid worker --regid worker --init-groups /opt/bench-victim /srv/work/bench threads 5 || return 1
	pid=$(cat "$(files_of a)/srv/work/bench/pid")
	must_migrate a "$pid" && moved a "$pid" && bench_report b "$pid" || return 1
	[ "$(on b ps -o uid=,gid= -p "$pid" | tr -s ' ')" = " 2001 2001" ] || complain "not the same user" || return 1
	rm -rf "$(files_of a)/srv/work/bench" "$(files_of b)/srv/work/bench"
}

# A deleted file that has another name: the two would be two files on the other host.
linked_refused() {
	local pid
	pid=$(start_victim a linked_ghost) || complain "linked_ghost does not start" || return 1
	on a ferry migrate "$pid" ferry-b >"$TEST_TMP/linked" 2>&1 && complain "it was migrated"
	grep -q 'link' "$TEST_TMP/linked" || complain "not refused by name: $(tail -n 1 "$TEST_TMP/linked")" || return 1
	verdict a linked_ghost
}

begin
test_case "a deleted file with another name is refused by name" linked_refused
for victim in "$VICTIMS"/*; do
	name=${victim##*/}
	[ -f "$victim" ] && [ -x "$victim" ] || continue
	case $name in
	refuse) continue ;;
	linked_ghost) continue ;; # its tie to a name outside of the tree cannot move: see linked_refused
	esac
	test_case "there and back: $name" there_and_back "$name"
done
test_case "--pids=same refuses a taken PID and names its owner" pids_same_refuses
test_case "--pids=auto goes into a PID namespace and says so" pids_auto_moves_into_namespace
test_case "--pids=auto looks at the ids of threads, too" pids_auto_sees_all_pids
test_case "--pids=new always does" pids_new_always_does
for mode in stop postcopy; do
	test_case "$mode: the default timer slack in a PID namespace" default_slack_stays $mode --pids=new
	test_case "$mode: the default timer slack" default_slack_stays $mode
done
test_case "open files are copied and brought up to date" files_are_copied
test_case "files that are there and the same are used, and kept up to date" same_files_are_used
test_case "--files=none refuses and lists" files_none_refuses
test_case "a different file there is kept, --overwrite-files overwrites" different_file_is_kept
test_case "a whole program is copied" program_is_copied
test_case "--json prints JSON lines and nothing else" json_parses
test_case "a forecast and a summary on success, nothing else" quiet_on_success
test_case "SIGINT before the commit leaves the program at home" interrupted INT
test_case "SIGTERM before the commit leaves the program at home" interrupted TERM
test_case "unreachable hosts are named" unreachable
test_case "no ferry at the destination" no_ferry_there
test_case "no such process" no_such_process
test_case "a program of another user keeps its user" owned_by
