// SPDX-License-Identifier: Apache-2.0
#include "wire/tunnel.h"

#include "base/clock.h"
#include "base/thread.h"
#include "kernel/urgent.h"
#include "wire/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

enum {
	FLOW_BYTES = 256 << 10,
	NET_BYTES = 288 << 10, /* what is sent at once: the records of a full flow */
	PAIR_BYTES = 512 << 10, /* between user and thread: the larger, the less often either has to wake the other */
	RECORD_BYTES = 16 << 10, /* the most that one SSL_read brings */
	HANDSHAKE_MS = 10000,
	PARTING_MS = 1000,
	LINGER_MS = 5000, /* without progress, when the user has gone */
	PATIENCE_MS = 30000,
	REST_BYTES = 4 << 10,
	LOOK_MS = 500, /* how often it is asked whether the other machine is there */
};

/* One direction. */
struct flow {
	uint8_t *buf; /* FLOW_BYTES */
	size_t start, end;
	bool ended;  /* nothing more comes in */
	bool passed; /* and that has been passed on */
};

struct tunnel {
	const struct tls *tls;
	SSL *ssl;
	int net, inner;
	char peer[TCP_PEER_TEXT];
	struct flow out, in;
	tunnel_cut cut;
	uint64_t cut_state;
	size_t whole;       /* bytes of what goes out that are cut already: the next record */
	bool user_gone;     /* not only for one direction */
	bool said_end;      /* the peer is told, or it waits with the last records */
	bool want_write;    /* libssl has something to say before it goes on */
	atomic_bool broken; /* and nothing more comes but what is here already */
	atomic_bool leave;  /* the thread, when what the user has written has gone */
	bool left;          /* it has done so: what is in the flow is read first */
	bool dry;           /* nothing can be read but what poll(2) shows */
	atomic_uint patience_ms;
	uint64_t look_at_ms;
	uint64_t awaited_ms; /* since when the other machine owes a sign of life */
	pthread_t thread;
	bool joined;
	pthread_mutex_t lock; /* of what follows */
	pid_t tid;
	bool unhurried;
	X509 *cert; /* the peer's, after the handshake; NULL: none */
	struct err fault;
	bool faulty;
};

static void set_fault(struct tunnel *t, const struct err *why)
{
	pthread_mutex_lock(&t->lock);
	if (!t->faulty)
		t->fault = *why;
	t->faulty = true;
	pthread_mutex_unlock(&t->lock);
}

const char *tunnel_peer(const struct tunnel *t)
{
	return t->peer;
}

int tunnel_fault(struct tunnel *t, struct err *err)
{
	bool faulty;

	if (!t)
		return 0;
	pthread_mutex_lock(&t->lock);
	faulty = t->faulty;
	if (faulty)
		*err = t->fault;
	pthread_mutex_unlock(&t->lock);
	return faulty ? -1 : 0;
}

bool tunnel_peer_has_name(struct tunnel *t, const char *name)
{
	bool has;

	pthread_mutex_lock(&t->lock);
	has = t->cert && tls_has_name(t->cert, name);
	pthread_mutex_unlock(&t->lock);
	return has;
}

int tunnel_explain(struct tunnel *t, struct err *err)
{
	(void)tunnel_fault(t, err);
	return -1;
}

void tunnel_patience(struct tunnel *t, unsigned int ms)
{
	tcp_watch(t->net, ms);
	atomic_store(&t->patience_ms, ms);
}

/* ---- handshake ---- */

/* 0 when @rc of libssl means "later"; then *events says what to wait for. -1: an error. */
static int later(SSL *ssl, int rc, short *events, struct err *err)
{
	switch (SSL_get_error(ssl, rc)) {
	case SSL_ERROR_WANT_READ:
		*events = POLLIN;
		return 0;
	case SSL_ERROR_WANT_WRITE:
		*events = POLLOUT;
		return 0;
	default:
		return tls_failure(ssl, rc, err);
	}
}

/* From now on records are gathered, and go when flush_records says so: a system call for many of them. */
static int gather_records(struct tunnel *t, struct err *err)
{
	BIO *net = SSL_get_wbio(t->ssl), *gather = BIO_new(BIO_f_buffer());

	if (!gather || BIO_set_write_buffer_size(gather, NET_BYTES) <= 0 || !BIO_up_ref(net)) {
		BIO_free(gather);
		return err_nomem(err);
	}
	SSL_set0_wbio(t->ssl, BIO_push(gather, net));
	return 0;
}

/* The peer is who he should be: nothing of this changes later. */
static int admit(struct tunnel *t, const char *host, struct err *err)
{
	if (tls_check_peer(t->tls, t->ssl, host, err) || gather_records(t, err))
		return -1;
	pthread_mutex_lock(&t->lock);
	t->cert = SSL_get1_peer_certificate(t->ssl);
	pthread_mutex_unlock(&t->lock);
	return 0;
}

static int shake_hands(struct tunnel *t, const char *host, struct err *err)
{
	uint64_t end_ms = clock_ms() + HANDSHAKE_MS, now;
	struct pollfd p = {.fd = t->net};
	int rc;

	for (;;) {
		ERR_clear_error();
		rc = SSL_do_handshake(t->ssl);
		if (rc == 1)
			return admit(t, host, err);
		if (later(t->ssl, rc, &p.events, err))
			return -1;
		now = clock_ms();
		if (now >= end_ms || poll(&p, 1, (int)(end_ms - now)) == 0)
			return err_set(err, ETIMEDOUT, "no TLS handshake within %d s",
				       HANDSHAKE_MS / 1000);
	}
}

/* ---- the flows: each step returns 1 for progress, 0 for none, -1 ---- */

/* Makes room at the end; false: there is none. */
static bool has_room(struct flow *f, size_t wanted)
{
	if (f->start == f->end)
		f->start = f->end = 0;
	if (FLOW_BYTES - f->end < wanted && f->start) {
		memmove(f->buf, f->buf + f->start, f->end - f->start);
		f->end -= f->start;
		f->start = 0;
	}
	return FLOW_BYTES - f->end >= wanted;
}

static int pull_from_user(struct tunnel *t)
{
	struct flow *f = &t->out;
	ssize_t n;

	if (f->ended || !has_room(f, RECORD_BYTES))
		return 0;
	n = recv(t->inner, f->buf + f->end, FLOW_BYTES - f->end, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		f->ended = true;
	else
		f->end += (size_t)n;
	return 1;
}

/* libssl takes up again, with the same bytes, what it could not finish: so the next record is settled once. */
static size_t next_record(struct tunnel *t)
{
	const struct flow *f = &t->out;
	size_t left = f->end - f->start;

	if (!t->whole && left)
		t->whole = t->cut ? t->cut(&t->cut_state, f->buf + f->start, left) : left;
	if (!t->whole && f->ended)
		t->whole = left;
	return t->whole;
}

static int push_records(struct tunnel *t, struct err *err)
{
	struct flow *f = &t->out;
	short events = 0;
	size_t n;
	int rc, progress = 0;

	while (next_record(t)) {
		ERR_clear_error();
		rc = SSL_write_ex(t->ssl, f->buf + f->start, t->whole, &n);
		if (rc != 1) {
			if (later(t->ssl, rc, &events, err))
				return -1;
			t->want_write |= events == POLLOUT;
			return progress;
		}
		f->start += n;
		t->whole -= n;
		progress = 1;
	}
	return progress;
}

/* What libssl has left in the buffer. 1: all of it has gone; 0: some has not; -1. */
static int flush_records(struct tunnel *t, struct err *err)
{
	BIO *out = SSL_get_wbio(t->ssl);

	errno = 0;
	if (BIO_flush(out) > 0)
		return 1;
	if (!BIO_should_retry(out))
		return errno ? err_sys(err, "the connection is broken") :
			       err_set(err, EPIPE, "the connection was cut");
	t->want_write = true;
	return 0;
}

static int push_to_net(struct tunnel *t, struct err *err)
{
	struct flow *f = &t->out;
	short events = 0;
	int rc, progress = push_records(t, err), flushed;

	if (progress < 0)
		return -1;
	flushed = flush_records(t, err);
	if (flushed <= 0 || f->start < f->end || !f->ended || f->passed)
		return flushed < 0 ? -1 : progress;
	if (atomic_load(&t->leave)) {
		t->left = true;
		return progress;
	}
	if (!t->said_end) {
		ERR_clear_error();
		rc = SSL_shutdown(t->ssl);
		if (rc < 0) {
			t->want_write = true;
			return later(t->ssl, rc, &events, err) ? -1 : progress;
		}
		t->said_end = true;
		flushed = flush_records(t, err);
	}
	f->passed = flushed > 0;
	return flushed;
}

static int pull_from_net(struct tunnel *t, struct err *err)
{
	struct flow *f = &t->in;
	short events = 0;
	size_t n;
	int rc, progress = 0;

	while (!f->ended && has_room(f, RECORD_BYTES)) {
		ERR_clear_error();
		rc = SSL_read_ex(t->ssl, f->buf + f->end, RECORD_BYTES, &n);
		if (rc == 1) {
			f->end += n;
			progress = 1;
			continue;
		}
		if (SSL_get_error(t->ssl, rc) != SSL_ERROR_ZERO_RETURN) {
			if (later(t->ssl, rc, &events, err))
				return -1;
			t->want_write |= events == POLLOUT;
			return progress;
		}
		f->ended = true;
		return 1;
	}
	return progress;
}

static int push_to_user(struct tunnel *t)
{
	struct flow *f = &t->in;
	ssize_t n;

	if (f->start < f->end) {
		n = send(t->inner, f->buf + f->start, f->end - f->start, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		/* a user who reads no more: the rest is for nobody */
		f->start += n < 0 ? f->end - f->start : (size_t)n;
		return 1;
	}
	if (!f->ended || f->passed)
		return 0;
	shutdown(t->inner, SHUT_WR);
	f->passed = true;
	return 1;
}

/*
 * What it owes may be younger than the last that has come: so the time is taken here. After a look that
 * comes late, as after a sleep of our own machine, it begins anew.
 */
static int look_for_life(struct tunnel *t, struct err *err)
{
	unsigned int patience_ms = atomic_load(&t->patience_ms);
	uint64_t now = clock_ms(), due = t->look_at_ms;
	int silence_ms;

	if (now < due)
		return 0;
	t->look_at_ms = now + LOOK_MS;
	silence_ms = tcp_awaits_ms(t->net);
	if (silence_ms < 0 || now > due + LOOK_MS)
		t->awaited_ms = now;
	else
		t->awaited_ms = MAX(t->awaited_ms, now - (uint64_t)silence_ms);
	if (now - t->awaited_ms < patience_ms)
		return 0;
	return err_set(err, ETIMEDOUT, "nothing has been heard of %s for %u s", t->peer,
		       patience_ms / 1000);
}

/*
 * Waits for anything that makes a step worth while, or a moment. 1, 0: nothing came, -1. That the connection is
 * broken is asked for always, once, as it stays so.
 */
static int wait_for_both(struct tunnel *t, struct err *err)
{
	bool room = t->in.start == t->in.end && !t->in.ended;
	short net = (room ? POLLIN : 0) | (t->want_write ? POLLOUT : 0);
	short user = (!t->out.ended && has_room(&t->out, RECORD_BYTES) ? POLLIN : 0) |
		     (t->in.start < t->in.end ? POLLOUT : 0);
	struct pollfd p[2] = {
		{.fd = net || !atomic_load(&t->broken) ? t->net : -1, .events = net},
		/* one who has gone is ready for ever */
		{.fd = t->user_gone && !user ? -1 : t->inner, .events = user},
	};
	int n;

	do {
		n = poll(p, 2, LOOK_MS);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(err, "poll");
	if (p[0].revents & (POLLERR | POLLHUP))
		atomic_store(&t->broken, true);
	t->user_gone |= (p[1].revents & POLLHUP) != 0;
	return n > 0;
}

/* What came before a fault is good, as far as the user takes it. */
static void push_rest_to_user(struct tunnel *t)
{
	while (t->in.start < t->in.end && push_to_user(t))
		;
}

/* The connection takes no more: what the peer has said before that is good, and his alert is the reason. Always -1. */
static int hear_last(struct tunnel *t, struct err *err)
{
	struct err why;
	int rc;

	do {
		rc = pull_from_net(t, &why);
		push_rest_to_user(t);
	} while (rc > 0);
	if (rc < 0 && (why.no == EPROTO || why.no == EACCES))
		*err = why;
	return -1;
}

/* One round of all steps: 1 for progress, 0 for none, -1. */
static int step(struct tunnel *t, struct err *err)
{
	int progress = pull_from_user(t), more;

	t->want_write = false;
	more = push_to_net(t, err);
	if (more < 0)
		return hear_last(t, err);
	progress |= more;
	more = pull_from_net(t, err);
	if (more < 0) {
		push_rest_to_user(t);
		return -1;
	}
	return progress | more | push_to_user(t);
}

/* Until both directions have ended properly (0), or something breaks. */
static int pump(struct tunnel *t, struct err *err)
{
	uint64_t end_ms = 0;  /* of a peer who talks on to nobody */
	uint64_t idle_ms = 0; /* since when nothing has come */
	int rc;

	while (!(t->in.passed && t->out.passed)) {
		rc = step(t, err);
		if (t->left)
			return 0;
		if (rc == 0)
			rc = wait_for_both(t, err);
		if (rc < 0 || look_for_life(t, err))
			return -1;
		idle_ms = rc > 0 ? 0 : idle_ms ? idle_ms : clock_ms();
		if (t->user_gone && t->out.passed && !end_ms)
			end_ms = clock_ms() + LINGER_MS;
		if ((end_ms && clock_ms() > end_ms) ||
		    (t->user_gone && idle_ms && clock_ms() > idle_ms + LINGER_MS))
			return err_set(err, ETIMEDOUT, "the peer does not end the connection");
	}
	return 0;
}

/*
 * The alert that tells the peer why is on its way. If we closed with something of his unread, he
 * would get a reset, and perhaps never see it.
 */
static void part(struct tunnel *t)
{
	uint64_t end_ms = clock_ms() + PARTING_MS;
	struct pollfd p = {.fd = t->net, .events = POLLIN};

	shutdown(t->net, SHUT_WR);
	while (clock_ms() < end_ms && poll(&p, 1, PARTING_MS) > 0)
		if (recv(t->net, t->in.buf, FLOW_BYTES, MSG_DONTWAIT) <= 0)
			break;
}

/* ---- without the thread ---- */

/* What is on its way between the thread and the user comes before what the thread still has. */
static int gather_rest(struct tunnel *t, int user, struct err *err)
{
	struct flow *f = &t->in;
	uint8_t rest[REST_BYTES];
	ssize_t n = recv(user, rest, sizeof(rest), MSG_DONTWAIT);
	size_t have = f->end - f->start;

	if (n <= 0)
		return 0;
	if (n == sizeof(rest) || have + (size_t)n > FLOW_BYTES)
		return err_set(err, EPROTO, "%s talks before it is its turn", t->peer);
	memmove(f->buf + n, f->buf + f->start, have);
	memcpy(f->buf, rest, (size_t)n);
	f->start = 0;
	f->end = have + (size_t)n;
	return 0;
}

int tunnel_take_over(struct tunnel *t, int *fd, struct err *err)
{
	BIO *net;
	int own;

	atomic_store(&t->leave, true);
	shutdown(*fd, SHUT_WR); /* wakes it */
	pthread_join(t->thread, NULL);
	t->joined = true;
	if (!t->left) {
		err_set(err, EPIPE, "the connection has ended");
		return tunnel_explain(t, err);
	}
	if (gather_rest(t, *fd, err))
		return -1;
	own = fcntl(t->net, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return err_sys(err, "no descriptor for the connection");
	/* each record by itself, at once: nothing is left over in a buffer */
	net = BIO_next(SSL_get_wbio(t->ssl));
	BIO_up_ref(net);
	SSL_set0_wbio(t->ssl, net);
	/* what it reads into comes from the heap each time, which may be warm (base/warm.h), and not from a place of its own that is not */
	SSL_set_mode(t->ssl, SSL_MODE_RELEASE_BUFFERS);
	close(*fd);
	close(steal_fd(&t->inner));
	*fd = own;
	return 0;
}

/* What a call of libssl that did not succeed is as one of a socket. */
static ssize_t as_socket(struct tunnel *t, int rc)
{
	short events;
	struct err why;

	if (SSL_get_error(t->ssl, rc) == SSL_ERROR_ZERO_RETURN)
		return 0;
	if (later(t->ssl, rc, &events, &why) == 0 && look_for_life(t, &why) == 0) {
		errno = EAGAIN;
		return -1;
	}
	set_fault(t, &why);
	atomic_store(&t->broken, true);
	errno = why.no ? why.no : EPROTO;
	return -1;
}

ssize_t tunnel_read(struct tunnel *t, void *buf, size_t bytes)
{
	struct flow *f = &t->in;
	size_t n = MIN(f->end - f->start, bytes);
	int rc;

	t->dry = false;
	if (n) {
		memcpy(buf, f->buf + f->start, n);
		f->start += n;
		return (ssize_t)n;
	}
	ERR_clear_error();
	rc = SSL_read_ex(t->ssl, buf, bytes, &n);
	if (rc == 1)
		return (ssize_t)n;
	t->dry = true;
	return as_socket(t, rc);
}

ssize_t tunnel_write(struct tunnel *t, const void *buf, size_t bytes)
{
	size_t n;
	int rc;

	ERR_clear_error();
	rc = SSL_write_ex(t->ssl, buf, bytes, &n);
	if (rc == 1)
		return (ssize_t)n;
	/* who has said its end takes no more: no write(2) returns 0 for that */
	if (as_socket(t, rc) == 0)
		errno = EPIPE;
	return -1;
}

bool tunnel_may_hold(const struct tunnel *t)
{
	return !t->dry;
}

void tunnel_unhurried(struct tunnel *t)
{
	pthread_mutex_lock(&t->lock);
	if (!t->unhurried && t->tid)
		unhurried_thread(t->tid);
	t->unhurried = true;
	pthread_mutex_unlock(&t->lock);
}

static void *tunnel_main(void *arg)
{
	struct tunnel *t = arg;
	struct err why;

	pthread_mutex_lock(&t->lock);
	t->tid = gettid();
	if (t->unhurried)
		unhurried_thread(t->tid);
	pthread_mutex_unlock(&t->lock);
	if ((tls_role(t->tls) == TLS_SERVER && shake_hands(t, NULL, &why)) || pump(t, &why)) {
		set_fault(t, &why);
		part(t);
	} else if (t->left) {
		return NULL;
	}
	/* the reason is there before the user sees the end */
	shutdown(t->inner, SHUT_RDWR);
	shutdown(t->net, SHUT_RDWR);
	return NULL;
}

/* ---- its life ---- */

static void free_tunnel(struct tunnel *t)
{
	X509_free(t->cert);
	SSL_free(t->ssl);
	if (t->net >= 0)
		close(t->net);
	if (t->inner >= 0)
		close(t->inner);
	free(t->out.buf);
	free(t->in.buf);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static int start(struct tunnel *t, struct err *err)
{
	int no = thread_start(&t->thread, tunnel_main, t);

	return no ? err_sysno(err, no, "cannot start a thread") : 0;
}

static int prepare(struct tunnel *t, int *user, struct err *err)
{
	const int pair_bytes = PAIR_BYTES;
	int pair[2];

	t->out.buf = malloc(FLOW_BYTES);
	t->in.buf = malloc(FLOW_BYTES);
	if (!t->out.buf || !t->in.buf)
		return err_nomem(err);
	if (fcntl(t->net, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, "fcntl");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return err_sys(err, "socketpair");
	t->inner = pair[0];
	*user = pair[1];
	for (size_t i = 0; i < ARRAY_SIZE(pair); i++)
		(void)!setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &pair_bytes, sizeof(pair_bytes));
	t->ssl = tls_session(t->tls, t->net, err);
	return t->ssl ? 0 : -1;
}

struct tunnel *tunnel_open(const struct tls *tls, int fd, const char *host, tunnel_cut cut,
			   int *fd_out, struct err *err)
{
	struct tunnel *t = calloc(1, sizeof(*t));
	cleanup_close int user = -1;

	if (!t) {
		close(fd);
		err_nomem(err);
		return NULL;
	}
	t->tls = tls;
	t->cut = cut;
	t->net = fd;
	t->inner = -1;
	tcp_peer_text(fd, t->peer);
	tunnel_patience(t, PATIENCE_MS);
	pthread_mutex_init(&t->lock, NULL);
	if (prepare(t, &user, err) == 0 &&
	    (tls_role(tls) == TLS_SERVER || shake_hands(t, host, err) == 0) && start(t, err) == 0) {
		*fd_out = steal_fd(&user);
		return t;
	}
	free_tunnel(t);
	return NULL;
}

bool tunnel_is_broken(struct tunnel *t)
{
	return t && atomic_load(&t->broken);
}

void tunnel_close_resets(struct tunnel *t, bool resets)
{
	tcp_close_resets(t->net, resets);
}

void tunnel_reset(struct tunnel *t)
{
	tunnel_close_resets(t, true);
	shutdown(t->net, SHUT_RDWR);
}

void tunnel_finish(struct tunnel *t)
{
	if (!t)
		return;
	if (!t->joined)
		pthread_join(t->thread, NULL);
	if (t->left) {
		ERR_clear_error();
		(void)SSL_shutdown(t->ssl);
		part(t);
	}
	free_tunnel(t);
}

void tunnel_abort(struct tunnel *t)
{
	if (!t)
		return;
	shutdown(t->net, SHUT_RDWR);
	if (!t->joined)
		pthread_join(t->thread, NULL);
	free_tunnel(t);
}
