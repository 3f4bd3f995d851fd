// SPDX-License-Identifier: Apache-2.0
/*
 * Over which connection a migration goes. It begins on that of ssh, which says who
 * is who. If the agent can open a port where the source reaches it, everything after the preflight
 * goes there: TLS 1.3, keyed by a secret that has come through ssh and is used for this migration
 * only (wire/tls.h). Otherwise all stays with ssh; the user is told which.
 *
 *	source				target
 *	NEEDS with a secret	-->	opens a port (hall)
 *				<--	VERDICT with its address
 *	connects, and shows that
 *	it knows secret and token,
 *	as often as wanted	-->	lanes for messages (lane.h)
 *	TRANSPORT		-->	both go on there (wire/trunk.h), or stay
 *
 * An older ferry does not know of the secret, and opens no port.
 */
#ifndef FERRY_MIGRATE_TRANSPORT_H
#define FERRY_MIGRATE_TRANSPORT_H

#include "base/arena.h"
#include "wire/channel.h"
#include "wire/tls.h"

enum transport {
	TRANSPORT_SSH,
	TRANSPORT_AUTO, /* TLS, or ssh where that is not possible */
	TRANSPORT_TLS,  /* or not at all */
};

struct migrate_options;
struct progress;
struct target;

/* What the source knows. */
struct transport_source {
	enum transport wanted;
	const char *token;
	struct secret secret;
	struct tls *tls; /* NULL: none is offered */
	char address[64];
	uint16_t port;
	unsigned int patience_ms;
	size_t wanted_ways, ways; /* connections that carry the messages */
	bool used;                /* further connections go there, too */
};

/* ---- source ---- */

/* Makes a secret, if the user has not chosen ssh, or plain TCP. @needs refers to it. */
int transport_offer(struct transport_source *t, const struct migrate_options *opt,
		    Wire__Needs *needs, struct err *err) must_check;

/* The agent has no objection: connects, if it has opened a port, and tells it, and the user, what is used. */
int transport_choose(struct transport_source *t, const Wire__Verdict *verdict, struct channel *ch,
		     struct progress *progress, struct err *err) must_check;

/* ---- target ---- */

/* Where "ferry agent --call" puts the address at which "ferry serve" was reached. */
#define TRANSPORT_ADDRESS "FERRY_ADDRESS"

/* The address at which the source has reached us, as sshd or ferry serve tells it. False: it does not. */
bool transport_own_address(char *buf, size_t size);

/* Opens a port if the source wants one, and puts it into the verdict. If that fails, there is still ssh. */
void transport_open(struct target *t, struct arena *arena, Wire__Verdict *verdict);

/* Waits for what the source has chosen, while it connects. */
int transport_await(struct target *t, struct err *err) must_check;

#endif
