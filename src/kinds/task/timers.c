// SPDX-License-Identifier: Apache-2.0
/*
 * Interval timers (setitimer(2)) and POSIX timers (timer_create(2)). Values are
 * what remains; they start to run when they are set, at the very end.
 */
#include "base/io.h"
#include "kinds/task/task.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#endif
enum { RESTORE_IDS_OFF, RESTORE_IDS_ON, RESTORE_IDS_GET };

static TaskTimersEntry *timers_of(struct capture *c, struct task_facts *t)
{
	TaskCoreEntry *tc = t->snap->core[0]->tc;

	if (!tc->timers)
		tc->timers = snap_new(c->snap, TaskTimersEntry, task_timers_entry);
	return tc->timers;
}

/* ---- interval timers ---- */

static int itimer_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
			struct task_query *q, struct err *err)
{
	int i;

	q->data = script_data(s, NULL, 3 * sizeof(struct itimerval));
	for (i = 0; i < 3; i++)
		script_call(s, "read an interval timer", SYS_getitimer, SV(i),
			    SV(q->data + (uint64_t)i * sizeof(struct itimerval)));
	return 0;
}

static ItimerEntry *itimer_entry_of(struct capture *c, const struct itimerval *it)
{
	ItimerEntry *e = snap_new(c->snap, ItimerEntry, itimer_entry);

	if (!e)
		return NULL;
	e->isec = (uint64_t)it->it_interval.tv_sec;
	e->iusec = (uint64_t)it->it_interval.tv_usec;
	e->vsec = (uint64_t)it->it_value.tv_sec;
	e->vusec = (uint64_t)it->it_value.tv_usec;
	return e;
}

static int itimer_collect(struct capture *c, struct task_facts *t, size_t thread,
			  const struct script *s, const struct task_query *q, struct err *err)
{
	const struct itimerval *it = script_ptr(s, q->data);
	TaskTimersEntry *e = timers_of(c, t);

	if (!e)
		return err_nomem(err);
	e->real = itimer_entry_of(c, &it[ITIMER_REAL]);
	e->virt = itimer_entry_of(c, &it[ITIMER_VIRTUAL]);
	e->prof = itimer_entry_of(c, &it[ITIMER_PROF]);
	return e->real && e->virt && e->prof ? 0 : err_nomem(err);
}

static int itimer_emit(struct restore *r, const struct snap_task *t, size_t thread,
		       struct script *s, struct err *err)
{
	const TaskTimersEntry *e = t->core[0]->tc->timers;
	const ItimerEntry *all[3];
	struct itimerval it;
	int i;

	if (!e)
		return 0;
	all[ITIMER_REAL] = e->real;
	all[ITIMER_VIRTUAL] = e->virt;
	all[ITIMER_PROF] = e->prof;
	for (i = 0; i < 3; i++) {
		it.it_interval.tv_sec = (time_t)all[i]->isec;
		it.it_interval.tv_usec = (suseconds_t)all[i]->iusec;
		it.it_value.tv_sec = (time_t)all[i]->vsec;
		it.it_value.tv_usec = (suseconds_t)all[i]->vusec;
		if (!all[i]->vsec && !all[i]->vusec) /* due at this moment, or not armed at all */
			it.it_value = it.it_interval;
		if (it.it_value.tv_sec || it.it_value.tv_usec)
			script_call(s, "set an interval timer", SYS_setitimer, SV(i),
				    SV(script_data(s, &it, sizeof(it))), SV(0));
	}
	return 0;
}

const struct task_kind itimer_kind = {
	.name = "itimer",
	.when = KIND_PER_PROCESS,
	.query = itimer_query,
	.collect = itimer_collect,
	.emit = itimer_emit,
};

/* ---- POSIX timers ---- */

/* One timer of /proc/PID/timers: "ID: ", "signal: N/HEX", "notify: HOW/pid|tid.N", "ClockID: N" */
static const char *parse_timer(struct capture *c, const char *text, PosixTimerEntry *e, bool *ok)
{
	unsigned int id, clock;
	int signo, target, n = 0;
	char how[16], who[8];
	uint64_t value;

	*ok = sscanf(text, "ID: %u signal: %d/%" SCNx64 " notify: %15[a-z]/%7[a-z].%d ClockID: %u%n",
		     &id, &signo, &value, how, who, &target, &clock, &n) == 7 &&
	      n > 0;
	if (!*ok)
		return text;
	e->it_id = id;
	e->clock_id = clock;
	e->si_signo = (uint32_t)signo;
	e->sival_ptr = value;
	e->it_sigev_notify = strcmp(how, "none") == 0   ? SIGEV_NONE :
			     strcmp(how, "thread") == 0 ? SIGEV_THREAD :
							  SIGEV_SIGNAL;
	if (strcmp(who, "tid") == 0) {
		e->it_sigev_notify |= SIGEV_THREAD_ID;
		e->has_notify_thread_id = true;
		e->notify_thread_id = capture_virt_pid(c, target);
	}
	text += n;
	return text + strspn(text, " \n");
}

static int ptimer_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	TaskTimersEntry *all = timers_of(c, t);
	cleanup_free char *text = NULL;
	const char *p;
	size_t n = 0;
	bool ok;

	if (!all)
		return err_nomem(err);
	if (io_read_filef(&text, NULL, "/proc/%d/timers", t->pid))
		return err_sys(err, "cannot read the timers of pid %d", t->pid);
	for (p = text; (p = strstr(p, "ID: ")); p += 4)
		n += p == text || p[-1] == '\n';
	all->posix = arena_array(&c->snap->arena, PosixTimerEntry *, n + 1);
	for (p = text; all->posix && *p;) {
		PosixTimerEntry *e = snap_new(c->snap, PosixTimerEntry, posix_timer_entry);

		if (!e)
			return err_nomem(err);
		p = parse_timer(c, p, e, &ok);
		if (!ok || all->n_posix == n)
			return err_set(err, EPROTO, "/proc/%d/timers is not as proc(5) says", t->pid);
		/* The kernel lists the newest first; they are made again in the order of their making. */
		all->posix[n - ++all->n_posix] = e;
	}
	if (all->posix && all->n_posix != n)
		return err_set(err, EPROTO, "/proc/%d/timers is not as proc(5) says", t->pid);
	return all->posix ? 0 : err_nomem(err);
}

static int ptimer_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
			struct task_query *q, struct err *err)
{
	const TaskTimersEntry *all = timers_of(c, t);
	size_t i;

	q->data = script_data(s, NULL, all->n_posix * sizeof(struct itimerspec));
	q->op = s->n_ops;
	for (i = 0; i < all->n_posix; i++) {
		script_call(s, "read a POSIX timer", SYS_timer_gettime, SV(all->posix[i]->it_id),
			    SV(q->data + i * sizeof(struct itimerspec)));
		script_call(s, "read a POSIX timer's overruns", SYS_timer_getoverrun,
			    SV(all->posix[i]->it_id));
	}
	return 0;
}

static int ptimer_collect(struct capture *c, struct task_facts *t, size_t thread,
			  const struct script *s, const struct task_query *q, struct err *err)
{
	const struct itimerspec *its = script_ptr(s, q->data);
	const TaskTimersEntry *all = timers_of(c, t);
	size_t i;

	for (i = 0; i < all->n_posix; i++) {
		PosixTimerEntry *e = all->posix[i];

		e->isec = (uint64_t)its[i].it_interval.tv_sec;
		e->insec = (uint64_t)its[i].it_interval.tv_nsec;
		e->vsec = (uint64_t)its[i].it_value.tv_sec;
		e->vnsec = (uint64_t)its[i].it_value.tv_nsec;
		e->overrun = (uint32_t)script_result(s, q->op + 2 * (unsigned int)i + 1);
	}
	return 0;
}

static void emit_timer(const PosixTimerEntry *e, bool restore_ids, struct script *s)
{
	struct itimerspec its = {
		.it_interval = {(time_t)e->isec, (long)e->insec},
		.it_value = {(time_t)e->vsec, (long)e->vnsec},
	};
	struct sigevent sev = {
		.sigev_value.sival_ptr = (void *)(uintptr_t)e->sival_ptr,
		.sigev_signo = (int)e->si_signo,
		.sigev_notify = (int)e->it_sigev_notify,
	};
	int32_t id = (int32_t)e->it_id;
	uint64_t id_addr;

	if (e->it_sigev_notify & SIGEV_THREAD_ID)
		sev._sigev_un._tid = e->notify_thread_id;
	id_addr = script_data(s, &id, sizeof(id));
	if (restore_ids)
		script_call(s, "create a POSIX timer", SYS_timer_create, SV(e->clock_id),
			    SV(script_data(s, &sev, sizeof(sev))), SV(id_addr));
	else
		script_call(s, "create a POSIX timer", BLOB_OP_TIMER_CREATE, SV(e->clock_id),
			    SV(script_data(s, &sev, sizeof(sev))), SV(id), SV(id_addr));
	if (!e->vsec && !e->vnsec)
		its.it_value = its.it_interval; /* due at this moment, or not armed at all */
	if (its.it_value.tv_sec || its.it_value.tv_nsec)
		script_call(s, "set a POSIX timer", SYS_timer_settime, SV(e->it_id), SV(0),
			    SV(script_data(s, &its, sizeof(its))), SV(0));
}

static int ptimer_emit(struct restore *r, const struct snap_task *t, size_t thread,
		       struct script *s, struct err *err)
{
	const TaskTimersEntry *all = t->core[0]->tc->timers;
	bool restore_ids = prctl(PR_TIMER_CREATE_RESTORE_IDS, RESTORE_IDS_GET, 0, 0, 0) >= 0;
	size_t i;

	if (!all || !all->n_posix)
		return 0;
	if (restore_ids)
		script_call(s, "ask for POSIX timer ids", SYS_prctl, SV(PR_TIMER_CREATE_RESTORE_IDS),
			    SV(RESTORE_IDS_ON), SV(0), SV(0), SV(0));
	for (i = 0; i < all->n_posix; i++)
		emit_timer(all->posix[i], restore_ids, s);
	if (restore_ids)
		script_call(s, "ask for POSIX timer ids no more", SYS_prctl,
			    SV(PR_TIMER_CREATE_RESTORE_IDS), SV(RESTORE_IDS_OFF), SV(0), SV(0),
			    SV(0));
	return 0;
}

const struct task_kind ptimer_kind = {
	.name = "ptimer",
	.when = KIND_PER_PROCESS,
	.outside = ptimer_outside,
	.query = ptimer_query,
	.collect = ptimer_collect,
	.emit = ptimer_emit,
};
