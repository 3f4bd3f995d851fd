// SPDX-License-Identifier: Apache-2.0
// The plain character devices.
#include "victim.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const names[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom",
				    "/dev/random"};

int main(int argc, char **argv)
{
	char path[64], link[PATH_MAX], buf[16], *zero;
	int fds[ARRAY_SIZE(names)];

	victim_start(argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		fds[i] = MUST(open(names[i], O_RDWR | (i % 2 ? O_CLOEXEC | O_NONBLOCK : 0)));
	zero = mmap(NULL, 2 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[1], 0);
	CHECK(zero != MAP_FAILED, "mmap: %s", strerror(errno));
	victim_fill(zero, VICTIM_PAGE, 3);
	victim_ready();
	victim_wait();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[i]);
		memset(link, 0, sizeof(link));
		MUST(readlink(path, link, sizeof(link) - 1));
		CHECK(strcmp(link, names[i]) == 0, "was %s, is %s", names[i], link);
		CHECK(!!(fcntl(fds[i], F_GETFD) & FD_CLOEXEC) == i % 2, "%s: close-on-exec",
		      names[i]);
		CHECK(!!(fcntl(fds[i], F_GETFL) & O_NONBLOCK) == i % 2, "%s: O_NONBLOCK", names[i]);
	}
	CHECK(read(fds[0], buf, 16) == 0 && write(fds[0], buf, 16) == 16, "/dev/null");
	memset(buf, 1, 16);
	CHECK(read(fds[1], buf, 16) == 16 && buf[0] == 0 && buf[15] == 0, "/dev/zero");
	CHECK(write(fds[2], buf, 16) < 0 && errno == ENOSPC, "/dev/full");
	CHECK(read(fds[3], buf, 16) == 16, "/dev/urandom");
	CHECK(victim_check(zero, VICTIM_PAGE, 3) < 0, "mapping of /dev/zero");
	CHECK(zero[VICTIM_PAGE] == 0, "mapping of /dev/zero is not zero");
	victim_pass();
}
