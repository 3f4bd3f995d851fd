#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# The sacred program: rounds of dump --leave-running of a busy program with many threads, the command
# killed by SIGKILL at a random moment. The program never dies, never computes wrong, is traced by
# nobody, and has in the end the maps and descriptors that it had. FERRY_FULL=1: 1,000 kills.
. "$(dirname "$0")/lib.sh"
requires_root

wanted=100 # commands that were killed at work
[ -z "${FERRY_FULL:-}" ] || wanted=1000

start_victim busy || {
	not_ok busy "$why"
	finish
}
if tests/e2e/kill-rounds.py "$ENGINE" "$pid" "$vdir" $wanted "${FERRY_SEED:-4711}" >"$vdir/rounds" 2>&1; then
	sed 's/^/# /' "$vdir/rounds"
	ok "killed rounds"
else
	not_ok "killed rounds" "$(tail -n 5 "$vdir/rounds")"
fi
if alive "$pid" && verdict; then
	ok "verdict"
else
	not_ok "verdict" "$why"
fi
finish
