// SPDX-License-Identifier: Apache-2.0
/* The list of changed files that one host sends to the next (lazyfs/carried.h): what is accepted has one meaning. */
#include "lazyfs/carried.h"
#include "base/le.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The list again, written from what was read. */
struct again {
	const uint8_t *at, *end;
};

static void expect(struct again *a, const void *data, size_t bytes)
{
	if ((size_t)(a->end - a->at) < bytes || memcmp(a->at, data, bytes) != 0)
		abort();
	a->at += bytes;
}

static int take(void *arg, const char *path, const struct lf_ident *base)
{
	struct again *a = arg;
	uint8_t text[40];

	if (!lf_path_valid(path))
		abort();
	expect(a, base ? "b" : "c", 1);
	if (base) {
		uint8_t *p = put_le64(put_le64(put_le64(text, base->dev), base->ino), base->size);

		put_le64(put_le64(p, (uint64_t)base->mtime_ns), (uint64_t)base->ctime_ns);
		expect(a, text, sizeof(text));
	}
	expect(a, path, strlen(path) + 1);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct again a = {.at = data, .end = data + size};
	struct err err;

	if (carried_parse(data, size, take, &a, &err) == 0 && a.at != a.end)
		abort();
	return 0;
}
