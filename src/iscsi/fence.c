/* SPDX-License-Identifier: BSD-3-Clause
 * Response fence, RFC 7143 4.2.2.3: over several connections a response with a fence leaves when every status before it was
 * acknowledged on every connection, and those after it leave when it was acknowledged. On one connection their order is
 * fence enough. Acknowledgements are asked for by NOP-In behind what waits to be sent.
 *
 *   OPEN -fenced response-> BEFORE -all acknowledged-> AFTER -it is acknowledged-> OPEN, or BEFORE for the next
 *
 * All responses of the session wait meanwhile, of whatever logical unit: it happens after task management only. */
#include "iscsi/impl.h"

static struct iscsi_conn *conn_of(struct txitem *x)
{
	return x->ctl ? container_of(x, struct iscsi_ctl, tx)->conn : container_of(x, struct iscsi_task, tx)->conn;
}

static bool needed(const struct iscsi_session *s)
{
	return s->params.response_fence && s->nconns > 1;
}

/* Asks the peer for an ExpStatSN behind everything that waits to be sent to it now. */
static void solicit(struct iscsi_conn *c)
{
	struct iscsi_ctl *k = c->state == CONN_FFP && !c->deaf ? tx_ctl_last(c, ISCSI_NOP_IN, CTL_NEXT_STAT_SN) : NULL;

	if (!k)
		return;
	put_be32(k->bhs + BHS_ITT, ISCSI_NO_TAG);
	put_be32(k->bhs + BHS_TTT, conn_next_ttt(c));
	k->after = AFTER_FENCE;
	c->fence_wait = true;
	c->fence_noted = false;
	c->host.wake(c->user);
}

static bool acknowledged(const struct iscsi_session *s)
{
	const struct iscsi_conn *c;

	list_for_each(c, &s->conns, in_session)
		if (c->fence_wait)
			return false;
	return true;
}

static void begin(struct iscsi_session *s)
{
	struct iscsi_conn *c;

	s->fence = FENCE_BEFORE;
	list_for_each(c, &s->conns, in_session)
		solicit(c);
}

/* To its connection's queue; one without allegiance has been lost with its connection, and is answered when reassigned. */
static struct iscsi_conn *release(struct txitem *x)
{
	struct iscsi_conn *c = conn_of(x);

	list_del(&x->node);
	if (!c)
		return NULL;
	list_add_tail(&c->dataq, &x->node);
	c->host.wake(c->user);
	return c;
}

static void release_all(struct iscsi_session *s)
{
	s->fence = FENCE_OPEN;
	while (!list_empty(&s->fenced)) {
		struct txitem *x = list_first(&s->fenced, struct txitem, node);
		if (x->fence && needed(s)) {
			begin(s);
			return;
		}
		release(x);
	}
}

static void step(struct iscsi_session *s)
{
	struct txitem *x = list_empty(&s->fenced) ? NULL : list_first(&s->fenced, struct txitem, node);

	if (s->fence == FENCE_AFTER || !x || !x->fence) {
		release_all(s);
		return;
	}
	s->fence = FENCE_AFTER;
	struct iscsi_conn *c = release(x);
	if (c)
		solicit(c);
}

/* As often as steps need no acknowledgement. */
static void run(struct iscsi_session *s)
{
	while (s->fence != FENCE_OPEN && acknowledged(s))
		step(s);
}

void fence_respond(struct iscsi_session *s, struct txitem *x, bool fence)
{
	x->fence = fence;
	if (s->fence == FENCE_OPEN && !(fence && needed(s))) {
		list_add_tail(&conn_of(x)->dataq, &x->node);
		return;
	}
	list_add_tail(&s->fenced, &x->node);
	if (s->fence == FENCE_OPEN)
		begin(s);
	run(s);
}

void fence_emitted(struct iscsi_conn *c)
{
	c->fence_sn = c->stat_sn;
	c->fence_noted = true;
}

void fence_heard(struct iscsi_conn *c)
{
	if (!c->fence_wait || !c->fence_noted || !sn_le(c->fence_sn, be32(c->bhs + BHS_EXP_STAT_SN)))
		return;
	c->fence_wait = false;
	run(c->session);
}

void fence_conn_gone(struct iscsi_session *s, struct iscsi_conn *c)
{
	struct txitem *x, *tmp;

	list_for_each_safe(x, tmp, &s->fenced, node)
		if (x->ctl && conn_of(x) == c)
			ctl_put(c->pool, container_of(x, struct iscsi_ctl, tx));
	c->fence_wait = false;
	run(s);
}
