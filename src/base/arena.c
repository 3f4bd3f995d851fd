// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <string.h>

struct arena_chunk {
	struct arena_chunk *next;
	size_t cap, used;
	_Alignas(16) unsigned char data[];
};

enum { CHUNK_BYTES = 64 * 1024 };

bool arena_recyclable(size_t bytes)
{
	return bytes >= 1024 && bytes <= (1024UL << 16) && (bytes & (bytes - 1)) == 0;
}

/* The list for blocks of this recyclable size. */
static void **recycled_list(struct arena *a, size_t bytes)
{
	return &a->recycled[__builtin_ctzl(bytes) - 10];
}

void arena_recycle(struct arena *a, void *block, size_t bytes)
{
	void **list;

	if (!arena_recyclable(bytes))
		return;
	list = recycled_list(a, bytes);
	*(void **)block = *list;
	*list = block;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
	struct arena_chunk *c = a->chunks;
	size_t need = (bytes + 15) & ~(size_t)15, cap;
	void **list, *p;

	if (arena_recyclable(bytes) && *(list = recycled_list(a, bytes))) {
		p = *list;
		*list = *(void **)p;
		return memset(p, 0, bytes);
	}
	if (need < bytes || need > SIZE_MAX - sizeof(*c))
		return NULL;
	if (!c || c->cap - c->used < need) {
		cap = need > CHUNK_BYTES / 4 ? need : CHUNK_BYTES;
		c = calloc(1, sizeof(*c) + cap);
		if (!c)
			return NULL;
		c->cap = cap;
		if (cap == need && a->chunks) { /* a large object: keep filling the current chunk */
			c->next = a->chunks->next;
			a->chunks->next = c;
		} else {
			c->next = a->chunks;
			a->chunks = c;
		}
	}
	p = c->data + c->used;
	c->used += need;
	a->used_bytes += need;
	return p;
}

void *arena_calloc(struct arena *a, size_t n, size_t size)
{
	size_t bytes;

	return __builtin_mul_overflow(n, size, &bytes) ? NULL : arena_alloc(a, bytes);
}

void *arena_dup(struct arena *a, const void *data, size_t bytes)
{
	void *p = arena_alloc(a, bytes ? bytes : 1);

	if (p && bytes)
		memcpy(p, data, bytes);
	return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
	return arena_dup(a, s, strlen(s) + 1);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	char *p;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return NULL;
	p = arena_alloc(a, (size_t)n + 1);
	if (!p)
		return NULL;
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return p;
}

void arena_free(struct arena *a)
{
	struct arena_chunk *c, *next;

	for (c = a->chunks; c; c = next) {
		next = c->next;
		free(c);
	}
	memset(a, 0, sizeof(*a));
}
