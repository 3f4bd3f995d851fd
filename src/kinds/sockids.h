// SPDX-License-Identifier: Apache-2.0
/*
 * Making sockets in somebody's name. A unix connection remembers who made it
 * (SO_PEERCRED), and servers go by that: a connection of an ordinary user must
 * not turn into one of root because root restored it.
 */
#ifndef FERRY_KINDS_SOCKIDS_H
#define FERRY_KINDS_SOCKIDS_H

#include "base/attrs.h"
#include "base/err.h"

#include <sys/types.h>

struct sock_ids {
	uid_t uid;
	gid_t gid;
};

/*
 * Runs @call(@arg) in a thread with these effective ids (and then without
 * capabilities, if they are not root's). @call returns 0 or -1 with errno, and so
 * does this.
 */
int sockids_run(const struct sock_ids *ids, int (*call)(void *arg), void *arg) must_check;

#endif
