// SPDX-License-Identifier: Apache-2.0
// A call to ferry serve, its answer, and the name of a host that is called: what is taken for right says the same
// when it is written again.
#include "wire/call.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

size_t fuzz_seed(uint8_t *out, size_t cap)
{
	static const char url[] = "ferry://[2001:db8::1]:9393";
	const struct call call = {.what = CALL_JOIN, .address = "10.88.0.2"};

	if (cap < CALL_BYTES + sizeof(url))
		return 0;
	call_encode(&call, out);
	memcpy(out + CALL_BYTES, url, sizeof(url) - 1);
	return CALL_BYTES + sizeof(url) - 1;
}

static void try_call(const uint8_t in[CALL_BYTES])
{
	uint8_t again[CALL_BYTES];
	struct call call;
	struct err err;

	if (call_decode(in, &call, &err))
		return;
	call_encode(&call, again);
	if (memcmp(in, again, CALL_BYTES) != 0)
		abort();
}

static void try_answer(const uint8_t *data, size_t size)
{
	char text[CALL_TEXT_MAX + 1];
	struct err err;
	size_t bytes;
	bool yes;

	if (size < CALL_HEAD_BYTES || call_answer_head(data, &yes, &bytes, &err) ||
	    size - CALL_HEAD_BYTES < bytes)
		return;
	call_answer_text(data + CALL_HEAD_BYTES, bytes, text);
	if (strlen(text) != bytes)
		abort();
}

static void try_url(const uint8_t *data, size_t size)
{
	char url[512], host[CALL_HOST_MAX + 1];
	struct err err;
	uint16_t port;

	if (size >= sizeof(url))
		return;
	memcpy(url, data, size);
	url[size] = '\0';
	if (call_url_parse(url, host, &port, &err) == 0 && (!host[0] || !port))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	try_answer(data, size);
	if (size < CALL_BYTES)
		return 0;
	try_call(data);
	try_url(data + CALL_BYTES, size - CALL_BYTES);
	return 0;
}
