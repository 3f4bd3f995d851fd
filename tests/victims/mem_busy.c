// SPDX-License-Identifier: Apache-2.0
// Memory that never rests: threads rewrite pages of all kinds, drop them, move them and map new
// ones, processes come and go. Each page is a pattern of its number and generation; at the end
// every byte of every process is checked.
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WRITERS = 2, KINDS = 7, BREAK_PAGES = 64 };

// One area and what its pages should hold: generation 0 is "never written", zeros or the file's.
struct area {
	char *at;
	size_t pages;
	uint32_t *generation;
	unsigned int id, file_tag;
	bool may_drop;
	pthread_mutex_t lock;
};

static struct area areas[KINDS];
static volatile bool stop;
static size_t pages_each = 1500; // of the large areas

static void write_page(struct area *a, size_t page)
{
	uint32_t next = a->generation[page] + 1;

	// Some generations are a page of zeros that was written.
	if (next % 16 == 7)
		memset(a->at + page * VICTIM_PAGE, 0, VICTIM_PAGE);
	else
		victim_fill(a->at + page * VICTIM_PAGE, VICTIM_PAGE,
			    a->id * 100003 + page * 7 + next);
	a->generation[page] = next;
}

static void drop_pages(struct area *a, size_t first, size_t n)
{
	MUST(madvise(a->at + first * VICTIM_PAGE, n * VICTIM_PAGE, MADV_DONTNEED));
	memset(a->generation + first, 0, n * sizeof(*a->generation));
	// A look brings the page of zeros, or the file's.
	if (first % 2)
		(void)*(volatile char *)(a->at + first * VICTIM_PAGE);
}

static void check_area(const struct area *a, const char *who)
{
	for (size_t i = 0; i < a->pages; i++) {
		const char *page = a->at + i * VICTIM_PAGE;
		uint32_t g = a->generation[i];
		ssize_t bad = 0;

		if (g == 0 && a->file_tag)
			bad = victim_check(page, VICTIM_PAGE, a->file_tag + i);
		else if (g == 0 || g % 16 == 7)
			bad = memchr(page, 0, 1) && !memcmp(page, page + 1, VICTIM_PAGE - 1) ? -1 : 0;
		else
			bad = victim_check(page, VICTIM_PAGE, a->id * 100003 + i * 7 + g);
		CHECK(bad < 0, "%s: page %zu of area %u, generation %u, is wrong at byte %zd", who,
		      i, a->id, g, bad);
	}
}

static void move_area(struct area *a)
{
	size_t bytes = a->pages * VICTIM_PAGE;
	char *to = victim_map(bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);

	to = mremap(a->at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	CHECK(to != MAP_FAILED, "mremap: %s", strerror(errno));
	a->at = to;
}

// The whole area anew, at another place or the same.
static void renew_area(struct area *a)
{
	size_t bytes = a->pages * VICTIM_PAGE;

	MUST(munmap(a->at, bytes));
	a->at = victim_map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	memset(a->generation, 0, a->pages * sizeof(*a->generation));
}

static void *writer(void *arg)
{
	uint64_t x = (uintptr_t)arg * 7919 + (uint64_t)getpid();
	struct area *a;
	size_t pages;

	while (!stop) {
		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		a = &areas[(x >> 40) % KINDS];
		// The upper half of the first one is left alone.
		pages = a->id ? a->pages : a->pages / 2;
		pthread_mutex_lock(&a->lock);
		if ((x >> 50) % 200 == 0 && a->may_drop && a->pages > 64)
			drop_pages(a, (x >> 20) % (pages - 32), 32);
		else if ((x >> 50) % 1000 == 1 && a->id == 4)
			move_area(a);
		else if ((x >> 50) % 1000 == 2 && a->id == 5)
			renew_area(a);
		else
			write_page(a, (x >> 20) % pages);
		pthread_mutex_unlock(&a->lock);
		if ((x >> 60) == 0) // about every 16th time
			victim_sleep_ms(1);
	}
	return NULL;
}

static void make_area(unsigned int id, char *at, size_t pages, bool may_drop)
{
	struct area *a = &areas[id];

	*a = (struct area){.at = at, .pages = pages, .id = id, .may_drop = may_drop};
	a->generation = calloc(pages, sizeof(*a->generation));
	CHECK(a->generation, "no memory");
	pthread_mutex_init(&a->lock, NULL);
}

static char *map_file(size_t pages, unsigned int tag)
{
	char *buf = malloc(VICTIM_PAGE), *at;
	int fd = MUST(open(victim_path("data"), O_RDWR | O_CREAT, 0600));

	for (size_t i = 0; i < pages; i++) {
		victim_fill(buf, VICTIM_PAGE, tag + i);
		CHECK(write(fd, buf, VICTIM_PAGE) == (ssize_t)VICTIM_PAGE, "write");
	}
	at = mmap(NULL, pages * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
	close(fd);
	free(buf);
	return at;
}

static void make_areas(void)
{
	int rw = PROT_READ | PROT_WRITE, anon = MAP_PRIVATE | MAP_ANONYMOUS;
	char *huge = victim_map(6 << 20, rw, anon);

	make_area(0, victim_map(pages_each * VICTIM_PAGE, rw, anon), pages_each, true);
	huge = (char *)(((uintptr_t)huge + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));
	madvise(huge, 4 << 20, MADV_HUGEPAGE);
	make_area(1, huge, 1024, true);
	make_area(2, map_file(200, 5000), 200, true);
	areas[2].file_tag = 5000;
	make_area(3, sbrk(BREAK_PAGES * VICTIM_PAGE), BREAK_PAGES, true);
	make_area(4, victim_map(100 * VICTIM_PAGE, rw, anon), 100, false);
	make_area(5, victim_map(100 * VICTIM_PAGE, rw, anon), 100, true);
	make_area(6, victim_map(100 * VICTIM_PAGE, rw, MAP_SHARED | MAP_ANONYMOUS), 100, false);
	for (unsigned int k = 0; k < KINDS; k++)
		for (size_t i = 0; i < areas[k].pages; i += 1 + i % 2)
			write_page(&areas[k], i);
}

static void run(const char *who, bool (*until)(void))
{
	pthread_t t[WRITERS];

	stop = false;
	for (uintptr_t i = 0; i < WRITERS; i++)
		pthread_create(&t[i], NULL, writer, (void *)i);
	while (!until())
		victim_sleep_ms(2);
	stop = true;
	for (int i = 0; i < WRITERS; i++)
		pthread_join(t[i], NULL);
	for (unsigned int k = 0; k < KINDS; k++)
		check_area(&areas[k], who);
}

// A child has copies of its own of all areas; the shared one belongs to the parent alone.
static void child(void *arg)
{
	MUST(munmap(areas[6].at, areas[6].pages * VICTIM_PAGE));
	areas[6].at = victim_map(areas[6].pages * VICTIM_PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS);
	memset(areas[6].generation, 0, areas[6].pages * sizeof(uint32_t));
	run("child", victim_asked);
}

// Children that come and go meanwhile: what is theirs after the fork is written by the parent anew.
static bool asked(void)
{
	static pid_t later;
	static int calls;

	if (later > 0 && waitpid(later, NULL, WNOHANG) == later)
		later = 0;
	if (later == 0 && calls++ % 20 == 19) {
		later = MUST(fork());
		if (later == 0) {
			victim_sleep_ms(30);
			_exit(0);
		}
	}
	if (!victim_asked())
		return false;
	if (later > 0)
		waitpid(later, NULL, 0);
	return true;
}

int main(int argc, char **argv)
{
	pid_t pid;

	victim_start(argc, argv);
	if (argc > 2)
		pages_each = (size_t)atol(argv[2]) * 256;
	make_areas();
	pid = victim_fork(child, NULL);
	victim_ready();
	run("parent", asked);
	victim_reap(pid);
	victim_pass();
}
