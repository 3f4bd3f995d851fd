// SPDX-License-Identifier: Apache-2.0
/*
 * CRC-32C (Castagnoli polynomial, as in iSCSI, RFC 3720 B.4): finds what a pipe, a disk or a
 * socket did to bytes by accident. It is no protection against somebody who means it.
 */
#ifndef FERRY_BASE_CRC32C_H
#define FERRY_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of @bytes at @data, going on from @crc, the checksum of what came before (0 at the start). */
uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);

#endif
