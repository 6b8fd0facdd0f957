/* SPDX-License-Identifier: BSD-3-Clause
 * The target's engine at full feature phase, byte by byte. */
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

static void open_with(const char *keys, size_t len)
{
	const uint8_t *h;

	duplex_open(&d);
	duplex_login(&d, keys, len);
	h = duplex_next(&d, NULL, NULL);
	assert_non_null(h);
	assert_int_equal(h[0], ISCSI_LOGIN_RSP);
	assert_int_equal(be16(h + LOGIN_CLASS), 0);
	assert_true(d.ready);
	/* Unit attention of a new nexus: take it away. */
	uint8_t bhs[48], tur[16] = { 0 };
	duplex_cmd(&d, bhs, FLAG_FINAL, 0, tur);
	duplex_send(&d, bhs, NULL, 0);
	while (duplex_next(&d, NULL, NULL))
		;
}
#define OPEN(keys) open_with(keys, sizeof(keys) - 1)

static void cdb_rw(uint8_t cdb[16], uint8_t op, uint32_t lba, uint16_t nblk)
{
	memset(cdb, 0, 16);
	cdb[0] = op;
	put_be32(cdb + 2, lba);
	put_be16(cdb + 7, nblk);
}

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(seed = seed * 1103515245 + 12345, seed >> 16);
}

static void expect_status(uint8_t status)
{
	const uint8_t *h = duplex_next(&d, NULL, NULL);

	assert_non_null(h);
	assert_int_equal(h[0], ISCSI_SCSI_RSP);
	assert_int_equal(h[RSP_STATUS], status);
}

static void read_back(uint32_t lba, uint32_t blocks, const uint8_t *want)
{
	uint8_t bhs[48], cdb[16];
	const uint8_t *h, *p;
	uint32_t n, at = 0;

	cdb_rw(cdb, 0x28, lba, (uint16_t)blocks);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_READ, blocks * 512, cdb);
	duplex_send(&d, bhs, NULL, 0);
	for (uint32_t sn = 0; at < blocks * 512; sn++) {
		h = duplex_next(&d, &p, &n);
		assert_non_null(h);
		assert_int_equal(h[0], ISCSI_DATA_IN);
		assert_int_equal(be32(h + DATA_SN), sn);
		assert_int_equal(be32(h + DATA_OFFSET), at);
		assert_memory_equal(p, want + at, n);
		at += n;
		assert_int_equal(!!(h[1] & DATA_STATUS_VALID), at == blocks * 512);
	}
}

/* A write whose data is all immediate is stored and read back, with the status in the last Data-In (11.7.3). */
static void test_immediate(void **state)
{
	uint8_t bhs[48], cdb[16], data[4096];

	OPEN("");
	fill(data, sizeof(data), 1);
	cdb_rw(cdb, 0x2a, 8, 8);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 4096, cdb);
	duplex_send(&d, bhs, data, 4096);
	expect_status(0);
	read_back(8, 8, data);
	duplex_close(&d);
}

/* Answers every R2T in pieces of `piece` bytes; returns the number of R2Ts seen at once at most. */
static unsigned serve_r2t(const uint8_t *data, uint32_t piece, uint32_t itt)
{
	unsigned most = 0;

	for (;;) {
		struct { uint32_t ttt, off, len; } r[40];
		const uint8_t *h;
		unsigned n = 0;
		size_t at;
		while (at = d.out_at, h = duplex_next(&d, NULL, NULL)) {
			if (h[0] != ISCSI_R2T) {
				d.out_at = at;
				break;
			}
			assert_int_equal(be32(h + BHS_ITT), itt);
			r[n].ttt = be32(h + BHS_TTT);
			r[n].off = be32(h + R2T_OFFSET);
			r[n++].len = be32(h + R2T_LEN);
		}
		if (!n)
			return most;
		most = n > most ? n : most;
		for (unsigned i = 0; i < n; i++) {
			uint32_t sn = 0;
			for (uint32_t o = 0; o < r[i].len; o += piece) {
				uint32_t k = r[i].len - o < piece ? r[i].len - o : piece;
				uint8_t bhs[48] = { ISCSI_DATA_OUT, o + k == r[i].len ? FLAG_FINAL : 0 };
				put_be32(bhs + BHS_ITT, itt);
				put_be32(bhs + BHS_TTT, r[i].ttt);
				put_be32(bhs + DATA_SN, sn++);
				put_be32(bhs + DATA_OFFSET, r[i].off + o);
				duplex_send(&d, bhs, data + r[i].off + o, k);
			}
		}
	}
}

static void write_solicited(uint32_t lba, const uint8_t *data, uint32_t len, uint32_t piece, unsigned r2ts)
{
	uint8_t bhs[48], cdb[16];

	cdb_rw(cdb, 0x2a, lba, (uint16_t)(len / 512));
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, len, cdb);
	duplex_send(&d, bhs, NULL, 0);
	assert_int_equal(serve_r2t(data, piece, d.itt), r2ts);
	expect_status(0);
}

/* Solicited data: never more R2Ts outstanding than MaxOutstandingR2T, none longer than MaxBurstLength (13.13, 13.17). */
static void test_solicited(void **state)
{
	static uint8_t data[64 << 10];

	fill(data, sizeof(data), 2);
	OPEN("InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=4096\0MaxOutstandingR2T=1\0");
	write_solicited(100, data, 16384, 1000, 1);
	read_back(100, 32, data);
	duplex_close(&d);
	OPEN("InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=4096\0MaxOutstandingR2T=4\0HeaderDigest=CRC32C\0"
	     "DataDigest=CRC32C\0");
	write_solicited(64, data, 65536, 512, 4);
	read_back(64, 128, data);
	duplex_close(&d);
}

/* However the bytes are cut, the same bytes come back (a stream has no PDU boundaries). */
static void test_fragments(void **state)
{
	static uint8_t script[40000], data[8192];
	uint8_t bhs[48], cdb[16];
	size_t n = 0, want_len = 0;
	uint8_t *want = NULL;

	fill(data, sizeof(data), 3);
	for (size_t piece = 0; piece < 70; piece++) {
		OPEN("HeaderDigest=CRC32C\0DataDigest=CRC32C\0InitialR2T=No\0");
		size_t start = d.out_len;
		n = 0;
		cdb_rw(cdb, 0x2a, 0, 3);
		duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 1536, cdb);
		n += duplex_pdu(&d, script + n, bhs, data, 1536);
		cdb_rw(cdb, 0x2a, 16, 16);
		duplex_cmd(&d, bhs, CMD_WRITE, 8192, cdb);
		uint32_t itt = d.itt;
		n += duplex_pdu(&d, script + n, bhs, data, 1000);
		for (uint32_t o = 1000, sn = 0; o < 8192; o += 2397, sn++) {
			uint32_t k = o + 2397 < 8192 ? 2397 : 8192 - o;
			uint8_t out[48] = { ISCSI_DATA_OUT, o + k == 8192 ? FLAG_FINAL : 0 };
			put_be32(out + BHS_ITT, itt);
			put_be32(out + BHS_TTT, ISCSI_NO_TAG);
			put_be32(out + DATA_SN, sn);
			put_be32(out + DATA_OFFSET, o);
			n += duplex_pdu(&d, script + n, out, data + o, k);
		}
		cdb_rw(cdb, 0x28, 16, 16);
		duplex_cmd(&d, bhs, FLAG_FINAL | CMD_READ, 8192, cdb);
		/* Order between independent commands is the medium's affair: run the writes first. */
		assert_int_equal(duplex_feed(&d, script, n, piece), n);
		n = duplex_pdu(&d, script, bhs, NULL, 0);
		assert_int_equal(duplex_feed(&d, script, n, piece), n);
		assert_false(d.closed);
		if (!want) {
			want_len = d.out_len - start;
			want = malloc(want_len);
			memcpy(want, d.out + start, want_len);
			assert_true(want_len > 8192);
		}
		assert_int_equal(d.out_len - start, want_len);
		assert_memory_equal(d.out + start, want, want_len);
		duplex_close(&d);
	}
	free(want);
}

/* A flipped bit in immediate data is answered by Reject 0x02 and the command never came: its CmdSN is not used and it may be
 * sent again (7.3, 7.8). A flipped bit in a header ends the connection. */
static void test_digest_errors(void **state)
{
	static uint8_t good[512], bad[512], pdu[1024];
	uint8_t bhs[48], cdb[16];
	const uint8_t *h, *p;
	uint32_t len;

	memset(good, 0x11, 512);
	memset(bad, 0x22, 512);
	OPEN("HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
	cdb_rw(cdb, 0x2a, 50, 1);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 512, cdb);
	duplex_send(&d, bhs, good, 512);
	expect_status(0);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 512, cdb);
	size_t n = duplex_pdu(&d, pdu, bhs, bad, 512);
	pdu[60] ^= 4;
	duplex_feed(&d, pdu, n, 0);
	h = duplex_next(&d, &p, &len);
	assert_int_equal(h[0], ISCSI_REJECT);
	assert_int_equal(h[REJECT_REASON], REJECT_DATA_DIGEST);
	assert_int_equal(len, 48);
	assert_memory_equal(p, pdu, 48);
	assert_int_equal(be32(h + BHS_EXP_CMD_SN), be32(bhs + BHS_CMD_SN));
	assert_null(duplex_next(&d, &p, &len));
	duplex_send(&d, bhs, good, 512);
	expect_status(0);
	read_back(50, 1, good);
	duplex_cmd(&d, bhs, FLAG_FINAL, 0, (uint8_t[16]){ 0 });
	n = duplex_pdu(&d, pdu, bhs, NULL, 0);
	pdu[3] ^= 1;
	duplex_feed(&d, pdu, n, 0);
	assert_true(d.closed);
	duplex_close(&d);
}

/* Commands run in CmdSN order, those outside the window vanish (4.2.2.1). */
static void test_cmd_sn(void **state)
{
	uint8_t first[48], second[48], late[48], tur[16] = { 0 };
	const uint8_t *h;

	OPEN("");
	duplex_cmd(&d, first, FLAG_FINAL, 0, tur);
	uint32_t itt1 = d.itt;
	duplex_cmd(&d, second, FLAG_FINAL, 0, tur);
	duplex_send(&d, second, NULL, 0);
	assert_null(duplex_next(&d, NULL, NULL));
	memcpy(late, first, 48);
	put_be32(late + BHS_CMD_SN, be32(first + BHS_CMD_SN) - 1);
	duplex_send(&d, late, NULL, 0);
	put_be32(late + BHS_CMD_SN, be32(first + BHS_CMD_SN) + 1000);
	duplex_send(&d, late, NULL, 0);
	assert_null(duplex_next(&d, NULL, NULL));
	duplex_send(&d, first, NULL, 0);
	h = duplex_next(&d, NULL, NULL);
	assert_int_equal(be32(h + BHS_ITT), itt1);
	h = duplex_next(&d, NULL, NULL);
	assert_int_equal(be32(h + BHS_ITT), itt1 + 1);
	assert_int_equal(be32(h + BHS_EXP_CMD_SN), be32(second + BHS_CMD_SN) + 1);
	duplex_close(&d);
}

/* A connection that ends in the middle of a write stores nothing of it. */
static void test_half_write(void **state)
{
	static uint8_t data[8192], zero[8192];
	uint8_t bhs[48], cdb[16], pdu[9000];

	fill(data, sizeof(data), 9);
	OPEN("");
	cdb_rw(cdb, 0x2a, 200, 16);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 8192, cdb);
	duplex_pdu(&d, pdu, bhs, data, 8192);
	duplex_feed(&d, pdu, 48 + 5000, 0);
	duplex_close(&d);
	OPEN("");
	read_back(200, 16, zero);
	duplex_close(&d);
}

/* NOP-Out is answered with its own data (11.18); an unknown opcode with Reject 0x05 and its header (11.17.1). */
static void test_nop_and_reject(void **state)
{
	uint8_t nop[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL }, odd[48] = { 0x1c | OP_IMMEDIATE, FLAG_FINAL };
	const uint8_t *h, *p;
	uint32_t len;

	OPEN("");
	put_be32(nop + BHS_ITT, 77);
	put_be32(nop + BHS_TTT, ISCSI_NO_TAG);
	duplex_send(&d, nop, "ping!", 5);
	h = duplex_next(&d, &p, &len);
	assert_int_equal(h[0], ISCSI_NOP_IN);
	assert_int_equal(be32(h + BHS_ITT), 77);
	assert_int_equal(len, 5);
	assert_memory_equal(p, "ping!", 5);
	duplex_send(&d, odd, NULL, 0);
	h = duplex_next(&d, &p, &len);
	assert_int_equal(h[0], ISCSI_REJECT);
	assert_int_equal(h[REJECT_REASON], REJECT_NOT_SUPPORTED);
	assert_memory_equal(p, odd, 48);
	duplex_close(&d);
}

/* Residual counts say how the initiator's length differs from the command's (11.4.5.1). */
static void test_residuals(void **state)
{
	uint8_t bhs[48], cdb[16];
	const uint8_t *h;
	uint32_t len;

	OPEN("");
	cdb_rw(cdb, 0x28, 0, 2);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_READ, 512, cdb);
	duplex_send(&d, bhs, NULL, 0);
	h = duplex_next(&d, NULL, &len);
	assert_int_equal(len, 512);
	assert_int_equal(h[1] & 7, DATA_STATUS_VALID | DATA_OVERFLOW);
	assert_int_equal(be32(h + DATA_RESID), 512);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_READ, 4096, cdb);
	duplex_send(&d, bhs, NULL, 0);
	h = duplex_next(&d, NULL, &len);
	assert_int_equal(len, 1024);
	assert_int_equal(h[1] & 7, DATA_STATUS_VALID | DATA_UNDERFLOW);
	assert_int_equal(be32(h + DATA_RESID), 3072);
	duplex_close(&d);
}

/* A peer that sends something else than a login request first is cut off (6.3). */
static void test_before_login(void **state)
{
	uint8_t bhs[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };

	duplex_open(&d);
	duplex_send(&d, bhs, NULL, 0);
	assert_true(d.closed);
	duplex_close(&d);
}

/* Beyond the budget of data in flight no R2T is sent and nothing is refused; what waits goes on when memory comes
 * back, in order, and a connection may end while a task waits. */
static void test_budget(void **state)
{
	static uint8_t data[65536];
	uint8_t bhs[48], cdb[16];
	uint32_t itt[3];
	const uint8_t *h;

	fill(data, sizeof(data), 4);
	OPEN("InitialR2T=Yes\0ImmediateData=No\0");
	d.pool->budget = 100000;
	for (int i = 0; i < 3; i++) {
		cdb_rw(cdb, 0x2a, (uint32_t)i * 128, 128);
		duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 65536, cdb);
		itt[i] = d.itt;
		duplex_send(&d, bhs, NULL, 0);
	}
	for (int i = 0; i < 3; i++) {
		size_t at = d.out_at;
		h = duplex_next(&d, NULL, NULL);
		assert_int_equal(h[0], ISCSI_R2T);
		assert_int_equal(be32(h + BHS_ITT), itt[i]);
		assert_null(duplex_next(&d, NULL, NULL)); /* the next one waits */
		d.out_at = at;
		assert_int_equal(serve_r2t(data, 8192, itt[i]), 1);
		/* The next task's R2T may come before this response or after it. */
		h = duplex_next(&d, NULL, NULL);
		assert_int_equal(h[0], ISCSI_SCSI_RSP);
		assert_int_equal(h[RSP_STATUS], 0);
	}
	assert_int_equal(d.pool->used, 0);
	for (int i = 0; i < 3; i++) {
		duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 65536, cdb);
		duplex_send(&d, bhs, NULL, 0);
	}
	duplex_close(&d);
	assert_int_equal(d.pool->used, 0);
	assert_true(list_empty(&d.pool->starved));
	d.pool->budget = 64 << 20;
}

/* When all of the budget is held by data that came unasked with commands that need more, one of them after the other
 * gets it: nothing waits for ever. */
static void test_budget_unasked(void **state)
{
	static uint8_t data[65536];
	uint8_t bhs[48], cdb[16];
	uint32_t itt[3];
	const uint8_t *h;

	fill(data, sizeof(data), 5);
	OPEN("InitialR2T=Yes\0");
	d.pool->budget = 8192;
	for (int i = 0; i < 3; i++) {
		cdb_rw(cdb, 0x2a, (uint32_t)i * 128, 128);
		duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 65536, cdb);
		itt[i] = d.itt;
		duplex_send(&d, bhs, data, 4096);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(serve_r2t(data, 8192, itt[i]), 1);
		h = duplex_next(&d, NULL, NULL);
		assert_non_null(h);
		assert_int_equal(h[0], ISCSI_SCSI_RSP);
		assert_int_equal(h[RSP_STATUS], 0);
	}
	read_back(256, 128, data);
	assert_int_equal(d.pool->used, 0);
	assert_int_equal(d.pool->granted, 0);
	duplex_close(&d);
	d.pool->budget = 64 << 20;
}

/* An ORDERED command waits for an older write (SAM-5 8.6), which therefore never waits for the memory of the ORDERED
 * one: budget is given in the order of arrival, also to a write whose unasked data is still coming. */
static void test_budget_ordered(void **state)
{
	static uint8_t data[65536];
	uint8_t bhs[48], cdb[16], out[48] = { ISCSI_DATA_OUT, FLAG_FINAL };
	const uint8_t *h;

	fill(data, sizeof(data), 8);
	OPEN("InitialR2T=No\0FirstBurstLength=4096\0");
	d.pool->budget = 8192;
	cdb_rw(cdb, 0x2a, 0, 128);
	duplex_cmd(&d, bhs, CMD_WRITE, 65536, cdb);
	uint32_t itt = d.itt;
	duplex_send(&d, bhs, data, 512);
	cdb_rw(cdb, 0x28, 0, 8);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_READ | 2, 4096, cdb); /* ORDERED */
	duplex_send(&d, bhs, NULL, 0);
	put_be32(out + BHS_ITT, itt);
	put_be32(out + BHS_TTT, ISCSI_NO_TAG);
	put_be32(out + DATA_OFFSET, 512);
	duplex_send(&d, out, data + 512, 3584);
	assert_int_equal(serve_r2t(data, 8192, itt), 1);
	expect_status(0);
	h = duplex_next(&d, NULL, NULL);
	assert_non_null(h);
	assert_int_equal(h[0], ISCSI_DATA_IN);
	assert_int_equal(be32(h + BHS_ITT), itt + 1);
	duplex_close(&d);
	assert_int_equal(d.pool->used, 0);
	d.pool->budget = 64 << 20;
}

static void send_tmf(uint8_t fn, uint32_t ref)
{
	uint8_t tmf[48] = { ISCSI_TMF_REQ | OP_IMMEDIATE, FLAG_FINAL | fn };

	put_be32(tmf + BHS_ITT, 0x1000);
	put_be32(tmf + TMF_REF_TAG, ref);
	put_be32(tmf + BHS_CMD_SN, d.cmd_sn);
	duplex_send(&d, tmf, NULL, 0);
}

/* ABORT TASK of a command that waits for its turn ends it once; data of it that still comes is nobody's (4.2.2.1,
 * 11.5.1). */
static void test_abort_held(void **state)
{
	static uint8_t data[4096], zero[4096];
	uint8_t first[48], second[48], out[48] = { ISCSI_DATA_OUT, FLAG_FINAL }, cdb[16], tur[16] = { 0 };
	const uint8_t *h;

	fill(data, sizeof(data), 6);
	OPEN("InitialR2T=No\0");
	duplex_cmd(&d, first, FLAG_FINAL, 0, tur);
	uint32_t itt = d.itt;
	cdb_rw(cdb, 0x2a, 900, 8);
	duplex_cmd(&d, second, CMD_WRITE, 4096, cdb);
	duplex_send(&d, second, data, 512);
	send_tmf(TMF_ABORT_TASK, d.itt);
	h = duplex_next(&d, NULL, NULL);
	assert_int_equal(h[0], ISCSI_TMF_RSP);
	assert_int_equal(h[RSP_RESPONSE], TMF_RSP_COMPLETE);
	put_be32(out + BHS_ITT, d.itt);
	put_be32(out + BHS_TTT, ISCSI_NO_TAG);
	put_be32(out + DATA_OFFSET, 512);
	duplex_send(&d, out, data + 512, 3584);
	duplex_send(&d, first, NULL, 0);
	h = duplex_next(&d, NULL, NULL);
	assert_int_equal(h[0], ISCSI_SCSI_RSP);
	assert_int_equal(be32(h + BHS_ITT), itt);
	assert_int_equal(be32(h + BHS_EXP_CMD_SN), be32(first + BHS_CMD_SN) + 2); /* it keeps its place */
	assert_null(duplex_next(&d, NULL, NULL));
	read_back(900, 8, zero);
	duplex_close(&d);
	assert_int_equal(d.pool->tasks_live, 0);
}

/* A command that comes behind a task management function, even in the same receive, is not aborted by it and is
 * answered (4.2.3.3: the function concerns the commands before it). */
static void test_command_behind_tmf(void **state)
{
	static const uint8_t fn[] = { TMF_ABORT_TASK_SET, TMF_CLEAR_TASK_SET, TMF_LU_RESET, TMF_WARM_RESET };
	uint8_t bhs[48], cdb[16], tmf[48], all[3 * 48], tur[16] = { 0 };
	const uint8_t *h;

	for (unsigned i = 0; i < sizeof(fn); i++) {
		OPEN("InitialR2T=Yes\0ImmediateData=No\0");
		memset(tmf, 0, sizeof(tmf));
		tmf[0] = ISCSI_TMF_REQ | OP_IMMEDIATE;
		tmf[1] = FLAG_FINAL | fn[i];
		put_be32(tmf + BHS_ITT, 0x1000);
		put_be32(tmf + TMF_REF_TAG, ISCSI_NO_TAG);
		cdb_rw(cdb, 0x2a, 0, 8);
		duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 4096, cdb);
		memcpy(all, bhs, 48);
		put_be32(tmf + BHS_CMD_SN, d.cmd_sn);
		memcpy(all + 48, tmf, 48);
		duplex_cmd(&d, bhs, FLAG_FINAL, 0, tur);
		memcpy(all + 96, bhs, 48);
		duplex_feed(&d, all, sizeof(all), 0);
		iscsi_tick(d.conn, d.conn->now_ns + TMF_DATA_S * NS_PER_S, false); /* nobody serves the R2T */
		duplex_run(&d);
		bool answered = false, done = false;
		while ((h = duplex_next(&d, NULL, NULL))) {
			assert_int_not_equal(h[0], ISCSI_DATA_IN);
			done |= h[0] == ISCSI_TMF_RSP && h[RSP_RESPONSE] == TMF_RSP_COMPLETE;
			if (h[0] != ISCSI_SCSI_RSP)
				continue;
			assert_int_equal(be32(h + BHS_ITT), d.itt);
			answered = true;
		}
		assert_true(done);
		assert_true(answered);
		duplex_close(&d);
	}
}

/* A command with the tag of a living task is refused and its CmdSN is not consumed (7.3); a retry of that task, held or
 * running, vanishes (4.2.2.1). */
static void test_same_tag(void **state)
{
	uint8_t held[48], write[48], again[48], first[48], cdb[16], tur[16] = { 0 };
	const uint8_t *h;

	OPEN("InitialR2T=Yes\0ImmediateData=No\0");
	cdb_rw(cdb, 0x2a, 0, 8);
	duplex_cmd(&d, write, FLAG_FINAL | CMD_WRITE, 4096, cdb);
	duplex_send(&d, write, NULL, 0);
	h = duplex_next(&d, NULL, NULL);
	assert_int_equal(h[0], ISCSI_R2T);
	duplex_send(&d, write, NULL, 0);
	duplex_cmd(&d, first, FLAG_FINAL, 0, tur);
	uint32_t itt = d.itt;
	duplex_cmd(&d, held, FLAG_FINAL, 0, tur);
	duplex_send(&d, held, NULL, 0);
	duplex_send(&d, held, NULL, 0);
	assert_null(duplex_next(&d, NULL, NULL));
	memcpy(again, first, 48);
	memcpy(again + BHS_ITT, write + BHS_ITT, 4);
	duplex_send(&d, again, NULL, 0);
	h = duplex_next(&d, NULL, NULL);
	assert_int_equal(h[0], ISCSI_REJECT);
	assert_int_equal(h[REJECT_REASON], REJECT_IN_PROGRESS);
	assert_int_equal(be32(h + BHS_EXP_CMD_SN), be32(first + BHS_CMD_SN));
	duplex_send(&d, first, NULL, 0);
	for (uint32_t i = 0; i < 2; i++) {
		h = duplex_next(&d, NULL, NULL);
		assert_int_equal(h[0], ISCSI_SCSI_RSP);
		assert_int_equal(be32(h + BHS_ITT), itt + i);
	}
	assert_null(duplex_next(&d, NULL, NULL));
	duplex_close(&d);
}

/* A write that waited for its turn changes no more blocks than its CDB says, whatever came with it. */
static void test_held_too_long(void **state)
{
	static uint8_t data[4096], want[4096];
	uint8_t first[48], second[48], cdb[16], tur[16] = { 0 };

	fill(data, sizeof(data), 7);
	memcpy(want, data, 512);
	OPEN("");
	duplex_cmd(&d, first, FLAG_FINAL, 0, tur);
	cdb_rw(cdb, 0x2a, 1000, 1);
	duplex_cmd(&d, second, FLAG_FINAL | CMD_WRITE, 4096, cdb);
	duplex_send(&d, second, data, 4096);
	struct iscsi_task *t = list_first(&d.conn->tasks, struct iscsi_task, node);
	assert_int_equal(duplex_put(&d, first, 48), 48);
	assert_int_equal(t->cmd.out_len, 512);
	assert_int_equal(t->cmd.niov, 1);
	assert_int_equal(t->cmd.iov[0].iov_len, 512);
	duplex_run(&d);
	expect_status(0);
	expect_status(0);
	read_back(1000, 8, want);
	duplex_close(&d);
}

/* A peer that asks for echoes and reads none of them is not read from beyond a bound of memory. */
static void test_echo_bound(void **state)
{
	static uint8_t pdu[(256 << 10) + 48];
	uint8_t nop[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };
	size_t n, taken = 0;

	OPEN("MaxRecvDataSegmentLength=65536\0");
	put_be32(nop + BHS_ITT, 77);
	put_be32(nop + BHS_TTT, ISCSI_NO_TAG);
	n = duplex_pdu(&d, pdu, nop, pdu + 48, 256 << 10);
	for (int i = 0; i < 100; i++)
		taken += duplex_put(&d, pdu, n) == n;
	assert_in_range(taken, 2, 30);
	assert_true(d.conn->ctl_bytes <= TX_CTL_BYTES + (1 << 20));
	duplex_run(&d);
	assert_int_equal(d.conn->ctl_bytes, 0);
	duplex_close(&d);
}

/* Requests with data that are ahead of their turn end the connection before they hold much memory. */
static void test_held_bound(void **state)
{
	static uint8_t data[256 << 10];
	uint8_t nop[48] = { ISCSI_NOP_OUT, FLAG_FINAL };

	OPEN("");
	put_be32(nop + BHS_TTT, ISCSI_NO_TAG);
	for (uint32_t i = 1; i < 20 && !d.closed; i++) {
		put_be32(nop + BHS_ITT, 77 + i);
		put_be32(nop + BHS_CMD_SN, d.cmd_sn + i);
		duplex_send(&d, nop, data, sizeof(data));
		assert_true(d.session->held_bytes <= HELD_BYTES);
	}
	assert_true(d.closed);
	duplex_close(&d);
}

/* Tasks of a connection that ends are not woken by the memory that others of it give back. */
static void test_end_while_starved(void **state)
{
	uint8_t bhs[48], cdb[16];

	OPEN("InitialR2T=Yes\0ImmediateData=No\0");
	d.pool->budget = 70000;
	for (int i = 0; i < 4; i++) {
		cdb_rw(cdb, 0x2a, (uint32_t)i * 128, 128);
		duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 65536, cdb);
		duplex_send(&d, bhs, NULL, 0);
	}
	/* One that ended and is still in the send queue is given back at once, while the others wait. */
	struct iscsi_task *t = list_first(&d.conn->tasks, struct iscsi_task, node);
	scsi_fail(&t->cmd, 0x0b, 0x47, 0x05);
	while (!t->finished)
		loop_turn(d.loop, 0);
	duplex_close(&d);
	assert_true(list_empty(&d.pool->starved));
	assert_int_equal(d.pool->used, 0);
	d.pool->budget = 64 << 20;
}

static int setup(void **state)
{
	duplex_init(&d);
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
		cmocka_unit_test(test_immediate), cmocka_unit_test(test_solicited), cmocka_unit_test(test_fragments),
		cmocka_unit_test(test_digest_errors), cmocka_unit_test(test_cmd_sn), cmocka_unit_test(test_half_write),
		cmocka_unit_test(test_nop_and_reject), cmocka_unit_test(test_residuals),
		cmocka_unit_test(test_before_login),
		cmocka_unit_test(test_budget), cmocka_unit_test(test_budget_unasked), cmocka_unit_test(test_budget_ordered),
		cmocka_unit_test(test_abort_held), cmocka_unit_test(test_command_behind_tmf),
		cmocka_unit_test(test_same_tag), cmocka_unit_test(test_held_too_long),
		cmocka_unit_test(test_echo_bound), cmocka_unit_test(test_held_bound),
		cmocka_unit_test(test_end_while_starved),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
