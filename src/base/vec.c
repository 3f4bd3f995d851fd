// SPDX-License-Identifier: Apache-2.0
#include "base/vec.h"

#include <stdint.h>

static bool resize(void **v, size_t *cap, size_t want, size_t size)
{
	void *p;

	if (want > SIZE_MAX / size)
		return false;
	p = realloc(*v, want * size);
	if (!p)
		return false;
	*v = p;
	*cap = want;
	return true;
}

bool vec_grow(void **v, size_t *cap, size_t n, size_t size)
{
	return n < *cap || resize(v, cap, *cap ? *cap * 2 : 16, size);
}

bool vec_make_room(void **v, size_t *cap, size_t want, size_t size)
{
	return want <= *cap || resize(v, cap, want > *cap * 2 ? want : *cap * 2, size);
}
