// SPDX-License-Identifier: Apache-2.0
/* What a mount has done and what is missing, as one JSON object. */
#ifndef FERRY_LAZYFS_STATUS_H
#define FERRY_LAZYFS_STATUS_H

#include "lazyfs/node.h"

/* The caller frees it; NULL: out of memory. */
char *status_json(struct lazyfs *fs);

#endif
