/* SPDX-License-Identifier: BSD-3-Clause
 * Responses to bytes. All that is due leaves as one batch: a gather list over headers (made here), pages lent by
 * the medium, digests. The batch stays put until the host has sent the whole of it; then what it held is released.
 * Sequence numbers are given when a PDU enters the batch, so StatSN follows the order on the wire. */
#include <stdlib.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "iscsi/impl.h"

static void *hdr_take(struct iscsi_txb *b, uint32_t n)
{
	uint8_t *p = b->hdr + b->hdr_used;

	CHECK(b->hdr_used + n <= TX_HDR);
	b->hdr_used += n;
	return p;
}

static void gather(struct iscsi_txb *b, const void *p, size_t n)
{
	struct iovec *last = b->niov ? &b->iov[b->niov - 1] : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += n;
	else
		b->iov[b->niov++] = (struct iovec){ (void *)p, n };
	b->left += n;
}

/* Adds the header, which hdr_take() gave, with its digest. */
static void put_header(struct iscsi_conn *c, struct iscsi_txb *b, uint8_t *h)
{
	uint32_t n = ISCSI_BHS;

	if (c->header_digest) {
		put_le32(hdr_take(b, 4), crc32c(0, h, ISCSI_BHS));
		n += 4;
	}
	gather(b, h, n);
}

/* Padding and data digest behind a data segment of n bytes. crc: of the data. */
static void put_trailer(struct iscsi_conn *c, struct iscsi_txb *b, uint32_t n, uint32_t crc)
{
	static const uint8_t zero[4];
	uint32_t pad = pad4(n) - n, len = pad + (c->data_digest ? 4 : 0);

	if (!len)
		return;
	uint8_t *p = hdr_take(b, len);
	memset(p, 0, pad);
	if (c->data_digest)
		put_le32(p + pad, crc32c(crc, zero, pad));
	gather(b, p, len);
}

static void put_numbers(struct iscsi_conn *c, uint8_t *h, bool consume)
{
	put_be32(h + BHS_STAT_SN, c->stat_sn);
	if (consume)
		c->stat_sn++;
	if (c->session) {
		put_be32(h + BHS_EXP_CMD_SN, c->session->exp_cmd_sn);
		put_be32(h + BHS_MAX_CMD_SN, session_max_cmd_sn(c->session));
	}
}

static struct iscsi_ctl *ctl_queue(struct iscsi_conn *c, struct list *q, uint8_t opcode, enum ctl_sn sn)
{
	struct iscsi_ctl *k = ctl_get(c->pool);

	if (!k) {
		conn_close(c, "out of memory");
		return NULL;
	}
	k->sn = sn;
	k->conn = c;
	memset(k->bhs, 0, ISCSI_BHS);
	k->bhs[BHS_OPCODE] = opcode;
	k->bhs[BHS_FLAGS] = FLAG_FINAL;
	k->tx.where = TX_QUEUED;
	list_add_tail(q, &k->tx.node);
	c->nctl++;
	return k;
}

struct iscsi_ctl *tx_ctl(struct iscsi_conn *c, uint8_t opcode, enum ctl_sn sn)
{
	return ctl_queue(c, &c->ctlq, opcode, sn);
}

struct iscsi_ctl *tx_ctl_last(struct iscsi_conn *c, uint8_t opcode, enum ctl_sn sn)
{
	return ctl_queue(c, &c->dataq, opcode, sn);
}

void tx_ctl_data(struct iscsi_conn *c, struct iscsi_ctl *k, uint8_t *data, uint32_t len)
{
	k->data = data;
	k->len = len;
	c->ctl_bytes += len;
}

/* 11.17: the header of the PDU is the data. */
struct iscsi_ctl *tx_reject(struct iscsi_conn *c, uint8_t reason, const uint8_t *bhs)
{
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_REJECT, CTL_STAT_SN);

	if (!k)
		return NULL;
	k->bhs[REJECT_REASON] = reason;
	put_be32(k->bhs + BHS_ITT, ISCSI_NO_TAG);
	memcpy(k->small, bhs, ISCSI_BHS);
	tx_ctl_data(c, k, k->small, ISCSI_BHS);
	return k;
}

static void emit_ctl(struct iscsi_conn *c, struct iscsi_txb *b, struct iscsi_ctl *k)
{
	uint8_t *h = hdr_take(b, ISCSI_BHS);

	memcpy(h, k->bhs, ISCSI_BHS);
	if (k->len)
		put_be24(h + BHS_DATA_LEN, k->len);
	if (k->tx.numbered) {
		put_numbers(c, h, false);
		put_be32(h + BHS_STAT_SN, k->tx.stat_sn);
	} else if (k->sn != CTL_OWN) {
		k->tx.stat_sn = c->stat_sn;
		k->tx.numbered = k->sn == CTL_STAT_SN;
		put_numbers(c, h, k->sn == CTL_STAT_SN);
	}
	put_header(c, b, h);
	if (k->len) {
		gather(b, k->data, k->len);
		put_trailer(c, b, k->len, c->data_digest ? crc32c(0, k->data, k->len) : 0);
	}
	list_del(&k->tx.node);
	list_add_tail(&b->ctls, &k->tx.node);
	if (k->after == AFTER_FENCE)
		fence_emitted(c);
	c->silent |= k->after == AFTER_LOGOUT;
	k->tx.where = TX_BATCH;
	k->tx.again = false;
	if (k->after == AFTER_FULL_FEATURE && c->state == CONN_LOGIN) {
		c->state = CONN_FFP; /* all that follows carries the digests that were agreed */
		c->header_digest = c->params.header_digest;
		c->data_digest = c->params.data_digest;
		c->recover = c->session && c->session->params.erl > 0;
		c->acked_sn = c->stat_sn;
	}
}

/* --- SCSI data and status --- */

/* RFC 7143 11.4.5.1: flags and count from what the CDB wanted, what the initiator gave, what moved. */
static uint8_t residual(const struct iscsi_task *t, uint32_t *ret)
{
	const struct scsi_cmd *m = &t->cmd;
	bool in = !(t->flags & CMD_WRITE) && (t->flags & CMD_READ || m->want_in);
	uint64_t want = in ? m->want_in : m->want_out;
	uint32_t moved = in ? m->in_len : (uint32_t)MIN((uint64_t)t->edtl, m->want_out);

	*ret = 0;
	if (want > t->edtl) {
		*ret = (uint32_t)MIN(want - t->edtl, (uint64_t)UINT32_MAX);
		return RSP_OVERFLOW;
	}
	if (m->status != SCSI_GOOD && m->status != SCSI_CONDITION_MET && !in)
		moved = 0;
	*ret = t->edtl - moved;
	return *ret ? RSP_UNDERFLOW : 0;
}

/* The task's answer is complete in the batch. The initiator may use its tag again as soon as it reads this. */
static void emitted(struct iscsi_conn *c, struct iscsi_txb *b, struct iscsi_task *t)
{
	struct iscsi_session *s = c->session;

	if (t->hashed && !c->recover)
		session_unhash(s, t);
	list_del(&t->tx.node);
	list_add_tail(&b->tasks, &t->tx.node);
	t->tx.where = TX_BATCH;
}

/* A slot of the window is free again before the numbers of its response are written, so they say so. */
static void uncount(struct iscsi_conn *c, struct iscsi_task *t)
{
	if (c->recover && keep_full(c->session)) {
		conn_ping(c);
		return;
	}
	if (t->counted)
		c->session->inflight--;
	t->counted = false;
}

/* From level 1 on an answer keeps its number however often it is sent. */
static void number_response(struct iscsi_conn *c, struct iscsi_task *t, uint8_t *h)
{
	bool first = !t->tx.numbered;

	put_numbers(c, h, first);
	if (!c->recover)
		return;
	if (first)
		t->tx.stat_sn = be32(h + BHS_STAT_SN);
	t->tx.numbered = true;
	put_be32(h + BHS_STAT_SN, t->tx.stat_sn);
	put_be32(h + RSP_SNACK_TAG, t->snack_tag);
}

static void emit_response(struct iscsi_conn *c, struct iscsi_txb *b, struct iscsi_task *t)
{
	uint8_t *h = hdr_take(b, ISCSI_BHS);
	uint32_t resid;

	memset(h, 0, ISCSI_BHS);
	h[BHS_OPCODE] = ISCSI_SCSI_RSP;
	h[BHS_FLAGS] = FLAG_FINAL | residual(t, &resid);
	h[RSP_STATUS] = t->cmd.status;
	if (c->session->params.protocol_level >= 2)
		put_be16(h + RSP_QUALIFIER, t->cmd.qualifier);
	put_be32(h + BHS_ITT, t->itt);
	uncount(c, t);
	number_response(c, t, h);
	put_be32(h + RSP_EXP_DATA_SN, t->data_sn); /* 11.4.8: Data-In PDUs */
	put_be32(h + RSP_RESID, resid);
	uint32_t n = t->cmd.sense_len ? t->cmd.sense_len + 2u : 0;
	put_be24(h + BHS_DATA_LEN, n);
	put_header(c, b, h);
	if (n) {
		uint8_t *d = hdr_take(b, n);
		put_be16(d, t->cmd.sense_len); /* 11.4.7.1 */
		memcpy(d + 2, t->cmd.sense, t->cmd.sense_len);
		gather(b, d, n);
		put_trailer(c, b, n, c->data_digest ? crc32c(0, d, n) : 0);
	}
	emitted(c, b, t);
}

/* The digest of one page is taken while the next one comes from memory. */
static void fetch_ahead(const struct iscsi_task *t, const struct cursor *at)
{
	const struct iovec *v = &t->cmd.iov[at->seg + 1];

	if (at->seg + 1 >= t->cmd.niov)
		return;
	for (size_t i = 0; i < v->iov_len; i += 64)
		__builtin_prefetch((const uint8_t *)v->iov_base + i);
}

/* n bytes from the cursor; returns their CRC when digests are on. */
static uint32_t gather_data(struct iscsi_conn *c, struct iscsi_txb *b, const struct iscsi_task *t, struct cursor *at, uint32_t n)
{
	uint32_t crc = 0;

	while (n) {
		struct iovec *v = &t->cmd.iov[at->seg];
		uint32_t run = (uint32_t)MIN((size_t)n, v->iov_len - at->seg_off);
		uint8_t *p = (uint8_t *)v->iov_base + at->seg_off;
		if (c->data_digest) {
			fetch_ahead(t, at);
			crc = crc32c(crc, p, run);
		}
		gather(b, p, run);
		n -= run;
		at->seg_off += run;
		if (at->seg_off == v->iov_len) {
			at->seg++;
			at->seg_off = 0;
		}
	}
	return crc;
}

static uint32_t segments(const struct iscsi_task *t, uint32_t n)
{
	return n / PAGE_BYTES + 2;
}

uint32_t tx_xmit(const struct iscsi_conn *c)
{
	return MIN(c->params.max_xmit_segment, (uint32_t)TX_PDU_BYTES);
}

void tx_seek(const struct iscsi_task *t, uint32_t off, struct cursor *ret)
{
	*ret = (struct cursor){ 0 };
	while (ret->seg < t->cmd.niov && off >= t->cmd.iov[ret->seg].iov_len)
		off -= (uint32_t)t->cmd.iov[ret->seg++].iov_len;
	ret->seg_off = off;
}

/* 11.7.2, 11.7.4: at the end of each sequence but the last, which the status acknowledges. */
static void ask_data_ack(struct iscsi_task *t, uint8_t *h)
{
	if (!t->ack_ttt)
		t->ack_ttt = session_ttt(t->session);
	h[BHS_FLAGS] |= DATA_ACK;
	put_be32(h + BHS_TTT, t->ack_ttt);
	memcpy(h + BHS_LUN, t->cmd.lun, 8);
}

/* 11.16: a Data-In PDU as it was, but for ExpCmdSN and MaxCmdSN. */
static void emit_data_again(struct iscsi_conn *c, struct iscsi_txb *b, struct iscsi_task *t)
{
	uint32_t n, left, off = keep_locate(t, t->redo_sn, &n, &left);
	bool last = off + n == t->cmd.in_len;
	uint8_t *h = hdr_take(b, ISCSI_BHS);

	memset(h, 0, ISCSI_BHS);
	h[BHS_OPCODE] = ISCSI_DATA_IN;
	h[BHS_FLAGS] = last || !left ? FLAG_FINAL : 0;
	put_be24(h + BHS_DATA_LEN, n);
	put_be32(h + BHS_ITT, t->itt);
	put_be32(h + BHS_TTT, ISCSI_NO_TAG);
	if (!last && !left)
		ask_data_ack(t, h);
	put_numbers(c, h, false);
	put_be32(h + BHS_STAT_SN, 0);
	put_be32(h + DATA_SN, t->redo_sn++);
	put_be32(h + DATA_OFFSET, off);
	put_header(c, b, h);
	put_trailer(c, b, n, gather_data(c, b, t, &t->redo, n));
}

/* What SNACK asked for of a task, a PDU at a time; behind it the task is where it was. */
static void emit_again(struct iscsi_conn *c, struct iscsi_txb *b, struct iscsi_task *t)
{
	if (keep_stale(c, &t->tx)) {
		task_put(t);
	} else if (t->redo_sn != t->redo_end) {
		emit_data_again(c, b, t);
	} else {
		bool over = t->tx.numbered && t->tx_off == t->cmd.in_len, status = t->redo_status;
		t->tx.again = t->redo_status = false;
		if (over && status)
			emit_response(c, b, t);
		else if (over)
			emitted(c, b, t);
	}
}

/* One Data-In PDU, as long as all limits allow. The last carries the status when that needs no sense data
 * (11.7.3). Returns true when the whole answer is in the batch. */
static bool emit_data_in(struct iscsi_conn *c, struct iscsi_txb *b, struct iscsi_task *t)
{
	struct scsi_cmd *m = &t->cmd;
	uint32_t left = m->in_len - t->tx_off;
	uint32_t n = MIN(left, tx_xmit(c));
	uint8_t *h = hdr_take(b, ISCSI_BHS);

	if (!t->burst_left)
		t->burst_left = c->session->params.max_burst;
	if (c->recover && t->cut.xmit != tx_xmit(c))
		keep_cut(t);
	n = MIN(n, t->burst_left);
	bool last = n == left, collapse = last && !m->sense_len && !c->recover;
	memset(h, 0, ISCSI_BHS);
	h[BHS_OPCODE] = ISCSI_DATA_IN;
	put_be24(h + BHS_DATA_LEN, n);
	put_be32(h + BHS_ITT, t->itt);
	put_be32(h + BHS_TTT, ISCSI_NO_TAG);
	t->burst_left -= n;
	if (last || !t->burst_left)
		h[BHS_FLAGS] = FLAG_FINAL;
	if (c->recover && !last && !t->burst_left)
		ask_data_ack(t, h);
	if (collapse) {
		uint32_t resid;
		uint8_t f = residual(t, &resid); /* the same bits at the same place as in a response */
		uncount(c, t);
		put_numbers(c, h, true);
		h[BHS_FLAGS] |= DATA_STATUS_VALID | f;
		h[DATA_STATUS] = m->status;
		put_be32(h + DATA_RESID, resid);
	} else {
		put_numbers(c, h, false);
		put_be32(h + BHS_STAT_SN, 0);
	}
	put_be32(h + DATA_SN, t->data_sn++);
	put_be32(h + DATA_OFFSET, t->tx_off);
	put_header(c, b, h);
	uint32_t crc = gather_data(c, b, t, &t->cur, n);
	put_trailer(c, b, n, crc);
	t->tx_off += n;
	c->session->stats.bytes_in += n;
	if (collapse)
		emitted(c, b, t);
	return collapse;
}

/* What one PDU may add to a batch: two headers' worth of bytes and its segments. */
static bool room_for(const struct iscsi_txb *b, uint32_t segs)
{
	return b->left < TX_BATCH_BYTES && b->niov + (int)segs + 4 <= TX_IOV &&
	       b->hdr_used + 2 * ISCSI_BHS + LIM_SENSE + 64 <= TX_HDR;
}

static void fill(struct iscsi_conn *c, struct iscsi_txb *b)
{
	while (!c->silent && !list_empty(&c->ctlq) && room_for(b, 4))
		emit_ctl(c, b, list_first(&c->ctlq, struct iscsi_ctl, tx.node));
	while (!c->silent && !list_empty(&c->dataq)) {
		struct txitem *x = list_first(&c->dataq, struct txitem, node);
		struct iscsi_task *t = container_of(x, struct iscsi_task, tx);
		if (x->ctl) {
			if (!room_for(b, 4))
				break;
			emit_ctl(c, b, container_of(x, struct iscsi_ctl, tx));
			continue;
		}
		uint32_t left = t->cmd.in_len - t->tx_off;
		if (!room_for(b, segments(t, t->tx.again ? (uint32_t)TX_PDU_BYTES : MIN(left, (uint32_t)TX_PDU_BYTES))))
			break;
		if (t->tx.again)
			emit_again(c, b, t);
		else if (left)
			emit_data_in(c, b, t);
		else
			emit_response(c, b, t);
	}
}

/* The batch is out: what it held goes back, and what waited for it happens. */
static void retire(struct iscsi_conn *c, struct iscsi_txb *b)
{
	struct iscsi_task *t, *ttmp;
	struct iscsi_ctl *k, *ktmp;

	list_for_each_safe(t, ttmp, &b->tasks, tx.node) {
		if (c->recover)
			keep_item(c, &t->tx);
		else
			task_put(t);
	}
	list_for_each_safe(k, ktmp, &b->ctls, tx.node) {
		enum ctl_after after = k->after;
		c->nctl--;
		c->ctl_bytes -= k->len;
		k->after = AFTER_NONE;
		if (c->recover)
			keep_item(c, &k->tx);
		else
			ctl_put(c->pool, k);
		if (after == AFTER_FULL_FEATURE)
			conn_event(c, ISCSI_EV_FULL_FEATURE);
		else if (after == AFTER_LOGOUT)
			conn_event(c, ISCSI_EV_LOGOUT);
		else if (after == AFTER_CLOSE)
			conn_close(c, c->why);
	}
	b->niov = b->at = 0;
	b->hdr_used = 0;
}

int iscsi_tx(struct iscsi_conn *c, struct iovec **ret_iov)
{
	struct iscsi_txb *b = c->txb;

	if (!b || !b->left) {
		if (c->silent || (list_empty(&c->ctlq) && list_empty(&c->dataq))) {
			if (b)
				txb_put(c->pool, b);
			c->txb = NULL;
			return 0;
		}
		if (!b)
			b = c->txb = txb_get(c->pool);
		if (!b) {
			conn_close(c, "out of memory");
			return 0;
		}
		fill(c, b);
	}
	*ret_iov = b->iov + b->at;
	return b->niov - b->at;
}

void iscsi_tx_done(struct iscsi_conn *c, size_t bytes)
{
	struct iscsi_txb *b = c->txb;

	CHECK(b && bytes <= b->left);
	b->left -= bytes;
	c->tx_moved |= bytes >= TX_LIFE_BYTES;
	while (bytes) {
		struct iovec *v = &b->iov[b->at];
		if (bytes < v->iov_len) {
			v->iov_base = (uint8_t *)v->iov_base + bytes;
			v->iov_len -= bytes;
			break;
		}
		bytes -= v->iov_len;
		b->at++;
	}
	if (!b->left)
		retire(c, b);
}

void tx_respond(struct iscsi_task *t)
{
	t->state = TASK_RESPOND;
	t->cur = (struct cursor){ 0 };
	t->tx.where = TX_QUEUED;
	if (t->session->fence || t->cmd.fence)
		fence_respond(t->session, &t->tx, t->cmd.fence);
	else
		list_add_tail(&t->conn->dataq, &t->tx.node);
}

/* What is still on its way for the first time is sent anyway; what is in a batch is queued when that has left. */
void tx_again(struct iscsi_conn *c, struct txitem *x)
{
	struct iscsi_ctl *k = container_of(x, struct iscsi_ctl, tx);

	x->again = true;
	if (x->where != TX_KEPT)
		return;
	list_del(&x->node);
	x->where = TX_QUEUED;
	list_add_tail(x->ctl ? &c->ctlq : &c->dataq, &x->node);
	if (x->ctl) {
		c->nctl++;
		c->ctl_bytes += k->len;
		c->nkept_ctls--;
	} else {
		keep_drop(container_of(x, struct iscsi_task, tx));
	}
}

static void drop_queue(struct iscsi_conn *c, struct list *q)
{
	while (!list_empty(q)) {
		struct txitem *x = list_first(q, struct txitem, node);
		if (x->ctl)
			ctl_put(c->pool, container_of(x, struct iscsi_ctl, tx));
		else
			list_del(&x->node); /* the task goes with conn->tasks */
	}
}

void tx_fini(struct iscsi_conn *c)
{
	if (c->txb) {
		drop_queue(c, &c->txb->ctls);
		drop_queue(c, &c->txb->tasks);
		txb_put(c->pool, c->txb);
		c->txb = NULL;
	}
	drop_queue(c, &c->ctlq);
	drop_queue(c, &c->dataq);
	drop_queue(c, &c->kept);
	c->nkept_ctls = 0;
	c->nctl = 0;
	c->ctl_bytes = 0;
}
