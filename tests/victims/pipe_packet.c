// SPDX-License-Identifier: Apache-2.0
// A pipe in packet mode: the borders of its packets are kept.
#include "victim.h"

#include <fcntl.h>
#include <unistd.h>

static void expect(int fd, const char *want)
{
	char buf[64] = "";
	ssize_t got = read(fd, buf, sizeof(buf));

	CHECK(got == (ssize_t)strlen(want) && strcmp(buf, want) == 0, "read %zd '%s' for '%s'", got,
	      buf, want);
}

int main(int argc, char **argv)
{
	int packet[2];

	victim_start(argc, argv);
	MUST(pipe2(packet, O_DIRECT | O_CLOEXEC));
	MUST(write(packet[1], "one", 3));
	MUST(write(packet[1], "second", 6));
	victim_ready();
	victim_wait();
	CHECK(fcntl(packet[0], F_GETFD) == FD_CLOEXEC, "close-on-exec");
	CHECK(fcntl(packet[1], F_GETFL) & O_DIRECT, "packet mode is lost");
	expect(packet[0], "one");
	expect(packet[0], "second");
	MUST(write(packet[1], "a", 1));
	MUST(write(packet[1], "b", 1));
	expect(packet[0], "a");
	victim_pass();
}
