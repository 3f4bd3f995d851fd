// SPDX-License-Identifier: Apache-2.0
/* The names that a store has been given, as two puts of one name are an error. */
#ifndef FERRY_STORE_NAMES_H
#define FERRY_STORE_NAMES_H

#include "base/err.h"
#include "base/map.h"

/* Zeroed memory is an empty set. */
struct names {
	struct map by_hash;
};

/* Adds a name: -1 if it is there already (EEXIST), or memory ran out. */
int names_add(struct names *set, const char *name, struct err *err) must_check;
void names_free(struct names *set);

#endif
