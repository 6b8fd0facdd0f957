/* SPDX-License-Identifier: BSD-3-Clause
 * Suite keys: what each key may be answered with (RFC 7143 6.1, 6.2, 13; RFC 7144 7.1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lunette/check/check.h"

/* One proposal and its legal answers: words and ranges "a..b" with '|' between; "-": no answer, "!": the login refused. */
struct row { const char *offer, *legal; };

static bool number_in(const char *v, const char *range)
{
	char *end;
	const char *dots = strstr(range, "..");

	if (!dots || !*v)
		return false;
	unsigned long long n = strtoull(v, &end, 0);
	return !*end && n >= strtoull(range, NULL, 10) && n <= strtoull(dots + 2, NULL, 10);
}

static bool legal(const char *v, bool fell, const char *words)
{
	char one[32];

	for (const char *at = words; *at; at += strcspn(at, "|") + (at[strcspn(at, "|")] == '|')) {
		snprintf(one, sizeof(one), "%.*s", (int)strcspn(at, "|"), at);
		if (fell ? !strcmp(one, "!") : !v ? !strcmp(one, "-") : !strcmp(one, v) || number_in(v, one))
			return true;
	}
	return false;
}

/* Offers that text alone (besides the names) in the operational stage; the answers are in c->text. false: the login fell. */
static bool offer(struct conn *c, const char *text)
{
	struct login_req l = { .itt = 1, .cmd_sn = c->s->cmd_sn, .text = text };
	struct pdu *p;

	login_security(c);
	c->ntext = 0;
	l.flags = LOGIN_STAY(CSG_OPERATIONAL);
	login_put(c, &l);
	p = login_get(c);
	for (unsigned i = 0; i < 8 && p && c->status == 0 && (p->h[1] & FLAG_CONTINUE); i++) {
		l.text = NULL;
		login_put(c, &l);
		p = login_get(c);
	}
	return p && c->status == 0;
}

static void rows(struct check *k, const struct row *r, unsigned n, bool disc)
{
	for (unsigned i = 0; i < n; i++) {
		struct conn *c = dial(k);
		char key[64];
		c->s->discovery = disc;
		bool fell = !offer(c, r[i].offer);
		snprintf(key, sizeof(key), "%.*s", (int)strcspn(r[i].offer, "="), r[i].offer);
		const char *v = fell ? NULL : answer(c, key);
		must(k, legal(v, fell, r[i].legal), "%.60s is answered with %s%.40s; legal: %s", r[i].offer,
			fell ? "a refused login" : v ? "" : "nothing", v ? v : "", r[i].legal);
		hang_up(c, false);
	}
}

#define KEYS(name_, clause_, what_, ...)                                          \
	CASE(keys, name_, clause_, 0, what_)                                      \
	{                                                                         \
		static const struct row table[] = { __VA_ARGS__ };                \
		rows(k, table, ARRAY_LEN(table), false);                          \
	}

KEYS(header_digest, "13.1, 6.2.1", "the first value of the list that it supports",
	{ "HeaderDigest=None", "None" }, { "HeaderDigest=None,CRC32C", "None" },
	{ "HeaderDigest=CRC32C,None", "CRC32C|None" })
KEYS(data_digest, "13.1, 6.2.1", "the first value of the list that it supports",
	{ "DataDigest=None", "None" }, { "DataDigest=None,CRC32C", "None" }, { "DataDigest=CRC32C,None", "CRC32C|None" })
KEYS(digest_must, "13.1", "CRC32C must be supported: offered alone it is taken",
	{ "HeaderDigest=CRC32C", "CRC32C" }, { "DataDigest=CRC32C", "CRC32C" })
KEYS(digest_unknown, "6.2.1, 13.1", "unknown digests are passed over; alone they are rejected or end the login",
	{ "HeaderDigest=MD5,None", "None" }, { "DataDigest=X-com.example.sum,None", "None" }, { "HeaderDigest=MD5",
	"Reject|!" },
	{ "DataDigest=X-com.example.sum", "Reject|!" })
KEYS(max_connections, "13.2, 6.2.2", "the minimum of both sides", { "MaxConnections=1", "1" },
	{ "MaxConnections=2", "1..2" }, { "MaxConnections=65535", "1..65535" })
KEYS(max_connections_illegal, "13.2, 6.2.2", "out of bounds: Reject, an admissible value, or the login's end",
	{ "MaxConnections=0", "Reject|1..65535|!" }, { "MaxConnections=65536", "Reject|1..65535|!" })
KEYS(initial_r2t, "13.10, 6.2.2", "OR", { "InitialR2T=Yes", "Yes|-" }, { "InitialR2T=No", "Yes|No" })
KEYS(immediate_data, "13.11, 6.2.2", "AND", { "ImmediateData=No", "No|-" }, { "ImmediateData=Yes", "Yes|No" })
KEYS(max_burst_length, "13.13, 6.2.2", "the minimum of both sides", { "MaxBurstLength=512", "512" },
	{ "MaxBurstLength=65536", "512..65536" }, { "MaxBurstLength=16777215", "512..16777215" })
KEYS(max_burst_length_illegal, "13.13, 6.2.2", "out of bounds: Reject, an admissible value, or the login's end",
	{ "MaxBurstLength=511", "Reject|512..16777215|!" }, { "MaxBurstLength=0", "Reject|512..16777215|!" },
	{ "MaxBurstLength=16777216", "Reject|512..16777215|!" })
KEYS(first_burst_length, "13.14, 6.2.2", "the minimum of both sides", { "FirstBurstLength=512", "512" },
	{ "FirstBurstLength=4096", "512..4096" }, { "FirstBurstLength=65536", "512..65536" })
KEYS(first_burst_length_illegal, "13.14, 6.2.2", "out of bounds: Reject, an admissible value, or the login's end",
	{ "FirstBurstLength=0", "Reject|512..16777215|!" }, { "FirstBurstLength=511", "Reject|512..16777215|!" },
	{ "FirstBurstLength=16777216", "Reject|512..16777215|!" })
KEYS(time2wait, "13.15, 6.2.2", "the maximum of both sides", { "DefaultTime2Wait=0", "0..3600" },
	{ "DefaultTime2Wait=20", "20..3600" }, { "DefaultTime2Wait=3600", "3600" })
KEYS(time2retain, "13.16, 6.2.2", "the minimum of both sides", { "DefaultTime2Retain=0", "0" },
	{ "DefaultTime2Retain=20", "0..20" }, { "DefaultTime2Retain=3600", "0..3600" })
KEYS(times_illegal, "13.15, 13.16, 6.2.2", "out of bounds: Reject, an admissible value, or the login's end",
	{ "DefaultTime2Wait=3601", "Reject|0..3600|!" }, { "DefaultTime2Retain=3601", "Reject|0..3600|!" })
KEYS(max_outstanding_r2t, "13.17, 6.2.2", "the minimum of both sides", { "MaxOutstandingR2T=1", "1" },
	{ "MaxOutstandingR2T=8", "1..8" }, { "MaxOutstandingR2T=65535", "1..65535" })
KEYS(max_outstanding_r2t_illegal, "13.17, 6.2.2", "out of bounds: Reject, an admissible value, or the login's end",
	{ "MaxOutstandingR2T=0", "Reject|1..65535|!" }, { "MaxOutstandingR2T=65536", "Reject|1..65535|!" })
KEYS(data_pdu_in_order, "13.18, 6.2.2", "OR", { "DataPDUInOrder=Yes", "Yes|-" }, { "DataPDUInOrder=No", "Yes|No" })
KEYS(data_sequence_in_order, "13.19, 6.2.2", "OR", { "DataSequenceInOrder=Yes", "Yes|-" },
	{ "DataSequenceInOrder=No", "Yes|No" })
KEYS(error_recovery_level, "13.20, 6.2.2", "the minimum of both sides", { "ErrorRecoveryLevel=0", "0" },
	{ "ErrorRecoveryLevel=1", "0..1" }, { "ErrorRecoveryLevel=2", "0..2" })
KEYS(error_recovery_level_illegal, "13.20, 6.2.2", "out of bounds: Reject, an admissible value, or the login's end",
	{ "ErrorRecoveryLevel=3", "Reject|0..2|!" })
KEYS(boolean_illegal, "6.1, 6.2.2", "neither Yes nor No: Reject, an admissible value, or the login's end",
	{ "InitialR2T=Maybe", "Reject|Yes|No|!" }, { "ImmediateData=yes", "Reject|Yes|No|!" },
	{ "DataPDUInOrder=", "Reject|Yes|No|!" }, { "DataSequenceInOrder=1", "Reject|Yes|No|!" })
KEYS(number_illegal, "6.1, 6.2.2", "no number of 64 bits: Reject, an admissible value, or the login's end",
	{ "MaxBurstLength=99999999999999999999999", "Reject|512..16777215|!" }, { "MaxBurstLength=12x",
	"Reject|512..16777215|!" },
	{ "MaxBurstLength=", "Reject|512..16777215|!" }, { "MaxBurstLength=-1", "Reject|512..16777215|!" },
	{ "MaxBurstLength=0x", "Reject|512..16777215|!" })
KEYS(number_hex, "6.1", "numbers may be hex-constants", { "MaxBurstLength=0x1000", "512..4096" },
	{ "MaxBurstLength=0X200", "512" }, { "MaxOutstandingR2T=0x1", "1" }, { "DefaultTime2Wait=0x14", "20..3600" })
KEYS(not_understood, "6.2", "a key that is not known is answered NotUnderstood", { "X-com.example.do=3", "NotUnderstood" },
	{ "Frobnicate=Yes", "NotUnderstood" }, { "headerdigest=CRC32C", "NotUnderstood" })
KEYS(answers_as_proposals, "6.2", "a reserved word as a proposal: refused in any form, and never taken as a value",
	{ "MaxBurstLength=NotUnderstood", "Reject|NotUnderstood|Irrelevant|512..16777215|-|!" },
	{ "HeaderDigest=Reject", "Reject|NotUnderstood|Irrelevant|None|-|!" },
	{ "ImmediateData=Irrelevant", "Reject|NotUnderstood|Irrelevant|Yes|No|-|!" })
KEYS(task_reporting, "13.23, 6.2", "TaskReporting is comprehended, the first supported value chosen",
	{ "TaskReporting=RFC3720,ResponseFence,FastAbort", "RFC3720" },
	{ "TaskReporting=FastAbort,ResponseFence,RFC3720", "FastAbort|ResponseFence|RFC3720" },
	{ "TaskReporting=Frobnicate,ResponseFence,RFC3720", "ResponseFence|RFC3720" })
KEYS(protocol_level, "RFC 7144 7.1.1", "the minimum of both sides; NotUnderstood where RFC 7144 is not implemented",
	{ "iSCSIProtocolLevel=1", "0..1|NotUnderstood" }, { "iSCSIProtocolLevel=2", "0..2|NotUnderstood" },
	{ "iSCSIProtocolLevel=31", "0..31|NotUnderstood" }, { "iSCSIProtocolLevel=0", "0|NotUnderstood" })
KEYS(protocol_level_illegal, "RFC 7144 7.1.1, 6.2.2", "out of bounds: Reject, an admissible value, or the login's end",
	{ "iSCSIProtocolLevel=32", "Reject|0..31|NotUnderstood|!" })
KEYS(obsolete_markers, "13.25", "IFMarker and OFMarker are answered Reject or No, never NotUnderstood",
	{ "IFMarker=Yes", "Reject|No" }, { "OFMarker=Yes", "Reject|No" }, { "IFMarker=No", "Reject|No|-" })
KEYS(obsolete_intervals, "13.25", "IFMarkInt and OFMarkInt are answered Reject", { "IFMarkInt=1~65535", "Reject" },
	{ "OFMarkInt=1~65535", "Reject" })
KEYS(node_architecture, "13.26", "X#NodeArchitecture is passed over in silence or answered NotUnderstood",
	{ "X#NodeArchitecture=lunette/1,check", "-|NotUnderstood|None" })
KEYS(alias, "13.7", "InitiatorAlias is a declaration: UTF-8, no answer", { "InitiatorAlias=the check", "-" },
	{ "InitiatorAlias=\xc3\xa4\xe2\x82\xac", "-" })
KEYS(max_recv_illegal, "13.12, 7.12", "a MaxRecvDataSegmentLength out of bounds: Reject, no answer, or the login's end",
	{ "MaxRecvDataSegmentLength=511", "Reject|-|!|512..16777215" },
	{ "MaxRecvDataSegmentLength=16777216", "Reject|-|!|512..16777215" },
	{ "MaxRecvDataSegmentLength=0", "Reject|-|!|512..16777215" })

CASE(keys, max_recv_declared, "13.12", 0, "the target's own MaxRecvDataSegmentLength is 512 to 2**24-1")
{
	struct conn *c = session(k, "");
	const char *v = answer(c, "MaxRecvDataSegmentLength");

	must(k, !v || number_in(v, "512..16777215"), "MaxRecvDataSegmentLength=%s", v);
}

CASE(keys, first_not_above_max, "13.14", 0, "FirstBurstLength does not exceed MaxBurstLength in what login settles")
{
	struct conn *c = dial(k);
	uint16_t status = login_all(c, "MaxBurstLength=4096\nFirstBurstLength=65536", false);

	must(k, status == 0 || status >> 8 == 2, "status %04x", status);
	must(k, status || c->s->first_burst <= c->s->max_burst, "FirstBurstLength=%u, MaxBurstLength=%u", c->s->first_burst,
		c->s->max_burst);
}

CASE(keys, one_r2t_for_recovery, "13.19", 0,
	"with a level above 0 and DataSequenceInOrder=Yes no more than one R2T is outstanding")
{
	struct conn *c = dial(k);
	uint16_t status = login_all(c, "ErrorRecoveryLevel=2\nDataSequenceInOrder=Yes\nMaxOutstandingR2T=8", false);

	must(k, status == 0, "status %04x: the offer is admissible (6.2.2)", status);
	if (c->s->erl == 0)
		check_unsupported(k, "ErrorRecoveryLevel=2 was offered, 0 was the answer");
	must(k, c->s->max_r2t == 1, "ErrorRecoveryLevel=%u and MaxOutstandingR2T=%u", c->s->erl, c->s->max_r2t);
}

/* 13: no-cares become Irrelevant; ErrorRecoveryLevel has a rule of its own. */
CASE(keys, discovery_session, "13.2 to 13.20", 0,
	"keys of normal sessions in a discovery session: Irrelevant, or a legal value")
{
	static const struct row table[] = {
		{ "MaxConnections=4", "Irrelevant|Reject|1..4|-|!" }, { "InitialR2T=No", "Irrelevant|Reject|Yes|No|-|!" },
		{ "ImmediateData=Yes", "Irrelevant|Reject|Yes|No|-|!" }, { "MaxBurstLength=65536",
		"Irrelevant|Reject|512..65536|-|!" },
		{ "FirstBurstLength=65536", "Irrelevant|Reject|512..65536|-|!" },
		{ "MaxOutstandingR2T=8", "Irrelevant|Reject|1..8|-|!" }, { "DataPDUInOrder=No",
		"Irrelevant|Reject|Yes|No|-|!" },
		{ "DefaultTime2Wait=2", "Irrelevant|Reject|2..3600|-|!" },
	};

	rows(k, table, ARRAY_LEN(table), true);
}

CASE(keys, discovery_level_zero, "7.4.1", 0, "ErrorRecoveryLevel of a discovery session is 0")
{
	static const struct row table[] = { { "ErrorRecoveryLevel=2", "0|Irrelevant" }, { "ErrorRecoveryLevel=0",
		"0|Irrelevant" } };

	rows(k, table, ARRAY_LEN(table), true);
}

CASE(keys, discovery_digests, "13.1", 0, "a discovery session may have digests")
{
	struct conn *c = discovery(k, "HeaderDigest=CRC32C\nDataDigest=CRC32C");

	if (!c->hd || !c->dd)
		check_unsupported(k, "HeaderDigest and DataDigest were not answered CRC32C");
	must(k, text(c, "SendTargets=All")->op == ISCSI_TEXT_RSP && answer(c, "TargetName"), "no TargetName in %u bytes",
		c->ntext);
}

CASE(keys, all_at_once, "6.2", 0, "all keys of RFC 7143 in one request are answered, each once")
{
	static const char *const must_answer[] = { "HeaderDigest", "DataDigest", "MaxConnections", "InitialR2T",
		"ImmediateData",
		"MaxBurstLength", "FirstBurstLength", "DefaultTime2Wait", "DefaultTime2Retain", "MaxOutstandingR2T",
		"ErrorRecoveryLevel" };
	struct conn *c = dial(k);

	must(k, offer(c, "HeaderDigest=None\nDataDigest=None\nMaxConnections=4\nInitialR2T=No\nImmediateData=Yes\n"
		"MaxRecvDataSegmentLength=65536\nMaxBurstLength=65536\nFirstBurstLength=65536\nDefaultTime2Wait=2\n"
		"DefaultTime2Retain=20\nMaxOutstandingR2T=4\nDataPDUInOrder=Yes\nDataSequenceInOrder=Yes\n"
		"ErrorRecoveryLevel=2\nInitiatorAlias=check"), "status %04x", c->status);
	for (unsigned i = 0; i < ARRAY_LEN(must_answer); i++) {
		const char *key = must_answer[i];
		unsigned n = 0;
		for (uint32_t at = 0; at < c->ntext; at += (uint32_t)strlen(c->text + at) + 1)
			n += !strncmp(c->text + at, key, strlen(key)) && c->text[at + strlen(key)] == '=';
		must(k, n == 1, "%s is answered %u times", key, n);
		must(k, !refused_text(answer(c, key)), "%s=%s", key, answer(c, key));
	}
}

CASE(keys, over_two_requests, "6.3.3", 0, "operational negotiation may take several exchanges; T stays 0 until it is asked for")
{
	struct conn *c = dial(k);
	struct login_req l = { .flags = LOGIN_STAY(CSG_OPERATIONAL), .itt = 1, .cmd_sn = 1 };

	must(k, offer(c, "MaxBurstLength=65536"), "status %04x", c->status);
	l.text = "InitialR2T=No\nImmediateData=Yes";
	struct pdu *p = login_ask(c, &l);
	must(k, c->status == 0 && !(p->h[1] & LOGIN_TRANSIT) && answer(c, "InitialR2T"), "second exchange: status %04x",
		c->status);
	l.text = "ErrorRecoveryLevel=0";
	login_ask(c, &l);
	must(k, c->status == 0 && answer(c, "ErrorRecoveryLevel"), "third exchange: status %04x", c->status);
	l.text = NULL;
	l.flags = LOGIN_T(CSG_OPERATIONAL, CSG_FULL);
	p = login_ask(c, &l);
	must(k, c->status == 0 && (p->h[1] & LOGIN_TRANSIT), "the end: status %04x, byte 1 %02x", c->status, p->h[1]);
	c->full = true;
	alive(c);
}

CASE(keys, six_exchanges, "6.2", 0, "at least six exchanges (SHOULD) are allowed")
{
	struct conn *c = dial(k);
	struct login_req l = { .flags = LOGIN_STAY(CSG_OPERATIONAL), .itt = 1, .cmd_sn = 1 };
	static const char *const each[] = { "InitialR2T=Yes", "ImmediateData=Yes", "MaxBurstLength=65536",
		"FirstBurstLength=512",
		"MaxOutstandingR2T=1", "ErrorRecoveryLevel=0" };

	must(k, offer(c, "MaxConnections=1"), "status %04x", c->status);
	for (unsigned i = 0; i < ARRAY_LEN(each); i++) {
		l.text = each[i];
		login_ask(c, &l);
		must(k, c->status == 0, "exchange %u: status %04x", i + 2, c->status);
	}
}

CASE(keys, defaults, "13", NEED_LUN, "a login that offers nothing gets the defaults")
{
	struct conn *c = dial(k);
	struct login_req l = { .flags = LOGIN_T(CSG_OPERATIONAL, CSG_FULL), .itt = 1, .cmd_sn = 1 };

	login_security(c);
	struct pdu *p = login_ask(c, &l);
	for (unsigned i = 0; i < 6 && c->status == 0 && !(p->h[1] & LOGIN_TRANSIT); i++)
		p = login_ask(c, &l);
	must(k, c->status == 0 && (p->h[1] & LOGIN_TRANSIT), "status %04x", c->status);
	c->full = true;
	c->recv_max = 8192;
	for (unsigned i = 0; i < 9 && tur(c).status; i++)
		;
	peek(c, 0, 65536 / k->block);
}
