// SPDX-License-Identifier: Apache-2.0
/*
 * A directory of images, packed (pack.py): NAME NUL LENGTH BYTES, and so on. It
 * is loaded; what loads must keep its promises.
 */
#define LOG_MODULE "fuzz"
#include "snapshot_walk.h"

#include "base/log.h"
#include "store/store.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Puts one object into the store; how many bytes it had, 0 at the end. */
static size_t unpack_one(struct store *store, const uint8_t *data, size_t size)
{
	size_t name = strnlen((const char *)data, size);
	struct err err;
	uint32_t len;

	if (name + 1 + sizeof(len) > size)
		return 0;
	memcpy(&len, data + name + 1, sizeof(len));
	data += name + 1 + sizeof(len);
	size -= name + 1 + sizeof(len);
	if (len > size) /* so that damage to a length leaves an image to read */
		len = (uint32_t)size;
	if (store_put(store, (const char *)data - sizeof(len) - name - 1, data, len, &err) &&
	    !err.text[0])
		__builtin_trap();
	return name + 1 + sizeof(len) + len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = {0};
	struct store *store = store_memory_open(&err);
	struct snapshot *snap;
	size_t n;

	log_init(2, LOG_ERROR);
	if (!store)
		return 0;
	for (; (n = unpack_one(store, data, size)); data += n, size -= n)
		;
	if (store_complete(store, &err))
		__builtin_trap();
	snap = snapshot_load(store, &err);
	if (snap) {
		snapshot_walk(snap);
		if (snapshot_check_pages(snap, store, &err) && !err.text[0])
			__builtin_trap();
		snapshot_round_trip(snap);
		snapshot_free(snap);
	} else if (!err.text[0]) {
		__builtin_trap(); /* refused without a reason */
	}
	store_close(store);
	return 0;
}
