// SPDX-License-Identifier: Apache-2.0
/*
 * Scheduling of a thread: policy, nice value, real-time priority, CPU affinity,
 * I/O priority, timer slack. The last three have no place in CRIU's messages
 * and are in fields of our own.
 */
#define LOG_MODULE "sched"
#include "base/log.h"
#include "kernel/proc.h"
#include "kinds/task/task.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* sched_attr of sched_setattr(2); glibc 2.36 has none. */
struct attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

enum { IOPRIO_WHO_PROCESS = 1, AFFINITY_BYTES = 1024 };

static int read_affinity(struct capture *c, pid_t tid, ThreadCoreEntry *tc, struct err *err)
{
	uint8_t mask[AFFINITY_BYTES];
	long n = syscall(SYS_sched_getaffinity, tid, sizeof(mask), mask);

	if (n < 0)
		return err_sys(err, "cannot read the affinity of thread %d", tid);
	while (n > 1 && mask[n - 1] == 0)
		n--;
	tc->ferry_affinity.data = arena_dup(&c->snap->arena, mask, (size_t)n);
	tc->ferry_affinity.len = (size_t)n;
	tc->has_ferry_affinity = true;
	return tc->ferry_affinity.data ? 0 : err_nomem(err);
}

static int sched_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	ThreadCoreEntry *tc = t->snap->core[thread]->thread_core;
	pid_t tid = t->threads[thread].tid;
	struct attr a = {.size = sizeof(a)};
	long prio;

	if (syscall(SYS_sched_getattr, tid, &a, sizeof(a), 0))
		return err_sys(err, "cannot read the scheduling of thread %d", tid);
	if (a.policy == 6 /* SCHED_DEADLINE */)
		return err_set(err, ENOTSUP,
			       "thread %d has the deadline scheduling policy, which ferry does not carry",
			       tid);
	tc->has_sched_policy = tc->has_sched_nice = true;
	tc->sched_policy = a.policy | (a.flags & 1 ? SCHED_RESET_ON_FORK : 0);
	/* sched_getattr tells no nice value of real-time threads; the raw system call gives 20 - nice. */
	tc->sched_nice = 20 - (int32_t)syscall(SYS_getpriority, PRIO_PROCESS, tid);
	if (a.policy == SCHED_FIFO || a.policy == SCHED_RR) {
		tc->has_sched_prio = true;
		tc->sched_prio = a.priority;
	}
	prio = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid);
	if (prio > 0 && prio >> 13) { /* a class is set */
		tc->has_ferry_ioprio = true;
		tc->ferry_ioprio = (uint32_t)prio;
	}
	return read_affinity(c, tid, tc, err);
}

static int sched_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
		       struct task_query *q, struct err *err)
{
	q->op = script_call(s, "read the timer slack", SYS_prctl, SV(PR_GET_TIMERSLACK));
	return 0;
}

static int sched_collect(struct capture *c, struct task_facts *t, size_t thread,
			 const struct script *s, const struct task_query *q, struct err *err)
{
	ThreadCoreEntry *tc = t->snap->core[thread]->thread_core;

	tc->has_ferry_timerslack_ns = true;
	tc->ferry_timerslack_ns = (uint64_t)script_result(s, q->op);
	return 0;
}

/*
 * Where a thread may run: on the image's CPUs that we may use, too; where there are none of them (*elsewhere), or the image says
 * nothing, on all of ours. Returns the bytes of the set; 0: it is not known.
 */
static size_t usable_cpus(const ThreadCoreEntry *tc, uint8_t out[AFFINITY_BYTES], bool *elsewhere)
{
	uint8_t ours[AFFINITY_BYTES];
	long n = syscall(SYS_sched_getaffinity, 0, AFFINITY_BYTES, ours);
	size_t bytes = n > 0 ? (size_t)n : 0, i;
	bool any = false;

	for (i = 0; i < bytes; i++) {
		out[i] = i < tc->ferry_affinity.len ? ours[i] & tc->ferry_affinity.data[i] : 0;
		any |= out[i] != 0;
	}
	if (!any)
		memcpy(out, ours, bytes);
	*elsewhere = tc->has_ferry_affinity && bytes && !any;
	return bytes;
}

static int sched_check(struct restore *r, const struct snap_task *t, size_t thread, struct err *err)
{
	const ThreadCoreEntry *tc = t->core[thread]->thread_core;
	uint8_t mask[AFFINITY_BYTES];
	bool elsewhere;

	(void)usable_cpus(tc, mask, &elsewhere);
	if (elsewhere)
		log_warn("thread %u of pid %u was bound to CPUs that are not here; it may run on all",
			 t->ps->threads[thread], t->ps->pid);
	return 0;
}

/* Not while it has a real-time policy, be it ours that it has inherited: since Linux 6.12 that takes no slack. */
static void emit_slack(const ThreadCoreEntry *tc, struct script *s)
{
	if (tc->has_ferry_timerslack_ns && tc->ferry_timerslack_ns)
		script_call(s, "set the timer slack", SYS_prctl, SV(PR_SET_TIMERSLACK),
			    SV(tc->ferry_timerslack_ns));
}

static int sched_emit(struct restore *r, const struct snap_task *t, size_t thread, struct script *s,
		      struct err *err)
{
	const ThreadCoreEntry *tc = t->core[thread]->thread_core;
	struct attr a = {.size = sizeof(a)};
	uint8_t mask[AFFINITY_BYTES];
	bool elsewhere;
	size_t bytes = usable_cpus(tc, mask, &elsewhere);

	/* always: what it has now may be for the freeze only (urgent_beside) */
	if (bytes)
		script_call(s, "set the CPU affinity", SYS_sched_setaffinity, SV(0), SV(bytes),
			    SV(script_data(s, mask, bytes)));
	if (tc->has_ferry_ioprio)
		script_call(s, "set the I/O priority", SYS_ioprio_set, SV(IOPRIO_WHO_PROCESS),
			    SV(0), SV(tc->ferry_ioprio));
	if (!tc->has_sched_policy) {
		emit_slack(tc, s);
		return 0;
	}
	/* A real-time policy keeps the nice value that the thread had before, and takes none itself. */
	a.nice = tc->sched_nice;
	script_call(s, "set the nice value", SYS_sched_setattr, SV(0),
		    SV(script_data(s, &a, sizeof(a))), SV(0));
	emit_slack(tc, s);
	a.policy = tc->sched_policy & ~(uint32_t)SCHED_RESET_ON_FORK;
	a.flags = tc->sched_policy & SCHED_RESET_ON_FORK ? 1 : 0;
	a.priority = tc->has_sched_prio ? tc->sched_prio : 0;
	script_call(s, "set the scheduling policy", SYS_sched_setattr, SV(0),
		    SV(script_data(s, &a, sizeof(a))), SV(0));
	return 0;
}

const struct task_kind sched_kind = {
	.name = "sched",
	.when = KIND_PER_THREAD,
	.outside = sched_outside,
	.query = sched_query,
	.collect = sched_collect,
	.check = sched_check,
	.emit = sched_emit,
};
