// SPDX-License-Identifier: Apache-2.0
/*
 * The ops of a store behind checked arguments: names and sizes come from the
 * other side of a connection too.
 */
#include "store/store.h"

#include <errno.h>
#include <string.h>

int store_name_valid(const char *object, struct err *err)
{
	size_t len = strnlen(object, STORE_NAME_MAX_BYTES + 1);

	if (len == 0 || len > STORE_NAME_MAX_BYTES || strchr(object, '/') || object[0] == '.')
		return err_set(err, EINVAL, "'%.*s' cannot be the name of an image",
			       STORE_NAME_MAX_BYTES, object);
	return 0;
}

int store_put(struct store *s, const char *object, const void *data, size_t bytes, struct err *err)
{
	if (store_name_valid(object, err))
		return -1;
	if (bytes > STORE_OBJECT_MAX_BYTES)
		return err_set(err, EFBIG, "%s: %zu bytes are more than an image may have (%lu)",
			       object, bytes, STORE_OBJECT_MAX_BYTES);
	return s->ops->put(s, object, data, bytes, err);
}

int store_get(struct store *s, const char *object, void **data_out, size_t *bytes_out, struct err *err)
{
	*data_out = NULL;
	*bytes_out = 0;
	return store_name_valid(object, err) ? -1 : s->ops->get(s, object, data_out, bytes_out, err);
}

int store_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
		    struct err *err)
{
	return s->ops->put_pages(s, pages_id, data, bytes, err);
}

int store_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
		    struct err *err)
{
	if (off > INT64_MAX || bytes > INT64_MAX - off)
		return err_set(err, EINVAL, "pages-%u.img: offset %llu is out of range", pages_id,
			       (unsigned long long)off);
	return s->ops->get_pages(s, pages_id, off, buf, bytes, err);
}

int store_read_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
		     size_t *bytes_out, struct err *err)
{
	*bytes_out = 0;
	if (!s->ops->read_pages)
		return err_set(err, ENOTSUP, "a %s store does not say how many pages it has",
			       s->ops->name);
	if (off > INT64_MAX || bytes > INT64_MAX - off)
		return err_set(err, EINVAL, "pages-%u.img: offset %llu is out of range", pages_id,
			       (unsigned long long)off);
	return s->ops->read_pages(s, pages_id, off, buf, bytes, bytes_out, err);
}

int store_pages_fd(struct store *s, uint32_t pages_id)
{
	return s->ops->pages_fd(s, pages_id);
}

int store_skip(struct store *s, const char *object, struct err *err)
{
	if (store_name_valid(object, err))
		return -1;
	return s->ops->skip ? s->ops->skip(s, object, err) : 0;
}

int store_complete(struct store *s, struct err *err)
{
	return s->ops->complete(s, err);
}

int store_arrived(struct store *s, struct err *err)
{
	return s->ops->arrived ? s->ops->arrived(s, err) : 0;
}

bool store_streams(const struct store *s)
{
	return s->streams;
}

int store_parent(struct store *s, struct store **parent_out, struct err *err)
{
	*parent_out = NULL;
	return s->ops->parent ? s->ops->parent(s, parent_out, err) : 0;
}

int store_set_parent(struct store *s, const char *target, struct err *err)
{
	if (!s->ops->set_parent)
		return err_set(err, ENOTSUP, "a %s store has no parent", s->ops->name);
	return s->ops->set_parent(s, target, err);
}

int store_punch_pages(struct store *s, uint32_t pages_id, uint64_t off, uint64_t bytes,
		      struct err *err)
{
	if (!s->ops->punch_pages)
		return err_set(err, ENOTSUP, "a %s store keeps all pages", s->ops->name);
	return s->ops->punch_pages(s, pages_id, off, bytes, err);
}

void store_close(struct store *s)
{
	if (s)
		s->ops->close(s);
}
