/* SPDX-License-Identifier: BSD-3-Clause */
#include "conf/tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONF_ITEMS_MAX = 65536, CONF_VALUE_MAX = 4096 };

static unsigned sections_of(const struct conf_type *type, void *obj, struct conf_section out[CONF_SECTIONS])
{
	if (type->sections)
		return type->sections(obj, out);
	out[0] = (struct conf_section){ type->fields, obj };
	return 1;
}

static const struct conf_link *link_find(const struct conf_type *type, const char *name)
{
	for (const struct conf_link *l = type->links; l && l->name; l++)
		if (strcmp(l->name, name) == 0)
			return l;
	return NULL;
}

static const struct conf_field *field_find(const struct conf_field *fields, const char *name)
{
	for (const struct conf_field *f = fields; f && f->name; f++)
		if (strcmp(f->name, name) == 0)
			return f;
	return NULL;
}

/* --- freeing ------------------------------------------------------------------------------------------ */

static void list_free(const struct conf_link *l, struct conf_list *list)
{
	for (unsigned i = 0; i < list->n; i++) {
		if (l->kind == CONF_NAMES) {
			free(((char **)list->items)[i]);
			continue;
		}
		void *item = (char *)list->items + i * l->type->bytes;
		if (l->kind == CONF_MAP)
			free(*(char **)item);
		conf_free(l->type, item);
	}
	free(list->items);
	*list = (struct conf_list){ 0 };
}

void conf_free(const struct conf_type *type, void *obj)
{
	struct conf_section s[CONF_SECTIONS];
	unsigned n = sections_of(type, obj, s);

	for (const struct conf_link *l = type->links; l && l->name; l++) {
		void *at = (char *)obj + l->at;
		if (l->kind == CONF_ONE)
			conf_free(l->type, at);
		else
			list_free(l, at);
	}
	for (unsigned i = 0; i < n; i++)
		schema_free(s[i].fields, s[i].base);
	if (type->fini)
		type->fini(obj);
}

/* --- parsing ------------------------------------------------------------------------------------------ */

/* A JSON scalar as the text that a person would have typed. */
static int scalar_text(const json_t *v, char *buf, size_t len, const char **ret, struct err *e)
{
	if (json_is_string(v)) {
		*ret = json_string_value(v);
		if (strlen(*ret) != json_string_length(v))
			return err_set(e, -EINVAL, "contains a zero byte");
		if (strlen(*ret) > CONF_VALUE_MAX)
			return err_set(e, -EINVAL, "is longer than %d bytes", CONF_VALUE_MAX);
		return 0;
	}
	if (json_is_integer(v)) {
		snprintf(buf, len, "%lld", (long long)json_integer_value(v));
		*ret = buf;
		return 0;
	}
	if (json_is_boolean(v)) {
		*ret = json_is_true(v) ? "on" : "off";
		return 0;
	}
	return err_set(e, -EINVAL, "must be a text, a whole number or true or false");
}

static void known_add(char *buf, size_t len, const char *name)
{
	size_t at = strlen(buf);

	if (strstr(buf, name) && (strncmp(buf, name, strlen(name)) == 0))
		return;
	snprintf(buf + at, len - at, "%s%s", at ? ", " : "", name);
}

static int unknown_option(const struct conf_type *type, void *obj, const char *name, struct err *e)
{
	struct conf_section s[CONF_SECTIONS];
	unsigned n = sections_of(type, obj, s);
	char known[400] = "";

	for (const struct conf_link *l = type->links; l && l->name; l++)
		known_add(known, sizeof(known), l->name);
	for (unsigned i = 0; i < n; i++)
		for (const struct conf_field *f = s[i].fields; f && f->name; f++) {
			bool twice = false;
			for (unsigned k = 0; k < i; k++)
				twice |= field_find(s[k].fields, f->name) != NULL;
			if (!twice)
				known_add(known, sizeof(known), f->name);
		}
	return err_at(e, -ENOENT, name, "no such option; known are %s", known);
}

/* Sets an option in each table that knows it: driver and logical unit may share one ("ro"). */
static int set_option(const struct conf_type *type, void *obj, const char *name, const json_t *v, struct err *e)
{
	struct conf_section s[CONF_SECTIONS];
	unsigned n = sections_of(type, obj, s);
	bool found = false;
	const char *text;
	char buf[32];

	if (json_is_null(v))
		return 0;
	for (unsigned i = 0; i < n; i++) {
		if (!field_find(s[i].fields, name))
			continue;
		found = true;
		int r = scalar_text(v, buf, sizeof(buf), &text, e);
		if (r < 0) {
			err_prefix(e, name);
			return r;
		}
		r = schema_set(s[i].fields, s[i].base, name, text, e);
		if (r < 0)
			return r;
	}
	return found ? 0 : unknown_option(type, obj, name, e);
}

int conf_name_order(const void *a, const void *b)
{
	const char *x = *(char *const *)a, *y = *(char *const *)b;
	size_t n = strlen(x), m = strlen(y);

	/* Numbers in order of their value: LUN 2 before LUN 10. */
	if (n && m && strspn(x, "0123456789") == n && strspn(y, "0123456789") == m && n != m)
		return n < m ? -1 : 1;
	return strcmp(x, y);
}

static int parse_names(struct conf_list *list, const json_t *json, struct err *e)
{
	size_t n = json_is_array(json) ? json_array_size(json) : 1;
	char buf[32], at[24];
	const char *text;

	if (n > CONF_ITEMS_MAX)
		return err_set(e, -EINVAL, "more than %d items", CONF_ITEMS_MAX);
	list->items = calloc(n ? n : 1, sizeof(char *));
	if (!list->items)
		return err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		int r = scalar_text(json_is_array(json) ? json_array_get(json, i) : json, buf, sizeof(buf),
			&text, e);
		if (r == 0 && !(((char **)list->items)[i] = strdup(text)))
			r = err_set(e, -ENOMEM, "out of memory");
		if (r < 0) {
			snprintf(at, sizeof(at), "%zu", i);
			err_prefix(e, at);
			return r;
		}
		list->n++;
	}
	return 0;
}

static int parse_array(const struct conf_type *type, struct conf_list *list, const json_t *json, struct err *e)
{
	char at[24];

	if (!json_is_array(json))
		return err_set(e, -EINVAL, "must be a list");
	if (json_array_size(json) > CONF_ITEMS_MAX)
		return err_set(e, -EINVAL, "more than %d items", CONF_ITEMS_MAX);
	list->items = calloc(json_array_size(json) + 1, type->bytes);
	if (!list->items)
		return err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < json_array_size(json); i++) {
		int r = conf_parse(type, (char *)list->items + i * type->bytes, json_array_get(json, i), e);
		if (r < 0) {
			snprintf(at, sizeof(at), "%zu", i);
			err_prefix(e, at);
			return r;
		}
		list->n++;
	}
	return 0;
}

static int parse_map(const struct conf_type *type, struct conf_list *list, json_t *json, struct err *e)
{
	const char *key;
	json_t *v;

	if (!json_is_object(json))
		return err_set(e, -EINVAL, "must be a map of names");
	if (json_object_size(json) > CONF_ITEMS_MAX)
		return err_set(e, -EINVAL, "more than %d items", CONF_ITEMS_MAX);
	list->items = calloc(json_object_size(json) + 1, type->bytes);
	if (!list->items)
		return err_set(e, -ENOMEM, "out of memory");
	json_object_foreach(json, key, v) {
		char *item = (char *)list->items + list->n * type->bytes;
		int r = conf_parse(type, item, v, e);

		if (r == 0 && !(*(char **)item = strdup(key))) {
			conf_free(type, item);
			r = err_set(e, -ENOMEM, "out of memory");
		}
		if (r < 0) {
			err_prefix(e, key);
			return r;
		}
		list->n++;
	}
	qsort(list->items, list->n, type->bytes, conf_name_order);
	return 0;
}

static int parse_link(const struct conf_link *l, void *obj, json_t *json, struct err *e)
{
	void *at = (char *)obj + l->at;
	int r;

	if (json_is_null(json) && l->kind != CONF_ONE)
		return 0;
	switch (l->kind) {
	case CONF_ARRAY:
		r = parse_array(l->type, at, json, e);
		break;
	case CONF_MAP:
		r = parse_map(l->type, at, json, e);
		break;
	case CONF_NAMES:
		r = parse_names(at, json, e);
		break;
	default:
		conf_free(l->type, at); /* the defaults that init_object() put there */
		r = conf_parse(l->type, at, json, e);
		if (r < 0) /* conf_parse() freed it; free must find something valid later */
			memset(at, 0, l->type->bytes);
	}
	if (r < 0)
		err_prefix(e, l->name);
	return r;
}

static int init_object(const struct conf_type *type, void *obj, struct err *e)
{
	memset(obj, 0, type->bytes);
	int r = schema_defaults(type->fields, obj, e);
	for (const struct conf_link *l = type->links; r == 0 && l && l->name; l++)
		if (l->kind == CONF_ONE)
			r = init_object(l->type, (char *)obj + l->at, e);
	return r;
}

static int choose(const struct conf_type *type, void *obj, const json_t *json, struct err *e)
{
	const json_t *v = json_is_object(json) ? json_object_get(json, "type") : NULL;

	if (!json_is_string(v))
		return err_at(e, -EINVAL, "type", "is required: which kind it is, such as ram or file for a disk");
	int r = type->choose(obj, json_string_value(v), e);
	if (r < 0)
		err_prefix(e, "type");
	return r;
}

static int parse_members(const struct conf_type *type, void *obj, const json_t *json, struct err *e)
{
	const char *key;
	json_t *v;
	int r = 0;

	json_object_foreach((json_t *)json, key, v) {
		const struct conf_link *l = link_find(type, key);
		r = l ? parse_link(l, obj, v, e) : set_option(type, obj, key, v, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_required(const struct conf_type *type, void *obj, struct err *e)
{
	struct conf_section s[CONF_SECTIONS];
	unsigned n = sections_of(type, obj, s);
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n; i++)
		r = schema_check(s[i].fields, s[i].base, e);
	return r;
}

static int parse_object(const struct conf_type *type, void *obj, const json_t *json, struct err *e)
{
	int r = type->select ? choose(type, obj, json, e) : 0;

	if (r < 0)
		return r;
	if (json_is_object(json))
		r = parse_members(type, obj, json, e);
	else if (type->brief && !json_is_array(json))
		r = set_option(type, obj, type->brief, json, e);
	else if (!json_is_null(json))
		r = err_set(e, -EINVAL, "must be a map of options");
	return r < 0 ? r : check_required(type, obj, e);
}

int conf_parse(const struct conf_type *type, void *obj, const json_t *json, struct err *e)
{
	int r = init_object(type, obj, e);

	if (r == 0)
		r = parse_object(type, obj, json, e);
	if (r < 0) {
		conf_free(type, obj);
		memset(obj, 0, type->bytes);
	}
	return r;
}

/* --- serializing -------------------------------------------------------------------------------------- */

static bool is_text(const struct conf_field *f)
{
	return f->kind == CONF_TEXT || f->kind == CONF_SECRET;
}

static bool is_default(const struct conf_field *f, const void *at)
{
	struct conf_field table[2] = { *f, { 0 } };
	union { uint64_t n; bool b; char *s; } v = { 0 };
	bool same;

	table[0].at = 0;
	if (schema_defaults(table, &v, NULL) < 0)
		return false;
	if (is_text(f)) {
		const char *text = *(char *const *)at;
		same = text == v.s || (text && v.s && strcmp(text, v.s) == 0);
	} else if (f->kind == CONF_BOOL) {
		same = *(const bool *)at == v.b;
	} else {
		same = *(const uint64_t *)at == v.n;
	}
	schema_free(table, &v);
	return same;
}

static json_t *field_json(const struct conf_field *f, const void *at, bool secrets)
{
	char buf[40];

	if (f->kind == CONF_BOOL)
		return json_boolean(*(const bool *)at);
	if (f->kind == CONF_ENUM)
		return json_string(f->choices[*(const uint64_t *)at]);
	if (f->kind == CONF_SECRET && !secrets)
		return json_string("(set)");
	if (is_text(f))
		return *(char *const *)at ? json_string(*(char *const *)at) : json_null();
	uint64_t n = *(const uint64_t *)at;
	if (f->kind != CONF_TIME && n <= INT64_MAX)
		return json_integer((json_int_t)n);
	snprintf(buf, sizeof(buf), "%llu%s", (unsigned long long)n, f->kind == CONF_TIME ? "ns" : "");
	return json_string(buf);
}

static json_t *list_json(const struct conf_link *l, struct conf_list *list, bool secrets)
{
	json_t *out = l->kind == CONF_MAP ? json_object() : json_array();

	for (unsigned i = 0; i < list->n; i++) {
		if (l->kind == CONF_NAMES) {
			json_array_append_new(out, json_string(((char **)list->items)[i]));
			continue;
		}
		void *item = (char *)list->items + i * l->type->bytes;
		json_t *v = conf_to_json(l->type, item, secrets);
		if (l->kind == CONF_MAP)
			json_object_set_new(out, *(char **)item, v);
		else
			json_array_append_new(out, v);
	}
	return out;
}

json_t *conf_to_json(const struct conf_type *type, void *obj, bool secrets)
{
	struct conf_section s[CONF_SECTIONS];
	unsigned n = sections_of(type, obj, s);
	json_t *out = json_object();

	for (unsigned i = 0; i < n; i++)
		for (const struct conf_field *f = s[i].fields; f && f->name; f++) {
			const void *at = (char *)s[i].base + f->at;
			if (!is_default(f, at))
				json_object_set_new(out, f->name, field_json(f, at, secrets));
		}
	for (const struct conf_link *l = type->links; l && l->name; l++) {
		void *at = (char *)obj + l->at;
		json_t *v = l->kind == CONF_ONE ? conf_to_json(l->type, at, secrets) : list_json(l, at, secrets);
		if (l->kind == CONF_ONE ? json_object_size(v) : ((struct conf_list *)at)->n)
			json_object_set(out, l->name, v);
		json_decref(v);
	}
	return out;
}

bool conf_equal(const struct conf_type *type, void *a, void *b)
{
	json_t *x = conf_to_json(type, a, true), *y = conf_to_json(type, b, true);
	bool same = json_equal(x, y);

	json_decref(x);
	json_decref(y);
	return same;
}
