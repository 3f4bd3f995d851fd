// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "files"
#include "migrate/files_door.h"

#include "base/clock.h"
#include "base/log.h"
#include "migrate/lane_priv.h"

#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
	FIRST_MS = 30000, /* until the first connection */
	AGAIN_MS = 1000,  /* then it is waited for again and again */
	HELLO_MS = 5000,
};

/* What the process behind the door has of it. */
struct door {
	char token[WIRE_TOKEN_CHARS + 1];
	int fd;
	bool opened; /* there was a connection */
	int hold;    /* keeps "agent --join" there */
};

/* Everything that a guest says before its connection is ours. NULL, or why not. */
static const char *hear_guest(const struct door *d, int conn, int *in_out, int *out_out)
{
	uint8_t hello[LANE_HELLO_BYTES];
	char token[WIRE_TOKEN_CHARS + 1];
	uint64_t end = clock_ms() + HELLO_MS, now;
	enum lane_kind kind;
	size_t have = 0;

	while (have < sizeof(hello)) {
		struct pollfd p = {.fd = conn, .events = POLLIN};
		ssize_t n;

		now = clock_ms();
		if (now >= end || poll(&p, 1, (int)(end - now)) == 0)
			return "it says nothing";
		n = lane_door_receive(conn, hello + have, sizeof(hello) - have, in_out, out_out);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return "it ended before it said what it is";
		have += (size_t)n;
	}
	if (!lane_hello_parse(hello, token, &kind, NULL) || kind != LANE_FILES)
		return "it brings no files";
	if (CRYPTO_memcmp(token, d->token, WIRE_TOKEN_CHARS) != 0)
		return "it has another token";
	return *in_out < 0 ? "it brings no connection" : NULL;
}

static int admit(struct door *d, int conn, int *in_out, int *out_out)
{
	const uint8_t answer = LANE_FILES;
	int in = -1, out = -1;
	const char *why = hear_guest(d, conn, &in, &out);

	if (!why && write(out, &answer, 1) != 1)
		why = "it is gone already";
	if (!why) {
		d->hold = conn;
		d->opened = true;
		*in_out = in;
		*out_out = out;
		return 0;
	}
	log_warn("a connection is dropped: %s", why);
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	close(conn);
	return -1;
}

/* remote_link: the next connection that is brought. */
static int link_open(void *arg, int *in_out, int *out_out, struct err *err)
{
	struct door *d = arg;
	uint64_t end = clock_ms() + (d->opened ? AGAIN_MS : FIRST_MS), now;

	while ((now = clock_ms()) < end) {
		struct pollfd p = {.fd = d->fd, .events = POLLIN};
		int conn;

		if (poll(&p, 1, (int)(end - now)) <= 0)
			continue;
		conn = accept4(d->fd, NULL, NULL, SOCK_CLOEXEC);
		if (conn >= 0 && admit(d, conn, in_out, out_out) == 0)
			return 0;
	}
	return err_set(err, ETIMEDOUT, "the source has not connected");
}

static void link_close(void *arg)
{
	struct door *d = arg;

	if (d->hold >= 0)
		close(steal_fd(&d->hold));
}

void files_door_remove(const char *token)
{
	struct sockaddr_un addr;
	struct err ignored;
	cleanup_close int dirfd = lane_door_address(token, LANE_FILES, &addr, &ignored);

	if (dirfd >= 0)
		unlink(addr.sun_path);
}

static void link_end(void *arg)
{
	files_door_remove(((struct door *)arg)->token);
}

int files_door_open(const struct files_door_options *opt, struct treeroot *out, struct err *err)
{
	/* the source says what it hands out: what a client asks for is not heard */
	const struct lf_creds nobody = {.uid = 65534, .gid = 65534};
	const struct lf_export all = {.path = "/", .whole = true};
	struct door door = {.fd = lane_door_open(opt->token, LANE_FILES, err), .hold = -1};
	const struct remote_link link = {.open = link_open,
					 .close = link_close,
					 .end = link_end,
					 .arg = &door};
	struct want want = {.hello = {.version = LF_VERSION, .root = "/"}};
	struct treeroot_options t = {
		.link = &link,
		.want = &want,
		.source = opt->source,
		.cache_dir = TREEROOT_CACHE_DIR,
		.pool_bytes = opt->pool_bytes,
		.timeout_ms = opt->timeout_ms,
		.fill = opt->fill,
		.detach = opt->detach,
		.whole = (const char *const *)opt->whole,
		.n_whole = opt->n_whole,
		.writeback = opt->writeback,
		.ping = true,
		.fds = &door.fd,
		.n_fds = 1,
	};
	char kept[PATH_MAX];
	int rc = door.fd < 0 ? -1 : 0;

	snprintf(kept, sizeof(kept), "%s/%s", TREEROOT_KEPT_DIR, opt->token);
	snprintf(door.token, sizeof(door.token), "%s", opt->token);
	t.kept = kept;
	if (rc == 0 && (!vec_push(&want.hello.creds, nobody) || !vec_push(&want.hello.exports, all)))
		rc = err_nomem(err);
	/* the source knows by itself whether it takes changes, and refuses a client that expects something else */
	if (rc == 0 && opt->writeback)
		rc = want_writes(&want, err);
	if (rc == 0)
		rc = treeroot_start(&t, out, err);
	want_free(&want);
	if (rc < 0)
		lane_door_close(door.fd, opt->token, LANE_FILES);
	else
		close(door.fd);
	return rc;
}
