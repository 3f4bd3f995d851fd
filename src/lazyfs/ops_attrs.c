// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/athome.h"
#include "lazyfs/ops.h"
#include "lazyfs/status.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

static void reply_attr(struct lazyfs *fs, fuse_req_t req, struct node *n)
{
	struct stat st;

	pthread_mutex_lock(&fs->lock);
	node_stat(fs, n, &st);
	pthread_mutex_unlock(&fs->lock);
	fuse_reply_attr(req, &st, ops_valid_s(fs));
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n = node_of(fs, ino);
	int error = node_revalidate(fs, n, &p);

	if (error)
		fuse_reply_err(req, error);
	else
		reply_attr(fs, req, n);
}

static int set_size(struct lazyfs *fs, struct node *n, uint64_t size)
{
	struct content *c;

	if (!S_ISREG(n->attr.mode))
		return S_ISDIR(n->attr.mode) ? EISDIR : EINVAL;
	pthread_mutex_lock(&fs->lock);
	c = node_content(fs, n);
	pthread_mutex_unlock(&fs->lock);
	return c ? content_truncate(c, size) : ENOMEM;
}

static int64_t ns_of(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
}

static void set_times(struct lf_attr *a, const struct stat *attr, int what, int64_t now)
{
	if (what & FUSE_SET_ATTR_ATIME)
		a->atime_ns = what & FUSE_SET_ATTR_ATIME_NOW ? now : ns_of(&attr->st_atim);
	if (what & FUSE_SET_ATTR_MTIME)
		a->id.mtime_ns = what & FUSE_SET_ATTR_MTIME_NOW ? now : ns_of(&attr->st_mtim);
	else if (what & FUSE_SET_ATTR_SIZE)
		a->id.mtime_ns = now;
	a->id.ctime_ns = what & FUSE_SET_ATTR_CTIME ? ns_of(&attr->st_ctim) : now;
}

/* What goes home of a change of attributes; a change of the size goes with the contents. */
static uint32_t for_home(int what)
{
	return (what & FUSE_SET_ATTR_MODE ? LF_SET_MODE : 0u) |
	       (what & FUSE_SET_ATTR_UID ? LF_SET_UID : 0u) |
	       (what & FUSE_SET_ATTR_GID ? LF_SET_GID : 0u) |
	       (what & FUSE_SET_ATTR_MTIME ? LF_SET_MTIME : 0u) |
	       (what & FUSE_SET_ATTR_ATIME ? LF_SET_ATIME : 0u);
}

/* @a with what is to be set. */
static void set_attrs(struct lf_attr *a, const struct stat *attr, int what, int64_t now)
{
	if (what & FUSE_SET_ATTR_MODE)
		a->mode = (a->mode & S_IFMT) | (attr->st_mode & 07777);
	if (what & FUSE_SET_ATTR_UID)
		a->uid = attr->st_uid;
	if (what & FUSE_SET_ATTR_GID)
		a->gid = attr->st_gid;
	set_times(a, attr, what, now);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int what,
		       struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n = node_of(fs, ino);
	int64_t now = now_ns();
	bool at_home = false;
	struct lf_attr wanted;
	int error = 0;

	if (what & FUSE_SET_ATTR_SIZE)
		error = set_size(fs, n, (uint64_t)attr->st_size);
	if (!error) {
		pthread_mutex_lock(&fs->lock);
		wanted = n->attr;
		pthread_mutex_unlock(&fs->lock);
		set_attrs(&wanted, attr, what, now);
		error = athome_set(fs, n, for_home(what), &wanted, &p, &at_home);
	}
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	pthread_mutex_lock(&fs->lock);
	set_attrs(&n->attr, attr, what, now);
	/* a bit that home does not take stays here */
	at_home = at_home && !(what & FUSE_SET_ATTR_MODE && attr->st_mode & 07000);
	if (!at_home && what & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID |
				FUSE_SET_ATTR_MTIME))
		n->attrs_changed = true;
	pthread_mutex_unlock(&fs->lock);
	/* truncate(2) has no close(2) that would send it */
	if ((what & FUSE_SET_ATTR_SIZE) && !fi)
		error = athome_send(fs, n, false, &p);
	if (error)
		fuse_reply_err(req, error);
	else
		reply_attr(fs, req, n);
}

/* New data goes to where the cache files are. */
static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct statvfs st;

	if (fstatvfs(fs->opt.cache_fd, &st) < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	st.f_namemax = 255;
	fuse_reply_statfs(req, &st);
}

/* ---- extended attributes ---- */

/* With the lock. */
static struct xattr *find(struct node *n, const char *name)
{
	vec_foreach (x, &n->xattrs)
		if (!strcmp(x->name, name))
			return x;
	return NULL;
}

/* Answers a question for @bytes at @value, of which the program may want the size only. */
static void reply_value(fuse_req_t req, const void *value, size_t bytes, size_t room)
{
	if (!room)
		fuse_reply_xattr(req, bytes);
	else if (bytes > room)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, bytes);
}

static void reply_status(struct lazyfs *fs, fuse_req_t req, size_t room)
{
	cleanup_free char *text = status_json(fs);

	if (!text)
		fuse_reply_err(req, ENOMEM);
	else
		reply_value(req, text, strlen(text), room);
}

/* A piece of the list, which is made when somebody begins to read it. */
static void reply_carried(struct lazyfs *fs, fuse_req_t req, const char *from, size_t room)
{
	size_t at = strtoul(from, NULL, 10), bytes = 0;
	cleanup_free uint8_t *made = NULL, *piece = malloc(CARRIED_PIECE_BYTES);
	int error = piece ? 0 : ENOMEM;

	if (!error && !at)
		error = carried_list(fs, &made, &bytes);
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	pthread_mutex_lock(&fs->lock);
	if (!at) {
		free(fs->carried);
		fs->carried = steal_ptr(&made);
		fs->carried_bytes = bytes;
	}
	bytes = MIN(fs->carried_bytes - MIN(at, fs->carried_bytes), (size_t)CARRIED_PIECE_BYTES);
	if (bytes)
		memcpy(piece, fs->carried + at, bytes);
	pthread_mutex_unlock(&fs->lock);
	reply_value(req, piece, bytes, room);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t room)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n = node_of(fs, ino);
	cleanup_free uint8_t *copy = NULL;
	const struct xattr *x;
	size_t bytes = 0;
	int error;

	if (n == &fs->root && !strcmp(name, LAZYFS_STATUS_XATTR)) {
		reply_status(fs, req, room);
		return;
	}
	if (n == &fs->root && !strncmp(name, LAZYFS_CARRIED_XATTR, strlen(LAZYFS_CARRIED_XATTR))) {
		reply_carried(fs, req, name + strlen(LAZYFS_CARRIED_XATTR), room);
		return;
	}
	/* not kept here; no need to ask the source */
	error = !strncmp(name, "system.", 7) ? EOPNOTSUPP : node_load_xattrs(fs, n, &p);
	if (!error) {
		pthread_mutex_lock(&fs->lock);
		x = find(n, name);
		error = x ? 0 : ENODATA;
		if (x) {
			bytes = x->bytes;
			copy = malloc(bytes + 1);
			if (copy)
				memcpy(copy, x->value, bytes);
			error = copy ? 0 : ENOMEM;
		}
		pthread_mutex_unlock(&fs->lock);
	}
	if (error)
		fuse_reply_err(req, error);
	else
		reply_value(req, copy, bytes, room);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t room)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n = node_of(fs, ino);
	cleanup_free char *names = NULL;
	int error = node_load_xattrs(fs, n, &p);
	size_t bytes = 0;

	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	pthread_mutex_lock(&fs->lock);
	vec_foreach (x, &n->xattrs)
		bytes += strlen(x->name) + 1;
	names = malloc(bytes + 1);
	bytes = 0;
	if (names) {
		vec_foreach (x, &n->xattrs) {
			strcpy(names + bytes, x->name);
			bytes += strlen(x->name) + 1;
		}
	}
	pthread_mutex_unlock(&fs->lock);
	if (!names)
		fuse_reply_err(req, ENOMEM);
	else
		reply_value(req, names, bytes, room);
}

/* With the lock. */
static int may_set(struct node *n, const char *name, int flags)
{
	const struct xattr *x = find(n, name);

	if (x && (flags & XATTR_CREATE))
		return EEXIST;
	return !x && (flags & XATTR_REPLACE) ? ENODATA : 0;
}

/* With the lock. */
static int set_locked(struct node *n, const char *name, const void *value, size_t bytes)
{
	struct xattr *x = find(n, name), made = {.bytes = bytes};
	uint8_t *copy;

	copy = malloc(bytes + 1);
	if (!copy)
		return ENOMEM;
	memcpy(copy, value, bytes);
	if (x) {
		free(x->value);
		x->value = copy;
		x->bytes = bytes;
		return 0;
	}
	made.name = strdup(name);
	made.value = copy;
	if (!made.name || !vec_push(&n->xattrs, made)) {
		free(made.name);
		free(copy);
		return ENOMEM;
	}
	return 0;
}

/* The host's word, by an attribute of the root. */
static int obey(struct lazyfs *fs, const char *name, const char *value, size_t bytes)
{
	if (!fs->opt.everything)
		return EPERM;
	if (!strcmp(name, LAZYFS_DETACH_XATTR))
		return lazyfs_detach(fs, value, bytes, true);
	if (strcmp(name, LAZYFS_MOVED_XATTR) != 0)
		return EPERM;
	atomic_store(&fs->moved, true);
	lazyfs_send_home(fs, false);
	return 0;
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			size_t bytes, int flags)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n = node_of(fs, ino);
	bool at_home = false;
	int error = 0;

	if (n == &fs->root && !strncmp(name, LAZYFS_OWN_XATTRS, strlen(LAZYFS_OWN_XATTRS))) {
		fuse_reply_err(req, fuse_req_ctx(req)->uid ? EPERM : obey(fs, name, value, bytes));
		return;
	}
	if (!strncmp(name, "system.", 7))
		error = EOPNOTSUPP;
	else
		error = node_load_xattrs(fs, n, &p);
	if (!error) {
		pthread_mutex_lock(&fs->lock);
		error = may_set(n, name, flags);
		pthread_mutex_unlock(&fs->lock);
	}
	if (!error)
		error = athome_set_xattr(fs, n, name, value, bytes, &p, &at_home);
	if (!error) {
		pthread_mutex_lock(&fs->lock);
		error = set_locked(n, name, value, bytes);
		if (!error) {
			n->attr.id.ctime_ns = now_ns();
			n->attrs_changed |= !at_home;
		}
		pthread_mutex_unlock(&fs->lock);
	}
	fuse_reply_err(req, error);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n = node_of(fs, ino);
	int error = node_load_xattrs(fs, n, &p);
	bool at_home = false;

	if (!error) {
		pthread_mutex_lock(&fs->lock);
		error = may_set(n, name, XATTR_REPLACE);
		pthread_mutex_unlock(&fs->lock);
	}
	if (!error)
		error = athome_set_xattr(fs, n, name, NULL, 0, &p, &at_home);
	if (!error) {
		struct xattr *x;

		pthread_mutex_lock(&fs->lock);
		x = find(n, name);
		if (x) {
			free(x->name);
			free(x->value);
			*x = n->xattrs.v[--n->xattrs.n];
			n->attr.id.ctime_ns = now_ns();
			n->attrs_changed |= !at_home;
		} else {
			error = ENODATA;
		}
		pthread_mutex_unlock(&fs->lock);
	}
	fuse_reply_err(req, error);
}

void ops_attrs(struct fuse_lowlevel_ops *ops)
{
	ops->getattr = op_getattr;
	ops->setattr = op_setattr;
	ops->statfs = op_statfs;
	ops->getxattr = op_getxattr;
	ops->listxattr = op_listxattr;
	ops->setxattr = op_setxattr;
	ops->removexattr = op_removexattr;
}
