// SPDX-License-Identifier: Apache-2.0
#include "store/relay_link.h"

#include "wire/tcp.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

enum { GREET_MS = 10000 };

static void begin_stream(struct relay_link *l, int fd)
{
	l->fd = fd;
	stream_init(&l->st, fd, fd, NULL);
	l->st.stop = l->stop;
	l->st.silence_ms = GREET_MS;
}

void relay_link_init(struct relay_link *l, int fd, const atomic_bool *stop)
{
	*l = (struct relay_link){.stop = stop};
	begin_stream(l, fd);
}

/* The preambles of the greeting were in the clear: what counts is said again where nobody can change it. */
static int exchange_preambles(struct relay_link *l, struct err *err)
{
	if (stream_send_preamble(&l->st, err) || stream_receive_preamble(&l->st, err))
		return relay_link_explain(l, err);
	stream_spare_sums(&l->st);
	return 0;
}

/* It does not come to TLS: what the user can do about it. */
static int refused(struct err *err)
{
	struct err why = *err;

	if (err->no == EACCES)
		err_set(err, EACCES, "%s; do both have the same --secret-file?", why.text);
	return -1;
}

/* The key is wiped: it is in l->tls, as long as that is needed. */
static int encrypt(struct relay_link *l, enum tls_role role, struct secret *key, struct err *err)
{
	int fd;

	l->tls = tls_with_secret(role, key, err);
	explicit_bzero(key, sizeof(*key));
	if (!l->tls)
		return -1;
	stream_finish(&l->st);
	l->tunnel = tunnel_open(l->tls, steal_fd(&l->fd), NULL, NULL, &fd, err);
	if (!l->tunnel)
		return refused(err);
	begin_stream(l, fd);
	return exchange_preambles(l, err);
}

static void close_resets(struct relay_link *l, bool resets)
{
	if (l->tunnel)
		tunnel_close_resets(l->tunnel, resets);
	else if (l->fd >= 0)
		tcp_close_resets(l->fd, resets);
}

int relay_link_call(struct relay_link *l, const struct secret *secret, struct err *err)
{
	struct secret key;

	if (stream_greet_server(&l->st, secret, &key, err) ||
	    (secret && encrypt(l, TLS_CLIENT, &key, err)))
		return -1;
	close_resets(l, true);
	return 0;
}

int relay_link_answer(struct relay_link *l, const struct secret *secret, struct err *err)
{
	struct secret key;

	if (stream_greet_client(&l->st, secret, &key, err))
		return -1;
	return secret ? encrypt(l, TLS_SERVER, &key, err) : 0;
}

int relay_link_explain(struct relay_link *l, struct err *err)
{
	if (err->no == EPIPE || err->no == ECONNRESET)
		(void)tunnel_fault(l->tunnel, err);
	return -1;
}

int relay_link_gone(struct relay_link *l, const char *what, struct err *err)
{
	struct pollfd p = {.fd = l->fd};

	if (poll(&p, 1, 0) <= 0 && !tunnel_is_broken(l->tunnel))
		return 0;
	err_set(err, EPIPE, "%s", what);
	return relay_link_explain(l, err);
}

static void finish(struct relay_link *l)
{
	stream_finish(&l->st);
	if (l->fd >= 0)
		shutdown(l->fd, SHUT_RDWR);
	tunnel_finish(steal_ptr(&l->tunnel));
}

static void release(struct relay_link *l)
{
	if (l->fd >= 0)
		close(steal_fd(&l->fd));
	tls_free(steal_ptr(&l->tls));
}

void relay_link_end(struct relay_link *l)
{
	close_resets(l, false);
	finish(l);
}

void relay_link_reset(struct relay_link *l)
{
	if (l->tunnel)
		tunnel_reset(l->tunnel);
	else
		tcp_close_resets(l->fd, true);
	finish(l);
	release(l);
}

void relay_link_close(struct relay_link *l)
{
	relay_link_end(l);
	release(l);
}
