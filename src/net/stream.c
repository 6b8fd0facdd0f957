/* SPDX-License-Identifier: BSD-3-Clause
 * One TCP connection: socket <-> engine. At most one receive and one send are in flight. What a turn produced is
 * gathered when the turn ends and leaves as one send.
 *
 * End of life: kill -> both operations have ended -> engine freed -> the session's nexus closed (its commands have
 * ended) -> home forgets the session, and the connection is freed there. A connection whose question is with
 * home waits for the answer first. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "base/check.h"
#include "base/log.h"
#include "net/impl.h"

#define TICK_NS 1000000000ull /* idle connections are looked at together, so that a thousand wake the loop once a second */
enum { SNDBUF_RTT_US = 2000 }; /* paths longer than this keep the kernel's own send buffer sizing */

static void random_bytes(void *p, size_t n)
{
	CHECK(RAND_bytes(p, (int)n) == 1);
}

static void finish(struct net_conn *c);
static void go_join(struct net_conn *c);

static struct net_loop *loop_of(const struct net_conn *c)
{
	return &net.loops[loop_index(c->loop)];
}

/* --- receive --- */

static void received(struct op *op);

static void receive(struct net_conn *c)
{
	if (c->rx_busy || c->dead)
		return;
	int n = iscsi_rx_want(c->engine, c->iov, RX_IOV);
	if (!n)
		return;
	c->rx.kind = OP_RECV;
	c->rx.flags = iscsi_rx_bulk(c->engine) ? OP_BULK : 0;
	c->rx.fd = c->fd;
	c->rx.iov = c->iov;
	c->rx.niov = n;
	c->rx.done = received;
	c->rx_busy = true;
	loop_submit(c->loop, &c->rx);
}

static void received(struct op *op)
{
	struct net_conn *c = container_of(op, struct net_conn, rx);

	c->rx_busy = false;
	if (c->dead) {
		finish(c);
		return;
	}
	if (op->res <= 0) {
		if (op->res == -EAGAIN || op->res == -EINTR)
			receive(c);
		else
			stream_kill(c, op->res ? strerror(-op->res) : "closed by the peer");
		return;
	}
	iscsi_tick(c->engine, loop_now_ns(c->loop), true); /* only tells the time: the peer has just been heard */
	iscsi_rx(c->engine, (size_t)op->res);
	stream_pump(c);
}

/* --- send --- */

static void sent(struct op *op);

/* Who guesses secrets is answered late. */
static bool answer_waits(struct net_conn *c)
{
	if (!c->delay_ns)
		return false;
	const struct iscsi_login *l = iscsi_conn_login(c->engine);
	if (!l || !iscsi_login_bad_secret(l))
		return false;
	if (!c->answer_ns) {
		c->answer_ns = loop_now_ns(c->loop) + c->delay_ns;
		loop_timer_set(c->loop, &c->timer, c->answer_ns);
	}
	return loop_now_ns(c->loop) < c->answer_ns;
}

static void send_more(struct net_conn *c)
{
	struct iovec *iov;

	if (c->tx_busy || c->dead || answer_waits(c))
		return;
	int n = iscsi_tx(c->engine, &iov);
	if (!n)
		return;
	c->tx.kind = OP_SEND;
	c->tx.fd = c->fd;
	c->tx.iov = iov;
	c->tx.niov = n;
	c->tx.done = sent;
	c->tx_busy = true;
	loop_submit(c->loop, &c->tx);
}

static void sent(struct op *op)
{
	struct net_conn *c = container_of(op, struct net_conn, tx);

	c->tx_busy = false;
	if (c->dead) {
		finish(c);
		return;
	}
	if (op->res < 0 && op->res != -EAGAIN && op->res != -EINTR) {
		stream_kill(c, strerror(-op->res));
		return;
	}
	if (op->res > 0)
		iscsi_tx_done(c->engine, (size_t)op->res);
	if (c->moving)
		go_join(c);
	else
		stream_pump(c);
}

static void turn_end(struct task *t)
{
	struct net_conn *c = container_of(t, struct net_conn, turn_end);

	c->queued = false;
	if (c->dead) {
		finish(c);
		return;
	}
	if (c->moving) {
		go_join(c);
		return;
	}
	send_more(c);
	stream_pump(c);
}

static void wake(void *user)
{
	struct net_conn *c = user;

	if (!c->queued) {
		c->queued = true;
		loop_at_turn_end(c->loop, &c->turn_end);
	}
}

/* --- events --- */

static void full_feature(struct net_conn *c)
{
	const struct iscsi_params *p = iscsi_conn_params(c->engine);
	const char *user = iscsi_login_user(iscsi_conn_login(c->engine));

	loop_of(c)->logins_ok++;
	if (user && !c->session->user[0]) /* not again when another joins: home reads it */
		snprintf(c->session->user, sizeof(c->session->user), "%s", user);
	log_info("login peer=%s initiator=%s target=%s user=%s%s tsih=%u loop=%u", c->peer_text, p->initiator,
		p->discovery ? "(discovery)" : p->target, user ? user : "-",
		iscsi_login_previous(iscsi_conn_login(c->engine)) ? " secret=previous" : "",
		c->session ? c->session->tsih : 0, loop_index(c->loop));
	iscsi_conn_login_done(c->engine);
}

static void log_close(struct net_conn *c, const char *why)
{
	const struct iscsi_login *l = iscsi_conn_login(c->engine);

	if (!iscsi_conn_session(c->engine)) {
		const struct iscsi_params *p = iscsi_login_params(l);
		loop_of(c)->logins_refused++;
		c->refused = true;
		c->bad_secret = iscsi_login_bad_secret(l);
		if (!c->hush)
			log_warn("login refused peer=%s initiator=%s target=%s reason=\"%s\"", c->peer_text, p->initiator,
			p->discovery ? "(discovery)" : p->target, why ? why : "?");
	} else if (why && !strstr(why, "closed by the peer")) {
		const struct iscsi_params *p = iscsi_conn_params(c->engine);
		if (strstr(why, "digest"))
			loop_of(c)->digest_errors++;
		log_warn("connection closed peer=%s initiator=%s reason=\"%s\"", c->peer_text, p->initiator, why);
	}
}

/* The other connections of the session. */
static void kill_others(struct net_conn *c, const char *why)
{
	struct net_conn *o, *tmp;

	list_for_each_safe(o, tmp, &c->session->conns, in_session)
		if (o != c)
			stream_kill(o, why);
}

/* Every connection of the target ends (SAM-5 hard reset); this one when its response is out. */
static void cold_reset(struct net_conn *c)
{
	iscsi_conn_deafen(c->engine);
	c->cold = c->msg.pending; /* one question at a time: again from stream_pump() */
	if (c->cold)
		return;
	c->draining = true;
	iscsi_session_close(c->session->iscsi);
	kill_others(c, "target reset");
	home_ask(c, MSG_COLD_RESET, NULL);
}

static void tick(struct timer *t);

void stream_tick(struct net_conn *c)
{
	tick(&c->timer);
}

static void handle(struct net_conn *c, const struct iscsi_event *ev)
{
	switch (ev->kind) {
	case ISCSI_EV_POLICY:
		home_ask(c, MSG_POLICY, NULL);
		break;
	case ISCSI_EV_ADMIT:
		home_ask(c, MSG_ADMIT, NULL);
		break;
	case ISCSI_EV_SEND_TARGETS:
		if (!c->msg.pending)
			home_ask(c, MSG_TARGETS, ev->text);
		break;
	case ISCSI_EV_FULL_FEATURE:
		full_feature(c);
		break;
	case ISCSI_EV_COLD_RESET:
		cold_reset(c);
		break;
	case ISCSI_EV_NEXUS_RESET: /* when its response is out */
		iscsi_conn_deafen(c->engine);
		c->draining = true;
		iscsi_session_close(c->session->iscsi);
		kill_others(c, "I_T nexus reset");
		break;
	case ISCSI_EV_TICK:
		tick(&c->timer);
		break;
	case ISCSI_EV_LOGOUT:
		if (iscsi_session_logged_out(c->session->iscsi))
			kill_others(c, NULL);
		stream_kill(c, NULL);
		break;
	case ISCSI_EV_CLOSE:
		stream_kill(c, ev->text);
		break;
	case ISCSI_EV_NONE:
		break;
	}
}

static void tick(struct timer *t)
{
	struct net_conn *c = container_of(t, struct net_conn, timer);
	uint64_t now = loop_now_ns(c->loop), next = iscsi_tick(c->engine, now, loop_stalled(c->loop));

	leave_tick(c);
	if (c->dead)
		return;
	if (next != UINT64_MAX)
		next = (next / TICK_NS + 1) * TICK_NS;
	if (c->end_ns)
		next = MIN(next, c->end_ns);
	if (c->answer_ns > now)
		next = MIN(next, c->answer_ns);
	if (next != UINT64_MAX)
		loop_timer_set(c->loop, &c->timer, next);
	stream_pump(c);
}

void stream_pump(struct net_conn *c)
{
	struct iscsi_event ev;

	while (!c->dead && iscsi_next(c->engine, &ev))
		handle(c, &ev);
	if (c->dead)
		return;
	if (c->cold)
		cold_reset(c);
	receive(c);
	if (!c->tx_busy && iscsi_tx_pending(c->engine) && !answer_waits(c))
		wake(c);
	if ((c->draining || c->leave == LEAVE_QUIESCED) && !c->msg.pending && iscsi_conn_idle(c->engine)) {
		if (c->draining)
			stream_kill(c, NULL);
		else
			leave_idle(c);
	}
}

/* --- life --- */

/* Data that initiators may send unasked is FirstBurstLength for each command of each window: the windows are opened
 * as far as the budget covers that, in powers of two so that a login seldom moves them. */
static void balance_windows(struct net_loop *nl, uint32_t first_burst)
{
	uint64_t each = net.budget / ((nl->nsessions + 1) * (uint64_t)MAX(first_burst, 4096u));
	uint32_t w = WINDOW_MAX;
	struct net_session *s;

	while (w > WINDOW_MIN && w > each)
		w /= 2;
	if (w == nl->window)
		return;
	nl->window = w;
	list_for_each(s, &nl->sessions, on_loop)
		if (s->iscsi)
			iscsi_session_window(s->iscsi, w);
}

/* Payload that waits in the socket should still be in cache when it leaves: on short paths the buffer is
 * bounded. A long path needs more than any constant, there the kernel sizes it by what is in flight. */
static void tune_socket(struct net_conn *c)
{
	int one = 1, bytes = SNDBUF_BYTES; /* the kernel doubles it for its own needs */
	struct tcp_info info;
	socklen_t len = sizeof(info);

	if (loop_sim_fd(c->fd))
		return;
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_rtt < SNDBUF_RTT_US)
		setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	len = sizeof(c->local);
	getsockname(c->fd, &c->local.sa, &len);
	addr_text(&c->local, c->local_text);
	addr_text(&c->peer, c->peer_text);
}

void stream_start(struct net_conn *c)
{
	static const struct iscsi_host host = { .wake = wake, .random = random_bytes };
	struct net_loop *nl = loop_of(c);

	list_add_tail(&nl->conns, &c->node);
	nl->nconns++;
	tune_socket(c);
	c->since_ns = loop_now_ns(c->loop);
	c->turn_end.run = turn_end;
	c->timer.fire = tick;
	c->engine = iscsi_conn_new(nl->pool, &host, c);
	if (!c->engine) {
		log_error("connection refused peer=%s reason=\"out of memory\"", c->peer_text);
		c->dead = true;
		finish(c);
		return;
	}
	tick(&c->timer);
}

static void session_check(struct net_session *s);

/* From now on nothing of a connection outlives it. */
void stream_session_close(struct net_session *s)
{
	if (s->iscsi)
		iscsi_session_close(s->iscsi);
	session_check(s);
}

void stream_session_ask_logout(struct net_session *s)
{
	struct net_conn *c, *tmp;

	list_for_each_safe(c, tmp, &s->conns, in_session)
		leave_ask(c, true, "target removed");
	stream_session_close(s);
}

void stream_session_drop(struct net_session *s, const char *why)
{
	struct net_conn *c, *tmp;

	list_for_each_safe(c, tmp, &s->conns, in_session)
		leave_drop(c, true, why);
	stream_session_close(s);
}

void stream_session_kill(struct net_session *s, const char *why)
{
	struct net_conn *c, *tmp;

	list_for_each_safe(c, tmp, &s->conns, in_session)
		stream_kill(c, why);
	stream_session_close(s);
}

/* Not called from inside the engine. why NULL: in good order. */
void stream_kill(struct net_conn *c, const char *why)
{
	if (c->dead)
		return;
	if (why)
		log_close(c, why);
	c->dead = true;
	loop_timer_clear(c->loop, &c->timer);
	if (!loop_sim_fd(c->fd))
		shutdown(c->fd, SHUT_RDWR);
	if (c->rx_busy)
		loop_cancel(c->loop, &c->rx);
	if (c->tx_busy)
		loop_cancel(c->loop, &c->tx);
	if (!c->queued) { /* finish() from the queue: callers still use c */
		c->queued = true;
		loop_at_turn_end(c->loop, &c->turn_end);
	}
}

static void nexus_gone(void *ctx)
{
	struct net_session *s = ctx;

	iscsi_session_free(s->iscsi);
	s->iscsi = NULL;
	list_del(&s->on_loop);
	net.loops[loop_index(s->loop)].nsessions--;
	loop_post(net.home, &s->end);
}

/* Whether the initiator may still come back to a session that has no connection (level 2): so many of a loop, and no
 * longer than was agreed. */
static bool session_waits(struct net_session *s)
{
	struct net_loop *nl = &net.loops[loop_index(s->loop)];
	uint64_t now = loop_now_ns(s->loop), next = s->iscsi ? iscsi_session_tick(s->iscsi, now) : UINT64_MAX;
	bool idle = list_empty(&s->conns) && list_empty(&s->joiners);

	if (next != UINT64_MAX && idle && !s->waiting && nl->nwaiting == WAITING_MAX) {
		iscsi_session_close(s->iscsi);
		next = UINT64_MAX;
	}
	bool waiting = next != UINT64_MAX && idle;
	nl->nwaiting += waiting - s->waiting;
	if (waiting && !s->waiting)
		log_info("session waits for a connection initiator=%s tsih=%u", s->initiator, s->tsih);
	s->waiting = waiting;
	if (next == UINT64_MAX)
		loop_timer_clear(s->loop, &s->lost);
	else
		loop_timer_set(s->loop, &s->lost, next);
	return waiting || !idle;
}

/* Ends the session when nobody uses it or may come back to it. */
static void session_check(struct net_session *s)
{
	if (s->ending || session_waits(s))
		return;
	s->ending = true;
	if (s->nexus)
		scsi_nexus_close(s->nexus, nexus_gone, s);
	else
		nexus_gone(s);
}

static void lost_expired(struct timer *t)
{
	session_check(container_of(t, struct net_session, lost));
}

static void run_release(struct task *t)
{
	home_conn_ended(container_of(t, struct net_conn, release));
}

static void join(struct net_conn *c);

/* Logins that waited for the end of a connection. */
static void join_next(struct net_session *s)
{
	struct list waiting;

	list_init(&waiting);
	list_splice_tail(&waiting, &s->joiners);
	while (!list_empty(&waiting)) {
		struct net_conn *c = list_first(&waiting, struct net_conn, in_session);
		list_del(&c->in_session);
		join(c);
	}
}

static void finish(struct net_conn *c)
{
	struct net_session *s = c->session;

	if (c->rx_busy || c->tx_busy || c->queued || c->msg.pending)
		return;
	if (!s && c->to_join && !c->moving && c->loop == c->msg.session->loop)
		s = c->msg.session; /* it waited there for another */
	iscsi_conn_free(c->engine);
	loop_forget(c->loop, c->fd);
	if (!loop_sim_fd(c->fd))
		close(c->fd);
	list_del(&c->node);
	list_del(&c->in_session);
	loop_of(c)->nconns--;
	if (s) {
		join_next(s);
		session_check(s);
	}
	c->release.run = run_release;
	loop_post(net.home, &c->release); /* last: a session that c was to join lives until then */
}

/* --- answers of home --- */

void stream_policy(struct net_conn *c)
{
	c->rules = c->msg.rules;
	if (c->dead) {
		finish(c);
		return;
	}
	struct iscsi_login_policy p = { .status = c->msg.status };
	if (c->rules)
		p = c->rules->policy;
	if (c->msg.moved && c->rules) {
		p.status = c->msg.moved;
		p.redirect = c->msg.address;
	}
	p.why = c->msg.why;
	p.now_s = time(NULL);
	c->delay_ns = c->msg.delay_ns;
	p.tpgt = c->tpgt; /* of the portal that was reached, not of the target */
	iscsi_conn_policy(c->engine, &p);
	stream_pump(c);
}

/* By which other sessions of the initiator are known as its own: its CHAP user; where none is asked for, its address. */
static int vouch(struct net_conn *c, struct scsi_nexus *n)
{
	const char *user = iscsi_login_user(iscsi_conn_login(c->engine)), *port = strrchr(c->peer_text, ':');
	char text[2 * LIM_ISCSI_NAME];

	if (user)
		snprintf(text, sizeof(text), "user %s", user);
	else
		snprintf(text, sizeof(text), "address %.*s", port ? (int)(port - c->peer_text) : 0, c->peer_text);
	return scsi_nexus_principal(n, text);
}

static uint16_t make_session(struct net_conn *c, struct net_session *s)
{
	const struct iscsi_login *l = iscsi_conn_login(c->engine);
	const struct iscsi_params *p = iscsi_login_params(l);

	c->session = s;
	s->lost.fire = lost_expired;
	s->since_ns = loop_now_ns(c->loop);
	list_add_tail(&s->conns, &c->in_session);
	list_add_tail(&loop_of(c)->sessions, &s->on_loop);
	loop_of(c)->nsessions++;
	if (c->msg.device) {
		s->nexus = scsi_nexus_new(c->msg.device, c->loop, p->initiator, iscsi_login_isid(l), c->tpgt);
		if (!s->nexus || vouch(c, s->nexus))
			return LOGIN_NO_RESOURCES;
	}
	balance_windows(loop_of(c), p->first_burst);
	s->iscsi = iscsi_session_new(s->nexus, p, s->tsih, iscsi_login_cmd_sn(l), loop_of(c)->window);
	return s->iscsi ? 0 : LOGIN_NO_RESOURCES;
}

/* --- joining a session: on the loop of the connection, then on that of the session --- */

static void join(struct net_conn *c)
{
	struct net_session *s = c->msg.session;
	uint16_t status = LOGIN_NO_SESSION, cid = iscsi_login_cid(iscsi_conn_login(c->engine));
	bool open = s->iscsi && !s->ending && !iscsi_session_closing(s->iscsi);
	struct net_conn *old = open ? iscsi_session_conn(s->iscsi, cid) : NULL;

	if (c->dead)
		return; /* finish() is on its way */
	if (old) {
		list_add_tail(&s->joiners, &c->in_session);
		if (!old->dead)
			iscsi_conn_reinstated(old->engine);
		stream_kill(old, "reinstated by a login with its CID");
		return;
	}
	if (open)
		status = iscsi_session_room(s->iscsi) ? 0 : LOGIN_TOO_MANY_CONNS;
	if (!status) {
		c->session = s;
		list_add_tail(&s->conns, &c->in_session);
	} else if (open) {
		session_check(s);
	}
	c->to_join = false;
	c->joined.run = home_joined;
	loop_post(net.home, &c->joined);
	iscsi_conn_admit(c->engine, status, status ? NULL : s->iscsi);
	if (!status)
		session_check(s);
	stream_pump(c);
}

static void run_arrive(struct task *t)
{
	struct net_conn *c = container_of(t, struct net_conn, start);

	list_add_tail(&loop_of(c)->conns, &c->node);
	loop_of(c)->nconns++;
	iscsi_conn_arrived(c->engine);
	tick(&c->timer);
	if (!c->dead)
		join(c);
}

/* Nothing must be in flight on the loop that it leaves. */
static void go_join(struct net_conn *c)
{
	c->moving = c->loop != c->msg.session->loop;
	if (!c->moving) {
		join(c);
		return;
	}
	if (c->rx_busy || c->queued || c->dead)
		return;
	send_more(c); /* what is left of the last response; or gives back what sent it */
	if (c->tx_busy)
		return;
	c->moving = false;
	loop_timer_clear(c->loop, &c->timer);
	if (!loop_sim_fd(c->fd)) /* there it would close it */
		loop_forget(c->loop, c->fd);
	list_del(&c->node);
	loop_of(c)->nconns--;
	c->loop = c->msg.session->loop;
	iscsi_conn_move(c->engine, loop_of(c)->pool);
	c->start.run = run_arrive;
	loop_post(c->loop, &c->start);
}

void stream_admit(struct net_conn *c)
{
	struct net_session *s = c->msg.session;
	uint16_t status = c->msg.status;

	c->to_join = c->msg.join;
	c->moving = c->to_join && c->loop != s->loop;
	if (s && c->dead && !c->to_join) {
		s->ending = true; /* a kill may be on its way to it */
		loop_post(net.home, &s->end);
	}
	if (c->dead) {
		finish(c);
		return;
	}
	if (c->to_join) {
		go_join(c);
		return;
	}
	if (s)
		status = make_session(c, s);
	iscsi_conn_admit(c->engine, status, status ? NULL : s->iscsi);
	stream_pump(c);
}

void stream_nothing(struct net_conn *c)
{
	if (c->dead)
		finish(c);
	else
		stream_pump(c);
}

void stream_targets(struct net_conn *c)
{
	if (c->dead) {
		iscsi_text_free(&c->msg.text);
		finish(c);
		return;
	}
	iscsi_conn_targets(c->engine, &c->msg.text);
	stream_pump(c);
}
