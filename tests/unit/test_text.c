/* SPDX-License-Identifier: BSD-3-Clause
 * Lists of key=value pairs (RFC 7143 6.1): gathering, walking, appending. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "iscsi/login.h"

#define LIT(s) s, sizeof(s) - 1

/* Proves that a list cut anywhere into two parts reads the same as in one (6.1, C bit). */
static void test_split_anywhere(void **state)
{
	static const char list[] = "InitiatorName=iqn.2001-04.com.example:a\0AuthMethod=CHAP,None\0Empty=\0A=b=c";

	for (uint32_t cut = 0; cut <= sizeof(list); cut++) {
		struct iscsi_text t = { 0 };
		uint32_t pos = 0;
		char *k, *v;
		assert_int_equal(iscsi_text_add(&t, list, cut), 0);
		assert_int_equal(iscsi_text_add(&t, list + cut, (uint32_t)sizeof(list) - cut), 0);
		assert_int_equal(iscsi_text_next(&t, &pos, &k, &v), 1);
		assert_string_equal(k, "InitiatorName");
		assert_string_equal(v, "iqn.2001-04.com.example:a");
		assert_int_equal(iscsi_text_next(&t, &pos, &k, &v), 1);
		assert_string_equal(v, "CHAP,None");
		assert_int_equal(iscsi_text_next(&t, &pos, &k, &v), 1);
		assert_string_equal(k, "Empty");
		assert_string_equal(v, "");
		assert_int_equal(iscsi_text_next(&t, &pos, &k, &v), 1);
		assert_string_equal(k, "A");
		assert_string_equal(v, "b=c");
		assert_int_equal(iscsi_text_next(&t, &pos, &k, &v), 0);
		iscsi_text_free(&t);
	}
}

/* Proves that what 6.1 does not allow is an error, and that zeros between pairs are passed over. */
static void test_malformed(void **state)
{
	static const struct { const char *text; uint32_t len; int first; } rows[] = {
		{ LIT("A=b"), -EPROTO },                 /* no zero at the end */
		{ LIT("A\0"), -EPROTO },                 /* no '=' */
		{ LIT("=b\0"), -EPROTO },                /* no key */
		{ LIT("1A=b\0"), -EPROTO },              /* begins with a digit */
		{ LIT("A b=c\0"), -EPROTO },             /* blank in the key */
		{ LIT("A\xc3\xa4=c\0"), -EPROTO },       /* not ASCII */
		{ LIT("\0\0A=b\0\0\0"), 1 },
		{ LIT("iSCSIProtocolLevel=1\0"), 1 },
		{ LIT("X#NodeArchitecture=x\0"), 1 },
		{ LIT("X-com.example.do_it=3\0"), 1 },
		{ LIT("\0\0"), 0 },
		{ LIT(""), 0 },
		/* a key of 63 characters is the longest */
		{ LIT("K23456789012345678901234567890123456789012345678901234567890123=\0"), 1 },
		{ LIT("K234567890123456789012345678901234567890123456789012345678901234=\0"), -EPROTO },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct iscsi_text t = { 0 };
		uint32_t pos = 0;
		char *k, *v;
		assert_int_equal(iscsi_text_add(&t, rows[i].text, rows[i].len), 0);
		assert_int_equal(iscsi_text_next(&t, &pos, &k, &v), rows[i].first);
		iscsi_text_free(&t);
	}
}

/* Proves that text never grows past LIM_LOGIN_TEXT, whichever way it grows, and that what was there stays. */
static void test_bounded(void **state)
{
	struct iscsi_text t = { 0 };
	char *big = malloc(LIM_LOGIN_TEXT + 1);

	memset(big, 'x', LIM_LOGIN_TEXT);
	big[LIM_LOGIN_TEXT] = 0;
	assert_int_equal(iscsi_text_add(&t, big, LIM_LOGIN_TEXT), 0);
	assert_int_equal(iscsi_text_add(&t, big, 1), -EMSGSIZE);
	assert_int_equal(iscsi_text_add(&t, big, UINT32_MAX), -EMSGSIZE);
	assert_int_equal(iscsi_text_put(&t, "A", "b"), -EMSGSIZE);
	assert_int_equal(t.len, LIM_LOGIN_TEXT);
	t.len = 0;
	assert_int_equal(iscsi_text_put(&t, "A", "%s", big), -EMSGSIZE);
	assert_int_equal(iscsi_text_put(&t, "A", "%u", 17), 0);
	assert_int_equal(t.len, 5);
	assert_memory_equal(t.buf, "A=17", 5);
	iscsi_text_free(&t);
	assert_null(t.buf);
	t.max = 2 * LIM_LOGIN_TEXT; /* our own lists may be longer */
	assert_int_equal(iscsi_text_add(&t, big, LIM_LOGIN_TEXT), 0);
	assert_int_equal(iscsi_text_add(&t, big, LIM_LOGIN_TEXT), 0);
	assert_int_equal(iscsi_text_add(&t, big, 1), -EMSGSIZE);
	iscsi_text_free(&t);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_anywhere),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
