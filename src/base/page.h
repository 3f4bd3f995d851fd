// SPDX-License-Identifier: Apache-2.0
/* What one page of memory (PAGE_BYTES) holds. */
#ifndef FERRY_BASE_PAGE_H
#define FERRY_BASE_PAGE_H

#include <stdbool.h>

/* Is every byte of this page zero? @page is aligned to 8 bytes. */
bool page_is_zero(const void *page);

#endif
