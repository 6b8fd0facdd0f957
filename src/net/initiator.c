/* SPDX-License-Identifier: BSD-3-Clause
 * Sockets of our initiator; see initiator.h. At most one receive and one send are in flight per connection. A transport is
 * told to be lost only when nothing of it is in flight, because until then the kernel may read what commands lent. */
#include "net/initiator.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "base/check.h"

enum { RX_BYTES = 256 << 10 };

struct slot {
	struct net_ini *n;
	unsigned        k;
	int             fd;             /* -1: none */
	bool            up, ending;     /* ending: to be told as lost when nothing is in flight */
	bool            rx_busy, tx_busy, dial_busy;
	struct op       rx, tx, dial;
	struct iovec    rx_iov;
	uint8_t        *rx_buf;
	char            host[256], port[16], why[512];
	struct addrinfo *all, *at;      /* addresses still to be tried: at .. */
	int             code;           /* what getaddrinfo() said */
};

struct net_ini {
	struct loop        *loop;
	struct net_ini_conf conf;
	struct iscsi_ini   *engine;
	struct timer        tick;
	struct task         turn;
	bool                queued, closing, inside;
	int                 dial_errno;
	bool                idle;       /* the last turn found nothing to do */
	void              (*closed)(void *ctx);
	void               *closed_ctx;
	struct slot         slot[INI_CONNS_MAX];
};

static void pump(struct net_ini *n);
static void try_next(struct slot *s);

static void random_bytes(void *p, size_t len)
{
	CHECK(RAND_bytes(p, (int)len) == 1);
}

void net_ini_use_url(struct net_ini_conf *c, const struct url *u, const char *name, struct iscsi_chap_user chap[2])
{
	iscsi_ini_conf_defaults(&c->ini);
	iscsi_ini_conf_level(&c->ini, u->level);
	c->host = u->host;
	c->port = u->port;
	c->ini.initiator = *u->initiator ? u->initiator : name;
	c->ini.target = *u->target ? u->target : NULL;
	random_bytes(c->ini.isid + 1, 5);
	c->ini.connections = u->connections;
	c->ini.offer.protocol_level = u->protocol;
	c->ini.offer.header_digest = c->ini.offer.require_header_digest = u->header_digest;
	c->ini.offer.data_digest = c->ini.offer.require_data_digest = u->data_digest;
	if (u->retry_set)
		c->ini.retry_ns = u->retry_s * UINT64_C(1000000000);
	if (!*u->user)
		return;
	chap[0] = (struct iscsi_chap_user){ .name = u->user, .secret = u->secret };
	c->ini.chap = &chap[0];
	if (!*u->target_secret)
		return;
	chap[1] = (struct iscsi_chap_user){ .name = *u->target_user ? u->target_user : NULL, .secret = u->target_secret };
	c->ini.mutual = &chap[1];
}

/* --- the end of a transport --- */

static void end(struct slot *s, const char *why)
{
	if (!s->ending) {
		s->ending = true;
		snprintf(s->why, sizeof(s->why), "%s", why);
		if (s->rx_busy)
			loop_cancel(s->n->loop, &s->rx);
		if (s->tx_busy)
			loop_cancel(s->n->loop, &s->tx);
		if (s->dial_busy)
			loop_cancel(s->n->loop, &s->dial);
	}
	if (s->rx_busy || s->tx_busy || s->dial_busy)
		return;
	if (s->fd >= 0) {
		loop_forget(s->n->loop, s->fd);
		if (!loop_sim_fd(s->fd))
			close(s->fd);
	}
	if (s->all)
		freeaddrinfo(s->all);
	s->all = s->at = NULL;
	s->fd = -1;
	s->up = s->ending = false;
	iscsi_ini_lost(s->n->engine, s->k, s->why);
}

/* --- receive, send --- */

static void received(struct op *op)
{
	struct slot *s = container_of(op, struct slot, rx);

	s->rx_busy = false;
	if (s->ending)
		end(s, NULL);
	else if (op->res > 0)
		iscsi_ini_rx(s->n->engine, s->k, s->rx_buf, (size_t)op->res);
	else if (op->res != -EAGAIN && op->res != -EINTR)
		end(s, op->res ? strerror(-op->res) : "closed by the target");
	pump(s->n);
}

static void receive(struct slot *s)
{
	if (s->rx_busy || !s->up || s->ending)
		return;
	s->rx_iov = (struct iovec){ s->rx_buf, s->n->conf.rx_bytes };
	s->rx = (struct op){ .kind = OP_RECV, .fd = s->fd, .iov = &s->rx_iov, .niov = 1, .done = received };
	s->rx_busy = true;
	loop_submit(s->n->loop, &s->rx);
}

static void sent(struct op *op)
{
	struct slot *s = container_of(op, struct slot, tx);

	s->tx_busy = false;
	if (op->res > 0)
		iscsi_ini_tx_done(s->n->engine, s->k, (size_t)op->res);
	if (s->ending)
		end(s, NULL);
	else if (op->res < 0 && op->res != -EAGAIN && op->res != -EINTR)
		end(s, strerror(-op->res));
	pump(s->n);
}

static void send_more(struct slot *s)
{
	struct iovec *iov;
	int niov;

	if (s->tx_busy || !s->up || s->ending)
		return;
	niov = iscsi_ini_tx(s->n->engine, s->k, &iov);
	if (niov <= 0)
		return;
	s->tx = (struct op){ .kind = OP_SEND, .fd = s->fd, .iov = iov, .niov = niov, .done = sent };
	s->tx_busy = true;
	loop_submit(s->n->loop, &s->tx);
}

/* --- dialing: name -> addresses, each tried in turn --- */

static void connected(struct op *op)
{
	struct slot *s = container_of(op, struct slot, dial);
	int one = 1;

	s->dial_busy = false;
	if (s->ending) {
		end(s, NULL);
	} else if (op->res < 0) {
		s->n->dial_errno = op->res;
		snprintf(s->why, sizeof(s->why), "cannot connect to %s port %s: %s", s->host, s->port, strerror(-op->res));
		loop_forget(s->n->loop, s->fd);
		if (!loop_sim_fd(s->fd))
			close(s->fd);
		s->fd = -1;
		try_next(s);
	} else {
		if (!loop_sim_fd(s->fd))
			setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		s->up = true;
		iscsi_ini_up(s->n->engine, s->k);
	}
	pump(s->n);
}

static int new_socket(const struct slot *s)
{
	if (s->n->conf.socket)
		return s->n->conf.socket();
	return socket(s->at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static void give_up(struct slot *s)
{
	char why[sizeof(s->why)];

	memcpy(why, s->why, sizeof(why));
	end(s, why);
}

static void try_next(struct slot *s)
{
	struct addrinfo *ai = s->at;

	if (!ai) {
		give_up(s);
		return;
	}
	s->fd = new_socket(s);
	s->at = ai->ai_next;
	if (s->fd < 0) {
		snprintf(s->why, sizeof(s->why), "cannot make a socket: %s", strerror(errno));
		give_up(s);
		return;
	}
	s->dial = (struct op){ .kind = OP_CONNECT, .fd = s->fd, .addr = ai->ai_addr, .addrlen = ai->ai_addrlen,
		.done = connected };
	s->dial_busy = true;
	loop_submit(s->n->loop, &s->dial);
}

static int resolve(struct slot *s, int flags)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags };

	return getaddrinfo(s->host, s->port, &hints, &s->all);
}

static void look_up(struct op *op)
{
	struct slot *s = container_of(op, struct slot, dial);

	s->code = resolve(s, 0);
}

static void begin_tries(struct slot *s)
{
	if (s->code) {
		s->n->dial_errno = -EHOSTUNREACH;
		snprintf(s->why, sizeof(s->why), "the name '%.64s' cannot be resolved: %s", s->host,
			gai_strerror(s->code));
		s->all = NULL;
	}
	s->at = s->all;
	try_next(s);
}

static void looked_up(struct op *op)
{
	struct slot *s = container_of(op, struct slot, dial);

	s->dial_busy = false;
	if (op->res == -ECANCELED)
		s->all = NULL;
	if (s->ending)
		end(s, NULL);
	else
		begin_tries(s);
	pump(s->n);
}

static void dial(struct slot *s, const char *address)
{
	struct net_ini *n = s->n;
	struct url to;
	struct err e;

	s->why[0] = 0;
	n->dial_errno = 0;
	if (url_parse_host(&to, *address ? address : "x", *address ? strlen(address) : 1, "3260", &e)) {
		end(s, "the target has moved to an address that makes no sense");
		return;
	}
	snprintf(s->host, sizeof(s->host), "%s", *address ? to.host : n->conf.host);
	snprintf(s->port, sizeof(s->port), "%s", *address ? to.port : n->conf.port);
	if (!s->rx_buf && !(s->rx_buf = malloc(n->conf.rx_bytes))) {
		end(s, "out of memory");
		return;
	}
	s->code = resolve(s, AI_NUMERICHOST | AI_NUMERICSERV);
	if (s->code != EAI_NONAME) {
		begin_tries(s);
		return;
	}
	s->dial = (struct op){ .kind = OP_WORK, .work = look_up, .done = looked_up };
	s->dial_busy = true;
	loop_submit(n->loop, &s->dial);
}

/* --- the engine --- */

static bool any_left(const struct net_ini *n)
{
	for (unsigned k = 0; k < INI_CONNS_MAX; k++)
		if (n->slot[k].fd >= 0 || n->slot[k].dial_busy || n->slot[k].ending)
			return true;
	return false;
}

static void release(struct net_ini *n)
{
	void (*closed)(void *) = n->closed;
	void *ctx = n->closed_ctx;

	loop_timer_clear(n->loop, &n->tick);
	iscsi_ini_free(n->engine);
	for (unsigned k = 0; k < INI_CONNS_MAX; k++)
		free(n->slot[k].rx_buf);
	free(n);
	closed(ctx);
}

static void on_event(struct net_ini *n, const struct iscsi_ini_event *ev)
{
	if (ev->kind == INI_EV_CONNECT)
		dial(&n->slot[ev->conn], ev->text);
	else if (ev->kind == INI_EV_HANGUP)
		end(&n->slot[ev->conn], ev->text);
	else
		n->conf.event(n->conf.ctx, ev);
}

static void turn(struct net_ini *n)
{
	uint64_t now = loop_now_ns(n->loop), next = iscsi_ini_tick(n->engine, now);
	struct iscsi_ini_event ev;

	n->idle = true;
	while (iscsi_ini_next(n->engine, &ev)) {
		on_event(n, &ev);
		n->idle = false;
	}
	if (!n->idle) /* what the events changed may be due */
		next = iscsi_ini_tick(n->engine, now);
	while (iscsi_ini_next(n->engine, &ev))
		on_event(n, &ev);
	for (unsigned k = 0; k < INI_CONNS_MAX; k++) {
		send_more(&n->slot[k]);
		receive(&n->slot[k]);
	}
	if (next != UINT64_MAX)
		loop_timer_set(n->loop, &n->tick, MAX(next, now + 1));
	else
		loop_timer_clear(n->loop, &n->tick);
}

/* From callbacks of the loop only. */
static void pump(struct net_ini *n)
{
	if (n->inside) /* an operation that ended at once; the turn that is under way sees what it did */
		return;
	n->inside = true;
	turn(n);
	n->inside = false;
	if (n->closing) /* every caller is at the end of a callback, but of one that may be inside its owner's */
		net_ini_kick(n);
}

static void turn_end(struct task *t)
{
	struct net_ini *n = container_of(t, struct net_ini, turn);

	n->queued = false;
	if (n->closing && n->idle && !any_left(n)) {
		release(n);
		return;
	}
	pump(n);
}

static void fire(struct timer *t)
{
	pump(container_of(t, struct net_ini, tick));
}

struct net_ini *net_ini_new(struct loop *l, const struct net_ini_conf *conf)
{
	struct net_ini *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->loop = l;
	n->conf = *conf;
	n->conf.rx_bytes = conf->rx_bytes ? conf->rx_bytes : RX_BYTES;
	if (!n->conf.ini.random)
		n->conf.ini.random = random_bytes;
	n->tick.fire = fire;
	n->turn.run = turn_end;
	for (unsigned k = 0; k < INI_CONNS_MAX; k++) {
		n->slot[k].n = n;
		n->slot[k].k = k;
		n->slot[k].fd = -1;
	}
	n->engine = iscsi_ini_new(&n->conf.ini);
	if (!n->engine) {
		free(n);
		return NULL;
	}
	net_ini_kick(n);
	return n;
}

struct iscsi_ini *net_ini_engine(struct net_ini *n)
{
	return n->engine;
}

void net_ini_kick(struct net_ini *n)
{
	if (n->queued || n->inside)
		return;
	n->queued = true;
	loop_at_turn_end(n->loop, &n->turn);
}

void net_ini_close(struct net_ini *n, void (*done)(void *ctx), void *ctx)
{
	n->closed = done;
	n->closed_ctx = ctx;
	n->closing = true;
	iscsi_ini_close(n->engine, "closed");
	net_ini_kick(n);
}

int net_ini_fd(const struct net_ini *n, unsigned k)
{
	return n->slot[k].up ? n->slot[k].fd : -1;
}

int net_ini_errno(const struct net_ini *n)
{
	return n->dial_errno;
}
