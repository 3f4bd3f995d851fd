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

/* Runs check() of every file of the snapshot. */
int broker_check(struct restore *r, struct err *err) must_check;

/* open() of every file, then link() of every file. */
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
 * A second open of a regular file's entry with other flags, not remembered; the
 * caller closes it. For mappings and exe links. -1 + err.
 */
int file_open_path(struct restore *r, const FileEntry *fe, uint32_t flags, struct err *err) must_check;

#endif
