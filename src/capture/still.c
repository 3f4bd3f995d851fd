// SPDX-License-Identifier: Apache-2.0
#include "capture/still.h"

#include "mem/read.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH_PAGES = 64 };

/* The first remembered page at @vaddr or behind it. */
static size_t first_from(const struct still *s, uint64_t vaddr)
{
	size_t low = 0, high = s->pages.n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (s->pages.v[mid].vaddr < vaddr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static void put_new(struct still *s, uint64_t vaddr, const void *data, size_t *room)
{
	struct still_page page = {.vaddr = vaddr};

	if (*room)
		page.data = malloc(PAGE_BYTES);
	if (!page.data || !vec_push(&s->fresh, page)) {
		free(page.data);
		s->full = true;
		return;
	}
	memcpy(page.data, data, PAGE_BYTES);
	--*room;
}

void still_put(struct still *s, uint64_t vaddr, const void *data, uint64_t n, size_t *room)
{
	size_t i = first_from(s, vaddr);

	for (uint64_t k = 0; k < n; k++) {
		uint64_t at = vaddr + k * PAGE_BYTES;
		const uint8_t *page = (const uint8_t *)data + k * PAGE_BYTES;

		if (i == s->pages.n || s->pages.v[i].vaddr != at)
			put_new(s, at, page, room);
		else
			memcpy(s->pages.v[i++].data, page, PAGE_BYTES);
	}
}

void still_drop(struct still *s, uint64_t vaddr, uint64_t n)
{
	for (size_t i = first_from(s, vaddr);
	     i < s->pages.n && s->pages.v[i].vaddr < vaddr + n * PAGE_BYTES; i++) {
		free(s->pages.v[i].data);
		s->pages.v[i].data = NULL;
	}
}

static int by_vaddr(const void *a, const void *b)
{
	const struct still_page *x = a, *y = b;

	return x->vaddr < y->vaddr ? -1 : x->vaddr > y->vaddr;
}

void still_settle(struct still *s, size_t *room)
{
	size_t kept = 0;
	bool ok = true;

	vec_foreach (p, &s->pages) {
		if (p->data)
			s->pages.v[kept++] = *p;
		else
			++*room;
	}
	s->pages.n = kept;
	vec_foreach (p, &s->fresh) {
		if (ok && vec_push(&s->pages, *p))
			p->data = NULL;
		else
			ok = false;
	}
	if (!ok) {
		still_clear(s, room);
		s->full = true;
		return;
	}
	if (s->fresh.n && kept)
		qsort(s->pages.v, s->pages.n, sizeof(s->pages.v[0]), by_vaddr);
	vec_free(&s->fresh);
}

void still_clear(struct still *s, size_t *room)
{
	vec_foreach (p, &s->pages)
		free(p->data);
	vec_foreach (p, &s->fresh) {
		free(p->data);
		*room += p->data != NULL;
	}
	*room += s->pages.n;
	vec_free(&s->pages);
	vec_free(&s->fresh);
	s->full = false;
}

/* ---- comparing ---- */

/* How many pages from @i on follow each other before @end. */
static size_t run_length(const struct still *s, size_t i, uint64_t end)
{
	uint64_t start = s->pages.v[i].vaddr;
	size_t n = 1;

	while (n < BATCH_PAGES && i + n < s->pages.n &&
	       s->pages.v[i + n].vaddr == start + n * PAGE_BYTES && start + n * PAGE_BYTES < end)
		n++;
	return n;
}

static int compare_run(const struct still *s, const struct task_memory *mem, size_t i, size_t n,
		       track_regions *out, struct err *err)
{
	uint8_t now[BATCH_PAGES * PAGE_BYTES];
	uint64_t at = s->pages.v[i].vaddr;
	struct err gone;

	/* it runs, and the page is not there any more */
	if (task_memory_read(mem, at, now, n * PAGE_BYTES, &gone) < 0)
		return track_push(out, at, at + n * PAGE_BYTES, true, err);
	for (size_t k = 0; k < n; k++, at += PAGE_BYTES) {
		bool same = !memcmp(now + k * PAGE_BYTES, s->pages.v[i + k].data, PAGE_BYTES);

		if (track_push(out, at, at + PAGE_BYTES, !same, err) < 0)
			return -1;
	}
	return 0;
}

static int compare_region(const struct still *s, const struct task_memory *mem,
			  const struct track_region *r, track_regions *out, struct err *err)
{
	uint64_t at = r->start;
	size_t i = first_from(s, at), n;

	while (at < r->end) {
		uint64_t next = i < s->pages.n ? MIN(s->pages.v[i].vaddr, r->end) : r->end;

		if (at < next && track_push(out, at, next, true, err) < 0)
			return -1;
		at = next;
		if (at == r->end)
			break;
		n = run_length(s, i, r->end);
		if (compare_run(s, mem, i, n, out, err) < 0)
			return -1;
		at += n * PAGE_BYTES;
		i += n;
	}
	return 0;
}

int still_compare(const struct still *s, pid_t pid, track_regions *regions, struct err *err)
{
	track_regions out = {0};
	struct task_memory mem;
	struct err gone;
	int rc = 0;

	if (!s->pages.n || task_memory_open(&mem, pid, &gone) < 0)
		return 0;
	vec_foreach (r, regions) {
		if (rc == 0)
			rc = r->dirty ? compare_region(s, &mem, r, &out, err) :
					track_push(&out, r->start, r->end, false, err);
	}
	task_memory_close(&mem);
	if (rc == 0) {
		vec_free(regions);
		*regions = out;
	} else {
		vec_free(&out);
	}
	return rc;
}
