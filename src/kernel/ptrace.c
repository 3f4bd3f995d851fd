// SPDX-License-Identifier: Apache-2.0
#include "kernel/ptrace.h"
#include "base/clock.h"

#include <elf.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

enum { /* kernel-internal results of interrupted calls, include/linux/errno.h */
       ERESTARTSYS = 512,
       ERESTARTNOINTR = 513,
       ERESTARTNOHAND = 514,
       ERESTART_RESTARTBLOCK = 516,
};

static long request(long req, pid_t tid, void *addr, void *data)
{
	return syscall(SYS_ptrace, req, tid, addr, data);
}

int pt_seize(pid_t tid, unsigned long options, struct err *err)
{
	/*
	 * Without TRACESYSGOOD a thread whose tracer dies in a system call stop is sent
	 * the SIGTRAP of the stop; with it, signal 133, which does not exist.
	 */
	if (request(PTRACE_SEIZE, tid, NULL, (void *)(options | PTRACE_O_TRACESYSGOOD)) == 0)
		return 0;
	if (errno == EPERM)
		return err_set(err, EPERM,
			       "cannot trace thread %d: not permitted; another tracer (a debugger) has it, "
			       "or CAP_SYS_PTRACE is missing",
			       tid);
	return err_sys(err, "cannot trace thread %d", tid);
}

int pt_interrupt(pid_t tid, struct err *err)
{
	return request(PTRACE_INTERRUPT, tid, NULL, NULL) ?
		       err_sys(err, "cannot stop thread %d", tid) :
		       0;
}

enum {
	YIELDS = 512, /* a few hundred microseconds on an idle machine, when a nap would cost two wake-ups */
	GLANCES = 8,
};

/* Under a real-time policy a thread yields only to its like, and a tracee of the same processor would never get to its stop. */
static bool yields_to_all(void)
{
	int policy = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;

	return policy != SCHED_FIFO && policy != SCHED_RR && policy != SCHED_DEADLINE;
}

/* Sleeps until a tracee has stopped; any, or none: the caller looks. SIGCHLD is blocked. */
static void sleep_till_stop(void)
{
	static const struct timespec limit = {.tv_nsec = 10 * 1000 * 1000};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	(void)sigtimedwait(&set, NULL, &limit);
}

static int look_till_stop(pid_t tid, int timeout_ms, int *status, struct err *err)
{
	static const struct timespec nap = {.tv_nsec = 50 * 1000};
	uint64_t end = 0;
	unsigned int tries = 0;
	bool yields = true;
	pid_t got;

	for (;;) {
		got = waitpid(tid, status, timeout_ms < 0 ? __WALL : __WALL | WNOHANG);
		if (got == tid)
			return 0;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_sys(err, "cannot wait for thread %d", tid);
		if (!end)
			end = clock_us() + (uint64_t)timeout_ms * 1000;
		if (++tries == GLANCES)
			yields = yields_to_all();
		if (tries < YIELDS && yields) {
			sched_yield();
			continue;
		}
		if (clock_us() > end)
			return err_set(err, ETIMEDOUT, "thread %d did not stop within %d ms", tid,
				       timeout_ms);
		if (yields)
			nanosleep(&nap, NULL);
		else
			sleep_till_stop();
	}
}

/* waitpid with a limit: looks again and again at first, since a stop is usually a wake-up away. */
static int wait_status(pid_t tid, int timeout_ms, int *status, struct err *err)
{
	sigset_t child, saved;
	int rc;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	/* before the first look: a signal that is ignored wakes nobody later */
	pthread_sigmask(SIG_BLOCK, &child, &saved);
	rc = look_till_stop(tid, timeout_ms, status, err);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	return rc;
}

int pt_wait(pid_t tid, int timeout_ms, int *sig_out, struct err *err)
{
	int status, sig;

	if (wait_status(tid, timeout_ms, &status, err))
		return -1;
	if (!WIFSTOPPED(status))
		return PT_GONE;
	sig = WSTOPSIG(status);
	if (sig_out)
		*sig_out = sig;
	if (status >> 16 == PTRACE_EVENT_STOP)
		return sig == SIGTRAP ? PT_STOPPED : PT_GROUP_STOPPED;
	if (status >> 16)
		return err_set(err, EPROTO, "thread %d: unexpected ptrace event %d", tid,
			       status >> 16);
	return sig == (SIGTRAP | 0x80) || sig == SIGTRAP ? PT_TRAP : PT_SIGNAL;
}

int pt_wait_stop(pid_t tid, int timeout_ms, int *sig_out, struct err *err)
{
	int stop, sig = 0;

	for (;;) {
		stop = pt_wait(tid, timeout_ms, &sig, err);
		if (stop != PT_SIGNAL && stop != PT_TRAP) {
			if (sig_out)
				*sig_out = sig;
			return stop;
		}
		if (pt_cont(tid, sig, err))
			return err->no == ESRCH ? PT_GONE : -1;
	}
}

int pt_cont(pid_t tid, int sig, struct err *err)
{
	return request(PTRACE_CONT, tid, NULL, (void *)(long)sig) ?
		       err_sys(err, "cannot continue thread %d", tid) :
		       0;
}

int pt_to_syscall(pid_t tid, struct err *err)
{
	return request(PTRACE_SYSCALL, tid, NULL, NULL) ?
		       err_sys(err, "cannot resume thread %d", tid) :
		       0;
}

int pt_await_trap(pid_t tid, struct err *err)
{
	int stop;

	for (;;) {
		stop = pt_wait(tid, 10000, NULL, err);
		if (stop < 0)
			return -1;
		if (stop == PT_TRAP)
			return 0;
		if (stop == PT_GONE)
			return err_set(err, ESRCH, "thread %d ended while it was looked at", tid);
		if (stop == PT_SIGNAL)
			return err_set(err, EINTR,
				       "thread %d got a signal while its signals were blocked", tid);
		if (pt_to_syscall(tid, err))
			return -1;
	}
}

int pt_step_syscall(pid_t tid, struct err *err)
{
	for (int traps = 0; traps < 2; traps++) /* entry and exit */
		if (pt_to_syscall(tid, err) || pt_await_trap(tid, err))
			return -1;
	return 0;
}

int pt_detach(pid_t tid, int sig, struct err *err)
{
	return request(PTRACE_DETACH, tid, NULL, (void *)(long)sig) ?
		       err_sys(err, "cannot let thread %d go", tid) :
		       0;
}

int pt_get_regs(pid_t tid, struct user_regs_struct *regs, struct err *err)
{
	struct iovec iov = {regs, sizeof(*regs)};

	if (request(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &iov))
		return err_sys(err, "cannot read the registers of thread %d", tid);
	if (iov.iov_len != sizeof(*regs))
		return err_set(err, ENOTSUP,
			       "thread %d runs 32-bit code, which ferry does not carry", tid);
	return 0;
}

int pt_set_regs(pid_t tid, const struct user_regs_struct *regs, struct err *err)
{
	struct iovec iov = {(void *)regs, sizeof(*regs)};

	if (request(PTRACE_SETREGSET, tid, (void *)NT_PRSTATUS, &iov))
		return err_sys(err, "cannot set the registers of thread %d", tid);
	return 0;
}

int pt_get_xstate(pid_t tid, void *buf, size_t *bytes, struct err *err)
{
	struct iovec iov = {buf, *bytes};

	if (request(PTRACE_GETREGSET, tid, (void *)NT_X86_XSTATE, &iov))
		return err_sys(err, "cannot read the extended registers of thread %d", tid);
	*bytes = iov.iov_len;
	return 0;
}

int pt_set_xstate(pid_t tid, const void *buf, size_t bytes, struct err *err)
{
	struct iovec iov = {(void *)buf, bytes};

	if (request(PTRACE_SETREGSET, tid, (void *)NT_X86_XSTATE, &iov))
		return err_sys(err, "cannot set the extended registers of thread %d", tid);
	return 0;
}

int pt_get_sigmask(pid_t tid, uint64_t *mask, struct err *err)
{
	if (request(PTRACE_GETSIGMASK, tid, (void *)sizeof(*mask), mask))
		return err_sys(err, "cannot read the signal mask of thread %d", tid);
	return 0;
}

int pt_set_sigmask(pid_t tid, uint64_t mask, struct err *err)
{
	if (request(PTRACE_SETSIGMASK, tid, (void *)sizeof(mask), &mask))
		return err_sys(err, "cannot set the signal mask of thread %d", tid);
	return 0;
}

int pt_peek_signals(pid_t tid, bool process_wide, siginfo_t *info, size_t max, struct err *err)
{
	struct __ptrace_peeksiginfo_args args = {
		.off = 0,
		.flags = process_wide ? PTRACE_PEEKSIGINFO_SHARED : 0,
		.nr = (int)max,
	};
	long n = request(PTRACE_PEEKSIGINFO, tid, &args, info);

	return n < 0 ? err_sys(err, "cannot read the pending signals of thread %d", tid) : (int)n;
}

int pt_get_rseq(pid_t tid, struct pt_rseq *out, struct err *err)
{
	if (request(PTRACE_GET_RSEQ_CONFIGURATION, tid, (void *)sizeof(*out), out) < 0)
		return err_sys(err, "cannot read the rseq registration of thread %d", tid);
	return 0;
}

int pt_syscall(pid_t tid, uint64_t insn, long nr, const uint64_t args[6], int64_t *result_out,
	       struct err *err)
{
	struct user_regs_struct saved, regs;

	if (pt_get_regs(tid, &saved, err))
		return -1;
	regs = saved;
	regs.rip = insn;
	regs.rax = (uint64_t)nr;
	regs.orig_rax = (uint64_t)-1;
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	regs.r8 = args[4];
	regs.r9 = args[5];
	if (pt_set_regs(tid, &regs, err) || pt_step_syscall(tid, err) || pt_get_regs(tid, &regs, err))
		return -1;
	*result_out = (int64_t)regs.rax;
	return pt_set_regs(tid, &saved, err);
}

void pt_restart_regs(struct user_regs_struct *regs, bool same_task)
{
	int64_t nr = (int64_t)regs->orig_rax;

	if (nr < 0)
		return;
	switch (-(int64_t)regs->rax) {
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND:
		regs->rax = (uint64_t)nr;
		break;
	case ERESTART_RESTARTBLOCK:
		regs->rax = same_task ? SYS_restart_syscall : (uint64_t)nr;
		/* The kernel has stored what remains of a relative sleep in *rem. */
		if (!same_task && nr == SYS_nanosleep && regs->rsi)
			regs->rdi = regs->rsi;
		if (!same_task && nr == SYS_clock_nanosleep && regs->r10)
			regs->rdx = regs->r10;
		break;
	default:
		return;
	}
	regs->rip -= 2; /* the length of `syscall` */
	regs->orig_rax = (uint64_t)-1;
}

void pt_hide_interrupt(struct user_regs_struct *regs, bool signals_due)
{
	static const int calls[] = {
		SYS_epoll_wait,   SYS_epoll_pwait,         441 /* epoll_pwait2 */,
		SYS_semop,        SYS_semtimedop,          SYS_rt_sigtimedwait,
		SYS_io_getevents, 333 /* io_pgetevents */, SYS_msgrcv,
		SYS_msgsnd,
	};
	size_t i;

	if (signals_due || (int64_t)regs->rax != -EINTR)
		return;
	for (i = 0; i < ARRAY_SIZE(calls); i++)
		if ((int64_t)regs->orig_rax == calls[i]) {
			regs->rax = regs->orig_rax;
			regs->rip -= 2;
			regs->orig_rax = (uint64_t)-1;
			return;
		}
}
