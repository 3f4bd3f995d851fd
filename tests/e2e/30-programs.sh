#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# Real programs of the distribution at work, each dumped and restored twice in the middle of it, and
# checked from outside for lost or repeated work. Names of tests as arguments: only those.
. "$(dirname "$0")/lib.sh"
requires_root

# start COMMAND...: in $vdir, as leader of a session; sets pid.
start() {
	(
		cd "$vdir" || exit 1
		exec setsid "$@" </dev/null >"$vdir/out" 2>&1
	) &
	pid=$!
	disown
}

# need PROGRAM...: status 2 (skip) when one is absent.
need() {
	local program
	for program; do
		command -v "$program" >/dev/null || {
			why="$program is not installed"
			return 1
		}
	done
}

exists() {
	alive "$pid" || {
		why="the program has ended: $(tail -n 3 "$vdir/out")"
		return 1
	}
}

# move [OPTION...]: dump, which ends the tree, and restore.
move() {
	images=$vdir/images-$((++moves))
	exists && dump "$ENGINE" "$pid" "$images" "$@" && wait_gone "$pid" &&
		restore "$ENGINE" "$images" "$@" && exists
}

complain() {
	why=$*
	return 1
}

lines() {
	if [ -e "$1" ]; then
		wc -l <"$1"
	else
		echo 0
	fi
}

# longer FILE LINES
longer() {
	[ "$(lines "$1")" -gt "$2" ]
}

# grows FILE: the program writes to it.
grows() {
	wait_for 20 longer "$1" "$(lines "$1")" || complain "$1 does not grow"
}

# Threads that share a lock, and a child that answers on pipes, all writing to one log.
test_python_threads() {
	need python3 || return 2
	cat >"$vdir/program.py" <<-'END'
		import hashlib, subprocess, sys, threading, time
		log, lock = open("log", "a", buffering=1), threading.Lock()
		def work(name):
		    digest = hashlib.sha256(name.encode()).digest()
		    for number in range(10**9):
		        for _ in range(50):
		            digest = hashlib.sha256(digest).digest()
		        with lock:
		            log.write(f"{name} {number} {digest.hex()}\n")
		        time.sleep(0.003)
		def echo(name):
		    child = subprocess.Popen(["cat"], stdin=-1, stdout=-1, text=True, bufsize=1)
		    for number in range(10**9):
		        child.stdin.write(f"{number}\n")
		        answer = child.stdout.readline()
		        with lock:
		            log.write(f"{name} {number} {answer.strip()}\n")
		        time.sleep(0.003)
		for n in range(4):
		    threading.Thread(target=work, args=(f"thread{n}",)).start()
		threading.Thread(target=echo, args=("child",)).start()
	END
	start python3 -u program.py
	wait_for 20 longer "$vdir/log" 50
	move && grows "$vdir/log" && move && grows "$vdir/log" || return 1
	sleep 0.3
	kill_tree "$pid"
	[ ! -s "$vdir/out" ] || complain "it complains: $(tail -n 1 "$vdir/out")" || return 1
	why=$(python3 - "$vdir/log" <<-'END'
		import collections, hashlib, sys
		state, count = {}, collections.Counter()
		for line in open(sys.argv[1]).read().splitlines()[:-1]:
		    name, number, answer = line.split()
		    if int(number) != count[name]:
		        sys.exit(f"{name}: {number} comes after {count[name] - 1}")
		    count[name] += 1
		    if name == "child":
		        want = number
		    else:
		        digest = state.get(name, hashlib.sha256(name.encode()).digest())
		        for _ in range(50):
		            digest = hashlib.sha256(digest).digest()
		        state[name], want = digest, digest.hex()
		    if answer != want:
		        sys.exit(f"{name}: wrong answer in line {number}")
		if len(count) != 5:
		    sys.exit(f"only {sorted(count)} have worked")
	END
	2>&1)
}

test_python_asyncio() {
	need python3 || return 2
	cat >"$vdir/program.py" <<-'END'
		import asyncio
		log = open("log", "a", buffering=1)
		async def serve(reader, writer):
		    while line := await reader.readline():
		        writer.write(line)
		        await writer.drain()
		async def client():
		    reader, writer = await asyncio.open_unix_connection("socket")
		    number = 0
		    while True:
		        writer.write(f"{number}\n".encode())
		        assert int(await reader.readline()) == number
		        log.write(f"{number}\n")
		        number += 1
		        await asyncio.sleep(0.002)
		async def main():
		    await asyncio.start_unix_server(serve, "socket")
		    await asyncio.gather(client(), *(asyncio.sleep(1000) for _ in range(100)))
		asyncio.run(main())
	END
	start python3 program.py
	wait_for 20 longer "$vdir/log" 50
	move && grows "$vdir/log" && move && grows "$vdir/log" || return 1
	kill_tree "$pid"
	[ ! -s "$vdir/out" ] || complain "it complains: $(tail -n 1 "$vdir/out")" || return 1
	seq 0 $(($(wc -l <"$vdir/log") - 1)) | cmp -s - "$vdir/log" || complain "holes or repeats"
}

test_perl() {
	need perl || return 2
	start perl -e 'open(L, ">>", "log"); $h = 1; for ($i = 0; ; $i++) {
		$h = ($h * 1103515245 + 12345) % 2147483648 for 1 .. 1000;
		syswrite(L, "$i $h\n"); select(undef, undef, undef, 0.001) }'
	wait_for 20 longer "$vdir/log" 50
	move && grows "$vdir/log" && move && grows "$vdir/log" || return 1
	kill_tree "$pid"
	why=$(perl -e '$h = 1; while (<>) { $h = ($h * 1103515245 + 12345) % 2147483648 for 1 .. 1000;
		$_ eq sprintf("%d %d\n", $i, $h) or print("line $i is $_"), exit 1; $i++ }' "$vdir/log")
}

# A pipeline of background jobs, each a process group of its own (set -m).
test_bash_pipeline() {
	start bash -c 'set -m; for ((i = 0; i < 60000; i++)); do echo $i; ((i % 300)) || sleep 0.02; done |
		sed s/^/line/ | cat >lines & wait; echo finished >>lines'
	wait_for 20 longer "$vdir/lines" 1000
	move && grows "$vdir/lines" && move && wait_for 90 test ! -e "/proc/$pid" ||
		complain "does not finish: $why" || return 1
	(seq -f line%.0f 0 59999 && echo finished) | cmp -s - "$vdir/lines" ||
		complain "the output is wrong"
}

# In the middle of a transaction, with its journal and its locks.
test_sqlite() {
	need sqlite3 || return 2
	mkfifo "$vdir/in"
	sqlite3 "$vdir/db" 'create table t (n integer)'
	start sh -c 'exec sqlite3 -bail db <>in'
	echo 'begin immediate; insert into t values (1); insert into t values (2);' >"$vdir/in"
	wait_for 10 test -e "$vdir/db-journal" || complain "no transaction" || return 1
	fails_without_locks && move --file-locks || return 1
	sqlite3 "$vdir/db" 'insert into t values (99)' 2>/dev/null &&
		complain "somebody else can write: the lock is lost" && return 1
	echo 'insert into t values (3);' >"$vdir/in"
	move --file-locks || return 1
	printf 'insert into t values (4); commit;\n.quit\n' >"$vdir/in"
	wait_for 20 test ! -e "/proc/$pid" || complain "does not end" || return 1
	[ "$(sqlite3 "$vdir/db" 'select group_concat(n) from t; pragma integrity_check')" = "1,2,3,4
ok" ] || complain "the data base has $(sqlite3 "$vdir/db" 'select group_concat(n) from t')"
}

fails_without_locks() {
	if dump "$ENGINE" "$pid" "$vdir/images"; then
		complain "dumped without --file-locks"
	fi
}

# Server and client in one tree: every reply comes once, in order.
test_redis() {
	need redis-server redis-cli || return 2
	cat >"$vdir/run.sh" <<-'END'
		redis-server --port 0 --unixsocket socket --appendonly yes --save '' --io-threads 2 >server.log &
		until [ "$(redis-cli -s socket ping 2>/dev/null)" = PONG ]; do sleep 0.05; done
		redis-cli -s socket -r 100000000 -i 0.001 incr counter >replies
	END
	start sh run.sh
	wait_for 30 longer "$vdir/replies" 100 || complain "no load: $(tail -n 2 "$vdir/server.log")" || return 1
	move && grows "$vdir/replies" && move && grows "$vdir/replies" || return 1
	# From outside, too.
	[ "$(timeout 10 redis-cli -s "$vdir/socket" set key value)" = OK ] || complain "no answer outside" || return 1
	sleep 0.5
	kill_tree "$pid"
	seq "$(grep -c . "$vdir/replies")" | cmp -s - <(grep . "$vdir/replies" | grep -o '[0-9]*$') ||
		complain "replies are lost or repeated: $(tail -n 2 "$vdir/replies")"
}

# System V shared memory, and processes of the server for each client; committed is what was answered.
test_postgres() {
	local bin=/usr/lib/postgresql/15/bin db before
	need $bin/postgres setpriv || return 2
	before=$(segments)
	db=$(mktemp -d /tmp/ferry-postgres-XXXXXX)
	cat >"$db/run.sh" <<-END
		$bin/initdb -D $db/data -A trust -N >initdb.log 2>&1
		$bin/postgres -D $db/data -k $db -c listen_addresses= >server.log 2>&1 &
		until $bin/psql -h $db -c 'create table t (n serial, at timestamp)' postgres >/dev/null 2>&1; do sleep 0.1; done
		yes "insert into t(at) values (now()) returning n;" | $bin/psql -qAt -h $db postgres >replies
	END
	chown -R nobody "$db"
	start setpriv --reuid nobody --regid nogroup --clear-groups sh -c "cd $db && exec sh run.sh"
	wait_for 60 longer "$db/replies" 100 || complain "no load: $(tail -n 2 "$db"/*.log)" || return 1
	move && grows "$db/replies" && move && grows "$db/replies" || return 1
	kill_tree "$pid"
	[ "$(segments)" = "$before" ] || complain "segments are left: $(ipcs -m)" || return 1
	check_rows "$db" "$bin"
	rm -rf "$db"
}

# How many System V segments there are of whoever runs the server.
segments() {
	ipcs -m | grep -cw nobody
}

# Every answer came once, in order, and is in the data base, which recovers from the end of all its processes.
check_rows() {
	local db=$1 bin=$2 n rows
	n=$(grep -c . "$db/replies")
	seq "$n" | cmp -s - <(grep . "$db/replies" | head -n "$n") ||
		complain "answers are lost or repeated: $(tail -n 2 "$db/replies")" || return 1
	rm -f "$db/data/postmaster.pid"
	rows=$(echo 'select count(*) from t where n <= '"$n" | setpriv --reuid nobody --regid nogroup \
		--clear-groups sh -c "cd $db && $bin/postgres --single -D data postgres" 2>&1 | grep -o 'count = "[0-9]*"')
	[ "$rows" = "count = \"$n\"" ] || complain "the data base has $rows of $n rows"
}

# Serving: no connection may be open at the instant of the dump, so it is repeated until it hits one.
test_nginx() {
	need nginx python3 || return 2
	local port=$((20000 + $$ % 20000)) client i
	mkdir "$vdir/logs" "$vdir/root" "$vdir/tmp"
	seq 20000 >"$vdir/root/numbers"
	cat >"$vdir/nginx.conf" <<-END
		user root; worker_processes 2; daemon off; pid $vdir/nginx.pid; error_log $vdir/error.log;
		events { worker_connections 64; }
		http { access_log $vdir/access.log; client_body_temp_path $vdir/tmp/a; proxy_temp_path $vdir/tmp/b;
			fastcgi_temp_path $vdir/tmp/c; uwsgi_temp_path $vdir/tmp/d; scgi_temp_path $vdir/tmp/e;
			server { listen 127.0.0.1:$port; root $vdir/root; keepalive_timeout 0; } }
	END
	start nginx -c "$vdir/nginx.conf" -e "$vdir/error.log"
	python3 - "$vdir" $port <<-'END' &
		import sys, time, urllib.request
		want = open(sys.argv[1] + "/root/numbers", "rb").read()
		with open(sys.argv[1] + "/answers", "w", buffering=1) as log:
		    while True:
		        try:
		            with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[2]}/numbers", timeout=20) as answer:
		                log.write("good\n" if answer.read() == want else "damaged\n")
		        except ConnectionRefusedError:
		            pass
		        except OSError as error:
		            if not isinstance(getattr(error, "reason", None), ConnectionRefusedError):
		                log.write(f"{error}\n")
		        time.sleep(0.3)
	END
	client=$!
	disown
	wait_for 20 longer "$vdir/answers" 3 || complain "does not serve: $(tail -n 2 "$vdir/error.log")" || return 1
	for ((i = 0; i < 2; i++)); do
		move_nginx && grows "$vdir/answers" || break
	done
	kill -KILL $client
	[ $i = 2 ] || return 1
	grep -qvx good "$vdir/answers" && complain "a client saw: $(grep -vx good "$vdir/answers" | head -n 2)" && return 1
	kill -QUIT "$pid"
	wait_for 20 test ! -e "/proc/$pid" || complain "the restored master does not end"
}

move_nginx() {
	local attempt
	for attempt in $(seq 30); do
		images=$vdir/images-$((++moves))
		exists || return 1
		if dump "$ENGINE" "$pid" "$images"; then
			wait_gone "$pid" && restore "$ENGINE" "$images" && exists
			return
		fi
		grep -qi tcp <<<"$why" || return 1
	done
	complain "no moment without a connection: $why"
}

test_xz() {
	need xz || return 2
	python3 -c 'import random
r = random.Random(1)
for _ in range(600000): print(r.random())' >"$vdir/data"
	start xz -T2 -6 -k --block-size=1MiB data
	sleep 0.5
	move || return 1
	sleep 0.3
	alive "$pid" && { move || return 1; }
	wait_for 120 test ! -e "/proc/$pid" || complain "does not finish" || return 1
	xz -dc "$vdir/data.xz" | cmp -s - "$vdir/data" || complain "the file is damaged"
}

# Objects of an interrupted build are those of an undisturbed one.
test_gcc_build() {
	need gcc make python3 || return 2
	mkdir "$vdir/reference"
	tests/e2e/gcc-project "$vdir" 24
	cp "$vdir"/*.c "$vdir/Makefile" "$vdir/reference/"
	make -s -C "$vdir/reference" >"$vdir/reference.log" 2>&1 || complain "$(tail -n 1 "$vdir/reference.log")" || return 1
	start make -j2
	wait_for 30 longer "$vdir/built" 2
	move || return 1
	wait_for 60 longer "$vdir/built" 6
	alive "$pid" && { move || return 1; }
	wait_for 120 test ! -e "/proc/$pid" || complain "does not finish" || return 1
	cmp -s "$vdir/reference/library.a" "$vdir/library.a" || complain "the build is not as it should be: $(tail -n 2 "$vdir/out")" || return 1
	[ "$(sort "$vdir/built" | uniq -d)" = "" ] || complain "built twice: $(sort "$vdir/built" | uniq -d)"
}

for name in ${*:-python_threads python_asyncio perl bash_pipeline sqlite redis postgres nginx xz gcc_build}; do
	why='' pid='' moves=0
	vdir=$(mktemp -d "$TEST_TMP/$name-XXXXXX")
	"test_$name"
	case $? in
	0) ok "$name" ;;
	2) skip "$name" "$why" ;;
	*) not_ok "$name" "${why:-failed}" ;;
	esac
	[ -z "$pid" ] || kill_tree "$pid"
	[ -n "${KEEP:-}" ] || rm -rf "$vdir"
done
finish
