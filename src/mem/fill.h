// SPDX-License-Identifier: Apache-2.0
/*
 * Filling memory from a store: the page sinks of restore.
 *
 * A pagemap says which pages of a task (or shared segment) the store holds;
 * their bytes lie behind each other in the store's pages, or in those of the stores that it builds on
 * (store_parent). They are read in
 * chunks of at most 1 MiB into a buffer that stays in the cache, and go from there into the
 * target. The store's get blocks, so a fill may run while the pages arrive.
 */
#ifndef FERRY_MEM_FILL_H
#define FERRY_MEM_FILL_H

#include "base/attrs.h"
#include "base/err.h"
#include "snapshot/snapshot.h"
#include "store/store.h"

/* How the pages of an area get in. */
enum fill_how {
	FILL_SKIP,  /* not at all */
	FILL_WRITE, /* process_vm_writev: the area must be writable */
	FILL_UFFD, /* UFFDIO_COPY: anonymous, not populated, registered with the job's userfaultfd; twice as fast */
	FILL_LAZY,    /* as FILL_UFFD, but pages that come later (mem/lazy.h) are left out */
	FILL_COMPARE, /* the area is shared copy-on-write: write only pages that differ */
};

struct fill_area {
	uint64_t start, end;
	enum fill_how how;
};

enum { FILL_SCRATCH_BYTES = 2 << 20 };

struct fill_job {
	struct store *store;
	const struct snap_pagemap *pagemap;
	pid_t pid; /* real pid of the task */
	int uffd; /* made in that task, API handshake done; -1 if no area is FILL_UFFD or FILL_LAZY */
	const struct fill_area *areas; /* ascending; pages outside of all of them are an error */
	size_t n_areas;
	/* What comes later: only pages that the store has not (PE_LAZY alone), or all marked PE_LAZY. */
	bool left_only;
	bool skip_zero; /* FILL_UFFD: pages of zeros are not placed, where the pagemap was made before they were read */
	void *scratch; /* FILL_SCRATCH_BYTES to work in (saves page faults over many small jobs), or NULL */
	void (*progress)(void *arg, uint64_t bytes); /* this many more bytes are done; NULL allowed */
	void *arg;
};

/* Large jobs use a second thread; progress is called in the caller's thread only. */
int fill_task(const struct fill_job *job, struct err *err) must_check;

/* The same bytes into a file that backs shared memory (memfd); pages beyond @bytes are an error. */
int fill_shmem(struct store *store, const struct snap_pagemap *pagemap, int fd, uint64_t bytes,
	       struct err *err) must_check;

/* Bytes that the store and its parents hold for this pagemap. */
uint64_t pagemap_present_bytes(const struct snap_pagemap *pagemap);

/* Number of pages of an entry, and its flags, as the reader of any version must see them. */
uint64_t pagemap_entry_pages(const PagemapEntry *e);
uint32_t pagemap_entry_flags(const PagemapEntry *e);

/*
 * Copies up to @bytes (whole pages) of the pages at @addr into @buf. Returns
 * 1 if the store (with its parents) holds all of them, 0 if not, -1 on errors.
 */
int pagemap_read(struct store *store, const struct snap_pagemap *pagemap, uint64_t addr, void *buf,
		 size_t bytes, struct err *err) must_check;

#endif
