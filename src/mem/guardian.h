// SPDX-License-Identifier: Apache-2.0
/*
 * The guardian of a tree that runs with missing pages.
 *
 * When the last descriptor of a userfaultfd is closed, threads that wait for a
 * page go on with a page of zeros: silent corruption, should the process that fills the
 * memory be killed. So there is a second process. It shares the table of
 * descriptors of the first (CLONE_FILES): whatever userfaultfd that one has, or gets with a fork of the
 * program, stays open in the moment in which it dies. Then the guardian
 *
 *	- kills the tasks of the tree (GUARDIAN_KILL), which it knows by their
 *	  pidfds, and their descendants;
 *	- answers what still faults with UFFDIO_POISON (SIGBUS), where the kernel has it, or leaves it
 *	  waiting; and lets no page of zeros happen;
 *	- stays until no address space is left.
 *
 * With GUARDIAN_HOLD it kills and poisons nothing: threads that need missing pages wait
 * for ever, or until somebody kills them.
 *
 * If the guardian is killed, the first process notices (guardian_check) and starts another. Its name
 * and its command line are "ferry-guardian". Against one who kills both in the same moment there is no
 * help in the kernel: see record_query in migrate/record.h for what is done then.
 */
#ifndef FERRY_MEM_GUARDIAN_H
#define FERRY_MEM_GUARDIAN_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

enum guardian_policy { GUARDIAN_KILL, GUARDIAN_HOLD };

struct guardian;

/*
 * Starts it, as a child of the calling process, in a session of its own. May
 * be called before or after threads and userfaultfds exist. Its end is waited for with
 * __WALL only; it sends no SIGCHLD.
 */
struct guardian *guardian_start(enum guardian_policy policy, struct err *err) must_check;

/* One more task to kill. The pidfd must stay open until guardian_forget. */
int guardian_watch(struct guardian *g, int pidfd, struct err *err) must_check;
void guardian_forget(struct guardian *g, int pidfd);

/* Is it alive? If not, starts another. Cheap: may be called often. */
int guardian_check(struct guardian *g, struct err *err) must_check;
pid_t guardian_pid(const struct guardian *g);

/* Ends it: nothing is missing any more, or the tree is dead. NULL allowed. */
void guardian_end(struct guardian *g);

#endif
