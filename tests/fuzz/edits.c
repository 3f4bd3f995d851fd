// SPDX-License-Identifier: Apache-2.0
/*
 * A good snapshot with some fields changed, into the corners of the
 * verification. What is found good must keep the promises, and save and load
 * again.
 */
#define LOG_MODULE "fuzz"
#include "sample.h"
#include "snapshot_edit.h"
#include "snapshot_walk.h"

#include "base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snapshot *snap = sample_snapshot();
	struct err err = {0};

	log_init(2, LOG_ERROR);
	snapshot_edit(snap, data, size);
	if (!snapshot_verify(snap, &err)) {
		snapshot_walk(snap);
		snapshot_round_trip(snap);
	} else if (!err.text[0]) {
		__builtin_trap();
	}
	snapshot_free(snap);
	return 0;
}
