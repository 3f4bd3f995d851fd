// SPDX-License-Identifier: Apache-2.0
/*
 * Everything comes from the kernel's socket diagnostics (kernel/diag.h) and the
 * descriptor's fdinfo.
 */
#include "kinds/fd/unixfacts.h"

#include "kinds/fd/fd.h"
#include "kinds/sockopt.h"

#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

/* ---- capture: facts ---- */

struct find_listener {
	uint32_t client;
	uint32_t listener;
};

static bool match_pending(const struct diag_unix *u, void *arg)
{
	struct find_listener *find = arg;

	for (size_t i = 0; i < u->n_pending; i++)
		if (u->pending[i] == find->client)
			find->listener = u->ino;
	return !find->listener;
}

static bool is_external(const struct capture *c, uint32_t ino)
{
	char key[32];

	snprintf(key, sizeof(key), "unix[%u]", ino);
	return kind_external(c->opt, key) != NULL;
}

static int find_peer(struct capture *c, struct unix_facts *u, struct err *err)
{
	struct find_listener find = {.client = u->diag.ino};
	struct diag_unix peer;
	int found;

	if (unix_is_stream(u->diag.type) && u->diag.state != SOCK_STATE_ESTABLISHED)
		return 0;
	if (u->diag.peer) {
		u->peer = capture_fd_by_inode(c, &unix_kind, u->diag.peer);
		u->external = !u->peer;
		found = diag_unix_one(u->diag.peer, &peer, err);
		if (found < 0)
			return -1;
		sockpath_text(peer.name, found ? peer.name_bytes : 0, u->peer_name,
			      sizeof(u->peer_name));
		u->mutual = found && peer.peer == u->diag.ino;
		diag_unix_finish(&peer);
		return 0;
	}
	if (!unix_is_stream(u->diag.type))
		return 0;
	/* the peer was closed, or has not been accepted: then a listener has us in its queue */
	if (diag_unix_each(match_pending, &find, err))
		return -1;
	u->listener = find.listener;
	return 0;
}

/* An error can only be seen to wait: reading it would take it away. */
static void find_error(const struct fd_facts *f, struct unix_facts *u)
{
	struct pollfd p = {.fd = f->own};

	u->error = poll(&p, 1, 0) > 0 && (p.revents & POLLERR);
	/* the only error of a connection is ECONNRESET, and only its peer's end makes one */
	u->reset = u->error && unix_is_stream(u->diag.type) &&
		   u->diag.state == SOCK_STATE_ESTABLISHED && !u->diag.peer && !u->listener;
}

int unixfacts_find(struct capture *c, const struct fd_facts *f, struct unix_facts *u, struct err *err)
{
	int found;

	memset(u, 0, sizeof(*u));
	found = diag_unix_one((uint32_t)f->st.st_ino, &u->diag, err);
	if (found < 0)
		return -1;
	if (!found)
		return err_set(err, 0,
			       "the socket belongs to another network namespace; namespaces come in "
			       "a later release");
	sockpath_text(u->diag.name, u->diag.name_bytes, u->name, sizeof(u->name));
	u->inherited = is_external(c, u->diag.ino);
	if (sockpath_is_path(u->diag.name, u->diag.name_bytes) &&
	    sockpath_find(&c->snap->arena, f->own, u->diag.name, u->diag.name_bytes, &u->file, err))
		return -1;
	if (u->inherited)
		return 0;
	if (find_peer(c, u, err))
		return -1;
	find_error(f, u);
	return 0;
}

/* ---- capture: what is refused ---- */

/* Connections that wait in a listener's queue belong to clients, which must be in the tree. */
static int pending_allowed(struct capture *c, const struct unix_facts *u, struct err *err)
{
	char owner[64];

	for (size_t i = 0; i < u->diag.n_pending; i++) {
		uint32_t client = u->diag.pending[i];

		if (!client)
			return err_set(err, 0,
				       "listening unix socket %s has a connection waiting whose "
				       "client is gone already; try again when it has been accepted",
				       u->name);
		if (capture_fd_by_inode(c, &unix_kind, client))
			continue;
		diag_owner(client, owner, sizeof(owner));
		return err_set(err, 0,
			       "listening unix socket %s has a connection waiting from %s, outside "
			       "the tree; try again when it has been accepted",
			       u->name, owner);
	}
	return 0;
}

/* A connection that nobody has accepted: what was sent into it cannot be read from outside. */
static int inflight_allowed(struct capture *c, const struct fd_facts *f, const struct unix_facts *u,
			    struct err *err)
{
	char owner[64];
	int sent = 0;

	if (!capture_fd_by_inode(c, &unix_kind, u->listener)) {
		diag_owner(u->listener, owner, sizeof(owner));
		return err_set(err, 0,
			       "unix socket is connected to %s, outside the tree, which has not "
			       "accepted it yet",
			       owner);
	}
	if (!ioctl(f->own, SIOCOUTQ, &sent) && sent > 0)
		return err_set(err, 0,
			       "unix socket has sent data into a connection that is not accepted "
			       "yet; try again when it has been");
	return 0;
}

static int external_allowed(struct capture *c, const struct unix_facts *u, struct err *err)
{
	char owner[64];

	diag_owner(u->diag.peer, owner, sizeof(owner));
	if (unix_is_stream(u->diag.type))
		return err_set(err, 0,
			       "unix socket %s is connected to %s of %s, outside the tree; only "
			       "datagram sockets can be connected again (--ext-unix-sk)",
			       u->name, u->peer_name, owner);
	if (!c->opt->ext_unix_sk)
		return err_set(err, 0,
			       "unix socket %s sends to %s of %s, outside the tree; --ext-unix-sk "
			       "connects it again by that name",
			       u->name, u->peer_name, owner);
	if (u->peer_name[0] != '/' && u->peer_name[0] != '@')
		return err_set(err, 0,
			       "unix socket %s is connected to %s of %s, outside the tree; that is "
			       "no name by which it could be found again",
			       u->name, u->peer_name, owner);
	return 0;
}

int unixfacts_allowed(struct capture *c, const struct fd_facts *f, const struct unix_facts *u,
		      struct err *err)
{
	uint64_t fds = 0;

	if (u->inherited)
		return 0;
	if (!unix_is_stream(u->diag.type) && u->diag.type != SOCK_DGRAM)
		return err_set(err, 0, "unix socket of unknown type %u", u->diag.type);
	if (u->file.renamed &&
	    !(unix_is_stream(u->diag.type) && u->diag.state == SOCK_STATE_ESTABLISHED))
		return err_set(err, 0,
			       "unix socket was bound to %s, and its file is %s now; a renamed "
			       "socket cannot be restored",
			       u->name, u->file.path);
	if (u->external && external_allowed(c, u, err))
		return -1;
	if (sockopt_allowed(f->own, err))
		return -1;
	if (c->preflight)
		return 0; /* the rest passes by itself while the program runs */
	if (fdinfo_u64(f->info, "scm_fds", 10, &fds) && fds > 0)
		return err_set(err, 0,
			       "unix socket has %llu descriptors in flight (SCM_RIGHTS) in its "
			       "queue; comes in a later release",
			       (unsigned long long)fds);
	if (u->error && !u->reset)
		return err_set(err, 0,
			       "unix socket %s has an error waiting (SO_ERROR), which can only be read "
			       "once; try again when the program has seen it",
			       u->name);
	if (u->listener && inflight_allowed(c, f, u, err))
		return -1;
	return u->diag.state == SOCK_STATE_LISTEN ? pending_allowed(c, u, err) : 0;
}
