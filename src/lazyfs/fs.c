// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/fs.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "lazyfs/athome.h"
#include "lazyfs/fill.h"
#include "lazyfs/ops.h"
#include "lazyfs/place.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum {
	THREADS_MOST = 512, /* each may wait for the source; idle ones end */
	THREADS_IDLE = 8,
	READ_AHEAD_KIB = 1024,
};

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	const struct lazyfs *fs = userdata;

	conn->max_readahead = READ_AHEAD_KIB * 1024;
	/* our own writes change times; only those of the source's are news to the kernel */
	if (!fs->opt.refetch)
		conn->want &= ~(unsigned int)FUSE_CAP_AUTO_INVAL_DATA;
	conn->want |= conn->capable & FUSE_CAP_CACHE_SYMLINKS;
	/* to be cut comes as a request of its own before the open, as with truncate(2) */
	conn->want &= ~(unsigned int)FUSE_CAP_ATOMIC_O_TRUNC;
	/* a copy is faster than a pipe for requests of this size (measured) */
	conn->want &= ~(unsigned int)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE);
	conn->max_background = 64;
	conn->congestion_threshold = 48;
}

/* Each file in use has a descriptor. */
static void raise_file_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &lim);
	}
}

static int make_session(struct lazyfs *fs, struct err *err)
{
	struct fuse_lowlevel_ops ops = {.init = op_init};
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	char text[1024];

	ops_names(&ops);
	ops_attrs(&ops);
	ops_data(&ops);
	snprintf(text, sizeof(text), "-ofsname=%s,subtype=ferry,default_permissions%s%s%s",
		 fs->opt.source, fs->opt.allow_other ? ",allow_other" : "",
		 fs->opt.mount_options ? "," : "",
		 fs->opt.mount_options ? fs->opt.mount_options : "");
	if (fuse_opt_add_arg(&args, "ferry") < 0 || fuse_opt_add_arg(&args, text) < 0) {
		fuse_opt_free_args(&args);
		return err_nomem(err);
	}
	fs->session = fuse_session_new(&args, &ops, sizeof(ops), fs);
	fuse_opt_free_args(&args);
	if (!fs->session)
		return err_set(err, EINVAL, "cannot set up FUSE with the options '%.200s'", text + 2);
	return 0;
}

static int load_root(struct lazyfs *fs, struct err *err)
{
	struct patience p = patience_start(fs->opt.timeout_ms ? fs->opt.timeout_ms : 30000, NULL,
					   NULL);
	uint64_t since;
	int error;

	fs->root.source = strdup("/");
	fs->root.n_names = 1;
	fs->root.number = ++fs->next_number;
	if (!fs->root.source)
		return err_nomem(err);
	since = clock_ms();
	error = node_load_root(fs, &p);
	content_env_pace(&fs->env, clock_ms() - since);
	return error ? err_sysno(err, error, "the source's root directory") : 0;
}

struct lazyfs *lazyfs_create(const struct remote_link *link, const struct want *want,
			     const struct lazyfs_options *opt, struct err *err)
{
	struct lazyfs *fs = calloc(1, sizeof(*fs));

	if (!fs) {
		err_nomem(err);
		return NULL;
	}
	raise_file_limit();
	fs->opt = *opt;
	fs->want = want;
	fs->below = -1;
	fs->env.cache_fd = opt->cache_fd;
	fs->env.local_root = opt->local_root;
	fs->env.pool = opt->pool && opt->pool->fd >= 0 ? opt->pool : NULL;
	fs->env.refetch = opt->refetch;
	fs->env.writes = opt->writeback;
	atomic_store(&fs->sends, opt->writeback && !opt->held);
	pthread_mutex_init(&fs->lock, NULL);
	wait_cond_init(&fs->cond);
	fs->remote = remote_open(link, &want->hello, err);
	fs->env.remote = fs->remote;
	if (!fs->remote ||
	    (opt->writeback &&
	     scope_init(&fs->scope, want->hello.exports.v, want->hello.exports.n, err) < 0) ||
	    load_root(fs, err) < 0 || make_session(fs, err) < 0) {
		lazyfs_free(fs);
		return NULL;
	}
	return fs;
}

/* The kernel reads ahead 128 KiB by itself, whatever a file system says; root may change that. */
void lazyfs_tune(dev_t dev)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", READ_AHEAD_KIB);
	if (io_write_textf(text, "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev)) < 0)
		log_debug("read_ahead_kb: %s", strerror(errno));
}

static int take_over(struct lazyfs *fs, struct err *err)
{
	char name[32];

	snprintf(name, sizeof(name), "/dev/fd/%d", fs->opt.fuse_fd);
	if (fuse_session_mount(fs->session, name) < 0)
		return err_set(err, EIO, "cannot take the mounted file system over");
	fs->mounted = true;
	return 0;
}

int lazyfs_mount(struct lazyfs *fs, struct err *err)
{
	if (fs->opt.fuse_fd >= 0)
		return take_over(fs, err);
	fs->below = open(fs->opt.mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fs->below < 0)
		return err_sys(err, "%.200s", fs->opt.mountpoint);
	/* libfuse has said more on stderr */
	if (fuse_session_mount(fs->session, fs->opt.mountpoint) < 0)
		return err_set(err, EIO, "%.200s: cannot mount a file system there",
			       fs->opt.mountpoint);
	fs->mounted = true;
	return 0;
}

static void *tune(void *arg)
{
	const struct lazyfs *fs = arg;
	struct stat st;

	/* a request to ourselves */
	if (stat(fs->opt.mountpoint, &st) == 0)
		lazyfs_tune(st.st_dev);
	return NULL;
}

static int loop(struct lazyfs *fs, struct err *err)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	pthread_t tuner;
	bool tuning;
	int rc;

	if (!config)
		return err_nomem(err);
	fuse_loop_cfg_set_max_threads(config, THREADS_MOST);
	fuse_loop_cfg_set_idle_threads(config, THREADS_IDLE);
	tuning = fs->opt.fuse_fd < 0 && pthread_create(&tuner, NULL, tune, fs) == 0;
	rc = fuse_session_loop_mt(fs->session, config);
	fuse_loop_cfg_destroy(config);
	if (tuning)
		pthread_join(tuner, NULL);
	/* a signal ends it as an unmount does */
	return rc < 0 ? err_sysno(err, -rc, "the connection to the kernel's FUSE broke") : 0;
}

static void unmount(struct lazyfs *fs)
{
	if (fs->mounted)
		fuse_session_unmount(fs->session);
	fs->mounted = false;
}

static void end_filling(struct lazyfs *fs)
{
	atomic_store(&fs->stop, true);
	fill_join(fs);
	atomic_store(&fs->stop, false);
}

/* What is missing comes now, and everything gets its place. */
static int finish(struct lazyfs *fs, struct err *err)
{
	int error;

	end_filling(fs);
	error = fill_now(fs);
	if (error)
		return err_sysno(err, error, "not everything could be fetched; no file was placed");
	return place_all(fs, err);
}

void lazyfs_send_home(struct lazyfs *fs, bool on)
{
	atomic_store(&fs->sends, on && fs->opt.writeback);
}

int lazyfs_fill(struct lazyfs *fs, struct err *err)
{
	return fs->filling ? 0 : fill_start(fs, err);
}

int lazyfs_run(struct lazyfs *fs, struct err *err)
{
	int rc;

	if (fuse_set_signal_handlers(fs->session) < 0)
		return err_set(err, EIO, "cannot set signal handlers");
	rc = fs->opt.fill ? fill_start(fs, err) : 0;
	if (rc == 0)
		rc = loop(fs, err);
	fuse_remove_signal_handlers(fs->session);
	unmount(fs);
	if (fs->opt.writeback) {
		struct err unsent;

		end_filling(fs);
		if (athome_send_rest(fs, &unsent) < 0 && rc == 0) {
			*err = unsent;
			rc = -1;
		}
	}
	if (rc == 0 && fs->opt.place)
		rc = finish(fs, err);
	return rc;
}

static void free_links(struct lazyfs *fs)
{
	for (size_t i = 0; i < fs->links.cap; i++)
		free(fs->links.slots[i].value);
	map_free(&fs->links);
}

/* Everything that still has a look-up of the kernel's, which has forgotten us. */
static void forget_all(struct lazyfs *fs, struct node *dir)
{
	for (const struct name *e = dir->names.first; e; e = e->next) {
		if (!e->node)
			continue;
		e->node->lookups = 0;
		if (S_ISDIR(e->node->attr.mode))
			forget_all(fs, e->node);
	}
}

/* Files without a name that programs had open. */
static void free_nameless(struct lazyfs *fs)
{
	struct node *n = fs->contents;

	while (n) {
		struct node *next = n->next_content;

		if (!n->n_names) {
			n->lookups = 0;
			n->pins = 0;
			node_release(fs, n);
		}
		n = next;
	}
}

static void free_nodes(struct lazyfs *fs)
{
	struct names top = fs->root.names;

	free_nameless(fs);
	forget_all(fs, &fs->root);
	while (top.first) {
		struct node *n = top.first->node;

		dirnames_remove(&top, top.first);
		if (n) {
			n->n_names--;
			node_release(fs, n);
		}
	}
	dirnames_free(&top);
	free(fs->root.source);
	vec_foreach (x, &fs->root.xattrs) {
		free(x->name);
		free(x->value);
	}
	vec_free(&fs->root.xattrs);
}

bool lazyfs_moved(struct lazyfs *fs)
{
	return atomic_load(&fs->moved);
}

void lazyfs_free(struct lazyfs *fs)
{
	if (!fs)
		return;
	atomic_store(&fs->stop, true);
	unmount(fs);
	fill_join(fs);
	lazyfs_end_warm(fs);
	if (fs->session)
		fuse_session_destroy(fs->session);
	/* no request of the source's comes back after this */
	remote_close(fs->remote);
	pthread_mutex_lock(&fs->lock);
	free_nodes(fs);
	pthread_mutex_unlock(&fs->lock);
	free_links(fs);
	listings_free(&fs->listings);
	scope_finish(&fs->scope);
	carried_free_bases(&fs->bases);
	vec_foreach (path, &fs->whole)
		free(*path);
	vec_free(&fs->whole);
	free(fs->carried);
	if (fs->below >= 0)
		close(fs->below);
	pthread_cond_destroy(&fs->cond);
	pthread_mutex_destroy(&fs->lock);
	free(fs);
}
