// SPDX-License-Identifier: Apache-2.0
/*
 * Visits to live children: what is learned is right, nothing is left behind,
 * and the child survives when the visitor is killed at any moment.
 */
#include "blob/visit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

/* Shared with the child: it counts, and says when it sees something wrong. */
struct board {
	volatile uint64_t rounds;
	volatile uint64_t signals;
	volatile int wrong;
	volatile pid_t tids[8];
	volatile int stop;
};

static struct board *board;

static void on_alarm(int sig)
{
	board->signals++;
}

/* Registers, flags and memory must come out of every round as they went in. */
static void compute(uint64_t seed)
{
	uint64_t a = seed, b = ~seed, c = 0, i;

	for (i = 0; i < 2000; i++) {
		a = a * 6364136223846793005ULL + 1442695040888963407ULL;
		b ^= a >> 7;
		if (__builtin_uaddll_overflow(c, b, (unsigned long long *)&c))
			c++;
	}
	static __thread uint64_t expect;
	static __thread uint64_t for_seed;
	if (for_seed != seed) {
		for_seed = seed;
		expect = a ^ b ^ c;
	} else if (expect != (a ^ b ^ c)) {
		board->wrong = 1;
	}
}

static void *worker(void *arg)
{
	struct timespec nap = {.tv_nsec = 3000000};
	long n = (long)arg;

	board->tids[n] = (pid_t)syscall(SYS_gettid);
	while (!board->stop) {
		compute((uint64_t)n + 1);
		board->rounds++;
		if (n % 2 && nanosleep(&nap, NULL))
			board->wrong = 2; /* a sleep was interrupted visibly: no handler runs in these threads */
	}
	return NULL;
}

static void child_main(int n_threads)
{
	struct itimerval it = {.it_interval.tv_usec = 1000, .it_value.tv_usec = 1000};
	pthread_t t;
	sigset_t set;
	long i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (i = 1; i < 32; i++)
		signal((int)i, SIG_DFL); /* cmocka catches crashes */
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (i = 1; i < n_threads; i++)
		pthread_create(&t, NULL, worker, (void *)i);
	signal(SIGALRM, on_alarm);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	setitimer(ITIMER_REAL, &it, NULL);
	worker((void *)0);
	_exit(0);
}

static pid_t start_child(int n_threads)
{
	pid_t pid;
	int i;

	memset((void *)board, 0, sizeof(*board));
	pid = fork();
	if (pid == 0)
		child_main(n_threads);
	for (i = 0; i < n_threads; i++)
		while (!board->tids[i])
			usleep(1000);
	return pid;
}

static void fail_child(int code, const char *why)
{
	fprintf(stderr, "%s\n", why);
	_exit(code);
}

static void stop_thread(pid_t tid, struct visit_thread *t)
{
	struct err err;

	t->tid = tid;
	if (pt_seize(tid, 0, &err) || pt_interrupt(tid, &err))
		fail_child(40, err.text);
	if (pt_wait_stop(tid, 5000, NULL, &err) != PT_STOPPED)
		fail_child(46, "not in the trap");
	if (pt_get_regs(tid, &t->regs, &err) || pt_get_sigmask(tid, &t->sigmask, &err))
		fail_child(47, err.text);
}

/* A thread that an earlier, killed visitor left on its way gets the time to arrive. */
static bool let_go_home(pid_t pid, struct visit_thread *t)
{
	enum visit_way way = VISIT_AT_HOME;
	struct err err;
	proc_vmas vmas;
	int i;

	for (i = 0; i < VISIT_HOME_TRIES; i++) {
		if (proc_vmas_read(pid, false, &vmas, &err))
			fail_child(48, err.text);
		way = visit_way_home(pid, &vmas, &t->regs);
		proc_vmas_finish(&vmas);
		if (way == VISIT_AT_HOME)
			return true;
		if (pt_cont(t->tid, 0, &err))
			fail_child(49, err.text);
		usleep((unsigned int)visit_nap_ns(i) / 1000);
		if (pt_interrupt(t->tid, &err) ||
		    pt_wait_stop(t->tid, 5000, NULL, &err) != PT_STOPPED ||
		    pt_get_regs(t->tid, &t->regs, &err) || pt_get_sigmask(t->tid, &t->sigmask, &err))
			fail_child(50, err.text);
	}
	if (way == VISIT_AWAY)
		fail_child(52, "a thread does not come home");
	return false;
}

static char *maps_of(pid_t pid)
{
	static char buf[2][65536];
	static int turn;
	char path[64];
	ssize_t n, got = 0;
	int fd;

	turn ^= 1;
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	fd = open(path, O_RDONLY);
	while ((n = read(fd, buf[turn] + got, sizeof(buf[turn]) - 1 - (size_t)got)) > 0)
		got += n;
	close(fd);
	buf[turn][got] = 0;
	return buf[turn];
}

/* A descriptor that the task makes becomes ours alone; a call that fails says why. */
static void take_and_use(struct visit *v)
{
	uint64_t value = 0;
	struct err err;
	int fd;

	if (visit_take_fd(v, "an eventfd", SYS_eventfd2, 7, 0, &fd, &err))
		fail_child(46, err.text);
	if (read(fd, &value, 8) != 8 || value != 7)
		fail_child(47, "what was taken is no eventfd");
	close(fd);
	if (!visit_take_fd(v, "an eventfd", SYS_eventfd2, 7, ~0UL, &fd, &err) || err.no != EINVAL ||
	    fd != -1)
		fail_child(48, "a call with wrong flags did not fail");
}

/* How many descriptors a process has. */
static unsigned int count_fds(pid_t pid)
{
	proc_pids fds;
	struct err err;
	unsigned int n;

	if (proc_fds(pid, &fds, &err))
		fail_msg("%s", err.text);
	n = (unsigned int)fds.n;
	vec_free(&fds);
	return n;
}

/* One whole visit: 0, or exits of the calling process tell where it failed. */
static void visit_once(pid_t pid, int n_threads)
{
	struct visit_thread t[8];
	struct visit v;
	proc_vmas vmas;
	struct err err;
	unsigned int op, ops[8];
	bool home = true;
	int i;

	for (i = 0; i < n_threads; i++)
		stop_thread(board->tids[i], &t[i]);
	for (i = 0; i < n_threads; i++)
		home = let_go_home(pid, &t[i]) && home;
	if (proc_vmas_read(pid, false, &vmas, &err) ||
	    visit_open(&v, pid, &t[0], VISIT_MAX_GUESTS, &vmas, !home, &err))
		fail_child(41, err.text);
	proc_vmas_finish(&vmas);
	op = script_call(&v.script, "ask the pid", SYS_getpid);
	if (visit_run(&v, &err) || script_result(&v.script, op) != pid)
		fail_child(42, err.text);
	script_reset(&v.script);
	take_and_use(&v);
	for (i = 1; i < n_threads; i++) {
		script_reset(&v.guest_script[i - 1]);
		ops[i] = script_call(&v.guest_script[i - 1], "ask the tid", SYS_gettid);
	}
	if (visit_guests(&v, t + 1, (unsigned int)n_threads - 1, &err))
		fail_child(43, err.text);
	for (i = 1; i < n_threads; i++)
		if (script_result(&v.guest_script[i - 1], ops[i]) != t[i].tid)
			fail_child(51, "a guest is not who it should be");
	if (visit_close(&v, &err))
		fail_child(44, err.text);
	for (i = 0; i < n_threads; i++)
		if (pt_detach(t[i].tid, 0, &err))
			fail_child(45, err.text);
}

/*
 * What killed visitors could not take with them is cleared by a later visit; not by the next one,
 * if a thread is in a signal handler on top of its way home at that moment.
 */
static void assert_cleared_in_the_end(pid_t pid, const char *before)
{
	for (int i = 0; i < 100 && strcmp(before, maps_of(pid)) != 0; i++) {
		usleep(2000);
		visit_once(pid, 4);
	}
	assert_string_equal(before, maps_of(pid));
}

static void test_visit_leaves_nothing(void **state)
{
	pid_t pid = start_child(4);
	unsigned int fds = count_fds(pid);
	char *before = maps_of(pid);
	uint64_t rounds;
	int i;

	for (i = 0; i < 20; i++)
		visit_once(pid, 4);
	assert_string_equal(before, maps_of(pid));
	assert_int_equal(count_fds(pid), fds);
	rounds = board->rounds;
	usleep(50000);
	assert_true(board->rounds > rounds);
	assert_int_equal(board->wrong, 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* How long a visit takes on this machine now. */
static unsigned int visit_us(pid_t pid)
{
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	visit_once(pid, 4);
	clock_gettime(CLOCK_MONOTONIC, &b);
	return (unsigned int)((b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000);
}

/* A visitor in a process of its own is killed after a random time, up to about that of a whole visit. */
static void test_visitor_is_killed(void **state)
{
	int rounds = getenv("FERRY_FULL") ? 2000 : 300, i, status, cut = 0, ended = 0;
	pid_t pid = start_child(4), visitor;
	unsigned int span_us, fds = count_fds(pid);
	char before[65536];
	uint64_t progress;

	strcpy(before, maps_of(pid));
	srandom((unsigned int)time(NULL));
	span_us = visit_us(pid) * 5 / 4 + 1000;
	for (i = 0; i < rounds; i++) {
		visitor = fork();
		if (visitor == 0) {
			visit_once(pid, 4);
			_exit(0);
		}
		usleep((unsigned int)random() % span_us);
		kill(visitor, SIGKILL);
		waitpid(visitor, &status, 0);
		if (WIFEXITED(status)) {
			assert_int_equal(WEXITSTATUS(status), 0);
			ended++;
		} else {
			cut++;
		}
		if (waitpid(pid, &status, WNOHANG))
			fail_msg("the program died in round %d: status %x", i, (unsigned int)status);
		assert_int_equal(board->wrong, 0);
	}
	print_message("%d visits cut, %d ended\n", cut, ended);
	assert_true(cut > 0);
	progress = board->rounds;
	usleep(100000);
	assert_true(board->rounds > progress);
	assert_true(board->signals > 0);
	assert_int_equal(count_fds(pid), fds);
	assert_cleared_in_the_end(pid, before);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Dies with one guest announced that never came in: the host waits for it, and comes home. */
static void die_before_guest(pid_t pid)
{
	struct visit_thread t;
	struct visit v;
	proc_vmas vmas;
	struct err err;

	stop_thread(board->tids[0], &t);
	if (proc_vmas_read(pid, false, &vmas, &err) ||
	    visit_open(&v, pid, &t, 1, &vmas, false, &err) || visit_run(&v, &err))
		fail_child(41, err.text);
	v.slot->guests = 1;
	_exit(0);
}

/* The machine is busy: a yield of the host takes long. The next visitor comes at once. */
static void test_guest_never_came(void **state)
{
	pid_t pid = start_child(4), visitor, busy[4];
	char before[65536];
	int status;
	size_t i;

	strcpy(before, maps_of(pid));
	for (i = 0; i < ARRAY_SIZE(busy); i++) {
		busy[i] = fork();
		if (busy[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				compute(1);
		}
	}
	visitor = fork();
	if (visitor == 0)
		die_before_guest(pid);
	waitpid(visitor, &status, 0);
	assert_int_equal(status, 0);
	visitor = fork();
	if (visitor == 0) {
		visit_once(pid, 4);
		_exit(0);
	}
	waitpid(visitor, &status, 0);
	assert_int_equal(status, 0);
	for (i = 0; i < ARRAY_SIZE(busy); i++) {
		kill(busy[i], SIGKILL);
		waitpid(busy[i], NULL, 0);
	}
	usleep(50000);
	assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
	assert_cleared_in_the_end(pid, before);
	assert_int_equal(board->wrong, 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

enum { SEVERAL = 3 };

/* With @one_dies the second ends between the preparation and the entry: then nobody is visited. */
static void visit_several(const pid_t pids[SEVERAL], bool one_dies)
{
	struct visit v[SEVERAL], *all[SEVERAL];
	struct visit_thread t[SEVERAL];
	proc_vmas vmas[SEVERAL];
	unsigned int op[SEVERAL];
	struct err err;

	for (int i = 0; i < SEVERAL; i++) {
		all[i] = &v[i];
		stop_thread(pids[i], &t[i]);
		if (proc_vmas_read(pids[i], false, &vmas[i], &err) ||
		    visit_prepare(&v[i], pids[i], &t[i], 0, &vmas[i], false, &err))
			fail_child(41, err.text);
	}
	if (one_dies)
		kill(pids[1], SIGKILL);
	if (visits_open(all, SEVERAL, &err) != (one_dies ? -1 : 0))
		fail_child(42, "opening them");
	for (int i = 0; i < SEVERAL && !one_dies; i++) {
		op[i] = script_call(&v[i].script, "ask the pid", SYS_getpid);
		if (visit_start(&v[i], &err))
			fail_child(43, err.text);
	}
	for (int i = 0; i < SEVERAL && !one_dies; i++)
		if (visit_wait(&v[i], &err) || script_result(&v[i].script, op[i]) != pids[i])
			fail_child(44, "the answers");
	if (visits_close(all, SEVERAL, &err))
		fail_child(45, err.text);
	for (int i = 0; i < SEVERAL; i++) {
		proc_vmas_finish(&vmas[i]);
		if (pt_detach(pids[i], 0, &err) && !(one_dies && i == 1))
			fail_child(46, err.text);
	}
	_exit(0);
}

static void check_several(bool one_dies)
{
	char before[SEVERAL][16384];
	pid_t pids[SEVERAL], visitor;
	int status;

	for (int i = 0; i < SEVERAL; i++) {
		pids[i] = fork();
		while (pids[i] == 0)
			pause();
		snprintf(before[i], sizeof(before[i]), "%s", maps_of(pids[i]));
	}
	visitor = fork();
	if (visitor == 0)
		visit_several(pids, one_dies);
	waitpid(visitor, &status, 0);
	assert_int_equal(status, 0);
	for (int i = 0; i < SEVERAL; i++) {
		if (one_dies && i == 1) {
			waitpid(pids[i], NULL, 0);
			continue;
		}
		assert_string_equal(before[i], maps_of(pids[i]));
		/* at home, with its own signal mask */
		kill(pids[i], SIGUSR1);
		waitpid(pids[i], &status, 0);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
	}
}

static void test_several_at_once(void **state)
{
	check_several(false);
}

static void test_one_of_several_dies(void **state)
{
	check_several(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_visit_leaves_nothing),
		cmocka_unit_test(test_several_at_once),
		cmocka_unit_test(test_one_of_several_dies),
		cmocka_unit_test(test_visitor_is_killed),
		cmocka_unit_test(test_guest_never_came),
	};

	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
