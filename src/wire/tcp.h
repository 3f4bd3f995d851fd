// SPDX-License-Identifier: Apache-2.0
/*
 * TCP connections for the protocols that CRIU's users know: a page server that
 * listens, and those who connect to it. ferry's own migrations go over ssh.
 */
#ifndef FERRY_WIRE_TCP_H
#define FERRY_WIRE_TCP_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { TCP_PEER_TEXT = 80 };

/*
 * Listens on a numeric address (IPv4 or IPv6); NULL: the loopback interface.
 * @port 0: the kernel chooses. Returns a nonblocking descriptor and the port, or -1.
 */
int tcp_listen(const char *address, uint16_t port, uint16_t *port_out, struct err *err) must_check;

/*
 * Connects to a host by name or number, trying each of its addresses in turn, each
 * for @timeout_ms at most. Returns a blocking descriptor set up by tcp_prepare.
 */
int tcp_connect(const char *host, uint16_t port, int timeout_ms, struct err *err) must_check;

/*
 * Settings of a connection that carries memory; best effort, as an inherited socket may be no
 * TCP at all. cubic instead of the system's congestion control (BBR paces, and halves what a
 * local network can carry); a peer whose machine is gone is noticed after half a minute.
 */
void tcp_prepare(int fd);

/* The same with another time than half a minute, or as near to it as the kernel can count. */
void tcp_patience(int fd, unsigned int ms);

/*
 * For those who ask tcp_awaits_ms by themselves: a peer who has nothing to say is asked by the kernel
 * several times within @ms, and the kernel never gives up. That it does, after TCP_USER_TIMEOUT, also
 * on a peer who is there and takes his time to read.
 */
void tcp_watch(int fd, unsigned int ms);

/*
 * Does the other machine owe a sign of life? Then: for how long nothing at all has come from it, neither
 * data nor an acknowledgement, which its kernel sends whatever the program there does, and
 * steadily however slow the link is. -1: it owes nothing (or this is no TCP connection).
 */
int tcp_awaits_ms(int fd);

/*
 * @resets: where the socket is closed, also as its process dies, what is not sent yet is dropped and the connection is
 * reset: the peer sees that before it has read all. Else, as it is at first, a close is a proper end.
 */
void tcp_close_resets(int fd, bool resets);

/* While corked, small writes are gathered into full segments; uncorking sends what is left. */
void tcp_cork(int fd, bool corked);

/* "10.1.2.3:4711" of an address, "a local peer" if it is none of the internet's. */
const char *tcp_address_text(const struct sockaddr_storage *addr, char buf[static TCP_PEER_TEXT]);

/* The same of the other end of a socket. */
const char *tcp_peer_text(int fd, char buf[static TCP_PEER_TEXT]);

#endif
