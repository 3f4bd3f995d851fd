// SPDX-License-Identifier: Apache-2.0
/*
 * The tree's mount namespace: a copy of ours. A new pid namespace needs it for its
 * /proc, which the first task mounts (root.c). A tree whose files come from elsewhere
 * (restore_options.root_mount) has another root directory in it; what belongs to the
 * host and not to files stays the host's: /dev, /proc and /sys.
 *
 * The namespace lives as long as a task of the tree, or a descriptor of ours, is in
 * it; with it go its mounts.
 */
#define LOG_MODULE "restore"
#include "base/io.h"
#include "base/log.h"
#include "restore/session.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static const char *const host_dirs[] = {"dev", "proc", "sys"};

/* A directory of the host's, with the mounts below it; attached nowhere. */
static int clone_host_dir(const char *name, struct err *err)
{
	char path[16];
	int fd;

	snprintf(path, sizeof(path), "/%s", name);
	fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	return fd >= 0 ? fd : err_sys(err, "cannot take %s along for the tree", path);
}

/* @root may lack the place: the kernel's file systems do not travel. */
static int attach_host_dir(int root, const char *name, int tree, struct err *err)
{
	struct stat st;

	if (mkdirat(root, name, 0755) < 0 && errno != EEXIST)
		return err_sys(err, "cannot make /%s in the tree's root directory", name);
	if (fstatat(root, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, "/%s in the tree's root directory", name);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, ENOTDIR, "/%s in the tree's root directory is no directory",
			       name);
	if (move_mount(tree, "", root, name, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_sys(err, "cannot show this host's /%s to the tree", name);
	return 0;
}

/* The old root goes: it lies on the new one after pivot_root(2) with the same directory twice. */
static int pivot(int root, struct err *err)
{
	if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
	    umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return err_sys(err, "cannot change the tree's root directory (pivot_root)");
	return 0;
}

/*
 * In the new namespace. The new root is attached where surely a directory is: at /proc, of which
 * we have a copy by then.
 */
static int change_root(int mount_fd, struct err *err)
{
	int trees[ARRAY_SIZE(host_dirs)], rc = 0;
	cleanup_close int root = -1;

	for (size_t i = 0; i < ARRAY_SIZE(host_dirs); i++) {
		trees[i] = rc == 0 ? clone_host_dir(host_dirs[i], err) : -1;
		rc = trees[i] < 0 ? -1 : rc;
	}
	if (rc == 0 && move_mount(mount_fd, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		rc = err_sys(err, "cannot mount the tree's root directory");
	if (rc == 0) {
		root = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
		rc = root < 0 ? err_sys(err, "the tree's root directory") : 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(host_dirs); i++) {
		if (rc == 0)
			rc = attach_host_dir(root, host_dirs[i], trees[i], err);
		if (trees[i] >= 0)
			close(trees[i]);
	}
	return rc < 0 ? -1 : pivot(root, err);
}

static int make_namespace(struct restore_session *s, struct err *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return err_sys(err, "cannot make a mount namespace for the tree");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return err_sys(err, "cannot keep the tree's mounts to itself");
	if (s->opt.root_mount) {
		if (change_root(*s->opt.root_mount, err) < 0)
			return -1;
		close(steal_fd(s->opt.root_mount));
	}
	s->mnt_fd = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
	return s->mnt_fd < 0 ? err_sys(err, "cannot open the tree's mount namespace") : 0;
}

int mounts_enter(struct restore_session *s, struct err *err)
{
	if (!s->new_pidns && !s->opt.root_mount)
		return 0;
	if (s->mnt_fd >= 0)
		return mntns_enter(s->mnt_fd, &s->mnt_way, err);
	return mntns_note(&s->mnt_way, err) < 0 ? -1 : make_namespace(s, err);
}

int mounts_leave(struct restore_session *s, struct err *err)
{
	return mntns_back(&s->mnt_way, err);
}
