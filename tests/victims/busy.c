// SPDX-License-Identifier: Apache-2.0
/*
 * A program that is always at work and checks its own work all the time: computing threads, memory
 * that is rewritten and compared, floating point, pipes, files, locks, sleeps and timers. It lives
 * until it is asked for the verdict; the first wrong result ends it with FAIL.
 *
 * DIR/progress has one counter per thread (8 bytes each), written through a descriptor.
 */
#include "victim.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define AREA_PAGES 256

static volatile uint64_t alarms;
static int progress_fd, pipe_fds[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint64_t token;

static void report(int nr, uint64_t rounds)
{
	ssize_t put = pwrite(progress_fd, &rounds, 8, nr * 8);

	CHECK(put == 8, "write of progress: %zd (%s)", put, strerror(errno));
}

// The same chain twice, with unlike code paths: they must agree.
static void compute(int nr, uint64_t round)
{
	uint64_t a = round + 1, b = round + 1;

	for (int i = 0; i < 20000; i++)
		a = a * 6364136223846793005ULL + 1442695040888963407ULL;
	for (int i = 0; i < 20000; i++) {
		unsigned __int128 wide = (unsigned __int128)b * 6364136223846793005ULL;

		b = (uint64_t)wide + 1442695040888963407ULL;
		asm volatile("" : "+r"(b));
	}
	CHECK(a == b, "round %lu: %#lx and %#lx", round, a, b);
}

static void rewrite_memory(int nr, uint64_t round)
{
	static char *area;

	if (!area) {
		area = victim_map(AREA_PAGES * VICTIM_PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS);
		for (size_t i = 0; i < AREA_PAGES; i++)
			victim_fill(area + i * VICTIM_PAGE, VICTIM_PAGE, i);
	}
	for (size_t k = 0; k < 16; k++) {
		size_t page = (round * 16 + k) % AREA_PAGES, turn = (round * 16 + k) / AREA_PAGES;

		CHECK(victim_check(area + page * VICTIM_PAGE, VICTIM_PAGE,
				   page + turn * AREA_PAGES) < 0,
		      "page %zu, turn %zu", page, turn);
		victim_fill(area + page * VICTIM_PAGE, VICTIM_PAGE, page + (turn + 1) * AREA_PAGES);
	}
	victim_sleep_ms(1);
}

static void floating(int nr, uint64_t round)
{
	volatile double start = round % 1000 + 0.5;
	double x = start, y = start;

	for (int i = 0; i < 3000; i++)
		x = sqrt(x * x + 1.0) - 1.0 / (x + 2.0);
	for (int i = 0; i < 3000; i++) {
		asm volatile("" : "+x"(y));
		y = sqrt(y * y + 1.0) - 1.0 / (y + 2.0);
	}
	CHECK(x == y, "round %lu: %.17g and %.17g", round, x, y);
	victim_sleep_ms(1);
}

static void write_pipe(int nr, uint64_t round)
{
	ssize_t put = write(pipe_fds[1], &round, 8);

	CHECK(put == 8, "write to pipe: %zd (%s)", put, strerror(errno));
	if (round % 64 == 0)
		victim_sleep_ms(1);
}

static void read_pipe(int nr, uint64_t round)
{
	uint64_t value = 0;
	ssize_t got = read(pipe_fds[0], &value, 8);

	CHECK(got == 8 && value == round, "pipe: %zd bytes (%s), %lu for %lu", got, strerror(errno),
	      value, round);
}

static void sleep_exactly(int nr, uint64_t round)
{
	struct timespec ts = {0, 3000000};
	int64_t start = victim_now_ns();
	long ret = syscall(SYS_nanosleep, &ts, NULL);

	CHECK(ret == 0, "nanosleep: %s", strerror(errno));
	CHECK(victim_now_ns() - start >= 3000000, "slept %ld ns only",
	      (long)(victim_now_ns() - start));
}

// Two threads hand a token to each other.
static void pass_token(int nr, uint64_t round)
{
	pthread_mutex_lock(&lock);
	while (token % 2 != (uint64_t)(nr % 2))
		pthread_cond_wait(&changed, &lock);
	CHECK(token == 2 * round + nr % 2, "token is %lu in round %lu of %d", token, round, nr);
	token++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	if (round % 16 == 0)
		victim_sleep_ms(1);
}

static void rewrite_file(int nr, uint64_t round)
{
	static int fd = -1;
	char text[64] = "", want[64];

	if (fd < 0)
		fd = MUST(open(victim_path("work"), O_RDWR | O_CREAT | O_TRUNC, 0644));
	snprintf(want, sizeof(want), "round %020lu\n", round);
	MUST(lseek(fd, 0, SEEK_SET));
	MUST(write(fd, want, strlen(want)));
	MUST(lseek(fd, 0, SEEK_SET));
	MUST(read(fd, text, strlen(want)));
	CHECK(strcmp(text, want) == 0, "file has '%s'", text);
	victim_sleep_ms(1);
}

static void (*const jobs[])(int nr, uint64_t round) = {compute,    rewrite_memory, floating,
						       write_pipe, read_pipe,      sleep_exactly,
						       pass_token, pass_token,     rewrite_file};

static void *work(void *arg)
{
	int nr = (intptr_t)arg;

	for (uint64_t round = 0;; round++) {
		jobs[nr](nr, round);
		report(nr, round + 1);
	}
	return NULL;
}

static void on_alarm(int sig)
{
	alarms++;
}

static void start_alarms(void)
{
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 50000}, {0, 50000}};

	sigaction(SIGALRM, &sa, NULL);
	MUST(setitimer(ITIMER_REAL, &often, NULL));
}

int main(int argc, char **argv)
{
	pthread_t threads[ARRAY_SIZE(jobs)];
	uint64_t before[ARRAY_SIZE(jobs)], after[ARRAY_SIZE(jobs)], alarms_before;
	sigset_t set;

	victim_start(argc, argv);
	progress_fd = MUST(open(victim_path("progress"), O_RDWR | O_CREAT | O_TRUNC, 0644));
	MUST(pipe(pipe_fds));
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set, NULL); // the threads that measure sleep do not see it
	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++)
		CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0, "pthread_create");
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	start_alarms();
	victim_sleep_ms(100);
	victim_ready();
	victim_wait();
	alarms_before = alarms;
	MUST(pread(progress_fd, before, sizeof(before), 0));
	for (int ms = 0; ms < 500; ms += 10)
		victim_sleep_ms(10);
	MUST(pread(progress_fd, after, sizeof(after), 0));
	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++)
		CHECK(after[i] > before[i], "thread %zu does not work any more (%lu rounds)", i,
		      after[i]);
	CHECK(alarms > alarms_before, "the timer is dead");
	victim_pass();
}
