// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "left"
#include "migrate/left.h"

#include "base/io.h"
#include "base/log.h"
#include "migrate/record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/sha.h>
#include <string.h>

enum { NAME_BYTES = 2 * SHA256_DIGEST_LENGTH + 1, TEXT_BYTES = 160 };

/* One small file for each path, below the directory of records. */
static int open_notes(void)
{
	struct err err;
	cleanup_close int records = record_directory(&err);
	int fd;

	if (records < 0) {
		log_debug("%s", err.text);
		return -1;
	}
	if (mkdirat(records, "left", 0700) < 0 && errno != EEXIST)
		return -1;
	fd = openat(records, "left", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd;
}

/* The name of a path's note. */
static void name_of(const char *path, char out[NAME_BYTES])
{
	uint8_t digest[SHA256_DIGEST_LENGTH];

	SHA256((const uint8_t *)path, strlen(path), digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static void describe(const struct stat *st, char out[TEXT_BYTES])
{
	snprintf(out, TEXT_BYTES,
		 "%" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 ".%09ld %" PRId64 ".%09ld\n",
		 (uint64_t)st->st_dev, (uint64_t)st->st_ino, (int64_t)st->st_size,
		 (int64_t)st->st_mtim.tv_sec, st->st_mtim.tv_nsec, (int64_t)st->st_ctim.tv_sec,
		 st->st_ctim.tv_nsec);
}

static int note_one(int notes, const char *path)
{
	char name[NAME_BYTES], text[TEXT_BYTES];
	cleanup_close int fd = -1;
	struct stat st;

	if (stat(path, &st) < 0)
		return errno == ENOENT ? 0 : -1;
	name_of(path, name);
	describe(&st, text);
	if (unlinkat(notes, name, 0) < 0 && errno != ENOENT)
		return -1;
	fd = openat(notes, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fd < 0 ? -1 : io_write_full(fd, text, strlen(text));
}

int left_note_path(const char *path)
{
	cleanup_close int notes = open_notes();

	return notes < 0 ? -1 : note_one(notes, path);
}

void left_note(const Wire__FileList *list)
{
	cleanup_close int notes = open_notes();

	for (size_t i = 0; notes >= 0 && i < list->n_files; i++) {
		const Wire__FileNote *n = list->files[i];

		if (n->written && S_ISREG(n->mode) && !n->must_exist && note_one(notes, n->path) < 0)
			log_warn("%s: cannot be noted as left behind: %s", n->path, strerror(errno));
	}
}

bool left_unchanged(const char *path, const struct stat *st)
{
	cleanup_close int notes = open_notes();
	cleanup_free char *noted = NULL;
	char name[NAME_BYTES], text[TEXT_BYTES];

	name_of(path, name);
	if (notes < 0 || io_read_file(notes, name, &noted, NULL) < 0)
		return false;
	describe(st, text);
	return !strcmp(noted, text);
}
