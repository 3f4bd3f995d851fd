// SPDX-License-Identifier: Apache-2.0
// mem/lazy_shm: children share memory that is missing; they fault, discard, punch holes, fork and map it again.
#include "lazy_victim.h"
#include "scarce.h"

#include <sys/eventfd.h>

enum { CHILDREN = 2, HOLES = 4 };
#define OBJECT_SHARED (LAZY_SHARED | 9)
#define FILE_BYTES ((PAGES + HOLES) * PAGE_BYTES)

/* ---- a source ---- */

struct near {
	struct lazy_source source;
	int event;
	struct lazy_request *first, **end;
	uint64_t pages; /* given away */
};

static int near_request(struct lazy_source *s, struct lazy_request *rq, struct err *err)
{
	struct near *f = (struct near *)s;

	rq->next_of_source = NULL;
	*f->end = rq;
	f->end = &rq->next_of_source;
	eventfd_write(f->event, 1);
	return 0;
}

static int near_poll_fd(struct lazy_source *s, short *events, int *timeout_ms)
{
	*events = POLLIN;
	return ((struct near *)s)->event;
}

/* One request at a time, so that tasks come between. */
static int near_work(struct lazy_source *s, struct lazy *z, struct err *err)
{
	struct near *f = (struct near *)s;
	struct lazy_request *rq = f->first;
	uint64_t page[PAGE_BYTES / 8];
	eventfd_t unused;

	eventfd_read(f->event, &unused);
	if (!rq)
		return 0;
	f->first = rq->next_of_source;
	if (!f->first)
		f->end = &f->first;
	assert_true(rq->object == OBJECT_SHARED);
	for (uint64_t i = 0; i < rq->pages; i++) {
		pattern(rq->vaddr + i * PAGE_BYTES, page);
		if (lazy_answer(z, rq, rq->vaddr + i * PAGE_BYTES, page, 1, err) < 0)
			return -1;
	}
	f->pages += rq->pages;
	lazy_end(z, rq);
	if (f->first)
		eventfd_write(f->event, 1);
	return 0;
}

static const struct lazy_source_ops near_ops = {
	.name = "test",
	.request = near_request,
	.poll_fd = near_poll_fd,
	.work = near_work,
};

/* ---- children ---- */

struct shared_start {
	int (*body)(int);
	int nr, file;
};

static int shared_child(const void *arg, int out, int in)
{
	const struct shared_start *start = arg;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mmap((void *)AREA, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE,
		 start->file, 0) == MAP_FAILED)
		return 100;
	close(start->file);
	if (write(out, &fd, sizeof(fd)) != sizeof(fd) || read(in, &c, 1) != 1)
		return 101;
	close(fd);
	return start->body(start->nr);
}

static void start_child(struct victim *v, int (*body)(int), int nr, int file, struct lazy *z)
{
	struct lazy_area area = {AREA, AREA + FILE_BYTES, 0, OBJECT_SHARED};
	const struct shared_start start = {body, nr, file};
	struct err err;

	fork_child(v, shared_child, &start);
	assert_true(v->uffd >= 0);
	assert_int_equal(uffd_handshake(v->uffd, lazy_uffd_features(), &err), 0);
	assert_int_equal(uffd_register(v->uffd, AREA, FILE_BYTES), 0);
	assert_int_equal(lazy_view_add(z, v->uffd, -1, &area, 1, &err), 0);
}

/* Runs @body in the children; nothing is left missing if it is fetched in the background. */
static void run_children_with(int (*body)(int), bool background, bool little_memory,
			      struct lazy_stats *st)
{
	int file = memfd_create("shared", MFD_CLOEXEC);
	struct near f = {.source = {.ops = &near_ops, .window_pages = 64},
			 .event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
	struct victim v[CHILDREN];
	struct lazy_space *sp;
	struct lazy *z;
	struct err err;

	f.end = &f.first;
	if (geteuid() != 0)
		skip_because("must be root");
	if (lazy_probe(&err) < 0)
		skip_because("no userfaultfd with events here");
	assert_int_equal(ftruncate(file, FILE_BYTES), 0);
	z = lazy_open(&f.source, NULL, &err);
	assert_non_null(z);
	sp = lazy_add_shared(z, OBJECT_SHARED, dup(file), FILE_BYTES, &err);
	assert_non_null(sp);
	assert_int_equal(lazy_missing(sp, 0, PAGES, &err), 0);
	for (int i = 0; i < CHILDREN; i++)
		start_child(&v[i], body, i, file, z);
	close(file);
	for (int i = 0; i < CHILDREN; i++)
		let_run(&v[i]);
	if (background)
		lazy_start(z);
	scarce = little_memory;
	for (int i = 0; i < CHILDREN; i++)
		serve(z, &v[i]);
	scarce = false;
	lazy_stats(z, st);
	for (int i = 0; i < CHILDREN; i++) {
		assert_int_equal(exit_code(&v[i]), 0);
		close(v[i].pidfd);
	}
	assert_true(f.pages <= PAGES); /* what has come is there for all */
	if (!background)
		assert_int_equal(f.pages, PAGES);
	lazy_close(z);
	close(f.event);
}

static void run_children(int (*body)(int), bool background, struct lazy_stats *st)
{
	run_children_with(body, background, false, st);
}

/* ---- bodies: exit status 0 is good ---- */

static bool page_good(size_t i)
{
	return is_page(page_addr(i), i * PAGE_BYTES);
}

/* Each in an order of its own; in the holes each writes something that the other must not lose. */
static int read_shared(int nr)
{
	volatile uint64_t *mine = (uint64_t *)page_addr(PAGES + 1) + nr;

	if (*mine != 0)
		return 1;
	*mine = 42;
	for (size_t i = 0; i < PAGES; i++)
		if (!page_good((i * 389 + (size_t)nr * 131) % PAGES))
			return 2;
	return is_zero(page_addr(PAGES)) && *mine == 42 ? 0 : 3;
}

/* Of each child's half: what is discarded stays in the file, where a hole is punched there are zeros. */
static int discard_shared(int nr)
{
	size_t first = (size_t)nr * PAGES / CHILDREN;

	if (!page_good(first))
		return 1;
	if (madvise((void *)page_addr(first), 8 * PAGE_BYTES, MADV_DONTNEED))
		return 2;
	if (madvise((void *)page_addr(first + 100), 8 * PAGE_BYTES, MADV_REMOVE))
		return 3;
	for (size_t i = 0; i < 8; i++)
		if (!page_good(first + i) || !is_zero(page_addr(first + 100 + i)))
			return 4;
	for (size_t i = 108; i < PAGES / CHILDREN; i++)
		if (!page_good(first + i))
			return 5;
	return 0;
}

static int fork_shared(int nr)
{
	uint64_t *mine = (uint64_t *)page_addr(500 + (size_t)nr);
	int status = 1;
	pid_t pid = fork();

	if (pid == 0) {
		for (size_t i = 0; i < 500; i++)
			if (!page_good(i))
				_exit(1);
		if (!page_good(500 + (size_t)nr))
			_exit(2);
		*mine = 7;
		_exit(0);
	}
	for (size_t i = PAGES - 1; i > 510; i--)
		if (!page_good(i))
			return 1;
	if (waitpid(pid, &status, 0) != pid || status != 0)
		return 2;
	return *mine == 7 ? 0 : 3;
}

static int map_again(int nr)
{
	size_t first = (size_t)nr * PAGES / CHILDREN + 50;
	char *second = mremap((void *)page_addr(first), 0, 8 * PAGE_BYTES, MREMAP_MAYMOVE);

	if (second == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < 8; i++)
		if (!is_page((uint64_t)second + i * PAGE_BYTES, (first + i) * PAGE_BYTES))
			return 2;
	second[3 * PAGE_BYTES] = 5;
	if (*(char *)page_addr(first + 3) != 5)
		return 3;
	if (munmap((void *)page_addr(first), 8 * PAGE_BYTES))
		return 4;
	return page_good(first + 8) && page_good(first - 1) ? 0 : 5;
}

/* ---- tests ---- */

static void test_shared_demand(void **state)
{
	struct lazy_stats st;

	run_children(read_shared, false, &st);
	assert_true(st.faults >= PAGES / 2 && st.urgent_pages == PAGES);
}

static void test_shared_background(void **state)
{
	struct lazy_stats st;

	run_children(read_shared, true, &st);
	assert_true(st.bulk_pages > 0);
}

static void test_shared_discard(void **state)
{
	struct lazy_stats st;

	run_children(discard_shared, true, &st);
}

static void test_shared_forks(void **state)
{
	struct lazy_stats st;

	run_children(fork_shared, true, &st);
}

static void test_shared_maps(void **state)
{
	struct lazy_stats st;

	run_children(map_again, true, &st);
}

static void test_shared_scarce_memory(void **state)
{
	struct lazy_stats st;

	run_children_with(read_shared, false, true, &st);
	run_children_with(fork_shared, true, true, &st);
	run_children_with(discard_shared, true, true, &st);
	assert_true(refused_memory > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shared_demand),  cmocka_unit_test(test_shared_background),
		cmocka_unit_test(test_shared_discard), cmocka_unit_test(test_shared_forks),
		cmocka_unit_test(test_shared_maps),    cmocka_unit_test(test_shared_scarce_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
