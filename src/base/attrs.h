// SPDX-License-Identifier: Apache-2.0
/*
 * Compiler attributes and scope-bound cleanup.
 */
#ifndef FERRY_BASE_ATTRS_H
#define FERRY_BASE_ATTRS_H

#include <dirent.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define must_check __attribute__((warn_unused_result))
#define printf_like(fmt, args) __attribute__((format(printf, fmt, args)))
#define unused_arg __attribute__((unused))

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define PAGE_BYTES 4096UL
#define PAGE_ALIGN(x) (((x) + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1))

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_closep(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_filep(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void cleanup_dirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* Release at the end of the scope; steal_*() hands the thing on instead. */
#define cleanup_free __attribute__((cleanup(cleanup_freep)))
#define cleanup_close __attribute__((cleanup(cleanup_closep)))
#define cleanup_file __attribute__((cleanup(cleanup_filep)))
#define cleanup_dir __attribute__((cleanup(cleanup_dirp)))

static inline int steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

#define steal_ptr(p)                        \
	({                                  \
		__typeof__(*(p)) v_ = *(p); \
		*(p) = NULL;                \
		v_;                         \
	})

#endif
