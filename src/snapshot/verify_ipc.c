// SPDX-License-Identifier: Apache-2.0
/*
 * Checks of ipcns-{shm,sem,msg}-N.img: what restoring them relies on.
 */
#include "snapshot/verify.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

enum { SEMS_LIMIT = 65536, MESSAGE_LIMIT = 1 << 30 };
#define SEGMENT_LIMIT (1ULL << 46)

static int bad(const struct snapshot *snap, const char *what, const IpcDescEntry *desc,
	       const char *why, struct err *err)
{
	return err_set(err, EINVAL, "ipcns-%s-%u.img: id %u (key 0x%x): %s", what, snap->ipc.ns_id,
		       desc->id, desc->key, why);
}

static int verify_shm(const struct snapshot *snap, const IpcShmEntry *e, struct err *err)
{
	if (snapshot_sysv(snap, e->desc->id) != e || e->desc->id > INT_MAX)
		return bad(snap, "shm", e->desc, "the id occurs twice, or is not possible", err);
	if (!e->size || e->size > SEGMENT_LIMIT)
		return bad(snap, "shm", e->desc, "the size is not possible", err);
	if (e->has_hugetlb_flag && e->hugetlb_flag)
		return err_set(err, EOPNOTSUPP,
			       "ipcns-shm-%u.img: segment %u has huge pages (SHM_HUGETLB), which are "
			       "not supported",
			       snap->ipc.ns_id, e->desc->id);
	if (!e->has_in_pagemaps || !e->in_pagemaps)
		return err_set(err, EOPNOTSUPP,
			       "ipcns-shm-%u.img: the contents of segment %u are in this image, as with "
			       "CRIU before version 2, which is not supported: dump again",
			       snap->ipc.ns_id, e->desc->id);
	if (!snapshot_shmem(snap, e->desc->id))
		return err_set(err, ENOENT,
			       "pagemap-shmem-%u.img: the image is missing: the dump was not completed, "
			       "or not copied completely",
			       e->desc->id);
	return 0;
}

static int verify_sem(const struct snapshot *snap, const struct snap_payload *p, struct err *err)
{
	const IpcSemEntry *e = (const IpcSemEntry *)p->entry;

	if (e->desc->id > INT_MAX || !e->nsems || e->nsems > SEMS_LIMIT)
		return bad(snap, "sem", e->desc,
			   "the id or the number of semaphores is not possible", err);
	if (p->bytes != 2 * (size_t)e->nsems)
		return bad(snap, "sem", e->desc, "values are missing", err);
	return 0;
}

static int verify_queue(const struct snapshot *snap, const struct snap_queue *q, struct err *err)
{
	if (q->entry->desc->id > INT_MAX)
		return bad(snap, "msg", q->entry->desc, "the id is not possible", err);
	for (uint32_t i = 0; i < q->entry->qnum; i++) {
		const IpcMsg *m = (const IpcMsg *)q->messages[i].entry;

		if (m->mtype == 0 || m->mtype > LONG_MAX || m->msize > MESSAGE_LIMIT ||
		    m->msize != q->messages[i].bytes)
			return bad(snap, "msg", q->entry->desc,
				   "it has a message that is not possible", err);
	}
	return 0;
}

int verify_ipc(const struct snapshot *snap, struct err *err)
{
	const IpcVarEntry *var = snap->ipc.var;

	if (snap->ipc.ns_id && var && var->n_sem_ctls != 4)
		return err_set(err, EINVAL,
			       "ipcns-var-%u.img: there are not four limits of semaphores",
			       snap->ipc.ns_id);
	vec_foreach (e, &snap->ipc.shm)
		if (verify_shm(snap, *e, err))
			return -1;
	vec_foreach (p, &snap->ipc.sem)
		if (verify_sem(snap, p, err))
			return -1;
	vec_foreach (q, &snap->ipc.msg)
		if (verify_queue(snap, q, err))
			return -1;
	return 0;
}
