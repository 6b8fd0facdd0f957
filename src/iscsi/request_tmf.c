/* SPDX-License-Identifier: BSD-3-Clause
 * Task management requests, RFC 7143 11.5, 11.6 and RFC 7144 6: what is asked of scsi/, and when it is answered. */
#include <stdlib.h>

#include "iscsi/impl.h"

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

void tmf_request(struct req *r)
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
