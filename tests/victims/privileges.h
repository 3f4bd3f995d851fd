// SPDX-License-Identifier: Apache-2.0
// What the victims creds and caps have in common: supplementary groups, the five capability sets,
// securebits and no_new_privs, not the same in two threads; and, if wanted, ids of all sorts.
#ifndef FERRY_VICTIMS_PRIVILEGES_H
#define FERRY_VICTIMS_PRIVILEGES_H

#include "victim.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int stage;
static bool change_ids;

static char *creds_now(void)
{
	static const char *const keys[] = {"Uid",    "Gid",    "Groups", "CapInh",     "CapPrm",
					   "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", NULL};
	char path[64], *lines, *all;

	snprintf(path, sizeof(path), "/proc/self/task/%ld/status", syscall(SYS_gettid));
	lines = victim_lines(path, keys);
	CHECK(asprintf(&all, "%sSecurebits: %#x\n", lines, prctl(PR_GET_SECUREBITS)) > 0, "asprintf");
	free(lines);
	return all;
}

static void set_caps(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {
		{effective, permitted, inheritable},
		{effective >> 32, permitted >> 32, inheritable >> 32},
	};

	MUST(syscall(SYS_capset, &head, data));
}

static void compare(const char *who, char *was)
{
	char *is = creds_now();

	CHECK(strcmp(was, is) == 0, "%s: were\n%sare\n%s", who, was, is);
}

// Raw calls: glibc's wrappers would change all threads.
static void *other_thread(void *arg)
{
	gid_t groups[] = {4242, 4343, 4444};
	char *was;

	MUST(syscall(SYS_setgroups, 3, groups));
	if (change_ids)
		MUST(syscall(SYS_setresgid, 2001, 2002, 2003));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	set_caps(1 << CAP_CHOWN, 1 << CAP_CHOWN | 1 << CAP_KILL | 1 << CAP_SETUID, 0);
	was = creds_now();
	stage = 1;
	while (stage < 2)
		victim_sleep_ms(10);
	compare("second thread", was);
	return NULL;
}

static void change_creds(void)
{
	gid_t groups[] = {5, 77, 123456};
	uint64_t keep = 1ULL << CAP_KILL | 1ULL << CAP_NET_ADMIN | 1ULL << CAP_SYS_PTRACE |
			1ULL << CAP_SYS_ADMIN | 1ULL << CAP_CHECKPOINT_RESTORE;

	MUST(syscall(SYS_setgroups, 3, groups));
	MUST(prctl(PR_SET_SECUREBITS,
		   SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED));
	MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
	MUST(prctl(PR_CAPBSET_DROP, CAP_MKNOD));
	if (change_ids) {
		MUST(syscall(SYS_setresgid, 1001, 1002, 1003));
		MUST(syscall(SYS_setresuid, 1011, 1012, 1013));
		setfsgid(1004);
		setfsuid(1014);
	}
	set_caps(1ULL << CAP_KILL | 1ULL << CAP_SYS_ADMIN, keep, 1ULL << CAP_KILL);
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
	prctl(PR_SET_DUMPABLE, 1);
}

static inline int privileges_main(int argc, char **argv, bool ids)
{
	pthread_t thread;
	char *was;

	change_ids = ids;
	victim_start(argc, argv);
	if (geteuid() != 0)
		victim_skip("needs root");
	CHECK(pthread_create(&thread, NULL, other_thread, NULL) == 0, "pthread_create");
	while (stage < 1)
		victim_sleep_ms(1);
	change_creds();
	was = creds_now();
	victim_ready();
	victim_wait();
	compare("first thread", was);
	stage = 2;
	pthread_join(thread, NULL);
	victim_pass();
	return 0;
}

#endif
