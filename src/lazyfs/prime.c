// SPDX-License-Identifier: Apache-2.0
/*
 * Many names with one round trip: the paths that a tree has open are looked up
 * while it is stopped, and to list each directory on the way would take as many
 * round trips as the deepest path is deep.
 */
#define LOG_MODULE "lazyfs"
#include "base/clock.h"
#include "base/log.h"
#include "lazyfs/node.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

/* A tree is stopped meanwhile. */
enum { PRIME_MS = 20000 };

struct prime;

/* The question for one path. */
struct look {
	struct remote_call call;
	struct prime *prime;
	const char *path;
	struct lf_attr attr;
	int error;
};

struct prime {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	size_t open; /* questions without an answer */
	struct arena arena;
	VEC(const char *) paths;
	struct look *looks;
};

static void looked(struct remote_call *c, int error, const struct lf_reply *reply)
{
	struct look *l = (struct look *)((char *)c - offsetof(struct look, call));

	pthread_mutex_lock(&l->prime->lock);
	if (!error && reply->type == LF_ATTR)
		l->attr = reply->attr;
	l->error = !error && reply->type != LF_ATTR ? EPROTO : error;
	l->prime->open--;
	pthread_cond_signal(&l->prime->cond);
	pthread_mutex_unlock(&l->prime->lock);
}

/* The path and the directories above it, but "/". */
static int add_path(struct prime *p, const char *path)
{
	for (const char *end = path; *end;) {
		size_t n = strcspn(end + 1, "/") + 1;
		char *part = arena_dup(&p->arena, path, (size_t)(end - path) + n + 1);

		if (!part)
			return ENOMEM;
		end += n;
		part[end - path] = '\0';
		if (!vec_push(&p->paths, part))
			return ENOMEM;
	}
	return 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted, so that a directory comes before what is in it; each once. */
static void sort_paths(struct prime *p)
{
	size_t n = 0;

	if (!p->paths.n)
		return;
	qsort((void *)p->paths.v, p->paths.n, sizeof(*p->paths.v), by_text);
	for (size_t i = 0; i < p->paths.n; i++)
		if (!n || strcmp(p->paths.v[n - 1], p->paths.v[i]) != 0)
			p->paths.v[n++] = p->paths.v[i];
	p->paths.n = n;
}

static int ask_all(struct lazyfs *fs, struct prime *p)
{
	struct patience patience = patience_start(PRIME_MS, NULL, NULL);
	int error = 0;

	for (size_t i = 0; i < p->paths.n && !error; i++) {
		struct look *l = &p->looks[i];

		l->prime = p;
		l->path = p->paths.v[i];
		l->call.done = looked;
		l->call.q = (struct lf_request){.type = LF_STAT, .path = l->path};
		pthread_mutex_lock(&p->lock);
		p->open++;
		pthread_mutex_unlock(&p->lock);
		error = remote_submit(fs->remote, &l->call);
	}
	pthread_mutex_lock(&p->lock);
	while (p->open && !error) {
		wait_step(&p->cond, &p->lock, PATIENCE_STEP_MS);
		error = p->open ? patience_check(&patience, fs->remote) : 0;
	}
	pthread_mutex_unlock(&p->lock);
	for (size_t i = 0; i < p->paths.n; i++)
		remote_cancel(fs->remote, &p->looks[i].call);
	return error;
}

/* With the lock: the directory that the name of @path is in, as far as it is known. */
static struct node *parent_of(struct lazyfs *fs, const char *path, const char **name_out)
{
	struct node *at = &fs->root;

	for (;;) {
		size_t n = strcspn(++path, "/");
		char name[256];
		const struct name *e;

		if (!path[n]) {
			*name_out = path;
			return at;
		}
		if (n >= sizeof(name))
			return NULL;
		memcpy(name, path, n);
		name[n] = '\0';
		e = dirnames_find(&at->names, name);
		if (!e || !e->node || !S_ISDIR(e->node->attr.mode))
			return NULL;
		at = e->node;
		path += n;
	}
}

struct node *node_known(struct lazyfs *fs, const char *path)
{
	const char *name;
	const struct node *dir = parent_of(fs, path, &name);
	const struct name *e = dir ? dirnames_find(&dir->names, name) : NULL;

	return e ? e->node : NULL;
}

/*
 * With the lock: what is not asked for this time may have changed since it was. The directories on which this host's own
 * are mounted (restore/mounts.c) stay; where the source does not show them they were made here, and cannot be listed there.
 */
static void forget_others(struct lazyfs *fs, struct prime *p, struct node *dir, char *path)
{
	size_t end = strlen(path);
	struct name *next;

	dir->listed = dir->blind = false;
	for (struct name *e = dir->names.first; e; e = next) {
		next = e->next;
		if (end + strlen(e->text) + 2 > LF_PATH_MAX)
			continue;
		sprintf(path + end, "/%s", e->text);
		if (want_local(path))
			log_debug("%s stays", path);
		else if (!bsearch(&path, p->paths.v, p->paths.n, sizeof(*p->paths.v), by_text))
			node_forget_name(fs, dir, e);
		else if (e->node && e->node->source && S_ISDIR(e->node->attr.mode))
			forget_others(fs, p, e->node, path);
		path[end] = '\0';
	}
}

/* With the lock: is this node what the source has now? Then it stays, with what has come of it. */
static bool refresh(struct node *n, const struct lf_attr *now)
{
	if ((n->attr.mode & S_IFMT) != (now->mode & S_IFMT) ||
	    (!S_ISDIR(now->mode) && !lf_ident_same(&n->origin, &now->id)))
		return false;
	n->attr = *now;
	n->origin = now->id;
	return true;
}

static int take_one(struct lazyfs *fs, const struct look *l, bool anew)
{
	const char *name;
	struct node *dir = parent_of(fs, l->path, &name);
	struct name *e = dir && anew ? dirnames_find(&dir->names, name) : NULL;

	if (l->error)
		log_debug("%s: %s", l->path, strerror(l->error));
	if (e && e->node && !l->error && refresh(e->node, &l->attr))
		return 0;
	if (e)
		node_forget_name(fs, dir, e);
	return l->error || !dir ? 0 : node_add_child(fs, dir, name, &l->attr, NULL);
}

static int take_all(struct lazyfs *fs, struct prime *p, bool anew)
{
	char path[LF_PATH_MAX + 1] = "";
	int error = 0;

	pthread_mutex_lock(&fs->lock);
	if (anew)
		listings_forget(fs);
	if (anew && p->paths.n)
		forget_others(fs, p, &fs->root, path);
	for (size_t i = 0; i < p->paths.n && !error; i++)
		error = take_one(fs, &p->looks[i], anew);
	pthread_mutex_unlock(&fs->lock);
	return error;
}

int lazyfs_prime(struct lazyfs *fs, const char *const *paths, size_t n, bool anew)
{
	struct prime p = {0};
	int error = 0;

	if (anew)
		lazyfs_end_warm(fs);
	pthread_mutex_init(&p.lock, NULL);
	wait_cond_init(&p.cond);
	for (size_t i = 0; i < n && !error; i++)
		error = lf_path_valid(paths[i]) ? paths[i][1] ? add_path(&p, paths[i]) : 0 : EINVAL;
	sort_paths(&p);
	p.looks = calloc(p.paths.n + 1, sizeof(*p.looks));
	if (!error && !p.looks)
		error = ENOMEM;
	if (!error)
		error = ask_all(fs, &p);
	if (!error)
		error = take_all(fs, &p, anew);
	free(p.looks);
	vec_free(&p.paths);
	arena_free(&p.arena);
	pthread_cond_destroy(&p.cond);
	pthread_mutex_destroy(&p.lock);
	return error;
}

/* ---- beginnings ---- */

enum { WARM_THREADS = 8, WARM_BYTES = 64 * 1024, WARM_MS = 5000, WARM_LOOK_MS = 5 };

struct warm {
	struct lazyfs *fs;
	struct arena arena;
	VEC(struct lazyfs_part) parts;
	atomic_size_t next;
	atomic_bool stop;
	pthread_t threads[WARM_THREADS];
	size_t n_threads;
	atomic_size_t left; /* threads that still work */
};

/* The node of a file that is known, pinned; NULL: it is not, or there is nothing to read ahead. */
static struct node *find_part(struct lazyfs *fs, const struct lazyfs_part *part)
{
	const char *base = strrchr(part->path, '/');
	struct node *n;

	pthread_mutex_lock(&fs->lock);
	n = node_known(fs, part->path);
	if (n && S_ISREG(n->attr.mode) && (part->to || (n->attr.mode & 0111) || strstr(base, ".so")))
		n->pins++;
	else
		n = NULL;
	pthread_mutex_unlock(&fs->lock);
	return n;
}

static bool warm_stopped(void *arg)
{
	struct warm *w = arg;

	return atomic_load(&w->stop) || atomic_load(&w->fs->stop);
}

static void warm_one(struct warm *w, struct node *n, const struct lazyfs_part *part, char *buf)
{
	struct lazyfs *fs = w->fs;
	struct patience p = patience_start(fs->opt.timeout_ms, warm_stopped, w);
	struct content *c;

	pthread_mutex_lock(&fs->lock);
	c = node_content(fs, n);
	pthread_mutex_unlock(&fs->lock);
	/* whoever needs it asks again */
	if (!c || content_read(c, buf, WARM_BYTES, 0, NULL, &p) < 0)
		return;
	for (uint64_t at = part->from; at < part->to && !warm_stopped(w); at += WARM_BYTES)
		if (content_read(c, buf, MIN(part->to - at, (uint64_t)WARM_BYTES), at, NULL, &p) <= 0)
			break;
}

static void *warm(void *arg)
{
	struct warm *w = arg;
	cleanup_free char *buf = malloc(WARM_BYTES);
	size_t i;

	while (buf && !warm_stopped(w) && (i = atomic_fetch_add(&w->next, 1)) < w->parts.n) {
		struct node *n = find_part(w->fs, &w->parts.v[i]);

		if (!n)
			continue;
		warm_one(w, n, &w->parts.v[i], buf);
		node_unpin(w->fs, n);
	}
	atomic_fetch_sub(&w->left, 1);
	return NULL;
}

void lazyfs_warm(struct lazyfs *fs, const struct lazyfs_part *parts, size_t n)
{
	struct warm *w = fs->warm ? NULL : calloc(1, sizeof(*w));

	if (!w)
		return;
	w->fs = fs;
	fs->warm = w;
	for (size_t i = 0; i < n; i++) {
		struct lazyfs_part part = parts[i];

		part.path = lf_path_valid(part.path) ? arena_strdup(&w->arena, part.path) : NULL;
		if (part.path && part.path[1] && !vec_push(&w->parts, part))
			break;
	}
	while (w->n_threads < WARM_THREADS && w->n_threads < w->parts.n) {
		atomic_fetch_add(&w->left, 1);
		if (pthread_create(&w->threads[w->n_threads], NULL, warm, w) != 0) {
			atomic_fetch_sub(&w->left, 1);
			break;
		}
		w->n_threads++;
	}
}

static void join(struct warm *w)
{
	for (size_t i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
	w->n_threads = 0;
}

void lazyfs_await_warm(struct lazyfs *fs)
{
	uint64_t end = clock_ms() + WARM_MS;
	struct warm *w = fs->warm;

	while (w && atomic_load(&w->left) && clock_ms() < end && !warm_stopped(w))
		(void)poll(NULL, 0, WARM_LOOK_MS);
}

void lazyfs_end_warm(struct lazyfs *fs)
{
	struct warm *w = fs->warm;

	if (!w)
		return;
	atomic_store(&w->stop, true);
	join(w);
	vec_free(&w->parts);
	arena_free(&w->arena);
	free(w);
	fs->warm = NULL;
}

int lazyfs_ping(struct lazyfs *fs, bool (*interrupted)(void *arg), void *arg)
{
	struct patience p = patience_start(fs->opt.timeout_ms, interrupted, arg);
	struct lf_attr root;
	struct lf_request q = {.type = LF_STAT, .path = "/"};

	return remote_ask(fs->remote, &q, &p, remote_take_attr, &root);
}
