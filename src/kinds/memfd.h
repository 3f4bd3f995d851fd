// SPDX-License-Identifier: Apache-2.0
/*
 * Shared memory as files: memfds, and shared anonymous mappings, which the
 * images show as memfds named "/dev/zero". One inode is one MemfdInodeEntry,
 * whose shmid names the pagemap with its contents; the contents are copied by
 * capture/ and restore/, through the descriptors given here.
 */
#ifndef FERRY_KINDS_MEMFD_H
#define FERRY_KINDS_MEMFD_H

#include "kinds/kind.h"

/* The device number of the kernel's own shmem mount, on which all of these files live; 0 if unknown. */
dev_t memfd_shmem_dev(void);

/* Is this the file of a shared mapping that memfd_capture_shared takes (not SysV, not hidden memory)? */
bool memfd_is_shared_memory(const struct stat *st, const char *link);

/*
 * A mapping of a memfd or of shared anonymous memory: adds a MEMFD entry with a
 * new file id, and the inode if it is new. @fd comes from /proc/PID/map_files,
 * @link is its text. The inode's contents come into c->shmem (fd duplicated).
 */
int memfd_capture_shared(struct capture *c, int fd, const char *link, uint32_t *file_id_out,
			 struct err *err) must_check;

/*
 * Restore: the file of an inode (MemfdInodeEntry.inode_id), open for reading
 * and writing, made and sized by the first call. The broker keeps it. -1 + err.
 */
int memfd_inode_fd(struct restore *r, uint64_t inode_id, struct err *err) must_check;

/*
 * Seals every inode as the images say. After the contents are in place and all
 * mappings are made: a write seal would forbid both.
 */
int memfd_seal_all(struct restore *r, struct err *err) must_check;

#endif
