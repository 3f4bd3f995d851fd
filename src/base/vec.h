// SPDX-License-Identifier: Apache-2.0
/*
 * Growable arrays: VEC(type) declares { type *v; size_t n, cap; }. Growing can
 * fail: vec_push returns false and leaves the array as it was.
 */
#ifndef FERRY_BASE_VEC_H
#define FERRY_BASE_VEC_H

#include "base/attrs.h"

#include <stdbool.h>

#define VEC(type)              \
	struct {               \
		type *v;       \
		size_t n, cap; \
	}

/* Makes room for one more element of @size bytes; false if memory ran out. */
bool vec_grow(void **v, size_t *cap, size_t n, size_t size);

/* Makes room for @want elements of @size bytes in all; false, and nothing has changed, if memory ran out. */
bool vec_make_room(void **v, size_t *cap, size_t want, size_t size);

/* The same for @more elements behind the last. */
#define vec_reserve(vec, more) \
	vec_make_room((void **)&(vec)->v, &(vec)->cap, (vec)->n + (more), sizeof(*(vec)->v))

#define vec_push(vec, ...)                                                        \
	(vec_grow((void **)&(vec)->v, &(vec)->cap, (vec)->n, sizeof(*(vec)->v)) ? \
		 ((vec)->v[(vec)->n++] = (__VA_ARGS__), true) :                   \
		 false)

#define vec_free(vec)                      \
	do {                               \
		free((vec)->v);            \
		(vec)->v = NULL;           \
		(vec)->n = (vec)->cap = 0; \
	} while (0)

#define vec_foreach(item, vec) \
	for (__typeof__(&*(vec)->v) item = (vec)->v; item && item < (vec)->v + (vec)->n; item++)

#endif
