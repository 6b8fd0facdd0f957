/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: requests -> bytes. A batch takes, in this order, control requests, commands that are sent again,
 * solicited data, and commands each with its immediate and unsolicited data (3.2.4.2: in the order of their commands). */
#include "iscsi/initiator_impl.h"

#include <stdlib.h>

#include "base/crc32c.h"

bool ini_refers(const struct ini_conn *c, const struct iscsi_ini_cmd *cmd)
{
	return cmd->batch == c->batch && c->left;
}

static bool full(const struct ini_conn *c)
{
	return c->niov + 4 > INI_IOV || c->hdr_used + INI_PDU_OVERHEAD > INI_HDR;
}

static void put(struct ini_conn *c, const void *p, uint32_t n)
{
	struct iovec *last = c->niov ? &c->iov[c->niov - 1] : NULL;

	if (last && (const uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += n;
	else
		c->iov[c->niov++] = (struct iovec){ (void *)(uintptr_t)p, n };
	c->left += n;
}

/* Header (already in place at the end of hdr), its digest, the data, padding and data digest. */
static void put_pdu(struct ini_conn *c, uint8_t *bhs, const void *data, uint32_t len)
{
	uint8_t *tail = bhs + ISCSI_BHS;
	uint32_t pad = pad4(len) - len, crc;

	if (c->header_digest) {
		put_le32(tail, crc32c(0, bhs, ISCSI_BHS));
		tail += 4;
	}
	put(c, bhs, (uint32_t)(tail - bhs));
	if (len) {
		uint8_t *after = tail;

		put(c, data, len);
		memset(after, 0, pad);
		after += pad;
		if (c->data_digest) {
			crc = crc32c(crc32c(0, data, len), tail, pad);
			put_le32(after, crc);
			after += 4;
		}
		if (after > tail)
			put(c, tail, (uint32_t)(after - tail));
		tail = after;
	}
	c->hdr_used = (uint32_t)(tail - c->hdr);
}

static uint8_t *new_bhs(struct ini_conn *c)
{
	uint8_t *bhs = c->hdr + c->hdr_used;

	memset(bhs, 0, ISCSI_BHS);
	return bhs;
}

/* The numbers that a request gets when it is sent. A filler has the CmdSN that it fills. */
static void put_numbers(struct ini_conn *c, uint8_t *bhs, const struct ini_ctl *k)
{
	if (!k->numbered)
		put_be32(bhs + BHS_CMD_SN, c->i->cmd_sn);
	if (!k->exp_stat_sn_set)
		put_be32(bhs + BHS_EXP_STAT_SN, ini_stat_ack(c));
}

/* Its data must outlive the batch: control data is copied when short, else the request waits for a batch that
 * it can have alone. */
static bool put_ctl(struct ini_conn *c, struct ini_ctl *k)
{
	uint8_t *data, *bhs;

	if (c->hdr_used + INI_PDU_OVERHEAD + pad4(k->len) > INI_HDR)
		return false;
	data = c->hdr + c->hdr_used;
	memcpy(data, k->data, k->len);
	c->hdr_used += pad4(k->len);
	bhs = c->hdr + c->hdr_used;
	memcpy(bhs, k->bhs, ISCSI_BHS);
	if (k->sn_set)
		put_numbers(c, bhs, k);
	if ((bhs[BHS_OPCODE] & OP_MASK) == ISCSI_TMF_REQ)
		ini_tmf_numbered(c, be32(bhs + BHS_ITT));
	put_pdu(c, bhs, data, k->len);
	list_del(&k->node);
	c->nctl--;
	free(k);
	return true;
}

static void put_data_out(struct ini_conn *c, struct iscsi_ini_cmd *cmd, uint32_t ttt, uint32_t *off, uint32_t end,
	uint32_t *data_sn)
{
	uint32_t n = MIN(end - *off, c->params.max_xmit_segment);
	uint8_t *bhs = new_bhs(c);

	bhs[BHS_OPCODE] = ISCSI_DATA_OUT;
	bhs[BHS_FLAGS] = *off + n == end ? FLAG_FINAL : 0;
	put_be24(bhs + BHS_DATA_LEN, n);
	put_be64(bhs + BHS_LUN, cmd->lun);
	put_be32(bhs + BHS_ITT, cmd->itt);
	put_be32(bhs + BHS_TTT, ttt);
	put_be32(bhs + BHS_EXP_STAT_SN, ini_stat_ack(c));
	put_be32(bhs + DATA_SN, (*data_sn)++);
	put_be32(bhs + DATA_OFFSET, *off);
	put_pdu(c, bhs, (const uint8_t *)cmd->out + *off, n);
	*off += n;
	cmd->batch = c->batch;
	cmd->moved_ns = c->i->now_ns;
}

/* Data of one command, unsolicited first: true when nothing is left of it. */
static bool put_data(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	while (cmd->unsol_at < cmd->unsol_end && !full(c))
		put_data_out(c, cmd, ISCSI_NO_TAG, &cmd->unsol_at, cmd->unsol_end, &cmd->unsol.data_sn);
	while (cmd->unsol_at == cmd->unsol_end && cmd->r2t_n && !full(c)) {
		__typeof__(&cmd->r2t[0]) r = &cmd->r2t[cmd->r2t_head];

		put_data_out(c, cmd, r->ttt, &r->off, r->end, &r->data_sn);
		if (r->off == r->end) {
			cmd->r2t_head = (cmd->r2t_head + 1) % INI_R2T_MAX;
			cmd->r2t_n--;
		}
	}
	if (cmd->unsol_at < cmd->unsol_end || cmd->r2t_n)
		return false;
	list_del(&cmd->datanode);
	return true;
}

/* 13.10, 13.11, 13.14: how much goes with the command and behind it without being asked for. */
static uint32_t plan_write(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	const struct iscsi_params *p = &c->i->params;
	uint32_t imm = 0, first = MIN(cmd->out_len, p->first_burst);

	if (p->immediate_data)
		imm = MIN(first, c->params.max_xmit_segment);
	cmd->unsol_at = imm;
	cmd->unsol_end = p->initial_r2t ? imm : first;
	cmd->unsol.data_sn = 0;
	return imm;
}

/* The command has its CmdSN. */
static void put_cmd(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	uint32_t imm = cmd->out_len ? plan_write(c, cmd) : 0;
	uint8_t *bhs = new_bhs(c);

	cmd->batch = c->batch;
	cmd->moved_ns = c->i->now_ns;
	bhs[BHS_OPCODE] = ISCSI_SCSI_CMD | (cmd->immediate ? OP_IMMEDIATE : 0);
	bhs[BHS_FLAGS] = (cmd->unsol_at == cmd->unsol_end ? FLAG_FINAL : 0) | (cmd->attr & CMD_ATTR) |
		(cmd->in_len ? CMD_READ : 0) | (cmd->out_len ? CMD_WRITE : 0);
	if (c->i->params.protocol_level >= 2)
		bhs[2] = (uint8_t)(cmd->priority << 4);
	put_be24(bhs + BHS_DATA_LEN, imm);
	put_be64(bhs + BHS_LUN, cmd->lun);
	put_be32(bhs + BHS_ITT, cmd->itt);
	put_be32(bhs + CMD_EDTL, cmd->in_len + cmd->out_len);
	put_be32(bhs + BHS_CMD_SN, cmd->cmd_sn);
	put_be32(bhs + BHS_EXP_STAT_SN, ini_stat_ack(c));
	memcpy(bhs + CMD_CDB, cmd->cdb, INI_CDB);
	put_pdu(c, bhs, cmd->out, imm);
	if (cmd->unsol_at < cmd->unsol_end) {
		list_add_head(&c->data, &cmd->datanode);
		put_data(c, cmd);
	}
}

static void put_new(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	struct iscsi_ini *i = c->i;

	list_del(&cmd->node);
	i->nwaiting--;
	list_add_tail(&c->cmds, &cmd->node);
	c->ncmds++;
	cmd->conn = c;
	cmd->queued = false;
	cmd->cmd_sn = i->cmd_sn;
	i->cmd_sn += !cmd->immediate;
	put_cmd(c, cmd);
}

static void put_again(struct ini_conn *c)
{
	while (!list_empty(&c->again) && !full(c)) {
		struct iscsi_ini_cmd *cmd = list_first(&c->again, struct iscsi_ini_cmd, datanode);

		list_del(&cmd->datanode);
		if (cmd->immediate)
			cmd->cmd_sn = c->i->cmd_sn;
		put_cmd(c, cmd);
	}
}

static void fill_data(struct ini_conn *c)
{
	struct list *it, *next;

	for (it = c->data.next; it != &c->data && !full(c); it = next) {
		next = it->next;
		put_data(c, list_entry(it, struct iscsi_ini_cmd, datanode));
	}
}

/* How many commands this connection may have so that all have about as many. */
static unsigned share(const struct iscsi_ini *i)
{
	unsigned all = i->nwaiting, n = 0;

	if (i->nconns == 1)
		return UINT32_MAX;
	for (unsigned k = 0; k < i->nconns; k++) {
		const struct ini_conn *c = i->conn[k];

		if (c->state == CONN_FFP && !c->draining) {
			all += c->ncmds;
			n++;
		}
	}
	return n ? (all + n - 1) / n : 0;
}

static void fill(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;
	unsigned most;

	while (!list_empty(&c->ctl) && !full(c))
		if (!put_ctl(c, list_first(&c->ctl, struct ini_ctl, node)))
			return;
	put_again(c);
	fill_data(c);
	if (c->state != CONN_FFP || c->draining || i->state != INI_UP)
		return;
	most = share(i);
	while (!list_empty(&i->waiting) && list_empty(&c->data) && !full(c) && c->ncmds < most) {
		struct iscsi_ini_cmd *cmd = list_first(&i->waiting, struct iscsi_ini_cmd, node);

		if (!cmd->immediate && !sn_le(i->cmd_sn, i->max_cmd_sn))
			break;
		put_new(c, cmd);
	}
}

static bool may_send(const struct ini_conn *c)
{
	return c->state == CONN_LOGIN || c->state == CONN_FFP || c->state == CONN_LOGOUT;
}

int iscsi_ini_tx(struct iscsi_ini *i, unsigned k, struct iovec **ret_iov)
{
	struct ini_conn *c = i->conn[k];

	if (!may_send(c))
		return 0;
	if (!c->left) {
		c->niov = c->at = 0;
		c->hdr_used = 0;
		fill(c);
	}
	*ret_iov = c->iov + c->at;
	return c->left ? c->niov - c->at : 0;
}

void iscsi_ini_tx_done(struct iscsi_ini *i, unsigned k, size_t bytes)
{
	struct ini_conn *c = i->conn[k];

	c->left -= MIN(bytes, c->left);
	while (c->at < c->niov && bytes >= c->iov[c->at].iov_len)
		bytes -= c->iov[c->at++].iov_len;
	if (c->left) {
		c->iov[c->at].iov_base = (uint8_t *)c->iov[c->at].iov_base + bytes;
		c->iov[c->at].iov_len -= bytes;
		return;
	}
	if (++c->batch == 0)
		c->batch = 1;
	list_splice_tail(&i->done, &c->linger);
}
