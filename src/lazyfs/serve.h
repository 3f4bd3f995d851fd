// SPDX-License-Identifier: Apache-2.0
/*
 * The source's side: answers requests for the files of a tree until the client
 * has all of them or is gone. Serves what is in the scope that the client's
 * hello names (lazyfs/scope.h), as far as the tree could read it
 * (lazyfs/jail.h). It changes nothing, unless its user said
 * that it may and the client wants it (lazyfs/change.h).
 */
#ifndef FERRY_LAZYFS_SERVE_H
#define FERRY_LAZYFS_SERVE_H

#include "lazyfs/jail.h"

#include <stdatomic.h>

/* What is served, whatever the client says. */
struct serve_policy {
	struct arena arena;
	struct lf_hello hello;
	VEC(struct jail_held) held; /* sorted by path */
};

void serve_policy_free(struct serve_policy *p); /* what it points to */

/* Sorts and adds them to the exports. -1: out of memory. */
int serve_policy_finish(struct serve_policy *p, struct err *err) must_check;

struct serve_options {
	/* Where the policy is, which may be replaced by another one; the old one stays as long as we serve. */
	const struct serve_policy *_Atomic *policy;
	unsigned int silent_ms; /* without a word of the client's; then the connection is dead. 0: no limit */
	/* Clients may send changes, as far as the tree could make them. New files get the modes that umask(2) leaves. */
	bool writes;
};

/*
 * Takes the (blocking) descriptors over. @opt NULL: the client's word counts, for any time. 0: the client has said bye
 * (then *bye_out, which may be NULL), or the connection ended between two requests.
 */
int lazyfs_serve(int in, int out, const struct serve_options *opt, bool *bye_out, struct err *err)
	must_check;

#endif
