/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's side of an iSCSI session (RFC 7143, 7144) over one or several connections, as an engine without I/O:
 * bytes in and out per connection, events, time passed in. net/initiator.c drives it over sockets, `lunette bench` over
 * sockets of its own, tests by hand. All calls on one thread.
 *
 *	i = iscsi_ini_new(&conf);
 *	loop:	next = iscsi_ini_tick(i, now);
 *		while (iscsi_ini_next(i, &ev)) ...
 *			INI_EV_CONNECT: dial for ev.conn, then iscsi_ini_up(i, ev.conn) or iscsi_ini_lost(i, ev.conn, why)
 *			INI_EV_HANGUP: end its transfers, close it, then iscsi_ini_lost(i, ev.conn, "closed")
 *			INI_EV_LOGGED_IN: iscsi_ini_cmd() may be called
 *		each connection that is up: n = iscsi_ini_tx(i, k, &iov); send; iscsi_ini_tx_done(i, k, sent);
 *			receive; iscsi_ini_rx(i, k, bytes, received);  (at its end: iscsi_ini_lost(i, k, why))
 *
 * Bytes may be fed from any buffer and in any pieces; the engine keeps no reference. Nothing calls back.
 *
 * What goes wrong is repaired here (docs/design/0009): at level 0 and 1 a lost connection is a lost session, which is made
 * anew for retry_ns; at level 2 the tasks of a lost connection go on on another. Memory that a command lends is the
 * engine's until its INI_EV_CMD, which comes only when no transfer of a transport that is up can still touch it. */
#ifndef LUNETTE_ISCSI_INITIATOR_H
#define LUNETTE_ISCSI_INITIATOR_H

#include <sys/uio.h>

#include "base/list.h"
#include "iscsi/login.h"

enum { INI_CMDS_MAX = 4096, INI_R2T_MAX = 8, INI_CDB = 16, INI_NOP_DATA = 4096, INI_CONNS_MAX = 16, INI_GAPS_MAX = 4 };

struct iscsi_ini;

struct iscsi_ini_conf {
	const char *initiator;               /* our name; strings are borrowed for the life of the engine */
	const char *target;                  /* NULL: discovery session */
	uint8_t     isid[6];
	uint16_t    cid;                     /* of the first connection; the others count on from it */
	struct iscsi_offer offer;            /* as initiator: digests offered CRC32C,None, or CRC32C alone if required */
	const struct iscsi_chap_user *chap;  /* our name and secret, or NULL: no authentication offered */
	const struct iscsi_chap_user *mutual; /* the target must prove this name (any if NULL) and secret; or NULL */
	unsigned    chap_algs;               /* mask of 1 << alg that are offered, strongest first; 0 = all */
	unsigned    max_cmds;                /* in flight, to INI_CMDS_MAX; 0 = 256 */
	unsigned    connections;             /* wanted, to INI_CONNS_MAX; 0 = 1; the target may allow fewer */
	uint32_t    first_cmd_sn;
	uint64_t    login_timeout_ns;        /* from dialing on; 0 = 15 s */
	uint64_t    nop_ns;                  /* silence after which the target is pinged, and then again until the
	                                      * connection is given up; 0 = never */
	uint64_t    probe_ns;                /* level 1: a command that makes no progress for so long is looked after; 0 = 1 s */
	uint64_t    retry_ns;                /* a lost session is made anew for so long; 0 = INI_EV_CLOSED at once */
	bool        forever;                 /* ... and beyond that, while commands fail at once with -ENOTCONN */
	bool        insist;                  /* the first login, too, may fail for retry_ns */
	bool        recover_by_login;        /* level 2: a lost connection is replaced by a login with its CID even where it
	                                      * could be logged out on another */
	void      (*random)(void *p, size_t n); /* CHAP challenges */
};
void iscsi_ini_conf_defaults(struct iscsi_ini_conf *c);
/* Levels 1 and 2 (13.20) with what belongs to them: short waits, room to come back, one R2T at a time (13.17). */
void iscsi_ini_conf_level(struct iscsi_ini_conf *c, unsigned level);

/* DataSN sn .. end that did not arrive, which hold bytes off .. off_end. */
struct ini_gap { uint32_t sn, end, off, off_end; };

/* One SCSI command. The caller's until submitted and again from its INI_EV_CMD on. */
struct iscsi_ini_cmd {
	uint64_t    lun;                     /* as on the wire, SAM-5 4.7 (single level: lun << 48) */
	uint8_t     cdb[INI_CDB];
	uint8_t     attr;                    /* 11.3.1: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA */
	uint8_t     priority;                /* RFC 7144 5.1.1, 0 to 15; sent where iSCSIProtocolLevel is 2 */
	bool        immediate;
	bool        retry;                   /* doing it twice is harmless: issued again when its session was lost */
	const void *out;                     /* data to write; out and in exclude each other */
	uint32_t    out_len;                 /* bytes */
	void       *in;                      /* room for data that is read, or NULL: counted, checked and discarded */
	uint32_t    in_len;                  /* bytes expected */
	void       *ctx;                     /* the caller's */

	/* result */
	int         error;                   /* 0, or -errno: no SCSI status (-ECONNRESET lost, -ECANCELED aborted) */
	uint8_t     response, status;        /* 11.4.3, 11.4.2 */
	uint16_t    qualifier;               /* RFC 7144 5.2.1 */
	bool        overflow, underflow;
	uint32_t    resid;                   /* bytes */
	uint32_t    in_got;                  /* bytes of data that arrived, without a hole */
	uint16_t    sense_len;
	uint8_t     sense[LIM_SENSE];

	/* private */
	struct list node, datanode;
	struct ini_conn *conn;               /* it is allegiant to, an orphan: was; NULL: waits */
	uint32_t    itt, cmd_sn, next_data_sn;
	uint32_t    batch;                   /* of its connection, the last one that it was part of; 0: not sent yet */
	uint32_t    unsol_at, unsol_end;     /* unsolicited Data-Out still to send */
	uint32_t    exp_r2t_sn;
	uint8_t     r2t_head, r2t_n;
	struct { uint32_t ttt, off, end, data_sn; } r2t[INI_R2T_MAX], unsol;
	/* level 1 and 2 */
	uint64_t    moved_ns, asked_ns;      /* last sign of progress; last SNACK */
	uint8_t     ngaps, asked;            /* asked: how often in vain */
	bool        ended, r2t_any, orphan, reassigning, queued, ack_due;
	uint32_t    ack_ttt;
	uint32_t    stat_sn, exp_data_sn;    /* ended: of its status, whose data is not complete */
	struct ini_gap gap[INI_GAPS_MAX];
};

enum iscsi_ini_event_kind {
	INI_EV_NONE,
	INI_EV_CONNECT,    /* dial for conn; text: "addr[:port]" that the target named, or empty: where the host wants to */
	INI_EV_HANGUP,     /* end conn; text: why */
	INI_EV_LOGGED_IN,  /* the session is up (again) */
	INI_EV_JOINED,     /* a further connection of it is in full feature phase, or came back */
	INI_EV_DOWN,       /* the session is lost and will be made anew; text: why */
	INI_EV_CMD,        /* cmd ended */
	INI_EV_TARGETS,    /* text: "TargetName=..\0TargetAddress=..\0...", len bytes, until the next call */
	INI_EV_TMF,        /* code: response (enum iscsi_tmf_rsp), info: additional response information; ctx */
	INI_EV_NOP,        /* our ping was answered; text, len: the echoed data */
	INI_EV_LOGOUT,     /* code: response (11.15.1) to iscsi_ini_logout() */
	INI_EV_ASYNC,      /* code: AsyncEvent (11.9.1); text, len: sense data and more. It has been honoured. */
	INI_EV_REJECT,     /* code: reason (11.17.1); text: the rejected header */
	INI_EV_CLOSED,     /* the last event. text: why; code: login status when login was refused, else 0 */
};
struct iscsi_ini_event {
	enum iscsi_ini_event_kind kind;
	unsigned    conn;
	struct iscsi_ini_cmd *cmd;
	unsigned    code;
	uint32_t    info;
	const char *text;
	uint32_t    len;
	void       *ctx;
};

/* How often what was repaired. */
struct iscsi_ini_stats {
	uint64_t logins, sessions_lost, connections_lost, data_snacks, r2t_snacks, status_snacks, data_acks, commands_resent,
		commands_reissued, reassigned, pings, duplicates, rejects;
};

/* NULL: out of memory. Asks for its first connection at once. */
struct iscsi_ini *iscsi_ini_new(const struct iscsi_ini_conf *conf);
void iscsi_ini_free(struct iscsi_ini *i); /* commands that did not end yet are forgotten, not touched */

/* The transport of connection k is there; its first Login Request is ready. */
void iscsi_ini_up(struct iscsi_ini *i, unsigned k);
/* It is gone, or could not be made; no transfer of it is in flight. */
void iscsi_ini_lost(struct iscsi_ini *i, unsigned k, const char *why);
void iscsi_ini_rx(struct iscsi_ini *i, unsigned k, const void *bytes, size_t len);
/* A batch that stays put until iscsi_ini_tx_done() has counted all of it; returns its segments, 0 = nothing. */
int  iscsi_ini_tx(struct iscsi_ini *i, unsigned k, struct iovec **ret_iov);
void iscsi_ini_tx_done(struct iscsi_ini *i, unsigned k, size_t bytes);
bool iscsi_ini_next(struct iscsi_ini *i, struct iscsi_ini_event *ret);
/* Timeouts, dialing again. Returns the next deadline (UINT64_MAX: none). */
uint64_t iscsi_ini_tick(struct iscsi_ini *i, uint64_t now_ns);
/* Ends it all without a word to the target: hang-ups, then INI_EV_CLOSED with why. */
void iscsi_ini_close(struct iscsi_ini *i, const char *why);
/* Gives up connection k as if its peer had broken a rule: INI_EV_HANGUP, then recovery. */
void iscsi_ini_drop(struct iscsi_ini *i, unsigned k, const char *why);

/* 0, -ENOTCONN (never logged in, closed, or retry_ns is over), -EBUSY (max_cmds are in flight) or -EINVAL. A command
 * waits inside while the target's window is closed or its session is being made anew. */
int  iscsi_ini_cmd(struct iscsi_ini *i, struct iscsi_ini_cmd *cmd);
/* function: enum iscsi_tmf but TASK REASSIGN; ref: the task of ABORT TASK and QUERY TASK, else NULL. Commands that the
 * target confirms as aborted end with -ECANCELED before INI_EV_TMF. -EAGAIN: ref is not with the target (not sent yet,
 * being recovered), or has ended and its event waits; -EOPNOTSUPP: needs iSCSIProtocolLevel 2. */
int  iscsi_ini_tmf(struct iscsi_ini *i, enum iscsi_tmf function, uint64_t lun, struct iscsi_ini_cmd *ref, void *ctx);
int  iscsi_ini_ping(struct iscsi_ini *i, unsigned k, const void *data, uint32_t len);
int  iscsi_ini_send_targets(struct iscsi_ini *i, const char *value);
/* Closes the session (11.14.1, reason 0). Every command should have ended. Its answer is INI_EV_LOGOUT, then hang-ups
 * and INI_EV_CLOSED. */
int  iscsi_ini_logout(struct iscsi_ini *i);

bool iscsi_ini_ready(const struct iscsi_ini *i);   /* a connection is in full feature phase */
unsigned iscsi_ini_inflight(const struct iscsi_ini *i);
bool iscsi_ini_joined(const struct iscsi_ini *i, unsigned k); /* connection k is */
unsigned iscsi_ini_connections(const struct iscsi_ini *i); /* in full feature phase */
const struct iscsi_params *iscsi_ini_params(const struct iscsi_ini *i); /* of the session and its leading connection */
const struct iscsi_ini_stats *iscsi_ini_stats(const struct iscsi_ini *i);
/* After INI_EV_CLOSED with LOGIN_MOVED_TEMP or _PERM (it was followed too often): where to; else empty. */
const char *iscsi_ini_moved(const struct iscsi_ini *i);
uint16_t iscsi_ini_tsih(const struct iscsi_ini *i);

#endif
