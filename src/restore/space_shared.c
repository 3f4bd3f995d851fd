// SPDX-License-Identifier: Apache-2.0
/*
 * Areas that show shared memory which comes later (mem/lazy_shm.c): registered with a userfaultfd of the task that is for
 * them alone, before anybody has touched them.
 */
#include "restore/space.h"

#include "mem/lazy.h"
#include "mem/uffd.h"

#include <errno.h>
#include <sys/syscall.h>

bool pagemap_comes_late(const struct snap_pagemap *pm)
{
	vec_foreach (e, &pm->entries)
		if (pagemap_entry_flags(*e) == PE_LAZY)
			return true;
	return false;
}

/* The inode that an area shows, if it is one that comes later. */
static const MemfdInodeEntry *late_inode(const struct restore_session *s, const VmaEntry *v)
{
	const FileEntry *f = NULL;
	const MemfdInodeEntry *m;
	const struct snap_pagemap *pm;

	if (v->status & VMA_MEMFD && v->status & VMA_FILE_SHARED)
		f = snapshot_file(s->r.snap, (uint32_t)v->shmid);
	m = f && f->memfd ? snapshot_memfd(s->r.snap, f->memfd->inode_id) : NULL;
	pm = m ? snapshot_shmem(s->r.snap, m->shmid) : NULL;
	return pm && pagemap_comes_late(pm) ? m : NULL;
}

void space_plan_shared(const struct restore_session *s, struct rtask *t)
{
	if (!s->opt.lazy->shared)
		return;
	for (size_t i = 0; i < t->space->n && !t->space->late_shared; i++)
		t->space->late_shared = late_inode(s, t->space->v[i].vma) != NULL;
}

/* Registers the areas, and lists them in @areas, which has room for all. */
static int watch_areas(const struct restore_session *s, const struct rtask *t, int uffd,
		       struct lazy_area *areas, size_t *n_out, struct err *err)
{
	*n_out = 0;
	for (size_t i = 0; i < t->space->n; i++) {
		const VmaEntry *v = t->space->v[i].vma;
		const MemfdInodeEntry *m = late_inode(s, v);

		if (!m)
			continue;
		if (uffd_register(uffd, v->start, v->end - v->start) < 0)
			return err_sys(err, "shared memory at 0x%llx-0x%llx cannot be filled lazily",
				       (unsigned long long)v->start, (unsigned long long)v->end);
		areas[(*n_out)++] = (struct lazy_area){v->start, v->end, v->pgoff,
						       LAZY_SHARED | m->shmid};
	}
	return 0;
}

int space_watch_shared(struct restore_session *s, struct rtask *t, struct err *err)
{
	const struct restore_lazy *lazy = s->opt.lazy;
	cleanup_free struct lazy_area *areas = calloc(t->space->n, sizeof(*areas));
	cleanup_close int fd = (int)syscall(SYS_pidfd_getfd, t->pidfd, t->space->shared_there, 0);
	int pidfd;
	size_t n;

	if (!areas)
		return err_nomem(err);
	if (fd < 0)
		return err_sys(err, "cannot get the userfaultfd for shared memory");
	if (uffd_handshake(fd, lazy_uffd_features(), err) < 0 ||
	    watch_areas(s, t, fd, areas, &n, err) < 0)
		return -1;
	pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0);
	return lazy->shared_areas(lazy->arg, steal_fd(&fd), pidfd, areas, n, err);
}
