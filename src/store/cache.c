// SPDX-License-Identifier: Apache-2.0
// A store whose images are in a relay: every get is a question over a socket. Nothing is kept here.
#include "store/relay.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

/* A connection, for the snapshot and all that it builds on. */
struct line {
	struct stream *st;
	pthread_mutex_t lock; /* one question at a time */
	uint32_t level;       /* whom the relay is asked about now */
};

struct cache_store {
	struct store store;
	struct line *line;
	uint32_t level;
	struct cache_store *parent; /* opened by the first question */
};

enum { LEVELS_MAX = 1000 };

static struct cache_store *to_cache(struct store *s)
{
	return (struct cache_store *)s;
}

/* The questions that follow are about this level. 1: there is none. The lock is held. */
static int turn_to(struct line *line, uint32_t level, struct err *err)
{
	struct block ask = {.type = BLOCK_LEVEL, .id = level}, answer;

	if (line->level == level)
		return 0;
	if (stream_send(line->st, &ask, err) || stream_receive(line->st, &answer, err))
		return -1;
	if (answer.type == BLOCK_SKIP)
		return 1;
	if (answer.type == BLOCK_FAIL)
		return stream_failure(&answer, err);
	if (answer.type != BLOCK_COMPLETE)
		return err_set(err, EPROTO, "the relay answers with a block of type %d", answer.type);
	line->level = level;
	return 0;
}

/* The connection, for a question; hang_up when it is answered. NULL: an error, and there is nothing to hang up. */
static struct stream *call(struct store *s, struct err *err)
{
	struct cache_store *c = to_cache(s);
	int rc;

	pthread_mutex_lock(&c->line->lock);
	rc = turn_to(c->line, c->level, err);
	if (rc == 0)
		return c->line->st;
	pthread_mutex_unlock(&c->line->lock);
	if (rc > 0)
		err_set(err, EPROTO, "the relay has lost a snapshot on which others build");
	return NULL;
}

static void hang_up(struct store *s)
{
	pthread_mutex_unlock(&to_cache(s)->line->lock);
}

/* The pieces of an image behind its first one. */
static int receive_rest(struct stream *st, const struct block *first, void **data_out,
			size_t *bytes_out, struct err *err)
{
	size_t have = first->n_data, bytes = first->bytes;
	cleanup_free uint8_t *data = NULL;
	struct block b;

	if (bytes > STORE_OBJECT_MAX_BYTES || have > bytes)
		return err_set(err, EPROTO, "an image of %zu bytes begins with %zu", bytes, have);
	data = malloc(bytes ? bytes : 1);
	if (!data)
		return err_nomem(err);
	if (have)
		memcpy(data, first->data, have);
	while (have < bytes) {
		if (stream_expect(st, BLOCK_MORE, &b, err))
			return -1;
		if (!b.n_data || b.n_data > bytes - have)
			return err_set(err, EPROTO, "a piece of %zu bytes where %zu are left",
				       b.n_data, bytes - have);
		memcpy(data + have, b.data, b.n_data);
		have += b.n_data;
	}
	*data_out = steal_ptr(&data);
	*bytes_out = bytes;
	return 0;
}

static int ask_image(struct stream *st, const char *object, void **data_out, size_t *bytes_out,
		     struct err *err)
{
	struct block ask = {.type = BLOCK_GET}, answer;

	snprintf(ask.name, sizeof(ask.name), "%s", object);
	if (stream_send(st, &ask, err) || stream_receive(st, &answer, err))
		return -1;
	st->awaited[0] = '\0';
	switch (answer.type) {
	case BLOCK_OBJECT:
		return receive_rest(st, &answer, data_out, bytes_out, err);
	case BLOCK_SKIP:
		return 1;
	case BLOCK_FAIL:
		return stream_failure(&answer, err);
	default:
		return err_set(err, EPROTO, "the relay answers with a block of type %d", answer.type);
	}
}

static int cache_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		     struct err *err)
{
	struct stream *st = call(s, err);
	int rc;

	if (!st)
		return -1;
	rc = ask_image(st, object, data_out, bytes_out, err);
	hang_up(s);
	return rc < 0 ? err_wrap(err, "%s", object) : rc;
}

/* One block of an answer with pages. Returns how many bytes it has, or -1. */
static ssize_t take_pages(const struct block *b, uint32_t id, uint64_t off, uint8_t *buf,
			  size_t left, struct err *err)
{
	size_t n = b->type == BLOCK_ZEROS ? b->bytes : b->n_data;

	if (b->type == BLOCK_FAIL)
		return stream_failure(b, err);
	if ((b->type != BLOCK_PAGES && b->type != BLOCK_ZEROS) || b->id != id || b->off != off ||
	    !n || n > left)
		return err_set(err, EPROTO, "the relay does not answer what it was asked");
	if (b->type == BLOCK_ZEROS)
		memset(buf, 0, n);
	else
		memcpy(buf, b->data, n);
	return (ssize_t)n;
}

static int take_answer(struct stream *st, uint32_t id, uint64_t off, uint8_t *buf, size_t bytes,
		       struct err *err)
{
	struct block answer;
	ssize_t n;

	for (; bytes; off += (uint64_t)n, buf += n, bytes -= (size_t)n) {
		if (stream_receive(st, &answer, err))
			return -1;
		n = take_pages(&answer, id, off, buf, bytes, err);
		if (n < 0)
			return -1;
	}
	return 0;
}

static int ask_pages(struct stream *st, uint32_t id, uint64_t off, uint8_t *buf, size_t bytes,
		     struct err *err)
{
	struct block ask = {.type = BLOCK_GET_PAGES, .id = id, .off = off, .bytes = bytes};

	return stream_send(st, &ask, err) || take_answer(st, id, off, buf, bytes, err) ? -1 : 0;
}

static int cache_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf,
			   size_t bytes, struct err *err)
{
	uint8_t *p = buf;
	struct stream *st;
	size_t n;
	int rc = 0;

	for (; bytes && rc == 0; off += n, p += n, bytes -= n) {
		n = MIN(bytes, (size_t)BLOCK_DATA_MAX);
		st = call(s, err);
		if (!st)
			return -1;
		rc = ask_pages(st, pages_id, off, p, n, err);
		hang_up(s);
	}
	return rc;
}

/* The relay says how many there are, and sends them. */
static int ask_more(struct stream *st, uint32_t id, uint64_t off, uint8_t *buf, size_t bytes,
		    size_t *bytes_out, struct err *err)
{
	struct block ask = {.type = BLOCK_READ_PAGES, .id = id, .off = off, .bytes = bytes}, answer;

	if (stream_send(st, &ask, err) || stream_receive(st, &answer, err))
		return -1;
	if (answer.type == BLOCK_SKIP)
		return 1;
	if (answer.type == BLOCK_FAIL)
		return stream_failure(&answer, err);
	if (answer.type != BLOCK_COMPLETE || answer.bytes > bytes)
		return err_set(err, EPROTO, "the relay does not answer what it was asked");
	*bytes_out = answer.bytes;
	return take_answer(st, id, off, buf, answer.bytes, err);
}

static int cache_read_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf,
			    size_t bytes, size_t *bytes_out, struct err *err)
{
	struct stream *st = call(s, err);
	int rc;

	if (!st)
		return -1;
	rc = ask_more(st, pages_id, off, buf, MIN(bytes, (size_t)BLOCK_DATA_MAX), bytes_out, err);
	hang_up(s);
	return rc;
}

static int cache_pages_fd(struct store *s, uint32_t pages_id)
{
	return -1;
}

static int cache_put(struct store *s, const char *object, const void *data, size_t bytes,
		     struct err *err)
{
	return err_set(err, EOPNOTSUPP, "%s: a reader of a relay does not write", object);
}

static int cache_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			   struct err *err)
{
	return err_set(err, EOPNOTSUPP, "pages-%u.img: a reader of a relay does not write", pages_id);
}

static int cache_complete(struct store *s, struct err *err)
{
	return err_set(err, EOPNOTSUPP, "a reader of a relay does not write");
}

static int cache_arrived(struct store *s, struct err *err)
{
	struct block ask = {.type = BLOCK_WAIT}, answer;
	struct stream *st = call(s, err);
	int rc;

	if (!st)
		return -1;
	rc = stream_send(st, &ask, err) || stream_expect(st, BLOCK_COMPLETE, &answer, err);
	hang_up(s);
	return rc ? -1 : 0;
}

static void cache_close(struct store *s)
{
	struct cache_store *c = to_cache(s);

	if (c->parent)
		cache_close(&c->parent->store);
	if (!c->level) {
		pthread_mutex_destroy(&c->line->lock);
		free(c->line);
	}
	free(c);
}

static struct cache_store *new_store(struct line *line, uint32_t level, struct err *err);

static int cache_parent(struct store *s, struct store **parent_out, struct err *err)
{
	struct cache_store *c = to_cache(s);
	int rc = 0;

	if (!c->parent && c->level == LEVELS_MAX)
		return err_set(err, ELOOP, "more than %d snapshots build on each other", LEVELS_MAX);
	pthread_mutex_lock(&c->line->lock);
	if (!c->parent)
		rc = turn_to(c->line, c->level + 1, err);
	if (!c->parent && rc == 0) {
		c->parent = new_store(c->line, c->level + 1, err);
		rc = c->parent ? 0 : -1;
	}
	pthread_mutex_unlock(&c->line->lock);
	if (rc == 0)
		*parent_out = &c->parent->store;
	return rc < 0 ? -1 : 0;
}

static const struct store_ops cache_ops = {
	.name = "cache",
	.put = cache_put,
	.get = cache_get,
	.put_pages = cache_put_pages,
	.get_pages = cache_get_pages,
	.read_pages = cache_read_pages,
	.pages_fd = cache_pages_fd,
	.complete = cache_complete,
	.arrived = cache_arrived,
	.parent = cache_parent,
	.close = cache_close,
};

static struct cache_store *new_store(struct line *line, uint32_t level, struct err *err)
{
	struct cache_store *c = calloc(1, sizeof(*c));

	if (!c) {
		err_nomem(err);
		return NULL;
	}
	c->store.ops = &cache_ops;
	c->store.streams = true;
	c->line = line;
	c->level = level;
	return c;
}

struct store *cache_store_open(struct stream *st, const char *name, struct err *err)
{
	struct block b = {.type = BLOCK_OPEN};
	struct cache_store *c;
	struct line *line;

	snprintf(b.name, sizeof(b.name), "%s", name);
	if (stream_send(st, &b, err))
		return NULL;
	snprintf(st->awaited, sizeof(st->awaited), "%s", name);
	line = calloc(1, sizeof(*line));
	if (!line) {
		err_nomem(err);
		return NULL;
	}
	line->st = st;
	pthread_mutex_init(&line->lock, NULL);
	c = new_store(line, 0, err);
	if (c)
		return &c->store;
	pthread_mutex_destroy(&line->lock);
	free(line);
	return NULL;
}

int cache_done(struct stream *st, struct err *err)
{
	struct block b = {.type = BLOCK_DONE};

	return stream_send(st, &b, err) || stream_expect(st, BLOCK_COMPLETE, &b, err) ? -1 : 0;
}
