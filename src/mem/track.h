// SPDX-License-Identifier: Apache-2.0
/*
 * Dirty tracking of one address space: which pages were written since the scan
 * before. Two methods behind one interface, chosen by trying them on a page of our own:
 *
 *	TRACK_UFFD	a userfaultfd of the task registers its areas for asynchronous
 *			write-protection, PAGEMAP_SCAN reports and re-protects (Linux 6.7). The
 *			descriptor is made by one visit and is in our hands only; when
 *			it is closed, by us or by our death, no trace stays. The task
 *			runs during scans.
 *	TRACK_SOFT_DIRTY the soft-dirty bit of /proc/PID/pagemap, reset by
 *			/proc/PID/clear_refs (CONFIG_MEM_SOFT_DIRTY). Reading and resetting are two
 *			steps, so the task must be stopped for a scan.
 *
 * What neither sees: writes through another mapping or a descriptor of shared memory
 * (so only private areas are tracked), and writes by devices to pages that were pinned
 * before the scan (io_uring's registered buffers, direct I/O under way): callers
 * refuse the first and stop the task for the second.
 *
 * The cost for the task: its first write to each protected page takes 1 to
 * 2 us. A transparent huge page is split by the first write to it, and becomes
 * huge again only when the kernel collapses it later.
 */
#ifndef FERRY_MEM_TRACK_H
#define FERRY_MEM_TRACK_H

#include "blob/visit.h"
#include "mem/ranges.h"

enum track_method { TRACK_UFFD, TRACK_SOFT_DIRTY };

/* The better method that really works here; -1 and what is lacking if none does. */
int track_probe(enum track_method *out, struct err *err) must_check;

struct track;

/* Plants it in the task of an open visit. No area is registered yet. */
struct track *track_plant(struct visit *v, enum track_method method, struct err *err) must_check;

/* Takes over what another process planted: @uffd (kept open, ours from now on) or -1 for soft-dirty. */
struct track *track_adopt(pid_t pid, enum track_method method, int uffd,
			  const mem_ranges *registered, struct err *err) must_check;

/*
 * Takes registrations and marks away, a piece at a time: close does it in one go, with the address space locked.
 * Only track_close makes sense afterwards.
 */
void track_unregister(struct track *t);

/* Ends the tracking, if nobody else has its descriptor. NULL allowed. */
void track_close(struct track *t);

enum track_method track_method(const struct track *t);
int track_uffd(const struct track *t); /* stays its own; -1 with soft-dirty */
const mem_ranges *track_registered(const struct track *t);

/* A private area of the task. */
struct track_area {
	uint64_t start, end;
	/*
	 * May show pages of the page cache, which do not count. All others of it are dirty in
	 * every scan: when a protected page of such an area is dropped (MADV_DONTNEED), the kernel
	 * keeps a mark in its place, and the page that a write brings next is protected for
	 * a moment (Linux 6.18), though it is not the one that was seen.
	 */
	bool file;
};

/* Pages that are the task's own and have contents (not the zero page, no guards). */
struct track_region {
	uint64_t start, end;
	bool dirty; /* written since the last protecting scan, or nobody knows */
};
typedef VEC(struct track_region) track_regions;

/* Appends a region, or makes the last one longer. */
int track_push(track_regions *out, uint64_t start, uint64_t end, bool dirty, struct err *err)
	must_check;

enum track_scan_flags {
	/* The next scan shall tell what is written from now on. New areas are registered. */
	TRACK_PROTECT = 1,
	/* Leave out the pages of areas that cannot be tracked: they would be dirty in every scan. */
	TRACK_ONLY_TRACKED = 2,
	/* But those of files. */
	TRACK_WITH_FILES = 4,
};

/*
 * All pages with contents in @n ascending areas. If the task runs, areas may
 * change meanwhile: what is not known to be clean is dirty. Returns 1 if the address space
 * is not the one that was tracked (exec): everything was dirty, and this track is of no
 * use any more. err.no is EBUSY at an area that somebody else's userfaultfd watches.
 */
int track_scan(struct track *t, const struct track_area *areas, size_t n, unsigned int flags,
	       track_regions *out, struct err *err) must_check;

#endif
