// SPDX-License-Identifier: Apache-2.0
/*
 * A round of pre-copy into images: what pre-dump makes, and dump before its freeze.
 */
#ifndef FERRY_CMD_ROUND_H
#define FERRY_CMD_ROUND_H

#include "capture/precopy.h"
#include "mem/ps_client.h"
#include "snapshot/snapshot.h"
#include "store/store.h"

/*
 * Makes one round of @p and completes @store with it: pagemaps, pages (or, with a @server, those there; NULL: none) and
 * an inventory without tasks. @snap owns what the pagemaps are made of: it must live as long as @p.
 * After a failure the directory has no inventory, and only precopy_close makes sense of @p.
 */
int round_save(struct precopy *p, struct snapshot *snap, struct store *store,
	       struct ps_client *server, struct precopy_stats *stats, struct err *err) must_check;

enum own_round_when { OWN_ROUND_AUTO, OWN_ROUND_YES, OWN_ROUND_NO };

/* Where the round of a dump is, below its images: the link "parent" leads there. */
#define OWN_ROUND_DIR "pre-copy"

/* The round that a dump makes for itself. Zero it first. */
struct own_round {
	struct snapshot *snap;
	struct precopy *precopy; /* the last round is left to do; NULL: there was no round */
};

/* From so much private memory on a tree that runs on is worth a round. */
#define OWN_ROUND_WORTH_BYTES (64UL << 20)

/*
 * Copies the memory of the running tree into OWN_ROUND_DIR of the directory @images_fd, and makes @store, which is
 * that directory, build on it. @worth: also unasked (OWN_ROUND_AUTO), if the tree is large and the kernel can
 * tell what is written meanwhile; what it cannot fails a wanted one only.
 */
int own_round_make(struct own_round *r, enum own_round_when when, bool worth, pid_t pid,
		   const struct kind_options *kinds, unsigned int timeout_ms, int images_fd,
		   struct store *store, struct err *err) must_check;

/* What is watched is the caller's, who closes it before. */
void own_round_close(struct own_round *r);

#endif
