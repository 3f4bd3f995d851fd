// SPDX-License-Identifier: Apache-2.0
/*
 * A snapshot made by hand, with one of most things: a root with two threads,
 * a child that shares its descriptors, a zombie; files of several kinds.
 */
#ifndef FERRY_TESTS_SAMPLE_H
#define FERRY_TESTS_SAMPLE_H

#include "snapshot/snapshot.h"

enum {
	SAMPLE_ROOT = 100,
	SAMPLE_THREAD = 101,
	SAMPLE_CHILD = 102,
	SAMPLE_ZOMBIE = 103,

	SAMPLE_IPC = 100,     /* its IPC namespace */
	SAMPLE_SEGMENT = 700, /* System V: two pages less some bytes; nobody has attached it */

	FILE_EXE = 1,
	FILE_CWD,
	FILE_ROOT,
	FILE_PIPE_R,
	FILE_PIPE_W,
	FILE_EVENTFD,
	FILE_MEMFD,
	FILE_TTY,
	FILE_TTY_PATH,
	FILE_FIFO,
	FILE_FIFO_PATH,
	FILE_SOCKET,
	FILE_PEER,
	FILE_GHOST,
	FILE_LINKED,
	FILE_LINK,
};

/* The memory of a test is there, or the test is over. */
void *sample_must(void *p);

#define sample_new(snap, Type, prefix) ((Type *)sample_must(snap_new(snap, Type, prefix)))
#define sample_array(snap, Type, n) ((Type *)sample_must(arena_array(&(snap)->arena, Type, n)))

/* The whole thing; free it with snapshot_free. */
struct snapshot *sample_snapshot(void);

/* Adds an entry of a file with a path. */
RegFileEntry *sample_path(struct snapshot *snap, uint32_t id, const char *name);

#endif
