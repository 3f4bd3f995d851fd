// SPDX-License-Identifier: Apache-2.0
#include "wire/trunk.h"

#include "base/le.h"
#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

enum { HEAD_BYTES = 4, LINGER_MS = 5000 };

/* A block on its way in one direction over one way. */
struct block {
	uint8_t *bytes;    /* HEAD_BYTES + TRUNK_BLOCK_BYTES */
	size_t start, end; /* what is to be passed on, or has come */
};

struct way {
	int fd;
	struct tunnel *tunnel;
	struct block out, in;
	bool closed; /* nothing more comes over it */
};

struct trunk {
	size_t n, next_out, next_in;
	struct way ways[TRUNK_WAYS_MAX];
	int inner; /* -1: there is one way, and no thread */
	bool out_ended, in_ended, user_gone;
	pthread_t thread;
	pthread_mutex_t lock;
	struct err fault;
	bool faulty;
};

int trunk_fault(struct trunk *t, struct err *err)
{
	int rc = 0;

	if (!t)
		return 0;
	pthread_mutex_lock(&t->lock);
	if (t->faulty) {
		*err = t->fault;
		rc = -1;
	}
	pthread_mutex_unlock(&t->lock);
	/* a tunnel knows better why */
	for (size_t i = 0; i < t->n; i++)
		if (tunnel_fault(t->ways[i].tunnel, err))
			return -1;
	return rc;
}

/* ---- steps: 1 for progress, 0 for none, -1 ---- */

static size_t next(const struct trunk *t, size_t i)
{
	return i + 1 < t->n ? i + 1 : 0;
}

/* The next block of what the user writes, or the end. */
static int pull_from_user(struct trunk *t)
{
	struct block *b = &t->ways[t->next_out].out;
	ssize_t n;

	if (t->out_ended || b->start < b->end)
		return 0;
	n = recv(t->inner, b->bytes + HEAD_BYTES, TRUNK_BLOCK_BYTES, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		t->out_ended = true;
		n = 0;
	}
	put_le32(b->bytes, (uint32_t)n);
	b->start = 0;
	b->end = HEAD_BYTES + (size_t)n;
	t->next_out = next(t, t->next_out);
	return 1;
}

static int push_to_way(struct way *w, struct err *err)
{
	struct block *b = &w->out;
	ssize_t n;

	if (b->start == b->end)
		return 0;
	n = send(w->fd, b->bytes + b->start, b->end - b->start, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ?
			       0 :
			       err_sys(err, "one of the connections broke");
	b->start += (size_t)n;
	return 1;
}

/* Bytes of the block that comes, its head among them; 0: it is longer than blocks are. */
static size_t block_bytes(const struct block *b)
{
	uint32_t n = b->end < HEAD_BYTES ? 0 : get_le32(b->bytes);

	return n > TRUNK_BLOCK_BYTES ? 0 : HEAD_BYTES + n;
}

static bool is_whole(const struct block *b)
{
	return b->end >= HEAD_BYTES && b->end == block_bytes(b);
}

static int pull_from_way(struct trunk *t, struct way *w, struct err *err)
{
	struct block *b = &w->in;
	ssize_t n;

	if (t->in_ended || w->closed || is_whole(b))
		return 0;
	if (!block_bytes(b))
		return err_set(err, EPROTO, "a block of %u bytes on one of the connections",
			       get_le32(b->bytes));
	n = recv(w->fd, b->bytes + b->end, block_bytes(b) - b->end, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ?
			       0 :
			       err_sys(err, "one of the connections broke");
	/* the end of the stream may have come over another */
	w->closed = n == 0;
	b->end += (size_t)n;
	if (is_whole(b))
		b->start = HEAD_BYTES;
	return 1;
}

static int push_to_user(struct trunk *t, struct err *err)
{
	struct block *b = &t->ways[t->next_in].in;
	ssize_t n;

	if (t->in_ended)
		return 0;
	if (!is_whole(b))
		return t->ways[t->next_in].closed ?
			       err_set(err, EPIPE, "one of the connections ended") :
			       0;
	if (b->end == HEAD_BYTES) {
		t->in_ended = true;
		shutdown(t->inner, SHUT_WR);
		return 1;
	}
	n = send(t->inner, b->bytes + b->start, b->end - b->start, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	/* a user who reads no more: the rest is for nobody */
	b->start += n < 0 ? b->end - b->start : (size_t)n;
	if (b->start == b->end) {
		b->start = b->end = 0;
		t->next_in = next(t, t->next_in);
	}
	return 1;
}

static int step(struct trunk *t, struct err *err)
{
	int progress = pull_from_user(t), user;

	for (size_t i = 0; i < t->n; i++) {
		int out = push_to_way(&t->ways[i], err), in;

		if (out < 0)
			return -1;
		in = pull_from_way(t, &t->ways[i], err);
		if (in < 0)
			return -1;
		progress |= out | in;
	}
	user = push_to_user(t, err);
	return user < 0 ? -1 : progress | user;
}

/* Waits for anything that makes a step worth while. 0: nothing came in the time that there is. */
static int wait_for_all(struct trunk *t)
{
	const struct block *out = &t->ways[t->next_out].out;
	short user = (!t->out_ended && out->start == out->end ? POLLIN : 0) |
		     (!t->in_ended && is_whole(&t->ways[t->next_in].in) ? POLLOUT : 0);
	struct pollfd p[TRUNK_WAYS_MAX + 1];
	int n;

	for (size_t i = 0; i < t->n; i++) {
		const struct way *w = &t->ways[i];
		short events = (!t->in_ended && !w->closed && !is_whole(&w->in) ? POLLIN : 0) |
			       (w->out.start < w->out.end ? POLLOUT : 0);

		p[i] = (struct pollfd){.fd = events ? w->fd : -1, .events = events};
	}
	/* one who has gone is ready for ever */
	p[t->n] = (struct pollfd){.fd = t->user_gone && !user ? -1 : t->inner, .events = user};
	do {
		n = poll(p, t->n + 1, t->user_gone ? LINGER_MS : -1);
	} while (n < 0 && errno == EINTR);
	t->user_gone |= (p[t->n].revents & POLLHUP) != 0;
	return n;
}

static bool is_done(const struct trunk *t)
{
	bool done = t->in_ended && t->out_ended;

	for (size_t i = 0; i < t->n && done; i++)
		done = t->ways[i].out.start == t->ways[i].out.end;
	return done;
}

static void *trunk_main(void *arg)
{
	struct trunk *t = arg;
	struct err why;
	int rc = 1;

	while (rc > 0 && !is_done(t)) {
		rc = step(t, &why);
		if (rc == 0) {
			rc = wait_for_all(t);
			if (rc <= 0)
				rc = err_set(&why, ETIMEDOUT, "the peer does not end the stream");
		}
	}
	if (rc < 0) {
		pthread_mutex_lock(&t->lock);
		t->fault = why;
		t->faulty = true;
		pthread_mutex_unlock(&t->lock);
	}
	/* the reason is there before the user sees the end */
	shutdown(t->inner, SHUT_RDWR);
	for (size_t i = 0; i < t->n; i++)
		shutdown(t->ways[i].fd, rc < 0 ? SHUT_RDWR : SHUT_WR);
	return NULL;
}

/* ---- its life ---- */

void trunk_drop(const struct trunk_way *ways, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (ways[i].fd >= 0)
			close(ways[i].fd);
		tunnel_abort(ways[i].tunnel);
	}
}

static void free_trunk(struct trunk *t)
{
	/* all are told first, then waited for */
	for (size_t i = 0; i < t->n; i++) {
		if (t->ways[i].fd >= 0)
			close(t->ways[i].fd);
		free(t->ways[i].out.bytes);
		free(t->ways[i].in.bytes);
	}
	for (size_t i = 0; i < t->n; i++)
		tunnel_finish(t->ways[i].tunnel);
	if (t->inner >= 0)
		close(t->inner);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static int start(struct trunk *t, int *user, struct err *err)
{
	int pair[2], no;

	for (size_t i = 0; i < t->n; i++) {
		t->ways[i].out.bytes = malloc(HEAD_BYTES + TRUNK_BLOCK_BYTES);
		t->ways[i].in.bytes = malloc(HEAD_BYTES + TRUNK_BLOCK_BYTES);
		if (!t->ways[i].out.bytes || !t->ways[i].in.bytes)
			return err_nomem(err);
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return err_sys(err, "socketpair");
	t->inner = pair[0];
	*user = pair[1];
	no = thread_start(&t->thread, trunk_main, t);
	return no ? err_sysno(err, no, "cannot start a thread") : 0;
}

struct trunk *trunk_open(const struct trunk_way *ways, size_t n, int *fd_out, struct err *err)
{
	struct trunk *t = n && n <= TRUNK_WAYS_MAX ? calloc(1, sizeof(*t)) : NULL;
	cleanup_close int user = -1;

	if (!t) {
		trunk_drop(ways, n);
		err_nomem(err);
		return NULL;
	}
	t->n = n;
	t->inner = -1;
	pthread_mutex_init(&t->lock, NULL);
	for (size_t i = 0; i < n; i++)
		t->ways[i] = (struct way){.fd = ways[i].fd, .tunnel = ways[i].tunnel};
	if (n == 1) {
		*fd_out = steal_fd(&t->ways[0].fd);
		return t;
	}
	if (start(t, &user, err) == 0) {
		*fd_out = steal_fd(&user);
		return t;
	}
	free_trunk(t);
	return NULL;
}

struct tunnel *trunk_tunnel(struct trunk *t)
{
	return t && t->n == 1 ? t->ways[0].tunnel : NULL;
}

void trunk_finish(struct trunk *t)
{
	if (!t)
		return;
	if (t->inner >= 0)
		pthread_join(t->thread, NULL);
	free_trunk(t);
}
