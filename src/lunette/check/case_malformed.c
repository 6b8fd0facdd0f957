/* SPDX-License-Identifier: BSD-3-Clause
 * Suites reject and malformed: what is no legal request, and how it is refused (RFC 7143 7.3, 7.7, 7.13, 11.1, 11.2,
 * 11.17). 7.10 asks of no target to look at everything: where it need not, any end will do but a hang or lost framing. */
#include <stdio.h>
#include <string.h>

#include "lunette/check/check.h"

/* --- reject */

static const char tag_taken[] = "a tag in use or never given"; /* 7.10: need not be looked for */

/* A Reject with one of those reasons and the header as it was sent, or the connection's end. */
static struct pdu *rejected(struct conn *c, const struct req *r, uint32_t reasons, const char *what)
{
	struct check *k = c->k;
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);

	if (!p && !c->closed && what == tag_taken)
		check_lax(k, "%s: no reaction", what);
	must(k, p || c->closed, "%s: no reaction", what);
	if (!p)
		return NULL;
	if (p->op != ISCSI_REJECT && what == tag_taken)
		check_lax(k, "%s: %s", what, pdu_words(c, p));
	must(k, p->op == ISCSI_REJECT, "%s: %s", what, pdu_words(c, p));
	must(k, p->h[REJECT_REASON] < 32 && (reasons & REASON(p->h[REJECT_REASON])), "%s: reason %02x does not fit", what,
		p->h[REJECT_REASON]);
	must(k, p->len >= ISCSI_BHS && !memcmp(p->data, r->h, ISCSI_BHS), "%s: the Reject has another header (11.17.4)", what);
	return p;
}

static void opcode(struct check *k, uint8_t op)
{
	struct conn *c = session(k, "");
	struct req r = with_sn(with_itt(with_data(req(op | OP_IMMEDIATE, FLAG_FINAL), "12345", 5), 0x5151), c->s->cmd_sn);
	char what[32];

	snprintf(what, sizeof(what), "opcode %02x", op);
	put(c, &r);
	if (rejected(c, &r, REASONS_FORMAT, what))
		alive(c);
	hang_up(c, false);
}

CASE(reject, unknown_opcodes, "11.2.1.2, 11.17", 0,
	"opcodes that are not assigned: Reject with the header, or the connection's end; what follows is framed right")
{
	for (uint8_t op = 0x07; op < 0x1c; op++)
		if (op != ISCSI_SNACK)
			opcode(k, op);
}

CASE(reject, vendor_opcodes, "11.2.1.2", 0, "opcodes of other vendors, 1c to 1e: Reject, or the connection's end")
{
	for (uint8_t op = 0x1c; op <= 0x1f; op++)
		opcode(k, op);
}

CASE(reject, target_opcodes, "11.2.1.2", 0, "a target's opcodes from an initiator: Reject, or the connection's end")
{
	for (uint8_t op = 0x20; op < 0x40; op++)
		opcode(k, op);
}

CASE(reject, header_with_digests, "11.17.4", 0, "with digests the Reject has the header without its digest")
{
	struct conn *c = session(k, "HeaderDigest=CRC32C\nDataDigest=CRC32C");

	if (!c->hd || !c->dd)
		check_unsupported(k, "digests were not agreed to");
	struct req r = with_sn(with_itt(with_data(req(0x1c | OP_IMMEDIATE, FLAG_FINAL), "123", 3), 0x5151), c->s->cmd_sn);
	put(c, &r);
	struct pdu *p = rejected(c, &r, REASONS_FORMAT, "opcode 1c");
	must(k, !p || !p->bad_digest, "the Reject's digest is wrong");
}

CASE(reject, snack_at_level_0, "11.16, 7.1.5", 0, "SNACK at level 0: Reject, or the connection's end")
{
	for (uint8_t type = 0; type < 4; type++) {
		struct conn *c = session(k, "ErrorRecoveryLevel=0");
		struct req r = req_snack(type, type == 1 || type == 2 ? ISCSI_NO_TAG : 1, ISCSI_NO_TAG, 0, 0);
		put(c, &r);
		rejected(c, &r, REASONS_FORMAT | REASON(REJECT_SNACK) | REASON(REJECT_INVALID_DATA_ACK), "SNACK");
		hang_up(c, false);
	}
}

CASE(reject, tag_in_use, "11.17.1, 11.2.1.8", NEED_WRITE,
	"a command with the tag of a task in progress: Reject 07 (or the end); the task goes on")
{
	struct conn *c = session(k, "ImmediateData=No\nFirstBurstLength=512");
	struct pdu *p = want_itt(c, ISCSI_R2T, send_req(c, req_write(k, 0, 1)));
	struct req r = immediate(with_itt(req_tur(k), be32(p->h + BHS_ITT)));

	put(c, &r);
	if (!rejected(c, &r, REASON(REJECT_IN_PROGRESS) | REASONS_FORMAT, tag_taken))
		return;
	serve(c, p, pattern(k, k->block, 1), 0);
	p = want_itt(c, ISCSI_SCSI_RSP, be32(p->h + BHS_ITT));
	must(k, p->h[RSP_STATUS] == 0, "the first task: %s", pdu_words(c, p));
}

CASE(reject, cmdsn_not_counted, "7.3", NEED_WRITE,
	"the CmdSN of a rejected command is not received: ExpCmdSN stays, another command may take it")
{
	struct conn *c = session(k, "ImmediateData=No\nFirstBurstLength=512");
	struct pdu *p = want_itt(c, ISCSI_R2T, send_req(c, req_write(k, 0, 1)));
	uint32_t n = c->s->cmd_sn;
	struct req r = with_itt(req_tur(k), be32(p->h + BHS_ITT));

	put(c, &r);
	if (!rejected(c, &r, REASON(REJECT_IN_PROGRESS) | REASONS_FORMAT, tag_taken))
		return;
	must(k, ping_exp(c) == n, "ExpCmdSN %#x, %#x was due", c->last_exp, n);
	uint32_t itt = send_req(c, with_sn(req_tur(k), n));
	struct pdu *q = want_itt(c, ISCSI_SCSI_RSP, itt);
	must(k, q->h[RSP_STATUS] == 0, "%s", pdu_words(c, q));
	serve(c, p, pattern(k, k->block, 1), 0);
	want_itt(c, ISCSI_SCSI_RSP, be32(p->h + BHS_ITT));
}

CASE(reject, text_tag, "11.10.4, 11.17.1", 0,
	"a Text Request with a tag that was never given: Reject with its header, or the end")
{
	struct conn *c = session(k, "");
	struct req r = req_text("X-com.example.key=1", 20);

	put_be32(r.h + BHS_TTT, 0x27182818);
	put(c, &r);
	rejected(c, &r, REASONS_FORMAT, tag_taken);
}

/* --- malformed */

/* Anything but silence: an answer, a Reject, the end. Then, if it is still there, the connection frames right. */
static void survives(struct conn *c, struct req *r, const char *what, bool lax)
{
	struct check *k = c->k;

	put(c, r);
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
	if (!p && !c->closed && lax)
		check_lax(k, "%s: no reaction", what);
	must(k, p || c->closed, "%s: no reaction", what);
	while (p && !c->closed && p->op != ISCSI_SCSI_RSP && p->op != ISCSI_REJECT && p->op != ISCSI_TMF_RSP &&
	       p->op != ISCSI_NOP_IN && p->op != ISCSI_TEXT_RSP && p->op != ISCSI_LOGOUT_RSP && p->op != ISCSI_R2T &&
	       !(p->op == ISCSI_DATA_IN && (p->h[1] & DATA_STATUS_VALID)))
		p = poll_pdu(c, (int)k->timeout_ms);
	if (!p)
		return;
	send_req(c, req_nop("framed?", 7));
	for (p = poll_pdu(c, (int)k->timeout_ms); p && p->op != ISCSI_NOP_IN; p = poll_pdu(c, (int)k->timeout_ms))
		;
	must(k, p || c->closed, "%s: the connection answers no ping any more", what);
	must(k, !p || (p->len == 7 && !memcmp(p->data, "framed?", 7)), "%s: the framing is lost", what);
}

static void odd(struct check *k, const char *keys, struct req r, const char *what)
{
	struct conn *c = session(k, keys);

	survives(c, &r, what, false);
	hang_up(c, false);
}

/* Flags against their CDB are for SCSI to find, 7.10: silence is no failure. */
static void odd_flags(struct check *k, struct req r, const char *what)
{
	struct conn *c = session(k, "");

	survives(c, &r, what, true);
	hang_up(c, false);
}

CASE(malformed, ahs_extended_cdb, "11.2.2.3", NEED_LUN, "an extended CDB header segment is taken or refused, with its length")
{
	uint8_t ahs[260] = { 0 };
	static const uint8_t lens[] = { 1, 4, 16, 200, 252 };

	for (unsigned i = 0; i < ARRAY_LEN(lens); i++) {
		memset(ahs, 0, sizeof(ahs));
		put_be16(ahs, (uint16_t)(lens[i] + 1));
		ahs[2] = 1;
		struct req r = req_tur(k);
		r.ahs = ahs;
		r.ahs_len = pad4(4u + lens[i]);
		odd(k, "", r, "an extended CDB");
		odd(k, "HeaderDigest=CRC32C\nDataDigest=CRC32C", r, "an extended CDB with digests");
	}
}

CASE(malformed, ahs_unknown, "11.2.2.1", NEED_LUN, "a header segment of an unknown type, up to the longest")
{
	static uint8_t ahs[1020];

	put_be16(ahs, 5);
	ahs[2] = 0x3f;
	struct req r = req_tur(k);
	r.ahs = ahs;
	r.ahs_len = 8;
	odd(k, "", r, "AHSType 3f");
	put_be16(ahs, 1017);
	r.ahs_len = 1020;
	odd(k, "", r, "AHSType 3f of 1020 bytes");
	odd(k, "HeaderDigest=CRC32C", r, "AHSType 3f of 1020 bytes with a digest");
}

CASE(malformed, ahs_overrun, "11.2.2.2", NEED_LUN, "an AHSLength beyond TotalAHSLength, and one of 0")
{
	static const uint8_t bad[][8] = { { 0xff, 0xff, 1, 0 }, { 0, 0, 1, 0 }, { 0, 9, 1, 0, 1, 2, 3, 4 }, { 0, 5, 2, 0 } };

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		struct req r = req_tur(k);
		r.ahs = bad[i];
		r.ahs_len = 8;
		odd(k, "", r, "AHSLength");
	}
}

CASE(malformed, ahs_elsewhere, "11.2.1.5", 0, "a header segment in requests that have none")
{
	static const uint8_t ahs[8] = { 0, 5, 1, 0 };
	struct req all[] = { req_nop("x", 1), req_text("X-a=b", 6), req_tmf(k, TMF_ABORT_TASK, 0x999, 0), req_logout(1, 0x77) };

	for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
		all[i].ahs = ahs;
		all[i].ahs_len = 8;
		odd(k, "", all[i], "a header segment");
	}
}

CASE(malformed, data_where_none_is, "11.5.2, 11.14.2", 0, "a data segment in requests that have none")
{
	odd(k, "", with_data(req_tmf(k, TMF_ABORT_TASK, 0x999, 0), "123456", 6), "task management with data");
	odd(k, "", with_data(req_logout(1, 0x77), "123456", 6), "logout with data");
}

CASE(malformed, data_in_read, "11.3.1, 11.3.6", NEED_LUN,
	"immediate data in a command that reads, and in one that moves nothing")
{
	odd(k, "", with_data(req_read(k, 0, 1), pattern(k, 512, 1), 512), "a read with data");
	odd(k, "", with_data(req_tur(k), pattern(k, 512, 1), 512), "TEST UNIT READY with data");
}

CASE(malformed, flags_contradict, "11.3.1", NEED_LUN,
	"R and W, neither with a length, R for a write, W for a read: no hang, no R2T without W")
{
	struct req rd = req_read(k, 0, 1), wr = req_cmd(k, FLAG_FINAL | CMD_READ, 512, "\x2f\0\0\0\0\0\0\0\1\0", 10);

	odd_flags(k, wr, "VERIFY with R");
	rd.h[1] = FLAG_FINAL | CMD_READ | CMD_WRITE | 1;
	odd_flags(k, rd, "a read with R and W");
	rd.h[1] = FLAG_FINAL | 1;
	odd_flags(k, rd, "a read without R");
	rd.h[1] = FLAG_FINAL | CMD_WRITE | 1;
	odd_flags(k, rd, "a read with W");
	rd.h[1] = CMD_READ | 1;
	odd_flags(k, rd, "a read without F");
}

CASE(malformed, reserved_attributes, "11.3.1", NEED_LUN, "task attributes 5 to 7, which are reserved, and ACA")
{
	for (uint8_t a = 4; a < 8; a++) {
		struct req r = req_tur(k);
		r.h[1] = FLAG_FINAL | a;
		odd(k, "", r, "a reserved task attribute");
	}
}

CASE(malformed, length_4_gib, "11.3.4", NEED_LUN, "an expected length of 4 GiB - 1 for a read of one block")
{
	struct req r = req_read(k, 0, 1);

	put_be32(r.h + CMD_EDTL, 0xffffffff);
	struct conn *c = session(k, "");
	uint32_t itt = put(c, &r);
	struct pdu *p = next(c);
	while (p->op == ISCSI_DATA_IN && !(p->h[1] & DATA_STATUS_VALID))
		p = next(c);
	must(k, p->op == ISCSI_REJECT || be32(p->h + BHS_ITT) == itt, "%s", pdu_words(c, p));
	must(k, p->op == ISCSI_REJECT || p->h[RSP_STATUS] || be32(p->h + RSP_RESID) == 0xffffffff - k->block, "residual %u",
		be32(p->h + RSP_RESID));
}

CASE(malformed, write_4_gib, "11.3.4", NEED_WRITE,
	"an expected length of 4 GiB - 1 for a write of one block: no memory is taken for it, no hang")
{
	struct req r = req_write(k, 0, 1);

	put_be32(r.h + CMD_EDTL, 0xffffffff);
	odd(k, "ImmediateData=No", r, "a write of 4 GiB");
}

CASE(malformed, reserved_task_tag, "11.2.1.8", NEED_LUN,
	"a command, a text and a task management request with the reserved task tag")
{
	odd(k, "", with_itt(req_tur(k), ISCSI_NO_TAG), "a command");
	odd(k, "", with_itt(req_text("X-a=b", 6), ISCSI_NO_TAG), "a Text Request");
	odd(k, "", with_itt(req_tmf(k, TMF_ABORT_TASK, 0x999, 0), ISCSI_NO_TAG), "a task management request");
	odd(k, "", with_itt(req_logout(1, 0x77), ISCSI_NO_TAG), "a logout");
}

CASE(malformed, nop_no_tag_not_immediate, "11.18.1", 0,
	"a NOP-Out with the reserved task tag that is not immediate: no answer, or refused; CmdSN goes on")
{
	struct conn *c = session(k, "");

	send_req(c, with_itt(not_immediate(req_nop("x", 1)), ISCSI_NO_TAG));
	refusal(c, BY_REJECT | BY_CLOSE | BY_SILENCE, REASONS_FORMAT, "such a NOP-Out");
	if (c->closed)
		return;
	uint32_t exp = ping_exp(c);
	must(k, exp == c->s->cmd_sn || exp == c->s->cmd_sn - 1, "ExpCmdSN %#x", exp);
}

CASE(malformed, padding_not_zero, "11.1", 0, "pad bytes that are not 0 (SHOULD): the data is taken")
{
	struct conn *c = session(k, "");
	struct req r = req_nop("a", 1);
	uint8_t *b;
	size_t n = pack(c, &r, &b);

	memset(b + ISCSI_BHS + 1, 0xff, 3);
	put_bytes(c, b, n);
	struct pdu *p = want(c, ISCSI_NOP_IN);
	must(k, p->len == 1 && p->data[0] == 'a', "%u bytes came back", p->len);
}

CASE(malformed, text_flags, "6.2, 11.10", 0, "a Text Request with F and C, which must not be")
{
	struct req r = req_text("X-a=b", 6);

	r.h[1] = FLAG_FINAL | FLAG_CONTINUE;
	odd(k, "", r, "F and C");
}

CASE(malformed, cdb_garbage, "11.3.5", NEED_LUN, "CDBs of reserved operation codes end with CHECK CONDITION")
{
	static const uint8_t ops[] = { 0xff, 0x7e, 0xbf, 0x1f, 0x9f, 0x6e };
	struct conn *c = session(k, "");

	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		uint8_t cdb[16];
		memset(cdb, 0xff, sizeof(cdb));
		cdb[0] = ops[i];
		struct result r = command(c, req_cmd(k, FLAG_FINAL, 0, cdb, 16), NULL);
		must(k, r.status == 2 && r.key, "operation code %02x: status %02x, sense key %x", ops[i], r.status, r.key);
	}
}

CASE(malformed, lun_formats, "11.2.1.7, SAM-5 4.7", 0, "LUN fields of every addressing method: an answer to each")
{
	struct conn *c = session(k, "");
	static const uint64_t luns[] = { 0xffffffffffffffffu, 0x4000000000000000u, 0x8000000000000000u, 0xc101000000000000u,
		0x0001000000000001u, 0xd200000000000000u, 0x7fff000000000000u };

	for (unsigned i = 0; i < ARRAY_LEN(luns); i++) {
		struct result r = command(c, with_lun(req_tur(k), luns[i]), NULL);
		must(k, r.last->op == ISCSI_SCSI_RSP, "LUN field %016llx: %s", (unsigned long long)luns[i], pdu_words(c,
			r.last));
	}
}

CASE(malformed, in_single_bytes, "11.1", NEED_LUN, "requests that arrive byte by byte, with both digests")
{
	struct conn *c = session(k, "HeaderDigest=CRC32C,None\nDataDigest=CRC32C,None");
	struct req a = req_nop("ping!", 5), b = req_read(k, 0, 1);
	uint8_t *x, *y;
	size_t nx = pack(c, &a, &x), ny = pack(c, &b, &y);

	for (size_t i = 0; i < nx; i++)
		put_bytes(c, x + i, 1);
	for (size_t i = 0; i < ny; i++)
		put_bytes(c, y + i, 1);
	must(k, want(c, ISCSI_NOP_IN)->len == 5, "the ping");
	struct result r = finish(c, be32(b.h + BHS_ITT), k->block, NULL);
	good(c, &r, "read");
}

CASE(malformed, many_in_one_segment, "11.1", NEED_LUN, "thirty requests in one TCP segment")
{
	struct conn *c = session(k, "");
	uint32_t n = MIN(c->last_max - c->last_exp + 1, 30u);
	uint8_t *all = check_alloc(k, n * 64u), *b;
	size_t at = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct req r = req_tur(k);
		size_t m = pack(c, &r, &b);
		memcpy(all + at, b, m);
		at += m;
	}
	put_bytes(c, all, at);
	for (uint32_t i = 0; i < n; i++)
		must(k, want(c, ISCSI_SCSI_RSP)->h[RSP_STATUS] == 0, "status of request %u", i);
}

CASE(malformed, rubbish, "7.7, 7.13", 0, "random bytes on an established connection end it, or it waits for more; others go on")
{
	struct conn *other = session(k, "");

	for (unsigned i = 0; i < 20; i++) {
		struct conn *c = session(k, "");
		put_bytes(c, pattern(k, 2000, i), 37 + i * 91);
		hang_up(c, i & 1);
	}
	alive(other);
}

CASE(malformed, rubbish_before_login, "4.2.4, 7.7", 0, "random bytes instead of a login disturb nobody")
{
	struct conn *other = session(k, "");

	for (unsigned i = 0; i < 20; i++) {
		struct conn *c = dial(k);
		put_bytes(c, pattern(k, 2000, 100 + i), 1 + i * 91);
		hang_up(c, i & 1);
	}
	alive(other);
}

CASE(malformed, half_header, "7.14", 0, "connections that break inside a header disturb nobody")
{
	struct conn *other = session(k, "");

	for (unsigned n = 0; n < ISCSI_BHS; n += 5) {
		struct conn *c = session(k, "");
		uint8_t *b;
		struct req r = req_nop("x", 1);
		pack(c, &r, &b);
		put_bytes(c, b, n);
		hang_up(c, n & 1);
	}
	alive(other);
}

CASE(malformed, reads_nothing, "4.2.5.2", NEED_LUN, "an initiator that asks for much and reads late gets everything")
{
	struct conn *c = session(k, "MaxRecvDataSegmentLength=262144\nMaxBurstLength=1048576");
	uint32_t n = MIN(c->last_max - c->last_exp + 1, 32u), len = 65536, first = c->s->itt, got = 0, ended = 0;

	for (uint32_t i = 0; i < n; i++)
		send_req(c, req_read(k, 0, len / k->block));
	c->deaf = true;
	quiet(session(k, ""), 300); /* meanwhile nobody reads */
	while (ended < n) {
		struct pdu *p = next(c);
		must(k, be32(p->h + BHS_ITT) - first < n, "%s", pdu_words(c, p));
		got += p->op == ISCSI_DATA_IN ? p->len : 0;
		ended += p->op == ISCSI_SCSI_RSP || (p->h[1] & DATA_STATUS_VALID);
	}
	must(k, got == n * len, "%u bytes of %u came", got, n * len);
}
