// SPDX-License-Identifier: Apache-2.0
#include "wire/channel.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <time.h>

enum {
	MAX_PIECES = 5, /* what was held, a header, and the caller's three */
	ABORT_TIMEOUT_MS = 1000,
	HOLD_BYTES = 64 * 1024,
	RECORD_BYTES = 16 * 1024, /* the most that TLS encrypts as one */
	LOOK_MS = 500,            /* how often tunnel_read wants to be called */
	SLOW_LINK_NS = 10,        /* a byte: a cold codec takes as long for one */
};

static void set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

void channel_init(struct channel *ch, int in, int out, enum wire_side side, const char *peer)
{
	*ch = (struct channel){.in = in,
			       .out = out,
			       .side = side,
			       .old_in = -1,
			       .old_out = -1,
			       .stage = WIRE_STAGE_HELLO,
			       .peer = peer,
			       .timeout_ms = -1,
			       .watch_fd = -1};
	frame_reader_init(&ch->reader, msg_limit);
	set_nonblocking(in);
	set_nonblocking(out);
#ifdef F_SETPIPE_SZ
	/* fewer wake-ups with large pipes; neither needs to be one */
	(void)fcntl(in, F_SETPIPE_SZ, 1 << 20);
	(void)fcntl(out, F_SETPIPE_SZ, 1 << 20);
#endif
}

int channel_switch(struct channel *ch, int fd, struct trunk *trunk, struct err *err)
{
	struct frame f;
	int rc = frame_peek(&ch->reader, &f, err);

	if (rc > 0)
		err_set(err, EPROTO, "%s: message %u on a connection that is not used any more",
			ch->peer, f.type);
	if (rc) {
		close(fd);
		trunk_finish(trunk);
		return -1;
	}
	ch->old_in = ch->in;
	ch->old_out = ch->out;
	ch->in = ch->out = fd;
	ch->trunk = trunk;
	set_nonblocking(fd);
	return 0;
}

int channel_go_direct(struct channel *ch, struct err *err)
{
	struct tunnel *tunnel = trunk_tunnel(ch->trunk);
	uint8_t *to;
	size_t room;

	if (!tunnel || ch->direct)
		return 0;
	if (tunnel_take_over(tunnel, &ch->in, err) < 0) {
		ch->broken = true;
		return err_wrap(err, "the connection to %s", ch->peer);
	}
	ch->out = ch->in;
	ch->direct = tunnel;
	/* touched for the first time now, and not in a freeze */
	to = frame_reader_space(&ch->reader, &room);
	if (to)
		memset(to, 0, room);
	return 0;
}

static void close_both(int in, int out)
{
	if (in >= 0)
		close(in);
	if (out >= 0 && out != in)
		close(out);
}

void channel_finish(struct channel *ch)
{
	close_both(ch->in, ch->out);
	trunk_finish(ch->trunk);
	close_both(ch->old_in, ch->old_out);
	ch->trunk = NULL;
	ch->direct = NULL;
	ch->in = ch->out = ch->old_in = ch->old_out = -1;
	frame_reader_finish(&ch->reader);
	free(steal_ptr(&ch->held));
	ch->held_bytes = 0;
	packer_free(ch->packer);
	unpacker_free(ch->unpacker);
	ch->packer = NULL;
	ch->unpacker = NULL;
}

static int broken(struct channel *ch, int no, const char *what, struct err *err)
{
	ch->broken = true;
	if (trunk_fault(ch->trunk, err))
		return err_wrap(err, "the connection to %s", ch->peer);
	if (!no)
		return err_set(err, EPIPE, "the connection to %s ended", ch->peer);
	return err_sysno(err, no, "the connection to %s: cannot %s", ch->peer, what);
}

/* Reads what is there. 0, or -1 at the end of the stream. */
static int read_some(struct channel *ch, struct err *err)
{
	size_t room;
	uint8_t *to = frame_reader_space(&ch->reader, &room);
	ssize_t n;

	if (!to)
		return err_nomem(err);
	n = ch->direct ? tunnel_read(ch->direct, to, room) : read(ch->in, to, room);
	if (n == 0)
		return broken(ch, 0, "", err);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : broken(ch, errno, "read", err);
	frame_reader_fed(&ch->reader, (size_t)n);
	ch->received_bytes += (uint64_t)n;
	return 0;
}

/* Something may be here that poll(2) on ch->in does not show. */
static bool may_hold(const struct channel *ch)
{
	return ch->direct && tunnel_may_hold(ch->direct);
}

/* As read_some, where nothing may be there: 1 if something was. */
static int read_if_any(struct channel *ch, struct err *err)
{
	uint64_t before = ch->received_bytes;

	return read_some(ch, err) < 0 ? -1 : ch->received_bytes > before;
}

enum { READY_IN = 1, READY_OUT = 2 };

/* Waits until the way in (or @want_out, the way out) is ready. Returns READY_* bits or -1. */
static int wait_ready(struct channel *ch, bool want_in, bool want_out, struct err *err)
{
	int64_t deadline = ch->timeout_ms < 0 ? -1 : (int64_t)clock_ms() + ch->timeout_ms;

	while (!(want_in && may_hold(ch))) {
		struct pollfd fds[3] = {
			{.fd = want_in ? ch->in : -1, .events = POLLIN},
			{.fd = want_out ? ch->out : -1, .events = POLLOUT},
			{.fd = ch->watch_fd, .events = POLLIN},
		};
		int64_t left = deadline < 0 ? -1 : MAX(deadline - (int64_t)clock_ms(), (int64_t)0);
		bool looks = ch->direct && want_in && (left < 0 || left > LOOK_MS);
		int n = poll(fds, ARRAY_SIZE(fds), looks ? LOOK_MS : (int)left), came;

		if (n < 0 && errno != EINTR)
			return err_sys(err, "poll");
		/* so it shows that the other machine is silent */
		came = n == 0 && looks ? read_if_any(ch, err) : 0;
		if (came)
			return came < 0 ? -1 : READY_IN;
		if (n == 0 && deadline >= 0 && (int64_t)clock_ms() >= deadline) {
			ch->broken = true;
			return err_set(err, ETIMEDOUT, "%s has not answered for %d seconds",
				       ch->peer, ch->timeout_ms / 1000);
		}
		if (n > 0 && fds[2].revents && ch->on_watch(ch->arg, err) < 0)
			return -1;
		if (n > 0 && (fds[0].revents || fds[1].revents))
			return (fds[0].revents ? READY_IN : 0) | (fds[1].revents ? READY_OUT : 0);
	}
	return READY_IN;
}

static int take_abort(struct channel *ch, const struct frame *f, struct err *err)
{
	Wire__Abort *abort_msg = (Wire__Abort *)msg_unpack(f->type, f->body, f->bytes, err);

	if (!abort_msg)
		return -1;
	err_set(err, (int)abort_msg->error, "%s: %.900s", ch->peer, abort_msg->reason);
	wire_free(abort_msg);
	return -1;
}

/* While sending: has the peer given up? Other messages wait for channel_recv. */
static int look_for_abort(struct channel *ch, struct err *err)
{
	struct frame f;
	int rc = frame_peek(&ch->reader, &f, err);

	if (rc == 1 && f.type == MSG_ABORT)
		return take_abort(ch, &f, err);
	return rc < 0 ? -1 : 0;
}

/* A message that is here already keeps its place: no more is read ahead than one. */
static bool may_read_ahead(struct channel *ch)
{
	struct frame f;
	struct err ignored;

	return frame_peek(&ch->reader, &f, &ignored) == 0;
}

/* The peer is gone; but perhaps its last words have arrived. */
static int last_words(struct channel *ch, int no, struct err *err)
{
	struct err ignored;
	struct frame f;

	while (may_read_ahead(ch) && read_some(ch, &ignored) == 0) {
		if (wait_ready(ch, true, false, &ignored) < 0)
			break;
	}
	while (frame_next(&ch->reader, &f, &ignored) == 1) {
		if (f.type == MSG_ABORT)
			return take_abort(ch, &f, err);
	}
	return broken(ch, no, "write", err);
}

static void advance(struct iovec *iov, size_t *n, size_t bytes)
{
	size_t i = 0;

	while (i < *n && bytes >= iov[i].iov_len)
		bytes -= iov[i++].iov_len;
	*n -= i;
	memmove(iov, iov + i, *n * sizeof(*iov));
	if (*n) {
		iov[0].iov_base = (char *)iov[0].iov_base + bytes;
		iov[0].iov_len -= bytes;
	}
}

/* As writev(2). A record goes as one, so that the peer is woken once for a small message. */
static ssize_t write_some(struct channel *ch, const struct iovec *iov, size_t n)
{
	uint8_t record[RECORD_BYTES];
	size_t bytes = 0;

	if (!ch->direct)
		return writev(ch->out, iov, (int)n);
	if (n == 1 || iov[0].iov_len >= sizeof(record))
		return tunnel_write(ch->direct, iov[0].iov_base, iov[0].iov_len);
	for (size_t i = 0; i < n && bytes < sizeof(record); i++) {
		size_t part = MIN(iov[i].iov_len, sizeof(record) - bytes);

		if (part)
			memcpy(record + bytes, iov[i].iov_base, part);
		bytes += part;
	}
	return tunnel_write(ch->direct, record, bytes);
}

static int write_all(struct channel *ch, struct iovec *iov, size_t n, struct err *err)
{
	advance(iov, &n, 0);
	if (n)
		ch->sent_at_ns = clock_ns();
	while (n) {
		ssize_t wrote = write_some(ch, iov, n);
		int ready;

		if (wrote >= 0) {
			ch->sent_bytes += (uint64_t)wrote;
			advance(iov, &n, (size_t)wrote);
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return last_words(ch, errno, err);
		ch->was_full = true;
		ch->tight |= ch->direct != NULL;
		ready = wait_ready(ch, may_read_ahead(ch), true, err);
		if (ready < 0)
			return -1;
		if ((ready & READY_IN) && (read_some(ch, err) < 0 || look_for_abort(ch, err) < 0))
			return -1;
	}
	return 0;
}

void channel_hold(struct channel *ch)
{
	if (!ch->held)
		ch->held = malloc(HOLD_BYTES);
	ch->holding = ch->held != NULL; /* it only saves time */
}

void channel_release(struct channel *ch)
{
	ch->holding = false;
}

/* True: the message waits. */
static bool hold(struct channel *ch, const struct iovec *iov, size_t n, size_t bytes)
{
	if (!ch->holding || ch->held_bytes + bytes > HOLD_BYTES)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (iov[i].iov_len)
			memcpy(ch->held + ch->held_bytes, iov[i].iov_base, iov[i].iov_len);
		ch->held_bytes += iov[i].iov_len;
	}
	return true;
}

int channel_flush(struct channel *ch, struct err *err)
{
	struct iovec iov = {ch->held, ch->held_bytes};

	ch->held_bytes = 0;
	return write_all(ch, &iov, 1, err);
}

static int send_pieces(struct channel *ch, uint16_t type, const struct iovec *pieces, size_t n,
		       struct err *err)
{
	const struct msg_info *info = msg_info(type);
	uint8_t header[FRAME_HEADER_BYTES];
	struct iovec iov[MAX_PIECES];
	size_t bytes = 0;

	if (n > MAX_PIECES - 2)
		return err_set(err, EINVAL, "message %s: too many pieces", info->name);
	for (size_t i = 0; i < n; i++) {
		iov[i + 2] = pieces[i];
		bytes += pieces[i].iov_len;
	}
	if (bytes > info->max_bytes)
		return err_set(err, EMSGSIZE, "message %s: %zu bytes are more than %u", info->name,
			       bytes, info->max_bytes);
	frame_header(header, type, (uint32_t)bytes);
	iov[1] = (struct iovec){header, sizeof(header)};
	if (hold(ch, iov + 1, n + 1, sizeof(header) + bytes))
		return 0;
	iov[0] = (struct iovec){ch->held, ch->held_bytes};
	ch->held_bytes = 0;
	return write_all(ch, iov, n + 2, err);
}

/*
 * A direct channel is for little that is waited for. With a link that takes it at once, to pack and unpack only makes it late: so
 * not before it was full, unless it was slow when more went over it.
 */
static bool is_worth_packing(const struct channel *ch)
{
	return !ch->direct || ch->tight || packer_link_ns(ch->packer) > SLOW_LINK_NS;
}

/* Packed, if that pays, and measured. */
static int send_measured(struct channel *ch, uint16_t type, const struct iovec *pieces, size_t n,
			 struct err *err)
{
	struct iovec packed;
	uint64_t start, before = ch->sent_bytes;
	int rc;

	if (!is_worth_packing(ch))
		return send_pieces(ch, type, pieces, n, err);
	if (packer_pack(ch->packer, type, pieces, n, &packed)) {
		type = MSG_PACKED;
		pieces = &packed;
		n = 1;
	}
	start = clock_ns();
	ch->was_full = false;
	rc = send_pieces(ch, type, pieces, n, err);
	if (rc == 0)
		packer_sent(ch->packer, ch->sent_bytes - before, clock_ns() - start, ch->was_full);
	return rc;
}

int channel_send_raw(struct channel *ch, uint16_t type, const struct iovec *pieces, size_t n,
		     struct err *err)
{
	return ch->packer ? send_measured(ch, type, pieces, n, err) :
			    send_pieces(ch, type, pieces, n, err);
}

int channel_send(struct channel *ch, uint16_t type, const ProtobufCMessage *body, struct err *err)
{
	size_t bytes = body ? protobuf_c_message_get_packed_size(body) : 0;
	cleanup_free uint8_t *packed = malloc(bytes + 1);
	struct iovec piece = {packed, bytes};

	if (!packed)
		return err_nomem(err);
	if (body)
		protobuf_c_message_pack(body, packed);
	return channel_send_raw(ch, type, &piece, 1, err);
}

static int take_progress(struct channel *ch, const struct frame *f, struct err *err)
{
	Wire__Progress *p = (Wire__Progress *)msg_unpack(f->type, f->body, f->bytes, err);

	if (!p)
		return -1;
	if (ch->on_progress)
		ch->on_progress(ch->arg, p->done_bytes, p->total_bytes);
	wire_free(p);
	return 0;
}

/* *f becomes what is inside, which must be allowed as if it had come by itself. */
static int take_packed(struct channel *ch, struct frame *f, struct err *err)
{
	enum wire_side peer = ch->side == WIRE_SOURCE ? WIRE_TARGET : WIRE_SOURCE;

	if (!ch->unpacker)
		return err_set(err, EPROTO, "a packed message, which was not agreed on");
	if (unpack(ch->unpacker, f->body, f->bytes, f, err) < 0)
		return -1;
	if ((int64_t)f->bytes > msg_limit(f->type))
		return err_set(err, EMSGSIZE, "message %s: %zu bytes are too many",
			       msg_info(f->type)->name, f->bytes);
	return msg_allowed(f->type, peer, ch->stage, err);
}

int channel_recv(struct channel *ch, struct frame *out, struct err *err)
{
	enum wire_side peer = ch->side == WIRE_SOURCE ? WIRE_TARGET : WIRE_SOURCE;

	if (channel_flush(ch, err) < 0)
		return -1;
	for (;;) {
		int rc = frame_next(&ch->reader, out, err);

		if (rc == 0) {
			if (wait_ready(ch, true, false, err) < 0 || read_some(ch, err) < 0)
				return -1;
			continue;
		}
		if (rc < 0 || msg_allowed(out->type, peer, ch->stage, err) < 0 ||
		    (out->type == MSG_PACKED && take_packed(ch, out, err) < 0))
			return err_wrap(err, "%s", ch->peer);
		if (out->type == MSG_ABORT)
			return take_abort(ch, out, err);
		if (out->type != MSG_PROGRESS)
			return 0;
		if (take_progress(ch, out, err) < 0)
			return -1;
	}
}

int channel_peek(struct channel *ch, struct frame *out, struct err *err)
{
	int rc;

	if (channel_flush(ch, err) < 0)
		return -1;
	while ((rc = frame_peek(&ch->reader, out, err)) == 0) {
		if (wait_ready(ch, true, false, err) < 0 || read_some(ch, err) < 0)
			return -1;
	}
	return rc < 0 ? err_wrap(err, "%s", ch->peer) : 0;
}

int channel_look(struct channel *ch, struct err *err)
{
	enum wire_side peer = ch->side == WIRE_SOURCE ? WIRE_TARGET : WIRE_SOURCE;
	struct pollfd in = {.fd = ch->in, .events = POLLIN};
	struct frame f;
	int rc;

	if (channel_flush(ch, err) < 0)
		return -1;
	while ((rc = frame_peek(&ch->reader, &f, err)) >= 0) {
		if (rc == 1 && f.type != MSG_PROGRESS)
			return 1;
		if (rc == 1) {
			rc = frame_next(&ch->reader, &f, err);
			if (rc < 0 || msg_allowed(f.type, peer, ch->stage, err) < 0)
				break;
			if (take_progress(ch, &f, err) < 0)
				return -1;
			continue;
		}
		if (!ch->direct && poll(&in, 1, 0) <= 0)
			return 0;
		rc = read_if_any(ch, err);
		if (rc <= 0)
			return rc;
	}
	return err_wrap(err, "%s", ch->peer);
}

/* Receives a message of this type into *f. */
static int expect(struct channel *ch, uint16_t type, struct frame *f, struct err *err)
{
	if (channel_recv(ch, f, err) < 0)
		return -1;
	if (f->type != type)
		return err_set(err, EPROTO, "%s: sent message %s where %s belongs", ch->peer,
			       msg_info(f->type)->name, msg_info(type)->name);
	return 0;
}

void *channel_expect(struct channel *ch, uint16_t type, struct err *err)
{
	struct frame f;

	if (expect(ch, type, &f, err) < 0)
		return NULL;
	return msg_unpack(type, f.body, f.bytes, err);
}

int channel_expect_done(struct channel *ch, struct err *err)
{
	void *done = channel_expect(ch, MSG_DONE, err);

	if (!done)
		return -1;
	wire_free(done);
	return 0;
}

int channel_expect_empty(struct channel *ch, uint16_t type, struct err *err)
{
	struct frame f;

	return expect(ch, type, &f, err);
}

void channel_abort(struct channel *ch, const struct err *why)
{
	Wire__Abort msg = WIRE__ABORT__INIT;
	char reason[sizeof(why->text)];
	struct err ignored;

	snprintf(reason, sizeof(reason), "%s", why->text);
	msg.reason = reason;
	msg.has_error = true;
	msg.error = (uint32_t)why->no;
	ch->timeout_ms = ABORT_TIMEOUT_MS;
	ch->watch_fd = -1;
	ch->holding = false;
	if (channel_send(ch, MSG_ABORT, &msg.base, &ignored) < 0)
		ch->broken = true;
}
