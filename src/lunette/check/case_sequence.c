/* SPDX-License-Identifier: BSD-3-Clause
 * Suite sequence: CmdSN, the command window, StatSN, DataSN, R2TSN (RFC 7143 4.2.2). */
#include <stdio.h>
#include <string.h>

#include "lunette/check/check.h"

static struct req tur_sn(struct check *k, uint32_t sn)
{
	return with_sn(req_tur(k), sn);
}

/* The LUN answers GOOD, so that what fails is not the medium. */
static struct conn *ready(struct check *k, const char *keys)
{
	struct conn *c = session(k, keys);
	struct result r = tur(c);

	good(c, &r, "TEST UNIT READY");
	return c;
}

CASE(sequence, outside_window, "4.2.2.1", NEED_LUN, "non-immediate commands outside ExpCmdSN to MaxCmdSN are silently ignored")
{
	struct conn *c = ready(k, "");
	uint32_t exp = ping_exp(c), max = c->last_max;
	const uint32_t sn[] = { max + 1, max + 100, exp - 1, exp - 1000, exp + 0x7fffffff };

	for (unsigned i = 0; i < ARRAY_LEN(sn); i++) {
		send_req(c, tur_sn(k, sn[i]));
		struct pdu *p = poll_pdu(c, CHECK_QUIET_MS);
		must(k, !p && !c->closed, "CmdSN %#x with ExpCmdSN %#x, MaxCmdSN %#x: %s", sn[i], exp, max,
			p ? pdu_words(c, p) : "the connection ended");
	}
	must(k, ping_exp(c) == exp, "ExpCmdSN moved to %#x", c->last_exp);
	struct result r = tur(c);
	good(c, &r, "a right command afterwards");
}

CASE(sequence, gap_holds, "4.2.2.1", NEED_LUN, "commands behind a gap in CmdSN wait until it is filled, and come in order")
{
	struct conn *c = ready(k, "");
	uint32_t n = c->s->cmd_sn, b = send_req(c, tur_sn(k, n + 1)), d = send_req(c, tur_sn(k, n + 2));

	quiet(c, CHECK_QUIET_MS);
	uint32_t a = send_req(c, tur_sn(k, n));
	c->s->cmd_sn = n + 3;
	uint32_t seen = 0;
	for (unsigned i = 0; i < 3; i++) { /* SIMPLE tasks may end in another order */
		struct pdu *p = want(c, ISCSI_SCSI_RSP);
		uint32_t itt = be32(p->h + BHS_ITT);
		seen |= itt == a ? 1 : itt == b ? 2 : itt == d ? 4 : 0;
	}
	must(k, seen == 7, "not all three were answered");
	must(k, ping_exp(c) == n + 3, "ExpCmdSN %#x, %#x was due", c->last_exp, n + 3);
}

CASE(sequence, gap_stops_expcmdsn, "4.2.2.1", NEED_LUN, "ExpCmdSN does not pass a gap")
{
	struct conn *c = ready(k, "");
	uint32_t n = c->s->cmd_sn;

	send_req(c, tur_sn(k, n + 1));
	must(k, ping_exp(c) == n, "ExpCmdSN %#x, the gap is at %#x", c->last_exp, n);
	send_req(c, tur_sn(k, n));
	want(c, ISCSI_SCSI_RSP);
	want(c, ISCSI_SCSI_RSP);
}

CASE(sequence, gap_holds_all_kinds, "4.2.2.1", NEED_LUN,
	"NOP-Out and Text Requests that are not immediate wait behind a gap too")
{
	struct conn *c = ready(k, "");
	uint32_t n = c->s->cmd_sn;

	send_req(c, with_sn(not_immediate(req_nop("later", 5)), n + 1));
	send_req(c, with_sn(req_text("X-com.example.key=1", 20), n + 2));
	send_req(c, with_sn(not_immediate(req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0)), n + 3));
	quiet(c, CHECK_QUIET_MS);
	send_req(c, tur_sn(k, n));
	c->s->cmd_sn = n + 4;
	unsigned seen = 0;
	for (unsigned i = 0; i < 4; i++) {
		struct pdu *p = next(c);
		seen |= p->op == ISCSI_SCSI_RSP ? 1 : p->op == ISCSI_NOP_IN ? 2 : p->op == ISCSI_TEXT_RSP ? 4 :
			p->op == ISCSI_TMF_RSP ? 8 : 16;
		if (seen == 14 && i == 2)
			break; /* the task set's abort took the command */
	}
	must(k, seen == 15 || seen == 14, "answers: %x", seen);
}

CASE(sequence, duplicate, "4.2.2.1, 7.2.1", NEED_LUN, "a command sent twice is carried out once")
{
	struct conn *c = ready(k, "");
	uint32_t n = c->s->cmd_sn;
	struct req r = tur_sn(k, n + 1);
	uint32_t b = put(c, &r);

	r.own_itt = true;
	put(c, &r);
	uint32_t a = send_req(c, tur_sn(k, n));
	c->s->cmd_sn = n + 2;
	uint32_t x = be32(want(c, ISCSI_SCSI_RSP)->h + BHS_ITT), y = be32(want(c, ISCSI_SCSI_RSP)->h + BHS_ITT);
	must(k, (x == a && y == b) || (x == b && y == a), "answers for %#x and %#x", x, y);
	put(c, &r); /* and once more when it is over */
	quiet(c, CHECK_QUIET_MS);
	must(k, ping_exp(c) == n + 2, "ExpCmdSN %#x", c->last_exp);
}

CASE(sequence, wraps, "4.2.2.1, RFC 1982", NEED_LUN, "CmdSN goes on over 2**32-1")
{
	struct conn *c = dial(k);

	c->s->cmd_sn = 0xfffffff8;
	must(k, login_all(c, "", false) == 0, "status %04x", c->status);
	for (unsigned i = 0; i < 24; i++)
		tur(c);
	struct result r = tur(c);
	good(c, &r, "after the wrap");
	must(k, ping_exp(c) == c->s->cmd_sn && c->s->cmd_sn < 0x100, "ExpCmdSN %#x", c->last_exp);
}

CASE(sequence, gap_over_wrap, "4.2.2.1, RFC 1982", NEED_LUN, "a gap at 2**32-1 holds CmdSN 0")
{
	struct conn *c = dial(k);

	c->s->cmd_sn = 0xfffffff0;
	must(k, login_all(c, "", false) == 0, "status %04x", c->status);
	while (c->s->cmd_sn != 0xffffffff)
		tur(c);
	send_req(c, tur_sn(k, 0));
	quiet(c, CHECK_QUIET_MS);
	send_req(c, tur_sn(k, 0xffffffff));
	want(c, ISCSI_SCSI_RSP);
	want(c, ISCSI_SCSI_RSP);
	must(k, ping_exp(c) == 1, "ExpCmdSN %#x", c->last_exp);
}

CASE(sequence, immediate, "4.2.2.1, 11.2.1.1", NEED_LUN,
	"immediate commands are carried out at once and do not advance ExpCmdSN")
{
	struct conn *c = ready(k, "");
	uint32_t exp = ping_exp(c);

	for (unsigned i = 0; i < 4; i++) {
		struct result r = command(c, immediate(req_tur(k)), NULL);
		good(c, &r, "immediate TEST UNIT READY");
	}
	struct result r = command(c, immediate(req_read(k, 0, 1)), NULL);
	good(c, &r, "immediate read");
	must(k, ping_exp(c) == exp, "ExpCmdSN went from %#x to %#x", exp, c->last_exp);
}

CASE(sequence, immediate_behind_gap, "4.2.2.1", NEED_LUN, "an immediate command does not wait for a gap")
{
	struct conn *c = ready(k, "");
	uint32_t n = c->s->cmd_sn, held = send_req(c, tur_sn(k, n + 1));
	struct result r = command(c, immediate(req_tur(k)), NULL);

	good(c, &r, "immediate TEST UNIT READY");
	must(k, be32(r.last->h + BHS_ITT) != held, "the held one came");
	send_req(c, tur_sn(k, n));
	want(c, ISCSI_SCSI_RSP);
	want(c, ISCSI_SCSI_RSP);
}

CASE(sequence, window_full, "4.2.2.1, 11.4.11", NEED_LUN, "the whole window may be filled; it opens again")
{
	struct conn *c = ready(k, "");
	uint32_t exp = ping_exp(c), n = MIN(c->last_max - exp + 1, 512u);

	must(k, n >= 1 && n < 0x10000, "ExpCmdSN %#x, MaxCmdSN %#x", exp, c->last_max);
	for (uint32_t i = 0; i < n; i++)
		send_req(c, req_tur(k));
	for (uint32_t i = 0; i < n; i++)
		must(k, want(c, ISCSI_SCSI_RSP)->h[RSP_STATUS] == 0, "status");
	must(k, ping_exp(c) == exp + n, "ExpCmdSN %#x, %#x was due", c->last_exp, exp + n);
	must(k, c->last_max - c->last_exp + 1 >= 1, "the window stays closed: MaxCmdSN %#x", c->last_max);
}

CASE(sequence, window_closed, "4.2.2.1", NEED_WRITE,
	"a command beyond a full window is ignored; immediate ones are still served")
{
	struct conn *c = ready(k, "ImmediateData=No\nInitialR2T=Yes");
	uint32_t exp = ping_exp(c), n = c->last_max - exp + 1;
	uint8_t *data = pattern(k, k->block, 1);

	if (n > 256)
		check_unsupported(k, "a window of %u commands is too wide to be filled", n);
	for (uint32_t i = 0; i < n; i++)
		send_req(c, req_write(k, i % 64, 1));
	send_req(c, req_nop("ping", 4));
	uint32_t done = 0, pinged = 0;
	while (done < n || !pinged) {
		struct pdu *p = next(c);
		pinged += p->op == ISCSI_NOP_IN;
		done += p->op == ISCSI_SCSI_RSP;
		if (p->op == ISCSI_R2T)
			serve(c, p, data, 0);
		must(k, p->op != ISCSI_SCSI_RSP || p->h[RSP_STATUS] == 0, "%s", pdu_words(c, p));
	}
	alive(c);
}

CASE(sequence, ordered, "4.2.2.1, SAM-5 8.6", NEED_WRITE,
	"ORDERED writes and reads sent at once come as if one after the other")
{
	struct conn *c = ready(k, "");

	for (unsigned i = 0; i < 16; i++) {
		uint8_t *data = pattern(k, k->block, 100 + i);
		struct req w = with_data(req_write(k, 3, 1), data, c->s->immediate ? k->block : 0), r = req_read(k, 3, 1);
		w.h[1] = (uint8_t)((w.h[1] & ~CMD_ATTR) | 2);
		r.h[1] = (uint8_t)((r.h[1] & ~CMD_ATTR) | 2);
		uint32_t wi = put(c, &w), ri = put(c, &r);
		struct result a = finish(c, wi, k->block, data), b = finish(c, ri, k->block, NULL);
		good(c, &a, "write");
		good(c, &b, "read");
		same(k, b.data, data, k->block, "what the write before it wrote");
	}
}

/* DataSN, offsets, F and S of one read. */
static void data_in_right(struct conn *c, const struct result *r, uint32_t len)
{
	struct check *k = c->k;
	uint32_t off = 0, burst = 0;

	for (unsigned i = 0; i < r->nin; i++) {
		const struct pdu *p = r->in[i];
		uint8_t f = p->h[BHS_FLAGS];
		must(k, be32(p->h + DATA_SN) == i, "DataSN %u, %u was due (11.7.5)", be32(p->h + DATA_SN), i);
		must(k, be32(p->h + DATA_OFFSET) == off, "offset %u, %u was due (13.18)", be32(p->h + DATA_OFFSET), off);
		must(k, !(f & DATA_ACK) || c->s->erl, "A=1 at level 0 (11.7.2)");
		must(k, !(f & DATA_STATUS_VALID) || i + 1 == r->nin, "S=1 before the last");
		must(k, !(f & DATA_STATUS_VALID) || (f & FLAG_FINAL), "S=1 without F (11.7.3)");
		off += p->len;
		burst += p->len;
		must(k, burst <= c->s->max_burst, "a sequence of %u bytes, MaxBurstLength is %u (13.13)", burst,
			c->s->max_burst);
		if (f & FLAG_FINAL)
			burst = 0;
	}
	must(k, off == len, "%u bytes of %u came", off, len);
	must(k, r->nin && (r->in[r->nin - 1]->h[1] & FLAG_FINAL), "the last Data-In has no F (11.7.1)");
	if (r->last->op == ISCSI_SCSI_RSP)
		must(k, be32(r->last->h + RSP_EXP_DATA_SN) == r->nin, "ExpDataSN %u, %u Data-In PDUs came (11.4.8)",
			be32(r->last->h + RSP_EXP_DATA_SN), r->nin);
}

CASE(sequence, datasn, "11.7.1, 11.7.5, 11.4.8, 13.12, 13.13", NEED_LUN,
	"Data-In: DataSN from 0 by one, offsets in order, F at the end of each sequence of at most MaxBurstLength")
{
	static const char *const keys[] = { "MaxRecvDataSegmentLength=512\nMaxBurstLength=512\nFirstBurstLength=512",
		"MaxRecvDataSegmentLength=512\nMaxBurstLength=1536\nFirstBurstLength=512",
		"MaxRecvDataSegmentLength=8192\nMaxBurstLength=65536",
		"MaxRecvDataSegmentLength=65536\nMaxBurstLength=4096\nFirstBurstLength=512",
		"MaxRecvDataSegmentLength=700\nMaxBurstLength=2000\nFirstBurstLength=512" };

	for (unsigned i = 0; i < ARRAY_LEN(keys); i++) {
		struct conn *c = ready(k, keys[i]);
		for (uint32_t bytes = k->block; bytes <= 65536; bytes *= 2) {
			struct result r = command(c, req_read(k, 0, bytes / k->block), NULL);
			good(c, &r, "read");
			data_in_right(c, &r, bytes);
		}
		hang_up(c, false);
	}
}

CASE(sequence, status_with_data, "11.7.3, 11.4", NEED_LUN,
	"status comes once: with S in the last Data-In, or in a SCSI Response")
{
	struct conn *c = ready(k, "");

	for (unsigned i = 1; i <= 8; i++) {
		struct result r = command(c, req_read(k, 0, i), NULL);
		good(c, &r, "read");
		uint32_t exp = c->exp_stat;
		alive(c); /* and nothing else comes */
		must(k, c->exp_stat == exp + 1, "StatSN went by %u over one ping", c->exp_stat - exp);
	}
}

CASE(sequence, expstatsn_odd, "4.2.2.2, 7.10", NEED_LUN, "an ExpStatSN that cannot be: answered or refused, never a hang")
{
	static const uint32_t delta[] = { 1, 1000, 0x7fffffff, 0x80000000, 0xffffffff };

	for (unsigned i = 0; i < ARRAY_LEN(delta); i++) {
		struct conn *c = ready(k, "");
		struct req r = req_tur(k);
		put_be32(r.h + BHS_EXP_STAT_SN, c->exp_stat + delta[i]);
		r.own_exp = true;
		put(c, &r);
		struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
		must(k, p || c->closed, "ExpStatSN %+d: no reaction", (int)delta[i]);
		hang_up(c, false);
	}
}

CASE(sequence, many_reads, "4.2.2.2", NEED_LUN, "many reads at once: each ends once, with its own data")
{
	struct conn *c = ready(k, "MaxRecvDataSegmentLength=4096");
	uint32_t n = MIN(c->last_max - c->last_exp + 1, 32u), first = c->s->itt, got[32] = { 0 }, ended = 0;

	for (uint32_t i = 0; i < n; i++)
		send_req(c, req_read(k, i, 16384 / k->block));
	while (ended < n) {
		struct pdu *p = next(c);
		uint32_t i = be32(p->h + BHS_ITT) - first;
		must(k, i < n && (p->op == ISCSI_DATA_IN || p->op == ISCSI_SCSI_RSP), "%s", pdu_words(c, p));
		got[i] += p->op == ISCSI_DATA_IN ? p->len : 0;
		bool end = p->op == ISCSI_SCSI_RSP || (p->h[1] & DATA_STATUS_VALID);
		must(k, !end || (got[i] == 16384 && p->h[RSP_STATUS] == 0), "read %u ended after %u bytes, status %02x", i,
			got[i],
			p->h[RSP_STATUS]);
		ended += end;
	}
}

CASE(sequence, r2tsn, "11.8, 11.8.2, 11.8.4, 11.8.5", NEED_WRITE,
	"R2Ts: R2TSN from 0 by one, offsets in order, lengths of 1 to MaxBurstLength, tags that differ, no more at once "
	"than agreed")
{
	struct conn *c = ready(k, "ImmediateData=No\nMaxBurstLength=4096\nFirstBurstLength=512\nMaxOutstandingR2T=4");
	uint32_t len = 65536, itt = send_req(c, req_write(k, 0, len / k->block)), sn = 0, off = 0, open = 0;
	uint8_t *data = pattern(k, len, 7);
	struct pdu *held[64];

	for (;;) {
		struct pdu *p = poll_pdu(c, open ? 100 : (int)k->timeout_ms);
		must(k, p || (open && !c->closed), "no R2T and no response");
		if (!p) {
			serve(c, held[0], data, 0);
			memmove(held, held + 1, --open * sizeof(held[0]));
			continue;
		}
		if (p->op == ISCSI_SCSI_RSP)
			break;
		must(k, p->op == ISCSI_R2T && be32(p->h + BHS_ITT) == itt, "%s", pdu_words(c, p));
		must(k, be32(p->h + R2T_SN) == sn, "R2TSN %u, %u was due", be32(p->h + R2T_SN), sn);
		must(k, be32(p->h + R2T_OFFSET) == off, "offset %u, %u was due", be32(p->h + R2T_OFFSET), off);
		uint32_t n = be32(p->h + R2T_LEN);
		must(k, n && n <= c->s->max_burst && n <= len - off, "length %u at %u", n, off);
		for (unsigned i = 0; i < open; i++)
			must(k, be32(held[i]->h + BHS_TTT) != be32(p->h + BHS_TTT), "a Target Transfer Tag that is in use");
		must(k, open < ARRAY_LEN(held), "%u R2Ts at once", open);
		held[open++] = p;
		must(k, open <= c->s->max_r2t, "%u R2Ts at once, %u agreed (13.17)", open, c->s->max_r2t);
		sn++;
		off += n;
	}
	must(k, off == len && !open, "response after %u of %u bytes were asked for", off, len);
	same(k, peek(c, 0, len / k->block), data, len, "what was written");
}
