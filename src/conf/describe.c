/* SPDX-License-Identifier: BSD-3-Clause
 * The tables of types.c as JSON Schema, for editors and other programs. */
#include "conf/tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *type_schema(const struct conf_type *type);

static json_t *enum_schema(const struct conf_field *f)
{
	json_t *values = json_array();

	for (unsigned i = 0; f->choices[i]; i++)
		json_array_append_new(values, json_string(f->choices[i]));
	return json_pack("{so}", "enum", values);
}

/* Numbers may be written with a unit, truth as a word: texts are allowed beside the plain type. */
static json_t *field_schema(const struct conf_field *f)
{
	json_t *s;

	if (f->kind == CONF_ENUM)
		s = enum_schema(f);
	else if (f->kind == CONF_BOOL)
		s = json_pack("{s[ss]}", "type", "boolean", "string");
	else if (f->kind == CONF_TEXT || f->kind == CONF_SECRET)
		s = json_pack("{s[ss]}", "type", "string", "integer");
	else
		s = json_pack("{s[ss]}", "type", "integer", "string");
	json_object_set_new(s, "description", json_string(f->help));
	if (f->dflt)
		json_object_set_new(s, "default", json_string(f->dflt));
	if (f->min)
		json_object_set_new(s, "x-minimum", json_string(f->min));
	if (f->max)
		json_object_set_new(s, "x-maximum", json_string(f->max));
	if (f->kind == CONF_SECRET)
		json_object_set_new(s, "writeOnly", json_true());
	return s;
}

static json_t *link_schema(const struct conf_link *l)
{
	json_t *s;

	if (l->kind == CONF_NAMES)
		s = json_pack("{s[ssss]s{s[ss]}}", "type", "array", "string", "integer", "null", "items",
			"type", "string", "integer");
	else if (l->kind == CONF_ARRAY)
		s = json_pack("{s[ss]so}", "type", "array", "null", "items", type_schema(l->type));
	else if (l->kind == CONF_MAP)
		s = json_pack("{s[ss]so}", "type", "object", "null", "additionalProperties", type_schema(l->type));
	else
		s = type_schema(l->type);
	json_object_set_new(s, "description", json_string(l->help));
	return s;
}

static void add_fields(json_t *props, json_t *required, const struct conf_field *fields)
{
	for (const struct conf_field *f = fields; f && f->name; f++) {
		json_object_set_new(props, f->name, field_schema(f));
		if (f->flags & CONF_REQUIRED)
			json_array_append_new(required, json_string(f->name));
	}
}

static json_t *object_schema(const struct conf_type *type, const struct conf_section *s, unsigned n)
{
	json_t *props = json_object(), *required = json_array();

	for (unsigned i = 0; i < n; i++)
		add_fields(props, required, s[i].fields);
	for (const struct conf_link *l = type->links; l && l->name; l++)
		json_object_set_new(props, l->name, link_schema(l));
	json_t *out = json_object();

	json_object_set_new(out, "type", json_string("object"));
	json_object_set_new(out, "properties", props);
	json_object_set_new(out, "required", required);
	json_object_set_new(out, "additionalProperties", json_false());
	return out;
}

/* One alternative per driver: its options are known once its name is. */
static json_t *select_schema(const struct conf_type *type)
{
	json_t *any = json_array();

	for (unsigned i = 0; blk_registry[i]; i++) {
		struct conf_section s[CONF_SECTIONS];
		void *obj = calloc(1, type->bytes);
		struct err e;

		if (!obj || type->choose(obj, blk_registry[i]->name, &e) < 0) { /* a filter is no disk, and the reverse */
			free(obj);
			continue;
		}
		json_t *o = object_schema(type, s, type->sections(obj, s));
		json_t *kind = json_object_get(json_object_get(o, "properties"), "type");
		json_object_set_new(kind, "const", json_string(blk_registry[i]->name));
		json_array_append_new(any, o);
		conf_free(type, obj);
		free(obj);
	}
	return json_pack("{so}", "oneOf", any);
}

static json_t *type_schema(const struct conf_type *type)
{
	struct conf_section s = { type->fields, NULL };

	if (type->select)
		return select_schema(type);
	json_t *o = object_schema(type, &s, 1);
	json_object_set_new(o, "description", json_string(type->help));
	if (!type->brief)
		return o;
	/* The short form: the one option that matters as a plain text. */
	json_object_set_new(o, "type", json_pack("[ss]", "object", "string"));
	return o;
}

json_t *conf_json_schema(void)
{
	json_t *o = type_schema(&conf_root_type);

	json_object_set_new(o, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
	json_object_set_new(o, "title", json_string("Configuration of lunetted"));
	return o;
}
