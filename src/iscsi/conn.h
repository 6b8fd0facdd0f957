/* SPDX-License-Identifier: BSD-3-Clause
 * The target's side of one iSCSI connection (RFC 7143) as an engine without I/O: bytes in, bytes and
 * events out, time passed in. net/stream.c drives it over a socket, tests over a pipe. All calls on the loop of
 * its session; SCSI commands go straight to scsi/ (whose done() never runs inside a call), everything that
 * the server must decide is an event that the host pulls.
 *
 * Memory: a quiet connection costs this struct; read-ahead, transmit batch and tasks come from the loop's pool
 * while they are in use. */
#ifndef LUNETTE_ISCSI_CONN_H
#define LUNETTE_ISCSI_CONN_H

#include <sys/uio.h>

#include "iscsi/login.h"
#include "scsi/scsi.h"

struct iscsi_conn;
struct iscsi_session;
struct iscsi_pool;

enum iscsi_event_kind {
	ISCSI_EV_NONE,
	ISCSI_EV_POLICY,       /* login named its parties: answer with iscsi_conn_policy() */
	ISCSI_EV_ADMIT,        /* authenticated: answer with iscsi_conn_admit() */
	ISCSI_EV_FULL_FEATURE, /* the final login response left */
	ISCSI_EV_SEND_TARGETS, /* answer with iscsi_conn_targets(); text = what was asked (All, name, "") */
	ISCSI_EV_COLD_RESET,   /* TARGET COLD RESET is done: close every connection of the target */
	ISCSI_EV_NEXUS_RESET,  /* I_T NEXUS RESET is done: close every connection of the session, keep nothing of it */
	ISCSI_EV_TICK,         /* a deadline came nearer: call iscsi_tick() and set the timer to what it says */
	ISCSI_EV_LOGOUT,       /* the logout response left: close the socket in good order */
	ISCSI_EV_CLOSE,        /* close the socket now; why says the reason */
};
struct iscsi_event {
	enum iscsi_event_kind kind;
	const char *text; /* SEND_TARGETS: the value; CLOSE: the reason for the log */
};

/* What the host gives. wake: something to send or an event appeared outside iscsi_rx() (a command ended);
 * the host then calls iscsi_tx() and iscsi_next() later in the turn. Must not call back in. */
struct iscsi_host {
	void (*wake)(void *user);
	void (*random)(void *p, size_t n);
};

/* One per loop: slabs of tasks, read-ahead buffers and transmit batches. */
struct iscsi_pool *iscsi_pool_new(struct loop *l, uint64_t budget_bytes); /* of data in flight */
void iscsi_pool_free(struct iscsi_pool *p); /* no connection and no task left */

struct iscsi_conn *iscsi_conn_new(struct iscsi_pool *pool, const struct iscsi_host *host, void *user);
/* The socket is gone. Tasks that still run are detached and end by themselves. */
void iscsi_conn_free(struct iscsi_conn *c);

/* Where the next bytes shall land: up to max segments, data of a write in its pages first, then read-ahead.
 * Returns the number of segments; 0 = do not read now. The memory stays put until iscsi_rx(). */
int  iscsi_rx_want(struct iscsi_conn *c, struct iovec *iov, int max);
/* Whether the data of a long PDU is coming, or came last. */
bool iscsi_rx_bulk(const struct iscsi_conn *c);
void iscsi_rx(struct iscsi_conn *c, size_t bytes); /* that many arrived, in iov order */
/* What is to be sent: a batch that stays put until iscsi_tx_done() has counted all of it. 0 = nothing. */
int  iscsi_tx(struct iscsi_conn *c, struct iovec **ret_iov);
void iscsi_tx_done(struct iscsi_conn *c, size_t bytes);
bool iscsi_tx_pending(const struct iscsi_conn *c); /* iscsi_tx() has something to say or to give back */
/* Events, oldest first; false: none. */
bool iscsi_next(struct iscsi_conn *c, struct iscsi_event *ret);
/* Timeouts: login (LIM_LOGIN_NS_PER_S), dead peer (NOP-In unanswered). Returns the next deadline. stalled: time jumped
 * (suspend, stopped process); nothing is declared dead in this call. */
uint64_t iscsi_tick(struct iscsi_conn *c, uint64_t now_ns, bool stalled);

/* Answers to events. */
void iscsi_conn_policy(struct iscsi_conn *c, const struct iscsi_login_policy *p);
/* status 0: the connection joins s: a new one that the host made, or one that it found and that has room
 * (iscsi_session_room) and no connection of this CID (iscsi_session_conn). Else refused. */
void iscsi_conn_admit(struct iscsi_conn *c, uint16_t status, struct iscsi_session *s);
/* A login with the CID of c takes its place (6.3.4): c is closed, the host frees it, then admits the new one. */
void iscsi_conn_reinstated(struct iscsi_conn *c);
/* To the loop of the session that it joins, while it waits for admission with nothing in flight: move on the
 * old loop, arrived on the new one. */
void iscsi_conn_move(struct iscsi_conn *c, struct iscsi_pool *to);
void iscsi_conn_arrived(struct iscsi_conn *c);
void iscsi_conn_targets(struct iscsi_conn *c, struct iscsi_text *answer); /* takes the text over */

const struct iscsi_login *iscsi_conn_login(const struct iscsi_conn *c); /* while login lasts, else NULL */
void iscsi_conn_login_done(struct iscsi_conn *c); /* in full feature phase: frees what login needed */
const struct iscsi_params *iscsi_conn_params(const struct iscsi_conn *c);
uint16_t iscsi_conn_cid(const struct iscsi_conn *c);
struct iscsi_session *iscsi_conn_session(const struct iscsi_conn *c);   /* NULL before admission */
/* Asynchronous messages, 11.9.1; nothing is sent outside full feature phase. The host may call them at any time but
 * inside the engine.
 * 1: please log out within seconds; the host closes what stays. */
void iscsi_conn_ask_logout(struct iscsi_conn *c, uint16_t seconds);
/* 2: connection cid of the session will be dropped; 3: all of them will. Its tasks can be reassigned after time2wait
 * seconds and for time2retain seconds more; 0: they are terminated. */
void iscsi_conn_tell_drop(struct iscsi_conn *c, uint16_t cid, uint16_t time2wait, uint16_t time2retain);
void iscsi_conn_tell_session_drop(struct iscsi_conn *c, uint16_t time2wait, uint16_t time2retain);
/* 4: please send a text request within seconds: the target wants to negotiate. */
void iscsi_conn_ask_text(struct iscsi_conn *c, uint16_t seconds);
/* The same, to declare another MaxRecvDataSegmentLength of ours; it is told in the next text exchange. */
void iscsi_conn_declare(struct iscsi_conn *c, uint32_t max_recv_segment, uint16_t seconds);
/* 0: a SCSI event of that logical unit. */
void iscsi_conn_scsi_event(struct iscsi_conn *c, const uint8_t lun[8], const void *sense, uint16_t len);
/* New SCSI commands are rejected (0x0c, waiting for logout); what was begun ends, with its data, and is answered. */
void iscsi_conn_quiesce(struct iscsi_conn *c);
/* The end: asynchronous message 2, for this connection, or 3, for the session, then ISCSI_EV_CLOSE with why (NULL: in good
 * order). */
void iscsi_conn_drop(struct iscsi_conn *c, bool session, uint16_t time2wait, uint16_t time2retain, const char *why);
void iscsi_conn_deafen(struct iscsi_conn *c); /* reads no more: what runs ends and is answered */
bool iscsi_conn_idle(const struct iscsi_conn *c); /* no task, nothing to send */

/* --- sessions: CmdSN order and tasks over the connections of one session --- */
struct iscsi_session_stats { uint64_t commands, bytes_in, bytes_out; unsigned inflight, connections; };
/* nexus NULL: discovery. window: commands that may be in flight. exp_cmd_sn: of the first command. */
struct iscsi_session *iscsi_session_new(struct scsi_nexus *nexus, const struct iscsi_params *p, uint16_t tsih,
	uint32_t exp_cmd_sn, uint32_t window);
/* Commands in flight that are allowed from now on; MaxCmdSN never goes back, so less takes effect by and by. */
void iscsi_session_window(struct iscsi_session *s, uint32_t window);
/* The host's pointer of the connection that has this CID, or NULL. */
void *iscsi_session_conn(struct iscsi_session *s, uint16_t cid);
bool iscsi_session_room(const struct iscsi_session *s); /* for one more connection, 13.2 */
/* The initiator closed it: the host closes every connection. */
bool iscsi_session_logged_out(const struct iscsi_session *s);
/* From now on nothing of a connection outlives it, and none joins: the session ends with its last connection. */
void iscsi_session_close(struct iscsi_session *s);
bool iscsi_session_closing(const struct iscsi_session *s);
/* Level 2: tasks of lost connections that nobody has reassigned in time end. After the end of a connection and whenever
 * the returned time has come; UINT64_MAX: nothing waits, and a session without a connection is over. */
uint64_t iscsi_session_tick(struct iscsi_session *s, uint64_t now_ns);
const struct iscsi_params *iscsi_session_params(const struct iscsi_session *s);
/* No connection left and the nexus closed. */
void iscsi_session_free(struct iscsi_session *s);
struct scsi_nexus *iscsi_session_nexus(const struct iscsi_session *s);
uint16_t iscsi_session_tsih(const struct iscsi_session *s);
void iscsi_session_stats(const struct iscsi_session *s, struct iscsi_session_stats *ret);

#endif
