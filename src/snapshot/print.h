// SPDX-License-Identifier: Apache-2.0
/*
 * Images for people and for other programs. The JSON has the names and the
 * shape of `crit decode`, the pretty JSON those of `crit decode --pretty`:
 * {"magic": "CORE", "entries": [...]}, bytes in base64, raw bytes behind an
 * entry as "extra". The text is close to YAML, behind a line with the
 * kind of the image.
 */
#ifndef FERRY_SNAPSHOT_PRINT_H
#define FERRY_SNAPSHOT_PRINT_H

#include "base/attrs.h"
#include "base/err.h"

enum print_form {
	PRINT_TEXT,
	PRINT_JSON,
	PRINT_JSON_PRETTY, /* numbers that are flags, addresses or states are spelled out */
};

/*
 * Prints one framed image; @name is for messages. In an image that breaks off
 * what comes before is printed; the error names the offset.
 */
int image_print(FILE *to, enum print_form form, const char *name, const void *data, size_t bytes,
		struct err *err) must_check;

/* A text as a JSON string, quotes included. Bytes that are not UTF-8 become \udc80..\udcff, as Python has it. */
void print_json_string(FILE *to, const char *text);

#endif
