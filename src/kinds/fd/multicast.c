// SPDX-License-Identifier: Apache-2.0
/*
 * No call lists the groups of a socket. But /proc/net/igmp and igmp6 list those
 * that anybody on this machine has joined, per device, and MCAST_MSFILTER tells
 * of one group whether the socket is a member, and with which source filter.
 *
 * The device that IPv4 multicast leaves by can only be read back as an address
 * (IP_MULTICAST_IF, among the options of sockopt.c): one that was chosen by
 * number alone cannot be seen.
 */
#define LOG_MODULE "multicast"
#include "kinds/fd/multicast.h"

#include "base/io.h"
#include "base/log.h"
#include "kinds/sockopt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

enum { MAX_SOURCES = 1024 };

/* ---- addresses ---- */

static int level_of(size_t address_bytes)
{
	return address_bytes == sizeof(struct in6_addr) ? IPPROTO_IPV6 : IPPROTO_IP;
}

static void to_sockaddr(const void *address, size_t bytes, struct sockaddr_storage *out)
{
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;

	memset(out, 0, sizeof(*out));
	out->ss_family = bytes == sizeof(v6->sin6_addr) ? AF_INET6 : AF_INET;
	memcpy(out->ss_family == AF_INET6 ? (void *)&v6->sin6_addr : (void *)&v4->sin_addr, address,
	       bytes);
}

static const void *from_sockaddr(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)a)->sin6_addr :
					  (const void *)&((const struct sockaddr_in *)a)->sin_addr;
}

static const char *group_text(const SkGroup *g, char text[INET6_ADDRSTRLEN])
{
	int family = g->address.len == sizeof(struct in6_addr) ? AF_INET6 : AF_INET;

	return inet_ntop(family, g->address.data, text, INET6_ADDRSTRLEN) ? text : "?";
}

/* ---- capture: memberships ---- */

/* The filter of the socket for a group at a device, for free(); NULL with EADDRNOTAVAIL: not a member. */
static struct group_filter *read_filter(int fd, const void *group, size_t bytes, unsigned int ifindex)
{
	uint32_t room = 0;

	for (;;) {
		socklen_t len = (socklen_t)GROUP_FILTER_SIZE(room);
		struct group_filter *f;

		if (len < sizeof(*f))
			len = sizeof(*f);
		f = calloc(1, len);
		if (!f)
			return NULL;
		f->gf_interface = ifindex;
		f->gf_numsrc = room;
		to_sockaddr(group, bytes, &f->gf_group);
		if (getsockopt(fd, level_of(bytes), MCAST_MSFILTER, f, &len) == 0 &&
		    f->gf_numsrc <= room)
			return f;
		room = f->gf_numsrc;
		free(f);
		/* the first answer is the number of sources; more than that is an error */
		if (room == 0 || room > MAX_SOURCES)
			return NULL;
	}
}

static int copy_bytes(struct snapshot *snap, const void *from, size_t bytes,
		      ProtobufCBinaryData *out, struct err *err)
{
	out->data = arena_dup(&snap->arena, from, bytes);
	out->len = bytes;
	return out->data ? 0 : err_nomem(err);
}

static int add_group(struct snapshot *snap, InetSkEntry *isk, const struct group_filter *f,
		     const char *ifname, size_t bytes, struct err *err)
{
	SkGroup **list = arena_array(&snap->arena, SkGroup *, isk->n_ferry_groups + 1);
	SkGroup *g = snap_new(snap, SkGroup, sk_group);

	if (!list || !g)
		return err_nomem(err);
	if (copy_bytes(snap, from_sockaddr(&f->gf_group), bytes, &g->address, err))
		return -1;
	g->ifname = arena_strdup(&snap->arena, ifname);
	g->sources = arena_array(&snap->arena, ProtobufCBinaryData, f->gf_numsrc + 1);
	if (!g->ifname || !g->sources)
		return err_nomem(err);
	g->has_include = g->include = f->gf_fmode == MCAST_INCLUDE;
	for (; g->n_sources < f->gf_numsrc; g->n_sources++)
		if (copy_bytes(snap, from_sockaddr(&f->gf_slist[g->n_sources]), bytes,
			       &g->sources[g->n_sources], err))
			return -1;
	if (isk->n_ferry_groups)
		memcpy(list, isk->ferry_groups, isk->n_ferry_groups * sizeof(*list));
	list[isk->n_ferry_groups++] = g;
	isk->ferry_groups = list;
	return 0;
}

/* Is the socket a member of this group? Then it is noted. */
static int try_group(struct snapshot *snap, int fd, InetSkEntry *isk, const void *group,
		     size_t bytes, unsigned int ifindex, struct err *err)
{
	struct group_filter *f = read_filter(fd, group, bytes, ifindex);
	char name[IFNAMSIZ];
	int rc;

	if (!f)
		return errno == EADDRNOTAVAIL ?
			       0 :
			       err_sys(err, "cannot read the multicast memberships of a socket");
	if (if_indextoname(ifindex, name))
		rc = add_group(snap, isk, f, name, bytes, err);
	else
		rc = err_sys(err, "cannot find network device %u", ifindex);
	free(f);
	return rc;
}

/* "4  eth0 : ..." begins the groups of a device; they follow, indented, in hexadecimal. */
static int try_groups4(struct snapshot *snap, int fd, InetSkEntry *isk, char *text, struct err *err)
{
	unsigned int ifindex = 0;
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		struct in_addr group;

		if (line[0] >= '0' && line[0] <= '9') {
			ifindex = (unsigned int)strtoul(line, NULL, 10);
			continue;
		}
		if (!ifindex || line[0] != '\t')
			continue;
		/* printed as a number of this machine: as it lies in memory */
		group.s_addr = (in_addr_t)strtoul(line, NULL, 16);
		if (try_group(snap, fd, isk, &group, sizeof(group), ifindex, err))
			return -1;
	}
	return 0;
}

static bool parse_hex(const char *digits, uint8_t *out, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (sscanf(digits + 2 * i, "%2hhx", &out[i]) != 1)
			return false;
	return true;
}

/* "4 eth0 ff020000000000000000000000000001 1 0000000C 0" */
static int try_groups6(struct snapshot *snap, int fd, InetSkEntry *isk, char *text, struct err *err)
{
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char digits[2 * sizeof(struct in6_addr) + 1];
		struct in6_addr group;
		unsigned int ifindex;

		if (sscanf(line, "%u %*s %32s", &ifindex, digits) != 2 ||
		    !parse_hex(digits, group.s6_addr, sizeof(group)))
			continue;
		if (try_group(snap, fd, isk, &group, sizeof(group), ifindex, err))
			return -1;
	}
	return 0;
}

static int capture_groups(struct snapshot *snap, int fd, InetSkEntry *isk, struct err *err)
{
	cleanup_free char *four = NULL, *six = NULL;

	/* no such file: no multicast in this kernel, or no IPv6 */
	if (io_read_filef(&four, NULL, "/proc/thread-self/net/igmp") == 0 &&
	    try_groups4(snap, fd, isk, four, err))
		return -1;
	if (isk->family != AF_INET6 || io_read_filef(&six, NULL, "/proc/thread-self/net/igmp6"))
		return 0;
	return try_groups6(snap, fd, isk, six, err);
}

/* ---- options whose value is a device ---- */

static const struct device_opt {
	int level, name;
	bool network_order; /* of the number */
} device_opts[] = {
	{IPPROTO_IP, 50 /* IP_UNICAST_IF */, true},
	{IPPROTO_IPV6, IPV6_MULTICAST_IF, false},
	{IPPROTO_IPV6, 76 /* IPV6_UNICAST_IF */, true},
};

static const struct device_opt *find_device_opt(const SkDeviceOpt *opt)
{
	for (size_t i = 0; i < ARRAY_SIZE(device_opts); i++)
		if (device_opts[i].level == (int)opt->level && device_opts[i].name == (int)opt->name)
			return &device_opts[i];
	return NULL;
}

static int capture_device_opts(struct snapshot *snap, int fd, InetSkEntry *isk, struct err *err)
{
	isk->ferry_device_opts = arena_array(&snap->arena, SkDeviceOpt *, ARRAY_SIZE(device_opts));
	if (!isk->ferry_device_opts)
		return err_nomem(err);
	for (size_t i = 0; i < ARRAY_SIZE(device_opts); i++) {
		const struct device_opt *o = &device_opts[i];
		char name[IFNAMSIZ];
		SkDeviceOpt *e;
		int value;

		if (o->level == IPPROTO_IPV6 && isk->family != AF_INET6)
			continue;
		value = sockopt_int(fd, o->level, o->name);
		if (value == -1 || value == 0)
			continue;
		e = snap_new(snap, SkDeviceOpt, sk_device_opt);
		if (!e)
			return err_nomem(err);
		if (!if_indextoname(o->network_order ? ntohl((uint32_t)value) : (uint32_t)value, name))
			return err_sys(err, "a socket sends by a network device that has gone");
		e->level = (uint32_t)o->level;
		e->name = (uint32_t)o->name;
		e->ifname = arena_strdup(&snap->arena, name);
		if (!e->ifname)
			return err_nomem(err);
		isk->ferry_device_opts[isk->n_ferry_device_opts++] = e;
	}
	return 0;
}

/* ---- both ways ---- */

int multicast_capture(struct snapshot *snap, int fd, InetSkEntry *isk, struct err *err)
{
	if (capture_groups(snap, fd, isk, err))
		return -1;
	return capture_device_opts(snap, fd, isk, err);
}

static int check_device(const char *ifname, const char *what, struct err *err)
{
	if (if_nametoindex(ifname))
		return 0;
	return err_set(err, ENODEV,
		       "the socket %s at network device %.15s, which does not exist here", what,
		       ifname);
}

static int check_group(const InetSkEntry *isk, const SkGroup *g, struct err *err)
{
	size_t bytes = g->address.len;

	if ((bytes != sizeof(struct in_addr) &&
	     (bytes != sizeof(struct in6_addr) || isk->family != AF_INET6)) ||
	    g->n_sources > MAX_SOURCES)
		return err_set(err, EINVAL, "a multicast group that cannot be");
	for (size_t i = 0; i < g->n_sources; i++)
		if (g->sources[i].len != bytes)
			return err_set(err, EINVAL, "a multicast source that cannot be");
	return check_device(g->ifname, "has joined a multicast group", err);
}

int multicast_check(const InetSkEntry *isk, struct err *err)
{
	for (size_t i = 0; i < isk->n_ferry_groups; i++)
		if (check_group(isk, isk->ferry_groups[i], err))
			return -1;
	for (size_t i = 0; i < isk->n_ferry_device_opts; i++) {
		const SkDeviceOpt *opt = isk->ferry_device_opts[i];

		if (!find_device_opt(opt))
			return err_set(err, EINVAL, "socket option %u of level %u is none of ours",
				       opt->name, opt->level);
		if (check_device(opt->ifname, "sends", err))
			return -1;
	}
	return 0;
}

static int set_filter(int fd, const SkGroup *g, unsigned int ifindex)
{
	socklen_t len = (socklen_t)GROUP_FILTER_SIZE(g->n_sources);
	cleanup_free struct group_filter *f = NULL;

	if (!g->include && !g->n_sources)
		return 0; /* as it is after joining */
	if (len < sizeof(*f))
		len = sizeof(*f);
	f = calloc(1, len);
	if (!f)
		return -1;
	f->gf_interface = ifindex;
	f->gf_fmode = g->include ? MCAST_INCLUDE : MCAST_EXCLUDE;
	f->gf_numsrc = (uint32_t)g->n_sources;
	to_sockaddr(g->address.data, g->address.len, &f->gf_group);
	for (size_t i = 0; i < g->n_sources; i++)
		to_sockaddr(g->sources[i].data, g->sources[i].len, &f->gf_slist[i]);
	return setsockopt(fd, level_of(g->address.len), MCAST_MSFILTER, f, len);
}

static int join_group(int fd, const SkGroup *g, struct err *err)
{
	struct group_req req = {.gr_interface = if_nametoindex(g->ifname)};
	char text[INET6_ADDRSTRLEN];

	to_sockaddr(g->address.data, g->address.len, &req.gr_group);
	if (setsockopt(fd, level_of(g->address.len), MCAST_JOIN_GROUP, &req, sizeof(req)) &&
	    errno != EADDRINUSE)
		return err_sys(err, "cannot join multicast group %s at %.15s", group_text(g, text),
			       g->ifname);
	if (set_filter(fd, g, req.gr_interface))
		return err_sys(err, "cannot set the sources of multicast group %s at %.15s",
			       group_text(g, text), g->ifname);
	return 0;
}

int multicast_restore(int fd, const InetSkEntry *isk, struct err *err)
{
	for (size_t i = 0; i < isk->n_ferry_groups; i++)
		if (join_group(fd, isk->ferry_groups[i], err))
			return -1;
	for (size_t i = 0; i < isk->n_ferry_device_opts; i++) {
		const SkDeviceOpt *e = isk->ferry_device_opts[i];
		const struct device_opt *o = find_device_opt(e);
		unsigned int index = if_nametoindex(e->ifname);
		uint32_t value = o && o->network_order ? htonl(index) : index;

		if (setsockopt(fd, (int)e->level, (int)e->name, &value, sizeof(value)))
			return err_sys(err, "cannot make a socket send by %.15s", e->ifname);
	}
	return 0;
}
