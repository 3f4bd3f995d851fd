// SPDX-License-Identifier: Apache-2.0
/*
 * The tree's IPC namespace (kinds/sysv.h), and areas that show System V segments.
 *
 * shmat(2) attaches a whole segment. Where a task shows a part only, or parts with different protections, the whole is
 * attached at an address that is free in all tasks, the part moved to its place, and the rest detached; so each area counts
 * once in shm_nattch, as before.
 */
#include "restore/session.h"

#define LOG_MODULE "restore"
#include "base/log.h"
#include "kinds/sysv.h"
#include "mem/fill.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

static int fill(void *arg, const IpcShmEntry *e, int fd, struct err *err)
{
	struct restore_session *s = arg;
	const struct snap_pagemap *pm = snapshot_shmem(s->r.snap, e->desc->id);

	return fill_shmem(s->r.store, pm, fd, e->size, err);
}

int ipc_build(struct restore_session *s, struct err *err)
{
	int fd = -1;

	if (!s->r.snap->ipc.ns_id)
		return 0;
	if (sysv_build(s->r.snap, fill, s, &fd, err) < 0)
		return -1;
	s->ipc_fd = raise_fd(s, fd, err);
	if (s->ipc_fd < 0)
		return -1;
	log_info("the tree gets an IPC namespace of its own: %zu segments, %zu sets of semaphores, "
		 "%zu queues",
		 s->r.snap->ipc.shm.n, s->r.snap->ipc.sem.n, s->r.snap->ipc.msg.n);
	return 0;
}

int ipc_finish(struct restore_session *s, struct err *err)
{
	return s->ipc_fd < 0 ? 0 : sysv_finish(s->r.snap, s->ipc_fd, err);
}

void ipc_script(const struct restore_session *s, struct script *sc)
{
	if (s->ipc_fd >= 0)
		script_call(sc, "enter the tree's IPC namespace", SYS_setns, SV(s->ipc_fd),
			    SV(CLONE_NEWIPC));
}

/* An area that was attached for reading only could never be made writable. */
static int attach_flags(const VmaEntry *v)
{
	bool write = v->has_fdflags ? (v->fdflags & O_ACCMODE) != O_RDONLY : v->prot & PROT_WRITE;

	return (write ? 0 : SHM_RDONLY) | (v->prot & PROT_EXEC ? SHM_EXEC : 0);
}

int sysv_map(struct restore_session *s, struct script *sc, const VmaEntry *v, struct err *err)
{
	const IpcShmEntry *e = snapshot_sysv(s->r.snap, v->shmid);
	uint64_t whole = PAGE_ALIGN(e->size), len = v->end - v->start, at = v->start, end;
	int flags = attach_flags(v);
	bool part = v->pgoff || len != whole;

	if (part && region_gap(s, whole, &at, err) < 0)
		return -1;
	script_same(sc, "attach a System V segment (shmat)", at, SYS_shmat, SV(v->shmid), SV(at),
		    SV(flags));
	if (part) {
		end = at + v->pgoff + len;
		script_same(sc, "move a part of a System V segment to its place", v->start,
			    SYS_mremap, SV(at + v->pgoff), SV(len), SV(len),
			    SV(MREMAP_MAYMOVE | MREMAP_FIXED), SV(v->start));
		if (v->pgoff)
			script_call(sc, "detach the rest of a System V segment", SYS_munmap, SV(at),
				    SV(v->pgoff));
		if (end < at + whole)
			script_call(sc, "detach the rest of a System V segment", SYS_munmap,
				    SV(end), SV(at + whole - end));
	}
	/* what shmat gives is readable, and writable or not */
	script_call(sc, "set the protection of a System V segment", SYS_mprotect, SV(v->start),
		    SV(len), SV(v->prot));
	return 0;
}
