/* SPDX-License-Identifier: BSD-3-Clause
 * Which targets a client may use, through which portals it is told to, and where its login had better go (RFC 7143
 * 11.13.5, class 1). On home, but for the parsers. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/impl.h"

/* --- rules --- */

int net_range_parse(const char *text, struct net_range *ret)
{
	const char *slash = strchr(text, '/');
	char host[INET6_ADDRSTRLEN], *end = NULL;
	size_t n = slash ? (size_t)(slash - text) : strlen(text);
	unsigned long bits = slash ? strtoul(slash + 1, &end, 10) : 128;

	if (!n || n >= sizeof(host) || bits > 128 || (slash && (slash[1] < '0' || slash[1] > '9' || *end)))
		return -EINVAL;
	memcpy(host, text, n);
	host[n] = 0;
	memset(ret->net, 0, sizeof(ret->net));
	if (inet_pton(AF_INET, host, ret->net + 12) == 1) {
		ret->net[10] = ret->net[11] = 0xff;
		bits = slash ? bits + 96 : 128;
	} else if (inet_pton(AF_INET6, host, ret->net) != 1) {
		return -EINVAL;
	}
	ret->bits = (unsigned)bits;
	return bits > 128 ? -EINVAL : 0;
}

static bool in_range(const struct net_range *r, const uint8_t addr[16])
{
	unsigned whole = r->bits / 8, rest = r->bits % 8;

	if (memcmp(r->net, addr, whole))
		return false;
	return !rest || !((r->net[whole] ^ addr[whole]) >> (8 - rest));
}

/* Equal, or the pattern ends in a star that stands for anything. */
static bool name_matches(const char *pattern, const char *name)
{
	size_t n = strlen(pattern);

	if (n && pattern[n - 1] == '*')
		return !strncmp(pattern, name, n - 1);
	return !strcmp(pattern, name);
}

int access_copy(struct net_rules *r, const struct net_target_conf *conf)
{
	r->initiators = calloc(conf->ninitiators + 1, sizeof(*r->initiators));
	r->clients = calloc(conf->nclients + 1, sizeof(*r->clients));
	if (!r->initiators || !r->clients)
		return -ENOMEM;
	for (unsigned i = 0; i < conf->ninitiators; i++) {
		r->initiators[i] = strdup(conf->initiators[i]);
		if (!r->initiators[i])
			return -ENOMEM;
		r->ninitiators++;
	}
	r->nclients = conf->nclients;
	if (conf->nclients)
		memcpy(r->clients, conf->clients, conf->nclients * sizeof(*r->clients));
	r->balance = conf->balance;
	return 0;
}

void access_free(struct net_rules *r)
{
	for (unsigned i = 0; i < r->ninitiators; i++)
		free(r->initiators[i]);
	free(r->initiators);
	free(r->clients);
}

/* --- questions --- */

bool access_allows(const struct net_rules *r, const struct net_conn *c)
{
	bool named = !r->ninitiators, near = !r->nclients;
	uint8_t addr[16];

	for (unsigned i = 0; !named && i < r->ninitiators; i++)
		named = name_matches(r->initiators[i], c->msg.initiator);
	addr_mapped(&c->peer, addr);
	for (unsigned i = 0; !near && i < r->nclients; i++)
		near = in_range(&r->clients[i], addr);
	return named && near;
}

/* Discovery that authenticates knows the user; else whoever asks may turn out to be any. */
static bool user_may(const struct net_rules *r, const char *user)
{
	if (!r->policy.nusers || !*user)
		return true;
	for (unsigned i = 0; i < r->policy.nusers; i++)
		if (!strcmp(r->policy.users[i].name, user))
			return true;
	return false;
}

bool access_shows(const struct net_target *t, const struct net_conn *c)
{
	return !t->gone && access_allows(t->rules, c) && (!c->session || user_may(t->rules, c->session->user));
}

static bool is_loopback(const union addr *a)
{
	static const uint8_t one[16] = { [15] = 1 };
	uint8_t m[16];

	addr_mapped(a, m);
	return !memcmp(m, one, 16) || (IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)m) && m[12] == 127);
}

/* A portal on the loopback interface is of no use to clients that came from outside. */
bool access_reaches(const struct net_conn *c, const struct net_portal *p)
{
	return p->advertise[0] || !is_loopback(&p->addr) || is_loopback(&c->local);
}

/* --- where a login goes --- */

/* Another portal of the target that the login had better use, or NULL. A balancer that knows more is another row. */
static struct net_portal *stay(const struct net_conn *c, const struct net_target *t)
{
	return NULL;
}

static struct net_portal *least_sessions(const struct net_conn *c, const struct net_target *t)
{
	struct net_portal *here = portal_by_id(c->portal_id), *best = here, *p;

	list_for_each(p, &net.portals, node)
		if (here && !p->closing && !p->redirect[0] && target_in_group(t, p->tpgt) && access_reaches(c, p) &&
		    p->nsessions < best->nsessions)
			best = p;
	return best == here ? NULL : best;
}

static struct net_portal *(*const balance[])(const struct net_conn *c, const struct net_target *t) = {
	[NET_STAY] = stay, [NET_LEAST_SESSIONS] = least_sessions,
};

/* Of a login that begins a session. The target's own redirection goes first, then its portal's, then balance. */
void access_redirect(struct net_conn *c, const struct net_target *t)
{
	struct net_msg *m = &c->msg;
	const struct net_portal *here = portal_by_id(c->portal_id);

	m->moved = 0;
	if (t->rules->policy.status || m->tsih)
		return;
	if (here && here->redirect[0]) {
		m->moved = here->redirect_permanent ? LOGIN_MOVED_PERM : LOGIN_MOVED_TEMP;
		snprintf(m->address, sizeof(m->address), "%s", here->redirect);
		return;
	}
	const struct net_portal *to = balance[t->rules->balance](c, t);
	if (to && portal_address(c, to, m->address))
		m->moved = LOGIN_MOVED_TEMP;
}
