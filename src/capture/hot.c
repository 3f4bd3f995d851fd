// SPDX-License-Identifier: Apache-2.0
/*
 * Pages that every thread touches before it has done anything: its stack, and what is around its thread pointer, with
 * the area of rseq(2) that the restore itself and the kernel write to. If they came late each would
 * cost a round trip, some of them before the tree runs.
 */
#include "capture/session.h"

#include <stdlib.h>

enum { PAGES_OF_THREAD = 4, RED_ZONE_BYTES = 128 };

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int hot_pages(const struct live_task *t, mem_ranges *out, struct err *err)
{
	cleanup_free uint64_t *at = calloc(t->threads.n + 1, PAGES_OF_THREAD * sizeof(*at));
	size_t n = 0;

	if (!at)
		return err_nomem(err);
	vec_foreach (th, &t->threads) {
		at[n++] = th->regs.rsp;
		at[n++] = th->regs.rsp - RED_ZONE_BYTES;
		at[n++] = th->regs.fs_base;
		at[n++] = th->rseq;
	}
	for (size_t i = 0; i < n; i++)
		at[i] &= ~(PAGE_BYTES - 1);
	qsort(at, n, sizeof(*at), by_number);
	for (size_t i = 0; i < n; i++)
		if (at[i] && (i == 0 || at[i] != at[i - 1]) &&
		    mem_ranges_push(out, at[i], at[i] + PAGE_BYTES, err))
			return -1;
	return 0;
}
