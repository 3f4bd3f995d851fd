#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The images do not fit, the log cannot be written, the reader of the status has gone: dump says so
# in one sentence and the program goes on as before.
. "$(dirname "$0")/lib.sh"
requires_root

small=$TEST_TMP/small
mkdir "$small"
mount -t tmpfs -o size=256k tmpfs "$small" 2>/dev/null || skip_all "cannot mount a tmpfs"
cleanup_fn umount -l "$small"

# survives NAME PATTERN COMMAND...: it fails with one sentence, and the victim is as before.
survives() {
	local name=$1 pattern=$2 output status diff
	shift 2
	snapshot "$pid" "$vdir/before"
	output=$(timeout 60 "$@" 2>&1 </dev/null)
	status=$?
	snapshot "$pid" "$vdir/after"
	diff=$(diff "$vdir/before" "$vdir/after")
	if [ $status = 0 ]; then
		not_ok "$name" "did not fail"
	elif [ $status -ge 124 ]; then
		not_ok "$name" "ended with status $status: $output"
	elif [ "$(wc -l <<<"$output")" != 1 ]; then
		not_ok "$name" "not one sentence: $output"
	elif ! grep -qiE -- "$pattern" <<<"$output"; then
		not_ok "$name" "the reason is not named: $output"
	elif [ -n "$diff" ]; then
		not_ok "$name" "not as before: $(head -n 8 <<<"$diff")"
	elif ! alive "$pid"; then
		not_ok "$name" "the program is dead"
	else
		ok "$name"
	fi
}

start_victim single || skip_all "the victim: $why"
mkdir "$vdir/images"
survives "disk is full" "no space" "$FERRY" dump -t "$pid" -D "$small" -o "$vdir/dump.log"
[ ! -e "$small/inventory.img" ] || not_ok "inventory" "an incomplete dump has an inventory"
rm -f "$small"/*
survives "disk is full, one image" "no space" "$FERRY" dump -R -t "$pid" -D "$small" -o "$vdir/dump.log"
survives "no such directory" "no such file" "$FERRY" dump -t "$pid" -D "$vdir/nowhere" -o "$vdir/dump.log"
survives "directory is a file" "not a directory" "$FERRY" dump -t "$pid" -D "$vdir/ready" -o "$vdir/dump.log"
survives "file size limit" "too large|file size" bash -c "ulimit -f 8; trap '' XFSZ; exec '$FERRY' dump -t $pid -D '$vdir/images' -o /dev/null"
rm -rf "$vdir/images"
mkdir "$vdir/images"
if verdict; then
	ok "verdict"
else
	not_ok "verdict" "$why"
fi

# A log that cannot be written is no reason to lose anything: either it is refused, or the dump is whole.
start_victim single || skip_all "the victim: $why"
if dump "$FERRY" "$pid" "$vdir/images" -o /dev/full; then
	wait_gone "$pid" || not_ok "log on a full disk" "still there: $(head -n 3 "/proc/$pid/status")"
	restore "$FERRY" "$vdir/images" || not_ok "log on a full disk" "$why"
fi
if verdict; then
	ok "log on a full disk"
else
	not_ok "log on a full disk" "$why"
fi

# The reader of the status pipe is gone: no death by SIGPIPE with a frozen tree.
start_victim single || skip_all "the victim: $why"
mkdir "$vdir/images"
exec 8> >(exit 0)
sleep 0.2
timeout 60 "$FERRY" dump -R -t "$pid" -D "$vdir/images" -o "$vdir/dump.log" --status-fd 8 >"$vdir/out" 2>&1 </dev/null
status=$?
exec 8>&-
if [ $status -ge 124 ]; then
	not_ok "status pipe without a reader" "the command died: $status"
elif verdict; then
	ok "status pipe without a reader"
else
	not_ok "status pipe without a reader" "$why"
fi
finish
