/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: connections - dialing, joining, logging out, losing them - and what becomes of their tasks:
 * connection recovery (7.1.4.3) at level 2, else session recovery (7.1.4.4). */
#include "iscsi/initiator_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define REDIAL_MIN_NS (100 * NS_PER_MS)
#define REDIAL_MAX_NS (5 * NS_PER_S)

struct ini_conn *ini_conn_new(struct iscsi_ini *i, unsigned k)
{
	struct ini_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->i = i;
	c->k = k;
	c->batch = 1;
	c->rx_need = ISCSI_BHS;
	list_init(&c->cmds);
	list_init(&c->data);
	list_init(&c->again);
	list_init(&c->linger);
	list_init(&c->ctl);
	c->hdr = malloc(INI_HDR);
	if (c->hdr)
		return c;
	free(c);
	return NULL;
}

static void free_ctl(struct ini_conn *c)
{
	while (!list_empty(&c->ctl)) {
		struct ini_ctl *k = list_first(&c->ctl, struct ini_ctl, node);

		list_del(&k->node);
		free(k);
	}
	c->nctl = 0;
}

void ini_conn_free(struct ini_conn *c)
{
	if (!c)
		return;
	free_ctl(c);
	iscsi_text_free(&c->text);
	free(c->rx_buf);
	free(c->hdr);
	free(c);
}

bool ini_level(const struct iscsi_ini *i, unsigned level)
{
	return i->params.erl >= level;
}

struct ini_conn *ini_any(const struct iscsi_ini *i)
{
	struct ini_conn *best = NULL;

	for (unsigned k = 0; k < i->conf.connections && i->state == INI_UP; k++) {
		struct ini_conn *c = i->conn[k];

		if (c->state == CONN_FFP && !c->draining && (!best || c->ncmds < best->ncmds))
			best = c;
	}
	return best;
}

static bool any_transport(const struct iscsi_ini *i)
{
	for (unsigned k = 0; k < i->conf.connections; k++)
		if (i->conn[k]->transport)
			return true;
	return false;
}

static uint64_t backoff(unsigned tries)
{
	if (!tries)
		return 0;
	return tries > 6 ? REDIAL_MAX_NS : MIN(REDIAL_MIN_NS << (tries - 1), REDIAL_MAX_NS);
}

static void dial(struct ini_conn *c, uint64_t at_ns)
{
	c->state = CONN_WAIT;
	c->dial_ns = at_ns;
}

/* --- the session as a whole --- */

static void finish_all(struct iscsi_ini *i, int error, bool but_retries)
{
	for (unsigned s = 0; s < i->nslots; s++) {
		struct iscsi_ini_cmd *cmd = i->slot[s];

		if (cmd && but_retries && cmd->retry && cmd->conn)
			ini_requeue(i, cmd);
		else if (cmd && !(but_retries && cmd->retry))
			ini_finish(i, cmd, error);
	}
}

/* All transports are gone: the session ends, or begins anew. */
static void settle(struct iscsi_ini *i)
{
	struct ini_conn *first = i->conn[0];

	if ((i->state != INI_FALLING && i->state != INI_LEAVING) || any_transport(i))
		return;
	i->orphan_ns = i->orphan_end_ns = 0;
	for (unsigned k = 0; k < i->conf.connections; k++)
		i->conn[k]->orphaned = false;
	if (i->state == INI_LEAVING || !i->conf.retry_ns) {
		finish_all(i, -ECONNRESET, false);
		i->state = INI_CLOSED;
		return;
	}
	finish_all(i, -ECONNRESET, true);
	ini_tmf_end_all(i);
	i->state = INI_DOWN;
	i->down_told = false;
	i->tsih = 0;
	i->nconns = 1;
	i->down_ns = i->now_ns;
	i->tries = 0;
	first->addr[0] = 0;
	first->hops = 0;
	dial(first, i->now_ns + first->wait_ns);
}

static void give_up_all(struct iscsi_ini *i, const char *why)
{
	for (unsigned k = 0; k < i->conf.connections; k++) {
		if (i->conn[k]->state == CONN_WAIT)
			i->conn[k]->state = CONN_IDLE;
		ini_fail(i->conn[k], 0, why);
	}
	settle(i);
}

void ini_end(struct iscsi_ini *i, unsigned code, const char *why)
{
	if (i->state == INI_LEAVING || i->state == INI_CLOSED)
		return;
	if (i->state != INI_FALLING)
		snprintf(i->why_text, sizeof(i->why_text), "%s", why);
	i->state = INI_LEAVING;
	i->closed_code = code;
	give_up_all(i, why);
}

void iscsi_ini_close(struct iscsi_ini *i, const char *why)
{
	ini_end(i, 0, why);
}

void ini_session_lost(struct iscsi_ini *i, const char *why)
{
	if (i->state != INI_UP)
		return;
	if (i->logged_out) { /* the target need not wait with closing until its answer has arrived */
		ini_end(i, 0, "logged out");
		return;
	}
	snprintf(i->why_text, sizeof(i->why_text), "%s", why);
	i->state = INI_FALLING;
	i->stats.sessions_lost++;
	give_up_all(i, why);
}

/* --- giving up a connection; what follows comes when its transport is gone --- */

void ini_fail(struct ini_conn *c, unsigned code, const char *why)
{
	if (c->state == CONN_BAD || c->state == CONN_OUT || c->state == CONN_IDLE || c->state == CONN_WAIT)
		return;
	snprintf(c->why, sizeof(c->why), "%s", why);
	c->code = code;
	c->tell_connect = false;
	c->state = c->transport ? CONN_BAD : CONN_IDLE;
	c->tell_hangup = c->transport;
}

void iscsi_ini_drop(struct iscsi_ini *i, unsigned k, const char *why)
{
	if (k < i->conf.connections)
		ini_fail(i->conn[k], 0, why);
}

/* Nothing of the old transport is left. */
static void reset(struct ini_conn *c)
{
	free_ctl(c);
	free(c->rx_buf);
	iscsi_text_free(&c->text);
	list_splice_tail(&c->i->done, &c->linger);
	c->transport = c->tell_connect = c->tell_hangup = c->ffp = c->draining = c->text_wanted = c->unsure = false;
	c->rx_buf = NULL;
	c->rx_cmd = NULL;
	c->rx_state = RX_BHS;
	c->rx_have = 0;
	c->rx_need = ISCSI_BHS;
	c->header_digest = c->data_digest = c->stat_sn_known = false;
	c->left = 0;
	c->niov = c->at = 0;
	c->stat_seen = c->pinged_ns = c->probed_ns = c->scan_ns = c->up_ns = 0;
	c->stat_tries = 0;
	c->probe_itt = 0;
	c->heard = false;
	c->state = CONN_IDLE;
	ini_tmf_lost(c);
	for (unsigned k = 0; k < c->i->conf.connections; k++) /* Logout Requests that it carried */
		if (c->i->conn[k]->logout_via == c)
			c->i->conn[k]->logout_via = NULL;
}

/* --- level 2 --- */

/* The connection's tasks have no allegiance from now on. */
static void orphan(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;
	struct iscsi_ini_cmd *cmd, *next;

	list_for_each_safe(cmd, next, &c->cmds, node) {
		list_del(&cmd->datanode);
		list_del(&cmd->node);
		list_add_tail(&i->orphans, &cmd->node);
		cmd->orphan = true;
		cmd->batch = 0;
		cmd->asked = 0;
	}
	c->ncmds = c->held = 0;
}

static void recover_later(struct iscsi_ini *i, uint64_t wait_ns, uint64_t retain_ns)
{
	i->orphan_ns = MAX(i->orphan_ns, i->now_ns + wait_ns);
	i->orphan_end_ns = MAX(i->orphan_end_ns, i->now_ns + wait_ns + retain_ns);
}

/* The target must hear that the connection is over: by a Logout Request on another, or by a login with its CID. */
static void mourn(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;
	struct ini_conn *via = i->conf.recover_by_login ? NULL : ini_any(i);

	if (via && !ini_logout(via, c, 2))
		return;
	dial(c, MAX(i->orphan_ns, i->now_ns + backoff(c->tries)));
}

/* Whose Logout Request went down with the connection that carried it: the target may not have heard. */
static void mourn_again(struct iscsi_ini *i)
{
	for (unsigned k = 0; k < i->conf.connections; k++) {
		struct ini_conn *c = i->conn[k];

		if (c->orphaned && c->state == CONN_IDLE && !c->logout_via)
			mourn(c);
	}
}

static void connection_lost(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;
	uint64_t wait = c->wait_ns ? c->wait_ns : i->params.time2wait * NS_PER_S;

	c->wait_ns = 0;
	i->stats.connections_lost++;
	if (i->logged_out || !ini_level(i, 2) || (!i->params.time2retain && c->ncmds)) {
		ini_session_lost(i, c->why);
		return;
	}
	orphan(c);
	recover_later(i, wait, i->params.time2retain * NS_PER_S);
	c->orphaned = true;
	mourn_again(i);
}

static void resume(struct iscsi_ini *i)
{
	struct iscsi_ini_cmd *cmd, *next;

	if (i->now_ns < i->orphan_ns) /* Time2Wait */
		return;
	list_for_each_safe(cmd, next, &i->orphans, node) {
		struct ini_conn *c = ini_any(i);

		if (!c || cmd->reassigning || cmd->conn->orphaned || cmd->conn->unsure)
			continue;
		if (cmd->asked && i->now_ns < cmd->asked_ns + i->conf.probe_ns)
			continue;
		if (!cmd->immediate && !sn_lt(cmd->cmd_sn, i->exp_cmd_sn)) { /* the target never counted it */
			list_del(&cmd->node);
			list_add_tail(&c->cmds, &cmd->node);
			c->ncmds++;
			cmd->conn = c;
			cmd->orphan = cmd->ended = false;
			cmd->ngaps = 0;
			cmd->next_data_sn = cmd->in_got = 0;
			ini_resend(c, cmd);
		} else if (ini_reassign(c, cmd)) {
			break;
		}
	}
}

/* --- logging out --- */

int ini_logout(struct ini_conn *via, struct ini_conn *of, uint8_t reason)
{
	struct ini_ctl *k = ini_ctl(via, ISCSI_LOGOUT_REQ | OP_IMMEDIATE, ini_own_itt(via->i), NULL, 0);

	if (!k)
		return -ENOMEM;
	k->bhs[BHS_FLAGS] |= reason;
	put_be16(k->bhs + LOGOUT_CID, (uint16_t)(via->i->conf.cid + of->k));
	if (of != via) { /* 11.14.4: of the connection that is gone */
		k->exp_stat_sn_set = true;
		put_be32(k->bhs + BHS_EXP_STAT_SN, of->last_ack);
	}
	of->logout_itt = be32(k->bhs + BHS_ITT);
	of->logout_via = via;
	of->logout_ns = via->i->now_ns;
	of->logout_reason = reason;
	via->logouts++;
	return 0;
}

/* A Logout Request for a lost connection that was itself lost is made again: 11.15.1, 1 is as good an answer to it as 0. */
void ini_logout_again(struct ini_conn *via)
{
	struct iscsi_ini *i = via->i;

	via->logouts = 0;
	for (unsigned k = 0; k < i->conf.connections; k++) {
		struct ini_conn *of = i->conn[k];

		if (of == via || of->logout_via != via)
			continue;
		via->logouts++;
		if (i->now_ns >= of->logout_ns + 2 * i->conf.probe_ns)
			ini_logout(via, of, of->logout_reason);
	}
}

void ini_drain(struct ini_conn *c, unsigned seconds)
{
	c->draining = true;
	c->drain_ns = c->i->now_ns + seconds * NS_PER_S / 2;
}

/* The connection has run out of commands, or of time. */
static void drained(struct ini_conn *c)
{
	uint8_t reason = iscsi_ini_connections(c->i) == 1 ? 0 : ini_level(c->i, 2) && c->ncmds ? 2 : 1;

	ini_logout(c, c, reason);
	c->state = CONN_LOGOUT;
}

static void recovered(struct ini_conn *c, uint8_t response, uint16_t wait_s, uint16_t retain_s)
{
	struct iscsi_ini *i = c->i;

	if (response > 1) { /* not supported, or it failed */
		ini_session_lost(i, "the target does not recover connections");
		return;
	}
	c->orphaned = false;
	if (!response && wait_s)
		recover_later(i, wait_s * NS_PER_S, retain_s * NS_PER_S);
	dial(c, i->now_ns + wait_s * NS_PER_S);
	resume(i);
}

static struct ini_conn *logout_of(struct ini_conn *via, uint32_t itt)
{
	for (unsigned k = 0; k < via->i->conf.connections; k++)
		if (via->i->conn[k]->logout_via == via && via->i->conn[k]->logout_itt == itt)
			return via->i->conn[k];
	return NULL;
}

void ini_logout_answered(struct ini_conn *c, uint32_t itt, uint8_t response, uint16_t wait_s, uint16_t retain_s)
{
	struct ini_conn *of = logout_of(c, itt);

	if (!of)
		return;
	of->logout_via = NULL;
	if (of != c) {
		recovered(of, response, wait_s, retain_s);
		return;
	}
	c->state = CONN_OUT;
	c->tell_hangup = true;
	snprintf(c->why, sizeof(c->why), "logged out");
	if (of->logout_reason)
		return;
	if (!c->i->logged_out) {
		ini_session_lost(c->i, "the target asked to log out");
		return;
	}
	ini_event(c, INI_EV_LOGOUT, response, 0, NULL, 0, NULL);
	ini_end(c->i, 0, "logged out");
}

/* A connection that was closed in good order is gone. At level 2 its tasks go on; else the target has ended them. */
static void logged_out(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;
	struct iscsi_ini_cmd *cmd, *next;

	if (c->logout_reason == 2) {
		orphan(c);
		recover_later(i, i->params.time2wait * NS_PER_S, i->params.time2retain * NS_PER_S);
	}
	list_for_each_safe(cmd, next, &c->cmds, node) {
		if (cmd->retry)
			ini_requeue(i, cmd);
		else
			ini_finish(i, cmd, -ECONNRESET);
	}
	c->tries = 1;
	dial(c, i->now_ns + i->params.time2wait * NS_PER_S + backoff(c->tries));
}

/* --- transports --- */

void iscsi_ini_up(struct iscsi_ini *i, unsigned k)
{
	struct ini_conn *c = i->conn[k];

	if (c->state != CONN_DIAL || !c->transport)
		return;
	c->state = CONN_LOGIN;
	c->heard_ns = i->now_ns;
	ini_login_start(c);
}

static bool moved(const struct ini_conn *c)
{
	return c->code >> 8 == LOGIN_MOVED_TEMP >> 8;
}

/* 11.13.5: the login was sent elsewhere. */
static bool follow(struct ini_conn *c)
{
	if (!moved(c) || !*c->i->moved || ++c->hops > INI_HOPS_MAX)
		return false;
	snprintf(c->addr, sizeof(c->addr), "%s", c->i->moved);
	c->addr[strcspn(c->addr, ",")] = 0; /* the portal group tag */
	c->i->moved[0] = 0;
	dial(c, c->i->now_ns);
	return true;
}

/* A login into the running session failed. */
static void not_joined(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;

	if (follow(c))
		return;
	c->tries++;
	if (c->code == LOGIN_NO_SESSION || (c->code && !ini_any(i) && !moved(c))) {
		ini_session_lost(i, c->why);
		return;
	}
	if (c->orphaned && !c->logout_via) {
		mourn(c);
		return;
	}
	if (c->code >> 8 == 2)
		return; /* refused for good: the session does with what it has */
	dial(c, i->now_ns + backoff(c->tries));
}

/* The first login, or the one that was to bring the session back, failed. */
static void not_begun(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;

	i->tsih = 0;
	if (follow(c))
		return;
	if (i->state == INI_STARTING) {
		ini_end(i, c->code, c->why);
		return;
	}
	snprintf(i->why_text, sizeof(i->why_text), "%s", c->why);
	c->addr[0] = 0;
	c->hops = 0;
	dial(c, i->now_ns + backoff(++i->tries));
}

void iscsi_ini_lost(struct iscsi_ini *i, unsigned k, const char *why)
{
	struct ini_conn *c = i->conn[k];
	bool ffp, out;

	if (!c->transport)
		return;
	ffp = c->ffp;
	if (ffp)
		c->last_ack = ini_stat_ack(c);
	out = c->state == CONN_OUT;
	if (c->state != CONN_BAD && !out) {
		snprintf(c->why, sizeof(c->why), "%s", why);
		c->code = 0;
	}
	reset(c);
	if (i->state == INI_STARTING || i->state == INI_DOWN)
		not_begun(c);
	else if (i->state != INI_UP)
		settle(i);
	else if (out)
		logged_out(c);
	else if (ffp)
		connection_lost(c);
	else
		not_joined(c);
}

static void session_up(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;

	i->params = c->params;
	i->state = INI_UP;
	i->expired = false;
	i->tries = 0;
	i->nconns = i->params.discovery ? 1 : MIN(i->conf.connections, i->params.max_connections);
	c->wait_ns = 0;
	for (unsigned k = 1; k < i->nconns; k++) {
		struct ini_conn *other = i->conn[k];

		snprintf(other->addr, sizeof(other->addr), "%s", c->addr);
		other->hops = other->tries = 0;
		dial(other, i->now_ns);
	}
	ini_event(c, INI_EV_LOGGED_IN, 0, 0, NULL, 0, NULL);
}

void ini_joined(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;

	c->state = CONN_FFP;
	c->ffp = true;
	c->heard_ns = i->now_ns;
	c->tries = 0;
	c->stat_asked = c->exp_stat_sn;
	i->stats.logins++;
	if (i->state != INI_UP) {
		session_up(c);
		return;
	}
	if (!list_empty(&i->orphans)) { /* what the target has counted decides what becomes of them: ask */
		c->unsure = true;
		ini_probe(c);
	}
	c->orphaned = false;
	ini_event(c, INI_EV_JOINED, 0, 0, NULL, 0, NULL);
	ini_tmf_resend(i);
}

/* --- time --- */

static uint64_t down_tick(struct iscsi_ini *i)
{
	uint64_t end;
	char why[sizeof(i->why_text)];

	if (i->expired)
		return UINT64_MAX;
	if (!i->down_ns) /* insists on its first login */
		i->down_ns = i->now_ns;
	end = i->down_ns + i->conf.retry_ns;
	if (i->now_ns < end)
		return end;
	i->expired = true;
	if (i->conf.forever) {
		finish_all(i, -ETIMEDOUT, false);
		return UINT64_MAX;
	}
	snprintf(why, sizeof(why), "%s", i->why_text);
	ini_end(i, i->conn[0]->code, why);
	return UINT64_MAX;
}

static uint64_t orphans_tick(struct iscsi_ini *i)
{
	if (!i->orphan_end_ns)
		return UINT64_MAX;
	if (list_empty(&i->orphans)) {
		i->orphan_ns = i->orphan_end_ns = 0;
		return UINT64_MAX;
	}
	resume(i);
	if (i->now_ns < i->orphan_ns)
		return i->orphan_ns;
	if (i->now_ns < i->orphan_end_ns)
		return MIN(i->orphan_end_ns, i->now_ns + i->conf.probe_ns);
	ini_session_lost(i, "its connections could not be recovered in time");
	return UINT64_MAX;
}

uint64_t ini_session_tick(struct iscsi_ini *i)
{
	uint64_t next;

	if (i->state == INI_DOWN)
		return down_tick(i);
	if (i->state != INI_UP)
		return UINT64_MAX;
	next = orphans_tick(i);
	if (i->tmf_waits && i->state == INI_UP)
		ini_tmf_resend(i);
	return i->tmf_waits ? MIN(next, i->now_ns + i->conf.probe_ns) : next;
}

static uint64_t alive_tick(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;
	uint64_t end;

	if (c->heard) {
		c->heard = false;
		c->heard_ns = i->now_ns;
		c->pinged_ns = 0;
	}
	if (!i->conf.nop_ns)
		return UINT64_MAX;
	end = (c->pinged_ns ? c->pinged_ns : c->heard_ns) + i->conf.nop_ns;
	if (i->now_ns < end)
		return end;
	if (c->pinged_ns || c->state == CONN_LOGOUT) {
		ini_fail(c, 0, "target does not answer");
		return UINT64_MAX;
	}
	c->pinged_ns = i->now_ns;
	iscsi_ini_ping(i, c->k, NULL, 0);
	return i->now_ns + i->conf.nop_ns;
}

static uint64_t login_tick(struct ini_conn *c)
{
	uint64_t end;

	if (!c->up_ns)
		c->up_ns = c->i->now_ns;
	end = c->up_ns + c->i->conf.login_timeout_ns;
	if (c->i->now_ns < end)
		return end;
	ini_fail(c, 0, "login timed out");
	return UINT64_MAX;
}

uint64_t ini_conn_tick(struct ini_conn *c)
{
	uint64_t now = c->i->now_ns, a, b;

	switch (c->state) {
	case CONN_WAIT:
		if (now < c->dial_ns)
			return c->dial_ns;
		c->state = CONN_DIAL;
		c->tell_connect = true;
		c->code = 0;
		return UINT64_MAX;
	case CONN_DIAL:
	case CONN_LOGIN:
		return login_tick(c);
	case CONN_FFP:
		if (c->draining && !c->i->logged_out && (!c->ncmds || now >= c->drain_ns))
			drained(c);
		a = alive_tick(c);
		b = ini_snack_tick(c);
		a = MIN(a, b);
		return c->draining && !c->i->logged_out ? MIN(a, c->drain_ns) : a;
	case CONN_LOGOUT:
		return alive_tick(c);
	default:
		return UINT64_MAX;
	}
}
