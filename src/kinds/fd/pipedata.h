// SPDX-License-Identifier: Apache-2.0
/*
 * What is inside a pipe or fifo: read without consuming it, put back into a
 * new one.
 */
#ifndef FERRY_KINDS_FD_PIPEDATA_H
#define FERRY_KINDS_FD_PIPEDATA_H

#include "kinds/kind.h"

typedef VEC(struct snap_payload) payload_list;

/*
 * Copies the contents of the pipe behind @f (a readable description) into
 * @list, under @pipe_id, unless another end did before. @packets: some writer
 * is in packet mode, so boundaries matter.
 */
int pipedata_capture(struct capture *c, const struct fd_facts *f, uint32_t pipe_id, bool packets,
		     void *list, struct err *err) must_check;

/* The entry of a pipe, NULL if the images have none. */
const struct snap_payload *pipedata_find(const void *list, uint32_t pipe_id);

/* Sizes a new pipe and writes its contents; @write_fd may block or not. @data NULL: nothing to do. */
int pipedata_restore(int write_fd, const struct snap_payload *data, struct err *err) must_check;

#endif
