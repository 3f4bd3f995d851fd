// SPDX-License-Identifier: Apache-2.0
/* What content.c and fetch.c know of each other. All with the content's lock held. */
#ifndef FERRY_LAZYFS_CONTENT_PRIV_H
#define FERRY_LAZYFS_CONTENT_PRIV_H

#include "lazyfs/content.h"

int content_pin_locked(struct content *c);
void content_unpin_locked(struct content *c);
void content_put(struct content *c); /* without the lock */
bool content_complete(const struct content *c);

/*
 * Waits until bytes @at to @end are here (the lock is not held meanwhile), and
 * asks for more up to @ahead_to without waiting.
 */
int content_ensure(struct content *c, uint64_t at, uint64_t end, uint64_t ahead_to,
		   const struct patience *p);

/* The same for a program that waits: work in the background makes way for it. */
int content_demand(struct content *c, uint64_t at, uint64_t end, uint64_t ahead_to,
		   const struct patience *p);

/* Before a reader reads at @at: where a program is used here and there, the rest of it comes, too. */
void content_note_jump(struct content *c, const struct ahead *ahead, uint64_t at);

/*
 * Where a file of this host has the same path and size, or one of the pool the same beginning: is it the same around block @first, by its digest? Then
 * the missing blocks up to @end, and more, are taken from it (the lock is not held meanwhile). What is missing after it is for
 * the source. 0 or an errno value.
 */
int content_use_local(struct content *c, uint64_t first, uint64_t end, const struct patience *p);

/* The cache file, which is pinned, is going to be written to, other than with what is missing. */
void content_leave_pool(struct content *c);

/* Has this host no file that could be the same? */
bool content_only_there(struct content *c);

/*
 * Waits until nobody changes the file at home, and it is known what it is there (the lock is not held
 * meanwhile). 0 or an errno value.
 */
int content_await_home(struct content *c, const struct patience *p);

/* Forgets everything and begins with another content of the source's. */
int content_restart(struct content *c, const struct lf_ident *id);

/* Says once that what is missing cannot come any more. */
void content_stale(struct content *c);

#endif
