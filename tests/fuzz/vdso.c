// SPDX-License-Identifier: Apache-2.0
// The vdso of another kernel comes out of an image: parse it, redirect it, look for a syscall.
#include "kernel/vdso.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

/* The vdso of this kernel. */
size_t fuzz_seed(uint8_t *out, size_t cap)
{
	struct vdso_set own;
	struct err err;

	if (vdso_find(&own, &err) || own.image_bytes > cap)
		return 0;
	memcpy(out, own.image, own.image_bytes);
	return own.image_bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vdso_symbols symbols;
	cleanup_free uint8_t *copy = malloc(size ? size : 1);
	static struct vdso_set own;
	struct err err;

	if (!copy || size > VDSO_MAX_BYTES)
		return 0;
	memcpy(copy, data, size);
	if (vdso_parse(data, size, &symbols, &err) == 0) {
		for (size_t i = 0; i < symbols.n; i++) {
			if (symbols.v[i].off > size || symbols.v[i].bytes > size - symbols.v[i].off)
				abort();
		}
	}
	(void)vdso_syscall_offset(data, size);
	if (own.image || vdso_find(&own, &err) == 0)
		(void)!vdso_redirect(copy, size, own.image, own.image_bytes, 0x7fff00000000, &err);
	return 0;
}
