// SPDX-License-Identifier: Apache-2.0
/*
 * Can this tree be restored here? Nothing is made.
 */
#include "restore/session.h"

#include "base/clock.h"
#include "base/io.h"
#define LOG_MODULE "restore"
#include "base/log.h"
#include "kernel/proc.h"
#include "kernel/xstate.h"
#include "kinds/broker.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

/* ---- pids ---- */

enum { REAP_MS = 3000, REAP_STEP_MS = 5 };

static long pid_max(void)
{
	cleanup_free char *text = NULL;

	return io_read_filef(&text, NULL, "/proc/sys/kernel/pid_max") < 0 ? 0 : atol(text);
}

/* A number is taken as long as a task, or a group named after one that is gone, has it. */
static bool is_free(pid_t pid)
{
	return kill(pid, 0) < 0 && errno == ESRCH && kill(-pid, 0) < 0 && errno == ESRCH;
}

/* EAGAIN: perhaps not for long. */
static int pid_free(pid_t pid, struct err *err)
{
	struct proc_stat st;
	struct err unused;

	if (is_free(pid))
		return 0;
	if (proc_stat(pid, &st, &unused) == 0)
		return err_set(err, st.state == 'Z' ? EAGAIN : EEXIST,
			       st.state == 'Z' ? "pid %d is in use here, by %s: it has ended, but its "
						 "parent (pid %d) has not asked how" :
						 "pid %d is in use here, by %s",
			       pid, st.comm, st.ppid);
	/* it was asked how in this moment */
	if (is_free(pid))
		return 0;
	return err_set(err, EEXIST, "pid %d is in use here, as a process group", pid);
}

/* The task that was dumped a moment ago may still be a zombie: init takes its time. */
static int await_pid(pid_t pid, uint64_t end_ms, struct err *err)
{
	while (pid_free(pid, err) < 0) {
		if (err->no != EAGAIN || clock_ms() >= end_ms)
			return -1;
		nanosleep(&(struct timespec){.tv_nsec = REAP_STEP_MS * 1000000L}, NULL);
	}
	return 0;
}

static int pids_free(const pid_t *pids, size_t n, pid_t ours, struct err *err)
{
	uint64_t end_ms = clock_ms() + REAP_MS;
	long max = pid_max();

	for (size_t i = 0; i < n; i++) {
		if (max && pids[i] >= max)
			return err_set(err, ERANGE,
				       "pid %d is above the highest here (/proc/sys/kernel/pid_max is %ld)",
				       pids[i], max);
		if (pids[i] != ours && await_pid(pids[i], end_ms, err) < 0)
			return -1;
	}
	return 0;
}

int restore_pids_free(const pid_t *pids, size_t n, struct err *err)
{
	return pids_free(pids, n, 0, err);
}

/* Every number that the tree needs: tasks, threads, and the leaders that only their groups and sessions remember. */
static int tree_pids_free(struct restore_session *s, struct err *err)
{
	VEC(pid_t) pids = {0};
	bool ok = true;
	int r;

	vec_foreach (tp, &s->tasks) {
		const struct rtask *t = *tp;

		ok = ok && vec_push(&pids, t->vpid);
		for (size_t i = 1; i < t->n_slots; i++)
			ok = ok && vec_push(&pids, (pid_t)t->snap->ps->threads[i]);
		if (t->pgid && !session_task(s, t->pgid))
			ok = ok && vec_push(&pids, t->pgid);
	}
	vec_foreach (hp, &s->helpers)
		ok = ok && vec_push(&pids, (*hp)->vpid);
	/* a task that was made ahead has its number already */
	r = ok ? pids_free(pids.v, pids.n, s->opt.ahead ? restore_root_pid(s->opt.ahead) : 0, err) :
		 err_nomem(err);
	vec_free(&pids);
	return r;
}

static int check_pids(struct restore_session *s, struct err *err)
{
	s->new_pidns = s->opt.pids == RESTORE_PIDS_NEW;
	if (s->new_pidns || tree_pids_free(s, err) == 0)
		return 0;
	if (s->opt.pids == RESTORE_PIDS_SAME)
		return err_wrap(err, "the tree cannot have its pids");
	log_warn("%s: the tree gets a pid namespace of its own", err->text);
	s->new_pidns = true;
	return 0;
}

/* ---- namespaces ---- */

/* Ids that differ from those of the dumper say: the tree had a namespace of its own. */
static int check_namespaces(struct restore_session *s, const struct rtask *t, struct err *err)
{
	const TaskKobjIdsEntry *own = t->snap->ids, *root = s->r.snap->inventory->root_ids;
	const struct {
		const char *name;
		bool differs;
	} ns[] = {
		{"network", own && root && own->net_ns_id != root->net_ns_id},
		{"UTS (host name)", own && root && own->uts_ns_id != root->uts_ns_id},
		{"mount", own && root && own->mnt_ns_id != root->mnt_ns_id},
		{"user", own && root && own->user_ns_id != root->user_ns_id},
		{"cgroup", own && root && own->cgroup_ns_id != root->cgroup_ns_id},
	};

	for (size_t i = 0; i < ARRAY_SIZE(ns); i++)
		if (ns[i].differs)
			return err_set(err, ENOTSUP,
				       "the task has a %s namespace of its own, which cannot be "
				       "restored yet",
				       ns[i].name);
	return 0;
}

/* ---- tasks ---- */

static int check_thread(const struct rtask *t, size_t thread, struct err *err)
{
	const CoreEntry *core = t->snap->core[thread];
	const ThreadInfoX86 *ti = core->thread_info;

	if (core->mtype != CORE_ENTRY__MARCH__X86_64)
		return err_set(err, ENOTSUP, "it was dumped on another kind of machine (mtype %d)",
			       (int)core->mtype);
	if (!ti || !ti->gpregs || !ti->fpregs || !core->thread_core)
		return err_set(err, EINVAL, "core-%u.img lacks the registers or the thread's state",
			       t->snap->ps->threads[thread]);
	if (ti->gpregs->has_mode && ti->gpregs->mode == USER_X86_REGS_MODE__COMPAT)
		return err_set(err, ENOTSUP, "32-bit programs cannot be restored");
	for (size_t i = 0; i < ti->n_tls; i++)
		if (!ti->tls[i]->seg_not_present)
			return err_set(err, ENOTSUP,
				       "segments of its own (set_thread_area) cannot be restored");
	if (core->thread_core->has_seccomp_mode &&
	    core->thread_core->seccomp_mode != SECCOMP_MODE__disabled)
		return err_set(err, ENOTSUP, "seccomp filters cannot be restored yet");
	return xstate_check(ti->fpregs, err);
}

static int check_kinds(struct restore_session *s, struct rtask *t, size_t thread, struct err *err)
{
	for (size_t i = 0; task_kinds[i]; i++) {
		const struct task_kind *k = task_kinds[i];

		if (!k->check || (k->when == KIND_PER_PROCESS && thread != 0))
			continue;
		if (k->check(&s->r, t->snap, thread, err) < 0)
			return err_wrap(err, "%s", k->name);
	}
	return 0;
}

static int check_task(struct restore_session *s, struct rtask *t, struct err *err)
{
	if (t->zombie)
		return 0;
	if (!t->snap->fs)
		return err_set(err, EINVAL, "fs-%d.img is missing", t->vpid);
	if (check_namespaces(s, t, err) < 0)
		return -1;
	for (size_t i = 0; i < t->n_slots; i++)
		if (check_thread(t, i, err) < 0 || check_kinds(s, t, i, err) < 0)
			return t->n_slots > 1 ? err_wrap(err, "thread %u", t->snap->ps->threads[i]) :
						-1;
	return 0;
}

static int check_tasks(struct restore_session *s, struct err *err)
{
	vec_foreach (tp, &s->tasks)
		if (check_task(s, *tp, err) < 0)
			return task_wrap(*tp, err);
	return broker_check(&s->r, err);
}

int restore_check(struct restore_session *s, struct err *err)
{
	struct err late;
	int rc = check_pids(s, err);

	/* the paths are looked up where the tree will see them */
	if (rc == 0 && s->opt.root_mount)
		rc = mounts_enter(s, err);
	if (rc == 0)
		rc = check_tasks(s, err);
	if (mounts_leave(s, rc < 0 ? &late : err) < 0) {
		if (rc < 0)
			log_error("%s", late.text);
		rc = -1;
	}
	return rc;
}

bool restore_new_pidns(const struct restore_session *s)
{
	return s->new_pidns;
}
