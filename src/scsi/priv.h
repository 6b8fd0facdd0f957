/* SPDX-License-Identifier: BSD-3-Clause
 * What the files of scsi/ share and nobody else may see. Everything that carries a lu_loop or a nexus is used
 * on that loop only; struct lu's shared state is changed on lu->home only, by jobs, one after the other. */
#ifndef LUNETTE_SCSI_PRIV_H
#define LUNETTE_SCSI_PRIV_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "loop/round.h"
#include "scsi/lu.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Sense key, ASC and ASCQ in one number. */
#define SENSE(key, asc, ascq) ((uint32_t)(key) << 16 | (uint32_t)(asc) << 8 | (uint32_t)(ascq))
/* ASC and ASCQ of a unit attention. */
#define UA(asc, ascq) ((uint16_t)((asc) << 8 | (ascq)))
enum {
	UA_POWER_ON = UA(0x29, 0x00), UA_TARGET_RESET = UA(0x29, 0x02), UA_LU_RESET = UA(0x29, 0x03),
	UA_NEXUS_LOSS = UA(0x29, 0x07), UA_MEDIUM_CHANGED = UA(0x28, 0x00), UA_MODE_CHANGED = UA(0x2a, 0x01),
	UA_CAPACITY_CHANGED = UA(0x2a, 0x09), UA_RESERVATIONS_RELEASED = UA(0x2a, 0x04),
	UA_ACCESS_CHANGED = UA(0x2a, 0x06), UA_ACCESS_FAILED = UA(0x2a, 0x07),
	UA_CLEARED = UA(0x2f, 0x00), UA_PROTOCOL_EVENT = UA(0x47, 0x7f),
	UA_LUNS_CHANGED = UA(0x3f, 0x0e), UA_SOFT_THRESHOLD = UA(0x38, 0x07), UA_LOG_CHANGED = UA(0x2a, 0x02),
	UA_TIMESTAMP_CHANGED = UA(0x2a, 0x10),
	UA_IDENTIFIER_CHANGED = UA(0x3f, 0x05), UA_WAS_BUSY = UA(0x2c, 0x07), UA_WAS_FULL = UA(0x2c, 0x08),
	UA_WAS_CONFLICT = UA(0x2c, 0x09),
	UA_INQUIRY_CHANGED = UA(0x3f, 0x03),
};
#define SENSE_INVALID_OPCODE SENSE(5, 0x20, 0x00)
#define SENSE_LBA_RANGE SENSE(5, 0x21, 0x00)
#define SENSE_INVALID_FIELD SENSE(5, 0x24, 0x00)
#define SENSE_NO_LUN SENSE(5, 0x25, 0x00)
#define SENSE_INVALID_PARAM SENSE(5, 0x26, 0x00)
#define SENSE_PARAM_LENGTH SENSE(5, 0x1a, 0x00)
#define SENSE_WRITE_PROTECTED SENSE(7, 0x27, 0x00)
#define SENSE_SOFT_PROTECTED SENSE(7, 0x27, 0x02)
#define SENSE_MISCOMPARE SENSE(0xe, 0x1d, 0x00)

/* --- shared state of a logical unit, one immutable copy per loop --- */
enum { LU_NOT_READY = 1u << 0, LU_WRITE_PROTECT = 1u << 1, LU_RESERVED = 1u << 2,
	LU_PERSISTENT = 1u << 3, LU_PATHS = 1u << 4 /* some target port group is not active */, LU_SANITIZE = 1u << 8,
	LU_ACA = 1u << 9 };
enum { SCSI_NACA = 0x04 }; /* CONTROL byte, SAM-5 5.2 */
struct scsi_optab;
enum { SELFTESTS = 20, IDENT_KINDS = 2, IDENT_LABEL = 64, IDENT_MAX = 256 };
struct selftest_log { bool used; uint8_t code, result; uint64_t lba; }; /* log page 10h */
struct lu_pub {
	uint64_t    nblk;         /* capacity, logical blocks */
	struct blk *blk;          /* NULL: none attached */
	const struct scsi_optab *ops; /* rows of the type; those of protection over them where it is able */
	const struct alua_state *alua; /* NULL: every target port group is optimized; alua.h */
	const struct pr_state *pr; /* persistent reservations, NULL: nobody ever registered; pr.h */
	uint64_t    reserved_by;  /* nexus id, 0 = nobody (SPC-2 RESERVE) */
	uint32_t    alert;        /* LU_*: 0 = every command passes the slow gates */
	uint32_t    not_ready;    /* SENSE(), 0 = ready */
	bool        wce, d_sense, swp;
	bool        ejected;
	bool        thin;         /* unmap frees space */
	uint8_t     sanitize;     /* enum sanitize_state, service.h */
	uint8_t     tst, qerr, ua_intlck; /* control mode page */
	bool        tas;
	bool        false_alarm;  /* informational exceptions: TEST */
	uint8_t     naca;         /* nexuses in ACA, 255 = or more */
	uint64_t    aca_by;       /* with TST 000b the one that is, 0 = none */
	bool        formatting;   /* what is under way, or has failed, is a FORMAT UNIT */
	bool        sanitize_ause; /* the one that failed may be left by EXIT FAILURE MODE */
	uint8_t     pi_type;      /* protection type that the unit is formatted with, 0 = none */
	bool        pi_able;      /* the medium keeps tuples */
	uint32_t    bs, pbs;      /* logical and physical block, bytes; bs changes at most on the first attach */
	bool        space_known;  /* of the store below: see lu_space() */
	uint64_t    space_used, space_free; /* bytes */
	int64_t     clock_offset_ms; /* of REPORT TIMESTAMP against the machine's clock */
	bool        clock_set;
	struct lu_stats log_base; /* counters at the last reset by LOG SELECT */
	struct selftest_log selftests[SELFTESTS]; /* newest first */
	uint8_t     mode[MODE_PAGES_MAX][MODE_PAGE_MAX];  /* current values */
	uint8_t     saved[MODE_PAGES_MAX][MODE_PAGE_MAX];
};

/* Target port groups; owned by who waits. */
struct lu_tags { unsigned n; uint16_t tag[LIM_PORTALS]; };

/* What a freeze holds back in a range: ALL commands; only those that WRITE; a LEASE holds a write until it has been taken
 * away, and its owner is told. */
enum freeze_kind { FREEZE_ALL, FREEZE_WRITES, FREEZE_LEASE };
struct lu_range { uint64_t off, len; enum freeze_kind kind; }; /* bytes; len 0: none */

/* A wait for commands of one loop to end; see lu_wait_*(). */
struct lu_wait {
	struct list       node;
	struct round_leg *leg;
	struct lu_range   range[2];  /* RUNNING commands that they hold back, if range[0].len */
	struct scsi_cmd  *except;
	uint64_t          seq;       /* else commands marked must_abort that came before; 0 = everything */
	const struct lu_tags *tags;  /* else commands through these target port groups that came before seq */
};

/* A logical unit's part on one loop. */
struct scsi_optab;
struct lu_loop {
	struct lu   *lu;
	struct loop *loop;
	uint8_t      shift;          /* log2 of the logical block */
	bool         closing;        /* lu_close() has been here: who is not waited for now will not be */
	uint16_t     progress;       /* of work that the unit does by itself, in 65536ths */
	struct lu_pub pub;
	struct list  cmds;           /* scsi_cmd.in_lu, in order of arrival */
	struct list  frozen;         /* freeze_at.node: ranges that new commands must not enter; leases last */
	struct list  waits;          /* lu_wait.node */
	struct list  itls;           /* itl.node: the initiators of this loop that use the unit */
	unsigned     ordered;        /* ORDERED commands in cmds */
	unsigned     users;          /* task management, freezes: reasons to stay besides cmds */
	uint64_t     said_ns;        /* when an abort was last logged */
	uint64_t     seq;
	uint64_t     stat[LU_STATS];       /* in the order of struct lu_stats; written here, read anywhere */
};

/* See lu_save(). */
struct lu_save {
	char     what[16];
	void    *buf;
	size_t   len;
	int      result;
	void   (*then)(struct lu_job *j, int result);
};

struct lu {
	const struct lu_type *type;
	char           *name;
	struct lu_conf  conf;
	const struct lu_store *store;
	uint8_t         id[16];
	char            serial[65];
	struct loop    *home;
	struct blk     *blk;          /* control thread */
	struct lu_pub   pub;          /* home: the truth */
	struct list     jobs;         /* home: lu_job.node, the first runs */
	uint64_t       *preventers;   /* home: ids of nexuses that prevent medium removal */
	unsigned        npreventers;
	uint64_t       *aca;          /* home: ids of nexuses in ACA */
	unsigned        naca;
	uint64_t        told_nblk;    /* home: the capacity that was told last; any job may bring pub.nblk up to date */
	uint32_t        alua_seq;     /* home: number of the last change of access states */
	struct list     freezes;      /* home: lu_freeze.node, in order of request */
	struct tokens  *tokens;       /* home: token.c; NULL: it never made one */
	bool            no_tokens;    /* home: it is closing */
	uint8_t         format;       /* home: protection type of the format */
	uint8_t         next_mode[MODE_PAGES_MAX][MODE_PAGE_MAX]; /* of the MODE SELECT that runs */
	struct sanitize *sanitize;    /* home: the one under way, NULL: none */
	bool            sealed;       /* home: another takes its place; inherit.c */
	struct selftest *selftest;    /* home: likewise */
	struct scsi_buffer *buffer;   /* home: of READ BUFFER and WRITE BUFFER, made on first use */
	struct { uint16_t len; uint8_t text[IDENT_MAX]; } ident[IDENT_KINDS]; /* home */
	bool            space_armed[2]; /* home: thresholds that can be met */
	struct lu_save  save;         /* home: of the job that runs */
	uint64_t        space_told;   /* control: free bytes that lu_space() told last, 0 = never */
	unsigned        control_jobs; /* control: jobs that it has under way */
	bool            closing;      /* control */
	void          (*gone)(void *ctx);
	void           *gone_ctx;
	unsigned        nloops;
	struct lu_loop *ll[];
};

/* I_T_L nexus: one initiator port and one logical unit. On the nexus' loop. Made when its first command comes: until
 * then all there is to know is that power on is to be reported. 64 bytes. */
struct itl {
	struct list     node;         /* lu_loop.itls */
	struct lu_loop *ll;           /* NULL: not made yet */
	struct scsi_nexus *nexus;
	uint8_t         nua;
	bool            pr_registered, pr_holder; /* of pub.pr */
	bool            aca : 1;      /* its commands wait for CLEAR ACA */
	bool            prevents : 1; /* it asked to prevent medium removal and did not allow it since */
	uint16_t        ua[LIM_UA];   /* oldest first */
};

enum { ITL_PAGE = 64 };
struct itl_page { struct itl itl[ITL_PAGE]; };

/* By LUN; immutable, shared by all loops. */
struct lun_map {
	uint8_t    tpgs;              /* INQUIRY TPGS: 0 off, 1 implicit, 2 explicit, 3 both */
	uint8_t    transition_s;      /* implicit transition time, seconds, 0 = not said */
	unsigned   nports;
	uint16_t   port[LIM_PORTALS]; /* target port groups, each of one port; ascending */
	unsigned   n;
	struct lu *lu[];
};

struct scsi_nexus {
	uint64_t     id;              /* never reused in this process */
	struct scsi_target *target;
	struct loop *loop;
	struct list  node;            /* scsi_loop.nexuses */
	struct list  cmds;            /* scsi_cmd.in_nexus */
	struct itl_page *page[LIM_LUNS / ITL_PAGE]; /* by LUN; NULL: none of them was used */
	const struct lun_map *map;
	bool         remapped;        /* the map changed since REPORT LUNS */
	uint16_t     tpgt;
	uint8_t      isid[6];
	uint8_t      level;           /* iSCSIProtocolLevel */
	bool         closing;
	bool         hit;             /* of tmf.c, within one call */
	void       (*lost)(void *ctx, const uint8_t lun[8]);
	void        *lost_ctx;
	struct list  copies;          /* copy_result.node, oldest first; copy.h */
	unsigned     ncopies;         /* copies under way */
	unsigned     tmfs;            /* task management functions under way */
	unsigned     next_lun;        /* closing: next LUN whose holds are released */
	struct lu_loop *release;
	struct lu_job job;
	void       (*gone)(void *ctx);
	void        *gone_ctx;
	char        *principal;       /* scsi_nexus_principal(), NULL: nobody vouches for it */
	char         initiator[LIM_ISCSI_NAME + 1];
};

struct scsi_target {
	char        *name;
	struct scsi_ports ports;      /* control: of the next map */
	struct lun_map *map;          /* control: the newest */
	struct lun_map *old;          /* control: being replaced */
	bool         changing;
	void       (*done)(void *ctx);
	void        *done_ctx;
	const struct lun_map *per_loop[LIM_LOOPS]; /* each on its loop */
};

/* What scsi/ keeps per loop. */
enum { IOV_BLOCK = LIM_TRANSFER / 4096 + 32, IOV_BLOCKS_KEPT = 16, IOV_PAGE = 256 };
struct iov_block { union { struct iov_block *next; struct iovec iov[IOV_BLOCK]; }; };
struct scsi_loop {
	struct list      nexuses;
	uint64_t         next_id;
	struct iov_block *iov_free;
	unsigned         niov_free;
	struct lu_freeze *freeze_free;
	struct list      wait_free;
	unsigned         ncopies;     /* under way */
	uint64_t         copy_bytes, copy_budget; /* that steps through memory hold, and may */
};
extern struct scsi_loop *scsi_loops[LIM_LOOPS];
extern struct loop *scsi_control;
static inline struct scsi_loop *scsi_loop(const struct loop *l)
{
	return scsi_loops[loop_index(l)];
}
static inline struct lu_loop *lu_on(const struct lu *lu, const struct loop *l)
{
	return lu->ll[loop_index(l)];
}
/* Queue t on `to`, called on `from`. */
static inline void scsi_send(struct loop *from, struct loop *to, struct task *t)
{
	if (from == to)
		loop_defer(to, t);
	else
		loop_post(to, t);
}

/* --- scsi.c --- */
/* Dispatch table of a device type, made from its rows. */
struct scsi_slot { const struct scsi_op *op; uint64_t deny[2]; };
struct scsi_optab { const struct scsi_op *const *tables; struct scsi_slot slot[256]; };
void scsi_optab_fill(struct scsi_optab *t, const struct scsi_op *const *tables);
const struct scsi_op *scsi_optab_find(const struct scsi_optab *t, uint8_t opcode, int action);
/* Ends the command from the loop's queue: now when the caller runs from there, else deferred. */
void scsi_end(struct scsi_cmd *c);
void scsi_reply(struct scsi_cmd *c, enum scsi_status status);
void scsi_reply_sense(struct scsi_cmd *c, uint32_t sense);
void scsi_end_sense(struct scsi_cmd *c, uint32_t sense);
/* INVALID FIELD IN CDB (or parameter list, by `sense`) with a field pointer; bit < 0: byte only. */
void scsi_reply_field(struct scsi_cmd *c, uint32_t sense, unsigned byte, int bit);
/* Sends buf[0..len), cut to the allocation length of the CDB and the initiator's room. */
void scsi_reply_data(struct scsi_cmd *c, const void *buf, size_t len);
/* The same for data that lies in c->iov already (scsi_data_alloc(len)). */
void scsi_reply_pages(struct scsi_cmd *c, uint64_t len);
void scsi_abort(struct scsi_cmd *c); /* its done() will run with aborted set; the caller waits */
uint64_t scsi_alloc_len(const struct scsi_cmd *c);
/* Bits of the CDB that the row knows: its usage mask, and NACA in the CONTROL byte. */
static inline uint8_t scsi_usage(const struct scsi_op *op, unsigned i)
{
	return op->usage[i] | (i == (op->opcode == 0x7f ? 1u : op->cdb_len - 1u) ? SCSI_NACA : 0);
}
static inline uint64_t scsi_field(const uint8_t *cdb, struct scsi_field f)
{
	switch (f.bytes) {
	case 2: return be16(cdb + f.at);
	case 4: return be32(cdb + f.at);
	case 8: return be64(cdb + f.at);
	default: return be_field(cdb + f.at, f.bytes);
	}
}

/* --- data.c --- */
/* Fresh pages for len bytes, for reads from a medium that does not lend; returns their number or -ENOMEM. */
int  scsi_pages_get(struct loop *l, struct iovec *iov, uint64_t len);
void scsi_pages_put(struct loop *l, const struct iovec *iov, int n);
int  scsi_iov_reserve(struct scsi_cmd *c, unsigned n);
void scsi_data_put(struct scsi_cmd *c, size_t at, const void *src, size_t n);
void scsi_data_get(const struct scsi_cmd *c, size_t at, void *dst, size_t n);
void scsi_data_trim(struct scsi_cmd *c, uint64_t len); /* drops what lies beyond */
void scsi_loop_free_iov(struct scsi_loop *sl);

/* --- sense.c --- */
/* segment: number of a copy's segment descriptor. forward: sense data of a copy's source or destination. */
struct sense_extra {
	bool has_info, has_field, in_cdb, has_progress; /* one of has_field, has_progress */
	bool has_segment, from_source;
	uint64_t info;
	uint16_t byte, progress, segment; /* progress: 65536ths */
	int bit;
	const uint8_t *forward;
	unsigned forward_len;
};
unsigned sense_fill(uint8_t *p, bool descriptor, uint32_t sense, const struct sense_extra *x);
/* Turns c->io.status of a failed request into status and sense; the only errno -> sense table. */
void sense_from_errno(struct scsi_cmd *c, int err, bool writes, uint64_t fail_off);
void sense_set(struct scsi_cmd *c, uint32_t sense, const struct sense_extra *x);

/* --- job.c, hold.c, lu.c --- */
void lu_job_start(struct lu_job *j, struct lu *lu, struct loop *from, void (*run)(struct lu_job *j),
	void (*done)(struct lu_job *j));
/* The same with what runs when another unit takes this one's place; it ends the job too. */
void lu_job_start_or(struct lu_job *j, struct lu *lu, struct loop *from, void (*run)(struct lu_job *j),
	void (*sealed)(struct lu_job *j), void (*done)(struct lu_job *j));
void lu_job_end(struct lu_job *j);     /* home */
void lu_publish(struct lu_job *j);     /* home: copies lu->pub to every loop with j's unit attention, ends j */
/* home, in a job: makes buf durable under that name of the unit, then goes on with the job. result: 0 or -errno; a unit
 * without a store has nothing to save. */
void lu_save(struct lu_job *j, const char *what, const void *buf, size_t len, void (*then)(struct lu_job *j, int result));
void lu_snapshot(struct lu_loop *ll); /* in a leg: takes the unit's state over */
void lu_derive(struct lu *lu);         /* home: pub's flags from its facts */
/* Runs fn on the command's behalf once no frozen range overlaps c->off, c->len, and its task attribute lets it. */
void lu_enter(struct scsi_cmd *c, void (*fn)(struct scsi_cmd *c));
/* Something that held commands is over: those that nothing holds any more go on. */
void lu_resume(struct lu_loop *ll);
void lu_wait_check(struct lu_loop *ll);
/* Ends leg when the commands have ended: RUNNING ones that the ranges hold back, but `except`; those marked must_abort
 * that came before now, but ENDING ones if it waits for a command (`except`); all of them with everything. */
void lu_wait_ranges(struct lu_loop *ll, struct round_leg *leg, const struct lu_range range[2], struct scsi_cmd *except);
void lu_wait_aborted(struct lu_loop *ll, struct round_leg *leg, struct scsi_cmd *except);
void lu_wait_all(struct lu_loop *ll, struct round_leg *leg);
/* Commands that came before now through these groups, but `except` and others that wait like it. */
void lu_wait_tags(struct lu_loop *ll, struct round_leg *leg, const struct lu_tags *tags, struct scsi_cmd *except);
/* Control thread: keeps lu_close() from closing. The unit may be gone after lu_unhold(). */
void lu_hold(struct lu *lu);
void lu_unhold(struct lu *lu);

/* home: nexus `id` prevents the removal of the medium, or does not. 0 or -ENOMEM. */
int  lu_prevent(struct lu *lu, uint64_t id, bool prevent);
/* home: ends what nexus `id` holds of the unit (RESERVE, PREVENT), publishes, ends j. */
void lu_give_up(struct lu_job *j, uint64_t id);

/* --- freeze.c --- */
/* Holds new commands that overlap on every loop; granted() runs on `from` when the old ones have ended. own: the
 * command on whose behalf, which does not wait for itself; may be NULL. NULL when memory is exhausted. */
struct lu_freeze *lu_freeze(struct lu_loop *ll, uint64_t off, uint64_t len, struct scsi_cmd *own,
	void (*granted)(struct lu_freeze *fz));
/* The same for two ranges at once, of any kind but LEASE, on behalf of no command; ctx: lu_freeze_ctx(). */
struct lu_freeze *lu_freeze_ranges(struct lu_loop *ll, const struct lu_range range[2], void *ctx,
	void (*granted)(struct lu_freeze *fz));
/* A lease, known by an id that nobody else has. broken(): a write took it away, and begins after that; lu_thaw() is still
 * to be called. */
struct lu_freeze *lu_lease(struct lu_loop *ll, uint64_t off, uint64_t len, uint64_t id, void *ctx,
	void (*granted)(struct lu_freeze *fz), void (*broken)(struct lu_freeze *fz));
/* Does the lease hold on this loop? If so inside a granted freeze of what it covers, nothing there has changed since. */
bool lu_leased(const struct lu_loop *ll, uint64_t id);
struct scsi_cmd *lu_freeze_own(const struct lu_freeze *fz);
void *lu_freeze_ctx(const struct lu_freeze *fz);
/* On the loop of lu_freeze(), also before it was granted (granted() is then not called). Frees fz. */
void lu_thaw(struct lu_freeze *fz);
/* What is in the way of a command on c->off, c->len. */
enum lu_obstacle { LU_CLEAR, LU_FROZEN, LU_LEASED };
enum lu_obstacle lu_obstacle(const struct lu_loop *ll, const struct scsi_cmd *c);
static inline bool lu_range_meets(const struct lu_range *r, uint64_t off, uint64_t len)
{
	return r->len && len && r->off < off + len && off < r->off + r->len;
}
/* Would a range of this kind hold back the command? */
bool lu_range_holds(const struct lu_range *r, const struct scsi_cmd *c);
void freeze_pool_free(struct scsi_loop *sl);

/* --- ua.c --- */
void ua_add(struct itl *itl, uint16_t ua);
void ua_add_first(struct itl *itl, uint16_t ua);
bool ua_take(struct itl *itl, uint16_t ua);  /* removes it; was it there? */
uint16_t ua_pop(struct itl *itl);
/* Every nexus of this loop that sees the unit, but the one with that id. */
void ua_broadcast(struct lu_loop *ll, uint16_t ua, uint64_t except_id);
struct itl *scsi_itl(const struct scsi_cmd *c);

/* --- target.c --- */
int  lun_decode(const uint8_t lun[8]); /* -1: not an address that we use */
void lun_encode(uint8_t lun[8], unsigned n);
void nexus_check(struct scsi_nexus *n);
/* The unit at that LUN of the nexus, or NULL. */
static inline struct lu_loop *nexus_ll(const struct scsi_nexus *n, unsigned lun)
{
	return lun < n->map->n && n->map->lu[lun] ? lu_on(n->map->lu[lun], n->loop) : NULL;
}
/* Its itl, if the nexus has used it; else NULL. */
static inline struct itl *nexus_peek(const struct scsi_nexus *n, unsigned lun)
{
	struct itl_page *p = lun < LIM_LUNS ? n->page[lun / ITL_PAGE] : NULL;

	return p && p->itl[lun % ITL_PAGE].ll ? &p->itl[lun % ITL_PAGE] : NULL;
}
/* Its itl, made if need be. 0, -ENOENT: no unit there; -ENOMEM. */
int  nexus_itl(struct scsi_nexus *n, unsigned lun, struct itl **ret);
/* It has the list of LUNs as it is: REPORTED LUNS DATA HAS CHANGED is answered, at every unit. */
void nexus_luns_seen(struct scsi_nexus *n);

/* --- mode.c --- */
void mode_reset(struct lu *lu, uint8_t to[MODE_PAGES_MAX][MODE_PAGE_MAX]); /* defaults of type and conf */
int  mode_index(const struct lu *lu, uint8_t page); /* -1: it has none */
int  mode_find(const struct lu *lu, uint8_t page, uint8_t sub);
void mode_load(struct lu *lu); /* saved values, control thread */
void mode_derive(struct lu *lu);

/* --- alua.c --- */
bool alua_refuses(struct scsi_cmd *c); /* failed it: its target port group does not allow it now */
uint8_t alua_qualifier(const struct scsi_cmd *c); /* peripheral qualifier in bits 7-5 */
bool alua_offered(const struct scsi_cmd *c);
bool alua_set_offered(const struct scsi_cmd *c);
void alua_report(struct scsi_cmd *c);
void alua_set(struct scsi_cmd *c);
void alua_load(struct lu *lu); /* control thread, before the unit is in use */
void alua_free(struct lu *lu);
bool alua_does_io(const struct itl *itl); /* through the nexus' group, now */
bool alua_gated(const struct alua_state *s); /* is a group not active? */

/* --- pr.c --- */
struct pr_state;
bool pr_allows(const struct scsi_cmd *c, const struct itl *itl);
bool pr_permits(const struct itl *itl, uint32_t flags); /* SCSI_PR_READ or SCSI_PR_WRITE */
void pr_note(struct itl *itl, const struct scsi_nexus *n); /* a new I_T_L nexus: is it registered? */
bool pr_answers_reserve(struct scsi_cmd *c);
bool pr_any(const struct pr_state *s); /* is anybody registered? */
int  pr_load(struct lu *lu, struct err *e);
void pr_free(struct lu *lu);
void pr_in(struct scsi_cmd *c);
void pr_out(struct scsi_cmd *c);

/* --- copy_*.c --- */
void copy_extended(struct scsi_cmd *c);
void copy_extended4(struct scsi_cmd *c);
void copy_abort(struct scsi_cmd *c);
void copy_status(struct scsi_cmd *c);
void copy_status4(struct scsi_cmd *c);
void copy_details(struct scsi_cmd *c);
void copy_populate(struct scsi_cmd *c);
void copy_use_token(struct scsi_cmd *c);
void copy_tokens(struct scsi_cmd *c);
void copy_all_tokens(struct scsi_cmd *c);
void copy_parameters(struct scsi_cmd *c);
int  copy_vpd(struct scsi_cmd *c, uint8_t *p, size_t n);
void copy_forget(struct lu_loop *ll);       /* a reset: results of this unit's copy manager, on this loop */
void copy_forget_gone(struct scsi_nexus *n); /* the map changed: results of units that it does not see any more */
void copy_forget_all(struct scsi_nexus *n); /* the nexus ends; no copy of it is under way */

/* --- taskset.c --- */
/* A CHECK CONDITION that concerns other commands, or establishes ACA: scsi_end() comes again afterwards. Took it over? */
bool task_set_fault(struct scsi_cmd *c);
bool task_set_refuses(struct scsi_cmd *c, const struct itl *itl);
bool task_set_blocks(const struct lu_loop *ll, const struct scsi_cmd *c);
uint16_t task_set_ua(const struct scsi_cmd *c, struct itl *itl);
void task_set_status(struct scsi_cmd *c, enum scsi_status status); /* BUSY, TASK SET FULL, RESERVATION CONFLICT */
/* On the nexus' loop; the unit's home is then to be told by lu_aca_end(). */
void task_set_clear_aca(struct scsi_nexus *n, struct itl *itl);
/* Aborts; a command of another nexus than the one that wants it is told so if TAS is set. */
void scsi_abort_by(struct scsi_cmd *c, bool own);
void lu_aca_end(struct lu *lu, uint64_t id); /* home; then publish */
void lu_aca_end_all(struct lu *lu);

/* --- ident.c, selftest.c --- */
void ident_load(struct lu *lu); /* control thread, before the unit is in use */
void selftest_stop(struct lu *lu); /* home */
uint32_t selftest_sense(const struct lu_loop *ll, struct sense_extra *x); /* 0: none runs */

/* --- sanitize.c --- */
/* The gate while a SANITIZE is under way or has failed: refused it? */
bool sanitize_refuses(struct scsi_cmd *c);
/* What the unit says of it, 0 = nothing. */
uint32_t sanitize_sense(const struct lu_loop *ll, struct sense_extra *x);
int  sanitize_load(struct lu *lu, struct err *e); /* control thread, before the unit is in use */
void sanitize_go_on(struct lu_job *j);            /* a job: resumes what a restart or a missing medium interrupted */
void sanitize_stop(struct lu *lu);                /* home: the unit is about to be closed */

/* --- sbc_format.c --- */
uint8_t format_load(struct lu *lu); /* protection type that the unit is formatted with; control thread */

/* --- command tables --- */
extern const struct scsi_op spc_ops[], sbc_ops[], service_ops[], format_ops[], pi_ops[], copy_ops[];
extern const struct scsi_page disk_vpd[];
extern const struct scsi_mode_page disk_mode[];
enum { VPD_MAX = 20 << 10 }; /* bytes of a page: 64 ports with long names */
void spc_inquiry(struct scsi_cmd *c);
void spc_report_luns(struct scsi_cmd *c);
void spc_request_sense(struct scsi_cmd *c);
void spc_test_unit_ready(struct scsi_cmd *c);
void spc_mode_sense(struct scsi_cmd *c);
void spc_mode_select(struct scsi_cmd *c);
void spc_reserve(struct scsi_cmd *c);
void spc_release(struct scsi_cmd *c);
/* Runs `run` as a job of the unit for this command. run() leaves the outcome with scsi_job_*(), then ends the job. */
void scsi_job(struct scsi_cmd *c, void (*run)(struct lu_job *j));
/* The same with an end of its own, which calls scsi_job_end() at last. */
void scsi_job_with(struct scsi_cmd *c, void (*run)(struct lu_job *j), void (*done)(struct lu_job *j));
void scsi_job_end(struct lu_job *j);
static inline struct scsi_cmd *scsi_job_cmd(struct lu_job *j)
{
	return container_of(j, struct scsi_cmd, job);
}
/* Called in run(): what the command will end with. byte: of the field at fault, -1 = none. */
void scsi_job_status(struct lu_job *j, enum scsi_status status);
void scsi_job_sense(struct lu_job *j, uint32_t sense, int byte);
void spc_report_opcodes(struct scsi_cmd *c);
void spc_report_tmf(struct scsi_cmd *c);
size_t vpd_lu_designators(const struct lu *lu, uint8_t *p); /* as in page 83h; p: 512 bytes */
const struct scsi_page *vpd_find(const struct lu *lu, uint8_t page);
int  vpd_supported(struct scsi_cmd *c, uint8_t *p, size_t n);

#endif
