// SPDX-License-Identifier: Apache-2.0
/*
 * Draining memory into a page sink: the page sources of capture.
 *
 * A stopped task's private memory is found with PAGEMAP_SCAN (Linux 6.7) or by
 * reading /proc/PID/pagemap, and read with process_vm_readv(2), or through
 * /proc/PID/mem where the area itself may not be read. Shared memory is read
 * once per inode, through its file.
 */
#ifndef FERRY_MEM_DRAIN_H
#define FERRY_MEM_DRAIN_H

#include "base/attrs.h"
#include "base/err.h"
#include "mem/ranges.h"
#include "mem/sink.h"

enum { MEM_MAX_GUARDS = 4096, DRAIN_CHUNK_BYTES = 1 << 20 };

/* Guard regions of a task (MADV_GUARD_INSTALL, Linux 6.13); none where the kernel cannot tell. */
int mem_find_guards(pid_t pid, mem_ranges *out, struct err *err) must_check;

struct drain {
	struct page_sink *sink;
	uint8_t *buf; /* DRAIN_CHUNK_BYTES, page aligned */
	void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
	void *arg;
	uint64_t done_bytes, total_bytes; /* total: as planned; zero pages count when they are read */
	uint64_t pages, zero_pages, kept_pages;
	/*
	 * Not NULL: areas whose pages may come later (private anonymous memory) are
	 * not read; their ranges are added here, and the sink hears of them as PE_LAZY.
	 */
	mem_ranges *lazy;
	const mem_ranges *now; /* of this task: pages that do not come later; optional */
	/* Of rounds of pre-copy (capture/precopy.h); all optional: */
	bool running; /* the task runs: pages may go while they are read, and are left out then */
	const mem_ranges *kept; /* of this task: the receiver has them, they are passed on as absent */
	mem_ranges *zeros;      /* of this task: pages that were found to be zero are noted here */
	/* The pagemaps were told before (drain_announce_*): every planned page is passed on, zero or not. */
	bool announced;
};

int drain_init(struct drain *d, struct page_sink *sink, struct err *err) must_check;
void drain_finish(struct drain *d);

/* A private area, whose pages are in the task's own pagemap. */
bool drain_has_own_pages(const VmaEntry *e);

/* What is to be read of a task's private areas: ascending ranges. */
int drain_plan_task(pid_t pid, const MmEntry *mm, mem_ranges *out, struct err *err) must_check;

/*
 * The same for memory that may come later: there whole blocks that have a page, so that the time it takes
 * depends little on how many pages there are. Without the guard regions of @mm. Pages of a block that are not there
 * read as zeros.
 */
int drain_plan_late(pid_t pid, const MmEntry *mm, mem_ranges *out, struct err *err) must_check;

/* Reads planned ranges of a task and passes them on as pagemap @pm. */
int drain_task(struct drain *d, pid_t pid, const MmEntry *mm, const mem_ranges *plan,
	       struct snap_pagemap *pm, struct err *err) must_check;

/* What the pagemap will be when every planned page is passed on; its entries are @snap's. */
int drain_announce_task(const MmEntry *mm, const mem_ranges *plan, struct snapshot *snap,
			struct snap_pagemap *pm, struct err *err) must_check;
int drain_announce_file(const mem_ranges *plan, struct snapshot *snap, struct snap_pagemap *pm,
			struct err *err) must_check;

/* Data ranges of a file of @bytes (SEEK_DATA, SEEK_HOLE). */
int drain_plan_file(int fd, uint64_t bytes, mem_ranges *out, struct err *err) must_check;
/* The same in blocks, as drain_plan_late: the rest of a block reads as zeros. */
int drain_plan_file_late(int fd, uint64_t bytes, mem_ranges *out, struct err *err) must_check;
int drain_file(struct drain *d, int fd, const mem_ranges *plan, struct snap_pagemap *pm,
	       struct err *err) must_check;

#endif
