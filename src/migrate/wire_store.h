// SPDX-License-Identifier: Apache-2.0
/*
 * A store at the other end of a channel: what is put is sent. The other side
 * puts it into a store in its memory. Nothing can be got back from it.
 */
#ifndef FERRY_MIGRATE_WIRE_STORE_H
#define FERRY_MIGRATE_WIRE_STORE_H

#include "store/store.h"
#include "wire/channel.h"

/* The channel stays the caller's. */
struct store *wire_store_open(struct channel *ch, struct err *err) must_check;

/* The other side: puts everything that arrives into @into, until the store is complete. */
int wire_store_receive(struct channel *ch, struct store *into, struct err *err) must_check;

#endif
