// SPDX-License-Identifier: Apache-2.0
/* --with PATH, of what lets the source of lazy files go: what is to be brought whole. */
#ifndef FERRY_CMD_WHOLE_H
#define FERRY_CMD_WHOLE_H

#include "cmd/opt.h"

/*
 * Each must be a path as lazy files know it: absolute, without links, and there, below the root directory @root. -1: what is wrong
 * with the first that is not.
 */
int whole_check(int root, const struct opt_list *with, struct err *err) must_check;

/* The same; @root is the path of that directory. */
int whole_check_below(const char *root, const struct opt_list *with, struct err *err) must_check;

#endif
