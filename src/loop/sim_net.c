/* SPDX-License-Identifier: BSD-3-Clause
 * The simulated network: streams of bytes between pairs of sockets, with delay, fragmentation, bounded
 * windows, resets, half-closes and silence. Transfers happen when an operation ends, not when it begins, so
 * that a buffer which changes in between is caught. */
#include "loop/sim_internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"

enum { SOCK_FRESH, SOCK_CONNECTING, SOCK_OPEN, SOCK_LISTEN, SOCK_CLOSED };
enum { SYSCALL_NS = 20000 }; /* from when an operation can be done to when it is */

struct sim_sock {
	int      fd, state;
	uint16_t port;
	struct sim_sock *peer, *listener;
	struct list rx_ops, tx_ops;  /* op.node: receive, accept, poll | send, connect */
	bool     rx_soon, tx_soon;   /* an attempt is under way */
	uint8_t *buf;                /* arrived and not read: buf[head .. head+len) */
	size_t   head, len, room;
	size_t   flying;             /* bytes on the way here */
	uint64_t last_arrival_ns;    /* order is kept */
	bool     eof, reset, silent, fin_sent;
	bool     flip;               /* one bit of what arrives next is wrong */
	bool     dead;               /* its process is gone: what it still sends reaches nobody */
	struct list backlog, node;   /* of a listener; place in it */
};

/* Something on its way to a socket: bytes, the end of the stream, or a reset. */
struct flight {
	struct sim_sock *to;
	bool    fin, reset;
	size_t  len;
	uint8_t bytes[];
};

void sim_net_conf(const struct sim_net_conf *c)
{
	sim->net = *c;
}

static struct sim_sock *sock_new(int state)
{
	struct sim_sock *s = calloc(1, sizeof(*s));
	CHECK(s);
	s->state = state;
	list_init(&s->rx_ops);
	list_init(&s->tx_ops);
	list_init(&s->backlog);
	list_init(&s->node);
	s->fd = sim_fd_new(s, NULL);
	return s;
}

void sim_sock_free(struct sim_sock *s)
{
	if (!s)
		return;
	free(s->buf);
	free(s);
}

int sim_listen(uint16_t port)
{
	struct sim_sock *s = sock_new(SOCK_LISTEN);
	s->port = port;
	return s->fd;
}

int sim_socket(void)
{
	return sock_new(SOCK_FRESH)->fd;
}

/* --- attempts --- */

static void pump(struct sim_sock *s);

static bool readable(const struct sim_sock *s)
{
	if (s->state == SOCK_LISTEN)
		return !list_empty(&s->backlog);
	return s->len || s->eof || s->reset || s->state == SOCK_CLOSED;
}

static size_t window_left(const struct sim_sock *s)
{
	size_t used = s->peer ? s->peer->len + s->peer->flying : 0;
	return sim->net.window_bytes > used ? sim->net.window_bytes - used : 0;
}

static bool writable(const struct sim_sock *s)
{
	if (s->state == SOCK_CONNECTING)
		return false;
	return s->state != SOCK_OPEN || s->reset || s->fin_sent || window_left(s);
}

static size_t some_of(size_t n)
{
	return n > 1 && sim_chance(sim->net.short_pct) ? 1 + sim_random(n) : n;
}

static size_t iov_bytes(const struct op *op)
{
	size_t n = 0;
	for (int i = 0; i < op->niov; i++)
		n += op->iov[i].iov_len;
	return n;
}

static int receive(struct sim_sock *s, struct op *op)
{
	if (s->reset || s->state != SOCK_OPEN)
		return -ECONNRESET;
	size_t n = some_of(MIN(s->len, iov_bytes(op))), left = n;
	for (int i = 0; i < op->niov && left; i++) {
		size_t part = MIN(left, op->iov[i].iov_len);
		memcpy(op->iov[i].iov_base, s->buf + s->head, part);
		s->head += part;
		s->len -= part;
		left -= part;
	}
	if (!s->len)
		s->head = 0;
	if (s->peer)
		pump(s->peer); /* its window opened */
	return (int)n;
}

static int accept_one(struct sim_sock *s)
{
	if (sim_chance(sim->net.accept_fail_pct))
		return -EMFILE;
	struct sim_sock *c = list_first(&s->backlog, struct sim_sock, node);
	list_del(&c->node);
	return c->fd;
}

static void rx_attempt(void *ctx)
{
	struct sim_sock *s = ctx;
	s->rx_soon = false;
	if (list_empty(&s->rx_ops) || !readable(s))
		return;
	struct op *op = list_first(&s->rx_ops, struct op, node);
	list_del(&op->node);
	int res = op->kind == OP_POLL ? 1 : s->state == SOCK_LISTEN ? accept_one(s) : receive(s, op);
	sim_op_end(op, res);
	pump(s);
}

/* --- flights --- */

static void room_for(struct sim_sock *s, size_t n)
{
	if (s->head + s->len + n <= s->room)
		return;
	if (s->len)
		memmove(s->buf, s->buf + s->head, s->len);
	s->head = 0;
	if (s->len + n > s->room) {
		s->room = 2 * (s->len + n);
		s->buf = realloc(s->buf, s->room);
		CHECK(s->buf);
	}
}

static void arrive(void *ctx);

static struct flight *flight_new(size_t len)
{
	struct flight *f = calloc(1, sizeof(*f) + len);
	CHECK(f);
	f->len = len;
	return f;
}

/* A reset overtakes what is on the way. */
static void send_reset(struct sim_sock *to)
{
	struct flight *f = flight_new(0);
	f->reset = true;
	f->to = to;
	sim_after(1 + sim_random(sim->net.latency_ns + sim->net.jitter_ns + 1), arrive, f);
}

static void deliver(struct sim_sock *s, struct flight *f)
{
	sim_note((uint64_t)s->fd << 32 ^ (f->len ? crc32c(0, f->bytes, f->len) : f->reset));
	s->flying -= f->len;
	if (s->state != SOCK_OPEN && f->len && s->peer) {
		send_reset(s->peer); /* nobody listens here any more */
		return;
	}
	if (f->len) {
		if (s->flip)
			f->bytes[sim_random(f->len)] ^= (uint8_t)(1u << sim_random(8));
		s->flip = false;
		room_for(s, f->len);
		memcpy(s->buf + s->head + s->len, f->bytes, f->len);
		s->len += f->len;
	}
	s->eof |= f->fin;
	s->reset |= f->reset;
	pump(s);
}

static void arrive(void *ctx)
{
	struct flight *f = ctx;
	if (!f->to->silent)
		deliver(f->to, f);
	free(f);
}

void sim_flight_discard(const struct sim_event *e)
{
	if (e->fire == arrive)
		free(e->ctx);
}

static void flight_send(struct sim_sock *to, struct flight *f)
{
	uint64_t at = sim->now_ns + sim->net.latency_ns + sim_random(sim->net.jitter_ns + 1);
	at = MAX(at, to->last_arrival_ns);
	to->last_arrival_ns = at;
	to->flying += f->len;
	f->to = to;
	sim_after(at - sim->now_ns, arrive, f);
}

static void iov_copy(uint8_t *to, const struct op *op, size_t skip, size_t len)
{
	for (int i = 0; i < op->niov && len; i++) {
		size_t part = op->iov[i].iov_len;
		if (skip >= part) {
			skip -= part;
			continue;
		}
		part = MIN(part - skip, len);
		memcpy(to, (uint8_t *)op->iov[i].iov_base + skip, part);
		to += part;
		len -= part;
		skip = 0;
	}
}

static int transmit(struct sim_sock *s, struct op *op)
{
	if (s->state != SOCK_OPEN || s->reset || s->fin_sent)
		return s->reset && sim_chance(50) ? -ECONNRESET : -EPIPE;
	size_t n = some_of(MIN(window_left(s), iov_bytes(op)));
	for (size_t at = 0, part; at < n && !s->dead; at += part) {
		part = 1 + sim_random(sim->net.segment_bytes);
		part = MIN(part, n - at);
		struct flight *f = flight_new(part);
		iov_copy(f->bytes, op, at, part);
		flight_send(s->peer, f);
	}
	return (int)n;
}

static void tx_attempt(void *ctx)
{
	struct sim_sock *s = ctx;
	s->tx_soon = false;
	if (list_empty(&s->tx_ops) || !writable(s))
		return;
	struct op *op = list_first(&s->tx_ops, struct op, node);
	list_del(&op->node);
	sim_op_end(op, transmit(s, op));
	pump(s);
}

/* Starts what can be done now. */
static void pump(struct sim_sock *s)
{
	if (!s->rx_soon && !list_empty(&s->rx_ops) && readable(s)) {
		s->rx_soon = true;
		sim_after(1 + sim_random(SYSCALL_NS), rx_attempt, s);
	}
	if (!s->tx_soon && !list_empty(&s->tx_ops) && writable(s)) {
		s->tx_soon = true;
		sim_after(1 + sim_random(SYSCALL_NS), tx_attempt, s);
	}
}

/* --- connecting --- */

static struct sim_sock *listener_of(uint16_t port)
{
	for (unsigned i = 0; i < sim->nfd; i++) {
		struct sim_sock *s = sim->fd[i].sock;
		if (s && s->state == SOCK_LISTEN && s->port == port)
			return s;
	}
	return NULL;
}

static void connect_end(void *ctx)
{
	struct sim_sock *s = ctx;
	if (s->state != SOCK_CONNECTING || list_empty(&s->tx_ops))
		return;
	struct op *op = list_first(&s->tx_ops, struct op, node);
	struct sim_sock *l = listener_of(s->port);
	list_del(&op->node);
	if (!l) {
		s->state = SOCK_FRESH;
		sim_op_end(op, -ECONNREFUSED);
		return;
	}
	struct sim_sock *c = sock_new(SOCK_OPEN);
	c->peer = s;
	c->listener = l;
	s->peer = c;
	s->state = SOCK_OPEN;
	list_add_tail(&l->backlog, &c->node);
	sim_op_end(op, 0);
	pump(l);
}

static void connect_begin(struct sim_sock *s, struct op *op)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)op->addr;
	s->port = ntohs(in->sin_port);
	s->state = SOCK_CONNECTING;
	list_add_tail(&s->tx_ops, &op->node);
	sim_after(2 * sim->net.latency_ns + sim_random(sim->net.jitter_ns + 1), connect_end, s);
}

void sim_sock_submit(struct op *op)
{
	struct sim_sock *s = sim_sock_of(op->fd);
	if (op->kind == OP_CONNECT) {
		connect_begin(s, op);
		return;
	}
	list_add_tail(op->kind == OP_SEND ? &s->tx_ops : &s->rx_ops, &op->node);
	pump(s);
}

/* An operation that already ended is in no list: its result stands. */
void sim_sock_cancel(struct op *op)
{
	if (list_empty(&op->node))
		return;
	list_del(&op->node);
	sim_op_end(op, -ECANCELED);
}

/* --- ends --- */

static void send_fin(struct sim_sock *s)
{
	if (s->fin_sent || !s->peer || s->state != SOCK_OPEN)
		return;
	s->fin_sent = true;
	struct flight *f = flight_new(0);
	f->fin = true;
	flight_send(s->peer, f);
}

static void sock_close(struct sim_sock *s)
{
	if (s->state == SOCK_OPEN && s->peer && s->len)
		send_reset(s->peer); /* unread bytes, as TCP does it */
	else
		send_fin(s);
	s->state = SOCK_CLOSED;
	s->len = 0;
	list_del(&s->node);
	while (!list_empty(&s->backlog)) {
		struct sim_sock *c = list_first(&s->backlog, struct sim_sock, node);
		send_reset(c->peer);
		sock_close(c);
	}
	pump(s); /* what still waits ends */
}

void sim_close(int fd)
{
	struct sim_sock *s = sim_sock_of(fd);
	if (s && s->state != SOCK_CLOSED)
		sock_close(s);
}

void sim_flip(int fd, bool near)
{
	struct sim_sock *s = sim_sock_of(fd);

	if (s && s->state == SOCK_OPEN && s->peer)
		*(near ? &s->flip : &s->peer->flip) = true;
}

void sim_cut(int fd, enum sim_cut how)
{
	struct sim_sock *s = sim_sock_of(fd);
	if (!s || s->state != SOCK_OPEN)
		return;
	sim_note((uint64_t)fd << 8 | how);
	if (how == SIM_FIN) {
		send_fin(s);
	} else if (how == SIM_RESET) {
		send_reset(s);
		send_reset(s->peer);
	} else {
		s->silent = s->peer->silent = true;
	}
}

void sim_kill_listener(int fd)
{
	struct sim_sock *l = sim_sock_of(fd);
	for (unsigned i = 0; i < sim->nfd; i++) {
		struct sim_sock *s = sim->fd[i].sock;
		if (!s || s->listener != l || s->state != SOCK_OPEN)
			continue;
		s->dead = true;
		sim_cut(s->fd, SIM_RESET);
	}
	sock_close(l);
}
