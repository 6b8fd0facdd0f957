/* SPDX-License-Identifier: BSD-3-Clause
 * Suite data: solicited, unsolicited and immediate data, residuals, what breaks their rules (RFC 7143 4.2.5.2, 11.3,
 * 11.4.5, 11.7, 11.8, 13.10 to 13.19). */
#include <stdio.h>
#include <string.h>

#include "lunette/check/check.h"

static const char yes_no[] = "InitialR2T=Yes\nImmediateData=No\nFirstBurstLength=512\nMaxBurstLength=8192";
static const char no_yes[] = "InitialR2T=No\nImmediateData=Yes\nFirstBurstLength=8192\nMaxBurstLength=16384";

/* --- reads */

CASE(data, read_lengths, "11.7", NEED_LUN, "reads of one block to 64 KiB bring all their bytes, the same each time")
{
	struct conn *c = session(k, ""), *d = session(k,
		"MaxRecvDataSegmentLength=512\nMaxBurstLength=1024\nFirstBurstLength=512");

	for (uint32_t n = 1; n * k->block <= 65536; n = n * 2 + (n == 2))
		same(k, peek(d, 1, n), peek(c, 1, n), n * k->block, "two reads of the same blocks");
}

struct resid_row { uint32_t blocks; int32_t extra; };

static void residual_read(struct conn *c, struct resid_row row)
{
	struct check *k = c->k;
	uint32_t len = row.blocks * k->block, edtl = (uint32_t)((int32_t)len + row.extra);
	struct req r = req_read(k, 0, row.blocks);

	put_be32(r.h + CMD_EDTL, edtl);
	struct result x = command(c, r, NULL);
	good(c, &x, "read");
	uint8_t due = row.extra > 0 ? RSP_UNDERFLOW : row.extra < 0 ? RSP_OVERFLOW : 0;
	must(k, (x.flags & (RSP_UNDERFLOW | RSP_OVERFLOW)) == due, "a read of %u bytes with %u expected: U and O are %x",
		len, edtl,
		x.flags & 6);
	uint32_t resid = (uint32_t)(row.extra < 0 ? -row.extra : row.extra);
	must(k, !due || x.residual == resid, "a read of %u bytes with %u expected: residual %u, %u was due", len, edtl,
		x.residual,
		resid);
	must(k, x.moved == MIN(len, edtl), "a read of %u bytes with %u expected: %u came", len, edtl, x.moved);
}

CASE(data, residual_read, "11.4.5", NEED_LUN,
	"reads of less and more than the expected length: U or O and the right residual count")
{
	struct conn *c = session(k, "");
	int32_t b = (int32_t)k->block;
	const struct resid_row rows[] = { { 1, 0 }, { 1, b }, { 2, -b }, { 8, 1 }, { 8, -1 }, { 8, 3 * b + 5 }, { 8,
		1 - 8 * b }, { 3, -7 } };

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
		residual_read(c, rows[i]);
}

CASE(data, residual_no_data, "11.4.5", NEED_LUN,
	"a command without data but with an expected length: U and all of it as residual")
{
	struct conn *c = session(k, "");
	struct req r = req_tur(k);

	r.h[1] |= CMD_READ;
	put_be32(r.h + CMD_EDTL, 512);
	struct result x = command(c, r, NULL);
	good(c, &x, "TEST UNIT READY");
	must(k, (x.flags & 6) == RSP_UNDERFLOW && x.residual == 512, "flags %x, residual %u", x.flags & 6, x.residual);
}

CASE(data, residual_short_answer, "11.4.5.3", NEED_LUN, "an INQUIRY of 36 bytes with 255 expected: U and 219")
{
	struct conn *c = session(k, "");
	struct result x = command(c, req_cmd(k, FLAG_FINAL | CMD_READ, 255, "\x12\0\0\0\x24\0", 6), NULL);

	good(c, &x, "INQUIRY");
	must(k, (x.flags & 6) == RSP_UNDERFLOW && x.residual == 255 - x.moved, "flags %x, residual %u, %u bytes came",
		x.flags & 6,
		x.residual, x.moved);
}

CASE(data, residual_failed, "11.4.5, 11.4.7", NEED_LUN,
	"a read that fails: CHECK CONDITION with sense data, U and the residual count of what did not come")
{
	struct conn *c = session(k, "");
	struct req r = req_cmd(k, FLAG_FINAL | CMD_READ, k->block, "\x28\0\xff\xff\xff\xf0\0\0\1\0", 10);

	if (k->blocks > 0xfffffff0)
		check_unsupported(k, "the LUN has %llu blocks", (unsigned long long)k->blocks);
	struct result x = command(c, r, NULL);
	must(k, x.status == 2 && x.key, "status %02x, sense key %x", x.status, x.key);
	must(k, x.last->len >= 2 && be16(x.last->data) + 2u <= x.last->len, "SenseLength %u in %u bytes (11.4.7.1)",
		x.last->len >= 2 ? be16(x.last->data) : 0, x.last->len);
	must(k, x.moved || ((x.flags & 6) == RSP_UNDERFLOW && x.residual == k->block), "flags %x, residual %u", x.flags & 6,
		x.residual);
}

CASE(data, no_room, "11.4.5", NEED_LUN, "a read with an expected length of 0: O and all of it as residual, no Data-In")
{
	struct conn *c = session(k, "");
	struct req r = req_read(k, 0, 1);

	r.h[1] &= (uint8_t)~CMD_READ;
	put_be32(r.h + CMD_EDTL, 0);
	struct result x = command(c, r, NULL);
	must(k, x.nin == 0, "%u Data-In PDUs", x.nin);
	must(k, x.status || ((x.flags & 6) == RSP_OVERFLOW && x.residual == k->block), "GOOD, flags %x, residual %u",
		x.flags & 6,
		x.residual);
}

CASE(data, lun_unknown, "11.2.1.7, SAM-5 4.7", 0,
	"a command to a LUN that is not there ends with CHECK CONDITION; INQUIRY says what it is")
{
	struct conn *c = session(k, "");
	uint64_t none = 0x00ee000000000000u;
	struct result x = command(c, with_lun(req_tur(k), none), NULL);

	must(k, x.status == 2, "TEST UNIT READY: status %02x", x.status);
	x = command(c, with_lun(req_cmd(k, FLAG_FINAL | CMD_READ, 36, "\x12\0\0\0\x24\0", 6), none), NULL);
	must(k, x.status == 2 || (x.moved && x.data[0] >> 5 != 0), "INQUIRY: status %02x, byte 0 %02x", x.status, x.data[0]);
}

CASE(data, attributes, "11.3.1", NEED_LUN, "task attributes untagged, SIMPLE, ORDERED and HEAD OF QUEUE are taken")
{
	struct conn *c = session(k, "");

	for (uint8_t a = 0; a <= 3; a++) {
		struct req r = req_tur(k);
		r.h[1] = FLAG_FINAL | a;
		struct result x = command(c, r, NULL);
		good(c, &x, "TEST UNIT READY");
	}
}

/* --- writes */

/* A write of len bytes: now of them immediate, then unsolicited PDUs of step bytes up to first, the rest as R2Ts ask. */
static void write_as(struct conn *c, uint32_t len, uint32_t now, uint32_t first, uint32_t step, uint32_t seed)
{
	struct check *k = c->k;
	uint8_t *data = pattern(k, len, seed);
	struct req w = with_data(req_write(k, 8, len / k->block), data, now);
	uint32_t sn = 0;

	first = MIN(first, len);
	if (now < first)
		w.h[1] &= (uint8_t)~FLAG_FINAL;
	uint32_t itt = put(c, &w);
	for (uint32_t at = now; at < first; sn++) {
		uint32_t n = MIN(step, first - at);
		send_req(c, req_out(k, itt, ISCSI_NO_TAG, at, data + at, n, sn, at + n == first));
		at += n;
	}
	struct result x = finish(c, itt, len, data);
	good(c, &x, "write");
	must(k, (x.flags & 6) == 0, "residual flags %x", x.flags & 6);
	same(k, peek(c, 8, len / k->block), data, len, "what was written");
}

CASE(data, write_solicited, "11.8, 13.10, 13.11", NEED_WRITE, "InitialR2T=Yes, ImmediateData=No: all data by R2T")
{
	struct conn *c = session(k, yes_no);

	for (uint32_t len = k->block; len <= 65536; len *= 2)
		write_as(c, len, 0, 0, 0, len);
}

CASE(data, write_immediate, "4.2.5.2, 13.11", NEED_WRITE,
	"InitialR2T=Yes, ImmediateData=Yes: some, all or none of the first burst immediate")
{
	struct conn *c = session(k, "InitialR2T=Yes\nImmediateData=Yes\nFirstBurstLength=8192\nMaxBurstLength=8192");
	static const uint32_t now[] = { 0, 4, 512, 1000, 4096, 8192 };

	if (!c->s->immediate)
		check_unsupported(k, "ImmediateData=No was the answer");
	for (unsigned i = 0; i < ARRAY_LEN(now); i++)
		write_as(c, 16384, MIN(MIN(now[i], c->send_max), c->s->first_burst), 0, 0, now[i]);
}

CASE(data, write_unsolicited, "4.2.5.2, 13.10, 13.14", NEED_WRITE,
	"InitialR2T=No: unsolicited Data-Out up to FirstBurstLength, with and without immediate data")
{
	struct conn *c = session(k, no_yes);
	uint32_t fb = c->s->first_burst, im = c->s->immediate ? MIN(1024u, fb) : 0;

	if (c->s->initial_r2t)
		check_unsupported(k, "InitialR2T=Yes was the answer");
	for (unsigned i = 0; i < 3; i++) {
		write_as(c, 32768, im * (i & 1), fb, i == 2 ? 700 : 512, i);
		write_as(c, 4096, im * (i & 1), fb, 512, 10 + i);
	}
}

CASE(data, write_no_no, "4.2.5.2, 13.10, 13.11", NEED_WRITE,
	"InitialR2T=No, ImmediateData=No: unsolicited Data-Out alone, or F=1 and none")
{
	struct conn *c = session(k, "InitialR2T=No\nImmediateData=No\nFirstBurstLength=4096\nMaxBurstLength=4096");

	if (c->s->initial_r2t)
		check_unsupported(k, "InitialR2T=Yes was the answer");
	write_as(c, 16384, 0, c->s->first_burst, 512, 1);
	write_as(c, 16384, 0, 0, 0, 2);
	write_as(c, 2048, 0, 4096, 2048, 3);
}

CASE(data, r2t_counts, "13.17, 11.8", NEED_WRITE,
	"MaxOutstandingR2T from 1 to 32, MaxBurstLength from 512: the data arrive whole")
{
	static const unsigned n[] = { 1, 2, 3, 8, 31, 32 };
	static const unsigned burst[] = { 512, 1536, 4096, 65536 };
	char keys[160];

	for (unsigned i = 0; i < ARRAY_LEN(n) * ARRAY_LEN(burst); i++) {
		snprintf(keys, sizeof(keys),
			"ImmediateData=No\nFirstBurstLength=512\nMaxOutstandingR2T=%u\nMaxBurstLength=%u", n[i / 4],
			burst[i % 4]);
		struct conn *c = session(k, keys);
		must(k, c->s->max_r2t <= n[i / 4] && c->s->max_burst <= burst[i % 4], "an answer above the offer");
		write_as(c, 32768, 0, 0, 0, i);
		hang_up(c, false);
	}
}

CASE(data, out_of_any_size, "11.7.7, 11.8", NEED_WRITE,
	"an R2T may be answered with Data-Out PDUs of any size, some of them empty")
{
	struct conn *c = session(k, yes_no);
	uint32_t len = 8192, steps[] = { 4, 500, 1000, 4093, 8192 };

	for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
		uint8_t *data = pattern(k, len, i);
		uint32_t itt = send_req(c, req_write(k, 0, len / k->block));
		struct pdu *p = want_itt(c, ISCSI_R2T, itt);
		for (; p->op == ISCSI_R2T; p = next(c))
			serve(c, p, data, steps[i] == 4 ? 64 : steps[i]);
		must(k, p->op == ISCSI_SCSI_RSP && p->h[RSP_STATUS] == 0, "%s", pdu_words(c, p));
		same(k, peek(c, 0, len / k->block), data, len, "what was written");
	}
}

CASE(data, two_writes_in_turns, "11.8", NEED_WRITE, "R2Ts of several commands answered in turns")
{
	struct conn *c = session(k, "ImmediateData=No\nFirstBurstLength=512\nMaxBurstLength=2048");
	uint8_t *data[4];
	uint32_t itt[4], ended = 0, len = 8192, each = len / k->block;
	struct pdu *held[4] = { 0 };

	for (unsigned i = 0; i < 4; i++) {
		data[i] = pattern(k, len, 50 + i);
		itt[i] = send_req(c, req_write(k, i * each, each));
	}
	while (ended < 4) {
		struct pdu *p = poll_pdu(c, 50);
		must(k, p || !c->closed, "the connection ended");
		unsigned i = 0;
		while (p && i < 3 && itt[i] != be32(p->h + BHS_ITT))
			i++;
		if (p && p->op == ISCSI_R2T) {
			held[i] = p;
			continue;
		}
		must(k, !p || (p->op == ISCSI_SCSI_RSP && p->h[RSP_STATUS] == 0), "%s", p ? pdu_words(c, p) : "");
		ended += p != NULL;
		for (i = 4; !p && i-- > 0;) {
			if (held[i])
				serve(c, held[i], data[i], 700);
			held[i] = NULL;
		}
	}
	for (unsigned i = 0; i < 4; i++)
		same(k, peek(c, i * each, each), data[i], len, "what was written");
}

CASE(data, residual_write, "11.4.5", NEED_WRITE,
	"writes of less and more than the expected length: U or O and the right residual count")
{
	struct conn *c = session(k, yes_no);
	static const struct { uint32_t blocks, edtl_blocks; } rows[] = { { 1, 1 }, { 1, 2 }, { 2, 1 }, { 1, 4 } };

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		uint32_t len = rows[i].blocks * k->block, edtl = rows[i].edtl_blocks * k->block;
		struct req w = req_write(k, 0, rows[i].blocks);
		put_be32(w.h + CMD_EDTL, edtl);
		struct result x = command(c, w, pattern(k, edtl, i));
		if (x.status && edtl < len)
			continue; /* a write that its data do not fill may fail */
		good(c, &x, "write");
		uint8_t due = len < edtl ? RSP_UNDERFLOW : len > edtl ? RSP_OVERFLOW : 0;
		must(k, (x.flags & 6) == due, "%u of %u bytes: flags %x", len, edtl, x.flags & 6);
		must(k, !due || x.residual == (len < edtl ? edtl - len : len - edtl), "%u of %u bytes: residual %u", len,
			edtl, x.residual);
	}
}

CASE(data, longest_immediate, "13.12, 13.14", NEED_WRITE,
	"immediate data of exactly the target's MaxRecvDataSegmentLength or FirstBurstLength")
{
	struct conn *c = session(k, "MaxBurstLength=16777215\nFirstBurstLength=16777215\nInitialR2T=No");
	uint32_t n = MIN(MIN(c->send_max, c->s->first_burst), (uint32_t)CHECK_AREA / 2) / k->block * k->block;

	if (!c->s->immediate || n < k->block)
		check_unsupported(k, "ImmediateData=No was the answer, or FirstBurstLength=%u", c->s->first_burst);
	n = (uint32_t)MIN((uint64_t)n, (k->blocks - 8) * k->block);
	write_as(c, n, n, 0, 0, 9);
}

/* --- what breaks the rules */

CASE(data, immediate_forbidden, "13.11, 7.10", NEED_WRITE, "immediate data with ImmediateData=No is refused")
{
	struct conn *c = session(k, yes_no);

	send_req(c, with_data(req_write(k, 0, 1), pattern(k, k->block, 1), k->block));
	refusal(c, BY_ANY | BY_LAX, REASONS_FORMAT, "immediate data");
}

CASE(data, unsolicited_forbidden, "13.10, 11.4.7.2, 7.10", NEED_WRITE,
	"unsolicited Data-Out with InitialR2T=Yes is refused")
{
	struct conn *c = session(k, yes_no);
	struct req w = req_write(k, 0, 1);

	w.h[1] &= (uint8_t)~FLAG_FINAL;
	uint32_t itt = put(c, &w);
	send_req(c, req_out(k, itt, ISCSI_NO_TAG, 0, pattern(k, k->block, 1), k->block, 0, true));
	refusal(c, BY_ANY | BY_LAX, REASONS_FORMAT, "unsolicited data");
}

CASE(data, unsolicited_short, "11.4.7.2", NEED_WRITE,
	"fewer unsolicited data than FirstBurstLength and the expected length, then F: not GOOD without an R2T for the rest")
{
	struct conn *c = session(k, no_yes);
	struct req w = req_write(k, 0, 8192 / k->block);

	if (c->s->initial_r2t || k->block > 4096)
		check_unsupported(k, "InitialR2T=Yes was the answer");
	w.h[1] &= (uint8_t)~FLAG_FINAL;
	uint32_t itt = put(c, &w);
	send_req(c, req_out(k, itt, ISCSI_NO_TAG, 0, pattern(k, 512, 1), 512, 0, true));
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
	must(k, p || c->closed, "no reaction");
	must(k, !p || p->op != ISCSI_SCSI_RSP || p->h[RSP_STATUS], "GOOD after 512 of 8192 bytes");
}

CASE(data, first_burst_exceeded, "4.2.5.2, 13.14, 11.4.7.2, 7.10", NEED_WRITE,
	"more unsolicited data than FirstBurstLength is refused")
{
	struct conn *c = session(k, "InitialR2T=No\nFirstBurstLength=4096\nMaxBurstLength=8192");
	struct req w = req_write(k, 0, 32768 / k->block);
	uint8_t *data = pattern(k, 32768, 1);

	if (c->s->initial_r2t)
		check_unsupported(k, "InitialR2T=Yes was the answer");
	w.h[1] &= (uint8_t)~FLAG_FINAL;
	uint32_t itt = put(c, &w);
	for (unsigned i = 0; i < 16; i++)
		send_req(c, req_out(k, itt, ISCSI_NO_TAG, i * 512, data + i * 512, 512, i, i == 15));
	refusal(c, BY_ANY | BY_LAX, REASONS_FORMAT, "8192 unsolicited bytes, FirstBurstLength is 4096");
}

CASE(data, immediate_exceeds_first_burst, "13.14, 7.10", NEED_WRITE, "immediate data beyond FirstBurstLength is refused")
{
	struct conn *c = session(k, "FirstBurstLength=512\nMaxBurstLength=8192");

	if (!c->s->immediate || c->send_max < 4096)
		check_unsupported(k, "ImmediateData=No was the answer");
	send_req(c, with_data(req_write(k, 0, 4096 / k->block), pattern(k, 4096, 1), 4096));
	refusal(c, BY_ANY | BY_LAX, REASONS_FORMAT, "4096 immediate bytes, FirstBurstLength is 512");
}

CASE(data, beyond_expected_length, "11.7.6, 11.3.4", NEED_WRITE, "unsolicited data beyond the expected length: not GOOD")
{
	struct conn *c = session(k, no_yes);
	struct req w = req_write(k, 0, 1);

	if (c->s->initial_r2t)
		check_unsupported(k, "InitialR2T=Yes was the answer");
	w.h[1] &= (uint8_t)~FLAG_FINAL;
	uint32_t itt = put(c, &w);
	send_req(c, req_out(k, itt, ISCSI_NO_TAG, 0, pattern(k, k->block + 512, 1), k->block + 512, 0, true));
	refusal(c, BY_ANY, REASONS_FORMAT, "a block and 512 bytes for one block");
}

CASE(data, out_for_no_task, "11.7, 7.10", 0,
	"Data-Out for a task that is not there: passed over, rejected or the connection's end")
{
	struct conn *c = session(k, "");

	send_req(c, req_out(k, 0x7777, 0x1234, 0, "data", 4, 0, true));
	refusal(c, BY_REJECT | BY_CLOSE | BY_SILENCE, REASONS_FORMAT, "Data-Out for no task");
	if (!c->closed)
		alive(c);
}

/* One offence in answer to an R2T for 8192 bytes. lax: GOOD and silence are no failure, 7.10. */
static void bad_answer(struct check *k, const char *what, uint32_t dttt, uint32_t off, uint32_t len, uint32_t sn, unsigned lax)
{
	struct conn *c = session(k, yes_no);
	uint8_t *data = pattern(k, 16384, 2);
	uint32_t itt = send_req(c, req_write(k, 0, 8192 / k->block));
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);

	if (be32(p->h + R2T_LEN) != 8192)
		check_unsupported(k, "an R2T for %u bytes of 8192", be32(p->h + R2T_LEN));
	send_req(c, req_out(k, itt, be32(p->h + BHS_TTT) ^ dttt, off, data, MIN(len, c->send_max), sn, true));
	refusal(c, BY_ANY | lax, REASONS_FORMAT | REASON(REJECT_DATA_DIGEST), what);
	hang_up(c, false);
}

/* A write that misses data does not end with GOOD, whatever else the target looks at; silence is a wait for the rest. */
static void missing(struct check *k, const char *what, uint32_t off, uint32_t len)
{
	bad_answer(k, what, 0, off, len, 0, BY_SILENCE);
}

CASE(data, out_wrong_offset, "11.7.6, 11.8.4", NEED_WRITE,
	"Data-Out at another offset than its R2T's does not make the write GOOD")
{
	missing(k, "512 bytes too far", 512, 8192 - 512);
	missing(k, "at 4 GiB - 512", 0xfffffe00, 8192);
	missing(k, "behind the R2T's end", 8192, 8192);
}

CASE(data, out_swapped, "11.7.6, 13.18", NEED_WRITE, "two Data-Out PDUs in the wrong order are not both taken as if in order")
{
	struct conn *c = session(k, yes_no);
	uint8_t *data = pattern(k, 8192, 77);
	uint32_t itt = send_req(c, req_write(k, 0, 8192 / k->block)), ttt;
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);

	if (be32(p->h + R2T_LEN) != 8192)
		check_unsupported(k, "an R2T for %u bytes of 8192", be32(p->h + R2T_LEN));
	ttt = be32(p->h + BHS_TTT);
	send_req(c, req_out(k, itt, ttt, 4096, data + 4096, 4096, 0, false));
	send_req(c, req_out(k, itt, ttt, 0, data, 4096, 1, true));
	p = poll_pdu(c, CHECK_QUIET_MS * 4);
	if (!p || p->op != ISCSI_SCSI_RSP || p->h[RSP_STATUS])
		return;
	same(k, peek(c, 0, 8192 / k->block), data, 8192, "the write ended with GOOD; what it wrote");
	check_lax(k, "GOOD, with the data where their offsets say");
}

CASE(data, out_too_short, "11.8.4, 11.7.1", NEED_WRITE,
	"Data-Out with F that is shorter than its R2T does not make the write GOOD")
{
	missing(k, "half of it", 0, 4096);
}

CASE(data, out_too_long, "11.8.4, 7.10", NEED_WRITE, "Data-Out longer than its R2T is refused")
{
	bad_answer(k, "512 bytes too many", 0, 0, 8192 + 512, 0, BY_LAX);
}

CASE(data, out_wrong_tag, "11.7.4, 11.17.1, 7.10", NEED_WRITE,
	"Data-Out with a Target Transfer Tag that was never given is refused")
{
	bad_answer(k, "wrong tag", 0x5a5a5a5a, 0, 8192, 0, BY_LAX);
}

CASE(data, out_wrong_datasn, "11.7.5, 7.9", NEED_WRITE,
	"Data-Out whose DataSN says that some are missing: as a digest error, not GOOD")
{
	bad_answer(k, "DataSN 27 first", 0, 0, 8192, 27, 0);
}

CASE(data, segment_too_long, "13.12, 7.10", 0, "a data segment of 16 MiB is not waited for: Reject or the connection's end")
{
	struct conn *c = session(k, "");
	struct req r = req_nop(NULL, 0);

	if (c->send_max >= 0xffffff)
		check_unsupported(k, "MaxRecvDataSegmentLength=%u was declared", c->send_max);
	put_be24(r.h + BHS_DATA_LEN, 0xffffff);
	r.own_len = r.no_data = true;
	put(c, &r);
	refusal(c, BY_REJECT | BY_CLOSE | BY_LAX, REASONS_FORMAT, "16 MiB");
}

CASE(data, cut_in_write, "7.14", NEED_WRITE,
	"a connection that breaks in the middle of a write leaves the target usable and the LUN whole")
{
	uint8_t *before = pattern(k, 65536, 3);
	struct conn *d = session(k, "");

	poke(d, 0, 65536 / k->block, before);
	for (unsigned i = 0; i < 4; i++) {
		struct conn *c = session(k, "ImmediateData=No\nMaxBurstLength=65536\nFirstBurstLength=512");
		uint32_t itt = send_req(c, req_write(k, 0, 65536 / k->block));
		struct pdu *p = want_itt(c, ISCSI_R2T, itt);
		send_req(c, req_out(k, itt, be32(p->h + BHS_TTT), 0, before, 512, 0, false));
		hang_up(c, i & 1);
	}
	same(k, peek(d, 0, 65536 / k->block), before, 65536, "what was there before");
}
