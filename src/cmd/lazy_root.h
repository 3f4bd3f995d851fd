// SPDX-License-Identifier: Apache-2.0
/* ferry restore --lazy-files: a root directory for the tree (lazyfs/treeroot.h), by ssh from where it was dumped. */
#ifndef FERRY_CMD_LAZY_ROOT_H
#define FERRY_CMD_LAZY_ROOT_H

#include "cmd/opt.h"
#include "lazyfs/treeroot.h"
#include "migrate/connect.h"

struct snapshot;

struct lazy_root_args {
	const char *host; /* NULL: the tree has our files */
	const char *ssh, *remote_ferry;
	uint64_t timeout_s, pool_bytes;
	bool no_background, detach, writeback;
	struct opt_list with;
};

#define LAZY_ROOT_ARGS_DEFAULT                                                  \
	{                                                                       \
		.ssh = "ssh", .timeout_s = 60, .pool_bytes = POOL_DEFAULT_BYTES \
	}

/* For all commands that bring files. */
#define POOL_ROW(Args, at)                                                                                  \
	{                                                                                                   \
		.long_name = "cache-size", .arg = "SIZE",                                                   \
		.help = "how much of what has come is kept for later migrations, where the lazy files are " \
			"(default 1G); 0: nothing is kept, or looked for",                                  \
		.type = OPT_BYTES, .offset = offsetof(Args, at), .max = UINT64_MAX                          \
	}

#define LAZY_ROOT_ROWS(Args, at)                                                                       \
	{.long_name = "lazy-files",                                                                    \
	 .arg = "[USER@]HOST",                                                                         \
	 .help = "the tree has the files of HOST, by ssh, which come when they are used",              \
	 .type = OPT_TEXT,                                                                             \
	 .offset = offsetof(Args, at.host)},                                                           \
		{.long_name = "files-timeout",                                                         \
		 .arg = "SECONDS",                                                                     \
		 .help = "with --lazy-files: how long HOST may be silent before a read fails "         \
			 "(default 60); 0: for ever",                                                  \
		 .type = OPT_NUMBER,                                                                   \
		 .offset = offsetof(Args, at.timeout_s),                                               \
		 .max = 1000000},                                                                      \
		POOL_ROW(Args, at.pool_bytes),                                                         \
		{.long_name = "no-background",                                                         \
		 .help = "with --lazy-files: fetch only what is used",                                 \
		 .type = OPT_FLAG,                                                                     \
		 .offset = offsetof(Args, at.no_background)},                                          \
		{.long_name = "detach-files",                                                          \
		 .help = "with --lazy-files: when all that the tree uses has come, HOST is needed no " \
			 "more; what has not come by then cannot be opened",                           \
		 .type = OPT_FLAG,                                                                     \
		 .offset = offsetof(Args, at.detach)},                                                 \
		{.long_name = "writeback",                                                             \
		 .help = "with --lazy-files: what the tree changes goes home to HOST at fsync and "    \
			 "close, and is not kept here",                                                \
		 .type = OPT_FLAG,                                                                     \
		 .offset = offsetof(Args, at.writeback)},                                              \
		{.long_name = "with",                                                                  \
		 .arg = "PATH",                                                                        \
		 .help = "with --detach-files: fetch this, too, with all that is below it; may be "    \
			 "given many times",                                                           \
		 .type = OPT_LIST,                                                                     \
		 .offset = offsetof(Args, at.with)},                                                   \
		{.long_name = "ssh",                                                                   \
		 .arg = "COMMAND",                                                                     \
		 .help = "with --lazy-files: how to reach HOST (default: ssh); split at blanks, HOST " \
			 "and the remote command are appended",                                        \
		 .type = OPT_TEXT,                                                                     \
		 .offset = offsetof(Args, at.ssh)},                                                    \
	{                                                                                              \
		.long_name = "remote-ferry", .arg = "PATH",                                            \
		.help = "with --lazy-files: ferry on HOST (default: from PATH there, or else the "     \
			"path of this one)",                                                           \
		.type = OPT_TEXT, .offset = offsetof(Args, at.remote_ferry)                            \
	}

/* Do they go together? */
int lazy_root_check(const struct lazy_root_args *args, struct err *err) must_check;

/*
 * Connects, and looks the files of @snap up. Then root->mount is for the restore, and the rest goes as in treeroot.h.
 */
int lazy_root_open(const struct lazy_root_args *args, const struct snapshot *snap,
		   struct treeroot *root, struct err *err) must_check;

#endif
