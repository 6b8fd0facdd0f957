/* SPDX-License-Identifier: BSD-3-Clause
 * Task management requests, RFC 7143 11.5, 11.6 and RFC 7144 6: what is asked of scsi/ and when, and when it is answered.
 *
 * A function that ends many tasks is not asked of scsi/ before every command that it concerns is here (those with a
 * lower CmdSN; 4.2.3.3 b) and, unless FastAbort was agreed, every R2T of them is served (4.2.3.3 a). Meanwhile such tasks
 * get no new R2T. Initiators exist that stop sending data at once though nobody agreed to FastAbort: an R2T is waited
 * for TMF_DATA_S and no longer. What still comes for a task that has ended is discarded wherever it comes. */
#include <stdlib.h>

#include "iscsi/impl.h"

enum tmf_scope { ONE_TASK, TASK_SET, TARGET }; /* whose commands must be here before it acts */
enum tmf_then { THEN_NOTHING, THEN_COLD, THEN_NEXUS_LOSS }; /* once the response is on its way */

/* function -> what SCSI is asked, and the protocol level (RFC 7144 2) that must have been agreed. */
static const struct tmf_row {
	bool               known;
	uint8_t            level;
	enum scsi_tmf_kind kind;
	enum tmf_scope     scope;
	enum tmf_then      then;
} tmf_rows[] = {
	[TMF_ABORT_TASK] = { true, 0, SCSI_ABORT_TASK, ONE_TASK, THEN_NOTHING },
	[TMF_ABORT_TASK_SET] = { true, 0, SCSI_ABORT_TASK_SET, TASK_SET, THEN_NOTHING },
	[TMF_CLEAR_ACA] = { true, 0, SCSI_CLEAR_ACA, ONE_TASK, THEN_NOTHING },
	[TMF_CLEAR_TASK_SET] = { true, 0, SCSI_CLEAR_TASK_SET, TASK_SET, THEN_NOTHING },
	[TMF_LU_RESET] = { true, 0, SCSI_LU_RESET, TASK_SET, THEN_NOTHING },
	[TMF_WARM_RESET] = { true, 0, SCSI_TARGET_RESET, TARGET, THEN_NOTHING },
	[TMF_COLD_RESET] = { true, 0, SCSI_TARGET_RESET, TARGET, THEN_COLD },
	[TMF_QUERY_TASK] = { true, 2, SCSI_QUERY_TASK, ONE_TASK, THEN_NOTHING },
	[TMF_QUERY_TASK_SET] = { true, 2, SCSI_QUERY_TASK_SET, ONE_TASK, THEN_NOTHING },
	[TMF_I_T_NEXUS_RESET] = { true, 2, SCSI_I_T_NEXUS_RESET, TARGET, THEN_NEXUS_LOSS },
	[TMF_QUERY_ASYNC] = { true, 2, SCSI_QUERY_ASYNC_EVENT, ONE_TASK, THEN_NOTHING },
};

struct tmf {
	struct scsi_tmf      scsi;
	struct list          node;     /* in conn->tmfs */
	struct list          wait;     /* in session->tmf_waits, or by itself */
	struct iscsi_conn   *c;        /* NULL: gone */
	const struct tmf_row *row;
	uint32_t             itt, cmd_sn;
	uint64_t             until_ns; /* R2Ts are waited for until then */
};

static struct iscsi_ctl *tmf_answer(struct iscsi_conn *c, uint32_t itt, uint8_t response)
{
	struct iscsi_ctl *k = tx_ctl_last(c, ISCSI_TMF_RSP, CTL_STAT_SN);

	if (!k)
		return NULL;
	k->bhs[RSP_RESPONSE] = response;
	put_be32(k->bhs + BHS_ITT, itt);
	return k;
}

static void tmf_done(struct scsi_tmf *st)
{
	static const uint8_t map[] = { [SCSI_TMF_COMPLETE] = TMF_RSP_COMPLETE, [SCSI_TMF_SUCCEEDED] = TMF_RSP_SUCCEEDED,
		[SCSI_TMF_REJECTED] = TMF_RSP_REJECTED, [SCSI_TMF_NO_LUN] = TMF_RSP_NO_LUN,
		[SCSI_TMF_NO_TASK] = TMF_RSP_NO_TASK };
	static const enum iscsi_event_kind event[] = { [THEN_COLD] = ISCSI_EV_COLD_RESET,
		[THEN_NEXUS_LOSS] = ISCSI_EV_NEXUS_RESET };
	struct tmf *t = container_of(st, struct tmf, scsi);
	struct iscsi_conn *c = t->c;

	if (c) {
		c->ntmf--;
		struct iscsi_ctl *k = tmf_answer(c, t->itt, map[st->result]);
		if (k) {
			memcpy(k->bhs + TMF_RSP_INFO, st->info, sizeof(st->info));
			list_del(&k->tx.node);
			fence_respond(c->session, &k->tx, t->row->scope != ONE_TASK || st->kind == SCSI_CLEAR_ACA);
		}
		if (t->row->then != THEN_NOTHING)
			conn_event(c, event[t->row->then]);
		c->host.wake(c->user);
	}
	list_del(&t->node);
	free(t);
}

/* --- which tasks it concerns --- */

/* Of the tasks of its own session: those that the initiator sent before it. An immediate command has no CmdSN of its
 * own: it counts when it was here first, which `stopping` tells. */
static bool before(const struct tmf *f, const struct iscsi_task *t)
{
	return t->immediate ? t->stopping : sn_lt(t->cmd_sn, f->cmd_sn);
}

static bool covers(const struct scsi_tmf *st, const struct scsi_cmd *m)
{
	return before(container_of(st, struct tmf, scsi), container_of(m, struct iscsi_task, cmd));
}

static bool in_scope(const struct tmf *f, const struct iscsi_task *t)
{
	return f->row->scope == TARGET || !memcmp(f->scsi.lun, t->cmd.lun, 8);
}

/* Stops the solicitation of data of the tasks that it concerns; returns whether one of them has an R2T out. */
static bool stop_tasks(struct tmf *f, bool arrival)
{
	struct iscsi_session *s = f->c->session;
	bool out = false;

	for (unsigned i = 0; i < ITT_BUCKETS; i++) {
		for (struct iscsi_task *t = s->itt[i]; t; t = t->hash_next) {
			if (!in_scope(f, t))
				continue;
			if (t->immediate ? arrival : sn_lt(t->cmd_sn, f->cmd_sn))
				t->stopping = true;
			out |= t->conn && before(f, t) && t->state == TASK_DATA && t->r2t_n;
		}
	}
	return out;
}

/* Once for each connection and LUN that has a marked task. */
static void tell_marked(struct iscsi_session *s)
{
	struct iscsi_task *t, *u;

	for (unsigned i = 0; i < ITT_BUCKETS; i++) {
		for (t = s->itt[i]; t; t = t->hash_next) {
			if (!t->told)
				continue;
			async_terminated(t->conn, t->cmd.lun);
			t->conn->host.wake(t->conn->user);
			list_for_each(u, &t->conn->tasks, node)
				if (!memcmp(u->cmd.lun, t->cmd.lun, 8))
					u->told = false;
		}
	}
}

/* 4.2.3.4 d 2: the other connections of the session that lose tasks hear of it. */
static void tell_terminated(struct tmf *f)
{
	struct iscsi_session *s = f->c->session;

	if (!s->params.fast_abort)
		return;
	for (unsigned i = 0; i < ITT_BUCKETS; i++)
		for (struct iscsi_task *t = s->itt[i]; t; t = t->hash_next)
			t->told = t->conn && t->conn != f->c && in_scope(f, t) && before(f, t);
	tell_marked(s);
}

/* 4.2.3.4 d 1: another session's function has ended tasks of this one. */
void tmf_lost(void *session, const uint8_t lun[8])
{
	struct iscsi_session *s = session;

	if (!s->params.fast_abort)
		return;
	for (unsigned i = 0; i < ITT_BUCKETS; i++)
		for (struct iscsi_task *t = s->itt[i]; t; t = t->hash_next)
			t->told = t->conn && t->cmd.must_abort && !memcmp(t->cmd.lun, lun, 8);
	tell_marked(s);
}

/* --- when it acts --- */

/* False: not yet. */
static bool tmf_ready(struct tmf *f, bool arrival)
{
	struct iscsi_session *s = f->c->session;
	bool out = stop_tasks(f, arrival);

	if (f->row->scope == TASK_SET && sn_lt(s->exp_cmd_sn, f->cmd_sn))
		return false;
	return !out || s->params.fast_abort || f->c->now_ns >= f->until_ns;
}

static void tmf_act(struct tmf *f)
{
	tell_terminated(f);
	scsi_tmf(&f->scsi);
}

/* Something came for this session, or time went by: what can act now acts, in order of arrival. */
void tmf_retry(struct iscsi_session *s)
{
	struct tmf *f, *tmp;

	list_for_each_safe(f, tmp, &s->tmf_waits, wait) {
		if (!tmf_ready(f, false))
			continue;
		list_del(&f->wait);
		s->ntmf_waits--;
		tmf_act(f);
	}
}

uint64_t tmf_deadline(const struct iscsi_conn *c)
{
	uint64_t next = UINT64_MAX;
	const struct tmf *f;

	list_for_each(f, &c->tmfs, node)
		if (!list_empty(&f->wait) && f->until_ns > c->now_ns)
			next = MIN(next, f->until_ns);
	return next;
}

/* A function that will never act lets them go on. */
static void resume_tasks(const struct tmf *f)
{
	struct iscsi_task *t, *next;
	struct iscsi_session *s = f->c->session;

	for (unsigned i = 0; i < ITT_BUCKETS; i++) {
		for (t = s->itt[i]; t; t = next) {
			next = t->hash_next;
			if (!t->stopping || !in_scope(f, t))
				continue;
			t->stopping = false;
			if (!t->conn || t->conn == f->c)
				continue; /* goes on when it is reassigned */
			data_task_continue(t);
			t->conn->host.wake(t->conn->user);
		}
	}
}

void request_detach_tmfs(struct iscsi_conn *c)
{
	while (!list_empty(&c->tmfs)) {
		struct tmf *t = list_first(&c->tmfs, struct tmf, node);
		list_del(&t->node);
		if (list_empty(&t->wait)) {
			t->c = NULL;
			continue;
		}
		list_del(&t->wait);
		c->session->ntmf_waits--;
		resume_tasks(t);
		free(t); /* scsi/ has not heard of it */
	}
}

/* --- functions on one task that SCSI may not have --- */

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

/* 11.6.1 b: the command to be aborted (or asked for, RFC 7144 6.3.3) did not arrive, but its CmdSN, which the initiator has
 * used up, is due: it counts as received. A place in the order is kept for it. */
static bool plug_missing(struct iscsi_conn *c, const uint8_t *h)
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
	k->cmd_sn = sn; /* of no connection */
	if (session_hold(s, k) < 0)
		free(k); /* another command came with that number */
	return true;
}

/* 11.5.1: the referenced task is a task management function, this one or another that runs. */
static bool refers_to_tmf(const struct iscsi_conn *c, const uint8_t *h)
{
	uint32_t ref = be32(h + TMF_REF_TAG);
	const struct held *w;
	const struct tmf *f;

	if (ref == be32(h + BHS_ITT))
		return true;
	list_for_each(f, &c->tmfs, node)
		if (f->itt == ref)
			return true;
	list_for_each(w, &c->session->held, node) /* or waits for its turn */
		if (w->conn && !w->task && (w->bhs[BHS_OPCODE] & OP_MASK) == ISCSI_TMF_REQ && be32(w->bhs + BHS_ITT) == ref)
			return true;
	return false;
}

bool tmf_is(const struct iscsi_session *s, uint32_t itt)
{
	const struct iscsi_conn *c;
	const struct tmf *f;

	list_for_each(c, &s->conns, in_session)
		list_for_each(f, &c->tmfs, node)
			if (f->itt == itt)
				return true;
	return false;
}

/* The response to a function on one task that needs no SCSI, or -1. */
static int answer_here(struct iscsi_conn *c, const struct tmf_row *row, const uint8_t *h)
{
	struct iscsi_task *t = session_find(c->session, be32(h + TMF_REF_TAG));
	bool query = row->kind == SCSI_QUERY_TASK;

	if (row->kind != SCSI_ABORT_TASK && !query)
		return -1;
	if (refers_to_tmf(c, h))
		return TMF_RSP_REJECTED;
	if (!query && t && !t->conn && t->finished) { /* 11.5.1: its answer, then that of the function */
		lost_adopt(c, t, 0);
		return TMF_RSP_COMPLETE;
	}
	if (query && t && t->state == TASK_HELD && !memcmp(t->cmd.lun, h + BHS_LUN, 8))
		return TMF_RSP_SUCCEEDED;
	if ((!query && abort_held(c, be32(h + TMF_REF_TAG))) || plug_missing(c, h))
		return TMF_RSP_COMPLETE;
	return -1;
}

/* --- a request --- */

static struct tmf *tmf_new(struct iscsi_conn *c, const struct tmf_row *row, const uint8_t *h)
{
	struct tmf *t = c->ntmf < TMF_MAX ? calloc(1, sizeof(*t)) : NULL;

	if (!t)
		return NULL;
	t->c = c;
	t->row = row;
	t->itt = be32(h + BHS_ITT);
	t->cmd_sn = be32(h + BHS_CMD_SN);
	t->until_ns = c->now_ns + TMF_DATA_S * NS_PER_S;
	t->scsi.kind = row->kind;
	t->scsi.nexus = c->session->nexus;
	t->scsi.tag = be32(h + TMF_REF_TAG);
	t->scsi.done = tmf_done;
	t->scsi.covers = row->scope == ONE_TASK ? NULL : covers;
	memcpy(t->scsi.lun, h + BHS_LUN, 8);
	list_init(&t->wait);
	list_add_tail(&c->tmfs, &t->node);
	c->ntmf++;
	return t;
}

static void tmf_start(struct tmf *t)
{
	struct iscsi_session *s = t->c->session;

	if (t->row->scope == TARGET)
		request_plug(s, t->cmd_sn);
	if (t->row->scope == ONE_TASK || tmf_ready(t, true)) {
		tmf_act(t);
		return;
	}
	list_add_tail(&s->tmf_waits, &t->wait);
	s->ntmf_waits++;
	conn_event(t->c, ISCSI_EV_TICK);
}

void tmf_request(struct req *r)
{
	struct iscsi_conn *c = r->c;
	uint8_t fn = r->h[BHS_FLAGS] & 0x7f;
	uint32_t itt = be32(r->h + BHS_ITT);
	const struct tmf_row *row = fn < ARRAY_LEN(tmf_rows) ? &tmf_rows[fn] : NULL;

	if (fn == TMF_REASSIGN) {
		lost_reassign(c, r->h);
		return;
	}
	if (!row || !row->known || c->session->params.protocol_level < row->level || !c->session->nexus) {
		tmf_answer(c, itt, TMF_RSP_NOT_SUPPORTED);
		return;
	}
	int here = answer_here(c, row, r->h);
	if (here >= 0) {
		tmf_answer(c, itt, (uint8_t)here);
		return;
	}
	struct tmf *t = tmf_new(c, row, r->h);
	if (t)
		tmf_start(t);
	else if (r->h[BHS_OPCODE] & OP_IMMEDIATE)
		request_reject(r, REJECT_IMMEDIATE);
	else
		tmf_answer(c, itt, TMF_RSP_REJECTED);
}
