// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/dirnames.h"

#include "base/map.h"

#include <string.h>

enum { FIRST_BUCKETS = 8 };

static struct name **bucket(const struct names *t, uint64_t hash)
{
	return &t->buckets[hash & (t->n_buckets - 1)];
}

static bool grow(struct names *t)
{
	size_t n = t->n_buckets ? t->n_buckets * 2 : FIRST_BUCKETS;
	struct name **bigger = calloc(n, sizeof(struct name *));

	if (!bigger)
		return false;
	free((void *)t->buckets);
	t->buckets = bigger;
	t->n_buckets = n;
	for (struct name *e = t->first; e; e = e->next) {
		struct name **b = bucket(t, e->hash);

		e->same_bucket = *b;
		*b = e;
	}
	return true;
}

struct name *dirnames_find(const struct names *t, const char *text)
{
	uint64_t hash = map_hash(text);

	if (!t->n_buckets)
		return NULL;
	for (struct name *e = *bucket(t, hash); e; e = e->same_bucket)
		if (e->hash == hash && !strcmp(e->text, text))
			return e;
	return NULL;
}

struct name *dirnames_add(struct names *t, const char *text, struct node *node)
{
	size_t bytes = strlen(text) + 1;
	struct name *e, **b;

	if (t->n >= t->n_buckets && !grow(t))
		return NULL;
	e = malloc(sizeof(*e) + bytes);
	if (!e)
		return NULL;
	*e = (struct name){.node = node, .hash = map_hash(text), .prev = t->last};
	memcpy(e->text, text, bytes);
	b = bucket(t, e->hash);
	e->same_bucket = *b;
	*b = e;
	*(t->last ? &t->last->next : &t->first) = e;
	t->last = e;
	t->n++;
	return e;
}

void dirnames_remove(struct names *t, struct name *name)
{
	struct name **p = bucket(t, name->hash);

	while (*p != name)
		p = &(*p)->same_bucket;
	*p = name->same_bucket;
	*(name->prev ? &name->prev->next : &t->first) = name->next;
	*(name->next ? &name->next->prev : &t->last) = name->prev;
	t->n--;
	free(name);
}

void dirnames_free(struct names *t)
{
	while (t->first)
		dirnames_remove(t, t->first);
	free((void *)t->buckets);
	*t = (struct names){0};
}
