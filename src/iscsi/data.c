/* SPDX-License-Identifier: BSD-3-Clause
 * SCSI Command (RFC 7143 11.3, 11.8): immediate data, memory for what follows, R2T, start. Data-Out is data_out.c's.
 *
 * A task executes when everything SCSI asked for lies in its pages. A task that fails earlier answers when each sequence
 * that the initiator may still be sending has ended, so that its data is never taken for another's. */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "iscsi/impl.h"

static bool draining(const struct iscsi_task *t)
{
	return t->unsol || t->r2t_n || t->conn->rx_task == t;
}

static void task_done(struct scsi_cmd *m)
{
	struct iscsi_task *t = container_of(m, struct iscsi_task, cmd);
	struct iscsi_conn *c = t->conn;

	if (!c && t->session && !m->aborted) {
		t->finished = true; /* its connection is lost: the answer waits for another */
		keep_data(t);
		return;
	}
	if (!c) {
		task_put(t);
		return;
	}
	if (m->aborted) {
		t->dead = true;
		list_del(&t->starved);
		if (c->rx_task != t)
			task_put(t);
	} else {
		t->finished = true;
		if (!draining(t))
			tx_respond(t);
	}
	c->host.wake(c->user);
}

void data_fail(struct iscsi_task *t, uint8_t asc, uint8_t ascq)
{
	if (!t->poisoned) {
		t->asc = asc;
		t->ascq = ascq;
	}
	t->poisoned = true;
}

void data_put_r2t(struct iscsi_task *t, const struct iscsi_r2t *r)
{
	struct iscsi_conn *c = t->conn;
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_R2T, CTL_NEXT_STAT_SN);

	if (!k)
		return;
	memcpy(k->bhs + BHS_LUN, t->cmd.lun, 8);
	put_be32(k->bhs + BHS_ITT, t->itt);
	put_be32(k->bhs + BHS_TTT, r->ttt);
	put_be32(k->bhs + R2T_SN, r->sn);
	put_be32(k->bhs + R2T_OFFSET, r->off);
	put_be32(k->bhs + R2T_LEN, r->len);
	t->seq_ns = c->now_ns;
	if (!t->recoveries)
		c->data_ns = c->now_ns;
}

void data_send_r2t(struct iscsi_task *t, uint32_t off, uint32_t len)
{
	struct iscsi_r2t *r = &t->r2t[(t->r2t_head + t->r2t_n++) % LIM_R2T];

	*r = (struct iscsi_r2t){ .ttt = session_ttt(t->session), .off = off, .len = len, .sn = t->r2t_sn++ };
	data_put_r2t(t, r);
}

/* --- memory --- */

/* Room for n bytes in all. may_wait false: takes them of the budget even if there are none left. Else false: the
 * task waits, and is called again by data_feed_starved(). Nothing is refused to a task when no other was granted
 * anything, so that everything ends: those that wait hold what came unasked, and may hold all there is. */
static bool charge(struct iscsi_task *t, uint32_t n, bool may_wait)
{
	struct iscsi_pool *p = t->pool;
	uint32_t more = n > t->charged ? n - t->charged : 0;

	if (may_wait && more && p->granted > t->granted &&
	    (p->used + more > p->budget || (!list_empty(&p->starved) && list_empty(&t->starved)))) {
		if (list_empty(&t->starved))
			list_add_tail(&p->starved, &t->starved);
		return false;
	}
	t->charged += more;
	p->used += more;
	if (may_wait) {
		list_del(&t->starved);
		p->granted += t->charged - t->granted;
		t->granted = t->charged;
	}
	return true;
}

/* Bytes that it will hold in pages. */
static uint32_t needs(const struct iscsi_task *t)
{
	return MAX(t->cmd.out_len, MIN(t->cmd.room_in, (uint32_t)LIM_TRANSFER));
}

/* Room for everything that SCSI wants; data that is there already stays. */
static bool task_room(struct iscsi_task *t)
{
	uint32_t want = t->cmd.out_len;

	if (t->have >= want)
		return true;
	if (!charge(t, want, true))
		return false;
	if (scsi_data_extend(&t->cmd, want) < 0) {
		data_fail(t, 0x55, 0x03); /* insufficient resources */
		return false;
	}
	t->have = want;
	return true;
}

static void fail_poisoned(struct iscsi_task *t)
{
	if (t->r2t_n)
		return;
	t->state = TASK_EXEC;
	scsi_fail(&t->cmd, 0x0b, t->asc, t->ascq);
}

/* The next step of a task in TASK_DATA, after anything that may have moved it. */
static void advance(struct iscsi_task *t)
{
	uint32_t want = t->cmd.out_len;

	if (t->unsol || t->state == TASK_RESPOND || t->state == TASK_KEPT) /* answered: its place in the queue is taken */
		return;
	if (t->finished) {
		if (!t->r2t_n)
			tx_respond(t);
		return;
	}
	if (t->state != TASK_DATA || t->cmd.state != SCSI_CMD_WAIT_DATA)
		return; /* ended by a gate: done() is on its way */
	if (t->poisoned) {
		fail_poisoned(t);
		return;
	}
	if (t->stopping)
		return; /* a task management function ends it when its R2Ts are served */
	if (t->got >= want) {
		if (t->r2t_n)
			return; /* 11.7.1: its end comes with the F bit, in an empty PDU perhaps */
		if (t->cmd.room_in && !charge(t, needs(t), true))
			return;
		list_del(&t->starved); /* all that it waited for came unasked */
		t->state = TASK_EXEC;
		t->conn->session->stats.bytes_out += want;
		scsi_exec(&t->cmd);
		return;
	}
	if (!task_room(t)) {
		if (t->poisoned)
			fail_poisoned(t);
		return;
	}
	if (t->r2t_off < t->got)
		t->r2t_off = t->got;
	while (t->r2t_n < t->conn->session->params.max_r2t && t->r2t_off < want && t->conn->state == CONN_FFP) {
		uint32_t n = MIN(want - t->r2t_off, t->session->params.max_burst);
		data_send_r2t(t, t->r2t_off, n);
		t->r2t_off += n;
	}
}

void data_task_start(struct iscsi_task *t)
{
	struct iscsi_session *s = t->conn->session;

	t->state = TASK_DATA;
	s->stats.commands++;
	if (!t->immediate) {
		s->inflight++;
		t->counted = true;
	}
	scsi_begin(&t->cmd);
	/* In the order in which SCSI has them: what waits for an older command there never holds memory that the older one
	 * waits for. */
	if (t->cmd.state == SCSI_CMD_WAIT_DATA)
		charge(t, needs(t), true);
}

/* Room for data that comes unasked: n bytes, which the window has paid for. */
void data_room_unasked(struct iscsi_task *t, uint32_t n)
{
	if (n <= t->have)
		return;
	charge(t, n, false);
	if (scsi_data_extend(&t->cmd, n) < 0)
		data_fail(t, 0x55, 0x03);
	else
		t->have = n;
}

void data_feed_starved(struct iscsi_pool *p)
{
	while (!list_empty(&p->starved)) {
		struct iscsi_task *t = list_first(&p->starved, struct iscsi_task, starved);
		if (!charge(t, needs(t), true))
			return;
		advance(t);
		t->conn->host.wake(t->conn->user);
	}
}

void data_task_continue(struct iscsi_task *t)
{
	advance(t);
}

/* The additional header segments (11.2.2): an extended CDB. No command here moves data both ways, so there is none
 * for the length of a bidirectional read to say something of. */
static bool parse_ahs(struct iscsi_task *t, const uint8_t *p, uint32_t len)
{
	while (len >= 4) {
		uint32_t n = be16(p), all = (3 + n + 3) & ~3u;
		if (n < 1 || all > len)
			return false;
		if (p[2] == 1) {
			if (16 + n - 1 > LIM_CDB || t->cmd.cdb_len != 16)
				return false;
			memcpy(t->cmd.cdb + 16, p + 4, n - 1);
			t->cmd.cdb_len = (uint16_t)(16 + n - 1);
		}
		p += all;
		len -= all;
	}
	return len == 0;
}

static struct iscsi_task *make_task(struct iscsi_conn *c, const uint8_t *ahs, uint32_t ahs_len)
{
	struct iscsi_task *t = task_get(c);
	const uint8_t *h = c->bhs;

	if (!t) {
		conn_close(c, "out of memory");
		return NULL;
	}
	t->itt = be32(h + BHS_ITT);
	t->cmd_sn = be32(h + BHS_CMD_SN);
	t->edtl = be32(h + CMD_EDTL);
	t->flags = h[BHS_FLAGS] & (CMD_READ | CMD_WRITE);
	t->immediate = h[BHS_OPCODE] & OP_IMMEDIATE;
	struct scsi_cmd *m = &t->cmd;
	m->nexus = c->session->nexus;
	m->tag = t->itt;
	m->attr = h[BHS_FLAGS] & CMD_ATTR;
	m->priority = c->session->params.protocol_level >= 2 ? h[2] >> 4 : 0; /* RFC 7144 5.1.1 */
	m->cdb_len = 16;
	m->done = task_done;
	m->room_out = t->flags & CMD_WRITE ? t->edtl : 0;
	m->send_only = !c->data_digest && !c->recover;
	m->room_in = t->flags & CMD_READ && !(t->flags & CMD_WRITE) ? t->edtl : 0;
	memcpy(m->lun, h + BHS_LUN, 8);
	memcpy(m->cdb, h + CMD_CDB, 16);
	if (ahs_len && !parse_ahs(t, ahs, ahs_len)) {
		t->immediate = false; /* not counted yet */
		task_put(t);
		conn_violation(c, "additional header segment malformed");
		return NULL;
	}
	return t;
}

/* RFC 7143 11.3.4, 13.10, 13.11, 13.14: what may come with a command. NULL = fine, else what is wrong. */
static const char *check_cmd(const struct iscsi_conn *c)
{
	const struct iscsi_params *p = &c->session->params;
	const uint8_t *h = c->bhs;
	bool write = h[BHS_FLAGS] & CMD_WRITE;

	if (c->rx_len && !write)
		return "immediate data without the write flag";
	if (c->rx_len && !p->immediate_data)
		return "immediate data, but ImmediateData=No";
	if (c->rx_len > p->first_burst)
		return "immediate data beyond FirstBurstLength";
	if (c->rx_len > be32(h + CMD_EDTL))
		return "immediate data beyond the expected data transfer length";
	if (!(h[BHS_FLAGS] & FLAG_FINAL) && write && p->initial_r2t)
		return "unsolicited data announced, but InitialR2T=Yes";
	if (be32(h + BHS_ITT) == ISCSI_NO_TAG)
		return "SCSI command without a task tag";
	return NULL;
}

static void hold_task(struct iscsi_conn *c, struct iscsi_task *t);

/* Immediate data and the room for what follows it unasked. */
static void keep_unasked(struct iscsi_conn *c, struct iscsi_task *t)
{
	uint32_t n = MIN(t->unsol ? t->unsol_end : c->rx_len, t->cmd.out_len);

	data_room_unasked(t, n);
	if (!t->poisoned)
		c->rx_keep = MIN(c->rx_len, n);
}

/* Its tag is that of a task we have, which is looked for before its CmdSN (4.2.2.1): a retry of that task vanishes.
 * Another command is refused, and its CmdSN counts as not received (7.3). */
static void refuse_again(struct iscsi_conn *c, const struct iscsi_task *t)
{
	bool immediate = c->bhs[BHS_OPCODE] & OP_IMMEDIATE;
	uint32_t sn = be32(c->bhs + BHS_CMD_SN);

	if (immediate || (sn != t->cmd_sn && session_in_window(c->session, sn)))
		tx_reject(c, REJECT_IN_PROGRESS, c->bhs);
}

static void refuse_command(struct iscsi_conn *c)
{
	if (c->params.discovery)
		conn_violation(c, "SCSI command in a discovery session");
	else
		tx_reject(c, REJECT_LOGOUT, c->bhs); /* 11.9.1 */
}

/* Its answer is on its way and a new command comes with its tag: it has arrived. */
static bool tag_is_free(const struct iscsi_conn *c, const struct iscsi_task *t)
{
	bool immediate = c->bhs[BHS_OPCODE] & OP_IMMEDIATE;
	uint32_t sn = be32(c->bhs + BHS_CMD_SN);

	return immediate || (sn != t->cmd_sn && session_in_window(c->session, sn));
}

void data_cmd_begin(struct iscsi_conn *c, const uint8_t *ahs, uint32_t ahs_len)
{
	struct iscsi_session *s = c->session;
	const uint8_t *h = c->bhs;
	uint32_t cmd_sn = be32(h + BHS_CMD_SN);

	if (c->no_commands) {
		refuse_command(c);
		return;
	}
	const char *why = check_cmd(c);
	if (why) {
		conn_violation(c, why);
		return;
	}
	struct iscsi_task *twin = session_find(s, be32(h + BHS_ITT));
	if (twin && !(twin->tx.numbered && tag_is_free(c, twin))) {
		refuse_again(c, twin);
		return;
	}
	if (twin)
		keep_reused(twin);
	bool checked = c->data_digest && c->rx_len, immediate = h[BHS_OPCODE] & OP_IMMEDIATE;
	enum sn_verdict v = checked ? session_sn_later(s, immediate, cmd_sn) : session_sn(s, immediate, cmd_sn);
	if (v == SN_DROP)
		return; /* 4.2.2.1: outside the window, silently ignored with its data */
	if (immediate && s->nimmediate >= IMMEDIATE_MAX) {
		tx_reject(c, REJECT_IMMEDIATE, h);
		return;
	}
	struct iscsi_task *t = make_task(c, ahs, ahs_len);
	if (!t)
		return;
	t->imm_counted = t->immediate;
	s->nimmediate += t->immediate;
	session_hash(s, t);
	t->unsol = t->flags & CMD_WRITE && !(h[BHS_FLAGS] & FLAG_FINAL);
	t->unsol_end = MIN(s->params.first_burst, t->edtl);
	if (t->unsol)
		t->seq_ns = c->now_ns;
	c->rx_task = t;
	if (v == SN_HOLD) {
		hold_task(c, t);
	} else {
		data_task_start(t);
		if (t->cmd.state == SCSI_CMD_WAIT_DATA && t->cmd.out_len)
			keep_unasked(c, t);
	}
	if (c->rx_keep)
		c->rx_where = RX_TASK;
	t->at = c->rx_keep;
}

/* Its CmdSN is ahead of its turn, or must not count before its data is known to be good (7.3): what comes with it waits
 * in pages. */
static void hold_task(struct iscsi_conn *c, struct iscsi_task *t)
{
	uint32_t n = t->unsol ? t->unsol_end : c->rx_len;

	t->state = TASK_HELD;
	data_room_unasked(t, n);
	if (t->poisoned) {
		conn_close(c, "out of memory");
		return;
	}
	t->held = (struct held){ .cmd_sn = t->cmd_sn, .conn = c, .task = t };
	list_init(&t->held.node);
	if (!t->immediate && session_hold(c->session, &t->held) < 0) {
		c->rx_task = NULL;
		task_put(t);
		return;
	}
	c->rx_keep = MIN(c->rx_len, n);
}

void data_arrived(struct iscsi_conn *c, struct iscsi_task *t)
{
	c->rx_task = NULL;
	if (t->dead && t->state != TASK_HELD)
		task_put(t);
	else if (t->state != TASK_HELD)
		advance(t);
}

/* 7.8, 7.3: the command is as if it had not come. One that was aborted counts as received. */
static void refuse_digest(struct iscsi_conn *c, struct iscsi_task *t)
{
	c->rx_task = NULL;
	tx_reject(c, REJECT_DATA_DIGEST, c->bhs);
	if (t->dead && !t->immediate)
		return;
	if (!t->immediate)
		session_unhold(c->session, &t->held);
	task_put(t);
}

void data_cmd_end(struct iscsi_conn *c, bool ok)
{
	struct iscsi_task *t = c->rx_task;

	if (!t && !ok)
		tx_reject(c, REJECT_DATA_DIGEST, c->bhs);
	if (!t)
		return;
	if (!ok) {
		refuse_digest(c, t);
		return;
	}
	t->got += c->rx_len;
	if (t->state == TASK_HELD && t->immediate && t->dead) {
		task_put(t);
		c->rx_task = NULL;
		return;
	}
	if (t->state == TASK_HELD && t->immediate)
		data_task_start(t);
	data_arrived(c, t);
}
