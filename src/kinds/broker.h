// SPDX-License-Identifier: Apache-2.0
/*
 * The broker opens each file description of a snapshot once, in our process,
 * at descriptor numbers out of the way; tasks of the tree inherit them and put
 * them in place with dup3. So sharing between descriptors and tasks comes out
 * right without any kind knowing about it.
 */
#ifndef FERRY_KINDS_BROKER_H
#define FERRY_KINDS_BROKER_H

#include "kinds/kind.h"

struct broker;

/* @base_fd: lowest number the broker may use; above every number of the tree. */
struct broker *broker_create(struct restore *r, int base_fd, struct err *err) must_check;
void broker_close(struct broker *b); /* closes every description; NULL allowed */

/*
 * The tree runs: removes what only its restore needed (link remaps). Before
 * broker_close, after the last broker_fd and file_open_path.
 */
void broker_commit(struct broker *b);

/* Runs check() of every file of the snapshot. Needs no broker. */
int broker_check(struct restore *r, struct err *err) must_check;

/* open() of every file that has a descriptor in some task, then link() of every open file. */
int broker_open_all(struct broker *b, struct err *err) must_check;

/* The descriptor of a file id; opens it now if it is not open yet (a kind may ask for another entry). -1 + err. */
int broker_fd(struct restore *r, uint32_t file_id, struct err *err) must_check;

/*
 * A kind that makes two descriptions at once (pipe, socketpair) gives the
 * second one here; the broker takes @fd (also on failure).
 */
int broker_give(struct restore *r, uint32_t file_id, int fd, struct err *err) must_check;
bool broker_has(struct restore *r, uint32_t file_id);

/*
 * A second open of a REG or MEMFD entry with other flags, not remembered; the
 * caller closes it. For mappings, exe links, cwd and root: no seek. -1 + err.
 */
int file_open_path(struct restore *r, const FileEntry *fe, uint32_t flags, struct err *err)
	must_check;

/*
 * Descriptors that a kind keeps while the tree is built, by the id of what is
 * behind them. broker_keep takes @fd and gives its new number, -1 + err;
 * broker_kept gives -1 if there is none.
 */
enum broker_shelf {
	SHELF_MEMFD,
	SHELF_REMAP,
	/* These only until broker_open_all has opened and linked everything. */
	SHELF_PIPE_READ,
	SHELF_PIPE_WRITE,
	SHELF_FIFO,
};
int broker_keep(struct restore *r, enum broker_shelf shelf, uint64_t id, int fd, struct err *err)
	must_check;
int broker_kept(const struct restore *r, enum broker_shelf shelf, uint64_t id);

/* "fd 3 of pid 12" (the first holder in the images) or "file id 9", for messages; returns buf. */
const char *broker_describe(const struct restore *r, uint32_t file_id, char *buf, size_t size);

/* The fdinfo list of a task: its own, or that of the task it shares its table with. */
const struct snap_task *snap_fd_table(const struct snapshot *snap, const struct snap_task *t);

#endif
