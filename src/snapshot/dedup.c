// SPDX-License-Identifier: Apache-2.0
#include "snapshot/dedup.h"

#include "store/store.h"

/* Punches what entry @e of a parent, at offset @off of its pages image, has in common with @own. */
static int punch_entry(const struct snap_pagemap *own, size_t *at, const PagemapEntry *e,
		       uint64_t off, struct store *store, uint32_t pages_id, uint64_t *bytes,
		       struct err *err)
{
	uint64_t end = e->vaddr + e->nr_pages * PAGE_BYTES;

	while (*at < own->entries.n &&
	       own->entries.v[*at]->vaddr + own->entries.v[*at]->nr_pages * PAGE_BYTES <= e->vaddr)
		++*at;
	for (size_t i = *at; i < own->entries.n && own->entries.v[i]->vaddr < end; i++) {
		const PagemapEntry *o = own->entries.v[i];
		uint64_t from = MAX(o->vaddr, e->vaddr);
		uint64_t to = MIN(o->vaddr + o->nr_pages * PAGE_BYTES, end);

		if (!(o->flags & PE_PRESENT))
			continue;
		if (store_punch_pages(store, pages_id, off + (from - e->vaddr), to - from, err))
			return -1;
		*bytes += to - from;
	}
	return 0;
}

static int punch_level(const struct snap_pagemap *own, const struct snap_pagemap *parent,
		       struct store *store, uint64_t *bytes, struct err *err)
{
	uint64_t off = 0;
	size_t at = 0;

	vec_foreach (e, &parent->entries) {
		if (!((*e)->flags & PE_PRESENT))
			continue;
		if (punch_entry(own, &at, *e, off, store, parent->pages_id, bytes, err))
			return -1;
		off += (*e)->nr_pages * PAGE_BYTES;
	}
	return 0;
}

/* 1: there is more above this level; 0: no; -1. */
static int punch_parent(const struct snap_pagemap *own, struct store *parent, uint64_t *bytes,
			struct err *err)
{
	struct snapshot *scratch = snapshot_create(err);
	struct snap_pagemap *pm = NULL;
	int rc = scratch ? snapshot_load_pagemap(scratch, parent, own->shmem, own->id, &pm, err) : -1;

	if (rc == 1 && punch_level(own, pm, parent, bytes, err))
		rc = -1;
	snapshot_pagemap_free(pm);
	snapshot_free(scratch);
	return rc;
}

int dedup_parents(const struct snap_pagemap *own, struct store *store, uint64_t *bytes,
		  struct err *err)
{
	int rc;

	do {
		if (store_parent(store, &store, err))
			return -1;
		rc = store ? punch_parent(own, store, bytes, err) : 0;
	} while (rc == 1);
	return rc;
}
