// SPDX-License-Identifier: Apache-2.0
#include "migrate/record.h"

#include "base/io.h"
#include "kernel/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

/* How long a query waits for an agent that is just committing. */
enum { SETTLE_MS = 10000, SETTLE_STEP_MS = 20 };

enum { LINE_BYTES = 128 };

/* Nobody else may write to it. */
int record_directory(struct err *err)
{
	const char *base = geteuid() == 0 ? "/run" : getenv("XDG_RUNTIME_DIR");
	char path[PATH_MAX];
	int fd;

	if (!base || base[0] != '/')
		return err_set(err, ENOENT, "no directory for records: XDG_RUNTIME_DIR is not set");
	if ((size_t)snprintf(path, sizeof(path), "%s/ferry", base) >= sizeof(path))
		return err_sysno(err, ENAMETOOLONG, "%.200s", base);
	fd = io_own_directory(path, 022, err);
	return fd < 0 ? err_wrap(err, "the directory of records") : fd;
}

void record_name(const char *token, const char *what, char out[RECORD_NAME_BYTES])
{
	snprintf(out, RECORD_NAME_BYTES, "%.*s%s", WIRE_TOKEN_CHARS, token, what);
}

void record_remove_file(const char *token, const char *what)
{
	struct err ignored;
	cleanup_close int dirfd = record_directory(&ignored);
	char name[RECORD_NAME_BYTES];

	record_name(token, what, name);
	if (dirfd >= 0)
		unlinkat(dirfd, name, 0);
}

static uint64_t start_time_of(pid_t pid)
{
	struct proc_stat st;
	struct err ignored;

	return pid > 0 && proc_stat(pid, &st, &ignored) == 0 && st.state != 'Z' ? st.start_time : 0;
}

/*
 * The text of a record. The first line: state, root of the tree, agent; both with their times of start.
 * Then one line for each task that may miss memory. The caller frees it; NULL: no memory.
 */
static char *print_record(const char *state, pid_t pid, const proc_pids *tasks)
{
	size_t room = LINE_BYTES * (1 + (tasks ? tasks->n : 0)), n;
	char *text = malloc(room);

	if (!text)
		return NULL;
	n = (size_t)snprintf(text, room, "%s %d %" PRIu64 " %d %" PRIu64 "\n", state, pid,
			     start_time_of(pid), getpid(), start_time_of(getpid()));
	for (size_t i = 0; tasks && i < tasks->n; i++)
		n += (size_t)snprintf(text + n, room - n, "%d %" PRIu64 "\n", tasks->v[i],
				      start_time_of(tasks->v[i]));
	return text;
}

static int write_record(int fd, const char *state, pid_t pid)
{
	cleanup_free char *text = print_record(state, pid, NULL);

	if (!text || io_pwrite_full(fd, text, strlen(text), 0) < 0)
		return -1;
	return ftruncate(fd, (off_t)strlen(text));
}

int record_create_file(int dirfd, const char *name, const struct iovec *pieces, size_t n)
{
	cleanup_close int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char link[64];

	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (io_write_full(fd, pieces[i].iov_base, pieces[i].iov_len) < 0)
			return -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, link, dirfd, name, AT_SYMLINK_FOLLOW) < 0)
		return -1;
	return steal_fd(&fd);
}

/* A record with its first text. */
static int create_record(int dirfd, const char *token, const char *state, pid_t pid,
			 const proc_pids *tasks)
{
	cleanup_free char *text = print_record(state, pid, tasks);
	const struct iovec piece = {text, text ? strlen(text) : 0};

	return text ? record_create_file(dirfd, token, &piece, 1) : -1;
}

int record_claim(const char *token, pid_t pid, const proc_pids *lacking, struct err *err)
{
	cleanup_close int dirfd = -1;
	int fd;

	if (!wire_token_valid(token))
		return err_set(err, EPROTO, "not a token");
	dirfd = record_directory(err);
	if (dirfd < 0)
		return -1;
	/* with the agent a tree that lacks memory ends, whatever it was about to write here */
	fd = create_record(dirfd, token, lacking ? "filling" : "committing", pid, lacking);
	if (fd < 0 && errno == EEXIST)
		return err_set(err, EEXIST,
			       "the source has taken the commit back: it lost this connection");
	return fd < 0 ? err_sys(err, "cannot record the commit") : fd;
}

int record_settle(int fd, pid_t pid, enum record_outcome outcome, struct err *err)
{
	int rc = 0;

	if (outcome != RECORD_FILLING)
		rc = write_record(fd, outcome == RECORD_FAILED ? "failed" : "running", pid);
	if (rc < 0)
		err_sys(err, "cannot record the commit");
	close(fd);
	return rc;
}

int record_filled(const char *token, pid_t pid, struct err *err)
{
	cleanup_close int dirfd = record_directory(err);
	int fd;

	if (dirfd < 0)
		return -1;
	fd = openat(dirfd, token, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX) < 0) {
		err_sys(err, "cannot record that all memory has come");
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return record_settle(fd, pid, RECORD_RUNNING, err);
}

void record_remove(const char *token)
{
	cleanup_close int dirfd = -1;
	struct err ignored;

	if (!wire_token_valid(token))
		return;
	dirfd = record_directory(&ignored);
	if (dirfd >= 0)
		unlinkat(dirfd, token, 0);
}

/* Waits until no agent holds the record. */
static int wait_unlocked(int fd, struct err *err)
{
	const struct timespec step = {.tv_nsec = SETTLE_STEP_MS * 1000000L};

	for (int waited_ms = 0; flock(fd, LOCK_SH | LOCK_NB) < 0; waited_ms += SETTLE_STEP_MS) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return err_sys(err, "cannot lock the record");
		if (waited_ms >= SETTLE_MS)
			return err_set(err, ETIMEDOUT, "the agent is still committing");
		nanosleep(&step, NULL);
	}
	return 0;
}

/* A process of a record: is it still the one that was meant? */
static bool lives(pid_t pid, uint64_t start_time)
{
	return start_time && start_time_of(pid) == start_time;
}

static void end_process(pid_t pid, uint64_t start_time)
{
	cleanup_close int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd >= 0 && lives(pid, start_time))
		(void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
}

/* One task of a tree, and all that it has forked. */
static void end_branch(pid_t pid, uint64_t start_time)
{
	proc_pids below;
	struct err ignored;

	if (!lives(pid, start_time))
		return;
	if (proc_tree(pid, &below, &ignored) == 0) {
		vec_foreach (p, &below)
			end_process(*p, start_time_of(*p));
		vec_free(&below);
	}
	end_process(pid, start_time);
}

/* The tasks that the lines after the first name. True: none of them is left. */
static bool end_tasks(const char *text)
{
	const char *line = text;
	uint64_t start_time;
	bool ended = true;
	pid_t pid;

	while ((line = strchr(line, '\n')) != NULL) {
		line++;
		if (sscanf(line, "%d %" SCNu64, &pid, &start_time) != 2)
			continue;
		end_branch(pid, start_time);
		ended &= !lives(pid, start_time);
	}
	return ended;
}

/*
 * Without its agent a tree that misses memory is worth nothing, and the guardian (mem/guardian.h) ends it. If
 * that was killed, too, what is missing reads as zeros: so it is ended here as well, whoever was first.
 */
static enum wire_fate fate_of_filling(const char *text, pid_t agent, uint64_t agent_start)
{
	const struct timespec step = {.tv_nsec = SETTLE_STEP_MS * 1000000L};

	for (int waited_ms = 0; waited_ms < SETTLE_MS; waited_ms += SETTLE_STEP_MS) {
		if (lives(agent, agent_start))
			return WIRE_FATE_FILLING;
		if (end_tasks(text))
			return WIRE_FATE_LOST;
		nanosleep(&step, NULL);
	}
	return WIRE_FATE_FILLING; /* something of it does not end: not for us to say that it is gone */
}

static int read_record(int dirfd, const char *token, enum wire_fate *fate_out, pid_t *pid_out,
		       struct err *err)
{
	cleanup_close int fd = openat(dirfd, token, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_free char *text = NULL;
	uint64_t root_start, agent_start;
	char state[16];
	pid_t agent;

	if (fd < 0)
		return err_sys(err, "cannot read the record of the commit");
	if (wait_unlocked(fd, err) < 0)
		return -1;
	if (io_read_file(dirfd, token, &text, NULL) < 0 ||
	    sscanf(text, "%15s %d %" SCNu64 " %d %" SCNu64, state, pid_out, &root_start, &agent,
		   &agent_start) != 5)
		return err_set(err, EINVAL, "the record of the commit cannot be read");
	/*
	 * "committing" without a lock: the agent died in the act. The tree dies with an agent that
	 * did not let go of it, so if the root is there, it runs.
	 */
	if (!strcmp(state, "filling"))
		*fate_out = fate_of_filling(text, agent, agent_start);
	else if (!strcmp(state, "running") ||
		 (!strcmp(state, "committing") && lives(*pid_out, root_start)))
		*fate_out = WIRE_FATE_RUNNING;
	else
		*fate_out = WIRE_FATE_NEVER;
	return 0;
}

int record_query(const char *token, enum wire_fate *fate_out, pid_t *pid_out, struct err *err)
{
	cleanup_close int dirfd = -1, fd = -1;

	*pid_out = 0;
	if (!wire_token_valid(token))
		return err_set(err, EPROTO, "not a token");
	dirfd = record_directory(err);
	if (dirfd < 0)
		return -1;
	fd = create_record(dirfd, token, "revoked", 0, NULL);
	if (fd >= 0) {
		*fate_out = WIRE_FATE_NEVER;
		return 0;
	}
	if (errno != EEXIST)
		return err_sys(err, "cannot take the commit back");
	return read_record(dirfd, token, fate_out, pid_out, err);
}
