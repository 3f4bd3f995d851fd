// SPDX-License-Identifier: Apache-2.0
// Memory that is in use all the time: two processes of two threads each check and rewrite pages,
// fork children that check theirs, move memory, discard it and unmap it, from before the test
// touches them until the verdict. Each page's pattern depends on its place and on how often it was
// written. Argument: MiB for each process (default 4).
#include "victim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 2
#define WINDOW 8         // pages that are moved and discarded
#define FORK_NS 50000000 // at least, between two forks of a thread: pids are few

// A thread owns every THREADS-th page: nobody else writes it.
struct worker {
	pthread_t thread;
	size_t nr;
	uint64_t random;
	char *window; // of its own, and its generation
	uint32_t window_generation;
	int64_t forked_ns;
};

static char *area;
static uint32_t *generation; // of each page
static size_t pages;

static size_t some_page(struct worker *w)
{
	return victim_random(&w->random) % (pages / THREADS) * THREADS + w->nr;
}

static void touch_some(struct worker *w)
{
	size_t i = some_page(w);

	victim_check_page(area + i * VICTIM_PAGE, i, generation[i]);
	if (victim_random(&w->random) % 4 == 0)
		victim_write_page(area + i * VICTIM_PAGE, i, ++generation[i]);
}

// The child sees the memory of this moment, whatever the parent writes from now on.
static void fork_some(struct worker *w)
{
	pid_t pid = MUST(fork());
	int status;

	w->forked_ns = victim_now_ns();
	if (pid == 0) {
		for (int n = 0; n < 4; n++) {
			size_t i = some_page(w);

			victim_check_page(area + i * VICTIM_PAGE, i, generation[i]);
		}
		_exit(0);
	}
	for (int n = 0; n < 4; n++) {
		size_t i = some_page(w);

		victim_write_page(area + i * VICTIM_PAGE, i, ++generation[i]);
	}
	while (waitpid(pid, &status, 0) < 0)
		CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
	CHECK(status == 0, "a child ended with status 0x%x", status);
}

static void check_window(const struct worker *w)
{
	for (size_t i = 0; i < WINDOW; i++)
		victim_check_page(w->window + i * VICTIM_PAGE, 1000000 + w->nr * WINDOW + i,
				  w->window_generation);
}

static void write_window(struct worker *w)
{
	w->window_generation++;
	for (size_t i = 0; i < WINDOW; i++)
		victim_write_page(w->window + i * VICTIM_PAGE, 1000000 + w->nr * WINDOW + i,
				  w->window_generation);
}

static void move_window(struct worker *w)
{
	size_t bytes = WINDOW * VICTIM_PAGE;
	void *place = victim_map(bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
	char *moved = mremap(w->window, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place);

	CHECK(moved == place, "mremap: %s", strerror(errno));
	w->window = moved;
	check_window(w);
}

static void discard_window(struct worker *w)
{
	check_window(w);
	MUST(madvise(w->window, WINDOW * VICTIM_PAGE, MADV_DONTNEED));
	for (size_t i = 0; i < WINDOW * VICTIM_PAGE; i += 512)
		CHECK(w->window[i] == 0, "discarded memory is not zero");
	write_window(w);
}

static void replace_window(struct worker *w)
{
	check_window(w);
	MUST(munmap(w->window, WINDOW * VICTIM_PAGE));
	w->window = victim_map(WINDOW * VICTIM_PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS);
	write_window(w);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned long n = 0; !victim_asked(); n++) {
		for (int i = 0; i < 4; i++)
			touch_some(w);
		if (n % 4 == 3 && victim_now_ns() - w->forked_ns > FORK_NS)
			fork_some(w);
		if (n % 6 == 1)
			move_window(w);
		if (n % 6 == 2)
			discard_window(w);
		if (n % 6 == 4)
			replace_window(w);
		victim_sleep_ms(1);
	}
	check_window(w);
	return NULL;
}

static void live(void *arg)
{
	struct worker worker[THREADS] = {0};
	volatile int *ready = arg;

	area = victim_map(pages * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	generation = victim_map(pages * sizeof(*generation), PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS);
	for (size_t i = 0; i < pages; i++)
		victim_write_page(area + i * VICTIM_PAGE, i, generation[i]);
	for (size_t i = 0; i < THREADS; i++) {
		struct worker *w = &worker[i];

		*w = (struct worker){.nr = i, .random = (uint64_t)getpid() * THREADS + i};
		w->window = victim_map(WINDOW * VICTIM_PAGE, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS);
		write_window(w);
		CHECK(pthread_create(&w->thread, NULL, work, w) == 0, "no thread");
	}
	*ready = 1;
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(worker[i].thread, NULL);
	for (size_t i = 0; i < pages; i++)
		victim_check_page(area + i * VICTIM_PAGE, i, generation[i]);
}

static void *live_in_thread(void *arg)
{
	live(arg);
	return NULL;
}

// The root does the same as its child, in threads of its own.
int main(int argc, char **argv)
{
	volatile int *ready;
	pid_t child;
	pthread_t self;

	victim_start(argc, argv);
	pages = (size_t)(argc > 2 ? atoi(argv[2]) : 4) * 256;
	ready = mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(ready != MAP_FAILED, "mmap: %s", strerror(errno));
	child = victim_fork(live, (void *)&ready[0]);
	CHECK(pthread_create(&self, NULL, live_in_thread, (void *)&ready[1]) == 0, "no thread");
	while (!ready[0] || !ready[1])
		victim_sleep_ms(1);
	victim_ready();
	pthread_join(self, NULL);
	victim_reap(child);
	victim_pass();
}
