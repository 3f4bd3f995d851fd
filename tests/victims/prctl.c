// SPDX-License-Identifier: Apache-2.0
// Process-wide odds and ends: name, dumpable, subreaper, parent-death signal, transparent huge
// pages, oom score, personality stays plain.
#include "victim.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

struct facts {
	char name[16];
	int dumpable, subreaper, pdeathsig, thp_disable;
	char *oom;
};

static struct facts look(void)
{
	struct facts f = {0};

	prctl(PR_GET_NAME, f.name);
	f.dumpable = prctl(PR_GET_DUMPABLE);
	prctl(PR_GET_CHILD_SUBREAPER, &f.subreaper);
	prctl(PR_GET_PDEATHSIG, &f.pdeathsig);
	f.thp_disable = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
	f.oom = victim_read_file("/proc/self/oom_score_adj");
	return f;
}

static void compare(const char *who, const struct facts *was)
{
	struct facts is = look();

	CHECK(strcmp(was->name, is.name) == 0, "%s: name was %s, is %s", who, was->name, is.name);
	CHECK(was->dumpable == is.dumpable, "%s: dumpable was %d, is %d", who, was->dumpable,
	      is.dumpable);
	CHECK(was->subreaper == is.subreaper, "%s: subreaper was %d", who, was->subreaper);
	CHECK(was->pdeathsig == is.pdeathsig, "%s: death signal was %d, is %d", who, was->pdeathsig,
	      is.pdeathsig);
	CHECK(was->thp_disable == is.thp_disable, "%s: thp_disable was %d, is %d", who,
	      was->thp_disable, is.thp_disable);
	CHECK(strcmp(was->oom, is.oom) == 0, "%s: oom_score_adj was %s, is %s", who, was->oom,
	      is.oom);
}

static void put_oom(const char *text)
{
	int fd = MUST(open("/proc/self/oom_score_adj", O_WRONLY));

	MUST(write(fd, text, strlen(text)));
	close(fd);
}

static void child(void *arg)
{
	struct facts was;

	MUST(prctl(PR_SET_NAME, "a (child) name"));
	MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1));
	MUST(prctl(PR_SET_DUMPABLE, 1));
	put_oom("500");
	was = look();
	victim_wait();
	compare("child", &was);
}

int main(int argc, char **argv)
{
	struct facts was;
	pid_t pid;

	victim_start(argc, argv);
	put_oom("321");
	pid = victim_fork(child, NULL);
	MUST(prctl(PR_SET_NAME, "odd name: )( 1"));
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
	MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	MUST(prctl(PR_SET_DUMPABLE, 0));
	was = look();
	victim_sleep_ms(50);
	victim_ready();
	victim_wait();
	compare("root", &was);
	victim_reap(pid);
	victim_pass();
}
