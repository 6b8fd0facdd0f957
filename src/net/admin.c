/* SPDX-License-Identifier: BSD-3-Clause
 * The control thread's view of net/: start and stop, the list of sessions, kick, drain, statistics. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "net/impl.h"

int net_init(struct loop *control, struct err *e)
{
	CHECK(loop_group.n > 0 && loop_group.n <= LIM_LOOPS);
	memset(&net, 0, sizeof(net));
	net.control = control;
	net.home = loop_group.loop[0];
	list_init(&net.portals);
	list_init(&net.targets);
	list_init(&net.discovery);
	guard_init();
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	net.budget = memory / BUDGET_SHARE / loop_group.n;
	uint64_t copies = MIN(net.budget / LIM_COPY_SHARE, (uint64_t)LIM_COPY_MEMORY);
	net.budget -= copies;
	scsi_copy_budget(copies);
	for (unsigned i = 0; i < loop_group.n; i++) {
		list_init(&net.loops[i].conns);
		list_init(&net.loops[i].sessions);
		net.loops[i].window = WINDOW_MAX;
		net.loops[i].pool = iscsi_pool_new(loop_group.loop[i], net.budget);
		if (!net.loops[i].pool)
			return err_set(e, -ENOMEM, "out of memory");
	}
	return net_discovery_auth(NULL, 0, NULL, 0, e);
}

void net_fini(void)
{
	for (unsigned i = 0; i < loop_group.n; i++)
		iscsi_pool_free(net.loops[i].pool);
	targets_free();
	guard_fini();
	rules_put(net.discovery_rules);
	net.discovery_rules = NULL;
}

void net_stats(struct net_stats *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; i < loop_group.n; i++) {
		const struct net_loop *l = &net.loops[i];
		ret->logins_ok += l->logins_ok;
		ret->logins_refused += l->logins_refused;
		ret->digest_errors += l->digest_errors;
		ret->connections += l->nconns;
		ret->sessions += l->nsessions;
	}
}

/* --- list of sessions: each loop fills a list of its own --- */

struct part { struct net_session_info *s; unsigned n; };
struct collect {
	void      (*done)(void *ctx, const struct net_session_info *s, unsigned n);
	void       *ctx;
	struct part part[LIM_LOOPS];
};

static void fill_conn(struct net_session_info *i, const struct net_conn *c)
{
	if (i->connections == ARRAY_LEN(i->conn))
		return;
	struct net_conn_info *k = &i->conn[i->connections++];
	k->cid = iscsi_conn_cid(c->engine);
	snprintf(k->peer, sizeof(k->peer), "%s", c->peer_text);
	snprintf(k->local, sizeof(k->local), "%s", c->local_text);
}

static void fill_info(struct net_session_info *i, const struct net_session *s)
{
	struct iscsi_session_stats st;
	const struct net_conn *c;

	iscsi_session_stats(s->iscsi, &st);
	i->id = s->id;
	i->params = *iscsi_session_params(s->iscsi);
	list_for_each(c, &s->conns, in_session)
		fill_conn(i, c);
	snprintf(i->initiator, sizeof(i->initiator), "%s", s->initiator);
	snprintf(i->target, sizeof(i->target), "%s", i->params.target);
	memcpy(i->user, s->user, sizeof(i->user));
	memcpy(i->isid, s->isid, 6);
	i->tsih = s->tsih;
	i->tpgt = s->tpgt;
	i->loop = loop_index(s->loop);
	i->discovery = i->params.discovery;
	i->since_ns = s->since_ns;
	i->commands = st.commands;
	i->bytes_in = st.bytes_in;
	i->bytes_out = st.bytes_out;
	i->inflight = st.inflight;
}

static void collect_leg(struct round_leg *leg, void *ctx)
{
	struct collect *k = ctx;
	struct net_loop *l = &net.loops[loop_index(leg->loop)];
	struct part *p = &k->part[loop_index(leg->loop)];
	struct net_session *s;

	p->s = calloc(l->nsessions + 1, sizeof(*p->s));
	if (p->s)
		list_for_each(s, &l->sessions, on_loop)
			if (s->iscsi && !s->ending)
				fill_info(&p->s[p->n++], s);
	round_leg_done(leg);
}

static void collect_done(void *ctx)
{
	struct collect *k = ctx;
	struct net_session_info *all;
	unsigned n = 0, at = 0;

	for (unsigned i = 0; i < loop_group.n; i++)
		n += k->part[i].n;
	all = calloc(n + 1, sizeof(*all));
	for (unsigned i = 0; i < loop_group.n; i++) {
		if (all && k->part[i].n)
			memcpy(all + at, k->part[i].s, k->part[i].n * sizeof(*all));
		at += k->part[i].n;
		free(k->part[i].s);
	}
	k->done(k->ctx, all, all ? n : 0);
	free(all);
	free(k);
}

void net_sessions(void (*done)(void *ctx, const struct net_session_info *s, unsigned n), void *ctx)
{
	struct collect *k = calloc(1, sizeof(*k));

	if (!k) {
		done(ctx, NULL, 0);
		return;
	}
	k->done = done;
	k->ctx = ctx;
	round_start(net.control, collect_leg, collect_done, k);
}

/* --- kick --- */

struct kick {
	struct task task;
	uint64_t    id;
	bool        found;
	void      (*done)(void *ctx, bool found);
	void       *ctx;
};

static void kick_answer(struct task *t)
{
	struct kick *k = container_of(t, struct kick, task);

	k->done(k->ctx, k->found);
	free(k);
}

static struct net_session *session_by_id(struct list *l, uint64_t id)
{
	struct net_session *s;

	list_for_each(s, l, node)
		if (s->id == id)
			return s;
	return NULL;
}

static void run_kick(struct task *task)
{
	struct kick *k = container_of(task, struct kick, task);
	struct net_session *s = session_by_id(&net.discovery, k->id);
	struct net_target *t;

	list_for_each(t, &net.targets, node)
		if (!s)
			s = session_by_id(&t->sessions, k->id);
	k->found = s != NULL;
	if (s) {
		s->told = !s->dying;
		session_kill_home(s);
	}
	k->task.run = kick_answer;
	loop_post(net.control, &k->task);
}

void net_session_kick(uint64_t id, void (*done)(void *ctx, bool found), void *ctx)
{
	struct kick *k = calloc(1, sizeof(*k));

	if (!k) {
		done(ctx, false);
		return;
	}
	*k = (struct kick){ .task = { .run = run_kick }, .id = id, .done = done, .ctx = ctx };
	loop_post(net.home, &k->task);
}

/* --- drain: ask for logouts; then read no more and let what runs end; then cut --- */

enum {
	NS_GRACE = 250000000, /* after the cut, for commands to end */
};

static struct drain {
	bool         told;
	unsigned     phase, forced;
	uint64_t     deadline_ns;
	struct timer timer;
	struct task  task, answer;
	void       (*done)(void *ctx, unsigned forced);
	void        *ctx;
} drain;

static void ask_leg(struct round_leg *leg, void *ctx)
{
	struct net_session *s, *next;
	struct net_conn *c, *tmp;

	list_for_each_safe(s, next, &net.loops[loop_index(leg->loop)].sessions, on_loop)
		stream_session_close(s);
	list_for_each_safe(c, tmp, &net.loops[loop_index(leg->loop)].conns, node) {
		if (c->dead)
			continue;
		iscsi_conn_ask_logout(c->engine, 1);
		stream_pump(c);
	}
	round_leg_done(leg);
}

static void quiesce_leg(struct round_leg *leg, void *ctx)
{
	struct net_conn *c, *tmp;

	list_for_each_safe(c, tmp, &net.loops[loop_index(leg->loop)].conns, node) {
		if (c->dead)
			continue;
		c->end_session = true;
		leave_quiesce(c, 0);
		stream_pump(c);
	}
	round_leg_done(leg);
}

static void cut_leg(struct round_leg *leg, void *ctx)
{
	struct net_conn *c, *tmp;

	list_for_each_safe(c, tmp, &net.loops[loop_index(leg->loop)].conns, node)
		stream_kill(c, "server stops");
	round_leg_done(leg);
}

static void nothing(void *ctx)
{
}

static unsigned sessions_left(void)
{
	struct net_target *t;
	unsigned n = !list_empty(&net.discovery);

	list_for_each(t, &net.targets, node)
		n += !list_empty(&t->sessions);
	return n;
}

static void run_drain_answer(struct task *t)
{
	drain.done(drain.ctx, drain.forced);
}

static void drain_tell(void)
{
	if (drain.told)
		return;
	drain.told = true;
	loop_timer_clear(net.home, &drain.timer);
	drain.answer.run = run_drain_answer;
	loop_post(net.control, &drain.answer);
}

void drain_check(void)
{
	if (net.stopping && !net.live && !sessions_left())
		drain_tell();
}

static void drain_step(struct timer *t)
{
	uint64_t now = loop_now_ns(net.home);

	if (drain.phase == 0) {
		drain.phase = 1;
		round_start(net.home, quiesce_leg, nothing, NULL);
		loop_timer_set(net.home, t, MAX(drain.deadline_ns, now));
	} else if (drain.phase == 1) {
		drain.phase = 2;
		drain.forced = net.live;
		round_start(net.home, cut_leg, nothing, NULL);
		loop_timer_set(net.home, t, now + NS_GRACE);
	} else {
		drain.forced += !drain.forced;
		drain_tell(); /* a disk hangs: sessions cannot end */
	}
}

static void run_drain(struct task *t)
{
	net.stopping = true;
	guard_stop();
	portal_stop_all();
	drain.timer.fire = drain_step;
	round_start(net.home, ask_leg, nothing, NULL);
	loop_timer_set(net.home, &drain.timer, MIN(loop_now_ns(net.home) + LOGOUT_NS, drain.deadline_ns));
	drain_check();
}

void net_drain(uint64_t deadline_ns, void (*done)(void *ctx, unsigned forced), void *ctx)
{
	memset(&drain, 0, sizeof(drain));
	drain.deadline_ns = deadline_ns;
	drain.done = done;
	drain.ctx = ctx;
	drain.task.run = run_drain;
	loop_post(net.home, &drain.task);
}
