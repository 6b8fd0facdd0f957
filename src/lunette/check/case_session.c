/* SPDX-License-Identifier: BSD-3-Clause
 * Suites nop, text, discovery, logout and async: what needs no SCSI command (RFC 7143 6.4, 11.9 to 11.19, appendix C). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lunette/check/check.h"

/* --- nop */

static void ping(struct conn *c, uint32_t n, bool at_once)
{
	struct check *k = c->k;
	uint8_t *data = pattern(k, n, n);
	struct req r = req_nop(data, n);
	uint32_t itt = send_req(c, at_once ? r : not_immediate(r));
	struct pdu *p = want_itt(c, ISCSI_NOP_IN, itt);
	uint32_t due = MIN(n, c->recv_max);

	must(k, be32(p->h + BHS_TTT) == ISCSI_NO_TAG, "the echo has Target Transfer Tag %#x (11.19.1)", be32(p->h + BHS_TTT));
	must(k, p->len == due, "%u bytes came back of %u", p->len, n);
	same(k, p->data, data, due, "the echo");
}

CASE(nop, echo, "11.18.3, 11.19", 0, "a ping's data come back, whatever their length")
{
	struct conn *c = session(k, "");
	static const uint32_t lens[] = { 0, 1, 2, 3, 4, 5, 511, 512, 1023, 4095, 4096 };

	for (unsigned i = 0; i < ARRAY_LEN(lens); i++)
		if (lens[i] <= c->send_max)
			ping(c, lens[i], i % 2);
}

CASE(nop, echo_cut, "11.18.3", 0, "a ping longer than the initiator's MaxRecvDataSegmentLength comes back cut to it")
{
	struct conn *c = session(k, "MaxRecvDataSegmentLength=1024");

	if (c->send_max < 4096)
		check_unsupported(k, "MaxRecvDataSegmentLength=%u was declared", c->send_max);
	ping(c, 4096, true);
}

CASE(nop, longest, "13.12", 0, "a ping of exactly the target's MaxRecvDataSegmentLength")
{
	struct conn *c = session(k, "MaxRecvDataSegmentLength=16777215");

	ping(c, MIN(c->send_max, 1u << 20), true);
}

CASE(nop, no_tag, "11.18.1", 0, "a NOP-Out with the reserved task tag is not answered")
{
	struct conn *c = session(k, "");

	send_req(c, with_itt(req_nop(NULL, 0), ISCSI_NO_TAG));
	send_req(c, with_itt(req_nop("data", 4), ISCSI_NO_TAG));
	quiet(c, CHECK_QUIET_MS);
	alive(c);
}

CASE(nop, immediate_number, "4.2.2.1", 0, "an immediate NOP-Out does not advance ExpCmdSN, another does by one")
{
	struct conn *c = session(k, "");
	uint32_t exp = ping_exp(c);

	must(k, ping_exp(c) == exp, "ExpCmdSN went on");
	ping(c, 4, false);
	must(k, ping_exp(c) == exp + 1, "ExpCmdSN is %#x, %#x was due", c->last_exp, exp + 1);
}

CASE(nop, unknown_ttt, "11.18.2", 0,
	"a NOP-Out as the answer to a ping that never was: passed over, rejected, or the connection's end")
{
	struct conn *c = session(k, "");
	struct req r = with_itt(req_nop(NULL, 0), ISCSI_NO_TAG);

	put_be32(r.h + BHS_TTT, 0x12345678);
	put(c, &r);
	refusal(c, BY_REJECT | BY_CLOSE | BY_SILENCE, REASONS_FORMAT, "unknown Target Transfer Tag");
}

CASE(nop, many, "4.2.2.1, 11.17.1", 0,
	"many pings at once: each comes back, or is rejected with 06 where immediate ones are too many")
{
	struct conn *c = session(k, "");
	unsigned rejected = 0, n = 64;
	uint32_t first = c->s->itt;

	for (unsigned i = 0; i < n; i++)
		send_req(c, req_nop("ping", 4));
	for (unsigned i = 0; i < n; i++) {
		struct pdu *p = next(c);
		rejected += p->op == ISCSI_REJECT && p->h[REJECT_REASON] == REJECT_IMMEDIATE;
		must(k, p->op == ISCSI_REJECT ? p->h[REJECT_REASON] == REJECT_IMMEDIATE : p->op == ISCSI_NOP_IN, "%s",
			pdu_words(c, p));
		must(k, p->op == ISCSI_REJECT || be32(p->h + BHS_ITT) - first < n, "Initiator Task Tag %#x",
			be32(p->h + BHS_ITT));
	}
	must(k, rejected < n, "all were rejected");
	alive(c);
}

/* --- text */

CASE(text, empty, "11.10, 11.11", 0, "a Text Request without text is answered with F=1 and the reserved Target Transfer Tag")
{
	struct conn *c = session(k, "");
	uint32_t itt = send_req(c, req_text(NULL, 0));
	struct pdu *p = next(c);

	if (p->op == ISCSI_REJECT)
		return; /* 6.2 discourages it */
	must(k, p->op == ISCSI_TEXT_RSP && be32(p->h + BHS_ITT) == itt, "%s", pdu_words(c, p));
	must(k, p->h[1] == FLAG_FINAL && be32(p->h + BHS_TTT) == ISCSI_NO_TAG, "byte 1 %02x, Target Transfer Tag %#x", p->h[1],
		be32(p->h + BHS_TTT));
}

CASE(text, unknown_key, "6.2", 0, "a key that is not known: NotUnderstood")
{
	struct conn *c = session(k, "");
	struct pdu *p = text(c, "X-com.example.key=1");

	must(k, p->op == ISCSI_TEXT_RSP && all_answers(c, "X-com.example.key", "NotUnderstood"), "%s, %.40s", pdu_words(c, p),
		c->text);
	must(k, p->h[1] == FLAG_FINAL && be32(p->h + BHS_TTT) == ISCSI_NO_TAG, "byte 1 %02x", p->h[1]);
}

CASE(text, numbered, "4.2.2.1", 0, "a Text Request takes its CmdSN, an immediate one does not")
{
	struct conn *c = session(k, "");
	uint32_t exp = ping_exp(c);

	text(c, "X-com.example.key=1");
	must(k, ping_exp(c) == exp + 1, "ExpCmdSN %#x after %#x", c->last_exp, exp);
	send_req(c, immediate(req_text("X-com.example.key=1", 20)));
	next(c);
	must(k, ping_exp(c) == exp + 1, "an immediate one moved ExpCmdSN to %#x", c->last_exp);
}

static void not_changed(struct check *k, const char *pair)
{
	struct conn *c = session(k, "");
	struct pdu *p = text(c, pair);
	char key[64];

	snprintf(key, sizeof(key), "%.*s", (int)strcspn(pair, "="), pair);
	if (p->op == ISCSI_TEXT_RSP) {
		const char *v = answer(c, key);
		must(k, !v || refused_text(v), "%s in full feature phase is answered %s=%s", pair, key, v);
	}
	alive(c);
}

CASE(text, login_keys_refused, "13.1 to 13.20", 0, "keys for the login phase only are not negotiated in full feature phase")
{
	static const char *const pairs[] = { "HeaderDigest=CRC32C", "DataDigest=CRC32C", "MaxConnections=4", "InitialR2T=No",
		"ImmediateData=No", "FirstBurstLength=512", "MaxBurstLength=512", "DefaultTime2Wait=9", "DefaultTime2Retain=9",
		"MaxOutstandingR2T=2", "ErrorRecoveryLevel=2", "SessionType=Discovery", "TaskReporting=FastAbort" };

	for (unsigned i = 0; i < ARRAY_LEN(pairs); i++)
		not_changed(k, pairs[i]);
}

CASE(text, max_recv_again, "13.12", NEED_LUN,
	"MaxRecvDataSegmentLength may be declared anew in full feature phase, and is obeyed")
{
	struct conn *c = session(k, "MaxRecvDataSegmentLength=65536");
	struct pdu *p = text(c, "MaxRecvDataSegmentLength=1024");

	must(k, p->op == ISCSI_TEXT_RSP, "%s", pdu_words(c, p));
	must(k, !refused_text(answer(c, "MaxRecvDataSegmentLength")), "MaxRecvDataSegmentLength=%s",
		answer(c, "MaxRecvDataSegmentLength"));
	c->recv_max = 1024;
	struct result r = command(c, req_read(k, 0, 65536 / k->block), NULL);
	good(c, &r, "read");
	for (unsigned i = 0; i < r.nin; i++)
		must(k, r.in[i]->len <= 1024, "a Data-In of %u bytes after 1024 was declared", r.in[i]->len);
}

CASE(text, in_parts, "6.2, 11.10.2", 0, "C=1: an empty response with a Target Transfer Tag, then the pairs put together")
{
	struct conn *c = session(k, "");
	static const char whole[] = "X-com.example.first=1\0X-com.example.second=2";
	struct req r = req_text(whole, 15);

	r.h[1] = FLAG_CONTINUE;
	uint32_t itt = put(c, &r);
	struct pdu *p = want_itt(c, ISCSI_TEXT_RSP, itt);
	must(k, p->len == 0 && !(p->h[1] & (FLAG_FINAL | FLAG_CONTINUE)), "C=1 is answered with %u bytes, byte 1 %02x", p->len,
		p->h[1]);
	must(k, be32(p->h + BHS_TTT) != ISCSI_NO_TAG, "no Target Transfer Tag (11.11.4)");
	r = with_itt(req_text(whole + 15, sizeof(whole) - 15), itt);
	memcpy(r.h + BHS_TTT, p->h + BHS_TTT, 4);
	memcpy(r.h + BHS_LUN, p->h + BHS_LUN, 8);
	put(c, &r);
	p = want_itt(c, ISCSI_TEXT_RSP, itt);
	c->ntext = MIN(p->len, (uint32_t)CHECK_TEXT - 1);
	memcpy(c->text, p->data, c->ntext);
	c->text[c->ntext] = 0;
	must(k, all_answers(c, "X-com.example.first", "NotUnderstood") && all_answers(c, "X-com.example.second",
		"NotUnderstood"),
		"answers: %.60s", c->text);
}

CASE(text, not_final, "6.4, 11.11.1", 0, "F=0 without C is answered with F=0 and a Target Transfer Tag; an empty F=1 ends it")
{
	struct conn *c = session(k, "");
	struct req r = req_text("X-com.example.key=1", 20);

	r.h[1] = 0;
	uint32_t itt = put(c, &r);
	struct pdu *p = want_itt(c, ISCSI_TEXT_RSP, itt);
	must(k, !(p->h[1] & FLAG_FINAL) && be32(p->h + BHS_TTT) != ISCSI_NO_TAG,
		"byte 1 %02x, Target Transfer Tag %#x (11.11.1)",
		p->h[1], be32(p->h + BHS_TTT));
	r = with_itt(req_text(NULL, 0), itt);
	memcpy(r.h + BHS_TTT, p->h + BHS_TTT, 4);
	memcpy(r.h + BHS_LUN, p->h + BHS_LUN, 8);
	put(c, &r);
	p = want_itt(c, ISCSI_TEXT_RSP, itt);
	must(k, (p->h[1] & FLAG_FINAL) && be32(p->h + BHS_TTT) == ISCSI_NO_TAG, "the end: byte 1 %02x", p->h[1]);
}

CASE(text, reset_by_new, "11.10.4", 0, "a new exchange with the reserved Target Transfer Tag resets one that was left open")
{
	struct conn *c = session(k, "");
	struct req r = req_text("X-com.example.key=1", 20);

	r.h[1] = 0;
	want_itt(c, ISCSI_TEXT_RSP, put(c, &r));
	struct pdu *p = text(c, "X-com.example.other=1");
	must(k, p->op == ISCSI_TEXT_RSP && all_answers(c, "X-com.example.other", "NotUnderstood"), "%s, %.40s", pdu_words(c, p),
		c->text);
}

CASE(text, broken, "6.1, 7.12", 0, "text without '=', with no end, with bytes that are no text: an answer, a Reject or the end")
{
	static const struct { const char *p; uint32_t n; } bad[] = { { "rubbish", 8 }, { "=x", 3 }, { "Key=no end", 10 },
		{ "\xff\xfe=1", 5 }, { "\0\0\0", 3 }, { "SendTargets", 12 } };

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		struct conn *c = session(k, "");
		send_req(c, req_text(bad[i].p, bad[i].n));
		struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
		must(k, p || c->closed, "text %u: no reaction", i);
		must(k, !p || p->op == ISCSI_TEXT_RSP || p->op == ISCSI_REJECT, "text %u: %s", i, pdu_words(c, p));
	}
}

CASE(text, unknown_ttt, "11.10.4", 0, "a Target Transfer Tag that was never given: Reject or the connection's end")
{
	struct conn *c = session(k, "");
	struct req r = req_text("X-com.example.key=1", 20);

	put_be32(r.h + BHS_TTT, 0x31415926);
	put(c, &r);
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
	must(k, p || c->closed, "no reaction");
	if (p && p->op == ISCSI_TEXT_RSP)
		check_lax(k, "%s", pdu_words(c, p));
	must(k, !p || p->op == ISCSI_REJECT, "%s", pdu_words(c, p));
}

CASE(text, without_end, "6.2", 0, "text without end is given up: the target rejects or closes before it holds 4 MiB")
{
	struct conn *c = session(k, "");
	uint8_t *part = check_alloc(k, 8192);
	uint32_t itt = 0, ttt = ISCSI_NO_TAG, n = MIN(c->send_max, 8192u);

	static const char key[] = "X-com.example.key=";

	memset(part, 'x', 8192);
	memcpy(part, key, sizeof(key) - 1);
	for (unsigned i = 0; i < (4u << 20) / n; i++) {
		struct req r = req_text(part, n);
		r.h[1] = FLAG_CONTINUE;
		put_be32(r.h + BHS_TTT, ttt);
		itt = send_req(c, i ? with_itt(r, itt) : r);
		struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
		must(k, p || c->closed, "part %u: no reaction", i);
		if (!p || p->op == ISCSI_REJECT)
			return;
		ttt = be32(p->h + BHS_TTT);
		if (p->h[1] & FLAG_FINAL)
			return;
	}
	check_lax(k, "4 MiB of text were taken");
}

/* --- discovery */

static bool has_target(struct conn *c)
{
	return all_answers(c, "TargetName", c->k->url->target);
}

CASE(discovery, all, "App. C", 0, "SendTargets=All lists this target with at least one address")
{
	struct conn *c = discovery(k, "");
	struct pdu *p = text(c, "SendTargets=All");

	must(k, p->op == ISCSI_TEXT_RSP, "%s", pdu_words(c, p));
	must(k, has_target(c), "%s is not in the list", k->url->target);
	must(k, answer(c, "TargetAddress"), "no TargetAddress");
}

CASE(discovery, addresses, "13.8, App. C", 0, "each TargetAddress is address:port,group or address,group")
{
	struct conn *c = discovery(k, "");

	text(c, "SendTargets=All");
	for (uint32_t at = 0; at < c->ntext; at += (uint32_t)strlen(c->text + at) + 1) {
		const char *v = c->text + at;
		if (strncmp(v, "TargetAddress=", 14))
			continue;
		const char *comma = strrchr(v, ',');
		must(k, comma && comma[1] && strspn(comma + 1, "0123456789") == strlen(comma + 1) && comma > v + 14, "%s", v);
		must(k, strtoul(comma + 1, NULL, 10) <= 65535, "%s", v);
	}
}

CASE(discovery, by_name, "App. C", 0, "SendTargets with the target's name lists it alone")
{
	struct conn *c = discovery(k, "");
	char ask[300];

	snprintf(ask, sizeof(ask), "SendTargets=%s", k->url->target);
	must(k, text(c, ask)->op == ISCSI_TEXT_RSP && has_target(c), "answer: %.80s", c->text);
	for (uint32_t at = 0; at < c->ntext; at += (uint32_t)strlen(c->text + at) + 1)
		must(k, strncmp(c->text + at, "TargetName=", 11) || !strcmp(c->text + at + 11, k->url->target), "%s too",
			c->text + at);
}

CASE(discovery, unknown_name, "App. C", 0, "SendTargets with a name that is not there lists nothing")
{
	struct conn *c = discovery(k, "");
	struct pdu *p = text(c, "SendTargets=iqn.2026-11.test.lunette:nowhere");

	must(k, p->op == ISCSI_REJECT || !answer(c, "TargetName"), "answer: %.80s", c->text);
}

CASE(discovery, in_normal_session, "App. C", 0, "SendTargets without a value in a normal session tells of the session's target")
{
	struct conn *c = session(k, "");
	struct pdu *p = text(c, "SendTargets=");

	must(k, p->op == ISCSI_TEXT_RSP && has_target(c), "%s, answer: %.80s", pdu_words(c, p), c->text);
	must(k, answer(c, "TargetAddress"), "no TargetAddress");
}

CASE(discovery, in_normal_session_by_name, "App. C", 0,
	"SendTargets with the session's target name in a normal session tells of it")
{
	struct conn *c = session(k, "");
	char ask[300];

	snprintf(ask, sizeof(ask), "SendTargets=%s", k->url->target);
	struct pdu *p = text(c, ask);
	must(k, p->op == ISCSI_TEXT_RSP && has_target(c), "%s, answer: %.80s", pdu_words(c, p), c->text);
}

CASE(discovery, other_target_hidden, "App. C", 0,
	"SendTargets with another target's name in a normal session tells nothing of it")
{
	struct conn *c = session(k, "");
	struct pdu *p = text(c, "SendTargets=iqn.2026-11.test.lunette:nowhere");

	must(k, p->op == ISCSI_REJECT || !answer(c, "TargetName"), "answer: %.80s", c->text);
}

CASE(discovery, in_small_parts, "11.11.2, 6.2", 0,
	"with a MaxRecvDataSegmentLength of 512 the list comes in parts of that size")
{
	struct conn *c = discovery(k, "MaxRecvDataSegmentLength=512");

	must(k, text(c, "SendTargets=All")->op == ISCSI_TEXT_RSP && has_target(c), "%s is not in the list", k->url->target);
}

CASE(discovery, twice, "App. C", 0, "a discovery session may ask again")
{
	struct conn *c = discovery(k, "");

	for (unsigned i = 0; i < 3; i++)
		must(k, text(c, "SendTargets=All")->op == ISCSI_TEXT_RSP && has_target(c), "time %u", i + 1);
	must(k, logout(c, 0, 0) == 0, "logout");
}

static void only_text(struct check *k, struct req r, const char *what)
{
	struct conn *c = discovery(k, "");

	put(c, &r);
	struct pdu *p = poll_pdu(c, CHECK_QUIET_MS * 4);
	must(k, !p || p->op == ISCSI_REJECT || p->op == ISCSI_NOP_IN || (p->op == ISCSI_TMF_RSP && p->h[RSP_RESPONSE]),
		"%s: %s", what,
		pdu_words(c, p));
}

CASE(discovery, no_commands, "4.3", 0, "no SCSI command and no task management is served in a discovery session")
{
	only_text(k, req_tur(k), "a command");
	only_text(k, req_tmf(k, TMF_LU_RESET, ISCSI_NO_TAG, 0), "LOGICAL UNIT RESET");
}

CASE(discovery, reset_by_same_isid, "7.4.2.1", 0,
	"an unnamed discovery session is reinstated by another of the same name and ISID")
{
	struct conn *a = discovery(k, ""), *b = dial(k);

	memcpy(b->s->isid, a->s->isid, 6);
	must(k, login_all(b, "", true) == 0, "status %04x", b->status);
	must(k, text(b, "SendTargets=All")->op == ISCSI_TEXT_RSP, "the new session does not answer");
	must(k, gone(a, (int)k->timeout_ms), "the old session stays open");
}

CASE(discovery, not_a_normal_one, "7.4.2.1", 0, "an unnamed discovery session does not end a normal session of the same ISID")
{
	struct conn *a = session(k, ""), *b = dial(k);

	memcpy(b->s->isid, a->s->isid, 6);
	must(k, login_all(b, "", true) == 0, "status %04x", b->status);
	alive(a);
}

/* --- logout */

CASE(logout, close_session, "11.14, 11.15", 0, "reason 0: response 0, then the connection ends")
{
	struct conn *c = session(k, "");

	must(k, logout(c, 0, 0) == 0, "not 0");
	must(k, gone(c, (int)k->timeout_ms), "the connection stays open");
}

CASE(logout, close_connection, "11.14, 11.15", 0, "reason 1 with this connection's CID: response 0, then the connection ends")
{
	struct conn *c = session(k, "");

	must(k, logout(c, 1, c->cid) == 0, "not 0");
	must(k, gone(c, (int)k->timeout_ms), "the connection stays open");
}

CASE(logout, not_immediate, "11.14", 0, "a logout that is not immediate waits for its turn")
{
	struct conn *c = session(k, "");
	struct req r = not_immediate(req_logout(0, 0));
	uint32_t n = c->s->cmd_sn;

	put_be32(r.h + BHS_CMD_SN, n + 1);
	r.own_sn = true;
	put(c, &r);
	quiet(c, CHECK_QUIET_MS);
	send_req(c, with_sn(not_immediate(req_nop("x", 1)), n));
	struct pdu *p = want(c, ISCSI_NOP_IN);
	p = want(c, ISCSI_LOGOUT_RSP);
	must(k, p->h[LOGOUT_RESPONSE] == 0, "response %u", p->h[LOGOUT_RESPONSE]);
}

CASE(logout, unknown_cid, "11.15.1", 0, "a CID that is not there: response 1, and the session goes on")
{
	struct conn *c = session(k, "");
	uint8_t r = logout(c, 1, 0x4242);

	must(k, r == 1, "response %u", r);
	alive(c);
}

CASE(logout, recovery_at_level_0, "11.14.1, 11.15.1", 0, "reason 2 below level 2: response 2, recovery is not supported")
{
	struct conn *c = session(k, "ErrorRecoveryLevel=0");
	uint8_t r = logout(c, 2, c->cid);

	must(k, r == 2, "response %u", r);
}

CASE(logout, unknown_reason, "11.14.1", 0, "a reserved reason code: refused")
{
	struct conn *c = session(k, "");

	send_req(c, req_logout(0x55, 0));
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
	must(k, p || c->closed, "no reaction");
	if (p && p->op == ISCSI_LOGOUT_RSP && !p->h[LOGOUT_RESPONSE])
		check_lax(k, "%s", pdu_words(c, p));
	must(k, !p || p->op == ISCSI_REJECT || p->op == ISCSI_LOGOUT_RSP, "%s", pdu_words(c, p));
}

CASE(logout, nothing_after, "11.14, 4.2.2.2", NEED_LUN,
	"commands on their way are answered before the Logout Response or not at all")
{
	struct conn *c = session(k, "");

	for (unsigned i = 0; i < 8; i++)
		send_req(c, req_read(k, 0, 8));
	send_req(c, req_logout(0, 0));
	struct pdu *p = next(c);
	while (p->op != ISCSI_LOGOUT_RSP)
		p = next(c);
	must(k, p->h[LOGOUT_RESPONSE] == 0, "response %u", p->h[LOGOUT_RESPONSE]);
	p = poll_pdu(c, (int)k->timeout_ms);
	must(k, !p, "%s after the Logout Response", pdu_words(c, p));
	must(k, c->closed, "the connection stays open");
}

CASE(logout, session_is_gone, "11.14, 6.3.5", 0, "after a logout that closes the session its TSIH is of no session")
{
	struct conn *c = session(k, "");
	uint16_t status;

	must(k, logout(c, 0, 0) == 0, "not 0");
	must(k, !join(c, 1, &status), "a connection joined a session that was closed");
	must(k, status == 0x020a, "status %04x, 020a was due (6.3.1)", status);
}
