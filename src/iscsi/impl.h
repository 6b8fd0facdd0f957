/* SPDX-License-Identifier: BSD-3-Clause
 * Private to the target's engine: connection, session and task, and what its files call of each other.
 *
 *   conn.c    life of a connection, login, events, timeouts
 *   async.c   asynchronous messages
 *   fence.c   order of responses over several connections
 *   rx.c      bytes -> PDUs: framing, digests, where data lands
 *   request.c one handler per request opcode; CmdSN order (request_tmf.c, request_text.c: two that are long)
 *   data.c    SCSI Command: immediate data, memory, R2T, start (data_out.c: Data-Out and its recovery)
 *   lost.c    level 2: tasks of lost connections, TASK REASSIGN
 *   keep.c    level 1 and up: answers kept until they are acknowledged, SNACK
 *   tx.c      responses -> bytes: batches, Data-In, status, digests
 *   session.c CmdSN window, tasks by ITT, held requests
 *   pool.c    memory
 */
#ifndef LUNETTE_ISCSI_IMPL_H
#define LUNETTE_ISCSI_IMPL_H

#include "base/page.h"
#include "iscsi/conn.h"

struct iscsi_negotiation;

enum {
	RA_SMALL = 1152,          /* fits one header with the longest AHS (LIM_AHS) and both digests */
	RA_BIG = 256 << 10,       /* bytes: 62 write commands of 4 KiB in one receive */
	RA_AFTER_BULK = 4096,     /* read-ahead beyond a bulk PDU: its successor's data shall go to its pages */
	BULK_BYTES = 16 << 10,    /* a data segment from this size on is bulk */
	RA_QUIET = 64,            /* receives that fitted RA_SMALL before the big buffer goes back */
	TX_BATCH_BYTES = 512 << 10,
	TX_IOV = 512,
	TX_HDR = 16 << 10,        /* header bytes of one batch */
	TX_PDU_BYTES = 256 << 10, /* longest data segment that we send */
	TX_CTL_MAX = 256,         /* control PDUs waiting: beyond, reading stops (a peer that asks but does not read) */
	TX_CTL_BYTES = 1 << 20,   /* the same for the data of these (NOP-In, Text) */
	KEPT_SHARE = 4,           /* a quarter of the budget for data in flight */
	KEPT_CTL_MAX = 256,       /* control PDUs of a connection that wait for acknowledgement; older ones are given up */
	RECOVER_MAX = 32,         /* recovery R2Ts of a task, then it fails */
	SEQ_WAIT_S = 3,           /* seconds without data before a sequence counts as lost (7.1.4.1 b); doubled each time */
	ACK_WAIT_S = 2,           /* seconds that an answer waits for ExpStatSN before the initiator is asked ... */
	ACK_END_S = 60,           /* ... and without progress before the connection is closed */
	HELD_BYTES = 1 << 20,     /* data of requests that wait for their turn; SCSI data apart, which has its budget */
	IMMEDIATE_MAX = 32,       /* immediate commands of a session in progress; 4.2.2.1 wants two at least */
	TMF_MAX = 32,             /* task management functions of a session in progress */
	ITT_BUCKETS = 64,
	HELD_MAX = LIM_CMD_WINDOW,
	NOP_IDLE_S = 15,          /* seconds without a byte before the peer is asked for a sign of life ... */
	TMF_DATA_S = 2,           /* seconds that a function on many tasks waits for the data of R2Ts */
	DATA_WAIT_S = 60,         /* seconds that an R2T may wait for the next byte: it holds memory of others */
	NOP_WAIT_S = 15,          /* ... and how long it has to give one */
	DISCOVERY_IDLE_S = 600,   /* the same in a discovery session, which is not asked (7.4.3) but ended */
	TX_LIFE_BYTES = 4096,     /* that many taken by the socket at once are a sign of life: data that waited moves */
	LOGIN_S = 15,
};

#define NS_PER_S 1000000000ull

struct iscsi_pool {
	struct loop *loop;
	struct list  tasks, ctls;
	void        *ra, *txb;    /* free lists, linked through the first word */
	void        *slabs;       /* all that was made, likewise */
	/* Data in flight: what tasks hold or will hold in pages. Beyond the budget reads do not start and R2Ts are not
	 * sent; data that may come unasked is bounded by the windows. */
	uint64_t     budget, used;
	uint64_t     granted;     /* of used: by tasks that wait for nothing but their initiator and the medium */
	struct list  starved;     /* tasks that wait for it, oldest first */
	struct list  kept;        /* tasks that are answered and keep data for a retransmission ... */
	uint64_t     kept_bytes;  /* ... which may be a KEPT_SHARE of the budget, apart from it */
	unsigned     tasks_live, conns_live;
};

struct iscsi_r2t {
	uint32_t ttt, off, len, sn;
	uint32_t data_sn, got;    /* next DataSN; bytes that came in order */
	bool     bad;             /* something is missing: the rest of the sequence is discarded, then asked for again */
};

/* What waits to be sent, in order: a task's answer or a control PDU. */
enum tx_where { TX_NOWHERE, TX_QUEUED, TX_BATCH, TX_KEPT };
struct txitem {
	struct list   node;
	bool          ctl;
	bool          fence;       /* of fence.c */
	bool          numbered;    /* stat_sn was given to it, and stays */
	bool          again;       /* asked for by SNACK: to be sent once more (what of a task, it knows) */
	enum tx_where where;       /* kept up to date from level 1 on */
	uint32_t      stat_sn;
};

/* A request that arrived before its turn. */
struct held {
	struct list node;
	uint32_t    cmd_sn;
	struct iscsi_conn *conn;          /* NULL: only a place in the order that is taken */
	struct iscsi_task *task;          /* SCSI command, which this lies in; or NULL: */
	uint8_t     bhs[ISCSI_BHS];
	uint8_t    *data;
	uint32_t    len;
};

/* A place in a task's data. */
struct cursor {
	int      seg;              /* of cmd.iov */
	uint32_t seg_off;
};

enum task_state { TASK_HELD, TASK_DATA, TASK_EXEC, TASK_RESPOND, TASK_KEPT };

/* How the Data-In PDUs of a task are cut (level 1 and up): from base_sn on, which begins at base_off; first_burst bytes to
 * the next end of a sequence; xmit bytes each. */
struct segmentation { uint32_t base_sn, base_off, first_burst, xmit; };

struct iscsi_task {
	struct scsi_cmd       cmd;
	struct iscsi_pool    *pool;
	struct iscsi_conn    *conn;      /* its allegiance (4.3.x); NULL: none */
	struct iscsi_session *session;   /* NULL: nobody waits for it, ends without a word */
	struct list           node;      /* in conn->tasks */
	struct txitem         tx;        /* in conn->dataq, then in its batch */
	struct iscsi_task    *hash_next;
	struct list           starved;   /* in pool->starved, or by itself */
	uint32_t              charged;   /* bytes of the pool's budget */
	uint32_t              granted;   /* of these, see the pool */
	enum task_state       state;
	bool                  hashed, immediate, counted; /* counted: in the session's inflight ... */
	bool                  imm_counted; /* ... or nimmediate */
	bool                  finished;  /* scsi's done() ran; waits for sequences to drain */
	bool                  poisoned;  /* bad data arrived: fail once drained */
	bool                  stopping;  /* a task management function is about to end it: no new R2T */
	bool                  told;      /* of request_tmf.c, within one call */
	bool                  dead;      /* aborted while its data is being received: goes with that PDU */
	uint8_t               asc, ascq; /* what poisoned it */
	uint8_t               flags;     /* CMD_READ, CMD_WRITE */
	uint32_t              itt, cmd_sn, edtl;
	/* data-out */
	uint32_t              got;       /* bytes that came, of the unsolicited and of all solicited sequences */
	uint32_t              have;      /* bytes that iov has room for */
	uint32_t              unsol_end; /* unsolicited data may reach here */
	bool                  unsol;     /* an unsolicited sequence is open */
	bool                  unsol_bad; /* something of it is missing */
	uint32_t              unsol_sn;
	uint32_t              r2t_off;   /* next byte to solicit */
	uint32_t              r2t_sn, r2t_head, r2t_n;
	struct iscsi_r2t      r2t[LIM_R2T];
	uint32_t              at;        /* where the cursor stands while collecting, bytes from 0 */
	struct cursor         cur;       /* rx while collecting, tx while responding */
	/* data-in */
	uint32_t              tx_off, data_sn, burst_left;
	/* recovery */
	struct segmentation   cut;
	uint32_t              ack_sn, ack_off;  /* Data-In acknowledged up to here */
	uint32_t              ack_ttt;          /* names it in DataACK; 0 = none yet */
	uint32_t              redo_sn, redo_end; /* a run of Data-In to be sent again */
	struct cursor         redo;
	bool                  redo_status;
	bool                  forgot;    /* its data was given up: no room to keep it */
	uint32_t              snack_tag; /* of the last R-Data SNACK */
	bool                  adopted;   /* came to its connection by TASK REASSIGN ... */
	uint32_t              adopted_sn; /* ... whose answer has this StatSN or a later one */
	unsigned              recoveries; /* recovery R2Ts so far */
	uint64_t              seq_ns;    /* an R2T was sent or data came */
	uint32_t              kept_bytes;
	struct list           in_kept;   /* pool->kept, oldest first: has data that can be given up */
	struct held           held;
};

/* A PDU of our own that is no SCSI data or status. */
enum ctl_sn { CTL_STAT_SN, CTL_NEXT_STAT_SN, CTL_OWN }; /* consumes; carries; sets none of the three numbers */
enum ctl_after { AFTER_NONE, AFTER_FENCE, AFTER_FULL_FEATURE, AFTER_LOGOUT, AFTER_CLOSE };
struct iscsi_ctl {
	struct txitem  tx;                /* in conn->ctlq or dataq, then in its batch */
	struct iscsi_conn *conn;
	enum ctl_sn    sn;
	enum ctl_after after;
	uint8_t        bhs[ISCSI_BHS];
	uint8_t       *data;              /* malloc'ed, or small */
	uint32_t       len;
	uint8_t        small[ISCSI_BHS];
};

struct iscsi_txb {
	struct list  ctls, tasks;         /* whose last byte is in this batch */
	int          niov, at;            /* at: first segment not sent whole */
	size_t       left;                /* bytes not yet sent */
	uint32_t     hdr_used;
	struct iovec iov[TX_IOV];
	uint8_t      hdr[TX_HDR];
};

enum rx_state { RX_HEADER, RX_DATA, RX_TRAILER };
enum rx_where { RX_DISCARD, RX_TASK, RX_BUF };
enum conn_state { CONN_LOGIN, CONN_FFP, CONN_CLOSED };

struct iscsi_conn {
	struct iscsi_pool    *pool;
	struct iscsi_host     host;
	void                 *user;
	struct iscsi_session *session;
	struct list           in_session; /* session->conns, from admission on */
	struct iscsi_login   *login;
	struct iscsi_params   params;
	enum conn_state       state;
	bool                  header_digest, data_digest; /* in force */
	bool                  recover;    /* likewise: ErrorRecoveryLevel is 1 or 2 */
	uint16_t              cid;
	uint32_t              stat_sn;

	/* receive */
	uint8_t              *ra;         /* small or a big one of the pool */
	uint32_t              ra_size, ra_head, ra_tail, ra_quiet;
	uint32_t              rx_direct;  /* bytes of the last rx_want that lie in the task */
	enum rx_state         rx_state;
	enum rx_where         rx_where;
	struct iscsi_task    *rx_task;
	uint8_t              *rx_buf;     /* data of a request that is no SCSI data: malloc'ed */
	uint32_t              rx_len;     /* data segment length */
	uint32_t              rx_at;      /* of it, arrived */
	uint32_t              rx_keep;    /* of it, stored; the rest is discarded */
	uint32_t              rx_crc;
	bool                  rx_bulk;
	bool                  rx_good;    /* Data-Out: the next of its sequence */
	uint32_t              rx_r2t;     /* likewise: index of the R2T that it answers */
	uint8_t               bhs[ISCSI_BHS];

	/* transmit */
	struct list           ctlq, dataq;
	unsigned              nctl;
	size_t                ctl_bytes;  /* their data */
	struct iscsi_txb     *txb;

	struct list           kept;       /* txitems by StatSN: sent, not acknowledged */
	unsigned              nkept_ctls;
	uint32_t              acked_sn;   /* ExpStatSN of the initiator */
	uint64_t              ack_ns;     /* its last progress, or when there was nothing to acknowledge */

	struct list           tasks, tmfs;
	unsigned              ntmf;

	/* full-feature text negotiation */
	struct iscsi_text     text;
	uint32_t              text_itt, text_ttt;
	struct iscsi_text     text_out;
	uint32_t              text_sent;
	bool                  text_wait;  /* the host was asked for targets */
	bool                  text_final; /* F of its last request */
	uint8_t               text_lun[8];
	struct iscsi_negotiation *neg;    /* what the exchange has agreed so far, or NULL */
	uint32_t              declare;    /* our MaxRecvDataSegmentLength, to be told in the next exchange; 0 = told */
	bool                  deaf;       /* nothing more is read: about to close */
	bool                  login_wait; /* the host has not answered yet */
	bool                  silent;     /* a Logout Response was its last word (11.14) */
	bool                  logged_out; /* its end is no surprise to the initiator */
	bool                  reinstated; /* likewise: by a login with its CID */
	bool                  for_recovery; /* logged out so that its tasks can go to another connection */
	unsigned              nreassigns; /* TASK REASSIGNs of it that wait */
	bool                  no_commands; /* a discovery session, or it shall log out: SCSI commands are rejected */

	/* events */
	enum iscsi_event_kind ev[16];
	unsigned              ev_n;
	const char           *why;
	char                  send_targets[LIM_ISCSI_NAME + 1];

	/* time */
	uint64_t              now_ns, born_ns, heard_ns, ping_ns;
	uint64_t              data_ns;    /* an R2T was sent or data came */
	uint32_t              ping_ttt;
	uint32_t              fence_sn;   /* with fence_noted: ExpStatSN that a fence waits for */
	bool                  fence_wait, fence_noted;
	bool                  tx_moved;   /* since the last tick, see TX_LIFE_BYTES */

	uint8_t               small[RA_SMALL];
};

struct iscsi_session {
	struct scsi_nexus  *nexus;
	struct iscsi_params params;
	uint16_t            tsih;
	uint32_t            exp_cmd_sn, max_cmd_sn, window;
	unsigned            inflight;     /* ordered commands between begin and response */
	unsigned            nimmediate;   /* immediate ones, between arrival and end */
	unsigned            nconns, nheld;
	unsigned            ntmf_waits;   /* in tmf_waits */
	enum { FENCE_OPEN, FENCE_BEFORE, FENCE_AFTER } fence;
	unsigned            nkept;        /* tasks answered and not acknowledged */
	size_t              held_bytes;
	uint32_t            next_ttt;
	struct list         held;         /* by CmdSN */
	struct list         tmf_waits;    /* task management functions that wait for commands or data, oldest first */
	struct list         conns;
	struct list         lost;         /* of lost.c, oldest first */
	struct list         reassigns;    /* TASK REASSIGNs that wait for the end of a connection */
	unsigned            nlost;
	struct list         fenced;       /* txitem.node: responses that wait for it, or are it */
	bool                closing;      /* nothing of a connection outlives it, and none joins */
	bool                logged_out;   /* as a whole */
	struct iscsi_session_stats stats;
	struct iscsi_task  *itt[ITT_BUCKETS];
};

/* pool.c */
struct iscsi_task *task_get(struct iscsi_conn *c);
void task_put(struct iscsi_task *t);              /* fini, unhash, uncount, free */
struct iscsi_ctl *ctl_get(struct iscsi_pool *p);
void ctl_put(struct iscsi_pool *p, struct iscsi_ctl *k);
void *ra_get(struct iscsi_pool *p);
void ra_put(struct iscsi_pool *p, void *ra);
struct iscsi_txb *txb_get(struct iscsi_pool *p);
void txb_put(struct iscsi_pool *p, struct iscsi_txb *b);

/* session.c */
enum sn_verdict { SN_NOW, SN_HOLD, SN_DROP };
enum sn_verdict session_sn(struct iscsi_session *s, bool immediate, uint32_t cmd_sn); /* NOW advances ExpCmdSN */
bool session_in_window(struct iscsi_session *s, uint32_t cmd_sn);
enum sn_verdict session_sn_later(struct iscsi_session *s, bool immediate, uint32_t cmd_sn); /* HOLD if it may come at all */
uint32_t session_max_cmd_sn(struct iscsi_session *s);
struct iscsi_task *session_find(struct iscsi_session *s, uint32_t itt);
void session_hash(struct iscsi_session *s, struct iscsi_task *t);
void session_unhash(struct iscsi_session *s, struct iscsi_task *t);
uint32_t session_ttt(struct iscsi_session *s);    /* a fresh target transfer tag, not 0 */
struct iscsi_conn *session_conn(struct iscsi_session *s, uint16_t cid);
int  session_hold(struct iscsi_session *s, struct held *h);
void session_unhold(struct iscsi_session *s, struct held *h);
void session_drop_held(struct iscsi_session *s, struct iscsi_conn *c);

/* rx.c */
void rx_fini(struct iscsi_conn *c);

/* Whether something waits for what every PDU may bring: a gap that closes, data, an ExpStatSN. */
static inline bool session_waits(const struct iscsi_session *s)
{
	return s->nheld | s->ntmf_waits | s->fence;
}

/* request.c: begin: the header is here, say where data goes; end: all data is here and its digest holds */
void request_begin(struct iscsi_conn *c, const uint8_t *ahs, uint32_t ahs_len);
void request_end(struct iscsi_conn *c, bool digest_ok);
void request_run_held(struct iscsi_session *s);
void request_plug(struct iscsi_session *s, uint32_t cmd_sn); /* commands before it that did not come never will */

/* One request whose turn has come, as its handler sees it. */
struct req {
	struct iscsi_conn *c;
	const uint8_t     *h;
	uint8_t           *data; /* a handler that keeps it sets this to NULL */
	uint32_t           len;
};

void request_reject(struct req *r, uint8_t reason); /* its CmdSN counts as not received */

/* request_tmf.c */
void tmf_request(struct req *r);
bool tmf_is(const struct iscsi_session *s, uint32_t itt); /* a task management function that runs or waits */
void tmf_retry(struct iscsi_session *s);            /* functions that wait may act now */
uint64_t tmf_deadline(const struct iscsi_conn *c);  /* when they act at the latest */
void tmf_lost(void *session, const uint8_t lun[8]); /* hook of the nexus: another one ended tasks of ours */
void request_detach_tmfs(struct iscsi_conn *c);

/* request_text.c */
void text_request(struct req *r);

/* data.c */
void data_cmd_begin(struct iscsi_conn *c, const uint8_t *ahs, uint32_t ahs_len);
void data_cmd_end(struct iscsi_conn *c, bool digest_ok);
void data_out_begin(struct iscsi_conn *c);
void data_out_end(struct iscsi_conn *c, bool digest_ok);
void data_task_start(struct iscsi_task *t);       /* its turn in CmdSN order has come */
void data_task_continue(struct iscsi_task *t);    /* what was held goes on */
void data_fail(struct iscsi_task *t, uint8_t asc, uint8_t ascq); /* ABORTED COMMAND, once its sequences have drained */
void data_send_r2t(struct iscsi_task *t, uint32_t off, uint32_t len);
void data_put_r2t(struct iscsi_task *t, const struct iscsi_r2t *r); /* queues the PDU */
void data_room_unasked(struct iscsi_task *t, uint32_t n);
/* The PDU that carried data for t is complete. */
void data_arrived(struct iscsi_conn *c, struct iscsi_task *t);

/* lost.c */
bool lost_keeps(const struct iscsi_conn *c);      /* its tasks outlive it */
void lost_take(struct iscsi_conn *c);             /* it goes */
/* A connection that is gone is logged out; false: there is none of that CID. */
bool lost_logout(struct iscsi_session *s, uint16_t cid, bool for_recovery, uint32_t exp_stat_sn);
void lost_reassign(struct iscsi_conn *c, const uint8_t *h); /* TASK REASSIGN */
void lost_retry(struct iscsi_session *s, struct iscsi_conn *gone);
void lost_adopt(struct iscsi_conn *c, struct iscsi_task *t, uint32_t exp_data_sn); /* t is c's now */
void lost_drop_all(struct iscsi_session *s);

/* data_out.c */
void data_out_tick(struct iscsi_conn *c);         /* sequences that have stopped (level 1 and up) */

/* keep.c, from level 1 on */
void keep_item(struct iscsi_conn *c, struct txitem *x); /* its last byte is out */
void keep_ack(struct iscsi_conn *c);              /* a request came: its ExpStatSN */
void keep_ack_to(struct iscsi_conn *c, uint32_t exp_stat_sn);
void keep_reused(struct iscsi_task *t);           /* its tag was given to another command: its answer did arrive */
void keep_drop(struct iscsi_task *t);             /* is kept no more */
void keep_data(struct iscsi_task *t);             /* its data counts as kept from now on ... */
void keep_forget(struct iscsi_task *t);           /* ... and no more */
void keep_tick(struct iscsi_conn *c);
bool keep_full(const struct iscsi_session *s);    /* further answers keep their slot of the window */
bool keep_stale(const struct iscsi_conn *c, const struct txitem *x); /* acknowledged meanwhile */
/* Data-In PDU number sn of t: where it begins, how long it is, how much is left of its sequence behind it. */
uint32_t keep_locate(const struct iscsi_task *t, uint32_t sn, uint32_t *ret_len, uint32_t *ret_left);
/* From here on t is cut for the connection's segment length of today. */
void keep_cut(struct iscsi_task *t);
void keep_rewind(struct iscsi_task *t);           /* to what is acknowledged: the next Data-In is that one */
void snack_request(struct req *r);
void data_feed_starved(struct iscsi_pool *p);     /* memory came back */

/* async.c */
void async_terminated(struct iscsi_conn *c, const uint8_t lun[8]); /* event 5: the session's TaskReporting is FastAbort */

/* fence.c */
void fence_respond(struct iscsi_session *s, struct txitem *x, bool fence); /* queues a response, when it may leave */
void fence_emitted(struct iscsi_conn *c); /* what asks for an acknowledgement is in the batch */
void fence_heard(struct iscsi_conn *c);   /* a PDU came in c->bhs while there is a fence */
void fence_conn_gone(struct iscsi_session *s, struct iscsi_conn *c); /* its tasks have gone before */

/* tx.c */
/* Queued ahead of data, or (tx_ctl_last) behind every answer that waits. NULL: out of memory, connection closed. */
struct iscsi_ctl *tx_ctl(struct iscsi_conn *c, uint8_t opcode, enum ctl_sn sn);
struct iscsi_ctl *tx_ctl_last(struct iscsi_conn *c, uint8_t opcode, enum ctl_sn sn);
/* Gives it its data segment: malloc'ed, which k then owns, or k->small. */
void tx_ctl_data(struct iscsi_conn *c, struct iscsi_ctl *k, uint8_t *data, uint32_t len);
struct iscsi_ctl *tx_reject(struct iscsi_conn *c, uint8_t reason, const uint8_t *bhs);
void tx_respond(struct iscsi_task *t);
void tx_again(struct iscsi_conn *c, struct txitem *x); /* what SNACK asked for */
uint32_t tx_xmit(const struct iscsi_conn *c);     /* longest data segment of a Data-In PDU */
void tx_seek(const struct iscsi_task *t, uint32_t off, struct cursor *ret);
void tx_fini(struct iscsi_conn *c);

/* conn.c */
uint32_t conn_next_ttt(struct iscsi_conn *c); /* for a NOP-In */
void conn_event(struct iscsi_conn *c, enum iscsi_event_kind kind);
void conn_close(struct iscsi_conn *c, const char *why);
/* Reject, then close: what breaks the protocol at error recovery level 0. */
void conn_violation(struct iscsi_conn *c, const char *why);
/* Nobody will ask for t any more. */
void task_abandon(struct iscsi_task *t, bool session_lives);
void conn_ping(struct iscsi_conn *c);             /* asks for a sign of life, and with it for ExpStatSN */
void conn_login_rx(struct iscsi_conn *c, const uint8_t *data, uint32_t len);

#endif
