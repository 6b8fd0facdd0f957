/* SPDX-License-Identifier: BSD-3-Clause
 * What one loop decides for all: which targets there are and who may log in, which ISID and TSIH are taken,
 * reinstatement (RFC 7143 6.3.5), what SendTargets tells (appendix C). */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "net/impl.h"

struct net net;

/* --- rules --- */

static char *put_text(char **at, const char *s)
{
	char *p = *at;

	if (!s)
		return NULL;
	size_t n = strlen(s) + 1;
	memcpy(p, s, n);
	*at += n;
	return p;
}

static size_t text_len(const char *s)
{
	return s ? strlen(s) + 1 : 0;
}

struct net_rules *rules_new(const struct net_user *users, unsigned n, const struct net_user *mutual, bool require,
	unsigned algs, const struct iscsi_offer *offer, const char *alias, const char *target, const char *redirect)
{
	struct net_rules *r = calloc(1, sizeof(*r));
	size_t len = text_len(alias) + text_len(target) + text_len(redirect) + 1;

	for (unsigned i = 0; i < n; i++)
		len += text_len(users[i].name) + text_len(users[i].secret) + text_len(users[i].previous);
	if (mutual)
		len += text_len(mutual->name) + text_len(mutual->secret);
	if (r) {
		r->text = calloc(1, len);
		r->users = calloc(n + 1, sizeof(*r->users));
	}
	if (!r || !r->text || !r->users) {
		rules_put(r);
		return NULL;
	}
	char *at = r->text;
	for (unsigned i = 0; i < n; i++) {
		r->users[i].name = put_text(&at, users[i].name);
		r->users[i].secret = put_text(&at, users[i].secret);
		r->users[i].previous = put_text(&at, users[i].previous);
		r->users[i].until_s = users[i].until_s;
	}
	if (mutual) {
		r->mutual.name = put_text(&at, mutual->name);
		r->mutual.secret = put_text(&at, mutual->secret);
		r->policy.mutual = &r->mutual;
	}
	r->offer = *offer;
	r->policy.alias = put_text(&at, alias);
	r->policy.target = put_text(&at, target);
	r->policy.redirect = put_text(&at, redirect);
	r->policy.offer = &r->offer;
	r->policy.users = r->users;
	r->policy.nusers = n;
	r->policy.require_mutual = require;
	r->policy.chap_algs = algs ? algs : 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8;
	r->refs = 1;
	return r;
}

static void rules_free(struct net_rules *r)
{
	access_free(r);
	free(r->users);
	free(r->text); /* held secrets */
	free(r);
}

void rules_put(struct net_rules *r)
{
	if (r && r->refs <= 1)
		rules_free(r);
	else if (r)
		r->refs--;
}

/* --- look-ups --- */

/* Of a target that is being removed and one of the same name that came since, the new one. */
static struct net_target *find_target(const char *name)
{
	struct net_target *t, *going = NULL;

	list_for_each(t, &net.targets, node) {
		if (strcmp(t->name, name))
			continue;
		if (!t->gone)
			return t;
		going = t;
	}
	return going;
}

bool target_in_group(const struct net_target *t, uint16_t tpgt)
{
	if (!t->ntpgts)
		return true;
	for (unsigned i = 0; i < t->ntpgts; i++)
		if (t->tpgts[i] == tpgt)
			return true;
	return false;
}

static struct net_session *session_in(struct list *l, const struct net_msg *m, uint16_t tpgt)
{
	struct net_session *s;

	list_for_each(s, l, node)
		if (!memcmp(s->isid, m->isid, 6) && s->tpgt == tpgt && !strcmp(s->initiator, m->initiator))
			return s;
	return NULL;
}

/* 7.4.2.1: discovery sessions of one initiator and ISID are apart when they came through different portals. */
static struct net_session *discovery_session(const struct net_conn *c)
{
	const struct net_msg *m = &c->msg;
	struct net_session *s;

	list_for_each(s, &net.discovery, node)
		if (s->portal_id == c->portal_id && !memcmp(s->isid, m->isid, 6) && !strcmp(s->initiator, m->initiator))
			return s;
	return NULL;
}

/* Also one of a target that is being removed: commands of the old session end before any of the new one begins. */
static struct net_session *find_session(const struct net_conn *c)
{
	const struct net_msg *m = &c->msg;
	struct net_session *s = NULL;
	struct net_target *t;

	if (m->discovery)
		return discovery_session(c);
	list_for_each(t, &net.targets, node)
		if (!s && !strcmp(t->name, m->target))
			s = session_in(&t->sessions, m, c->tpgt);
	return s;
}

/* --- policy --- */

static void answer_policy(struct net_conn *c)
{
	struct net_msg *m = &c->msg;
	struct net_target *t = m->discovery ? NULL : find_target(m->target);
	struct net_rules *r = m->discovery ? net.discovery_rules : t ? t->rules : NULL;

	m->rules = NULL;
	m->status = 0;
	m->why = NULL;
	m->moved = 0;
	m->delay_ns = guard_delay(c);
	if (net.stopping) {
		m->status = LOGIN_UNAVAILABLE;
	} else if (t && t->gone) {
		m->status = LOGIN_REMOVED;
	} else if (!r || (t && !target_in_group(t, c->tpgt))) {
		m->status = LOGIN_NOT_FOUND;
	} else if (t && !access_allows(r, c)) {
		m->status = LOGIN_FORBIDDEN;
	} else if (!guard_has_room(c)) {
		m->status = LOGIN_NO_RESOURCES;
		m->why = "this client's address has as many connections as it may have; raise max-connections-per-client";
	} else {
		r->refs++;
		m->rules = r;
		if (t && !find_session(c)) /* one that exists is reinstated here */
			access_redirect(c, t);
	}
}

/* --- admission --- */

static uint16_t tsih_take(void)
{
	for (unsigned i = 0; i < 65535; i++) {
		uint16_t n = ++net.next_tsih;
		if (n && !(net.tsih_used[n / 8] & 1u << n % 8)) {
			net.tsih_used[n / 8] |= (uint8_t)(1u << n % 8);
			return n;
		}
	}
	return 0;
}

static void tsih_give(uint16_t n)
{
	net.tsih_used[n / 8] &= (uint8_t) ~(1u << n % 8);
}

/* The kill goes to the session's loop and comes back: only then may home free the session. */
static void run_kill_back(struct task *t)
{
	struct net_session *s = container_of(t, struct net_session, kill);

	s->kill_queued = false;
	if (s->ended)
		home_session_end(&s->end);
}

static void run_kill(struct task *t)
{
	struct net_session *s = container_of(t, struct net_session, kill);

	if (s->gently)
		stream_session_ask_logout(s);
	else if (s->told)
		stream_session_drop(s, "session closed by the administrator");
	else
		stream_session_kill(s, "session reinstated, removed or closed by the administrator");
	s->kill.run = run_kill_back;
	loop_post(net.home, &s->kill);
}

void session_kill_home(struct net_session *s)
{
	if (s->dying)
		return;
	s->dying = true;
	s->kill_queued = true;
	s->kill.run = run_kill;
	loop_post(s->loop, &s->kill);
}

static void make_session(struct net_conn *c, struct list *l, struct net_target *t)
{
	struct net_msg *m = &c->msg;
	struct net_session *s = calloc(1, sizeof(*s));
	uint16_t tsih = s ? tsih_take() : 0;

	if (!tsih) {
		free(s);
		m->status = LOGIN_NO_RESOURCES;
		return;
	}
	s->target = t;
	s->id = ++net.next_id;
	s->tsih = tsih;
	s->tpgt = c->tpgt;
	s->portal_id = c->portal_id;
	struct net_portal *p = portal_by_id(s->portal_id);
	if (p)
		p->nsessions++;
	s->loop = c->loop;
	s->end.run = home_session_end;
	memcpy(s->isid, m->isid, 6);
	snprintf(s->initiator, sizeof(s->initiator), "%s", m->initiator);
	list_init(&s->waiters);
	list_init(&s->conns);
	list_init(&s->joiners);
	list_init(&s->on_loop);
	list_add_tail(l, &s->node);
	guard_admitted(c);
	m->session = s;
	m->device = t ? t->device : NULL;
}

/* 6.3.4, 6.3.6: the connection goes to the loop of the session that it names. */
static void join_session(struct net_conn *c, struct net_session *s)
{
	struct net_msg *m = &c->msg;

	if (!s || s->tsih != m->tsih || s->dying || s->ended) {
		m->status = LOGIN_NO_SESSION;
		return;
	}
	guard_admitted(c);
	m->session = s;
	m->join = true;
	s->joins++;
	net.load[c->load_at]--;
	c->load_at = loop_index(s->loop);
	net.load[c->load_at]++;
}

/* False: it waits for a session that it reinstates. */
static bool answer_admit(struct net_conn *c)
{
	struct net_msg *m = &c->msg;
	struct net_target *t = m->discovery ? NULL : find_target(m->target);

	m->session = NULL;
	m->join = false;
	m->device = NULL;
	m->status = 0;
	if (net.stopping) {
		m->status = LOGIN_UNAVAILABLE;
		return true;
	}
	if (!m->discovery && (!t || t->gone)) {
		m->status = LOGIN_REMOVED;
		return true;
	}
	struct net_session *old = find_session(c);
	if (m->tsih) {
		join_session(c, old);
		return true;
	}
	if (old) {
		list_add_tail(&old->waiters, &m->node);
		session_kill_home(old);
		return false;
	}
	make_session(c, t ? &t->sessions : &net.discovery, t);
	return true;
}

static void reply(struct net_conn *c);

static void target_maybe_gone(struct net_target *t);

void home_session_end(struct task *task)
{
	struct net_session *s = container_of(task, struct net_session, end);
	struct net_target *t = s->target;
	struct list waiters;

	s->ended = true;
	if (s->kill_queued || s->joins)
		return; /* run_kill_back() or join_over() come here again */
	list_init(&waiters);
	list_splice_tail(&waiters, &s->waiters);
	list_del(&s->node);
	tsih_give(s->tsih);
	struct net_portal *p = portal_by_id(s->portal_id);
	if (p)
		p->nsessions--;
	free(s);
	while (!list_empty(&waiters)) {
		struct net_msg *m = list_first(&waiters, struct net_msg, node);
		list_del(&m->node);
		struct net_conn *c = container_of(m, struct net_conn, msg);
		if (answer_admit(c))
			reply(c);
	}
	if (t)
		target_maybe_gone(t);
	drain_check();
}

static void join_over(struct net_session *s)
{
	s->joins--;
	if (s->ended)
		home_session_end(&s->end);
}

void home_joined(struct task *t)
{
	join_over(container_of(t, struct net_conn, joined)->msg.session);
}

/* --- SendTargets --- */

static bool is_any(const union addr *a)
{
	if (a->sa.sa_family == AF_INET6)
		return IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr);
	return a->in.sin_addr.s_addr == htonl(INADDR_ANY);
}

/* A portal that listens on every address is told as the one that the client reached, without scope. */
bool portal_address(const struct net_conn *c, const struct net_portal *p, char out[ADDR_TEXT])
{
	if (p->advertise[0]) {
		snprintf(out, ADDR_TEXT, "%s", p->advertise);
		return true;
	}
	if (!is_any(&p->addr)) {
		snprintf(out, ADDR_TEXT, "%s", p->name);
		return true;
	}
	union addr a = c->local;
	if (a.sa.sa_family == AF_INET6) {
		bool v4 = IN6_IS_ADDR_V4MAPPED(&a.in6.sin6_addr);
		if (p->addr.sa.sa_family == AF_INET && !v4)
			return false;
		a.in6.sin6_port = p->addr.sa.sa_family == AF_INET6 ? p->addr.in6.sin6_port : p->addr.in.sin_port;
	} else {
		a.in.sin_port = p->addr.sa.sa_family == AF_INET6 ? p->addr.in6.sin6_port : p->addr.in.sin_port;
	}
	addr_text(&a, out);
	return true;
}

static void tell_target(const struct net_conn *c, const struct net_target *t, struct iscsi_text *out)
{
	struct net_portal *p;
	char addr[ADDR_TEXT];

	if (!access_shows(t, c))
		return;
	iscsi_text_put(out, "TargetName", "%s", t->name);
	list_for_each(p, &net.portals, node)
		if (!p->closing && target_in_group(t, p->tpgt) && access_reaches(c, p) && portal_address(c, p, addr))
			iscsi_text_put(out, "TargetAddress", "%s,%u", addr, p->tpgt);
}

static void answer_targets(struct net_conn *c)
{
	struct net_msg *m = &c->msg;
	const char *own = c->session && c->session->target ? c->session->target->name : NULL;
	const char *want = m->target;
	struct net_target *t;

	m->text = (struct iscsi_text){ .max = LIM_SEND_TARGETS };
	if (own && (!*want || !strcmp(want, "All")))
		want = own; /* appendix C: a normal session learns of its own target only */
	if (own && strcmp(want, own))
		return;
	list_for_each(t, &net.targets, node)
		if (!strcmp(want, "All") || !strcmp(want, t->name))
			tell_target(c, t, &m->text);
	if (!m->text.len && !own && !c->hush)
		log_warn("discovery finds no target peer=%s initiator=%s reason=\"%s\"", c->peer_text, m->initiator,
			list_empty(&net.targets) ? "none is configured" :
			"none of this name is open to this initiator at this portal; look at groups, initiators, clients and "
			"users of the target");
}

/* --- messages --- */

static void run_reply(struct task *task)
{
	static void (*const to[])(struct net_conn *c) = { [MSG_POLICY] = stream_policy, [MSG_ADMIT] = stream_admit,
		[MSG_TARGETS] = stream_targets, [MSG_COLD_RESET] = stream_nothing };
	struct net_conn *c = container_of(task, struct net_conn, msg.task);

	c->msg.pending = false;
	to[c->msg.kind](c);
}

static void reply(struct net_conn *c)
{
	c->msg.task.run = run_reply;
	loop_post(c->loop, &c->msg.task);
}

static void answer_cold_reset(struct net_conn *c)
{
	struct net_target *t = c->session->target;
	struct net_session *s;

	list_for_each(s, &t->sessions, node)
		if (s != c->session)
			session_kill_home(s);
}

static void run_ask(struct task *task)
{
	struct net_conn *c = container_of(task, struct net_conn, msg.task);
	bool now = true;

	if (c->msg.kind == MSG_POLICY)
		answer_policy(c);
	else if (c->msg.kind == MSG_ADMIT)
		now = answer_admit(c);
	else if (c->msg.kind == MSG_TARGETS)
		answer_targets(c);
	else
		answer_cold_reset(c);
	if (now)
		reply(c);
}

void home_ask(struct net_conn *c, enum msg_kind kind, const char *target)
{
	struct net_msg *m = &c->msg;
	const struct iscsi_login *l = iscsi_conn_login(c->engine); /* NULL when login is over */
	const struct iscsi_params *p = l ? iscsi_login_params(l) : iscsi_conn_params(c->engine);

	CHECK(!m->pending);
	m->pending = true;
	m->kind = kind;
	m->discovery = p->discovery;
	snprintf(m->initiator, sizeof(m->initiator), "%s", p->initiator);
	snprintf(m->target, sizeof(m->target), "%s", target ? target : p->target);
	if (l)
		memcpy(m->isid, iscsi_login_isid(l), 6);
	m->tsih = c->session ? c->session->tsih : l ? iscsi_login_tsih(l) : 0;
	list_init(&m->node);
	m->task.run = run_ask;
	loop_post(net.home, &m->task);
}

void home_conn_ended(struct net_conn *c)
{
	guard_leave(c);
	rules_put(c->rules);
	if (c->to_join)
		join_over(c->msg.session);
	net.load[c->load_at]--;
	net.live--;
	free(c);
	drain_check();
}

/* --- control thread: targets --- */

struct target_msg {
	struct task        task;
	struct net_target *t;
	char               name[LIM_ISCSI_NAME + 1];
	void             (*gone)(void *ctx);
	void              *ctx;
};

static void target_free(struct net_target *t)
{
	rules_put(t->rules);
	free(t->tpgts);
	free(t);
}

void targets_free(void)
{
	while (!list_empty(&net.targets)) {
		struct net_target *t = list_first(&net.targets, struct net_target, node);
		list_del(&t->node);
		target_free(t);
	}
}

/* 11.9.1, event 4: sessions that exist are asked for a text exchange, in which the new limit is declared. */
struct declare { char target[LIM_ISCSI_NAME + 1]; uint32_t max_recv_segment; };

static void declare_leg(struct round_leg *leg, void *ctx)
{
	const struct declare *d = ctx;
	struct net_session *s;
	struct net_conn *c, *tmp;

	list_for_each(s, &net.loops[loop_index(leg->loop)].sessions, on_loop) {
		if (!s->iscsi || s->ending || strcmp(iscsi_session_params(s->iscsi)->target, d->target))
			continue;
		list_for_each_safe(c, tmp, &s->conns, in_session) {
			if (c->dead)
				continue;
			iscsi_conn_declare(c->engine, d->max_recv_segment, TEXT_S);
			stream_pump(c);
		}
	}
	round_leg_done(leg);
}

static void declared(void *ctx)
{
	free(ctx);
}

static void declare(const struct net_target *t)
{
	struct declare *d = calloc(1, sizeof(*d));

	if (!d)
		return; /* out of memory: they keep what they have */
	snprintf(d->target, sizeof(d->target), "%s", t->name);
	d->max_recv_segment = t->rules->offer.max_recv_segment;
	round_start(net.home, declare_leg, declared, d);
}

static void run_target_set(struct task *task)
{
	struct target_msg *m = container_of(task, struct target_msg, task);
	struct net_target *old = find_target(m->t->name);

	if (old && !old->gone) {
		bool other = old->rules->offer.max_recv_segment != m->t->rules->offer.max_recv_segment;
		rules_put(old->rules);
		free(old->tpgts);
		old->rules = m->t->rules;
		old->tpgts = m->t->tpgts;
		old->ntpgts = m->t->ntpgts;
		old->device = m->t->device;
		free(m->t);
		if (other)
			declare(old);
	} else {
		list_add_tail(&net.targets, &m->t->node);
	}
	free(m);
}

int net_target_set(const struct net_target_conf *conf, struct err *e)
{
	struct target_msg *m = calloc(1, sizeof(*m));
	struct net_target *t = calloc(1, sizeof(*t));
	struct net_rules *r = rules_new(conf->users, conf->nusers, conf->mutual, conf->require_mutual, conf->chap_algs,
		&conf->offer, conf->alias, conf->name, conf->redirect);
	uint16_t *g = calloc(conf->ntpgts + 1, sizeof(*g));

	if (!m || !t || !r || access_copy(r, conf) < 0 || !g || strlen(conf->name) > LIM_ISCSI_NAME) {
		free(m);
		free(t);
		free(g);
		rules_put(r);
		return err_set(e, -ENOMEM, "out of memory");
	}
	if (conf->redirect)
		r->policy.status = conf->redirect_permanent ? LOGIN_MOVED_PERM : LOGIN_MOVED_TEMP;
	snprintf(t->name, sizeof(t->name), "%s", conf->name);
	t->device = conf->device;
	t->rules = r;
	t->tpgts = g;
	t->ntpgts = conf->ntpgts;
	if (conf->ntpgts)
		memcpy(g, conf->tpgts, conf->ntpgts * sizeof(*g));
	list_init(&t->sessions);
	m->t = t;
	m->task.run = run_target_set;
	loop_post(net.home, &m->task);
	return 0;
}

struct gone_msg {
	struct task task;
	void      (*gone)(void *ctx);
	void       *ctx;
};

static void run_gone(struct task *t)
{
	struct gone_msg *m = container_of(t, struct gone_msg, task);

	m->gone(m->ctx);
	free(m);
}

static void tell_gone(void (*gone)(void *ctx), void *ctx)
{
	struct gone_msg *m = calloc(1, sizeof(*m));

	CHECK(m); /* control path; there is no other way to answer */
	m->gone = gone;
	m->ctx = ctx;
	m->task.run = run_gone;
	loop_post(net.control, &m->task);
}

static void target_maybe_gone(struct net_target *t)
{
	if (!t->gone || !list_empty(&t->sessions))
		return;
	tell_gone(t->gone, t->gone_ctx);
	list_del(&t->node);
	target_free(t);
}

static void run_target_remove(struct task *task)
{
	struct target_msg *m = container_of(task, struct target_msg, task);
	struct net_target *t = find_target(m->name);
	struct net_session *s;

	if (!t || t->gone) {
		tell_gone(m->gone, m->ctx);
	} else {
		t->gone = m->gone;
		t->gone_ctx = m->ctx;
		list_for_each(s, &t->sessions, node) {
			s->gently = !s->dying;
			session_kill_home(s);
		}
		target_maybe_gone(t);
	}
	free(m);
}

int net_target_remove(const char *name, void (*gone)(void *ctx), void *ctx)
{
	struct target_msg *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	snprintf(m->name, sizeof(m->name), "%s", name);
	m->gone = gone;
	m->ctx = ctx;
	m->task.run = run_target_remove;
	loop_post(net.home, &m->task);
	return 0;
}

struct rules_msg {
	struct task       task;
	struct net_rules *rules;
};

static void run_discovery(struct task *t)
{
	struct rules_msg *m = container_of(t, struct rules_msg, task);

	rules_put(net.discovery_rules);
	net.discovery_rules = m->rules;
	free(m);
}

int net_discovery_auth(const struct net_user *users, unsigned n, const struct net_user *mutual, unsigned chap_algs,
	struct err *e)
{
	struct iscsi_offer offer;
	struct rules_msg *m = calloc(1, sizeof(*m));

	iscsi_offer_defaults(&offer);
	struct net_rules *r = rules_new(users, n, mutual, false, chap_algs, &offer, NULL, NULL, NULL);
	if (!m || !r) {
		free(m);
		rules_put(r);
		return err_set(e, -ENOMEM, "out of memory");
	}
	m->rules = r;
	m->task.run = run_discovery;
	loop_post(net.home, &m->task);
	return 0;
}

struct limit_msg {
	struct task       task;
	struct net_limits limits;
};

static void run_limit(struct task *t)
{
	struct limit_msg *m = container_of(t, struct limit_msg, task);

	guard_limits(&m->limits);
	free(m);
}

int net_limit(const struct net_limits *l)
{
	struct limit_msg *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->limits = *l;
	m->task.run = run_limit;
	loop_post(net.home, &m->task);
	return 0;
}
