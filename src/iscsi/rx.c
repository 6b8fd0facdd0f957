/* SPDX-License-Identifier: BSD-3-Clause
 * Bytes to PDUs (RFC 7143 11.2): header, additional header segments, header digest, data segment, padding, data
 * digest. Bytes pass through the read-ahead buffer, but the data of a write that has not arrived yet is
 * received straight into the pages of its command.
 *
 * Invariants: 1. ra[ra_head..ra_tail) is what arrived and is not consumed. 2. In RX_DATA with bytes to keep for a
 * task, the read-ahead is empty whenever rx_want() offers the task's pages. 3. rx_at <= rx_len, rx_keep <= rx_len. */
#include <stdlib.h>

#include "base/check.h"
#include "base/copy.h"
#include "base/crc32c.h"
#include "iscsi/impl.h"

/* The cursor of t walks n bytes on; *seg says where the next contiguous run lies. Returns its length. */
static uint32_t task_run(struct iscsi_task *t, uint32_t max, uint8_t **ret)
{
	struct iovec *v = &t->cmd.iov[t->cur.seg];

	if (t->cur.seg_off == v->iov_len) {
		v++;
		t->cur.seg++;
		t->cur.seg_off = 0;
	}
	CHECK(t->cur.seg < t->cmd.niov);
	*ret = (uint8_t *)v->iov_base + t->cur.seg_off;
	return (uint32_t)MIN((size_t)max, v->iov_len - t->cur.seg_off);
}

/* n bytes lie at the cursor already: count them and take them into the digest. */
static void task_advance(struct iscsi_conn *c, struct iscsi_task *t, uint32_t n)
{
	c->rx_at += n;
	while (n) {
		uint8_t *p;
		uint32_t run = task_run(t, n, &p);
		if (c->data_digest)
			c->rx_crc = crc32c(c->rx_crc, p, run);
		t->cur.seg_off += run;
		n -= run;
	}
}

static void task_copy(struct iscsi_conn *c, struct iscsi_task *t, const uint8_t *from, uint32_t n)
{
	if (c->data_digest)
		c->rx_crc = crc32c(c->rx_crc, from, n);
	c->rx_at += n;
	while (n) {
		uint8_t *p;
		uint32_t run = task_run(t, n, &p);
		copy_cold(p, from, run);
		t->cur.seg_off += run;
		from += run;
		n -= run;
	}
}

static uint32_t trailer_len(const struct iscsi_conn *c)
{
	return pad4(c->rx_len) - c->rx_len + (c->data_digest && c->rx_len ? 4 : 0);
}

static bool rx_header(struct iscsi_conn *c)
{
	const uint8_t *h = c->ra + c->ra_head;
	uint32_t avail = c->ra_tail - c->ra_head;

	if (avail < ISCSI_BHS)
		return false;
	if (c->state == CONN_LOGIN && (h[BHS_OPCODE] & OP_MASK) != ISCSI_LOGIN_REQ) {
		memcpy(c->bhs, h, ISCSI_BHS);
		conn_login_rx(c, NULL, 0); /* 6.3: ends it, with a word if login began; no need to see all of the PDU */
		return true;
	}
	uint32_t ahs = h[BHS_AHS_LEN] * 4u;
	uint32_t need = ISCSI_BHS + ahs;
	if (avail < need + (c->header_digest ? 4 : 0))
		return false;
	if (c->header_digest && crc32c(0, h, need) != le32(h + need)) {
		conn_close(c, "header digest error"); /* 7.8: where the next PDU begins is not known any more */
		return true;
	}
	memcpy(c->bhs, h, ISCSI_BHS);
	c->rx_len = bhs_data_len(h);
	c->rx_at = c->rx_keep = 0;
	c->rx_crc = 0;
	c->rx_where = RX_DISCARD;
	c->rx_bulk = c->rx_len >= BULK_BYTES;
	if (c->rx_len > c->params.max_recv_segment) {
		conn_violation(c, "data segment longer than MaxRecvDataSegmentLength");
		return true;
	}
	c->ra_head += need + (c->header_digest ? 4 : 0);
	c->rx_state = RX_DATA;
	request_begin(c, h + ISCSI_BHS, ahs);
	return true;
}

/* Consumes what the read-ahead holds of the data segment. */
static bool rx_data(struct iscsi_conn *c)
{
	const uint8_t *p = c->ra + c->ra_head;
	uint32_t n = MIN(c->ra_tail - c->ra_head, c->rx_len - c->rx_at);

	if (c->rx_at < c->rx_keep)
		n = MIN(n, c->rx_keep - c->rx_at);
	if (n) {
		c->ra_head += n;
		if (c->rx_where == RX_TASK && c->rx_at < c->rx_keep) {
			task_copy(c, c->rx_task, p, n);
		} else {
			if (c->rx_where == RX_BUF && c->rx_at < c->rx_keep)
				memcpy(c->rx_buf + c->rx_at, p, n);
			if (c->data_digest)
				c->rx_crc = crc32c(c->rx_crc, p, n);
			c->rx_at += n;
		}
	}
	if (c->rx_at < c->rx_len)
		return c->ra_head < c->ra_tail;
	c->rx_state = RX_TRAILER;
	return true;
}

static bool rx_trailer(struct iscsi_conn *c)
{
	uint32_t n = trailer_len(c);
	const uint8_t *p = c->ra + c->ra_head;
	bool ok = true;

	if (c->ra_tail - c->ra_head < n)
		return false;
	if (c->data_digest && c->rx_len) {
		c->rx_crc = crc32c(c->rx_crc, p, n - 4); /* the padding counts, 11.2.4 */
		ok = c->rx_crc == le32(p + n - 4);
	}
	c->ra_head += n;
	c->rx_state = RX_HEADER;
	request_end(c, ok);
	if (c->rx_buf) {
		free(c->rx_buf);
		c->rx_buf = NULL;
	}
	c->rx_task = NULL;
	if (c->session && session_waits(c->session)) {
		if (c->state == CONN_FFP)
			fence_heard(c);
		request_run_held(c->session);
	}
	return true;
}

void iscsi_rx(struct iscsi_conn *c, size_t bytes)
{
	static bool (*const step[])(struct iscsi_conn *c) = { rx_header, rx_data, rx_trailer };
	uint32_t direct = (uint32_t)MIN(bytes, (size_t)c->rx_direct);

	c->heard_ns = c->now_ns;
	c->ping_ns = 0;
	if (direct && c->rx_task)
		task_advance(c, c->rx_task, direct);
	else if (direct) /* the task was aborted meanwhile: its pages took the bytes, nobody wants them */
		c->rx_at += direct;
	c->rx_direct = 0;
	c->ra_tail += (uint32_t)(bytes - direct);
	CHECK(c->ra_tail <= c->ra_size);
	c->ra_quiet = c->ra_tail < RA_SMALL / 2 ? c->ra_quiet + 1 : 0;
	while (c->state != CONN_CLOSED && !c->deaf && step[c->rx_state](c))
		;
}

/* Moves what is left to the front, and changes the size of the read-ahead to what the traffic wants. */
static void ra_make_room(struct iscsi_conn *c)
{
	uint32_t n = c->ra_tail - c->ra_head;
	bool big = c->ra != c->small;
	uint8_t *to = c->ra;

	if (!big && c->ra_tail == c->ra_size) {
		uint8_t *b = ra_get(c->pool);
		if (b) {
			to = b;
			c->ra_size = RA_BIG;
		}
	} else if (big && n == 0 && c->ra_quiet > RA_QUIET) {
		to = c->small;
		c->ra_size = RA_SMALL;
	}
	if (n)
		memmove(to, c->ra + c->ra_head, n);
	if (to != c->ra && big)
		ra_put(c->pool, c->ra);
	c->ra = to;
	c->ra_head = 0;
	c->ra_tail = n;
}

static int want_task(struct iscsi_conn *c, struct iovec *iov, int max)
{
	struct iscsi_task *t = c->rx_task;
	uint32_t left = c->rx_keep - c->rx_at;
	uint32_t off = t->cur.seg_off;
	int n = 0;

	for (int seg = t->cur.seg; left && n < max; seg++, off = 0) {
		struct iovec *v = &t->cmd.iov[seg];
		uint32_t run = (uint32_t)MIN((size_t)left, v->iov_len - off);
		if (!run)
			continue;
		uint8_t *p = (uint8_t *)v->iov_base + off;
		if (n && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == p)
			iov[n - 1].iov_len += run;
		else
			iov[n++] = (struct iovec){ p, run };
		left -= run;
		c->rx_direct += run;
	}
	return n;
}

int iscsi_rx_want(struct iscsi_conn *c, struct iovec *iov, int max)
{
	int n = 0;

	if (c->state == CONN_CLOSED || c->deaf || c->login_wait || c->nctl >= TX_CTL_MAX || c->ctl_bytes >= TX_CTL_BYTES)
		return 0;
	ra_make_room(c);
	c->rx_direct = 0;
	bool whole = true;
	if (c->rx_state == RX_DATA && c->rx_where == RX_TASK && c->rx_at < c->rx_keep && c->ra_tail == 0) {
		n = want_task(c, iov, max - 1);
		whole = c->rx_direct == c->rx_keep - c->rx_at;
	}
	if (whole) {
		uint32_t room = c->ra_size - c->ra_tail;
		if (c->rx_bulk && n)
			room = MIN(room, (uint32_t)RA_AFTER_BULK);
		iov[n++] = (struct iovec){ c->ra + c->ra_tail, room };
	}
	return n;
}

bool iscsi_rx_bulk(const struct iscsi_conn *c)
{
	return c->rx_bulk;
}

void rx_fini(struct iscsi_conn *c)
{
	free(c->rx_buf);
	c->rx_buf = NULL;
	if (c->ra != c->small)
		ra_put(c->pool, c->ra);
	c->ra = c->small;
	c->ra_size = RA_SMALL;
	c->ra_head = c->ra_tail = 0;
}
