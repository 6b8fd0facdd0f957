/* SPDX-License-Identifier: BSD-3-Clause
 * The configuration tree: what it accepts, and that every mistake is named with its path. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "conf/text.h"
#include "conf/tree.h"
#include "iscsi/chap.h"

static int load(const char *text, struct conf *c, struct err *e)
{
	json_t *doc = NULL;
	int r = conf_text(text, strlen(text), &doc, e);

	if (r == 0) {
		r = conf_parse(&conf_root_type, c, doc, e);
		json_decref(doc);
	}
	if (r == 0) {
		r = conf_validate(c, e);
		if (r < 0)
			conf_free(&conf_root_type, c);
	}
	return r;
}

static const char whole_yaml[] =
	"server: { cores: 2, loop: epoll, state: /tmp/x }\n"
	"portals:\n"
	"  - 127.0.0.1:3260\n"
	"  - { listen: '[::1]:3260', group: 2, advertise: '192.0.2.1:3260' }\n"
	"users:\n"
	"  alice: alices-long-secret\n"
	"  server: { secret: the-other-secret }\n"
	"discovery: { users: [alice], mutual: server }\n"
	"volumes:\n"
	"  fast: { type: ram, size: 1GiB, bs: 4096, ro: yes }\n"
	"  db: { type: file, path: /srv/db.img, size: 10GB, wce: off, serial: ABC,\n"
	"        filters: [{ type: delay, time: 20ms }] }\n"
	"targets:\n"
	"  iqn.2026-11.com.example:disk:\n"
	"    alias: the disk\n"
	"    luns: { 0: fast, 10: { volume: db } }\n"
	"    users: [alice]\n"
	"    mutual: server\n"
	"    groups: [1, 2]\n"
	"    header-digest: require\n"
	"    max-burst: 1MiB\n"
	"    chap: [sha256]\n";

/* Proves that everything a file may say lands where the program reads it. */
static void test_whole(void **state)
{
	struct err e = { 0 };
	struct conf c;

	assert_int_equal(load(whole_yaml, &c, &e), 0);
	assert_int_equal(c.server.cores, 2);
	assert_int_equal(c.server.loop, CONF_LOOP_EPOLL);
	assert_int_equal(c.portals.n, 2);
	assert_int_equal(((struct conf_portal *)c.portals.items)[1].group, 2);
	struct conf_volume *v = conf_volume(&c, "fast");
	assert_non_null(v);
	assert_string_equal(v->node.ops->name, "ram");
	assert_int_equal(v->lu.bs, 4096);
	assert_true(v->lu.ro);
	assert_false(conf_volume(&c, "db")->lu.wce);
	struct conf_target *t = conf_target(&c, "iqn.2026-11.com.example:disk");
	assert_non_null(t);
	assert_int_equal(t->luns.n, 2);
	assert_string_equal(((struct conf_lun *)t->luns.items)[1].name, "10");
	assert_int_equal(t->header_digest, CONF_DIGEST_REQUIRE);
	assert_int_equal(conf_chap_mask(&t->chap), 1u << CHAP_SHA256);
	struct iscsi_offer o;
	conf_offer(t, &o);
	assert_true(o.require_header_digest && o.header_digest && !o.require_data_digest);
	assert_int_equal(o.max_burst, 1 << 20);
	conf_free(&conf_root_type, &c);
}

/* Proves that YAML and JSON of the same content are the same tree, and that a tree written out reads back equal. */
static void test_two_forms(void **state)
{
	struct err e = { 0 };
	struct conf a, b;

	assert_int_equal(load(whole_yaml, &a, &e), 0);
	json_t *j = conf_to_json(&conf_root_type, &a, true);
	char *text = json_dumps(j, 0);
	assert_int_equal(load(text, &b, &e), 0);
	assert_true(conf_equal(&conf_root_type, &a, &b));
	((struct conf_portal *)b.portals.items)[0].group = 7;
	assert_false(conf_equal(&conf_root_type, &a, &b));
	free(text);
	json_decref(j);
	conf_free(&conf_root_type, &a);
	conf_free(&conf_root_type, &b);
}

/* Proves that what is shown to people holds no secret. */
static void test_secrets_hidden(void **state)
{
	struct err e = { 0 };
	struct conf c;

	assert_int_equal(load(whole_yaml, &c, &e), 0);
	json_t *j = conf_to_json(&conf_root_type, &c, false);
	char *text = json_dumps(j, 0);
	assert_null(strstr(text, "alices-long-secret"));
	assert_non_null(strstr(text, "(set)"));
	free(text);
	json_decref(j);
	conf_free(&conf_root_type, &c);
}

#define DISK "volumes: { d: { type: ram, size: 1M } }\n"
#define USERS "users: { a: aaaaaaaaaaaa, b: aaaaaaaaaaaa, c: cccccccccccc }\n"
#define IQN "iqn.2026-11.com.example:x"
#define TARGET(body) DISK USERS "portals: ['127.0.0.1']\ntargets: { 'iqn.2026-11.com.example:x': {" body "} }\n"

static const struct { const char *text, *path, *says; } mistakes[] = {
	{ "portal: []", "portal", "known are server, portals" },
	{ "- a", "", "must be a map" },
	{ "portals: 5", "portals", "must be a list" },
	{ "portals: [{group: 1}]", "portals/0/listen", "is required" },
	{ "portals: [{listen: a, group: 0}]", "portals/0/group", "below the minimum" },
	{ "portals: [{listen: a, group: 65536}]", "portals/0/group", "above the maximum" },
	{ "portals: ['127.0.0.1', '127.0.0.1:3260']", "portals/1/listen", "is there twice" },
	{ "portals: ['']", "portals/0/listen", "is" },
	{ "server: {loop: fast}", "server/loop", "none of auto, uring, epoll" },
	{ "server: {cores: many}", "server/cores", "whole number" },
	{ "server: 3", "server", "must be a map" },
	{ "server: {state: [a]}", "server/state", "must be a text" },
	{ "users: {a: ''}", "users/a/secret", "is empty" },
	{ "users: {a: {secret: new, previous-secret: ''}}", "users/a/previous-secret", "is empty" },
	{ "users: {a: {secret: new, previous-secret: new}}", "users/a/previous-secret", "is the same as secret" },
	{ "users: {a: {secret: new, previous-until: 2030-01-31}}", "users/a/previous-until", "needs previous-secret" },
	{ "users: {a: {secret: new, previous-secret: old, previous-until: 2030-02-31}}", "users/a/previous-until",
	  "is no time such as" },
	{ "users: {a: {secret: new, previous-secret: old, previous-until: tomorrow}}", "users/a/previous-until",
	  "is no time such as" },
	{ "users: [a]", "users", "must be a map of names" },
	{ "volumes: {d: {size: 1G}}", "volumes/d/type", "is required" },
	{ "volumes: {d: {type: tape}}", "volumes/d/type", "none of ram, file" },
	{ "volumes: {d: {type: delay, time: 1s}}", "volumes/d/type", "none of ram, file" },
	{ "volumes: {d: {type: ram, size: 1M, filters: [{type: ram}]}}", "volumes/d/filters/0/type", "none of fault" },
	{ "volumes: {d: {type: ram, size: 1M, filters: [{type: delay}]}}", "volumes/d/filters/0/time", "is required" },
	{ "volumes: {d: {type: ram, size: 1M, filters: delay}}", "volumes/d/filters", "must be a list" },
	{ "volumes: {d: {type: ram}}", "volumes/d/size", "is required" },
	{ "volumes: {d: {type: ram, size: 12}}", "volumes/d/size", "below the minimum" },
	{ "volumes: {d: {type: ram, size: 1G, colour: red}}", "volumes/d/colour", "no such option; known are" },
	{ "volumes: {d: {type: ram, size: 1G, bs: 513}}", "volumes/d/bs", "neither 512 nor 4096" },
	{ "volumes: {d: {type: ram, size: 1G, serial: ''}}", "volumes/d/serial", "1 to 64" },
	{ "volumes: {d: {type: file}}", "volumes/d/path", "is required" },
	{ "volumes: {'': {type: ram, size: 1G}}", "volumes/", "1 to 128" },
	{ "volumes: {a: {type: ram, size: 1M}, b: {type: ram, size: 1M, identity: a}}", "volumes/b", "same identity" },
	{ "volumes: {a: {type: ram, size: 1M, serial: X}, b: {type: ram, size: 1M, serial: X}}", "volumes/b", "same serial" },
	{ "discovery: {users: [nobody]}", "discovery/users/0", "no user 'nobody'" },
	{ USERS "discovery: {mutual: a}", "discovery/mutual", "needs one-way" },
	{ "targets: {disk: {}}", "targets/disk", "no iSCSI name" },
	{ "targets: {'iqn.2026-13.x:y z': {}}", "targets/iqn.2026-13.x:y z", "no iSCSI name" },
	{ TARGET("luns: {0: nix}"), "targets/" IQN "/luns/0", "no volume 'nix'" },
	{ TARGET("luns: {x: d}"), "targets/" IQN "/luns/x", "no logical unit number" },
	{ TARGET("luns: {16384: d}"), "targets/" IQN "/luns/16384", "from 0 to 16383" },
	{ TARGET("luns: {00: d}"), "targets/" IQN "/luns/00", "no logical unit number" },
	{ TARGET("luns: {0: d, 1: d}"), "targets/" IQN "/luns/1", "LUN 0 of this target already" },
	{ TARGET("luns: {0: {}}"), "targets/" IQN "/luns/0/volume", "is required" },
	{ TARGET("users: [z]"), "targets/" IQN "/users/0", "no user 'z'" },
	{ TARGET("mutual: c"), "targets/" IQN "/mutual", "needs one-way" },
	{ TARGET("users: [a], mutual: b"), "targets/" IQN "/mutual", "each direction" },
	{ TARGET("require-mutual: on"), "targets/" IQN "/require-mutual", "needs mutual" },
	{ TARGET("groups: [0]"), "targets/" IQN "/groups/0", "portal group tag" },
	{ TARGET("chap: [md4]"), "targets/" IQN "/chap/0", "none of md5" },
	{ TARGET("max-r2t: 33"), "targets/" IQN "/max-r2t", "above the maximum" },
	{ TARGET("first-burst: 2MiB"), "targets/" IQN "/first-burst", "above max-burst, which is 1048576" },
	{ TARGET("first-burst: 1024, max-burst: 512"), "targets/" IQN "/first-burst", "above max-burst, which is 512" },
	{ TARGET("redirect: '192.0.2.1:0'"), "targets/" IQN "/redirect", "no port from 1 to 65535" },
	{ TARGET("redirect: '[::1]:99999'"), "targets/" IQN "/redirect", "no port from 1 to 65535" },
	{ "portals: [{listen: '127.0.0.1', redirect: '192.0.2.1:x'}]", "portals/0/redirect", "no port from 1 to 65535" },
	{ "volumes: {d: {type: ram, size: 1M, pi: 1}}", "volumes/d/pi", "needs integrity" },
	{ "volumes: {d: {type: ram, size: 1M, integrity: /d.sums}}", "volumes/d/integrity", "say memory" },
	{ "volumes: {d: {type: file, path: /d, integrity: memory}}", "volumes/d/integrity", "name a file" },
	{ TARGET("data-digest: maybe"), "targets/" IQN "/data-digest", "none of allow" },
	{ "portals: ['0.0.0.0']\ntargets: {'" IQN "': {}}", "targets/" IQN "/users", "without a password" },
	{ "targets: {'" IQN "': {}, 'IQN.2026-11.com.example:x': {}}", "targets/", "twice" },
	{ "a: 1\na: 2", "", "line 2: 'a' is there twice" },
	{ "{\"a\": 1, \"a\": 2}", "", "duplicate" },
	{ "a: &x 1\nb: *x", "", "anchors" },
	{ "a: [", "", "line " },
	{ "--- {}\n--- {}", "", "more than one document" },
	{ "", "", "empty" },
	{ "server: {cores: 1.5}", "server/cores", "whole number" },
	{ "{\"server\": {\"cores\": 1.5}}", "server/cores", "must be a text" },
	{ "{\"server\": {\"state\": \"a\\u0000b\"}}", "", "" },
};

/* Proves that each mistake is refused, at its path, in words that help. */
static void test_mistakes(void **state)
{
	for (unsigned i = 0; i < ARRAY_LEN(mistakes); i++) {
		struct err e = { 0 };
		struct conf c;
		if (load(mistakes[i].text, &c, &e) == 0)
			fail_msg("accepted: %s", mistakes[i].text);
		if (strncmp(e.path, mistakes[i].path, strlen(mistakes[i].path)) != 0 ||
		    (!mistakes[i].path[0] && e.path[0]))
			fail_msg("%s: path '%s', not '%s' (%s)", mistakes[i].text, e.path, mistakes[i].path, e.text);
		if (!strstr(e.text, mistakes[i].says))
			fail_msg("%s: '%s' does not say '%s'", mistakes[i].text, e.text, mistakes[i].says);
	}
}

/* Proves that nesting is bounded (LIM_CONF_DEPTH) where it is well formed, in both forms. */
static void test_depth(void **state)
{
	char text[8001] = "a: ";
	struct err e = { 0 };
	json_t *doc = NULL;

	memset(text + 3, '[', LIM_CONF_DEPTH);
	memset(text + 3 + LIM_CONF_DEPTH, ']', LIM_CONF_DEPTH);
	assert_int_equal(conf_text(text, strlen(text), &doc, &e), -EINVAL);
	assert_non_null(strstr(e.text, "nested too deeply"));
	assert_int_equal(conf_text("a: [[[[b]]]]", 12, &doc, &e), 0);
	json_decref(doc);
	memset(text, 0, sizeof(text));
	memset(text, '[', 4000);
	memset(text + 4000, ']', 4000);
	text[0] = '{';
	assert_true(conf_text(text, strlen(text), &doc, &e) < 0);
}

/* Proves that an address without a port gets the port of iSCSI, so that each has one spelling. */
static void test_port(void **state)
{
	static const char *const pairs[][2] = {
		{ "192.0.2.1", "192.0.2.1:3260" }, { "192.0.2.1:1", "192.0.2.1:1" }, { "[::1]", "[::1]:3260" },
		{ "[::1]:7", "[::1]:7" }, { "::1", "[::1]:3260" }, { "localhost", "localhost:3260" },
	};

	for (unsigned i = 0; i < ARRAY_LEN(pairs); i++) {
		char text[80];
		struct err e = { 0 };
		struct conf c;
		snprintf(text, sizeof(text), "portals: ['%s']", pairs[i][0]);
		assert_int_equal(load(text, &c, &e), 0);
		assert_string_equal(((struct conf_portal *)c.portals.items)->listen, pairs[i][1]);
		conf_free(&conf_root_type, &c);
	}
}

/* Proves which addresses count as this machine only. */
static void test_loopback(void **state)
{
	static const char *const near[] = { "127.0.0.1", "127.9.9.9:1", "[::1]:3260", "::1", "localhost", "localhost:1" };
	static const char *const far[] = { "0.0.0.0", "[::]:3260", "192.0.2.1", "localhost.example.com", "[::12]:1" };

	for (unsigned i = 0; i < ARRAY_LEN(near); i++)
		assert_true(conf_is_loopback(near[i]));
	for (unsigned i = 0; i < ARRAY_LEN(far); i++)
		assert_false(conf_is_loopback(far[i]));
}

static void check_schema_type(const json_t *o)
{
	json_t *props = json_object_get(o, "properties"), *v;
	const char *key;

	json_object_foreach(props, key, v)
		assert_true(json_is_string(json_object_get(v, "description")));
}

/* Proves that the JSON Schema covers every part of the tree and each driver. */
static void test_schema(void **state)
{
	json_t *s = conf_json_schema();
	json_t *props = json_object_get(s, "properties");
	json_t *any = json_object_get(json_object_get(json_object_get(props, "volumes"), "additionalProperties"), "oneOf");
	unsigned drivers = 0;

	check_schema_type(s);
	for (unsigned i = 0; blk_registry[i]; i++)
		drivers += !blk_registry[i]->filter;
	assert_int_equal(json_array_size(any), drivers);
	assert_non_null(json_object_get(json_object_get(json_array_get(any, 0), "properties"), "bs"));
	assert_non_null(json_object_get(props, "targets"));
	json_decref(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole), cmocka_unit_test(test_two_forms), cmocka_unit_test(test_secrets_hidden),
		cmocka_unit_test(test_mistakes), cmocka_unit_test(test_depth), cmocka_unit_test(test_port),
		cmocka_unit_test(test_loopback),
		cmocka_unit_test(test_schema),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
