// SPDX-License-Identifier: Apache-2.0
// All sixteen resource limits, soft and hard, most of them changed.
#include "victim.h"

#include <sys/resource.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static const struct rlimit wanted[RLIM_NLIMITS] = {
		[RLIMIT_CPU] = {1000, 2000},
		[RLIMIT_FSIZE] = {1UL << 31, RLIM_INFINITY},
		[RLIMIT_DATA] = {1UL << 33, RLIM_INFINITY},
		[RLIMIT_STACK] = {4UL << 20, 64UL << 20},
		[RLIMIT_CORE] = {0, 12345},
		[RLIMIT_NOFILE] = {77, 99},
		[RLIMIT_AS] = {1UL << 40, 1UL << 41},
		[RLIMIT_LOCKS] = {10, 20},
		[RLIMIT_NICE] = {0, 0},
		[RLIMIT_RTTIME] = {1000000, 2000000},
	};
	struct rlimit was[RLIM_NLIMITS], is;

	victim_start(argc, argv);
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		if (wanted[i].rlim_max)
			MUST(setrlimit(i, &wanted[i]));
		MUST(getrlimit(i, &was[i]));
	}
	victim_ready();
	victim_wait();
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		MUST(getrlimit(i, &is));
		CHECK(is.rlim_cur == was[i].rlim_cur && is.rlim_max == was[i].rlim_max,
		      "limit %d was %lu/%lu, is %lu/%lu", i, was[i].rlim_cur, was[i].rlim_max,
		      is.rlim_cur, is.rlim_max);
	}
	victim_pass();
}
