// SPDX-License-Identifier: Apache-2.0
/*
 * A migration is one table. Each row is a stage: what the source does, what
 * the target does, and how each takes it back. The two drivers are short loops
 * over the rows; the progress that the user sees is the table, too.
 *
 * Before the row that commits a failure runs the undos of the rows that were
 * begun, backwards, on both sides. The row that commits decides itself, once
 * and for all: it succeeds (the tree runs there), or fails (it never will); what
 * comes after it cannot fail the migration any more.
 */
#ifndef FERRY_MIGRATE_STAGES_H
#define FERRY_MIGRATE_STAGES_H

#include "wire/msg.h"

#include <stdbool.h>

struct source;
struct target;

struct stage {
	enum wire_stage id;
	int (*source)(struct source *s, struct err *err);
	void (*undo_source)(struct source *s);
	int (*target)(struct target *t, struct err *err);
	void (*undo_target)(struct target *t);
	bool commits;
	bool frozen; /* the tree stands still; up to the row that commits */
	bool quiet; /* the target has nothing to do before the source's next message: the word of the stage waits for that */
};

/* In order; [i].id == i. */
extern const struct stage stages[WIRE_STAGES];

/* Runs all rows from the source's side. 0: the tree runs there. -1: it is as if nothing had been. */
int stages_run_source(struct source *s, struct err *err) must_check;

/* The target's side, which follows the source's. 0: the tree runs here. */
int stages_run_target(struct target *t, struct err *err) must_check;

#endif
