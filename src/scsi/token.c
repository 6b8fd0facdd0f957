/* SPDX-License-Identifier: BSD-3-Clause
 * The tokens of a unit, on its home loop. A token that is not valid any more is remembered for the reason why
 * (SPC-4 5.17.6.5.2.3), until there are too many of them. */
#include "scsi/token.h"

#include <sys/random.h>

#include "scsi/copy.h"

struct token {
	struct list         node;       /* tokens.all, oldest first */
	struct tokens      *set;
	struct token_make  *making;     /* until all leases are granted */
	uint64_t            id;
	uint8_t             bytes[TOKEN_BYTES];
	uint8_t             dead;       /* 0: valid; else TOKEN_*, why not */
	unsigned            pending;    /* leases that are not granted yet */
	unsigned            uses;
	uint64_t            end_ns, idle_ns, idle_since_ns; /* lifetime, inactivity timeout, last use */
	struct lu_freeze   *lease[TOKEN_RANGES_MAX];
	unsigned            nrange;
	struct token_range  range[];
};

struct tokens {
	struct lu   *lu;
	struct list  all;
	unsigned     nall, nlive, nleases;
	uint64_t     next_id;
	struct timer timer;
};

static uint64_t now(const struct tokens *s)
{
	return loop_now_ns(s->lu->home);
}

/* --- end of a token --- */

static void set_timer(struct tokens *s);

static uint64_t due(const struct token *t)
{
	return t->uses ? t->end_ns : MIN(t->end_ns, t->idle_since_ns + t->idle_ns);
}

static void made(struct token *t);

static void kill(struct token *t, uint8_t why)
{
	if (t->dead)
		return;
	t->dead = why;
	t->set->nlive--;
	t->set->nleases -= t->nrange;
	for (unsigned i = 0; i < t->nrange; i++) {
		if (t->lease[i])
			lu_thaw(t->lease[i]);
		t->lease[i] = NULL;
	}
	t->pending = 0;
	if (t->making)
		made(t);
}

static void forget(struct token *t)
{
	list_del(&t->node);
	t->set->nall--;
	free(t);
}

static void expire(struct timer *timer)
{
	struct tokens *s = container_of(timer, struct tokens, timer);
	struct token *t;

	list_for_each(t, &s->all, node)
		if (!t->dead && due(t) <= now(s))
			kill(t, TOKEN_EXPIRED);
	set_timer(s);
}

static void set_timer(struct tokens *s)
{
	uint64_t first = UINT64_MAX;
	const struct token *t;

	list_for_each(t, &s->all, node)
		if (!t->dead)
			first = MIN(first, due(t));
	if (first == UINT64_MAX)
		loop_timer_clear(s->lu->home, &s->timer);
	else
		loop_timer_set(s->lu->home, &s->timer, first);
}

/* Room for one more with n ranges: the oldest give way, the invalid ones first. */
static void make_room(struct tokens *s, unsigned n)
{
	struct token *t, *tmp;

	list_for_each_safe(t, tmp, &s->all, node) {
		bool full = s->nlive >= TOKENS_MAX || s->nleases + n > TOKEN_LEASES_MAX;
		if (full && !t->dead && !t->uses && !t->making)
			kill(t, TOKEN_CANCELLED);
	}
	list_for_each_safe(t, tmp, &s->all, node)
		if (s->nall >= TOKENS_KEPT && t->dead && !t->uses && !t->making)
			forget(t);
}

/* --- making --- */

static struct tokens *tokens_of(struct lu *lu)
{
	struct tokens *s = lu->tokens;

	if (s)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->lu = lu;
	s->next_id = 1;
	s->timer.fire = expire;
	list_init(&s->all);
	lu->tokens = s;
	return s;
}

static void make_back(struct task *task)
{
	struct token_make *m = container_of(task, struct token_make, task);
	struct lu_loop *ll = m->ll;

	m->done(m);
	ll->users--;
	lu_wait_check(ll);
}

static void answer(struct lu *lu, struct token_make *m, int error)
{
	m->error = error;
	m->task.run = make_back;
	scsi_send(lu->home, m->ll->loop, &m->task);
}

static void made(struct token *t)
{
	struct token_make *m = t->making;

	t->making = NULL;
	memcpy(m->bytes, t->bytes, TOKEN_BYTES);
	answer(t->set->lu, m, 0);
}

static void lease_granted(struct lu_freeze *fz)
{
	struct token *t = lu_freeze_ctx(fz);

	if (--t->pending == 0)
		made(t);
}

static void lease_broken(struct lu_freeze *fz)
{
	struct token *t = lu_freeze_ctx(fz);

	kill(t, TOKEN_CANCELLED);
	set_timer(t->set);
}

static uint64_t bytes_represented(const struct token_make *m)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < m->nrange; i++)
		sum += m->range[i].len;
	return sum;
}

/* SPC-4 table 112. What follows the descriptor of the target device is random, so that no token can be guessed. */
static bool compose(struct token *t, const struct token_make *m)
{
	const struct lu *lu = t->set->lu;
	uint8_t *p = t->bytes, have[512];
	size_t all = vpd_lu_designators(lu, have), len = strlen(m->target) + 1;

	put_be32(p, m->type);
	put_be16(p + 6, TOKEN_BYTES - 8);
	put_be64(p + 8, t->id);
	p[16] = CSCD_IDENTIFICATION;
	p[17] = lu->type->device_type;
	for (size_t at = 0; at < all; at += 4u + have[at + 3]) {
		if ((have[at + 1] & 0x3f) != 3) /* NAA */
			continue;
		memcpy(p + 20, have + at, 4u + have[at + 3]);
	}
	put_be64(p + 56, bytes_represented(m));
	if (len <= 124) { /* SCSI name string of the target device, SPC-4 7.8.6.11 */
		p[128] = 0x53;
		p[129] = 0xa8;
		p[131] = (uint8_t)((len + 3) & ~(size_t)3);
		memcpy(p + 132, m->target, len);
	}
	return getrandom(p + 256, 32, 0) == 32;
}

static struct token *token_new(struct tokens *s, struct token_make *m)
{
	struct token *t = calloc(1, sizeof(*t) + m->nrange * sizeof(t->range[0]));

	if (!t)
		return NULL;
	t->set = s;
	t->id = s->next_id++;
	t->making = m;
	t->nrange = m->nrange;
	t->idle_since_ns = now(s);
	t->idle_ns = (m->idle_s ? m->idle_s : TOKEN_IDLE_DEFAULT_S) * 1000000000ull;
	t->end_ns = now(s) + TOKEN_LIFE_S * 1000000000ull;
	if (!compose(t, m)) {
		free(t);
		return NULL;
	}
	list_add_tail(&s->all, &t->node);
	s->nall++;
	s->nlive++;
	s->nleases += t->nrange;
	return t;
}

static void lease_all(struct token *t, const struct token_make *m)
{
	struct lu *lu = t->set->lu;
	bool all = true;

	t->pending = t->nrange;
	for (unsigned i = 0; i < t->nrange; i++) {
		t->range[i] = (struct token_range){ m->range[i].off, m->range[i].len, t->id << 8 | i };
		t->lease[i] = lu_lease(lu_on(lu, lu->home), t->range[i].off, t->range[i].len, t->range[i].lease, t,
			lease_granted, lease_broken);
		all = all && t->lease[i];
	}
	if (!all)
		kill(t, TOKEN_CANCELLED);
	else if (!t->nrange) /* it represents nothing, which is no error */
		made(t);
}

static void make_home(struct task *task)
{
	struct token_make *m = container_of(task, struct token_make, task);
	struct lu *lu = m->ll->lu;
	struct tokens *s = lu->no_tokens ? NULL : tokens_of(lu); /* leases would keep it from closing */

	if (s)
		make_room(s, m->nrange);
	struct token *t = s ? token_new(s, m) : NULL;
	if (!t) {
		answer(lu, m, -ENOMEM);
		return;
	}
	lease_all(t, m);
	set_timer(s);
}

void token_make(struct token_make *m)
{
	m->ll->users++;
	m->task.run = make_home;
	scsi_send(m->ll->loop, m->ll->lu->home, &m->task);
}

/* --- using --- */

static void open_back(struct task *task)
{
	struct token_use *u = container_of(task, struct token_use, task);
	struct lu_loop *ll = u->ll;
	bool refused = u->refused;

	u->done(u); /* a refused one may be freed by it */
	if (refused) {
		ll->users--;
		lu_wait_check(ll);
	}
}

static struct token *find(const struct lu *lu, uint64_t id)
{
	struct token *t;

	if (lu->tokens)
		list_for_each(t, &lu->tokens->all, node)
			if (t->id == id)
				return t;
	return NULL;
}

static uint8_t judge(const struct token *t, const uint8_t *bytes)
{
	if (!t)
		return TOKEN_UNKNOWN;
	if (memcmp(t->bytes, bytes, TOKEN_BYTES))
		return TOKEN_CORRUPT;
	if (!t->dead && due(t) <= now(t->set))
		return TOKEN_EXPIRED;
	return t->dead;
}

static void open_home(struct task *task)
{
	struct token_use *u = container_of(task, struct token_use, task);
	struct lu *lu = u->ll->lu;
	struct token *t = find(lu, be64(u->bytes + 8));

	u->refused = judge(t, u->bytes);
	if (!u->refused) {
		t->uses++;
		u->token = t;
		u->range = t->range;
		u->nrange = t->nrange;
	}
	u->task.run = open_back;
	scsi_send(lu->home, u->ll->loop, &u->task);
}

void token_open(struct token_use *u)
{
	u->ll->users++;
	u->task.run = open_home;
	scsi_send(u->ll->loop, u->ll->lu->home, &u->task);
}

static void close_back(struct task *task)
{
	struct token_use *u = container_of(task, struct token_use, task);
	struct lu_loop *ll = u->ll;

	free(u);
	ll->users--;
	lu_wait_check(ll);
}

static void close_home(struct task *task)
{
	struct token_use *u = container_of(task, struct token_use, task);
	struct token *t = u->token;
	struct tokens *s = t->set;

	t->uses--;
	t->idle_since_ns = now(s);
	if (u->del)
		kill(t, TOKEN_DELETED);
	set_timer(s);
	u->task.run = close_back;
	scsi_send(s->lu->home, u->ll->loop, &u->task);
}

void token_close(struct token_use *u)
{
	u->task.run = close_home;
	scsi_send(u->ll->loop, u->ll->lu->home, &u->task);
}

/* --- all of them --- */

unsigned tokens_report(const struct lu *lu, uint8_t *p)
{
	const struct token *t;
	unsigned n = 0;

	if (lu->tokens)
		list_for_each(t, &lu->tokens->all, node)
			if (!t->dead && !t->making && n < TOKENS_MAX)
				memcpy(p + n++ * TOKEN_MANAGEMENT_BYTES, t->bytes, TOKEN_MANAGEMENT_BYTES);
	return n;
}

void tokens_revoke(struct lu *lu)
{
	struct token *t;

	lu->no_tokens = true;
	if (!lu->tokens)
		return;
	list_for_each(t, &lu->tokens->all, node)
		kill(t, TOKEN_CANCELLED);
	set_timer(lu->tokens);
}

void tokens_free(struct lu *lu)
{
	if (!lu->tokens)
		return;
	while (!list_empty(&lu->tokens->all))
		forget(list_first(&lu->tokens->all, struct token, node));
	free(lu->tokens);
}
