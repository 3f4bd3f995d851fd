// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "pages"
#include "migrate/pages.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

enum { TICK_MS = 500 };

struct pages {
	struct serve *serve;
	pthread_t thread;
	int wake; /* eventfd: the thread is to look up */
	int news; /* eventfd: the state has changed */

	pthread_mutex_t lock; /* guards what follows; the thread holds it while it works, not while it waits */
	struct serve_net *net;
	enum pages_state state;
	struct err why;
	bool stop;
	uint64_t dropped; /* by broken connections, when the lanes were set up */
};

static void tell(int fd)
{
	uint64_t one = 1;

	(void)!write(fd, &one, sizeof(one));
}

static void clear(int fd)
{
	uint64_t ignored;

	(void)!read(fd, &ignored, sizeof(ignored));
}

static void set_state(struct pages *p, enum pages_state state)
{
	if (p->state == state)
		return;
	p->state = state;
	tell(p->news);
}

/* What became of one step. The lock is held. */
static void look(struct pages *p, int rc, bool tick)
{
	struct serve_net_stats st;

	serve_net_stats(p->net, &st);
	if (rc == 0 && tick)
		rc = serve_check(p->serve, &p->why);
	if (rc < 0)
		set_state(p, PAGES_GONE);
	else if (serve_net_closed(p->net))
		set_state(p, PAGES_CLOSED);
	else if (st.dropped != p->dropped && p->state == PAGES_SERVING)
		set_state(p, PAGES_LOST);
}

static void *serve_main(void *arg)
{
	struct pages *p = arg;
	uint64_t ticked_ms = clock_ms();
	bool tick;
	int rc;

	pthread_mutex_lock(&p->lock);
	while (!p->stop && p->state != PAGES_GONE) {
		/* whoever wants the lock wakes us first; see take() */
		rc = serve_net_step(p->net, p->wake, TICK_MS, &p->why);
		tick = clock_ms() - ticked_ms >= TICK_MS;
		if (tick)
			ticked_ms = clock_ms();
		look(p, rc, tick);
		pthread_mutex_unlock(&p->lock);
		sched_yield();
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* Gets the lock although the thread waits with it. */
static void take(struct pages *p)
{
	tell(p->wake);
	pthread_mutex_lock(&p->lock);
	clear(p->wake);
}

struct pages *pages_start(struct serve *serve, struct err *err)
{
	struct pages *p = calloc(1, sizeof(*p));
	sigset_t all, before;
	int no;

	if (!p) {
		err_nomem(err);
		return NULL;
	}
	p->serve = serve;
	p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->net = serve_net_create(serve, true, err);
	pthread_mutex_init(&p->lock, NULL);
	/* signals are the main thread's */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	no = p->net && p->wake >= 0 && p->news >= 0 ?
		     pthread_create(&p->thread, NULL, serve_main, p) :
		     EMFILE;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!no)
		return p;
	if (p->net)
		err_sysno(err, no, "cannot start to serve pages");
	p->stop = true;
	p->thread = pthread_self();
	pages_stop(p);
	return NULL;
}

void pages_stop(struct pages *p)
{
	if (!p)
		return;
	if (!pthread_equal(p->thread, pthread_self())) {
		take(p);
		p->stop = true;
		pthread_mutex_unlock(&p->lock);
		pthread_join(p->thread, NULL);
	}
	serve_net_free(p->net);
	pthread_mutex_destroy(&p->lock);
	if (p->wake >= 0)
		close(p->wake);
	if (p->news >= 0)
		close(p->news);
	free(p);
}

int pages_connect(struct pages *p, const int in[], const int out[], size_t n, struct err *err)
{
	struct serve_net_stats st;
	int rc = 0;

	take(p);
	serve_net_disconnect(p->net);
	for (size_t i = 0; i < n; i++) {
		if (serve_net_add(p->net, in[i], out[i], "lane", err) < 0)
			rc = -1;
	}
	serve_net_stats(p->net, &st);
	p->dropped = st.dropped;
	if (p->state == PAGES_LOST)
		p->state = PAGES_SERVING;
	pthread_mutex_unlock(&p->lock);
	return rc;
}

enum pages_state pages_wait(struct pages *p, int watch_fd, int timeout_ms, struct err *err)
{
	struct pollfd fds[] = {{.fd = p->news, .events = POLLIN}, {.fd = watch_fd, .events = POLLIN}};
	enum pages_state state;

	take(p);
	state = p->state;
	pthread_mutex_unlock(&p->lock);
	if (state == PAGES_SERVING) {
		(void)poll(fds, ARRAY_SIZE(fds), timeout_ms);
		clear(p->news);
		take(p);
		state = p->state;
		pthread_mutex_unlock(&p->lock);
	}
	if (state == PAGES_GONE)
		*err = p->why;
	return state;
}

void pages_stats(struct pages *p, struct serve_net_stats *out)
{
	take(p);
	serve_net_stats(p->net, out);
	pthread_mutex_unlock(&p->lock);
}

uint64_t pages_left(struct pages *p)
{
	uint64_t left;

	take(p);
	left = serve_left(p->serve);
	pthread_mutex_unlock(&p->lock);
	return left;
}
