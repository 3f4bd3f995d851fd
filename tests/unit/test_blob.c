// SPDX-License-Identifier: Apache-2.0
/* The blob runs in a child at an address of its own and obeys its coordinator. */
#include "blob/run.h"

#include <errno.h>
#include <linux/sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { REGION_BYTES = 256 * 1024, SLOT_BYTES = 32 * 1024 };

static uint8_t *region;

static struct blob_slot *slot_at(unsigned int i)
{
	return (struct blob_slot *)(region + 16384 + i * SLOT_BYTES);
}

static struct blob_slot *new_slot(unsigned int i)
{
	return blob_slot_init(slot_at(i), (uintptr_t)slot_at(i), SLOT_BYTES, BLOB_DIE_WITH_OWNER, 0);
}

static int setup(void **state)
{
	region = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (region == MAP_FAILED || blob_code_bytes() > 16384)
		return -1;
	memcpy(region, blob_code(), blob_code_bytes());
	return 0;
}

static pid_t start_child(struct blob_slot *slot)
{
	void (*enter)(struct blob_slot *) = (void (*)(struct blob_slot *))(uintptr_t)(region +
										      blob_entry());
	pid_t pid = fork();

	if (pid == 0)
		enter(slot);
	return pid;
}

static void test_calls_and_results(void **state)
{
	struct blob_slot *slot = new_slot(0);
	struct script s;
	struct err err;
	unsigned int a, b, c;
	uint64_t buf;
	pid_t pid;

	pid = start_child(slot);
	blob_script_init(&s, slot, (uintptr_t)slot);
	buf = script_data(&s, NULL, 16);
	a = script_call(&s, "get the pid", SYS_getpid);
	b = script_call(&s, "copy the result", BLOB_OP_STORE64, SV(buf), SR(a));
	c = script_try(&s, "close nothing", SYS_close, SV(-1));
	assert_int_equal(script_run(slot, &s, NULL, NULL, &err), 0);
	assert_int_equal(script_result(&s, a), pid);
	assert_int_equal(script_result(&s, b), 0);
	assert_int_equal(script_result(&s, c), -EBADF);
	assert_int_equal(*(uint64_t *)script_ptr(&s, buf), pid);

	script_reset(&s);
	script_call(&s, "get the pid", SYS_getpid);
	script_call(&s, "close a bad descriptor", SYS_close, SV(-1));
	script_call(&s, "never reached", SYS_exit_group, SV(9));
	assert_int_equal(script_run(slot, &s, NULL, NULL, &err), -1);
	assert_int_equal(err.no, EBADF);
	assert_non_null(strstr(err.text, "cannot close a bad descriptor"));
	blob_slot_finish(slot);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_clone_child_obeys(void **state)
{
	struct blob_slot *slot = new_slot(0), *kid = new_slot(1);
	struct clone_args ca = {.exit_signal = SIGCHLD};
	struct script s, k;
	struct err err;
	unsigned int op, wop, who;
	int status;
	pid_t pid;

	pid = start_child(slot);
	ca.stack = kid->stack_top - BLOB_STACK_BYTES;
	ca.stack_size = BLOB_STACK_BYTES;
	blob_script_init(&s, slot, (uintptr_t)slot);
	op = script_call(&s, "clone", BLOB_OP_CLONE, SV(script_data(&s, &ca, sizeof(ca))),
			 SV(sizeof(ca)), SV((uintptr_t)kid));
	assert_int_equal(script_run(slot, &s, NULL, NULL, &err), 0);
	assert_true(script_result(&s, op) > 0);

	blob_script_init(&k, kid, (uintptr_t)kid);
	who = script_call(&k, "get the parent", SYS_getppid);
	assert_int_equal(script_run(kid, &k, NULL, NULL, &err), 0);
	assert_int_equal(script_result(&k, who), pid);
	script_reset(&k);
	script_call(&k, "exit", SYS_exit_group, SV(7));
	blob_start(kid, &k);

	wop = script_result(&s, op);
	script_reset(&s);
	uint64_t st = script_data(&s, NULL, 8);
	script_same(&s, "reap the child", wop, SYS_wait4, SV(wop), SV(st), SV(0), SV(0));
	assert_int_equal(script_run(slot, &s, NULL, NULL, &err), 0);
	status = *(int *)script_ptr(&s, st);
	assert_int_equal(WEXITSTATUS(status), 7);
	blob_slot_finish(slot);
	blob_slot_finish(kid);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* The coordinator (a child of ours) is killed: its husk must end by itself. */
static void test_dies_with_owner(void **state)
{
	int pipefd[2], status;
	char byte;
	pid_t coordinator;

	assert_int_equal(pipe(pipefd), 0);
	coordinator = fork();
	if (coordinator == 0) {
		struct blob_slot *slot = new_slot(2);

		close(pipefd[0]);
		start_child(slot); /* holds the pipe's write end */
		for (;;)
			pause();
	}
	close(pipefd[1]);
	usleep(100 * 1000);
	kill(coordinator, SIGKILL);
	waitpid(coordinator, &status, 0);
	alarm(10);
	assert_int_equal(read(pipefd[0], &byte, 1), 0); /* end of file: the husk is gone */
	alarm(0);
	close(pipefd[0]);
}

static void test_overflow_is_reported(void **state)
{
	uint8_t area[4 * sizeof(struct blob_op)] __attribute__((aligned(16)));
	struct blob_slot slot = {0};
	struct script s;
	struct err err;
	int i;

	script_init(&s, area, 0x1000, sizeof(area));
	for (i = 0; i < 6; i++)
		script_call(&s, "fill", SYS_getpid);
	assert_true(s.overflow);
	assert_int_equal(script_run(&slot, &s, NULL, NULL, &err), -1);
	assert_int_equal(err.no, ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calls_and_results),
		cmocka_unit_test(test_clone_child_obeys),
		cmocka_unit_test(test_dies_with_owner),
		cmocka_unit_test(test_overflow_is_reported),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
