// SPDX-License-Identifier: Apache-2.0
// Shared memory that is in use all the time: two processes of two threads each check and rewrite pages of
// one area, until the verdict; then the first looks at what the second has written, too. There are also a memfd without a
// descriptor, and one that is read by its descriptor. Arguments: MiB of the area (default 4); "still": no more than
// that. Else threads also fork children that write, discard pages (MADV_DONTNEED, which leaves shared memory as it is), punch
// holes (MADV_REMOVE, which does not), and make second mappings of what they have.
#include "victim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 2
#define WORKERS (2 * THREADS)
#define WINDOW 16 // pages that are discarded, punched and mapped anew
#define SMALL 256 // pages of each other object
#define FORK_NS 50000000

struct object {
	char *at;
	uint32_t *generation; // of each page; shared, too
	size_t pages;
	uint64_t tag;
};

// A worker owns every WORKERS-th page of each object: nobody else writes it, but for a child that it waits for.
struct worker {
	pthread_t thread;
	size_t nr;
	uint64_t random;
	char *window; // a mapping of its own of WINDOW pages
	uint32_t *window_generation;
	int64_t forked_ns;
};

static struct object area, closed, open_one;
static int open_fd;
static char *windows;
static uint32_t *window_generations;
static bool still;

static void check_nth(const struct object *o, size_t i)
{
	victim_check_page(o->at + i * VICTIM_PAGE, o->tag + i, o->generation[i]);
}

static void write_nth(struct object *o, size_t i)
{
	victim_write_page(o->at + i * VICTIM_PAGE, o->tag + i, ++o->generation[i]);
}

static size_t some_page(struct worker *w, const struct object *o)
{
	return victim_random(&w->random) % (o->pages / WORKERS) * WORKERS + w->nr;
}

static void touch_some(struct worker *w, struct object *o)
{
	size_t i = some_page(w, o);

	check_nth(o, i);
	if (victim_random(&w->random) % 4 == 0)
		write_nth(o, i);
}

static void read_some(struct worker *w)
{
	char page[VICTIM_PAGE] __attribute__((aligned(8)));
	size_t i = some_page(w, &open_one);

	CHECK(pread(open_fd, page, sizeof(page), (off_t)(i * VICTIM_PAGE)) == sizeof(page),
	      "pread: %s", strerror(errno));
	victim_check_page(page, open_one.tag + i, open_one.generation[i]);
	touch_some(w, &open_one);
}

// What the child writes is there for its parent.
static void fork_some(struct worker *w)
{
	size_t i = some_page(w, &area), k = some_page(w, &closed);
	pid_t pid = MUST(fork());
	int status;

	w->forked_ns = victim_now_ns();
	if (pid == 0) {
		touch_some(w, &area);
		check_nth(&area, i);
		write_nth(&area, i);
		check_nth(&closed, k);
		write_nth(&closed, k);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
		CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
	CHECK(status == 0, "a child ended with status 0x%x", status);
	check_nth(&area, i);
	check_nth(&closed, k);
}

static void check_window(const struct worker *w)
{
	for (size_t i = 0; i < WINDOW; i++)
		victim_check_page(w->window + i * VICTIM_PAGE, 0x3000000 + w->nr * WINDOW + i,
				  *w->window_generation);
}

static void write_window(struct worker *w)
{
	++*w->window_generation;
	for (size_t i = 0; i < WINDOW; i++)
		victim_write_page(w->window + i * VICTIM_PAGE, 0x3000000 + w->nr * WINDOW + i,
				  *w->window_generation);
}

static void discard_window(struct worker *w)
{
	MUST(madvise(w->window, WINDOW * VICTIM_PAGE, MADV_DONTNEED));
	check_window(w);
}

static void punch_window(struct worker *w)
{
	MUST(madvise(w->window, WINDOW * VICTIM_PAGE, MADV_REMOVE));
	for (size_t i = 0; i < WINDOW * VICTIM_PAGE; i += 512)
		CHECK(w->window[i] == 0, "removed memory is not zero");
	write_window(w);
}

static void map_window_again(struct worker *w)
{
	size_t bytes = WINDOW * VICTIM_PAGE;
	char *second = mremap(w->window, 0, bytes, MREMAP_MAYMOVE);

	CHECK(second != MAP_FAILED, "mremap: %s", strerror(errno));
	write_window(w);
	MUST(munmap(w->window, bytes));
	w->window = second;
	check_window(w);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned long n = 0; !victim_asked(); n++) {
		for (int i = 0; i < 4; i++)
			touch_some(w, &area);
		touch_some(w, &closed);
		read_some(w);
		check_window(w);
		if (!still && n % 4 == 3 && victim_now_ns() - w->forked_ns > FORK_NS)
			fork_some(w);
		if (!still && n % 6 == 1)
			map_window_again(w);
		if (!still && n % 6 == 2)
			discard_window(w);
		if (!still && n % 6 == 4)
			punch_window(w);
		victim_sleep_ms(1);
	}
	return NULL;
}

static void live(size_t first, volatile int *ready)
{
	struct worker worker[THREADS] = {0};

	for (size_t i = 0; i < THREADS; i++) {
		struct worker *w = &worker[i];

		*w = (struct worker){.nr = first + i, .random = first + i + 1};
		w->window = windows + w->nr * WINDOW * VICTIM_PAGE;
		w->window_generation = &window_generations[w->nr];
		write_window(w);
		CHECK(pthread_create(&w->thread, NULL, work, w) == 0, "no thread");
	}
	*ready = 1;
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(worker[i].thread, NULL);
}

static void live_in_child(void *ready)
{
	live(THREADS, ready);
}

static void *live_in_thread(void *ready)
{
	live(0, ready);
	return NULL;
}

static void *map_shared(size_t pages, int fd)
{
	void *at = mmap(NULL, pages * VICTIM_PAGE, PROT_READ | PROT_WRITE,
			MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
	return at;
}

static struct object make(size_t pages, uint64_t tag, int fd)
{
	struct object o = {.pages = pages, .tag = tag, .at = map_shared(pages, fd)};

	o.generation = map_shared((pages * sizeof(uint32_t) + VICTIM_PAGE - 1) / VICTIM_PAGE, -1);
	for (size_t i = 0; i < pages; i++)
		write_nth(&o, i);
	return o;
}

static int make_memfd(const char *name)
{
	int fd = MUST(memfd_create(name, MFD_CLOEXEC));

	MUST(ftruncate(fd, (off_t)(SMALL * VICTIM_PAGE)));
	return fd;
}

static void check_all(const struct object *o)
{
	for (size_t i = 0; i < o->pages; i++)
		check_nth(o, i);
}

int main(int argc, char **argv)
{
	volatile int *ready;
	pthread_t self;
	pid_t child;
	int fd;

	victim_start(argc, argv);
	still = argc > 3 && strcmp(argv[3], "still") == 0;
	area = make((size_t)(argc > 2 ? atoi(argv[2]) : 4) * 256, 0x10000000, -1);
	fd = make_memfd("closed");
	closed = make(SMALL, 0x1000000, fd);
	close(fd);
	open_fd = make_memfd("open");
	open_one = make(SMALL, 0x2000000, open_fd);
	windows = map_shared(WORKERS * WINDOW, -1);
	window_generations = map_shared(1, -1);
	ready = map_shared(1, -1);
	child = victim_fork(live_in_child, (void *)&ready[1]);
	CHECK(pthread_create(&self, NULL, live_in_thread, (void *)&ready[0]) == 0, "no thread");
	while (!ready[0] || !ready[1])
		victim_sleep_ms(1);
	victim_ready();
	pthread_join(self, NULL);
	victim_reap(child);
	check_all(&area);
	check_all(&closed);
	check_all(&open_one);
	victim_pass();
}
