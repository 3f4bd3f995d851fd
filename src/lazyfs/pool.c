// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/pool.h"

#include "base/io.h"
#include "base/log.h"
#include "base/vec.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum {
	FREE_PERCENT = 10, /* of the file system is left to others */
	TRIES = 3,
};

/* "SIZE/SUM", in hexadecimal digits. */
struct pool_name {
	char folder[17];
	char path[17 + 1 + 2 * LF_SUM_BYTES + 1];
};

static struct pool_name name_of(uint64_t size, const uint8_t sum[LF_SUM_BYTES])
{
	struct pool_name n;
	int at;

	snprintf(n.folder, sizeof(n.folder), "%" PRIx64, size);
	at = snprintf(n.path, sizeof(n.path), "%s/", n.folder);
	for (size_t i = 0; i < LF_SUM_BYTES; i++)
		at += snprintf(n.path + at, sizeof(n.path) - (size_t)at, "%02x", sum[i]);
	return n;
}

/* ---- the directory ---- */

int pool_open(const char *dir, uint64_t max_bytes, struct pool *out, struct err *err)
{
	char path[PATH_MAX];

	*out = POOL_NONE;
	if ((size_t)snprintf(path, sizeof(path), "%s/ferry-files.%u", dir, geteuid()) >= sizeof(path))
		return err_set(err, ENAMETOOLONG, "%.200s: too long", dir);
	out->fd = io_own_directory(path, 077, err);
	if (out->fd < 0)
		return -1;
	out->max_bytes = max_bytes;
	return 0;
}

void pool_try(const char *dir, uint64_t max_bytes, struct pool *out)
{
	struct err err;

	*out = POOL_NONE;
	if (max_bytes && pool_open(dir, max_bytes, out, &err) < 0)
		log_warn("files of earlier migrations are not used, and none are kept: %s", err.text);
}

void pool_close(struct pool *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

/* ---- to find ---- */

bool pool_may_have(const struct pool *p, uint64_t size)
{
	char folder[17];

	if (p->fd < 0 || size < POOL_LEAST_BYTES)
		return false;
	snprintf(folder, sizeof(folder), "%" PRIx64, size);
	return faccessat(p->fd, folder, F_OK, 0) == 0;
}

int pool_find(const struct pool *p, uint64_t size, const uint8_t sum[LF_SUM_BYTES])
{
	const struct pool_name n = name_of(size, sum);
	int fd = p->fd < 0 ? -1 : openat(p->fd, n.path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != size) {
		close(fd);
		return -1;
	}
	/* what is used stays longest */
	if (futimens(fd, NULL) < 0)
		log_debug("%s: its time: %s", n.path, strerror(errno));
	return fd;
}

/* ---- what has to go ---- */

struct kept {
	char path[sizeof(((struct pool_name *)NULL)->path)];
	struct timespec used;
	uint64_t bytes;
};

typedef VEC(struct kept) kept_list;

static int list_folder(int pool, const char *folder, kept_list *out)
{
	int fd = openat(pool, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_dir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return 0; /* gone meanwhile */
	}
	while ((d = readdir(dir))) {
		struct kept k;
		struct stat st;

		if (d->d_name[0] == '.' || fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		k.used = st.st_mtim;
		k.bytes = (uint64_t)st.st_blocks * 512;
		if ((size_t)snprintf(k.path, sizeof(k.path), "%s/%s", folder, d->d_name) >=
		    sizeof(k.path))
			continue; /* not ours */
		if (!vec_push(out, k))
			return ENOMEM;
	}
	return 0;
}

static int list_all(int pool, kept_list *out)
{
	int fd = openat(pool, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = 0;
	cleanup_dir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;

	if (!dir) {
		error = errno;
		if (fd >= 0)
			close(fd);
		return error;
	}
	while (!error && (d = readdir(dir)))
		if (d->d_name[0] != '.' &&
		    strlen(d->d_name) < sizeof(((struct pool_name *)NULL)->folder))
			error = list_folder(pool, d->d_name, out);
	return error;
}

static int by_time(const void *a, const void *b)
{
	const struct timespec *x = &((const struct kept *)a)->used;
	const struct timespec *y = &((const struct kept *)b)->used;

	if (x->tv_sec != y->tv_sec)
		return x->tv_sec < y->tv_sec ? -1 : 1;
	return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

static void remove_kept(const struct pool *p, const char *path)
{
	char folder[17];

	log_debug("%s makes room", path);
	if (unlinkat(p->fd, path, 0) < 0 && errno != ENOENT)
		log_warn("pool of files: %s: %s", path, strerror(errno));
	snprintf(folder, sizeof(folder), "%.*s", (int)strcspn(path, "/"), path);
	(void)unlinkat(p->fd, folder, AT_REMOVEDIR); /* when it is empty */
}

/* How many bytes all files may have: as many as the user said, but some of the disk is for others. */
static uint64_t allowed(const struct pool *p, uint64_t held)
{
	struct statvfs fs;
	uint64_t all, spare;

	if (fstatvfs(p->fd, &fs) < 0)
		return p->max_bytes;
	all = held + (uint64_t)fs.f_bavail * fs.f_frsize;
	spare = (uint64_t)fs.f_blocks * fs.f_frsize / 100 * FREE_PERCENT;
	return MIN(p->max_bytes, all > spare ? all - spare : 0);
}

/*
 * With the lock. Counts what is there, and takes away what was used longest ago: to half of what is allowed,
 * so that it is not counted for each file. 0 or an errno value.
 */
static int make_room(struct pool *p, uint64_t bytes)
{
	kept_list all = {0};
	uint64_t held = 0, most, keep;
	int error = list_all(p->fd, &all);

	vec_foreach (k, &all)
		held += k->bytes;
	most = allowed(p, held);
	if (bytes > most / 2)
		keep = most;
	else
		keep = held + bytes > most ? most / 2 : held;
	if (all.n)
		qsort(all.v, all.n, sizeof(*all.v), by_time);
	for (size_t i = 0; i < all.n && held > keep; i++) {
		remove_kept(p, all.v[i].path);
		held -= all.v[i].bytes;
	}
	vec_free(&all);
	p->room = held < most ? most - held : 0;
	if (!error && (bytes > most / 2 || bytes > p->room))
		error = ENOSPC;
	return error;
}

/* ---- to add ---- */

static int key_of(int fd, uint64_t size, uint8_t sum[LF_SUM_BYTES])
{
	size_t bytes = (size_t)MIN(size, (uint64_t)POOL_KEY_BYTES);
	cleanup_free uint8_t *data = malloc(bytes);

	if (!data)
		return ENOMEM;
	if (io_pread_full(fd, data, bytes, 0) < 0)
		return errno ? errno : EIO;
	return EVP_Digest(data, bytes, sum, NULL, EVP_sha256(), NULL) ? 0 : ENOMEM;
}

static int link_it(const struct pool *p, int dir, const char *from, const struct pool_name *n)
{
	for (int i = 0; i < TRIES; i++) {
		if (mkdirat(p->fd, n->folder, 0700) < 0 && errno != EEXIST)
			return errno;
		if (linkat(dir, from, p->fd, n->path, 0) == 0)
			return 0;
		/* somebody else has found the folder empty */
		if (errno != ENOENT)
			return errno;
	}
	return ENOENT;
}

int pool_add(struct pool *p, int dir, const char *name, int fd, uint64_t size)
{
	uint8_t sum[LF_SUM_BYTES];
	struct pool_name n;
	struct stat st;
	uint64_t bytes;
	int error;

	if (p->fd < 0 || size < POOL_LEAST_BYTES)
		return EINVAL;
	if (fstat(fd, &st) < 0)
		return errno;
	bytes = (uint64_t)st.st_blocks * 512;
	error = key_of(fd, size, sum);
	if (error)
		return error;
	n = name_of(size, sum);
	if (faccessat(p->fd, n.path, F_OK, 0) == 0)
		return EEXIST;
	pthread_mutex_lock(&p->lock);
	if (bytes > p->room)
		error = make_room(p, bytes);
	if (!error) {
		error = link_it(p, dir, name, &n);
		p->room -= error ? 0 : bytes;
	}
	pthread_mutex_unlock(&p->lock);
	if (!error && futimens(fd, NULL) < 0)
		log_debug("%s: its time: %s", n.path, strerror(errno));
	return error;
}

void pool_drop(const struct pool *p, int fd, uint64_t size)
{
	uint8_t sum[LF_SUM_BYTES] = {0};
	struct stat ours, there;
	struct pool_name n;

	if (p->fd < 0 || key_of(fd, size, sum))
		return; /* whoever uses it compares it */
	n = name_of(size, sum);
	if (fstat(fd, &ours) == 0 && fstatat(p->fd, n.path, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	    ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
		remove_kept(p, n.path);
}
