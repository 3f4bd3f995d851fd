// SPDX-License-Identifier: Apache-2.0
/*
 * Controlling terminals, for restore/: who founds a session takes its terminal
 * before it forks the session's other tasks, which only so come to have it.
 */
#ifndef FERRY_KINDS_TTY_H
#define FERRY_KINDS_TTY_H

#include "kinds/kind.h"

enum { TTY_NO_SESSION = -2 };

/*
 * The broker's descriptor of the terminal that controls session @sid (number of
 * the images), for TIOCSCTTY. TTY_NO_SESSION: the session has none in the tree;
 * -1 + err. After broker_open_all.
 */
int tty_of_session(struct restore *r, uint32_t sid, struct err *err) must_check;

#endif
