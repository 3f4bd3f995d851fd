// SPDX-License-Identifier: Apache-2.0
/*
 * A secret that two hosts share, and the keys that are made of it, by HMAC-SHA-256 (RFC 2104), for TLS
 * (wire/tls.h): each for one connection, so that what was recorded of another is good for nothing.
 */
#ifndef FERRY_WIRE_SECRET_H
#define FERRY_WIRE_SECRET_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdint.h>

enum { SECRET_KEY_BYTES = 32, SECRET_NONCE_BYTES = 32 };

/* Made from the contents of a file, or for one connection. */
struct secret {
	uint8_t key[SECRET_KEY_BYTES];
};

/* A file of 16 to 4096 bytes that only its owner may read; white space at the end does not count. */
int secret_read(const char *path, struct secret *out, struct err *err) must_check;

/* Random bytes for one connection. */
int secret_nonce(uint8_t out[SECRET_NONCE_BYTES], struct err *err) must_check;

/* A key for @purpose from a secret and both nonces of a connection. */
int secret_derive(const struct secret *from, const char *purpose,
		  const uint8_t client[SECRET_NONCE_BYTES], const uint8_t server[SECRET_NONCE_BYTES],
		  struct secret *out, struct err *err) must_check;

#endif
