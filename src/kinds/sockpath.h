// SPDX-License-Identifier: Apache-2.0
/*
 * Names of unix sockets: what a bound name stands for, and how to give a
 * restored socket the same name although our working directory, our root and
 * sometimes the file itself are not what they were.
 */
#ifndef FERRY_KINDS_SOCKPATH_H
#define FERRY_KINDS_SOCKPATH_H

#include "base/arena.h"
#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/un.h>

/* "@name" for abstract ones, the path, or "(unnamed)"; for messages. Returns @text. */
const char *sockpath_text(const uint8_t *name, size_t bytes, char *text, size_t size);

static inline bool sockpath_is_path(const uint8_t *name, size_t bytes)
{
	return bytes > 0 && name[0] != 0;
}

/* The file behind a path name. */
struct sockpath_file {
	bool deleted; /* the name no longer leads to it */
	bool renamed; /* ... but another name does */
	char *dir; /* directory a relative name starts from, or the root an absolute one is below; NULL: / */
	char *path; /* its path now */
	struct stat st;
};

/*
 * Finds the file of the bound socket @fd through the kernel (SIOCUNIXFILE,
 * needs CAP_NET_ADMIN). Strings live in the arena.
 */
int sockpath_find(struct arena *arena, int fd, const uint8_t *name, size_t bytes,
		  struct sockpath_file *out, struct err *err) must_check;

/* Where and how a name is bound. */
struct sockpath_place {
	const char *root; /* paths start here; NULL: / */
	const char *dir;  /* inside root; NULL: / */
	bool perms;       /* set mode and owner of the file: */
	mode_t mode;
	uid_t uid;
	gid_t gid;
};

/*
 * Binds @fd to @name. A socket file of that name that nobody is bound to (any
 * more) is replaced; anything else there is an error.
 */
int sockpath_bind(int fd, const uint8_t *name, size_t bytes, const struct sockpath_place *place,
		  struct err *err) must_check;

/* Only says whether sockpath_bind would work. */
int sockpath_check(const uint8_t *name, size_t bytes, const struct sockpath_place *place,
		   struct err *err) must_check;

/*
 * Gives @fd the name of a path without a file there: binds it in a scratch
 * directory that is removed at once.
 */
int sockpath_bind_hidden(int fd, const uint8_t *name, size_t bytes, struct err *err) must_check;

/*
 * An address that leads to the socket that our descriptor @target is, by name or by
 * file, as long as the caller keeps *file_out (a descriptor, or -1) open. It works
 * when the file is deleted. A socket without a name has none.
 */
int sockpath_address(int target, struct sockaddr_un *addr, socklen_t *len, int *file_out,
		     struct err *err) must_check;

/* Connects @fd to the socket that our descriptor @target is, in this way. */
int sockpath_connect(int fd, int target, struct err *err) must_check;

/* Connects @fd to whatever is bound to the name here. */
int sockpath_connect_name(int fd, const uint8_t *name, size_t bytes,
			  const struct sockpath_place *place, struct err *err) must_check;

#endif
