/* SPDX-License-Identifier: BSD-3-Clause
 * Private to `lunette check`, a compliance suite for iSCSI targets written from RFC 7143 and 7144, not from any target.
 * One thread, blocking, every wait bounded. It shares with our engines nothing but the names of fields and CHAP's digest,
 * so that it cannot agree with their mistakes.
 *
 *   check.c     options, the order of cases, judging, output
 *   wire.c      a connection: PDUs as bytes, with digests; what every received PDU must obey
 *   login.c     login with any text; sessions as most cases want them
 *   words.c     the words cases are written in: one request and its answer
 *   case_*.c    the cases, by suite
 *
 * A case is a function that returns when the target passed. must() and want() leave it with longjmp() when it did not, so
 * a case owns nothing: connections and memory belong to the struct check and are freed by the runner. */
#ifndef LUNETTE_CHECK_H
#define LUNETTE_CHECK_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "iscsi/pdu.h"
#include "net/url.h"

enum {
	CHECK_CONNS = 64,         /* one case's connections */
	CHECK_TEXT = 65536,       /* login or text data of one exchange, bytes */
	CHECK_AREA = 2 << 20,     /* bytes from LBA 0 that cases write to, saved and restored */
	CHECK_MEMORY = 256 << 20, /* what the target may make one case receive, bytes */
	CHECK_QUIET_MS = 250,     /* how long "nothing may come" is waited for */
};

enum { /* struct check_case.needs */
	NEED_WRITE = 1,           /* writes to the medium: --destructive */
	NEED_DISRUPT = 2,         /* disturbs other sessions (resets): --destructive too */
	NEED_SLOW = 4,            /* may wait for the target's own timers: a longer deadline */
	NEED_LUN = 8,             /* reads or writes the LUN: a disk of 64 KiB at least */
};

/* Lax: the target took what the RFC forbids an initiator to send and, by 7.10, need not be looked for. */
enum check_verdict { CHECK_PASS, CHECK_FAIL, CHECK_LAX, CHECK_UNSUPPORTED, CHECK_SKIPPED, CHECK_VERDICTS };

struct check;

struct check_case {
	const char *suite, *name; /* name: as the function's, with - for _ */
	const char *clause;       /* of RFC 7143 unless it says otherwise */
	const char *what;         /* one sentence: what the target must do */
	unsigned    needs;
	void      (*run)(struct check *k);
	struct check_case *next;
};

/* Puts a case into the list; order of registration is order of running. */
void check_register(struct check_case *c);
#define CASE(suite_, name_, clause_, needs_, what_)                                                       \
	static void suite_##_##name_(struct check *k);                                                    \
	static struct check_case suite_##_##name_##_case = { .suite = #suite_, .name = #name_,            \
		.clause = clause_, .what = what_, .needs = (needs_), .run = suite_##_##name_ };           \
	__attribute__((constructor)) static void suite_##_##name_##_add(void)                             \
	{                                                                                                 \
		check_register(&suite_##_##name_##_case);                                                 \
	}                                                                                                 \
	static void suite_##_##name_(struct check *k)

/* A received PDU; lives until the case ends. */
struct pdu {
	uint8_t  h[ISCSI_BHS];
	uint8_t  op;             /* without bit 6 */
	uint8_t *data;           /* a zero follows it */
	uint32_t len;
	bool     bad_digest;
	struct pdu *next;        /* in its connection's inbox */
};

/* A PDU to send. put() fills lengths, digests and, unless set by hand, ITT, CmdSN and ExpStatSN. */
struct req {
	uint8_t  h[ISCSI_BHS];
	const void *data, *ahs;
	uint32_t len, ahs_len;   /* bytes; ahs_len a multiple of 4 */
	bool     own_itt, own_sn, own_exp, own_len; /* as they stand in h */
	bool     no_data;        /* send the header only, DataSegmentLength as it says */
	uint32_t flip_header, flip_data; /* XORed to the digest */
};

struct session;

struct conn {
	struct check *k;
	struct session *s;
	int      fd;             /* -1: closed */
	bool     closed;         /* the target closed, or the stream broke */
	char     why[96];        /* how it ended */
	uint16_t cid;
	uint32_t exp_stat;       /* next StatSN expected; valid when numbered */
	bool     numbered, full; /* full: full feature phase */
	bool     hold;           /* send `held` as ExpStatSN: responses are not acknowledged */
	uint32_t held;
	bool     hd, dd;         /* digests in force */
	uint32_t recv_max;       /* we declared */
	uint32_t send_max;       /* the target declared */
	struct pdu *inbox, **inbox_end; /* received while the case waited for another connection */
	bool     deaf;           /* do not read while the case waits for another connection */
	bool     see_pings;      /* hand NOP-In of the target's own to the case instead of answering */
	/* the login or text exchange that runs */
	uint16_t status;         /* login status */
	char     text[CHECK_TEXT];
	uint32_t ntext;
	uint8_t  tx_stage;
	/* bytes received and not yet parsed */
	uint8_t *rx;
	size_t   nrx, room;
	uint32_t last_exp, last_max; /* window that this connection told last */
	bool     window_known;
};

struct session {
	uint8_t  isid[6];
	uint16_t tsih;
	uint32_t cmd_sn;         /* next to be given out */
	uint32_t itt;
	uint32_t exp_cmd, max_cmd; /* the window, over all connections */
	bool     window;
	uint32_t first_burst, max_burst, max_r2t, erl, max_conns, time2wait, time2retain, level;
	bool     initial_r2t, immediate, discovery;
	char     initiator[256];
	struct { uint32_t itt, edtl; } write[256]; /* the last ones, a ring: what R2Ts may ask for */
	unsigned nwrite;
};

/* Rules that hold for every PDU a target sends, judged over the whole run, reported once each. */
enum every_rule {
	EVERY_STATSN, EVERY_WINDOW, EVERY_WINDOW_BACK, EVERY_SEGMENT, EVERY_NO_AHS, EVERY_NO_DATA, EVERY_HEADER_DIGEST,
	EVERY_DATA_DIGEST, EVERY_OPCODE, EVERY_FINAL, EVERY_TTT, EVERY_REJECT, EVERY_ASYNC, EVERY_RULES,
};

struct run;

struct check {
	struct run *run;
	const struct check_case *c;
	jmp_buf  out;
	enum check_verdict verdict;
	char     why[640];
	uint64_t deadline;       /* ns */
	struct conn *conn[CHECK_CONNS];
	unsigned nconn;
	void   **mem;            /* freed at the case's end */
	unsigned nmem, room_mem;
	size_t   mem_bytes;
	/* the target */
	const struct url *url;
	uint64_t lun;            /* as on the wire */
	uint32_t block;          /* bytes; 0: no disk there */
	uint64_t blocks;
	bool     destructive, trace;
	uint32_t timeout_ms;     /* one answer */
	uint32_t next_isid;
};

/* --- leaving a case */
_Noreturn void check_fail(struct check *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The feature is not there; the words say which answer proves it. */
_Noreturn void check_unsupported(struct check *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void check_lax(struct check *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define must(k, cond, ...) do { if (!(cond)) check_fail(k, __VA_ARGS__); } while (0)
void check_every(struct check *k, enum every_rule rule, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Zeroed memory that lives until the case ends. */
void *check_alloc(struct check *k, size_t n);
uint64_t check_now(void); /* ns */

/* --- wire.c */
struct conn *dial(struct check *k);                  /* connects; fails the case when it cannot */
struct conn *dial_to(struct check *k, const char *host, const char *port);
void hang_up(struct conn *c, bool reset);
void put_bytes(struct conn *c, const void *p, size_t n); /* a target that closed meanwhile is no error here */
uint32_t put(struct conn *c, struct req *r);         /* returns the ITT */
size_t pack(struct conn *c, struct req *r, uint8_t **ret); /* the bytes put() would send */
struct pdu *poll_pdu(struct conn *c, int ms);        /* NULL: nothing came, or c->closed */
struct pdu *next(struct conn *c);                    /* fails the case when nothing comes or the connection ends */
struct pdu *want(struct conn *c, uint8_t op);        /* the next, which must be that */
struct pdu *want_itt(struct conn *c, uint8_t op, uint32_t itt);
bool gone(struct conn *c, int ms);                   /* the target ends the connection in that time; PDUs are passed over */
void quiet(struct conn *c, int ms);                  /* nothing may come */
const char *pdu_name(uint8_t op);
const char *pdu_words(struct conn *c, const struct pdu *p); /* "SCSI Response with status 02, sense 5/24/00" */

/* From now on responses are not acknowledged, and may come again. */
static inline void hold_status(struct conn *c)
{
	c->hold = true;
	c->held = c->exp_stat;
	c->numbered = false;
}

/* --- login.c */
enum { CSG_SECURITY = 0, CSG_OPERATIONAL = 1, CSG_FULL = 3 };
struct login_req {
	uint8_t  flags;          /* T, C, CSG, NSG */
	uint8_t  version_max, version_min;
	uint16_t tsih, cid;
	bool     own_isid;
	uint8_t  isid[6];
	uint32_t itt, cmd_sn, exp_stat;
	bool     own_exp;
	const char *text;        /* '\n' between pairs */
	uint32_t ntext;          /* 0: the string's; else text is raw bytes */
};
#define LOGIN_T(csg, nsg) ((uint8_t)(LOGIN_TRANSIT | (csg) << 2 | (nsg)))
#define LOGIN_STAY(csg) ((uint8_t)((csg) << 2))
/* One Login Request. */
void login_put(struct conn *c, const struct login_req *l);
/* The Login Response: sets c->status, adds its text to c->text. NULL when the connection ended instead. */
struct pdu *login_get(struct conn *c);
/* Both; the answer must come. */
struct pdu *login_ask(struct conn *c, const struct login_req *l);
/* The pairs that name the parties: "InitiatorName=..\nTargetName=..\nSessionType=Normal\n" and AuthMethod if wanted. */
const char *login_names(struct conn *c, const char *more);
/* Through the security stage (with CHAP where the URL has a user). The case fails when it does. */
void login_security(struct conn *c);
/* A whole login; keys: "Key=Value\nKey=Value" replaces or adds to the usual offer, "-Key" leaves one out. Returns the
 * status; 0: full feature phase. */
uint16_t login_all(struct conn *c, const char *keys, bool discovery);
/* A session as most cases want it: logged in, unit attentions taken away. */
struct conn *session(struct check *k, const char *keys);
struct conn *discovery(struct check *k, const char *keys);
/* One more connection of c's session; NULL: refused, with *ret_status. */
struct conn *join(struct conn *c, uint16_t cid, uint16_t *ret_status);
struct conn *join_to(struct conn *c, uint16_t cid, const char *host, const char *port, uint16_t *ret_status);
/* A session that negotiated key to value, or "not supported". */
struct conn *session_with(struct check *k, const char *keys, const char *key, const char *value);
void take_result(struct conn *c, const char *offer); /* reads the negotiated values out of the answers */
void new_isid(struct check *k, uint8_t isid[6]);
const char *answer(struct conn *c, const char *key); /* value in the last exchange's text, or NULL */
bool all_answers(struct conn *c, const char *key, const char *value); /* this very pair is there */

/* --- words.c */
struct req req(uint8_t op, uint8_t flags);
struct req req_cmd(struct check *k, uint8_t flags, uint32_t edtl, const void *cdb, unsigned n);
struct req req_read(struct check *k, uint32_t lba, uint32_t blocks);
struct req req_write(struct check *k, uint32_t lba, uint32_t blocks);
struct req req_tur(struct check *k);
struct req req_nop(const void *data, uint32_t len);  /* immediate ping */
struct req req_tmf(struct check *k, uint8_t fn, uint32_t ref, uint32_t ref_sn); /* immediate */
struct req req_text(const void *text, uint32_t len); /* immediate no; TTT reserved */
struct req req_logout(uint8_t reason, uint16_t cid); /* immediate */
struct req req_snack(uint8_t type, uint32_t itt, uint32_t ttt, uint32_t beg, uint32_t run);
struct req req_out(struct check *k, uint32_t itt, uint32_t ttt, uint32_t off, const void *data, uint32_t len, uint32_t sn,
	bool final);
static inline struct req not_immediate(struct req r) { r.h[0] &= (uint8_t)~OP_IMMEDIATE; return r; }
static inline struct req immediate(struct req r) { r.h[0] |= OP_IMMEDIATE; return r; }
static inline struct req with_sn(struct req r, uint32_t sn) { put_be32(r.h + BHS_CMD_SN, sn); r.own_sn = true; return r; }
static inline struct req with_itt(struct req r, uint32_t itt) { put_be32(r.h + BHS_ITT, itt); r.own_itt = true; return r; }
static inline struct req with_lun(struct req r, uint64_t lun) { put_be64(r.h + BHS_LUN, lun); return r; }
static inline struct req with_data(struct req r, const void *d, uint32_t n) { r.data = d; r.len = n; return r; }
static inline uint32_t send_req(struct conn *c, struct req r) { return put(c, &r); }

struct result {
	uint8_t  status, response, flags;
	uint32_t residual;
	uint8_t  key, asc, ascq;  /* sense, 0 without */
	uint8_t *data;            /* edtl bytes */
	uint32_t moved;           /* bytes of Data-In */
	struct pdu **in;          /* the Data-In PDUs */
	unsigned nin;
	struct pdu *last;
};
/* Runs a command to its end; data (edtl bytes) is sent when R2Ts ask. */
struct result command(struct conn *c, struct req r, const void *data);
struct result finish(struct conn *c, uint32_t itt, uint32_t edtl, const void *data); /* it is sent already */
void good(struct conn *c, const struct result *r, const char *what);
struct result tur(struct conn *c);
void alive(struct conn *c);                          /* a ping must come back */
uint32_t ping_exp(struct conn *c);                   /* a ping; returns its ExpCmdSN */
uint8_t *peek(struct conn *c, uint32_t lba, uint32_t blocks);
void poke(struct conn *c, uint32_t lba, uint32_t blocks, const void *data); /* by the rules of the session */
uint8_t *pattern(struct check *k, uint32_t n, uint32_t seed);
void same(struct check *k, const void *a, const void *b, uint32_t n, const char *what);
/* Answers one R2T; step: bytes of a PDU, 0 = as many as go. */
void serve(struct conn *c, const struct pdu *r2t, const void *data, uint32_t step);
uint8_t tmf(struct conn *c, struct req r, uint32_t *ret_itt); /* response code; R2Ts and Rejects before it are passed over */
struct pdu *text(struct conn *c, const char *pairs); /* '\n' between pairs; a Text Response (in c->text) or a Reject */
uint8_t logout(struct conn *c, uint8_t reason, uint16_t cid); /* response code */
void sense_of(const struct pdu *p, uint8_t *key, uint8_t *asc, uint8_t *ascq);
static inline bool refused_text(const char *v)
{
	return v && (!strcmp(v, "Reject") || !strcmp(v, "NotUnderstood") || !strcmp(v, "Irrelevant"));
}

/* How a target may refuse something that breaks the rules; bits. */
enum { BY_REJECT = 1, BY_CHECK = 2, BY_CLOSE = 4, BY_SILENCE = 8, BY_TMF = 16, BY_LAX = 32, BY_ANY = 7 };
/* BY_LAX: what is not one of them ends the case as lax instead of failed; silence too. */
/* Waits for one of those reactions: returns which; the case fails on another one, GOOD status above all. reasons: bit mask of
 * Reject reasons that fit. */
unsigned refusal(struct conn *c, unsigned how, uint32_t reasons, const char *what);
#define REASON(r) (1u << (r))
enum { REASONS_FORMAT = REASON(REJECT_PROTOCOL) | REASON(REJECT_NOT_SUPPORTED) | REASON(REJECT_INVALID_PDU) };

#endif
