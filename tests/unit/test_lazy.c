// SPDX-License-Identifier: Apache-2.0
// mem/lazy, mem/guardian: a child faults, forks, remaps and dies while its pages are missing.
#include "lazy_victim.h"
#include "mem/guardian.h"
#include "scarce.h"

#include <pthread.h>
#include <sys/eventfd.h>

/* ---- a source with bad habits ---- */

enum habit {
	SHORT = 1,    /* answers one page of a request, no more */
	TWICE = 2,    /* sends everything twice */
	REVERSE = 4,  /* last page first */
	OUTSIDE = 8,  /* offers pages that were not asked for */
	UNASKED = 16, /* pushes pages of nobody and of nowhere */
	FLAKY = 32,   /* is lost at every 5th answer */
	DEAF = 64,    /* never answers */
	LATE = 128,   /* answers when nothing else is to do */
	SCARCE = 256, /* about every second allocation is refused */
};

struct fake {
	struct lazy_source source;
	int event;
	struct lazy_request *first, **end;
	unsigned int habits, answers, refused, lost;
};

static int fake_request(struct lazy_source *s, struct lazy_request *rq, struct err *err)
{
	struct fake *f = (struct fake *)s;

	rq->next_of_source = NULL;
	*f->end = rq;
	f->end = &rq->next_of_source;
	eventfd_write(f->event, 1);
	return 0;
}

static int fake_poll_fd(struct lazy_source *s, short *events, int *timeout_ms)
{
	struct fake *f = (struct fake *)s;

	*events = POLLIN;
	*timeout_ms = f->habits & FLAKY ? 1 : -1;
	if (f->habits & LATE && f->first) {
		*timeout_ms = 1;
		return -1;
	}
	return f->event;
}

static int give(struct fake *f, struct lazy *z, struct lazy_request *rq, struct err *err)
{
	uint64_t page[PAGE_BYTES / 8];
	struct err unused;

	for (uint64_t i = 0; i < (f->habits & SHORT ? 1 : rq->pages); i++) {
		uint64_t k = f->habits & REVERSE && !(f->habits & SHORT) ? rq->pages - 1 - i : i;
		uint64_t at = rq->vaddr + k * PAGE_BYTES;

		pattern(at, page);
		for (int n = 0; n < (f->habits & TWICE ? 2 : 1); n++)
			if (lazy_answer(z, rq, at, page, 1, err) < 0)
				return -1;
	}
	memset(page, 0xee, sizeof(page)); /* must be seen by nobody */
	if (f->habits & OUTSIDE) {
		f->refused += lazy_answer(z, rq, rq->vaddr + rq->pages * PAGE_BYTES, page, 1,
					  &unused) < 0;
		f->refused += lazy_answer(z, rq, rq->vaddr, page, rq->pages + 1, &unused) < 0;
		f->refused += lazy_answer(z, rq, rq->vaddr - PAGE_BYTES, page, 1, &unused) < 0;
		f->refused += lazy_answer(z, rq, rq->vaddr, page, UINT64_MAX, &unused) < 0;
	}
	if (f->habits & UNASKED && (lazy_push(z, OBJECT + 1, rq->vaddr, page, 1, err) < 0 ||
				    lazy_push(z, OBJECT, ELSEWHERE + 0x10000000, page, 1, err) < 0 ||
				    (!lazy_wants(z, OBJECT, rq->vaddr) &&
				     lazy_push(z, OBJECT, rq->vaddr, page, 1, err) < 0)))
		return -1;
	return 0;
}

static int fake_work(struct lazy_source *s, struct lazy *z, struct err *err)
{
	struct fake *f = (struct fake *)s;
	eventfd_t unused;

	eventfd_read(f->event, &unused);
	if (f->habits & DEAF)
		return 0;
	for (int i = 0; f->first && i < 8; i++) {
		struct lazy_request *rq = f->first;

		if (f->habits & FLAKY && ++f->answers % 5 == 0)
			return err_set(err, EPIPE, "the cable was pulled");
		f->first = rq->next_of_source;
		if (!f->first)
			f->end = &f->first;
		if (give(f, z, rq, err) < 0)
			return -1;
		lazy_end(z, rq);
	}
	if (f->first)
		eventfd_write(f->event, 1);
	return 0;
}

static int fake_reconnect(struct lazy_source *s, struct err *err)
{
	struct fake *f = (struct fake *)s;

	f->first = NULL;
	f->end = &f->first;
	return f->lost++ % 2; /* not at once */
}

static const struct lazy_source_ops fake_ops = {
	.name = "test",
	.request = fake_request,
	.poll_fd = fake_poll_fd,
	.work = fake_work,
	.reconnect = fake_reconnect,
};

static void fake_init(struct fake *f, unsigned int habits)
{
	*f = (struct fake){.source = {.ops = &fake_ops, .window_pages = 256}, .habits = habits};
	f->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	f->end = &f->first;
}

/* An engine for a new victim, of which everything is missing. @sp_out: its space, or NULL. */
static struct lazy *engine_for(struct fake *f, unsigned int habits, struct victim *v,
			       int (*body)(void), struct lazy_space **sp_out)
{
	struct lazy_space *sp;
	struct lazy *z;
	struct err err;

	if (geteuid() != 0)
		skip_because("must be root");
	fake_init(f, habits);
	if (!start(v, body))
		skip_because("no userfaultfd with events here");
	z = lazy_open(&f->source, NULL, &err);
	assert_non_null(z);
	sp = lazy_add(z, OBJECT, v->uffd, -1, &err);
	assert_non_null(sp);
	assert_int_equal(lazy_missing(sp, AREA, PAGES, &err), 0);
	assert_int_equal(lazy_left_pages(z), PAGES);
	if (sp_out)
		*sp_out = sp;
	return z;
}

static void run_victim(int (*body)(void), unsigned int habits, bool background, struct lazy_stats *st)
{
	struct victim v;
	struct fake f;
	struct lazy *z;

	z = engine_for(&f, habits, &v, body, NULL);
	let_run(&v);
	if (background)
		lazy_start(z);
	scarce = habits & SCARCE;
	serve(z, &v);
	scarce = false;
	lazy_stats(z, st);
	lazy_close(z);
	assert_int_equal(exit_code(&v), 0);
	if (habits & OUTSIDE)
		assert_true(f.refused > 0 && f.refused % 4 == 0);
	if (habits & FLAKY)
		assert_true(f.lost > 0);
	close(v.pidfd);
	close(f.event);
}

/* ---- bodies: exit status 0 is good ---- */

static int read_all(void)
{
	for (size_t i = 0; i < PAGES; i++)
		if (!is_page(page_addr(i * 389 % PAGES), page_addr(i * 389 % PAGES)))
			return 1;
	return is_zero(page_addr(PAGES)) && is_zero(page_addr(PAGES + 1)) ? 0 : 2;
}

enum { THREADS = 8 };

static void *read_some(void *arg)
{
	size_t first = (size_t)arg;

	/* all threads want the same pages, in different orders */
	for (size_t i = 0; i < PAGES; i++) {
		size_t p = (i * 389 + first * 131) % PAGES;

		if (!is_page(page_addr(p), page_addr(p)))
			return (void *)1;
	}
	return NULL;
}

static int read_by_threads(void)
{
	pthread_t t[THREADS];
	void *bad = NULL, *r;

	for (size_t i = 0; i < THREADS; i++)
		if (pthread_create(&t[i], NULL, read_some, (void *)i))
			return 1;
	for (size_t i = 0; i < THREADS; i++) {
		pthread_join(t[i], &r);
		bad = r ? r : bad;
	}
	return bad ? 2 : 0;
}

static int child_ok(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Children and a grandchild, each of which sees the memory of the moment of its birth. */
static int fork_and_read(void)
{
	pid_t a, b;

	*(uint64_t *)page_addr(5) = 1; /* a page that came, and was changed */
	a = fork();
	if (a == 0) {
		b = fork();
		if (b == 0)
			_exit(*(uint64_t *)page_addr(5) == 1 && is_page(page_addr(9), page_addr(9)) ?
				      0 :
				      1);
		for (size_t i = PAGES; i-- > 6;)
			if (!is_page(page_addr(i), page_addr(i)))
				_exit(2);
		_exit(child_ok(b) && *(uint64_t *)page_addr(5) == 1 ? 0 : 3);
	}
	*(uint64_t *)page_addr(5) = 2;
	*(uint64_t *)page_addr(700) = 2; /* the child has the old one */
	for (size_t i = 6; i < PAGES; i++)
		if (i != 700 && !is_page(page_addr(i), page_addr(i)))
			return 4;
	return child_ok(a) ? 0 : 5;
}

/* Forks as fast as it can while another thread reads. */
static int fork_storm(void)
{
	pthread_t t;
	void *bad;

	if (pthread_create(&t, NULL, read_some, (void *)3))
		return 1;
	for (size_t i = 0; i < 40; i++) {
		pid_t pid = fork();
		size_t p = i * 251 % PAGES;

		if (pid == 0)
			_exit(!is_page(page_addr(p), page_addr(p)));
		if (!child_ok(pid))
			return 2;
	}
	pthread_join(t, &bad);
	return bad ? 3 : 0;
}

static int remap_and_read(void)
{
	/* the middle goes elsewhere, half of that comes back to another place */
	void *m = mremap((void *)page_addr(256), 512 * PAGE_BYTES, 512 * PAGE_BYTES,
			 MREMAP_MAYMOVE | MREMAP_FIXED, (void *)ELSEWHERE);

	if (m != (void *)ELSEWHERE)
		return 1;
	m = mremap((void *)(ELSEWHERE + 256 * PAGE_BYTES), 256 * PAGE_BYTES, 256 * PAGE_BYTES,
		   MREMAP_MAYMOVE | MREMAP_FIXED, (void *)page_addr(256));
	if (m != (void *)page_addr(256))
		return 2;
	for (size_t i = 0; i < 256; i++) {
		size_t p = i * 101 % 256;

		if (!is_page(page_addr(p), page_addr(p)) ||
		    !is_page(ELSEWHERE + p * PAGE_BYTES, page_addr(256 + p)) ||
		    !is_page(page_addr(256 + p), page_addr(512 + p)) ||
		    !is_page(page_addr(768 + p), page_addr(768 + p)))
			return 3;
	}
	return 0;
}

static int discard_and_read(void)
{
	if (madvise((void *)page_addr(100), 100 * PAGE_BYTES, MADV_DONTNEED) ||
	    munmap((void *)page_addr(300), 100 * PAGE_BYTES))
		return 1;
	/* new memory where some was unmapped is nobody's */
	if (mmap((void *)page_addr(300), 50 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		return 2;
	for (size_t i = 0; i < PAGES; i++) {
		if (i >= 350 && i < 400)
			continue;
		if ((i >= 100 && i < 200) || (i >= 300 && i < 350)) {
			if (!is_zero(page_addr(i)))
				return 3;
		} else if (!is_page(page_addr(i), page_addr(i))) {
			return 4;
		}
	}
	return 0;
}

/* Areas cut by protections: a copy must not cross them. */
static int protect_and_read(void)
{
	pid_t pid;

	for (size_t i = 0; i < PAGES; i += 64)
		if (mprotect((void *)page_addr(i), 7 * PAGE_BYTES, PROT_READ))
			return 1;
	if (madvise((void *)page_addr(500), 10 * PAGE_BYTES, MADV_DONTFORK))
		return 2;
	pid = fork();
	if (pid == 0) {
		for (size_t i = 0; i < 500; i++)
			if (!is_page(page_addr(i), page_addr(i)))
				_exit(1);
		_exit(0);
	}
	return read_all() || !child_ok(pid) ? 3 : 0;
}

static void *fault_late(void *arg)
{
	*(volatile uint64_t *)page_addr(1000);
	return NULL;
}

/* Ends while requests are on their way and a thread waits. */
static int leave_early(void)
{
	pthread_t t;

	if (pthread_create(&t, NULL, fault_late, NULL))
		return 1;
	usleep(1000);
	return is_page(page_addr(1), page_addr(1)) ? 0 : 2;
}

static int kill_waiting(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit((int)*(volatile uint64_t *)page_addr(3));
	usleep(20000);
	kill(pid, SIGKILL);
	return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) ? 0 : 1;
}

static void *move_pages(void *arg)
{
	for (size_t i = 0; i < 64; i++) {
		void *from = (void *)page_addr(512 + i), *to = (void *)(ELSEWHERE + i * PAGE_BYTES);

		if (mremap(from, PAGE_BYTES, PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
			return (void *)1;
		if (!is_page((uint64_t)to, page_addr(512 + i)))
			return (void *)2;
	}
	return NULL;
}

/* One thread moves, one discards, one reads. */
static int all_at_once(void)
{
	pthread_t mover;
	void *moved;

	if (pthread_create(&mover, NULL, move_pages, NULL) ||
	    munmap((void *)page_addr(700), PAGES / 4 * PAGE_BYTES))
		return 1;
	if (mmap((void *)page_addr(700), PAGES / 4 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		return 2;
	for (size_t i = 0; i < 512; i++) {
		if (i % 32 == 0) {
			pid_t pid = fork();

			if (pid == 0)
				_exit(!is_page(page_addr(511 - i), page_addr(511 - i)));
			if (!child_ok(pid))
				return 3;
		}
		if (!is_page(page_addr(i), page_addr(i)))
			return 4;
	}
	pthread_join(mover, &moved);
	return moved ? 5 : 0;
}

/* ---- tests ---- */

static void test_demand(void **state)
{
	struct lazy_stats st;

	run_victim(read_all, 0, false, &st);
	assert_int_equal(st.faults, PAGES);
	assert_int_equal(st.urgent_pages, PAGES);
	assert_int_equal(st.bulk_pages, 0);
	assert_true(st.fault_p50_ns > 0 && st.fault_p50_ns <= st.fault_p99_ns &&
		    st.fault_p99_ns <= st.fault_max_ns);
}

static void test_background(void **state)
{
	struct lazy_stats st;

	run_victim(read_by_threads, 0, true, &st);
	assert_int_equal(st.urgent_pages + st.bulk_pages, PAGES);
	assert_true(st.drain_ns > 0);
}

static void test_habits(void **state)
{
	static const unsigned int habits[] = {SHORT,   TWICE,
					      REVERSE, OUTSIDE,
					      UNASKED, FLAKY,
					      LATE,    SHORT | TWICE | OUTSIDE | FLAKY};
	struct lazy_stats st;

	for (size_t i = 0; i < ARRAY_SIZE(habits); i++) {
		run_victim(read_by_threads, habits[i], true, &st);
		run_victim(fork_and_read, habits[i], i % 2, &st);
	}
}

static void test_forks(void **state)
{
	struct lazy_stats st;

	run_victim(fork_and_read, 0, false, &st);
	assert_int_equal(st.forks, 2);
	run_victim(fork_and_read, 0, true, &st);
	run_victim(fork_storm, 0, true, &st);
	run_victim(fork_storm, LATE, true, &st);
	run_victim(fork_storm, 0, false, &st);
	assert_true(st.forks > 0);
}

static void test_remap(void **state)
{
	struct lazy_stats st;

	run_victim(remap_and_read, 0, false, &st);
	run_victim(remap_and_read, 0, true, &st);
	run_victim(remap_and_read, LATE, true, &st);
	run_victim(all_at_once, 0, true, &st);
	run_victim(all_at_once, LATE, true, &st);
	run_victim(all_at_once, 0, false, &st);
}

static void test_discard(void **state)
{
	struct lazy_stats st;

	run_victim(discard_and_read, 0, false, &st);
	assert_int_equal(st.gone_pages, 200);
	run_victim(discard_and_read, 0, true, &st);
	run_victim(discard_and_read, LATE, true, &st);
	run_victim(protect_and_read, 0, true, &st);
}

/* What tasks say waits until there is memory for it: nothing is forgotten, and nobody gives up. */
static void test_scarce_memory(void **state)
{
	static int (*const bodies[])(void) = {read_by_threads, fork_and_read,    fork_storm,
					      remap_and_read,  discard_and_read, all_at_once};
	struct lazy_stats st;

	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
		refused_memory = 0;
		run_victim(bodies[i], SCARCE, i % 2, &st);
		assert_true(refused_memory > 0);
	}
}

static void test_exit(void **state)
{
	struct lazy_stats st;

	run_victim(leave_early, 0, true, &st);
	run_victim(leave_early, LATE, true, &st);
	run_victim(kill_waiting, DEAF, true, &st);
}

static void expect_request(struct fake *f, uint64_t vaddr, uint64_t pages)
{
	struct lazy_request *rq = f->first;

	assert_non_null(rq);
	assert_false(rq->urgent);
	assert_int_equal(rq->vaddr, vaddr);
	if (pages)
		assert_int_equal(rq->pages, pages);
	f->first = rq->next_of_source;
}

/* What is preferred is asked for first, in that order and once; then the rest from the beginning. */
static void test_preferred(void **state)
{
	struct lazy_space *sp;
	struct victim v;
	struct fake f;
	struct lazy *z;
	struct err err;

	z = engine_for(&f, DEAF, &v, read_all, &sp);
	lazy_prefer(sp, page_addr(500) + 123, 2);
	lazy_prefer(sp, page_addr(100), 1);
	lazy_prefer(sp, page_addr(501), 2);          /* one of them is on its way already */
	lazy_prefer(sp, page_addr(PAGES - 1), 8);    /* and what is behind it is not missing */
	lazy_prefer(sp, page_addr(PAGES), 2);        /* never was missing */
	lazy_prefer(sp, UINT64_MAX - PAGE_BYTES, 4); /* a register may hold anything */
	lazy_prefer(sp, 0, 4);
	lazy_start(z);
	assert_int_equal(lazy_run(z, &err), 0);
	expect_request(&f, page_addr(500), 2);
	expect_request(&f, page_addr(100), 1);
	expect_request(&f, page_addr(502), 1);
	expect_request(&f, page_addr(PAGES - 1), 1);
	expect_request(&f, page_addr(0), 0);
	kill(v.pid, SIGKILL);
	exit_code(&v);
	lazy_close(z);
	close(v.pidfd);
	close(f.event);
}

/* The task is dead, nobody has answered: the engine finds out that nothing is missing. */
static void test_dead_task(void **state)
{
	long end = now_ms() + LIMIT_MS;
	struct victim v;
	struct fake f;
	struct lazy *z;
	struct err err;

	z = engine_for(&f, DEAF, &v, read_all, NULL);
	lazy_start(z);
	let_run(&v);
	kill(v.pid, SIGKILL);
	assert_int_equal(exit_code(&v), 1000 + SIGKILL);
	while (lazy_left_pages(z) && now_ms() < end)
		assert_int_equal(lazy_step(z, -1, 50, &err), 0);
	assert_int_equal(lazy_left_pages(z), 0);
	lazy_close(z);
	close(v.pidfd);
	close(f.event);
}

/* ---- the guardian ---- */

/* Says what it read: 0 would be the silent corruption. */
static int report_page(void)
{
	pid_t pid = fork(); /* a task that only the kernel knows of */

	if (pid == 0)
		_exit(is_zero(page_addr(800)) ? 66 : 0);
	return is_zero(page_addr(7)) ? 66 : 0;
}

/* An engine that never answers, in a process of its own. Returns its pid. */
static pid_t deaf_engine(struct victim *v, enum guardian_policy policy, pid_t *guardian_out)
{
	int p[2];
	pid_t pid;

	assert_int_equal(pipe(p), 0);
	pid = fork();
	if (pid == 0) {
		struct guardian *g;
		struct lazy_space *sp;
		struct fake f;
		struct lazy *z;
		struct err err;
		pid_t gpid;

		fake_init(&f, DEAF);
		g = guardian_start(policy, &err);
		z = g ? lazy_open(&f.source, g, &err) : NULL;
		sp = z ? lazy_add(z, OBJECT, v->uffd, v->pidfd, &err) : NULL;
		if (!sp || lazy_missing(sp, AREA, PAGES, &err) < 0)
			_exit(1);
		for (;;) {
			gpid = guardian_pid(g);
			if (gpid && write(p[1], &gpid, sizeof(gpid)) != sizeof(gpid))
				_exit(1);
			for (int i = 0; i < 20; i++)
				if (lazy_step(z, -1, 20, &err) < 0)
					_exit(1);
		}
	}
	close(p[1]);
	assert_int_equal(read(p[0], guardian_out, sizeof(*guardian_out)), sizeof(*guardian_out));
	if (policy == GUARDIAN_HOLD) { /* the first one is killed: another must take its place */
		pid_t first = *guardian_out;

		kill(first, SIGKILL);
		for (int i = 0; i < 20 && *guardian_out == first; i++)
			assert_int_equal(read(p[0], guardian_out, sizeof(*guardian_out)),
					 sizeof(*guardian_out));
		assert_int_not_equal(*guardian_out, first);
	}
	close(p[0]);
	return pid;
}

static bool gone_within(pid_t pid, int ms)
{
	long end = now_ms() + ms;

	while (now_ms() < end) {
		if (kill(pid, 0) < 0 && errno == ESRCH)
			return true;
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		usleep(5000);
	}
	return false;
}

static void guarded(enum guardian_policy policy)
{
	pid_t engine, guardian = 0;
	struct victim v;
	struct pollfd p;

	if (geteuid() != 0)
		skip_because("must be root");
	if (!start(&v, report_page))
		skip_because("no userfaultfd with events here");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	engine = deaf_engine(&v, policy, &guardian);
	close(v.uffd);
	let_run(&v);
	usleep(100000);
	assert_false(ended(&v)); /* it waits for a page */
	kill(engine, SIGKILL);
	assert_int_equal(waitpid(engine, NULL, 0), engine);
	p = (struct pollfd){.fd = v.pidfd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, policy == GUARDIAN_KILL ? LIMIT_MS : 500),
			 policy == GUARDIAN_KILL);
	if (policy == GUARDIAN_HOLD) /* it waited on, and saw no zeros */
		kill(v.pid, SIGKILL);
	assert_int_equal(exit_code(&v), 1000 + SIGKILL);
	if (policy == GUARDIAN_HOLD) { /* its child is ours now; it waits, too */
		char path[64];
		FILE *f;
		int child;

		usleep(100000);
		assert_int_equal(kill(guardian, 0), 0);
		snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
		f = fopen(path, "r");
		assert_non_null(f);
		while (fscanf(f, "%d", &child) == 1)
			if (child != guardian)
				kill(child, SIGKILL);
		fclose(f);
	}
	assert_true(gone_within(guardian, LIMIT_MS)); /* nobody is left to guard */
	close(v.pidfd);
}

static void test_guardian_kills(void **state)
{
	guarded(GUARDIAN_KILL);
}

static void test_guardian_holds(void **state)
{
	guarded(GUARDIAN_HOLD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_demand),         cmocka_unit_test(test_background),
		cmocka_unit_test(test_habits),         cmocka_unit_test(test_forks),
		cmocka_unit_test(test_remap),          cmocka_unit_test(test_discard),
		cmocka_unit_test(test_scarce_memory),  cmocka_unit_test(test_exit),
		cmocka_unit_test(test_dead_task),      cmocka_unit_test(test_guardian_kills),
		cmocka_unit_test(test_guardian_holds), cmocka_unit_test(test_preferred),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
