// SPDX-License-Identifier: Apache-2.0
/*
 * From a stream into a spool. Everything is checked before anybody sees it, so
 * that a reader who builds while the stream still comes builds from what is sound so far;
 * that it is all there shows only at the end.
 */
#include "store/stream.h"

#include <errno.h>
#include <string.h>

/*
 * Data of a block from this size on is kept in the buffer that it was read into, which it nearly fills: what is held is
 * counted by its data. The rest is copied, which costs no more, since the buffer's memory is not fresh then.
 */
enum { KEEP_BYTES = BLOCK_DATA_MAX / 16 * 15 };

/* How often it is asked, while there is no room, whether the writer is still there. */
enum { LOOK_MS = 200 };

/* An image whose pieces are still coming. */
struct partial {
	char name[BLOCK_NAME_MAX + 1];
	uint8_t *data;
	uint64_t have, bytes;
	bool open;
};

static int check_name(const struct block *b, struct err *err)
{
	_Static_assert(BLOCK_NAME_MAX == STORE_NAME_MAX_BYTES, "both are names of images");
	return store_name_valid(b->name, err);
}

static void drop_partial(struct shot *shot, struct partial *p)
{
	if (p->open)
		shot_release(shot, p->bytes);
	free(p->data);
	*p = (struct partial){0};
}

/* The last piece has come. */
static int finish_image(struct shot *shot, struct partial *p, struct err *err)
{
	struct block whole = {.type = BLOCK_OBJECT, .data = p->data, .n_data = p->bytes};

	strcpy(whole.name, p->name);
	p->open = false;
	return shot_add(shot, &whole, steal_ptr(&p->data), err);
}

/* Memory grows with what has come, not with what was announced. */
static int add_piece(struct shot *shot, struct partial *p, const struct block *b, struct err *err)
{
	uint8_t *more;

	if (!p->open)
		return err_set(err, EPROTO, "the stream: a piece of an image that has not begun");
	if (b->n_data > p->bytes - p->have || (!b->n_data && p->bytes))
		return err_set(err, EPROTO, "the stream: %s: %zu bytes where %llu are left",
			       p->name, b->n_data, (unsigned long long)(p->bytes - p->have));
	more = realloc(p->data, p->have + b->n_data + 1);
	if (!more)
		return err_nomem(err);
	p->data = more;
	if (b->n_data)
		memcpy(p->data + p->have, b->data, b->n_data);
	p->have += b->n_data;
	return p->have == p->bytes ? finish_image(shot, p, err) : 0;
}

/* While we wait for room nobody reads the connection, and so nobody would come to its end. */
static int reserve(struct stream *st, struct shot *shot, size_t bytes, struct err *err)
{
	int rc;

	if (!st->writer_gone)
		return shot_reserve(shot, bytes, -1, err) ? -1 : 0;
	do {
		rc = shot_reserve(shot, bytes, LOOK_MS, err);
	} while (rc > 0 && st->writer_gone(st->writer, err) == 0);
	return rc ? -1 : 0;
}

static int begin_image(struct stream *st, struct shot *shot, struct partial *p,
		       const struct block *b, struct err *err)
{
	if (check_name(b, err))
		return -1;
	if (b->bytes > STORE_OBJECT_MAX_BYTES)
		return err_set(err, EFBIG, "%s: %llu bytes are more than an image may have (%lu)",
			       b->name, (unsigned long long)b->bytes, STORE_OBJECT_MAX_BYTES);
	if (reserve(st, shot, b->bytes, err))
		return -1;
	*p = (struct partial){.bytes = b->bytes, .open = true};
	strcpy(p->name, b->name);
	return add_piece(shot, p, b, err);
}

/* Memory for the data of a block: the buffer itself, or some of its size. NULL: there is none. */
static uint8_t *keep_data(struct stream *st, struct block *b)
{
	uint8_t *buf;

	if (b->n_data >= KEEP_BYTES)
		return stream_steal(st);
	buf = malloc(b->n_data);
	if (buf)
		memcpy(buf, b->data, b->n_data);
	b->data = buf;
	return buf;
}

static int add_pages(struct stream *st, struct shot *shot, struct block *b, struct err *err)
{
	uint8_t *buf = NULL;

	if (reserve(st, shot, b->n_data, err))
		return -1;
	if (b->n_data) {
		buf = keep_data(st, b);
		if (!buf) {
			shot_release(shot, b->n_data);
			return err_nomem(err);
		}
	}
	return shot_add(shot, b, buf, err);
}

static int end_shot(struct shot *shot, const struct block *b, struct err *err)
{
	uint64_t have = shot_bytes(shot);

	if (have != b->bytes)
		return err_set(err, EBADMSG, "the stream: %llu bytes came, but %llu were written",
			       (unsigned long long)have, (unsigned long long)b->bytes);
	return 1;
}

/* Each relay on the way passes it on: it is said once. */
static int hear_failure(const struct block *b, struct err *err)
{
	stream_failure(b, err);
	if (err->no == STREAM_PASSED_ON)
		return -1;
	err->no = STREAM_PASSED_ON;
	return err_wrap(err, "the dump failed");
}

/* 1: that was all. */
static int take_block(struct stream *st, struct shot *shot, struct partial *p, struct block *b,
		      struct err *err)
{
	if (p->open && b->type != BLOCK_MORE && b->type != BLOCK_FAIL)
		return err_set(err, EPROTO, "the stream: %s: a piece of it is missing", p->name);
	switch (b->type) {
	case BLOCK_OBJECT:
		return begin_image(st, shot, p, b, err);
	case BLOCK_MORE:
		return add_piece(shot, p, b, err);
	case BLOCK_PAGES:
	case BLOCK_ZEROS:
	case BLOCK_PAGES_END:
		return add_pages(st, shot, b, err);
	case BLOCK_PARENT:
	case BLOCK_SKIP:
		return check_name(b, err) ? -1 : shot_add(shot, b, NULL, err);
	case BLOCK_COMPLETE:
		return end_shot(shot, b, err);
	case BLOCK_FAIL:
		return hear_failure(b, err);
	default:
		return err_set(err, EPROTO, "the stream: a block of type %d among the images",
			       b->type);
	}
}

int stream_receive_shot(struct stream *st, struct shot *shot, struct err *err)
{
	struct partial p = {0};
	struct block b;
	int rc;

	do {
		rc = stream_receive(st, &b, err);
		if (rc == 0)
			rc = take_block(st, shot, &p, &b, err);
	} while (rc == 0);
	drop_partial(shot, &p);
	if (rc < 0) {
		shot_fail(shot, err);
		return -1;
	}
	shot_complete(shot);
	return 0;
}
