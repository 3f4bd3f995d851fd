// SPDX-License-Identifier: Apache-2.0
/*
 * A secret that two hosts share, and what is made with it: proofs that the other
 * side knows it, and marks by which nobody else can change or add a block. HMAC-SHA-256
 * (RFC 2104). It hides nothing: who must not read along is kept out by ssh.
 */
#ifndef FERRY_WIRE_SECRET_H
#define FERRY_WIRE_SECRET_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum { SECRET_KEY_BYTES = 32, SECRET_NONCE_BYTES = 32, SECRET_MARK_BYTES = 16 };

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

/* The mark of some bytes. */
int secret_mark(const struct secret *with, const struct iovec *v, size_t n,
		uint8_t out[SECRET_MARK_BYTES], struct err *err) must_check;

/* Are they equal? Takes as long for any two. */
bool secret_equal(const void *a, const void *b, size_t bytes);

#endif
