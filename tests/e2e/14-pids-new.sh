#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A tree that was restored into a pid namespace of its own is dumped again, and restored into another
# one, or back among the pids of this machine; and it can be moved by ferry migrate. With mounts that
# only it has, it is refused by name, and runs on. Names as arguments: only those victims.
. "$(dirname "$0")/lib.sh"
requires_root

# again HOW: from the images in $vdir/1, through a namespace of its own, to where HOW says.
again() {
	restore "$FERRY" "$vdir/1" --pids=new --pidfile "$vdir/nspid" || return 1
	pid=$(cat "$vdir/nspid")
	[ "$(sed -n 's/^NSpid:\s*//p' "/proc/$pid/status" | wc -w)" = 2 ] || {
		why="it is in no pid namespace of its own"
		return 1
	}
	dump "$FERRY" "$pid" "$vdir/2" || return 1
	wait_gone "$pid" && wait_gone "$was" || return 1
	rm -f "$vdir/nspid"
	restore "$FERRY" "$vdir/2" --pids="$1" --pidfile "$vdir/nspid" || return 1
	pid=$(cat "$vdir/nspid")
	verdict
}

for name in ${*:-family threads zombies sigpending unix_named busy}; do
	for how in new same; do
		start_victim "$name" || {
			not_ok "$name, then $how" "$why"
			continue
		}
		was=$pid
		if dump "$FERRY" "$pid" "$vdir/1" && wait_gone "$pid" && again $how; then
			ok "$name, then $how"
		else
			not_ok "$name, then $how" "$why"
		fi
		kill_tree "$pid"
	done
done

# Whoever restores it may have a real-time policy, and no timer slack (Linux 6.12 and later). The tree has what it had.
printf '#!/bin/sh\nexec chrt -f 1 "%s" "$@"\n' "$FERRY" >"$TEST_TMP/hasty"
chmod 755 "$TEST_TMP/hasty"
for how in new same; do
	name="restored by a real-time command, $how"
	start_victim threads_more
	if ! chrt -f 1 true 2>/dev/null; then
		skip "$name" "no real-time policy can be had here"
	elif dump "$FERRY" "$pid" "$vdir/1" && wait_gone "$pid" &&
		restore "$TEST_TMP/hasty" "$vdir/1" --pids=$how && verdict; then
		ok "$name"
	else
		not_ok "$name" "$why"
	fi
	kill_tree "$pid"
done

# Something mounted in its namespace only: its paths are not ours.
start_victim single
was=$pid
if ! dump "$FERRY" "$pid" "$vdir/1" || ! wait_gone "$pid" ||
	! restore "$FERRY" "$vdir/1" --pids=new --pidfile "$vdir/nspid"; then
	not_ok "mounts of its own" "$why"
else
	pid=$(cat "$vdir/nspid")
	nsenter -m -t "$pid" mount -t tmpfs own "$vdir/1"
	if dump "$FERRY" "$pid" "$vdir/2"; then
		not_ok "mounts of its own" "was dumped"
	elif ! grep -q "mnt namespace of its own" <<<"$why"; then
		not_ok "mounts of its own" "$why"
	elif ! verdict; then
		not_ok "mounts of its own" "$why"
	else
		ok "mounts of its own"
	fi
fi
kill_tree "$pid"
finish
