#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# There is no memory for us: one allocation is refused, or (dump, restore) all from one on, whichever it is. No command dies of it, the
# reason is given in one sentence, and the program is as before, or where it was to go. ROUNDS is how many
# allocations of each command, spread over all that it makes; FERRY_FULL tries every one.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/transport-lib.sh"
requires_root
scarce=$BUILD_DIR/tests/hosts/scarce.so
ROUNDS=${ROUNDS:-24}

# meager COMMAND NUMBER EVER ARGUMENT...: ferry COMMAND ARGUMENT..., where ferry $who (COMMAND if unset) gets no memory
# for its NUMBER-th allocation (and EVER after). Sets status and said; $work/asked counts.
meager() {
	local command=$1 number=$2 ever=$3
	shift 3
	rm -f "$work/asked"
	said=$(
		export LD_PRELOAD=$scarce SCARCE_COMMAND=${who:-$command} SCARCE_AT=$number SCARCE_COUNT=$work/asked
		[ -z "$ever" ] || export SCARCE_EVER=1
		timeout -k 5 60 "$FERRY" "$command" "$@" 2>&1 </dev/null
	)
	status=$?
}

# The number of allocations of the last command, if it got all of them.
all_asked() {
	awk '$2 == "had" && $1 > n { n = $1 } END { print n + 0 }' "$work/asked"
}

# in_words PATTERN: it worked, or says in one line that memory is what is missing.
in_words() {
	[ $status = 0 ] && return 0
	[ $status -lt 124 ] || { why="status $status: $said" && return 1; }
	[ "$(grep -c . <<<"$said")" -le "${lines:-1}" ] || { why="not one sentence: $said" && return 1; }
	# anything but printable characters was never meant to be read
	! LC_ALL=C grep -q '[^[:print:]]' <<<"$said" || { why="it says: $(od -c <<<"$said" | head -n 5)" && return 1; }
	grep -qi "memory$1" <<<"$said" || { why="the reason is not named: $said" && return 1; }
}

# each TOTAL FUNCTION [EVER...]: for some numbers up to TOTAL, with one refusal and with refusals for ever.
each() {
	local total=$1 step number ever refused=0
	[ "$total" -gt 50 ] || { why="it asks for memory only $total times" && return 1; }
	step=$((total * 2 / ROUNDS))
	[ -z "${FERRY_FULL:-}" ] && [ $step -gt 0 ] || step=1
	for ever in "${@:3}"; do
		for ((number = 1 + RANDOM % step; number <= total; number += step)); do
			"$2" $number "$ever" || { why="allocation $number of $total ${ever:+and all after it }refused: $why" && return 1; }
			grep -q refused "$work/asked" 2>/dev/null && refused=$((refused + 1))
		done
	done
	# else nothing of this was tested
	[ $refused -gt 0 ] || { why="nothing was refused" && return 1; }
	echo "# $total allocations, $refused of those tried were refused"
}

# ---- dump ---------------------------------------------------------------------------------------

still_whole() {
	local p
	for p in $(descendants "$pid"); do
		grep -q '^TracerPid:	0$' "/proc/$p/status" && ! grep -q '^State:	[tTZ]' "/proc/$p/status" ||
			{ why="it is not free: $(grep '^State\|^Tracer' "/proc/$p/status")" && return 1; }
	done
	diff "/proc/$pid/maps" "$work/maps" >"$work/differs" || { why="its memory is laid out differently: $(cat "$work/differs")" && return 1; }
}

dump_once() {
	rm -rf "$work/images"
	mkdir "$work/images"
	meager dump "$1" "$2" -R -t "$pid" -D "$work/images"
	in_words "" && still_whole
}

dumps() { # VICTIM
	start_victim "$1" || return 1
	work=$vdir
	cp "/proc/$pid/maps" "$work/maps"
	snapshot "$pid" "$work/before"
	dump_once 0 "" && each "$(all_asked)" dump_once "" ever || return 1
	snapshot "$pid" "$work/after"
	diff "$work/before" "$work/after" >"$work/differs" || { why="not as before: $(head -n 8 "$work/differs")" && return 1; }
	verdict
}

for name in ${NAMES:-single threads family}; do
	if dumps $name; then
		ok "dump of $name"
	else
		not_ok "dump of $name" "$why"
	fi
	kill_tree "$pid"
done

# ---- restore ------------------------------------------------------------------------------------

# Nothing is left of a restore that failed; one that went well is dumped again.
restore_once() {
	meager restore "$1" "$2" -d -D "$work/images"
	in_words "" || return 1
	if [ $status = 0 ]; then
		alive "$pid" || { why="it says nothing, and the program does not run" && return 1; }
		rm -rf "$work/images"
		dump "$FERRY" "$pid" "$work/images" && wait_gone "$pid"
	else
		wait_gone "$pid" || { why="half a tree is left: $(head -n 8 "/proc/$pid/status")" && return 1; }
	fi
}

restores() { # VICTIM
	start_victim "$1" || return 1
	work=$vdir
	dump "$FERRY" "$pid" "$work/images" && wait_gone "$pid" && restore_once 0 "" &&
		each "$(all_asked)" restore_once "" ever && restore "$FERRY" "$work/images" && verdict
}

for name in ${NAMES:-single threads family}; do
	if restores $name; then
		ok "restore of $name"
	else
		not_ok "restore of $name" "$why"
	fi
	kill_tree "$pid"
done

# ---- migrate ------------------------------------------------------------------------------------

reached="env SSH_CONNECTION='127.0.0.1 1 127.0.0.1 22' $PWD/tools/pseudo-ssh"

migrate_once() {
	local where=home
	: "$((moved += 1))"
	rm -rf "$work"
	program "$who$moved" || return 1
	meager migrate "$1" "$2" "$pid" here --quiet --pids=new --ssh "$reached"
	# the other side may be the one that has none, and be gone before it could say so
	in_words "\|." || return 1
	[ $status != 0 ] || where=away
	lives $where
}

migrates() { # WHO
	local who=$1 moved=0 lines=3
	work=$TEST_TMP/none
	# not for ever: after the commit a side without memory keeps the program waiting until it gets some
	migrate_once 0 "" && each "$(all_asked)" migrate_once ""
}

for side in ${SIDES:-migrate agent}; do
	if migrates $side; then
		ok "ferry $side"
	else
		not_ok "ferry $side" "$why"
	fi
done
finish
