// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/athome.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

enum { STEP_BYTES = 1024 * 1024, LAST_MS = 60000 };

bool athome_dir(const struct lazyfs *fs, const struct node *dir)
{
	return atomic_load(&fs->sends) && dir->source &&
	       scope_place(&fs->scope, dir->source) == SCOPE_INSIDE;
}

bool athome_makes(const struct lazyfs *fs, const struct node *dir, mode_t mode)
{
	return (S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode)) && athome_dir(fs, dir);
}

/* What a program is told; the rest is of the way there, or of what somebody else did at home. */
static int for_program(int error)
{
	static const int plain[] = {EACCES, EPERM,  EROFS,   ENOSPC, EDQUOT,    EFBIG,
				    EINTR,  ENOMEM, ETXTBSY, EEXIST, ENOTEMPTY, EXDEV,
				    EBUSY,  EMLINK, ENOENT,  EISDIR, ENOTDIR,   ENAMETOOLONG};

	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		if (error == plain[i])
			return error;
	return error ? EIO : 0;
}

/* *again_out: it may have been asked twice, over an old and a new connection, and have been done the first time. */
static int ask(struct lazyfs *fs, const struct lf_request *q, struct lf_attr *out,
	       const struct patience *p, bool *again_out)
{
	struct remote_state before, after;
	int error;

	remote_get_state(fs->remote, &before);
	error = remote_ask(fs->remote, q, p, remote_take_attr, out);
	remote_get_state(fs->remote, &after);
	*again_out = before.connects != after.connects;
	return error;
}

static int ask_state(struct lazyfs *fs, const char *path, struct lf_attr *out,
		     const struct patience *p)
{
	const struct lf_request q = {.type = LF_STAT, .path = path};

	return remote_ask(fs->remote, &q, p, remote_take_attr, out);
}

/* ---- making ---- */

int athome_make(struct lazyfs *fs, const struct node *dir, const char *name, mode_t mode,
		const char *target, char path_out[LF_PATH_MAX + 1], struct lf_attr *attr_out,
		const struct patience *p)
{
	struct lf_request q = {.type = LF_CREATE,
			       .path = path_out,
			       .mode = mode,
			       .other = target ? target : ""};
	bool again;
	int error;

	if (scope_join(path_out, dir->source, name) < 0)
		return ENAMETOOLONG;
	error = ask(fs, &q, attr_out, p, &again);
	/* ours, if it is as we would have made it */
	if (error == EEXIST && again && ask_state(fs, path_out, attr_out, p) == 0 &&
	    (attr_out->mode & S_IFMT) == (mode & S_IFMT) && (!S_ISREG(mode) || !attr_out->id.size))
		error = 0;
	return for_program(error);
}

/* ---- what a name at home leads to ---- */

static bool same_file(const struct lf_ident *a, const struct lf_ident *b)
{
	return a->dev == b->dev && a->ino == b->ino;
}

/* Who has it open goes on reading when it has no name at home any more. */
static int bring_open(struct lazyfs *fs, struct node *n, const struct patience *p)
{
	struct content *c = NULL;
	bool complete = false;
	int error = 0;

	pthread_mutex_lock(&fs->lock);
	if (S_ISREG(n->attr.mode) && n->opens)
		c = node_content(fs, n);
	pthread_mutex_unlock(&fs->lock);
	while (c && !complete && !error)
		error = content_fill(c, STEP_BYTES, &complete, p);
	return error;
}

/* The identity at home, which stays what it is until unlock. */
static int lock(struct lazyfs *fs, struct node *n, const struct patience *p, struct lf_ident *id_out)
{
	struct content *c;

	pthread_mutex_lock(&fs->lock);
	c = S_ISREG(n->attr.mode) ? node_content(fs, n) : NULL;
	*id_out = n->origin;
	pthread_mutex_unlock(&fs->lock);
	if (!c)
		return S_ISREG(n->attr.mode) ? ENOMEM : 0;
	return content_lock_home(c, p, id_out);
}

/* @path NULL: it has no name at home any more; @id NULL: nothing has changed. */
static void unlock(struct lazyfs *fs, struct node *n, const char *path, const struct lf_ident *id)
{
	char *copy = id && path ? strdup(path) : NULL;
	struct content *c;

	pthread_mutex_lock(&fs->lock);
	c = n->content;
	if (id)
		n->origin = *id;
	if (copy) {
		free(n->source);
		n->source = copy;
	}
	pthread_mutex_unlock(&fs->lock);
	if (c)
		content_unlock_home(c, path, id);
}

/* With the lock: another name than @path that leads to @n at home; "" if there is none. */
static void other_name(const struct lazyfs *fs, const struct node *dir, const struct node *n,
		       const char *path, char out[LF_PATH_MAX + 1])
{
	for (const struct name *e = dir->names.first; e && !*out; e = e->next) {
		if (e->node && S_ISDIR(e->node->attr.mode))
			other_name(fs, e->node, n, path, out);
		if (e->node == n && athome_dir(fs, dir) &&
		    (scope_join(out, dir->source, e->text) < 0 || !strcmp(out, path)))
			*out = '\0';
	}
}

/* Of a file that has lost a name, only the time of the status change is another one. */
static struct lf_ident look_again(struct lazyfs *fs, const char *path, const struct lf_ident *id,
				  const struct patience *p)
{
	struct lf_attr now;

	if (ask_state(fs, path, &now, p) == 0 && same_file(&now.id, id) &&
	    now.id.size == id->size && now.id.mtime_ns == id->mtime_ns)
		return now.id;
	return *id;
}

/* After @gone was taken off at home: where the file is now. @id: as it was before. */
static void unlock_removed(struct lazyfs *fs, struct node *n, const char *gone,
			   const struct lf_ident *id, const struct patience *p)
{
	char path[LF_PATH_MAX + 1] = "";
	struct lf_ident now = *id;

	pthread_mutex_lock(&fs->lock);
	if (strcmp(n->source, gone) != 0)
		snprintf(path, sizeof(path), "%s", n->source);
	else if (n->n_names > 1)
		other_name(fs, &fs->root, n, gone, path);
	pthread_mutex_unlock(&fs->lock);
	if (*path)
		now = look_again(fs, path, id, p);
	unlock(fs, n, *path ? path : NULL, &now);
}

int athome_remove(struct lazyfs *fs, const struct node *dir, const char *name, struct node *n,
		  const struct patience *p)
{
	char path[LF_PATH_MAX + 1];
	struct lf_request q = {.type = LF_REMOVE, .path = path, .other = ""};
	struct lf_attr now;
	bool again;
	int error;

	if (!athome_dir(fs, dir) || !n->source)
		return 0;
	if (scope_join(path, dir->source, name) < 0)
		return ENAMETOOLONG;
	error = bring_open(fs, n, p);
	if (!error)
		error = lock(fs, n, p, &q.want);
	if (error)
		return for_program(error);
	now.id = q.want;
	error = ask(fs, &q, &now, p, &again);
	if (error == ENOENT)
		error = 0; /* done before, or by somebody else */
	if (error)
		unlock(fs, n, NULL, NULL);
	else
		unlock_removed(fs, n, path, &q.want, p);
	return for_program(error);
}

/* ---- renaming ---- */

static int rename_locked(struct lazyfs *fs, struct lf_request *q, struct node *n,
			 struct node *replaced, const struct patience *p)
{
	struct lf_attr now;
	bool again;
	int error = ask(fs, q, &now, p, &again);

	/* done before its answer was lost? */
	if ((error == ENOENT || error == ESTALE) && again &&
	    ask_state(fs, q->other, &now, p) == 0 && same_file(&now.id, &q->want))
		error = 0;
	if (replaced && error)
		unlock(fs, replaced, NULL, NULL);
	else if (replaced)
		unlock_removed(fs, replaced, q->other, &q->replaced, p);
	if (error)
		unlock(fs, n, NULL, NULL);
	else
		unlock(fs, n, q->other, &now.id);
	return error;
}

int athome_rename(struct lazyfs *fs, const struct node *from, const char *name,
		  const struct node *to, const char *new_name, struct node *n,
		  struct node *replaced, const struct patience *p)
{
	char path[LF_PATH_MAX + 1], other[LF_PATH_MAX + 1];
	struct lf_request q = {.type = LF_RENAME, .path = path, .other = other};
	const bool known = n->source && athome_dir(fs, from);
	int error;

	if (!known && !athome_dir(fs, to))
		return 0;
	if (S_ISDIR(n->attr.mode) || !known || !athome_dir(fs, to) || (replaced && !replaced->source))
		return known || athome_makes(fs, to, n->attr.mode) || replaced ? EXDEV : 0;
	if (scope_join(path, from->source, name) < 0 || scope_join(other, to->source, new_name) < 0)
		return ENAMETOOLONG;
	error = S_ISLNK(n->attr.mode) ? node_load_target(fs, n, p) : 0;
	if (!error)
		error = node_load_xattrs(fs, n, p);
	if (!error && replaced)
		error = bring_open(fs, replaced, p);
	if (!error)
		error = lock(fs, n, p, &q.want);
	if (!error && replaced) {
		error = lock(fs, replaced, p, &q.replaced);
		if (error)
			unlock(fs, n, NULL, NULL);
	}
	if (!error)
		error = rename_locked(fs, &q, n, replaced, p);
	return for_program(error);
}

/* ---- attributes ---- */

/* Is the thing at home, and does the source take its attributes? A copy of its path there; NULL: no, or out of memory. */
static char *settable(struct lazyfs *fs, const struct node *n)
{
	char *path = NULL;
	enum scope_place place;

	pthread_mutex_lock(&fs->lock);
	if (atomic_load(&fs->sends) && n->source && fs->listings.newer) {
		place = scope_place(&fs->scope, n->source);
		if (place == SCOPE_INSIDE || place == SCOPE_FILE)
			path = strdup(n->source);
	}
	pthread_mutex_unlock(&fs->lock);
	return path;
}

/* Has only the time of the status change become another one, and what @q sets? */
static bool is_as_set(const struct lf_request *q, const struct lf_attr *now)
{
	const uint32_t what = q->type == LF_SET ? q->bytes : 0;

	return same_file(&now->id, &q->want) && now->id.size == q->want.size &&
	       now->id.mtime_ns == (what & LF_SET_MTIME ? q->time_ns : q->want.mtime_ns) &&
	       (!(what & LF_SET_MODE) || (now->mode & 0777) == (q->mode & 0777)) &&
	       (!(what & LF_SET_UID) || now->uid == q->replaced.dev) &&
	       (!(what & LF_SET_GID) || now->gid == q->replaced.ino);
}

struct value {
	const struct lf_request *q;
	bool same;
};

static int take_value(void *arg, const struct lf_reply *reply)
{
	struct value *v = arg;
	const struct lf_request *q = v->q;

	if (reply->type != LF_XATTR_LIST)
		return EPROTO;
	v->same = q->mode;
	vec_foreach (x, &reply->xattrs)
		if (!strcmp(x->name, q->other))
			v->same = !q->mode && x->bytes == q->data_bytes &&
				  !memcmp(x->value, q->data, x->bytes);
	return 0;
}

/* Was it done before its answer was lost? */
static bool is_done(struct lazyfs *fs, const struct lf_request *q, struct lf_attr *now,
		    const struct patience *p)
{
	const struct lf_request look = {.type = LF_XATTRS, .path = q->path};
	struct value v = {.q = q, .same = q->type == LF_SET};

	if (q->type == LF_XATTR && remote_ask(fs->remote, &look, p, take_value, &v) != 0)
		return false;
	return v.same && ask_state(fs, q->path, now, p) == 0 && is_as_set(q, now);
}

static int change_attr(struct lazyfs *fs, struct node *n, struct lf_request *q,
		       const struct patience *p)
{
	struct lf_attr now;
	bool again;
	int error = lock(fs, n, p, &q->want);

	if (error)
		return for_program(error);
	error = ask(fs, q, &now, p, &again);
	if (error == ESTALE && again && is_done(fs, q, &now, p))
		error = 0;
	unlock(fs, n, q->path, error ? NULL : &now.id);
	return for_program(error);
}

int athome_set(struct lazyfs *fs, struct node *n, uint32_t what, const struct lf_attr *attr,
	       const struct patience *p, bool *done_out)
{
	cleanup_free char *path = settable(fs, n);
	struct lf_request q = {.type = LF_SET,
			       .path = path,
			       .other = "",
			       .bytes = what,
			       .mode = attr->mode & 07777,
			       .time_ns = attr->id.mtime_ns,
			       .offset = (uint64_t)MAX(attr->atime_ns, (int64_t)0),
			       .replaced = {.dev = attr->uid, .ino = attr->gid}};
	int error = path && what ? change_attr(fs, n, &q, p) : 0;

	*done_out = path && what && !error;
	return error;
}

int athome_set_xattr(struct lazyfs *fs, struct node *n, const char *name, const void *value,
		     size_t bytes, const struct patience *p, bool *done_out)
{
	cleanup_free char *path = lf_xattr_valid(name) ? settable(fs, n) : NULL;
	struct lf_request q = {.type = LF_XATTR,
			       .path = path,
			       .other = name,
			       .bytes = (uint32_t)bytes,
			       .mode = !value,
			       .data = value,
			       .data_bytes = (uint32_t)bytes};
	int error = path ? change_attr(fs, n, &q, p) : 0;

	*done_out = path && !error;
	return error;
}

/* ---- contents ---- */

int athome_send(struct lazyfs *fs, struct node *n, bool durable, const struct patience *p)
{
	struct content *c;
	struct lf_ident id;
	int64_t mtime_ns;
	int error;

	pthread_mutex_lock(&fs->lock);
	c = atomic_load(&fs->sends) ? n->content : NULL;
	mtime_ns = n->attr.id.mtime_ns;
	pthread_mutex_unlock(&fs->lock);
	if (!c)
		return 0;
	error = content_send(c, mtime_ns, durable, p, &id);
	pthread_mutex_lock(&fs->lock);
	if (n->source)
		n->origin = id;
	pthread_mutex_unlock(&fs->lock);
	return for_program(error);
}

int athome_settle_dir(struct lazyfs *fs, const struct node *dir, const struct patience *p)
{
	struct lf_request q = {.type = LF_SETTLE, .path = dir->source, .other = ""};
	struct lf_attr now;

	if (!athome_dir(fs, dir))
		return 0;
	return for_program(remote_ask(fs->remote, &q, p, remote_take_attr, &now));
}

/* ---- the end ---- */

static FILE *open_list(const struct lazyfs *fs)
{
	int fd = openat(fs->opt.cache_fd, LAZYFS_UNSENT, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
			0600);
	FILE *list = fd < 0 ? NULL : fdopen(fd, "a");

	if (!list && fd >= 0)
		close(fd);
	return list;
}

/* With the lock. */
static void keep_unsent(const struct lazyfs *fs, struct node *n, int error)
{
	FILE *list = open_list(fs);

	n->content->unsent = true;
	log_error("%s: what was written cannot be sent home: %s", n->source, strerror(error));
	if (!list || fprintf(list, "%" PRIx64 " %s\n", n->content->number, n->source) < 0)
		log_error("%s: its changes are in the file %" PRIx64 " of the cache", n->source,
			  n->content->number);
	if (list)
		(void)fclose(list);
}

void athome_send_all(struct lazyfs *fs)
{
	struct patience p = node_patience(fs, NULL);
	VEC(struct node *) nodes = {0};
	struct content_state cs;

	pthread_mutex_lock(&fs->lock);
	for (struct node *n = atomic_load(&fs->sends) ? fs->contents : NULL; n; n = n->next_content) {
		content_get_state(n->content, &cs);
		if (cs.modified && n->source && vec_push(&nodes, n))
			n->pins++;
	}
	pthread_mutex_unlock(&fs->lock);
	vec_foreach (n, &nodes) {
		int error = athome_send(fs, *n, false, &p);

		if (error)
			log_warn("what was written cannot be sent home yet: %s", strerror(error));
		node_unpin(fs, *n);
	}
	vec_free(&nodes);
}

static int all_sent(const struct lazyfs *fs, unsigned int failures, struct err *err)
{
	if (!failures)
		return 0;
	if (fs->opt.held)
		return err_set(err, EIO,
			       "the changes of %u files could not be sent home and are kept here",
			       failures);
	return err_set(err, EIO,
		       "the changes of %u files could not be sent home and stay in the cache: " LAZYFS_UNSENT
		       " there lists them",
		       failures);
}

int athome_send_rest(struct lazyfs *fs, struct err *err)
{
	struct patience p = patience_start(fs->opt.timeout_ms ? fs->opt.timeout_ms : LAST_MS, NULL,
					   NULL);
	unsigned int failures = 0;

	/* nobody else uses it any more but the filler, which changes nothing in this list */
	for (struct node *n = atomic_load(&fs->sends) ? fs->contents : NULL; n; n = n->next_content) {
		struct content_state cs;
		int error;

		content_get_state(n->content, &cs);
		error = cs.modified ? athome_send(fs, n, true, &p) : 0;
		if (!error)
			continue;
		failures++;
		if (fs->opt.held)
			continue;
		pthread_mutex_lock(&fs->lock);
		keep_unsent(fs, n, error);
		pthread_mutex_unlock(&fs->lock);
	}
	return all_sent(fs, failures, err);
}
