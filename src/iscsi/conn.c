/* SPDX-License-Identifier: BSD-3-Clause
 * Life of a connection (RFC 7143 8.1, target side: S3 XPT_UP until login, S4 IN_LOGIN, S5 LOGGED_IN, then gone), its
 * login, events and timeouts. */
#include <stdlib.h>

#include "base/check.h"
#include "iscsi/impl.h"

struct iscsi_conn *iscsi_conn_new(struct iscsi_pool *pool, const struct iscsi_host *host, void *user)
{
	struct iscsi_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->login = iscsi_login_new(host->random);
	if (!c->login) {
		free(c);
		return NULL;
	}
	c->pool = pool;
	c->host = *host;
	c->user = user;
	iscsi_params_defaults(&c->params);
	c->params.max_recv_segment = LIM_LOGIN_TEXT; /* in login; a bound of ours, more lenient than 8192 */
	c->ra = c->small;
	c->ra_size = RA_SMALL;
	c->text_itt = ISCSI_NO_TAG;
	list_init(&c->ctlq);
	list_init(&c->dataq);
	list_init(&c->tasks);
	list_init(&c->tmfs);
	list_init(&c->kept);
	list_init(&c->in_session);
	pool->conns_live++;
	return c;
}

/* Nobody will ask for t any more. What SCSI still works on ends without a word; it is told so if the session lives on
 * (11.14.5), else it learns by the loss of the nexus. */
void task_abandon(struct iscsi_task *t, bool session_lives)
{
	struct iscsi_session *s = t->session;
	bool busy = t->state != TASK_HELD && !t->finished && !t->dead;

	if (!busy) {
		task_put(t);
		return;
	}
	if (t->hashed)
		session_unhash(s, t);
	if (t->counted)
		s->inflight--;
	if (t->imm_counted)
		s->nimmediate--;
	t->counted = t->imm_counted = false;
	list_del(&t->node);
	t->conn = NULL;
	t->session = NULL;
	if (session_lives)
		scsi_cmd_drop(&t->cmd);
}

/* None of them goes on when the memory of another comes back. */
static void detach_tasks(struct iscsi_conn *c, bool session_lives)
{
	struct iscsi_task *t, *tmp;

	list_for_each(t, &c->tasks, node)
		list_del(&t->starved);
	list_for_each_safe(t, tmp, &c->tasks, node)
		task_abandon(t, session_lives);
}

/* 7.1.4.3: one of the others tells the initiator, and how long its tasks are kept. */
static void tell_drop(const struct iscsi_conn *c, bool kept)
{
	struct iscsi_session *s = c->session;
	struct iscsi_conn *o;

	if (c->logged_out || c->reinstated || c->state == CONN_LOGIN || s->closing)
		return;
	list_for_each(o, &s->conns, in_session) {
		if (o->state != CONN_FFP || o->deaf)
			continue;
		iscsi_conn_tell_drop(o, c->cid, (uint16_t)s->params.time2wait, kept ? (uint16_t)s->params.time2retain : 0);
		o->host.wake(o->user);
		return;
	}
}

static void leave_session(struct iscsi_conn *c)
{
	struct iscsi_session *s = c->session;
	bool kept = lost_keeps(c);

	session_drop_held(s, c);
	list_del(&c->in_session);
	s->nconns--;
	if (kept)
		lost_take(c);
	detach_tasks(c, (kept || s->nconns > 0) && !s->closing);
	fence_conn_gone(s, c);
	tell_drop(c, kept);
	lost_retry(s, c);
}

void iscsi_conn_free(struct iscsi_conn *c)
{
	if (!c)
		return;
	c->rx_task = NULL;
	tx_fini(c);
	if (c->session)
		leave_session(c);
	request_detach_tmfs(c);
	rx_fini(c);
	iscsi_text_free(&c->text);
	iscsi_text_free(&c->text_out);
	free(c->neg);
	iscsi_login_free(c->login);
	c->pool->conns_live--;
	free(c);
}

void conn_event(struct iscsi_conn *c, enum iscsi_event_kind kind)
{
	for (unsigned i = 0; i < c->ev_n; i++)
		if (c->ev[i] == kind)
			return;
	CHECK(c->ev_n < ARRAY_LEN(c->ev));
	c->ev[c->ev_n++] = kind;
}

void conn_close(struct iscsi_conn *c, const char *why)
{
	if (c->state == CONN_CLOSED)
		return;
	c->state = CONN_CLOSED;
	c->why = why;
	conn_event(c, ISCSI_EV_CLOSE);
}

void conn_violation(struct iscsi_conn *c, const char *why)
{
	bool data = (c->bhs[BHS_OPCODE] & OP_MASK) == ISCSI_DATA_OUT; /* its tags, offsets or lengths: 11.17.1, note 2 */
	struct iscsi_ctl *k = tx_reject(c, data ? REJECT_INVALID_PDU : REJECT_PROTOCOL, c->bhs);

	if (!k)
		return;
	k->after = AFTER_CLOSE;
	c->why = why;
	c->deaf = true;
}

bool iscsi_next(struct iscsi_conn *c, struct iscsi_event *ret)
{
	if (!c->ev_n)
		return false;
	ret->kind = c->ev[0];
	ret->text = ret->kind == ISCSI_EV_SEND_TARGETS ? c->send_targets : c->why;
	memmove(c->ev, c->ev + 1, --c->ev_n * sizeof(c->ev[0]));
	return true;
}

/* --- login --- */

static void login_send(struct iscsi_conn *c, enum ctl_after after)
{
	uint8_t bhs[ISCSI_BHS];
	const void *data;
	uint32_t len;

	if (!iscsi_login_tx(c->login, bhs, &data, &len)) {
		if (after == AFTER_CLOSE)
			conn_close(c, iscsi_login_why(c->login));
		return;
	}
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_LOGIN_RSP, CTL_OWN);
	if (!k)
		return;
	memcpy(k->bhs, bhs, ISCSI_BHS);
	k->after = after;
	if (len) {
		uint8_t *p = malloc(len);
		if (!p) {
			conn_close(c, "out of memory");
			return;
		}
		memcpy(p, data, len);
		tx_ctl_data(c, k, p, len);
	}
	if (after == AFTER_CLOSE) {
		c->why = iscsi_login_why(c->login);
		c->deaf = true;
	}
}

/* What holds for the session was said by the login that made it (13). */
static void params_of(struct iscsi_conn *c, const struct iscsi_params *p)
{
	c->params = c->session->params;
	c->params.header_digest = p->header_digest;
	c->params.data_digest = p->data_digest;
	c->params.max_recv_segment = p->max_recv_segment;
	c->params.max_xmit_segment = p->max_xmit_segment;
}

/* The final response is made: from the moment it enters a batch, full feature phase. */
static void login_finish(struct iscsi_conn *c)
{
	params_of(c, iscsi_login_params(c->login));
	c->stat_sn = iscsi_login_stat_sn(c->login);
	c->no_commands = c->params.discovery;
	login_send(c, AFTER_FULL_FEATURE);
}

static void login_next(struct iscsi_conn *c, enum iscsi_login_next next)
{
	switch (next) {
	case ISCSI_LOGIN_MORE:
		login_send(c, AFTER_NONE);
		break;
	case ISCSI_LOGIN_ASK:
		conn_event(c, ISCSI_EV_POLICY);
		break;
	case ISCSI_LOGIN_ADMIT:
		conn_event(c, ISCSI_EV_ADMIT);
		break;
	case ISCSI_LOGIN_DONE:
		login_finish(c);
		break;
	case ISCSI_LOGIN_FAIL:
		login_send(c, AFTER_CLOSE);
		break;
	}
}


void conn_login_rx(struct iscsi_conn *c, const uint8_t *data, uint32_t len)
{
	if (c->login_wait || !list_empty(&c->ctlq)) {
		conn_close(c, "login request before the answer to the last");
		return;
	}
	enum iscsi_login_next next = iscsi_login_rx(c->login, c->bhs, data, len);
	c->login_wait = next == ISCSI_LOGIN_ASK || next == ISCSI_LOGIN_ADMIT;
	login_next(c, next);
}

void iscsi_conn_policy(struct iscsi_conn *c, const struct iscsi_login_policy *p)
{
	if (c->state != CONN_LOGIN)
		return;
	enum iscsi_login_next next = iscsi_login_policy(c->login, p);
	c->login_wait = next == ISCSI_LOGIN_ASK || next == ISCSI_LOGIN_ADMIT;
	login_next(c, next);
}

void iscsi_conn_admit(struct iscsi_conn *c, uint16_t status, struct iscsi_session *s)
{
	if (c->state != CONN_LOGIN)
		return;
	c->login_wait = false;
	if (!s) {
		login_next(c, iscsi_login_admit(c->login, status, 0, 0, 0));
		return;
	}
	c->session = s;
	c->cid = iscsi_login_cid(c->login);
	lost_logout(s, c->cid, true, iscsi_login_exp_stat_sn(c->login)); /* 11.14: for recovery */
	list_add_tail(&s->conns, &c->in_session);
	s->nconns++;
	login_next(c, iscsi_login_admit(c->login, 0, s->tsih, s->exp_cmd_sn, session_max_cmd_sn(s)));
}

/* --- sessions of several connections --- */

void iscsi_conn_reinstated(struct iscsi_conn *c)
{
	c->reinstated = true;
	conn_close(c, "reinstated by a login with its CID");
}

void iscsi_conn_move(struct iscsi_conn *c, struct iscsi_pool *to)
{
	CHECK(list_empty(&c->tasks) && list_empty(&c->ctlq) && !(c->txb && c->txb->left));
	if (c->txb)
		txb_put(c->pool, c->txb);
	c->txb = NULL;
	c->pool->conns_live--; /* of the loop that it leaves, which runs this; the rest of the pool is not touched */
	c->pool = to;
}

void iscsi_conn_arrived(struct iscsi_conn *c)
{
	c->pool->conns_live++;
}

const struct iscsi_login *iscsi_conn_login(const struct iscsi_conn *c)
{
	return c->login;
}

void iscsi_conn_login_done(struct iscsi_conn *c)
{
	iscsi_login_free(c->login);
	c->login = NULL;
}

const struct iscsi_params *iscsi_conn_params(const struct iscsi_conn *c)
{
	return &c->params;
}

uint16_t iscsi_conn_cid(const struct iscsi_conn *c)
{
	return c->cid;
}

struct iscsi_session *iscsi_conn_session(const struct iscsi_conn *c)
{
	return c->session;
}

void iscsi_conn_deafen(struct iscsi_conn *c)
{
	c->deaf = true;
}

/* A command that waits for data that will not be read any more does not count. */
bool iscsi_conn_idle(const struct iscsi_conn *c)
{
	struct iscsi_task *t;

	list_for_each(t, &c->tasks, node)
		if (t->state == TASK_EXEC || t->state == TASK_RESPOND || (t->state == TASK_DATA && !c->deaf))
			return false;
	if (c->session && c->session->fence)
		return false;
	return !c->ntmf && list_empty(&c->ctlq) && list_empty(&c->dataq) && (!c->txb || !c->txb->left);
}

bool iscsi_tx_pending(const struct iscsi_conn *c)
{
	return c->txb || !list_empty(&c->ctlq) || !list_empty(&c->dataq);
}

/* --- time --- */

uint32_t conn_next_ttt(struct iscsi_conn *c)
{
	if (++c->ping_ttt == ISCSI_NO_TAG)
		c->ping_ttt = 1;
	return c->ping_ttt;
}

void conn_ping(struct iscsi_conn *c)
{
	struct iscsi_ctl *k = c->ping_ns ? NULL : tx_ctl(c, ISCSI_NOP_IN, CTL_NEXT_STAT_SN);

	if (!k)
		return;
	put_be32(k->bhs + BHS_ITT, ISCSI_NO_TAG);
	put_be32(k->bhs + BHS_TTT, conn_next_ttt(c));
	c->ping_ns = c->now_ns;
}

/* A peer that was asked for data, lives, and sends none keeps memory that others wait for. */
static bool owes_data(const struct iscsi_conn *c)
{
	const struct iscsi_task *t;

	if (c->now_ns < c->data_ns + DATA_WAIT_S * NS_PER_S)
		return false;
	list_for_each(t, &c->tasks, node)
		if (t->r2t_n)
			return true;
	return false;
}

static uint64_t tick(struct iscsi_conn *c, uint64_t now_ns, bool stalled)
{
	c->now_ns = now_ns;
	if (!c->born_ns)
		c->born_ns = c->heard_ns = now_ns;
	/* What came meanwhile was not read yet: everybody gets a new chance. A peer that takes much data slowly hears our
	 * ping only behind it. */
	if (stalled || c->tx_moved) {
		c->tx_moved = false;
		c->heard_ns = now_ns;
		c->data_ns = now_ns;
		if (c->ping_ns)
			c->ping_ns = now_ns;
	}
	if (c->state == CONN_FFP && owes_data(c))
		conn_close(c, "no data came for an R2T");
	if (c->state == CONN_CLOSED)
		return UINT64_MAX;
	if (c->state == CONN_LOGIN) {
		uint64_t end = c->born_ns + LOGIN_S * NS_PER_S;
		if (now_ns >= end && !stalled)
			conn_close(c, "login took too long");
		return now_ns >= end ? now_ns + NS_PER_S : end;
	}
	if (c->ping_ns) {
		uint64_t end = c->ping_ns + NOP_WAIT_S * NS_PER_S;
		if (now_ns >= end)
			conn_close(c, "peer gave no sign of life");
		return end;
	}
	bool discovery = c->params.discovery;
	uint64_t due = c->heard_ns + (discovery ? DISCOVERY_IDLE_S : NOP_IDLE_S) * NS_PER_S;
	if (now_ns < due)
		return due;
	if (discovery) {
		conn_close(c, "idle discovery session");
		return UINT64_MAX;
	}
	conn_ping(c);
	return now_ns + NOP_WAIT_S * NS_PER_S;
}

uint64_t iscsi_tick(struct iscsi_conn *c, uint64_t now_ns, bool stalled)
{
	uint64_t next = tick(c, now_ns, stalled);

	if (c->state == CONN_FFP && c->recover) {
		if (!stalled) {
			data_out_tick(c);
			keep_tick(c);
		}
		next = MIN(next, now_ns + NS_PER_S);
	}
	if (c->state != CONN_FFP || list_empty(&c->tmfs))
		return next;
	if (!stalled)
		tmf_retry(c->session);
	return MIN(next, tmf_deadline(c));
}
