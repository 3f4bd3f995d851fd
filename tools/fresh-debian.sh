#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command in a clean clone of this repository on a fresh Debian 12, to show what is missing
# from the set-up: a minimal system of its own (debootstrap), with its own mounts, processes, System V
# objects and host name; only the network is this machine's.
#
#   tools/fresh-debian.sh [--dir DIR] [--keep] [--reuse] [COMMAND...]      (as root)
#
# COMMAND is "make demo" unless given; it finds the committed state of the tree in /root/ferry, and
# a copy of ../shared beside it when that exists. git and make are installed first, as the README
# says, and nothing else. The system just installed is kept in DIR/base (DIR is
# /var/tmp/ferry-fresh-debian) and copied for each run; --keep leaves the copy in DIR/root for a look,
# --reuse runs in the copy that is there. The mirror is the one that this system's apt sources name;
# MIRROR overrides it. Ends with the status of the command.
set -eu

top=$(dirname "$(dirname "$(readlink -f "$0")")")
suite=bookworm

die() {
    echo "fresh-debian: $*" >&2
    exit 1
}

# The first Debian archive in the apt sources, of either format.
mirror_here() {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -n 's#^URIs: *\([a-z]*://[^ ]*/debian\)/* *$#\1#p'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n 's#^deb  *\(\[[^]]*\] *\)\{0,1\}\([a-z]*://[^ ]*/debian\)/* .*#\2#p'
}

# The base system, in one move: a directory with that name is complete.
make_base() {
    local mirror
    mirror=${MIRROR:-$(mirror_here | head -n 1)}
    [ -n "$mirror" ] || die "the apt sources name no Debian mirror; set MIRROR"
    command -v debootstrap >/dev/null || die "debootstrap is missing; apt-get install debootstrap"
    rm -rf --one-file-system "$dir/base.new"
    debootstrap --variant=minbase $suite "$dir/base.new" "$mirror" >"$dir/debootstrap.log" 2>&1 || {
        tail -n 20 "$dir/debootstrap.log" >&2
        die "debootstrap failed"
    }
    rm -f "$dir/base.new"/var/cache/apt/archives/*.deb
    mv "$dir/base.new" "$dir/base"
}

# A copy of the base, with the clone and what is beside it.
make_root() {
    rm -rf --one-file-system "$root"
    cp -a "$dir/base" "$root"
    git clone -q --no-hardlinks "$top" "$root/root/ferry"
    if [ -d "$top/../shared" ]; then
        cp -rL "$top/../shared" "$root/root/shared"
    fi
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    printf '127.0.0.1\tlocalhost fresh-debian\n' >"$root/etc/hosts"
    echo fresh-debian >"$root/etc/hostname"
}

# In the new namespaces: devices and file systems as a booted machine has them.
mount_system() {
    local node
    mount --make-rprivate /
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" 2>/dev/null || true
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for node in null zero full random urandom tty fuse userfaultfd kvm; do
        if [ -c "/dev/$node" ]; then cp -a "/dev/$node" "$root/dev/"; fi
    done
    mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
    if [ -c /dev/net/tun ]; then cp -a /dev/net/tun "$root/dev/net/"; fi
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s fd/0 "$root/dev/stdin"
    ln -s fd/1 "$root/dev/stdout"
    ln -s fd/2 "$root/dev/stderr"
    mount -t tmpfs -o mode=755 run "$root/run"
    mkdir "$root/run/lock"
    chmod 1777 "$root/run/lock"
    hostname fresh-debian
    cd "$root"
    mkdir -p old
    pivot_root . old
    umount -l /old
    rmdir /old
}

# Pid 1 of the new system. Bash collects the orphans that it inherits.
run_inside() {
    mount_system
    cd /root
    export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends git make; } \
        >/root/apt.log 2>&1 </dev/null || {
        tail -n 20 /root/apt.log >&2
        die "cannot install git and make"
    }
    cd ferry
    "$@"
    exit $?
}

dir=/var/tmp/ferry-fresh-debian keep='' reuse=''
while [ $# -gt 0 ]; do
    case $1 in
    --dir)
        [ $# -ge 2 ] || die "--dir needs a directory"
        dir=$2
        shift
        ;;
    --keep) keep=yes ;;
    --reuse) reuse=yes keep=yes ;;
    --inside)
        root=$2
        shift 2
        run_inside "$@"
        ;;
    --help | -*)
        sed -n '/^# Runs/,/^set/ { s/^# \{0,1\}//p }' "$0"
        [ "$1" = --help ] && exit 0
        exit 2
        ;;
    *) break ;;
    esac
    shift
done
[ $# -gt 0 ] || set -- make demo
[ "$(id -u)" = 0 ] || die "must be root"

mkdir -p "$dir"
dir=$(readlink -f "$dir")
root=$dir/root
[ -d "$dir/base" ] || make_base
[ -n "$reuse" ] && [ -d "$root" ] || make_root
# The variables of the caller's build would not be fresh.
status=0
env -i TERM="${TERM:-dumb}" LANG=C.UTF-8 ${FERRY_FULL:+FERRY_FULL="$FERRY_FULL"} \
    unshare --mount --pid --uts --ipc --fork --kill-child \
    "$0" --inside "$root" "$@" || status=$?
[ -n "$keep" ] || rm -rf --one-file-system "$root"
exit $status
