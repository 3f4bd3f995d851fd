// SPDX-License-Identifier: Apache-2.0
#include "kernel/pagescan.h"

#include <errno.h>
#include <sys/ioctl.h>

/* linux/fs.h of 6.7 and later */
struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PAGEMAP_SCAN_IOCTL _IOWR('f', 16, struct pm_scan_arg)

enum { SCAN_REGIONS = 1024 };

static int push_region(pagescan_regions *out, const struct pagescan_region *r, struct err *err)
{
	struct pagescan_region *last = out->n ? &out->v[out->n - 1] : NULL;

	if (last && last->end == r->start && last->categories == r->categories) {
		last->end = r->end;
		return 0;
	}
	return vec_push(out, *r) ? 0 : err_nomem(err);
}

int pagescan(int fd, uint64_t start, uint64_t end, const struct pagescan *what,
	     pagescan_regions *out, struct err *err)
{
	struct pagescan_region regions[SCAN_REGIONS];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = what->flags,
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = SCAN_REGIONS,
		.max_pages = what->max_pages,
		.category_inverted = what->without,
		.category_mask = what->with | what->without,
		.category_anyof_mask = what->any,
		.return_mask = what->tell,
	};
	int n, i;

	while (arg.start < end) {
		n = ioctl(fd, PAGEMAP_SCAN_IOCTL, &arg);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == ENOTTY || errno == EINVAL))
			return 1;
		if (n < 0)
			return err_sys(err, "cannot scan the pages at %llx",
				       (unsigned long long)arg.start);
		for (i = 0; i < n; i++)
			if (push_region(out, &regions[i], err))
				return -1;
		/* walk_end means something only when the array is full (seen in 6.18: else it may be far too low) */
		if (n < SCAN_REGIONS || what->max_pages)
			break;
		arg.start = MAX(arg.walk_end, regions[n - 1].end);
	}
	return 0;
}
