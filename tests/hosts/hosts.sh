#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Two hosts on one machine, for tests and for the demo.
#
# A host is the set of namespaces (network, mount, PID, UTS, IPC, on request time) held by one
# process, its pid 1. A veth pair joins the two, made from inside, so that the machine's own
# network, mounts and process table never change. Nothing outlives pid 1: when it is killed the
# kernel ends every process of the host, and with the last of them go mounts, files and links.
# Each host has its own files (a tmpfs: /tmp, /var, /srv, /home, /opt, /root, /etc, /usr/local),
# its own sshd with its own keys, and shares only /usr with the machine, read-only.
#
# As a command:
#   hosts.sh up DIR [--ferry FILE] [--lacks PATH]... [--boot-offset SECONDS]
#   hosts.sh exec DIR a|b COMMAND...   runs in the host as root, with a clean environment
#   hosts.sh spawn DIR a|b FILE COMMAND...  same, detached in its own session, output to FILE there
#   hosts.sh put DIR a|b SOURCE TARGET copies a file of the machine into the host
#   hosts.sh root DIR a|b              prints the path under which the machine sees its files
#   hosts.sh link DIR up|down          plugs or unplugs the cable between the hosts
#   hosts.sh down DIR
# As a library (". hosts.sh"): hosts_up, hosts_exec, hosts_spawn, hosts_put, hosts_root,
# hosts_link and hosts_down take the same arguments and return 0 or 1.
#
# --ferry FILE installs FILE as /usr/local/bin/ferry on both hosts. --lacks PATH (below /usr) is
# missing on host b, whose /usr is then a writable overlay. --boot-offset lets host b's monotonic
# clocks run that far ahead of host a's, as those of two real machines do.
#
# Host a is ferry-a (10.88.0.1), host b is ferry-b (10.88.0.2); "ssh ferry-b" works from a without
# a question, and back, for root and for worker (uid 2001). User alice has uid 2002 on a but 3002
# on b; user solo (2003) exists on a only. PIDs start at 2000 on a and at 17000 on b, so that a PID
# of one is free on the other unless a test takes it.

hosts_here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
hosts_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

hosts_say() {
	echo "hosts: $*" >&2
}

# Prints the start time of a process, the second half of its identity next to its PID.
hosts_start_time() {
	local stat fields
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	read -ra fields <<<"${stat##*) }"
	echo "${fields[19]}"
}

# hosts_pid DIR HOST: prints the machine's PID of the host's pid 1, fails when it is not running.
hosts_pid() {
	local pid started
	{ read -r pid started <"$1/$2.pid"; } 2>/dev/null || return 1
	[ "$(hosts_start_time "$pid")" = "$started" ] || return 1
	echo "$pid"
}

hosts_enter() {
	local pid=$1
	shift
	nsenter -t "$pid" -m -u -i -n -p -T -r -w "$@"
}

# What runs in a host must not hold open files of the machine: those are not the host's.
hosts_close_files() {
	local fd
	for fd in /proc/self/fd/*; do
		fd=${fd##*/}
		[ "$fd" -le 2 ] || eval "exec $fd>&-"
	done
}

hosts_exec() (
	local dir=$1 host=$2 pid
	shift 2
	pid=$(hosts_pid "$dir" "$host") || {
		hosts_say "host $host of $dir is not running"
		return 1
	}
	hosts_close_files
	hosts_enter "$pid" env -i HOME=/root USER=root LOGNAME=root SHELL=/bin/bash \
		PATH="$hosts_path" LANG=C.UTF-8 TERM="${TERM:-dumb}" "$@"
)

# The shell in the middle is what nsenter waits for; the command itself belongs to pid 1.
hosts_spawn() {
	local dir=$1 host=$2 out=$3
	shift 3
	# shellcheck disable=SC2016 # expanded by the inner shell
	hosts_exec "$dir" "$host" /bin/sh -c 'out=$1; shift; exec setsid -f "$@" <"/dev/null" >"$out" 2>&1' \
		spawn "$out" "$@"
}

hosts_root() {
	local pid
	pid=$(hosts_pid "$1" "$2") || return 1
	echo "/proc/$pid/root"
}

hosts_put() {
	local root
	root=$(hosts_root "$1" "$2") || return 1
	mkdir -p "$(dirname "$root$4")" && cp -a "$3" "$root$4"
}

hosts_link() {
	local pid
	pid=$(hosts_pid "$1" a) || return 1
	hosts_enter "$pid" ip link set eth0 "$2"
}

hosts_kill() {
	local pid i
	pid=$(hosts_pid "$1" "$2") || return 0
	kill -KILL "$pid" 2>/dev/null
	for ((i = 0; i < 200; i++)); do
		hosts_pid "$1" "$2" >/dev/null || return 0
		sleep 0.05
	done
	hosts_say "pid 1 of host $2 ($pid) does not end"
	return 1
}

hosts_down() {
	local dir=$1 failed=0
	[ -e "$dir" ] || return 0
	[ -e "$dir/.ferry-hosts" ] || {
		hosts_say "$dir was not made by 'hosts up': left alone"
		return 1
	}
	hosts_kill "$dir" a || failed=1
	hosts_kill "$dir" b || failed=1
	[ $failed = 0 ] && rm -rf --one-file-system "$dir"
	return $failed
}

hosts_requirements() {
	local tool
	[ "$(id -u)" = 0 ] || {
		hosts_say "namespaces need root"
		return 1
	}
	for tool in unshare nsenter ip ssh sshd ssh-keygen setsid; do
		PATH=$PATH:/usr/sbin command -v $tool >/dev/null || {
			hosts_say "$tool is missing (apt-get install util-linux iproute2 openssh-client openssh-server)"
			return 1
		}
	done
}

hosts_keys() {
	local name
	mkdir -p "$1/keys" && chmod 700 "$1/keys" || return 1
	for name in host-a host-b user-a user-b; do
		[ -e "$1/keys/$name" ] && continue
		ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$1/keys/$name" || return 1
	done
}

# Notes who pid 1 is. It says its PID as the machine sees it; its start time must be read from
# here, for in a time namespace it is another.
hosts_note() {
	local pid started
	{ read -r pid <"$1/$2.born"; } 2>/dev/null && started=$(hosts_start_time "$pid") || return 1
	echo "$pid $started" >"$1/$2.pid"
}

# Starts pid 1 of one host and waits until the host's files are in place.
hosts_start() {
	local dir=$1 host=$2 i
	shift 2
	local time=()
	[ "$host" = b ] && [ -n "$hosts_offset" ] &&
		time=(--time --monotonic "$hosts_offset" --boottime "$hosts_offset")
	rm -f "$dir/$host".{born,pid,ready}
	mkdir -p "$dir/$host.root"
	(
		hosts_close_files
		cd / || exit 1
		exec setsid unshare --net --mount --pid --uts --ipc "${time[@]}" --fork --kill-child \
			/bin/bash "$hosts_here/host-init.sh" "$dir" "$host" "$@"
	) </dev/null >>"$dir/$host.log" 2>&1 &
	disown $!
	for ((i = 0; i < 400; i++)); do
		[ -e "$dir/$host.pid" ] || hosts_note "$dir" "$host"
		[ -e "$dir/$host.ready" ] && hosts_pid "$dir" "$host" >/dev/null && return 0
		[ -e "$dir/$host.pid" ] && ! hosts_pid "$dir" "$host" >/dev/null && break
		[ "$i" -lt 100 ] || [ -e "$dir/$host.pid" ] || break
		sleep 0.05
	done
	hosts_say "host $host did not start:"
	tail -n 5 "$dir/$host.log" >&2
	return 1
}

hosts_wire() {
	local a b
	a=$(hosts_pid "$1" a) && b=$(hosts_pid "$1" b) || return 1
	nsenter -t "$a" -n ip link add eth0 type veth peer name eth0 netns "$b" &&
		nsenter -t "$a" -n ip address add 10.88.0.1/24 dev eth0 &&
		nsenter -t "$b" -n ip address add 10.88.0.2/24 dev eth0 &&
		nsenter -t "$a" -n ip link set lo up && nsenter -t "$a" -n ip link set eth0 up &&
		nsenter -t "$b" -n ip link set lo up && nsenter -t "$b" -n ip link set eth0 up
}

hosts_ssh() {
	hosts_exec "$1" a /usr/sbin/sshd && hosts_exec "$1" b /usr/sbin/sshd &&
		hosts_exec "$1" a ssh ferry-b true </dev/null &&
		hosts_exec "$1" b ssh ferry-a true </dev/null
}

hosts_up() {
	local dir=$1 ferry='' lacks=() hosts_offset=''
	shift
	while [ $# -gt 0 ]; do
		case $1 in
		--ferry) ferry=$(readlink -f "$2") ;;
		--lacks) lacks+=("$2") ;;
		--boot-offset) hosts_offset=$2 ;;
		*)
			hosts_say "unknown option $1"
			return 1
			;;
		esac
		shift 2 || return 1
	done
	hosts_requirements || return 1
	[ ! -e "$dir" ] || [ -e "$dir/.ferry-hosts" ] || rmdir "$dir" || {
		hosts_say "$dir is in use for something else"
		return 1
	}
	mkdir -p "$dir" && dir=$(readlink -f "$dir") && touch "$dir/.ferry-hosts" || return 1
	hosts_pid "$dir" a >/dev/null && hosts_pid "$dir" b >/dev/null && return 0
	hosts_kill "$dir" a && hosts_kill "$dir" b || return 1
	if hosts_keys "$dir" && hosts_start "$dir" a "$ferry" &&
		hosts_start "$dir" b "$ferry" "${lacks[@]}" && hosts_wire "$dir" && hosts_ssh "$dir"; then
		return 0
	fi
	hosts_say "cannot set up the hosts in $dir"
	hosts_down "$dir"
	return 1
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	case ${1:-} in
	up | down | exec | spawn | put | root | link)
		[ $# -ge 2 ] || {
			hosts_say "usage: hosts.sh $1 DIR ..."
			exit 2
		}
		hosts_command=hosts_$1
		shift
		$hosts_command "$@"
		;;
	*)
		sed -n 's/^# \{0,1\}//; 3,/^$/p' "$0" >&2
		exit 2
		;;
	esac
fi
