// SPDX-License-Identifier: Apache-2.0
// kernel/mntns: there and back, also where a thread was made there, or has ended there a moment ago.
#include "unit.h"

#include "kernel/mntns.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t other; /* a process in another mount namespace */
static int there = -1;

static ino_t here(void)
{
	struct stat st;

	return stat("/proc/thread-self/ns/mnt", &st) < 0 ? 0 : st.st_ino;
}

static int open_there(void)
{
	char path[64];
	int ready[2];
	char byte;

	if (pipe(ready) < 0)
		return -1;
	other = fork();
	if (other == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		byte = unshare(CLONE_NEWNS) == 0;
		(void)!write(ready[1], &byte, 1);
		pause();
		_exit(0);
	}
	if (read(ready[0], &byte, 1) != 1 || !byte)
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", other);
	return open(path, O_RDONLY | O_CLOEXEC);
}

#define needs_namespaces()                                  \
	do {                                                \
		if (there < 0)                              \
			skip_because("no mount namespace"); \
	} while (0)

static void there_and_back(void **state)
{
	struct mntns_way way;
	char before[4096], after[4096];
	ino_t home = here();
	struct err err;

	needs_namespaces();
	assert_non_null(getcwd(before, sizeof(before)));
	assert_int_equal(mntns_enter(there, &way, &err), 0);
	assert_true(here() != home);
	assert_int_equal(mntns_back(&way, &err), 0);
	assert_true(here() == home);
	assert_non_null(getcwd(after, sizeof(after)));
	assert_string_equal(before, after);
}

static void *wait_main(void *arg)
{
	sem_wait(arg);
	return NULL;
}

static void back_without_a_thread_that_stays(void **state)
{
	struct mntns_way way;
	ino_t home = here();
	pthread_t thread;
	struct err err;
	sem_t end;

	needs_namespaces();
	sem_init(&end, 0, 0);
	assert_int_equal(mntns_enter(there, &way, &err), 0);
	assert_int_equal(pthread_create(&thread, NULL, wait_main, &end), 0);
	assert_int_equal(mntns_back(&way, &err), 0);
	assert_true(here() == home);
	sem_post(&end);
	pthread_join(thread, NULL);
	sem_destroy(&end);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(back_without_a_thread_that_stays),
	};
	int rc;

	there = open_there();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	if (other > 0) {
		kill(other, SIGKILL);
		waitpid(other, NULL, 0);
	}
	return rc;
}
