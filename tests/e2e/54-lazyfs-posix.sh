#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
# ferry lazyfs as a file system: random operations beside a local tree (fsmodel.py), fio's own
# verification, and many programs at once.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lazyfs-lib.sh"

model_files
"$PYTHON" - "$files" <<'END'
import sys
top = sys.argv[1] + "/"
# for many readers: each block says where it is
with open(top + "numbers", "wb") as f:
    for i in range(16 << 8):
        f.write(i.to_bytes(8, "little") * 512)
END
make_images

# Each seed on a mount of its own, so that it begins with nothing; every other one with the background.
model() {
	local seed option
	for seed in ${SEEDS:-1 2 3 4}; do
		option=--no-background
		[ $((seed % 2)) = 0 ] && option=--timeout=30
		rm -rf "$TEST_TMP/model"
		cp -a --sparse=always "$files" "$TEST_TMP/model"
		lazy_mount $option || return 1
		why=$(timeout -k 5 60 "$PYTHON" tests/e2e/fsmodel.py "$shown" "$TEST_TMP/model" "$seed" \
			"${OPERATIONS:-1500}" 2>&1) || {
			why="seed $seed: $(echo "$why" | head -n 3)"
			return 1
		}
		lazy_umount || complain "seed $seed: cannot unmount" || return 1
	done
	# and the source has not noticed any of it
	rm -rf "$TEST_TMP/model"
}

fio_verifies() {
	lazy_mount || return 1
	why=$(cd "$shown" && timeout -k 5 60 fio --minimal --name=verify --filename="$shown/fio" --size=16M --rw=randrw \
		--bsrange=512-64k --ioengine=psync --numjobs=1 --verify=crc32c --do_verify=1 --verify_fatal=1 \
		--randseed=7 --fallocate=none 2>&1) || return 1
	# mapped, over a file of the source's
	why=$(cd "$shown" && timeout -k 5 60 fio --minimal --name=mapped --filename="$shown/numbers" --size=8M --rw=randwrite \
		--bs=4k --ioengine=mmap --verify=crc32c --do_verify=1 --verify_fatal=1 --randseed=8 2>&1)
}

# 50 programs read and write the same files at the same time, everyone at its own places.
many_programs() {
	lazy_mount || return 1
	cat >"$TEST_TMP/many.py" <<-'END'
		import mmap, os, random, sys
		top, me = sys.argv[1], int(sys.argv[2])
		r = random.Random(me)
		fd = os.open(top + "/numbers", os.O_RDWR)
		log = os.open(top + "/together", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
		mine = {}
		view = mmap.mmap(fd, 16 << 20, mmap.MAP_SHARED, mmap.PROT_READ)
		for i in range(120):
		    # block b belongs to program b % 50; multiples of 64 to nobody
		    b = r.randrange(16 << 8)
		    what = r.random()
		    if what < 0.3 and b % 64:
		        b = b - b % 50 + me
		        if b < 16 << 8 and b % 64:
		            mine[b] = r.randbytes(4096)
		            assert os.pwrite(fd, mine[b], b * 4096) == 4096
		    elif what < 0.6:
		        b -= b % 64
		        want = b.to_bytes(8, "little") * 512
		        got = os.pread(fd, 4096, b * 4096) if what < 0.45 else view[b * 4096:(b + 1) * 4096]
		        assert got == want, f"block {b}"
		    elif what < 0.8 and mine:
		        b = r.choice(sorted(mine))
		        assert os.pread(fd, 4096, b * 4096) == mine[b], f"own block {b}"
		    elif what < 0.9:
		        name = f"{top}/sub/{me}.{i % 5}"
		        with open(name, "w") as f:
		            f.write(name)
		        os.rename(name, name + ".new")
		        assert open(name + ".new").read() == name
		        os.unlink(name + ".new")
		    else:
		        assert os.write(log, b"%7d\n" % me) == 8
		for b, want in mine.items():
		    assert os.pread(fd, 4096, b * 4096) == want, f"own block {b} at the end"
	END
	local i pids=() bad=0
	for i in $(seq 0 49); do
		timeout -k 5 100 "$PYTHON" "$TEST_TMP/many.py" "$shown" "$i" 2>"$TEST_TMP/many.$i" &
		pids+=($!)
	done
	for i in "${!pids[@]}"; do
		wait "${pids[$i]}" || { bad=$((bad + 1)) && why="program $i: $(tail -n 1 "$TEST_TMP/many.$i")"; }
	done
	[ $bad = 0 ] || return 1
	# a line of each append, whole
	[ -z "$(grep -v '^ *[0-9]*$' "$shown/together")" ] && [ "$(($(stat -c %s "$shown/together") % 8))" = 0 ] ||
		complain "appended lines are torn"
}

locks() {
	lazy_mount || return 1
	why=$("$PYTHON" - "$shown/log" 2>&1 <<-'END'
		import fcntl, os, sys
		a, b = open(sys.argv[1], "r+b"), open(sys.argv[1], "r+b")
		fcntl.flock(a, fcntl.LOCK_EX)
		try:
		    fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
		    sys.exit("two have the lock")
		except BlockingIOError:
		    pass
		fcntl.flock(a, fcntl.LOCK_UN)
		fcntl.lockf(a, fcntl.LOCK_EX, 10, 5)
		if os.fork() == 0:
		    try:
		        fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
		        os._exit(1)
		    except OSError:
		        fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)
		        os._exit(0)
		sys.exit(os.wait()[1] and "POSIX locks do not exclude each other")
	END
	)
}

sum=$(cd "$files" && find . -type f -exec sha256sum {} + | sort)
test_case "random operations" model
if command -v fio >/dev/null; then
	test_case "fio verifies" fio_verifies
else
	skip "fio verifies" "fio is not installed"
fi
test_case "50 programs" many_programs
test_case "locks" locks
if [ "$sum" = "$(cd "$files" && find . -type f -exec sha256sum {} + | sort)" ]; then
	ok "the source is as it was"
else
	not_ok "the source is as it was" "its files were changed"
fi
sanitizers_silent
finish
