// SPDX-License-Identifier: Apache-2.0
/*
 * The tasks behind the first, as plan.c decided; then process groups, and the
 * death of zombies and helpers.
 *
 * Births go in rounds: in each, every task that exists forks all children it
 * can fork now, with one script; where a child is to inherit memory, its
 * parent's memory is built between two rounds.
 */
#include "kinds/tty.h"
#include "restore/session.h"

#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { DEATH_TIMEOUT_MS = 10000 };

int births_clone(struct restore_session *s, struct rslot *from, const struct rslot *child,
		 pid_t vtid, uint64_t flags, struct err *err)
{
	struct clone_args args = {
		.flags = flags,
		.exit_signal = flags & (CLONE_PARENT | CLONE_THREAD) ? 0 : SIGCHLD,
		.stack = child->slot->stack_top - BLOB_STACK_BYTES,
		.stack_size = BLOB_STACK_BYTES,
		.set_tid_size = 1,
	};

	if (slot_room(s, from, 1, sizeof(args) + 64, err) < 0)
		return -1;
	args.set_tid = script_data(&from->script, &vtid, sizeof(vtid));
	script_same(&from->script, "create a task with its old pid (clone3)", vtid, BLOB_OP_CLONE,
		    SV(script_data(&from->script, &args, sizeof(args))), SV(sizeof(args)),
		    SV((uintptr_t)child->slot));
	return 0;
}

/* Calls @fn for tasks, then helpers. */
static int each(struct restore_session *s,
		int (*fn)(struct restore_session *, struct rtask *, struct err *), struct err *err)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (fn(s, s->tasks.v[i], err) < 0)
			return task_wrap(s->tasks.v[i], err);
	for (size_t i = 0; i < s->helpers.n; i++)
		if (fn(s, s->helpers.v[i], err) < 0)
			return task_wrap(s->helpers.v[i], err);
	return 0;
}

/* ---- births ---- */

static bool can_be_born(const struct rtask *t)
{
	const struct rtask *c = t->creator;

	if (t->pid || t->queued || !c || !c->pid)
		return false;
	if (t->inherits && !c->memory_done)
		return false;
	return t->before_setsid ? !c->setsid_done : c->setsid_done || !c->wants_setsid;
}

static int queue_birth(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rtask *c = t->creator;
	uint64_t flags = (t->as_sibling ? CLONE_PARENT : 0) | (t->share_files ? CLONE_FILES : 0);

	t->dirty = c->dirty || c->memory_done;
	t->vdso_now = c->vdso_now;
	t->exe_now = c->exe_now;
	t->now_pgid = c->now_pgid;
	t->queued = true;
	return births_clone(s, leader(c), leader(t), t->vpid, flags, err);
}

static int birth_before_setsid(struct restore_session *s, struct rtask *t, struct err *err)
{
	return t->before_setsid && can_be_born(t) ? queue_birth(s, t, err) : 0;
}

static int birth_after_setsid(struct restore_session *s, struct rtask *t, struct err *err)
{
	return !t->before_setsid && can_be_born(t) ? queue_birth(s, t, err) : 0;
}

static int found_session(struct restore_session *s, struct rtask *t, struct err *err)
{
	int tty;

	if (!t->pid || !t->wants_setsid || t->setsid_done)
		return 0;
	vec_foreach (x, &s->tasks)
		if ((*x)->creator == t && (*x)->before_setsid && !(*x)->queued)
			return 0;
	tty = tty_of_session(&s->r, (uint32_t)t->vpid, err);
	if (tty == -1 || slot_room(s, leader(t), 2, 0, err) < 0)
		return -1;
	script_call(&leader(t)->script, "found a session (setsid)", SYS_setsid, SV(0));
	if (tty != TTY_NO_SESSION)
		script_call(&leader(t)->script, "take a controlling terminal (TIOCSCTTY)",
			    SYS_ioctl, SV(tty), SV(TIOCSCTTY), SV(0));
	t->setsid_done = true;
	t->now_pgid = t->vpid;
	return 0;
}

static int start_script(struct restore_session *s, struct rtask *t, struct err *err)
{
	return t->pid ? slot_start(s, leader(t), err) : 0;
}

static int note_birth(struct restore_session *s, struct rtask *t, struct err *err)
{
	return t->queued && !t->pid ? task_born(s, t, err) : 0;
}

/* Returns how many were born, or -1. */
static int round_of_births(struct restore_session *s, struct err *err)
{
	int n = 0;

	if (each(s, birth_before_setsid, err) < 0 || each(s, found_session, err) < 0 ||
	    each(s, birth_after_setsid, err) < 0)
		return -1;
	if (each(s, start_script, err) < 0 || slots_wait(s, err) < 0)
		return -1;
	vec_foreach (t, &s->tasks)
		n += (*t)->queued && !(*t)->pid;
	vec_foreach (t, &s->helpers)
		n += (*t)->queued && !(*t)->pid;
	return each(s, note_birth, err) < 0 ? -1 : n;
}

/* Builds the memory of tasks; @only_parents: of those whose children wait for it. Returns how many, or -1. */
static int build_memory(struct restore_session *s, bool only_parents, struct err *err)
{
	cleanup_free struct rtask **list = calloc(s->tasks.n, sizeof(*list));
	size_t n = 0;

	if (!list)
		return err_nomem(err);
	vec_foreach (tp, &s->tasks) {
		bool wanted = !only_parents;

		if (!(*tp)->pid || (*tp)->zombie || (*tp)->memory_done)
			continue;
		for (size_t i = 0; !wanted && i < s->tasks.n; i++)
			wanted = s->tasks.v[i]->creator == *tp && s->tasks.v[i]->inherits;
		if (wanted)
			list[n++] = *tp;
	}
	return space_build(s, list, n, err) < 0 ? -1 : (int)n;
}

int births_run(struct restore_session *s, struct err *err)
{
	int n;

	do {
		n = round_of_births(s, err);
		if (n == 0)
			n = build_memory(s, true, err);
	} while (n > 0);
	if (n < 0)
		return -1;
	vec_foreach (tp, &s->tasks)
		if (!(*tp)->pid)
			return err_set(err, EDEADLK,
				       "pid %d (%s): no order of forks leads to its session",
				       (*tp)->vpid, task_comm(*tp));
	return build_memory(s, false, err) < 0 ? -1 : 0;
}

/* ---- process groups ---- */

static int lead_group(struct restore_session *s, struct rtask *t, struct err *err)
{
	if (t->pgid != t->vpid || t->now_pgid == t->vpid)
		return 0;
	if (slot_room(s, leader(t), 1, 0, err) < 0)
		return -1;
	script_call(&leader(t)->script, "lead a process group (setpgid)", SYS_setpgid, SV(0), SV(0));
	t->now_pgid = t->vpid;
	return slot_start(s, leader(t), err);
}

/* The first member of a group whose leader is gone forks a task with the leader's pid. */
static int replace_leader(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rtask *h;

	if (t->pgid == 0 || t->pgid == t->now_pgid || session_task(s, t->pgid))
		return 0;
	h = plan_helper(s, t->pgid, t, err);
	if (!h || region_slots(s, h, err) < 0)
		return -1;
	h->pgid = h->now_pgid = h->vpid;
	script_call(&leader(h)->script, "lead a process group (setpgid)", SYS_setpgid, SV(0), SV(0));
	if (slot_start(s, leader(h), err) < 0) /* it runs as soon as it is born */
		return -1;
	h->queued = true;
	h->dirty = true;
	h->vdso_now = t->vdso_now;
	if (births_clone(s, leader(t), leader(h), h->vpid, CLONE_FILES, err) < 0)
		return -1;
	return slot_start(s, leader(t), err);
}

static int join_group(struct restore_session *s, struct rtask *t, struct err *err)
{
	if (t->pgid == 0 || t->pgid == t->now_pgid)
		return 0;
	if (slot_room(s, leader(t), 1, 0, err) < 0)
		return -1;
	script_call(&leader(t)->script, "join a process group (setpgid)", SYS_setpgid, SV(0),
		    SV(t->pgid));
	t->now_pgid = t->pgid;
	return slot_start(s, leader(t), err);
}

int births_groups(struct restore_session *s, struct err *err)
{
	if (each(s, lead_group, err) < 0 || slots_wait(s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->tasks.n; i++)
		if (replace_leader(s, s->tasks.v[i], err) < 0)
			return task_wrap(s->tasks.v[i], err);
	if (slots_wait(s, err) < 0 || each(s, note_birth, err) < 0)
		return -1;
	return each(s, join_group, err) < 0 ? -1 : slots_wait(s, err);
}

/* ---- deaths ---- */

static int await_death(const struct rtask *t, struct err *err)
{
	struct pollfd p = {.fd = t->pidfd, .events = POLLIN};
	int n;

	do
		n = poll(&p, 1, DEATH_TIMEOUT_MS);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return 0;
	return err_set(err, ETIMEDOUT, "it should have ended, and did not");
}

static void die_by_signal(struct script *sc, pid_t vpid, int sig)
{
	static const struct {
		uint64_t handler, flags, restorer, mask;
	} dfl;
	static const uint64_t no_limit[2];
	uint64_t set = 1ULL << (sig - 1);

	script_call(sc, "disable core dumps", SYS_setrlimit, SV(RLIMIT_CORE),
		    SV(script_data(sc, no_limit, 16)));
	if (sig != SIGKILL)
		script_call(sc, "take the default action of a signal", SYS_rt_sigaction, SV(sig),
			    SV(script_data(sc, &dfl, sizeof(dfl))), SV(0), SV(8));
	script_call(sc, "die like the zombie died", SYS_kill, SV(vpid), SV(sig));
	script_call(sc, "unblock a signal", SYS_rt_sigprocmask, SV(SIG_UNBLOCK),
		    SV(script_data(sc, &set, 8)), SV(0), SV(8));
}

/* The last script of a task: nobody waits for its end. */
static void start_death(struct rtask *t, int status)
{
	struct script *sc = &leader(t)->script;

	if (t->snap)
		script_call(sc, "set the name", SYS_prctl, SV(PR_SET_NAME),
			    SV(script_string(sc, task_comm(t))), SV(0), SV(0), SV(0));
	if (WIFSIGNALED(status))
		die_by_signal(sc, t->vpid, WTERMSIG(status));
	script_call(sc, "exit", SYS_exit_group, SV(WEXITSTATUS(status)));
	blob_start(leader(t)->slot, sc);
}

static int start_zombie(struct restore_session *s, struct rtask *t, struct err *err)
{
	int status;

	if (!t->zombie)
		return 0;
	status = (int)t->snap->core[0]->tc->exit_code;
	if (WIFSTOPPED(status) || (WIFSIGNALED(status) && WTERMSIG(status) > 64))
		return err_set(err, EINVAL, "core-%d.img: 0x%x is no status that a zombie can have",
			       t->vpid, status);
	start_death(t, status);
	return 0;
}

static int await_zombie(struct restore_session *s, struct rtask *t, struct err *err)
{
	return t->zombie ? await_death(t, err) : 0;
}

static int adopt(struct restore_session *s, struct rtask *t, struct err *err)
{
	if (!t->adopts)
		return 0;
	script_call(&leader(t)->script, "adopt orphans", SYS_prctl, SV(PR_SET_CHILD_SUBREAPER),
		    SV(1), SV(0), SV(0), SV(0));
	return slot_start(s, leader(t), err);
}

/* A helper's parent is its owner: helpers are never born as siblings. */
static int end_helper(struct restore_session *s, struct rtask *h, struct err *err)
{
	struct rslot *owner = leader(h->owner);

	start_death(h, 0);
	if (await_death(h, err) < 0)
		return task_wrap(h, err);
	script_same(&owner->script, "reap a temporary task", h->vpid, SYS_wait4, SV(h->vpid), SV(0),
		    SV(__WALL), SV(0));
	if (slot_run(s, owner, err) < 0)
		return task_wrap(h->owner, err);
	h->pid = 0;
	return 0;
}

int births_deaths(struct restore_session *s, struct err *err)
{
	if (each(s, adopt, err) < 0 || slots_wait(s, err) < 0)
		return -1;
	for (size_t i = s->helpers.n; i-- > 0;) /* the owner of a helper may be an earlier one */
		if (end_helper(s, s->helpers.v[i], err) < 0)
			return -1;
	if (each(s, start_zombie, err) < 0)
		return -1;
	return each(s, await_zombie, err);
}
