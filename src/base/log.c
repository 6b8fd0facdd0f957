/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

enum { LOG_BURST = 20 }; /* lines of one site per second; enough to explain, too few to flood */

static _Atomic int log_max = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	log_max = level;
}

void log_line(struct log_site *site, enum log_level level, const char *fmt, ...)
{
	/* The <n> prefix is what journald reads as the priority. */
	static const char *const prefix[] = { "<3>", "<4>", "<6>", "<7>" };
	char line[1024];
	struct timespec ts;
	va_list ap;

	if ((int)level > log_max)
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	if (site->window_s != (uint64_t)ts.tv_sec) {
		uint32_t lost = site->count > LOG_BURST ? site->count - LOG_BURST : 0;
		site->window_s = (uint64_t)ts.tv_sec;
		site->count = 0;
		if (lost)
			fprintf(stderr, "log suppressed lines=%u\n", lost);
	}
	if (++site->count > LOG_BURST)
		return;
	size_t n = 0;
	if (!isatty(STDERR_FILENO))
		n = (size_t)snprintf(line, sizeof(line), "%s", prefix[level]);
	va_start(ap, fmt);
	int m = vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	if (m < 0)
		return;
	n = MIN(n + (size_t)m, sizeof(line) - 2);
	line[n++] = '\n';
	(void)!write(STDERR_FILENO, line, n);
}
