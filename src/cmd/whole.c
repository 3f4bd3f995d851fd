// SPDX-License-Identifier: Apache-2.0
#include "cmd/whole.h"

#include "lazyfs/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

static int check(int root, const char *path, struct err *err)
{
	const struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
				     .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS};
	cleanup_close int found = -1;

	if (!lf_path_valid(path))
		return err_set(err, EINVAL,
			       "--with %.200s: an absolute path, without '.', '..' and double slashes, is needed",
			       path);
	if (!path[1])
		return err_set(err, EINVAL, "--with /: that is all of the source's disk");
	found = (int)syscall(SYS_openat2, root, path + 1, &how, sizeof(how));
	if (found >= 0)
		return 0;
	return err_sys(err,
		       errno == ELOOP ?
			       "--with %.200s: there is a symbolic link in it; give the path that it leads to" :
			       "--with %.200s",
		       path);
}

int whole_check(int root, const struct opt_list *with, struct err *err)
{
	for (size_t i = 0; i < with->n; i++)
		if (check(root, with->v[i], err) < 0)
			return -1;
	return 0;
}

int whole_check_below(const char *root, const struct opt_list *with, struct err *err)
{
	cleanup_close int fd = -1;

	if (!with->n)
		return 0;
	fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_sys(err, "%.200s", root) : whole_check(fd, with, err);
}
