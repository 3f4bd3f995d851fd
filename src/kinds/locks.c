// SPDX-License-Identifier: Apache-2.0
/*
 * File locks. The kernel shows in the fdinfo of a descriptor exactly the locks
 * that were taken through its description: flock and OFD locks to every
 * holder, POSIX locks only to the table that owns them. So fdinfo, read once
 * per description and per table, is all that is needed. Before the freeze,
 * when not all of them are read, /proc/locks tells of which files they have to be. In the freeze that
 * would be a waste: to read it the kernel waits for a grace period of RCU, about a millisecond.
 */
#include "kinds/locks.h"

#include "base/io.h"
#include "kinds/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>

static const struct {
	const char *name; /* in fdinfo */
	enum lock_flag flag;
} lock_kinds[] = {
	{"POSIX", LOCK_FLAG_POSIX}, {"FLOCK", LOCK_FLAG_FLOCK}, {"OFDLCK", LOCK_FLAG_OFD},
	{"LEASE", LOCK_FLAG_LEASE}, {"DELEG", LOCK_FLAG_LEASE},
};

bool locks_shown(const char *fdinfo)
{
	return strstr(fdinfo, "lock:") != NULL;
}

bool locks_parse_line(const char *line, struct lock_facts *lock)
{
	char kind[16], mode[16], type[16], end[24];
	unsigned long long ino, start;
	char *rest;

	/* "lock:\t1: POSIX  ADVISORY  WRITE 2109 08:01:1234 0 EOF" */
	if (sscanf(line, "lock: %*d: %15s %15s %15s %*d %*x:%*x:%llu %llu %23s", kind, mode, type,
		   &ino, &start, end) != 6)
		return false;
	*lock = (struct lock_facts){.ino = ino, .start = start};
	for (size_t i = 0; i < ARRAY_SIZE(lock_kinds); i++)
		if (strcmp(kind, lock_kinds[i].name) == 0)
			lock->flag = lock_kinds[i].flag;
	lock->type = strcmp(type, "WRITE") == 0 ? F_WRLCK :
		     strcmp(type, "READ") == 0  ? F_RDLCK :
						  F_UNLCK;
	if (strcmp(end, "EOF") != 0) {
		lock->len = strtoull(end, &rest, 10) - start + 1;
		if (*rest)
			return false;
	}
	return lock->flag != 0;
}

/* ---- capture ---- */

static const char *flag_name(enum lock_flag flag)
{
	for (size_t i = 0; i < ARRAY_SIZE(lock_kinds); i++)
		if (lock_kinds[i].flag == flag)
			return lock_kinds[i].name;
	return "unknown";
}

static int refuse(const struct fd_facts *f, const struct fd_holder *h,
		  const struct lock_facts *lock, const char *why, struct err *err)
{
	char range[64] = "the whole file";

	if (lock->len)
		snprintf(range, sizeof(range), "bytes %" PRIu64 " to %" PRIu64, lock->start,
			 lock->start + lock->len - 1);
	else if (lock->start)
		snprintf(range, sizeof(range), "byte %" PRIu64 " on", lock->start);
	return err_set(err, ENOTSUP, "fd %d of pid %d (%s) holds a %s lock on %s; %s", h->fd,
		       h->pid, f->link, flag_name(lock->flag), range, why);
}

static int add_lock(struct capture *c, const struct fd_facts *f, const struct fd_holder *h,
		    const struct lock_facts *lock, struct err *err)
{
	FileLockEntry *e;

	if (lock->flag == LOCK_FLAG_LEASE)
		return refuse(f, h, lock,
			      "leases cannot be carried; support comes in a later release", err);
	if (!c->opt->file_locks)
		return refuse(f, h, lock, "locks are carried with --file-locks", err);
	if (c->preflight)
		return 0;
	e = snap_new(c->snap, FileLockEntry, file_lock_entry);
	if (!e)
		return err_nomem(err);
	e->flag = lock->flag;
	e->type = (uint32_t)lock->type;
	e->pid = capture_virt_pid(c, h->pid);
	e->fd = h->fd;
	e->start = (int64_t)lock->start;
	e->len = (int64_t)lock->len;
	return vec_push(&c->snap->locks, e) ? 0 : err_nomem(err);
}

/* The locks in one fdinfo text; those of the description itself only when @shared. */
static int scan_info(struct capture *c, const struct fd_facts *f, const struct fd_holder *h,
		     const char *info, bool shared, struct err *err)
{
	struct lock_facts lock;

	for (const char *line = strstr(info, "lock:"); line; line = strstr(line + 1, "lock:")) {
		if (line != info && line[-1] != '\n')
			continue;
		if (!locks_parse_line(line, &lock))
			return err_set(err, EINVAL,
				       "fd %d of pid %d (%s): its lock cannot be understood: %.60s",
				       h->fd, h->pid, f->link, line);
		if ((shared || lock.flag == LOCK_FLAG_POSIX) && add_lock(c, f, h, &lock, err))
			return -1;
	}
	return 0;
}

/* Does /proc/locks mention the inode? A text search will do: a wrong yes only costs time. */
static bool is_mentioned(const char *all_locks, uint64_t ino)
{
	char key[32];

	snprintf(key, sizeof(key), ":%" PRIu64 " ", ino);
	return strstr(all_locks, key) != NULL;
}

static bool same_table_before(const struct fd_facts *f, const struct fd_holder *h)
{
	for (const struct fd_holder *other = f->holders.v; other < h; other++)
		if (other->pid == h->pid)
			return true;
	return false;
}

/* @all_locks: what is in /proc/locks; NULL: of each holder it is known whether there are any. */
static int capture_description(struct capture *c, const struct fd_facts *f, const char *all_locks,
			       struct err *err)
{
	if (scan_info(c, f, &f->holders.v[0], f->info, true, err))
		return -1;
	if (all_locks && !is_mentioned(all_locks, f->st.st_ino))
		return 0;
	vec_foreach (h, &f->holders) {
		cleanup_free char *info = NULL;

		if (h == f->holders.v || (!all_locks && !h->locked) || same_table_before(f, h))
			continue;
		if (io_read_filef(&info, NULL, "/proc/%d/fdinfo/%d", h->pid, h->fd)) {
			/* A running task may have closed it meanwhile. */
			if (c->preflight)
				continue;
			return err_sys(err, "cannot read /proc/%d/fdinfo/%d", h->pid, h->fd);
		}
		if (scan_info(c, f, h, info, false, err))
			return -1;
	}
	return 0;
}

int locks_capture(struct capture *c, struct err *err)
{
	cleanup_free char *all_locks = NULL;

	if (c->preflight && io_read_filef(&all_locks, NULL, "/proc/locks"))
		return err_sys(err, "cannot read /proc/locks");
	vec_foreach (it, &c->fds) {
		if (capture_description(c, *it, all_locks, err))
			return -1;
	}
	return 0;
}

/* ---- restore ---- */

/* The file id behind the (pid, fd) of a lock; -1 + err. */
static int lock_file_id(const struct restore *r, const FileLockEntry *e, uint32_t *id_out,
			struct err *err)
{
	const struct snap_task *t = snapshot_task(r->snap, (uint32_t)e->pid);

	if (t) {
		t = snap_fd_table(r->snap, t);
		vec_foreach (fdi, &t->fds) {
			if ((*fdi)->fd == (uint32_t)e->fd) {
				*id_out = (*fdi)->id;
				return 0;
			}
		}
	}
	return err_set(err, EINVAL, "filelocks.img: there is no fd %d of pid %d", e->fd, e->pid);
}

int locks_check(struct restore *r, struct err *err)
{
	uint32_t id;

	vec_foreach (it, &r->snap->locks) {
		const FileLockEntry *e = *it;

		if (e->flag == LOCK_FLAG_LEASE)
			return err_set(err, ENOTSUP,
				       "fd %d of pid %d has a lease, which cannot be restored; support comes in a later release",
				       e->fd, e->pid);
		if (e->flag != LOCK_FLAG_POSIX && e->flag != LOCK_FLAG_FLOCK &&
		    e->flag != LOCK_FLAG_OFD)
			return err_set(err, EINVAL, "filelocks.img: lock of unknown kind %u",
				       e->flag);
		if (lock_file_id(r, e, &id, err))
			return -1;
	}
	return 0;
}

static struct flock range_of(const FileLockEntry *e)
{
	return (struct flock){
		.l_type = (short)e->type,
		.l_whence = SEEK_SET,
		.l_start = e->start,
		.l_len = e->len,
	};
}

static int take_shared(const FileLockEntry *e, int fd)
{
	struct flock range = range_of(e);

	if (e->flag == LOCK_FLAG_OFD)
		return fcntl(fd, F_OFD_SETLK, &range);
	return flock(fd, (e->type == F_RDLCK ? LOCK_SH :
			  e->type == F_WRLCK ? LOCK_EX :
					       LOCK_UN) |
				 LOCK_NB);
}

int locks_restore_shared(struct restore *r, struct err *err)
{
	uint32_t id;
	int fd;

	vec_foreach (it, &r->snap->locks) {
		if ((*it)->flag == LOCK_FLAG_POSIX)
			continue;
		if (lock_file_id(r, *it, &id, err))
			return -1;
		fd = broker_fd(r, id, err);
		if (fd < 0)
			return -1;
		if (take_shared(*it, fd))
			return err_sys(err, "cannot take the lock of fd %d of pid %d again%s",
				       (*it)->fd, (*it)->pid,
				       errno == EAGAIN ? " (another program holds it)" : "");
	}
	return 0;
}

bool locks_emit(struct restore *r, const struct snap_task *t, size_t *next, struct script *s)
{
	for (; *next < r->snap->locks.n; ++*next) {
		const FileLockEntry *e = r->snap->locks.v[*next];
		struct flock range = range_of(e);

		if (e->flag != LOCK_FLAG_POSIX || (uint32_t)e->pid != t->ps->pid)
			continue;
		if (!script_has_room(s, 1, sizeof(range)))
			return true;
		script_same(s, "take a POSIX lock on a file", 0, SYS_fcntl, SV(e->fd), SV(F_SETLK),
			    SV(script_data(s, &range, sizeof(range))));
	}
	return false;
}
