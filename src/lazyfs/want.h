// SPDX-License-Identifier: Apache-2.0
/*
 * What a saved tree wants of its source: the paths that it has open, mapped, or
 * as executable, root or working directory, and as whom it reads them; out of
 * images of CRIU or of ours.
 */
#ifndef FERRY_LAZYFS_WANT_H
#define FERRY_LAZYFS_WANT_H

#include "lazyfs/proto.h"

struct snapshot;

/* Is the path of a kind that each host has of its own: below /proc, /sys or /dev? */
bool want_local(const char *path) must_check;

struct want_file {
	const char *path;
	uint64_t size; /* at the dump; UINT64_MAX: not known */
};

struct want {
	struct arena arena;
	struct lf_hello hello;
	VEC(struct want_file) files; /* those that are not directories */
};

/*
 * Fills @out. Left out: what the destination has of its own (/proc, /sys, /dev),
 * deleted files (their contents are in the images), and "/" itself, which would be everything; with @everything
 * it is, and the rest is said by it. Copies what it keeps of @snap.
 */
int want_make(const struct snapshot *snap, const char *source_root, bool everything,
	      struct want *out, struct err *err) must_check;
/* Asks for leave to send changes home. -1: no random number can be had. */
int want_writes(struct want *w, struct err *err) must_check;
void want_free(struct want *w);

#endif
