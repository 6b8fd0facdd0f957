/* SPDX-License-Identifier: BSD-3-Clause
 * The addresses that listen, made equal to those of the configuration. */
#include "conf/portals.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static bool text_equal(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static struct portal *portal_find(struct list *portals, const struct conf_portal *c)
{
	struct portal *p;

	list_for_each(p, portals, node)
		if (strcmp(p->listen, c->listen) == 0 && p->group == c->group &&
		    text_equal(p->advertise, c->advertise))
			return p;
	return NULL;
}

/* evict: connections that came through it shall go. */
void portal_drop(struct portal *p, bool evict)
{
	if (p->net)
		net_portal_remove(p->net, evict);
	list_del(&p->node);
	free(p->listen);
	free(p->advertise);
	free(p);
}

static int portal_add(struct list *portals, const struct conf_portal *c, struct err *e)
{
	struct portal *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(e, -ENOMEM, "out of memory");
	list_init(&p->node);
	p->listen = strdup(c->listen);
	p->advertise = c->advertise ? strdup(c->advertise) : NULL;
	p->group = c->group;
	int r = p->listen ? net_portal_add(&p->net, c->listen, (uint16_t)c->group, c->advertise, e) :
			err_set(e, -ENOMEM, "out of memory");
	if (r < 0) {
		portal_drop(p, false);
		return r;
	}
	p->wanted = true;
	list_add_tail(portals, &p->node);
	return 0;
}

/* An address whose group changed cannot be bound twice: the old listener goes first. Sessions stay, but those of another
 * group, which is part of what their initiators know them by. */
static void portal_make_way(struct list *portals, const struct conf_portal *c)
{
	struct portal *p, *tmp;

	list_for_each_safe(p, tmp, portals, node)
		if (!p->wanted && strcmp(p->listen, c->listen) == 0)
			portal_drop(p, p->group != c->group);
}

void portals_unwanted(struct list *portals)
{
	struct portal *p, *tmp;

	list_for_each_safe(p, tmp, portals, node)
		if (!p->wanted)
			portal_drop(p, true);
}

static void portals_mark(struct list *portals, const struct conf *c)
{
	const struct conf_portal *cp = c->portals.items;
	struct portal *p;

	list_for_each(p, portals, node)
		p->wanted = false;
	for (unsigned i = 0; i < c->portals.n; i++) {
		p = portal_find(portals, &cp[i]);
		if (p)
			p->wanted = true;
	}
}

static bool is_occupied(struct list *portals, const char *listen)
{
	struct portal *p;

	list_for_each(p, portals, node)
		if (strcmp(p->listen, listen) == 0)
			return true;
	return false;
}

static int portals_pass(struct list *portals, const struct conf *c, bool occupied, struct err *e)
{
	const struct conf_portal *cp = c->portals.items;
	char at[32];

	for (unsigned i = 0; i < c->portals.n; i++) {
		if (portal_find(portals, &cp[i]) || is_occupied(portals, cp[i].listen) != occupied)
			continue;
		portal_make_way(portals, &cp[i]);
		int r = portal_add(portals, &cp[i], e);
		if (r < 0) {
			snprintf(at, sizeof(at), "portals/%u/listen", i);
			err_prefix(e, at);
			return r;
		}
	}
	return 0;
}

/* Opens the portals that are not open: new addresses first, since they may fail, and then nothing else changed. */
int portals_open(struct list *portals, const struct conf *c, struct err *e)
{
	struct portal *p, *tmp;

	portals_mark(portals, c);
	list_for_each(p, portals, node)
		p->old = true;
	int r = portals_pass(portals, c, false, e);
	if (r == 0)
		r = portals_pass(portals, c, true, e);
	list_for_each_safe(p, tmp, portals, node)
		if (r < 0 && !p->old)
			portal_drop(p, false);
	return r;
}

void portals_redirect(struct list *portals, const struct conf *c)
{
	const struct conf_portal *cp = c->portals.items;
	struct err e = { 0 };

	for (unsigned i = 0; i < c->portals.n; i++) {
		struct portal *p = portal_find(portals, &cp[i]);
		if (p && net_portal_redirect(p->net, cp[i].redirect, cp[i].redirect_permanent, &e) < 0)
			log_error("portal not redirected portal=%s reason=\"%s\"", cp[i].listen, e.text);
	}
}
