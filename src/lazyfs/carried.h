// SPDX-License-Identifier: Apache-2.0
/*
 * What a tree has changed and takes along when it moves on: the next host's file
 * system gets its files from this one, so it cannot see by itself which of them are
 * the tree's own work, to be kept at the end, and which were always like that.
 *
 * A list of records says it:
 *	'c' PATH NUL                                     made or changed
 *	'b' DEV INO SIZE MTIME CTIME (64 bits each) PATH NUL   what the first host had there
 * The second kind is the base of a path. Where the tree ends on the host whose file that
 * is, and nobody has touched it since, the tree's own takes its place, or it goes if the tree
 * removed it (keep.c).
 */
#ifndef FERRY_LAZYFS_CARRIED_H
#define FERRY_LAZYFS_CARRIED_H

#include "base/arena.h"
#include "base/err.h"
#include "base/map.h"
#include "base/vec.h"
#include "lazyfs/proto.h"

#include <stdbool.h>

struct lazyfs;
struct node;
struct name;

/* The root's extended attributes ".N": the list from byte N on, made anew at 0; empty at its end. */
#define LAZYFS_CARRIED_XATTR "user.ferry.carried."

enum { CARRIED_BYTES_MAX = 64 * 1024 * 1024, CARRIED_PIECE_BYTES = 32 * 1024 };

struct carried_base {
	const char *path;
	struct lf_ident id;
	struct carried_base *next;
};

/* Zeroed memory: there are none. With the file system's lock. */
struct carried_bases {
	struct arena arena;
	struct map by_path;
	VEC(const struct carried_base *) all;
};

/* NULL: the first host had nothing there, or it is not known. */
const struct lf_ident *carried_base(const struct carried_bases *b, const char *path);
/* One that is known already stays. -1: out of memory. */
int carried_add_base(struct carried_bases *b, const char *path, const struct lf_ident *id) must_check;
void carried_free_bases(struct carried_bases *b);

/* Calls for each record of a list, which may come from anywhere; @base NULL: a path that was changed. */
int carried_parse(const uint8_t *data, size_t bytes,
		  int (*take)(void *arg, const char *path, const struct lf_ident *base), void *arg,
		  struct err *err) must_check;

/* With the lock: @name of @dir will mean something else than at the source. Without memory that is forgotten: see keep.c. */
void carried_note_base(struct lazyfs *fs, const struct node *dir, const struct name *name);

/* With the lock: is there such a name where the files come from? With writeback those that were made here are. */
bool carried_is_name_at_home(const struct lazyfs *fs, const struct name *name);

/* Did programs make or change it, here or before it came here? */
bool carried_changed(struct node *n);

/* The list; with writeback, after all was sent home that can be. The caller frees *out. 0 or an errno value. */
int carried_list(struct lazyfs *fs, uint8_t **out, size_t *bytes_out);

/* @arg: the list from the host that the tree comes from. 0 or an errno value. */
int lazyfs_take_carried(struct lazyfs *fs, const uint8_t *data, size_t bytes);

/* Reads the list of the mount whose root is @path. The caller frees *out. */
int carried_read(const char *path, uint8_t **out, size_t *bytes_out, struct err *err) must_check;

#endif
