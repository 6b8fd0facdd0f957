/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: requests -> bytes. A batch takes, in this order, control requests, solicited data, and
 * commands each with its immediate and unsolicited data (3.2.4.2: in the order of their commands). */
#include "iscsi/initiator_impl.h"

#include <stdlib.h>

#include "base/crc32c.h"

static bool full(const struct iscsi_ini *i)
{
	return i->niov + 4 > INI_IOV || i->hdr_used + INI_PDU_OVERHEAD > INI_HDR;
}

static void put(struct iscsi_ini *i, const void *p, uint32_t n)
{
	struct iovec *last = i->niov ? &i->iov[i->niov - 1] : NULL;

	if (last && (const uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += n;
	else
		i->iov[i->niov++] = (struct iovec){ (void *)(uintptr_t)p, n };
	i->left += n;
}

/* Header (already in place at the end of hdr), its digest, the data, padding and data digest. */
static void put_pdu(struct iscsi_ini *i, uint8_t *bhs, const void *data, uint32_t len)
{
	uint8_t *tail = bhs + ISCSI_BHS;
	uint32_t pad = pad4(len) - len, crc;

	if (i->header_digest) {
		put_le32(tail, crc32c(0, bhs, ISCSI_BHS));
		tail += 4;
	}
	put(i, bhs, (uint32_t)(tail - bhs));
	if (len) {
		uint8_t *after = tail;

		put(i, data, len);
		memset(after, 0, pad);
		after += pad;
		if (i->data_digest) {
			crc = crc32c(crc32c(0, data, len), tail, pad);
			put_le32(after, crc);
			after += 4;
		}
		if (after > tail)
			put(i, tail, (uint32_t)(after - tail));
		tail = after;
	}
	i->hdr_used = (uint32_t)(tail - i->hdr);
}

static uint8_t *new_bhs(struct iscsi_ini *i)
{
	uint8_t *bhs = i->hdr + i->hdr_used;

	memset(bhs, 0, ISCSI_BHS);
	return bhs;
}

/* Its data must outlive the batch: control data is copied when short, else the request waits for a batch that
 * it can have alone. */
static bool put_ctl(struct iscsi_ini *i, struct ini_ctl *k)
{
	uint8_t *data, *bhs;

	if (i->hdr_used + INI_PDU_OVERHEAD + k->len > INI_HDR)
		return false;
	data = i->hdr + i->hdr_used;
	memcpy(data, k->data, k->len);
	i->hdr_used += pad4(k->len);
	bhs = i->hdr + i->hdr_used;
	memcpy(bhs, k->bhs, ISCSI_BHS);
	if (k->sn_set) {
		put_be32(bhs + BHS_CMD_SN, i->cmd_sn);
		put_be32(bhs + BHS_EXP_STAT_SN, i->exp_stat_sn);
	}
	put_pdu(i, bhs, data, k->len);
	list_del(&k->node);
	free(k);
	return true;
}

static void put_data_out(struct iscsi_ini *i, struct iscsi_ini_cmd *c, uint32_t ttt, uint32_t *off, uint32_t end,
	uint32_t *data_sn)
{
	uint32_t n = MIN(end - *off, i->params.max_xmit_segment);
	uint8_t *bhs = new_bhs(i);

	bhs[BHS_OPCODE] = ISCSI_DATA_OUT;
	bhs[BHS_FLAGS] = *off + n == end ? FLAG_FINAL : 0;
	put_be24(bhs + BHS_DATA_LEN, n);
	put_be64(bhs + BHS_LUN, c->lun);
	put_be32(bhs + BHS_ITT, c->itt);
	put_be32(bhs + BHS_TTT, ttt);
	put_be32(bhs + BHS_EXP_STAT_SN, i->exp_stat_sn);
	put_be32(bhs + DATA_SN, (*data_sn)++);
	put_be32(bhs + DATA_OFFSET, *off);
	put_pdu(i, bhs, (const uint8_t *)c->out + *off, n);
	*off += n;
	c->batch = i->batch;
}

/* Data of one command, unsolicited first: true when nothing is left of it. */
static bool put_data(struct iscsi_ini *i, struct iscsi_ini_cmd *c)
{
	while (c->unsol_at < c->unsol_end && !full(i))
		put_data_out(i, c, ISCSI_NO_TAG, &c->unsol_at, c->unsol_end, &c->unsol.data_sn);
	while (c->unsol_at == c->unsol_end && c->r2t_n && !full(i)) {
		__typeof__(&c->r2t[0]) r = &c->r2t[c->r2t_head];

		put_data_out(i, c, r->ttt, &r->off, r->end, &r->data_sn);
		if (r->off == r->end) {
			c->r2t_head = (c->r2t_head + 1) % INI_R2T_MAX;
			c->r2t_n--;
		}
	}
	if (c->unsol_at < c->unsol_end || c->r2t_n)
		return false;
	list_del(&c->datanode);
	return true;
}

/* 13.10, 13.11, 13.14: how much goes with the command and behind it without being asked for. */
static uint32_t plan_write(struct iscsi_ini *i, struct iscsi_ini_cmd *c)
{
	const struct iscsi_params *p = &i->params;
	uint32_t imm = 0, first = MIN(c->out_len, p->first_burst);

	if (p->immediate_data)
		imm = MIN(first, p->max_xmit_segment);
	c->unsol_at = imm;
	c->unsol_end = p->initial_r2t ? imm : first;
	c->unsol.data_sn = 0;
	return imm;
}

static void put_cmd(struct iscsi_ini *i, struct iscsi_ini_cmd *c)
{
	uint32_t imm = c->out_len ? plan_write(i, c) : 0;
	uint8_t *bhs = new_bhs(i);

	c->cmd_sn = i->cmd_sn;
	c->batch = i->batch;
	bhs[BHS_OPCODE] = ISCSI_SCSI_CMD | (c->immediate ? OP_IMMEDIATE : 0);
	bhs[BHS_FLAGS] = (c->unsol_at == c->unsol_end ? FLAG_FINAL : 0) | (c->attr & CMD_ATTR) |
		(c->in_len ? CMD_READ : 0) | (c->out_len ? CMD_WRITE : 0);
	put_be24(bhs + BHS_DATA_LEN, imm);
	put_be64(bhs + BHS_LUN, c->lun);
	put_be32(bhs + BHS_ITT, c->itt);
	put_be32(bhs + CMD_EDTL, c->in_len + c->out_len);
	put_be32(bhs + BHS_CMD_SN, i->cmd_sn);
	put_be32(bhs + BHS_EXP_STAT_SN, i->exp_stat_sn);
	memcpy(bhs + CMD_CDB, c->cdb, INI_CDB);
	put_pdu(i, bhs, c->out, imm);
	i->cmd_sn += !c->immediate;
	list_del(&c->node);
	if (c->unsol_at < c->unsol_end) {
		list_add_head(&i->data, &c->datanode);
		put_data(i, c);
	}
}

static void fill_data(struct iscsi_ini *i)
{
	struct list *it, *next;

	for (it = i->data.next; it != &i->data && !full(i); it = next) {
		next = it->next;
		put_data(i, list_entry(it, struct iscsi_ini_cmd, datanode));
	}
}

static void fill(struct iscsi_ini *i)
{
	while (!list_empty(&i->ctl) && !full(i))
		if (!put_ctl(i, list_first(&i->ctl, struct ini_ctl, node)))
			return;
	fill_data(i);
	while (!list_empty(&i->waiting) && list_empty(&i->data) && !full(i)) {
		struct iscsi_ini_cmd *c = list_first(&i->waiting, struct iscsi_ini_cmd, node);

		if (!c->immediate && !sn_le(i->cmd_sn, i->max_cmd_sn))
			break;
		put_cmd(i, c);
	}
}

int iscsi_ini_tx(struct iscsi_ini *i, struct iovec **ret_iov)
{
	if (!i->left && i->state != INI_CLOSED) {
		i->niov = i->at = 0;
		i->hdr_used = 0;
		fill(i);
	}
	*ret_iov = i->iov + i->at;
	return i->left ? i->niov - i->at : 0;
}

void iscsi_ini_tx_done(struct iscsi_ini *i, size_t bytes)
{
	i->left -= MIN(bytes, i->left);
	while (i->at < i->niov && bytes >= i->iov[i->at].iov_len)
		bytes -= i->iov[i->at++].iov_len;
	if (i->left) {
		i->iov[i->at].iov_base = (uint8_t *)i->iov[i->at].iov_base + bytes;
		i->iov[i->at].iov_len -= bytes;
		return;
	}
	if (++i->batch == 0)
		i->batch = 1;
	list_splice_tail(&i->done, &i->linger);
}
