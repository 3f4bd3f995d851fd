// SPDX-License-Identifier: Apache-2.0
/*
 * Threads, and the state that the task kinds set from inside. A thread's
 * script is ready before the thread is: it starts to work as soon as it is born, without a
 * word from us. The leader's own script follows when all threads exist,
 * since they could not be made after its credentials are set.
 */
#include "restore/session.h"

#include "kinds/locks.h"

#include <errno.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum {
	EMIT_OPS = 160, /* room that a kind may count on in a leader's script */
	EMIT_BYTES = 24 * 1024,
};

static const uint64_t thread_flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
				     CLONE_THREAD | CLONE_SYSVSEM;

static int emit_kinds(struct restore_session *s, struct rtask *t, size_t thread, struct err *err)
{
	struct rslot *rs = t->slots[thread];

	for (size_t i = 0; task_kinds[i]; i++) {
		const struct task_kind *k = task_kinds[i];

		if (!k->emit || (k->when == KIND_PER_PROCESS && thread != 0))
			continue;
		if (thread == 0 && slot_room(s, rs, EMIT_OPS, EMIT_BYTES, err) < 0)
			return -1;
		if (k->emit(&s->r, t->snap, thread, &rs->script, err) < 0)
			return err_wrap(err, "%s", k->name);
	}
	return 0;
}

static int make_threads(struct restore_session *s, struct rtask *t, struct err *err)
{
	for (size_t i = 1; i < t->n_slots; i++) {
		struct rslot *rs = t->slots[i];

		if (emit_kinds(s, t, i, err) < 0 || slot_start(s, rs, err) < 0 ||
		    births_clone(s, leader(t), rs, (pid_t)t->snap->ps->threads[i], thread_flags,
				 err) < 0)
			return err_wrap(err, "thread %u", t->snap->ps->threads[i]);
	}
	return slot_start(s, leader(t), err);
}

/*
 * Deaths of helpers and zombies left a pending SIGCHLD; ignoring a signal for a
 * moment drops it. The kinds queue what the program had pending.
 */
static void forget_sigchld(struct script *sc)
{
	static const struct sigaction_image {
		uint64_t handler, flags, restorer, mask;
	} ignore = {.handler = 1}, dfl = {0};

	script_call(sc, "drop pending SIGCHLD", SYS_rt_sigaction, SV(SIGCHLD),
		    SV(script_data(sc, &ignore, sizeof(ignore))), SV(0), SV(8));
	script_call(sc, "drop pending SIGCHLD", SYS_rt_sigaction, SV(SIGCHLD),
		    SV(script_data(sc, &dfl, sizeof(dfl))), SV(0), SV(8));
}

static int emit_locks(struct restore_session *s, struct rtask *t, struct err *err)
{
	size_t next = 0;

	do {
		if (slot_room(s, leader(t), 16, 1024, err) < 0)
			return -1;
	} while (locks_emit(&s->r, t->snap, &next, &leader(t)->script));
	return 0;
}

static int leader_script(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rslot *rs = leader(t);

	if (slot_room(s, rs, 4, 256, err) < 0)
		return -1;
	forget_sigchld(&rs->script);
	if (t->adopts)
		script_call(&rs->script, "adopt orphans no longer", SYS_prctl,
			    SV(PR_SET_CHILD_SUBREAPER), SV(0), SV(0), SV(0), SV(0));
	if (!t->share_files)
		script_call(&rs->script, "close the broker's descriptors", SYS_close_range,
			    SV(s->base_fd), SV(UINT_MAX), SV(0));
	/* any close() of a locked file drops the POSIX locks of the process: they come after the last one */
	if (emit_locks(s, t, err) < 0)
		return -1;
	if (emit_kinds(s, t, 0, err) < 0)
		return -1;
	return slot_start(s, rs, err);
}

static int each_live(struct restore_session *s,
		     int (*fn)(struct restore_session *, struct rtask *, struct err *),
		     struct err *err)
{
	vec_foreach (tp, &s->tasks)
		if (!(*tp)->zombie && fn(s, *tp, err) < 0)
			return task_wrap(*tp, err);
	return slots_wait(s, err);
}

static int note_tids(struct restore_session *s, struct rtask *t, struct err *err)
{
	for (size_t i = 1; i < t->n_slots; i++)
		if (real_pid(s, (pid_t)t->snap->ps->threads[i], &t->slots[i]->tid, err) < 0)
			return -1;
	return 0;
}

int threads_build(struct restore_session *s, struct err *err)
{
	if (each_live(s, make_threads, err) < 0 || each_live(s, note_tids, err) < 0)
		return -1;
	return each_live(s, leader_script, err);
}

int threads_apply(struct restore_session *s, struct err *err)
{
	vec_foreach (tp, &s->tasks) {
		struct rtask *t = *tp;

		for (size_t thread = 0; !t->zombie && thread < t->n_slots; thread++)
			for (size_t i = 0; task_kinds[i]; i++) {
				const struct task_kind *k = task_kinds[i];

				if (!k->apply || (k->when == KIND_PER_PROCESS && thread != 0))
					continue;
				if (k->apply(&s->r, t->snap, thread, t->slots[thread]->tid, err) < 0)
					return err_wrap(err, "pid %d: %s", t->vpid, k->name);
			}
	}
	return 0;
}
