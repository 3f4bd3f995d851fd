// SPDX-License-Identifier: Apache-2.0
/*
 * What was written here goes home: the blocks that were, and the sizes that the
 * file had. Each change names the file as it is there by then, so one that
 * somebody else has changed is left alone.
 *
 * An answer may be lost with the connection, and then nobody here knows what the file is at home ("doubt").
 * Before anything else LF_RESUME resolves it: the source finds its mark on the file, or, if the answer to a
 * settle was lost, the time that we gave it, and says what it is by now. That changes nothing, so it can be asked as
 * often as it takes.
 */
#define LOG_MODULE "lazyfs"
#include "base/io.h"
#include "base/log.h"
#include "lazyfs/content_priv.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <string.h>

enum { ZEROS_MOST = 1 << 30 };

/* One attempt. Its members are the sender's alone: the content's own may change meanwhile. */
struct sending {
	struct content *c;
	const struct patience *p;
	const char *path;
	struct lf_ident id; /* the file at home, as far as answers have come */
	uint64_t size, low;
	int64_t mtime_ns;
	bool doubt;
	uint8_t *buf; /* LF_READ_MAX */
};

/* ---- requests; without the lock, but with c->sending ---- */

static uint64_t connects(const struct sending *s)
{
	struct remote_state state;

	remote_get_state(s->c->env->remote, &state);
	return state.connects;
}

static int ask_once(struct sending *s, struct lf_request *q)
{
	struct lf_attr now;
	int error;

	q->want = s->id;
	q->path = s->path;
	q->other = "";
	error = remote_ask(s->c->env->remote, q, s->p, remote_take_attr, &now);
	if (!error)
		s->id = now.id;
	else if (error != ESTALE)
		s->doubt = true; /* it may have been done all the same */
	return error;
}

static int resolve(struct sending *s)
{
	struct lf_request q = {.type = LF_SETTLE, .flags = LF_RESUME, .time_ns = s->c->settling_ns};
	int error = ask_once(s, &q);

	if (!error)
		s->doubt = false;
	return error;
}

/*
 * A question that was asked again over a new connection may have been answered over the old one, or be answered
 * there at the same time: what has changed may be our own work as long as no look at it has come over the present one.
 */
static int ask(struct sending *s, struct lf_request *q)
{
	for (;;) {
		int error = ask_once(s, q);
		uint64_t now = connects(s);

		if (error != ESTALE || now == s->c->resolved_at)
			return error;
		s->c->resolved_at = now;
		error = resolve(s);
		if (error)
			return error;
	}
}

static int resize(struct sending *s, uint64_t size)
{
	struct lf_request q = {.type = LF_RESIZE, .offset = size};

	return ask(s, &q);
}

static int settle(struct sending *s, bool durable)
{
	struct lf_request q = {.type = LF_SETTLE,
			       .flags = durable ? LF_DURABLE : 0,
			       .time_ns = s->mtime_ns};

	s->c->settling_ns = s->mtime_ns ? s->mtime_ns : 1;
	return ask(s, &q);
}

/* ---- contents ---- */

static int send_zeros(struct sending *s, uint64_t at, uint64_t bytes)
{
	struct lf_request q = {.type = LF_WRITE, .offset = at, .bytes = (uint32_t)bytes};

	return ask(s, &q);
}

/* *sent_out is 0 when the cache file has become shorter: then there is nothing to send. */
static int send_data(struct sending *s, uint64_t at, uint64_t bytes, uint64_t *sent_out)
{
	struct lf_request q = {.type = LF_WRITE, .offset = at, .data = s->buf};
	ssize_t n = pread(s->c->fd, s->buf, MIN(bytes, (uint64_t)LF_READ_MAX), (off_t)at);

	if (n < 0)
		return errno;
	*sent_out = (uint64_t)n;
	q.bytes = q.data_bytes = (uint32_t)n;
	return n ? ask(s, &q) : 0;
}

/* Data and holes of the cache file. */
static int send_range(struct sending *s, uint64_t at, uint64_t end)
{
	uint64_t n = 1;
	int error = 0;

	while (at < end && n && !error) {
		off_t data = lseek(s->c->fd, (off_t)at, SEEK_DATA), hole;

		if (data < 0 && errno != ENXIO)
			return errno;
		if (data < 0 || (uint64_t)data > at) {
			n = MIN(data < 0 ? end : MIN((uint64_t)data, end), at + ZEROS_MOST) - at;
			error = send_zeros(s, at, n);
		} else {
			hole = lseek(s->c->fd, data, SEEK_HOLE);
			error = send_data(s, at, MIN(hole < 0 ? end : (uint64_t)hole, end) - at, &n);
		}
		at += n;
	}
	return error;
}

static int send_blocks(struct sending *s)
{
	uint64_t end = (s->size + BLOCK_BYTES - 1) / BLOCK_BYTES, block = 0;
	int error = 0;

	while (!error && (block = blocks_next(&s->c->going, block, end, true)) < end) {
		uint64_t stop = blocks_next(&s->c->going, block, end, false);

		error = send_range(s, block * BLOCK_BYTES, MIN(stop * BLOCK_BYTES, s->size));
		block = stop;
	}
	return error;
}

/* First what was cut off: what is behind a cut and not written since is zero. */
static int send_all(struct sending *s, bool durable)
{
	int error = s->doubt ? resolve(s) : 0;

	if (!error)
		s->c->settling_ns = 0;
	if (!error && s->low < s->id.size)
		error = resize(s, s->low);
	if (!error)
		error = send_blocks(s);
	if (!error && s->id.size != s->size)
		error = resize(s, s->size);
	return error ? error : settle(s, durable);
}

/* ---- around it; with the lock ---- */

static int await_turn(struct content *c, const struct patience *p)
{
	int error = 0;

	while (c->sending && !error) {
		wait_step(&c->cond, &c->lock, PATIENCE_STEP_MS);
		if (c->sending)
			error = patience_check(p, c->env->remote);
	}
	return error;
}

static void begin(struct content *c, const struct patience *p, struct sending *s)
{
	*s = (struct sending){.c = c, .p = p, .path = c->path, .id = c->id, .doubt = c->doubt};
	c->sending = true;
}

static void end(struct content *c, const struct sending *s)
{
	c->id = s->id;
	c->doubt = s->doubt;
	c->sending = false;
	pthread_cond_broadcast(&c->cond);
}

static void conflict(struct content *c)
{
	if (!c->stale)
		log_warn("%s: was changed at the source: what was written here stays here", c->path);
	content_stale(c);
}

/* What was written since the last time joins what could not be sent then. */
static int take_dirty(struct content *c)
{
	uint64_t end = (c->size + BLOCK_BYTES - 1) / BLOCK_BYTES, block = 0;

	while (c->going.n_set && (block = blocks_next(&c->dirty, block, end, true)) < end) {
		uint64_t stop = blocks_next(&c->dirty, block, end, false);

		if (!blocks_set(&c->going, block, stop))
			return ENOMEM;
		block = stop;
	}
	if (!c->going.n_set) {
		blocks_free(&c->going);
		c->going = c->dirty;
		c->dirty = (struct blocks){0};
	}
	blocks_free(&c->dirty);
	return 0;
}

/* In a doubt; the lock is not held meanwhile. */
static int resolve_now(struct content *c, const struct patience *p)
{
	struct sending s;
	int error;

	begin(c, p, &s);
	pthread_mutex_unlock(&c->lock);
	error = resolve(&s);
	pthread_mutex_lock(&c->lock);
	if (error == ESTALE)
		conflict(c);
	end(c, &s);
	return error;
}

int content_await_home(struct content *c, const struct patience *p)
{
	int error = await_turn(c, p);

	return !error && c->doubt && c->path ? resolve_now(c, p) : error;
}

/* With the lock, which is not held while it is sent. */
static int send_locked(struct content *c, int64_t mtime_ns, bool durable, const struct patience *p)
{
	struct sending s;
	int error = take_dirty(c);

	if (error)
		return error;
	begin(c, p, &s);
	s.size = c->size;
	s.low = c->low;
	s.mtime_ns = mtime_ns;
	c->low = c->size;
	pthread_mutex_unlock(&c->lock);
	s.buf = malloc(LF_READ_MAX);
	error = s.buf ? send_all(&s, durable) : ENOMEM;
	free(s.buf);
	pthread_mutex_lock(&c->lock);
	if (error == ESTALE)
		conflict(c);
	end(c, &s);
	if (error) {
		c->low = MIN(c->low, s.low);
		return error;
	}
	blocks_free(&c->going);
	c->loose = !durable;
	c->modified = c->dirty.n_set || c->size != s.size || c->low < s.size;
	return 0;
}

int content_send(struct content *c, int64_t mtime_ns, bool durable, const struct patience *p,
		 struct lf_ident *id_out)
{
	int error;

	pthread_mutex_lock(&c->lock);
	error = await_turn(c, p);
	if (!error && c->path && (c->modified || (durable && c->loose))) {
		error = content_pin_locked(c);
		if (!error) {
			error = send_locked(c, mtime_ns, durable, p);
			content_unpin_locked(c);
		}
	}
	*id_out = c->id;
	pthread_mutex_unlock(&c->lock);
	return error;
}

/* ---- names ---- */

int content_lock_home(struct content *c, const struct patience *p, struct lf_ident *id_out)
{
	int error;

	pthread_mutex_lock(&c->lock);
	error = content_await_home(c, p);
	if (!error) {
		c->sending = true;
		*id_out = c->id;
	}
	pthread_mutex_unlock(&c->lock);
	return error;
}

void content_unlock_home(struct content *c, const char *path, const struct lf_ident *id)
{
	pthread_mutex_lock(&c->lock);
	if (id) {
		char *copy = path ? strdup(path) : NULL;

		/* without memory for the new path it has none: nothing is asked for at a wrong one */
		free(c->path);
		c->path = copy;
		c->id = *id;
		c->doubt = false;
	}
	c->sending = false;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->lock);
}
