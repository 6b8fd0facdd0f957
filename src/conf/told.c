/* SPDX-License-Identifier: BSD-3-Clause
 * See told.h. */
#include "conf/told.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "net/net.h"

uint16_t *told_tags(const struct conf_list *list)
{
	uint16_t *tags = calloc(list->n + 1, sizeof(*tags));

	CHECK(tags);
	for (unsigned i = 0; i < list->n; i++)
		tags[i] = (uint16_t)strtoul(((char **)list->items)[i], NULL, 10);
	return tags;
}

void told_limits(const struct conf_server *c)
{
	struct net_limits l = { c->max_connections, c->max_per_client, c->login_delay_ns };

	if (net_limit(&l) < 0)
		log_error("limits of connections not set reason=\"out of memory\"");
}

bool told_names_changed(const json_t *old, const json_t *new)
{
	static const char *const parts[] = { "isns", "portals", "targets" };

	for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
		const json_t *x = json_object_get(old, parts[i]), *y = json_object_get(new, parts[i]);
		if ((x || y) && !json_equal(x, y))
			return true;
	}
	return false;
}

static void nothing(void *ctx)
{
}

static int register_names(const struct conf *c, const char *entity, struct err *e)
{
	const struct conf_portal *cp = c->portals.items;
	const struct conf_target *ct = c->targets.items;
	struct net_isns_portal *portals = calloc(c->portals.n + 1, sizeof(*portals));
	struct net_isns_target *targets = calloc(c->targets.n + 1, sizeof(*targets));
	struct net_isns_conf n = { .server = c->isns.server, .entity = entity, .domain = c->isns.domain, .portals = portals,
		.targets = targets, .nportals = c->portals.n, .ntargets = c->targets.n };

	CHECK(portals && targets);
	for (unsigned i = 0; i < n.nportals; i++)
		portals[i] = (struct net_isns_portal){ cp[i].advertise ? cp[i].advertise : cp[i].listen,
			(uint16_t)cp[i].group };
	for (unsigned i = 0; i < n.ntargets; i++)
		targets[i] = (struct net_isns_target){ ct[i].name, ct[i].alias, told_tags(&ct[i].groups), ct[i].groups.n };
	int r = net_isns_set(&n, e);
	for (unsigned i = 0; i < n.ntargets; i++)
		free((uint16_t *)targets[i].tpgts);
	free(portals);
	free(targets);
	return r;
}

void told_names(const struct conf *c)
{
	char host[256] = "lunette";
	struct err e = { 0 };

	gethostname(host, sizeof(host) - 1);
	if (!c->isns.server)
		net_isns_leave(nothing, NULL);
	else if (register_names(c, c->isns.entity ? c->isns.entity : host, &e) < 0)
		log_error("isns not used reason=\"%s\"", e.text);
}
