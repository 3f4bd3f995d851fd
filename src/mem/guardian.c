// SPDX-License-Identifier: Apache-2.0
/*
 * The guardian's own code runs in a child of a process that may have threads:
 * it allocates nothing and calls nothing that takes a lock.
 */
#include "mem/guardian.h"

#include "kernel/proc.h"
#include "mem/uffd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef UFFDIO_POISON /* Linux 6.6 */
struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

enum {
	MAX_TASKS = 1 << 15,
	MAX_UFFDS = 1 << 12,
	PID_LIMIT = 1 << 22, /* of the kernel */
	PROBE_MS = 50,
};

/* Shared between the two processes; sparse. */
struct shared {
	atomic_bool finished;
	atomic_uint n_tasks;          /* slots used at least once */
	_Atomic int pidfd[MAX_TASKS]; /* -1: free */
	/* the guardian's own */
	struct pollfd uffd[MAX_UFFDS];
	uint8_t doomed[PID_LIMIT / 8];
	char buf[32768];
};

struct guardian {
	struct shared *sh;
	enum guardian_policy policy;
	int owner_fd; /* pidfd of the process that is guarded */
	pid_t pid;
	/* where the command line of the process is, and how long one can be */
	char *title;
	size_t title_room;
};

/* ---- the guardian: killing ---- */

/* The beginning of a small file of /proc, as text; false: whose it is has ended. */
static bool read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, text, size - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	return true;
}

/* "Pid:" of a pidfd, in our namespace; -1: it has ended. */
static pid_t pid_of(int pidfd)
{
	char path[48], text[512];
	const char *line;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	if (!read_text(path, text, sizeof(text)))
		return -1;
	line = strstr(text, "\nPid:\t");
	return line ? (pid_t)atoi(line + 6) : -1;
}

static bool doomed(const struct shared *sh, long pid)
{
	return pid > 0 && pid < PID_LIMIT && sh->doomed[pid / 8] & 1 << pid % 8;
}

static void doom(struct shared *sh, long pid)
{
	if (pid > 0 && pid < PID_LIMIT)
		sh->doomed[pid / 8] |= (uint8_t)(1 << pid % 8);
}

static long parent_of(const char *pid)
{
	char path[300], text[512];
	const char *end;

	snprintf(path, sizeof(path), "/proc/%s/stat", pid);
	if (!read_text(path, text, sizeof(text)))
		return -1;
	end = strrchr(text, ')');
	return end && strlen(end) > 4 ? atol(end + 4) : -1;
}

struct dirent_image { /* getdents64 */
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

/* Calls @fn with the name of every numeric entry of a directory of /proc. */
static void each_number(struct shared *sh, const char *dir,
			void (*fn)(struct shared *sh, const char *name, void *arg), void *arg)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n;

	if (fd < 0)
		return;
	while ((n = syscall(SYS_getdents64, fd, sh->buf, sizeof(sh->buf))) > 0)
		for (long at = 0; at < n;) {
			const struct dirent_image *d = (const void *)(sh->buf + at);

			if (d->name[0] >= '0' && d->name[0] <= '9')
				fn(sh, d->name, arg);
			at += d->reclen;
		}
	close(fd);
}

static void doom_child(struct shared *sh, const char *name, void *arg)
{
	bool *more = arg;
	long pid = atol(name);

	if (!doomed(sh, pid) && pid != getpid() && doomed(sh, parent_of(name))) {
		doom(sh, pid);
		*more = true;
	}
}

static void kill_doomed(struct shared *sh, const char *name, void *arg)
{
	if (doomed(sh, atol(name)))
		kill((pid_t)atol(name), SIGKILL);
}

/* The tasks that we know, and whatever they have forked: that is known by nobody. */
static void kill_tree(struct shared *sh)
{
	unsigned int n = atomic_load(&sh->n_tasks);
	bool more = true;

	for (unsigned int i = 0; i < n; i++) {
		int fd = atomic_load(&sh->pidfd[i]);

		if (fd >= 0)
			doom(sh, pid_of(fd));
	}
	while (more) {
		more = false;
		each_number(sh, "/proc", doom_child, &more);
	}
	for (unsigned int i = 0; i < n; i++) {
		int fd = atomic_load(&sh->pidfd[i]);

		if (fd >= 0)
			syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
	}
	each_number(sh, "/proc", kill_doomed, NULL);
}

/* ---- the guardian: userfaultfds ---- */

struct uffd_list {
	unsigned int n;
};

static void note_uffd(struct shared *sh, const char *name, void *arg)
{
	struct uffd_list *list = arg;
	char path[300], target[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%s", name);
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0 || list->n == MAX_UFFDS)
		return;
	target[n] = 0;
	if (strcmp(target, "anon_inode:[userfaultfd]") == 0)
		sh->uffd[list->n++] = (struct pollfd){.fd = atoi(name), .events = POLLIN};
}

/* A thread needs what will never come. */
static void poison(int uffd, uint64_t addr)
{
	struct uffdio_poison p = {.range = {addr & ~(PAGE_BYTES - 1), PAGE_BYTES}};

	if (ioctl(uffd, UFFDIO_POISON, &p) < 0 && errno == EEXIST)
		ioctl(uffd, UFFDIO_WAKE, &p.range);
}

/* Forks and unmaps wait for us to read of them. */
static void read_events(const struct guardian *g, int uffd)
{
	struct uffd_msg msg;

	/* it may be in blocking mode when the first process had not had time */
	fcntl(uffd, F_SETFL, O_NONBLOCK);
	while (read(uffd, &msg, sizeof(msg)) == sizeof(msg))
		if (msg.event == UFFD_EVENT_PAGEFAULT && g->policy == GUARDIAN_KILL)
			poison(uffd, msg.arg.pagefault.address);
}

/* Until no space is left that could see a page of zeros. */
static void hold_spaces(const struct guardian *g)
{
	struct shared *sh = g->sh;

	for (;;) {
		struct uffd_list list = {0};

		each_number(sh, "/proc/self/fd", note_uffd, &list);
		if (!list.n)
			return;
		for (unsigned int i = 0; i < list.n; i++) {
			read_events(g, sh->uffd[i].fd);
			if (!uffd_space_lives(sh->uffd[i].fd))
				close(sh->uffd[i].fd);
		}
		for (unsigned int i = 0; i < list.n; i++)
			sh->uffd[i].revents = 0;
		poll(sh->uffd, list.n, PROBE_MS);
	}
}

static void guardian_main(const struct guardian *g)
{
	struct pollfd owner = {.fd = g->owner_fd, .events = POLLIN};

	while (poll(&owner, 1, -1) <= 0)
		;
	if (atomic_load(&g->sh->finished))
		return;
	if (g->policy == GUARDIAN_KILL)
		kill_tree(g->sh);
	hold_spaces(g);
}

/* ---- the owner's side ---- */

static const char guardian_name[] = "ferry-guardian";

/*
 * Its own name, in /proc/PID/comm and in /proc/PID/cmdline: who ends the first process by its name
 * must not take this one with it. proc(5): a title that does not end where the arguments did goes on
 * in the space of the environment.
 */
static void take_name(const struct guardian *g)
{
	prctl(PR_SET_NAME, guardian_name);
	if (g->title_room < sizeof(guardian_name))
		return;
	memset(g->title, 0, g->title_room);
	memcpy(g->title, guardian_name, sizeof(guardian_name));
}

/* Before the fork: afterwards nothing may be called that allocates. */
static void find_title(struct guardian *g)
{
	struct proc_stat st;
	struct err ignored;

	if (proc_stat(getpid(), &st, &ignored) < 0 || !st.arg_start)
		return;
	g->title = (char *)(uintptr_t)st.arg_start;
	g->title_room = (st.env_start == st.arg_end ? st.env_end : st.arg_end) - st.arg_start;
}

static int start(struct guardian *g, struct err *err)
{
	sigset_t all, old;
	pid_t pid;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* nothing but SIGKILL ends it */
	pid = (pid_t)syscall(SYS_clone, CLONE_FILES, 0, 0, 0, 0);
	if (pid == 0) {
		take_name(g);
		setsid(); /* what is meant for our group must not reach it */
		guardian_main(g);
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return err_sys(err, "cannot start the guardian of the lazy memory");
	g->pid = pid;
	return 0;
}

struct guardian *guardian_start(enum guardian_policy policy, struct err *err)
{
	struct guardian *g = calloc(1, sizeof(*g));

	if (!g) {
		err_nomem(err);
		return NULL;
	}
	g->policy = policy;
	find_title(g);
	g->sh = mmap(NULL, sizeof(*g->sh), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	g->owner_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (g->sh == MAP_FAILED || g->owner_fd < 0) {
		err_sys(err, "cannot prepare the guardian of the lazy memory");
		if (g->sh != MAP_FAILED)
			munmap(g->sh, sizeof(*g->sh));
		free(g);
		return NULL;
	}
	if (start(g, err) == 0)
		return g;
	guardian_end(g);
	return NULL;
}

int guardian_watch(struct guardian *g, int pidfd, struct err *err)
{
	unsigned int i, n = atomic_load(&g->sh->n_tasks);

	for (i = 0; i < n && atomic_load(&g->sh->pidfd[i]) >= 0; i++)
		;
	if (i == MAX_TASKS)
		return err_set(err, ENOSPC, "more than %d tasks with missing pages", MAX_TASKS);
	atomic_store(&g->sh->pidfd[i], pidfd);
	if (i == n)
		atomic_store(&g->sh->n_tasks, n + 1);
	return 0;
}

void guardian_forget(struct guardian *g, int pidfd)
{
	for (unsigned int i = 0; i < atomic_load(&g->sh->n_tasks); i++)
		if (atomic_load(&g->sh->pidfd[i]) == pidfd)
			atomic_store(&g->sh->pidfd[i], -1);
}

int guardian_check(struct guardian *g, struct err *err)
{
	pid_t got = waitpid(g->pid, NULL, __WALL | WNOHANG);

	if (got == 0 || (got < 0 && errno == EINTR))
		return 0;
	return start(g, err);
}

pid_t guardian_pid(const struct guardian *g)
{
	return g->pid;
}

void guardian_end(struct guardian *g)
{
	if (!g)
		return;
	atomic_store(&g->sh->finished, true);
	if (g->pid > 0) {
		kill(g->pid, SIGKILL);
		while (waitpid(g->pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	close(g->owner_fd);
	munmap(g->sh, sizeof(*g->sh));
	free(g);
}
