/* SPDX-License-Identifier: BSD-3-Clause
 * paths and reservations: how LUNs are reached, and who keeps whom out. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "lunette/cli.h"

enum { PATH_MAX_BYTES = 448 };

static const char *text(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "-";
}

static json_int_t number(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

/* One request whose answer `print` shows; NULL: nothing to show. */
static int ask(struct cli *c, const char *method, const char *path, void (*print)(const json_t *o))
{
	struct err e = { 0 };
	json_t *o;
	int r = client_ask(c, method, path, &o, &e);

	if (r != CLI_OK) {
		fprintf(stderr, "lunette: %s\n", e.text);
		return r;
	}
	if (c->json) {
		json_dumpf(o, stdout, JSON_INDENT(2));
		printf("\n");
	} else if (print) {
		print(o);
	}
	json_decref(o);
	return CLI_OK;
}

/* Appends a query's value, percent-encoded. Too long: false. */
static bool add_value(char *path, size_t room, const char *name, const char *value)
{
	size_t at = strlen(path);

	at += (size_t)snprintf(path + at, room - at, "%s=", name);
	for (; *value && at + 4 < room; value++) {
		bool plain = strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~", *value) != NULL;
		at += (size_t)snprintf(path + at, room - at, plain ? "%c" : "%%%02X", (unsigned char)*value);
	}
	return !*value;
}

static void print_paths(const json_t *o)
{
	static const char *const heads[] = { "TARGET", ">LUN", "VOLUME", ">GROUP", "ACCESS", "PREFERRED", "SET BY" };
	struct table *t = table_new(heads, ARRAY_LEN(heads));
	json_t *l, *g;
	size_t i, k;

	json_array_foreach(json_object_get(o, "paths"), i, l)
		json_array_foreach(json_object_get(l, "groups"), k, g) {
			table_cell(t, "%s", k ? "" : text(l, "target"));
			if (k)
				table_cell(t, "%s", "");
			else
				table_cell(t, "%lld", (long long)number(l, "lun"));
			table_cell(t, "%s", k ? "" : text(l, "volume"));
			table_cell(t, "%lld", (long long)number(g, "group"));
			table_cell(t, "%s", text(g, "access"));
			table_cell(t, "%s", json_is_true(json_object_get(g, "preferred")) ? "yes" : "-");
			table_cell(t, "%s", text(g, "set_by"));
		}
	table_print(t);
}

static int usage(const char *line)
{
	fprintf(stderr, "lunette: write: lunette %s\n", line);
	return CLI_USAGE;
}

static int set_path(struct cli *c, int argc, char **argv)
{
	char path[PATH_MAX_BYTES] = "/api/v1/paths?";
	const char *prefer = argc == 6 ? argv[5] : NULL;

	if (argc < 5 || argc > 6 || (prefer && strcmp(prefer, "preferred") != 0 && strcmp(prefer, "not-preferred") != 0))
		return usage("paths set VOLUME GROUP ACCESS [preferred|not-preferred]");
	bool ok = add_value(path, sizeof(path), "volume", argv[2]) && add_value(path, sizeof(path), "&group", argv[3]) &&
		add_value(path, sizeof(path), "&access", argv[4]);
	if (ok && prefer)
		ok = add_value(path, sizeof(path), "&preferred", prefer[0] == 'p' ? "on" : "off");
	return ok ? ask(c, "PUT", path, NULL) : usage("paths set VOLUME GROUP ACCESS [preferred|not-preferred]");
}

int cmd_paths(struct cli *c, int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "set") == 0)
		return set_path(c, argc, argv);
	return argc > 1 ? usage("paths [set VOLUME GROUP ACCESS [preferred|not-preferred]]") :
		ask(c, "GET", "/api/v1/paths", print_paths);
}

static void print_reservations(const json_t *o)
{
	static const char *const heads[] = { "TARGET", ">LUN", "VOLUME", "TYPE", "INITIATOR", "ISID", ">GROUP", "KEY",
		"HOLDER" };
	struct table *t = table_new(heads, ARRAY_LEN(heads));
	json_t *l, *r;
	size_t i, k;

	json_array_foreach(json_object_get(o, "reservations"), i, l) {
		if (!json_array_size(json_object_get(l, "registrations")) && strcmp(text(l, "type"), "RESERVE") == 0) {
			table_cell(t, "%s", text(l, "target"));
			table_cell(t, "%lld", (long long)number(l, "lun"));
			table_cell(t, "%s", text(l, "volume"));
			for (unsigned n = 3; n < ARRAY_LEN(heads); n++)
				table_cell(t, "%s", n == 3 ? "RESERVE" : "-");
		}
		json_array_foreach(json_object_get(l, "registrations"), k, r) {
			table_cell(t, "%s", text(l, "target"));
			table_cell(t, "%lld", (long long)number(l, "lun"));
			table_cell(t, "%s", text(l, "volume"));
			table_cell(t, "%s", text(l, "type"));
			table_cell(t, "%s", text(r, "initiator"));
			table_cell(t, "%s", text(r, "isid"));
			if (json_is_null(json_object_get(r, "group")))
				table_cell(t, "any");
			else
				table_cell(t, "%lld", (long long)number(r, "group"));
			table_cell(t, "%s", text(r, "key"));
			table_cell(t, "%s", json_is_true(json_object_get(r, "holder")) ? "yes" : "-");
		}
	}
	table_print(t);
}

int cmd_reservations(struct cli *c, int argc, char **argv)
{
	char path[PATH_MAX_BYTES] = "/api/v1/reservations?";

	if (argc == 1)
		return ask(c, "GET", "/api/v1/reservations", print_reservations);
	if (argc != 3 || strcmp(argv[1], "clear") != 0 || !add_value(path, sizeof(path), "volume", argv[2]))
		return usage("reservations [clear VOLUME]");
	return ask(c, "DELETE", path, NULL);
}
