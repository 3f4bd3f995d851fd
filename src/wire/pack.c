// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "pack"
#include "wire/pack.h"

#include "base/clock.h"
#include "base/le.h"
#include "base/log.h"
#include "wire/msg.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum {
	ZSTD_LEVEL = 1, /* higher ones are for links that are slower than any on which one would migrate */
	SLOTS = 1024,     /* of the table of pages, for 256 of them */
	FEW_BYTES = 2048, /* not worth a look */
	TRY_SOON = 16, /* messages until a codec that did not pay is tried again, doubled each time */
	TRY_LATE = 256,
	LITTLE_BYTES = 128 << 10, /* gone before a codec is tried at all: to try one costs more than these gain */
	PIECES_MAX = 4,
	PROBE_SOON = 16, /* messages that are in doubt before the first one, which costs as much as several of them */
	PROBE_LATE = 256,
	PROBE_FULL = 2, /* messages for which the link is full: the first may have found room that was left */
	PROBE_MESSAGES = 4,
	SAMPLE_BYTES = 16 * PACK_PAGE_BYTES, /* of a message, to try a codec with */
};

static_assert(SLOTS > 2 * PACK_PAGES_MAX, "the table has room");

const char *codec_name(enum codec codec)
{
	static const char *const names[] = {"none", "lz4", "zstd"};

	return codec < CODECS ? names[codec] : "unknown";
}

const char *const compress_words[] = {
	[COMPRESS_AUTO] = "auto", [COMPRESS_NONE] = "none", [COMPRESS_LZ4] = "lz4", [COMPRESS_ZSTD] = "zstd", NULL};

unsigned int compress_codecs(enum compress compress)
{
	switch (compress) {
	case COMPRESS_NONE:
		return 0;
	case COMPRESS_LZ4:
		return 1 << CODEC_LZ4;
	case COMPRESS_ZSTD:
		return 1 << CODEC_ZSTD;
	default:
		return PACK_CODECS;
	}
}

static bool message_has_pages(uint16_t type)
{
	return type == MSG_PAGES || type == MSG_ROUND_PAGES;
}

static bool message_can_be_packed(uint16_t type)
{
	return message_has_pages(type) || type == MSG_FILE_DATA || type == MSG_OBJECT;
}

const struct pack_types pack_messages = {message_can_be_packed, message_has_pages};

/* What has been seen of a codec. */
struct measured {
	double ns_per_byte;      /* of what goes in */
	double ratio;            /* what comes out, of it */
	unsigned int wait, left; /* messages until it is tried again, when it is not in use */
	bool known;
};

struct packer {
	const struct pack_types *types;
	unsigned int codecs;
	bool measure;
	struct measured of[CODECS];
	double send_ns_per_byte;
	bool send_known;
	double least_ns_per_byte; /* what the link takes at least, by what was seen while a codec was in use */
	struct {
		unsigned int wait, left; /* messages until the next one */
		unsigned int sent, full; /* of this one */
		bool on;
	} probe;          /* of the link, with messages as they are, while a codec is in use */
	uint64_t pack_ns; /* of the message that goes now */
	enum codec used;
	size_t raw_bytes;
	struct pack_totals totals;
	void *lz4;
	ZSTD_CCtx *zstd;
	uint8_t *plain; /* PACK_RAW_MAX: head and literal pages */
	uint8_t *out;   /* PACK_BODY_MAX */
	uint16_t slots[SLOTS];
	uint64_t hashes[PACK_PAGES_MAX];
};

struct packer *packer_create(const struct pack_types *types, unsigned int codecs, bool measure,
			     struct err *err)
{
	struct packer *p = calloc(1, sizeof(*p));

	if (!p) {
		err_nomem(err);
		return NULL;
	}
	p->types = types;
	p->codecs = codecs & PACK_CODECS;
	p->measure = measure || (p->codecs & (p->codecs - 1));
	p->lz4 = malloc((size_t)LZ4_sizeofState());
	p->zstd = ZSTD_createCCtx();
	p->plain = malloc(PACK_RAW_MAX);
	p->out = malloc(PACK_BODY_MAX);
	if (p->lz4 && p->zstd && p->plain && p->out &&
	    !ZSTD_isError(ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL)))
		return p;
	packer_free(p);
	err_nomem(err);
	return NULL;
}

void packer_free(struct packer *p)
{
	if (!p)
		return;
	free(p->lz4);
	ZSTD_freeCCtx(p->zstd);
	free(p->plain);
	free(p->out);
	free(p);
}

/* ---- which codec ---- */

/*
 * Time for a byte that goes in, as far as it limits: while the link works off what is buffered the next message is
 * compressed, so the slower of the two counts, and a little of the other.
 */
static double cost(const struct packer *p, enum codec codec)
{
	const struct measured *m = &p->of[codec];
	double send;

	if (codec == CODEC_NONE)
		return p->send_ns_per_byte;
	send = p->send_ns_per_byte * m->ratio;
	return MAX(m->ns_per_byte, send) + MIN(m->ns_per_byte, send) / 8;
}

/* What gains little is not worth the processor's time. */
static bool pays(const struct packer *p, enum codec codec)
{
	return p->send_known && cost(p, codec) < 0.9 * cost(p, CODEC_NONE);
}

/* The one that is worth while; CODEC_NONE: none is. */
static enum codec best(const struct packer *p)
{
	enum codec found = CODEC_NONE;

	for (enum codec c = CODEC_LZ4; c < CODECS; c++)
		if ((p->codecs & 1u << c) && p->of[c].known && pays(p, c) &&
		    cost(p, c) < cost(p, found))
			found = c;
	return found;
}

/*
 * Is the codec in use only because the link is as slow as it was once? With one in use, that the link has become
 * faster, or never was what limits, does not show.
 */
static bool is_doubtful(const struct packer *p, enum codec codec)
{
	const struct measured *m = &p->of[codec];

	return m->ns_per_byte + p->least_ns_per_byte * m->ratio >= 0.9 * p->least_ns_per_byte;
}

static bool probes(struct packer *p, enum codec codec)
{
	if (p->probe.on)
		return true;
	if (!is_doubtful(p, codec))
		return false;
	if (!p->probe.wait)
		p->probe.wait = p->probe.left = PROBE_SOON;
	if (p->probe.left) {
		p->probe.left--;
		return false;
	}
	p->probe.wait = MIN(2 * p->probe.wait, (unsigned int)PROBE_LATE);
	p->probe.left = p->probe.wait;
	p->probe.sent = p->probe.full = 0;
	p->probe.on = true;
	return true;
}

static void note_probe(struct packer *p, double ns_per_byte, bool full)
{
	p->probe.sent++;
	p->probe.full += full;
	if (p->probe.full < PROBE_FULL && p->probe.sent < PROBE_MESSAGES)
		return;
	p->send_ns_per_byte = ns_per_byte;
	p->probe.on = false;
}

/* One that it is time to try, besides @used; CODEC_NONE: none. */
static enum codec due(struct packer *p, enum codec used)
{
	enum codec found = CODEC_NONE;

	for (enum codec c = CODEC_LZ4; c < CODECS; c++) {
		struct measured *m = &p->of[c];

		if (!(p->codecs & 1u << c) || c == used)
			continue;
		if (m->left)
			m->left--;
		else if (found == CODEC_NONE)
			found = c;
	}
	return found;
}

static double mix(bool known, double before, double now)
{
	return known ? before + (now - before) / 8 : now;
}

/* What a codec has done with @raw bytes in @ns; @packed: nothing was gained if it is not smaller. */
static void note_codec(struct packer *p, enum codec codec, size_t raw, size_t packed, uint64_t ns)
{
	struct measured *m = &p->of[codec];

	m->ns_per_byte = mix(m->known, m->ns_per_byte, (double)ns / (double)raw);
	m->ratio = mix(m->known, m->ratio, MIN((double)packed / (double)raw, 1.0));
	m->known = true;
	m->wait = pays(p, codec) ?
			  TRY_SOON :
			  MIN(MAX(2 * m->wait, (unsigned int)TRY_SOON), (unsigned int)TRY_LATE);
	m->left = m->wait;
}

/*
 * With a codec in use only the limits of what the link takes are seen: a full one may have been busy while we
 * compressed, too, or not for all of that time. If we took it to be, a codec that is slower than the link would make that look slow,
 * and so the codec good.
 */
static void note_link(struct packer *p, double least, double most, bool full)
{
	double now = least;

	if (p->used == CODEC_NONE && p->probe.on) {
		note_probe(p, least, full);
		return;
	}
	if (p->used != CODEC_NONE) {
		least = full ? least : 0;
		p->least_ns_per_byte = mix(p->totals.messages[p->used] > 0, p->least_ns_per_byte,
					   least);
		now = MIN(MAX(p->send_ns_per_byte, least), most);
	}
	p->send_ns_per_byte = mix(p->send_known, p->send_ns_per_byte, now);
	p->send_known = true;
}

void packer_sent(struct packer *p, size_t bytes, uint64_t ns, bool full)
{
	if (!p->raw_bytes || !bytes)
		return;
	note_link(p, (double)ns / (double)bytes, (double)(ns + p->pack_ns) / (double)bytes, full);
	p->totals.raw_bytes += p->raw_bytes;
	p->totals.sent_bytes += bytes;
	p->totals.messages[p->used]++;
	p->raw_bytes = 0;
}

double packer_link_ns(const struct packer *p)
{
	return p && p->send_known ? p->send_ns_per_byte : 0;
}

void packer_totals(const struct packer *p, struct pack_totals *out)
{
	*out = p->totals;
}

void packer_log(const struct packer *p, const char *what)
{
	const struct pack_totals *t = p ? &p->totals : NULL;

	if (t)
		log_info("%s: %llu bytes went as %llu: %llu pieces as they are, %llu with lz4, %llu with zstd",
			 what, (unsigned long long)t->raw_bytes, (unsigned long long)t->sent_bytes,
			 (unsigned long long)t->messages[CODEC_NONE],
			 (unsigned long long)t->messages[CODEC_LZ4],
			 (unsigned long long)t->messages[CODEC_ZSTD]);
}

/* ---- pages ---- */

/* Not for adversaries: who makes pages collide makes his own program slower. */
static uint64_t page_hash(const uint8_t *page)
{
	uint64_t h[4] = {1, 2, 3, 4};

	for (size_t i = 0; i < PACK_PAGE_BYTES; i += sizeof(h)) {
		uint64_t w[4];

		memcpy(w, page + i, sizeof(w));
		for (size_t k = 0; k < ARRAY_SIZE(w); k++)
			h[k] = (h[k] ^ w[k]) * 0x9e3779b97f4a7c15u;
	}
	for (size_t k = 1; k < ARRAY_SIZE(h); k++)
		h[0] = (h[0] ^ (h[k] >> 29)) * 0xff51afd7ed558ccdu;
	return h[0] ^ h[0] >> 32;
}

/* The number of an earlier literal page with these contents; else PACK_LITERAL, and it is noted. */
static uint16_t find_same(struct packer *p, const uint8_t *pages, uint16_t i)
{
	const uint8_t *page = pages + (size_t)i * PACK_PAGE_BYTES;
	uint64_t hash = page_hash(page);
	size_t slot = hash % SLOTS;

	for (; p->slots[slot] != PACK_LITERAL; slot = (slot + 1) % SLOTS) {
		uint16_t other = p->slots[slot];

		if (p->hashes[other] == hash &&
		    memcmp(pages + (size_t)other * PACK_PAGE_BYTES, page, PACK_PAGE_BYTES) == 0)
			return other;
	}
	p->slots[slot] = i;
	p->hashes[i] = hash;
	return PACK_LITERAL;
}

static uint16_t what_page(struct packer *p, const uint8_t *pages, uint16_t i)
{
	const uint8_t *page = pages + (size_t)i * PACK_PAGE_BYTES;
	uint64_t first;

	/* whatever its alignment is */
	memcpy(&first, page, sizeof(first));
	if (first == 0 && memcmp(page, page + sizeof(first), PACK_PAGE_BYTES - sizeof(first)) == 0)
		return PACK_ZERO;
	return find_same(p, pages, i);
}

/* Fills the map and copies what is literal behind the head, at @to. Returns its end. */
static uint8_t *sort_pages(struct packer *p, const uint8_t *pages, uint16_t n, uint8_t *map,
			   uint8_t *to)
{
	memset(p->slots, 0xff, sizeof(p->slots));
	for (uint16_t i = 0; i < n; i++) {
		uint16_t what = what_page(p, pages, i);

		put_le16(map + 2 * (size_t)i, what);
		if (what != PACK_LITERAL)
			continue;
		memcpy(to, pages + (size_t)i * PACK_PAGE_BYTES, PACK_PAGE_BYTES);
		to += PACK_PAGE_BYTES;
	}
	return to;
}

/* ---- packing ---- */

/* Bytes written to @to, at most @room; 0: it does not fit. */
static size_t compress(struct packer *p, enum codec codec, size_t bytes, uint8_t *to, size_t room)
{
	size_t n;

	if (codec == CODEC_LZ4)
		return (size_t)MAX(0, LZ4_compress_fast_extState(p->lz4, (const char *)p->plain,
								 (char *)to, (int)bytes, (int)room,
								 1));
	n = ZSTD_compress2(p->zstd, to, room, p->plain, bytes);
	return ZSTD_isError(n) ? 0 : n;
}

/* @n_pages whole pages at the end of the last piece; the rest is the head. Returns the packed bytes; 0: not smaller. */
static size_t pack_with(struct packer *p, enum codec codec, uint16_t type,
			const struct iovec *pieces, size_t n, size_t raw)
{
	const struct iovec *last = &pieces[n - 1];
	bool pages = p->types->has_pages(type);
	uint16_t n_pages = pages ? (uint16_t)(last->iov_len / PACK_PAGE_BYTES) : 0;
	size_t in_last = last->iov_len - (size_t)n_pages * PACK_PAGE_BYTES;
	size_t fixed = PACK_FIXED_BYTES + 2 * (size_t)n_pages, packed;
	uint8_t *to = p->plain;

	if (fixed >= raw)
		return 0;
	for (size_t i = 0; i + 1 < n; i++) {
		memcpy(to, pieces[i].iov_base, pieces[i].iov_len);
		to += pieces[i].iov_len;
	}
	if (in_last)
		memcpy(to, last->iov_base, in_last);
	to += in_last;
	put_le16(p->out, type);
	p->out[2] = (uint8_t)codec;
	p->out[3] = 0;
	put_le32(p->out + 4, (uint32_t)(to - p->plain));
	put_le16(p->out + 8, n_pages);
	to = sort_pages(p, (const uint8_t *)last->iov_base + in_last, n_pages,
			p->out + PACK_FIXED_BYTES, to);
	packed = compress(p, codec, (size_t)(to - p->plain), p->out + fixed, raw - fixed - 1);
	return packed ? fixed + packed : 0;
}

/*
 * Packs, and notes what that has brought. What a codec costs is the processor's time of it: who loses the processor
 * in the middle of a first try would else leave it alone for many messages.
 */
static size_t pack_measured(struct packer *p, enum codec codec, uint16_t type,
			    const struct iovec *pieces, size_t n, size_t raw)
{
	uint64_t start = clock_ns(), cpu_start = clock_thread_ns();
	size_t packed = pack_with(p, codec, type, pieces, n, raw);

	note_codec(p, codec, raw, packed ? packed : raw, clock_thread_ns() - cpu_start);
	p->pack_ns += clock_ns() - start;
	return packed;
}

/* Tries a codec with the beginning of a message, which takes a small part of what it would with all of it. */
static void sample(struct packer *p, enum codec codec, uint16_t type, const struct iovec *pieces,
		   size_t n, size_t raw)
{
	struct iovec last = pieces[n - 1], few[PIECES_MAX];
	size_t cut = last.iov_len > SAMPLE_BYTES ? last.iov_len - SAMPLE_BYTES : 0;

	memcpy(few, pieces, n * sizeof(*few));
	if (p->types->has_pages(type)) /* the head stays, and whole pages */
		cut -= cut % PACK_PAGE_BYTES;
	few[n - 1].iov_len = last.iov_len - cut;
	/* the first touch of its memory costs more than its work does */
	if (!p->of[codec].known)
		(void)pack_with(p, codec, type, few, n, raw - cut);
	(void)pack_measured(p, codec, type, few, n, raw - cut);
}

static enum codec choose(struct packer *p, uint16_t type, const struct iovec *pieces, size_t n,
			 size_t raw)
{
	enum codec next;

	if (!p->measure)
		return p->codecs & 1u << CODEC_LZ4 ? CODEC_LZ4 : CODEC_ZSTD;
	if (!p->send_known || p->totals.raw_bytes < LITTLE_BYTES || n > PIECES_MAX)
		return CODEC_NONE;
	next = due(p, best(p));
	if (next != CODEC_NONE)
		sample(p, next, type, pieces, n, raw);
	next = best(p);
	return next == CODEC_NONE || probes(p, next) ? CODEC_NONE : next;
}

int packer_pack(struct packer *p, uint16_t type, const struct iovec *pieces, size_t n,
		struct iovec *out)
{
	size_t raw = 0, packed;
	enum codec codec;

	for (size_t i = 0; i < n; i++)
		raw += pieces[i].iov_len;
	p->raw_bytes = 0;
	p->pack_ns = 0;
	p->used = CODEC_NONE;
	if (!p->types->can_be_packed(type) || raw < FEW_BYTES || raw > PACK_RAW_MAX ||
	    pieces[n - 1].iov_len > (size_t)PACK_PAGES_MAX * PACK_PAGE_BYTES)
		return 0;
	p->raw_bytes = raw;
	codec = choose(p, type, pieces, n, raw);
	if (codec == CODEC_NONE)
		return 0;
	packed = pack_measured(p, codec, type, pieces, n, raw);
	if (!packed)
		return 0;
	p->used = codec;
	*out = (struct iovec){p->out, packed};
	return 1;
}

/* ---- and back ---- */

struct unpacker {
	const struct pack_types *types;
	ZSTD_DCtx *zstd;
	uint8_t *plain, *raw; /* PACK_RAW_MAX each; raw is there when it was needed */
};

struct unpacker *unpacker_create(const struct pack_types *types, struct err *err)
{
	struct unpacker *u = calloc(1, sizeof(*u));

	if (u) {
		u->types = types;
		u->zstd = ZSTD_createDCtx();
		u->plain = malloc(PACK_RAW_MAX);
	}
	if (u && u->zstd && u->plain)
		return u;
	unpacker_free(u);
	err_nomem(err);
	return NULL;
}

void unpacker_free(struct unpacker *u)
{
	if (!u)
		return;
	ZSTD_freeDCtx(u->zstd);
	free(u->plain);
	free(u->raw);
	free(u);
}

static int bad(struct err *err, const char *what)
{
	return err_set(err, EPROTO, "a packed message: %s", what);
}

/* Exactly @want bytes into u->plain. */
static int decompress(struct unpacker *u, uint8_t codec, const uint8_t *in, size_t bytes,
		      size_t want, struct err *err)
{
	size_t got = 0;
	int n;

	switch (codec) {
	case CODEC_LZ4:
		n = LZ4_decompress_safe((const char *)in, (char *)u->plain, (int)bytes, (int)want);
		got = n < 0 ? SIZE_MAX : (size_t)n;
		break;
	case CODEC_ZSTD:
		got = ZSTD_decompressDCtx(u->zstd, u->plain, want, in, bytes);
		if (ZSTD_isError(got))
			got = SIZE_MAX;
		break;
	default:
		return err_set(err, EPROTO, "a packed message: codec %u is not known", codec);
	}
	return got == want ? 0 : bad(err, "it does not hold what it says");
}

/* How many pages are literal; -1: the map cannot be. */
static int check_map(const uint8_t *map, uint16_t n_pages, struct err *err)
{
	int literal = 0;

	for (uint16_t i = 0; i < n_pages; i++) {
		uint16_t what = get_le16(map + 2 * (size_t)i);

		if (what == PACK_LITERAL)
			literal++;
		else if (what != PACK_ZERO &&
			 (what >= i || get_le16(map + 2 * (size_t)what) != PACK_LITERAL))
			return bad(err, "a page is said to be the same as one that is not there");
	}
	return literal;
}

/* Of what was decompressed, the pages behind the head. */
static void place_pages(const struct unpacker *u, const uint8_t *map, uint16_t n_pages, size_t head,
			uint8_t *raw)
{
	const uint8_t *from = u->plain + head;
	uint8_t *to = raw + head;

	for (uint16_t i = 0; i < n_pages; i++, to += PACK_PAGE_BYTES) {
		uint16_t what = get_le16(map + 2 * (size_t)i);

		if (what == PACK_ZERO) {
			memset(to, 0, PACK_PAGE_BYTES);
		} else if (what == PACK_LITERAL) {
			memcpy(to, from, PACK_PAGE_BYTES);
			from += PACK_PAGE_BYTES;
		} else {
			memcpy(to, raw + head + (size_t)what * PACK_PAGE_BYTES, PACK_PAGE_BYTES);
		}
	}
}

int unpack_into(struct unpacker *u, const uint8_t *body, size_t bytes, uint8_t *to,
		struct frame *out, struct err *err)
{
	const uint8_t *map = body + PACK_FIXED_BYTES;
	uint32_t head;
	uint16_t type, n_pages;
	size_t fixed, want;
	int literal;

	if (bytes < PACK_FIXED_BYTES || body[3] != 0)
		return bad(err, "its beginning cannot be");
	type = get_le16(body);
	head = get_le32(body + 4);
	n_pages = get_le16(body + 8);
	fixed = PACK_FIXED_BYTES + 2 * (size_t)n_pages;
	if (!u->types->can_be_packed(type) || (n_pages && !u->types->has_pages(type)))
		return bad(err, "that is not sent so");
	if (n_pages > PACK_PAGES_MAX || head > PACK_RAW_MAX - (size_t)n_pages * PACK_PAGE_BYTES ||
	    bytes <= fixed)
		return bad(err, "it is longer than it may be");
	literal = check_map(map, n_pages, err);
	if (literal < 0)
		return -1;
	want = head + (size_t)literal * PACK_PAGE_BYTES;
	if (decompress(u, body[2], body + fixed, bytes - fixed, want, err))
		return -1;
	memcpy(to, u->plain, head);
	place_pages(u, map, n_pages, head, to);
	*out = (struct frame){.type = type,
			      .body = to,
			      .bytes = head + (size_t)n_pages * PACK_PAGE_BYTES};
	return 0;
}

int unpack(struct unpacker *u, const uint8_t *body, size_t bytes, struct frame *out, struct err *err)
{
	if (!u->raw)
		u->raw = malloc(PACK_RAW_MAX);
	return u->raw ? unpack_into(u, body, bytes, u->raw, out, err) : err_nomem(err);
}
