// SPDX-License-Identifier: Apache-2.0
#include "wire/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <string.h>

/* The name of the secret in the handshake; there is but one. */
static const char psk_identity[] = "ferry secret 1";
enum { READ_AHEAD_BYTES = 256 << 10 };

struct tls {
	enum tls_role role;
	bool by_secret, check_name;
	struct secret secret;
	SSL_CTX *ctx;
};

/* The newest reason that libssl has noted, or that there is none. The queue is the thread's: it is emptied. */
static const char *newest_reason(char *buf, size_t size)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	if (reason)
		snprintf(buf, size, "%s", reason);
	else
		snprintf(buf, size, code ? "error %lx" : "no reason is given", code);
	ERR_clear_error();
	return buf;
}

/* ---- certificates ---- */

static int bad_file(const char *what, const char *path, struct err *err)
{
	char reason[200];

	return err_set(err, EINVAL, "%s %.200s: %s", what, path,
		       newest_reason(reason, sizeof(reason)));
}

/* libssl calls a file that cannot be opened "system lib": say why. */
static int readable(const char *what, const char *path, struct err *err)
{
	return access(path, R_OK) ? err_sys(err, "%s %.200s", what, path) : 0;
}

static int load_revoked(SSL_CTX *ctx, const char *path, struct err *err)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());

	if (readable("revocation list", path, err))
		return -1;
	if (!lookup || X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) <= 0 ||
	    !X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK))
		return bad_file("revocation list", path, err);
	return 0;
}

static int load_files(SSL_CTX *ctx, const struct tls_files *f, struct err *err)
{
	if (readable("CA certificate", f->cacert, err) || readable("certificate", f->cert, err) ||
	    readable("private key", f->key, err))
		return -1;
	if (SSL_CTX_load_verify_file(ctx, f->cacert) != 1)
		return bad_file("CA certificate", f->cacert, err);
	if (f->cacrl && load_revoked(ctx, f->cacrl, err))
		return -1;
	if (SSL_CTX_use_certificate_chain_file(ctx, f->cert) != 1)
		return bad_file("certificate", f->cert, err);
	if (SSL_CTX_use_PrivateKey_file(ctx, f->key, SSL_FILETYPE_PEM) != 1)
		return bad_file("private key", f->key, err);
	return 0;
}

/* ---- a secret ---- */

/* What both ends would have kept of an earlier connection, had there been one. */
static SSL_SESSION *psk_session(SSL *ssl)
{
	static const unsigned char aes_128_gcm_sha256[] = {0x13, 0x01};
	const struct tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, aes_128_gcm_sha256);
	SSL_SESSION *s = SSL_SESSION_new();

	if (s && cipher && SSL_SESSION_set1_master_key(s, t->secret.key, sizeof(t->secret.key)) &&
	    SSL_SESSION_set_cipher(s, cipher) && SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION))
		return s;
	SSL_SESSION_free(s);
	return NULL;
}

static int use_secret(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_bytes,
		      SSL_SESSION **out)
{
	*out = psk_session(ssl);
	*id = (const unsigned char *)psk_identity;
	*id_bytes = sizeof(psk_identity) - 1;
	return *out != NULL;
}

/* Of another name nothing is known: the handshake then fails, as there is no certificate. */
static int find_secret(SSL *ssl, const unsigned char *id, size_t id_bytes, SSL_SESSION **out)
{
	*out = NULL;
	if (id_bytes != sizeof(psk_identity) - 1 || memcmp(id, psk_identity, id_bytes) != 0)
		return 1;
	*out = psk_session(ssl);
	return *out != NULL;
}

static int set_up_secret(struct tls *t)
{
	SSL_CTX_set_psk_use_session_callback(t->ctx, use_secret);
	SSL_CTX_set_psk_find_session_callback(t->ctx, find_secret);
	/* a server finds sessions again by a context, and takes a secret for such a session */
	return (t->role == TLS_CLIENT ||
		SSL_CTX_set_session_id_context(t->ctx, (const unsigned char *)psk_identity,
					       sizeof(psk_identity) - 1)) &&
	       SSL_CTX_set_min_proto_version(t->ctx, TLS1_3_VERSION) &&
	       SSL_CTX_set_ciphersuites(t->ctx, "TLS_AES_128_GCM_SHA256");
}

/* ---- settings ---- */

/* No sessions are kept or resumed, so none is found by whoever reads our memory later. */
static struct tls *create(enum tls_role role, struct err *err)
{
	struct tls *t = calloc(1, sizeof(*t));

	if (!t) {
		err_nomem(err);
		return NULL;
	}
	t->role = role;
	errno = 0;
	t->ctx = SSL_CTX_new(role == TLS_SERVER ? TLS_server_method() : TLS_client_method());
	if (!t->ctx || !SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION) ||
	    !SSL_CTX_set_num_tickets(t->ctx, 0)) {
		char reason[200];

		err_set(err, ENOTSUP, "libssl cannot be set up: %s",
			errno == ENOMEM ? "out of memory" : newest_reason(reason, sizeof(reason)));
		tls_free(t);
		return NULL;
	}
	SSL_CTX_set_app_data(t->ctx, t);
	SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_options(t->ctx,
			    SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
	SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(t->ctx, 1);
	SSL_CTX_set_default_read_buffer_len(t->ctx, READ_AHEAD_BYTES);
	/* also with a secret: a server that comes with a certificate instead is none of ours */
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return t;
}

struct tls *tls_with_files(enum tls_role role, const struct tls_files *files, struct err *err)
{
	struct tls *t = create(role, err);

	if (!t)
		return NULL;
	t->check_name = role == TLS_CLIENT && !files->no_name_check;
	ERR_clear_error();
	if (load_files(t->ctx, files, err) == 0)
		return t;
	tls_free(t);
	return NULL;
}

struct tls *tls_with_secret(enum tls_role role, const struct secret *secret, struct err *err)
{
	struct tls *t = create(role, err);

	if (!t)
		return NULL;
	t->by_secret = true;
	t->secret = *secret;
	if (set_up_secret(t))
		return t;
	err_set(err, ENOTSUP, "libssl has no TLS 1.3 with a shared secret");
	tls_free(t);
	return NULL;
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	SSL_CTX_free(t->ctx);
	explicit_bzero(&t->secret, sizeof(t->secret));
	free(t);
}

enum tls_role tls_role(const struct tls *t)
{
	return t->role;
}

/* ---- connections ---- */

SSL *tls_session(const struct tls *t, int fd, struct err *err)
{
	SSL *ssl = SSL_new(t->ctx);

	if (ssl && SSL_set_fd(ssl, fd)) {
		if (t->role == TLS_SERVER)
			SSL_set_accept_state(ssl);
		else
			SSL_set_connect_state(ssl);
		return ssl;
	}
	SSL_free(ssl);
	err_nomem(err);
	return NULL;
}

/* By number: its numbers, or, as many certificates have it, the text in the place of a name. */
static bool is_for(X509 *cert, const char *host)
{
	uint8_t number[sizeof(struct in6_addr)];
	bool numeric = inet_pton(AF_INET, host, number) == 1 ||
		       inet_pton(AF_INET6, host, number) == 1;

	return (numeric && X509_check_ip_asc(cert, host, 0) == 1) ||
	       X509_check_host(cert, host, 0, 0, NULL) == 1;
}

int tls_check_peer(const struct tls *t, SSL *ssl, const char *host, struct err *err)
{
	X509 *cert;
	bool good;

	if (t->by_secret)
		return SSL_session_reused(ssl) ? 0 :
						 err_set(err, EACCES, "it does not know the secret");
	if (!t->check_name)
		return 0;
	if (!host)
		return err_set(err, EACCES,
			       "there is no name that its certificate could be compared with "
			       "(--tls-no-cn-verify)");
	cert = SSL_get0_peer_certificate(ssl);
	good = cert && is_for(cert, host);
	return good ? 0 :
		      err_set(err, EACCES,
			      "its certificate is not for %.200s; call it by its name, or accept any name "
			      "with --tls-no-cn-verify",
			      host);
}

bool tls_has_name(X509 *cert, const char *name)
{
	return X509_check_host(cert, name, 0, X509_CHECK_FLAG_NO_WILDCARDS, NULL) == 1;
}

/* Reasons that a user meets, in words that tell what to do. */
static const char *known_reason(int about)
{
	switch (about) {
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_HTTP_REQUEST:
	case SSL_R_PACKET_LENGTH_TOO_LONG:
	case SSL_R_RECORD_TOO_SMALL:
	case SSL_R_UNSUPPORTED_PROTOCOL:
		return "it does not speak TLS, or not one that is safe";
	case SSL_R_UNEXPECTED_EOF_WHILE_READING:
		return "the connection was cut";
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
		return "it has no certificate";
	case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
	case SSL_R_SSLV3_ALERT_BAD_RECORD_MAC: /* the peer has noticed it */
		return "what came is not what was sent: somebody has changed it on the way";
	case SSL_R_BINDER_DOES_NOT_VERIFY:
	case SSL_R_NO_SHARED_CIPHER:
	case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
		return "it does not know the secret, or has no certificate that can be used";
	default:
		return NULL;
	}
}

/* The peer has sent an alert that says so: what it dislikes. */
static int refused(const SSL *ssl, const char *alert, struct err *err)
{
	const struct tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

	return err_set(err, EACCES,
		       t->by_secret ? "it refuses our secret: %s" : "it refuses us: %s", alert);
}

int tls_failure(SSL *ssl, int rc, struct err *err)
{
	int kind = SSL_get_error(ssl, rc), no = errno;
	unsigned long code = ERR_peek_last_error();
	int about = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
	const char *known = known_reason(about);
	char reason[200];

	if (kind == SSL_ERROR_SYSCALL && !code) {
		if (no)
			return err_sysno(err, no, "the connection is broken");
		return err_set(err, EPIPE, "the connection was cut");
	}
	newest_reason(reason, sizeof(reason));
	if (about == SSL_R_CERTIFICATE_VERIFY_FAILED)
		return err_set(err, EACCES, "its certificate is not accepted: %s",
			       X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
	if (about >= SSL_AD_REASON_OFFSET && !known)
		return refused(ssl, reason, err);
	return err_set(err, EPROTO, "%s", known ? known : reason);
}
