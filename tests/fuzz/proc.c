// SPDX-License-Identifier: Apache-2.0
// Parsers of /proc: the first byte chooses one, the rest is the text.
#include "kernel/proc.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_free char *text = NULL;
	struct proc_status status;
	struct proc_stat stat;
	proc_vmas vmas = {0};

	if (size < 1)
		return 0;
	text = strndup((const char *)data + 1, size - 1);
	if (!text)
		return 0;
	switch (data[0] % 3) {
	case 0:
		if (parse_stat(text, &stat) == 0 &&
		    strnlen(stat.comm, sizeof(stat.comm)) == sizeof(stat.comm))
			abort();
		break;
	case 1:
		(void)!parse_status(text, &status);
		proc_status_finish(&status);
		break;
	default:
		if (parse_vmas(text, &vmas) == 0) {
			vec_foreach (v, &vmas)
				if (v->start >= v->end)
					abort();
		}
		proc_vmas_finish(&vmas);
	}
	return 0;
}
