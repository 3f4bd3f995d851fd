// SPDX-License-Identifier: Apache-2.0
// An eventfd that counts down by one for each read.
#include "victim.h"

#include <sys/eventfd.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	eventfd_t value = 0;
	int fd;

	victim_start(argc, argv);
	fd = MUST(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
	victim_ready();
	victim_wait();
	for (int i = 0; i < 3; i++) {
		MUST(eventfd_read(fd, &value));
		CHECK(value == 1, "read %d gives %lu", i, value);
	}
	CHECK(eventfd_read(fd, &value) < 0 && errno == EAGAIN, "one too many");
	victim_pass();
}
