#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Between image-proxy and image-cache: with a secret nobody on the way finds a piece of the program's memory, and whatever he
# does is refused, with a reason, and the program is none the worse for it; so is a ferry of before it was so.
. "$(dirname "$0")/lib.sh"
requires_root
requires python3
. "$(dirname "$0")/eavesdrop-lib.sh"
# shellcheck source=tests/e2e/relay-lib.sh
. tests/e2e/relay-lib.sh

BENCH_VICTIM=$BUILD_DIR/bench/bench-victim

# listened NAME TRUST [TAP-ARG...]: image-cache, somebody on the way, image-proxy, and a program with memory that does not
# change; sets work, src, dst, pid. TRUST: secret or plain. Nothing is compressed: that would hide what is not encrypted.
listened() {
	local trust=(--secret-file "$secret")
	[ "$2" = secret ] || trust=(--insecure-plain-tcp)
	work=$TEST_TMP/$1 src=$TEST_TMP/$1/src dst=$TEST_TMP/$1/dst
	mkdir -p "$src" "$dst"
	relay image-cache "$dst" "${trust[@]}" || return 1
	cache=$relay
	timeout 200 tests/e2e/eavesdrop tap "$(cat "$dst/image-cache.out")" "$work" "${@:3}" 2>"$work/tap.log" &
	tap=$!
	wait_for 10 test -s "$work/port" || { why="tap: $(cat "$work/tap.log")" && return 1; }
	relay image-proxy "$src" --port "$(cat "$work/port")" "${trust[@]}" --compress=none || return 1
	proxy=$relay
	"$BENCH_VICTIM" "$work" memory 4 || return 1
	pid=$(cat "$work/pid")
	tests/e2e/eavesdrop sample "$pid" "$work/pieces" || { why="no pieces of its memory" && return 1; }
}

end() {
	kill_tree "$pid"
	end_relays
	kill "$tap" 2>/dev/null
	wait "$tap" 2>/dev/null
}

runs_well() { # WHO
	kill -USR1 "$1" && wait_for 20 test -s "$work/report" && grep -q ok "$work/report" ||
		{ why="its memory is damaged, or it is gone: $(cat "$work/report")" && return 1; }
}

# passes NAME TRUST OVERHEARD: it is moved.
passes() {
	listened "$1" "$2" && remote_dump "$pid" && wait_gone "$pid" && overheard "$3" && remote_restore --pids=new || return 1
	pid=$(pgrep -f "^$BENCH_VICTIM $work memory")
	runs_well "$pid"
}
passes plain plain some
result "in plain the program's memory can be read on the way"
end
passes tls secret none
result "with a secret it cannot"
end
# of what the cache has said: the end is a record of 24 bytes, before it is its word that it has everything
last_word=$(($(stat -c %s "$work/bytes.1") - 24 - 20))

# meddled NAME WORDS WHAT WHERE: the dump fails with these words, nothing is to be had there, and the program runs on.
meddled() {
	listened "$1" secret "$3" "$4" || return 1
	remote_dump "$pid" && { why="not noticed" && return 1; }
		echo "$why" | grep -qE -- "$2" || return 1
	runs_well "$pid" || return 1
	remote_dump "$pid" --snapshot later && wait_gone "$pid" && remote_restore --pids=new --snapshot later ||
		{ why="afterwards: $why" && return 1; }
	pid=$(pgrep -f "^$BENCH_VICTIM $work memory")
	[ -n "$pid" ] || { why="the program is gone" && return 1; }
}
meddled nonce "refuses our secret|does not know the secret" flip 40
result "a bit of the greeting that is changed is noticed"
end
meddled nonce-there "refuses our secret|does not know the secret" flip -40
result "and one of the answer to it"
end
meddled hello "refuses our secret" flip 120
result "a bit of the handshake that is changed is noticed"
end
meddled memory "somebody has changed it on the way" flip 2000000
result "a bit of the memory that is changed is noticed"
end
meddled word "somebody has changed it on the way" flip -$last_word
result "a bit of the last word of the cache that is changed is noticed"
end
meddled cut "the connection (was cut|is broken)" cut 2000000
result "a connection that is cut is no end"
end
meddled cut-early "the connection (was cut|is broken)" cut 200
result "nor one that is cut in the handshake"
end

# Noise, plain clients, and what the proxy has said before: no answer but a greeting and a refusal.
tried() {
	listened tried secret try 0 || return 1
	remote_dump "$pid" -R && remote_dump "$pid" -R --snapshot second || return 1
	wait_for 10 test -e "$work/tried" || { why="$(tail -n 1 "$work/tap.log")" && return 1; }
	[ "$(grep -c "is dropped: it does not know the secret" "$dst/image-cache.log")" = 1 ] &&
		[ "$(grep -c "is complete:" "$dst/image-cache.log")" = 2 ] ||
		{ why="$(tail -n 5 "$dst/image-cache.log")" && return 1; }
	runs_well "$pid"
}
tried
result "a recording of another connection is refused, strangers get nothing"
end

# A ferry of before there was TLS here, whose blocks anybody could read.
older() {
	listened older secret || return 1
	timeout 60 tests/e2e/relay-peer marking-proxy "$(cat "$dst/image-cache.out")" >"$work/peer" 2>&1 ||
		{ why="$(tail -n 1 "$work/peer")" && return 1; }
	grep -q "is dropped: the other side is an older ferry, which would hide nothing" "$dst/image-cache.log" ||
		{ why="$(tail -n 2 "$dst/image-cache.log")" && return 1; }
	kill "$proxy" && wait "$proxy"
	timeout 100 tests/e2e/relay-peer marking-cache >"$work/marking" 2>"$work/marking.log" &
	kill "$tap"
	tap=$!
	wait_for 10 test -s "$work/marking" || { why="$(tail -n 1 "$work/marking.log")" && return 1; }
	relay image-proxy "$src" --port "$(cat "$work/marking")" --secret-file "$secret" || return 1
	proxy=$relay
	remote_dump "$pid" && { why="it took an older image-cache" && return 1; }
	echo "$why" | grep -q "hangs up instead of answering: it is an older ferry, or no image-cache" || return 1
	! grep -q frozen "$src/dump.log" || { why="it was stopped before" && return 1; }
	runs_well "$pid"
}
older
result "an older ferry is refused before the program is stopped"
end
finish
