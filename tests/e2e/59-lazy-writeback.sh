#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 400
#
# ferry migrate --writeback: what a program changes on the other host is at home when fsync or close has returned, as long
# as nobody at home has changed the same file; what cannot go home is kept where the program ends, and nothing is there twice.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"
. "$(dirname "$0")/lazy-files-lib.sh"

# A program that does what it is told: pieces of Python in /dev/shm, which each host has of its own, and where nothing
# goes home from. Result: "ok", or the name of an error.
write_program() {
	mkdir -p "$(a_work)/html"
	head -c 3000000 /dev/urandom >"$(a_work)/data"
	head -c 30000000 /dev/urandom >"$(a_work)/large"
	head -c 100000 /dev/zero >"$(a_work)/quiet"
	echo old >"$(a_work)/config"
	echo ours >"$(a_work)/shared"
	echo gone >"$(a_work)/removed"
	cat >"$(a_work)/program.py" <<-'END'
		import errno, mmap, os, sys, time
		log = open("log", "a", buffering=1)
		data = open("data", "r+b", buffering=0)
		shared = open("shared", "r+b", buffering=0)
		view = mmap.mmap(data.fileno(), 0)
		quiet = mmap.mmap(os.open("quiet", os.O_RDWR), 0)
		def synced(text):
		    log.write(text + "\n")
		    os.fsync(log.fileno())
		synced("begins")
		n = 0
		while True:
		    n += 1
		    told = f"/dev/shm/told.{n}"
		    while not os.path.exists(told):
		        time.sleep(0.01)
		    try:
		        exec(open(told).read())
		        result = "ok"
		    except OSError as e:
		        result = errno.errorcode[e.errno]
		    except Exception as e:
		        result = repr(e)
		    with open(f"/dev/shm/result.{n}.new", "w") as f:
		        f.write(result + "\n")
		    os.rename(f"/dev/shm/result.{n}.new", f"/dev/shm/result.{n}")
	END
}

start_told() {
	local host pid
	fresh
	# what another case that failed has left is not ours
	for host in a b; do rm -rf "$(files_of $host)"/dev/shm/* "$(files_of $host)"/run/ferry/*; done
	echo 0 >"$TEST_TMP/told"
	write_program
	pid=$(start python3 program.py) || return 1
	wait_for 10 grep -q begins "$(a_work)/log" || complain "does not run: $(cat "$(a_work)/out")" || return 1
	echo "$pid"
}

# tell HOST CODE: the program goes on with it. result HOST: what came of it.
tell() {
	local shm n
	shm=$(files_of "$1")/dev/shm
	n=$(($(cat "$TEST_TMP/told") + 1))
	echo $n >"$TEST_TMP/told"
	echo "$2" >"$shm/new" && mv "$shm/new" "$shm/told.$n"
}

result() {
	local file
	file=$(files_of "$1")/dev/shm/result.$(cat "$TEST_TMP/told")
	wait_for "${2:-40}" [ -e "$file" ] || complain "no result of told.$(cat "$TEST_TMP/told") on $1" || return 1
	cat "$file"
}

must() { # HOST CODE
	local got
	tell "$@"
	got=$(result "$1") || return 1
	[ "$got" = ok ] || complain "$got: $2"
}

at_home_is() { # PATH TEXT
	[ "$(cat "$(a_work)/$1")" = "$2" ] || complain "$1 at home: $(tail -n 3 "$(a_work)/$1")"
}

same_at_home() { # PID FILE
	cmp "$(seen "$1" "$work/$2")" "$(a_work)/$2" || complain "$2 differs"
}

ends() { # HOST PID
	tell "$1" 'os._exit(0)'
	wait_for 20 gone "$1" "$2" || complain "does not end" || return 1
	all_gone
}

# All that a program does with files, and a program at home sees it while the other one runs.
goes_home() {
	local pid received total
	pid=$(start_told) || return 1
	must_migrate a "$pid" --files=lazy --writeback --no-background && moved a "$pid" || return 1
	grep -q "goes home at fsync" "$TEST_TMP/migrate.out" || complain "does not say what goes home" || return 1
	field_is "$pid" writeback True || complain "not by the status" || return 1
	must b 'synced("away")' && at_home_is log "begins
away" || return 1
	must b 'os.pwrite(data.fileno(), b"rewritten", 1234567); os.fsync(data.fileno())' && same_at_home "$pid" data || return 1
	[ "$(tail -c +1234568 "$(a_work)/data" | head -c 9)" = rewritten ] || complain "data at home" || return 1
	must b 'f = open("large", "r+b"); f.seek(20000000); f.write(b"middle"); f.close()' || return 1
	[ "$(tail -c +20000001 "$(a_work)/large" | head -c 6)" = middle ] || complain "a file that was closed" || return 1
	must b 'f = open("config.new", "w"); f.write("new\n"); f.close(); os.rename("config.new", "config"); os.remove("removed")' || return 1
	at_home_is config new && [ ! -e "$(a_work)/removed" ] && [ ! -e "$(a_work)/config.new" ] || complain "names at home" || return 1
	must b 'os.makedirs("made/deep"); open("made/deep/file", "w").write("made\n"); os.symlink("file", "made/deep/link")' || return 1
	at_home_is made/deep/link made || return 1
	must b 'view[100:106] = b"mapped"; view.flush()' && [ "$(tail -c +101 "$(a_work)/data" | head -c 6)" = mapped ] ||
		complain "what was written through a mapping" || return 1
	must b 'os.chmod("large", 0o640); os.chown("large", 7, 8); os.utime("large", (11, 22)); os.setxattr("large", "user.a", b"1")' || return 1
	[ "$(stat -c '%a %u %g %X %Y' "$(a_work)/large")" = "640 7 8 11 22" ] || complain "attributes at home: $(stat "$(a_work)/large")" || return 1
	must b 'data.truncate(2000000)' && must b 'os.fsync(data.fileno())' && same_at_home "$pid" data || return 1
	received=$(field "$pid" received_bytes)
	total=$(on a du -scb /usr/lib/python3.11 $work | tail -n 1 | cut -f 1)
	echo "$received bytes of $total came"
	[ "$received" -lt $((total / 4)) ] || complain "$received of $total bytes came" || return 1
	refused "home --writeback" b "$pid" --writeback && at_home b "$pid" || return 1
	on b timeout 20 ferry lazyfs --detach "/proc/$pid/root" 2>"$TEST_TMP/detach.err" && complain "the source can be let go" && return 1
	grep -q -- "--writeback" "$TEST_TMP/detach.err" || complain "--detach says: $(cat "$TEST_TMP/detach.err")" || return 1
	must b 'log.write("last\n")' || return 1
	ends b "$pid" || return 1
	at_home_is log "begins
away
last" || return 1
	nothing_kept
}

nothing_kept() {
	[ ! -e "$(b_work)" ] && [ ! -e "$(files_of b)/var/lib/ferry/files" ] ||
		complain "on b, too: $(find "$(b_work)" "$(files_of b)/var/lib/ferry/files"; cat "$(files_of b)"/var/lib/ferry/files/*.txt)"
}

# A file that somebody at home has changed is never touched: the program is told, and its version is kept where it ends.
changed_at_home() {
	local pid got
	pid=$(start_told) || return 1
	must_migrate a "$pid" --files=lazy --writeback && moved a "$pid" || return 1
	must b 'shared.read(); open("config").read()' || return 1
	echo theirs >>"$(a_work)/shared"
	echo theirs >"$(a_work)/config"
	tell b 'os.pwrite(shared.fileno(), b"mine", 0); os.fsync(shared.fileno())'
	got=$(result b) || return 1
	[ "$got" = EIO ] || complain "fsync of a file that was changed at home: $got" || return 1
	tell b 'os.remove("config")'
	got=$(result b) || return 1
	[ "$got" = EIO ] || complain "removes a file that was changed at home: $got" || return 1
	must b 'synced("goes on")' || return 1
	[ "$(field "$pid" changed_at_source)" -ge 1 ] || complain "not counted" || return 1
	ends b "$pid" || return 1
	at_home_is shared "ours
theirs" && at_home_is config theirs && at_home_is log "begins
goes on" || return 1
	[ "$(head -c 4 "$(b_work)/shared")" = mine ] || complain "its own version is not kept" || return 1
	listed placed $work/shared || return 1
	[ "$(ls "$(b_work)")" = shared ] || complain "also kept: $(ls "$(b_work)")"
}

# What is written while the cable is out waits, or fails in time and goes later; nothing is lost.
cable() {
	local pid got
	pid=$(start_told) || return 1
	must_migrate a "$pid" --files=lazy --writeback --files-timeout=4 && moved a "$pid" || return 1
	must b 'synced("before")' || return 1
	hosts_link "$dir" down
	tell b 'synced("while it is out")'
	got=$(result b)
	[ "$got" = EIO ] || complain "fsync without a cable: $got"
	on b pkill -KILL -f 'ferry agent --join'
	tell b 'os.pwrite(data.fileno(), b"cable", 70000); time.sleep(2); os.fsync(data.fileno())'
	sleep 1
	hosts_link "$dir" up
	# the connection is made again after some time, which may be more than the program waits
	result b || return 1
	wait_for 40 field_is "$pid" connects 2 || complain "the connection is not made again" || return 1
	must b 'os.fsync(data.fileno()); synced("after")' || return 1
	at_home_is log "begins
before
while it is out
after" && same_at_home "$pid" data || return 1
	ends b "$pid" && nothing_kept
}

# The process at home that takes the changes is killed: another one takes them, too.
given_again() {
	local pid
	pid=$(start_told) || return 1
	must_migrate a "$pid" --files=lazy --writeback --files-timeout=0 && moved a "$pid" || return 1
	must b 'synced("before")' || return 1
	on a pkill -KILL -x ferry-files
	wait_for 10 nothing_at_home
	tell b 'synced("without"); os.pwrite(data.fileno(), b"again", 9); data.close()'
	on a timeout -k 5 60 ferry migrate --recover "$pid" ferry-b || complain "--recover fails" || return 1
	[ "$(result b)" = ok ] || return 1
	at_home_is log "begins
before
without" || return 1
	[ "$(tail -c +10 "$(a_work)/data" | head -c 5)" = again ] || complain "data at home" || return 1
	ends b "$pid" && nothing_kept
}

nothing_at_home() {
	! running a ferry-files
}

# Home again: all it changed is there already, also what nobody has synced; so it uses the files of its host.
home_again() {
	local pid
	pid=$(start_told) || return 1
	must_migrate a "$pid" --files=lazy --writeback && moved a "$pid" || return 1
	must b 'synced("away"); open("made", "w").write("made\n"); os.rename("config", "config.old")' || return 1
	# and it is there when the program is
	tell b 'log.write("not synced\n"); os.pwrite(data.fileno(), b"written", 5000); view[900000:900006] = quiet[50000:50006] = b"mapped"
open("/dev/shm/changed", "w").close()
times = 0
while os.uname().nodename == "ferry-b":
    times += 1
    quiet[60000:60008] = times.to_bytes(8, "little")
    for _ in range(100): os.uname()
assert view[900000:900006] == quiet[50000:50006] == b"mapped", "comes later"
assert quiet[60000:60008] == times.to_bytes(8, "little"), "what was written last before the freeze comes later"'
	wait_for 10 [ -e "$(files_of b)/dev/shm/changed" ] || complain "does not change its files" || return 1
	must_migrate b "$pid" "$@" && moved b "$pid" || return 1
	[ "$(result a)" = ok ] || complain "$(result a)" || return 1
	wait_for 20 nothing_runs || complain "it has not the files of its host: $(on a pgrep -l ferry-) $(on b pgrep -l ferry-)" || return 1
	must a 'synced("home"); assert view[900000:900006] == b"mapped" and view[5000:5007] == b"written"' || return 1
	must a 'os.pwrite(data.fileno(), b"athome", 6000)' || return 1
	at_home_is log "begins
away
not synced
home" && at_home_is config.old old && at_home_is made made || return 1
	[ "$(tail -c +900001 "$(a_work)/data" | head -c 6)$(tail -c +5001 "$(a_work)/data" | head -c 7)" = mappedwritten ] ||
		complain "data at home" || return 1
	tell a 'os._exit(0)'
	wait_for 20 gone a "$pid" && nothing_kept
}

# Home again with a file that could not go home: its version comes with it, and takes no other one's place.
home_with_conflict() {
	local pid
	pid=$(start_told) || return 1
	must_migrate a "$pid" --files=lazy --writeback && moved a "$pid" || return 1
	must b 'open("config").read()' || return 1
	echo theirs >"$(a_work)/config"
	tell b 'f = os.open("config", os.O_WRONLY); os.write(f, b"mine\n"); os.close(f)'
	[ "$(result b)" = EIO ] || complain "no conflict" || return 1
	must b 'synced("away")' || return 1
	must_migrate b "$pid" --files=lazy && moved b "$pid" || return 1
	must a 'synced("home " + open("config").read().strip())' || return 1
	ends a "$pid" || return 1
	at_home_is config theirs && at_home_is log "begins
away
home mine" || return 1
	[ "$(cat "$(files_of a)"/var/lib/ferry/files/*/srv/app/config)" = mine ] || complain "its version is not kept" || return 1
	nothing_kept
}

# The same by images: dump, restore --lazy-files --writeback.
restored() {
	local pid images=/var/tmp/images word
	pid=$(start_told) || return 1
	on a mkdir -p $images && on a timeout 60 ferry dump -t "$pid" -D $images || complain "cannot dump" || return 1
	mkdir -p "$(files_of b)$images" && cp "$(files_of a)$images"/* "$(files_of b)$images"
	for word in "" "--lazy-files ferry-a --detach-files"; do
		# shellcheck disable=SC2086 # words
		on b timeout 60 ferry restore -d -D $images --writeback $word 2>"$TEST_TMP/restore.err" && complain "restored with $word" && return 1
		grep -q -- "--writeback" "$TEST_TMP/restore.err" || complain "$word: $(cat "$TEST_TMP/restore.err")" || return 1
	done
	on b timeout 60 ferry restore -d -D $images --lazy-files ferry-a --writeback || complain "cannot restore" || return 1
	rm -rf "$(files_of b)$images" "$(files_of a)$images"
	must b 'synced("away"); os.pwrite(data.fileno(), b"restored", 7000); os.fsync(data.fileno())' || return 1
	must b 'os.chmod("config", 0o600); os.chown("config", 5, 6); os.setxattr("config", "user.a", b"1"); os.rename("config", "config.old")' || return 1
	at_home_is log "begins
away" && at_home_is config.old old || return 1
	[ "$(stat -c '%a %u %g' "$(a_work)/config.old")" = "600 5 6" ] || complain "mode and owner at home" || return 1
	[ "$(tail -c +7001 "$(a_work)/data" | head -c 8)" = restored ] || complain "data at home" || return 1
	ends b "$pid" && nothing_kept
}

# Said before anything is stopped.
said_before() {
	local pid
	pid=$(start_told) || return 1
	refused "--files=lazy" a "$pid" --files=copy --writeback &&
		refused "--detach-files" a "$pid" --writeback --detach-files || return 1
	on a timeout 20 ferry migrate --writeback --recover "$pid" ferry-b 2>"$TEST_TMP/recover" && complain "recovered" && return 1
	grep -q -- "--writeback.*--recover" "$TEST_TMP/recover" || complain "--recover says: $(cat "$TEST_TMP/recover")" || return 1
	mv "$(files_of b)/dev/fuse" "$(files_of b)/dev/fuse.away"
	refused "FUSE modprobe" a "$pid" --writeback
	mv "$(files_of b)/dev/fuse.away" "$(files_of b)/dev/fuse"
	at_home a "$pid" && nothing_runs && must a 'synced("at home")'
}

begin_without_python
test_case "what it changes goes home" goes_home
test_case "a file that was changed at home" changed_at_home
test_case "the cable is pulled out and put in again" cable
test_case "who takes the changes is killed, --recover" given_again
test_case "home again" home_again --files=lazy
test_case "home again, by copies" home_again --files=copy --overwrite-files
test_case "home again with a change that could not go home" home_with_conflict
test_case "restore --lazy-files --writeback" restored
test_case "what cannot be" said_before
