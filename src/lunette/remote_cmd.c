/* SPDX-License-Identifier: BSD-3-Clause
 * lunette discover, ls and inquiry: what a server offers, seen as an initiator sees it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lunette/cli.h"
#include "net/remote.h"

static int status_of(int code)
{
	switch (code) {
	case -EINVAL: return CLI_USAGE;
	case -EACCES: return CLI_DENIED;
	case -ENOENT: return CLI_NOT_FOUND;
	case -ECONNREFUSED: case -EHOSTUNREACH: case -ETIMEDOUT: return CLI_UNREACHABLE;
	default: return CLI_FAILED;
	}
}

static int fail(const struct err *e)
{
	char buf[600];

	fprintf(stderr, "lunette: %s\n", err_str(e, buf, sizeof(buf)));
	return status_of(e->code);
}

static int usage(const char *text)
{
	fprintf(stderr, "lunette: usage: lunette %s\n", text);
	return CLI_USAGE;
}

/* A bare host will do where a URL names no more than that. */
static int server_url(struct url *u, const char *s, struct err *e)
{
	if (url_is(s))
		return url_parse(u, s, e);
	url_defaults(u);
	return url_parse_host(u, s, strlen(s), "3260", e);
}

/* [{"target": .., "portals": [..]}] of the server that u names. */
static int discover(const struct url *u, json_t **ret, struct err *e)
{
	struct url server = *u;
	struct remote *r;
	const char *text;
	uint32_t len;

	server.target[0] = 0;
	int code = remote_open(&r, &server, NULL, e);
	if (code)
		return code;
	code = remote_targets(r, &text, &len, e);
	json_t *all = json_array(), *portals = NULL;
	for (uint32_t at = 0; !code && at < len; at += (uint32_t)strnlen(text + at, len - at) + 1) {
		const char *line = text + at; /* remote.c ends the text with a zero */
		if (!strncmp(line, "TargetName=", 11)) {
			json_t *t = json_pack("{s:s, s:[]}", "target", line + 11, "portals");
			portals = t ? json_object_get(t, "portals") : NULL; /* NULL: a name that is no text */
			json_array_append_new(all, t);
		} else if (!strncmp(line, "TargetAddress=", 14) && portals) {
			json_array_append_new(portals, json_string(line + 14));
		}
	}
	remote_close(r);
	if (code)
		json_decref(all);
	else
		*ret = all;
	return code;
}

static void print_json(json_t *j)
{
	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
}

int cmd_discover(struct cli *c, int argc, char **argv)
{
	static const char *const heads[] = { "TARGET", "PORTAL" };
	struct err e = { 0 };
	struct url u;
	json_t *all, *t, *p;
	size_t i, k;

	if (argc != 2)
		return usage("discover HOST[:PORT]|URL");
	if (server_url(&u, argv[1], &e) || discover(&u, &all, &e))
		return fail(&e);
	if (c->json) {
		print_json(all);
	} else {
		struct table *tab = table_new(heads, 2);
		json_array_foreach(all, i, t)
			json_array_foreach(json_object_get(t, "portals"), k, p) {
				table_cell(tab, "%s", k ? "" : json_string_value(json_object_get(t, "target")));
				table_cell(tab, "%s", json_string_value(p));
			}
		table_print(tab);
	}
	json_decref(all);
	return CLI_OK;
}

/* --- ls --- */

static void trim(char *to, const uint8_t *from, size_t n)
{
	while (n && from[n - 1] == ' ')
		n--;
	for (size_t i = 0; i < n; i++)
		to[i] = from[i] >= 0x20 && from[i] < 0x7f ? (char)from[i] : '?';
	to[n] = 0;
}

static json_t *list_lun(struct remote *r, unsigned lun)
{
	static const char *const types[32] = { [0] = "disk", [1] = "tape", [5] = "cd/dvd", [8] = "changer" };
	char vendor[9], product[17];
	uint8_t d[96];
	uint64_t bytes = 0;
	uint32_t block = 0;
	bool thin;
	struct err e = { 0 };

	if (remote_inquiry(r, lun, -1, d, sizeof(d), &e) < 36)
		return json_pack("{s:i, s:s}", "lun", (int)lun, "type", "?");
	trim(vendor, d + 8, 8);
	trim(product, d + 16, 16);
	const char *type = types[d[0] & 31];
	if ((d[0] & 31) == 0)
		remote_capacity(r, lun, &bytes, &block, &thin, &e);
	return json_pack("{s:i, s:s, s:s, s:s, s:I, s:i, s:s}", "lun", (int)lun, "type", type ? type : "other", "vendor",
		vendor, "product", product, "bytes", (json_int_t)bytes, "block", (int)block, "state",
		bytes ? "ready" : e.code ? e.text : "-");
}

static int list_luns(const struct url *u, json_t *into, struct err *e)
{
	static uint8_t d[8 + 8 * LIM_LUNS];
	struct iscsi_ini_cmd c = { .cdb = { 0xa0 }, .in = d, .in_len = sizeof(d), .retry = true };
	struct remote *r;
	int code = remote_open(&r, u, NULL, e);

	if (code)
		return code;
	put_be32(c.cdb + 6, sizeof(d));
	code = remote_run(r, &c, e);
	for (uint32_t at = 8; !code && at + 8 <= c.in_got && at < be32(d) + 8; at += 8)
		json_array_append_new(into, list_lun(r, be16(d + at) & 0x3fff));
	remote_close(r);
	return code;
}

static int list_target(const struct url *u, json_t *all, struct err *e)
{
	json_t *t = json_pack("{s:s, s:[]}", "target", u->target, "luns");

	if (!t)
		return err_set(e, -EINVAL, "the target's name is no text");
	json_array_append_new(all, t);
	return list_luns(u, json_object_get(t, "luns"), e);
}

/* All targets of a server: one that refuses us does not hide the others. *ret_status: of the last that did. */
static int list(const struct url *u, json_t *all, int *ret_status, struct err *e)
{
	json_t *targets, *t;
	size_t i;

	if (*u->target)
		return list_target(u, all, e);
	int code = discover(u, &targets, e);
	if (code)
		return code;
	json_array_foreach(targets, i, t) {
		struct url one = *u;
		snprintf(one.target, sizeof(one.target), "%s", json_string_value(json_object_get(t, "target")));
		if (list_target(&one, all, e) == 0)
			continue;
		*ret_status = status_of(e->code);
		fprintf(stderr, "lunette: %s: %s\n", one.target, e->text);
		if ((t = json_array_get(all, json_array_size(all) - 1)))
			json_object_set_new(t, "error", json_string(e->text));
	}
	json_decref(targets);
	return 0;
}

int cmd_ls(struct cli *c, int argc, char **argv)
{
	static const char *const heads[] = { "TARGET", ">LUN", "TYPE", ">SIZE", ">BLOCK", "VENDOR", "PRODUCT", "STATE" };
	struct err e = { 0 };
	struct url u;
	json_t *all = json_array(), *t, *l;
	int status = CLI_OK;
	size_t i, k;
	char buf[16];

	if (argc != 2)
		return usage("ls HOST[:PORT]|URL");
	if (server_url(&u, argv[1], &e) || list(&u, all, &status, &e)) {
		json_decref(all);
		return fail(&e);
	}
	if (c->json) {
		print_json(all);
	} else {
		struct table *tab = table_new(heads, 8);
		json_array_foreach(all, i, t)
			json_array_foreach(json_object_get(t, "luns"), k, l) {
				table_cell(tab, "%s", k ? "" : json_string_value(json_object_get(t, "target")));
				table_cell(tab, "%lld", (long long)json_integer_value(json_object_get(l, "lun")));
				table_cell(tab, "%s", json_string_value(json_object_get(l, "type")));
				table_cell(tab, "%s", show_bytes(json_integer_value(json_object_get(l, "bytes")), buf));
				table_cell(tab, "%lld", (long long)json_integer_value(json_object_get(l, "block")));
				const char *v = json_string_value(json_object_get(l, "vendor"));
				const char *p = json_string_value(json_object_get(l, "product"));
				const char *s = json_string_value(json_object_get(l, "state"));
				table_cell(tab, "%s", v ? v : "");
				table_cell(tab, "%s", p ? p : "");
				table_cell(tab, "%s", s ? s : "");
			}
		table_print(tab);
	}
	json_decref(all);
	return status;
}

/* --- inquiry --- */

static void add_hex(json_t *o, const char *name, const uint8_t *p, size_t n)
{
	char hex[2 * 64 + 1] = "";

	for (size_t i = 0; i < n && i < 64; i++)
		snprintf(hex + 2 * i, 3, "%02x", p[i]);
	json_object_set_new(o, name, json_string(hex));
}

static void page_83(json_t *o, const uint8_t *d, int n)
{
	for (int at = 4; at + 4 <= n && at + 4 + d[at + 3] <= n; at += 4 + d[at + 3]) {
		if (d[at + 1] & 0x30)
			continue; /* of the port or the target device */
		unsigned type = d[at + 1] & 0x0f;
		if (type == 3)
			add_hex(o, "naa", d + at + 4, d[at + 3]);
		else if (type == 2)
			add_hex(o, "eui64", d + at + 4, d[at + 3]);
	}
}

static void page_80(json_t *o, const uint8_t *d, int n)
{
	char serial[253];

	if (n > 4) {
		trim(serial, d + 4, (size_t)(n - 4 < 252 ? n - 4 : 252));
		json_object_set_new(o, "serial", json_string(serial));
	}
}

static void page_b0(json_t *o, const uint8_t *d, int n)
{
	static const struct { const char *name; int at, bytes; } fields[] = { { "max_transfer_blocks", 8, 4 },
		{ "optimal_transfer_blocks", 12, 4 }, { "max_compare_and_write_blocks", 5, 1 }, { "max_unmap_blocks", 20, 4 },
		{ "unmap_granularity_blocks", 28, 4 }, { "max_write_same_blocks", 36, 8 } };

	for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (fields[i].at + fields[i].bytes <= n)
			json_object_set_new(o, fields[i].name,
				json_integer((json_int_t)be_field(d + fields[i].at, (unsigned)fields[i].bytes)));
}

static void page_b2(json_t *o, const uint8_t *d, int n)
{
	if (n < 8)
		return;
	json_object_set_new(o, "unmap", json_boolean(d[5] & 0x80));
	json_object_set_new(o, "write_same_unmap", json_boolean(d[5] & 0x60));
	json_object_set_new(o, "reads_zero_after_unmap", json_boolean(d[5] & 0x1c));
}

static const struct { int page; void (*fill)(json_t *o, const uint8_t *d, int n); } pages[] = { { 0x80, page_80 },
	{ 0x83, page_83 }, { 0xb0, page_b0 }, { 0xb2, page_b2 } };

static int inquire(struct remote *r, const struct url *u, json_t *o, struct err *e)
{
	uint8_t d[1024], have[256];
	char text[17];
	struct err none;
	int n = remote_inquiry(r, u->lun, -1, d, 96, e);

	if (n < 0)
		return n;
	if (n < 36 || d[0] == 0x7f)
		return err_set(e, -ENOENT, "the target has no LUN %u; lunette ls lists those that it has", u->lun);
	json_object_set_new(o, "device_type", json_integer(d[0] & 31));
	json_object_set_new(o, "removable", json_boolean(d[1] & 0x80));
	json_object_set_new(o, "spc_version", json_integer(d[2]));
	trim(text, d + 8, 8);
	json_object_set_new(o, "vendor", json_string(text));
	trim(text, d + 16, 16);
	json_object_set_new(o, "product", json_string(text));
	trim(text, d + 32, 4);
	json_object_set_new(o, "revision", json_string(text));
	n = remote_inquiry(r, u->lun, 0, have, sizeof(have), &none);
	for (unsigned i = 0; n > 4 && i < sizeof(pages) / sizeof(pages[0]); i++)
		if (memchr(have + 4, pages[i].page, (size_t)(n - 4))) {
			int k = remote_inquiry(r, u->lun, pages[i].page, d, sizeof(d), &none);
			pages[i].fill(o, d, k);
		}
	uint64_t bytes;
	uint32_t block;
	bool thin;
	if ((json_integer_value(json_object_get(o, "device_type"))) == 0 &&
	    !remote_capacity(r, u->lun, &bytes, &block, &thin, &none)) {
		json_object_set_new(o, "bytes", json_integer((json_int_t)bytes));
		json_object_set_new(o, "block_bytes", json_integer(block));
		json_object_set_new(o, "thin", json_boolean(thin));
	}
	return 0;
}

static void print_object(json_t *o)
{
	const char *name;
	json_t *v;

	json_object_foreach(o, name, v) {
		if (json_is_string(v))
			printf("%-30s %s\n", name, json_string_value(v));
		else if (json_is_integer(v))
			printf("%-30s %lld\n", name, (long long)json_integer_value(v));
		else
			printf("%-30s %s\n", name, json_is_true(v) ? "yes" : "no");
	}
}

int cmd_inquiry(struct cli *c, int argc, char **argv)
{
	struct err e = { 0 };
	struct remote *r;
	struct url u;

	if (argc != 2)
		return usage("inquiry iscsi://HOST/IQN[/LUN]");
	if (url_parse(&u, argv[1], &e))
		return fail(&e);
	if (!*u.target)
		return usage("inquiry iscsi://HOST/IQN[/LUN]; lunette ls HOST lists the targets");
	if (remote_open(&r, &u, NULL, &e))
		return fail(&e);
	json_t *o = json_object();
	int code = inquire(r, &u, o, &e);
	remote_close(r);
	if (!code && c->json)
		print_json(o);
	else if (!code)
		print_object(o);
	json_decref(o);
	return code ? fail(&e) : CLI_OK;
}
