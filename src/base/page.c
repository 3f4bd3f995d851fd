// SPDX-License-Identifier: Apache-2.0
#include "base/page.h"

#include "base/attrs.h"

#include <stdint.h>

bool page_is_zero(const void *page)
{
	const uint64_t *w = page;
	size_t i;

	for (i = 0; i < PAGE_BYTES / 8; i += 4)
		if (w[i] | w[i + 1] | w[i + 2] | w[i + 3])
			return false;
	return true;
}
