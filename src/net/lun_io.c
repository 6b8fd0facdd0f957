/* SPDX-License-Identifier: BSD-3-Clause
 * Requests of a remote LUN, on its home loop: a request is cut into commands, a command that cannot succeed now is tried
 * again until it has waited for the configured time. Data goes through a buffer of the command. */
#include "net/lun.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "net/remote.h"

#define AGAIN_NS UINT64_C(100000000)
#define TRIES_MIN 16 /* of unit attentions and aborted commands, which tell of the past */

enum { KEY_NOT_READY = 2, KEY_MEDIUM = 3, KEY_ILLEGAL = 5, KEY_ATTENTION = 6, KEY_PROTECT = 7, KEY_ABORTED = 11 };

/* What a request needs to remember, in the driver's scratch of its blk_io. */
struct progress {
	uint64_t       at;       /* bytes from here on are not issued yet */
	struct blk_io *next;     /* in the queue */
	uint32_t       pending;  /* commands in flight */
	int32_t        status;
	uint32_t       whole, flush; /* whole: everything is issued; flush: a FLUSH follows, 2: it is on its way */
};
_Static_assert(sizeof(struct progress) <= sizeof(((struct blk_io *)0)->scratch), "fits the scratch");

static struct progress *progress(struct blk_io *io)
{
	return (struct progress *)io->scratch;
}

/* --- data --- */

/* Copies between the request's memory, from byte off of the disk on, and a flat buffer. */
static void copy(struct blk_io *io, uint64_t off, uint8_t *buf, uint32_t len, bool out)
{
	uint64_t skip = off - io->req.off;

	for (int i = 0; i < io->req.niov && len; i++) {
		const struct iovec *v = &io->req.iov[i];

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		uint32_t n = (uint32_t)MIN(v->iov_len - skip, (uint64_t)len);
		uint8_t *p = (uint8_t *)v->iov_base + skip;
		memcpy(out ? buf : p, out ? p : buf, n);
		buf += n;
		len -= n;
		skip = 0;
	}
}

static bool room(struct lun_req *q, uint32_t len)
{
	uint8_t *buf = len <= q->room ? q->buf : realloc(q->buf, len);

	if (!buf)
		return false;
	q->buf = buf;
	q->room = MAX(q->room, len);
	return true;
}

/* --- commands --- */

static void transfer(struct lun_req *q, uint8_t opcode, bool out, uint32_t data)
{
	struct lun *l = q->lun;

	q->cmd.cdb[0] = opcode;
	put_be64(q->cmd.cdb + 2, q->off / l->block);
	put_be32(q->cmd.cdb + 10, q->len / l->block);
	if (out) {
		q->cmd.out = q->buf;
		q->cmd.out_len = data;
	} else {
		q->cmd.in = q->buf;
		q->cmd.in_len = data;
	}
}

static void make_write(struct lun_req *q)
{
	copy(q->io, q->off, q->buf, q->len, true);
	transfer(q, 0x8a, true, q->len);
	if ((q->io->req.flags & BLK_FUA) || q->lun->write_through)
		q->cmd.cdb[1] = 0x08;
}

static void make_zero(struct lun_req *q)
{
	bool same = q->lun->same_bytes, hole = q->io->req.op == BLK_DISCARD || (q->io->req.flags & BLK_MAY_UNMAP);
	uint32_t data = same ? q->lun->block : q->len;

	memset(q->buf, 0, data);
	transfer(q, same ? 0x93 : 0x8a, true, data);
	if (same && hole && (q->lun->blk->caps & BLK_CAN_DISCARD))
		q->cmd.cdb[1] = 0x08;
}

static void make_map(struct lun_req *q)
{
	transfer(q, 0x9e, false, 8 + 16 * LUN_EXTENTS);
	q->cmd.cdb[1] = 0x12;
	put_be32(q->cmd.cdb + 10, q->cmd.in_len);
}

static void make(struct lun_req *q)
{
	enum blk_op op = q->io ? q->io->req.op : BLK_MAP;

	memset(&q->cmd, 0, sizeof(q->cmd));
	q->cmd.lun = q->lun->lun;
	q->cmd.attr = 1;
	q->cmd.retry = true; /* the same bytes at the same place; who overlaps requests waits for neither */
	q->cmd.ctx = q;
	if (!q->io) {
		q->cmd.cdb[0] = 0x9e;
		q->cmd.cdb[1] = 0x10;
		q->cmd.cdb[13] = 32;
		q->cmd.in = q->buf;
		q->cmd.in_len = 32;
	} else if (op == BLK_READ) {
		transfer(q, 0x88, false, q->len);
	} else if (op == BLK_WRITE) {
		make_write(q);
	} else if (op == BLK_FLUSH || progress(q->io)->flush == 2) {
		q->cmd.cdb[0] = 0x91;
	} else if (op == BLK_MAP) {
		make_map(q);
	} else {
		make_zero(q);
	}
}

static void end_cmd(struct lun_req *q, int status);

static void wait(struct lun_req *q)
{
	struct lun *l = q->lun;

	list_add_tail(&l->waiting, &q->node);
	if (!l->retry.deadline_ns)
		loop_timer_set(l->home, &l->retry, loop_now_ns(l->home) + AGAIN_NS);
}

static void issue(struct lun_req *q)
{
	int r;

	make(q);
	r = q->lun->net ? iscsi_ini_cmd(net_ini_engine(q->lun->net), &q->cmd) : -ENOTCONN;
	if (r == -EBUSY)
		wait(q);
	else if (r)
		end_cmd(q, -ETIMEDOUT);
	else
		net_ini_kick(q->lun->net);
}

static struct lun_req *get(struct lun *l)
{
	struct lun_req *q;

	if (!list_empty(&l->free)) {
		q = list_first(&l->free, struct lun_req, node);
		list_del(&q->node);
	} else if (l->nreqs < LUN_DEPTH && (q = calloc(1, sizeof(*q)))) {
		l->nreqs++;
		q->lun = l;
		list_init(&q->node);
	} else {
		return NULL;
	}
	q->tries = 0;
	q->begun_ns = loop_now_ns(l->home);
	return q;
}

static void put(struct lun_req *q)
{
	q->io = NULL;
	list_add_head(&q->lun->free, &q->node);
}

/* --- requests --- */

static uint32_t chunk(const struct lun *l, const struct blk_io *io, uint64_t at)
{
	uint64_t left = io->req.off + io->req.len - at;
	bool zero = io->req.op == BLK_ZERO || io->req.op == BLK_DISCARD;

	if (io->req.op == BLK_FLUSH || io->req.op == BLK_MAP)
		return (uint32_t)MIN(left, (uint64_t)1 << 30);
	return (uint32_t)MIN(left, zero && l->same_bytes ? l->same_bytes : (uint64_t)LUN_CHUNK);
}

static uint32_t buffer(const struct lun *l, const struct blk_io *io, uint32_t len)
{
	switch (io->req.op) {
	case BLK_FLUSH: return 0;
	case BLK_MAP: return 8 + 16 * LUN_EXTENTS;
	case BLK_ZERO: case BLK_DISCARD: return l->same_bytes ? l->block : len;
	default: return len;
	}
}

static void queue(struct lun *l, struct blk_io *io)
{
	progress(io)->next = NULL;
	*l->last = io;
	l->last = &progress(io)->next;
}

static void pump(struct lun *l)
{
	while (l->first) {
		struct blk_io *io = l->first;
		struct progress *p = progress(io);
		struct lun_req *q = get(l);

		if (!q)
			return;
		q->io = io;
		q->off = p->at;
		q->len = chunk(l, io, p->at);
		p->at += q->len;
		p->pending++;
		p->whole = p->at == io->req.off + io->req.len || io->req.op == BLK_MAP || p->flush == 2;
		if (p->whole) {
			l->first = p->next;
			if (!l->first)
				l->last = &l->first;
		}
		if (room(q, buffer(l, io, q->len)))
			issue(q);
		else
			end_cmd(q, -ENOMEM);
	}
}

void lun_submit(struct blk *b, struct blk_io *io)
{
	struct lun *l = *(struct lun **)b->priv;
	struct progress *p = progress(io);

	*p = (struct progress){ .at = io->req.off };
	if (io->req.op == BLK_FLUSH)
		io->req.off = io->req.len = p->at = 0;
	p->flush = (io->req.op == BLK_ZERO || io->req.op == BLK_DISCARD) &&
		((io->req.flags & BLK_FUA) || l->write_through);
	queue(l, io);
	pump(l);
}

/* The last command of a request has ended. */
static void end_io(struct lun *l, struct blk_io *io)
{
	struct progress *p = progress(io);

	if (!p->status && p->flush == 1) {
		p->flush = 2;
		p->whole = 0;
		queue(l, io);
		return;
	}
	blk_done(io, p->status);
}

static void end_cmd(struct lun_req *q, int status)
{
	struct blk_io *io = q->io;
	struct lun *l = q->lun;
	struct progress *p;

	put(q);
	if (!io)
		return;
	p = progress(io);
	if (status && !p->status)
		p->status = status;
	if (--p->pending)
		return;
	if (p->status && !p->whole) { /* the rest is not worth beginning */
		struct blk_io **at = &l->first;

		while (*at != io)
			at = &progress(*at)->next;
		*at = p->next;
		if (!*at)
			l->last = at;
		p->whole = 1;
	}
	if (p->whole)
		end_io(l, io);
}

/* --- answers --- */

static enum blk_extent_kind kind_of(uint8_t status)
{
	return (status & 0x0f) == 1 ? BLK_HOLE : (status & 0x0f) == 2 ? BLK_ZEROED : BLK_DATA;
}

/* GET LBA STATUS; whatever it leaves open is data. */
static void take_map(struct lun_req *q)
{
	struct blk_req *r = &q->io->req;
	uint64_t at = r->off, end = r->off + r->len;
	bool zeroes = q->lun->blk->caps & BLK_CAN_DISCARD;
	int n = 0;

	for (uint32_t d = 8; d + 16 <= q->cmd.in_got && n < r->nmap && at < end; d += 16) {
		const uint8_t *p = q->buf + d;
		uint64_t lba = be64(p), blocks = be32(p + 8);

		if (lba > at / q->lun->block || lba + blocks <= at / q->lun->block || lba + blocks < lba)
			break;
		uint64_t to = MIN(end, (lba + blocks) * q->lun->block);
		r->map[n++] = (struct blk_extent){ at, to - at, zeroes ? kind_of(p[12]) : BLK_DATA };
		at = to;
	}
	if (!n)
		r->map[n++] = (struct blk_extent){ at, end - at, BLK_DATA };
	r->nmap = n;
}

static int good(struct lun_req *q)
{
	struct lun *l = q->lun;

	if (!q->io) {
		uint64_t bytes = q->cmd.in_got >= 12 && be32(q->buf + 8) == l->block ? (be64(q->buf) + 1) * l->block : 0;

		if (bytes && bytes != l->bytes)
			lun_tell_bytes(l, bytes);
		return 0;
	}
	if (q->io->req.op == BLK_READ && q->cmd.in_got != q->len)
		return -EIO;
	if (q->io->req.op == BLK_WRITE && (q->cmd.underflow || q->cmd.overflow)) { /* GOOD, but not all of it was taken */
		log_error("remote disk error disk=%s command=%02xh residual=%u", l->shown, q->cmd.cdb[0], q->cmd.resid);
		return -EIO;
	}
	if (q->io->req.op == BLK_READ)
		copy(q->io, q->off, q->buf, q->len, false);
	else if (q->io->req.op == BLK_MAP)
		take_map(q);
	return 0;
}

static void ask_capacity(struct lun *l)
{
	struct lun_req *q = l->closing ? NULL : get(l);

	if (!q)
		return;
	q->io = NULL;
	if (room(q, 32))
		issue(q);
	else
		put(q);
}

static int sense_errno(const struct lun_req *q, unsigned sense)
{
	switch (sense >> 16) {
	case KEY_NOT_READY: return (sense >> 8 & 255) == 0x3a ? -ENOMEDIUM : -ENODEV;
	case KEY_ILLEGAL: return (sense >> 8 & 255) == 0x21 ? -ERANGE : -EOPNOTSUPP;
	case KEY_PROTECT: return (sense & 0xffff) == 0x2707 ? -ENOSPC : -EROFS;
	default: return -EIO;
	}
}

/* 0: the command will be tried again; else -errno. */
static int try_again(struct lun_req *q, bool at_once, int or_else)
{
	struct lun *l = q->lun;

	if (l->closing || (++q->tries > TRIES_MIN && loop_now_ns(l->home) > q->begun_ns + l->retry_ns))
		return or_else;
	if (at_once)
		issue(q);
	else
		wait(q);
	return 0;
}

static int failed(struct lun_req *q)
{
	unsigned sense = remote_sense(&q->cmd), key = sense >> 16;
	uint8_t status = q->cmd.status;
	int code = sense_errno(q, sense);

	if (q->cmd.response)
		return -EIO;
	if (status == 0x18)
		return -EACCES;
	if (status == 0x08 || status == 0x28 || status == 0x40)
		return try_again(q, false, -EAGAIN);
	if (key == KEY_ATTENTION) {
		if (q->io && (sense & 0xffff) == 0x2a09)
			ask_capacity(q->lun);
		return try_again(q, true, -EIO);
	}
	if (key == KEY_ABORTED || key == KEY_NOT_READY)
		return try_again(q, false, code);
	if (key == KEY_ILLEGAL && q->io && q->io->req.op == BLK_MAP) {
		q->cmd.in_got = 0;
		take_map(q);
		end_cmd(q, 0);
		return 0;
	}
	log_error("remote disk error disk=%s command=%02xh status=%02xh sense=%06x", q->lun->shown, q->cmd.cdb[0],
		status, sense);
	return code;
}

static void answered(struct lun_req *q)
{
	int r;

	if (q->cmd.error) {
		end_cmd(q, q->cmd.error == -EREMOTEIO ? -EIO : -ETIMEDOUT);
		return;
	}
	if (!q->cmd.status && !q->cmd.response) {
		end_cmd(q, good(q));
		return;
	}
	r = failed(q);
	if (r)
		end_cmd(q, r);
}

/* --- life --- */

static void retry(struct timer *t)
{
	struct lun *l = container_of(t, struct lun, retry);
	struct list now;

	list_init(&now);
	list_splice_tail(&now, &l->waiting);
	while (!list_empty(&now)) {
		struct lun_req *q = list_first(&now, struct lun_req, node);

		list_del(&q->node);
		issue(q);
	}
	pump(l);
}

static void event(void *ctx, const struct iscsi_ini_event *ev)
{
	struct lun *l = ctx;

	switch (ev->kind) {
	case INI_EV_CMD:
		answered(ev->ctx);
		break;
	case INI_EV_LOGGED_IN:
		log_info("remote disk connected disk=%s", l->shown);
		ask_capacity(l);
		break;
	case INI_EV_DOWN:
		log_warn("remote disk lost disk=%s reason=\"%s\"", l->shown, ev->text);
		break;
	default:
		break;
	}
	if (!l->closing)
		pump(l);
}

void lun_start(struct task *t)
{
	struct lun *l = container_of(t, struct lun, start);
	struct net_ini_conf c = { .event = event, .ctx = l };

	list_init(&l->free);
	list_init(&l->waiting);
	l->last = &l->first;
	l->retry.fire = retry;
	net_ini_use_url(&c, &l->url, "iqn.2025-01.net.lunette:gateway", l->chap);
	c.ini.retry_ns = MAX(l->retry_ns, UINT64_C(1));
	c.ini.forever = c.ini.insist = true;
	c.ini.max_cmds = 2 * LUN_DEPTH;
	if (!c.ini.nop_ns)
		c.ini.nop_ns = UINT64_C(5000000000);
	l->net = net_ini_new(l->home, &c); /* NULL: no memory; every request fails, and a reload may help */
}

static void sockets_gone(void *ctx)
{
	struct lun *l = ctx;

	loop_timer_clear(l->home, &l->retry);
	while (!list_empty(&l->free)) {
		struct lun_req *q = list_first(&l->free, struct lun_req, node);

		list_del(&q->node);
		free(q->buf);
		free(q);
	}
	loop_post(l->control, &l->gone);
}

void lun_stop(struct task *t)
{
	struct lun *l = container_of(t, struct lun, stop);

	l->closing = true;
	if (l->net)
		net_ini_close(l->net, sockets_gone, l);
	else
		sockets_gone(l);
}
