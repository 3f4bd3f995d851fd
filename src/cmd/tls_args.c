// SPDX-License-Identifier: Apache-2.0
#include "cmd/tls_args.h"

static const char default_cacrl[] = "/etc/pki/CA/cacrl.pem";

int tls_args_check(const struct tls_args *args, struct err *err)
{
	if (!args->on &&
	    (args->cacert || args->cacrl || args->cert || args->key || args->no_name_check))
		return err_set(err, 0, "the --tls-... options make sense with --tls only");
	return 0;
}

struct tls_files tls_args_files(const struct tls_args *args)
{
	struct tls_files files = {
		.cacert = args->cacert ? args->cacert : "/etc/pki/CA/cacert.pem",
		.cacrl = args->cacrl,
		.cert = args->cert ? args->cert : "/etc/pki/criu/cert.pem",
		.key = args->key ? args->key : "/etc/pki/criu/private/key.pem",
		.no_name_check = args->no_name_check,
	};

	if (!files.cacrl && access(default_cacrl, F_OK) == 0)
		files.cacrl = default_cacrl;
	return files;
}

int tls_args_open(const struct tls_args *args, enum tls_role role, struct tls **out, struct err *err)
{
	struct tls_files files;

	*out = NULL;
	if (!args->on)
		return 0;
	files = tls_args_files(args);
	*out = tls_with_files(role, &files, err);
	return *out ? 0 : err_wrap(err, "--tls");
}
