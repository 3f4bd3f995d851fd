// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/treeroot.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "lazyfs/carried.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum {
	READY_MS = 60000, /* ssh may take its time */
	ANSWER_MS = 30000,
	PING_MS = 10000,
	ORDER_BYTES_MAX = 64 * 1024 * 1024,
	RANGE_BYTES = 48, /* of "@FROM-TO" with its NUL, at the most */
};

enum order { ORDER_PRIME_AHEAD, ORDER_PRIME, ORDER_CARRY, ORDER_COMMIT, ORDER_ABANDON };

/* Over the control socket; what follows an order are pieces of text, each with its NUL, or the list of carried.h. */
struct order_head {
	uint32_t order, bytes;
};

struct answer {
	int32_t no; /* 0: done */
	char text[sizeof(((struct err *)NULL)->text)];
};

/* The process that serves. */
struct attendant {
	const struct treeroot_options *opt;
	struct want want; /* the files are set by ORDER_PRIME */
	char cache[PATH_MAX];
	int cache_fd, fuse_fd, control;
	struct pool pool;
	struct lazyfs *_Atomic fs;
	atomic_bool committed, over;
	pthread_t pinger;
	bool pinging;
};

/* ---- the mount ---- */

static int set_up_fs(int fs, int fuse_fd, const char *source)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", fuse_fd);
	/* for mount(8) only, and not known to every kernel */
	(void)!fsconfig(fs, FSCONFIG_SET_STRING, "subtype", "ferry", 0);
	if (fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "fd", number, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "rootmode", "40000", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "user_id", "0", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "group_id", "0", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_FLAG, "default_permissions", NULL, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_FLAG, "allow_other", NULL, 0) < 0)
		return -1;
	return fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
}

static int make_mount(const char *source, int *fuse_out, int *mount_out, struct err *err)
{
	static const char remedy[] =
		"load the module (modprobe fuse), or copy the files (migrate --files=copy)";
	cleanup_close int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC), fs = -1;

	if (fuse < 0)
		return err_sys(err, "no FUSE (/dev/fuse), which lazy files need: %s", remedy);
	fs = fsopen("fuse", FSOPEN_CLOEXEC);
	if (fs < 0)
		return err_sys(err, "no FUSE in the kernel, which lazy files need: %s", remedy);
	if (set_up_fs(fs, fuse, source) < 0)
		return err_sys(err, "cannot make a FUSE file system");
	*mount_out = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (*mount_out < 0)
		return err_sys(err, "cannot mount a FUSE file system");
	*fuse_out = steal_fd(&fuse);
	return 0;
}

/* ---- the process: its cache ---- */

static int make_cache(struct attendant *a, struct err *err)
{
	const char *dir = a->opt->cache_dir;

	if ((size_t)snprintf(a->cache, sizeof(a->cache), "%s/ferry-lazyfs-XXXXXX", dir) >=
	    sizeof(a->cache))
		return err_set(err, ENAMETOOLONG, "%.200s: too long", dir);
	if (!mkdtemp(a->cache))
		return err_sys(err, "%.200s: cannot make a cache there", dir);
	a->cache_fd = open(a->cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return a->cache_fd < 0 ? err_sys(err, "%.200s", a->cache) : 0;
}

static void remove_cache(struct attendant *a)
{
	cleanup_dir DIR *dir = a->cache_fd >= 0 ? fdopendir(dup(a->cache_fd)) : NULL;
	const struct dirent *d;

	while (dir && (d = readdir(dir)))
		if (d->d_name[0] != '.')
			(void)unlinkat(a->cache_fd, d->d_name, 0);
	if (a->cache_fd >= 0)
		(void)rmdir(a->cache);
}

/* ---- the process: what it is told ---- */

typedef VEC(struct lazyfs_part) part_list;

static int answer(struct attendant *a, int no, const char *text)
{
	struct answer msg = {.no = no};

	snprintf(msg.text, sizeof(msg.text), "%s", text);
	return io_write_full(a->control, &msg, sizeof(msg));
}

/* One piece of the text of an order: a path, or "@FROM-TO", the part of the last path that will be read. */
static int take_piece(struct attendant *a, const char *piece, part_list *out)
{
	struct lazyfs_part part = {0};
	struct want_file f = {.size = UINT64_MAX};

	if (*piece == '@') {
		if (!out->n || sscanf(piece, "@%" SCNu64 "-%" SCNu64, &out->v[out->n - 1].from,
				      &out->v[out->n - 1].to) != 2)
			return EPROTO;
		return 0;
	}
	f.path = part.path = arena_strdup(&a->want.arena, piece);
	return part.path && vec_push(out, part) && vec_push(&a->want.files, f) ? 0 : ENOMEM;
}

static int prime(struct attendant *a, struct lazyfs *fs, char *text, size_t bytes, bool ahead)
{
	cleanup_free const char **paths = NULL;
	part_list parts = {0};
	int error = 0;

	a->want.files.n = 0;
	for (const char *p = text; p < text + bytes && !error; p += strlen(p) + 1)
		error = take_piece(a, p, &parts);
	paths = calloc(parts.n + 1, sizeof(*paths));
	if (!error && !paths)
		error = ENOMEM;
	for (size_t i = 0; i < parts.n && !error; i++)
		paths[i] = parts.v[i].path;
	if (!error)
		error = lazyfs_prime(fs, paths, parts.n, true);
	if (!error)
		lazyfs_warm(fs, parts.v, parts.n);
	if (!error && ahead)
		lazyfs_await_warm(fs);
	vec_free(&parts);
	return error;
}

/* As LAZYFS_DETACH_XATTR has them: each with its NUL. */
static int begin_detach(const struct treeroot_options *opt, struct lazyfs *fs)
{
	cleanup_free char *text = NULL;
	size_t bytes = 0;
	char *at;

	for (size_t i = 0; i < opt->n_whole; i++)
		bytes += strlen(opt->whole[i]) + 1;
	text = at = malloc(bytes + 1);
	if (!text)
		return ENOMEM;
	for (size_t i = 0; i < opt->n_whole; i++)
		at = stpcpy(at, opt->whole[i]) + 1;
	return lazyfs_detach(fs, text, bytes, false);
}

/* The tree has its files also when nothing is brought ahead: no failure of it is one of the migration. */
static void begin_fill(const struct treeroot_options *opt, struct lazyfs *fs)
{
	struct err err;
	int error;

	if (opt->detach) {
		error = begin_detach(opt, fs);
		if (error)
			log_warn("the source will not be let go: %s", strerror(error));
	} else if (opt->fill && lazyfs_fill(fs, &err) < 0) {
		log_warn("%s", err.text);
	}
}

static int obey(struct attendant *a, enum order order, char *text, size_t bytes)
{
	struct lazyfs *fs = atomic_load(&a->fs);

	if (!fs)
		return EPROTO;
	switch (order) {
	case ORDER_PRIME_AHEAD:
	case ORDER_PRIME:
		return prime(a, fs, text, bytes, order == ORDER_PRIME_AHEAD);
	case ORDER_CARRY:
		return lazyfs_take_carried(fs, (const uint8_t *)text, bytes);
	case ORDER_COMMIT:
		atomic_store(&a->committed, true);
		lazyfs_send_home(fs, a->opt->writeback);
		begin_fill(a->opt, fs);
		return 0;
	case ORDER_ABANDON:
		lazyfs_send_home(fs, false);
		atomic_store(&a->committed, false);
		return 0;
	}
	return EPROTO;
}

/* An order and what comes with it; false: the maker is gone. */
static bool next_order(struct attendant *a, struct order_head *head, char **text_out)
{
	if (io_read_full(a->control, head, sizeof(*head)) < 0 || head->bytes > ORDER_BYTES_MAX)
		return false;
	*text_out = calloc(1, head->bytes + 1u);
	return *text_out && io_read_full(a->control, *text_out, head->bytes) == 0;
}

static void *listen_to_maker(void *arg)
{
	struct attendant *a = arg;
	struct order_head head;

	for (;;) {
		cleanup_free char *text = NULL;
		int error;

		if (!next_order(a, &head, &text))
			break;
		error = obey(a, head.order, text, head.bytes);
		if (answer(a, error, error ? strerror(error) : "") < 0)
			break;
	}
	if (atomic_load(&a->committed))
		return NULL;
	/* without a maker the tree will never be; whoever has been built of it is being killed */
	remove_cache(a);
	if (a->opt->link->end)
		a->opt->link->end(a->opt->link->arg);
	_exit(1);
}

static bool is_over(void *arg)
{
	return atomic_load(&((struct attendant *)arg)->over);
}

static void *ping(void *arg)
{
	struct attendant *a = arg;
	uint64_t next = clock_ms() + PING_MS;

	while (!is_over(a)) {
		(void)poll(NULL, 0, PATIENCE_STEP_MS);
		if (clock_ms() < next)
			continue;
		(void)lazyfs_ping(atomic_load(&a->fs), is_over, a);
		next = clock_ms() + PING_MS;
	}
	return NULL;
}

static int start_thread(pthread_t *thread, void *(*run)(void *arg), void *arg, struct err *err)
{
	int no = pthread_create(thread, NULL, run, arg);

	return no ? err_sysno(err, no, "cannot start a thread") : 0;
}

/* ---- the process: its work ---- */

static struct lazyfs *set_up(struct attendant *a, struct err *err)
{
	const struct treeroot_options *t = a->opt;
	const struct lazyfs_options opt = {
		.source = t->source,
		.fuse_fd = a->fuse_fd,
		.cache_fd = a->cache_fd,
		.pool = &a->pool,
		.local_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC),
		.timeout_ms = t->timeout_ms,
		.writeback = t->writeback,
		.held = t->writeback,
		.everything = true,
		.allow_other = true,
	};
	struct lazyfs *fs;
	pthread_t listener;

	if (start_thread(&listener, listen_to_maker, a, err) < 0)
		return NULL;
	pthread_detach(listener); /* the process does not wait for it */
	fs = lazyfs_create(t->link, &a->want, &opt, err);
	if (!fs)
		return NULL;
	atomic_store(&a->fs, fs);
	if (lazyfs_mount(fs, err) < 0 || (t->ping && start_thread(&a->pinger, ping, a, err) < 0)) {
		lazyfs_free(fs);
		return NULL;
	}
	a->pinging = t->ping;
	return fs;
}

/* What ssh had to say is the better reason. */
static void add_words(int words_fd, struct err *err)
{
	char text[300];
	ssize_t n = pread(words_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return;
	text[n] = '\0';
	text[strcspn(text, "\r\n")] = '\0';
	err_wrap(err, "%s", text);
}

static void attend(struct attendant *a, int words_fd)
{
	struct lazyfs *fs = NULL;
	struct err err;
	int log_fd;

	if (make_cache(a, &err) == 0) {
		log_fd = openat(a->cache_fd, "log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (log_fd >= 0)
			log_init(log_fd, MAX(log_get_level(), LOG_INFO));
		pool_try(a->opt->cache_dir, a->opt->pool_bytes, &a->pool);
		fs = set_up(a, &err);
	}
	if (!fs)
		add_words(words_fd, &err);
	if (answer(a, fs ? 0 : err.no ? err.no : EIO, fs ? "" : err.text) < 0 || !fs) {
		remove_cache(a);
		return;
	}
	if (lazyfs_run(fs, &err) < 0)
		log_error("%s", err.text);
	if (atomic_load(&a->committed) && !lazyfs_moved(fs) &&
	    lazyfs_keep_changes(fs, a->opt->kept, &err) < 0)
		log_error("%s", err.text);
	atomic_store(&a->over, true);
	if (a->pinging)
		pthread_join(a->pinger, NULL);
	lazyfs_free(fs);
	remove_cache(a);
}

/* ---- the process: how it begins ---- */

/* The terminal, its signals and all descriptors of the maker's stay behind. */
static int go_away(struct attendant *a, int *words_fd_out)
{
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
	int fds[16], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int words = memfd_create("ssh-stderr", MFD_CLOEXEC);
	size_t n = 0;
	sigset_t none;

	if (null < 0 || words < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(words, 2) < 0)
		return -1;
	fds[n++] = words;
	fds[n++] = a->control;
	fds[n++] = a->fuse_fd;
	for (size_t i = 0; i < a->opt->n_fds && n < ARRAY_SIZE(fds); i++)
		fds[n++] = a->opt->fds[i];
	io_close_others(fds, n);
	setsid();
	if (chdir("/") < 0)
		return -1;
	umask(0);
	/* a program depends on it: it ends when that has ended */
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "ferry-lazyfs");
	*words_fd_out = words;
	return 0;
}

/* Never returns. */
__attribute__((noreturn)) static void attendant_main(struct attendant *a)
{
	int words_fd;

	if (go_away(a, &words_fd) == 0)
		attend(a, words_fd);
	_exit(0);
}

/* Not a child of ours: whoever we become shall not have to wait for it. */
static int fork_away(struct attendant *a, struct err *err)
{
	int status;
	pid_t middle = fork(), pid;

	if (middle < 0)
		return err_sys(err, "cannot fork");
	if (middle == 0) {
		pid = fork();
		if (pid == 0)
			attendant_main(a);
		_exit(pid < 0);
	}
	while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : err_sysno(err, EAGAIN, "cannot fork");
}

int treeroot_start(const struct treeroot_options *opt, struct treeroot *out, struct err *err)
{
	struct attendant a = {
		.opt = opt, .want = *opt->want, .cache_fd = -1, .fuse_fd = -1, .pool = POOL_NONE};
	int pair[2], rc;

	*out = TREEROOT_NONE;
	if (make_mount(opt->source, &a.fuse_fd, &out->mount, err) < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		close(a.fuse_fd);
		treeroot_close(out);
		return err_sys(err, "socketpair");
	}
	out->control = pair[0];
	a.control = pair[1];
	rc = fork_away(&a, err);
	close(pair[1]);
	close(a.fuse_fd);
	if (rc < 0)
		treeroot_close(out);
	return rc;
}

/* ---- its maker ---- */

static int hear(struct treeroot *t, int watch_fd, int timeout_ms, struct err *err)
{
	struct pollfd p[] = {{.fd = t->control, .events = POLLIN},
			     {.fd = watch_fd, .events = POLLIN}};
	struct answer msg;
	int ready;

	while ((ready = poll(p, ARRAY_SIZE(p), timeout_ms)) < 0 && errno == EINTR)
		;
	if (ready > 0 && !p[0].revents)
		return err_set(err, ECANCELED, "lazy files: it is over before they have come");
	if (ready == 0)
		return err_set(err, ETIMEDOUT, "lazy files: no answer for %d seconds",
			       timeout_ms / 1000);
	if (ready < 0 || io_read_full(t->control, &msg, sizeof(msg)) < 0)
		return err_sys(err, "lazy files: the process that serves them is gone");
	msg.text[sizeof(msg.text) - 1] = '\0';
	return msg.no ? err_set(err, msg.no, "lazy files: %s", msg.text) : 0;
}

int treeroot_await(struct treeroot *t, int watch_fd, struct err *err)
{
	struct stat st;

	if (hear(t, watch_fd, READY_MS, err) < 0)
		return -1;
	/* also the proof that it answers the kernel */
	if (fstat(t->mount, &st) < 0)
		return err_sys(err, "lazy files: the root directory");
	lazyfs_tune(st.st_dev);
	return 0;
}

static int tell(struct treeroot *t, enum order order, const void *data, size_t bytes, struct err *err)
{
	struct order_head head = {.order = order, .bytes = (uint32_t)bytes};

	if (bytes > ORDER_BYTES_MAX)
		return err_set(err, E2BIG, "lazy files: the tree has too many files");
	if (io_write_full(t->control, &head, sizeof(head)) < 0 ||
	    io_write_full(t->control, data, bytes) < 0)
		return err_sys(err, "lazy files: the process that serves them is gone");
	return hear(t, -1, ANSWER_MS, err);
}

static int tell_parts(struct treeroot *t, enum order order, const struct lazyfs_part *parts,
		      size_t n, struct err *err)
{
	cleanup_free char *text = NULL;
	size_t bytes = 1, at = 0;

	for (size_t i = 0; i < n; i++)
		bytes += strlen(parts[i].path) + 1 + RANGE_BYTES;
	text = malloc(bytes);
	if (!text)
		return err_nomem(err);
	for (size_t i = 0; i < n; i++) {
		at += (size_t)(stpcpy(text + at, parts[i].path) - (text + at)) + 1;
		if (parts[i].to)
			at += (size_t)sprintf(text + at, "@%" PRIu64 "-%" PRIu64, parts[i].from,
					      parts[i].to) +
			      1;
	}
	return tell(t, order, text, at, err);
}

int treeroot_prime_ahead(struct treeroot *t, const struct lazyfs_part *parts, size_t n,
			 struct err *err)
{
	return tell_parts(t, ORDER_PRIME_AHEAD, parts, n, err);
}

int treeroot_prime(struct treeroot *t, const struct lazyfs_part *parts, size_t n, struct err *err)
{
	return tell_parts(t, ORDER_PRIME, parts, n, err);
}

int treeroot_carry(struct treeroot *t, const uint8_t *data, size_t bytes, struct err *err)
{
	return tell(t, ORDER_CARRY, data, bytes, err);
}

int treeroot_commit(struct treeroot *t, struct err *err)
{
	return tell(t, ORDER_COMMIT, "", 0, err);
}

void treeroot_abandon(struct treeroot *t)
{
	struct err err;

	if (t->control >= 0 && tell(t, ORDER_ABANDON, "", 0, &err) < 0)
		log_debug("%s", err.text);
	treeroot_close(t);
}

void treeroot_close(struct treeroot *t)
{
	if (t->control >= 0)
		close(t->control);
	if (t->mount >= 0)
		close(t->mount);
	*t = TREEROOT_NONE;
}
