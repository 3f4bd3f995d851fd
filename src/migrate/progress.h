// SPDX-License-Identifier: Apache-2.0
/*
 * What the user sees of a migration: one line that is updated on a terminal,
 * or JSON objects, one a line, for machines, or nothing until the summary.
 */
#ifndef FERRY_MIGRATE_PROGRESS_H
#define FERRY_MIGRATE_PROGRESS_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum progress_style {
	PROGRESS_QUIET,    /* nothing at all */
	PROGRESS_PLAIN,    /* notes and the summary, on stdout */
	PROGRESS_TERMINAL, /* the same, and a line on stderr in between */
	PROGRESS_JSON,     /* all as JSON, on stdout */
};

struct progress {
	enum progress_style style;
	const char *stage;
	uint64_t start_ns, stage_ns, drawn_ns; /* CLOCK_MONOTONIC */
	bool line;                             /* the terminal's line is not empty */
};

/* What post-copy was like at the destination. */
struct progress_lazy {
	bool known;
	uint64_t faults, losses;
	uint64_t p50_ns, p99_ns, max_ns; /* from the fault to the page */
	uint64_t drain_ns;               /* from running there until nothing was missing */
	uint64_t urgent_bytes, bulk_bytes;
};

struct progress_summary {
	pid_t pid, new_pid;
	const char *host;
	bool new_pid_namespace;
	uint64_t frozen_ns; /* from the first stop until the destination said that it runs */
	uint64_t sent_bytes, memory_bytes, file_bytes;
	uint64_t zero_bytes; /* of pages that went without their bytes */
	uint64_t round_bytes;
	unsigned int files, rounds;
	bool detaches;    /* lazy files: this host is let go by itself */
	bool writes_home; /* lazy files: what is changed goes home */
	const char *kept_list; /* with lazy files: where the destination will list what was changed; NULL */
	struct progress_lazy lazy;
};

void progress_init(struct progress *p, enum progress_style style);
void progress_stage(struct progress *p, const char *stage);
void progress_bytes(struct progress *p, uint64_t done, uint64_t total); /* total 0: not known */
void progress_note(struct progress *p, const char *text);
/* One of several reasons for a refusal; the sentence comes at the end. */
void progress_refused(struct progress *p, const char *text);
void progress_moved(struct progress *p, const struct progress_summary *s);
void progress_failed(struct progress *p, const char *text);

#endif
