// SPDX-License-Identifier: Apache-2.0
/* The time that only goes forward (CLOCK_MONOTONIC, clock_gettime(2)): for durations and time-outs. */
#ifndef FERRY_BASE_CLOCK_H
#define FERRY_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_of(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static inline uint64_t clock_ns(void)
{
	return clock_of(CLOCK_MONOTONIC);
}

static inline uint64_t clock_us(void)
{
	return clock_ns() / 1000;
}

static inline uint64_t clock_ms(void)
{
	return clock_ns() / 1000000;
}

/* The processor's time of this thread (CLOCK_THREAD_CPUTIME_ID): what work costs, whoever else has the processor. */
static inline uint64_t clock_thread_ns(void)
{
	return clock_of(CLOCK_THREAD_CPUTIME_ID);
}

#endif
