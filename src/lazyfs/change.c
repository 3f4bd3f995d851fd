// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/change.h"

#include "base/io.h"
#include "base/le.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>

enum { ZERO_BYTES = 64 * 1024, MODE_BITS = 0777, TURN_STEP_MS = 2, TURN_MOST_MS = 60000 };

struct change {
	const struct scope *scope;
	const struct lf_request *q;
	uint64_t token;
	struct lf_attr *out;
};

/* ---- where ---- */

/* Names can change only in directories of which the tree has everything. */
static bool in_whole_dir(const struct scope *scope, const char *path)
{
	const char *slash = strrchr(path, '/');
	char dir[LF_PATH_MAX + 1];

	if (!slash[1])
		return false;
	snprintf(dir, sizeof(dir), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	return scope_place(scope, dir) == SCOPE_INSIDE;
}

static bool in_scope(const struct change *c)
{
	enum scope_place place;

	switch (c->q->type) {
	case LF_RENAME:
		return in_whole_dir(c->scope, c->q->path) && in_whole_dir(c->scope, c->q->other);
	case LF_CREATE:
	case LF_REMOVE:
		return in_whole_dir(c->scope, c->q->path);
	default:
		place = scope_place(c->scope, c->q->path);
		return place == SCOPE_INSIDE || place == SCOPE_FILE;
	}
}

/* ---- what it is ---- */

static int stale(void)
{
	errno = ESTALE;
	return -1;
}

/* Of directories and links nothing counts but which they are: our own changes are seen in the rest. */
static bool is_wanted(const struct stat *st, const struct lf_ident *want)
{
	struct lf_attr now;

	jail_attr(st, &now);
	if (!S_ISREG(st->st_mode))
		return now.id.dev == want->dev && now.id.ino == want->ino;
	return lf_ident_same(&now.id, want);
}

static bool is_marked(int fd, uint64_t token)
{
	uint8_t value[sizeof(uint64_t)];

	return fgetxattr(fd, CHANGE_MARK, value, sizeof(value)) == sizeof(value) &&
	       get_le64(value) == token;
}

/* Where the file system has no such attributes, an answer that is lost leaves a file that counts as changed. */
static void mark(int fd, uint64_t token)
{
	uint8_t value[sizeof(uint64_t)];

	put_le64(value, token);
	if (!is_marked(fd, token))
		(void)fsetxattr(fd, CHANGE_MARK, value, sizeof(value), 0);
}

/* The file as the client knows it, or as it made it without hearing of it. */
static int check_file(const struct change *c, int fd)
{
	const struct lf_ident *want = &c->q->want;
	struct lf_attr now;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	jail_attr(&st, &now);
	if (lf_ident_same(&now.id, want))
		return 0;
	if (!(c->q->flags & LF_RESUME) || now.id.dev != want->dev || now.id.ino != want->ino)
		return stale();
	if (is_marked(fd, c->token))
		return 0;
	/* settled already? If we are not its owner, the time stayed that of the last write. */
	if (c->q->time_ns && now.id.size == want->size &&
	    (now.id.mtime_ns == c->q->time_ns || now.id.mtime_ns == want->mtime_ns))
		return 0;
	return stale();
}

static int done(const struct change *c, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	jail_attr(&st, c->out);
	return 0;
}

/* ---- contents ---- */

static int write_zeros(int fd, uint64_t at, uint64_t bytes)
{
	static const uint8_t zeros[ZERO_BYTES];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	/* a hole does not make a file longer */
	if ((uint64_t)st.st_size < at + bytes && ftruncate(fd, (off_t)(at + bytes)) < 0)
		return -1;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) == 0)
		return 0;
	if (errno != EOPNOTSUPP)
		return -1;
	while (bytes) {
		size_t n = MIN(bytes, (uint64_t)ZERO_BYTES);

		if (io_pwrite_full(fd, zeros, n, (off_t)at) < 0)
			return -1;
		at += n;
		bytes -= n;
	}
	return 0;
}

static int change_content(struct jail *j, void *arg)
{
	const struct change *c = arg;
	const struct lf_request *q = c->q;
	cleanup_close int fd = jail_open_write(j, q->path);
	int rc;

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? stale() : -1;
	if (check_file(c, fd) < 0)
		return -1;
	mark(fd, c->token);
	if (q->type == LF_RESIZE)
		rc = ftruncate(fd, (off_t)q->offset);
	else if (q->data_bytes)
		rc = io_pwrite_full(fd, q->data, q->data_bytes, (off_t)q->offset);
	else
		rc = write_zeros(fd, q->offset, q->bytes);
	return rc < 0 ? -1 : done(c, fd);
}

static int settle(struct jail *j, void *arg)
{
	const struct change *c = arg;
	const struct lf_request *q = c->q;
	const struct timespec times[] = {
		{.tv_nsec = UTIME_OMIT},
		{.tv_sec = q->time_ns / 1000000000, .tv_nsec = q->time_ns % 1000000000},
	};
	cleanup_close int fd = jail_open_write(j, q->path);

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? stale() : -1;
	if (check_file(c, fd) < 0)
		return -1;
	/* asked again, because this answer was lost, too, it must find the mark that it has found */
	if (q->flags & LF_RESUME)
		return done(c, fd);
	/* only the owner may set a time; for others it is that of the last write */
	if (q->time_ns > 0 && futimens(fd, times) < 0 && errno != EPERM)
		return -1;
	if ((q->flags & LF_DURABLE) && fsync(fd) < 0)
		return -1;
	if (is_marked(fd, c->token) && fremovexattr(fd, CHANGE_MARK) < 0)
		return -1;
	return done(c, fd);
}

/* A directory is settled when its names are on the disk. */
static int settle_any(struct change *c, struct jail *j)
{
	struct stat st;
	cleanup_close int found = jail_find(j, c->q->path, NULL, &st), dir = -1;

	if (found < 0 || !S_ISDIR(st.st_mode))
		return jail_as_tree(j, settle, c);
	dir = jail_open(j, c->q->path, NULL, true);
	if (dir < 0 || fsync(dir) < 0)
		return -1;
	return done(c, dir);
}

/* ---- names ---- */

/* In one step, so that nothing half-made stays if we are killed. */
static int make(const struct lf_request *q, int dir, const char *name)
{
	const mode_t mode = q->mode & MODE_BITS;

	if (S_ISLNK(q->mode))
		return symlinkat(q->other, dir, name);
	if (S_ISDIR(q->mode))
		return mkdirat(dir, name, mode);
	return openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
}

/* Owner and group are whose rights we have. */
static int create(struct jail *j, void *arg)
{
	const struct change *c = arg;
	const char *name;
	cleanup_close int dir = jail_open_parent(j, c->q->path, &name), made = -1, fd = -1;

	if (dir < 0)
		return -1;
	made = make(c->q, dir, name);
	if (made < 0)
		return -1;
	if (S_ISREG(c->q->mode))
		return done(c, made);
	(void)steal_fd(&made); /* it is none */
	fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -1 : done(c, fd);
}

/* The thing itself, if it is what the client means. */
static int find(int dir, const char *name, const struct lf_ident *want, struct stat *st)
{
	cleanup_close int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fstat(fd, st) < 0)
		return -1;
	return is_wanted(st, want) ? steal_fd(&fd) : stale();
}

static int remove_name(struct jail *j, void *arg)
{
	const struct change *c = arg;
	const char *name;
	struct stat st;
	cleanup_close int dir = jail_open_parent(j, c->q->path, &name), fd = -1;

	if (dir < 0)
		return -1;
	fd = find(dir, name, &c->q->want, &st);
	if (fd < 0 || unlinkat(dir, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0)
		return -1;
	return done(c, fd);
}

static int rename_name(struct jail *j, void *arg)
{
	const struct change *c = arg;
	const struct lf_request *q = c->q;
	const bool replaces = q->replaced.ino;
	const char *name, *new_name;
	struct stat st;
	cleanup_close int from = jail_open_parent(j, q->path, &name), to = -1, fd = -1, old = -1;

	if (from < 0)
		return -1;
	to = jail_open_parent(j, q->other, &new_name);
	if (to < 0)
		return -1;
	fd = find(from, name, &q->want, &st);
	if (fd < 0)
		return -1;
	if (S_ISDIR(st.st_mode)) {
		errno = EXDEV; /* the client would have to rename all that it knows below it */
		return -1;
	}
	if (replaces) {
		old = find(to, new_name, &q->replaced, &st);
		if (old < 0)
			return errno == ENOENT ? stale() : -1;
	}
	if (syscall(SYS_renameat2, from, name, to, new_name, replaces ? 0 : RENAME_NOREPLACE) < 0)
		return -1;
	return done(c, fd);
}

/* ---- attributes ---- */

/* An O_PATH descriptor of the thing itself, as the client knows it. -1 + errno. */
static int find_meant(struct jail *j, const struct lf_request *q, struct stat *st)
{
	const char *name;
	cleanup_close int dir = -1;

	if (!q->path[1]) {
		errno = EACCES;
		return -1;
	}
	dir = jail_open_parent(j, q->path, &name);
	return dir < 0 ? -1 : find(dir, name, &q->want, st);
}

static struct timespec ts_of(int64_t ns, bool set)
{
	struct timespec ts = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	if (!set)
		return (struct timespec){.tv_nsec = UTIME_OMIT};
	if (ts.tv_nsec < 0) {
		ts.tv_sec--;
		ts.tv_nsec += 1000000000;
	}
	return ts;
}

/* The bits for other users' rights may be taken off here, and not put on. */
static mode_t mode_of(const struct lf_request *q, const struct stat *st)
{
	return (q->mode & MODE_BITS) | (q->mode & st->st_mode & 07000);
}

static int set(struct jail *j, void *arg)
{
	const struct change *c = arg;
	const struct lf_request *q = c->q;
	const struct timespec times[] = {ts_of((int64_t)q->offset, q->bytes & LF_SET_ATIME),
					 ts_of(q->time_ns, q->bytes & LF_SET_MTIME)};
	struct stat st;
	cleanup_close int fd = find_meant(j, q, &st);
	char name[16];

	if (fd < 0)
		return -1;
	/* our own entry leads to the thing itself, also to a link */
	snprintf(name, sizeof(name), "%d", fd);
	if (q->bytes & (LF_SET_UID | LF_SET_GID) &&
	    fchownat(fd, "", q->bytes & LF_SET_UID ? (uid_t)q->replaced.dev : (uid_t)-1,
		     q->bytes & LF_SET_GID ? (gid_t)q->replaced.ino : (gid_t)-1, AT_EMPTY_PATH) < 0)
		return -1;
	/* with the owner, the kernel may have taken bits off: these are not put on again for another one */
	if (fstat(fd, &st) < 0)
		return -1;
	if (q->bytes & LF_SET_MODE && fchmodat(j->self_fds, name, mode_of(q, &st), 0) < 0)
		return -1;
	if (q->bytes & (LF_SET_MTIME | LF_SET_ATIME) && utimensat(j->self_fds, name, times, 0) < 0)
		return -1;
	return done(c, fd);
}

static int set_xattr(struct jail *j, void *arg)
{
	const struct change *c = arg;
	const struct lf_request *q = c->q;
	struct stat st;
	cleanup_close int fd = find_meant(j, q, &st);
	char path[64];
	int rc;

	if (fd < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rc = q->mode ? removexattr(path, q->other) :
		       setxattr(path, q->other, q->data, q->data_bytes, 0);
	return rc < 0 && (!q->mode || errno != ENODATA) ? -1 : done(c, fd);
}

/* ---- one at a time ---- */

/*
 * After a break the client asks again over a new connection, while the process of the old one may be in the
 * middle of the same change. So each is made under a name that only one can have, and that goes with him: a socket
 * that nobody ever connects to. -1 + errno.
 */
static int take_turn(uint64_t token)
{
	const struct timespec step = {.tv_nsec = TURN_STEP_MS * 1000000};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int n = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1,
			 "ferry-writeback-%016" PRIx64, token);
	const socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);

	for (unsigned int waited = 0; fd >= 0 && waited < TURN_MOST_MS; waited += TURN_STEP_MS) {
		if (bind(fd, (struct sockaddr *)&addr, bytes) == 0)
			return steal_fd(&fd);
		if (errno != EADDRINUSE)
			return -1;
		nanosleep(&step, NULL);
	}
	return -1;
}

int change_apply(struct jail *j, const struct scope *scope, uint64_t token,
		 const struct lf_request *q, struct lf_attr *out)
{
	struct change c = {.scope = scope, .q = q, .token = token, .out = out};
	cleanup_close int turn = -1;
	int rc;

	if (!in_scope(&c))
		return EACCES;
	turn = take_turn(token);
	if (turn < 0)
		return errno;
	switch (q->type) {
	case LF_SETTLE:
		rc = settle_any(&c, j);
		break;
	case LF_CREATE:
		rc = jail_as_tree(j, create, &c);
		break;
	case LF_REMOVE:
		rc = jail_as_tree(j, remove_name, &c);
		break;
	case LF_RENAME:
		rc = jail_as_tree(j, rename_name, &c);
		break;
	case LF_SET:
		rc = jail_as_tree(j, set, &c);
		break;
	case LF_XATTR:
		rc = jail_as_tree(j, set_xattr, &c);
		break;
	default:
		rc = jail_as_tree(j, change_content, &c);
		break;
	}
	return rc < 0 ? errno : 0;
}
