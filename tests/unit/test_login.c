/* SPDX-License-Identifier: BSD-3-Clause
 * The target's login phase as a function of requests: stages, statuses, CHAP, long texts (RFC 7143 6.3, 11.12, 11.13). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "iscsi/chap.h"
#include "iscsi/keys.h"

#define INI "InitiatorName=iqn.2001-04.com.example:host"
#define NAMES INI "|TargetName=iqn.2001-04.com.example:disk|SessionType=Normal"
#define DISCOVERY INI "|SessionType=Discovery"
#define SECRET "correct horse battery"

enum { T = 0x80, C = 0x40, SEC_OPER = 0x01, SEC_FFP = 0x03, OPER_FFP = 0x07, SEC = 0x00, OPER = 0x04 };

static uint8_t seed;

static void fixed_random(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = seed++;
}

struct rig {
	struct iscsi_login *l;
	struct iscsi_login_policy policy;
	struct iscsi_offer offer;
	uint8_t  bhs[ISCSI_BHS], rsp[ISCSI_BHS];
	char     text[LIM_LOGIN_TEXT + 1]; /* of the last response, pairs parted by '|' */
	uint32_t len;
	bool     answered;
	int      asked, admitted;
	uint16_t admit_status;
	uint16_t admit_tsih;
};

static const struct iscsi_chap_user users[] = { { .name = "alice", .secret = SECRET }, { .name = "bob", .secret = "another secret" },
	{ "carol", "the new secret", "the old secret", 1000 }, { "dora", "her new secret", "her old secret", 0 } };
static const struct iscsi_chap_user target_user = { .name = "storage", .secret = "the target's secret" };

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	seed = 0x31;
	iscsi_offer_defaults(&r->offer);
	r->policy = (struct iscsi_login_policy){ .target = "iqn.2001-04.com.example:disk", .tpgt = 7, .offer = &r->offer,
		.chap_algs = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 };
	r->l = iscsi_login_new(fixed_random);
	r->bhs[BHS_OPCODE] = ISCSI_LOGIN_REQ | OP_IMMEDIATE;
	memcpy(r->bhs + LOGIN_ISID, "\x80\x12\x34\x56\x00\x01", 6);
	put_be32(r->bhs + BHS_ITT, 0x11223344);
	put_be16(r->bhs + LOGIN_CID, 9);
	put_be32(r->bhs + BHS_CMD_SN, 123);
	r->admit_tsih = 0x4242;
	return r;
}

static void rig_free(struct rig *r)
{
	iscsi_login_free(r->l);
	free(r);
}

static struct rig *rig_chap(bool mutual)
{
	struct rig *r = rig_new();

	r->policy.users = users;
	r->policy.nusers = sizeof(users) / sizeof(users[0]);
	if (mutual)
		r->policy.mutual = &target_user;
	return r;
}

static void take_response(struct rig *r)
{
	const void *data;

	r->len = 0;
	r->answered = iscsi_login_tx(r->l, r->rsp, &data, &r->len);
	if (!r->answered)
		r->len = 0;
	else
		assert_int_equal(bhs_data_len(r->rsp), r->len);
	for (uint32_t i = 0; i < r->len; i++)
		r->text[i] = ((const char *)data)[i] ? ((const char *)data)[i] : '|';
	r->text[r->len] = 0;
}

/* Feeds one request and plays the host. */
static enum iscsi_login_next feed(struct rig *r, uint8_t flags, const void *data, uint32_t len)
{
	r->bhs[BHS_FLAGS] = flags;
	put_be24(r->bhs + BHS_DATA_LEN, len);
	enum iscsi_login_next next = iscsi_login_rx(r->l, r->bhs, data, len);
	if (next == ISCSI_LOGIN_ASK) {
		r->asked++;
		next = iscsi_login_policy(r->l, &r->policy);
	}
	if (next == ISCSI_LOGIN_ADMIT) {
		r->admitted++;
		next = iscsi_login_admit(r->l, r->admit_status, r->admit_tsih, 123, 123 + 31);
	}
	take_response(r);
	return next;
}

/* Text with pairs parted by '|'. */
static enum iscsi_login_next send(struct rig *r, uint8_t flags, const char *text)
{
	size_t len = strlen(text);
	char *data = calloc(1, len + 1);

	for (size_t i = 0; i < len; i++)
		data[i] = text[i] == '|' ? 0 : text[i];
	enum iscsi_login_next next = feed(r, flags, data, len ? (uint32_t)len + 1 : 0);
	free(data);
	return next;
}

static unsigned status(const struct rig *r)
{
	return be16(r->rsp + LOGIN_CLASS);
}

static const char *value(struct rig *r, const char *key)
{
	static char v[2200];
	const char *p = r->text;
	size_t n = strlen(key);

	while (*p) {
		size_t len = strcspn(p, "|");
		if (!strncmp(p, key, n) && p[n] == '=') {
			snprintf(v, sizeof(v), "%.*s", (int)(len - n - 1), p + n + 1);
			return v;
		}
		p += len + (p[len] == '|');
	}
	return "(absent)";
}

#define expect_refused(r, next, want) \
	do { \
		enum iscsi_login_next next_ = (next); \
		if (next_ != ISCSI_LOGIN_FAIL || !(r)->answered || status(r) != (want)) \
			fail_msg("next %d status %04x why '%s'", next_, status(r), iscsi_login_why((r)->l)); \
		assert_true(iscsi_login_why((r)->l)[0]); \
		assert_int_equal((r)->admitted, 0); \
		assert_int_equal((r)->rsp[BHS_FLAGS], 0); \
	} while (0)

/* Proves the shortest login: operational stage, all in one request and one response (6.3.1), and every header
 * field of the final response (11.13). */
static void test_one_exchange(void **state)
{
	struct rig *r = rig_new();

	assert_int_equal(send(r, T | OPER_FFP, NAMES "|HeaderDigest=None|MaxRecvDataSegmentLength=65536"), ISCSI_LOGIN_DONE);
	assert_true(r->answered);
	assert_int_equal(r->rsp[BHS_OPCODE], ISCSI_LOGIN_RSP);
	assert_int_equal(r->rsp[BHS_FLAGS], T | OPER_FFP);
	assert_int_equal(be16(r->rsp + 2), 0); /* versions */
	assert_memory_equal(r->rsp + LOGIN_ISID, r->bhs + LOGIN_ISID, 6);
	assert_int_equal(be16(r->rsp + LOGIN_TSIH), 0x4242);
	assert_int_equal(be32(r->rsp + BHS_ITT), 0x11223344);
	assert_int_equal(be32(r->rsp + BHS_EXP_CMD_SN), 123);
	assert_int_equal(be32(r->rsp + BHS_MAX_CMD_SN), 154);
	assert_int_equal(be32(r->rsp + BHS_STAT_SN) + 1, iscsi_login_stat_sn(r->l));
	assert_int_equal(status(r), LOGIN_OK);
	assert_string_equal(value(r, "TargetPortalGroupTag"), "7");
	assert_string_equal(value(r, "HeaderDigest"), "None");
	assert_string_equal(value(r, "MaxRecvDataSegmentLength"), "1048576");
	assert_int_equal(iscsi_login_params(r->l)->max_xmit_segment, 65536);
	assert_int_equal(iscsi_login_params(r->l)->max_recv_segment, 1048576);
	assert_string_equal(iscsi_login_params(r->l)->initiator, "iqn.2001-04.com.example:host");
	assert_string_equal(iscsi_login_params(r->l)->target, "iqn.2001-04.com.example:disk");
	assert_int_equal(iscsi_login_cid(r->l), 9);
	assert_int_equal(iscsi_login_tsih(r->l), 0);
	assert_int_equal(iscsi_login_cmd_sn(r->l), 123);
	assert_null(iscsi_login_user(r->l));
	rig_free(r);
}

/* Proves both stages, StatSN that grows by one, TSIH only in the final response, TargetPortalGroupTag only in the
 * first, alias (6.3.1, 11.13.3, 11.13.4, 13.6, 13.9). */
static void test_two_stages(void **state)
{
	struct rig *r = rig_new();

	r->policy.alias = "a fast disk";
	assert_int_equal(send(r, T | SEC_OPER, NAMES "|AuthMethod=CHAP,None"), ISCSI_LOGIN_MORE);
	uint32_t sn = be32(r->rsp + BHS_STAT_SN);
	assert_int_equal(r->rsp[BHS_FLAGS], T | SEC_OPER);
	assert_string_equal(value(r, "AuthMethod"), "None");
	assert_string_equal(value(r, "TargetAlias"), "a fast disk");
	assert_string_equal(value(r, "TargetPortalGroupTag"), "7");
	assert_int_equal(be16(r->rsp + LOGIN_TSIH), 0);
	assert_int_equal(be32(r->rsp + BHS_MAX_CMD_SN), 123);
	assert_int_equal(send(r, OPER, "InitialR2T=No"), ISCSI_LOGIN_MORE);
	assert_int_equal(r->rsp[BHS_FLAGS], OPER);
	assert_int_equal(be32(r->rsp + BHS_STAT_SN), sn + 1);
	assert_string_equal(value(r, "TargetPortalGroupTag"), "(absent)");
	assert_int_equal(r->admitted, 0);
	assert_int_equal(send(r, T | OPER_FFP, "ImmediateData=Yes"), ISCSI_LOGIN_DONE);
	assert_int_equal(be32(r->rsp + BHS_STAT_SN), sn + 2);
	assert_int_equal(be16(r->rsp + LOGIN_TSIH), 0x4242);
	assert_string_equal(value(r, "MaxRecvDataSegmentLength"), "(absent)"); /* declared one response earlier */
	assert_int_equal(r->asked, 1);
	rig_free(r);
}

/* Proves that a login may skip the operational stage, and may consist of the names alone (6.3). */
static void test_security_only(void **state)
{
	struct rig *r = rig_new();

	assert_int_equal(send(r, SEC, NAMES), ISCSI_LOGIN_MORE);
	assert_int_equal(r->rsp[BHS_FLAGS], SEC);
	assert_int_equal(send(r, T | SEC_FFP, ""), ISCSI_LOGIN_DONE);
	assert_int_equal(r->rsp[BHS_FLAGS], T | SEC_FFP);
	assert_int_equal(iscsi_login_params(r->l)->max_recv_segment, 8192);
	rig_free(r);
}

/* Proves a discovery session: no TargetName, session keys irrelevant (13.21, 4.3). */
static void test_discovery(void **state)
{
	struct rig *r = rig_new();

	r->policy.target = NULL;
	assert_int_equal(send(r, T | OPER_FFP, "InitialR2T=No|DefaultTime2Wait=2|" DISCOVERY), ISCSI_LOGIN_DONE);
	assert_string_equal(value(r, "InitialR2T"), "Irrelevant");
	assert_string_equal(value(r, "DefaultTime2Wait"), "2");
	assert_true(iscsi_login_params(r->l)->discovery);
	rig_free(r);
}

/* Proves which first requests are refused, and with which status (11.13.5). */
static void test_refused_first(void **state)
{
	static const struct { uint8_t flags; const char *text; unsigned status; } rows[] = {
		{ T | OPER_FFP, "TargetName=iqn.2001-04.com.example:disk", LOGIN_MISSING_PARAM },
		{ T | OPER_FFP, INI, LOGIN_MISSING_PARAM },
		{ T | OPER_FFP, "", LOGIN_MISSING_PARAM },
		{ T | OPER_FFP, "InitiatorName=|SessionType=Discovery", LOGIN_INITIATOR_ERROR },
		{ T | OPER_FFP, "InitiatorName=host|SessionType=Discovery", LOGIN_INITIATOR_ERROR },
		{ T | OPER_FFP, INI "|TargetName=disk", LOGIN_NOT_FOUND },
		{ T | OPER_FFP, NAMES "|" INI, LOGIN_INITIATOR_ERROR },
		{ T | OPER_FFP, INI "|SessionType=Odd", LOGIN_BAD_SESSION_TYPE },
		{ T | OPER_FFP, NAMES "|AuthMethod=None", LOGIN_INITIATOR_ERROR },
		{ T | SEC_OPER, NAMES "|HeaderDigest=None", LOGIN_INITIATOR_ERROR },
		{ T | SEC_OPER, NAMES "|AuthMethod=CHAP", LOGIN_AUTH_FAILED }, /* nobody to authenticate as */
		{ T | SEC_OPER, NAMES "|CHAP_A=5", LOGIN_AUTH_FAILED },
		{ T | OPER_FFP, "rubbish", LOGIN_INITIATOR_ERROR },
		{ T | OPER_FFP, NAMES "|HeaderDigest=SHA", LOGIN_INITIATOR_ERROR },
		{ T | C | OPER_FFP, NAMES, LOGIN_INITIATOR_ERROR },      /* T and C */
		{ T | 0x0b, NAMES, LOGIN_INITIATOR_ERROR },              /* CSG 2 */
		{ T | 0x0f, NAMES, LOGIN_INITIATOR_ERROR },              /* CSG 3 */
		{ T | 0x06, NAMES, LOGIN_INITIATOR_ERROR },              /* NSG 2 */
		{ T | 0x00, NAMES, LOGIN_INITIATOR_ERROR },              /* NSG = CSG */
		{ T | 0x05, NAMES, LOGIN_INITIATOR_ERROR },
		{ T | 0x04, NAMES, LOGIN_INITIATOR_ERROR },              /* NSG before CSG */
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rig *r = rig_new();
		expect_refused(r, send(r, rows[i].flags, rows[i].text), rows[i].status);
		/* and nothing revives it */
		assert_int_equal(send(r, T | OPER_FFP, NAMES), ISCSI_LOGIN_FAIL);
		assert_false(r->answered);
		rig_free(r);
	}
}

/* Proves the version rule: the range must hold 0 (11.12.4). */
static void test_version(void **state)
{
	struct rig *r = rig_new();

	r->bhs[LOGIN_VERSION_MAX] = 2;
	r->bhs[LOGIN_VERSION_MIN] = 1;
	expect_refused(r, send(r, T | OPER_FFP, NAMES), LOGIN_BAD_VERSION);
	assert_int_equal(r->rsp[LOGIN_VERSION_ACTIVE], 0);
	rig_free(r);
	r = rig_new();
	r->bhs[LOGIN_VERSION_MAX] = 2;
	assert_int_equal(send(r, T | OPER_FFP, NAMES), ISCSI_LOGIN_DONE);
	rig_free(r);
}

/* Proves that a request other than Login ends the connection: without a word before the first Login Request, with
 * "invalid during login" after it (6.3). */
static void test_other_request(void **state)
{
	struct rig *r = rig_new();

	r->bhs[BHS_OPCODE] = ISCSI_NOP_OUT;
	assert_int_equal(send(r, 0x80, ""), ISCSI_LOGIN_FAIL);
	assert_false(r->answered);
	rig_free(r);
	r = rig_new();
	assert_int_equal(send(r, SEC, NAMES), ISCSI_LOGIN_MORE);
	r->bhs[BHS_OPCODE] = ISCSI_TEXT_REQ;
	expect_refused(r, send(r, 0x80, ""), LOGIN_INVALID_REQUEST);
	rig_free(r);
}

/* Proves that what identifies a login may not change in its midst (11.12.4 to 11.12.8). */
static void test_identity_kept(void **state)
{
	static const int at[] = { LOGIN_VERSION_MAX, LOGIN_VERSION_MIN, LOGIN_ISID, LOGIN_ISID + 5, LOGIN_TSIH, LOGIN_TSIH + 1,
		BHS_ITT, BHS_ITT + 3, LOGIN_CID, LOGIN_CID + 1, BHS_CMD_SN, BHS_CMD_SN + 3 };

	for (size_t i = 0; i < ARRAY_LEN(at); i++) {
		struct rig *r = rig_new();
		assert_int_equal(send(r, SEC, NAMES), ISCSI_LOGIN_MORE);
		r->bhs[at[i]] ^= 1;
		expect_refused(r, send(r, T | SEC_OPER, ""), LOGIN_INITIATOR_ERROR);
		rig_free(r);
	}
}

/* Proves that stages are left in order only (6.3): CSG must be the stage agreed on, a stage is not entered twice. */
static void test_stage_order(void **state)
{
	static const uint8_t second[] = { T | SEC_OPER, SEC, T | SEC_FFP };

	for (size_t i = 0; i < ARRAY_LEN(second); i++) {
		struct rig *r = rig_new();
		assert_int_equal(send(r, T | SEC_OPER, NAMES), ISCSI_LOGIN_MORE);
		expect_refused(r, send(r, second[i], ""), LOGIN_INITIATOR_ERROR);
		rig_free(r);
	}
	struct rig *r = rig_new();
	assert_int_equal(send(r, SEC, NAMES), ISCSI_LOGIN_MORE);
	expect_refused(r, send(r, T | OPER_FFP, ""), LOGIN_INITIATOR_ERROR); /* not agreed */
	rig_free(r);
	r = rig_new();
	assert_int_equal(send(r, T | OPER_FFP, NAMES), ISCSI_LOGIN_DONE);
	assert_int_equal(send(r, T | OPER_FFP, NAMES), ISCSI_LOGIN_FAIL);
	rig_free(r);
}

/* Proves that names are declared once and a key is negotiated once over the whole login (6.3, 13.4, 13.5). */
static void test_declared_twice(void **state)
{
	static const char *const again[] = { INI, "TargetName=iqn.2001-04.com.example:disk", "SessionType=Normal",
		"HeaderDigest=None" };

	for (size_t i = 0; i < ARRAY_LEN(again); i++) {
		struct rig *r = rig_new();
		assert_int_equal(send(r, OPER, NAMES "|HeaderDigest=None"), ISCSI_LOGIN_MORE);
		expect_refused(r, send(r, T | OPER_FFP, again[i]), LOGIN_INITIATOR_ERROR);
		rig_free(r);
	}
}

/* Proves that a status of the host is passed on: by policy, by admission, and a redirection carries its address. */
static void test_host_refuses(void **state)
{
	static const uint16_t policy[] = { LOGIN_FORBIDDEN, LOGIN_NOT_FOUND, LOGIN_REMOVED, LOGIN_BAD_SESSION_TYPE,
		LOGIN_TARGET_ERROR, LOGIN_UNAVAILABLE, LOGIN_NO_RESOURCES };
	static const uint16_t admit[] = { LOGIN_TOO_MANY_CONNS, LOGIN_CANT_INCLUDE, LOGIN_NO_SESSION, LOGIN_NO_RESOURCES };
	struct rig *r;

	for (size_t i = 0; i < ARRAY_LEN(policy); i++) {
		r = rig_new();
		r->policy.status = policy[i];
		expect_refused(r, send(r, T | OPER_FFP, NAMES), policy[i]);
		rig_free(r);
	}
	for (size_t i = 0; i < ARRAY_LEN(admit); i++) {
		r = rig_new();
		r->admit_status = admit[i];
		assert_int_equal(send(r, T | OPER_FFP, NAMES), ISCSI_LOGIN_FAIL);
		assert_int_equal(status(r), admit[i]);
		rig_free(r);
	}
	for (uint16_t s = LOGIN_MOVED_TEMP; s <= LOGIN_MOVED_PERM; s++) {
		r = rig_new();
		r->policy.status = s;
		r->policy.redirect = "10.0.0.2:3260";
		expect_refused(r, send(r, T | OPER_FFP, NAMES), s);
		assert_string_equal(r->text, "TargetAddress=10.0.0.2:3260|");
		rig_free(r);
	}
}

/* Proves that a later connection names its session and may not renegotiate it (6.3.1, use: LO). */
static void test_joining(void **state)
{
	struct rig *r = rig_new();

	put_be16(r->bhs + LOGIN_TSIH, 0x77);
	r->admit_tsih = 0x77;
	assert_int_equal(send(r, OPER, NAMES "|MaxBurstLength=512|DataDigest=CRC32C"), ISCSI_LOGIN_MORE);
	assert_string_equal(value(r, "MaxBurstLength"), "Irrelevant");
	assert_string_equal(value(r, "DataDigest"), "CRC32C");
	assert_int_equal(be16(r->rsp + LOGIN_TSIH), 0x77);
	put_be32(r->bhs + BHS_CMD_SN, 130); /* other connections moved on: 11.12.8 */
	assert_int_equal(send(r, T | OPER_FFP, ""), ISCSI_LOGIN_DONE);
	assert_int_equal(iscsi_login_tsih(r->l), 0x77);
	rig_free(r);
}

/* ---- long texts --------------------------------------------------------------------------------------------- */

/* Proves that a text cut at every byte by the C bit gives the same answer, each part being answered with an empty
 * response (6.1, 6.2). */
static void test_split_at_every_byte(void **state)
{
	static const char text[] = "InitiatorName=iqn.2001-04.com.example:host\0TargetName=iqn.2001-04.com.example:disk\0"
		"SessionType=Normal\0InitialR2T=No\0FirstBurstLength=4096\0X-com.example.a=1";
	struct rig *whole = rig_new();

	assert_int_equal(feed(whole, T | OPER_FFP, text, sizeof(text)), ISCSI_LOGIN_DONE);
	for (uint32_t cut = 0; cut <= sizeof(text); cut++) {
		struct rig *r = rig_new();
		assert_int_equal(feed(r, C | OPER, text, cut), ISCSI_LOGIN_MORE);
		assert_int_equal(r->len, 0);
		assert_int_equal(r->rsp[BHS_FLAGS], OPER);
		assert_int_equal(r->asked, 0);
		assert_int_equal(feed(r, T | OPER_FFP, text + cut, (uint32_t)sizeof(text) - cut), ISCSI_LOGIN_DONE);
		assert_string_equal(r->text, whole->text);
		rig_free(r);
	}
	rig_free(whole);
}

/* Proves that a response longer than 8192 bytes goes out in parts with the C bit, T only with the last one, and that
 * text instead of an empty request between them is an error (6.2, 11.13.7). */
static void test_long_response(void **state)
{
	struct rig *r = rig_new();
	char text[3 * 8192], seen[4 * 8192] = "";
	size_t n = (size_t)snprintf(text, sizeof(text), "%s", NAMES);

	while (n < 7500)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "|K%zu=", n);
	enum iscsi_login_next next = send(r, T | OPER_FFP, text);
	int parts = 1;
	while (next == ISCSI_LOGIN_MORE) {
		assert_int_equal(r->rsp[BHS_FLAGS], C | OPER);
		assert_int_equal(r->len, 8192);
		strcat(seen, r->text);
		parts++;
		next = feed(r, T | OPER_FFP, "", 0);
	}
	assert_int_equal(next, ISCSI_LOGIN_DONE);
	assert_int_equal(r->rsp[BHS_FLAGS], T | OPER_FFP);
	strcat(seen, r->text);
	assert_true(parts >= 2);
	assert_non_null(strstr(seen, "=NotUnderstood|MaxRecvDataSegmentLength="));
	rig_free(r);

	r = rig_new();
	assert_int_equal(send(r, T | OPER_FFP, text), ISCSI_LOGIN_MORE);
	expect_refused(r, send(r, T | OPER_FFP, "InitialR2T=No"), LOGIN_INITIATOR_ERROR);
	rig_free(r);

	/* the initiator withdraws its T bit: the last part agrees to nothing */
	r = rig_new();
	assert_int_equal(send(r, T | OPER_FFP, text), ISCSI_LOGIN_MORE);
	while (r->rsp[BHS_FLAGS] & C)
		assert_int_equal(feed(r, OPER, "", 0), ISCSI_LOGIN_MORE);
	assert_int_equal(r->rsp[BHS_FLAGS], OPER);
	assert_int_equal(r->admitted, 0);
	assert_int_equal(send(r, T | OPER_FFP, ""), ISCSI_LOGIN_DONE);
	rig_free(r);
}

/* Proves the bounds of a login: 8192 bytes a request, LIM_LOGIN_TEXT in all, LIM_LOGIN_PDUS requests. */
static void test_bounds(void **state)
{
	static char big[8193];
	struct rig *r = rig_new();

	memset(big, 'x', sizeof(big));
	memcpy(big, "Xx=", 3);
	expect_refused(r, feed(r, C | OPER, big, 8193), LOGIN_INITIATOR_ERROR);
	rig_free(r);

	r = rig_new();
	for (int i = 0; i < LIM_LOGIN_TEXT / 8192; i++)
		assert_int_equal(feed(r, C | OPER, big, 8192), ISCSI_LOGIN_MORE);
	expect_refused(r, feed(r, C | OPER, big, 1), LOGIN_INITIATOR_ERROR);
	rig_free(r);

	r = rig_new();
	assert_int_equal(send(r, SEC, NAMES), ISCSI_LOGIN_MORE);
	for (int i = 1; i < LIM_LOGIN_PDUS; i++)
		assert_int_equal(send(r, SEC, ""), ISCSI_LOGIN_MORE);
	expect_refused(r, send(r, SEC, ""), LOGIN_INITIATOR_ERROR);
	rig_free(r);

	/* an answer that would grow past the bound */
	r = rig_new();
	char *many = malloc(8192);
	for (int i = 0; i < 8190; i += 3)
		memcpy(many + i, "A=", 3);
	assert_int_equal(feed(r, C | OPER, many, 8190), ISCSI_LOGIN_MORE);
	enum iscsi_login_next next = ISCSI_LOGIN_MORE;
	for (int i = 0; i < 2 && next == ISCSI_LOGIN_MORE; i++)
		next = feed(r, C | OPER, many, 8190);
	expect_refused(r, send(r, T | OPER_FFP, NAMES), LOGIN_INITIATOR_ERROR);
	free(many);
	rig_free(r);
}

/* ---- CHAP ---------------------------------------------------------------------------------------------------- */

static void chap_answer(struct rig *r, char *out, size_t room, const char *name, const char *secret)
{
	uint8_t challenge[CHAP_CHALLENGE_MAX], digest[CHAP_DIGEST_MAX];
	int alg = atoi(value(r, "CHAP_A")), id = atoi(value(r, "CHAP_I"));
	int len = chap_decode(value(r, "CHAP_C"), challenge, sizeof(challenge));
	char hex[2 + 2 * CHAP_DIGEST_MAX + 1];

	assert_true(len > 0);
	assert_int_equal(chap_response(alg, (uint8_t)id, secret, challenge, (size_t)len, digest), 0);
	chap_encode_hex(digest, chap_digest_len(alg), hex);
	snprintf(out, room, "CHAP_N=%s|CHAP_R=%s", name, hex);
}

/* Runs a login up to the challenge. */
static void to_challenge(struct rig *r, const char *algs)
{
	char text[64];

	assert_int_equal(send(r, T | SEC_OPER, NAMES "|AuthMethod=CHAP,None"), ISCSI_LOGIN_MORE);
	assert_int_equal(r->rsp[BHS_FLAGS], SEC);
	assert_string_equal(value(r, "AuthMethod"), "CHAP");
	snprintf(text, sizeof(text), "CHAP_A=%s", algs);
	assert_int_equal(send(r, T | SEC_OPER, text), ISCSI_LOGIN_MORE);
	assert_int_equal(r->rsp[BHS_FLAGS], SEC);
}

/* Proves one-way CHAP with every algorithm, chosen by the initiator's order within what is allowed (12.1.3). */
static void test_chap(void **state)
{
	static const struct { const char *offer; unsigned mask; const char *chosen; } rows[] = {
		{ "5", 0x1e0, "5" }, { "6", 0x1e0, "6" }, { "7", 0x1e0, "7" }, { "8", 0x1e0, "8" }, { "8,7,6,5", 0x1e0, "8" },
		{ "5,6,7,8", 1 << 7, "7" }, { "99,56,0x6", 0x1e0, "6" }, { "4294967301,7", 0x1e0, "7" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rig *r = rig_chap(false);
		char answer[256];
		r->policy.chap_algs = rows[i].mask;
		to_challenge(r, rows[i].offer);
		assert_string_equal(value(r, "CHAP_A"), rows[i].chosen);
		chap_answer(r, answer, sizeof(answer), "alice", SECRET);
		assert_int_equal(send(r, T | SEC_OPER, answer), ISCSI_LOGIN_MORE);
		assert_int_equal(r->rsp[BHS_FLAGS], T | SEC_OPER);
		assert_int_equal(r->len, 0);
		assert_string_equal(iscsi_login_user(r->l), "alice");
		assert_int_equal(send(r, T | OPER_FFP, ""), ISCSI_LOGIN_DONE);
		rig_free(r);
	}
}

/* Proves that each wrong way through CHAP ends in 0201 and never in admission. */
static void test_chap_refused(void **state)
{
	static const char *const first[] = {
		NAMES "|AuthMethod=None", NAMES "|AuthMethod=KRB5,SRP", NAMES "|AuthMethod=", NAMES "|AuthMethod=CHAPS",
	};
	static const char *const algs[] = { "CHAP_A=56", "CHAP_A=", "CHAP_A=4,9", "CHAP_A=5x", "CHAP_N=alice|CHAP_R=0x00",
		"AuthMethod=CHAP" };
	struct rig *r;

	for (size_t i = 0; i < ARRAY_LEN(first); i++) {
		r = rig_chap(false);
		enum iscsi_login_next next = send(r, T | SEC_OPER, first[i]);
		expect_refused(r, next, LOGIN_AUTH_FAILED);
		rig_free(r);
	}
	for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
		r = rig_chap(false);
		send(r, T | SEC_OPER, NAMES "|AuthMethod=CHAP,None");
		/* a key that comes twice is a protocol error before it is CHAP's */
		unsigned want = strncmp(algs[i], "Auth", 4) ? LOGIN_AUTH_FAILED : LOGIN_INITIATOR_ERROR;
		expect_refused(r, send(r, T | SEC_OPER, algs[i]), want);
		rig_free(r);
	}
	r = rig_chap(false);
	expect_refused(r, send(r, T | OPER_FFP, NAMES), LOGIN_AUTH_FAILED); /* skips the security stage */
	rig_free(r);
	r = rig_chap(false);
	assert_int_equal(send(r, T | SEC_FFP, NAMES), ISCSI_LOGIN_MORE);
	assert_string_equal(value(r, "AuthMethod"), "CHAP"); /* 6.3.2: directed by the target */
	assert_int_equal(r->rsp[BHS_FLAGS], SEC);
	expect_refused(r, send(r, T | SEC_FFP, ""), LOGIN_AUTH_FAILED);
	rig_free(r);
}

/* Proves what is wrong with a response is told to the log, and that the status does not differ. */
static void test_chap_wrong_answers(void **state)
{
	static const struct { const char *name, *secret, *literal, *why; } rows[] = {
		{ "alice", "wrong", NULL, "wrong secret for user 'alice'" },
		{ "alice", "another secret", NULL, "wrong secret for user 'alice'" },
		{ "mallory", SECRET, NULL, "user 'mallory' unknown" },
		{ "", SECRET, NULL, "user '' unknown" },
		{ "ALICE", SECRET, NULL, "user 'ALICE' unknown" },
		{ "mallory", "no such user", NULL, "user 'mallory' unknown" },
		{ "alice", "the target's secret", NULL, "user 'alice' has the target's own (mutual) secret" },
		{ NULL, NULL, "CHAP_N=alice|CHAP_R=", "CHAP_R of user 'alice' is malformed" },
		{ NULL, NULL, "CHAP_N=alice|CHAP_R=0xzz", "CHAP_R of user 'alice' is malformed" },
		{ NULL, NULL, "CHAP_N=alice|CHAP_R=0x00", "wrong secret for user 'alice'" },
		{ NULL, NULL, "CHAP_N=alice", "initiator sends no CHAP_R" },
		{ NULL, NULL, "CHAP_R=0x00", "initiator sends no CHAP_N" },
		{ NULL, NULL, "", "initiator sends no CHAP_N" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rig *r = rig_chap(true);
		char answer[256];
		to_challenge(r, "5");
		if (rows[i].secret)
			chap_answer(r, answer, sizeof(answer), rows[i].name, rows[i].secret);
		else
			snprintf(answer, sizeof(answer), "%s", rows[i].literal);
		expect_refused(r, send(r, T | SEC_OPER, answer), LOGIN_AUTH_FAILED);
		assert_string_equal(iscsi_login_why(r->l), rows[i].why);
		assert_null(iscsi_login_user(r->l));
		rig_free(r);
	}
}

/* Proves that a secret which is being replaced is taken until its time and not from it on, and that the log can tell. */
static void test_chap_rotation(void **state)
{
	static const struct { const char *name, *secret; int64_t now; bool pass, previous; } rows[] = {
		{ "carol", "the new secret", 999, true, false }, { "carol", "the new secret", 1000, true, false },
		{ "carol", "the old secret", 999, true, true }, { "carol", "the old secret", 1000, false, false },
		{ "carol", "her old secret", 999, false, false }, { "dora", "her old secret", 1 << 30, true, true },
		{ "bob", "the old secret", 0, false, false },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rig *r = rig_chap(false);
		char answer[256];
		r->policy.now_s = rows[i].now;
		to_challenge(r, "7");
		chap_answer(r, answer, sizeof(answer), rows[i].name, rows[i].secret);
		enum iscsi_login_next next = send(r, T | SEC_OPER, answer);
		if (rows[i].pass)
			assert_int_equal(next, ISCSI_LOGIN_MORE);
		else
			expect_refused(r, next, LOGIN_AUTH_FAILED);
		assert_int_equal(iscsi_login_previous(r->l), rows[i].previous);
		if (i == 3)
			assert_string_equal(iscsi_login_why(r->l),
				"user 'carol' has the previous secret, which is no longer valid");
		rig_free(r);
	}
}

/* Proves that nothing from the peer can break a log line: neither in the reason nor in names that are kept. */
static void test_log_lines_whole(void **state)
{
	struct rig *r = rig_chap(false);
	char answer[256];

	to_challenge(r, "5");
	chap_answer(r, answer, sizeof(answer), "eve\n<6>login \"ok\"", SECRET);
	expect_refused(r, send(r, T | SEC_OPER, answer), LOGIN_AUTH_FAILED);
	assert_string_equal(iscsi_login_why(r->l), "user 'eve?<6>login ?ok?' unknown");
	rig_free(r);
	r = rig_new();
	expect_refused(r, send(r, T | OPER_FFP, "InitiatorName=a\nb|SessionType=Discovery"), LOGIN_INITIATOR_ERROR);
	assert_string_equal(iscsi_login_params(r->l)->initiator, "");
	rig_free(r);
	r = rig_new();
	assert_int_equal(send(r, T | OPER_FFP, NAMES "|InitiatorAlias=a\nb\x7f"), ISCSI_LOGIN_DONE);
	assert_string_equal(iscsi_login_params(r->l)->initiator_alias, "a?b?");
	rig_free(r);
}

/* Proves that a response with bytes after the right digest is as wrong as any. */
static void test_chap_longer_answer(void **state)
{
	struct rig *r = rig_chap(false);
	char answer[256];

	to_challenge(r, "5");
	chap_answer(r, answer, sizeof(answer), "alice", SECRET);
	strcat(answer, "00");
	expect_refused(r, send(r, T | SEC_OPER, answer), LOGIN_AUTH_FAILED);
	rig_free(r);
}

/* Proves mutual CHAP: our answer to the initiator's challenge, in hex and base64, lengths 1 to 1024 (12.1.3). The
 * expected digest is computed here from the other side's view of the same formula. */
static void test_chap_mutual(void **state)
{
	static const struct { const char *chap_c; size_t len; uint8_t bytes[4]; } rows[] = {
		{ "0x01", 1, { 1 } }, { "0x01020304", 4, { 1, 2, 3, 4 } }, { "0bAQIDBA==", 4, { 1, 2, 3, 4 } },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rig *r = rig_chap(true);
		char answer[256], text[512], hex[2 + 2 * CHAP_DIGEST_MAX + 1];
		uint8_t digest[CHAP_DIGEST_MAX];
		to_challenge(r, "7");
		chap_answer(r, answer, sizeof(answer), "bob", "another secret");
		snprintf(text, sizeof(text), "%s|CHAP_I=255|CHAP_C=%s", answer, rows[i].chap_c);
		assert_int_equal(send(r, T | SEC_OPER, text), ISCSI_LOGIN_MORE);
		assert_int_equal(r->rsp[BHS_FLAGS], T | SEC_OPER);
		assert_string_equal(value(r, "CHAP_N"), "storage");
		chap_response(7, 255, "the target's secret", rows[i].bytes, rows[i].len, digest);
		chap_encode_hex(digest, 32, hex);
		assert_string_equal(value(r, "CHAP_R"), hex);
		rig_free(r);
	}
}

/* Proves what a mutual exchange refuses: reflection, half a challenge, bad values, and absence where it is
 * required (9.2.1). */
static void test_chap_mutual_refused(void **state)
{
	static char long_hex[2 + 2 * 1025 + 1];
	static const struct { const char *more; bool mutual; const char *why; } rows[] = {
		{ "CHAP_I=1|CHAP_C=(ours)", true, "initiator reflects the target's own challenge" },
		{ "CHAP_I=1", true, "initiator sends only one of CHAP_I and CHAP_C" },
		{ "CHAP_C=0x0102", true, "initiator sends only one of CHAP_I and CHAP_C" },
		{ "CHAP_I=256|CHAP_C=0x0102", true, "CHAP_I is no number from 0 to 255" },
		{ "CHAP_I=x|CHAP_C=0x0102", true, "CHAP_I is no number from 0 to 255" },
		{ "CHAP_I=1|CHAP_C=0x", true, "CHAP_C is malformed or longer than 1024 bytes" },
		{ "CHAP_I=1|CHAP_C=(long)", true, "CHAP_C is malformed or longer than 1024 bytes" },
		{ "CHAP_I=1|CHAP_C=0x01", false,
			"initiator asks the target to authenticate, but no mutual secret is configured" },
		{ "", true, "initiator does not ask the target to authenticate, which is required here" },
	};

	memset(long_hex, '7', sizeof(long_hex) - 1);
	memcpy(long_hex, "0x", 2);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rig *r = rig_chap(rows[i].mutual);
		char answer[256], ours[256], text[4096];
		r->policy.require_mutual = rows[i].mutual;
		to_challenge(r, "5");
		snprintf(ours, sizeof(ours), "%s", value(r, "CHAP_C"));
		chap_answer(r, answer, sizeof(answer), "alice", SECRET);
		const char *mark = strchr(rows[i].more, '(');
		int keep = mark ? (int)(mark - rows[i].more) : (int)strlen(rows[i].more);
		snprintf(text, sizeof(text), "%s%s%.*s%s", answer, keep ? "|" : "", keep, rows[i].more,
			!mark ? "" : mark[1] == 'o' ? ours : long_hex);
		expect_refused(r, send(r, T | SEC_OPER, text), LOGIN_AUTH_FAILED);
		assert_string_equal(iscsi_login_why(r->l), rows[i].why);
		rig_free(r);
	}
}

/* Proves that two logins get different challenges and that an answer to one does not fit the other. */
static void test_chap_replay(void **state)
{
	struct rig *a = rig_chap(false), *b;
	char answer[256];

	to_challenge(a, "5");
	chap_answer(a, answer, sizeof(answer), "alice", SECRET);
	rig_free(a);
	b = rig_chap(false);
	seed = 0x90;
	to_challenge(b, "5");
	expect_refused(b, send(b, T | SEC_OPER, answer), LOGIN_AUTH_FAILED);
	rig_free(b);
}

/* Proves that discovery is authenticated like any session. */
static void test_chap_discovery(void **state)
{
	struct rig *r = rig_chap(false);
	char answer[256];

	expect_refused(r, send(r, T | OPER_FFP, DISCOVERY), LOGIN_AUTH_FAILED);
	rig_free(r);
	r = rig_chap(false);
	assert_int_equal(send(r, SEC, DISCOVERY "|AuthMethod=CHAP"), ISCSI_LOGIN_MORE);
	assert_int_equal(send(r, SEC, "CHAP_A=5"), ISCSI_LOGIN_MORE);
	chap_answer(r, answer, sizeof(answer), "alice", SECRET);
	assert_int_equal(send(r, T | SEC_FFP, answer), ISCSI_LOGIN_DONE);
	rig_free(r);
}

/* Proves that AuthMethod may come in a later request than the names, and that silence without T is no refusal. */
static void test_auth_later(void **state)
{
	struct rig *r = rig_chap(false);

	assert_int_equal(send(r, SEC, NAMES), ISCSI_LOGIN_MORE);
	assert_string_equal(value(r, "AuthMethod"), "(absent)");
	assert_int_equal(send(r, SEC, "AuthMethod=CHAP"), ISCSI_LOGIN_MORE);
	assert_string_equal(value(r, "AuthMethod"), "CHAP");
	rig_free(r);
	r = rig_new();
	assert_int_equal(send(r, SEC, NAMES), ISCSI_LOGIN_MORE);
	assert_int_equal(send(r, T | SEC_OPER, "AuthMethod=None"), ISCSI_LOGIN_MORE);
	assert_string_equal(value(r, "AuthMethod"), "None");
	rig_free(r);
	r = rig_chap(false);
	assert_int_equal(send(r, T | SEC_OPER, NAMES), ISCSI_LOGIN_MORE);
	assert_string_equal(value(r, "AuthMethod"), "CHAP");
	assert_int_equal(send(r, SEC, "AuthMethod=CHAP"), ISCSI_LOGIN_MORE); /* an answer, needs none */
	assert_string_equal(value(r, "AuthMethod"), "(absent)");
	assert_int_equal(send(r, SEC, "CHAP_A=5"), ISCSI_LOGIN_MORE);
	assert_string_equal(value(r, "CHAP_A"), "5");
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_exchange),
		cmocka_unit_test(test_two_stages),
		cmocka_unit_test(test_security_only),
		cmocka_unit_test(test_discovery),
		cmocka_unit_test(test_refused_first),
		cmocka_unit_test(test_version),
		cmocka_unit_test(test_other_request),
		cmocka_unit_test(test_identity_kept),
		cmocka_unit_test(test_stage_order),
		cmocka_unit_test(test_declared_twice),
		cmocka_unit_test(test_host_refuses),
		cmocka_unit_test(test_joining),
		cmocka_unit_test(test_split_at_every_byte),
		cmocka_unit_test(test_long_response),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_chap),
		cmocka_unit_test(test_chap_refused),
		cmocka_unit_test(test_chap_rotation),
		cmocka_unit_test(test_chap_wrong_answers),
		cmocka_unit_test(test_log_lines_whole),
		cmocka_unit_test(test_chap_longer_answer),
		cmocka_unit_test(test_chap_mutual),
		cmocka_unit_test(test_chap_mutual_refused),
		cmocka_unit_test(test_chap_replay),
		cmocka_unit_test(test_chap_discovery),
		cmocka_unit_test(test_auth_later),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
