// SPDX-License-Identifier: Apache-2.0
/*
 * The options of TLS, with CRIU's names, and the places where CRIU looks for what is not named.
 */
#ifndef FERRY_CMD_TLS_ARGS_H
#define FERRY_CMD_TLS_ARGS_H

#include "cmd/opt.h"
#include "wire/tls.h"

struct tls_args {
	bool on, no_name_check;
	const char *cacert, *cacrl, *cert, *key;
};

#define TLS_ROWS(Args, at)                                                                      \
	{.long_name = "tls",                                                                    \
	 .help = "encrypt the connection with TLS; both ends show a certificate and check the " \
		 "other's",                                                                     \
	 .type = OPT_FLAG,                                                                      \
	 .offset = offsetof(Args, at.on)},                                                      \
		TLS_FILE_ROWS(Args, at),                                                        \
	{                                                                                       \
		.long_name = "tls-no-cn-verify",                                                \
		.help = "the server's certificate need not be for the host that was called",    \
		.type = OPT_FLAG, .offset = offsetof(Args, at.no_name_check)                    \
	}

/* Those of a command that always speaks TLS with certificates. */
#define TLS_FILE_ROWS(Args, at)                                                     \
	{.long_name = "tls-cacert",                                                 \
	 .arg = "FILE",                                                             \
	 .help = "the CA whose certificates are believed (default: "                \
		 "/etc/pki/CA/cacert.pem)",                                         \
	 .type = OPT_TEXT,                                                          \
	 .offset = offsetof(Args, at.cacert)},                                      \
		{.long_name = "tls-cacrl",                                          \
		 .arg = "FILE",                                                     \
		 .help = "the certificates that the CA has revoked (default: "      \
			 "/etc/pki/CA/cacrl.pem, if it exists)",                    \
		 .type = OPT_TEXT,                                                  \
		 .offset = offsetof(Args, at.cacrl)},                               \
		{.long_name = "tls-crl",                                            \
		 .arg = "FILE",                                                     \
		 .help = "the same as --tls-cacrl",                                 \
		 .type = OPT_TEXT,                                                  \
		 .offset = offsetof(Args, at.cacrl)},                               \
		{.long_name = "tls-cert",                                           \
		 .arg = "FILE",                                                     \
		 .help = "our certificate (default: /etc/pki/criu/cert.pem)",       \
		 .type = OPT_TEXT,                                                  \
		 .offset = offsetof(Args, at.cert)},                                \
	{                                                                           \
		.long_name = "tls-key", .arg = "FILE",                              \
		.help = "our private key (default: /etc/pki/criu/private/key.pem)", \
		.type = OPT_TEXT, .offset = offsetof(Args, at.key)                  \
	}

/* What cannot be meant: the text is that of a usage error. */
int tls_args_check(const struct tls_args *args, struct err *err) must_check;

/* The files that are meant, with CRIU's places for those that are not named. */
struct tls_files tls_args_files(const struct tls_args *args);

/* What the files say. NULL as *out without --tls. */
int tls_args_open(const struct tls_args *args, enum tls_role role, struct tls **out, struct err *err)
	must_check;

#endif
