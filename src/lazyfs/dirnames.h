// SPDX-License-Identifier: Apache-2.0
/* The names in one directory: a hash table, and the order in which they came. Not locked. */
#ifndef FERRY_LAZYFS_DIRNAMES_H
#define FERRY_LAZYFS_DIRNAMES_H

#include "base/attrs.h"

#include <stdbool.h>
#include <stdint.h>

struct node;

struct name {
	struct name *same_bucket;
	struct name *next, *prev; /* by age */
	struct node *node;        /* NULL: the source has it, but here it was removed */
	bool from_source;         /* it has it there, too, and it means the same */
	uint64_t hash;
	char text[];
};

/* Zeroed memory is an empty directory. */
struct names {
	struct name **buckets;
	size_t n, n_buckets; /* n_buckets: a power of two, or 0 */
	struct name *first, *last;
};

struct name *dirnames_find(const struct names *t, const char *text);

/* Adds a name that is not there yet; NULL: out of memory. */
struct name *dirnames_add(struct names *t, const char *text, struct node *node);

void dirnames_remove(struct names *t, struct name *name);
void dirnames_free(struct names *t);

#endif
