#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
#
# Real programs with much memory and no rest, migrated in each mode that moves memory while they run, and
# checked for lost or repeated work and for damaged data. FERRY_FULL=1: a gigabyte of data, else 64 MiB.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"
. "$top/tests/hosts/programs.sh"

mib=64
[ -z "${FERRY_FULL:-}" ] || mib=1024

redis_says() {
	on "$1" redis-cli -s $work/socket "${@:2}"
}

# lines HOST FILE COUNT: the file has grown to that many lines.
lines() {
	[ -e "$(files_of "$1")$work/$2" ] && [ "$(wc -l <"$(files_of "$1")$work/$2")" -ge "$3" ]
}

# goes_on HOST FILE: fifty lines more than now.
goes_on() {
	wait_for 30 lines "$1" "$2" $(($(wc -l <"$(files_of "$1")$work/$2") + 50)) || complain "$2 stands still on $1"
}

# Clients over a unix socket, one counts and two write all over the data; what the first was answered has no
# hole and no repeat, and what nobody wrote to is what it was.
redis() {
	local mode=$1 pid replies before after
	[ -x /usr/bin/redis-server ] || skip_case "no redis-server"
	fresh
	cat >"$(files_of a)$work/run.sh" <<-'END'
		redis-server --port 0 --unixsocket socket --save '' --enable-debug-command yes >server.log &
		until [ "$(redis-cli -s socket ping 2>/dev/null)" = PONG ]; do sleep 0.05; done
		redis-cli -s socket debug populate $1 key 1000 >/dev/null
		redis-cli -s socket debug digest >digest
		redis-cli -s socket -r 100000000 -i 0.001 incr counter >replies &
		yes | while read -r y; do
			n=$((n + 1))
			echo "setrange other:$((n % 20000)) $((n % 900)) $n"
			[ $((n % 50)) != 0 ] || sleep 0.01
		done | redis-cli -s socket >/dev/null
	END
	pid=$(start a sh run.sh $((mib * 1000))) || return 1
	wait_for 60 lines a replies 50 || complain "no load: $(tail -n 2 "$(files_of a)$work/server.log")" || return 1
	before=$(cat "$(files_of a)$work/digest")
	must_migrate a "$pid" --files=copy --mode "$mode" && moved a "$pid" && goes_on b replies || return 1
	on b pkill -KILL redis-cli
	replies=$(files_of b)$work/replies
	seq "$(wc -l <"$replies")" | cmp - "$replies" || complain "answers are lost or repeated: $(tail -n 2 "$replies")" || return 1
	[ "$(redis_says b dbsize)" -gt $((mib * 1000)) ] || complain "keys are lost: $(redis_says b dbsize)" || return 1
	redis_says b eval 'for _, k in ipairs(redis.call("keys", "other:*")) do redis.call("del", k) end' 0
	redis_says b del counter
	after=$(redis_says b debug digest)
	[ -n "$before" ] && [ "$before" = "$after" ] || complain "the data is '$after', was '$before'"
}

# Lists, numbers and text of Python, changed by one thread and checked by another, each place again and again.
python() {
	local pid
	fresh
	cat >"$(files_of a)$work/lists.py" <<-'END'
		import random, sys, threading
		BLOCK = 1000
		blocks = [[(number, f"{number}") for number in range(start, start + BLOCK)]
		          for start in range(0, int(sys.argv[1]) * BLOCK, BLOCK)]
		versions = [0] * len(blocks)
		lock, log = threading.Lock(), open("log", "w", buffering=1)

		def check(n):
		    for offset, (number, text) in enumerate(blocks[n]):
		        want = n * BLOCK + offset + versions[n]
		        if number != want or text != str(want):
		            print(f"block {n}, {offset}: {number} {text}, not {want}", flush=True)
		            sys.exit(1)

		def write():
		    while True:
		        with lock:
		            n = random.randrange(len(blocks))
		            versions[n] += 1
		            blocks[n] = [(number + 1, str(number + 1)) for number, _ in blocks[n]]

		threading.Thread(target=write, daemon=True).start()
		count = 0
		while True:
		    for n in range(len(blocks)):
		        with lock:
		            check(n)
		        count += 1
		        log.write(f"{count}\n")
	END
	pid=$(start a python3 lists.py $((mib * 7))) || return 1
	wait_for 120 lines a log 50 || complain "does not start: $(cat "$(files_of a)$work/out")" || return 1
	must_migrate a "$pid" --files=copy --mode "$1" && moved a "$pid" || return 1
	# once over everything, so that each page has been looked at there
	wait_for 120 lines b log $(($(wc -l <"$(files_of b)$work/log") + mib * 7 + 50)) || complain "log stands still on b" || return 1
	exists b "$pid" && [ ! -s "$(files_of b)$work/out" ] || complain "found: $(head -n 2 "$(files_of b)$work/out")" || return 1
	on b kill "$pid"
	seq "$(wc -l <"$(files_of b)$work/log")" | cmp - "$(files_of b)$work/log" || complain "work is lost or repeated"
}

begin
for mode in precopy postcopy hybrid; do
	test_case "redis with $mib MiB under load: $mode" redis $mode
	test_case "python with $mib MiB of lists: $mode" python $mode
done
