// SPDX-License-Identifier: Apache-2.0
/*
 * System V shared memory, semaphores and message queues (sysvipc(7)).
 *
 * A tree is carried with the segments that it has attached; of an IPC namespace of its own with all
 * there is. Where it comes to it always gets an IPC namespace (ipc_namespaces(7)): its ids are
 * certainly free in it, it ends with the tree, and with a failed restore. In the images, too, a
 * tree with System V objects has an IPC namespace of its own, as CRIU wants it.
 */
#ifndef FERRY_KINDS_SYSV_H
#define FERRY_KINDS_SYSV_H

#include "kinds/kind.h"

/* ---- capture ---- */

/*
 * Semaphores and queues of an IPC namespace that others use, too, cannot be told from theirs: -1 + err if one
 * was last used by one of these (running) processes, which share our namespace.
 */
int sysv_allowed(const pid_t *pids, size_t n, struct err *err) must_check;

/* Is this area of /proc/PID/maps one of a System V segment? Then its inode number is the id of it (shmget). */
bool sysv_is_area(unsigned int dev_major, unsigned int dev_minor, const char *name);

/* Notes a segment that an area of the tree shows; @path is the area's /proc/PID/map_files. */
int sysv_note(struct capture *c, const char *path, uint64_t id, struct err *err) must_check;

/*
 * After all areas are described: snap->ipc, and the contents of segments into c->shmem. @pid is any task of the tree;
 * @ours: it is in our IPC namespace. A segment that others have attached, too, is refused.
 */
int sysv_capture(struct capture *c, pid_t pid, bool ours, struct err *err) must_check;

/* The tree has ended and lives elsewhere: its segments in our IPC namespace go, too. */
void sysv_drop(struct capture *c);

/* ---- restore ---- */

/*
 * Makes an IPC namespace with all objects of snap->ipc, and opens it in *@ns_fd_out. @fill puts in
 * the contents of a segment, whose file @fd is. This thread is in that namespace meanwhile only.
 */
int sysv_build(const struct snapshot *snap,
	       int (*fill)(void *arg, const IpcShmEntry *e, int fd, struct err *err), void *arg,
	       int *ns_fd_out, struct err *err) must_check;

/* All have attached what they had: segments marked for destruction are marked again, and limits set. */
int sysv_finish(const struct snapshot *snap, int ns_fd, struct err *err) must_check;

#endif
