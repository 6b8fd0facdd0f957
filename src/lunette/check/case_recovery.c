/* SPDX-License-Identifier: BSD-3-Clause
 * Suites snack and erl1: what a target of ErrorRecoveryLevel 1 or 2 sends again (RFC 7143 7.2, 7.8, 11.16). */
#include <stdio.h>
#include <string.h>

#include "lunette/check/check.h"

enum { PDUS = 16, SEGMENT = 4096, LEN = PDUS * SEGMENT };

/* A session of level 1 at least whose responses stay unacknowledged. */
static struct conn *level_1(struct check *k, const char *more)
{
	char keys[256];

	snprintf(keys, sizeof(keys),
		"ErrorRecoveryLevel=2\nMaxRecvDataSegmentLength=%u\nFirstBurstLength=512\nMaxBurstLength=%u%s%s", SEGMENT,
		4 * SEGMENT,
		*more ? "\n" : "", more);
	struct conn *c = session(k, keys);
	if (c->s->erl < 1)
		check_unsupported(k, "ErrorRecoveryLevel=2 was offered, %u was the answer", c->s->erl);
	return c;
}

/* A read to its end; its status is not acknowledged. */
static struct result read_held(struct conn *c)
{
	struct check *k = c->k;

	hold_status(c);
	struct result r = command(c, req_read(k, 0, LEN / k->block), NULL);
	good(c, &r, "read");
	must(k, r.nin == PDUS, "%u Data-In PDUs for %u bytes", r.nin, LEN);
	return r;
}

static void same_pdu(struct check *k, const struct pdu *a, const struct pdu *b)
{
	uint8_t x[ISCSI_BHS], y[ISCSI_BHS];

	memcpy(x, a->h, ISCSI_BHS);
	memcpy(y, b->h, ISCSI_BHS);
	memset(x + BHS_EXP_CMD_SN, 0, 8); /* and MaxCmdSN: carry current values */
	memset(y + BHS_EXP_CMD_SN, 0, 8);
	for (unsigned i = 0; i < ISCSI_BHS; i++)
		must(k, x[i] == y[i], "the %s differs from the original in byte %u: %02x, %02x was due", pdu_name(a->op), i,
			x[i], y[i]);
	must(k, a->len == b->len, "%u bytes of data, %u were due", a->len, b->len);
	same(k, a->data, b->data, a->len, "the data sent again");
}

static uint32_t itt_of(const struct result *r)
{
	return be32(r->in[0]->h + BHS_ITT);
}

/* Data-In PDUs first to last (exclusive) come again, nothing else. */
static void again(struct conn *c, const struct result *r, uint32_t first, uint32_t last)
{
	for (uint32_t i = first; i < last; i++)
		same_pdu(c->k, want(c, ISCSI_DATA_IN), r->in[i]);
	struct pdu *p = poll_pdu(c, CHECK_QUIET_MS); /* the status may be repeated with them */
	must(c->k, !p || p->op == ISCSI_SCSI_RSP, "%s after the PDUs asked for", p ? pdu_words(c, p) : "");
}

CASE(snack, data_run, "11.16, 11.16.7", NEED_LUN, "Data SNACK for a run: exactly those Data-In PDUs, as they were")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);

	send_req(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, 3, 2));
	again(c, &r, 3, 5);
	send_req(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, 0, 1));
	again(c, &r, 0, 1);
}

CASE(snack, data_tail, "11.16, 11.16.7", NEED_LUN, "Data SNACK with RunLength 0: all from BegRun on")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);

	send_req(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, PDUS - 5, 0));
	again(c, &r, PDUS - 5, PDUS);
}

CASE(snack, data_all, "11.16, 11.16.6", NEED_LUN, "Data SNACK with BegRun and RunLength 0: all that is not acknowledged")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);

	send_req(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, 0, 0));
	again(c, &r, 0, PDUS);
}

CASE(snack, data_twice, "11.16", NEED_LUN, "the same Data SNACK may come again and again")
{
	struct conn *c = level_1(k, "HeaderDigest=CRC32C,None\nDataDigest=CRC32C,None");
	struct result r = read_held(c);

	for (unsigned i = 0; i < 4; i++) {
		send_req(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, 7, 3));
		again(c, &r, 7, 10);
	}
}

static void snack_rejected(struct conn *c, struct req r, const char *what)
{
	struct check *k = c->k;

	put(c, &r);
	struct pdu *p = next(c);
	must(k, p->op == ISCSI_REJECT, "%s: %s", what, pdu_words(c, p));
	must(k, p->h[REJECT_REASON] == REJECT_PROTOCOL, "%s: reason %02x, 04 was due", what, p->h[REJECT_REASON]);
	must(k, p->len >= ISCSI_BHS && !memcmp(p->data, r.h, ISCSI_BHS), "%s: the Reject has another header", what);
}

CASE(snack, data_never_sent, "11.16, 11.17.2", NEED_LUN, "Data SNACK for PDUs that were never sent: Reject 04")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);

	snack_rejected(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, PDUS + 5, 1), "beyond the last");
	snack_rejected(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, PDUS - 1, 3), "over the end");
}

CASE(snack, data_acknowledged, "11.16, 11.16.1", NEED_LUN, "Data SNACK after the status is acknowledged: Reject 04")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);

	c->hold = false;
	alive(c);
	snack_rejected(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, 0, 1), "after the status was acknowledged");
}

CASE(snack, unknown_task, "11.16, 11.17.1", 0, "Data SNACK for a task that is not there: Reject 04")
{
	snack_rejected(level_1(k, ""), req_snack(0, 0x4321, ISCSI_NO_TAG, 0, 1), "an unknown task");
}

CASE(snack, status_one, "11.16, 11.16.1", NEED_LUN, "Status SNACK for one response: it comes again as it was")
{
	struct conn *c = level_1(k, "");

	hold_status(c);
	struct result r = tur(c);
	send_req(c, req_snack(1, ISCSI_NO_TAG, ISCSI_NO_TAG, be32(r.last->h + BHS_STAT_SN), 1));
	struct pdu *p = want(c, ISCSI_SCSI_RSP);
	memcpy(p->h + RSP_EXP_DATA_SN, r.last->h + RSP_EXP_DATA_SN, 4);
	same_pdu(k, p, r.last);
	quiet(c, CHECK_QUIET_MS);
}

/* Five responses of several kinds that stay unacknowledged. */
static void five(struct conn *c, struct pdu *p[5])
{
	struct check *k = c->k;

	hold_status(c);
	p[0] = tur(c).last;
	p[1] = want_itt(c, ISCSI_NOP_IN, send_req(c, req_nop("abc", 3)));
	p[2] = command(c, req_cmd(k, FLAG_FINAL, 0, "\xff\xff\xff\xff\xff\xff", 6), NULL).last;
	p[3] = want_itt(c, ISCSI_TEXT_RSP, send_req(c, req_text("X-com.example.key=1", 20)));
	p[4] = want_itt(c, ISCSI_TMF_RSP, send_req(c, req_tmf(k, TMF_ABORT_TASK, 0x999, c->s->cmd_sn - 1000)));
}

/* Those of p come again, in any order, and nothing else. */
static void five_again(struct conn *c, struct pdu *p[5], unsigned first, unsigned last)
{
	unsigned seen = 0, all = ((1u << last) - 1) & ~((1u << first) - 1);

	while (seen != all) {
		struct pdu *q = next(c);
		unsigned i = first;
		while (i < last && memcmp(q->h + BHS_STAT_SN, p[i]->h + BHS_STAT_SN, 4))
			i++;
		must(c->k, i < last && !(seen & 1u << i), "%s with StatSN %#x", pdu_words(c, q), be32(q->h + BHS_STAT_SN));
		if (q->op == ISCSI_SCSI_RSP)
			memcpy(q->h + RSP_EXP_DATA_SN, p[i]->h + RSP_EXP_DATA_SN, 4);
		same_pdu(c->k, q, p[i]);
		seen |= 1u << i;
	}
	quiet(c, CHECK_QUIET_MS);
}

CASE(snack, status_run, "11.16, 11.16.7", NEED_LUN, "Status SNACK for a run of responses of all kinds, sense data and all")
{
	struct conn *c = level_1(k, "");
	struct pdu *p[5];

	five(c, p);
	send_req(c, req_snack(1, ISCSI_NO_TAG, ISCSI_NO_TAG, be32(p[1]->h + BHS_STAT_SN), 3));
	five_again(c, p, 1, 4);
}

CASE(snack, status_all, "11.16.6, 11.16.7", NEED_LUN, "Status SNACK with BegRun and RunLength 0: all that is not acknowledged")
{
	struct conn *c = level_1(k, "");
	struct pdu *p[5];

	five(c, p);
	send_req(c, req_snack(1, ISCSI_NO_TAG, ISCSI_NO_TAG, 0, 0));
	five_again(c, p, 0, 5);
}

CASE(snack, status_tail, "11.16.7", NEED_LUN, "Status SNACK with RunLength 0: all from BegRun on")
{
	struct conn *c = level_1(k, "HeaderDigest=CRC32C,None\nDataDigest=CRC32C,None");
	struct pdu *p[5];

	five(c, p);
	send_req(c, req_snack(1, ISCSI_NO_TAG, ISCSI_NO_TAG, be32(p[3]->h + BHS_STAT_SN), 0));
	five_again(c, p, 3, 5);
}

CASE(snack, status_acknowledged, "11.16, 11.17.1", NEED_LUN, "Status SNACK for a status that was acknowledged: Reject 04")
{
	struct conn *c = level_1(k, "");
	struct result r = tur(c);

	alive(c);
	snack_rejected(c, req_snack(1, ISCSI_NO_TAG, ISCSI_NO_TAG, be32(r.last->h + BHS_STAT_SN), 1), "an acknowledged status");
}

CASE(snack, status_never_sent, "11.16", NEED_LUN, "Status SNACK for a StatSN that was never sent: Reject 04")
{
	struct conn *c = level_1(k, "");

	hold_status(c);
	struct result r = tur(c);
	snack_rejected(c, req_snack(1, ISCSI_NO_TAG, ISCSI_NO_TAG, be32(r.last->h + BHS_STAT_SN) + 50, 1), "a status to come");
}

CASE(snack, r2t, "11.16, 11.8", NEED_WRITE, "Data/R2T SNACK for an R2T: it comes again as it was, with the current StatSN")
{
	struct conn *c = level_1(k, "ImmediateData=No\nFirstBurstLength=512");
	uint8_t *data = pattern(k, 8192, 1);
	uint32_t itt = send_req(c, req_write(k, 0, 8192 / k->block));
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);

	hold_status(c);
	alive(c);
	send_req(c, req_snack(0, itt, ISCSI_NO_TAG, 0, 1));
	struct pdu *q = want_itt(c, ISCSI_R2T, itt);
	memcpy(q->h + BHS_STAT_SN, p->h + BHS_STAT_SN, 4);
	same_pdu(k, q, p);
	serve(c, p, data, 0);
	struct result r = finish(c, itt, 8192, data);
	good(c, &r, "write");
	same(k, peek(c, 0, 8192 / k->block), data, 8192, "what was written");
}

CASE(snack, r2t_never_sent, "11.16", NEED_WRITE, "Data/R2T SNACK for an R2T that was never sent: Reject 04; the write goes on")
{
	struct conn *c = level_1(k, "ImmediateData=No\nFirstBurstLength=512");
	uint8_t *data = pattern(k, 8192, 2);
	uint32_t itt = send_req(c, req_write(k, 0, 8192 / k->block));
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);

	snack_rejected(c, req_snack(0, itt, ISCSI_NO_TAG, 77, 1), "R2TSN 77");
	serve(c, p, data, 0);
	struct result r = finish(c, itt, 8192, data);
	good(c, &r, "write");
}

CASE(snack, a_bit_moderate, "11.7.2", NEED_LUN,
	"A is set at most once every MaxBurstLength bytes, or on the last Data-In of the read")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);
	uint32_t since = LEN;

	for (unsigned i = 0; i < r.nin; i++) {
		since += r.in[i]->len;
		if (!(r.in[i]->h[1] & DATA_ACK))
			continue;
		must(k, since >= c->s->max_burst || i + 1 == r.nin, "A after %u bytes, MaxBurstLength is %u", since,
			c->s->max_burst);
		must(k, be32(r.in[i]->h + BHS_TTT) != ISCSI_NO_TAG, "A without a Target Transfer Tag (11.7.4)");
		since = 0;
	}
}

/* The first Data-In with A, or "not supported": a target need not ask. */
static const struct pdu *asking(struct check *k, const struct result *r)
{
	for (unsigned i = 0; i < r->nin; i++)
		if (r->in[i]->h[1] & DATA_ACK)
			return r->in[i];
	check_unsupported(k, "no Data-In of %u asked for an acknowledgment (A=1)", r->nin);
}

static struct req data_ack(const struct pdu *p)
{
	struct req r = req_snack(2, ISCSI_NO_TAG, be32(p->h + BHS_TTT), be32(p->h + DATA_SN) + 1, 0);

	memcpy(r.h + BHS_LUN, p->h + BHS_LUN, 8);
	return r;
}

CASE(snack, data_ack, "11.16.2, 11.16", NEED_LUN,
	"after DataACK, Data SNACK for what was acknowledged is rejected with 04, the rest is sent again")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);
	const struct pdu *p = asking(k, &r);
	uint32_t acked = be32(p->h + DATA_SN) + 1;

	send_req(c, data_ack(p));
	quiet(c, CHECK_QUIET_MS);
	snack_rejected(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, acked - 1, 1), "acknowledged data");
	if (acked < r.nin) {
		send_req(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, acked, 1));
		again(c, &r, acked, acked + 1);
	}
}

CASE(snack, data_ack_invalid, "11.17.1, 11.16.5", NEED_LUN, "DataACK with a tag that was never given: Reject 08, 04 or 09")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);
	struct req bad = req_snack(2, ISCSI_NO_TAG, 0x55667788, r.nin, 0);

	put_be64(bad.h + BHS_LUN, k->lun);
	put(c, &bad);
	refusal(c, BY_REJECT, REASON(REJECT_INVALID_DATA_ACK) | REASONS_FORMAT, "an invalid DataACK");
}

CASE(snack, reserved_type, "11.16.1", 0, "a SNACK of a reserved type is rejected")
{
	for (uint8_t type = 4; type < 16; type += 5) {
		struct conn *c = level_1(k, "");
		send_req(c, req_snack(type, 1, ISCSI_NO_TAG, 0, 0));
		refusal(c, BY_REJECT | BY_CLOSE, REASONS_FORMAT | REASON(REJECT_SNACK), "a reserved type");
		hang_up(c, false);
	}
}

/* R-Data SNACK: everything again in segments of now bytes, then a SCSI Response with the tag. */
static void r_data(struct conn *c, const struct result *r, uint32_t tag, uint32_t now)
{
	struct check *k = c->k;
	struct result x = { .data = check_alloc(k, LEN) };

	send_req(c, req_snack(3, itt_of(r), tag, 0, 0));
	for (uint32_t sn = 0, off = 0;; sn++) {
		struct pdu *p = next(c);
		if (p->op == ISCSI_SCSI_RSP) {
			x.last = p;
			must(k, off == LEN, "the response after %u of %u bytes", off, LEN);
			break;
		}
		must(k, p->op == ISCSI_DATA_IN && be32(p->h + DATA_SN) == sn, "%s, DataSN %u; %u was due", pdu_words(c, p),
			be32(p->h + DATA_SN), sn);
		must(k, be32(p->h + DATA_OFFSET) == off && p->len <= now, "%u bytes at %u, the segment is %u", p->len,
			be32(p->h + DATA_OFFSET), now);
		memcpy(x.data + off, p->data, p->len);
		off += p->len;
	}
	must(k, be32(x.last->h + RSP_SNACK_TAG) == tag, "SNACK Tag %#x in the response, %#x was due",
		be32(x.last->h + RSP_SNACK_TAG), tag);
	must(k, be32(x.last->h + BHS_STAT_SN) == be32(r->last->h + BHS_STAT_SN),
		"StatSN %#x, the first response had %#x (11.16.3)",
		be32(x.last->h + BHS_STAT_SN), be32(r->last->h + BHS_STAT_SN));
	same(k, x.data, r->data, LEN, "the data sent again");
}

CASE(snack, r_data, "11.16.3, 11.4.4", NEED_LUN,
	"R-Data SNACK: all data again from DataSN 0, then a SCSI Response with the SNACK Tag and the old StatSN")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);

	asking(k, &(struct result){ .in = r.in, .nin = r.nin }); /* else nothing was left unacknowledged by design */
	r_data(c, &r, 0x1234, SEGMENT);
}

CASE(snack, r_data_smaller, "11.16.3, 13.12", NEED_LUN,
	"R-Data SNACK after a smaller MaxRecvDataSegmentLength was declared: the data come in smaller segments")
{
	struct conn *c = level_1(k, "");
	struct result r = read_held(c);

	must(k, text(c, "MaxRecvDataSegmentLength=1024")->op == ISCSI_TEXT_RSP, "the declaration was rejected");
	c->recv_max = 1024;
	r_data(c, &r, 0x77, 1024);
	r_data(c, &r, 0x78, 1024);
}

/* --- erl1 */

CASE(erl1, agreed, "13.20, 7.1.5", NEED_LUN, "a session of level 1 serves what one of level 0 does")
{
	struct conn *c = level_1(k, "");

	peek(c, 0, LEN / k->block);
	alive(c);
	must(k, logout(c, 0, 0) == 0, "logout");
}

CASE(erl1, level_2_has_level_1, "7.1.5", NEED_LUN, "level 2 serves SNACK as well, and level 1 is agreed to when asked for")
{
	struct conn *c = level_1(k, ""), *d = session(k, "ErrorRecoveryLevel=1");

	must(k, d->s->erl == 1, "level %u for 1 offered, %u for 2", d->s->erl, c->s->erl);
}

/* A lost Data-Out PDU: not sent at all, or with a wrong digest. */
static void lost_out(struct check *k, bool flip)
{
	struct conn *c = level_1(k, "ImmediateData=No\nFirstBurstLength=512\nDataDigest=CRC32C");
	uint8_t *data = pattern(k, 8192, 9 + flip);
	uint32_t itt = send_req(c, req_write(k, 16, 8192 / k->block));
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);
	unsigned r2ts = 0;

	must(k, c->dd && be32(p->h + R2T_LEN) == 8192, "digest %u, R2T of %u", c->dd, be32(p->h + R2T_LEN));
	for (uint32_t i = 0; i < 4; i++) {
		struct req r = req_out(k, itt, be32(p->h + BHS_TTT), i * 2048, data + i * 2048, 2048, i, i == 3);
		r.flip_data = flip && i == 1;
		if (i != 1 || flip)
			put(c, &r);
	}
	for (p = next(c); p->op == ISCSI_R2T || p->op == ISCSI_REJECT; p = next(c)) {
		if (p->op == ISCSI_REJECT)
			continue;
		must(k, be32(p->h + R2T_SN) == ++r2ts, "R2TSN %u of a recovery R2T, %u was due", be32(p->h + R2T_SN), r2ts);
		serve(c, p, data, 0);
	}
	must(k, p->op == ISCSI_SCSI_RSP && be32(p->h + BHS_ITT) == itt, "%s", pdu_words(c, p));
	if (!r2ts && p->h[RSP_STATUS] == 2)
		check_unsupported(k, "no recovery R2T: %s", pdu_words(c, p));
	must(k, p->h[RSP_STATUS] == 0, "%s after %u recovery R2Ts", pdu_words(c, p), r2ts);
	same(k, peek(c, 16, 8192 / k->block), data, 8192, "what the recovered write wrote");
}

CASE(erl1, lost_out, "7.9, 7.8", NEED_WRITE,
	"a Data-Out that is missing is asked for again by a recovery R2T (or the command ends with 0B/47/05)")
{
	lost_out(k, false);
}

CASE(erl1, broken_out, "7.8", NEED_WRITE,
	"a Data-Out with a wrong digest is asked for again by a recovery R2T (or the command ends with 0B/47/05)")
{
	lost_out(k, true);
}

CASE(erl1, lost_unsolicited, "7.9, 7.8", NEED_WRITE,
	"an unsolicited Data-Out that is missing is recovered, or the command ends with CHECK CONDITION")
{
	struct conn *c = level_1(k, "InitialR2T=No\nImmediateData=No\nFirstBurstLength=8192");
	uint8_t *data = pattern(k, 8192, 3);
	struct req w = req_write(k, 16, 8192 / k->block);

	if (c->s->initial_r2t)
		check_unsupported(k, "InitialR2T=Yes was the answer");
	w.h[1] &= (uint8_t)~FLAG_FINAL;
	uint32_t itt = put(c, &w), r2ts = 0;
	for (uint32_t i = 0; i < 4; i++)
		if (i != 2)
			send_req(c, req_out(k, itt, ISCSI_NO_TAG, i * 2048, data + i * 2048, 2048, i, i == 3));
	struct pdu *p = next(c);
	for (; p->op == ISCSI_R2T || p->op == ISCSI_REJECT; p = next(c), r2ts++)
		if (p->op == ISCSI_R2T)
			serve(c, p, data, 0);
	must(k, p->op == ISCSI_SCSI_RSP && (r2ts || p->h[RSP_STATUS] == 2), "%s after %u R2Ts", pdu_words(c, p), r2ts);
	if (p->h[RSP_STATUS] == 0)
		same(k, peek(c, 16, 8192 / k->block), data, 8192, "what the recovered write wrote");
}

CASE(erl1, lost_command, "7.2.1", NEED_LUN, "a command that was lost is retried with its CmdSN; those behind it waited")
{
	struct conn *c = level_1(k, "HeaderDigest=CRC32C,None\nDataDigest=CRC32C,None");
	uint32_t n = c->s->cmd_sn;
	uint32_t later = send_req(c, with_sn(req_tur(k), n + 1));

	quiet(c, CHECK_QUIET_MS);
	uint32_t first = send_req(c, with_sn(req_tur(k), n));
	c->s->cmd_sn = n + 2;
	unsigned seen = 0;
	for (unsigned i = 0; i < 2; i++) {
		struct pdu *p = want(c, ISCSI_SCSI_RSP);
		seen |= be32(p->h + BHS_ITT) == first ? 1 : be32(p->h + BHS_ITT) == later ? 2 : 4;
	}
	must(k, seen == 3, "answers %x", seen);
}

CASE(erl1, retry_not_needed, "7.2.1, 4.2.2.1", NEED_WRITE,
	"a retry of a command that is in progress is ignored; the command goes on")
{
	struct conn *c = level_1(k, "ImmediateData=No\nFirstBurstLength=512");
	uint8_t *data = pattern(k, k->block, 5);
	struct req w = req_write(k, 0, 1);
	uint32_t itt = put(c, &w);
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);

	w.own_itt = w.own_sn = true;
	put(c, &w);
	quiet(c, CHECK_QUIET_MS);
	serve(c, p, data, 0);
	struct result r = finish(c, itt, k->block, data);
	good(c, &r, "write");
}

CASE(erl1, broken_data_many, "7.8, 11.16", NEED_LUN, "ten reads, each with a PDU asked for again before the next")
{
	struct conn *c = level_1(k, "HeaderDigest=CRC32C,None\nDataDigest=CRC32C,None");

	for (unsigned i = 0; i < 10; i++) {
		struct result r = read_held(c);
		send_req(c, req_snack(0, itt_of(&r), ISCSI_NO_TAG, i, 1));
		again(c, &r, i, i + 1);
		c->hold = false;
		alive(c);
	}
}

CASE(erl1, snack_in_the_middle, "11.16", NEED_LUN,
	"Data SNACK while other reads are on their way: each read gets all its bytes")
{
	struct conn *c = level_1(k, "");
	uint32_t n = 4, first = c->s->itt, got[4] = { 0 }, ended = 0, sent = 0;

	hold_status(c);
	for (uint32_t i = 0; i < n; i++)
		send_req(c, req_read(k, 0, LEN / k->block));
	while (ended < n || sent < 1) {
		struct pdu *p = next(c);
		uint32_t i = be32(p->h + BHS_ITT) - first;
		must(k, i < n && (p->op == ISCSI_DATA_IN || p->op == ISCSI_SCSI_RSP), "%s", pdu_words(c, p));
		if (p->op == ISCSI_DATA_IN && be32(p->h + DATA_SN) == 2 && sent == 0) {
			send_req(c, req_snack(0, be32(p->h + BHS_ITT), ISCSI_NO_TAG, 1, 1));
			sent = 1;
		}
		must(k, p->op != ISCSI_DATA_IN || be32(p->h + DATA_SN) < PDUS, "DataSN %u", be32(p->h + DATA_SN));
		got[i] |= p->op == ISCSI_DATA_IN ? 1u << be32(p->h + DATA_SN) : 0;
		ended += p->op == ISCSI_SCSI_RSP || (p->h[1] & DATA_STATUS_VALID);
	}
	for (uint32_t i = 0; i < n; i++)
		must(k, got[i] == (1u << PDUS) - 1, "read %u brought PDUs %x", i, got[i]);
}
