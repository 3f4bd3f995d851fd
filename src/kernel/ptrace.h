// SPDX-License-Identifier: Apache-2.0
/*
 * ptrace(2), one request a function: with thread ids, units and errors as the
 * rest of ferry has them. Every function works on a thread that we seized;
 * those that read or write state need it stopped.
 */
#ifndef FERRY_KERNEL_PTRACE_H
#define FERRY_KERNEL_PTRACE_H

#include "base/attrs.h"
#include "base/err.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* How a wait ended. */
enum pt_stop {
	PT_STOPPED,       /* in the trap that pt_interrupt asked for */
	PT_GROUP_STOPPED, /* the thread is in a group stop (SIGSTOP and the like); *sig says which */
	PT_SIGNAL,        /* about to get signal *sig */
	PT_TRAP,          /* at the entry or exit of a system call */
	PT_GONE,          /* it ended */
};

/* PTRACE_SEIZE with PTRACE_O_* options; the thread goes on running. err.no is ESRCH if it is gone. */
int pt_seize(pid_t tid, unsigned long options, struct err *err) must_check;
int pt_interrupt(pid_t tid, struct err *err) must_check;

/*
 * Waits for the next stop. @timeout_ms < 0: for ever. Returns an enum pt_stop,
 * or -1 (ETIMEDOUT among others). @sig_out may be NULL.
 */
int pt_wait(pid_t tid, int timeout_ms, int *sig_out, struct err *err) must_check;

/*
 * Waits until the thread is in an interrupt or group stop. Signals that arrive
 * before are delivered. Returns PT_STOPPED, PT_GROUP_STOPPED, PT_GONE or -1.
 */
int pt_wait_stop(pid_t tid, int timeout_ms, int *sig_out, struct err *err) must_check;

int pt_cont(pid_t tid, int sig, struct err *err) must_check;
/* Runs until the entry of the next system call, or its exit; does not wait. pt_wait says PT_TRAP then. */
int pt_to_syscall(pid_t tid, struct err *err) must_check;

/* Waits for the next trap at a system call's entry or exit of a thread that pt_to_syscall() has sent on. */
int pt_await_trap(pid_t tid, struct err *err) must_check;

/*
 * Through the system call that the thread is about to make; waits. Unlike a single
 * step this is safe for a live program: when a tracer dies, the kernel clears the
 * tracing of system calls, but not the trap flag, and a trap without tracer kills;
 * and a trap that is blocked or ignored resets the disposition of SIGTRAP.
 */
int pt_step_syscall(pid_t tid, struct err *err) must_check;
int pt_detach(pid_t tid, int sig, struct err *err) must_check;

int pt_get_regs(pid_t tid, struct user_regs_struct *regs, struct err *err) must_check;
int pt_set_regs(pid_t tid, const struct user_regs_struct *regs, struct err *err) must_check;

enum { PT_XSTATE_MAX_BYTES = 16 * 1024 };
/* The xsave area in its non-compacted form; *bytes in: room, out: size. */
int pt_get_xstate(pid_t tid, void *buf, size_t *bytes, struct err *err) must_check;
int pt_set_xstate(pid_t tid, const void *buf, size_t bytes, struct err *err) must_check;

int pt_get_sigmask(pid_t tid, uint64_t *mask, struct err *err) must_check;
int pt_set_sigmask(pid_t tid, uint64_t mask, struct err *err) must_check;

/* Pending signals in queue order, 128 bytes each. Returns how many (at most @max) or -1. */
int pt_peek_signals(pid_t tid, bool process_wide, siginfo_t *info, size_t max, struct err *err)
	must_check;

/* PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13). pointer is 0 if nothing is registered. */
struct pt_rseq {
	uint64_t pointer;
	uint32_t size, signature, flags, pad;
};
int pt_get_rseq(pid_t tid, struct pt_rseq *out, struct err *err) must_check;

/*
 * One system call through the `syscall` instruction at @insn, by single
 * stepping. Puts the registers back. The thread's signals must be blocked. Not
 * for live programs: if we die in between, the thread goes on with the wrong
 * registers (blob/visit.h is for those).
 */
int pt_syscall(pid_t tid, uint64_t insn, long nr, const uint64_t args[6], int64_t *result_out,
	       struct err *err) must_check;

/*
 * What the kernel does when it leaves an interrupted system call, done to
 * saved registers: the call starts again. Sleeps continue through their restart
 * block while the task lives (@same_task); elsewhere they start again in full, or
 * with the remaining time where the caller's memory holds it.
 */
void pt_restart_regs(struct user_regs_struct *regs, bool same_task);

/*
 * epoll_wait and a few others end with EINTR when a tracer stops them, which a
 * program would notice: makes such a call start again. @signals_due: an
 * unblocked signal is pending, so the EINTR belongs to the program.
 */
void pt_hide_interrupt(struct user_regs_struct *regs, bool signals_due);

#endif
