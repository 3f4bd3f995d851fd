// SPDX-License-Identifier: Apache-2.0
/*
 * PAGEMAP_SCAN (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst): ranges of
 * pages by what they are, of any process, and at the same time write-protection of what
 * was reported.
 */
#ifndef FERRY_KERNEL_PAGESCAN_H
#define FERRY_KERNEL_PAGESCAN_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/vec.h"

#include <stdint.h>

/* Categories; several may hold. */
enum pagescan_is {
	PAGE_IS_WP_ALLOWED = 1 << 0, /* in an area registered for asynchronous write-protection */
	PAGE_IS_WRITTEN = 1 << 1,    /* not write-protected by a userfaultfd */
	PAGE_IS_FILE = 1 << 2,       /* the page cache's */
	PAGE_IS_PRESENT = 1 << 3,
	PAGE_IS_SWAPPED = 1 << 4,
	PAGE_IS_PFNZERO = 1 << 5, /* the shared page of zeros */
	PAGE_IS_HUGE = 1 << 6,
	PAGE_IS_GUARD = 1 << 8, /* Linux 6.15; looks swapped, too */
};

enum pagescan_flags {
	PAGESCAN_PROTECT = 1 << 0,    /* write-protect the WRITTEN pages that match */
	PAGESCAN_ASYNC_ONLY = 1 << 1, /* fail with EPERM at areas that are not registered for it */
};

/* Matches pages with all of @with, none of @without, and at least one of @any (0: whatever). */
struct pagescan {
	uint64_t flags, with, without, any;
	uint64_t tell;      /* categories to split by and to report */
	uint64_t max_pages; /* end after so many that matched; 0: all */
};

struct pagescan_region {
	uint64_t start, end, categories;
};
typedef VEC(struct pagescan_region) pagescan_regions;

/*
 * Appends the regions of [start, end) that match, ascending. @fd is a
 * /proc/PID/pagemap. 0; 1: the kernel has no such call or does not know a
 * category; -1 (err->no: EPERM at an area of PAGESCAN_ASYNC_ONLY, ESRCH when the memory is gone).
 */
int pagescan(int fd, uint64_t start, uint64_t end, const struct pagescan *what,
	     pagescan_regions *out, struct err *err) must_check;

#endif
