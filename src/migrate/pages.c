// SPDX-License-Identifier: Apache-2.0
#include "migrate/pages.h"

#include "base/clock.h"
#include "base/thread.h"
#include "kernel/urgent.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>

enum { TICK_MS = 500 };

/* A lane, and the thread that serves it: none waits for what another one reads. */
struct server {
	struct pages *pages;
	struct serve_net *net;
	pthread_t thread;
	int wake; /* eventfd: to end */
	atomic_bool stop;
	bool checks;                 /* and looks now and then whether the tasks live */
	bool bulk;                   /* nobody waits for its pages */
	struct serve_net_stats seen; /* guarded by the lock of the pages */
};

struct pages {
	struct serve *serve;
	int news;          /* eventfd: the state has changed */
	struct server **v; /* one for each lane; the main thread's */
	size_t n;
	atomic_bool closing; /* the other side may close its lanes */

	pthread_mutex_t lock; /* guards what follows */
	enum pages_state state;
	struct err why;
	struct serve_net_stats before; /* of lanes that are gone */
};

static void tell(int fd)
{
	uint64_t one = 1;

	(void)!write(fd, &one, sizeof(one));
}

static void set_state(struct pages *p, enum pages_state state)
{
	if (p->state == state)
		return;
	p->state = state;
	tell(p->news);
}

/* What became of one step. False: there is no use in another one. */
static bool note_step(struct server *v, int rc, const struct err *why)
{
	struct pages *p = v->pages;

	pthread_mutex_lock(&p->lock);
	serve_net_stats(v->net, &v->seen);
	if (rc < 0 && p->state != PAGES_CLOSED) {
		p->why = *why;
		set_state(p, PAGES_GONE);
	} else if (serve_net_closed(v->net)) {
		set_state(p, PAGES_CLOSED);
	} else if (v->seen.dropped && p->state == PAGES_SERVING) {
		set_state(p, PAGES_LOST);
	}
	pthread_mutex_unlock(&p->lock);
	return rc == 0;
}

static void *serve_main(void *arg)
{
	struct server *v = arg;
	uint64_t ticked_ms = clock_ms();
	struct err why;
	int rc;

	if (v->bulk)
		unhurried_thread(0);
	while (!atomic_load(&v->stop)) {
		rc = serve_net_step(v->net, v->wake, TICK_MS, &why);
		if (rc == 0 && v->checks && clock_ms() - ticked_ms >= TICK_MS) {
			ticked_ms = clock_ms();
			rc = serve_check(v->pages->serve, &why);
		}
		if (!note_step(v, rc, &why))
			break;
	}
	return NULL;
}

/* ---- threads come and go ---- */

static void free_server(struct server *v)
{
	serve_net_free(v->net);
	if (v->wake >= 0)
		close(v->wake);
	free(v);
}

static void add_stats(struct serve_net_stats *to, const struct serve_net_stats *st)
{
	to->requests += st->requests;
	to->pages += st->pages;
	to->zero_pages += st->zero_pages;
	to->packed_pages += st->packed_pages;
	to->sent_bytes += st->sent_bytes;
	to->dropped += st->dropped;
	to->peers += st->peers;
}

static void stop_servers(struct pages *p)
{
	for (size_t i = 0; i < p->n; i++) {
		atomic_store(&p->v[i]->stop, true);
		tell(p->v[i]->wake);
	}
	for (size_t i = 0; i < p->n; i++) {
		pthread_join(p->v[i]->thread, NULL);
		p->v[i]->seen.peers = 0;
		add_stats(&p->before, &p->v[i]->seen);
		free_server(p->v[i]);
	}
	free(p->v);
	p->v = NULL;
	p->n = 0;
}

/* A demand lane comes first, and is never packed: its pages are few, and somebody waits. */
static int fill_server(struct server *v, const struct pages_packing *packing, struct err *err)
{
	struct pages *p = v->pages;

	v->checks = p->n == 0;
	v->bulk = p->n > 0;
	v->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->wake < 0)
		return err_sys(err, "cannot start to serve pages");
	v->net = serve_net_create(p->serve, true, err);
	if (!v->net)
		return -1;
	serve_net_share(v->net, &p->closing);
	if (p->n == 0 || !packing->codecs)
		return 0;
	return serve_net_pack(v->net, packing->codecs, packing->measure, err);
}

/* Takes the descriptors, also on failure. */
static struct server *make_server(struct pages *p, int in, int out, struct tunnel *direct,
				  const struct pages_packing *packing, struct err *err)
{
	struct server *v = calloc(1, sizeof(*v));
	int rc;

	if (v) {
		v->pages = p;
		v->wake = -1;
	}
	rc = v ? fill_server(v, packing, err) : err_nomem(err);
	if (rc < 0) {
		close(in);
		if (out != in)
			close(out);
	} else if (serve_net_add_direct(v->net, in, out, direct, "lane", err) == 0) {
		return v;
	}
	if (v)
		free_server(v);
	return NULL;
}

static int start_server(struct pages *p, int in, int out, struct tunnel *direct,
			const struct pages_packing *packing, struct err *err)
{
	struct server *v = make_server(p, in, out, direct, packing, err);
	int no;

	if (!v)
		return -1;
	no = thread_start(&v->thread, serve_main, v);
	if (no) {
		free_server(v);
		return err_sysno(err, no, "cannot start to serve pages");
	}
	p->v[p->n++] = v;
	return 0;
}

void pages_disconnect(struct pages *p)
{
	stop_servers(p);
}

int pages_connect(struct pages *p, const int in[], const int out[], size_t n, struct tunnel *direct,
		  const struct pages_packing *packing, struct err *err)
{
	int rc = 0;

	stop_servers(p);
	/* nobody else is there to need the lock */
	if (p->state == PAGES_LOST)
		p->state = PAGES_SERVING;
	atomic_store(&p->closing, false);
	p->v = calloc(n, sizeof(struct server *));
	for (size_t i = 0; i < n; i++) {
		if (p->v && rc == 0) {
			rc = start_server(p, in[i], out[i], i ? NULL : direct, packing, err);
			continue;
		}
		close(in[i]);
		if (out[i] != in[i])
			close(out[i]);
	}
	return p->v ? rc : err_nomem(err);
}

struct pages *pages_start(struct serve *serve, struct err *err)
{
	struct pages *p = calloc(1, sizeof(*p));

	if (!p) {
		err_nomem(err);
		return NULL;
	}
	p->serve = serve;
	p->news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&p->lock, NULL);
	if (p->news >= 0)
		return p;
	err_sys(err, "cannot start to serve pages");
	pages_stop(p);
	return NULL;
}

void pages_stop(struct pages *p)
{
	if (!p)
		return;
	stop_servers(p);
	pthread_mutex_destroy(&p->lock);
	if (p->news >= 0)
		close(p->news);
	free(p);
}

/* ---- what the main thread wants to know ---- */

static enum pages_state state_of(struct pages *p, struct err *err)
{
	enum pages_state state;

	pthread_mutex_lock(&p->lock);
	state = p->state;
	if (state == PAGES_GONE)
		*err = p->why;
	pthread_mutex_unlock(&p->lock);
	return state;
}

enum pages_state pages_wait(struct pages *p, int watch_fd, int timeout_ms, struct err *err)
{
	struct pollfd fds[] = {{.fd = p->news, .events = POLLIN}, {.fd = watch_fd, .events = POLLIN}};
	enum pages_state state = state_of(p, err);
	uint64_t ignored;

	if (state != PAGES_SERVING)
		return state;
	(void)poll(fds, ARRAY_SIZE(fds), timeout_ms);
	(void)!read(p->news, &ignored, sizeof(ignored));
	return state_of(p, err);
}

void pages_stats(struct pages *p, struct serve_net_stats *out)
{
	pthread_mutex_lock(&p->lock);
	*out = p->before;
	for (size_t i = 0; i < p->n; i++)
		add_stats(out, &p->v[i]->seen);
	pthread_mutex_unlock(&p->lock);
}

uint64_t pages_left(struct pages *p)
{
	return serve_left(p->serve);
}
