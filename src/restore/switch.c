// SPDX-License-Identifier: Apache-2.0
/*
 * From the blob to the program. Every thread is stopped with ptrace; one
 * thread a process unmaps the region, through the `syscall` instruction of the
 * vdso; registers and signal masks are set; and at the commit all are let go.
 * Requests go to all threads before the first wait: a wake-up costs more than a request.
 */
#include "restore/session.h"

#include "kernel/ptrace.h"
#include "kernel/xstate.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

enum { STOP_TIMEOUT_MS = 10000 };

static int each_thread(struct restore_session *s,
		       int (*fn)(struct restore_session *, struct rslot *, struct err *),
		       struct err *err)
{
	vec_foreach (rp, &s->slots) {
		const struct rtask *t = (*rp)->task;

		if (t->zombie || !t->snap)
			continue;
		if (fn(s, *rp, err) < 0)
			return task_wrap(t, err);
	}
	return 0;
}

static int seize(struct restore_session *s, struct rslot *rs, struct err *err)
{
	if (rs->thread != 0 && pt_seize(rs->tid, PTRACE_O_EXITKILL, err) < 0)
		return -1;
	return pt_interrupt(rs->tid, err);
}

static int await_stop(struct restore_session *s, struct rslot *rs, struct err *err)
{
	int sig, stop = pt_wait(rs->tid, STOP_TIMEOUT_MS, &sig, err);

	if (stop < 0)
		return -1;
	if (stop == PT_STOPPED)
		return 0;
	return err_set(err, EPROTO, "thread %d did not stop as it should (%s %d)", rs->tid,
		       stop == PT_GONE ? "it ended" : "signal", sig);
}

int switch_stop(struct restore_session *s, struct err *err)
{
	return each_thread(s, seize, err) < 0 ? -1 : each_thread(s, await_stop, err);
}

/* ---- the region goes ---- */

static int start_unmap(struct restore_session *s, struct rslot *rs, struct err *err)
{
	struct user_regs_struct regs;

	if (rs->thread != 0)
		return 0;
	if (pt_get_regs(rs->tid, &regs, err) < 0)
		return -1;
	regs.rip = space_syscall_insn(s, rs->task);
	regs.rax = SYS_munmap;
	regs.orig_rax = (uint64_t)-1;
	regs.rdi = (uintptr_t)s->region;
	regs.rsi = s->mapped_bytes;
	if (pt_set_regs(rs->tid, &regs, err) < 0)
		return -1;
	/* No single step: its SIGTRAP, blocked, would reset the program's disposition of it. */
	return pt_to_syscall(rs->tid, err);
}

static int await_trap(struct rslot *rs, struct err *err)
{
	int sig = 0, stop = pt_wait(rs->tid, STOP_TIMEOUT_MS, &sig, err);

	if (stop < 0)
		return -1;
	if (stop != PT_TRAP)
		return err_set(err, EPROTO, "thread %d did not return from munmap (signal %d)",
			       rs->tid, sig);
	return 0;
}

/* From its entry, where the first stop is, to its exit. */
static int continue_unmap(struct restore_session *s, struct rslot *rs, struct err *err)
{
	if (rs->thread != 0)
		return 0;
	return await_trap(rs, err) < 0 ? -1 : pt_to_syscall(rs->tid, err);
}

static int finish_unmap(struct restore_session *s, struct rslot *rs, struct err *err)
{
	struct user_regs_struct regs;

	if (rs->thread != 0)
		return 0;
	if (await_trap(rs, err) < 0)
		return -1;
	if (pt_get_regs(rs->tid, &regs, err) < 0)
		return -1;
	if (regs.rax)
		return err_sysno(err, (int)-(int64_t)regs.rax, "cannot unmap the region");
	return 0;
}

/* ---- registers ---- */

static struct user_regs_struct program_regs(const UserX86RegsEntry *g)
{
	return (struct user_regs_struct){
		.r15 = g->r15,
		.r14 = g->r14,
		.r13 = g->r13,
		.r12 = g->r12,
		.rbp = g->bp,
		.rbx = g->bx,
		.r11 = g->r11,
		.r10 = g->r10,
		.r9 = g->r9,
		.r8 = g->r8,
		.rax = g->ax,
		.rcx = g->cx,
		.rdx = g->dx,
		.rsi = g->si,
		.rdi = g->di,
		.orig_rax = (uint64_t)-1, /* whatever it was in is restarted by its registers already */
		.rip = g->ip,
		.cs = g->cs,
		.eflags = g->flags,
		.rsp = g->sp,
		.ss = g->ss,
		.fs_base = g->fs_base,
		.gs_base = g->gs_base,
		.ds = g->ds,
		.es = g->es,
		.fs = g->fs,
		.gs = g->gs,
	};
}

/* The mask of the leader is with the process, the others' with the thread. */
static uint64_t program_sigmask(const struct rslot *rs)
{
	const CoreEntry *first = rs->task->snap->core[0], *own = rs->task->snap->core[rs->thread];

	if (rs->thread != 0 && own->thread_core->has_blk_sigset)
		return own->thread_core->blk_sigset;
	return first->tc->blk_sigset;
}

static int set_registers(struct restore_session *s, struct rslot *rs, struct err *err)
{
	const ThreadInfoX86 *ti = rs->task->snap->core[rs->thread]->thread_info;
	struct user_regs_struct regs = program_regs(ti->gpregs);
	uint8_t xsave[XSTATE_MAX_BYTES];
	size_t bytes = xstate_bytes();

	if (bytes > sizeof(xsave))
		return err_set(err, ENOTSUP,
			       "the extended registers of this machine take %zu bytes", bytes);
	if (xstate_from_fpregs(ti->fpregs, xsave, bytes, err) < 0 ||
	    pt_set_xstate(rs->tid, xsave, bytes, err) < 0 || pt_set_regs(rs->tid, &regs, err) < 0)
		return -1;
	return pt_set_sigmask(rs->tid, program_sigmask(rs), err);
}

int switch_registers(struct restore_session *s, struct err *err)
{
	if (each_thread(s, start_unmap, err) < 0 || each_thread(s, continue_unmap, err) < 0 ||
	    each_thread(s, finish_unmap, err) < 0)
		return -1;
	return each_thread(s, set_registers, err);
}

/* ---- go ---- */

/*
 * A stop signal that is pending when the tracer goes is taken before the
 * thread returns to user mode, so a task that shall be stopped never runs.
 */
static int let_go(struct restore_session *s, struct rslot *rs, struct err *err)
{
	bool stopped = rs->task->snap->core[0]->tc->task_state == TASK_STOPPED ||
		       s->opt.leave_stopped;

	if (rs->thread == 0 && stopped && kill(rs->tid, SIGSTOP) < 0)
		return err_sys(err, "cannot leave the task stopped");
	return pt_detach(rs->tid, 0, err);
}

/* Init runs all the time, and can be let go only from a stop. */
static int let_init_go(struct restore_session *s, struct err *err)
{
	int sig;

	if (!s->init_pid)
		return 0;
	if (pt_interrupt(s->init_pid, err) < 0 ||
	    pt_wait_stop(s->init_pid, STOP_TIMEOUT_MS, &sig, err) < 0)
		return -1;
	return pt_detach(s->init_pid, 0, err);
}

int switch_go(struct restore_session *s, struct err *err)
{
	return each_thread(s, let_go, err) < 0 ? -1 : let_init_go(s, err);
}
