// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/athome.h"
#include "lazyfs/ops.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>

/* Nobody else changes anything here, so the kernel need not ask again: but where the source's changes count. */
double ops_valid_s(const struct lazyfs *fs)
{
	return fs->opt.refetch ? 1.0 : 3600.0;
}

void ops_entry(struct lazyfs *fs, struct node *n, struct fuse_entry_param *out)
{
	n->lookups++;
	*out = (struct fuse_entry_param){
		.ino = ino_of(fs, n),
		.attr_timeout = ops_valid_s(fs),
		.entry_timeout = ops_valid_s(fs),
	};
	node_stat(fs, n, &out->attr);
}

/* As the kernel says that it forgets @count look-ups. */
static void forget_one(struct lazyfs *fs, fuse_ino_t ino, uint64_t count)
{
	struct node *n = node_of(fs, ino);

	if (n == &fs->root)
		return;
	pthread_mutex_lock(&fs->lock);
	n->lookups -= MIN(n->lookups, count);
	node_release(fs, n);
	pthread_mutex_unlock(&fs->lock);
}

void ops_reply_entry(struct lazyfs *fs, fuse_req_t req, struct node *n)
{
	struct fuse_entry_param e;

	pthread_mutex_lock(&fs->lock);
	ops_entry(fs, n, &e);
	n->pins--;
	pthread_mutex_unlock(&fs->lock);
	if (fuse_reply_entry(req, &e) < 0)
		forget_one(fs, e.ino, 1); /* the one who asked is gone */
}

/* Are all its names known? Then the kernel need not ask again for one that is not there; it sees those that are made here. */
static bool is_complete(struct lazyfs *fs, const struct node *dir)
{
	bool complete;

	pthread_mutex_lock(&fs->lock);
	complete = dir->listed && !dir->blind;
	pthread_mutex_unlock(&fs->lock);
	return complete;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n;
	int error = node_lookup(fs, node_of(fs, parent), name, &n, &p);

	if (!error && fs->opt.refetch) {
		error = node_revalidate(fs, n, &p);
		if (error)
			node_unpin(fs, n);
	}
	if (error == ENOENT && is_complete(fs, node_of(fs, parent)))
		fuse_reply_entry(req, &(struct fuse_entry_param){.entry_timeout = ops_valid_s(fs)});
	else if (error)
		fuse_reply_err(req, error);
	else
		ops_reply_entry(fs, req, n);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	forget_one(fuse_req_userdata(req), ino, count);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget_one(fuse_req_userdata(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* ---- making ---- */

static void touch_dir(struct node *dir)
{
	dir->attr.id.mtime_ns = dir->attr.id.ctime_ns = now_ns();
}

/* With the lock: is the name free? Where names are asked for one by one, it was. */
static int name_free(const struct node *dir, const char *name)
{
	const struct name *e = dirnames_find(&dir->names, name);

	return e && e->node ? EEXIST : 0;
}

/* The directory is loaded, and it is known whether it has @name. */
static int prepare(struct lazyfs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	struct patience p = node_patience(fs, req);
	struct node *n;
	int error = node_lookup(fs, dir, name, &n, &p);

	if (error)
		return error == ENOENT ? 0 : error;
	node_unpin(fs, n);
	return 0;
}

static struct node *new_node(struct lazyfs *fs, fuse_req_t req, const struct node *dir, mode_t mode,
			     dev_t rdev, const char *target)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	int64_t now = now_ns();
	struct lf_attr attr = {
		.mode = mode,
		.nlink = S_ISDIR(mode) ? 2 : 1,
		.uid = ctx->uid,
		.gid = ctx->gid,
		.rdev = rdev,
		.atime_ns = now,
		.id = {.mtime_ns = now, .ctime_ns = now, .size = target ? strlen(target) : 0},
	};
	struct node *n;

	/* inode(7): the group of a directory that has the bit, and the bit for directories in it */
	if (dir->attr.mode & S_ISGID) {
		attr.gid = dir->attr.gid;
		attr.mode |= S_ISDIR(mode) ? S_ISGID : 0;
	}
	n = node_create(fs, &attr, NULL);
	if (n &&
	    ((target && !(n->target = strdup(target))) || (S_ISREG(mode) && !node_content(fs, n)))) {
		node_release(fs, n);
		return NULL;
	}
	return n;
}

/* What was made at home. */
static struct node *adopt(struct lazyfs *fs, const char *path, const struct lf_attr *attr,
			  const char *target)
{
	struct node *n = node_create(fs, attr, path);

	if (!n)
		return NULL;
	n->listed = n->xattrs_here = true;
	if (target && !(n->target = strdup(target))) {
		node_release(fs, n);
		return NULL;
	}
	return n;
}

int ops_make(struct lazyfs *fs, fuse_req_t req, struct node *dir, const char *name, mode_t mode,
	     dev_t rdev, const char *target, struct node **out)
{
	struct patience p = node_patience(fs, req);
	const bool home = athome_makes(fs, dir, mode);
	char path[LF_PATH_MAX + 1];
	struct lf_attr attr;
	struct node *n = NULL;
	int error = prepare(fs, req, dir, name);

	if (!error && home)
		error = athome_make(fs, dir, name, mode, target, path, &attr, &p);
	if (error)
		return error;
	pthread_mutex_lock(&fs->lock);
	error = name_free(dir, name);
	if (!error && !dir->n_names)
		error = ENOENT; /* it was removed while somebody works in it */
	if (!error) {
		n = home ? adopt(fs, path, &attr, target) :
			   new_node(fs, req, dir, mode, rdev, target);
		error = n ? 0 : ENOMEM;
	}
	if (n && !node_add_name(dir, name, n)) {
		node_release(fs, n);
		error = ENOMEM;
	}
	if (!error) {
		n->pins++;
		if (S_ISDIR(mode))
			dir->attr.nlink++;
		touch_dir(dir);
		*out = n;
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}

static void make_and_reply(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
			   dev_t rdev, const char *target)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct node *n;
	int error = ops_make(fs, req, node_of(fs, parent), name, mode, rdev, target, &n);

	if (error)
		fuse_reply_err(req, error);
	else
		ops_reply_entry(fs, req, n);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	make_and_reply(req, parent, name, mode & S_IFMT ? mode : mode | S_IFREG, rdev, NULL);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make_and_reply(req, parent, name, (mode & 07777) | S_IFDIR, 0, NULL);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	make_and_reply(req, parent, name, S_IFLNK | 0777, 0, target);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct node *n = node_of(fs, ino), *dir = node_of(fs, parent);
	/* a name at home that is not a file's only one is more than can be followed */
	int error = athome_dir(fs, dir) ? EPERM : prepare(fs, req, dir, name);

	if (!error) {
		pthread_mutex_lock(&fs->lock);
		error = name_free(dir, name);
		if (!error && (!dir->n_names || !n->n_names))
			error = ENOENT;
		if (!error && !node_add_name(dir, name, n))
			error = ENOMEM;
		if (!error) {
			n->attr.nlink++;
			n->attr.id.ctime_ns = now_ns();
			n->pins++;
			touch_dir(dir);
		}
		pthread_mutex_unlock(&fs->lock);
	}
	if (error)
		fuse_reply_err(req, error);
	else
		ops_reply_entry(fs, req, n);
}

/* ---- removing ---- */

/* With the lock. A name goes; the file does when nobody uses it. */
static void remove_name(struct lazyfs *fs, struct node *dir, struct name *e)
{
	struct node *n = e->node;

	if (S_ISDIR(n->attr.mode)) {
		n->attr.nlink = 0;
		dir->attr.nlink -= dir->attr.nlink > 2;
	} else if (n->attr.nlink) {
		n->attr.nlink--;
	}
	n->attr.id.ctime_ns = now_ns();
	touch_dir(dir);
	carried_note_base(fs, dir, e);
	node_drop_name(fs, dir, e);
}

/* The directory that a name leads to knows its entries after it; other files are left alone. */
static int load_child(struct lazyfs *fs, fuse_req_t req, struct node *dir, const char *name)
{
	struct patience p = node_patience(fs, req);
	struct node *n;
	int error = node_lookup(fs, dir, name, &n, &p);

	if (error)
		return error;
	if (S_ISDIR(n->attr.mode))
		error = node_load(fs, n, &p, LISTING_USED);
	node_unpin(fs, n);
	return error;
}

/* With the lock: may this name go? *out: what it leads to, pinned. */
static int check_removal(struct node *dir, const char *name, bool want_dir, struct node **out)
{
	struct name *e = dirnames_find(&dir->names, name);

	if (!e || !e->node)
		return ENOENT;
	if (want_dir != S_ISDIR(e->node->attr.mode))
		return want_dir ? ENOTDIR : EISDIR;
	if (want_dir && (!node_empty(e->node) || e->node->blind))
		return ENOTEMPTY;
	*out = e->node;
	e->node->pins++;
	return 0;
}

static void remove_and_reply(fuse_req_t req, fuse_ino_t parent, const char *name, bool want_dir)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *dir = node_of(fs, parent), *n = NULL;
	int error = load_child(fs, req, dir, name);

	if (!error) {
		pthread_mutex_lock(&fs->lock);
		error = check_removal(dir, name, want_dir, &n);
		pthread_mutex_unlock(&fs->lock);
	}
	/* the kernel lets nobody else change the directory meanwhile */
	if (!error)
		error = athome_remove(fs, dir, name, n, &p);
	if (n) {
		pthread_mutex_lock(&fs->lock);
		if (!error)
			remove_name(fs, dir, dirnames_find(&dir->names, name));
		pthread_mutex_unlock(&fs->lock);
		node_unpin(fs, n);
	}
	fuse_reply_err(req, error);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_and_reply(req, parent, name, false);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_and_reply(req, parent, name, true);
}

/* ---- rename ---- */

/* What rename(2) says about a name that is taken; the kernel has compared the types. */
static int check_replaced(const struct name *to, unsigned int flags)
{
	if (flags & RENAME_NOREPLACE)
		return EEXIST;
	if (S_ISDIR(to->node->attr.mode) && (!node_empty(to->node) || to->node->blind))
		return ENOTEMPTY;
	return 0;
}

static void move_links(struct node *from, struct node *to, const struct node *n)
{
	if (from == to || !S_ISDIR(n->attr.mode))
		return;
	from->attr.nlink -= from->attr.nlink > 2;
	to->attr.nlink++;
}

static int exchange(struct lazyfs *fs, struct node *from, struct name *a, struct node *to,
		    struct name *b)
{
	struct node *n = a->node;

	carried_note_base(fs, from, a);
	carried_note_base(fs, to, b);
	a->node = b->node;
	b->node = n;
	a->from_source = b->from_source = false;
	move_links(from, to, n);
	move_links(to, from, a->node);
	if (S_ISDIR(n->attr.mode))
		n->parent = to;
	if (S_ISDIR(a->node->attr.mode))
		a->node->parent = from;
	n->attr.id.ctime_ns = a->node->attr.id.ctime_ns = now_ns();
	return 0;
}

/* With the lock. */
static int rename_locked(struct lazyfs *fs, struct node *from, const char *name, struct node *to,
			 const char *new_name, unsigned int flags)
{
	struct name *a = dirnames_find(&from->names, name), *b = dirnames_find(&to->names, new_name);
	struct node *n;
	int error;

	if (!a || !a->node || !to->n_names)
		return ENOENT;
	if (b && !b->node)
		b = NULL;
	n = a->node;
	if (flags & RENAME_EXCHANGE)
		return b ? exchange(fs, from, a, to, b) : ENOENT;
	error = b ? check_replaced(b, flags) : 0;
	if (error)
		return error;
	if (b && b->node == n)
		return 0; /* two names of one file: nothing happens */
	n->pins++;
	if (b)
		remove_name(fs, to, b);
	if (!node_add_name(to, new_name, n)) {
		n->pins--;
		return ENOMEM;
	}
	/* looked for again: what was removed may have been followed by this one */
	a = dirnames_find(&from->names, name);
	carried_note_base(fs, from, a);
	node_drop_name(fs, from, a);
	if (S_ISDIR(n->attr.mode))
		n->parent = to;
	move_links(from, to, n);
	n->attr.id.ctime_ns = now_ns();
	n->pins--;
	return 0;
}

/* The node of a name, pinned; NULL: there is none. */
static struct node *pin_child(struct lazyfs *fs, struct node *dir, const char *name)
{
	const struct name *e;
	struct node *n = NULL;

	pthread_mutex_lock(&fs->lock);
	e = dirnames_find(&dir->names, name);
	if (e && e->node) {
		n = e->node;
		n->pins++;
	}
	pthread_mutex_unlock(&fs->lock);
	return n;
}

/* First at home; the kernel lets nobody else change the directories meanwhile. */
static int rename_at_home(struct lazyfs *fs, fuse_req_t req, struct node *from, const char *name,
			  struct node *to, const char *new_name, unsigned int flags)
{
	struct patience p = node_patience(fs, req);
	struct node *n, *replaced;
	int error = 0;

	if (!athome_dir(fs, from) && !athome_dir(fs, to))
		return 0;
	if (flags & RENAME_EXCHANGE)
		return EINVAL;
	n = pin_child(fs, from, name);
	replaced = pin_child(fs, to, new_name);
	if (n && !(replaced && (flags & RENAME_NOREPLACE)) && n != replaced)
		error = athome_rename(fs, from, name, to, new_name, n, replaced, &p);
	if (n)
		node_unpin(fs, n);
	if (replaced)
		node_unpin(fs, replaced);
	return error;
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		      const char *new_name, unsigned int flags)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct node *from = node_of(fs, parent), *to = node_of(fs, new_parent);
	int error = flags & ~(unsigned int)(RENAME_NOREPLACE | RENAME_EXCHANGE) ? EINVAL : 0;

	if (!error)
		error = load_child(fs, req, from, name);
	if (!error) {
		error = load_child(fs, req, to, new_name);
		error = error == ENOENT ? 0 : error;
	}
	if (!error)
		error = rename_at_home(fs, req, from, name, to, new_name, flags);
	if (!error) {
		pthread_mutex_lock(&fs->lock);
		error = rename_locked(fs, from, name, to, new_name, flags);
		if (!error) {
			touch_dir(from);
			touch_dir(to);
		}
		pthread_mutex_unlock(&fs->lock);
	}
	fuse_reply_err(req, error);
}

/* ---- listing ---- */

/* A directory as it was when it was opened, or rewound. */
struct dir_handle {
	struct listed {
		char *name;
		uint64_t number;
		mode_t mode;
	} * v;
	size_t n;
	pthread_mutex_t lock;
};

static void handle_clear(struct dir_handle *h)
{
	for (size_t i = 0; i < h->n; i++)
		free(h->v[i].name);
	free(h->v);
	h->v = NULL;
	h->n = 0;
}

static bool handle_add(struct dir_handle *h, const char *name, const struct node *n)
{
	h->v[h->n] = (struct listed){.name = strdup(name),
				     .number = n->number,
				     .mode = n->attr.mode & S_IFMT};
	return h->v[h->n].name && ++h->n;
}

static int handle_fill(struct lazyfs *fs, struct node *dir, struct dir_handle *h)
{
	bool ok;

	handle_clear(h);
	pthread_mutex_lock(&fs->lock);
	h->v = calloc(dir->names.n + 2, sizeof(*h->v));
	ok = h->v && handle_add(h, ".", dir) && handle_add(h, "..", dir->parent ? dir->parent : dir);
	for (const struct name *e = dir->names.first; e && ok; e = e->next)
		if (e->node)
			ok = handle_add(h, e->text, e->node);
	pthread_mutex_unlock(&fs->lock);
	return ok ? 0 : ENOMEM;
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *dir = node_of(fs, ino);
	struct dir_handle *h = calloc(1, sizeof(*h));
	int error = h ? node_load(fs, dir, &p, LISTING_USED) : ENOMEM;

	if (!error && dir->blind)
		error = EACCES;
	if (error) {
		free(h);
		fuse_reply_err(req, error);
		return;
	}
	pthread_mutex_init(&h->lock, NULL);
	fi->fh = (uint64_t)(uintptr_t)h;
	if (fuse_reply_open(req, fi) < 0) {
		pthread_mutex_destroy(&h->lock);
		free(h);
	}
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct dir_handle *h = (struct dir_handle *)(uintptr_t)fi->fh;
	char *buf = malloc(size);
	size_t used = 0;
	int error = buf ? 0 : ENOMEM;

	pthread_mutex_lock(&h->lock);
	if (!error && off == 0)
		error = handle_fill(fs, node_of(fs, ino), h);
	for (size_t i = (size_t)off; i < h->n && !error; i++) {
		struct stat st = {.st_ino = h->v[i].number, .st_mode = h->v[i].mode};
		size_t n = fuse_add_direntry(req, buf + used, size - used, h->v[i].name, &st,
					     (off_t)i + 1);

		if (n > size - used)
			break;
		used += n;
	}
	pthread_mutex_unlock(&h->lock);
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_buf(req, buf, used);
	free(buf);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);

	fuse_reply_err(req, fs->opt.writeback ? athome_settle_dir(fs, node_of(fs, ino), &p) : ENOSYS);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct dir_handle *h = (struct dir_handle *)(uintptr_t)fi->fh;

	handle_clear(h);
	pthread_mutex_destroy(&h->lock);
	free(h);
	fuse_reply_err(req, 0);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n = node_of(fs, ino);
	int error = node_load_target(fs, n, &p);

	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_readlink(req, n->target); /* never changes once it is there */
}

void ops_names(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = op_lookup;
	ops->forget = op_forget;
	ops->forget_multi = op_forget_multi;
	ops->mknod = op_mknod;
	ops->mkdir = op_mkdir;
	ops->symlink = op_symlink;
	ops->link = op_link;
	ops->unlink = op_unlink;
	ops->rmdir = op_rmdir;
	ops->rename = op_rename;
	ops->opendir = op_opendir;
	ops->readdir = op_readdir;
	ops->fsyncdir = op_fsyncdir;
	ops->releasedir = op_releasedir;
	ops->readlink = op_readlink;
}
