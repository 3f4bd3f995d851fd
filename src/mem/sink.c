// SPDX-License-Identifier: Apache-2.0
#include "mem/sink.h"

int pagemap_add(struct snapshot *snap, struct snap_pagemap *pm, uint64_t vaddr, uint64_t n,
		uint32_t flags, struct err *err)
{
	PagemapEntry *last = pm->entries.n ? pm->entries.v[pm->entries.n - 1] : NULL;
	PagemapEntry *e;

	if (last && last->flags == flags && last->vaddr + last->nr_pages * PAGE_BYTES == vaddr) {
		last->nr_pages += n;
		return 0;
	}
	e = snap_new(snap, PagemapEntry, pagemap_entry);
	if (!e || !vec_push(&pm->entries, e))
		return err_nomem(err);
	e->vaddr = vaddr;
	e->has_flags = e->has_nr_pages = true;
	e->flags = flags;
	e->nr_pages = n;
	return 0;
}

/* ---- a store ---- */

static int store_begin(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	return 0;
}

static int store_pages(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr,
		       const void *data, uint64_t n, uint32_t flags, struct err *err)
{
	struct store_sink *sink = (struct store_sink *)s;

	if (!sink->announced && pagemap_add(sink->snap, pm, vaddr, n, flags, err))
		return -1;
	return store_put_pages(sink->store, pm->pages_id, data, n * PAGE_BYTES, err);
}

static int store_absent(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr, uint64_t n,
			uint32_t flags, struct err *err)
{
	return pagemap_add(((struct store_sink *)s)->snap, pm, vaddr, n, flags, err);
}

static int store_end(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	return store_put_pages(((struct store_sink *)s)->store, pm->pages_id, NULL, 0, err);
}

static const struct page_sink_ops store_sink_ops = {
	.name = "store",
	.begin = store_begin,
	.pages = store_pages,
	.absent = store_absent,
	.end = store_end,
};

void store_sink_init(struct store_sink *s, struct snapshot *snap, struct store *store)
{
	s->sink.ops = &store_sink_ops;
	s->snap = snap;
	s->store = store;
	s->announced = false;
}
