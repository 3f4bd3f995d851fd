// SPDX-License-Identifier: Apache-2.0
/*
 * What a thread has registered with the kernel by address: name, alternate
 * stack, robust futex list, clear_child_tid, rseq.
 */
#include "kernel/proc.h"
#include "kernel/ptrace.h"
#include "kinds/task/task.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* ---- name ---- */

static int name_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	CoreEntry *core = t->snap->core[thread];
	char *name = arena_strdup(&c->snap->arena, t->threads[thread].status->name);

	if (!name)
		return err_nomem(err);
	core->thread_core->comm = name;
	if (core->tc)
		core->tc->comm = name;
	return 0;
}

static int name_emit(struct restore *r, const struct snap_task *t, size_t thread, struct script *s,
		     struct err *err)
{
	const CoreEntry *core = t->core[thread];
	const char *name = core->thread_core->comm ? core->thread_core->comm : t->core[0]->tc->comm;
	char buf[16] = {0};

	strncpy(buf, name, sizeof(buf) - 1);
	script_call(s, "set the thread's name", SYS_prctl, SV(PR_SET_NAME),
		    SV(script_data(s, buf, sizeof(buf))));
	return 0;
}

const struct task_kind name_kind = {
	.name = "name",
	.when = KIND_PER_THREAD,
	.outside = name_outside,
	.emit = name_emit,
};

/* ---- alternate signal stack: sigaltstack(2) ---- */

static int altstack_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
			  struct task_query *q, struct err *err)
{
	q->data = script_data(s, NULL, sizeof(stack_t));
	q->op = script_call(s, "read the alternate signal stack", SYS_sigaltstack, SV(0),
			    SV(q->data));
	return 0;
}

static int altstack_collect(struct capture *c, struct task_facts *t, size_t thread,
			    const struct script *s, const struct task_query *q, struct err *err)
{
	const stack_t *ss = script_ptr(s, q->data);
	ThreadSasEntry *sas = snap_new(c->snap, ThreadSasEntry, thread_sas_entry);

	if (!sas)
		return err_nomem(err);
	sas->ss_sp = (uintptr_t)ss->ss_sp;
	sas->ss_size = ss->ss_size;
	sas->ss_flags = (uint32_t)ss->ss_flags &
			~(uint32_t)SS_ONSTACK; /* follows from the stack pointer */
	t->snap->core[thread]->thread_core->sas = sas;
	return 0;
}

static int altstack_emit(struct restore *r, const struct snap_task *t, size_t thread,
			 struct script *s, struct err *err)
{
	const ThreadSasEntry *sas = t->core[thread]->thread_core->sas;
	stack_t ss = {.ss_flags = SS_DISABLE};

	if (sas)
		ss = (stack_t){.ss_sp = (void *)(uintptr_t)sas->ss_sp,
			       .ss_size = sas->ss_size,
			       .ss_flags = (int)sas->ss_flags & ~SS_ONSTACK};
	script_call(s, "set the alternate signal stack", SYS_sigaltstack,
		    SV(script_data(s, &ss, sizeof(ss))), SV(0));
	return 0;
}

const struct task_kind altstack_kind = {
	.name = "altstack",
	.when = KIND_PER_THREAD,
	.query = altstack_query,
	.collect = altstack_collect,
	.emit = altstack_emit,
};

/* ---- robust list and clear_child_tid ---- */

static int futex_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	ThreadCoreEntry *tc = t->snap->core[thread]->thread_core;
	struct robust_list_head *head = NULL;
	size_t len = 0;

	if (syscall(SYS_get_robust_list, t->threads[thread].tid, &head, &len))
		return err_sys(err, "cannot read the robust list of thread %d",
			       t->threads[thread].tid);
	tc->futex_rla = (uintptr_t)head;
	tc->futex_rla_len = head ? (uint32_t)len : 0;
	return 0;
}

static int futex_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
		       struct task_query *q, struct err *err)
{
	q->data = script_data(s, NULL, 8);
	q->op = script_call(s, "read the clear_child_tid address", SYS_prctl,
			    SV(PR_GET_TID_ADDRESS), SV(q->data));
	return 0;
}

static int futex_collect(struct capture *c, struct task_facts *t, size_t thread,
			 const struct script *s, const struct task_query *q, struct err *err)
{
	t->snap->core[thread]->thread_info->clear_tid_addr = *(const uint64_t *)script_ptr(s,
											   q->data);
	return 0;
}

static int futex_emit(struct restore *r, const struct snap_task *t, size_t thread, struct script *s,
		      struct err *err)
{
	const CoreEntry *core = t->core[thread];

	if (core->thread_core->futex_rla_len)
		script_call(s, "set the robust list", SYS_set_robust_list,
			    SV(core->thread_core->futex_rla), SV(core->thread_core->futex_rla_len));
	script_call(s, "set the clear_child_tid address", SYS_set_tid_address,
		    SV(core->thread_info->clear_tid_addr));
	return 0;
}

const struct task_kind futex_kind = {
	.name = "futex",
	.when = KIND_PER_THREAD,
	.outside = futex_outside,
	.query = futex_query,
	.collect = futex_collect,
	.emit = futex_emit,
};

/* ---- restartable sequences: rseq(2) ---- */

static int rseq_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	ThreadCoreEntry *tc = t->snap->core[thread]->thread_core;
	struct pt_rseq conf;

	if (pt_get_rseq(t->threads[thread].tid, &conf, err))
		return err->no == EIO || err->no == EINVAL ? 0 : -1; /* a kernel without rseq */
	if (!conf.pointer)
		return 0;
	tc->rseq_entry = snap_new(c->snap, RseqEntry, rseq_entry);
	if (!tc->rseq_entry)
		return err_nomem(err);
	tc->rseq_entry->rseq_abi_pointer = conf.pointer;
	tc->rseq_entry->rseq_abi_size = conf.size;
	tc->rseq_entry->signature = conf.signature;
	return 0;
}

static int rseq_emit(struct restore *r, const struct snap_task *t, size_t thread, struct script *s,
		     struct err *err)
{
	const RseqEntry *e = t->core[thread]->thread_core->rseq_entry;

	if (e && e->rseq_abi_pointer)
		script_call(s, "register the rseq area", SYS_rseq, SV(e->rseq_abi_pointer),
			    SV(e->rseq_abi_size), SV(0), SV(e->signature));
	return 0;
}

const struct task_kind rseq_kind = {
	.name = "rseq",
	.when = KIND_PER_THREAD,
	.outside = rseq_outside,
	.emit = rseq_emit,
};
