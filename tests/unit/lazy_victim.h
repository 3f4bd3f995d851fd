// SPDX-License-Identifier: Apache-2.0
/*
 * For the tests of lazy memory: a child whose memory is missing, and that checks what it gets.
 */
#ifndef FERRY_TESTS_LAZY_VICTIM_H
#define FERRY_TESTS_LAZY_VICTIM_H

#include "unit.h"

#include "mem/lazy.h"
#include "mem/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define AREA 0x30000000UL
#define ELSEWHERE 0x50000000UL
enum { PAGES = 1024, LIMIT_MS = 20000, OBJECT = 77 };

/* ---- what memory holds ---- */

static inline void pattern(uint64_t dump, uint64_t *page)
{
	for (size_t i = 0; i < PAGE_BYTES / 8; i++)
		page[i] = (dump + i * 8) * 0x9e3779b97f4a7c15UL + 1;
}

/* Is the page at @at the one that was at @dump? */
static inline bool is_page(uint64_t at, uint64_t dump)
{
	uint64_t want[PAGE_BYTES / 8];

	pattern(dump, want);
	return memcmp((const void *)at, want, PAGE_BYTES) == 0;
}

static inline bool is_zero(uint64_t at)
{
	static const uint8_t zero[PAGE_BYTES];

	return memcmp((const void *)at, zero, PAGE_BYTES) == 0;
}

static inline uint64_t page_addr(size_t i)
{
	return AREA + i * PAGE_BYTES;
}

/* ---- a child whose memory is missing ---- */

struct victim {
	pid_t pid;
	int pidfd, uffd, go;
};

/* @arg: the address of what it runs. */
static inline int child_main(const void *arg, int out, int in)
{
	int (*const *body)(void) = arg;
	void *area = mmap((void *)AREA, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* +2: neither is missing, but holes */
	if (area == MAP_FAILED ||
	    mmap((void *)page_addr(PAGES), 2 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		return 100;
	if (write(out, &fd, sizeof(fd)) != sizeof(fd) || read(in, &c, 1) != 1)
		return 101;
	close(fd);
	return (*body)();
}

/*
 * Forks a child that runs @child: it writes the number of its userfaultfd to @out, and reads from @in before it goes
 * on. v->uffd is ours then, or -1.
 */
static inline void fork_child(struct victim *v, int (*child)(const void *arg, int out, int in),
			      const void *arg)
{
	int out[2], in[2], fd = -1;

	assert_int_equal(pipe(out) | pipe(in), 0);
	v->pid = fork();
	if (v->pid == 0) {
		close(out[0]);
		close(in[1]);
		_exit(child(arg, out[1], in[0]));
	}
	close(out[1]);
	close(in[0]);
	assert_int_equal(read(out[0], &fd, sizeof(fd)), sizeof(fd));
	close(out[0]);
	v->go = in[1];
	v->pidfd = (int)syscall(SYS_pidfd_open, v->pid, 0);
	assert_true(v->pidfd >= 0);
	v->uffd = (int)syscall(SYS_pidfd_getfd, v->pidfd, fd, 0);
}

/* False: no userfaultfd here. */
static inline bool start(struct victim *v, int (*body)(void))
{
	struct err err;

	fork_child(v, child_main, &body);
	if (v->uffd < 0 || uffd_handshake(v->uffd, lazy_uffd_features(), &err) < 0) {
		kill(v->pid, SIGKILL);
		waitpid(v->pid, NULL, 0);
		return false;
	}
	assert_int_equal(uffd_register(v->uffd, AREA, (PAGES + 2) * PAGE_BYTES), 0);
	return true;
}

static inline void let_run(struct victim *v)
{
	assert_int_equal(write(v->go, "", 1), 1);
	close(v->go);
}

static inline int exit_code(const struct victim *v)
{
	int status = 0;

	while (waitpid(v->pid, &status, 0) < 0)
		assert_int_equal(errno, EINTR);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static inline long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline bool ended(const struct victim *v)
{
	struct pollfd p = {.fd = v->pidfd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

/* Serves until the victim has ended, and (@drain) nothing is missing any more. */
static inline void serve(struct lazy *z, const struct victim *v)
{
	long end = now_ms() + LIMIT_MS;
	struct err err;

	while (!ended(v)) {
		if (lazy_step(z, v->pidfd, 100, &err) < 0)
			fail_msg("%s", err.text);
		if (now_ms() > end) {
			kill(v->pid, SIGKILL);
			fail_msg("the victim waits for ever");
		}
	}
}

#endif
