// SPDX-License-Identifier: Apache-2.0
/*
 * What every unit test includes: cmocka with the headers that it needs, and
 * skipping with a reason.
 */
#ifndef FERRY_TESTS_UNIT_H
#define FERRY_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* tools/run-tests shows the reason; text on stderr does not disturb the TAP on stdout. */
#define skip_because(...)                     \
	do {                                  \
		fprintf(stderr, "skip: ");    \
		fprintf(stderr, __VA_ARGS__); \
		fputc('\n', stderr);          \
		skip();                       \
	} while (0)

#endif
