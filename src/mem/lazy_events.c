// SPDX-License-Identifier: Apache-2.0
/*
 * What tasks say through their userfaultfds.
 *
 * The call of a task that forks, remaps, unmaps or discards sleeps until its
 * event has been read, and until it has gone on the kernel places no page
 * (EAGAIN). A thread may already fault at an address that an unread event is about: faults
 * are looked at when the events before them have been taken in.
 */
#include "base/clock.h"
#include "mem/lazy_priv.h"

#include "mem/guardian.h"
#include "mem/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BATCH = 32 };

uint64_t lazy_uffd_features(void)
{
	return UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP |
	       UFFD_FEATURE_EVENT_REMOVE;
}

int lazy_probe(struct err *err)
{
	cleanup_close int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_sys(err, "memory cannot come late: no userfaultfd");
	return uffd_handshake(fd, lazy_uffd_features(), err) < 0 ?
		       err_wrap(err, "memory cannot come late") :
		       0;
}

/* Memory for whatever a task may do to its address space next. */
static int room_for_change(struct lazy_space *sp, struct err *err)
{
	struct lazy *z = sp->z;

	if (lazy_map_reserve(&sp->map, err) < 0 || lazy_map_make_room(&z->room, &sp->map, err) < 0)
		return -1;
	if (!z->spare)
		z->spare = calloc(1, sizeof(*z->spare));
	return z->spare ? 0 : err_nomem(err);
}

/* The child has its own userfaultfd, and misses what its parent misses at this moment. */
static int on_fork(struct lazy_space *parent, int uffd, struct err *err)
{
	struct lazy_space *sp = lazy_space_new(parent->z, parent->object, uffd, err);

	if (!sp)
		return -1;
	sp->child = true;
	sp->cursor = parent->cursor;
	parent->z->st.forks++;
	lazy_map_clone(&sp->map, &parent->map, &parent->z->room);
	return 0;
}

/*
 * Threads that wait at an address that is no more what it was try again: the
 * kernel wakes them neither for a move nor for a new page elsewhere.
 */
static void send_back(struct lazy_space *sp, uint64_t start, uint64_t end)
{
	struct uffdio_range range = {start, end - start};
	size_t kept = 0;

	for (size_t i = 0; i < sp->waits.n; i++)
		if (sp->waits.v[i].addr < start || sp->waits.v[i].addr >= end)
			sp->waits.v[kept++] = sp->waits.v[i];
	sp->waits.n = kept;
	ioctl(sp->uffd, UFFDIO_WAKE, &range);
}

static int on_remap(struct lazy_space *sp, uint64_t from, uint64_t to, uint64_t bytes, struct err *err)
{
	if (!bytes) /* a second mapping of shared memory: nothing has moved */
		return 0;
	send_back(sp, from, from + bytes);
	return lazy_map_move(&sp->map, from, to, bytes, err);
}

static int on_gone(struct lazy_space *sp, bool unmapped, uint64_t start, uint64_t end, struct err *err)
{
	uint64_t n = 0;
	int r = 0;

	if (unmapped)
		r = lazy_map_unmap(&sp->map, start, end, &n, err);
	else
		n = lazy_map_clear(&sp->map, start, end);
	sp->z->st.gone_pages += n;
	send_back(sp, start, end);
	return r;
}

static int add_wait(struct lazy_space *sp, uint64_t addr, struct err *err)
{
	struct lazy_wait w = {addr, clock_ns(), WAIT_NEW};

	return vec_push(&sp->waits, w) ? 0 : err_nomem(err);
}

static int on_event(struct lazy_space *sp, const struct uffd_msg *m, struct err *err)
{
	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		return add_wait(sp, m->arg.pagefault.address & ~(PAGE_BYTES - 1), err);
	case UFFD_EVENT_FORK:
		return on_fork(sp, (int)m->arg.fork.ufd, err);
	case UFFD_EVENT_REMAP:
		return on_remap(sp, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len, err);
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		return on_gone(sp, m->event == UFFD_EVENT_UNMAP, m->arg.remove.start,
			       m->arg.remove.end, err);
	default:
		return err_set(err, EPROTO, "a userfaultfd reports an event %u that is not known",
			       m->event);
	}
}

/* A new fault, now that the map is up to date. */
static void sort_fault(struct lazy_space *sp, struct lazy_wait *w)
{
	uint64_t dump;

	if (lazy_map_state(&sp->map, w->addr, &dump) == LAZY_ABSENT) {
		w->what = WAIT_HOLE;
		return;
	}
	w->what = WAIT_PAGE;
	sp->z->st.faults++;
	sp->z->fault_ns = w->since_ns;
	sp->cursor = w->addr; /* its neighbours are likely to be needed next */
	sp->z->turn = sp;
	sp->z->bulk_step_pages = 0;
	lazy_ask_urgent(sp, w->addr);
}

int lazy_fault(struct lazy_space *sp, uint64_t addr, struct err *err)
{
	if (add_wait(sp, addr, err) < 0)
		return -1;
	sort_fault(sp, &sp->waits.v[sp->waits.n - 1]);
	return 0;
}

/*
 * What has been read is gone, and a task whose event is forgotten runs into what it has not. So each message is read
 * only when there is memory for whatever it says: until then its task waits.
 */
static bool may_read(struct lazy_space *sp)
{
	struct err why;

	if (sp->uffd < 0)
		return false;
	if (vec_reserve(&sp->waits, 1) && room_for_change(sp, &why) == 0)
		return true;
	lazy_short_of_memory(sp->z);
	return false;
}

int lazy_events(struct lazy_space *sp, struct err *err)
{
	struct uffd_msg msg;
	ssize_t n = 0;

	for (int i = 0; i < BATCH && may_read(sp); i++) {
		n = read(sp->uffd, &msg, sizeof(msg));
		if (n != sizeof(msg))
			break;
		if (on_event(sp, &msg, err) < 0)
			return -1;
	}
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return err_sys(err, "cannot read a userfaultfd");
	vec_foreach (w, &sp->waits)
		if (w->what == WAIT_NEW)
			sort_fault(sp, w);
	return 0;
}

/* 1: the wait is over; 0: it goes on; -1. */
static int fill_hole(struct lazy_space *sp, struct lazy_wait *w, struct err *err)
{
	int r = lazy_place_hole(sp, w->addr, err);

	if (r < 0)
		return -1;
	if (r == 0) {
		sp->z->st.hole_faults++;
		return 1;
	}
	/* the event that the kernel waits for may be what makes it a missing page */
	lazy_retry_soon(sp->z);
	w->what = WAIT_NEW;
	return 0;
}

int lazy_waits(struct lazy_space *sp, bool ask_again, struct err *err)
{
	int r;

	for (size_t i = 0; sp->uffd >= 0 && i < sp->waits.n; i++) {
		struct lazy_wait *w = &sp->waits.v[i];

		if (w->what == WAIT_NEW)
			sort_fault(sp, w);
		if (w->what == WAIT_PAGE && ask_again)
			lazy_ask_urgent(sp, w->addr);
		if (w->what != WAIT_HOLE)
			continue;
		r = fill_hole(sp, w, err);
		if (r < 0)
			return -1;
		if (r > 0)
			i--; /* it has been taken off the list */
	}
	return 0;
}
