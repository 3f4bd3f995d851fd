// SPDX-License-Identifier: Apache-2.0
/*
 * Socket options of every family, both ways: sk_opts_entry of the images.
 */
#ifndef FERRY_KINDS_SOCKOPT_H
#define FERRY_KINDS_SOCKOPT_H

#include "base/attrs.h"
#include "base/err.h"
#include "kinds/sockids.h"
#include "snapshot/snapshot.h"

#include "sk-opts.pb-c.h"

#include <stdbool.h>

/* SO_DOMAIN, SO_TYPE, SO_PROTOCOL, or any other int option; -1 where there is none. */
int sockopt_int(int fd, int level, int name);

/* A filter whose program cannot be read back (eBPF): -1 and why. */
int sockopt_allowed(int fd, struct err *err) must_check;

/* Reads the options of @fd; the entry lives in the snapshot's arena. Changes nothing. */
int sockopt_capture(struct snapshot *snap, int fd, SkOptsEntry **out, struct err *err) must_check;

/* Can they be set here? The bound device exists, filters have a legal length. */
int sockopt_check(const SkOptsEntry *opts, struct err *err) must_check;

/* Those that bind(2) looks at: device, mark, address reuse, and the ones without a CRIU field. */
int sockopt_restore_early(int fd, const SkOptsEntry *opts, struct err *err) must_check;

/* All of them, when the socket is bound, connected and filled. */
int sockopt_restore(int fd, const SkOptsEntry *opts, struct err *err) must_check;

/* Whom SO_PEERCRED of a unix socket showed, as sockopt_capture noted it; root where it did not. */
struct sock_ids sockopt_peer_ids(const SkOptsEntry *opts);

/* Room for @bytes in the send buffer, whatever the system's limit, until sockopt_restore sets it. */
void sockopt_grow_sndbuf(int fd, size_t bytes);

/* O_NONBLOCK and the like, of the "flags" that images note. */
int sockopt_set_flags(int fd, uint32_t flags, struct err *err) must_check;

#endif
