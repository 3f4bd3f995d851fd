// SPDX-License-Identifier: Apache-2.0
/*
 * Page sinks: where drained pages go, one pagemap after the other. A sink says
 * what it does with the entries of the pagemap: one that keeps images adds them to
 * the pagemap itself, one that sends pages away leaves it empty.
 */
#ifndef FERRY_MEM_SINK_H
#define FERRY_MEM_SINK_H

#include "base/attrs.h"
#include "base/err.h"
#include "snapshot/snapshot.h"
#include "store/store.h"

struct page_sink;

struct page_sink_ops {
	const char *name;
	/* A pagemap begins; its id and shmem are set. Only one at a time. */
	int (*begin)(struct page_sink *s, struct snap_pagemap *pm, struct err *err);
	/* @n pages with their contents; @flags: PE_PRESENT, and PE_LAZY perhaps. Ascending addresses. */
	int (*pages)(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr, const void *data,
		     uint64_t n, uint32_t flags, struct err *err);
	/* @n pages whose contents do not come this way: in the parent (PE_PARENT), or later (PE_LAZY). */
	int (*absent)(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr, uint64_t n,
		      uint32_t flags, struct err *err);
	int (*end)(struct page_sink *s, struct snap_pagemap *pm, struct err *err);
};

/* Implementations embed this first. */
struct page_sink {
	const struct page_sink_ops *ops;
	/* Set by begin: it is known that there is no earlier image of this pagemap, so nothing is in the parent. */
	bool no_parent;
};

/* Pages into a store, entries into the pagemap (whose pages_id is set). */
struct store_sink {
	struct page_sink sink;
	struct snapshot *snap; /* its arena gets the entries */
	struct store *store;
	bool announced; /* the pagemap has its entries already (memory_options.announce) */
};
void store_sink_init(struct store_sink *s, struct snapshot *snap, struct store *store);

/* Adds @n pages with @flags to a pagemap: the last entry grows if they continue it. */
int pagemap_add(struct snapshot *snap, struct snap_pagemap *pm, uint64_t vaddr, uint64_t n,
		uint32_t flags, struct err *err) must_check;

#endif
