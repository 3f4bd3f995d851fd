// SPDX-License-Identifier: Apache-2.0
/*
 * stats-dump in the work directory, as CRIU writes it.
 */
#ifndef FERRY_CMD_DUMP_STATS_H
#define FERRY_CMD_DUMP_STATS_H

#include "base/attrs.h"
#include "base/err.h"
#include "stats.pb-c.h"

/* Callers only warn when it fails: statistics never fail a dump. */
int dump_stats_write(int work_fd, DumpStatsEntry *stats, struct err *err) must_check;

#endif
