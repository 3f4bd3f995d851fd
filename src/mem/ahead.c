// SPDX-License-Identifier: Apache-2.0
#include "mem/ahead.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { SLOTS = 4 };

struct slot {
	uint64_t addr;
	size_t bytes;
	uint8_t *buf;
	bool failed;
};

/* The counters only grow: freed <= taken <= read <= started <= freed + SLOTS. */
struct ahead {
	const struct task_memory *mem;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t started_more, read_more;
	bool end;
	unsigned int started, read, taken,
		freed; /* the chunk between taken and freed is with the owner */
	uint8_t *buffers;
	size_t buf_bytes;
	struct slot slots[SLOTS];
};

static struct slot *slot_of(struct ahead *a, unsigned int number)
{
	return &a->slots[number % SLOTS];
}

static void *work(void *arg)
{
	struct ahead *a = arg;
	struct slot *s;
	struct err err;
	bool failed;

	pthread_mutex_lock(&a->lock);
	while (!a->end) {
		if (a->read == a->started) {
			pthread_cond_wait(&a->started_more, &a->lock);
			continue;
		}
		s = slot_of(a, a->read);
		pthread_mutex_unlock(&a->lock);
		failed = task_memory_read(a->mem, s->addr, s->buf, s->bytes, &err) < 0;
		pthread_mutex_lock(&a->lock);
		s->failed = failed;
		a->read++;
		pthread_cond_signal(&a->read_more);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

struct ahead *ahead_open(const struct task_memory *mem, size_t bytes)
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->mem = mem;
	a->buf_bytes = bytes;
	a->buffers = mmap(NULL, SLOTS * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	if (a->buffers == MAP_FAILED) {
		free(a);
		return NULL;
	}
	for (unsigned int i = 0; i < SLOTS; i++)
		a->slots[i].buf = a->buffers + i * bytes;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->started_more, NULL);
	pthread_cond_init(&a->read_more, NULL);
	if (pthread_create(&a->thread, NULL, work, a)) {
		munmap(a->buffers, SLOTS * bytes);
		free(a);
		return NULL;
	}
	return a;
}

bool ahead_start(struct ahead *a, uint64_t addr, size_t bytes)
{
	bool room;

	pthread_mutex_lock(&a->lock);
	room = a->started - a->freed < SLOTS;
	if (room) {
		struct slot *s = slot_of(a, a->started++);

		s->addr = addr;
		s->bytes = MIN(bytes, a->buf_bytes);
		pthread_cond_signal(&a->started_more);
	}
	pthread_mutex_unlock(&a->lock);
	return room;
}

const uint8_t *ahead_take(struct ahead *a, uint64_t addr, size_t bytes)
{
	const uint8_t *data = NULL;
	struct slot *s;

	if (!a)
		return NULL;
	pthread_mutex_lock(&a->lock);
	a->freed = a->taken;
	s = slot_of(a, a->taken);
	if (a->started != a->taken && s->addr == addr && s->bytes == bytes) {
		while (a->read == a->taken)
			pthread_cond_wait(&a->read_more, &a->lock);
		a->taken++;
		data = s->failed ? NULL : s->buf;
	}
	pthread_mutex_unlock(&a->lock);
	return data;
}

void ahead_close(struct ahead *a)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->end = true;
	pthread_cond_signal(&a->started_more);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->thread, NULL);
	pthread_cond_destroy(&a->started_more);
	pthread_cond_destroy(&a->read_more);
	munmap(a->buffers, SLOTS * a->buf_bytes);
	free(a);
}
