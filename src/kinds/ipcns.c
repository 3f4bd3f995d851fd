// SPDX-License-Identifier: Apache-2.0
#include "kinds/ipcns.h"

#include "base/attrs.h"
#include "base/io.h"
#define LOG_MODULE "sysv"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int ipcns_own(struct err *err)
{
	int fd = open("/proc/thread-self/ns/ipc", O_RDONLY | O_CLOEXEC);

	return fd >= 0 ? fd : err_sys(err, "cannot open our IPC namespace");
}

int ipcns_enter(int fd, struct err *err)
{
	return setns(fd, CLONE_NEWIPC) == 0 ? 0 : err_sys(err, "cannot enter an IPC namespace");
}

int ipcns_leave(int own, int rc, struct err *err)
{
	struct err back;

	if (ipcns_enter(own, &back) == 0)
		return rc;
	if (rc == 0)
		*err = back;
	else
		log_error("%s", back.text);
	return -1;
}

/* ---- limits ---- */

#define LIMIT32(field_, name_)                                                             \
	{                                                                                  \
		.name = name_, .off = offsetof(IpcVarEntry, field_), .bytes = 4, .has = -1 \
	}
#define LIMIT64(field_, name_)                                                             \
	{                                                                                  \
		.name = name_, .off = offsetof(IpcVarEntry, field_), .bytes = 8, .has = -1 \
	}
#define OPTIONAL32(field_, name_)                                                \
	{                                                                        \
		.name = name_, .off = offsetof(IpcVarEntry, field_), .bytes = 4, \
		.has = offsetof(IpcVarEntry, has_##field_)                       \
	}

/* The order matters: with shm_rmid_forced, segments that nobody has attached go. */
static const struct limit {
	const char *name; /* below /proc/sys */
	size_t off, bytes;
	ptrdiff_t has; /* -1: always there */
} limits[] = {
	LIMIT32(msg_ctlmax, "kernel/msgmax"),
	LIMIT32(msg_ctlmnb, "kernel/msgmnb"),
	LIMIT32(msg_ctlmni, "kernel/msgmni"),
	LIMIT64(shm_ctlmax, "kernel/shmmax"),
	LIMIT64(shm_ctlall, "kernel/shmall"),
	LIMIT32(shm_ctlmni, "kernel/shmmni"),
	LIMIT32(mq_queues_max, "fs/mqueue/queues_max"),
	LIMIT32(mq_msg_max, "fs/mqueue/msg_max"),
	LIMIT32(mq_msgsize_max, "fs/mqueue/msgsize_max"),
	OPTIONAL32(mq_msg_default, "fs/mqueue/msg_default"),
	OPTIONAL32(mq_msgsize_default, "fs/mqueue/msgsize_default"),
	LIMIT32(shm_rmid_forced, "kernel/shm_rmid_forced"),
};

enum { SEM_LIMITS = 4 };

static int get(const char *name, char **text, struct err *err)
{
	if (io_read_filef(text, NULL, "/proc/sys/%s", name))
		return err_sys(err, "cannot read /proc/sys/%s", name);
	return 0;
}

static int put(const char *name, const char *text, struct err *err)
{
	cleanup_close int fd = io_openf(O_WRONLY, "/proc/sys/%s", name);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		return err_sys(err, "cannot set /proc/sys/%s to %s in the tree's IPC namespace",
			       name, text);
	return 0;
}

int ipcns_set(const char *name, uint64_t value, struct err *err)
{
	cleanup_free char *now = NULL;
	char text[32];

	if (get(name, &now, err))
		return -1;
	if (strtoull(now, NULL, 10) == value)
		return 0;
	snprintf(text, sizeof(text), "%" PRIu64, value);
	return put(name, text, err);
}

int ipcns_read_limits(IpcVarEntry *var, struct err *err)
{
	cleanup_free char *sem = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		const struct limit *l = &limits[i];
		cleanup_free char *text = NULL;
		uint64_t value;

		/* a kernel without POSIX message queues */
		if (get(l->name, &text, err) &&
		    !(err->no == ENOENT && strncmp(l->name, "fs/", 3) == 0))
			return -1;
		value = text ? strtoull(text, NULL, 10) : 0;
		memcpy((char *)var + l->off, &value, l->bytes);
		if (l->has >= 0)
			*(protobuf_c_boolean *)((char *)var + l->has) = text != NULL;
	}
	if (get("kernel/sem", &sem, err))
		return -1;
	if (var->n_sem_ctls != SEM_LIMITS ||
	    sscanf(sem, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32, &var->sem_ctls[0],
		   &var->sem_ctls[1], &var->sem_ctls[2], &var->sem_ctls[3]) != SEM_LIMITS)
		return err_set(err, EPROTO, "/proc/sys/kernel/sem cannot be understood: %s", sem);
	return 0;
}

static int write_sem_limits(const IpcVarEntry *var, struct err *err)
{
	cleanup_free char *now = NULL;
	uint32_t is[SEM_LIMITS];
	char text[64];

	if (get("kernel/sem", &now, err))
		return -1;
	if (sscanf(now, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32, &is[0], &is[1], &is[2],
		   &is[3]) == SEM_LIMITS &&
	    memcmp(is, var->sem_ctls, sizeof(is)) == 0)
		return 0;
	snprintf(text, sizeof(text), "%u %u %u %u", var->sem_ctls[0], var->sem_ctls[1],
		 var->sem_ctls[2], var->sem_ctls[3]);
	return put("kernel/sem", text, err);
}

int ipcns_write_limits(const IpcVarEntry *var, struct err *err)
{
	if (var->n_sem_ctls == SEM_LIMITS && write_sem_limits(var, err))
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		const struct limit *l = &limits[i];
		uint64_t value = 0;

		if (l->has >= 0 && !*(const protobuf_c_boolean *)((const char *)var + l->has))
			continue;
		memcpy(&value, (const char *)var + l->off, l->bytes);
		if (!value && strncmp(l->name, "fs/", 3) == 0)
			continue; /* the dumper's kernel had none */
		if (ipcns_set(l->name, value, err))
			return -1;
	}
	return 0;
}
