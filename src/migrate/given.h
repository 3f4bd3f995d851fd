// SPDX-License-Identifier: Apache-2.0
/*
 * The record of what a process hands out of the files of a tree that has left (files_home.h):
 * /run/ferry/TOKEN.given, beside the other records. That process holds a lock (flock) on it as long as it lives, and
 * removes it when nothing is needed any more. If it is killed, ferry migrate --recover starts another by it.
 */
#ifndef FERRY_MIGRATE_GIVEN_H
#define FERRY_MIGRATE_GIVEN_H

#include "base/err.h"
#include "wire/msg.h"

#include <sys/types.h>

/* @pid: of the root of the tree, as it was here; @data: as files_policy.h has it. A descriptor that holds the lock, or -1. */
int given_write(const char *token, pid_t pid, const void *data, size_t bytes, struct err *err)
	must_check;
void given_remove(const char *token);

struct given {
	char token[WIRE_TOKEN_CHARS + 1];
	pid_t pid;
	uint8_t *data;
	size_t bytes;
};

/*
 * Finds the record of a token, or of the tree with this pid, whose process is gone: 1, and given_free is the caller's;
 * 0: there is none, or its process is at work; -1.
 */
int given_find(const char *token_or_pid, struct given *out, struct err *err) must_check;
void given_free(struct given *g);

#endif
