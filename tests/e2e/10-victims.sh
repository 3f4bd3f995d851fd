#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# Each victim is dumped, which ends it, restored, and then finds its state as it was.
# Names as arguments: only those.
. "$(dirname "$0")/lib.sh"
requires_root

for name in ${*:-$(all_victims)}; do
	round_trip "$name" "$ENGINE" "$ENGINE"
done
finish
