// SPDX-License-Identifier: Apache-2.0
/*
 * Whole reads and writes, and small files (mostly of /proc).
 */
#ifndef FERRY_BASE_IO_H
#define FERRY_BASE_IO_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdint.h>
#include <sys/types.h>

/*
 * All of @len bytes or an errno result: 0, or -1 with errno set (EPIPE at end of file for reads; EIO where nothing can be
 * written any more, as to the /proc/PID/mem of a task that was killed).
 */
int io_read_full(int fd, void *buf, size_t len) must_check;
int io_write_full(int fd, const void *buf, size_t len) must_check;
int io_pread_full(int fd, void *buf, size_t len, off_t off) must_check;
int io_pwrite_full(int fd, const void *buf, size_t len, off_t off) must_check;

/* open(2) of a formatted path; returns the descriptor (O_CLOEXEC is added) or -1 with errno. */
int io_openf(int flags, const char *fmt, ...) printf_like(2, 3);

/*
 * Reads a whole file of unknown size (as /proc gives them); the caller frees
 * *text_out, which ends in a NUL that is not counted in *len_out (may be NULL).
 * -1 with errno.
 */
int io_read_file(int dirfd, const char *path, char **text_out, size_t *len_out) must_check;
int io_read_filef(char **text_out, size_t *len_out, const char *fmt, ...) printf_like(3, 4)
	must_check;

/* readlink(2) of a formatted path into buf (NUL added); -1 with errno, ENAMETOOLONG when cut. */
int io_readlinkf(char *buf, size_t size, const char *fmt, ...) printf_like(3, 4) must_check;

/* Writes one small text to a formatted path (a /proc or /sys knob); -1 with errno. */
int io_write_textf(const char *text, const char *fmt, ...) printf_like(2, 3) must_check;

/*
 * A descriptor of a directory that is ours, which is made (0700) if there is none: for places where others can make names, too. Its mode has
 * none of the bits of @others, as 077 or 022. -1 + err.
 */
int io_own_directory(const char *path, mode_t others, struct err *err) must_check;

/* Closes all descriptors above 2 but these, which it sorts; negative ones count for nothing. */
void io_close_others(int *fds, size_t n);

#endif
