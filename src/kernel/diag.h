// SPDX-License-Identifier: Apache-2.0
/*
 * What the kernel tells about sockets over netlink (sock_diag(7)): peers,
 * names, queues and backlogs of unix sockets, addresses and owners of internet
 * sockets. Looks only; nothing about a socket is changed. Every call answers
 * for the network namespace of the calling thread.
 */
#ifndef FERRY_KERNEL_DIAG_H
#define FERRY_KERNEL_DIAG_H

#include "base/attrs.h"
#include "base/err.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Socket states as the kernel numbers them, for unix sockets too (net/tcp_states.h). */
enum sock_state {
	SOCK_STATE_ESTABLISHED = 1,
	SOCK_STATE_CLOSE = 7,
	SOCK_STATE_LISTEN = 10,
};

/* sun_path, and the 0 that the kernel adds to one that fills it */
enum { DIAG_UNIX_NAME_MAX = 109 };

struct diag_unix {
	uint32_t ino;
	uint8_t type;     /* SOCK_STREAM, ... */
	uint8_t state;    /* enum sock_state */
	uint8_t shutdown; /* 1: no more receiving, 2: no more sending */
	bool has_peer;    /* connected, perhaps to a socket that is closed by now (peer 0) */
	uint32_t peer;    /* inode; 0: no peer, a closed one, or one that nobody has accepted */
	uint8_t name[DIAG_UNIX_NAME_MAX]; /* sun_path as bound: leading 0 = abstract, paths end in 0 */
	size_t name_bytes;
	bool has_vfs;  /* bound to a path: */
	dev_t vfs_dev; /* superblock of the socket file, not always its st_dev */
	uint32_t vfs_ino;
	uint32_t queue;   /* listening: connections waiting; else bytes (datagrams: of the first) */
	uint32_t backlog; /* listening: the limit; else bytes sent and not read by the peer */
	uint32_t *pending; /* listening: inodes of the clients waiting, 0 where the client is gone */
	size_t n_pending;
};

/* Frees what hangs on @u. */
void diag_unix_finish(struct diag_unix *u);

/*
 * One unix socket by its inode: 1 and *out (finish it), 0 if there is none of
 * that inode, -1 on error.
 */
int diag_unix_one(uint32_t ino, struct diag_unix *out, struct err *err) must_check;

/* Every unix socket, until @each returns false; the struct is valid during the call only. */
int diag_unix_each(bool (*each)(const struct diag_unix *u, void *arg), void *arg, struct err *err)
	must_check;

struct diag_inet {
	int family;   /* AF_INET, AF_INET6 */
	int protocol; /* IPPROTO_TCP, ... */
	uint32_t ino; /* 0: nobody has a descriptor (time-wait and the like) */
	uint8_t state;
	uint8_t shutdown;
	bool v6only;
	bool has_keys;    /* has TCP MD5 keys (RFC 2385); shown to CAP_NET_ADMIN only */
	uint32_t ifindex; /* bound device, 0 none */
	uint32_t uid;
	uint16_t src_port, dst_port; /* host order */
	struct in6_addr src, dst;    /* IPv4: the first word */
	uint32_t queue, backlog; /* listening: connections waiting, limit; else bytes received, sent */
};

/*
 * Every socket of a family and protocol in one of @states (a mask of
 * 1 << state), with source port @port (0: all), until @each returns false.
 */
int diag_inet_each(int family, int protocol, uint32_t states, uint16_t port,
		   bool (*each)(const struct diag_inet *s, void *arg), void *arg, struct err *err)
	must_check;

/*
 * Who holds a socket, for messages: "pid 812 (nginx)", or "a process that
 * cannot be seen from here". Searches /proc: slow, for errors only.
 */
void diag_owner(uint32_t ino, char *text, size_t size);

#endif
