// SPDX-License-Identifier: Apache-2.0
/*
 * One table row per option that fits in an int serves both directions. An
 * option is only set where the new socket's value differs: not every family
 * accepts every option, even at its default.
 *
 * CRIU's entry has no room for many options that programs do set (deferred
 * accept, congestion control, traffic class, ...). Those whose value differs
 * from a fresh socket's go into `extra`, a field of ours that CRIU skips.
 */
#define LOG_MODULE "sockopt"
#include "kinds/sockopt.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

enum {
	MAX_FILTER = 4096, /* BPF_MAXINSNS */
	MAX_EXTRA_BYTES = 256,
};

/* ---- options that are an int and have a field ---- */

struct int_opt {
	int name;
	size_t has, value; /* offsets in SkOptsEntry */
	bool early;        /* bind(2) depends on it */
	bool nonzero;      /* noted only when set */
};

#define FIELD(field) offsetof(SkOptsEntry, has_##field), offsetof(SkOptsEntry, field)

static const struct int_opt int_opts[] = {
	{SO_REUSEADDR, FIELD(reuseaddr), .early = true},
	{SO_REUSEPORT, FIELD(so_reuseport), .early = true},
	{SO_MARK, FIELD(so_mark), .early = true, .nonzero = true},
	{SO_PRIORITY, FIELD(so_priority)},
	{SO_RCVLOWAT, FIELD(so_rcvlowat)},
	{SO_PASSCRED, FIELD(so_passcred)},
	{SO_PASSSEC, FIELD(so_passsec)},
	{SO_DONTROUTE, FIELD(so_dontroute)},
	{SO_NO_CHECK, FIELD(so_no_check)},
	{SO_BROADCAST, FIELD(so_broadcast)},
	{SO_KEEPALIVE, FIELD(so_keepalive)},
	{SO_OOBINLINE, FIELD(so_oobinline)},
	{SO_BUF_LOCK, FIELD(so_buf_lock)}, /* after the buffer sizes: setting those locks them */
};

static uint32_t *field_at(const SkOptsEntry *opts, size_t offset)
{
	return (uint32_t *)((char *)opts + offset);
}

int sockopt_int(int fd, int level, int name)
{
	socklen_t len = sizeof(int);
	int value = 0;

	return getsockopt(fd, level, name, &value, &len) ? -1 : value;
}

static void capture_ints(int fd, SkOptsEntry *opts)
{
	for (size_t i = 0; i < ARRAY_SIZE(int_opts); i++) {
		const struct int_opt *o = &int_opts[i];
		socklen_t len = sizeof(int);
		int value = 0;

		if (getsockopt(fd, SOL_SOCKET, o->name, &value, &len) || (o->nonzero && !value))
			continue;
		*field_at(opts, o->has) = true;
		*field_at(opts, o->value) = (uint32_t)value;
	}
}

static int restore_ints(int fd, const SkOptsEntry *opts, bool early_only, struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(int_opts); i++) {
		const struct int_opt *o = &int_opts[i];
		int value = (int)*field_at(opts, o->value);

		if (!*field_at(opts, o->has) || (early_only && !o->early) ||
		    sockopt_int(fd, SOL_SOCKET, o->name) == value)
			continue;
		if (setsockopt(fd, SOL_SOCKET, o->name, &value, sizeof(value)))
			return err_sys(err, "cannot set socket option %d to %d", o->name, value);
	}
	return 0;
}

/* ---- options without a field ---- */

static const struct extra_opt {
	int level, name;
	bool late; /* it forbids what comes before it */
} extra_opts[] = {
	/* asm-generic/socket.h */
	{SOL_SOCKET, SO_TIMESTAMP},
	{SOL_SOCKET, SO_TIMESTAMPNS},
	{SOL_SOCKET, SO_TIMESTAMPING},
	{SOL_SOCKET, 63 /* SO_TIMESTAMP_NEW: the same with times of 64 bits, after the old ones */},
	{SOL_SOCKET, 64 /* SO_TIMESTAMPNS_NEW */},
	{SOL_SOCKET, 65 /* SO_TIMESTAMPING_NEW */},
	{SOL_SOCKET, SO_RXQ_OVFL},
	{SOL_SOCKET, SO_DEBUG},
	{SOL_SOCKET, SO_WIFI_STATUS},
	{SOL_SOCKET, SO_NOFCS},
	{SOL_SOCKET, SO_SELECT_ERR_QUEUE},
	{SOL_SOCKET, SO_LOCK_FILTER, .late = true},
	{SOL_SOCKET, SO_INCOMING_CPU},
	{SOL_SOCKET, 61 /* SO_TXTIME */},
	{SOL_SOCKET, 69 /* SO_PREFER_BUSY_POLL */},
	{SOL_SOCKET, 74 /* SO_TXREHASH */},
	{SOL_SOCKET, 75 /* SO_RCVMARK */},
	{SOL_SOCKET, 82 /* SO_RCVPRIORITY */},
	{SOL_SOCKET, SO_PEEK_OFF},
	{SOL_SOCKET, SO_BUSY_POLL},
	{SOL_SOCKET, SO_MAX_PACING_RATE},
	{SOL_SOCKET, SO_ZEROCOPY},
	{SOL_SOCKET, 76 /* SO_PASSPIDFD, 6.5 */},
	/* linux/in.h */
	{IPPROTO_IP, IP_TOS}, /* of IPv6 sockets, for their IPv4 packets */
	{IPPROTO_IP, IP_TTL},
	{IPPROTO_IP, IP_MTU_DISCOVER},
	{IPPROTO_IP, IP_RECVERR},
	{IPPROTO_IP, IP_RECVTTL},
	{IPPROTO_IP, IP_RECVTOS},
	{IPPROTO_IP, IP_RECVOPTS},
	{IPPROTO_IP, IP_TRANSPARENT},
	{IPPROTO_IP, IP_RECVORIGDSTADDR},
	{IPPROTO_IP, IP_MINTTL},
	{IPPROTO_IP, IP_CHECKSUM},
	{IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
	{IPPROTO_IP, 25 /* IP_RECVFRAGSIZE */},
	{IPPROTO_IP, 26 /* IP_RECVERR_RFC4884 */},
	{IPPROTO_IP, IP_OPTIONS},
	{IPPROTO_IP, 18 /* IP_PASSSEC */},
	{IPPROTO_IP, IP_MULTICAST_IF},
	{IPPROTO_IP, IP_MULTICAST_TTL},
	{IPPROTO_IP, IP_MULTICAST_LOOP},
	{IPPROTO_IP, IP_MULTICAST_ALL},
	{IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE, 6.3 */},
	/* linux/in6.h */
	{IPPROTO_IPV6, IPV6_UNICAST_HOPS},
	{IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
	{IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
	{IPPROTO_IPV6, IPV6_MTU_DISCOVER},
	{IPPROTO_IPV6, IPV6_RECVERR},
	{IPPROTO_IPV6, 29 /* IPV6_MULTICAST_ALL */},
	{IPPROTO_IPV6, IPV6_RECVHOPLIMIT},
	{IPPROTO_IPV6, IPV6_RECVTCLASS},
	{IPPROTO_IPV6, IPV6_TCLASS},
	{IPPROTO_IPV6, IPV6_DONTFRAG},
	{IPPROTO_IPV6, IPV6_ADDR_PREFERENCES},
	{IPPROTO_IPV6, 33 /* IPV6_FLOWINFO_SEND */},
	{IPPROTO_IPV6, 70 /* IPV6_AUTOFLOWLABEL */},
	{IPPROTO_IPV6, 31 /* IPV6_RECVERR_RFC4884 */},
	{IPPROTO_IPV6, 77 /* IPV6_RECVFRAGSIZE */},
	{IPPROTO_IPV6, IPV6_RECVPATHMTU},
	{IPPROTO_IPV6, IPV6_RECVHOPOPTS},
	{IPPROTO_IPV6, IPV6_RECVDSTOPTS},
	{IPPROTO_IPV6, IPV6_RECVRTHDR},
	{IPPROTO_IPV6, 11 /* IPV6_FLOWINFO */},
	{IPPROTO_IPV6, IPV6_HOPOPTS},
	{IPPROTO_IPV6, IPV6_DSTOPTS},
	{IPPROTO_IPV6, IPV6_RTHDR},
	{IPPROTO_IPV6, IPV6_RTHDRDSTOPTS},
	{IPPROTO_IPV6, IPV6_MINHOPCOUNT},
	{IPPROTO_IPV6, IPV6_RECVORIGDSTADDR},
	{IPPROTO_IPV6, IPV6_TRANSPARENT},
	/* linux/tcp.h */
	{IPPROTO_TCP, 2 /* TCP_MAXSEG */},
	{IPPROTO_TCP, 7 /* TCP_SYNCNT */},
	{IPPROTO_TCP, 8 /* TCP_LINGER2 */},
	{IPPROTO_TCP, 9 /* TCP_DEFER_ACCEPT */},
	{IPPROTO_TCP, 10 /* TCP_WINDOW_CLAMP */},
	{IPPROTO_TCP, 13 /* TCP_CONGESTION */},
	{IPPROTO_TCP, 16 /* TCP_THIN_LINEAR_TIMEOUTS */},
	{IPPROTO_TCP, 18 /* TCP_USER_TIMEOUT */},
	{IPPROTO_TCP, 23 /* TCP_FASTOPEN */},
	{IPPROTO_TCP, 25 /* TCP_NOTSENT_LOWAT */},
	{IPPROTO_TCP, 27 /* TCP_SAVE_SYN */},
	{IPPROTO_TCP, 30 /* TCP_FASTOPEN_CONNECT */},
	{IPPROTO_TCP, 34 /* TCP_FASTOPEN_NO_COOKIE */},
	{IPPROTO_TCP, 36 /* TCP_INQ */},
	{IPPROTO_TCP, 37 /* TCP_TX_DELAY */},
	/* linux/udp.h, net/udplite.h */
	{IPPROTO_UDP, 1 /* UDP_CORK */},
	{IPPROTO_UDP, 100 /* UDP_ENCAP */},
	{IPPROTO_UDP, 101 /* UDP_NO_CHECK6_TX */},
	{IPPROTO_UDP, 102 /* UDP_NO_CHECK6_RX */},
	{IPPROTO_UDP, 103 /* UDP_SEGMENT */},
	{IPPROTO_UDP, 104 /* UDP_GRO */},
	{IPPROTO_UDPLITE, 10 /* UDPLITE_SEND_CSCOV */},
	{IPPROTO_UDPLITE, 11 /* UDPLITE_RECV_CSCOV */},
};

/* Does the family or protocol of @fd have options of this level? Some levels answer for others. */
static bool level_fits(int fd, int level)
{
	int domain = sockopt_int(fd, SOL_SOCKET, SO_DOMAIN);

	if (level == SOL_SOCKET)
		return true;
	if (level == IPPROTO_IP)
		return domain == AF_INET || domain == AF_INET6;
	if (level == IPPROTO_IPV6)
		return domain == AF_INET6;
	return (domain == AF_INET || domain == AF_INET6) &&
	       sockopt_int(fd, SOL_SOCKET, SO_PROTOCOL) == level;
}

static int add_extra(struct snapshot *snap, SkOptsEntry *opts, const struct extra_opt *o,
		     const void *value, size_t bytes, struct err *err)
{
	SkExtraOpt *extra = snap_new(snap, SkExtraOpt, sk_extra_opt);
	SkExtraOpt **list = arena_array(&snap->arena, SkExtraOpt *, opts->n_extra + 1);

	if (!extra || !list)
		return err_nomem(err);
	extra->level = (uint32_t)o->level;
	extra->name = (uint32_t)o->name;
	extra->value.data = arena_dup(&snap->arena, value, bytes);
	extra->value.len = bytes;
	if (!extra->value.data)
		return err_nomem(err);
	if (opts->n_extra)
		memcpy(list, opts->extra, opts->n_extra * sizeof(*list));
	list[opts->n_extra++] = extra;
	opts->extra = list;
	return 0;
}

static int capture_extra(struct snapshot *snap, int fd, SkOptsEntry *opts, struct err *err)
{
	cleanup_close int fresh = socket(sockopt_int(fd, SOL_SOCKET, SO_DOMAIN),
					 sockopt_int(fd, SOL_SOCKET, SO_TYPE) | SOCK_CLOEXEC,
					 sockopt_int(fd, SOL_SOCKET, SO_PROTOCOL));

	if (fresh < 0)
		return err_sys(err, "cannot make a socket to compare options with");
	for (size_t i = 0; i < ARRAY_SIZE(extra_opts); i++) {
		const struct extra_opt *o = &extra_opts[i];
		uint8_t is[MAX_EXTRA_BYTES] = {0}, usual[MAX_EXTRA_BYTES] = {0};
		socklen_t is_len = sizeof(is), usual_len = sizeof(usual);

		if (!level_fits(fd, o->level) || getsockopt(fd, o->level, o->name, is, &is_len) ||
		    getsockopt(fresh, o->level, o->name, usual, &usual_len))
			continue;
		if (is_len == usual_len && memcmp(is, usual, is_len) == 0)
			continue;
		if (add_extra(snap, opts, o, is, is_len, err))
			return -1;
	}
	return 0;
}

static bool is_peercred(const SkExtraOpt *extra)
{
	return extra->level == SOL_SOCKET && extra->name == SO_PEERCRED &&
	       extra->value.len == sizeof(struct ucred);
}

/* Who made a unix connection. It cannot be set: the new one is made by the same user. */
static int capture_peercred(struct snapshot *snap, int fd, SkOptsEntry *opts, struct err *err)
{
	static const struct extra_opt peercred = {SOL_SOCKET, SO_PEERCRED};
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (sockopt_int(fd, SOL_SOCKET, SO_DOMAIN) != AF_UNIX ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) || cred.uid == (uid_t)-1 ||
	    (cred.uid == 0 && cred.gid == 0))
		return 0;
	return add_extra(snap, opts, &peercred, &cred, sizeof(cred), err);
}

struct sock_ids sockopt_peer_ids(const SkOptsEntry *opts)
{
	struct ucred cred = {0};

	for (size_t i = 0; i < opts->n_extra; i++)
		if (is_peercred(opts->extra[i]))
			memcpy(&cred, opts->extra[i]->value.data, sizeof(cred));
	return (struct sock_ids){.uid = cred.uid, .gid = cred.gid};
}

static const struct extra_opt *find_extra(const SkExtraOpt *extra)
{
	for (size_t i = 0; i < ARRAY_SIZE(extra_opts); i++)
		if ((int)extra->level == extra_opts[i].level && (int)extra->name == extra_opts[i].name)
			return &extra_opts[i];
	return NULL;
}

/* Nothing depends on them for its meaning, so one that this kernel refuses is reported, not fatal. */
static void restore_extra(int fd, const SkOptsEntry *opts, bool late)
{
	for (size_t i = 0; i < opts->n_extra; i++) {
		const SkExtraOpt *extra = opts->extra[i];
		const struct extra_opt *known = find_extra(extra);

		if (is_peercred(extra) || late != (known && known->late))
			continue;
		if (!known || extra->value.len > MAX_EXTRA_BYTES)
			log_warn("option %u of level %u in the image is none of ours: ignored",
				 extra->name, extra->level);
		else if (setsockopt(fd, (int)extra->level, (int)extra->name, extra->value.data,
				    (socklen_t)extra->value.len))
			log_warn("socket option %u of level %u is lost: %s", extra->name,
				 extra->level, strerror(errno));
	}
}

/* ---- filters ---- */

/* Number of classic BPF instructions, or -1 with errno (EACCES: not a classic program). */
static int filter_length(int fd)
{
	socklen_t n = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n))
		return -1;
	return (int)n;
}

int sockopt_allowed(int fd, struct err *err)
{
	if (filter_length(fd) < 0 && errno == EACCES)
		return err_set(
			err, 0,
			"the socket has an eBPF filter, which cannot be read back; comes in a later release");
	return 0;
}

static int capture_filter(struct snapshot *snap, int fd, SkOptsEntry *opts, struct err *err)
{
	int n = filter_length(fd);
	socklen_t len;

	_Static_assert(sizeof(struct sock_filter) == sizeof(*opts->so_filter), "one word each");
	if (n <= 0)
		return 0;
	opts->so_filter = arena_array(&snap->arena, uint64_t, n);
	if (!opts->so_filter)
		return err_nomem(err);
	len = (socklen_t)n;
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, opts->so_filter, &len))
		return err_sys(err, "cannot read the socket's filter");
	opts->n_so_filter = len;
	return 0;
}

static int restore_filter(int fd, const SkOptsEntry *opts, struct err *err)
{
	struct sock_fprog prog = {
		.len = (unsigned short)opts->n_so_filter,
		.filter = (struct sock_filter *)opts->so_filter,
	};

	if (!opts->n_so_filter)
		return 0;
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)))
		return err_sys(err, "cannot attach the socket's filter");
	return 0;
}

/* ---- buffers, times, device ---- */

static int set_buffer(int fd, int force, int plain, uint32_t bytes, struct err *err)
{
	/* the kernel doubles what it is given */
	int half = (int)(bytes / 2);

	if (sockopt_int(fd, SOL_SOCKET, plain) == (int)bytes)
		return 0;
	if (setsockopt(fd, SOL_SOCKET, force, &half, sizeof(half)) &&
	    setsockopt(fd, SOL_SOCKET, plain, &half, sizeof(half)))
		return err_sys(err, "cannot set a socket buffer of %u bytes", bytes);
	return 0;
}

void sockopt_grow_sndbuf(int fd, size_t bytes)
{
	/* small messages cost up to a kilobyte of bookkeeping each */
	int want = bytes > (1u << 27) ? 1 << 30 : (int)(bytes * 2 + (1 << 20));

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &want, sizeof(want)))
		log_debug("cannot enlarge a send buffer to %d: %s", want, strerror(errno));
}

static int set_timeout(int fd, int name, uint64_t sec, uint64_t usec, struct err *err)
{
	struct timeval want = {.tv_sec = (time_t)sec, .tv_usec = (suseconds_t)usec}, is;
	socklen_t len = sizeof(is);

	if (!getsockopt(fd, SOL_SOCKET, name, &is, &len) && is.tv_sec == want.tv_sec &&
	    is.tv_usec == want.tv_usec)
		return 0;
	if (setsockopt(fd, SOL_SOCKET, name, &want, sizeof(want)))
		return err_sys(err, "cannot set a socket timeout");
	return 0;
}

static int capture_times(int fd, SkOptsEntry *opts, struct err *err)
{
	struct timeval tv;
	socklen_t len = sizeof(tv);

	if (getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, &len))
		return err_sys(err, "cannot read the send timeout");
	opts->so_snd_tmo_sec = (uint64_t)tv.tv_sec;
	opts->so_snd_tmo_usec = (uint64_t)tv.tv_usec;
	len = sizeof(tv);
	if (getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &len))
		return err_sys(err, "cannot read the receive timeout");
	opts->so_rcv_tmo_sec = (uint64_t)tv.tv_sec;
	opts->so_rcv_tmo_usec = (uint64_t)tv.tv_usec;
	return 0;
}

static int capture_device(struct snapshot *snap, int fd, SkOptsEntry *opts, struct err *err)
{
	char name[IFNAMSIZ] = "";
	socklen_t len = sizeof(name);

	if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &len) || !name[0])
		return 0;
	opts->so_bound_dev = arena_strdup(&snap->arena, name);
	return opts->so_bound_dev ? 0 : err_nomem(err);
}

static void capture_linger(int fd, SkOptsEntry *opts)
{
	struct linger linger;
	socklen_t len = sizeof(linger);

	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) || !linger.l_onoff)
		return;
	opts->has_so_linger = true;
	opts->so_linger = (uint32_t)linger.l_linger;
}

/* ---- the whole ---- */

int sockopt_capture(struct snapshot *snap, int fd, SkOptsEntry **out, struct err *err)
{
	SkOptsEntry *opts = snap_new(snap, SkOptsEntry, sk_opts_entry);

	if (!opts)
		return err_nomem(err);
	opts->so_sndbuf = (uint32_t)sockopt_int(fd, SOL_SOCKET, SO_SNDBUF);
	opts->so_rcvbuf = (uint32_t)sockopt_int(fd, SOL_SOCKET, SO_RCVBUF);
	capture_ints(fd, opts);
	capture_linger(fd, opts);
	if (capture_times(fd, opts, err) || capture_device(snap, fd, opts, err) ||
	    capture_filter(snap, fd, opts, err) || capture_extra(snap, fd, opts, err) ||
	    capture_peercred(snap, fd, opts, err))
		return -1;
	*out = opts;
	return 0;
}

int sockopt_check(const SkOptsEntry *opts, struct err *err)
{
	if (opts->so_bound_dev && opts->so_bound_dev[0] && !if_nametoindex(opts->so_bound_dev))
		return err_set(err, ENODEV,
			       "the socket is bound to network device %.15s, which does not exist here",
			       opts->so_bound_dev);
	if (opts->n_so_filter > MAX_FILTER)
		return err_set(err, EINVAL, "a socket filter of %zu instructions (%d is the limit)",
			       opts->n_so_filter, MAX_FILTER);
	return 0;
}

int sockopt_restore_early(int fd, const SkOptsEntry *opts, struct err *err)
{
	const char *dev = opts->so_bound_dev;

	if (dev && dev[0] &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, dev, (socklen_t)strlen(dev) + 1))
		return err_sys(err, "cannot bind the socket to device %.15s", dev);
	restore_extra(fd, opts, false);
	return restore_ints(fd, opts, true, err);
}

int sockopt_restore(int fd, const SkOptsEntry *opts, struct err *err)
{
	struct linger linger = {.l_onoff = 1, .l_linger = (int)opts->so_linger};

	if (set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, opts->so_sndbuf, err) ||
	    set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, opts->so_rcvbuf, err) ||
	    set_timeout(fd, SO_SNDTIMEO, opts->so_snd_tmo_sec, opts->so_snd_tmo_usec, err) ||
	    set_timeout(fd, SO_RCVTIMEO, opts->so_rcv_tmo_sec, opts->so_rcv_tmo_usec, err) ||
	    restore_ints(fd, opts, false, err) || restore_filter(fd, opts, err))
		return -1;
	if (opts->has_so_linger && setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)))
		return err_sys(err, "cannot set the linger time");
	restore_extra(fd, opts, true);
	return 0;
}

int sockopt_set_flags(int fd, uint32_t flags, struct err *err)
{
	if (fcntl(fd, F_SETFL, flags & (O_NONBLOCK | O_APPEND | O_ASYNC | O_NOATIME)))
		return err_sys(err, "cannot set file flags %#x", flags);
	return 0;
}
