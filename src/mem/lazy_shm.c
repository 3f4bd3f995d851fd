// SPDX-License-Identifier: Apache-2.0
/*
 * Shared memory that comes later.
 *
 * The memory is a file (memfd.h), which is one space of the engine whose addresses are the file's offsets: a page that comes is
 * written into the file, once, and is there for all. Each task that has it mapped is a *view*: a userfaultfd
 * of its own for these areas, in MISSING mode, which stops a thread at a page that the file has not got. The write does not
 * wake it, so every view is told (UFFDIO_WAKE).
 *
 * Calls that change a view, MADV_REMOVE and MADV_DONTNEED above all, look alike in what the kernel says of them, but
 * one of them ends what is in the file, and the other does not. And what a fork, or an mremap that makes a second mapping, would
 * have to be followed into could be anywhere. So no such event is ever read, and the call sleeps until the
 * memory that the view shows is complete, and is fetched first. An event cannot be told from a fault before it is read; but while there is
 * one the kernel places no pages (uffd_is_changing), and faults are given before events.
 */
#define LOG_MODULE "lazy"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "mem/guardian.h"
#include "mem/lazy_priv.h"
#include "mem/uffd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

enum { BATCH = 32, EVENTS = 64 };

struct lazy_view {
	struct lazy_view *next;
	int uffd, pidfd;
	bool watched; /* the guardian has the pidfd */
	bool held;    /* an event waits in it, which is not read; nobody polls it */
	size_t n;
	struct lazy_area areas[];
};

struct lazy_space *lazy_add_shared(struct lazy *z, lazy_object object, int fd, uint64_t bytes,
				   struct err *err)
{
	struct lazy_space *sp = lazy_space_link(z, object, fd, err);

	if (!sp)
		return NULL;
	sp->shared = true;
	sp->bytes = bytes;
	return sp;
}

static struct lazy_space *space_of(const struct lazy *z, lazy_object object)
{
	for (struct lazy_space *sp = z->spaces; sp; sp = sp->next)
		if (sp->shared && sp->uffd >= 0 && sp->object == object)
			return sp;
	return NULL;
}

/* ---- views come and go ---- */

static int watch_events(const struct lazy *z, struct lazy_view *v, struct err *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = v};

	return epoll_ctl(z->views_epoll, EPOLL_CTL_ADD, v->uffd, &ev) < 0 ?
		       err_sys(err, "cannot wait for the page faults of a task") :
		       0;
}

/* The descriptor that all views are polled by, when there is the first. */
static int open_epoll(struct lazy *z, struct err *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = z};

	if (z->views_epoll >= 0)
		return 0;
	z->views_epoll = epoll_create1(EPOLL_CLOEXEC);
	if (z->views_epoll < 0 || epoll_ctl(z->epoll, EPOLL_CTL_ADD, z->views_epoll, &ev) < 0)
		return err_sys(err, "cannot prepare to wait for page faults");
	return 0;
}

/* Wakes who waits in it, and who waits to change it. */
static void close_view(struct lazy *z, struct lazy_view *v)
{
	if (v->watched)
		guardian_forget(z->guardian, v->pidfd);
	/* the task may not have closed its own yet, and then the close alone would leave it in the list */
	if (z->views_epoll >= 0)
		epoll_ctl(z->views_epoll, EPOLL_CTL_DEL, v->uffd, NULL);
	close(v->uffd);
	if (v->pidfd >= 0)
		close(v->pidfd);
	free(v);
}

static int begin_view(struct lazy *z, struct lazy_view *v, struct err *err)
{
	if (open_epoll(z, err) < 0 || watch_events(z, v, err) < 0)
		return -1;
	if (v->pidfd < 0 || !z->guardian)
		return 0;
	if (guardian_watch(z->guardian, v->pidfd, err) < 0)
		return -1;
	v->watched = true;
	return 0;
}

int lazy_view_add(struct lazy *z, int uffd, int pidfd, const struct lazy_area *areas, size_t n,
		  struct err *err)
{
	struct lazy_view *v = calloc(1, sizeof(*v) + n * sizeof(*areas));

	if (!v) {
		close(uffd);
		if (pidfd >= 0)
			close(pidfd);
		return err_nomem(err);
	}
	v->uffd = uffd;
	v->pidfd = pidfd;
	v->n = n;
	memcpy(v->areas, areas, n * sizeof(*areas));
	if (begin_view(z, v, err) < 0) {
		close_view(z, v);
		return -1;
	}
	v->next = z->views;
	z->views = v;
	return 0;
}

void lazy_views_close(struct lazy *z)
{
	struct lazy_view *v;

	while ((v = z->views)) {
		z->views = v->next;
		close_view(z, v);
	}
	if (z->views_epoll >= 0)
		close(z->views_epoll);
	z->views_epoll = -1;
}

/* ---- pages ---- */

int64_t lazy_shared_write(const struct lazy_space *sp, uint64_t off, const uint8_t *data,
			  uint64_t bytes)
{
	uint64_t there = off < sp->bytes ? MIN(bytes, sp->bytes - off) : 0;

	/* zeros are what a hole of the file has; the last page may be a part of one */
	if (data && there && io_pwrite_full(sp->uffd, data, there, (off_t)off) < 0)
		return -errno;
	return (int64_t)bytes;
}

void lazy_views_wake(const struct lazy *z, lazy_object object, uint64_t start, uint64_t end)
{
	for (const struct lazy_view *v = z->views; v; v = v->next) {
		for (size_t i = 0; i < v->n; i++) {
			const struct lazy_area *a = &v->areas[i];
			uint64_t from = MAX(start, a->off);
			uint64_t to = MIN(end, a->off + (a->end - a->start));
			struct uffdio_range r = {.start = a->start + (from - a->off),
						 .len = to - from};

			if (a->object == object && from < to)
				ioctl(v->uffd, UFFDIO_WAKE, &r);
		}
	}
}

/* ---- faults ---- */

/*
 * A page that is not missing: the file has it, or nobody ever wrote it. Zeros go only where there is no page (EEXIST).
 * Whoever was sent back faults anew.
 */
static void give_zeros(const struct lazy_view *v, uint64_t addr)
{
	struct uffdio_zeropage z = {.range = {addr, PAGE_BYTES}};

	if (ioctl(v->uffd, UFFDIO_ZEROPAGE, &z) < 0)
		ioctl(v->uffd, UFFDIO_WAKE, &z.range);
}

static const struct lazy_area *area_of(const struct lazy_view *v, uint64_t addr)
{
	for (size_t i = 0; i < v->n; i++)
		if (addr >= v->areas[i].start && addr < v->areas[i].end)
			return &v->areas[i];
	return NULL;
}

static int on_fault(struct lazy *z, const struct lazy_view *v, uint64_t addr, struct err *err)
{
	const struct lazy_area *a = area_of(v, addr);
	struct lazy_space *sp = a ? space_of(z, a->object) : NULL;
	uint64_t off = a ? a->off + (addr - a->start) : 0, same;

	if (a && sp && lazy_map_state(&sp->map, off, &same) != LAZY_ABSENT)
		return lazy_fault(sp, off, err);
	z->st.hole_faults++;
	give_zeros(v, addr);
	return 0;
}

/* Memory for a fault in any of its areas. */
static bool room_for_fault(const struct lazy *z, const struct lazy_view *v)
{
	for (size_t i = 0; i < v->n; i++) {
		struct lazy_space *sp = space_of(z, v->areas[i].object);

		if (sp && !vec_reserve(&sp->waits, 1))
			return false;
	}
	return true;
}

/* Reads one message at a time, and only what must be a fault. */
static int view_events(struct lazy *z, struct lazy_view *v, struct err *err)
{
	struct pollfd pfd = {.fd = v->uffd, .events = POLLIN};
	struct uffd_msg m;
	ssize_t n;

	for (int i = 0; i < BATCH && poll(&pfd, 1, 0) > 0; i++) {
		if (uffd_is_changing(v->uffd)) {
			v->held = true;
			epoll_ctl(z->views_epoll, EPOLL_CTL_DEL, v->uffd, NULL);
			log_debug("a task changes shared memory that is not complete, and has to wait");
			return 0;
		}
		if (!room_for_fault(z, v)) {
			lazy_short_of_memory(z);
			return 0;
		}
		n = read(v->uffd, &m, sizeof(m));
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n < 0)
			return err_sys(err, "cannot read a userfaultfd");
		if (m.event != UFFD_EVENT_PAGEFAULT)
			return err_set(err, EPROTO,
				       "shared memory that is not complete was changed (event 0x%x)",
				       m.event);
		if (on_fault(z, v, m.arg.pagefault.address & ~(PAGE_BYTES - 1), err) < 0)
			return -1;
	}
	return 0;
}

int lazy_views_events(struct lazy *z, struct err *err)
{
	struct epoll_event ev[EVENTS];
	int n = epoll_wait(z->views_epoll, ev, EVENTS, 0);

	for (int i = 0; i < n; i++)
		if (view_events(z, ev[i].data.ptr, err) < 0)
			return -1;
	return 0;
}

/* ---- the end ---- */

static bool is_complete(const struct lazy *z, const struct lazy_view *v)
{
	for (size_t i = 0; i < v->n; i++)
		if (space_of(z, v->areas[i].object))
			return false;
	return true;
}

bool lazy_views_held(const struct lazy *z)
{
	for (const struct lazy_view *v = z->views; v; v = v->next)
		if (v->held)
			return true;
	return false;
}

int lazy_views_work(struct lazy *z, struct err *err)
{
	struct lazy_view **at = &z->views, *v;

	while ((v = *at)) {
		if (is_complete(z, v)) {
			*at = v->next;
			close_view(z, v);
			continue;
		}
		/* a fork that failed leaves no event */
		if (v->held && !uffd_is_changing(v->uffd)) {
			v->held = false;
			if (watch_events(z, v, err) < 0)
				return -1;
		}
		at = &v->next;
	}
	return 0;
}

static bool is_viewed(const struct lazy *z, lazy_object object)
{
	for (const struct lazy_view *v = z->views; v; v = v->next)
		for (size_t i = 0; i < v->n; i++)
			if (v->areas[i].object == object)
				return true;
	return false;
}

void lazy_views_close_dead(struct lazy *z)
{
	struct lazy_view **at = &z->views, *v;

	while ((v = *at)) {
		if (uffd_space_lives(v->uffd)) {
			at = &v->next;
			continue;
		}
		*at = v->next;
		close_view(z, v);
	}
	for (struct lazy_space *sp = z->spaces; sp; sp = sp->next) {
		if (!sp->shared || sp->uffd < 0 || is_viewed(z, sp->object))
			continue;
		z->st.gone_pages += sp->map.missing;
		lazy_space_close(sp);
	}
}
