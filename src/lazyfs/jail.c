// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define CAP_BIT(cap) (1ull << (cap))
/* What the kernel grants to a file system uid of 0, and takes with it; see setfsuid(2). */
#define FS_CAPS                                                                          \
	(CAP_BIT(CAP_CHOWN) | CAP_BIT(CAP_DAC_OVERRIDE) | CAP_BIT(CAP_DAC_READ_SEARCH) | \
	 CAP_BIT(CAP_FOWNER) | CAP_BIT(CAP_FSETID) | CAP_BIT(CAP_LINUX_IMMUTABLE) |      \
	 CAP_BIT(CAP_MKNOD) | CAP_BIT(CAP_MAC_OVERRIDE))

#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202
#endif
#ifndef CONFIGFS_MAGIC
#define CONFIGFS_MAGIC 0x62656570
#endif
#ifndef FUSECTL_MAGIC
#define FUSECTL_MAGIC 0x65735543
#endif
#ifndef RPC_PIPEFS_MAGIC
#define RPC_PIPEFS_MAGIC 0x67596969
#endif

static int resolve(const struct jail *j, const char *path)
{
	const struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS,
	};

	return (int)syscall(SYS_openat2, j->root, path[1] ? path + 1 : ".", &how, sizeof(how));
}

int jail_init(struct jail *j, const char *root, const struct lf_creds *creds, size_t n_creds,
	      struct err *err)
{
	*j = (struct jail){.root = -1,
			   .self_fds = -1,
			   .creds = creds,
			   .n_creds = n_creds,
			   .current = SIZE_MAX,
			   .own = {.uid = geteuid(), .gid = getegid(), .reads_all = true},
			   .switches = geteuid() == 0};
	if (j->switches && !n_creds)
		return err_set(err, EPERM, "it is not said as whom the tree reads its files");
	j->root = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (j->root < 0)
		return err_sys(err, "%.200s: cannot open the tree's root directory", root);
	j->self_fds = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (j->self_fds < 0)
		return err_sys(err, "/proc/self/fd");
	int probe = resolve(j, "/");
	if (probe < 0)
		return err_sys(err, "openat2 of the tree's root directory");
	close(probe);
	return 0;
}

void jail_finish(struct jail *j)
{
	if (j->root >= 0)
		close(j->root);
	if (j->self_fds >= 0)
		close(j->self_fds);
	j->root = j->self_fds = -1;
}

static int set_caps(bool reads_all, bool writes_all, bool owns_all)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	uint64_t eff;

	if (syscall(SYS_capget, &head, data) < 0)
		return -1;
	eff = data[0].permitted | (uint64_t)data[1].permitted << 32;
	eff &= ~FS_CAPS | (reads_all ? CAP_BIT(CAP_DAC_READ_SEARCH) : 0) |
	       (writes_all ? CAP_BIT(CAP_DAC_OVERRIDE) : 0) |
	       (owns_all ? CAP_BIT(CAP_CHOWN) | CAP_BIT(CAP_FOWNER) : 0);
	data[0].effective = (uint32_t)eff;
	data[1].effective = (uint32_t)(eff >> 32);
	return (int)syscall(SYS_capset, &head, data);
}

/* Takes the rights of creds[i] on. The calls of libc would change all threads of the process. */
static int become(struct jail *j, size_t i)
{
	const struct lf_creds *c = i < j->n_creds ? &j->creds[i] : &j->own;

	if (!j->switches || j->current == i)
		return 0;
	j->current = SIZE_MAX;
	if (syscall(SYS_setgroups, (size_t)c->n_groups, c->groups) < 0)
		return -1;
	/* these two do not say whether they failed: a second call tells what is in force */
	syscall(SYS_setfsgid, c->gid);
	syscall(SYS_setfsuid, c->uid);
	if ((uint32_t)syscall(SYS_setfsgid, -1) != c->gid ||
	    (uint32_t)syscall(SYS_setfsuid, -1) != c->uid) {
		errno = EPERM;
		return -1;
	}
	if (set_caps(c->reads_all, j->writes && c->writes_all, j->writes && c->owns_all) < 0)
		return -1;
	j->current = i;
	return 0;
}

bool jail_is_pseudo(int fd)
{
	static const unsigned long types[] = {
		PROC_SUPER_MAGIC,    SYSFS_MAGIC,    DEVPTS_SUPER_MAGIC, CGROUP_SUPER_MAGIC,
		CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,  TRACEFS_MAGIC,      SECURITYFS_MAGIC,
		BPF_FS_MAGIC,        PSTOREFS_MAGIC, EFIVARFS_MAGIC,     SELINUX_MAGIC,
		SMACK_MAGIC,         NSFS_MAGIC,     BINFMTFS_MAGIC,     MQUEUE_MAGIC,
		CONFIGFS_MAGIC,      FUSECTL_MAGIC,  RPC_PIPEFS_MAGIC,
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if ((unsigned long)fs.f_type == types[i])
			return true;
	return false;
}

static int find_as(struct jail *j, size_t i, const char *path, const struct jail_held *held,
		   struct stat *st_out)
{
	cleanup_close int fd = -1;

	if (become(j, i) < 0)
		return -1;
	fd = resolve(j, path);
	if (fd < 0 || fstat(fd, st_out) < 0)
		return -1;
	if (jail_is_pseudo(fd) || (j->switches && i == j->n_creds &&
				   (st_out->st_dev != held->dev || st_out->st_ino != held->ino))) {
		errno = EACCES;
		return -1;
	}
	return steal_fd(&fd);
}

/* How many times a thing is tried: as each of the creds, and what is held as ourselves; or only so. */
static size_t attempts(const struct jail *j, const struct jail_held *held)
{
	return j->switches ? j->n_creds + (held ? 1 : 0) : 1;
}

static bool denied(int no)
{
	return no == EACCES || no == EPERM;
}

int jail_find(struct jail *j, const char *path, const struct jail_held *held, struct stat *st_out)
{
	for (size_t i = 0; i < attempts(j, held); i++) {
		int fd = find_as(j, i, path, held, st_out);

		if (fd >= 0 || !denied(errno))
			return fd;
	}
	errno = EACCES;
	return -1;
}

/*
 * The type is checked before anything is opened: to open a device or a pipe has effects. The
 * descriptor leads to the same file whatever happens to its name.
 */
static int open_as(struct jail *j, size_t i, const char *path, const struct jail_held *held, bool dir)
{
	int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (dir ? O_DIRECTORY : 0), fd;
	cleanup_close int found = -1;
	struct stat st;
	char name[16];

	found = find_as(j, i, path, held, &st);
	if (found < 0)
		return -1;
	if (!(dir ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode))) {
		errno = EACCES;
		return -1;
	}
	snprintf(name, sizeof(name), "%d", found);
	/* the owner's privilege */
	fd = openat(j->self_fds, name, flags | O_NOATIME);
	return fd < 0 && errno == EPERM ? openat(j->self_fds, name, flags) : fd;
}

int jail_open(struct jail *j, const char *path, const struct jail_held *held, bool dir)
{
	for (size_t i = 0; i < attempts(j, held); i++) {
		int fd = open_as(j, i, path, held, dir);

		if (fd >= 0 || !denied(errno))
			return fd;
	}
	errno = EACCES;
	return -1;
}

/* ---- changes ---- */

int jail_as_tree(struct jail *j, int (*act)(struct jail *j, void *arg), void *arg)
{
	for (size_t i = 0; i < attempts(j, NULL); i++) {
		int rc = become(j, i) < 0 ? -1 : act(j, arg);

		if (rc >= 0 || !denied(errno))
			return rc;
	}
	return -1;
}

int jail_open_write(struct jail *j, const char *path)
{
	cleanup_close int found = resolve(j, path);
	struct stat st;
	char name[16];

	if (found < 0 || fstat(found, &st) < 0)
		return -1;
	if (!j->writes || !S_ISREG(st.st_mode) || jail_is_pseudo(found)) {
		errno = EACCES;
		return -1;
	}
	snprintf(name, sizeof(name), "%d", found);
	return openat(j->self_fds, name, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

int jail_open_parent(struct jail *j, const char *path, const char **name_out)
{
	const char *slash = strrchr(path, '/');
	char dir[LF_PATH_MAX + 1];
	cleanup_close int fd = -1;

	snprintf(dir, sizeof(dir), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	*name_out = slash + 1;
	fd = resolve(j, dir);
	if (fd < 0)
		return -1;
	if (!j->writes || jail_is_pseudo(fd)) {
		errno = EACCES;
		return -1;
	}
	return steal_fd(&fd);
}

static int64_t ns_of(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
}

void jail_attr(const struct stat *st, struct lf_attr *out)
{
	*out = (struct lf_attr){
		.id = {.dev = st->st_dev,
		       .ino = st->st_ino,
		       .size = (uint64_t)st->st_size,
		       .mtime_ns = ns_of(&st->st_mtim),
		       .ctime_ns = ns_of(&st->st_ctim)},
		.blocks = (uint64_t)st->st_blocks,
		.rdev = st->st_rdev,
		.mode = st->st_mode,
		.nlink = (uint32_t)st->st_nlink,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.atime_ns = ns_of(&st->st_atim),
	};
}
