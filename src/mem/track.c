// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "track"
#include "mem/track.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "kernel/pagescan.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* linux/userfaultfd.h of 6.7; older headers lack them */
#define FEATURE_WP (1ULL << 0) /* UFFD_FEATURE_PAGEFAULT_FLAG_WP */
#define FEATURE_WP_UNPOPULATED (1ULL << 13)
#define FEATURE_WP_ASYNC (1ULL << 15)
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

struct track {
	pid_t pid;
	enum track_method method;
	int uffd;
	bool no_guards;        /* this kernel does not know guard pages */
	mem_ranges registered; /* areas that the last protecting scan found ours */
};

/* ---- which method works here ---- */

static int handshake(int uffd)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = FEATURE_WP | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC};

	return ioctl(uffd, UFFDIO_API, &api);
}

static int register_range(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = {.range = {.start = start, .len = end - start},
				      .mode = UFFDIO_REGISTER_MODE_WP};

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

/* 1: a write after a protecting scan is reported by the next one, and only then. */
static bool scan_sees_writes(int pagemap, volatile uint8_t *page)
{
	static const struct pagescan what = {
		.flags = PAGESCAN_PROTECT | PAGESCAN_ASYNC_ONLY,
		.with = PAGE_IS_WRITTEN | PAGE_IS_PRESENT,
	};
	uint64_t start = (uintptr_t)page, end = start + PAGE_BYTES;
	pagescan_regions found[3] = {{0}};
	struct err err;
	bool good;

	good = pagescan(pagemap, start, end, &what, &found[0], &err) == 0 && found[0].n == 1 &&
	       pagescan(pagemap, start, end, &what, &found[1], &err) == 0 && found[1].n == 0;
	*page = 2;
	good = good && pagescan(pagemap, start, end, &what, &found[2], &err) == 0 && found[2].n == 1;
	for (size_t i = 0; i < ARRAY_SIZE(found); i++)
		vec_free(&found[i]);
	return good;
}

/* NULL if it works, else what is lacking. */
static const char *try_uffd(volatile uint8_t *page)
{
	cleanup_close int uffd = (int)syscall(SYS_userfaultfd,
					      O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	cleanup_close int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (uffd < 0)
		return "no userfaultfd";
	if (handshake(uffd))
		return "no asynchronous write-protection in userfaultfd (Linux 6.7)";
	*page = 1;
	if (register_range(uffd, (uintptr_t)page, (uintptr_t)page + PAGE_BYTES))
		return "userfaultfd does not register memory for write-protection";
	if (pagemap < 0 || !scan_sees_writes(pagemap, page))
		return "PAGEMAP_SCAN (Linux 6.7) does not report written pages";
	return NULL;
}

static const uint64_t soft_dirty_bit = 1ULL << 55;

static bool is_soft_dirty(int pagemap, const volatile uint8_t *page)
{
	uint64_t entry = 0;

	return io_pread_full(pagemap, &entry, 8, (off_t)((uintptr_t)page / PAGE_BYTES * 8)) == 0 &&
	       entry & soft_dirty_bit;
}

static int reset_soft_dirty(pid_t pid)
{
	cleanup_close int fd = io_openf(O_WRONLY, "/proc/%d/clear_refs", pid);

	return fd < 0 || write(fd, "4", 1) != 1 ? -1 : 0;
}

/* The write to clear_refs succeeds on kernels without the bit, too: only a page can tell. */
static const char *try_soft_dirty(volatile uint8_t *page)
{
	cleanup_close int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	*page = 3;
	if (pagemap < 0 || !is_soft_dirty(pagemap, page) || reset_soft_dirty(getpid()) ||
	    is_soft_dirty(pagemap, page))
		return "no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)";
	*page = 4;
	return is_soft_dirty(pagemap, page) ? NULL : "no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)";
}

int track_probe(enum track_method *out, struct err *err)
{
	uint8_t *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
	const char *uffd, *soft = NULL;

	if (page == MAP_FAILED)
		return err_nomem(err);
	*out = TRACK_UFFD;
	uffd = try_uffd(page);
	if (uffd) {
		*out = TRACK_SOFT_DIRTY;
		soft = try_soft_dirty(page);
	}
	munmap(page, PAGE_BYTES);
	if (!uffd || !soft)
		return 0;
	return err_set(err, ENOTSUP,
		       "this kernel cannot tell which pages a running program writes: %s, %s", uffd,
		       soft);
}

/* ---- planting ---- */

static struct track *new_track(pid_t pid, enum track_method method, struct err *err)
{
	struct track *t = calloc(1, sizeof(*t));

	if (!t) {
		err_nomem(err);
		return NULL;
	}
	t->pid = pid;
	t->method = method;
	t->uffd = -1;
	return t;
}

struct track *track_plant(struct visit *v, enum track_method method, struct err *err)
{
	struct track *t = new_track(v->pid, method, err);

	if (!t || method == TRACK_SOFT_DIRTY)
		return t;
	/* Without privileges this kind of userfaultfd is allowed, and asynchronous protection needs no other. */
	if (visit_take_fd(v, "a userfaultfd", SYS_userfaultfd,
			  O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, 0, &t->uffd, err) == 0) {
		if (handshake(t->uffd) == 0)
			return t;
		err_sys(err, "pid %d: its userfaultfd has no asynchronous write-protection", v->pid);
	}
	track_close(t);
	return NULL;
}

struct track *track_adopt(pid_t pid, enum track_method method, int uffd,
			  const mem_ranges *registered, struct err *err)
{
	struct track *t = new_track(pid, method, err);

	if (!t) {
		if (uffd >= 0)
			close(uffd);
		return NULL;
	}
	t->uffd = uffd;
	vec_foreach (r, registered)
		if (mem_ranges_push(&t->registered, r->start, r->end, err)) {
			track_close(t);
			return NULL;
		}
	return t;
}

/* What one page table maps: the piece for which the task waits, and no huge page is cut. */
#define PIECE_BYTES (2UL << 20)

/* As long as the work since @start_ns took, which the task has for itself. */
static void let_run(uint64_t start_ns)
{
	uint64_t ns = clock_ns() - start_ns;
	struct timespec nap = {.tv_sec = (time_t)(ns / 1000000000),
			       .tv_nsec = (long)(ns % 1000000000)};

	nanosleep(&nap, NULL);
}

void track_unregister(struct track *t)
{
	struct uffdio_range piece;
	uint64_t next, start;

	if (t->uffd < 0)
		return;
	vec_foreach (r, &t->registered)
		for (piece.start = r->start; piece.start < r->end; piece.start = next) {
			next = MIN((piece.start | (PIECE_BYTES - 1)) + 1, r->end);
			piece.len = next - piece.start;
			start = clock_ns();
			/* what was unmapped meanwhile has nothing to take away, nor has a dead task */
			if (ioctl(t->uffd, UFFDIO_UNREGISTER, &piece) && errno == ESRCH)
				return;
			let_run(start);
		}
}

void track_close(struct track *t)
{
	if (!t)
		return;
	if (t->uffd >= 0)
		close(t->uffd);
	vec_free(&t->registered);
	free(t);
}

enum track_method track_method(const struct track *t)
{
	return t->method;
}

int track_uffd(const struct track *t)
{
	return t->uffd;
}

const mem_ranges *track_registered(const struct track *t)
{
	return &t->registered;
}

int track_push(track_regions *out, uint64_t start, uint64_t end, bool dirty, struct err *err)
{
	struct track_region *last = out->n ? &out->v[out->n - 1] : NULL;

	if (last && last->end == start && last->dirty == dirty) {
		last->end = end;
		return 0;
	}
	return vec_push(out, (struct track_region){start, end, dirty}) ? 0 : err_nomem(err);
}

/* ---- scans with a userfaultfd ---- */

/*
 * Registers an area, and takes away marks of an earlier registration that the kernel left behind.
 * (Linux 6.18: when mremap moves a registered area beside another and they become one,
 * the registration of both is dropped, but the pages of the second stay marked: they
 * look clean for ever, and can be written.)
 * 1: ours; 0: cannot be registered, or is gone; -1: somebody else has it.
 */
static int claim(struct track *t, uint64_t start, uint64_t end, struct err *err)
{
	struct uffdio_writeprotect unmark = {.range = {.start = start, .len = end - start}};

	if (register_range(t->uffd, start, end) == 0)
		return ioctl(t->uffd, UFFDIO_WRITEPROTECT, &unmark) == 0;
	if (errno != EBUSY)
		return 0;
	return err_sys(err, "pid %d: the area at %llx is watched by another userfaultfd", t->pid,
		       (unsigned long long)start);
}

/* Pages with contents in [start, end); @flags of pagescan. */
static int scan_pages(struct track *t, int pagemap, uint64_t start, uint64_t end, bool file,
		      uint64_t flags, pagescan_regions *found, struct err *err)
{
	struct pagescan what = {
		.flags = flags,
		.without = PAGE_IS_PFNZERO | (file ? PAGE_IS_FILE : 0) |
			   (t->no_guards ? 0 : PAGE_IS_GUARD),
		.any = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.tell = PAGE_IS_WRITTEN,
	};
	int rc = pagescan(pagemap, start, end, &what, found, err);

	if (rc == 1 && !t->no_guards) {
		t->no_guards = true;
		return scan_pages(t, pagemap, start, end, file, flags, found, err);
	}
	return rc == 1 ? err_set(err, ENOTSUP, "this kernel has no PAGEMAP_SCAN (Linux 6.7)") : rc;
}

/* Hands on what was found; without @trusted every page counts as dirty. */
static int push_found(const pagescan_regions *found, bool trusted, track_regions *out, struct err *err)
{
	vec_foreach (r, found)
		if (track_push(out, r->start, r->end, !trusted || r->categories & PAGE_IS_WRITTEN,
			       err))
			return -1;
	return 0;
}

/*
 * A piece that the last protecting scan found ours, so a page that is not WRITTEN is clean; unless
 * the registration was lost since (a new mapping, mremap), which the kernel says
 * with EPERM. Then *@ours becomes false, and nothing is reported.
 */
static int scan_known(struct track *t, int pagemap, uint64_t start, uint64_t end, bool protect,
		      bool *ours, track_regions *out, struct err *err)
{
	pagescan_regions found = {0};
	uint64_t flags = PAGESCAN_ASYNC_ONLY | (protect ? PAGESCAN_PROTECT : 0);
	int rc = scan_pages(t, pagemap, start, end, false, flags, &found, err);

	*ours = rc == 0 || err->no != EPERM;
	if (rc && !*ours)
		rc = 0;
	else if (rc == 0)
		rc = push_found(&found, true, out, err);
	vec_free(&found);
	return rc;
}

/* A piece of which nothing is known: all its pages are dirty. */
static int scan_unknown(struct track *t, int pagemap, uint64_t start, uint64_t end, bool file,
			bool protect, bool *ours, track_regions *out, struct err *err)
{
	pagescan_regions found = {0};
	uint64_t flags = protect ? PAGESCAN_ASYNC_ONLY | PAGESCAN_PROTECT : 0;
	int rc = scan_pages(t, pagemap, start, end, file, flags, &found, err);

	*ours = protect;
	if (rc && protect && err->no == EPERM) {
		*ours = false;
		found.n = 0;
		rc = scan_pages(t, pagemap, start, end, file, 0, &found, err);
	}
	if (rc == 0)
		rc = push_found(&found, false, out, err);
	vec_free(&found);
	return rc;
}

/* Pages of an area that is not tracked: are they of no interest? */
static bool is_left_out(const struct track_area *a, unsigned int flags)
{
	return flags & TRACK_ONLY_TRACKED && !(a->file && flags & TRACK_WITH_FILES);
}

/* A pass over areas that ascend, beside what is registered. */
struct pass {
	struct track *t;
	int pagemap;
	unsigned int flags;
	size_t at;       /* in t->registered */
	mem_ranges ours; /* that is registered now */
};

/* Registers a piece anew, which nothing is known of, and scans it. */
static int scan_anew(struct pass *p, const struct track_area *a, uint64_t start, uint64_t end,
		     track_regions *out, struct err *err)
{
	int claimed = !(p->flags & TRACK_PROTECT) || a->file ? 0 : claim(p->t, start, end, err);
	bool ours;

	if (claimed < 0)
		return -1;
	if (!claimed && is_left_out(a, p->flags))
		return 0;
	if (scan_unknown(p->t, p->pagemap, start, end, a->file, claimed == 1, &ours, out, err))
		return -1;
	return ours ? mem_ranges_push(&p->ours, start, end, err) : 0;
}

static int scan_area(struct pass *p, const struct track_area *a, track_regions *out, struct err *err)
{
	const mem_ranges *r = &p->t->registered;
	uint64_t from = a->start, end;
	bool ours;

	for (; from < a->end; from = end) {
		while (p->at < r->n && r->v[p->at].end <= from)
			p->at++;
		ours = p->at < r->n && r->v[p->at].start <= from && !a->file;
		end = p->at == r->n || a->file ? a->end :
		      ours                     ? r->v[p->at].end :
						 r->v[p->at].start;
		end = MIN(end, a->end);
		if (ours && scan_known(p->t, p->pagemap, from, end, p->flags & TRACK_PROTECT, &ours,
				       out, err))
			return -1;
		if (ours ? mem_ranges_push(&p->ours, from, end, err) :
			   scan_anew(p, a, from, end, out, err))
			return -1;
	}
	return 0;
}

static int scan_uffd(struct track *t, int pagemap, const struct track_area *areas, size_t n,
		     unsigned int flags, track_regions *out, struct err *err)
{
	struct pass p = {.t = t, .pagemap = pagemap, .flags = flags};
	bool lost = false;
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++) {
		rc = scan_area(&p, &areas[i], out, err);
		lost |= !areas[i].file;
	}
	/* An area may be lost by itself; all of them at once means that they are another program's. */
	lost &= p.ours.n == 0;
	if (!(flags & TRACK_PROTECT)) {
		vec_free(&p.ours);
		return rc;
	}
	vec_free(&t->registered);
	t->registered = p.ours;
	return rc ? -1 : lost;
}

/* ---- scans of soft-dirty bits; the task is stopped ---- */

enum { ENTRIES = 4096 };

/*
 * A page that is not mapped by this task alone counts as dirty: it may be the page of
 * zeros, in place of one that was dropped (MADV_DONTNEED), and that is no write.
 */
static int scan_soft_dirty(int pagemap, const struct track_area *a, unsigned int flags,
			   track_regions *out, struct err *err)
{
	const uint64_t there = 3ULL << 62, file = 1ULL << 61, exclusive = 1ULL << 56;
	uint64_t entries[ENTRIES], at = a->start;
	size_t n, i;

	if (a->file && is_left_out(a, flags))
		return 0;
	while (at < a->end) {
		n = MIN((a->end - at) / PAGE_BYTES, (uint64_t)ENTRIES);
		if (io_pread_full(pagemap, entries, n * 8, (off_t)(at / PAGE_BYTES * 8)))
			return err_sys(err, "cannot read the pagemap at %llx",
				       (unsigned long long)at);
		for (i = 0; i < n; i++, at += PAGE_BYTES)
			if (entries[i] & there && !(entries[i] & file) &&
			    track_push(out, at, at + PAGE_BYTES,
				       a->file || entries[i] & soft_dirty_bit ||
					       !(entries[i] & exclusive),
				       err))
				return -1;
	}
	return 0;
}

static int scan_bits(struct track *t, int pagemap, const struct track_area *areas, size_t n,
		     unsigned int flags, track_regions *out, struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (scan_soft_dirty(pagemap, &areas[i], flags, out, err))
			return -1;
	if (flags & TRACK_PROTECT && reset_soft_dirty(t->pid))
		return err_sys(err, "pid %d: cannot reset its soft-dirty bits", t->pid);
	return 0;
}

int track_scan(struct track *t, const struct track_area *areas, size_t n, unsigned int flags,
	       track_regions *out, struct err *err)
{
	cleanup_close int pagemap = io_openf(O_RDONLY, "/proc/%d/pagemap", t->pid);

	if (pagemap < 0)
		return err_sys(err, "cannot open the pagemap of pid %d", t->pid);
	return t->method == TRACK_UFFD ? scan_uffd(t, pagemap, areas, n, flags, out, err) :
					 scan_bits(t, pagemap, areas, n, flags, out, err);
}
