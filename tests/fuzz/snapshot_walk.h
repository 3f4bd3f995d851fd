// SPDX-License-Identifier: Apache-2.0
/*
 * What every snapshot promises that was loaded: its references can be followed
 * and its numbers used without another look. And that it saves and loads again.
 */
#ifndef FERRY_TESTS_SNAPSHOT_WALK_H
#define FERRY_TESTS_SNAPSHOT_WALK_H

#include "snapshot/snapshot.h"

/* Follows every reference; traps if a promise is broken. */
void snapshot_walk(const struct snapshot *snap);

/* Saves a verified snapshot and loads what was saved; traps if that fails. */
void snapshot_round_trip(const struct snapshot *snap);

#endif
