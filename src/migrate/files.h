// SPDX-License-Identifier: Apache-2.0
/*
 * Files that the tree needs and the destination lacks.
 *
 * It goes in two rounds. The first, while the tree runs, compares all paths
 * and copies what is missing into files without a name. The second, after the
 * freeze, looks at all paths again and sends the blocks that changed since;
 * only then do the copies get their names (and a restore can open them).
 * Nothing that exists is overwritten without the user's word; until the commit
 * everything can be undone.
 */
#ifndef FERRY_MIGRATE_FILES_H
#define FERRY_MIGRATE_FILES_H

#include "wire/channel.h"

#include <stdbool.h>

/* Contents are compared and sent in blocks of this size. */
#define FILE_BLOCK_BYTES (1u << 20)

struct file_policy {
	enum wire_files mode;
	bool copy;      /* --files=copy; else whatever is missing or different is refused */
	bool overwrite; /* --overwrite-files */
	bool wanted;    /* the mode is the user's word: refuse rather than do it in another way */
	uint64_t timeout_ms; /* lazy: see lazyfs_options */
	uint64_t pool_bytes; /* lazy: see treeroot_options */
	bool fill;
	bool writeback;           /* lazy: what the tree changes there goes home */
	bool detach;              /* lazy: let the source go when what is used has come, */
	const char *const *whole; /* and what is below these paths */
	size_t n_whole;
};

struct file_totals {
	unsigned int files; /* copied */
	uint64_t bytes;     /* sent for them */
};

/* ---- source ---- */

struct file_source;

struct file_source *file_source_create(const struct file_policy *policy, struct err *err) must_check;
void file_source_free(struct file_source *fs); /* NULL allowed */

/*
 * Instead of a round: is all of @list at the destination, and the same, or an older state that the tree has left
 * there? Nothing is sent but the question, and nothing refused. @what_out: the first that is not, or NULL; it lives as long as the list.
 */
int files_are_there(struct channel *ch, const Wire__FileList *list, const char **what_out,
		    struct err *err) must_check;

/* One round over @list begins: the destination compares the paths. */
int files_ask(struct channel *ch, const Wire__FileList *list, struct err *err) must_check;

/*
 * The rest of the round: hears what is there, and sends what is to be sent; that it is in place is MSG_DONE, which
 * the caller waits for. Each path that is refused goes to @refused (with the
 * reason); then -1. @progress gets the bytes sent and to send.
 */
int files_send(struct file_source *fs, struct channel *ch, const Wire__FileList *list,
	       void (*refused)(void *arg, const char *text),
	       void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes), void *arg,
	       struct err *err) must_check;

void file_source_totals(const struct file_source *fs, struct file_totals *out);

/* ---- target ---- */

struct file_target;

/* @same_kernel: the source runs on this kernel, so its device and inode numbers are ours. */
struct file_target *file_target_create(bool same_kernel, struct err *err) must_check;

/* Answers one list, of files_are_there. */
int files_compare(struct file_target *ft, struct channel *ch, struct err *err) must_check;

/* Serves one round. */
int files_receive(struct file_target *ft, struct channel *ch, struct err *err) must_check;

/* After the last round: every copy gets its name. */
int files_place(struct file_target *ft, struct err *err) must_check;

/* Puts everything back as it was. Logs what cannot be. */
void files_undo(struct file_target *ft);

/* After the commit: forgets the way back. */
void files_keep(struct file_target *ft);
void file_target_free(struct file_target *ft); /* NULL allowed */

/* ---- both ---- */

enum { SHA256_BYTES = 32 };

/* Digest of a whole file. -1 with errno set. */
int file_sha256(int fd, uint8_t out[SHA256_BYTES]) must_check;

#endif
