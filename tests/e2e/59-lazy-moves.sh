#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
#
# A tree whose root directory is a lazy one moves again: back home, and away again. Its files are what
# it has seen and made on the way, wherever they lie.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"
. "$(dirname "$0")/lazy-files-lib.sh"

# traveller STEPS: a program that does at each step what only the right files let it do, and notes it.
traveller() {
	local n
	fresh
	mkdir -p "$(a_work)/modules"
	for n in 1 2 3 4; do
		echo "def answer(): return 'module $n'" >"$(a_work)/modules/step$n.py"
	done
	echo first >"$(a_work)/config"
	for n in unused removed renamed theirs; do
		echo $n >"$(a_work)/$n"
	done
	head -c 3000000 /dev/urandom >"$(a_work)/data"
	cat >"$(a_work)/program.py" <<-'END_OF_PROGRAM'
		import hashlib, importlib, mmap, os, sys, time
		sys.path.insert(0, "/srv/app/modules")
		log = open("log", "a", buffering=1)
		data = open("data", "r+b")
		view = mmap.mmap(data.fileno(), 0)
		log.write("begins\n")
		for n in range(1, int(sys.argv[1]) + 1):
		    while not os.path.exists(f"go.{n}"):
		        time.sleep(0.02)
		    log.write(importlib.import_module(f"step{n}").answer() + "\n")
		    log.write("config " + open("config").read())
		    with open("config.new", "w") as f:
		        f.write(f"written at step {n}\n")
		    os.rename("config.new", "config")
		    view[n * 700000:n * 700000 + 6] = b"step %d" % n
		    view.flush()
		    log.write("data " + hashlib.sha256(open("data", "rb").read()).hexdigest() + "\n")
		    os.makedirs(f"made/step{n}")
		    open(f"made/step{n}/file", "w").write(f"made at step {n}\n")
		    log.write("made " + " ".join(sorted(os.listdir("made"))) + "\n")
		    if n == 1:
		        os.remove("unused")
		    if n == 2:
		        os.remove("removed")
		        os.rename("renamed", "moved")
		    log.write("unused " + str(os.path.exists("unused")) + "\n")
		    open("theirs", "a").write(f"step {n}\n")
		    open(f"done.{n}", "w").close()
		while not os.path.exists("end"):
		    time.sleep(0.02)
	END_OF_PROGRAM
	cp "$(a_work)/data" "$TEST_TMP/data"
	python3 - "$TEST_TMP" "$1" <<-'END_OF_PROGRAM'
		import hashlib, sys
		data = bytearray(open(sys.argv[1] + "/data", "rb").read())
		out = open(sys.argv[1] + "/expected", "w")
		out.write("begins\n")
		config = "first"
		for n in range(1, int(sys.argv[2]) + 1):
		    data[n * 700000:n * 700000 + 6] = b"step %d" % n
		    made = " ".join(f"step{i}" for i in range(1, n + 1))
		    out.write(f"module {n}\nconfig {config}\ndata {hashlib.sha256(data).hexdigest()}\n")
		    out.write(f"made {made}\nunused False\n")
		    config = f"written at step {n}"
		open(sys.argv[1] + "/data", "wb").write(data)
	END_OF_PROGRAM
}

# step HOST PID N
step() {
	local at=$1
	go "$2" "go.$3" || return 1
	wait_for 30 [ -e "$(seen "$2" $work/done."$3")" ] ||
		complain "step $3 on $1 does not end: $(tail -n 3 "$(seen "$2" $work/log)" "$(seen "$2" $work/out)" 2>&1)"
}

# Images would not hold its files: said before anything is stopped.
dump_refused() {
	on b timeout 30 ferry dump -t "$1" -D /var/tmp 2>"$TEST_TMP/dump.err" && complain "dumped without its files" && return 1
	grep -q "files of pid $1 are on the host.*ferry migrate" "$TEST_TMP/dump.err" || complain "refused with: $(cat "$TEST_TMP/dump.err")"
}

# At every host the program has worked; at the end it has seen what it would have seen without moving.
there_and_back() {
	local pid
	traveller 4
	pid=$(start python3 program.py 4) || return 1
	wait_for 10 grep -q begins "$(a_work)/log" || complain "does not run" || return 1
	step a "$pid" 1 || return 1
	must_migrate a "$pid" --files=lazy "$@" && moved a "$pid" || return 1
	step b "$pid" 2 || return 1
	dump_refused "$pid" || return 1
	must_migrate b "$pid" --files=lazy "$@" && moved b "$pid" || return 1
	step a "$pid" 3 || return 1
	must_migrate a "$pid" --files=lazy "$@" && moved a "$pid" || return 1
	step b "$pid" 4 || return 1
	cmp "$(seen "$pid" $work/log)" "$TEST_TMP/expected" || complain "it saw other files: $(diff "$(seen "$pid" $work/log)" "$TEST_TMP/expected" | head -n 4)" || return 1
	go "$pid" end
	wait_for 10 gone b "$pid" || complain "does not end" || return 1
	all_gone
}

# What it writes through a mapping until it is stopped: the kernel tells the file system of the host that it leaves only when it is asked.
mapped_until_the_end() {
	local pid
	fresh
	head -c 100000 /dev/zero >"$(a_work)/mapped"
	cat >"$(a_work)/program.py" <<-'END_OF_PROGRAM'
		import mmap, os, time
		view = mmap.mmap(os.open("mapped", os.O_RDWR), 0)
		def wait(name):
		    while not os.path.exists(name):
		        time.sleep(0.02)
		wait("go")
		times = 0
		while os.uname().nodename == "ferry-b":
		    times += 1
		    view[60000:60008] = times.to_bytes(8, "little")
		    for _ in range(100):
		        os.uname()
		with open("mapped", "rb") as f:
		    f.seek(60000)
		    found = f.read(8) + view[60000:60008]
		with open("result", "w") as f:
		    f.write("same" if found == times.to_bytes(8, "little") * 2 else f"{found.hex()} after {times}")
		os.rename("result", "done")
		wait("end")
	END_OF_PROGRAM
	pid=$(start python3 program.py) || return 1
	must_migrate a "$pid" --files=lazy && moved a "$pid" || return 1
	go "$pid" go || return 1
	must_migrate b "$pid" --files=lazy && moved b "$pid" || return 1
	wait_for 30 [ -e "$(at=a seen "$pid" $work/done)" ] || complain "does not go on: $(cat "$(a_work)/out")" || return 1
	[ "$(cat "$(at=a seen "$pid" $work/done)")" = same ] || complain "$(cat "$(at=a seen "$pid" $work/done)")" || return 1
	go_home "$pid" end
	wait_for 10 gone a "$pid" || complain "does not end" || return 1
	all_gone
}

# What it has changed comes home with it: the files there are those that it left, and nobody else's.
ends_at_home() {
	local pid
	traveller 3
	pid=$(start python3 program.py 3) || return 1
	wait_for 10 grep -q begins "$(a_work)/log" || complain "does not run" || return 1
	step a "$pid" 1 || return 1
	must_migrate a "$pid" --files=lazy && moved a "$pid" || return 1
	step b "$pid" 2 || return 1
	must_migrate b "$pid" "$@" && moved b "$pid" || return 1
	[ ! -e "$(b_work)" ] || complain "what went home is on b, too: $(ls "$(b_work)")" || return 1
	step a "$pid" 3 || return 1
	[ "$1" != --files=lazy ] || echo "of another program" >>"$(a_work)/theirs"
	go_home "$pid" end
	wait_for 10 gone a "$pid" || complain "does not end" || return 1
	all_gone || return 1
	cmp "$(a_work)/log" "$TEST_TMP/expected" || complain "it saw other files: $(diff "$(a_work)/log" "$TEST_TMP/expected" | head -n 4)" || return 1
	cmp "$(a_work)/data" "$TEST_TMP/data" || complain "the data at home are not the program's" || return 1
	[ "$(cat "$(a_work)/config")" = "written at step 3" ] || complain "config at home: $(cat "$(a_work)/config")" || return 1
	[ "$(cat "$(a_work)"/made/step[123]/file | cut -d ' ' -f 4 | paste -sd ' ')" = "1 2 3" ] || complain "not all is made at home" || return 1
	[ ! -e "$(b_work)" ] || complain "what went home is on b, too: $(ls "$(b_work)")"
}

go_home() {
	local at=a
	go "$1" "$2"
}

# By lazy files: what it removed goes, too, and what somebody else has changed meanwhile stays.
home_by_lazy() {
	ends_at_home --files=lazy || return 1
	[ ! -e "$(a_work)/removed" ] && [ ! -e "$(a_work)/renamed" ] || complain "what it removed is still there" || return 1
	[ "$(cat "$(a_work)/moved")" = renamed ] || complain "what it renamed is not there" || return 1
	[ "$(tail -n 1 "$(a_work)/theirs")" = "of another program" ] || complain "another program's change is lost" || return 1
	[ "$(tail -n 1 "$(files_of a)"/var/lib/ferry/files/*/srv/app/theirs)" = "step 3" ] || complain "its own version is not kept" || return 1
	[ ! -e "$(files_of b)/var/lib/ferry/files" ] || complain "something was kept on b: $(find "$(files_of b)/var/lib/ferry/files")"
}

begin_without_python
test_case "there, back, and there again" there_and_back
test_case "home again, by lazy files" home_by_lazy
test_case "written through a mapping until it is stopped" mapped_until_the_end
test_case "home again, by copies" ends_at_home --files=copy --overwrite-files
