// SPDX-License-Identifier: Apache-2.0
/*
 * epoll. An entry of a set is a description plus the number it was added
 * under, and outlives that number: the descriptor may have been closed or
 * reused while a duplicate, maybe in another task, keeps the description open.
 * fdinfo only shows numbers. So at capture each entry is matched with the
 * descriptions of the tree by kcmp(KCMP_EPOLL_TFD), and the image gets
 *  - for ferry: the file id, and the number it was added under;
 *  - for CRIU: a number that leads to it in the first holder's table.
 *
 * At restore the set is filled by a thread of ours with a descriptor table of
 * its own, where each target can sit at the number it needs, whatever the
 * tables of the tasks look like.
 */
#include "kinds/fd/epoll.h"
#include "base/io.h"
#include "kinds/broker.h"
#include "kinds/fd/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

bool epoll_parse_target(const char *line, struct epoll_target *t)
{
	unsigned long long data, ino;
	unsigned int events, sdev;
	long long pos;
	int tfd;

	if (sscanf(line, "tfd: %d events: %x data: %llx pos:%lli ino:%llx sdev:%x", &tfd, &events,
		   &data, &pos, &ino, &sdev) != 6 ||
	    tfd < 0)
		return false;
	*t = (struct epoll_target){
		.tfd = (uint32_t)tfd,
		.events = events,
		.data = data,
		.pos = (uint64_t)pos,
		.ino = ino,
		.sdev = sdev,
	};
	return true;
}

/* ---- capture ---- */

static bool epoll_claims(const struct capture *c, const struct fd_facts *f)
{
	return strcmp(f->link, "anon_inode:[eventpoll]") == 0;
}

/* Is descriptor @h the target that the set of @set has under number @tfd, the @nth of that number? 1, 0, -1 + errno. */
static int is_target(const struct fd_holder *h, const struct fd_holder *set, uint32_t tfd,
		     uint32_t nth)
{
	struct kcmp_epoll_slot slot = {.efd = (uint32_t)set->fd, .tfd = tfd, .toff = nth};
	long rc = syscall(SYS_kcmp, h->pid, set->pid, KCMP_EPOLL_TFD, h->fd, &slot);

	return rc < 0 ? -1 : rc == 0;
}

static const struct fd_holder *holder_in(const struct fd_facts *f, pid_t pid, uint32_t fd)
{
	vec_foreach (h, &f->holders) {
		if (h->pid == pid && (fd == UINT32_MAX || h->fd == (int)fd))
			return h;
	}
	return NULL;
}

/* Finds the description behind an entry; -1 + err if the tree does not hold it. */
static struct fd_facts *find_target(const struct capture *c, const struct fd_facts *f,
				    const struct epoll_target *t, uint32_t nth, struct err *err)
{
	const struct fd_holder *set = &f->holders.v[0], *h;
	int rc;

	/* The usual case: its number still leads to it. */
	vec_foreach (it, &c->fds) {
		h = holder_in(*it, set->pid, t->tfd);
		if (!h)
			continue;
		rc = is_target(h, set, t->tfd, nth);
		if (rc == 1)
			return *it;
		if (rc < 0) {
			err_sys(err, "cannot ask what it watches as fd %u", t->tfd);
			return NULL;
		}
	}
	vec_foreach (it, &c->fds) {
		if (is_target(&(*it)->holders.v[0], set, t->tfd, nth) == 1)
			return *it;
	}
	err_set(err, ENOENT,
		"it watches a file that was added as fd %u (inode %" PRIu64
		") and is open in no task of the tree any more, only outside",
		t->tfd, t->ino);
	return NULL;
}

/* How many entries before this one have the same number: kcmp wants to know which of them is meant. */
static uint32_t nth_of_number(const EventpollFileEntry *e, size_t n, uint32_t tfd)
{
	uint32_t nth = 0;

	for (size_t i = 0; i < n; i++)
		nth += (e->tfd[i]->has_ferry_tfd ? e->tfd[i]->ferry_tfd : e->tfd[i]->tfd) == tfd;
	return nth;
}

static int add_target(struct capture *c, const struct fd_facts *f, EventpollFileEntry *e,
		      const struct epoll_target *t, struct err *err)
{
	EventpollTfdEntry *entry = snap_new(c->snap, EventpollTfdEntry, eventpoll_tfd_entry);
	const struct fd_facts *target;
	const struct fd_holder *h;

	if (!entry)
		return err_nomem(err);
	target = find_target(c, f, t, nth_of_number(e, e->n_tfd, t->tfd), err);
	if (!target)
		return -1;
	h = holder_in(target, f->holders.v[0].pid, t->tfd);
	if (!h)
		h = holder_in(target, f->holders.v[0].pid, UINT32_MAX);
	entry->tfd = h ? (uint32_t)h->fd : t->tfd;
	entry->has_ferry_file_id = true;
	entry->ferry_file_id = target->id;
	entry->has_ferry_tfd = entry->tfd != t->tfd;
	entry->ferry_tfd = t->tfd;
	entry->events = t->events;
	entry->data = t->data;
	entry->has_dev = entry->has_inode = entry->has_pos = true;
	entry->dev = t->sdev;
	entry->inode = t->ino;
	entry->pos = t->pos;
	e->tfd[e->n_tfd++] = entry;
	return 0;
}

static size_t count_targets(const char *info)
{
	size_t n = 0;

	for (const char *line = info; line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		n += strncmp(line, "tfd:", 4) == 0;
	}
	return n;
}

static int epoll_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	EventpollFileEntry *e = snap_new(c->snap, EventpollFileEntry, eventpoll_file_entry);
	FownEntry *fown = capture_fown(c, f);
	struct epoll_target t;

	if (!fe || !e || !fown)
		return err_nomem(err);
	fe->type = FD_TYPES__EVENTPOLL;
	fe->id = e->id = f->id;
	fe->epfd = e;
	e->flags = f->flags;
	e->fown = fown;
	e->tfd = arena_array(&c->snap->arena, EventpollTfdEntry *, count_targets(f->info) + 1);
	if (!e->tfd)
		return err_nomem(err);
	for (const char *line = f->info; line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (strncmp(line, "tfd:", 4) != 0)
			continue;
		if (!epoll_parse_target(line, &t))
			return err_set(err, EINVAL,
				       "a line of its fdinfo cannot be understood: %.60s", line);
		if (add_target(c, f, e, &t, err))
			return -1;
	}
	return capture_add_file(c, fe, err);
}

/* ---- restore ---- */

static int epoll_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	cleanup_close int fd = epoll_create1(EPOLL_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "cannot make an epoll descriptor");
	if (fd_set_flags(fd, fe->epfd->flags, err))
		return -1;
	*fd_out = steal_fd(&fd);
	return 0;
}

static const FdinfoEntry *fdinfo_of(const struct snap_task *t,
				    bool (*matches)(const FdinfoEntry *, uint32_t), uint32_t value)
{
	vec_foreach (it, &t->fds) {
		if (matches(*it, value))
			return *it;
	}
	return NULL;
}

static bool has_id(const FdinfoEntry *fdi, uint32_t id)
{
	return fdi->id == id;
}

static bool has_number(const FdinfoEntry *fdi, uint32_t fd)
{
	return fdi->fd == fd;
}

/* The file id of a target: from ferry's field, or by its number in the first table with the set and the number. */
static int target_id(const struct restore *r, const FileEntry *fe, const EventpollTfdEntry *t,
		     uint32_t *id_out, struct err *err)
{
	const FdinfoEntry *found;

	if (t->has_ferry_file_id) {
		*id_out = t->ferry_file_id;
		return 0;
	}
	vec_foreach (task, &r->snap->tasks) {
		found = fdinfo_of(*task, has_id, fe->id) ? fdinfo_of(*task, has_number, t->tfd) :
							   NULL;
		if (found) {
			*id_out = found->id;
			return 0;
		}
	}
	return err_set(err, EINVAL,
		       "it watches fd %u, which no task with this epoll descriptor has", t->tfd);
}

/* What the filling thread gets: descriptors that are all open, and the numbers they must have. */
struct filling {
	int epfd;
	const EventpollFileEntry *entry;
	int *targets;  /* as entry->tfd */
	int no;        /* errno of the failure, 0 */
	size_t failed; /* its index */
};

static uint32_t added_number(const EventpollTfdEntry *t)
{
	return t->has_ferry_tfd ? t->ferry_tfd : t->tfd;
}

/* A stale number may be as high as the broker's own: moves what is needed above all of them. */
static int step_aside(struct filling *f)
{
	uint32_t highest = 0;
	int fd;

	for (size_t i = 0; i < f->entry->n_tfd; i++)
		highest = MAX(highest, added_number(f->entry->tfd[i]));
	if (highest >= INT32_MAX) {
		errno = EBADF;
		return -1;
	}
	for (size_t i = 0; i <= f->entry->n_tfd; i++) {
		int *which = i < f->entry->n_tfd ? &f->targets[i] : &f->epfd;

		if (*which > (int)highest)
			continue;
		fd = fcntl(*which, F_DUPFD, (int)highest + 1);
		if (fd < 0)
			return -1;
		*which = fd;
	}
	return 0;
}

/* Puts target @i at its number and adds or changes its entry; -1 + ->no. */
static int set_entry(struct filling *f, size_t i, int op, uint32_t events)
{
	const EventpollTfdEntry *t = f->entry->tfd[i];
	struct epoll_event ev = {.events = events, .data.u64 = t->data};
	int number = (int)added_number(t);

	if (dup2(f->targets[i], number) >= 0 && epoll_ctl(f->epfd, op, number, &ev) == 0)
		return 0;
	f->no = errno;
	f->failed = i;
	return -1;
}

/* An EPOLLONESHOT entry that has fired and was not armed again: every other one watches for these two. */
static bool is_spent(uint32_t events)
{
	return (events & EPOLLONESHOT) && !(events & (EPOLLERR | EPOLLHUP));
}

/* Takes from the spent entries that did not fire what can be taken; the kernel leaves errors and hang-ups. */
static int quiet_spent(struct filling *f)
{
	cleanup_free char *info = NULL;
	struct epoll_target t;

	if (io_read_filef(&info, NULL, "/proc/thread-self/fdinfo/%d", f->epfd)) {
		f->no = errno;
		return -1;
	}
	for (const char *line = strstr(info, "tfd:"); line; line = strstr(line + 1, "tfd:")) {
		if (!epoll_parse_target(line, &t) || is_spent(t.events))
			continue;
		for (size_t i = 0; i < f->entry->n_tfd; i++)
			if (added_number(f->entry->tfd[i]) == t.tfd &&
			    is_spent(f->entry->tfd[i]->events) &&
			    set_entry(f, i, EPOLL_CTL_MOD, f->entry->tfd[i]->events))
				return -1;
	}
	return 0;
}

/*
 * A spent entry cannot be added as such. So it is armed for everything, and
 * what is ready is fetched, which spends it. Before all other entries, whose
 * events must stay.
 */
static int add_spent(struct filling *f)
{
	struct epoll_event got[16];
	size_t n_spent = 0;

	for (size_t i = 0; i < f->entry->n_tfd; i++) {
		uint32_t events = f->entry->tfd[i]->events;

		if (!is_spent(events))
			continue;
		n_spent++;
		if (set_entry(f, i, EPOLL_CTL_ADD, events | EPOLLIN | EPOLLOUT))
			return -1;
	}
	while (n_spent && epoll_wait(f->epfd, got, ARRAY_SIZE(got), 0) > 0)
		;
	return n_spent ? quiet_spent(f) : 0;
}

static void *fill(void *arg)
{
	struct filling *f = arg;

	if (unshare(CLONE_FILES) || step_aside(f)) {
		f->no = errno;
		return NULL;
	}
	if (add_spent(f))
		return NULL;
	for (size_t i = 0; i < f->entry->n_tfd; i++) {
		uint32_t events = f->entry->tfd[i]->events;

		if (!is_spent(events) && set_entry(f, i, EPOLL_CTL_ADD, events))
			return NULL;
	}
	return NULL;
}

static int run_filling(struct filling *f, struct err *err)
{
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, fill, f);

	if (rc)
		return err_sysno(err, rc, "cannot start a thread to fill an epoll set");
	pthread_join(thread, NULL);
	if (f->no)
		return err_sysno(err, f->no, "cannot watch fd %u again",
				 added_number(f->entry->tfd[f->failed]));
	return 0;
}

static int epoll_link(struct restore *r, const FileEntry *fe, int fd, struct err *err)
{
	const EventpollFileEntry *e = fe->epfd;
	cleanup_free int *targets = NULL;
	uint32_t id = 0;

	if (!e->n_tfd)
		return 0;
	targets = calloc(e->n_tfd, sizeof(*targets));
	if (!targets)
		return err_nomem(err);
	for (size_t i = 0; i < e->n_tfd; i++) {
		if (target_id(r, fe, e->tfd[i], &id, err))
			return -1;
		targets[i] = broker_fd(r, id, err);
		if (targets[i] < 0)
			return -1;
	}
	return run_filling(&(struct filling){.epfd = fd, .entry = e, .targets = targets}, err);
}

static int epoll_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		      struct script *s, struct err *err)
{
	emit_fown(fe->epfd->fown, fe->epfd->flags, place, s);
	return 0;
}

const struct fd_kind epoll_kind = {
	.name = "epoll",
	.type = FD_TYPES__EVENTPOLL,
	.claims = epoll_claims,
	.capture = epoll_capture,
	.open = epoll_open,
	.link = epoll_link,
	.links_last = true,
	.emit = epoll_emit,
};
