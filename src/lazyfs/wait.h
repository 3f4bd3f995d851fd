// SPDX-License-Identifier: Apache-2.0
/* Condition variables that wait for a limited time by the clock that only goes forward. */
#ifndef FERRY_LAZYFS_WAIT_H
#define FERRY_LAZYFS_WAIT_H

#include <pthread.h>
#include <time.h>

static inline void wait_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

/* Waits for a signal, or for @ms; the caller looks at what it waits for. */
static inline void wait_step(pthread_cond_t *cond, pthread_mutex_t *lock, unsigned int ms)
{
	struct timespec end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += ms / 1000;
	end.tv_nsec += (long)(ms % 1000) * 1000000;
	if (end.tv_nsec >= 1000000000) {
		end.tv_sec++;
		end.tv_nsec -= 1000000000;
	}
	pthread_cond_timedwait(cond, lock, &end);
}

#endif
