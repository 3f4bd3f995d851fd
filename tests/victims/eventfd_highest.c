// SPDX-License-Identifier: Apache-2.0
// An eventfd at its highest value, which only write can give, and one above 32 bits.
#include "victim.h"

#include <sys/eventfd.h>
#include <unistd.h>

static void expect(int fd, uint64_t want)
{
	eventfd_t value = 0;

	MUST(eventfd_read(fd, &value));
	CHECK(value == want, "counter was %#lx, is %#lx", want, value);
}

int main(int argc, char **argv)
{
	int highest, high;

	victim_start(argc, argv);
	highest = MUST(eventfd(0, EFD_NONBLOCK));
	MUST(eventfd_write(highest, 0xfffffffffffffffe));
	high = MUST(eventfd(1, EFD_NONBLOCK));
	MUST(eventfd_write(high, 0x500000000));
	victim_ready();
	victim_wait();
	CHECK(eventfd_write(highest, 1) < 0 && errno == EAGAIN, "the highest can be higher");
	expect(highest, 0xfffffffffffffffe);
	expect(high, 0x500000001);
	victim_pass();
}
