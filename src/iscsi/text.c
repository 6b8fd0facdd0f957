/* SPDX-License-Identifier: BSD-3-Clause
 * Lists of "key=value" pairs as login and text requests carry them, RFC 7143 6.1: gathering a list over
 * several PDUs (C bit), walking it, appending to one. Pure functions; the caller owns the text. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "iscsi/login.h"

enum { TEXT_FIRST = 1024, KEY_NAME_MAX = 63 /* 6.1: standard-label */ };

static int text_room(struct iscsi_text *t, uint32_t more)
{
	uint32_t size = t->size ? t->size : TEXT_FIRST, max = t->max ? t->max : LIM_LOGIN_TEXT;

	if (more > max || t->len > max - more)
		return -EMSGSIZE;
	while (size < t->len + more)
		size *= 2;
	if (size == t->size)
		return 0;
	char *buf = realloc(t->buf, size);
	if (!buf)
		return -ENOMEM;
	t->buf = buf;
	t->size = size;
	return 0;
}

int iscsi_text_add(struct iscsi_text *t, const void *data, uint32_t len)
{
	int r = text_room(t, len);

	if (r < 0)
		return r;
	if (len)
		memcpy(t->buf + t->len, data, len);
	t->len += len;
	return 0;
}

void iscsi_text_free(struct iscsi_text *t)
{
	free(t->buf);
	*t = (struct iscsi_text){ 0 };
}

/* 6.1: letters, digits and ".-+@_". A capital first is asked for, but iSCSIProtocolLevel has none, and
 * X#NodeArchitecture has a "#". */
static bool key_name_ok(const char *key, size_t len)
{
	static const char more[] = ".-+@_#";

	if (!len || len > KEY_NAME_MAX || !((key[0] | 32) >= 'a' && (key[0] | 32) <= 'z'))
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = key[i];
		bool alnum = ((c | 32) >= 'a' && (c | 32) <= 'z') || (c >= '0' && c <= '9');
		if (!alnum && !memchr(more, c, sizeof(more) - 1))
			return false;
	}
	return true;
}

int iscsi_text_next(struct iscsi_text *t, uint32_t *pos, char **key, char **value)
{
	uint32_t at = *pos;

	while (at < t->len && !t->buf[at]) /* empty pairs: some pad with zeros and count them */
		at++;
	if (at >= t->len)
		return 0;
	char *end = memchr(t->buf + at, 0, t->len - at);
	if (!end)
		return -EPROTO;
	char *k = t->buf + at;
	char *eq = memchr(k, '=', (size_t)(end - k));
	if (!eq || !key_name_ok(k, (size_t)(eq - k)))
		return -EPROTO;
	*eq = 0;
	*key = k;
	*value = eq + 1;
	*pos = (uint32_t)(end + 1 - t->buf);
	return 1;
}

int iscsi_text_put(struct iscsi_text *t, const char *key, const char *fmt, ...)
{
	va_list ap;
	uint32_t klen = (uint32_t)strlen(key);

	va_start(ap, fmt);
	int vlen = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (vlen < 0 || vlen > LIM_LOGIN_TEXT)
		return -EMSGSIZE;
	int r = text_room(t, klen + 1 + (uint32_t)vlen + 1);
	if (r < 0)
		return r;
	memcpy(t->buf + t->len, key, klen);
	t->buf[t->len + klen] = '=';
	va_start(ap, fmt);
	vsnprintf(t->buf + t->len + klen + 1, (size_t)vlen + 1, fmt, ap);
	va_end(ap);
	t->len += klen + 1 + (uint32_t)vlen + 1;
	return 0;
}
