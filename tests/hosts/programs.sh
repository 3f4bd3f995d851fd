# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: Apache-2.0
#
# Real programs on the hosts, in a work folder that both have. To be sourced after lib.sh.

work=/srv/work/program

# start HOST COMMAND...: in the work folder, detached; prints the PID of the session.
start() {
	local host=$1
	shift
	on "$host" sh -c 'cd '$work' && exec setsid -f sh -c "echo \$\$ >pid; exec \"\$@\"" sh "$@" <"/dev/null" >out 2>&1' sh "$@"
	wait_for 10 [ -s "$(files_of "$host")$work/pid" ] || return 1
	cat "$(files_of "$host")$work/pid"
}

# An empty work folder on each host.
fresh() {
	local host
	for host in a b; do
		rm -rf "$(files_of $host)$work"
		mkdir -p "$(files_of $host)$work"
	done
}
