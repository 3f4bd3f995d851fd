// SPDX-License-Identifier: Apache-2.0
/*
 * Locks on files: flock and OFD locks belong to an open file description,
 * POSIX locks to the descriptor table of a process.
 */
#ifndef FERRY_KINDS_LOCKS_H
#define FERRY_KINDS_LOCKS_H

#include "kinds/kind.h"

/* FileLockEntry.flag */
enum lock_flag { LOCK_FLAG_POSIX = 1, LOCK_FLAG_FLOCK = 2, LOCK_FLAG_OFD = 4, LOCK_FLAG_LEASE = 8 };

struct lock_facts {
	enum lock_flag flag;
	int type; /* F_RDLCK, F_WRLCK, F_UNLCK */
	uint64_t ino, start;
	uint64_t len; /* 0: to the end */
};

/* Does this text of an fdinfo show a lock? A wrong yes, as of a text that another kind has there, only costs time. */
bool locks_shown(const char *fdinfo);

/* One "lock:" line of fdinfo; false if it is not one. */
bool locks_parse_line(const char *line, struct lock_facts *lock);

/*
 * Adds the locks that the tree holds to the snapshot, once all c->fds are
 * known. Without --file-locks a lock is an error that names pid, fd and range;
 * leases always are. With c->preflight only the errors.
 */
int locks_capture(struct capture *c, struct err *err) must_check;

/* Can every lock of the images be taken, as far as the images tell? Called by broker_check. */
int locks_check(struct restore *r, struct err *err) must_check;

/* Takes the flock and OFD locks on the broker's descriptors; after broker_open_all. */
int locks_restore_shared(struct restore *r, struct err *err) must_check;

/*
 * Appends the POSIX locks of a task, from lock *next on (0 at first), as many
 * as the script has room for; true if there are more. Closing any descriptor
 * of a file drops the task's locks on it, so this comes after the last close in
 * that task.
 */
bool locks_emit(struct restore *r, const struct snap_task *t, size_t *next, struct script *s);

#endif
