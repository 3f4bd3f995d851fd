// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/remote.h"

#include "base/clock.h"
#include "base/log.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

enum {
	READY_MS = 30000,  /* from the start of ssh to the source's first word */
	SILENT_MS = 15000, /* then a connection with open questions counts as broken */
	RETRY_FIRST_MS = 200,
	RETRY_MOST_MS = 5000,
};

struct remote {
	struct remote_link link;
	const struct lf_hello *hello;
	pthread_t thread;
	bool started;
	int wake; /* eventfd */

	/* of the thread */
	int in;
	bool idle_once; /* nothing happened for a while */
	struct frame_reader reader;
	struct arena arena;

	pthread_mutex_t lock; /* the rest */
	pthread_cond_t idle;  /* running changed */
	int out;              /* -1: the connection is down */
	bool stop, bye;
	bool asleep; /* the thread waits for ever: it must be woken to watch over a question */
	struct lf_out queue; /* what could not be sent yet */
	size_t queue_sent;
	struct remote_call *first, *last; /* in flight, oldest first */
	struct remote_call *running;      /* whose done is being called */
	uint64_t next_id;
	uint64_t asked_ms; /* when the oldest question was asked, or asked again */
	struct remote_state state;
};

/* ---- the list of calls; under the lock ---- */

static void list_add(struct remote *r, struct remote_call *c)
{
	c->next = NULL;
	c->prev = r->last;
	*(r->last ? &r->last->next : &r->first) = c;
	r->last = c;
	c->in_flight = true;
	r->state.in_flight++;
}

static void list_remove(struct remote *r, struct remote_call *c)
{
	*(c->prev ? &c->prev->next : &r->first) = c->next;
	*(c->next ? &c->next->prev : &r->last) = c->prev;
	c->next = c->prev = NULL;
	c->in_flight = false;
	r->state.in_flight--;
}

static struct remote_call *list_find(const struct remote *r, uint64_t id)
{
	struct remote_call *c = r->first;

	while (c && c->q.id != id)
		c = c->next;
	return c;
}

static void wake(struct remote *r)
{
	const uint64_t one = 1;

	/* fails only when it is full, hence readable */
	if (write(r->wake, &one, sizeof(one)) < 0)
		log_debug("the thread is awake already");
}

/* ---- sending; under the lock ---- */

/* Writes as much of the queue as the pipe takes. What breaks is noticed by the reader, too. */
static void push(struct remote *r)
{
	while (r->out >= 0 && r->queue_sent < r->queue.bytes) {
		ssize_t n = write(r->out, r->queue.data + r->queue_sent,
				  r->queue.bytes - r->queue_sent);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		r->queue_sent += (size_t)n;
	}
	if (r->queue_sent == r->queue.bytes)
		r->queue.bytes = r->queue_sent = 0;
}

static void enqueue(struct remote *r, const struct remote_call *c)
{
	if (lf_put_request(&r->queue, &c->q) < 0) {
		/* it stays in flight, and is asked when the connection is made again */
		log_error("out of memory for a request");
		r->queue.failed = false;
	}
}

static void trace(const struct lf_request *q)
{
	static const char *const names[] = {"stat",   "list",   "readlink", "xattrs", "read",
					    "seek",   "digest", "write",    "resize", "settle",
					    "create", "remove", "rename",   "set",    "xattr"};

	log_debug("asks %" PRIu64 ": %s %s, %u bytes at %" PRIu64, q->id, names[q->type - LF_STAT],
		  q->path, q->bytes, q->offset);
}

int remote_submit(struct remote *r, struct remote_call *c)
{
	int error = 0;

	pthread_mutex_lock(&r->lock);
	if (r->stop || r->bye) {
		error = r->stop ? ECANCELED : ESHUTDOWN;
	} else {
		c->q.id = r->next_id++;
		trace(&c->q);
		if (!r->first)
			r->asked_ms = clock_ms();
		list_add(r, c);
		r->state.requests++;
		if (r->out >= 0) {
			enqueue(r, c);
			push(r);
		}
		/* the thread has to look at its time-outs, or at the rest of the queue */
		if (r->queue.bytes || r->asleep)
			wake(r);
		r->asleep = false;
	}
	pthread_mutex_unlock(&r->lock);
	return error;
}

void remote_cancel(struct remote *r, struct remote_call *c)
{
	pthread_mutex_lock(&r->lock);
	if (c->in_flight)
		list_remove(r, c);
	while (r->running == c)
		pthread_cond_wait(&r->idle, &r->lock);
	/* it may have been put back for "more" */
	if (c->in_flight)
		list_remove(r, c);
	pthread_mutex_unlock(&r->lock);
}

/* ---- the connection; by the thread, or before there is one ---- */

static void disconnect(struct remote *r)
{
	if (r->in < 0)
		return;
	pthread_mutex_lock(&r->lock);
	close(r->out);
	r->out = -1;
	r->state.up = false;
	r->queue.bytes = r->queue_sent = 0;
	pthread_mutex_unlock(&r->lock);
	close(r->in);
	r->in = -1;
	frame_reader_finish(&r->reader);
	if (r->link.close)
		r->link.close(r->link.arg);
}

static bool stopping(struct remote *r)
{
	bool stop;

	pthread_mutex_lock(&r->lock);
	stop = r->stop || r->bye;
	pthread_mutex_unlock(&r->lock);
	return stop;
}

/* Reads once; -1: the connection is gone. */
static int feed(struct remote *r, struct err *err)
{
	size_t room;
	uint8_t *space = frame_reader_space(&r->reader, &room);
	ssize_t n;

	if (!space)
		return err_nomem(err);
	n = read(r->in, space, room);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return err_sys(err, "the connection to the source broke");
	if (n == 0)
		return err_set(err, EPIPE, "the source has ended the connection");
	frame_reader_fed(&r->reader, (size_t)n);
	pthread_mutex_lock(&r->lock);
	r->state.received_bytes += (uint64_t)n;
	r->state.heard_ms = clock_ms();
	pthread_mutex_unlock(&r->lock);
	return 0;
}

static int await_ready(struct remote *r, struct err *err)
{
	uint64_t end = clock_ms() + READY_MS;
	struct frame f;
	char why[512];
	int rc;

	while ((rc = frame_next(&r->reader, &f, err)) == 0) {
		struct pollfd p[] = {{.fd = r->in, .events = POLLIN},
				     {.fd = r->wake, .events = r->started ? POLLIN : 0}};
		uint64_t now = clock_ms();

		if (now >= end)
			return err_set(err, ETIMEDOUT, "the source gave no answer for %d seconds",
				       READY_MS / 1000);
		if (poll(p, ARRAY_SIZE(p), (int)(end - now)) < 0 && errno != EINTR)
			return err_sys(err, "poll");
		if (stopping(r))
			return err_set(err, ECANCELED, "it is over");
		/* a wake-up for new questions: they are looked at when the connection is there */
		if (p[1].revents) {
			uint64_t n;

			if (read(r->wake, &n, sizeof(n)) < 0)
				log_debug("nobody woke the thread");
		}
		if (p[0].revents && feed(r, err) < 0)
			return -1;
	}
	if (rc < 0)
		return -1;
	if (f.type == LF_READY)
		return 0;
	if (lf_get_refused(&f, why, sizeof(why), err) < 0)
		return -1;
	return err_set(err, EPERM, "the source refuses: %s", why);
}

/* Sends hello, and when the source is ready all that waits for an answer. */
static int greet(struct remote *r, int out, struct err *err)
{
	struct lf_out hello = {0};
	int rc = 0;

	frame_reader_init(&r->reader, lf_limit);
	if (lf_put_hello(&hello, r->hello) < 0)
		return err_nomem(err);
	/* the agent reads it at once: it may block, for as long as ssh needs */
	for (size_t at = 0; at < hello.bytes && rc == 0;) {
		struct pollfd p = {.fd = out, .events = POLLOUT};
		ssize_t n = -1;

		if (poll(&p, 1, READY_MS) <= 0)
			rc = err_set(err, ETIMEDOUT, "the source takes no question");
		else
			n = write(out, hello.data + at, hello.bytes - at);
		if (rc == 0 && n < 0 && errno != EAGAIN && errno != EINTR)
			rc = err_sys(err, "the connection to the source broke");
		at += n > 0 ? (size_t)n : 0;
	}
	lf_out_free(&hello);
	return rc < 0 ? -1 : await_ready(r, err);
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static int connect_once(struct remote *r, struct err *err)
{
	int in, out;

	if (r->link.open(r->link.arg, &in, &out, err) < 0)
		return -1;
	/* bulk comes in large pieces */
	(void)fcntl(in, F_SETPIPE_SZ, 1024 * 1024);
	r->in = in;
	if (set_nonblocking(in) < 0 || set_nonblocking(out) < 0 || greet(r, out, err) < 0) {
		pthread_mutex_lock(&r->lock);
		r->out = out;
		pthread_mutex_unlock(&r->lock);
		disconnect(r);
		return -1;
	}
	pthread_mutex_lock(&r->lock);
	r->out = out;
	r->state.up = true;
	r->state.connects++;
	r->asked_ms = clock_ms();
	for (struct remote_call *c = r->first; c; c = c->next)
		enqueue(r, c);
	push(r);
	pthread_mutex_unlock(&r->lock);
	return 0;
}

/* ---- receiving ---- */

/* Gives an answer to whom it belongs to; nobody may wait for it any more. */
static int deliver(struct remote *r, const struct frame *f, struct err *err)
{
	struct lf_reply reply = {0};
	struct remote_call *c;

	arena_free(&r->arena);
	if (lf_get_reply(f, &reply, &r->arena, err) < 0) {
		lf_reply_free(&reply);
		return -1;
	}
	pthread_mutex_lock(&r->lock);
	c = list_find(r, reply.id);
	if (c) {
		if (!reply.more)
			list_remove(r, c);
		r->running = c;
		r->asked_ms = clock_ms();
	}
	pthread_mutex_unlock(&r->lock);
	log_debug("answer %" PRIu64 ": %zu bytes", reply.id, f->bytes);
	if (c) {
		c->done(c, reply.type == LF_FAILED ? reply.error : 0, &reply);
		pthread_mutex_lock(&r->lock);
		r->running = NULL;
		pthread_cond_broadcast(&r->idle);
		pthread_mutex_unlock(&r->lock);
	}
	lf_reply_free(&reply);
	return 0;
}

static int receive(struct remote *r, struct err *err)
{
	struct frame f;
	int rc;

	if (feed(r, err) < 0)
		return -1;
	while ((rc = frame_next(&r->reader, &f, err)) == 1)
		if (deliver(r, &f, err) < 0)
			return -1;
	return rc;
}

/* Is the source silent although it was asked? */
static bool silent(struct remote *r)
{
	uint64_t now = clock_ms();
	bool is;

	pthread_mutex_lock(&r->lock);
	is = r->first && now - MAX(r->asked_ms, r->state.heard_ms) > SILENT_MS;
	pthread_mutex_unlock(&r->lock);
	return is;
}

/* One round of the thread while connected; -1: it is not any more. */
static int step(struct remote *r, struct err *err)
{
	struct pollfd p[] = {{.fd = r->in, .events = POLLIN},
			     {.fd = r->wake, .events = POLLIN},
			     {.fd = -1, .events = POLLOUT}};
	int timeout, n_ready;
	uint64_t n;

	pthread_mutex_lock(&r->lock);
	push(r);
	p[2].fd = r->queue.bytes ? r->out : -1;
	/* a while after the last answer another question is likely, and to be woken for it costs as much as it */
	r->asleep = !r->first && r->idle_once;
	timeout = r->asleep ? -1 : SILENT_MS / 4;
	pthread_mutex_unlock(&r->lock);
	n_ready = poll(p, ARRAY_SIZE(p), timeout);
	if (n_ready < 0 && errno != EINTR)
		return err_sys(err, "poll");
	r->idle_once = n_ready == 0;
	if (p[1].revents && read(r->wake, &n, sizeof(n)) < 0)
		log_debug("nobody woke the thread");
	if (p[0].revents && receive(r, err) < 0)
		return -1;
	if (p[2].revents & (POLLERR | POLLHUP))
		return err_set(err, EPIPE, "the connection to the source broke");
	if (silent(r))
		return err_set(err, ETIMEDOUT, "the source is silent for %d seconds",
			       SILENT_MS / 1000);
	return 0;
}

/* Waits before the next attempt to connect. */
static void pause_for(struct remote *r, uint64_t ms)
{
	uint64_t end = clock_ms() + ms, now, n;

	while ((now = clock_ms()) < end && !stopping(r)) {
		struct pollfd p = {.fd = r->wake, .events = POLLIN};

		if (poll(&p, 1, (int)(end - now)) == 1 && read(r->wake, &n, sizeof(n)) < 0)
			return;
	}
}

static void end_calls(struct remote *r, int error)
{
	struct remote_call *c;

	for (;;) {
		pthread_mutex_lock(&r->lock);
		c = r->first;
		if (c) {
			list_remove(r, c);
			r->running = c;
		}
		pthread_mutex_unlock(&r->lock);
		if (!c)
			return;
		c->done(c, error, NULL);
		pthread_mutex_lock(&r->lock);
		r->running = NULL;
		pthread_cond_broadcast(&r->idle);
		pthread_mutex_unlock(&r->lock);
	}
}

static void say_bye(struct remote *r)
{
	pthread_mutex_lock(&r->lock);
	if (r->out >= 0 && !lf_put_empty(&r->queue, LF_BYE))
		push(r);
	pthread_mutex_unlock(&r->lock);
}

static void *run(void *arg)
{
	struct remote *r = arg;
	uint64_t delay = RETRY_FIRST_MS;
	struct err err;

	while (!stopping(r)) {
		if (r->in < 0 && connect_once(r, &err) < 0) {
			log_info("%s; next attempt in %llu ms", err.text, (unsigned long long)delay);
			pause_for(r, delay);
			delay = MIN(delay * 2, (uint64_t)RETRY_MOST_MS);
		} else if (step(r, &err) < 0) {
			log_warn("%s", err.text);
			disconnect(r);
			delay = RETRY_FIRST_MS;
		}
	}
	if (r->in >= 0)
		say_bye(r);
	disconnect(r);
	end_calls(r, ECANCELED);
	return NULL;
}

/* ---- life ---- */

static void remote_free(struct remote *r)
{
	if (r->link.end)
		r->link.end(r->link.arg);
	if (r->wake >= 0)
		close(r->wake);
	lf_out_free(&r->queue);
	arena_free(&r->arena);
	frame_reader_finish(&r->reader);
	pthread_cond_destroy(&r->idle);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

struct remote *remote_open(const struct remote_link *link, const struct lf_hello *hello,
			   struct err *err)
{
	struct remote *r = calloc(1, sizeof(*r));
	int no;

	if (!r) {
		err_nomem(err);
		return NULL;
	}
	r->link = *link;
	r->hello = hello;
	r->in = r->out = -1;
	r->next_id = 1;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->idle, NULL);
	r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->wake < 0) {
		err_sys(err, "eventfd");
		remote_free(r);
		return NULL;
	}
	if (connect_once(r, err) < 0) {
		remote_free(r);
		return NULL;
	}
	r->started = true;
	no = pthread_create(&r->thread, NULL, run, r);
	if (no) {
		err_sysno(err, no, "cannot start a thread");
		disconnect(r);
		remote_free(r);
		return NULL;
	}
	return r;
}

void remote_close(struct remote *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	wake(r);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	remote_free(r);
}

void remote_bye(struct remote *r)
{
	pthread_mutex_lock(&r->lock);
	r->bye = true;
	wake(r);
	pthread_mutex_unlock(&r->lock);
}

void remote_get_state(struct remote *r, struct remote_state *out)
{
	pthread_mutex_lock(&r->lock);
	*out = r->state;
	pthread_mutex_unlock(&r->lock);
}

/* ---- waiting ---- */

struct patience patience_start(uint64_t most_ms, bool (*interrupted)(void *arg), void *arg)
{
	return (struct patience){.since_ms = clock_ms(),
				 .most_ms = most_ms,
				 .interrupted = interrupted,
				 .arg = arg};
}

int patience_check(const struct patience *p, struct remote *r)
{
	struct remote_state st;

	if (p->interrupted && p->interrupted(p->arg))
		return EINTR;
	if (!p->most_ms)
		return 0;
	remote_get_state(r, &st);
	return clock_ms() - MAX(p->since_ms, st.heard_ms) > p->most_ms ? EIO : 0;
}

struct question {
	struct remote_call call;
	int (*take)(void *arg, const struct lf_reply *reply);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool over;
	int error;
};

static void answered(struct remote_call *c, int error, const struct lf_reply *reply)
{
	struct question *q = (struct question *)((char *)c - offsetof(struct question, call));

	pthread_mutex_lock(&q->lock);
	if (!error && !q->error && reply)
		error = q->take(q->arg, reply);
	if (error)
		q->error = error;
	q->over = !reply || !reply->more;
	pthread_cond_broadcast(&q->cond);
	pthread_mutex_unlock(&q->lock);
}

int remote_ask(struct remote *r, const struct lf_request *request, const struct patience *p,
	       int (*take)(void *arg, const struct lf_reply *reply), void *arg)
{
	struct question q = {.call = {.q = *request, .done = answered}, .take = take, .arg = arg};
	int error = 0;

	pthread_mutex_init(&q.lock, NULL);
	wait_cond_init(&q.cond);
	error = remote_submit(r, &q.call);
	pthread_mutex_lock(&q.lock);
	while (!q.over && !error) {
		wait_step(&q.cond, &q.lock, PATIENCE_STEP_MS);
		if (!q.over)
			error = patience_check(p, r);
	}
	if (!error)
		error = q.error;
	pthread_mutex_unlock(&q.lock);
	remote_cancel(r, &q.call);
	pthread_cond_destroy(&q.cond);
	pthread_mutex_destroy(&q.lock);
	return error;
}

int remote_take_attr(void *arg, const struct lf_reply *reply)
{
	if (reply->type != LF_ATTR)
		return EPROTO;
	*(struct lf_attr *)arg = reply->attr;
	return 0;
}
