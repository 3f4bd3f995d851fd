// SPDX-License-Identifier: Apache-2.0
/*
 * The ways over which bench-lazy has missing pages come.
 */
#ifndef FERRY_BENCH_LAZY_H
#define FERRY_BENCH_LAZY_H

#include "mem/lazy.h"

/* Where the victim's memory is, and what its pages are called. */
#define AREA 0x200000000UL
enum { OBJECT = 1 };

/* Whoever has the pages is started, and reached; both end with close. One at a time. */
struct way {
	struct lazy_source *(*open)(struct err *err);
	void (*close)(struct lazy_source *source);
};

/* Two ends of a ferry migrate, in one process each, and its lanes between them on the loopback: "tcp" or "tls". */
const struct way *lanes_way(const char *transport, uint64_t pages);

/* The calling process, and what it starts, is at home: see BENCH_APART. */
void at_home(void);

/* Fills fresh memory of so many pages with what the victim expects. */
void fill_memory(uint8_t *memory, uint64_t n);

__attribute__((noreturn)) void die(const char *what, const struct err *err);

#endif
