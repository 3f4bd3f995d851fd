// SPDX-License-Identifier: Apache-2.0
/*
 * Extended attributes of files that belong to the file, xattr(7): capabilities,
 * access control lists, and what users and the administrator put there. Labels
 * of security modules and attributes of file systems belong to the machine and
 * are left alone.
 */
#ifndef FERRY_BASE_XATTR_H
#define FERRY_BASE_XATTR_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/vec.h"

#include <stdbool.h>
#include <stddef.h>

struct xattr {
	char *name;
	void *value;
	size_t bytes;
};
typedef VEC(struct xattr) xattr_list;

/* Is it one of those? */
bool xattr_is_carried(const char *name);

/* Appends a copy. false: out of memory. */
bool xattr_push(xattr_list *list, const char *name, const void *value, size_t bytes) must_check;

/* Those of the file at @path (links are followed); none where the file system has none. */
int xattr_read(const char *path, xattr_list *out, struct err *err) must_check;

/* Gives the open file @fd these, and no others of the sort. */
int xattr_write(int fd, const xattr_list *list, struct err *err) must_check;

void xattr_free(xattr_list *list);

#endif
