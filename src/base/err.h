// SPDX-License-Identifier: Apache-2.0
/*
 * The error object: an errno and a sentence, in a fixed buffer, so that
 * reporting never allocates. An error is made where it is known (err_set,
 * err_sys), given context on the way up (err_wrap), and printed once by the
 * command. Text: lower case, no full stop: subject, attempt, reason, remedy.
 */
#ifndef FERRY_BASE_ERR_H
#define FERRY_BASE_ERR_H

#include "base/attrs.h"

struct err {
	int no; /* errno value, 0 where none applies */
	char text[1024];
};

/* Sets the text; @no is an errno value or 0. Always returns -1. */
int err_set(struct err *err, int no, const char *fmt, ...) printf_like(3, 4);

/* As err_set, with the current errno, and ": strerror" behind the text. Returns -1. */
int err_sys(struct err *err, const char *fmt, ...) printf_like(2, 3);

/* As err_sys for an errno that is already in a variable. Returns -1. */
int err_sysno(struct err *err, int no, const char *fmt, ...) printf_like(3, 4);

/* Puts "context: " before the text. Returns -1. */
int err_wrap(struct err *err, const char *fmt, ...) printf_like(2, 3);

/* "out of memory", ENOMEM. Returns -1. */
int err_nomem(struct err *err);

#endif
