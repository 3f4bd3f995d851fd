// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/ops.h"

#include "base/log.h"
#include "lazyfs/athome.h"
#include "lazyfs/neighbours.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* An open file; it pins node and cache file. */
struct handle {
	struct content *c;
	pthread_mutex_t lock;
	struct ahead ahead;
};

static struct handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct handle *)(uintptr_t)fi->fh;
}

static void forget_open(struct lazyfs *fs, struct node *n)
{
	pthread_mutex_lock(&fs->lock);
	n->opens--;
	pthread_mutex_unlock(&fs->lock);
	node_unpin(fs, n);
}

/* With one pin more on the node, which stays until handle_close. */
static int handle_open(struct lazyfs *fs, struct node *n, struct fuse_file_info *fi)
{
	struct handle *h = calloc(1, sizeof(*h));
	int error = 0;

	if (!h)
		return ENOMEM;
	pthread_mutex_lock(&fs->lock);
	h->c = node_content(fs, n);
	if (h->c) {
		n->pins++;
		n->opens++;
	}
	pthread_mutex_unlock(&fs->lock);
	error = h->c ? content_pin(h->c) : ENOMEM;
	if (error) {
		if (h->c)
			forget_open(fs, n);
		free(h);
		return error;
	}
	pthread_mutex_init(&h->lock, NULL);
	fi->fh = (uint64_t)(uintptr_t)h;
	/* pages stay valid: with refetch the kernel notices a new size or time itself */
	fi->keep_cache = 1;
	return 0;
}

static void handle_close(struct lazyfs *fs, struct node *n, struct handle *h)
{
	content_unpin(h->c);
	pthread_mutex_destroy(&h->lock);
	free(h);
	forget_open(fs, n);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct node *n = node_of(fs, ino);
	int error = node_revalidate(fs, n, &p);

	if (!error)
		error = handle_open(fs, n, fi);
	if (error)
		fuse_reply_err(req, error);
	else if (fuse_reply_open(req, fi) < 0)
		handle_close(fs, n, handle_of(fi));
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct fuse_entry_param e;
	struct node *n;
	int error = ops_make(fs, req, node_of(fs, parent), name, (mode & 07777) | S_IFREG, 0, NULL,
			     &n);

	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	error = handle_open(fs, n, fi);
	if (error) {
		node_unpin(fs, n);
		fuse_reply_err(req, error);
		return;
	}
	pthread_mutex_lock(&fs->lock);
	ops_entry(fs, n, &e);
	n->pins--;
	pthread_mutex_unlock(&fs->lock);
	if (fuse_reply_create(req, &e, fi) < 0) {
		pthread_mutex_lock(&fs->lock);
		n->lookups--;
		pthread_mutex_unlock(&fs->lock);
		handle_close(fs, n, handle_of(fi));
	}
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, NULL);
	struct node *n = node_of(fs, ino);
	/* what was written through a mapping since the last close(2); if not now, then with the next one or at the end */
	int error = athome_send(fs, n, false, &p);

	if (error)
		log_warn("what was written cannot be sent home yet: %s", strerror(error));
	handle_close(fs, n, handle_of(fi));
	fuse_reply_err(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	struct handle *h = handle_of(fi);
	char *buf = malloc(size);
	struct ahead ahead;
	ssize_t n;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	/* planned on a copy: threads that read at the same time must not wait for each other's blocks */
	pthread_mutex_lock(&h->lock);
	ahead = h->ahead;
	(void)ahead_plan(&h->ahead, (uint64_t)off, size);
	pthread_mutex_unlock(&h->lock);
	if (!off)
		neighbours_begin(fs, node_of(fs, ino), h->c);
	n = content_read(h->c, buf, size, (uint64_t)off, &ahead, &p);
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
	free(buf);
}

/* After a change of contents. */
static void touch(struct lazyfs *fs, struct node *n)
{
	pthread_mutex_lock(&fs->lock);
	n->attr.id.mtime_ns = n->attr.id.ctime_ns = now_ns();
	pthread_mutex_unlock(&fs->lock);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	int error = content_write(handle_of(fi)->c, buf, size, (uint64_t)off, &p);

	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	touch(fs, node_of(fs, ino));
	fuse_reply_write(req, size);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length,
			 struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	int error = content_allocate(handle_of(fi)->c, mode, (uint64_t)off, (uint64_t)length, &p);

	if (!error)
		touch(fs, node_of(fs, ino));
	fuse_reply_err(req, error);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	uint64_t found;
	int error;

	/* the kernel does the others itself */
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		error = EINVAL;
	else if (off < 0)
		error = ENXIO;
	else
		error = content_seek(handle_of(fi)->c, (uint64_t)off, whence, &found, &p);
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_lseek(req, (off_t)found);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);
	int error = content_sync(handle_of(fi)->c, datasync);

	if (!error)
		error = athome_send(fs, node_of(fs, ino), true, &p);
	fuse_reply_err(req, error);
}

/* At each close(2). The kernel does not ask again where it is not known. */
static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct lazyfs *fs = fuse_req_userdata(req);
	struct patience p = node_patience(fs, req);

	fuse_reply_err(req,
		       fs->opt.writeback ? athome_send(fs, node_of(fs, ino), false, &p) : ENOSYS);
}

void ops_data(struct fuse_lowlevel_ops *ops)
{
	ops->open = op_open;
	ops->create = op_create;
	ops->release = op_release;
	ops->read = op_read;
	ops->write = op_write;
	ops->fallocate = op_fallocate;
	ops->lseek = op_lseek;
	ops->fsync = op_fsync;
	ops->flush = op_flush;
}
