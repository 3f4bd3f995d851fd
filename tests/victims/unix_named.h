// SPDX-License-Identifier: Apache-2.0
// The part that unix_named and unix_abstract have in common: sockets that have addresses.
#ifndef UNIX_NAMED_H
#define UNIX_NAMED_H

// Make an address of a name: under DIR, or an abstract one.
#include <sys/socket.h>
#include <sys/un.h>

typedef socklen_t unix_address_fn(struct sockaddr_un *address, const char *name);

// Listeners, an accepted connection, bound and connected datagram sockets. Does not return.
_Noreturn void unix_named_run(unix_address_fn *make_address);

#endif
