// SPDX-License-Identifier: Apache-2.0
// Modes that prctl and the like switch on: machine checks, speculation, merging of pages, the filter
// of core dumps, and locks on what is mapped later.
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { SET_MERGE = 67, GET_MERGE, CONTROLLABLE = 1 };

struct facts {
	int mce, bypass, branch, merge, filter;
};

static pthread_barrier_t met;
static const char *wrong;

static int dump_filter(void)
{
	char *text = victim_read_file("/proc/self/coredump_filter");
	int value = (int)strtol(text, NULL, 16);

	free(text);
	return value;
}

static struct facts look(void)
{
	return (struct facts){
		.mce = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0),
		.bypass = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0),
		.branch = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0, 0, 0),
		.merge = prctl(GET_MERGE, 0, 0, 0, 0),
		.filter = dump_filter(),
	};
}

static void *other_thread(void *arg)
{
	pthread_barrier_wait(&met);
	victim_wait();
	if (prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) != PR_MCE_KILL_DEFAULT)
		wrong = "the other thread has got a policy for machine checks";
	return NULL;
}

static void put_filter(const char *text)
{
	int fd = MUST(open("/proc/self/coredump_filter", O_WRONLY));

	MUST(write(fd, text, strlen(text)));
	close(fd);
}

// Is memory that is mapped now locked?
static bool locks_follow(void)
{
	char *flags,
		*page = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	bool locked;

	flags = victim_vmflags(page);
	locked = strstr(flags, "lo") != NULL;
	free(flags);
	munmap(page, VICTIM_PAGE);
	return locked;
}

int main(int argc, char **argv)
{
	struct facts was, is;
	pthread_t thread;

	victim_start(argc, argv);
	pthread_barrier_init(&met, NULL, 2);
	MUST(pthread_create(&thread, NULL, other_thread, NULL) ? -1 : 0);
	pthread_barrier_wait(&met);
	MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	if (prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0) & CONTROLLABLE)
		MUST(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0));
	if (prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0, 0, 0) & CONTROLLABLE)
		MUST(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_FORCE_DISABLE,
			   0, 0));
	prctl(SET_MERGE, 1, 0, 0, 0); // where the kernel has it
	put_filter("0x5");
	MUST(mlockall(MCL_FUTURE));
	was = look();
	victim_ready();
	victim_wait();
	is = look();
	CHECK(is.mce == was.mce, "the policy for machine checks was %d, is %d", was.mce, is.mce);
	CHECK(is.bypass == was.bypass, "store bypass was %d, is %d", was.bypass, is.bypass);
	CHECK(is.branch == was.branch, "indirect branches were %d, are %d", was.branch, is.branch);
	CHECK(is.merge == was.merge, "merging was %d, is %d", was.merge, is.merge);
	CHECK(is.filter == was.filter, "the filter was %#x, is %#x", was.filter, is.filter);
	CHECK(locks_follow(), "what is mapped now is not locked");
	pthread_join(thread, NULL);
	CHECK(!wrong, "%s", wrong);
	victim_pass();
}
