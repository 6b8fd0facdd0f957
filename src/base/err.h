/* SPDX-License-Identifier: BSD-3-Clause
 * Control-path error: an errno, where in the configuration, and a sentence for a human that names the
 * cause and the next step. Lower case, no full stop. Any thread; owned by the caller. */
#ifndef LUNETTE_BASE_ERR_H
#define LUNETTE_BASE_ERR_H

#define ERR_PATH_MAX 160
#define ERR_TEXT_MAX 480

struct err {
	int  code;                /* negative errno, 0 = none */
	char path[ERR_PATH_MAX];  /* "volumes/db/size", or empty */
	char text[ERR_TEXT_MAX];  /* "12 is below the minimum of 1MiB" */
};

/* Fills e (which may be NULL) and returns code, so that "return err_set(e, -EINVAL, ...)" works. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_at(struct err *e, int code, const char *path, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* Puts "prefix/" before the path. */
void err_prefix(struct err *e, const char *prefix);
/* "path: text" or "text", into a buffer that the caller owns. */
const char *err_str(const struct err *e, char *buf, unsigned long len);

#endif
