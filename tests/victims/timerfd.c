// SPDX-License-Identifier: Apache-2.0
// timerfd: clocks, relative and absolute, one-shot and periodic, disarmed, expired but not read.
// (A periodic one of that sort: timerfd_unread.)
#include "victim.h"

#include <fcntl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static int make(int clock, int flags, long first_s, long first_ns, long interval_ns)
{
	struct itimerspec spec = {{interval_ns / 1000000000, interval_ns % 1000000000},
				  {first_s, first_ns}};
	int fd = MUST(timerfd_create(clock, flags & (TFD_NONBLOCK | TFD_CLOEXEC)));

	MUST(timerfd_settime(fd, flags & TFD_TIMER_ABSTIME ? TFD_TIMER_ABSTIME : 0, &spec, NULL));
	return fd;
}

static void expect(int fd, const char *what, long first_s, long interval_ns)
{
	struct itimerspec now;

	MUST(timerfd_gettime(fd, &now));
	CHECK(now.it_interval.tv_sec * 1000000000 + now.it_interval.tv_nsec == interval_ns,
	      "%s: interval is %ld.%09ld", what, now.it_interval.tv_sec, now.it_interval.tv_nsec);
	CHECK(now.it_value.tv_sec <= first_s && now.it_value.tv_sec >= first_s - 120,
	      "%s: was %ld s, is %ld s", what, first_s, now.it_value.tv_sec);
	CHECK(first_s || !now.it_value.tv_nsec, "%s: is armed", what);
}

int main(int argc, char **argv)
{
	int relative, absolute, real, disarmed, expired;
	uint64_t count = 0;
	struct timespec ts;

	victim_start(argc, argv);
	clock_gettime(CLOCK_REALTIME, &ts);
	relative = make(CLOCK_MONOTONIC, TFD_CLOEXEC, 5000, 0, 3000000500);
	absolute = make(CLOCK_REALTIME, TFD_TIMER_ABSTIME, ts.tv_sec + 6000, 0, 0);
	real = make(CLOCK_BOOTTIME, TFD_NONBLOCK, 7000, 1, 1);
	disarmed = make(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 0, 0);
	expired = make(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 1000, 0);
	victim_sleep_ms(5);
	victim_ready();
	victim_wait();
	expect(relative, "relative", 5000, 3000000500);
	expect(absolute, "absolute", 6000, 0);
	expect(real, "boot time", 7000, 1);
	expect(disarmed, "disarmed", 0, 0);
	CHECK(fcntl(relative, F_GETFD) == FD_CLOEXEC && fcntl(absolute, F_GETFD) == 0, "fd flags");
	CHECK(read(disarmed, &count, 8) < 0 && errno == EAGAIN, "the disarmed one has fired");
	CHECK(read(expired, &count, 8) == 8 && count == 1, "expiry is lost: %s", strerror(errno));
	CHECK(read(expired, &count, 8) < 0 && errno == EAGAIN, "one expiry too many");
	victim_pass();
}
