// SPDX-License-Identifier: Apache-2.0
/*
 * Files that a tree left behind when it moved away. It goes on writing its copy
 * elsewhere; when it comes back, what lies here is an older state of its own
 * file, not somebody's other content, and may be replaced. But only if nobody
 * touched it meanwhile: inode, size and times, the change time too, must be what
 * they were. And only files that the tree was writing: of others the original
 * is here.
 */
#ifndef FERRY_MIGRATE_LEFT_H
#define FERRY_MIGRATE_LEFT_H

#include "base/attrs.h"
#include "wire/msg.h"

#include <stdbool.h>
#include <sys/stat.h>

/* Notes the written regular files of the list as left behind. Best effort: without a note the file counts as other content. */
void left_note(const Wire__FileList *list);

/* The same for one path. -1 with errno. */
int left_note_path(const char *path) must_check;

/* Is this file as a tree left it? */
bool left_unchanged(const char *path, const struct stat *st);

#endif
