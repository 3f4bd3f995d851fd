// SPDX-License-Identifier: Apache-2.0
/*
 * Building address spaces, in three steps for many tasks at once:
 *
 *	map      (script)  remove what was inherited and is not wanted, map the areas
 *	fill     (we)      contents
 *	protect  (script)  protections, advice, locks, the kernel's notes (prctl PR_SET_MM_MAP)
 *
 * Areas whose content must be written are mapped writable at first.
 */
#include "restore/space.h"

#include "base/io.h"
#include "mem/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

#define TASK_END 0x7ffffffff000UL /* of 47-bit address spaces */

/* ---- files behind areas ---- */

/* Shared memory as older images have it: by segment id, not by a file. */
static bool is_segment(const VmaEntry *v)
{
	return v->status & VMA_ANON_SHARED && !(v->status & (VMA_MEMFD | VMA_SYSVIPC));
}

static uint32_t open_flags(const VmaEntry *v)
{
	if (v->has_fdflags)
		return v->fdflags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC);
	return v->status & VMA_FILE_SHARED && v->prot & PROT_WRITE ? O_RDWR : O_RDONLY;
}

static int64_t area_fd(const struct restore_session *s, const VmaEntry *v)
{
	if (!is_segment(v))
		return held_fd(s, (uint32_t)v->shmid, open_flags(v));
	vec_foreach (g, &s->segments)
		if (g->id == v->shmid)
			return g->fd;
	return -1;
}

/* The size of a segment is told by the areas that show parts of it. */
static int note_segment(struct restore_session *s, const VmaEntry *v, struct err *err)
{
	uint64_t end = v->pgoff + (v->end - v->start);

	vec_foreach (g, &s->segments)
		if (g->id == v->shmid) {
			g->bytes = MAX(g->bytes, end);
			return 0;
		}
	if (!vec_push(&s->segments, (struct shared_segment){v->shmid, end, -1}))
		return err_nomem(err);
	return 0;
}

/* What the kernel itself has behind a shared anonymous area: mapped once here, reopened by its map_files name. */
static int make_segment(struct restore_session *s, struct shared_segment *g, struct err *err)
{
	const struct snap_pagemap *pm = snapshot_shmem(s->r.snap, g->id);
	void *at = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int fd;

	if (at == MAP_FAILED)
		return err_sys(err, "cannot make a shared segment of %llu bytes",
			       (unsigned long long)g->bytes);
	fd = io_openf(O_RDWR, "/proc/self/map_files/%lx-%lx", (unsigned long)at,
		      (unsigned long)at + PAGE_ALIGN(g->bytes));
	munmap(at, g->bytes);
	if (fd < 0)
		return err_sys(err, "cannot open a shared segment");
	g->fd = raise_fd(s, fd, err);
	if (g->fd < 0)
		return -1;
	return pm ? fill_shmem(s->r.store, pm, g->fd, g->bytes, err) : 0;
}

int space_open_files(struct restore_session *s, struct err *err)
{
	vec_foreach (tp, &s->tasks)
		for (size_t i = 0; (*tp)->space && i < (*tp)->space->n; i++) {
			const VmaEntry *v = (*tp)->space->v[i].vma;
			int r = 0;

			if (is_segment(v))
				r = note_segment(s, v, err);
			else if (v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED))
				r = hold_file(s, (uint32_t)v->shmid, open_flags(v), err);
			if (r < 0) {
				err_wrap(err, "area 0x%llx-0x%llx", (unsigned long long)v->start,
					 (unsigned long long)v->end);
				return task_wrap(*tp, err);
			}
		}
	vec_foreach (g, &s->segments)
		if (make_segment(s, g, err) < 0)
			return -1;
	return 0;
}

/* ---- map ---- */

/* Moves the vdso set of the task; its parts keep their distances. */
static void move_vdso(const struct restore_session *s, struct rtask *t, struct script *sc, uint64_t to)
{
	uint64_t base = vdso_set_start(&s->vdso);

	if (t->vdso_now == to)
		return;
	for (size_t i = 0; i < s->vdso.n; i++) {
		uint64_t off = s->vdso.part[i].start - base;
		uint64_t len = s->vdso.part[i].end - s->vdso.part[i].start;

		script_same(sc, "move the vdso", to + off, SYS_mremap, SV(t->vdso_now + off),
			    SV(len), SV(len), SV(MREMAP_MAYMOVE | MREMAP_FIXED), SV(to + off));
	}
	t->vdso_now = to;
}

static void unmap(struct script *sc, uint64_t from, uint64_t to)
{
	if (from < to)
		script_call(sc, "unmap what was inherited", SYS_munmap, SV(from), SV(to - from));
}

void space_empty_script(struct restore_session *s, struct rslot *rs)
{
	uint64_t start = (uintptr_t)s->region, end = start + s->region_bytes;

	move_vdso(s, rs->task, &rs->script, s->parking);
	unmap(&rs->script, 0, start);
	unmap(&rs->script, end, TASK_END);
}

/* Removes everything but the inherited areas that are wanted and the region. */
static int clean(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rslot *rs = leader(t);
	uint64_t region = (uintptr_t)s->region, at = 0;
	bool passed = false;

	move_vdso(s, t, &rs->script, s->parking);
	for (size_t i = 0; i < t->space->n; i++) {
		const struct area *a = &t->space->v[i];

		if (!t->inherits || !a->keep)
			continue;
		if (slot_room(s, rs, 4, 0, err) < 0)
			return -1;
		if (!passed && a->vma->start > region) {
			unmap(&rs->script, at, region);
			at = region + s->region_bytes;
			passed = true;
		}
		unmap(&rs->script, at, a->vma->start);
		at = a->vma->end;
	}
	if (slot_room(s, rs, 4, 0, err) < 0)
		return -1;
	if (!passed) {
		unmap(&rs->script, at, region);
		at = region + s->region_bytes;
	}
	unmap(&rs->script, at, TASK_END);
	return 0;
}

/* Guards of the parent came along with inherited areas. */
static int drop_guards(struct restore_session *s, struct rtask *t, struct err *err)
{
	const struct space *parent = t->parent->space;

	for (size_t g = 0; g < parent->n_guards; g++)
		for (size_t i = 0; i < t->space->n; i++) {
			const struct area *a = &t->space->v[i];
			const VmaEntry *v = parent->guards[g];
			uint64_t from = MAX(v->start, a->vma->start), to = MIN(v->end, a->vma->end);

			if (!a->keep || from >= to)
				continue;
			if (slot_room(s, leader(t), 1, 0, err) < 0)
				return -1;
			script_call(&leader(t)->script, "remove an inherited guard", SYS_madvise,
				    SV(from), SV(to - from), SV(MADV_GUARD_REMOVE));
		}
	return 0;
}

/* Inherited pages that the task has not got. */
static int drop_pages(struct restore_session *s, struct rtask *t, const VmaEntry *v, struct err *err)
{
	struct page_walk parent = {.pm = t->parent->snap->pagemap};
	uint64_t from, to, keep_from, keep_to;

	while (page_walk_next(&parent, v->start, v->end, &from, &to)) {
		struct page_walk own = {.pm = t->snap->pagemap};

		while (from < to) {
			if (!page_walk_next(&own, from, to, &keep_from, &keep_to))
				keep_from = keep_to = to;
			if (keep_from > from) {
				if (slot_room(s, leader(t), 1, 0, err) < 0)
					return -1;
				script_call(&leader(t)->script, "drop inherited pages", SYS_madvise,
					    SV(from), SV(keep_from - from), SV(MADV_DONTNEED));
			}
			from = keep_to;
		}
	}
	return 0;
}

static int inherit_areas(struct restore_session *s, struct rtask *t, struct err *err)
{
	if (drop_guards(s, t, err) < 0)
		return -1;
	for (size_t i = 0; i < t->space->n; i++) {
		const struct area *a = &t->space->v[i];

		if (!a->keep)
			continue;
		if (a->how == FILL_COMPARE && drop_pages(s, t, a->vma, err) < 0)
			return -1;
		if (slot_room(s, leader(t), 1, 0, err) < 0)
			return -1;
		if (a->open_write)
			script_call(&leader(t)->script, "open an inherited area for writing",
				    SYS_mprotect, SV(a->vma->start),
				    SV(a->vma->end - a->vma->start), SV(PROT_READ | PROT_WRITE));
	}
	return 0;
}

static int map_area(struct restore_session *s, struct script *sc, const struct area *a,
		    struct err *err)
{
	static const uint32_t wanted = MAP_SHARED | MAP_PRIVATE | MAP_DROPPABLE | MAP_ANONYMOUS |
				       MAP_GROWSDOWN | MAP_NORESERVE;
	const VmaEntry *v = a->vma;
	uint32_t flags = (v->flags & wanted) | MAP_FIXED;
	uint32_t prot = a->open_write ? PROT_READ | PROT_WRITE : v->prot;
	int64_t fd = -1;

	if (v->status & VMA_SYSVIPC)
		return sysv_map(s, sc, v, err);
	if (!(v->status & VMA_ANON_PRIVATE)) {
		fd = area_fd(s, v);
		flags &= ~(uint32_t)MAP_ANONYMOUS;
	}
	script_same(sc, "map an area", v->start, SYS_mmap, SV(v->start), SV(v->end - v->start),
		    SV(prot), SV(flags), SV(fd), SV(fd >= 0 ? v->pgoff : 0));
	if (v->madv & 1ULL << MADV_HUGEPAGE)
		script_try(sc, "allow huge pages", SYS_madvise, SV(v->start), SV(v->end - v->start),
			   SV(MADV_HUGEPAGE));
	return 0;
}

static int map_script(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rslot *rs = leader(t);
	struct space *sp = t->space;

	if (t->dirty && clean(s, t, err) < 0)
		return -1;
	if (t->inherits && inherit_areas(s, t, err) < 0)
		return -1;
	for (size_t i = 0; i < sp->n; i++) {
		if (t->inherits && sp->v[i].keep)
			continue;
		if (slot_room(s, rs, SYSV_MAP_OPS, 0, err) < 0 ||
		    map_area(s, &rs->script, &sp->v[i], err) < 0)
			return -1;
	}
	if (slot_room(s, rs, 2, 0, err) < 0)
		return -1;
	if (sp->late_shared)
		sp->shared_op = script_call(&rs->script, "make a userfaultfd for shared memory",
					    SYS_userfaultfd, SV(O_CLOEXEC | O_NONBLOCK));
	if (sp->use_uffd || sp->lazy)
		sp->uffd_op = script_call(&rs->script, "make a userfaultfd", SYS_userfaultfd,
					  SV(O_CLOEXEC | O_NONBLOCK));
	return slot_start(s, rs, err);
}

/* ---- fill ---- */

/* The task's userfaultfd, ready; areas that refuse it are written instead. */
static int uffd_take(struct rtask *t, int theirs, struct err *err)
{
	struct space *sp = t->space;
	cleanup_close int fd = (int)syscall(SYS_pidfd_getfd, t->pidfd, theirs, 0);
	size_t f = 0;

	if (fd < 0)
		return err_sys(err, "cannot get the userfaultfd");
	if (uffd_handshake(fd, 0, err) < 0)
		return -1;
	for (size_t i = 0; i < sp->n; i++) {
		const VmaEntry *v = sp->v[i].vma;

		if (sp->v[i].how != FILL_UFFD || uffd_register(fd, v->start, v->end - v->start) == 0)
			continue;
		while (sp->fill[f].start != v->start)
			f++;
		sp->v[i].how = sp->fill[f].how = FILL_WRITE;
	}
	return steal_fd(&fd);
}

static void fill_progress(void *arg, uint64_t bytes)
{
	struct restore_session *s = arg;

	s->done_bytes += bytes;
	if (s->progress)
		s->progress(s->progress_arg, s->done_bytes, s->total_bytes);
}

static int fill(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct space *sp = t->space;
	cleanup_close int uffd = -1;
	struct fill_job job = {
		.store = s->r.store,
		.pagemap = t->snap->pagemap,
		.pid = t->pid,
		.areas = sp->fill,
		.n_areas = sp->n_fill,
		.scratch = s->scratch,
		.skip_zero = store_streams(s->r.store) && !sp->lazy,
		.progress = fill_progress,
		.arg = s,
	};

	if (sp->use_uffd) {
		uffd = uffd_take(t, sp->uffd_there, err);
		if (uffd < 0)
			return -1;
	}
	job.uffd = uffd;
	if (sp->late_shared && space_watch_shared(s, t, err) < 0)
		return -1;
	return sp->lazy ? space_fill_lazy(s, t, &job, err) : fill_task(&job, err);
}

/* ---- the vdso ---- */

/* Its pages are the last of a task, so this comes behind the fill. Until here it is parked. */
static int vdso_script(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rslot *rs = leader(t);
	struct space *sp = t->space;

	if (space_plan_vdso(s, t, err) < 0 || slot_room(s, rs, VDSO_MAX_PARTS + 1, 0, err) < 0)
		return -1;
	if (sp->vdso == VDSO_MOVE)
		move_vdso(s, t, &rs->script, sp->vdso_at);
	if (sp->vdso == VDSO_COPY)
		script_same(&rs->script, "map the old vdso", sp->old_vdso->start, SYS_mmap,
			    SV(sp->old_vdso->start), SV(sp->old_vdso->end - sp->old_vdso->start),
			    SV(PROT_READ | PROT_WRITE), SV(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED),
			    SV(-1), SV(0));
	return slot_start(s, rs, err);
}

static int write_old_vdso(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct space *sp = t->space;
	size_t bytes = sp->old_vdso->end - sp->old_vdso->start;
	struct iovec local = {sp->old_image, bytes}, remote = {(void *)sp->old_vdso->start, bytes};
	uint64_t ours = t->vdso_now + ((uintptr_t)s->vdso.image - vdso_set_start(&s->vdso));

	if (vdso_redirect(sp->old_image, bytes, s->vdso.image, s->vdso.image_bytes, ours, err) < 0)
		return -1;
	if (process_vm_writev(t->pid, &local, 1, &remote, 1, 0) != (ssize_t)bytes)
		return err_sys(err, "cannot write the old vdso");
	return 0;
}

/* ---- protect ---- */

/* One madvise a set bit; the bits are numbers of advice. */
static int advise(struct restore_session *s, struct rslot *rs, const VmaEntry *v, struct err *err)
{
	uint64_t left = v->madv & ~(1ULL << MADV_HUGEPAGE);

	for (; left; left &= left - 1) {
		if (slot_room(s, rs, 1, 0, err) < 0)
			return -1;
		script_call(&rs->script, "give advice on an area (madvise)", SYS_madvise,
			    SV(v->start), SV(v->end - v->start), SV(__builtin_ctzll(left)));
	}
	return 0;
}

static int protect_area(struct restore_session *s, struct rtask *t, const struct area *a,
			struct err *err)
{
	struct rslot *rs = leader(t);
	const VmaEntry *v = a->vma;
	bool inherited = t->inherits && a->keep;

	if (slot_room(s, rs, 2, 0, err) < 0)
		return -1;
	if (a->open_write || inherited)
		script_call(&rs->script, "set the protection of an area", SYS_mprotect,
			    SV(v->start), SV(v->end - v->start), SV(v->prot));
	if (v->has_madv && v->madv && advise(s, rs, v, err) < 0)
		return -1;
	if (v->flags & MAP_LOCKED)
		script_call(&rs->script, "lock an area in memory (mlock)", SYS_mlock2, SV(v->start),
			    SV(v->end - v->start), SV(0));
	return 0;
}

static int mm_script(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rslot *rs = leader(t);
	const MmEntry *mm = t->snap->mm;
	size_t auxv_bytes = mm->n_mm_saved_auxv * sizeof(uint64_t);
	struct prctl_mm_map map = {
		.start_code = mm->mm_start_code,
		.end_code = mm->mm_end_code,
		.start_data = mm->mm_start_data,
		.end_data = mm->mm_end_data,
		.start_brk = mm->mm_start_brk,
		.brk = mm->mm_brk,
		.start_stack = mm->mm_start_stack,
		.arg_start = mm->mm_arg_start,
		.arg_end = mm->mm_arg_end,
		.env_start = mm->mm_env_start,
		.env_end = mm->mm_env_end,
	};

	if (slot_room(s, rs, 1, auxv_bytes + sizeof(map) + 64, err) < 0)
		return -1;
	/*
	 * The link cannot be changed while areas show the file that it names (EBUSY);
	 * from the task that forked it, this one may have the right link already.
	 */
	if (t->exe_now && same_file(s, t->exe_now, mm->exe_file_id))
		map.exe_fd = (uint32_t)-1;
	else
		map.exe_fd = (uint32_t)held_fd(s, mm->exe_file_id, O_RDONLY);
	t->exe_now = mm->exe_file_id;
	if (auxv_bytes) {
		map.auxv = (void *)script_data(&rs->script, mm->mm_saved_auxv, auxv_bytes);
		map.auxv_size = (uint32_t)auxv_bytes;
	}
	script_call(&rs->script, "set the fields of the address space (PR_SET_MM_MAP)", SYS_prctl,
		    SV(PR_SET_MM), SV(PR_SET_MM_MAP),
		    SV(script_data(&rs->script, &map, sizeof(map))), SV(sizeof(map)), SV(0));
	return 0;
}

static int protect_script(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rslot *rs = leader(t);
	struct space *sp = t->space;

	if (sp->use_uffd || sp->lazy)
		script_call(&rs->script, "close the userfaultfd", SYS_close, SV(sp->uffd_there));
	if (sp->late_shared)
		script_call(&rs->script, "close the userfaultfd for shared memory", SYS_close,
			    SV(sp->shared_there));
	for (size_t i = 0; i < sp->n; i++)
		if (protect_area(s, t, &sp->v[i], err) < 0)
			return -1;
	for (size_t i = 0; i < sp->n_guards; i++) {
		if (slot_room(s, rs, 1, 0, err) < 0)
			return -1;
		script_call(&rs->script, "install a guard (needs Linux 6.13)", SYS_madvise,
			    SV(sp->guards[i]->start), SV(sp->guards[i]->end - sp->guards[i]->start),
			    SV(MADV_GUARD_INSTALL));
	}
	if (slot_room(s, rs, 1, 0, err) < 0)
		return -1;
	if (sp->vdso == VDSO_COPY)
		script_call(&rs->script, "protect the old vdso", SYS_mprotect,
			    SV(sp->old_vdso->start), SV(sp->old_vdso->end - sp->old_vdso->start),
			    SV(PROT_READ | PROT_EXEC));
	if (mm_script(s, t, err) < 0)
		return -1;
	return slot_start(s, rs, err);
}

int space_build(struct restore_session *s, struct rtask **tasks, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (map_script(s, tasks[i], err) < 0)
			return task_wrap(tasks[i], err);
	if (slots_wait(s, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct space *sp = tasks[i]->space;

		if (sp->use_uffd || sp->lazy)
			sp->uffd_there = (int)script_result(&leader(tasks[i])->script, sp->uffd_op);
		if (sp->late_shared)
			sp->shared_there = (int)script_result(&leader(tasks[i])->script,
							      sp->shared_op);
	}
	for (size_t i = 0; i < n; i++)
		if (fill(s, tasks[i], err) < 0)
			return task_wrap(tasks[i], err);
	for (size_t i = 0; i < n; i++)
		if (vdso_script(s, tasks[i], err) < 0)
			return task_wrap(tasks[i], err);
	if (slots_wait(s, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		if ((tasks[i]->space->vdso == VDSO_COPY && write_old_vdso(s, tasks[i], err) < 0) ||
		    protect_script(s, tasks[i], err) < 0)
			return task_wrap(tasks[i], err);
		tasks[i]->memory_done = true;
	}
	return slots_wait(s, err);
}

uint64_t space_syscall_insn(const struct restore_session *s, const struct rtask *t)
{
	uint64_t off = vdso_syscall_offset(s->vdso.image, s->vdso.image_bytes);

	return off ? t->vdso_now + ((uintptr_t)s->vdso.image - vdso_set_start(&s->vdso)) + off : 0;
}
