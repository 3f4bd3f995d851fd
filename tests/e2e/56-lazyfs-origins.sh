#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
# The procedure of the original LazyFS: a program that reads, and one that writes, are dumped by real
# CRIU or by ferry; "lazyfs MOUNTPOINT IMGDIR USER@RHOST" at the destination; restored there by either.
#
# The destination is a mount namespace in which the directory of the program's files is empty; the
# source is everything else, and ssh runs the agent there.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lazyfs-lib.sh"
requires nsenter unshare

script=$PWD/../shared/bin/criu-root
CRIU_ROOT=${CRIU_ROOT:-/var/tmp/ferry-criu}
CRIU=
if [ -x "$CRIU_ROOT/usr/sbin/criu.host" ]; then
	CRIU=$CRIU_ROOT/usr/sbin/criu.host
elif [ -x "$script" ]; then
	CRIU=$(timeout 200 "$script" "$CRIU_ROOT" 2>"$TEST_TMP/criu-root.log") || CRIU=
fi

# Line i is a number that follows from i, so each side can tell what the other should have read or written.
cat >"$TEST_TMP/lines.py" <<'END'
def line(i):
    return f"{i} {i * 2654435761 % 4294967296:010d} {'x' * 50}\n"
END
cat >"$TEST_TMP/reader.py" <<'END'
import os, sys, time
os.closerange(3, 1024)
sys.path.insert(0, sys.argv[1])
from lines import line
source, out = open(sys.argv[2] + "/input"), open(sys.argv[1] + "/progress", "w", buffering=1)
for i in range(40000):
    got = source.readline()
    if got != line(i):
        out.write(f"wrong at {i}: {got[:30]!r}\n")
        sys.exit(1)
    if i % 100 == 0:
        out.write(f"{i}\n")
        time.sleep(0.01 if i > 10000 else 0.2 if i >= 200 and not os.path.exists(sys.argv[1] + "/go") else 0)
out.write("done\n")
END
cat >"$TEST_TMP/writer.py" <<'END'
import os, sys, time
os.closerange(3, 1024)
sys.path.insert(0, sys.argv[1])
from lines import line
target, out = open(sys.argv[2] + "/output", "r+"), open(sys.argv[1] + "/progress", "w", buffering=1)
for i in range(8000):
    target.write(line(i))
    if i % 100 == 0:
        target.flush()
        out.write(f"{i}\n")
        time.sleep(0.2 if i >= 200 and not os.path.exists(sys.argv[1] + "/go") else 0)
target.close()
out.write("done\n")
END
"$PYTHON" - "$TEST_TMP" <<'END'
import sys
sys.path.insert(0, sys.argv[1])
from lines import line
open(sys.argv[1] + "/input", "w").writelines(line(i) for i in range(40000))
END

# A mount namespace that stays: its holder's pid in $far.
far_up() {
	unshare -m --propagation private "$PYTHON" -c 'import time; time.sleep(200)' "$TEST_TMP" &
	far=$!
	wait_for 5 other_namespace || return 1
	at_destination mount -t tmpfs none "$work" || return 1
	# the source is where we are
	cat >"$TEST_TMP/far-ssh" <<-END
		#!/bin/sh
		[ "\$1" = root@source ] || exit 255
		shift
		exec nsenter -t $$ -m sh -c "\$*"
	END
	chmod 755 "$TEST_TMP/far-ssh"
}

other_namespace() {
	[ "$(readlink "/proc/$far/ns/mnt")" != "$(readlink /proc/self/ns/mnt)" ]
}

at_destination() {
	nsenter -t "$far" -m "$@"
}

has_line() {
	grep -q "$1" "$TEST_TMP/progress" 2>/dev/null
}

engine_dump() {
	timeout 60 "$1" dump -t "$pid" -D "$images" -o dump.log -v4 >"$images/out" 2>&1 </dev/null ||
		complain "dump: $(reason "$(cat "$images/out")" "$images/dump.log")"
}

engine_restore() {
	at_destination timeout 60 "$1" restore -d -D "$images" -o restore.log -v4 >"$images/out" 2>&1 </dev/null ||
		complain "restore: $(reason "$(cat "$images/out")" "$images/restore.log")"
}

# migrate PROGRAM DUMPER RESTORER
migrate() {
	local program=$1 received
	work=$TEST_TMP/work
	rm -rf "$work" "$images" "$TEST_TMP/go" "$TEST_TMP/progress"
	mkdir -p "$work" "$images" "$mnt"
	cp "$TEST_TMP/input" "$work/input"
	# the writer begins to overwrite what is there
	tr x y <"$TEST_TMP/input" >"$work/output"
	setsid "$PYTHON" "$TEST_TMP/$program.py" "$TEST_TMP" "$work" </dev/null >/dev/null 2>&1 &
	pid=$!
	wait_for 20 has_line '^200$' || complain "the program does not run" || return 1
	engine_dump "$2" || return 1
	wait_gone "$pid" || complain "it is still there after the dump" || return 1
	far_up || complain "no namespace" || return 1
	at_destination timeout 30 "$FERRY" lazyfs --ssh "$TEST_TMP/far-ssh" --log-file "$TEST_TMP/log" -v3 \
		--cache-dir "$TEST_TMP/cache" "$mnt" "$images" root@source >"$TEST_TMP/out" 2>&1 </dev/null ||
		complain "lazyfs: $(cat "$TEST_TMP/out")" || return 1
	at_destination mount --bind "$mnt$work" "$work" || complain "bind" || return 1
	engine_restore "$3" || return 1
	touch "$TEST_TMP/go"
	wait_for 60 has_line '^done\|^wrong' || complain "does not come to its end: $(tail -n 1 "$TEST_TMP/progress")" || return 1
	has_line '^done' || complain "$(tail -n 1 "$TEST_TMP/progress")" || return 1
	wait_for 5 dead "$pid" || true
	if [ "$program" = writer ]; then
		at_destination cat "$work/output" | "$PYTHON" -c "
import sys
sys.path.insert(0, '$TEST_TMP')
from lines import line
old = [line(i).replace('x', 'y') for i in range(8000, 40000)]
sys.exit(sys.stdin.read() != ''.join([line(i) for i in range(8000)] + old))" ||
			complain "what was written is wrong" || return 1
		# the source has what was written before the dump, and nothing of what came later
		[ "$(sed -n '1p' "$work/output" | grep -c x)" = 1 ] && [ "$(sed -n '4000p' "$work/output" | grep -c y)" = 1 ] ||
			complain "the source's file was written to" || return 1
	fi
	received=$(at_destination "$FERRY" lazyfs --status --json "$mnt") || complain "no status" || return 1
	[[ $received == *'"errors": 0'* ]] || complain "$received"
}

dead() {
	! alive "$1"
}

# one NAME PROGRAM DUMPER RESTORER
one() {
	local name=$1
	shift
	why=
	far=
	if migrate "$@"; then
		ok "$name"
	else
		not_ok "$name" "$why $(tail -n 2 "$TEST_TMP/log" 2>/dev/null)"
	fi
	alive "$pid" && kill_tree "$pid"
	if [ -n "$far" ]; then
		at_destination umount "$work" 2>/dev/null
		at_destination fusermount3 -u "$mnt" 2>/dev/null || at_destination umount -l "$mnt" 2>/dev/null
		kill -KILL "$far"
	fi
}

for program in reader writer; do
	one "$program: ferry to ferry" $program "$FERRY" "$FERRY"
	if [ -n "$CRIU" ]; then
		one "$program: criu to ferry" $program "$CRIU" "$FERRY"
		one "$program: criu to criu" $program "$CRIU" "$CRIU"
		one "$program: ferry to criu" $program "$FERRY" "$CRIU"
	else
		skip "$program: criu" "no real CRIU here (../shared/bin/criu-root is absent)"
	fi
done
finish
