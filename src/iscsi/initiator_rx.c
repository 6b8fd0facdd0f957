/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: bytes -> PDUs -> results. Data of a Data-In goes from the caller's bytes straight to the
 * command's room (or is discarded); anything else is collected first. */
#include "iscsi/initiator_impl.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"

static void violation(struct ini_conn *c, const char *why)
{
	ini_fail(c, 0, why);
}

/* At level 1 and above what is not expected may be a copy of what was; on another connection than the answer to a task
 * management request it may be late (4.2.3.4 d). Else it is an error. */
static bool may_be_late(const struct ini_conn *c)
{
	return ini_level(c->i, 1) || c->i->nconns > 1;
}

static void unexpected(struct ini_conn *c, const char *why)
{
	if (may_be_late(c))
		c->i->stats.duplicates++;
	else
		violation(c, why);
}

static bool take_stat_sn(struct ini_conn *c, const uint8_t *bhs)
{
	return ini_stat_sn(c, be32(bhs + BHS_STAT_SN));
}

/* 4.2.2.1: the window only moves forward. */
static void take_window(struct ini_conn *c, const uint8_t *bhs)
{
	struct iscsi_ini *i = c->i;
	uint32_t max = be32(bhs + BHS_MAX_CMD_SN), exp = be32(bhs + BHS_EXP_CMD_SN);

	if (!sn_le(exp - 1, max))
		return;
	c->unsure = false;
	if (sn_lt(i->max_cmd_sn, max))
		i->max_cmd_sn = max;
	if (sn_lt(i->exp_cmd_sn, exp) && sn_le(exp, i->cmd_sn))
		i->exp_cmd_sn = exp;
}

/* The command that a PDU of this connection is about; NULL: none, or it is not on this connection. */
static struct iscsi_ini_cmd *cmd_of(struct ini_conn *c, const uint8_t *bhs)
{
	struct iscsi_ini_cmd *cmd = ini_find(c->i, be32(bhs + BHS_ITT));

	if (cmd && cmd->orphan && cmd->reassigning)
		ini_tmf_heard(c, cmd);
	return cmd && cmd->conn == c && !cmd->orphan ? cmd : NULL;
}

/* --- handlers, one per opcode; the whole PDU is here and its digests hold --- */

static void take_residual(struct iscsi_ini_cmd *cmd, uint8_t flags, uint32_t resid)
{
	cmd->overflow = flags & RSP_OVERFLOW;
	cmd->underflow = flags & RSP_UNDERFLOW;
	cmd->resid = cmd->overflow || cmd->underflow ? resid : 0;
}

static void take_sense(struct iscsi_ini_cmd *cmd, const uint8_t *data, uint32_t len)
{
	uint32_t n;

	if (len < 2)
		return;
	n = MIN((uint32_t)be16(data), len - 2);
	cmd->sense_len = (uint16_t)MIN(n, (uint32_t)LIM_SENSE);
	memcpy(cmd->sense, data + 2, cmd->sense_len);
}

/* The status is here; the command ends when its data is. */
void ini_try_finish(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	if (cmd->ended && !cmd->ngaps && sn_le(cmd->exp_data_sn, cmd->next_data_sn))
		ini_finish(c->i, cmd, 0);
}

static void take_status(struct ini_conn *c, struct iscsi_ini_cmd *cmd, const uint8_t *bhs, uint32_t exp_data_sn)
{
	cmd->stat_sn = be32(bhs + BHS_STAT_SN);
	cmd->exp_data_sn = exp_data_sn;
	c->held += !cmd->ended;
	cmd->ended = true;
	cmd->moved_ns = c->i->now_ns;
	if (sn_lt(cmd->next_data_sn, exp_data_sn))
		ini_data_ask(c, cmd);
	ini_try_finish(c, cmd);
}

static void rx_scsi_rsp(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	struct iscsi_ini_cmd *cmd = cmd_of(c, bhs);
	uint32_t exp = be32(bhs + RSP_EXP_DATA_SN);
	bool counts;

	if (!take_stat_sn(c, bhs))
		return;
	if (!cmd) {
		unexpected(c, "SCSI response to no command");
		return;
	}
	cmd->response = bhs[RSP_RESPONSE];
	cmd->status = bhs[RSP_STATUS];
	cmd->qualifier = c->params.protocol_level >= 2 ? be16(bhs + BHS_LUN) : 0;
	take_residual(cmd, bhs[BHS_FLAGS], be32(bhs + RSP_RESID));
	take_sense(cmd, data, len);
	counts = cmd->response == 0 && cmd->in_len;
	if (counts && (ini_level(c->i, 1) ? sn_lt(exp, cmd->next_data_sn) : exp != cmd->next_data_sn)) {
		violation(c, "ExpDataSN: a Data-In PDU is missing");
		return;
	}
	take_status(c, cmd, bhs, counts ? exp : cmd->next_data_sn);
}

static void data_in_end(struct ini_conn *c, const uint8_t *bhs, bool good)
{
	struct iscsi_ini_cmd *cmd = c->rx_cmd;
	bool status = bhs[BHS_FLAGS] & DATA_STATUS_VALID;

	if (status && !take_stat_sn(c, bhs))
		status = false;
	if (!cmd)
		cmd = status ? cmd_of(c, bhs) : NULL; /* its data came before, its status did not */
	else
		ini_data_taken(c, cmd, bhs, c->rx_len, good);
	if (!cmd || c->state != CONN_FFP)
		return;
	if (status) {
		cmd->status = bhs[DATA_STATUS];
		take_residual(cmd, bhs[BHS_FLAGS], be32(bhs + DATA_RESID));
		take_status(c, cmd, bhs, be32(bhs + DATA_SN) + 1);
	} else {
		ini_try_finish(c, cmd);
	}
}

static void rx_data_in(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	data_in_end(c, bhs, true);
}

static bool r2t_fits(const struct ini_conn *c, const struct iscsi_ini_cmd *cmd, uint32_t off, uint32_t n)
{
	return cmd->out_len && cmd->r2t_n < c->i->params.max_r2t && cmd->r2t_n < INI_R2T_MAX && n &&
		n <= c->i->params.max_burst && off <= cmd->out_len && n <= cmd->out_len - off;
}

/* Whether an R2T is the next one. At level 1 it may be one that was asked for again, or one behind a lost one. */
static bool r2t_in_order(struct ini_conn *c, struct iscsi_ini_cmd *cmd, uint32_t sn)
{
	if (cmd->r2t_any) /* where the target resumes after a reassignment is its own business */
		cmd->exp_r2t_sn = sn;
	cmd->r2t_any = false;
	if (sn == cmd->exp_r2t_sn)
		return true;
	if (!ini_level(c->i, 1))
		violation(c, "R2T that breaks what was agreed");
	else if (sn_lt(sn, cmd->exp_r2t_sn))
		c->i->stats.duplicates++;
	else
		ini_r2t_ask(c, cmd, sn + 1);
	return false;
}

static void rx_r2t(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	struct iscsi_ini_cmd *cmd = cmd_of(c, bhs);
	uint32_t off = be32(bhs + R2T_OFFSET), n = be32(bhs + R2T_LEN);
	unsigned at;

	ini_stat_ahead(c, be32(bhs + BHS_STAT_SN));
	if (!cmd && may_be_late(c)) {
		c->i->stats.duplicates++;
		return;
	}
	if (cmd && !r2t_in_order(c, cmd, be32(bhs + R2T_SN)))
		return;
	if (!cmd || !r2t_fits(c, cmd, off, n)) {
		violation(c, "R2T that breaks what was agreed");
		return;
	}
	cmd->exp_r2t_sn++;
	cmd->moved_ns = c->i->now_ns;
	if (ini_tmf_stops_data(c->i, cmd))
		return;
	at = (cmd->r2t_head + cmd->r2t_n++) % INI_R2T_MAX;
	cmd->r2t[at].ttt = be32(bhs + BHS_TTT);
	cmd->r2t[at].off = off;
	cmd->r2t[at].end = off + n;
	cmd->r2t[at].data_sn = 0;
	if (list_empty(&cmd->datanode))
		list_add_tail(&c->data, &cmd->datanode);
}

static void rx_tmf_rsp(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	if (take_stat_sn(c, bhs))
		ini_tmf_done(c, be32(bhs + BHS_ITT), bhs[RSP_RESPONSE], be32(bhs + BHS_LUN) >> 8);
}

static void rx_logout_rsp(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	if (take_stat_sn(c, bhs))
		ini_logout_answered(c, be32(bhs + BHS_ITT), bhs[LOGOUT_RESPONSE], be16(bhs + LOGOUT_TIME2WAIT),
			be16(bhs + LOGOUT_TIME2RETAIN));
}

static void rx_login(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	ini_login_rx(c, bhs, data, len);
}

static void rx_text(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	if (take_stat_sn(c, bhs))
		ini_text_rx(c, bhs, data, len);
}

typedef void rx_fn(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len);
static rx_fn *const handlers[64] = {
	[ISCSI_NOP_IN] = ini_rx_nop, [ISCSI_SCSI_RSP] = rx_scsi_rsp, [ISCSI_TMF_RSP] = rx_tmf_rsp,
	[ISCSI_LOGIN_RSP] = rx_login, [ISCSI_TEXT_RSP] = rx_text, [ISCSI_DATA_IN] = rx_data_in,
	[ISCSI_LOGOUT_RSP] = rx_logout_rsp, [ISCSI_R2T] = rx_r2t, [ISCSI_ASYNC] = ini_rx_async, [ISCSI_REJECT] = ini_rx_reject,
};

/* --- framing --- */

static void pdu_end(struct ini_conn *c)
{
	uint8_t *buf = c->rx_buf;

	c->rx_buf = NULL;
	c->rx_state = RX_BHS;
	c->rx_have = 0;
	c->rx_need = ISCSI_BHS;
	handlers[c->rx_bhs[BHS_OPCODE] & OP_MASK](c, c->rx_bhs, buf, c->rx_len);
	c->rx_cmd = NULL;
	free(buf);
}

/* 7.8: the header holds, the data does not. At level 1 it is asked for again. */
static void pdu_spoilt(struct ini_conn *c)
{
	uint8_t op = c->rx_bhs[BHS_OPCODE] & OP_MASK;

	if (!ini_level(c->i, 1)) {
		violation(c, "data digest is wrong");
		return;
	}
	if (op == ISCSI_DATA_IN)
		data_in_end(c, c->rx_bhs, false);
	else if (op == ISCSI_NOP_IN && be32(c->rx_bhs + BHS_ITT) == ISCSI_NO_TAG)
		ini_stat_ahead(c, be32(c->rx_bhs + BHS_STAT_SN));
	else
		ini_stat_spoilt(c, be32(c->rx_bhs + BHS_STAT_SN));
	free(c->rx_buf);
	c->rx_buf = NULL;
	c->rx_cmd = NULL;
	c->rx_state = RX_BHS;
	c->rx_have = 0;
	c->rx_need = ISCSI_BHS;
}

/* 11.7: is this Data-In what its command expects? Says where its data goes. */
static bool begin_data_in(struct ini_conn *c, const uint8_t *bhs)
{
	struct iscsi_ini_cmd *cmd = cmd_of(c, bhs);

	c->rx_cmd = NULL;
	if (!cmd && may_be_late(c)) {
		c->i->stats.duplicates++;
		return true;
	}
	c->rx_take = cmd ? ini_data_take(c, cmd, bhs, c->rx_len) : TAKE_BAD;
	if (c->rx_take == TAKE_BAD) {
		violation(c, "Data-In that its command does not expect");
		return false;
	}
	if (c->rx_take == TAKE_NOT) {
		c->i->stats.duplicates++;
		return true;
	}
	c->rx_cmd = cmd;
	c->rx_off = be32(bhs + DATA_OFFSET);
	return true;
}

static bool allowed(const struct ini_conn *c, uint8_t op)
{
	if (c->state == CONN_LOGIN)
		return op == ISCSI_LOGIN_RSP;
	return (c->state == CONN_FFP || c->state == CONN_LOGOUT) && op != ISCSI_LOGIN_RSP && handlers[op];
}

/* The header is here, with AHS and digest. */
static void header_end(struct ini_conn *c, const uint8_t *hdr)
{
	uint8_t op = hdr[BHS_OPCODE] & OP_MASK;
	uint32_t ahs = ISCSI_BHS + 4u * hdr[BHS_AHS_LEN];

	if (c->header_digest && le32(hdr + ahs) != crc32c(0, hdr, ahs)) {
		violation(c, "header digest is wrong");
		return;
	}
	if (!allowed(c, op)) {
		violation(c, "PDU that has no place here");
		return;
	}
	memcpy(c->rx_bhs, hdr, ISCSI_BHS);
	c->rx_len = bhs_data_len(hdr);
	c->rx_at = c->rx_crc = 0;
	if (c->rx_len > MAX(c->params.max_recv_segment, (uint32_t)ISCSI_BHS)) {
		violation(c, "data segment longer than MaxRecvDataSegmentLength");
		return;
	}
	if (c->state != CONN_LOGIN)
		take_window(c, hdr);
	if (op == ISCSI_DATA_IN && !begin_data_in(c, hdr))
		return;
	if (!c->rx_len) {
		pdu_end(c);
		return;
	}
	if (op != ISCSI_DATA_IN && !(c->rx_buf = malloc(c->rx_len))) {
		violation(c, "out of memory");
		return;
	}
	c->rx_trailer = pad4(c->rx_len) - c->rx_len + (c->data_digest ? 4 : 0);
	c->rx_state = RX_DATA;
}

static size_t eat_header(struct ini_conn *c, const uint8_t *p, size_t len)
{
	size_t n = MIN(len, (size_t)(c->rx_need - c->rx_have));

	if (c->rx_have == 0 && n == ISCSI_BHS && !p[BHS_AHS_LEN] && !c->header_digest) {
		header_end(c, p);
		return n;
	}
	memcpy(c->rx_hdr + c->rx_have, p, n);
	c->rx_have += (uint32_t)n;
	if (c->rx_have == ISCSI_BHS)
		c->rx_need = ISCSI_BHS + 4u * c->rx_hdr[BHS_AHS_LEN] + (c->header_digest ? 4 : 0);
	if (c->rx_have == c->rx_need)
		header_end(c, c->rx_hdr);
	return n;
}

static size_t eat_data(struct ini_conn *c, const uint8_t *p, size_t len)
{
	size_t n = MIN(len, (size_t)(c->rx_len - c->rx_at));

	if (c->data_digest)
		c->rx_crc = crc32c(c->rx_crc, p, n);
	if (c->rx_buf)
		memcpy(c->rx_buf + c->rx_at, p, n);
	else if (c->rx_cmd && c->rx_cmd->in)
		memcpy((uint8_t *)c->rx_cmd->in + c->rx_off + c->rx_at, p, n);
	c->rx_at += (uint32_t)n;
	if (c->rx_at < c->rx_len)
		return n;
	c->rx_state = RX_TRAILER;
	c->rx_have = 0;
	if (!c->rx_trailer)
		pdu_end(c);
	return n;
}

static size_t eat_trailer(struct ini_conn *c, const uint8_t *p, size_t len)
{
	size_t n = MIN(len, (size_t)(c->rx_trailer - c->rx_have));
	uint32_t pad = pad4(c->rx_len) - c->rx_len;

	memcpy(c->rx_tail + c->rx_have, p, n);
	c->rx_have += (uint32_t)n;
	if (c->rx_have < c->rx_trailer)
		return n;
	if (c->data_digest && le32(c->rx_tail + pad) != crc32c(c->rx_crc, c->rx_tail, pad))
		pdu_spoilt(c);
	else
		pdu_end(c);
	return n;
}

void iscsi_ini_rx(struct iscsi_ini *i, unsigned k, const void *bytes, size_t len)
{
	static size_t (*const eat[])(struct ini_conn *, const uint8_t *, size_t) = {
		[RX_BHS] = eat_header, [RX_DATA] = eat_data, [RX_TRAILER] = eat_trailer };
	struct ini_conn *c = i->conn[k];
	const uint8_t *p = bytes;

	c->heard = true;
	while (len && (c->state == CONN_LOGIN || c->state == CONN_FFP || c->state == CONN_LOGOUT)) {
		size_t n = eat[c->rx_state](c, p, len);

		p += n;
		len -= n;
	}
}
