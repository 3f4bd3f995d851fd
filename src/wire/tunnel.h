// SPDX-License-Identifier: Apache-2.0
/*
 * A TLS connection as its user sees it: a descriptor like that of any stream socket, beside which
 * a thread encrypts what is written and decrypts what comes. So whoever speaks a protocol over a
 * socket need not know of TLS, can poll as ever, and works on while the other core does the sums.
 *
 *	user --- socketpair --- thread --- TCP
 *
 * The end of the connection travels through: a user who closes or shuts down his side sends the
 * peer a proper end (close_notify), and reads end of file when the peer has sent one. When the
 * connection breaks, is changed on the way, or the peer is not believed, the user reads end of file, too
 * (and gets EPIPE), and asks tunnel_fault why. Protocols over it say by themselves what
 * is the end: none of them takes the end of the connection for one.
 */
#ifndef FERRY_WIRE_TUNNEL_H
#define FERRY_WIRE_TUNNEL_H

#include "wire/tls.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tunnel;

/*
 * How what is written is cut into records, for peers to whom that matters: how many of the next @n
 * bytes go into the next one (or more than one, if they are many); 0: it takes more to know. @state is
 * the cutter's own, 0 at first.
 */
typedef size_t (*tunnel_cut)(uint64_t *state, const uint8_t *next, size_t n);

/*
 * Makes a tunnel of a connected socket, which is taken (also on failure). A client's handshake is
 * done when it returns: @host is as for tls_check_peer. A server returns at once, and has its handshake done by
 * the thread, within 10 s: strangers cost it nothing but their place. @fd_out: the user's end,
 * which he closes; blocking. @cut: NULL: as it comes.
 */
struct tunnel *tunnel_open(const struct tls *t, int fd, const char *host, tunnel_cut cut,
			   int *fd_out, struct err *err) must_check;

/*
 * How long the other machine may be silent, on TCP, before the connection counts as broken (30 s if
 * nothing is said). It is the machine that is asked (wire/tcp.h): neither a slow link nor a slow program is
 * silent.
 */
void tunnel_patience(struct tunnel *t, unsigned int ms);

/* Its thread gives way to others (kernel/urgent.h): what goes through it is not waited for. */
void tunnel_unhurried(struct tunnel *t);

/*
 * Does without the thread, for a connection on which somebody waits for each answer: to wake the thread on the way out and in
 * takes longer than the sums. From now on whoever has the tunnel reads and writes with the functions below, from
 * one thread at a time. *fd is the user's end; in its place comes a descriptor for poll(2) only, which the caller closes. What was
 * written before goes out first, what has come already is read first. The other end need not do the same. -1: the connection is
 * broken, or more has come than fits; *fd is still the caller's to close, and the tunnel good for nothing but tunnel_abort.
 */
int tunnel_take_over(struct tunnel *t, int *fd, struct err *err) must_check;

/*
 * After tunnel_take_over: as read(2) and write(2) of a nonblocking socket. What could not be written (EAGAIN) must be tried again, the
 * same bytes first. Where they fail otherwise, tunnel_fault says why. Who reads at least twice a second, also where nothing
 * comes, learns of a silent machine after tunnel_patience.
 */
ssize_t tunnel_read(struct tunnel *t, void *buf, size_t bytes);
ssize_t tunnel_write(struct tunnel *t, const void *buf, size_t bytes);

/* Something may be here that poll(2) does not show: not so once tunnel_read has said EAGAIN. */
bool tunnel_may_hold(const struct tunnel *t);

/* The address of the other end, for messages; valid as long as the tunnel is. */
const char *tunnel_peer(const struct tunnel *t);

/*
 * Has the other end this name in its certificate (tls_has_name)? Of a server's: after it has said something,
 * as before that nothing is known of it. False: no, or it has none.
 */
bool tunnel_peer_has_name(struct tunnel *t, const char *name);

/* Why it ended, if not properly: -1 and the reason; 0: it is in order. NULL allowed. */
int tunnel_fault(struct tunnel *t, struct err *err);

/* @err says what the user met at his end: the tunnel's own reason takes its place, if there is one. Always -1. */
int tunnel_explain(struct tunnel *t, struct err *err);

/*
 * Has the connection been reset, or timed out? This shows while the user reads nothing, too, and so before he comes to the
 * end; what came before that may still be read. NULL allowed.
 */
bool tunnel_is_broken(struct tunnel *t);

/* As tcp_close_resets: of a tunnel whose process dies, while it is so, the peer sees a broken connection, also if it reads nothing. */
void tunnel_close_resets(struct tunnel *t, bool resets);

/* What has not gone out is dropped: the peer sees a broken connection, also if it reads nothing. tunnel_finish follows. */
void tunnel_reset(struct tunnel *t);

/*
 * After the user's end was closed: lets what was written go out, and waits, some seconds at most, for
 * the peer's end. NULL allowed.
 */
void tunnel_finish(struct tunnel *t);

/* Ends it at once: the peer sees a broken connection. NULL allowed. */
void tunnel_abort(struct tunnel *t);

#endif
