// SPDX-License-Identifier: Apache-2.0
// Entry of the command line.
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("ferry %s\n", FERRY_VERSION);
		return 0;
	}
	fprintf(stderr, "usage: ferry --version\n");
	return 2;
}
