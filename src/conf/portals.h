/* SPDX-License-Identifier: BSD-3-Clause
 * The portals that are open. Control thread; used by reconcile.c only. */
#ifndef LUNETTE_CONF_PORTALS_H
#define LUNETTE_CONF_PORTALS_H

#include "conf/tree.h"
#include "net/net.h"

struct portal {
	struct list node;
	char *listen, *advertise;
	uint64_t group;
	struct net_portal *net;
	bool wanted, old; /* old: open before this change */
};

/* Opens the portals that are not open: new addresses first, since they may fail, and then nothing else changed. */
int  portals_open(struct list *portals, const struct conf *c, struct err *e);
/* Closes those that the last portals_open() did not name. */
void portals_unwanted(struct list *portals);
/* Tells each where its logins are sent. */
void portals_redirect(struct list *portals, const struct conf *c);
/* evict: connections that came through it shall go. */
void portal_drop(struct portal *p, bool evict);

#endif
