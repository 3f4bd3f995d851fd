// SPDX-License-Identifier: Apache-2.0
/*
 * Work that will be urgent finds its memory there already.
 *
 * The first touch of a page costs some microseconds, and in a virtual machine that has to get it from its
 * host first, ten times as many; the code of a program costs a fault for each 64 KiB when it first runs.
 * In a freeze that adds up to milliseconds.
 */
#ifndef FERRY_BASE_WARM_H
#define FERRY_BASE_WARM_H

#include <stddef.h>

/*
 * The next @heap_bytes that malloc gives have been touched, and some of its stack; the
 * allocator keeps from now on what is freed; the code of the program and of its libraries is mapped. Call it after
 * the last fork: what is there before is copied at the first write. Best effort: what fails costs time only.
 */
void warm_up(size_t heap_bytes);

/*
 * After a fork: all private memory of this process that has been touched (not areas of more than 64 MiB) is its own again, so
 * that no write waits for that. Other threads may go on. Best effort.
 */
void warm_again(void);

/*
 * Makes room in the table of descriptors for about @n of them: in a process with threads a table that grows waits for
 * a grace period of RCU. Best effort.
 */
void warm_descriptors(int n);

#endif
