// SPDX-License-Identifier: Apache-2.0
/*
 * A store that breaks: it passes calls on to another one until its moment has
 * come. Once broken it stays broken, like a full disk or a lost connection.
 */
#include "store/store.h"

#include <stdatomic.h>

struct fault_store {
	struct store store;
	struct store *inner;
	unsigned int fail_at;
	int no;
	atomic_uint calls;
};

static struct fault_store *to_fault(struct store *s)
{
	return (struct fault_store *)s;
}

/* Counts a call; -1 if this one fails. */
static int strike(struct store *s, const char *what, struct err *err)
{
	struct fault_store *f = to_fault(s);
	unsigned int call = atomic_fetch_add(&f->calls, 1) + 1;

	if (call < f->fail_at)
		return 0;
	return err_sysno(err, f->no, "injected fault at store call %u (%s)", call, what);
}

static int fault_put(struct store *s, const char *object, const void *data, size_t bytes,
		     struct err *err)
{
	return strike(s, "put", err) ? -1 : store_put(to_fault(s)->inner, object, data, bytes, err);
}

static int fault_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		     struct err *err)
{
	return strike(s, "get", err) ?
		       -1 :
		       store_get(to_fault(s)->inner, object, data_out, bytes_out, err);
}

static int fault_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			   struct err *err)
{
	return strike(s, "put_pages", err) ?
		       -1 :
		       store_put_pages(to_fault(s)->inner, pages_id, data, bytes, err);
}

static int fault_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf,
			   size_t bytes, struct err *err)
{
	return strike(s, "get_pages", err) ?
		       -1 :
		       store_get_pages(to_fault(s)->inner, pages_id, off, buf, bytes, err);
}

static int fault_read_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf,
			    size_t bytes, size_t *bytes_out, struct err *err)
{
	return strike(s, "read_pages", err) ? -1 :
					      store_read_pages(to_fault(s)->inner, pages_id, off,
							       buf, bytes, bytes_out, err);
}

/* It cannot report a fault, so everything goes through get_pages, which can. */
static int fault_pages_fd(struct store *s, uint32_t pages_id)
{
	return -1;
}

static int fault_skip(struct store *s, const char *object, struct err *err)
{
	return strike(s, "skip", err) ? -1 : store_skip(to_fault(s)->inner, object, err);
}

static int fault_complete(struct store *s, struct err *err)
{
	return strike(s, "complete", err) ? -1 : store_complete(to_fault(s)->inner, err);
}

static int fault_arrived(struct store *s, struct err *err)
{
	return strike(s, "arrived", err) ? -1 : store_arrived(to_fault(s)->inner, err);
}

static int fault_parent(struct store *s, struct store **parent_out, struct err *err)
{
	return strike(s, "parent", err) ? -1 : store_parent(to_fault(s)->inner, parent_out, err);
}

static int fault_set_parent(struct store *s, const char *target, struct err *err)
{
	return strike(s, "set_parent", err) ? -1 : store_set_parent(to_fault(s)->inner, target, err);
}

static void fault_close(struct store *s)
{
	store_close(to_fault(s)->inner);
	free(s);
}

static const struct store_ops fault_ops = {
	.name = "fault",
	.put = fault_put,
	.get = fault_get,
	.put_pages = fault_put_pages,
	.get_pages = fault_get_pages,
	.read_pages = fault_read_pages,
	.pages_fd = fault_pages_fd,
	.skip = fault_skip,
	.complete = fault_complete,
	.arrived = fault_arrived,
	.parent = fault_parent,
	.set_parent = fault_set_parent,
	.close = fault_close,
};

struct store *store_fault_open(struct store *inner, unsigned int fail_at, int no, struct err *err)
{
	struct fault_store *f = calloc(1, sizeof(*f));

	if (!f) {
		store_close(inner);
		err_nomem(err);
		return NULL;
	}
	f->store.ops = &fault_ops;
	f->store.streams = store_streams(inner);
	f->inner = inner;
	f->fail_at = fail_at;
	f->no = no;
	return &f->store;
}
