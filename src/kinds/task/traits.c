// SPDX-License-Identifier: Apache-2.0
/*
 * Flags and numbers of a process or thread that prctl(2) and small files of
 * /proc hold: personality, subreaper, transparent huge pages, dumpable,
 * parent-death signal, OOM score, audit login uid.
 */
#define LOG_MODULE "traits"
#include "base/io.h"
#include "base/log.h"
#include "kinds/task/task.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* ---- personality(2) ---- */

static int personality_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	TaskCoreEntry *tc = t->snap->core[0]->tc;
	cleanup_free char *text = NULL;
	unsigned long value;

	if (io_read_filef(&text, NULL, "/proc/%d/personality", t->pid))
		return err_sys(err, "cannot read the personality of pid %d", t->pid);
	value = strtoul(text, NULL, 16);
	tc->personality = (uint32_t)strtoul(text, NULL, 10); /* as CRIU has it; informational there */
	if (value) {
		tc->has_ferry_personality = true;
		tc->ferry_personality = (uint32_t)value;
	}
	return 0;
}

static int personality_emit(struct restore *r, const struct snap_task *t, size_t thread,
			    struct script *s, struct err *err)
{
	const TaskCoreEntry *tc = t->core[0]->tc;
	uint32_t value = tc->ferry_personality;
	char digits[16];

	if (!tc->has_ferry_personality) {
		snprintf(digits, sizeof(digits), "%u", tc->personality);
		value = (uint32_t)strtoul(digits, NULL, 16);
	}
	script_call(s, "set the personality", SYS_personality, SV(value));
	return 0;
}

const struct task_kind personality_kind = {
	.name = "personality",
	.when = KIND_PER_PROCESS,
	.outside = personality_outside,
	.emit = personality_emit,
};

/* ---- prctl flags that do not depend on credentials ---- */

/* The operations of prctl_query, in order. */
enum { Q_SUBREAPER, Q_THP, Q_MEMBARRIER };

#define MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9)

static int prctl_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
		       struct task_query *q, struct err *err)
{
	q->data = script_data(s, NULL, 8);
	q->op = script_call(s, "read the subreaper flag", SYS_prctl, SV(PR_GET_CHILD_SUBREAPER),
			    SV(q->data));
	script_call(s, "read the huge page flag", SYS_prctl, SV(PR_GET_THP_DISABLE), SV(0), SV(0),
		    SV(0), SV(0));
	script_try(s, "read the membarrier registrations", SYS_membarrier,
		   SV(MEMBARRIER_CMD_GET_REGISTRATIONS), SV(0), SV(0));
	return 0;
}

static int prctl_collect(struct capture *c, struct task_facts *t, size_t thread,
			 const struct script *s, const struct task_query *q, struct err *err)
{
	TaskCoreEntry *tc = t->snap->core[0]->tc;
	int64_t barriers = script_result(s, q->op + Q_MEMBARRIER);

	tc->has_child_subreaper = true;
	tc->child_subreaper = *(const int *)script_ptr(s, q->data) != 0;
	if (script_result(s, q->op + Q_THP)) {
		t->snap->mm->has_thp_disabled = true;
		t->snap->mm->thp_disabled = true;
	}
	if (barriers > 0) {
		tc->has_membarrier_registration_mask = true;
		tc->membarrier_registration_mask = (uint32_t)barriers;
	}
	return 0;
}

static int prctl_emit(struct restore *r, const struct snap_task *t, size_t thread, struct script *s,
		      struct err *err)
{
	const TaskCoreEntry *tc = t->core[0]->tc;
	uint32_t mask = tc->membarrier_registration_mask;
	int bit;

	if (tc->child_subreaper)
		script_call(s, "set the subreaper flag", SYS_prctl, SV(PR_SET_CHILD_SUBREAPER),
			    SV(1));
	/* Inherited over fork, so said in both cases. */
	script_call(s, "set the huge page flag", SYS_prctl, SV(PR_SET_THP_DISABLE),
		    SV(t->mm && t->mm->thp_disabled), SV(0), SV(0), SV(0));
	if (tc->has_ferry_lock_future)
		script_call(s, "lock what is mapped later (mlockall)", SYS_mlockall,
			    SV(tc->ferry_lock_future & (MCL_FUTURE | MCL_ONFAULT)));
	for (bit = 0; bit < 32; bit++)
		if (mask >> bit & 1)
			script_call(s, "register for membarriers", SYS_membarrier, SV(1u << bit),
				    SV(0), SV(0));
	return 0;
}

const struct task_kind prctl_kind = {
	.name = "prctl",
	.when = KIND_PER_PROCESS,
	.query = prctl_query,
	.collect = prctl_collect,
	.emit = prctl_emit,
};

/* ---- flags that a change of credentials resets: dumpable, parent-death signal ---- */

enum { Q_PDEATHSIG, Q_DUMPABLE };

static int traits_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
			struct task_query *q, struct err *err)
{
	q->data = script_data(s, NULL, 8);
	q->op = script_call(s, "read the parent-death signal", SYS_prctl, SV(PR_GET_PDEATHSIG),
			    SV(q->data));
	script_call(s, "read the dumpable flag", SYS_prctl, SV(PR_GET_DUMPABLE));
	return 0;
}

static int traits_collect(struct capture *c, struct task_facts *t, size_t thread,
			  const struct script *s, const struct task_query *q, struct err *err)
{
	ThreadCoreEntry *tc = t->snap->core[thread]->thread_core;
	int sig = *(const int *)script_ptr(s, q->data);

	if (sig) {
		tc->has_pdeath_sig = true;
		tc->pdeath_sig = (uint32_t)sig;
	}
	if (thread == 0) {
		t->snap->mm->has_dumpable = true;
		t->snap->mm->dumpable = (int)script_result(s, q->op + Q_DUMPABLE);
	}
	return 0;
}

static int traits_emit(struct restore *r, const struct snap_task *t, size_t thread,
		       struct script *s, struct err *err)
{
	const ThreadCoreEntry *tc = t->core[thread]->thread_core;

	script_call(s, "set the parent-death signal", SYS_prctl, SV(PR_SET_PDEATHSIG),
		    SV(tc->pdeath_sig));
	/* 2 (root only) cannot be asked for: it is what the change of credentials has left where it was so. */
	if (thread == 0 && t->mm && t->mm->has_dumpable && t->mm->dumpable != 2)
		script_call(s, "set the dumpable flag", SYS_prctl, SV(PR_SET_DUMPABLE),
			    SV(t->mm->dumpable));
	return 0;
}

const struct task_kind traits_kind = {
	.name = "traits",
	.when = KIND_PER_THREAD,
	.query = traits_query,
	.collect = traits_collect,
	.emit = traits_emit,
};

/* ---- OOM score and login uid: /proc/PID files ---- */

static int oom_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	TaskCoreEntry *tc = t->snap->core[0]->tc;
	cleanup_free char *oom = NULL, *login = NULL;

	if (io_read_filef(&oom, NULL, "/proc/%d/oom_score_adj", t->pid))
		return err_sys(err, "cannot read the OOM score of pid %d", t->pid);
	tc->has_oom_score_adj = true;
	tc->oom_score_adj = atoi(oom);
	if (io_read_filef(&login, NULL, "/proc/%d/loginuid", t->pid) == 0) {
		tc->has_loginuid = true;
		tc->loginuid = (uint32_t)strtoul(login, NULL, 10);
	}
	return 0;
}

static int oom_apply(struct restore *r, const struct snap_task *t, size_t thread, pid_t tid,
		     struct err *err)
{
	const TaskCoreEntry *tc = t->core[0]->tc;
	char text[16];

	snprintf(text, sizeof(text), "%d", tc->oom_score_adj);
	if (io_write_textf(text, "/proc/%d/oom_score_adj", tid))
		log_warn("cannot give pid %u the OOM score %s it had: %s (needs CAP_SYS_RESOURCE)",
			 t->ps->pid, text, strerror(errno));
	if (tc->has_loginuid && tc->loginuid != UINT32_MAX) {
		snprintf(text, sizeof(text), "%u", tc->loginuid);
		if (io_write_textf(text, "/proc/%d/loginuid", tid))
			log_warn("cannot give pid %u the audit login uid %s it had: %s", t->ps->pid,
				 text, strerror(errno));
	}
	return 0;
}

const struct task_kind oom_kind = {
	.name = "oom",
	.when = KIND_PER_PROCESS,
	.outside = oom_outside,
	.apply = oom_apply,
};
