#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What ferry agent --files gives away to a client that asks for what it should not have.
. "$(dirname "$0")/lib.sh"
requires python3
requires_root

mkdir "$TEST_TMP/jail"
why=$(timeout 60 python3 tests/e2e/lazyfs-client.py "$FERRY" "$TEST_TMP/jail" 2>&1 </dev/null)
if [ -z "$why" ]; then
	ok "the source gives away what the tree has, and no more"
else
	not_ok "the source gives away what the tree has, and no more" "$why"
fi
finish
