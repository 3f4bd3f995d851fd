// SPDX-License-Identifier: Apache-2.0
/*
 * Buffers for the bodies of large blocks, which a stream reads and a spool keeps. Memory that the system has just
 * given costs a fault for each page when the kernel first writes to it, and where a hypervisor shadows the page
 * tables another one when we first read it: many times what it costs to fill it. So these buffers lie in huge pages, and those
 * that were let go are used again.
 *
 * Every function may be called in any thread.
 */
#ifndef FERRY_STORE_BUFS_H
#define FERRY_STORE_BUFS_H

#include <stdint.h>

/* BLOCK_BODY_MAX bytes. NULL: there is no memory. */
uint8_t *bufs_get(void);

/* Such a buffer, or memory of malloc: NULL too. */
void bufs_free(void *buf);

#endif
