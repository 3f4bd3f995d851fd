// SPDX-License-Identifier: Apache-2.0
#include "migrate/given.h"

#include "base/io.h"
#include "migrate/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define GIVEN_SUFFIX ".given"
#define GIVEN_MAGIC "ferrygv1"

/* The file is for this machine and this boot: a plain struct, and the data behind it. */
struct given_head {
	char magic[8];
	int32_t pid, unused;
};

enum { DATA_BYTES_MAX = 256 << 20 };

int given_write(const char *token, pid_t pid, const void *data, size_t bytes, struct err *err)
{
	cleanup_close int dirfd = record_directory(err);
	struct given_head head = {.pid = pid};
	const struct iovec pieces[] = {{&head, sizeof(head)}, {(void *)data, bytes}};
	char name[RECORD_NAME_BYTES];
	int fd;

	if (dirfd < 0)
		return -1;
	record_name(token, GIVEN_SUFFIX, name);
	memcpy(head.magic, GIVEN_MAGIC, sizeof(head.magic));
	/* that of a process that was killed */
	(void)unlinkat(dirfd, name, 0);
	fd = record_create_file(dirfd, name, pieces, ARRAY_SIZE(pieces));
	return fd < 0 ? err_sys(err, "cannot write down which files are handed out") : fd;
}

void given_remove(const char *token)
{
	record_remove_file(token, GIVEN_SUFFIX);
}

static int damaged(struct err *err)
{
	return err_set(err, EINVAL, "the record of the files that were handed out cannot be read");
}

/* 1: @name is the record of this token or pid (0: any), and nobody holds it; it is read. 0: it is not. */
static int read_one(int dirfd, const char *name, const char *token, pid_t pid, struct given *out,
		    struct err *err)
{
	cleanup_close int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct given_head head;
	struct stat st;

	if (fd < 0 || io_read_full(fd, &head, sizeof(head)) < 0 ||
	    memcmp(head.magic, GIVEN_MAGIC, sizeof(head.magic)) != 0 ||
	    (token ? strncmp(name, token, WIRE_TOKEN_CHARS) != 0 : head.pid != pid) ||
	    flock(fd, LOCK_EX | LOCK_NB) < 0)
		return 0;
	if (fstat(fd, &st) < 0 || st.st_size < (off_t)sizeof(head) ||
	    st.st_size - (off_t)sizeof(head) > DATA_BYTES_MAX)
		return damaged(err);
	snprintf(out->token, sizeof(out->token), "%.*s", WIRE_TOKEN_CHARS, name);
	out->pid = head.pid;
	out->bytes = (size_t)st.st_size - sizeof(head);
	out->data = malloc(out->bytes + 1);
	if (!out->data)
		return err_nomem(err);
	if (io_read_full(fd, out->data, out->bytes) < 0) {
		given_free(out);
		return damaged(err);
	}
	return 1;
}

int given_find(const char *token_or_pid, struct given *out, struct err *err)
{
	const bool by_token = wire_token_valid(token_or_pid);
	const char *token = by_token ? token_or_pid : NULL;
	pid_t pid = by_token ? 0 : (pid_t)strtol(token_or_pid, NULL, 10);
	cleanup_close int dirfd = record_directory(err);
	cleanup_dir DIR *d = dirfd < 0 ? NULL : fdopendir(dup(dirfd));
	const struct dirent *e;
	int rc = 0;

	*out = (struct given){.pid = 0};
	if (dirfd < 0)
		return -1;
	while (rc == 0 && d && (e = readdir(d))) {
		if (strlen(e->d_name) == WIRE_TOKEN_CHARS + strlen(GIVEN_SUFFIX) &&
		    !strcmp(e->d_name + WIRE_TOKEN_CHARS, GIVEN_SUFFIX))
			rc = read_one(dirfd, e->d_name, token, pid, out, err);
	}
	return rc;
}

void given_free(struct given *g)
{
	free(g->data);
	*g = (struct given){.pid = 0};
}
