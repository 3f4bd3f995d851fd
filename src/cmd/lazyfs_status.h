// SPDX-License-Identifier: Apache-2.0
/* ferry lazyfs --status. */
#ifndef FERRY_CMD_LAZYFS_STATUS_H
#define FERRY_CMD_LAZYFS_STATUS_H

#include "base/err.h"

#include <stdbool.h>

/* Asks the mount (LAZYFS_STATUS_XATTR) and prints the answer, for people or as it is. */
int lazyfs_print_status(const char *mountpoint, bool json, struct err *err) must_check;

#endif
