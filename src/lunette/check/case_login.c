/* SPDX-License-Identifier: BSD-3-Clause
 * Suite login: the login phase and what sessions and connections it makes (RFC 7143 4.2.4, 6.3, 11.12, 11.13). */
#include <stdio.h>
#include <string.h>

#include "lunette/check/check.h"

/* One Login Request straight into operational negotiation or, where the URL has a user, to the end of security. */
static struct login_req leading(struct conn *c, uint8_t flags, const char *more)
{
	return (struct login_req){ .flags = flags, .itt = 0x4711, .cmd_sn = c->s->cmd_sn, .text = login_names(c, more) };
}

static bool auth_wanted(struct check *k)
{
	return k->url->user[0] != 0;
}

static void refused(struct conn *c, const struct login_req *l, const char *what)
{
	struct check *k = c->k;

	login_put(c, l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status >> 8 == 2, "%s: status %04x", what, c->status);
	must(k, gone(c, (int)k->timeout_ms), "%s: refused, but the connection stays open", what);
}

static void no_auth_here(struct check *k)
{
	if (auth_wanted(k))
		check_unsupported(k, "the URL has a user: this login goes without authentication");
}

CASE(login, in_one_request, "6.3.1", 0, "a login without security takes one request where the target forgoes security")
{
	no_auth_here(k);
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");
	struct pdu *p = login_ask(c, &l);

	if (c->status == 0x0201)
		check_unsupported(k, "status 0201: the target insists on the security stage");
	must(k, c->status == 0, "status %04x", c->status);
	for (unsigned i = 0; i < 6 && !(p->h[1] & LOGIN_TRANSIT); i++) {
		l.text = NULL;
		p = login_ask(c, &l);
	}
	must(k, p->h[1] == LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "byte 1 is %02x", p->h[1]);
	c->full = true;
	alive(c);
}

CASE(login, two_stages, "6.3, 11.13.6", 0,
	"the response to T=1 names the same CSG and an NSG that does not exceed the one asked for")
{
	no_auth_here(k);
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_SECURITY, CSG_OPERATIONAL), "AuthMethod=None");
	struct pdu *p = login_ask(c, &l);

	must(k, c->status == 0 && (p->h[1] >> 2 & 3) == CSG_SECURITY, "status %04x, byte 1 %02x", c->status, p->h[1]);
	must(k, !(p->h[1] & LOGIN_TRANSIT) || (p->h[1] & 3) == CSG_OPERATIONAL, "NSG %u", p->h[1] & 3);
}

CASE(login, security_to_full, "6.3", 0, "from security straight to full feature phase: the target goes there or to operational")
{
	no_auth_here(k);
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_SECURITY, CSG_FULL), "AuthMethod=None");
	struct pdu *p = login_ask(c, &l);
	uint8_t nsg = p->h[1] & 3;

	must(k, c->status == 0, "status %04x", c->status);
	if (!(p->h[1] & LOGIN_TRANSIT))
		return;
	must(k, nsg == CSG_FULL || nsg == CSG_OPERATIONAL, "NSG %u", nsg);
	if (nsg == CSG_FULL) {
		must(k, be16(p->h + LOGIN_TSIH), "no TSIH in the final response (6.3.2)");
		c->full = true;
		alive(c);
	}
}

CASE(login, no_transit_unasked, "6.3, 11.13.6", 0, "T stays 0 in the response to a request with T=0")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), auth_wanted(k) ? "AuthMethod=CHAP,None" : "AuthMethod=None");
	struct pdu *p = login_ask(c, &l);

	must(k, c->status == 0 && !(p->h[1] & LOGIN_TRANSIT), "status %04x, byte 1 %02x", c->status, p->h[1]);
}

CASE(login, portal_group_tag, "6.3.1, 13.9", 0, "the first response has TargetPortalGroupTag, a number")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), auth_wanted(k) ? "AuthMethod=CHAP,None" : "AuthMethod=None");

	login_ask(c, &l);
	const char *v = answer(c, "TargetPortalGroupTag");
	must(k, v && *v && strspn(v, "0123456789abcdefABCDEFxX") == strlen(v), "TargetPortalGroupTag=%s", v ? v : "(absent)");
}

CASE(login, portal_group_tag_discovery, "6.3.1, 13.9", 0, "the first response of a discovery session has TargetPortalGroupTag")
{
	struct conn *c = dial(k);

	c->s->discovery = true;
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");
	login_ask(c, &l);
	if (c->status == 0x0201)
		check_unsupported(k, "status 0201: discovery wants authentication");
	must(k, c->status == 0 && answer(c, "TargetPortalGroupTag"), "status %04x, no TargetPortalGroupTag", c->status);
}

CASE(login, fields_echoed, "11.13", 0,
	"the response carries the request's Initiator Task Tag and ISID, and its CmdSN as ExpCmdSN")
{
	struct conn *c = dial(k);

	c->s->cmd_sn = 0x01020304;
	struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), auth_wanted(k) ? "AuthMethod=CHAP,None" : "AuthMethod=None");
	struct pdu *p = login_ask(c, &l);
	must(k, be32(p->h + BHS_ITT) == l.itt, "Initiator Task Tag %#x", be32(p->h + BHS_ITT));
	must(k, !memcmp(p->h + LOGIN_ISID, c->s->isid, 6), "another ISID");
	must(k, be32(p->h + BHS_EXP_CMD_SN) == l.cmd_sn, "ExpCmdSN %#x, CmdSN was %#x", be32(p->h + BHS_EXP_CMD_SN), l.cmd_sn);
	must(k, p->h[LOGIN_VERSION_MAX] == 0 && p->h[LOGIN_VERSION_ACTIVE] == 0, "versions %u and %u",
		p->h[LOGIN_VERSION_MAX], p->h[LOGIN_VERSION_ACTIVE]);
}

CASE(login, tsih, "11.13.3", 0, "TSIH is 0 until the final response of a new session, and not 0 in it")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), auth_wanted(k) ? "AuthMethod=CHAP,None" : "AuthMethod=None");
	struct pdu *p = login_ask(c, &l);

	must(k, be16(p->h + LOGIN_TSIH) == 0, "TSIH %#x in a partial response", be16(p->h + LOGIN_TSIH));
	c = session(k, "");
	must(k, c->s->tsih != 0, "TSIH 0 in the final response");
}

CASE(login, statsn, "11.13.4, 11.12.9", 0,
	"StatSN goes up by one over the responses of one login and on into full feature phase")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), auth_wanted(k) ? "AuthMethod=CHAP,None" : "AuthMethod=None");
	uint32_t first = be32(login_ask(c, &l)->h + BHS_STAT_SN);

	l.text = NULL;
	l.flags = LOGIN_STAY(CSG_SECURITY);
	if (auth_wanted(k))
		return;
	struct pdu *p = login_ask(c, &l);
	must(k, c->status == 0 && be32(p->h + BHS_STAT_SN) == first + 1, "status %04x, StatSN %#x after %#x", c->status,
		be32(p->h + BHS_STAT_SN), first);
}

CASE(login, cmdsn_from_login, "11.12.8", 0, "a CmdSN of any size in the leading login is where the session's numbering begins")
{
	static const uint32_t from[] = { 0, 1, 77, 0x7fffffff, 0x80000000, 0xffffffff };

	for (unsigned i = 0; i < ARRAY_LEN(from); i++) {
		struct conn *c = dial(k);
		c->s->cmd_sn = from[i];
		must(k, login_all(c, "", false) == 0, "status %04x", c->status);
		must(k, ping_exp(c) == from[i], "CmdSN %#x: ExpCmdSN %#x", from[i], c->last_exp);
		send_req(c, not_immediate(req_nop("x", 1)));
		want(c, ISCSI_NOP_IN);
		must(k, ping_exp(c) == from[i] + 1, "after one request ExpCmdSN is %#x", c->last_exp);
	}
}

CASE(login, version_none_common, "11.12.4, 11.13.5", 0, "no version in common: status 0205, and the connection ends")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	l.version_max = l.version_min = 1;
	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status == 0x0205, "status %04x", c->status);
	must(k, gone(c, (int)k->timeout_ms), "the connection stays open");
}

CASE(login, version_range, "11.12.4, 11.13.2", 0, "versions 0 to 9 offered: 0 is taken")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), auth_wanted(k) ? "AuthMethod=CHAP,None" : "AuthMethod=None");

	l.version_max = 9;
	struct pdu *p = login_ask(c, &l);
	must(k, c->status == 0 && p->h[LOGIN_VERSION_ACTIVE] == 0, "status %04x, version %u", c->status,
		p->h[LOGIN_VERSION_ACTIVE]);
}

CASE(login, no_initiator_name, "6.3, 11.12.10", 0, "a login without InitiatorName is refused with a status of class 02")
{
	struct conn *c = dial(k);
	char text[300];
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	snprintf(text, sizeof(text), "TargetName=%s\nSessionType=Normal", k->url->target);
	l.text = text;
	refused(c, &l, "no InitiatorName");
}

CASE(login, no_target_name, "6.3, 13.4", 0,
	"a login to a normal session without TargetName is refused with a status of class 02")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	l.text = "InitiatorName=iqn.2026-11.test.lunette.check:initiator\nSessionType=Normal";
	refused(c, &l, "no TargetName");
}

CASE(login, empty, "6.3, 11.12.10", 0, "a first Login Request without any text is refused")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	l.text = NULL;
	refused(c, &l, "no text");
}

CASE(login, target_unknown, "11.13.5", 0, "a TargetName that does not exist is refused with a status of class 02")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	l.text = "InitiatorName=iqn.2026-11.test.lunette.check:initiator\n"
		"TargetName=iqn.2026-11.test.lunette:nowhere\nSessionType=Normal";
	refused(c, &l, "unknown target");
}

CASE(login, session_type_unknown, "13.21, 6.2", 0, "SessionType=Other does not begin a session")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");
	char text[400];

	snprintf(text, sizeof(text), "InitiatorName=iqn.2026-11.test.lunette.check:initiator\nTargetName=%s\nSessionType=Other",
		k->url->target);
	l.text = text;
	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status >> 8 == 2 || refused_text(answer(c, "SessionType")), "status %04x", c->status);
}

/* A login that asks to join the session of that TSIH; the status. */
static uint16_t join_tsih(struct check *k, uint16_t tsih)
{
	struct conn *c = dial(k);

	c->s->tsih = tsih;
	c->cid = 1;
	uint16_t status = login_all(c, "", false);
	must(k, status, "let in");
	must(k, gone(c, (int)k->timeout_ms), "refused with %04x, but the connection stays open (11.13.5)", status);
	return status;
}

CASE(login, tsih_unknown, "6.3.1", 0, "a TSIH of no session is refused (the table says \"session does not exist\", 020a)")
{
	uint16_t status = join_tsih(k, 0x7a7a);

	must(k, status == 0x020a, "status %04x, 020a was due", status);
}

CASE(login, tsih_other_isid, "6.3.1", 0, "a TSIH with an ISID that is not its session's is refused")
{
	struct conn *a = session(k, "");

	join_tsih(k, a->s->tsih);
	alive(a);
}

CASE(login, too_many_connections, "13.2, 11.13.5", 0, "one connection more than MaxConnections is refused; the session goes on")
{
	struct conn *c = session(k, "MaxConnections=1");
	uint16_t status;

	must(k, !join(c, 9, &status), "a second connection was let in, MaxConnections is 1");
	must(k, status >> 8 == 2 || status >> 8 == 3, "status %04x", status);
	alive(c);
}

CASE(login, session_reinstatement, "6.3.5", 0,
	"a login with the ISID of a session and TSIH 0 ends the old session and begins a new one")
{
	struct conn *a = session(k, ""), *b = dial(k);

	memcpy(b->s->isid, a->s->isid, 6);
	must(k, login_all(b, "", false) == 0, "status %04x", b->status);
	must(k, gone(a, (int)k->timeout_ms), "the old session's connection stays open");
	alive(b);
}

CASE(login, session_reinstatement_cmdsn, "6.3.5, 11.12.8", NEED_LUN, "a reinstated session numbers from the new login's CmdSN")
{
	struct conn *a = session(k, ""), *b = dial(k);

	memcpy(b->s->isid, a->s->isid, 6);
	b->s->cmd_sn = 0x5000;
	must(k, login_all(b, "", false) == 0, "status %04x", b->status);
	must(k, ping_exp(b) == 0x5000, "ExpCmdSN %#x", b->last_exp);
	for (unsigned i = 0; i < 9 && tur(b).status; i++)
		;
	struct result r = tur(b);
	good(b, &r, "TEST UNIT READY");
}

CASE(login, other_isid, "6.3.1, 4.4.3", 0, "another ISID of the same initiator is another session")
{
	struct conn *a = session(k, ""), *b = session(k, "");

	alive(a);
	alive(b);
	alive(a);
}

CASE(login, other_initiator, "6.3.1", 0, "the same ISID of another initiator is another session")
{
	struct conn *a = session(k, ""), *b = dial(k);

	memcpy(b->s->isid, a->s->isid, 6);
	snprintf(b->s->initiator, sizeof(b->s->initiator), "iqn.2026-11.test.lunette.check:another");
	must(k, login_all(b, "", false) == 0, "status %04x", b->status);
	alive(a);
	alive(b);
}

CASE(login, connection_reinstatement, "6.3.4", 0,
	"TSIH and CID of a connection that lives: it is reinstated, or the login refused")
{
	struct conn *a = session(k, "");
	uint16_t status;
	struct conn *b = join(a, 0, &status);

	if (!b)
		check_unsupported(k, "status %04x; only level 2 must take it", status);
	must(k, gone(a, (int)k->timeout_ms), "the old connection stays open");
	alive(b);
}

CASE(login, nsg_reserved, "11.12.3", 0, "no transition to the reserved stage 2")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, 2), "");

	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status || !(p->h[1] & LOGIN_TRANSIT) || (p->h[1] & 3) != 2, "byte 1 is %02x", p->h[1]);
}

CASE(login, csg_reserved, "11.12.3", 0, "a request in the reserved stage 2 does not begin a session")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(2, CSG_FULL), "");

	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status || !(p->h[1] & LOGIN_TRANSIT), "byte 1 is %02x", p->h[1]);
}

CASE(login, stage_back, "6.3", 0, "no way back from operational to security")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_SECURITY), "");

	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status || !(p->h[1] & LOGIN_TRANSIT), "byte 1 is %02x", p->h[1]);
}

CASE(login, no_transition_to_self, "6.3", 0, "no transition from a stage to itself: security to security")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_SECURITY, CSG_SECURITY), "AuthMethod=None");

	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status || !(p->h[1] & LOGIN_TRANSIT), "byte 1 is %02x", p->h[1]);
}

static struct conn *in_parts(struct check *k, const char *text, uint32_t len, uint32_t step, struct pdu **ret)
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, 0, "");
	uint32_t at = 0;

	for (; at + step < len; at += step) {
		l.flags = FLAG_CONTINUE | LOGIN_STAY(CSG_OPERATIONAL);
		l.text = text + at;
		l.ntext = step;
		struct pdu *p = login_ask(c, &l);
		if (c->status == 0x0201)
			check_unsupported(k, "status 0201: the target insists on the security stage");
		must(k, c->status == 0, "status %04x after %u bytes", c->status, at);
		must(k, p->len == 0 && !(p->h[1] & (LOGIN_TRANSIT | FLAG_CONTINUE)),
			"C=1 is answered with %u bytes, byte 1 %02x", p->len,
			p->h[1]);
	}
	l.flags = LOGIN_T(CSG_OPERATIONAL, CSG_FULL);
	l.text = text + at;
	l.ntext = len - at;
	*ret = login_ask(c, &l);
	return c;
}

static uint32_t raw_names(struct check *k, char *to, size_t room, const char *more)
{
	int n = snprintf(to, room,
		"InitiatorName=iqn.2026-11.test.lunette.check:initiator%cTargetName=%s%cSessionType=Normal%c%s", 0,
		k->url->target, 0, 0, more);

	return (uint32_t)MIN((size_t)n, room - 1) + (*more ? 1 : 0);
}

CASE(login, continue_bit, "6.2, 11.12.2", 0, "C=1 is answered with an empty response; pairs cut anywhere are put together")
{
	no_auth_here(k);
	static const uint32_t steps[] = { 1, 7, 40, 100 };
	char text[600];

	for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
		struct pdu *p;
		uint32_t n = raw_names(k, text, sizeof(text), "MaxBurstLength=65536");
		struct conn *c = in_parts(k, text, n, steps[i] == 1 ? n / 5 : steps[i], &p);
		must(k, c->status == 0, "status %04x with parts of %u bytes", c->status, steps[i]);
		must(k, answer(c, "MaxBurstLength"), "MaxBurstLength is not answered with parts of %u bytes", steps[i]);
		must(k, answer(c, "TargetPortalGroupTag"), "no TargetPortalGroupTag");
	}
}

CASE(login, continue_and_transit, "6.2, 11.12.2", 0, "C=1 with T=1, which must not be: no transition on half a text")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, FLAG_CONTINUE | LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status || !(p->h[1] & LOGIN_TRANSIT), "byte 1 is %02x", p->h[1]);
}

CASE(login, text_of_8192_bytes, "6.1", 0, "8192 bytes of text are taken, the unknown keys answered NotUnderstood")
{
	no_auth_here(k);
	struct conn *c = dial(k);
	size_t room = 8193, at;
	char *text = check_alloc(k, room);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	snprintf(text, room, "%s", l.text);
	at = strlen(text);
	for (unsigned i = 0; at + 240 < 8192; i++)
		at += (size_t)snprintf(text + at, room - at, "X-com.example.key%02u=%0200u\n", i, i);
	l.text = text;
	struct pdu *p = login_ask(c, &l);
	if (c->status == 0x0201)
		check_unsupported(k, "status 0201: the target insists on the security stage");
	must(k, c->status == 0, "status %04x", c->status);
	for (unsigned i = 0; i < 64 && !(p->h[1] & LOGIN_TRANSIT); i++) {
		l.text = NULL;
		l.flags = p->h[1] & FLAG_CONTINUE ? LOGIN_STAY(CSG_OPERATIONAL) : l.flags;
		p = login_ask(c, &l);
		l.flags = LOGIN_T(CSG_OPERATIONAL, CSG_FULL);
		must(k, c->status == 0, "status %04x", c->status);
	}
	must(k, all_answers(c, "X-com.example.key07", "NotUnderstood"), "X-com.example.key07 is not answered NotUnderstood");
}

CASE(login, key_twice, "6.3", 0, "a key negotiated a second time in one login: Login reject, initiator error")
{
	struct conn *c = dial(k);

	login_security(c);
	struct login_req l = leading(c, LOGIN_STAY(CSG_OPERATIONAL), "");
	l.itt = 1;
	l.text = "MaxBurstLength=65536";
	login_ask(c, &l);
	must(k, c->status == 0, "status %04x", c->status);
	l.text = "MaxBurstLength=32768";
	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status >> 8 == 2, "the second MaxBurstLength: status %04x, %s", c->status, answer(c,
		"MaxBurstLength"));
}

CASE(login, key_twice_in_one_request, "6.3", 0, "a key twice in one request: Login reject, initiator error")
{
	struct conn *c = dial(k);

	login_security(c);
	struct login_req l = leading(c, LOGIN_STAY(CSG_OPERATIONAL), "");
	l.itt = 1;
	l.text = "MaxBurstLength=65536\nMaxBurstLength=32768";
	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status >> 8 == 2, "status %04x", c->status);
}

static void broken_text(struct check *k, const char *text, uint32_t n)
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	l.text = text;
	l.ntext = n;
	login_put(c, &l);
	login_get(c);
}

CASE(login, text_broken, "6.1, 7.12", 0,
	"text without '=', without names, without an end: an answer or the connection's end, never silence")
{
	static const char no_equal[] = "InitiatorName", no_name[] = "=value", binary[] = "\xff\xfe\1\2\3=\x80",
		many[] = "\0\0\0\0\0";
	char long_key[400];

	memset(long_key, 'K', sizeof(long_key));
	broken_text(k, no_equal, sizeof(no_equal));
	broken_text(k, no_name, sizeof(no_name));
	broken_text(k, binary, sizeof(binary));
	broken_text(k, many, sizeof(many));
	broken_text(k, long_key, sizeof(long_key));
	broken_text(k, no_equal, 5);
}

/* The header of a PDU with that opcode, as it could come from an initiator that logged in. */
static void bare(struct conn *c, uint8_t op)
{
	struct req r = with_sn(with_itt(req(op, FLAG_FINAL), 5), 1);

	put_be32(r.h + BHS_TTT, ISCSI_NO_TAG);
	put(c, &r);
}

CASE(login, other_pdu_first, "4.2.4", 0, "a PDU other than Login first: the connection ends at once")
{
	static const uint8_t ops[] = { ISCSI_NOP_OUT, ISCSI_NOP_OUT | OP_IMMEDIATE, ISCSI_SCSI_CMD,
		ISCSI_TMF_REQ | OP_IMMEDIATE,
		ISCSI_TEXT_REQ, ISCSI_DATA_OUT, ISCSI_LOGOUT_REQ | OP_IMMEDIATE, ISCSI_SNACK, 0x1c, ISCSI_NOP_IN,
		ISCSI_SCSI_RSP,
		ISCSI_LOGIN_RSP, ISCSI_REJECT };

	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		struct conn *c = dial(k);
		bare(c, ops[i]);
		must(k, gone(c, (int)k->timeout_ms), "after opcode %02x the connection stays open", ops[i]);
	}
}

CASE(login, other_pdu_during, "4.2.4, 11.13.5", 0,
	"a PDU other than Login during login: Login reject 020b, then the connection ends")
{
	static const uint8_t ops[] = { ISCSI_NOP_OUT | OP_IMMEDIATE, ISCSI_SCSI_CMD, ISCSI_TEXT_REQ,
		ISCSI_LOGOUT_REQ | OP_IMMEDIATE };

	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		struct conn *c = dial(k);
		struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), auth_wanted(k) ? "AuthMethod=CHAP,None" :
			"AuthMethod=None");
		login_ask(c, &l);
		must(k, c->status == 0, "status %04x", c->status);
		bare(c, ops[i]);
		struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
		must(k, p && p->op == ISCSI_LOGIN_RSP, "opcode %02x: %s", ops[i], p ? pdu_words(c, p) : "no Login reject");
		must(k, be16(p->h + LOGIN_CLASS) == 0x020b, "opcode %02x: status %04x", ops[i], be16(p->h + LOGIN_CLASS));
		must(k, gone(c, (int)k->timeout_ms), "opcode %02x: the connection stays open", ops[i]);
	}
}

CASE(login, again_in_full_feature, "4.2.4", 0, "a Login Request in full feature phase does not begin a login")
{
	struct conn *c = session(k, "");
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");

	l.cmd_sn = c->s->cmd_sn;
	login_put(c, &l);
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
	must(k, p || c->closed, "no reaction");
	must(k, !p || p->op == ISCSI_REJECT || (p->op == ISCSI_LOGIN_RSP && be16(p->h + LOGIN_CLASS)), "%s", pdu_words(c, p));
}

CASE(login, in_single_bytes, "11.1", 0, "a login that arrives byte by byte")
{
	struct conn *c = dial(k);
	const char *names = login_names(c, auth_wanted(k) ? "AuthMethod=CHAP,None" : "AuthMethod=None");
	struct req r = with_itt(immediate(req(ISCSI_LOGIN_REQ, LOGIN_STAY(CSG_SECURITY))), 1);
	char *raw = check_alloc(k, strlen(names) + 1);
	uint8_t *bytes;

	for (size_t i = 0; names[i]; i++)
		raw[i] = names[i] == '\n' ? 0 : names[i];
	memcpy(r.h + LOGIN_ISID, c->s->isid, 6);
	r = with_data(r, raw, (uint32_t)strlen(names) + 1);
	size_t n = pack(c, &r, &bytes);
	for (size_t i = 0; i < n; i++)
		put_bytes(c, bytes + i, 1);
	must(k, login_get(c) && c->status == 0, "status %04x", c->status);
}

static void name_taken(struct check *k, const char *name)
{
	struct conn *c = dial(k);

	snprintf(c->s->initiator, sizeof(c->s->initiator), "%s", name);
	must(k, login_all(c, "", false) == 0, "InitiatorName=%.60s is refused with %04x", name, c->status);
	alive(c);
}

CASE(login, name_of_223_bytes, "4.2.7.1", 0, "an initiator name of 223 bytes")
{
	char name[224];

	memset(name, 'x', 223);
	memcpy(name, "iqn.2026-11.test.lunette:", 25);
	name[223] = 0;
	name_taken(k, name);
}

CASE(login, name_eui, "4.2.7.5", 0, "an initiator name of type eui.")
{
	name_taken(k, "eui.02004567a425678d");
}

CASE(login, name_naa, "4.2.7.6", 0, "initiator names of type naa., of 16 and of 32 digits")
{
	name_taken(k, "naa.52004567ba64678d");
	name_taken(k, "naa.62004567ba64678d0123456789abcdef");
}

CASE(login, left_half_done, "6.3", 0, "logins that are left half done disturb nobody")
{
	struct conn *other = session(k, "");

	for (unsigned i = 0; i < 12; i++) {
		struct conn *c = dial(k);
		struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), auth_wanted(k) ? "AuthMethod=CHAP,None" :
			"AuthMethod=None");
		if (i % 3)
			login_ask(c, &l);
		if (i % 3 == 2)
			login_put(c, &l);
		hang_up(c, i & 1);
	}
	alive(other);
}

CASE(login, auth_unknown_only, "6.2.1, 6.3.2", 0, "AuthMethod with unknown methods only: Reject, or the login refused")
{
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_SECURITY, CSG_OPERATIONAL), "AuthMethod=Frobnicate");

	login_put(c, &l);
	struct pdu *p = login_get(c);
	const char *v = p ? answer(c, "AuthMethod") : NULL;
	must(k, !p || c->status >> 8 == 2 || (v && !strcmp(v, "Reject")), "status %04x, AuthMethod=%s", c->status,
		v ? v : "(absent)");
}

CASE(login, auth_unknown_passed_over, "6.2.1", 0,
	"unknown methods in the AuthMethod list are passed over, the first supported one chosen")
{
	struct conn *c = dial(k);
	bool user = auth_wanted(k);
	struct login_req l = leading(c, LOGIN_STAY(CSG_SECURITY), user ? "AuthMethod=Frobnicate,CHAP" :
		"AuthMethod=Frobnicate,None");

	login_ask(c, &l);
	const char *v = answer(c, "AuthMethod");
	must(k, c->status == 0 && v && !strcmp(v, user ? "CHAP" : "None"), "status %04x, AuthMethod=%s", c->status,
		v ? v : "(absent)");
}

CASE(login, auth_skipped, "6.3.1, 9.2", 0,
	"where the target wants authentication, no stage may be skipped and no one let in without")
{
	if (!auth_wanted(k))
		check_unsupported(k, "the URL has no user");
	struct conn *c = dial(k);
	struct login_req l = leading(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "");
	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status >> 8 == 2, "without the security stage: status %04x", c->status);
	c = dial(k);
	l = leading(c, LOGIN_T(CSG_SECURITY, CSG_FULL), "AuthMethod=None");
	login_put(c, &l);
	p = login_get(c);
	must(k, !p || c->status >> 8 == 2 || refused_text(answer(c, "AuthMethod")), "AuthMethod=None: status %04x", c->status);
	must(k, !p || c->status || !(p->h[1] & LOGIN_TRANSIT), "let in without authentication");
}
