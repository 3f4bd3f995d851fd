// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/node.h"

#include "base/log.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static bool request_interrupted(void *arg)
{
	return fuse_req_interrupted(arg);
}

static bool fs_stopped(void *arg)
{
	return atomic_load(&((struct lazyfs *)arg)->stop);
}

struct patience node_patience(struct lazyfs *fs, fuse_req_t req)
{
	if (req)
		return patience_start(fs->opt.timeout_ms, request_interrupted, req);
	return patience_start(fs->opt.timeout_ms, fs_stopped, fs);
}

/* ---- life ---- */

static uint64_t link_key(const struct lf_ident *id)
{
	return id->ino ^ (id->dev << 40 | id->dev >> 24);
}

/*
 * The node that has this inode of the source already: hard links are one file
 * here, too. (The key may rarely be that of two; then the names are two files.)
 */
static struct node *find_link(struct lazyfs *fs, const struct lf_attr *attr)
{
	struct node **slot = map_get(&fs->links, link_key(&attr->id));
	struct node *n = slot ? *slot : NULL;

	return n && n->origin.dev == attr->id.dev && n->origin.ino == attr->id.ino ? n : NULL;
}

static bool remember_link(struct lazyfs *fs, struct node *n)
{
	struct node **slot = map_get(&fs->links, link_key(&n->origin));

	if (slot) {
		*slot = *slot ? *slot : n;
		return true;
	}
	slot = malloc(sizeof(struct node *));
	if (!slot || !map_set(&fs->links, link_key(&n->origin), (void *)slot)) {
		free((void *)slot);
		return false;
	}
	*slot = n;
	return true;
}

static void forget_link(struct lazyfs *fs, const struct node *n)
{
	struct node **slot = map_get(&fs->links, link_key(&n->origin));

	if (slot && *slot == n)
		*slot = NULL;
}

struct node *node_create(struct lazyfs *fs, const struct lf_attr *attr, const char *source)
{
	struct node *n = calloc(1, sizeof(*n));

	if (!n || (source && !(n->source = strdup(source)))) {
		free(n);
		return NULL;
	}
	n->number = ++fs->next_number;
	n->attr = *attr;
	n->origin = attr->id;
	n->listed = n->xattrs_here = !source;
	if (source && S_ISREG(attr->mode) && attr->nlink > 1 && !remember_link(fs, n)) {
		free(n->source);
		free(n);
		return NULL;
	}
	fs->n_nodes++;
	return n;
}

void node_drop_content(struct lazyfs *fs, struct node *n)
{
	struct node **p = &fs->contents;

	if (!n->content)
		return;
	while (*p != n)
		p = &(*p)->next_content;
	*p = n->next_content;
	content_destroy(n->content);
	n->content = NULL;
}

/* A name in @dir does not lead to it any more. */
static void leave(struct lazyfs *fs, const struct node *dir, struct node *n)
{
	n->n_names--;
	if (n->parent == dir)
		n->parent = NULL;
	node_release(fs, n);
}

static void free_names(struct lazyfs *fs, struct node *dir)
{
	while (dir->names.first) {
		struct node *n = dir->names.first->node;

		dirnames_remove(&dir->names, dir->names.first);
		if (n)
			leave(fs, dir, n);
	}
	dirnames_free(&dir->names);
}

void node_release(struct lazyfs *fs, struct node *n)
{
	if (n->lookups || n->n_names || n->pins || n == &fs->root)
		return;
	free_names(fs, n);
	if (n->source)
		forget_link(fs, n);
	node_drop_content(fs, n);
	vec_foreach (x, &n->xattrs) {
		free(x->name);
		free(x->value);
	}
	vec_free(&n->xattrs);
	free(n->target);
	free(n->source);
	free(n);
	fs->n_nodes--;
}

bool node_add_name(struct node *dir, const char *text, struct node *n)
{
	struct name *e = dirnames_find(&dir->names, text);

	if (e) {
		e->node = n; /* it was removed before */
		e->from_source = false;
	} else if (!dirnames_add(&dir->names, text, n)) {
		return false;
	}
	n->n_names++;
	if (S_ISDIR(n->attr.mode))
		n->parent = dir;
	return true;
}

void node_drop_name(struct lazyfs *fs, struct node *dir, struct name *name)
{
	struct node *n = name->node;

	/* where the source may be asked for this name again, it must be remembered that it is gone */
	if (dir->blind || !dir->listed)
		name->node = NULL;
	else
		dirnames_remove(&dir->names, name);
	if (n)
		leave(fs, dir, n);
}

void node_forget_name(struct lazyfs *fs, struct node *dir, struct name *name)
{
	struct node *n = name->node;

	dirnames_remove(&dir->names, name);
	if (n)
		leave(fs, dir, n);
}

bool node_empty(const struct node *dir)
{
	for (const struct name *e = dir->names.first; e; e = e->next)
		if (e->node)
			return false;
	return true;
}

struct content *node_content(struct lazyfs *fs, struct node *n)
{
	if (n->content)
		return n->content;
	n->content = content_create(&fs->env, n->source, &n->origin);
	if (n->content) {
		n->content->program = n->source && (n->attr.mode & 0111 ||
						    strstr(strrchr(n->source, '/'), ".so"));
		n->content->open_to_all = n->source && n->attr.mode & S_IROTH;
		n->next_content = fs->contents;
		fs->contents = n;
	}
	return n->content;
}

static struct timespec ts_of(int64_t ns)
{
	struct timespec ts = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	if (ts.tv_nsec < 0) {
		ts.tv_sec--;
		ts.tv_nsec += 1000000000;
	}
	return ts;
}

void node_stat(struct lazyfs *fs, struct node *n, struct stat *st)
{
	const struct lf_attr *a = &n->attr;
	struct content_state cs;

	(void)fs;
	*st = (struct stat){
		.st_ino = n->number,
		.st_mode = a->mode,
		.st_nlink = a->nlink,
		.st_uid = a->uid,
		.st_gid = a->gid,
		.st_rdev = a->rdev,
		.st_size = (off_t)a->id.size,
		.st_blocks = (blkcnt_t)a->blocks,
		.st_blksize = 4096,
		.st_atim = ts_of(a->atime_ns),
		.st_mtim = ts_of(a->id.mtime_ns),
		.st_ctim = ts_of(a->id.ctime_ns),
	};
	if (!n->content)
		return;
	content_get_state(n->content, &cs);
	st->st_size = (off_t)cs.size;
	if (cs.modified && cs.complete)
		st->st_blocks = (blkcnt_t)cs.blocks_512;
}

char *node_source(struct lazyfs *fs, const struct node *n)
{
	char *copy;

	pthread_mutex_lock(&fs->lock);
	copy = n->source ? strdup(n->source) : NULL;
	pthread_mutex_unlock(&fs->lock);
	return copy;
}

void node_unpin(struct lazyfs *fs, struct node *n)
{
	pthread_mutex_lock(&fs->lock);
	n->pins--;
	node_release(fs, n);
	pthread_mutex_unlock(&fs->lock);
}

/* ---- what the source knows ---- */

/* An answer may come twice, when a connection broke in between. */
int node_add_child(struct lazyfs *fs, struct node *dir, const char *name,
		   const struct lf_attr *attr, const char *target)
{
	char path[LF_PATH_MAX + 1];
	struct node *n = NULL;

	if (dirnames_find(&dir->names, name))
		return 0;
	if (scope_join(path, dir->source, name) < 0)
		return 0; /* cannot be named */
	if (S_ISREG(attr->mode) && attr->nlink > 1)
		n = find_link(fs, attr);
	if (!n)
		n = node_create(fs, attr, path);
	if (!n)
		return ENOMEM;
	if (!node_add_name(dir, name, n)) {
		node_release(fs, n);
		return ENOMEM;
	}
	dirnames_find(&dir->names, name)->from_source = true;
	if (target && *target && S_ISLNK(attr->mode) && !n->target)
		n->target = strdup(target); /* without it, it is asked for later */
	return 0;
}

int node_error(int error)
{
	switch (error) {
	case EACCES:
	case ENOENT:
	case ENOTDIR:
	case EINTR:
	case ENOMEM:
	case ENAMETOOLONG:
		return error;
	default:
		return EIO;
	}
}

/* For node_load and node_lookup; @name: NULL, or what is looked up. */
static int load(struct lazyfs *fs, struct node *dir, const struct patience *p, enum listing_why why,
		const char *name)
{
	unsigned int lists;
	int error = 0;

	pthread_mutex_lock(&fs->lock);
	lists = dir->lists;
	while (!dir->listed && !error) {
		if (dir->lists != lists)
			error = dir->list_error;
		else if (!dir->listing)
			error = listing_begin(fs, dir, why, name);
		if (dir->listed || error)
			break;
		wait_step(&fs->cond, &fs->lock, PATIENCE_STEP_MS);
		if (!dir->listed && dir->lists == lists)
			error = patience_check(p, fs->remote);
	}
	pthread_mutex_unlock(&fs->lock);
	return error ? node_error(error) : 0;
}

int node_load(struct lazyfs *fs, struct node *dir, const struct patience *p, enum listing_why why)
{
	return load(fs, dir, p, why, NULL);
}

/* A name of a directory that the source may search but not list. */
static int ask_name(struct lazyfs *fs, struct node *dir, const char *text, const struct patience *p)
{
	char path[LF_PATH_MAX + 1];
	struct lf_request q = {.type = LF_STAT, .path = path};
	struct lf_attr attr;
	int error;

	if (scope_join(path, dir->source, text) < 0)
		return ENAMETOOLONG;
	atomic_fetch_add(&fs->env.demands, 1);
	error = remote_ask(fs->remote, &q, p, remote_take_attr, &attr);
	if (error)
		return node_error(error);
	pthread_mutex_lock(&fs->lock);
	error = node_add_child(fs, dir, text, &attr, NULL);
	pthread_mutex_unlock(&fs->lock);
	return error;
}

/* With the lock; NULL: no such name as far as we know, *known_out: and that is certain. */
static struct node *find_pinned(struct node *dir, const char *text, bool *known_out)
{
	struct name *e = dirnames_find(&dir->names, text);

	*known_out = e || (dir->listed && !dir->blind);
	if (!e || !e->node)
		return NULL;
	e->node->pins++;
	return e->node;
}

int node_lookup(struct lazyfs *fs, struct node *dir, const char *text, struct node **out,
		const struct patience *p)
{
	bool known = false;
	int error = 0;

	/* what is known, then with a list of the directory, then by asking for this name */
	for (int attempt = 0; attempt < 3 && !error; attempt++) {
		pthread_mutex_lock(&fs->lock);
		*out = find_pinned(dir, text, &known);
		pthread_mutex_unlock(&fs->lock);
		if (*out)
			return 0;
		if (known)
			return ENOENT;
		error = attempt ? ask_name(fs, dir, text, p) : load(fs, dir, p, LISTING_USED, text);
	}
	return error ? error : ENOENT;
}

struct text {
	char *v;
};

static int take_target(void *arg, const struct lf_reply *reply)
{
	struct text *t = arg;

	if (reply->type != LF_TARGET)
		return EPROTO;
	free(t->v);
	t->v = strndup((const char *)reply->target, reply->target_bytes);
	return t->v ? 0 : ENOMEM;
}

int node_load_target(struct lazyfs *fs, struct node *n, const struct patience *p)
{
	cleanup_free char *source = node_source(fs, n);
	struct lf_request q = {.type = LF_READLINK, .path = source};
	struct text t = {0};
	bool have;
	int error;

	pthread_mutex_lock(&fs->lock);
	have = n->target;
	pthread_mutex_unlock(&fs->lock);
	if (have)
		return 0;
	atomic_fetch_add(&fs->env.demands, 1);
	error = source ? remote_ask(fs->remote, &q, p, take_target, &t) : EINVAL;
	pthread_mutex_lock(&fs->lock);
	if (!error && !n->target)
		n->target = steal_ptr(&t.v);
	pthread_mutex_unlock(&fs->lock);
	free(t.v);
	return error ? node_error(error) : 0;
}

struct xattr_list {
	VEC(struct xattr) v;
};

static int take_xattrs(void *arg, const struct lf_reply *reply)
{
	struct xattr_list *l = arg;

	if (reply->type != LF_XATTR_LIST)
		return EPROTO;
	vec_foreach (x, &reply->xattrs) {
		struct xattr one = {.name = strdup(x->name),
				    .value = malloc(x->bytes + 1),
				    .bytes = x->bytes};

		if (!one.name || !one.value || !vec_push(&l->v, one)) {
			free(one.name);
			free(one.value);
			return ENOMEM;
		}
		memcpy(one.value, x->value, x->bytes);
	}
	return 0;
}

int node_load_xattrs(struct lazyfs *fs, struct node *n, const struct patience *p)
{
	cleanup_free char *source = node_source(fs, n);
	struct lf_request q = {.type = LF_XATTRS, .path = source};
	struct xattr_list l = {0};
	bool here;
	int error;

	pthread_mutex_lock(&fs->lock);
	here = n->xattrs_here;
	pthread_mutex_unlock(&fs->lock);
	if (here)
		return 0;
	error = source ? remote_ask(fs->remote, &q, p, take_xattrs, &l) : ENOMEM;
	/* of directories on the way, and of what is gone by now, there are none to be had */
	if (error == EACCES || error == ENOENT)
		error = 0;
	pthread_mutex_lock(&fs->lock);
	if (!error && !n->xattrs_here) {
		n->xattrs_here = true;
		n->xattrs.v = l.v.v;
		n->xattrs.n = l.v.n;
		n->xattrs.cap = l.v.cap;
		l = (struct xattr_list){0};
	}
	pthread_mutex_unlock(&fs->lock);
	vec_foreach (x, &l.v) {
		free(x->name);
		free(x->value);
	}
	vec_free(&l.v);
	return error ? node_error(error) : 0;
}

int node_revalidate(struct lazyfs *fs, struct node *n, const struct patience *p)
{
	cleanup_free char *source = fs->opt.refetch && S_ISREG(n->attr.mode) ? node_source(fs, n) :
									       NULL;
	struct lf_request q = {.type = LF_STAT, .path = source};
	struct content *c;
	struct lf_attr now;
	int error;

	if (!source)
		return 0;
	error = remote_ask(fs->remote, &q, p, remote_take_attr, &now);
	/* a name that is gone there stays here: it was the tree's */
	if (error)
		return error == EINTR ? EINTR : 0;
	pthread_mutex_lock(&fs->lock);
	c = n->content;
	if ((c ? content_revalidate(c, &now) : S_ISREG(now.mode)) &&
	    !lf_ident_same(&n->origin, &now.id)) {
		forget_link(fs, n);
		n->attr = now;
		n->origin = now.id;
	}
	pthread_mutex_unlock(&fs->lock);
	return 0;
}

int node_load_root(struct lazyfs *fs, const struct patience *p)
{
	struct lf_request q = {.type = LF_STAT, .path = "/"};
	int error = remote_ask(fs->remote, &q, p, remote_take_attr, &fs->root.attr);

	if (!error && !S_ISDIR(fs->root.attr.mode))
		error = ENOTDIR;
	return error;
}
