// SPDX-License-Identifier: Apache-2.0
/*
 * What this kernel, with our rights, can do: a table of features, each with a
 * test that really uses the interface. Version numbers are never looked at:
 * distributions backport, and a sandbox takes away.
 */
#ifndef FERRY_KERNEL_PROBE_H
#define FERRY_KERNEL_PROBE_H

#include "base/attrs.h"

#include <stdbool.h>

enum probe_need {
	PROBE_OPTIONAL = 0, /* faster or finer with it; works without */
	PROBE_DUMP = 1 << 0,
	PROBE_RESTORE = 1 << 1,
	PROBE_NEW_PIDS = 1 << 2, /* restore into a new pid namespace */
};

struct kernel_probe {
	const char *name;
	const char *purpose;    /* "to ...", for people */
	unsigned int needed_by; /* enum probe_need bits */
	/* 0, or the errno that tells what is missing. May fork; leaves nothing behind. */
	int (*test)(void);
};

/* Ended by a row without a name. */
extern const struct kernel_probe kernel_probes[];

#endif
