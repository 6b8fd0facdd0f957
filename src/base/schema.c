/* SPDX-License-Identifier: BSD-3-Clause
 * Text to option values, by table. One row per kind says how it is parsed and how an error names it. */
#include "base/schema.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/check.h"

enum { SCHEMA_NAME_MAX = 64, SCHEMA_LIST_MAX = 65536 };

struct unit {
	const char *name;
	uint64_t    factor;
};

static const struct unit byte_units[] = {
	{ "", 1 }, { "B", 1 },
	{ "K", 1ull << 10 }, { "KiB", 1ull << 10 }, { "KB", 1000ull },
	{ "M", 1ull << 20 }, { "MiB", 1ull << 20 }, { "MB", 1000000ull },
	{ "G", 1ull << 30 }, { "GiB", 1ull << 30 }, { "GB", 1000000000ull },
	{ "T", 1ull << 40 }, { "TiB", 1ull << 40 }, { "TB", 1000000000000ull },
	{ "P", 1ull << 50 }, { "PiB", 1ull << 50 }, { "PB", 1000000000000000ull },
	{ "E", 1ull << 60 }, { "EiB", 1ull << 60 }, { "EB", 1000000000000000000ull },
	{ NULL, 0 },
};

static const struct unit time_units[] = {
	{ "ns", 1 }, { "us", 1000 }, { "ms", 1000000 }, { "s", 1000000000ull },
	{ "min", 60000000000ull }, { "h", 3600000000000ull }, { "d", 86400000000000ull },
	{ NULL, 0 },
};

/* Leading decimal digits. *end: the first byte after them. */
static int parse_digits(const char *s, uint64_t *ret, const char **end)
{
	uint64_t v = 0;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (; isdigit((unsigned char)*s); s++)
		if (__builtin_mul_overflow(v, 10u, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return -ERANGE;
	*ret = v;
	*end = s;
	return 0;
}

static int parse_scaled(const char *s, const struct unit *units, uint64_t *ret)
{
	const char *end;
	uint64_t v;
	int r = parse_digits(s, &v, &end);

	if (r < 0)
		return r;
	for (; units->name; units++) {
		if (strcasecmp(end, units->name) != 0)
			continue;
		if (__builtin_mul_overflow(v, units->factor, &v))
			return -ERANGE;
		*ret = v;
		return 0;
	}
	return -EINVAL;
}

int parse_uint(const char *s, uint64_t *ret)
{
	const char *end;
	uint64_t v;
	int r = parse_digits(s, &v, &end);

	if (r < 0)
		return r;
	if (*end)
		return -EINVAL;
	*ret = v;
	return 0;
}

int parse_bytes(const char *s, uint64_t *ret)
{
	return parse_scaled(s, byte_units, ret);
}

int parse_time(const char *s, uint64_t *ret_ns)
{
	if (strcmp(s, "0") == 0) { /* the one number that needs no unit */
		*ret_ns = 0;
		return 0;
	}
	return parse_scaled(s, time_units, ret_ns);
}

static int parse_bool(const char *s, uint64_t *ret)
{
	static const char *const words[] = { "off", "on", "no", "yes", "false", "true", "0", "1" };

	for (unsigned i = 0; i < ARRAY_LEN(words); i++)
		if (strcasecmp(s, words[i]) == 0) {
			*ret = i & 1;
			return 0;
		}
	return -EINVAL;
}

/* How each numeric kind is read, and what to write instead of what was written. */
static const struct {
	int (*parse)(const char *s, uint64_t *ret);
	const char *hint;
} kinds[] = {
	[CONF_BOOL] = { parse_bool, "write on or off" },
	[CONF_UINT] = { parse_uint, "write a whole number" },
	[CONF_BYTES] = { parse_bytes, "write bytes or a unit, such as 20GiB or 20GB" },
	[CONF_TIME] = { parse_time, "write a number and its unit, such as 20ms or 5s" },
};

static bool is_text(const struct conf_field *f)
{
	return f->kind == CONF_TEXT || f->kind == CONF_SECRET;
}

static void *field_at(const struct conf_field *f, void *out)
{
	return (char *)out + f->at;
}

static void join_choices(const char *const *choices, char *buf, size_t len)
{
	size_t at = 0;

	buf[0] = 0;
	for (; *choices && at < len; choices++) {
		int n = snprintf(buf + at, len - at, "%s%s", at ? ", " : "", *choices);
		at += (size_t)n;
	}
}

static int set_enum(const struct conf_field *f, const char *value, uint64_t *ret, struct err *e)
{
	char known[200];

	for (unsigned i = 0; f->choices[i]; i++)
		if (strcasecmp(value, f->choices[i]) == 0) {
			*ret = i;
			return 0;
		}
	join_choices(f->choices, known, sizeof(known));
	return err_at(e, -EINVAL, f->name, "'%.64s' is none of %s", value, known);
}

static int check_range(const struct conf_field *f, uint64_t v, const char *value, struct err *e)
{
	uint64_t bound;

	if (f->min && kinds[f->kind].parse(f->min, &bound) == 0 && v < bound)
		return err_at(e, -EINVAL, f->name, "%.64s is below the minimum of %s", value, f->min);
	if (f->max && kinds[f->kind].parse(f->max, &bound) == 0 && v > bound)
		return err_at(e, -EINVAL, f->name, "%.64s is above the maximum of %s", value, f->max);
	return 0;
}

static int set_number(const struct conf_field *f, void *at, const char *value, struct err *e)
{
	uint64_t v;
	int r;

	if (f->kind == CONF_ENUM) {
		r = set_enum(f, value, &v, e);
	} else {
		r = kinds[f->kind].parse(value, &v);
		if (r == -ERANGE)
			return err_at(e, -EINVAL, f->name, "%.64s is too large a number", value);
		if (r < 0)
			return err_at(e, -EINVAL, f->name, "'%.64s' is not understood: %s", value,
				kinds[f->kind].hint);
		r = check_range(f, v, value, e);
	}
	if (r < 0)
		return r;
	if (f->kind == CONF_BOOL)
		*(bool *)at = v != 0;
	else
		*(uint64_t *)at = v;
	return 0;
}

static int set_text(char **at, const char *value, struct err *e)
{
	char *copy = strdup(value);

	if (!copy)
		return err_set(e, -ENOMEM, "out of memory");
	free(*at);
	*at = copy;
	return 0;
}

static int set_field(const struct conf_field *f, void *out, const char *value, struct err *e)
{
	if (is_text(f))
		return set_text(field_at(f, out), value, e);
	return set_number(f, field_at(f, out), value, e);
}

static int unknown_field(const struct conf_field *fields, const char *name, struct err *e)
{
	char known[300];
	size_t at = 0;

	known[0] = 0;
	for (const struct conf_field *f = fields; f->name && at < sizeof(known); f++)
		at += (size_t)snprintf(known + at, sizeof(known) - at, "%s%s", at ? ", " : "", f->name);
	if (!at)
		return err_at(e, -ENOENT, name, "no such option; there are none here");
	return err_at(e, -ENOENT, name, "no such option; known are %s", known);
}

int schema_set(const struct conf_field *fields, void *out, const char *name, const char *value,
	struct err *e)
{
	for (const struct conf_field *f = fields; f && f->name; f++)
		if (strcmp(f->name, name) == 0)
			return set_field(f, out, value, e);
	return fields ? unknown_field(fields, name, e) :
			err_at(e, -ENOENT, name, "no such option; there are none here");
}

int schema_defaults(const struct conf_field *fields, void *out, struct err *e)
{
	for (const struct conf_field *f = fields; f && f->name; f++) {
		if (is_text(f))
			*(char **)field_at(f, out) = NULL;
		else if (f->kind == CONF_BOOL)
			*(bool *)field_at(f, out) = false;
		else
			*(uint64_t *)field_at(f, out) = 0;
	}
	for (const struct conf_field *f = fields; f && f->name; f++) {
		int r = f->dflt ? set_field(f, out, f->dflt, e) : 0;
		if (r < 0) {
			schema_free(fields, out);
			return r;
		}
	}
	return 0;
}

/* Cuts the next item off *list in place: ends it with a zero, turns ",," into ",". */
static char *next_item(char **list)
{
	char *item = *list, *from = item, *to = item;

	while (*from && !(from[0] == ',' && from[1] != ',')) {
		from += from[0] == ',';
		*to++ = *from++;
	}
	*list = *from ? from + 1 : NULL;
	*to = 0;
	return item;
}

static int set_item(const struct conf_field *fields, void *out, char *item, struct err *e)
{
	char *eq = strchr(item, '=');

	if (!eq)
		return schema_set(fields, out, item, "on", e);
	*eq = 0;
	if (strlen(item) > SCHEMA_NAME_MAX)
		return err_set(e, -EINVAL, "option name '%.32s...' is too long", item);
	return schema_set(fields, out, item, eq + 1, e);
}

int schema_parse(const struct conf_field *fields, void *out, const char *list, struct err *e)
{
	char *copy, *rest;
	int r = 0;

	if (!*list)
		return 0;
	if (strlen(list) > SCHEMA_LIST_MAX)
		return err_set(e, -EINVAL, "the list of options is longer than %d bytes",
			SCHEMA_LIST_MAX);
	copy = rest = strdup(list);
	if (!copy)
		return err_set(e, -ENOMEM, "out of memory");
	while (rest && r == 0) {
		char *item = next_item(&rest);
		r = *item ? set_item(fields, out, item, e) :
			    err_set(e, -EINVAL, "an option is empty: remove a comma");
	}
	explicit_bzero(copy, strlen(list));
	free(copy);
	return r;
}

static bool is_unset(const struct conf_field *f, const void *out)
{
	const void *at = (const char *)out + f->at;

	if (is_text(f))
		return *(char *const *)at == NULL;
	if (f->kind == CONF_BOOL)
		return false;
	return *(const uint64_t *)at == 0;
}

int schema_check(const struct conf_field *fields, const void *out, struct err *e)
{
	for (const struct conf_field *f = fields; f && f->name; f++)
		if ((f->flags & CONF_REQUIRED) && is_unset(f, out))
			return err_at(e, -EINVAL, f->name, "is required: %s", f->help);
	return 0;
}

void schema_free(const struct conf_field *fields, void *out)
{
	for (const struct conf_field *f = fields; f && f->name; f++) {
		char **at = field_at(f, out);

		if (!is_text(f) || !*at)
			continue;
		if (f->kind == CONF_SECRET)
			explicit_bzero(*at, strlen(*at));
		free(*at);
		*at = NULL;
	}
}
