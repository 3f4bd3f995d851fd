// SPDX-License-Identifier: Apache-2.0
/*
 * Small files that lie beside each other are often read one after another: the modules of a program,
 * a mail folder, sources. Where each has to be waited for, those beside it are asked for, too.
 */
#ifndef FERRY_LAZYFS_NEIGHBOURS_H
#define FERRY_LAZYFS_NEIGHBOURS_H

#include "lazyfs/node.h"

/*
 * Somebody is about to read the beginning of @n, whose contents are @c. Asks for it, if it is small, and perhaps
 * for its neighbours; waits for nothing.
 */
void neighbours_begin(struct lazyfs *fs, struct node *n, struct content *c);

#endif
