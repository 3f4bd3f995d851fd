// SPDX-License-Identifier: Apache-2.0
/*
 * IPC namespaces, for sysv.c and sysv_make.c: a thread that visits one, and the limits in it.
 */
#ifndef FERRY_KINDS_IPCNS_H
#define FERRY_KINDS_IPCNS_H

#include "base/err.h"
#include "snapshot/snapshot.h"

/* Our namespace, open while we are elsewhere; the descriptor is the caller's (-1: closed). */
int ipcns_own(struct err *err) must_check;

/* This thread goes into an IPC namespace (setns(2)). */
int ipcns_enter(int fd, struct err *err) must_check;

/* Back, with @own from ipcns_own, whatever happened there: @rc, or -1. Of two failures @err keeps the first; the other is logged. */
int ipcns_leave(int own, int rc, struct err *err) must_check;

/* The limits of the namespace that we are in (/proc/sys/kernel, /proc/sys/fs/mqueue). */
int ipcns_read_limits(IpcVarEntry *var, struct err *err) must_check;
int ipcns_write_limits(const IpcVarEntry *var, struct err *err) must_check;

/* One number into /proc/sys/@name, where it is not there already. */
int ipcns_set(const char *name, uint64_t value, struct err *err) must_check;

#endif
