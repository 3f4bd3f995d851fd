// SPDX-License-Identifier: Apache-2.0
#include "migrate/wire_store.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

/* Bytes of one message with pages; larger puts are cut. */
enum { PAGES_CHUNK_BYTES = 1 << 20 };

struct wire_store {
	struct store store;
	struct channel *ch;
};

static struct channel *channel_of(struct store *s)
{
	return ((struct wire_store *)s)->ch;
}

static int wire_put(struct store *s, const char *object, const void *data, size_t bytes,
		    struct err *err)
{
	uint16_t name_bytes = htole16((uint16_t)strlen(object));
	struct iovec pieces[] = {{&name_bytes, sizeof(name_bytes)},
				 {(void *)object, strlen(object)},
				 {(void *)data, bytes}};

	if (channel_send_raw(channel_of(s), MSG_OBJECT, pieces, ARRAY_SIZE(pieces), err) < 0)
		return err_wrap(err, "%s", object);
	return 0;
}

static int wire_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			  struct err *err)
{
	uint32_t id = htole32(pages_id);
	const uint8_t *p = data;

	do {
		size_t chunk = MIN(bytes, (size_t)PAGES_CHUNK_BYTES);
		struct iovec pieces[] = {{&id, sizeof(id)}, {(void *)p, chunk}};

		if (channel_send_raw(channel_of(s), MSG_PAGES, pieces, ARRAY_SIZE(pieces), err) < 0)
			return -1;
		p += chunk;
		bytes -= chunk;
	} while (bytes);
	return 0;
}

static int wire_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		    struct err *err)
{
	return err_set(err, EOPNOTSUPP, "%s: was sent away", object);
}

static int wire_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
			  struct err *err)
{
	return err_set(err, EOPNOTSUPP, "pages-%u.img: was sent away", pages_id);
}

static int wire_pages_fd(struct store *s, uint32_t pages_id)
{
	return -1;
}

static int wire_complete(struct store *s, struct err *err)
{
	return channel_send(channel_of(s), MSG_COMPLETE, NULL, err);
}

static void wire_close(struct store *s)
{
	free(s);
}

static const struct store_ops wire_ops = {
	.name = "wire",
	.put = wire_put,
	.get = wire_get,
	.put_pages = wire_put_pages,
	.get_pages = wire_get_pages,
	.pages_fd = wire_pages_fd,
	.complete = wire_complete,
	.close = wire_close,
};

struct store *wire_store_open(struct channel *ch, struct err *err)
{
	struct wire_store *w = calloc(1, sizeof(*w));

	if (!w) {
		err_nomem(err);
		return NULL;
	}
	w->store.ops = &wire_ops;
	w->ch = ch;
	return &w->store;
}

/* ---- the other side ---- */

static int take_object(const struct frame *f, struct store *into, struct err *err)
{
	char name[STORE_NAME_MAX_BYTES + 1];
	uint16_t name_bytes;

	if (f->bytes < sizeof(name_bytes))
		return err_set(err, EPROTO, "an object without a name");
	memcpy(&name_bytes, f->body, sizeof(name_bytes));
	name_bytes = le16toh(name_bytes);
	if (!name_bytes || name_bytes >= sizeof(name) || name_bytes + sizeof(name_bytes) > f->bytes)
		return err_set(err, EPROTO, "an object with a name of %u bytes", name_bytes);
	memcpy(name, f->body + sizeof(name_bytes), name_bytes);
	name[name_bytes] = '\0';
	return store_put(into, name, f->body + sizeof(name_bytes) + name_bytes,
			 f->bytes - sizeof(name_bytes) - name_bytes, err);
}

static int take_pages(const struct frame *f, struct store *into, struct err *err)
{
	uint32_t id;

	if (f->bytes < sizeof(id))
		return err_set(err, EPROTO, "pages without a number");
	memcpy(&id, f->body, sizeof(id));
	return store_put_pages(into, le32toh(id), f->body + sizeof(id), f->bytes - sizeof(id), err);
}

int wire_store_receive(struct channel *ch, struct store *into, struct err *err)
{
	struct frame f;
	int rc;

	do {
		if (channel_recv(ch, &f, err) < 0)
			return -1;
		switch (f.type) {
		case MSG_OBJECT:
			rc = take_object(&f, into, err);
			break;
		case MSG_PAGES:
			rc = take_pages(&f, into, err);
			break;
		case MSG_COMPLETE:
			rc = store_complete(into, err);
			break;
		default:
			rc = err_set(err, EPROTO, "message %s among the images",
				     msg_info(f.type)->name);
		}
	} while (rc == 0 && f.type != MSG_COMPLETE);
	return rc;
}
