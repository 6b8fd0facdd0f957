/* SPDX-License-Identifier: BSD-3-Clause
 * Login of `lunette check`: one request with any text, and whole logins (RFC 7143 6.3, 11.12, 12, 13). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iscsi/chap.h"
#include "iscsi/pdu.h"
#include "lunette/check/check.h"

static const char *const usual[] = {
	"HeaderDigest=None", "DataDigest=None", "MaxConnections=1", "InitialR2T=Yes", "ImmediateData=Yes",
	"MaxBurstLength=262144", "FirstBurstLength=65536", "DefaultTime2Wait=2", "DefaultTime2Retain=0",
	"MaxOutstandingR2T=1", "DataPDUInOrder=Yes", "DataSequenceInOrder=Yes", "ErrorRecoveryLevel=0",
	"MaxRecvDataSegmentLength=65536",
};
/* What a discovery session or a further connection offers. */
static const char *const few[] = { "HeaderDigest=None", "DataDigest=None", "MaxRecvDataSegmentLength=65536" };

void new_isid(struct check *k, uint8_t isid[6])
{
	uint32_t n = ++k->next_isid;

	isid[0] = 0x80; /* random format, 11.12.5 */
	isid[1] = 0;
	put_be32(isid + 2, n);
}

/* --- one request */

void login_put(struct conn *c, const struct login_req *l)
{
	struct req r = with_itt(immediate(req(ISCSI_LOGIN_REQ, l->flags)), l->itt);
	size_t n = l->ntext ? l->ntext : l->text ? strlen(l->text) : 0;
	char *raw = check_alloc(c->k, n + 2);

	if (n)
		memcpy(raw, l->text, n);
	for (size_t i = 0; !l->ntext && i < n; i++)
		raw[i] = raw[i] == '\n' ? 0 : raw[i];
	if (!l->ntext && n && raw[n - 1])
		n++;
	r.h[LOGIN_VERSION_MAX] = l->version_max;
	r.h[LOGIN_VERSION_MIN] = l->version_min;
	memcpy(r.h + LOGIN_ISID, l->own_isid ? l->isid : c->s->isid, 6);
	put_be16(r.h + LOGIN_TSIH, l->tsih);
	put_be16(r.h + LOGIN_CID, l->cid);
	put_be32(r.h + BHS_CMD_SN, l->cmd_sn);
	put_be32(r.h + BHS_EXP_STAT_SN, l->own_exp ? l->exp_stat : c->exp_stat);
	r.own_sn = true;
	r = with_data(r, raw, (uint32_t)n);
	put(c, &r);
}

struct pdu *login_get(struct conn *c)
{
	struct pdu *p = poll_pdu(c, (int)c->k->timeout_ms);

	if (!p && c->closed)
		return NULL;
	must(c->k, p, "no Login Response within %u s", c->k->timeout_ms / 1000);
	must(c->k, p->op == ISCSI_LOGIN_RSP, "a Login Request is answered with %s", pdu_words(c, p));
	c->status = be16(p->h + LOGIN_CLASS);
	must(c->k, p->len < CHECK_TEXT - c->ntext, "more than %d bytes of login text", CHECK_TEXT);
	memcpy(c->text + c->ntext, p->data, p->len);
	c->ntext += p->len;
	return p;
}

struct pdu *login_ask(struct conn *c, const struct login_req *l)
{
	login_put(c, l);
	struct pdu *p = login_get(c);
	must(c->k, p, "the connection ended (%s) instead of a Login Response", c->why);
	return p;
}

const char *login_names(struct conn *c, const char *more)
{
	const struct url *u = c->k->url;
	size_t room = 1024 + strlen(more);
	char *s = check_alloc(c->k, room);

	if (!c->s->initiator[0])
		snprintf(c->s->initiator, sizeof(c->s->initiator), "iqn.2026-11.test.lunette.check:initiator");
	if (c->s->discovery)
		snprintf(s, room, "InitiatorName=%s\nSessionType=Discovery\n%s", c->s->initiator, more);
	else
		snprintf(s, room, "InitiatorName=%s\nTargetName=%s\nSessionType=Normal\n%s", c->s->initiator, u->target, more);
	return s;
}

/* --- answers */

const char *answer(struct conn *c, const char *key)
{
	size_t n = strlen(key);

	c->text[MIN(c->ntext, (uint32_t)CHECK_TEXT - 1)] = 0;
	for (uint32_t at = 0; at < c->ntext; at += (uint32_t)strlen(c->text + at) + 1)
		if (strncmp(c->text + at, key, n) == 0 && c->text[at + n] == '=')
			return c->text + at + n + 1;
	return NULL;
}

bool all_answers(struct conn *c, const char *key, const char *value)
{
	size_t n = strlen(key);

	for (uint32_t at = 0; at < c->ntext; at += (uint32_t)strlen(c->text + at) + 1)
		if (strncmp(c->text + at, key, n) == 0 && c->text[at + n] == '=' && !strcmp(c->text + at + n + 1, value))
			return true;
	return false;
}

static bool yes(struct conn *c, const char *key, bool dflt)
{
	const char *v = answer(c, key);

	return !v || refused_text(v) ? dflt : strcmp(v, "Yes") == 0; /* unanswered where it decides nothing, 6.2.2 */
}

static uint32_t number_of(struct conn *c, const char *key, uint32_t dflt)
{
	const char *v = answer(c, key);

	return !v || refused_text(v) ? dflt : (uint32_t)strtoul(v, NULL, 0);
}

void take_result(struct conn *c, const char *offer)
{
	const char *hd = answer(c, "HeaderDigest"), *dd = answer(c, "DataDigest");
	struct session *s = c->s;

	c->hd = hd && !strcmp(hd, "CRC32C");
	c->dd = dd && !strcmp(dd, "CRC32C");
	c->send_max = number_of(c, "MaxRecvDataSegmentLength", 8192);
	if (c->send_max < 512)
		c->send_max = 512;
	if (c->cid != 0 && s->max_conns != 1)
		return;
	s->first_burst = number_of(c, "FirstBurstLength", s->first_burst);
	s->max_burst = number_of(c, "MaxBurstLength", s->max_burst);
	s->max_r2t = number_of(c, "MaxOutstandingR2T", s->max_r2t);
	s->erl = number_of(c, "ErrorRecoveryLevel", 0);
	s->max_conns = number_of(c, "MaxConnections", 1);
	s->time2wait = number_of(c, "DefaultTime2Wait", 2);
	s->time2retain = number_of(c, "DefaultTime2Retain", 0);
	s->level = number_of(c, "iSCSIProtocolLevel", 1);
	s->initial_r2t = yes(c, "InitialR2T", true);
	s->immediate = yes(c, "ImmediateData", !strstr(offer, "ImmediateData=No"));
}

/* --- the security stage */

static struct login_req usual_req(struct conn *c, uint8_t flags, const char *text)
{
	return (struct login_req){ .flags = flags, .tsih = c->s->tsih, .cid = c->cid, .itt = 1, .cmd_sn = c->s->cmd_sn,
		.text = text };
}

static void chap(struct conn *c)
{
	struct check *k = c->k;
	struct login_req l = usual_req(c, LOGIN_STAY(CSG_SECURITY), "CHAP_A=5,7,6,8");
	uint8_t challenge[CHAP_CHALLENGE_MAX], digest[CHAP_DIGEST_MAX];
	char hex[2 * CHAP_DIGEST_MAX + 3], *text = check_alloc(k, 512);

	login_ask(c, &l);
	const char *a = answer(c, "CHAP_A"), *i = answer(c, "CHAP_I"), *ch = answer(c, "CHAP_C");
	must(k, c->status == 0 && a && i && ch, "CHAP_A is answered without a challenge, status %04x", c->status);
	int n = chap_decode(ch, challenge, sizeof(challenge)), alg = (int)strtol(a, NULL, 10);
	must(k, n > 0 && chap_digest_len(alg), "CHAP_A=%.20s, CHAP_C of %d bytes", a, n);
	must(k, !chap_response(alg, (uint8_t)strtol(i, NULL, 0), k->url->secret, challenge, (size_t)n, digest), "CHAP");
	chap_encode_hex(digest, chap_digest_len(alg), hex);
	snprintf(text, 512, "CHAP_N=%s\nCHAP_R=%s", k->url->user, hex);
	l = usual_req(c, LOGIN_T(CSG_SECURITY, CSG_OPERATIONAL), text);
	login_ask(c, &l);
}

/* Status 0 and the operational stage, or the status. */
static uint16_t security(struct conn *c)
{
	bool user = c->k->url->user[0];
	const char *names = login_names(c, user ? "AuthMethod=CHAP,None" : "AuthMethod=None");
	struct login_req l = usual_req(c, LOGIN_T(CSG_SECURITY, CSG_OPERATIONAL), names);
	struct pdu *p = login_ask(c, &l);

	for (unsigned n = 0; c->status == 0 && !(p->h[BHS_FLAGS] & LOGIN_TRANSIT) && n < 4; n++) {
		const char *method = answer(c, "AuthMethod");
		if (method && !strcmp(method, "CHAP")) {
			must(c->k, user, "the target wants CHAP; give iscsi://user%%secret@host/...");
			chap(c);
			return c->status;
		}
		l = usual_req(c, LOGIN_T(CSG_SECURITY, CSG_OPERATIONAL), NULL);
		p = login_ask(c, &l);
	}
	must(c->k, c->status || (p->h[BHS_FLAGS] & 0x83) == LOGIN_T(0, CSG_OPERATIONAL), "the security stage does not end");
	return c->status;
}

void login_security(struct conn *c)
{
	uint16_t status = security(c);

	must(c->k, status == 0, "login is refused with status %04x", status);
}

/* --- a whole login */

static size_t key_len(const char *pair)
{
	return strcspn(pair, "=\n");
}

/* Does the caller's text say something about the key of that pair? */
static bool named(const char *keys, const char *pair)
{
	size_t n = key_len(pair);

	for (const char *at = keys; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
		const char *name = at + (*at == '-');
		if (key_len(name) == n && !memcmp(name, pair, n))
			return true;
	}
	return false;
}

static char *merge(struct check *k, const char *keys, bool short_offer)
{
	const char *const *from = short_offer ? few : usual;
	size_t n = short_offer ? ARRAY_LEN(few) : ARRAY_LEN(usual), at = 0, room = strlen(keys) + 1024;
	char *s = check_alloc(k, room);

	for (size_t i = 0; i < n; i++)
		if (!named(keys, from[i]))
			at += (size_t)snprintf(s + at, room - at, "%s\n", from[i]);
	for (const char *p = keys, *after; p && *p; p = after) { /* of a key that is there twice, the last */
		after = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL;
		if (*p != '-' && !(after && named(after, p)))
			at += (size_t)snprintf(s + at, room - at, "%.*s\n", (int)strcspn(p, "\n"), p);
	}
	return s;
}

/* What the target proposed itself and we did not offer: agree, but never to digests. */
static char *agree(struct conn *c, const char *offered, const char *said, uint32_t n)
{
	char *s = check_alloc(c->k, n + 64u);
	size_t at = 0;

	for (uint32_t i = 0; i < n; i += (uint32_t)strlen(said + i) + 1) {
		const char *pair = said + i;
		if (!strchr(pair, '=') || named(offered, pair) || !strncmp(pair, "Target", 6) || !strncmp(pair,
			"AuthMethod", 10) ||
		    !strncmp(pair, "MaxRecv", 7))
			continue;
		size_t len = key_len(pair);
		if (!strncmp(pair, "OFMarker=", 9) || !strncmp(pair, "IFMarker=", 9))
			at += (size_t)snprintf(s + at, n + 64u - at, "%.*s=No\n", (int)len, pair);
		else
			at += (size_t)snprintf(s + at, n + 64u - at, "%s\n", pair);
	}
	return s;
}

static uint16_t operational(struct conn *c, const char *offer)
{
	struct login_req l = usual_req(c, LOGIN_T(CSG_OPERATIONAL, CSG_FULL), offer);
	struct pdu *p;

	for (unsigned n = 0; n < 16; n++) {
		uint32_t before = c->ntext;
		p = login_ask(c, &l);
		if (c->status || (p->h[BHS_FLAGS] & LOGIN_TRANSIT))
			break;
		bool more = p->h[BHS_FLAGS] & FLAG_CONTINUE;
		l = usual_req(c, more ? LOGIN_STAY(CSG_OPERATIONAL) : LOGIN_T(CSG_OPERATIONAL, CSG_FULL),
			more ? NULL : agree(c, offer, c->text + before, c->ntext - before));
	}
	must(c->k, c->status || (p->h[BHS_FLAGS] & 0x83) == LOGIN_T(0, CSG_FULL), "the login phase does not end");
	if (c->status == 0)
		c->s->tsih = be16(p->h + LOGIN_TSIH);
	return c->status;
}

uint16_t login_all(struct conn *c, const char *keys, bool disc)
{
	c->s->discovery = disc;
	c->ntext = 0;
	if (security(c))
		return c->status;
	char *offer = merge(c->k, keys, disc || c->s->tsih);
	if (operational(c, offer))
		return c->status;
	const char *recv = strstr(offer, "MaxRecvDataSegmentLength=");
	c->recv_max = recv ? (uint32_t)strtoul(recv + 25, NULL, 0) : 8192;
	c->full = true;
	take_result(c, offer);
	return 0;
}

/* What an administrator can do about it. */
static const char *hint(uint16_t status)
{
	return status == LOGIN_AUTH_FAILED ? ": write iscsi://USER%SECRET@HOST/..."
		: status == LOGIN_NOT_FOUND ? ": there is no such target; lunette discover lists those that there are"
		: status == LOGIN_FORBIDDEN ? ": this initiator may not use the target" : "";
}

static struct conn *logged_in(struct check *k, const char *keys, bool disc)
{
	struct conn *c = dial(k);
	uint16_t status = login_all(c, keys, disc);

	must(k, status == 0, "login is refused with status %04x%s", status, hint(status));
	return c;
}

struct conn *session(struct check *k, const char *keys)
{
	struct conn *c = logged_in(k, keys, false);

	for (unsigned i = 0; k->block && i < 8 && tur(c).status; i++)
		;
	return c;
}

struct conn *discovery(struct check *k, const char *keys)
{
	return logged_in(k, keys, true);
}

struct conn *session_with(struct check *k, const char *keys, const char *key, const char *value)
{
	size_t room = strlen(keys) + strlen(key) + strlen(value) + 4;
	char *all = check_alloc(k, room);

	snprintf(all, room, "%s%s%s=%s", keys, *keys ? "\n" : "", key, value);
	struct conn *c = session(k, all);
	const char *v = answer(c, key);
	if (!v || strcmp(v, value))
		check_unsupported(k, "%s=%s was offered, %s%s was the answer", key, value, v ? "" : "nothing", v ? v : "");
	return c;
}

struct conn *join_to(struct conn *c, uint16_t cid, const char *host, const char *port, uint16_t *ret_status)
{
	struct conn *d = dial_to(c->k, host, port);

	d->s = c->s;
	d->cid = cid;
	const char *keys = c->hd || c->dd ? "HeaderDigest=CRC32C,None\nDataDigest=CRC32C,None" : "";
	uint16_t status = login_all(d, keys, false);
	if (ret_status)
		*ret_status = status;
	must(c->k, ret_status || status == 0, "connection %u is refused with status %04x", cid, status);
	return status ? NULL : d;
}

struct conn *join(struct conn *c, uint16_t cid, uint16_t *ret_status)
{
	return join_to(c, cid, c->k->url->host, c->k->url->port, ret_status);
}
