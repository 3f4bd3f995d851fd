// SPDX-License-Identifier: Apache-2.0
#include "mem/ahead.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum state { IDLE, WANTED, DONE, END };

struct ahead {
	const struct task_memory *mem;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum state state;
	uint64_t addr;
	size_t bytes, buf_bytes;
	bool failed;
	unsigned int next; /* which buffer is filled next; the other one is with the owner */
	uint8_t *buf[2];
};

static void *work(void *arg)
{
	struct ahead *a = arg;
	struct err err;
	bool failed;

	pthread_mutex_lock(&a->lock);
	while (a->state != END) {
		if (a->state != WANTED) {
			pthread_cond_wait(&a->changed, &a->lock);
			continue;
		}
		pthread_mutex_unlock(&a->lock);
		failed = task_memory_read(a->mem, a->addr, a->buf[a->next], a->bytes, &err) < 0;
		pthread_mutex_lock(&a->lock);
		a->failed = failed;
		if (a->state == WANTED)
			a->state = DONE;
		pthread_cond_broadcast(&a->changed);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

static void free_buffers(struct ahead *a)
{
	for (int i = 0; i < 2; i++)
		if (a->buf[i] != MAP_FAILED)
			munmap(a->buf[i], a->buf_bytes);
	free(a);
}

struct ahead *ahead_open(const struct task_memory *mem, size_t bytes)
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->mem = mem;
	a->buf_bytes = bytes;
	for (int i = 0; i < 2; i++)
		a->buf[i] = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	if (a->buf[0] == MAP_FAILED || a->buf[1] == MAP_FAILED ||
	    pthread_create(&a->thread, NULL, work, a)) {
		free_buffers(a);
		return NULL;
	}
	return a;
}

void ahead_start(struct ahead *a, uint64_t addr, size_t bytes)
{
	if (!a || bytes > a->buf_bytes)
		return;
	pthread_mutex_lock(&a->lock);
	a->addr = addr;
	a->bytes = bytes;
	a->state = WANTED;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
}

const uint8_t *ahead_take(struct ahead *a, uint64_t addr, size_t bytes)
{
	const uint8_t *data = NULL;

	if (!a)
		return NULL;
	pthread_mutex_lock(&a->lock);
	while (a->state == WANTED)
		pthread_cond_wait(&a->changed, &a->lock);
	if (a->state == DONE && !a->failed && a->addr == addr && a->bytes == bytes) {
		data = a->buf[a->next];
		a->next ^= 1;
	}
	a->state = IDLE;
	pthread_mutex_unlock(&a->lock);
	return data;
}

void ahead_close(struct ahead *a)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->state = END;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->thread, NULL);
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free_buffers(a);
}
