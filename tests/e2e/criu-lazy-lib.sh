# shellcheck shell=bash disable=SC2034,SC2154 # why is for the test, which sets work, pid and CRIU
# SPDX-License-Identifier: Apache-2.0
# What the tests have in common in which real CRIU restores a tree that has no memory yet. To be sourced after lib.sh.

# criu_fetches_pages IMAGES PORT [OPTION...]: criu lazy-pages and criu restore, in a pid namespace of their own, as the
# source lives until the end; from whoever listens at the port. The program then finds its memory whole.
criu_fetches_pages() {
	local there=$work/there images=$1 port=$2
	shift 2
	cp -a "$images" "$there"
	cat >"$work/restore.sh" <<-END
		cd "$there"
		"$CRIU" lazy-pages --page-server --address 127.0.0.1 --port $port -D . -o lazy.log -v4 $* &
		lazy=\$!
		for i in \$(seq 200); do [ -S lazy-pages.socket ] && break; sleep 0.02; done
		"$CRIU" restore -d -D . -o restore.log -v4 --lazy-pages || exit 1
		wait \$lazy || exit 2
		kill -USR1 $pid
		for i in \$(seq 300); do [ -s "$work/report" ] && exit 0; sleep 0.02; done
		exit 3
	END
	timeout -k 5 60 unshare --pid --mount --fork --kill-child --mount-proc sh "$work/restore.sh" \
		>"$work/restore.out" 2>&1 || {
		why="status $?: $(tail -n 2 "$there/restore.log" "$there/lazy.log" "$work/restore.out")"
		return 1
	}
	grep -q ok "$work/report" || { why="wrong memory: $(cat "$work/report")" && return 1; }
}
