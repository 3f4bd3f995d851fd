// SPDX-License-Identifier: Apache-2.0
/*
 * The source's side: answers requests for the files of a tree until the client
 * has all of them or is gone. Serves what is in the scope that the client's
 * hello names (lazyfs/scope.h), as far as the tree could read it
 * (lazyfs/jail.h), and changes nothing.
 */
#ifndef FERRY_LAZYFS_SERVE_H
#define FERRY_LAZYFS_SERVE_H

#include "base/err.h"

/* Takes the (blocking) descriptors over. 0: the client has said bye, or the connection ended between two requests. */
int lazyfs_serve(int in, int out, struct err *err) must_check;

#endif
