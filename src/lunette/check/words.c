/* SPDX-License-Identifier: BSD-3-Clause
 * The words that cases are written in: one request, one answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lunette/check/check.h"

/* --- requests */

struct req req(uint8_t op, uint8_t flags)
{
	struct req r = { 0 };

	r.h[0] = op;
	r.h[BHS_FLAGS] = flags;
	return r;
}

struct req req_cmd(struct check *k, uint8_t flags, uint32_t edtl, const void *cdb, unsigned n)
{
	struct req r = req(ISCSI_SCSI_CMD, flags | 1); /* SIMPLE */

	put_be64(r.h + BHS_LUN, k->lun);
	put_be32(r.h + CMD_EDTL, edtl);
	memcpy(r.h + CMD_CDB, cdb, MIN(n, 16u));
	return r;
}

static struct req rw10(struct check *k, uint8_t opcode, uint8_t flag, uint32_t lba, uint32_t blocks)
{
	uint8_t cdb[10] = { opcode };

	put_be32(cdb + 2, lba);
	put_be16(cdb + 7, (uint16_t)blocks);
	return req_cmd(k, FLAG_FINAL | flag, blocks * k->block, cdb, sizeof(cdb));
}

struct req req_read(struct check *k, uint32_t lba, uint32_t blocks)
{
	return rw10(k, 0x28, CMD_READ, lba, blocks);
}

struct req req_write(struct check *k, uint32_t lba, uint32_t blocks)
{
	return rw10(k, 0x2a, CMD_WRITE, lba, blocks);
}

struct req req_tur(struct check *k)
{
	return req_cmd(k, FLAG_FINAL, 0, "\0\0\0\0\0", 6);
}

struct req req_nop(const void *data, uint32_t len)
{
	struct req r = immediate(req(ISCSI_NOP_OUT, FLAG_FINAL));

	put_be32(r.h + BHS_TTT, ISCSI_NO_TAG);
	return with_data(r, data, len);
}

struct req req_tmf(struct check *k, uint8_t fn, uint32_t ref, uint32_t ref_sn)
{
	struct req r = immediate(req(ISCSI_TMF_REQ, FLAG_FINAL | fn));

	put_be64(r.h + BHS_LUN, k->lun);
	put_be32(r.h + TMF_REF_TAG, ref);
	put_be32(r.h + TMF_REF_CMD_SN, ref_sn);
	return r;
}

struct req req_text(const void *text, uint32_t len)
{
	struct req r = req(ISCSI_TEXT_REQ, FLAG_FINAL);

	put_be32(r.h + BHS_TTT, ISCSI_NO_TAG);
	return with_data(r, text, len);
}

struct req req_logout(uint8_t reason, uint16_t cid)
{
	struct req r = immediate(req(ISCSI_LOGOUT_REQ, FLAG_FINAL | reason));

	put_be16(r.h + LOGOUT_CID, cid);
	return r;
}

struct req req_snack(uint8_t type, uint32_t itt, uint32_t ttt, uint32_t beg, uint32_t run)
{
	struct req r = with_itt(req(ISCSI_SNACK, FLAG_FINAL | type), itt);

	put_be32(r.h + BHS_TTT, ttt);
	put_be32(r.h + SNACK_BEG_RUN, beg);
	put_be32(r.h + SNACK_RUN_LEN, run);
	return r;
}

struct req req_out(struct check *k, uint32_t itt, uint32_t ttt, uint32_t off, const void *data, uint32_t len, uint32_t sn,
	bool final)
{
	struct req r = with_itt(req(ISCSI_DATA_OUT, final ? FLAG_FINAL : 0), itt);

	put_be64(r.h + BHS_LUN, ttt == ISCSI_NO_TAG ? 0 : k->lun); /* reserved without a TTT, 11.7.4 */
	put_be32(r.h + BHS_TTT, ttt);
	put_be32(r.h + DATA_SN, sn);
	put_be32(r.h + DATA_OFFSET, off);
	return with_data(r, data, len);
}

/* --- commands */

void sense_of(const struct pdu *p, uint8_t *key, uint8_t *asc, uint8_t *ascq)
{
	*key = *asc = *ascq = 0;
	if (p->op != ISCSI_SCSI_RSP || p->len < 2 + 4)
		return;
	const uint8_t *s = p->data + 2;
	uint32_t n = MIN(be16(p->data), p->len - 2);
	if ((s[0] & 0x7e) == 0x72 && n >= 4) {
		*key = s[1] & 15;
		*asc = s[2];
		*ascq = s[3];
	} else if ((s[0] & 0x7e) == 0x70 && n >= 3) {
		*key = s[2] & 15;
		*asc = n > 12 ? s[12] : 0;
		*ascq = n > 13 ? s[13] : 0;
	}
}

static void take_data_in(struct conn *c, struct result *r, struct pdu *p, uint32_t edtl)
{
	uint32_t off = be32(p->h + DATA_OFFSET);

	must(c->k, off <= edtl && p->len <= edtl - off, "Data-In of %u bytes at %u is beyond the expected %u", p->len, off,
		edtl);
	memcpy(r->data + off, p->data, p->len);
	r->moved += p->len;
	if (r->nin % 64 == 0) {
		struct pdu **more = check_alloc(c->k, (r->nin + 64) * sizeof(*more));
		if (r->nin)
			memcpy(more, r->in, r->nin * sizeof(*more));
		r->in = more;
	}
	r->in[r->nin++] = p;
}

void serve(struct conn *c, const struct pdu *r2t, const void *data, uint32_t step)
{
	uint32_t off = be32(r2t->h + R2T_OFFSET), n = be32(r2t->h + R2T_LEN), ttt = be32(r2t->h + BHS_TTT), sn = 0;

	step = MIN(step ? step : n, c->send_max);
	for (uint32_t at = 0; at < n; at += step, sn++) {
		uint32_t m = MIN(step, n - at);
		struct req r = req_out(c->k, be32(r2t->h + BHS_ITT), ttt, off + at, (const uint8_t *)data + off + at, m, sn,
			at + m == n);
		memcpy(r.h + BHS_LUN, r2t->h + BHS_LUN, 8);
		put(c, &r);
	}
}

struct result finish(struct conn *c, uint32_t itt, uint32_t edtl, const void *data)
{
	struct result r = { .data = check_alloc(c->k, edtl + 1u) };

	for (;;) {
		struct pdu *p = next(c);
		must(c->k, p->op != ISCSI_REJECT, "Reject with reason %02x instead of the command's end", p->h[REJECT_REASON]);
		if (p->op == ISCSI_ASYNC)
			continue;
		must(c->k, be32(p->h + BHS_ITT) == itt, "%s has Initiator Task Tag %#x, %#x was due", pdu_words(c, p),
			be32(p->h + BHS_ITT), itt);
		r.last = p;
		if (p->op == ISCSI_R2T) {
			must(c->k, data && be32(p->h + R2T_OFFSET) + (uint64_t)be32(p->h + R2T_LEN) <= edtl,
				"an R2T for %u bytes at %u of %u", be32(p->h + R2T_LEN), be32(p->h + R2T_OFFSET), edtl);
			serve(c, p, data, 0);
		} else if (p->op == ISCSI_DATA_IN) {
			take_data_in(c, &r, p, edtl);
		} else {
			must(c->k, p->op == ISCSI_SCSI_RSP, "%s instead of the command's end", pdu_words(c, p));
			r.response = p->h[RSP_RESPONSE];
			sense_of(p, &r.key, &r.asc, &r.ascq);
		}
		if (p->op == ISCSI_SCSI_RSP || (p->op == ISCSI_DATA_IN && (p->h[BHS_FLAGS] & DATA_STATUS_VALID)))
			break;
	}
	r.status = r.last->h[RSP_STATUS];
	r.flags = r.last->h[BHS_FLAGS];
	r.residual = be32(r.last->h + RSP_RESID);
	return r;
}

struct result command(struct conn *c, struct req r, const void *data)
{
	uint32_t edtl = be32(r.h + CMD_EDTL), itt = put(c, &r);

	return finish(c, itt, edtl, data);
}

void good(struct conn *c, const struct result *r, const char *what)
{
	must(c->k, r->status == 0 && r->response == 0, "%s: response %02x, status %02x, sense %x/%02x/%02x", what, r->response,
		r->status, r->key, r->asc, r->ascq);
}

struct result tur(struct conn *c)
{
	return command(c, req_tur(c->k), NULL);
}

uint32_t ping_exp(struct conn *c)
{
	static const char ping[] = "are you there?";
	uint32_t itt = send_req(c, req_nop(ping, sizeof(ping)));
	struct pdu *p = next(c);

	while (p->op == ISCSI_ASYNC)
		p = next(c);
	must(c->k, p->op == ISCSI_NOP_IN && be32(p->h + BHS_ITT) == itt, "a ping is answered with %s", pdu_words(c, p));
	return be32(p->h + BHS_EXP_CMD_SN);
}

void alive(struct conn *c)
{
	ping_exp(c);
}

/* --- data */

uint8_t *peek(struct conn *c, uint32_t lba, uint32_t blocks)
{
	struct result r = command(c, req_read(c->k, lba, blocks), NULL);

	good(c, &r, "read");
	must(c->k, r.moved == blocks * c->k->block, "a read of %u bytes brought %u", blocks * c->k->block, r.moved);
	return r.data;
}

void poke(struct conn *c, uint32_t lba, uint32_t blocks, const void *data)
{
	struct req w = req_write(c->k, lba, blocks);
	uint32_t now = c->s->immediate ? MIN(MIN(c->s->first_burst, c->send_max), blocks * c->k->block) : 0;
	struct result r = command(c, with_data(w, data, now), data);

	good(c, &r, "write");
}

uint8_t *pattern(struct check *k, uint32_t n, uint32_t seed)
{
	uint8_t *p = check_alloc(k, n + 8u);
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

	for (uint32_t i = 0; i < n; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
	return p;
}

void same(struct check *k, const void *a, const void *b, uint32_t n, const char *what)
{
	const uint8_t *x = a, *y = b;

	for (uint32_t i = 0; i < n; i++)
		must(k, x[i] == y[i], "%s: byte %u of %u is %02x, %02x was due", what, i, n, x[i], y[i]);
}

/* --- the other requests */

/* Tells the target what arrived: some responses wait for that (4.2.3.3). */
static void acknowledge(struct conn *c)
{
	send_req(c, req_nop(NULL, 0));
}

uint8_t tmf(struct conn *c, struct req r, uint32_t *ret_itt)
{
	uint32_t itt = put(c, &r);

	if (ret_itt)
		*ret_itt = itt;
	for (;;) {
		struct pdu *p = next(c);
		if (p->op == ISCSI_SCSI_RSP || (p->op == ISCSI_DATA_IN && (p->h[BHS_FLAGS] & DATA_STATUS_VALID)))
			acknowledge(c);
		if (p->op == ISCSI_R2T || p->op == ISCSI_ASYNC || p->op == ISCSI_DATA_IN || p->op == ISCSI_SCSI_RSP ||
		    p->op == ISCSI_NOP_IN)
			continue;
		must(c->k, p->op == ISCSI_TMF_RSP && be32(p->h + BHS_ITT) == itt,
			"a task management request is answered with %s",
			pdu_words(c, p));
		return p->h[RSP_RESPONSE];
	}
}

struct pdu *text(struct conn *c, const char *pairs)
{
	size_t n = strlen(pairs);
	char *raw = check_alloc(c->k, n + 2);

	for (size_t i = 0; i < n; i++)
		raw[i] = pairs[i] == '\n' ? 0 : pairs[i];
	bool ends = n && raw[n - 1] == 0;
	uint32_t itt = send_req(c, req_text(raw, (uint32_t)n + !ends));
	c->ntext = 0;
	for (;;) {
		struct pdu *p = next(c);
		if (p->op == ISCSI_REJECT)
			return p;
		must(c->k, p->op == ISCSI_TEXT_RSP && be32(p->h + BHS_ITT) == itt, "a Text Request is answered with %s",
			pdu_words(c, p));
		must(c->k, p->len < CHECK_TEXT - c->ntext, "more than %d bytes of text", CHECK_TEXT);
		memcpy(c->text + c->ntext, p->data, p->len);
		c->ntext += p->len;
		if (p->h[BHS_FLAGS] & FLAG_FINAL)
			return p;
		struct req more = with_itt(req_text(NULL, 0), itt); /* 11.10.4: with the tag it gave */
		memcpy(more.h + BHS_LUN, p->h + BHS_LUN, 8);
		memcpy(more.h + BHS_TTT, p->h + BHS_TTT, 4);
		put(c, &more);
	}
}

uint8_t logout(struct conn *c, uint8_t reason, uint16_t cid)
{
	uint32_t itt = send_req(c, req_logout(reason, cid));
	struct pdu *p = next(c);

	while (p->op == ISCSI_R2T || p->op == ISCSI_ASYNC)
		p = next(c);
	must(c->k, p->op == ISCSI_LOGOUT_RSP && be32(p->h + BHS_ITT) == itt, "a logout is answered with %s", pdu_words(c, p));
	return p->h[LOGOUT_RESPONSE];
}

/* --- refusals */

/* Which of the reactions that is; 0: none of them. */
static unsigned reaction(const struct pdu *p, uint32_t reasons)
{
	uint8_t reason = p->h[REJECT_REASON];

	if (p->op == ISCSI_REJECT)
		return reason < 32 && (reasons & REASON(reason)) ? BY_REJECT : 0;
	if (p->op == ISCSI_SCSI_RSP)
		return p->h[RSP_STATUS] || p->h[RSP_RESPONSE] ? BY_CHECK : 0;
	return p->op == ISCSI_TMF_RSP && p->h[RSP_RESPONSE] ? BY_TMF : 0;
}

_Noreturn static void not_refused(struct conn *c, unsigned how, const char *what, const char *came)
{
	if (how & BY_LAX)
		check_lax(c->k, "%s: %s", what, came);
	check_fail(c->k, "%s: %s", what, came);
}

unsigned refusal(struct conn *c, unsigned how, uint32_t reasons, const char *what)
{
	unsigned seen = 0;

	for (;;) {
		int ms = seen || (how & BY_SILENCE) ? CHECK_QUIET_MS : (int)c->k->timeout_ms;
		struct pdu *p = poll_pdu(c, ms);
		if (p && (p->op == ISCSI_R2T || p->op == ISCSI_ASYNC))
			continue;
		if (p) {
			unsigned r = reaction(p, reasons);
			if (!(r & how))
				not_refused(c, how, what, pdu_words(c, p));
			seen |= r;
			if (seen & (BY_CHECK | BY_TMF))
				return seen;
			continue;
		}
		if (c->closed) {
			must(c->k, how & BY_CLOSE, "%s: the connection ended", what);
			return seen | BY_CLOSE;
		}
		if (seen)
			return seen;
		if (!(how & BY_SILENCE))
			not_refused(c, how, what, "no reaction");
		return BY_SILENCE;
	}
}
