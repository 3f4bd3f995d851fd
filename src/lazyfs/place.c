// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/place.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { COPY_BYTES = 1 << 20 };

struct placed {
	const struct node *node;
	char *path; /* below the top directory */
};

struct placing {
	struct lazyfs *fs;
	int top;
	char path[LF_PATH_MAX + 1]; /* where we are, below the top; "" there */
	VEC(struct placed) links;   /* files with several names that have their first one */
	uint64_t files, failures;
	struct err *err;
};

static void failed(struct placing *p, const char *what)
{
	int no = errno;

	log_error("%s: cannot be placed: %s: %s", p->path, what, strerror(no));
	if (!p->failures++)
		err_sysno(p->err, no, "%.300s: cannot be placed: %s", p->path, what);
}

/* Data goes on, holes stay holes. */
static int copy_data(int from, int to, uint64_t size)
{
	off_t at = 0;

	if (ftruncate(to, (off_t)size) < 0)
		return -1;
	while ((uint64_t)at < size) {
		off_t data = lseek(from, at, SEEK_DATA), hole;

		if (data < 0)
			return errno == ENXIO ? 0 : -1;
		hole = lseek(from, data, SEEK_HOLE);
		if (hole < 0)
			return -1;
		at = data;
		while (at < hole) {
			loff_t in = at, out = at;
			ssize_t n = copy_file_range(from, &in, to, &out,
						    MIN((size_t)(hole - at), (size_t)COPY_BYTES), 0);

			if (n <= 0)
				return n < 0 && errno != EXDEV ? -1 : 1;
			at += n;
		}
	}
	return 0;
}

/* The same where the kernel does not copy between these file systems. */
static int copy_plain(int from, int to, uint64_t size)
{
	char *buf = malloc(COPY_BYTES);
	uint64_t at = 0;
	int rc = buf ? 0 : -1;

	while (rc == 0 && at < size) {
		off_t data = lseek(from, (off_t)at, SEEK_DATA);
		size_t n;

		if (data < 0) {
			rc = errno == ENXIO ? 0 : -1;
			break;
		}
		n = MIN((uint64_t)COPY_BYTES, size - (uint64_t)data);
		if (io_pread_full(from, buf, n, data) < 0 || io_pwrite_full(to, buf, n, data) < 0)
			rc = -1;
		at = (uint64_t)data + n;
	}
	free(buf);
	return rc;
}

static int place_content(struct placing *p, struct node *n, int fd)
{
	struct content *c = n->content;
	int error, rc;

	if (!c)
		return 0;
	error = content_pin(c);
	if (error) {
		errno = error;
		return -1;
	}
	rc = copy_data(c->fd, fd, content_size(c));
	if (rc > 0)
		rc = copy_plain(c->fd, fd, content_size(c));
	content_unpin(c);
	return rc;
}

static int set_xattrs(struct placing *p, const struct node *n, const char *path)
{
	char full[64];
	cleanup_close int fd = openat(p->top, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (!n->xattrs.n || S_ISLNK(n->attr.mode))
		return 0;
	snprintf(full, sizeof(full), "/proc/self/fd/%d", fd);
	for (size_t i = 0; i < n->xattrs.n; i++) {
		const struct xattr *x = &n->xattrs.v[i];

		if (fd < 0 || setxattr(full, x->name, x->value, x->bytes, 0) < 0)
			return -1;
	}
	return 0;
}

/* Owner before mode: chown takes the set-id bits off; times last. */
static void place_attrs(struct placing *p, struct node *n)
{
	struct timespec times[2];
	struct stat st;

	node_stat(p->fs, n, &st);
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	if (fchownat(p->top, p->path, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		failed(p, "owner");
	if (set_xattrs(p, n, p->path) < 0)
		failed(p, "extended attributes");
	if (!S_ISLNK(st.st_mode) && fchmodat(p->top, p->path, st.st_mode & 07777, 0) < 0)
		failed(p, "mode");
	if (utimensat(p->top, p->path, times, AT_SYMLINK_NOFOLLOW) < 0)
		failed(p, "times");
}

static const char *first_name(const struct placing *p, const struct node *n)
{
	vec_foreach (l, &p->links)
		if (l->node == n)
			return l->path;
	return NULL;
}

static void place_file(struct placing *p, struct node *n)
{
	const char *first = n->n_names > 1 ? first_name(p, n) : NULL;
	struct placed l = {.node = n};
	cleanup_close int fd = -1;

	if (first) {
		if (linkat(p->top, first, p->top, p->path, 0) < 0)
			failed(p, "link");
		return;
	}
	fd = openat(p->top, p->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		failed(p, "create");
		return;
	}
	if (place_content(p, n, fd) < 0) {
		failed(p, "copy");
		/* half of a file is worse than none */
		(void)unlinkat(p->top, p->path, 0);
		return;
	}
	place_attrs(p, n);
	p->files++;
	if (n->n_names > 1 && (!(l.path = strdup(p->path)) || !vec_push(&p->links, l))) {
		free(l.path);
		errno = ENOMEM;
		failed(p, "further names");
	}
}

static void place_special(struct placing *p, struct node *n)
{
	int rc;

	if (S_ISLNK(n->attr.mode))
		rc = n->target ? symlinkat(n->target, p->top, p->path) : 0;
	else
		rc = mknodat(p->top, p->path, (n->attr.mode & S_IFMT) | 0600, n->attr.rdev);
	if (rc < 0)
		failed(p, "create");
	else
		place_attrs(p, n);
}

static void place_dir(struct placing *p, struct node *dir)
{
	size_t end = strlen(p->path);

	for (const struct name *e = dir->names.first; e; e = e->next) {
		struct node *n = e->node;
		bool made;

		if (!n || end + strlen(e->text) + 2 > sizeof(p->path))
			continue;
		sprintf(p->path + end, "%s%s", end ? "/" : "", e->text);
		if (S_ISREG(n->attr.mode)) {
			place_file(p, n);
		} else if (!S_ISDIR(n->attr.mode)) {
			place_special(p, n);
		} else {
			/* one that is there keeps its attributes */
			made = mkdirat(p->top, p->path, 0700) == 0;
			if (!made && errno != EEXIST) {
				failed(p, "create");
			} else {
				place_dir(p, n);
				if (made)
					place_attrs(p, n);
			}
		}
		p->path[end] = '\0';
	}
}

int place_node(struct lazyfs *fs, struct node *n, int dirfd, const char *name, struct err *err)
{
	struct placing p = {.fs = fs, .top = dirfd, .err = err};

	snprintf(p.path, sizeof(p.path), "%s", name);
	if (S_ISREG(n->attr.mode))
		place_file(&p, n);
	else if (!S_ISDIR(n->attr.mode))
		place_special(&p, n);
	else if (mkdirat(dirfd, name, 0700) == 0)
		place_attrs(&p, n);
	else
		failed(&p, "create");
	vec_foreach (l, &p.links)
		free(l->path);
	vec_free(&p.links);
	return p.failures ? -1 : 0;
}

int place_all(struct lazyfs *fs, struct err *err)
{
	struct placing p = {.fs = fs, .top = fs->below, .err = err};

	place_dir(&p, &fs->root);
	log_info("%llu files placed", (unsigned long long)p.files);
	vec_foreach (l, &p.links)
		free(l->path);
	vec_free(&p.links);
	if (p.failures > 1)
		err_wrap(err, "%llu problems, the first of them", (unsigned long long)p.failures);
	return p.failures ? -1 : 0;
}
