// SPDX-License-Identifier: Apache-2.0
#include "migrate/kept.h"

#include "base/map.h"
#include "mem/ranges.h"
#include "migrate/area.h"

#include <stdlib.h>

struct kept {
	struct store *area;
	struct map objects; /* of mem_ranges */
	VEC(mem_ranges *) all;
};

struct kept *kept_create(struct store *area, struct err *err)
{
	struct kept *k = calloc(1, sizeof(*k));

	if (!k) {
		err_nomem(err);
		return NULL;
	}
	k->area = area;
	return k;
}

void kept_free(struct kept *k)
{
	if (!k)
		return;
	vec_foreach (r, &k->all) {
		vec_free(*r);
		free(*r);
	}
	vec_free(&k->all);
	map_free(&k->objects);
	free(k);
}

static mem_ranges *ranges_of(struct kept *k, lazy_object object, struct err *err)
{
	mem_ranges *r = map_get(&k->objects, object);

	if (r)
		return r;
	r = calloc(1, sizeof(*r));
	if (!r || !vec_push(&k->all, r)) {
		free(r);
		err_nomem(err);
		return NULL;
	}
	if (!map_set(&k->objects, object, r)) {
		err_nomem(err);
		return NULL;
	}
	return r;
}

int kept_add(struct kept *k, lazy_object object, uint64_t vaddr, uint64_t pages, struct err *err)
{
	mem_ranges *r = ranges_of(k, object, err);

	/* later is too late to find out: the tree will run */
	if (!r || area_has(k->area, object, vaddr, pages * PAGE_BYTES, err) < 0)
		return -1;
	return mem_ranges_push(r, vaddr, vaddr + pages * PAGE_BYTES, err);
}

uint64_t kept_extent(const struct kept *k, lazy_object object, uint64_t vaddr, uint64_t pages,
		     bool *here_out)
{
	const mem_ranges *r = map_get(&k->objects, object);
	uint64_t end = vaddr + pages * PAGE_BYTES;
	size_t low = 0, high = r ? r->n : 0, mid;

	while (low < high) {
		mid = low + (high - low) / 2;
		if (r->v[mid].end <= vaddr)
			low = mid + 1;
		else
			high = mid;
	}
	*here_out = r && low < r->n && r->v[low].start <= vaddr;
	if (*here_out)
		end = MIN(end, r->v[low].end);
	else if (r && low < r->n)
		end = MIN(end, r->v[low].start);
	return (end - vaddr) / PAGE_BYTES;
}

int kept_read(struct kept *k, lazy_object object, uint64_t vaddr, void *buf, uint64_t pages,
	      struct err *err)
{
	return area_read(k->area, object, vaddr, buf, pages * PAGE_BYTES, err);
}

uint64_t kept_pages(const struct kept *k)
{
	uint64_t bytes = 0;

	vec_foreach (r, &k->all)
		bytes += mem_ranges_bytes(*r);
	return bytes / PAGE_BYTES;
}
