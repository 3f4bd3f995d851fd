// SPDX-License-Identifier: Apache-2.0
/*
 * The plan of one address space, between space_plan.c and space.c.
 */
#ifndef FERRY_RESTORE_SPACE_H
#define FERRY_RESTORE_SPACE_H

#include "mem/fill.h"
#include "restore/session.h"

enum vdso_plan {
	VDSO_ABSENT, /* the program had none: ours stays where it waits */
	VDSO_MOVE,   /* the images are the same: ours goes to the old address */
	VDSO_COPY,   /* a copy of the old image jumps into ours, which stays where it waits */
};

struct area {
	const VmaEntry *vma;
	bool keep;       /* inherited from the parent by fork */
	bool has_pages;  /* the pagemap has some of it */
	bool open_write; /* mapped writable while it is filled */
	enum fill_how how;
};

struct space {
	struct area *v; /* regular areas, ascending; without vdso, vvar, vsyscall */
	size_t n;
	const VmaEntry **guards;
	size_t n_guards;
	bool vdso_planned; /* the next four are known */
	enum vdso_plan vdso;
	uint64_t vdso_at;         /* VDSO_MOVE: where the set goes */
	const VmaEntry *old_vdso; /* VDSO_COPY */
	uint8_t *old_image; /* VDSO_COPY: its pages, already redirected once the parking place is known */
	uint64_t anon_bytes;    /* that could go in by userfaultfd */
	struct fill_area *fill; /* all private areas */
	size_t n_fill;
	bool use_uffd;
	bool lazy;        /* some area is FILL_LAZY */
	bool late_shared; /* some area shows shared memory that comes later */
	unsigned int uffd_op;
	int uffd_there; /* the number of its userfaultfd in the task */
	unsigned int shared_op;
	int shared_there; /* the same for shared memory */
};

/* space_lazy.c: which areas have pages that come later; and their task's fill, up to its announcement. */
void space_plan_lazy(const struct restore_session *s, struct rtask *t);
int space_fill_lazy(struct restore_session *s, struct rtask *t, const struct fill_job *like,
		    struct err *err) must_check;

/* space_shared.c: does the task show shared memory that comes later; its userfaultfd for that, up to the announcement. */
void space_plan_shared(const struct restore_session *s, struct rtask *t);
int space_watch_shared(struct restore_session *s, struct rtask *t, struct err *err) must_check;

/* What becomes of the vdso; reads its pages, the first time. */
int space_plan_vdso(struct restore_session *s, struct rtask *t, struct err *err) must_check;

/* The same file behind two file ids: one id, or two entries with one name. */
bool same_file(const struct restore_session *s, uint64_t a, uint64_t b);

/*
 * Walks the pages of a pagemap upwards: the next range between @start and @end
 * that has not been given yet; false when there is no more below @end.
 */
struct page_walk {
	const struct snap_pagemap *pm;
	size_t entry;
	uint64_t at; /* everything below has been given */
};
bool page_walk_next(struct page_walk *w, uint64_t start, uint64_t end, uint64_t *from, uint64_t *to);

#endif
