// SPDX-License-Identifier: Apache-2.0
// Working directory, umask, and a root directory that a child does not share.
#include "victim.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void check(const char *want_cwd, mode_t want_mask)
{
	char cwd[PATH_MAX];
	mode_t mask;

	CHECK(getcwd(cwd, sizeof(cwd)), "getcwd: %s", strerror(errno));
	CHECK(strcmp(cwd, want_cwd) == 0, "cwd was %s, is %s", want_cwd, cwd);
	mask = umask(0);
	umask(mask);
	CHECK(mask == want_mask, "umask was %o, is %o", want_mask, mask);
}

static void child(void *arg)
{
	char link[PATH_MAX] = "";
	char *root = strdup(victim_path("new-root"));

	mkdir(root, 0755);
	mkdir(victim_path("new-root/inside"), 0755);
	// A way back: the files of the test, seen from the new root.
	MUST(chroot(victim_dir()));
	victim_set_dir("");
	MUST(chdir("/new-root/inside"));
	umask(027);
	MUST(access("/pid", F_OK));
	victim_wait();
	check("/new-root/inside", 027);
	CHECK(access("/pid", F_OK) == 0, "root is not what it was");
	CHECK(access("/proc", F_OK) < 0 && readlink("/proc/self/root", link, sizeof(link)) < 0,
	      "root is back at /");
}

int main(int argc, char **argv)
{
	char *cwd;
	pid_t pid;

	victim_start(argc, argv);
	cwd = strdup(victim_path("a dir"));
	mkdir(cwd, 0700);
	MUST(chdir(cwd));
	umask(0137);
	pid = victim_fork(child, NULL);
	victim_sleep_ms(50);
	victim_ready();
	victim_wait();
	check(cwd, 0137);
	victim_reap(pid);
	victim_pass();
}
