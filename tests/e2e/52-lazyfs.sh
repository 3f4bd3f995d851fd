#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
# ferry lazyfs: what is shown, what is fetched, what is written, and what happens when the source
# changes, dies or is complete.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lazyfs-lib.sh"

make_files() {
	mkdir -p "$files/dir/sub" "$files/shut"
	head -c 5000123 /dev/urandom >"$files/data"
	head -c 3000000 /dev/urandom >"$files/changes"
	echo text >"$files/dir/sub/text"
	ln -s sub/text "$files/dir/link"
	ln -s /etc/passwd "$files/dir/outside"
	ln "$files/dir/sub/text" "$files/dir/hard"
	cp /bin/true "$files/program"
	mkdir -p "$files/tree/sub/below" "$files/tree/late" "$files/modules"
	ln -s sub/below "$files/tree/link"
	touch "$files/tree/sub/below/file"
	for i in $(seq 20); do head -c 5000 /dev/urandom >"$files/modules/$i"; done
	head -c 4000000 /dev/urandom >"$files/library.so"
	cp "$files/library.so" "$files/library.data"
	truncate -s 10G "$files/big"
	dd if="$files/data" of="$files/big" bs=4096 seek=1310720 count=100 conv=notrunc status=none
	"$PYTHON" -c "import os; os.setxattr('$files/data', 'user.colour', b'blue')"
	chmod 640 "$files/data"
	chown 12:34 "$files/data"
}
make_files
make_images

shows_the_tree() {
	lazy_mount --no-background || return 1
	[ "$(stat -c '%a %u %g %s %Y' "$shown/data")" = "$(stat -c '%a %u %g %s %Y' "$files/data")" ] ||
		complain "attributes differ" || return 1
	[ "$(readlink "$shown/dir/link")" = sub/text ] && [ "$(cat "$shown/dir/link")" = text ] ||
		complain "link" || return 1
	[ "$(stat -c %i "$shown/dir/hard")" = "$(stat -c %i "$shown/dir/sub/text")" ] ||
		complain "hard links are two files" || return 1
	[ "$("$PYTHON" -c "import os; print(os.getxattr('$shown/data', 'user.colour').decode())")" = blue ] ||
		complain "extended attribute" || return 1
	[ "$(ls -A "$mnt/etc" 2>&1)" != "$(ls -A /etc)" ] && [ ! -e "$mnt/etc/passwd" ] ||
		complain "shows what the tree does not have" || return 1
	[ -x "$mnt$(readlink -f "$PYTHON")" ] || complain "the executable is not there" || return 1
	"$shown/program" || complain "cannot execute" || return 1
	[ "$(field received_bytes)" -lt 600000 ] || complain "fetched $(field received_bytes) bytes for nothing"
}

reads() {
	lazy_mount || return 1
	cmp "$files/data" "$shown/data" || complain "data differ" || return 1
	cmp -n 409600 -i 0:5368709120 "$files/data" "$shown/big" || complain "differs beyond 4 GiB" || return 1
	wait_for 20 is_complete || complain "does not become complete" || return 1
	[ "$(du -sk "$TEST_TMP/cache" | cut -f1)" -lt 40000 ] || complain "holes are filled" || return 1
	"$PYTHON" - "$shown/big" <<-'END' || complain "SEEK_DATA and SEEK_HOLE"
		import os, sys
		fd = os.open(sys.argv[1], os.O_RDONLY)
		data = os.lseek(fd, 0, os.SEEK_DATA)
		assert data == 5368709120, data
		assert os.lseek(fd, data, os.SEEK_HOLE) == data + 409600
		assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
	END
}

seeks_before_it_is_here() {
	lazy_mount --no-background || return 1
	"$PYTHON" - "$shown/big" <<-'END' || complain "SEEK_DATA and SEEK_HOLE"
		import os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		assert os.lseek(fd, 0, os.SEEK_DATA) == 5368709120
		os.pwrite(fd, b"x" * 4096, 1 << 20)
		assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
		assert os.lseek(fd, (1 << 20) + 4096, os.SEEK_DATA) == 5368709120
		assert os.lseek(fd, 5368709120, os.SEEK_HOLE) == 5368709120 + 409600
	END
}

# Are the directories below what was listed used without another question? They are kept for a few seconds only.
used_without_question() {
	local before
	lazy_mount --no-background || return 1
	ls "$shown/tree" >/dev/null
	sleep 0.3
	before=$(field demands)
	[ "$(readlink "$shown/tree/link")" = sub/below ] && [ -e "$shown/tree/sub/below/file" ] &&
		[ "$(ls "$shown/tree/late")" = "" ] && [ ! -e "$shown/tree/sub/none" ] || return 2
	[ "$(field demands)" = "$before" ]
}

lists_below() {
	for _ in 1 2 3; do
		used_without_question && return 0
		[ $? = 1 ] || complain "what is below is not what it is at the source" || return 1
		lazy_umount || return 1
	done
	complain "what was listed along is asked for again"
}

listed_again() {
	lazy_mount --no-background || return 1
	ls "$shown/tree" >/dev/null
	sleep 3.5
	touch "$files/tree/late/file"
	ls "$shown/tree/late" >"$TEST_TMP/late"
	rm "$files/tree/late/file"
	[ "$(cat "$TEST_TMP/late")" = file ] || complain "the list of a directory is older than a few seconds"
}

# A source that answers as all did before.
older_source() {
	lazy_mount --no-background --ssh "$PWD/tests/e2e/older-source" || return 1
	[ "$(ls "$shown/tree")" = "$(ls "$files/tree")" ] && [ "$(readlink "$shown/tree/link")" = sub/below ] &&
		[ -e "$shown/tree/sub/below/file" ] && [ ! -e "$shown/tree/sub/none" ] || complain "names" || return 1
	for i in $(seq 20); do cmp "$files/modules/$i" "$shown/modules/$i" || complain "$i differs" || return 1; done
}

here_is() { # BYTES
	[ "$(field here_bytes)" -ge "$1" ]
}

# touch_two FILE: reads a little of its beginning, and then of its end.
touch_two() {
	"$PYTHON" -c "
import os
fd = os.open('$1', os.O_RDONLY)
os.pread(fd, 100, 0)
os.pread(fd, 100, 3900000)"
}

program_whole() {
	lazy_mount --no-background || return 1
	touch_two "$shown/library.data" || return 1
	touch_two "$shown/library.so" || return 1
	wait_for 20 here_is 4000000 || complain "only $(field here_bytes) bytes of a library are here" || return 1
	cmp "$files/library.so" "$shown/library.so" || complain "the library differs" || return 1
	[ "$(field here_bytes)" -lt 6000000 ] || complain "$(field here_bytes) bytes are here: other files come whole, too"
}

small_files() {
	local before
	lazy_mount --no-background || return 1
	ls "$shown/modules" >/dev/null
	before=$(field demands)
	cmp "$files/modules/1" "$shown/modules/1" || return 1
	! here_is 10000 || complain "more than one file is here after the first" || return 1
	cmp "$files/modules/9" "$shown/modules/9" && wait_for 20 here_is 60000 ||
		complain "only $(field here_bytes) bytes are here after the second" || return 1
	for i in $(seq 20); do cmp "$files/modules/$i" "$shown/modules/$i" || complain "$i differs" || return 1; done
	[ "$(field demands)" -le $((before + 8)) ] || complain "$(($(field demands) - before)) questions for 20 files"
}

writes_little() {
	local before sum
	sum=$(sha256sum <"$files/data")
	lazy_mount --no-background || return 1
	stat "$shown/big" >/dev/null
	before=$(field received_bytes)
	"$PYTHON" - "$shown/big" "$shown/data" <<-'END' || complain "write" || return 1
		import os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		os.pwrite(fd, b"y" * 4096, 7 << 30)
		os.pwrite(fd, b"z" * 10, (8 << 30) + 5)
		assert os.pread(fd, 4096, 7 << 30) == b"y" * 4096
		os.fsync(fd)
		fd = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
		os.write(fd, b"end")
		os.close(fd)
		assert os.stat(sys.argv[2]).st_size == 5000126
		assert open(sys.argv[2], "rb").read()[-3:] == b"end"
		os.truncate(sys.argv[2], 10)
		os.rename(sys.argv[2], sys.argv[2] + ".new")
		assert os.stat(sys.argv[2] + ".new").st_size == 10
	END
	[ $(($(field received_bytes) - before)) -lt 6000000 ] ||
		complain "a small write fetched $(($(field received_bytes) - before)) bytes" || return 1
	[ "$(sha256sum <"$files/data")" = "$sum" ] || complain "the source was changed"
}

# The kernel caches what was read: each case reads another part.
change_fails() {
	lazy_mount --no-background || return 1
	head -c 4096 "$shown/changes" >/dev/null
	cp -a "$files/changes" "$TEST_TMP/old"
	printf new | dd of="$files/changes" bs=1 seek=2000000 conv=notrunc status=none
	if dd if="$shown/changes" bs=4096 skip=400 count=200 of=/dev/null 2>"$TEST_TMP/out"; then
		complain "reads a file that was changed"
		return 1
	fi
	grep -q "Input/output error" "$TEST_TMP/out" || complain "$(cat "$TEST_TMP/out")" || return 1
	[ "$(field changed_at_source)" = 1 ] || complain "not counted" || return 1
	cmp -n 4096 "$TEST_TMP/old" "$shown/changes" || complain "what was here is not readable any more"
}

change_refetches() {
	lazy_mount --no-background --on-change refetch || return 1
	cmp -n 4096 "$files/changes" "$shown/changes" || complain "first block" || return 1
	head -c 3500000 /dev/urandom >"$files/changes"
	sleep 1.2 # attributes are believed for a second
	cmp "$files/changes" "$shown/changes" || complain "does not see the new contents" || return 1
	mv "$files/changes" "$files/changes.old"
	head -c 2500000 /dev/urandom >"$files/changes"
	sleep 1.2
	cmp "$files/changes" "$shown/changes" || complain "does not see another file of this name"
}

source_dies() {
	lazy_mount --no-background --timeout 2 || return 1
	cmp -n 100000 "$files/data" "$shown/data" || complain "first part" || return 1
	touch "$TEST_TMP/down"
	kill_agents
	if timeout 20 dd if="$shown/data" bs=4096 skip=1000 count=100 of=/dev/null 2>"$TEST_TMP/out"; then
		complain "reads what nobody can have sent"
		return 1
	fi
	grep -q "Input/output error" "$TEST_TMP/out" || complain "$(cat "$TEST_TMP/out")" || return 1
	[ "$(field state)" = disconnected ] || complain "state $(field state)" || return 1
	cmp -n 100000 "$files/data" "$shown/data" || complain "what was here is not readable" || return 1
	rm "$TEST_TMP/down"
	wait_for 15 cmp "$files/data" "$shown/data" >/dev/null 2>&1 || complain "does not connect again"
}

source_is_waited_for() {
	local reader
	lazy_mount --no-background --timeout 0 || return 1
	stat "$shown/data" >/dev/null
	touch "$TEST_TMP/down"
	kill_agents
	cmp "$files/data" "$shown/data" 2>"$TEST_TMP/out" &
	reader=$!
	cat "$shown/dir/hard" >/dev/null 2>&1 &
	sleep 1
	kill -0 $reader 2>/dev/null || complain "does not wait: $(cat "$TEST_TMP/out")" || return 1
	kill -KILL $!
	wait_for 3 gone $! || complain "a program that waits cannot be killed" || return 1
	rm "$TEST_TMP/down"
	wait $reader || complain "wrong after the wait"
}

gone() {
	! alive "$1"
}

# Strikes while data flow; what has arrived is right, and the rest is asked for again.
source_dies_in_the_middle() {
	local i reader
	for i in 1 2 3; do
		lazy_mount --no-background || return 1
		cmp "$files/data" "$shown/data" 2>"$TEST_TMP/out" &
		reader=$!
		sleep 0.00$i
		kill_agents
		wait $reader || complain "wrong: $(cat "$TEST_TMP/out")" || return 1
		lazy_umount || complain "cannot unmount" || return 1
	done
}

source_may_go() {
	lazy_mount || return 1
	wait_for 20 is_complete || complain "does not become complete" || return 1
	wait_for 5 no_agents || complain "the agent stays" || return 1
	cp -a "$files/dir" "$TEST_TMP/dir.copy"
	mv "$files" "$files.away"
	diff -r "$TEST_TMP/dir.copy" "$shown/dir" && cmp "$files.away/data" "$shown/data"
	local status=$?
	mv "$files.away" "$files"
	[ $status = 0 ] || complain "needs the source although it is complete"
}

daemon_killed() {
	lazy_mount || return 1
	kill -KILL "$(field pid)"
	wait_for 5 not_mounted || complain "the dead mount stays" || return 1
	wait_for 5 no_cache || complain "the cache stays"
}

not_mounted() {
	! mounted
}

materialises() {
	rm -rf "$mnt"
	mkdir "$mnt"
	lazy_mount --no-background --materialise || return 1
	echo more >>"$shown/dir/sub/text"
	rm "$shown/changes"
	lazy_umount || complain "cannot unmount" || return 1
	cmp "$files/data" "$shown/data" || complain "data" || return 1
	[ "$(cat "$shown/dir/hard")" = "$(printf 'text\nmore')" ] || complain "what was written" || return 1
	[ ! -e "$shown/changes" ] || complain "what was removed is there" || return 1
	[ "$(stat -c '%a %u %g %s %Y' "$shown/data")" = "$(stat -c '%a %u %g %s %Y' "$files/data")" ] ||
		complain "attributes" || return 1
	[ "$(stat -c %h "$shown/dir/hard")" = 2 ] || complain "hard links" || return 1
	[ "$(du -sk "$shown/big" | cut -f1)" -lt 4000 ] || complain "holes were filled" || return 1
	rm -rf "$mnt"
	mkdir "$mnt"
}

cache_is_full() {
	mkdir -p "$TEST_TMP/small"
	mount -t tmpfs -o size=1M none "$TEST_TMP/small" || return 0
	cleanup_fn umount -l "$TEST_TMP/small"
	lazy_mount --no-background --cache-dir "$TEST_TMP/small" || return 1
	if cat "$shown/data" >"$TEST_TMP/out" 2>/dev/null; then
		complain "5 MB in a cache of 1 MiB"
		return 1
	fi
	cmp -n "$(stat -c %s "$TEST_TMP/out")" "$files/data" "$TEST_TMP/out" || complain "made up data"
}

# ---- what came with an earlier mount ----

pool=$TEST_TMP/cache/ferry-files.$(id -u)

pooled() { # the files that are kept
	find "$pool" -type f
}

# pooled_mount [OPTION]...: brings everything, ends, and mounts again with nothing but what is kept.
pooled_mount() {
	apart=(--no-local-files --cache-size=64M)
	rm -rf "$pool"
	lazy_mount || return 1
	wait_for 20 is_complete || complain "does not become complete" || return 1
	# two of the files are the same
	[ "$(field pool_bytes)" -le 4000000 ] || complain "takes from an empty pool" || return 1
	lazy_umount || complain "cannot unmount" || return 1
	[ -n "$(pooled)" ] || complain "nothing is kept" || return 1
	lazy_mount --no-background "$@"
}

kept_for_later() {
	chmod 644 "$files/library.so" "$files/library.data"
	pooled_mount || return 1
	[ -z "$(find "$pool" -type f -size "$(stat -c %s "$files/data")c")" ] ||
		complain "a file that not everybody may read is kept" || return 1
	cmp "$files/library.so" "$shown/library.so" && cmp "$files/data" "$shown/data" || return 1
	[ "$(field pool_bytes)" -ge 4000000 ] || complain "$(field pool_bytes) bytes come from the pool" || return 1
	[ "$(field received_bytes)" -lt 5600000 ] || complain "$(field received_bytes) bytes came again"
}

# Other contents at the source from the middle on, and then others in the pool: nobody sees a wrong byte.
kept_is_compared() {
	local f
	pooled_mount || return 1
	lazy_umount || complain "cannot unmount" || return 1
	printf 'another end' | dd of="$files/library.so" bs=1 seek=3900000 conv=notrunc status=none
	for f in $(find "$pool" -type f -size "$(stat -c %s "$files/library.so")c"); do
		printf 'another piece' | dd of="$f" bs=1 seek=1500000 conv=notrunc status=none
	done
	lazy_mount --no-background || return 1
	cmp "$files/library.so" "$shown/library.so" && cmp "$files/library.data" "$shown/library.data" ||
		complain "a wrong byte" || return 1
	[ "$(field pool_bytes)" -gt 0 ] || complain "nothing is taken from the pool"
}

# The file that is written to here is not the one that others are given.
kept_is_not_written_to() {
	local f sum
	apart=(--no-local-files --cache-size=64M)
	rm -rf "$pool"
	lazy_mount || return 1
	wait_for 20 is_complete || complain "does not become complete" || return 1
	f=$(find "$pool" -type f -size 4000000c)
	[ -f "$f" ] || complain "kept: $f" || return 1
	sum=$(sha256sum <"$f")
	printf x | dd of="$shown/library.so" bs=1 seek=2000000 conv=notrunc status=none || return 1
	truncate -s 5000000 "$shown/library.data"
	[ ! -e "$f" ] || [ "$(sha256sum <"$f")" = "$sum" ] || complain "what is kept was changed" || return 1
	[ ! -e "$f" ] || [ "$(stat -c %h "$f")" = 1 ] || complain "what is kept can be written to" || return 1
	cmp -n 2000000 "$files/library.so" "$shown/library.so"
}

kept_within_bounds() {
	local i
	apart=(--no-local-files --cache-size=9M)
	rm -rf "$pool"
	for i in 1 2 3 4; do
		head -c 4000000 /dev/urandom >"$files/library.so"
		lazy_mount --no-background || return 1
		cmp "$files/library.so" "$shown/library.so" || return 1
		lazy_umount || return 1
		[ "$(du -s --block-size=1 "$pool" | cut -f 1)" -le $((9 << 20)) ] || complain "the pool has $(du -sk "$pool") KiB" || return 1
	done
	[ "$(pooled | wc -l)" -ge 1 ] || complain "nothing is kept" || return 1
	# the last one is still there
	lazy_mount --no-background || return 1
	cmp "$files/library.so" "$shown/library.so" && [ "$(field pool_bytes)" -ge 4000000 ] ||
		complain "what was used last is gone"
}

# Whoever makes the directory first does not decide what is in it.
pool_of_somebody() {
	apart=(--no-local-files --cache-size=64M)
	rm -rf "$pool"
	mkdir -m 755 "$pool"
	lazy_mount --no-background || return 1
	cmp "$files/library.so" "$shown/library.so" || return 1
	grep -q 'should be ours alone' "$TEST_TMP/log" || complain "not said" || return 1
	lazy_umount
	[ -z "$(pooled)" ] || complain "uses it"
	rm -rf "$pool"
}

with_pool() { # FUNCTION
	local before=("${apart[@]}") rc
	"$1"
	rc=$?
	mounted && ! lazy_umount && umount -l "$mnt"
	apart=("${before[@]}")
	rm -rf "$pool"
	return $rc
}

# A destination in a mount namespace of its own, where the mount is shown at the path of the files that are below it, and the
# same: they are read there, and nobody asks himself.
same_host() {
	local rc holder
	unshare -m --propagation private sleep 60 &
	holder=$!
	wait_for 5 [ "$(readlink /proc/self/ns/mnt)" != "$(readlink /proc/$holder/ns/mnt)" ] || return 1
	{
		echo '#!/bin/sh'
		echo "exec nsenter -m -t $$ $TEST_TMP/ssh \"\$@\""
	} >"$TEST_TMP/home-ssh"
	chmod 755 "$TEST_TMP/home-ssh"
	if nsenter -m -t $holder timeout 30 "$FERRY" lazyfs --ssh "$TEST_TMP/home-ssh" --cache-dir "$TEST_TMP/cache" \
		--cache-size=0 --no-background --log-file "$TEST_TMP/log" "$mnt" "$images" source; then
		nsenter -m -t $holder mount --bind "$shown" "$files"
		nsenter -m -t $holder timeout 20 cat "$files/data" | cmp - "$files/data" || complain "cannot be read below itself"
		rc=$?
		nsenter -m -t $holder timeout 20 "$FERRY" lazyfs --status --json "$mnt" >"$TEST_TMP/status"
		nsenter -m -t $holder umount "$files"
		nsenter -m -t $holder timeout 20 fusermount3 -u "$mnt"
	else
		rc=1
	fi
	kill $holder
	wait $holder 2>/dev/null
	wait_for 20 no_cache || complain "does not end" || return 1
	[ $rc = 0 ] || return 1
	"$PYTHON" -c "
import json, sys
s = json.load(open('$TEST_TMP/status'))
sys.exit(not (s['local_bytes'] >= 5000000 and s['received_bytes'] < 1000000))" || complain "$(cat "$TEST_TMP/status")"
}

# Everything as an ordinary user, on both sides: what he may read, and nothing else.
ordinary_user() {
	local as=(setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/nonexistent) rc
	mkdir "$TEST_TMP/user" "$TEST_TMP/user/cache" "$TEST_TMP/user/mnt" && cp -r "$images" "$TEST_TMP/user/images" &&
		cp "$FERRY" "$TEST_TMP/user/ferry" || return 1
	printf '#!/bin/sh\nshift\nexec sh -c "$*"\n' >"$TEST_TMP/user/ssh"
	chmod 755 "$TEST_TMP" "$TEST_TMP/user/ssh"
	chown -R 65534:65534 "$TEST_TMP/user"
	# as udev has it
	mknod -m 666 "$TEST_TMP/fuse" c 10 229 && mount --bind "$TEST_TMP/fuse" /dev/fuse || return 1
	cleanup_fn umount -l /dev/fuse
	why=$(timeout -k 5 30 "${as[@]}" "$TEST_TMP/user/ferry" lazyfs --ssh "$TEST_TMP/user/ssh" --cache-dir "$TEST_TMP/user/cache" \
		--no-local-files --no-background "$TEST_TMP/user/mnt" "$TEST_TMP/user/images" source 2>&1 </dev/null) || return 1
	mnt=$TEST_TMP/user/mnt
	shown=$mnt$files
	"${as[@]}" cmp "$files/library.so" "$shown/library.so" && "${as[@]}" "$shown/program" || complain "cannot read"
	rc=$?
	"${as[@]}" cat "$shown/data" >"$TEST_TMP/out" 2>/dev/null && complain "reads what he may not" && rc=1
	[ ! -s "$TEST_TMP/out" ] || complain "reads what he may not" || rc=1
	"${as[@]}" timeout 20 fusermount3 -u "$mnt" || complain "cannot unmount" || rc=1
	mnt=$TEST_TMP/mnt
	shown=$mnt$files
	wait_for 20 user_cache_is_gone || complain "the cache stays" || rc=1
	[ "$(find "$TEST_TMP/user/cache" -user 65534 -type f -size 4000000c | wc -l)" = 1 ] || complain "what he has read is not kept" || rc=1
	return $rc
}

user_cache_is_gone() {
	[ "$(ls "$TEST_TMP/user/cache")" = ferry-files.65534 ]
}

refuses() {
	local out
	out=$(timeout 20 "$FERRY" lazyfs --ssh "$TEST_TMP/ssh" "$mnt" "$TEST_TMP/cache" source 2>&1) &&
		{ complain "mounts without images" || return 1; }
	[[ $out == *"inventory.img"* ]] || complain "$out" || return 1
	touch "$TEST_TMP/down"
	out=$(timeout 20 "$FERRY" lazyfs --ssh "$TEST_TMP/ssh" "$mnt" "$images" source 2>&1) &&
		{ complain "mounts without a source" || return 1; }
	[[ $out == *"source"* ]] || complain "$out" || return 1
	out=$("$FERRY" lazyfs --status "$TEST_TMP" 2>&1) && { complain "status of nothing" || return 1; }
	[[ $out == *"no ferry lazyfs is mounted there"* ]] || complain "$out"
}

test_case "shows the tree" shows_the_tree
test_case "reads" reads
test_case "holes before they are here" seeks_before_it_is_here
test_case "lists what is below" lists_below
test_case "what was listed along is soon too old" listed_again
test_case "an older source" older_source
test_case "a program comes whole" program_whole
test_case "small files come with each other" small_files
test_case "writes little" writes_little
test_case "a change at the source fails" change_fails
test_case "a change at the source is fetched" change_refetches
test_case "the source dies" source_dies
test_case "the source is waited for" source_is_waited_for
test_case "the source dies in the middle" source_dies_in_the_middle
test_case "the source may go" source_may_go
test_case "the daemon is killed" daemon_killed
test_case "materialises" materialises
test_case "the cache is full" cache_is_full
test_case "kept for the next one" with_pool kept_for_later
test_case "what is kept is compared" with_pool kept_is_compared
test_case "what is kept is not written to" with_pool kept_is_not_written_to
test_case "what is kept has bounds" with_pool kept_within_bounds
test_case "somebody else's pool" with_pool pool_of_somebody
test_case "files that are here" same_host
if findmnt -no OPTIONS -T "$(command -v fusermount3)" | grep -qw nosuid; then
	skip "an ordinary user" "fusermount3 lies in a file system without set-user-id programs"
else
	test_case "an ordinary user" ordinary_user
fi
test_case "refuses" refuses
finish
