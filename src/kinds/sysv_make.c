// SPDX-License-Identifier: Apache-2.0
/*
 * System V objects made again, in a new IPC namespace, with their old ids
 * (/proc/sys/kernel/{shm,sem,msg}_next_id, CONFIG_CHECKPOINT_RESTORE).
 */
#include "kinds/sysv.h"

#include "base/attrs.h"
#include "base/io.h"
#include "kinds/ipcns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { MODE_BITS = 0777 };

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
};

/* One of the three kinds. */
struct maker {
	const char *what;
	const char *next_id; /* below /proc/sys */
	int (*get)(const struct maker *m, int flags);
	const IpcDescEntry *desc;
	size_t size; /* bytes, or number of semaphores */
};

static int get_shm(const struct maker *m, int flags)
{
	return shmget((key_t)m->desc->key, m->size, flags);
}

static int get_sem(const struct maker *m, int flags)
{
	return semget((key_t)m->desc->key, (int)m->size, flags);
}

static int get_msg(const struct maker *m, int flags)
{
	return msgget((key_t)m->desc->key, flags);
}

/* The user that makes it stays its creator, so a child does it; only system calls. */
__attribute__((noreturn)) static void make_as(const struct maker *m, int flags)
{
	if (syscall(SYS_setresgid, -1, m->desc->cgid, -1) ||
	    syscall(SYS_setresuid, -1, m->desc->cuid, -1) || m->get(m, flags) < 0)
		_exit(errno);
	_exit(0);
}

static int make_by_child(const struct maker *m, int flags, struct err *err)
{
	pid_t pid = fork();
	int status = 0;

	if (pid < 0)
		return err_sys(err, "cannot fork");
	if (pid == 0)
		make_as(m, flags);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, "waitpid");
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_sysno(err, WIFEXITED(status) ? WEXITSTATUS(status) : EINTR,
				 "cannot make %s %u", m->what, m->desc->id);
	return 0;
}

/* With the id, the key and the creator that it had. */
static int make(const struct maker *m, struct err *err)
{
	int flags = IPC_CREAT | IPC_EXCL | (int)(m->desc->mode & MODE_BITS), id;
	char text[16];

	snprintf(text, sizeof(text), "%u", m->desc->id);
	if (io_write_textf(text, "/proc/sys/%s", m->next_id))
		return err_sys(err,
			       "cannot choose the id of %s (/proc/sys/%s; needs "
			       "CONFIG_CHECKPOINT_RESTORE)",
			       m->what, m->next_id);
	if (m->desc->cuid == geteuid() && m->desc->cgid == getegid()) {
		id = m->get(m, flags);
		return id == (int)m->desc->id ? 0 :
		       id < 0 ? err_sys(err, "cannot make %s %u", m->what, m->desc->id) :
				err_set(err, EBUSY, "%s %u was made with id %d", m->what,
					m->desc->id, id);
	}
	return make_by_child(m, flags, err);
}

/* ---- shared memory ---- */

static int set_shm_owner(const IpcDescEntry *d, struct err *err)
{
	struct shmid_ds ds;

	if (shmctl((int)d->id, IPC_STAT, &ds))
		return err_sys(err, "segment %u was made with another id", d->id);
	if (d->mode & SHM_LOCKED && shmctl((int)d->id, SHM_LOCK, NULL))
		return err_sys(err, "cannot lock segment %u in memory (SHM_LOCK)", d->id);
	if (d->uid == d->cuid && d->gid == d->cgid)
		return 0;
	ds.shm_perm.uid = d->uid;
	ds.shm_perm.gid = d->gid;
	if (shmctl((int)d->id, IPC_SET, &ds))
		return err_sys(err, "cannot give segment %u to user %u, group %u", d->id, d->uid,
			       d->gid);
	return 0;
}

/* Its file, as anything that maps it has it. */
static int open_shm(const IpcShmEntry *e, struct err *err)
{
	void *at = shmat((int)e->desc->id, NULL, 0);
	int fd;

	if (at == (void *)-1)
		return err_sys(err, "cannot attach segment %u", e->desc->id);
	fd = io_openf(O_RDWR, "/proc/self/map_files/%lx-%lx", (unsigned long)at,
		      (unsigned long)at + PAGE_ALIGN(e->size));
	if (fd < 0)
		err_sys(err, "cannot open segment %u", e->desc->id);
	shmdt(at);
	return fd;
}

static int make_shm(const IpcShmEntry *e,
		    int (*fill)(void *arg, const IpcShmEntry *e, int fd, struct err *err),
		    void *arg, struct err *err)
{
	const struct maker m = {"segment", "kernel/shm_next_id", get_shm, e->desc, e->size};
	cleanup_close int fd = -1;

	if (make(&m, err) || set_shm_owner(e->desc, err))
		return -1;
	fd = open_shm(e, err);
	return fd < 0 ? -1 : fill(arg, e, fd, err);
}

/* ---- semaphores ---- */

static int make_sem(const struct snap_payload *p, struct err *err)
{
	const IpcSemEntry *e = (const IpcSemEntry *)p->entry;
	const struct maker m = {"semaphores", "kernel/sem_next_id", get_sem, e->desc, e->nsems};
	union semun values = {.array = (unsigned short *)(void *)p->data};
	struct semid_ds ds;
	int id = (int)e->desc->id;

	if (make(&m, err))
		return -1;
	if (semctl(id, 0, SETALL, values))
		return err_sys(err, "cannot set the values of semaphores %d", id);
	if (e->desc->uid == e->desc->cuid && e->desc->gid == e->desc->cgid)
		return 0;
	if (semctl(id, 0, IPC_STAT, (union semun){.buf = &ds}))
		return err_sys(err, "semaphores %d were made with another id", id);
	ds.sem_perm.uid = e->desc->uid;
	ds.sem_perm.gid = e->desc->gid;
	if (semctl(id, 0, IPC_SET, (union semun){.buf = &ds}))
		return err_sys(err, "cannot give semaphores %d to user %u, group %u", id,
			       e->desc->uid, e->desc->gid);
	return 0;
}

/* ---- queues ---- */

static int send(int id, const struct snap_payload *p, struct err *err)
{
	const IpcMsg *e = (const IpcMsg *)p->entry;
	cleanup_free struct msgbuf *buf = malloc(sizeof(*buf) + p->bytes);

	if (!buf)
		return err_nomem(err);
	buf->mtype = (long)e->mtype;
	memcpy(buf->mtext, p->data, p->bytes);
	return msgsnd(id, buf, p->bytes, IPC_NOWAIT) ?
		       err_sys(err, "cannot put a message of %zu bytes into queue %d", p->bytes, id) :
		       0;
}

/* A queue is born with the limit of its namespace; to raise it later takes CAP_SYS_RESOURCE. */
static int set_room(const struct snap_queue *q, struct err *err)
{
	uint64_t largest = 1;

	for (uint32_t i = 0; i < q->entry->qnum; i++)
		largest = MAX(largest, q->messages[i].bytes);
	return ipcns_set("kernel/msgmnb", q->entry->qbytes, err) ||
			       ipcns_set("kernel/msgmax", MAX(largest, 8192UL), err) ?
		       -1 :
		       0;
}

static int make_msg(const struct snap_queue *q, struct err *err)
{
	const IpcDescEntry *d = q->entry->desc;
	const struct maker m = {"message queue", "kernel/msg_next_id", get_msg, d, 0};
	struct msqid_ds ds;
	int id = (int)d->id;

	if (set_room(q, err) || make(&m, err))
		return -1;
	for (uint32_t i = 0; i < q->entry->qnum; i++)
		if (send(id, &q->messages[i], err))
			return -1;
	if (d->uid == d->cuid && d->gid == d->cgid)
		return 0;
	if (msgctl(id, IPC_STAT, &ds))
		return err_sys(err, "message queue %d was made with another id", id);
	ds.msg_perm.uid = d->uid;
	ds.msg_perm.gid = d->gid;
	if (msgctl(id, IPC_SET, &ds))
		return err_sys(err, "cannot give message queue %d to user %u, group %u", id, d->uid,
			       d->gid);
	return 0;
}

/* ---- the namespace ---- */

static int make_all(const struct snap_ipc *ipc,
		    int (*fill)(void *arg, const IpcShmEntry *e, int fd, struct err *err),
		    void *arg, struct err *err)
{
	vec_foreach (e, &ipc->shm)
		if (make_shm(*e, fill, arg, err))
			return -1;
	vec_foreach (p, &ipc->sem)
		if (make_sem(p, err))
			return -1;
	vec_foreach (q, &ipc->msg)
		if (make_msg(q, err))
			return -1;
	return 0;
}

int sysv_build(const struct snapshot *snap,
	       int (*fill)(void *arg, const IpcShmEntry *e, int fd, struct err *err), void *arg,
	       int *ns_fd_out, struct err *err)
{
	cleanup_close int own = ipcns_own(err), made = -1;
	int rc;

	if (own < 0)
		return -1;
	if (unshare(CLONE_NEWIPC))
		return err_sys(err, "cannot make an IPC namespace");
	rc = make_all(&snap->ipc, fill, arg, err);
	if (rc == 0)
		rc = made = ipcns_own(err);
	rc = ipcns_leave(own, rc < 0 ? -1 : 0, err);
	if (rc)
		return err_wrap(err, "System V objects");
	*ns_fd_out = steal_fd(&made);
	return 0;
}

static int finish_inside(const struct snap_ipc *ipc, struct err *err)
{
	vec_foreach (e, &ipc->shm)
		if ((*e)->desc->mode & SHM_DEST && shmctl((int)(*e)->desc->id, IPC_RMID, NULL))
			return err_sys(err, "cannot mark segment %u for its end", (*e)->desc->id);
	return ipc->var ? ipcns_write_limits(ipc->var, err) : 0;
}

int sysv_finish(const struct snapshot *snap, int ns_fd, struct err *err)
{
	cleanup_close int own = ipcns_own(err);

	if (own < 0 || ipcns_enter(ns_fd, err))
		return -1;
	return ipcns_leave(own, finish_inside(&snap->ipc, err), err);
}
