// SPDX-License-Identifier: Apache-2.0
/*
 * Two processes, so that the tree runs at most once whatever dies.
 *
 * The command that the user started (the front) starts ssh and then a second
 * process, the driver, in a session of its own. The driver holds the frozen
 * tree; it is the only tracer. Between the two is a socket (the link).
 *
 *	front dies	the link ends. Before the commit the driver undoes and
 *			thaws, after it the driver finishes on its own.
 *	driver dies	before the commit the kernel frees the traced tree, which
 *			runs on at home: nobody else may run it yet.
 *
 * That leaves the moment between sending COMMIT and killing the tree at home.
 * A tree that the kernel frees then would run twice. So before COMMIT the
 * driver arms: it has told the front which processes the tree has, says that
 * from now on it matters, and sends SIGSTOP to each of them, which stays
 * pending while the tree is traced and stops it when the tracer is gone. If the driver dies now, the tree
 * stands stopped, and the front settles the matter: it asks the destination
 * (connect_query), and then ends the tree or continues it (SIGCONT). If both
 * die, the tree stays stopped, which is the safe side.
 *
 * The same question is asked when the connection breaks in that moment. The
 * two generals cannot agree over a broken line; but here one of them can make
 * the other's decision impossible: a query that arrives before the commit
 * takes it back for good (record.h). Until the answer is there, nothing runs at
 * home.
 */
#ifndef FERRY_MIGRATE_KEEPER_H
#define FERRY_MIGRATE_KEEPER_H

#include "base/vec.h"
#include "migrate/connect.h"

/* What the user wants when the destination cannot be asked. */
enum on_unknown {
	UNKNOWN_WAIT, /* ask again until there is an answer */
	UNKNOWN_HOME, /* after a while let the tree at home run */
	UNKNOWN_END,  /* after a while end it */
};

enum settled {
	SETTLED_NEVER,   /* it will never run there */
	SETTLED_RUNNING, /* it ran there */
	SETTLED_FILLING, /* it runs there, and needs memory from here */
	SETTLED_LEFT,    /* the user stopped asking: leave the tree stopped */
};

struct kept_task {
	int32_t pid;
	int32_t stop; /* it ran: we stopped it, so we may continue it */
};
typedef VEC(struct kept_task) kept_tasks;

struct settle_options {
	const struct remote *remote;
	const char *token;
	enum on_unknown on_unknown;
	unsigned int unknown_after_s;
};

/* ---- driver ---- */

/* A wish of the user's (or the end of the front) has arrived on the link: -1, EINTR. */
int link_check(int link, struct err *err) must_check;

/* Is there no front any more? */
bool link_ended(int link);

/* Tells the front which tasks there are, while there is time for it. It does nothing with them before keeper_arm. */
int keeper_tell(int link, const kept_tasks *tasks, struct err *err) must_check;

/* From now on the front settles the tree's fate if we die. Stops every task that is to be stopped; the front knows them. */
int keeper_arm(int link, const kept_tasks *tasks, struct err *err) must_check;

/* Takes the stops back (@continue_tasks) or not, and tells the front that nothing is left to keep. */
void keeper_disarm(int link, const kept_tasks *tasks, bool continue_tasks);

/* Asks until there is an answer: by the front, which has the terminal, or without it ourselves. */
enum settled keeper_settle(int link, const struct settle_options *opt);

/* ---- front ---- */

/* Watches the driver until its end. Returns its exit status, or 1 after it was killed (and all is settled). */
int front_watch(int link, pid_t driver, const struct settle_options *opt);

#endif
