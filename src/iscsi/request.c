/* SPDX-License-Identifier: BSD-3-Clause
 * Requests that are no SCSI data: one row per opcode, CmdSN order over all of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "iscsi/impl.h"

struct req {
	struct iscsi_conn *c;
	const uint8_t     *h;
	uint8_t           *data; /* a handler that keeps it sets this to NULL */
	uint32_t           len;
};

/* --- NOP-Out, 11.18 --- */

static void nop_out(struct req *r)
{
	struct iscsi_conn *c = r->c;

	if (be32(r->h + BHS_ITT) == ISCSI_NO_TAG)
		return; /* the answer to our ping, and hearing it was all */
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

/* --- task management, 11.5 and RFC 7144 --- */

struct tmf {
	struct scsi_tmf    scsi;
	struct iscsi_pool *pool;
	struct list        node;   /* in conn->tmfs */
	struct iscsi_conn *c;      /* NULL: gone */
	uint32_t           itt;
	bool               cold;
};

static void tmf_answer(struct iscsi_conn *c, uint32_t itt, uint8_t response)
{
	struct iscsi_ctl *k = tx_ctl_last(c, ISCSI_TMF_RSP, CTL_STAT_SN);

	if (!k)
		return;
	k->bhs[RSP_RESPONSE] = response;
	put_be32(k->bhs + BHS_ITT, itt);
}

static void tmf_done(struct scsi_tmf *st)
{
	static const uint8_t map[] = { [SCSI_TMF_COMPLETE] = TMF_RSP_COMPLETE, [SCSI_TMF_SUCCEEDED] = TMF_RSP_SUCCEEDED,
		[SCSI_TMF_REJECTED] = TMF_RSP_REJECTED, [SCSI_TMF_NO_LUN] = TMF_RSP_NO_LUN,
		[SCSI_TMF_NO_TASK] = TMF_RSP_NO_TASK };
	struct tmf *t = container_of(st, struct tmf, scsi);
	struct iscsi_conn *c = t->c;

	if (c) {
		c->ntmf--;
		tmf_answer(c, t->itt, map[st->result]);
		if (t->cold)
			conn_event(c, ISCSI_EV_COLD_RESET);
		c->host.wake(c->user);
	}
	list_del(&t->node);
	free(t);
}

void request_detach_tmfs(struct iscsi_conn *c)
{
	while (!list_empty(&c->tmfs)) {
		struct tmf *t = list_first(&c->tmfs, struct tmf, node);
		t->c = NULL;
		list_del(&t->node);
	}
}

/* function -> what SCSI is asked, and the protocol level (RFC 7144 2) that must have been agreed. */
static const struct tmf_row { uint8_t known, level; enum scsi_tmf_kind kind; } tmf_rows[] = {
	[TMF_ABORT_TASK] = { 1, 0, SCSI_ABORT_TASK },
	[TMF_ABORT_TASK_SET] = { 1, 0, SCSI_ABORT_TASK_SET },
	[TMF_CLEAR_ACA] = { 1, 0, SCSI_CLEAR_ACA },
	[TMF_CLEAR_TASK_SET] = { 1, 0, SCSI_CLEAR_TASK_SET },
	[TMF_LU_RESET] = { 1, 0, SCSI_LU_RESET },
	[TMF_WARM_RESET] = { 1, 0, SCSI_TARGET_RESET },
	[TMF_COLD_RESET] = { 1, 0, SCSI_TARGET_RESET },
	[TMF_QUERY_TASK] = { 1, 2, SCSI_QUERY_TASK },
	[TMF_QUERY_TASK_SET] = { 1, 2, SCSI_QUERY_TASK_SET },
	[TMF_I_T_NEXUS_RESET] = { 1, 2, SCSI_I_T_NEXUS_RESET },
	[TMF_QUERY_ASYNC] = { 1, 2, SCSI_QUERY_ASYNC_EVENT },
};

/* A command that still waits for its turn in CmdSN order never reached SCSI; it keeps its place in that order. Data
 * that is still on its way finds it no more. */
static bool abort_held(struct iscsi_conn *c, uint32_t itt)
{
	struct iscsi_task *t = session_find(c->session, itt);

	if (!t || t->state != TASK_HELD)
		return false;
	t->dead = true;
	session_unhash(c->session, t);
	return true;
}

/* 11.6.1 b: the command to be aborted did not arrive, but its CmdSN, which the initiator has used up, is due: it counts
 * as received. A place in the order is kept for it by a request that does nothing. */
static bool abort_missing(struct iscsi_conn *c, const uint8_t *h)
{
	struct iscsi_session *s = c->session;
	uint32_t sn = be32(h + TMF_REF_CMD_SN);

	if (session_find(s, be32(h + TMF_REF_TAG)) || !sn_lt(sn, be32(h + BHS_CMD_SN)))
		return false;
	enum sn_verdict v = session_sn(s, false, sn);
	if (v != SN_HOLD)
		return v == SN_NOW;
	struct held *k = calloc(1, sizeof(*k));
	if (!k)
		return false;
	k->cmd_sn = sn;
	k->conn = c;
	k->bhs[BHS_OPCODE] = ISCSI_NOP_OUT | OP_IMMEDIATE;
	put_be32(k->bhs + BHS_ITT, ISCSI_NO_TAG);
	if (session_hold(s, k) < 0)
		free(k); /* another command came with that number */
	return true;
}

static void tmf_request(struct req *r)
{
	struct iscsi_conn *c = r->c;
	uint8_t fn = r->h[BHS_FLAGS] & 0x7f;
	uint32_t itt = be32(r->h + BHS_ITT), ref = be32(r->h + TMF_REF_TAG);
	const struct tmf_row *row = fn < ARRAY_LEN(tmf_rows) ? &tmf_rows[fn] : NULL;

	if (fn == TMF_REASSIGN) {
		tmf_answer(c, itt, TMF_RSP_NO_REASSIGN);
	} else if (!row || !row->known || c->session->params.protocol_level < row->level || !c->session->nexus) {
		tmf_answer(c, itt, TMF_RSP_NOT_SUPPORTED);
	} else if (row->kind == SCSI_ABORT_TASK && (abort_held(c, ref) || abort_missing(c, r->h))) {
		tmf_answer(c, itt, TMF_RSP_COMPLETE);
	} else {
		struct tmf *t = c->ntmf < TMF_MAX ? calloc(1, sizeof(*t)) : NULL;
		if (!t) {
			tmf_answer(c, itt, TMF_RSP_REJECTED);
			return;
		}
		t->c = c;
		t->itt = itt;
		t->cold = fn == TMF_COLD_RESET;
		t->scsi.kind = row->kind;
		t->scsi.nexus = c->session->nexus;
		t->scsi.tag = ref;
		t->scsi.done = tmf_done;
		memcpy(t->scsi.lun, r->h + BHS_LUN, 8);
		list_add_tail(&c->tmfs, &t->node);
		c->ntmf++;
		scsi_tmf(&t->scsi);
	}
}

/* --- text, 11.10, 11.11 --- */

static void text_reset(struct iscsi_conn *c)
{
	iscsi_text_free(&c->text);
	iscsi_text_free(&c->text_out);
	c->text_sent = 0;
	c->text_wait = false;
	c->text_itt = ISCSI_NO_TAG;
}

/* The next piece of the answer; C when more follows, then the initiator asks again with our tag. F only when it is
 * the last and the initiator wants no more either (11.11.1). */
static void text_answer(struct iscsi_conn *c, bool more_to_come)
{
	uint32_t left = c->text_out.len - c->text_sent, n = MIN(left, c->params.max_xmit_segment);
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_TEXT_RSP, CTL_STAT_SN);

	if (!k)
		return;
	bool rest = n < left || more_to_come, last = !rest && c->text_final;
	k->bhs[BHS_FLAGS] = last ? FLAG_FINAL : n < left ? FLAG_CONTINUE : 0;
	put_be32(k->bhs + BHS_ITT, c->text_itt);
	put_be32(k->bhs + BHS_TTT, last ? ISCSI_NO_TAG : c->text_ttt);
	if (n) {
		uint8_t *p = malloc(n);
		if (!p) {
			conn_close(c, "out of memory");
			return;
		}
		memcpy(p, c->text_out.buf + c->text_sent, n);
		tx_ctl_data(c, k, p, n);
		c->text_sent += n;
	}
	if (last)
		text_reset(c);
	else if (!rest)
		c->text.len = c->text_out.len = c->text_sent = 0;
}

static void text_complete(struct req *r)
{
	struct iscsi_conn *c = r->c;
	const char *targets = NULL;
	struct iscsi_offer offer;

	iscsi_offer_defaults(&offer);
	if (iscsi_text_negotiate(&c->params, &offer, &c->text, &c->text_out, &targets) < 0) {
		text_reset(c);
		tx_reject(c, REJECT_PROTOCOL, r->h);
		return;
	}
	if (!targets) {
		text_answer(c, false);
		return;
	}
	if (strlen(targets) >= sizeof(c->send_targets)) {
		text_reset(c);
		tx_reject(c, REJECT_INVALID_PDU, r->h);
		return;
	}
	snprintf(c->send_targets, sizeof(c->send_targets), "%s", targets);
	c->text_wait = true;
	conn_event(c, ISCSI_EV_SEND_TARGETS);
}

static void text_request(struct req *r)
{
	struct iscsi_conn *c = r->c;
	uint32_t itt = be32(r->h + BHS_ITT), ttt = be32(r->h + BHS_TTT);

	if (c->text_wait) {
		tx_reject(c, REJECT_IN_PROGRESS, r->h);
		return;
	}
	if ((r->h[BHS_FLAGS] & FLAG_FINAL) && (r->h[BHS_FLAGS] & FLAG_CONTINUE)) {
		text_reset(c);
		tx_reject(c, REJECT_PROTOCOL, r->h); /* 11.10.2 */
		return;
	}
	c->text_final = r->h[BHS_FLAGS] & FLAG_FINAL;
	if (ttt == ISCSI_NO_TAG && itt != c->text_itt) {
		text_reset(c); /* 11.10.4: a new negotiation ends the one before */
		c->text_itt = itt;
		if (++c->text_ttt == ISCSI_NO_TAG)
			c->text_ttt = 1;
	} else if (itt != c->text_itt || (ttt != c->text_ttt && ttt != ISCSI_NO_TAG)) {
		tx_reject(c, REJECT_INVALID_PDU, r->h);
		return;
	}
	if (c->text_sent < c->text_out.len) {
		text_answer(c, false);
		return;
	}
	if (r->len && iscsi_text_add(&c->text, r->data, r->len) < 0) {
		text_reset(c);
		tx_reject(c, REJECT_INVALID_PDU, r->h);
		return;
	}
	if (r->h[BHS_FLAGS] & FLAG_CONTINUE)
		text_answer(c, true);
	else
		text_complete(r);
}

void iscsi_conn_targets(struct iscsi_conn *c, struct iscsi_text *answer)
{
	if (c->text_wait) {
		c->text_out.max = LIM_SEND_TARGETS + LIM_LOGIN_TEXT;
		if (iscsi_text_add(&c->text_out, answer->buf, answer->len) < 0)
			conn_close(c, "no memory for the list of targets");
		c->text_wait = false;
		text_answer(c, false);
	}
	iscsi_text_free(answer);
}

/* --- logout, 11.14 --- */

static void logout_request(struct req *r)
{
	enum { CLOSE_SESSION, CLOSE_CONNECTION, FOR_RECOVERY };
	enum { OK, NO_CID, NO_RECOVERY };
	struct iscsi_conn *c = r->c;
	uint8_t reason = r->h[BHS_FLAGS] & 0x7f;
	struct iscsi_ctl *k;

	if (reason > FOR_RECOVERY || (reason == FOR_RECOVERY && c->session->params.discovery)) {
		tx_reject(c, REJECT_PROTOCOL, r->h);
		return;
	}
	k = tx_ctl_last(c, ISCSI_LOGOUT_RSP, CTL_STAT_SN);
	if (!k)
		return;
	memcpy(k->bhs + BHS_ITT, r->h + BHS_ITT, 4);
	put_be16(k->bhs + LOGOUT_TIME2WAIT, (uint16_t)c->session->params.time2wait);
	put_be16(k->bhs + LOGOUT_TIME2RETAIN, (uint16_t)c->session->params.time2retain);
	if (reason == FOR_RECOVERY)
		k->bhs[LOGOUT_RESPONSE] = NO_RECOVERY;
	else if (reason == CLOSE_CONNECTION && be16(r->h + LOGOUT_CID) != c->cid)
		k->bhs[LOGOUT_RESPONSE] = NO_CID;
	else
		k->after = AFTER_LOGOUT;
}

/* --- what there is, and its order --- */

static void snack_request(struct req *r)
{
	tx_reject(r->c, REJECT_SNACK, r->h); /* 7.2: no retransmission at error recovery level 0 */
}

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
	if (!row->run) {
		tx_reject(c, REJECT_NOT_SUPPORTED, c->bhs);
		return;
	}
	if (row->ordered) {
		bool imm = c->bhs[BHS_OPCODE] & OP_IMMEDIATE;
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

	if (!t) {
		run(h->conn, h->bhs, &h->data, h->len);
	} else if (t->dead) {
		task_put(t);
	} else {
		data_task_start(t);
		data_task_continue(t);
	}
	free(h->data);
	free(h);
}

/* The gap may have closed: all whose turn has come, in order. */
void request_run_held(struct iscsi_session *s)
{
	while (!list_empty(&s->held)) {
		struct held *h = list_first(&s->held, struct held, node);
		if (h->task && h->conn->rx_task == h->task)
			return; /* its data is still arriving */
		if (session_sn(s, false, h->cmd_sn) != SN_NOW)
			return;
		session_unhold(s, h);
		run_one_held(h);
	}
}
