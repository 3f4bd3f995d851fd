#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# ferry lazyfs beside sshfs over ssh between two hosts (tests/hosts), with an added round trip:
#
#   [CASES="python3 small"] [LAZY_OPTIONS=...] bench/lazyfs-far.sh [ROUND-TRIP-MS [MEGABYTES]]
#
# The delay is a link emulator, netdelay.c, found in ../shared/bin or by NETDELAY. Prints times and
# ratios; asserts nothing. "python3" is the start of a python with some modules whose executable and
# libraries, too, come from the other host.
set -u
cd "$(dirname "$0")/.." || exit 1
FERRY=${FERRY:-$PWD/build/src/cmd/ferry}
NETDELAY=${NETDELAY:-$PWD/../shared/bin/netdelay.c}
delay_ms=${1:-5}
megabytes=${2:-64}

for need in "$FERRY" "$NETDELAY" "$(command -v sshfs || echo /no/sshfs)" /dev/fuse /dev/net/tun; do
	[ -e "$need" ] || { echo "bench/lazyfs-far.sh: $need is missing" >&2; exit 77; }
done
top=$(mktemp -d /tmp/ferry-bench-far-XXXXXX)
dir=$top/hosts
. tests/hosts/hosts.sh
emulator=

finish() {
	hosts_down "$dir"
	[ -n "$emulator" ] && kill "$emulator" 2>/dev/null
	rm -rf "$top"
}
trap finish EXIT
trap 'exit 130' INT TERM

on() {
	hosts_exec "$dir" "$@" </dev/null
}

cc -O2 -w -pthread -o "$top/netdelay" "$NETDELAY" || exit 1
hosts_up "$dir" --ferry "$FERRY" || exit 1
on a ip link delete eth0
"$top/netdelay" -a "$(hosts_pid "$dir" a)" -b "$(hosts_pid "$dir" b)" -A 10.88.0.1/24 -B 10.88.0.2/24 \
	-n eth0 -d $((delay_ms * 500)) >/dev/null 2>&1 &
emulator=$!
for i in $(seq 50); do on b timeout 2 ssh ferry-a true 2>/dev/null && break; sleep 0.1; done
echo "added round trip: $delay_ms ms"
root_a=$(hosts_root "$dir" a) root_b=$(hosts_root "$dir" b)
mkdir -p "$root_a/srv/files" "$root_a/srv/images" "$root_b/srv/images" "$root_b/mnt/lazy" "$root_b/mnt/sshfs"
cp bench/lazyfs_measure.py "$root_b/srv/"
head -c "${megabytes}M" /dev/urandom >"$root_a/srv/files/large"
for i in $(seq 300); do head -c 20000 /dev/urandom >"$root_a/srv/files/small$i"; done
hosts_spawn "$dir" a /srv/out python3 -c "
import os, time
os.chdir('/srv/files')
open('/srv/holds', 'w').close()
time.sleep(1000)"
for i in $(seq 100); do [ -e "$root_a/srv/holds" ] && break; sleep 0.1; done
on a timeout 60 ferry dump -t "$(on a pgrep -f time.sleep)" -D /srv/images --leave-running || exit 1
cp "$root_a"/srv/images/* "$root_b/srv/images/"

lazy_up() {
	on b timeout 60 ferry lazyfs --scope root --no-background --no-local-files --cache-size=0 --cache-dir /var/tmp \
		${LAZY_OPTIONS:-} /mnt/lazy /srv/images ferry-a
}

# Some versions answer EPERM for every link that is absolute, as that of the ELF interpreter is.
links=
sshfs --help 2>&1 | grep -q no_contain_symlinks && links=,no_contain_symlinks

sshfs_up() {
	on b timeout 60 sshfs -o sftp_server=/usr/lib/openssh/sftp-server$links ferry-a:/ /mnt/sshfs
}

down() {
	on b timeout 60 fusermount3 -u "/mnt/$1"
}

# measure lazy|sshfs CASE: seconds
measure() {
	local begin
	if [ "$2" = python3 ]; then
		begin=$(date +%s%N)
		on b timeout 120 chroot "/mnt/$1" /usr/bin/python3 -c 'import json, http.client, sqlite3' || return 1
		awk "BEGIN { print ($(date +%s%N) - $begin) / 1e9 }"
	else
		on b timeout 300 python3 /srv/lazyfs_measure.py "/mnt/$1/srv/files" "$2" "$megabytes"
	fi
}

raw=$(on b python3 -c '
import subprocess, time
begin = time.monotonic()
p = subprocess.Popen(["ssh", "ferry-a", "cat /srv/files/large"], stdout=subprocess.PIPE, bufsize=0)
while p.stdout.read(1 << 20):
    pass
print(time.monotonic() - begin)')
awk "BEGIN { printf \"ssh cat, $megabytes MiB: %.3f s\n\", $raw }"
printf '%-28s %9s %9s %7s\n' "" lazyfs sshfs ratio
for case in ${CASES:-sequential random small python3}; do
	lazy_up && lazy=$(measure lazy $case) && down lazy || exit 1
	sshfs_up && other=$(measure sshfs $case) && down sshfs || exit 1
	awk "BEGIN { printf \"%-28s %8.3fs %8.3fs %6.2fx\n\", \"cold: $case\", $lazy, $other, $other / $lazy }"
done
