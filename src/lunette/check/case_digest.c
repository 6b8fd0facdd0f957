/* SPDX-License-Identifier: BSD-3-Clause
 * Suite digest: CRC32C over headers and data, right and wrong (RFC 7143 7.8, 13.1). */
#include <stdio.h>
#include <string.h>

#include "lunette/check/check.h"

static struct conn *with_digests(struct check *k, bool h, bool d, const char *more)
{
	char keys[256];

	snprintf(keys, sizeof(keys), "HeaderDigest=%s\nDataDigest=%s\n%s", h ? "CRC32C" : "None", d ? "CRC32C" : "None", more);
	struct conn *c = session(k, keys);
	if (c->hd != h || c->dd != d)
		check_unsupported(k, "HeaderDigest=%s and DataDigest=%s were answered %s and %s", h ? "CRC32C" : "None",
			d ? "CRC32C" : "None", answer(c, "HeaderDigest"), answer(c, "DataDigest"));
	return c;
}

static void traffic(struct conn *c)
{
	struct check *k = c->k;

	for (uint32_t n = 0; n < 9; n++) {
		uint8_t *data = pattern(k, n, n);
		struct pdu *p = want_itt(c, ISCSI_NOP_IN, send_req(c, req_nop(data, n)));
		must(k, p->len == n && !p->bad_digest, "a ping of %u bytes came back with %u, digest %s", n, p->len,
			p->bad_digest ? "wrong" : "right");
		same(k, p->data, data, n, "the echo");
	}
	for (uint32_t n = 1; k->block && n <= 64; n *= 4) {
		struct result r = command(c, req_read(k, 0, n), NULL);
		good(c, &r, "read");
		for (unsigned i = 0; i < r.nin; i++)
			must(k, !r.in[i]->bad_digest, "a Data-In with a wrong digest");
	}
	struct result r = command(c, req_cmd(k, FLAG_FINAL | CMD_READ, 255, "\x12\0\0\0\x25\0", 6), NULL);
	good(c, &r, "INQUIRY of 37 bytes");
}

CASE(digest, header, "13.1", 0, "HeaderDigest=CRC32C alone: all kinds of PDUs, padding and all")
{
	traffic(with_digests(k, true, false, ""));
}

CASE(digest, data, "13.1", 0, "DataDigest=CRC32C alone: all kinds of PDUs, padding and all")
{
	traffic(with_digests(k, false, true, ""));
}

CASE(digest, both, "13.1", 0, "both digests: all kinds of PDUs, padding and all")
{
	traffic(with_digests(k, true, true, "MaxRecvDataSegmentLength=1000"));
}

CASE(digest, writes, "13.1", NEED_WRITE, "both digests: immediate and solicited data of many lengths")
{
	struct conn *c = with_digests(k, true, true, "FirstBurstLength=2048\nMaxBurstLength=4096");

	for (uint32_t n = 1; n * k->block <= 65536; n *= 2) {
		uint8_t *data = pattern(k, n * k->block, n);
		poke(c, 2, n, data);
		same(k, peek(c, 2, n), data, n * k->block, "what was written");
	}
}

/* 7.8: discard up to a later PDU, or close; where the later PDU begins cannot be told without markers. */
static void header_error(struct conn *c, struct req r, const char *what)
{
	struct check *k = c->k;

	r.flip_header = 0x00800000;
	put(c, &r);
	struct pdu *p = poll_pdu(c, CHECK_QUIET_MS * 2);
	must(k, !p || p->op == ISCSI_ASYNC, "%s with a wrong header digest is answered with %s", what, p ? pdu_words(c, p) :
		"");
	hang_up(c, false);
}

CASE(digest, header_wrong_nop, "7.8", 0,
	"a ping with a wrong header digest is not answered: discarded, or the connection closed")
{
	header_error(with_digests(k, true, true, ""), req_nop("ping", 4), "a ping");
}

CASE(digest, header_wrong_command, "7.8", NEED_LUN, "a command with a wrong header digest is not carried out")
{
	header_error(with_digests(k, true, true, ""), req_read(k, 0, 1), "a read");
}

CASE(digest, header_wrong_write, "7.8", NEED_WRITE, "a write with a wrong header digest is not carried out")
{
	struct conn *d = session(k, "");
	uint8_t *old = pattern(k, k->block, 1);

	poke(d, 5, 1, old);
	struct conn *c = with_digests(k, true, true, "");
	header_error(c, with_data(req_write(k, 5, 1), pattern(k, k->block, 2), c->s->immediate ? k->block : 0), "a write");
	same(k, peek(d, 5, 1), old, k->block, "the block");
}

CASE(digest, header_wrong_out, "7.8", NEED_WRITE, "a Data-Out with a wrong header digest does not become data")
{
	struct conn *c = with_digests(k, true, true, "ImmediateData=No\nFirstBurstLength=512");
	uint8_t *data = pattern(k, k->block, 3);
	struct pdu *p = want_itt(c, ISCSI_R2T, send_req(c, req_write(k, 0, 1)));
	struct req r = req_out(k, be32(p->h + BHS_ITT), be32(p->h + BHS_TTT), 0, data, k->block, 0, true);

	r.flip_header = 1;
	put(c, &r);
	p = poll_pdu(c, CHECK_QUIET_MS * 2);
	must(k, !p || p->op != ISCSI_SCSI_RSP || p->h[RSP_STATUS], "GOOD");
}

/* Reject 02 with the header of the PDU. 7.8 allows to escalate to session recovery instead. */
static void data_error(struct conn *c, struct req r, const char *what)
{
	struct check *k = c->k;

	r.flip_data = 0x01;
	put(c, &r);
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
	if (!p && c->closed)
		check_unsupported(k, "the connection ended: escalated to session recovery, as 7.8 allows");
	must(k, p, "%s with a wrong data digest: no reaction", what);
	must(k, p->op == ISCSI_REJECT && p->h[REJECT_REASON] == REJECT_DATA_DIGEST,
		"%s with a wrong data digest: %s, Reject 02 was due",
		what, pdu_words(c, p));
	must(k, p->len >= ISCSI_BHS && !memcmp(p->data, r.h, ISCSI_BHS), "the Reject has another header (11.17.4)");
}

CASE(digest, data_wrong_nop, "7.8", 0, "a ping with a wrong data digest: Reject 02, and nothing else")
{
	struct conn *c = with_digests(k, true, true, "");

	data_error(c, req_nop("ping", 4), "a ping");
	alive(c);
	c = with_digests(k, false, true, "");
	data_error(c, req_nop("ping", 4), "a ping without header digests");
	alive(c);
}

CASE(digest, data_wrong_text, "7.8", 0,
	"a Text Request with a wrong data digest: Reject 02; sent again with its CmdSN it is answered")
{
	struct conn *c = with_digests(k, true, true, "");
	struct req r = req_text("X-com.example.key=1", 20);
	uint32_t n = c->s->cmd_sn;

	data_error(c, r, "a Text Request");
	must(k, ping_exp(c) == n, "the discarded request was counted: ExpCmdSN %#x, %#x was due", c->last_exp, n);
	send_req(c, with_sn(r, n));
	want(c, ISCSI_TEXT_RSP);
	must(k, ping_exp(c) == n + 1, "ExpCmdSN %#x", c->last_exp);
}

CASE(digest, data_wrong_immediate, "7.8, 7.2.1, 7.3", NEED_WRITE,
	"immediate data with a wrong digest: Reject 02, the command discarded; the retry is carried out")
{
	struct conn *c = with_digests(k, true, true, ""), *d = session(k, "");
	uint8_t *old = pattern(k, k->block, 1), *new = pattern(k, k->block, 2);
	uint32_t n = c->s->cmd_sn;

	if (!c->s->immediate)
		check_unsupported(k, "ImmediateData=No was the answer");
	poke(d, 6, 1, old);
	struct req r = with_data(req_write(k, 6, 1), new, k->block);
	data_error(c, r, "a write");
	quiet(c, CHECK_QUIET_MS);
	same(k, peek(d, 6, 1), old, k->block, "the block after the Reject");
	must(k, ping_exp(c) == n, "the discarded command was counted: ExpCmdSN %#x, %#x was due", c->last_exp, n);
	struct result x = finish(c, send_req(c, with_sn(r, n)), k->block, new);
	good(c, &x, "the retry");
	same(k, peek(d, 6, 1), new, k->block, "the block after the retry");
}

/* After the Reject either a recovery R2T, which is answered, or 0B/47/05 once all data are there. */
static void out_error(struct check *k, bool last)
{
	struct conn *c = with_digests(k, true, true, "ImmediateData=No\nFirstBurstLength=512\nMaxBurstLength=8192");
	uint8_t *data = pattern(k, 8192, 4);
	uint32_t itt = send_req(c, req_write(k, 0, 8192 / k->block)), sn = 1;
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);

	if (be32(p->h + R2T_LEN) != 8192)
		check_unsupported(k, "the R2T is for %u bytes of 8192", be32(p->h + R2T_LEN));
	for (unsigned half = 0; half < 2; half++) {
		struct req r = req_out(k, itt, be32(p->h + BHS_TTT), half * 4096, data + half * 4096, 4096, half, half == 1);
		if (half == last)
			data_error(c, r, "a Data-Out");
		else
			put(c, &r);
	}
	for (p = next(c); p->op == ISCSI_R2T; p = next(c)) {
		must(k, be32(p->h + R2T_SN) == sn++, "R2TSN %u of a recovery R2T", be32(p->h + R2T_SN));
		serve(c, p, data, 0);
	}
	must(k, p->op == ISCSI_SCSI_RSP && be32(p->h + BHS_ITT) == itt, "%s", pdu_words(c, p));
	uint8_t key, asc, ascq;
	sense_of(p, &key, &asc, &ascq);
	if (sn == 1) /* not recovered: "Protocol Service CRC error", 11.4.7.2 */
		must(k, p->h[RSP_STATUS] == 2 && key == 0x0b && asc == 0x47 && ascq == 5, "%s, sense b/47/05 was due",
			pdu_words(c, p));
	else
		same(k, peek(c, 0, 8192 / k->block), data, 8192, "what the recovered write wrote");
	hang_up(c, false);
}

CASE(digest, data_wrong_out, "7.8, 11.4.7.2", NEED_WRITE,
	"a Data-Out with a wrong data digest: Reject 02, then a recovery R2T, or CHECK CONDITION 0B/47/05 when all data are "
	"there")
{
	out_error(k, false);
}

CASE(digest, data_wrong_last_out, "7.8, 11.4.7.2", NEED_WRITE, "the same for the last Data-Out of its sequence")
{
	out_error(k, true);
}

CASE(digest, data_wrong_unsolicited, "7.8, 11.4.7.2", NEED_WRITE,
	"an unsolicited Data-Out with a wrong data digest: Reject 02, then recovery or CHECK CONDITION")
{
	struct conn *c = with_digests(k, true, true,
		"InitialR2T=No\nImmediateData=No\nFirstBurstLength=4096\nMaxBurstLength=8192");
	uint8_t *data = pattern(k, 4096, 4);
	struct req w = req_write(k, 0, 4096 / k->block);

	if (c->s->initial_r2t)
		check_unsupported(k, "InitialR2T=Yes was the answer");
	w.h[1] &= (uint8_t)~FLAG_FINAL;
	uint32_t itt = put(c, &w), r2ts = 0;
	data_error(c, req_out(k, itt, ISCSI_NO_TAG, 0, data, 2048, 0, false), "a Data-Out");
	send_req(c, req_out(k, itt, ISCSI_NO_TAG, 2048, data + 2048, 2048, 1, true));
	struct pdu *p = next(c);
	for (; p->op == ISCSI_R2T; p = next(c), r2ts++)
		serve(c, p, data, 0);
	must(k, p->op == ISCSI_SCSI_RSP && (r2ts || p->h[RSP_STATUS] == 2), "%s after %u R2Ts", pdu_words(c, p), r2ts);
}

CASE(digest, many_errors, "7.8", NEED_LUN,
	"twenty wrong digests in turn with right requests: each is rejected, each right one answered")
{
	struct conn *c = with_digests(k, true, true, "");

	for (unsigned i = 0; i < 20; i++) {
		data_error(c, req_nop("ping", 1 + i % 4), "a ping");
		peek(c, 0, 1);
	}
}
