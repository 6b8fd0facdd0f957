/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static int err_fill(struct err *e, int code, const char *path, const char *fmt, va_list ap)
{
	if (!e)
		return code;
	e->code = code;
	snprintf(e->path, sizeof(e->path), "%s", path);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	return code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	err_fill(e, code, "", fmt, ap);
	va_end(ap);
	return code;
}

int err_at(struct err *e, int code, const char *path, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	err_fill(e, code, path, fmt, ap);
	va_end(ap);
	return code;
}

void err_prefix(struct err *e, const char *prefix)
{
	char old[ERR_PATH_MAX];

	if (!e)
		return;
	memcpy(old, e->path, sizeof(old));
	int n = snprintf(e->path, sizeof(e->path), "%s%s", prefix, old[0] ? "/" : "");
	if (n >= 0 && (size_t)n < sizeof(e->path))
		snprintf(e->path + n, sizeof(e->path) - (size_t)n, "%s", old);
}

const char *err_str(const struct err *e, char *buf, unsigned long len)
{
	if (e->path[0])
		snprintf(buf, len, "%s: %s", e->path, e->text);
	else
		snprintf(buf, len, "%s", e->text);
	return buf;
}

void check_failed(const char *what, const char *file, int line)
{
	fprintf(stderr, "lunette: %s:%d: CHECK(%s) failed\n", file, line, what);
	abort();
}
