#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What is not supported yet is refused: with one sentence that names kind, pid and descriptor, before
# anything is changed; the program goes on, and the thing works as before.
. "$(dirname "$0")/lib.sh"
requires_root

# check KIND PATTERN [FD]: the sentence must match the pattern (and name the descriptor).
check() {
	local kind=$1 pattern=$2 fd=${3:-} output status
	start_victim refuse "$kind"
	case $? in
	1)
		not_ok "$kind" "$why"
		return
		;;
	2)
		skip "$kind" "$why"
		return
		;;
	esac
	mkdir "$vdir/images"
	snapshot "$pid" "$vdir/before"
	output=$(timeout 30 "$FERRY" dump -t "$pid" -D "$vdir/images" -o dump.log 2>&1 </dev/null)
	status=$?
	snapshot "$pid" "$vdir/after"
	if [ $status = 0 ]; then
		not_ok "$kind" "was dumped, not refused"
	elif [ $status -ge 124 ]; then
		not_ok "$kind" "ended with status $status"
	elif [ "$(wc -l <<<"$output")" != 1 ]; then
		not_ok "$kind" "not one sentence: $output"
	elif ! grep -qiE -- "$pattern" <<<"$output"; then
		not_ok "$kind" "the kind is not named: $output"
	elif ! grep -qw -- "$pid" <<<"$output"; then
		not_ok "$kind" "pid $pid is not named: $output"
	elif [ -n "$fd" ] && ! grep -qE "(fd|descriptor) $fd\b" <<<"$output"; then
		not_ok "$kind" "descriptor $fd is not named: $output"
	elif [ -e "$vdir/images/inventory.img" ]; then
		not_ok "$kind" "left an inventory behind"
	elif ! diff=$(diff "$vdir/before" "$vdir/after"); then
		not_ok "$kind" "not as before: $(head -n 6 <<<"$diff")"
	elif ! verdict; then
		not_ok "$kind" "$why"
	else
		ok "$kind"
	fi
	[ -z "$pid" ] || kill_tree "$pid"
}

check tcp 'tcp' '[45]'
check tcp_pending 'tcp' '[34]'
check inotify 'inotify' 3
check inflight 'in flight|scm_rights' '[34]'
check seccomp 'seccomp'
check uts 'uts.*namespace|namespace.*uts'
check pidfd 'pidfd' 3
check sysvshm 'system v.*attached 2 times, of which 1'
check sysvsem 'system v semaphores .*unshare --ipc'
check sysvmsg 'system v message queue .*unshare --ipc'
check netlink 'netlink' 3
check packet 'packet' 3
check fanotify 'fanotify' 3
check userfaultfd 'userfaultfd' 3
check io_uring 'io_uring' 3
check keys 'keyring'
check mempolicy 'memory policy'
check mdwe 'PR_SET_MDWE'
check corked 'UDP_CORK' 3
check signed 'TCP_MD5SIG' 3
check unix_error 'SO_ERROR' 3
finish
