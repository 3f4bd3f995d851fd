# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the tests of ferry lazyfs have in common: a tree whose working directory is $files, its
# images, and mounts of them. The "ssh" runs the agent on this machine, unless $TEST_TMP/down exists.

requires python3 fusermount3
requires_root
[ -c /dev/fuse ] || skip_all "no /dev/fuse"
PYTHON=$(command -v /usr/bin/python3 || command -v python3)

mnt=$TEST_TMP/mnt
files=$TEST_TMP/files # of the source
shown=$mnt$files      # the same, on the mount
images=$TEST_TMP/images
mkdir -p "$mnt" "$files" "$images" "$TEST_TMP/cache"

# In builds with sanitizers: what the agent or the process of the mount is found at does not end unseen.
san=$TEST_TMP/sanitizer
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}log_path=$san
export UBSAN_OPTIONS=${UBSAN_OPTIONS:+$UBSAN_OPTIONS:}log_path=$san
export TSAN_OPTIONS=${TSAN_OPTIONS:+$TSAN_OPTIONS:}log_path=$san

no_mount_process() {
	! pgrep -f "lazyfs .*$TEST_TMP/cache" >/dev/null
}

# sanitizers_silent: a result in such a build, after the last test_case.
sanitizers_silent() {
	ldd "$FERRY" | grep -q 'lib[at]san' || return 0
	# leaks are looked for at the very end
	wait_for 30 no_mount_process || true
	if compgen -G "$san.*" >/dev/null; then
		cat "$san".*
		not_ok "sanitizers" "$(cat "$san".* | grep -m 3 'ERROR\|WARNING\|SUMMARY\|runtime error')"
	else
		ok "sanitizers"
	fi
}

cat >"$TEST_TMP/ssh" <<END
#!/bin/sh
[ ! -e "$TEST_TMP/down" ] || exit 255
shift
echo \$\$ >>"$TEST_TMP/agents"
exec sh -c "\$*" "$TEST_TMP/agent"
END
chmod 755 "$TEST_TMP/ssh"

# hold DIR: a program with this working directory; sets pid.
hold() {
	# what the shell has open is not the program's
	setsid "$PYTHON" -c "
import os, time
os.closerange(3, 1024)
os.chdir('$1')
open('$TEST_TMP/holds', 'w').close()
time.sleep(1000)" "$TEST_TMP" </dev/null >/dev/null 2>&1 &
	pid=$!
	wait_for 10 test -e "$TEST_TMP/holds" || skip_all "cannot start a program"
	rm "$TEST_TMP/holds"
}

make_images() {
	hold "$files"
	sleep 0.1
	dump "$FERRY" "$pid" "$images" || {
		not_ok "dump" "$why"
		finish
	}
}

# The source is this host: all its files are here.
apart=(--no-local-files --cache-size=0)

lazy_mount() { # [OPTION]...
	if ! why=$(timeout -k 5 30 "$FERRY" lazyfs --ssh "$TEST_TMP/ssh" --cache-dir "$TEST_TMP/cache" \
		"${apart[@]}" --log-file "$TEST_TMP/log" -v3 "$@" "$mnt" "$images" source 2>&1 </dev/null); then
		return 1
	fi
}

# A file that was closed is in use until its last answer has come.
lazy_umount() {
	wait_for 20 timeout 20 fusermount3 -u "$mnt" || return 1
	wait_for 60 no_cache
}

no_cache() {
	[ -z "$(ls --ignore='ferry-files.*' "$TEST_TMP/cache")" ]
}

mounted() {
	grep -q " $mnt fuse.ferry " /proc/self/mounts
}

# field NAME: a number of the status.
field() {
	timeout 20 "$FERRY" lazyfs --status --json "$mnt" | "$PYTHON" -c "import json, sys; print(json.load(sys.stdin)['$1'])"
}

is_complete() {
	[ "$(field state)" = complete ]
}

cleanup_mount() {
	mounted && umount -l "$mnt"
}
cleanup_fn cleanup_mount

kill_agents() {
	# shellcheck disable=SC2046
	kill -KILL $(cat "$TEST_TMP/agents") 2>/dev/null
	: >"$TEST_TMP/agents"
}

no_agents() {
	local p
	while read -r p; do
		! alive "$p" || return 1
	done <"$TEST_TMP/agents"
}

# test_case NAME FUNCTION [ARGUMENT]: the function's status is the result; why says what is wrong. Leaves nothing mounted.
test_case() {
	why=
	[ -z "${ONLY:-}" ] || [[ $1 == $ONLY ]] || return 0
	if "${@:2}"; then
		ok "$1"
	else
		not_ok "$1" "$why $(tail -n 2 "$TEST_TMP/log" 2>/dev/null)"
	fi
	rm -f "$TEST_TMP/down"
	mounted && { lazy_umount || umount -l "$mnt"; }
}

complain() {
	why="$*"
	return 1
}

# The tree that fsmodel.py works on, in $files.
model_files() {
	"$PYTHON" - "$files" <<-'END'
		import os, random, sys
		r, top = random.Random(5), sys.argv[1] + "/"
		for d in ["sub", "deep", "sub/deep", "deep/sub"]:
		    os.mkdir(top + d)
		for n in ["a", "b", "log", "data", "sub/a", "sub/deep/data", "deep/log", "deep/sub/x.tmp"]:
		    with open(top + n, "wb") as f:
		        for _ in range(r.randrange(1, 5)):
		            f.seek(r.randrange(2 << 20))
		            f.write(r.randbytes(r.randrange(1, 600000)))
		os.link(top + "a", top + "sub/hard")
		os.symlink("sub/a", top + "link")
	END
}
