// SPDX-License-Identifier: Apache-2.0
/*
 * Pre-copy: memory leaves a tree in rounds while the tree runs, and inside the
 * freeze only what changed since the last round is left to send.
 *
 *	precopy_open      tracking is planted in every task: one short stop
 *	precopy_round     what is new or was written since goes to a sink; the tree runs
 *	...               as often as it pays (precopy_stats says)
 *	capture_freeze, capture_collect
 *	capture_memory    with memory_options.precopy: the last round
 *	precopy_end       every trace of the tracking is gone; also when we are killed
 *
 * Each round, and the last one, gives the sink a COMPLETE pagemap of every task:
 * pages() with the contents that the receiver has not got, absent(PE_PARENT) for
 * those that an earlier round sent and that are unchanged. A page that a
 * pagemap does not name is gone (or zero, in anonymous memory): whoever kept it from an earlier
 * round forgets it. So a round can be a directory of images whose parent is the
 * round before, or an update of pages that the receiver keeps. A page may be sent
 * again in any round; contents are whole and right only after the last one.
 *
 * Tasks that are born, programs that are executed and areas that appear on the
 * way join in the next round. What cannot be tracked (mem/track.h) is sent in the
 * last round: shared memory too, since it may be written through descriptors.
 */
#ifndef FERRY_CAPTURE_PRECOPY_H
#define FERRY_CAPTURE_PRECOPY_H

#include "kinds/kind.h"
#include "mem/sink.h"

struct precopy;

/* One round. Times in nanoseconds; pages of 4 KiB. */
struct precopy_stats {
	uint64_t pages, zero_pages; /* sent with contents; read and found to be zero */
	uint64_t kept_pages;        /* unchanged since they were sent */
	uint64_t dirty_pages; /* found written since the round before; in the first: everything */
	uint64_t gone_pages;  /* sent earlier, not there any more */
	uint64_t since_ns;    /* since the scan of the round before (or the opening) */
	uint64_t dirty_bytes_per_s; /* dirty_pages over since_ns; 0 in the first round */
	uint64_t stop_ns; /* longest time for which tasks were stopped: 0 in most rounds */
	uint64_t scan_ns, copy_ns;
	unsigned int tasks, new_tasks; /* tracked; joined in this round */
};

/*
 * Finds the tree of @root, stops it for a moment, plants the tracking, lets it
 * run. @opt must outlive it; @timeout_ms is for each stop (0: no limit). NULL and
 * a reason that names what the kernel lacks, or the area that another tracker holds.
 */
struct precopy *precopy_open(pid_t root, const struct kind_options *opt, unsigned int timeout_ms,
			     struct err *err) must_check;

/*
 * Rounds send also what cannot be tracked of the pages of private mappings of files, and copies of them (up to 64 MiB
 * for the tree) tell which of these have changed. Before the first round; forgotten by precopy_pack.
 */
void precopy_remember(struct precopy *p);

/* One round into @sink. After a failure the tree runs on; only precopy_close makes sense then. */
int precopy_round(struct precopy *p, struct page_sink *sink, struct precopy_stats *out,
		  struct err *err) must_check;

/*
 * @s is the capture that has the last round: it goes by what the stops of @p saw of sleeping threads, and
 * takes areas that are watched for ours. NULL allowed: nothing has been watched. @p outlives @s's freeze.
 */
struct capture_session;
void precopy_hand_over(struct precopy *p, struct capture_session *s);

/* What the opening cost: the time that the tree was stopped. */
uint64_t precopy_open_stop_ns(const struct precopy *p);

/* The pagemaps of the last round, whose entries the sink added (if it does so); valid until the next. */
typedef VEC(struct snap_pagemap *) snap_pagemaps;
const snap_pagemaps *precopy_pagemaps(const struct precopy *p);

/*
 * The pass that capture_memory() makes is not the last one: the tree will run on, and
 * what it writes after that freeze is the next round's.
 */
void precopy_go_on(struct precopy *p);

/*
 * Handing the tracking over to another process: what is known goes into a new memfd, and the
 * descriptors of the tracking are listed in the same order (they stay @p's). Between
 * the two only one may make rounds.
 */
typedef VEC(int) precopy_fds;
int precopy_pack(const struct precopy *p, int *state_fd_out, precopy_fds *fds_out, struct err *err)
	must_check;

/* Takes over: @fds become the result's, or are closed on failure. */
struct precopy *precopy_unpack(pid_t root, const struct kind_options *opt, unsigned int timeout_ms,
			       int state_fd, const int *fds, size_t n_fds, struct err *err)
	must_check;

/*
 * Ends all tracking of a tree that runs on: takes the registrations away piece by piece, then closes. The kernel
 * does it too when the last descriptor is closed, with the whole address space locked, for which
 * the tree stands still (0.7 s for 1 GiB in a virtual machine). NULL allowed.
 */
void precopy_end(struct precopy *p);

/* Closes: that ends the tracking if nobody else has its descriptors. NULL allowed. */
void precopy_close(struct precopy *p);

#endif
