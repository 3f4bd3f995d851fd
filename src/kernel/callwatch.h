// SPDX-License-Identifier: Apache-2.0
/*
 * Has a running process made certain system calls since? Without stopping it, and without a cost
 * for its calls that one could notice: perf_event_open(2) counts for each of its threads how often
 * the tracepoint raw_syscalls:sys_exit is passed with one of their numbers. At the end of a call, so that one
 * that had begun before is counted, too. Threads that are made later count as those that made them.
 *
 * Calls of other processes on its behalf (ptrace, process_madvise), or as 32-bit code (int $0x80), are not seen.
 */
#ifndef FERRY_KERNEL_CALLWATCH_H
#define FERRY_KERNEL_CALLWATCH_H

#include "base/attrs.h"
#include "base/vec.h"

#include <stdint.h>
#include <sys/types.h>

struct call_watch {
	VEC(int) events; /* one for each thread */
};

/*
 * From now on the calls with these numbers are counted. 0; 1: that is not possible here (it takes tracefs, CAP_SYS_ADMIN
 * or CAP_PERFMON, and not too many threads), and *w is empty. The first watch of a system takes some ten
 * milliseconds, and so does the end of the last one.
 */
int call_watch_open(struct call_watch *w, pid_t pid, const int *calls, size_t n) must_check;
void call_watch_close(struct call_watch *w); /* an empty one, too */

/* How many there were, at least: exact when the process stands. UINT64_MAX: it is not known. */
uint64_t call_watch_count(const struct call_watch *w);

#endif
