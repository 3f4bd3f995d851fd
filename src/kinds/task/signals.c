// SPDX-License-Identifier: Apache-2.0
/*
 * Signal dispositions and pending signals.
 */
#include "kernel/proc.h"
#include "kernel/ptrace.h"
#include "kinds/task/task.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

enum { N_SIGNALS = 64, N_SIGACTIONS = 62, MAX_PENDING = 4096, SIGINFO_BYTES = 128 };

/* What rt_sigaction(2) takes. */
struct kernel_sigaction {
	uint64_t handler, flags, restorer, mask;
};

/* Signals in the order of the image: 1..64 without SIGKILL and SIGSTOP. */
static int signal_at(int index)
{
	int sig = index + 1;

	sig += sig >= SIGKILL;
	sig += sig >= SIGSTOP;
	return sig;
}

static int sigaction_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
			   struct task_query *q, struct err *err)
{
	int i;

	q->data = script_data(s, NULL, N_SIGACTIONS * sizeof(struct kernel_sigaction));
	for (i = 0; i < N_SIGACTIONS; i++)
		script_call(s, "read a signal's disposition", SYS_rt_sigaction, SV(signal_at(i)),
			    SV(0), SV(q->data + (uint64_t)i * sizeof(struct kernel_sigaction)),
			    SV(8));
	return 0;
}

static int sigaction_collect(struct capture *c, struct task_facts *t, size_t thread,
			     const struct script *s, const struct task_query *q, struct err *err)
{
	const struct kernel_sigaction *sa = script_ptr(s, q->data);
	TaskCoreEntry *tc = t->snap->core[0]->tc;
	int i;

	tc->n_sigactions = N_SIGACTIONS;
	tc->sigactions = arena_array(&c->snap->arena, SaEntry *, N_SIGACTIONS);
	for (i = 0; tc->sigactions && i < N_SIGACTIONS; i++) {
		SaEntry *e = snap_new(c->snap, SaEntry, sa_entry);

		if (!e)
			return err_nomem(err);
		e->sigaction = sa[i].handler;
		e->flags = sa[i].flags;
		e->restorer = sa[i].restorer;
		e->mask = sa[i].mask;
		tc->sigactions[i] = e;
	}
	return tc->sigactions ? 0 : err_nomem(err);
}

static int sigaction_emit(struct restore *r, const struct snap_task *t, size_t thread,
			  struct script *s, struct err *err)
{
	const TaskCoreEntry *tc = t->core[0]->tc;
	struct kernel_sigaction sa;
	size_t i;

	for (i = 0; i < tc->n_sigactions && i < N_SIGACTIONS; i++) {
		const SaEntry *e = tc->sigactions[i];

		sa = (struct kernel_sigaction){e->sigaction, e->flags, e->restorer, e->mask};
		script_call(s, "set a signal's disposition", SYS_rt_sigaction, SV(signal_at((int)i)),
			    SV(script_data(s, &sa, sizeof(sa))), SV(0), SV(8));
	}
	return 0;
}

const struct task_kind sigaction_kind = {
	.name = "sigaction",
	.when = KIND_PER_PROCESS,
	.query = sigaction_query,
	.collect = sigaction_collect,
	.emit = sigaction_emit,
};

/* ---- pending signals ---- */

static SignalQueueEntry *queue_entry(struct capture *c, const uint8_t *infos, size_t n)
{
	SignalQueueEntry *q = snap_new(c->snap, SignalQueueEntry, signal_queue_entry);
	size_t i;

	if (!q)
		return NULL;
	q->signals = arena_array(&c->snap->arena, SiginfoEntry *, n ? n : 1);
	for (i = 0; q->signals && i < n; i++) {
		SiginfoEntry *e = snap_new(c->snap, SiginfoEntry, siginfo_entry);

		if (!e)
			return NULL;
		e->siginfo.len = SIGINFO_BYTES;
		e->siginfo.data = arena_dup(&c->snap->arena, infos + i * SIGINFO_BYTES,
					    SIGINFO_BYTES);
		if (!e->siginfo.data)
			return NULL;
		q->signals[q->n_signals++] = e;
	}
	return q->signals ? q : NULL;
}

static int read_queue(struct capture *c, pid_t tid, bool process_wide, SignalQueueEntry **out,
		      struct err *err)
{
	cleanup_free siginfo_t *infos = calloc(MAX_PENDING, sizeof(*infos));
	int n;

	if (!infos)
		return err_nomem(err);
	n = pt_peek_signals(tid, process_wide, infos, MAX_PENDING, err);
	if (n < 0)
		return -1;
	if (n == MAX_PENDING)
		return err_set(err, E2BIG, "thread %d has more than %d pending signals", tid,
			       MAX_PENDING - 1);
	if (n == 0)
		return 0;
	*out = queue_entry(c, (const uint8_t *)infos, (size_t)n);
	return *out ? 0 : err_nomem(err);
}

static int pending_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	const struct proc_status *st = t->threads[thread].status;
	CoreEntry *core = t->snap->core[thread];
	pid_t tid = t->threads[thread].tid;

	if (thread == 0 && st->shared_pending && read_queue(c, tid, true, &core->tc->signals_s, err))
		return -1;
	if (!st->sig_pending)
		return 0;
	return read_queue(c, tid, false, &core->thread_core->signals_p, err);
}

static int emit_queue(const SignalQueueEntry *q, uint32_t pid, uint32_t tid, struct script *s,
		      struct err *err)
{
	uint64_t info;
	int32_t signo;
	size_t i;

	for (i = 0; q && i < q->n_signals; i++) {
		if (q->signals[i]->siginfo.len != SIGINFO_BYTES)
			return err_set(err, EINVAL,
				       "a pending signal of pid %u has %zu bytes instead of %d",
				       pid, q->signals[i]->siginfo.len, SIGINFO_BYTES);
		memcpy(&signo, q->signals[i]->siginfo.data, sizeof(signo));
		if (signo == SIGKILL || signo == SIGSTOP)
			continue; /* cannot be pending in a task that is carried; a stopped one is stopped at the end */
		info = script_data(s, q->signals[i]->siginfo.data, SIGINFO_BYTES);
		if (tid)
			script_call(s, "queue a pending signal of the thread",
				    SYS_rt_tgsigqueueinfo, SV(pid), SV(tid), SV(signo), SV(info));
		else
			script_call(s, "queue a pending signal of the process", SYS_rt_sigqueueinfo,
				    SV(pid), SV(signo), SV(info));
	}
	return 0;
}

/* To itself a thread may queue any siginfo; all signals are blocked meanwhile. */
static int pending_emit(struct restore *r, const struct snap_task *t, size_t thread,
			struct script *s, struct err *err)
{
	const CoreEntry *core = t->core[thread];

	if (thread == 0 && emit_queue(core->tc->signals_s, t->ps->pid, 0, s, err))
		return -1;
	return emit_queue(core->thread_core->signals_p, t->ps->pid, t->ps->threads[thread], s, err);
}

const struct task_kind pending_kind = {
	.name = "pending",
	.when = KIND_PER_THREAD,
	.outside = pending_outside,
	.emit = pending_emit,
};
