/* SPDX-License-Identifier: BSD-3-Clause
 * Who may use a target and which portals a client is told: the rules by themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "net/impl.h"

static union addr address(const char *text)
{
	union addr a = { 0 };
	struct err e = { 0 };

	assert_int_equal(addr_parse(text, 3260, &a, &e), 0);
	return a;
}

/* Proves which texts are ranges of addresses, and which addresses lie in them. */
static void test_ranges(void **state)
{
	static const struct { const char *range, *in, *out; } rows[] = {
		{ "192.0.2.0/24", "192.0.2.255", "192.0.3.0" }, { "192.0.2.7", "192.0.2.7", "192.0.2.8" },
		{ "10.128.0.0/9", "10.255.0.1", "10.127.0.1" }, { "0.0.0.0/0", "203.0.113.9", "[2001:db8::1]" },
		{ "2001:db8::/32", "[2001:db8:ffff::1]", "[2001:db9::1]" }, { "::1", "[::1]", "127.0.0.1" },
		{ "::/0", "192.0.2.1", NULL }, { "2001:db8::/33", "[2001:db8:7fff::]", "[2001:db8:8000::]" },
	};
	static const char *const bad[] = { "", "/24", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/x", "2001:db8::/129", "host",
		"192.0.2", "192.0.2.0/24x", "192.0.2.0/-1", "192.0.2.0/ 1", "192.0.2.0/99999999999999999999", "2001:db8:::1" };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct net_range range;
		struct net_rules r = { .clients = &range, .nclients = 1 };
		struct net_conn c = { .peer = address(rows[i].in) };
		assert_int_equal(net_range_parse(rows[i].range, &range), 0);
		assert_true(access_allows(&r, &c));
		if (!rows[i].out)
			continue;
		c.peer = address(rows[i].out);
		assert_false(access_allows(&r, &c));
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct net_range range;
		assert_true(net_range_parse(bad[i], &range) < 0);
	}
}

/* Proves that names match whole, or by their beginning where the rule ends in a star. */
static void test_names(void **state)
{
	static const struct { const char *rule, *name; bool may; } rows[] = {
		{ "iqn.2026-01.test:a", "iqn.2026-01.test:a", true }, { "iqn.2026-01.test:a", "iqn.2026-01.test:ab", false },
		{ "iqn.2026-01.test:*", "iqn.2026-01.test:ab", true }, { "iqn.2026-01.test:*", "iqn.2026-01.other:a", false },
		{ "*", "eui.0123456789abcdef", true },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *rule = (char *)rows[i].rule;
		struct net_rules r = { .initiators = &rule, .ninitiators = 1 };
		struct net_conn c = { .peer = address("192.0.2.1") };
		snprintf(c.msg.initiator, sizeof(c.msg.initiator), "%s", rows[i].name);
		assert_int_equal(access_allows(&r, &c), rows[i].may);
	}
}

/* Proves that discovery which knows the user shows the targets of that user and those that need none. */
static void test_users(void **state)
{
	struct iscsi_chap_user alice = { .name = "alice" };
	struct net_rules r = { .policy = { .users = &alice, .nusers = 1 } };
	struct net_target t = { .rules = &r };
	struct net_session s = { .user = "bob" };
	struct net_conn c = { .session = &s, .peer = address("192.0.2.1") };

	assert_false(access_shows(&t, &c));
	strcpy(s.user, "alice");
	assert_true(access_shows(&t, &c));
	strcpy(s.user, "");
	assert_true(access_shows(&t, &c)); /* it did not say who it is, and may be alice */
	strcpy(s.user, "bob");
	r.policy.nusers = 0;
	assert_true(access_shows(&t, &c));
}

/* Proves that a portal on the loopback interface is told to local clients only, unless it advertises another address. */
static void test_reach(void **state)
{
	struct net_portal p = { .addr = address("127.0.0.2") };
	struct net_conn c = { .local = address("192.0.2.1") };

	assert_false(access_reaches(&c, &p));
	snprintf(p.advertise, sizeof(p.advertise), "203.0.113.1:3260");
	assert_true(access_reaches(&c, &p));
	p.advertise[0] = 0;
	c.local = address("127.0.0.1");
	assert_true(access_reaches(&c, &p));
	c.local = address("192.0.2.1");
	p.addr = address("[::1]");
	assert_false(access_reaches(&c, &p));
	p.addr = address("0.0.0.0");
	assert_true(access_reaches(&c, &p));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges), cmocka_unit_test(test_names), cmocka_unit_test(test_users),
		cmocka_unit_test(test_reach),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
