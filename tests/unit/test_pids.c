// SPDX-License-Identifier: Apache-2.0
/*
 * Is a pid free here? One whose task has ended is waited for, as long as its parent may still ask how.
 */
#include "unit.h"

#include "restore/restore.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t ended_child(void)
{
	siginfo_t info;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	assert_true(pid > 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	return pid;
}

static void *reap_late(void *arg)
{
	nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
	waitpid(*(pid_t *)arg, NULL, 0);
	return NULL;
}

static void a_zombie_is_waited_for(void **state)
{
	pid_t pid = ended_child();
	pthread_t thread;
	struct err err;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, reap_late, &pid), 0);
	assert_int_equal(restore_pids_free(&pid, 1, &err), 0);
	/* and it was one until then */
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), -1);
	assert_int_equal(errno, ECHILD);
}

static void one_that_stays_is_named(void **state)
{
	pid_t pid = ended_child();
	char parent[32];
	struct err err;

	(void)state;
	snprintf(parent, sizeof(parent), "(pid %d)", getpid());
	assert_int_equal(restore_pids_free(&pid, 1, &err), -1);
	assert_non_null(strstr(err.text, "it has ended"));
	assert_non_null(strstr(err.text, parent));
	waitpid(pid, NULL, 0);
}

static void a_task_that_lives_is_named(void **state)
{
	pid_t pid = getpid();
	struct err err;

	(void)state;
	assert_int_equal(restore_pids_free(&pid, 1, &err), -1);
	assert_int_equal(err.no, EEXIST);
	assert_non_null(strstr(err.text, "in use here, by "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_zombie_is_waited_for),
		cmocka_unit_test(one_that_stays_is_named),
		cmocka_unit_test(a_task_that_lives_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
