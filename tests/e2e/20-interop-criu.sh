#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# Real CRIU restores what ferry dumped, ferry restores what CRIU dumped, and crit decodes each image
# that ferry wrote: for the victims of kinds that CRIU supports; of others crit decodes the images.
# Names as arguments: only those.
. "$(dirname "$0")/lib.sh"
requires_root

CRIU_ROOT=${CRIU_ROOT:-/var/tmp/ferry-criu}
script=$PWD/../shared/bin/criu-root
if [ -x "$CRIU_ROOT/usr/sbin/criu.host" ]; then
	CRIU=$CRIU_ROOT/usr/sbin/criu.host
	CRIT=$CRIU_ROOT/usr/bin/crit.host
elif [ -x "$script" ]; then
	CRIU=$(timeout 200 "$script" "$CRIU_ROOT" 2>"$TEST_TMP/criu-root.log") ||
		skip_all "no real CRIU: $(tail -n 1 "$TEST_TMP/criu-root.log")"
	CRIT=$("$script" "$CRIU_ROOT" crit)
else
	skip_all "no real CRIU here (../shared/bin/criu-root is absent)"
fi

# What CRIU 4.2 itself loses between its own dump and its own restore of a victim (each was tried;
# "dump": the image does not have it; "restore": the image has it, criu restore ignores it).
criu_lacks() { # dump|restore VICTIM
	case $1:$2 in
	dump:busy | dump:restart_block | restore:busy | restore:restart_block)
		echo "makes interrupted nanosleep, poll and futex return EINTR" ;;
	*:restart_eintr) echo "lets interrupted epoll_wait and sigtimedwait return EINTR" ;;
	*:ghost_xattr) echo "does not keep the attributes of a deleted file" ;;
	*:modes) echo "has no modes of prctl, no filter of core dumps and no MCL_FUTURE" ;;
	dump:creds) echo "needs CAP_SYS_RESOURCE for the limits of another user's task" ;;
	*:eventfd_semaphore) echo "does not record EFD_SEMAPHORE" ;;
	restore:eventfd_highest) echo "cuts the counter to 32 bits" ;;
	dump:locks) echo "records the POSIX locks of one task only" ;;
	restore:orphans | restore:adopted) echo "loses the subreaper's adopted children" ;;
	restore:personality) echo "does not restore the personality" ;;
	*:pipe_packet) echo "has no packet mode" ;;
	dump:sysv_shm) echo "takes segments of an IPC namespace of the tree only" ;;
	restore:sysv_shm) echo "does not take a part of a segment" ;;
	*:threads_more) echo "has no I/O priority, timer slack and affinity" ;;
	*:timerfd_unread) echo "disarms a periodic timer that has expired" ;;
	*:udp_multicast) echo "does not keep multicast memberships" ;;
	dump:unix_senders) echo "refuses credentials in a queue" ;;
	restore:unix_senders) echo "does not keep the senders of messages" ;;
	*:unix_accepted) echo "does not keep the name of accepted sockets" ;;
	esac
}

# crit's own decoder for many images in one process: starting it once for each takes minutes.
sed 's# [^ ]*/usr/bin/crit "\$@"# "$@"#' "$CRIT" >"$TEST_TMP/crit-python"
chmod 755 "$TEST_TMP/crit-python"
cat >"$TEST_TMP/decode.py" <<'END'
import sys
import pycriu

for path in sys.argv[1:]:
    try:
        with open(path, "rb") as image:
            pycriu.images.load(image, pretty=True)
    except Exception as error:
        sys.exit(f"crit cannot decode {path.rsplit('/')[-1]}: {error!r}")
END

# decode_all DIR: crit understands every image (but raw ones).
decode_all() {
	local images
	images=$(find "$1" -name '*.img' ! -name 'pages-*')
	# shellcheck disable=SC2086
	why=$(timeout 60 "$TEST_TMP/crit-python" "$TEST_TMP/decode.py" $images 2>&1)
}

# check NAME DIRECTION DUMPER RESTORER
check() {
	local name=$1 direction=$2 dumper=$3 restorer=$4 images options lacks side=restore
	[ "$dumper" = "$CRIU" ] && side=dump
	lacks=$(criu_lacks $side "$name")
	if [ -n "$lacks" ] && [ $side = dump ]; then
		echo "# $name: not asked of CRIU's dump, which $lacks"
		return
	fi
	start_victim "$name"
	case $? in
	1)
		not_ok "$name $direction" "$why"
		return
		;;
	2)
		skip "$name $direction" "$why"
		return
		;;
	esac
	images=$vdir/images
	options=$(victim_options "$name")
	# shellcheck disable=SC2086
	if ! dump "$dumper" "$pid" "$images" $options; then
		not_ok "$name $direction" "$why"
	elif [ "$dumper" = "$FERRY" ] && ! decode_all "$images"; then
		not_ok "$name $direction" "$why"
	elif [ -n "$lacks" ]; then
		echo "# $name: only decoded, as CRIU's restore $lacks"
		ok "$name crit"
	elif ! wait_gone "$pid"; then
		not_ok "$name $direction" "after the dump its pid $pid is still taken"
	elif ! restore "$restorer" "$images" $options; then
		not_ok "$name $direction" "$why"
	elif ! verdict; then
		not_ok "$name $direction" "$why"
	else
		ok "$name $direction"
	fi
	kill_tree "$pid"
	[ -n "${KEEP:-}" ] || rm -rf "$vdir"
}

for name in ${*:-$(all_victims)}; do
	check "$name" "ferry to criu" "$FERRY" "$CRIU"
	check "$name" "criu to ferry" "$CRIU" "$FERRY"
done
finish
