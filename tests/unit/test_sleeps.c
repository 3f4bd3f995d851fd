// SPDX-License-Identifier: Apache-2.0
/*
 * Threads that were stopped in a sleep before: which call they are in, by the notes of our own stops and by
 * their code.
 */
#include "unit.h"

#include "capture/capture.h"
#include "capture/precopy.h"
#include "capture/sleeps.h"
#include "kernel/proc.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BY_BLOCK = -516 };

static struct user_regs_struct interrupted(long nr)
{
	return (struct user_regs_struct){
		.orig_rax = (uint64_t)nr,
		.rax = (uint64_t)BY_BLOCK,
		.rip = 7,
		.rsp = 0x7000,
		.rdi = 1,
		.rsi = 2,
		.rdx = 3,
	};
}

/* What a thread with these registers is said to be in. */
static long settled(struct sleeps *s, int mem_fd, struct user_regs_struct regs)
{
	struct err err;

	if (sleeps_settle(s, getpid(), mem_fd, &regs, &err))
		fail_msg("%s", err.text);
	return (long)regs.orig_rax;
}

static void notes_are_found(void **state)
{
	struct sleeps s = {0};
	struct user_regs_struct again = interrupted(SYS_restart_syscall);

	assert_int_equal(settled(&s, -1, again), SYS_restart_syscall);
	assert_int_equal(settled(&s, -1, interrupted(SYS_futex)), SYS_futex);
	/* as often as it is stopped */
	assert_int_equal(settled(&s, -1, again), SYS_futex);
	assert_int_equal(settled(&s, -1, again), SYS_futex);
	assert_int_equal(settled(&s, -1, interrupted(SYS_poll)), SYS_poll);
	assert_int_equal(settled(&s, -1, again), SYS_poll);
	assert_int_equal(s.notes.n, 1);
	sleeps_finish(&s);
}

static void another_sleep_is_not_taken_for_it(void **state)
{
	struct sleeps s = {0};
	struct user_regs_struct other = interrupted(SYS_restart_syscall);

	settled(&s, -1, interrupted(SYS_futex));
	other.rsp += 64;
	assert_int_equal(settled(&s, -1, other), SYS_restart_syscall);
	settled(&s, -1, interrupted(SYS_futex));
	other = interrupted(SYS_restart_syscall);
	other.rdx++;
	assert_int_equal(settled(&s, -1, other), SYS_restart_syscall);
	/* it ran on in between */
	settled(&s, -1, interrupted(SYS_futex));
	other = interrupted(SYS_read);
	other.rax = 17;
	settled(&s, -1, other);
	assert_int_equal(s.notes.n, 0);
	assert_int_equal(settled(&s, -1, interrupted(SYS_restart_syscall)), SYS_restart_syscall);
	/* another thread had the id */
	settled(&s, -1, interrupted(SYS_futex));
	s.notes.v[0].start_time--;
	assert_int_equal(settled(&s, -1, interrupted(SYS_restart_syscall)), SYS_restart_syscall);
	sleeps_finish(&s);
}

static void many_threads(void **state)
{
	struct sleep_note note = {0};
	struct sleeps s = {0};
	struct err err;

	for (pid_t i = 1; i <= 999; i++) {
		note.tid = i * 500 % 1009; /* each once, in no order */
		note.nr = (uint64_t)note.tid;
		assert_int_equal(sleeps_add(&s, &note, &err), 0);
	}
	for (size_t i = 0; i < s.notes.n; i++) {
		assert_true(i == 0 || s.notes.v[i - 1].tid < s.notes.v[i].tid);
		assert_int_equal(s.notes.v[i].nr, s.notes.v[i].tid);
	}
	assert_int_equal(s.notes.n, 999);
	note.tid = s.notes.v[500].tid;
	note.nr = 1234;
	assert_int_equal(sleeps_add(&s, &note, &err), 0);
	assert_int_equal(s.notes.n, 999);
	assert_int_equal(s.notes.v[500].nr, 1234);
	sleeps_finish(&s);
}

static long by_code(const char *bytes)
{
	struct sleeps s = {0};
	int fd = memfd_create("code", MFD_CLOEXEC);
	long nr;

	assert_int_equal(write(fd, bytes, 7), 7);
	nr = settled(&s, fd, interrupted(SYS_restart_syscall));
	close(fd);
	sleeps_finish(&s);
	return nr;
}

static void code_tells(void **state)
{
	assert_int_equal(by_code("\xb8\xe6\x00\x00\x00\x0f\x05"), SYS_clock_nanosleep);
	assert_int_equal(by_code("\xb8\x07\x00\x00\x00\x0f\x05"), SYS_poll);
	/* a call that has no restart block; another register; another instruction */
	assert_int_equal(by_code("\xb8\x00\x00\x00\x00\x0f\x05"), SYS_restart_syscall);
	assert_int_equal(by_code("\xb9\x07\x00\x00\x00\x0f\x05"), SYS_restart_syscall);
	assert_int_equal(by_code("\xb8\x07\x00\x00\x00\xcd\x80"), SYS_restart_syscall);
}

/* ---- a child that sleeps ---- */

static struct timespec left;

/* Through a register: the code does not tell. */
static long sleep_by_number(const struct timespec *for_ts)
{
	return syscall(SYS_nanosleep, for_ts, &left);
}

static long sleep_by_code(const struct timespec *for_ts)
{
	long ret;

	__asm__ volatile("mov %1, %%eax\n\tsyscall"
			 : "=a"(ret)
			 : "i"(SYS_nanosleep), "D"(for_ts), "S"(&left)
			 : "rcx", "r11", "memory");
	return ret;
}

static char state_of(pid_t pid)
{
	struct proc_stat st;
	struct err err;

	return proc_stat(pid, &st, &err) ? 0 : st.state;
}

static void await_state(pid_t pid, char state)
{
	for (int tries = 0; state_of(pid) != state; tries++) {
		if (tries == 5000)
			fail_msg("the child does not come to state %c", state);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
}

static pid_t start_sleeper(long (*sleeps)(const struct timespec *))
{
	static const struct timespec long_time = {.tv_sec = 1000};
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		syscall(SYS_close_range, 0, ~0U, 0);
		sleeps(&long_time);
		_exit(1);
	}
	await_state(pid, 'S');
	return pid;
}

static const struct kind_options options = {.ghost_limit = 64 << 20, .shell_job = true};

/* The last capture: the call that its thread is in elsewhere starts again as a sleep of what is left. */
static void check_captured(pid_t pid, struct precopy *p)
{
	const UserX86RegsEntry *regs;
	struct capture_session *s;
	struct err err;

	s = capture_open(pid, &options, &err);
	assert_non_null(s);
	precopy_hand_over(p, s);
	if (capture_freeze(s, 5000, &err) || capture_collect(s, &err))
		fail_msg("%s", err.text);
	regs = capture_state(s)->snap->tasks.v[0]->core[0]->thread_info->gpregs;
	assert_int_equal(regs->ax, SYS_nanosleep);
	assert_int_equal(regs->di, (uintptr_t)&left);
	capture_close(s);
	/* it was not disturbed */
	await_state(pid, 'S');
}

static void end_sleeper(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	assert_true(WIFSIGNALED(status));
}

static void stopped_by_us_before(void **state)
{
	pid_t pid = start_sleeper(sleep_by_number);
	struct precopy *p;
	struct err err;

	p = precopy_open(pid, &options, 5000, &err);
	if (!p && err.no == ENOTSUP) {
		end_sleeper(pid);
		skip_because("%s", err.text);
	}
	if (!p)
		fail_msg("%s", err.text);
	await_state(pid, 'S');
	check_captured(pid, p);
	check_captured(pid, p);
	precopy_close(p);
	end_sleeper(pid);
}

static void handed_over(void **state)
{
	pid_t pid = start_sleeper(sleep_by_number);
	precopy_fds fds = {0};
	struct precopy *p, *next;
	struct err err;
	int state_fd;

	p = precopy_open(pid, &options, 5000, &err);
	if (!p && err.no == ENOTSUP) {
		end_sleeper(pid);
		skip_because("%s", err.text);
	}
	if (!p || precopy_pack(p, &state_fd, &fds, &err))
		fail_msg("%s", err.text);
	for (size_t i = 0; i < fds.n; i++)
		fds.v[i] = dup(fds.v[i]);
	next = precopy_unpack(pid, &options, 5000, state_fd, fds.v, fds.n, &err);
	if (!next)
		fail_msg("%s", err.text);
	precopy_close(p);
	await_state(pid, 'S');
	check_captured(pid, next);
	precopy_close(next);
	close(state_fd);
	vec_free(&fds);
	end_sleeper(pid);
}

static void stopped_by_others_before(void **state)
{
	pid_t pid = start_sleeper(sleep_by_code);

	kill(pid, SIGSTOP);
	await_state(pid, 'T');
	kill(pid, SIGCONT);
	await_state(pid, 'S');
	check_captured(pid, NULL);
	end_sleeper(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(notes_are_found),
		cmocka_unit_test(another_sleep_is_not_taken_for_it),
		cmocka_unit_test(many_threads),
		cmocka_unit_test(code_tells),
		cmocka_unit_test(stopped_by_us_before),
		cmocka_unit_test(handed_over),
		cmocka_unit_test(stopped_by_others_before),
	};

	if (geteuid() != 0) {
		printf("1..0 # SKIP must be root\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
