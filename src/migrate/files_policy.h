// SPDX-License-Identifier: Apache-2.0
/* What is handed out of the files of a tree (lazyfs/serve.h), from /proc, and as bytes between our processes. */
#ifndef FERRY_MIGRATE_FILES_POLICY_H
#define FERRY_MIGRATE_FILES_POLICY_H

#include "lazyfs/serve.h"
#include "wire/msg.h"

/*
 * All below the root directories of the tasks of @root, as far as their users, groups and capabilities
 * can read it; and the files of @list whatever they are, as the tree has them. The tree is stopped.
 * @writes: it may also be changed, as far as these can (policy_writes tells).
 */
int policy_encode(pid_t root, const Wire__FileList *list, bool writes, struct lf_out *out,
		  struct err *err) must_check;

/* NULL + err. Never freed: a server that follows another one may still look at it. */
struct serve_policy *policy_decode(const uint8_t *data, size_t bytes, struct err *err) must_check;

/* May what it hands out be changed, too? */
bool policy_writes(const struct serve_policy *p);

#endif
