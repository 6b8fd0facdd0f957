/* SPDX-License-Identifier: BSD-3-Clause
 * Fuzzes the target's login phase. An input is lines:
 *
 *   ?LETTERS     host: c CHAP needed, m mutual known, M mutual required, r refuses by policy, x refuses admission
 *   @OOVV        byte OO (hex) of the next headers is VV
 *   FF TEXT      a request with flags FF (hex); in TEXT "|" stands for the zero byte, and "$" for the right answer
 *                of the user u to the last challenge
 *
 * Properties: (1) a text cut into parts by the C bit gives the same responses and the same end; (2) where CHAP is needed,
 * admission is reached only if a right response was among the requests; (3) memory stays within the two
 * texts that a login may hold; (4) no response exceeds 8192 bytes. */
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "fuzz.h"
#include "iscsi/chap.h"
#include "iscsi/keys.h"

enum { REQ_MAX = 24, TEXT_MAX = 8192, MEMORY_MAX = 2 * LIM_LOGIN_TEXT + (24 << 10) };

struct request { uint8_t bhs[ISCSI_BHS]; uint32_t len; char text[TEXT_MAX + 1]; };
struct result { enum iscsi_login_next next; uint16_t status; size_t len; char text[256 << 10]; };

static const struct iscsi_chap_user user = { .name = "u", .secret = "a secret of some length" };
static const struct iscsi_chap_user us = { .name = "t", .secret = "another secret of ours" };
static struct iscsi_offer offer;
static struct iscsi_login_policy policy;
static bool refuse_admission;
static struct request reqs[REQ_MAX];
static unsigned nreqs;
static uint8_t counter;

/* of the run */
static int alg;
static uint8_t id, challenge[CHAP_CHALLENGE_MAX];
static int challenge_len;
static bool answered_right;

static void fixed_random(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = counter++;
}

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "property broken: %s\n", what);
	abort();
}

__attribute__((weak)) size_t __sanitizer_get_current_allocated_bytes(void);

static size_t memory_now(void)
{
	if (__sanitizer_get_current_allocated_bytes)
		return __sanitizer_get_current_allocated_bytes();
	struct mallinfo2 m = mallinfo2();
	return m.uordblks + m.hblkhd;
}

/* ---- the input ---------------------------------------------------------------------------------------------- */

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

static int hex_byte(const char *p, size_t left)
{
	return left < 2 || hex(p[0]) < 0 || hex(p[1]) < 0 ? -1 : hex(p[0]) << 4 | hex(p[1]);
}

static void read_host(const char *p, size_t n)
{
	policy.nusers = memchr(p, 'c', n) ? 1 : 0;
	policy.mutual = memchr(p, 'm', n) ? &us : NULL;
	policy.require_mutual = memchr(p, 'M', n);
	policy.status = memchr(p, 'r', n) ? LOGIN_FORBIDDEN : 0;
	refuse_admission = memchr(p, 'x', n);
}

static void read_request(uint8_t *bhs, const char *p, size_t n)
{
	int flags = hex_byte(p, n);

	if (flags < 0 || nreqs == REQ_MAX)
		return;
	struct request *r = &reqs[nreqs++];
	memcpy(r->bhs, bhs, ISCSI_BHS);
	r->bhs[BHS_FLAGS] = (uint8_t)flags;
	r->len = n > 3 ? (uint32_t)MIN(n - 3, TEXT_MAX - 1) : 0;
	for (uint32_t i = 0; i < r->len; i++)
		r->text[i] = p[3 + i] == '|' ? 0 : p[3 + i];
	if (r->len)
		r->text[r->len++] = 0;
}

static void read_input(const char *p, size_t left)
{
	uint8_t bhs[ISCSI_BHS] = { ISCSI_LOGIN_REQ | OP_IMMEDIATE };

	nreqs = 0;
	read_host("", 0);
	memcpy(bhs + LOGIN_ISID, "\x80\x01\x02\x03\x04\x05", 6);
	while (left) {
		const char *end = memchr(p, '\n', left);
		size_t n = end ? (size_t)(end - p) : left;
		if (n && p[0] == '?')
			read_host(p, n);
		else if (n > 4 && p[0] == '@' && hex_byte(p + 1, 2) >= 0 && hex_byte(p + 3, 2) >= 0)
			bhs[hex_byte(p + 1, 2) % ISCSI_BHS] = (uint8_t)hex_byte(p + 3, 2);
		else
			read_request(bhs, p, n);
		p += n;
		left -= n;
		if (left) {
			p++;
			left--;
		}
	}
}

/* ---- one run ------------------------------------------------------------------------------------------------ */

/* "$" becomes the right answer. */
static uint32_t expand(const struct request *r, char *out, uint32_t room)
{
	uint8_t digest[CHAP_DIGEST_MAX];
	char word[2 + 2 * CHAP_DIGEST_MAX + 1] = "$";
	uint32_t n = 0;

	if (challenge_len > 0 && !chap_response(alg, id, user.secret, challenge, (size_t)challenge_len, digest))
		chap_encode_hex(digest, chap_digest_len(alg), word);
	for (uint32_t i = 0; i < r->len && n + sizeof(word) < room; i++) {
		if (r->text[i] != '$') {
			out[n++] = r->text[i];
			continue;
		}
		memcpy(out + n, word, strlen(word));
		n += (uint32_t)strlen(word);
	}
	return n;
}

static void note_challenge(const char *text, uint32_t len)
{
	for (const char *p = text; p < text + len; p += strnlen(p, (size_t)(text + len - p)) + 1) {
		if (!strncmp(p, "CHAP_A=", 7))
			alg = atoi(p + 7);
		else if (!strncmp(p, "CHAP_I=", 7))
			id = (uint8_t)atoi(p + 7);
		else if (!strncmp(p, "CHAP_C=", 7))
			challenge_len = chap_decode(p + 7, challenge, sizeof(challenge));
	}
}

/* Did this text hold the right response? Looks at the bytes only, not at what the engine made of them. */
static void note_answer(const char *text, uint32_t len)
{
	uint8_t digest[CHAP_DIGEST_MAX], got[CHAP_CHALLENGE_MAX];

	if (challenge_len <= 0 || chap_response(alg, id, user.secret, challenge, (size_t)challenge_len, digest) < 0)
		return;
	for (uint32_t i = 0; i + 7 < len; i++)
		if (!memcmp(text + i, "CHAP_R=", 7) && memchr(text + i, 0, len - i) &&
			chap_decode(text + i + 7, got, sizeof(got)) == (int)chap_digest_len(alg) &&
			!memcmp(got, digest, chap_digest_len(alg)))
			answered_right = true;
}

static void take_response(struct iscsi_login *l, struct result *res, bool *ret_continues)
{
	uint8_t rsp[ISCSI_BHS];
	const void *data;
	uint32_t len;

	*ret_continues = false;
	if (!iscsi_login_tx(l, rsp, &data, &len))
		return;
	must(len <= TEXT_MAX && bhs_data_len(rsp) == len, "a response fits the initiator");
	must(!((rsp[BHS_FLAGS] & LOGIN_TRANSIT) && (rsp[BHS_FLAGS] & FLAG_CONTINUE)), "not both T and C");
	res->status = be16(rsp + LOGIN_CLASS);
	*ret_continues = rsp[BHS_FLAGS] & FLAG_CONTINUE;
	if (len && len < sizeof(res->text) - res->len) {
		memcpy(res->text + res->len, data, len);
		res->len += len;
		note_challenge(data, len);
	}
}

static enum iscsi_login_next feed(struct iscsi_login *l, const uint8_t *bhs, uint8_t flags, const char *text, uint32_t len)
{
	uint8_t h[ISCSI_BHS];

	memcpy(h, bhs, ISCSI_BHS);
	h[BHS_FLAGS] = flags;
	put_be24(h + BHS_DATA_LEN, len);
	enum iscsi_login_next next = iscsi_login_rx(l, h, text, len);
	if (next == ISCSI_LOGIN_ASK)
		next = iscsi_login_policy(l, &policy);
	if (next == ISCSI_LOGIN_ADMIT) {
		must(!policy.nusers || answered_right, "no admission without the right response");
		next = iscsi_login_admit(l, refuse_admission ? LOGIN_NO_RESOURCES : 0, 1, 9, 40);
	}
	return next;
}

/* Feeds all requests; split: cuts texts by the C bit at places drawn from it (0 = whole). False: the cutting makes the
 * run incomparable (too many requests). */
static bool run(struct result *res, uint32_t split)
{
	struct iscsi_login *l;
	static char text[TEXT_MAX + 128];
	unsigned pdus = 0;
	bool continues = false, same = true;

	counter = 0x55;
	challenge_len = alg = 0;
	answered_right = false;
	*res = (struct result){ .next = ISCSI_LOGIN_MORE };
	size_t before = memory_now();
	l = iscsi_login_new(fixed_random);
	for (unsigned i = 0; i < nreqs && res->next == ISCSI_LOGIN_MORE; i++) {
		uint32_t len = expand(&reqs[i], text, sizeof(text)), at = 0;
		uint8_t flags = reqs[i].bhs[BHS_FLAGS];
		bool cut = split && !continues && len && len <= TEXT_MAX && !(flags & FLAG_CONTINUE && flags & LOGIN_TRANSIT);
		note_answer(text, len);
		while (cut && at < len && res->next == ISCSI_LOGIN_MORE) {
			split = split * 1103515245 + 12345;
			uint32_t part = MIN(1 + (split >> 16) % 97, len - at);
			bool last = at + part == len;
			if (++pdus > LIM_LOGIN_PDUS)
				same = false;
			uint8_t f = last ? flags : (uint8_t)(FLAG_CONTINUE | (flags & 0x0c));
			res->next = feed(l, reqs[i].bhs, f, text + at, part);
			take_response(l, res, &continues);
			at += part;
		}
		if (!cut) {
			if (++pdus > LIM_LOGIN_PDUS)
				same = false;
			res->next = feed(l, reqs[i].bhs, flags, text, len);
			take_response(l, res, &continues);
		}
		must(memory_now() <= before + MEMORY_MAX, "memory is bounded");
	}
	iscsi_login_free(l);
	return same;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct result whole, cut;
	static bool warm;
	uint8_t digest[CHAP_DIGEST_MAX];

	if (!warm) { /* OpenSSL keeps what it makes on first use */
		for (int a = CHAP_MD5; a <= CHAP_SHA3_256; a++)
			chap_response(a, 0, "", "", 0, digest);
		iscsi_offer_defaults(&offer);
		warm = true;
	}
	policy = (struct iscsi_login_policy){ .offer = &offer, .users = &user, .tpgt = 1, .alias = "a disk",
		.chap_algs = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 };
	read_input((const char *)data, size);
	run(&whole, 0);
	if (!run(&cut, (uint32_t)size | 1))
		return 0;
	must(whole.next == cut.next, "cutting texts changes the end");
	must(whole.status == cut.status, "cutting texts changes the status");
	must(whole.len == cut.len && !memcmp(whole.text, cut.text, whole.len), "cutting texts changes the responses");
	return 0;
}
