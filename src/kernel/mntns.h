// SPDX-License-Identifier: Apache-2.0
/*
 * The calling thread in another mount namespace for a while: setns(2) wants it to
 * share its root and working directory with no other thread (unshare(CLONE_FS)), and
 * takes it to the root of the namespace, which need not be where it was before.
 * Threads that it makes there stay there. Needs CAP_SYS_ADMIN and CAP_SYS_CHROOT.
 */
#ifndef FERRY_KERNEL_MNTNS_H
#define FERRY_KERNEL_MNTNS_H

#include "base/err.h"

/* Where the thread was: descriptors; -1: it is there. */
struct mntns_way {
	int ns, root, cwd;
};

#define MNTNS_HERE ((struct mntns_way){.ns = -1, .root = -1, .cwd = -1})

/* Notes where the thread is, and gives it a root and a working directory of its own. Undone by mntns_back. */
int mntns_note(struct mntns_way *way, struct err *err) must_check;

/* Into the namespace behind @ns. Undone by mntns_back, also when it failed. */
int mntns_enter(int ns, struct mntns_way *way, struct err *err) must_check;

/* Back to where mntns_note was called; nothing if the thread is there. */
int mntns_back(struct mntns_way *way, struct err *err) must_check;

/* The thread stays where it is. */
void mntns_forget(struct mntns_way *way);

#endif
