// SPDX-License-Identifier: Apache-2.0
/*
 * Rounds of pre-copy over real children that write all the time: after the last
 * pass, in a freeze, the receiver has every page as it is, and nothing else.
 */
#include "unit.h"

#include "base/map.h"
#include "capture/capture.h"
#include "capture/precopy.h"
#include "kernel/proc.h"
#include "mem/drain.h"
#include "mem/read.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { AREA_PAGES = 512, KINDS = 9, MAX_KEPT = 1 << 18 };
#define MIB (1UL << 20)

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

/* Shared with the child. */
struct board {
	volatile int ready, command, done;
	volatile int quit;
	volatile uint64_t writes;
	volatile pid_t grandchild;
	volatile uint64_t extra; /* address of an area that came later */
};

static struct board *board;

/* ---- the receiver: pages by task and address, as the last of a series of pagemaps has them ---- */

struct page {
	uint64_t id, vaddr;
	uint8_t bytes[PAGE_BYTES];
	bool named; /* by the pagemap that is under way */
};

struct receiver {
	struct page_sink sink;
	struct page **pages;
	size_t n;
	/* where they are: mapped, so that children inherit nothing that a sanitizer keeps of the dead */
	struct page *pool, **spare;
	size_t n_used, n_spare;
	struct map index;
	uint64_t wrong; /* claims that it has pages which it has not */
	uint64_t got;
};

/* Pids are below 2^22, and addresses have 47 bits. */
static uint64_t key(uint64_t id, uint64_t vaddr)
{
	return vaddr / PAGE_BYTES | id << 36;
}

static struct page *find_page(struct receiver *r, uint64_t id, uint64_t vaddr)
{
	return map_get(&r->index, key(id, vaddr));
}

static int receive_begin(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	struct receiver *r = (struct receiver *)s;

	for (size_t i = 0; i < r->n; i++)
		if (r->pages[i]->id == pm->id)
			r->pages[i]->named = false;
	return 0;
}

static int receive_pages(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr,
			 const void *data, uint64_t n, uint32_t flags, struct err *err)
{
	struct receiver *r = (struct receiver *)s;

	if (pm->shmem)
		return 0;
	for (uint64_t i = 0; i < n; i++, vaddr += PAGE_BYTES, r->got++) {
		struct page *p = find_page(r, pm->id, vaddr);

		if (!p) {
			if (r->n == MAX_KEPT)
				return err_nomem(err);
			p = r->n_spare ? r->spare[--r->n_spare] : &r->pool[r->n_used++];
			r->pages[r->n++] = p;
			p->id = pm->id;
			p->vaddr = vaddr;
			if (!map_set(&r->index, key(pm->id, vaddr), p))
				return err_nomem(err);
		}
		memcpy(p->bytes, (const uint8_t *)data + i * PAGE_BYTES, PAGE_BYTES);
		p->named = true;
	}
	return 0;
}

static int receive_absent(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr, uint64_t n,
			  uint32_t flags, struct err *err)
{
	struct receiver *r = (struct receiver *)s;

	for (uint64_t i = 0; i < n; i++) {
		struct page *p = find_page(r, pm->id, vaddr + i * PAGE_BYTES);

		r->wrong += !p || !(flags & PE_PARENT);
		if (p)
			p->named = true;
	}
	return 0;
}

/* What the pagemap does not name is gone. */
static int receive_end(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	struct receiver *r = (struct receiver *)s;
	size_t n = 0;

	for (size_t i = 0; i < r->n; i++) {
		struct page *p = r->pages[i];

		if (p->id == pm->id && !p->named)
			r->spare[r->n_spare++] = p;
		else
			r->pages[n++] = p;
	}
	r->n = n;
	map_free(&r->index);
	for (size_t i = 0; i < n; i++)
		if (!map_set(&r->index, key(r->pages[i]->id, r->pages[i]->vaddr), r->pages[i]))
			return err_nomem(err);
	return 0;
}

static const struct page_sink_ops receiver_ops = {
	.name = "receiver",
	.begin = receive_begin,
	.pages = receive_pages,
	.absent = receive_absent,
	.end = receive_end,
};

static void receiver_init(struct receiver *r)
{
	memset(r, 0, sizeof(*r));
	r->sink.ops = &receiver_ops;
	r->pages = calloc(MAX_KEPT, sizeof(*r->pages));
	r->spare = calloc(MAX_KEPT, sizeof(*r->spare));
	assert_true(r->pages && r->spare);
	r->pool = mmap(NULL, MAX_KEPT * sizeof(*r->pool), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(r->pool != MAP_FAILED);
}

static void receiver_finish(struct receiver *r)
{
	munmap(r->pool, MAX_KEPT * sizeof(*r->pool));
	free(r->pages);
	free(r->spare);
	map_free(&r->index);
	malloc_trim(0); /* children inherit what is left */
}

/* ---- the child ---- */

static uint8_t *kinds[KINDS];
/* plain, huge, file, read-only file, no access, locked, memfd private, droppable, sparse */

static void fill(volatile uint8_t *at, unsigned int page, uint64_t value)
{
	*(volatile uint64_t *)(at + page * PAGE_BYTES + 8 * (value % 500)) = value;
	board->writes++;
}

static uint8_t *map_file(int prot)
{
	char name[] = "/tmp/ferry-precopy-XXXXXX";
	int fd = mkstemp(name);
	uint8_t page[PAGE_BYTES];
	uint8_t *at;

	unlink(name);
	for (int i = 0; i < AREA_PAGES; i++) {
		memset(page, i, sizeof(page));
		if (write(fd, page, sizeof(page)) != (ssize_t)sizeof(page))
			_exit(9);
	}
	at = mmap(NULL, AREA_PAGES * PAGE_BYTES, prot, MAP_PRIVATE, fd, 0);
	close(fd);
	return at;
}

static uint8_t *map_plain(int prot, int flags)
{
	return mmap(NULL, AREA_PAGES * PAGE_BYTES, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static void make_kinds(void)
{
	int fd = memfd_create("private", MFD_CLOEXEC);

	if (ftruncate(fd, AREA_PAGES * PAGE_BYTES))
		_exit(9);
	kinds[0] = map_plain(PROT_READ | PROT_WRITE, 0);
	madvise(kinds[0], AREA_PAGES * PAGE_BYTES, MADV_NOHUGEPAGE);
	kinds[1] = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	kinds[1] = (uint8_t *)(((uintptr_t)kinds[1] + 2 * MIB - 1) & ~(2 * MIB - 1));
	madvise(kinds[1], 2 * MIB, MADV_HUGEPAGE);
	kinds[2] = map_file(PROT_READ | PROT_WRITE);
	kinds[3] = map_file(PROT_READ);
	kinds[4] = map_plain(PROT_READ | PROT_WRITE, 0);
	kinds[5] = map_plain(PROT_READ | PROT_WRITE, 0);
	mlock(kinds[5], AREA_PAGES * PAGE_BYTES);
	kinds[6] = mmap(NULL, AREA_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	kinds[7] = mmap(NULL, AREA_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	kinds[8] = mmap(NULL, 4096 * MIB, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	close(fd);
	for (int k = 0; k < KINDS; k++)
		for (unsigned int i = 0; i < AREA_PAGES && k != 3; i += 1 + i % 3)
			if (kinds[k] != MAP_FAILED)
				fill(kinds[k], i, i + 77);
	mprotect(kinds[4], AREA_PAGES * PAGE_BYTES, PROT_NONE);
}

static void nap(long us)
{
	nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

/* Writes to all kinds, forever, at addresses and with values that change. */
static void *writer(void *arg)
{
	uint64_t x = (uintptr_t)arg * 77777 + 1;

	while (!board->quit) {
		for (int i = 0; i < 20; i++) {
			int k;

			x = x * 6364136223846793005ULL + 1442695040888963407ULL;
			k = (int)(x >> 40) % KINDS;
			if (k == 3 || k == 4 || kinds[k] == MAP_FAILED)
				continue;
			if (k == 8)
				fill(kinds[k] + ((x >> 20) % 8) * 256 * MIB, (x >> 50) % 64, x);
			else
				fill(kinds[k], (unsigned int)(x >> 33) % AREA_PAGES, x);
		}
		nap(1000);
	}
	return NULL;
}

/* What the parent asks for. */
enum command {
	NOTHING,
	DISCARD,
	MOVE,
	GROW,
	NEW_AREA,
	FORK,
	EXEC,
	REWRITE,
	FILE_THERE,
	ANON_THERE,
	STOP_WRITING,
};

static void discard(void)
{
	for (int k = 0; k < KINDS; k++)
		if (k != 3 && k != 5 && kinds[k] != MAP_FAILED)
			madvise(kinds[k] + 32 * PAGE_BYTES, 64 * PAGE_BYTES, MADV_DONTNEED);
	/* looked at again: the page of zeros, and the file's own */
	for (int i = 32; i < 64; i++)
		board->writes += kinds[0][i * PAGE_BYTES] + kinds[2][i * PAGE_BYTES];
}

static void move(void)
{
	uint8_t *to = map_plain(PROT_READ | PROT_WRITE, 0);
	uint8_t *at = map_plain(PROT_READ | PROT_WRITE, 0);

	for (unsigned int i = 0; i < AREA_PAGES; i++) {
		fill(at, i, i + 1000);
		fill(to, i, i + 2000);
	}
	nap(1000);
	mremap(at, AREA_PAGES * PAGE_BYTES, AREA_PAGES * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
	       to);
	/* and something else where it was */
	mmap(at, AREA_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	fill(at, 3, 12345);
	board->extra = (uintptr_t)to;
}

/* At one address, in turn: pages of its own of a mapping of a file, always the same, and anonymous ones. */
static void put_there(bool file)
{
	static uint8_t *there;
	uint8_t *at = file ? map_file(PROT_READ | PROT_WRITE) : map_plain(PROT_READ | PROT_WRITE, 0);

	for (unsigned int i = 0; i < AREA_PAGES; i++)
		fill(at, i, file ? i : i + 5000);
	if (there)
		mremap(at, AREA_PAGES * PAGE_BYTES, AREA_PAGES * PAGE_BYTES,
		       MREMAP_MAYMOVE | MREMAP_FIXED, there);
	else
		there = at;
}

static void obey(int command)
{
	pid_t pid;

	switch (command) {
	case DISCARD:
		discard();
		break;
	case MOVE:
		move();
		break;
	case GROW:
		memset(sbrk(200 * PAGE_BYTES), 9, 200 * PAGE_BYTES);
		break;
	case NEW_AREA:
		board->extra = (uintptr_t)map_plain(PROT_READ | PROT_WRITE, 0);
		memset((void *)board->extra, 5, AREA_PAGES * PAGE_BYTES);
		break;
	case FORK:
		pid = fork();
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			writer((void *)9);
			_exit(0);
		}
		board->grandchild = pid;
		break;
	case REWRITE: /* to zero, and back */
		memset(kinds[5], 0, 100 * PAGE_BYTES);
		break;
	case FILE_THERE:
	case ANON_THERE:
		put_there(command == FILE_THERE);
		break;
	case STOP_WRITING:
		board->quit = 1;
		break;
	case EXEC:
		/* a small one: with sanitizers this one would be too much for the receiver */
		execl("/bin/sleep", "sleep", "1000", NULL);
		break;
	}
}

static void child_main(void)
{
	pthread_t t[2];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setsid();
	close_range(0, ~0U, 0);
	for (int i = 0; i < 3; i++)
		open("/dev/null", O_RDWR);
	make_kinds();
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, writer, (void *)i);
	board->ready = 1;
	for (;;) {
		if (board->command != board->done) {
			obey(board->command & 0xff);
			board->done = board->command;
		}
		nap(500);
	}
}

static pid_t child;

static int start_child(void **state)
{
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	child = fork();
	if (child == 0)
		child_main();
	for (int i = 0; i < 5000 && !board->ready; i++)
		nap(1000);
	return board->ready ? 0 : -1;
}

static int end_child(void **state)
{
	if (board->grandchild > 0)
		kill(board->grandchild, SIGKILL);
	kill(child, SIGKILL);
	while (waitpid(-1, NULL, __WALL) > 0) /* after a failure its threads may still be traced */
		;
	munmap(board, sizeof(*board));
	return 0;
}

static void ask(int command)
{
	static int serial;

	board->command = ++serial << 8 | command;
	for (int i = 0; i < 3000 && board->done != board->command && command != EXEC; i++)
		nap(1000);
	if (command == EXEC)
		nap(200000);
	else
		assert_int_equal(board->done, board->command);
}

/* ---- comparing ---- */

static void compare_range(struct receiver *r, pid_t pid, const struct task_memory *m, uint64_t at,
			  uint64_t end)
{
	uint8_t have[PAGE_BYTES];
	struct err err;

	for (; at < end; at += PAGE_BYTES) {
		struct page *p = find_page(r, (uint64_t)pid, at);

		if (task_memory_read(m, at, have, sizeof(have), &err))
			fail_msg("%s", err.text);
		if (p ? memcmp(p->bytes, have, sizeof(have)) != 0 : !page_is_zero(have))
			fail_msg("pid %d: the page at %lx is %s", pid, (unsigned long)at,
				 p ? "not as it was sent" : "missing");
		if (p)
			p->named = false; /* accounted for */
	}
}

/* Everything that a plain dump would send is what the receiver has, and nothing more. */
static void compare_task(struct receiver *r, const struct task_facts *t)
{
	mem_ranges all = {0};
	struct task_memory m;
	struct err err;

	if (drain_plan_task(t->pid, t->snap->mm, &all, &err) || task_memory_open(&m, t->pid, &err))
		fail_msg("%s", err.text);
	for (size_t i = 0; i < r->n; i++)
		r->pages[i]->named = r->pages[i]->id == (uint64_t)t->pid;
	vec_foreach (x, &all)
		compare_range(r, t->pid, &m, x->start, x->end);
	for (size_t i = 0; i < r->n; i++)
		if (r->pages[i]->named)
			fail_msg("pid %d: a page at %lx is there that should be gone", t->pid,
				 (unsigned long)r->pages[i]->vaddr);
	task_memory_close(&m);
	vec_free(&all);
}

static const struct kind_options options = {.ghost_limit = 64 << 20, .shell_job = true};

static void finish_and_compare(struct precopy *p, struct receiver *r, struct capture_stats *stats)
{
	struct capture_session *s;
	struct memory_options how = {.sink = &r->sink, .precopy = p};
	struct err err;

	s = capture_open(child, &options, &err);
	assert_non_null(s);
	capture_expect_tracking(s, true);
	if (capture_freeze(s, 5000, &err) || capture_collect(s, &err) ||
	    capture_memory(s, &how, &err))
		fail_msg("%s", err.text);
	vec_foreach (t, &capture_state(s)->tasks)
		compare_task(r, *t);
	assert_int_equal(r->wrong, 0);
	if (stats)
		capture_stats(s, stats);
	capture_close(s);
}

/* Of pages that cannot be tracked: a variant of each test. */
static bool remember;

static struct precopy *open_precopy(void)
{
	struct err err;
	struct precopy *p = precopy_open(child, &options, 5000, &err);

	if (!p && err.no == ENOTSUP)
		skip_because("%s", err.text);
	if (!p)
		fail_msg("%s", err.text);
	if (remember)
		precopy_remember(p);
	return p;
}

static void round_of(struct precopy *p, struct receiver *r, struct precopy_stats *out)
{
	struct err err;

	if (precopy_round(p, &r->sink, out, &err))
		fail_msg("%s", err.text);
	assert_int_equal(r->wrong, 0);
}

/* ---- the tests ---- */

/* On a busy machine they may not get to it for a while. */
static void await_writes(void)
{
	uint64_t before = board->writes;

	for (int tries = 0; board->writes < before + 100; tries++) {
		if (tries == 20000)
			fail_msg("nothing is written");
		nap(1000);
	}
}

static void writers_write(void **state)
{
	struct precopy *p = open_precopy();
	struct precopy_stats first, later;
	struct capture_stats last;
	struct receiver r;

	receiver_init(&r);
	round_of(p, &r, &first);
	assert_int_equal(first.kept_pages, 0);
	assert_true(first.pages > 1000);
	for (int i = 0; i < 5; i++) {
		nap(30000);
		await_writes();
		round_of(p, &r, &later);
		assert_true(later.dirty_pages > 0 && later.dirty_bytes_per_s > 0);
		assert_true(later.kept_pages > 0); /* at least those that may not be written */
	}
	finish_and_compare(p, &r, &last);
	assert_true(last.kept_pages > 0);
	precopy_close(p);
	receiver_finish(&r);
}

/* Between rounds, and between the last round and the freeze, everything happens that can. */
static void memory_changes(void **state)
{
	static const int what[] = {DISCARD, MOVE,       GROW,       NEW_AREA,   FORK,
				   REWRITE, FILE_THERE, ANON_THERE, FILE_THERE, DISCARD};
	struct precopy *p = open_precopy();
	struct precopy_stats stats;
	struct receiver r;

	receiver_init(&r);
	round_of(p, &r, &stats);
	for (size_t i = 0; i < ARRAY_SIZE(what); i++) {
		ask(what[i]);
		finish_and_compare(p, &r, NULL);
		round_of(p, &r, &stats);
		finish_and_compare(p, &r, NULL);
		if (what[i] == FORK)
			assert_int_equal(stats.tasks, 2);
		ask(DISCARD);
	}
	precopy_close(p);
	receiver_finish(&r);
}

static void another_program(void **state)
{
	struct precopy *p = open_precopy();
	struct precopy_stats stats;
	struct receiver r;

	receiver_init(&r);
	round_of(p, &r, &stats);
	ask(EXEC);
	finish_and_compare(p, &r, NULL);
	round_of(p, &r, &stats); /* notices */
	round_of(p, &r, &stats); /* plants */
	assert_int_equal(stats.new_tasks, 1);
	assert_true(stats.pages > 0);
	round_of(p, &r, &stats);
	assert_true(stats.kept_pages > 0);
	finish_and_compare(p, &r, NULL);
	precopy_close(p);
	receiver_finish(&r);
}

/* Nothing is written any more: with copies, of files too nothing is left to send. */
static void what_stands_still_is_sent_once(void **state)
{
	struct precopy *p = open_precopy();
	struct precopy_stats first, second;
	struct capture_stats last;
	struct receiver r;

	receiver_init(&r);
	ask(STOP_WRITING);
	nap(50000);
	round_of(p, &r, &first);
	round_of(p, &r, &second);
	finish_and_compare(p, &r, &last);
	/* the pages of the kinds 2 and 6 are sent again only if nobody knows better; those of 7 always are */
	assert_true(second.pages < 100);
	assert_true(remember ? last.pages < 600 : last.pages > 650);
	precopy_close(p);
	receiver_finish(&r);
}

/* Maps, flags and descriptors of the child as text. */
static char *traces(void)
{
	char *text;
	char command[200];
	FILE *f;
	size_t n;

	snprintf(command, sizeof(command),
		 "grep -E '^(VmFlags|[0-9a-f]+-)' /proc/%d/smaps; ls -l /proc/%d/fd | cut -c1-10,40-; "
		 "ls /proc/%d/task | wc -l",
		 child, child, child);
	f = popen(command, "r");
	assert_non_null(f);
	text = calloc(1, 1 << 20);
	n = fread(text, 1, (1 << 20) - 1, f);
	assert_true(n > 0);
	pclose(f);
	return text;
}

static void nothing_stays(void **state)
{
	char *before = traces(), *after;
	struct precopy_stats stats;
	struct receiver r;
	pid_t visitor;
	int status;

	for (int i = 0; i < 12; i++) {
		visitor = fork();
		if (visitor == 0) {
			struct precopy *p = open_precopy();

			receiver_init(&r);
			for (;;)
				round_of(p, &r, &stats);
		}
		nap(300 + 700 * i * i);
		kill(visitor, SIGKILL);
		waitpid(visitor, &status, 0);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		await_writes();
		/* a thread in the blob finds home, the descriptor is closed: in its own time */
		after = traces();
		for (int tries = 0; tries < 500 && strcmp(before, after); tries++) {
			free(after);
			nap(10000);
			after = traces();
		}
		if (strcmp(before, after))
			fail_msg("after kill %d:\n%s\nwas\n%s", i, after, before);
		free(after);
	}
	free(before);
}

static int start_remembering(void **state)
{
	remember = true;
	return start_child(state);
}

static int end_remembering(void **state)
{
	remember = false;
	return end_child(state);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, start_child, end_child)
#define REMEMBERING(fn)                                                           \
	{                                                                         \
#fn ", remembering", fn, start_remembering, end_remembering, NULL \
	}
	const struct CMUnitTest tests[] = {
		TEST(writers_write),
		TEST(memory_changes),
		TEST(another_program),
		TEST(nothing_stays),
		TEST(what_stands_still_is_sent_once),
		REMEMBERING(writers_write),
		REMEMBERING(memory_changes),
		REMEMBERING(another_program),
		REMEMBERING(what_stands_still_is_sent_once),
	};

	if (geteuid() != 0) {
		printf("1..0 # SKIP must be root\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
