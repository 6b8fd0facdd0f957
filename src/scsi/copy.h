/* SPDX-License-Identifier: BSD-3-Clause
 * The copy manager (SPC-4 5.17), shared by its files: copy.c moves data in steps, copy_list.c reads EXTENDED COPY's
 * parameter lists, copy_result.c keeps and tells results, copy_limits.c tells what is possible, token.c keeps tokens,
 * parameter lists, copy_result.c keeps and tells results, copy_limits.c tells what is possible, token.c keeps tokens,
 * loop of the nexus but for token.c, and parts of copy_third.c. docs/design/0011. */
#ifndef LUNETTE_SCSI_COPY_H
#define LUNETTE_SCSI_COPY_H

#include "scsi/priv.h"

enum {
	COPY_CSCDS_MAX = 16, COPY_SEGMENTS_MAX = 64, COPY_CSCD_LEN = 32, COPY_SEGMENT_BYTES = 64 << 20,
	COPY_LISTS_MAX = COPY_CSCDS_MAX * COPY_CSCD_LEN + COPY_SEGMENTS_MAX * 32,
	COPY_GRANULARITY = 9, /* log2 of bytes */
	COPY_RESULTS = 16,    /* per nexus: operations under way, and with them results that are kept */
	COPIES_MAX = 128,     /* per loop */
	COPY_PART = 512 << 10, COPY_PART_IOV = COPY_PART / 4096 + 2, /* what goes through memory at once */
	/* bytes of a step: at first, at first through memory, at most; it follows the time that steps take */
	COPY_LEAP_FIRST = 8 << 20, COPY_LEAP_MEMORY = 1 << 20, COPY_LEAP_MAX = 1 << 30,
};
#define COPY_TOKEN_BYTES (1ull << 40)   /* that one token represents, and one command writes, at most */
#define COPY_TOKEN_OPTIMAL (256ull << 20)
/* Codes in parameter lists. */
enum { CSCD_IDENTIFICATION = 0xe4, CSCD_SELF = 0xffff, CSCD_NULL_BLOCK = 0xc000,
	SEG_BLOCKS = 0x02, SEG_VERIFY = 0x07, SEG_OFFSET = 0x0a, SEG_IMAGE = 0x16 };
/* Service actions of 83h and 84h. */
enum { COPY_LID1 = 0x00, COPY_LID4 = 0x01, COPY_POPULATE = 0x10, COPY_USE_TOKEN = 0x11 };

#define SENSE_COPY_ABORTED SENSE(0xa, 0x00, 0x00)
#define SENSE_COPY_UNREACHABLE SENSE(0xa, 0x08, 0x04)   /* a descriptor ID that names nothing */
#define SENSE_COPY_THIRD_PARTY SENSE(0xa, 0x0d, 0x01)
#define SENSE_COPY_NOT_REACHABLE SENSE(0xa, 0x0d, 0x02)
#define SENSE_COPY_DEVICE_TYPE SENSE(0xa, 0x0d, 0x03)
#define SENSE_COPY_CLEARED SENSE(0xa, 0x2f, 0x02)
#define SENSE_TOKEN(key, ascq) SENSE(key, 0x23, ascq)
enum { TOKEN_TYPE = 1, TOKEN_UNKNOWN = 4, TOKEN_CORRUPT = 5, TOKEN_EXPIRED = 7, TOKEN_CANCELLED = 8, TOKEN_DELETED = 9,
	TOKEN_LENGTH = 0x0a }; /* additional sense code qualifiers of 23h, INVALID TOKEN OPERATION */

/* What is wrong with a parameter list. byte: of the field in it, -1 = none in particular. */
struct copy_fault { uint32_t sense; int byte; };
static inline struct copy_fault copy_fault(uint32_t sense, int byte)
{
	return (struct copy_fault){ sense, byte };
}
void copy_refuse(struct scsi_cmd *c, struct copy_fault f);

/* A unit that the nexus of a copy does not see, but another one of the same initiator. On the loop of the copy; held by a
 * user of ll until copy_third_free(). */
struct copy_party {
	struct lu_loop *ll;        /* its part on the loop of the copy; NULL: not found */
	uint8_t         cscd[COPY_CSCD_LEN];
	uint64_t        nexus;     /* id of the nexus that sees it; that may be gone */
	struct loop    *loop;      /* and its loop */
	bool            reads, writes; /* what that nexus may, when it was asked last */
	struct lu_loop *held;      /* while it is looked for: its part on the loop where it was found */
	struct task     task;
	void          (*answered)(void *ctx);
	void           *ctx;
};
struct copy_third {
	struct scsi_cmd  *c;       /* until done() */
	unsigned          n, at;   /* parties; next loop to visit */
	bool              taken;
	struct task       task;
	void            (*done)(struct copy_third *t);
	void             *ctx;
	struct copy_party party[COPY_CSCDS_MAX];
};

struct copy_seg {
	struct lu_loop *src, *dst; /* src NULL: zeros; dst NULL: nothing is moved */
	uint64_t from, to, len;    /* bytes */
	uint64_t lease;            /* that must hold on src, 0 = none */
	struct copy_party *src_party, *dst_party; /* by whose rights; NULL: by those of the nexus */
	int      src_at, dst_at;   /* bytes of the parameter list where src and dst are described, -1 = nowhere */
};

/* What can be asked about an operation. */
struct copy_result {
	struct list  node;         /* scsi_nexus.copies, oldest first */
	const struct lu *lu;       /* whose copy manager; only compared */
	uint32_t     list_id;
	uint8_t      action, state; /* COPY_*; COPY OPERATION STATUS, SPC-4 table 249 */
	uint8_t      status;       /* SCSI status once it has ended */
	bool         busy;         /* the operation is under way */
	bool         forget;       /* drop it when the operation ends */
	uint8_t      shift;        /* log2 of the block that transfers are counted in */
	unsigned     segments, requests;
	uint64_t     bytes;
	struct copy *copy;         /* what moves data for it, or NULL */
	unsigned     sense_len;
	uint8_t      sense[LIM_SENSE];
	uint8_t     *token;        /* TOKEN_BYTES, or NULL */
};
enum { COPY_DONE = 0x01, COPY_FAILED = 0x02, COPY_PARTIAL = 0x03, COPY_FOREGROUND = 0x11, COPY_BACKGROUND = 0x12,
	COPY_TERMINATED = 0x60 };

/* A copy operation. */
struct copy {
	struct scsi_cmd   *c;       /* whose end ends it: the command that began it, or bg */
	struct scsi_cmd    bg;      /* stands for it in the lists of nexus and unit when it runs in the background */
	struct blk_io      io;
	struct copy_result *result; /* NULL: nobody will ask */
	struct copy_seg   *seg;
	unsigned           nseg, at;
	bool               counts_segments, cancelled, offload;
	bool               short_of_data; /* the token has fewer bytes than were asked for */
	uint64_t           done;    /* of the segment at hand */
	uint64_t           step, moved, part; /* bytes: of the step under way; moved of it; being moved */
	uint64_t           leap;    /* bytes of the next step */
	uint64_t           data_left; /* what follows is no hole, so far */
	uint64_t           began_ns;
	struct lu_freeze  *freeze[2];
	struct list        aborters; /* scsi_cmd.job.node of COPY OPERATION ABORT commands that wait for the end */
	void             (*ended)(struct copy *k); /* before k is freed; may be NULL */
	struct token_use  *token;
	struct copy_third *third;   /* NULL: the nexus sees all of its units */
	unsigned           asks;    /* parties of the step that have answered */
	bool               charged; /* COPY_PART bytes of the loop's memory for copies */
	struct timer       again;   /* when there may be some */
	struct iovec       iov[COPY_PART_IOV];
	int                niov;
};

/* nseg segments to fill; NULL when memory is exhausted. */
struct copy *copy_new(struct scsi_cmd *c, unsigned nseg);
void copy_free(struct copy *k); /* that was not begun */
/* May one more begin? Else the command has been answered BUSY. */
bool copy_may_begin(struct scsi_cmd *c);
/* Takes k over. Holds its units, and moves; in the background: the command ends GOOD now. */
void copy_begin(struct copy *k, bool background);

/* Who is meant, and may it? As the gates of a READ or WRITE would say. */
struct itl *copy_unit(struct scsi_nexus *n, const uint8_t *cscd);
bool copy_allows(const struct scsi_nexus *n, const struct itl *itl, bool writes);

/* --- copy_third.c --- */
/* Looks for units by their CSCD descriptors of COPY_CSCD_LEN bytes (at most COPY_CSCDS_MAX): new, add, then go(), once, on the
 * command's loop; done() from its queue. The caller has looked among its own. */
struct copy_third *copy_third_new(struct scsi_cmd *c, void (*done)(struct copy_third *t), void *ctx);
void copy_third_add(struct copy_third *t, const uint8_t *cscd);
void copy_third_go(struct copy_third *t, struct loop *here);
/* The one that was found; NULL: none was, or t is NULL. */
struct copy_party *copy_third_find(struct copy_third *t, const uint8_t *cscd);
void copy_third_free(struct copy_third *t); /* after done(); may be NULL */
/* Sets reads and writes as they are now; one at a time. done() from the queue. */
void copy_party_ask(struct copy_party *p, void (*done)(void *ctx), void *ctx);

/* --- copy_result.c --- */
struct copy_result *copy_result_find(const struct scsi_nexus *n, const struct lu *lu, uint32_t id);
/* A place for a new operation's result. 0 or the sense to refuse it with; *ret NULL with -1: all places are taken. */
uint32_t copy_result_new(struct scsi_cmd *c, uint32_t id, uint8_t action, struct copy_result **ret);
void copy_result_drop(struct copy_result *r);

#endif
