/* SPDX-License-Identifier: BSD-3-Clause
 * The iSCSI server over TCP: portals, targets with their access rules, sessions. The only code that owns
 * sockets of the data path. Everything here is called on the control thread; answers that need the I/O loops
 * come by callback on the control loop. */
#ifndef LUNETTE_NET_NET_H
#define LUNETTE_NET_NET_H

#include <sys/socket.h>

#include "iscsi/login.h"
#include "scsi/lu.h"

/* loop_group must be filled; loops may run already. */
int  net_init(struct loop *control, struct err *e);
void net_fini(void); /* after net_drain() */

/* --- portals: addresses that listen, in portal groups --- */
struct net_portal;
/* addr "127.0.0.1:3260", "[::]:3260", "0.0.0.0" (port 3260). The error of a port in use names who holds it where
 * that can be known. "[::]" is IPv6 alone; who wants both gives 0.0.0.0 too. advertise: address told to clients
 * instead, or NULL. Port 0 picks one. */
int  net_portal_add(struct net_portal **ret, const char *addr, uint16_t tpgt, const char *advertise, struct err *e);
/* The same for a socket that listens already (given by a service manager, or simulated). */
int  net_portal_add_fd(struct net_portal **ret, int fd, const struct sockaddr *sa, uint16_t tpgt,
	const char *advertise, struct err *e);
/* Stops listening. evict: its connections are asked to log out, and closed if they do not; else they stay. */
void net_portal_remove(struct net_portal *p, bool evict);
/* Logins of normal sessions are answered with "target moved" and this "addr:port"; NULL: they are not. */
int  net_portal_redirect(struct net_portal *p, const char *addr, bool permanent, struct err *e);
/* "127.0.0.1:3260", as bound. */
const char *net_portal_name(const struct net_portal *p);

/* --- targets --- */
/* Addresses of clients; IPv4 is mapped into IPv6. */
struct net_range { uint8_t net[16]; unsigned bits; };
int net_range_parse(const char *text, struct net_range *ret); /* "192.0.2.0/24", "2001:db8::1"; 0 or -EINVAL */
/* Where logins go: to the portal they came to, or to the target's portal with the fewest sessions. */
enum net_balance { NET_STAY, NET_LEAST_SESSIONS };

struct net_user {
	const char *name, *secret;
	const char *previous;           /* secret that is being replaced, or NULL ... */
	int64_t     until_s;            /* ... taken until then, seconds since 1970 (UTC); 0 = as long as it is set */
};
struct net_target_conf {
	const char *name;               /* iSCSI name, valid */
	const char *alias;
	struct scsi_target *device;
	struct iscsi_offer offer;
	const struct net_user *users;   /* one-way CHAP, any of these; none = no authentication */
	unsigned nusers;
	const struct net_user *mutual;  /* or NULL */
	bool require_mutual;
	unsigned chap_algs;             /* mask of 1 << alg */
	const char *redirect;           /* "addr:port": logins are answered with "target moved", or NULL */
	bool redirect_permanent;
	enum net_balance balance;
	const char *const *initiators;  /* names, or beginnings of names with a star; none = all */
	unsigned ninitiators;
	const struct net_range *clients; /* none = all */
	unsigned nclients;
	const uint16_t *tpgts;          /* portal groups it is reached through; NULL = all */
	unsigned ntpgts;
};
/* Adds, or replaces the rules of the target of that name; copies what it needs. Sessions that exist stay. */
int  net_target_set(const struct net_target_conf *c, struct err *e);
/* New logins are refused; sessions get an asynchronous logout request and are closed; then gone(ctx). The
 * scsi_target is the caller's again. */
int  net_target_remove(const char *name, void (*gone)(void *ctx), void *ctx);
/* Authentication of discovery sessions (users may be none). */
int  net_discovery_auth(const struct net_user *users, unsigned n, const struct net_user *mutual, unsigned chap_algs,
	struct err *e);

/* --- registration with a name server (iSNS, RFC 4171) --- */
struct net_isns_portal { const char *addr; uint16_t tpgt; }; /* as initiators reach it; a wildcard will do */
struct net_isns_target { const char *name, *alias; const uint16_t *tpgts; unsigned ntpgts; };
struct net_isns_conf {
	const char *server;             /* "addr" or "addr:port" */
	const char *entity;             /* identifier, unique among the clients of the name server */
	const char *domain;             /* discovery domain to which the targets are added, or NULL */
	const struct net_isns_portal *portals;
	const struct net_isns_target *targets;
	unsigned nportals, ntargets;
};
/* Registers all of it in the place of what was registered, and keeps trying; copies what it needs. -EINVAL: an address. */
int  net_isns_set(const struct net_isns_conf *c, struct err *e);
/* Deregisters; done(ctx), at the latest after two seconds, and before this returns when nothing was registered. */
void net_isns_leave(void (*done)(void *ctx), void *ctx);
const char *net_isns_state(void);       /* "registered", or what is in the way; NULL: not asked for */

/* --- what clients may take --- */
struct net_limits {
	uint64_t connections;           /* in all; 0 = as the limit of open files allows */
	uint64_t per_client;            /* logged in from one address; 0 = half of all */
	uint64_t login_delay_ns;        /* most that the answer to a wrong secret is delayed */
};
int  net_limit(const struct net_limits *l);       /* -ENOMEM */

/* --- sessions --- */
struct net_conn_info {
	uint16_t cid;
	char     peer[64], local[64];   /* "addr:port" */
};
struct net_session_info {
	uint64_t id;                    /* for this process, never reused */
	char initiator[LIM_ISCSI_NAME + 1], target[LIM_ISCSI_NAME + 1], user[256];
	uint8_t isid[6];
	uint16_t tsih, tpgt;
	unsigned connections, loop;     /* connections: entries of conn; none while a session waits for one (level 2) */
	struct net_conn_info conn[LIM_CONNECTIONS];
	bool discovery;
	struct iscsi_params params;
	uint64_t since_ns, commands, bytes_in, bytes_out; /* monotonic; in = to the initiator */
	unsigned inflight;
};
/* Collects a snapshot of all sessions, then done(ctx, list, n); the list is freed after done returns. */
void net_sessions(void (*done)(void *ctx, const struct net_session_info *s, unsigned n), void *ctx);
/* Closes one session; -ENOENT through found. */
void net_session_kick(uint64_t id, void (*done)(void *ctx, bool found), void *ctx);

struct net_stats { uint64_t logins_ok, logins_refused, connections, sessions, digest_errors, rejects; };
void net_stats(struct net_stats *ret);

/* Stops listening, asks sessions to log out (async message), waits for commands in flight, closes what is left by
 * deadline_ns (monotonic). done(ctx, forced): connections that had to be cut. */
void net_drain(uint64_t deadline_ns, void (*done)(void *ctx, unsigned forced), void *ctx);

/* The block driver "iscsi" (lun.c), to be given to blk_register() before the configuration is read. init: before the first
 * disk is opened; fini: after the last was closed and while the I/O loops still run, waits a moment for its sockets. */
struct blk_ops;
extern const struct blk_ops net_blk_iscsi;
void net_blk_iscsi_init(struct loop *control);
void net_blk_iscsi_fini(void);

#endif
