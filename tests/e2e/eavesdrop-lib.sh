# shellcheck shell=bash disable=SC2034,SC2154 # why is for the test, which sets work
# SPDX-License-Identifier: Apache-2.0
# What the tests that listen in (tests/e2e/eavesdrop) have in common. To be sourced after lib.sh.

result() { # NAME: of the last command
	if [ $? = 0 ]; then ok "$1"; else not_ok "$1" "${why:-}"; fi
}

# Pieces of the program's memory that went by: none, or some.
overheard() { # none | some
	local n
	n=$(tests/e2e/eavesdrop count "$work/pieces" "$work/bytes.*" 2>&1)
	case $1/$n in
	none/0 | some/[1-9]*) ;;
	*) why="overheard: $n" && return 1 ;;
	esac
}
