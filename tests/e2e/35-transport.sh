#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 200
# The transport of ferry migrate: over TLS to a port that the agent opens, with a secret that came through ssh, or
# through ssh. Somebody on the way (tests/hosts/detour.c leads the connections there) reads nothing, and whatever he
# changes or cuts before the commit leaves the program running at home. Both hosts are this one.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/eavesdrop-lib.sh"
. "$(dirname "$0")/transport-lib.sh"
requires_root
requires python3
detour=$BUILD_DIR/tests/hosts/detour.so

# The pseudo-ssh of these tests: with what sshd says of the address, or without.
reached="env SSH_CONNECTION='127.0.0.1 1 127.0.0.1 22' $PWD/tools/pseudo-ssh"
unknown="env -u SSH_CONNECTION $PWD/tools/pseudo-ssh"

watched() { # NAME [MIB]: a program some of whose memory is known
	program "$@" && tests/e2e/eavesdrop sample "$pid" "$work/pieces" || { why="no pieces of its memory" && return 1; }
}

# migrate STATUS [OPTION...]
migrate() {
	local status=$1
	shift
	timeout -k 5 60 "$FERRY" migrate "$pid" here --pids=new --ssh "$reached" "$@" >"$work/out" 2>&1
	[ $? = "$status" ] || { why="$*: $(cat "$work/out")" && return 1; }
}

says() {
	grep -q -- "$1" "$work/out" || { why="it says: $(cat "$work/out")" && return 1; }
}

# tap [flip N | cut N | try 0]: connections of what is run with ${detour[@]} go over somebody.
tap() {
	timeout 100 tests/e2e/eavesdrop tap 0 "$work" "$@" 2>"$work/tap.log" &
	wait_for 10 test -s "$work/port" || { why="tap: $(cat "$work/tap.log")" && return 1; }
	export DETOUR_PORT DETOUR_FILE=$work/target LD_PRELOAD=$detour
	DETOUR_PORT=$(cat "$work/port")
}

end_tap() {
	unset DETOUR_PORT DETOUR_FILE LD_PRELOAD
}

# ---- over TLS -----------------------------------------------------------------------------------

# moves NAME OVERHEARD WORDS OPTION...
moves() {
	local status
	watched "$1" && tap || return 1
	migrate 0 "${@:4}"
	status=$?
	end_tap
	[ $status = 0 ] && says "$3" && overheard "$2" && lives away
}
moves plain some . --mode=postcopy --insecure-plain-tcp
result "over plain TCP memory can be read on the way"
for mode in stop precopy postcopy hybrid; do
	moves $mode none 'over TLS, to 127.0.0.1, port' --mode=$mode --transport=auto --connections=1
	result "over TLS it cannot: $mode"
done

for n in 2 5; do
	moves connections-$n none "$n connections" --mode=hybrid --transport=tls --connections=$n
	result "over $n connections"
done

# Others at the port, while it is open.
strangers() {
	local status
	watched strangers && tap try 0 || return 1
	migrate 0 --mode=postcopy --transport=tls --connections=1
	status=$?
	end_tap
	[ $status = 0 ] || return 1
	[ -e "$work/tried" ] || { why="others: $(cat "$work/tap.log")" && return 1; }
	says "over TLS" && lives away
}
strangers
result "strangers and a replay get nothing, and nothing is disturbed"

# ---- it stays at home ---------------------------------------------------------------------------

# stays NAME WORDS TAP...: with somebody who changes or cuts
stays() {
	local status
	watched "$1" && tap "${@:3}" || return 1
	migrate 1 --mode=stop --transport=tls --connections="${connections:-1}"
	status=$?
	end_tap
	[ $status = 0 ] && says "$2" && lives home
}
stays flipped "changed it on the way" flip 3000000
result "a changed bit: the program runs on at home"
stays flipped-answer "TLS\|changed it on the way\|refuses" flip -150
result "a changed bit of the handshake: the program runs on at home"
stays cut "the connection to here" cut 3000000
result "a cut connection: the program runs on at home"

connections=3
stays flipped-one "the connection to here" flip 3000000
result "a changed bit in one of three connections: the program runs on at home"
stays cut-one "the connection to here" cut 3000000
result "one of three connections is cut: the program runs on at home"

# ---- through ssh --------------------------------------------------------------------------------

through_ssh() { # NAME WORDS OPTION...
	watched "$1" && migrate 0 "${@:3}" && says "$2" && lives away
}
through_ssh no-address "through ssh: here opens no port" --transport=auto --ssh "$unknown"
result "no port is offered: through ssh"
watched only-ssh && migrate 0 --transport=ssh && ! grep -q TLS "$work/out" && lives away
result "--transport=ssh"
watched only-tls && migrate 1 --transport=tls --ssh "$unknown" && says "opens no port" && lives home
result "--transport=tls, and no port: nothing is moved"

# Nobody answers at the port, as behind a firewall.
closed_port() {
	local status
	watched "$1" || return 1
	export DETOUR_PORT=1 DETOUR_FILE=$work/target LD_PRELOAD=$detour
	migrate "$2" "${@:5}"
	status=$?
	end_tap
	[ $status = 0 ] && says "$3" && lives "$4"
}
closed_port closed 0 "through ssh: .*Connection refused" away --transport=auto
result "the port cannot be reached: through ssh"
closed_port closed-tls 1 "Connection refused" home --transport=tls
result "--transport=tls, and the port cannot be reached: nothing is moved"

watched contradiction && migrate 2 --transport=tls --insecure-plain-tcp && lives home
result "--transport=tls and --insecure-plain-tcp exclude each other"
finish
