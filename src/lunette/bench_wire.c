/* SPDX-License-Identifier: BSD-3-Clause
 * Connections of `lunette bench`. Both protocols go through the same socket calls: what one turn makes leaves in one
 * send, one receive takes what fits a buffer that stays in cache, payload is never copied unless it is verified. */
#include "lunette/bench.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"

static _Alignas(4096) uint8_t rx_buf[BENCH_RX];

uint64_t bench_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void random_bytes(void *p, size_t n)
{
	if (getrandom(p, n, 0) != (ssize_t)n)
		abort();
}

struct addrinfo *bench_resolve(const struct bench_conf *c)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *ai = NULL;
	int r = getaddrinfo(c->url.host, c->url.port, &hints, &ai);

	if (r) {
		fprintf(stderr, "lunette bench: %s: %s\n", c->url.host, gai_strerror(r));
		exit(1);
	}
	return ai;
}

static int dial(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, e;
	struct timeval limit = { .tv_sec = 1 };

	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, ai->ai_addr, ai->ai_addrlen)) {
		e = errno;
		close(fd);
		errno = e;
		return -1;
	}
	return fd;
}

static void iscsi_events(struct bench_wire *w);

static int open_iscsi(struct bench_wire *w, uint32_t isid)
{
	const struct bench_conf *c = w->conf;
	struct iscsi_ini_conf ic;

	iscsi_ini_conf_defaults(&ic);
	ic.initiator = "iqn.2025-01.net.lunette:bench";
	ic.target = c->url.target;
	put_be32(ic.isid + 2, isid);
	ic.offer.header_digest = ic.offer.require_header_digest = c->header_digest;
	ic.offer.data_digest = ic.offer.require_data_digest = c->data_digest;
	ic.max_cmds = c->depth + 1;
	if (c->url.level)
		iscsi_ini_conf_level(&ic, c->url.level);
	ic.probe_ns = c->probe_ms * UINT64_C(1000000);
	ic.connections = c->url.connections;
	ic.offer.protocol_level = c->url.protocol;
	ic.retry_ns = c->url.retry_s * UINT64_C(1000000000);
	w->nfds = ic.connections;
	w->timed = ic.connections > 1 || c->url.level || ic.retry_ns;
	ic.random = random_bytes;
	if (*c->url.user) {
		w->chap = (struct iscsi_chap_user){ .name = c->url.user, .secret = c->url.secret };
		ic.chap = &w->chap;
	}
	w->ini = iscsi_ini_new(&ic);
	if (!w->ini)
		return -1;
	iscsi_events(w);
	return 0;
}

static int open_raw(struct bench_wire *w)
{
	uint32_t n = w->conf->depth;

	w->raw_hdr = malloc((size_t)(n + 1) * RAW_HDR);
	w->raw_crcs = calloc(n + 1, sizeof(*w->raw_crcs));
	w->raw_iov = calloc(6 * (size_t)n, sizeof(*w->raw_iov));
	w->ready = true;
	return w->raw_hdr && w->raw_crcs && w->raw_iov ? 0 : -1;
}

struct bench_wire *bench_wire_open(const struct bench_conf *c, const struct addrinfo *ai, uint32_t isid, bench_done_fn *done)
{
	struct bench_wire *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->conf = c;
	w->done = done;
	w->ai = ai;
	w->nfds = 1;
	for (unsigned k = 0; k < INI_CONNS_MAX; k++)
		w->fd[k] = -1;
	if (c->raw)
		w->fd[0] = dial(ai);
	if ((c->raw && w->fd[0] < 0) || (c->raw ? open_raw(w) : open_iscsi(w, isid))) {
		free(w);
		return NULL;
	}
	return w;
}

void bench_wire_close(struct bench_wire *w, bool reset)
{
	struct linger l = { 1, 0 };

	if (!w)
		return;
	for (unsigned k = 0; k < w->nfds; k++) {
		if (w->fd[k] < 0)
			continue;
		if (reset)
			setsockopt(w->fd[k], SOL_SOCKET, SO_LINGER, &l, sizeof(l));
		close(w->fd[k]);
	}
	iscsi_ini_free(w->ini);
	free(w->raw_hdr);
	free(w->raw_crcs);
	free(w->raw_iov);
	free(w);
}

static void closed(struct bench_wire *w, unsigned status, const char *why)
{
	w->closed = true;
	w->ready = false;
	w->status = status;
	snprintf(w->why, sizeof(w->why), "%s", why);
}

/* --- the raw protocol, see bench/limit.c --- */

static void raw_put(struct bench_wire *w, const void *p, size_t n)
{
	struct iovec *last = w->raw_niov > w->raw_at ? &w->raw_iov[w->raw_niov - 1] : NULL;

	if (w->raw_niov == 6 * (int)w->conf->depth) {
		w->raw_niov -= w->raw_at;
		memmove(w->raw_iov, w->raw_iov + w->raw_at, (size_t)w->raw_niov * sizeof(*w->raw_iov));
		w->raw_at = 0;
		last = w->raw_niov ? &w->raw_iov[w->raw_niov - 1] : NULL;
	}
	if (last && (uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += n;
	else
		w->raw_iov[w->raw_niov++] = (struct iovec){ (void *)(uintptr_t)p, n };
}

static int raw_submit(struct bench_wire *w, struct bench_io *io)
{
	uint8_t *h = w->raw_hdr + (size_t)w->raw_slot * RAW_HDR;
	uint32_t *crc = &w->raw_crcs[w->raw_slot];
	bool digest = w->conf->data_digest;

	w->raw_slot = (w->raw_slot + 1) % (w->conf->depth + 1);
	memset(h, 0, RAW_HDR);
	h[0] = (uint8_t)(io->write | (digest ? 0x80 : 0));
	put_be32(h + 4, io->len);
	put_be64(h + 8, io->off);
	put_be32(h + 16, io->tag);
	w->raw_io[io->tag] = io;
	raw_put(w, h, RAW_HDR);
	if (!io->write)
		return 0;
	raw_put(w, io->buf, io->len);
	if (digest) {
		*crc = crc32c(0, io->buf, io->len);
		raw_put(w, crc, 4);
	}
	return 0;
}

static void raw_end(struct bench_wire *w)
{
	struct bench_io *io = w->raw_cur;

	if (w->conf->data_digest && !io->write && le32(w->raw_digest) != w->raw_crc)
		io->failed = true;
	w->raw_cur = NULL;
	w->done(io);
}

static void raw_header(struct bench_wire *w, const uint8_t *h)
{
	uint32_t tag = be32(h + 16);
	struct bench_io *io = tag < BENCH_DEPTH ? w->raw_io[tag] : NULL;

	if (!io) {
		closed(w, 0, "answer to no request");
		return;
	}
	w->raw_cur = io;
	io->failed = false;
	w->raw_skip = io->write ? 0 : io->len;
	w->raw_ndigest = w->raw_skip && w->conf->data_digest ? 4 : 0;
	w->raw_crc = 0;
	if (!w->raw_skip)
		raw_end(w);
}

static size_t raw_eat_header(struct bench_wire *w, const uint8_t *p, size_t n)
{
	if (!w->raw_npart && n >= RAW_HDR) {
		raw_header(w, p);
		return RAW_HDR;
	}
	n = MIN(n, (size_t)(RAW_HDR - w->raw_npart));
	memcpy(w->raw_part + w->raw_npart, p, n);
	w->raw_npart += (uint32_t)n;
	if (w->raw_npart == RAW_HDR) {
		w->raw_npart = 0;
		raw_header(w, w->raw_part);
	}
	return n;
}

static size_t raw_eat_data(struct bench_wire *w, const uint8_t *p, size_t n)
{
	n = MIN(n, (size_t)w->raw_skip);
	if (w->conf->data_digest)
		w->raw_crc = crc32c(w->raw_crc, p, n);
	if (w->raw_cur->buf)
		memcpy(w->raw_cur->buf + w->raw_cur->len - w->raw_skip, p, n);
	w->raw_skip -= (uint32_t)n;
	if (!w->raw_skip && !w->raw_ndigest)
		raw_end(w);
	return n;
}

static void raw_rx(struct bench_wire *w, const uint8_t *p, size_t n)
{
	size_t used;

	for (; n && !w->closed; p += used, n -= used) {
		if (!w->raw_cur) {
			used = raw_eat_header(w, p, n);
		} else if (w->raw_skip) {
			used = raw_eat_data(w, p, n);
		} else {
			used = 1;
			w->raw_digest[4 - w->raw_ndigest--] = *p;
			if (!w->raw_ndigest)
				raw_end(w);
		}
	}
}

static int raw_tx(struct bench_wire *w, struct iovec **ret)
{
	*ret = w->raw_iov + w->raw_at;
	return w->raw_niov - w->raw_at;
}

static void raw_tx_done(struct bench_wire *w, size_t n)
{
	while (w->raw_at < w->raw_niov && n >= w->raw_iov[w->raw_at].iov_len)
		n -= w->raw_iov[w->raw_at++].iov_len;
	if (w->raw_at < w->raw_niov) {
		w->raw_iov[w->raw_at].iov_base = (uint8_t *)w->raw_iov[w->raw_at].iov_base + n;
		w->raw_iov[w->raw_at].iov_len -= n;
		return;
	}
	w->raw_at = w->raw_niov = 0;
}

/* --- iSCSI --- */

static void set_cdb(struct bench_wire *w, struct bench_io *io, uint32_t block)
{
	uint8_t *cdb = io->cmd.cdb;
	uint64_t lba = io->off / block, n = io->len / block;

	memset(cdb, 0, INI_CDB);
	if (lba + n <= UINT32_MAX && n <= UINT16_MAX) {
		cdb[0] = io->write ? 0x2a : 0x28; /* WRITE (10), READ (10) */
		put_be32(cdb + 2, (uint32_t)lba);
		put_be16(cdb + 7, (uint16_t)n);
	} else {
		cdb[0] = io->write ? 0x8a : 0x88; /* WRITE (16), READ (16) */
		put_be64(cdb + 2, lba);
		put_be32(cdb + 10, (uint32_t)n);
	}
}

static int iscsi_submit(struct bench_wire *w, struct bench_io *io)
{
	io->cmd.lun = (uint64_t)w->conf->url.lun << 48;
	io->cmd.attr = 1;
	io->cmd.out = io->write ? io->buf : NULL;
	io->cmd.out_len = io->write ? io->len : 0;
	io->cmd.in = io->write ? NULL : io->buf;
	io->cmd.in_len = io->write ? 0 : io->len;
	io->cmd.ctx = io;
	set_cdb(w, io, w->block);
	return iscsi_ini_cmd(w->ini, &io->cmd);
}

static void iscsi_done(struct bench_wire *w, struct bench_io *io)
{
	const struct iscsi_ini_cmd *c = &io->cmd;

	io->failed = c->error || c->response || c->status || c->resid || (!io->write && c->in_got != io->len);
	w->done(io);
}

/* Blocks while it connects. */
static void connect_one(struct bench_wire *w, unsigned k)
{
	w->fd[k] = dial(w->ai);
	if (w->fd[k] >= 0)
		iscsi_ini_up(w->ini, k);
	else
		iscsi_ini_lost(w->ini, k, strerror(errno));
}

static void hang_up(struct bench_wire *w, unsigned k, const char *why)
{
	char text[sizeof(w->why)];

	snprintf(text, sizeof(text), "%s", why);
	close(w->fd[k]);
	w->fd[k] = -1;
	iscsi_ini_lost(w->ini, k, text);
}

static void iscsi_events(struct bench_wire *w)
{
	struct iscsi_ini_event ev;

	if (w->timed)
		iscsi_ini_tick(w->ini, bench_now_ns());

	while (iscsi_ini_next(w->ini, &ev)) {
		if (ev.kind == INI_EV_CMD && ev.ctx)
			iscsi_done(w, ev.ctx);
		else if (ev.kind == INI_EV_CMD)
			w->plain_done = true;
		else if (ev.kind == INI_EV_CONNECT)
			connect_one(w, ev.conn);
		else if (ev.kind == INI_EV_HANGUP)
			hang_up(w, ev.conn, ev.text);
		else if (ev.kind == INI_EV_LOGGED_IN)
			w->ready = true;
		else if (ev.kind == INI_EV_CLOSED)
			closed(w, ev.code, ev.text);
	}
}

/* --- both --- */

int bench_wire_submit(struct bench_wire *w, struct bench_io *io)
{
	return w->ini ? iscsi_submit(w, io) : raw_submit(w, io);
}

static int pending(struct bench_wire *w, unsigned k, struct iovec **iov)
{
	return w->ini ? iscsi_ini_tx(w->ini, k, iov) : raw_tx(w, iov);
}

static bool wants_out(struct bench_wire *w, unsigned k)
{
	struct iovec *iov;

	return w->fd[k] >= 0 && pending(w, k, &iov) > 0;
}

bool bench_wire_wants_out(struct bench_wire *w)
{
	for (unsigned k = 0; k < w->nfds; k++)
		if (wants_out(w, k))
			return true;
	return false;
}

static void lost(struct bench_wire *w, unsigned k, const char *why)
{
	if (!w->ini) {
		closed(w, 0, why);
		return;
	}
	hang_up(w, k, why);
	iscsi_events(w);
}

static bool send_some(struct bench_wire *w, unsigned k)
{
	struct msghdr m = { 0 };
	bool moved = false;
	ssize_t n;

	while (w->fd[k] >= 0 && (m.msg_iovlen = (size_t)pending(w, k, &m.msg_iov)) > 0) {
		m.msg_iovlen = MIN(m.msg_iovlen, (size_t)1024);
		n = sendmsg(w->fd[k], &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			lost(w, k, strerror(errno));
			break;
		}
		if (w->ini)
			iscsi_ini_tx_done(w->ini, k, (size_t)n);
		else
			raw_tx_done(w, (size_t)n);
		moved = true;
	}
	return moved;
}

static bool turn_one(struct bench_wire *w, unsigned k, bool block)
{
	bool moved = send_some(w, k);
	ssize_t n;

	if (w->closed || w->fd[k] < 0)
		return moved;
	n = recv(w->fd[k], rx_buf, sizeof(rx_buf), block && !wants_out(w, k) ? 0 : MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		lost(w, k, n ? strerror(errno) : "target closed the connection");
		return true;
	}
	if (n < 0)
		return moved;
	if (w->ini) {
		iscsi_ini_rx(w->ini, k, rx_buf, (size_t)n);
		iscsi_events(w);
	} else {
		raw_rx(w, rx_buf, (size_t)n);
	}
	if (!w->closed)
		send_some(w, k);
	return true;
}

bool bench_wire_turn(struct bench_wire *w, bool block)
{
	bool moved = false;

	if (w->timed)
		iscsi_events(w);
	for (unsigned k = 0; k < w->nfds && !w->closed; k++)
		moved |= turn_one(w, k, block && !w->timed);
	return moved;
}

void bench_wait(struct bench_wire **w, unsigned n, int ms)
{
	static struct pollfd p[BENCH_SESSIONS + INI_CONNS_MAX * 64];
	unsigned at = 0;

	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; w[i] && k < w[i]->nfds && at < ARRAY_LEN(p); k++) {
			bool open = !w[i]->closed && w[i]->fd[k] >= 0;

			ms = w[i]->timed ? MIN(ms, 20) : ms;
			p[at++] = (struct pollfd){ .fd = open ? w[i]->fd[k] : -1,
				.events = open && wants_out(w[i], k) ? POLLIN | POLLOUT : POLLIN };
		}
	poll(p, at, ms);
	at = 0;
	for (unsigned i = 0; i < n; i++) {
		if (w[i])
			w[i]->due = w[i]->timed;
		for (unsigned k = 0; w[i] && k < w[i]->nfds && at < ARRAY_LEN(p); k++)
			w[i]->due |= p[at++].revents != 0;
	}
}
