// SPDX-License-Identifier: Apache-2.0
#include "store/names.h"

#include <errno.h>
#include <string.h>

struct name {
	struct name *next; /* same hash */
	char text[];
};

int names_add(struct names *set, const char *name, struct err *err)
{
	uint64_t hash = map_hash(name);
	struct name *first = map_get(&set->by_hash, hash), *n;

	for (n = first; n; n = n->next)
		if (!strcmp(n->text, name))
			return err_set(err, EEXIST, "%s: written twice", name);
	n = malloc(sizeof(*n) + strlen(name) + 1);
	if (!n)
		return err_nomem(err);
	strcpy(n->text, name);
	n->next = first;
	if (!map_set(&set->by_hash, hash, n)) {
		free(n);
		return err_nomem(err);
	}
	return 0;
}

void names_free(struct names *set)
{
	struct name *n, *next;

	for (size_t i = 0; i < set->by_hash.cap; i++) {
		for (n = set->by_hash.slots[i].value; n; n = next) {
			next = n->next;
			free(n);
		}
	}
	map_free(&set->by_hash);
}
