// SPDX-License-Identifier: Apache-2.0
/*
 * Plans of address spaces: which areas there are, which pages they get and
 * how, what a child inherits, and what becomes of the vdso.
 */
#include "restore/space.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define LOG_MODULE "restore"
#include "base/log.h"

/* Below this much anonymous memory the set-up of a userfaultfd costs more than it saves. */
#define UFFD_MIN_BYTES (1UL << 20)

enum {
	MADV_BIT_DONTFORK = 10,
	MADV_BIT_HUGEPAGE = 14,
	VMA_FLAG_DROPPABLE = 8,
};

bool page_walk_next(struct page_walk *w, uint64_t start, uint64_t end, uint64_t *from, uint64_t *to)
{
	start = MAX(start, w->at);
	for (; w->entry < w->pm->entries.n; w->entry++) {
		const PagemapEntry *e = w->pm->entries.v[w->entry];
		uint64_t e_end = e->vaddr + pagemap_entry_pages(e) * PAGE_BYTES;

		if (e->vaddr >= end || start >= end)
			return false;
		if (e_end <= start || !(pagemap_entry_flags(e) & (PE_PRESENT | PE_PARENT)))
			continue;
		*from = MAX(e->vaddr, start);
		*to = w->at = MIN(e_end, end);
		return true;
	}
	return false;
}

/* Kinds of areas that are left out or dealt with elsewhere. */
static bool is_kernel_area(const VmaEntry *v)
{
	return v->status & (VMA_VSYSCALL | VMA_VVAR | VMA_VDSO);
}

static int check_area(const VmaEntry *v, struct err *err)
{
	static const struct {
		uint32_t bit;
		const char *what;
	} refused[] = {
		{VMA_SOCKET, "a packet socket's ring"},
		{VMA_AIORING, "an asynchronous I/O ring"},
		{VMA_SHSTK, "a shadow stack"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		if (v->status & refused[i].bit)
			return err_set(err, ENOTSUP,
				       "area 0x%llx-0x%llx is %s, which cannot be restored yet",
				       (unsigned long long)v->start, (unsigned long long)v->end,
				       refused[i].what);
	if (v->flags & MAP_HUGETLB)
		return err_set(err, ENOTSUP,
			       "area 0x%llx-0x%llx uses huge pages of hugetlbfs, which cannot be "
			       "restored yet",
			       (unsigned long long)v->start, (unsigned long long)v->end);
	if (!(v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_ANON_PRIVATE)))
		return err_set(err, ENOTSUP, "area 0x%llx-0x%llx is of an unknown kind (status 0x%x)",
			       (unsigned long long)v->start, (unsigned long long)v->end, v->status);
	return 0;
}

static bool is_private(const VmaEntry *v)
{
	return v->status & (VMA_FILE_PRIVATE | VMA_ANON_PRIVATE);
}

static int add_areas(struct restore_session *s, struct rtask *t, struct err *err)
{
	const MmEntry *mm = t->snap->mm;
	struct space *sp = t->space;

	sp->v = arena_array(&s->arena, struct area, mm->n_vmas + 1);
	sp->guards = arena_array(&s->arena, const VmaEntry *, mm->n_vmas + 1);
	sp->fill = arena_array(&s->arena, struct fill_area, mm->n_vmas + 1);
	if (!sp->v || !sp->guards || !sp->fill)
		return err_nomem(err);
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *v = mm->vmas[i];

		if (v->status & VMA_GUARD) {
			sp->guards[sp->n_guards++] = v;
			continue;
		}
		if (is_kernel_area(v))
			continue;
		if (check_area(v, err) < 0)
			return -1;
		sp->v[sp->n++].vma = v;
	}
	return 0;
}

/* Which areas get pages, and how. Pages of the vdso are seen to by plan_vdso. */
static void plan_pages(struct rtask *t)
{
	struct space *sp = t->space;
	struct page_walk w = {.pm = t->snap->pagemap};
	uint64_t from, to;

	sp->anon_bytes = 0;
	for (size_t i = 0; i < sp->n; i++) {
		struct area *a = &sp->v[i];
		const VmaEntry *v = a->vma;
		uint64_t bytes = 0;

		if (!is_private(v))
			continue;
		while (page_walk_next(&w, v->start, v->end, &from, &to))
			bytes += to - from;
		a->has_pages = bytes > 0;
		a->open_write = a->has_pages && !(v->prot & PROT_WRITE);
		a->how = FILL_WRITE;
		if (v->status & VMA_ANON_PRIVATE && !(v->flags & VMA_FLAG_DROPPABLE) &&
		    !(v->madv & 1ULL << MADV_BIT_HUGEPAGE)) {
			a->how = FILL_UFFD; /* if it turns out to pay */
			sp->anon_bytes += bytes;
		}
	}
	sp->use_uffd = sp->anon_bytes >= UFFD_MIN_BYTES;
	for (size_t i = 0; i < sp->n; i++)
		if (sp->v[i].how == FILL_UFFD && (!sp->use_uffd || !sp->v[i].has_pages))
			sp->v[i].how = FILL_WRITE;
}

static const VmaEntry *find_vdso(const MmEntry *mm, uint64_t *set_start)
{
	const VmaEntry *vdso = NULL;

	for (size_t i = 0; i < mm->n_vmas; i++)
		if (mm->vmas[i]->status & VMA_VDSO)
			vdso = mm->vmas[i];
	*set_start = vdso ? vdso->start : 0;
	for (size_t i = mm->n_vmas; vdso && i-- > 0;)
		if (mm->vmas[i]->status & VMA_VVAR && mm->vmas[i]->end == *set_start)
			*set_start = mm->vmas[i]->start;
	return vdso;
}

static int plan_vdso(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct space *sp = t->space;
	const struct vdso_set *ours = &s->vdso;
	uint64_t set_start, bytes;
	const VmaEntry *vdso = find_vdso(t->snap->mm, &set_start);
	int r;

	if (!vdso)
		return 0;
	bytes = vdso->end - vdso->start;
	if (bytes > VDSO_MAX_BYTES)
		return err_set(err, EINVAL, "mm-%d.img: a vdso of %llu bytes", t->vpid,
			       (unsigned long long)bytes);
	sp->old_image = arena_alloc(&s->arena, bytes);
	if (!sp->old_image)
		return err_nomem(err);
	r = pagemap_read(s->r.store, t->snap->pagemap, vdso->start, sp->old_image, bytes, err);
	if (r < 0)
		return -1;
	if (r == 0)
		return err_set(err, EINVAL,
			       "pagemap-%d.img: the pages of the vdso at 0x%llx are missing",
			       t->vpid, (unsigned long long)vdso->start);
	if (bytes == ours->image_bytes && memcmp(sp->old_image, ours->image, bytes) == 0 &&
	    vdso->end - set_start == vdso_set_bytes(ours)) {
		sp->vdso = VDSO_MOVE;
		sp->vdso_at = set_start;
		return 0;
	}
	log_info("pid %d: another kernel's vdso, will be redirected", t->vpid);
	sp->vdso = VDSO_COPY;
	sp->old_vdso = vdso;
	return 0;
}

/* A thread that was stopped inside of a vdso goes on there, and must find it. */
static int check_ips(const struct rtask *t, struct err *err)
{
	const VmaEntry *v = t->space->old_vdso;

	for (size_t i = 0; v && i < t->n_slots; i++) {
		const ThreadInfoX86 *ti = t->snap->core[i]->thread_info;

		if (ti && ti->gpregs->ip >= v->start && ti->gpregs->ip < v->end)
			return err_set(err, ENOTSUP,
				       "thread %u was stopped inside of the vdso, and the kernel here "
				       "has another one: dump it again",
				       t->snap->ps->threads[i]);
	}
	return 0;
}

int space_plan_vdso(struct restore_session *s, struct rtask *t, struct err *err)
{
	if (t->space->vdso_planned)
		return 0;
	t->space->vdso_planned = true;
	return plan_vdso(s, t, err) < 0 ? -1 : check_ips(t, err);
}

/* The list that fill_task() walks: every private area, the vdso as one to skip. */
static void plan_fill(struct rtask *t)
{
	struct space *sp = t->space;
	uint64_t set_start;
	const VmaEntry *vdso = find_vdso(t->snap->mm, &set_start);

	sp->n_fill = 0;
	for (size_t i = 0; i < sp->n; i++) {
		const VmaEntry *v = sp->v[i].vma;

		if (vdso && v->start > vdso->start) {
			sp->fill[sp->n_fill++] = (struct fill_area){vdso->start, vdso->end,
								    FILL_SKIP};
			vdso = NULL;
		}
		if (is_private(v))
			sp->fill[sp->n_fill++] = (struct fill_area){v->start, v->end, sp->v[i].how};
	}
	if (vdso)
		sp->fill[sp->n_fill++] = (struct fill_area){vdso->start, vdso->end, FILL_SKIP};
}

bool same_file(const struct restore_session *s, uint64_t a, uint64_t b)
{
	const FileEntry *x, *y;

	if (a == b)
		return true;
	x = snapshot_file(s->r.snap, (uint32_t)a);
	y = snapshot_file(s->r.snap, (uint32_t)b);
	if (snapshot_remap(s->r.snap, (uint32_t)a) || snapshot_remap(s->r.snap, (uint32_t)b))
		return false; /* one of them is no longer what its name says */
	return x && y && x->type == y->type && x->reg && y->reg &&
	       strcmp(x->reg->name, y->reg->name) == 0;
}

static bool same_area(const struct restore_session *s, const VmaEntry *a, const VmaEntry *b)
{
	return a->start == b->start && a->end == b->end && a->pgoff == b->pgoff &&
	       a->flags == b->flags && a->status == b->status && a->madv == b->madv &&
	       !(a->madv & 1ULL << MADV_BIT_DONTFORK) && same_file(s, a->shmid, b->shmid);
}

/* Marks the areas of @child that its parent has, too. Returns how many of them are worth it. */
static size_t mark_inherited(const struct restore_session *s, const struct space *parent,
			     struct space *child)
{
	size_t i = 0, worth = 0;

	for (size_t j = 0; j < child->n; j++) {
		struct area *c = &child->v[j];

		while (i < parent->n && parent->v[i].vma->start < c->vma->start)
			i++;
		if (i == parent->n || !same_area(s, parent->v[i].vma, c->vma))
			continue;
		c->keep = true;
		if (is_private(c->vma))
			c->how = FILL_COMPARE;
		if (c->has_pages && parent->v[i].has_pages && c->vma->prot & PROT_WRITE &&
		    is_private(c->vma))
			worth++;
	}
	return worth;
}

bool space_shares(struct restore_session *s, const struct rtask *parent, struct rtask *child)
{
	struct space *sp = child->space;

	/* what is missing cannot be inherited: each task gets its own pages */
	if (!parent->space || parent->space->lazy || sp->lazy || parent->space->late_shared ||
	    sp->late_shared)
		return false;
	/* with another executable it would have to be noted while the parent's is still mapped: EBUSY */
	if (same_file(s, parent->snap->mm->exe_file_id, child->snap->mm->exe_file_id) &&
	    mark_inherited(s, parent->space, sp) > 0) {
		sp->use_uffd = false; /* a registration would not see inherited pages */
		for (size_t i = 0; i < sp->n; i++)
			if (sp->v[i].how == FILL_UFFD)
				sp->v[i].how = FILL_WRITE;
		plan_fill(child);
		return true;
	}
	for (size_t i = 0; i < sp->n; i++)
		sp->v[i].keep = false;
	plan_pages(child);
	plan_fill(child);
	return false;
}

int space_plan(struct restore_session *s, struct rtask *t, struct err *err)
{
	if (!t->snap->mm || !t->snap->pagemap)
		return err_set(err, EINVAL, "mm-%d.img or pagemap-%d.img is missing", t->vpid,
			       t->vpid);
	t->space = arena_new(&s->arena, struct space);
	if (!t->space)
		return err_nomem(err);
	if (add_areas(s, t, err) < 0)
		return -1;
	plan_pages(t);
	if (s->opt.lazy) {
		space_plan_lazy(s, t);
		space_plan_shared(s, t);
	}
	plan_fill(t);
	s->total_bytes += pagemap_present_bytes(t->snap->pagemap);
	/* the pages may still be on their way, the last of them last: space_build asks again */
	return store_streams(s->r.store) ? 0 : space_plan_vdso(s, t, err);
}
