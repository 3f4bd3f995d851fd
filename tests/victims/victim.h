// SPDX-License-Identifier: Apache-2.0
/*
 * What all victims have in common.
 *
 * A victim is a small program that sets up one kind of state, says that it is ready, waits, then
 * looks at every bit of that state again and gives a verdict. Whatever happens to it between
 * "ready" and the verdict (a dump, a restore, a migration, a coordinator killed half way) must not
 * be visible to it.
 *
 *	NAME DIR	starts in the background, in a session of its own, stdio on /dev/null, no
 *			other descriptors; the command returns when the victim is ready
 *
 * Files in DIR (an existing directory, writable for all):
 *	pid		pid of the victim's first process, a session leader
 *	ready		exists as soon as the state is set up
 *	verify		created by the test: now check yourself
 *	result		"PASS", "FAIL: reason" or "SKIP: reason"
 *	reason		what a child or thread of the victim found wrong
 *
 * The files are opened for moments only: a waiting victim has no descriptor that its kind does
 * not ask for.
 */
#ifndef VICTIM_H
#define VICTIM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#define VICTIM_PAGE ((size_t)4096)

// Take arguments, go to the background. The first call of every victim.
void victim_start(int argc, char **argv);

// The state is set up: let the command that started the victim return.
void victim_ready(void);

// The calling process is the victim from now on, and says so in DIR/pid.
void victim_adopt(void);

// Sleep until the test asks for the verdict. Touches no descriptor, no signal, no memory.
void victim_wait(void);

// True as soon as the test has asked for the verdict; for victims that must stay busy.
bool victim_asked(void);

// The three verdicts. In a child of the victim the first means exit code 0, the second 1.
_Noreturn void victim_pass(void);
_Noreturn void victim_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
_Noreturn void victim_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

// The directory was moved out of reach (chroot): use this path from now on.
void victim_set_dir(const char *dir);
const char *victim_dir(void);

// "DIR/name"; a static buffer that lives until the fourth call after this one.
const char *victim_path(const char *name);

// Fork a child that runs fn and then exits 0; the child is in the parent's session and group.
pid_t victim_fork(void (*fn)(void *), void *arg);

// Wait for such a child; its failure is the victim's.
void victim_reap(pid_t pid);

// Memory at an address of its own choice, filled or not. Dies on failure.
void *victim_map(size_t bytes, int prot, int flags);

// Fill with / compare to a pattern that depends on tag and offset. The check returns the offset of
// the first wrong byte or -1.
void victim_fill(void *ptr, size_t bytes, unsigned int tag);
ssize_t victim_check(const void *ptr, size_t bytes, unsigned int tag);

// A page whose words tell its place and how often it was written. The check fails at the first wrong word.
void victim_write_page(char *page, uint64_t place, uint32_t generation);
void victim_check_page(const char *page, uint64_t place, uint32_t generation);

// The next of a sequence of 31-bit numbers.
uint64_t victim_random(uint64_t *state);

// Whole text of a file (NUL terminated, heap). Dies on failure.
char *victim_read_file(const char *path);

// Lines of a /proc status file whose key is in keys (NULL terminated), as one heap string.
char *victim_lines(const char *path, const char *const *keys);

// Physical frame of the page at addr in process pid, 0 when not present or not known.
uint64_t victim_pfn(pid_t pid, const void *addr);

// The maps line (without its newline) that contains addr, heap, or NULL.
char *victim_maps_line(const void *addr);

// Do two such lines say the same? Of a program that was moved to another host (the test made
// DIR/moved), device and inode may differ.
bool victim_same_area(const char *was, const char *is);

// True if the test says that this is another host than the one we started on: files are copies.
bool victim_moved(void);

// VmFlags of the area that contains addr, heap.
char *victim_vmflags(const void *addr);

// Monotonic and boot time, in nanoseconds.
int64_t victim_now_ns(void);

void victim_sleep_ms(long ms);

// Are these two descriptors one open file description?
bool victim_same_file(pid_t pid1, int fd1, pid_t pid2, int fd2);

#define CHECK(cond, ...)                                              \
	do {                                                          \
		if (!(cond))                                          \
			victim_fail(__FILE__, __LINE__, __VA_ARGS__); \
	} while (0)

// For calls that return -1 and set errno.
#define MUST(call)                                                                         \
	({                                                                                 \
		__typeof__(call) must_ret_ = (call);                                       \
		if (must_ret_ == (__typeof__(call))-1)                                     \
			victim_fail(__FILE__, __LINE__, "%s: %s", #call, strerror(errno)); \
		must_ret_;                                                                 \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
