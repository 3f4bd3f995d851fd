// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_BASE_THREAD_H
#define FERRY_BASE_THREAD_H

#include "base/attrs.h"

#include <pthread.h>

/*
 * As pthread_create(3), for threads that work for their process and take no signals: those are for the thread that waits for them
 * (SIGCHLD of tracees, Ctrl-C), which would otherwise wake this one; and a broken connection is EPIPE, not SIGPIPE.
 * Returns 0, or an errno.
 */
int thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg) must_check;

#endif
