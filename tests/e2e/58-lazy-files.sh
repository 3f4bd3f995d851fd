#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 800
#
# ferry migrate --files=lazy to a host that has none of the programs' files: what they open later
# comes from home, what they write is theirs to keep, and a failure on either side is one of the
# stated ones. FERRY_FULL=1 takes a larger data base.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"
. "$(dirname "$0")/lazy-files-lib.sh"
. "$(dirname "$0")/modes-lib.sh"

# ---- the programs ----

# A module, a package and a configuration that were never read before; a helper that is a program of
# its own; a file that is renamed and one that is opened anew.
python_program() {
	local pid received total
	fresh
	mkdir -p "$(a_work)/plugins"
	echo 'def answer(): return "later"' >"$(a_work)/plugins/late.py"
	echo 'color = red' >"$(a_work)/config"
	printf '#!/usr/bin/python3\nimport sys\nprint("helped", sys.argv[1])\n' >"$(a_work)/helper"
	chmod 755 "$(a_work)/helper"
	head -c 50000000 /dev/urandom >"$(a_work)/data"
	cat >"$(a_work)/program.py" <<-'END'
		import os, sys, time
		data = open("data", "rb")
		log = open("log", "a", buffering=1)
		log.write("before\n")
		while not os.path.exists("go"):
		    time.sleep(0.02)
		sys.path.insert(0, "/srv/app/plugins")
		import late, json, xml.dom.minidom, subprocess
		log.write(json.dumps([late.answer()]) + "\n")
		log.write(open("/srv/app/config").read())
		log.write(subprocess.run(["/srv/app/helper", "me"], stdout=subprocess.PIPE).stdout.decode())
		data.seek(30000000)
		log.write(data.read(16).hex() + "\n")
		os.rename("log", "log.1")
		log = open("log", "w", buffering=1)
		log.write("reopened\n")
		os.remove("config")
		open("/tmp/scratch", "w").write("scratch\n")
		open("done", "w").close()
		while not os.path.exists("end"):
		    time.sleep(0.02)
	END
	on b test -e /usr/bin/python3 && complain "b has a python" && return 1
	pid=$(start python3 program.py) || return 1
	wait_for 10 grep -q before "$(a_work)/log" || complain "does not run" || return 1
	must_migrate a "$pid" --files=lazy --no-background && moved a "$pid" || return 1
	echo changed >>"$(seen "$pid" $work/config)"
	go "$pid" go || return 1
	wait_for 30 [ -e "$(seen "$pid" $work/done)" ] || complain "does not go on: $(tail -n 1 "$(seen "$pid" $work/out)" "$(b_work)/out")" || return 1
	received=$(field "$pid" received_bytes)
	total=$(on a du -scb /usr/lib/python3.11 $work | tail -n 1 | cut -f 1)
	echo "$received bytes of $total came"
	[ "$received" -lt $((total / 4)) ] || complain "$received of $total bytes came" || return 1
	go "$pid" end
	wait_for 10 gone b "$pid" || complain "does not end" || return 1
	all_gone || return 1
	python_results
}

# What it has written is at its own paths; what it only read did not come along.
python_results() {
	printf 'before\n["later"]\ncolor = red\nchanged\nhelped me\n%s\n' \
		"$(tail -c +30000001 "$(a_work)/data" | head -c 16 | od -An -v -tx1 | tr -d ' \n')" |
		cmp - "$(b_work)/log.1" || complain "wrong log: $(cat "$(b_work)/log.1")" || return 1
	[ "$(cat "$(b_work)/log")" = reopened ] || complain "the new log is not there" || return 1
	[ "$(cat "$(files_of b)/tmp/scratch")" = scratch ] || complain "/tmp/scratch is not there" || return 1
	[ ! -e "$(b_work)/data" ] || complain "what was only read is there, too" || return 1
	[ "$(cat "$(a_work)/log")" = before ] || complain "the log at home was changed" || return 1
	listed placed $work/log.1 && listed placed $work/log && listed placed /tmp/scratch
}

# A second one of the same program takes from b what came with the first; not where the user does not want that.
one_of_many() { # OPTION...
	local pid
	rm -rf "$(a_work)" "$(b_work)"
	mkdir -p "$(a_work)"
	pid=$(start python3 -c '
import os, time
while not os.path.exists("go"):
    time.sleep(0.02)
import json, xml.dom.minidom, decimal
open("done", "w").close()
while not os.path.exists("end"):
    time.sleep(0.02)') || return 1
	must_migrate a "$pid" --files=lazy "$@" && moved a "$pid" || return 1
	go "$pid" go
	wait_for 30 [ -e "$(seen "$pid" $work/done)" ] || complain "does not go on" || return 1
	wait_for 30 field_is "$pid" named_complete True || complain "its files do not come" || return 1
	received=$(field "$pid" received_bytes)
	kept=$(field "$pid" pool_bytes)
	go "$pid" end
	wait_for 10 gone b "$pid" || complain "does not end" || return 1
	all_gone
}

next_migration() {
	local received kept first
	fresh
	one_of_many && first=$received || return 1
	[ "$kept" = 0 ] || complain "$kept bytes were here before the first" || return 1
	one_of_many || return 1
	echo "$first bytes came with the first, $received with the second and $kept from what was kept"
	[ "$kept" -gt 5000000 ] && [ "$received" -lt $((first / 2)) ] || complain "$received bytes came after $first, $kept were kept" || return 1
	one_of_many --cache-size=0 || return 1
	[ "$kept" = 0 ] || complain "--cache-size=0 takes $kept bytes"
}

# In the middle of a transaction: the data base, its journal and its locks; a name that is taken on b.
sqlite() {
	local pid mib=64 received
	[ -z "${FERRY_FULL:-}" ] || mib=1024
	[ -x /usr/bin/sqlite3 ] || skip_case "no sqlite3"
	fresh
	# sqlite resolves links, also those of /proc: it works on files of the machine's
	rm -f "$TEST_TMP/db"
	python3 - "$TEST_TMP/db" $mib <<-'END'
		import os, sqlite3, sys
		db = sqlite3.connect(sys.argv[1])
		db.execute("create table big (n integer primary key, b blob)")
		db.execute("create table t (n integer)")
		block = os.urandom(1 << 20)
		for i in range(int(sys.argv[2])):
		    db.execute("insert into big values (?, ?)", (i, block))
		db.commit()
	END
	mv "$TEST_TMP/db" "$(a_work)/db"
	on a mkfifo $work/in
	pid=$(start sh -c 'exec 3<>in; exec sqlite3 -bail db <in') || return 1
	echo "begin immediate; insert into t values (1); update big set b = zeroblob(1000) where n = 3;" >"$(a_work)/in"
	wait_for 5 [ -e "$(a_work)/db-journal" ] || complain "no transaction" || return 1
	sleep 0.2
	must_migrate a "$pid" --files=lazy --no-background --file-locks && moved a "$pid" || return 1
	printf 'insert into t values (2);\ncommit;\nselect count(*) from t;\nselect length(b) from big where n = %d;\n' $((mib - 1)) >"$(seen "$pid" $work/in)"
	wait_for 20 grep -q '^1048576$' "$(seen "$pid" $work/out)" || complain "no answer: $(cat "$(seen "$pid" $work/out)")" || return 1
	received=$(field "$pid" received_bytes)
	echo "$received bytes came"
	[ "$received" -lt $((mib * 1048576 / 4)) ] || complain "$received bytes of $mib MiB came" || return 1
	mkdir -p "$(b_work)" && echo mine >"$(b_work)/out"
	printf '.quit\n' >"$(seen "$pid" $work/in)"
	wait_for 10 gone b "$pid" || complain "does not end" || return 1
	# the data base is the program's work: what is missing of it comes now
	all_gone $((20 + mib / 4)) || return 1
	cp "$(b_work)/db" "$TEST_TMP/db"
	[ "$(sqlite3 "$TEST_TMP/db" 'select group_concat(n) from t; select count(*), sum(length(b)) from big; pragma integrity_check')" = "1,2
$mib|$(((mib - 1) * 1048576 + 1000))
ok" ] || complain "the data base on b is wrong" || return 1
	[ ! -e "$(b_work)/db-journal" ] || complain "the journal stays" || return 1
	[ "$(cat "$(b_work)/out")" = mine ] || complain "a file of b was overwritten" || return 1
	listed placed $work/db && listed kept $work/out
}

# fetch HOST PATH: from the server there, with the machine's python, as b has none.
fetch() {
	nsenter -t "$(hosts_pid "$dir" "$1")" -n python3 -c '
import sys, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
sys.stdout.buffer.write(direct.open(sys.argv[1], timeout=10).read())' "http://127.0.0.1:8080$2"
}

fetches() { # HOST PATH TEXT
	[ "$(fetch "$1" "$2" 2>/dev/null)" = "$3" ]
}

# A master and its worker: a log that is renamed and opened anew on a signal; files that are served for the first time.
nginx_server() {
	local pid received total log=$work/logs/access.log
	[ -x /usr/sbin/nginx ] || skip_case "no nginx"
	fresh
	on a mkdir -p $work/logs $work/html $work/tmp
	chmod 777 "$(a_work)/html"
	echo first >"$(a_work)/html/first.html"
	head -c 3000000 /dev/urandom >"$(a_work)/html/large.bin"
	head -c 30000000 /dev/urandom >"$(a_work)/html/never.bin"
	cat >"$(a_work)/nginx.conf" <<-END
		worker_processes 1;
		daemon off;
		pid $work/logs/nginx.pid;
		error_log $work/logs/error.log;
		events { worker_connections 16; }
		http {
			access_log $log;
			client_body_temp_path $work/tmp; proxy_temp_path $work/tmp; fastcgi_temp_path $work/tmp;
			uwsgi_temp_path $work/tmp; scgi_temp_path $work/tmp;
			server { listen 127.0.0.1:8080; root $work/html; }
		}
	END
	pid=$(start nginx -e $work/logs/error.log -c $work/nginx.conf) || return 1
	wait_for 10 fetches a /first.html first || complain "does not serve" || return 1
	must_migrate a "$pid" --files=lazy --no-background && moved a "$pid" || return 1
	fetches b /first.html first || complain "does not serve on b" || return 1
	fetch b /large.bin | cmp - "$(a_work)/html/large.bin" || complain "a new file is wrong" || return 1
	echo made >"$(seen "$pid" $work/html/made.html)"
	fetches b /made.html made || complain "a file that was made on b is not served" || return 1
	mv "$(seen "$pid" $log)" "$(seen "$pid" $log.1)" && on b kill -USR1 "$pid"
	wait_for 10 [ -e "$(seen "$pid" $log)" ] || complain "the log is not opened anew" || return 1
	fetches b /first.html?again first || complain "does not serve after the signal" || return 1
	wait_for 10 grep -q again "$(seen "$pid" $log)" || complain "the new log is not written" || return 1
	received=$(field "$pid" received_bytes)
	total=$(on a du -scb /usr/sbin/nginx $work | tail -n 1 | cut -f 1)
	echo "$received bytes of $total came"
	[ "$received" -lt $((total / 4)) ] || complain "$received of $total bytes came" || return 1
	on b kill -QUIT "$pid"
	wait_for 10 gone b "$pid" || complain "does not end" || return 1
	all_gone || return 1
	grep -q again "$(b_work)/logs/access.log" && grep -q made.html "$(b_work)/logs/access.log.1" ||
		complain "the logs are not on b" || return 1
	listed placed $work/html/made.html
}

# redis PID COMMAND...: by its socket, which lies among the files of the tree.
redis_there() {
	local pid=$1
	shift
	on b redis-cli -s "/proc/$pid/root$work/socket" "$@"
}

count_there() { # PID EXPECTED: a hundred increments
	local got
	got=$(on b sh -c 'for i in $(seq 100); do echo incr counter; done | redis-cli -s "$1"' sh "/proc/$1/root$work/socket" | tail -n 1)
	[ "$got" = "$2" ] || complain "the counter is '$got', not $2"
}

rewritten() { # PID
	redis_there "$1" info persistence | grep -q 'aof_rewrites:1'
}

# Its log goes on, and is written anew by a child that it forks; what it leaves is a data base that another redis loads.
redis_server() {
	local pid received total
	[ -x /usr/bin/redis-server ] || skip_case "no redis-server"
	fresh
	head -c 30000000 /dev/urandom >"$(a_work)/unused.rdb"
	pid=$(start redis-server --port 0 --unixsocket $work/socket --appendonly yes --dir $work --save '' --io-threads 2) || return 1
	wait_for 10 on a redis-cli -s $work/socket ping || complain "does not start" || return 1
	on a redis-cli -s $work/socket set counter 100 || return 1
	must_migrate a "$pid" --files=lazy --no-background && moved a "$pid" || return 1
	count_there "$pid" 200 || return 1
	redis_there "$pid" bgrewriteaof && wait_for 20 rewritten "$pid" || complain "the log is not written anew" || return 1
	count_there "$pid" 300 || return 1
	received=$(field "$pid" received_bytes)
	total=$(on a du -scbL /usr/bin/redis-server $work | tail -n 1 | cut -f 1)
	echo "$received bytes of $total came"
	[ "$received" -lt $((total / 4)) ] || complain "$received of $total bytes came" || return 1
	redis_there "$pid" shutdown
	wait_for 20 gone b "$pid" || complain "does not shut down" || return 1
	all_gone || return 1
	rm -rf "$(a_work)"
	mkdir "$(a_work)" && cp -r "$(b_work)/appendonlydir" "$(a_work)/" || complain "its log is not on b" || return 1
	start redis-server --port 0 --unixsocket $work/socket --appendonly yes --dir $work --save '' || return 1
	wait_for 10 answers_300 || complain "another redis finds $(on a redis-cli -s $work/socket get counter)"
}

answers_300() {
	[ "$(on a redis-cli -s $work/socket get counter)" = 300 ]
}

built_there() { # PID UNITS
	local built
	built=$(seen "$1" $work/built)
	[ -e "$built" ] && [ "$(wc -l <"$built")" -ge "$2" ]
}

# make, its compilers, and what these leave for each other in /tmp; b has no compiler and no headers.
gcc_build() {
	local pid received total
	[ -x /usr/bin/gcc ] && [ -x /usr/bin/make ] || skip_case "no gcc, or no make"
	on b test -e /usr/include/stdio.h && complain "b has headers" && return 1
	fresh
	"$top/tests/e2e/gcc-project" "$(a_work)" 10
	rm -rf "$TEST_TMP/reference" && mkdir "$TEST_TMP/reference"
	cp "$(a_work)"/*.c "$(a_work)/Makefile" "$TEST_TMP/reference/"
	make -s -C "$TEST_TMP/reference" >"$TEST_TMP/reference/log" 2>&1 || complain "$(tail -n 1 "$TEST_TMP/reference/log")" || return 1
	pid=$(start make -j2) || return 1
	wait_for 60 [ -e "$(a_work)/built" ] || complain "builds nothing: $(tail -n 2 "$(a_work)/out")" || return 1
	must_migrate a "$pid" --files=lazy --no-background && moved a "$pid" || return 1
	wait_for 120 built_there "$pid" 7 || complain "builds nothing on b: $(tail -n 2 "$(seen "$pid" $work/out)" "$(b_work)/out")" || return 1
	received=$(field "$pid" received_bytes)
	total=$(on a du -scb /usr/lib/gcc /usr/include $work | tail -n 1 | cut -f 1)
	echo "$received bytes of $total came"
	# most of the compiler proper (30 MB) is used; how much else there is depends on the packages
	[ "$received" -lt $((total / 2)) ] || complain "$received of $total bytes came" || return 1
	wait_for 120 gone b "$pid" || complain "does not finish" || return 1
	all_gone || return 1
	cmp "$TEST_TMP/reference/library.a" "$(b_work)/library.a" || complain "the build is not as it should be: $(tail -n 2 "$(b_work)/out")" || return 1
	[ "$(sort "$(b_work)/built" | uniq -d)" = "" ] || complain "built twice: $(sort "$(b_work)/built" | uniq -d)"
}

# ---- other ways ----

# The reader is dumped, and b gets its images; sets pid.
dumped_and_carried() {
	pid=$(start_reader) || return 1
	on a mkdir -p $images && on a timeout 60 ferry dump -t "$pid" -D $images || complain "cannot dump" || return 1
	mkdir -p "$(files_of b)$images" && cp "$(files_of a)$images"/* "$(files_of b)$images"
}

# dump, the images are copied, restore: by ssh back to where the files are.
restore_command() {
	local pid images=/var/tmp/images
	fresh
	dumped_and_carried || return 1
	on b timeout 60 ferry restore -d -D $images --lazy-files nowhere.invalid 2>"$TEST_TMP/restore.err" &&
		complain "restored from nowhere" && return 1
	grep -q . "$TEST_TMP/restore.err" || complain "no reason is given" || return 1
	on b timeout 60 ferry restore -d -D $images --lazy-files ferry-a --pids=auto || complain "cannot restore" || return 1
	rm -rf "$(files_of b)$images" "$(files_of a)$images"
	go "$pid" one && go "$pid" two
	wait_for 20 gone b "$pid" || complain "does not end" || return 1
	all_gone || return 1
	[ "$(cat "$(b_work)/log")" = "before
one: 300000 bytes
two: 300000 bytes" ] || complain "wrong log: $(cat "$(b_work)/log")"
}

# The same, and the source is let go by itself: then it is needed for nothing any more.
restore_and_let_go() {
	local pid images=/var/tmp/images
	fresh
	dumped_and_carried || return 1
	restore_refused "$work/none such" --lazy-files ferry-a --detach-files --with $work/none &&
		restore_refused "--lazy-files" --detach-files &&
		restore_refused "--detach-files" --lazy-files ferry-a --with $work/late &&
		restore_refused "--no-background" --lazy-files ferry-a --detach-files --no-background || return 1
	wait_for 10 nothing_runs || complain "a refusal leaves something" || return 1
	on b timeout 60 ferry restore -d -D $images --lazy-files ferry-a --pids=auto --detach-files --with $work/late ||
		complain "cannot restore" || return 1
	rm -rf "$(files_of b)$images" "$(files_of a)$images"
	pid=$(inner b "$pid" | grep . || echo "$pid")
	wait_for 60 field_is "$pid" state complete || complain "not complete: $(field "$pid" state)" || return 1
	hosts_link "$dir" down
	reads_without_cable "$pid"
	local status=$?
	hosts_link "$dir" up
	return $status
}

restore_refused() { # WORDS OPTION...
	local words=$1 word
	shift
	on b timeout 60 ferry restore -d -D /var/tmp/images --pids=auto "$@" 2>"$TEST_TMP/restore.err" && complain "restored: $*" && return 1
	for word in $words; do
		grep -qF -- "$word" "$TEST_TMP/restore.err" || complain "message has no '$word': $(cat "$TEST_TMP/restore.err")" || return 1
	done
}

# A program that waits for a file and reads what it is told.
write_reader() {
	cat >"$(a_work)/reader.py" <<-'END'
		import errno, os, time
		log = open("log", "a", buffering=1)
		log.write("before\n")
		for step in ("one", "two"):
		    while not os.path.exists(step):
		        time.sleep(0.02)
		    try:
		        with open("/srv/app/late/" + step + ".data", "rb") as file:
		            log.write(f"{step}: {len(file.read())} bytes\n")
		    except OSError as e:
		        log.write(f"{step}: {errno.errorcode[e.errno]}\n")
	END
	mkdir -p "$(a_work)/late"
	head -c 300000 /dev/urandom >"$(a_work)/late/one.data"
	head -c 300000 /dev/urandom >"$(a_work)/late/two.data"
}

start_reader() {
	write_reader
	local pid
	pid=$(start python3 reader.py) || return 1
	wait_for 10 grep -q before "$(a_work)/log" || complain "does not run" || return 1
	echo "$pid"
}

# The connection breaks: it is made again, and nothing is lost. Then the source is killed: EIO in time,
# the program goes on with what is here, and what it wrote is kept.
source_killed() {
	local pid
	fresh
	pid=$(start_reader) || return 1
	must_migrate a "$pid" --files=lazy --files-timeout=3 && moved a "$pid" || return 1
	wait_for 30 field_is "$pid" named_complete True || complain "the files of the program do not come" || return 1
	on b pkill -KILL -f 'ferry agent --join'
	wait_for 20 field_is "$pid" connects 2 || complain "the connection is not made again" || return 1
	go "$pid" one || return 1
	wait_for 20 grep -q '^one: 300000 bytes$' "$(seen "$pid" $work/log)" ||
		complain "after the connection broke: $(cat "$(seen "$pid" $work/log)")" || return 1
	on a pkill -KILL -x ferry-files
	on b pkill -KILL -f 'ferry agent --join'
	# nobody will start another
	rm "$(files_of a)"/run/ferry/*.given || return 1
	go "$pid" two || return 1
	ended_without_source "$pid"
}

# It has read the first file, and could not get the second.
ended_without_source() { # PID
	wait_for 30 gone b "$1" || complain "hangs without its source" || return 1
	all_gone || return 1
	[ "$(cat "$(b_work)/log")" = "before
one: 300000 bytes
two: EIO" ] || complain "wrong log: $(cat "$(b_work)/log")"
}

recover() { # PID
	on a timeout -k 5 60 ferry migrate --recover "$1" ferry-b >"$TEST_TMP/recover" 2>&1
}

# The process that hands out the files is killed when the migration is long over: another takes its place.
given_again() {
	local pid
	fresh
	pid=$(start_reader) || return 1
	must_migrate a "$pid" --files=lazy --no-background && moved a "$pid" || return 1
	recover "$pid" && complain "--recover, but nothing is to be done" && return 1
	on a pkill -KILL -x ferry-files
	wait_for 10 nothing_at_home
	# it waits for its file meanwhile
	go "$pid" one || return 1
	recover "$pid" || complain "--recover: $(cat "$TEST_TMP/recover")" || return 1
	wait_for 20 grep -q '^one: 300000 bytes$' "$(seen "$pid" $work/log)" ||
		complain "after --recover: $(cat "$(seen "$pid" $work/log)")" || return 1
	recover "$pid" && complain "--recover, but it is done" && return 1
	reads_the_second "$pid"
}

reads_the_second() { # PID
	go "$1" two
	wait_for 30 gone b "$1" || complain "does not end" || return 1
	all_gone || return 1
	grep -q '^two: 300000 bytes$' "$(b_work)/log" || complain "wrong log: $(cat "$(b_work)/log")"
}

# All at home is killed while memory follows: what --recover brings together includes the files.
all_at_home_killed() {
	local pid sender
	fresh
	write_reader
	sed -i '1i memory = bytearray(open("/dev/urandom", "rb").read(24 << 20)); kept = hash(bytes(memory))' \
		"$(a_work)/reader.py"
	echo 'log.write("memory is right\n" if hash(bytes(memory)) == kept else "memory is wrong\n")' >>"$(a_work)/reader.py"
	pid=$(start python3 reader.py) || return 1
	wait_for 20 grep -q before "$(a_work)/log" || complain "does not run" || return 1
	begin_slowly "$pid" 60mbit 30 --mode postcopy --files=lazy --no-background || return 1
	on a pkill -KILL 'ferry|ssh$'
	wait $sender && complain "exit status 0" && return 1
	full_speed
	nothing_at_home || complain "ferry-files lives" || return 1
	go "$pid" one || return 1
	recover "$pid" || complain "--recover: $(cat "$TEST_TMP/recover")" || return 1
	moved a "$pid" || return 1
	wait_for 20 grep -q '^one: 300000 bytes$' "$(seen "$pid" $work/log)" ||
		complain "after --recover: $(cat "$(seen "$pid" $work/log)")" || return 1
	reads_the_second "$pid" || return 1
	grep -q '^memory is right$' "$(b_work)/log" || complain "wrong log: $(cat "$(b_work)/log")"
}

# What the program uses is brought, and what the user names; then the source is told, and is not needed any more.
source_let_go() {
	local pid wrong
	fresh
	pid=$(start_reader) || return 1
	must_migrate a "$pid" --files=lazy --no-background && moved a "$pid" || return 1
	on b setpriv --reuid 2001 --clear-groups timeout 60 ferry lazyfs --detach "/proc/$pid/root" 2>/dev/null &&
		complain "anybody can let the source go" && return 1
	for wrong in $work/none $work/late/ relative / "$work/late/one.data $work/none"; do
		# shellcheck disable=SC2086 # one path or two
		on b timeout 60 ferry lazyfs --detach $(printf -- ' --with %s' $wrong) "/proc/$pid/root" 2>"$TEST_TMP/detach.err" &&
			complain "--detach --with $wrong is not refused" && return 1
		grep -q "^ferry lazyfs: --with ${wrong##* }: " "$TEST_TMP/detach.err" && [ "$(wc -l <"$TEST_TMP/detach.err")" = 1 ] ||
			complain "--with $wrong: $(cat "$TEST_TMP/detach.err")" || return 1
	done
	running a ferry-files || complain "the source went by a word that was refused" || return 1
	on b timeout 60 ferry lazyfs --detach --with $work/late/one.data "/proc/$pid/root" ||
		complain "the source cannot be let go" || return 1
	field_is "$pid" state complete || complain "not complete: $(field "$pid" state)" || return 1
	wait_for 10 nothing_at_home || complain "the process at home stays" || return 1
	mv "$(a_work)/late" "$(a_work)/late.away"
	go "$pid" one && go "$pid" two || return 1
	ended_without_source "$pid"
}

# The same without a word of anybody's after the migration; then the cable is pulled out, and all is read, by paths that
# were never opened before.
source_goes_by_itself() {
	local pid status
	fresh
	pid=$(start_reader) || return 1
	detach_refused "$pid" || return 1
	older_refused "$pid" || return 1
	must_migrate a "$pid" --json --files=lazy --detach-files --with $work/late && moved a "$pid" || return 1
	grep -q '"event":"moved".*"lazy_files_detach":true' "$TEST_TMP/migrate.out" || complain "the summary does not say that it detaches" || return 1
	wait_for 60 nothing_at_home || complain "the process at home stays: $(on b timeout 20 ferry lazyfs --status --json "/proc/$pid/root")" || return 1
	[ -z "$(find "$(files_of a)/run/ferry" -name '*.given')" ] || complain "the record at home stays" || return 1
	hosts_link "$dir" down
	reads_without_cable "$pid"
	status=$?
	hosts_link "$dir" up
	return $status
}

reads_without_cable() { # PID
	field_is "$1" state complete || complain "not complete: $(field "$1" state)" || return 1
	go "$1" one && go "$1" two || return 1
	wait_for 30 gone b "$1" || complain "hangs without its source" || return 1
	all_gone || return 1
	[ "$(cat "$(b_work)/log")" = "before
one: 300000 bytes
two: 300000 bytes" ] || complain "wrong log: $(cat "$(b_work)/log")"
}

# A destination whose ferry does not know what is asked for: said before the freeze.
older_refused() { # PID
	hosts_put "$dir" a "$(dirname "$0")/older-ssh" /opt/older-ssh
	MESSAGE_LINES=4 refused "older --detach-files" a "$1" --transport=ssh --ssh "/opt/older-ssh 24,25" --files=lazy --detach-files &&
		MESSAGE_LINES=4 refused "older --writeback" a "$1" --transport=ssh --ssh "/opt/older-ssh 26" --files=lazy --writeback &&
		at_home a "$1" && nothing_made && wait_for 10 nothing_runs
}

# What could not be done is said before anything is.
detach_refused() { # PID
	ln -s late "$(a_work)/link"
	refused "--files=lazy" a "$1" --files=copy --detach-files &&
		refused "--no-background" a "$1" --no-background --detach-files &&
		refused "--detach-files" a "$1" --with $work/late &&
		refused "$work/none such" a "$1" --detach-files --with $work/none &&
		refused "$work/link/one.data symbolic" a "$1" --detach-files --with $work/link/one.data &&
		refused "absolute" a "$1" --detach-files --with late &&
		refused "disk" a "$1" --detach-files --with / && at_home a "$1" && nothing_runs
}

nothing_at_home() {
	! running a ferry-files
}

# As bench_report, for a program whose files are its own: is its memory what it wrote?
answers_there() {
	local report gap state
	report=$(seen "$1" /srv/work/bench/report)
	on b kill -USR1 "$1" && wait_for 30 [ -s "$report" ] || complain "program $1 on b does not answer" || return 1
	read -r gap state <"$report"
	[ "$state" = ok ] || complain "program $1 on b: $state after $gap ns"
}

# The agent on b dies before the commit: the program runs on at home, and nothing is left on b. When it
# dies is seen on b: as soon as the process that serves the files is there, which is long before the
# commit, or a task of the tree, which is shortly before; then the migration may win.
agent_killed() {
	local pid when=$1
	fresh
	pid=$(start_bench a anon 64) || return 1
	hosts_spawn "$dir" b /dev/null sh -c '
		seen() {
			if [ "$1" = early ]; then
				pgrep -x ferry-lazyfs >/dev/null
				return
			fi
			for p in $(pgrep -v -x "sshd|ferry.*|sh|pgrep|sleep"); do
				grep -qs fuse.ferry /proc/$p/mounts && return
			done
			return 1
		}
		# the process that serves the files was forked by the agent, and has its command line
		for i in $(seq 3000); do
			seen "$1" && for p in $(pgrep -x ferry); do
				[ "$(tr "\0" " " </proc/$p/cmdline)" = "ferry agent " ] && kill -KILL $p && exit
			done
			sleep 0.01
		done' sh "$when"
	if migrate a "$pid" --files=lazy --mode=stop; then
		[ "$when" = late ] || complain "it moved without an agent" || return 1
		echo "the kill came too late"
		moved a "$pid" && answers_there "$pid" || return 1
		on b kill -KILL "$pid"
		wait_for 10 gone b "$pid" && all_gone
		return
	fi
	one_sentence && at_home a "$pid" && all_gone && bench_report a "$pid" >/dev/null
}

# Refused before anything is stopped, with the remedy; if nobody has asked for lazy files, others are copied instead.
no_fuse() {
	local pid
	fresh
	pid=$(start_reader) || return 1
	mv "$(files_of b)/dev/fuse" "$(files_of b)/dev/fuse.away"
	refused "FUSE modprobe" a "$pid" --files=lazy && at_home a "$pid" && nothing_runs && nothing_made &&
		must_migrate a "$pid"
	local status=$?
	mv "$(files_of b)/dev/fuse.away" "$(files_of b)/dev/fuse"
	[ $status = 0 ] && moved a "$pid" && nothing_runs || return 1
	grep -q "are copied:.*FUSE" "$TEST_TMP/migrate.out" || complain "does not say that files are copied" || return 1
	[ "$(cat "$(b_work)/log")" = before ] || complain "the log was not copied"
	rm -rf "$(files_of b)"/usr/bin/python3.11 "$(files_of b)"/usr/lib/python3.11
}

# The files need a connection of their own: without it they are copied, or if lazy ones are wanted, it is said why not.
no_connection() {
	local pid
	fresh
	printf '#!/bin/sh\ncase "$*" in *--join*) echo no second one >&2; exit 255 ;; esac\nexec ssh "$@"\n' >"$(files_of a)/opt/once"
	chmod 755 "$(files_of a)/opt/once"
	pid=$(start_reader) || return 1
	MESSAGE_LINES=6 refused "lazy files" a "$pid" --files=lazy --ssh /opt/once && at_home a "$pid" && nothing_made || return 1
	must_migrate a "$pid" --ssh /opt/once && moved a "$pid" || return 1
	grep -q "are copied:" "$TEST_TMP/migrate.out" || complain "does not say that files are copied" || return 1
	[ "$(cat "$(b_work)/log")" = before ] || complain "the log was not copied"
	rm -rf "$(files_of b)"/usr/bin/python3.11 "$(files_of b)"/usr/lib/python3.11
	on b kill "$pid"
	all_gone
}

nothing_made() {
	[ ! -e "$(b_work)" ] || complain "something was made on b"
}

# shared: what is the same there is not looked at; what is missing ends it, and the program runs on at home.
shared() {
	local pid mode
	fresh
	pid=$(start_bench a anon 1) || return 1
	for mode in stop postcopy hybrid; do
		refused "/opt/bench-victim" a "$pid" --files=shared --mode=$mode || return 1
	done
	at_home a "$pid" || return 1
	hosts_put "$dir" b "$(files_of a)/opt/bench-victim" /opt/bench-victim
	mkdir -p "$(files_of b)/srv/work/bench"
	cp -a "$(files_of a)/srv/work/bench/." "$(files_of b)/srv/work/bench/"
	must_migrate a "$pid" --files=shared && moved a "$pid" && bench_report b "$pid" >/dev/null
}

begin --lacks /usr/bin/python3 --lacks /usr/bin/python3.11 --lacks /usr/lib/python3.11 --lacks /usr/lib/python3 \
	--lacks /usr/bin/sqlite3 --lacks /usr/lib/x86_64-linux-gnu/libsqlite3.so.0 \
	--lacks /usr/bin/redis-server --lacks /usr/bin/redis-check-rdb --lacks /usr/bin/redis-check-aof \
	--lacks /usr/bin/gcc --lacks /usr/bin/gcc-12 --lacks /usr/bin/x86_64-linux-gnu-gcc --lacks /usr/bin/x86_64-linux-gnu-gcc-12 \
	--lacks /usr/bin/make --lacks /usr/bin/as --lacks /usr/bin/x86_64-linux-gnu-as --lacks /usr/bin/ar \
	--lacks /usr/bin/x86_64-linux-gnu-ar --lacks /usr/lib/gcc --lacks /usr/include \
	--lacks /usr/sbin/nginx --lacks /usr/lib/nginx --lacks /usr/share/nginx
[ -c /dev/fuse ] || {
	echo "no /dev/fuse"
	exit 77
}
test_case "python: modules, a configuration, a helper, logs" python_program
test_case "the next one of the same program" next_migration
test_case "sqlite3 inside a transaction" sqlite
test_case "nginx: new files, a log that is opened anew" nginx_server
test_case "redis: increments, a log that is written anew" redis_server
test_case "gcc -j build" gcc_build
test_case "restore --lazy-files" restore_command
test_case "restore --lazy-files --detach-files" restore_and_let_go
test_case "the source is killed after the commit" source_killed
test_case "who hands out the files is killed, --recover" given_again
test_case "everything at home is killed, --recover" all_at_home_killed
test_case "the source is let go" source_let_go
test_case "the source goes by itself, and the cable is pulled out" source_goes_by_itself
test_case "the destination is killed before the freeze" agent_killed early
test_case "the destination is killed before the commit" agent_killed late
test_case "no FUSE at the destination" no_fuse
test_case "no second connection to the destination" no_connection
test_case "files=shared" shared
