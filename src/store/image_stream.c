// SPDX-License-Identifier: Apache-2.0
#include "store/image_stream.h"

#include "store/stream.h"
#include "wire/local.h"
#include "wire/streamer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* How often a wait looks for an interruption; how long half a message may take. */
enum { LOOK_MS = 200, HALF_MS = 10000 };

int image_stream_wait(struct pollfd *p, size_t n, int (*interrupted)(struct err *err), struct err *err)
{
	int rc;

	do {
		if (interrupted && interrupted(err))
			return -1;
		rc = poll(p, n, LOOK_MS);
	} while (rc == 0 || (rc < 0 && errno == EINTR));
	return rc < 0 ? err_sys(err, "poll") : 0;
}

/* Has the other side closed the connection, with nothing left to read? Waits for one or the other. */
static int at_end(int sock, int (*interrupted)(struct err *err), struct err *err)
{
	struct pollfd p = {.fd = sock, .events = POLLIN};
	uint8_t byte;
	ssize_t n;

	if (image_stream_wait(&p, 1, interrupted, err))
		return -1;
	n = recv(sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && errno != ECONNRESET)
		return err_sys(err, "cannot read from CRIU");
	return n <= 0;
}

int image_stream_request(int sock, int (*interrupted)(struct err *err),
			 char name[STORE_NAME_MAX_BYTES + 1], struct err *err)
{
	uint8_t head[STREAMER_HEAD_BYTES], body[STREAMER_BODY_MAX];
	struct stream st;
	size_t bytes;
	int rc = at_end(sock, interrupted, err);

	_Static_assert(STREAMER_NAME_MAX == STORE_NAME_MAX_BYTES, "both are names of images");
	if (rc)
		return rc < 0 ? -1 : 0;
	stream_init(&st, sock, -1, interrupted);
	st.silence_ms = HALF_MS;
	rc = stream_receive_raw(&st, head, sizeof(head), err) ||
	     streamer_body_bytes(head, &bytes, err) || stream_receive_raw(&st, body, bytes, err) ||
	     streamer_request(body, bytes, name, err) || store_name_valid(name, err);
	stream_finish(&st);
	return rc ? err_wrap(err, "criu --stream") : 1;
}

int image_stream_pipe(int sock, const char *name, int (*interrupted)(struct err *err), struct err *err)
{
	struct pollfd p = {.fd = sock, .events = POLLIN};
	cleanup_close int fd = -1;
	struct stat sb;
	int flags;

	if (image_stream_wait(&p, 1, interrupted, err))
		return -1;
	fd = local_receive_fd(sock, err);
	if (fd < 0)
		return err_wrap(err, "%s: CRIU's pipe", name);
	/* only reads and writes of pipes are sure not to wait */
	if (fstat(fd, &sb) || !S_ISFIFO(sb.st_mode))
		return err_set(err, EPROTO, "%s: CRIU sent something that is no pipe", name);
	/* each end of a pipe has flags of its own */
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return err_sys(err, "%s: CRIU's pipe", name);
	return steal_fd(&fd);
}
