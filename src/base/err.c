// SPDX-License-Identifier: Apache-2.0
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

/*
 * Names and texts of the other side and of hostile tasks end up in errors, and errors on a
 * terminal: what would command the terminal is not let through.
 */
static void disarm(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' ? *text != '\n' && *text != '\t' : *text == 0x7f)
			*text = '?';
}

int err_set(struct err *err, int no, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	disarm(err->text);
	err->no = no;
	return -1;
}

static int set_with_reason(struct err *err, int no, const char *fmt, va_list ap)
{
	size_t len;

	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof(err->text) - len, ": %s", strerror(no));
	disarm(err->text);
	err->no = no;
	return -1;
}

int err_sys(struct err *err, const char *fmt, ...)
{
	int no = errno;
	va_list ap;

	va_start(ap, fmt);
	set_with_reason(err, no, fmt, ap);
	va_end(ap);
	return -1;
}

int err_sysno(struct err *err, int no, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_with_reason(err, no, fmt, ap);
	va_end(ap);
	return -1;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
	char old[sizeof(err->text)];
	size_t len;
	va_list ap;

	memcpy(old, err->text, sizeof(old));
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof(err->text) - len, ": %.*s", (int)(sizeof(old) - 1), old);
	disarm(err->text);
	return -1;
}

int err_nomem(struct err *err)
{
	return err_set(err, ENOMEM, "out of memory");
}
