// SPDX-License-Identifier: Apache-2.0
/*
 * A freeze that goes by what was seen of areas before: what did not change is right, what came or went is
 * looked at, and what was changed in place in the moment in between is found before the end.
 */
#include "unit.h"

#include "capture/capture.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define AREA_BYTES (80UL << 20)
#define SMALL_BYTES (1UL << 20)

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum command { NOTHING, ADVICE, LOCK, GUARD, NEW_AREA };

static struct {
	volatile int command, done, guards_work;
	uint8_t *area, *small;
} * board;

static void child_main(void)
{
	uint8_t *area, *small;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	syscall(SYS_close_range, 0, ~0U, 0);
	area = mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	board->area = area;
	madvise(area, AREA_BYTES, MADV_DONTDUMP);
	memset(area, 1, AREA_BYTES);
	board->guards_work = madvise(area + AREA_BYTES / 2, 4096, MADV_GUARD_INSTALL) == 0;
	for (board->done = 1;; nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL)) {
		if (board->command == NOTHING)
			continue;
		if (board->command == ADVICE)
			madvise(area, AREA_BYTES, MADV_DONTFORK);
		if (board->command == LOCK)
			syscall(SYS_mlock2, area, AREA_BYTES, MLOCK_ONFAULT);
		if (board->command == GUARD)
			madvise(area, 4096, MADV_GUARD_INSTALL);
		if (board->command == NEW_AREA) {
			small = mmap(NULL, SMALL_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1,
				     0);
			board->small = small;
			madvise(small, SMALL_BYTES, MADV_DONTFORK);
		}
		board->command = NOTHING;
		board->done = 1;
	}
}

static void await_child(void)
{
	for (int tries = 0; !board->done; tries++) {
		if (tries == 20000)
			fail_msg("the child does not answer");
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
}

static pid_t start(void)
{
	pid_t pid;

	memset((void *)board, 0, sizeof(*board));
	pid = fork();
	if (pid == 0)
		child_main();
	await_child();
	return pid;
}

static const struct kind_options options = {.ghost_limit = 64 << 20, .shell_job = true};

/* Looks, has the child do something, and freezes. */
static struct capture_session *freeze_after(pid_t pid, enum command command)
{
	struct capture_session *s;
	struct err err;

	s = capture_open(pid, &options, &err);
	if (!s || capture_look_ahead(s, &err))
		fail_msg("%s", err.text);
	board->done = command == NOTHING;
	board->command = command;
	await_child();
	if (capture_freeze(s, 5000, &err) || capture_collect(s, &err))
		fail_msg("%s", err.text);
	return s;
}

static const MmEntry *mm_of(struct capture_session *s)
{
	return capture_state(s)->snap->tasks.v[0]->mm;
}

static bool is_within(const VmaEntry *v, const uint8_t *start, size_t bytes)
{
	return v->start >= (uintptr_t)start && v->end <= (uintptr_t)start + bytes;
}

/* Areas of ours with this advice: the kernel and sanitizers give some to theirs. */
static unsigned int count(const MmEntry *mm, int advice)
{
	unsigned int n = 0;

	for (size_t i = 0; i < mm->n_vmas; i++)
		n += mm->vmas[i]->has_madv && mm->vmas[i]->madv >> advice & 1 &&
		     mm->vmas[i]->end - mm->vmas[i]->start >= SMALL_BYTES &&
		     (is_within(mm->vmas[i], board->area, AREA_BYTES) ||
		      is_within(mm->vmas[i], board->small, SMALL_BYTES));
	return n;
}

static unsigned int count_guards(const MmEntry *mm)
{
	unsigned int n = 0;

	for (size_t i = 0; i < mm->n_vmas; i++)
		n += (mm->vmas[i]->status & VMA_GUARD) != 0;
	return n;
}

static void end(pid_t pid, struct capture_session *s)
{
	capture_close(s);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void unchanged(void **state)
{
	pid_t pid = start();
	struct capture_session *s = freeze_after(pid, NOTHING);
	struct err err;

	assert_int_equal(count(mm_of(s), MADV_DONTDUMP), 1);
	assert_int_equal(count_guards(mm_of(s)), board->guards_work);
	if (capture_confirm(s, &err))
		fail_msg("%s", err.text);
	end(pid, s);
}

/* Of another area nothing is known: all are looked at. */
static void a_new_area_is_looked_at(void **state)
{
	pid_t pid = start();
	struct capture_session *s = freeze_after(pid, NEW_AREA);
	struct err err;

	assert_int_equal(count(mm_of(s), MADV_DONTFORK), 1);
	assert_int_equal(count(mm_of(s), MADV_DONTDUMP), 1);
	assert_int_equal(count_guards(mm_of(s)), board->guards_work);
	if (capture_confirm(s, &err))
		fail_msg("%s", err.text);
	end(pid, s);
}

static void must_be_found(enum command command)
{
	pid_t pid = start();
	struct capture_session *s;
	struct err err;

	if (command == GUARD && !board->guards_work) {
		end(pid, NULL);
		skip_because("no guard regions here");
	}
	s = freeze_after(pid, command);
	assert_int_equal(capture_confirm(s, &err), -1);
	assert_int_equal(err.no, EAGAIN);
	capture_close(s);
	/* and the next one has it right */
	s = freeze_after(pid, NOTHING);
	if (command == ADVICE)
		assert_int_equal(count(mm_of(s), MADV_DONTFORK), 1);
	if (command == GUARD)
		assert_int_equal(count_guards(mm_of(s)), 2);
	if (capture_confirm(s, &err))
		fail_msg("%s", err.text);
	end(pid, s);
}

static void advice_is_found(void **state)
{
	must_be_found(ADVICE);
}

static void locks_are_found(void **state)
{
	must_be_found(LOCK);
}

static void guards_are_found(void **state)
{
	must_be_found(GUARD);
}

/* Whoever does not ask gets the thread's end all the same. */
static void not_asked(void **state)
{
	pid_t pid = start();

	end(pid, freeze_after(pid, ADVICE));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unchanged),        cmocka_unit_test(a_new_area_is_looked_at),
		cmocka_unit_test(advice_is_found),  cmocka_unit_test(locks_are_found),
		cmocka_unit_test(guards_are_found), cmocka_unit_test(not_asked),
	};

	if (geteuid() != 0) {
		printf("1..0 # SKIP must be root\n");
		return 0;
	}
	board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
