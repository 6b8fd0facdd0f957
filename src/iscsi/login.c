/* SPDX-License-Identifier: BSD-3-Clause
 * The target's login phase, RFC 7143 6.3: a state machine over whole Login Requests. Security is auth.c's, keys are
 * keys.c's; here are the header's rules, the stages and the responses.
 *
 *   NEW -names-> ASKED -policy-> SECURITY -> OPERATIONAL -> ADMITTING -admit-> DONE
 *                          \________^___________^            any -> FAILED
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "iscsi/auth.h"
#include "iscsi/keys.h"

enum { LOGIN_SEGMENT = 8192 }; /* 6.3: the default MaxRecvDataSegmentLength holds during login, both ways */

enum { STAGE_SECURITY = 0, STAGE_OPERATIONAL = 1, STAGE_FULL_FEATURE = 3 }; /* 11.12.3 */

enum login_state { ST_NEW, ST_ASKED, ST_SECURITY, ST_OPERATIONAL, ST_ADMITTING, ST_DONE, ST_FAILED };

enum login_event {
	EV_PART,           /* a request whose text goes on (C bit) */
	EV_TEXT,           /* a request that ends its text */
	EV_PULL,           /* an empty request: the initiator wants the rest of a long response */
	EV_POLICY,         /* the host knows the parties */
	EV_TO_SECURITY, EV_TO_OPERATIONAL, EV_TO_FULL_FEATURE, /* the stage to enter, 6.3's table */
	EV_ADMITTED,       /* the host has the session */
};

struct iscsi_login {
	enum login_state state;
	void (*random)(void *p, size_t n);
	struct iscsi_login_policy policy;
	struct iscsi_params params;
	struct iscsi_keys keys;
	struct iscsi_auth auth;
	struct iscsi_text in, out;
	uint32_t out_sent;      /* of out, sent in earlier responses */
	unsigned pdus;
	uint32_t text_total;    /* of all requests: LIM_LOGIN_TEXT bounds it */
	uint8_t  first[ISCSI_BHS], now[ISCSI_BHS]; /* headers of the first and the current request */
	uint16_t tsih;          /* to be returned in the final response */
	uint32_t stat_sn, exp_cmd_sn, max_cmd_sn;
	bool     named;         /* TargetPortalGroupTag is out */
	bool     partial;       /* a text with the C bit is being gathered */
	bool     ready;         /* rsp holds a response */
	uint8_t  rsp[ISCSI_BHS];
	const uint8_t *rsp_data;
	uint32_t rsp_len;
	char     why[400];
};

typedef enum iscsi_login_next action_fn(struct iscsi_login *l);

/* ---- responses -------------------------------------------------------------------------------------------- */

static unsigned csg(const uint8_t *bhs)
{
	return bhs[BHS_FLAGS] >> 2 & 3;
}

static unsigned nsg(const uint8_t *bhs)
{
	return bhs[BHS_FLAGS] & 3;
}

static void response(struct iscsi_login *l, uint8_t flags, uint16_t status)
{
	uint8_t *r = l->rsp;

	memset(r, 0, ISCSI_BHS);
	r[BHS_OPCODE] = ISCSI_LOGIN_RSP;
	r[BHS_FLAGS] = flags;
	memcpy(r + LOGIN_ISID, l->first + LOGIN_ISID, 6);
	put_be16(r + LOGIN_TSIH, l->state == ST_DONE ? l->tsih : be16(l->first + LOGIN_TSIH));
	memcpy(r + BHS_ITT, l->first + BHS_ITT, 4);
	put_be24(r + BHS_DATA_LEN, l->rsp_len);
	put_be32(r + BHS_STAT_SN, l->stat_sn++);
	put_be32(r + BHS_EXP_CMD_SN, l->state == ST_DONE ? l->exp_cmd_sn : be32(l->first + BHS_CMD_SN));
	put_be32(r + BHS_MAX_CMD_SN, l->state == ST_DONE ? l->max_cmd_sn : be32(l->first + BHS_CMD_SN));
	r[LOGIN_CLASS] = (uint8_t)(status >> 8);
	r[LOGIN_DETAIL] = (uint8_t)status;
	l->ready = true;
}

__attribute__((format(printf, 3, 4)))
static enum iscsi_login_next refuse(struct iscsi_login *l, uint16_t status, const char *fmt, ...)
{
	va_list ap;
	char why[sizeof(l->why)];

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap); /* an argument may be l->why */
	va_end(ap);
	for (char *p = why; *p; p++) /* it may quote the peer, and goes into one line of a log, in double quotes */
		if ((unsigned char)*p < ' ' || *p == 0x7f || *p == '"')
			*p = '?';
	memcpy(l->why, why, sizeof(why));
	l->state = ST_FAILED;
	l->rsp_len = 0;
	l->rsp_data = NULL;
	if (status >> 8 == LOGIN_MOVED_TEMP >> 8 && l->policy.redirect) { /* 11.13.5: class 1 carries the new address */
		l->out.len = 0;
		if (!iscsi_text_put(&l->out, "TargetAddress", "%s", l->policy.redirect) && l->out.len <= LOGIN_SEGMENT) {
			l->rsp_data = (const uint8_t *)l->out.buf;
			l->rsp_len = l->out.len;
		}
	}
	response(l, 0, status);
	return ISCSI_LOGIN_FAIL;
}

static enum iscsi_login_next no_memory(struct iscsi_login *l, int r)
{
	if (r == -ENOMEM)
		return refuse(l, LOGIN_NO_RESOURCES, "out of memory");
	return refuse(l, LOGIN_INITIATOR_ERROR, "login text exceeds %d bytes", LIM_LOGIN_TEXT);
}

/* Takes the next piece of the answer; returns the C bit when more is left (6.2). */
static uint8_t next_piece(struct iscsi_login *l)
{
	uint32_t left = l->out.len - l->out_sent;

	l->rsp_data = left ? (const uint8_t *)l->out.buf + l->out_sent : NULL;
	l->rsp_len = MIN(left, LOGIN_SEGMENT);
	l->out_sent += l->rsp_len;
	return l->rsp_len < left ? FLAG_CONTINUE : 0;
}

/* An answer within the stage: T=0. */
static enum iscsi_login_next stay(struct iscsi_login *l)
{
	uint8_t flags = next_piece(l) | (uint8_t)(csg(l->now) << 2);

	response(l, flags, LOGIN_OK);
	return ISCSI_LOGIN_MORE;
}

/* An answer that agrees to the next stage. */
static enum iscsi_login_next transit(struct iscsi_login *l)
{
	next_piece(l);
	response(l, (uint8_t)(LOGIN_TRANSIT | csg(l->now) << 2 | nsg(l->now)), LOGIN_OK);
	return l->state == ST_DONE ? ISCSI_LOGIN_DONE : ISCSI_LOGIN_MORE;
}

static bool continues(const struct iscsi_login *l)
{
	return l->out_sent < l->out.len;
}

/* ---- the machine ------------------------------------------------------------------------------------------- */

static enum iscsi_login_next step(struct iscsi_login *l, enum login_event ev);

/* 6.2: a request with the C bit is answered with an empty response. */
static enum iscsi_login_next gather(struct iscsi_login *l)
{
	l->out.len = l->out_sent = 0;
	return stay(l);
}

/* The first whole text: who is it, and for whom? 6.3: InitiatorName always, TargetName unless discovery. */
static enum iscsi_login_next ask(struct iscsi_login *l)
{
	l->keys.stage = csg(l->now) == STAGE_SECURITY ? ISCSI_IN_SECURITY : ISCSI_IN_OPERATIONAL;
	l->keys.leading = !be16(l->first + LOGIN_TSIH);
	if (iscsi_keys_names(&l->keys, &l->in) < 0)
		return refuse(l, l->keys.status, "%s", l->keys.why);
	if (!l->params.initiator[0])
		return refuse(l, LOGIN_MISSING_PARAM, "InitiatorName is missing");
	if (!l->params.target[0] && !l->params.discovery)
		return refuse(l, LOGIN_MISSING_PARAM, "TargetName is missing");
	return ISCSI_LOGIN_ASK;
}

static bool secured(const struct iscsi_login *l)
{
	return !l->policy.nusers || l->auth.state == AUTH_PASSED;
}

/* The text is answered: send the answer, or what of it fits, and agree to the next stage when the initiator wants
 * it, the answer is out whole and this stage is complete. */
static enum iscsi_login_next conclude(struct iscsi_login *l)
{
	bool whole = l->out.len - l->out_sent <= LOGIN_SEGMENT;

	if (!(l->now[BHS_FLAGS] & LOGIN_TRANSIT) || !whole || !secured(l))
		return stay(l);
	return step(l, nsg(l->now) == STAGE_OPERATIONAL ? EV_TO_OPERATIONAL : EV_TO_FULL_FEATURE);
}

static enum iscsi_login_next answer_security(struct iscsi_login *l)
{
	const char **v = l->keys.kept;
	struct auth_keys k = { v[KEPT_AUTH_METHOD], v[KEPT_CHAP_A], v[KEPT_CHAP_I], v[KEPT_CHAP_C], v[KEPT_CHAP_N],
		v[KEPT_CHAP_R], l->now[BHS_FLAGS] & LOGIN_TRANSIT };
	uint16_t status = auth_step(&l->auth, &l->policy, &k, l->random, &l->out);

	return status ? refuse(l, status, "%s", l->auth.why) : conclude(l);
}

static enum iscsi_login_next answer_operational(struct iscsi_login *l)
{
	int r = iscsi_keys_declare(&l->keys, &l->out);

	return r < 0 ? no_memory(l, r) : conclude(l);
}

/* 6.3.1 and 13.9: with the first response after a whole text. */
static int name_ourselves(struct iscsi_login *l)
{
	int r = 0;

	if (l->named)
		return 0;
	l->named = true;
	l->params.tpgt = l->policy.tpgt;
	if (l->policy.alias && !l->params.discovery)
		r = iscsi_text_put(&l->out, "TargetAlias", "%.255s", l->policy.alias);
	return r < 0 ? r : iscsi_text_put(&l->out, "TargetPortalGroupTag", "%u", l->policy.tpgt);
}

/* A whole text of either stage. */
static enum iscsi_login_next negotiate(struct iscsi_login *l)
{
	l->out.len = l->out_sent = 0;
	l->keys.stage = l->state == ST_SECURITY ? ISCSI_IN_SECURITY : ISCSI_IN_OPERATIONAL;
	bool asked = !l->named; /* ask() has read the names of the first text */
	int r = name_ourselves(l);
	if (r < 0)
		return no_memory(l, r);
	if ((!asked && iscsi_keys_names(&l->keys, &l->in) < 0) || iscsi_keys_rx(&l->keys, &l->in, &l->out) < 0)
		return refuse(l, l->keys.status, "%s", l->keys.why);
	enum iscsi_login_next next = l->state == ST_SECURITY ? answer_security(l) : answer_operational(l);
	l->in.len = 0;
	return next;
}

static enum iscsi_login_next pull(struct iscsi_login *l)
{
	return conclude(l);
}

/* Why the host refuses, for the log. */
static const char *status_words(uint16_t status)
{
	switch (status) {
	case LOGIN_NOT_FOUND: return "there is no such target here, or not in this portal group";
	case LOGIN_FORBIDDEN: return "this initiator may not use the target";
	case LOGIN_REMOVED: return "the target is being removed";
	case LOGIN_UNAVAILABLE: return "the server stops";
	case LOGIN_NO_SESSION: return "there is no session with this TSIH for this initiator, ISID and portal group";
	case LOGIN_TOO_MANY_CONNS: return "the session has as many connections as were negotiated";
	default: return "refused by the server";
	}
}

/* The host knows the parties; the first text's stage decides where the login begins. */
static enum iscsi_login_next begin(struct iscsi_login *l)
{
	const struct iscsi_login_policy *p = &l->policy;

	if (p->status && p->redirect)
		return refuse(l, p->status, "the target has moved to %s", p->redirect);
	if (p->status)
		return refuse(l, p->status, "%s", p->why ? p->why : status_words(p->status));
	l->keys.offer = p->offer;
	return step(l, csg(l->now) == STAGE_SECURITY ? EV_TO_SECURITY : EV_TO_OPERATIONAL);
}

static enum iscsi_login_next first_operational(struct iscsi_login *l)
{
	if (l->policy.nusers)
		return refuse(l, LOGIN_AUTH_FAILED, "initiator skips authentication");
	return negotiate(l);
}

static enum iscsi_login_next admit(struct iscsi_login *l)
{
	if (iscsi_keys_finish(&l->keys) < 0)
		return refuse(l, l->keys.status, "%s", l->keys.why);
	return ISCSI_LOGIN_ADMIT;
}

/* 6.3's table of stage transitions, with the connection's transitions of 8.1.1 to 8.1.4. */
static const struct transition {
	enum login_state state;
	enum login_event event;
	action_fn       *action; /* runs in the next state */
	enum login_state next;
} transitions[] = {
	{ ST_NEW, EV_PART, gather, ST_NEW },                             /* T4, 8.1.4 */
	{ ST_NEW, EV_TEXT, ask, ST_ASKED },                              /* T4, 8.1.4 */
	{ ST_ASKED, EV_POLICY, begin, ST_ASKED },
	{ ST_ASKED, EV_TO_SECURITY, negotiate, ST_SECURITY },            /* 6.3: (start) -> Security */
	{ ST_ASKED, EV_TO_OPERATIONAL, first_operational, ST_OPERATIONAL }, /* 6.3: (start) -> Operational */
	{ ST_SECURITY, EV_PART, gather, ST_SECURITY },
	{ ST_SECURITY, EV_TEXT, negotiate, ST_SECURITY },
	{ ST_SECURITY, EV_PULL, pull, ST_SECURITY },
	{ ST_SECURITY, EV_TO_OPERATIONAL, transit, ST_OPERATIONAL },     /* 6.3: Security -> Operational */
	{ ST_SECURITY, EV_TO_FULL_FEATURE, admit, ST_ADMITTING },        /* 6.3: Security -> FullFeature */
	{ ST_OPERATIONAL, EV_PART, gather, ST_OPERATIONAL },
	{ ST_OPERATIONAL, EV_TEXT, negotiate, ST_OPERATIONAL },
	{ ST_OPERATIONAL, EV_PULL, pull, ST_OPERATIONAL },
	{ ST_OPERATIONAL, EV_TO_FULL_FEATURE, admit, ST_ADMITTING },     /* 6.3: Operational -> FullFeature */
	{ ST_ADMITTING, EV_ADMITTED, transit, ST_DONE },                 /* T5, 8.1.4 */
};                                                                       /* refuse(): T7, 8.1.4 */

static enum iscsi_login_next step(struct iscsi_login *l, enum login_event ev)
{
	for (size_t i = 0; i < ARRAY_LEN(transitions); i++) {
		const struct transition *t = &transitions[i];
		if (t->state == l->state && t->event == ev) {
			l->state = t->next;
			return t->action(l);
		}
	}
	return refuse(l, LOGIN_INITIATOR_ERROR, "request out of turn");
}

/* ---- what a header must satisfy (11.12) -------------------------------------------------------------------- */

static const char *check_flags(const struct iscsi_login *l, const uint8_t *h)
{
	uint8_t flags = h[BHS_FLAGS];
	bool to = flags & LOGIN_TRANSIT;

	if (to && (flags & FLAG_CONTINUE))
		return "T and C are both set";
	if (csg(h) != STAGE_SECURITY && csg(h) != STAGE_OPERATIONAL)
		return "CSG names no login stage";
	if (to && (nsg(h) == 2 || nsg(h) <= csg(h)))
		return "NSG is no stage after CSG";
	if (l->state == ST_SECURITY && csg(h) != STAGE_SECURITY)
		return "CSG is not the current stage (security)";
	if (l->state == ST_OPERATIONAL && csg(h) != STAGE_OPERATIONAL)
		return "CSG is not the current stage (operational)";
	return NULL;
}

static const char *check_same(const struct iscsi_login *l, const uint8_t *h)
{
	static const struct { uint8_t at, len; const char *why; } same[] = {
		{ LOGIN_VERSION_MAX, 2, "the version changed during login" },
		{ LOGIN_ISID, 6, "the ISID changed during login" },
		{ LOGIN_TSIH, 2, "the TSIH changed during login" },
		{ BHS_ITT, 4, "the Initiator Task Tag changed during login" },
		{ LOGIN_CID, 2, "the CID changed during login" },
		{ BHS_CMD_SN, 4, "the CmdSN changed during login" },
	};

	for (size_t i = 0; i < ARRAY_LEN(same); i++) {
		if (same[i].at == BHS_CMD_SN && be16(h + LOGIN_TSIH))
			continue; /* 11.12.8: other connections may advance it */
		if (memcmp(h + same[i].at, l->first + same[i].at, same[i].len))
			return same[i].why;
	}
	return NULL;
}

/* Returns what the request is, or the refusal through *ret. */
static bool check_header(struct iscsi_login *l, const uint8_t *h, uint32_t len, enum iscsi_login_next *ret)
{
	const char *why = check_flags(l, h);

	if (!why && l->pdus > 1)
		why = check_same(l, h);
	if (!why && len > LOGIN_SEGMENT)
		why = "the data segment is longer than 8192 bytes";
	if (!why && l->pdus > LIM_LOGIN_PDUS)
		why = "too many login requests";
	if (!why && l->partial && csg(h) != csg(l->now))
		why = "the stage changed inside a text";
	if (!why && continues(l) && len)
		why = "text before the response was read whole";
	if (why)
		*ret = refuse(l, LOGIN_INITIATOR_ERROR, "%s", why);
	return !why;
}

static enum login_event event_of(const struct iscsi_login *l, const uint8_t *h)
{
	if (continues(l))
		return EV_PULL;
	return h[BHS_FLAGS] & FLAG_CONTINUE ? EV_PART : EV_TEXT;
}

/* 6.3: before the first Login Request anything else just ends the connection; later it is a login reject. */
static enum iscsi_login_next not_a_login(struct iscsi_login *l, unsigned opcode)
{
	bool answer = l->pdus > 0;
	enum iscsi_login_next next = refuse(l, LOGIN_INVALID_REQUEST, "request 0x%02x during login", opcode);

	l->ready = answer;
	return next;
}

enum iscsi_login_next iscsi_login_rx(struct iscsi_login *l, const uint8_t bhs[ISCSI_BHS], const void *data, uint32_t len)
{
	enum iscsi_login_next next;

	l->ready = false;
	if (l->state == ST_FAILED || l->state == ST_DONE)
		return ISCSI_LOGIN_FAIL;
	if ((bhs[BHS_OPCODE] & OP_MASK) != ISCSI_LOGIN_REQ)
		return not_a_login(l, bhs[BHS_OPCODE] & OP_MASK);
	if (!l->pdus++) {
		memcpy(l->first, bhs, ISCSI_BHS);
		if (bhs[LOGIN_VERSION_MIN] > 0)
			return refuse(l, LOGIN_BAD_VERSION, "initiator speaks versions %u to %u, not 0",
				bhs[LOGIN_VERSION_MIN], bhs[LOGIN_VERSION_MAX]);
	}
	if (!check_header(l, bhs, len, &next))
		return next;
	memcpy(l->now, bhs, ISCSI_BHS);
	l->text_total += len;
	int r = l->text_total > LIM_LOGIN_TEXT ? -EMSGSIZE : iscsi_text_add(&l->in, data, len);
	if (r < 0)
		return no_memory(l, r);
	enum login_event ev = event_of(l, bhs);
	l->partial = ev == EV_PART;
	return step(l, ev);
}

/* ---- interface --------------------------------------------------------------------------------------------- */

struct iscsi_login *iscsi_login_new(void (*random)(void *p, size_t n))
{
	struct iscsi_login *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->random = random;
	random(&l->stat_sn, sizeof(l->stat_sn));
	iscsi_params_defaults(&l->params);
	iscsi_keys_init(&l->keys, ISCSI_AS_TARGET, NULL, &l->params);
	return l;
}

void iscsi_login_free(struct iscsi_login *l)
{
	if (!l)
		return;
	iscsi_text_free(&l->in);
	iscsi_text_free(&l->out);
	free(l);
}

enum iscsi_login_next iscsi_login_policy(struct iscsi_login *l, const struct iscsi_login_policy *p)
{
	l->ready = false;
	if (l->state != ST_ASKED)
		return refuse(l, LOGIN_TARGET_ERROR, "policy out of turn");
	l->policy = *p;
	return step(l, EV_POLICY);
}

enum iscsi_login_next iscsi_login_admit(struct iscsi_login *l, uint16_t status, uint16_t tsih, uint32_t exp_cmd_sn,
	uint32_t max_cmd_sn)
{
	l->ready = false;
	if (l->state != ST_ADMITTING)
		return refuse(l, LOGIN_TARGET_ERROR, "admission out of turn");
	if (status)
		return refuse(l, status, "%s (status %04x)", status_words(status), status);
	l->tsih = tsih;
	l->exp_cmd_sn = exp_cmd_sn;
	l->max_cmd_sn = max_cmd_sn;
	return step(l, EV_ADMITTED);
}

bool iscsi_login_tx(struct iscsi_login *l, uint8_t bhs[ISCSI_BHS], const void **data, uint32_t *len)
{
	if (!l->ready)
		return false;
	l->ready = false;
	memcpy(bhs, l->rsp, ISCSI_BHS);
	*data = l->rsp_data;
	*len = l->rsp_len;
	return true;
}

const struct iscsi_params *iscsi_login_params(const struct iscsi_login *l)
{
	return &l->params;
}

const uint8_t *iscsi_login_isid(const struct iscsi_login *l)
{
	return l->first + LOGIN_ISID;
}

uint16_t iscsi_login_tsih(const struct iscsi_login *l)
{
	return be16(l->first + LOGIN_TSIH);
}

uint16_t iscsi_login_cid(const struct iscsi_login *l)
{
	return be16(l->first + LOGIN_CID);
}

uint32_t iscsi_login_exp_stat_sn(const struct iscsi_login *l)
{
	return be32(l->first + BHS_EXP_STAT_SN);
}

uint32_t iscsi_login_cmd_sn(const struct iscsi_login *l)
{
	return be32(l->first + BHS_CMD_SN);
}

uint32_t iscsi_login_stat_sn(const struct iscsi_login *l)
{
	return l->stat_sn;
}

const char *iscsi_login_user(const struct iscsi_login *l)
{
	return l->auth.user;
}

bool iscsi_login_bad_secret(const struct iscsi_login *l)
{
	return l->state == ST_FAILED && be16(l->rsp + LOGIN_CLASS) == LOGIN_AUTH_FAILED;
}

bool iscsi_login_previous(const struct iscsi_login *l)
{
	return l->auth.previous;
}

const char *iscsi_login_why(const struct iscsi_login *l)
{
	return l->why;
}
