// SPDX-License-Identifier: Apache-2.0
#include "kernel/callwatch.h"

#include "base/io.h"
#include "kernel/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	MAX_THREADS = 256, /* each takes a descriptor */
	MAX_PASSES = 20,   /* over the threads, as long as there are new ones */
	FILTER_BYTES = 512,
};

/* tracefs need not be mounted, and our mount of it has no name. -1: there is none. */
static int open_tracefs(void)
{
	cleanup_close int fs = (int)syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC);

	if (fs >= 0 && syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		return (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	return -1;
}

/* The number of the tracepoint; -1. */
static long sys_exit_id(void)
{
	cleanup_close int root = open_tracefs();
	cleanup_close int fd = -1;
	char text[32] = "";

	if (root < 0)
		return -1;
	fd = openat(root, "events/raw_syscalls/sys_exit/id", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return -1;
	return strtol(text, NULL, 10);
}

/* "id==9||id==11"; false: too long. */
static bool make_filter(char out[FILTER_BYTES], const int *calls, size_t n)
{
	size_t at = 0;

	for (size_t i = 0; i < n && at < FILTER_BYTES; i++)
		at += (size_t)snprintf(out + at, FILTER_BYTES - at, "%sid==%d", i ? "||" : "",
				       calls[i]);
	return n && at < FILTER_BYTES;
}

/* 0; 1: the thread has ended; -1. */
static int watch_thread(struct call_watch *w, pid_t tid, long id, const char *filter)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT,
				       .size = sizeof(attr),
				       .config = (uint64_t)id,
				       .disabled = 1,
				       .inherit = 1};
	cleanup_close int fd = (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1,
					    PERF_FLAG_FD_CLOEXEC);

	if (fd < 0)
		return errno == ESRCH ? 1 : -1;
	/* not before the filter is there: else the first call counts, whatever it is */
	if (ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter) < 0 ||
	    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) < 0 || !vec_push(&w->events, fd))
		return -1;
	(void)steal_fd(&fd);
	return 0;
}

static bool is_known(const proc_pids *known, pid_t tid)
{
	vec_foreach (t, known) {
		if (*t == tid)
			return true;
	}
	return false;
}

/* Threads that are not watched yet. How many there were, or -1. */
static int watch_new(struct call_watch *w, pid_t pid, proc_pids *known, long id, const char *filter)
{
	proc_pids now = {0};
	struct err ignored;
	int rc = proc_threads(pid, &now, &ignored), n = 0;

	vec_foreach (t, &now) {
		if (rc < 0 || is_known(known, *t))
			continue;
		rc = known->n < MAX_THREADS && vec_push(known, *t) ? watch_thread(w, *t, id, filter) :
								     -1;
		n++;
	}
	vec_free(&now);
	return rc < 0 ? -1 : n;
}

int call_watch_open(struct call_watch *w, pid_t pid, const int *calls, size_t n)
{
	char filter[FILTER_BYTES];
	proc_pids known = {0};
	long id = sys_exit_id();
	int fresh = -1;

	memset(w, 0, sizeof(*w));
	/* one that is made by a thread that is not watched yet is in the next list */
	if (id > 0 && make_filter(filter, calls, n)) {
		for (int pass = 0; pass < MAX_PASSES && fresh != 0; pass++) {
			fresh = watch_new(w, pid, &known, id, filter);
			if (fresh < 0)
				break;
		}
	}
	vec_free(&known);
	if (fresh == 0)
		return 0;
	call_watch_close(w);
	return 1;
}

void call_watch_close(struct call_watch *w)
{
	vec_foreach (fd, &w->events)
		close(*fd);
	vec_free(&w->events);
}

uint64_t call_watch_count(const struct call_watch *w)
{
	uint64_t sum = 0, one;

	if (!w->events.n)
		return UINT64_MAX;
	vec_foreach (fd, &w->events) {
		if (read(*fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
			return UINT64_MAX;
		sum += one;
	}
	return sum;
}
