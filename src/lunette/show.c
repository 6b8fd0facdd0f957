/* SPDX-License-Identifier: BSD-3-Clause
 * status and sessions. With --json the daemon's answer is printed as it came. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "lunette/cli.h"

static const char *text(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "-";
}

static json_int_t number(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

static int fail(int status, const struct err *e)
{
	fprintf(stderr, "lunette: %s\n", e->text);
	return status;
}

static int unexpected(const char *command, const char *arg)
{
	fprintf(stderr, "lunette: '%.64s' is not understood; see lunette help %s\n", arg, command);
	return CLI_USAGE;
}

static int print_json(json_t *o)
{
	json_dumpf(o, stdout, JSON_INDENT(2));
	printf("\n");
	json_decref(o);
	return CLI_OK;
}

static void print_luns(const json_t *targets)
{
	static const char *const heads[] = { "TARGET", ">LUN", "VOLUME", "TYPE", ">SIZE", ">READ", ">WRITTEN", "STATE" };
	struct table *t = table_new(heads, ARRAY_LEN(heads));
	json_t *target, *l;
	size_t i, k;
	char buf[16];

	json_array_foreach(targets, i, target)
		json_array_foreach(json_object_get(target, "luns"), k, l) {
			table_cell(t, "%s", k ? "" : text(target, "name"));
			table_cell(t, "%lld", (long long)number(l, "lun"));
			table_cell(t, "%s", text(l, "volume"));
			table_cell(t, "%s", text(l, "type"));
			table_cell(t, "%s", show_bytes(number(l, "bytes"), buf));
			table_cell(t, "%s", show_bytes(number(l, "read_bytes"), buf));
			table_cell(t, "%s", show_bytes(number(l, "write_bytes"), buf));
			if (json_is_true(json_object_get(l, "ready")))
				table_cell(t, "ready");
			else
				table_cell(t, "not ready: %s", text(l, "reason"));
		}
	table_print(t);
}

static void print_status(const json_t *o)
{
	const json_t *n = json_object_get(o, "counters");
	json_t *p;
	size_t i;
	char age[24];

	printf("lunetted %s, pid %lld, up %s, %lld %s %s\n", text(o, "version"), (long long)number(o, "pid"),
		show_age(number(o, "uptime_seconds"), age), (long long)number(o, "cores"), text(o, "loop"),
		number(o, "cores") == 1 ? "loop" : "loops");
	printf("portals");
	json_array_foreach(json_object_get(o, "portals"), i, p)
		printf(" %s,%lld", text(p, "listen"), (long long)number(p, "group"));
	printf("\nsessions %lld, logins %lld, refused %lld\n", (long long)number(n, "sessions"),
		(long long)number(n, "logins_ok"), (long long)number(n, "logins_refused"));
	if (json_object_get(o, "isns"))
		printf("name server: %s\n", text(o, "isns"));
	print_luns(json_object_get(o, "targets"));
}

int cmd_status(struct cli *c, int argc, char **argv)
{
	struct err e = { 0 };
	json_t *o;

	if (argc > 1)
		return unexpected("status", argv[1]);
	int r = client_ask(c, "GET", "/api/v1/status", &o, &e);
	if (r != CLI_OK)
		return fail(r, &e);
	if (c->json)
		return print_json(o);
	print_status(o);
	json_decref(o);
	return CLI_OK;
}

/* The first connection's, and how many more there are. */
static const char *peers(const json_t *s, char *buf, size_t n)
{
	long long k = (long long)number(s, "connections");

	if (k > 1)
		snprintf(buf, n, "%s (+%lld)", text(s, "peer"), k - 1);
	else
		snprintf(buf, n, "%s", k ? text(s, "peer") : "(none now)");
	return buf;
}

static void print_sessions(const json_t *list)
{
	static const char *const heads[] = { ">ID", "INITIATOR", "PEER", "TARGET", "USER", ">AGE", ">IN FLIGHT",
		">COMMANDS", ">READ", ">WRITTEN", "DIGESTS" };
	struct table *t = table_new(heads, ARRAY_LEN(heads));
	char buf[96];
	json_t *s;
	size_t i;

	json_array_foreach(list, i, s) {
		const json_t *p = json_object_get(s, "parameters");
		table_cell(t, "%lld", (long long)number(s, "id"));
		table_cell(t, "%s", text(s, "initiator"));
		table_cell(t, "%s", peers(s, buf, sizeof(buf)));
		table_cell(t, "%s", json_is_true(json_object_get(s, "discovery")) ? "(discovery)" : text(s, "target"));
		table_cell(t, "%s", text(s, "user"));
		table_cell(t, "%s", show_age(number(s, "age_seconds"), buf));
		table_cell(t, "%lld", (long long)number(s, "in_flight"));
		table_cell(t, "%lld", (long long)number(s, "commands"));
		table_cell(t, "%s", show_bytes(number(s, "bytes_to_initiator"), buf));
		table_cell(t, "%s", show_bytes(number(s, "bytes_from_initiator"), buf));
		table_cell(t, "%s,%s", text(p, "header_digest"), text(p, "data_digest"));
	}
	table_print(t);
}

static int kick(struct cli *c, const char *id)
{
	struct err e = { 0 };
	char path[64];
	json_t *o;

	if (!id[0] || strlen(id) > 20 || strspn(id, "0123456789") != strlen(id)) {
		fprintf(stderr, "lunette: a session's id is a number; see lunette sessions\n");
		return CLI_USAGE;
	}
	snprintf(path, sizeof(path), "/api/v1/sessions/%s", id);
	int r = client_ask(c, "DELETE", path, &o, &e);
	if (r != CLI_OK)
		return fail(r, &e);
	if (c->json)
		return print_json(o);
	json_decref(o);
	return CLI_OK;
}

int cmd_sessions(struct cli *c, int argc, char **argv)
{
	struct err e = { 0 };
	json_t *o;

	if (argc == 3 && strcmp(argv[1], "kick") == 0)
		return kick(c, argv[2]);
	if (argc == 2 && strcmp(argv[1], "kick") == 0) {
		fprintf(stderr, "lunette: kick needs the ID of a session; lunette sessions shows them\n");
		return CLI_USAGE;
	}
	if (argc > 1)
		return unexpected("sessions", argv[argc > 2 ? 2 : 1]);
	int r = client_ask(c, "GET", "/api/v1/sessions", &o, &e);
	if (r != CLI_OK)
		return fail(r, &e);
	if (c->json)
		return print_json(o);
	print_sessions(json_object_get(o, "sessions"));
	json_decref(o);
	return CLI_OK;
}
