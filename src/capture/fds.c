// SPDX-License-Identifier: Apache-2.0
/*
 * Gathering descriptors: every open file description of the tree once, with
 * the places that hold it, and the kind that carries it.
 *
 * Two descriptors are one description if kcmp(2) says so. kcmp also orders
 * descriptions, so a sorted array finds equals in O(log n) calls; most pairs
 * are told apart before by device and inode.
 */
#define LOG_MODULE "fds"
#include "base/io.h"
#include "base/log.h"
#include "capture/session.h"
#include "kinds/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

enum { CAPTURE_GUESSES = 64 }; /* descriptors below may be guessed from the last task's */

static uint64_t key_of(const struct fd_facts *f)
{
	return f->st.st_dev * 1000003ULL ^ f->st.st_ino;
}

static const struct fd_holder *first_holder(const struct fd_facts *f)
{
	return &f->holders.v[0];
}

/* Order of descriptions: by file, then as the kernel orders them. 0 = the same description. */
static int compare(const struct fd_facts *a, const struct fd_facts *b)
{
	uint64_t ka = key_of(a), kb = key_of(b);
	long r;

	if (ka != kb)
		return ka < kb ? -1 : 1;
	r = syscall(SYS_kcmp, first_holder(a)->pid, first_holder(b)->pid, KCMP_FILE,
		    first_holder(a)->fd, first_holder(b)->fd);
	return r == 0 ? 0 : r == 1 ? -1 : 1;
}

static void facts_free(struct fd_facts *f)
{
	if (!f)
		return;
	if (f->own >= 0)
		close(f->own);
	vec_free(&f->holders);
	free(f);
}

static int read_text(struct capture_session *s, struct fd_facts *f, pid_t pid, int fd, struct err *err)
{
	cleanup_free char *info = NULL;
	char link[PATH_MAX];
	uint64_t v;

	if (io_readlinkf(link, sizeof(link), "/proc/%d/fd/%d", pid, fd) ||
	    io_read_filef(&info, NULL, "/proc/%d/fdinfo/%d", pid, fd))
		return err_sys(err, "cannot look at fd %d of pid %d", fd, pid);
	f->link = arena_strdup(&s->c.snap->arena, link);
	f->info = arena_strdup(&s->c.snap->arena, info);
	if (!f->link || !f->info)
		return err_nomem(err);
	if (fdinfo_u64(info, "flags", 8, &v))
		f->flags = (uint32_t)v & ~(uint32_t)O_CLOEXEC;
	if (fdinfo_u64(info, "pos", 10, &v))
		f->pos = v;
	if (fdinfo_u64(info, "mnt_id", 10, &v))
		f->mnt_id = (int)v;
	return 0;
}

static bool is_cloexec(const char *info)
{
	uint64_t flags = 0;

	return fdinfo_u64(info, "flags", 8, &flags) && (flags & O_CLOEXEC);
}

/* A facts struct for one descriptor, not yet known to be new. */
static struct fd_facts *look_at(struct capture_session *s, struct live_task *t, int fd,
				struct err *err)
{
	struct fd_holder h = {.pid = t->facts.pid, .fd = fd};
	struct fd_facts *f = calloc(1, sizeof(*f));
	struct statfs fs;

	if (!f) {
		err_nomem(err);
		return NULL;
	}
	f->own = (int)syscall(SYS_pidfd_getfd, t->facts.pidfd, fd, 0);
	if (f->own < 0 || fstat(f->own, &f->st)) {
		err_sys(err, "cannot duplicate fd %d of pid %d", fd, t->facts.pid);
		facts_free(f);
		return NULL;
	}
	if ((!vec_push(&f->holders, h) && err_nomem(err)) || read_text(s, f, t->facts.pid, fd, err)) {
		facts_free(f);
		return NULL;
	}
	f->holders.v[0].cloexec = is_cloexec(f->info);
	f->holders.v[0].locked = locks_shown(f->info);
	f->fs_magic = fstatfs(f->own, &fs) ? 0 : (long)fs.f_type;
	return f;
}

/* Where @f is or belongs in the sorted array; *found tells which. */
static size_t position(const struct capture_session *s, const struct fd_facts *f, bool *found)
{
	size_t low = 0, high = s->c.fds.n, mid;
	int c;

	*found = false;
	while (low < high) {
		mid = (low + high) / 2;
		c = compare(f, s->c.fds.v[mid]);
		if (c == 0) {
			*found = true;
			return mid;
		}
		if (c < 0)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

/* Takes @f; returns it, or the facts of the same description that are there already. NULL: out of memory. */
static struct fd_facts *insert(struct capture_session *s, struct fd_facts *f, struct err *err)
{
	struct fd_facts *known = NULL;
	bool found, pushed;
	size_t at = position(s, f, &found);

	if (found)
		known = s->c.fds.v[at];
	pushed = found ? vec_push(&known->holders, f->holders.v[0]) : vec_push(&s->c.fds, f);
	if (found || !pushed)
		facts_free(f);
	if (!pushed) {
		err_nomem(err);
		return NULL;
	}
	if (found)
		return known;
	memmove(&s->c.fds.v[at + 1], &s->c.fds.v[at], (s->c.fds.n - at - 1) * sizeof(f));
	s->c.fds.v[at] = f;
	return f;
}

/* Is it the description of that holder? */
static bool is_held_by(const struct live_task *t, int fd, const struct fd_holder *h)
{
	return syscall(SYS_kcmp, t->facts.pid, h->pid, KCMP_FILE, fd, h->fd) == 0;
}

/*
 * A guess at a description that is known already: that of the descriptor before, or the one that
 * the last task has under this number. Most descriptors are inherited, and kcmp is much cheaper than a look.
 */
static struct fd_facts *guess(struct live_task *t, int fd, struct fd_facts *before,
			      struct fd_facts *const *last_task)
{
	if (before && is_held_by(t, fd, first_holder(before)))
		return before;
	if (fd < CAPTURE_GUESSES && last_task[fd] && is_held_by(t, fd, first_holder(last_task[fd])))
		return last_task[fd];
	return NULL;
}

/* One more descriptor of a description that is known. */
static int add_holder(struct capture_session *s, struct fd_facts *f, pid_t pid, int fd,
		      struct err *err)
{
	struct fd_holder h = {.pid = pid, .fd = fd};
	cleanup_free char *info = NULL;

	/* nobody asks before the freeze */
	if (!s->c.preflight) {
		if (io_read_filef(&info, NULL, "/proc/%d/fdinfo/%d", pid, fd))
			return err_sys(err, "cannot look at fd %d of pid %d", fd, pid);
		h.cloexec = is_cloexec(info);
		h.locked = locks_shown(info);
	}
	return vec_push(&f->holders, h) ? 0 : err_nomem(err);
}

static int gather_fd(struct capture_session *s, struct live_task *t, int fd,
		     struct fd_facts **before, struct fd_facts **last_task, struct err *err)
{
	struct fd_facts *f = guess(t, fd, *before, last_task);

	if (f) {
		if (add_holder(s, f, t->facts.pid, fd, err))
			return -1;
	} else {
		f = look_at(s, t, fd, err);
		if (!f)
			return -1;
		f = insert(s, f, err);
		if (!f)
			return -1;
	}
	*before = f;
	if (fd < CAPTURE_GUESSES)
		last_task[fd] = f;
	return 0;
}

static int gather_task(struct capture_session *s, struct live_task *t, struct fd_facts **last_task,
		       struct err *err)
{
	struct fd_facts *before = NULL;
	proc_pids fds;
	size_t i;
	int rc = 0;

	if (proc_fds(t->facts.pid, &fds, err))
		return -1;
	for (i = 0; i < fds.n && rc == 0; i++)
		rc = gather_fd(s, t, fds.v[i], &before, last_task, err);
	vec_free(&fds);
	return rc;
}

static const char *type_name(const struct fd_facts *f)
{
	switch (f->st.st_mode & S_IFMT) {
	case S_IFREG:
		return "regular file";
	case S_IFDIR:
		return "directory";
	case S_IFCHR:
		return "character device";
	case S_IFBLK:
		return "block device";
	case S_IFIFO:
		return "pipe";
	case S_IFSOCK:
		return "socket";
	default:
		return "kernel object";
	}
}

static void choose_kind(struct capture_session *s, struct fd_facts *f)
{
	for (size_t i = 0; fd_kinds[i] && !f->kind; i++)
		if (fd_kinds[i]->claims(&s->c, f))
			f->kind = fd_kinds[i];
}

static int may_go(struct capture_session *s, struct fd_facts *f, struct err *err)
{
	const struct fd_holder *h = first_holder(f);

	if (!f->kind)
		return err_set(err, ENOTSUP,
			       "fd %d of pid %d: %s %s is of a kind that this version does not carry",
			       h->fd, h->pid, type_name(f), f->link);
	if (f->kind->allowed && f->kind->allowed(&s->c, f, err))
		return err_wrap(err, "fd %d of pid %d (%s)", h->fd, h->pid, f->kind->name);
	return 0;
}

int fds_gather(struct capture_session *s, struct err *err)
{
	struct fd_facts *last_task[CAPTURE_GUESSES] = {NULL};
	int rc = 0;

	vec_foreach (t, &s->tasks) {
		if (!(*t)->facts.zombie && !(*t)->shares_files && gather_task(s, *t, last_task, err))
			return -1;
	}
	/* Every kind first, so that one can ask about another's; each refusal is told in the log. */
	vec_foreach (f, &s->c.fds) {
		(*f)->id = capture_next_file_id(&s->c);
		choose_kind(s, *f);
	}
	vec_foreach (f, &s->c.fds) {
		struct err one;

		if (!may_go(s, *f, &one))
			continue;
		if (rc == 0)
			*err = one;
		else
			log_error("%s", one.text);
		rc = -1;
	}
	s->stats.n_fds = s->c.fds.n;
	return rc;
}

static struct snap_task *snap_of(struct capture_session *s, pid_t pid)
{
	vec_foreach (t, &s->tasks) {
		if ((*t)->facts.pid == pid)
			return (*t)->facts.snap;
	}
	return NULL;
}

static int add_fdinfo(struct capture_session *s, const struct fd_facts *f,
		      const struct fd_holder *h, struct err *err)
{
	FdinfoEntry *e = snap_new(s->c.snap, FdinfoEntry, fdinfo_entry);
	struct snap_task *t = snap_of(s, h->pid);

	if (!e || !t)
		return err_nomem(err);
	e->id = f->id;
	e->flags = h->cloexec ? FD_CLOEXEC : 0;
	e->type = f->kind->type;
	e->fd = (uint32_t)h->fd;
	return vec_push(&t->fds, e) ? 0 : err_nomem(err);
}

static int by_number(const void *a, const void *b)
{
	const FdinfoEntry *x = *(FdinfoEntry *const *)a, *y = *(FdinfoEntry *const *)b;

	return x->fd < y->fd ? -1 : x->fd > y->fd;
}

int fds_capture(struct capture_session *s, struct err *err)
{
	vec_foreach (f, &s->c.fds) {
		const struct fd_holder *h = first_holder(*f);

		if ((*f)->kind->capture(&s->c, *f, err))
			return err_wrap(err, "fd %d of pid %d (%s)", h->fd, h->pid, (*f)->kind->name);
		vec_foreach (holder, &(*f)->holders) {
			if (add_fdinfo(s, *f, holder, err))
				return -1;
		}
	}
	vec_foreach (t, &s->c.snap->tasks) {
		if ((*t)->fds.n)
			qsort((*t)->fds.v, (*t)->fds.n, sizeof(*(*t)->fds.v), by_number);
	}
	return 0;
}

int fds_undo(struct capture_session *s, struct err *err)
{
	struct err one;
	int rc = file_undo_links(&s->c, err); /* also those of mapped files and directories */

	vec_foreach (f, &s->c.fds) {
		if (!(*f)->kind || !(*f)->kind->undo || !(*f)->kind->undo(&s->c, *f, &one))
			continue;
		log_error("fd %d of pid %d: %s", first_holder(*f)->fd, first_holder(*f)->pid,
			  one.text);
		if (rc == 0)
			*err = one;
		rc = -1;
	}
	return rc;
}

void fds_drop(struct capture_session *s)
{
	vec_foreach (f, &s->c.fds)
		if ((*f)->kind && (*f)->kind->drop)
			(*f)->kind->drop(&s->c, *f);
}

void fds_forget(struct capture_session *s)
{
	vec_foreach (f, &s->c.fds) {
		facts_free(*f);
	}
	vec_free(&s->c.fds);
}
