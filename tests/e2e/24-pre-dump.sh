#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# Memory copied while the program runs: chains of pre-dumps under a program that writes all the
# time and checks itself, restored by ferry and by real CRIU; broken chains; and every way in which
# the process that holds the tracking can be lost.
. "$(dirname "$0")/lib.sh"
requires_root

pages_mib=6
images=

# busy_victim [PREFIX...]: a fresh program that writes all the time, and an empty place for images.
busy_victim() {
	start_victim mem_busy $pages_mib || return 1
	images=$vdir/images
	mkdir -p "$images"
}

# step COMMAND DIR [OPTION...]: a pre-dump or dump into DIR; said has its words.
step() {
	local command=$1 dir=$images/$2
	shift 2
	mkdir -p "$dir"
	if ! said=$(timeout -k 5 60 "$FERRY" "$command" -t "$pid" -D "$dir" -o "$command.log" -v4 "$@" 2>&1 </dev/null); then
		why="$command into ${dir##*/}: $said"
		return 1
	fi
}

# quiet_step: as step, but nothing may be said.
quiet_step() {
	step "$@" || return 1
	[ -z "$said" ] || {
		why="$1 is not silent: $said"
		return 1
	}
}

# warned TEXT: the last step said so.
warned() {
	case $said in
	*warning*"$1"*) ;;
	*)
		why="no warning about '$1', but '$said'"
		return 1
		;;
	esac
}

holder() { # the pid of the process that holds the tracking of $pid
	local comm dir
	for comm in $(grep -lsx ferry-holder /proc/[0-9]*/comm); do
		dir=${comm%/comm}
		tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | grep -qF -- "-t $pid " && echo "${dir#/proc/}"
	done
}

no_holder() {
	[ -z "$(holder)" ]
}

# How many pages of the last images are in their parents.
kept() { # DIR
	"$FERRY" show --json "$images/$1" |
		python3 -c 'import json, sys
print(sum(e.get("nr_pages", 0) for name, image in json.load(sys.stdin).items()
          if name.startswith("pagemap-") for e in image["entries"] if "PE_PARENT" in str(e.get("flags", "")) or e.get("flags") == 1))'
}

is_incremental() { # DIR
	local n
	n=$(kept "$1")
	[ "${n:-0}" -gt 100 ] && [ -L "$images/$1/parent" ] || {
		why="only ${n:-no} pages of $1 are in its parent"
		return 1
	}
}

is_full() { # DIR
	[ ! -e "$images/$1/parent" ] && [ "$(kept "$1")" = 0 ] || {
		why="$1 builds on a parent"
		return 1
	}
}

# Three rounds and the dump. Names of directories: 1 2 3 and last.
chain() {
	quiet_step pre-dump 1 --track-mem "$@" && is_full 1 &&
		quiet_step pre-dump 2 --prev-images-dir ../1 --track-mem "$@" && is_incremental 2 &&
		quiet_step pre-dump 3 --prev-images-dir ../2 --track-mem "$@" && is_incremental 3 &&
		quiet_step dump last --prev-images-dir ../3 --track-mem "$@" && is_incremental last
}

restored() { # ENGINE DIR
	wait_gone "$pid" || {
		why="after the dump pid $pid is still taken"
		return 1
	}
	restore "$1" "$images/$2" && sleep 0.3 && verdict
}

# What must be the same before and after: areas with their flags, descriptors, threads.
traces() {
	grep -E '^(VmFlags|[0-9a-f]+-)' "/proc/$pid/smaps" | grep -o '^VmFlags.*' | grep -cw 'uw'
	find "/proc/$pid/fd" | wc -l
}

runs_on() {
	local before after
	before=$(awk '{print $14 + $15}' "/proc/$pid/stat")
	for _ in $(seq 100); do
		sleep 0.05
		after=$(awk '{print $14 + $15}' "/proc/$pid/stat")
		[ "$after" -gt "$before" ] && return 0
	done
	why="the program does not run on"
	return 1
}

leaves_nothing() {
	local now
	for _ in $(seq 40); do
		now=$(traces)
		[ "$now" = "$clean" ] && runs_on && return 0
		sleep 0.05
	done
	why="traces are left: $(echo $now), were $(echo $clean)"
	return 1
}

result() { # NAME: by the status of the command before
	if [ $? = 0 ]; then
		ok "$1"
	else
		not_ok "$1" "$why"
	fi
	kill_tree "$pid"
	rm -rf "$vdir"
}

probe=$(busy_victim && step pre-dump probe || echo "$why")
case $probe in
*"cannot tell which pages"*) skip_all "$probe" ;;
esac
for pid in $(own_processes); do
	kill -KILL "$pid" 2>/dev/null
done

# --- whole chains ---

busy_victim && chain && restored "$FERRY" last && no_holder
result "chain restored by ferry"

CRIU_ROOT=${CRIU_ROOT:-/var/tmp/ferry-criu}
script=$PWD/../shared/bin/criu-root
CRIU=
if [ -x "$CRIU_ROOT/usr/sbin/criu.host" ]; then
	CRIU=$CRIU_ROOT/usr/sbin/criu.host
elif [ -x "$script" ]; then
	CRIU=$(timeout 200 "$script" "$CRIU_ROOT" 2>/dev/null)
fi
if [ -n "$CRIU" ]; then
	busy_victim && chain && restored "$CRIU" last
	result "chain restored by criu"
else
	skip "chain restored by criu" "no real CRIU here"
fi

busy_victim && chain --auto-dedup && restored "$FERRY" last &&
	{ [ "$(stat -c '%b' "$images"/1/pages-1.img)" -lt "$(($(stat -c '%s' "$images"/1/pages-1.img) / 512))" ] ||
		{ why="no space of the first round was freed" && false; }; }
result "auto-dedup"

busy_victim && quiet_step dump 1 -R --track-mem && quiet_step dump 2 -R --track-mem --prev-images-dir ../1 &&
	is_incremental 2 && quiet_step dump last --prev-images-dir ../2 && is_incremental last &&
	restored "$FERRY" last
result "dumps of a tree that runs on"

# Each command stops the tree, and the notes of those stops are handed on.
sleeping_victim() {
	start_victim restart_block || return 1
	images=$vdir/images
	mkdir -p "$images"
}
sleeping_victim && quiet_step pre-dump 1 --track-mem && quiet_step pre-dump 2 --prev-images-dir ../1 --track-mem &&
	quiet_step dump last --prev-images-dir ../2 && restored "$FERRY" last
result "threads that sleep"

# The memory of each round to a page server of its own, which has the parent; the dump's other images
# are copied to the last.
served_round() { # COMMAND NUMBER [PREVIOUS]
	local command=$1 n=$2 previous=${3:+--prev-images-dir ../served$3} port
	mkdir -p "$images/served$n"
	# shellcheck disable=SC2086
	port=$(timeout 20 "$FERRY" page-server -D "$images/served$n" --daemon -o server.log -v4 $previous) || {
		why="page server: $port"
		return 1
	}
	port=$(echo "$port" | grep -oE '[0-9]+' | tail -n 1)
	quiet_step "$command" "$n" ${3:+--prev-images-dir ../$3} --page-server --port "$port" &&
		wait_for 10 test -e "$images/served$n/pagemap-$pid.img"
}

served_chain() {
	local image
	served_round pre-dump 1 && served_round pre-dump 2 1 && served_round dump 3 2 || return 1
	for image in "$images"/3/*.img; do
		cp "$image" "$images/served3"
	done
	why="the last round is complete in itself"
	[ "$(kept served3)" -gt 100 ]
}
busy_victim && served_chain && restored "$FERRY" served3
result "rounds to page servers"

# --- a dump that makes a round of its own ---

# The directory is whole in itself, wherever it is moved to.
own_round() { # RESTORER
	clean=$(traces)
	quiet_step dump own -R --pre-copy=yes && is_incremental own && leaves_nothing || return 1
	[ "$(readlink "$images/own/parent")" = pre-copy ] || {
		why="parent leads to $(readlink "$images/own/parent")"
		return 1
	}
	mv "$images/own" "$images/moved"
	kill_tree "$pid"
	restored "$1" moved
}
busy_victim && own_round "$FERRY"
result "round of a dump"
if [ -n "$CRIU" ]; then
	busy_victim && own_round "$CRIU"
	result "round of a dump restored by criu"
else
	skip "round of a dump restored by criu" "no real CRIU here"
fi

# Once more into the same directory, killed the second time; and a plain dump on top of it.
busy_victim && quiet_step dump own -R --pre-copy=yes && quiet_step dump own --pre-copy=yes && is_incremental own &&
	restored "$FERRY" own
result "round of a dump twice"
busy_victim && quiet_step dump own -R --pre-copy=yes && quiet_step dump own && is_full own && restored "$FERRY" own
result "plain dump after a round"

# Unasked only for a large tree that runs on.
unasked() {
	quiet_step dump small -R && is_full small || return 1
	kill_tree "$pid"
	rm -rf "$vdir"
	pages_mib=140 busy_victim && quiet_step dump never -R --pre-copy=no && is_full never &&
		quiet_step dump large -R && is_incremental large && quiet_step dump killed && is_full killed
}
busy_victim && unasked && restored "$FERRY" killed
result "round of a dump unasked"

busy_victim && ! said=$(timeout 30 "$FERRY" dump -t "$pid" -D - --pre-copy=yes 2>&1 >/dev/null </dev/null) &&
	case $said in *"--pre-copy=yes excludes"*) ;; *) false ;; esac
why="not refused: $said" result "round of a dump into a stream"

# --- who may not do much ---

if command -v setpriv >/dev/null; then
	vdir=$(mktemp -d "$TEST_TMP/user-XXXXXX")
	chmod 777 "$vdir"
	if timeout 30 setpriv --reuid 1234 --regid 1234 --clear-groups "$VICTIMS/mem_busy" "$vdir" $pages_mib; then
		pid=$(cat "$vdir/pid")
		images=$vdir/images
		chain && restored "$FERRY" last
	else
		why="did not start"
		false
	fi
	result "a program of another user"
fi

# --- the tracking is lost ---

busy_victim && quiet_step pre-dump 1 && kill -KILL "$(holder)" && clean=$'0\n4' && leaves_nothing &&
	step pre-dump 2 --prev-images-dir ../1 && warned "everything is saved again" && is_full 2 &&
	kill -KILL "$(holder)" && step dump last --prev-images-dir ../2 &&
	warned "nobody holds the tracking" && is_full last && restored "$FERRY" last
result "holder killed"

busy_victim && quiet_step pre-dump 1 && quiet_step pre-dump 2 --prev-images-dir ../1 &&
	step dump last --prev-images-dir ../1 && warned "did not go to the directory" && is_full last &&
	restored "$FERRY" last && no_holder
result "another directory than the last"

busy_victim && clean=$(traces) && quiet_step pre-dump 1 --track-timeout 1 && wait_for 5 no_holder &&
	leaves_nothing && quiet_step pre-dump 2 && kill_tree "$pid" && wait_for 5 no_holder
result "the holder ends"

busy_victim && quiet_step pre-dump 1 && quiet_step dump last && is_full last && no_holder && restored "$FERRY" last
result "dump without the pre-dumps"

# killed at any moment: the program goes on without a trace, and a new chain works
killed_anywhere() {
	local i at
	clean=$(traces)
	for i in $(seq 12); do
		mkdir -p "$images/k$i"
		"$FERRY" pre-dump -t "$pid" -D "$images/k$i" >/dev/null 2>&1 &
		at=$!
		sleep "0.0$(((i * 7) % 90 + 10))"
		kill -KILL $at 2>/dev/null
		wait $at 2>/dev/null
		[ -n "$(holder)" ] && kill -KILL "$(holder)"
		leaves_nothing || return 1
	done
}
busy_victim && killed_anywhere && chain && restored "$FERRY" last
result "killed at any moment"

# --- broken chains ---

refuses() { # DIR TEXT: one clear sentence, and no task is made
	local output
	if output=$(timeout 30 "$FERRY" restore -d -D "$images/$1" 2>&1 </dev/null); then
		why="restored without $2"
		return 1
	fi
	case $output in
	*"$2"*) [ "$(echo "$output" | wc -l)" = 1 ] && return 0 ;;
	esac
	why="'$output' is not about '$2'"
	return 1
}

busy_victim && chain && wait_gone "$pid" && mv "$images/2" "$images/away" && refuses last "parent" &&
	ln -s 3 "$images/2" && refuses last "circle" && rm "$images/2" && mv "$images/away" "$images/2" &&
	mv "$images/1/pages-1.img" "$images/1/away" && refuses last "pages-1.img" &&
	mv "$images/1/away" "$images/1/pages-1.img" && refuses 3 "pstree.img" && restored "$FERRY" last
result "broken chains"

finish
