// SPDX-License-Identifier: Apache-2.0
/*
 * Address spaces with memory that comes later.
 *
 * Areas with such pages are registered with a userfaultfd of the task, and what is there
 * already is placed page by page through that (a write would fault, and a huge page
 * would cover missing ones with zeros). Huge pages are had where 2 MiB are complete: those are
 * written before the area is registered. After that there is no way to place one.
 */
#include "restore/space.h"

#include "base/io.h"
#include "mem/lazy.h"
#include "mem/uffd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define HUGE_BYTES (2UL << 20)

enum {
	MADV_BIT_HUGEPAGE = 14,
	MADV_BIT_NOHUGEPAGE = 15,
	VMA_FLAG_DROPPABLE = 8,
};

/* Do the pages of an entry come later? */
static bool later(const struct restore_session *s, const PagemapEntry *e)
{
	uint32_t flags = pagemap_entry_flags(e);

	return flags & PE_LAZY && (s->opt.lazy->marked || !(flags & (PE_PRESENT | PE_PARENT)));
}

static uint64_t entry_end(const PagemapEntry *e)
{
	return e->vaddr + pagemap_entry_pages(e) * PAGE_BYTES;
}

/* ---- plan ---- */

static bool can_be_lazy(const VmaEntry *v)
{
	return v->status & VMA_ANON_PRIVATE && v->flags & MAP_PRIVATE &&
	       !(v->flags & (VMA_FLAG_DROPPABLE | MAP_LOCKED));
}

/* A part of an entry, as one of its own. */
static int push_part(struct restore_session *s, struct snap_pagemap *pm, const PagemapEntry *e,
		     uint64_t start, uint64_t end, bool lazy, struct err *err)
{
	PagemapEntry *part;

	if (start == end)
		return 0;
	part = arena_new(&s->arena, PagemapEntry);
	if (!part || !vec_push(&pm->entries, part))
		return err_nomem(err);
	pagemap_entry__init(part);
	part->vaddr = start;
	part->has_nr_pages = part->has_flags = true;
	part->nr_pages = (end - start) / PAGE_BYTES;
	part->flags = e->flags | (lazy ? PE_LAZY : 0);
	return 0;
}

/* Of an entry of pages in a parent, the parts in areas that can be filled later are marked. @area: where to look on. */
static int defer_entry(struct restore_session *s, struct snap_pagemap *pm, const PagemapEntry *e,
		       const MmEntry *mm, size_t *area, struct err *err)
{
	uint64_t at = e->vaddr, end = entry_end(e), from, to;

	while (*area < mm->n_vmas && mm->vmas[*area]->end <= at)
		++*area;
	for (size_t i = *area; i < mm->n_vmas && mm->vmas[i]->start < end; i++) {
		if (!can_be_lazy(mm->vmas[i]))
			continue;
		from = MAX(mm->vmas[i]->start, at);
		to = MIN(mm->vmas[i]->end, end);
		if (push_part(s, pm, e, at, from, false, err) < 0 ||
		    push_part(s, pm, e, from, to, true, err) < 0)
			return -1;
		at = to;
	}
	return push_part(s, pm, e, at, end, false, err);
}

static int defer_task(struct restore_session *s, struct snap_task *task, struct err *err)
{
	struct snap_pagemap *pm = task->pagemap;
	PagemapEntry **old = pm->entries.v;
	size_t n = pm->entries.n, area = 0;
	int rc = 0;

	memset(&pm->entries, 0, sizeof(pm->entries));
	for (size_t i = 0; i < n && rc == 0; i++) {
		if ((old[i]->flags & (PE_PARENT | PE_PRESENT)) == PE_PARENT)
			rc = defer_entry(s, pm, old[i], task->mm, &area, err);
		else if (!vec_push(&pm->entries, old[i]))
			rc = err_nomem(err);
	}
	free(old);
	return rc;
}

int space_defer_parents(struct restore_session *s, struct err *err)
{
	if (!s->opt.lazy || !s->opt.lazy->parents)
		return 0;
	vec_foreach (task, &s->r.snap->tasks)
		if ((*task)->mm && (*task)->pagemap && defer_task(s, *task, err) < 0)
			return -1;
	return 0;
}

/*
 * The other areas of the task are written: there is one userfaultfd, and an
 * area that is registered with it pays for every page that it ever touches.
 */
void space_plan_lazy(const struct restore_session *s, struct rtask *t)
{
	struct space *sp = t->space;
	size_t i = 0;

	vec_foreach (ep, &t->snap->pagemap->entries) {
		const PagemapEntry *e = *ep;

		if (!later(s, e))
			continue;
		while (i < sp->n && sp->v[i].vma->end <= e->vaddr)
			i++;
		for (size_t k = i; k < sp->n && sp->v[k].vma->start < entry_end(e); k++)
			if (can_be_lazy(sp->v[k].vma)) {
				sp->v[k].how = FILL_LAZY;
				sp->lazy = true;
			}
	}
	if (!sp->lazy)
		return;
	sp->use_uffd = false;
	for (i = 0; i < sp->n; i++)
		if (sp->v[i].how == FILL_UFFD)
			sp->v[i].how = FILL_WRITE;
}

/* ---- what is written before, and what is placed after ---- */

struct lists {
	VEC(struct fill_area) before, after;
};

static int add(struct lists *l, uint64_t start, uint64_t end, enum fill_how before,
	       enum fill_how after, struct err *err)
{
	if (start == end || (vec_push(&l->before, (struct fill_area){start, end, before}) &&
			     vec_push(&l->after, (struct fill_area){start, end, after})))
		return 0;
	return err_nomem(err);
}

/* Every area may have huge pages, but for those that refuse them. */
static bool always_huge(void)
{
	cleanup_free char *text = NULL;

	return io_read_filef(&text, NULL, "/sys/kernel/mm/transparent_hugepage/enabled") == 0 &&
	       strstr(text, "[always]");
}

static bool may_be_huge(const VmaEntry *v, bool always)
{
	if (v->madv & 1ULL << MADV_BIT_NOHUGEPAGE)
		return false;
	return always || v->madv & 1ULL << MADV_BIT_HUGEPAGE;
}

/* The next run of pages from @at on, within an area, that do not come later. False: none. */
static bool next_run(const struct restore_session *s, const struct snap_pagemap *pm, size_t *entry,
		     uint64_t at, uint64_t end, uint64_t *from, uint64_t *to)
{
	const PagemapEntry *e = NULL;

	for (; *entry < pm->entries.n; (*entry)++) {
		e = pm->entries.v[*entry];
		if (e->vaddr >= end)
			return false;
		if (entry_end(e) > at && !later(s, e))
			break;
	}
	if (!e || *entry == pm->entries.n)
		return false;
	*from = MAX(e->vaddr, at);
	*to = MIN(entry_end(e), end);
	for (size_t i = *entry + 1; i < pm->entries.n && *to < end; i++) {
		e = pm->entries.v[i];
		if (e->vaddr != *to || later(s, e))
			break;
		*to = MIN(entry_end(e), end);
	}
	return true;
}

/* Whole huge pages of an area, and what is between. */
static int split_area(const struct restore_session *s, const struct rtask *t, const VmaEntry *v,
		      size_t *entry, struct lists *l, struct err *err)
{
	uint64_t done = v->start, at = v->start, from, to, low, high;

	while (next_run(s, t->snap->pagemap, entry, at, v->end, &from, &to)) {
		low = (from + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
		high = to & ~(HUGE_BYTES - 1);
		at = to;
		if (low >= high)
			continue;
		if (add(l, done, low, FILL_SKIP, FILL_LAZY, err) < 0 ||
		    add(l, low, high, FILL_WRITE, FILL_SKIP, err) < 0)
			return -1;
		done = high;
	}
	return add(l, done, v->end, FILL_SKIP, FILL_LAZY, err);
}

static int make_lists(const struct restore_session *s, const struct rtask *t, struct lists *l,
		      struct err *err)
{
	const struct space *sp = t->space;
	bool always = always_huge();
	size_t entry = 0, a = 0;

	for (size_t i = 0; i < sp->n_fill; i++) {
		const struct fill_area *f = &sp->fill[i];
		int r;

		while (a < sp->n && sp->v[a].vma->start < f->start)
			a++;
		if (f->how != FILL_LAZY)
			r = add(l, f->start, f->end, f->how, FILL_SKIP, err);
		else if (may_be_huge(sp->v[a].vma, always))
			r = split_area(s, t, sp->v[a].vma, &entry, l, err);
		else
			r = add(l, f->start, f->end, FILL_SKIP, FILL_LAZY, err);
		if (r < 0)
			return -1;
	}
	return 0;
}

/* ---- fill ---- */

/* There is no other way for an area that refuses. */
static int take_uffd(struct rtask *t, struct err *err)
{
	struct space *sp = t->space;
	int theirs = sp->uffd_there;
	cleanup_close int fd = (int)syscall(SYS_pidfd_getfd, t->pidfd, theirs, 0);

	if (fd < 0)
		return err_sys(err, "cannot get the userfaultfd");
	if (uffd_handshake(fd, lazy_uffd_features(), err) < 0)
		return -1;
	for (size_t i = 0; i < sp->n; i++) {
		const VmaEntry *v = sp->v[i].vma;

		if (sp->v[i].how == FILL_LAZY && uffd_register(fd, v->start, v->end - v->start) < 0)
			return err_sys(err, "area 0x%llx-0x%llx cannot be filled lazily",
				       (unsigned long long)v->start, (unsigned long long)v->end);
	}
	return steal_fd(&fd);
}

static int fill_lists(struct restore_session *s, struct rtask *t, const struct fill_job *like,
		      const struct lists *l, struct err *err)
{
	const struct restore_lazy *lazy = s->opt.lazy;
	struct fill_job job = *like;
	cleanup_close int uffd = -1;

	job.left_only = !lazy->marked;
	job.areas = l->before.v;
	job.n_areas = l->before.n;
	if (fill_task(&job, err) < 0)
		return -1;
	uffd = take_uffd(t, err);
	if (uffd < 0)
		return -1;
	job.uffd = uffd;
	job.areas = l->after.v;
	job.n_areas = l->after.n;
	if (fill_task(&job, err) < 0)
		return -1;
	return lazy->announce(lazy->arg, t->vpid, t->pid, steal_fd(&uffd), err);
}

int space_fill_lazy(struct restore_session *s, struct rtask *t, const struct fill_job *like,
		    struct err *err)
{
	struct lists l = {0};
	int r = make_lists(s, t, &l, err);

	if (r == 0)
		r = fill_lists(s, t, like, &l, err);
	vec_free(&l.before);
	vec_free(&l.after);
	return r;
}

int space_announce_rest(struct restore_session *s, struct err *err)
{
	const struct restore_lazy *lazy = s->opt.lazy;

	if (!lazy)
		return 0;
	vec_foreach (tp, &s->tasks) {
		const struct rtask *t = *tp;

		if ((!t->space || !t->space->lazy) &&
		    lazy->announce(lazy->arg, t->vpid, t->pid, -1, err) < 0)
			return task_wrap(t, err);
	}
	return 0;
}
