// SPDX-License-Identifier: Apache-2.0
#include "cmd/lazy_root.h"

#include "cmd/whole.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* remote_link, in the process that serves the files */
struct files_ssh {
	struct remote remote;
	const char *command;
	struct connection conn;
};

static int link_open(void *arg, int *in_out, int *out_out, struct err *err)
{
	struct files_ssh *l = arg;

	if (connect_agent(&l->remote, l->command, &l->conn, err) < 0)
		return -1;
	*in_out = l->conn.in;
	*out_out = l->conn.out;
	return 0;
}

static void link_close(void *arg)
{
	connection_end(((struct files_ssh *)arg)->conn.pid, 1000);
}

/* All that the images name, which are what is exported but for the root directory itself. */
static int prime(struct treeroot *root, const struct want *want, struct err *err)
{
	cleanup_free struct lazyfs_part *parts = calloc(want->hello.exports.n + 1, sizeof(*parts));
	size_t n = 0;

	if (!parts)
		return err_nomem(err);
	vec_foreach (e, &want->hello.exports)
		if (e->path[1])
			parts[n++].path = e->path;
	return treeroot_prime(root, parts, n, err);
}

int lazy_root_check(const struct lazy_root_args *args, struct err *err)
{
	if (args->detach && !args->host)
		return err_set(err, 0, "--detach-files is for --lazy-files");
	if (args->writeback && !args->host)
		return err_set(err, 0, "--writeback is for --lazy-files");
	if (args->writeback && args->detach)
		return err_set(err, 0,
			       "--writeback and --detach-files exclude each other: what is changed here "
			       "goes home as long as the tree runs");
	if (args->with.n && !args->detach)
		return err_set(err, 0, "--with is for --detach-files");
	if (args->detach && args->no_background)
		return err_set(err, 0, "--detach-files and --no-background exclude each other");
	return 0;
}

int lazy_root_open(const struct lazy_root_args *args, const struct snapshot *snap,
		   struct treeroot *root, struct err *err)
{
	struct files_ssh ssh = {
		.command = args->writeback ? "agent --files --writeback" : "agent --files",
		.remote = {.ssh = args->ssh, .host = args->host, .ferry = args->remote_ferry}};
	const struct remote_link link = {.open = link_open, .close = link_close, .arg = &ssh};
	char token[WIRE_TOKEN_CHARS + 1], kept[PATH_MAX];
	struct want want = {0};
	struct treeroot_options opt = {
		.link = &link,
		.want = &want,
		.source = args->host,
		.cache_dir = TREEROOT_CACHE_DIR,
		.kept = kept,
		.timeout_ms = args->timeout_s * 1000,
		.pool_bytes = args->pool_bytes,
		.fill = !args->no_background,
		.writeback = args->writeback,
		.detach = args->detach,
		.whole = args->with.v,
		.n_whole = args->with.n,
	};
	int rc = token_make(token, err);

	snprintf(kept, sizeof(kept), "%s/%s", TREEROOT_KEPT_DIR, rc == 0 ? token : "");
	if (rc == 0)
		rc = want_make(snap, "/", true, &want, err);
	if (rc == 0 && args->writeback)
		rc = want_writes(&want, err);
	/* the process has a copy of its own of all that is here */
	if (rc == 0)
		rc = treeroot_start(&opt, root, err);
	if (rc == 0 && (treeroot_await(root, -1, err) < 0 || prime(root, &want, err) < 0 ||
			whole_check(root->mount, &args->with, err) < 0)) {
		treeroot_close(root);
		rc = -1;
	}
	want_free(&want);
	return rc;
}
