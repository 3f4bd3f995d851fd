// SPDX-License-Identifier: Apache-2.0
/*
 * The files of a tree as its tasks could read them, and nothing else: every
 * path is resolved below the tree's root without following any link
 * (openat2(2), RESOLVE_IN_ROOT), with the user, groups and capabilities of one of its
 * tasks, and file systems that are the kernel's (proc, sysfs, ...) are not entered.
 * No device, pipe or socket is ever opened, and for writing nothing but regular files
 * where the jail was told so.
 */
#ifndef FERRY_LAZYFS_JAIL_H
#define FERRY_LAZYFS_JAIL_H

#include "lazyfs/proto.h"

#include <sys/stat.h>

/* A file that the tree has open: it may have been opened with rights that no task has any more. */
struct jail_held {
	const char *path;
	uint64_t dev, ino;
};

struct jail {
	int root, self_fds; /* descriptors: the tree's root; /proc/self/fd */
	const struct lf_creds *creds;
	size_t n_creds,
		current; /* current: as whom we look at the moment; n_creds: with our own rights */
	struct lf_creds own;
	bool switches; /* we are root: each access is made as one of the creds */
	bool writes; /* set after jail_init: tasks that had CAP_DAC_OVERRIDE, CAP_CHOWN and CAP_FOWNER have them here, too */
};

/*
 * Keeps @creds. As root the calling thread takes the rights of creds on and off
 * (setfsuid(2), setgroups(2), capset(2)); as another user all is done with its own rights.
 * -1: the root cannot be opened, or the kernel has no openat2.
 */
int jail_init(struct jail *j, const char *root, const struct lf_creds *creds, size_t n_creds,
	      struct err *err) must_check;
void jail_finish(struct jail *j);

/*
 * An O_PATH descriptor of @path (of the link, if it is one) and its state. -1 + errno. With @held, which may be NULL,
 * that very file is also found with our own rights.
 */
int jail_find(struct jail *j, const char *path, const struct jail_held *held, struct stat *st_out);

/* For reading: a regular file, or a directory if @dir. -1 + errno; EACCES for anything else. */
int jail_open(struct jail *j, const char *path, const struct jail_held *held, bool dir);

/*
 * Calls @act with the rights of one after the other of the tree's tasks, until it returns something else
 * than -1 with EACCES or EPERM. What it returned last, with errno.
 */
int jail_as_tree(struct jail *j, int (*act)(struct jail *j, void *arg), void *arg);

/* For @act: a regular file for writing, found as above. -1 + errno; EACCES for anything else. */
int jail_open_write(struct jail *j, const char *path);

/* For @act: an O_PATH descriptor of the directory of @path (not "/"), and the name in it. -1 + errno. */
int jail_open_parent(struct jail *j, const char *path, const char **name_out);

/* Is the file system of this descriptor the kernel's own? */
bool jail_is_pseudo(int fd);

void jail_attr(const struct stat *st, struct lf_attr *out);

#endif
