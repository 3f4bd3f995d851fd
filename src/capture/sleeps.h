// SPDX-License-Identifier: Apache-2.0
/*
 * Sleeps that were interrupted more than once.
 *
 * A sleep with a timeout that a stop interrupts goes on, when the thread runs again, as
 * restart_syscall(2): the number of the call that it was is gone from the registers, and what it waits for
 * is known to the kernel alone. A snapshot that is made at the next stop would hold a restart_syscall
 * that nothing can restart: EINTR after a restore. All else is as it was, since a system call
 * leaves its arguments in their registers.
 *
 * So each stop of ours notes the numbers that it sees, and a later stop finds them. For threads that
 * others stopped before us (a debugger, a shell's job control, CRIU) there is the code: libc's wrappers load
 * the number by the instruction before `syscall`.
 */
#ifndef FERRY_CAPTURE_SLEEPS_H
#define FERRY_CAPTURE_SLEEPS_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/vec.h"

#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* What a thread was in when it was stopped first. */
struct sleep_note {
	pid_t tid;
	uint64_t start_time; /* of the thread, clock ticks: ids come back */
	uint64_t nr, ip, sp, args[6];
};

struct sleeps {
	VEC(struct sleep_note) notes; /* sorted by tid */
};

/*
 * For each stop of each thread: @regs are those of a thread in the trap of an interrupt. Notes the number of
 * the call if it is one that will go on as restart_syscall; puts the noted number into @regs (orig_rax)
 * if that is what it goes on as; forgets the thread if it does something else. @mem_fd is /proc/PID/mem.
 * The kernel is not told: which number a thread has there does not matter to it. -1: out of memory.
 */
int sleeps_settle(struct sleeps *s, pid_t tid, int mem_fd, struct user_regs_struct *regs,
		  struct err *err) must_check;

/* Adds a note that comes from elsewhere; notes of one thread replace each other. */
int sleeps_add(struct sleeps *s, const struct sleep_note *note, struct err *err) must_check;

void sleeps_finish(struct sleeps *s);

#endif
