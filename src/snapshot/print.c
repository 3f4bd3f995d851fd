// SPDX-License-Identifier: Apache-2.0
/*
 * Prints messages by their descriptors. JSON is written by hand, as it is
 * simple and as 64-bit unsigned numbers must come out whole.
 */
#include "snapshot/print.h"

#include "snapshot/hints.h"
#include "snapshot/image.h"

#include "bpfmap-data.pb-c.h"
#include "ghost-file.pb-c.h"
#include "ipc-msg.pb-c.h"
#include "tcp-stream.pb-c.h"

#include <arpa/inet.h>
#include <string.h>

/*
 * A JSON container opens with its bracket, each member is preceded by
 * begin_member, and it closes with its bracket. The text has members on lines
 * of their own; the first member of a list element follows its dash.
 */
struct printer {
	FILE *to;
	enum print_form form;
	int depth;
	bool first; /* no member of the open container has been printed */
	bool dash;  /* text: the next member begins a list element */
};

static bool is_json(const struct printer *p)
{
	return p->form != PRINT_TEXT;
}

static void indent(const struct printer *p, int depth)
{
	fprintf(p->to, "%*s", depth * 2, "");
}

/* What goes before a member; @key is NULL in a list. */
static void begin_member(struct printer *p, const char *key)
{
	if (is_json(p)) {
		fputs(p->first ? "\n" : ",\n", p->to);
		indent(p, p->depth);
		if (key)
			fprintf(p->to, "\"%s\": ", key);
	} else if (key) {
		indent(p, p->depth - p->dash);
		fprintf(p->to, "%s%s:", p->dash ? "- " : "", key);
		p->dash = false;
	}
	p->first = false;
}

static void open_container(struct printer *p, char bracket)
{
	if (is_json(p))
		fputc(bracket, p->to);
	p->depth++;
	p->first = true;
}

static void close_container(struct printer *p, char bracket)
{
	p->depth--;
	if (is_json(p)) {
		if (!p->first) {
			fputc('\n', p->to);
			indent(p, p->depth);
		}
		fputc(bracket, p->to);
	}
	p->first = false;
}

/* ---- strings and bytes ---- */

/* The length of the UTF-8 character at @s, or 0 if it is none. */
static size_t utf8_length(const unsigned char *s)
{
	size_t n = s[0] < 0x80                 ? 1 :
		   s[0] >= 0xc2 && s[0] < 0xe0 ? 2 :
		   s[0] >= 0xe0 && s[0] < 0xf0 ? 3 :
		   s[0] >= 0xf0 && s[0] < 0xf5 ? 4 :
						 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
		return 0;
	return n;
}

void print_json_string(FILE *to, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t n;

	fputc('"', to);
	while (*s) {
		n = utf8_length(s);
		if (n == 0)
			fprintf(to, "\\udc%02x", *s++);
		else if (n == 1 && (*s == '"' || *s == '\\'))
			fprintf(to, "\\%c", *s++);
		else if (n == 1 && (*s < 0x20 || *s == 0x7f))
			fprintf(to, "\\u%04x", *s++);
		else
			s += fwrite(s, 1, n, to);
	}
	fputc('"', to);
}

static void print_base64(FILE *to, const uint8_t *data, size_t bytes)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t v;
	size_t n;

	fputc('"', to);
	for (; bytes; data += n, bytes -= n) {
		n = bytes < 3 ? bytes : 3;
		v = (uint32_t)data[0] << 16 | (n > 1 ? data[1] << 8 : 0) | (n > 2 ? data[2] : 0);
		fputc(digits[v >> 18], to);
		fputc(digits[v >> 12 & 63], to);
		fputc(n > 1 ? digits[v >> 6 & 63] : '=', to);
		fputc(n > 2 ? digits[v & 63] : '=', to);
	}
	fputc('"', to);
}

/* For the text: as a string if it is one, else in hexadecimal; long ones are cut. */
static void print_bytes_text(FILE *to, const uint8_t *data, size_t bytes)
{
	enum { SHOWN = 64 };
	size_t shown = bytes < SHOWN ? bytes : SHOWN, i = 0;

	while (i < shown &&
	       ((data[i] >= 0x20 && data[i] < 0x7f) || data[i] == '\n' || data[i] == '\t'))
		i++;
	if (i == shown) {
		fputc('"', to);
		for (i = 0; i < shown; i++) {
			if (data[i] == '"' || data[i] == '\\')
				fprintf(to, "\\%c", data[i]);
			else if (data[i] < 0x20)
				fputs(data[i] == '\n' ? "\\n" : "\\t", to);
			else
				fputc(data[i], to);
		}
		fputc('"', to);
	} else {
		for (i = 0; i < shown; i++)
			fprintf(to, "%02x%s", data[i], i % 4 == 3 && i + 1 < shown ? " " : "");
	}
	if (shown < bytes)
		fprintf(to, " ... (%zu bytes)", bytes);
}

static void print_bytes(struct printer *p, const uint8_t *data, size_t bytes)
{
	if (is_json(p))
		print_base64(p->to, data, bytes);
	else
		print_bytes_text(p->to, data, bytes);
}

/* Printable characters as they are, others and '=' as =XX. */
static void print_quoted(FILE *to, const uint8_t *data, size_t bytes)
{
	fputc('"', to);
	for (size_t i = 0; i < bytes; i++) {
		if (data[i] < 0x20 || data[i] > 0x7e || data[i] == '=' || data[i] == '"' ||
		    data[i] == '\\')
			fprintf(to, "=%02X", data[i]);
		else
			fputc(data[i], to);
	}
	fputc('"', to);
}

/* ---- numbers ---- */

/* A field being printed. */
struct field {
	const ProtobufCFieldDescriptor *d;
	enum hint hint;
	const struct hint_name *names;
};

static void print_bits(FILE *to, const struct hint_name *names, uint64_t v)
{
	const char *separator = "";

	for (; names->name; names++) {
		if (!(v & names->value))
			continue;
		fprintf(to, "%s%s", separator, names->name);
		separator = " | ";
		v &= ~names->value;
	}
	if (v)
		fprintf(to, "%s0x%llx", separator, (unsigned long long)v);
}

static const char *value_name(const struct hint_name *names, uint64_t v)
{
	for (; names->name; names++)
		if (names->value == v)
			return names->name;
	return NULL;
}

/* Major and minor of a device number. */
static void print_device(FILE *to, enum hint hint, uint64_t v)
{
	uint64_t major = hint == HINT_DEV ? v >> 20 : v >> 8 & 0xfff;
	uint64_t minor = hint == HINT_DEV ? v & 0xfffff : (v & 0xff) | (v >> 12 & ~0xffULL);

	fprintf(to, "%llu:%llu", (unsigned long long)major, (unsigned long long)minor);
}

/* A number as its hint wants it; false: as a plain number. In JSON it is a string. */
static bool print_hinted(struct printer *p, const struct field *f, uint64_t v)
{
	const char *quote = is_json(p) ? "\"" : "", *name;

	switch (f->hint) {
	case HINT_HEX:
		fprintf(p->to, "%s0x%llx%s", quote, (unsigned long long)v, quote);
		return true;
	case HINT_DEV:
	case HINT_OLD_DEV:
		fputs(quote, p->to);
		print_device(p->to, f->hint, v);
		fputs(quote, p->to);
		return true;
	case HINT_BITS:
		fputs(quote, p->to);
		if (!v && !is_json(p))
			fputc('0', p->to);
		print_bits(p->to, f->names, v);
		fputs(quote, p->to);
		return true;
	case HINT_VALUES:
		name = value_name(f->names, v);
		if (name)
			fprintf(p->to, "%s%s%s", quote, name, quote);
		return name;
	default:
		return false;
	}
}

static void print_unsigned(struct printer *p, const struct field *f, uint64_t v)
{
	if (!print_hinted(p, f, v))
		fprintf(p->to, "%llu", (unsigned long long)v);
}

static void print_enum(struct printer *p, const struct field *f, int v)
{
	const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(f->d->descriptor, v);
	const char *quote = is_json(p) ? "\"" : "";

	if (value)
		fprintf(p->to, "%s%s%s", quote, value->name, quote);
	else
		fprintf(p->to, "%d", v);
}

static void print_binary(struct printer *p, const struct field *f, const ProtobufCBinaryData *b)
{
	if (f->hint == HINT_UNIX_NAME)
		print_quoted(p->to, b->data, b->len);
	else
		print_bytes(p, b->data, b->len);
}

/* A value that is not a message. */
static void print_scalar(struct printer *p, const struct field *f, const void *v)
{
	switch (f->d->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		fprintf(p->to, "%d", *(const int32_t *)v);
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		fprintf(p->to, "%lld", (long long)*(const int64_t *)v);
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		print_unsigned(p, f, *(const uint32_t *)v);
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		print_unsigned(p, f, *(const uint64_t *)v);
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		fprintf(p->to, "%.9g", (double)*(const float *)v);
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		fprintf(p->to, "%.17g", *(const double *)v);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		fputs(*(const protobuf_c_boolean *)v ? "true" : "false", p->to);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		print_enum(p, f, *(const int *)v);
		break;
	case PROTOBUF_C_TYPE_STRING:
		print_json_string(p->to, *(const char *const *)v);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		print_binary(p, f, v);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		break;
	}
}

/* ---- fields and messages ---- */

static size_t value_bytes(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4; /* 32-bit numbers, floats, enums and protobuf_c_boolean */
	}
}

/* How many values a field of a message has, and where they are. */
static size_t field_values(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *d,
			   const void **values_out)
{
	const char *base = (const char *)m;
	const void *v = base + d->offset;

	*values_out = v;
	if (d->label == PROTOBUF_C_LABEL_REPEATED) {
		*values_out = *(const void *const *)v;
		return *(const size_t *)(base + d->quantifier_offset);
	}
	if (d->label == PROTOBUF_C_LABEL_REQUIRED)
		return 1;
	if (d->type == PROTOBUF_C_TYPE_MESSAGE || d->type == PROTOBUF_C_TYPE_STRING)
		return *(const void *const *)v != NULL;
	return *(const protobuf_c_boolean *)(base + d->quantifier_offset) != 0;
}

/* A short message without messages or lists in it fits on a line of the text. */
static bool fits_line(const ProtobufCMessage *m)
{
	const ProtobufCFieldDescriptor *d = m->descriptor->fields;
	size_t n = 0, i;
	const void *values;

	for (i = 0; i < m->descriptor->n_fields; i++, d++) {
		if (!field_values(m, d, &values))
			continue;
		if (d->type == PROTOBUF_C_TYPE_MESSAGE || d->label == PROTOBUF_C_LABEL_REPEATED)
			return false;
		n++;
	}
	return n <= 12;
}

static void print_fields(struct printer *p, const ProtobufCMessage *m, bool hex);

/* The fields of a short message, in braces. */
static void print_line(struct printer *p, const ProtobufCMessage *m, bool hex)
{
	const ProtobufCFieldDescriptor *d = m->descriptor->fields;
	const char *separator = "{";
	const void *values;

	for (size_t i = 0; i < m->descriptor->n_fields; i++, d++) {
		struct field f = {.d = d};

		if (!field_values(m, d, &values))
			continue;
		f.hint = hint_of(m->descriptor, d, &f.names);
		if (f.hint == HINT_NONE && hex)
			f.hint = HINT_HEX;
		fprintf(p->to, "%s%s: ", separator, d->name);
		print_scalar(p, &f, values);
		separator = ", ";
	}
	fputs(*separator == '{' ? "{}" : "}", p->to);
}

static void print_message(struct printer *p, const ProtobufCMessage *m, bool hex, bool in_list)
{
	if (is_json(p)) {
		open_container(p, '{');
		print_fields(p, m, hex);
		close_container(p, '}');
		return;
	}
	if (fits_line(m)) {
		if (in_list)
			indent(p, p->depth);
		fputs(in_list ? "- " : " ", p->to);
		print_line(p, m, hex);
		fputc('\n', p->to);
		return;
	}
	if (!in_list)
		fputc('\n', p->to);
	p->depth++;
	p->dash = in_list;
	print_fields(p, m, hex);
	p->depth--;
}

static void print_messages(struct printer *p, const struct field *f, ProtobufCMessage *const *list,
			   size_t n)
{
	bool hex = f->hint == HINT_HEX;

	if (f->d->label != PROTOBUF_C_LABEL_REPEATED) {
		print_message(p, list[0], hex, false);
		return;
	}
	if (!is_json(p))
		fputc('\n', p->to);
	open_container(p, '[');
	for (size_t i = 0; i < n; i++) {
		begin_member(p, NULL);
		print_message(p, list[i], hex, true);
	}
	close_container(p, ']');
}

/* The words of one address. */
static bool print_address(struct printer *p, const uint32_t *words, size_t n)
{
	const char *quote = is_json(p) ? "\"" : "";
	char text[INET6_ADDRSTRLEN];

	if ((n != 1 && n != 4) || !inet_ntop(n == 1 ? AF_INET : AF_INET6, words, text, sizeof(text)))
		return false;
	fprintf(p->to, "%s%s%s", quote, text, quote);
	return true;
}

/* A list of scalars on one line; in the text equal neighbours are counted. */
static void print_list(struct printer *p, const struct field *f, const char *values, size_t n)
{
	size_t width = value_bytes(f->d->type), run;
	bool plain = f->d->type != PROTOBUF_C_TYPE_STRING && f->d->type != PROTOBUF_C_TYPE_BYTES;

	fputc('[', p->to);
	if (f->hint == HINT_ADDRESS && print_address(p, (const uint32_t *)values, n))
		n = 0;
	for (size_t i = 0; i < n; i += run) {
		for (run = 1; plain && !is_json(p) && i + run < n; run++)
			if (memcmp(values + i * width, values + (i + run) * width, width))
				break;
		if (i)
			fputs(", ", p->to);
		print_scalar(p, f, values + i * width);
		if (run > 1)
			fprintf(p->to, " x %zu", run);
	}
	fputc(']', p->to);
}

static void print_fields(struct printer *p, const ProtobufCMessage *m, bool hex)
{
	const ProtobufCFieldDescriptor *d = m->descriptor->fields;
	const void *values;
	size_t n;

	for (size_t i = 0; i < m->descriptor->n_fields; i++, d++) {
		struct field f = {.d = d};

		n = field_values(m, d, &values);
		if (!n)
			continue;
		if (p->form != PRINT_JSON)
			f.hint = hint_of(m->descriptor, d, &f.names);
		if (f.hint == HINT_NONE && hex)
			f.hint = HINT_HEX;
		begin_member(p, d->name);
		if (d->type == PROTOBUF_C_TYPE_MESSAGE) {
			print_messages(p, &f, values, n);
			continue;
		}
		if (!is_json(p))
			fputc(' ', p->to);
		if (d->label == PROTOBUF_C_LABEL_REPEATED)
			print_list(p, &f, values, n);
		else
			print_scalar(p, &f, values);
		if (!is_json(p))
			fputc('\n', p->to);
	}
}

/* ---- raw bytes behind entries ---- */

/* Two parts with names. */
static void print_extra_parts(struct printer *p, const struct image_reader *r, const char *first,
			      size_t first_bytes, const char *second)
{
	const uint8_t *parts[] = {r->extra, r->extra + first_bytes};
	size_t bytes[] = {first_bytes, r->extra_bytes - first_bytes};
	const char *names[] = {first, second};

	if (!is_json(p))
		fputc('\n', p->to);
	open_container(p, '{');
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		begin_member(p, names[i]);
		if (!is_json(p))
			fputc(' ', p->to);
		print_bytes(p, parts[i], bytes[i]);
		if (!is_json(p))
			fputc('\n', p->to);
	}
	close_container(p, '}');
}

static void print_semaphores(struct printer *p, const struct image_reader *r)
{
	uint16_t v;

	fputs(is_json(p) ? "[" : " [", p->to);
	for (size_t i = 0; i + 1 < r->extra_bytes; i += sizeof(v)) {
		memcpy(&v, r->extra + i, sizeof(v));
		fprintf(p->to, "%s%u", i ? ", " : "", v);
	}
	fputs(is_json(p) ? "]" : "]\n", p->to);
}

/* The messages of a queue: each an entry and its bytes. */
static int print_queue(struct printer *p, struct image_reader *r, struct err *err)
{
	ProtobufCMessage *entry;
	int rc = 1;

	if (!is_json(p))
		fputc('\n', p->to);
	open_container(p, '[');
	while (r->n_sub && (rc = image_read(r, &entry, err)) == 1) {
		begin_member(p, NULL);
		print_message(p, entry, false, true);
		begin_member(p, NULL);
		if (!is_json(p)) {
			indent(p, p->depth);
			fputs("- ", p->to);
		}
		print_bytes(p, r->extra, r->extra_bytes);
		if (!is_json(p))
			fputc('\n', p->to);
	}
	close_container(p, ']');
	return rc == 1 ? 0 : -1;
}

/* What crit calls "extra", as a last member of the entry. */
static int print_extra(struct printer *p, struct image_reader *r, const ProtobufCMessage *entry,
		       struct err *err)
{
	bool whole_ghost = r->kind->extra == EXTRA_GHOST && r->n_entries == 1;

	if (r->kind->extra == EXTRA_NONE || (whole_ghost && ((const GhostFileEntry *)entry)->chunks))
		return 0;
	begin_member(p, "extra");
	if (r->kind->extra == EXTRA_MSG)
		return print_queue(p, r, err);
	if (r->kind->extra == EXTRA_TCP) {
		print_extra_parts(p, r, "inq", ((const TcpStreamEntry *)entry)->inq_len, "outq");
	} else if (r->kind->extra == EXTRA_BPF) {
		print_extra_parts(p, r, "keys", ((const BpfmapDataEntry *)entry)->keys_bytes,
				  "values");
	} else if (r->kind->extra == EXTRA_SEM) {
		print_semaphores(p, r);
	} else {
		if (!is_json(p))
			fputc(' ', p->to);
		print_bytes(p, r->extra, r->extra_bytes);
		if (!is_json(p))
			fputc('\n', p->to);
	}
	return 0;
}

static int print_entry(struct printer *p, struct image_reader *r, const ProtobufCMessage *entry,
		       struct err *err)
{
	int rc;

	begin_member(p, NULL);
	if (!is_json(p) && r->kind->extra == EXTRA_NONE) {
		print_message(p, entry, false, true);
		return 0;
	}
	open_container(p, '{');
	p->dash = !is_json(p);
	print_fields(p, entry, false);
	rc = print_extra(p, r, entry, err);
	close_container(p, '}');
	return rc;
}

/* All entries of an image. */
static int print_entries(struct printer *p, struct image_reader *r, struct err *err)
{
	ProtobufCMessage *entry;
	int rc;

	while ((rc = image_read(r, &entry, err)) == 1)
		if (print_entry(p, r, entry, err))
			return -1;
	return rc;
}

int image_print(FILE *to, enum print_form form, const char *name, const void *data, size_t bytes,
		struct err *err)
{
	struct printer p = {.to = to, .form = form};
	struct arena arena = {0};
	struct image_reader r;
	int rc;

	if (image_reader_init(&r, name, data, bytes, &arena, err))
		return -1;
	if (is_json(&p)) {
		open_container(&p, '{');
		begin_member(&p, "magic");
		print_json_string(to, r.kind->name);
		begin_member(&p, "entries");
		open_container(&p, '[');
	} else {
		fprintf(to, "%s\n", r.kind->name);
	}
	rc = print_entries(&p, &r, err);
	if (is_json(&p)) {
		close_container(&p, ']');
		close_container(&p, '}');
	}
	arena_free(&arena);
	return rc;
}
