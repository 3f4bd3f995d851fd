// SPDX-License-Identifier: Apache-2.0
/*
 * Slabs of buffers, mapped at multiples of their size, so that the slab of a buffer is known by its address. One slab that
 * is not in use is kept; others go back to the system. What is given is the first that is free, in the oldest slab that
 * has one: so memory is touched for as many buffers as were ever in use at once, and not for the rest of a slab.
 */
#include "store/bufs.h"

#include "base/page.h"
#include "wire/block.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
	SLAB_BYTES = 16 << 20, /* whole huge pages */
	BUF_BYTES = (BLOCK_BODY_MAX + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES,
	BUFS = SLAB_BYTES / BUF_BYTES,
};

struct slab {
	struct slab *next;
	uint8_t *memory;
	uint32_t used; /* a bit for each buffer */
};

_Static_assert(BUFS < 32, "a word has a bit for each");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all of this */
static struct slab *slabs;                               /* the oldest first */

static struct slab *new_slab(void)
{
	struct slab *slab = malloc(sizeof(*slab)), **at = &slabs;
	uint8_t *room, *end;

	if (!slab)
		return NULL;
	room = mmap(NULL, 2 * (size_t)SLAB_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED) {
		free(slab);
		return NULL;
	}
	end = room + 2 * (size_t)SLAB_BYTES;
	*slab = (struct slab){.memory = room + (-(uintptr_t)room & (SLAB_BYTES - 1))};
	/* what is before and behind the multiple; nothing is lost if it stays */
	if (slab->memory > room)
		munmap(room, (size_t)(slab->memory - room));
	if (end > slab->memory + SLAB_BYTES)
		munmap(slab->memory + SLAB_BYTES, (size_t)(end - slab->memory) - SLAB_BYTES);
	/* a kernel without huge pages only makes it slower */
	(void)madvise(slab->memory, SLAB_BYTES, MADV_HUGEPAGE);
	while (*at)
		at = &(*at)->next;
	*at = slab;
	return slab;
}

uint8_t *bufs_get(void)
{
	struct slab *slab;
	uint8_t *buf = NULL;
	int i;

	pthread_mutex_lock(&lock);
	for (slab = slabs; slab && slab->used == (1u << BUFS) - 1; slab = slab->next)
		;
	if (!slab)
		slab = new_slab();
	if (slab) {
		i = __builtin_ctz(~slab->used);
		slab->used |= 1u << i;
		buf = slab->memory + (size_t)i * BUF_BYTES;
	}
	pthread_mutex_unlock(&lock);
	return buf;
}

/* Slabs that nobody uses, but for one. */
static void drop_slabs(void)
{
	bool kept = false;

	for (struct slab **at = &slabs, *slab; (slab = *at);) {
		if (slab->used || !kept) {
			kept |= !slab->used;
			at = &slab->next;
			continue;
		}
		*at = slab->next;
		munmap(slab->memory, SLAB_BYTES);
		free(slab);
	}
}

void bufs_free(void *buf)
{
	uint8_t *memory = (uint8_t *)((uintptr_t)buf & ~(uintptr_t)(SLAB_BYTES - 1));
	struct slab *slab;

	pthread_mutex_lock(&lock);
	for (slab = slabs; slab && slab->memory != memory; slab = slab->next)
		;
	if (slab) {
		slab->used &= ~(1u << (size_t)((uint8_t *)buf - memory) / BUF_BYTES);
		if (!slab->used)
			drop_slabs();
	}
	pthread_mutex_unlock(&lock);
	if (!slab)
		free(buf);
}
