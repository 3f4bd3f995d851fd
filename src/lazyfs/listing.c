// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/listing.h"

#include "base/clock.h"
#include "base/log.h"
#include "lazyfs/node.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum {
	KEPT_MS = 3000,
	KEPT_MOST = 512,
	BELOW_BYTES = 128 * 1024, /* of what comes along, where the link carries it */
};

/* A question for a directory and what is below it. */
struct list_question {
	struct remote_call call;
	struct lazyfs *fs;
	struct node *dir;  /* that waits for it, pinned; NULL: nobody does, or it has its list */
	char *path, *name; /* name: that is looked for in it, or NULL */
	bool only_below, goes_on;
	uint64_t room; /* bytes of names that may still come of directories below */
	unsigned int generation;
	struct listed_vec entries;  /* of the directory itself, as far as they have come */
	struct list_question *next; /* of fs->listings.asked */
};

static void free_entries(struct listed_vec *l)
{
	vec_foreach (e, &l->v) {
		free(e->name);
		free(e->target);
	}
	vec_free(&l->v);
}

static void drop(struct listing *l)
{
	free(l->path);
	free_entries(&l->entries);
}

void listings_free(struct listings *l)
{
	vec_foreach (e, &l->v)
		drop(e);
	vec_free(&l->v);
}

void listings_forget(struct lazyfs *fs)
{
	listings_free(&fs->listings);
	fs->listings.generation++;
}

/* ---- those that nobody has used yet; with the lock ---- */

/* Those that are too old, and @path, go. */
static void weed(struct listings *l, const char *path)
{
	uint64_t now = clock_ms();
	size_t n = 0;

	vec_foreach (e, &l->v) {
		if (now - e->at_ms > KEPT_MS || !strcmp(e->path, path))
			drop(e);
		else
			l->v.v[n++] = *e;
	}
	l->v.n = n;
}

/* Takes @entries over. */
static void keep(struct listings *l, const char *path, struct listed_vec *entries)
{
	struct listing one = {.path = strdup(path), .at_ms = clock_ms(), .entries = *entries};

	*entries = (struct listed_vec){0};
	weed(l, path);
	if (l->v.n >= KEPT_MOST) {
		drop(&l->v.v[0]);
		memmove(&l->v.v[0], &l->v.v[1], --l->v.n * sizeof(l->v.v[0]));
	}
	if (!one.path || !vec_push(&l->v, one))
		drop(&one); /* it is asked for when it is used */
}

static bool take(struct listings *l, const char *path, struct listed_vec *out)
{
	vec_foreach (e, &l->v) {
		if (strcmp(e->path, path) != 0 || clock_ms() - e->at_ms > KEPT_MS)
			continue;
		*out = e->entries;
		free(e->path);
		*e = l->v.v[--l->v.n];
		return true;
	}
	return false;
}

/* The directory has these, or gave this error. */
static void apply(struct lazyfs *fs, struct node *dir, const struct listed_vec *entries, int error)
{
	vec_foreach (e, &entries->v)
		if (!error)
			error = node_add_child(fs, dir, e->name, &e->attr, e->target);
	if (error == EACCES) {
		dir->blind = true;
		error = 0;
	}
	dir->listed = !error;
	dir->list_error = error;
	dir->lists++;
	if (error)
		log_warn("%s: cannot list: %s", dir->source, strerror(error));
}

/* ---- answers ---- */

static int add_entries(struct listed_vec *to, const struct lf_reply *reply)
{
	vec_foreach (e, &reply->entries) {
		struct listed_name one = {.name = strdup(e->name), .attr = e->attr};

		if (e->target && *e->target)
			one.target = strdup(e->target);
		if (!one.name || !vec_push(&to->v, one)) {
			free(one.name);
			free(one.target);
			return ENOMEM;
		}
	}
	return 0;
}

static void free_question(struct list_question *q)
{
	free_entries(&q->entries);
	free(q->path);
	free(q->name);
	free(q);
}

/* ---- those that are on their way; with the lock ---- */

static void no_more_asked(struct list_question *q)
{
	struct list_question **p = &q->fs->listings.asked;

	while (*p && *p != q)
		p = &(*p)->next;
	if (*p)
		*p = q->next;
}

/* Who needs this directory need not ask for it again. */
static bool wait_for_asked(struct lazyfs *fs, struct node *dir)
{
	for (struct list_question *q = fs->listings.asked; q; q = q->next) {
		if (q->dir || q->goes_on || q->generation != fs->listings.generation ||
		    strcmp(q->path, dir->source) != 0)
			continue;
		q->dir = dir;
		dir->pins++;
		dir->listing = true;
		return true;
	}
	return false;
}

/* With the lock. The one who waits is told, if there is one. */
static void is_over(struct list_question *q, int error)
{
	struct lazyfs *fs = q->fs;
	struct node *dir = q->dir;

	if (dir) {
		q->dir = NULL;
		/* what is older than what must be known now is asked for again by the one who waits */
		if (q->generation == fs->listings.generation)
			apply(fs, dir, &q->entries, error);
		dir->listing = false;
		pthread_cond_broadcast(&fs->cond);
		dir->pins--;
		node_release(fs, dir);
	} else if (!error && !q->only_below && q->generation == fs->listings.generation) {
		keep(&fs->listings, q->path, &q->entries);
	}
	free_entries(&q->entries);
}

static void ask_below(struct list_question *q);

/* Is it of a directory below the one that was asked for, as a whole, where such were asked for, and not more of them? */
static bool is_expected(struct list_question *q, const struct lf_reply *reply)
{
	size_t n = strlen(q->path);
	uint64_t bytes = 0;

	if (strncmp(reply->path, q->path, n) != 0 || (n > 1 && reply->path[n] != '/') || !reply->last)
		return false;
	vec_foreach (e, &reply->entries)
		bytes += LF_ENTRY_HEAD + strlen(e->name) + strlen(e->target);
	if (bytes > q->room)
		return false;
	q->room -= bytes;
	return true;
}

static void answered(struct remote_call *call, int error, const struct lf_reply *reply)
{
	struct list_question *q = (struct list_question *)((char *)call -
							   offsetof(struct list_question, call));
	struct lazyfs *fs = q->fs;
	bool more = reply && reply->more && !error, own;

	pthread_mutex_lock(&fs->lock);
	if (!error && (!reply || (reply->type != LF_ENTRIES && reply->type != LF_FOLDER)))
		error = EPROTO;
	own = !error && (reply->type == LF_ENTRIES || !strcmp(reply->path, q->path));
	if (!error)
		*(reply->type == LF_FOLDER ? &fs->listings.newer : &fs->listings.older) = true;
	if (!more)
		no_more_asked(q);
	if (error) {
		q->goes_on = true;
		is_over(q, error);
	} else if (!own) {
		struct listed_vec below = {0};

		if (is_expected(q, reply) && q->generation == fs->listings.generation &&
		    !add_entries(&below, reply))
			keep(&fs->listings, reply->path, &below);
		free_entries(&below);
	} else if (!q->goes_on) {
		error = add_entries(&q->entries, reply);
		if (error || (reply->type == LF_FOLDER ? reply->last : !more)) {
			q->goes_on = true;
			if (!error)
				ask_below(q);
			is_over(q, error);
		}
	}
	pthread_mutex_unlock(&fs->lock);
	if (!more)
		free_question(q);
}

/* ---- questions ---- */

/* NULL: out of memory. */
static struct list_question *question(struct lazyfs *fs, const char *path, uint32_t flags,
				      uint64_t below)
{
	struct list_question *q = calloc(1, sizeof(*q));

	if (!q || !(q->path = strdup(path))) {
		free(q);
		return NULL;
	}
	q->fs = fs;
	q->only_below = q->goes_on = flags & LF_ONLY_BELOW;
	q->generation = fs->listings.generation;
	q->room = below;
	q->call.done = answered;
	q->call.q = (struct lf_request){.type = LF_LIST,
					.path = q->path,
					.bytes = LF_FOLDERS | flags,
					.offset = below};
	return q;
}

/* Of what is below, as much as does not keep others waiting. */
static uint64_t below_bytes(struct lazyfs *fs)
{
	return MIN(atomic_load(&fs->env.early_window) / 2, (uint64_t)BELOW_BYTES);
}

static void ask_early(struct lazyfs *fs, const char *path, uint32_t flags)
{
	struct list_question *q = fs->listings.older ? NULL :
						       question(fs, path, flags, below_bytes(fs));

	if (!q)
		return;
	if (remote_submit(fs->remote, &q->call)) {
		free_question(q);
		return;
	}
	q->next = fs->listings.asked;
	fs->listings.asked = q;
}

/* If what is looked for is no directory, others in this one may be used next. */
static void ask_below(struct list_question *q)
{
	if (!q->name)
		return;
	vec_foreach (e, &q->entries.v)
		if (S_ISDIR(e->attr.mode) && !strcmp(e->name, q->name))
			return;
	ask_early(q->fs, q->path, LF_ONLY_BELOW);
}

/* What is looked for in @dir may be a directory, and is used next then; it is no question for somebody who has it already. */
static void ask_next(struct lazyfs *fs, const struct node *dir, const char *name)
{
	char path[LF_PATH_MAX + 1];

	if (name && scope_join(path, dir->source, name) == 0)
		ask_early(fs, path, 0);
}

int listing_begin(struct lazyfs *fs, struct node *dir, enum listing_why why, const char *name)
{
	struct listed_vec entries = {0};
	struct list_question *q;
	int error;

	if (take(&fs->listings, dir->source, &entries)) {
		apply(fs, dir, &entries, 0);
		free_entries(&entries);
		return dir->list_error;
	}
	if (wait_for_asked(fs, dir))
		return 0;
	q = question(fs, dir->source, 0, why == LISTING_USED && !name ? below_bytes(fs) : 0);
	if (q && name && !(q->name = strdup(name))) {
		free_question(q);
		q = NULL;
	}
	if (!q)
		return ENOMEM;
	q->dir = dir;
	dir->pins++;
	dir->listing = true;
	error = remote_submit(fs->remote, &q->call);
	if (error) {
		dir->pins--;
		dir->listing = false;
		free_question(q);
		return error;
	}
	if (why == LISTING_USED)
		atomic_fetch_add(&fs->env.demands, 1);
	ask_next(fs, dir, name);
	return 0;
}
