/* SPDX-License-Identifier: BSD-3-Clause
 * Full feature phase beyond reads and writes: RFC 7144, task management over many tasks, asynchronous messages. Two
 * sessions (d and e) on one loop and one disk. */
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

static void drain(struct duplex *x)
{
	while (duplex_next(x, NULL, NULL))
		;
}

static const uint8_t *want(struct duplex *x, uint8_t op)
{
	const uint8_t *h = duplex_next(x, NULL, NULL);

	assert_non_null(h);
	assert_int_equal(h[0], op);
	return h;
}

static void open_one(struct duplex *x, const char *keys, size_t len)
{
	uint8_t bhs[48], tur[16] = { 0 };

	duplex_open(x);
	duplex_login(x, keys, len);
	assert_true(x->ready);
	duplex_cmd(x, bhs, FLAG_FINAL, 0, tur); /* takes the unit attention of a new nexus away */
	duplex_send(x, bhs, NULL, 0);
	drain(x);
}
#define OPEN(x, keys) open_one(x, keys, sizeof(keys) - 1)
#define LEVEL2 "iSCSIProtocolLevel=2\0"
#define SOLICITED "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=4096\0"
#define FAST "TaskReporting=FastAbort,ResponseFence,RFC3720\0"

static void tmf_bhs(struct duplex *x, uint8_t h[48], uint8_t fn, uint32_t ref, uint32_t ref_sn)
{
	memset(h, 0, 48);
	h[0] = ISCSI_TMF_REQ | OP_IMMEDIATE;
	h[1] = FLAG_FINAL | fn;
	put_be32(h + BHS_ITT, 0x1000);
	put_be32(h + TMF_REF_TAG, ref);
	put_be32(h + BHS_CMD_SN, x->cmd_sn);
	put_be32(h + TMF_REF_CMD_SN, ref_sn);
}

static void send_tmf(struct duplex *x, uint8_t fn, uint32_t ref, uint32_t ref_sn)
{
	uint8_t h[48];

	tmf_bhs(x, h, fn, ref, ref_sn);
	duplex_send(x, h, NULL, 0);
}

/* The response to a function that answers at once. */
static const uint8_t *ask_tmf(struct duplex *x, uint8_t fn, uint32_t ref, uint32_t ref_sn)
{
	send_tmf(x, fn, ref, ref_sn);
	const uint8_t *h = duplex_next(x, NULL, NULL);
	assert_non_null(h);
	assert_int_equal(h[0], ISCSI_TMF_RSP);
	assert_int_equal(be32(h + BHS_ITT), 0x1000);
	return h;
}

/* A write of 8 blocks that waits for the data of its R2T, whose tag is returned. */
static uint32_t write_waits(struct duplex *x, uint32_t *ret_itt)
{
	uint8_t bhs[48], cdb[16] = { 0x2a, [8] = 8 };

	duplex_cmd(x, bhs, FLAG_FINAL | CMD_WRITE, 4096, cdb);
	duplex_send(x, bhs, NULL, 0);
	const uint8_t *h = duplex_next(x, NULL, NULL);
	assert_non_null(h);
	assert_int_equal(h[0], ISCSI_R2T);
	*ret_itt = x->itt;
	return be32(h + BHS_TTT);
}

static void serve(struct duplex *x, uint32_t itt, uint32_t ttt)
{
	static const uint8_t data[4096];
	uint8_t out[48] = { ISCSI_DATA_OUT, FLAG_FINAL };

	put_be32(out + BHS_ITT, itt);
	put_be32(out + BHS_TTT, ttt);
	duplex_send(x, out, data, 4096);
}

/* Proves that the functions 9 to 12 exist at protocol level 2 only, and each of their responses (RFC 7144 6.3, 6.4.2,
 * SAM-5 7.8 to 7.11). */
static void test_rfc7144_functions(void **state)
{
	uint32_t itt, gap;

	OPEN(&d, SOLICITED);
	for (uint8_t fn = TMF_QUERY_TASK; fn <= TMF_QUERY_ASYNC; fn++)
		assert_int_equal(ask_tmf(&d, fn, ISCSI_NO_TAG, 0)[RSP_RESPONSE], TMF_RSP_NOT_SUPPORTED);
	duplex_close(&d);

	OPEN(&d, LEVEL2 SOLICITED);
	assert_int_equal(ask_tmf(&d, TMF_QUERY_TASK_SET, ISCSI_NO_TAG, 0)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	uint32_t ttt = write_waits(&d, &itt);
	assert_int_equal(ask_tmf(&d, TMF_QUERY_TASK, itt, d.cmd_sn - 1)[RSP_RESPONSE], TMF_RSP_SUCCEEDED);
	assert_int_equal(ask_tmf(&d, TMF_QUERY_TASK_SET, ISCSI_NO_TAG, 0)[RSP_RESPONSE], TMF_RSP_SUCCEEDED);
	serve(&d, itt, ttt);
	drain(&d);
	/* Over: not in the task set. */
	assert_int_equal(ask_tmf(&d, TMF_QUERY_TASK, itt, d.cmd_sn - 1)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	/* Lost on the way: the number counts as received (7143 11.6.1 b). */
	gap = d.cmd_sn++;
	assert_int_equal(ask_tmf(&d, TMF_QUERY_TASK, 0x777, gap)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	assert_int_equal(d.session->exp_cmd_sn, gap + 1);
	/* A task management function is no task (7144 6.3). */
	assert_int_equal(ask_tmf(&d, TMF_QUERY_TASK, 0x1000, d.cmd_sn)[RSP_RESPONSE], TMF_RSP_REJECTED);
	assert_int_equal(ask_tmf(&d, TMF_ABORT_TASK, 0x1000, d.cmd_sn)[RSP_RESPONSE], TMF_RSP_REJECTED);
	duplex_close(&d);
}

/* Proves that QUERY ASYNCHRONOUS EVENT tells of the first unit attention, and whether it is alone (SAM-5 7.11). */
static void test_query_async(void **state)
{
	OPEN(&d, LEVEL2);
	OPEN(&e, "");
	const uint8_t *h = ask_tmf(&d, TMF_QUERY_ASYNC, ISCSI_NO_TAG, 0);
	assert_int_equal(h[RSP_RESPONSE], TMF_RSP_COMPLETE);
	assert_int_equal(be24(h + TMF_RSP_INFO), 0);
	assert_int_equal(ask_tmf(&e, TMF_LU_RESET, ISCSI_NO_TAG, 0)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	h = ask_tmf(&d, TMF_QUERY_ASYNC, ISCSI_NO_TAG, 0);
	assert_int_equal(h[RSP_RESPONSE], TMF_RSP_SUCCEEDED);
	assert_int_equal(be24(h + TMF_RSP_INFO), 0x162903); /* one; UNIT ATTENTION, LUN reset */
	duplex_close(&d);
	duplex_close(&e);
}

/* Proves that I_T NEXUS RESET ends the tasks, is answered, and then the host is told to close the session (RFC 7144
 * 6.3). */
static void test_nexus_reset(void **state)
{
	uint32_t itt;

	OPEN(&d, LEVEL2 SOLICITED FAST);
	write_waits(&d, &itt);
	assert_int_equal(ask_tmf(&d, TMF_I_T_NEXUS_RESET, ISCSI_NO_TAG, 0)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	assert_true(d.seen & 1u << ISCSI_EV_NEXUS_RESET);
	assert_true(list_empty(&d.conn->tasks));
	duplex_close(&d);
}

static void one_level(uint8_t level, const char *keys, size_t len)
{
	uint8_t bhs[48], cdb[16] = { 0x2a, [8] = 8 }, inquiry[16] = { 0x12, [4] = 96 };
	const uint8_t *h, *p;
	uint32_t n;

	open_one(&d, keys, len);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_READ, 96, inquiry);
	duplex_send(&d, bhs, NULL, 0);
	duplex_next(&d, &p, &n);
	assert_int_equal(be16(p + 60), 0x0960 + level);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 4096, cdb);
	bhs[2] = 0x70;
	duplex_send(&d, bhs, NULL, 0);
	drain(&d);
	struct iscsi_task *t = list_first(&d.conn->tasks, struct iscsi_task, node);
	assert_int_equal(t->cmd.priority, level == 2 ? 7 : 0);
	t->r2t_n = 0;
	scsi_fail(&t->cmd, 0x0b, 0x47, 0x05);
	t->cmd.qualifier = 0x1234;
	duplex_run(&d);
	h = duplex_next(&d, NULL, NULL);
	assert_int_equal(h[0], ISCSI_SCSI_RSP);
	assert_int_equal(be16(h + RSP_QUALIFIER), level == 2 ? 0x1234 : 0);
	duplex_close(&d);
}

/* Proves that the priority of a command, the status qualifier and the version descriptor follow the protocol level that was
 * agreed (RFC 7144 4.2, 5.1.1, 5.2.1). */
static void test_protocol_level(void **state)
{
	one_level(1, SOLICITED, sizeof(SOLICITED) - 1);
	one_level(2, LEVEL2 SOLICITED, sizeof(LEVEL2 SOLICITED) - 1);
}

static const uint8_t many_tasks[] = { TMF_ABORT_TASK_SET, TMF_CLEAR_TASK_SET, TMF_LU_RESET, TMF_WARM_RESET };

/* Proves that a function on many tasks waits for the data of the R2Ts of its session, and no longer; the tasks get no
 * status (4.2.3.3 a). */
static void test_waits_for_data(void **state)
{
	uint32_t itt[2], ttt[2];

	for (unsigned i = 0; i < sizeof(many_tasks); i++) {
		OPEN(&d, SOLICITED);
		for (int k = 0; k < 2; k++)
			ttt[k] = write_waits(&d, &itt[k]);
		send_tmf(&d, many_tasks[i], ISCSI_NO_TAG, 0);
		serve(&d, itt[0], ttt[0]);
		assert_null(duplex_next(&d, NULL, NULL));
		serve(&d, itt[1], ttt[1]);
		const uint8_t *h = duplex_next(&d, NULL, NULL);
		assert_non_null(h);
		assert_int_equal(h[0], ISCSI_TMF_RSP);
		assert_null(duplex_next(&d, NULL, NULL));
		duplex_close(&d);
	}
}

/* Proves that it waits TMF_DATA_S for an initiator that sends nothing, whose tags are free then; and that late data is
 * discarded. */
static void test_waits_in_vain(void **state)
{
	uint32_t itt;

	OPEN(&d, SOLICITED);
	uint32_t ttt = write_waits(&d, &itt);
	send_tmf(&d, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0);
	assert_true(d.seen & 1u << ISCSI_EV_TICK);
	uint64_t due = d.conn->now_ns + TMF_DATA_S * NS_PER_S;
	assert_int_equal(iscsi_tick(d.conn, due - 1, false), due);
	duplex_run(&d);
	assert_null(duplex_next(&d, NULL, NULL));
	iscsi_tick(d.conn, due, false);
	duplex_run(&d);
	assert_int_equal(duplex_next(&d, NULL, NULL)[0], ISCSI_TMF_RSP);
	serve(&d, itt, ttt);
	assert_null(duplex_next(&d, NULL, NULL));
	assert_false(d.closed);
	duplex_close(&d);
}

/* Proves that FastAbort waits for no data, sends no event 5 on the issuing connection, and takes what was on its way
 * (4.2.3.4 c, d). */
static void test_fast_abort(void **state)
{
	uint32_t itt;

	for (unsigned i = 0; i < sizeof(many_tasks); i++) {
		OPEN(&d, SOLICITED FAST);
		uint32_t ttt = write_waits(&d, &itt);
		assert_int_equal(ask_tmf(&d, many_tasks[i], ISCSI_NO_TAG, 0)[RSP_RESPONSE], TMF_RSP_COMPLETE);
		serve(&d, itt, ttt);
		assert_null(duplex_next(&d, NULL, NULL));
		assert_false(d.closed);
		duplex_close(&d);
	}
}

/* Proves that a session whose tasks another one ended gets event 5 for the LUN, once, if it agreed to FastAbort, and nothing
 * if it did not; NOP-Out acknowledges (4.2.3.4 d 1, 4.2.3.5, 11.9.1). */
static void test_third_party(void **state)
{
	static const uint8_t fn[] = { TMF_CLEAR_TASK_SET, TMF_LU_RESET, TMF_WARM_RESET };
	uint8_t nop[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };
	const uint8_t *h;
	uint32_t itt, ttt[2];

	for (unsigned i = 0; i < 2 * sizeof(fn); i++) {
		bool fast = i & 1;
		OPEN(&d, "");
		if (fast)
			OPEN(&e, SOLICITED FAST);
		else
			OPEN(&e, SOLICITED);
		for (int k = 0; k < 2; k++)
			ttt[k] = write_waits(&e, &itt);
		ask_tmf(&d, fn[i / 2], ISCSI_NO_TAG, 0);
		duplex_run(&e);
		if (fast) {
			h = duplex_next(&e, NULL, NULL);
			assert_non_null(h);
			assert_int_equal(h[0], ISCSI_ASYNC);
			assert_int_equal(h[ASYNC_EVENT], 5);
			assert_int_equal(be64(h + BHS_LUN), 0);
			put_be32(nop + BHS_ITT, ISCSI_NO_TAG);
			put_be32(nop + BHS_TTT, ISCSI_NO_TAG);
			duplex_send(&e, nop, NULL, 0);
		}
		assert_null(duplex_next(&e, NULL, NULL));
		serve(&e, itt, ttt[1]);
		assert_null(duplex_next(&e, NULL, NULL));
		assert_false(e.closed);
		duplex_close(&d);
		duplex_close(&e);
	}
}

/* Proves that a function waits for the commands before it that have not come (4.2.3.3 b), which it then ends; one on the whole
 * target takes them as received. */
static void test_waits_for_commands(void **state)
{
	uint8_t bhs[48], cdb[16] = { 0x2a, [8] = 8 };

	OPEN(&d, SOLICITED FAST);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 4096, cdb);
	send_tmf(&d, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0);
	assert_null(duplex_next(&d, NULL, NULL));
	duplex_send(&d, bhs, NULL, 0);
	const uint8_t *h = duplex_next(&d, NULL, NULL);
	assert_non_null(h);
	if (h[0] == ISCSI_R2T)
		h = duplex_next(&d, NULL, NULL);
	assert_int_equal(h[0], ISCSI_TMF_RSP);
	assert_true(list_empty(&d.conn->tasks));
	d.cmd_sn += 2; /* two are lost */
	ask_tmf(&d, TMF_WARM_RESET, ISCSI_NO_TAG, 0);
	assert_int_equal(d.session->exp_cmd_sn, d.cmd_sn);
	duplex_close(&d);
}

/* Proves that a command which came behind a function is not ended by it, though the function waited meanwhile (11.5.1); an immediate
 * command that was here first is. */
static void test_commands_behind(void **state)
{
	uint8_t bhs[48], cdb[16] = { 0x2a, [8] = 8 };
	uint32_t before, behind;

	OPEN(&d, SOLICITED);
	uint32_t ttt = write_waits(&d, &before);
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_WRITE, 4096, cdb);
	bhs[0] |= OP_IMMEDIATE;
	d.cmd_sn--;
	duplex_send(&d, bhs, NULL, 0);
	uint32_t immediate = d.itt, ttt2 = be32(want(&d, ISCSI_R2T) + BHS_TTT);
	send_tmf(&d, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0);
	uint32_t ttt3 = write_waits(&d, &behind);
	serve(&d, before, ttt);
	serve(&d, immediate, ttt2);
	assert_int_equal(want(&d, ISCSI_TMF_RSP)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	assert_null(duplex_next(&d, NULL, NULL));
	serve(&d, behind, ttt3);
	assert_int_equal(want(&d, ISCSI_SCSI_RSP)[RSP_STATUS], 0);
	duplex_close(&d);
}

/* Proves the header of every asynchronous message (11.9), that each takes a StatSN, and that none is sent before full
 * feature phase. */
static void test_async_messages(void **state)
{
	static const uint8_t lun[8] = { 0x40, 0x07 }, sense[] = { 0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x3f, 0x0e };
	const uint8_t *h[5], *p = NULL;
	uint32_t n;

	duplex_open(&d);
	iscsi_conn_ask_logout(d.conn, 1);
	iscsi_conn_scsi_event(d.conn, lun, sense, sizeof(sense));
	assert_false(iscsi_tx_pending(d.conn));
	duplex_close(&d);
	OPEN(&d, "");
	iscsi_conn_scsi_event(d.conn, lun, sense, sizeof(sense));
	iscsi_conn_ask_logout(d.conn, 0x0102);
	iscsi_conn_tell_drop(d.conn, 3, 4, 5);
	iscsi_conn_tell_session_drop(d.conn, 6, 7);
	iscsi_conn_ask_text(d.conn, 8);
	duplex_run(&d);
	for (uint8_t i = 0; i < 5; i++) {
		h[i] = duplex_next(&d, i ? NULL : &p, i ? NULL : &n);
		assert_non_null(h[i]);
		assert_int_equal(h[i][0], ISCSI_ASYNC);
		assert_int_equal(h[i][ASYNC_EVENT], i);
		assert_int_equal(be32(h[i] + BHS_ITT), ISCSI_NO_TAG);
		assert_int_equal(be32(h[i] + BHS_STAT_SN), be32(h[0] + BHS_STAT_SN) + i);
	}
	assert_int_equal(n, 2 + sizeof(sense));
	assert_int_equal(be16(p), sizeof(sense));
	assert_memory_equal(p + 2, sense, sizeof(sense));
	assert_memory_equal(h[0] + BHS_LUN, lun, 8);
	assert_int_equal(be16(h[1] + ASYNC_P3), 0x0102);
	assert_int_equal(be64(h[2] + ASYNC_P1), 0x0003000400050000);
	assert_int_equal(be64(h[3] + ASYNC_P1), 0x0000000600070000);
	assert_int_equal(be16(h[4] + ASYNC_P3), 8);
	duplex_close(&d);
}

/* A text request; flags 0: the exchange goes on. */
static void send_text(struct duplex *x, uint8_t flags, uint32_t itt, uint32_t ttt, const char *text, uint32_t len)
{
	uint8_t h[48] = { ISCSI_TEXT_REQ, flags };

	put_be32(h + BHS_ITT, itt);
	put_be32(h + BHS_TTT, ttt);
	put_be32(h + BHS_CMD_SN, x->cmd_sn++);
	duplex_send(x, h, text, len);
}
#define TEXT(x, flags, itt, ttt, text) send_text(x, flags, itt, ttt, text, sizeof(text) - 1)

/* The text is rejected for that reason, and its CmdSN counts as not received (7.3). */
static void want_reject(struct duplex *x, uint8_t reason)
{
	assert_int_equal(want(x, ISCSI_REJECT)[REJECT_REASON], reason);
	x->cmd_sn--;
	assert_int_equal(x->session->exp_cmd_sn, x->cmd_sn);
}

/* Proves that what an exchange of texts agrees on holds when the exchange is over and not before, that a key is taken once
 * in an exchange, and that the reserved transfer tag or a Reject forgets what was begun (6.4, 11.10.4). */
static void test_text_exchange(void **state)
{
	const uint32_t *now;

	OPEN(&d, "");
	now = &d.conn->params.max_xmit_segment;
	TEXT(&d, 0, 9, ISCSI_NO_TAG, "MaxRecvDataSegmentLength=4096\0");
	uint32_t ttt = be32(want(&d, ISCSI_TEXT_RSP) + BHS_TTT);
	assert_int_not_equal(ttt, ISCSI_NO_TAG);
	assert_int_equal(*now, 8192);
	TEXT(&d, FLAG_FINAL, 9, ttt, "");
	assert_int_equal(want(&d, ISCSI_TEXT_RSP)[1], FLAG_FINAL);
	assert_int_equal(*now, 4096);

	TEXT(&d, 0, 10, ISCSI_NO_TAG, "MaxRecvDataSegmentLength=2048\0");
	ttt = be32(want(&d, ISCSI_TEXT_RSP) + BHS_TTT);
	TEXT(&d, FLAG_FINAL, 10, ttt, "MaxRecvDataSegmentLength=1024\0");
	want_reject(&d, REJECT_PROTOCOL);
	TEXT(&d, FLAG_FINAL, 10, ttt, "");
	want_reject(&d, REJECT_INVALID_PDU); /* nothing is under way any more */
	assert_int_equal(*now, 4096);

	TEXT(&d, 0, 11, ISCSI_NO_TAG, "MaxRecvDataSegmentLength=2048\0");
	want(&d, ISCSI_TEXT_RSP);
	TEXT(&d, FLAG_FINAL, 11, ISCSI_NO_TAG, "InitiatorAlias=me\0");
	want(&d, ISCSI_TEXT_RSP);
	assert_int_equal(*now, 4096);
	assert_string_equal(d.conn->params.initiator_alias, "me");
	duplex_close(&d);
}

/* Proves that our own limit is told in the next exchange, which event 4 asks for, and that PDUs of the old size are still taken
 * (11.9.1, 13.12). */
static void test_declare(void **state)
{
	const uint8_t *p;
	uint32_t n;

	OPEN(&d, "");
	iscsi_conn_declare(d.conn, 65536, 3);
	duplex_run(&d);
	assert_int_equal(want(&d, ISCSI_ASYNC)[ASYNC_EVENT], 4);
	TEXT(&d, FLAG_FINAL, 9, ISCSI_NO_TAG, "");
	const uint8_t *h = duplex_next(&d, &p, &n);
	assert_int_equal(h[1], FLAG_FINAL);
	assert_int_equal(n, sizeof("MaxRecvDataSegmentLength=65536"));
	assert_memory_equal(p, "MaxRecvDataSegmentLength=65536", n);
	assert_int_equal(d.conn->params.max_recv_segment, LIM_RECV_SEGMENT);
	TEXT(&d, FLAG_FINAL, 10, ISCSI_NO_TAG, "");
	duplex_next(&d, &p, &n);
	assert_int_equal(n, 0); /* once */
	duplex_close(&d);
}

/* Proves the reason of each Reject of a request that is no SCSI data (11.17.1), and that its CmdSN is not used up (7.3). */
static void test_reject_reasons(void **state)
{
	static const struct { uint8_t opcode, flags; uint32_t itt, ttt; const char *data; uint32_t len; uint8_t reason; } rows[] = {
		{ ISCSI_TEXT_REQ, FLAG_FINAL | FLAG_CONTINUE, 9, ISCSI_NO_TAG, NULL, 0, REJECT_PROTOCOL },
		{ ISCSI_TEXT_REQ, FLAG_FINAL, 9, 0x1234, NULL, 0, REJECT_INVALID_PDU },
		{ ISCSI_TEXT_REQ, FLAG_FINAL, 9, ISCSI_NO_TAG, "HeaderDigest=None", 18, REJECT_PROTOCOL },
		{ ISCSI_TEXT_REQ, FLAG_FINAL, 9, ISCSI_NO_TAG, "MaxRecvDataSegmentLength=1", 27, REJECT_PROTOCOL },
		{ ISCSI_NOP_OUT, FLAG_FINAL, ISCSI_NO_TAG, ISCSI_NO_TAG, NULL, 0, REJECT_PROTOCOL },
		{ ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL, ISCSI_NO_TAG, 0x12345, NULL, 0, REJECT_INVALID_PDU },
		{ ISCSI_TMF_REQ, FLAG_FINAL | TMF_ABORT_TASK_SET, 9, ISCSI_NO_TAG, "data", 4, REJECT_INVALID_PDU },
		{ ISCSI_LOGOUT_REQ, FLAG_FINAL | 3, 9, 0, NULL, 0, REJECT_INVALID_PDU },
		{ ISCSI_SNACK, FLAG_FINAL, 9, 0, NULL, 0, REJECT_SNACK },
		{ 0x1c, FLAG_FINAL, 9, 0, NULL, 0, REJECT_NOT_SUPPORTED },
		{ ISCSI_LOGIN_REQ | OP_IMMEDIATE, FLAG_FINAL, 9, 0, NULL, 0, REJECT_PROTOCOL },
	};
	const uint8_t *h, *p;
	uint32_t n;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t bhs[48] = { rows[i].opcode, rows[i].flags };
		OPEN(&d, "");
		put_be32(bhs + BHS_ITT, rows[i].itt);
		put_be32(bhs + BHS_TTT, rows[i].ttt);
		put_be32(bhs + BHS_CMD_SN, d.cmd_sn);
		duplex_send(&d, bhs, rows[i].data, rows[i].len);
		put_be24(bhs + BHS_DATA_LEN, rows[i].len);
		h = duplex_next(&d, &p, &n);
		assert_non_null(h);
		if (h[0] != ISCSI_REJECT || h[REJECT_REASON] != rows[i].reason)
			fail_msg("row %zu: opcode %02x reason %02x", i, h[0], h[REJECT_REASON]);
		assert_int_equal(n, 48);
		assert_memory_equal(p, bhs, 48);
		assert_int_equal(d.session->exp_cmd_sn, d.cmd_sn);
		duplex_close(&d);
	}
}

/* Proves that data for a tag that is not outstanding, or beyond what was asked for, is an invalid field (11.17.1, note 2), and ends a
 * connection at level 0. */
static void test_reject_data(void **state)
{
	static const struct { uint32_t ttt_off, offset, len; } rows[] = { { 1, 0, 512 }, { 0, 4096, 512 }, { 0, 0, 8192 } };
	static const uint8_t data[8192];
	uint32_t itt;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t out[48] = { ISCSI_DATA_OUT, FLAG_FINAL };
		OPEN(&d, SOLICITED);
		uint32_t ttt = write_waits(&d, &itt);
		put_be32(out + BHS_ITT, itt);
		put_be32(out + BHS_TTT, ttt + rows[i].ttt_off);
		put_be32(out + DATA_OFFSET, rows[i].offset);
		duplex_send(&d, out, data, rows[i].len);
		assert_int_equal(want(&d, ISCSI_REJECT)[REJECT_REASON], REJECT_INVALID_PDU);
		assert_true(d.closed);
		duplex_close(&d);
	}
}

/* Proves the Rejects that say "later" or "no room": a second text (0x07), a text that never ends (0x0a), immediate requests
 * beyond the bound (0x06). */
static void test_reject_resources(void **state)
{
	static char half[32768];
	uint8_t bhs[48];
	uint32_t itt, rejects = 0;

	memset(half, 'x', sizeof(half));
	OPEN(&d, SOLICITED);
	d.conn->text_wait = true; /* the host has not answered */
	TEXT(&d, FLAG_FINAL, 9, ISCSI_NO_TAG, "");
	want_reject(&d, REJECT_IN_PROGRESS);
	d.conn->text_wait = false;
	uint32_t ttt = ISCSI_NO_TAG;
	for (int i = 0; i < 2; i++) {
		send_text(&d, FLAG_CONTINUE, 9, ttt, half, sizeof(half));
		ttt = be32(want(&d, ISCSI_TEXT_RSP) + BHS_TTT);
	}
	send_text(&d, FLAG_CONTINUE, 9, ttt, half, sizeof(half));
	want_reject(&d, REJECT_LONG_OP);
	write_waits(&d, &itt);
	for (uint32_t i = 0; i < TMF_MAX + 3; i++) { /* all but three wait for the data of that write */
		tmf_bhs(&d, bhs, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0);
		put_be32(bhs + BHS_ITT, 0x1000 + i);
		duplex_send(&d, bhs, NULL, 0);
	}
	for (const uint8_t *h; (h = duplex_next(&d, NULL, NULL)); rejects++) {
		assert_int_equal(h[0], ISCSI_REJECT);
		assert_int_equal(h[REJECT_REASON], REJECT_IMMEDIATE);
	}
	assert_int_equal(rejects, 3);
	duplex_close(&d);
}

/* Proves that a connection that shall log out ends what was begun, with its data, rejects new commands (0x0c), and takes the
 * logout across the gap that these leave; and that one that does not log out hears of its end (11.9.1). */
static void test_waiting_for_logout(void **state)
{
	uint8_t bhs[48], tur[16] = { 0 }, out[48] = { ISCSI_LOGOUT_REQ, FLAG_FINAL };
	uint32_t itt;

	OPEN(&d, SOLICITED);
	uint32_t ttt = write_waits(&d, &itt);
	iscsi_conn_ask_logout(d.conn, 1);
	iscsi_conn_quiesce(d.conn);
	duplex_run(&d);
	assert_int_equal(want(&d, ISCSI_ASYNC)[ASYNC_EVENT], 1);
	assert_false(iscsi_conn_idle(d.conn));
	duplex_cmd(&d, bhs, FLAG_FINAL, 0, tur);
	duplex_send(&d, bhs, NULL, 0);
	assert_int_equal(want(&d, ISCSI_REJECT)[REJECT_REASON], REJECT_LOGOUT);
	serve(&d, itt, ttt);
	assert_int_equal(want(&d, ISCSI_SCSI_RSP)[RSP_STATUS], 0);
	assert_true(iscsi_conn_idle(d.conn));
	put_be32(out + BHS_ITT, 77);
	put_be32(out + BHS_CMD_SN, d.cmd_sn);
	duplex_send(&d, out, NULL, 0);
	assert_int_equal(want(&d, ISCSI_LOGOUT_RSP)[LOGOUT_RESPONSE], 0);
	assert_true(d.logged_out);
	duplex_close(&d);

	OPEN(&d, "");
	iscsi_conn_drop(d.conn, false, 2, 0, "because");
	duplex_run(&d);
	assert_int_equal(want(&d, ISCSI_ASYNC)[ASYNC_EVENT], 2);
	assert_true(d.closed);
	assert_string_equal(d.why, "because");
	duplex_close(&d);
}

/* e becomes the second connection of d's session. */
static void join(void)
{
	e.join = d.session;
	duplex_open(&e);
	duplex_login(&e, "", 0);
	e.join = NULL;
	e.itt = 1000;
	assert_true(e.ready);
	drain(&e);
	assert_int_equal(d.session->nconns, 2);
}

/* Answers a NOP-In of the target with ExpStatSN `sn`. */
static void acknowledge(struct duplex *x, uint32_t sn)
{
	const uint8_t *h = want(x, ISCSI_NOP_IN);
	uint8_t nop[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };

	put_be32(nop + BHS_ITT, ISCSI_NO_TAG);
	memcpy(nop + BHS_TTT, h + BHS_TTT, 4);
	put_be32(nop + BHS_CMD_SN, d.cmd_sn);
	put_be32(nop + BHS_EXP_STAT_SN, sn);
	duplex_send(x, nop, NULL, 0);
	duplex_run(&d);
	if (e.conn)
		duplex_run(&e);
}

/* Proves that over two connections the response of a function on many tasks waits for the acknowledgement of every earlier
 * status, and later responses for that of its own (4.2.2.3.3); that a connection which ends counts as having acknowledged; and
 * that without the key nothing waits. */
static void test_fence(void **state)
{
	uint8_t bhs[48], tur[16] = { 0 };

	for (int ends = 0; ends < 2; ends++) {
		OPEN(&d, "TaskReporting=ResponseFence,RFC3720\0");
		join();
		send_tmf(&d, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0);
		duplex_run(&e);
		acknowledge(&d, d.conn->stat_sn);
		assert_null(duplex_next(&d, NULL, NULL));
		if (ends) {
			duplex_close(&e);
			duplex_run(&d);
		} else {
			acknowledge(&e, e.conn->stat_sn - 1); /* not all of it */
			assert_null(duplex_next(&d, NULL, NULL));
			duplex_cmd(&e, bhs, FLAG_FINAL, 0, tur);
			put_be32(bhs + BHS_CMD_SN, d.cmd_sn++);
			put_be32(bhs + BHS_EXP_STAT_SN, e.conn->stat_sn);
			duplex_send(&e, bhs, NULL, 0);
			assert_null(duplex_next(&e, NULL, NULL)); /* its response is behind the fence */
			duplex_run(&d);
		}
		assert_int_equal(want(&d, ISCSI_TMF_RSP)[RSP_RESPONSE], TMF_RSP_COMPLETE);
		acknowledge(&d, d.conn->stat_sn);
		assert_int_equal(d.session->fence, FENCE_OPEN);
		if (!ends) {
			want(&e, ISCSI_SCSI_RSP);
			duplex_close(&e);
		}
		duplex_close(&d);
	}
	OPEN(&d, "");
	join();
	ask_tmf(&d, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0);
	duplex_close(&e);
	duplex_close(&d);
}

/* Proves that the other connections of the issuing session get event 5 once for each LUN with tasks that end (4.2.3.4 d 2). */
static void test_event5_own_session(void **state)
{
	uint32_t itt;

	OPEN(&d, SOLICITED FAST);
	join();
	for (int i = 0; i < 2; i++) {
		e.cmd_sn = d.cmd_sn++;
		write_waits(&e, &itt);
	}
	send_tmf(&d, TMF_LU_RESET, ISCSI_NO_TAG, 0);
	duplex_run(&e);
	assert_int_equal(want(&e, ISCSI_ASYNC)[ASYNC_EVENT], 5);
	acknowledge(&e, e.conn->stat_sn);
	assert_null(duplex_next(&e, NULL, NULL));
	acknowledge(&d, d.conn->stat_sn);
	assert_int_equal(want(&d, ISCSI_TMF_RSP)[RSP_RESPONSE], TMF_RSP_COMPLETE);
	duplex_close(&e);
	duplex_close(&d);
}

/* Proves that tasks which a function was about to end go on when its connection ends before it acted. */
static void test_function_lost(void **state)
{
	uint8_t h[48];
	uint32_t itt[2];

	OPEN(&d, SOLICITED);
	join();
	uint32_t ttt = write_waits(&d, &itt[0]);
	e.cmd_sn = d.cmd_sn++;
	write_waits(&e, &itt[1]); /* it waits for the data of both */
	tmf_bhs(&d, h, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0);
	duplex_send(&e, h, NULL, 0);
	assert_int_equal(d.session->ntmf_waits, 1);
	duplex_close(&e);
	assert_int_equal(d.session->ntmf_waits, 0);
	duplex_run(&d);
	drain(&d); /* event 2 for the other connection */
	serve(&d, itt[0], ttt);
	assert_int_equal(want(&d, ISCSI_SCSI_RSP)[RSP_STATUS], 0);
	duplex_close(&d);
}

static int setup(void **state)
{
	duplex_init(&d);
	e = d;
	e.out = malloc(DUPLEX_MAX);
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
		cmocka_unit_test(test_rfc7144_functions), cmocka_unit_test(test_query_async), cmocka_unit_test(test_nexus_reset),
		cmocka_unit_test(test_protocol_level), cmocka_unit_test(test_waits_for_data),
		cmocka_unit_test(test_waits_in_vain), cmocka_unit_test(test_fast_abort), cmocka_unit_test(test_third_party),
		cmocka_unit_test(test_waits_for_commands), cmocka_unit_test(test_async_messages),
		cmocka_unit_test(test_commands_behind),
		cmocka_unit_test(test_text_exchange), cmocka_unit_test(test_declare), cmocka_unit_test(test_reject_reasons),
		cmocka_unit_test(test_reject_data),
		cmocka_unit_test(test_reject_resources), cmocka_unit_test(test_waiting_for_logout),
		cmocka_unit_test(test_fence), cmocka_unit_test(test_event5_own_session),
		cmocka_unit_test(test_function_lost),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
