// SPDX-License-Identifier: Apache-2.0
/*
 * Reaching the far side: the user's own ssh starts "ferry agent" there, and
 * its stdin and stdout are the connection. Or "ferry call" does, where the host is called ferry://HOST.
 */
#ifndef FERRY_MIGRATE_CONNECT_H
#define FERRY_MIGRATE_CONNECT_H

#include "wire/channel.h"
#include "wire/tls.h"

#include <sys/types.h>

struct remote {
	const char *ssh;  /* command line, split at blanks outside of quotes: "ssh -p 2222" */
	const char *host; /* [USER@]HOST, handed to ssh */
	const char *ferry; /* path of ferry there; NULL: from PATH, or else the path of this program */
	const struct tls_files *tls; /* of a host that is called ferry://HOST; NULL: "ferry call" knows where */
};

struct connection {
	pid_t pid; /* of ssh, or what is in its place */
	int in, out;
};

/*
 * Starts ssh with "ferry @command" there ("agent"). Signals of the terminal do
 * not end it: what Ctrl-C means is decided by us.
 */
int connect_agent(const struct remote *remote, const char *command, struct connection *out,
		  struct err *err) must_check;

/* Gives ssh @ms to end, then ends it; reaps it. Its descriptors must be closed already. */
void connection_end(pid_t ssh, unsigned int ms);

/* A fresh random token. */
int token_make(char out[WIRE_TOKEN_CHARS + 1], struct err *err) must_check;

/* The handshake from the source's side; *same_kernel_out may be NULL. */
int connect_hello(struct channel *ch, const char *token, bool *same_kernel_out, struct err *err)
	must_check;

/* And from the target's: @token_out gets the source's token. */
int connect_welcome(struct channel *ch, char token_out[WIRE_TOKEN_CHARS + 1], bool *same_kernel_out,
		    struct err *err) must_check;

/*
 * Over a connection of its own: does the tree of @token run there? @watch_fd
 * and @on_watch as in struct channel.
 */
int connect_query(const struct remote *remote, const char *token, int watch_fd,
		  int (*on_watch)(void *arg, struct err *err), void *arg, enum wire_fate *fate_out,
		  struct err *err) must_check;

/* Splits a command line: blanks separate words, quotes and backslash protect them. NULL + err; free both levels at once. */
char **split_words(const char *line, struct err *err) must_check;

#endif
