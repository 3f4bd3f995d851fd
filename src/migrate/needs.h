// SPDX-License-Identifier: Apache-2.0
/*
 * What a tree needs of its host, read from /proc while it runs: ids, users,
 * ports, processor features (Wire__Needs) and paths (Wire__FileList). Nothing
 * is stopped. After the freeze the paths are read again.
 */
#ifndef FERRY_MIGRATE_NEEDS_H
#define FERRY_MIGRATE_NEEDS_H

#include "base/arena.h"
#include "base/err.h"
#include "base/map.h"
#include "wire/msg.h"

#include <sys/types.h>

/* Filled in @arena, which owns everything behind it; so are the paths. */
int needs_gather(pid_t root, struct arena *arena, Wire__Needs *out, struct err *err) must_check;

/* @extra: more paths, which the tree does not show (NULL-terminated, or NULL). */
int needs_paths(pid_t root, const char *const *extra, struct arena *arena, Wire__FileList *out,
		struct err *err) must_check;

/* Names of processor features that programs can use, as this processor has them; NULL-terminated. */
struct cpu_features {
	const char *names[64];
	size_t n;
	uint64_t xcr0; /* enabled xsave components; 0: no xsave */
};
void cpu_features_read(struct cpu_features *out);

/* /proc/sys/kernel/random/boot_id without the line end; "" if it cannot be read. */
void boot_id_read(char buf[40]);

#endif
