// SPDX-License-Identifier: Apache-2.0
/*
 * Sets of addresses as ascending ranges that do not touch.
 */
#ifndef FERRY_MEM_RANGES_H
#define FERRY_MEM_RANGES_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/vec.h"

#include <stdbool.h>
#include <stdint.h>

struct mem_range {
	uint64_t start, end;
};
typedef VEC(struct mem_range) mem_ranges;

uint64_t mem_ranges_bytes(const mem_ranges *r);

/* Adds [start, end) behind everything that is in the set; touching ranges become one. */
int mem_ranges_push(mem_ranges *to, uint64_t start, uint64_t end, struct err *err) must_check;

/* What is in both, in @a only, in either: appended to an empty @out. */
int mem_ranges_common(const mem_ranges *a, const mem_ranges *b, mem_ranges *out, struct err *err)
	must_check;
int mem_ranges_without(const mem_ranges *a, const mem_ranges *b, mem_ranges *out, struct err *err)
	must_check;
int mem_ranges_union(const mem_ranges *a, const mem_ranges *b, mem_ranges *out, struct err *err)
	must_check;

#endif
