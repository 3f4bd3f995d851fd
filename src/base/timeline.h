// SPDX-License-Identifier: Apache-2.0
/*
 * What happened when, across processes: --timeline FILE. Chrome's trace format (JSON array; its
 * closing bracket is optional), which chrome://tracing and ui.perfetto.dev show. Every process appends its
 * lines to the same file, on the real-time clock, so that the two sides of a migration can be laid over each other.
 * Off by default; then each call costs one comparison.
 */
#ifndef FERRY_BASE_TIMELINE_H
#define FERRY_BASE_TIMELINE_H

#include "base/err.h"

#include <stdint.h>

/* @who: the name of this process in the picture; a constant. -1: the file cannot be written. */
int timeline_open(const char *path, const char *who, struct err *err) must_check;

/* Microseconds of the real-time clock. */
uint64_t timeline_now(void);

/* Something took from @start (timeline_now) until now. Names have no quotes or backslashes. */
void timeline_span(const char *name, uint64_t start);

/* Something happened now. */
void timeline_mark(const char *name);

#endif
