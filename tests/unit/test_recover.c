/* SPDX-License-Identifier: BSD-3-Clause
 * ErrorRecoveryLevel 1 at the target, byte by byte: what is kept, SNACK, recovery R2T, digests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "duplex.h"
#include "base/crc32c.h"
#include "iscsi/impl.h"

static struct duplex d;
static uint8_t big[256 << 10], back[256 << 10];

#define LEVEL1 "ErrorRecoveryLevel=1\0"

static void skip_all(void)
{
	while (duplex_next(&d, NULL, NULL))
		;
}

static void open_with(const char *keys, size_t len)
{
	uint8_t bhs[48], tur[16] = { 0 };

	duplex_open(&d);
	duplex_login(&d, keys, len);
	assert_true(d.ready);
	duplex_cmd(&d, bhs, FLAG_FINAL, 0, tur);
	duplex_send(&d, bhs, NULL, 0);
	skip_all();
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 7 + i / 512);
}
#define OPEN(keys) open_with(keys, sizeof(keys) - 1)

static void ack_to(uint8_t *bhs, uint32_t sn)
{
	put_be32(bhs + BHS_EXP_STAT_SN, sn);
}

static void cdb_rw(uint8_t cdb[16], uint8_t op, uint32_t lba, uint32_t bytes)
{
	memset(cdb, 0, 16);
	cdb[0] = op;
	put_be32(cdb + 2, lba);
	put_be16(cdb + 7, (uint16_t)(bytes / 512));
}

static const uint8_t *next(uint8_t opcode)
{
	const uint8_t *h;

	do /* pings are passed over, unless they are what is waited for */
		assert_non_null(h = duplex_next(&d, NULL, NULL));
	while (h[0] != opcode && h[0] == ISCSI_NOP_IN && be32(h + BHS_ITT) == ISCSI_NO_TAG);
	assert_int_equal(h[0], opcode);
	return h;
}

static void none(void)
{
	assert_null(duplex_next(&d, NULL, NULL));
}

static void snack(uint8_t type, uint32_t itt, uint32_t ttt, uint32_t beg, uint32_t len)
{
	uint8_t bhs[48] = { ISCSI_SNACK, FLAG_FINAL | type };

	put_be32(bhs + BHS_ITT, itt);
	put_be32(bhs + BHS_TTT, ttt);
	put_be32(bhs + SNACK_BEG_RUN, beg);
	put_be32(bhs + SNACK_RUN_LEN, len);
	duplex_send(&d, bhs, NULL, 0);
}
enum { SNACK_DATA, SNACK_STATUS, SNACK_ACK, SNACK_R_DATA };

static void expect_reject(uint8_t reason)
{
	assert_int_equal(next(ISCSI_REJECT)[REJECT_REASON], reason);
	none();
}

/* Acknowledges everything by an immediate NOP-Out that wants no answer. */
static void ack(uint32_t exp_stat_sn)
{
	uint8_t bhs[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };

	put_be32(bhs + BHS_ITT, ISCSI_NO_TAG);
	put_be32(bhs + BHS_TTT, ISCSI_NO_TAG);
	put_be32(bhs + BHS_CMD_SN, d.cmd_sn);
	ack_to(bhs, exp_stat_sn);
	duplex_send(&d, bhs, NULL, 0);
}

static uint32_t start_read(uint32_t lba, uint32_t bytes)
{
	uint8_t bhs[48], cdb[16];

	cdb_rw(cdb, 0x28, lba, bytes);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_READ, bytes, cdb);
	duplex_send(&d, bhs, NULL, 0);
	return d.itt;
}

static uint32_t start_write(uint32_t lba, uint32_t bytes, const uint8_t *data, uint32_t immediate, bool final)
{
	uint8_t bhs[48], cdb[16];

	cdb_rw(cdb, 0x2a, lba, bytes);
	duplex_cmd(&d, bhs, (final ? FLAG_FINAL : 0) | CMD_WRITE, bytes, cdb);
	duplex_send(&d, bhs, data, immediate);
	return d.itt;
}

/* One Data-In PDU at the head of what came: its number and place, data into back. */
static const uint8_t *data_in(uint32_t sn, uint32_t off)
{
	const uint8_t *p, *h;
	uint32_t n;

	h = duplex_next(&d, &p, &n);
	assert_non_null(h);
	assert_int_equal(h[0], ISCSI_DATA_IN);
	assert_int_equal(be32(h + DATA_SN), sn);
	assert_int_equal(be32(h + DATA_OFFSET), off);
	assert_false(h[1] & DATA_STATUS_VALID);
	memcpy(back + off, p, n);
	return h;
}

static void data_out(uint32_t itt, uint32_t ttt, uint32_t sn, uint32_t off, uint32_t n, bool last, bool flip)
{
	uint8_t bhs[48] = { ISCSI_DATA_OUT, last ? FLAG_FINAL : 0 };
	uint8_t *pdu = malloc(n + 128);

	put_be32(bhs + BHS_ITT, itt);
	put_be32(bhs + BHS_TTT, ttt);
	put_be32(bhs + DATA_SN, sn);
	put_be32(bhs + DATA_OFFSET, off);
	size_t all = duplex_pdu(&d, pdu, bhs, big + off, n);
	if (flip)
		pdu[all - 6] ^= 1;
	duplex_feed(&d, pdu, all, 0);
	free(pdu);
}

static void expect_good(uint32_t itt)
{
	const uint8_t *h = next(ISCSI_SCSI_RSP);

	assert_int_equal(be32(h + BHS_ITT), itt);
	assert_int_equal(h[RSP_STATUS], 0);
}

static void stored(uint32_t lba, uint32_t bytes)
{
	const uint8_t *h, *p;
	uint32_t n;

	start_read(lba, bytes);
	while ((h = duplex_next(&d, &p, &n)) && h[0] == ISCSI_DATA_IN)
		assert_memory_equal(p, big + be32(h + DATA_OFFSET), n);
	assert_int_equal(h[0], ISCSI_SCSI_RSP);
}

static void later(unsigned seconds)
{
	static uint64_t ahead;

	ahead = MAX(ahead, loop_now_ns(d.loop)) + seconds * NS_PER_S;
	iscsi_tick(d.conn, ahead, false);
	duplex_run(&d);
}

/* Data SNACK brings Data-In PDUs again as they were, any run of them, and the status only if it is asked for by StatSN;
 * both until ExpStatSN has passed the status (11.16, 4.2.2.2). */
static void test_data_and_status(void **state)
{
	static const uint8_t zero[4];
	uint8_t first[48], again[48];

	OPEN(LEVEL1 "MaxRecvDataSegmentLength=4096\0");
	start_write(0, 65536, big, 65536, true);
	skip_all();
	uint32_t itt = start_read(0, 65536);
	for (uint32_t i = 0; i < 16; i++)
		data_in(i, i * 4096);
	memcpy(first, next(ISCSI_SCSI_RSP), 48);
	assert_int_equal(be32(first + RSP_EXP_DATA_SN), 16);
	assert_memory_equal(first + RSP_SNACK_TAG, zero, 4);
	none();
	memset(back, 0, sizeof(back));
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 5, 3);
	for (uint32_t i = 5; i < 8; i++)
		data_in(i, i * 4096);
	none();
	assert_memory_equal(back + 5 * 4096, big + 5 * 4096, 3 * 4096);
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 15, 0);
	assert_true(data_in(15, 15 * 4096)[1] & FLAG_FINAL);
	none();
	snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, be32(first + BHS_STAT_SN), 1);
	memcpy(again, next(ISCSI_SCSI_RSP), 48);
	assert_memory_equal(again, first, 48);
	none();
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 0, 0);
	for (uint32_t i = 0; i < 16; i++)
		data_in(i, i * 4096);
	none();
	ack(be32(first + BHS_STAT_SN) + 1);
	none();
	snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, be32(first + BHS_STAT_SN), 1);
	expect_reject(REJECT_PROTOCOL);
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 0, 0);
	expect_reject(REJECT_PROTOCOL);
	duplex_close(&d);
}

/* Every numbered response can be had again, all of them by a run of 0 from 0, with their first StatSN; a later response
 * goes on behind them (11.16, 11.4.9). */
static void test_status_of_all_kinds(void **state)
{
	uint8_t nop[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL }, tmf[48] = { ISCSI_TMF_REQ | OP_IMMEDIATE, FLAG_FINAL | TMF_LU_RESET };
	const uint8_t *h, *p;
	uint32_t n;

	OPEN(LEVEL1);
	uint32_t sn = d.conn->stat_sn;
	ack(sn);
	put_be32(nop + BHS_ITT, 0x77);
	put_be32(nop + BHS_TTT, ISCSI_NO_TAG);
	put_be32(nop + BHS_CMD_SN, d.cmd_sn);
	duplex_send(&d, nop, "hello", 5);
	put_be32(tmf + BHS_ITT, 0x78);
	put_be32(tmf + BHS_CMD_SN, d.cmd_sn);
	duplex_send(&d, tmf, NULL, 0);
	uint32_t itt = start_write(4, 512, big, 512, true);
	next(ISCSI_NOP_IN);
	next(ISCSI_TMF_RSP);
	next(ISCSI_SCSI_RSP);
	none();
	snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, 0, 0);
	bool seen[3] = { false };
	for (int i = 0; i < 3; i++) {
		h = duplex_next(&d, &p, &n);
		assert_non_null(h);
		uint32_t at = be32(h + BHS_STAT_SN) - sn;
		assert_true(at < 3 && !seen[at]);
		seen[at] = true;
		if (h[0] == ISCSI_NOP_IN) {
			assert_int_equal(at, 0);
			assert_int_equal(n, 5);
			assert_memory_equal(p, "hello", 5);
		} else if (h[0] == ISCSI_TMF_RSP) {
			assert_int_equal(be32(h + BHS_ITT), 0x78);
		} else {
			assert_int_equal(be32(h + BHS_ITT), itt);
		}
	}
	none();
	snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, sn + 1, 1);
	assert_int_equal(be32(next(ISCSI_TMF_RSP) + BHS_STAT_SN), sn + 1);
	none();
	start_write(4, 512, big, 512, true); /* the unit attention of the reset */
	assert_int_equal(be32(next(ISCSI_SCSI_RSP) + BHS_STAT_SN), sn + 3);
	ack(sn + 4);
	assert_true(list_empty(&d.conn->kept));
	assert_int_equal(d.session->nkept, 0);
	duplex_close(&d);
}

/* What a hostile SNACK asks for - never sent, beyond what was sent, of nobody, of no kind - is rejected and costs nothing; at
 * level 0 every SNACK is (11.16, 11.17.1). */
static void test_hostile_snack(void **state)
{
	OPEN(LEVEL1 "MaxRecvDataSegmentLength=4096\0");
	uint32_t itt = start_read(0, 16384), sn = d.conn->stat_sn;
	skip_all();
	static const uint32_t runs[][2] = { { 4, 0 }, { 4, 1 }, { 3, 2 }, { 1, UINT32_MAX }, { UINT32_MAX, 1 }, { 0x80000000, 0 },
		{ 0, 5 }, { 0, UINT32_MAX }, { UINT32_MAX, UINT32_MAX } };
	for (unsigned i = 0; i < ARRAY_LEN(runs); i++) {
		snack(SNACK_DATA, itt, ISCSI_NO_TAG, runs[i][0], runs[i][1]);
		assert_int_equal(be32(d.out + d.out_len - 48 - 48 + REJECT_DATA_SN), 4); /* 11.17.2 */
		expect_reject(REJECT_PROTOCOL);
		snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, sn + 50 + runs[i][0] % 1000, runs[i][1]);
		expect_reject(REJECT_PROTOCOL);
		snack(SNACK_ACK, ISCSI_NO_TAG, runs[i][0], runs[i][1], 0);
		expect_reject(REJECT_INVALID_DATA_ACK);
	}
	snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, d.conn->stat_sn - 1, UINT32_MAX);
	expect_reject(REJECT_PROTOCOL);
	snack(SNACK_DATA, 0xabcdef, ISCSI_NO_TAG, 0, 0);
	expect_reject(REJECT_PROTOCOL);
	snack(SNACK_R_DATA, itt, 0, 0, 0);
	expect_reject(REJECT_INVALID_PDU);
	snack(SNACK_R_DATA, itt, ISCSI_NO_TAG, 0, 0);
	expect_reject(REJECT_INVALID_PDU);
	snack(SNACK_R_DATA, 0xabcdef, 1, 0, 0);
	expect_reject(REJECT_PROTOCOL);
	snack(7, itt, ISCSI_NO_TAG, 0, 0);
	expect_reject(REJECT_INVALID_PDU);
	duplex_close(&d);
	OPEN("");
	snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, 0, 0);
	expect_reject(REJECT_SNACK);
	duplex_close(&d);
}

/* The A bit comes once in MaxBurstLength, with a tag and the LUN; DataACK makes what it names unavailable, and only that
 * (11.7.2, 11.16.2). */
static void test_data_ack(void **state)
{
	uint32_t ttt = 0, asked = 0;

	OPEN(LEVEL1 "MaxRecvDataSegmentLength=4096\0MaxBurstLength=16384\0FirstBurstLength=16384\0");
	uint32_t itt = start_read(0, 65536);
	for (uint32_t i = 0; i < 16; i++) {
		const uint8_t *h = data_in(i, i * 4096);
		assert_int_equal(!!(h[1] & FLAG_FINAL), i % 4 == 3);
		assert_int_equal(!!(h[1] & DATA_ACK), i % 4 == 3 && i < 15);
		if (h[1] & DATA_ACK) {
			asked++;
			ttt = be32(h + BHS_TTT);
			assert_int_not_equal(ttt, ISCSI_NO_TAG);
		} else {
			assert_int_equal(be32(h + BHS_TTT), ISCSI_NO_TAG);
		}
	}
	assert_int_equal(asked, 3);
	next(ISCSI_SCSI_RSP);
	snack(SNACK_ACK, ISCSI_NO_TAG, ttt, 8, 0);
	none();
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 7, 1);
	expect_reject(REJECT_PROTOCOL);
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 0, 0);
	for (uint32_t i = 8; i < 16; i++)
		data_in(i, i * 4096);
	none();
	snack(SNACK_ACK, ISCSI_NO_TAG, ttt, 4, 0); /* back */
	expect_reject(REJECT_INVALID_DATA_ACK);
	snack(SNACK_ACK, ISCSI_NO_TAG, ttt, 17, 0); /* what was never sent */
	expect_reject(REJECT_INVALID_DATA_ACK);
	duplex_close(&d);
}

/* R-Data SNACK after a change of MaxRecvDataSegmentLength: everything behind the last DataACK comes anew in the new segments,
 * numbered from there, and the status once more with the SNACK tag and its first StatSN (11.16.3, 11.4.4). */
static void test_r_data(void **state)
{
	uint8_t text[48] = { ISCSI_TEXT_REQ | OP_IMMEDIATE, FLAG_FINAL };
	static const char less[] = "MaxRecvDataSegmentLength=1024";
	uint32_t ttt = 0, sn;

	OPEN(LEVEL1 "MaxRecvDataSegmentLength=8192\0MaxBurstLength=16384\0FirstBurstLength=16384\0");
	start_write(0, 65536, big, 16384, true);
	const uint8_t *h = duplex_next(&d, NULL, NULL); /* R2Ts for the rest: they are not the subject */
	while (h && h[0] == ISCSI_R2T) {
		data_out(be32(h + BHS_ITT), be32(h + BHS_TTT), 0, be32(h + R2T_OFFSET), be32(h + R2T_LEN), true, false);
		h = duplex_next(&d, NULL, NULL);
	}
	skip_all();
	uint32_t itt = start_read(0, 65536);
	for (uint32_t i = 0; i < 8; i++) {
		h = data_in(i, i * 8192);
		if (h[1] & DATA_ACK)
			ttt = be32(h + BHS_TTT);
	}
	h = next(ISCSI_SCSI_RSP);
	sn = be32(h + BHS_STAT_SN);
	assert_int_equal(be32(h + RSP_EXP_DATA_SN), 8);
	snack(SNACK_ACK, ISCSI_NO_TAG, ttt, 2, 0);
	put_be32(text + BHS_ITT, 0x99);
	put_be32(text + BHS_TTT, ISCSI_NO_TAG);
	put_be32(text + BHS_CMD_SN, d.cmd_sn);
	duplex_send(&d, text, less, sizeof(less));
	next(ISCSI_TEXT_RSP);
	memset(back, 0, sizeof(back));
	snack(SNACK_R_DATA, itt, 0x1234, 0, 0);
	for (uint32_t i = 0; i < 48; i++)
		data_in(2 + i, 16384 + i * 1024);
	h = next(ISCSI_SCSI_RSP);
	assert_int_equal(be32(h + BHS_STAT_SN), sn);
	assert_int_equal(be32(h + RSP_SNACK_TAG), 0x1234);
	assert_int_equal(be32(h + RSP_EXP_DATA_SN), 50);
	none();
	assert_memory_equal(back + 16384, big + 16384, 49152);
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 30, 2); /* by their new numbers */
	data_in(30, 16384 + 28 * 1024);
	data_in(31, 16384 + 29 * 1024);
	none();
	snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, sn, 1);
	assert_int_equal(be32(next(ISCSI_SCSI_RSP) + RSP_SNACK_TAG), 0x1234);
	none();
	duplex_close(&d);
}

static size_t snack_pdu(uint8_t *out, uint8_t type, uint32_t itt, uint32_t ttt)
{
	uint8_t bhs[48] = { ISCSI_SNACK, FLAG_FINAL | type };

	put_be32(bhs + BHS_ITT, itt);
	put_be32(bhs + BHS_TTT, ttt);
	return duplex_pdu(&d, out, bhs, NULL, 0);
}

/* One batch leaves, of which nobody looks at anything. */
static void lose_batch(void)
{
	struct iovec *iov;
	size_t all = 0;
	int n;

	while (!(n = iscsi_tx(d.conn, &iov)))
		loop_turn(d.loop, 0);
	for (int i = 0; i < n; i++)
		all += iov[i].iov_len;
	iscsi_tx_done(d.conn, all);
}

/* MaxRecvDataSegmentLength changes in the middle of a read; then R-Data SNACK, and with it a Data SNACK for everything, of
 * which nothing was sent anew yet: all of the read comes once, in the new segments (11.16, 11.16.3). */
static void test_r_data_and_data(void **state)
{
	enum { BYTES = 768 << 10 };
	static const char less[] = "MaxRecvDataSegmentLength=4096";
	uint8_t text[48] = { ISCSI_TEXT_REQ | OP_IMMEDIATE, FLAG_FINAL }, cmd[48], cdb[16], pdu[256];

	OPEN(LEVEL1 "MaxRecvDataSegmentLength=8192\0");
	cdb_rw(cdb, 0x28, 0, BYTES);
	duplex_cmd(&d, cmd, FLAG_FINAL | CMD_READ, BYTES, cdb);
	duplex_put(&d, cmd, 48);
	lose_batch();
	put_be32(text + BHS_ITT, 0x99);
	put_be32(text + BHS_TTT, ISCSI_NO_TAG);
	put_be32(text + BHS_CMD_SN, d.cmd_sn);
	duplex_put(&d, pdu, duplex_pdu(&d, pdu, text, less, sizeof(less)));
	lose_batch();
	size_t n = snack_pdu(pdu, SNACK_R_DATA, d.itt, 0x1234);
	n += snack_pdu(pdu + n, SNACK_DATA, d.itt, ISCSI_NO_TAG);
	duplex_put(&d, pdu, n);
	duplex_run(&d);
	for (uint32_t i = 0; i < BYTES / 4096; i++) {
		const uint8_t *h = next(ISCSI_DATA_IN);
		assert_int_equal(be32(h + DATA_SN), i);
		assert_int_equal(be32(h + DATA_OFFSET), i * 4096);
	}
	expect_good(d.itt);
	none();
	duplex_close(&d);
}

/* R2T SNACK: an R2T that is not answered comes again with its number and tag; one that is answered, or was never sent, is
 * refused (11.16). */
static void test_r2t_snack(void **state)
{
	uint8_t first[48], second[48];

	OPEN(LEVEL1 "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=8192\0FirstBurstLength=8192\0"
		    "DataSequenceInOrder=No\0MaxOutstandingR2T=2\0");
	uint32_t itt = start_write(0, 16384, NULL, 0, true);
	memcpy(first, next(ISCSI_R2T), 48);
	memcpy(second, next(ISCSI_R2T), 48);
	none();
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 1, 1);
	assert_memory_equal(next(ISCSI_R2T), second, 48);
	none();
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 0, 0);
	assert_memory_equal(next(ISCSI_R2T), first, 48);
	assert_memory_equal(next(ISCSI_R2T), second, 48);
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 2, 1);
	expect_reject(REJECT_PROTOCOL);
	data_out(itt, be32(first + BHS_TTT), 0, 0, 8192, true, false);
	snack(SNACK_DATA, itt, ISCSI_NO_TAG, 0, 1);
	expect_reject(REJECT_PROTOCOL);
	data_out(itt, be32(second + BHS_TTT), 0, 8192, 8192, true, false);
	expect_good(itt);
	stored(0, 16384);
	duplex_close(&d);
}

/* A bad data digest in the middle of a sequence: Reject, the rest of the sequence is discarded, and a recovery R2T with the next
 * R2TSN asks for what is missing (7.8, 11.8); the other sequence is not touched. */
static void test_recovery_r2t(void **state)
{
	OPEN(LEVEL1 "DataDigest=CRC32C\0InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=8192\0FirstBurstLength=8192\0"
		    "DataSequenceInOrder=No\0MaxOutstandingR2T=2\0");
	uint32_t itt = start_write(0, 16384, NULL, 0, true);
	uint32_t ttt = be32(next(ISCSI_R2T) + BHS_TTT), other = be32(next(ISCSI_R2T) + BHS_TTT);
	data_out(itt, ttt, 0, 0, 2048, false, false);
	data_out(itt, ttt, 1, 2048, 2048, false, true);
	assert_int_equal(next(ISCSI_REJECT)[REJECT_REASON], REJECT_DATA_DIGEST);
	data_out(itt, ttt, 2, 4096, 2048, false, false);
	none();
	data_out(itt, ttt, 3, 6144, 2048, true, false);
	const uint8_t *h = next(ISCSI_R2T);
	assert_int_equal(be32(h + R2T_SN), 2);
	assert_int_equal(be32(h + R2T_OFFSET), 2048);
	assert_int_equal(be32(h + R2T_LEN), 6144);
	assert_int_not_equal(be32(h + BHS_TTT), ttt);
	uint32_t more = be32(h + BHS_TTT);
	data_out(itt, other, 0, 8192, 8192, true, false);
	none();
	data_out(itt, ttt, 4, 2048, 512, false, false); /* of the old tag: nobody waits for it */
	data_out(itt, more, 0, 2048, 6144, true, true);
	next(ISCSI_REJECT);
	h = next(ISCSI_R2T);
	assert_int_equal(be32(h + R2T_SN), 3);
	assert_int_equal(be32(h + R2T_OFFSET), 2048);
	data_out(itt, be32(h + BHS_TTT), 0, 2048, 6144, true, false);
	expect_good(itt);
	none();
	stored(0, 16384);
	assert_false(d.closed);
	duplex_close(&d);
}

/* Data-Out PDUs that vanish, come twice, or whose last one vanishes: a gap in DataSN, the next sequence and time reveal it, and
 * recovery R2Ts bring the rest (7.9, 7.1.4.1). */
static void test_lost_data_out(void **state)
{
	const uint8_t *h;

	OPEN(LEVEL1 "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=8192\0FirstBurstLength=8192\0"
		    "DataSequenceInOrder=No\0MaxOutstandingR2T=2\0");
	uint32_t itt = start_write(0, 16384, NULL, 0, true);
	uint32_t a = be32(next(ISCSI_R2T) + BHS_TTT), b = be32(next(ISCSI_R2T) + BHS_TTT);
	data_out(itt, a, 0, 0, 1024, false, false);
	data_out(itt, a, 0, 0, 1024, false, false); /* twice */
	data_out(itt, a, 2, 2048, 1024, false, false); /* 1 was lost */
	none();
	data_out(itt, b, 0, 8192, 4096, false, false); /* and so was the end of the first sequence */
	h = next(ISCSI_R2T);
	assert_int_equal(be32(h + R2T_OFFSET), 1024);
	assert_int_equal(be32(h + R2T_LEN), 7168);
	uint32_t c = be32(h + BHS_TTT);
	none();
	later(2 * SEQ_WAIT_S + 1); /* and nothing more comes */
	h = next(ISCSI_R2T);
	assert_int_equal(be32(h + R2T_OFFSET), 12288);
	assert_int_equal(be32(h + R2T_LEN), 4096);
	uint32_t e = be32(h + BHS_TTT);
	h = next(ISCSI_R2T);
	assert_int_equal(be32(h + R2T_OFFSET), 1024);
	assert_int_not_equal(be32(h + BHS_TTT), c);
	data_out(itt, e, 0, 12288, 4096, true, false);
	data_out(itt, be32(h + BHS_TTT), 0, 1024, 7168, true, false);
	expect_good(itt);
	stored(0, 16384);
	duplex_close(&d);
}

/* An initiator that answers every R2T with rubbish gets a bounded number of recovery R2Ts, then ABORTED COMMAND 47/05. */
static void test_hopeless(void **state)
{
	unsigned n = 0;
	const uint8_t *h;

	OPEN(LEVEL1 "DataDigest=CRC32C\0InitialR2T=Yes\0ImmediateData=No\0");
	uint32_t itt = start_write(0, 4096, NULL, 0, true);
	while ((h = duplex_next(&d, NULL, NULL)) && h[0] != ISCSI_SCSI_RSP) {
		if (h[0] == ISCSI_R2T && ++n)
			data_out(itt, be32(h + BHS_TTT), 0, 0, 4096, true, true);
	}
	assert_non_null(h);
	assert_int_equal(h[RSP_STATUS], 2);
	assert_int_equal(n, RECOVER_MAX + 1);
	duplex_close(&d);
}

/* Unsolicited data: what a bad digest or a gap spoils, and what never comes, is solicited (7.8). */
static void test_unsolicited(void **state)
{
	const uint8_t *h;

	OPEN(LEVEL1 "DataDigest=CRC32C\0InitialR2T=No\0FirstBurstLength=16384\0");
	uint32_t itt = start_write(0, 32768, big, 4096, false);
	data_out(itt, ISCSI_NO_TAG, 0, 4096, 4096, false, false);
	data_out(itt, ISCSI_NO_TAG, 1, 8192, 4096, false, true);
	next(ISCSI_REJECT);
	data_out(itt, ISCSI_NO_TAG, 2, 12288, 4096, true, false);
	h = next(ISCSI_R2T);
	assert_int_equal(be32(h + R2T_OFFSET), 8192);
	assert_int_equal(be32(h + R2T_LEN), 24576);
	data_out(itt, be32(h + BHS_TTT), 0, 8192, 24576, true, false);
	expect_good(itt);
	stored(0, 32768);
	itt = start_write(64, 32768, big, 4096, false);
	later(SEQ_WAIT_S + 1);
	h = next(ISCSI_R2T);
	assert_int_equal(be32(h + R2T_OFFSET), 4096);
	data_out(itt, ISCSI_NO_TAG, 0, 4096, 4096, false, false); /* too late */
	data_out(itt, be32(h + BHS_TTT), 0, 4096, 28672, true, false);
	expect_good(itt);
	stored(64, 32768);
	duplex_close(&d);
}

/* Immediate data with a bad digest: the command never came, also an immediate one and one ahead of its turn; the retry with
 * its CmdSN and tag is taken (7.3, 7.2.1). */
static void test_immediate_digest(void **state)
{
	uint8_t bhs[48], ahead[48], cdb[16], pdu[8192];

	OPEN(LEVEL1 "DataDigest=CRC32C\0");
	for (int k = 0; k < 2; k++) {
		cdb_rw(cdb, 0x2a, 8, 4096);
		duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 4096, cdb);
		duplex_cmd(&d, ahead, FLAG_FINAL | CMD_WRITE, 4096, cdb);
		if (k) {
			bhs[0] |= OP_IMMEDIATE;
			put_be32(ahead + BHS_CMD_SN, --d.cmd_sn - 1);
		}
		for (int i = 0; i < 2; i++) {
			uint8_t *which = i ? bhs : ahead;
			size_t n = duplex_pdu(&d, pdu, which, big, 4096);
			pdu[100] ^= 0x80;
			duplex_feed(&d, pdu, n, 0);
			const uint8_t *h = next(ISCSI_REJECT);
			assert_int_equal(h[REJECT_REASON], REJECT_DATA_DIGEST);
			assert_int_equal(be32(h + BHS_EXP_CMD_SN), be32((k ? ahead : bhs) + BHS_CMD_SN));
			none();
		}
		duplex_send(&d, ahead, big, 4096);
		if (k)
			expect_good(be32(ahead + BHS_ITT));
		none();
		duplex_send(&d, bhs, big, 4096);
		expect_good(be32(bhs + BHS_ITT));
		if (!k)
			expect_good(be32(ahead + BHS_ITT));
		none();
	}
	assert_int_equal(d.session->nimmediate, 0);
	stored(8, 4096);
	duplex_close(&d);
}

/* Answers that are not acknowledged stay in the window once they are as many as it has slots: it closes, the initiator is asked by
 * NOP-In, and told when it is open again; the tag of an answered command may be used again at once. */
static void test_window(void **state)
{
	uint8_t bhs[48], tur[16] = { 0 };
	unsigned answers = 0, pings = 0;
	const uint8_t *h;

	OPEN(LEVEL1);
	for (int i = 0; i < 200 && sn_le(d.cmd_sn, d.session->max_cmd_sn); i++) {
		duplex_cmd(&d, bhs, FLAG_FINAL, 0, tur);
		put_be32(bhs + BHS_ITT, 0x55);
		duplex_send(&d, bhs, NULL, 0);
	}
	while ((h = duplex_next(&d, NULL, NULL))) {
		answers += h[0] == ISCSI_SCSI_RSP;
		pings += h[0] == ISCSI_NOP_IN && be32(h + BHS_TTT) != ISCSI_NO_TAG;
	}
	assert_int_equal(answers, 200);
	duplex_close(&d);
	OPEN(LEVEL1);
	answers = pings = 0;
	for (int i = 0; i < 200 && sn_le(d.cmd_sn, d.session->max_cmd_sn); i++) {
		duplex_cmd(&d, bhs, FLAG_FINAL, 0, tur);
		duplex_send(&d, bhs, NULL, 0);
	}
	while ((h = duplex_next(&d, NULL, NULL))) {
		answers += h[0] == ISCSI_SCSI_RSP;
		pings += h[0] == ISCSI_NOP_IN && be32(h + BHS_TTT) != ISCSI_NO_TAG;
	}
	assert_int_equal(answers, 64 - 1); /* twice the window, and one was answered before */
	assert_true(pings > 0);
	assert_int_equal(d.session->max_cmd_sn + 1, d.session->exp_cmd_sn);
	ack(d.conn->stat_sn);
	h = next(ISCSI_NOP_IN);
	assert_int_equal(be32(h + BHS_TTT), ISCSI_NO_TAG);
	assert_int_equal(be32(h + BHS_MAX_CMD_SN) + 1 - be32(h + BHS_EXP_CMD_SN), 32);
	assert_int_equal(d.pool->tasks_live, 0);
	duplex_close(&d);
}

/* An answer that nobody acknowledges: the initiator is asked after ACK_WAIT_S, and the connection ends after ACK_END_S. */
static void test_unacknowledged(void **state)
{
	OPEN(LEVEL1);
	start_write(0, 512, big, 512, true);
	expect_good(d.itt);
	later(ACK_WAIT_S + 1);
	const uint8_t *h = next(ISCSI_NOP_IN);
	assert_int_not_equal(be32(h + BHS_TTT), ISCSI_NO_TAG);
	assert_int_equal(be32(h + BHS_STAT_SN), d.conn->stat_sn);
	for (int i = 0; i < ACK_END_S && !d.closed; i++) {
		ack(0x10); /* it lives, and says nothing of use */
		later(1);
		skip_all();
	}
	assert_true(d.closed);
	assert_non_null(strstr(d.why, "ExpStatSN"));
	duplex_close(&d);
}

/* Data kept for a retransmission is bounded: the oldest is given up, and its SNACK rejected with 0x03 (7.8 a.2); its status
 * can still be had. */
static void test_kept_bound(void **state)
{
	uint32_t itt[24], sn = 0;

	d.pool->budget = 1 << 20;
	OPEN(LEVEL1);
	for (int i = 0; i < 24; i++) {
		itt[i] = start_read(0, 65536);
		skip_all();
		if (!i)
			sn = d.conn->stat_sn - 1;
	}
	assert_int_equal(d.pool->kept_bytes, (1 << 20) / KEPT_SHARE);
	snack(SNACK_DATA, itt[0], ISCSI_NO_TAG, 0, 0);
	expect_reject(REJECT_SNACK);
	snack(SNACK_DATA, itt[23], ISCSI_NO_TAG, 0, 0);
	next(ISCSI_DATA_IN);
	skip_all();
	snack(SNACK_STATUS, ISCSI_NO_TAG, ISCSI_NO_TAG, sn, 1);
	expect_good(itt[0]);
	ack(d.conn->stat_sn);
	assert_int_equal(d.pool->kept_bytes, 0);
	assert_int_equal(d.pool->used, 0);
	d.pool->budget = 64 << 20;
	duplex_close(&d);
}

/* A request other than a command or data with a bad digest is rejected, and its CmdSN was not seen (7.3, 7.8). */
static void test_other_digest(void **state)
{
	uint8_t nop[48] = { ISCSI_NOP_OUT, FLAG_FINAL }, pdu[256];

	OPEN(LEVEL1 "DataDigest=CRC32C\0");
	put_be32(nop + BHS_ITT, 9);
	put_be32(nop + BHS_TTT, ISCSI_NO_TAG);
	put_be32(nop + BHS_CMD_SN, d.cmd_sn);
	size_t n = duplex_pdu(&d, pdu, nop, "ping", 4);
	pdu[49] ^= 2;
	duplex_feed(&d, pdu, n, 0);
	const uint8_t *h = next(ISCSI_REJECT);
	assert_int_equal(h[REJECT_REASON], REJECT_DATA_DIGEST);
	assert_int_equal(be32(h + BHS_EXP_CMD_SN), d.cmd_sn);
	duplex_send(&d, nop, "ping", 4);
	assert_int_equal(be32(next(ISCSI_NOP_IN) + BHS_EXP_CMD_SN), d.cmd_sn + 1);
	duplex_close(&d);
}

static int setup(void **state)
{
	duplex_init(&d);
	d.offer.erl = 2;
	return 0;
}

static int teardown(void **state)
{
	duplex_fini(&d);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_data_and_status), cmocka_unit_test(test_status_of_all_kinds),
		cmocka_unit_test(test_hostile_snack), cmocka_unit_test(test_data_ack), cmocka_unit_test(test_r_data),
		cmocka_unit_test(test_r_data_and_data),
		cmocka_unit_test(test_r2t_snack), cmocka_unit_test(test_recovery_r2t), cmocka_unit_test(test_lost_data_out),
		cmocka_unit_test(test_hopeless), cmocka_unit_test(test_unsolicited), cmocka_unit_test(test_immediate_digest),
		cmocka_unit_test(test_window), cmocka_unit_test(test_unacknowledged), cmocka_unit_test(test_kept_bound),
		cmocka_unit_test(test_other_digest),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
