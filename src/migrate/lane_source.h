// SPDX-License-Identifier: Apache-2.0
/*
 * The target's source of missing pages: the frozen tree at home, asked over a set of
 * lanes. What a thread waits for goes over the first, the background over the
 * others, of which all but the first are used on a fast link only: a question goes where least is on its way. When one breaks all are given up; the source at home opens others.
 */
#ifndef FERRY_MIGRATE_LANE_SOURCE_H
#define FERRY_MIGRATE_LANE_SOURCE_H

#include "mem/lazy.h"
#include "migrate/kept.h"
#include "migrate/lane.h"

struct lane_source;

/* @hall must outlive it. */
struct lane_source *lane_source_create(struct hall *hall, struct err *err) must_check;
void lane_source_free(struct lane_source *s); /* NULL allowed */

/* For lazy_open. */
struct lazy_source *lane_source_base(struct lane_source *s);

/* From which speed on (0: always) the bulk goes over all of its lanes. Before they come; 60 MB/s unless it is called. */
void lane_source_spread_from(struct lane_source *s, uint64_t kb_per_s);

/* Pages that are at the target already; must outlive it. Before the engine runs. */
void lane_source_keep(struct lane_source *s, struct kept *kept);

/* Waits until all lanes of a set have come, or @stop_fd is readable, or the time is over: 1, 0 (not yet), -1. */
int lane_source_await(struct lane_source *s, int stop_fd, int timeout_ms, struct err *err) must_check;

/*
 * Tells the tree at home that nothing is missing any more, and waits for its
 * answer. Goes on through broken lanes until @timeout_ms is over: then -1.
 */
int lane_source_finish(struct lane_source *s, struct lazy *z, int timeout_ms, struct err *err)
	must_check;

/* Pages that were put in place from what was kept: no connection was used for them. */
uint64_t lane_source_here_pages(const struct lane_source *s, bool urgent);

uint64_t lane_source_received_bytes(const struct lane_source *s);

#endif
