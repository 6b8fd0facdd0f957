/* SPDX-License-Identifier: BSD-3-Clause
 * Private to the initiator's engine.
 *
 *   initiator.c         life, commands, events, time
 *   initiator_session.c connections: dialing, loss, recovery of connections and of the session
 *   initiator_tmf.c     requests that are no SCSI commands
 *   initiator_rx.c      bytes -> PDUs -> results
 *   initiator_async.c   what the target says unasked: Async, Reject, NOP-In
 *   initiator_snack.c   level 1: numbers that are missing, SNACK, probes
 *   initiator_tx.c      requests -> bytes: batches, Data-Out, digests
 *   initiator_login.c   login phase: stages, CHAP, keys */
#ifndef LUNETTE_ISCSI_INITIATOR_IMPL_H
#define LUNETTE_ISCSI_INITIATOR_IMPL_H

#include "iscsi/chap.h"
#include "iscsi/initiator.h"
#include "iscsi/keys.h"

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull

enum {
	INI_IOV = 1024,
	INI_HDR = 64 << 10,         /* header, padding and digest bytes of one batch */
	INI_PDU_OVERHEAD = 64,      /* header, its digest, padding, data digest */
	INI_EVENTS_MAX = 256,       /* events that a peer may queue up before it is cut off */
	INI_CTL_MAX = 1024,         /* requests that may wait for a peer that asks and does not read */
	INI_TMF_MAX = 64,
	INI_HOPS_MAX = 8,           /* redirects followed one after the other */
	INI_STATS_AHEAD = 64,       /* StatSN that may be missing at once */
	INI_ASK_MAX = 8,            /* SNACKs for the same thing */
	INI_ITT_OWN = 1u << 31,     /* ITTs of requests that are no SCSI commands */
};

enum ini_state {
	INI_STARTING,               /* the first login */
	INI_UP,
	INI_FALLING,                /* lost; its transports are being closed */
	INI_DOWN,                   /* lost; being made anew */
	INI_LEAVING,                /* closes its connections for good */
	INI_CLOSED,
};
enum ini_conn_state {
	CONN_IDLE,
	CONN_WAIT,                  /* to be dialed at dial_ns */
	CONN_DIAL,                  /* the host was asked to */
	CONN_LOGIN, CONN_FFP,
	CONN_LOGOUT,                /* our Logout Request for it is out */
	CONN_OUT,                   /* ... and answered: hanging up */
	CONN_BAD,                   /* given up: the host was asked to hang up */
};
enum ini_step { STEP_METHOD, STEP_CHAP_A, STEP_CHAP_R, STEP_OPERATIONAL };
enum ini_rx { RX_BHS, RX_DATA, RX_TRAILER };
enum ini_take { TAKE_NOT, TAKE_NEW, TAKE_GAP, TAKE_BAD }; /* a Data-In: seen before; new; fills a gap; is wrong */

/* A request that is no SCSI command. */
struct ini_ctl {
	struct list node;
	bool        sn_set;         /* gets CmdSN and ExpStatSN when sent */
	bool        exp_stat_sn_set; /* its header has an ExpStatSN of its own */
	bool        numbered;       /* not immediate: takes the CmdSN that its header has, to fill a hole */
	uint8_t     bhs[ISCSI_BHS];
	uint32_t    len;
	uint8_t     data[];
};

struct ini_tmf {
	bool used;
	uint8_t function;
	uint32_t itt, cmd_sn;
	uint64_t lun;
	struct iscsi_ini_cmd *ref;
	struct ini_conn *conn;      /* it was sent on; NULL: to be sent again */
	uint64_t sent_ns;
	void *ctx;
};

struct ini_event { struct list node; struct iscsi_ini_event ev; char data[]; };

struct ini_conn {
	struct iscsi_ini     *i;
	unsigned              k;
	enum ini_conn_state   state;
	struct iscsi_params   params;
	bool                  header_digest, data_digest; /* in force */
	bool                  transport;    /* the host has one, or is making it */
	bool                  tell_connect, tell_hangup;
	bool                  draining;     /* is asked to log out: takes no further commands */
	bool                  orphaned;     /* level 2: the target must hear of its end before its tasks go on */
	bool                  unsure;       /* joined: its tasks are not moved before it has told what was counted of them */
	bool                  ffp;          /* this transport has been in full feature phase */
	bool                  text_wanted;  /* an answer to SendTargets is to come */
	char                  why[120];
	unsigned              code;         /* login status */
	char                  addr[288];    /* where the target sent it, or empty */
	unsigned              hops, tries;
	uint64_t              dial_ns, up_ns, drain_ns, wait_ns; /* wait_ns: what Async 2 or 3 asked for, else 0 */
	uint32_t              logout_itt;   /* of the Logout Request that concerns this connection */
	uint8_t               logout_reason;
	uint64_t              logout_ns;
	unsigned              logouts;      /* carried here for others, not answered yet */
	struct ini_conn      *logout_via;   /* where it was sent; NULL: none is out */

	/* numbers */
	uint32_t              exp_stat_sn;
	uint32_t              last_ack;     /* what was acknowledged when its transport was lost */
	bool                  stat_sn_known;
	uint64_t              stat_seen;    /* bit n: exp_stat_sn + 1 + n has arrived */
	uint32_t              stat_asked;   /* StatSN up to here, exclusive, were asked for */
	unsigned              stat_tries;
	uint64_t              stat_asked_ns;
	unsigned              held;         /* statuses that must not be acknowledged yet */

	/* login */
	enum ini_step         step;
	struct iscsi_keys     keys;
	struct iscsi_text     text;         /* what the target said, over all C bits */
	unsigned              login_pdus;
	uint8_t               challenge[16], chap_id;
	int                   chap_alg;
	uint8_t               csg, nsg;
	uint32_t              login_itt;

	/* commands */
	struct list           cmds;         /* with the target, or about to be sent again: node */
	struct list           data;         /* have Data-Out to send: datanode */
	struct list           again;        /* to be sent again with their CmdSN: datanode */
	struct list           linger;       /* have ended, but a batch still refers to them */
	struct list           ctl;
	unsigned              ncmds, nctl;

	/* receive */
	enum ini_rx           rx_state;
	uint8_t               rx_hdr[ISCSI_BHS + LIM_AHS + 4];
	uint32_t              rx_have, rx_need;
	uint8_t               rx_bhs[ISCSI_BHS];
	uint32_t              rx_len, rx_at, rx_crc, rx_trailer;
	struct iscsi_ini_cmd *rx_cmd;       /* of a Data-In that is kept */
	enum ini_take         rx_take;
	uint32_t              rx_off;
	uint8_t              *rx_buf;       /* data of anything else */
	uint8_t               rx_tail[8];

	/* transmit */
	struct iovec          iov[INI_IOV];
	int                   niov, at;
	uint32_t              hdr_used, batch;
	size_t                left;
	uint8_t              *hdr;

	uint64_t              heard_ns, pinged_ns; /* pinged_ns: 0 = not waiting for an answer */
	uint32_t              probe_itt;    /* 0: none out */
	uint64_t              probed_ns, scan_ns;
	bool                  heard;
};

struct iscsi_ini {
	struct iscsi_ini_conf conf;
	struct iscsi_params   params;
	enum ini_state        state;
	char                  why_text[160];
	unsigned              closed_code;
	bool                  closed_told, down_told, logged_out, expired;
	uint16_t              tsih;
	char                  moved[288];   /* TargetAddress of a "target moved" answer, or empty */
	uint32_t              cmd_sn, exp_cmd_sn, max_cmd_sn, own_itt;

	/* commands */
	struct iscsi_ini_cmd **slot;        /* by ITT & mask */
	uint32_t             *gen, *free_slot;
	unsigned              nslots, nfree, max_cmds;
	struct list           waiting;      /* without a CmdSN */
	unsigned              nwaiting;
	struct list           orphans;      /* have lost their connection, level 2 */
	struct list           done;
	struct ini_tmf        tmf[INI_TMF_MAX];
	bool                  tmf_waits;    /* some have no connection: for their task's, or for any */

	/* events */
	struct list           events;
	struct ini_event     *last_event;   /* its data is lent until the next iscsi_ini_next() */
	unsigned              nevents;

	struct ini_conn      *conn[INI_CONNS_MAX];
	unsigned              nconns;       /* that there are to be, at present */
	unsigned              tries;        /* of the session, since it was up */
	uint64_t              down_ns;      /* since when */
	uint64_t              orphan_ns, orphan_end_ns; /* reassigning begins, must have ended; 0: no orphans */
	uint64_t              now_ns;
	struct iscsi_ini_stats stats;
};

/* initiator.c */
void ini_finish(struct iscsi_ini *i, struct iscsi_ini_cmd *c, int error);
void ini_requeue(struct iscsi_ini *i, struct iscsi_ini_cmd *c); /* as if it had never been sent, at the head */
void ini_event(struct ini_conn *c, enum iscsi_ini_event_kind kind, unsigned code, uint32_t info, const void *data, uint32_t len,
	void *ctx);
struct iscsi_ini_cmd *ini_find(struct iscsi_ini *i, uint32_t itt);
/* initiator_session.c */
struct ini_conn *ini_conn_new(struct iscsi_ini *i, unsigned k);
void ini_conn_free(struct ini_conn *c);
void ini_fail(struct ini_conn *c, unsigned code, const char *why); /* gives the connection up */
void ini_end(struct iscsi_ini *i, unsigned code, const char *why); /* gives everything up */
void ini_session_lost(struct iscsi_ini *i, const char *why);
int  ini_logout(struct ini_conn *via, struct ini_conn *of, uint8_t reason);
void ini_joined(struct ini_conn *c);                               /* in full feature phase */
void ini_logout_answered(struct ini_conn *c, uint32_t itt, uint8_t response, uint16_t wait_s, uint16_t retain_s);
void ini_logout_again(struct ini_conn *via);
void ini_drain(struct ini_conn *c, unsigned seconds);
uint64_t ini_session_tick(struct iscsi_ini *i);
uint64_t ini_conn_tick(struct ini_conn *c);
bool ini_level(const struct iscsi_ini *i, unsigned level);
struct ini_conn *ini_any(const struct iscsi_ini *i); /* a connection that takes requests, or NULL */
/* initiator_tmf.c */
struct ini_ctl *ini_ctl(struct ini_conn *c, uint8_t opcode, uint32_t itt, const void *data, uint32_t len);
uint32_t ini_own_itt(struct iscsi_ini *i);
/* c speaks of a command whose TASK REASSIGN was sent there: it was granted, and the answer lost on the way. */
void ini_tmf_heard(struct ini_conn *c, struct iscsi_ini_cmd *cmd);
void ini_tmf_done(struct ini_conn *c, uint32_t itt, uint8_t response, uint32_t info);
void ini_tmf_forget(struct iscsi_ini *i, const struct iscsi_ini_cmd *cmd);
void ini_tmf_lost(struct ini_conn *c);
void ini_tmf_resend(struct iscsi_ini *i);
void ini_tmf_again(struct ini_conn *c);
bool ini_tmf_waits(const struct ini_conn *c);
void ini_tmf_end_all(struct iscsi_ini *i);
bool ini_tmf_stops_data(const struct iscsi_ini *i, const struct iscsi_ini_cmd *cmd);
void ini_tmf_numbered(struct ini_conn *c, uint32_t itt);
int  ini_reassign(struct ini_conn *c, struct iscsi_ini_cmd *cmd);
void ini_fill_hole(struct ini_conn *c, uint32_t cmd_sn);
/* initiator_login.c */
void ini_login_start(struct ini_conn *c);
void ini_login_rx(struct ini_conn *c, const uint8_t *bhs, const void *data, uint32_t len);
void ini_text_rx(struct ini_conn *c, const uint8_t *bhs, const void *data, uint32_t len);
/* initiator_rx.c */
void ini_try_finish(struct ini_conn *c, struct iscsi_ini_cmd *cmd);
/* initiator_async.c */
void ini_rx_nop(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len);
void ini_rx_async(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len);
void ini_rx_reject(struct ini_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t len);
/* initiator_snack.c */
bool ini_stat_sn(struct ini_conn *c, uint32_t sn);   /* true: new; false: seen before, or the connection was given up */
void ini_stat_ahead(struct ini_conn *c, uint32_t next); /* a PDU told the next StatSN */
void ini_stat_spoilt(struct ini_conn *c, uint32_t sn);  /* a PDU with that number came with a wrong data digest */
uint32_t ini_stat_ack(const struct ini_conn *c);
enum ini_take ini_data_take(struct ini_conn *c, struct iscsi_ini_cmd *cmd, const uint8_t *bhs, uint32_t len);
void ini_data_taken(struct ini_conn *c, struct iscsi_ini_cmd *cmd, const uint8_t *bhs, uint32_t len, bool good);
void ini_data_ask(struct ini_conn *c, struct iscsi_ini_cmd *cmd);
void ini_r2t_ask(struct ini_conn *c, struct iscsi_ini_cmd *cmd, uint32_t end);
void ini_probe_answered(struct ini_conn *c);
void ini_probe(struct ini_conn *c);
void ini_resend(struct ini_conn *c, struct iscsi_ini_cmd *cmd);
uint64_t ini_snack_tick(struct ini_conn *c);
/* initiator_tx.c */
bool ini_refers(const struct ini_conn *c, const struct iscsi_ini_cmd *cmd); /* a batch on its way has data of it */

#endif
