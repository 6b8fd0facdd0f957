/* SPDX-License-Identifier: BSD-3-Clause
 * How a connection is sent away: because its portal or target is removed, the administrator says so, or the server
 * stops. On its loop.
 *
 *   asked to log out (commands are served) -LOGOUT_NS-> new commands are rejected, what runs ends
 *     -idle after SETTLE_NS, or QUIESCE_NS-> told that it is dropped -sent, or DROP_NS-> closed
 *
 * An initiator that logs out when it is asked to leaves this at any time. */
#include "net/impl.h"

/* The step ends at end_ns at the latest; 0: somebody else counts. */
static void step(struct net_conn *c, enum leave_step step, uint64_t ns)
{
	c->leave = step;
	c->end_ns = ns ? loop_now_ns(c->loop) + ns : 0;
	if (c->end_ns)
		stream_tick(c);
}

void leave_ask(struct net_conn *c, bool session, const char *why)
{
	if (c->dead || c->leave != STAY)
		return;
	c->end_why = why;
	c->end_session = session;
	iscsi_conn_ask_logout(c->engine, LOGOUT_NS / 1000000000);
	step(c, LEAVE_ASKED, LOGOUT_NS);
}

void leave_quiesce(struct net_conn *c, uint64_t ns)
{
	if (c->dead || c->leave >= LEAVE_QUIESCED)
		return;
	iscsi_conn_quiesce(c->engine);
	c->limit_ns = ns ? loop_now_ns(c->loop) + ns : 0;
	step(c, LEAVE_QUIESCED, SETTLE_NS); /* what is on its way is rejected rather than lost */
}

void leave_drop(struct net_conn *c, bool session, const char *why)
{
	const struct iscsi_params *p = iscsi_conn_params(c->engine);

	if (c->dead || c->leave == LEAVE_DROPPED)
		return;
	c->end_why = why;
	iscsi_conn_drop(c->engine, session, (uint16_t)p->time2wait, session ? 0 : (uint16_t)p->time2retain, why);
	step(c, LEAVE_DROPPED, DROP_NS);
}

/* It has nothing under way. */
void leave_idle(struct net_conn *c)
{
	if (c->leave == LEAVE_QUIESCED && c->settled)
		leave_drop(c, c->end_session, c->end_why);
}

static void quiesced(struct net_conn *c)
{
	c->settled = true;
	bool over = c->limit_ns && loop_now_ns(c->loop) >= c->limit_ns;

	if (over || iscsi_conn_idle(c->engine))
		leave_drop(c, c->end_session, c->end_why);
	else
		c->end_ns = c->limit_ns;
}

void leave_tick(struct net_conn *c)
{
	if (!c->end_ns || loop_now_ns(c->loop) < c->end_ns)
		return;
	if (c->leave == LEAVE_ASKED)
		leave_quiesce(c, QUIESCE_NS);
	else if (c->leave == LEAVE_QUIESCED)
		quiesced(c);
	else
		stream_kill(c, c->end_why);
}
