/* SPDX-License-Identifier: BSD-3-Clause
 * Security stage of a target: see auth.h. An unknown user takes the same path as a wrong secret, with the same
 * work, so that neither answer nor time tells which names exist. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "iscsi/auth.h"
#include "iscsi/keys.h"

enum { CHAP_NAME_MAX = 255 };

__attribute__((format(printf, 2, 3)))
static uint16_t refuse(struct iscsi_auth *a, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(a->why, sizeof(a->why), fmt, ap);
	va_end(ap);
	return LOGIN_AUTH_FAILED;
}

static uint16_t put(struct iscsi_auth *a, struct iscsi_text *out, const char *key, const char *value)
{
	if (!iscsi_text_put(out, key, "%s", value))
		return LOGIN_OK;
	refuse(a, "no memory for the answer");
	return LOGIN_NO_RESOURCES;
}

/* 6.3.2: the first method of the initiator's list that is supported and allowed for it. */
static uint16_t choose_method(struct iscsi_auth *a, const struct iscsi_login_policy *p, const char *list,
	struct iscsi_text *out)
{
	bool answer = a->state == AUTH_PROPOSED && !strchr(list, ','); /* to our proposal: needs none itself */

	if (p->nusers && !iscsi_list_has(list, "CHAP"))
		return refuse(a, "initiator offers no CHAP (offers %.40s)", list);
	if (!p->nusers && !iscsi_list_has(list, "None"))
		return refuse(a, "initiator insists on authentication (%.40s) but no user is configured", list);
	a->state = p->nusers ? AUTH_CHAP : AUTH_PASSED;
	return answer ? LOGIN_OK : put(a, out, "AuthMethod", p->nusers ? "CHAP" : "None");
}

/* The first algorithm of the initiator's list that the policy allows. */
static int choose_alg(unsigned mask, const char *list)
{
	while (*list) {
		char item[12];
		size_t len = strcspn(list, ",");
		uint64_t v;
		snprintf(item, sizeof(item), "%.*s", (int)MIN(len, sizeof(item) - 1), list);
		if (len < sizeof(item) && !iscsi_number(item, &v) && v < 32 && (mask & 1u << v) && chap_digest_len((int)v))
			return (int)v;
		list += len + (list[len] == ',');
	}
	return 0;
}

static uint16_t challenge(struct iscsi_auth *a, const struct iscsi_login_policy *p, const char *list,
	void (*random)(void *p, size_t n), struct iscsi_text *out)
{
	char hex[2 + 2 * CHAP_DIGEST_MAX + 1];

	a->alg = choose_alg(p->chap_algs, list);
	if (!a->alg)
		return refuse(a, "no CHAP algorithm of '%.40s' is allowed here", list);
	random(&a->id, 1);
	a->challenge_len = chap_digest_len(a->alg);
	random(a->challenge, a->challenge_len);
	chap_encode_hex(a->challenge, a->challenge_len, hex);
	a->state = AUTH_CHALLENGED;
	if (!iscsi_text_put(out, "CHAP_A", "%d", a->alg) && !iscsi_text_put(out, "CHAP_I", "%u", a->id))
		return put(a, out, "CHAP_C", hex);
	return put(a, out, "CHAP_C", hex);
}

static const struct iscsi_chap_user *find_user(const struct iscsi_login_policy *p, const char *name)
{
	const struct iscsi_chap_user *found = NULL;

	for (unsigned i = 0; i < p->nusers; i++)
		if (!strcmp(p->users[i].name, name))
			found = &p->users[i];
	return found;
}

/* 9.2.1: our own mutual secret must not be what the initiator answered with. */
static bool answered_with_our_secret(struct iscsi_auth *a, const struct iscsi_login_policy *p, const uint8_t *response)
{
	uint8_t ours[CHAP_DIGEST_MAX];

	return p->mutual && !chap_response(a->alg, a->id, p->mutual->secret, a->challenge, a->challenge_len, ours) &&
		chap_equal(ours, response, chap_digest_len(a->alg));
}

/* A secret is rotated without a moment in which initiators are locked out: the one before is taken until its time. */
static bool answered_with_previous(const struct iscsi_auth *a, const struct iscsi_chap_user *u, const uint8_t *response)
{
	uint8_t want[CHAP_DIGEST_MAX];

	return u && u->previous && !chap_response(a->alg, a->id, u->previous, a->challenge, a->challenge_len, want) &&
		chap_equal(want, response, chap_digest_len(a->alg));
}

static uint16_t check_response(struct iscsi_auth *a, const struct iscsi_login_policy *p, const struct auth_keys *k)
{
	uint8_t got[CHAP_CHALLENGE_MAX] = { 0 }, want[CHAP_DIGEST_MAX];
	size_t need = chap_digest_len(a->alg);

	if (!k->chap_n || !k->chap_r)
		return refuse(a, "initiator sends no %s", k->chap_n ? "CHAP_R" : "CHAP_N");
	if (strlen(k->chap_n) > CHAP_NAME_MAX)
		return refuse(a, "CHAP_N is longer than %d bytes", CHAP_NAME_MAX);
	int len = chap_decode(k->chap_r, got, sizeof(got));
	const struct iscsi_chap_user *u = find_user(p, k->chap_n);
	if (chap_response(a->alg, a->id, u ? u->secret : "no such user", a->challenge, a->challenge_len, want) < 0) {
		refuse(a, "the system's OpenSSL has no digest for CHAP algorithm %d", a->alg);
		return LOGIN_TARGET_ERROR;
	}
	bool equal = chap_equal(got, want, need) && len == (int)need;
	bool previous = answered_with_previous(a, u, got) && len == (int)need;
	if (!u)
		return refuse(a, "user '%s' unknown", k->chap_n);
	if (answered_with_our_secret(a, p, got))
		return refuse(a, "user '%s' has the target's own (mutual) secret", u->name);
	if (!equal && previous && u->until_s && p->now_s >= u->until_s)
		return refuse(a, "user '%s' has the previous secret, which is no longer valid", u->name);
	if (!equal && !previous)
		return refuse(a, len < 0 ? "CHAP_R of user '%s' is malformed" : "wrong secret for user '%s'", u->name);
	a->user = u->name;
	a->previous = !equal;
	return LOGIN_OK;
}

/* The initiator wants the target to prove itself: answer its challenge. */
static uint16_t mutual(struct iscsi_auth *a, const struct iscsi_login_policy *p, const struct auth_keys *k,
	struct iscsi_text *out)
{
	uint8_t theirs[CHAP_CHALLENGE_MAX], digest[CHAP_DIGEST_MAX];
	char hex[2 + 2 * CHAP_DIGEST_MAX + 1];
	uint64_t id;

	if (!k->chap_i || !k->chap_c)
		return refuse(a, "initiator sends only one of CHAP_I and CHAP_C");
	if (!p->mutual)
		return refuse(a, "initiator asks the target to authenticate, but no mutual secret is configured");
	if (iscsi_number(k->chap_i, &id) < 0 || id > 255)
		return refuse(a, "CHAP_I is no number from 0 to 255");
	int len = chap_decode(k->chap_c, theirs, sizeof(theirs));
	if (len < 1)
		return refuse(a, "CHAP_C is malformed or longer than %d bytes", CHAP_CHALLENGE_MAX);
	if ((size_t)len == a->challenge_len && chap_equal(theirs, a->challenge, a->challenge_len))
		return refuse(a, "initiator reflects the target's own challenge");
	if (chap_response(a->alg, (uint8_t)id, p->mutual->secret, theirs, (size_t)len, digest) < 0)
		return LOGIN_TARGET_ERROR;
	chap_encode_hex(digest, chap_digest_len(a->alg), hex);
	uint16_t status = put(a, out, "CHAP_N", p->mutual->name);
	return status ? status : put(a, out, "CHAP_R", hex);
}

static uint16_t verify(struct iscsi_auth *a, const struct iscsi_login_policy *p, const struct auth_keys *k,
	struct iscsi_text *out)
{
	uint16_t status = check_response(a, p, k);

	if (!status && (k->chap_i || k->chap_c))
		status = mutual(a, p, k, out);
	else if (!status && p->require_mutual)
		status = refuse(a, "initiator does not ask the target to authenticate, which is required here");
	if (!status)
		a->state = AUTH_PASSED;
	return status;
}

/* 6.3.2: "the negotiation might also be directed by the target": when the initiator wants to leave the stage
 * without a proposal. Once; silence after that is a refusal. */
static uint16_t no_method(struct iscsi_auth *a, const struct iscsi_login_policy *p, bool transit, struct iscsi_text *out)
{
	if (!p->nusers || !transit)
		return LOGIN_OK;
	if (a->state == AUTH_PROPOSED)
		return refuse(a, "initiator offers no CHAP");
	a->state = AUTH_PROPOSED;
	return put(a, out, "AuthMethod", "CHAP");
}

static bool chap_answer(const struct auth_keys *k)
{
	return k->chap_n || k->chap_r || k->chap_i || k->chap_c;
}

uint16_t auth_step(struct iscsi_auth *a, const struct iscsi_login_policy *p, const struct auth_keys *k,
	void (*random)(void *p, size_t n), struct iscsi_text *out)
{
	bool first = a->state == AUTH_START || a->state == AUTH_PROPOSED;
	bool came_challenged = a->state == AUTH_CHALLENGED;
	uint16_t status = LOGIN_OK;

	if (k->method && !first)
		return refuse(a, "AuthMethod comes after the method was chosen");
	if (first)
		status = k->method ? choose_method(a, p, k->method, out) : no_method(a, p, k->transit, out);
	if (status)
		return status;
	if (chap_answer(k) && !came_challenged)
		return refuse(a, "CHAP response without a challenge");
	if (k->chap_a && a->state != AUTH_CHAP)
		return refuse(a, "CHAP_A out of turn");
	if (k->chap_a)
		return challenge(a, p, k->chap_a, random, out);
	if (came_challenged)
		return verify(a, p, k, out);
	return LOGIN_OK;
}
