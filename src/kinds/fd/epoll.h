// SPDX-License-Identifier: Apache-2.0
/*
 * The parser of epoll's fdinfo lines, apart for its unit test.
 */
#ifndef FERRY_KINDS_FD_EPOLL_H
#define FERRY_KINDS_FD_EPOLL_H

#include <stdbool.h>
#include <stdint.h>

struct epoll_target {
	uint32_t tfd;
	uint32_t events;
	uint64_t data;
	uint64_t pos;
	uint64_t ino;
	uint32_t sdev; /* the kernel's own encoding */
};

/* One "tfd: ..." line; false if it is not one. */
bool epoll_parse_target(const char *line, struct epoll_target *t);

#endif
