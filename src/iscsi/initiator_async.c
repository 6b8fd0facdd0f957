/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: what the target says unasked - Async Message (11.9), Reject (11.17), NOP-In (11.19). */
#include "iscsi/initiator_impl.h"

#include <errno.h>

/* 11.19: answer a ping of the target; an answer to ours is an event, but to those that look after commands. */
void ini_rx_nop(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	uint32_t itt = be32(bhs + BHS_ITT), ttt = be32(bhs + BHS_TTT);
	struct ini_ctl *k;

	if (itt != ISCSI_NO_TAG) {
		if (!ini_stat_sn(c, be32(bhs + BHS_STAT_SN)))
			return;
		if (itt != c->probe_itt) {
			ini_event(c, INI_EV_NOP, 0, 0, data, len, NULL);
			return;
		}
		c->probe_itt = 0;
		ini_probe_answered(c);
		return;
	}
	ini_stat_ahead(c, be32(bhs + BHS_STAT_SN));
	if (ttt == ISCSI_NO_TAG)
		return;
	k = ini_ctl(c, ISCSI_NOP_OUT | OP_IMMEDIATE, ISCSI_NO_TAG, data, MIN(len, c->params.max_xmit_segment));
	if (!k)
		return;
	memcpy(k->bhs + BHS_LUN, bhs + BHS_LUN, 8);
	put_be32(k->bhs + BHS_TTT, ttt);
}

static struct ini_conn *by_cid(struct iscsi_ini *i, uint16_t cid)
{
	unsigned k = (unsigned)(cid - i->conf.cid);

	return k < i->conf.connections ? i->conn[k] : NULL;
}

static void drop(struct ini_conn *c, unsigned wait_s)
{
	if (!c)
		return;
	c->wait_ns = wait_s * NS_PER_S;
	ini_fail(c, 0, "the target is about to drop it");
}

/* Event 4: an empty Text Request is what it waits for. */
static void negotiate(struct ini_conn *c)
{
	struct ini_ctl *k = ini_ctl(c, ISCSI_TEXT_REQ | OP_IMMEDIATE, ini_own_itt(c->i), NULL, 0);

	if (k)
		put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
}

/* Event 5: no more data of the unit's tasks, and a word that we know. The tasks are over: the target says nothing else. */
static void terminated(struct ini_conn *c, const uint8_t *bhs)
{
	struct iscsi_ini_cmd *cmd, *next;
	uint64_t lun = be64(bhs + BHS_LUN);
	struct ini_ctl *k;

	list_for_each_safe(cmd, next, &c->cmds, node) {
		if (cmd->lun != lun)
			continue;
		if (cmd->retry && !ini_refers(c, cmd))
			ini_requeue(c->i, cmd);
		else
			ini_finish(c->i, cmd, -ECANCELED);
	}
	k = ini_ctl(c, ISCSI_NOP_OUT | OP_IMMEDIATE, ISCSI_NO_TAG, NULL, 0);
	if (!k)
		return;
	put_be64(k->bhs + BHS_LUN, lun);
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
}

void ini_rx_async(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	struct iscsi_ini *i = c->i;
	unsigned code = bhs[ASYNC_EVENT], p2 = be16(bhs + ASYNC_P2), p3 = be16(bhs + ASYNC_P3);

	if (!ini_stat_sn(c, be32(bhs + BHS_STAT_SN)))
		return;
	ini_event(c, INI_EV_ASYNC, code, 0, data, len, NULL);
	switch (code) {
	case 1:
		ini_drain(c, p3);
		break;
	case 2:
		drop(by_cid(i, be16(bhs + ASYNC_P1)), p2);
		break;
	case 3:
		for (unsigned k = 0; k < i->conf.connections; k++)
			drop(i->conn[k], p2);
		break;
	case 4:
		negotiate(c);
		break;
	case 5:
		terminated(c, bhs);
		break;
	default:
		break;
	}
}

/* 7.3: the command was never active, its CmdSN is a hole. A data digest error is no fault of the command. */
static void command_rejected(struct ini_conn *c, struct iscsi_ini_cmd *cmd, unsigned reason)
{
	if (ini_level(c->i, 1) && reason == REJECT_DATA_DIGEST) {
		ini_resend(c, cmd);
		return;
	}
	if (!cmd->immediate && !sn_lt(cmd->cmd_sn, c->i->exp_cmd_sn))
		ini_fill_hole(c, cmd->cmd_sn);
	if (cmd->retry && reason == REJECT_LOGOUT && !ini_refers(c, cmd))
		ini_requeue(c->i, cmd);
	else
		ini_finish(c->i, cmd, -EREMOTEIO);
}

/* What we asked for cannot be had. If it came meanwhile (a race), all is well; a lost R2T is the target's to notice. */
static void snack_rejected(struct ini_conn *c, const uint8_t *rejected)
{
	unsigned type = rejected[BHS_FLAGS] & 0x0f;
	struct iscsi_ini_cmd *cmd = ini_find(c->i, be32(rejected + BHS_ITT));

	if (type == 1 && sn_le(c->exp_stat_sn, be32(rejected + SNACK_BEG_RUN)) && sn_lt(c->exp_stat_sn, c->stat_asked))
		ini_fail(c, 0, "the target does not repeat a status");
	if (type == 0 && cmd && cmd->conn == c && cmd->in_len && (cmd->ngaps || cmd->ended))
		ini_fail(c, 0, "the target does not repeat data");
}

/* 11.17: the data is the rejected header. */
void ini_rx_reject(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	struct iscsi_ini_cmd *cmd;
	unsigned op;

	if (!ini_stat_sn(c, be32(bhs + BHS_STAT_SN)))
		return;
	c->i->stats.rejects++;
	ini_event(c, INI_EV_REJECT, bhs[REJECT_REASON], 0, data, len, NULL);
	if (len < ISCSI_BHS)
		return;
	op = data[BHS_OPCODE] & OP_MASK;
	cmd = ini_find(c->i, be32(data + BHS_ITT));
	if (op == ISCSI_SCSI_CMD && cmd && cmd->conn == c && !cmd->orphan)
		command_rejected(c, cmd, bhs[REJECT_REASON]);
	else if (op == ISCSI_SNACK)
		snack_rejected(c, data);
}
