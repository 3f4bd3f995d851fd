// SPDX-License-Identifier: Apache-2.0
/*
 * Only for tools/check-tidy.sh: what the analyser cannot see across files. The
 * functions of base/err.h always return -1, so that nothing after a "return
 * err_set(...)" was left unset.
 */
#ifndef FERRY_TOOLS_TIDY_H
#define FERRY_TOOLS_TIDY_H

#include "base/err.h"

static inline int err_failed(void)
{
	return -1;
}

#define err_set(...) ((void)(err_set)(__VA_ARGS__), err_failed())
#define err_sys(...) ((void)(err_sys)(__VA_ARGS__), err_failed())
#define err_sysno(...) ((void)(err_sysno)(__VA_ARGS__), err_failed())
#define err_wrap(...) ((void)(err_wrap)(__VA_ARGS__), err_failed())
#define err_nomem(err) ((void)(err_nomem)(err), err_failed())

#endif
