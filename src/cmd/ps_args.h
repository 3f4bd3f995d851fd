// SPDX-License-Identifier: Apache-2.0
/*
 * The options with which a command finds the page server that gets its memory.
 */
#ifndef FERRY_CMD_PS_ARGS_H
#define FERRY_CMD_PS_ARGS_H

#include "cmd/common.h"
#include "cmd/tls_args.h"
#include "mem/ps_client.h"

struct ps_args {
	bool use;
	const char *address;
	uint64_t port, socket;
	struct tls_args tls;
};

#define NO_SOCKET UINT64_MAX
#define PS_ARGS_DEFAULT ((struct ps_args){.socket = NO_SOCKET})

#define PS_ROWS(Args, at)                                                                        \
	{.long_name = "page-server",                                                             \
	 .help = "send the memory to a page server instead of keeping it in the images",         \
	 .type = OPT_FLAG,                                                                       \
	 .offset = offsetof(Args, at.use)},                                                      \
		{.long_name = "address",                                                         \
		 .arg = "HOST",                                                                  \
		 .help = "host of the page server (default: this one), or address to listen on", \
		 .type = OPT_TEXT,                                                               \
		 .offset = offsetof(Args, at.address)},                                          \
		{.long_name = "port",                                                            \
		 .arg = "PORT",                                                                  \
		 .help = "port of the page server, or to listen on",                             \
		 .type = OPT_NUMBER,                                                             \
		 .offset = offsetof(Args, at.port),                                              \
		 .max = 65535},                                                                  \
		TLS_ROWS(Args, at.tls),                                                          \
	{                                                                                        \
		.long_name = "ps-socket", .arg = "FD",                                           \
		.help = "use descriptor FD, a connected socket, instead of address and port",    \
		.type = OPT_NUMBER, .offset = offsetof(Args, at.socket), .max = 1048575          \
	}

/* What cannot be meant: the text is that of a usage error. */
int ps_args_check(const struct ps_args *args, struct err *err) must_check;

/* A descriptor that the caller was given as a socket: it must be one. Returns it, not inherited further. */
int ps_given_socket(uint64_t fd, struct err *err) must_check;

/*
 * Connects, and announces the tree of @root while it still runs: a server that is not
 * there, or is no page server, or is not to be believed (@tls; NULL: plain), is found out before anything is stopped.
 */
int ps_args_connect(const struct ps_args *args, const struct tls *tls, pid_t root,
		    struct ps_client *out, struct err *err) must_check;

#endif
