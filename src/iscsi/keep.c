/* SPDX-License-Identifier: BSD-3-Clause
 * From ErrorRecoveryLevel 1 on: answers are kept until ExpStatSN acknowledges them (RFC 7143 4.2.2.2), and sent again when
 * the initiator asks by SNACK (11.16). A task's data needs no copy: its pages are still what they were, and where a Data-In
 * PDU begins is computed from its DataSN. */
#include "base/check.h"
#include "iscsi/impl.h"

static struct iscsi_task *task_of(struct txitem *x)
{
	return container_of(x, struct iscsi_task, tx);
}

static struct iscsi_ctl *ctl_of(struct txitem *x)
{
	return container_of(x, struct iscsi_ctl, tx);
}

bool keep_full(const struct iscsi_session *s)
{
	return s->nkept >= s->window;
}

bool keep_stale(const struct iscsi_conn *c, const struct txitem *x)
{
	return x->numbered && sn_lt(x->stat_sn, c->acked_sn);
}

static void item_free(struct iscsi_conn *c, struct txitem *x)
{
	if (!x->ctl) {
		task_put(task_of(x));
		return;
	}
	c->nkept_ctls -= x->where == TX_KEPT;
	ctl_put(c->pool, ctl_of(x));
}

/* --- memory --- */

void keep_forget(struct iscsi_task *t)
{
	if (!t->kept_bytes)
		return;
	list_del(&t->in_kept);
	t->pool->kept_bytes -= t->kept_bytes;
	t->kept_bytes = 0;
}

/* What it held of the budget goes back; its pages count apart from now on, and the oldest are given up when these are
 * too many. */
void keep_data(struct iscsi_task *t)
{
	struct iscsi_pool *p = t->pool;

	p->used -= t->charged;
	p->granted -= t->granted;
	t->charged = t->granted = 0;
	if (t->cmd.in_len && !t->forgot) {
		t->kept_bytes = t->cmd.in_len;
		p->kept_bytes += t->kept_bytes;
		list_add_tail(&p->kept, &t->in_kept);
	} else {
		scsi_data_free(&t->cmd);
	}
	while (p->kept_bytes > p->budget / KEPT_SHARE) {
		struct iscsi_task *old = list_first(&p->kept, struct iscsi_task, in_kept);
		keep_forget(old);
		scsi_data_free(&old->cmd);
		old->forgot = true;
	}
	if (!list_empty(&p->starved))
		data_feed_starved(p);
}

/* --- keeping and acknowledging --- */

static void keep_in_order(struct iscsi_conn *c, struct txitem *x)
{
	struct list *at = c->kept.prev;

	while (at != &c->kept && sn_lt(x->stat_sn, list_entry(at, struct txitem, node)->stat_sn))
		at = at->prev;
	list_add_head(at, &x->node);
	x->where = TX_KEPT;
}

/* The oldest of too many control PDUs goes: a SNACK for it is in vain. */
static void keep_ctl(struct iscsi_conn *c)
{
	struct txitem *x;

	if (++c->nkept_ctls <= KEPT_CTL_MAX)
		return;
	list_for_each(x, &c->kept, node)
		if (x->ctl)
			break;
	item_free(c, x);
}

static void task_keep(struct iscsi_session *s, struct iscsi_task *t)
{
	t->state = TASK_KEPT;
	s->nkept++;
	s->nimmediate -= t->imm_counted;
	t->imm_counted = false;
	keep_data(t);
}

void keep_item(struct iscsi_conn *c, struct txitem *x)
{
	list_del(&x->node);
	if (!x->numbered || keep_stale(c, x)) {
		item_free(c, x);
		return;
	}
	if (list_empty(&c->kept))
		c->ack_ns = c->now_ns;
	keep_in_order(c, x);
	if (x->ctl) {
		keep_ctl(c);
	} else {
		task_keep(c->session, task_of(x));
	}
	if (x->again)
		tx_again(c, x);
}

void keep_drop(struct iscsi_task *t)
{
	keep_forget(t);
	t->session->nkept--;
	t->state = TASK_RESPOND;
}

void keep_reused(struct iscsi_task *t)
{
	if (t->state == TASK_KEPT || !t->conn)
		task_put(t);
	else
		session_unhash(t->session, t);
}

/* A closed window opens: the initiator, which may not send anything that is answered, is told. */
static void announce_window(struct iscsi_conn *c)
{
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_NOP_IN, CTL_NEXT_STAT_SN);

	if (!k)
		return;
	put_be32(k->bhs + BHS_ITT, ISCSI_NO_TAG);
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
}

void keep_ack(struct iscsi_conn *c)
{
	const uint8_t *h = c->bhs;

	if ((h[BHS_OPCODE] & OP_MASK) == ISCSI_LOGOUT_REQ && h[BHS_FLAGS] & 0x7f && be16(h + LOGOUT_CID) != c->cid)
		return; /* 11.14.4: of the connection to be closed */
	keep_ack_to(c, be32(h + BHS_EXP_STAT_SN));
}

void keep_ack_to(struct iscsi_conn *c, uint32_t e)
{
	struct iscsi_session *s = c->session;
	bool closed = sn_lt(s->max_cmd_sn, s->exp_cmd_sn);

	if (!sn_lt(c->acked_sn, e) || !sn_le(e, c->stat_sn))
		return;
	c->acked_sn = e;
	c->ack_ns = c->now_ns;
	while (!list_empty(&c->kept)) {
		struct txitem *x = list_first(&c->kept, struct txitem, node);
		if (!keep_stale(c, x))
			break;
		item_free(c, x);
	}
	if (closed && sn_le(s->exp_cmd_sn, session_max_cmd_sn(s)))
		announce_window(c);
}

void keep_tick(struct iscsi_conn *c)
{
	if (list_empty(&c->kept))
		c->ack_ns = c->now_ns;
	else if (c->now_ns >= c->ack_ns + ACK_END_S * NS_PER_S)
		conn_close(c, "answers are not acknowledged by ExpStatSN");
	else if (c->now_ns >= c->ack_ns + ACK_WAIT_S * NS_PER_S)
		conn_ping(c);
}

/* --- Data-In PDUs by number --- */

uint32_t keep_locate(const struct iscsi_task *t, uint32_t sn, uint32_t *ret_len, uint32_t *ret_left)
{
	const struct segmentation *g = &t->cut;
	uint32_t n = sn - g->base_sn, off = g->base_off, burst = g->first_burst;
	uint32_t pdus = (burst + g->xmit - 1) / g->xmit;

	if (n >= pdus) {
		n -= pdus;
		off += burst;
		burst = t->session->params.max_burst;
		pdus = (burst + g->xmit - 1) / g->xmit;
		off += n / pdus * burst;
		n %= pdus;
	}
	off = MIN(off + n * g->xmit, t->cmd.in_len);
	burst -= n * g->xmit;
	*ret_len = MIN(MIN(t->cmd.in_len - off, g->xmit), burst);
	*ret_left = burst - *ret_len;
	return off;
}

void keep_cut(struct iscsi_task *t)
{
	t->cut = (struct segmentation){ t->data_sn, t->tx_off, t->burst_left, tx_xmit(t->conn) };
}

void keep_rewind(struct iscsi_task *t)
{
	t->tx_off = t->ack_off;
	t->data_sn = t->ack_sn;
	t->burst_left = 0;
	t->cut = (struct segmentation){ .base_sn = t->ack_sn }; /* nothing is cut yet: the next Data-In begins it */
	t->redo_sn = t->redo_end = 0;
	tx_seek(t, t->tx_off, &t->cur);
}

/* --- SNACK, 11.16 --- */

static void reject_sn(struct req *r, uint32_t next_sn)
{
	struct iscsi_ctl *k = tx_reject(r->c, REJECT_PROTOCOL, r->h);

	if (k)
		put_be32(k->bhs + REJECT_DATA_SN, next_sn); /* 11.17.2 */
}

/* The run that is asked for, within [low, next): what was sent and is not acknowledged. */
static bool run_of(const struct req *r, uint32_t low, uint32_t next, uint32_t *beg, uint32_t *end)
{
	uint32_t len = be32(r->h + SNACK_RUN_LEN);

	*beg = be32(r->h + SNACK_BEG_RUN);
	*end = next;
	if (!*beg && !len) { /* all that is not acknowledged */
		*beg = low;
		return true;
	}
	if (sn_lt(*beg, low) || !sn_lt(*beg, next) || len > next - *beg)
		return false;
	if (len)
		*end = *beg + len;
	return true;
}

/* Its run of Data-In grows to cover both: what is sent twice without need is thrown away at the other end (7.9). */
static void redo_data(struct iscsi_task *t, uint32_t beg, uint32_t end)
{
	uint32_t n, left;

	if (t->redo_sn != t->redo_end) {
		beg = MIN(beg, t->redo_sn);
		end = MAX(end, t->redo_end);
	}
	t->redo_sn = beg;
	t->redo_end = end;
	tx_seek(t, keep_locate(t, beg, &n, &left), &t->redo);
}

static void snack_data(struct req *r, struct iscsi_task *t)
{
	uint32_t low = MAX(t->ack_sn, t->cut.base_sn), beg, end;

	if (!run_of(r, low, t->data_sn, &beg, &end)) {
		reject_sn(r, t->data_sn);
		return;
	}
	if (t->forgot) {
		tx_reject(r->c, REJECT_SNACK, r->h); /* 7.8 a.2: its status is out */
		return;
	}
	if (beg == end)
		return;
	redo_data(t, beg, end);
	tx_again(r->c, &t->tx);
}

/* R2Ts that were not answered yet, as they were but for StatSN. */
static void snack_r2t(struct req *r, struct iscsi_task *t)
{
	uint32_t low = t->r2t_sn, beg, end;

	for (uint32_t i = 0; i < t->r2t_n; i++)
		low = MIN(low, t->r2t[(t->r2t_head + i) % LIM_R2T].sn);
	if (!run_of(r, low, t->r2t_sn, &beg, &end)) {
		reject_sn(r, t->r2t_sn);
		return;
	}
	for (uint32_t i = 0; i < t->r2t_n; i++) {
		const struct iscsi_r2t *q = &t->r2t[(t->r2t_head + i) % LIM_R2T];
		if (q->sn >= beg && q->sn < end)
			data_put_r2t(t, q);
	}
}

static void snack_task(struct req *r)
{
	struct iscsi_task *t = session_find(r->c->session, be32(r->h + BHS_ITT));

	if (!t || t->conn != r->c)
		reject_sn(r, 0);
	else if (t->flags & CMD_WRITE)
		snack_r2t(r, t);
	else
		snack_data(r, t);
}

static void again_within(struct iscsi_conn *c, struct list *l, uint32_t beg, uint32_t end)
{
	struct txitem *x, *tmp;

	list_for_each_safe(x, tmp, l, node) {
		if (!x->numbered || sn_lt(x->stat_sn, beg) || !sn_lt(x->stat_sn, end))
			continue;
		if (!x->ctl)
			task_of(x)->redo_status = true;
		tx_again(c, x);
	}
}

static void snack_status(struct req *r)
{
	struct iscsi_conn *c = r->c;
	uint32_t beg, end;

	if (!run_of(r, c->acked_sn, c->stat_sn, &beg, &end)) {
		tx_reject(c, REJECT_PROTOCOL, r->h);
		return;
	}
	if (c->txb) {
		again_within(c, &c->txb->ctls, beg, end);
		again_within(c, &c->txb->tasks, beg, end);
	}
	again_within(c, &c->dataq, beg, end);
	again_within(c, &c->kept, beg, end);
}

static void snack_ack(struct req *r)
{
	struct iscsi_conn *c = r->c;
	uint32_t ttt = be32(r->h + BHS_TTT), sn = be32(r->h + SNACK_BEG_RUN), n, left;
	struct iscsi_task *t, *found = NULL;

	list_for_each(t, &c->tasks, node)
		if (t->ack_ttt && t->ack_ttt == ttt && !memcmp(t->cmd.lun, r->h + BHS_LUN, 8))
			found = t;
	if (!found || sn < found->ack_sn || sn > found->data_sn || be32(r->h + SNACK_RUN_LEN)) {
		tx_reject(c, REJECT_INVALID_DATA_ACK, r->h);
		return;
	}
	if (sn < found->cut.base_sn || sn == found->ack_sn)
		return; /* of PDUs that were cut otherwise: it says too little to use */
	found->ack_off = keep_locate(found, sn, &n, &left);
	found->ack_sn = sn;
}

/* 11.16.3: everything that is not acknowledged comes anew, cut for today's segments, and the status with this tag. */
static void snack_r_data(struct req *r)
{
	uint32_t tag = be32(r->h + BHS_TTT);
	struct iscsi_task *t = session_find(r->c->session, be32(r->h + BHS_ITT));

	if (!tag || tag == ISCSI_NO_TAG || be32(r->h + SNACK_BEG_RUN) || be32(r->h + SNACK_RUN_LEN)) {
		tx_reject(r->c, REJECT_INVALID_PDU, r->h);
		return;
	}
	if (!t || t->conn != r->c || t->flags & CMD_WRITE) {
		reject_sn(r, 0);
		return;
	}
	if (t->forgot) {
		tx_reject(r->c, REJECT_SNACK, r->h);
		return;
	}
	t->snack_tag = tag;
	if (t->state < TASK_RESPOND)
		return;
	keep_rewind(t);
	t->redo_status = true;
	tx_again(r->c, &t->tx);
}

void snack_request(struct req *r)
{
	static void (*const type[])(struct req *r) = { snack_task, snack_status, snack_ack, snack_r_data };
	uint8_t k = r->h[BHS_FLAGS] & 0x0f;

	if (!r->c->recover)
		tx_reject(r->c, REJECT_SNACK, r->h); /* 7.2: no retransmission at error recovery level 0 */
	else if (k >= ARRAY_LEN(type))
		tx_reject(r->c, REJECT_INVALID_PDU, r->h);
	else
		type[k](r);
}
