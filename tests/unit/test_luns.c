/* SPDX-License-Identifier: BSD-3-Clause
 * LUN numbers that rest when a disk gave them up: who may have which number when, and that a restart does not forget. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/luns.h"
#include "conf/text.h"

#define IQN "iqn.2026-01.test:t"
static char dir[64];
static struct store *store;
static struct luns *luns;
static struct conf conf;

static int setup(void **state)
{
	struct err e = { 0 };

	strcpy(dir, "/tmp/lunette-luns-XXXXXX");
	if (!mkdtemp(dir) || store_open(&store, dir, NULL, &e))
		return -1;
	luns = luns_load(store);
	return luns ? 0 : -1;
}

static int teardown(void **state)
{
	char cmd[128];

	conf_free(&conf_root_type, &conf);
	luns_free(luns);
	store_close(store);
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	return system(cmd);
}

/* The configuration with these LUNs: "0: a, 5: {volume: b, reuse: on}". */
static void configure(const char *list, const char *identity)
{
	char text[512];
	struct err e = { 0 };
	json_t *doc = NULL;

	conf_free(&conf_root_type, &conf);
	memset(&conf, 0, sizeof(conf));
	snprintf(text, sizeof(text), "server: { lun-rest: 60s }\nvolumes:\n  a: { type: ram, size: 1M }\n  b: { type: ram, size: 1M }\n"
		"  c: { type: ram, size: 1M, identity: %s }\ntargets:\n  " IQN ": { luns: { %s } }\n", identity, list);
	if (conf_text(text, strlen(text), &doc, &e) || conf_parse(&conf_root_type, &conf, doc, &e) || conf_validate(&conf, &e))
		fail_msg("%s: %s", e.path, e.text);
	json_decref(doc);
}

static int may(const char *list, int64_t now_s)
{
	struct err e = { 0 };

	configure(list, "c");
	return luns_check(luns, &conf, now_s, &e);
}

static void commit(const char *list, int64_t now_s)
{
	assert_int_equal(may(list, now_s), 0);
	luns_commit(luns, &conf, now_s);
}

static void restart(void)
{
	luns_free(luns);
	luns = luns_load(store);
	assert_non_null(luns);
}

/* A number is the disk's that had it, at once; another's when it has rested, or when it is asked for. */
static void rests(void **state)
{
	commit("0: a, 1: b", 1000);
	assert_int_equal(may("0: a, 1: b, 2: c", 1001), 0);
	assert_int_equal(may("0: b, 1: a", 1001), -EBUSY);
	assert_int_equal(may("0: {volume: b, reuse: on}, 1: {volume: a, reuse: on}", 1001), 0);
	commit("1: b", 2000); /* a gives up 0 */
	assert_int_equal(may("0: c, 1: b", 2059), -EBUSY);
	assert_int_equal(may("0: a, 1: b", 2059), 0);
	assert_int_equal(may("0: c, 1: b", 2060), 0);
	commit("1: b, 3: a", 2010); /* a change of something else does not begin the rest anew */
	assert_int_equal(may("0: c, 1: b", 2060), 0);
	commit("0: c, 1: b", 2060);
	assert_int_equal(may("0: a, 1: b", 2061), -EBUSY); /* it is c's now */
}

/* A restart forgets neither who has a number nor since when it rests; a clock that was set back only makes the rest longer
 * by what it was set back, and never by more than the rest itself. */
static void restarts(void **state)
{
	commit("0: a, 1: b", 1000);
	restart();
	assert_int_equal(may("0: c, 1: b", 1001), -EBUSY); /* changed while it was down */
	commit("1: b", 1010);
	restart();
	assert_int_equal(may("0: c", 1069), -EBUSY);
	assert_int_equal(may("0: c", 1070), 0);
	assert_int_equal(may("0: c", 500), -EBUSY);
	commit("1: b, 2: a", 500);
	assert_int_equal(may("0: c", 560), 0);
}

/* What counts is the identity under which a disk is kept, not the name of its volume. */
static void identity(void **state)
{
	configure("0: c", "x");
	luns_commit(luns, &conf, 1000);
	configure("0: c", "y");
	assert_int_equal(luns_check(luns, &conf, 1001, NULL), -EBUSY);
	configure("0: c", "x");
	assert_int_equal(luns_check(luns, &conf, 1001, NULL), 0);
}

/* A table that is damaged or not understood is none. */
static void damaged(void **state)
{
	static const char text[] = IQN " 0 1234 0\nnonsense\n" IQN " 99999 1 0\n";

	assert_int_equal(store_put(store, "luns", text, strlen(text)), 0);
	restart();
	assert_int_equal(may("0: a", 10), -EBUSY);
	char path[128];
	snprintf(path, sizeof(path), "%s/luns", dir);
	assert_int_equal(truncate(path, 20), 0);
	restart();
	assert_int_equal(may("0: a", 10), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(rests), T(restarts), T(identity), T(damaged) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
