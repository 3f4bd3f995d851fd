// SPDX-License-Identifier: Apache-2.0
#include "base/xattr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

bool xattr_is_carried(const char *name)
{
	static const char *const whole[] = {"security.capability", "system.posix_acl_access",
					    "system.posix_acl_default"};

	for (size_t i = 0; i < ARRAY_SIZE(whole); i++)
		if (strcmp(name, whole[i]) == 0)
			return true;
	if (strncmp(name, "trusted.overlay.", 16) == 0)
		return false;
	return strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0;
}

bool xattr_push(xattr_list *list, const char *name, const void *value, size_t bytes)
{
	struct xattr x = {.name = strdup(name), .value = malloc(bytes + 1), .bytes = bytes};

	if (x.name && x.value) {
		if (bytes)
			memcpy(x.value, value, bytes);
		if (vec_push(list, x))
			return true;
	}
	free(x.name);
	free(x.value);
	return false;
}

void xattr_free(xattr_list *list)
{
	vec_foreach (x, list) {
		free(x->name);
		free(x->value);
	}
	vec_free(list);
}

/* listxattr(2) of a path, or flistxattr(2) of a descriptor. */
struct file {
	const char *path; /* NULL: fd */
	int fd;
};

static ssize_t list_names(const struct file *f, char *names, size_t size)
{
	return f->path ? listxattr(f->path, names, size) : flistxattr(f->fd, names, size);
}

/* The names, one behind the other, each with its NUL; for free(). Their length, or -1 with errno. */
static ssize_t read_names(const struct file *f, char **out)
{
	ssize_t n;

	*out = NULL;
	do {
		n = list_names(f, NULL, 0);
		if (n <= 0)
			return n < 0 && errno == EOPNOTSUPP ? 0 : n;
		free(*out);
		*out = malloc((size_t)n);
		if (!*out)
			return -1;
		n = list_names(f, *out, (size_t)n);
	} while (n < 0 && errno == ERANGE); /* one was added in between */
	return n;
}

static int read_one(const char *path, const char *name, xattr_list *out, struct err *err)
{
	cleanup_free void *value = NULL;
	ssize_t n;

	do {
		n = getxattr(path, name, NULL, 0);
		if (n < 0)
			break;
		free(value);
		value = malloc((size_t)n + 1);
		if (!value)
			return err_nomem(err);
		n = getxattr(path, name, value, (size_t)n);
	} while (n < 0 && errno == ERANGE);
	if (n < 0)
		return errno == ENODATA ? 0 : err_sys(err, "cannot read its attribute %s", name);
	return xattr_push(out, name, value, (size_t)n) ? 0 : err_nomem(err);
}

int xattr_read(const char *path, xattr_list *out, struct err *err)
{
	cleanup_free char *names = NULL;
	ssize_t n = read_names(&(struct file){.path = path}, &names);

	if (n < 0)
		return err_sys(err, "cannot list its attributes");
	for (const char *name = names; n && name < names + n; name += strlen(name) + 1)
		if (xattr_is_carried(name) && read_one(path, name, out, err))
			return -1;
	return 0;
}

static bool is_in(const xattr_list *list, const char *name)
{
	vec_foreach (x, list) {
		if (strcmp(x->name, name) == 0)
			return true;
	}
	return false;
}

/* A new file may have got a list for access control from its directory. */
static int remove_others(int fd, const xattr_list *list, struct err *err)
{
	cleanup_free char *names = NULL;
	ssize_t n = read_names(&(struct file){.fd = fd}, &names);

	if (n < 0)
		return err_sys(err, "cannot list its attributes");
	for (const char *name = names; n && name < names + n; name += strlen(name) + 1)
		if (xattr_is_carried(name) && !is_in(list, name) && fremovexattr(fd, name) &&
		    errno != ENODATA)
			return err_sys(err, "cannot remove its attribute %s", name);
	return 0;
}

int xattr_write(int fd, const xattr_list *list, struct err *err)
{
	if (remove_others(fd, list, err))
		return -1;
	vec_foreach (x, list) {
		if (fsetxattr(fd, x->name, x->value, x->bytes, 0))
			return err_sys(err, "cannot set its attribute %s", x->name);
	}
	return 0;
}
