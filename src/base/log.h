/* SPDX-License-Identifier: BSD-3-Clause
 * Logging: one event, one line, key=value, lower case. Only net/ api/ conf/ and lunetted/ log;
 * library layers return errors. Each call site is rate limited (a flood is counted, not written).
 * Any thread. */
#ifndef LUNETTE_BASE_LOG_H
#define LUNETTE_BASE_LOG_H

#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* One per call site, static; the macro makes it. */
struct log_site {
	_Atomic uint64_t window_s; /* the second in which the burst began */
	_Atomic uint32_t count;    /* lines since then */
};

void log_set_level(enum log_level level);
void log_line(struct log_site *site, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define LOG_AT(level, ...)                                                                         \
	do {                                                                                       \
		static struct log_site log_site_;                                                  \
		log_line(&log_site_, level, __VA_ARGS__);                                          \
	} while (0)
#define log_error(...) LOG_AT(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) LOG_AT(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) LOG_AT(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) LOG_AT(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
