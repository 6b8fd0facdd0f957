/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: life of a connection, requests, events, timeouts. See initiator.h. */
#include "iscsi/initiator_impl.h"

#include <errno.h>
#include <stdlib.h>

#define NS_PER_S 1000000000ull

void iscsi_ini_conf_defaults(struct iscsi_ini_conf *c)
{
	*c = (struct iscsi_ini_conf){ .isid = { 0x80, 0, 0, 0, 0, 1 }, .max_cmds = 256, .first_cmd_sn = 1 };
	c->offer = (struct iscsi_offer){ .max_recv_segment = 1 << 20, .first_burst = 256 << 10, .max_burst = (16 << 20) - 4096,
		.max_r2t = INI_R2T_MAX, .max_connections = 1, .time2wait = 2, .immediate_data = true,
		.pdu_in_order = true, .sequence_in_order = true };
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
	i->hdr = malloc(INI_HDR);
	if (!i->slot || !i->gen || !i->free_slot || !i->hdr)
		return -ENOMEM;
	for (unsigned k = n; k--; )
		i->free_slot[i->nfree++] = k;
	return 0;
}

struct iscsi_ini *iscsi_ini_new(const struct iscsi_ini_conf *conf)
{
	struct iscsi_ini *i = calloc(1, sizeof(*i));

	if (!i)
		return NULL;
	i->conf = *conf;
	i->max_cmds = MIN(conf->max_cmds ? conf->max_cmds : 256, (unsigned)INI_CMDS_MAX);
	i->cmd_sn = i->max_cmd_sn = conf->first_cmd_sn;
	i->rx_need = ISCSI_BHS;
	i->batch = 1;
	list_init(&i->waiting);
	list_init(&i->data);
	list_init(&i->done);
	list_init(&i->linger);
	list_init(&i->events);
	list_init(&i->ctl);
	if (alloc_slots(i)) {
		iscsi_ini_free(i);
		return NULL;
	}
	ini_login_start(i);
	return i;
}

static void free_nodes(struct list *head)
{
	while (!list_empty(head)) {
		struct list *n = head->next; /* ini_ctl and ini_event begin with their node */

		list_del(n);
		free(n);
	}
}

void iscsi_ini_free(struct iscsi_ini *i)
{
	if (!i)
		return;
	free_nodes(&i->events);
	free_nodes(&i->ctl);
	free(i->last_event);
	iscsi_text_free(&i->text);
	free(i->rx_buf);
	free(i->hdr);
	free(i->slot);
	free(i->gen);
	free(i->free_slot);
	free(i);
}

void ini_event(struct iscsi_ini *i, enum iscsi_ini_event_kind kind, unsigned code, const void *data, uint32_t len, void *ctx)
{
	struct ini_event *e;

	if (i->nevents >= INI_EVENTS_MAX) {
		ini_close(i, 0, "too many events");
		return;
	}
	e = malloc(sizeof(*e) + len + 1);
	if (!e) {
		ini_close(i, 0, "out of memory");
		return;
	}
	if (len)
		memcpy(e->data, data, len);
	e->data[len] = 0;
	e->ev = (struct iscsi_ini_event){ .kind = kind, .code = code, .text = e->data, .len = len, .ctx = ctx };
	list_add_tail(&i->events, &e->node);
	i->nevents++;
}

struct ini_ctl *ini_ctl(struct iscsi_ini *i, uint8_t opcode, uint32_t itt, const void *data, uint32_t len)
{
	struct ini_ctl *k = calloc(1, sizeof(*k) + len);

	if (!k) {
		ini_close(i, 0, "out of memory");
		return NULL;
	}
	k->bhs[BHS_OPCODE] = opcode;
	k->bhs[BHS_FLAGS] = FLAG_FINAL;
	k->sn_set = true;
	put_be24(k->bhs + BHS_DATA_LEN, len);
	put_be32(k->bhs + BHS_ITT, itt);
	k->len = len;
	if (len)
		memcpy(k->data, data, len);
	list_add_tail(&i->ctl, &k->node);
	return k;
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

int iscsi_ini_cmd(struct iscsi_ini *i, struct iscsi_ini_cmd *c)
{
	uint32_t slot;

	if (i->state != INI_FFP || i->params.discovery)
		return -ENOTCONN;
	if (c->in_len && c->out_len)
		return -EINVAL;
	if (iscsi_ini_inflight(i) >= i->max_cmds || !i->nfree)
		return -EBUSY;
	slot = i->free_slot[--i->nfree];
	c->itt = make_itt(i, slot);
	i->slot[slot] = c;
	c->error = c->response = c->status = 0;
	c->overflow = c->underflow = false;
	c->resid = c->in_got = c->sense_len = 0;
	c->next_data_sn = c->batch = c->unsol_at = c->unsol_end = c->exp_r2t_sn = 0;
	c->r2t_head = c->r2t_n = 0;
	list_init(&c->datanode);
	list_add_tail(&i->waiting, &c->node);
	return 0;
}

/* The command leaves the engine; its memory only when no batch that is on its way refers to it. */
void ini_finish(struct iscsi_ini *i, struct iscsi_ini_cmd *c, int error)
{
	uint32_t slot = c->itt & (i->nslots - 1);

	i->slot[slot] = NULL;
	i->free_slot[i->nfree++] = slot;
	c->error = error;
	list_del(&c->node);
	list_del(&c->datanode);
	if (i->rx_cmd == c)
		i->rx_cmd = NULL;
	for (unsigned k = 0; k < INI_TMF_MAX; k++)
		if (i->tmf[k].ref == c)
			i->tmf[k].ref = NULL;
	list_add_tail(c->batch == i->batch && i->left ? &i->linger : &i->done, &c->node);
}

unsigned iscsi_ini_inflight(const struct iscsi_ini *i)
{
	return i->nslots - i->nfree;
}

void ini_close(struct iscsi_ini *i, unsigned code, const char *why)
{
	if (i->state == INI_CLOSED)
		return;
	i->state = INI_CLOSED;
	i->why = why;
	i->closed_code = code;
	i->left = 0;
	i->niov = 0;
	for (unsigned s = 0; s < i->nslots; s++)
		if (i->slot[s])
			ini_finish(i, i->slot[s], -ECONNRESET);
	list_splice_tail(&i->done, &i->linger);
}

void iscsi_ini_lost(struct iscsi_ini *i, const char *why)
{
	ini_close(i, 0, i->state == INI_LOGGED_OUT ? "logged out" : why);
}

/* --- requests that are no SCSI commands --- */

static uint32_t own_itt(struct iscsi_ini *i)
{
	uint32_t itt = INI_ITT_OWN | i->own_itt++;

	if (itt == ISCSI_NO_TAG)
		itt = INI_ITT_OWN | (i->own_itt++ & 0xffff);
	return itt;
}

static struct ini_tmf *tmf_slot(struct iscsi_ini *i)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++)
		if (!i->tmf[k].used)
			return &i->tmf[k];
	return NULL;
}

/* 11.5. Sent as an immediate request: it concerns all commands with a CmdSN before its own. */
int iscsi_ini_tmf(struct iscsi_ini *i, enum iscsi_tmf function, uint64_t lun, struct iscsi_ini_cmd *ref, void *ctx)
{
	struct ini_tmf *t = tmf_slot(i);
	struct ini_ctl *k;

	if (i->state != INI_FFP)
		return -ENOTCONN;
	if (!t)
		return -EBUSY;
	/* Not sent: the request would overtake it, and it would run unheard of. Ended: its event is on its way. */
	if (ref && (!ref->batch || i->slot[ref->itt & (i->nslots - 1)] != ref))
		return -EAGAIN;
	k = ini_ctl(i, ISCSI_TMF_REQ | OP_IMMEDIATE, own_itt(i), NULL, 0);
	if (!k)
		return -ENOMEM;
	*t = (struct ini_tmf){ .used = true, .function = (uint8_t)function, .itt = be32(k->bhs + BHS_ITT),
		.cmd_sn = i->cmd_sn, .lun = lun, .ref = ref, .ctx = ctx };
	k->bhs[BHS_FLAGS] |= (uint8_t)function;
	put_be64(k->bhs + BHS_LUN, lun);
	put_be32(k->bhs + TMF_REF_TAG, ref ? ref->itt : ISCSI_NO_TAG);
	if (ref)
		put_be32(k->bhs + TMF_REF_CMD_SN, ref->cmd_sn);
	return 0;
}

static bool concerns(const struct ini_tmf *t, const struct iscsi_ini_cmd *c)
{
	if (t->function == TMF_WARM_RESET || t->function == TMF_COLD_RESET)
		return true;
	return c->lun == t->lun && (t->function == TMF_ABORT_TASK_SET || t->function == TMF_CLEAR_TASK_SET ||
		t->function == TMF_LU_RESET);
}

void ini_tmf_done(struct iscsi_ini *i, uint32_t itt, uint8_t response)
{
	struct ini_tmf *t = NULL;

	for (unsigned k = 0; k < INI_TMF_MAX; k++)
		if (i->tmf[k].used && i->tmf[k].itt == itt)
			t = &i->tmf[k];
	if (!t) {
		ini_close(i, 0, "task management response to no request");
		return;
	}
	t->used = false;
	if (t->function == TMF_ABORT_TASK && t->ref && response <= TMF_RSP_NO_TASK)
		ini_finish(i, t->ref, -ECANCELED);
	for (unsigned s = 0; s < i->nslots && response == TMF_RSP_COMPLETE; s++) {
		struct iscsi_ini_cmd *c = i->slot[s];

		if (c && concerns(t, c) && c->batch && sn_lt(c->cmd_sn, t->cmd_sn))
			ini_finish(i, c, -ECANCELED);
	}
	ini_event(i, INI_EV_TMF, response, NULL, 0, t->ctx);
}

int iscsi_ini_ping(struct iscsi_ini *i, const void *data, uint32_t len)
{
	struct ini_ctl *k;

	if (i->state != INI_FFP)
		return -ENOTCONN;
	if (len > INI_NOP_DATA || len > i->params.max_xmit_segment)
		return -EINVAL;
	k = ini_ctl(i, ISCSI_NOP_OUT | OP_IMMEDIATE, own_itt(i), data, len);
	if (!k)
		return -ENOMEM;
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
	return 0;
}

int iscsi_ini_send_targets(struct iscsi_ini *i, const char *value)
{
	struct iscsi_text t = { 0 };
	struct ini_ctl *k;

	if (i->state != INI_FFP)
		return -ENOTCONN;
	if (iscsi_text_put(&t, "SendTargets", "%s", value)) {
		iscsi_text_free(&t);
		return -ENOMEM;
	}
	k = ini_ctl(i, ISCSI_TEXT_REQ | OP_IMMEDIATE, own_itt(i), t.buf, t.len);
	iscsi_text_free(&t);
	if (!k)
		return -ENOMEM;
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
	i->text.len = 0;
	return 0;
}

int iscsi_ini_logout(struct iscsi_ini *i, uint8_t reason)
{
	struct ini_ctl *k;

	if (i->state != INI_FFP)
		return -ENOTCONN;
	k = ini_ctl(i, ISCSI_LOGOUT_REQ | OP_IMMEDIATE, own_itt(i), NULL, 0);
	if (!k)
		return -ENOMEM;
	k->bhs[BHS_FLAGS] |= reason;
	put_be16(k->bhs + LOGOUT_CID, i->conf.cid);
	return 0;
}

/* --- events, time --- */

static bool next_queued(struct iscsi_ini *i, struct iscsi_ini_event *ret)
{
	free(i->last_event);
	i->last_event = list_first(&i->events, struct ini_event, node);
	list_del(&i->last_event->node);
	i->nevents--;
	*ret = i->last_event->ev;
	return true;
}

bool iscsi_ini_next(struct iscsi_ini *i, struct iscsi_ini_event *ret)
{
	if (!list_empty(&i->done)) {
		struct iscsi_ini_cmd *c = list_first(&i->done, struct iscsi_ini_cmd, node);

		list_del(&c->node);
		ret->kind = INI_EV_CMD;
		ret->cmd = c;
		ret->ctx = c->ctx;
		return true;
	}
	if (!list_empty(&i->events))
		return next_queued(i, ret);
	if (i->state != INI_CLOSED || i->closed_told)
		return false;
	i->closed_told = true;
	*ret = (struct iscsi_ini_event){ .kind = INI_EV_CLOSED, .code = i->closed_code, .text = i->why };
	return true;
}

static uint64_t tick_login(struct iscsi_ini *i)
{
	uint64_t end = i->born_ns + (i->conf.login_timeout_ns ? i->conf.login_timeout_ns : 15 * NS_PER_S);

	if (i->now_ns < end)
		return end;
	ini_close(i, 0, "login timed out");
	return UINT64_MAX;
}

uint64_t iscsi_ini_tick(struct iscsi_ini *i, uint64_t now_ns)
{
	uint64_t end;

	i->now_ns = now_ns;
	if (!i->born_ns)
		i->born_ns = i->heard_ns = now_ns;
	if (i->heard) {
		i->heard = false;
		i->heard_ns = now_ns;
		i->pinged_ns = 0;
	}
	if (i->state == INI_LOGIN)
		return tick_login(i);
	if (i->state != INI_FFP || !i->conf.nop_ns)
		return UINT64_MAX;
	end = (i->pinged_ns ? i->pinged_ns : i->heard_ns) + i->conf.nop_ns;
	if (now_ns < end)
		return end;
	if (i->pinged_ns) {
		ini_close(i, 0, "target does not answer");
		return UINT64_MAX;
	}
	i->pinged_ns = now_ns;
	iscsi_ini_ping(i, NULL, 0);
	return now_ns + i->conf.nop_ns;
}

bool iscsi_ini_ready(const struct iscsi_ini *i)
{
	return i->state == INI_FFP;
}

const struct iscsi_params *iscsi_ini_params(const struct iscsi_ini *i)
{
	return &i->params;
}

const char *iscsi_ini_moved(const struct iscsi_ini *i)
{
	return i->moved;
}

uint16_t iscsi_ini_tsih(const struct iscsi_ini *i)
{
	return i->tsih;
}
