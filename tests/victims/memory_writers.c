// SPDX-License-Identifier: Apache-2.0
// Memory of several kinds that two processes with two threads each write all the time: what a page
// must hold follows from its address and from how often it was written. NAME DIR [MIB]
#include "victim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define WRITERS 2
#define WORDS (VICTIM_PAGE / sizeof(uint64_t))

// One stretch of pages and how often each was written.
struct area {
	const char *name;
	uint64_t *pages;
	uint32_t *written;
	size_t n;
	uint64_t salt; // two processes write different things to the same addresses
};

struct writer {
	struct area *area;
	size_t first; // writes every WRITERS-th page from here on
};

static struct area areas[3];
static size_t n_areas;

static uint64_t word_of(const struct area *a, size_t page, size_t word)
{
	uint64_t x = (page * WORDS + word) * 0x9e3779b97f4a7c15u + a->salt;

	return (x ^ x >> 29) + a->written[page] * 0xbf58476d1ce4e5b9u;
}

static void check_page(const struct area *a, size_t page)
{
	const volatile uint64_t *p = a->pages + page * WORDS;

	for (size_t i = 0; i < WORDS; i++)
		CHECK(p[i] == word_of(a, page, i),
		      "%s: word %zu of page %zu is %#lx instead of %#lx (written %u times)",
		      a->name, i, page, (long)p[i], (long)word_of(a, page, i), a->written[page]);
}

static void write_page(struct area *a, size_t page)
{
	volatile uint64_t *p = a->pages + page * WORDS;

	a->written[page]++;
	for (size_t i = 0; i < WORDS; i++)
		p[i] = word_of(a, page, i);
}

static void *write_all_the_time(void *arg)
{
	struct writer *w = arg;

	while (!victim_asked()) {
		// a few pages often, all of them now and then
		for (size_t page = w->first; page < w->area->n; page += WRITERS) {
			if (page % 64 > 8 && rand() % 16)
				continue;
			check_page(w->area, page);
			write_page(w->area, page);
		}
		victim_sleep_ms(1);
	}
	return NULL;
}

static void add_area(const char *name, size_t n, int flags)
{
	struct area *a = &areas[n_areas++];

	*a = (struct area){.name = name, .n = n, .salt = n_areas * 1000003};
	a->pages = victim_map(n * VICTIM_PAGE, PROT_READ | PROT_WRITE, flags);
	a->written = victim_map(n * sizeof(*a->written), PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS);
	for (size_t page = 0; page < n; page++)
		write_page(a, page);
}

// Of shared memory each process writes its own part.
static void share(struct area *a, size_t part, size_t parts)
{
	size_t each = a->n / parts;

	a->pages += part * each * WORDS;
	memmove(a->written, a->written + part * each, each * sizeof(*a->written));
	for (size_t page = 0; page < each; page++)
		a->written[page] = 0;
	a->n = each;
	a->salt += part;
	for (size_t page = 0; page < each; page++)
		write_page(a, page);
}

// Writes until the test asks, then looks at every page.
static void work(void)
{
	pthread_t threads[ARRAY_SIZE(areas) * WRITERS];
	struct writer writers[ARRAY_SIZE(threads)];
	size_t n = 0;

	for (size_t i = 0; i < n_areas; i++)
		for (size_t first = 0; first < WRITERS; first++, n++) {
			writers[n] = (struct writer){&areas[i], first};
			CHECK(pthread_create(&threads[n], NULL, write_all_the_time, &writers[n]) == 0,
			      "pthread_create");
		}
	for (size_t i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < n_areas; i++)
		for (size_t page = 0; page < areas[i].n; page++)
			check_page(&areas[i], page);
}

static void child(void *ready)
{
	share(&areas[2], 1, 2);
	areas[0].salt++; // private from now on: rewritten, or kept as the parent had it
	for (size_t page = 0; page < areas[0].n; page++)
		write_page(&areas[0], page);
	*(volatile int *)ready = 1;
	work();
}

int main(int argc, char **argv)
{
	size_t pages = (argc > 2 ? strtoul(argv[2], NULL, 10) : 24) * 256;
	volatile int *ready;
	pid_t pid;

	victim_start(argc, argv);
	add_area("private", pages / 4, MAP_PRIVATE | MAP_ANONYMOUS);
	add_area("private, copy on write", pages / 4, MAP_PRIVATE | MAP_ANONYMOUS);
	add_area("shared", pages / 4, MAP_SHARED | MAP_ANONYMOUS);
	ready = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	pid = victim_fork(child, (void *)ready);
	share(&areas[2], 0, 2);
	while (!*ready)
		victim_sleep_ms(5);
	victim_ready();
	work();
	victim_reap(pid);
	victim_pass();
}
