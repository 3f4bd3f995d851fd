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

/* With the lock: bytes that were asked for. A file of which nothing comes is as if nobody had used it. */
static uint64_t ask_early(struct lazyfs *fs, struct node *n)
{
	const bool first = !n->content;
	uint64_t bytes = 0;

	if (!n->origin.size || n->origin.size > CONTENT_SMALL || !node_content(fs, n))
		return 0;
	bytes = content_early(n->content);
	if (first && !bytes)
		node_drop_content(fs, n);
	return bytes;
}

/* With the lock: the names behind this one, and then those before it. */
static void ask_around(struct lazyfs *fs, struct node *dir, const struct name *from, uint64_t bytes)
{
	const struct name *e = from->next ? from->next : dir->names.first;
	uint64_t asked = 0;

	for (unsigned int i = 0; e != from && asked < bytes && i < LOOKS_MOST; i++) {
		uint64_t more = e->node && e->from_source && S_ISREG(e->node->attr.mode) ?
					ask_early(fs, e->node) :
					0;

		asked += more;
		dir->near.asked += more > 0;
		e = e->next ? e->next : dir->names.first;
	}
}

void neighbours_begin(struct lazyfs *fs, struct node *n, struct content *c)
{
	bool missed = content_begin(c), used = content_early_used(c);
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
		ask_around(fs, dir, name, bytes);
	pthread_mutex_unlock(&fs->lock);
}
