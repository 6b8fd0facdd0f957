/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: login phase (RFC 7143 section 6, 11.12) with CHAP (12.1.3), and the text exchange of
 * SendTargets. Without authentication one request and one response are the whole login. */
#include "iscsi/initiator_impl.h"

#include <stdio.h>
#include <stdlib.h>

static const int algs[] = { CHAP_SHA3_256, CHAP_SHA256, CHAP_SHA1, CHAP_MD5 }; /* strongest first */
enum { STAGE_SECURITY = 0, STAGE_OPERATIONAL = 1, STAGE_FULL_FEATURE = 3 };

/* 11.12. transit: T bit, to stage nsg. Takes the text over. */
static void send_login(struct ini_conn *c, struct iscsi_text *t, bool transit, uint8_t nsg)
{
	struct ini_ctl *k = ini_ctl(c, ISCSI_LOGIN_REQ | OP_IMMEDIATE, c->login_itt, t->buf, t->len);

	iscsi_text_free(t);
	if (!k)
		return;
	if (!c->login_pdus) { /* 11.12.9: of the connection that this one replaces, if any */
		k->exp_stat_sn_set = true;
		put_be32(k->bhs + BHS_EXP_STAT_SN, c->last_ack);
	}
	k->bhs[BHS_FLAGS] = (uint8_t)((transit ? LOGIN_TRANSIT | nsg : 0) | c->csg << 2);
	c->nsg = nsg;
	memcpy(k->bhs + LOGIN_ISID, c->i->conf.isid, 6);
	put_be16(k->bhs + LOGIN_TSIH, c->i->tsih);
	put_be16(k->bhs + LOGIN_CID, (uint16_t)(c->i->conf.cid + c->k));
}

static int put_names(struct ini_conn *c, struct iscsi_text *t)
{
	int r = iscsi_text_put(t, "InitiatorName", "%s", c->i->conf.initiator);

	if (!r)
		r = iscsi_text_put(t, "SessionType", "%s", c->i->conf.target ? "Normal" : "Discovery");
	if (!r && c->i->conf.target)
		r = iscsi_text_put(t, "TargetName", "%s", c->i->conf.target);
	return r;
}

static void offer(struct ini_conn *c, struct iscsi_text *t)
{
	c->step = STEP_OPERATIONAL;
	c->csg = STAGE_OPERATIONAL;
	c->keys.stage = ISCSI_IN_OPERATIONAL;
	if (iscsi_keys_offer(&c->keys, t)) {
		iscsi_text_free(t);
		ini_fail(c, 0, "out of memory");
		return;
	}
	send_login(c, t, true, STAGE_FULL_FEATURE);
}

/* 13: a further connection negotiates what concerns itself; the rest it shares with its session. */
static void begin_params(struct ini_conn *c)
{
	const struct iscsi_ini *i = c->i;

	iscsi_params_defaults(&c->params);
	c->keys.leading = !i->tsih;
	if (i->tsih) {
		struct iscsi_params fresh = c->params;

		c->params = i->params;
		c->params.header_digest = fresh.header_digest;
		c->params.data_digest = fresh.data_digest;
		c->params.max_recv_segment = fresh.max_recv_segment;
		c->params.max_xmit_segment = fresh.max_xmit_segment;
		return;
	}
	c->params.discovery = !i->conf.target;
	snprintf(c->params.initiator, sizeof(c->params.initiator), "%s", i->conf.initiator);
	snprintf(c->params.target, sizeof(c->params.target), "%s", i->conf.target ? i->conf.target : "");
}

void ini_login_start(struct ini_conn *c)
{
	struct iscsi_text t = { 0 };
	int r = put_names(c, &t);

	iscsi_keys_init(&c->keys, ISCSI_AS_INITIATOR, &c->i->conf.offer, &c->params);
	begin_params(c);
	c->login_itt = ini_own_itt(c->i);
	c->login_pdus = 0;
	c->text.len = 0;
	if (!c->i->conf.chap) {
		offer(c, &t);
		return;
	}
	c->step = STEP_METHOD;
	c->csg = STAGE_SECURITY;
	c->keys.stage = ISCSI_IN_SECURITY;
	if (!r)
		r = iscsi_text_put(&t, "AuthMethod", "CHAP");
	if (r) {
		iscsi_text_free(&t);
		ini_fail(c, 0, "out of memory");
		return;
	}
	send_login(c, &t, false, 0);
}

/* --- CHAP --- */

static const char *chap_method(struct ini_conn *c)
{
	struct iscsi_text t = { 0 };
	char list[32] = "";
	const char *v = c->keys.kept[KEPT_AUTH_METHOD];

	if (!v || strcmp(v, "CHAP"))
		return "target does not offer CHAP";
	for (size_t k = 0; k < ARRAY_LEN(algs); k++)
		if (!c->i->conf.chap_algs || c->i->conf.chap_algs & 1u << algs[k])
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%d", *list ? "," : "", algs[k]);
	if (iscsi_text_put(&t, "CHAP_A", "%s", list))
		return "out of memory";
	c->step = STEP_CHAP_A;
	send_login(c, &t, false, 0);
	return NULL;
}

static int put_response(struct iscsi_text *t, const char *name, int alg, const uint8_t *digest)
{
	char hex[2 + 2 * CHAP_DIGEST_MAX + 1];
	int r = iscsi_text_put(t, "CHAP_N", "%s", name);

	chap_encode_hex(digest, chap_digest_len(alg), hex);
	return r ? r : iscsi_text_put(t, "CHAP_R", "%s", hex);
}

/* The target shall answer a challenge of ours. */
static int put_challenge(struct ini_conn *c, struct iscsi_text *t)
{
	char hex[2 + 2 * sizeof(c->challenge) + 1];
	int r;

	c->i->conf.random(c->challenge, sizeof(c->challenge));
	c->i->conf.random(&c->chap_id, 1);
	chap_encode_hex(c->challenge, sizeof(c->challenge), hex);
	r = iscsi_text_put(t, "CHAP_I", "%u", c->chap_id);
	return r ? r : iscsi_text_put(t, "CHAP_C", "%s", hex);
}

static const char *chap_challenged(struct ini_conn *c)
{
	const char *a = c->keys.kept[KEPT_CHAP_A], *id = c->keys.kept[KEPT_CHAP_I], *blob = c->keys.kept[KEPT_CHAP_C];
	uint8_t challenge[CHAP_CHALLENGE_MAX], digest[CHAP_DIGEST_MAX];
	struct iscsi_text t = { 0 };
	uint64_t alg, idn;
	int n, r;

	if (!a || !id || !blob || iscsi_number(a, &alg) || iscsi_number(id, &idn) || idn > 255)
		return "target's CHAP challenge is incomplete";
	if (alg > 8 || (c->i->conf.chap_algs && !(c->i->conf.chap_algs & 1u << alg)))
		return "target chose a CHAP algorithm that was not offered";
	n = chap_decode(blob, challenge, sizeof(challenge));
	if (n < 1 || chap_response((int)alg, (uint8_t)idn, c->i->conf.chap->secret, challenge, (size_t)n, digest))
		return "target's CHAP challenge is malformed";
	c->chap_alg = (int)alg;
	r = put_response(&t, c->i->conf.chap->name, c->chap_alg, digest);
	if (!r && c->i->conf.mutual)
		r = put_challenge(c, &t);
	if (r) {
		iscsi_text_free(&t);
		return "out of memory";
	}
	c->step = STEP_CHAP_R;
	send_login(c, &t, true, STAGE_OPERATIONAL);
	return NULL;
}

static const char *chap_answered(struct ini_conn *c)
{
	const char *n = c->keys.kept[KEPT_CHAP_N], *v = c->keys.kept[KEPT_CHAP_R];
	uint8_t want[CHAP_DIGEST_MAX], got[CHAP_DIGEST_MAX];
	size_t len = chap_digest_len(c->chap_alg);

	if (!c->i->conf.mutual)
		return NULL;
	if (!n || !v)
		return "target did not prove itself";
	if (c->i->conf.mutual->name && strcmp(n, c->i->conf.mutual->name))
		return "target has another CHAP name";
	if (chap_response(c->chap_alg, c->chap_id, c->i->conf.mutual->secret, c->challenge, sizeof(c->challenge), want) ||
	    chap_decode(v, got, sizeof(got)) != (int)len || !chap_equal(want, got, len))
		return "target's CHAP response is wrong";
	return NULL;
}

/* --- one whole text of the target --- */

static const char *full_feature(struct ini_conn *c)
{
	if (iscsi_keys_finish(&c->keys))
		return c->keys.why;
	c->header_digest = c->params.header_digest == ISCSI_DIGEST_CRC32C;
	c->data_digest = c->params.data_digest == ISCSI_DIGEST_CRC32C;
	ini_joined(c);
	return NULL;
}

/* The target answered but did not go on to the next stage: say what it asked for and propose again. */
static const char *again(struct ini_conn *c, struct iscsi_text *out)
{
	send_login(c, out, true, c->nsg);
	return NULL;
}

static const char *advance(struct ini_conn *c, bool transit, struct iscsi_text *out)
{
	const char *why = NULL;

	switch (c->step) {
	case STEP_METHOD:
		return chap_method(c);
	case STEP_CHAP_A:
		return chap_challenged(c);
	case STEP_CHAP_R:
		if (!transit)
			return again(c, out);
		why = chap_answered(c);
		if (!why)
			offer(c, out);
		return why;
	case STEP_OPERATIONAL:
		return transit ? full_feature(c) : again(c, out);
	}
	return why;
}

static const char *refusal(unsigned status)
{
	static const struct { uint16_t status; const char *why; } words[] = {
		{ LOGIN_MOVED_TEMP, "target moved temporarily" }, { LOGIN_MOVED_PERM, "target moved" },
		{ LOGIN_AUTH_FAILED, "authentication failed" }, { LOGIN_FORBIDDEN, "not allowed to use this target" },
		{ LOGIN_NOT_FOUND, "no such target" }, { LOGIN_REMOVED, "target was removed" },
		{ LOGIN_UNAVAILABLE, "target is unavailable" }, { LOGIN_NO_SESSION, "the session is gone" },
		{ LOGIN_TOO_MANY_CONNS, "too many connections" }, { LOGIN_NO_RESOURCES, "target is out of resources" },
	};

	for (size_t k = 0; k < ARRAY_LEN(words); k++)
		if (words[k].status == status)
			return words[k].why;
	return "login refused";
}

static const char *check_header(struct ini_conn *c, const uint8_t *bhs)
{
	uint8_t flags = bhs[BHS_FLAGS];
	bool transit = flags & LOGIN_TRANSIT;

	if (be32(bhs + BHS_ITT) != c->login_itt || memcmp(bhs + LOGIN_ISID, c->i->conf.isid, 6))
		return "login response to another request";
	if ((flags >> 2 & 3) != c->csg || (transit && (flags & FLAG_CONTINUE)))
		return "login response of another stage";
	if (transit && (flags & 3) != c->nsg)
		return "login response leads to another stage";
	if (++c->login_pdus > LIM_LOGIN_PDUS)
		return "login does not end";
	if (c->stat_sn_known && be32(bhs + BHS_STAT_SN) != c->exp_stat_sn)
		return "StatSN out of order";
	return NULL;
}

static void take_numbers(struct ini_conn *c, const uint8_t *bhs)
{
	c->exp_stat_sn = be32(bhs + BHS_STAT_SN) + 1;
	c->stat_sn_known = true;
	if (!c->keys.leading) /* targets are known to answer with the numbers of the request, not of the session */
		return;
	c->i->max_cmd_sn = be32(bhs + BHS_MAX_CMD_SN);
	c->i->exp_cmd_sn = c->i->cmd_sn;
	c->i->tsih = be16(bhs + LOGIN_TSIH);
}

static const char *one_text(struct ini_conn *c, bool transit)
{
	struct iscsi_text out = { 0 };
	const char *why = iscsi_keys_rx(&c->keys, &c->text, &out) ? c->keys.why : advance(c, transit, &out);

	iscsi_text_free(&out);
	c->text.len = 0;
	return why;
}

/* 11.13.5, class 1: where the target has moved. */
static void take_moved(struct ini_conn *c, const void *data, uint32_t len)
{
	uint32_t pos = 0;
	char *key, *value;

	c->text.len = 0;
	if (iscsi_text_add(&c->text, data, len))
		return;
	while (iscsi_text_next(&c->text, &pos, &key, &value) == 1)
		if (!strcmp(key, "TargetAddress"))
			snprintf(c->i->moved, sizeof(c->i->moved), "%s", value);
}

void ini_login_rx(struct ini_conn *c, const uint8_t *bhs, const void *data, uint32_t len)
{
	unsigned status = be16(bhs + LOGIN_CLASS);
	struct iscsi_text none = { 0 };
	const char *why;

	if (status) {
		if (status >> 8 == LOGIN_MOVED_TEMP >> 8)
			take_moved(c, data, len);
		ini_fail(c, status, refusal(status));
		return;
	}
	why = check_header(c, bhs);
	if (!why) {
		take_numbers(c, bhs);
		if (iscsi_text_add(&c->text, data, len))
			why = "login text is too long";
		else if (bhs[BHS_FLAGS] & FLAG_CONTINUE)
			send_login(c, &none, false, c->nsg);
		else
			why = one_text(c, bhs[BHS_FLAGS] & LOGIN_TRANSIT);
	}
	if (why)
		ini_fail(c, 0, why);
}

/* 11.11: an answer may come in several PDUs, each but the last with a TTT to ask for the next. */
void ini_text_rx(struct ini_conn *c, const uint8_t *bhs, const void *data, uint32_t len)
{
	struct ini_ctl *k;

	if (iscsi_text_add(&c->text, data, len)) {
		ini_fail(c, 0, "text answer is too long");
		return;
	}
	if (bhs[BHS_FLAGS] & FLAG_FINAL) {
		if (c->text_wanted)
			ini_event(c, INI_EV_TARGETS, 0, 0, c->text.buf, c->text.len, NULL);
		c->text_wanted = false;
		c->text.len = 0;
		return;
	}
	k = ini_ctl(c, ISCSI_TEXT_REQ | OP_IMMEDIATE, be32(bhs + BHS_ITT), NULL, 0);
	if (!k)
		return;
	memcpy(k->bhs + BHS_LUN, bhs + BHS_LUN, 8);
	memcpy(k->bhs + BHS_TTT, bhs + BHS_TTT, 4);
}
