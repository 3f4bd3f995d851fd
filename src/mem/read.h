// SPDX-License-Identifier: Apache-2.0
/*
 * Reading the memory of a stopped task without changing anything in it.
 */
#ifndef FERRY_MEM_READ_H
#define FERRY_MEM_READ_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/page.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What a task is read through. */
struct task_memory {
	pid_t pid;        /* as we see it */
	int mem, pagemap; /* of /proc/PID; -1: not open */
};

/* Needs the right to trace the task. On failure nothing is left open. */
int task_memory_open(struct task_memory *m, pid_t pid, struct err *err) must_check;
void task_memory_close(struct task_memory *m);

/*
 * Copies @bytes (whole pages, which must be populated) at @addr of the task
 * into @buf: by process_vm_readv(2), which is faster, or through /proc/PID/mem
 * for what the task itself may not read (FOLL_FORCE), and for pages that it
 * shares copy-on-write: pinning such a page would give it a copy of its own.
 */
int task_memory_read(const struct task_memory *m, uint64_t addr, void *buf, size_t bytes,
		     struct err *err) must_check;

#endif
