#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# dump --leave-running of each victim: afterwards maps, area flags, descriptors, timers, credentials,
# signal masks and what each thread sleeps in are as before, nobody traces it, and the victim finds
# its state as it was. Names as arguments: only those.
. "$(dirname "$0")/lib.sh"
requires_root

# Threads at work have no stable answer to "what do you sleep in?", and a tick of a timer may be pending.
stable() {
	case $1 in
	busy | fpu | rseq | vdso | memory_writers) sed '/^-- thread/d; /ShdPnd:/d' "$2" ;;
	itimers | posixtimers) sed '/ShdPnd:/d' "$2" ;;
	mem_lively | mem_shared_lively | mem_busy) : ;; # nothing of it stays as it is: its own verdict is what counts
	*) cat "$2" ;;
	esac
}

check_one() {
	local name=$1 before after diff
	before=$vdir/before
	after=$vdir/after
	snapshot "$pid" "$before"
	# shellcheck disable=SC2046
	if ! dump "$ENGINE" "$pid" "$vdir/images" -R $(victim_options "$name"); then
		not_ok "$name" "$why"
		return
	fi
	snapshot "$pid" "$after"
	if ! diff=$(diff <(stable "$name" "$before") <(stable "$name" "$after")); then
		# A thread may have been on its way between two sleeps: look twice.
		sleep 0.1
		snapshot "$pid" "$after"
	fi
	if ! diff=$(diff <(stable "$name" "$before") <(stable "$name" "$after")); then
		not_ok "$name" "not as before: $(head -n 12 <<<"$diff")"
		return
	fi
	if verdict; then
		ok "$name"
	else
		not_ok "$name" "$why"
	fi
}

for name in ${*:-$(all_victims)}; do
	start_victim "$name"
	case $? in
	0) check_one "$name" ;;
	1) not_ok "$name" "$why" ;;
	2) skip "$name" "$why" ;;
	esac
	[ -z "$pid" ] || kill_tree "$pid"
	rm -rf "$vdir"
done
finish
