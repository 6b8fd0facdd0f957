/* SPDX-License-Identifier: BSD-3-Clause
 * The sockets of the iSNS client (iscsi/isns.h), all on the control loop: one connection to the name server, tried again
 * with growing pauses, and a port for its status inquiries and notifications, which come from its address only. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "iscsi/isns.h"
#include "net/impl.h"

enum { PEERS_MAX = 8, BUF = 8192 };
#define RETRY_MIN_NS 1000000000ull
#define RETRY_MAX_NS 60000000000ull
#define LEAVE_NS 2000000000ull

struct isns_peer {               /* a connection */
	struct list   node;      /* isns.peers; the connection to the name server is not in it */
	int           fd;
	struct isns  *engine;
	struct op     rx, tx;
	struct iovec  rx_iov, tx_iov;
	bool          rx_busy, tx_busy, dead, connecting, ended; /* ended: after dead, nobody is inside a call on it */
	struct task   end;
	uint8_t       buf[BUF];
};

static struct {
	struct loop      *loop;
	union addr        server;
	char              name[ADDR_TEXT];
	struct isns      *engine;
	struct isns_peer *main;
	struct list       peers;
	unsigned          npeers;
	int               listener;      /* -1: none */
	bool              accepting, entered;
	struct op         accept;
	struct timer      timer;
	uint64_t          retry_ns;
	uint64_t          leave_ns;      /* given up then, 0 = not leaving */
	void            (*left)(void *ctx);
	void             *left_ctx;
	char              said[400], state[400];
} is = { .listener = -1 };

static void connect_now(void);
static void peer_close(struct isns_peer *p);
static void pump(struct isns_peer *p);
static void accept_next(void);

/* --- leaving --- */

static void left(void)
{
	void (*fn)(void *ctx) = is.left;

	is.left = NULL;
	loop_timer_clear(is.loop, &is.timer);
	if (is.main)
		peer_close(is.main);
	if (fn)
		fn(is.left_ctx);
}

/* --- the port for the name server's questions --- */

static void listener_close(void)
{
	if (is.listener < 0)
		return;
	if (is.accepting) {
		loop_cancel(is.loop, &is.accept); /* accepted() closes it */
		return;
	}
	loop_forget(is.loop, is.listener);
	close(is.listener);
	is.listener = -1;
}

static bool same_host(const union addr *a, const union addr *b)
{
	uint8_t x[16], y[16];

	addr_mapped(a, x);
	addr_mapped(b, y);
	return !memcmp(x, y, 16);
}

static struct isns_peer *peer_new(int fd, struct isns *engine)
{
	struct isns_peer *p = engine ? calloc(1, sizeof(*p)) : NULL;

	if (!p)
		return NULL;
	p->fd = fd;
	p->engine = engine;
	list_init(&p->node);
	return p;
}

static void take_peer(int fd)
{
	union addr from = { 0 };
	socklen_t len = sizeof(from);
	static const uint8_t nowhere[16];

	bool ours = getpeername(fd, &from.sa, &len) == 0 && same_host(&from, &is.server) && is.npeers < PEERS_MAX;
	struct isns *engine = ours ? isns_new() : NULL;
	struct isns_peer *p = peer_new(fd, engine);
	if (!p) {
		isns_free(engine);
		close(fd);
		return;
	}
	list_add_tail(&is.peers, &p->node);
	is.npeers++;
	isns_connected(p->engine, nowhere, 0, loop_now_ns(is.loop));
	pump(p);
}

static void accepted(struct op *op)
{
	is.accepting = false;
	if (op->res >= 0)
		take_peer(op->res);
	if (is.main && !is.main->dead && !is.left && op->res != -ECANCELED)
		accept_next();
	else
		listener_close();
}

static void accept_next(void)
{
	is.accept = (struct op){ .kind = OP_ACCEPT, .fd = is.listener, .done = accepted };
	is.accepting = true;
	loop_submit(is.loop, &is.accept);
}

/* At the address through which the name server was reached. The port, 0: none to be had. */
static uint16_t listen_at(union addr a)
{
	socklen_t len = sizeof(a);

	if (is.listener >= 0)
		return 0; /* of the last connection, and still closing */
	if (a.sa.sa_family == AF_INET6)
		a.in6.sin6_port = 0;
	else
		a.in.sin_port = 0;
	int fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return 0;
	if (bind(fd, &a.sa, a.sa.sa_family == AF_INET6 ? sizeof(a.in6) : sizeof(a.in)) < 0 || listen(fd, PEERS_MAX) < 0 ||
	    getsockname(fd, &a.sa, &len) < 0) {
		close(fd);
		return 0;
	}
	is.listener = fd;
	accept_next();
	return ntohs(a.sa.sa_family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port);
}

/* --- connections --- */

static void refused(const char *why)
{
	uint64_t pause = is.retry_ns;

	is.retry_ns = MIN(MAX(is.retry_ns * 2, RETRY_MIN_NS), RETRY_MAX_NS);
	snprintf(is.state, sizeof(is.state), "%s", why);
	if (strcmp(is.said, why)) /* once, however often it is tried */
		log_warn("isns refused server=%s reason=\"%s\" (tried again until it works)", is.name, why);
	snprintf(is.said, sizeof(is.said), "%s", why);
	if (is.left)
		left();
	else if (is.entered)
		loop_timer_set(is.loop, &is.timer, loop_now_ns(is.loop) + pause);
}

static void peer_gone(struct isns_peer *p)
{
	if (p->rx_busy || p->tx_busy || !p->ended)
		return;
	loop_forget(is.loop, p->fd);
	close(p->fd);
	if (p != is.main) {
		list_del(&p->node);
		is.npeers--;
		isns_free(p->engine);
		free(p);
		return;
	}
	is.main = NULL;
	free(p);
	isns_disconnected(is.engine);
	if (!is.entered) {
		isns_free(is.engine);
		is.engine = NULL;
	}
}

static void peer_end(struct task *t)
{
	struct isns_peer *p = container_of(t, struct isns_peer, end);

	p->ended = true;
	peer_gone(p);
}

static void peer_close(struct isns_peer *p)
{
	if (p->dead)
		return;
	p->dead = true;
	if (p == is.main)
		listener_close();
	shutdown(p->fd, SHUT_RDWR);
	if (p->rx_busy)
		loop_cancel(is.loop, &p->rx);
	if (p->tx_busy)
		loop_cancel(is.loop, &p->tx);
	p->end.run = peer_end;
	loop_defer(is.loop, &p->end);
}

static void fail(struct isns_peer *p, const char *why)
{
	bool main = p == is.main && !p->dead;

	peer_close(p);
	if (main)
		refused(why);
}

static void happened(const struct isns_event *ev)
{
	if (ev->kind == ISNS_EV_REGISTERED) {
		log_info("isns registered server=%s", is.name);
		snprintf(is.state, sizeof(is.state), "registered");
		is.said[0] = 0;
		is.retry_ns = RETRY_MIN_NS;
	} else if (ev->kind == ISNS_EV_NO_DOMAIN) {
		log_warn("isns domain refused server=%s reason=\"%s\" "
			"(add the targets to it at the name server)", is.name, ev->text);
	} else if (ev->kind == ISNS_EV_CHANGED) {
		log_info("isns change server=%s node=%s", is.name, ev->text ? ev->text : "?");
	} else if (ev->kind == ISNS_EV_LEFT) {
		left();
	}
}

static void received(struct op *op);
static void sent(struct op *op);

static void move(struct isns_peer *p)
{
	const uint8_t *out;
	size_t n = isns_tx(p->engine, &out);

	if (n && !p->tx_busy) {
		p->tx_iov = (struct iovec){ (void *)out, n };
		p->tx = (struct op){ .kind = OP_SEND, .fd = p->fd, .iov = &p->tx_iov, .niov = 1, .done = sent, .ctx = p };
		p->tx_busy = true;
		loop_submit(is.loop, &p->tx);
	}
	if (!p->rx_busy && !p->tx_busy) { /* who does not take answers asks nothing */
		p->rx_iov = (struct iovec){ p->buf, sizeof(p->buf) };
		p->rx = (struct op){ .kind = OP_RECV, .fd = p->fd, .iov = &p->rx_iov, .niov = 1, .done = received, .ctx = p };
		p->rx_busy = true;
		loop_submit(is.loop, &p->rx);
	}
}

static void pump(struct isns_peer *p)
{
	struct isns_event ev;

	while (!p->dead && isns_next(p->engine, &ev)) {
		if (ev.kind == ISNS_EV_REFUSED)
			fail(p, ev.text);
		else
			happened(&ev);
	}
	if (p->dead)
		return;
	move(p);
	if (p == is.main && !is.left) {
		uint64_t next = isns_tick(p->engine, loop_now_ns(is.loop));
		if (next != UINT64_MAX)
			loop_timer_set(is.loop, &is.timer, next);
	}
}

static void received(struct op *op)
{
	struct isns_peer *p = op->ctx;

	p->rx_busy = false;
	if (p->dead) {
		peer_gone(p);
	} else if (op->res <= 0) {
		fail(p, op->res ? strerror(-op->res) : "the name server closed the connection");
	} else {
		isns_rx(p->engine, p->buf, (size_t)op->res);
		pump(p);
	}
}

static void sent(struct op *op)
{
	struct isns_peer *p = op->ctx;

	p->tx_busy = false;
	if (p->dead) {
		peer_gone(p);
	} else if (op->res < 0) {
		fail(p, strerror(-op->res));
	} else {
		isns_tx_done(p->engine, (size_t)op->res);
		pump(p);
	}
}

static void connected(struct op *op)
{
	struct isns_peer *p = op->ctx;
	union addr a = { 0 };
	socklen_t len = sizeof(a);
	uint8_t local[16];

	p->tx_busy = p->connecting = false;
	if (p->dead) {
		peer_gone(p);
		return;
	}
	if (op->res < 0 || getsockname(p->fd, &a.sa, &len) < 0) {
		fail(p, strerror(op->res < 0 ? -op->res : errno));
		return;
	}
	addr_mapped(&a, local);
	isns_connected(p->engine, local, listen_at(a), loop_now_ns(is.loop));
	pump(p);
}

static void connect_now(void)
{
	int one = 1, fd = socket(is.server.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct isns_peer *p = fd < 0 ? NULL : peer_new(fd, is.engine);

	if (!p) {
		if (fd >= 0)
			close(fd);
		refused("no socket or no memory");
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	is.main = p;
	p->tx = (struct op){ .kind = OP_CONNECT, .fd = fd, .addr = &is.server.sa, .done = connected, .ctx = p,
		.addrlen = is.server.sa.sa_family == AF_INET6 ? sizeof(is.server.in6) : sizeof(is.server.in) };
	p->tx_busy = p->connecting = true;
	loop_submit(is.loop, &p->tx);
}

static void fire(struct timer *t)
{
	uint64_t now = loop_now_ns(is.loop);

	if (is.left && now >= is.leave_ns) {
		left();
	} else if (is.main && !is.main->dead && !is.main->connecting) {
		isns_tick(is.engine, now);
		pump(is.main);
	} else if (!is.main && is.entered) {
		connect_now();
	} else {
		loop_timer_set(is.loop, t, now + RETRY_MIN_NS); /* the last connection is still ending */
	}
}

/* --- what the control thread wants --- */

static int parse_portal(const struct net_isns_portal *from, struct isns_portal *to, struct err *e)
{
	union addr a = { 0 };
	int r = addr_parse(from->addr, 3260, &a, e);

	if (r < 0)
		return r;
	addr_mapped(&a, to->addr);
	to->port = ntohs(a.sa.sa_family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port);
	to->tpgt = from->tpgt;
	return 0;
}

static int set_entity(const struct net_isns_conf *c, struct err *e)
{
	struct isns_portal *portals = calloc(c->nportals + 1, sizeof(*portals));
	struct isns_target *targets = calloc(c->ntargets + 1, sizeof(*targets));
	struct isns_entity entity = { .id = c->entity, .domain = c->domain, .portals = portals, .nportals = c->nportals,
		.targets = targets, .ntargets = c->ntargets };
	int r = portals && targets ? 0 : -ENOMEM;

	for (unsigned i = 0; r == 0 && i < c->nportals; i++)
		r = parse_portal(&c->portals[i], &portals[i], e);
	for (unsigned i = 0; r == 0 && i < c->ntargets; i++)
		targets[i] = (struct isns_target){ c->targets[i].name, c->targets[i].alias, c->targets[i].tpgts,
			c->targets[i].ntpgts };
	if (r == 0)
		r = isns_set(is.engine, &entity);
	free(portals);
	free(targets);
	return r < 0 && r != -EINVAL ? err_set(e, r, "out of memory") : r;
}

int net_isns_set(const struct net_isns_conf *c, struct err *e)
{
	union addr server = { 0 };

	is.loop = net.control;
	if (!is.timer.fire) {
		list_init(&is.peers);
		is.timer.fire = fire;
	}
	int r = addr_parse(c->server, ISNS_PORT, &server, e);
	if (r < 0)
		return r;
	char name[ADDR_TEXT];
	addr_text(&server, name);
	bool moved = is.entered && strcmp(name, is.name);
	if (!is.engine)
		is.engine = isns_new();
	if (!is.engine)
		return err_set(e, -ENOMEM, "out of memory");
	is.server = server;
	addr_text(&is.server, is.name);
	r = set_entity(c, e);
	if (r < 0)
		return r;
	if (moved && is.main)
		peer_close(is.main);
	is.entered = true;
	is.left = NULL;
	if (!is.main || moved) {
		is.retry_ns = RETRY_MIN_NS;
		loop_timer_set(is.loop, &is.timer, loop_now_ns(is.loop));
	} else if (!is.main->connecting && !is.main->dead) {
		pump(is.main);
	}
	return 0;
}

void net_isns_leave(void (*done)(void *ctx), void *ctx)
{
	struct isns_peer *p, *tmp;

	if (!is.entered) {
		done(ctx);
		return;
	}
	is.entered = false;
	list_for_each_safe(p, tmp, &is.peers, node)
		peer_close(p);
	is.left = done;
	is.left_ctx = ctx;
	is.leave_ns = loop_now_ns(is.loop) + LEAVE_NS;
	loop_timer_set(is.loop, &is.timer, is.leave_ns);
	if (!is.main || is.main->connecting) {
		left();
		return;
	}
	isns_leave(is.engine);
	pump(is.main);
}

const char *net_isns_state(void)
{
	return is.entered ? is.state[0] ? is.state : "connecting" : NULL;
}
