/* SPDX-License-Identifier: BSD-3-Clause
 * One volume at run time: its block stack, its logical unit, and the retries until it opens. Control thread. Used by
 * reconcile.c only. */
#ifndef LUNETTE_CONF_DISK_H
#define LUNETTE_CONF_DISK_H

#include "conf/store.h"
#include "conf/tree.h"

struct disk {
	struct list node;
	char *name, *identity;
	struct lu *lu;
	bool ready, claimed;
	bool retired;     /* no longer wanted: closed when maps is 0 */
	bool closing;
	unsigned maps;    /* LUN maps of targets that contain it, or did until the loops have the next */
	bool fresh;       /* no LUN map had it yet */
	bool seen;        /* by the pass over targets that runs */
	struct alua_change *paths; /* its access states by the configuration */
	unsigned npaths;
	int  poll_status; /* last answer of poll_size: a change is logged once */
	char why[ERR_TEXT_MAX]; /* why it is not ready */
	void (*gone)(struct disk *d);
	void *ctx;
};

/* starting: failing to open a required medium is an error. Else the logical unit is there but not ready. */
int  disk_open(struct disk **ret, struct conf_volume *v, struct store *store, bool starting, struct err *e);
/* Not ready: tries again. Ready: looks whether the capacity changed. About once a second. */
void disk_tick(struct disk *d, struct conf_volume *v, struct store *store);
/* Ready: its medium takes the size of v, which differs in nothing else. */
int  disk_grow(struct disk *d, struct conf_volume *v, struct err *e);
/* The access states that the configuration gives it; before it is in a LUN map for the first time. */
void disk_set_paths(struct disk *d, const struct alua_change *c, unsigned n);
/* Retired and in no map: closes; gone(d) follows, then the caller calls disk_free(). */
void disk_close(struct disk *d, void (*gone)(struct disk *d), void *ctx);
void disk_free(struct disk *d, struct store *store);

#endif
