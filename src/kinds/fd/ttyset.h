// SPDX-License-Identifier: Apache-2.0
/*
 * The settings of a terminal (termios, locked flags, window size), both ways.
 */
#ifndef FERRY_KINDS_FD_TTYSET_H
#define FERRY_KINDS_FD_TTYSET_H

#include "base/attrs.h"
#include "base/err.h"
#include "snapshot/snapshot.h"

/* As the kernel lays struct termios out (asm-generic/termbits.h); libc's has room for more. */
enum { TTY_NCCS = 19 };
struct tty_settings {
	uint32_t iflag, oflag, cflag, lflag;
	uint8_t line;
	uint8_t cc[TTY_NCCS];
};

/* Reads all three from @fd, either end, into @info. */
int ttyset_capture(struct snapshot *snap, int fd, TtyInfoEntry *info, struct err *err) must_check;

/* Are the entries complete? */
int ttyset_check(const TtyInfoEntry *info, struct err *err) must_check;

/* Each sets its part, if the info has it. */
int ttyset_restore(const TtyInfoEntry *info, int fd, struct err *err) must_check;
int ttyset_size(const TtyInfoEntry *info, int fd, struct err *err) must_check;
int ttyset_lock(const TtyInfoEntry *info, int fd, struct err *err) must_check;

/*
 * Is there no terminal of this number? Waits a little: the kernel frees a number
 * only a moment after the last close, which may be the end of the dumped tree.
 */
bool ttyset_number_free(uint32_t index);

#endif
