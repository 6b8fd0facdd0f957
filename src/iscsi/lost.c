/* SPDX-License-Identifier: BSD-3-Clause
 * Connection recovery (RFC 7143 7.1.4.3, 7.2.2; level 2). What a lost connection leaves behind is a record of the session: its
 * CID and the tasks that were allegiant to it. They run on, and keep what they have to say, until TASK REASSIGN gives them
 * a new connection, or Time2Wait and Time2Retain are over.
 *
 * Tasks move when the host frees the connection, not before: until then its socket may still read from, or receive into,
 * their pages. A TASK REASSIGN that comes in between waits. */
#include <stdlib.h>

#include "base/check.h"
#include "iscsi/impl.h"

enum {
	LOST_MAX = 64,     /* records of a session; the oldest is given up for another ... */
	LOST_WINDOWS = 4,  /* ... and when they hold so many windows of tasks */
};

struct lost {
	struct list node, tasks;
	uint16_t    cid;
	bool        logged_out;  /* its tasks may be reassigned */
	uint32_t    acked_sn, stat_sn; /* ExpStatSN and the next StatSN that it had */
	uint64_t    expire_ns;   /* 0: from the next tick on */
};

/* A TASK REASSIGN whose task is still with a connection that is being closed. */
struct wait {
	struct list        node;
	struct iscsi_conn *c;
	uint8_t            bhs[ISCSI_BHS];
};

static void record_free(struct iscsi_session *s, struct lost *l)
{
	struct iscsi_task *t, *tmp;

	list_for_each_safe(t, tmp, &l->tasks, node)
		task_abandon(t, true);
	list_del(&l->node);
	s->nlost--;
	free(l);
}

void lost_drop_all(struct iscsi_session *s)
{
	while (!list_empty(&s->lost))
		record_free(s, list_first(&s->lost, struct lost, node));
}

uint64_t iscsi_session_tick(struct iscsi_session *s, uint64_t now_ns)
{
	uint64_t next = UINT64_MAX;
	struct lost *l, *tmp;

	list_for_each_safe(l, tmp, &s->lost, node) {
		if (!l->expire_ns)
			l->expire_ns = now_ns + ((uint64_t)s->params.time2wait + s->params.time2retain) * NS_PER_S;
		if (now_ns >= l->expire_ns)
			record_free(s, l);
		else
			next = MIN(next, l->expire_ns);
	}
	return next;
}

/* --- a connection goes --- */

/* Where a write goes on: at its first byte that did not come. Its R2Ts are void; ack_sn is the first of them that was
 * not answered. */
static void stop_sequences(struct iscsi_task *t)
{
	uint32_t got = t->r2t_n ? UINT32_MAX : t->got;

	t->ack_sn = t->r2t_sn;
	for (; t->r2t_n; t->r2t_n--, t->r2t_head = (t->r2t_head + 1) % LIM_R2T) {
		const struct iscsi_r2t *r = &t->r2t[t->r2t_head];
		got = MIN(got, r->off + r->got);
		t->ack_sn = MIN(t->ack_sn, r->sn);
	}
	t->got = t->r2t_off = got;
	t->unsol = t->unsol_bad = false;
	t->at = UINT32_MAX;
}

static bool survives(const struct iscsi_task *t)
{
	return !t->immediate && t->state != TASK_HELD && !t->dead && t->hashed; /* 7.14: no immediate commands */
}

static void task_lose(struct lost *l, struct iscsi_task *t)
{
	if (t->flags & CMD_WRITE && t->state == TASK_DATA)
		stop_sequences(t);
	if (t->state == TASK_KEPT) {
		t->session->nkept--;
		t->state = TASK_RESPOND;
	} else if (t->finished) {
		keep_data(t);
	}
	list_del(&t->starved);
	list_del(&t->tx.node);
	list_del(&t->node);
	list_add_tail(&l->tasks, &t->node);
	t->conn = NULL;
}

static void make_room(struct iscsi_session *s)
{
	const struct iscsi_task *t;
	const struct lost *l;
	unsigned n = 0;

	list_for_each(l, &s->lost, node)
		list_for_each(t, &l->tasks, node)
			n++;
	while (s->nlost >= LOST_MAX || (s->nlost && n > LOST_WINDOWS * s->window)) {
		l = list_first(&s->lost, struct lost, node);
		list_for_each(t, &l->tasks, node)
			n--;
		record_free(s, (struct lost *)l);
	}
}

bool lost_keeps(const struct iscsi_conn *c)
{
	const struct iscsi_session *s = c->session;

	return c->recover && s->params.erl == 2 && s->params.time2retain && !s->closing && (!c->logged_out || c->for_recovery);
}

static struct lost *record_new(struct iscsi_conn *c, bool logged_out)
{
	struct lost *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->cid = c->cid;
	l->acked_sn = c->acked_sn;
	l->stat_sn = c->stat_sn;
	l->logged_out = logged_out;
	list_init(&l->tasks);
	list_add_tail(&c->session->lost, &l->node);
	c->session->nlost++;
	return l;
}

/* The initiator has not acknowledged the answer to the TASK REASSIGN that brought t here. It may not know of it: for it t
 * is still of a connection that was logged out. */
static bool unsettled(const struct iscsi_conn *c, const struct iscsi_task *t)
{
	return t->adopted && sn_le(c->acked_sn, t->adopted_sn);
}

void lost_take(struct iscsi_conn *c)
{
	struct iscsi_session *s = c->session;
	struct iscsi_task *t, *tmp;

	make_room(s);
	struct lost *l = record_new(c, c->for_recovery), *open = l;
	list_for_each(t, &c->tasks, node)
		if (l && open == l && !l->logged_out && unsettled(c, t))
			open = record_new(c, true);
	if (!l || !open)
		return;
	list_for_each_safe(t, tmp, &c->tasks, node)
		if (survives(t))
			task_lose(unsettled(c, t) ? open : l, t);
	if (l->logged_out && list_empty(&l->tasks))
		record_free(s, l);
}

/* --- logging out what is gone --- */

static struct lost *find(struct iscsi_session *s, uint16_t cid)
{
	struct lost *l;

	list_for_each(l, &s->lost, node)
		if (l->cid == cid && !l->logged_out)
			return l;
	return NULL;
}

bool lost_logout(struct iscsi_session *s, uint16_t cid, bool for_recovery, uint32_t exp_stat_sn)
{
	struct lost *l = find(s, cid);
	struct iscsi_task *t, *tmp;

	if (!l)
		return false;
	bool sane = sn_le(l->acked_sn, exp_stat_sn) && sn_le(exp_stat_sn, l->stat_sn);
	list_for_each_safe(t, tmp, &l->tasks, node)
		if (sane && t->tx.numbered && sn_lt(t->tx.stat_sn, exp_stat_sn))
			task_put(t); /* 11.14.4, 11.12.9: its status did arrive */
	l->logged_out = true;
	l->expire_ns = 0;
	if (!for_recovery || list_empty(&l->tasks))
		record_free(s, l);
	return true;
}

/* --- TASK REASSIGN, 11.5.1, 11.5.6 --- */

static void answer(struct iscsi_conn *c, const uint8_t *h, uint8_t response)
{
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_TMF_RSP, CTL_STAT_SN); /* ahead of what the task has to say */

	if (!k)
		return;
	k->bhs[RSP_RESPONSE] = response;
	memcpy(k->bhs + BHS_ITT, h + BHS_ITT, 4);
}

/* Data-In that the initiator has. Any other value says nothing (11.5.6). */
static void take_exp_data_sn(struct iscsi_task *t, uint32_t sn)
{
	uint32_t n, left;

	if (!t->cut.xmit || sn <= t->ack_sn || sn > t->data_sn || sn < t->cut.base_sn)
		return;
	t->ack_off = keep_locate(t, sn, &n, &left);
	t->ack_sn = sn;
}

/* Its data had to be given up: the initiator shall ask again. */
static void say_busy(struct iscsi_task *t)
{
	t->cmd.status = SCSI_BUSY;
	t->cmd.sense_len = 0;
	t->cmd.in_len = t->ack_off;
}

static void go_on(struct iscsi_task *t, uint32_t exp_data_sn)
{
	uint32_t unanswered = t->ack_sn;

	if (t->flags & CMD_WRITE)
		t->ack_sn = 0; /* it numbered R2Ts; a write has no Data-In */
	t->tx.numbered = t->tx.again = t->redo_status = false;
	t->snack_tag = 0; /* 7.2.2 */
	t->seq_ns = t->conn->now_ns;
	if (t->finished) {
		keep_forget(t);
		take_exp_data_sn(t, exp_data_sn);
		if (t->forgot && t->ack_off < t->cmd.in_len)
			say_busy(t);
		tx_respond(t);
		keep_rewind(t);
	} else if (t->state == TASK_DATA) {
		t->r2t_sn = exp_data_sn > unanswered && exp_data_sn <= t->r2t_sn ? exp_data_sn : unanswered;
		data_task_continue(t);
	}
}

void lost_adopt(struct iscsi_conn *c, struct iscsi_task *t, uint32_t exp_data_sn)
{
	list_del(&t->node);
	list_add_tail(&c->tasks, &t->node);
	t->conn = c;
	t->adopted = true;
	t->adopted_sn = c->stat_sn;
	go_on(t, exp_data_sn);
}

static const struct lost *record_of(const struct iscsi_session *s, const struct iscsi_task *t)
{
	const struct iscsi_task *u;
	const struct lost *l;

	list_for_each(l, &s->lost, node)
		list_for_each(u, &l->tasks, node)
			if (u == t)
				return l;
	return NULL;
}

/* A record that has nothing left to give. */
static void record_check(struct iscsi_session *s, const struct lost *l)
{
	if (l->logged_out && list_empty(&l->tasks))
		record_free(s, (struct lost *)l);
}

static bool wait_for(struct iscsi_conn *c, const uint8_t *h)
{
	struct wait *w = c->nreassigns < TMF_MAX ? calloc(1, sizeof(*w)) : NULL;

	if (!w)
		return false;
	w->c = c;
	memcpy(w->bhs, h, ISCSI_BHS);
	list_add_tail(&c->session->reassigns, &w->node);
	c->nreassigns++;
	return true;
}

void lost_reassign(struct iscsi_conn *c, const uint8_t *h)
{
	struct iscsi_session *s = c->session;
	struct iscsi_task *t = session_find(s, be32(h + TMF_REF_TAG));
	const struct lost *l = t && !t->conn ? record_of(s, t) : NULL;

	if (s->params.erl < 2) {
		answer(c, h, TMF_RSP_NO_REASSIGN);
	} else if (tmf_is(s, be32(h + TMF_REF_TAG)) || !(h[BHS_OPCODE] & OP_IMMEDIATE)) {
		answer(c, h, TMF_RSP_REJECTED);
	} else if (!t) {
		answer(c, h, TMF_RSP_NO_TASK);
	} else if (t->conn && t->conn != c && t->conn->for_recovery) {
		if (!wait_for(c, h))
			answer(c, h, TMF_RSP_ALLEGIANT);
	} else if (!l || !l->logged_out) {
		answer(c, h, TMF_RSP_ALLEGIANT);
	} else {
		answer(c, h, TMF_RSP_COMPLETE);
		lost_adopt(c, t, be32(h + TMF_EXP_DATA_SN));
		record_check(s, l);
	}
}

/* c is gone: what waited for that goes on, and what it asked for is void. */
void lost_retry(struct iscsi_session *s, struct iscsi_conn *gone)
{
	struct list all;

	list_init(&all);
	list_splice_tail(&all, &s->reassigns);
	while (!list_empty(&all)) {
		struct wait *w = list_first(&all, struct wait, node);
		list_del(&w->node);
		if (w->c != gone) {
			w->c->nreassigns--;
			lost_reassign(w->c, w->bhs);
			w->c->host.wake(w->c->user);
		}
		free(w);
	}
}
