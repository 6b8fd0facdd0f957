/* SPDX-License-Identifier: BSD-3-Clause
 * SCSI Command and Data-Out (RFC 7143 11.3, 11.7, 11.8): immediate, unsolicited and solicited data of writes.
 *
 * Data comes in order (we keep DataPDUInOrder and DataSequenceInOrder at Yes), so `got` says all of it. A task
 * executes when everything SCSI asked for lies in its pages. A task that fails earlier answers when each sequence
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

	if (!c) {
		task_put(t);
		return;
	}
	if (m->aborted) {
		t->dead = true;
		list_del(&t->starved);
		if (c->rx_task != t)
			task_put(t);
	} else if (t->discarded) {
		task_put(t);
	} else {
		t->finished = true;
		if (!draining(t))
			tx_respond(t);
	}
	c->host.wake(c->user);
}

static void poison(struct iscsi_task *t, uint8_t asc, uint8_t ascq)
{
	if (!t->poisoned) {
		t->asc = asc;
		t->ascq = ascq;
	}
	t->poisoned = true;
}

static void send_r2t(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;
	struct iscsi_session *s = c->session;
	struct iscsi_r2t *r = &t->r2t[(t->r2t_head + t->r2t_n) % LIM_R2T];
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_R2T, CTL_NEXT_STAT_SN);

	if (!k)
		return;
	if (++s->next_ttt == ISCSI_NO_TAG)
		s->next_ttt = 0;
	*r = (struct iscsi_r2t){ .ttt = s->next_ttt, .off = t->r2t_off,
		.len = MIN(t->cmd.out_len - t->r2t_off, s->params.max_burst) };
	memcpy(k->bhs + BHS_LUN, t->cmd.lun, 8);
	put_be32(k->bhs + BHS_ITT, t->itt);
	put_be32(k->bhs + BHS_TTT, r->ttt);
	put_be32(k->bhs + R2T_SN, t->r2t_sn++);
	put_be32(k->bhs + R2T_OFFSET, r->off);
	put_be32(k->bhs + R2T_LEN, r->len);
	t->r2t_off += r->len;
	t->r2t_n++;
	c->data_ns = c->now_ns;
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
		poison(t, 0x55, 0x03); /* insufficient resources */
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

	if (t->unsol)
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
	while (t->r2t_n < t->conn->session->params.max_r2t && t->r2t_off < want && t->conn->state == CONN_FFP)
		send_r2t(t);
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
static void room_unasked(struct iscsi_task *t, uint32_t n)
{
	if (n <= t->have)
		return;
	charge(t, n, false);
	if (scsi_data_extend(&t->cmd, n) < 0)
		poison(t, 0x55, 0x03);
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
	m->send_only = !c->data_digest;
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

	room_unasked(t, n);
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

void data_cmd_begin(struct iscsi_conn *c, const uint8_t *ahs, uint32_t ahs_len)
{
	struct iscsi_session *s = c->session;
	const uint8_t *h = c->bhs;

	if (c->no_commands) {
		refuse_command(c);
		return;
	}
	const char *why = check_cmd(c);
	if (why) {
		conn_violation(c, why);
		return;
	}
	if (session_find(s, be32(h + BHS_ITT))) {
		refuse_again(c, session_find(s, be32(h + BHS_ITT)));
		return;
	}
	enum sn_verdict v = session_sn(s, h[BHS_OPCODE] & OP_IMMEDIATE, be32(h + BHS_CMD_SN));
	if (v == SN_DROP)
		return; /* 4.2.2.1: outside the window, silently ignored with its data */
	if (h[BHS_OPCODE] & OP_IMMEDIATE && s->nimmediate >= IMMEDIATE_MAX) {
		tx_reject(c, REJECT_IMMEDIATE, h);
		return;
	}
	struct iscsi_task *t = make_task(c, ahs, ahs_len);
	if (!t)
		return;
	s->nimmediate += t->immediate;
	session_hash(s, t);
	t->unsol = t->flags & CMD_WRITE && !(h[BHS_FLAGS] & FLAG_FINAL);
	t->unsol_end = MIN(s->params.first_burst, t->edtl);
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
}

/* Its CmdSN is ahead of its turn: what comes with it waits in pages. */
static void hold_task(struct iscsi_conn *c, struct iscsi_task *t)
{
	uint32_t n = t->unsol ? t->unsol_end : c->rx_len;
	struct held *h = calloc(1, sizeof(*h));

	t->state = TASK_HELD;
	room_unasked(t, n);
	if (!h || t->poisoned) {
		free(h);
		conn_close(c, "out of memory");
		return;
	}
	h->cmd_sn = t->cmd_sn;
	h->conn = c;
	h->task = t;
	if (session_hold(c->session, h) < 0) {
		free(h);
		c->rx_task = NULL;
		task_put(t);
		return;
	}
	c->rx_keep = MIN(c->rx_len, n);
}

/* The PDU that carried data for t is complete. */
static void data_arrived(struct iscsi_conn *c, struct iscsi_task *t, bool ok)
{
	c->rx_task = NULL;
	if (t->dead) {
		task_put(t);
		return;
	}
	t->got += c->rx_len;
	if (!ok) {
		tx_reject(c, REJECT_DATA_DIGEST, c->bhs); /* 7.8 */
		poison(t, 0x47, 0x05);
	}
	if (t->state != TASK_HELD)
		advance(t);
}

static void unhold_task(struct iscsi_session *s, struct iscsi_task *t)
{
	struct held *h, *tmp;

	list_for_each_safe(h, tmp, &s->held, node) {
		if (h->task != t)
			continue;
		session_unhold(s, h);
		free(h);
	}
	task_put(t);
}

/* 7.8, 7.3: a command whose immediate data is broken is discarded: it ends without a word, and its CmdSN counts as not
 * received. False: a later one was taken since, so that a retry would vanish. */
static bool discard(struct iscsi_conn *c, struct iscsi_task *t)
{
	struct iscsi_session *s = c->session;
	bool held = t->state == TASK_HELD;

	if (!held && !t->immediate && s->exp_cmd_sn != t->cmd_sn + 1)
		return false;
	c->rx_task = NULL;
	tx_reject(c, REJECT_DATA_DIGEST, c->bhs);
	if (held) {
		unhold_task(s, t);
		return true;
	}
	if (!t->immediate)
		s->exp_cmd_sn = t->cmd_sn;
	session_unhash(s, t); /* the retry has the same tag */
	list_del(&t->starved);
	t->discarded = true;
	if (t->finished) {
		task_put(t);
	} else if (t->cmd.state == SCSI_CMD_WAIT_DATA) {
		t->state = TASK_EXEC;
		scsi_fail(&t->cmd, 0x0b, 0x47, 0x05); /* for SCSI's own state; task_done() drops it */
	}
	return true;
}

void data_cmd_end(struct iscsi_conn *c, bool ok)
{
	struct iscsi_task *t = c->rx_task;

	if (t && (ok || t->dead || !discard(c, t)))
		data_arrived(c, t, ok);
}

/* Checks a Data-Out PDU against the sequence it says to belong to; NULL = fine. */
static const char *check_unsolicited(struct iscsi_conn *c, struct iscsi_task *t)
{
	const uint8_t *h = c->bhs;

	if (!t->unsol)
		return "unsolicited data that was not announced";
	if (be32(h + DATA_OFFSET) + (uint64_t)c->rx_len > t->unsol_end)
		return "unsolicited data beyond FirstBurstLength";
	if (be32(h + DATA_SN) != t->unsol_sn++ || be32(h + DATA_OFFSET) != t->got)
		poison(t, 0x47, 0x05);
	return NULL;
}

static const char *check_solicited(struct iscsi_conn *c, struct iscsi_task *t)
{
	struct iscsi_r2t *r = &t->r2t[t->r2t_head];
	const uint8_t *h = c->bhs;

	if (!t->r2t_n || be32(h + BHS_TTT) != r->ttt)
		return "data for a target transfer tag that is not outstanding";
	if (be32(h + DATA_OFFSET) + (uint64_t)c->rx_len > (uint64_t)r->off + r->len)
		return "more data than the R2T asked for";
	if (be32(h + DATA_SN) != r->data_sn++ || be32(h + DATA_OFFSET) != t->got)
		poison(t, 0x47, 0x05);
	return NULL;
}

void data_out_begin(struct iscsi_conn *c)
{
	const uint8_t *h = c->bhs;
	struct iscsi_task *t = session_find(c->session, be32(h + BHS_ITT));

	c->data_ns = c->now_ns;
	if (!t || t->conn != c || !(t->flags & CMD_WRITE) || t->state > TASK_DATA)
		return; /* of a task that was aborted or has failed, or on the wrong connection: nobody wants it */
	bool solicited = be32(h + BHS_TTT) != ISCSI_NO_TAG;
	const char *why = solicited ? check_solicited(c, t) : check_unsolicited(c, t);
	if (why) {
		conn_violation(c, why);
		return;
	}
	c->rx_task = t;
	uint32_t room = t->state == TASK_HELD ? t->have : MIN(t->have, t->cmd.out_len);
	if (t->poisoned || t->finished || t->got >= room)
		return;
	if (t->state != TASK_HELD && t->cmd.state != SCSI_CMD_WAIT_DATA)
		return;
	c->rx_keep = MIN(c->rx_len, room - t->got);
	if (c->rx_keep)
		c->rx_where = RX_TASK;
}

void data_out_end(struct iscsi_conn *c, bool ok)
{
	struct iscsi_task *t = c->rx_task;

	if (!t)
		return;
	if (c->bhs[BHS_FLAGS] & FLAG_FINAL && !t->dead) {
		if (be32(c->bhs + BHS_TTT) == ISCSI_NO_TAG) {
			if (t->got + c->rx_len != t->unsol_end)
				poison(t, 0x0c, 0x0d); /* 4.2.5.2: all of FirstBurstLength, or all of the data */
			t->unsol = false;
		} else {
			struct iscsi_r2t *r = &t->r2t[t->r2t_head];
			if (t->got + c->rx_len != r->off + r->len)
				poison(t, 0x0c, 0x0d); /* not enough data, 11.4.7.2 */
			t->r2t_head = (t->r2t_head + 1) % LIM_R2T;
			t->r2t_n--;
		}
	}
	data_arrived(c, t, ok);
}
