/* SPDX-License-Identifier: BSD-3-Clause
 * Private to net/. Two kinds of owners:
 *   home     the first I/O loop: portals, targets, the registry of sessions (who has which ISID and TSIH)
 *   the loop of a connection: socket, engine, session, nexus
 * They speak by messages (struct net_msg). While a connection waits for an answer of home it is not freed.
 *
 *   listen.c  portals, accept, which loop serves a new connection
 *   stream.c  socket <-> engine
 *   leave.c   connections that are sent away
 *   access.c  which targets a client may use, and where
 *   home.c    targets, policy, admission, reinstatement, SendTargets
 *   guard.c   what one client may take from the others
 *   isns.c    registration with a name server, on the control loop
 *   admin.c   control thread's calls: sessions, kick, drain, statistics
 */
#ifndef LUNETTE_NET_IMPL_H
#define LUNETTE_NET_IMPL_H

#include <netinet/in.h>

#include "iscsi/conn.h"
#include "loop/round.h"
#include "net/net.h"

enum {
	RX_IOV = 66,              /* 64 pages, which is 256 KiB, and the read-ahead */
	ADDR_TEXT = 64,           /* "[v6 address]:port" */
	WINDOW_MAX = 128,         /* commands of one session in flight: what deep queues of initiators use ... */
	WINDOW_MIN = 4,           /* ... and what is left of it when sessions are many or memory is little */
	WAITING_MAX = 1024,       /* sessions of a loop that wait for a connection: each may hold a window of commands */
	BUDGET_SHARE = 4,         /* data in flight may take a quarter of the memory */
	TEXT_S = 3,               /* how long an initiator has to begin a text exchange when it was asked to */
	LOGOUT_NS = 1000000000,   /* how long an initiator has to log out when it was asked to, ... */
	SETTLE_NS = 250000000,    /* (what it had sent by then to arrive and be rejected) */
	QUIESCE_NS = 1000000000,  /* ... its commands to end when it does not, ... */
	DROP_NS = 1000000000,     /* ... and the news that it is dropped to leave */
	SNDBUF_BYTES = 384 << 10, /* unsent payload stays in cache; see docs/performance.md */
};

union addr {
	struct sockaddr         sa;
	struct sockaddr_in      in;
	struct sockaddr_in6     in6;
	struct sockaddr_storage ss;
};

struct net_portal {
	struct list   node;       /* home */
	int           fd;
	union addr    addr;       /* as bound */
	uint16_t      tpgt;
	char          name[ADDR_TEXT], advertise[ADDR_TEXT], redirect[ADDR_TEXT];
	bool          redirect_permanent;
	unsigned      nsessions;  /* that began here */
	struct op     op;         /* accept, home */
	struct timer  again;      /* after running out of descriptors */
	uint64_t      id;         /* never reused */
	bool          closing, accepting;
	bool          evict;      /* its connections go with it */
	struct task   start, stop; /* two: a portal may be removed before home has heard of it */
};

/* Immutable; home counts the references, logins in progress hold one. */
struct net_rules {
	unsigned                  refs;
	struct iscsi_login_policy policy;
	struct iscsi_offer        offer;
	struct iscsi_chap_user   *users, mutual;
	char                     *text;  /* what the pointers point into */
	char                    **initiators; /* of access.c */
	struct net_range         *clients;
	unsigned                  ninitiators, nclients;
	enum net_balance          balance;
};

struct net_target {               /* home */
	struct list          node, sessions;
	char                 name[LIM_ISCSI_NAME + 1];
	struct scsi_target  *device;
	struct net_rules    *rules;
	uint16_t            *tpgts;
	unsigned             ntpgts;
	void               (*gone)(void *ctx); /* being removed */
	void                *gone_ctx;
};

/* Made by home at admission, ended by home when its loop says that all of it is gone. */
struct net_session {
	/* home */
	struct list          node;       /* in target->sessions or the discovery list */
	struct net_target   *target;
	uint64_t             id;
	char                 initiator[LIM_ISCSI_NAME + 1];
	uint8_t              isid[6];
	uint16_t             tsih, tpgt;
	uint64_t             portal_id;  /* of its first connection */
	struct list          waiters;    /* admissions that reinstate it */
	bool                 dying, gently, told; /* gently: it is asked to log out first; told: that it is dropped */
	struct loop         *loop;
	unsigned             joins;      /* connections on their way to join it, which look at it when they arrive */
	/* its loop */
	struct list          on_loop;    /* in net_loop->sessions */
	struct list          conns;
	struct list          joiners;    /* connections whose login waits for the end of one with the same CID */
	struct iscsi_session *iscsi;
	struct scsi_nexus   *nexus;
	struct timer         lost;       /* what lost connections left behind expires */
	bool                 waiting;    /* has no connection, but what lost ones left behind */
	bool                 ending;     /* the nexus is being closed */
	uint64_t             since_ns;
	char                 user[256];
	struct task          kill, end;
	bool                 kill_queued, ended; /* home: kill is on its way; its loop is through with it */
};

enum msg_kind { MSG_POLICY, MSG_ADMIT, MSG_TARGETS, MSG_COLD_RESET };
struct net_msg {
	struct task         task;
	enum msg_kind       kind;
	bool                pending;
	struct list         node;        /* in a session's waiters, home */
	/* question */
	bool                discovery;
	char                initiator[LIM_ISCSI_NAME + 1], target[LIM_ISCSI_NAME + 1];
	uint8_t             isid[6];
	uint16_t            tsih;
	/* answer */
	uint16_t            status;
	const char         *why;         /* of status, or NULL */
	uint16_t            moved;       /* enum iscsi_login_status: the login had better go to address; 0 = stay */
	char                address[ADDR_TEXT];
	uint64_t            delay_ns;    /* for the answer to a wrong secret */
	struct net_rules   *rules;       /* a reference, given back when login ends */
	struct net_session *session;
	bool                join;        /* session is one that exists: home counts the connection in session->joins */
	struct scsi_target *device;
	struct iscsi_text   text;
};

enum leave_step { STAY, LEAVE_ASKED, LEAVE_QUIESCED, LEAVE_DROPPED };

struct net_conn {
	struct list        node;         /* per loop */
	struct loop       *loop;
	int                fd;
	bool               rx_busy, tx_busy, dead, queued, draining, cold;
	bool               to_join;     /* between home's answer and the end of the login that joins a session */
	bool               moving;      /* of it: until nothing is in flight on the loop that it leaves */
	struct list        in_session;  /* in session->conns or joiners */
	unsigned           load_at;     /* home: the loop that it counts for */
	unsigned           quiet;
	const char        *why;
	struct op          rx, tx;
	struct task        turn_end, start, joined;
	struct timer       timer;
	struct iscsi_conn *engine;
	struct net_session *session;
	struct net_rules  *rules;
	uint64_t           since_ns;
	enum leave_step    leave;
	uint64_t           end_ns;     /* of this step, 0 = none */
	uint64_t           limit_ns;   /* of LEAVE_QUIESCED, 0 = none */
	const char        *end_why;
	bool               settled;    /* LEAVE_QUIESCED since SETTLE_NS */
	bool               end_session; /* all of its session ends */
	union addr         local, peer;
	struct net_client *client;     /* home: guard.c */
	bool               joining;    /* home: counted as a login under way */
	bool               hush;       /* its client has had its lines of the log */
	bool               refused, bad_secret; /* the login was refused; because of the secret */
	uint64_t           delay_ns;   /* for the answer to a wrong secret */
	uint64_t           answer_ns;  /* nothing is sent until then */
	char               local_text[ADDR_TEXT], peer_text[ADDR_TEXT];
	uint16_t           tpgt;
	uint64_t           portal_id;
	struct net_msg     msg;
	struct task        release;      /* rules go back to home, then the loop count drops */
	struct iovec       iov[RX_IOV];
};

struct net_loop {                 /* one per loop */
	struct list        conns, sessions;
	struct iscsi_pool *pool;
	_Atomic unsigned   nconns, nsessions;
	unsigned           nwaiting;   /* sessions without a connection */
	uint32_t           window;     /* of each session on this loop */
	_Atomic uint64_t   logins_ok, logins_refused, digest_errors;
};

struct net {
	struct loop       *control, *home;
	struct net_loop    loops[LIM_LOOPS];
	/* home */
	struct list        portals, targets, discovery;
	struct net_rules  *discovery_rules;
	unsigned           load[LIM_LOOPS];
	unsigned           last_loop;  /* that got a connection */
	unsigned           live;       /* connections over all loops */
	uint64_t           next_id;
	uint16_t           next_tsih;
	bool               stopping;
	uint8_t            tsih_used[8192];
	uint64_t           budget;     /* bytes of data in flight per loop */
};
extern struct net net;

/* listen.c */
void addr_text(const union addr *a, char out[ADDR_TEXT]);
int  addr_parse(const char *s, uint16_t port, union addr *ret, struct err *e);
void addr_mapped(const union addr *a, uint8_t out[16]); /* as IPv6, IPv4 mapped into it */
void portal_stop_all(void);                       /* home */
struct net_portal *portal_by_id(uint64_t id);     /* home; NULL: removed */

/* guard.c, on home. Counts a connection whose peer is known; false: refused, and logged. */
bool guard_enter(struct net_conn *c, struct net_portal *p);
void guard_leave(struct net_conn *c);
uint64_t guard_delay(const struct net_conn *c);   /* how long a wrong secret waits for its answer */
bool guard_has_room(const struct net_conn *c);    /* may it have one more connection in full feature phase? */
void guard_admitted(struct net_conn *c);
void guard_limits(const struct net_limits *l);
void guard_init(void);
void guard_stop(void); /* the server drains */
void guard_fini(void);

/* stream.c */
void stream_start(struct net_conn *c);            /* on c->loop */
void stream_kill(struct net_conn *c, const char *why);
void stream_session_ask_logout(struct net_session *s); /* and close what has not gone after a second */
void stream_pump(struct net_conn *c);             /* events, then what is to be sent */
void stream_session_close(struct net_session *s); /* nothing of a connection outlives it any more */
void stream_session_kill(struct net_session *s, const char *why); /* every connection, and what is kept of lost ones */
void stream_session_drop(struct net_session *s, const char *why); /* the same, and says so to the initiator */

void stream_tick(struct net_conn *c);             /* a deadline came nearer */

/* leave.c; on the connection's loop, not from inside the engine. why: for the log, NULL = in good order */
void leave_ask(struct net_conn *c, bool session, const char *why);
void leave_quiesce(struct net_conn *c, uint64_t ns); /* ns: how long at most, 0 = the caller counts */
void leave_drop(struct net_conn *c, bool session, const char *why);
void leave_idle(struct net_conn *c);
void leave_tick(struct net_conn *c);

/* admin.c */
void drain_check(void);                           /* home: a connection or a session ended */

/* access.c */
int  access_copy(struct net_rules *r, const struct net_target_conf *conf); /* -ENOMEM */
void access_free(struct net_rules *r);
bool access_allows(const struct net_rules *r, const struct net_conn *c);   /* the client of a login: its name, its address */
bool access_shows(const struct net_target *t, const struct net_conn *c);   /* in an answer to SendTargets */
bool access_reaches(const struct net_conn *c, const struct net_portal *p);
void access_redirect(struct net_conn *c, const struct net_target *t);      /* fills msg.moved and msg.address */

/* home.c; _home functions run on home, the others on the connection's loop */
void home_ask(struct net_conn *c, enum msg_kind kind, const char *target); /* target NULL: the login's */
void home_conn_ended(struct net_conn *c);         /* frees c */
void home_session_end(struct task *t);
void home_joined(struct task *t);                 /* net_conn.joined: its login is over, or it is gone */
struct net_rules *rules_new(const struct net_user *users, unsigned n, const struct net_user *mutual, bool require,
	unsigned algs, const struct iscsi_offer *offer, const char *alias, const char *target,
	const char *redirect);
void rules_put(struct net_rules *r);
bool target_in_group(const struct net_target *t, uint16_t tpgt);
/* The address of p for this client; false: none of its family. */
bool portal_address(const struct net_conn *c, const struct net_portal *p, char out[ADDR_TEXT]);
void session_kill_home(struct net_session *s);
void targets_free(void);                          /* no loop runs any more */
/* The answer of home is here. */
void stream_policy(struct net_conn *c);
void stream_admit(struct net_conn *c);
void stream_targets(struct net_conn *c);
void stream_nothing(struct net_conn *c);

#endif
