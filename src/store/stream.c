// SPDX-License-Identifier: Apache-2.0
/*
 * The way of blocks over descriptors, and the store that writes them.
 *
 * A dump writes while a tree is frozen, so no write may block for good: while
 * there is no room somebody may interrupt. A pipe that we share with others (stdout) is
 * opened anew for that, as O_NONBLOCK belongs to the description and would
 * surprise them.
 */
#include "store/stream.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/page.h"
#include "store/bufs.h"
#include "store/names.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum {
	LOOK_MS = 200, /* how often a wait looks for an interruption */
	SAY_MS = 3000, /* a wait for the beginning of a snapshot: a multiple of LOOK_MS */
};

void stream_init(struct stream *st, int in, int out, int (*interrupted)(struct err *err))
{
	struct stat sb = {0};
	char path[32];

	*st = (struct stream){.in = in, .out = out, .own_out = -1, .interrupted = interrupted};
	if (out < 0 || fstat(out, &sb))
		return;
	st->out_socket = S_ISSOCK(sb.st_mode);
	if (!S_ISFIFO(sb.st_mode))
		return;
	/* fewer switches between us and the reader; refused where the user has too many such pipes */
	(void)!fcntl(out, F_SETPIPE_SZ, 1 << 20);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", out);
	st->own_out = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (st->own_out >= 0)
		st->out = st->own_out;
}

void stream_finish(struct stream *st)
{
	bufs_free(steal_ptr(&st->body));
	free(steal_ptr(&st->packed));
	packer_free(steal_ptr(&st->packer));
	unpacker_free(steal_ptr(&st->unpacker));
	if (st->own_out >= 0)
		close(steal_fd(&st->own_out));
}

/* Until the descriptor is ready for one of @events, or has ended, or somebody interrupts. */
static int await(const struct stream *st, int fd, short events, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = events};
	int n, waited_ms = 0;

	do {
		if (st->silence_ms && waited_ms > st->silence_ms)
			return err_set(err, ETIMEDOUT, "the other side says nothing");
		waited_ms += LOOK_MS;
		if (st->stop && atomic_load(st->stop))
			return err_set(err, ECANCELED, "the stream: nobody waits for it any more");
		if (st->interrupted && st->interrupted(err))
			return -1;
		if (st->awaited[0] && st->on_await && waited_ms == SAY_MS)
			st->on_await(st->awaited);
		n = poll(&p, 1, LOOK_MS);
	} while (n == 0 || (n < 0 && errno == EINTR));
	return n < 0 ? err_sys(err, "poll") : 0;
}

/* ---- writing ---- */

/* A reader that speaks while we write, or hangs up, takes no more. */
static bool has_words(const struct stream *st)
{
	struct pollfd p = {.fd = st->in, .events = POLLIN | POLLRDHUP};

	return poll(&p, 1, 0) > 0;
}

/* One write; to a socket or a pipe it does not block. */
static ssize_t write_some(const struct stream *st, struct iovec *v, int n)
{
	struct msghdr msg = {.msg_iov = v, .msg_iovlen = (size_t)n};

	if (st->out_socket)
		return sendmsg(st->out, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	return writev(st->out, v, n);
}

static void advance(struct iovec **v, int *n, size_t done)
{
	while (*n && done >= (*v)->iov_len) {
		done -= (*v)->iov_len;
		++*v;
		--*n;
	}
	if (*n) {
		(*v)->iov_base = (uint8_t *)(*v)->iov_base + done;
		(*v)->iov_len -= done;
	}
}

static int write_all(struct stream *st, struct iovec *v, int n, struct err *err)
{
	ssize_t got;

	advance(&v, &n, 0);
	while (n) {
		got = write_some(st, v, n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN) {
			st->was_full = true;
			if (await(st, st->out, st->heard ? POLLOUT | POLLIN : POLLOUT, err))
				return -1;
			if (st->heard && has_words(st))
				return err_set(err, EPIPE, "the stream: its reader has ended it");
			continue;
		}
		if (got < 0 && errno == EPIPE)
			return err_set(err, EPIPE, "the stream: its reader is gone");
		if (got < 0)
			return err_sys(err, "the stream: cannot write");
		advance(&v, &n, (size_t)got);
	}
	return 0;
}

int stream_compress(struct stream *st, enum compress how, struct err *err)
{
	unsigned int codecs = compress_codecs(how);

	if (!codecs)
		return 0;
	st->packer = packer_create(&pack_blocks, codecs, how == COMPRESS_AUTO, err);
	return st->packer ? 0 : -1;
}

int stream_send_preamble(struct stream *st, struct err *err)
{
	uint8_t preamble[BLOCK_PREAMBLE_BYTES];
	struct iovec v = {preamble, sizeof(preamble)};

	block_preamble(st->packer ? BLOCK_VERSION_FORMS : BLOCK_VERSION_PLAIN, preamble);
	return write_all(st, &v, 1, err);
}

int stream_send_raw(struct stream *st, const void *data, size_t bytes, struct err *err)
{
	struct iovec v = {(void *)data, bytes};

	return write_all(st, &v, 1, err);
}

/* The other side is gone; before that it may have said why. */
static void explain(struct stream *st, struct err *err)
{
	struct pollfd p = {.fd = st->in, .events = POLLIN};
	struct block b = {0};
	struct err other;

	if (st->in < 0 || poll(&p, 1, LOOK_MS) != 1)
		return;
	if (stream_receive(st, &b, &other) == 0 && b.type == BLOCK_FAIL)
		stream_failure(&b, err);
}

/* Packed, if that pays: returns of how many bytes; 0: it is not. */
static size_t pack(struct stream *st, const struct block *b, struct iovec *packed)
{
	uint8_t fields[BLOCK_FIXED_MAX];
	struct iovec pieces[2];

	if (!st->packer)
		return 0;
	block_pieces(b, fields, pieces);
	if (!packer_pack(st->packer, (uint16_t)b->type, pieces, ARRAY_SIZE(pieces), packed))
		return 0;
	return pieces[0].iov_len + pieces[1].iov_len;
}

/* The sums are part of the time that sending takes: what is smaller spares some of them. */
int stream_send(struct stream *st, const struct block *b, struct err *err)
{
	uint8_t head[BLOCK_HEAD_MAX];
	struct iovec v[] = {{head, BLOCK_HEADER_BYTES}, {(void *)b->data, b->n_data}};
	uint16_t form = st->unsummed ? BLOCK_UNSUMMED : 0;
	size_t raw_bytes = pack(st, b, &v[1]), bytes;
	uint64_t start = st->packer ? clock_ns() : 0;

	if (raw_bytes)
		block_encode_packed(b, st->seq_out, form, &v[1], raw_bytes, head);
	else
		v[0].iov_len = block_encode(b, st->seq_out, form, head);
	bytes = v[0].iov_len + v[1].iov_len;
	st->was_full = false;
	if (write_all(st, v, ARRAY_SIZE(v), err)) {
		if (err->no == EPIPE || err->no == ECONNRESET)
			explain(st, err);
		return -1;
	}
	if (st->packer)
		packer_sent(st->packer, bytes, clock_ns() - start, st->was_full);
	st->seq_out++;
	return 0;
}

/* Behind the text and a zero byte, which ends it for those who do not know of it. */
static const uint8_t passed_on[] = {0, 1};

void stream_send_failure(struct stream *st, const struct err *why)
{
	uint8_t text[BLOCK_TEXT_MAX + sizeof(passed_on)];
	struct block b = {.type = BLOCK_FAIL,
			  .data = text,
			  .n_data = strnlen(why->text, BLOCK_TEXT_MAX)};
	struct err ignored;

	memcpy(text, why->text, b.n_data);
	if (why->no == STREAM_PASSED_ON) {
		memcpy(text + b.n_data, passed_on, sizeof(passed_on));
		b.n_data += sizeof(passed_on);
	}

	if (stream_send(st, &b, &ignored))
		return; /* it finds out by the end of the stream */
}

int stream_send_object(struct stream *st, const char *name, const void *data, size_t bytes,
		       struct err *err)
{
	struct block b = {.type = BLOCK_OBJECT, .bytes = bytes, .data = data};

	snprintf(b.name, sizeof(b.name), "%s", name);
	do {
		b.n_data = MIN(bytes, (size_t)BLOCK_DATA_MAX);
		if (stream_send(st, &b, err))
			return err_wrap(err, "%s", name);
		b.data += b.n_data;
		bytes -= b.n_data;
		b.type = BLOCK_MORE;
	} while (bytes);
	return 0;
}

/* How many of the bytes, whole pages, are zero, or are not, as the first page. */
static size_t same_kind(const uint8_t *data, size_t bytes, bool *zero_out)
{
	size_t n = 0;

	*zero_out = bytes >= PAGE_BYTES && page_is_zero(data);
	while (bytes - n >= PAGE_BYTES && page_is_zero(data + n) == *zero_out)
		n += PAGE_BYTES;
	return !*zero_out && bytes - n < PAGE_BYTES ? bytes : n;
}

int stream_send_pages(struct stream *st, uint32_t id, uint64_t off, const void *data, size_t bytes,
		      struct err *err)
{
	struct block b = {.id = id};
	const uint8_t *p = data;
	bool zero;
	size_t n;

	for (; bytes; p += n, off += n, bytes -= n) {
		n = same_kind(p, MIN(bytes, (size_t)BLOCK_DATA_MAX), &zero);
		b.type = zero ? BLOCK_ZEROS : BLOCK_PAGES;
		b.off = off;
		b.bytes = zero ? n : 0;
		b.data = p;
		b.n_data = zero ? 0 : n;
		if (stream_send(st, &b, err))
			return err_wrap(err, "pages-%u.img", id);
	}
	return 0;
}

/* ---- reading ---- */

/* 0, or -1: EPIPE at the end. */
static int read_all(struct stream *st, void *buf, size_t bytes, size_t *have, struct err *err)
{
	ssize_t n;

	for (*have = 0; *have < bytes; *have += (size_t)n) {
		if (await(st, st->in, POLLIN, err))
			return -1;
		n = read(st->in, (uint8_t *)buf + *have, bytes - *have);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			n = 0;
		else if (n < 0)
			return err_sys(err, "the stream: cannot read");
		else if (n == 0)
			return err_set(err, EPIPE, "the stream ends before it is complete");
	}
	return 0;
}

int stream_receive_preamble(struct stream *st, struct err *err)
{
	uint8_t in[BLOCK_PREAMBLE_BYTES];
	size_t have;

	if (read_all(st, in, sizeof(in), &have, err)) {
		if (err->no == EPIPE && have == 0)
			err_set(err, EPIPE, "the stream is empty");
		return -1;
	}
	return block_check_preamble(in, &st->version_in, err);
}

void stream_spare_sums(struct stream *st)
{
	st->unsummed = st->version_in >= BLOCK_VERSION_FORMS;
}

int stream_receive_raw(struct stream *st, void *data, size_t bytes, struct err *err)
{
	size_t have;

	return read_all(st, data, bytes, &have, err);
}

/* Memory for bodies, from the first block on that needs it. */
static int prepare_body(struct stream *st, bool packed, struct err *err)
{
	/* the first touch of a buffer's huge page takes longer than a small stream as a whole */
	if (!st->body)
		st->body = st->stolen ? bufs_get() : malloc(BLOCK_BODY_MAX);
	if (packed && !st->packed)
		st->packed = malloc(BLOCK_BODY_MAX);
	if (!st->body || (packed && !st->packed))
		return err_nomem(err);
	if (packed && !st->unpacker)
		st->unpacker = unpacker_create(&pack_blocks, err);
	return packed && !st->unpacker ? -1 : 0;
}

int stream_receive(struct stream *st, struct block *out, struct err *err)
{
	uint8_t in[BLOCK_HEADER_BYTES], *came;
	struct block_header h;
	bool packed;
	size_t have;

	if (read_all(st, in, sizeof(in), &have, err) || block_header(in, st->seq_in, &h, err))
		return -1;
	if ((h.form & BLOCK_UNSUMMED) && !st->unsummed)
		return err_set(err, EPROTO, "block %u of the stream has no checksum", h.seq);
	packed = h.form & BLOCK_PACKED;
	if (prepare_body(st, packed, err))
		return -1;
	came = packed ? st->packed : st->body;
	if (read_all(st, came, h.body_bytes, &have, err) ||
	    (packed && block_unpack(&h, st->unpacker, came, st->body, err)) ||
	    block_decode(&h, st->body, out, err))
		return -1;
	st->seq_in++;
	return 0;
}

uint8_t *stream_steal(struct stream *st)
{
	st->stolen = true;
	return steal_ptr(&st->body);
}

/* @n: the bytes of its text. */
static bool is_passed_on(const struct block *b, size_t n)
{
	return b->n_data - n == sizeof(passed_on) &&
	       !memcmp(b->data + n, passed_on, sizeof(passed_on));
}

int stream_failure(const struct block *b, struct err *err)
{
	size_t n = b->n_data ? strnlen((const char *)b->data, MIN(b->n_data, BLOCK_TEXT_MAX)) : 0;

	if (!n)
		return err_set(err, ECANCELED, "the other side failed and does not say why");
	return err_set(err, is_passed_on(b, n) ? STREAM_PASSED_ON : ECANCELED, "%.*s", (int)n,
		       (const char *)b->data);
}

int stream_expect(struct stream *st, enum block_type type, struct block *out, struct err *err)
{
	if (stream_receive(st, out, err))
		return -1;
	if (out->type == BLOCK_FAIL)
		return stream_failure(out, err);
	if (out->type != type)
		return err_set(err, EPROTO, "a block of type %d came instead of %d", out->type, type);
	return 0;
}

/* ---- the store ---- */

struct stream_store {
	struct store store;
	struct stream *st;
	bool confirmed;
	uint64_t bytes;
	struct names names;
	struct map pages; /* by id: struct sent */
};

/* What was sent of one id. */
struct sent {
	uint64_t bytes;
	bool ended;
};

static struct stream_store *to_stream(struct store *s)
{
	return (struct stream_store *)s;
}

static int stream_put(struct store *s, const char *object, const void *data, size_t bytes,
		      struct err *err)
{
	struct stream_store *ss = to_stream(s);

	if (names_add(&ss->names, object, err) ||
	    stream_send_object(ss->st, object, data, bytes, err))
		return -1;
	ss->bytes += bytes;
	if (!strcmp(object, "inventory.img"))
		ss->st->identity = snapshot_identity(data, bytes);
	return 0;
}

static struct sent *sent_of(struct stream_store *ss, uint32_t id)
{
	struct sent *sent = map_get(&ss->pages, id);

	if (sent)
		return sent;
	sent = calloc(1, sizeof(*sent));
	if (sent && map_set(&ss->pages, id, sent))
		return sent;
	free(sent);
	return NULL;
}

static int stream_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			    struct err *err)
{
	struct stream_store *ss = to_stream(s);
	struct sent *sent = sent_of(ss, pages_id);
	struct block end = {.type = BLOCK_PAGES_END, .id = pages_id};

	if (!sent)
		return err_nomem(err);
	if (sent->ended)
		return err_set(err, EEXIST, "pages-%u.img: written twice", pages_id);
	if (bytes) {
		if (stream_send_pages(ss->st, pages_id, sent->bytes, data, bytes, err))
			return -1;
		sent->bytes += bytes;
		ss->bytes += bytes;
		return 0;
	}
	sent->ended = true;
	end.off = sent->bytes;
	return stream_send(ss->st, &end, err);
}

static int stream_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		      struct err *err)
{
	return err_set(err, EOPNOTSUPP, "%s: was written to a stream", object);
}

static int stream_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf,
			    size_t bytes, struct err *err)
{
	return err_set(err, EOPNOTSUPP, "pages-%u.img: was written to a stream", pages_id);
}

static int stream_pages_fd(struct store *s, uint32_t pages_id)
{
	return -1;
}

static int stream_skip(struct store *s, const char *object, struct err *err)
{
	struct block b = {.type = BLOCK_SKIP};

	snprintf(b.name, sizeof(b.name), "%s", object);
	return stream_send(to_stream(s)->st, &b, err);
}

void stream_parent_name(const char *name, uint64_t identity, char out[STREAM_PARENT_MAX])
{
	snprintf(out, STREAM_PARENT_MAX, "%016llx:%s", (unsigned long long)identity, name);
}

static int stream_set_parent(struct store *s, const char *target, struct err *err)
{
	struct block b = {.type = BLOCK_PARENT};
	char *end;

	b.off = strtoull(target, &end, 16);
	if (*end != ':' || b.off > INT64_MAX || strlen(end + 1) > BLOCK_NAME_MAX)
		return err_set(err, EINVAL, "'%.200s' names no snapshot", target);
	strcpy(b.name, end + 1);
	return stream_send(to_stream(s)->st, &b, err);
}

static int stream_complete(struct store *s, struct err *err)
{
	struct stream_store *ss = to_stream(s);
	struct block b = {.type = BLOCK_COMPLETE, .bytes = ss->bytes};

	if (stream_send(ss->st, &b, err))
		return -1;
	return ss->confirmed ? stream_expect(ss->st, BLOCK_COMPLETE, &b, err) : 0;
}

static void stream_close(struct store *s)
{
	struct stream_store *ss = to_stream(s);

	for (size_t i = 0; i < ss->pages.cap; i++)
		free(ss->pages.slots[i].value);
	map_free(&ss->pages);
	names_free(&ss->names);
	free(ss);
}

static const struct store_ops stream_ops = {
	.name = "stream",
	.put = stream_put,
	.get = stream_get,
	.put_pages = stream_put_pages,
	.get_pages = stream_get_pages,
	.pages_fd = stream_pages_fd,
	.skip = stream_skip,
	.set_parent = stream_set_parent,
	.complete = stream_complete,
	.close = stream_close,
};

struct store *stream_store_open(struct stream *st, const char *name, bool confirmed, struct err *err)
{
	struct stream_store *ss = calloc(1, sizeof(*ss));
	struct block b = {.type = BLOCK_SNAPSHOT};

	if (!ss) {
		err_nomem(err);
		return NULL;
	}
	ss->store.ops = &stream_ops;
	ss->store.streams = true;
	ss->st = st;
	ss->confirmed = confirmed;
	snprintf(b.name, sizeof(b.name), "%s", name);
	if (stream_send(st, &b, err) || (confirmed && stream_expect(st, BLOCK_COMPLETE, &b, err))) {
		stream_close(&ss->store);
		return NULL;
	}
	return &ss->store;
}
