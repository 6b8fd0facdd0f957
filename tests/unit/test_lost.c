/* SPDX-License-Identifier: BSD-3-Clause
 * Several connections of one session, and ErrorRecoveryLevel 2: what a lost connection leaves behind, and TASK REASSIGN. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "duplex.h"
#include "iscsi/impl.h"

static struct duplex d, e;
static uint8_t big[64 << 10], back[64 << 10];

#define LEVEL2 "ErrorRecoveryLevel=2\0MaxConnections=4\0DefaultTime2Retain=20\0DefaultTime2Wait=2\0"
#define SESSION(keys) open_session(keys, sizeof(keys) - 1)
#define JOIN(cid, keys) join(cid, keys, sizeof(keys) - 1)

static void skip_all(struct duplex *x)
{
	while (duplex_next(x, NULL, NULL))
		;
}

static void open_session(const char *keys, size_t len)
{
	uint8_t bhs[48], tur[16] = { 0 };

	duplex_open(&d);
	duplex_login(&d, keys, len);
	assert_true(d.ready);
	duplex_cmd(&d, bhs, FLAG_FINAL, 0, tur);
	duplex_send(&d, bhs, NULL, 0);
	skip_all(&d);
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 11 + i / 512);
}

/* Connection cid, as e. */
static void join(uint16_t cid, const char *keys, size_t len)
{
	duplex_join(&e, &d, cid);
	duplex_login(&e, keys, len);
	assert_true(e.ready);
	skip_all(&e);
}

static void close_all(void)
{
	if (e.conn)
		duplex_drop(&e);
	duplex_close(&d);
	assert_int_equal(d.pool->tasks_live, 0);
	assert_int_equal(d.pool->used, 0);
	assert_int_equal(d.pool->kept_bytes, 0);
}

static const uint8_t *next(struct duplex *x, uint8_t opcode)
{
	const uint8_t *h = duplex_next(x, NULL, NULL);

	assert_non_null(h);
	assert_int_equal(h[0], opcode);
	return h;
}

static void none(struct duplex *x)
{
	assert_null(duplex_next(x, NULL, NULL));
}

static void cdb_rw(uint8_t cdb[16], uint8_t op, uint32_t lba, uint32_t bytes)
{
	memset(cdb, 0, 16);
	cdb[0] = op;
	put_be32(cdb + 2, lba);
	put_be16(cdb + 7, (uint16_t)(bytes / 512));
}

/* On x, with the session's next CmdSN. */
static uint32_t command(struct duplex *x, uint8_t op, uint32_t lba, uint32_t bytes, uint32_t immediate)
{
	uint8_t bhs[48], cdb[16];

	cdb_rw(cdb, op, lba, bytes);
	x->cmd_sn = d.session->exp_cmd_sn;
	duplex_cmd(x, bhs, FLAG_FINAL | (op == 0x28 ? CMD_READ : CMD_WRITE), bytes, cdb);
	duplex_send(x, bhs, big, immediate);
	return x->itt;
}

static uint8_t logout(struct duplex *x, uint8_t reason, uint16_t cid, uint32_t exp_stat_sn)
{
	uint8_t bhs[48] = { ISCSI_LOGOUT_REQ | OP_IMMEDIATE, FLAG_FINAL | reason };

	put_be32(bhs + BHS_ITT, 0x7000);
	put_be16(bhs + LOGOUT_CID, cid);
	put_be32(bhs + BHS_CMD_SN, d.session->exp_cmd_sn);
	put_be32(bhs + BHS_EXP_STAT_SN, exp_stat_sn);
	duplex_send(x, bhs, NULL, 0);
	return next(x, ISCSI_LOGOUT_RSP)[LOGOUT_RESPONSE];
}
enum { CLOSE_SESSION, CLOSE_CONNECTION, FOR_RECOVERY = 2 };

static void reassign_only(struct duplex *x, uint32_t itt, uint32_t exp_data_sn)
{
	uint8_t bhs[48] = { ISCSI_TMF_REQ | OP_IMMEDIATE, FLAG_FINAL | TMF_REASSIGN };

	put_be32(bhs + BHS_ITT, 0x8000);
	put_be32(bhs + TMF_REF_TAG, itt);
	put_be32(bhs + BHS_CMD_SN, d.session->exp_cmd_sn);
	put_be32(bhs + TMF_EXP_DATA_SN, exp_data_sn);
	duplex_send(x, bhs, NULL, 0);
}

static uint8_t reassign(struct duplex *x, uint32_t itt, uint32_t exp_data_sn)
{
	reassign_only(x, itt, exp_data_sn);
	return next(x, ISCSI_TMF_RSP)[RSP_RESPONSE];
}

static void data_out(struct duplex *x, const uint8_t *r2t)
{
	uint8_t bhs[48] = { ISCSI_DATA_OUT, FLAG_FINAL };
	uint32_t off = be32(r2t + R2T_OFFSET);

	memcpy(bhs + BHS_ITT, r2t + BHS_ITT, 4);
	memcpy(bhs + BHS_TTT, r2t + BHS_TTT, 4);
	put_be32(bhs + DATA_OFFSET, off);
	duplex_send(x, bhs, big + off, be32(r2t + R2T_LEN));
}

static void data_in(struct duplex *x, uint32_t sn, uint32_t off)
{
	const uint8_t *p, *h;
	uint32_t n;

	h = duplex_next(x, &p, &n);
	assert_non_null(h);
	assert_int_equal(h[0], ISCSI_DATA_IN);
	assert_int_equal(be32(h + DATA_SN), sn);
	assert_int_equal(be32(h + DATA_OFFSET), off);
	memcpy(back + off, p, n);
}

static void expect_good(struct duplex *x, uint32_t itt)
{
	const uint8_t *h = next(x, ISCSI_SCSI_RSP);

	assert_int_equal(be32(h + BHS_ITT), itt);
	assert_int_equal(h[RSP_STATUS], 0);
}

/* Commands on two connections run in the order of their CmdSN, and each is answered where it came (4.2.2.1, 4.2.2). */
static void test_order(void **state)
{
	uint8_t first[48], second[48], cdb[16], other[512];

	SESSION("MaxConnections=4\0");
	JOIN(1, "");
	memset(other, 0x33, 512);
	cdb_rw(cdb, 0x2a, 0, 512);
	d.cmd_sn = e.cmd_sn = d.session->exp_cmd_sn;
	duplex_cmd(&d, first, FLAG_FINAL | CMD_WRITE, 512, cdb);
	e.cmd_sn++;
	duplex_cmd(&e, second, FLAG_FINAL | CMD_WRITE, 512, cdb);
	duplex_send(&e, second, other, 512);
	none(&e);
	duplex_send(&d, first, big, 512);
	duplex_run(&e);
	expect_good(&d, be32(first + BHS_ITT));
	expect_good(&e, be32(second + BHS_ITT));
	command(&d, 0x28, 0, 512, 0);
	const uint8_t *p;
	assert_non_null(duplex_next(&d, &p, NULL));
	assert_memory_equal(p, other, 512);
	close_all();
}

/* Data for a command of another connection is not taken (allegiance, 4.2.2). */
static void test_allegiance(void **state)
{
	SESSION("MaxConnections=4\0InitialR2T=Yes\0ImmediateData=No\0");
	JOIN(1, "");
	uint32_t itt = command(&d, 0x2a, 0, 4096, 0);
	uint8_t r2t[48];
	memcpy(r2t, next(&d, ISCSI_R2T), 48);
	data_out(&e, r2t);
	none(&e);
	none(&d);
	data_out(&d, r2t);
	expect_good(&d, itt);
	close_all();
}

/* A read whose connection is lost half way goes on where the initiator says, a complete one is answered anew with the numbers of
 * the new connection; both only after the logout (7.2.2, 11.5.6). */
static void test_reassign_read(void **state)
{
	const uint8_t *h;

	SESSION(LEVEL2 "MaxRecvDataSegmentLength=4096\0");
	JOIN(1, "MaxRecvDataSegmentLength=4096\0");
	uint32_t w = command(&d, 0x2a, 0, 65536, 65536);
	expect_good(&d, w);
	uint32_t itt = command(&e, 0x28, 0, 65536, 0);
	skip_all(&e);
	duplex_drop(&e);
	duplex_run(&d);
	h = next(&d, ISCSI_ASYNC); /* 7.1.4.3, 11.9.1 */
	assert_int_equal(h[ASYNC_EVENT], 2);
	assert_int_equal(be16(h + ASYNC_P1), 1);
	assert_int_equal(be16(h + ASYNC_P2), 2);
	assert_int_equal(be16(h + ASYNC_P3), 20);
	assert_int_equal(reassign(&d, itt, 0), TMF_RSP_ALLEGIANT); /* before the logout */
	assert_int_equal(logout(&d, FOR_RECOVERY, 1, 0), 0);
	assert_int_equal(logout(&d, FOR_RECOVERY, 1, 0), 1); /* there is none any more */
	assert_int_equal(reassign(&d, itt, 5), TMF_RSP_COMPLETE);
	for (uint32_t i = 5; i < 16; i++)
		data_in(&d, i, i * 4096);
	expect_good(&d, itt);
	none(&d);
	assert_memory_equal(back + 5 * 4096, big + 5 * 4096, 11 * 4096);
	assert_int_equal(reassign(&d, itt, 5), TMF_RSP_ALLEGIANT);
	assert_int_equal(reassign(&d, 0x12345, 0), TMF_RSP_NO_TASK);
	assert_int_equal(d.session->nlost, 0);
	close_all();
}

/* A command ahead of its turn on a connection that another logs out is never counted: its copy on that other one is, even before
 * the socket is gone (7.2.2, 4.2.2.1: the ExpCmdSN of the answer to the logout is what the initiator goes by). */
static void test_logout_held(void **state)
{
	uint8_t first[48], second[48], cdb[16];

	SESSION(LEVEL2);
	JOIN(1, "");
	cdb_rw(cdb, 0x2a, 0, 512);
	d.cmd_sn = d.session->exp_cmd_sn;
	e.cmd_sn = d.cmd_sn + 1;
	duplex_cmd(&d, first, FLAG_FINAL | CMD_WRITE, 512, cdb);
	duplex_cmd(&e, second, FLAG_FINAL | CMD_WRITE, 512, cdb);
	put_be32(second + BHS_ITT, 0x4711);
	duplex_send(&e, second, big, 512);
	none(&e);
	assert_int_equal(logout(&d, FOR_RECOVERY, 1, 0), 0);
	duplex_send(&d, first, big, 512);
	expect_good(&d, be32(first + BHS_ITT));
	assert_int_equal(d.session->exp_cmd_sn, be32(second + BHS_CMD_SN));
	duplex_send(&d, second, big, 512);
	expect_good(&d, 0x4711);
	duplex_drop(&e);
	duplex_run(&d);
	assert_int_equal(d.session->nlost, 0);
	none(&d);
	close_all();
}

/* Segments of another length on the new connection; everything acknowledged: only the status; a value that makes no sense is
 * ignored (11.5.6). */
static void test_reassign_segments(void **state)
{
	SESSION(LEVEL2 "MaxRecvDataSegmentLength=8192\0");
	expect_good(&d, command(&d, 0x2a, 0, 65536, 65536));
	JOIN(1, "MaxRecvDataSegmentLength=4096\0");
	uint32_t a = command(&e, 0x28, 0, 65536, 0), b = command(&e, 0x28, 0, 65536, 0), c = command(&e, 0x28, 0, 65536, 0);
	skip_all(&e);
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	logout(&d, FOR_RECOVERY, 1, 0);
	assert_int_equal(reassign(&d, a, 3), TMF_RSP_COMPLETE);
	for (uint32_t i = 0; i < 7; i++)
		data_in(&d, 3 + i, 12288 + i * 8192);
	expect_good(&d, a);
	assert_int_equal(reassign(&d, b, 16), TMF_RSP_COMPLETE);
	expect_good(&d, b);
	assert_int_equal(reassign(&d, c, 17), TMF_RSP_COMPLETE);
	for (uint32_t i = 0; i < 8; i++)
		data_in(&d, i, i * 8192);
	expect_good(&d, c);
	none(&d);
	close_all();
}

/* A write whose connection is lost with data under way goes on at its first missing byte, with R2Ts on the new
 * connection (7.2.2). */
static void test_reassign_write(void **state)
{
	uint8_t part[48] = { ISCSI_DATA_OUT }, r2t[48];
	const uint8_t *h;

	SESSION(LEVEL2 "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=16384\0FirstBurstLength=16384\0");
	JOIN(1, "");
	uint32_t itt = command(&e, 0x2a, 0, 32768, 0);
	memcpy(r2t, next(&e, ISCSI_R2T), 48);
	memcpy(part + BHS_ITT, r2t + BHS_ITT, 8);
	duplex_send(&e, part, big, 4096);
	put_be32(part + DATA_SN, 1);
	put_be32(part + DATA_OFFSET, 4096);
	uint8_t pdu[8192];
	size_t n = duplex_pdu(&e, pdu, part, big, 4096);
	duplex_feed(&e, pdu, n - 100, 0); /* cut in the middle of a PDU */
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	JOIN(1, ""); /* 6.3.4: logs the old one out */
	assert_int_equal(reassign(&e, itt, 0), TMF_RSP_COMPLETE);
	h = next(&e, ISCSI_R2T);
	assert_int_equal(be32(h + R2T_SN), 0);
	assert_int_equal(be32(h + R2T_OFFSET), 4096);
	assert_int_equal(be32(h + R2T_LEN), 16384);
	data_out(&e, h);
	h = next(&e, ISCSI_R2T);
	assert_int_equal(be32(h + R2T_SN), 1);
	assert_int_equal(be32(h + R2T_OFFSET), 20480);
	data_out(&e, h);
	expect_good(&e, itt);
	none(&e);
	command(&e, 0x28, 0, 32768, 0);
	const uint8_t *p;
	assert_non_null(duplex_next(&e, &p, NULL));
	assert_memory_equal(p, big, 8192);
	close_all();
}

/* The login that takes a CID over acknowledges statuses of the old connection (11.12.9): their tasks are gone; others wait.
 * Logout for recovery of the own connection answers, and what it leaves goes to another (11.14). */
static void test_reinstate_acks(void **state)
{
	SESSION(LEVEL2);
	JOIN(1, "");
	uint32_t a = command(&e, 0x2a, 0, 512, 512), sn = e.conn->stat_sn, b = command(&e, 0x2a, 8, 512, 512);
	skip_all(&e);
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	e.exp_stat_sn = sn;
	JOIN(1, "");
	e.exp_stat_sn = 0;
	assert_int_equal(reassign(&e, a, 0), TMF_RSP_NO_TASK);
	assert_int_equal(reassign(&e, b, 0), TMF_RSP_COMPLETE);
	expect_good(&e, b);
	uint32_t c = command(&e, 0x2a, 8, 512, 512);
	skip_all(&e);
	assert_int_equal(logout(&e, FOR_RECOVERY, 1, 0), 0);
	assert_true(e.logged_out);
	reassign_only(&d, c, 0); /* the socket is still there: it waits */
	none(&d);
	duplex_drop(&e);
	duplex_run(&d);
	assert_int_equal(next(&d, ISCSI_TMF_RSP)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	expect_good(&d, c);
	none(&d);
	close_all();
}

/* What is not kept: commands ahead of their turn, whose CmdSN stay missing, and immediate ones (7.14, 11.14); what the initiator
 * closes instead of recovering ends with unit attention 47/7F (11.14.5). */
static void test_not_kept(void **state)
{
	uint8_t ahead[48], now[48], cdb[16];

	SESSION(LEVEL2 "InitialR2T=Yes\0ImmediateData=No\0");
	JOIN(1, "");
	cdb_rw(cdb, 0x2a, 0, 512);
	e.cmd_sn = d.session->exp_cmd_sn;
	duplex_cmd(&e, now, FLAG_FINAL | CMD_WRITE, 512, cdb);
	now[0] |= OP_IMMEDIATE;
	duplex_send(&e, now, NULL, 0);
	duplex_cmd(&e, ahead, FLAG_FINAL | CMD_WRITE, 512, cdb);
	duplex_send(&e, ahead, NULL, 0);
	assert_int_equal(d.session->nheld, 1);
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	assert_int_equal(d.session->nheld, 0);
	assert_int_equal(logout(&d, FOR_RECOVERY, 1, 0), 0);
	assert_int_equal(reassign(&d, be32(now + BHS_ITT), 0), TMF_RSP_NO_TASK);
	assert_int_equal(reassign(&d, be32(ahead + BHS_ITT), 0), TMF_RSP_NO_TASK);
	const uint8_t *h, *p;
	uint32_t n, itt = command(&d, 0x2a, 0, 512, 0);
	h = duplex_next(&d, &p, &n);
	assert_int_equal(h[RSP_STATUS], 2); /* of the immediate command that ended with its connection */
	assert_int_equal(be32(h + BHS_ITT), itt);
	assert_true(n > 14 && p[2 + 2] == 6 && p[2 + 12] == 0x47 && p[2 + 13] == 0x7f);
	JOIN(2, "");
	command(&e, 0x2a, 0, 512, 0);
	next(&e, ISCSI_R2T);
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	assert_int_equal(logout(&d, CLOSE_CONNECTION, 2, 0), 0);
	duplex_run(&d);
	itt = command(&d, 0x2a, 0, 512, 0);
	h = duplex_next(&d, &p, &n);
	assert_int_equal(h[RSP_STATUS], 2);
	assert_true(p[2 + 12] == 0x47 && p[2 + 13] == 0x7f);
	assert_int_equal(d.session->nlost, 0);
	close_all();
}

/* Time2Wait + Time2Retain later what nobody reassigned is gone; until then the session lives without a connection (6.3.6). */
static void test_expiry(void **state)
{
	SESSION(LEVEL2 "InitialR2T=Yes\0ImmediateData=No\0");
	uint32_t itt = command(&d, 0x2a, 0, 512, 0);
	skip_all(&d);
	duplex_drop(&d);
	assert_int_equal(d.session->nconns, 0);
	uint64_t now = 1000 * NS_PER_S;
	assert_int_equal(iscsi_session_tick(d.session, now), now + 22 * NS_PER_S);
	assert_int_equal(iscsi_session_tick(d.session, now + 21 * NS_PER_S), now + 22 * NS_PER_S);
	JOIN(5, "");
	assert_int_equal(logout(&e, FOR_RECOVERY, 0, 0), 0);
	now += 21 * NS_PER_S;
	assert_int_equal(iscsi_session_tick(d.session, now), now + 22 * NS_PER_S); /* anew from the logout, 11.15.4 */
	assert_int_equal(iscsi_session_tick(d.session, now + 22 * NS_PER_S), UINT64_MAX);
	duplex_run(&e);
	assert_int_equal(reassign(&e, itt, 0), TMF_RSP_NO_TASK);
	assert_int_equal(d.session->inflight, 0);
	close_all();
}

/* A logout of the session ends what lost connections left behind too: nothing is kept that nobody may come for (11.14). */
static void test_session_logout(void **state)
{
	SESSION(LEVEL2 "InitialR2T=Yes\0ImmediateData=No\0");
	JOIN(1, "");
	command(&e, 0x2a, 0, 512, 0);
	skip_all(&e);
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	assert_int_equal(logout(&d, CLOSE_SESSION, 0, 0), 0);
	assert_int_equal(d.session->nlost, 0);
	assert_int_equal(d.session->inflight, 0);
	assert_int_equal(iscsi_session_tick(d.session, 1000 * NS_PER_S), UINT64_MAX);
	close_all();
}

/* Below level 2 recovery and reassignment are refused with their own codes, and tasks end with their connection. */
static void test_level_one(void **state)
{
	SESSION("ErrorRecoveryLevel=1\0MaxConnections=4\0InitialR2T=Yes\0ImmediateData=No\0");
	JOIN(1, "");
	uint32_t itt = command(&e, 0x2a, 0, 512, 0);
	skip_all(&e);
	assert_int_equal(logout(&d, FOR_RECOVERY, 1, 0), 2);
	assert_int_equal(reassign(&d, itt, 0), TMF_RSP_NO_REASSIGN);
	duplex_drop(&e);
	duplex_run(&d);
	next(&d, ISCSI_ASYNC);
	assert_int_equal(d.session->inflight, 0);
	assert_int_equal(logout(&d, CLOSE_CONNECTION, 1, 0), 1);
	close_all();
}

/* Connections that come and go, each leaving commands behind, and reassignments without end: records and tasks stay bounded,
 * and a hostile ExpDataSN or tag does no harm. */
static void test_storm(void **state)
{
	uint32_t itt[160];
	unsigned n = 0;

	SESSION(LEVEL2 "InitialR2T=Yes\0ImmediateData=No\0");
	for (int i = 0; i < 80; i++) {
		JOIN((uint16_t)(i + 1), "");
		itt[n++] = command(&e, 0x2a, 0, 65536, 0);
		itt[n++] = command(&e, 0x28, 0, 65536, 0);
		skip_all(&e);
		duplex_drop(&e);
		duplex_run(&d);
		skip_all(&d);
	}
	assert_true(d.session->nlost <= 64);
	assert_true(d.session->inflight <= d.session->window);
	for (int i = 0; i < 80; i++)
		logout(&d, FOR_RECOVERY, (uint16_t)(i + 1), 0xffffffff);
	for (unsigned i = 0; i < 500; i++) {
		reassign_only(&d, itt[i % n] ^ (i / n == 3), i * 0x3fffffffu);
		skip_all(&d);
	}
	assert_false(d.closed);
	assert_int_equal(d.session->nlost, 0);
	close_all();
}

/* ABORT TASK of a command without connection: if it is answered, its answer comes first, then that of the function (11.5.1). */
static void test_abort_lost(void **state)
{
	uint8_t abort_[48] = { ISCSI_TMF_REQ | OP_IMMEDIATE, FLAG_FINAL | TMF_ABORT_TASK };

	SESSION(LEVEL2 "InitialR2T=Yes\0ImmediateData=No\0");
	JOIN(1, "");
	uint32_t waits = command(&e, 0x2a, 0, 512, 0), done = command(&e, 0x28, 0, 512, 0);
	skip_all(&e);
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	logout(&d, FOR_RECOVERY, 1, 0);
	put_be32(abort_ + BHS_ITT, 0x9000);
	put_be32(abort_ + TMF_REF_TAG, done);
	put_be32(abort_ + BHS_CMD_SN, d.session->exp_cmd_sn);
	put_be32(abort_ + TMF_REF_CMD_SN, d.session->exp_cmd_sn - 1);
	duplex_send(&d, abort_, NULL, 0);
	next(&d, ISCSI_DATA_IN);
	expect_good(&d, done);
	assert_int_equal(next(&d, ISCSI_TMF_RSP)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	put_be32(abort_ + TMF_REF_TAG, waits);
	put_be32(abort_ + TMF_REF_CMD_SN, d.session->exp_cmd_sn - 2);
	duplex_send(&d, abort_, NULL, 0);
	assert_int_equal(next(&d, ISCSI_TMF_RSP)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	assert_int_equal(reassign(&d, waits, 0), TMF_RSP_NO_TASK);
	close_all();
}

/* A warm reset on one connection while a command before it still arrives on another: that command counts as received and is
 * aborted, its data goes nowhere, and the order of commands goes on behind it (4.2.3.3 b). */
static void test_reset_passes_arrival(void **state)
{
	uint8_t reset[48] = { ISCSI_TMF_REQ | OP_IMMEDIATE, FLAG_FINAL | TMF_WARM_RESET }, first[48], second[48], cdb[16];
	uint8_t pdu[48 + 512], tur[16] = { 0 };

	SESSION("MaxConnections=4\0");
	JOIN(1, "");
	uint32_t sn = d.session->exp_cmd_sn;
	e.cmd_sn = sn + 1;
	cdb_rw(cdb, 0x2a, 100, 512);
	duplex_cmd(&e, first, FLAG_FINAL | CMD_WRITE, 512, cdb);
	size_t all = duplex_pdu(&e, pdu, first, big, 512);
	duplex_put(&e, pdu, all - 100);
	put_be32(reset + BHS_ITT, 0x9100);
	put_be32(reset + BHS_CMD_SN, sn + 2);
	duplex_send(&d, reset, NULL, 0);
	assert_int_equal(next(&d, ISCSI_TMF_RSP)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	assert_int_equal(d.session->exp_cmd_sn, sn + 2);
	duplex_feed(&e, pdu + all - 100, 100, 0);
	none(&e);
	assert_int_equal(d.session->nheld, 0);
	e.cmd_sn = sn + 3;
	duplex_cmd(&e, second, FLAG_FINAL, 0, tur);
	duplex_send(&e, second, NULL, 0);
	none(&e);
	d.cmd_sn = sn + 2;
	duplex_cmd(&d, first, FLAG_FINAL, 0, tur);
	duplex_send(&d, first, NULL, 0);
	duplex_run(&e);
	next(&d, ISCSI_SCSI_RSP);
	next(&e, ISCSI_SCSI_RSP);
	command(&d, 0x28, 100, 512, 0);
	const uint8_t *p;
	assert_non_null(duplex_next(&d, &p, NULL));
	assert_memory_not_equal(p, big, 512);
	close_all();
}

/* An immediate command is aborted on another connection while its data arrives, and its digest is bad: nothing of it is left
 * (7.8). */
static void test_abort_bad_immediate(void **state)
{
	uint8_t abort_[48] = { ISCSI_TMF_REQ | OP_IMMEDIATE, FLAG_FINAL | TMF_ABORT_TASK }, cmd[48], cdb[16], pdu[48 + 4 + 512 + 4];

	SESSION(LEVEL2);
	JOIN(1, "HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
	e.cmd_sn = d.session->exp_cmd_sn;
	cdb_rw(cdb, 0x2a, 0, 512);
	duplex_cmd(&e, cmd, FLAG_FINAL | CMD_WRITE, 512, cdb);
	cmd[0] |= OP_IMMEDIATE;
	size_t all = duplex_pdu(&e, pdu, cmd, big, 512);
	pdu[all - 1] ^= 1;
	duplex_put(&e, pdu, all - 100);
	put_be32(abort_ + BHS_ITT, 0x9000);
	put_be32(abort_ + TMF_REF_TAG, e.itt);
	put_be32(abort_ + BHS_CMD_SN, d.session->exp_cmd_sn);
	put_be32(abort_ + TMF_REF_CMD_SN, d.session->exp_cmd_sn);
	duplex_send(&d, abort_, NULL, 0);
	assert_int_equal(next(&d, ISCSI_TMF_RSP)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	duplex_feed(&e, pdu + all - 100, 100, 0);
	assert_int_equal(next(&e, ISCSI_REJECT)[REJECT_REASON], REJECT_DATA_DIGEST);
	assert_int_equal(d.session->nimmediate, 0);
	assert_true(list_empty(&e.conn->tasks));
	close_all();
}

/* The status of a write has ExpDataSN 0 however often its connection was lost (11.4.8). */
static void test_write_lost_twice(void **state)
{
	SESSION(LEVEL2 "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=512\0FirstBurstLength=512\0");
	JOIN(1, "");
	uint32_t itt = command(&e, 0x2a, 0, 1024, 0);
	data_out(&e, next(&e, ISCSI_R2T));
	next(&e, ISCSI_R2T);
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	logout(&d, FOR_RECOVERY, 1, 0);
	JOIN(2, "");
	assert_int_equal(reassign(&e, itt, 1), TMF_RSP_COMPLETE);
	data_out(&e, next(&e, ISCSI_R2T));
	const uint8_t *h = next(&e, ISCSI_SCSI_RSP);
	assert_int_equal(be32(h + RSP_EXP_DATA_SN), 0);
	duplex_drop(&e);
	duplex_run(&d);
	skip_all(&d);
	logout(&d, FOR_RECOVERY, 2, 0);
	assert_int_equal(reassign(&d, itt, 0), TMF_RSP_COMPLETE);
	h = next(&d, ISCSI_SCSI_RSP);
	assert_int_equal(h[RSP_STATUS], 0);
	assert_int_equal(be32(h + RSP_EXP_DATA_SN), 0);
	close_all();
}

static int setup(void **state)
{
	duplex_init(&d);
	d.offer.erl = 2;
	d.offer.time2retain = 60;
	return 0;
}

static int teardown(void **state)
{
	free(e.out);
	duplex_fini(&d);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order), cmocka_unit_test(test_allegiance), cmocka_unit_test(test_reassign_read),
		cmocka_unit_test(test_reassign_segments), cmocka_unit_test(test_logout_held), cmocka_unit_test(test_reassign_write),
		cmocka_unit_test(test_reinstate_acks), cmocka_unit_test(test_not_kept), cmocka_unit_test(test_expiry),
		cmocka_unit_test(test_session_logout),
		cmocka_unit_test(test_level_one), cmocka_unit_test(test_storm), cmocka_unit_test(test_abort_lost),
		cmocka_unit_test(test_reset_passes_arrival), cmocka_unit_test(test_abort_bad_immediate),
		cmocka_unit_test(test_write_lost_twice),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
