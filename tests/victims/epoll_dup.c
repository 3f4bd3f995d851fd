// SPDX-License-Identifier: Apache-2.0
// An epoll target whose descriptor number is gone, while a duplicate keeps the description alive:
// the set still watches it, and the number belongs to something else now.
#include "victim.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 7};
	int set, watched, duplicate, usurper;

	victim_start(argc, argv);
	set = MUST(epoll_create1(0));
	watched = MUST(eventfd(0, EFD_NONBLOCK));
	MUST(epoll_ctl(set, EPOLL_CTL_ADD, watched, &event));
	duplicate = MUST(dup(watched));
	close(watched);
	usurper = MUST(eventfd(0, EFD_NONBLOCK));
	CHECK(usurper == watched, "set-up: number was not reused");
	victim_ready();
	victim_wait();
	MUST(eventfd_write(usurper, 1));
	CHECK(epoll_wait(set, &event, 1, 0) == 0, "the set watches the wrong description");
	MUST(eventfd_write(duplicate, 1));
	event.data.u64 = 0;
	CHECK(epoll_wait(set, &event, 1, 0) == 1 && event.data.u64 == 7,
	      "the set does not watch the right description");
	victim_pass();
}
