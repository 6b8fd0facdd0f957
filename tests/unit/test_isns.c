/* SPDX-License-Identifier: BSD-3-Clause
 * iSNS client engine against a scripted name server in memory, RFC 4171. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "iscsi/isns.h"

#define S 1000000000ull
enum { HDR = 12, REG = 1, QRY = 2, DEREG = 4, SCN_REG = 5, SCN = 8, DD_REG = 9, ESI = 13, RSP = 0x8000 };

static const uint8_t local[16] = { [10] = 0xff, 0xff, 192, 0, 2, 7 };
static const uint16_t group2[] = { 2 };
static const struct isns_portal portals[] = {
	{ { [10] = 0xff, 0xff }, 3260, 1 }, { { [10] = 0xff, 0xff, 198, 51, 100, 1 }, 3261, 2 }, { { 0 }, 3262, 1 },
};
static const struct isns_target targets[] = {
	{ "iqn.2026-11.com.example:a", "alias", NULL, 0 }, { "iqn.2026-11.com.example:b", NULL, group2, 1 },
};
static const struct isns_entity whole = { "entity", "domain", portals, 3, targets, 2 };
static const struct isns_entity plain = { "entity", NULL, portals, 1, targets, 1 };

static struct isns *connected(const struct isns_entity *e, uint16_t event_port)
{
	struct isns *i = isns_new();

	assert_non_null(i);
	assert_int_equal(isns_set(i, e), 0);
	isns_connected(i, local, event_port, S);
	return i;
}

/* The next message that the client sends, put together; its function. */
static uint16_t take(struct isns *i, uint8_t *out, size_t room, size_t *ret_len, uint16_t *ret_xid)
{
	const uint8_t *p;
	size_t n = isns_tx(i, &p), at = 0, len = 0;
	uint16_t function = 0;

	assert_true(n >= HDR);
	for (bool last = false; !last; at += HDR + be16(p + at + 4)) {
		assert_true(at + HDR <= n && at + HDR + be16(p + at + 4) <= n);
		assert_int_equal(be16(p + at), 1);
		assert_true(be16(p + at + 6) & 0x8000);
		assert_int_equal(!!(be16(p + at + 6) & 0x400), at == 0);
		function = be16(p + at + 2);
		*ret_xid = be16(p + at + 8);
		last = be16(p + at + 6) & 0x800;
		assert_true(len + be16(p + at + 4) <= room);
		memcpy(out + len, p + at + HDR, be16(p + at + 4));
		len += be16(p + at + 4);
	}
	isns_tx_done(i, at);
	*ret_len = len;
	return function;
}

static uint16_t expect(struct isns *i, uint16_t function)
{
	uint8_t buf[4096];
	uint16_t xid;
	size_t len;

	assert_int_equal(take(i, buf, sizeof(buf), &len, &xid), function);
	return xid;
}

static void give(struct isns *i, uint16_t function, uint16_t xid, const void *p, size_t len)
{
	uint8_t buf[HDR + 512] = { 0 };

	put_be16(buf, 1);
	put_be16(buf + 2, function);
	put_be16(buf + 4, (uint16_t)len);
	put_be16(buf + 6, 0x4c00);
	put_be16(buf + 8, xid);
	memcpy(buf + HDR, p, len);
	for (size_t k = 0; k < HDR + len; k += 5) /* in pieces */
		isns_rx(i, buf + k, HDR + len - k < 5 ? HDR + len - k : 5);
}

static void status(struct isns *i, uint16_t function, uint16_t xid, uint32_t st)
{
	uint8_t raw[4];

	put_be32(raw, st);
	give(i, function | RSP, xid, raw, 4);
}

static void expect_event(struct isns *i, enum isns_event_kind kind, const char *text)
{
	struct isns_event ev;

	assert_true(isns_next(i, &ev));
	assert_int_equal(ev.kind, kind);
	if (text)
		assert_non_null(strstr(ev.text, text));
}

/* The value of the n-th attribute of this tag. */
static const uint8_t *find(const uint8_t *p, size_t len, uint32_t tag, unsigned n, uint32_t *ret_len)
{
	for (size_t at = 0; at + 8 <= len; at += 8 + be32(p + at + 4))
		if (be32(p + at) == tag && !n--) {
			*ret_len = be32(p + at + 4);
			return p + at + 8;
		}
	return NULL;
}

/* Proves that a registration names what RFC 4171 5.6.5.1 asks for: source, key, delimiter, entity, portals with their
 * ports for events only at the address that the name server reaches, nodes with their portal groups, and no tie between
 * a target and a portal of another group; wildcards of the other address family are left out. */
static void test_registration(void **state)
{
	struct isns *i = connected(&whole, 4000);
	uint8_t m[4096];
	uint32_t n;
	uint16_t xid;
	size_t len;

	assert_int_equal(take(i, m, sizeof(m), &len, &xid), REG);
	assert_int_equal(be32(m), 32);
	assert_string_equal((char *)m + 8, targets[0].name);
	assert_string_equal((char *)find(m, len, 1, 0, &n), "entity");
	assert_string_equal((char *)find(m, len, 1, 1, &n), "entity");
	assert_int_equal(be32(find(m, len, 2, 0, &n)), 2);
	assert_memory_equal(find(m, len, 16, 0, &n), local, 16);
	assert_memory_equal(find(m, len, 16, 1, &n), portals[1].addr, 16);
	assert_null(find(m, len, 16, 2, &n));
	assert_int_equal(be32(find(m, len, 20, 0, &n)), 4000);
	assert_null(find(m, len, 20, 1, &n));
	assert_int_equal(be32(find(m, len, 23, 0, &n)), 4000);
	assert_string_equal((char *)find(m, len, 32, 2, &n), targets[1].name);
	assert_int_equal(be32(find(m, len, 33, 1, &n)), 1);
	assert_string_equal((char *)find(m, len, 34, 0, &n), "alias");
	static const uint32_t tags[] = { 1, 2, 0, 2 }; /* 0: no value */
	for (unsigned k = 0; k < 4; k++) {
		const uint8_t *v = find(m, len, 51, k, &n);
		assert_int_equal(n ? be32(v) : 0, tags[k]);
	}
	isns_free(i);
}

/* Proves the order of the steps: registration, discovery domain (found, or made), notifications of each target; that a
 * refusal of the domain or of notifications is no failure, and that the end is one DevDereg. */
static void test_steps(void **state)
{
	static const uint8_t found[] = { 0, 0, 0, 0, 0, 0, 8, 17, 0, 0, 0, 4, 0, 0, 0, 9 };

	for (int there = 0; there < 2; there++) {
		struct isns *i = connected(&whole, 4000);
		uint8_t m[4096];
		uint32_t n;
		uint16_t xid;
		size_t len;
		status(i, REG, expect(i, REG), 0);
		xid = expect(i, QRY);
		if (there)
			give(i, QRY | RSP, xid, found, sizeof(found));
		else
			status(i, QRY, xid, 9);
		assert_int_equal(take(i, m, sizeof(m), &len, &xid), DD_REG);
		assert_int_equal(find(m, len, 2065, 0, &n) ? be32(find(m, len, 2065, 0, &n)) : 0, there ? 9 : 0);
		assert_string_equal((char *)find(m, len, 2068, 1, &n), targets[1].name);
		status(i, DD_REG, xid, there ? 3 : 0);
		if (there)
			expect_event(i, ISNS_EV_NO_DOMAIN, "'domain': invalid registration (status 3)");
		status(i, SCN_REG, expect(i, SCN_REG), 0);
		status(i, SCN_REG, expect(i, SCN_REG), 17);
		expect_event(i, ISNS_EV_REGISTERED, NULL);
		isns_leave(i);
		status(i, DEREG, expect(i, DEREG), 0);
		expect_event(i, ISNS_EV_LEFT, NULL);
		isns_free(i);
	}
}

/* Proves that the registration is refreshed within the period that the name server gave (6.2.6), and made anew when the
 * name server has forgotten it. */
static void test_refresh(void **state)
{
	static const uint8_t period[] = { 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 4, 0, 0, 0, 30 };
	struct isns *i = connected(&plain, 0);

	give(i, REG | RSP, expect(i, REG), period, sizeof(period));
	expect_event(i, ISNS_EV_REGISTERED, NULL);
	assert_int_equal(isns_tick(i, S), 11 * S);
	isns_tick(i, 11 * S);
	status(i, QRY, expect(i, QRY), 9);
	status(i, REG, expect(i, REG), 0);
	isns_free(i);
}

/* Proves that a refusal is told in words, a silent server is given up, and that neither an answer to something else nor
 * a second one moves anything. */
static void test_refusals(void **state)
{
	struct isns *i = connected(&plain, 0);
	const uint8_t *p;

	uint16_t xid = expect(i, REG);
	status(i, REG, (uint16_t)(xid + 1), 0);
	assert_int_equal(isns_tx(i, &p), 0);
	status(i, REG, xid, 8);
	expect_event(i, ISNS_EV_REFUSED, "source unauthorized (status 8)");
	isns_disconnected(i);
	isns_connected(i, local, 0, 20 * S);
	expect(i, REG);
	assert_int_equal(isns_tick(i, 25 * S), 30 * S);
	isns_tick(i, 30 * S);
	expect_event(i, ISNS_EV_REFUSED, "does not answer");
	isns_free(i);
}

/* Proves the answers that keep a registration alive: ESI with its own attributes (5.7.5.13), SCN with the destination
 * (5.7.5.8) and an event with the node that changed; anything else is not supported. */
static void test_questions(void **state)
{
	static const uint8_t esi[] = { 0, 0, 0, 4, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8 };
	static const uint8_t scn[] = { 0, 0, 0, 32, 0, 0, 0, 8, 'm', 'y', 's', 'e', 'l', 'f', 0, 0, 0, 0, 0, 35, 0, 0, 0, 4,
		0, 0, 0, 8, 0, 0, 0, 32, 0, 0, 0, 8, 'o', 't', '\n', 'e', 'r', 0, 0, 0 };
	struct isns *i = isns_new();
	uint8_t m[256];
	uint16_t xid;
	size_t len;

	isns_connected(i, local, 0, S);
	give(i, ESI, 77, esi, sizeof(esi));
	assert_int_equal(take(i, m, sizeof(m), &len, &xid), ESI | RSP);
	assert_int_equal(xid, 77);
	assert_int_equal(len, 4 + sizeof(esi));
	assert_int_equal(be32(m), 0);
	assert_memory_equal(m + 4, esi, sizeof(esi));
	give(i, SCN, 78, scn, sizeof(scn));
	assert_int_equal(take(i, m, sizeof(m), &len, &xid), SCN | RSP);
	assert_int_equal(len, 4 + 16);
	assert_memory_equal(m + 4, scn, 16);
	expect_event(i, ISNS_EV_CHANGED, "ot?er");
	give(i, 14, 79, "", 0);
	assert_int_equal(take(i, m, sizeof(m), &len, &xid), 14 | RSP);
	assert_int_equal(be32(m), 15);
	isns_free(i);
}

/* Proves that a change replaces the registration at once, or when what is under way has ended, and that an entity that
 * loses its last target, or its name, is deregistered under the old one. */
static void test_changes(void **state)
{
	struct isns_entity none = plain, other = plain;
	struct isns *i = connected(&plain, 0);
	uint8_t m[256];
	uint32_t n;
	uint16_t xid;
	size_t len;

	none.ntargets = 0;
	other.id = "another";
	xid = expect(i, REG);
	assert_int_equal(isns_set(i, &plain), 0);
	status(i, REG, xid, 0);
	status(i, REG, expect(i, REG), 0);
	expect_event(i, ISNS_EV_REGISTERED, NULL);
	assert_int_equal(isns_set(i, &other), 0);
	assert_int_equal(take(i, m, sizeof(m), &len, &xid), DEREG);
	assert_string_equal((char *)find(m, len, 1, 0, &n), "entity");
	status(i, DEREG, xid, 0);
	status(i, REG, expect(i, REG), 0);
	expect_event(i, ISNS_EV_REGISTERED, NULL);
	assert_int_equal(isns_set(i, &none), 0);
	status(i, DEREG, expect(i, DEREG), 0);
	const uint8_t *p;
	assert_int_equal(isns_tx(i, &p), 0);
	isns_leave(i);
	expect_event(i, ISNS_EV_LEFT, NULL);
	isns_free(i);
}

/* What the host is sending stays where it is, whatever is to be said meanwhile; that follows it. */
static void test_lent_bytes(void **state)
{
	struct isns *i = connected(&plain, 0);
	const uint8_t *p, *again;
	uint8_t was[4096], esi[400] = { 0, 0, 0, 4, 0, 0, 1, 0x88 };
	size_t n = isns_tx(i, &p);

	assert_true(n && n <= sizeof(was));
	memcpy(was, p, n);
	for (unsigned k = 0; k < 100; k++)
		give(i, ESI, (uint16_t)(500 + k), esi, sizeof(esi));
	assert_memory_equal(p, was, n);
	assert_int_equal(isns_tx(i, &again), n);
	assert_ptr_equal(again, p);
	expect(i, REG);
	for (unsigned k = 0; k < 100; k++)
		assert_int_equal(expect(i, ESI | RSP), 500 + k);
	assert_int_equal(isns_tx(i, &p), 0);
	isns_free(i);
}

/* Proves that a message longer than one PDU goes out and comes in as several (5.2), and that lengths of a hostile
 * server are bounded. */
static void test_long_messages(void **state)
{
	enum { MANY = 1000 };
	struct isns_target *t = calloc(MANY, sizeof(*t));
	struct isns_entity e = plain;
	struct isns *i;
	uint8_t *m = malloc(1 << 20), pdu[HDR + 60000] = { 0, 1, 0, 13, 0xea, 0x60, 0x44 };
	uint16_t xid;
	size_t len;

	for (unsigned k = 0; k < MANY; k++)
		t[k] = targets[0];
	e.targets = t;
	e.ntargets = MANY;
	i = connected(&e, 0);
	assert_int_equal(take(i, m, 1 << 20, &len, &xid), REG);
	assert_true(len > 65536);
	for (unsigned k = 0; k < 20; k++) {
		isns_rx(i, pdu, sizeof(pdu));
		pdu[6] = 0x40;
	}
	expect_event(i, ISNS_EV_REFUSED, "longer than 1 MiB");
	isns_free(i);
	free(m);
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_registration), cmocka_unit_test(test_steps), cmocka_unit_test(test_refresh),
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_questions), cmocka_unit_test(test_changes),
		cmocka_unit_test(test_long_messages), cmocka_unit_test(test_lent_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
