// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "page-server"
#include "mem/ps_server.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "wire/tcp.h"
#include "wire/tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum {
	MAX_CANDIDATES = 64,
	MAX_EMPTY_OBJECTS = 16, /* begun by a candidate, none with memory */
	PREPARE_MS = 5000,      /* how long room is made for one object, at most */
	FAREWELL_MS = 5000,     /* how long the peer may take to close after CLOSE */
};

/* One connection. */
struct peer {
	int fd;
	struct tunnel *tunnel; /* around it; NULL: none */
	char name[TCP_PEER_TEXT];
	uint8_t request[PS_REQUEST_BYTES];
	size_t have;    /* bytes of it */
	bool spoke;     /* a whole request came */
	bool peer;      /* no candidate any more */
	bool served;    /* to its CLOSE */
	bool preparing; /* room is made for what it announced; then it gets the answer */
	uint64_t prepare_until_ns;
	int32_t has_parent; /* the answer */
	struct ps_store *store;
};

struct server {
	const struct ps_server_options *opt;
	struct peer *candidates[MAX_CANDIDATES]; /* in the order of their coming */
	size_t n;
};

/* What a request leads to. */
enum step {
	STEP_DROP = -1, /* with a reason */
	STEP_ON,
	STEP_PAGES, /* pages are next: the candidate is the peer */
	STEP_CLOSE,
};

static void peer_free(struct peer *p)
{
	if (!p)
		return;
	ps_store_free(p->store);
	if (p->fd >= 0)
		close(p->fd);
	if (p->served)
		tunnel_finish(p->tunnel);
	else
		tunnel_abort(p->tunnel);
	free(p);
}

/* Whoever has to show a certificate does that while others are heard. */
static int secure(struct peer *p, const struct tls *tls, struct err *err)
{
	if (!tls)
		return 0;
	p->tunnel = tunnel_open(tls, steal_fd(&p->fd), NULL, NULL, &p->fd, err);
	return p->tunnel ? 0 : -1;
}

/* Takes the descriptor. */
static struct peer *peer_create(const struct ps_server_options *opt, int fd, struct err *err)
{
	struct peer *p = calloc(1, sizeof(*p));

	if (!p) {
		close(fd);
		err_nomem(err);
		return NULL;
	}
	p->fd = fd;
	tcp_peer_text(fd, p->name);
	tcp_prepare(fd);
	if (secure(p, opt->tls, err) == 0)
		p->store = ps_store_create(opt->dirfd, opt->parent, err);
	if (p->store)
		return p;
	peer_free(p);
	return NULL;
}

/* ---- requests ---- */

/* Answers are small: a peer that has no room for them has not read earlier ones. */
static int answer(const struct peer *p, const void *data, size_t bytes, struct err *err)
{
	ssize_t put = send(p->fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (put < 0)
		return err_sys(err, "cannot answer");
	return (size_t)put == bytes ? 0 : err_set(err, EPROTO, "it does not read our answers");
}

static int answer_status(const struct peer *p, int32_t status, struct err *err)
{
	return answer(p, &status, sizeof(status), err);
}

static enum step begin(struct peer *p, const struct ps_request *r, struct err *err)
{
	struct ps_store_stats stats;
	struct ps_object object;
	bool has_parent;
	uint8_t yes;

	ps_store_stats(p->store, &stats);
	if (stats.objects >= MAX_EMPTY_OBJECTS && !stats.pages && !stats.holes) {
		err_set(err, EPROTO, "it has begun %d objects and sent no memory", MAX_EMPTY_OBJECTS);
		return STEP_DROP;
	}

	if (ps_object_of(r->dst_id, &object, err) ||
	    ps_store_begin(p->store, &object, &has_parent, err))
		return STEP_DROP;
	yes = has_parent;
	if (r->cmd == PS_OPEN2 && answer(p, &yes, sizeof(yes), err))
		return STEP_DROP;
	return STEP_ON;
}

static enum step tell_parent(struct peer *p, const struct ps_request *r, struct err *err)
{
	struct ps_object object;
	bool has_parent;

	if (ps_object_of(r->dst_id, &object, err) ||
	    ps_store_has_parent(p->store, &object, &has_parent, err))
		return STEP_DROP;
	p->has_parent = has_parent;
	if (r->nr_pages == 0 || p->peer)
		return answer_status(p, has_parent, err) ? STEP_DROP : STEP_ON;
	ps_store_prepare(p->store, &object, r->nr_pages);
	p->preparing = true;
	p->prepare_until_ns = clock_ns() + PREPARE_MS * UINT64_C(1000000);
	return STEP_ON;
}

/* Some more room for what the peer has announced, or the answer. */
static int go_on_preparing(struct peer *p, struct err *err)
{
	if (ps_store_prepare_step(p->store) && clock_ns() < p->prepare_until_ns)
		return 0;
	p->preparing = false;
	return answer_status(p, p->has_parent, err);
}

/* The request that is whole in @p; *out is what it says. */
static enum step handle(struct peer *p, struct ps_request *out, struct err *err)
{
	p->have = 0;
	if (ps_decode(p->request, out, err))
		return STEP_DROP;
	p->spoke = true;
	switch (out->cmd) {
	case PS_OPEN:
	case PS_OPEN2:
		return begin(p, out, err);
	case PS_PARENT:
		return tell_parent(p, out, err);
	case PS_CLOSE:
	case PS_FORCE_CLOSE:
		return STEP_CLOSE;
	case PS_GET:
		err_set(err, EPROTO, "it asks for pages, but this server takes them");
		return STEP_DROP;
	default:
		return ps_store_check(p->store, out, err) ? STEP_DROP : STEP_PAGES;
	}
}

/* ---- the transfer ---- */

/* One request of the peer. 0, or -1: EPIPE at the end of the stream. */
static int receive_request(struct peer *p, struct err *err)
{
	if (io_read_full(p->fd, p->request, sizeof(p->request)) == 0)
		return 0;
	if (tunnel_fault(p->tunnel, err))
		return -1;
	if (errno == EPIPE)
		return err_set(err, EPIPE, "the connection was closed before everything was there");
	return err_sys(err, "the connection broke");
}

/* Pages come from @p, beginning with those of @r, until CLOSE. */
static int transfer(struct peer *p, struct ps_request *r, struct err *err)
{
	enum step step = STEP_PAGES;

	while (step != STEP_CLOSE) {
		if (step == STEP_PAGES && ps_store_add(p->store, r, p->fd, err))
			return tunnel_explain(p->tunnel, err);
		if (receive_request(p, err))
			return -1;
		step = handle(p, r, err);
		if (step == STEP_DROP)
			return -1;
	}
	return 0;
}

/*
 * The peer closes first: if we did, with something of it unread, it would get a
 * reset and might lose our answer.
 */
static void await_end(struct peer *p)
{
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
	char more;

	shutdown(p->fd, SHUT_WR);
	if (poll(&pfd, 1, FAREWELL_MS) == 1 && recv(p->fd, &more, 1, MSG_DONTWAIT) > 0)
		log_warn("%s: it goes on after CLOSE; that is ignored", p->name);
}

/* The peer has sent its first pages: everything else waits no more. */
static int serve_peer(struct server *s, struct peer *p, struct ps_request *r, struct err *err)
{
	struct err late;

	p->peer = true;
	log_info("%s sends memory", p->name);
	if (fcntl(p->fd, F_SETFL, 0) < 0)
		return err_sys(err, "%s: fcntl", p->name);
	if (transfer(p, r, err))
		return err_wrap(err, "%s: the transfer failed, and nothing of it is kept", p->name);
	if (ps_store_publish(p->store, err)) {
		if (answer_status(p, EIO, &late))
			log_warn("%s: %s", p->name, late.text);
		return err_wrap(err, "%s", p->name);
	}
	/* the images are there: a peer that does not hear it any more has failed, not we */
	p->served = true;
	if (answer_status(p, 0, &late))
		log_warn("%s: it has not heard that everything is stored: %s", p->name, late.text);
	else if (!s->opt->given)
		await_end(p);
	if (s->opt->dedup && ps_store_dedup(p->store, s->opt->dedup, &late))
		log_warn("everything is stored, but: %s", late.text);
	return 0;
}

/* ---- candidates ---- */

static void drop(struct server *s, size_t i, const char *why)
{
	log_warn("%s: dropped: %s", s->candidates[i]->name, why);
	peer_free(s->candidates[i]);
	s->n--;
	memmove(&s->candidates[i], &s->candidates[i + 1], (s->n - i) * sizeof(struct peer *));
}

/* When all places are taken, the longest silent one goes. */
static void make_room(struct server *s)
{
	size_t i = 0;

	if (s->n < MAX_CANDIDATES)
		return;
	while (i < s->n && s->candidates[i]->spoke)
		i++;
	drop(s, i < s->n ? i : 0, "too many connections wait");
}

static int accept_one(struct server *s, int listener, struct err *err)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct peer *p;
	struct err why;

	if (fd < 0) {
		/* gone before we took it, or a shortage that may pass */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED && errno != EPROTO &&
		    errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
			return err_sys(err, "cannot accept a connection");
		if (errno == EMFILE || errno == ENFILE)
			make_room(s);
		return 0;
	}
	make_room(s);
	p = peer_create(s->opt, fd, &why);
	if (!p) {
		log_warn("a connection is dropped: %s", why.text);
		return 0;
	}
	s->candidates[s->n++] = p;
	log_debug("%s has connected", p->name);
	return 0;
}

/* Reads what is there of a request: 1 if it is whole, 0 if not yet, -1 at the end of the connection. */
static int read_some(struct peer *p, struct err *err)
{
	ssize_t got = recv(p->fd, p->request + p->have, sizeof(p->request) - p->have, MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0 && tunnel_fault(p->tunnel, err))
		return -1;
	if (got < 0)
		return err_sys(err, "the connection broke");
	if (got == 0)
		return err_set(err, EPIPE,
			       p->have ? "it left in the middle of a request" :
					 "it left without sending any memory");
	p->have += (size_t)got;
	return p->have == sizeof(p->request);
}

/* Lets candidate @i speak. 1: it is the peer now, with *first; 0; -1: it must go. */
static int hear(struct server *s, size_t i, struct ps_request *first, struct err *err)
{
	struct peer *p = s->candidates[i];
	struct err late;
	int rc = read_some(p, err);

	if (rc <= 0)
		return rc;
	switch (handle(p, first, err)) {
	case STEP_ON:
		return 0;
	case STEP_PAGES:
		return 1;
	case STEP_CLOSE:
		err_set(err, EPROTO, "CLOSE before any memory");
		if (answer_status(p, ENODATA, &late))
			log_debug("%s: %s", p->name, late.text);
		return -1;
	default:
		return -1;
	}
}

/* One step for each candidate that waits for room. True if there is more to do. */
static bool prepare_all(struct server *s)
{
	bool more = false;
	struct err why;

	for (size_t i = s->n; i-- > 0;) {
		if (!s->candidates[i]->preparing)
			continue;
		if (go_on_preparing(s->candidates[i], &why))
			drop(s, i, why.text);
		else
			more |= s->candidates[i]->preparing;
	}
	return more;
}

/* Hears everybody who has something to say; 1 and *peer_out when one of them sends memory. */
static int hear_all(struct server *s, const struct pollfd *polled, size_t n_polled,
		    struct peer **peer_out, struct ps_request *first, struct err *err)
{
	struct err why;

	for (size_t k = n_polled; k-- > 0;) {
		int rc;

		if (!polled[k].revents)
			continue;
		rc = hear(s, k, first, &why);
		if (rc > 0) {
			*peer_out = s->candidates[k];
			s->candidates[k] = NULL;
			return 1;
		}
		if (rc < 0 && s->opt->given) {
			*err = why;
			return -1;
		}
		if (rc < 0)
			drop(s, k, why.text);
	}
	return 0;
}

/* Waits for the peer among all who come. 0 and *peer_out, or -1. */
static int find_peer(struct server *s, int listener, struct peer **peer_out,
		     struct ps_request *first, struct err *err)
{
	struct pollfd fds[MAX_CANDIDATES + 1];
	size_t n, i;
	bool busy;
	int rc;

	for (;;) {
		busy = prepare_all(s);
		if (s->opt->given && s->n == 0)
			return err_set(err, EPIPE, "the connection ended before any memory came");
		n = s->n;
		for (i = 0; i < n;
		     i++) /* who waits for room is not heard: poll passes a negative number over */
			fds[i] = (struct pollfd){.fd = s->candidates[i]->preparing ?
							       -1 :
							       s->candidates[i]->fd,
						 .events = POLLIN};
		fds[n] = (struct pollfd){.fd = listener, .events = POLLIN};
		if (poll(fds, n + 1, busy ? 0 : -1) < 0) {
			if (errno == EINTR)
				continue;
			return err_sys(err, "poll");
		}
		rc = hear_all(s, fds, n, peer_out, first, err);
		if (rc)
			return rc < 0 ? -1 : 0;
		if (fds[n].revents && accept_one(s, listener, err))
			return -1;
	}
}

static void drop_all(struct server *s)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->candidates[i])
			log_warn("%s: dropped: another one sends memory", s->candidates[i]->name);
		peer_free(s->candidates[i]);
	}
	s->n = 0;
}

/* Two images a task are open until the end. */
static void raise_fd_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		(void)!setrlimit(RLIMIT_NOFILE, &lim);
	}
}

int ps_server_run(int fd, const struct ps_server_options *opt, struct err *err)
{
	struct server s = {.opt = opt};
	struct ps_request first;
	struct peer *peer = NULL;
	int rc;

	raise_fd_limit();
	if (opt->given) {
		int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

		if (copy < 0)
			return err_sys(err, "the given socket");
		s.candidates[0] = peer_create(opt, copy, err);
		if (!s.candidates[0])
			return -1;
		s.n = 1;
	}
	rc = find_peer(&s, opt->given ? -1 : fd, &peer, &first, err);
	drop_all(&s);
	if (rc == 0) {
		if (!opt->given)
			shutdown(fd, SHUT_RD); /* who comes now is refused */
		rc = serve_peer(&s, peer, &first, err);
	}
	peer_free(peer);
	return rc;
}
