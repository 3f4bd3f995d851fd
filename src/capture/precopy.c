// SPDX-License-Identifier: Apache-2.0
/*
 * Rounds of pre-copy over a tree: who belongs to it, the tracking of each task,
 * and which pages the receiver has.
 */
#define LOG_MODULE "precopy"
#include "base/clock.h"
#include "capture/precopy_priv.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { STILL_PAGES = 16384 };

/* ---- the sink between: it notes what the receiver has ---- */

struct recorder {
	struct page_sink sink;
	struct page_sink *to;
	mem_ranges *sent;
	/* remembers what is of files; NULL: nobody does */
	struct still *still;
	size_t *room;
	const MmEntry *mm;
	size_t area; /* of mm, at the address or before it: addresses ascend */
};

static bool is_of_file(struct recorder *r, uint64_t vaddr)
{
	while (r->area < r->mm->n_vmas && r->mm->vmas[r->area]->end <= vaddr)
		r->area++;
	return r->area < r->mm->n_vmas && r->mm->vmas[r->area]->status & VMA_FILE_PRIVATE;
}

static int record_begin(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	struct page_sink *to = ((struct recorder *)s)->to;

	return to->ops->begin(to, pm, err);
}

static int record_pages(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr,
			const void *data, uint64_t n, uint32_t flags, struct err *err)
{
	struct recorder *r = (struct recorder *)s;

	if (mem_ranges_push(r->sent, vaddr, vaddr + n * PAGE_BYTES, err))
		return -1;
	if (r->still && is_of_file(r, vaddr))
		still_put(r->still, vaddr, data, n, r->room);
	else if (r->still)
		still_drop(r->still, vaddr, n);
	return r->to->ops->pages(r->to, pm, vaddr, data, n, flags, err);
}

static int record_absent(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr, uint64_t n,
			 uint32_t flags, struct err *err)
{
	struct recorder *r = (struct recorder *)s;

	if (flags & PE_PARENT && mem_ranges_push(r->sent, vaddr, vaddr + n * PAGE_BYTES, err))
		return -1;
	return r->to->ops->absent(r->to, pm, vaddr, n, flags, err);
}

static int record_end(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	struct page_sink *to = ((struct recorder *)s)->to;

	return to->ops->end(to, pm, err);
}

static const struct page_sink_ops recorder_ops = {
	.name = "recorder",
	.begin = record_begin,
	.pages = record_pages,
	.absent = record_absent,
	.end = record_end,
};

/* ---- tasks ---- */

static void end_pass(struct tracked *t)
{
	vec_free(&t->regions);
	vec_free(&t->plan);
	vec_free(&t->kept);
	vec_free(&t->next_sent);
	vec_free(&t->next_zeros);
	t->scanned = t->lost = false;
}

static void forget_pages(struct precopy *p, struct tracked *t)
{
	end_pass(t);
	still_clear(&t->still, &p->still_room);
	vec_free(&t->sent);
	vec_free(&t->zeros);
	track_close(t->track);
	t->track = NULL;
}

static void tracked_free(struct precopy *p, struct tracked *t)
{
	if (!t)
		return;
	forget_pages(p, t);
	free(t);
}

static void free_maps(struct precopy *p)
{
	vec_foreach (pm, &p->maps) {
		vec_free(&(*pm)->entries);
		free(*pm);
	}
	p->maps.n = 0;
}

void precopy_close(struct precopy *p)
{
	if (!p)
		return;
	vec_foreach (t, &p->tasks)
		tracked_free(p, *t);
	vec_free(&p->tasks);
	free_maps(p);
	vec_free(&p->maps);
	sleeps_finish(&p->sleeps);
	free(p);
}

void precopy_end(struct precopy *p)
{
	if (p)
		vec_foreach (t, &p->tasks)
			if ((*t)->track)
				track_unregister((*t)->track);
	precopy_close(p);
}

struct precopy *precopy_create(pid_t root, const struct kind_options *opt, unsigned int timeout_ms,
			       struct err *err)
{
	struct precopy *p = calloc(1, sizeof(*p));

	if (!p) {
		err_nomem(err);
		return NULL;
	}
	p->root = root;
	p->opt = opt;
	p->timeout_ms = timeout_ms;
	p->last_scan_ns = clock_ns();
	if (track_probe(&p->method, err)) {
		precopy_close(p);
		return NULL;
	}
	return p;
}

struct tracked *precopy_add(struct precopy *p, pid_t pid, uint64_t start_time, struct err *err)
{
	struct tracked *t = calloc(1, sizeof(*t));

	if (!t || !vec_push(&p->tasks, t)) {
		free(t);
		err_nomem(err);
		return NULL;
	}
	t->pid = t->vpid = pid;
	t->start_time = start_time;
	return t;
}

static struct tracked *find_tracked(const struct precopy *p, pid_t pid, uint64_t start_time)
{
	vec_foreach (t, &p->tasks)
		if ((*t)->pid == pid && (*t)->start_time == start_time)
			return *t;
	return NULL;
}

/* Drops those that were not found by the pass. */
static void drop_gone(struct precopy *p)
{
	size_t n = 0;

	vec_foreach (t, &p->tasks) {
		if ((*t)->there)
			p->tasks.v[n++] = *t;
		else
			tracked_free(p, *t);
	}
	p->tasks.n = n;
}

/* Looks who is there. *missing: somebody in whom the tracking has to be planted. */
static int list_tasks(struct precopy *p, bool *missing, struct err *err)
{
	proc_pids pids;
	struct err ignored;
	struct proc_stat st;
	struct tracked *t;

	if (proc_tree(p->root, &pids, err))
		return -1;
	vec_foreach (x, &p->tasks)
		(*x)->there = false;
	*missing = false;
	vec_foreach (pid, &pids) {
		if (proc_stat(*pid, &st, &ignored) || st.state == 'Z' || st.state == 'X')
			continue;
		t = find_tracked(p, *pid, st.start_time);
		*missing |= !t || !t->track;
		if (t)
			t->there = true;
	}
	vec_free(&pids);
	drop_gone(p);
	return 0;
}

/* ---- planting, in a stop ---- */

static int plant(struct precopy *p, const struct live_task *live, struct tracked *t, bool nested,
		 struct err *err)
{
	const struct live_thread *th = &live->threads.v[0];
	struct visit_thread host = {.tid = th->tid, .regs = th->regs, .sigmask = th->sigmask};
	cleanup_free struct visit *v = NULL;
	struct err late;

	t->vpid = task_image_pid(t->pid, nested);
	if (p->method == TRACK_SOFT_DIRTY) {
		t->track = track_adopt(t->pid, p->method, -1, &(mem_ranges){0}, err);
		return t->track ? 0 : -1;
	}
	v = malloc(sizeof(*v));
	if (!v)
		return err_nomem(err);
	if (visit_open(v, t->pid, &host, 0, &live->vmas, live->keep_left, err))
		return -1;
	t->track = track_plant(v, p->method, err);
	if (visit_close(v, t->track ? err : &late)) {
		if (!t->track)
			log_error("%s", late.text);
		return -1;
	}
	return t->track ? 0 : -1;
}

static int plant_in_all(struct precopy *p, struct capture_session *s, unsigned int *planted,
			struct err *err)
{
	bool nested = tasks_nested(s);

	vec_foreach (it, &s->tasks) {
		const struct live_task *live = *it;
		struct tracked *t = find_tracked(p, live->facts.pid, live->stat.start_time);

		if (live->facts.zombie)
			continue;
		if (!t)
			t = precopy_add(p, live->facts.pid, live->stat.start_time, err);
		if (!t)
			return -1;
		t->there = true;
		if (t->track)
			continue;
		if (plant(p, live, t, nested, err))
			return err_wrap(err, "pid %d", t->pid);
		++*planted;
	}
	return 0;
}

/* ---- scans ---- */

/* The areas of a task, for the tracking and for drain_task. */
struct areas {
	struct track_area *track;
	VmaEntry *entries;
	VmaEntry **list;
	MmEntry mm;
};

static void areas_free(struct areas *a)
{
	free(a->track);
	free(a->entries);
	free(a->list);
}

#define cleanup_areas __attribute__((cleanup(areas_free)))

static int areas_alloc(struct areas *a, size_t n, struct err *err)
{
	mm_entry__init(&a->mm);
	a->track = calloc(n + 1, sizeof(*a->track));
	a->entries = calloc(n + 1, sizeof(*a->entries));
	a->list = calloc(n + 1, sizeof(*a->list));
	a->mm.vmas = a->list;
	return a->track && a->entries && a->list ? 0 : err_nomem(err);
}

/* The private areas of a task that may be running. */
static int areas_look(struct areas *a, pid_t pid, struct err *err)
{
	proc_vmas vmas;
	size_t n = 0;
	int rc;

	if (proc_vmas_read(pid, false, &vmas, err))
		return -1;
	rc = areas_alloc(a, vmas.n, err);
	vec_foreach (v, &vmas) {
		if (rc || !area_has_own_pages(v))
			continue;
		a->track[n] =
			(struct track_area){.start = v->start, .end = v->end, .file = v->ino != 0};
		vma_entry__init(&a->entries[n]);
		a->entries[n].start = v->start;
		a->entries[n].end = v->end;
		a->entries[n].flags = MAP_PRIVATE | (v->ino ? 0 : MAP_ANONYMOUS);
		a->entries[n].status = VMA_REGULAR | (v->ino ? VMA_FILE_PRIVATE : VMA_ANON_PRIVATE);
		a->list[n] = &a->entries[n];
		n++;
	}
	a->mm.n_vmas = n;
	proc_vmas_finish(&vmas);
	return rc;
}

/* The same out of a snapshot; without the vdso, which is always sent whole. */
static int areas_take(struct areas *a, const MmEntry *mm, struct err *err)
{
	size_t n = 0;

	if (areas_alloc(a, mm->n_vmas, err))
		return -1;
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *e = mm->vmas[i];

		if (drain_has_own_pages(e) && !(e->status & (VMA_VDSO | VMA_GUARD)))
			a->track[n++] = (struct track_area){.start = e->start,
							    .end = e->end,
							    .file = e->status & VMA_FILE_PRIVATE};
	}
	a->mm.n_vmas = n;
	return 0;
}

/* Out of what a scan found: what to read, what is kept, which pages stay zero. */
static int sort_pages(struct tracked *t, struct err *err)
{
	mem_ranges clean = {0}, dirty = {0}, kept_or_zero = {0}, unknown = {0};
	int rc = 0;

	vec_foreach (r, &t->regions) {
		if (rc == 0)
			rc = mem_ranges_push(r->dirty ? &dirty : &clean, r->start, r->end, err);
	}
	if (rc == 0 && !mem_ranges_common(&clean, &t->sent, &t->kept, err) &&
	    !mem_ranges_common(&clean, &t->zeros, &t->next_zeros, err) &&
	    !mem_ranges_union(&t->kept, &t->next_zeros, &kept_or_zero, err) &&
	    !mem_ranges_without(&clean, &kept_or_zero, &unknown, err))
		rc = mem_ranges_union(&dirty, &unknown, &t->plan, err);
	else
		rc = -1;
	vec_free(&clean);
	vec_free(&dirty);
	vec_free(&kept_or_zero);
	vec_free(&unknown);
	return rc;
}

static bool has_ended(const struct tracked *t)
{
	struct proc_stat st;
	struct err ignored;

	return proc_stat(t->pid, &st, &ignored) || st.start_time != t->start_time ||
	       st.state == 'Z' || st.state == 'X';
}

/* One task's scan of a round. A task that ends meanwhile is no error. */
static int scan_task(struct precopy *p, struct tracked *t, struct err *err)
{
	unsigned int files = p->remember && !t->still.full ? TRACK_WITH_FILES : 0;
	cleanup_areas struct areas a = {0};
	int rc = areas_look(&a, t->pid, err);

	t->scanned = true;
	if (rc == 0)
		rc = track_scan(t->track, a.track, a.mm.n_vmas,
				TRACK_PROTECT | TRACK_ONLY_TRACKED | files, &t->regions, err);
	if (rc == 1) { /* it has executed another program */
		forget_pages(p, t);
		t->scanned = true;
		return 0;
	}
	if (rc == 0)
		return still_compare(&t->still, t->pid, &t->regions, err) ? -1 : sort_pages(t, err);
	/* ESRCH: it is ending, and has let go of its memory already */
	if (err->no != ESRCH && !has_ended(t))
		return -1;
	forget_pages(p, t);
	t->scanned = true;
	return 0;
}

/*
 * Direct I/O under way writes to pages that it pinned before our scan, unseen.
 * A stopped task has none: the stop waits for the call's end.
 */
static bool does_direct_io(pid_t pid)
{
	proc_pids fds;
	struct err ignored;
	bool found = false;

	if (proc_fds(pid, &fds, &ignored))
		return false;
	for (size_t i = 0; i < fds.n && !found; i++) {
		cleanup_free char *info = NULL;
		char path[64];
		struct stat st;
		uint64_t flags;

		if (io_read_filef(&info, NULL, "/proc/%d/fdinfo/%d", pid, fds.v[i]) ||
		    !fdinfo_u64(info, "flags", 8, &flags) || !(flags & O_DIRECT))
			continue;
		/* on a pipe it means packets */
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fds.v[i]);
		found = stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
	}
	vec_free(&fds);
	return found;
}

static bool scans_in_stop(const struct tracked *t)
{
	return t->track && (track_method(t->track) == TRACK_SOFT_DIRTY || does_direct_io(t->pid));
}

/* What must be done while the tree stands still: planting, and some scans. */
static int stop_and_plant(struct precopy *p, bool scan, struct precopy_stats *stats, struct err *err)
{
	struct capture_session *s = capture_open(p->root, p->opt, err);
	struct err late;
	int rc;

	if (!s)
		return -1;
	s->sleeps = &p->sleeps;
	rc = freeze_tree(s, p->timeout_ms, err);
	if (rc == 0)
		rc = plant_in_all(p, s, &stats->new_tasks, err);
	vec_foreach (t, &p->tasks) {
		if (rc == 0 && scan && (*t)->there && scans_in_stop(*t))
			rc = scan_task(p, *t, err);
	}
	if (thaw_tree(s, CAPTURE_THAW, rc ? &late : err))
		rc = -1;
	stats->stop_ns = s->stats.freeze_ns;
	capture_close(s);
	return rc;
}

/* ---- a round ---- */

static struct snap_pagemap *add_map(struct precopy *p, const struct tracked *t, struct err *err)
{
	struct snap_pagemap *pm = calloc(1, sizeof(*pm));

	if (!pm || !vec_push(&p->maps, pm)) {
		free(pm);
		err_nomem(err);
		return NULL;
	}
	pm->id = (uint64_t)t->vpid;
	pm->pages_id = (uint32_t)p->maps.n;
	return pm;
}

static uint64_t count_dirty(const struct tracked *t)
{
	uint64_t bytes = 0;

	vec_foreach (r, &t->regions)
		bytes += r->dirty ? r->end - r->start : 0;
	return bytes / PAGE_BYTES;
}

/* The pass over this task is complete: the receiver has what it was given. */
static int settle(struct tracked *t, const mem_ranges *zeros, uint64_t *gone_pages, struct err *err)
{
	mem_ranges all_zeros = {0}, gone = {0};
	int rc = mem_ranges_union(&t->next_zeros, zeros, &all_zeros, err);

	if (rc == 0)
		rc = mem_ranges_without(&t->sent, &t->next_sent, &gone, err);
	if (rc == 0) {
		*gone_pages += mem_ranges_bytes(&gone) / PAGE_BYTES;
		vec_free(&t->sent);
		vec_free(&t->zeros);
		t->sent = t->next_sent;
		t->zeros = all_zeros;
		memset(&t->next_sent, 0, sizeof(t->next_sent));
		memset(&all_zeros, 0, sizeof(all_zeros));
	}
	vec_free(&all_zeros);
	vec_free(&gone);
	end_pass(t);
	return rc;
}

/* Passes the planned pages of a task on. */
static int drain_tracked(struct precopy *p, struct tracked *t, struct drain *d, const MmEntry *mm,
			 struct snap_pagemap *pm, uint64_t *gone_pages, struct err *err)
{
	struct recorder recorder = {.sink.ops = &recorder_ops,
				    .to = d->sink,
				    .sent = &t->next_sent,
				    .still = p->remember ? &t->still : NULL,
				    .room = &p->still_room,
				    .mm = mm};
	mem_ranges zeros = {0};
	int rc;

	d->sink = &recorder.sink;
	d->kept = &t->kept;
	d->zeros = &zeros;
	rc = drain_task(d, t->pid, mm, &t->plan, pm, err);
	d->sink = recorder.to;
	d->kept = NULL;
	d->zeros = NULL;
	still_settle(&t->still, &p->still_room);
	if (rc == 0)
		rc = settle(t, &zeros, gone_pages, err);
	vec_free(&zeros);
	return rc;
}

/* Areas for reading are those of now: some of the plan may be gone. */
static int copy_task(struct precopy *p, struct tracked *t, struct drain *d,
		     struct precopy_stats *stats, struct err *err)
{
	cleanup_areas struct areas a = {0};
	struct snap_pagemap *pm = add_map(p, t, err);
	mem_ranges still = {0}, plan, areas = {0};
	int rc = pm ? areas_look(&a, t->pid, err) : -1;

	if (!pm)
		return -1;
	if (rc && (err->no == ESRCH || has_ended(t))) {
		vec_free(&t->plan); /* its pagemap is empty */
		vec_free(&t->kept);
		rc = areas_alloc(&a, 0, err);
	}
	for (size_t i = 0; i < a.mm.n_vmas && rc == 0; i++)
		rc = mem_ranges_push(&areas, a.track[i].start, a.track[i].end, err);
	if (rc == 0)
		rc = mem_ranges_common(&t->plan, &areas, &still, err);
	vec_free(&areas);
	plan = t->plan;
	t->plan = still;
	vec_free(&plan);
	stats->dirty_pages += count_dirty(t);
	return rc ? -1 : drain_tracked(p, t, d, &a.mm, pm, &stats->gone_pages, err);
}

static int copy_all(struct precopy *p, struct page_sink *sink, struct precopy_stats *stats,
		    struct err *err)
{
	uint64_t begun;
	struct drain d;
	int rc = 0;

	if (drain_init(&d, sink, err))
		return -1;
	d.running = true;
	vec_foreach (t, &p->tasks) {
		begun = clock_ns();
		if (!(*t)->scanned && (*t)->track)
			rc = scan_task(p, *t, err);
		stats->scan_ns += clock_ns() - begun;
		begun = clock_ns();
		if (rc == 0)
			rc = copy_task(p, *t, &d, stats, err);
		stats->copy_ns += clock_ns() - begun;
		if (rc)
			break;
	}
	stats->pages = d.pages;
	stats->zero_pages = d.zero_pages;
	stats->kept_pages = d.kept_pages;
	stats->tasks = (unsigned int)p->tasks.n;
	drain_finish(&d);
	return rc;
}

static void add_rates(struct precopy *p, uint64_t scan_begun, struct precopy_stats *out)
{
	out->since_ns = scan_begun - p->last_scan_ns;
	if (p->rounds && out->since_ns)
		out->dirty_bytes_per_s = (uint64_t)((double)out->dirty_pages * PAGE_BYTES * 1e9 /
						    (double)out->since_ns);
	p->last_scan_ns = scan_begun;
	p->rounds++;
	log_info("round %u: %lu pages sent, %lu kept, %lu dirty, %lu gone; scan %.3f ms, copy %.3f "
		 "ms, stop %.3f ms",
		 p->rounds, (unsigned long)out->pages, (unsigned long)out->kept_pages,
		 (unsigned long)out->dirty_pages, (unsigned long)out->gone_pages,
		 (double)out->scan_ns / 1e6, (double)out->copy_ns / 1e6, (double)out->stop_ns / 1e6);
}

int precopy_round(struct precopy *p, struct page_sink *sink, struct precopy_stats *out,
		  struct err *err)
{
	uint64_t begun;
	bool stop;

	memset(out, 0, sizeof(*out));
	free_maps(p);
	if (list_tasks(p, &stop, err))
		return -1;
	vec_foreach (t, &p->tasks) {
		end_pass(*t);
		stop |= scans_in_stop(*t);
	}
	begun = clock_ns();
	if (stop && stop_and_plant(p, true, out, err))
		return -1;
	if (copy_all(p, sink, out, err))
		return -1;
	add_rates(p, begun, out);
	return 0;
}

struct precopy *precopy_open(pid_t root, const struct kind_options *opt, unsigned int timeout_ms,
			     struct err *err)
{
	struct precopy *p = precopy_create(root, opt, timeout_ms, err);
	struct precopy_stats stats = {0};

	if (!p)
		return NULL;
	if (stop_and_plant(p, false, &stats, err)) {
		precopy_close(p);
		return NULL;
	}
	p->open_stop_ns = stats.stop_ns;
	log_info("tracking %zu tasks; stopped for %.3f ms", p->tasks.n, (double)stats.stop_ns / 1e6);
	return p;
}

void precopy_remember(struct precopy *p)
{
	p->remember = true;
	p->still_room = STILL_PAGES;
}

void precopy_hand_over(struct precopy *p, struct capture_session *s)
{
	capture_expect_tracking(s, p != NULL);
	if (p)
		s->sleeps = &p->sleeps;
}

uint64_t precopy_open_stop_ns(const struct precopy *p)
{
	return p->open_stop_ns;
}

const snap_pagemaps *precopy_pagemaps(const struct precopy *p)
{
	return &p->maps;
}

/* ---- the pass inside a freeze ---- */

void precopy_go_on(struct precopy *p)
{
	p->going_on = true;
}

/* The vdso goes along whole: another kernel's may differ. */
static int add_vdso(struct tracked *t, const MmEntry *mm, struct err *err)
{
	mem_ranges vdso = {0}, plan = {0};
	int rc = 0;

	for (size_t i = 0; i < mm->n_vmas && rc == 0; i++)
		if (mm->vmas[i]->status & VMA_VDSO)
			rc = mem_ranges_push(&vdso, mm->vmas[i]->start, mm->vmas[i]->end, err);
	if (rc == 0)
		rc = mem_ranges_union(&t->plan, &vdso, &plan, err);
	vec_free(&vdso);
	vec_free(&t->plan);
	t->plan = plan;
	return rc;
}

/* What is kept of @again is sent again. */
static int plan_again(struct tracked *t, const mem_ranges *again, struct err *err)
{
	mem_ranges common = {0}, kept = {0}, plan = {0};
	int rc = -1;

	if (!mem_ranges_common(&t->kept, again, &common, err) &&
	    !mem_ranges_without(&t->kept, &common, &kept, err) &&
	    !mem_ranges_union(&t->plan, &common, &plan, err)) {
		vec_free(&t->kept);
		vec_free(&t->plan);
		t->kept = kept;
		t->plan = plan;
		rc = 0;
	} else {
		vec_free(&kept);
		vec_free(&plan);
	}
	vec_free(&common);
	return rc;
}

int precopy_plan(struct precopy *p, const struct live_task *live, const mem_ranges *again,
		 const mem_ranges **plan_out, struct err *err)
{
	struct tracked *t = find_tracked(p, live->facts.pid, live->stat.start_time);
	const MmEntry *mm = live->facts.snap->mm;
	cleanup_areas struct areas a = {0};
	int rc;

	*plan_out = NULL;
	if (!t || !t->track)
		return 0;
	end_pass(t);
	if (areas_take(&a, mm, err))
		return -1;
	rc = track_scan(t->track, a.track, a.mm.n_vmas, p->going_on ? TRACK_PROTECT : 0,
			&t->regions, err);
	if (rc == 0 && still_compare(&t->still, t->pid, &t->regions, err))
		return -1;
	if (rc < 0 || sort_pages(t, err) || plan_again(t, again, err) || add_vdso(t, mm, err))
		return -1;
	t->lost = rc == 1;
	*plan_out = &t->plan;
	return 0;
}

int precopy_drain(struct precopy *p, struct drain *d, const struct live_task *live,
		  struct snap_pagemap *pm, struct err *err)
{
	struct tracked *t = find_tracked(p, live->facts.pid, live->stat.start_time);
	bool lost = t && t->lost;
	uint64_t gone = 0;

	if (!t)
		return err_set(err, EINVAL, "pid %d is not tracked", live->facts.pid);
	if (drain_tracked(p, t, d, live->facts.snap->mm, pm, &gone, err))
		return -1;
	if (lost)
		forget_pages(p, t);
	return 0;
}
