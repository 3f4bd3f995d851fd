// SPDX-License-Identifier: Apache-2.0
/*
 * The vdso: where it lies, what it exports, and how code that knows one
 * kernel's vdso is made to use another's.
 *
 * A restored program keeps pointers into the vdso of the kernel it was born
 * on, but must use the data pages (vvar) of the kernel it runs on, whose layout is
 * private to that kernel's own vdso. Where the two images are the same the
 * local one is moved to the old address. Where they differ, a copy of the old
 * one stays there whose functions jump into the local one.
 */
#ifndef FERRY_KERNEL_VDSO_H
#define FERRY_KERNEL_VDSO_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { VDSO_MAX_SYMBOLS = 64, VDSO_MAX_PARTS = 4, VDSO_MAX_BYTES = 64 * 1024 };

struct vdso_symbol {
	char name[48];
	uint64_t off; /* from the start of the image */
	uint64_t bytes;
};

struct vdso_symbols {
	struct vdso_symbol v[VDSO_MAX_SYMBOLS];
	size_t n;
};

/* The exported functions (__vdso_*) of an image, which may be hostile. */
int vdso_parse(const void *image, size_t bytes, struct vdso_symbols *out, struct err *err) must_check;

/* One mapping of the set that the kernel gives every process: [vvar], [vvar_vclock], [vdso]. */
struct vdso_part {
	uint64_t start, end;
};

struct vdso_set {
	struct vdso_part part[VDSO_MAX_PARTS]; /* ascending; the last is the vdso itself */
	size_t n;
	const void *image; /* our own mapping of it; NULL when read from another process */
	size_t image_bytes;
};

/* The set of this process. -1 if it has none (vdso=0 on the kernel command line). */
int vdso_find(struct vdso_set *out, struct err *err) must_check;

/* Start and size of the whole set, gaps included. */
static inline uint64_t vdso_set_start(const struct vdso_set *s)
{
	return s->part[0].start;
}

static inline uint64_t vdso_set_bytes(const struct vdso_set *s)
{
	return s->part[s->n - 1].end - s->part[0].start;
}

/*
 * Rewrites @old (a copy of another kernel's image) so that each of its
 * functions jumps to the same function of the local image, which the task will
 * have at @new_addr. A function that is missing here becomes the plain system
 * call, or stays as it is if it touches no kernel data; otherwise an error names it.
 */
int vdso_redirect(void *old, size_t old_bytes, const void *new_image, size_t new_bytes,
		  uint64_t new_addr, struct err *err) must_check;

/* Offset of a `syscall` instruction in an image; 0 if there is none. */
uint64_t vdso_syscall_offset(const void *image, size_t bytes);

#endif
