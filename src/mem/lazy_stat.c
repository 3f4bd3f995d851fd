// SPDX-License-Identifier: Apache-2.0
/*
 * Figures of the fault engine. Latencies go into buckets of an eighth of an
 * octave: percentiles are right to 12 %, however many faults there were.
 */
#include "mem/lazy_priv.h"

#include <time.h>

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int octave = ns < 8 ? 3 : 63 - (unsigned int)__builtin_clzl(ns);

	return (octave - 3) * 8 + (unsigned int)(ns >> (octave - 3)) % 8;
}

/* The middle of a bucket. */
static uint64_t bucket_ns(unsigned int bucket)
{
	uint64_t width = 1UL << bucket / 8;

	return (8 + bucket % 8) * width + width / 2;
}

void lazy_stat_fault(struct lazy *z, uint64_t ns)
{
	z->latency[bucket_of(ns)]++;
	z->st.fault_max_ns = MAX(z->st.fault_max_ns, ns);
}

static uint64_t percentile(const struct lazy *z, unsigned int percent)
{
	uint64_t all = 0, seen = 0;

	for (unsigned int i = 0; i < LATENCY_BUCKETS; i++)
		all += z->latency[i];
	for (unsigned int i = 0; i < LATENCY_BUCKETS && all; i++) {
		seen += z->latency[i];
		if (seen * 100 >= all * percent)
			return MIN(bucket_ns(i), z->st.fault_max_ns);
	}
	return 0;
}

void lazy_stats(const struct lazy *z, struct lazy_stats *out)
{
	*out = z->st;
	out->fault_p50_ns = percentile(z, 50);
	out->fault_p99_ns = percentile(z, 99);
}
