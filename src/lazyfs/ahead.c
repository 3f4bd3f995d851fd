// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/ahead.h"

#include "base/attrs.h"

bool ahead_jumps(const struct ahead *a, uint64_t at)
{
	return at > a->next + AHEAD_SLACK / 4 || at + AHEAD_SLACK < a->next;
}

/*
 * A file that is read from its beginning is probably read to its end; so is a
 * place at which two reads have met.
 */
uint64_t ahead_plan(struct ahead *a, uint64_t at, uint64_t bytes)
{
	uint64_t end = at + bytes;

	if (ahead_jumps(a, at)) {
		*a = (struct ahead){.next = end};
		return end;
	}
	if (end <= a->next)
		return end; /* a request that was overtaken */
	a->next = end;
	/* the next piece is asked for when half of the last one is used */
	if (a->asked > end && a->asked - end > a->window / 2)
		return end;
	a->window = a->window ? MIN(a->window * 2, (uint64_t)AHEAD_MOST) : AHEAD_FIRST;
	a->asked = end + a->window;
	return a->asked;
}
