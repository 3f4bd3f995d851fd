// SPDX-License-Identifier: Apache-2.0
/*
 * The log: one sink (a file or stderr), levels, a time stamp and the module.
 * Nothing is printed by default on success: the level is LOG_WARN unless the
 * user raised it with -v.
 */
#ifndef FERRY_BASE_LOG_H
#define FERRY_BASE_LOG_H

#include "base/attrs.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Takes fd over as the sink (not closed at exit) and sets the highest level written. */
void log_init(int fd, enum log_level level);
enum log_level log_get_level(void);

void log_write(enum log_level level, const char *module, const char *fmt, ...) printf_like(3, 4);

/* Each .c file that logs defines LOG_MODULE before it includes this header. */
#ifndef LOG_MODULE
#define LOG_MODULE "ferry"
#endif
#define log_error(...) log_write(LOG_ERROR, LOG_MODULE, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, LOG_MODULE, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, LOG_MODULE, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, LOG_MODULE, __VA_ARGS__)

#endif
