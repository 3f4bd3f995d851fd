// SPDX-License-Identifier: Apache-2.0
/*
 * Unix sockets.
 *
 * Theory. A connection has two ends, each an entry of its own; `peer` names
 * the other end's inode. Which calls once made the connection (socketpair, or
 * connect and accept) cannot be told and does not matter: both ends of a
 * connection inside the tree are made with socketpair and are then given their
 * names. A path name of a connected end is bound without a file (sockpath.h):
 * the file, if there is one, is the listener's. The exception is an end that
 * was accepted from an abstract listener: only the kernel can give it the
 * listener's name, so the listener accepts it again.
 *
 * States:
 *   stream, seqpacket  listening; connected (peer in the tree; peer closed: 0;
 *                      not accepted yet: peer is the listener's inode); closed
 *   dgram              with or without a name, with or without a peer, which
 *                      need not have this one for its peer
 *
 * Order on restore. open() binds, listens, makes pairs, and fills receive
 * queues: from the other end of a pair, or else from a temporary socket. Only
 * then link() connects what connects by name, and shuts down: a datagram
 * socket with a peer takes messages from nobody else, and one that was shut
 * down takes none.
 *
 * The contents of queues: unixqueue.c.
 */
#define LOG_MODULE "unix"
#include "base/log.h"
#include "kernel/diag.h"
#include "kinds/broker.h"
#include "kinds/fd/fd.h"
#include "kinds/fd/unixfacts.h"
#include "kinds/fd/unixqueue.h"
#include "kinds/kind.h"
#include "kinds/sockopt.h"
#include "kinds/sockpath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum unix_uflags {
	USK_EXTERNAL = 1, /* a socket outside the tree that one of it is connected to */
	USK_SERVICE = 2,  /* was connected to the CRIU service */
	USK_INHERITED = 8,
};

enum { MAX_DGRAM_CHAIN = 64, MAX_BACKLOG = 1 << 24 };

static bool unix_claims(const struct capture *c, const struct fd_facts *f)
{
	return S_ISSOCK(f->st.st_mode) && sockopt_int(f->own, SOL_SOCKET, SO_DOMAIN) == AF_UNIX;
}

/* ---- capture ---- */

static int unix_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	struct unix_facts u;
	int ret;

	if (unixfacts_find(c, f, &u, err))
		return -1;
	ret = unixfacts_allowed(c, f, &u, err);
	diag_unix_finish(&u.diag);
	return ret;
}

static void set_ns(const struct capture *c, UnixSkEntry *usk)
{
	const InventoryEntry *inventory = c->snap->inventory;

	if (!inventory || !inventory->root_ids || !inventory->root_ids->has_net_ns_id)
		return;
	usk->has_ns_id = true;
	usk->ns_id = inventory->root_ids->net_ns_id;
}

static int set_name(struct capture *c, UnixSkEntry *usk, const struct unix_facts *u, struct err *err)
{
	usk->name.len = u->diag.name_bytes;
	usk->name.data = arena_dup(&c->snap->arena, u->diag.name, u->diag.name_bytes);
	if (usk->name.len && !usk->name.data)
		return err_nomem(err);
	if (!u->file.path)
		return 0;
	usk->file_perms = snap_new(c->snap, FilePermsEntry, file_perms_entry);
	if (!usk->file_perms)
		return err_nomem(err);
	usk->file_perms->mode = u->file.st.st_mode;
	usk->file_perms->uid = u->file.st.st_uid;
	usk->file_perms->gid = u->file.st.st_gid;
	usk->name_dir = u->file.dir;
	usk->has_deleted = usk->deleted = u->file.deleted || u->file.renamed;
	return 0;
}

static FileEntry *new_entry(struct capture *c, uint32_t id)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	UnixSkEntry *usk = snap_new(c->snap, UnixSkEntry, unix_sk_entry);

	if (!fe || !usk)
		return NULL;
	fe->type = FD_TYPES__UNIXSK;
	fe->id = usk->id = id;
	fe->usk = usk;
	set_ns(c, usk);
	return fe;
}

/* The other end of a datagram socket connected to somebody outside, as CRIU notes it: once per peer. */
static int add_external(struct capture *c, const struct unix_facts *u, struct err *err)
{
	struct unix_facts peer = {0};
	FileEntry *fe;
	int found;

	vec_foreach (it, &c->snap->files)
		if ((*it)->usk && (*it)->usk->ino == u->diag.peer)
			return 0;
	found = diag_unix_one(u->diag.peer, &peer.diag, err);
	if (found < 0)
		return -1;
	if (!found)
		return err_set(err, 0, "the socket at the other end (%s) has gone", u->peer_name);
	fe = new_entry(c, capture_next_file_id(c));
	if (!fe)
		return err_nomem(err);
	fe->usk->ino = peer.diag.ino;
	fe->usk->type = SOCK_DGRAM;
	fe->usk->state = SOCK_STATE_LISTEN;
	fe->usk->uflags = USK_EXTERNAL;
	fe->usk->fown = snap_new(c->snap, FownEntry, fown_entry);
	fe->usk->opts = snap_new(c->snap, SkOptsEntry, sk_opts_entry);
	if (!fe->usk->fown || !fe->usk->opts || set_name(c, fe->usk, &peer, err))
		return err_nomem(err);
	return capture_add_file(c, fe, err);
}

static int capture_facts(struct capture *c, struct fd_facts *f, const struct unix_facts *u,
			 struct err *err)
{
	FileEntry *fe = new_entry(c, f->id);
	UnixSkEntry *usk = fe ? fe->usk : NULL;

	if (!fe)
		return err_nomem(err);
	usk->ino = u->diag.ino;
	usk->type = u->diag.type;
	/* the kernel calls a datagram socket established when another one has connected to it */
	usk->state = unix_is_stream(u->diag.type) || u->diag.has_peer ? u->diag.state :
									SOCK_STATE_CLOSE;
	usk->flags = f->flags;
	usk->uflags = u->inherited ? USK_INHERITED : 0;
	usk->backlog = u->diag.backlog;
	usk->peer = u->listener ? u->listener : u->diag.peer;
	usk->has_shutdown = u->diag.shutdown != 0;
	usk->shutdown = u->diag.shutdown;
	usk->has_ferry_reset = usk->ferry_reset = u->reset;
	usk->fown = capture_fown(c, f);
	if (!usk->fown)
		return err_nomem(err);
	if (sockopt_capture(c->snap, f->own, &usk->opts, err) || set_name(c, usk, u, err) ||
	    (u->external && !c->preflight && add_external(c, u, err)) || capture_add_file(c, fe, err))
		return -1;
	if (c->preflight || u->inherited)
		return 0;
	if (u->diag.state == SOCK_STATE_LISTEN)
		return 0;
	return unixqueue_capture(c, f, u->diag.type, err);
}

/*
 * CRIU's reader wants the socket that others connect to before those others. It
 * is captured first, as far as chains of datagram sockets are of a sane length.
 */
static int capture_at_depth(struct capture *c, struct fd_facts *f, int depth, struct err *err)
{
	struct fd_facts *before;
	struct unix_facts u;
	int ret;

	if (f->kept == c->snap)
		return 0;
	if (unixfacts_find(c, f, &u, err))
		return -1;
	before = u.listener ? capture_fd_by_inode(c, &unix_kind, u.listener) :
		 u.mutual   ? NULL :
			      u.peer;
	/* what passes by itself was let pass by the look at the running tree */
	ret = unixfacts_allowed(c, f, &u, err);
	if (!ret && before && before != f && depth < MAX_DGRAM_CHAIN)
		ret = capture_at_depth(c, before, depth + 1, err);
	if (!ret)
		ret = capture_facts(c, f, &u, err);
	diag_unix_finish(&u.diag);
	if (!ret)
		f->kept = c->snap; /* done */
	return ret;
}

static int unix_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	return capture_at_depth(c, f, 0, err);
}

/* ---- restore: whom belongs to whom ---- */

static const UnixSkEntry *entry_by_ino(const struct restore *r, uint32_t ino)
{
	if (!ino)
		return NULL;
	vec_foreach (it, &r->snap->files) {
		if ((*it)->usk && (*it)->usk->ino == ino)
			return (*it)->usk;
	}
	return NULL;
}

static bool same_name(const UnixSkEntry *a, const UnixSkEntry *b)
{
	return a->name.len == b->name.len && memcmp(a->name.data, b->name.data, a->name.len) == 0;
}

static bool has_path(const UnixSkEntry *u)
{
	return sockpath_is_path(u->name.data, u->name.len);
}

/* The end that @u must be made together with, or NULL. */
static const UnixSkEntry *pair_of(const struct restore *r, const UnixSkEntry *u)
{
	const UnixSkEntry *peer = entry_by_ino(r, u->peer);

	if (!peer || peer == u || (peer->uflags & USK_EXTERNAL) || peer->type != u->type)
		return NULL;
	if (unix_is_stream((int)u->type))
		return u->state == SOCK_STATE_ESTABLISHED && peer->peer == u->ino ? peer : NULL;
	/* a datagram socket without a name can only have been reached through socketpair */
	return peer->peer == u->ino || !peer->name.len ? peer : NULL;
}

/* The abstract listener that a connected end got its name from. */
static const UnixSkEntry *listener_of(const struct restore *r, const UnixSkEntry *u)
{
	if (!u->name.len || has_path(u) || !unix_is_stream((int)u->type))
		return NULL;
	vec_foreach (it, &r->snap->files) {
		const UnixSkEntry *l = (*it)->usk;

		if (l && l->state == SOCK_STATE_LISTEN && l->type == u->type && same_name(l, u))
			return l;
	}
	return NULL;
}

/* A name below another root is kept as an absolute name with a directory. */
static struct sockpath_place place_of(const struct restore *r, const UnixSkEntry *u)
{
	struct sockpath_place place = {.root = r->opt->root};

	if (has_path(u) && u->name.data[0] == '/' && u->name_dir && !r->opt->root)
		place.root = u->name_dir;
	else
		place.dir = u->name_dir;
	if (u->file_perms) {
		place.perms = true;
		place.mode = u->file_perms->mode;
		place.uid = u->file_perms->uid;
		place.gid = u->file_perms->gid;
	}
	return place;
}

/* Does this socket own its name, so that nobody else may have it? */
static bool owns_name(const UnixSkEntry *u)
{
	return u->name.len && !(u->has_deleted && u->deleted) &&
	       !(unix_is_stream((int)u->type) && u->state == SOCK_STATE_ESTABLISHED);
}

/* ---- restore: check ---- */

static int check_values(const UnixSkEntry *u, struct err *err)
{
	if (!unix_is_stream((int)u->type) && u->type != SOCK_DGRAM)
		return err_set(err, EINVAL, "unix socket of unknown type %u", u->type);
	if (u->state != SOCK_STATE_ESTABLISHED && u->state != SOCK_STATE_CLOSE &&
	    u->state != SOCK_STATE_LISTEN)
		return err_set(err, EINVAL, "unix socket in unknown state %u", u->state);
	if (u->state == SOCK_STATE_LISTEN &&
	    (!unix_is_stream((int)u->type) || u->backlog > MAX_BACKLOG))
		return err_set(err, EINVAL, "unix socket with an impossible listen queue");
	if (u->name.len > DIAG_UNIX_NAME_MAX)
		return err_set(err, EINVAL, "unix socket with a name of %zu bytes", u->name.len);
	if (u->state == SOCK_STATE_LISTEN && !u->name.len)
		return err_set(err, EINVAL, "listening unix socket without a name");
	if (u->uflags & USK_SERVICE)
		return err_set(err, 0, "unix socket was connected to the CRIU service");
	return sockopt_check(u->opts, err);
}

static int check_peer(struct restore *r, const UnixSkEntry *u, struct err *err)
{
	const UnixSkEntry *peer = entry_by_ino(r, u->peer);
	char text[128];

	if (!u->peer)
		return 0;
	if (!peer)
		return err_set(err, EINVAL, "unix socket's peer %u is not in the images", u->peer);
	if (!(peer->uflags & USK_EXTERNAL)) {
		if (pair_of(r, u) || peer->name.len)
			return 0;
		return err_set(err, EINVAL, "unix socket's peer %u cannot be reached", u->peer);
	}
	if (!r->opt->ext_unix_sk)
		return err_set(err, 0,
			       "unix socket sends to %s, outside the tree; --ext-unix-sk connects "
			       "it to whatever has that name here",
			       sockpath_text(peer->name.data, peer->name.len, text, sizeof(text)));
	return 0;
}

static int inherit_fd(struct restore *r, const UnixSkEntry *u)
{
	char key[32];
	int fd;

	snprintf(key, sizeof(key), "unix:[%u]", u->ino);
	fd = kind_inherited(r->opt, key);
	if (fd >= 0)
		return fd;
	snprintf(key, sizeof(key), "socket:[%u]", u->ino);
	return kind_inherited(r->opt, key);
}

static int unix_check(struct restore *r, const FileEntry *fe, struct err *err)
{
	const UnixSkEntry *u = fe->usk;
	struct sockpath_place place;

	if (!u)
		return err_set(err, EINVAL, "the entry has no unix socket in it");
	if (inherit_fd(r, u) >= 0 || (u->uflags & USK_EXTERNAL))
		return 0;
	if (u->uflags & USK_INHERITED)
		return err_set(err, 0,
			       "unix socket %u was left out of the images; --inherit-fd "
			       "fd[N]:unix[%u] gives one for it",
			       u->ino, u->ino);
	if (check_values(u, err) || check_peer(r, u, err))
		return -1;
	place = place_of(r, u);
	return owns_name(u) ? sockpath_check(u->name.data, u->name.len, &place, err) : 0;
}

/* ---- restore: open ---- */

static int new_socket(const UnixSkEntry *u, struct err *err)
{
	int fd = socket(AF_UNIX, (int)u->type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err_sys(err, "cannot make a unix socket");
	return fd;
}

static int bind_name(struct restore *r, const UnixSkEntry *u, int fd, struct err *err)
{
	struct sockpath_place place = place_of(r, u);
	char text[128];

	if (!u->name.len)
		return 0;
	if (owns_name(u))
		return sockpath_bind(fd, u->name.data, u->name.len, &place, err);
	if (has_path(u))
		return sockpath_bind_hidden(fd, u->name.data, u->name.len, err);
	if (!sockpath_bind(fd, u->name.data, u->name.len, &place, err))
		return 0;
	/* of a connected end the name is only decoration: nobody can connect to it */
	log_warn("unix socket %u: its name %s is in use here and is left out", u->ino,
		 sockpath_text(u->name.data, u->name.len, text, sizeof(text)));
	return 0;
}

/* Lets the listener accept @client's connection; strangers that come in between are turned away. */
static int accept_ours(int listener, int *out, struct err *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	for (;;) {
		cleanup_close int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return err_sys(err, "cannot accept a unix connection again");
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) || peer.pid != getpid()) {
			log_warn("a connection came in while a listening unix socket was restored: "
				 "closed");
			continue;
		}
		*out = steal_fd(&fd);
		return 0;
	}
}

/* ---- calls that leave the caller's ids in a socket (sockids.h) ---- */

struct make_call {
	int type, fd, other;
	int backlog;
	int fds[2];
	struct err *err;
};

static int call_socketpair(void *arg)
{
	struct make_call *call = arg;

	return socketpair(AF_UNIX, call->type | SOCK_CLOEXEC, 0, call->fds);
}

static int call_connect(void *arg)
{
	struct make_call *call = arg;

	return sockpath_connect(call->fd, call->other, call->err);
}

static int call_listen(void *arg)
{
	struct make_call *call = arg;

	return listen(call->fd, call->backlog);
}

/* Both ends of a pair show the same ids. If they were made by two users, neither end shows root. */
static struct sock_ids pair_ids(const UnixSkEntry *a, const UnixSkEntry *b)
{
	struct sock_ids ids = sockopt_peer_ids(a->opts), other;

	other = b ? sockopt_peer_ids(b->opts) : ids;
	if (ids.uid == other.uid && ids.gid == other.gid)
		return ids;
	log_warn("unix sockets %u and %u were connected by different users: SO_PEERCRED shows user %u "
		 "at both ends now",
		 a->ino, b->ino, ids.uid ? ids.uid : other.uid);
	return ids.uid ? ids : other;
}

/* A connection whose end @fds[0] was accepted by @listener. */
static int pair_by_listener(struct restore *r, const UnixSkEntry *listener,
			    const UnixSkEntry *accepted, int fds[2], struct err *err)
{
	int listener_fd = broker_fd(r, listener->id, err);
	struct sock_ids ids = sockopt_peer_ids(accepted->opts);
	struct make_call call = {.other = listener_fd, .err = err};
	cleanup_close int client = -1;

	if (listener_fd < 0)
		return -1;
	client = call.fd = new_socket(listener, err);
	if (client < 0)
		return -1;
	err->no = 0;
	if (sockids_run(&ids, call_connect, &call))
		return err->no ? -1 : err_sys(err, "cannot connect to a unix socket");
	if (accept_ours(listener_fd, &fds[0], err))
		return -1;
	fds[1] = steal_fd(&client);
	return 0;
}

static int make_pair(struct restore *r, const UnixSkEntry *a, const UnixSkEntry *b, int fds[2],
		     struct err *err)
{
	const UnixSkEntry *listener = listener_of(r, a);
	struct make_call call = {0};
	int other[2] = {-1, -1};
	struct sock_ids ids;

	if (listener)
		return pair_by_listener(r, listener, a, fds, err);
	listener = b ? listener_of(r, b) : NULL;
	if (listener) {
		if (pair_by_listener(r, listener, b, other, err))
			return -1;
		fds[0] = other[1];
		fds[1] = other[0];
		return 0;
	}
	ids = pair_ids(a, b);
	call.type = (int)a->type;
	if (sockids_run(&ids, call_socketpair, &call))
		return err_sys(err, "cannot make a pair of unix sockets");
	fds[0] = call.fds[0];
	fds[1] = call.fds[1];
	return 0;
}

/*
 * Datagram socket @b once was in a pair with @a and has turned to somebody else
 * (or nobody). Leaving a peer empties the queue, so this comes before filling.
 */
static int leave_peer(const UnixSkEntry *a, const UnixSkEntry *b, int fd, struct err *err)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	if (!b || b->peer == a->ino)
		return 0;
	if (connect(fd, &none, sizeof(none)))
		return err_sys(err, "cannot disconnect a datagram unix socket");
	return 0;
}

/* Names both ends, where accepting has not done it, and fills both queues. */
static int finish_pair(struct restore *r, const UnixSkEntry *a, const UnixSkEntry *b,
		       const int fds[2], struct err *err)
{
	if (!listener_of(r, a) && bind_name(r, a, fds[0], err))
		return -1;
	if (b && !listener_of(r, b) && bind_name(r, b, fds[1], err))
		return -1;
	if (unixqueue_fill(r, a->id, fds[1], -1, err) || leave_peer(a, b, fds[1], err))
		return -1;
	return b ? unixqueue_fill(r, b->id, fds[0], -1, err) : 0;
}

/* @b is NULL for a connection whose other end is closed: what it sent is in the queue. */
static int open_pair(struct restore *r, const UnixSkEntry *a, const UnixSkEntry *b, int *fd_out,
		     struct err *err)
{
	int fds[2] = {-1, -1};
	int ret = make_pair(r, a, b, fds, err);

	if (ret)
		return -1;
	ret = finish_pair(r, a, b, fds, err);
	/* to close an end with something unread resets the other */
	if (!ret && !b && a->ferry_reset && send(fds[0], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		ret = err_sys(err, "cannot reset a unix connection");
	if (ret || !b)
		close(fds[1]);
	else
		ret = broker_give(r, b->id, fds[1], err);
	if (ret) {
		close(fds[0]);
		return -1;
	}
	*fd_out = fds[0];
	return 0;
}

static int open_single(struct restore *r, const UnixSkEntry *u, int *fd_out, struct err *err)
{
	cleanup_close int fd = new_socket(u, err), sender = -1;
	struct sock_ids ids = sockopt_peer_ids(u->opts);
	struct make_call call;

	if (fd < 0 || sockopt_restore_early(fd, u->opts, err) || bind_name(r, u, fd, err))
		return -1;
	call = (struct make_call){.fd = fd, .backlog = (int)u->backlog};
	if (u->state == SOCK_STATE_LISTEN && sockids_run(&ids, call_listen, &call))
		return err_sys(err, "cannot listen on a unix socket");
	if (u->type == SOCK_DGRAM && unixqueue_count(r, u->id)) {
		sender = new_socket(u, err);
		if (sender < 0 || sockpath_connect(sender, fd, err) ||
		    unixqueue_fill(r, u->id, sender, fd, err))
			return -1;
	}
	*fd_out = steal_fd(&fd);
	return 0;
}

/*
 * An end whose peer was closed. A datagram socket in this state that has a name
 * may as well be one that others have connected to.
 */
static bool peer_is_closed(const UnixSkEntry *u)
{
	return u->state == SOCK_STATE_ESTABLISHED && !u->peer &&
	       (unix_is_stream((int)u->type) || !u->name.len);
}

static int unix_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	const UnixSkEntry *u = fe->usk, *pair = pair_of(r, u);
	int inherited = inherit_fd(r, u);

	if (inherited >= 0) {
		*fd_out = fcntl(inherited, F_DUPFD_CLOEXEC, 0);
		return *fd_out < 0 ?
			       err_sys(err, "cannot use the inherited descriptor %d", inherited) :
			       0;
	}
	if (pair && !broker_has(r, pair->id))
		return open_pair(r, u, pair, fd_out, err);
	if (peer_is_closed(u))
		return open_pair(r, u, NULL, fd_out, err);
	return open_single(r, u, fd_out, err);
}

/* ---- restore: link ---- */

static bool is_connected(int fd)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);

	return !getpeername(fd, (struct sockaddr *)&addr, &len);
}

static int connect_external(struct restore *r, const UnixSkEntry *u, const UnixSkEntry *peer,
			    int fd, struct err *err)
{
	struct sockpath_place place = place_of(r, peer);

	return sockpath_connect_name(fd, peer->name.data, peer->name.len, &place, err);
}

/*
 * Connects a socket to its peer by name. Whoever sends to @u connects first:
 * once @u has a peer, it accepts no others.
 */
static int connect_peer(struct restore *r, const UnixSkEntry *u, int depth, struct err *err)
{
	const UnixSkEntry *peer = entry_by_ino(r, u->peer);
	int fd = broker_fd(r, u->id, err), peer_fd;

	if (fd < 0)
		return -1;
	if (depth > MAX_DGRAM_CHAIN)
		return err_set(err, ELOOP, "datagram sockets connected in a ring");
	if (u->type == SOCK_DGRAM) {
		vec_foreach (it, &r->snap->files) {
			const UnixSkEntry *from = (*it)->usk;

			if (from && from != u && from->peer == u->ino && from->type == SOCK_DGRAM &&
			    from->ino != u->peer && !pair_of(r, from) &&
			    connect_peer(r, from, depth + 1, err))
				return -1;
		}
	}
	if (is_connected(fd))
		return 0;
	/* a listener whose queue is full must not hold us up; link() sets the flags right */
	if (fcntl(fd, F_SETFL, O_NONBLOCK))
		return err_sys(err, "cannot set file flags");
	if (peer->uflags & USK_EXTERNAL)
		return connect_external(r, u, peer, fd, err);
	peer_fd = broker_fd(r, peer->id, err);
	return peer_fd < 0 ? -1 : sockpath_connect(fd, peer_fd, err);
}

static int unix_link(struct restore *r, const FileEntry *fe, int fd, struct err *err)
{
	const UnixSkEntry *u = fe->usk;
	static const int how[] = {
		[SK_SHUTDOWN__READ] = SHUT_RD, [SK_SHUTDOWN__WRITE] = SHUT_WR, [SK_SHUTDOWN__BOTH] = SHUT_RDWR};

	if (inherit_fd(r, u) >= 0)
		return 0;
	if (u->peer && !pair_of(r, u) && connect_peer(r, u, 0, err))
		return -1;
	if (sockopt_restore_early(fd, u->opts, err) || sockopt_restore(fd, u->opts, err) ||
	    sockopt_set_flags(fd, u->flags, err))
		return -1;
	if (u->has_shutdown && u->shutdown > SK_SHUTDOWN__NONE &&
	    u->shutdown <= SK_SHUTDOWN__BOTH && shutdown(fd, how[u->shutdown]) && errno != ENOTCONN)
		return err_sys(err, "cannot shut a unix socket down");
	return 0;
}

static int unix_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		     struct script *s, struct err *err)
{
	emit_fown(fe->usk->fown, fe->usk->flags, place, s);
	return 0;
}

const struct fd_kind unix_kind = {
	.name = "unix",
	.type = FD_TYPES__UNIXSK,
	.claims = unix_claims,
	.allowed = unix_allowed,
	.capture = unix_capture,
	.check = unix_check,
	.open = unix_open,
	.link = unix_link,
	.emit = unix_emit,
};
