// SPDX-License-Identifier: Apache-2.0
/*
 * Edits of a good snapshot, directed by the input of a fuzzer: each names a
 * message, a field, and what becomes of it. So the input gets past the decoder.
 */
#ifndef FERRY_TESTS_SNAPSHOT_EDIT_H
#define FERRY_TESTS_SNAPSHOT_EDIT_H

#include "snapshot/snapshot.h"

/* Applies the edits in the data, at most 16. */
void snapshot_edit(struct snapshot *snap, const uint8_t *data, size_t size);

#endif
