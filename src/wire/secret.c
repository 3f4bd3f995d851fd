// SPDX-License-Identifier: Apache-2.0
#include "wire/secret.h"

#include "base/io.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { MIN_BYTES = 16, MAX_BYTES = 4096 };

static int hmac(const void *key, size_t key_bytes, const struct iovec *v, size_t n,
		uint8_t out[SECRET_KEY_BYTES], struct err *err)
{
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string("digest", digest, 0),
			       OSSL_PARAM_construct_end()};
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
	size_t got = 0;
	int good = ctx && EVP_MAC_init(ctx, key, key_bytes, params);

	for (size_t i = 0; i < n && good; i++)
		good = EVP_MAC_update(ctx, v[i].iov_base, v[i].iov_len);
	good = good && EVP_MAC_final(ctx, out, &got, SECRET_KEY_BYTES) && got == SECRET_KEY_BYTES;
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(mac);
	return good ? 0 : err_set(err, ENOTSUP, "libcrypto has no HMAC-SHA-256");
}

int secret_read(const char *path, struct secret *out, struct err *err)
{
	static const char label[] = "ferry relay secret 1";
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t text[MAX_BYTES];
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st))
		return err_sys(err, "secret file %.200s", path);
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return err_set(err, EPERM,
			       "secret file %.200s: others may read or write it (mode %03o); chmod 600 it",
			       path, st.st_mode & 0777);
	n = read(fd, text, sizeof(text));
	if (n < 0)
		return err_sys(err, "secret file %.200s", path);
	while (n > 0 && isspace(text[n - 1]))
		n--;
	if (n < MIN_BYTES)
		return err_set(err, EINVAL,
			       "secret file %.200s: %zd bytes are too few, %d are needed", path, n,
			       MIN_BYTES);
	struct iovec v = {text, (size_t)n};

	return hmac(label, sizeof(label) - 1, &v, 1, out->key, err);
}

int secret_nonce(uint8_t out[SECRET_NONCE_BYTES], struct err *err)
{
	if (getrandom(out, SECRET_NONCE_BYTES, 0) != SECRET_NONCE_BYTES)
		return err_sys(err, "cannot get random bytes");
	return 0;
}

int secret_derive(const struct secret *from, const char *purpose,
		  const uint8_t client[SECRET_NONCE_BYTES],
		  const uint8_t server[SECRET_NONCE_BYTES], struct secret *out, struct err *err)
{
	struct iovec v[] = {{(void *)purpose, strlen(purpose) + 1},
			    {(void *)client, SECRET_NONCE_BYTES},
			    {(void *)server, SECRET_NONCE_BYTES}};

	return hmac(from->key, sizeof(from->key), v, ARRAY_SIZE(v), out->key, err);
}
