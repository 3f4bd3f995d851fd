// SPDX-License-Identifier: Apache-2.0
// The address that an accepted unix socket has from its listener, and its client sees as the peer's.
#include "victim.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t address_len;

static void check(int fd, bool peer)
{
	struct sockaddr_un is = {0};
	socklen_t len = sizeof(is);

	MUST((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&is, &len));
	CHECK(len == address_len && memcmp(&is, &address, len) == 0, "%s name has %u bytes for %u",
	      peer ? "peer's" : "own", len, address_len);
}

int main(int argc, char **argv)
{
	int listener, client, accepted;

	victim_start(argc, argv);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", victim_path("socket"));
	address_len = offsetof(struct sockaddr_un, sun_path) + strlen(address.sun_path) + 1;
	listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(bind(listener, (struct sockaddr *)&address, address_len));
	MUST(listen(listener, 5));
	client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(connect(client, (struct sockaddr *)&address, address_len));
	accepted = MUST(accept(listener, NULL, NULL));
	victim_ready();
	victim_wait();
	check(accepted, false);
	check(client, true);
	victim_pass();
}
