# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# An image-cache and an image-proxy, and dump and restore through them. Sourced after lib.sh.

result() { # NAME: of the last command
	if [ $? = 0 ]; then ok "$1"; else not_ok "$1" "${why:-}"; fi
}

secret=$TEST_TMP/secret
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$secret"
chmod 600 "$secret"

# relay COMMAND DIR [OPTION...]: in the background; sets relay when it listens.
relay() {
	local command=$1 dir=$2
	shift 2
	mkdir -p "$dir"
	rm -f "$dir/ready"
	mkfifo "$dir/ready"
	timeout -k 5 200 "$FERRY" "$command" -W "$dir" -o "$command.log" -v3 --timeline "$TEST_TMP/timeline" \
		--status-fd 7 "$@" 7>"$dir/ready" >"$dir/$command.out" 2>&1 &
	relay=$!
	[ "$(timeout 20 head -c 1 "$dir/ready" | wc -c)" = 1 ] || {
		why="$command does not listen: $(cat "$dir/$command.out")"
		return 1
	}
}

# relays NAME [CACHE-OPTION...]: both; sets src, dst, cache, proxy.
relays() {
	src=$TEST_TMP/$1/src
	dst=$TEST_TMP/$1/dst
	mkdir -p "$src" "$dst"
	shift
	relay image-cache "$dst" --secret-file "$secret" "$@" || return 1
	cache=$relay
	port=$(cat "$dst/image-cache.out")
	relay image-proxy "$src" --port "$port" --secret-file "$secret" ${PROXY_OPTIONS:-} || return 1
	proxy=$relay
}

end_relays() {
	kill "$cache" "$proxy" 2>/dev/null
	wait "$cache" "$proxy" 2>/dev/null
}

remote_dump() { # PID [OPTION...]
	timeout -k 5 60 "$FERRY" dump -t "$1" --remote -D "$src" -W "$src" -o dump.log -v4 "${@:2}" >"$src/dump.out" 2>&1 </dev/null ||
		{ why="dump: $(cat "$src/dump.out")" && return 1; }
}

remote_restore() { # [OPTION...]
	timeout -k 5 60 "$FERRY" restore -d --remote -D "$dst" -W "$dst" -o restore.log -v4 "$@" >"$dst/restore.out" 2>&1 </dev/null ||
		{ why="restore: $(cat "$dst/restore.out")" && return 1; }
}
