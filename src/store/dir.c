// SPDX-License-Identifier: Apache-2.0
/*
 * Images in a directory, in CRIU's layout. Everything that a reader could wait
 * for has arrived: what is not there will not come.
 *
 * Images are never written over: the old file is unlinked and a new one made,
 * so that neither links to it nor a reader that has it open see the change.
 */
#include "store/store.h"

#include "base/io.h"
#include "base/map.h"
#include "base/vec.h"
#include "store/names.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

/* The pages file of one id; it stays open until the store is closed, or its end has been put. */
struct dir_pages {
	uint32_t id;
	int fd; /* -1: put and ended */
	bool writing;
};

struct dir_store {
	struct store store;
	int dirfd;
	pthread_mutex_t lock;          /* guards what follows */
	bool dirty;                    /* something was put: a stale inventory is gone */
	struct map pages;              /* by id: struct dir_pages */
	struct names names;            /* what was put */
	const struct dir_store *child; /* whose parent we are, or NULL */
	struct store *parent;          /* opened by the first question */
};

/* Directories of a chain; nobody dumps that often without a full dump in between. */
enum { CHAIN_MAX = 500 };

static struct dir_store *to_dir(struct store *s)
{
	return (struct dir_store *)s;
}

static int remove_stale(struct dir_store *d, const char *object, struct err *err)
{
	if (unlinkat(d->dirfd, object, 0) && errno != ENOENT)
		return err_sys(err, "%s: cannot remove the old image", object);
	return 0;
}

/* A new file for the object, opened for reading and writing. The lock is held. */
static int create_image(struct dir_store *d, const char *object, struct err *err)
{
	const int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
	int fd;

	if (names_add(&d->names, object, err))
		return -1;
	if (!d->dirty && remove_stale(d, "inventory.img", err))
		return -1;
	d->dirty = true;
	fd = openat(d->dirfd, object, flags, 0644);
	if (fd < 0 && errno == EEXIST) {
		if (remove_stale(d, object, err))
			return -1;
		fd = openat(d->dirfd, object, flags, 0644);
	}
	if (fd < 0)
		return err_sys(err, "%s: cannot create the image", object);
	return fd;
}

static int dir_put(struct store *s, const char *object, const void *data, size_t bytes,
		   struct err *err)
{
	struct dir_store *d = to_dir(s);
	cleanup_close int fd = -1;

	pthread_mutex_lock(&d->lock);
	fd = create_image(d, object, err);
	pthread_mutex_unlock(&d->lock);
	if (fd < 0)
		return -1;
	if (io_write_full(fd, data, bytes))
		return err_sys(err, "%s: cannot write %zu bytes", object, bytes);
	/* A full disk may show only here (NFS, quotas). */
	if (close(steal_fd(&fd)))
		return err_sys(err, "%s: cannot write %zu bytes", object, bytes);
	return 0;
}

static int dir_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		   struct err *err)
{
	cleanup_close int fd = openat(to_dir(s)->dirfd, object, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	cleanup_free void *data = NULL;
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return 1;
	if (fd < 0)
		return err_sys(err, "%s: cannot open the image", object);
	if (fstat(fd, &st))
		return err_sys(err, "%s: fstat", object);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s: not a regular file", object);
	if ((uint64_t)st.st_size > STORE_OBJECT_MAX_BYTES)
		return err_set(err, EFBIG, "%s: %lld bytes are more than an image may have (%lu)",
			       object, (long long)st.st_size, STORE_OBJECT_MAX_BYTES);
	data = malloc(st.st_size ? (size_t)st.st_size : 1);
	if (!data)
		return err_nomem(err);
	if (io_read_full(fd, data, (size_t)st.st_size))
		return err_sys(err, "%s: cannot read %lld bytes", object, (long long)st.st_size);
	*bytes_out = (size_t)st.st_size;
	*data_out = steal_ptr(&data);
	return 0;
}

/* The pages file of @id; opened for reading if it is not being written. NULL + err; ENOENT: there is none. */
static struct dir_pages *find_pages(struct dir_store *d, uint32_t id, bool create, struct err *err)
{
	struct dir_pages *p = map_get(&d->pages, id);
	char object[32];

	if (p && (create || p->fd >= 0))
		return p;
	snprintf(object, sizeof(object), "pages-%u.img", id);
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p || !map_set(&d->pages, id, p)) {
			free(p);
			err_nomem(err);
			return NULL;
		}
		*p = (struct dir_pages){.id = id, .fd = -1};
		if (create) {
			p->fd = create_image(d, object, err);
			p->writing = p->fd >= 0;
			return p->writing ? p : NULL;
		}
	}
	p->fd = openat(d->dirfd, object, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (p->fd < 0) {
		err_sys(err, "%s: cannot open the pages", object);
		return NULL;
	}
	return p;
}

static struct dir_pages *get_pages_file(struct dir_store *d, uint32_t id, bool create, struct err *err)
{
	struct dir_pages *p;

	pthread_mutex_lock(&d->lock);
	p = find_pages(d, id, create, err);
	pthread_mutex_unlock(&d->lock);
	return p;
}

static int dir_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			 struct err *err)
{
	struct dir_pages *p = get_pages_file(to_dir(s), pages_id, true, err);

	if (!p)
		return -1;
	if (!p->writing)
		return err_set(err, EEXIST, "pages-%u.img: written twice", pages_id);
	if (io_write_full(p->fd, data, bytes))
		return err_sys(err, "pages-%u.img: cannot write %zu bytes", pages_id, bytes);
	if (bytes == 0) {
		p->writing = false;
		if (close(steal_fd(&p->fd)))
			return err_sys(err, "pages-%u.img: cannot write the pages", pages_id);
	}
	return 0;
}

static int dir_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
			 struct err *err)
{
	struct dir_pages *p = get_pages_file(to_dir(s), pages_id, false, err);

	if (!p)
		return -1;
	if (io_pread_full(p->fd, buf, bytes, (off_t)off)) {
		if (errno == EPIPE)
			return err_set(err, EINVAL,
				       "pages-%u.img: offset %llu: %zu bytes should follow, but the image "
				       "ends before",
				       pages_id, (unsigned long long)off, bytes);
		return err_sys(err, "pages-%u.img: offset %llu: cannot read %zu bytes", pages_id,
			       (unsigned long long)off, bytes);
	}
	return 0;
}

static int dir_pages_fd(struct store *s, uint32_t pages_id)
{
	struct err err;
	struct dir_pages *p = get_pages_file(to_dir(s), pages_id, false, &err);

	return p ? p->fd : -1;
}

static int dir_skip(struct store *s, const char *object, struct err *err)
{
	return remove_stale(to_dir(s), object, err);
}

/* Does @fd lead back to a directory that the chain came from? */
static int check_chain(const struct dir_store *d, int fd, struct err *err)
{
	struct stat st, seen;
	int levels = 0;

	if (fstat(fd, &st))
		return err_sys(err, "parent: fstat");
	for (; d; d = d->child) {
		if (fstat(d->dirfd, &seen))
			return err_sys(err, "images directory: fstat");
		if (st.st_dev == seen.st_dev && st.st_ino == seen.st_ino)
			return err_set(err, ELOOP,
				       "parent: the link leads in a circle, so the images that it "
				       "should lead to are nowhere");
		if (++levels > CHAIN_MAX)
			return err_set(err, ELOOP,
				       "parent: more than %d image directories build on each other",
				       CHAIN_MAX);
	}
	return 0;
}

static int open_parent(struct dir_store *d, struct err *err)
{
	cleanup_close int fd = openat(d->dirfd, "parent", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char target[256] = "";
	struct stat st;

	if (fd < 0 && errno == ENOENT && fstatat(d->dirfd, "parent", &st, AT_SYMLINK_NOFOLLOW))
		return 0;
	if (fd < 0) {
		int no = errno;

		if (readlinkat(d->dirfd, "parent", target, sizeof(target) - 1) < 0)
			strcpy(target, "not a link");
		return err_sysno(err, no, "parent (%s): cannot open the parent directory of images",
				 target);
	}
	if (check_chain(d, fd, err))
		return -1;
	d->parent = store_dir_open(fd, err);
	if (!d->parent)
		return -1;
	to_dir(d->parent)->child = d;
	return 0;
}

static int dir_parent(struct store *s, struct store **parent_out, struct err *err)
{
	struct dir_store *d = to_dir(s);
	int rc = 0;

	pthread_mutex_lock(&d->lock);
	if (!d->parent)
		rc = open_parent(d, err);
	*parent_out = d->parent;
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static int dir_set_parent(struct store *s, const char *target, struct err *err)
{
	struct dir_store *d = to_dir(s);
	struct store *parent;

	store_close(d->parent);
	d->parent = NULL;
	if (remove_stale(d, "inventory.img", err) || remove_stale(d, "parent", err))
		return -1;
	if (symlinkat(target, d->dirfd, "parent"))
		return err_sys(err, "parent: cannot make the link to %.200s", target);
	return dir_parent(s, &parent, err);
}

static int dir_punch_pages(struct store *s, uint32_t pages_id, uint64_t off, uint64_t bytes,
			   struct err *err)
{
	cleanup_close int fd = -1;
	char object[32];

	snprintf(object, sizeof(object), "pages-%u.img", pages_id);
	fd = openat(to_dir(s)->dirfd, object, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "%s: cannot open the pages", object);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)bytes))
		return err_sys(err, "%s: offset %llu: cannot free %llu bytes", object,
			       (unsigned long long)off, (unsigned long long)bytes);
	return 0;
}

static int dir_complete(struct store *s, struct err *err)
{
	return 0;
}

static void dir_close(struct store *s)
{
	struct dir_store *d = to_dir(s);
	struct dir_pages *p;
	size_t i;

	for (i = 0; i < d->pages.cap; i++) {
		p = d->pages.slots[i].value;
		if (p && p->fd >= 0)
			close(p->fd);
		free(p);
	}
	map_free(&d->pages);
	names_free(&d->names);
	store_close(d->parent);
	pthread_mutex_destroy(&d->lock);
	if (d->dirfd >= 0)
		close(d->dirfd);
	free(d);
}

static const struct store_ops dir_ops = {
	.name = "dir",
	.put = dir_put,
	.get = dir_get,
	.put_pages = dir_put_pages,
	.get_pages = dir_get_pages,
	.pages_fd = dir_pages_fd,
	.skip = dir_skip,
	.complete = dir_complete,
	.parent = dir_parent,
	.set_parent = dir_set_parent,
	.punch_pages = dir_punch_pages,
	.close = dir_close,
};

struct store *store_dir_open(int dirfd, struct err *err)
{
	struct dir_store *d = calloc(1, sizeof(*d));

	if (!d) {
		err_nomem(err);
		return NULL;
	}
	d->store.ops = &dir_ops;
	pthread_mutex_init(&d->lock, NULL);
	d->dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 0);
	if (d->dirfd < 0) {
		err_sys(err, "cannot open the images directory");
		dir_close(&d->store);
		return NULL;
	}
	return &d->store;
}
