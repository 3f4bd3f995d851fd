// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/carried.h"

#include "base/le.h"
#include "base/log.h"
#include "lazyfs/athome.h"
#include "lazyfs/node.h"
#include "lazyfs/scope.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { IDENT_BYTES = 5 * sizeof(uint64_t) };

/* ---- bases ---- */

const struct lf_ident *carried_base(const struct carried_bases *b, const char *path)
{
	const struct carried_base *e = map_get(&b->by_path, map_hash(path));

	while (e && strcmp(e->path, path) != 0)
		e = e->next;
	return e ? &e->id : NULL;
}

int carried_add_base(struct carried_bases *b, const char *path, const struct lf_ident *id)
{
	uint64_t hash = map_hash(path);
	struct carried_base *e;

	if (carried_base(b, path))
		return 0;
	e = arena_new(&b->arena, struct carried_base);
	if (!e)
		return -1;
	*e = (struct carried_base){.path = arena_strdup(&b->arena, path),
				   .id = *id,
				   .next = map_get(&b->by_path, hash)};
	return e->path && map_set(&b->by_path, hash, e) && vec_push(&b->all, e) ? 0 : -1;
}

void carried_free_bases(struct carried_bases *b)
{
	map_free(&b->by_path);
	vec_free(&b->all);
	arena_free(&b->arena);
}

void carried_note_base(struct lazyfs *fs, const struct node *dir, const struct name *name)
{
	const struct node *n = name->node;
	char path[LF_PATH_MAX + 1];

	if (atomic_load(&fs->sends))
		return; /* it is done at home, too */
	if (!name->from_source || !n || n->carried || !dir->source || S_ISDIR(n->attr.mode) ||
	    scope_join(path, dir->source, name->text) < 0)
		return;
	if (carried_add_base(&fs->bases, path, &n->origin) < 0)
		log_warn("%s: no memory to note what it was", path);
}

/* ---- the list as bytes ---- */

static const uint8_t *get_ident(const uint8_t *at, struct lf_ident *id)
{
	id->dev = get_le64(at);
	id->ino = get_le64(at + 8);
	id->size = get_le64(at + 16);
	id->mtime_ns = (int64_t)get_le64(at + 24);
	id->ctime_ns = (int64_t)get_le64(at + 32);
	return at + IDENT_BYTES;
}

int carried_parse(const uint8_t *data, size_t bytes,
		  int (*take)(void *arg, const char *path, const struct lf_ident *base), void *arg,
		  struct err *err)
{
	const uint8_t *at = data, *end = data + bytes, *nul;

	while (at < end) {
		const bool base = *at == 'b';
		struct lf_ident id = {0};

		if (*at != 'c' && !base)
			return err_set(err, EPROTO, "changed files: no record at byte %zu",
				       (size_t)(at - data));
		at++;
		if (base && (size_t)(end - at) >= IDENT_BYTES)
			at = get_ident(at, &id);
		else if (base)
			return err_set(err, EPROTO, "changed files: the list is cut off");
		nul = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
		if (!nul || !lf_path_valid((const char *)at))
			return err_set(err, EPROTO, "changed files: a path is damaged at byte %zu",
				       (size_t)(at - data));
		if (take(arg, (const char *)at, base ? &id : NULL) < 0)
			return err_nomem(err);
		at = nul + 1;
	}
	return 0;
}

/* ---- made ---- */

struct gathering {
	struct lazyfs *fs;
	uint8_t *data;
	size_t bytes, cap;
	char path[LF_PATH_MAX + 1]; /* where we are; "" at the top */
	int error;
};

static uint8_t *room(struct gathering *l, size_t bytes)
{
	if (l->bytes + bytes > l->cap) {
		size_t cap = MAX(l->cap * 2, l->bytes + bytes);
		uint8_t *more = l->error || cap > CARRIED_BYTES_MAX ? NULL : realloc(l->data, cap);

		if (!more) {
			l->error = l->error ? l->error : ENOMEM;
			return NULL;
		}
		l->data = more;
		l->cap = cap;
	}
	l->bytes += bytes;
	return l->data + l->bytes - bytes;
}

static void put_record(struct gathering *l, const char *path, const struct lf_ident *base)
{
	size_t text = strlen(path) + 1;
	uint8_t *at = room(l, 1 + (base ? IDENT_BYTES : 0) + text);

	if (!at)
		return;
	*at++ = base ? 'b' : 'c';
	if (base) {
		at = put_le64(put_le64(put_le64(at, base->dev), base->ino), base->size);
		at = put_le64(put_le64(at, (uint64_t)base->mtime_ns), (uint64_t)base->ctime_ns);
	}
	memcpy(at, path, text);
}

bool carried_is_name_at_home(const struct lazyfs *fs, const struct name *name)
{
	return name->from_source || (fs->opt.writeback && name->node && name->node->source);
}

bool carried_changed(struct node *n)
{
	struct content_state cs = {0};

	if (n->content)
		content_get_state(n->content, &cs);
	return !n->source || n->carried || n->attrs_changed || cs.modified;
}

struct entry {
	struct node *node;
	char *text;
	bool at_home;
};

struct entries {
	VEC(struct entry) v;
};

static void pin_entries(struct gathering *l, struct node *dir, struct entries *out)
{
	pthread_mutex_lock(&l->fs->lock);
	for (const struct name *e = dir->names.first; e && !l->error; e = e->next) {
		struct entry one = {.node = e->node, .at_home = carried_is_name_at_home(l->fs, e)};

		if (!e->node)
			continue;
		one.text = strdup(e->text);
		if (!one.text || !vec_push(&out->v, one)) {
			free(one.text);
			l->error = ENOMEM;
			break;
		}
		e->node->pins++;
	}
	pthread_mutex_unlock(&l->fs->lock);
}

static void list_dir(struct gathering *l, struct node *dir, bool all);

/*
 * A file that was sent home has other times there than the writes had here. Where the tree ends at home, it is those that tell
 * whether somebody has touched the file since (keep.c). The kernel remembers others.
 */
static void show_times_of_home(struct lazyfs *fs, struct node *n)
{
	bool differ;

	pthread_mutex_lock(&fs->lock);
	differ = n->source && (n->attr.id.ctime_ns != n->origin.ctime_ns ||
			       n->attr.id.mtime_ns != n->origin.mtime_ns);
	if (differ) {
		n->attr.id.mtime_ns = n->origin.mtime_ns;
		n->attr.id.ctime_ns = n->origin.ctime_ns;
	}
	pthread_mutex_unlock(&fs->lock);
	if (differ)
		(void)fuse_lowlevel_notify_inval_inode(fs->session, ino_of(fs, n), -1, 0);
}

/* @all: the directory is not the source's. */
static void list_entry(struct gathering *l, const struct entry *e, bool all)
{
	const bool is_dir = S_ISDIR(e->node->attr.mode), other = all || !e->at_home;

	if (want_local(l->path) || S_ISSOCK(e->node->attr.mode))
		return;
	if (other || (is_dir ? e->node->carried : carried_changed(e->node))) {
		put_record(l, l->path, NULL);
		if (!other && !is_dir && !e->node->carried)
			put_record(l, l->path, &e->node->origin);
	} else if (!is_dir && l->fs->opt.writeback) {
		show_times_of_home(l->fs, e->node);
	}
	if (is_dir)
		list_dir(l, e->node, other || e->node->carried);
}

static void list_dir(struct gathering *l, struct node *dir, bool all)
{
	struct patience p = node_patience(l->fs, NULL);
	struct entries entries = {0};
	size_t end = strlen(l->path);

	if (all && !l->error)
		l->error = node_load(l->fs, dir, &p, LISTING_ALONE);
	pin_entries(l, dir, &entries);
	vec_foreach (e, &entries.v) {
		if (!l->error && end + strlen(e->text) + 2 <= sizeof(l->path)) {
			sprintf(l->path + end, "/%s", e->text);
			list_entry(l, e, all);
			l->path[end] = '\0';
		}
		node_unpin(l->fs, e->node);
		free(e->text);
	}
	vec_free(&entries.v);
}

int carried_list(struct lazyfs *fs, uint8_t **out, size_t *bytes_out)
{
	struct gathering l = {.fs = fs};

	/* what is at home need not be carried there */
	athome_send_all(fs);
	list_dir(&l, &fs->root, false);
	pthread_mutex_lock(&fs->lock);
	vec_foreach (b, &fs->bases.all)
		put_record(&l, (*b)->path, &(*b)->id);
	pthread_mutex_unlock(&fs->lock);
	if (l.error) {
		free(l.data);
		return l.error;
	}
	*out = l.data;
	*bytes_out = l.bytes;
	return 0;
}

/* ---- taken ---- */

struct taking {
	struct lazyfs *fs;
	VEC(const char *) paths;
};

static int take_record(void *arg, const char *path, const struct lf_ident *base)
{
	struct taking *t = arg;
	int rc;

	if (!base)
		return vec_push(&t->paths, path) ? 0 : -1;
	pthread_mutex_lock(&t->fs->lock);
	rc = carried_add_base(&t->fs->bases, path, base);
	pthread_mutex_unlock(&t->fs->lock);
	return rc;
}

int lazyfs_take_carried(struct lazyfs *fs, const uint8_t *data, size_t bytes)
{
	struct taking t = {.fs = fs};
	struct err err;
	int error = carried_parse(data, bytes, take_record, &t, &err) < 0 ? err.no : 0;

	if (!error)
		error = lazyfs_prime(fs, t.paths.v, t.paths.n, false);
	pthread_mutex_lock(&fs->lock);
	for (size_t i = 0; i < t.paths.n && !error; i++) {
		struct node *n = node_known(fs, t.paths.v[i]);

		/* what the tree's rights do not reach any more is not its own either */
		if (n)
			n->carried = true;
	}
	pthread_mutex_unlock(&fs->lock);
	vec_free(&t.paths);
	return error;
}

int carried_read(const char *path, uint8_t **out, size_t *bytes_out, struct err *err)
{
	cleanup_free uint8_t *data = NULL;
	size_t bytes = 0;

	for (;;) {
		char name[sizeof(LAZYFS_CARRIED_XATTR) + 24];
		uint8_t *more = realloc(data, bytes + CARRIED_PIECE_BYTES);
		ssize_t n;

		if (!more)
			return err_nomem(err);
		data = more;
		snprintf(name, sizeof(name), LAZYFS_CARRIED_XATTR "%zu", bytes);
		n = getxattr(path, name, data + bytes, CARRIED_PIECE_BYTES);
		if (n < 0)
			return err_sys(err, "cannot ask for the files that the tree has changed");
		if (n == 0)
			break;
		bytes += (size_t)n;
		if (bytes > CARRIED_BYTES_MAX)
			return err_set(err, E2BIG, "the tree has changed too many files");
	}
	*out = steal_ptr(&data);
	*bytes_out = bytes;
	return 0;
}
