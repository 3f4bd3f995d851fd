// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes between two pairs of descriptors, in both directions: what ssh does between its standard
 * descriptors and the far side.
 */
#ifndef FERRY_WIRE_PUMP_H
#define FERRY_WIRE_PUMP_H

#include "base/attrs.h"
#include "base/err.h"

/* One end: two pipes, or one socket twice. */
struct pump_end {
	int in, out;
};

/*
 * Until @far has ended and what it said has been passed on to @near, or @near takes no more: as with
 * ssh, the far side's end is the end. The end of @near is passed on. Takes all descriptors, and makes them
 * nonblocking. Errors are those of poll(2) and of memory only.
 */
int pump_run(struct pump_end near, struct pump_end far, struct err *err) must_check;

#endif
