// SPDX-License-Identifier: Apache-2.0
/*
 * Memory that there is not: while scarce, about one of two allocations is refused. The linker leads calloc and realloc
 * of the test and of what it is linked with here (--wrap, meson.build).
 */
#ifndef FERRY_TESTS_SCARCE_H
#define FERRY_TESTS_SCARCE_H

#include <stdbool.h>
#include <stddef.h>

static unsigned int dice, refused_memory;
static bool scarce;

void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);

/* About one of two is refused, the same ones in each run. */
static bool refuse(void)
{
	dice = dice * 1103515245 + 12345;
	if (!scarce || dice >> 31)
		return false;
	refused_memory++;
	return true;
}

void *__wrap_calloc(size_t n, size_t size)
{
	return refuse() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	return refuse() ? NULL : __real_realloc(old, size);
}

#endif
