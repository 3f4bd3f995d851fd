// SPDX-License-Identifier: Apache-2.0
// eventfd: counters, flags, shared by parent and child.
#include "victim.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int shared;

static void child(void *arg)
{
	victim_wait();
	MUST(eventfd_write(shared, 1000));
}

static void expect(int fd, uint64_t want)
{
	eventfd_t value = 0;

	MUST(eventfd_read(fd, &value));
	CHECK(value == want, "counter was %lu, is %lu", want, value);
}

int main(int argc, char **argv)
{
	int plain, empty;
	eventfd_t value;
	pid_t pid;

	victim_start(argc, argv);
	plain = MUST(eventfd(42, EFD_CLOEXEC));
	empty = MUST(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	shared = MUST(eventfd(7, 0));
	pid = victim_fork(child, NULL);
	victim_ready();
	victim_wait();
	victim_reap(pid);
	CHECK(fcntl(plain, F_GETFD) == FD_CLOEXEC && fcntl(empty, F_GETFD) == FD_CLOEXEC &&
		      fcntl(shared, F_GETFD) == 0,
	      "close-on-exec flags");
	expect(plain, 42);
	CHECK(eventfd_read(empty, &value) < 0 && errno == EAGAIN, "the empty one is not empty");
	expect(shared, 1007);
	victim_pass();
}
