/* SPDX-License-Identifier: BSD-3-Clause
 * Data-Out (RFC 7143 11.7): the unsolicited sequence of a write, and those that answer R2Ts.
 *
 * We keep DataPDUInOrder and DataSequenceInOrder at Yes, so each sequence fills its range from the left and `got` says all of
 * it. At level 0 whatever is out of order fails the task. From level 1 on what is missing is asked for again (7.8, 7.9):
 * after a gap or a bad digest the rest of the sequence is discarded; when it has ended, a recovery R2T takes its place. */
#include "base/check.h"
#include "iscsi/impl.h"

static struct iscsi_r2t *nth(struct iscsi_task *t, uint32_t i)
{
	return &t->r2t[(t->r2t_head + i) % LIM_R2T];
}

static void take_out(struct iscsi_task *t, uint32_t i)
{
	for (; i; i--)
		*nth(t, i) = *nth(t, i - 1);
	t->r2t_head = (t->r2t_head + 1) % LIM_R2T;
	t->r2t_n--;
}

/* Number i of the outstanding R2Ts gets no more data; what it lacks is asked for by another. */
static void sequence_over(struct iscsi_task *t, uint32_t i)
{
	struct iscsi_r2t r = *nth(t, i);

	take_out(t, i);
	if (r.got == r.len || t->poisoned || t->stopping || t->finished)
		return;
	if (t->recoveries++ < RECOVER_MAX)
		data_send_r2t(t, r.off + r.got, r.len - r.got);
	else
		data_fail(t, 0x47, 0x05);
}

/* What is left of an unsolicited sequence is solicited like everything else. */
static void unsolicited_over(struct iscsi_task *t)
{
	t->unsol = false;
	t->r2t_off = MAX(t->r2t_off, t->got);
}

static bool stopped(const struct iscsi_conn *c, const struct iscsi_task *t)
{
	return c->now_ns >= t->seq_ns + ((uint64_t)SEQ_WAIT_S << MIN(t->recoveries, 5u)) * NS_PER_S;
}

static void ask_anew(struct iscsi_task *t)
{
	unsolicited_over(t);
	for (uint32_t i = t->r2t_n; i; i--)
		sequence_over(t, 0);
	data_task_continue(t);
}

/* 7.1.4.1 b: a sequence that has stopped, or whose end was lost. */
void data_out_tick(struct iscsi_conn *c)
{
	struct iscsi_task *t, *tmp;

	list_for_each_safe(t, tmp, &c->tasks, node)
		if (t->state == TASK_DATA && (t->unsol || t->r2t_n) && c->rx_task != t && stopped(c, t))
			ask_anew(t);
}

/* --- where a PDU belongs --- */

static const char *check_unsolicited(struct iscsi_conn *c, struct iscsi_task *t)
{
	const uint8_t *h = c->bhs;

	if (!t->unsol)
		return "unsolicited data that was not announced";
	if (be32(h + DATA_OFFSET) + (uint64_t)c->rx_len > t->unsol_end)
		return "unsolicited data beyond FirstBurstLength";
	return NULL;
}

static const char *check_solicited(struct iscsi_conn *c, const struct iscsi_r2t *r)
{
	const uint8_t *h = c->bhs;

	if (!r)
		return "data for a target transfer tag that is not outstanding";
	if (be32(h + DATA_OFFSET) + (uint64_t)c->rx_len > (uint64_t)r->off + r->len)
		return "more data than the R2T asked for";
	return NULL;
}

/* The R2T that it answers, or NULL. R2Ts are answered in order (11.8): at level 0 it is the first. */
static struct iscsi_r2t *find_r2t(struct iscsi_conn *c, struct iscsi_task *t)
{
	uint32_t ttt = be32(c->bhs + BHS_TTT), i = 0;

	if (!c->recover)
		return t->r2t_n && nth(t, 0)->ttt == ttt ? nth(t, 0) : NULL;
	while (i < t->r2t_n && nth(t, i)->ttt != ttt)
		i++;
	if (i == t->r2t_n)
		return NULL;
	for (; i; i--) /* the ends of those before it were lost */
		sequence_over(t, 0);
	for (i = 0; nth(t, i)->ttt != ttt; i++)
		;
	return nth(t, i);
}

/* The next of its sequence? A duplicate of what came is passed over; after a gap nothing of the sequence is taken. */
static bool in_order(struct iscsi_conn *c, struct iscsi_task *t, uint32_t *next_sn, uint32_t at, bool *bad)
{
	uint32_t sn = be32(c->bhs + DATA_SN);

	if (sn == *next_sn && be32(c->bhs + DATA_OFFSET) == at && !*bad) {
		++*next_sn;
		return true;
	}
	if (!c->recover) {
		++*next_sn;
		data_fail(t, 0x47, 0x05);
		return true;
	}
	if (sn_le(*next_sn, sn)) {
		*next_sn = sn + 1;
		*bad = true;
	}
	return false;
}

/* How many of the PDU's bytes go to the task's pages, which begin at `at`. */
static uint32_t wanted(const struct iscsi_conn *c, const struct iscsi_task *t, uint32_t at)
{
	uint32_t room = t->state == TASK_HELD ? t->have : MIN(t->have, t->cmd.out_len);

	if (t->poisoned || t->finished || at >= room)
		return 0;
	if (t->state != TASK_HELD && t->cmd.state != SCSI_CMD_WAIT_DATA)
		return 0;
	return MIN(c->rx_len, room - at);
}

/* The cursor goes where the data belongs. */
static void aim(struct iscsi_conn *c, struct iscsi_task *t)
{
	uint32_t at = be32(c->bhs + DATA_OFFSET);

	c->rx_keep = wanted(c, t, at);
	if (!c->rx_keep)
		return;
	c->rx_where = RX_TASK;
	if (c->recover && t->at != at)
		tx_seek(t, at, &t->cur);
	t->at = at + c->rx_keep;
}

static const char *begin_solicited(struct iscsi_conn *c, struct iscsi_task *t)
{
	struct iscsi_r2t *r = find_r2t(c, t);

	c->rx_good = false;
	if (!r && c->recover)
		return NULL; /* it was replaced by a recovery R2T */
	const char *why = check_solicited(c, r);
	if (why)
		return why;
	c->rx_task = t;
	c->rx_r2t = (uint32_t)(r - t->r2t);
	c->rx_good = in_order(c, t, &r->data_sn, r->off + r->got, &r->bad);
	return NULL;
}

static const char *begin_unsolicited(struct iscsi_conn *c, struct iscsi_task *t)
{
	c->rx_good = false;
	if (!t->unsol && c->recover)
		return NULL; /* given up: it is solicited now */
	const char *why = check_unsolicited(c, t);
	if (why)
		return why;
	c->rx_task = t;
	c->rx_good = in_order(c, t, &t->unsol_sn, t->got, &t->unsol_bad);
	return NULL;
}

void data_out_begin(struct iscsi_conn *c)
{
	const uint8_t *h = c->bhs;
	struct iscsi_task *t = session_find(c->session, be32(h + BHS_ITT));

	c->data_ns = c->now_ns;
	if (!t || t->conn != c || !(t->flags & CMD_WRITE) || t->state > TASK_DATA)
		return; /* of a task that was aborted or has failed, or on the wrong connection: nobody wants it */
	t->seq_ns = c->now_ns;
	const char *why = be32(h + BHS_TTT) == ISCSI_NO_TAG ? begin_unsolicited(c, t) : begin_solicited(c, t);
	if (why)
		conn_violation(c, why);
	else if (c->rx_good)
		aim(c, t);
}

/* --- its end --- */

/* Counts what came in order; says that the sequence lacks something otherwise. */
static void took(struct iscsi_conn *c, struct iscsi_task *t, struct iscsi_r2t *r, bool ok)
{
	bool *bad = r ? &r->bad : &t->unsol_bad;

	if (!c->rx_good)
		return;
	if (!ok && c->recover) {
		*bad = true;
		return;
	}
	if (!ok)
		data_fail(t, 0x47, 0x05);
	t->got += c->rx_len;
	if (r)
		r->got += c->rx_len;
}

static void end_unsolicited(struct iscsi_conn *c, struct iscsi_task *t)
{
	if (!t->unsol_bad && t->got != t->unsol_end)
		data_fail(t, 0x0c, 0x0d); /* 4.2.5.2: all of FirstBurstLength, or all of the data */
	unsolicited_over(t);
}

static void end_solicited(struct iscsi_conn *c, struct iscsi_task *t, struct iscsi_r2t *r)
{
	if (!c->recover && r->got != r->len)
		data_fail(t, 0x0c, 0x0d); /* not enough data, 11.4.7.2 */
	sequence_over(t, ((uint32_t)(r - t->r2t) + LIM_R2T - t->r2t_head) % LIM_R2T);
}

void data_out_end(struct iscsi_conn *c, bool ok)
{
	struct iscsi_task *t = c->rx_task;
	bool solicited = be32(c->bhs + BHS_TTT) != ISCSI_NO_TAG, last = c->bhs[BHS_FLAGS] & FLAG_FINAL;

	if (!ok)
		tx_reject(c, REJECT_DATA_DIGEST, c->bhs); /* 7.8 */
	if (!t)
		return;
	if (!t->dead) {
		struct iscsi_r2t *r = solicited ? &t->r2t[c->rx_r2t] : NULL;
		took(c, t, r, ok);
		if (last && r)
			end_solicited(c, t, r);
		else if (last)
			end_unsolicited(c, t);
	}
	data_arrived(c, t);
}
