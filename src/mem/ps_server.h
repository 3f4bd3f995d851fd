// SPDX-License-Identifier: Apache-2.0
/*
 * The receiving end of CRIU's page-server protocol: memory of a dump comes over a
 * connection and goes into a directory of images.
 *
 * Who may connect: everybody, as there is neither a name nor a password (with TLS: who has a certificate). So a
 * connection is a candidate until it has sent pages. Candidates wait beside each other
 * and are answered; whoever breaks the rules, or leaves, is dropped, and the
 * others notice nothing. The first to send pages is the peer: now all others are
 * dropped, and nobody new is accepted. From here on a failure is a failure of the transfer:
 * nothing of it is kept. Only a CLOSE makes the images appear.
 */
#ifndef FERRY_MEM_PS_SERVER_H
#define FERRY_MEM_PS_SERVER_H

#include "mem/ps_store.h"
#include "wire/tls.h"

struct ps_server_options {
	int dirfd;            /* of the images */
	struct store *parent; /* NULL: none */
	struct store *dedup; /* not NULL: the images; what they replace in their parents is freed */
	const struct tls *tls; /* NULL: the connections are plain */
	bool given; /* the descriptor is a connected socket, not a listening one: it is the only candidate */
};

/*
 * Serves one transfer; @fd stays the caller's, but is shut down at the end. 0: the memory is
 * stored, and the peer knows it. -1: it is not, or (EPIPE) nobody came on a given socket.
 */
int ps_server_run(int fd, const struct ps_server_options *opt, struct err *err) must_check;

#endif
