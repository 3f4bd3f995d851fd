// SPDX-License-Identifier: Apache-2.0
/*
 * ferry show: images as text or JSON. It looks at what is there and judges
 * nothing: an image need not belong to a dump that can be restored.
 */
#include "base/io.h"
#include "base/vec.h"
#include "cmd/cmd.h"
#include "snapshot/image.h"
#include "snapshot/print.h"
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

struct show_args {
	bool json, pretty;
};

static const struct opt_row rows[] = {
	{.long_name = "json",
	 .help = "JSON with the names that crit uses; a directory is one object by file name",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct show_args, json)},
	{.long_name = "pretty",
	 .help = "JSON in which addresses, flags and states are spelled out",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct show_args, pretty)},
	{0},
};

static const struct opt_spec spec = {
	.command = "show",
	.arguments = "FILE|DIR",
	.summary = "prints images as text or JSON",
	.details = "Exits with 1 if an image is damaged; what comes before the damage is printed as text.\n",
	.min_args = 1,
	.max_args = 1,
	.rows = rows,
};

/* An image without entries: there is nothing to say but its size. */
static void print_raw(enum print_form form, const char *object, uint64_t bytes)
{
	if (form == PRINT_TEXT)
		printf("raw, %llu bytes\n", (unsigned long long)bytes);
	else
		printf("{\"raw\": %llu}", (unsigned long long)bytes);
}

/*
 * Prints into memory first, so that damage found half way leaves no torn JSON
 * behind; of the text everything is kept.
 */
static int print_framed(enum print_form form, const char *path, const char *data, size_t bytes,
			struct err *err)
{
	char *text = NULL;
	size_t text_bytes;
	FILE *to = open_memstream(&text, &text_bytes);
	int rc;

	if (!to)
		return err_nomem(err);
	rc = image_print(to, form, path, data, bytes, err);
	if (fclose(to) && !rc)
		rc = err_nomem(err);
	if (text && (!rc || form == PRINT_TEXT))
		fwrite(text, 1, text_bytes, stdout);
	free(text);
	return rc;
}

/* Opens an image and finds its size: the descriptor, or -1. */
static int open_image(int dirfd, const char *name, const char *path, uint64_t *bytes_out,
		      struct err *err)
{
	cleanup_close int fd = openat(dirfd, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return err_sys(err, "%s", path);
	if (fstat(fd, &st))
		return err_sys(err, "%s: fstat", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s: not a regular file", path);
	*bytes_out = (uint64_t)st.st_size;
	return steal_fd(&fd);
}

static int show_image(enum print_form form, int dirfd, const char *name, const char *path,
		      struct err *err)
{
	const char *object = strrchr(name, '/') ? strrchr(name, '/') + 1 : name;
	const struct image_kind *kind = image_kind_by_name(object);
	cleanup_free char *data = NULL;
	cleanup_close int fd = -1;
	uint64_t bytes = 0;

	fd = open_image(dirfd, name, path, &bytes, err);
	if (fd < 0)
		return -1;
	if (kind && kind->header == IMAGE_RAW) {
		print_raw(form, object, bytes);
		return 0;
	}
	if (bytes > STORE_OBJECT_MAX_BYTES)
		return err_set(err, EFBIG, "%s: %llu bytes are more than an image may have (%lu)",
			       path, (unsigned long long)bytes, STORE_OBJECT_MAX_BYTES);
	data = malloc(bytes ? bytes : 1);
	if (!data)
		return err_nomem(err);
	if (io_read_full(fd, data, bytes))
		return err_sys(err, "%s: cannot read %llu bytes", path, (unsigned long long)bytes);
	return print_framed(form, path, data, bytes, err);
}

/* ---- a directory ---- */

struct listing {
	VEC(char *) names;
};

static void listing_free(struct listing *l)
{
	vec_foreach (name, &l->names)
		free(*name);
	vec_free(&l->names);
}

#define cleanup_listing __attribute__((cleanup(listing_free)))

/* Place in the table of kinds: inventory and tree first. */
static long rank(const char *name)
{
	const struct image_kind *kind = image_kind_by_name(name);

	return kind ? kind - image_kinds : LONG_MAX;
}

static int compare_names(const void *a, const void *b)
{
	const char *x = *(char *const *)a, *y = *(char *const *)b;

	if (rank(x) != rank(y))
		return rank(x) < rank(y) ? -1 : 1;
	return strverscmp(x, y);
}

/* The images of a directory, and its link to a parent; logs and the like are left out. */
static int list_images(int dirfd, const char *path, struct listing *l, struct err *err)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	char *name;

	if (!dir)
		return err_sys(err, "%s: cannot list the directory", path);
	while ((entry = readdir(dir))) {
		if (!image_kind_by_name(entry->d_name) && strcmp(entry->d_name, "parent") != 0)
			continue;
		name = strdup(entry->d_name);
		if (!name || !vec_push(&l->names, name)) {
			free(name);
			return err_nomem(err);
		}
	}
	if (!l->names.n)
		return err_set(err, ENOENT, "%s: there are no images in this directory", path);
	qsort(l->names.v, l->names.n, sizeof(*l->names.v), compare_names);
	return 0;
}

/* "parent" is a link to the images that these ones build on. */
static int show_parent(enum print_form form, int dirfd, const char *path, struct err *err)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dirfd, "parent", target, sizeof(target) - 1);

	if (n < 0)
		return err_sys(err, "%s/parent: readlink", path);
	target[n] = 0;
	fputs(form == PRINT_TEXT ? "link to " : "{\"link\": ", stdout);
	print_json_string(stdout, target);
	fputs(form == PRINT_TEXT ? "\n" : "}", stdout);
	return 0;
}

/* Shows every image; damage is reported for each, and the others are shown. */
static int show_directory(enum print_form form, int dirfd, const char *path, struct err *err)
{
	cleanup_listing struct listing list = {0};
	char below[PATH_MAX];
	bool first = true;
	int rc, failed = 0;

	if (list_images(dirfd, path, &list, err))
		return cmd_fail(&spec, err);
	if (form != PRINT_TEXT)
		fputs("{", stdout);
	vec_foreach (name, &list.names) {
		snprintf(below, sizeof(below), "%s/%s", path, *name);
		if (form == PRINT_TEXT)
			printf("%s%s: ", first ? "" : "\n", *name);
		else
			printf("%s\n\"%s\": ", first ? "" : ",", *name);
		first = false;
		rc = strcmp(*name, "parent") ? show_image(form, dirfd, *name, below, err) :
					       show_parent(form, dirfd, path, err);
		if (!rc)
			continue;
		if (form != PRINT_TEXT) {
			fputs("{\"error\": ", stdout);
			print_json_string(stdout, err->text);
			fputs("}", stdout);
		}
		fflush(stdout);
		failed = cmd_fail(&spec, err);
	}
	if (form != PRINT_TEXT)
		fputs("\n}\n", stdout);
	return failed;
}

static int run(int argc, char **argv)
{
	cleanup_close int dirfd = -1;
	struct show_args args = {0};
	struct opt_rest rest;
	enum print_form form;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	form = args.pretty ? PRINT_JSON_PRETTY : args.json ? PRINT_JSON : PRINT_TEXT;
	dirfd = open(rest.v[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd >= 0) {
		rc = show_directory(form, dirfd, rest.v[0], &err);
	} else {
		rc = show_image(form, AT_FDCWD, rest.v[0], rest.v[0], &err);
		if (rc)
			rc = cmd_fail(&spec, &err);
		else if (form != PRINT_TEXT)
			putchar('\n');
	}
	if (fflush(stdout) && !rc) {
		err_sys(&err, "cannot write the output");
		rc = cmd_fail(&spec, &err);
	}
	return rc;
}

const struct cmd cmd_show = {
	.spec = &spec,
	.run = run,
};
