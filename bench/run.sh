#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Measures dump, restore and the gap that the program sees, for ferry and for CRIU in the same run,
# and the gap of a migration between two hosts.
#
#   bench/run.sh [OPTION]...      (as root; "make bench" also builds first; --help lists options)
#
# CRIU comes from ../shared/bin/criu-root where that exists, else from CRIU in the environment; with
# neither only ferry is measured. Everything runs in a PID namespace of its own, so that no PID
# which a restore needs is taken by anyone else, and nothing is left when it ends.
set -eu
here=$(dirname "$(readlink -f "$0")")
top=$(dirname "$here")
build=$top/${BUILD:-build}
FERRY=${FERRY:-$build/src/cmd/ferry}
BENCH_VICTIM=${BENCH_VICTIM:-$build/bench/bench-victim}
BENCH_LAZY=${BENCH_LAZY:-$build/bench/bench-lazy}
BENCH_TRANSPORT=${BENCH_TRANSPORT:-$build/bench/bench-transport}
export FERRY BENCH_VICTIM BENCH_LAZY BENCH_TRANSPORT PYTHONDONTWRITEBYTECODE=1

case " $* " in
*" --help "* | *" -h "*) exec python3 "$here/bench.py" "$@" ;;
esac
[ "$(id -u)" = 0 ] || { echo "bench: needs root" >&2; exit 1; }
for program in "$FERRY" "$BENCH_VICTIM" "$BENCH_LAZY" "$BENCH_TRANSPORT"; do
	[ -x "$program" ] || { echo "bench: $program is not built: run make first" >&2; exit 1; }
done

if [ -z "${CRIU:-}" ] && [ -e "$top/../shared/bin/criu-root" ]; then
	CRIU=$(sh "$top/../shared/bin/criu-root" "${CRIU_PREFIX:-/var/tmp/ferry-criu}") || CRIU=
fi
export CRIU=${CRIU:-}

# CRIU moves memory through pipes; with the kernel's default limits it would need far more of them
# than a machine set up for it. Put back afterwards.
limit() {
	cat "/proc/sys/fs/$1" 2>/dev/null
}
size=$(limit pipe-max-size) soft=$(limit pipe-user-pages-soft)
restore_limits() {
	echo "$size" >/proc/sys/fs/pipe-max-size
	echo "$soft" >/proc/sys/fs/pipe-user-pages-soft
}
trap restore_limits EXIT
trap 'exit 130' INT TERM
echo 8388608 >/proc/sys/fs/pipe-max-size || true
echo 0 >/proc/sys/fs/pipe-user-pages-soft || true

# Bash as pid 1 reaps what the restored programs leave behind.
# shellcheck disable=SC2016 # expanded by the inner shell
unshare --mount --pid --fork --kill-child --mount-proc \
	/bin/bash -c 'python3 "$@"; exit $?' bench "$here/bench.py" "$@"
