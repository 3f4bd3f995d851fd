// SPDX-License-Identifier: Apache-2.0
/*
 * userfaultfd(2), MISSING mode: the calls that more than one file makes.
 */
#ifndef FERRY_MEM_UFFD_H
#define FERRY_MEM_UFFD_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* UFFDIO_API: once for each descriptor. UFFD_FEATURE_EVENT_FORK needs CAP_SYS_PTRACE. */
int uffd_handshake(int uffd, uint64_t features, struct err *err) must_check;

/* Registers a range for MISSING faults; -1 with errno. */
int uffd_register(int uffd, uint64_t start, uint64_t bytes) must_check;

/*
 * Is a fork, an unmapping, a discard under way that the userfaultfd tells of: an event that was not read, or whose
 * call has not gone on yet? Only so long the kernel places no pages. errno is lost.
 */
bool uffd_is_changing(int uffd);

/* Does the address space still exist? Allocates nothing; errno is lost. */
bool uffd_space_lives(int uffd);

#endif
