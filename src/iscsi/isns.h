/* SPDX-License-Identifier: BSD-3-Clause
 * Client of the Internet Storage Name Service (RFC 4171) as an engine without I/O: registers a network entity with its
 * portals and targets, keeps the registration alive, puts the targets into a discovery domain, answers status
 * inquiries and change notifications, and deregisters at the end. net/isns.c drives it; all calls on one thread.
 * Everything from the server is hostile.
 *
 * An engine without an entity only answers: for connections that the name server makes to the event port. */
#ifndef LUNETTE_ISCSI_ISNS_H
#define LUNETTE_ISCSI_ISNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ISNS_PORT = 3205 };

/* addr: IPv6, or IPv4 mapped into it; an unspecified one stands for the address that reaches the name server. */
struct isns_portal { uint8_t addr[16]; uint16_t port, tpgt; };
struct isns_target {
	const char     *name, *alias;  /* alias or NULL */
	const uint16_t *tpgts;         /* portal groups through which it is reached; none = all */
	unsigned        ntpgts;
};
struct isns_entity {
	const char *id;                /* entity identifier, unique among all clients of the name server */
	const char *domain;            /* symbolic name or number of a discovery domain to which the targets are added, or NULL */
	const struct isns_portal *portals;
	unsigned    nportals;
	const struct isns_target *targets;
	unsigned    ntargets;
};

enum isns_event_kind {
	ISNS_EV_REGISTERED, /* all of it; text NULL */
	ISNS_EV_REFUSED,    /* text: what, and why; the connection is to be closed and tried again later */
	ISNS_EV_NO_DOMAIN,  /* text: why the targets are in no discovery domain; they are registered all the same */
	ISNS_EV_CHANGED,    /* a notification; text: name of the node that changed */
	ISNS_EV_LEFT,       /* after isns_leave(): the name server has forgotten us */
};
struct isns_event { enum isns_event_kind kind; const char *text; };

struct isns;
struct isns *isns_new(void); /* NULL: out of memory */
void isns_free(struct isns *i);
/* Copies e. On a connection that stands it registers anew. -ENOMEM. */
int  isns_set(struct isns *i, const struct isns_entity *e);
/* local: our end of the connection; event_port: where this address takes connections of the name server, 0 = nowhere. */
void isns_connected(struct isns *i, const uint8_t local[16], uint16_t event_port, uint64_t now_ns);
void isns_disconnected(struct isns *i);
void isns_rx(struct isns *i, const void *p, size_t len);
/* Bytes to send, which stay there until isns_tx_done() has counted all of them; 0 = none. */
size_t isns_tx(struct isns *i, const uint8_t **ret);
void isns_tx_done(struct isns *i, size_t len);
bool isns_next(struct isns *i, struct isns_event *ret); /* text is valid until the next call on i */
/* Refreshes, and gives up on an answer that does not come. Returns when to be called again. */
uint64_t isns_tick(struct isns *i, uint64_t now_ns);
void isns_leave(struct isns *i);

#endif
