// SPDX-License-Identifier: Apache-2.0
/*
 * The region: one shared anonymous mapping that holds the blob's code and a
 * slot for every thread to come. It lies at an address that is free in us and
 * in every task of the snapshot, so that tasks inherit it by fork, nobody has
 * to move it, and the coordinator writes scripts where they are executed.
 * Behind it, not mapped by us, is the parking place for the vdso.
 */
#include "restore/session.h"

#define LOG_MODULE "restore"
#include "base/log.h"
#include "kernel/proc.h"
#include "kernel/ptrace.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

enum {
	LEADER_SLOT_BYTES = 128 * 1024,
	THREAD_SLOT_BYTES = 32 * 1024,
	HELPER_SLOT_BYTES = 16 * 1024,
	CODE_BYTES = 16 * 1024,
};
#define SPARE_HELPERS 64
#define SPARE_LEADERS 64
#define MARGIN_BYTES (2UL << 20) /* from any other area: stacks grow */
/*
 * Far from where programs begin and their heaps grow (below, up to some GiB, and at 0x55...), from the mappings
 * of the kernel's choice (0x7f...), and from the heaps and shadows that runtimes put at fixed places. So the place of
 * a task that is made before anything is known of the tree is mostly free in it. Lower ones are for those who leave no other.
 */
#define FIRST_ADDR (1UL << 45)
#define LOWEST_ADDR (256UL << 20)
#define HIGHEST_ADDR 0x7ffff0000000UL

struct range {
	uint64_t start, end;
};
typedef VEC(struct range) ranges;

static int by_start(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* Everything that is in the way, here or in the tasks. */
static int collect_ranges(struct restore_session *s, ranges *out, struct err *err)
{
	proc_vmas own = {0};
	bool ok = true;

	if (proc_vmas_read(getpid(), false, &own, err) < 0)
		return -1;
	vec_foreach (v, &own)
		ok = ok && vec_push(out, (struct range){v->start, v->end});
	proc_vmas_finish(&own);
	vec_foreach (tp, &s->tasks) {
		const MmEntry *mm = (*tp)->snap ? (*tp)->snap->mm : NULL;

		for (size_t i = 0; mm && i < mm->n_vmas; i++)
			ok = ok &&
			     vec_push(out, (struct range){mm->vmas[i]->start, mm->vmas[i]->end});
	}
	if (!ok)
		return err_nomem(err);
	if (out->n)
		qsort(out->v, out->n, sizeof(out->v[0]), by_start);
	return 0;
}

/* The lowest gap of @bytes from @at on, with a margin on both sides; 0 if there is none. */
static uint64_t gap_from(const ranges *r, uint64_t at, size_t bytes)
{
	vec_foreach (x, r) {
		if (x->start >= at + bytes + MARGIN_BYTES)
			return at;
		at = MAX(at, x->end + MARGIN_BYTES);
	}
	return at + bytes <= HIGHEST_ADDR ? at : 0;
}

static uint64_t find_gap(const ranges *r, size_t bytes)
{
	uint64_t at = gap_from(r, FIRST_ADDR, bytes);

	return at ? at : gap_from(r, LOWEST_ADDR, bytes);
}

static size_t slots_bytes(const struct restore_session *s)
{
	size_t bytes = SPARE_HELPERS * (size_t)HELPER_SLOT_BYTES;

	vec_foreach (tp, &s->tasks)
		bytes += LEADER_SLOT_BYTES + ((*tp)->n_slots - 1) * (size_t)THREAD_SLOT_BYTES;
	return bytes + s->helpers.n * (size_t)HELPER_SLOT_BYTES;
}

static int map_region(struct restore_session *s, size_t slots, struct err *err)
{
	size_t parking = (size_t)vdso_set_bytes(&s->vdso);
	ranges used = {0};
	uint64_t at = 0;
	void *got;

	s->mapped_bytes = CODE_BYTES + slots;
	s->region_bytes = s->mapped_bytes + parking;
	if (collect_ranges(s, &used, err) == 0) {
		at = find_gap(&used, s->region_bytes);
		if (!at)
			err_set(err, ENOMEM,
				"no address range of %zu bytes is free in every task of the tree",
				s->region_bytes);
	}
	vec_free(&used);
	if (!at)
		return -1;
	got = mmap((void *)at, s->mapped_bytes, PROT_READ | PROT_WRITE | PROT_EXEC,
		   MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
	if (got == MAP_FAILED)
		return err_sys(err, "cannot map %zu bytes at 0x%llx for the tree's scripts",
			       s->mapped_bytes, (unsigned long long)at);
	s->region = got;
	s->parking = at + s->mapped_bytes;
	if (blob_code_bytes() > CODE_BYTES)
		return err_set(err, ENOSPC, "the blob has %zu bytes, more than its place",
			       blob_code_bytes());
	memcpy(s->region, blob_code(), blob_code_bytes());
	s->slot_off = CODE_BYTES;
	return 0;
}

int region_gap(struct restore_session *s, size_t bytes, uint64_t *at_out, struct err *err)
{
	ranges used = {0};
	int rc = collect_ranges(s, &used, err);

	if (rc == 0) {
		/* the region is among our mappings, and the vdso's parking place within the margin */
		*at_out = find_gap(&used, bytes + (s->region_bytes - s->mapped_bytes));
		if (!*at_out)
			rc = err_set(err, ENOMEM,
				     "no address range of %zu bytes is free in every task of the tree",
				     bytes);
		*at_out += s->region_bytes - s->mapped_bytes;
	}
	vec_free(&used);
	return rc;
}

int region_create(struct restore_session *s, struct err *err)
{
	return s->region ? 0 : map_region(s, slots_bytes(s), err);
}

void region_destroy(struct restore_session *s)
{
	for (size_t i = s->slots.n; i-- > 0;) { /* backwards: the robust list is last in, first out */
		blob_slot_finish(s->slots.v[i]->slot);
		free(s->slots.v[i]);
	}
	vec_free(&s->slots);
	vec_free(&s->running);
	if (s->region)
		munmap(s->region, s->mapped_bytes);
	s->region = NULL;
}

static struct rslot *add_slot(struct restore_session *s, struct rtask *t, size_t thread, size_t bytes)
{
	struct rslot *rs = malloc(sizeof(*rs)); /* its label table is large, and mostly never touched */
	uint8_t *at = s->region + s->slot_off;

	if (!rs || !vec_push(&s->slots, rs)) {
		free(rs);
		return NULL;
	}
	s->slot_off += bytes;
	rs->slot = blob_slot_init(at, (uintptr_t)at, bytes, BLOB_DIE_WITH_OWNER, 0);
	rs->task = t;
	rs->thread = thread;
	rs->tid = 0;
	rs->running = false;
	blob_script_init(&rs->script, rs->slot, (uintptr_t)at);
	return rs;
}

int region_create_ahead(struct restore_session *s, struct rtask *root, size_t n_threads,
			struct err *err)
{
	/* each may be a process, and there may be more of them by then */
	size_t bytes = SPARE_HELPERS * (size_t)HELPER_SLOT_BYTES +
		       (SPARE_LEADERS + n_threads + n_threads / 4) * (size_t)LEADER_SLOT_BYTES;

	root->slots = arena_array(&s->arena, struct rslot *, 1);
	if (!root->slots)
		return err_nomem(err);
	if (map_region(s, bytes, err) < 0)
		return -1;
	root->slots[0] = add_slot(s, root, 0, LEADER_SLOT_BYTES);
	return root->slots[0] ? 0 : err_nomem(err);
}

bool region_fits(const struct restore_session *s, const struct restore_session *ahead)
{
	uint64_t start = (uintptr_t)ahead->region, end = start + ahead->region_bytes;

	if (CODE_BYTES + slots_bytes(s) > ahead->mapped_bytes)
		return false;
	vec_foreach (tp, &s->tasks) {
		const MmEntry *mm = (*tp)->snap->mm;

		for (size_t i = 0; mm && i < mm->n_vmas; i++)
			if (mm->vmas[i]->start < end + MARGIN_BYTES &&
			    mm->vmas[i]->end + MARGIN_BYTES > start)
				return false;
	}
	return true;
}

void region_take(struct restore_session *s, struct restore_session *ahead)
{
	s->region = ahead->region;
	s->region_bytes = ahead->region_bytes;
	s->mapped_bytes = ahead->mapped_bytes;
	s->parking = ahead->parking;
	s->slot_off = ahead->slot_off;
	vec_free(&s->slots);
	s->slots = ahead->slots;
	memset(&ahead->slots, 0, sizeof(ahead->slots));
	ahead->region = NULL;
}

int region_slots(struct restore_session *s, struct rtask *t, struct err *err)
{
	size_t bytes = !t->snap || t->zombie ? HELPER_SLOT_BYTES : LEADER_SLOT_BYTES, i = 0;
	struct rslot *first = t->slots ? t->slots[0] : NULL; /* it lives already */

	t->slots = arena_array(&s->arena, struct rslot *, t->n_slots);
	if (!t->slots)
		return err_nomem(err);
	if (first) {
		t->slots[i++] = first;
		bytes = THREAD_SLOT_BYTES;
	}
	for (; i < t->n_slots; i++) {
		if (s->slot_off + bytes > s->mapped_bytes)
			return err_set(err, ENOSPC,
				       "more than %d temporary tasks would be needed for process "
				       "groups whose leaders are gone",
				       SPARE_HELPERS);
		t->slots[i] = add_slot(s, t, i, bytes);
		if (!t->slots[i])
			return err_nomem(err);
		bytes = THREAD_SLOT_BYTES;
	}
	return 0;
}

int task_wrap(const struct rtask *t, struct err *err)
{
	return t->snap ? err_wrap(err, "pid %d (%s)", t->vpid, task_comm(t)) :
			 err_wrap(err, "temporary task %d", t->vpid);
}

static int explain_signal(pid_t pid, int sig, struct err *err)
{
	struct user_regs_struct regs = {0};
	siginfo_t info = {0};
	struct err unused;

	ptrace(PTRACE_GETSIGINFO, pid, NULL, &info);
	if (pt_get_regs(pid, &regs, &unused) < 0)
		log_debug("%s", unused.text);
	return err_set(err, EFAULT, "the half-built task got signal %d (%s) at 0x%llx, address %p",
		       sig, strsignal(sig), regs.rip, info.si_addr);
}

struct waiting {
	const struct restore_session *s;
	const struct rslot *rs;
};

/*
 * Asked every few milliseconds while a script runs. It may be long: the kernel waits for lazy memory
 * that a script needs until somebody brings it.
 */
static int may_go_on(void *arg, struct err *err)
{
	const struct waiting *w = arg;
	const struct rslot *rs = w->rs;
	pid_t pid = rs->task->pid;
	struct proc_stat st;
	int status, rc;

	if (w->s->opt.interrupted && w->s->opt.interrupted(err) < 0)
		return -1;
	if (!pid)
		return 0; /* about to be born; whoever makes it reports failures */
	rc = proc_stat(pid, &st, err);
	if (rc < 0 && err->no == ENOMEM)
		return -1;
	if (rc < 0 || st.state == 'Z' || st.state == 'X')
		return err_set(err, ESRCH, "the half-built task died; was it killed?");
	if (st.state != 't' || !rs->task->seized)
		return 0;
	if (waitpid(pid, &status, __WALL | WNOHANG) == pid && WIFSTOPPED(status))
		return explain_signal(pid, WSTOPSIG(status), err);
	return 0;
}

static int wait_slot(const struct restore_session *s, struct rslot *rs, struct err *err)
{
	struct waiting w = {s, rs};

	rs->running = false;
	if (blob_wait(rs->slot, &rs->script, may_go_on, &w, err) < 0)
		return task_wrap(rs->task, err);
	return 0;
}

int slot_start(struct restore_session *s, struct rslot *rs, struct err *err)
{
	if (rs->script.overflow)
		return err_set(err, ENOSPC, "a script does not fit in its place");
	if (rs->script.n_ops == 0)
		return 0;
	if (!vec_push(&s->running, rs))
		return err_nomem(err);
	rs->running = true;
	blob_start(rs->slot, &rs->script);
	return 0;
}

/* Waits for all, also after a failure: nothing runs when it returns. */
int slots_wait(struct restore_session *s, struct err *err)
{
	struct err later;
	int r = 0;

	vec_foreach (p, &s->running) {
		if (!(*p)->running)
			continue;
		if (wait_slot(s, *p, r ? &later : err) < 0)
			r = -1;
		else
			script_reset(&(*p)->script);
	}
	s->running.n = 0;
	return r;
}

int slot_run(struct restore_session *s, struct rslot *rs, struct err *err)
{
	struct waiting w = {s, rs};

	if (rs->script.n_ops == 0 && !rs->script.overflow)
		return 0;
	if (script_run(rs->slot, &rs->script, may_go_on, &w, err) < 0)
		return -1;
	script_reset(&rs->script);
	return 0;
}

int slot_room(struct restore_session *s, struct rslot *rs, unsigned int ops, size_t bytes,
	      struct err *err)
{
	if (script_has_room(&rs->script, ops, bytes))
		return 0;
	if (slot_run(s, rs, err) < 0)
		return -1;
	if (!script_has_room(&rs->script, ops, bytes))
		return err_set(err, ENOSPC, "a script of %u operations does not fit in its place",
			       ops);
	return 0;
}
