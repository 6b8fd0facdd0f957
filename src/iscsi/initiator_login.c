/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: login phase (RFC 7143 section 6, 11.12) with CHAP (12.1.3), and the text exchange of
 * SendTargets. Without authentication one request and one response are the whole login. */
#include "iscsi/initiator_impl.h"

#include <stdio.h>
#include <stdlib.h>

static const int algs[] = { CHAP_SHA3_256, CHAP_SHA256, CHAP_SHA1, CHAP_MD5 }; /* strongest first */
enum { STAGE_SECURITY = 0, STAGE_OPERATIONAL = 1, STAGE_FULL_FEATURE = 3 };

/* 11.12. transit: T bit, to stage nsg. Takes the text over. */
static void send_login(struct iscsi_ini *i, struct iscsi_text *t, bool transit, uint8_t nsg)
{
	struct ini_ctl *k = ini_ctl(i, ISCSI_LOGIN_REQ | OP_IMMEDIATE, 1, t->buf, t->len);

	iscsi_text_free(t);
	if (!k)
		return;
	k->bhs[BHS_FLAGS] = (uint8_t)((transit ? LOGIN_TRANSIT | nsg : 0) | i->csg << 2);
	i->nsg = nsg;
	memcpy(k->bhs + LOGIN_ISID, i->conf.isid, 6);
	put_be16(k->bhs + LOGIN_TSIH, i->tsih);
	put_be16(k->bhs + LOGIN_CID, i->conf.cid);
}

static int put_names(struct iscsi_ini *i, struct iscsi_text *t)
{
	int r = iscsi_text_put(t, "InitiatorName", "%s", i->conf.initiator);

	if (!r)
		r = iscsi_text_put(t, "SessionType", "%s", i->conf.target ? "Normal" : "Discovery");
	if (!r && i->conf.target)
		r = iscsi_text_put(t, "TargetName", "%s", i->conf.target);
	return r;
}

static void offer(struct iscsi_ini *i, struct iscsi_text *t)
{
	i->step = STEP_OPERATIONAL;
	i->csg = STAGE_OPERATIONAL;
	i->keys.stage = ISCSI_IN_OPERATIONAL;
	if (iscsi_keys_offer(&i->keys, t)) {
		iscsi_text_free(t);
		ini_close(i, 0, "out of memory");
		return;
	}
	send_login(i, t, true, STAGE_FULL_FEATURE);
}

void ini_login_start(struct iscsi_ini *i)
{
	struct iscsi_text t = { 0 };
	int r = put_names(i, &t);

	iscsi_params_defaults(&i->params);
	i->params.discovery = !i->conf.target;
	snprintf(i->params.initiator, sizeof(i->params.initiator), "%s", i->conf.initiator);
	snprintf(i->params.target, sizeof(i->params.target), "%s", i->conf.target ? i->conf.target : "");
	iscsi_keys_init(&i->keys, ISCSI_AS_INITIATOR, &i->conf.offer, &i->params);
	if (!i->conf.chap) {
		offer(i, &t);
		return;
	}
	i->step = STEP_METHOD;
	i->csg = STAGE_SECURITY;
	i->keys.stage = ISCSI_IN_SECURITY;
	if (!r)
		r = iscsi_text_put(&t, "AuthMethod", "CHAP");
	if (r) {
		iscsi_text_free(&t);
		ini_close(i, 0, "out of memory");
		return;
	}
	send_login(i, &t, false, 0);
}

/* --- CHAP --- */

static const char *chap_method(struct iscsi_ini *i)
{
	struct iscsi_text t = { 0 };
	char list[32] = "";
	const char *v = i->keys.kept[KEPT_AUTH_METHOD];

	if (!v || strcmp(v, "CHAP"))
		return "target does not offer CHAP";
	for (size_t k = 0; k < ARRAY_LEN(algs); k++)
		if (!i->conf.chap_algs || i->conf.chap_algs & 1u << algs[k])
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%d", *list ? "," : "", algs[k]);
	if (iscsi_text_put(&t, "CHAP_A", "%s", list))
		return "out of memory";
	i->step = STEP_CHAP_A;
	send_login(i, &t, false, 0);
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
static int put_challenge(struct iscsi_ini *i, struct iscsi_text *t)
{
	char hex[2 + 2 * sizeof(i->challenge) + 1];
	int r;

	i->conf.random(i->challenge, sizeof(i->challenge));
	i->conf.random(&i->chap_id, 1);
	chap_encode_hex(i->challenge, sizeof(i->challenge), hex);
	r = iscsi_text_put(t, "CHAP_I", "%u", i->chap_id);
	return r ? r : iscsi_text_put(t, "CHAP_C", "%s", hex);
}

static const char *chap_challenged(struct iscsi_ini *i)
{
	const char *a = i->keys.kept[KEPT_CHAP_A], *id = i->keys.kept[KEPT_CHAP_I], *c = i->keys.kept[KEPT_CHAP_C];
	uint8_t challenge[CHAP_CHALLENGE_MAX], digest[CHAP_DIGEST_MAX];
	struct iscsi_text t = { 0 };
	uint64_t alg, idn;
	int n, r;

	if (!a || !id || !c || iscsi_number(a, &alg) || iscsi_number(id, &idn) || idn > 255)
		return "target's CHAP challenge is incomplete";
	if (alg > 8 || (i->conf.chap_algs && !(i->conf.chap_algs & 1u << alg)))
		return "target chose a CHAP algorithm that was not offered";
	n = chap_decode(c, challenge, sizeof(challenge));
	if (n < 1 || chap_response((int)alg, (uint8_t)idn, i->conf.chap->secret, challenge, (size_t)n, digest))
		return "target's CHAP challenge is malformed";
	i->chap_alg = (int)alg;
	r = put_response(&t, i->conf.chap->name, i->chap_alg, digest);
	if (!r && i->conf.mutual)
		r = put_challenge(i, &t);
	if (r) {
		iscsi_text_free(&t);
		return "out of memory";
	}
	i->step = STEP_CHAP_R;
	send_login(i, &t, true, STAGE_OPERATIONAL);
	return NULL;
}

static const char *chap_answered(struct iscsi_ini *i)
{
	const char *n = i->keys.kept[KEPT_CHAP_N], *v = i->keys.kept[KEPT_CHAP_R];
	uint8_t want[CHAP_DIGEST_MAX], got[CHAP_DIGEST_MAX];
	size_t len = chap_digest_len(i->chap_alg);

	if (!i->conf.mutual)
		return NULL;
	if (!n || !v)
		return "target did not prove itself";
	if (i->conf.mutual->name && strcmp(n, i->conf.mutual->name))
		return "target has another CHAP name";
	if (chap_response(i->chap_alg, i->chap_id, i->conf.mutual->secret, i->challenge, sizeof(i->challenge), want) ||
	    chap_decode(v, got, sizeof(got)) != (int)len || !chap_equal(want, got, len))
		return "target's CHAP response is wrong";
	return NULL;
}

/* --- one whole text of the target --- */

static const char *full_feature(struct iscsi_ini *i)
{
	if (iscsi_keys_finish(&i->keys))
		return i->keys.why;
	i->header_digest = i->params.header_digest == ISCSI_DIGEST_CRC32C;
	i->data_digest = i->params.data_digest == ISCSI_DIGEST_CRC32C;
	i->state = INI_FFP;
	ini_event(i, INI_EV_LOGGED_IN, 0, NULL, 0, NULL);
	return NULL;
}

/* The target answered but did not go on to the next stage: say what it asked for and propose again. */
static const char *again(struct iscsi_ini *i, struct iscsi_text *out)
{
	send_login(i, out, true, i->nsg);
	return NULL;
}

static const char *advance(struct iscsi_ini *i, bool transit, struct iscsi_text *out)
{
	const char *why = NULL;

	switch (i->step) {
	case STEP_METHOD:
		return chap_method(i);
	case STEP_CHAP_A:
		return chap_challenged(i);
	case STEP_CHAP_R:
		if (!transit)
			return again(i, out);
		why = chap_answered(i);
		if (!why)
			offer(i, out);
		return why;
	case STEP_OPERATIONAL:
		return transit ? full_feature(i) : again(i, out);
	}
	return why;
}

static const char *refusal(unsigned status)
{
	static const struct { uint16_t status; const char *why; } words[] = {
		{ LOGIN_MOVED_TEMP, "target moved temporarily" }, { LOGIN_MOVED_PERM, "target moved" },
		{ LOGIN_AUTH_FAILED, "authentication failed" }, { LOGIN_FORBIDDEN, "not allowed to use this target" },
		{ LOGIN_NOT_FOUND, "no such target" }, { LOGIN_REMOVED, "target was removed" },
		{ LOGIN_UNAVAILABLE, "target is unavailable" }, { LOGIN_NO_RESOURCES, "target is out of resources" },
	};

	for (size_t k = 0; k < ARRAY_LEN(words); k++)
		if (words[k].status == status)
			return words[k].why;
	return "login refused";
}

static const char *check_header(struct iscsi_ini *i, const uint8_t *bhs)
{
	uint8_t flags = bhs[BHS_FLAGS];
	bool transit = flags & LOGIN_TRANSIT;

	if (be32(bhs + BHS_ITT) != 1 || memcmp(bhs + LOGIN_ISID, i->conf.isid, 6))
		return "login response to another request";
	if ((flags >> 2 & 3) != i->csg || (transit && (flags & FLAG_CONTINUE)))
		return "login response of another stage";
	if (transit && (flags & 3) != i->nsg)
		return "login response leads to another stage";
	if (++i->login_pdus > LIM_LOGIN_PDUS)
		return "login does not end";
	if (i->stat_sn_known && be32(bhs + BHS_STAT_SN) != i->exp_stat_sn)
		return "StatSN out of order";
	return NULL;
}

static void take_numbers(struct iscsi_ini *i, const uint8_t *bhs)
{
	i->exp_stat_sn = be32(bhs + BHS_STAT_SN) + 1;
	i->stat_sn_known = true;
	i->max_cmd_sn = be32(bhs + BHS_MAX_CMD_SN);
	i->tsih = be16(bhs + LOGIN_TSIH);
}

static const char *one_text(struct iscsi_ini *i, bool transit)
{
	struct iscsi_text out = { 0 };
	const char *why = iscsi_keys_rx(&i->keys, &i->text, &out) ? i->keys.why : advance(i, transit, &out);

	iscsi_text_free(&out);
	i->text.len = 0;
	return why;
}

/* 11.13.5, class 1: where the target has moved. */
static void take_moved(struct iscsi_ini *i, const void *data, uint32_t len)
{
	uint32_t pos = 0;
	char *key, *value;

	i->text.len = 0;
	if (iscsi_text_add(&i->text, data, len))
		return;
	while (iscsi_text_next(&i->text, &pos, &key, &value) == 1)
		if (!strcmp(key, "TargetAddress"))
			snprintf(i->moved, sizeof(i->moved), "%s", value);
}

void ini_login_rx(struct iscsi_ini *i, const uint8_t *bhs, const void *data, uint32_t len)
{
	unsigned status = be16(bhs + LOGIN_CLASS);
	struct iscsi_text none = { 0 };
	const char *why;

	if (status) {
		if (status >> 8 == LOGIN_MOVED_TEMP >> 8)
			take_moved(i, data, len);
		ini_close(i, status, refusal(status));
		return;
	}
	why = check_header(i, bhs);
	if (!why) {
		take_numbers(i, bhs);
		if (iscsi_text_add(&i->text, data, len))
			why = "login text is too long";
		else if (bhs[BHS_FLAGS] & FLAG_CONTINUE)
			send_login(i, &none, false, i->nsg);
		else
			why = one_text(i, bhs[BHS_FLAGS] & LOGIN_TRANSIT);
	}
	if (why)
		ini_close(i, 0, why);
}

/* 11.11: an answer may come in several PDUs, each but the last with a TTT to ask for the next. */
void ini_text_rx(struct iscsi_ini *i, const uint8_t *bhs, const void *data, uint32_t len)
{
	struct ini_ctl *k;

	if (iscsi_text_add(&i->text, data, len)) {
		ini_close(i, 0, "text answer is too long");
		return;
	}
	if (bhs[BHS_FLAGS] & FLAG_FINAL) {
		ini_event(i, INI_EV_TARGETS, 0, i->text.buf, i->text.len, NULL);
		i->text.len = 0;
		return;
	}
	k = ini_ctl(i, ISCSI_TEXT_REQ | OP_IMMEDIATE, be32(bhs + BHS_ITT), NULL, 0);
	if (!k)
		return;
	memcpy(k->bhs + BHS_LUN, bhs + BHS_LUN, 8);
	memcpy(k->bhs + BHS_TTT, bhs + BHS_TTT, 4);
}
