// SPDX-License-Identifier: Apache-2.0
/*
 * bind(2) records the name as it was passed, and creates the file where that
 * name leads from the caller's root and working directory. To get both right
 * for any name, the calls run in a thread of their own which leaves the shared
 * file system context (CLONE_FS): it can change root, directory and umask
 * without anybody noticing. A name whose file is gone is bound the same way
 * below a scratch root, so nothing appears in the real place.
 */
#define LOG_MODULE "unix"
#include "kinds/sockpath.h"

#include "base/io.h"
#include "base/log.h"
#include "base/thread.h"
#include "kernel/diag.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE 0x89e0 /* linux/un.h: an O_PATH descriptor of the file a socket is bound to */
#endif

static const char deleted_mark[] = " (deleted)";

const char *sockpath_text(const uint8_t *name, size_t bytes, char *text, size_t size)
{
	size_t out = 0;

	if (!bytes) {
		snprintf(text, size, "(unnamed)");
		return text;
	}
	for (size_t i = 0; i < bytes && out + 1 < size; i++) {
		if (name[i] == 0 && i > 0)
			break;
		text[out++] = name[i] == 0                   ? '@' :
			      name[i] < ' ' || name[i] > '~' ? '?' :
							       (char)name[i];
	}
	text[out] = 0;
	return text;
}

/* ---- what a name stands for ---- */

/* "/a/b/NAME" minus NAME; NULL if the path does not end so. */
static char *prefix_of(struct arena *arena, const char *path, const char *name)
{
	size_t path_len = strlen(path), name_len = strlen(name);
	char *prefix;

	if (path_len < name_len || strcmp(path + path_len - name_len, name) != 0)
		return NULL;
	path_len -= name_len;
	if (name[0] != '/' && (path_len == 0 || path[path_len - 1] != '/'))
		return NULL;
	while (path_len > 1 && path[path_len - 1] == '/')
		path_len--;
	prefix = arena_strdup(arena, path);
	if (prefix)
		prefix[path_len] = 0;
	return prefix;
}

static bool same_file(const char *path, const struct stat *st)
{
	struct stat there;

	return !stat(path, &there) && there.st_dev == st->st_dev && there.st_ino == st->st_ino;
}

int sockpath_find(struct arena *arena, int fd, const uint8_t *name, size_t bytes,
		  struct sockpath_file *out, struct err *err)
{
	char path[PATH_MAX], text[DIAG_UNIX_NAME_MAX + 1] = {0};
	cleanup_close int file = ioctl(fd, SIOCUNIXFILE);
	size_t len;

	memset(out, 0, sizeof(*out));
	memcpy(text, name, MIN(bytes, sizeof(text) - 1));
	if (file < 0)
		return err_sys(err, "cannot find the file of unix socket %s", text);
	if (fstat(file, &out->st) || io_readlinkf(path, sizeof(path), "/proc/self/fd/%d", file))
		return err_sys(err, "cannot look at the file of unix socket %s", text);
	len = strlen(path);
	if (out->st.st_nlink == 0)
		out->deleted = true;
	if (out->deleted && len > strlen(deleted_mark) &&
	    strcmp(path + len - strlen(deleted_mark), deleted_mark) == 0)
		path[len - strlen(deleted_mark)] = 0;
	out->path = arena_strdup(arena, path);
	if (!out->path)
		return err_nomem(err);
	if (text[0] == '/' && (out->deleted || same_file(text, &out->st)))
		return 0;
	/* a relative name, a task with a root of its own, or a file that was renamed */
	out->dir = prefix_of(arena, path, text);
	if (!out->dir && !out->deleted)
		out->renamed = true;
	return 0;
}

/* ---- a thread with its own root, directory and umask ---- */

struct errand {
	const struct sockpath_place *place;
	int (*run)(struct errand *e, struct err *err);
	int fd;
	struct sockaddr_un addr;
	char end; /* right behind addr: 0, for a path that fills sun_path */
	socklen_t addr_len;
	struct err *err;
	int ret;
};

_Static_assert(offsetof(struct errand, end) ==
		       offsetof(struct errand, addr) + sizeof(struct sockaddr_un),
	       "a full sun_path is ended by the next byte");

static int enter_place(const struct sockpath_place *place, struct err *err)
{
	if (unshare(CLONE_FS))
		return err_sys(err, "cannot leave the shared file system context");
	if (place->root && (chroot(place->root) || chdir("/")))
		return err_sys(err, "cannot enter the root %s", place->root);
	if (place->dir && chdir(place->dir))
		return err_sys(err, "cannot enter directory %s", place->dir);
	return 0;
}

static void *errand_thread(void *arg)
{
	struct errand *e = arg;

	e->ret = enter_place(e->place, e->err);
	if (!e->ret)
		e->ret = e->run(e, e->err);
	return NULL;
}

static int run_errand(struct errand *e, struct err *err)
{
	pthread_t thread;
	int no;

	e->err = err;
	no = thread_start(&thread, errand_thread, e);
	if (no)
		return err_sysno(err, no, "cannot start a thread");
	pthread_join(thread, NULL);
	return e->ret;
}

static int set_address(struct errand *e, const uint8_t *name, size_t bytes, struct err *err)
{
	if (bytes == sizeof(e->addr.sun_path) + 1 && name[0] && !name[bytes - 1])
		bytes--;
	if (bytes > sizeof(e->addr.sun_path))
		return err_set(err, EINVAL, "a unix socket name of %zu bytes (%zu is the limit)",
			       bytes, sizeof(e->addr.sun_path));
	e->addr.sun_family = AF_UNIX;
	memcpy(e->addr.sun_path, name, bytes);
	e->addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes);
	return 0;
}

/* ---- binding ---- */

struct find_owner {
	const struct stat *st;
	uint32_t ino;
};

static bool match_file(const struct diag_unix *u, void *arg)
{
	struct find_owner *find = arg;

	if (!u->has_vfs || u->vfs_ino != (uint32_t)find->st->st_ino || !u->ino)
		return true;
	find->ino = u->ino;
	return false;
}

static int err_in_use(const char *path, const struct stat *st, struct err *err)
{
	struct find_owner find = {.st = st};
	struct err ignored;
	char owner[64] = "another process";

	if (!diag_unix_each(match_file, &find, &ignored) && find.ino)
		diag_owner(find.ino, owner, sizeof(owner));
	return err_set(err, EADDRINUSE, "unix socket path %s is in use here by %s", path, owner);
}

/*
 * Is a socket bound to this file? A connect of the wrong type is refused with
 * EPROTOTYPE by a living stream or seqpacket socket, which does not notice;
 * connecting to a datagram socket leaves no trace there either.
 */
static bool file_is_bound(const struct sockaddr_un *addr, socklen_t len)
{
	cleanup_close int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return probe < 0 || !connect(probe, (const struct sockaddr *)addr, len) ||
	       errno != ECONNREFUSED;
}

/* 1: a stale socket file is in the way, 0: nothing is, -1: something that must stay. */
static int look_at_path(const struct errand *e, struct err *err)
{
	const char *path = e->addr.sun_path;
	char *slash, dir[sizeof(e->addr.sun_path)];
	struct stat st;

	if (!lstat(path, &st)) {
		if (!S_ISSOCK(st.st_mode))
			return err_set(err, EEXIST,
				       "unix socket path %s exists here and is not a socket", path);
		if (file_is_bound(&e->addr, e->addr_len))
			return err_in_use(path, &st, err);
		return 1;
	}
	if (errno != ENOENT)
		return err_sys(err, "cannot look at unix socket path %s", path);
	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (slash) {
		slash[slash == dir] = 0;
		if (stat(dir, &st) || !S_ISDIR(st.st_mode))
			return err_set(err, ENOENT,
				       "the directory of unix socket path %s does not exist here",
				       path);
	}
	return 0;
}

static int bind_path(struct errand *e, struct err *err)
{
	const struct sockpath_place *place = e->place;
	const char *path = e->addr.sun_path;
	int stale = look_at_path(e, err);

	if (stale < 0)
		return -1;
	if (stale && unlink(path))
		return err_sys(err, "cannot remove the stale unix socket %s", path);
	if (place->perms)
		umask(~place->mode & 0777);
	if (bind(e->fd, (struct sockaddr *)&e->addr, e->addr_len))
		return err_sys(err, "cannot bind a unix socket to %s", path);
	if (!place->perms)
		return 0;
	/* the owner first: changing it clears bits of the mode */
	if (lchown(path, place->uid, place->gid))
		return err_sys(err, "cannot give unix socket %s to user %u, group %u", path,
			       place->uid, place->gid);
	if (chmod(path, place->mode & 07777))
		return err_sys(err, "cannot set the mode of unix socket %s", path);
	return 0;
}

static int bind_abstract(struct errand *e, struct err *err)
{
	char text[128];

	if (!bind(e->fd, (struct sockaddr *)&e->addr, e->addr_len))
		return 0;
	sockpath_text((uint8_t *)e->addr.sun_path,
		      e->addr_len - offsetof(struct sockaddr_un, sun_path), text, sizeof(text));
	return err_sys(err, "cannot bind a unix socket to abstract name %s", text);
}

int sockpath_bind(int fd, const uint8_t *name, size_t bytes, const struct sockpath_place *place,
		  struct err *err)
{
	struct errand e = {.place = place, .run = bind_path, .fd = fd};

	if (set_address(&e, name, bytes, err))
		return -1;
	if (!sockpath_is_path(name, bytes))
		return bind_abstract(&e, err);
	return run_errand(&e, err);
}

static int check_path(struct errand *e, struct err *err)
{
	return look_at_path(e, err) < 0 ? -1 : 0;
}

struct find_name {
	const uint8_t *name;
	size_t bytes;
	uint32_t ino;
};

static bool match_name(const struct diag_unix *u, void *arg)
{
	struct find_name *find = arg;

	/* accepted sockets carry their listener's name without holding it */
	if (u->name_bytes != find->bytes || memcmp(u->name, find->name, find->bytes) != 0 ||
	    (u->type != SOCK_DGRAM && u->state == SOCK_STATE_ESTABLISHED))
		return true;
	find->ino = u->ino;
	return false;
}

int sockpath_check(const uint8_t *name, size_t bytes, const struct sockpath_place *place,
		   struct err *err)
{
	struct errand e = {.place = place, .run = check_path};
	struct find_name find = {.name = name, .bytes = bytes};
	char text[128], owner[64];

	if (set_address(&e, name, bytes, err))
		return -1;
	if (sockpath_is_path(name, bytes))
		return run_errand(&e, err);
	if (diag_unix_each(match_name, &find, err))
		return -1;
	if (!find.ino)
		return 0;
	diag_owner(find.ino, owner, sizeof(owner));
	return err_set(err, EADDRINUSE, "abstract unix socket name %s is in use here by %s",
		       sockpath_text(name, bytes, text, sizeof(text)), owner);
}

/* ---- names without a file ---- */

/* Makes (or removes) the directories that lead to @path, in the scratch root that is our root now. */
static void walk_parents(const char *path, bool make)
{
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];

	snprintf(dir, sizeof(dir), "%s", path);
	if (make) {
		for (char *p = dir + 1; (p = strchr(p, '/')); *p++ = '/') {
			*p = 0;
			mkdir(dir, 0700);
		}
		return;
	}
	for (char *p; (p = strrchr(dir, '/')) && p != dir;) {
		*p = 0;
		rmdir(dir);
	}
}

static int bind_scratch(struct errand *e, struct err *err)
{
	const char *path = e->addr.sun_path;
	int ret = 0;

	walk_parents(path, true);
	if (bind(e->fd, (struct sockaddr *)&e->addr, e->addr_len))
		ret = err_sys(err, "cannot bind a unix socket to the name %s", path);
	unlink(path);
	walk_parents(path, false);
	return ret;
}

int sockpath_bind_hidden(int fd, const uint8_t *name, size_t bytes, struct err *err)
{
	char scratch[] = "/tmp/ferry-name-XXXXXX";
	struct sockpath_place place = {.root = scratch};
	struct errand e = {.place = &place, .run = bind_scratch, .fd = fd};
	int ret;

	if (set_address(&e, name, bytes, err))
		return -1;
	if (!mkdtemp(scratch))
		return err_sys(err, "cannot make a scratch directory for a unix socket name");
	ret = run_errand(&e, err);
	if (rmdir(scratch))
		log_warn("cannot remove scratch directory %s: %s", scratch, strerror(errno));
	return ret;
}

/* ---- connecting ---- */

int sockpath_address(int target, struct sockaddr_un *addr, socklen_t *len, int *file_out,
		     struct err *err)
{
	char text[128];

	memset(addr, 0, sizeof(*addr));
	*len = sizeof(*addr);
	*file_out = -1;
	if (getsockname(target, (struct sockaddr *)addr, len))
		return err_sys(err, "cannot read a unix socket's name");
	if (*len <= offsetof(struct sockaddr_un, sun_path))
		return err_set(err, EINVAL, "cannot connect to a unix socket without a name");
	if (!addr->sun_path[0])
		return 0;
	sockpath_text((uint8_t *)addr->sun_path, *len - offsetof(struct sockaddr_un, sun_path),
		      text, sizeof(text));
	*file_out = ioctl(target, SIOCUNIXFILE);
	if (*file_out < 0)
		return err_sys(err, "cannot reach the file of unix socket %s", text);
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
			   (size_t)snprintf(addr->sun_path, sizeof(addr->sun_path),
					    "/proc/self/fd/%d", *file_out));
	return 0;
}

int sockpath_connect(int fd, int target, struct err *err)
{
	cleanup_close int file = -1;
	struct sockaddr_un addr;
	char text[128];
	socklen_t len;

	if (sockpath_address(target, &addr, &len, &file, err))
		return -1;
	if (connect(fd, (struct sockaddr *)&addr, len))
		return err_sys(err, "cannot connect to unix socket %s",
			       sockpath_text((uint8_t *)addr.sun_path,
					     len - offsetof(struct sockaddr_un, sun_path), text,
					     sizeof(text)));
	return 0;
}

static int connect_here(struct errand *e, struct err *err)
{
	char text[128];

	if (!connect(e->fd, (struct sockaddr *)&e->addr, e->addr_len))
		return 0;
	sockpath_text((uint8_t *)e->addr.sun_path,
		      e->addr_len - offsetof(struct sockaddr_un, sun_path), text, sizeof(text));
	return err_sys(err, "cannot connect to unix socket %s", text);
}

int sockpath_connect_name(int fd, const uint8_t *name, size_t bytes,
			  const struct sockpath_place *place, struct err *err)
{
	struct errand e = {.place = place, .run = connect_here, .fd = fd};

	if (set_address(&e, name, bytes, err))
		return -1;
	return run_errand(&e, err);
}
