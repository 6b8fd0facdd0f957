/* SPDX-License-Identifier: BSD-3-Clause
 * What one client may take from the others: connections, logins under way, guesses at secrets, lines of the log. Counted
 * by address (of IPv6 by its first 64 bits, which one site has at its will) on home; entries without a connection fade.
 *
 * A wrong secret is answered late, and later each time; a right one never waits, so that a client that shares its
 * address with somebody's guesses is not locked out. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "net/impl.h"

enum {
	BUCKETS = 1024,
	REMEMBERED_MAX = 8192,         /* addresses without a connection that are kept for their failures */
	LOGINS_MAX = 4096,             /* logins under way, all clients */
	LOGINS_PER_CLIENT = 256,
	DESCRIPTORS_KEPT = 256,        /* for disks, the control socket, the next file to open */
	FREE_FAILURES = 3,             /* a typing error is not a guess */
	LOG_LINES = 8,                 /* refusals of one address that are written out in one window */
};
#define DELAY_FIRST_NS 125000000ull
#define DELAY_MAX_NS 4000000000ull
#define WINDOW_NS (60 * 1000000000ull)

struct net_client {
	struct list node;              /* bucket */
	uint8_t     key[16];
	unsigned    conns, logins;     /* of these, not in full feature phase */
	unsigned    failures;          /* wrong secrets; halved in every window */
	unsigned    refused;           /* in this window: logins and connections */
	char        name[ADDR_TEXT];
};

static struct {
	struct list    bucket[BUCKETS];
	struct timer   timer;
	unsigned       clients, conns, logins;
	unsigned       max_conns, max_per_client;
	uint64_t       delay_max_ns;
} guard;

static void key_of(const union addr *a, uint8_t key[16])
{
	static const uint8_t v4[12] = { [10] = 0xff, 0xff };

	addr_mapped(a, key);
	if (memcmp(key, v4, sizeof(v4)))
		memset(key + 8, 0, 8);
}

static struct list *bucket_of(const uint8_t key[16])
{
	uint64_t a, b;

	memcpy(&a, key, 8);
	memcpy(&b, key + 8, 8);
	return &guard.bucket[((a ^ b) * 0x9e3779b97f4a7c15ull) >> 54];
}

static struct net_client *find(const union addr *peer)
{
	struct net_client *k;
	uint8_t key[16];

	key_of(peer, key);
	struct list *b = bucket_of(key);
	list_for_each(k, b, node)
		if (!memcmp(k->key, key, sizeof(key)))
			return k;
	k = guard.clients < REMEMBERED_MAX + guard.conns ? calloc(1, sizeof(*k)) : NULL;
	if (!k)
		return NULL;
	memcpy(k->key, key, sizeof(key));
	addr_text(peer, k->name);
	char *port = strrchr(k->name, ':');
	if (port)
		*port = 0;
	list_add_tail(b, &k->node);
	guard.clients++;
	return k;
}

static void forget(struct net_client *k)
{
	list_del(&k->node);
	guard.clients--;
	free(k);
}

static bool fade(struct net_client *k)
{
	if (k->refused > LOG_LINES)
		log_warn("refused peer=%s times=%u not-logged=%u in the last minute", k->name, k->refused,
			k->refused - LOG_LINES);
	k->refused = 0;
	k->failures /= 2;
	return !k->conns && !k->failures;
}

static void sweep(struct timer *t)
{
	struct net_client *k, *tmp;

	for (unsigned i = 0; i < BUCKETS; i++)
		list_for_each_safe(k, tmp, &guard.bucket[i], node)
			if (fade(k))
				forget(k);
	if (guard.clients && !net.stopping)
		loop_timer_set(net.home, t, loop_now_ns(net.home) + WINDOW_NS);
}

/* Counts a refusal; false: it has had its lines of the log. */
static bool refused(struct net_client *k)
{
	if (!guard.timer.deadline_ns && !net.stopping)
		loop_timer_set(net.home, &guard.timer, loop_now_ns(net.home) + WINDOW_NS);
	return k->refused++ < LOG_LINES;
}

static const char *full(const struct net_client *k)
{
	if (!k)
		return "out of memory, or too many clients fail to log in";
	if (guard.conns >= guard.max_conns)
		return "the server has as many connections as it may have; raise max-connections or the limit of open files";
	if (guard.logins >= LOGINS_MAX)
		return "too many logins are under way";
	if (k->logins >= LOGINS_PER_CLIENT)
		return "too many logins of this client are under way";
	return NULL;
}

bool guard_enter(struct net_conn *c, struct net_portal *p)
{
	struct net_client *k = find(&c->peer);
	const char *why = full(k);

	if (why) {
		if (!k || refused(k))
			log_warn("connection refused peer=%s portal=%s reason=\"%s\"", k ? k->name : "?", p->name, why);
		return false;
	}
	c->client = k;
	c->joining = true;
	c->hush = k->refused >= LOG_LINES;
	k->conns++;
	k->logins++;
	guard.conns++;
	guard.logins++;
	return true;
}

uint64_t guard_delay(const struct net_conn *c)
{
	unsigned n = c->client->failures;
	uint64_t ns = n < FREE_FAILURES ? 0 : DELAY_FIRST_NS << MIN(n - FREE_FAILURES, 8u);

	return MIN(ns, guard.delay_max_ns);
}

bool guard_has_room(const struct net_conn *c)
{
	return c->client->conns - c->client->logins < guard.max_per_client;
}

static void joined(struct net_conn *c)
{
	c->joining = false;
	c->client->logins--;
	guard.logins--;
}

void guard_admitted(struct net_conn *c)
{
	if (c->joining)
		joined(c);
}

void guard_leave(struct net_conn *c)
{
	struct net_client *k = c->client;

	if (c->joining)
		joined(c);
	k->conns--;
	guard.conns--;
	if (c->refused)
		refused(k);
	if (c->bad_secret)
		k->failures = MIN(k->failures + 1, 64u);
	if (!k->conns && !k->failures && !k->refused)
		forget(k);
}

void guard_init(void)
{
	for (unsigned i = 0; i < BUCKETS; i++)
		list_init(&guard.bucket[i]);
	guard.timer = (struct timer){ .fire = sweep };
	guard.clients = guard.conns = guard.logins = 0;
	guard_limits(&(struct net_limits){ .login_delay_ns = DELAY_MAX_NS });
}

void guard_stop(void)
{
	loop_timer_clear(net.home, &guard.timer);
}

void guard_fini(void)
{
	struct net_client *k, *tmp;

	for (unsigned i = 0; i < BUCKETS; i++)
		list_for_each_safe(k, tmp, &guard.bucket[i], node)
			forget(k);
}

void guard_limits(const struct net_limits *l)
{
	struct rlimit rl = { .rlim_cur = 1024 };

	getrlimit(RLIMIT_NOFILE, &rl);
	uint64_t files = MIN((uint64_t)rl.rlim_cur, 1u << 20);
	uint64_t all = files - MIN(files / 4, DESCRIPTORS_KEPT);
	guard.max_conns = (unsigned)(l->connections ? MIN(l->connections, all) : all);
	guard.max_per_client = (unsigned)(l->per_client ? MIN(l->per_client, guard.max_conns) : guard.max_conns / 2);
	guard.delay_max_ns = MIN(l->login_delay_ns, DELAY_MAX_NS);
}
