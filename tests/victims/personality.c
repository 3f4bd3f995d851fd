// SPDX-License-Identifier: Apache-2.0
// Execution domain flags.
#include "victim.h"

#include <sys/personality.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int want = ADDR_NO_RANDOMIZE | UNAME26, is;

	victim_start(argc, argv);
	MUST(personality(want));
	victim_ready();
	victim_wait();
	is = personality(0xffffffff);
	CHECK(is == want, "personality was %#x, is %#x", want, is);
	victim_pass();
}
