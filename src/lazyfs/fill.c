// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/fill.h"

#include "base/clock.h"
#include "base/log.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum {
	STEP_BYTES = 1024 * 1024,
	QUIET_MS = 100,  /* nobody has waited for a block for so long: we may go on */
	AGAIN_MS = 5000, /* between passes, when something could not be had */
};

/* Sleeps for @ms, or until it is over. */
static void rest(struct lazyfs *fs, unsigned int ms)
{
	uint64_t end = clock_ms() + ms, now;
	const bool hurry = atomic_load(&fs->hurry);

	pthread_mutex_lock(&fs->lock);
	while (!atomic_load(&fs->stop) && atomic_load(&fs->hurry) == hurry && (now = clock_ms()) < end)
		wait_step(&fs->cond, &fs->lock, (unsigned int)(end - now));
	pthread_mutex_unlock(&fs->lock);
}

static void let_others_go_first(struct lazyfs *fs)
{
	uint64_t since;

	while (!atomic_load(&fs->stop) &&
	       (since = clock_ms() - atomic_load(&fs->env.demand_ms)) < QUIET_MS)
		rest(fs, (unsigned int)(QUIET_MS - since));
}

/* A pass over the tree. */
struct pass {
	struct lazyfs *fs;
	bool polite;
	int error; /* the first one */
};

static void note(struct pass *pass, int error)
{
	if (error && !pass->error)
		pass->error = error;
}

static void fill_content(struct pass *pass, struct content *c)
{
	struct lazyfs *fs = pass->fs;
	bool complete = false;
	int error = 0;

	while (!complete && !error && !atomic_load(&fs->stop)) {
		struct patience p = node_patience(fs, NULL);

		if (pass->polite)
			let_others_go_first(fs);
		error = content_fill(c, STEP_BYTES, &complete, &p);
	}
	if (complete)
		content_pool(c);
	note(pass, error);
}

/* Everything of one node but the entries of a directory. The caller has it pinned. */
static void fill_node(struct pass *pass, struct node *n)
{
	struct lazyfs *fs = pass->fs;
	struct patience p = node_patience(fs, NULL);
	struct content *c;

	note(pass, node_load_xattrs(fs, n, &p));
	if (S_ISLNK(n->attr.mode))
		note(pass, node_load_target(fs, n, &p));
	if (!S_ISREG(n->attr.mode))
		return;
	pthread_mutex_lock(&fs->lock);
	c = node_content(fs, n);
	pthread_mutex_unlock(&fs->lock);
	if (c)
		fill_content(pass, c);
	else
		note(pass, ENOMEM);
}

int fill_one(struct lazyfs *fs, struct node *n)
{
	struct pass pass = {.fs = fs};

	fill_node(&pass, n);
	return pass.error;
}

struct pin {
	struct node *node;
	bool from_source; /* by the name that it was found by */
};

struct pinned {
	VEC(struct pin) v;
};

static void unpin_all(struct lazyfs *fs, struct pinned *l)
{
	vec_foreach (pin, &l->v)
		node_unpin(fs, pin->node);
	vec_free(&l->v);
}

static void pin_entries(struct pass *pass, struct node *dir, struct pinned *out)
{
	struct lazyfs *fs = pass->fs;

	pthread_mutex_lock(&fs->lock);
	for (const struct name *e = dir->names.first; e; e = e->next) {
		if (!e->node)
			continue;
		if (!vec_push(&out->v, (struct pin){e->node, e->from_source})) {
			note(pass, ENOMEM);
			break;
		}
		e->node->pins++;
	}
	pthread_mutex_unlock(&fs->lock);
}

static void fill_dir(struct pass *pass, struct node *dir)
{
	struct patience p = node_patience(pass->fs, NULL);
	struct pinned entries = {0};
	int error = node_load(pass->fs, dir, &p, LISTING_ALONE);

	note(pass, error);
	if (error)
		return;
	/* names that cannot be listed can only be asked for as long as the source is there */
	if (dir->blind)
		note(pass, EACCES);
	pin_entries(pass, dir, &entries);
	vec_foreach (pin, &entries.v) {
		if (atomic_load(&pass->fs->stop))
			break;
		fill_node(pass, pin->node);
		if (S_ISDIR(pin->node->attr.mode))
			fill_dir(pass, pin->node);
	}
	unpin_all(pass->fs, &entries);
}

/* What programs have open without a name, and what they used where not everything is wanted. */
static void fill_contents(struct pass *pass)
{
	struct lazyfs *fs = pass->fs;
	struct pinned used = {0};

	pthread_mutex_lock(&fs->lock);
	for (struct node *n = fs->contents; n; n = n->next_content) {
		if (!vec_push(&used.v, (struct pin){n, true})) {
			note(pass, ENOMEM);
			break;
		}
		n->pins++;
	}
	pthread_mutex_unlock(&fs->lock);
	vec_foreach (pin, &used.v)
		if (!atomic_load(&fs->stop))
			fill_node(pass, pin->node);
	unpin_all(fs, &used);
}

/* The node of a path, pinned if it is not the root. 0 or an errno value. */
static int find_path(struct lazyfs *fs, const char *path, struct node **out)
{
	struct patience p = node_patience(fs, NULL);
	struct node *at = &fs->root, *next;
	char *copy = strdup(path), *save = NULL;
	int error = copy ? 0 : ENOMEM;

	for (char *name = copy ? strtok_r(copy, "/", &save) : NULL; name && !error;
	     name = strtok_r(NULL, "/", &save)) {
		error = S_ISDIR(at->attr.mode) ? node_lookup(fs, at, name, &next, &p) : ENOTDIR;
		if (at != &fs->root)
			node_unpin(fs, at);
		at = error ? &fs->root : next;
	}
	free(copy);
	*out = at;
	return error;
}

static void let_go(struct lazyfs *fs, struct node *n)
{
	if (n != &fs->root)
		node_unpin(fs, n);
}

/* The files of the tree itself, by the paths that it knew. */
static void fill_named(struct pass *pass)
{
	struct lazyfs *fs = pass->fs;

	vec_foreach (f, &fs->want->files) {
		struct node *n;
		int error = find_path(fs, f->path, &n);

		if (!error && !atomic_load(&fs->stop))
			fill_node(pass, n);
		let_go(fs, n);
		/* it may have been removed here, or there before we came */
		note(pass, error == ENOENT || error == ENOTDIR ? 0 : error);
	}
}

/* ---- a source that is to be let go ---- */

static void fill_used_dir(struct pass *pass, struct node *dir);

static void fill_used_entry(struct pass *pass, const struct pin *pin)
{
	struct node *n = pin->node;
	bool used;

	pthread_mutex_lock(&pass->fs->lock);
	used = n->listed || n->names.first;
	pthread_mutex_unlock(&pass->fs->lock);
	if (!S_ISDIR(n->attr.mode)) {
		if (!S_ISREG(n->attr.mode) || !pin->from_source || carried_changed(n))
			fill_node(pass, n);
		return;
	}
	if (!pin->from_source || n->carried) {
		fill_node(pass, n);
		fill_dir(pass, n); /* the tree's own: all of it is kept at the end */
	} else if (used) {
		fill_node(pass, n);
		fill_used_dir(pass, n);
	}
}

/* The names in a directory that was looked into, and what is changed in it; contents came with fill_contents. */
static void fill_used_dir(struct pass *pass, struct node *dir)
{
	struct patience p = node_patience(pass->fs, NULL);
	struct pinned entries = {0};

	if (dir->source && want_local(dir->source))
		return;
	note(pass, node_load(pass->fs, dir, &p, LISTING_ALONE));
	pin_entries(pass, dir, &entries);
	vec_foreach (pin, &entries.v)
		if (!pass->error && !atomic_load(&pass->fs->stop))
			fill_used_entry(pass, pin);
	unpin_all(pass->fs, &entries);
}

/* What the user wants whole, whether it was used or not. */
static void fill_whole(struct pass *pass)
{
	struct lazyfs *fs = pass->fs;

	for (size_t i = 0;; i++) {
		const char *path = NULL;
		struct node *n;

		pthread_mutex_lock(&fs->lock);
		if (i < fs->whole.n)
			path = fs->whole.v[i];
		pthread_mutex_unlock(&fs->lock);
		if (!path || atomic_load(&fs->stop))
			return;
		note(pass, find_path(fs, path, &n));
		if (!pass->error)
			fill_node(pass, n);
		if (!pass->error && S_ISDIR(n->attr.mode))
			fill_dir(pass, n);
		let_go(fs, n);
	}
}

/* With the lock: did programs begin to use something while the rest was fetched? */
static bool all_here(struct lazyfs *fs)
{
	struct content_state cs;

	for (struct node *n = fs->contents; n; n = n->next_content) {
		content_get_state(n->content, &cs);
		if (!cs.complete)
			return false;
	}
	return true;
}

/* Everything that is used is here, and what was asked for: nothing else will be. */
static void complete(struct lazyfs *fs)
{
	bool here;

	pthread_mutex_lock(&fs->lock);
	here = !fs->opt.everything || all_here(fs);
	if (here)
		atomic_store(&fs->complete, true);
	pthread_mutex_unlock(&fs->lock);
	if (!here)
		return;
	log_info("everything is here");
	if (!fs->opt.refetch && !fs->opt.writeback)
		remote_bye(fs->remote);
}

/* ---- passes ---- */

/* @last: of a source that is to be let go after it. */
static int run_pass(struct lazyfs *fs, bool polite, bool last)
{
	struct pass pass = {.fs = fs, .polite = polite};

	fill_named(&pass);
	if (!pass.error && !atomic_load(&fs->stop) && !atomic_exchange(&fs->named_complete, true))
		log_info("the files of the tree itself are here");
	if (!fs->opt.everything)
		fill_dir(&pass, &fs->root);
	fill_contents(&pass);
	if (fs->opt.everything && last) {
		fill_used_dir(&pass, &fs->root);
		fill_whole(&pass);
	}
	if (atomic_load(&fs->stop))
		note(&pass, ECANCELED);
	return pass.error;
}

int fill_now(struct lazyfs *fs)
{
	int error = atomic_load(&fs->complete) ? 0 : run_pass(fs, false, true);

	if (!error)
		atomic_store(&fs->complete, true);
	return error;
}

static void *run(void *arg)
{
	struct lazyfs *fs = arg;
	int error;

	while (!atomic_load(&fs->stop)) {
		/* where all of the source may be asked for there is no end, unless somebody sets one */
		bool detach = atomic_load(&fs->detach), ends = !fs->opt.everything || detach;

		error = run_pass(fs, !atomic_load(&fs->hurry), detach);
		atomic_store(&fs->fill_error, error);
		if (!error && ends)
			complete(fs);
		if (atomic_load(&fs->complete))
			break;
		if (error && error != ECANCELED)
			log_debug("not everything could be fetched: %s", strerror(error));
		if (error || !ends)
			rest(fs, AGAIN_MS);
	}
	return NULL;
}

int lazyfs_detach(struct lazyfs *fs, const char *paths, size_t bytes, bool hurry)
{
	struct err err;
	int error = 0;

	if (bytes && paths[bytes - 1])
		return EINVAL;
	if (fs->opt.writeback)
		return EBUSY;
	pthread_mutex_lock(&fs->lock);
	for (const char *p = paths; p < paths + bytes && !error; p += strlen(p) + 1) {
		char *copy = lf_path_valid(p) ? strdup(p) : NULL;

		error = copy ? 0 : EINVAL;
		if (copy && !vec_push(&fs->whole, copy)) {
			free(copy);
			error = ENOMEM;
		}
	}
	if (!error) {
		atomic_store(&fs->detach, true);
		if (hurry)
			atomic_store(&fs->hurry, true);
		pthread_cond_broadcast(&fs->cond); /* the one who rests */
		if (!fs->filling && fill_start(fs, &err) < 0)
			error = err.no;
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}

int fill_start(struct lazyfs *fs, struct err *err)
{
	int no = pthread_create(&fs->filler, NULL, run, fs);

	if (no)
		return err_sysno(err, no, "cannot start a thread");
	fs->filling = true;
	return 0;
}

void fill_join(struct lazyfs *fs)
{
	if (!fs->filling)
		return;
	pthread_join(fs->filler, NULL);
	fs->filling = false;
}
