// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of pre-copy share, and what capture_memory() asks of it.
 */
#ifndef FERRY_CAPTURE_PRECOPY_PRIV_H
#define FERRY_CAPTURE_PRECOPY_PRIV_H

#include "capture/precopy.h"
#include "capture/session.h"
#include "capture/still.h"
#include "mem/drain.h"
#include "mem/track.h"

/*
 * A task on its way. Each page with contents is in one of three states: the receiver has
 * it (sent), it was zero when it was looked at (zeros), or neither, and then it is
 * read. A page stays in its state while the tracking says that it is clean.
 */
struct tracked {
	pid_t pid, vpid;
	uint64_t start_time;
	struct track *track; /* NULL: to be planted in the next round */
	mem_ranges sent, zeros;
	struct still still; /* of sent, what is not tracked */
	/* of the pass that is under way: */
	bool there, scanned, lost;
	track_regions regions;
	mem_ranges plan, kept; /* to read; to pass on as kept */
	mem_ranges next_sent, next_zeros;
};

struct precopy {
	pid_t root;
	const struct kind_options *opt;
	unsigned int timeout_ms;
	enum track_method method;
	VEC(struct tracked *) tasks;
	snap_pagemaps maps;
	struct sleeps sleeps;  /* of its stops, and of the last one */
	bool going_on;         /* the pass inside a freeze is not the last one */
	uint64_t last_scan_ns; /* when the last scan began */
	uint64_t open_stop_ns;
	unsigned int rounds;
	bool remember;     /* pages that are not tracked */
	size_t still_room; /* of the copies of all tasks, in pages */
};

struct precopy *precopy_create(pid_t root, const struct kind_options *opt, unsigned int timeout_ms,
			       struct err *err) must_check;
struct tracked *precopy_add(struct precopy *p, pid_t pid, uint64_t start_time, struct err *err)
	must_check;

/*
 * Inside a freeze: what is left to send of a task; pages of @again are, even if the receiver has them. *plan_out
 * is NULL if the task is not tracked, so that all of it is to be sent; else it lives until
 * precopy_drain, which takes the place of drain_task.
 */
int precopy_plan(struct precopy *p, const struct live_task *t, const mem_ranges *again,
		 const mem_ranges **plan_out, struct err *err) must_check;
int precopy_drain(struct precopy *p, struct drain *d, const struct live_task *t,
		  struct snap_pagemap *pm, struct err *err) must_check;

#endif
