#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The demo: a busy service moves from one host to another and back while it works.
#
#   demo/run.sh             (as root; "make demo" also builds first)
#
# Sets up two hosts (tests/hosts/hosts.sh), starts service.py on ferry-a, moves it to ferry-b with
# "ferry migrate PID ferry-b" over ssh, moves it back, and ends it. Then check.py computes again all
# that the service wrote to its log. Exits with 1 if anything at all was not as it should be.
# FERRY names the program (default build/src/cmd/ferry); FERRY_DEMO_SECONDS is how long the service
# works on each leg (default 4).

set -u
here=$(dirname "$(readlink -f "$0")")
top=$(dirname "$here")
ferry=${FERRY:-$top/${BUILD:-build}/src/cmd/ferry}
leg_seconds=${FERRY_DEMO_SECONDS:-4}
# shellcheck source=tests/hosts/hosts.sh
. "$top/tests/hosts/hosts.sh"

service=/opt/demo/service.py
log=/srv/work/service.log
pid_file=/srv/work/service.pid

if [ -t 1 ]; then
	bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
	bold='' dim='' green='' red='' plain=''
fi

step() {
	printf '\n%s%s%s\n' "$bold" "$*" "$plain"
}

good() {
	printf '  %sok%s  %s\n' "$green" "$plain" "$*"
}

fail() {
	printf '  %sfailed%s  %s\n' "$red" "$plain" "$*"
	exit 1
}

dir=
finish() {
	[ -z "$dir" ] || hosts_down "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

on() {
	hosts_exec "$dir" "$@" </dev/null
}

# Prints the service's tasks on a host, one per line: PID, thread id, parent, name.
tasks() {
	on "$1" ps -L -o pid=,lwp=,ppid=,comm= --sid "$pid" | sort -n -k1,1 -k2,2
}

# The service's last whole line so far.
sequence() {
	tail -n 2 "$(hosts_root "$dir" "$1")$log" | head -n 1 | cut -d ' ' -f 1
}

show() {
	local host=$1
	# shellcheck disable=SC2046 # one word per field
	set -- $(tail -n 2 "$(hosts_root "$dir" "$host")$log" | head -n 1)
	printf '%s  ferry-%s: line %s of the log: %s primes, %s hashes, %s + %s answers of children%s\n' \
		"$dim" "$host" "$1" "$5" "$6" "$8" "${11}" "$plain"
}

# move FROM TO [OPTION]...: migrates the service, and measures from its own log how long it stood still.
move() {
	local from=$1 to=$2 before after first last largest usual start end
	shift 2
	step "ferry-$from\$ ferry migrate${*:+ $*} $pid ferry-$to"
	before=$(tasks "$from")
	first=$(sequence "$from")
	start=$EPOCHREALTIME
	# The terminal is passed on, so that the progress shows.
	hosts_exec "$dir" "$from" timeout 60 ferry migrate "$@" "$pid" "ferry-$to" || fail "ferry migrate: exit status $?"
	end=$EPOCHREALTIME
	sleep 0.5
	after=$(tasks "$to")
	[ -n "$after" ] || fail "no service on ferry-$to"
	[ -z "$(tasks "$from")" ] || fail "the service still runs on ferry-$from"
	good "gone from ferry-$from, runs on ferry-$to"
	if [ "$(clean "$before")" = "$(clean "$after")" ]; then
		good "same PIDs, thread ids and parents: $(echo "$after" | awk '{ print $2 }' | paste -sd ' ')"
	else
		diff <(echo "$before") <(echo "$after")
		fail "PIDs, thread ids or parents are not the same"
	fi
	sleep 0.5
	last=$(sequence "$to")
	[ "$last" -gt "$first" ] || fail "the log does not grow on ferry-$to"
	show "$to"
	read -r largest usual < <("$here/check.py" "$(hosts_root "$dir" "$to")$log" --gap "$first" "$last")
	good "${bold}stood still for $largest ms$plain by its own log (usual step $usual ms)," \
		"migrate took $(awk -v a="$start" -v b="$end" 'BEGIN { printf "%.2f s", b - a }') in all"
}

# A service started by hand belongs to pid 1, one that came with ferry to whatever restored it.
clean() {
	awk -v top="$pid" '{ print $1, $2, $1 == top ? "-" : $3, $4 }' <<<"$1"
}

[ "$(id -u)" = 0 ] || fail "namespaces and checkpoints need root"
[ -x "$ferry" ] || fail "$ferry is not built: run make first"
export PYTHONDONTWRITEBYTECODE=1
dir=$(mktemp -d "${TMPDIR:-/tmp}/ferry-demo.XXXXXX") || exit 1

step "Two hosts, joined by a cable"
hosts_up "$dir" --ferry "$ferry" || fail "no hosts"
good "ferry-a and ferry-b: own processes, files, host names; ssh between them works"

step "A busy service on ferry-a"
hosts_put "$dir" a "$here/service.py" $service || fail "cannot copy the service"
hosts_spawn "$dir" a /srv/work/service.out $service $log $pid_file || fail "cannot start the service"
for ((i = 0; i < 100; i++)); do
	pid=$(cat "$(hosts_root "$dir" a)$pid_file" 2>/dev/null) && break
	sleep 0.1
done
[ -n "${pid:-}" ] || fail "the service does not start: $(on a cat /srv/work/service.out)"
on a ps -L -o pid,lwp,ppid,comm --sid "$pid" | sed 's/^/  /'
sleep "$leg_seconds"
show a

# Its files go along, so that it needs nothing of ferry-a; without --files=copy they would stay there until they are used.
move a b --files=copy
sleep "$leg_seconds"
show b
# The log that was left on ferry-a is older than the one that comes back.
move b a --files=copy --overwrite-files
sleep "$leg_seconds"

step "The end, and the proof"
show a
on a kill -TERM "$pid" || fail "cannot end the service"
for ((i = 0; i < 50; i++)); do
	[ -n "$(tasks a)" ] || break
	sleep 0.1
done
[ -z "$(tasks a)" ] || fail "the service does not end on SIGTERM"
errors=$(on a cat /srv/work/service.out)
[ -z "$errors" ] || fail "the service complained: $errors"
summary=$("$here/check.py" "$(hosts_root "$dir" a)$log") || fail "$summary"
good "$summary"
good "no hole, no repeat, and every number computed again agrees"
