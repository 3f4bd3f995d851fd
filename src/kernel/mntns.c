// SPDX-License-Identifier: Apache-2.0
#include "kernel/mntns.h"

#include "base/attrs.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

int mntns_note(struct mntns_way *way, struct err *err)
{
	way->ns = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
	way->root = open("/", O_PATH | O_CLOEXEC);
	way->cwd = open(".", O_PATH | O_CLOEXEC);
	if (way->ns < 0 || way->root < 0 || way->cwd < 0)
		return err_sys(err, "cannot open our mount namespace");
	return unshare(CLONE_FS) < 0 ? err_sys(err, "cannot have a root directory of our own") : 0;
}

int mntns_enter(int ns, struct mntns_way *way, struct err *err)
{
	if (mntns_note(way, err) < 0)
		return -1;
	return setns(ns, CLONE_NEWNS) < 0 ? err_sys(err, "cannot enter a mount namespace") : 0;
}

int mntns_back(struct mntns_way *way, struct err *err)
{
	int rc = 0;

	/* a thread that was made meanwhile has our root directory, too; one that was joined perhaps still */
	if (way->ns >= 0 && way->root >= 0 && way->cwd >= 0 &&
	    (unshare(CLONE_FS) < 0 || setns(way->ns, CLONE_NEWNS) < 0 || fchdir(way->root) < 0 ||
	     chroot(".") < 0 || fchdir(way->cwd) < 0))
		rc = err_sys(err, "cannot go back to our mount namespace");
	mntns_forget(way);
	return rc;
}

void mntns_forget(struct mntns_way *way)
{
	int fds[] = {way->ns, way->root, way->cwd};

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	*way = MNTNS_HERE;
}
