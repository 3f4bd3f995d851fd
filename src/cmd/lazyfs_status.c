// SPDX-License-Identifier: Apache-2.0
#include "cmd/lazyfs_status.h"

#include "cmd/whole.h"
#include "lazyfs/fs.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <string.h>
#include <sys/xattr.h>

enum {
	STATUS_BYTES = 64 * 1024, /* the longest extended attribute */
	LOOK_MS = 200,
	FAILING_LOOKS = 50,
};

static int print_text(const json_t *root, const char *mountpoint)
{
	const char *state = "", *source = "", *policy = "";
	json_int_t files = 0, complete = 0, modified = 0, changed = 0, bytes = 0, here = 0,
		   local = 0, pool = 0, received = 0;

	(void)json_unpack((json_t *)root,
			  "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "state",
			  &state, "source", &source, "policy", &policy, "files", &files,
			  "complete_files", &complete, "modified_files", &modified,
			  "changed_at_source", &changed, "bytes", &bytes, "here_bytes", &here,
			  "local_bytes", &local, "pool_bytes", &pool, "received_bytes", &received);
	printf("%s: %s, source %s\n", mountpoint, state, source);
	printf("files:    %lld, of which %lld are complete and %lld were changed here\n",
	       (long long)files, (long long)complete, (long long)modified);
	printf("bytes:    %lld of %lld are here (%lld%%); %lld were received, %lld are of the same "
	       "files of this host, %lld of earlier migrations\n",
	       (long long)here, (long long)bytes, bytes ? (long long)(here * 100 / bytes) : 100,
	       (long long)received, (long long)local, (long long)pool);
	printf("changed at the source: %lld (on-change=%s)\n", (long long)changed, policy);
	return fflush(stdout);
}

/* The text and what it says; json_decref(). NULL + err. @text_out: of STATUS_BYTES, or NULL. */
static json_t *ask(const char *mountpoint, char *text_out, struct err *err)
{
	cleanup_free char *own = text_out ? NULL : malloc(STATUS_BYTES);
	char *text = text_out ? text_out : own;
	json_error_t where;
	json_t *root = NULL;
	ssize_t n;

	if (!text) {
		err_nomem(err);
		return NULL;
	}
	n = getxattr(mountpoint, LAZYFS_STATUS_XATTR, text, STATUS_BYTES - 1);
	if (n < 0 && (errno == ENODATA || errno == EOPNOTSUPP)) {
		err_set(err, errno, "%.200s: no ferry lazyfs is mounted there", mountpoint);
		return NULL;
	}
	if (n < 0) {
		err_sys(err, "%.200s", mountpoint);
		return NULL;
	}
	text[n] = '\0';
	root = json_loads(text, 0, &where);
	if (!root)
		err_set(err, EPROTO, "%.200s: the status cannot be read: %s", mountpoint, where.text);
	return root;
}

int lazyfs_print_status(const char *mountpoint, bool json, struct err *err)
{
	cleanup_free char *text = malloc(STATUS_BYTES);
	json_t *root;
	int rc;

	if (!text)
		return err_nomem(err);
	root = ask(mountpoint, text, err);
	if (!root)
		return -1;
	rc = json ? puts(text) < 0 || fflush(stdout) : print_text(root, mountpoint);
	json_decref(root);
	return rc ? err_sys(err, "cannot print") : 0;
}

/* ---- --detach ---- */

static int say_detach(const char *mountpoint, const struct opt_list *with, struct err *err)
{
	cleanup_free char *text = malloc(STATUS_BYTES);
	size_t bytes = 0;

	if (!text)
		return err_nomem(err);
	for (size_t i = 0; i < with->n; i++) {
		size_t n = strlen(with->v[i]) + 1;

		if (bytes + n > STATUS_BYTES)
			return err_set(err, E2BIG, "--with %.200s: one path too many", with->v[i]);
		memcpy(text + bytes, with->v[i], n);
		bytes += n;
	}
	if (setxattr(mountpoint, LAZYFS_DETACH_XATTR, text, bytes, 0) == 0)
		return 0;
	if (errno == EPERM)
		return err_set(err, EPERM,
			       "%.200s: only root can let the source go, and only that of a migrated "
			       "tree's root directory (/proc/PID/root)",
			       mountpoint);
	if (errno == EBUSY)
		return err_set(err, EBUSY,
			       "%.200s: what is changed here goes home (--writeback): the source is needed "
			       "as long as the tree runs",
			       mountpoint);
	return err_sys(err, "%.200s: cannot let the source go", mountpoint);
}

/* One look. 1: it is complete, 0, -1. *failing: how many looks in a row have seen an error. */
static int look(const char *mountpoint, bool quiet, unsigned int *failing, struct err *err)
{
	json_int_t bytes = 0, here = 0, error = 0;
	const char *state = "";
	json_t *root = ask(mountpoint, NULL, err);
	int rc = 0;

	if (!root)
		return -1;
	(void)json_unpack(root, "{s:s, s:I, s:I, s:I}", "state", &state, "bytes", &bytes,
			  "here_bytes", &here, "fill_error", &error);
	if (!quiet)
		fprintf(stderr, "\r%lld of %lld bytes of known files are here", (long long)here,
			(long long)bytes);
	*failing = error ? *failing + 1 : 0;
	if (!strcmp(state, "complete"))
		rc = 1;
	else if (*failing >= FAILING_LOOKS)
		rc = err_set(err, (int)error,
			     "%.200s: not everything could be fetched (%s); the source is still needed, and "
			     "asked again every 5 seconds",
			     mountpoint, strerror((int)error));
	json_decref(root);
	return rc;
}

int lazyfs_let_source_go(const char *mountpoint, const struct opt_list *with, struct err *err)
{
	const bool quiet = !isatty(STDERR_FILENO);
	unsigned int failing = 0;
	json_t *there = ask(mountpoint, NULL, err);
	int rc = there ? whole_check_below(mountpoint, with, err) : -1;

	json_decref(there);
	if (rc == 0)
		rc = say_detach(mountpoint, with, err);

	while (rc == 0) {
		(void)poll(NULL, 0, LOOK_MS);
		rc = look(mountpoint, quiet, &failing, err);
	}
	if (!quiet)
		fputc('\n', stderr);
	return rc < 0 ? -1 : 0;
}
