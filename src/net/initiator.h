/* SPDX-License-Identifier: BSD-3-Clause
 * Our initiator over sockets: makes and holds the transports of an engine (iscsi/initiator.h) on one loop. The commands
 * of lunette(1), the block driver for remote LUNs and the simulator's clients use it. All calls on that loop. */
#ifndef LUNETTE_NET_INITIATOR_H
#define LUNETTE_NET_INITIATOR_H

#include "iscsi/initiator.h"
#include "loop/loop.h"
#include "net/url.h"

struct net_ini;

struct net_ini_conf {
	struct iscsi_ini_conf ini;      /* its random may be NULL: the system's */
	const char *host, *port;        /* borrowed for life, as are the strings of ini; host may be a name */
	unsigned    rx_bytes;           /* of one receive; 0 = 256 KiB */
	int       (*socket)(void);      /* the simulator's; NULL: a real one */
	/* Every event of the engine but CONNECT and HANGUP. From the loop's queue, never from inside a call here or on
	 * the engine. May call the engine, and net_ini_close(). */
	void      (*event)(void *ctx, const struct iscsi_ini_event *ev);
	void       *ctx;
};

/* What a URL says: addresses, names, CHAP, connections, level, digests, protocol. u and chap (two of them: ours and the
 * target's) are borrowed for life. name: ours, unless the URL has one. The ISID is random. */
void net_ini_use_url(struct net_ini_conf *c, const struct url *u, const char *name, struct iscsi_chap_user chap[2]);
/* NULL: out of memory. Dialing begins in this turn. */
struct net_ini *net_ini_new(struct loop *l, const struct net_ini_conf *conf);
struct iscsi_ini *net_ini_engine(struct net_ini *n);
/* After calls on the engine outside event(): what they made is sent at the end of the turn. */
void net_ini_kick(struct net_ini *n);
/* Hangs up without a word; commands end (their events still come), and when nothing is in flight any more done runs, from
 * the loop's queue, and n is gone. After INI_EV_CLOSED too. */
void net_ini_close(struct net_ini *n, void (*done)(void *ctx), void *ctx);
/* Why the last dialing failed: -errno, 0: it did not. */
int  net_ini_errno(const struct net_ini *n);
/* The descriptor of connection k, -1: none. For the simulator, which cuts it. */
int  net_ini_fd(const struct net_ini *n, unsigned k);

#endif
