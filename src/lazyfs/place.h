// SPDX-License-Identifier: Apache-2.0
/* When the mount ends: its files as plain files in the directory that it covered. */
#ifndef FERRY_LAZYFS_PLACE_H
#define FERRY_LAZYFS_PLACE_H

#include "lazyfs/node.h"

/*
 * Everything is here, and nobody uses the mount any more. Names that are taken there are left alone and
 * reported; so is what cannot be made. -1 then, with the first of them.
 */
int place_all(struct lazyfs *fs, struct err *err) must_check;

#endif
