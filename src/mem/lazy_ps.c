// SPDX-License-Identifier: Apache-2.0
/*
 * The wire is not trusted: an answer must be about the oldest question, and
 * its bytes go where the engine says that pages are missing, nowhere else.
 *
 * To connect may take its time (names, hosts that are off), while tasks wait to have their forks
 * and faults of holes seen to: a thread does it.
 */
#define LOG_MODULE "lazy"
#include "mem/lazy_ps.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "mem/ps_wire.h"
#include "snapshot/snapshot.h"
#include "wire/tcp.h"
#include "wire/tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
	WINDOW_PAGES = 1024,
	DATA_BYTES = 256 << 10, /* placed at once */
	CONNECT_MS = 10000,
	FIRST_WAIT_MS = 100,
	MAX_WAIT_MS = 3000,
	FINISH_MS = 10000,
};

/* Somebody who connects, on his own: shared by the thread and us, freed by the last. */
struct caller {
	char *host;
	uint16_t port;
	const struct tls *tls;
	int pipe[2]; /* his result: a descriptor, or -1; read by us */
	int fd;
	struct tunnel *tunnel; /* around it, perhaps */
	struct err err;
};

struct lazy_ps {
	struct lazy_source source;
	struct lazy_ps_options opt;
	int fd; /* -1: not connected */
	struct tunnel *tunnel;
	bool finished; /* the server has answered to CLOSE */
	struct lazy_request *first, **end;
	VEC(uint8_t) out; /* questions that did not fit yet */

	/* the answer that is coming in */
	uint8_t head[PS_REQUEST_BYTES];
	size_t head_bytes;
	uint64_t vaddr, left_bytes; /* data still to come, and for where; 0: a header comes next */
	size_t data_bytes;
	uint8_t *data; /* DATA_BYTES */

	/* after a loss */
	struct caller *caller;
	pthread_t thread;
	uint64_t lost_ms, next_ms;
	unsigned int wait_ms;
};

/* ---- questions ---- */

/* What the socket takes now; the rest waits for POLLOUT. */
static int flush(struct lazy_ps *p, struct err *err)
{
	ssize_t n;

	while (p->out.n) {
		n = send(p->fd, p->out.v, p->out.n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n < 0 && tunnel_fault(p->tunnel, err))
			return -1;
		if (n < 0)
			return err_sys(err, "cannot ask for pages");
		p->out.n -= (size_t)n;
		memmove(p->out.v, p->out.v + n, p->out.n);
	}
	return 0;
}

static int put(struct lazy_ps *p, const struct ps_request *r, struct err *err)
{
	uint8_t bytes[PS_REQUEST_BYTES];

	ps_encode(r, bytes);
	for (size_t i = 0; i < sizeof(bytes); i++)
		if (!vec_push(&p->out, bytes[i]))
			return err_nomem(err);
	return flush(p, err);
}

static int ps_ask(struct lazy_source *s, struct lazy_request *rq, struct err *err)
{
	struct lazy_ps *p = (struct lazy_ps *)s;
	struct ps_request r = {.cmd = PS_GET,
			       .nr_pages = rq->pages,
			       .vaddr = rq->vaddr,
			       .dst_id = rq->object};

	if (p->fd < 0)
		return err_set(err, ENOTCONN, "there is no connection");
	if (put(p, &r, err) < 0)
		return -1;
	rq->next_of_source = NULL;
	*p->end = rq;
	p->end = &rq->next_of_source;
	return 0;
}

static int ps_poll_fd(struct lazy_source *s, short *events, int *timeout_ms)
{
	struct lazy_ps *p = (struct lazy_ps *)s;
	uint64_t now;

	if (p->fd >= 0) {
		*events = POLLIN | (p->out.n ? POLLOUT : 0);
		return p->fd;
	}
	*events = POLLIN;
	if (p->caller)
		return p->caller->pipe[0];
	now = clock_ms();
	*timeout_ms = p->next_ms > now ? (int)(p->next_ms - now) : 0;
	return -1;
}

/* ---- answers ---- */

static int take_head(struct lazy_ps *p, struct err *err)
{
	const struct lazy_request *rq = p->first;
	struct ps_request r;

	if (ps_decode(p->head, &r, err) < 0)
		return -1;
	p->head_bytes = 0;
	if (!rq)
		return err_set(err, EPROTO, "the server sends pages that nobody asked for");
	if (r.cmd != PS_ADD_F || r.dst_id != rq->object || r.vaddr != rq->vaddr ||
	    r.nr_pages > rq->pages)
		return err_set(err, EPROTO,
			       "the server answers another question than was asked (%llu pages at 0x%llx "
			       "of task %llu)",
			       (unsigned long long)rq->pages, (unsigned long long)rq->vaddr,
			       (unsigned long long)rq->object);
	if (!(r.flags & PE_PRESENT) || !r.nr_pages)
		return err_set(err, EPROTO, "the server has no page at 0x%llx of task %llu",
			       (unsigned long long)rq->vaddr, (unsigned long long)rq->object);
	p->vaddr = r.vaddr;
	p->left_bytes = r.nr_pages * PAGE_BYTES;
	p->data_bytes = 0;
	return 0;
}

/* Whole pages go in when the buffer is full, or the answer, or a thread waits. */
static int take_data(struct lazy_ps *p, struct lazy *z, struct err *err)
{
	struct lazy_request *rq = p->first;
	uint64_t pages = p->data_bytes / PAGE_BYTES;

	if (p->left_bytes && p->data_bytes < DATA_BYTES && !(rq->urgent && pages))
		return 0;
	if (pages && lazy_answer(z, rq, p->vaddr, p->data, pages, err) < 0)
		return -1;
	p->vaddr += pages * PAGE_BYTES;
	p->data_bytes -= pages * PAGE_BYTES;
	memmove(p->data, p->data + pages * PAGE_BYTES, p->data_bytes);
	if (p->left_bytes)
		return 0;
	p->first = rq->next_of_source;
	if (!p->first)
		p->end = &p->first;
	lazy_end(z, rq);
	return 0;
}

/* One read. 1: something came; 0: nothing now; -1. */
static int take_in(struct lazy_ps *p, struct lazy *z, struct err *err)
{
	bool head = !p->left_bytes;
	void *at = head ? p->head + p->head_bytes : p->data + p->data_bytes;
	size_t room = head ? PS_REQUEST_BYTES - p->head_bytes :
			     MIN(DATA_BYTES - p->data_bytes, p->left_bytes);
	ssize_t n = recv(p->fd, at, room, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0 && tunnel_fault(p->tunnel, err))
		return -1;
	if (n < 0)
		return err_sys(err, "cannot receive pages");
	if (n == 0)
		return err_set(err, EPIPE, "the server closed the connection");
	if (head) {
		p->head_bytes += (size_t)n;
		if (p->head_bytes == PS_REQUEST_BYTES && take_head(p, err) < 0)
			return -1;
		return 1;
	}
	p->data_bytes += (size_t)n;
	p->left_bytes -= (size_t)n;
	return take_data(p, z, err) < 0 ? -1 : 1;
}

/* So much in one go that the tasks are not kept waiting. */
static int ps_work(struct lazy_source *s, struct lazy *z, struct err *err)
{
	struct lazy_ps *p = (struct lazy_ps *)s;
	int r = 1;

	if (flush(p, err) < 0)
		return -1;
	for (int i = 0; i < 8 && r > 0; i++)
		r = take_in(p, z, err);
	return r < 0 ? -1 : 0;
}

/* ---- connecting ---- */

/* A descriptor to talk over, and what is around it, or -1. */
static int connect_to(const char *host, uint16_t port, const struct tls *tls,
		      struct tunnel **tunnel_out, struct err *err)
{
	int fd = tcp_connect(host, port, CONNECT_MS, err);

	*tunnel_out = NULL;
	if (fd < 0 || !tls)
		return fd;
	*tunnel_out = tunnel_open(tls, fd, host, ps_cut, &fd, err);
	return *tunnel_out ? fd : err_wrap(err, "%.200s, port %u", host, port);
}

static void caller_free(struct caller *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		close(c->fd);
	tunnel_abort(c->tunnel);
	for (int i = 0; i < 2; i++)
		if (c->pipe[i] >= 0)
			close(c->pipe[i]);
	free(c->host);
	free(c);
}

static void *call_main(void *arg)
{
	struct caller *c = arg;

	c->fd = connect_to(c->host, c->port, c->tls, &c->tunnel, &c->err);
	(void)!write(c->pipe[1], "", 1);
	return NULL;
}

static struct caller *call(struct lazy_ps *p, struct err *err)
{
	struct caller *c = calloc(1, sizeof(*c));
	int r;

	if (!c) {
		err_nomem(err);
		return NULL;
	}
	c->fd = c->pipe[0] = c->pipe[1] = -1;
	c->port = p->opt.port;
	c->tls = p->opt.tls;
	c->host = strdup(p->opt.host);
	if (!c->host) {
		err_nomem(err);
	} else if (pipe2(c->pipe, O_CLOEXEC) < 0) {
		err_sys(err, "cannot make a pipe");
	} else {
		r = pthread_create(&p->thread, NULL, call_main, c);
		if (r == 0)
			return c;
		err_sysno(err, r, "cannot start a thread");
	}
	caller_free(c);
	return NULL;
}

static void disconnect(struct lazy_ps *p)
{
	if (p->fd >= 0)
		close(steal_fd(&p->fd));
	if (p->finished)
		tunnel_finish(p->tunnel);
	else
		tunnel_abort(p->tunnel);
	p->tunnel = NULL;
	p->first = NULL;
	p->end = &p->first;
	p->out.n = p->head_bytes = p->data_bytes = 0;
	p->left_bytes = 0;
}

/* The call has ended: 0: connected; 1: not. */
static int hang_up(struct lazy_ps *p, struct err *why)
{
	struct caller *c = steal_ptr(&p->caller);

	pthread_join(p->thread, NULL);
	p->fd = steal_fd(&c->fd);
	p->tunnel = steal_ptr(&c->tunnel);
	*why = c->err;
	caller_free(c);
	return p->fd < 0;
}

static int ps_reconnect(struct lazy_source *s, struct err *err)
{
	struct lazy_ps *p = (struct lazy_ps *)s;
	struct pollfd done = {.events = POLLIN};
	uint64_t now = clock_ms();

	if (p->fd >= 0 || !p->lost_ms) {
		disconnect(p);
		p->lost_ms = now;
		p->next_ms = now + FIRST_WAIT_MS;
		p->wait_ms = FIRST_WAIT_MS;
	}
	if (!p->caller) {
		if (now < p->next_ms)
			return 1;
		p->caller = call(p, err);
		return p->caller ? 1 : -1;
	}
	done.fd = p->caller->pipe[0];
	if (poll(&done, 1, 0) <= 0)
		return 1;
	if (hang_up(p, err) == 0) {
		log_warn("connected again after %llu ms", (unsigned long long)(now - p->lost_ms));
		p->lost_ms = 0;
		return 0;
	}
	if (p->opt.reconnect_s && now - p->lost_ms > p->opt.reconnect_s * 1000UL)
		return err_wrap(err, "the source of the missing pages is lost for good");
	p->wait_ms = MIN(p->wait_ms * 2, (unsigned int)MAX_WAIT_MS);
	p->next_ms = now + p->wait_ms;
	return 1;
}

static const struct lazy_source_ops ps_ops = {
	.name = "page server",
	.request = ps_ask,
	.poll_fd = ps_poll_fd,
	.work = ps_work,
	.reconnect = ps_reconnect,
};

/* ---- set up ---- */

struct lazy_source *lazy_ps_open(const struct lazy_ps_options *opt, struct err *err)
{
	struct lazy_ps *p = calloc(1, sizeof(*p));

	if (!p) {
		err_nomem(err);
		return NULL;
	}
	p->source = (struct lazy_source){.ops = &ps_ops, .window_pages = WINDOW_PAGES};
	p->opt = *opt;
	p->end = &p->first;
	p->fd = -1;
	p->data = aligned_alloc(PAGE_BYTES, DATA_BYTES);
	if (!p->data)
		err_nomem(err);
	else
		p->fd = connect_to(opt->host, opt->port, opt->tls, &p->tunnel, err);
	if (p->fd >= 0)
		return &p->source;
	lazy_ps_close(&p->source);
	return NULL;
}

/* Waits for the socket; -1 when nothing comes for too long. */
static int await_server(const struct lazy_ps *p, struct err *err)
{
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN | (p->out.n ? POLLOUT : 0)};

	return poll(&pfd, 1, FINISH_MS) > 0 ?
		       0 :
		       err_set(err, ETIMEDOUT, "the server does not answer any more");
}

int lazy_ps_finish(struct lazy_source *s, struct lazy *z, struct err *err)
{
	struct lazy_ps *p = (struct lazy_ps *)s;
	struct ps_request last = {.cmd = PS_CLOSE};
	uint32_t status;
	size_t got = 0;
	ssize_t n;

	if (p->fd < 0)
		return err_set(err, ENOTCONN, "the connection is lost");
	while (p->first) /* answers that nobody wants any more, but they come first */
		if (await_server(p, err) < 0 || ps_work(s, z, err) < 0)
			return -1;
	if (put(p, &last, err) < 0)
		return -1;
	while (got < sizeof(status)) {
		if (await_server(p, err) < 0 || flush(p, err) < 0)
			return -1;
		n = recv(p->fd, (uint8_t *)&status + got, sizeof(status) - got, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return err_set(err, EPIPE,
				       "the server closed the connection instead of "
				       "answering to CLOSE");
		got += n > 0 ? (size_t)n : 0;
	}
	p->finished = true;
	return status == 0 ? 0 : err_set(err, EIO, "the server reports failure %u", status);
}

void lazy_ps_close(struct lazy_source *s)
{
	struct lazy_ps *p = (struct lazy_ps *)s;
	struct err unused;

	if (!p)
		return;
	if (p->caller)
		(void)!hang_up(p, &unused);
	disconnect(p);
	vec_free(&p->out);
	free(p->data);
	free(p);
}
