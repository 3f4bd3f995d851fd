// SPDX-License-Identifier: Apache-2.0
/*
 * Pages on demand out of frozen tasks.
 *
 * The freeze has planned which pages of which task may come later (drain.h,
 * drain.lazy). The frozen task itself is where they are kept: nothing is copied
 * before it is asked for. Beside the ranges there is one bit per page, set when
 * the page has been handed out.
 *
 * Once everything was added, several threads may ask, read and hand out (but out of images: a store is one thread's).
 */
#ifndef FERRY_MEM_SERVE_H
#define FERRY_MEM_SERVE_H

#include "mem/drain.h"
#include "snapshot/snapshot.h"
#include "store/store.h"

struct serve;

struct serve *serve_create(struct err *err) must_check;
void serve_free(struct serve *s); /* NULL allowed; the tasks are not touched */

/*
 * Adds a frozen task: @vpid is its name for whoever asks, @pid how we see it.
 * Takes the ranges of @lazy (ascending, leaves it empty), also on failure.
 */
int serve_add(struct serve *s, pid_t vpid, pid_t pid, mem_ranges *lazy, struct err *err) must_check;

/* Shared memory, as a frozen task has it mapped. */
struct serve_file {
	uint64_t name;       /* for whoever asks (LAZY_SHARED of lazy.h) */
	pid_t pid;           /* how we see the task */
	uint64_t start, end; /* the mapping, as /proc/PID/map_files has it */
};

/*
 * Adds a file of shared memory of a frozen tree: "addresses" are its offsets. Takes the ranges of @lazy (ascending,
 * leaves it empty), also on failure.
 */
int serve_add_file(struct serve *s, const struct serve_file *file, mem_ranges *lazy, struct err *err)
	must_check;

/*
 * Adds the pages that a pagemap marks PE_LAZY, out of the images of a store (and its parents)
 * instead of a task; both must outlive @s. Refused when some of them are not in the images.
 */
int serve_add_image(struct serve *s, const struct snap_pagemap *pm, struct store *store,
		    struct err *err) must_check;

/*
 * The @i-th task or file, and its ranges as they were taken (appended to @ranges): 1; 0: there is none; -1.
 * A task has no mapping (start and end are 0), and its vpid for a name.
 */
int serve_entry(const struct serve *s, size_t i, struct serve_file *out, mem_ranges *ranges,
		struct err *err) must_check;

/* May an object of that name be asked for? Then its pages from @vaddr on: how many are kept in a row; 0: none. */
bool serve_knows(const struct serve *s, uint64_t name);
uint64_t serve_run(const struct serve *s, uint64_t name, uint64_t vaddr);

/* Copies @n pages, all of them within a run, into @buf. An error means that the task is lost. */
int serve_read(const struct serve *s, uint64_t name, uint64_t vaddr, uint64_t n, void *buf,
	       struct err *err) must_check;

/* Do all tasks live? Only SIGKILL ends a frozen one. -1 + err: one is gone, and its pages with it. */
int serve_check(const struct serve *s, struct err *err) must_check;

/* These pages have been handed out. */
void serve_done(struct serve *s, uint64_t name, uint64_t vaddr, uint64_t n);

/* All pages that are kept, and those that nobody has been given yet. */
uint64_t serve_pages(const struct serve *s);
uint64_t serve_left(const struct serve *s);

#endif
