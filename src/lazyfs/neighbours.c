// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/neighbours.h"

#include "base/clock.h"

#include <string.h>
#include <sys/stat.h>

enum {
	TOGETHER_MS = 2000, /* what is read so soon after another belongs to it */
	FIRST_BYTES = 64 * 1024,
	MOST_DOUBLINGS = 4,
	LOOKS_MOST = 512, /* names */
	JUDGED = 96, /* after so many files that came early, one in JUDGED_PART was needed or it is left */
	JUDGED_PART = 16,
};

/* With the lock: the directory that the file was found in, and its name there; NULL: it was renamed since. */
static struct node *directory_of(struct lazyfs *fs, const struct node *n, struct name **name_out)
{
	const char *base = n->source ? strrchr(n->source, '/') : NULL;
	char path[LF_PATH_MAX + 1];
	struct node *dir = &fs->root;

	if (!base)
		return NULL;
	if (base > n->source) {
		snprintf(path, sizeof(path), "%.*s", (int)(base - n->source), n->source);
		dir = node_known(fs, path);
	}
	*name_out = dir && S_ISDIR(dir->attr.mode) ? dirnames_find(&dir->names, base + 1) : NULL;
	return *name_out && (*name_out)->node == n ? dir : NULL;
}

/* With the lock: how many bytes of its neighbours are worth asking for, after one file that was waited for. */
static uint64_t worth(struct near *near)
{
	uint64_t now = clock_ms();

	if (now - near->last_ms > TOGETHER_MS)
		near->missed = 0;
	near->last_ms = now;
	if (!near->missed++ || (near->asked > JUDGED && near->used * JUDGED_PART < near->asked))
		return 0;
	return (uint64_t)FIRST_BYTES << MIN(near->missed - 1, (unsigned int)MOST_DOUBLINGS);
}

struct neighbour {
	struct node *n; /* pinned */
	char *path;
	uint64_t size;
};

struct neighbours {
	VEC(struct neighbour) v;
};

/* With the lock: the names behind this one, and then those before it, of files that nobody has used yet. */
static void gather(struct node *dir, const struct name *from, uint64_t bytes, struct neighbours *out)
{
	const struct name *e = from->next ? from->next : dir->names.first;
	uint64_t sum = 0;

	for (unsigned int i = 0; e != from && sum < bytes && i < LOOKS_MOST; i++) {
		struct node *n = e->node;

		if (n && e->from_source && S_ISREG(n->attr.mode) && !n->content && n->source &&
		    n->origin.size && n->origin.size <= CONTENT_SMALL) {
			struct neighbour one = {.n = n,
						.path = strdup(n->source),
						.size = n->origin.size};

			if (!one.path || !vec_push(&out->v, one)) {
				free(one.path);
				return;
			}
			n->pins++;
			sum += n->origin.size;
		}
		e = e->next ? e->next : dir->names.first;
	}
}

/* With the lock. A file of which nothing comes is as if nobody had used it. */
static bool ask_early(struct lazyfs *fs, struct node *n)
{
	uint64_t bytes;

	if (n->content || !node_content(fs, n))
		return false;
	n->content->twin = TWIN_NONE;
	bytes = content_early(n->content);
	if (!bytes)
		node_drop_content(fs, n);
	return bytes;
}

/* What this host has may be the same, and is looked at by those who need it. To look for it may take long. */
static void ask(struct lazyfs *fs, struct node *dir, const struct neighbours *all)
{
	vec_foreach (e, &all->v) {
		const bool there = !content_is_local(&fs->env, e->path, e->size);

		pthread_mutex_lock(&fs->lock);
		if (there && ask_early(fs, e->n))
			dir->near.asked++;
		e->n->pins--;
		node_release(fs, e->n);
		pthread_mutex_unlock(&fs->lock);
		free(e->path);
	}
}

void neighbours_begin(struct lazyfs *fs, struct node *n, struct content *c)
{
	bool missed = content_begin(c), used = content_early_used(c);
	struct neighbours all = {0};
	struct name *name;
	struct node *dir;
	uint64_t bytes;

	if (!missed && !used)
		return;
	pthread_mutex_lock(&fs->lock);
	dir = directory_of(fs, n, &name);
	if (dir && used)
		dir->near.used++;
	if (dir && missed && (bytes = worth(&dir->near)))
		gather(dir, name, bytes, &all);
	if (all.v.n)
		dir->pins++;
	pthread_mutex_unlock(&fs->lock);
	if (!all.v.n)
		return;
	ask(fs, dir, &all);
	vec_free(&all.v);
	node_unpin(fs, dir);
}
