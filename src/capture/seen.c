// SPDX-License-Identifier: Apache-2.0
/*
 * Flags of areas and guard regions of large tasks, for which nobody waits in the freeze.
 *
 * VmFlags (advice, locks, ...) stand in /proc/PID/smaps only, and whoever reads that has the kernel walk all page
 * tables: 10 ms for each GiB of small pages, and guard regions take as long again. So they are read while the tree runs,
 * and in the freeze only /proc/PID/maps is: areas that are there as they were keep their flags.
 *
 * What the program may have set in the moment in between must not get lost. Its calls are watched meanwhile
 * (kernel/callwatch.h): when it made none that could have, all is well. Else, or where calls cannot be watched, a thread
 * reads everything again while the freeze goes on with other things, and a difference shows before anything is
 * final; then the whole is off, with the tree unharmed. Small tasks are not worth the risk.
 */
#define LOG_MODULE "areas"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "capture/session.h"
#include "mem/drain.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

enum { WORTH_PAGES = (64 << 20) / PAGE_BYTES };

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

/* What changes flags of an area, or puts another one in its place. */
static const int watched_calls[] = {
	SYS_mmap,     SYS_munmap,     SYS_mremap,
	SYS_brk,      SYS_madvise,    SYS_process_madvise,
	SYS_mlock,    SYS_mlock2,     SYS_munlock,
	SYS_mlockall, SYS_munlockall, SYS_prctl,
	SYS_shmat,    SYS_shmdt,      SYS_pkey_mprotect,
	SYS_mseal,    SYS_mprotect,   SYS_remap_file_pages,
	SYS_execve,   SYS_execveat,
};

static void seen_free(struct seen_areas *seen)
{
	call_watch_close(&seen->watch);
	proc_vmas_finish(&seen->vmas);
	vec_free(&seen->guards);
}

static void end_confirm(struct capture_session *s)
{
	if (!s->confirming)
		return;
	pthread_join(s->confirm_thread, NULL);
	sem_destroy(&s->confirm_end);
	s->confirming = false;
}

void seen_forget(struct capture_session *s)
{
	end_confirm(s);
	vec_foreach (seen, &s->seen)
		seen_free(seen);
	vec_free(&s->seen);
}

static bool is_large(pid_t pid)
{
	cleanup_free char *text = NULL;
	unsigned long resident;

	return io_read_filef(&text, NULL, "/proc/%d/statm", pid) == 0 &&
	       sscanf(text, "%*u %lu", &resident) == 1 && resident >= WORTH_PAGES;
}

/* One task; that it ends meanwhile is no error, and nothing is known of it then. */
static int look_at(struct capture_session *s, pid_t pid, struct err *err)
{
	struct seen_areas seen = {.pid = pid};
	struct proc_stat st;
	struct err ignored;

	if (!is_large(pid) || proc_stat(pid, &st, &ignored))
		return 0;
	if (call_watch_open(&seen.watch, pid, watched_calls, ARRAY_SIZE(watched_calls)))
		log_debug("pid %d: its calls cannot be watched", pid);
	if (proc_vmas_read(pid, true, &seen.vmas, &ignored)) {
		call_watch_close(&seen.watch);
		return 0;
	}
	seen.start_time = st.start_time;
	if (mem_find_guards(pid, &seen.guards, &ignored)) {
		seen_free(&seen);
		return 0;
	}
	if (vec_push(&s->seen, seen))
		return 0;
	seen_free(&seen);
	return err_nomem(err);
}

int capture_look_ahead(struct capture_session *s, struct err *err)
{
	proc_pids pids;
	int rc = 0;

	seen_forget(s);
	if (proc_tree(s->root, &pids, err))
		return -1;
	for (size_t i = 0; i < pids.n && rc == 0; i++)
		rc = look_at(s, pids.v[i], err);
	vec_free(&pids);
	return rc;
}

static bool same_area(const struct proc_vma *a, const struct proc_vma *b)
{
	return a->start == b->start && a->end == b->end && a->pgoff == b->pgoff &&
	       a->read == b->read && a->write == b->write && a->exec == b->exec &&
	       a->shared == b->shared && a->dev_major == b->dev_major &&
	       a->dev_minor == b->dev_minor && a->ino == b->ino && strcmp(a->name, b->name) == 0;
}

/* False: there is an area of which nothing is known. */
static bool take_flags(proc_vmas *vmas, const proc_vmas *seen)
{
	size_t at = 0;

	vec_foreach (v, vmas) {
		while (at < seen->n && seen->v[at].start < v->start)
			at++;
		if (at == seen->n || !same_area(v, &seen->v[at]))
			return false;
		v->flags = seen->v[at].flags;
		v->page_bytes = seen->v[at].page_bytes;
	}
	return true;
}

int seen_read(const struct capture_session *s, struct live_task *t, struct err *err)
{
	t->seen = NULL;
	vec_foreach (seen, &s->seen) {
		if (seen->pid != t->facts.pid || seen->start_time != t->stat.start_time)
			continue;
		if (proc_vmas_read(t->facts.pid, false, &t->vmas, err))
			return -1;
		if (take_flags(&t->vmas, &seen->vmas)) {
			t->seen = seen;
			t->calm = call_watch_count(&seen->watch) == 0;
			return 0;
		}
		proc_vmas_finish(&t->vmas);
	}
	return proc_vmas_read(t->facts.pid, true, &t->vmas, err);
}

/*
 * The tracking of pre-copy is our own, and comes and goes. So does the region of a visit, which is an area
 * more; which areas there are was read in the freeze.
 */
static bool same_flags(const proc_vmas *vmas, const proc_vmas *now)
{
	size_t at = 0;

	vec_foreach (v, vmas) {
		while (at < now->n && now->v[at].start < v->start)
			at++;
		if (at == now->n || !same_area(v, &now->v[at]) ||
		    (v->flags ^ now->v[at].flags) & ~(uint64_t)PROC_VMF_UFFD_WP)
			return false;
	}
	return true;
}

static bool same_ranges(const mem_ranges *a, const mem_ranges *b)
{
	return a->n == b->n && (a->n == 0 || memcmp(a->v, b->v, a->n * sizeof(*a->v)) == 0);
}

static int confirm_task(const struct live_task *t, struct err *err)
{
	mem_ranges guards = {0};
	proc_vmas now;
	int rc;

	if (proc_vmas_read(t->facts.pid, true, &now, err))
		return -1;
	rc = mem_find_guards(t->facts.pid, &guards, err);
	if (rc == 0 && (!same_flags(&t->vmas, &now) || !same_ranges(&t->seen->guards, &guards)))
		rc = err_set(err, EAGAIN,
			     "pid %d: it gave advice on its memory, or locked some, in the moment in "
			     "which it was stopped; try again, or with --mode stop",
			     t->facts.pid);
	proc_vmas_finish(&now);
	vec_free(&guards);
	return rc;
}

/* Nothing of the session is written but the result. */
static void *confirm_main(void *arg)
{
	struct capture_session *s = arg;
	uint64_t start = clock_ns();

	vec_foreach (t, &s->tasks) {
		if ((*t)->seen && !(*t)->calm && s->confirm_rc == 0)
			s->confirm_rc = confirm_task(*t, &s->confirm_err);
	}
	log_debug("areas were looked at again for %.3f ms", (double)(clock_ns() - start) / 1e6);
	sem_post(&s->confirm_end);
	return NULL;
}

int seen_confirm_start(struct capture_session *s, struct err *err)
{
	bool any = false;
	int no;

	vec_foreach (t, &s->tasks) {
		any |= (*t)->seen && !(*t)->calm;
	}
	s->confirm_rc = 0;
	if (!any)
		return 0;
	s->confirm_told = false;
	sem_init(&s->confirm_end, 0, 0);
	no = pthread_create(&s->confirm_thread, NULL, confirm_main, s);
	if (no)
		return err_sysno(err, no, "cannot start to look at the areas again");
	s->confirming = true;
	return 0;
}

void capture_unwatch(struct capture_session *s)
{
	vec_foreach (seen, &s->seen)
		call_watch_close(&seen->watch);
}

int capture_confirm(struct capture_session *s, struct err *err)
{
	if (!s->confirming)
		return 0;
	while (!s->confirm_told && sem_wait(&s->confirm_end) < 0 && errno == EINTR)
		;
	s->confirm_told = true;
	if (s->confirm_rc)
		*err = s->confirm_err;
	return s->confirm_rc;
}
