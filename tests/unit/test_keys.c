/* SPDX-License-Identifier: BSD-3-Clause
 * The key table of RFC 7143 sections 12 and 13: every key, every rule, both roles. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "iscsi/keys.h"

enum { SEC = ISCSI_IN_SECURITY, OPER = ISCSI_IN_OPERATIONAL, FFP = ISCSI_IN_FULL_FEATURE };
enum { DISCOVERY = 1, JOINING = 2, STRICT = 4 }; /* kind of session; STRICT: digests required */

struct rig {
	struct iscsi_offer offer;
	struct iscsi_params params;
	struct iscsi_keys keys;
	struct iscsi_text in, out;
};

static void rig_init(struct rig *r, uint8_t role, uint8_t stage, int kind)
{
	*r = (struct rig){ 0 };
	iscsi_offer_defaults(&r->offer);
	r->offer.require_header_digest = r->offer.require_data_digest = kind & STRICT;
	iscsi_params_defaults(&r->params);
	r->params.discovery = kind & DISCOVERY;
	iscsi_keys_init(&r->keys, role, &r->offer, &r->params);
	r->keys.stage = stage;
	r->keys.leading = !(kind & JOINING);
}

static void rig_fini(struct rig *r)
{
	iscsi_text_free(&r->in);
	iscsi_text_free(&r->out);
}

/* One text, pairs parted by '|'. out gets the answer in the same form. */
static int give(struct rig *r, const char *text, char *out, size_t room)
{
	r->in.len = r->out.len = 0;
	for (const char *p = text; *p; p++)
		iscsi_text_add(&r->in, *p == '|' ? "" : p, 1);
	if (*text)
		iscsi_text_add(&r->in, "", 1);
	int ret = iscsi_keys_rx(&r->keys, &r->in, &r->out);
	size_t n = 0;
	for (uint32_t i = 0; i < r->out.len && n + 1 < room; i++)
		out[n++] = r->out.buf[i] ? r->out.buf[i] : '|';
	out[n ? n - 1 : 0] = 0;
	return ret;
}

/* Proves what a target answers to each key that an initiator may propose or declare, by the rule of its section;
 * NULL: a protocol error. Our side's wishes are iscsi_offer_defaults(). */
static void test_target_answers(void **state)
{
	static const struct { int kind; uint8_t stage; const char *text, *answer; } rows[] = {
		/* 13.1: first of the proposer's list */
		{ 0, OPER, "HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C" },
		{ 0, OPER, "HeaderDigest=None,CRC32C", "HeaderDigest=None" },
		{ 0, OPER, "DataDigest=Y-com.example.md9,CRC32C", "DataDigest=CRC32C" },
		{ 0, OPER, "DataDigest=None", "DataDigest=None" },
		{ 0, OPER, "DataDigest=crc32c", NULL },
		{ 0, OPER, "HeaderDigest=", NULL },
		{ STRICT, OPER, "HeaderDigest=None,CRC32C", "HeaderDigest=CRC32C" },
		{ STRICT, OPER, "HeaderDigest=None", NULL },
		{ DISCOVERY, OPER, "HeaderDigest=CRC32C", "HeaderDigest=CRC32C" },
		/* 13.2 minimum; our 1 */
		{ 0, OPER, "MaxConnections=9", "MaxConnections=8" },
		{ 0, OPER, "MaxConnections=1", "MaxConnections=1" },
		{ 0, OPER, "MaxConnections=0", "MaxConnections=Reject" },
		{ 0, OPER, "MaxConnections=65536", "MaxConnections=Reject" },
		{ DISCOVERY, OPER, "MaxConnections=8", "MaxConnections=Irrelevant" },
		{ JOINING, OPER, "MaxConnections=1", "MaxConnections=Irrelevant" },
		/* 13.10 or; our No */
		{ 0, OPER, "InitialR2T=Yes", "InitialR2T=Yes" },
		{ 0, OPER, "InitialR2T=No", "InitialR2T=No" },
		{ 0, OPER, "InitialR2T=yes", "InitialR2T=Reject" },
		{ DISCOVERY, OPER, "InitialR2T=No", "InitialR2T=Irrelevant" },
		/* 13.11 and; our Yes */
		{ 0, OPER, "ImmediateData=Yes", "ImmediateData=Yes" },
		{ 0, OPER, "ImmediateData=No", "ImmediateData=No" },
		{ DISCOVERY, OPER, "ImmediateData=No", "ImmediateData=Irrelevant" },
		/* 13.12 declared */
		{ 0, OPER, "MaxRecvDataSegmentLength=512", "" },
		{ 0, OPER, "MaxRecvDataSegmentLength=16777215", "" },
		{ 0, OPER, "MaxRecvDataSegmentLength=0x10000", "" },
		{ 0, OPER, "MaxRecvDataSegmentLength=511", NULL },
		{ 0, OPER, "MaxRecvDataSegmentLength=16777216", NULL },
		{ 0, OPER, "MaxRecvDataSegmentLength=", NULL },
		{ 0, FFP, "MaxRecvDataSegmentLength=4096", "" },
		/* 13.13 minimum; our 1 MiB */
		{ 0, OPER, "MaxBurstLength=16776192", "MaxBurstLength=1048576" },
		{ 0, OPER, "MaxBurstLength=262144", "MaxBurstLength=262144" },
		{ 0, OPER, "MaxBurstLength=511", "MaxBurstLength=Reject" },
		{ 0, OPER, "MaxBurstLength=16777216", "MaxBurstLength=Reject" },
		{ 0, OPER, "MaxBurstLength=512~4096", "MaxBurstLength=Reject" },
		/* 13.14 minimum; our 256 KiB, never above MaxBurstLength, irrelevant without unsolicited data */
		{ 0, OPER, "FirstBurstLength=65536", "FirstBurstLength=65536" },
		{ 0, OPER, "FirstBurstLength=16777215", "FirstBurstLength=262144" },
		{ 0, OPER, "FirstBurstLength=262144|MaxBurstLength=131072", "MaxBurstLength=131072|FirstBurstLength=131072" },
		{ 0, OPER, "FirstBurstLength=4192|InitialR2T=Yes|ImmediateData=No",
			"InitialR2T=Yes|ImmediateData=No|FirstBurstLength=Irrelevant" },
		/* 13.15 maximum; our 2 */
		{ 0, OPER, "DefaultTime2Wait=0", "DefaultTime2Wait=2" },
		{ 0, OPER, "DefaultTime2Wait=3600", "DefaultTime2Wait=3600" },
		{ 0, OPER, "DefaultTime2Wait=3601", "DefaultTime2Wait=Reject" },
		{ DISCOVERY, OPER, "DefaultTime2Wait=20", "DefaultTime2Wait=20" },
		/* 13.16 minimum; our 0 */
		{ 0, OPER, "DefaultTime2Retain=20", "DefaultTime2Retain=0" },
		{ 0, OPER, "DefaultTime2Retain=3601", "DefaultTime2Retain=Reject" },
		/* 13.17 minimum; our 32 */
		{ 0, OPER, "MaxOutstandingR2T=1", "MaxOutstandingR2T=1" },
		{ 0, OPER, "MaxOutstandingR2T=65535", "MaxOutstandingR2T=32" },
		{ 0, OPER, "MaxOutstandingR2T=0", "MaxOutstandingR2T=Reject" },
		/* 13.18, 13.19 or; our Yes */
		{ 0, OPER, "DataPDUInOrder=No", "DataPDUInOrder=Yes" },
		{ 0, OPER, "DataSequenceInOrder=No", "DataSequenceInOrder=No" },
		{ 0, OPER, "DataSequenceInOrder=Yes", "DataSequenceInOrder=Yes" },
		/* 13.20 minimum; our 0 */
		{ 0, OPER, "ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0" },
		{ 0, OPER, "ErrorRecoveryLevel=3", "ErrorRecoveryLevel=Reject" },
		/* 13.23 first of the list that we do */
		{ 0, OPER, "TaskReporting=FastAbort,ResponseFence,RFC3720", "TaskReporting=FastAbort" },
		{ 0, OPER, "TaskReporting=RFC3720,ResponseFence", "TaskReporting=RFC3720" },
		{ 0, OPER, "TaskReporting=X-other,ResponseFence,RFC3720", "TaskReporting=ResponseFence" },
		{ 0, OPER, "TaskReporting=Fast", "TaskReporting=Reject" },
		{ DISCOVERY, OPER, "TaskReporting=RFC3720", "TaskReporting=Irrelevant" },
		/* 13.24, RFC 7144 7.1.1 minimum; our 2 */
		{ 0, OPER, "iSCSIProtocolLevel=3", "iSCSIProtocolLevel=2" },
		{ 0, OPER, "iSCSIProtocolLevel=0", "iSCSIProtocolLevel=0" },
		{ 0, OPER, "iSCSIProtocolLevel=32", "iSCSIProtocolLevel=Reject" },
		{ DISCOVERY, OPER, "iSCSIProtocolLevel=1", "iSCSIProtocolLevel=Irrelevant" },
		/* 13.25 */
		{ 0, OPER, "IFMarker=Yes|OFMarker=No", "IFMarker=Reject|OFMarker=No" },
		{ 0, OPER, "IFMarkInt=1~2048|OFMarkInt=64", "IFMarkInt=Reject|OFMarkInt=Reject" },
		/* 13.26, 13.22, and keys nobody knows */
		{ 0, OPER, "X#NodeArchitecture=ExampleOS/1", "" },
		{ 0, OPER, "X-com.example.do=1|Foo=bar", "X-com.example.do=NotUnderstood|Foo=NotUnderstood" },
		{ 0, SEC, "X-com.example.do=1", "X-com.example.do=NotUnderstood" },
		{ 0, FFP, "Foo=bar", "Foo=NotUnderstood" },
		{ 0, OPER, "Foo=NotUnderstood", "" },
		{ 0, OPER, "maxconnections=1", "maxconnections=NotUnderstood" },
		/* 13.7 */
		{ 0, SEC, "InitiatorAlias=Web Server 4", "" },
		{ 0, FFP, "InitiatorAlias=Web Server 4", "" },
		/* order of the answers is the order asked */
		{ 0, OPER, "ErrorRecoveryLevel=0|MaxConnections=1|InitialR2T=No",
			"ErrorRecoveryLevel=0|MaxConnections=1|InitialR2T=No" },
		/* stage rules, 6.3 */
		{ 0, SEC, "HeaderDigest=None", NULL }, { 0, SEC, "MaxRecvDataSegmentLength=8192", NULL },
		{ 0, OPER, "AuthMethod=None", NULL }, { 0, OPER, "CHAP_A=5", NULL }, { 0, OPER, "SendTargets=All", NULL },
		{ 0, SEC, "SendTargets=All", NULL }, { 0, FFP, "HeaderDigest=None", NULL },
		{ 0, FFP, "MaxBurstLength=512", NULL },
		{ 0, FFP, "AuthMethod=None", NULL }, { 0, FFP, "TargetName=iqn.2001-04.com.example", NULL },
		/* keys that only a target may send */
		{ 0, OPER, "TargetAlias=x", NULL }, { 0, OPER, "TargetPortalGroupTag=1", NULL },
		{ 0, OPER, "TargetAddress=a", NULL },
		/* 6.2: twice, and reserved words as proposals */
		{ 0, OPER, "InitialR2T=No|InitialR2T=No", NULL }, { 0, OPER, "MaxConnections=Reject", NULL },
		{ 0, OPER, "MaxConnections=NotUnderstood", NULL }, { 0, OPER, "HeaderDigest=Irrelevant", NULL },
		{ 0, OPER, "not a pair", NULL },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct rig r;
		char out[512];
		rig_init(&r, ISCSI_AS_TARGET, rows[i].stage, rows[i].kind);
		int ret = give(&r, rows[i].text, out, sizeof(out));
		if (ret != (rows[i].answer ? 0 : -EPROTO) || (rows[i].answer && strcmp(out, rows[i].answer)))
			fail_msg("%s: got %d '%s' (%s)", rows[i].text, ret, out, r.keys.why);
		if (!rows[i].answer)
			assert_true(r.keys.status >= 0x0200 && r.keys.why[0]);
		rig_fini(&r);
	}
}

/* Proves that what was negotiated is what the parameters say, and that a rejected value leaves the default. */
static void test_results(void **state)
{
	struct rig r;
	char out[512];

	rig_init(&r, ISCSI_AS_TARGET, OPER, 0);
	assert_int_equal(give(&r, "HeaderDigest=CRC32C|DataDigest=None|InitialR2T=Yes|ImmediateData=No|"
		"MaxRecvDataSegmentLength=65536|MaxBurstLength=300000|MaxOutstandingR2T=4|DefaultTime2Wait=9|"
		"FirstBurstLength=511|TaskReporting=ResponseFence|InitiatorAlias=me", out, sizeof(out)), 0);
	assert_int_equal(iscsi_keys_finish(&r.keys), 0);
	assert_int_equal(r.params.header_digest, ISCSI_DIGEST_CRC32C);
	assert_int_equal(r.params.data_digest, ISCSI_DIGEST_NONE);
	assert_true(r.params.initial_r2t);
	assert_false(r.params.immediate_data);
	assert_int_equal(r.params.max_xmit_segment, 65536);
	assert_int_equal(r.params.max_recv_segment, 8192); /* we have declared nothing yet */
	assert_int_equal(r.params.max_burst, 300000);
	assert_int_equal(r.params.first_burst, 65536);
	assert_int_equal(r.params.max_r2t, 4);
	assert_int_equal(r.params.time2wait, 9);
	assert_int_equal(r.params.time2retain, 20);
	assert_true(r.params.response_fence);
	assert_string_equal(r.params.initiator_alias, "me");
	rig_fini(&r);
}

/* Proves the integrity rules at the end (6.2, 13.14, required digests). */
static void test_finish(void **state)
{
	struct rig r;
	char out[512];

	rig_init(&r, ISCSI_AS_TARGET, OPER, 0);
	give(&r, "MaxBurstLength=512", out, sizeof(out)); /* FirstBurstLength left at its default */
	assert_int_equal(iscsi_keys_finish(&r.keys), 0);
	assert_int_equal(r.params.first_burst, 512);
	rig_fini(&r);

	rig_init(&r, ISCSI_AS_TARGET, OPER, 0);
	give(&r, "FirstBurstLength=65536", out, sizeof(out));
	give(&r, "MaxBurstLength=512", out, sizeof(out));
	assert_int_equal(iscsi_keys_finish(&r.keys), -EPROTO);
	rig_fini(&r);

	rig_init(&r, ISCSI_AS_TARGET, OPER, STRICT);
	assert_int_equal(iscsi_keys_finish(&r.keys), -EPROTO);
	give(&r, "HeaderDigest=CRC32C", out, sizeof(out));
	assert_int_equal(iscsi_keys_finish(&r.keys), -EPROTO);
	give(&r, "DataDigest=CRC32C", out, sizeof(out));
	assert_int_equal(iscsi_keys_finish(&r.keys), 0);
	rig_fini(&r);
}

/* Proves that the defaults are those of section 13. */
static void test_defaults(void **state)
{
	struct iscsi_params p;

	iscsi_params_defaults(&p);
	assert_int_equal(p.max_connections, 1);
	assert_true(p.initial_r2t);
	assert_true(p.immediate_data);
	assert_int_equal(p.max_recv_segment, 8192);
	assert_int_equal(p.max_xmit_segment, 8192);
	assert_int_equal(p.max_burst, 262144);
	assert_int_equal(p.first_burst, 65536);
	assert_int_equal(p.time2wait, 2);
	assert_int_equal(p.time2retain, 20);
	assert_int_equal(p.max_r2t, 1);
	assert_true(p.pdu_in_order);
	assert_true(p.sequence_in_order);
	assert_int_equal(p.erl, 0);
	assert_int_equal(p.protocol_level, 1);
	assert_int_equal(p.header_digest, ISCSI_DIGEST_NONE);
	assert_true(p.task_reporting_rfc3720);
}

/* Proves that the initiator's offer, answered by our own target, leaves both ends with the same parameters. */
static void test_both_ends_agree(void **state)
{
	for (int kind = 0; kind <= DISCOVERY; kind++) {
		struct rig i, t;
		rig_init(&i, ISCSI_AS_INITIATOR, OPER, kind);
		rig_init(&t, ISCSI_AS_TARGET, OPER, kind);
		i.offer.max_burst = 200000;
		i.offer.first_burst = 100000;
		i.offer.max_r2t = 7;
		i.offer.data_digest = false;
		t.offer.immediate_data = false;
		t.offer.initial_r2t = true;
		assert_int_equal(iscsi_keys_offer(&i.keys, &i.out), 0);
		assert_int_equal(iscsi_keys_rx(&t.keys, &i.out, &t.out), 0);
		assert_int_equal(iscsi_keys_declare(&t.keys, &t.out), 0);
		i.in.len = 0;
		assert_int_equal(iscsi_text_add(&i.in, t.out.buf, t.out.len), 0);
		i.out.len = 0;
		assert_int_equal(iscsi_keys_rx(&i.keys, &i.in, &i.out), 0);
		assert_int_equal(i.out.len, 0);
		assert_int_equal(iscsi_keys_finish(&i.keys), 0);
		assert_int_equal(iscsi_keys_finish(&t.keys), 0);
		assert_memory_equal(&i.params, &t.params, sizeof(i.params));
		if (!kind) {
			assert_int_equal(i.params.max_burst, 200000);
			assert_int_equal(i.params.first_burst, 65536); /* irrelevant: no unsolicited data */
			assert_int_equal(i.params.max_r2t, 7);
			assert_int_equal(i.params.header_digest, ISCSI_DIGEST_CRC32C);
			assert_int_equal(i.params.data_digest, ISCSI_DIGEST_NONE);
			assert_false(i.params.immediate_data);
		}
		rig_fini(&i);
		rig_fini(&t);
	}
}

/* Proves that an initiator takes every answer that the rule allows and refuses the others (6.2.2). */
static void test_initiator_takes(void **state)
{
	static const struct { const char *answer; bool ok; } rows[] = {
		{ "MaxBurstLength=512", true }, { "MaxBurstLength=1048576", true }, { "MaxBurstLength=1048577", false },
		{ "MaxBurstLength=Reject", true }, { "MaxBurstLength=Irrelevant", true }, { "MaxBurstLength=511", false },
		{ "DefaultTime2Wait=5", true }, { "DefaultTime2Wait=1", false },
		{ "InitialR2T=Yes", true }, { "InitialR2T=No", true }, { "ImmediateData=No", true },
		{ "DataPDUInOrder=Yes", true }, { "DataPDUInOrder=No", false },
		{ "HeaderDigest=CRC32C", true }, { "HeaderDigest=None", true }, { "HeaderDigest=MD9", false },
		{ "TaskReporting=FastAbort", true }, { "TaskReporting=Fast", false },
		{ "iSCSIProtocolLevel=NotUnderstood", true }, { "iSCSIProtocolLevel=2", true }, { "iSCSIProtocolLevel=3", false },
		{ "MaxRecvDataSegmentLength=262144", true }, { "MaxRecvDataSegmentLength=17", false },
		{ "TargetPortalGroupTag=1", true }, { "TargetPortalGroupTag=65536", false }, { "TargetAlias=a disk", true },
		{ "InitiatorName=iqn.2001-04.com.example", false }, { "SendTargets=All", false },
		{ "MaxConnections=1|MaxConnections=1", false },
		{ "TargetAddress=10.0.0.1|TargetAddress=10.0.0.2", true },
	};

	for (size_t n = 0; n < ARRAY_LEN(rows); n++) {
		struct rig r;
		char out[512];
		rig_init(&r, ISCSI_AS_INITIATOR, OPER, 0);
		assert_int_equal(iscsi_keys_offer(&r.keys, &r.out), 0);
		int ret = give(&r, rows[n].answer, out, sizeof(out));
		if (ret != (rows[n].ok ? 0 : -EPROTO))
			fail_msg("%s: got %d (%s)", rows[n].answer, ret, r.keys.why);
		rig_fini(&r);
	}
}

/* Proves that a text request changes nothing when any part of it is wrong (6.4), and hands SendTargets on. */
static void test_text_request(void **state)
{
	struct iscsi_params p;
	struct iscsi_offer o;
	struct iscsi_text in = { 0 }, out = { 0 };
	struct iscsi_negotiation n;
	const char *send_targets = NULL;

	iscsi_offer_defaults(&o);
	iscsi_params_defaults(&p);
	iscsi_text_put(&in, "MaxRecvDataSegmentLength", "4096");
	iscsi_text_put(&in, "HeaderDigest", "CRC32C");
	iscsi_text_begin(&n, &p, &o);
	assert_int_equal(iscsi_text_negotiate(&n, &in, &out, &send_targets), -EPROTO);
	assert_int_equal(p.max_xmit_segment, 8192);

	in.len = out.len = 0;
	iscsi_text_put(&in, "MaxRecvDataSegmentLength", "4096");
	iscsi_text_put(&in, "SendTargets", "All");
	iscsi_text_begin(&n, &p, &o);
	assert_int_equal(iscsi_text_negotiate(&n, &in, &out, &send_targets), 0);
	assert_int_equal(n.now.max_xmit_segment, 4096);
	assert_int_equal(p.max_xmit_segment, 8192); /* until the exchange is over */
	assert_string_equal(send_targets, "All");
	assert_int_equal(out.len, 0);
	iscsi_text_free(&in);
	iscsi_text_free(&out);
}

/* Proves which requests for targets are passed on, and how, and which are refused (appendix C). NULL: refused. */
static void test_send_targets(void **state)
{
	static const struct { const char *key, *value, *asked; } rows[] = {
		{ "SendTargets", "All", "All" }, { "SendTargets", "", "" },
		{ "SendTargets", "iqn.2001-04.com.example:Disk", "iqn.2001-04.com.example:disk" },
		{ "SendTargets", "Alle", NULL }, { "SendTargets", "A", NULL }, { "SendTargets", "all", NULL },
		{ "SendTargetsPlease", "All", NULL }, { "sENDtARGETS", "aLL", NULL },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct iscsi_params p;
		struct iscsi_offer o;
		struct iscsi_text in = { 0 }, out = { 0 };
		struct iscsi_negotiation n;
		const char *asked = NULL;
		iscsi_offer_defaults(&o);
		iscsi_params_defaults(&p);
		iscsi_text_put(&in, rows[i].key, "%s", rows[i].value);
		iscsi_text_begin(&n, &p, &o);
		assert_int_equal(iscsi_text_negotiate(&n, &in, &out, &asked), rows[i].asked ? 0 : -EPROTO);
		if (rows[i].asked)
			assert_string_equal(asked, rows[i].asked);
		iscsi_text_free(&in);
		iscsi_text_free(&out);
	}
}

/* Proves how numbers and lists are read (6.1). */
static void test_values(void **state)
{
	static const struct { const char *text; int r; uint64_t v; } rows[] = {
		{ "0", 0, 0 }, { "17", 0, 17 }, { "0x1F", 0, 31 }, { "0Xff", 0, 255 },
		{ "18446744073709551615", 0, UINT64_MAX }, { "18446744073709551616", -EINVAL, 0 },
		{ "", -EINVAL, 0 }, { "0x", -EINVAL, 0 }, { "-1", -EINVAL, 0 }, { "1 ", -EINVAL, 0 }, { "0b17", -EINVAL, 0 },
		{ "a", -EINVAL, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t v = 0;
		assert_int_equal(iscsi_number(rows[i].text, &v), rows[i].r);
		assert_int_equal(v, rows[i].v);
	}
	assert_true(iscsi_list_has("CHAP", "CHAP"));
	assert_true(iscsi_list_has("KRB5,CHAP", "CHAP"));
	assert_false(iscsi_list_has("CHAPS,xCHAP", "CHAP"));
	assert_false(iscsi_list_has("", "CHAP"));
	assert_true(iscsi_list_has(",,None", "None"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_target_answers),
		cmocka_unit_test(test_results),
		cmocka_unit_test(test_finish),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_both_ends_agree),
		cmocka_unit_test(test_initiator_takes),
		cmocka_unit_test(test_text_request),
		cmocka_unit_test(test_send_targets),
		cmocka_unit_test(test_values),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
