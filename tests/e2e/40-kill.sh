#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# The sacred program: rounds of dump --leave-running of a busy program with many threads, the command
# killed by SIGKILL at a random moment. The program never dies, never computes wrong, is traced by
# nobody, and has in the end the maps and descriptors that it had. FERRY_FULL=1: 1,000 kills.
. "$(dirname "$0")/lib.sh"
requires_root

wanted=50 # commands that were killed at work
[ -z "${FERRY_FULL:-}" ] || wanted=1000
RANDOM=${FERRY_SEED:-4711}

describe() { # FILE: what must not change: the areas, descriptors, signal masks, limits of a busy task
	{
		cat "/proc/$pid/maps"
		for fd in "/proc/$pid/fd/"*; do
			echo "${fd##*/} $(readlink "$fd") $(grep flags "/proc/$pid/fdinfo/${fd##*/}")"
		done
		grep -hE '^(Sig(Blk|Ign|Cgt)|Uid|Gid|Cap|NoNew|Seccomp|Threads|TracerPid)' \
			"/proc/$pid/task/"*/status
		cat "/proc/$pid/limits" "/proc/$pid/timers"
	} >"$1"
}

progress() {
	od -An -v -tu8 -w8 "$vdir/progress"
}

# advanced BEFORE AFTER: each thread has done something in between.
advanced() {
	paste <(echo "$1") <(echo "$2") | awk '$2 <= $1 { bad = 1 } END { exit bad }'
}

traced() {
	grep -qE '^TracerPid:\s+[1-9]' "/proc/$pid/task/"*/status
}

not_traced() {
	! traced
}

works() {
	sleep 0.05
	advanced "$work_before" "$(progress)"
}

# one_round NR: status 1 with why when the program has suffered.
one_round() {
	local command delay
	rm -rf "$vdir/images"
	mkdir "$vdir/images"
	work_before=$(progress)
	# everything that takes time itself comes before
	delay=$(awk -v r=$RANDOM -v t="$whole" 'BEGIN { printf "%.4f", 1.1 * t * r / 32768 }')
	"$ENGINE" dump -R -t "$pid" -D "$vdir/images" -o dump.log >/dev/null 2>&1 </dev/null &
	command=$!
	read -rt "$delay" -u "$never"
	# after a miss sooner, after a hit later: about half are hits, on any machine, at any load
	if kill -KILL $command 2>/dev/null; then
		killed=$((killed + 1))
		whole=$(awk -v t="$whole" 'BEGIN { print t * 1.03 }')
	else
		whole=$(awk -v t="$whole" 'BEGIN { print t / 1.03 }')
	fi
	wait $command 2>/dev/null
	if ! wait_for 5 not_traced; then
		why="somebody still traces it"
	elif [ -e "$vdir/result" ]; then
		why=$(cat "$vdir/result")
	elif ! alive "$pid"; then
		why="it is dead"
	elif ! wait_for 10 works; then
		why="threads stand still: $(paste <(echo "$work_before") <(progress) | tr '\n' ';')"
	else
		return 0
	fi
	why="round $1, killed after $delay s: $why"
	return 1
}

# as_before: status 1 with diff. What a killed visitor could not take with it (its region, while a thread
# was in a signal handler on top of the way home) is cleared by a later visit: by one of the next dumps
# that nobody disturbs.
as_before() {
	local i
	for i in $(seq 20); do
		describe "$vdir/after"
		diff=$(diff "$vdir/before" "$vdir/after") && return 0
		left=$((left + 1))
		rm -rf "$vdir/images"
		mkdir "$vdir/images"
		timeout 60 "$ENGINE" dump -R -t "$pid" -D "$vdir/images" -o dump.log >/dev/null 2>&1
	done
	return 1
}

start_victim busy || {
	not_ok busy "$why"
	finish
}
describe "$vdir/before"
# How long does a round take when nobody disturbs it? The shortest of some: the first ones are cold.
whole=60
for i in 1 2 3 4 5; do
	rm -rf "$vdir/images"
	mkdir "$vdir/images"
	start=$(date +%s%N)
	if ! timeout 60 "$ENGINE" dump -R -t "$pid" -D "$vdir/images" -o dump.log >"$vdir/out" 2>&1; then
		not_ok undisturbed "$(reason "$(cat "$vdir/out")" "$vdir/images/dump.log")"
		finish
	fi
	whole=$(awk -v ns=$(($(date +%s%N) - start)) -v w="$whole" 'BEGIN { s = ns / 1e9; print s < w ? s : w }')
done
describe "$vdir/after"
if diff=$(diff "$vdir/before" "$vdir/after"); then
	ok undisturbed
else
	not_ok undisturbed "not as before: $(head -n 10 <<<"$diff")"
fi

exec {never}<> <(:) # nothing ever comes: a way to sleep without another process
killed=0
left=0
why=
for ((i = 1; killed < wanted && i <= 10 * wanted; i++)); do
	one_round $i || break
	why=
	if ((i % 20 == 0 || killed == wanted)) && ! as_before; then
		why="after round $i not as before: $(head -n 10 <<<"$diff")"
		break
	fi
done
if [ -z "$why" ] && [ $killed -ge $wanted ]; then
	echo "# $((i - 1)) rounds, $killed commands killed, $left times something was left to clear"
	ok "killed rounds"
else
	not_ok "killed rounds" "${why:-only $killed commands of $((i - 1)) were still there to be killed}"
fi
if alive "$pid" && verdict; then
	ok "verdict"
else
	not_ok "verdict" "$why"
fi
finish
