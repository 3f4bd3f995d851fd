// SPDX-License-Identifier: Apache-2.0
/*
 * TLS (OpenSSL's libssl): what one end shows and whom it believes. There are two ways:
 *
 *	certificates	both ends have one, signed by an authority that the other believes, as
 *			with CRIU's --tls; TLS 1.2 or later
 *	a secret	both ends know 32 random bytes, used for one purpose and once; TLS 1.3 with
 *			TLS_AES_128_GCM_SHA256 and a new Diffie-Hellman exchange for each connection
 *			(RFC 8446, psk_dhe_ke), so that the secret alone decrypts nothing later
 *
 * Connections are made of it by wire/tunnel.h.
 */
#ifndef FERRY_WIRE_TLS_H
#define FERRY_WIRE_TLS_H

#include "base/attrs.h"
#include "base/err.h"
#include "wire/secret.h"

#include <openssl/types.h>
#include <stdbool.h>

enum tls_role { TLS_CLIENT, TLS_SERVER };

/* PEM files. */
struct tls_files {
	const char *cacert; /* the authorities that are believed */
	const char *cacrl;  /* certificates that they have revoked; NULL: none */
	const char *cert,
		*key; /* our own; the certificate may be followed by those that lead to the authority */
	bool no_name_check; /* client: the server's certificate need not be for the name that was called */
};

/* One end's settings, shared by all of its connections. */
struct tls;

/* -1 + which file and what is wrong with it, as NULL. */
struct tls *tls_with_files(enum tls_role role, const struct tls_files *files, struct err *err)
	must_check;

/* The secret is copied. */
struct tls *tls_with_secret(enum tls_role role, const struct secret *secret, struct err *err)
	must_check;

/* Not before its connections have ended. NULL allowed. */
void tls_free(struct tls *t);

enum tls_role tls_role(const struct tls *t);

/* A connection's state over a connected socket, which stays the caller's. NULL + err. SSL_free. */
SSL *tls_session(const struct tls *t, int fd, struct err *err) must_check;

/*
 * After the handshake: is the peer who it should be? @host is the name that was called (a client
 * with certificates; a name, or a numeric address). -1, EACCES.
 */
int tls_check_peer(const struct tls *t, SSL *ssl, const char *host, struct err *err) must_check;

/* Is this name in the certificate, as it stands there (no pattern)? Without names for hosts the common name counts. */
bool tls_has_name(X509 *cert, const char *name);

/* What a failed call of libssl (@rc of @ssl, not "again later") means. Always -1. */
int tls_failure(SSL *ssl, int rc, struct err *err);

#endif
