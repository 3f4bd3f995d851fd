// SPDX-License-Identifier: Apache-2.0
#include "cmd/lazyfs_status.h"

#include "lazyfs/fs.h"

#include <errno.h>
#include <jansson.h>
#include <sys/xattr.h>

enum { STATUS_BYTES = 64 * 1024 };

static int print_text(const json_t *root, const char *mountpoint)
{
	const char *state = "", *source = "", *policy = "";
	json_int_t files = 0, complete = 0, modified = 0, changed = 0, bytes = 0, here = 0,
		   local = 0, received = 0;

	(void)json_unpack((json_t *)root, "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
			  "state", &state, "source", &source, "policy", &policy, "files", &files,
			  "complete_files", &complete, "modified_files", &modified,
			  "changed_at_source", &changed, "bytes", &bytes, "here_bytes", &here,
			  "local_bytes", &local, "received_bytes", &received);
	printf("%s: %s, source %s\n", mountpoint, state, source);
	printf("files:    %lld, of which %lld are complete and %lld were changed here\n",
	       (long long)files, (long long)complete, (long long)modified);
	printf("bytes:    %lld of %lld are here (%lld%%); %lld were received, %lld are of the same "
	       "files of this host\n",
	       (long long)here, (long long)bytes, bytes ? (long long)(here * 100 / bytes) : 100,
	       (long long)received, (long long)local);
	printf("changed at the source: %lld (on-change=%s)\n", (long long)changed, policy);
	return fflush(stdout);
}

int lazyfs_print_status(const char *mountpoint, bool json, struct err *err)
{
	cleanup_free char *text = malloc(STATUS_BYTES);
	json_error_t where;
	json_t *root;
	ssize_t n;
	int rc;

	if (!text)
		return err_nomem(err);
	n = getxattr(mountpoint, LAZYFS_STATUS_XATTR, text, STATUS_BYTES - 1);
	if (n < 0 && (errno == ENODATA || errno == EOPNOTSUPP))
		return err_set(err, errno, "%.200s: no ferry lazyfs is mounted there", mountpoint);
	if (n < 0)
		return err_sys(err, "%.200s", mountpoint);
	text[n] = '\0';
	root = json_loads(text, 0, &where);
	if (!root)
		return err_set(err, EPROTO, "%.200s: the status cannot be read: %s", mountpoint,
			       where.text);
	rc = json ? puts(text) < 0 || fflush(stdout) : print_text(root, mountpoint);
	json_decref(root);
	return rc ? err_sys(err, "cannot print") : 0;
}
