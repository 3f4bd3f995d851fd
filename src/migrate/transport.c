// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "transport"
#include "migrate/transport.h"

#include "base/log.h"
#include "migrate/source.h"
#include "migrate/target.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

enum { HEARD_MS = 10000 };

/* ---- source ---- */

int transport_offer(struct transport_source *t, const struct migrate_options *opt,
		    Wire__Needs *needs, struct err *err)
{
	t->wanted = opt->transport;
	t->patience_ms = opt->patience_ms;
	t->wanted_ways = MIN(opt->connections, (unsigned int)TRUNK_WAYS_MAX);
	t->token = opt->settle.token;
	if (opt->transport == TRANSPORT_SSH || opt->plain_tcp)
		return 0;
	if (secret_nonce(t->secret.key, err))
		return -1;
	t->tls = tls_with_secret(TLS_CLIENT, &t->secret, err);
	if (!t->tls)
		return -1;
	needs->has_secret = true;
	needs->secret.data = t->secret.key;
	needs->secret.len = sizeof(t->secret.key);
	return 0;
}

/* One connection to the port. The agent has answered when this returns. */
static int dial_way(const struct transport_source *t, const char *peer, struct lane *lane,
		    struct err *err)
{
	const struct lane_call call = {.token = t->token, .kind = LANE_TRUNK};

	if (lane_dial_tls(t->tls, t->address, t->port, &call, lane, err))
		return -1;
	lane_patience(lane, t->patience_ms);
	if (lane_heard(lane, HEARD_MS, peer, err) == 0)
		return 0;
	lane_close(lane);
	return -1;
}

/* One after the other: both sides know the first by that. Fewer than wanted are good enough. */
static int dial(struct transport_source *t, const Wire__Verdict *v, const char *peer,
		struct trunk_way *ways, struct err *err)
{
	struct lane lane;

	snprintf(t->address, sizeof(t->address), "%s", v->address);
	t->port = (uint16_t)v->port;
	for (t->ways = 0; t->ways < t->wanted_ways; t->ways++) {
		if (dial_way(t, peer, &lane, err))
			break;
		ways[t->ways] = (struct trunk_way){lane.in, lane.tunnel};
	}
	t->used = t->ways > 0;
	return t->used ? 0 : -1;
}

static int tell(const struct transport_source *t, struct channel *ch, struct err *err)
{
	Wire__Transport msg = WIRE__TRANSPORT__INIT;

	msg.tls = t->used;
	msg.has_ways = true;
	msg.ways = (uint32_t)t->ways;
	return channel_send(ch, MSG_TRANSPORT, &msg.base, err);
}

/* What the user hears of it. */
static void say(const struct transport_source *t, struct progress *progress, const struct err *why)
{
	char note[1200];

	if (t->used)
		snprintf(note, sizeof(note), "it moves over TLS, to %s, port %u (%zu connection%s)",
			 t->address, t->port, t->ways, t->ways == 1 ? "" : "s");
	else
		snprintf(note, sizeof(note), "it moves through ssh: %s", why->text);
	progress_note(progress, note);
}

/* Both go on over what was made. Takes the ways. */
static int go_over(struct channel *ch, const struct trunk_way *ways, size_t n, struct err *err)
{
	int fd;
	struct trunk *trunk = trunk_open(ways, n, &fd, err);

	return trunk ? channel_switch(ch, fd, trunk, err) : -1;
}

int transport_choose(struct transport_source *t, const Wire__Verdict *v, struct channel *ch,
		     struct progress *progress, struct err *err)
{
	bool offered = t->tls && v->has_port && v->address;
	struct trunk_way ways[TRUNK_WAYS_MAX];
	struct err why;

	if (!t->tls)
		return 0;
	if (!offered)
		err_set(&why, 0, "%s opens no port for TLS", ch->peer);
	else if (dial(t, v, ch->peer, ways, &why))
		log_warn("%s", why.text);
	if (!t->used && t->wanted == TRANSPORT_TLS) {
		*err = why;
		return err_wrap(err, "--transport=tls");
	}
	say(t, progress, &why);
	if (offered && tell(t, ch, err)) {
		trunk_drop(ways, t->ways);
		return -1;
	}
	return t->used ? go_over(ch, ways, t->ways, err) : 0;
}

/* ---- target ---- */

bool transport_own_address(char *buf, size_t size)
{
	const char *text = getenv(TRANSPORT_ADDRESS);
	char address[64];

	if (text) {
		snprintf(buf, size, "%s", text);
		return true;
	}
	text = getenv("SSH_CONNECTION");
	if (!text || sscanf(text, "%*s %*s %63s", address) != 1)
		return false;
	snprintf(buf, size, "%s", address);
	return true;
}

static struct hall *open_hall(struct target *t, const char *address, struct err *err)
{
	struct secret secret;
	struct hall *hall;

	memcpy(secret.key, t->needs->secret.data, sizeof(secret.key));
	t->tls = tls_with_secret(TLS_SERVER, &secret, err);
	hall = t->tls ? hall_open(t->token, address, t->tls, err) : NULL;
	if (hall)
		hall_patience(hall, t->needs->patience_ms);
	if (!hall) {
		tls_free(t->tls);
		t->tls = NULL;
	}
	return hall;
}

void transport_open(struct target *t, struct arena *arena, Wire__Verdict *verdict)
{
	char address[64];
	struct err why;

	if (!t->needs->has_secret || t->needs->secret.len != SECRET_KEY_BYTES)
		return;
	if (!transport_own_address(address, sizeof(address))) {
		log_info("no port: nobody has said at which address it was reached");
		return;
	}
	verdict->address = arena_strdup(arena, address);
	if (!verdict->address)
		err_nomem(&why);
	else
		t->hall = open_hall(t, address, &why);
	if (!t->hall) {
		log_warn("no port for TLS: %s", why.text);
		return;
	}
	verdict->has_port = true;
	verdict->port = hall_port(t->hall);
}

/* The connections of those who know secret and token, in the order in which they came. */
struct arrivals {
	struct trunk_way ways[TRUNK_WAYS_MAX];
	size_t n;
};

static int work_hall(struct target *t, struct arrivals *a, struct err *err)
{
	struct lane lane;
	int n = hall_work(t->hall, &lane, err);

	if (n <= 0)
		return n;
	if (lane.kind != LANE_TRUNK || a->n == ARRAY_SIZE(a->ways))
		lane_close(&lane);
	else
		a->ways[a->n++] = (struct trunk_way){lane.in, lane.tunnel};
	return 0;
}

/* Until the source has said something over the old connection. */
static int await_word(struct target *t, struct arrivals *a, struct err *err)
{
	struct pollfd p[2] = {{.fd = t->ch.in, .events = POLLIN},
			      {.fd = hall_fd(t->hall), .events = POLLIN}};

	while (!p[0].revents) {
		if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
			return err_sys(err, "poll");
		if (p[1].revents && work_hall(t, a, err))
			return -1;
	}
	return 0;
}

/* Lanes may still come later; nobody else. */
static int go_there(struct target *t, struct arrivals *a, const Wire__Transport *msg, struct err *err)
{
	size_t n = msg->has_ways ? msg->ways : 1;

	if (n == 0 || n > a->n)
		return err_set(err, EPROTO, "the source goes to connections that it has not made");
	log_info("over TLS from now on");
	if (!(t->needs->mode & WIRE_MODE_POSTCOPY))
		target_undo_lanes(t);
	trunk_drop(a->ways + n, a->n - n);
	a->n = 0;
	return go_over(&t->ch, a->ways, n, err);
}

int transport_await(struct target *t, struct err *err)
{
	struct arrivals a = {.n = 0};
	Wire__Transport *msg = NULL;
	int rc = await_word(t, &a, err);

	if (rc == 0)
		msg = channel_expect(&t->ch, MSG_TRANSPORT, err);
	rc = !msg ? -1 : msg->tls ? go_there(t, &a, msg, err) : 0;
	trunk_drop(a.ways, a.n);
	if (!msg || !msg->tls)
		target_undo_lanes(t);
	if (msg)
		wire_free(msg);
	return rc;
}
