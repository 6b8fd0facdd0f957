/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's side of one iSCSI connection (RFC 7143), one connection to a session, as an engine without
 * I/O: bytes in, bytes and events out, time passed in. `lunette bench` drives it over a socket, the simulator over
 * a simulated network. All calls on one thread. Error recovery level 0: whatever goes wrong ends the connection and
 * returns every command with an error; to reconnect, make a new engine with the same ISID (the target reinstates
 * the session) and submit again what must not be lost.
 *
 *	i = iscsi_ini_new(&conf);
 *	loop:	n = iscsi_ini_tx(i, &iov); send; iscsi_ini_tx_done(i, sent);
 *		receive; iscsi_ini_rx(i, bytes, received);     (at end of stream: iscsi_ini_lost(i, why))
 *		while (iscsi_ini_next(i, &ev)) ...              INI_EV_LOGGED_IN: iscsi_ini_cmd() may be called
 *
 * Bytes may be fed from any buffer and in any pieces; the engine keeps no reference. Nothing calls back. */
#ifndef LUNETTE_ISCSI_INITIATOR_H
#define LUNETTE_ISCSI_INITIATOR_H

#include <sys/uio.h>

#include "base/list.h"
#include "iscsi/login.h"

enum { INI_CMDS_MAX = 4096, INI_R2T_MAX = 8, INI_CDB = 16, INI_NOP_DATA = 4096 };

struct iscsi_ini;

struct iscsi_ini_conf {
	const char *initiator;               /* our name; strings are borrowed for the life of the engine */
	const char *target;                  /* NULL: discovery session */
	uint8_t     isid[6];
	uint16_t    cid;
	struct iscsi_offer offer;            /* as initiator: digests offered CRC32C,None, or CRC32C alone if required */
	const struct iscsi_chap_user *chap;  /* our name and secret, or NULL: no authentication offered */
	const struct iscsi_chap_user *mutual; /* the target must prove this name (any if NULL) and secret; or NULL */
	unsigned    chap_algs;               /* mask of 1 << alg that are offered, strongest first; 0 = all */
	unsigned    max_cmds;                /* in flight, to INI_CMDS_MAX; 0 = 256 */
	uint32_t    first_cmd_sn;
	uint64_t    login_timeout_ns;        /* 0 = 15 s */
	uint64_t    nop_ns;                  /* silence after which the target is pinged, and then again until it is
	                                      * given up; 0 = never */
	void      (*random)(void *p, size_t n); /* CHAP challenges */
};
void iscsi_ini_conf_defaults(struct iscsi_ini_conf *c);

/* One SCSI command. The caller's until submitted and again from its INI_EV_CMD on. */
struct iscsi_ini_cmd {
	uint64_t    lun;                     /* as on the wire, SAM-5 4.7 (single level: lun << 48) */
	uint8_t     cdb[INI_CDB];
	uint8_t     attr;                    /* 11.3.1: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA */
	bool        immediate;
	const void *out;                     /* data to write; out and in exclude each other */
	uint32_t    out_len;                 /* bytes */
	void       *in;                      /* room for data that is read, or NULL: counted, checked and discarded */
	uint32_t    in_len;                  /* bytes expected */
	void       *ctx;                     /* the caller's */

	/* result */
	int         error;                   /* 0, or -errno: no SCSI status (connection lost, aborted) */
	uint8_t     response, status;        /* 11.4.3, 11.4.2 */
	bool        overflow, underflow;
	uint32_t    resid;                   /* bytes */
	uint32_t    in_got;                  /* bytes of data that arrived */
	uint16_t    sense_len;
	uint8_t     sense[LIM_SENSE];

	/* private */
	struct list node, datanode;
	uint32_t    itt, cmd_sn, next_data_sn;
	uint32_t    batch;                   /* the last one that it was part of; 0: not sent yet */
	uint32_t    unsol_at, unsol_end;     /* unsolicited Data-Out still to send */
	uint32_t    exp_r2t_sn;
	uint8_t     r2t_head, r2t_n;
	struct { uint32_t ttt, off, end, data_sn; } r2t[INI_R2T_MAX], unsol;
};

enum iscsi_ini_event_kind {
	INI_EV_NONE,
	INI_EV_LOGGED_IN,
	INI_EV_CMD,        /* cmd ended */
	INI_EV_TARGETS,    /* text: "TargetName=..\0TargetAddress=..\0...", len bytes, until the next call */
	INI_EV_TMF,        /* code: response (enum iscsi_tmf_rsp); ctx */
	INI_EV_NOP,        /* our ping was answered; text, len: the echoed data */
	INI_EV_LOGOUT,     /* code: response (11.15.1); close the socket */
	INI_EV_ASYNC,      /* code: AsyncEvent (11.9.1); text, len: sense data and more */
	INI_EV_REJECT,     /* code: reason (11.17.1); text: the rejected header */
	INI_EV_CLOSED,     /* the last event. text: why; code: login status when login was refused, else 0 */
};
struct iscsi_ini_event {
	enum iscsi_ini_event_kind kind;
	struct iscsi_ini_cmd *cmd;
	unsigned    code;
	const char *text;
	uint32_t    len;
	void       *ctx;
};

/* NULL: out of memory. The first Login Request is ready to be sent at once. */
struct iscsi_ini *iscsi_ini_new(const struct iscsi_ini_conf *conf);
void iscsi_ini_free(struct iscsi_ini *i); /* commands that did not end yet are forgotten, not touched */

void iscsi_ini_rx(struct iscsi_ini *i, const void *bytes, size_t len);
/* A batch that stays put until iscsi_ini_tx_done() has counted all of it; returns its segments, 0 = nothing. */
int  iscsi_ini_tx(struct iscsi_ini *i, struct iovec **ret_iov);
void iscsi_ini_tx_done(struct iscsi_ini *i, size_t bytes);
bool iscsi_ini_next(struct iscsi_ini *i, struct iscsi_ini_event *ret);
/* Login timeout, dead peer. Returns the next deadline (UINT64_MAX: none). */
uint64_t iscsi_ini_tick(struct iscsi_ini *i, uint64_t now_ns);
/* The transport is gone (or shall go): all commands end with -ECONNRESET, then INI_EV_CLOSED. */
void iscsi_ini_lost(struct iscsi_ini *i, const char *why);

/* In full feature phase; 0, -ENOTCONN, -EBUSY (max_cmds are in flight) or -EINVAL. A command waits inside while the
 * target's window is closed. */
int  iscsi_ini_cmd(struct iscsi_ini *i, struct iscsi_ini_cmd *cmd);
/* function: enum iscsi_tmf; ref: the task of ABORT TASK and QUERY TASK, else NULL. Commands that the target confirms
 * as aborted end with -ECANCELED before INI_EV_TMF. -EAGAIN: ref has not been sent yet, or has ended and
 * its event waits. */
int  iscsi_ini_tmf(struct iscsi_ini *i, enum iscsi_tmf function, uint64_t lun, struct iscsi_ini_cmd *ref, void *ctx);
int  iscsi_ini_ping(struct iscsi_ini *i, const void *data, uint32_t len);
int  iscsi_ini_send_targets(struct iscsi_ini *i, const char *value);
/* reason 11.14.1: 0 closes the session, 1 the connection. Every command should have ended. */
int  iscsi_ini_logout(struct iscsi_ini *i, uint8_t reason);

bool iscsi_ini_ready(const struct iscsi_ini *i);   /* full feature phase */
unsigned iscsi_ini_inflight(const struct iscsi_ini *i);
const struct iscsi_params *iscsi_ini_params(const struct iscsi_ini *i);
/* After INI_EV_CLOSED with LOGIN_MOVED_TEMP or _PERM: "addr[:port][,tag]" to log in at instead; else empty. */
const char *iscsi_ini_moved(const struct iscsi_ini *i);
uint16_t iscsi_ini_tsih(const struct iscsi_ini *i);

#endif
