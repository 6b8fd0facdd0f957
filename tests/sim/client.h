/* SPDX-License-Identifier: BSD-3-Clause
 * An initiator in the simulated world: keeps commands in flight on blocks that others use as well, reconnects when
 * its connection ends, and holds every answer against the model. */
#ifndef LUNETTE_TESTS_SIM_CLIENT_H
#define LUNETTE_TESTS_SIM_CLIENT_H

#include "iscsi/initiator.h"
#include "loop/sim.h"

enum { CLIENTS_MAX = 4, DEPTH_MAX = 16 };

struct client_conf {
	unsigned number, ops, depth;
	unsigned blocks_max;      /* of one command */
	unsigned aborts_permille; /* of the moments at which it could abort something */
	bool     wce;             /* as the server's */
	bool     pings;           /* NOPs; without them nothing hides a wake-up that was forgotten */
	bool     calm;            /* nothing happens that could end a connection */
	bool     chap;            /* the server asks who it is */
	bool     errors;          /* medium errors and full disks are to be expected */
	unsigned connections, level;
	bool     flips;           /* bits may be flipped: digests are on, and PDUs may be rejected for theirs */
	bool     recovers;        /* level 2, and nothing fails but connections: no session ends, no command fails */
	bool     retry;           /* lost sessions are made anew by the engine, and most commands with them */
	struct iscsi_offer offer;
};

struct client *client_new(const struct client_conf *c);
void client_free(struct client *c);
bool client_finished(const struct client *c); /* all its commands have ended, and it has logged out */
/* The descriptor of one of its connections, -1 when it has none. */
int  client_fd(const struct client *c);
/* Spoils a bit on one of its connections that is logged in. */
void client_flip(const struct client *c);
/* No further new commands but reads of everything, once; then it ends. */
void client_check_all(struct client *c);
/* Words on what it is doing, for a run that is stuck. */
void client_describe(const struct client *c, char *out, size_t room);

/* Of all clients of this process: logins and commands that ended with status GOOD. */
extern unsigned client_sessions, client_commands;
/* What their engines repaired, added up when a client ends. */
extern struct iscsi_ini_stats client_repairs;

#endif
