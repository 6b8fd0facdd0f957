/* SPDX-License-Identifier: BSD-3-Clause
 * Options as text become values, and every mistake is named. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/schema.h"

enum { MODE_FAST, MODE_SAFE };

struct conf {
	uint64_t size, mode, wait_ns, count;
	bool     ro, cache;
	char    *path, *secret;
};

static const char *const modes[] = { "fast", "safe", NULL };
static const struct conf_field fields[] = {
	{ "size", CONF_BYTES, CONF_REQUIRED, offsetof(struct conf, size), NULL, "1MiB", "8EiB", "Bytes.", NULL },
	{ "path", CONF_TEXT, 0, offsetof(struct conf, path), "/dev/null", NULL, NULL, "A path.", NULL },
	{ "ro", CONF_BOOL, 0, offsetof(struct conf, ro), NULL, NULL, NULL, "Read only.", NULL },
	{ "cache", CONF_BOOL, 0, offsetof(struct conf, cache), "on", NULL, NULL, "Cache.", NULL },
	{ "mode", CONF_ENUM, 0, offsetof(struct conf, mode), "safe", NULL, NULL, "How.", modes },
	{ "wait", CONF_TIME, 0, offsetof(struct conf, wait_ns), "5s", NULL, "1min", "Time.", NULL },
	{ "count", CONF_UINT, 0, offsetof(struct conf, count), "3", "1", "9", "Number.", NULL },
	{ "secret", CONF_SECRET, CONF_REQUIRED, offsetof(struct conf, secret), NULL, NULL, NULL, "Word.", NULL },
	{ 0 },
};

static int parse(struct conf *c, const char *list, struct err *e)
{
	assert_int_equal(schema_defaults(fields, c, e), 0);
	return schema_parse(fields, c, list, e);
}

/* Proves that a size is read with binary, decimal and no unit, and that overflow is told apart. */
static void test_bytes(void **state)
{
	static const struct {
		const char *text;
		int         r;
		uint64_t    v;
	} rows[] = {
		{ "0", 0, 0 }, { "1", 0, 1 }, { "512B", 0, 512 }, { "1K", 0, 1024 }, { "1KB", 0, 1000 },
		{ "20GiB", 0, 20ull << 30 }, { "20G", 0, 20ull << 30 }, { "20GB", 0, 20000000000ull },
		{ "7tib", 0, 7ull << 40 }, { "15EiB", 0, 15ull << 60 },
		{ "18446744073709551615", 0, UINT64_MAX }, { "18446744073709551616", -ERANGE, 0 },
		{ "16EiB", -ERANGE, 0 }, { "", -EINVAL, 0 }, { "-1", -EINVAL, 0 }, { " 1", -EINVAL, 0 },
		{ "1 G", -EINVAL, 0 }, { "1Gi", -EINVAL, 0 }, { "G", -EINVAL, 0 }, { "1G1", -EINVAL, 0 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t v = 0;
		assert_int_equal(parse_bytes(rows[i].text, &v), rows[i].r);
		assert_int_equal(v, rows[i].v);
	}
}

/* Proves that a time needs its unit, and that a whole number takes none. */
static void test_time_and_uint(void **state)
{
	uint64_t v = 0;

	assert_int_equal(parse_time("20ms", &v), 0);
	assert_int_equal(v, 20000000);
	assert_int_equal(parse_time("2min", &v), 0);
	assert_int_equal(v, 120000000000ull);
	assert_int_equal(parse_time("0", &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(parse_time("5", &v), -EINVAL);
	assert_int_equal(parse_time("999999999999d", &v), -ERANGE);
	assert_int_equal(parse_uint("42", &v), 0);
	assert_int_equal(v, 42);
	assert_int_equal(parse_uint("42k", &v), -EINVAL);
	assert_int_equal(parse_uint("0x10", &v), -EINVAL);
}

/* Proves that every field gets its default, and zero where it has none. */
static void test_defaults(void **state)
{
	struct conf c;
	struct err e;

	memset(&c, 0xff, sizeof(c));
	assert_int_equal(schema_defaults(fields, &c, &e), 0);
	assert_int_equal(c.size, 0);
	assert_string_equal(c.path, "/dev/null");
	assert_false(c.ro);
	assert_true(c.cache);
	assert_int_equal(c.mode, MODE_SAFE);
	assert_int_equal(c.wait_ns, 5000000000ull);
	assert_null(c.secret);
	schema_free(fields, &c);
	assert_null(c.path);
}

/* Proves that a list sets its fields, that a bare name means on, and that two commas are one. */
static void test_parse(void **state)
{
	struct conf c;
	struct err e;

	assert_int_equal(parse(&c, "size=2GiB,ro,cache=no,mode=FAST,path=/a,,b=c,count=9", &e), 0);
	assert_int_equal(c.size, 2ull << 30);
	assert_true(c.ro);
	assert_false(c.cache);
	assert_int_equal(c.mode, MODE_FAST);
	assert_string_equal(c.path, "/a,b=c");
	assert_int_equal(c.count, 9);
	schema_free(fields, &c);
}

/* Proves that each mistake is refused and that the error names the option and what to do. */
static void test_errors(void **state)
{
	static const struct {
		const char *list;
		int         r;
		const char *path, *text;
	} rows[] = {
		{ "size=12", -EINVAL, "size", "12 is below the minimum of 1MiB" },
		{ "size=9EiB", -EINVAL, "size", "9EiB is above the maximum of 8EiB" },
		{ "size=99EiB", -EINVAL, "size", "99EiB is too large a number" },
		{ "size=x", -EINVAL, "size", "write bytes or a unit" },
		{ "ro=maybe", -EINVAL, "ro", "write on or off" },
		{ "mode=slow", -EINVAL, "mode", "fast, safe" },
		{ "wait=2min", -EINVAL, "wait", "above the maximum of 1min" },
		{ "sise=1G", -ENOENT, "sise", "known are size, path, ro" },
		{ "ro,", -EINVAL, "", "remove a comma" },
		{ ",ro", -EINVAL, "", "remove a comma" },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct conf c;
		struct err e = { 0 };
		assert_int_equal(parse(&c, rows[i].list, &e), rows[i].r);
		assert_int_equal(e.code, rows[i].r);
		assert_string_equal(e.path, rows[i].path);
		assert_non_null(strstr(e.text, rows[i].text));
		schema_free(fields, &c);
	}
}

/* Proves that a refused value leaves the old one in place. */
static void test_failure_changes_nothing(void **state)
{
	struct conf c;
	struct err e;

	assert_int_equal(parse(&c, "size=2GiB", &e), 0);
	assert_int_equal(schema_set(fields, &c, "size", "1", &e), -EINVAL);
	assert_int_equal(schema_set(fields, &c, "mode", "none", &e), -EINVAL);
	assert_int_equal(c.size, 2ull << 30);
	assert_int_equal(c.mode, MODE_SAFE);
	schema_free(fields, &c);
}

/* Proves that the first unset required field is named, for numbers and for text. */
static void test_required(void **state)
{
	struct conf c;
	struct err e;

	assert_int_equal(parse(&c, "", &e), 0);
	assert_int_equal(schema_check(fields, &c, &e), -EINVAL);
	assert_string_equal(e.path, "size");
	assert_int_equal(schema_parse(fields, &c, "size=1G", &e), 0);
	assert_int_equal(schema_check(fields, &c, &e), -EINVAL);
	assert_string_equal(e.path, "secret");
	assert_int_equal(schema_set(fields, &c, "secret", "x", &e), 0);
	assert_int_equal(schema_check(fields, &c, &e), 0);
	schema_free(fields, &c);
}

/* Proves that a table of no fields knows no option and accepts an empty list. */
static void test_no_fields(void **state)
{
	static const struct conf_field none[] = { { 0 } };
	struct err e;

	assert_int_equal(schema_defaults(NULL, NULL, &e), 0);
	assert_int_equal(schema_parse(NULL, NULL, "", &e), 0);
	assert_int_equal(schema_parse(NULL, NULL, "a", &e), -ENOENT);
	assert_int_equal(schema_parse(none, NULL, "a=b", &e), -ENOENT);
	assert_int_equal(schema_check(none, NULL, &e), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_time_and_uint),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_failure_changes_nothing),
		cmocka_unit_test(test_required),
		cmocka_unit_test(test_no_fields),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
