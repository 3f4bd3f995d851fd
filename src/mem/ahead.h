// SPDX-License-Identifier: Apache-2.0
/*
 * Reading ahead: a second thread reads the next chunks of a large task while the
 * last one is written or sent. It has several to do, so that neither thread waits for
 * the other to wake up after each. Whatever it cannot do its owner does itself, so
 * none of this can fail: of a task that may be read only by its tracer, for example,
 * the owner reads everything.
 */
#ifndef FERRY_MEM_AHEAD_H
#define FERRY_MEM_AHEAD_H

#include "base/attrs.h"
#include "mem/read.h"

#include <stdbool.h>

struct ahead;

/* Chunks of up to @bytes of this task; @mem must outlive it. NULL: not enough memory or threads. */
struct ahead *ahead_open(const struct task_memory *mem, size_t bytes);

/* Has a chunk read after those that were started before. False: it has enough to do, take one first. */
bool ahead_start(struct ahead *a, uint64_t addr, size_t bytes);

/*
 * Waits for the oldest chunk that was started and not yet taken. NULL: it is not this one (and is left for a
 * later call), or it could not be read. The bytes stay until the next call. @a may be NULL.
 */
const uint8_t *ahead_take(struct ahead *a, uint64_t addr, size_t bytes);

/* Ends the thread. NULL is allowed. */
void ahead_close(struct ahead *a);

#endif
