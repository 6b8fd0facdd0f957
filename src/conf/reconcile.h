/* SPDX-License-Identifier: BSD-3-Clause
 * Makes what runs equal to the desired state: opens and closes disks, targets, portals. Every change of
 * configuration goes through server_apply(): prepare what is new (may fail, then nothing changed), then
 * publish (does not fail). Control thread, callbacks on the control loop. */
#ifndef LUNETTE_CONF_RECONCILE_H
#define LUNETTE_CONF_RECONCILE_H

#include "conf/store.h"
#include "conf/tree.h"
#include "net/net.h"

struct server;

/* published(ctx) after each server_apply(), when every loop has what is new and every portal listens; with an
 * error (and nothing listening) only after the first apply. */
struct server_events {
	void (*published)(void *ctx, const struct err *e);
	void *ctx;
};

int  server_new(struct server **ret, struct loop *control, struct store *store, const struct server_events *ev,
	struct err *e);
/* Takes c over on success (it is empty then). c must have been validated. -EAGAIN: the last change is still being
 * published; try again in a moment. What was removed may take longer to end, and holds up nothing. */
int  server_apply(struct server *s, struct conf *c, struct err *e);
/* Drains sessions, then closes every disk. done(ctx) when nothing runs any more; may never be called when a disk
 * hangs. server_free() is allowed after it only. */
void server_stop(struct server *s, uint64_t deadline_ns, void (*done)(void *ctx, unsigned forced), void *ctx);
void server_free(struct server *s);
const struct conf *server_conf(const struct server *s);

/* The unit of a volume, NULL: there is none. Good until the next server_apply() at least. */
struct lu *server_lu(struct server *s, const char *volume);

/* For status. */
struct server_lun { unsigned lun; const char *volume; struct lu *lu; bool ready; const char *why; };
struct server_portal { const char *name; uint64_t group; };
void server_each_target(struct server *s, void (*fn)(void *ctx, const char *name, const struct server_lun *luns,
	unsigned n), void *ctx);
void server_each_portal(struct server *s, void (*fn)(void *ctx, const struct server_portal *p), void *ctx);

#endif
