// SPDX-License-Identifier: Apache-2.0
// kernel/callwatch: calls of all threads are counted, of those that come later, too; and no others.
#include "unit.h"

#include "kernel/callwatch.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const int calls[] = {SYS_getpriority, SYS_setpriority};

struct child {
	pid_t pid;
	int to[2], from[2];
};

static void *call_once(void *arg)
{
	(void)getpriority(PRIO_PROCESS, 0);
	return arg;
}

/* Reads letters: c calls, o calls something else, t has a new thread call; answers each. */
static void child_main(const struct child *c)
{
	pthread_t thread;
	char letter;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(c->to[0], &letter, 1) == 1) {
		if (letter == 'c')
			call_once(NULL);
		if (letter == 'o')
			(void)getppid();
		if (letter == 't' && pthread_create(&thread, NULL, call_once, NULL) == 0)
			pthread_join(thread, NULL);
		if (write(c->from[1], &letter, 1) != 1)
			break;
	}
	_exit(0);
}

static void start(struct child *c)
{
	assert_int_equal(pipe(c->to), 0);
	assert_int_equal(pipe(c->from), 0);
	c->pid = fork();
	if (c->pid == 0)
		child_main(c);
}

static void tell(const struct child *c, char letter)
{
	assert_int_equal(write(c->to[1], &letter, 1), 1);
	assert_int_equal(read(c->from[0], &letter, 1), 1);
}

static void end(const struct child *c)
{
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
	close(c->to[0]);
	close(c->to[1]);
	close(c->from[0]);
	close(c->from[1]);
}

static void counts(void **state)
{
	struct call_watch w;
	struct child c;

	start(&c);
	tell(&c, 'c'); /* not yet */
	if (call_watch_open(&w, c.pid, calls, ARRAY_SIZE(calls))) {
		end(&c);
		skip();
	}
	assert_int_equal(call_watch_count(&w), 0);
	tell(&c, 'o');
	assert_int_equal(call_watch_count(&w), 0);
	tell(&c, 'c');
	assert_int_equal(call_watch_count(&w), 1);
	tell(&c, 't');
	assert_int_equal(call_watch_count(&w), 2);
	call_watch_close(&w);
	assert_true(call_watch_count(&w) == UINT64_MAX);
	end(&c);
}

/* One that calls something else all the time: nothing of that counts, not even while the watch begins. */
static void counts_no_others(void **state)
{
	struct call_watch w;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			(void)syscall(SYS_getppid);
	}
	for (int i = 0; i < 50; i++) {
		if (call_watch_open(&w, pid, calls, ARRAY_SIZE(calls))) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			skip();
		}
		assert_int_equal(call_watch_count(&w), 0);
		call_watch_close(&w);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* What cannot be is said, and leaves nothing. */
static void impossible(void **state)
{
	int many[400];
	struct call_watch w;

	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = SYS_getpriority;
	assert_int_equal(call_watch_open(&w, getpid(), many, ARRAY_SIZE(many)), 1);
	assert_int_equal(w.events.n, 0);
	assert_int_equal(call_watch_open(&w, 0x7fffffff, calls, ARRAY_SIZE(calls)), 1);
	assert_int_equal(w.events.n, 0);
	assert_true(call_watch_count(&w) == UINT64_MAX);
	call_watch_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts),
		cmocka_unit_test(counts_no_others),
		cmocka_unit_test(impossible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
