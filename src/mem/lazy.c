// SPDX-License-Identifier: Apache-2.0
/*
 * Spaces, requests, and the loop of the fault engine.
 */
#define LOG_MODULE "lazy"
#include "base/clock.h"
#include "base/log.h"
#include "mem/guardian.h"
#include "mem/lazy_priv.h"
#include "mem/uffd.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

enum {
	STEP_PAGES = 16, /* the background begins with 64 KiB, and grows by as much */
	STEP_MAX_PAGES = 1024,
	SPIN_NS = 200000,
	RETRY_NS = 200000,
	QUEUE_NS = 1000000, /* so long a queue of background pages may be, for threads that wait */
	EVENTS = 64,
	LOOK_MS = 300, /* how often to look for dead tasks and after the guardian */
};

struct lazy *lazy_open(struct lazy_source *source, struct guardian *guardian, struct err *err)
{
	struct lazy *z = calloc(1, sizeof(*z));
	struct epoll_event ev = {.events = EPOLLIN};

	if (!z) {
		err_nomem(err);
		return NULL;
	}
	z->source = source;
	z->window_pages = 2 * STEP_PAGES;
	z->guardian = guardian;
	z->spaces_end = &z->spaces;
	z->views_epoll = -1;
	z->requests.prev = z->requests.next = &z->requests;
	z->epoll = epoll_create1(EPOLL_CLOEXEC);
	z->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (z->epoll >= 0 && z->timer >= 0 && epoll_ctl(z->epoll, EPOLL_CTL_ADD, z->timer, &ev) == 0)
		return z;
	err_sys(err, "cannot prepare to wait for page faults");
	lazy_close(z);
	return NULL;
}

/* ---- spaces ---- */

struct lazy_space *lazy_space_link(struct lazy *z, lazy_object object, int fd, struct err *err)
{
	struct lazy_space *sp = z->spare ? z->spare : calloc(1, sizeof(*sp));

	if (!sp) {
		err_nomem(err);
		close(fd);
		return NULL;
	}
	z->spare = NULL;
	sp->z = z;
	sp->object = object;
	sp->uffd = fd;
	sp->pidfd = -1;
	*z->spaces_end = sp;
	z->spaces_end = &sp->next;
	z->st.spaces++;
	return sp;
}

struct lazy_space *lazy_space_new(struct lazy *z, lazy_object object, int uffd, struct err *err)
{
	struct lazy_space *sp = lazy_space_link(z, object, uffd, err);
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = sp};

	if (!sp || epoll_ctl(z->epoll, EPOLL_CTL_ADD, uffd, &ev) == 0)
		return sp;
	err_sys(err, "cannot wait for the page faults of a task");
	lazy_space_close(sp);
	return NULL;
}

struct lazy_space *lazy_add(struct lazy *z, lazy_object object, int uffd, int pidfd, struct err *err)
{
	struct lazy_space *sp = lazy_space_new(z, object, uffd, err);

	if (!sp) {
		if (pidfd >= 0)
			close(pidfd);
		return NULL;
	}
	if (pidfd < 0 || lazy_watch(sp, pidfd, err) == 0)
		return sp;
	lazy_space_close(sp);
	return NULL;
}

int lazy_watch(struct lazy_space *sp, int pidfd, struct err *err)
{
	sp->pidfd = pidfd;
	if (!sp->z->guardian)
		return 0;
	if (guardian_watch(sp->z->guardian, pidfd, err) < 0)
		return -1;
	sp->watched = true;
	return 0;
}

int lazy_missing(struct lazy_space *sp, uint64_t vaddr, uint64_t pages, struct err *err)
{
	return lazy_map_add(&sp->map, vaddr, pages, err);
}

void lazy_prefer(struct lazy_space *sp, uint64_t vaddr, uint64_t pages)
{
	struct lazy_range r = {vaddr & ~(PAGE_BYTES - 1), pages};
	struct lazy_run run;

	if (!lazy_map_next(&sp->map, r.vaddr, pages, LAZY_MISSING, &run) ||
	    run.addr - r.vaddr >= pages * PAGE_BYTES)
		return;
	if (!vec_push(&sp->preferred, r))
		log_debug("no memory to note what comes first");
}

/*
 * Nothing is missing, or nobody is there any more. Closing ends the registrations,
 * and wakes whoever sleeps in an event that was not read.
 */
void lazy_space_close(struct lazy_space *sp)
{
	if (sp->uffd < 0)
		return;
	if (sp->watched)
		guardian_forget(sp->z->guardian, sp->pidfd);
	sp->watched = false;
	epoll_ctl(sp->z->epoll, EPOLL_CTL_DEL, sp->uffd, NULL);
	close(steal_fd(&sp->uffd));
	if (sp->pidfd >= 0)
		close(steal_fd(&sp->pidfd));
	lazy_map_free(&sp->map);
	vec_free(&sp->waits);
	vec_free(&sp->preferred);
}

static void sweep(struct lazy *z)
{
	struct lazy_space **at = &z->spaces, *sp;

	while ((sp = *at)) {
		if (sp->uffd >= 0) {
			at = &sp->next;
			continue;
		}
		*at = sp->next;
		if (z->turn == sp)
			z->turn = sp->next;
		free(sp);
	}
	z->spaces_end = at;
}

/* ---- requests ---- */

static void ask(struct lazy *z, lazy_object object, uint64_t dump, uint64_t pages, bool asked)
{
	for (struct lazy_space *sp = z->spaces; sp; sp = sp->next)
		if (sp->uffd >= 0 && sp->object == object)
			lazy_map_ask(&sp->map, dump, dump + pages * PAGE_BYTES, asked);
}

static void forget_request(struct lazy *z, struct lazy_request *rq)
{
	ask(z, rq->object, rq->vaddr, rq->pages, false);
	if (!rq->urgent)
		z->bulk_asked_pages -= rq->pages;
	rq->prev->next = rq->next;
	rq->next->prev = rq->prev;
	free(rq);
	z->ask_again = true;
}

static void note_lost(struct lazy *z)
{
	if (!z->lost)
		z->st.losses++;
	z->lost = true;
}

void lazy_lost(struct lazy *z)
{
	note_lost(z);
	while (z->requests.next != &z->requests)
		forget_request(z, z->requests.next);
}

void lazy_back(struct lazy *z)
{
	z->lost = false;
	z->ask_again = true;
	z->bulk_step_pages = 0;
	lazy_retry_soon(z);
}

/* Not more than the source takes at once. */
static void trim(const struct lazy_space *sp, struct lazy_run *run)
{
	struct lazy_source *source = sp->z->source;

	if (source->ops->extent)
		run->pages = source->ops->extent(source, sp->object, run->dump, run->pages);
}

/* False: not now, as the source takes no more, or is lost, or there is no memory. */
static bool send_request(struct lazy_space *sp, const struct lazy_run *run, bool urgent)
{
	struct lazy *z = sp->z;
	struct lazy_request *rq = calloc(1, sizeof(*rq));
	struct err why;
	int r;

	if (!rq) {
		z->ask_again = true;
		lazy_short_of_memory(z);
		return false;
	}
	*rq = (struct lazy_request){
		.object = sp->object,
		.vaddr = run->dump,
		.pages = run->pages,
		.urgent = urgent,
		.sent_ns = clock_ns(),
		.prev = z->requests.prev,
		.next = &z->requests,
	};
	rq->prev->next = rq->next->prev = rq;
	if (!urgent)
		z->bulk_asked_pages += rq->pages;
	ask(z, sp->object, run->dump, run->pages, true);
	r = z->source->ops->request(z->source, rq, &why);
	if (r == 0)
		return true;
	forget_request(z, rq);
	if (r < 0) {
		/* we may be inside of an answer: the other requests stay until that has ended */
		log_warn("%s: %s", z->source->ops->name, why.text);
		note_lost(z);
	} else if (urgent) {
		lazy_retry_soon(z);
	}
	return false;
}

static bool asked_urgently(const struct lazy *z, lazy_object object, uint64_t dump)
{
	for (const struct lazy_request *rq = z->requests.next; rq != &z->requests; rq = rq->next)
		if (rq->urgent && rq->object == object && dump >= rq->vaddr &&
		    dump < rq->vaddr + rq->pages * PAGE_BYTES)
			return true;
	return false;
}

void lazy_ask_urgent(struct lazy_space *sp, uint64_t addr)
{
	const struct lazy_source *source = sp->z->source;
	struct lazy_run run = {.addr = addr, .pages = 1};
	enum lazy_state state = lazy_map_state(&sp->map, addr, &run.dump);

	if (state == LAZY_ABSENT || sp->z->lost)
		return;
	if (state == LAZY_ASKED && (!source->fast_lane || asked_urgently(sp->z, sp->object, run.dump)))
		return;
	if (state == LAZY_MISSING &&
	    !lazy_map_next(&sp->map, addr, MAX(source->around_pages, 1UL), LAZY_MISSING, &run))
		return;
	trim(sp, &run);
	(void)send_request(sp, &run, true);
}

/* What the background is to ask for next: behind the last fault, then around. */
static bool next_in_space(struct lazy_space *sp, uint64_t max, struct lazy_run *run)
{
	if (sp->uffd < 0 || !sp->map.missing)
		return false;
	if (!lazy_map_next(&sp->map, sp->cursor, max, LAZY_MISSING, run) &&
	    (!sp->cursor || !lazy_map_next(&sp->map, 0, max, LAZY_MISSING, run)))
		return false;
	trim(sp, run);
	sp->cursor = run->addr + run->pages * PAGE_BYTES;
	return true;
}

/* Of the pages that come first, what is still missing. */
static bool next_preferred(struct lazy_space *sp, uint64_t max, struct lazy_run *run)
{
	for (; sp->uffd >= 0 && sp->next_preferred < sp->preferred.n; sp->next_preferred++) {
		const struct lazy_range *r = &sp->preferred.v[sp->next_preferred];

		if (!lazy_map_next(&sp->map, r->vaddr, MIN(max, r->pages), LAZY_MISSING, run) ||
		    run->addr - r->vaddr >= r->pages * PAGE_BYTES)
			continue;
		run->pages = MIN(run->pages, r->pages - (run->addr - r->vaddr) / PAGE_BYTES);
		trim(sp, run);
		return true;
	}
	return false;
}

static struct lazy_space *next_run(struct lazy *z, uint64_t max, struct lazy_run *run)
{
	struct lazy_space *first = z->turn ? z->turn : z->spaces, *sp;

	for (sp = z->spaces; sp; sp = sp->next)
		if (next_preferred(sp, max, run))
			return sp;

	for (sp = lazy_views_held(z) ? z->spaces : NULL; sp; sp = sp->next)
		if (sp->shared && next_in_space(sp, max, run))
			return sp;
	sp = first;
	while (sp) {
		if (next_in_space(sp, max, run)) {
			z->turn = sp->next;
			return sp;
		}
		sp = sp->next ? sp->next : z->spaces;
		if (sp == first)
			break;
	}
	return NULL;
}

static void background(struct lazy *z)
{
	uint64_t window = z->source->window_pages, step;
	struct lazy_space *sp;
	struct lazy_run run;
	bool sent = true;

	if (!z->source->fast_lane)
		window = MIN(window, z->window_pages);
	while (z->started && !z->lost && sent && z->bulk_asked_pages < window) {
		z->bulk_step_pages = MAX(z->bulk_step_pages, (uint64_t)STEP_PAGES);
		step = MIN(z->bulk_step_pages, window - z->bulk_asked_pages);
		/* one comes, one is asked for */
		step = MIN(step,
			   MAX(window / (2 * MAX(z->source->beside, 1U)), (uint64_t)STEP_PAGES));
		sp = next_run(z, step, &run);
		if (!sp)
			break;
		sent = send_request(sp, &run, false);
	}
}

/* ---- answers ---- */

static int push(struct lazy *z, lazy_object object, bool urgent, uint64_t vaddr, const void *data,
		uint64_t n, struct err *err)
{
	uint64_t placed, *count = urgent ? &z->st.urgent_pages : &z->st.bulk_pages;

	if (vaddr % PAGE_BYTES || n > (UINT64_MAX - vaddr) / PAGE_BYTES)
		return err_set(err, EPROTO, "the source sends pages at the odd address 0x%llx",
			       (unsigned long long)vaddr);
	if (lazy_place(z, object, vaddr, data, n, &placed, err) < 0) {
		z->broken = true;
		z->why = *err;
		return -1;
	}
	placed = MIN(placed, n); /* children may have taken them, too */
	*count += placed;
	z->st.dropped_pages += n - placed;
	if (z->started && !z->st.drain_ns && !lazy_left_pages(z))
		z->st.drain_ns = clock_ns() - z->start_ns;
	return 0;
}

int lazy_push(struct lazy *z, lazy_object object, uint64_t vaddr, const void *data, uint64_t n,
	      struct err *err)
{
	return push(z, object, false, vaddr, data, n, err);
}

static int answer(struct lazy *z, struct lazy_request *rq, uint64_t vaddr, const void *data,
		  uint64_t n, struct err *err)
{
	if (vaddr < rq->vaddr || n > rq->pages || vaddr - rq->vaddr > (rq->pages - n) * PAGE_BYTES)
		return err_set(err, EPROTO,
			       "the source answers with pages that it was not asked for (%llu at 0x%llx)",
			       (unsigned long long)n, (unsigned long long)vaddr);
	return push(z, rq->object, rq->urgent, vaddr, data, n, err);
}

int lazy_answer(struct lazy *z, struct lazy_request *rq, uint64_t vaddr, const void *data,
		uint64_t n, struct err *err)
{
	return answer(z, rq, vaddr, data, n, err);
}

int lazy_answer_zero(struct lazy *z, struct lazy_request *rq, uint64_t vaddr, uint64_t n,
		     struct err *err)
{
	return answer(z, rq, vaddr, NULL, n, err);
}

/*
 * Where answers come in the order of the questions, what is asked for in the background is what
 * a thread waits for, too. So it is kept to what the connection needs to be busy: as soon as
 * an answer takes longer than the shortest did by more than a little, there is a queue.
 */
static void adapt_window(struct lazy *z, const struct lazy_request *rq)
{
	uint64_t took_ns = clock_ns() - rq->sent_ns;

	if (!z->base_ns || took_ns < z->base_ns)
		z->base_ns = took_ns;
	if (took_ns < z->base_ns + QUEUE_NS)
		z->window_pages = MIN(z->window_pages + STEP_PAGES, z->source->window_pages);
	else
		z->window_pages = MAX(z->window_pages / 8 * 7, 2UL * STEP_PAGES);
}

void lazy_end(struct lazy *z, struct lazy_request *rq)
{
	adapt_window(z, rq);
	if (!rq->urgent)
		z->bulk_step_pages = MIN(z->bulk_step_pages + STEP_PAGES, (uint64_t)STEP_MAX_PAGES);
	forget_request(z, rq);
}

/* ---- the loop ---- */

void lazy_start(struct lazy *z)
{
	z->started = true;
	z->start_ns = clock_ns();
	lazy_retry_soon(z);
}

int lazy_fd(const struct lazy *z)
{
	return z->epoll;
}

void lazy_retry_soon(struct lazy *z)
{
	struct itimerspec in = {.it_value.tv_nsec = RETRY_NS};

	timerfd_settime(z->timer, 0, &in, NULL);
}

void lazy_short_of_memory(struct lazy *z)
{
	if (!z->told_short)
		log_warn("no memory for what tasks need of us; they wait until there is some");
	z->short_of = z->told_short = true;
	lazy_retry_soon(z);
}

/* All that the descriptors have, a bounded number of times. */
static int read_all(struct lazy *z, struct err *err)
{
	struct epoll_event ev[EVENTS];
	uint64_t ticks;
	int n = EVENTS;

	for (int round = 0; round < 16 && n == EVENTS; round++) {
		n = epoll_wait(z->epoll, ev, EVENTS, 0);
		for (int i = 0; i < n; i++) {
			struct lazy_space *sp = ev[i].data.ptr;

			if (ev[i].data.ptr == z) {
				if (lazy_views_events(z, err) < 0)
					return -1;
			} else if (!sp)
				(void)!read(z->timer, &ticks, sizeof(ticks));
			else if (sp->uffd >= 0 && lazy_events(sp, err) < 0)
				return -1;
		}
	}
	return 0;
}

/* A task may die while nothing of its memory is on its way. */
static void close_dead(struct lazy *z)
{
	for (struct lazy_space *sp = z->spaces; sp; sp = sp->next)
		if (sp->uffd >= 0 && (!sp->map.missing || !uffd_space_lives(sp->uffd)))
			lazy_space_close(sp);
	lazy_views_close_dead(z);
}

static int look_around(struct lazy *z, struct err *err)
{
	uint64_t now = clock_ns();

	if (now - z->look_ns < LOOK_MS * 1000000UL)
		return 0;
	z->look_ns = now;
	close_dead(z);
	return z->guardian ? guardian_check(z->guardian, err) : 0;
}

int lazy_run(struct lazy *z, struct err *err)
{
	bool again; /* requests ended, or could not be made, since the last look */

	if (z->broken) {
		*err = z->why;
		return -1;
	}
	sweep(z);
	z->short_of = false;
	if (read_all(z, err) < 0)
		return -1;
	again = z->ask_again;
	z->ask_again = false; /* a request that cannot be made sets it anew */
	for (struct lazy_space *sp = z->spaces; sp; sp = sp->next) {
		if (lazy_waits(sp, again, err) < 0)
			return -1;
		if (sp->uffd >= 0 && z->started && !sp->map.missing)
			lazy_space_close(sp);
	}
	if (lazy_views_work(z, err) < 0)
		return -1;
	background(z);
	return 0;
}

/* 0: it works (again); 1: it is still lost; -1. */
static int work_source(struct lazy *z, bool ready, struct err *err)
{
	const struct lazy_source_ops *ops = z->source->ops;
	struct err why;
	int r;

	if (z->lost) {
		lazy_lost(z);
		r = ops->reconnect ? ops->reconnect(z->source, err) :
				     err_set(err, EPIPE, "%s: the connection is lost", ops->name);
		if (r == 0)
			lazy_back(z);
		return r;
	}
	if (!ready || !ops->work || ops->work(z->source, z, &why) == 0)
		return 0;
	lazy_lost(z);
	if (!ops->reconnect) {
		*err = why;
		return -1;
	}
	log_warn("%s: %s", ops->name, why.text);
	return 1;
}

/*
 * Where a processor has to be woken up, that costs more than a page takes to come. So while
 * threads fault, a moment is waited without sleeping; others may have the processor.
 */
static int wait_for_work(const struct lazy *z, struct pollfd *p, nfds_t n, int timeout_ms)
{
	int r = poll(p, n, 0);

	while (r == 0 && timeout_ms && clock_ns() - z->fault_ns < SPIN_NS) {
		sched_yield();
		r = poll(p, n, 0);
	}
	return r == 0 && timeout_ms ? poll(p, n, timeout_ms) : r;
}

int lazy_step(struct lazy *z, int watch_fd, int timeout_ms, struct err *err)
{
	const struct lazy_source_ops *ops = z->source->ops;
	struct pollfd p[3] = {{.events = POLLIN}, {.fd = -1}, {.fd = watch_fd, .events = POLLIN}};
	int source_ms = -1, n;

	if (lazy_run(z, err) < 0)
		return -1;
	/* what could not be read is there all the time */
	p[0].fd = z->short_of ? z->timer : z->epoll;
	if (ops->poll_fd)
		p[1].fd = ops->poll_fd(z->source, &p[1].events, &source_ms);
	if (source_ms >= 0 && (timeout_ms < 0 || source_ms < timeout_ms))
		timeout_ms = source_ms;
	if (timeout_ms < 0 || timeout_ms > LOOK_MS)
		timeout_ms = LOOK_MS;
	n = wait_for_work(z, p, ARRAY_SIZE(p), timeout_ms);
	if (n < 0 && errno != EINTR)
		return err_sys(err, "cannot wait for page faults");
	if (look_around(z, err) < 0)
		return -1;
	/* a source that has something to do in a moment does it also where tasks leave no moment without an event */
	if (work_source(z, n <= 0 || p[1].revents || source_ms >= 0, err) < 0)
		return -1;
	return lazy_run(z, err);
}

uint64_t lazy_left_pages(const struct lazy *z)
{
	uint64_t left = 0;

	for (const struct lazy_space *sp = z->spaces; sp; sp = sp->next)
		left += sp->map.missing;
	return left;
}

bool lazy_wants(const struct lazy *z, lazy_object object, uint64_t vaddr)
{
	struct lazy_run run;

	for (const struct lazy_space *sp = z->spaces; sp; sp = sp->next)
		if (sp->uffd >= 0 && sp->object == object &&
		    lazy_map_at_dump(&sp->map, vaddr, vaddr + PAGE_BYTES, &run))
			return true;
	return false;
}

void lazy_close(struct lazy *z)
{
	if (!z)
		return;
	while (z->requests.next != &z->requests)
		forget_request(z, z->requests.next);
	for (struct lazy_space *sp = z->spaces; sp; sp = sp->next)
		lazy_space_close(sp);
	sweep(z);
	lazy_views_close(z);
	lazy_map_free_room(&z->room);
	free(z->spare);
	if (z->timer >= 0)
		close(z->timer);
	if (z->epoll >= 0)
		close(z->epoll);
	free(z);
}
