// SPDX-License-Identifier: Apache-2.0
// A store whose images are in a relay: every get is a question over a socket. Nothing is kept here.
#include "store/relay.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct cache_store {
	struct store store;
	struct stream *st;
	pthread_mutex_t lock; /* one question at a time */
};

static struct cache_store *to_cache(struct store *s)
{
	return (struct cache_store *)s;
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
	int rc;

	pthread_mutex_lock(&to_cache(s)->lock);
	rc = ask_image(to_cache(s)->st, object, data_out, bytes_out, err);
	pthread_mutex_unlock(&to_cache(s)->lock);
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
	size_t n;
	int rc = 0;

	for (; bytes && rc == 0; off += n, p += n, bytes -= n) {
		n = MIN(bytes, (size_t)BLOCK_DATA_MAX);
		pthread_mutex_lock(&to_cache(s)->lock);
		rc = ask_pages(to_cache(s)->st, pages_id, off, p, n, err);
		pthread_mutex_unlock(&to_cache(s)->lock);
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
	int rc;

	bytes = MIN(bytes, (size_t)BLOCK_DATA_MAX);
	pthread_mutex_lock(&to_cache(s)->lock);
	rc = ask_more(to_cache(s)->st, pages_id, off, buf, bytes, bytes_out, err);
	pthread_mutex_unlock(&to_cache(s)->lock);
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
	int rc;

	pthread_mutex_lock(&to_cache(s)->lock);
	rc = stream_send(to_cache(s)->st, &ask, err) ||
	     stream_expect(to_cache(s)->st, BLOCK_COMPLETE, &answer, err);
	pthread_mutex_unlock(&to_cache(s)->lock);
	return rc ? -1 : 0;
}

static void cache_close(struct store *s)
{
	pthread_mutex_destroy(&to_cache(s)->lock);
	free(s);
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
	.close = cache_close,
};

struct store *cache_store_open(struct stream *st, const char *name, struct err *err)
{
	struct block b = {.type = BLOCK_OPEN};
	struct cache_store *c;

	snprintf(b.name, sizeof(b.name), "%s", name);
	if (stream_send(st, &b, err))
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c) {
		err_nomem(err);
		return NULL;
	}
	c->store.ops = &cache_ops;
	c->store.streams = true;
	c->st = st;
	pthread_mutex_init(&c->lock, NULL);
	return &c->store;
}

int cache_done(struct stream *st, struct err *err)
{
	struct block b = {.type = BLOCK_DONE};

	return stream_send(st, &b, err) || stream_expect(st, BLOCK_COMPLETE, &b, err) ? -1 : 0;
}
