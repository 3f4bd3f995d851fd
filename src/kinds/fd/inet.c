// SPDX-License-Identifier: Apache-2.0
/*
 * Internet sockets without a connection: listening and unconnected TCP, UDP
 * and UDP-Lite (connected too: that is only an address). Everything that has
 * a state at another machine, and raw and unusual protocols, is refused.
 *
 * Datagrams waiting in a queue are lost, as datagrams may be; that is logged.
 *
 * The addresses are the machine's: check() finds those that are not here, and
 * ports that somebody else has, without binding them.
 *
 * Order on restore: open() binds and sets a datagram socket's peer, link()
 * listens and sets the options. SO_REUSEADDR is on for TCP in between: old
 * connections in time-wait must not keep a listener from its port.
 */
#define LOG_MODULE "inet"
#include "base/log.h"
#include "kernel/diag.h"
#include "kinds/fd/fd.h"
#include "kinds/fd/multicast.h"
#include "kinds/kind.h"
#include "kinds/sockopt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

enum { MAX_BACKLOG = 1 << 24, ADDRESS_TEXT = INET6_ADDRSTRLEN + 32 };

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct inet_facts {
	int family, type, protocol;
	uint8_t state, shutdown;
	union address src, dst;
	uint32_t waiting, backlog; /* listening */
	bool dead;                 /* TCP: was connected and is not any more */
};

static bool inet_claims(const struct capture *c, const struct fd_facts *f)
{
	int family;

	if (!S_ISSOCK(f->st.st_mode))
		return false;
	family = sockopt_int(f->own, SOL_SOCKET, SO_DOMAIN);
	return family == AF_INET || family == AF_INET6;
}

static uint16_t port_of(const union address *a)
{
	return ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

/* "10.0.0.1:22", "[::1]:22" */
static const char *address_text(const union address *a, char text[ADDRESS_TEXT])
{
	char host[INET6_ADDRSTRLEN] = "?";
	bool v6 = a->any.sa_family == AF_INET6;

	inet_ntop(v6 ? AF_INET6 : AF_INET,
		  v6 ? (const void *)&a->v6.sin6_addr : (const void *)&a->v4.sin_addr, host,
		  sizeof(host));
	snprintf(text, ADDRESS_TEXT, v6 ? "[%s]:%u" : "%s:%u", host, port_of(a));
	return text;
}

static const char *protocol_name(int type, int protocol)
{
	static const struct {
		int type, protocol;
		const char *name;
	} names[] = {
		{SOCK_STREAM, IPPROTO_TCP, "tcp"},
		{SOCK_DGRAM, IPPROTO_UDP, "udp"},
		{SOCK_DGRAM, IPPROTO_UDPLITE, "udplite"},
		{SOCK_STREAM, IPPROTO_MPTCP, "mptcp"},
		{SOCK_DGRAM, IPPROTO_ICMP, "icmp (ping)"},
		{SOCK_DGRAM, IPPROTO_ICMPV6, "icmpv6 (ping)"},
		{SOCK_STREAM, IPPROTO_SCTP, "sctp"},
		{SOCK_SEQPACKET, IPPROTO_SCTP, "sctp"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].type == type && names[i].protocol == protocol)
			return names[i].name;
	return type == SOCK_RAW ? "raw" : "unknown internet";
}

static bool supported(int type, int protocol)
{
	return (type == SOCK_STREAM && protocol == IPPROTO_TCP) ||
	       (type == SOCK_DGRAM && (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE));
}

/* ---- capture ---- */

struct find_ino {
	uint32_t ino;
	uint8_t shutdown;
	bool has_keys;
};

static bool match_ino(const struct diag_inet *s, void *arg)
{
	struct find_ino *find = arg;

	if (s->ino != find->ino)
		return true;
	find->shutdown = s->shutdown;
	find->has_keys = s->has_keys;
	return false;
}

static int find_tcp(const struct fd_facts *f, struct inet_facts *i, struct err *err)
{
	struct pollfd p = {.fd = f->own, .events = POLLRDHUP};
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(f->own, IPPROTO_TCP, TCP_INFO, &info, &len))
		return err_sys(err, "cannot read the state of a tcp socket");
	i->state = info.tcpi_state;
	if (i->state == SOCK_STATE_LISTEN) {
		/* two fields that have another meaning here: length and limit of the accept queue */
		i->waiting = info.tcpi_unacked;
		i->backlog = info.tcpi_sacked;
	}
	if (i->state == SOCK_STATE_CLOSE && poll(&p, 1, 0) > 0)
		i->dead = p.revents & POLLRDHUP;
	return 0;
}

static int find_udp(const struct fd_facts *f, struct inet_facts *i, struct err *err)
{
	struct find_ino find = {.ino = (uint32_t)f->st.st_ino};

	i->state = port_of(&i->dst) ? SOCK_STATE_ESTABLISHED : SOCK_STATE_CLOSE;
	if (!port_of(&i->src))
		return 0;
	if (diag_inet_each(i->family, i->protocol, ~0u, port_of(&i->src), match_ino, &find, err))
		return -1;
	i->shutdown = find.shutdown;
	return 0;
}

static int find_facts(const struct fd_facts *f, struct inet_facts *i, struct err *err)
{
	socklen_t src_len = sizeof(i->src), dst_len = sizeof(i->dst);

	memset(i, 0, sizeof(*i));
	i->family = sockopt_int(f->own, SOL_SOCKET, SO_DOMAIN);
	i->type = sockopt_int(f->own, SOL_SOCKET, SO_TYPE);
	i->protocol = sockopt_int(f->own, SOL_SOCKET, SO_PROTOCOL);
	if (getsockname(f->own, &i->src.any, &src_len))
		return err_sys(err, "cannot read the address of a socket");
	if (getpeername(f->own, &i->dst.any, &dst_len)) {
		memset(&i->dst, 0, sizeof(i->dst));
		i->dst.any.sa_family = (sa_family_t)i->family;
	}
	if (!supported(i->type, i->protocol))
		return 0;
	return i->type == SOCK_STREAM ? find_tcp(f, i, err) : find_udp(f, i, err);
}

/* A socket of another network namespace than ours cannot be restored into ours. */
static int namespace_allowed(const struct fd_facts *f, struct err *err)
{
	cleanup_close int ns = ioctl(f->own, SIOCGSKNS);
	struct stat theirs, ours;

	if (ns < 0)
		return 0; /* not allowed to ask: then ours, or the engine has refused it */
	if (fstat(ns, &theirs) || stat("/proc/thread-self/ns/net", &ours))
		return err_sys(err, "cannot look at a network namespace");
	if (theirs.st_ino != ours.st_ino)
		return err_set(err, 0,
			       "the socket belongs to another network namespace; namespaces come in "
			       "a later release");
	return 0;
}

static int tcp_allowed(const struct capture *c, const struct inet_facts *i, struct err *err)
{
	static const char *const states[] = {
		[1] = "established",     [2] = "being opened", [3] = "being accepted",
		[4] = "closing",         [5] = "closing",      [6] = "in time-wait",
		[8] = "half closed",     [9] = "closing",      [11] = "closing",
		[12] = "being accepted",
	};
	char src[ADDRESS_TEXT], dst[ADDRESS_TEXT];

	if (i->state == SOCK_STATE_LISTEN) {
		if (!i->waiting || c->preflight)
			return 0;
		return err_set(err, 0,
			       "tcp listener %s has %u connections waiting that are not accepted "
			       "yet; try again when they have been",
			       address_text(&i->src, src), i->waiting);
	}
	if (i->dead)
		return err_set(err, 0,
			       "tcp socket %s had a connection, which has ended, and is still open; "
			       "comes in a later release",
			       address_text(&i->src, src));
	if (i->state == SOCK_STATE_CLOSE)
		return 0;
	return err_set(err, 0, "tcp connection %s -> %s %s: comes in a later release",
		       address_text(&i->src, src), address_text(&i->dst, dst),
		       i->state < ARRAY_SIZE(states) && states[i->state] ? states[i->state] :
									   "in an unknown state");
}

/* A protocol on top of TCP, such as encryption by the kernel, has keys that cannot be read back. */
static int ulp_allowed(const struct fd_facts *f, struct err *err)
{
	char name[16] = "";
	socklen_t len = sizeof(name) - 1;

	if (getsockopt(f->own, IPPROTO_TCP, TCP_ULP, name, &len) || !name[0])
		return 0;
	return err_set(err, 0, "tcp socket with the upper protocol %s (TCP_ULP): not supported",
		       name);
}

/* Keys of segments can be written, not read (TCP_MD5SIG). Without them strangers would get in. */
static int keys_allowed(const struct fd_facts *f, const struct inet_facts *i, struct err *err)
{
	struct find_ino find = {.ino = (uint32_t)f->st.st_ino};

	if (i->state != SOCK_STATE_LISTEN)
		return 0;
	if (diag_inet_each(i->family, i->protocol, 1u << SOCK_STATE_LISTEN, port_of(&i->src),
			   match_ino, &find, err))
		return -1;
	if (find.has_keys)
		return err_set(err, 0,
			       "tcp socket with keys of its peers (TCP_MD5SIG): not supported");
	return 0;
}

/* Data of a datagram that the program has not finished (UDP_CORK, MSG_MORE) cannot be read. */
static int unfinished_allowed(const struct capture *c, const struct fd_facts *f, struct err *err)
{
	int waiting = 0;

	if (c->preflight)
		return 0;
	/* what is on its way out through a device shows here, too, but not for long */
	for (int i = 0; i < 20; i++) {
		if (ioctl(f->own, SIOCOUTQ, &waiting) || waiting <= 0)
			return 0;
		usleep(1000);
	}
	return err_set(err, 0,
		       "datagram socket has %d bytes that are not sent, of a datagram that is not finished "
		       "(UDP_CORK, MSG_MORE)",
		       waiting);
}

static int facts_allowed(const struct capture *c, const struct fd_facts *f,
			 const struct inet_facts *i, struct err *err)
{
	char src[ADDRESS_TEXT];

	if (!supported(i->type, i->protocol))
		return err_set(err, 0, "%s socket %s (protocol %d): not supported",
			       protocol_name(i->type, i->protocol), address_text(&i->src, src),
			       i->protocol);
	if (namespace_allowed(f, err) || sockopt_allowed(f->own, err))
		return -1;
	if (i->type != SOCK_STREAM)
		return unfinished_allowed(c, f, err);
	return ulp_allowed(f, err) || keys_allowed(f, i, err) ? -1 : tcp_allowed(c, i, err);
}

static int inet_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	struct inet_facts i;

	return find_facts(f, &i, err) || facts_allowed(c, f, &i, err) ? -1 : 0;
}

static int add_address(struct capture *c, const union address *a, int family, size_t *n_out,
		       uint32_t **words_out, struct err *err)
{
	size_t n = family == AF_INET6 ? 4 : 1;
	uint32_t *words = arena_array(&c->snap->arena, uint32_t, n);

	if (!words)
		return err_nomem(err);
	if (family == AF_INET6)
		memcpy(words, &a->v6.sin6_addr, sizeof(a->v6.sin6_addr));
	else
		words[0] = a->v4.sin_addr.s_addr;
	*n_out = n;
	*words_out = words;
	return 0;
}

/* The int options of the entry's ip_opts and tcp_opts, both ways; only what is not 0 is noted. */
static const struct inet_opt {
	int family; /* 0: both */
	int level, name;
	bool tcp;   /* in tcp_opts, else in ip_opts */
	bool early; /* before bind */
	size_t has, value;
} inet_opts[] = {
#define IP_FIELD(f) offsetof(IpOptsEntry, has_##f), offsetof(IpOptsEntry, f)
#define TCP_FIELD(f) offsetof(TcpOptsEntry, has_##f), offsetof(TcpOptsEntry, f)
	{AF_INET, IPPROTO_IP, IP_FREEBIND, false, true, IP_FIELD(freebind)},
	{AF_INET6, IPPROTO_IPV6, IPV6_FREEBIND, false, true, IP_FIELD(freebind)},
	{AF_INET, IPPROTO_IP, IP_PKTINFO, false, false, IP_FIELD(pktinfo)},
	{AF_INET6, IPPROTO_IPV6, IPV6_RECVPKTINFO, false, false, IP_FIELD(pktinfo)},
	{AF_INET, IPPROTO_IP, IP_TOS, false, false, IP_FIELD(tos)},
	{AF_INET, IPPROTO_IP, IP_TTL, false, false, IP_FIELD(ttl)},
	{0, IPPROTO_TCP, TCP_CORK, true, false, TCP_FIELD(cork)},
	{0, IPPROTO_TCP, TCP_NODELAY, true, false, TCP_FIELD(nodelay)},
	{0, IPPROTO_TCP, TCP_KEEPCNT, true, false, TCP_FIELD(keepcnt)},
	{0, IPPROTO_TCP, TCP_KEEPIDLE, true, false, TCP_FIELD(keepidle)},
	{0, IPPROTO_TCP, TCP_KEEPINTVL, true, false, TCP_FIELD(keepintvl)},
};

static bool opt_applies(const struct inet_opt *o, int family, int protocol)
{
	return (!o->family || o->family == family) && (!o->tcp || protocol == IPPROTO_TCP);
}

static uint32_t *opt_field(const struct inet_opt *o, const InetSkEntry *isk, size_t offset)
{
	char *base = o->tcp ? (char *)isk->tcp_opts : (char *)isk->ip_opts;

	return base ? (uint32_t *)(base + offset) : NULL;
}

static int capture_opts(struct capture *c, const struct fd_facts *f, InetSkEntry *isk, struct err *err)
{
	isk->ip_opts = snap_new(c->snap, IpOptsEntry, ip_opts_entry);
	isk->tcp_opts = snap_new(c->snap, TcpOptsEntry, tcp_opts_entry);
	if (!isk->ip_opts || !isk->tcp_opts)
		return err_nomem(err);
	for (size_t i = 0; i < ARRAY_SIZE(inet_opts); i++) {
		const struct inet_opt *o = &inet_opts[i];
		int value;

		if (!opt_applies(o, (int)isk->family, (int)isk->proto))
			continue;
		value = sockopt_int(f->own, o->level, o->name);
		if (value <= 0)
			continue;
		*opt_field(o, isk, o->has) = true;
		*opt_field(o, isk, o->value) = (uint32_t)value;
	}
	isk->has_v6only = isk->family == AF_INET6;
	if (isk->has_v6only)
		isk->v6only = sockopt_int(f->own, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
	return sockopt_capture(c->snap, f->own, &isk->opts, err);
}

static int set_scope(struct capture *c, InetSkEntry *isk, const struct inet_facts *i, struct err *err)
{
	const InventoryEntry *inventory = c->snap->inventory;
	char name[IFNAMSIZ];

	if (isk->src_port && inventory && inventory->root_ids && inventory->root_ids->has_net_ns_id) {
		isk->has_ns_id = true;
		isk->ns_id = inventory->root_ids->net_ns_id;
	}
	if (i->family != AF_INET6 || !i->src.v6.sin6_scope_id)
		return 0;
	if (!if_indextoname(i->src.v6.sin6_scope_id, name))
		return err_sys(err, "cannot find network device %u", i->src.v6.sin6_scope_id);
	isk->ifname = arena_strdup(&c->snap->arena, name);
	return isk->ifname ? 0 : err_nomem(err);
}

/* Messages and errors of the network, which may be lost on their way, too. */
static void warn_of_queue(const struct capture *c, const struct fd_facts *f,
			  const struct inet_facts *i)
{
	struct pollfd p = {.fd = f->own, .events = POLLIN};
	char src[ADDRESS_TEXT];
	bool data, error;

	if (c->preflight || i->type != SOCK_DGRAM || poll(&p, 1, 0) <= 0)
		return;
	data = (p.revents & POLLIN) && !(i->shutdown & 1);
	error = p.revents & POLLERR;
	if (data || error)
		log_warn("fd %d of pid %d: %s in the queue of %s socket %s; they will be lost in "
			 "the restored program",
			 f->holders.v[0].fd, f->holders.v[0].pid,
			 !data ? "errors wait" :
			 error ? "datagrams and errors wait" :
				 "datagrams wait",
			 protocol_name(i->type, i->protocol), address_text(&i->src, src));
}

static int inet_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	InetSkEntry *isk = snap_new(c->snap, InetSkEntry, inet_sk_entry);
	struct inet_facts i;

	if (!fe || !isk)
		return err_nomem(err);
	if (find_facts(f, &i, err) || facts_allowed(c, f, &i, err))
		return -1;
	fe->type = FD_TYPES__INETSK;
	fe->id = isk->id = f->id;
	fe->isk = isk;
	isk->ino = (uint32_t)f->st.st_ino;
	isk->family = (uint32_t)i.family;
	isk->type = (uint32_t)i.type;
	isk->proto = (uint32_t)i.protocol;
	isk->state = i.state;
	isk->src_port = port_of(&i.src);
	isk->dst_port = port_of(&i.dst);
	isk->flags = f->flags;
	isk->backlog = i.backlog;
	isk->has_shutdown = i.shutdown != 0;
	isk->shutdown = i.shutdown;
	isk->fown = capture_fown(c, f);
	if (!isk->fown)
		return err_nomem(err);
	if (add_address(c, &i.src, i.family, &isk->n_src_addr, &isk->src_addr, err) ||
	    add_address(c, &i.dst, i.family, &isk->n_dst_addr, &isk->dst_addr, err) ||
	    capture_opts(c, f, isk, err) || set_scope(c, isk, &i, err))
		return -1;
	/* joining is for datagrams; the kernel refuses it to streams */
	if (i.type == SOCK_DGRAM && multicast_capture(c->snap, f->own, isk, err))
		return -1;
	warn_of_queue(c, f, &i);
	return capture_add_file(c, fe, err);
}

/* ---- restore: addresses ---- */

static socklen_t make_address(const InetSkEntry *isk, const uint32_t *words, uint32_t port,
			      union address *a)
{
	memset(a, 0, sizeof(*a));
	a->any.sa_family = (sa_family_t)isk->family;
	if (isk->family != AF_INET6) {
		a->v4.sin_port = htons((uint16_t)port);
		a->v4.sin_addr.s_addr = words[0];
		return sizeof(a->v4);
	}
	a->v6.sin6_port = htons((uint16_t)port);
	memcpy(&a->v6.sin6_addr, words, sizeof(a->v6.sin6_addr));
	if (isk->ifname)
		a->v6.sin6_scope_id = if_nametoindex(isk->ifname);
	return sizeof(a->v6);
}

static bool any_address(size_t n, const uint32_t *words)
{
	for (size_t i = 0; i < n; i++)
		if (words[i])
			return false;
	return true;
}

/* ---- restore: check ---- */

struct find_conflict {
	const InetSkEntry *isk;
	unsigned int device;
	uint32_t ino; /* of the socket in the way */
	bool found;
};

static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff};

/* Would both want the same packets? */
static bool overlaps(const InetSkEntry *isk, const struct diag_inet *s)
{
	const uint32_t *theirs = (const uint32_t *)&s->src;
	bool other_any, any = any_address(isk->n_src_addr, isk->src_addr);

	if ((int)isk->family == s->family) {
		other_any = any_address(isk->n_src_addr, theirs);
		return any || other_any ||
		       memcmp(isk->src_addr, theirs, isk->n_src_addr * sizeof(*theirs)) == 0;
	}
	if (isk->family == AF_INET6) {
		if (isk->v6only)
			return false;
		return any || (memcmp(isk->src_addr, v4_mapped, sizeof(v4_mapped)) == 0 &&
			       (!theirs[0] || theirs[0] == isk->src_addr[3]));
	}
	if (s->v6only)
		return false;
	return any_address(4, theirs) || (memcmp(theirs, v4_mapped, sizeof(v4_mapped)) == 0 &&
					  (any || theirs[3] == isk->src_addr[0]));
}

static bool match_conflict(const struct diag_inet *s, void *arg)
{
	struct find_conflict *find = arg;

	if ((s->ifindex && find->device && s->ifindex != find->device) || !overlaps(find->isk, s))
		return true;
	find->ino = s->ino;
	find->found = true;
	return false;
}

/* Is the port free here? With address reuse only bind itself can tell. */
static int check_port(const InetSkEntry *isk, struct err *err)
{
	static const int families[] = {AF_INET, AF_INET6};
	struct find_conflict find = {.isk = isk};
	bool tcp = isk->proto == IPPROTO_TCP;
	char text[ADDRESS_TEXT], owner[64] = "the kernel";
	union address a;

	if (isk->opts->so_reuseport || (!tcp && isk->opts->reuseaddr))
		return 0;
	if (isk->opts->so_bound_dev)
		find.device = if_nametoindex(isk->opts->so_bound_dev);
	for (size_t i = 0; i < ARRAY_SIZE(families) && !find.found; i++)
		if (diag_inet_each(families[i], (int)isk->proto, tcp ? 1u << SOCK_STATE_LISTEN : ~0u,
				   (uint16_t)isk->src_port, match_conflict, &find, err))
			return -1;
	if (!find.found)
		return 0;
	if (find.ino)
		diag_owner(find.ino, owner, sizeof(owner));
	make_address(isk, isk->src_addr, isk->src_port, &a);
	return err_set(err, EADDRINUSE, "%s port %s is in use here by %s",
		       protocol_name((int)isk->type, (int)isk->proto), address_text(&a, text), owner);
}

/* Does the address exist here? Binding it with a port of the kernel's choice takes nothing away. */
static int check_address(const InetSkEntry *isk, struct err *err)
{
	cleanup_close int probe = -1;
	char text[ADDRESS_TEXT];
	union address a;
	socklen_t len;

	if (any_address(isk->n_src_addr, isk->src_addr) || (isk->ip_opts && isk->ip_opts->freebind))
		return 0;
	probe = socket((int)isk->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (probe < 0)
		return err_sys(err, "cannot make a socket of family %u", isk->family);
	len = make_address(isk, isk->src_addr, 0, &a);
	if (!bind(probe, &a.any, len))
		return 0;
	make_address(isk, isk->src_addr, isk->src_port, &a);
	return err_sys(err, "%s socket: address %s does not exist here",
		       protocol_name((int)isk->type, (int)isk->proto), address_text(&a, text));
}

static int check_values(const InetSkEntry *isk, struct err *err)
{
	size_t words = isk->family == AF_INET6 ? 4 : 1;
	bool tcp = isk->proto == IPPROTO_TCP;

	if (isk->family != AF_INET && isk->family != AF_INET6)
		return err_set(err, EINVAL, "internet socket of family %u", isk->family);
	if (!supported((int)isk->type, (int)isk->proto))
		return err_set(err, 0, "%s socket (protocol %u): not supported",
			       protocol_name((int)isk->type, (int)isk->proto), isk->proto);
	if (isk->n_src_addr != words || isk->n_dst_addr != words || isk->src_port > 65535 ||
	    isk->dst_port > 65535 || isk->backlog > MAX_BACKLOG)
		return err_set(err, EINVAL, "internet socket with an impossible address or backlog");
	if (tcp && isk->state != SOCK_STATE_LISTEN && isk->state != SOCK_STATE_CLOSE)
		return err_set(err, 0,
			       "tcp connection (ports %u and %u): restoring connections comes in a "
			       "later release",
			       isk->src_port, isk->dst_port);
	if (tcp && isk->state == SOCK_STATE_LISTEN && !isk->src_port)
		return err_set(err, EINVAL, "tcp listener without a port");
	if (isk->ifname && !if_nametoindex(isk->ifname))
		return err_set(err, ENODEV,
			       "the socket's address belongs to network device %.15s, which does not "
			       "exist here",
			       isk->ifname);
	return multicast_check(isk, err) ? -1 : sockopt_check(isk->opts, err);
}

static int inet_check(struct restore *r, const FileEntry *fe, struct err *err)
{
	if (!fe->isk)
		return err_set(err, EINVAL, "the entry has no internet socket in it");
	if (check_values(fe->isk, err) || check_address(fe->isk, err))
		return -1;
	return fe->isk->src_port ? check_port(fe->isk, err) : 0;
}

/* ---- restore: open and link ---- */

static int set_opts(int fd, const InetSkEntry *isk, bool early_only, struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(inet_opts); i++) {
		const struct inet_opt *o = &inet_opts[i];
		const uint32_t *has = opt_field(o, isk, o->has);
		int value;

		if (!has || !*has || (early_only && !o->early) ||
		    !opt_applies(o, (int)isk->family, (int)isk->proto))
			continue;
		value = (int)*opt_field(o, isk, o->value);
		if (sockopt_int(fd, o->level, o->name) == value)
			continue;
		if (setsockopt(fd, o->level, o->name, &value, sizeof(value)))
			return err_sys(err, "cannot set option %d of level %d to %d", o->name,
				       o->level, value);
	}
	return 0;
}

static int set_int(int fd, int level, int name, int value, struct err *err)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)))
		return err_sys(err, "cannot set socket option %d of level %d", name, level);
	return 0;
}

static int bind_socket(int fd, const InetSkEntry *isk, struct err *err)
{
	char text[ADDRESS_TEXT];
	union address a;
	socklen_t len = make_address(isk, isk->src_addr, isk->src_port, &a);

	if (!isk->src_port && any_address(isk->n_src_addr, isk->src_addr))
		return 0;
	if (isk->proto == IPPROTO_TCP && set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1, err))
		return -1;
	if (bind(fd, &a.any, len))
		return err_sys(err, "cannot bind a %s socket to %s",
			       protocol_name((int)isk->type, (int)isk->proto),
			       address_text(&a, text));
	return 0;
}

static int connect_socket(int fd, const InetSkEntry *isk, struct err *err)
{
	char text[ADDRESS_TEXT];
	union address a;
	socklen_t len = make_address(isk, isk->dst_addr, isk->dst_port, &a);

	if (isk->type != SOCK_DGRAM || isk->state != SOCK_STATE_ESTABLISHED)
		return 0;
	if (connect(fd, &a.any, len))
		return err_sys(err, "cannot set the peer of a datagram socket to %s",
			       address_text(&a, text));
	return 0;
}

static int inet_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	const InetSkEntry *isk = fe->isk;
	cleanup_close int fd = socket((int)isk->family, (int)isk->type | SOCK_CLOEXEC,
				      (int)isk->proto);

	if (fd < 0)
		return err_sys(err, "cannot make a %s socket",
			       protocol_name((int)isk->type, (int)isk->proto));
	if (isk->family == AF_INET6 && isk->has_v6only &&
	    set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, isk->v6only, err))
		return -1;
	if (sockopt_restore_early(fd, isk->opts, err) || set_opts(fd, isk, true, err) ||
	    bind_socket(fd, isk, err) || connect_socket(fd, isk, err))
		return -1;
	*fd_out = steal_fd(&fd);
	return 0;
}

static int inet_link(struct restore *r, const FileEntry *fe, int fd, struct err *err)
{
	static const int how[] = {
		[SK_SHUTDOWN__READ] = SHUT_RD, [SK_SHUTDOWN__WRITE] = SHUT_WR, [SK_SHUTDOWN__BOTH] = SHUT_RDWR};
	const InetSkEntry *isk = fe->isk;

	if (isk->proto == IPPROTO_TCP && isk->state == SOCK_STATE_LISTEN &&
	    listen(fd, (int)isk->backlog))
		return err_sys(err, "cannot listen on tcp port %u", isk->src_port);
	if (set_opts(fd, isk, false, err) || multicast_restore(fd, isk, err) ||
	    sockopt_restore(fd, isk->opts, err) || sockopt_set_flags(fd, isk->flags, err))
		return -1;
	if (isk->has_shutdown && isk->shutdown > SK_SHUTDOWN__NONE &&
	    isk->shutdown <= SK_SHUTDOWN__BOTH && shutdown(fd, how[isk->shutdown]) &&
	    errno != ENOTCONN)
		return err_sys(err, "cannot shut a socket down");
	return 0;
}

static int inet_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		     struct script *s, struct err *err)
{
	emit_fown(fe->isk->fown, fe->isk->flags, place, s);
	return 0;
}

const struct fd_kind inet_kind = {
	.name = "inet",
	.type = FD_TYPES__INETSK,
	.claims = inet_claims,
	.allowed = inet_allowed,
	.capture = inet_capture,
	.check = inet_check,
	.open = inet_open,
	.link = inet_link,
	.emit = inet_emit,
};
