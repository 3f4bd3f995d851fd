// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "serve"
#include "mem/serve_net.h"

#include "base/clock.h"
#include "base/log.h"
#include "mem/ps_wire.h"
#include "mem/read.h"
#include "wire/tcp.h"
#include "wire/tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
	MAX_PEERS = 64,
	/* One step of a large answer: long enough for the copy to be fast, short enough for others to wait. */
	STEP_PAGES = 64,
	STEP_BYTES = STEP_PAGES * 4096,
	/* Zero pages in a row that are worth an answer of their own. */
	ZERO_RUN_PAGES = 8,
	/* A CLOSE counts when at most this part (1/n) of the pages was never asked for. */
	CLOSE_LEFT_MAX_DIV = 2,
};

/* An answer that is being sent: first what is in the buffer, then the pages that follow. */
struct reply {
	uint64_t vpid, vaddr, pages_left;
	uint64_t rest;                   /* asked for, and left to the next answer (ferry peers) */
	uint64_t done_vaddr, done_pages; /* handed out when the buffer is empty */
	size_t bytes, sent;              /* of the buffer */
	bool close;                      /* it is the answer to CLOSE */
	uint64_t since_ns;               /* when the buffer was ready */
	bool was_full;                   /* the connection, since then */
};

struct peer {
	int in, out;
	struct tunnel *tunnel; /* around both; NULL: none */
	struct tunnel *direct; /* not ours; reads and writes go through it; NULL: through the descriptors */
	char name[80];
	uint8_t request[PS_REQUEST_BYTES];
	size_t have;
	bool replying;
	struct reply reply;
	uint64_t requests;
	bool heard_close; /* from us: the answer to it is on its way */
	uint8_t *buf;     /* room for a header and a step */
};

struct serve_net {
	struct serve *serve;
	bool ferries, closed;
	int listener;
	const struct tls *tls; /* of those who come to the listener */
	struct peer *peers[MAX_PEERS];
	size_t n;
	struct serve_net_stats stats;
	struct packer *packer; /* of answers; NULL: they go as they are */
	atomic_bool *closing;  /* shared with others: serve_net_share(); NULL: nobody */
	bool told_close;       /* CLOSE came here */
};

enum { BUF_BYTES = PS_REQUEST_BYTES + STEP_BYTES };

struct serve_net *serve_net_create(struct serve *serve, bool ferries, struct err *err)
{
	struct serve_net *n = calloc(1, sizeof(*n));

	if (!n) {
		err_nomem(err);
		return NULL;
	}
	n->serve = serve;
	n->ferries = ferries;
	n->listener = -1;
	return n;
}

static void free_peer(struct peer *p)
{
	if (p->in >= 0)
		close(p->in);
	if (p->out >= 0 && p->out != p->in)
		close(p->out);
	if (p->heard_close)
		tunnel_finish(p->tunnel);
	else
		tunnel_abort(p->tunnel);
	free(p->buf);
	free(p);
}

void serve_net_disconnect(struct serve_net *n)
{
	while (n->n)
		free_peer(n->peers[--n->n]);
}

void serve_net_free(struct serve_net *n)
{
	if (!n)
		return;
	serve_net_disconnect(n);
	packer_free(n->packer);
	if (n->listener >= 0)
		close(n->listener);
	free(n);
}

void serve_net_secure(struct serve_net *n, const struct tls *tls)
{
	n->tls = tls;
}

void serve_net_listen(struct serve_net *n, int fd)
{
	n->listener = fd;
}

int serve_net_pack(struct serve_net *n, unsigned int codecs, bool measure, struct err *err)
{
	packer_free(n->packer);
	n->packer = packer_create(&ps_pack_types, codecs, measure, err);
	return n->packer ? 0 : -1;
}

void serve_net_share(struct serve_net *n, atomic_bool *closing)
{
	n->closing = closing;
}

/* ---- peers come and go ---- */

static void remove_peer(struct serve_net *n, size_t i)
{
	free_peer(n->peers[i]);
	n->peers[i] = n->peers[--n->n];
}

/* After a CLOSE that counted they only leave. Where it came its answer has to go first. */
static bool may_leave(const struct serve_net *n)
{
	return n->closed || (n->closing && atomic_load(n->closing) && !n->told_close);
}

static void drop(struct serve_net *n, size_t i, const char *why)
{
	if (!may_leave(n)) {
		log_warn("%s: dropped: %s", n->peers[i]->name, why);
		n->stats.dropped++;
	}
	remove_peer(n, i);
}

/* Room for one more: of those who never asked for anything the first has to go. */
static bool make_room(struct serve_net *n)
{
	for (size_t i = 0; n->n == MAX_PEERS && i < n->n; i++) {
		if (n->peers[i]->requests == 0) {
			drop(n, i, "too many connections, and it asks for nothing");
			break;
		}
	}
	return n->n < MAX_PEERS;
}

static void set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

int serve_net_add(struct serve_net *n, int in, int out, const char *name, struct err *err)
{
	return serve_net_add_direct(n, in, out, NULL, name, err);
}

int serve_net_add_direct(struct serve_net *n, int in, int out, struct tunnel *direct,
			 const char *name, struct err *err)
{
	struct peer *p = calloc(1, sizeof(*p));

	if (p)
		p->buf = malloc(BUF_BYTES);
	if (!p || !p->buf || !make_room(n)) {
		free(p ? p->buf : NULL);
		free(p);
		close(in);
		if (out != in)
			close(out);
		return err_set(err, EMFILE, "%s: no room for one more connection", name);
	}
	p->in = in;
	p->out = out;
	p->direct = direct;
	snprintf(p->name, sizeof(p->name), "%s", name);
	set_nonblocking(in);
	set_nonblocking(out);
	n->peers[n->n++] = p;
	return 0;
}

/* A handshake keeps nobody else waiting. */
int serve_net_add_socket(struct serve_net *n, int fd, const char *name, struct err *err)
{
	struct tunnel *tunnel = NULL;

	tcp_prepare(fd);
	if (n->tls) {
		tunnel = tunnel_open(n->tls, fd, NULL, ps_cut, &fd, err);
		if (!tunnel)
			return err_wrap(err, "%s", name);
	}
	if (serve_net_add(n, fd, fd, name, err)) {
		tunnel_abort(tunnel);
		return -1;
	}
	n->peers[n->n - 1]->tunnel = tunnel;
	return 0;
}

static void accept_peer(struct serve_net *n)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	int fd = accept4(n->listener, (struct sockaddr *)&addr, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	char name[TCP_PEER_TEXT];
	struct err err;

	if (fd < 0) {
		log_debug("accept: %s", strerror(errno));
		if (errno == EMFILE || errno == ENFILE) /* poll would come back at once */
			nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
		return;
	}
	tcp_address_text(&addr, name);
	if (serve_net_add_socket(n, fd, name, &err) < 0)
		log_warn("%s", err.text);
	else
		log_info("%s: connected", name);
}

/* ---- requests ---- */

static bool others_fetch(const struct serve_net *n, const struct peer *p)
{
	for (size_t i = 0; i < n->n; i++)
		if (n->peers[i] != p && n->peers[i]->requests)
			return true;
	return false;
}

/*
 * Is it the real peer's to say that it is enough? Pages may be left then: what the program
 * discards or unmaps there while it is filled is never asked for. But it is not enough when most of
 * the memory is still here: that is a stranger, or a daemon that gives up (CRIU's says CLOSE then, too).
 */
static bool may_close(const struct serve_net *n, const struct peer *p)
{
	uint64_t left = serve_left(n->serve), all = serve_pages(n->serve);

	if (left)
		return p->requests && !others_fetch(n, p) && left <= all / CLOSE_LEFT_MAX_DIV;
	return p->requests || !serve_pages(n->serve) || !others_fetch(n, p);
}

/* 0: it is answered with a status, -1: it is not this peer's to say. */
static int take_close(struct serve_net *n, struct peer *p, struct err *err)
{
	if (!n->ferries && !may_close(n, p))
		return err_set(err, EPROTO,
			       serve_left(n->serve) ?
				       "CLOSE, but much is left that nobody has fetched, or that another still fetches" :
				       "CLOSE by one who fetched nothing");
	n->told_close = true;
	if (n->closing)
		atomic_store(n->closing, true);
	memset(p->buf, 0, sizeof(int32_t));
	p->reply = (struct reply){.bytes = sizeof(int32_t), .close = true};
	p->replying = true;
	return 0;
}

/* 0: it is being answered, -1: why the peer is to be dropped. */
static int take_request(struct serve_net *n, struct peer *p, struct err *err)
{
	struct ps_request h;
	uint64_t run;

	p->have = 0;
	if (ps_decode(p->request, &h, err) < 0)
		return -1;
	if (h.cmd == PS_CLOSE || h.cmd == PS_FORCE_CLOSE)
		return take_close(n, p, err);
	if (h.cmd != PS_GET)
		return err_set(err, EPROTO, "sends something else than requests for pages");
	if (!serve_knows(n->serve, h.dst_id))
		return err_set(err, EPROTO, "asks for pages of a pid that is not in the tree");
	run = serve_run(n->serve, h.dst_id, h.vaddr);
	if (run == 0 || h.nr_pages == 0 || (n->ferries && h.nr_pages > run))
		return err_set(err, EPROTO, "asks for pages that are not kept");
	p->requests++;
	n->stats.requests++;
	p->reply = (struct reply){.vpid = h.dst_id,
				  .vaddr = h.vaddr,
				  .pages_left = MIN(run, h.nr_pages)};
	p->replying = true;
	return 0;
}

/* Pages from the start of the buffer that are all zero, or (if few are) all to be sent. */
static uint64_t leading_run(const uint8_t *pages, uint64_t n, bool *zero_out)
{
	uint64_t zeros = 0, i;

	while (zeros < n && page_is_zero(pages + zeros * PAGE_BYTES))
		zeros++;
	*zero_out = zeros >= ZERO_RUN_PAGES || zeros == n;
	if (*zero_out)
		return zeros;
	for (i = zeros, zeros = 0; i < n && zeros < ZERO_RUN_PAGES; i++)
		zeros = page_is_zero(pages + i * PAGE_BYTES) ? zeros + 1 : 0;
	return zeros == ZERO_RUN_PAGES ? i - zeros : n;
}

/* @step pages are in the buffer now, which has not been sent. */
static void advance(struct reply *r, uint64_t step)
{
	r->sent = 0;
	r->since_ns = clock_ns();
	r->was_full = false;
	r->done_vaddr = r->vaddr;
	r->done_pages = step;
	r->vaddr += step * PAGE_BYTES;
	r->pages_left -= step;
}

/* Makes what follows the header smaller, if it is worth while. Returns its bytes. */
static size_t pack_reply(struct serve_net *n, struct peer *p, struct ps_request *h)
{
	struct iovec pages = {p->buf + PS_REQUEST_BYTES, h->nr_pages * PAGE_BYTES}, packed;

	if (!n->packer || !packer_pack(n->packer, PS_ADD_F, &pages, 1, &packed))
		return pages.iov_len;
	memcpy(pages.iov_base, packed.iov_base, packed.iov_len);
	h->cmd = PS_PACKED;
	h->flags = 0;
	h->packed_bytes = (uint32_t)packed.iov_len;
	n->stats.packed_pages += h->nr_pages;
	return packed.iov_len;
}

/*
 * The head of an answer, with its first step of pages. For a ferry an answer is
 * one step at most, all of it zero or to be sent, and the next one follows.
 */
static int begin_reply(struct serve_net *n, struct peer *p, struct err *err)
{
	struct reply *r = &p->reply;
	uint64_t step = MIN(r->pages_left, (uint64_t)STEP_PAGES);
	struct ps_request h = {.cmd = PS_ADD_F,
			       .flags = PE_PRESENT,
			       .vaddr = r->vaddr,
			       .dst_id = r->vpid};
	bool zero = false;

	if (serve_read(n->serve, r->vpid, r->vaddr, step, p->buf + PS_REQUEST_BYTES, err) < 0)
		return -1;
	if (n->ferries) {
		step = leading_run(p->buf + PS_REQUEST_BYTES, step, &zero);
		r->rest = r->pages_left - step;
		r->pages_left = step;
	}
	h.nr_pages = r->pages_left;
	if (zero) {
		h.cmd = PS_HOLE;
		h.flags = 0;
		n->stats.zero_pages += step;
	}
	r->bytes = PS_REQUEST_BYTES;
	if (!zero)
		r->bytes += n->ferries ? pack_reply(n, p, &h) : step * PAGE_BYTES;
	ps_encode(&h, p->buf);
	advance(r, step);
	return 0;
}

static int next_step(struct serve_net *n, struct peer *p, struct err *err)
{
	struct reply *r = &p->reply;
	uint64_t step = MIN(r->pages_left, (uint64_t)STEP_PAGES);

	if (serve_read(n->serve, r->vpid, r->vaddr, step, p->buf, err) < 0)
		return -1;
	r->bytes = step * PAGE_BYTES;
	advance(r, step);
	return 0;
}

/* The buffer has been sent: 1: the answer is complete, 0: there is more, -1. */
static int buffer_sent(struct serve_net *n, struct peer *p, struct err *err)
{
	struct reply *r = &p->reply;

	if (n->packer)
		packer_sent(n->packer, r->bytes, clock_ns() - r->since_ns, r->was_full);
	if (r->done_pages) {
		serve_done(n->serve, r->vpid, r->done_vaddr, r->done_pages);
		n->stats.pages += r->done_pages;
		r->done_pages = 0;
	}
	if (r->close)
		n->closed = p->heard_close = true;
	if (r->pages_left)
		return next_step(n, p, err);
	if (r->rest) {
		r->pages_left = r->rest;
		return begin_reply(n, p, err);
	}
	p->replying = false;
	return 1;
}

/* ---- what a peer's descriptors say ---- */

enum outcome { GO_ON, DROP, FATAL };

static ssize_t send_some(const struct peer *p, const void *data, size_t bytes)
{
	ssize_t n;

	if (p->direct)
		return tunnel_write(p->direct, data, bytes);
	n = send(p->out, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
	return n < 0 && errno == ENOTSOCK ? write(p->out, data, bytes) : n;
}

static ssize_t receive_some(const struct peer *p, void *data, size_t bytes)
{
	return p->direct ? tunnel_read(p->direct, data, bytes) : read(p->in, data, bytes);
}

/* The tunnel's own reason for a fault, if there is one, takes the place of ours. */
static void explain(const struct peer *p, struct err *err)
{
	(void)tunnel_fault(p->direct ? p->direct : p->tunnel, err);
}

/* DROP comes with the reason, FATAL with the error. */
static enum outcome write_peer(struct serve_net *n, struct peer *p, struct err *err)
{
	struct reply *r = &p->reply;
	ssize_t wrote;

	if (r->bytes == 0 && begin_reply(n, p, err) < 0)
		return FATAL;
	wrote = send_some(p, p->buf + r->sent, r->bytes - r->sent);
	if (wrote < 0 && (errno == EAGAIN || errno == EINTR)) {
		r->was_full |= errno == EAGAIN;
		return GO_ON;
	}
	if (wrote < 0) {
		err_set(err, errno, "the connection broke while it was answered");
		explain(p, err);
		return DROP;
	}
	r->sent += (size_t)wrote;
	r->was_full |= r->sent < r->bytes;
	n->stats.sent_bytes += (uint64_t)wrote;
	if (r->sent < r->bytes)
		return GO_ON;
	return buffer_sent(n, p, err) < 0 ? FATAL : GO_ON;
}

static enum outcome read_peer(struct serve_net *n, struct peer *p, struct err *err)
{
	ssize_t got = receive_some(p, p->request + p->have, sizeof(p->request) - p->have);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return GO_ON;
	if (got <= 0) {
		err_set(err, EPIPE, "%s",
			got < 0     ? "the connection broke" :
			p->have     ? "the connection ended inside of a request" :
			p->requests ? "the connection ended without CLOSE" :
				      "the connection ended without a request");
		explain(p, err);
		return DROP;
	}
	p->have += (size_t)got;
	if (p->have < sizeof(p->request))
		return GO_ON;
	return take_request(n, p, err) < 0 ? DROP : write_peer(n, p, err);
}

static int serve_peer(struct serve_net *n, size_t i, struct err *err)
{
	struct peer *p = n->peers[i];
	enum outcome o = p->replying ? write_peer(n, p, err) : read_peer(n, p, err);

	if (o == DROP)
		drop(n, i, err->text);
	return o == FATAL ? -1 : 0;
}

/* A request may be here that poll(2) does not show. */
static bool may_hold(const struct peer *p)
{
	return p->direct && !p->replying && tunnel_may_hold(p->direct);
}

/* One who says nothing is read from now and then: so it shows whether his machine is there (tunnel_read). */
static bool may_be_gone(const struct peer *p, bool quiet)
{
	return quiet && p->direct && !p->replying;
}

int serve_net_step(struct serve_net *n, int watch_fd, int timeout_ms, struct err *err)
{
	struct pollfd fds[MAX_PEERS + 2];
	size_t i, peers = n->n;
	int ready;

	for (i = 0; i < peers; i++) {
		fds[i] = (struct pollfd){.fd = n->peers[i]->replying ? n->peers[i]->out :
								       n->peers[i]->in,
					 .events = n->peers[i]->replying ? POLLOUT : POLLIN};
		if (may_hold(n->peers[i]))
			timeout_ms = 0;
	}
	fds[peers] = (struct pollfd){.fd = n->listener, .events = POLLIN};
	fds[peers + 1] = (struct pollfd){.fd = watch_fd, .events = POLLIN};
	ready = poll(fds, peers + 2, timeout_ms);
	if (ready < 0)
		return errno == EINTR ? 0 : err_sys(err, "poll");
	/* backwards: a dropped peer's place is taken by the last one, which had its turn */
	for (i = peers; i-- > 0;) {
		if ((fds[i].revents || may_hold(n->peers[i]) || may_be_gone(n->peers[i], ready == 0)) &&
		    serve_peer(n, i, err) < 0)
			return -1;
	}
	if (fds[peers].revents)
		accept_peer(n);
	return 0;
}

bool serve_net_closed(const struct serve_net *n)
{
	return n->closed;
}

void serve_net_stats(const struct serve_net *n, struct serve_net_stats *out)
{
	*out = n->stats;
	out->peers = n->n;
}
