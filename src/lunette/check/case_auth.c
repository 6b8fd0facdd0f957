/* SPDX-License-Identifier: BSD-3-Clause
 * Suite auth: CHAP, where the URL has a user (RFC 7143 6.1, 9.2.1, 12.1, 12.1.3). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iscsi/chap.h"
#include "lunette/check/check.h"

struct challenge { int alg; uint8_t id, bytes[CHAP_CHALLENGE_MAX]; size_t len; char text[2 * CHAP_CHALLENGE_MAX + 4]; };

static struct login_req next_req(uint8_t flags, const char *text)
{
	return (struct login_req){ .flags = flags, .itt = 1, .cmd_sn = 1, .text = text };
}

/* Up to CHAP_A: the answer is in c->text. */
static struct conn *to_algorithms(struct check *k, const char *algorithms)
{
	struct conn *c = dial(k);
	struct login_req l;

	if (!k->url->user[0])
		check_unsupported(k, "the URL has no user");
	l = next_req(LOGIN_STAY(CSG_SECURITY), login_names(c, "AuthMethod=CHAP"));
	login_ask(c, &l);
	const char *v = answer(c, "AuthMethod");
	must(k, c->status == 0 && v && !strcmp(v, "CHAP"), "AuthMethod=CHAP: status %04x, AuthMethod=%s", c->status,
		v ? v : "(absent)");
	c->ntext = 0;
	l = next_req(LOGIN_STAY(CSG_SECURITY), algorithms);
	login_put(c, &l);
	login_get(c);
	return c;
}

static struct conn *to_challenge(struct check *k, const char *algorithms, struct challenge *ret)
{
	struct conn *c = to_algorithms(k, algorithms);
	const char *a = answer(c, "CHAP_A"), *i = answer(c, "CHAP_I"), *ch = answer(c, "CHAP_C");

	must(k, !c->closed && c->status == 0 && a && i && ch, "%s: status %04x, no challenge", algorithms, c->status);
	int n = chap_decode(ch, ret->bytes, sizeof(ret->bytes));
	ret->alg = (int)strtol(a, NULL, 10);
	ret->id = (uint8_t)strtol(i, NULL, 0);
	must(k, n > 0 && chap_digest_len(ret->alg), "CHAP_A=%.20s, CHAP_C of %d bytes", a, n);
	ret->len = (size_t)n;
	snprintf(ret->text, sizeof(ret->text), "%s", ch);
	return c;
}

/* CHAP_N and CHAP_R for that challenge with that secret, and more pairs. */
static const char *response(struct conn *c, const struct challenge *ch, const char *user, const char *secret, const char *more)
{
	uint8_t digest[CHAP_DIGEST_MAX];
	char hex[2 * CHAP_DIGEST_MAX + 3], *text = check_alloc(c->k, 4096);

	must(c->k, !chap_response(ch->alg, ch->id, secret, ch->bytes, ch->len, digest), "CHAP");
	chap_encode_hex(digest, chap_digest_len(ch->alg), hex);
	snprintf(text, 4096, "CHAP_N=%s\nCHAP_R=%s%s%s", user, hex, *more ? "\n" : "", more);
	return text;
}

/* The last step of the security stage: the response, or NULL when the connection ended. */
static struct pdu *conclude(struct conn *c, const char *text)
{
	struct login_req l = next_req(LOGIN_T(CSG_SECURITY, CSG_OPERATIONAL), text);

	c->ntext = 0;
	login_put(c, &l);
	return login_get(c);
}

static void refused(struct conn *c, const char *text, const char *what)
{
	struct check *k = c->k;
	struct pdu *p = conclude(c, text);

	must(k, !p || c->status >> 8 == 2, "%s: status %04x", what, c->status);
	must(k, gone(c, (int)k->timeout_ms), "%s: refused, but the connection stays open (11.13.5)", what);
}

CASE(auth, right, "12.1.3", 0, "the right name and secret pass")
{
	struct challenge ch;
	struct conn *c = to_challenge(k, "CHAP_A=5,7,6,8", &ch);
	struct pdu *p = conclude(c, response(c, &ch, k->url->user, k->url->secret, ""));

	must(k, p && c->status == 0 && p->h[1] == LOGIN_T(CSG_SECURITY, CSG_OPERATIONAL), "status %04x", c->status);
}

CASE(auth, each_algorithm, "12.1.3", 0, "MD5 must be there; each algorithm offered alone is chosen or refused, and works")
{
	static const char *const offers[] = { "CHAP_A=5", "CHAP_A=6", "CHAP_A=7", "CHAP_A=8" };

	for (unsigned i = 0; i < ARRAY_LEN(offers); i++) {
		struct conn *c = to_algorithms(k, offers[i]);
		const char *a = answer(c, "CHAP_A");
		bool taken = !c->closed && c->status == 0 && a && !strcmp(a, offers[i] + 7);
		must(k, taken || i, "%s is not taken", offers[i]);
		must(k, taken || c->closed || c->status >> 8 == 2 || (a && !strcmp(a, "Reject")), "%s is answered %s",
			offers[i],
			a ? a : "with nothing");
		hang_up(c, false);
		if (!taken)
			continue;
		struct challenge ch;
		c = to_challenge(k, offers[i], &ch);
		must(k, conclude(c, response(c, &ch, k->url->user, k->url->secret, "")) && c->status == 0,
			"%s: status %04x", offers[i],
			c->status);
	}
}

CASE(auth, first_of_list, "6.2.1, 12.1.3", 0, "algorithms that are not known are passed over")
{
	struct challenge ch;

	to_challenge(k, "CHAP_A=99,5", &ch);
	must(k, ch.alg == 5, "CHAP_A=%d", ch.alg);
}

CASE(auth, unknown_algorithm, "6.2.1, 12.1.3", 0, "unknown algorithms only: refused")
{
	struct conn *c = to_algorithms(k, "CHAP_A=99");
	const char *a = answer(c, "CHAP_A");

	must(k, c->closed || c->status >> 8 == 2 || (a && !strcmp(a, "Reject")), "status %04x, CHAP_A=%s", c->status,
		a ? a : "(absent)");
}

CASE(auth, wrong_secret, "12.1.3, 11.13.5", 0, "a response made with another secret is refused, and the connection ends")
{
	struct challenge ch;
	struct conn *c = to_challenge(k, "CHAP_A=5", &ch);

	refused(c, response(c, &ch, k->url->user, "not-the-secret-at-all", ""), "another secret");
}

CASE(auth, unknown_user, "12.1.3", 0, "a name that is not known is refused, even with the right secret")
{
	struct challenge ch;
	struct conn *c = to_challenge(k, "CHAP_A=5", &ch);

	refused(c, response(c, &ch, "nobody-we-know", k->url->secret, ""), "another name");
}

CASE(auth, no_response, "12.1.3, 6.3.2", 0, "neither CHAP_N nor CHAP_R: no way on")
{
	struct challenge ch;
	struct conn *c = to_challenge(k, "CHAP_A=5", &ch);
	struct pdu *p = conclude(c, NULL);

	must(k, !p || c->status >> 8 == 2 || !(p->h[1] & LOGIN_TRANSIT), "let through with status %04x", c->status);
}

CASE(auth, half_a_response, "12.1.3", 0, "CHAP_R without CHAP_N, and CHAP_N without CHAP_R: refused, or no way on")
{
	for (unsigned i = 0; i < 2; i++) {
		struct challenge ch;
		struct conn *c = to_challenge(k, "CHAP_A=5", &ch);
		const char *both = response(c, &ch, k->url->user, k->url->secret, ""), *second = strchr(both, '\n') + 1;
		char *one = check_alloc(k, 4096);
		snprintf(one, 4096, "%.*s", i ? (int)strcspn(both, "\n") : 4000, i ? both : second);
		struct pdu *p = conclude(c, one);
		must(k, !p || c->status >> 8 == 2 || !(p->h[1] & LOGIN_TRANSIT), "%.10s... alone is let through", one);
	}
}

CASE(auth, broken_response, "6.1, 12.1.3", 0, "responses that are too short, too long or no number are refused")
{
	static const char *const bad[] = { "CHAP_R=0x00", "CHAP_R=0x", "CHAP_R=", "CHAP_R=0xzz", "CHAP_R=0b!!!!",
		"CHAP_R=0x0000000000000000000000000000000000000000000000000000000000000000000000000000" };

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		struct challenge ch;
		struct conn *c = to_challenge(k, "CHAP_A=5", &ch);
		char text[600];
		snprintf(text, sizeof(text), "CHAP_N=%s\n%s", k->url->user, bad[i]);
		struct pdu *p = conclude(c, text);
		must(k, !p || c->status >> 8 == 2, "%s: status %04x", bad[i], c->status);
	}
}

CASE(auth, base64, "6.1", 0, "CHAP_R may be a base64-constant")
{
	static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	struct challenge ch;
	struct conn *c = to_challenge(k, "CHAP_A=5", &ch);
	uint8_t d[CHAP_DIGEST_MAX + 3] = { 0 };
	char text[600], b64[64];
	unsigned at = 0;

	must(k, !chap_response(ch.alg, ch.id, k->url->secret, ch.bytes, ch.len, d), "CHAP");
	for (unsigned i = 0; i < 16; i += 3) {
		uint32_t v = be24(d + i);
		for (unsigned j = 0; j < 4; j++)
			b64[at++] = digit[v >> (18 - 6 * j) & 63];
	}
	memcpy(b64 + 22, "==", 3); /* 16 bytes: 22 digits */
	snprintf(text, sizeof(text), "CHAP_N=%s\nCHAP_R=0b%s", k->url->user, b64);
	must(k, conclude(c, text) && c->status == 0, "status %04x", c->status);
}

CASE(auth, challenges_differ, "9.2.1", 0, "challenges of several logins differ, and so they do at once on several connections")
{
	struct challenge ch[6];

	for (unsigned i = 0; i < ARRAY_LEN(ch); i++) {
		to_challenge(k, "CHAP_A=5", &ch[i]);
		for (unsigned j = 0; j < i; j++)
			must(k, ch[i].len != ch[j].len || memcmp(ch[i].bytes, ch[j].bytes, ch[i].len),
				"login %u has the challenge of %u", i, j);
	}
}

CASE(auth, old_response, "9.2.1", 0, "the response to another login's challenge is refused")
{
	struct challenge a, b;
	struct conn *c = to_challenge(k, "CHAP_A=5", &a), *d = to_challenge(k, "CHAP_A=5", &b);

	(void)c;
	refused(d, response(d, &a, k->url->user, k->url->secret, ""), "the response to another challenge");
}

CASE(auth, reflected_challenge, "9.2.1", 0,
	"the target's own challenge as the initiator's is not answered: the connection ends")
{
	struct challenge ch;
	struct conn *c = to_challenge(k, "CHAP_A=5", &ch);
	char *more = check_alloc(k, 3000);

	snprintf(more, 3000, "CHAP_I=%u\nCHAP_C=%.2500s", ch.id, ch.text);
	struct pdu *p = conclude(c, response(c, &ch, k->url->user, k->url->secret, more));
	must(k, !p || !answer(c, "CHAP_R"), "the target answered its own challenge");
	must(k, gone(c, (int)k->timeout_ms), "the connection stays open");
}

CASE(auth, mutual_not_faked, "12.1.3", 0, "asked to prove itself, the target does so or refuses; it does not go on in silence")
{
	struct challenge ch;
	struct conn *c = to_challenge(k, "CHAP_A=5", &ch);
	struct pdu *p = conclude(c, response(c, &ch, k->url->user, k->url->secret,
		"CHAP_I=77\nCHAP_C=0x000102030405060708090a0b0c0d0e0f"));

	must(k, !p || c->status >> 8 == 2 || (answer(c, "CHAP_N") && answer(c, "CHAP_R")), "status %04x, no CHAP_R", c->status);
}

CASE(auth, not_skipped_later, "6.3.2", 0, "after CHAP began, a request for the operational stage without a response is refused")
{
	struct challenge ch;
	struct conn *c = to_challenge(k, "CHAP_A=5", &ch);
	struct login_req l = next_req(LOGIN_T(CSG_OPERATIONAL, CSG_FULL), "MaxBurstLength=65536");

	login_put(c, &l);
	struct pdu *p = login_get(c);
	must(k, !p || c->status >> 8 == 2, "status %04x", c->status);
}

CASE(auth, discovery, "9.2, 12.1", 0, "a discovery session logs in with the same name and secret, or needs none")
{
	if (!k->url->user[0])
		check_unsupported(k, "the URL has no user");
	struct conn *c = discovery(k, "");
	must(k, text(c, "SendTargets=All")->op == ISCSI_TEXT_RSP, "SendTargets");
}
