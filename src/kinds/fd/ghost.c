// SPDX-License-Identifier: Apache-2.0
/*
 * Ghosts: deleted files whose content is in the images. Small files are stored
 * whole, larger ones as the chunks that hold data, so that a sparse file stays
 * small. One inode is one ghost, however many descriptions and names it has.
 */
#define LOG_MODULE "ghost"
#include "base/io.h"
#include "base/log.h"
#include "base/xattr.h"
#include "kinds/fd/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

enum { CHUNKED_FROM_BYTES = 12288 };

/* ---- capture ---- */

/* The kernel's own encoding of a device number, which the format uses. */
static uint32_t kernel_dev(dev_t dev)
{
	return major(dev) << 20 | minor(dev);
}

static struct snap_ghost *find_ghost(const struct capture *c, const struct stat *st)
{
	vec_foreach (it, &c->snap->ghosts) {
		if ((*it)->entry->dev == kernel_dev(st->st_dev) && (*it)->entry->ino == st->st_ino)
			return *it;
	}
	return NULL;
}

static int read_whole(struct capture *c, int fd, size_t bytes, struct snap_ghost *g, struct err *err)
{
	if (!bytes)
		return 0;
	g->data = arena_alloc(&c->snap->arena, bytes);
	if (!g->data)
		return err_nomem(err);
	g->bytes = bytes;
	return io_pread_full(fd, g->data, bytes, 0) ? err_sys(err, "cannot read it") : 0;
}

struct extent {
	off_t off;
	size_t len;
};
typedef VEC(struct extent) extent_list;

static int find_extents(int fd, off_t size, extent_list *list, struct err *err)
{
	off_t data = 0, hole;

	for (;;) {
		data = lseek(fd, data, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0;
		hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_sys(err, "cannot find out where its data is");
		if (hole > size)
			hole = size;
		if (hole <= data)
			return 0;
		if (!vec_push(list, (struct extent){.off = data, .len = (size_t)(hole - data)}))
			return err_nomem(err);
		data = hole;
	}
}

/* Reads the extents one behind the other into data[], with an entry for each. */
static int read_extents(struct capture *c, int fd, const extent_list *list, struct snap_ghost *g,
			struct err *err)
{
	size_t done = 0;

	vec_foreach (x, list) {
		g->bytes += x->len;
	}
	if (!list->n)
		return 0;
	g->data = arena_alloc(&c->snap->arena, g->bytes);
	g->chunks = arena_array(&c->snap->arena, GhostChunkEntry *, list->n);
	if (!g->data || !g->chunks)
		return err_nomem(err);
	vec_foreach (x, list) {
		GhostChunkEntry *chunk = snap_new(c->snap, GhostChunkEntry, ghost_chunk_entry);

		if (!chunk)
			return err_nomem(err);
		chunk->off = (uint64_t)x->off;
		chunk->len = x->len;
		g->chunks[g->n_chunks++] = chunk;
		if (io_pread_full(fd, g->data + done, x->len, x->off))
			return err_sys(err, "cannot read it");
		done += x->len;
	}
	return 0;
}

static int read_content(struct capture *c, const struct path_facts *p, struct snap_ghost *g,
			struct err *err)
{
	cleanup_close int fd = reopen(p->fd, O_RDONLY);
	extent_list list = {0};
	int rc;

	if (fd < 0)
		return err_sys(err, "cannot open it for reading");
	if (p->st.st_size < CHUNKED_FROM_BYTES)
		return read_whole(c, fd, (size_t)p->st.st_size, g, err);
	g->entry->has_chunks = g->entry->chunks = true;
	g->entry->has_size = true;
	g->entry->size = (uint64_t)p->st.st_size;
	rc = find_extents(fd, p->st.st_size, &list, err);
	if (rc == 0)
		rc = read_extents(c, fd, &list, g, err);
	vec_free(&list);
	return rc;
}

static int read_link_target(struct capture *c, const struct path_facts *p, GhostFileEntry *e,
			    struct err *err)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(p->fd, "", target, sizeof(target) - 1);

	if (n < 0)
		return err_sys(err, "cannot read where it points to");
	target[n] = 0;
	e->symlnk_target = arena_strdup(&c->snap->arena, target);
	return e->symlnk_target ? 0 : err_nomem(err);
}

static Timeval *new_time(struct capture *c, const struct timespec *t)
{
	Timeval *v = snap_new(c->snap, Timeval, timeval);

	if (v) {
		v->tv_sec = (uint64_t)t->tv_sec;
		v->tv_usec = (uint64_t)t->tv_nsec / 1000;
	}
	return v;
}

static GhostFileEntry *new_entry(struct capture *c, const struct stat *st)
{
	GhostFileEntry *e = snap_new(c->snap, GhostFileEntry, ghost_file_entry);

	if (!e)
		return NULL;
	e->uid = st->st_uid;
	e->gid = st->st_gid;
	e->mode = st->st_mode;
	e->has_dev = e->has_ino = true;
	e->dev = kernel_dev(st->st_dev);
	e->ino = st->st_ino;
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		e->has_rdev = true;
		e->rdev = kernel_dev(st->st_rdev);
	}
	e->atim = new_time(c, &st->st_atim);
	e->mtim = new_time(c, &st->st_mtim);
	return e->atim && e->mtim ? e : NULL;
}

/* What the file has beside its content: capabilities, access control lists, attributes of users. */
static int save_xattrs(struct capture *c, const struct path_facts *p, GhostFileEntry *e,
		       struct err *err)
{
	xattr_list list = {0};
	char path[40];
	int rc;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->fd);
	rc = xattr_read(path, &list, err);
	e->ferry_xattrs = rc ? NULL : arena_array(&c->snap->arena, GhostXattr *, list.n + 1);
	if (!rc && !e->ferry_xattrs)
		rc = err_nomem(err);
	for (size_t i = 0; i < list.n && !rc; i++) {
		GhostXattr *x = snap_new(c->snap, GhostXattr, ghost_xattr);

		if (x) {
			x->name = arena_strdup(&c->snap->arena, list.v[i].name);
			x->value.data = arena_dup(&c->snap->arena, list.v[i].value, list.v[i].bytes);
			x->value.len = list.v[i].bytes;
		}
		if (!x || !x->name || (x->value.len && !x->value.data))
			rc = err_nomem(err);
		else
			e->ferry_xattrs[e->n_ferry_xattrs++] = x;
	}
	xattr_free(&list);
	return rc;
}

int ghost_capture(struct capture *c, const struct path_facts *p, uint32_t *remap_id_out,
		  struct err *err)
{
	struct snap_ghost *known = find_ghost(c, &p->st), *g;
	int rc = 0;

	if (known) {
		*remap_id_out = known->id;
		return 0;
	}
	g = arena_new(&c->snap->arena, struct snap_ghost);
	if (g)
		g->entry = new_entry(c, &p->st);
	if (!g || !g->entry)
		return err_nomem(err);
	if (S_ISREG(p->st.st_mode))
		rc = read_content(c, p, g, err) || save_xattrs(c, p, g->entry, err) ? -1 : 0;
	else if (S_ISLNK(p->st.st_mode))
		rc = read_link_target(c, p, g->entry, err);
	if (rc)
		return err_wrap(err, "the deleted file %s", p->name);
	g->id = *remap_id_out = ++c->last_remap_id;
	return vec_push(&c->snap->ghosts, g) ? 0 : err_nomem(err);
}

/* ---- restore ---- */

/* Writes the content; the lengths of the chunks were verified by snapshot_load, and are again cheap here. */
static int write_content(int fd, const struct snap_ghost *g, struct err *err)
{
	size_t done = 0;

	if (!g->n_chunks && !g->entry->chunks)
		return io_pwrite_full(fd, g->data, g->bytes, 0) ?
			       err_sys(err, "cannot write a deleted file") :
			       0;
	for (size_t i = 0; i < g->n_chunks; i++) {
		const GhostChunkEntry *chunk = g->chunks[i];

		if (chunk->len > g->bytes - done || chunk->off > INT64_MAX)
			return err_set(err, EINVAL,
				       "ghost-file-%x.img: chunk %zu is longer than the image",
				       g->id, i);
		if (io_pwrite_full(fd, g->data + done, chunk->len, (off_t)chunk->off))
			return err_sys(err, "cannot write a deleted file");
		done += chunk->len;
	}
	if (ftruncate(fd, (off_t)g->entry->size))
		return err_sys(err, "cannot size a deleted file");
	return 0;
}

static struct timespec to_timespec(const Timeval *t)
{
	if (!t)
		return (struct timespec){.tv_nsec = UTIME_OMIT};
	return (struct timespec){.tv_sec = (time_t)t->tv_sec,
				 .tv_nsec = (long)(t->tv_usec % 1000000) * 1000};
}

/* Nobody but those who have it open can ask for them, so what cannot be set is reported, not fatal. */
static void set_xattrs(int fd, const struct snap_ghost *g)
{
	for (size_t i = 0; i < g->entry->n_ferry_xattrs; i++) {
		const GhostXattr *x = g->entry->ferry_xattrs[i];

		if (!xattr_is_carried(x->name) ||
		    fsetxattr(fd, x->name, x->value.data, x->value.len, 0))
			log_warn("a deleted file loses its attribute %.200s: %s", x->name,
				 strerror(errno));
	}
}

static int set_attributes(int fd, const struct snap_ghost *g, struct err *err)
{
	struct timespec times[2] = {to_timespec(g->entry->atim), to_timespec(g->entry->mtim)};
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fchownat(fd, "", g->entry->uid, g->entry->gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		return err_sys(err, "cannot give a deleted file to user %u, group %u",
			       g->entry->uid, g->entry->gid);
	if (S_ISLNK(g->entry->mode))
		return 0;
	if (chmod(path, g->entry->mode & 07777))
		return err_sys(err, "cannot set the mode of a deleted file");
	if (S_ISREG(g->entry->mode))
		set_xattrs(fd, g);
	if (utimensat(AT_FDCWD, path, times, 0))
		return err_sys(err, "cannot set the times of a deleted file");
	return 0;
}

/* A regular file without a name, or with @name if it must have one or the file system cannot do without. */
static int create_regular(const struct snap_ghost *g, int dirfd, const char *name, bool nameless,
			  struct err *err)
{
	cleanup_close int fd = -1;
	char dir[40];

	snprintf(dir, sizeof(dir), "/proc/self/fd/%d", dirfd);
	errno = EOPNOTSUPP;
	if (nameless)
		fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
		fd = openat(dirfd, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, "cannot make a deleted file again");
	if (write_content(fd, g, err)) {
		unlinkat(dirfd, name, 0);
		return -1;
	}
	return steal_fd(&fd);
}

static int create_node(const struct snap_ghost *g, int dirfd, const char *name, struct err *err)
{
	dev_t dev = makedev(g->entry->rdev >> 20, g->entry->rdev & 0xfffff);
	int rc, fd;

	switch (g->entry->mode & S_IFMT) {
	case S_IFDIR:
		rc = mkdirat(dirfd, name, 0700);
		break;
	case S_IFLNK:
		rc = symlinkat(g->entry->symlnk_target ? g->entry->symlnk_target : "", dirfd, name);
		break;
	case S_IFIFO:
	case S_IFCHR:
	case S_IFBLK:
		rc = mknodat(dirfd, name, (g->entry->mode & S_IFMT) | 0600, dev);
		break;
	default:
		return err_set(err, EINVAL, "ghost-file-%x.img: mode %o cannot be made", g->id,
			       g->entry->mode);
	}
	fd = rc ? -1 : openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 ? fd : err_sys(err, "cannot make a deleted file again");
}

int ghost_create(const struct snap_ghost *g, int dirfd, const char *name, bool nameless,
		 struct err *err)
{
	cleanup_close int fd = S_ISREG(g->entry->mode) ?
				       create_regular(g, dirfd, name, nameless, err) :
				       create_node(g, dirfd, name, err);

	if (fd < 0)
		return -1;
	if (set_attributes(fd, g, err)) {
		unlinkat(dirfd, name, S_ISDIR(g->entry->mode) ? AT_REMOVEDIR : 0);
		return -1;
	}
	return steal_fd(&fd);
}
