#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that a purpose needs and that are missing; asks nothing.
#
#   tools/setup.sh build    to compile ferry
#   tools/setup.sh test     and to run make check, demo and bench (the default)
#   tools/setup.sh ci       and to run .ci/run
#
# Services that come with a package (sshd, redis, postgresql, nginx) are not started.
set -eu

build="gcc libc6-dev make meson ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev
       libjansson-dev libmnl-dev libssl-dev libfuse3-dev
       liblz4-dev libzstd-dev"
test="libcmocka-dev python3 perl bash procps psmisc util-linux mandoc clang-format git
      iproute2 openssh-client openssh-server openssl
      sqlite3 redis-server redis-tools postgresql-15 nginx-light xz-utils lz4 zstd tmux
      qemu-system-x86 busybox-static fuse3 fio stress-ng sshfs strace"
ci="clang clang-tidy libclang-rt-dev"

case ${1:-test} in
build) wanted=$build ;;
test) wanted="$build $test" ;;
ci) wanted="$build $test $ci" ;;
*)
    echo "usage: tools/setup.sh [build|test|ci]" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "tools/setup.sh: not a Debian system: install the likes of" $wanted >&2
    exit 0
fi

missing=
for package in $wanted; do
    status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "tools/setup.sh: packages are missing; as root: apt-get install$missing" >&2
    exit 1
fi

echo "tools/setup.sh: installing$missing"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
log=$(mktemp)
if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing; } \
    >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    rm -f "$log"
    echo "tools/setup.sh: apt-get failed" >&2
    exit 1
fi
rm -f "$log"
