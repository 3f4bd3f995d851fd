// SPDX-License-Identifier: Apache-2.0
/*
 * core-TID.img: state of threads.
 */
#define LOG_MODULE "images"
#include "snapshot/verify.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

enum {
	N_SIGACTIONS = 62, /* signals 1..64 without SIGKILL and SIGSTOP */
	N_RLIMITS = 16,
	SIGINFO_BYTES = 128,
	COMM_MAX = 15,
	N_SIGNALS = 64,
	NGROUPS_LIMIT = 65536,
	CAP_WORDS = 2,
	AFFINITY_MAX = 1024, /* bytes of a set of CPUs: more than any kernel has */
};

/* A thread being looked at. */
struct thread {
	const struct snapshot *snap;
	const struct snap_task *task;
	const CoreEntry *core;
	uint32_t tid;
};

static int bad(const struct thread *t, struct err *err, const char *what)
{
	return err_set(err, EINVAL, "core-%u.img: %s", t->tid, what);
}

static int refuse(const struct thread *t, struct err *err, const char *what)
{
	return err_set(err, EOPNOTSUPP, "core-%u.img: %s", t->tid, what);
}

static int verify_signals(const struct thread *t, const SignalQueueEntry *queue, struct err *err)
{
	for (size_t i = 0; queue && i < queue->n_signals; i++)
		if (queue->signals[i]->siginfo.len != SIGINFO_BYTES)
			return bad(t, err, "a pending signal does not have 128 bytes of siginfo");
	return 0;
}

static int verify_comm(const struct thread *t, const char *comm, struct err *err)
{
	return comm && strlen(comm) > COMM_MAX ? bad(t, err, "comm is longer than 15 characters") : 0;
}

static int verify_seccomp(const struct thread *t, bool has_mode, SeccompMode mode, struct err *err)
{
	if (!has_mode || mode == SECCOMP_MODE__disabled)
		return 0;
	return err_set(err, EOPNOTSUPP,
		       "core-%u.img: thread %u of pid %u has a seccomp %s; seccomp is not supported",
		       t->tid, t->tid, t->task->ps->pid,
		       mode == SECCOMP_MODE__filter ? "filter" : "mode of its own");
}

/* Where the tree was in the hierarchy of control groups is not restored; that is not silent. */
static void mention_cgroup(const struct thread *t, bool has_set, uint32_t set)
{
	const InventoryEntry *inv = t->snap->inventory;

	if (has_set && inv->has_root_cg_set && set != inv->root_cg_set)
		log_warn("core-%u.img: thread %u was in a control group of its own; it is restored "
			 "into the one of ferry",
			 t->tid, t->tid);
}

/* ---- registers ---- */

/* A part of the xsave area is absent or complete. */
static bool part_ok(size_t n, size_t whole)
{
	return n == 0 || n == whole;
}

static int verify_xsave(const struct thread *t, const UserX86XsaveEntry *x, struct err *err)
{
	if (!part_ok(x->n_ymmh_space, 64) || !part_ok(x->n_bndreg_state, 8) ||
	    !part_ok(x->n_bndcsr_state, 8) || !part_ok(x->n_opmask_reg, 8) ||
	    !part_ok(x->n_zmm_upper, 64) || !part_ok(x->n_hi16_zmm, 128) || !part_ok(x->n_pkru, 2))
		return bad(t, err, "a part of the xsave area has the wrong size");
	if (x->cet && x->cet->cet)
		return refuse(t, err,
			      "the thread has a shadow stack; shadow stacks are not supported: run the "
			      "program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off");
	return 0;
}

static int verify_registers(const struct thread *t, struct err *err)
{
	const ThreadInfoX86 *info = t->core->thread_info;

	if (!info)
		return bad(t, err, "thread_info (the registers) is missing");
	if (info->gpregs->has_mode && info->gpregs->mode != USER_X86_REGS_MODE__NATIVE)
		return refuse(t, err, "32-bit programs are not supported");
	if (info->fpregs->n_st_space != 32 || info->fpregs->n_xmm_space != 64)
		return bad(t, err, "st_space must have 32 words and xmm_space 64");
	return info->fpregs->xsave ? verify_xsave(t, info->fpregs->xsave, err) : 0;
}

/* ---- per thread ---- */

/* A security label that means something where it was dumped. */
static bool has_label(const struct thread *t, const char *label)
{
	return label && *label && strcmp(label, "unconfined") != 0 &&
	       t->snap->inventory->has_lsmtype && t->snap->inventory->lsmtype != LSMTYPE__NO_LSM;
}

static int verify_creds(const struct thread *t, const CredsEntry *c, struct err *err)
{
	if (!c)
		return bad(t, err, "creds are missing");
	if (c->n_cap_inh > CAP_WORDS || c->n_cap_prm > CAP_WORDS || c->n_cap_eff > CAP_WORDS ||
	    c->n_cap_bnd > CAP_WORDS || c->n_cap_amb > CAP_WORDS)
		return bad(t, err, "a set of capabilities has more than 64 bits");
	if (c->n_groups > NGROUPS_LIMIT)
		return bad(t, err, "there are more than 65536 groups");
	if (has_label(t, c->lsm_profile) || has_label(t, c->lsm_sockcreate))
		return err_set(err, EOPNOTSUPP,
			       "core-%u.img: thread %u is confined by a security module (%s); that is not "
			       "supported",
			       t->tid, t->tid,
			       has_label(t, c->lsm_profile) ? c->lsm_profile : c->lsm_sockcreate);
	return 0;
}

static int verify_thread(const struct thread *t, struct err *err)
{
	const ThreadCoreEntry *tc = t->core->thread_core;

	if (t->core->mtype != CORE_ENTRY__MARCH__X86_64)
		return refuse(t, err, "the image is of another architecture than x86_64");
	if (!tc)
		return bad(t, err, "thread_core is missing");
	if (verify_registers(t, err) || verify_creds(t, tc->creds, err) ||
	    verify_signals(t, tc->signals_p, err) || verify_comm(t, tc->comm, err))
		return -1;
	if (tc->has_ferry_affinity && tc->ferry_affinity.len > AFFINITY_MAX)
		return bad(t, err, "the set of CPUs is too long");
	mention_cgroup(t, tc->has_cg_set, tc->cg_set);
	return verify_seccomp(t, tc->has_seccomp_mode, tc->seccomp_mode, err);
}

/* ---- per process ---- */

static int verify_tc(const struct thread *t, const TaskCoreEntry *tc, struct err *err)
{
	if (tc->task_state != TASK_ALIVE && tc->task_state != TASK_DEAD &&
	    tc->task_state != TASK_STOPPED)
		return err_set(err, EINVAL, "core-%u.img: task_state %u is not known", t->tid,
			       tc->task_state);
	if (verify_comm(t, tc->comm, err))
		return -1;
	if (tc->task_state == TASK_DEAD)
		return 0;
	if (!tc->timers || !tc->rlimits)
		return bad(t, err, "timers or rlimits are missing: too old an image");
	if (tc->rlimits->n_rlimits > N_RLIMITS)
		return bad(t, err, "there are more than 16 resource limits");
	if (tc->n_sigactions != N_SIGACTIONS)
		return err_set(err, EINVAL, "core-%u.img: there are %zu signal actions, not 62",
			       t->tid, tc->n_sigactions);
	if (tc->has_stop_signo && tc->stop_signo > N_SIGNALS)
		return bad(t, err, "stop_signo is no signal");
	for (size_t i = 0; i < tc->n_sigactions; i++)
		if (tc->sigactions[i]->compat_sigaction)
			return refuse(t, err, "32-bit programs are not supported");
	mention_cgroup(t, tc->has_cg_set, tc->cg_set);
	if (verify_seccomp(t, tc->has_old_seccomp_mode, tc->old_seccomp_mode, err))
		return -1;
	return verify_signals(t, tc->signals_s, err);
}

int verify_cores(const struct snapshot *snap, const struct snap_task *task, struct err *err)
{
	struct thread t = {snap, task, task->core[0], task->ps->pid};

	if (verify_tc(&t, t.core->tc, err))
		return -1;
	if (t.core->tc->task_state == TASK_DEAD)
		return 0;
	for (size_t i = 0; i < task->n_threads; i++) {
		t.core = task->core[i];
		t.tid = task->ps->threads[i];
		if (i && (t.core->tc || t.core->ids))
			return bad(&t, err, "the core of a thread has parts of a process (tc, ids)");
		if (verify_thread(&t, err))
			return -1;
	}
	return 0;
}
