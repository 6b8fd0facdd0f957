/* SPDX-License-Identifier: BSD-3-Clause
 * A session: command numbering (RFC 7143 4.2.2.1), tasks by initiator task tag, requests that arrived before
 * their turn. Its connections and it live on one loop. */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "iscsi/impl.h"

struct iscsi_session *iscsi_session_new(struct scsi_nexus *nexus, const struct iscsi_params *p, uint16_t tsih,
	uint32_t exp_cmd_sn, uint32_t window)
{
	struct iscsi_session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->nexus = nexus;
	s->params = *p;
	s->tsih = tsih;
	s->exp_cmd_sn = exp_cmd_sn;
	s->window = window;
	s->max_cmd_sn = exp_cmd_sn + window - 1;
	list_init(&s->held);
	list_init(&s->tmf_waits);
	list_init(&s->fenced);
	if (nexus)
		scsi_nexus_transport(nexus, (uint8_t)p->protocol_level, tmf_lost, s);
	list_init(&s->conns);
	list_init(&s->lost);
	list_init(&s->reassigns);
	return s;
}

void iscsi_session_free(struct iscsi_session *s)
{
	if (!s)
		return;
	CHECK(s->nconns == 0);
	lost_drop_all(s);
	while (!list_empty(&s->held)) { /* places without a request */
		struct held *h = list_first(&s->held, struct held, node);
		list_del(&h->node);
		free(h);
	}
	free(s);
}

struct iscsi_conn *session_conn(struct iscsi_session *s, uint16_t cid)
{
	struct iscsi_conn *c;

	list_for_each(c, &s->conns, in_session)
		if (c->cid == cid)
			return c;
	return NULL;
}

void *iscsi_session_conn(struct iscsi_session *s, uint16_t cid)
{
	struct iscsi_conn *c = session_conn(s, cid);

	return c ? c->user : NULL;
}

struct scsi_nexus *iscsi_session_nexus(const struct iscsi_session *s)
{
	return s->nexus;
}

const struct iscsi_params *iscsi_session_params(const struct iscsi_session *s)
{
	return &s->params;
}

bool iscsi_session_room(const struct iscsi_session *s)
{
	return s->nconns < s->params.max_connections;
}

bool iscsi_session_logged_out(const struct iscsi_session *s)
{
	return s->logged_out;
}

bool iscsi_session_closing(const struct iscsi_session *s)
{
	return s->closing;
}

void iscsi_session_close(struct iscsi_session *s)
{
	s->closing = true;
	lost_drop_all(s);
}

uint16_t iscsi_session_tsih(const struct iscsi_session *s)
{
	return s->tsih;
}

void iscsi_session_stats(const struct iscsi_session *s, struct iscsi_session_stats *ret)
{
	*ret = s->stats;
	ret->inflight = s->inflight;
	ret->connections = s->nconns;
}

/* The window is what is left of its slots: MaxCmdSN stands still while commands run and never goes back. */
uint32_t session_max_cmd_sn(struct iscsi_session *s)
{
	uint32_t now = s->exp_cmd_sn + (s->window - MIN(s->inflight, s->window)) - 1;

	if (sn_lt(s->max_cmd_sn, now))
		s->max_cmd_sn = now;
	return s->max_cmd_sn;
}

void iscsi_session_window(struct iscsi_session *s, uint32_t window)
{
	s->window = window;
}

bool session_in_window(struct iscsi_session *s, uint32_t cmd_sn)
{
	return sn_le(s->exp_cmd_sn, cmd_sn) && sn_le(cmd_sn, session_max_cmd_sn(s));
}

enum sn_verdict session_sn(struct iscsi_session *s, bool immediate, uint32_t cmd_sn)
{
	if (immediate)
		return SN_NOW;
	if (!session_in_window(s, cmd_sn))
		return SN_DROP;
	if (cmd_sn != s->exp_cmd_sn)
		return SN_HOLD;
	s->exp_cmd_sn++;
	return SN_NOW;
}

enum sn_verdict session_sn_later(struct iscsi_session *s, bool immediate, uint32_t cmd_sn)
{
	return immediate || session_in_window(s, cmd_sn) ? SN_HOLD : SN_DROP;
}

static struct iscsi_task **bucket(struct iscsi_session *s, uint32_t itt)
{
	return &s->itt[(itt ^ itt >> 6 ^ itt >> 16) % ITT_BUCKETS];
}

struct iscsi_task *session_find(struct iscsi_session *s, uint32_t itt)
{
	struct iscsi_task *t = *bucket(s, itt);

	while (t && t->itt != itt)
		t = t->hash_next;
	return t;
}

void session_hash(struct iscsi_session *s, struct iscsi_task *t)
{
	struct iscsi_task **b = bucket(s, t->itt);

	t->hash_next = *b;
	*b = t;
	t->hashed = true;
}

void session_unhash(struct iscsi_session *s, struct iscsi_task *t)
{
	struct iscsi_task **b = bucket(s, t->itt);

	while (*b && *b != t)
		b = &(*b)->hash_next;
	if (*b)
		*b = t->hash_next;
	t->hashed = false;
}

/* Keeps h in CmdSN order. -EEXIST: that CmdSN waits already (a retry; the first stands). -ENOBUFS: too much waits. */
int session_hold(struct iscsi_session *s, struct held *h)
{
	struct held *it;

	if (s->nheld >= HELD_MAX || s->held_bytes + h->len > HELD_BYTES)
		return -ENOBUFS;
	list_for_each(it, &s->held, node) {
		if (it->cmd_sn == h->cmd_sn)
			return -EEXIST;
		if (sn_lt(h->cmd_sn, it->cmd_sn))
			break;
	}
	list_add_tail(&it->node, &h->node);
	s->nheld++;
	s->held_bytes += h->len;
	return 0;
}

uint32_t session_ttt(struct iscsi_session *s)
{
	do
		s->next_ttt++;
	while (!s->next_ttt || s->next_ttt == ISCSI_NO_TAG);
	return s->next_ttt;
}

/* Takes h out; the caller frees it. */
void session_unhold(struct iscsi_session *s, struct held *h)
{
	list_del(&h->node);
	s->nheld--;
	s->held_bytes -= h->len;
}

/* Another takes h's place in the order, of nobody. */
static void keep_place(struct iscsi_session *s, struct held *h)
{
	struct held *k = calloc(1, sizeof(*k));

	if (!k)
		return;
	k->cmd_sn = h->cmd_sn;
	list_add_tail(&h->node, &k->node);
	s->nheld++;
}

void session_drop_held(struct iscsi_session *s, struct iscsi_conn *c)
{
	struct held *h, *tmp;

	list_for_each_safe(h, tmp, &s->held, node) {
		if (h->conn != c)
			continue;
		if (h->task && h->task->dead) /* aborted, which counts as received */
			keep_place(s, h);
		session_unhold(s, h);
		if (h->task) { /* it is in conn->tasks and goes with the connection; the initiator may send it again before */
			if (h->task->hashed)
				session_unhash(s, h->task);
			continue;
		}
		free(h->data);
		free(h);
	}
}
