/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: requests that are no SCSI commands - task management, ping, text, logout. */
#include "iscsi/initiator_impl.h"

#include <errno.h>
#include <stdlib.h>

struct ini_ctl *ini_ctl(struct ini_conn *c, uint8_t opcode, uint32_t itt, const void *data, uint32_t len)
{
	struct ini_ctl *k = c->nctl < INI_CTL_MAX ? calloc(1, sizeof(*k) + len) : NULL;

	if (!k) {
		ini_fail(c, 0, c->nctl < INI_CTL_MAX ? "out of memory" : "target asks and does not read");
		return NULL;
	}
	c->nctl++;
	k->bhs[BHS_OPCODE] = opcode;
	k->bhs[BHS_FLAGS] = FLAG_FINAL;
	k->sn_set = true;
	put_be24(k->bhs + BHS_DATA_LEN, len);
	put_be32(k->bhs + BHS_ITT, itt);
	k->len = len;
	if (len)
		memcpy(k->data, data, len);
	list_add_tail(&c->ctl, &k->node);
	return k;
}

uint32_t ini_own_itt(struct iscsi_ini *i)
{
	uint32_t itt = INI_ITT_OWN | i->own_itt++;

	if (itt == ISCSI_NO_TAG)
		itt = INI_ITT_OWN | (i->own_itt++ & 0xffff);
	return itt;
}

/* --- task management --- */

static struct ini_tmf *tmf_slot(struct iscsi_ini *i)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++)
		if (!i->tmf[k].used)
			return &i->tmf[k];
	return NULL;
}

static struct ini_tmf *tmf_find(struct iscsi_ini *i, uint32_t itt)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++)
		if (i->tmf[k].used && i->tmf[k].conn && i->tmf[k].itt == itt)
			return &i->tmf[k];
	return NULL;
}

/* Sent as an immediate request: it concerns all commands with a CmdSN before its own. */
static int tmf_send(struct ini_conn *c, struct ini_tmf *t, uint32_t itt)
{
	struct ini_ctl *k = ini_ctl(c, ISCSI_TMF_REQ | OP_IMMEDIATE, itt, NULL, 0);
	const struct iscsi_ini_cmd *ref = t->ref;

	if (!k)
		return -ENOMEM;
	t->itt = itt;
	t->cmd_sn = c->i->cmd_sn;
	t->conn = c;
	t->sent_ns = c->i->now_ns;
	k->bhs[BHS_FLAGS] |= t->function;
	put_be64(k->bhs + BHS_LUN, t->lun);
	put_be32(k->bhs + TMF_REF_TAG, ref ? ref->itt : ISCSI_NO_TAG);
	if (ref && t->function != TMF_REASSIGN) /* 11.5.5: an immediate task has no number of its own */
		put_be32(k->bhs + TMF_REF_CMD_SN, ref->immediate ? c->i->cmd_sn : ref->cmd_sn);
	if (ref && t->function == TMF_REASSIGN)
		put_be32(k->bhs + TMF_EXP_DATA_SN, ref->in_len ? ref->next_data_sn : ref->exp_r2t_sn);
	return 0;
}

/* 11.5 */
int iscsi_ini_tmf(struct iscsi_ini *i, enum iscsi_tmf function, uint64_t lun, struct iscsi_ini_cmd *ref, void *ctx)
{
	struct ini_tmf *t = tmf_slot(i);
	struct ini_conn *c = ref && ref->conn ? ref->conn : ini_any(i);

	if (i->state != INI_UP || !c)
		return -ENOTCONN;
	if (!t)
		return -EBUSY;
	if (function == TMF_REASSIGN || function < TMF_ABORT_TASK || function > TMF_QUERY_ASYNC)
		return -EINVAL;
	if (function >= TMF_QUERY_TASK && i->params.protocol_level < 2)
		return -EOPNOTSUPP;
	/* Not sent: the request would overtake it, and it would run unheard of. Ended: its event is on its way. */
	if (ref && (i->slot[ref->itt & (i->nslots - 1)] != ref || !ref->conn || ref->orphan || c->state != CONN_FFP))
		return -EAGAIN;
	*t = (struct ini_tmf){ .used = true, .function = (uint8_t)function, .lun = lun, .ref = ref, .ctx = ctx };
	if (tmf_send(c, t, ini_own_itt(i))) {
		t->used = false;
		return -ENOMEM;
	}
	return 0;
}

/* It leaves now: it concerns what was numbered before. */
void ini_tmf_numbered(struct ini_conn *c, uint32_t itt)
{
	struct ini_tmf *t = tmf_find(c->i, itt);

	if (t)
		t->cmd_sn = c->i->cmd_sn;
}

static bool many(uint8_t function)
{
	return function == TMF_ABORT_TASK_SET || function == TMF_CLEAR_TASK_SET || function == TMF_LU_RESET ||
		function == TMF_WARM_RESET || function == TMF_COLD_RESET || function == TMF_I_T_NEXUS_RESET;
}

static bool concerns(const struct ini_tmf *t, const struct iscsi_ini_cmd *cmd)
{
	bool all = t->function == TMF_WARM_RESET || t->function == TMF_COLD_RESET || t->function == TMF_I_T_NEXUS_RESET;

	return many(t->function) && (all || cmd->lun == t->lun) && cmd->conn && sn_lt(cmd->cmd_sn, t->cmd_sn);
}

/* 4.2.3.4: with FastAbort no data follows the request. */
bool ini_tmf_stops_data(const struct iscsi_ini *i, const struct iscsi_ini_cmd *cmd)
{
	for (unsigned k = 0; k < INI_TMF_MAX && i->params.fast_abort; k++)
		if (i->tmf[k].used && i->tmf[k].conn == cmd->conn && concerns(&i->tmf[k], cmd))
			return true;
	return false;
}

/* The answer to TASK REASSIGN (7.2.2). */
static void reassigned(struct ini_conn *c, struct iscsi_ini_cmd *cmd, uint8_t response)
{
	if (!cmd)
		return;
	cmd->reassigning = false;
	if (response == TMF_RSP_COMPLETE) {
		c->i->stats.reassigned++;
		list_del(&cmd->node);
		list_add_tail(&c->cmds, &cmd->node);
		c->ncmds++;
		cmd->conn = c;
		cmd->orphan = false;
		cmd->asked = 0;
		cmd->moved_ns = c->i->now_ns;
	} else if (response == TMF_RSP_NO_TASK && cmd->retry) {
		ini_requeue(c->i, cmd);
	} else if (response == TMF_RSP_NO_TASK) {
		ini_finish(c->i, cmd, -ECONNRESET);
	} else if (response == TMF_RSP_ALLEGIANT && ++cmd->asked <= INI_ASK_MAX) { /* not done yet with what was logged out */
		cmd->asked_ns = c->i->now_ns;
	} else {
		ini_session_lost(c->i, "the target does not hand tasks over to another connection");
	}
}

void ini_tmf_heard(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++) {
		struct ini_tmf *t = &c->i->tmf[k];
		if (!t->used || t->function != TMF_REASSIGN || t->ref != cmd || t->conn != c)
			continue;
		t->ref = NULL;
		reassigned(c, cmd, TMF_RSP_COMPLETE);
		return;
	}
}

void ini_tmf_done(struct ini_conn *c, uint32_t itt, uint8_t response, uint32_t info)
{
	struct iscsi_ini *i = c->i;
	struct ini_tmf *t = tmf_find(i, itt);

	if (!t) {
		if (!ini_level(i, 1))
			ini_fail(c, 0, "task management response to no request");
		return;
	}
	/* The answer to a copy, while one before it is missing: that to the first, which is asked for. */
	if (t->function == TMF_REASSIGN && response == TMF_RSP_ALLEGIANT && c->stat_seen)
		return;
	t->used = false;
	if (t->function == TMF_REASSIGN) {
		reassigned(c, t->ref, response);
		return;
	}
	if (t->function == TMF_ABORT_TASK && t->ref && response <= TMF_RSP_NO_TASK)
		ini_finish(i, t->ref, -ECANCELED);
	for (unsigned s = 0; s < i->nslots && response == TMF_RSP_COMPLETE; s++)
		if (i->slot[s] && concerns(t, i->slot[s]))
			ini_finish(i, i->slot[s], -ECANCELED);
	ini_event(c, INI_EV_TMF, response, info, NULL, 0, t->ctx);
}

void ini_tmf_forget(struct iscsi_ini *i, const struct iscsi_ini_cmd *cmd)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++)
		if (i->tmf[k].ref == cmd)
			i->tmf[k].ref = NULL;
}

/* Requests whose connection is gone are made again on another; immediate requests have no allegiance to carry on. */
void ini_tmf_lost(struct ini_conn *c)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++) {
		struct ini_tmf *t = &c->i->tmf[k];

		if (!t->used || t->conn != c)
			continue;
		t->conn = NULL;
		if (t->function != TMF_REASSIGN) {
			c->i->tmf_waits = true;
			continue;
		}
		t->used = false;
		if (!t->ref)
			continue;
		t->ref->reassigning = false;
		t->ref->conn = c; /* the target may have given it to this one */
	}
}

void ini_tmf_resend(struct iscsi_ini *i)
{
	i->tmf_waits = false;
	for (unsigned k = 0; k < INI_TMF_MAX; k++) {
		struct ini_tmf *t = &i->tmf[k];
		struct ini_conn *c = t->ref ? t->ref->conn : ini_any(i);

		if (!t->used || t->conn)
			continue;
		if (!c || c->state != CONN_FFP || (t->ref && t->ref->orphan)) {
			i->tmf_waits = true;
			continue;
		}
		if (!t->ref && (t->function == TMF_ABORT_TASK || t->function == TMF_QUERY_TASK)) {
			t->used = false;
			ini_event(c, INI_EV_TMF, TMF_RSP_NO_TASK, 0, NULL, 0, t->ctx);
		} else {
			tmf_send(c, t, ini_own_itt(i));
		}
	}
}

/* A ping that was sent behind a request has been answered, it has not, and no status is missing: it was lost. The same once
 * more; a target that has it after all ignores or rejects the copy. */
void ini_tmf_again(struct ini_conn *c)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++) {
		struct ini_tmf *t = &c->i->tmf[k];
		uint64_t wait = (t->function == TMF_REASSIGN ? 1 : 4) * c->i->conf.probe_ns;

		if (t->used && t->conn == c && t->sent_ns < c->probed_ns && c->i->now_ns >= t->sent_ns + wait)
			tmf_send(c, t, t->itt);
	}
}

bool ini_tmf_waits(const struct ini_conn *c)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++)
		if (c->i->tmf[k].used && c->i->tmf[k].conn == c)
			return true;
	return false;
}

/* The session is gone: what was asked for did not happen, or nobody knows. */
void ini_tmf_end_all(struct iscsi_ini *i)
{
	for (unsigned k = 0; k < INI_TMF_MAX; k++) {
		struct ini_tmf *t = &i->tmf[k];

		if (t->used && t->function != TMF_REASSIGN)
			ini_event(i->conn[0], INI_EV_TMF, TMF_RSP_REJECTED, 0, NULL, 0, t->ctx);
		t->used = false;
	}
}

/* ExpDataSN acknowledges what is complete; all that came behind a hole comes again (7.2.2, 11.5.6). */
int ini_reassign(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	struct ini_tmf *t = tmf_slot(c->i);

	if (!t)
		return -EBUSY;
	if (cmd->ngaps) {
		cmd->next_data_sn = cmd->gap[0].sn;
		cmd->in_got = cmd->gap[0].off;
		cmd->ngaps = 0;
	}
	cmd->exp_r2t_sn -= cmd->r2t_n;
	cmd->r2t_n = 0;
	cmd->unsol_at = cmd->unsol_end;
	cmd->ended = cmd->ack_due = false;
	cmd->r2t_any = true;
	cmd->batch = 0;
	*t = (struct ini_tmf){ .used = true, .function = TMF_REASSIGN, .lun = cmd->lun, .ref = cmd };
	if (tmf_send(c, t, ini_own_itt(c->i))) {
		t->used = false;
		return -ENOMEM;
	}
	cmd->reassigning = true;
	return 0;
}

/* --- the rest --- */

/* 7.3: a CmdSN that no command will use any more must be used by something. */
void ini_fill_hole(struct ini_conn *c, uint32_t cmd_sn)
{
	struct ini_ctl *k = ini_ctl(c, ISCSI_NOP_OUT, ini_own_itt(c->i), NULL, 0);

	if (!k)
		return;
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
	put_be32(k->bhs + BHS_CMD_SN, cmd_sn);
	k->numbered = true;
}

int iscsi_ini_ping(struct iscsi_ini *i, unsigned conn, const void *data, uint32_t len)
{
	struct ini_conn *c = conn < i->conf.connections ? i->conn[conn] : NULL;
	struct ini_ctl *k;

	if (!c || c->state != CONN_FFP)
		return -ENOTCONN;
	if (len > INI_NOP_DATA || len > c->params.max_xmit_segment)
		return -EINVAL;
	k = ini_ctl(c, ISCSI_NOP_OUT | OP_IMMEDIATE, ini_own_itt(i), data, len);
	if (!k)
		return -ENOMEM;
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
	i->stats.pings++;
	return 0;
}

int iscsi_ini_send_targets(struct iscsi_ini *i, const char *value)
{
	struct ini_conn *c = ini_any(i);
	struct iscsi_text t = { 0 };
	struct ini_ctl *k;

	if (!c)
		return -ENOTCONN;
	if (iscsi_text_put(&t, "SendTargets", "%s", value)) {
		iscsi_text_free(&t);
		return -ENOMEM;
	}
	k = ini_ctl(c, ISCSI_TEXT_REQ | OP_IMMEDIATE, ini_own_itt(i), t.buf, t.len);
	iscsi_text_free(&t);
	if (!k)
		return -ENOMEM;
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
	c->text.len = 0;
	c->text_wanted = true;
	return 0;
}

int iscsi_ini_logout(struct iscsi_ini *i)
{
	struct ini_conn *c = ini_any(i);

	for (unsigned k = 0; !c && k < i->conf.connections && i->state == INI_UP; k++)
		if (i->conn[k]->state == CONN_FFP) /* though the target asked it to log out */
			c = i->conn[k];
	if (!c)
		return -ENOTCONN;
	i->logged_out = true;
	return ini_logout(c, c, 0);
}
