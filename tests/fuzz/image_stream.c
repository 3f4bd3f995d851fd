// SPDX-License-Identifier: Apache-2.0
/*
 * What CRIU says to its image streamer: any bytes, and any descriptors among them. A capture ends with a reason or
 * has completed its store; a serve hands out what there is.
 */
#include "store/image_stream.h"

#include "store/spool.h"
#include "wire/streamer.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

/*
 * The input: pieces of u8 kind, u8 length, and as many bytes. Of kinds that are odd they are the contents of a pipe,
 * whose end is sent with a byte; else they are sent.
 */
enum { MOST_PIECES = 60 };

/* The request for an image. */
static size_t request(uint8_t *out, const char *name)
{
	size_t n = strlen(name);

	out[0] = 0;
	out[1] = (uint8_t)(n + 6);
	out[2] = (uint8_t)(n + 2);
	memset(out + 3, 0, 3);
	out[6] = 1 << 3 | 2;
	out[7] = (uint8_t)n;
	memcpy(out + 8, name, n);
	return n + 8;
}

size_t fuzz_seed(uint8_t *out, size_t cap)
{
	static const char *const names[] = {"pages-1.img", "core-1.img", "inventory.img"};
	size_t n = 0;

	if (cap < 200)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		n += request(out + n, names[i]);
		out[n++] = 1;
		out[n++] = 3;
		memcpy(out + n, "abc", 3);
		n += 3;
	}
	return n;
}

/* One byte with the end of a pipe: of one that has the bytes, or takes them. */
static void send_pipe(int sock, const uint8_t *data, size_t n, bool read_end)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_level = SOL_SOCKET,
			      .cmsg_type = SCM_RIGHTS,
			      .cmsg_len = CMSG_LEN(sizeof(int))}};
	char byte = 0;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		abort();
	if (n && write(ends[1], data, n) != (ssize_t)n)
		abort();
	memcpy(CMSG_DATA(&control.head), &ends[read_end ? 0 : 1], sizeof(int));
	(void)!sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(ends[0]);
	close(ends[1]);
}

/* All of the input waits in the socket, which then ends. */
static void speak(int sock, const uint8_t *data, size_t size, bool read_end)
{
	size_t n;

	for (int i = 0; size >= 2 && i < MOST_PIECES; i++) {
		n = MIN((size_t)data[1], size - 2);
		if (data[0] & 1)
			send_pipe(sock, data + 2, n, read_end);
		else if (n)
			(void)!send(sock, data + 2, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		data += 2 + n;
		size -= 2 + n;
	}
	shutdown(sock, SHUT_WR);
}

static void capture(const uint8_t *data, size_t size, struct spool *sp)
{
	struct err err = {0};
	struct shot *shot = spool_write(sp, "s", &err);
	struct store *into = shot ? spool_store_open(shot, true, &err) : NULL;
	int ends[2];
	int rc;

	if (!into || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		abort();
	speak(ends[1], data, size, true);
	rc = image_stream_capture(ends[0], into, NULL, &err);
	if (rc && !strlen(err.text))
		abort();
	close(ends[0]);
	close(ends[1]);
	store_close(into); /* fails what is not complete, so that no reader waits */
}

static void serve(const uint8_t *data, size_t size, struct store *from)
{
	struct err err = {0};
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		abort();
	speak(ends[1], data, size, false);
	if (image_stream_serve(ends[0], from, NULL, &err) && !strlen(err.text))
		abort();
	close(ends[0]);
	close(ends[1]);
}

/* It comes before the writer: so it is told of a failure, and waits for nobody else. */
static struct store *reader_of(struct spool *sp)
{
	struct err err;
	struct shot *shot = spool_read(sp, "s", &err);
	struct store *from = shot ? spool_store_open(shot, false, &err) : NULL;

	if (!from)
		abort();
	return from;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[STREAMER_NAME_MAX + 1];
	struct err err = {0};
	struct spool *sp = spool_create(0, &err);
	struct store *from;

	if (!sp)
		abort();
	if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		abort();
	if (streamer_request(data, MIN(size, (size_t)STREAMER_BODY_MAX), name, &err) &&
	    !strlen(err.text))
		abort();
	from = reader_of(sp);
	capture(data, size, sp);
	serve(data, size, from);
	store_close(from);
	spool_free(sp);
	return 0;
}
