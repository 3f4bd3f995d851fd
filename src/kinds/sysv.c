// SPDX-License-Identifier: Apache-2.0
/*
 * Capture of System V objects; sysv_make.c is the other direction.
 *
 * What the kernel tells of them only tells it to those in their namespace, so this thread goes there. The
 * contents are read through the files behind areas of the tree: attaching would change their times and counts.
 * Not carried, as nothing can set them: who did the last operation, and when; SEM_UNDO adjustments.
 */
#include "kinds/sysv.h"

#include "base/attrs.h"
#include "base/io.h"
#define LOG_MODULE "sysv"
#include "base/log.h"
#include "kernel/proc.h"
#include "kinds/ipcns.h"
#include "kinds/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/sysmacros.h>
#include <time.h>

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

enum {
	IPC_NS_ID = 10, /* in images: whatever differs from that of the inventory */
	SEM_LIMITS = 4,
};

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
	struct seminfo *info;
};

/* ---- what is refused ---- */

/* When a process started, in seconds since the epoch; 0: it has ended. */
static time_t started_at(pid_t pid)
{
	struct proc_stat st;
	struct timespec real, boot;
	struct err err;

	if (proc_stat(pid, &st, &err))
		return 0;
	clock_gettime(CLOCK_REALTIME, &real);
	clock_gettime(CLOCK_BOOTTIME, &boot);
	return real.tv_sec - boot.tv_sec + (time_t)(st.start_time / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* A pid of the kernel's notes may be that of an earlier process. */
static bool did(const pid_t *pids, size_t n, pid_t who, time_t when)
{
	for (size_t i = 0; i < n; i++)
		if (pids[i] == who)
			return when && when + 1 >= started_at(who);
	return false;
}

static int not_its_own(pid_t who, const char *what, int id, const struct ipc_perm *p, struct err *err)
{
	return err_set(err, ENOTSUP,
		       "pid %d uses %s (id %d, key 0x%x) of an IPC namespace that is not its own, where "
		       "nobody can tell whose they are: start it with unshare --ipc",
		       who, what, id, (unsigned int)p->__key);
}

static int sems_allowed(const pid_t *pids, size_t n, struct err *err)
{
	struct seminfo info;
	struct semid_ds ds = {0}; /* an analyser does not know semctl */
	int max = semctl(0, 0, SEM_INFO, (union semun){.info = &info});

	for (int i = 0; i <= max; i++) {
		int id = semctl(i, 0, SEM_STAT, (union semun){.buf = &ds});

		for (size_t k = 0; id >= 0 && k < ds.sem_nsems; k++) {
			pid_t who = semctl(id, (int)k, GETPID);

			if (did(pids, n, who, ds.sem_otime))
				return not_its_own(who, "System V semaphores", id, &ds.sem_perm, err);
		}
	}
	return 0;
}

static int queues_allowed(const pid_t *pids, size_t n, struct err *err)
{
	struct msginfo info;
	struct msqid_ds ds;
	int max = msgctl(0, MSG_INFO, (struct msqid_ds *)&info);

	for (int i = 0; i <= max; i++) {
		int id = msgctl(i, MSG_STAT, &ds);
		bool sent, received;

		if (id < 0)
			continue;
		sent = did(pids, n, ds.msg_lspid, ds.msg_stime);
		received = did(pids, n, ds.msg_lrpid, ds.msg_rtime);
		if (sent || received)
			return not_its_own(sent ? ds.msg_lspid : ds.msg_lrpid,
					   "a System V message queue", id, &ds.msg_perm, err);
	}
	return 0;
}

int sysv_allowed(const pid_t *pids, size_t n, struct err *err)
{
	return sems_allowed(pids, n, err) ? -1 : queues_allowed(pids, n, err);
}

/* ---- segments ---- */

bool sysv_is_area(unsigned int dev_major, unsigned int dev_minor, const char *name)
{
	return strncmp(name, "/SYSV", 5) == 0 && makedev(dev_major, dev_minor) == memfd_shmem_dev();
}

int sysv_note(struct capture *c, const char *path, uint64_t id, struct err *err)
{
	struct shmem_source src = {.shmid = id};
	struct stat st;

	vec_foreach (s, &c->sysv)
		if (s->shmid == id)
			return 0;
	src.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (src.fd < 0)
		return err_sys(err, "cannot open System V segment %" PRIu64, id);
	if (fstat(src.fd, &st) == 0) {
		src.bytes = (uint64_t)st.st_size;
		if (vec_push(&c->sysv, src))
			return 0;
	}
	close(src.fd);
	return err_nomem(err);
}

static IpcDescEntry *describe(struct capture *c, const struct ipc_perm *p, int id)
{
	IpcDescEntry *e = snap_new(c->snap, IpcDescEntry, ipc_desc_entry);

	if (!e)
		return NULL;
	e->key = (uint32_t)p->__key;
	e->uid = p->uid;
	e->gid = p->gid;
	e->cuid = p->cuid;
	e->cgid = p->cgid;
	e->mode = p->mode;
	e->id = (uint32_t)id;
	return e;
}

static size_t count_areas(const struct capture *c, uint64_t id)
{
	size_t n = 0;

	vec_foreach (t, &c->snap->tasks)
		for (size_t i = 0; (*t)->mm && i < (*t)->mm->n_vmas; i++) {
			const VmaEntry *v = (*t)->mm->vmas[i];

			n += v->status & VMA_SYSVIPC && v->shmid == id;
		}
	return n;
}

/* Each area that shows it counts once. */
static int others_have(const struct capture *c, int id, const struct shmid_ds *ds, struct err *err)
{
	size_t n = count_areas(c, (uint64_t)id);

	if (ds->shm_nattch <= n)
		return 0;
	return err_set(err, ENOTSUP,
		       "segment %d (key 0x%x) is attached %lu times, of which %zu are in the tree: end "
		       "the other programs that use it",
		       id, (unsigned int)ds->shm_perm.__key, (unsigned long)ds->shm_nattch, n);
}

static int add_segment(struct capture *c, int id, const struct shmid_ds *ds, struct err *err)
{
	IpcShmEntry *e = snap_new(c->snap, IpcShmEntry, ipc_shm_entry);

	if (!e)
		return err_nomem(err);
	e->desc = describe(c, &ds->shm_perm, id);
	e->size = ds->shm_segsz;
	e->has_in_pagemaps = e->in_pagemaps = true;
	return e->desc && vec_push(&c->snap->ipc.shm, e) ? 0 : err_nomem(err);
}

/* In a namespace of the tree's own there may be segments that nobody has attached; those are read by attaching. */
static int note_unattached(struct capture *c, int id, size_t bytes, struct err *err)
{
	void *at = shmat(id, NULL, SHM_RDONLY);
	char path[64];
	int rc;

	if (at == (void *)-1)
		return err_sys(err, "cannot attach System V segment %d", id);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at,
		 (unsigned long)at + PAGE_ALIGN(bytes));
	rc = sysv_note(c, path, (uint64_t)id, err);
	shmdt(at);
	return rc;
}

static int capture_own_segments(struct capture *c, struct err *err)
{
	struct shmid_ds ds;
	struct shm_info info;
	int max = shmctl(0, SHM_INFO, (struct shmid_ds *)&info);

	for (int i = 0; i <= max; i++) {
		int id = shmctl(i, SHM_STAT, &ds);

		if (id < 0)
			continue;
		if (others_have(c, id, &ds, err))
			return -1;
		if (!ds.shm_nattch && note_unattached(c, id, ds.shm_segsz, err))
			return -1;
		if (add_segment(c, id, &ds, err))
			return -1;
	}
	return 0;
}

static int capture_attached(struct capture *c, struct err *err)
{
	struct shmid_ds ds;

	vec_foreach (s, &c->sysv) {
		int id = (int)s->shmid;

		if (shmctl(id, IPC_STAT, &ds))
			return err_sys(err, "cannot look at System V segment %d", id);
		if (others_have(c, id, &ds, err) || add_segment(c, id, &ds, err))
			return -1;
	}
	return 0;
}

/*
 * memfds are known by their inode numbers, which are of the same mount: both can have one number. Then the memfd gets
 * another one, which is free as no id of System V has this bit.
 */
static void tell_apart(struct capture *c, uint64_t id)
{
	const uint64_t bit = 1U << 31;

	vec_foreach (m, &c->snap->memfds)
		if ((*m)->shmid == id)
			(*m)->shmid |= bit;
	vec_foreach (s, &c->shmem)
		if (s->shmid == id)
			s->shmid |= bit;
}

static int move_sources(struct capture *c, struct err *err)
{
	vec_foreach (s, &c->sysv)
		tell_apart(c, s->shmid);
	while (c->sysv.n) {
		if (!vec_push(&c->shmem, c->sysv.v[c->sysv.n - 1]))
			return err_nomem(err);
		c->sysv.n--;
	}
	return 0;
}

/* ---- semaphores and queues ---- */

static int capture_sems(struct capture *c, struct err *err)
{
	struct seminfo info;
	struct semid_ds ds = {0}; /* an analyser does not know semctl */
	int max = semctl(0, 0, SEM_INFO, (union semun){.info = &info});

	for (int i = 0; i <= max; i++) {
		int id = semctl(i, 0, SEM_STAT, (union semun){.buf = &ds});
		IpcSemEntry *e;
		struct snap_payload p;

		if (id < 0)
			continue;
		e = snap_new(c->snap, IpcSemEntry, ipc_sem_entry);
		p.bytes = 2 * ds.sem_nsems;
		p.data = arena_alloc(&c->snap->arena, p.bytes + 1);
		if (!e || !p.data)
			return err_nomem(err);
		e->nsems = (uint32_t)ds.sem_nsems;
		e->desc = describe(c, &ds.sem_perm, id);
		p.entry = &e->base;
		if (semctl(id, 0, GETALL, (union semun){.array = (unsigned short *)(void *)p.data}))
			return err_sys(err, "cannot read semaphores %d", id);
		if (!e->desc || !vec_push(&c->snap->ipc.sem, p))
			return err_nomem(err);
	}
	return 0;
}

/* A look at message @i of a queue, which stays where it is. */
static int peek(struct capture *c, int id, int i, size_t max_bytes, struct snap_payload *out,
		struct err *err)
{
	struct msgbuf *buf = arena_alloc(&c->snap->arena, sizeof(long) + max_bytes + 1);
	IpcMsg *m = snap_new(c->snap, IpcMsg, ipc_msg);
	ssize_t n;

	if (!buf || !m)
		return err_nomem(err);
	n = msgrcv(id, buf, max_bytes, i, IPC_NOWAIT | MSG_COPY);
	if (n < 0)
		return err_sys(err,
			       "cannot look at message %d of queue %d (MSG_COPY; needs "
			       "CONFIG_CHECKPOINT_RESTORE)",
			       i, id);
	m->mtype = (uint64_t)buf->mtype;
	m->msize = (uint32_t)n;
	*out = (struct snap_payload){&m->base, (uint8_t *)buf->mtext, (size_t)n};
	return 0;
}

static int capture_queue(struct capture *c, int id, const struct msqid_ds *ds, struct err *err)
{
	IpcMsgEntry *e = snap_new(c->snap, IpcMsgEntry, ipc_msg_entry);
	struct snap_queue q = {.entry = e};

	if (!e)
		return err_nomem(err);
	e->desc = describe(c, &ds->msg_perm, id);
	e->qbytes = (uint32_t)ds->msg_qbytes;
	e->qnum = (uint32_t)ds->msg_qnum;
	q.messages = arena_array(&c->snap->arena, struct snap_payload, e->qnum + 1);
	if (!e->desc || !q.messages)
		return err_nomem(err);
	for (uint32_t i = 0; i < e->qnum; i++)
		if (peek(c, id, (int)i, ds->__msg_cbytes, &q.messages[i], err))
			return -1;
	return vec_push(&c->snap->ipc.msg, q) ? 0 : err_nomem(err);
}

static int capture_queues(struct capture *c, struct err *err)
{
	struct msginfo info;
	struct msqid_ds ds;
	int max = msgctl(0, MSG_INFO, (struct msqid_ds *)&info);

	for (int i = 0; i <= max; i++) {
		int id = msgctl(i, MSG_STAT, &ds);

		if (id >= 0 && capture_queue(c, id, &ds, err))
			return -1;
	}
	return 0;
}

/* ---- the namespace ---- */

static int capture_limits(struct capture *c, struct err *err)
{
	IpcVarEntry *var = snap_new(c->snap, IpcVarEntry, ipc_var_entry);

	if (!var)
		return err_nomem(err);
	var->n_sem_ctls = SEM_LIMITS;
	var->sem_ctls = arena_array(&c->snap->arena, uint32_t, SEM_LIMITS);
	c->snap->ipc.var = var;
	return var->sem_ctls ? ipcns_read_limits(var, err) : err_nomem(err);
}

static int capture_inside(struct capture *c, bool ours, struct err *err)
{
	if (capture_limits(c, err))
		return -1;
	if (ours)
		return capture_attached(c, err);
	return capture_own_segments(c, err) || capture_sems(c, err) || capture_queues(c, err) ? -1 :
												0;
}

int sysv_capture(struct capture *c, pid_t pid, bool ours, struct err *err)
{
	cleanup_close int own = -1, theirs = -1;
	int rc;

	c->sysv_ours = ours;
	if (ours && !c->sysv.n)
		return 0;
	c->snap->ipc.ns_id = IPC_NS_ID;
	vec_foreach (t, &c->snap->tasks)
		if ((*t)->ids)
			(*t)->ids->ipc_ns_id = IPC_NS_ID;
	if (!ours) {
		own = ipcns_own(err);
		theirs = own < 0 ? -1 : io_openf(O_RDONLY, "/proc/%d/ns/ipc", pid);
		if (own >= 0 && theirs < 0)
			err_sys(err, "cannot open the IPC namespace of pid %d", pid);
		if (theirs < 0 || ipcns_enter(theirs, err))
			return -1;
	}
	rc = capture_inside(c, ours, err);
	if (!ours)
		rc = ipcns_leave(own, rc, err);
	return rc ? err_wrap(err, "pid %d: System V objects", pid) : move_sources(c, err);
}

void sysv_drop(struct capture *c)
{
	struct shmid_ds ds;

	vec_foreach (e, &c->snap->ipc.shm) {
		int id = (int)(*e)->desc->id;

		if (!c->sysv_ours || shmctl(id, IPC_STAT, &ds) ||
		    (uint32_t)ds.shm_perm.__key != (*e)->desc->key)
			continue; /* the last one that had it attached took it along */
		if (ds.shm_nattch)
			log_warn("System V segment %d stays: somebody has attached it since", id);
		else if (shmctl(id, IPC_RMID, NULL))
			log_warn("cannot remove System V segment %d, which the program left: %s",
				 id, strerror(errno));
	}
}
