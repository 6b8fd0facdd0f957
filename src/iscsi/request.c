/* SPDX-License-Identifier: BSD-3-Clause
 * Requests that are no SCSI data: one row per opcode, CmdSN order over all of them. Task management and text have
 * files of their own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "iscsi/impl.h"

/* 7.3: a command that is rejected counts as not received: the initiator fills the gap. */
void request_reject(struct req *r, uint8_t reason)
{
	struct iscsi_session *s = r->c->session;
	uint32_t sn = be32(r->h + BHS_CMD_SN);

	if (!(r->h[BHS_OPCODE] & OP_IMMEDIATE) && s->exp_cmd_sn == sn + 1)
		s->exp_cmd_sn = sn;
	tx_reject(r->c, reason, r->h);
}

/* --- NOP-Out, 11.18 --- */

/* The answer to our ping, and hearing it was all; or nothing but an ExpStatSN. */
static void nop_answer(struct req *r)
{
	uint32_t ttt = be32(r->h + BHS_TTT);

	if (!(r->h[BHS_OPCODE] & OP_IMMEDIATE))
		request_reject(r, REJECT_PROTOCOL); /* 11.18.1 */
	else if (ttt != ISCSI_NO_TAG && !sn_le(ttt, r->c->ping_ttt))
		request_reject(r, REJECT_INVALID_PDU); /* never given */
}

static void nop_out(struct req *r)
{
	struct iscsi_conn *c = r->c;

	if (be32(r->h + BHS_ITT) == ISCSI_NO_TAG) {
		nop_answer(r);
		return;
	}
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_NOP_IN, CTL_STAT_SN);
	if (!k)
		return;
	memcpy(k->bhs + BHS_LUN, r->h + BHS_LUN, 8);
	memcpy(k->bhs + BHS_ITT, r->h + BHS_ITT, 4);
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
	if (!r->len)
		return;
	uint32_t n = MIN(r->len, c->params.max_xmit_segment);
	uint8_t *less = n < r->len ? realloc(r->data, n) : NULL;
	tx_ctl_data(c, k, less ? less : r->data, n);
	r->data = NULL;
}

/* --- logout, 11.14 --- */

enum logout_reason { CLOSE_SESSION, CLOSE_CONNECTION, FOR_RECOVERY };
enum logout_response { LOGOUT_OK, LOGOUT_NO_CID, LOGOUT_NO_RECOVERY };

static enum logout_response logout(struct iscsi_conn *c, enum logout_reason reason, const uint8_t *h)
{
	struct iscsi_session *s = c->session;
	uint16_t cid = be16(h + LOGOUT_CID);
	struct iscsi_conn *o = session_conn(s, cid);
	uint32_t exp_stat_sn = be32(h + BHS_EXP_STAT_SN);

	if (reason == CLOSE_SESSION) {
		s->logged_out = true;
		iscsi_session_close(s);
		return LOGOUT_OK;
	}
	if (reason == FOR_RECOVERY && s->params.erl < 2)
		return LOGOUT_NO_RECOVERY;
	if (o && o != c && o->logged_out && !o->for_recovery)
		return LOGOUT_NO_CID; /* it is gone for the initiator, though its socket may still be closing */
	if (!o)
		return lost_logout(s, cid, reason == FOR_RECOVERY, exp_stat_sn) ? LOGOUT_OK : LOGOUT_NO_CID;
	o->logged_out = true;
	o->for_recovery = reason == FOR_RECOVERY;
	if (o != c) {
		if (o->recover)
			keep_ack_to(o, exp_stat_sn);
		session_drop_held(s, o); /* the answer's ExpCmdSN holds: none of them is counted after it */
		conn_close(o, "logged out on another connection");
		o->host.wake(o->user);
	}
	return LOGOUT_OK;
}

static void logout_request(struct req *r)
{
	struct iscsi_conn *c = r->c;
	uint8_t reason = r->h[BHS_FLAGS] & 0x7f;
	uint16_t cid = be16(r->h + LOGOUT_CID);
	struct iscsi_ctl *k;

	if (reason > FOR_RECOVERY || (reason == FOR_RECOVERY && c->session->params.discovery)) {
		request_reject(r, REJECT_INVALID_PDU);
		return;
	}
	k = tx_ctl_last(c, ISCSI_LOGOUT_RSP, CTL_STAT_SN);
	if (!k)
		return;
	enum logout_response rsp = logout(c, reason, r->h);
	memcpy(k->bhs + BHS_ITT, r->h + BHS_ITT, 4);
	put_be16(k->bhs + LOGOUT_TIME2WAIT, (uint16_t)c->session->params.time2wait);
	put_be16(k->bhs + LOGOUT_TIME2RETAIN, (uint16_t)c->session->params.time2retain);
	k->bhs[LOGOUT_RESPONSE] = (uint8_t)rsp;
	if (rsp == LOGOUT_OK && (reason == CLOSE_SESSION || cid == c->cid))
		k->after = AFTER_LOGOUT;
}

/* --- what there is, and its order --- */

static void login_again(struct req *r)
{
	tx_reject(r->c, REJECT_PROTOCOL, r->h);
}

static const struct req_row {
	void (*run)(struct req *r);
	uint32_t data_max;  /* of its data segment; more is a violation */
	bool     ordered;   /* has a CmdSN */
} rows[64] = {
	[ISCSI_NOP_OUT] = { nop_out, LIM_RECV_SEGMENT, true },
	[ISCSI_TMF_REQ] = { tmf_request, 0, true },
	[ISCSI_LOGIN_REQ] = { login_again, LIM_LOGIN_TEXT, false },
	[ISCSI_TEXT_REQ] = { text_request, LIM_LOGIN_TEXT, true },
	[ISCSI_LOGOUT_REQ] = { logout_request, 0, true },
	[ISCSI_SNACK] = { snack_request, 0, false },
};

static void begin_buffer(struct iscsi_conn *c, uint32_t max)
{
	if (!c->rx_len)
		return;
	if (c->rx_len > max) {
		conn_violation(c, "data segment longer than its request may have");
		return;
	}
	c->rx_buf = malloc(c->rx_len);
	if (!c->rx_buf) {
		conn_close(c, "out of memory");
		return;
	}
	c->rx_where = RX_BUF;
	c->rx_keep = c->rx_len;
}

void request_begin(struct iscsi_conn *c, const uint8_t *ahs, uint32_t ahs_len)
{
	uint8_t op = c->bhs[BHS_OPCODE] & OP_MASK;

	if (c->recover)
		keep_ack(c);
	if (c->state == CONN_LOGIN) {
		begin_buffer(c, LIM_LOGIN_TEXT);
	} else if (op == ISCSI_SCSI_CMD) {
		data_cmd_begin(c, ahs, ahs_len);
	} else if (op == ISCSI_DATA_OUT) {
		data_out_begin(c);
	} else if (rows[op].run && rows[op].data_max) {
		begin_buffer(c, rows[op].data_max);
	}
}

static void hold_request(struct iscsi_conn *c)
{
	struct held *h = calloc(1, sizeof(*h));

	if (!h) {
		conn_close(c, "out of memory");
		return;
	}
	h->cmd_sn = be32(c->bhs + BHS_CMD_SN);
	h->conn = c;
	memcpy(h->bhs, c->bhs, ISCSI_BHS);
	h->data = c->rx_buf;
	h->len = c->rx_buf ? c->rx_len : 0;
	c->rx_buf = NULL;
	int r = session_hold(c->session, h);
	if (r == -ENOBUFS)
		conn_close(c, "too much data in requests ahead of their turn");
	if (r < 0) {
		free(h->data);
		free(h);
	}
}

static void run(struct iscsi_conn *c, const uint8_t *h, uint8_t **data, uint32_t len)
{
	struct req r = { .c = c, .h = h, .data = *data, .len = len };

	rows[h[BHS_OPCODE] & OP_MASK].run(&r);
	*data = r.data;
}

/* Commands that were rejected ("waiting for logout") leave a gap before the logout, which comes all the same. */
static bool late_logout(const struct iscsi_conn *c, uint8_t op)
{
	return op == ISCSI_LOGOUT_REQ && c->no_commands && !c->params.discovery;
}

void request_end(struct iscsi_conn *c, bool digest_ok)
{
	uint8_t op = c->bhs[BHS_OPCODE] & OP_MASK;
	const struct req_row *row = &rows[op];

	if (c->state == CONN_CLOSED || c->deaf)
		return;
	if (c->state == CONN_LOGIN) {
		conn_login_rx(c, c->rx_buf, c->rx_buf ? c->rx_len : 0);
		return;
	}
	if (op == ISCSI_SCSI_CMD) {
		data_cmd_end(c, digest_ok);
		return;
	}
	if (op == ISCSI_DATA_OUT) {
		data_out_end(c, digest_ok);
		return;
	}
	if (!digest_ok) {
		tx_reject(c, REJECT_DATA_DIGEST, c->bhs);
		return;
	}
	if (!row->run || (c->rx_len && !row->data_max)) {
		tx_reject(c, row->run ? REJECT_INVALID_PDU : REJECT_NOT_SUPPORTED, c->bhs);
		return;
	}
	if (row->ordered) {
		bool imm = c->bhs[BHS_OPCODE] & OP_IMMEDIATE || late_logout(c, op);
		enum sn_verdict v = session_sn(c->session, imm, be32(c->bhs + BHS_CMD_SN));
		if (v == SN_DROP)
			return;
		if (v == SN_HOLD) {
			hold_request(c);
			return;
		}
	}
	run(c, c->bhs, &c->rx_buf, c->rx_buf ? c->rx_len : 0);
}

static void run_one_held(struct held *h)
{
	struct iscsi_task *t = h->task;
	struct iscsi_conn *c = h->conn;

	if (!c) {
		free(h);
		return;
	}
	if (!t) {
		run(c, h->bhs, &h->data, h->len);
	} else if (t->dead) {
		task_put(t);
	} else {
		data_task_start(t);
		data_task_continue(t);
	}
	if (!t) {
		free(h->data);
		free(h);
	}
	c->host.wake(c->user); /* it may be another connection than the one that closed the gap */
}

static bool still_arrives(const struct held *h)
{
	return h->task && h->conn->rx_task == h->task;
}

/* The gap may have closed: all whose turn has come, in order; then functions that waited for them. */
void request_run_held(struct iscsi_session *s)
{
	while (!list_empty(&s->held)) {
		struct held *h = list_first(&s->held, struct held, node);
		bool passed = sn_lt(h->cmd_sn, s->exp_cmd_sn); /* of request_plug() */
		if (still_arrives(h) || (!passed && session_sn(s, false, h->cmd_sn) != SN_NOW))
			break;
		session_unhold(s, h);
		run_one_held(h);
	}
	if (!list_empty(&s->tmf_waits))
		tmf_retry(s);
}

/* The first request before cmd_sn that is here. A command before it whose data still arrives is not waited for: it is
 * aborted, and goes when its PDU has ended. */
static struct held *next_before(struct iscsi_session *s, uint32_t cmd_sn)
{
	struct held *h;

	list_for_each(h, &s->held, node) {
		if (!sn_lt(h->cmd_sn, cmd_sn))
			break;
		if (!still_arrives(h))
			return h;
		h->task->dead = true;
		session_unhash(s, h->task);
	}
	return NULL;
}

/* 4.2.3.3 b: what has a lower CmdSN and did not come counts as received; what came is done now. */
void request_plug(struct iscsi_session *s, uint32_t cmd_sn)
{
	struct held *h;

	if (!session_in_window(s, cmd_sn - 1))
		return;
	while ((h = next_before(s, cmd_sn))) {
		s->exp_cmd_sn = h->cmd_sn + 1;
		session_unhold(s, h);
		run_one_held(h);
	}
	if (sn_lt(s->exp_cmd_sn, cmd_sn))
		s->exp_cmd_sn = cmd_sn;
}
