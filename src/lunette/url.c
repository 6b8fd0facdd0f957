/* SPDX-License-Identifier: BSD-3-Clause */
#include "lunette/url.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int part(char *to, size_t room, const char *from, size_t len, const char *what, struct err *e)
{
	if (len >= room)
		return err_set(e, -EINVAL, "the URL's %s is too long", what);
	memcpy(to, from, len);
	to[len] = 0;
	return 0;
}

bool url_is(const char *s)
{
	return !strncmp(s, "iscsi://", 8);
}

int url_parse_host(struct url *u, const char *s, size_t len, const char *dflt, struct err *e)
{
	const char *end = s + len, *close = len && *s == '[' ? memchr(s, ']', len) : NULL;
	const char *colon = close ? (close + 1 < end ? close + 1 : NULL) : memchr(s, ':', len);
	size_t skip = close != NULL, n = (size_t)((close ? close : colon ? colon : end) - s) - skip;

	if (!n || (colon && *colon != ':'))
		return err_set(e, -EINVAL, "the URL names no host; write iscsi://host/iqn/lun");
	int r = part(u->host, sizeof(u->host), s + skip, n, "host", e);
	if (r)
		return r;
	return colon ? part(u->port, sizeof(u->port), colon + 1, (size_t)(end - colon - 1), "port", e)
		: part(u->port, sizeof(u->port), dflt, strlen(dflt), "port", e);
}

static int parse_user(struct url *u, const char *s, const char *at, struct err *e)
{
	const char *pct = memchr(s, '%', (size_t)(at - s));

	if (!pct)
		return err_set(e, -EINVAL, "what stands before @ in the URL must be user%%secret");
	int r = part(u->user, sizeof(u->user), s, (size_t)(pct - s), "user", e);
	return r ? r : part(u->secret, sizeof(u->secret), pct + 1, (size_t)(at - pct - 1), "secret", e);
}

static int parse_path(struct url *u, const char *s, struct err *e)
{
	const char *lun = strchr(s, '/');
	int r = part(u->target, sizeof(u->target), s, lun ? (size_t)(lun - s) : strlen(s), "target name", e);

	if (r || !lun || !lun[1])
		return r;
	char *end;
	unsigned long n = strtoul(lun + 1, &end, 10);
	if (*end || lun[1] < '0' || lun[1] > '9' || n >= LIM_LUNS)
		return err_set(e, -EINVAL, "LUN '%.20s' is not a number below %d", lun + 1, LIM_LUNS);
	u->lun = (unsigned)n;
	return 0;
}

int url_parse(struct url *u, const char *s, struct err *e)
{
	memset(u, 0, sizeof(*u));
	if (!url_is(s))
		return err_set(e, -EINVAL, "'%.60s' is no URL; write iscsi://host/iqn/lun", s);
	s += 8;
	const char *slash = strchr(s, '/'), *end = slash ? slash : s + strlen(s);
	const char *at = memchr(s, '@', (size_t)(end - s));
	int r = at ? parse_user(u, s, at, e) : 0;
	if (at)
		s = at + 1;
	r = r ? r : url_parse_host(u, s, (size_t)(end - s), "3260", e);
	return r || !slash ? r : parse_path(u, slash + 1, e);
}
