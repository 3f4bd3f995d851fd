// SPDX-License-Identifier: Apache-2.0
// A snapshot of a spool behind the interface of a store.
#include "store/spool.h"

#include <errno.h>
#include <string.h>

struct spool_store {
	struct store store;
	struct shot *shot;
	bool writer;
};

static struct shot *shot_of(struct store *s)
{
	return ((struct spool_store *)s)->shot;
}

/* Adds a block with a copy of its data. */
static int add(struct store *s, struct block *b, struct err *err)
{
	uint8_t *copy;

	if (shot_reserve(shot_of(s), b->n_data, -1, err))
		return -1;
	copy = malloc(b->n_data ? b->n_data : 1);
	if (!copy) {
		shot_release(shot_of(s), b->n_data);
		return err_nomem(err);
	}
	if (b->n_data)
		memcpy(copy, b->data, b->n_data);
	b->data = copy;
	return shot_add(shot_of(s), b, copy, err);
}

static int spool_put(struct store *s, const char *object, const void *data, size_t bytes,
		     struct err *err)
{
	struct block b = {.type = BLOCK_OBJECT, .data = data, .n_data = bytes};

	snprintf(b.name, sizeof(b.name), "%s", object);
	return add(s, &b, err);
}

static int spool_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			   struct err *err)
{
	struct block b = {.type = bytes ? BLOCK_PAGES : BLOCK_PAGES_END, .id = pages_id, .data = data};

	b.off = shot_pages_bytes(shot_of(s), pages_id);
	do {
		b.n_data = MIN(bytes, (size_t)BLOCK_DATA_MAX);
		b.data = data;
		if (add(s, &b, err))
			return -1;
		b.off += b.n_data;
		bytes -= b.n_data;
		if (b.n_data) /* no bytes may come with no address */
			data = (const uint8_t *)data + b.n_data;
	} while (bytes);
	return 0;
}

static int spool_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		     struct err *err)
{
	return shot_get(shot_of(s), NULL, object, data_out, bytes_out, err);
}

static int spool_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf,
			   size_t bytes, struct err *err)
{
	return shot_get_pages(shot_of(s), NULL, pages_id, off, buf, bytes, err);
}

static int spool_read_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf,
			    size_t bytes, size_t *bytes_out, struct err *err)
{
	return shot_read_pages(shot_of(s), NULL, pages_id, off, buf, bytes, bytes_out, err);
}

static int spool_pages_fd(struct store *s, uint32_t pages_id)
{
	return -1;
}

static int spool_skip(struct store *s, const char *object, struct err *err)
{
	struct block b = {.type = BLOCK_SKIP};

	snprintf(b.name, sizeof(b.name), "%s", object);
	return add(s, &b, err);
}

static int spool_complete(struct store *s, struct err *err)
{
	shot_complete(shot_of(s));
	return 0;
}

static int spool_arrived(struct store *s, struct err *err)
{
	return shot_wait(shot_of(s), NULL, err);
}

static void spool_close(struct store *s)
{
	struct spool_store *st = (struct spool_store *)s;

	if (st->writer)
		shot_close_writer(st->shot);
	else
		shot_close_reader(st->shot);
	free(st);
}

static const struct store_ops spool_ops = {
	.name = "spool",
	.put = spool_put,
	.get = spool_get,
	.put_pages = spool_put_pages,
	.get_pages = spool_get_pages,
	.read_pages = spool_read_pages,
	.pages_fd = spool_pages_fd,
	.skip = spool_skip,
	.complete = spool_complete,
	.arrived = spool_arrived,
	.close = spool_close,
};

struct store *spool_store_open(struct shot *shot, bool writer, struct err *err)
{
	struct spool_store *st = calloc(1, sizeof(*st));

	if (!st) {
		if (writer)
			shot_close_writer(shot);
		else
			shot_close_reader(shot);
		err_nomem(err);
		return NULL;
	}
	st->store.ops = &spool_ops;
	st->store.streams = true;
	st->shot = shot;
	st->writer = writer;
	return &st->store;
}
