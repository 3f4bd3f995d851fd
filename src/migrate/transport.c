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

/* Connects to the port. The agent has answered when this returns. */
static int dial(struct transport_source *t, const Wire__Verdict *v, const char *peer,
		struct lane *lane, struct err *err)
{
	snprintf(t->address, sizeof(t->address), "%s", v->address);
	t->port = (uint16_t)v->port;
	if (lane_dial_tls(t->tls, t->address, t->port, t->token, LANE_TRUNK, lane, err))
		return -1;
	if (lane_heard(lane, HEARD_MS, peer, err) == 0)
		return 0;
	lane_close(lane);
	return -1;
}

static int tell(const struct transport_source *t, struct channel *ch, struct err *err)
{
	Wire__Transport msg = WIRE__TRANSPORT__INIT;

	msg.tls = t->used;
	return channel_send(ch, MSG_TRANSPORT, &msg.base, err);
}

int transport_choose(struct transport_source *t, const Wire__Verdict *v, struct channel *ch,
		     struct progress *progress, struct err *err)
{
	bool offered = t->tls && v->has_port && v->address;
	struct lane lane = LANE_NONE;
	char note[1200];
	struct err why;

	if (!t->tls)
		return 0;
	if (offered)
		t->used = dial(t, v, ch->peer, &lane, &why) == 0;
	else
		err_set(&why, 0, "%s opens no port for TLS", ch->peer);
	if (!t->used && t->wanted == TRANSPORT_TLS) {
		*err = why;
		return err_wrap(err, "--transport=tls");
	}
	if (t->used)
		snprintf(note, sizeof(note), "it moves over TLS, to %s, port %u", t->address,
			 t->port);
	else
		snprintf(note, sizeof(note), "it moves through ssh: %s", why.text);
	progress_note(progress, note);
	if (offered && tell(t, ch, err)) {
		lane_close(&lane);
		return -1;
	}
	return t->used ? channel_switch(ch, lane.in, lane.tunnel, err) : 0;
}

/* ---- target ---- */

bool transport_own_address(char *buf, size_t size)
{
	const char *text = getenv("SSH_CONNECTION");
	char address[64];

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
		log_info("no port: sshd has not said at which address it was reached");
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

/* Whoever knows secret and token: the last who came. */
static int work_hall(struct target *t, struct lane *trunk, struct err *err)
{
	struct lane lane;
	int n = hall_work(t->hall, &lane, err);

	if (n <= 0)
		return n;
	if (lane.kind != LANE_TRUNK) {
		lane_close(&lane);
		return 0;
	}
	lane_close(trunk);
	*trunk = lane;
	return 0;
}

/* Until the source has said something over the old connection. */
static int await_word(struct target *t, struct lane *trunk, struct err *err)
{
	struct pollfd p[2] = {{.fd = t->ch.in, .events = POLLIN},
			      {.fd = hall_fd(t->hall), .events = POLLIN}};

	while (!p[0].revents) {
		if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
			return err_sys(err, "poll");
		if (p[1].revents && work_hall(t, trunk, err))
			return -1;
	}
	return 0;
}

/* Lanes may still come later; nobody else. */
static int go_there(struct target *t, struct lane *trunk, struct err *err)
{
	if (trunk->in < 0)
		return err_set(err, EPROTO, "the source goes to a connection that it has not made");
	log_info("over TLS from now on");
	if (!(t->needs->mode & WIRE_MODE_POSTCOPY))
		target_undo_lanes(t);
	return channel_switch(&t->ch, steal_fd(&trunk->in), steal_ptr(&trunk->tunnel), err);
}

int transport_await(struct target *t, struct err *err)
{
	struct lane trunk = LANE_NONE;
	Wire__Transport *msg;
	int rc;

	if (await_word(t, &trunk, err) < 0) {
		lane_close(&trunk);
		return -1;
	}
	msg = channel_expect(&t->ch, MSG_TRANSPORT, err);
	rc = !msg ? -1 : msg->tls ? go_there(t, &trunk, err) : 0;
	if (!msg || !msg->tls) {
		lane_close(&trunk);
		target_undo_lanes(t);
	}
	if (msg)
		wire_free(msg);
	return rc;
}
