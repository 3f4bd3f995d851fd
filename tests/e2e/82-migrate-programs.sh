#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 1200
#
# Real programs of the distribution, at work, migrated there and back over ssh, and checked from
# outside for lost or repeated work. Where what they write is looked at among the hosts' own files before they end,
# these are copied; others run in both ways, also with files that stay at home (58-lazy-files.sh has more of that).
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"
. "$top/tests/hosts/programs.sh"

files=(--files=copy --overwrite-files)

# lazily FUNCTION...: with the files at home. What a program wrote is there when it has ended.
lazily() {
	files=(--files=lazy)
	"$@"
}

there_and_back() {
	local pid=$1 between=$2 after=$3
	must_migrate a "$pid" "${files[@]}" && moved a "$pid" && $between b "$pid" || return 1
	must_migrate b "$pid" "${files[@]}" && moved b "$pid" && $after a "$pid"
}

# ended HOST PID SECONDS: and what it wrote is in its place.
ended() {
	wait_for "$3" gone "$1" "$2" || complain "does not end" || return 1
	wait_for 30 no_lazy_files || complain "left: $(on a pgrep -l ferry-) $(on b pgrep -l ferry-)"
}

no_lazy_files() {
	! on a pgrep -x 'ferry-(lazyfs|files)' >/dev/null && ! on b pgrep -x 'ferry-(lazyfs|files)' >/dev/null
}

python_service() {
	local pid
	fresh
	hosts_put "$dir" a "$top/demo/service.py" /opt/service.py
	hosts_spawn "$dir" a $work/out /opt/service.py $work/log $work/pid
	wait_for 10 [ -s "$(files_of a)$work/pid" ] || complain "does not start" || return 1
	pid=$(cat "$(files_of a)$work/pid")
	sleep 1
	there_and_back "$pid" sleep_there python_ends
}

sleep_there() {
	sleep 1
}

python_ends() {
	on a kill -TERM "$2" && ended a "$2" 10 || return 1
	[ ! -s "$(files_of a)$work/out" ] || complain "complained: $(cat "$(files_of a)$work/out")" || return 1
	"$top/demo/check.py" "$(files_of a)$work/log" || complain "wrong work"
}

# A thousand increments before, between and after; a key that expires; append-only persistence.
redis() {
	local pid
	[ -x /usr/bin/redis-server ] || skip_case "no redis-server"
	fresh
	pid=$(start a redis-server --port 0 --unixsocket $work/socket --appendonly yes --dir $work --save '' --io-threads 2) || return 1
	wait_for 10 on a redis-cli -s $work/socket ping || complain "does not start" || return 1
	count_to a 100 || return 1
	there_and_back "$pid" redis_goes_on redis_ends
}

# A hundred increments, after which the counter must be what $2 says.
count_to() {
	local got
	got=$(on "$1" sh -c 'for i in $(seq 100); do echo incr counter; done | redis-cli -s '$work'/socket' | tail -n 1)
	[ "$got" = "$2" ] || complain "the counter on $1 is '$got', not $2"
}

redis_goes_on() {
	count_to "$1" 200
}

redis_ends() {
	count_to "$1" 300 || return 1
	on "$1" redis-cli -s $work/socket shutdown >/dev/null
	wait_for 10 gone "$1" "$2" || complain "does not shut down" || return 1
	[ "$(grep -ac incr "$(files_of "$1")$work/appendonlydir"/*.incr.aof)" -ge 300 ] || complain "the append-only file misses writes"
}

# A server with System V and POSIX shared memory, of a user that is not root; its clients come and go.
postgres() {
	local bin=/usr/lib/postgresql/15/bin pid
	[ -x $bin/postgres ] || skip_case "no postgresql"
	fresh
	on a chown worker $work
	on a setpriv --reuid worker --regid worker --init-groups $bin/initdb -D $work/data -A trust -N >/dev/null || return 1
	pid=$(start a setpriv --reuid worker --regid worker --init-groups $bin/postgres -D $work/data -k $work -c listen_addresses=) || return 1
	wait_for 20 sql a 'create table t (n serial, host text)' || complain "does not start: $(cat "$(files_of a)$work/out")" || return 1
	rows_to a 50 || return 1
	there_and_back "$pid" postgres_goes_on postgres_ends
}

# In the tree's own files: with lazy files its socket is not among those of the host.
sql() {
	on "$1" sh -c 'exec /usr/lib/postgresql/15/bin/psql -qAt -h /proc/$2/root$1 -U worker -c "$3" postgres' \
		sh $work "$pid" "$2"
}

# Fifty more rows, after which there are $2.
rows_to() {
	local got
	got=$(sql "$1" "insert into t(host) select '$1' from generate_series(1, 50); select count(*), max(n) from t")
	[ "$got" = "$2|$2" ] || complain "rows on $1: '$got', not $2"
}

postgres_goes_on() {
	rows_to "$1" 100
}

postgres_ends() {
	rows_to "$1" 150 || return 1
	on "$1" kill -INT "$2"
	ended "$1" "$2" 20 || return 1
	grep -q 'database system is shut down' "$(files_of "$1")$work/out" || complain "no clean end: $(tail -n 2 "$(files_of "$1")$work/out")" || return 1
	on a ipcs -m | grep -w worker && complain "a segment is left at home"
	[ $? = 1 ]
}

# In the middle of a transaction: the journal and the locks move too.
sqlite() {
	local pid
	[ -x /usr/bin/sqlite3 ] || skip_case "no sqlite3"
	fresh
	on a sh -c 'mkfifo '$work'/in && sqlite3 '$work'/db "create table t (n integer)"'
	pid=$(start a sh -c 'exec 3<>in; exec sqlite3 -bail db <in') || return 1
	echo "begin immediate; insert into t values (1); insert into t values (2);" >"$(files_of a)$work/in"
	wait_for 5 [ -e "$(files_of a)$work/db-journal" ] || complain "no transaction" || return 1
	must_migrate a "$pid" --files=copy --overwrite-files --file-locks && moved a "$pid" || return 1
	printf 'insert into t values (3); commit;\n.quit\n' >"$(files_of b)$work/in"
	wait_for 10 gone b "$pid" || complain "does not end" || return 1
	[ "$(on b sqlite3 $work/db 'select group_concat(n) from t; pragma integrity_check')" = "1,2,3
ok" ] || complain "the data base has $(on b sqlite3 $work/db 'select group_concat(n) from t')"
}

# Job control and a pipeline: every line of the input goes through once.
bash_pipeline() {
	local pid
	fresh
	pid=$(start a bash -c 'set -m; for ((i = 0; i < 200000; i++)); do echo $i; ((i % 500)) || sleep 0.02; done |
		sed s/^/line/ | cat >lines & wait; echo finished >>lines') || return 1
	sleep 1
	there_and_back "$pid" sleep_there bash_ends
}

bash_ends() {
	ended a "$2" 60 || return 1
	(seq -f line%.0f 0 199999 && echo finished) | cmp - "$(files_of a)$work/lines" ||
		complain "the output is wrong"
}

perl_counter() {
	local pid
	fresh
	pid=$(start a perl -e '$| = 1; open(L, ">>", "log"); $h = 1; for ($i = 0; ; $i++) {
		$h = ($h * 1103515245 + 12345) % 2147483648 for 1 .. 1000; syswrite(L, "$i $h\n"); select(undef, undef, undef, 0.001) }') || return 1
	sleep 1
	there_and_back "$pid" sleep_there perl_ends
}

perl_ends() {
	on a kill "$2" && ended a "$2" 10 || return 1
	python3 - "$(files_of a)$work/log" <<-'END' || complain "wrong work"
		import sys
		h = 1
		for number, line in enumerate(open(sys.argv[1])):
		    for _ in range(1000):
		        h = (h * 1103515245 + 12345) % 2147483648
		    if line != f"{number} {h}\n":
		        sys.exit(f"line {number}: {line}")
	END
}

xz_threads() {
	local pid
	fresh
	python3 -c 'import random, sys
r = random.Random(1)
for _ in range(400000): print(r.random())' >"$(files_of a)$work/data"
	pid=$(start a xz -T2 -6 -k --block-size=1MiB data) || return 1
	sleep 0.7
	exists a "$pid" || complain "already finished" || return 1
	must_migrate a "$pid" "${files[@]}" && moved a "$pid" && ended b "$pid" 60 || return 1
	xz -dc "$(files_of b)$work/data.xz" | cmp - "$(files_of a)$work/data" || complain "the file is damaged"
}

asyncio_program() {
	local pid
	fresh
	cat >"$(files_of a)$work/loop.py" <<-'END'
		import asyncio, os
		log = open("log", "a", buffering=1)
		async def child():
		    reader = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
		    number = 0
		    while True:
		        reader.stdin.write(f"{number}\n".encode())
		        await reader.stdin.drain()
		        assert int(await reader.stdout.readline()) == number
		        log.write(f"{number}\n")
		        number += 1
		        await asyncio.sleep(0.002)
		async def ticker():
		    while True:
		        await asyncio.sleep(0.01)
		async def main():
		    await asyncio.gather(child(), *(ticker() for _ in range(100)))
		asyncio.run(main())
	END
	pid=$(start a python3 loop.py) || return 1
	sleep 1
	there_and_back "$pid" sleep_there asyncio_ends
}

asyncio_ends() {
	on a kill "$2" && ended a "$2" 10 || return 1
	local log
	log=$(files_of a)$work/log
	[ ! -s "$(files_of a)$work/out" ] || complain "complained: $(tail -n 1 "$(files_of a)$work/out")" || return 1
	seq 0 $(($(wc -l <"$log") - 1)) | cmp - "$log" || complain "holes or repeats"
}

# Workers of another user, who serve; each host has a client that asks all the time. Each answer is whole;
# where the server is not, a connection is refused, or reset: its listening socket took it while it was
# frozen (ferry-kinds(7)). At the instant of the freeze no connection may be open: it is tried until it hits one.
nginx_serves() {
	local pid host client clients=()
	[ -x /usr/sbin/nginx ] || skip_case "no nginx"
	fresh
	for host in a b; do
		mkdir -p "$(files_of $host)$work/"{root,tmp,logs}
		seq 20000 >"$(files_of $host)$work/root/numbers"
	done
	cat >"$(files_of a)$work/nginx.conf" <<-END
		user worker; worker_processes 2; daemon off; pid $work/nginx.pid; error_log $work/logs/error;
		events { worker_connections 64; }
		http { access_log $work/logs/access; client_body_temp_path $work/tmp/a; proxy_temp_path $work/tmp/b;
			fastcgi_temp_path $work/tmp/c; uwsgi_temp_path $work/tmp/d; scgi_temp_path $work/tmp/e;
			server { listen 8080; root $work/root; keepalive_timeout 0; } }
	END
	cat >"$TEST_TMP/client.py" <<-'END'
		import sys, time, urllib.request
		want = open("/srv/work/program/root/numbers", "rb").read()
		with open("/srv/work/program/answers", "w", buffering=1) as log:
		    while True:
		        try:
		            with urllib.request.urlopen("http://127.0.0.1:8080/numbers", timeout=20) as answer:
		                log.write("good\n" if answer.read() == want else "damaged\n")
		        except OSError as error:
		            if not isinstance(getattr(error, "reason", error), (ConnectionRefusedError, ConnectionResetError)):
		                log.write(f"{error}\n")
		        time.sleep(0.3)
	END
	for host in a b; do
		hosts_put "$dir" $host "$TEST_TMP/client.py" $work/client.py
		hosts_spawn "$dir" $host $work/client.out python3 $work/client.py
	done
	pid=$(start a nginx -c $work/nginx.conf -e $work/logs/error) || return 1
	for host in b a; do
		wait_for 20 answers "$(other $host)" || complain "does not serve on $(other $host)" || return 1
		migrate_between_connections "$(other $host)" "$pid" && moved "$(other $host)" "$pid" || return 1
		rm -f "$(files_of a)$work/answers.seen" "$(files_of b)$work/answers.seen"
	done
	wait_for 20 answers a || complain "does not serve after its return" || return 1
	on a kill -QUIT "$pid"
	wait_for 20 gone a "$pid" || complain "the master does not end" || return 1
	! grep -vx good "$(files_of a)$work/answers" "$(files_of b)$work/answers" || complain "a client was disappointed"
}

# Three more answers on a host than when it was last asked.
answers() {
	local now seen
	now=$(wc -l <"$(files_of "$1")$work/answers")
	seen=$(cat "$(files_of "$1")$work/answers.seen" 2>/dev/null || echo "$now" | tee "$(files_of "$1")$work/answers.seen")
	[ "$now" -ge $((seen + 3)) ]
}

migrate_between_connections() {
	local attempt
	for attempt in $(seq 30); do
		migrate "$1" "$2" --files=copy --overwrite-files && return
		grep -qi tcp "$TEST_TMP/migrate.err" || complain "migrate from $1 failed: $(tail -n 1 "$TEST_TMP/migrate.err")" || return 1
	done
	complain "no moment without a connection in $attempt tries: $(tail -n 1 "$TEST_TMP/migrate.err")"
}

# Compilers come and go all the time, and open files by name: the folder is shared, which is said, because
# its file system is not one of those that ferry knows to be shared. What is built is what an undisturbed
# build makes, and nothing twice.
gcc_build() {
	local here status=0
	here=$(files_of a)$work
	fresh
	"$top/tests/e2e/gcc-project" "$here" 16
	mkdir "$TEST_TMP/reference"
	cp "$here"/*.c "$here/Makefile" "$TEST_TMP/reference/"
	make -s -C "$TEST_TMP/reference" >"$TEST_TMP/reference/log" 2>&1 || complain "$(tail -n 1 "$TEST_TMP/reference/log")" || return 1
	"$top/tests/hosts/share.py" "$(hosts_pid "$dir" a)" "$(hosts_pid "$dir" b)" $work || complain "cannot share a folder" || return 1
	gcc_build_moves || status=1
	on b umount -l $work
	return $status
}

gcc_build_moves() {
	local pid
	# the compiler leaves a file for the assembler, which at times nobody has open: it must be shared, too
	pid=$(start a env TMPDIR=$work make -j2) || return 1
	wait_for 60 built 2 || complain "builds nothing: $(tail -n 2 "$here/out")" || return 1
	must_migrate a "$pid" --files=shared && moved a "$pid" || return 1
	wait_for 60 built 6 || complain "builds nothing on b: $(tail -n 2 "$here/out")" || return 1
	must_migrate b "$pid" --files=shared && moved b "$pid" || return 1
	wait_for 120 gone a "$pid" || complain "does not finish" || return 1
	cmp "$TEST_TMP/reference/library.a" "$here/library.a" || complain "the build is not as it should be: $(tail -n 2 "$here/out")" || return 1
	[ "$(sort "$here/built" | uniq -d)" = "" ] || complain "built twice: $(sort "$here/built" | uniq -d)"
}

built() {
	[ -e "$here/built" ] && [ "$(wc -l <"$here/built")" -ge "$1" ]
}

begin
test_case "python service: threads, children, pipes, open log" python_service
test_case "python asyncio with a child" asyncio_program
test_case "redis-server on a unix socket" redis
test_case "postgresql with lazy files: System V memory, clients come and go" lazily postgres
test_case "sqlite3 inside a transaction" sqlite
test_case "bash pipeline with job control" bash_pipeline
test_case "perl" perl_counter
test_case "xz -T2 in the middle of a file" xz_threads
test_case "nginx with workers, serving" nginx_serves
test_case "python service, lazy files" lazily python_service
test_case "python asyncio with a child, lazy files" lazily asyncio_program
test_case "bash pipeline with job control, lazy files" lazily bash_pipeline
test_case "perl, lazy files" lazily perl_counter
test_case "xz -T2 in the middle of a file, lazy files" lazily xz_threads
test_case "gcc -j build" gcc_build
