// SPDX-License-Identifier: Apache-2.0
/*
 * Internet sockets through capture and restore, both in this process.
 */
#include "fdworld.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>

static int int_opt(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	getsockopt(fd, level, name, &value, &len);
	return value;
}

static void set_opt(int fd, int level, int name, int value)
{
	assert_int_equal(setsockopt(fd, level, name, &value, sizeof(value)), 0);
}

static struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
				    .sin_port = htons(port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static uint16_t port_of(int fd)
{
	struct sockaddr_in6 addr;
	socklen_t len = sizeof(addr);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	return ntohs(addr.sin6_port); /* at the same place in both families */
}

static int bound4(int type, uint16_t port)
{
	struct sockaddr_in addr = loopback(port);
	int fd = socket(AF_INET, type, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void try_listener(uint16_t port, int listener)
{
	struct sockaddr_in addr = loopback(port);
	int client = socket(AF_INET, SOCK_STREAM, 0), server;

	assert_int_equal(connect(client, (struct sockaddr *)&addr, sizeof(addr)), 0);
	server = accept(listener, NULL, NULL);
	assert_true(server >= 0);
	close(client);
	close(server);
}

static void test_listener(void **state)
{
	struct world w;
	struct tcp_info info;
	uint16_t port;
	int fd;

	world_init(&w);
	fd = bound4(SOCK_STREAM, 0);
	port = port_of(fd);
	set_opt(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_opt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_opt(fd, IPPROTO_TCP, TCP_KEEPIDLE, 111);
	set_opt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 3);
	set_opt(fd, IPPROTO_IP, IP_TOS, 0x10);
	assert_int_equal(listen(fd, 11), 0);
	/* leaves a connection of that port in time-wait */
	try_listener(port, fd);
	world_add(&w, fd);
	world_ok(&w, world_capture(&w));
	world_refuses(&w, world_check(&w), "is in use here by pid");
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	fd = world_fd(&w, 1);
	assert_int_equal(port_of(fd), port);
	assert_int_equal(int_opt(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(int_opt(fd, SOL_SOCKET, SO_REUSEADDR), 0);
	assert_int_equal(int_opt(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(int_opt(fd, IPPROTO_TCP, TCP_KEEPIDLE), 111);
	assert_int_equal(int_opt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT), 3);
	assert_int_equal(int_opt(fd, IPPROTO_IP, IP_TOS), 0x10);
	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	assert_int_equal(info.tcpi_state, 10);
	assert_int_equal(info.tcpi_sacked, 11);
	set_opt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
	try_listener(port, fd);
	world_finish(&w);
}

static void test_v6(void **state)
{
	struct sockaddr_in6 addr = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
	struct world w;
	uint16_t port;
	int fds[2];

	world_init(&w);
	for (int only = 0; only < 2; only++) {
		fds[only] = socket(AF_INET6, SOCK_STREAM, 0);
		if (fds[only] < 0)
			skip_because("no IPv6 here");
		set_opt(fds[only], IPPROTO_IPV6, IPV6_V6ONLY, only);
		set_opt(fds[only], IPPROTO_IPV6, IPV6_TCLASS, 0x20);
		assert_int_equal(bind(fds[only], (struct sockaddr *)&addr, sizeof(addr)), 0);
		assert_int_equal(listen(fds[only], 3), 0);
		world_add(&w, fds[only]);
	}
	port = port_of(fds[0]);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_int_equal(int_opt(world_fd(&w, 1), IPPROTO_IPV6, IPV6_V6ONLY), 0);
	assert_int_equal(int_opt(world_fd(&w, 2), IPPROTO_IPV6, IPV6_V6ONLY), 1);
	assert_int_equal(int_opt(world_fd(&w, 2), IPPROTO_IPV6, IPV6_TCLASS), 0x20);
	try_listener(port, world_fd(&w, 1));
	world_finish(&w);
}

static void test_unconnected(void **state)
{
	struct world w;
	int fd, fresh;

	world_init(&w);
	fresh = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	fd = bound4(SOCK_STREAM, 0);
	world_add(&w, fresh);
	world_add(&w, fd);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_int_equal(port_of(world_fd(&w, 1)), 0);
	assert_true(fcntl(world_fd(&w, 1), F_GETFL) & O_NONBLOCK);
	assert_int_equal(listen(world_fd(&w, 2), 1), 0);
	try_listener(port_of(world_fd(&w, 2)), world_fd(&w, 2));
	world_finish(&w);
}

static void udp_of_protocol(int protocol)
{
	struct world w;
	struct sockaddr_in addr = loopback(0);
	int server, client;
	char buf[8];

	world_init(&w);
	server = socket(AF_INET, SOCK_DGRAM, protocol);
	client = socket(AF_INET, SOCK_DGRAM, protocol);
	if (server < 0)
		skip_because("no protocol %d here", protocol);
	assert_int_equal(bind(server, (struct sockaddr *)&addr, sizeof(addr)), 0);
	addr.sin_port = htons(port_of(server));
	set_opt(server, SOL_SOCKET, SO_BROADCAST, 1);
	set_opt(server, IPPROTO_IP, IP_PKTINFO, 1);
	set_opt(server, IPPROTO_IP, IP_MULTICAST_TTL, 5);
	assert_int_equal(connect(client, (struct sockaddr *)&addr, sizeof(addr)), 0);
	shutdown(client, SHUT_RD);
	world_add(&w, server);
	world_add(&w, client);
	world_ok(&w, world_capture(&w));
	assert_int_equal(w.c.snap->files.v[1]->isk->shutdown, 1);
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_int_equal(int_opt(world_fd(&w, 1), SOL_SOCKET, SO_BROADCAST), 1);
	assert_int_equal(int_opt(world_fd(&w, 1), IPPROTO_IP, IP_PKTINFO), 1);
	assert_int_equal(int_opt(world_fd(&w, 1), IPPROTO_IP, IP_MULTICAST_TTL), 5);
	assert_int_equal(send(world_fd(&w, 2), "hello", 5, 0), 5);
	assert_int_equal(recv(world_fd(&w, 1), buf, sizeof(buf), MSG_DONTWAIT), 5);
	world_finish(&w);
}

static void test_udp(void **state)
{
	udp_of_protocol(IPPROTO_UDP);
	udp_of_protocol(IPPROTO_UDPLITE);
}

static void test_refused(void **state)
{
	struct sockaddr_in addr;
	struct world w;
	int listener, client, server, raw;

	listener = bound4(SOCK_STREAM, 0);
	listen(listener, 3);
	addr = loopback(port_of(listener));
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&addr, sizeof(addr)), 0);

	world_init(&w);
	world_add(&w, listener);
	world_refuses(&w, world_capture(&w), "connections waiting");
	w.c.preflight = true;
	world_ok(&w, world_capture(&w));
	world_finish(&w);

	world_init(&w);
	world_add(&w, client);
	world_refuses(&w, world_capture(&w), "established: comes in a later release");
	assert_non_null(strstr(w.err.text, "-> 127.0.0.1:"));
	world_finish(&w);

	server = accept(listener, NULL, NULL);
	setsockopt(server, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	close(server);
	world_init(&w);
	world_add(&w, client);
	world_refuses(&w, world_capture(&w), "had a connection");
	world_finish(&w);
	close(client);
	close(listener);

	raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	if (raw < 0)
		skip_because("raw sockets are not allowed here");
	world_init(&w);
	world_add(&w, raw);
	world_refuses(&w, world_capture(&w), "raw socket");
	world_finish(&w);
	close(raw);
}

static void test_other_families(void **state)
{
	struct world w;
	int fd = socket(AF_NETLINK, SOCK_RAW, 0);

	world_init(&w);
	world_add(&w, fd);
	world_refuses(&w, world_capture(&w), "netlink socket");
	world_finish(&w);
	close(fd);
}

static void test_no_address(void **state)
{
	struct world w;

	world_init(&w);
	world_add(&w, bound4(SOCK_DGRAM, 0));
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	w.c.snap->files.v[0]->isk->src_addr[0] = htonl(0xcb007107); /* 203.0.113.7, for documents */
	world_refuses(&w, world_check(&w), "does not exist here");
	w.c.snap->files.v[0]->isk->opts->so_bound_dev = "nosuchdev0";
	world_refuses(&w, world_check(&w), "nosuchdev0");
	world_finish(&w);
}

static void test_reuseport(void **state)
{
	struct world w;
	int a = socket(AF_INET, SOCK_STREAM, 0), b = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in addr = loopback(0);

	set_opt(a, SOL_SOCKET, SO_REUSEPORT, 1);
	set_opt(b, SOL_SOCKET, SO_REUSEPORT, 1);
	assert_int_equal(bind(a, (struct sockaddr *)&addr, sizeof(addr)), 0);
	addr = loopback(port_of(a));
	assert_int_equal(bind(b, (struct sockaddr *)&addr, sizeof(addr)), 0);
	listen(a, 1);
	listen(b, 1);
	world_init(&w);
	world_add(&w, a);
	world_add(&w, b);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_int_equal(port_of(world_fd(&w, 1)), port_of(world_fd(&w, 2)));
	world_finish(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_listener),    cmocka_unit_test(test_v6),
		cmocka_unit_test(test_unconnected), cmocka_unit_test(test_udp),
		cmocka_unit_test(test_refused),     cmocka_unit_test(test_other_families),
		cmocka_unit_test(test_no_address),  cmocka_unit_test(test_reuseport),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
