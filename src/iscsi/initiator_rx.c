/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: bytes -> PDUs -> results. Data of a Data-In goes from the caller's bytes straight to the
 * command's room (or is discarded); anything else is collected first. */
#include "iscsi/initiator_impl.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"

static void violation(struct iscsi_ini *i, const char *why)
{
	ini_close(i, 0, why);
}

/* 4.2.2.2: level 0, so every status must arrive in order. */
static bool take_stat_sn(struct iscsi_ini *i, const uint8_t *bhs)
{
	if (be32(bhs + BHS_STAT_SN) != i->exp_stat_sn) {
		violation(i, "StatSN out of order");
		return false;
	}
	i->exp_stat_sn++;
	return true;
}

/* 4.2.2.1: the window only moves forward. */
static void take_window(struct iscsi_ini *i, const uint8_t *bhs)
{
	uint32_t max = be32(bhs + BHS_MAX_CMD_SN), exp = be32(bhs + BHS_EXP_CMD_SN);

	if (sn_le(exp - 1, max) && sn_lt(i->max_cmd_sn, max))
		i->max_cmd_sn = max;
}

/* --- handlers, one per opcode; the whole PDU is here and its digests hold --- */

static void take_residual(struct iscsi_ini_cmd *c, uint8_t flags, uint32_t resid)
{
	c->overflow = flags & RSP_OVERFLOW;
	c->underflow = flags & RSP_UNDERFLOW;
	c->resid = c->overflow || c->underflow ? resid : 0;
}

static void take_sense(struct iscsi_ini_cmd *c, const uint8_t *data, uint32_t len)
{
	uint32_t n;

	if (len < 2)
		return;
	n = MIN((uint32_t)be16(data), len - 2);
	c->sense_len = (uint16_t)MIN(n, (uint32_t)LIM_SENSE);
	memcpy(c->sense, data + 2, c->sense_len);
}

static void rx_scsi_rsp(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	struct iscsi_ini_cmd *c = ini_find(i, be32(bhs + BHS_ITT));

	if (!take_stat_sn(i, bhs))
		return;
	if (!c) {
		violation(i, "SCSI response to no command");
		return;
	}
	c->response = bhs[RSP_RESPONSE];
	c->status = bhs[RSP_STATUS];
	take_residual(c, bhs[BHS_FLAGS], be32(bhs + RSP_RESID));
	take_sense(c, data, len);
	if (c->response == 0 && be32(bhs + RSP_EXP_DATA_SN) != c->next_data_sn + c->exp_r2t_sn && c->in_len) {
		violation(i, "ExpDataSN: a Data-In PDU is missing");
		return;
	}
	ini_finish(i, c, 0);
}

static void rx_data_in(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	struct iscsi_ini_cmd *c = i->rx_cmd;

	if (!(bhs[BHS_FLAGS] & DATA_STATUS_VALID) || !take_stat_sn(i, bhs) || !c)
		return;
	c->status = bhs[DATA_STATUS];
	take_residual(c, bhs[BHS_FLAGS], be32(bhs + DATA_RESID));
	ini_finish(i, c, 0);
}

static void rx_r2t(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	struct iscsi_ini_cmd *c = ini_find(i, be32(bhs + BHS_ITT));
	uint32_t off = be32(bhs + R2T_OFFSET), n = be32(bhs + R2T_LEN);
	unsigned at;

	if (!c || !c->out_len || c->r2t_n >= i->params.max_r2t || !n || n > i->params.max_burst || off > c->out_len ||
	    n > c->out_len - off || be32(bhs + R2T_SN) != c->exp_r2t_sn) {
		violation(i, "R2T that breaks what was agreed");
		return;
	}
	c->exp_r2t_sn++;
	at = (c->r2t_head + c->r2t_n++) % INI_R2T_MAX;
	c->r2t[at].ttt = be32(bhs + BHS_TTT);
	c->r2t[at].off = off;
	c->r2t[at].end = off + n;
	c->r2t[at].data_sn = 0;
	if (list_empty(&c->datanode))
		list_add_tail(&i->data, &c->datanode);
}

/* 11.19: answer a ping of the target; an answer to ours is an event. */
static void rx_nop_in(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	uint32_t ttt = be32(bhs + BHS_TTT);
	struct ini_ctl *k;

	if (be32(bhs + BHS_ITT) != ISCSI_NO_TAG) {
		if (take_stat_sn(i, bhs))
			ini_event(i, INI_EV_NOP, 0, data, len, NULL);
		return;
	}
	if (ttt == ISCSI_NO_TAG)
		return;
	k = ini_ctl(i, ISCSI_NOP_OUT | OP_IMMEDIATE, ISCSI_NO_TAG, data, MIN(len, i->params.max_xmit_segment));
	if (!k)
		return;
	memcpy(k->bhs + BHS_LUN, bhs + BHS_LUN, 8);
	put_be32(k->bhs + BHS_TTT, ttt);
}

static void rx_tmf_rsp(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	if (take_stat_sn(i, bhs))
		ini_tmf_done(i, be32(bhs + BHS_ITT), bhs[RSP_RESPONSE]);
}

static void rx_logout_rsp(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	if (!take_stat_sn(i, bhs))
		return;
	i->state = INI_LOGGED_OUT;
	ini_event(i, INI_EV_LOGOUT, bhs[LOGOUT_RESPONSE], NULL, 0, NULL);
}

static void rx_async(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	if (take_stat_sn(i, bhs))
		ini_event(i, INI_EV_ASYNC, bhs[ASYNC_EVENT], data, len, NULL);
}

/* 11.17: the data is the rejected header. Its command will not be answered. */
static void rx_reject(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	struct iscsi_ini_cmd *c;

	if (!take_stat_sn(i, bhs))
		return;
	ini_event(i, INI_EV_REJECT, bhs[REJECT_REASON], data, len, NULL);
	if (len < ISCSI_BHS || (data[BHS_OPCODE] & OP_MASK) != ISCSI_SCSI_CMD)
		return;
	c = ini_find(i, be32(data + BHS_ITT));
	if (c)
		ini_finish(i, c, -EREMOTEIO);
}

static void rx_login(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	ini_login_rx(i, bhs, data, len);
}

static void rx_text(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len)
{
	if (take_stat_sn(i, bhs))
		ini_text_rx(i, bhs, data, len);
}

typedef void rx_fn(struct iscsi_ini *i, const uint8_t *bhs, const uint8_t *data, uint32_t len);
static rx_fn *const handlers[64] = {
	[ISCSI_NOP_IN] = rx_nop_in, [ISCSI_SCSI_RSP] = rx_scsi_rsp, [ISCSI_TMF_RSP] = rx_tmf_rsp,
	[ISCSI_LOGIN_RSP] = rx_login, [ISCSI_TEXT_RSP] = rx_text, [ISCSI_DATA_IN] = rx_data_in,
	[ISCSI_LOGOUT_RSP] = rx_logout_rsp, [ISCSI_R2T] = rx_r2t, [ISCSI_ASYNC] = rx_async, [ISCSI_REJECT] = rx_reject,
};

/* --- framing --- */

static void pdu_end(struct iscsi_ini *i)
{
	uint8_t *buf = i->rx_buf;

	i->rx_buf = NULL;
	i->rx_state = RX_BHS;
	i->rx_have = 0;
	i->rx_need = ISCSI_BHS;
	handlers[i->rx_bhs[BHS_OPCODE] & OP_MASK](i, i->rx_bhs, buf, i->rx_len);
	i->rx_cmd = NULL;
	free(buf);
}

/* 11.7: is this Data-In what its command expects? Says where its data goes. */
static bool begin_data_in(struct iscsi_ini *i, const uint8_t *bhs)
{
	struct iscsi_ini_cmd *c = ini_find(i, be32(bhs + BHS_ITT));
	uint32_t off = be32(bhs + DATA_OFFSET);

	if (!c || off > c->in_len || i->rx_len > c->in_len - off || off != c->in_got ||
	    be32(bhs + DATA_SN) != c->next_data_sn) {
		violation(i, "Data-In that its command does not expect");
		return false;
	}
	c->next_data_sn++;
	c->in_got += i->rx_len;
	i->rx_cmd = c;
	i->rx_off = off;
	return true;
}

static bool allowed(const struct iscsi_ini *i, uint8_t op)
{
	if (i->state == INI_LOGIN)
		return op == ISCSI_LOGIN_RSP;
	return i->state == INI_FFP && op != ISCSI_LOGIN_RSP && handlers[op];
}

/* The header is here, with AHS and digest. */
static void header_end(struct iscsi_ini *i, const uint8_t *hdr)
{
	uint8_t op = hdr[BHS_OPCODE] & OP_MASK;
	uint32_t ahs = ISCSI_BHS + 4u * hdr[BHS_AHS_LEN];

	if (i->header_digest && le32(hdr + ahs) != crc32c(0, hdr, ahs)) {
		violation(i, "header digest is wrong");
		return;
	}
	if (!allowed(i, op)) {
		violation(i, "PDU that has no place here");
		return;
	}
	memcpy(i->rx_bhs, hdr, ISCSI_BHS);
	i->rx_len = bhs_data_len(hdr);
	i->rx_at = i->rx_crc = 0;
	if (i->rx_len > MAX(i->params.max_recv_segment, (uint32_t)ISCSI_BHS)) {
		violation(i, "data segment longer than MaxRecvDataSegmentLength");
		return;
	}
	if (i->state == INI_FFP && op != ISCSI_LOGIN_RSP)
		take_window(i, hdr);
	if (op == ISCSI_DATA_IN && !begin_data_in(i, hdr))
		return;
	if (!i->rx_len) {
		pdu_end(i);
		return;
	}
	if (op != ISCSI_DATA_IN && !(i->rx_buf = malloc(i->rx_len))) {
		violation(i, "out of memory");
		return;
	}
	i->rx_trailer = pad4(i->rx_len) - i->rx_len + (i->data_digest ? 4 : 0);
	i->rx_state = RX_DATA;
}

static size_t eat_header(struct iscsi_ini *i, const uint8_t *p, size_t len)
{
	size_t n = MIN(len, (size_t)(i->rx_need - i->rx_have));

	if (i->rx_have == 0 && n == ISCSI_BHS && !p[BHS_AHS_LEN] && !i->header_digest) {
		header_end(i, p);
		return n;
	}
	memcpy(i->rx_hdr + i->rx_have, p, n);
	i->rx_have += (uint32_t)n;
	if (i->rx_have == ISCSI_BHS)
		i->rx_need = ISCSI_BHS + 4u * i->rx_hdr[BHS_AHS_LEN] + (i->header_digest ? 4 : 0);
	if (i->rx_have == i->rx_need)
		header_end(i, i->rx_hdr);
	return n;
}

static size_t eat_data(struct iscsi_ini *i, const uint8_t *p, size_t len)
{
	size_t n = MIN(len, (size_t)(i->rx_len - i->rx_at));

	if (i->data_digest)
		i->rx_crc = crc32c(i->rx_crc, p, n);
	if (i->rx_buf)
		memcpy(i->rx_buf + i->rx_at, p, n);
	else if (i->rx_cmd && i->rx_cmd->in)
		memcpy((uint8_t *)i->rx_cmd->in + i->rx_off + i->rx_at, p, n);
	i->rx_at += (uint32_t)n;
	if (i->rx_at < i->rx_len)
		return n;
	i->rx_state = RX_TRAILER;
	i->rx_have = 0;
	if (!i->rx_trailer)
		pdu_end(i);
	return n;
}

static size_t eat_trailer(struct iscsi_ini *i, const uint8_t *p, size_t len)
{
	size_t n = MIN(len, (size_t)(i->rx_trailer - i->rx_have));
	uint32_t pad = pad4(i->rx_len) - i->rx_len;

	memcpy(i->rx_tail + i->rx_have, p, n);
	i->rx_have += (uint32_t)n;
	if (i->rx_have < i->rx_trailer)
		return n;
	if (i->data_digest && le32(i->rx_tail + pad) != crc32c(i->rx_crc, i->rx_tail, pad))
		violation(i, "data digest is wrong");
	else
		pdu_end(i);
	return n;
}

void iscsi_ini_rx(struct iscsi_ini *i, const void *bytes, size_t len)
{
	static size_t (*const eat[])(struct iscsi_ini *, const uint8_t *, size_t) = {
		[RX_BHS] = eat_header, [RX_DATA] = eat_data, [RX_TRAILER] = eat_trailer };
	const uint8_t *p = bytes;

	i->heard = true;
	while (len && i->state != INI_CLOSED && i->state != INI_LOGGED_OUT) {
		size_t n = eat[i->rx_state](i, p, len);

		p += n;
		len -= n;
	}
}
