// SPDX-License-Identifier: Apache-2.0
// See unix_named.h.
#include "unix_named.h"
#include "victim.h"

#include <sys/socket.h>
#include <unistd.h>

struct named {
	int listener, client, accepted, seq_listener, receiver, sender, bound_only;
	struct sockaddr_un listener_name, receiver_name;
	socklen_t listener_len, receiver_len;
};

static void put(int fd, const char *text)
{
	ssize_t sent = send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);

	CHECK(sent == (ssize_t)strlen(text), "send '%s': %s", text, strerror(errno));
}

static void expect(int fd, const char *want)
{
	char buf[256] = "";
	ssize_t got = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	CHECK(got == (ssize_t)strlen(want) && strcmp(buf, want) == 0,
	      "received %zd '%s' (%s) for '%s'", got, buf, strerror(errno), want);
}

static int bind_new(int type, const struct sockaddr_un *address, socklen_t len)
{
	int fd = MUST(socket(AF_UNIX, type, 0));

	if (address->sun_path[0])
		unlink(address->sun_path);
	MUST(bind(fd, (const struct sockaddr *)address, len));
	return fd;
}

static void check_name(int fd, const struct sockaddr_un *want, socklen_t want_len, bool peer)
{
	struct sockaddr_un is = {0};
	socklen_t len = sizeof(is);

	MUST((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&is, &len));
	CHECK(len == want_len && memcmp(&is, want, want_len) == 0,
	      "%s name has %u bytes for %u: %s for %s", peer ? "peer's" : "own", len, want_len,
	      is.sun_path + !is.sun_path[0], want->sun_path + !want->sun_path[0]);
}

static void set_up(struct named *n, unix_address_fn *make_address)
{
	struct sockaddr_un other;
	socklen_t len;

	n->listener_len = make_address(&n->listener_name, "listener");
	n->listener = bind_new(SOCK_STREAM, &n->listener_name, n->listener_len);
	MUST(listen(n->listener, 5));
	n->client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(connect(n->client, (struct sockaddr *)&n->listener_name, n->listener_len));
	n->accepted = MUST(accept(n->listener, NULL, NULL));
	put(n->client, "to the server");
	len = make_address(&other, "seq-listener");
	n->seq_listener = bind_new(SOCK_SEQPACKET, &other, len);
	MUST(listen(n->seq_listener, 9));
	n->receiver_len = make_address(&n->receiver_name, "receiver");
	n->receiver = bind_new(SOCK_DGRAM, &n->receiver_name, n->receiver_len);
	n->sender = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
	MUST(connect(n->sender, (struct sockaddr *)&n->receiver_name, n->receiver_len));
	put(n->sender, "one way");
	len = make_address(&other, "bound-only");
	n->bound_only = bind_new(SOCK_STREAM, &other, len);
}

static void check_listener(int listener, int type, const struct sockaddr_un *name, socklen_t len)
{
	int on = 0, client, accepted;
	socklen_t on_len = sizeof(on);

	MUST(getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &on, &on_len));
	CHECK(on, "listener does not listen");
	client = MUST(socket(AF_UNIX, type, 0));
	CHECK(connect(client, (const struct sockaddr *)name, len) == 0, "connect: %s",
	      strerror(errno));
	accepted = MUST(accept(listener, NULL, NULL));
	put(client, "new client");
	expect(accepted, "new client");
	put(accepted, "welcome");
	expect(client, "welcome");
}

void unix_named_run(unix_address_fn *make_address)
{
	struct sockaddr_un other;
	struct named n = {0};
	socklen_t len;
	int on = 1;

	set_up(&n, make_address);
	victim_ready();
	victim_wait();
	check_name(n.listener, &n.listener_name, n.listener_len, false);
	check_name(n.receiver, &n.receiver_name, n.receiver_len, false);
	check_name(n.sender, &n.receiver_name, n.receiver_len, true);
	expect(n.accepted, "to the server");
	put(n.accepted, "answer");
	expect(n.client, "answer");
	expect(n.receiver, "one way");
	put(n.sender, "again");
	expect(n.receiver, "again");
	check_listener(n.listener, SOCK_STREAM, &n.listener_name, n.listener_len);
	len = make_address(&other, "seq-listener");
	check_listener(n.seq_listener, SOCK_SEQPACKET, &other, len);
	len = sizeof(on);
	MUST(getsockopt(n.bound_only, SOL_SOCKET, SO_ACCEPTCONN, &on, &len));
	CHECK(!on, "a bound socket has begun to listen");
	victim_pass();
}
