// SPDX-License-Identifier: Apache-2.0
/*
 * Modes that few programs switch on, most of them by prctl(2): some are carried, in a
 * field of our own, as CRIU has none; what cannot be given to another task (a
 * security label, keys) is refused by name.
 *
 * Not seen by anybody but the kernel, and so lost: a landlock domain, and the
 * adjustments that System V semaphores make when a process ends (SEM_UNDO).
 */
#define LOG_MODULE "modes"
#include "kinds/modes.h"

#include "base/io.h"
#include "base/log.h"
#include "kinds/task/task.h"

#include <errno.h>
#include <linux/keyctl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

/* linux/prctl.h of later kernels than Debian 12's headers; the numbers are the interface. */
enum {
	SET_MEMORY_MERGE = 67,
	GET_MEMORY_MERGE = 68,
	SPEC_CONTROLLABLE = 1,      /* PR_SPEC_PRCTL */
	GET_CPUID = 0x1011,         /* ARCH_GET_CPUID of arch_prctl */
	GET_USER_DISPATCH = 0x4211, /* PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG */
};

/* ---- carried ---- */

static const struct mode {
	const char *label;
	int get, set;
	int which;      /* the argument behind @set, if there is one */
	bool has_which; /* ... and @get's */
	bool by_pointer;
	bool process; /* of the process, else of the thread */
	bool speculation;
	int usual; /* not noted */
} modes[] = {
	{.label = "set access to the time stamp counter",
	 .get = PR_GET_TSC,
	 .set = PR_SET_TSC,
	 .by_pointer = true,
	 .usual = PR_TSC_ENABLE},
	{.label = "set the policy for machine checks",
	 .get = PR_MCE_KILL_GET,
	 .set = PR_MCE_KILL,
	 .which = PR_MCE_KILL_SET,
	 .usual = PR_MCE_KILL_DEFAULT},
	{.label = "mark the thread as one that writes memory back",
	 .get = PR_GET_IO_FLUSHER,
	 .set = PR_SET_IO_FLUSHER},
	{.label = "control speculative store bypass",
	 .get = PR_GET_SPECULATION_CTRL,
	 .set = PR_SET_SPECULATION_CTRL,
	 .which = PR_SPEC_STORE_BYPASS,
	 .has_which = true,
	 .speculation = true,
	 .usual = PR_SPEC_ENABLE},
	{.label = "control speculation of indirect branches",
	 .get = PR_GET_SPECULATION_CTRL,
	 .set = PR_SET_SPECULATION_CTRL,
	 .which = PR_SPEC_INDIRECT_BRANCH,
	 .has_which = true,
	 .speculation = true,
	 .usual = PR_SPEC_ENABLE},
	{.label = "control the flush of the first cache",
	 .get = PR_GET_SPECULATION_CTRL,
	 .set = PR_SET_SPECULATION_CTRL,
	 .which = PR_SPEC_L1D_FLUSH,
	 .has_which = true,
	 .speculation = true,
	 .usual = PR_SPEC_DISABLE},
	{.label = "merge equal pages", .get = GET_MEMORY_MERGE, .set = SET_MEMORY_MERGE, .process = true},
};

/* The operations of modes_query, in order: one for each mode, then these. */
enum { Q_POLICY = ARRAY_SIZE(modes), Q_CPUID, Q_THREAD_KEYS, Q_PROCESS_KEYS };

static int modes_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
		       struct task_query *q, struct err *err)
{
	uint64_t data = script_data(s, NULL, (ARRAY_SIZE(modes) + 1) * sizeof(uint64_t));

	q->data = data;
	q->op = s->n_ops;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++, data += sizeof(uint64_t)) {
		const struct mode *m = &modes[i];
		uint64_t first = m->by_pointer ? data : m->has_which ? (uint64_t)m->which : 0;

		script_try(s, m->label, SYS_prctl, SV(m->get), SV(first), SV(0), SV(0), SV(0));
	}
	script_try(s, "read the memory policy", SYS_get_mempolicy, SV(data), SV(0), SV(0), SV(0),
		   SV(0));
	script_try(s, "read access to cpuid", SYS_arch_prctl, SV(GET_CPUID), SV(0));
	script_try(s, "look for keys of the thread", SYS_keyctl, SV(KEYCTL_GET_KEYRING_ID),
		   SV(KEY_SPEC_THREAD_KEYRING), SV(0));
	script_try(s, "look for keys of the process", SYS_keyctl, SV(KEYCTL_GET_KEYRING_ID),
		   SV(KEY_SPEC_PROCESS_KEYRING), SV(0));
	return 0;
}

/* The value of a mode; false if it is the usual one, or this kernel has no such mode. */
static bool read_mode(const struct mode *m, int64_t result, int pointed, uint32_t *out)
{
	int64_t value = m->by_pointer ? pointed : result;

	if (result < 0)
		return false;
	if (m->speculation) {
		if (!(value & SPEC_CONTROLLABLE))
			return false;
		value &= ~SPEC_CONTROLLABLE;
	}
	*out = (uint32_t)value;
	return value != m->usual;
}

static int note_mode(struct capture *c, ThreadCoreEntry *tc, const struct mode *m, uint32_t value,
		     struct err *err)
{
	ThreadMode *e = snap_new(c->snap, ThreadMode, thread_mode);

	if (!tc->ferry_modes)
		tc->ferry_modes = arena_array(&c->snap->arena, ThreadMode *, ARRAY_SIZE(modes));
	if (!e || !tc->ferry_modes)
		return err_nomem(err);
	e->option = (uint32_t)m->set;
	e->which = (uint32_t)m->which;
	e->value = value;
	tc->ferry_modes[tc->n_ferry_modes++] = e;
	return 0;
}

static int refuse_keys(pid_t tid, const char *whose, struct err *err)
{
	return err_set(err, ENOTSUP,
		       "thread %d has keys of its own (a %s keyring), which are not carried", tid,
		       whose);
}

static int modes_collect(struct capture *c, struct task_facts *t, size_t thread,
			 const struct script *s, const struct task_query *q, struct err *err)
{
	ThreadCoreEntry *tc = t->snap->core[thread]->thread_core;
	const uint64_t *data = script_ptr(s, q->data);
	pid_t tid = t->threads[thread].tid;
	uint32_t value;

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		if ((modes[i].process && thread) ||
		    !read_mode(&modes[i], script_result(s, q->op + (unsigned int)i), (int)data[i],
			       &value))
			continue;
		if (note_mode(c, tc, &modes[i], value, err))
			return -1;
	}
	if (script_result(s, q->op + Q_POLICY) == 0 && (int)data[ARRAY_SIZE(modes)] != 0)
		return err_set(err, ENOTSUP,
			       "thread %d has a memory policy (set_mempolicy), which is not carried",
			       tid);
	if (script_result(s, q->op + Q_CPUID) == 0)
		return err_set(err, ENOTSUP,
			       "thread %d has switched cpuid off, which is not carried", tid);
	if (script_result(s, q->op + Q_THREAD_KEYS) > 0)
		return refuse_keys(tid, "thread", err);
	return script_result(s, q->op + Q_PROCESS_KEYS) > 0 ? refuse_keys(tid, "process", err) : 0;
}

static const struct mode *find_mode(const ThreadMode *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (modes[i].set == (int)e->option && modes[i].which == (int)e->which)
			return &modes[i];
	return NULL;
}

static int modes_check(struct restore *r, const struct snap_task *t, size_t thread, struct err *err)
{
	const ThreadCoreEntry *tc = t->core[thread]->thread_core;

	for (size_t i = 0; i < tc->n_ferry_modes; i++)
		if (!find_mode(tc->ferry_modes[i]))
			return err_set(err, EINVAL, "mode %u (%u) of thread %u is none of ours",
				       tc->ferry_modes[i]->option, tc->ferry_modes[i]->which,
				       t->ps->threads[thread]);
	return 0;
}

static int modes_emit(struct restore *r, const struct snap_task *t, size_t thread, struct script *s,
		      struct err *err)
{
	const ThreadCoreEntry *tc = t->core[thread]->thread_core;

	for (size_t i = 0; i < tc->n_ferry_modes; i++) {
		const ThreadMode *e = tc->ferry_modes[i];
		const struct mode *m = find_mode(e);
		bool two = m && (m->has_which || m->which);

		if (m)
			script_call(s, m->label, SYS_prctl, SV(e->option),
				    SV(two ? e->which : e->value), SV(two ? e->value : 0), SV(0),
				    SV(0));
	}
	return 0;
}

/* ---- the filter of core dumps ---- */

static int read_dump_filter(pid_t pid, uint32_t *out)
{
	cleanup_free char *text = NULL;

	if (io_read_filef(&text, NULL, "/proc/%d/coredump_filter", pid))
		return -1; /* no core dumps in this kernel */
	*out = (uint32_t)strtoul(text, NULL, 16);
	return 0;
}

/* From outside: also which system calls the program handles itself (ptrace(2) of Linux 6.4). */
static int modes_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	TaskCoreEntry *tc = t->snap->core[0]->tc;
	pid_t tid = t->threads[thread].tid;
	uint64_t dispatch[4] = {0}; /* mode, selector, offset, length */
	uint32_t filter;

	if (ptrace((enum __ptrace_request)GET_USER_DISPATCH, tid, sizeof(dispatch), dispatch) == 0 &&
	    dispatch[0])
		return err_set(err, ENOTSUP,
			       "thread %d handles system calls itself (syscall user dispatch), which is "
			       "not carried",
			       tid);
	if (thread == 0 && !read_dump_filter(t->pid, &filter)) {
		tc->has_ferry_coredump_filter = true;
		tc->ferry_coredump_filter = filter;
	}
	return 0;
}

static int modes_apply(struct restore *r, const struct snap_task *t, size_t thread, pid_t tid,
		       struct err *err)
{
	const TaskCoreEntry *tc = t->core[0]->tc;
	uint32_t is;
	char text[16];

	if (thread || !tc->has_ferry_coredump_filter || read_dump_filter(tid, &is) ||
	    is == tc->ferry_coredump_filter)
		return 0;
	snprintf(text, sizeof(text), "%#x", tc->ferry_coredump_filter);
	if (io_write_textf(text, "/proc/%d/coredump_filter", tid))
		log_warn("cannot give pid %u the core dump filter %s it had: %s", t->ps->pid, text,
			 strerror(errno));
	return 0;
}

const struct task_kind modes_kind = {
	.name = "modes",
	.when = KIND_PER_THREAD,
	.outside = modes_outside,
	.query = modes_query,
	.collect = modes_collect,
	.check = modes_check,
	.emit = modes_emit,
	.apply = modes_apply,
};

/* ---- refused, and seen from outside ---- */

/* The label that a security module has given a process; "" without one. */
static void read_label(pid_t pid, char *out, size_t size)
{
	cleanup_free char *text = NULL;

	out[0] = 0;
	if (io_read_filef(&text, NULL, "/proc/%d/attr/current", pid) == 0)
		snprintf(out, size, "%.*s", (int)strcspn(text, "\n"), text);
}

static int label_allowed(pid_t pid, struct err *err)
{
	char theirs[256], ours[256];

	read_label(pid, theirs, sizeof(theirs));
	if (!theirs[0] || strcmp(theirs, "unconfined") == 0)
		return 0;
	read_label(getpid(), ours, sizeof(ours));
	if (strcmp(theirs, ours) == 0)
		return 0;
	return err_set(err, ENOTSUP,
		       "pid %d is confined by a security module (%.100s), which this version does not "
		       "carry",
		       pid, theirs);
}

static pthread_once_t nodes_once = PTHREAD_ONCE_INIT;
static bool memory_nodes;

static void find_memory_nodes(void)
{
	cleanup_free char *text = NULL;

	memory_nodes = io_read_filef(&text, NULL, "/sys/devices/system/node/online") == 0 &&
		       strcmp(text, "0\n") != 0;
}

/* A machine with one node has nothing to choose from. Asked once, not for each task. */
static bool has_memory_nodes(void)
{
	pthread_once(&nodes_once, find_memory_nodes);
	return memory_nodes;
}

/* Each line of numa_maps: address, policy, and the rest. */
static int policies_allowed(pid_t pid, struct err *err)
{
	cleanup_free char *text = NULL;
	char *rest = NULL;

	if (!has_memory_nodes() || io_read_filef(&text, NULL, "/proc/%d/numa_maps", pid))
		return 0;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		const char *policy = strchr(line, ' ');

		if (policy && strncmp(policy + 1, "default", 7) != 0)
			return err_set(err, ENOTSUP,
				       "pid %d has memory with a policy of its own (mbind, %.*s), which "
				       "is not carried",
				       pid, (int)strcspn(policy + 1, " "), policy + 1);
	}
	return 0;
}

static int core_cookie_allowed(pid_t pid, struct err *err)
{
	uint64_t cookie = 0;

	if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, pid, PR_SCHED_CORE_SCOPE_THREAD, &cookie) ||
	    !cookie)
		return 0;
	return err_set(err, ENOTSUP,
		       "pid %d shares its processor core with chosen tasks only (core scheduling), which "
		       "is not carried",
		       pid);
}

int modes_allowed(pid_t pid, struct err *err)
{
	if (label_allowed(pid, err) || policies_allowed(pid, err))
		return -1;
	return core_cookie_allowed(pid, err);
}
