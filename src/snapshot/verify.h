// SPDX-License-Identifier: Apache-2.0
/*
 * The parts of snapshot_verify, one per group of images. Each assumes what the
 * earlier ones have checked: tree, cores, files, memory.
 */
#ifndef FERRY_SNAPSHOT_VERIFY_H
#define FERRY_SNAPSHOT_VERIFY_H

#include "snapshot/snapshot.h"

/* verify_core.c: core-TID.img of every thread of one task. */
int verify_cores(const struct snapshot *snap, const struct snap_task *task, struct err *err)
	must_check;

/* verify_files.c: files.img and everything that names file ids, but memory. */
int verify_files(const struct snapshot *snap, struct err *err) must_check;

/* verify_ipc.c: ipcns-*-N.img. Areas refer to segments, so it comes before verify_memory. */
int verify_ipc(const struct snapshot *snap, struct err *err) must_check;

/* verify_memory.c: mm-PID.img and the pagemaps. */
int verify_memory(const struct snapshot *snap, struct err *err) must_check;

/* Of it, the pagemap of one task that has one. */
int verify_task_pages(const struct snap_task *task, struct err *err) must_check;

/* The path entry behind a file id: 0, or -1 naming who refers to it ("mm-34.img: exe"). */
int verify_path_id(const struct snapshot *snap, uint32_t id, const char *who, struct err *err)
	must_check;

#endif
