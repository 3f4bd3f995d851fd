// SPDX-License-Identifier: Apache-2.0
// Members of multicast groups, v4 and v6, with and without source filters, and devices to send by.
#include "victim.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { UNICAST_IF = 50 /* IP_UNICAST_IF */, TIMESTAMP_NEW = 63 };

static unsigned int device;

static struct sockaddr_storage address(const char *text)
{
	struct sockaddr_storage a = {0};
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&a;
	struct sockaddr_in *four = (struct sockaddr_in *)&a;

	a.ss_family = strchr(text, ':') ? AF_INET6 : AF_INET;
	inet_pton(a.ss_family, text,
		  a.ss_family == AF_INET6 ? (void *)&six->sin6_addr : (void *)&four->sin_addr);
	return a;
}

static int level(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
}

static void join(int fd, const char *group, const char *source)
{
	struct group_source_req req = {.gsr_interface = device, .gsr_group = address(group)};
	struct group_req all = {.gr_interface = device, .gr_group = address(group)};

	if (source) {
		req.gsr_source = address(source);
		MUST(setsockopt(fd, level(&req.gsr_group), MCAST_JOIN_SOURCE_GROUP, &req,
				sizeof(req)));
	} else {
		MUST(setsockopt(fd, level(&all.gr_group), MCAST_JOIN_GROUP, &all, sizeof(all)));
	}
}

static void block(int fd, const char *group, const char *source)
{
	struct group_source_req req = {.gsr_interface = device,
				       .gsr_group = address(group),
				       .gsr_source = address(source)};

	MUST(setsockopt(fd, level(&req.gsr_group), MCAST_BLOCK_SOURCE, &req, sizeof(req)));
}

// The filter of a membership: mode and number of sources; the first source in *source.
static int filter(int fd, const char *group, unsigned int *n, struct sockaddr_storage *source)
{
	socklen_t len = GROUP_FILTER_SIZE(4);
	struct group_filter *f = calloc(1, len);
	int mode;

	f->gf_interface = device;
	f->gf_numsrc = 4;
	f->gf_group = address(group);
	if (getsockopt(fd, level(&f->gf_group), MCAST_MSFILTER, f, &len))
		victim_fail(__FILE__, __LINE__, "%s: %s", group, strerror(errno));
	*n = f->gf_numsrc;
	*source = f->gf_slist[0];
	mode = (int)f->gf_fmode;
	free(f);
	return mode;
}

static void check(int fd, const char *group, int mode, const char *source)
{
	struct sockaddr_storage is, want;
	unsigned int n;

	CHECK(filter(fd, group, &n, &is) == mode, "%s: the filter has another mode", group);
	CHECK(n == (source ? 1 : 0), "%s: %u sources", group, n);
	if (!source)
		return;
	want = address(source);
	if (want.ss_family == AF_INET6)
		CHECK(memcmp(&((struct sockaddr_in6 *)&is)->sin6_addr,
			     &((struct sockaddr_in6 *)&want)->sin6_addr, 16) == 0,
		      "%s: another source", group);
	else
		CHECK(((struct sockaddr_in *)&is)->sin_addr.s_addr ==
			      ((struct sockaddr_in *)&want)->sin_addr.s_addr,
		      "%s: another source", group);
}

static int option(int fd, int at, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	MUST(getsockopt(fd, at, name, &value, &len));
	return value;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	socklen_t len = sizeof(to);
	int four, six, sender, uncast;
	char text[16] = "";

	victim_start(argc, argv);
	device = if_nametoindex("lo");
	four = MUST(socket(AF_INET, SOCK_DGRAM, 0));
	six = socket(AF_INET6, SOCK_DGRAM, 0);
	sender = MUST(socket(AF_INET, SOCK_DGRAM, 0));
	if (six < 0)
		victim_skip("no IPv6 here");
	MUST(bind(four, (struct sockaddr *)&to, len));
	MUST(getsockname(four, (struct sockaddr *)&to, &len));
	join(four, "239.77.1.1", NULL);
	join(four, "239.77.1.2", NULL);
	block(four, "239.77.1.2", "10.9.8.7");
	join(four, "232.77.1.3", "127.0.0.1");
	join(six, "ff02::7701", NULL);
	join(six, "ff32::7702", "fe80::1234");
	join(six, "239.77.1.4", NULL);
	MUST(setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF,
			&(struct in_addr){.s_addr = htonl(INADDR_LOOPBACK)}, sizeof(struct in_addr)));
	MUST(setsockopt(sender, IPPROTO_IP, UNICAST_IF, &(uint32_t){htonl(device)}, sizeof(uint32_t)));
	MUST(setsockopt(six, IPPROTO_IPV6, IPV6_MULTICAST_IF, &device, sizeof(device)));
	MUST(setsockopt(four, SOL_SOCKET, TIMESTAMP_NEW, &(int){1}, sizeof(int)));
	uncast = option(sender, IPPROTO_IP, UNICAST_IF);
	victim_ready();
	victim_wait();
	check(four, "239.77.1.1", MCAST_EXCLUDE, NULL);
	check(four, "239.77.1.2", MCAST_EXCLUDE, "10.9.8.7");
	check(four, "232.77.1.3", MCAST_INCLUDE, "127.0.0.1");
	check(six, "ff02::7701", MCAST_EXCLUDE, NULL);
	check(six, "ff32::7702", MCAST_INCLUDE, "fe80::1234");
	check(six, "239.77.1.4", MCAST_EXCLUDE, NULL);
	CHECK(option(sender, IPPROTO_IP, UNICAST_IF) == uncast, "IP_UNICAST_IF is lost");
	CHECK(option(six, IPPROTO_IPV6, IPV6_MULTICAST_IF) == (int)device,
	      "IPV6_MULTICAST_IF is lost");
	CHECK(option(four, SOL_SOCKET, TIMESTAMP_NEW) == 1, "SO_TIMESTAMP_NEW is lost");
	MUST(inet_aton("239.77.1.1", &to.sin_addr) ? 0 : -1);
	CHECK(sendto(sender, "group", 5, 0, (struct sockaddr *)&to, len) == 5, "sendto: %s",
	      strerror(errno));
	CHECK(recv(four, text, sizeof(text), 0) == 5 && strcmp(text, "group") == 0, "got %s", text);
	victim_pass();
}
