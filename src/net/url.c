/* SPDX-License-Identifier: BSD-3-Clause */
#include "net/url.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/schema.h"

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
	r = colon ? part(u->port, sizeof(u->port), colon + 1, (size_t)(end - colon - 1), "port", e)
		: part(u->port, sizeof(u->port), dflt, strlen(dflt), "port", e);
	uint64_t port; /* the resolver would cut a number off and call elsewhere */
	return r || (parse_uint(u->port, &port) == 0 && port && port <= 65535) ? r
		: err_set(e, -EINVAL, "port '%s' of the URL is no number from 1 to 65535", u->port);
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

/* --- options --- */

static int number(const char *value, unsigned min, unsigned max, unsigned *ret)
{
	char *end;
	unsigned long n = strtoul(value, &end, 10);

	if (*end || *value < '0' || *value > '9' || n < min || n > max)
		return -EINVAL;
	*ret = (unsigned)n;
	return 0;
}

static int digest(const char *value, bool *ret)
{
	*ret = !strcasecmp(value, "crc32c");
	return *ret || !strcasecmp(value, "none") ? 0 : -EINVAL;
}

static int set_digests(struct url *u, const char *value)
{
	static const char *const words[] = { "none", "header", "data", "both" };

	for (unsigned i = 0; i < 4; i++)
		if (!strcmp(value, words[i])) {
			u->header_digest = i & 1;
			u->data_digest = i & 2;
			return 0;
		}
	return -EINVAL;
}

static int set_connections(struct url *u, const char *value) { return number(value, 1, URL_CONNECTIONS_MAX, &u->connections); }
static int set_level(struct url *u, const char *value) { return number(value, 0, 2, &u->level); }
static int set_protocol(struct url *u, const char *value) { return number(value, 0, 31, &u->protocol); }
static int set_header(struct url *u, const char *value) { return digest(value, &u->header_digest); }
static int set_data(struct url *u, const char *value) { return digest(value, &u->data_digest); }

static int set_retry(struct url *u, const char *value)
{
	u->retry_set = true;
	return number(value, 0, 86400, &u->retry_s);
}

static const struct option {
	const char *name, *values;
	int       (*set)(struct url *u, const char *value); /* NULL: text at */
	size_t      at, room;
} options[] = {
	{ "connections", "1 to 16", set_connections, 0, 0 },
	{ "level", "0, 1 or 2", set_level, 0, 0 },
	{ "digests", "none, header, data or both", set_digests, 0, 0 },
	{ "protocol", "0 to 31", set_protocol, 0, 0 },
	{ "retry", "seconds", set_retry, 0, 0 },
	{ "header_digest", "none or crc32c", set_header, 0, 0 },
	{ "data_digest", "none or crc32c", set_data, 0, 0 },
	{ "initiator", "a name", NULL, offsetof(struct url, initiator), sizeof(((struct url *)0)->initiator) },
	{ "target_user", "a name", NULL, offsetof(struct url, target_user), sizeof(((struct url *)0)->target_user) },
	{ "target_secret", "a secret", NULL, offsetof(struct url, target_secret), sizeof(((struct url *)0)->target_secret) },
	{ "target_password", "a secret", NULL, offsetof(struct url, target_secret), sizeof(((struct url *)0)->target_secret) },
};

static const struct option *find_option(const char *name)
{
	for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (!strcmp(options[i].name, name))
			return &options[i];
	return NULL;
}

static int set_option(struct url *u, const char *s, size_t len, struct err *e)
{
	const char *eq = memchr(s, '=', len);
	char name[32], value[512];
	int r = part(name, sizeof(name), s, eq ? (size_t)(eq - s) : len, "option", e);

	r = r ? r : part(value, sizeof(value), eq ? eq + 1 : "", eq ? len - (size_t)(eq + 1 - s) : 0, "option", e);
	if (r)
		return r;
	const struct option *o = find_option(name);
	if (!o)
		return err_set(e, -EINVAL, "the URL has no option '%s'; it knows connections, level, digests, protocol, retry, "
			"initiator, target_user and target_secret", name);
	if (o->set ? o->set(u, value) : 0)
		return err_set(e, -EINVAL, "the URL's %s=%.40s must be %s", name, value, o->values);
	return o->set ? 0 : part((char *)u + o->at, o->room, value, strlen(value), name, e);
}

static int parse_options(struct url *u, const char *s, struct err *e)
{
	while (*s) {
		size_t n = strcspn(s, "&");
		int r = n ? set_option(u, s, n, e) : 0;
		if (r)
			return r;
		s += n + (s[n] == '&');
	}
	return 0;
}

void url_defaults(struct url *u)
{
	memset(u, 0, sizeof(*u));
	u->connections = u->protocol = 1;
}

int url_parse(struct url *u, const char *s, struct err *e)
{
	char text[2048];

	url_defaults(u);
	if (!url_is(s))
		return err_set(e, -EINVAL, "'%.60s' is no URL; write iscsi://host/iqn/lun", s);
	int r = part(text, sizeof(text), s + 8, strlen(s + 8), "text", e);
	if (r)
		return r;
	/* A secret may contain anything but @ and /. */
	char *rest = strpbrk(text, "@/"), *query = strchr(rest && *rest == '@' ? rest : text, '?');
	if (query)
		*query++ = 0;
	const char *slash = strchr(text, '/'), *end = slash ? slash : text + strlen(text);
	const char *at = memchr(text, '@', (size_t)(end - text)), *host = at ? at + 1 : text;
	r = at ? parse_user(u, text, at, e) : 0;
	r = r ? r : url_parse_host(u, host, (size_t)(end - host), "3260", e);
	r = r || !slash ? r : parse_path(u, slash + 1, e);
	return r || !query ? r : parse_options(u, query, e);
}
