// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "files"
#include "migrate/view.h"

#include "base/attrs.h"
#include "base/io.h"
#include "base/log.h"
#include "capture/capture.h"
#include "kernel/proc.h"
#include "lazyfs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Are the numbers of this /proc our pids? */
static bool proc_is_ours(void)
{
	char text[32];

	return io_readlinkf(text, sizeof(text), "/proc/self") == 0 && atoi(text) == getpid();
}

/* A tree with a pid namespace of its own has a /proc of its own above the host's. */
static int show_our_proc(struct err *err)
{
	while (!proc_is_ours())
		if (umount2("/proc", MNT_DETACH) < 0)
			return err_sys(err, "cannot find our /proc below the tree's");
	return 0;
}

static int copy_namespace(int theirs, int *out, struct err *err)
{
	if (setns(theirs, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(err, "cannot see the files of the tree as it does");
	if (show_our_proc(err) < 0)
		return -1;
	*out = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
	return *out < 0 ? err_sys(err, "cannot open the tree's mount namespace") : 0;
}

int view_open(pid_t root, struct view *out, struct err *err)
{
	struct mntns_way way = MNTNS_HERE;
	cleanup_close int theirs = -1;
	int rc;

	*out = VIEW_OURS;
	if (!capture_root_is_lazy(root))
		return 0;
	theirs = io_openf(O_RDONLY, "/proc/%d/ns/mnt", root);
	if (theirs < 0)
		return err_sys(err, "pid %d: cannot open its mount namespace", root);
	rc = mntns_note(&way, err);
	if (rc == 0)
		rc = copy_namespace(theirs, &out->ns, err);
	return view_leave(&way, rc, err);
}

void view_close(struct view *v)
{
	if (v->ns >= 0)
		close(steal_fd(&v->ns));
}

int view_enter(const struct view *v, struct mntns_way *way, struct err *err)
{
	*way = MNTNS_HERE;
	return v->ns < 0 ? 0 : mntns_enter(v->ns, way, err);
}

int view_leave(struct mntns_way *way, int rc, struct err *err)
{
	struct err late;

	if (mntns_back(way, &late) == 0)
		return rc;
	if (rc == 0)
		*err = late;
	return -1;
}

/* Of what the kernel keeps of a written page until it has time, a file system that is a process knows nothing. */
static void flush_mappings(pid_t pid, dev_t dev)
{
	proc_vmas vmas = {0};
	struct err err;

	if (proc_vmas_read(pid, false, &vmas, &err) < 0)
		log_debug("%s", err.text); /* it has ended */
	vec_foreach (v, &vmas) {
		cleanup_close int fd = -1;

		if (!v->shared || !v->write || !v->ino || v->dev_major != major(dev) ||
		    v->dev_minor != minor(dev))
			continue;
		fd = io_openf(O_RDONLY, "/proc/%d/map_files/%llx-%llx", pid,
			      (unsigned long long)v->start, (unsigned long long)v->end);
		if (fd < 0 || fsync(fd) < 0)
			log_warn("%s of pid %d: what was written through a mapping: %s", v->name,
				 pid, strerror(errno));
	}
	proc_vmas_finish(&vmas);
}

void view_flush(pid_t root)
{
	proc_pids tree = {0};
	struct stat st;
	struct err err;

	if (stat("/", &st) < 0)
		return;
	if (proc_tree(root, &tree, &err) < 0)
		log_warn("%s", err.text);
	vec_foreach (pid, &tree)
		flush_mappings(*pid, st.st_dev);
	vec_free(&tree);
}

int view_let_go(const struct view *v, struct err *err)
{
	if (v->ns >= 0 && setxattr("/", LAZYFS_MOVED_XATTR, "1", 1, 0) < 0)
		return err_sys(err, "cannot let the changed files of the tree go");
	return 0;
}
