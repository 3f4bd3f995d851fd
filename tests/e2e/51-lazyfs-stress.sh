#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 240
# ferry lazyfs under the file system stressors of stress-ng, which verify what they read, and the
# results of the calls. Left out is what is about other file systems (bind-mount, binderfs, procfs,
# verity) or not about any (dup, eventfd, handle), and io-uring, which fails on all of them.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lazyfs-lib.sh"
command -v stress-ng >/dev/null || skip_all "stress-ng is not installed"

head -c 3000000 /dev/urandom >"$files/data"
mkdir "$files/work"
chmod 777 "$files/work" "$files"
make_images

names="access aio chattr chdir chmod chown copy-file dentry dir dirdeep dirmany fallocate fcntl filename flock fpunch fsize fstat getdent
	hdd inode-flags io iomix lease link locka lockf lockofd mknod open readahead rename
	revio seek sendfile splice symlink sync-file touch utime xattr"

# stress NAME...: two of each at once, for a second, so that they are in each other's way.
stress() {
	local options=() name
	for name in "$@"; do
		options+=("--$name" 2)
	done
	timeout -k 5 90 stress-ng --temp-path "$shown/work" "${options[@]}" --timeout "${STRESS_SECONDS:-1}s" --verify \
		--oomable >"$TEST_TMP/stress" 2>&1
}

# stress-ng says 3 or 4 where something does not exist on this system at all.
all() {
	local group rc bad=
	while read -ra group; do
		stress "${group[@]}"
		rc=$?
		[ $rc = 0 ] || [ $rc = 3 ] || [ $rc = 4 ] ||
			bad="$bad ${group[*]} ($rc): $(grep -i -m 3 'fail\|error' "$TEST_TMP/stress" | tr '\n' ' ')"
		[ -z "$(ls -A "$shown/work")" ] || bad="$bad ${group[*]}: leaves $(ls "$shown/work")"
	done < <(echo "${STRESSORS:-$names}" | xargs -n 4)
	why=$bad
	[ -z "$bad" ]
}

here() {
	lazy_mount --no-background && all
}

test_case "stressors" here
finish
