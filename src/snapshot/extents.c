// SPDX-License-Identifier: Apache-2.0
/*
 * A page that a pagemap marks PE_PARENT is looked up in the pagemap of the
 * parent, where it may be marked so again. Entries of a level may be split or
 * joined differently from those above. Questions to each level ascend, so that one
 * pass over all entries is enough.
 */
#include "snapshot/extents.h"

#include <errno.h>

/* How far a level has been read. */
struct level {
	const struct snap_pagemap *pm;
	size_t entry;
	uint64_t off; /* of the entry's bytes in the pages image */
};
typedef VEC(struct level) levels;

static uint64_t entry_end(const PagemapEntry *e)
{
	return e->vaddr + e->nr_pages * PAGE_BYTES;
}

static int not_there(const struct snap_pagemap *pm, uint64_t vaddr, const char *what, struct err *err)
{
	char name[64];

	return err_set(err, EINVAL, "%s: the page at 0x%llx %s", snapshot_pagemap_name(pm, name),
		       (unsigned long long)vaddr, what);
}

/* The entry of a level that holds @at. */
static const PagemapEntry *entry_at(struct level *l, uint64_t at)
{
	const PagemapEntry *e;

	for (; l->entry < l->pm->entries.n; l->entry++) {
		e = l->pm->entries.v[l->entry];
		if (entry_end(e) > at)
			return e->vaddr <= at ? e : NULL;
		if (e->flags & PE_PRESENT)
			l->off += e->nr_pages * PAGE_BYTES;
	}
	return NULL;
}

/* The extents of [from, to), from level @at on downwards. */
static int take(levels *all, unsigned int at, uint64_t from, uint64_t to, snap_extents *out,
		struct err *err)
{
	const PagemapEntry *e;
	struct level *l;
	uint64_t end;

	if (at == all->n)
		return not_there(all->v[at - 1].pm, from,
				 "is in a parent directory of images, which is missing", err);
	for (; from < to; from = end) {
		l = &all->v[at];
		e = entry_at(l, from);
		if (!e)
			return not_there(l->pm, from,
					 "is missing in this parent directory of images", err);
		end = MIN(to, entry_end(e));
		if (e->flags & PE_PRESENT) {
			struct snap_extent x = {.vaddr = from,
						.n_pages = (end - from) / PAGE_BYTES,
						.off = l->off + (from - e->vaddr),
						.pages_id = l->pm->pages_id,
						.level = at};

			if (!vec_push(out, x))
				return err_nomem(err);
		} else if (!(e->flags & PE_PARENT)) {
			return not_there(l->pm, from,
					 "was left at the source by a dump that others build on",
					 err);
		} else if (take(all, at + 1, from, end, out, err)) {
			return -1;
		}
	}
	return 0;
}

int pagemap_extents(const struct snap_pagemap *pm, uint64_t from, uint64_t to, snap_extents *out,
		    struct err *err)
{
	const struct snap_pagemap *p = pm;
	levels all = {0};
	int rc = 0;

	do {
		if (!vec_push(&all, (struct level){.pm = p})) {
			vec_free(&all);
			return err_nomem(err);
		}
		p = p->parent;
	} while (p);
	vec_foreach (entry, &pm->entries) {
		size_t known = out->n;
		uint64_t start = MAX((*entry)->vaddr, from), end = MIN(entry_end(*entry), to);

		if (start >= end || !((*entry)->flags & (PE_PRESENT | PE_PARENT)))
			continue;
		rc = take(&all, 0, start, end, out, err);
		if (rc)
			break;
		for (size_t i = known; i < out->n; i++)
			out->v[i].lazy = (*entry)->flags & PE_LAZY;
	}
	vec_free(&all);
	return rc;
}
