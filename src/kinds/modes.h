// SPDX-License-Identifier: Apache-2.0
/*
 * What a process may have switched on that cannot be carried, as far as it can be
 * seen while it runs.
 */
#ifndef FERRY_KINDS_MODES_H
#define FERRY_KINDS_MODES_H

#include "base/attrs.h"
#include "base/err.h"

#include <sys/types.h>

/* 0, or -1 and what it is. A process that has ended has nothing. */
int modes_allowed(pid_t pid, struct err *err) must_check;

#endif
