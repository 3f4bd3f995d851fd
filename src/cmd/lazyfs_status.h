// SPDX-License-Identifier: Apache-2.0
/* ferry lazyfs --status and --detach. */
#ifndef FERRY_CMD_LAZYFS_STATUS_H
#define FERRY_CMD_LAZYFS_STATUS_H

#include "cmd/opt.h"

#include <stdbool.h>

/* Asks the mount (LAZYFS_STATUS_XATTR) and prints the answer, for people or as it is. */
int lazyfs_print_status(const char *mountpoint, bool json, struct err *err) must_check;

/*
 * Has everything that the tree uses brought, and what lies at the paths of @with, and the source let go
 * (LAZYFS_DETACH_XATTR). Waits until that is done.
 */
int lazyfs_let_source_go(const char *mountpoint, const struct opt_list *with, struct err *err)
	must_check;

#endif
