#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
# Migration over sockets, as it is told in ferry-image-cache(1): image-cache and image-proxy hold everything in
# memory, the restore works while the dump still runs, nothing touches a disk. Many at once; a bound of memory;
# wrong secrets, strangers and deaths.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3

# shellcheck source=tests/e2e/relay-lib.sh
. tests/e2e/relay-lib.sh

# ---- the procedure ------------------------------------------------------------------------------

# one VICTIM [ARG...]: dumped, ended, restored.
one() {
	local rc
	start_victim "$@" && remote_dump "$pid" || return 1
	wait_gone "$pid" || { why="it is still there" && return 1; }
	remote_restore && verdict
	rc=$?
	kill_tree "$pid"
	return $rc
}

relays plain || not_ok relays "$why"
for victim in memory_writers family mem_anon_shared mem_file_private; do
	one $victim
	result "$victim"
done
no_images() {
	[ -z "$(find "$src" "$dst" -name '*.img')" ] || { why="there are images: $(ls "$src" "$dst")" && return 1; }
	[ "$(stat -c %a "$src/image-proxy.socket" "$dst/image-cache.socket" | tr '\n' ' ')" = "600 600 " ] ||
		{ why="others may connect" && return 1; }
}
no_images
result no-image-on-any-disk
end_relays

# By the kernel's count of what is to go to a disk, of this shell and all whose end it has seen: no memory, in any place.
to_disk_of_shell() { # KiB
	awk '/^write_bytes/ { print int($2 / 1024) }' "/proc/$$/io"
}
disk() {
	local before wrote counted
	before=$(to_disk_of_shell)
	relays disk && start_victim memory_writers 24 && remote_dump "$pid" && wait_gone "$pid" && remote_restore && verdict || return 1
	kill_tree "$pid"
	end_relays
	wrote=$(($(to_disk_of_shell) - before))
	before=$(to_disk_of_shell)
	head -c 8M /dev/zero >"$dst/counted"
	counted=$(($(to_disk_of_shell) - before))
	[ "$counted" -ge 8192 ] || return 77
	[ "$wrote" -le 4096 ] || { why="$wrote KiB went to a disk" && return 1; }
}
disk
case $? in
77) skip nothing-to-a-disk "what $TEST_TMP is on has no counters" ;;
0) ok nothing-to-a-disk ;;
*) not_ok nothing-to-a-disk "${why:-}" ;;
esac

# Dump and restore at the same time: the first task is made before the dump has ended. The connection is slow
# enough for that: the proxy holds little, and the restore takes what it gets. By the order of events, not by durations.
overlap() {
	local dumper restorer
	rm -f "$TEST_TMP/timeline"
	PROXY_OPTIONS="--max-memory 4M" relays overlap --max-memory 4M || return 1
	start_victim memory_writers 24 || return 1
	timeout -k 5 90 "$FERRY" restore -d --remote --pids=new -D "$dst" -W "$dst" -o restore.log -v4 \
		--timeline "$TEST_TMP/timeline" >"$dst/restore.out" 2>&1 </dev/null &
	restorer=$!
	timeout -k 5 90 "$FERRY" dump -t "$pid" --remote -D "$src" -W "$src" -o dump.log -v4 \
		--timeline "$TEST_TMP/timeline" >"$src/dump.out" 2>&1 </dev/null &
	dumper=$!
	wait $dumper || { why="dump: $(cat "$src/dump.out")" && return 1; }
	wait $restorer || { why="restore: $(cat "$dst/restore.out")" && return 1; }
	python3 - "$TEST_TMP/timeline" >"$TEST_TMP/order" 2>&1 <<-'EOF'
		import json, sys
		events = json.loads(open(sys.argv[1]).read().rstrip().rstrip(",") + "]")
		who = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
		def ends(process, name):
		    return [e["ts"] + e.get("dur", 0) for e in events
		            if e["ph"] != "M" and who[e["pid"]] == process and e["name"] == name]
		order = [("images of the dump", ends("dump", "images")),
		         ("first task of the restore", ends("restore", "first task")),
		         ("memory of the dump", ends("dump", "memory")),
		         ("the tree runs", ends("restore", "the tree runs"))]
		for name, at in order:
		    assert len(at) == 1, (name, at)
		times = [at[0] for _, at in order]
		assert times == sorted(times), order
		assert ends("dump", "end of the dump"), "no end"
		assert set(who.values()) == {"dump", "restore", "image-cache", "image-proxy"}, who
	EOF
	[ $? = 0 ] || { why="$(tail -n 3 "$TEST_TMP/order")" && return 1; }
	grep -o "at most [0-9]* held" "$dst/image-cache.log" | awk '{ exit !($3 > 0 && $3 <= 4 * 1024 * 1024) }' ||
		{ why="the cache: $(tail -n 2 "$dst/image-cache.log")" && return 1; }
	grep -o "at most [0-9]* held" "$src/image-proxy.log" | awk '{ exit !($3 > 0 && $3 <= 4 * 1024 * 1024) }' ||
		{ why="the proxy: $(tail -n 2 "$src/image-proxy.log")" && return 1; }
	verdict
}
overlap
result overlap-within-a-bound
end_relays
for p in $(own_processes); do kill -KILL "$p" 2>/dev/null; done

# The images through the relays, the memory from the frozen tree, when it is needed: dump and lazy-pages may begin in any order.
lazily() {
	local dumper from
	relays lazily && start_victim memory_writers 24 || return 1
	from=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	timeout -k 5 90 "$FERRY" dump -t "$pid" --remote --lazy-pages --address 127.0.0.1 --port "$from" -W "$src" \
		-o dump.log -v4 >"$src/dump.out" 2>&1 </dev/null &
	dumper=$!
	timeout -k 5 60 "$FERRY" lazy-pages --remote --page-server --port "$from" -W "$dst" -o lazy.log -v4 --daemon \
		>"$dst/lazy.out" 2>&1 </dev/null || { why="lazy-pages: $(cat "$dst/lazy.out")" && return 1; }
	remote_restore --lazy-pages --pids=new || return 1
	wait $dumper || { why="dump: $(cat "$src/dump.out")" && return 1; }
	wait_gone "$pid" || { why="it is still there" && return 1; }
	grep -o "is complete: [0-9]* bytes" "$dst/image-cache.log" | awk '{ exit !($3 > 0 && $3 < 8 * 1024 * 1024) }' ||
		{ why="the cache: $(tail -n 2 "$dst/image-cache.log")" && return 1; }
	verdict
}
lazily
result lazy-pages
end_relays
for p in $(own_processes); do kill -KILL "$p" 2>/dev/null; done

# Several at once, each under its name.
several() {
	local i dirs=() pids=() dumps=()
	relays several || return 1
	for i in 1 2 3 4; do
		start_victim memory_writers 4 || return 1
		dirs+=("$vdir")
		pids+=("$pid")
		timeout -k 5 60 "$FERRY" dump -t "$pid" --remote --snapshot "s$i" -D "$src" -W "$src" >"$src/dump.$i" 2>&1 &
		dumps+=($!)
	done
	for i in 0 1 2 3; do
		wait "${dumps[$i]}" || { why="dump $i: $(cat "$src"/dump.*)" && return 1; }
		wait_gone "${pids[$i]}"
	done
	for i in 3 1 0 2; do
		remote_restore --snapshot "s$((i + 1))" || return 1
	done
	for i in 0 1 2 3; do
		vdir=${dirs[$i]} pid=${pids[$i]}
		verdict || return 1
	done
}
several
result several-at-once

# The same name twice; a name that nobody writes; and the first stays good.
names() {
	start_victim memory_writers 4 || return 1
	remote_dump "$pid" -R --snapshot twice || return 1
	remote_dump "$pid" -R --snapshot twice && { why="the name was taken" && return 1; }
	echo "$why" | grep -q "there is a snapshot twice already" || return 1
	timeout 5 "$FERRY" restore -d --remote --snapshot nobody -W "$dst" >"$dst/waits.log" 2>&1
	[ $? = 124 ] || { why="what never came was restored, or refused" && return 1; }
	grep -q "snapshot 'nobody': nothing of it has come yet" "$dst/waits.log" || { why="it waits and says nothing: $(cat "$dst/waits.log")" && return 1; }
	remote_restore --pids=new --snapshot twice || return 1
	verdict
}
names
result names
end_relays
for p in $(own_processes); do kill -KILL "$p" 2>/dev/null; done

# --once: both end well when their work is done.
once() {
	PROXY_OPTIONS=--once relays once --once || return 1
	one memory_writers 4 || return 1
	wait "$cache" || { why="image-cache: $?" && return 1; }
	wait "$proxy" || { why="image-proxy: $?" && return 1; }
	[ ! -e "$src/image-proxy.socket" ] || { why="the socket is left" && return 1; }
}
once
result once

# ---- what must not work -------------------------------------------------------------------------

# unharmed TEXT: a dump through the relays fails with this text, before anything is stopped or not.
unharmed() {
	remote_dump "$pid" && { why="it was dumped" && return 1; }
	echo "$why" | grep -q -- "$1" || return 1
	alive "$pid" || { why="the program is gone" && return 1; }
}

secrets() {
	local other=$TEST_TMP/other
	src=$TEST_TMP/secrets/src dst=$TEST_TMP/secrets/dst
	mkdir -p "$src" "$dst"
	relay image-cache "$dst" --secret-file "$secret" || return 1
	cache=$relay
	port=$(cat "$dst/image-cache.out")
	start_victim memory_writers 4 || return 1
	echo "another secret, which is long enough" >"$other"
	chmod 600 "$other"
	relay image-proxy "$src" --port "$port" --secret-file "$other" || return 1
	proxy=$relay
	unharmed "refuses our secret: .*; do both have the same --secret-file?" || return 1
	grep -q "is dropped: it does not know the secret" "$dst/image-cache.log" || { why="$(tail -n 2 "$dst/image-cache.log")" && return 1; }
	kill "$proxy" && wait "$proxy"
	relay image-proxy "$src" --port "$port" --insecure-plain-tcp || return 1
	proxy=$relay
	unharmed "wants a secret" || return 1
	kill "$proxy" && wait "$proxy"
	chmod 644 "$other"
	timeout 5 "$FERRY" image-cache -W "$dst/x" --secret-file "$other" >"$dst/out" 2>&1
	timeout 5 "$FERRY" image-cache -W "$dst/x" --secret-file "$secret" >"$dst/out" 2>&1
	[ "$(wc -l <"$dst/out")" = 1 ] && grep -q "cannot open the work directory" "$dst/out" || { why="$(cat "$dst/out")" && return 1; }
	mkdir "$dst/x"
	timeout 5 "$FERRY" image-cache -W "$dst/x" --secret-file "$other" >"$dst/out" 2>&1
	grep -q "others may read" "$dst/out" || { why="$(cat "$dst/out")" && return 1; }
	timeout 5 "$FERRY" image-cache -W "$dst/x" --insecure-plain-tcp --address localhost >"$dst/out" 2>&1
	[ $? = 1 ] && grep -q "localhost is no numeric address" "$dst/out" || { why="$(cat "$dst/out")" && return 1; }
	timeout 5 "$FERRY" image-cache -W "$dst/x" >"$dst/out" 2>&1
	[ $? = 2 ] && grep -q "insecure-plain-tcp" "$dst/out" || { why="$(cat "$dst/out")" && return 1; }
	verdict
}
secrets
result wrong-secrets
end_relays

# Strangers at the port get nothing; a recording of a good connection is refused; a changed byte too.
strangers() {
	relays strangers || return 1
	start_victim memory_writers 4 || return 1
	kill "$proxy" && wait "$proxy"
	timeout -k 5 60 python3 tests/e2e/relay-tap "$port" >"$src/tap.port" 2>"$src/tap.log" &
	wait_for 10 test -s "$src/tap.port" || return 1
	relay image-proxy "$src" --port "$(cat "$src/tap.port")" --secret-file "$secret" || return 1
	proxy=$relay
	remote_dump "$pid" -R --snapshot taped || return 1
	timeout 30 python3 tests/e2e/relay-tap --strangers "$port" "$src/tap.log" >"$src/strangers" 2>&1 ||
		{ why="$(tail -n 2 "$src/strangers")" && return 1; }
	touch "$src/tap.log.flip"
	remote_dump "$pid" -R --snapshot flipped && { why="a flipped bit was not noticed" && return 1; }
	echo "$why" | grep -q "somebody has changed it on the way" || return 1
	remote_restore --pids=new --snapshot taped || return 1
	verdict
}
strangers
result strangers-replay-flipped-bit
end_relays
for p in $(own_processes); do kill -KILL "$p" 2>/dev/null; done

# The cache dies in the middle: the program runs on, and the dump says why. So with the proxy.
deaths() {
	local victim_of dumper
	for victim_of in cache proxy; do
		PROXY_OPTIONS="--max-memory 4M" relays "death-$victim_of" --max-memory 4M || return 1
		start_victim memory_writers 24 || return 1
		remote_dump "$pid" >/dev/null 2>&1 &
		dumper=$!
		# nobody reads, so all stands still when both are full
		wait_for 20 grep -qs collected "$src/dump.log" || { why="it does not begin" && return 1; }
		sleep 1
		alive "$pid" || { why="the dump did not wait" && return 1; }
		kill -KILL "$(pgrep -P "${!victim_of}")"
		wait $dumper && { why="the dump ended well without the $victim_of" && return 1; }
		end_relays
		grep -q . "$src/dump.out" || { why="nothing is said" && return 1; }
		verdict || return 1
	done
}
deaths
result deaths

# Nobody listens where the cache should be: the dump says who is missing, and stops nothing.
no_cache() {
	src=$TEST_TMP/no-cache
	mkdir -p "$src"
	start_victim memory_writers 4 && relay image-proxy "$src" --port 1 --secret-file "$secret" || return 1
	proxy=$relay
	unharmed "no image-cache is reached: cannot connect to 127.0.0.1, port 1: Connection refused" && verdict
}
no_cache
result no-cache
kill "$proxy"
wait "$proxy"

# A restore that waits for what is refused before anything is stopped hears why.
refused() {
	local restorer
	relays refused || return 1
	setsid unshare --net sleep 300 </dev/null >/dev/null 2>&1 &
	pid=$!
	wait_for 10 grep -qs sleep "/proc/$pid/comm" || return 1
	remote_restore >/dev/null 2>&1 &
	restorer=$!
	wait_for 10 grep -qs "asks for snapshot" "$dst/image-cache.log" || { why="the restore does not ask" && return 1; }
	remote_dump "$pid" && { why="it was dumped" && return 1; }
	wait $restorer && { why="it was restored" && return 1; }
	why=$(cat "$dst/restore.out")
	grep -q "inventory.img: the dump failed: pid $pid is in a net namespace" "$dst/restore.out"
}
refused
result refused

# again: the next restore waits for the next dump, whoever is first: what failed before is no matter of its.
again() {
	local restorer
	kill "$pid"
	start_victim memory_writers 4 || return 1
	mv "$dst/image-cache.log" "$dst/image-cache.log.refused" && : >"$dst/image-cache.log"
	remote_restore --pids=new &
	restorer=$!
	sleep 0.5
	kill -0 $restorer || { why="it did not wait: $(cat "$dst/restore.out")" && return 1; }
	remote_dump "$pid" || return 1
	wait $restorer || { why="restore: $(cat "$dst/restore.out")" && return 1; }
	verdict
}
again
result again

# late: who asks a moment after the failure is told, once, and how long ago that was.
late() {
	start_victim memory_writers 4 || return 1
	FERRY_STORE_FAULT=3:28 remote_dump "$pid" && { why="the fault did not strike" && return 1; }
	remote_restore && { why="half a dump was restored" && return 1; }
	echo "$why" | grep -q "injected fault.* s ago; whoever asks again waits for the next dump" || return 1
	again
}
late
result late
end_relays
for p in $(own_processes); do kill -KILL "$p" 2>/dev/null; done

# A restore that is killed while it waits leaves nothing behind: a cache that is to end when its work is done ends.
gives_up() {
	local restorer
	PROXY_OPTIONS=--once relays gives-up --once || return 1
	remote_restore --snapshot nobody 2>/dev/null &
	restorer=$!
	wait_for 10 grep -qs "asks for snapshot 'nobody'" "$dst/image-cache.log" || { why="the restore does not ask" && return 1; }
	kill -KILL "$(pgrep -f "^$FERRY restore .*--snapshot nobody")"
	wait $restorer && { why="what never came was restored" && return 1; }
	one memory_writers 4 || return 1
	wait_for 20 ended "$cache" || { why="image-cache waits for the dead: $(tail -n 2 "$dst/image-cache.log")" && return 1; }
	wait "$cache" && wait "$proxy"
}

ended() {
	! kill -0 "$1" 2>/dev/null
}
gives_up
result gives-up
end_relays

# More than fits, for a reader that waits for the end: refused by name instead of waiting for ever.
dump_dies() {
	relays dies --max-memory 64M || return 1
	start_victim memory_writers 8 || return 1
	FERRY_STORE_FAULT=40:28 remote_dump "$pid" && { why="the fault did not strike" && return 1; }
	echo "$why" | grep -q "injected fault" || return 1
	remote_restore --pids=new && { why="half a dump was restored" && return 1; }
	echo "$why" | grep -q "injected fault" || return 1
	FERRY_STORE_FAULT=9:5 remote_restore --pids=new && { why="the reader's fault did not strike" && return 1; }
	remote_dump "$pid" -R && remote_restore --pids=new && verdict
}
dump_dies
result faults
end_relays
finish
