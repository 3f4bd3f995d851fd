#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# ferry lazyfs --writeback: what goes home, when, and what happens when home has changed, is gone, or does
# not want it.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lazyfs-lib.sh"

model_files
make_images
cp -a --sparse=always "$files" "$TEST_TMP/kept"

fresh() { # [OPTION]...
	rm -rf "$TEST_TMP/model"
	find "$files" -mindepth 1 -delete
	cp -a --sparse=always "$TEST_TMP/kept/." "$files"
	cp -a --sparse=always "$TEST_TMP/kept" "$TEST_TMP/model"
	: >"$TEST_TMP/agents"
	lazy_mount --writeback "$@"
}

model_check() {
	why=$(timeout -k 5 120 "$PYTHON" tests/e2e/fsmodel.py "$@" 2>&1) || {
		why="$(echo "$why" | head -n 3)"
		return 1
	}
}

# Random operations: the same here, and after the last close the same at home.
model() {
	local seed option
	for seed in ${SEEDS:-1 2 3}; do
		option=--no-background
		[ $((seed % 2)) = 0 ] && option=--on-change=refetch
		fresh $option || return 1
		model_check "$shown" "$TEST_TMP/model" "$seed" "${OPERATIONS:-700}" writeback || return 1
		model_check "$files" "$TEST_TMP/model" 0 0 check || complain "seed $seed, at home: $why" || return 1
		[ "$(field modified_files)" = 0 ] || complain "seed $seed: not all is at home" || return 1
		lazy_umount || complain "seed $seed: cannot unmount" || return 1
	done
}

# The same while the source's processes are killed again and again: nothing is lost, and nothing done twice.
killed() {
	local seed killer rc hit=0
	# where the killer does not get the processor in time, nothing was tested
	for seed in 11 12 13 14 15 16; do
		[ $hit -lt 2 ] || break
		fresh --no-background || return 1
		while sleep 0.2; do kill_agents; done &
		killer=$!
		model_check "$shown" "$TEST_TMP/model" "$seed" "${OPERATIONS:-400}" writeback
		rc=$?
		kill $killer
		wait $killer 2>/dev/null
		[ $rc = 0 ] || return 1
		model_check "$files" "$TEST_TMP/model" 0 0 check || complain "seed $seed, at home: $why" || return 1
		[ "$(field connects)" -gt 1 ] && hit=$((hit + 1))
		lazy_umount || complain "seed $seed: cannot unmount" || return 1
	done
	[ $hit = 2 ] || complain "nothing was killed in $((6 - hit)) of 6 rounds"
}

arrives() {
	fresh --no-background || return 1
	"$PYTHON" - "$shown/data" "$files/data" <<-'END' 2>"$TEST_TMP/out" || complain "$(tail -n 1 "$TEST_TMP/out")" || return 1
		import mmap, os, sys
		here, home = sys.argv[1:]
		fd = os.open(here, os.O_RDWR)
		os.pwrite(fd, b"synced", 5000)
		os.fsync(fd)
		assert os.pread(os.open(home, os.O_RDONLY), 6, 5000) == b"synced", "fsync"
		os.pwrite(fd, b"closed", 9000)
		os.close(fd)
		assert os.pread(os.open(home, os.O_RDONLY), 6, 9000) == b"closed", "close"
		a, b = os.stat(here), os.stat(home)
		assert (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns), "size and time"
		fd = os.open(here, os.O_RDWR)
		m = mmap.mmap(fd, 8192, mmap.MAP_SHARED)
		os.close(fd)
		m[100:106] = b"mapped"
		m.close()
		assert not os.listxattr(home), "a mark stays"
	END
	wait_for 30 grep -q mapped "$files/data" || complain "what was written through a mapping" || return 1
	# as editors do it
	echo new >"$shown/sub/new.tmp" && mv "$shown/sub/new.tmp" "$shown/sub/a" && rm "$shown/b" && mkdir "$shown/made" &&
		ln -s target "$shown/made/link" || complain "names" || return 1
	[ "$(cat "$files/sub/a")" = new ] && [ ! -e "$files/b" ] && [ "$(readlink "$files/made/link")" = target ] ||
		complain "names at home" || return 1
	[ "$(umask 027 && echo x >"$shown/made/private" && stat -c %a "$files/made/private")" = 640 ] ||
		complain "mode of a new file" || return 1
	# the other name of a file whose one name was taken away
	echo new >"$shown/sub/new.tmp" && mv "$shown/sub/new.tmp" "$shown/a" && echo more >>"$shown/sub/hard" &&
		[ "$(tail -c 5 "$files/sub/hard")" = more ] || complain "a file with two names, of which one was replaced" || return 1
	mv "$shown/deep" "$shown/moved" && [ -e "$files/moved/log" ] && [ ! -e "$files/deep" ] ||
		complain "a directory is not moved by copying"
}

# Modes, owners, times and extended attributes, of files, directories and links, are home when the call has returned.
attributes() {
	fresh --no-background || return 1
	"$PYTHON" - "$shown" "$files" <<-'END' 2>"$TEST_TMP/out" || complain "$(tail -n 1 "$TEST_TMP/out")" || return 1
		import errno, os, sys
		here, home = sys.argv[1:]
		def same(name, what):
		    a, b = (os.lstat(f"{top}/{name}") for top in (here, home))
		    for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
		        assert getattr(a, field) == getattr(b, field), f"{what} of {name}: {field}"
		for name in ("data", "sub", "link"):
		    if name != "link":
		        os.chmod(f"{here}/{name}", 0o751)
		        same(name, "mode")
		    os.chown(f"{here}/{name}", 12, 34, follow_symlinks=False)
		    same(name, "owner")
		    os.utime(f"{here}/{name}", ns=(5000000001, 7000000003), follow_symlinks=False)
		    same(name, "times")
		    assert os.lstat(f"{home}/{name}").st_atime_ns == 5000000001, f"access time of {name}"
		os.setxattr(f"{here}/data", "user.one", b"1")
		os.setxattr(f"{here}/data", "user.two", b"2")
		os.setxattr(f"{here}/data", "user.one", b"", os.XATTR_REPLACE)
		os.removexattr(f"{here}/data", "user.two")
		try:
		    os.setxattr(f"{here}/data", "user.one", b"3", os.XATTR_CREATE)
		    sys.exit("an attribute is made twice")
		except FileExistsError:
		    pass
		assert {x: os.getxattr(f"{home}/data", x) for x in os.listxattr(f"{home}/data")} == {"user.one": b""}
		# around contents: the time that was set last is the one
		fd = os.open(f"{here}/data", os.O_RDWR)
		os.pwrite(fd, b"x", 5)
		os.fchmod(fd, 0o600)
		os.utime(fd, (11, 22))
		os.close(fd)
		same("data", "all")
		assert os.stat(f"{home}/data").st_mtime == 22 and open(f"{home}/data", "rb").read(6)[5:] == b"x"
		# a file of somebody else's that was changed at home
		os.lstat(f"{here}/log")
		with open(f"{home}/log", "a") as f:
		    f.write("theirs")
		for change in (lambda: os.chmod(f"{here}/log", 0o600), lambda: os.setxattr(f"{here}/log", "user.a", b"1"),
		               lambda: os.chown(f"{here}/log", 1, 1), lambda: os.utime(f"{here}/log", (1, 1))):
		    try:
		        change()
		        sys.exit("changes what was changed at home")
		    except OSError as e:
		        assert e.errno == errno.EIO, e
		st = os.stat(f"{home}/log")
		assert st.st_uid == 0 and st.st_mode & 0o777 != 0o600 and not os.listxattr(f"{home}/log")
		# what is only here
		os.chmod(f"{here}/sub/a", 0o4755)
		assert os.stat(f"{here}/sub/a").st_mode & 0o7777 == 0o4755
		assert os.stat(f"{home}/sub/a").st_mode & 0o7777 == 0o755, "gives the rights of others away"
	END
	[ "$(cp -p "$files/data" "$shown/made" && stat -c '%a %u %g %Y' "$files/made")" = "$(stat -c '%a %u %g %Y' "$files/data")" ] ||
		complain "cp -p"
}

# It takes contents and names, and no attributes: these stay here, and nobody asks it for them.
older_source() {
	fresh --no-background --ssh "$PWD/tests/e2e/older-source" || return 1
	local mode
	mode=$(stat -c %a "$files/data")
	echo more >>"$shown/log" && [ "$(tail -c 5 "$files/log")" = more ] || complain "contents" || return 1
	chmod 604 "$shown/data" && "$PYTHON" -c "import os; os.setxattr('$shown/data', 'user.a', b'1')" || complain "refused" || return 1
	[ "$(stat -c %a "$shown/data" "$files/data" | paste -sd ' ')" = "604 $mode" ] || complain "modes" || return 1
	[ "$(field connects)" = 1 ] || complain "it was asked for what it does not know"
}

home_has_changed() {
	fresh --no-background || return 1
	head -c 4096 "$shown/data" >/dev/null
	ls "$shown/log" "$shown/sub/a" >/dev/null
	echo theirs >"$files/data"
	echo theirs >"$files/log"
	if "$PYTHON" -c "
import os, sys
fd = os.open('$shown/data', os.O_RDWR)
os.pwrite(fd, b'mine', 0)
os.close(fd)" 2>/dev/null; then
		complain "close says that all is well"
		return 1
	fi
	[ "$(head -c 4 "$shown/data")" = mine ] || complain "what was written is gone here" || return 1
	rm -f "$shown/log" 2>/dev/null && { complain "removes a file that was changed" || return 1; }
	mv -f "$shown/sub/a" "$shown/log" 2>/dev/null && { complain "replaces a file that was changed" || return 1; }
	[ "$(cat "$files/data" "$files/log")" = "$(printf 'theirs\ntheirs')" ] || complain "home was overwritten" || return 1
	[ "$(field changed_at_source)" -ge 1 ] || complain "not counted" || return 1
	timeout 60 fusermount3 -u "$mnt" || return 1
	finds_unsent mine
}

# finds_unsent TEXT: of $files/data; the cache with it stayed, and is removed here.
finds_unsent() {
	local left name path
	wait_for 60 grep -q "has what could not be sent home" "$TEST_TMP/log" || complain "nothing is said" || return 1
	left=$(echo "$TEST_TMP"/cache/*)
	read -r name path <"$left/unsent.txt" || complain "no list" || return 1
	[ "$path" = "$files/data" ] || complain "$path" || return 1
	[ "$(head -c ${#1} "$left/$name")" = "$1" ] || complain "not in the file that is named" || return 1
	rm -r "$left" "$TEST_TMP/log"
}

source_is_away() {
	fresh --no-background --timeout 8 || return 1
	"$PYTHON" - "$shown/data" "$files/data" "$TEST_TMP" <<-'END' 2>"$TEST_TMP/out" || complain "$(tail -n 1 "$TEST_TMP/out")"
		import errno, os, signal, sys
		here, home, tmp = sys.argv[1:]
		fd = os.open(here, os.O_RDWR)
		os.pwrite(fd, b"first", 0)
		os.fsync(fd)
		os.pread(fd, 4096, 98304)
		open(tmp + "/down", "w").close()
		for pid in open(tmp + "/agents"):
		    try:
		        os.kill(int(pid), signal.SIGKILL)
		    except ProcessLookupError:
		        pass
		os.pwrite(fd, b"later", 98304)
		try:
		    os.fsync(fd)
		    sys.exit("fsync says that all is well")
		except OSError as e:
		    assert e.errno == errno.EIO, e
		assert os.pread(fd, 5, 98304) == b"later"
		os.unlink(tmp + "/down")
		os.fsync(fd)
		f = os.open(home, os.O_RDONLY)
		assert os.pread(f, 5, 0) == b"first" and os.pread(f, 5, 98304) == b"later", "at home"
	END
}

# What cannot be sent at the end stays, and it is said where.
unmounted_without_source() {
	fresh --no-background --timeout 3 || return 1
	ls "$shown/data" >/dev/null
	touch "$TEST_TMP/down"
	kill_agents
	"$PYTHON" -c "
import os
fd = os.open('$shown/data', os.O_RDWR)
os.pwrite(fd, b'k' * 4096, 0)
os.close(fd)" 2>/dev/null && { complain "close says that all is well" || return 1; }
	timeout 60 fusermount3 -u "$mnt" || return 1
	finds_unsent kkkk
}

not_wanted() {
	cat >"$TEST_TMP/read-only" <<-'END'
		#!/bin/sh
		shift
		exec sh -c "$(echo "$*" | sed s/--writeback//g)"
	END
	chmod 755 "$TEST_TMP/read-only"
	why=$(timeout -k 5 30 "$FERRY" lazyfs --ssh "$TEST_TMP/read-only" --cache-dir "$TEST_TMP/cache" --writeback \
		"$mnt" "$images" source 2>&1 </dev/null) && { complain "mounts" || return 1; }
	[[ $why == *"handed out read-only"*"--writeback"* ]]
}

test_case "random operations go home" model
test_case "random operations go home over dying sources" killed
test_case "what arrives, and when" arrives
test_case "modes, owners, times, extended attributes" attributes
test_case "an older source" older_source
test_case "home has changed" home_has_changed
test_case "the source is away" source_is_away
test_case "unmounted without the source" unmounted_without_source
test_case "the source does not want it" not_wanted
sanitizers_silent
finish
