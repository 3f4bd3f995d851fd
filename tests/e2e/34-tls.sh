#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
# TLS of page-server and lazy-pages: with ferry in every role, and with real CRIU in any one. Certificates that are
# not to be believed, revoked or for somebody else, peers without TLS, somebody on the way who reads, changes or cuts.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/eavesdrop-lib.sh"
. "$(dirname "$0")/criu-lazy-lib.sh"
requires_root
requires python3 openssl
BENCH_VICTIM=$BUILD_DIR/bench/bench-victim
preload=

CRIU=
if [ -x "${CRIU_ROOT:=/var/tmp/ferry-criu}/usr/sbin/criu.host" ]; then
	CRIU=$CRIU_ROOT/usr/sbin/criu.host
elif [ -x "$PWD/../shared/bin/criu-root" ]; then
	CRIU=$(timeout 200 "$PWD/../shared/bin/criu-root" "$CRIU_ROOT" 2>"$TEST_TMP/criu-root.log") || CRIU=
fi

with_criu() { # NAME COMMAND...
	if [ -n "$CRIU" ]; then
		"${@:2}"
		result "$1"
	else
		skip "$1" "no real CRIU here"
	fi
}

# ---- certificates -------------------------------------------------------------------------------

pki=$TEST_TMP/pki

authority() { # NAME
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1 CA" \
		-keyout "$pki/$1-ca.key" -out "$pki/$1-ca.pem" 2>>"$pki/log"
}

certificate() { # NAME AUTHORITY ALTERNATIVE-NAMES
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$pki/$1.key" \
		-out "$pki/$1.csr" 2>>"$pki/log" &&
		openssl x509 -req -in "$pki/$1.csr" -CA "$pki/$2-ca.pem" -CAkey "$pki/$2-ca.key" -CAcreateserial -days 2 \
			-extfile <(echo "subjectAltName=$3") -out "$pki/$1.pem" 2>>"$pki/log"
}

revoke() { # NAME: by our CA; all that were revoked so far are in the list
	cat >"$pki/ca.conf" <<-END
		[ca]
		default_ca = ours
		[ours]
		database = $pki/index
		default_md = sha256
		default_crl_days = 2
		crlnumber = $pki/crlnumber
	END
	[ -e "$pki/index" ] || { : >"$pki/index" && echo 01 >"$pki/crlnumber"; }
	openssl ca -config "$pki/ca.conf" -keyfile "$pki/our-ca.key" -cert "$pki/our-ca.pem" -revoke "$pki/$1.pem" \
		2>>"$pki/log" &&
		openssl ca -config "$pki/ca.conf" -keyfile "$pki/our-ca.key" -cert "$pki/our-ca.pem" -gencrl \
			-out "$pki/crl.pem" 2>>"$pki/log"
}

make_certificates() {
	local here=IP:127.0.0.1,DNS:localhost
	mkdir "$pki"
	authority our && authority their && certificate source our $here && certificate destination our $here &&
		certificate stolen our $here && certificate elsewhere our DNS:elsewhere.example &&
		certificate stranger their $here && revoke stolen
}
make_certificates || {
	not_ok certificates "$(tail -n 3 "$pki/log")"
	finish
}

# tls CERTIFICATE [AUTHORITY]: the options of an end that shows this one.
tls() {
	echo --tls --tls-cacert "$pki/${2:-our}-ca.pem" --tls-cert "$pki/$1.pem" --tls-key "$pki/$1.key" ${3:-}
}

# ---- programs -----------------------------------------------------------------------------------

# program NAME [MIB]: a program with memory that does not change; sets work, src, dst, pid.
program() {
	work=$TEST_TMP/$1
	src=$work/src
	dst=$work/dst
	mkdir -p "$src" "$dst"
	"$BENCH_VICTIM" "$work" memory "${2:-4}" || return 1
	pid=$(cat "$work/pid")
	tests/e2e/eavesdrop sample "$pid" "$work/pieces" || { why="no pieces of its memory" && return 1; }
}

runs_well() { # [WHO]: the program, wherever it is
	kill -USR1 "${1:-$pid}" && wait_for 20 test -s "$work/report" || { why="${why:-} it does not answer" && return 1; }
	grep -q ok "$work/report" || { why="its memory is damaged: $(cat "$work/report")" && return 1; }
}

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# server PROGRAM OPTION...: a page server in the background; sets server and port when it listens.
server() {
	local program=$1
	shift
	port=$(free_port)
	rm -f "$work/ready"
	mkfifo "$work/ready"
	timeout -k 5 100 env ${preload:+LD_PRELOAD=$preload} "$program" page-server -D "$dst" --address 127.0.0.1 --port "$port" -o server.log -v4 \
		--status-fd 7 "$@" 7>"$work/ready" >"$work/server.out" 2>&1 &
	server=$!
	[ "$(timeout 20 head -c 1 "$work/ready" | wc -c)" = 1 ] || {
		why="the server does not listen: $(cat "$work/server.out")"
		return 1
	}
}

server_ends() { # STATUS
	wait "$server"
	[ $? = "$1" ] || { why="the server does not end with $1: $(tail -n 3 "$dst/server.log")" && return 1; }
}

end_server() {
	disown "$server"
	kill_tree "$server"
}

# tap [flip N | cut N]: somebody on the way; port is his from now on.
tap() {
	rm -f "$work/port"
	timeout 100 tests/e2e/eavesdrop tap "$port" "$work" "$@" 2>"$work/tap.log" &
	wait_for 10 test -s "$work/port" || { why="tap: $(cat "$work/tap.log")" && return 1; }
	port=$(cat "$work/port")
}

# ---- a page server ------------------------------------------------------------------------------

# to_server NAME SERVER DUMPER OVERHEARD [OPTION...]: memory over a wire that is listened at; OPTIONs in place of TLS.
to_server() {
	local name=$1 program=$2 dumper=$3 expected=$4 there here
	# shellcheck disable=SC2207
	there=($(tls destination)) here=($(tls source))
	[ $# = 4 ] || { there=() here=(); }
	program "$name" && server "$program" "${there[@]}" && tap || return 1
	dump "$dumper" "$pid" "$src" --page-server --address 127.0.0.1 --port "$port" "${here[@]}" && server_ends 0 || return 1
	overheard "$expected" && wait_gone "$pid" || return 1
	cp "$src"/*.img "$dst"
	restore "$FERRY" "$dst" && runs_well && kill_tree "$pid"
}
to_server plain "$FERRY" "$FERRY" some plain
result "without TLS the program's memory can be read on the way"
to_server tls "$FERRY" "$FERRY" none
result "with TLS it cannot"
with_criu "criu page-server" to_server criu-serves "$CRIU" "$FERRY" none
with_criu "criu dump" to_server criu-dumps "$FERRY" "$CRIU" none

# Over a socket that both were given, there is no name.
given_socket() {
	local out
	program given || return 1
	# shellcheck disable=SC2046
	out=$(timeout 60 tests/e2e/page-peer pair "$FERRY" page-server -D "$dst" --ps-socket FD $(tls destination) -- \
		"$FERRY" dump -t "$pid" -D "$src" --page-server --ps-socket FD $(tls source) --tls-no-cn-verify 2>&1) ||
		{ why="status $?: $out" && return 1; }
	cp "$src"/*.img "$dst"
	wait_gone "$pid" && restore "$FERRY" "$dst" && runs_well && kill_tree "$pid"
}
given_socket
result "over a given socket"

# ---- those who are not believed -----------------------------------------------------------------

# refused WORDS OPTION...: the dump fails, the program runs on, the server waits for a better one.
refused() {
	local words=$1
	shift
	dump "$FERRY" "$pid" "$src" --page-server --address 127.0.0.1 --port "$port" "$@" && {
		why="$*: not refused"
		return 1
	}
	[[ $why == *"$words"* ]] || { why="instead of '$words': $why" && return 1; }
	kill -0 "$server" || { why="$*: the server ended" && return 1; }
	kill -0 "$pid" && [[ $(sed 's/.*) //; s/ .*//' "/proc/$pid/stat") == [SR] ]] ||
		{ why="$*: the program does not run" && return 1; }
}

clients() {
	program clients
	# shellcheck disable=SC2046
	server "$FERRY" $(tls destination) --tls-cacrl "$pki/crl.pem" &&
		refused "it refuses us" $(tls stranger) &&
		refused "it refuses us" $(tls stolen) &&
		refused "its certificate is not accepted" $(tls source their) &&
		refused "page server" &&
		tests/e2e/eavesdrop scan "$port" || return 1
	openssl s_client -connect "127.0.0.1:$port" -CAfile "$pki/our-ca.pem" </dev/null >"$work/s_client" 2>&1
	wait_for 10 grep -q "it has no certificate" "$dst/server.log" || { why="nobody misses a certificate" && return 1; }
	grep -q "not accepted: certificate revoked" "$dst/server.log" || { why="nobody misses the revoked one" && return 1; }
	grep -q "does not speak TLS" "$dst/server.log" || { why="nobody speaks plainly" && return 1; }
	[ -z "$(find "$dst" -name '*.img' -o -name '.incoming*')" ] || { why="there are images" && return 1; }
	# shellcheck disable=SC2046
	dump "$FERRY" "$pid" "$src" --page-server --port "$port" $(tls source) && server_ends 0 || return 1
	cp "$src"/*.img "$dst"
	wait_gone "$pid" && restore "$FERRY" "$dst" && runs_well && kill_tree "$pid"
}
clients
result "a server refuses strangers, revoked and plain clients, and serves who comes then"

# server_refused NAME WORDS SERVER-OPTIONS CLIENT-OPTIONS
server_refused() {
	program "$1"
	# shellcheck disable=SC2086
	server "$FERRY" $3 && refused "$2" $4 && runs_well || return 1
	end_server
	kill_tree "$pid"
}
server_refused other-ca "its certificate is not accepted" "$(tls stranger their)" "$(tls source)"
result "a client refuses a server of another CA"
server_refused revoked "not accepted: certificate revoked" "$(tls stolen)" "$(tls source) --tls-crl $pki/crl.pem"
result "a client refuses a revoked server"
server_refused elsewhere "is not for 127.0.0.1" "$(tls elsewhere)" "$(tls source)"
result "a client refuses a server of another name"
server_refused no-tls "page server" "" "$(tls source)"
result "a client refuses a server without TLS"

any_name() {
	program any-name
	# shellcheck disable=SC2046
	server "$FERRY" $(tls elsewhere) &&
		dump "$FERRY" "$pid" "$src" --page-server --port "$port" $(tls source) --tls-no-cn-verify && server_ends 0
}
any_name
result "--tls-no-cn-verify takes any name"

# ---- somebody on the way ------------------------------------------------------------------------

# meddled NAME WHAT WHERE: in the middle of the memory, or of the answers: nothing is kept, the program runs on.
meddled() {
	program "$1"
	# shellcheck disable=SC2046
	server "$FERRY" $(tls destination) && tap "$2" "$3" || return 1
	# shellcheck disable=SC2046
	dump "$FERRY" "$pid" "$src" --page-server --address 127.0.0.1 --port "$port" $(tls source) &&
		{ why="not noticed" && return 1; }
	end_server
	[ -z "$(find "$dst" "$src" -name 'pages*.img' -o -name '.incoming*')" ] || { why="there are images" && return 1; }
	runs_well && kill_tree "$pid"
}
meddled flipped flip 3000000
result "a bit that is changed on the way is noticed"
meddled flipped-answer flip -700
result "a bit of the handshake that is changed is noticed"
meddled cut cut 3000000
result "a connection that is cut is no end"

# ---- lazy pages ---------------------------------------------------------------------------------

# daemon PROGRAM OPTION...: in the background; sets daemon when a restore can connect.
daemon() {
	local program=$1
	shift
	rm -f "$work/daemon"
	mkfifo "$work/daemon"
	timeout -k 5 60 "$program" lazy-pages -D "$src" -o lazy.log -v4 --page-server --address 127.0.0.1 --port "$port" \
		--status-fd 7 "$@" 7>"$work/daemon" >"$work/lazy.out" 2>&1 &
	daemon=$!
	[ "$(timeout 20 head -c 1 "$work/daemon" | wc -c)" = 1 ] || { why="lazy-pages: $(cat "$work/lazy.out")" && return 1; }
}

daemon_ends() {
	wait "$daemon" || { why="lazy-pages: $(cat "$work/lazy.out"; tail -n 3 "$src/lazy.log")" && return 1; }
}

# from_images NAME SERVER DAEMON RESTORER: a finished dump is served to a lazy restore.
from_images() {
	program "$1" && dump "$FERRY" "$pid" "$dst" && wait_gone "$pid" || return 1
	cp "$dst"/*.img "$src"
	# shellcheck disable=SC2046
	server "$2" --lazy-pages $(tls destination) && tap && daemon "$3" $(tls source) || return 1
	restore "$4" "$src" --lazy-pages && daemon_ends && server_ends 0 && overheard none || return 1
	runs_well && kill_tree "$pid"
}
from_images images "$FERRY" "$FERRY" "$FERRY"
result "page-server --lazy-pages"
with_criu "page-server --lazy-pages, criu lazy-pages" from_images criu-fetches "$FERRY" "$CRIU" "$CRIU"
# CRIU hands pages out of pipes, and does not do without pipes that are larger than one may make them here
preload=$TEST_TMP/pipeclamp.so
if cc -shared -fPIC -o "$preload" ../shared/doc/criu/tools/pipeclamp.c -ldl 2>/dev/null; then
	with_criu "criu page-server --lazy-pages" from_images criu-images "$CRIU" "$FERRY" "$FERRY"
else
	skip "criu page-server --lazy-pages" "no compiler, or not its source"
fi
preload=

# The frozen program itself hands its memory out.

# lazy_source NAME DUMPER: sets dumper and port when it listens.
lazy_source() {
	program "$1" || return 1
	port=$(free_port)
	mkfifo "$work/listens"
	# shellcheck disable=SC2046
	timeout -k 5 100 env ${preload:+LD_PRELOAD=$preload} "$2" dump -t "$pid" -D "$src" -o dump.log -v4 --lazy-pages \
		--address 127.0.0.1 --port "$port" --status-fd 7 $(tls destination) 7>"$work/listens" >"$work/out" 2>&1 &
	dumper=$!
	[ "$(timeout 20 head -c 1 "$work/listens" | wc -c)" = 1 ] ||
		{ why="dump: $(cat "$work/out"; tail -n 3 "$src/dump.log")" && return 1; }
}

source_ends() {
	wait "$dumper" || { why="dump: $(cat "$work/out"; tail -n 3 "$src/dump.log")" && return 1; }
	wait_gone "$pid" || { why="the program is still there" && return 1; }
}

# Nobody without a certificate gets anything.
strangers_get_nothing() {
	"$FERRY" show "$src/pagemap-$pid.img" >"$work/pagemap"
	timeout 20 tests/e2e/get-pages fetch "$port" "$pid" "$work/pagemap" >"$work/stranger" 2>&1 &&
		{ why="a stranger got pages" && return 1; }
	tests/e2e/eavesdrop scan "$port"
}

# With our daemon and restore.
fetched_by_ferry() {
	local restored
	# shellcheck disable=SC2046
	tap && daemon "$FERRY" $(tls source) || return 1
	timeout -k 5 60 "$FERRY" restore -D "$src" -o restore.log -v4 --lazy-pages --pids=new >"$work/restore.out" 2>&1 </dev/null &
	restored=$!
	daemon_ends && source_ends && overheard none || return 1
	runs_well "$(descendants $restored | while read -r p; do
		[ "$(tr '\0' ' ' <"/proc/$p/cmdline" | cut -d ' ' -f 1)" = "$BENCH_VICTIM" ] && echo "$p"
	done | head -n 1)"
	local status=$?
	kill_tree $restored
	return $status
}

ferry_to_ferry() {
	lazy_source lazy-source "$FERRY" && strangers_get_nothing && fetched_by_ferry
}
ferry_to_ferry
result "dump --lazy-pages"

ferry_to_criu() {
	# shellcheck disable=SC2046
	lazy_source lazy-to-criu "$FERRY" && tap && criu_fetches_pages "$src" "$port" $(tls source) && source_ends &&
		overheard none
}
with_criu "dump --lazy-pages, criu lazy-pages" ferry_to_criu

criu_to_ferry() {
	lazy_source lazy-of-criu "$CRIU" && fetched_by_ferry
}
preload=$TEST_TMP/pipeclamp.so
if [ -e "$preload" ]; then
	with_criu "criu dump --lazy-pages" criu_to_ferry
else
	skip "criu dump --lazy-pages" "no compiler, or not the source of pipeclamp"
fi
preload=

# ---- wrong use ----------------------------------------------------------------------------------

wrong_use() { # STATUS WORDS OPTION...
	local status=$1 words=$2 output
	shift 2
	output=$(timeout 20 "$FERRY" "$@" 2>&1 </dev/null)
	[ $? = "$status" ] && [[ $output == *"$words"* ]] || { why="$* says: $output" && return 1; }
}
# shellcheck disable=SC2046
wrong_use 2 "make sense with --tls" page-server --tls-no-cn-verify &&
	wrong_use 2 "--page-server or --lazy-pages" dump -t 1 --tls &&
	wrong_use 2 "no name" dump -t 1 --page-server --ps-socket 3 --tls &&
	wrong_use 2 "needs --page-server" lazy-pages --tls &&
	wrong_use 1 "CA certificate $TEST_TMP/none: No such file" page-server --tls --tls-cacert "$TEST_TMP/none" &&
	wrong_use 1 "certificate $0: " page-server $(tls source | sed "s,$pki/source.pem,$0,") &&
	wrong_use 1 "private key $pki/stolen.key: key values mismatch" \
		page-server $(tls source | sed "s,source.key,stolen.key,") &&
	wrong_use 1 "revocation list $pki/source.pem: " page-server $(tls source) --tls-cacrl "$pki/source.pem"
result wrong-use
finish
