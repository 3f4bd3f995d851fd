// SPDX-License-Identifier: Apache-2.0
/*
 * Images in memory. One lock and one condition: every arrival wakes every
 * reader that waits, and each looks for itself. Pages live in a memfd per id, so
 * that they can be handed on by splice and do not count against the heap.
 *
 * Objects are never removed and their bytes never change once they are in, so
 * a reader copies them without the lock.
 */
#include "store/store.h"

#include "base/io.h"
#include "base/map.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

struct object {
	struct object *next; /* same hash */
	void *data;          /* NULL: will not come */
	size_t bytes;
	char name[];
};

struct mem_pages {
	int fd;
	uint64_t bytes;
	bool ended;
};

struct memory_store {
	struct store store;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t arrived;
	bool complete, failed;
	struct err why;
	struct map objects; /* by hash of the name: struct object */
	struct map pages;   /* by id: struct mem_pages */
	struct store *parent;
};

static struct memory_store *to_memory(struct store *s)
{
	return (struct memory_store *)s;
}

static struct object *find_object(const struct memory_store *m, const char *name)
{
	struct object *o = map_get(&m->objects, map_hash(name));

	while (o && strcmp(o->name, name))
		o = o->next;
	return o;
}

static void free_object(struct object *o)
{
	if (o)
		free(o->data);
	free(o);
}

/* Adds the object and takes it. The lock is held. */
static int add_object(struct memory_store *m, struct object *o, struct err *err)
{
	uint64_t hash = map_hash(o->name);

	if (find_object(m, o->name)) {
		err_set(err, EEXIST, "%s: written twice", o->name);
		free_object(o);
		return -1;
	}
	o->next = map_get(&m->objects, hash);
	if (!map_set(&m->objects, hash, o)) {
		free_object(o);
		return err_nomem(err);
	}
	pthread_cond_broadcast(&m->arrived);
	return 0;
}

/* A new object with a copy of the data, or without any. */
static int new_object(struct memory_store *m, const char *name, const void *data, size_t bytes,
		      bool absent, struct err *err)
{
	struct object *o = calloc(1, sizeof(*o) + strlen(name) + 1);
	int rc;

	if (!o)
		return err_nomem(err);
	strcpy(o->name, name);
	if (!absent) {
		o->data = malloc(bytes ? bytes : 1);
		if (!o->data) {
			free_object(o);
			return err_nomem(err);
		}
		if (bytes)
			memcpy(o->data, data, bytes);
		o->bytes = bytes;
	}
	pthread_mutex_lock(&m->lock);
	rc = add_object(m, o, err);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static int memory_put(struct store *s, const char *object, const void *data, size_t bytes,
		      struct err *err)
{
	return new_object(to_memory(s), object, data, bytes, false, err);
}

static int memory_skip(struct store *s, const char *object, struct err *err)
{
	return new_object(to_memory(s), object, NULL, 0, true, err);
}

static int memory_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		      struct err *err)
{
	struct memory_store *m = to_memory(s);
	struct object *o;
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	while (!(o = find_object(m, object)) && !m->failed && !m->complete)
		pthread_cond_wait(&m->arrived, &m->lock);
	if (!o && m->failed) {
		*err = m->why;
		rc = -1;
	} else if (!o || !o->data) {
		rc = 1;
	}
	pthread_mutex_unlock(&m->lock);
	if (rc)
		return rc;
	*data_out = malloc(o->bytes ? o->bytes : 1);
	if (!*data_out)
		return err_nomem(err);
	memcpy(*data_out, o->data, o->bytes);
	*bytes_out = o->bytes;
	return 0;
}

/* The pages of an id, made if they are new. NULL + err. */
static struct mem_pages *make_pages(struct memory_store *m, uint32_t id, struct err *err)
{
	struct mem_pages *p;

	pthread_mutex_lock(&m->lock);
	p = map_get(&m->pages, id);
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p || !map_set(&m->pages, id, p)) {
			free(p);
			p = NULL;
			err_nomem(err);
		} else {
			p->fd = -1;
		}
	}
	if (p && p->fd < 0) {
		p->fd = memfd_create("ferry-pages", MFD_CLOEXEC);
		if (p->fd < 0) {
			err_sys(err, "pages-%u.img: memfd_create", id);
			p = NULL;
		}
	}
	pthread_mutex_unlock(&m->lock);
	return p;
}

static int memory_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			    struct err *err)
{
	struct memory_store *m = to_memory(s);
	struct mem_pages *p = make_pages(m, pages_id, err);

	if (!p)
		return -1;
	/* Only the one writer of this id changes these; readers look under the lock. */
	if (p->ended)
		return err_set(err, EEXIST, "pages-%u.img: written twice", pages_id);
	if (io_pwrite_full(p->fd, data, bytes, (off_t)p->bytes))
		return err_sys(err, "pages-%u.img: cannot store %zu bytes", pages_id, bytes);
	pthread_mutex_lock(&m->lock);
	p->bytes += bytes;
	p->ended = bytes == 0;
	pthread_cond_broadcast(&m->arrived);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

/* Waits until @bytes of the pages are there, or (UINT64_MAX) all of them. The lock is held. */
static int wait_pages(struct memory_store *m, uint32_t id, uint64_t bytes, struct mem_pages **p_out,
		      struct err *err)
{
	struct mem_pages *p;

	for (;;) {
		p = map_get(&m->pages, id);
		if (p && p->fd >= 0 && p->bytes >= bytes)
			break;
		if (m->failed) {
			*err = m->why;
			return -1;
		}
		if ((p && p->ended) || m->complete)
			break;
		pthread_cond_wait(&m->arrived, &m->lock);
	}
	*p_out = p && p->fd >= 0 ? p : NULL;
	return 0;
}

static int memory_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf,
			    size_t bytes, struct err *err)
{
	struct memory_store *m = to_memory(s);
	struct mem_pages *p;
	uint64_t have;
	int rc;

	pthread_mutex_lock(&m->lock);
	rc = wait_pages(m, pages_id, off + bytes, &p, err);
	have = rc || !p ? 0 : p->bytes;
	pthread_mutex_unlock(&m->lock);
	if (rc)
		return -1;
	if (!p)
		return err_set(err, ENOENT, "pages-%u.img: there is no such image", pages_id);
	if (have < off + bytes)
		return err_set(err, EINVAL,
			       "pages-%u.img: offset %llu: %zu bytes should follow, but the image ends "
			       "at %llu",
			       pages_id, (unsigned long long)off, bytes, (unsigned long long)have);
	if (io_pread_full(p->fd, buf, bytes, (off_t)off))
		return err_sys(err, "pages-%u.img: offset %llu: cannot read %zu bytes", pages_id,
			       (unsigned long long)off, bytes);
	return 0;
}

static int memory_pages_fd(struct store *s, uint32_t pages_id)
{
	struct memory_store *m = to_memory(s);
	struct mem_pages *p = NULL;
	struct err err;
	int rc;

	pthread_mutex_lock(&m->lock);
	rc = wait_pages(m, pages_id, UINT64_MAX, &p, &err);
	pthread_mutex_unlock(&m->lock);
	return rc || !p ? -1 : p->fd;
}

static int memory_complete(struct store *s, struct err *err)
{
	struct memory_store *m = to_memory(s);

	pthread_mutex_lock(&m->lock);
	m->complete = true;
	pthread_cond_broadcast(&m->arrived);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

void store_memory_fail(struct store *s, const struct err *why)
{
	struct memory_store *m = to_memory(s);

	pthread_mutex_lock(&m->lock);
	if (!m->failed && !m->complete) {
		m->failed = true;
		m->why = *why;
	}
	pthread_cond_broadcast(&m->arrived);
	pthread_mutex_unlock(&m->lock);
}

static int memory_parent(struct store *s, struct store **parent_out, struct err *err)
{
	*parent_out = to_memory(s)->parent;
	return 0;
}

void store_memory_set_parent(struct store *s, struct store *parent)
{
	to_memory(s)->parent = parent;
}

static void memory_close(struct store *s)
{
	struct memory_store *m = to_memory(s);
	struct object *o, *next;
	struct mem_pages *p;
	size_t i;

	for (i = 0; i < m->objects.cap; i++) {
		for (o = m->objects.slots[i].value; o; o = next) {
			next = o->next;
			free_object(o);
		}
	}
	for (i = 0; i < m->pages.cap; i++) {
		p = m->pages.slots[i].value;
		if (p && p->fd >= 0)
			close(p->fd);
		free(p);
	}
	map_free(&m->objects);
	map_free(&m->pages);
	store_close(m->parent);
	pthread_cond_destroy(&m->arrived);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static const struct store_ops memory_ops = {
	.name = "memory",
	.put = memory_put,
	.get = memory_get,
	.put_pages = memory_put_pages,
	.get_pages = memory_get_pages,
	.pages_fd = memory_pages_fd,
	.skip = memory_skip,
	.complete = memory_complete,
	.parent = memory_parent,
	.close = memory_close,
};

struct store *store_memory_open(struct err *err)
{
	struct memory_store *m = calloc(1, sizeof(*m));

	if (!m) {
		err_nomem(err);
		return NULL;
	}
	m->store.ops = &memory_ops;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->arrived, NULL);
	return &m->store;
}
