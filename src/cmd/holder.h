// SPDX-License-Identifier: Apache-2.0
/*
 * Who holds the tracking of a tree between two commands. With CRIU the kernel itself
 * keeps it (soft-dirty bits); a userfaultfd lives as long as somebody has it open.
 * So `ferry pre-dump` leaves a small process behind, the holder: one per tree. It does
 * nothing but wait
 *
 *	for the next command on this tree, which takes over what it holds,
 *	for the end of the tree,
 *	for its time to be up,
 *
 * and then it ends. Commands find it by a socket in ferry's own directory (/run/ferry, which
 * is root's; for others $XDG_RUNTIME_DIR/ferry), named after the pid of the root. What
 * it holds is good for building on one directory only: the one that its last round went to. If that is
 * not the one that the next command builds on, or if the holder was killed, its tracking ends,
 * and the command sends everything.
 */
#ifndef FERRY_CMD_HOLDER_H
#define FERRY_CMD_HOLDER_H

#include "capture/precopy.h"

/*
 * Where the images of the last round went to, as it can be recognised: a directory, by its inventory.img; or a
 * relay, by its work directory, the name of the snapshot there, and what that is known by to the relay.
 */
struct holder_level {
	uint64_t dev, ino, mtime_ns, bytes;
	uint64_t snapshot, name_hash;
	uint64_t identity; /* whoever asks does not know it, and is told */
};

/* -1: there is no inventory.img in the directory. */
int holder_level_of(int dirfd, struct holder_level *out, struct err *err) must_check;

/*
 * Takes over from the tree's holder, if there is one and its last round went to
 * @level (NULL: whatever it has is of no use), whose identity it fills in. In any case no holder of this tree is
 * left. NULL in *out: there was none that could be used, for the reason in @why.
 */
int holder_take(pid_t root, struct holder_level *level, const struct kind_options *opt,
		unsigned int timeout_ms, struct precopy **out, struct err *why, struct err *err)
	must_check;

/* Listens for the next command: from here on holder_take finds us. */
int holder_listen(pid_t root, struct err *err) must_check;

/*
 * Forks the holder, which keeps @p, @listener and nothing else. 0 in the caller; the holder itself does
 * not return. @timeout_s: how long it waits (0: as long as the tree lives).
 */
int holder_start(struct precopy *p, pid_t root, const struct holder_level *level, int listener,
		 unsigned int timeout_s, struct err *err) must_check;

#endif
