// SPDX-License-Identifier: Apache-2.0
// Supplementary groups, the five capability sets, securebits and no_new_privs of a task that is still
// root, not the same in two threads. (creds has the ids, which not every dumper may look into.)
#include "privileges.h"

int main(int argc, char **argv)
{
	return privileges_main(argc, argv, false);
}
