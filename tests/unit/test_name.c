/* SPDX-License-Identifier: BSD-3-Clause
 * iSCSI names: form, case, length (RFC 7143 4.2.7). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "iscsi/login.h"

/* Proves which names pass, and what they become (4.2.7.2 to 4.2.7.6). NULL: refused. */
static void test_names(void **state)
{
	static const struct { const char *in, *out; } rows[] = {
		{ "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
			"iqn.2001-04.com.example:storage:diskarrays-sn-a8675309" },
		{ "iqn.2001-04.com.example", "iqn.2001-04.com.example" },
		{ "IQN.1991-05.com.Microsoft:WIN-BOX", "iqn.1991-05.com.microsoft:win-box" },
		{ "eui.02004567A425678D", "eui.02004567a425678d" },
		{ "naa.52004567BA64678D", "naa.52004567ba64678d" },
		{ "naa.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef" },
		/* 4.2.7.2, RFC 3722: capitals and forms of letters become one; what would need more than that is refused */
		{ "iqn.2001-04.com.example:\xc3\xa4", "iqn.2001-04.com.example:\xc3\xa4" },
		{ "iqn.2001-04.com.example:\xc3\x84", "iqn.2001-04.com.example:\xc3\xa4" },
		{ "iqn.2001-04.com.example:\xce\xa3\xcf\x82", "iqn.2001-04.com.example:\xcf\x83\xcf\x83" },
		{ "iqn.2001-04.com.example:\xd0\x96x", "iqn.2001-04.com.example:\xd0\xb6x" },
		{ "iqn.2001-04.com.example:\xc2\xaa-b", "iqn.2001-04.com.example:a-b" },
		{ "iqn.2001-04.com.example:\xe6\x97\xa5\xe6\x9c\xac", "iqn.2001-04.com.example:\xe6\x97\xa5\xe6\x9c\xac" },
		{ "iqn.2001-04.com.example:a\xcc\x88", NULL }, { "iqn.2001-04.com.example:\xef\xbc\xa1", NULL },
		{ "iqn.2001-04.com.example:\xe2\x80\x8b", NULL }, { "iqn.2001-04.com.example:\xd7\x90", NULL },
		{ "iqn.2001-04.com.example:\xf0\x9f\x98\x80", NULL }, { "iqn.2001-04.com.example:\xe3\x80\x82", NULL },
		{ "eui.0200456\xc2\xb2\xc2\xb2\x35\x36\x37\x38\x39\x61\x62\x63", NULL },
		{ "eui.", NULL }, { "naa.", NULL }, { "naa.52004567BA64678g", NULL }, { "EUI.02004567A425678D", "eui.02004567a425678d" },
		{ "iqn.2001-13.com.example", NULL }, { "iqn.2001-00.com.example", NULL },
		{ "iqn.2001-4.com.example", NULL }, { "iqn.01-04.com.example", NULL },
		{ "iqn.2001-04.", NULL }, { "iqn.2001-04", NULL }, { "iqn.", NULL }, { "iqn.2001-04.:x", NULL },
		{ "iqn.2001-04.com.example:a b", NULL }, { "iqn.2001-04.com.example:a_b", NULL },
		{ "iqn.2001-04.com.example:a/b", NULL }, { "iqn.2001-04.com.example:a\x7f", NULL },
		{ "iqn.2001-04.com.example:\xc3", NULL }, { "iqn.2001-04.com.example:\xc0\x80", NULL },
		{ "iqn.2001-04.com.example:\xed\xa0\x80", NULL }, { "iqn.2001-04.com.example:\xff", NULL },
		{ "eui.02004567A425678", NULL }, { "eui.02004567A425678DD", NULL }, { "eui.02004567A425678g", NULL },
		{ "naa.52004567BA64678", NULL }, { "naa.62004567BA64678D0123456789ABCDE", NULL },
		{ "host1", NULL }, { "", NULL },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char name[LIM_ISCSI_NAME + 1];
		const char *why = NULL;
		snprintf(name, sizeof(name), "%s", rows[i].in);
		assert_int_equal(iscsi_name_check(name, &why), rows[i].out ? 0 : -EINVAL);
		if (rows[i].out)
			assert_string_equal(name, rows[i].out);
		else
			assert_non_null(why);
	}
}

/* Proves the length limit: 223 bytes pass, 224 do not (4.2.7.1). */
static void test_length(void **state)
{
	char name[LIM_ISCSI_NAME + 2];
	const char *why;

	memset(name, 'a', sizeof(name));
	memcpy(name, "iqn.2001-04.com.example:", 24);
	name[223] = 0;
	assert_int_equal(iscsi_name_check(name, &why), 0);
	name[223] = 'a';
	name[224] = 0;
	assert_int_equal(iscsi_name_check(name, &why), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_length),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
