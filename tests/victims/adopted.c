// SPDX-License-Identifier: Apache-2.0
// A task in the session of a living leader that is neither its parent nor a child of its parent: the
// one between them is dead, and a subreaper further up has adopted the task.
#include "victim.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct ids {
	pid_t pid, ppid, pgid, sid;
};

static struct ids *adopted; // shared by all
static pid_t root;

static struct ids about_me(void)
{
	return (struct ids){getpid(), getppid(), getpgid(0), getsid(0)};
}

static void adopted_main(void *arg)
{
	struct ids is;

	while (getppid() != root)
		victim_sleep_ms(1);
	MUST(setpgid(0, 0));
	is = about_me();
	adopted->ppid = is.ppid;
	adopted->pgid = is.pgid;
	adopted->sid = is.sid;
	__atomic_store_n(&adopted->pid, is.pid, __ATOMIC_RELEASE);
	victim_wait();
	is = about_me();
	CHECK(memcmp(&is, adopted, sizeof(is)) == 0,
	      "was pid %d of %d, group %d, session %d; is %d %d %d %d", adopted->pid, adopted->ppid,
	      adopted->pgid, adopted->sid, is.pid, is.ppid, is.pgid, is.sid);
}

static void leader_main(void *arg)
{
	pid_t between;

	MUST(setsid());
	between = MUST(fork());
	if (between == 0) {
		victim_fork(adopted_main, NULL);
		_exit(0);
	}
	MUST(waitpid(between, NULL, 0));
	victim_wait();
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "the leader has a child");
}

static void middle_main(void *arg)
{
	pid_t leader = victim_fork(leader_main, NULL);

	victim_wait();
	victim_reap(leader);
}

int main(int argc, char **argv)
{
	pid_t middle;

	victim_start(argc, argv);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
	root = getpid();
	adopted = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	middle = victim_fork(middle_main, NULL);
	while (!__atomic_load_n(&adopted->pid, __ATOMIC_ACQUIRE))
		victim_sleep_ms(1);
	CHECK(adopted->ppid == root && adopted->sid != getsid(0), "set-up");
	victim_ready();
	victim_wait();
	victim_reap(adopted->pid);
	victim_reap(middle);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "one child too many");
	victim_pass();
}
