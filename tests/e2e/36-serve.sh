#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 200
# ferry serve: a cluster in which hosts are known by certificates of their own authority. Who may send moves
# a program; who may not, is unknown, revoked, or speaks no TLS at all gets nothing, and the program runs on.
# Both hosts are this one.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/eavesdrop-lib.sh"
. "$(dirname "$0")/transport-lib.sh"
requires_root
requires openssl
requires python3
pki=$TEST_TMP/pki

# ---- certificates -------------------------------------------------------------------------------

authority() { # DIR
	mkdir -p "$1"
	touch "$1/index"
	cat >"$1/conf" <<-END
		[req]
		distinguished_name = dn
		[dn]
		[v3_ca]
		basicConstraints = critical,CA:TRUE
		keyUsage = critical,keyCertSign,cRLSign
		[ca]
		default_ca = own
		[own]
		database = $1/index
		certificate = $1/ca.pem
		private_key = $1/ca.key
		default_md = sha256
		default_crl_days = 1
	END
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=ferry test" \
		-config "$1/conf" -extensions v3_ca -keyout "$1/ca.key" -out "$1/ca.pem" 2>/dev/null
}

certificate() { # DIR NAME SAN [DAYS]
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$1/$2.key" \
		-out "$1/$2.csr" -config "$1/conf" 2>/dev/null &&
		openssl x509 -req -in "$1/$2.csr" -CA "$1/ca.pem" -CAkey "$1/ca.key" -CAcreateserial \
			-days "${4:-2}" -out "$1/$2.pem" -extfile <(echo "subjectAltName=$3") 2>/dev/null
}

make_pki() {
	authority "$pki" && authority "$pki/other" || return 1
	certificate "$pki" here "DNS:here.test,DNS:localhost,IP:127.0.0.1" &&
		certificate "$pki" elsewhere "DNS:elsewhere.test" &&
		certificate "$pki" mover "DNS:mover.test" && certificate "$pki" reader "DNS:reader.test" &&
		certificate "$pki" nobody "DNS:nobody.test" && certificate "$pki" barred "DNS:barred.test" &&
		certificate "$pki" gone "DNS:mover.test" && certificate "$pki" star "DNS:*.test" &&
		certificate "$pki/other" mover "DNS:mover.test" || return 1
	openssl ca -config "$pki/conf" -revoke "$pki/gone.pem" 2>/dev/null
	openssl ca -config "$pki/conf" -gencrl -out "$pki/crl.pem" 2>/dev/null
}

# ---- the daemon ---------------------------------------------------------------------------------

serve() { # [OPTION...]: sets port, daemon
	"$FERRY" serve --address 127.0.0.1 --port 0 --peers "$TEST_TMP/peers" --tls-cacert "$pki/ca.pem" \
		--tls-crl "$pki/crl.pem" --tls-cert "$pki/here.pem" --tls-key "$pki/here.key" \
		"$@" >"$TEST_TMP/port" 2>"$TEST_TMP/serve.log" &
	daemon=$!
	wait_for 20 grep -q '[0-9]' "$TEST_TMP/port" || { why="serve: $(cat "$TEST_TMP/serve.log")" && return 1; }
	port=$(grep -o '[0-9]*$' "$TEST_TMP/port")
}

# with NAME: the options of who has this certificate
with() {
	echo --tls-cacert "$pki/ca.pem" --tls-cert "$pki/$1.pem" --tls-key "$pki/$1.key"
}

logged() {
	wait_for 10 grep -q -- "$1" "$TEST_TMP/serve.log" || { why="it has logged: $(cat "$TEST_TMP/serve.log")" && return 1; }
}

# ---- programs -----------------------------------------------------------------------------------

migrate() { # STATUS NAME [OPTION...]
	local status=$1 name=$2
	shift 2
	# shellcheck disable=SC2046 # options
	timeout -k 5 60 "$FERRY" migrate "$pid" "ferry://${called:-localhost}:$port" --pids=new $(with "$name") "$@" \
		>"$work/out" 2>&1
	[ $? = "$status" ] || { why="$*: $(cat "$work/out")" && return 1; }
}

says() {
	grep -q -- "$1" "$work/out" || { why="it says: $(cat "$work/out")" && return 1; }
}

asks() { # NAME WORDS: what it hears when it asks what it may do
	local out
	# shellcheck disable=SC2046 # options
	out=$(timeout -k 5 30 "$FERRY" call "ferry://localhost:$port" $(with "$1") 2>&1)
	[[ $out == *$2* ]] || { why="$1 hears: $out" && return 1; }
}

make_pki
result "certificates are made"
cat >"$TEST_TMP/peers" <<-END
	# who may do what
	barred.test	none
	mover.test	send,files
	reader.test	files	# no trees
END
serve
result "it listens"

# ---- who may ------------------------------------------------------------------------------------

moves() { # NAME WORDS [OPTION...]
	program "$1" && migrate 0 mover "${@:3}" && says "$2" && lives away
}
for mode in stop hybrid; do
	moves may-$mode "over TLS, to 127.0.0.1" --mode=$mode
	result "who may send moves a program: $mode"
done
moves by-call "pid" --mode=hybrid --transport=ssh --files=lazy
result "all of it over the connection that was called, with its files at home"
asks mover "send, files" && asks reader "files" && asks nobody "nothing" && asks barred "nothing"
result "who asks hears what he may do"
logged "127.0.0.1:[0-9]* (mover.test): ferry agent"
result "who has done what is in the log"

# ---- who may not --------------------------------------------------------------------------------

stays() { # NAME WORDS CERTIFICATE [OPTION...]
	program "$1" && migrate 1 "$3" "${@:4}" && says "$2" && lives home
}
stays no-right "may not do that here (agent); you may do: files" reader
result "a peer without that right"
stays no-line "may not do that here (agent); you may do: nothing" nobody
result "a peer without a line"
stays barred "you may do: nothing" barred
result "a peer whose line says none"
stays pattern "you may do: nothing" star
result "a pattern in a certificate is no name"
stays unknown-ca "ferry://localhost:$port" other/mover
result "a certificate of another authority"
stays revoked "certificate revoked\|ferry://localhost" gone && logged "certificate revoked"
result "a revoked certificate"
called=127.0.0.2 stays other-name "certificate is not for 127.0.0.2\|refused" mover
result "a server with another name"

# ---- strangers ----------------------------------------------------------------------------------

# What a scan sends, and what comes back: at most an alert.
strangers() {
	python3 - "$port" <<-'END'
		import socket, sys
		said = [b"", b"GET / HTTP/1.0\r\n\r\n", b"SSH-2.0-scan\r\n", bytes(200), b"ferrycal\x01a" + bytes(54),
		        bytes.fromhex("16030100050100000100") + bytes(100)]
		for what in said:
		    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as s:
		        s.settimeout(15)
		        s.sendall(what)
		        s.shutdown(socket.SHUT_WR)
		        back = b""
		        try:
		            while piece := s.recv(1000):
		                back += piece
		        except ConnectionResetError:
		            pass
		        if len(back) > 7:
		            sys.exit(f"to {what[:20]} it says {back[:100]}")
	END
}
why=$(strangers 2>&1)
result "strangers and a scan hear nothing"

# Many who connect and are silent, longer than they are given.
crowd() {
	python3 - "$port" "$TEST_TMP/crowded" <<-'END' &
		import socket, sys, time
		held = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) for _ in range(100)]
		open(sys.argv[2], "w").close()
		time.sleep(60)
	END
	local crowd=$! status
	wait_for 20 test -e "$TEST_TMP/crowded" && moves crowd "over TLS" --mode=stop
	status=$?
	kill $crowd
	return $status
}
crowd
result "many who say nothing keep nobody out"

echo "mover.test sende" >"$TEST_TMP/peers"
stays bad-peers "does not know who may do what" mover && logged "sende"
result "a file that is not understood gives nobody a right"
echo "* send" >"$TEST_TMP/peers"
asks nobody "send"
result "the file is read anew: everybody with a certificate may send"

# ---- agents by somebody else, as systemd starts them ---------------------------------------------

activation() {
	kill "$daemon" && wait "$daemon"
	cat >"$TEST_TMP/activate.py" <<-'END'
		import os, socket, subprocess, sys
		s = socket.socket(socket.AF_UNIX)
		s.bind(sys.argv[1])
		s.listen()
		while True:
		    c, _ = s.accept()
		    subprocess.Popen([sys.argv[2], "agent", "--call"], stdin=c, stdout=c)
		    c.close()
	END
	python3 "$TEST_TMP/activate.py" "$TEST_TMP/agents" "$FERRY" &
	activator=$!
	wait_for 30 test -S "$TEST_TMP/agents" && serve --agent-socket "$TEST_TMP/agents" || return 1
	moves activated "over TLS" --mode=hybrid
}
activation
result "agents that somebody else starts"

kill "$activator"
wait "$activator" 2>/dev/null
rm -f "$TEST_TMP/agents"
stays no-agents "cannot start an agent" mover
result "nobody starts agents: the program runs on at home"

kill -TERM "$daemon"
wait "$daemon"
result "a signal ends it"

# ---- the units of systemd ------------------------------------------------------------------------

# They are understood, and what listens has next to no rights: an exposure of 2.0 at most, of 10.
units() {
	local dir=$TEST_TMP/units unit found
	mkdir "$dir"
	for unit in ferry-serve.service ferry-agent@.service; do
		sed "s,^ExecStart=[^ ]*,ExecStart=$(readlink -f "$FERRY")," "$BUILD_DIR/systemd/$unit" >"$dir/$unit"
	done
	cp systemd/ferry-agent.socket "$dir"
	for unit in ferry-serve.service ferry-agent@.service ferry-agent.socket; do
		# there may be words about other units of this host
		found=$(timeout 60 systemd-analyze verify --man=no "$dir/$unit" 2>&1 | grep ferry-) && why=$found && return 1
	done
	why=$(timeout 60 systemd-analyze security --offline=true --threshold=20 --no-pager "$dir/ferry-serve.service" 2>&1) ||
		{ why=$(tail -n 1 <<<"$why") && return 1; }
}
if systemd-analyze security --help 2>/dev/null | grep -q -- --offline; then
	units
	result "units of systemd"
else
	skip "units of systemd" "no systemd-analyze that can look at them"
fi

"$FERRY" serve --peers "$TEST_TMP/none" --tls-cacert "$pki/ca.pem" --tls-cert "$pki/here.pem" \
	--tls-key "$pki/here.key" --port 0 2>"$TEST_TMP/out"
[ $? = 1 ] && grep -q "$TEST_TMP/none" "$TEST_TMP/out"
result "without a list of peers it does not begin"
"$FERRY" migrate $$ "ferry://:1" 2>"$TEST_TMP/out"
[ $? = 1 ] && grep -q "ferry://HOST" "$TEST_TMP/out"
result "a host that is none"
finish
