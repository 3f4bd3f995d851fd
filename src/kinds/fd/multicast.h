// SPDX-License-Identifier: Apache-2.0
/*
 * What a datagram socket has to do with network devices: the multicast groups
 * it has joined, and the devices it sends by. Both ways; devices go by name.
 */
#ifndef FERRY_KINDS_FD_MULTICAST_H
#define FERRY_KINDS_FD_MULTICAST_H

#include "base/attrs.h"
#include "base/err.h"
#include "snapshot/snapshot.h"

#include "sk-inet.pb-c.h"

/*
 * Notes the memberships, with their source filters, and the device options of the
 * datagram socket @fd, which is in our network namespace. Changes nothing.
 */
int multicast_capture(struct snapshot *snap, int fd, InetSkEntry *isk, struct err *err) must_check;

/* Are the values possible, and the devices here? No side effects. */
int multicast_check(const InetSkEntry *isk, struct err *err) must_check;

/* Joins the groups and sets the options. */
int multicast_restore(int fd, const InetSkEntry *isk, struct err *err) must_check;

#endif
