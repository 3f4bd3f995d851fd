// SPDX-License-Identifier: Apache-2.0
#include "wire/call.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char magic[] = "ferrycal";
enum { VERSION = 1, MAGIC_BYTES = 8, VERSION_AT = 8, WHAT_AT = 9, ZEROS_AT = 10, ADDRESS_AT = 16 };
static_assert(ADDRESS_AT + CALL_ADDRESS_MAX + 1 == CALL_BYTES, "a call has a fixed size");

static const struct {
	enum call_what what;
	const char *command;
} commands[] = {
	{CALL_AGENT, "agent"},
	{CALL_JOIN, "agent --join"},
	{CALL_FILES, "agent --files"},
};

const char *call_command(enum call_what what)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].what == what)
			return commands[i].command;
	return NULL;
}

bool call_of_command(const char *command, enum call_what *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(commands[i].command, command) == 0) {
			*out = commands[i].what;
			return true;
		}
	}
	return false;
}

void call_encode(const struct call *call, uint8_t out[CALL_BYTES])
{
	memset(out, 0, CALL_BYTES);
	memcpy(out, magic, MAGIC_BYTES);
	out[VERSION_AT] = VERSION;
	out[WHAT_AT] = (uint8_t)call->what;
	memcpy(out + ADDRESS_AT, call->address, strnlen(call->address, CALL_ADDRESS_MAX));
}

/* Numbers with what separates them, and perhaps the name of an interface. */
static bool is_address(const char *text)
{
	return strspn(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:%-_") ==
	       strlen(text);
}

int call_decode(const uint8_t in[CALL_BYTES], struct call *out, struct err *err)
{
	static const uint8_t zeros[CALL_BYTES];
	size_t n;

	if (memcmp(in, magic, MAGIC_BYTES) != 0)
		return err_set(err, EPROTO, "that is no call of a ferry");
	if (in[VERSION_AT] != VERSION)
		return err_set(err, EPROTO, "a call of version %u, where %u is known",
			       in[VERSION_AT], VERSION);
	out->what = in[WHAT_AT];
	if (out->what != CALL_ASK && !call_command(out->what))
		return err_set(err, EPROTO, "a call for something unknown (%u)", in[WHAT_AT]);
	memcpy(out->address, in + ADDRESS_AT, sizeof(out->address));
	n = strnlen(out->address, sizeof(out->address));
	if (n == sizeof(out->address) ||
	    memcmp(in + ADDRESS_AT + n, zeros, sizeof(out->address) - n) ||
	    memcmp(in + ZEROS_AT, zeros, ADDRESS_AT - ZEROS_AT) != 0 || !is_address(out->address))
		return err_set(err, EPROTO, "a call that is not well formed");
	return 0;
}

static const char scheme[] = "ferry://";

bool call_is_url(const char *text)
{
	return strncmp(text, scheme, sizeof(scheme) - 1) == 0;
}

/* What follows the host: nothing, or ":" and a port; perhaps a slash. */
static bool parse_port(const char *text, uint16_t *out)
{
	unsigned long port = 0;
	size_t n;

	*out = CALL_PORT;
	if (*text == ':') {
		n = strspn(++text, "0123456789");
		port = n && n <= 5 ? strtoul(text, NULL, 10) : 0;
		if (!port || port > UINT16_MAX)
			return false;
		*out = (uint16_t)port;
		text += n;
	}
	return !*text || strcmp(text, "/") == 0;
}

int call_url_parse(const char *url, char host[CALL_HOST_MAX + 1], uint16_t *port_out, struct err *err)
{
	const char *at = url + sizeof(scheme) - 1, *rest;
	size_t n;

	if (!call_is_url(url))
		return err_set(err, EINVAL, "'%.80s' does not begin with %s", url, scheme);
	if (*at == '[') {
		n = strcspn(++at, "]");
		rest = at[n] ? at + n + 1 : "?";
	} else {
		n = strcspn(at, ":/");
		rest = at + n;
	}
	if (!n || n > CALL_HOST_MAX || *at == '-' || !parse_port(rest, port_out))
		return err_set(err, EINVAL, "'%.80s' is not of the form %sHOST[:PORT]", url, scheme);
	memcpy(host, at, n);
	host[n] = '\0';
	return 0;
}

size_t call_answer(bool yes, const char *text, uint8_t out[CALL_ANSWER_MAX])
{
	size_t n = strnlen(text, CALL_TEXT_MAX);

	out[0] = yes ? 'y' : 'n';
	out[1] = (uint8_t)n;
	memcpy(out + CALL_HEAD_BYTES, text, n);
	return CALL_HEAD_BYTES + n;
}

int call_answer_head(const uint8_t head[CALL_HEAD_BYTES], bool *yes_out, size_t *bytes_out,
		     struct err *err)
{
	if (head[0] != 'y' && head[0] != 'n')
		return err_set(err, EPROTO, "that is no answer of ferry serve");
	*yes_out = head[0] == 'y';
	*bytes_out = head[1];
	return 0;
}

void call_answer_text(const uint8_t *text, size_t bytes, char out[CALL_TEXT_MAX + 1])
{
	size_t n = MIN(bytes, (size_t)CALL_TEXT_MAX);

	for (size_t i = 0; i < n; i++)
		out[i] = text[i] >= ' ' && text[i] < 0x7f ? (char)text[i] : '?';
	out[n] = '\0';
}
