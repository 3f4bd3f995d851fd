// SPDX-License-Identifier: Apache-2.0
/*
 * Many names with one round trip: the paths that a tree has open are looked up
 * while it is stopped, and to list each directory on the way would take as many
 * round trips as the deepest path is deep.
 */
#define LOG_MODULE "lazyfs"
#include "base/log.h"
#include "lazyfs/node.h"
#include "lazyfs/wait.h"

#include <errno.h>
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

static int take_all(struct lazyfs *fs, struct prime *p)
{
	int error = 0;

	pthread_mutex_lock(&fs->lock);
	for (size_t i = 0; i < p->paths.n && !error; i++) {
		const struct look *l = &p->looks[i];
		const char *name;
		struct node *dir;

		if (l->error) {
			log_debug("%s: %s", l->path, strerror(l->error));
			continue;
		}
		dir = parent_of(fs, l->path, &name);
		if (dir)
			error = node_add_child(fs, dir, name, &l->attr);
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}

int lazyfs_prime(struct lazyfs *fs, const char *const *paths, size_t n)
{
	struct prime p = {0};
	int error = 0;

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
		error = take_all(fs, &p);
	free(p.looks);
	vec_free(&p.paths);
	arena_free(&p.arena);
	pthread_cond_destroy(&p.cond);
	pthread_mutex_destroy(&p.lock);
	return error;
}

/* ---- beginnings ---- */

enum { WARM_THREADS = 8, WARM_BYTES = 64 * 1024 };

struct warm {
	struct lazyfs *fs;
	struct arena arena;
	VEC(const char *) paths;
	atomic_size_t next;
	pthread_t threads[WARM_THREADS];
	size_t n_threads;
};

/* The node of a path that is known, pinned; NULL: it is not, or no program and no library. */
static struct node *find_program(struct lazyfs *fs, const char *path)
{
	const char *base = strrchr(path, '/');
	struct node *n;

	pthread_mutex_lock(&fs->lock);
	n = node_known(fs, path);
	if (n && S_ISREG(n->attr.mode) && ((n->attr.mode & 0111) || strstr(base, ".so")))
		n->pins++;
	else
		n = NULL;
	pthread_mutex_unlock(&fs->lock);
	return n;
}

static void warm_one(struct lazyfs *fs, struct node *n, char *buf)
{
	struct patience p = node_patience(fs, NULL);
	struct content *c;

	pthread_mutex_lock(&fs->lock);
	c = node_content(fs, n);
	pthread_mutex_unlock(&fs->lock);
	/* whoever needs it asks again */
	if (c)
		(void)content_read(c, buf, WARM_BYTES, 0, NULL, &p);
}

static void *warm(void *arg)
{
	struct warm *w = arg;
	cleanup_free char *buf = malloc(WARM_BYTES);
	size_t i;

	while (buf && !atomic_load(&w->fs->stop) && (i = atomic_fetch_add(&w->next, 1)) < w->paths.n) {
		struct node *n = find_program(w->fs, w->paths.v[i]);

		if (!n)
			continue;
		warm_one(w->fs, n, buf);
		node_unpin(w->fs, n);
	}
	return NULL;
}

void lazyfs_warm(struct lazyfs *fs, const char *const *paths, size_t n)
{
	struct warm *w = fs->warm ? NULL : calloc(1, sizeof(*w));

	if (!w)
		return;
	w->fs = fs;
	fs->warm = w;
	for (size_t i = 0; i < n; i++) {
		const char *copy = lf_path_valid(paths[i]) ? arena_strdup(&w->arena, paths[i]) : NULL;

		if (copy && copy[1] && !vec_push(&w->paths, copy))
			break;
	}
	while (w->n_threads < WARM_THREADS && w->n_threads < w->paths.n &&
	       pthread_create(&w->threads[w->n_threads], NULL, warm, w) == 0)
		w->n_threads++;
}

void lazyfs_end_warm(struct lazyfs *fs)
{
	struct warm *w = fs->warm;

	if (!w)
		return;
	for (size_t i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
	vec_free(&w->paths);
	arena_free(&w->arena);
	free(w);
	fs->warm = NULL;
}

int lazyfs_ping(struct lazyfs *fs, bool (*interrupted)(void *arg), void *arg)
{
	struct patience p = patience_start(fs->opt.timeout_ms, interrupted, arg);
	struct lf_attr root;
	struct lf_request q = {.type = LF_STAT, .path = "/"};

	return remote_ask(fs->remote, &q, &p, node_take_attr, &root);
}
