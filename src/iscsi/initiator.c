/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: life of a session, commands, events, time. See initiator.h. */
#include "iscsi/initiator_impl.h"

#include <errno.h>
#include <stdlib.h>

void iscsi_ini_conf_defaults(struct iscsi_ini_conf *c)
{
	*c = (struct iscsi_ini_conf){ .isid = { 0x80, 0, 0, 0, 0, 1 }, .max_cmds = 256, .connections = 1, .first_cmd_sn = 1 };
	c->offer = (struct iscsi_offer){ .max_recv_segment = 1 << 20, .first_burst = 256 << 10, .max_burst = (16 << 20) - 4096,
		.max_r2t = INI_R2T_MAX, .max_connections = 1, .time2wait = 2, .immediate_data = true,
		.pdu_in_order = true, .sequence_in_order = true };
}

void iscsi_ini_conf_level(struct iscsi_ini_conf *c, unsigned level)
{
	c->offer.erl = level;
	if (!level)
		return;
	c->offer.max_r2t = 1;
	c->offer.time2wait = 0;
	c->offer.time2retain = level > 1 ? 20 : 0;
	/* What must come twice after a fault is one PDU: shorter ones than where nothing is ever lost. */
	c->offer.max_recv_segment = MIN(c->offer.max_recv_segment, 256u << 10);
	if (!c->nop_ns)
		c->nop_ns = 5 * NS_PER_S;
}

static int alloc_slots(struct iscsi_ini *i)
{
	unsigned n = 1;

	while (n < i->max_cmds)
		n *= 2;
	i->nslots = n;
	i->slot = calloc(n, sizeof(*i->slot));
	i->gen = calloc(n, sizeof(*i->gen));
	i->free_slot = calloc(n, sizeof(*i->free_slot));
	if (!i->slot || !i->gen || !i->free_slot)
		return -ENOMEM;
	for (unsigned k = n; k--; )
		i->free_slot[i->nfree++] = k;
	return 0;
}

static int alloc_conns(struct iscsi_ini *i)
{
	unsigned n = MIN(MAX(i->conf.connections, 1u), (unsigned)INI_CONNS_MAX);

	i->conf.connections = i->conf.offer.max_connections = n;
	for (unsigned k = 0; k < n; k++)
		if (!(i->conn[k] = ini_conn_new(i, k)))
			return -ENOMEM;
	i->nconns = 1;
	i->conn[0]->state = CONN_DIAL;
	i->conn[0]->tell_connect = true;
	if (i->conf.insist && i->conf.retry_ns) {
		i->state = INI_DOWN;
		i->down_told = true;
	}
	return 0;
}

struct iscsi_ini *iscsi_ini_new(const struct iscsi_ini_conf *conf)
{
	struct iscsi_ini *i = calloc(1, sizeof(*i));

	if (!i)
		return NULL;
	i->conf = *conf;
	i->conf.probe_ns = conf->probe_ns ? conf->probe_ns : NS_PER_S;
	i->conf.login_timeout_ns = conf->login_timeout_ns ? conf->login_timeout_ns : 15 * NS_PER_S;
	i->max_cmds = MIN(conf->max_cmds ? conf->max_cmds : 256, (unsigned)INI_CMDS_MAX);
	i->cmd_sn = i->max_cmd_sn = i->exp_cmd_sn = conf->first_cmd_sn;
	list_init(&i->waiting);
	list_init(&i->orphans);
	list_init(&i->done);
	list_init(&i->events);
	if (alloc_slots(i) || alloc_conns(i)) {
		iscsi_ini_free(i);
		return NULL;
	}
	return i;
}

void iscsi_ini_free(struct iscsi_ini *i)
{
	if (!i)
		return;
	while (!list_empty(&i->events)) {
		struct ini_event *e = list_first(&i->events, struct ini_event, node);

		list_del(&e->node);
		free(e);
	}
	for (unsigned k = 0; k < INI_CONNS_MAX; k++)
		ini_conn_free(i->conn[k]);
	free(i->last_event);
	free(i->slot);
	free(i->gen);
	free(i->free_slot);
	free(i);
}

/* --- commands --- */

struct iscsi_ini_cmd *ini_find(struct iscsi_ini *i, uint32_t itt)
{
	struct iscsi_ini_cmd *c = itt & INI_ITT_OWN ? NULL : i->slot[itt & (i->nslots - 1)];

	return c && c->itt == itt ? c : NULL;
}

static uint32_t make_itt(struct iscsi_ini *i, uint32_t slot)
{
	return (i->gen[slot]++ * i->nslots | slot) & ~INI_ITT_OWN;
}

static bool takes_commands(const struct iscsi_ini *i)
{
	if (i->state == INI_UP)
		return !i->params.discovery && !i->logged_out;
	return (i->state == INI_FALLING || i->state == INI_DOWN) && i->conf.retry_ns && !i->expired;
}

/* As it is before it was ever sent. */
static void fresh(struct iscsi_ini_cmd *c)
{
	c->conn = NULL;
	c->error = c->response = c->status = 0;
	c->qualifier = 0;
	c->overflow = c->underflow = false;
	c->resid = c->in_got = c->sense_len = 0;
	c->next_data_sn = c->batch = c->unsol_at = c->unsol_end = c->exp_r2t_sn = 0;
	c->r2t_head = c->r2t_n = c->ngaps = c->asked = 0;
	c->ended = c->r2t_any = c->reassigning = c->orphan = c->ack_due = false;
}

int iscsi_ini_cmd(struct iscsi_ini *i, struct iscsi_ini_cmd *c)
{
	uint32_t slot;

	if (!takes_commands(i))
		return -ENOTCONN;
	if (c->in_len && c->out_len)
		return -EINVAL;
	if (iscsi_ini_inflight(i) >= i->max_cmds || !i->nfree)
		return -EBUSY;
	slot = i->free_slot[--i->nfree];
	c->itt = make_itt(i, slot);
	i->slot[slot] = c;
	fresh(c);
	c->queued = false;
	list_init(&c->datanode);
	list_add_tail(&i->waiting, &c->node);
	i->nwaiting++;
	return 0;
}

/* Takes a command from wherever it is in the engine, but for its slot. */
static void unlink_cmd(struct iscsi_ini *i, struct iscsi_ini_cmd *cmd)
{
	struct ini_conn *c = cmd->conn;

	list_del(&cmd->node);
	list_del(&cmd->datanode);
	if (!c) {
		i->nwaiting--;
		return;
	}
	if (c->rx_cmd == cmd)
		c->rx_cmd = NULL;
	if (cmd->orphan)
		return;
	c->ncmds--;
	c->held -= cmd->ended;
}

/* The command leaves the engine; its memory only when no batch that is on its way refers to it. */
void ini_finish(struct iscsi_ini *i, struct iscsi_ini_cmd *cmd, int error)
{
	uint32_t slot = cmd->itt & (i->nslots - 1);
	bool refers = cmd->conn && !cmd->orphan && ini_refers(cmd->conn, cmd);

	i->slot[slot] = NULL;
	i->free_slot[i->nfree++] = slot;
	cmd->error = error;
	unlink_cmd(i, cmd);
	ini_tmf_forget(i, cmd);
	list_add_tail(refers ? &cmd->conn->linger : &i->done, &cmd->node);
}

void ini_requeue(struct iscsi_ini *i, struct iscsi_ini_cmd *cmd)
{
	struct iscsi_ini_cmd *at;

	unlink_cmd(i, cmd);
	fresh(cmd);
	cmd->queued = true;
	list_for_each(at, &i->waiting, node)
		if (!at->queued || sn_lt(cmd->cmd_sn, at->cmd_sn))
			break;
	list_add_tail(&at->node, &cmd->node);
	i->nwaiting++;
	i->stats.commands_reissued++;
}

unsigned iscsi_ini_inflight(const struct iscsi_ini *i)
{
	return i->nslots - i->nfree;
}

/* --- events, time --- */

void ini_event(struct ini_conn *c, enum iscsi_ini_event_kind kind, unsigned code, uint32_t info, const void *data, uint32_t len,
	void *ctx)
{
	struct iscsi_ini *i = c->i;
	struct ini_event *e;

	e = i->nevents < INI_EVENTS_MAX ? malloc(sizeof(*e) + len + 1) : NULL;
	if (!e) {
		ini_fail(c, 0, i->nevents < INI_EVENTS_MAX ? "out of memory" : "too many events");
		return;
	}
	if (len)
		memcpy(e->data, data, len);
	e->data[len] = 0;
	e->ev = (struct iscsi_ini_event){ .kind = kind, .conn = c->k, .code = code, .info = info, .text = e->data, .len = len,
		.ctx = ctx };
	list_add_tail(&i->events, &e->node);
	i->nevents++;
}

static bool next_queued(struct iscsi_ini *i, struct iscsi_ini_event *ret)
{
	free(i->last_event);
	i->last_event = list_first(&i->events, struct ini_event, node);
	list_del(&i->last_event->node);
	i->nevents--;
	*ret = i->last_event->ev;
	return true;
}

static bool next_transport(struct iscsi_ini *i, struct iscsi_ini_event *ret)
{
	for (unsigned k = 0; k < i->conf.connections; k++) {
		struct ini_conn *c = i->conn[k];

		if (c->tell_hangup) {
			c->tell_hangup = false;
			*ret = (struct iscsi_ini_event){ .kind = INI_EV_HANGUP, .conn = k, .text = c->why };
			return true;
		}
		if (c->tell_connect) {
			c->tell_connect = false;
			c->transport = true;
			c->up_ns = i->now_ns;
			*ret = (struct iscsi_ini_event){ .kind = INI_EV_CONNECT, .conn = k, .text = c->addr };
			return true;
		}
	}
	return false;
}

bool iscsi_ini_next(struct iscsi_ini *i, struct iscsi_ini_event *ret)
{
	if (!list_empty(&i->done)) {
		struct iscsi_ini_cmd *c = list_first(&i->done, struct iscsi_ini_cmd, node);

		list_del(&c->node);
		*ret = (struct iscsi_ini_event){ .kind = INI_EV_CMD, .cmd = c, .ctx = c->ctx };
		return true;
	}
	if (!list_empty(&i->events))
		return next_queued(i, ret);
	if (next_transport(i, ret))
		return true;
	if (i->state == INI_DOWN && !i->down_told) {
		i->down_told = true;
		*ret = (struct iscsi_ini_event){ .kind = INI_EV_DOWN, .text = i->why_text };
		return true;
	}
	if (i->state != INI_CLOSED || i->closed_told)
		return false;
	i->closed_told = true;
	*ret = (struct iscsi_ini_event){ .kind = INI_EV_CLOSED, .code = i->closed_code, .text = i->why_text };
	return true;
}

uint64_t iscsi_ini_tick(struct iscsi_ini *i, uint64_t now_ns)
{
	uint64_t next, at;

	i->now_ns = now_ns;
	next = ini_session_tick(i);
	for (unsigned k = 0; k < i->conf.connections; k++) {
		at = ini_conn_tick(i->conn[k]);
		next = MIN(next, at);
	}
	return next;
}

/* --- to be asked --- */

bool iscsi_ini_ready(const struct iscsi_ini *i)
{
	return i->state == INI_UP && iscsi_ini_connections(i) > 0;
}

bool iscsi_ini_joined(const struct iscsi_ini *i, unsigned k)
{
	return k < i->conf.connections && i->conn[k]->state == CONN_FFP;
}

unsigned iscsi_ini_connections(const struct iscsi_ini *i)
{
	unsigned n = 0;

	for (unsigned k = 0; k < i->conf.connections; k++)
		n += i->conn[k]->state == CONN_FFP;
	return n;
}

const struct iscsi_params *iscsi_ini_params(const struct iscsi_ini *i)
{
	return &i->params;
}

const struct iscsi_ini_stats *iscsi_ini_stats(const struct iscsi_ini *i)
{
	return &i->stats;
}

const char *iscsi_ini_moved(const struct iscsi_ini *i)
{
	return i->moved;
}

uint16_t iscsi_ini_tsih(const struct iscsi_ini *i)
{
	return i->tsih;
}
