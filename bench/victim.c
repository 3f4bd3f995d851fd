// SPDX-License-Identifier: Apache-2.0
/*
 * A program to measure dump, restore and migration with: it notes the largest gap it saw.
 *
 *	bench-victim DIR tasks N	N tasks in all: this one and N - 1 sleeping children
 *	bench-victim DIR threads N	one task with N threads, all but one asleep in a futex
 *	bench-victim DIR memory MIB	one task with MIB MiB of filled anonymous memory
 *	bench-victim DIR text MIB	the same, but a quarter of each word is filled, as it is with what
 *					can be compressed
 *	bench-victim DIR writing MIB RATE	the same, and a thread that writes pages all over it, RATE
 *					MB of pages a second (what it writes is what was there)
 *
 * Goes to the background, in its own session, stdio on /dev/null; the command returns when it is
 * ready, with its PID in DIR/pid. The main thread looks at the clock every TICK_NS. On SIGUSR1 it
 * checks what it has (children alive, memory as written), writes DIR/report ("LARGEST-GAP-IN-NS
 * ok" or "... BAD: reason") and starts measuring anew.
 *
 * The clock is CLOCK_REALTIME: the only one that a time namespace cannot shift, so that a gap is
 * the time that passed in the world whatever restored the program, and wherever.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 100000L
#define PAGE ((size_t)4096)
#define THREAD_STACK ((size_t)32 * 1024)

static const char *dir;
static pid_t *children;
static long children_nr;
static uint64_t *memory;
static uint64_t memory_mask = UINT64_MAX; /* of each word, what is filled */
static size_t memory_bytes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t started_cond = PTHREAD_COND_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static long threads_started;

static void die(const char *what)
{
	fprintf(stderr, "bench-victim: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

// Write DIR/name in one step, so that a reader sees all of it or nothing.
static void write_file(const char *name, const char *text)
{
	char path[4096], temp[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	snprintf(temp, sizeof(temp), "%s/%s.new", dir, name);
	fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd) != 0 ||
	    rename(temp, path) != 0)
		die(path);
}

static void make_children(long nr)
{
	sigset_t none;

	children = calloc(nr, sizeof(*children));
	if (!children)
		die("children");
	for (; children_nr < nr; children_nr++) {
		children[children_nr] = fork();
		if (children[children_nr] < 0)
			die("fork");
		if (children[children_nr] == 0) {
			dup2(0, 2);
			close_range(3, ~0U, 0);
			sigemptyset(&none);
			for (;;)
				sigsuspend(&none);
		}
	}
}

static void *sleeper(void *arg)
{
	pthread_mutex_lock(&lock);
	threads_started++;
	pthread_cond_signal(&started_cond);
	for (;;)
		pthread_cond_wait(&never, &lock);
	return NULL;
}

static void make_threads(long nr)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	for (long i = 0; i < nr; i++) {
		errno = pthread_create(&thread, &attr, sleeper, NULL);
		if (errno)
			die("pthread_create");
	}
	pthread_mutex_lock(&lock);
	while (threads_started < nr)
		pthread_cond_wait(&started_cond, &lock);
	pthread_mutex_unlock(&lock);
}

// xorshift*: nothing that compresses, no two pages alike.
static uint64_t scramble(uint64_t x)
{
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

static void make_memory(size_t bytes)
{
	uint64_t value = 0x9e3779b97f4a7c15;

	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	memory_bytes = bytes;
	for (size_t i = 0; i < bytes / sizeof(*memory); i++)
		memory[i] = (value = scramble(value)) & memory_mask;
}

static void *writer(void *arg)
{
	const struct timespec tick = {.tv_nsec = 1000000};
	int64_t begun = now_ns(), due, rate = (int64_t)(intptr_t)arg;
	uint64_t at = 1, written = 0, pages = memory_bytes / PAGE;

	for (;;) {
		due = (now_ns() - begun) / 1000 * rate / (int64_t)PAGE; // MB/s are bytes a microsecond
		if (due - (int64_t)written >
		    1000) { // it did not run for a while, and catches up with nothing
			begun = now_ns();
			written = 0;
			due = 0;
		}
		for (; (int64_t)written < due; written++) {
			volatile uint64_t *word;

			at = scramble(at);
			word = memory + at % pages * (PAGE / sizeof(*memory));
			*word = *word;
		}
		nanosleep(&tick, NULL);
	}
	return NULL;
}

static void start_writing(intptr_t mb_per_s)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, writer, (void *)mb_per_s);
	if (errno)
		die("pthread_create");
}

// What is wrong with us, or NULL.
static const char *check(void)
{
	uint64_t value = 0x9e3779b97f4a7c15;

	for (size_t i = 0; i < memory_bytes / sizeof(*memory); i++) {
		value = scramble(value);
		if (memory[i] != (value & memory_mask))
			return "memory has changed";
	}
	for (long i = 0; i < children_nr; i++)
		if (waitpid(children[i], NULL, WNOHANG) != 0)
			return "a child is gone";
	return NULL;
}

static void report(int64_t gap_ns)
{
	const char *wrong = check();
	char text[128];

	snprintf(text, sizeof(text), "%lld %s%s\n", (long long)gap_ns, wrong ? "BAD: " : "ok",
		 wrong ? wrong : "");
	write_file("report", text);
}

static _Noreturn void measure(const sigset_t *usr1)
{
	const struct timespec tick = {.tv_nsec = TICK_NS};
	int64_t last = now_ns(), largest = 0;

	for (;;) {
		int sig = sigtimedwait(usr1, NULL, &tick);
		int64_t now = now_ns();

		if (now - last > largest)
			largest = now - last;
		last = now;
		if (sig == SIGUSR1) {
			report(largest);
			largest = 0;
			last = now_ns();
		}
	}
}

// Leave terminal, session and descriptors of whoever started us; returns in the grandchild only.
static void go_to_background(int ready[2])
{
	char byte;
	pid_t pid;
	int null;

	if (close_range(3, ~0U, 0) != 0 || pipe2(ready, O_CLOEXEC) != 0)
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid > 0) {
		close(ready[1]);
		exit(read(ready[0], &byte, 1) == 1 ? 0 : 1);
	}
	close(ready[0]);
	null = open("/dev/null", O_RDWR);
	if (setsid() < 0 || null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
		die("background");
	if (null > 2)
		close(null);
	if (chdir("/") != 0)
		die("/");
}

int main(int argc, char **argv)
{
	long nr = argc >= 4 ? strtol(argv[3], NULL, 10) : 0;
	long rate = argc == 5 ? strtol(argv[4], NULL, 10) : 0;
	sigset_t usr1;
	char text[32];
	int ready[2];

	if (nr < 1 || (argc == 5) != (strcmp(argv[2], "writing") == 0)) {
		fprintf(stderr,
			"usage: bench-victim DIR tasks|threads|memory|text NUMBER | writing MIB RATE\n");
		return 2;
	}
	dir = realpath(argv[1], NULL);
	if (!dir)
		die(argv[1]);
	go_to_background(ready);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	if (strcmp(argv[2], "tasks") == 0)
		make_children(nr - 1);
	else if (strcmp(argv[2], "threads") == 0)
		make_threads(nr - 1);
	if (strcmp(argv[2], "text") == 0)
		memory_mask = 0xffff;
	if (strcmp(argv[2], "tasks") != 0 && strcmp(argv[2], "threads") != 0)
		make_memory((size_t)nr << 20);
	if (rate)
		start_writing(rate);
	snprintf(text, sizeof(text), "%d\n", getpid());
	write_file("pid", text);
	if (write(ready[1], "", 1) != 1 || dup2(0, 2) < 0)
		die("ready");
	close(ready[1]);
	measure(&usr1);
}
