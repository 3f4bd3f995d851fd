// SPDX-License-Identifier: Apache-2.0
/*
 * libc's set*id functions change all threads of a process; the system calls
 * only the caller's. A change of ids makes the whole process undumpable, which
 * tasks forked later would inherit, so that is put back.
 */
#include "kinds/sockids.h"
#include "base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

struct errand {
	const struct sock_ids *ids;
	int (*call)(void *arg);
	void *arg;
	int no; /* errno */
};

static void *errand_thread(void *arg)
{
	struct errand *e = arg;

	if (syscall(SYS_setresgid, -1, e->ids->gid, -1) ||
	    syscall(SYS_setresuid, -1, e->ids->uid, -1))
		e->no = errno;
	else if (e->call(e->arg))
		e->no = errno;
	return NULL;
}

int sockids_run(const struct sock_ids *ids, int (*call)(void *arg), void *arg)
{
	struct errand e = {.ids = ids, .call = call, .arg = arg};
	int dumpable = prctl(PR_GET_DUMPABLE);
	pthread_t thread;

	if (ids->uid == geteuid() && ids->gid == getegid())
		return call(arg);
	errno = thread_start(&thread, errand_thread, &e);
	if (errno)
		return -1;
	pthread_join(thread, NULL);
	if (dumpable >= 0 && dumpable <= 1)
		prctl(PR_SET_DUMPABLE, dumpable);
	errno = e.no;
	return e.no ? -1 : 0;
}
