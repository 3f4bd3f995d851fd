// SPDX-License-Identifier: Apache-2.0
// A periodic timerfd whose expiries have not been read: the kernel shows no time left for it, and yet
// it ticks on.
#include "victim.h"

#include <poll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct itimerspec spec = {{0, 20000000}, {0, 20000000}};
	uint64_t count = 0;
	struct pollfd pfd;
	int fd;

	victim_start(argc, argv);
	fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
	MUST(timerfd_settime(fd, 0, &spec, NULL));
	victim_sleep_ms(70);
	victim_ready();
	victim_wait();
	pfd = (struct pollfd){fd, POLLIN, 0};
	CHECK(poll(&pfd, 1, 0) == 1, "the expiries are lost");
	MUST(read(fd, &count, 8));
	CHECK(count >= 3, "only %lu expiries", count);
	CHECK(poll(&pfd, 1, 3000) == 1, "it does not tick any more");
	victim_pass();
}
