#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# ferry lazyfs beside sshfs and beside the raw pipe, on this machine, through the same kind of
# connection (a pipe to the server's process, no cipher): only the file systems differ.
#
#   bench/lazyfs.sh [MEGABYTES]
#
# Prints times and ratios; asserts nothing. Needs root, sshfs and an sftp-server.
set -u
cd "$(dirname "$0")/.." || exit 1
FERRY=${FERRY:-$PWD/build/src/cmd/ferry}
megabytes=${1:-256}
sftp=/usr/lib/openssh/sftp-server
python=/usr/bin/python3

for need in "$FERRY" "$sftp" "$(command -v sshfs || echo /no/sshfs)" /dev/fuse; do
	[ -e "$need" ] || { echo "bench/lazyfs.sh: $need is missing" >&2; exit 77; }
done
top=$(mktemp -d /tmp/ferry-bench-lazyfs-XXXXXX)
mkdir "$top/files" "$top/images" "$top/lazy" "$top/sshfs" "$top/cache"
holder=

finish() {
	umount -l "$top/lazy" "$top/sshfs" 2>/dev/null
	[ -n "$holder" ] && kill -KILL "$holder" 2>/dev/null
	rm -rf "$top"
}
trap finish EXIT

printf '#!/bin/sh\nshift\nexec sh -c "$*"\n' >"$top/ssh"
printf '#!/bin/sh\nexec %s\n' "$sftp" >"$top/ssh-sftp"
chmod 755 "$top/ssh" "$top/ssh-sftp"
head -c "${megabytes}M" /dev/urandom >"$top/files/large"
for i in $(seq 300); do head -c 20000 /dev/urandom >"$top/files/small$i"; done

setsid $python -c "
import os, time
os.closerange(3, 1024)
os.chdir('$top/files')
open('$top/holds', 'w').close()
time.sleep(600)" </dev/null >/dev/null 2>&1 &
holder=$!
for i in $(seq 100); do [ -e "$top/holds" ] && break; sleep 0.1; done
sleep 0.2
timeout 60 "$FERRY" dump -t "$holder" -D "$top/images" --leave-running </dev/null || exit 1

# measure DIRECTORY CASE: seconds
measure() {
	timeout 120 $python bench/lazyfs_measure.py "$1" "$2" "$megabytes"
}

lazy_up() {
	timeout 30 "$FERRY" lazyfs --ssh "$top/ssh" --cache-dir "$top/cache" --no-local-files --cache-size=0 --no-background \
		"$top/lazy" "$top/images" here </dev/null
}

lazy_down() {
	timeout 30 fusermount3 -u "$top/lazy"
}

sshfs_up() {
	timeout 30 sshfs -o "ssh_command=$top/ssh-sftp" here:"$top/files" "$top/sshfs" </dev/null
}

sshfs_down() {
	timeout 30 fusermount3 -u "$top/sshfs"
}

raw=$(timeout 60 $python - "$top/files/large" <<-'END'
	import subprocess, sys, time
	begin = time.monotonic()
	p = subprocess.Popen(["cat", sys.argv[1]], stdout=subprocess.PIPE, bufsize=0)
	while p.stdout.read(1 << 20):
	    pass
	print(time.monotonic() - begin)
END
)
$python -c "print(f'raw pipe, {$megabytes} MiB: {$raw:.3f} s, {$megabytes / $raw:.0f} MiB/s')"
printf '%-28s %9s %9s %7s\n' "" lazyfs sshfs ratio
for case in sequential random small; do
	lazy_up && lazy=$(measure "$top/lazy$top/files" $case)
	[ $case = sequential ] && warm=$(measure "$top/lazy$top/files" warm)
	lazy_down
	sshfs_up && other=$(measure "$top/sshfs" $case)
	[ $case = sequential ] && other_warm=$(measure "$top/sshfs" warm)
	sshfs_down
	$python -c "print(f'{\"cold: $case\":28} {$lazy:8.3f}s {$other:8.3f}s {$other / $lazy:6.2f}x')"
	[ $case = sequential ] &&
		$python -c "print(f'{\"warm: sequential\":28} {$warm:8.3f}s {$other_warm:8.3f}s {$other_warm / $warm:6.2f}x')"
done
exit 0
