// SPDX-License-Identifier: Apache-2.0
// User and group ids of all sorts, supplementary groups, the five capability sets, securebits and
// no_new_privs, not the same in two threads.
#include "privileges.h"

int main(int argc, char **argv)
{
	return privileges_main(argc, argv, true);
}
