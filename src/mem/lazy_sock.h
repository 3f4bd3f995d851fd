// SPDX-License-Identifier: Apache-2.0
/*
 * The socket between a restore and the lazy-pages daemon, as CRIU has it
 * (ferry-protocol(7)): "lazy-pages.socket" in the work directory. The restore says
 * for each task either -pid (no lazy memory) or pid and then one byte with the task's userfaultfd; and at
 * the end, before the tree runs, one word. The daemon never answers.
 */
#ifndef FERRY_MEM_LAZY_SOCK_H
#define FERRY_MEM_LAZY_SOCK_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

/* The daemon: makes the socket in a directory, replacing an old one. -1 + err. */
int lazy_sock_listen(int dirfd, struct err *err) must_check;
void lazy_sock_unlink(int dirfd);

/* The restore: connects to it. -1 + err. */
int lazy_sock_connect(int dirfd, struct err *err) must_check;

/* @uffd -1: none. It stays the caller's. */
int lazy_sock_announce(int sock, pid_t vpid, int uffd, struct err *err) must_check;
int lazy_sock_finish(int sock, struct err *err) must_check;

enum lazy_sock_kind {
	LAZY_SOCK_TASK,   /* pid, uffd */
	LAZY_SOCK_NONE,   /* pid: a task without lazy memory */
	LAZY_SOCK_FINISH, /* the tree is about to run */
	LAZY_SOCK_EOF,
};

struct lazy_sock_msg {
	enum lazy_sock_kind kind;
	pid_t vpid;
	int uffd; /* the caller's */
};

/*
 * Waits for the next record (once it has begun, for 10 seconds at most). The descriptor is
 * a userfaultfd, and non-blocking. @finish: only the last word may come now.
 */
int lazy_sock_recv(int sock, bool finish, struct lazy_sock_msg *out, struct err *err) must_check;

#endif
