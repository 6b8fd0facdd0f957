/* SPDX-License-Identifier: BSD-3-Clause
 * The SCSI target device: commands in, data and status out. Called by a transport (iscsi/, tests) on the
 * I/O loop of the command's nexus; the backends never see a CDB and the transport never sees a block.
 *
 * Life of a command:
 *   scsi_cmd_init -> transport fills the request -> scsi_begin (LUN, CDB and gates; says in out_len how many
 *   bytes of data-out are wanted) -> transport collects them into iov -> scsi_exec -> cmd->done(), always
 *   from the loop's queue, exactly once, for every command that was begun -> transport sends data-in and status
 *   -> scsi_cmd_fini.
 * A command that fails a gate is finished by scsi_begin itself (done is still deferred) with out_len 0.
 * Task attributes and ordering rules are kept here, not in the transport. */
#ifndef LUNETTE_SCSI_SCSI_H
#define LUNETTE_SCSI_SCSI_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/limits.h"
#include "base/list.h"
#include "block/blk.h"
#include "loop/loop.h"

struct lu;
struct lu_loop;
struct lu_freeze;
struct scsi_nexus;
struct scsi_target;
struct scsi_op;

enum scsi_status { /* SAM-5 5.3.1 */
	SCSI_GOOD = 0x00,
	SCSI_CHECK_CONDITION = 0x02,
	SCSI_CONDITION_MET = 0x04,
	SCSI_BUSY = 0x08,
	SCSI_RESERVATION_CONFLICT = 0x18,
	SCSI_TASK_SET_FULL = 0x28,
	SCSI_ACA_ACTIVE = 0x30,
	SCSI_TASK_ABORTED = 0x40,
};
enum scsi_attr { SCSI_UNTAGGED, SCSI_SIMPLE, SCSI_ORDERED, SCSI_HEAD_OF_QUEUE, SCSI_ACA }; /* RFC 7143 11.3.1 values */

enum { SCSI_IOV_INLINE = 18 }; /* 64 KiB of pages and two odd ends */

/* Private to scsi/: a change of a logical unit's shared state, decided on its home loop, one at a time. */
struct lu_job {
	struct task  task;
	struct list  node;
	struct lu   *lu;
	struct loop *from;                /* done() runs there */
	void       (*run)(struct lu_job *j);
	void       (*done)(struct lu_job *j);
	uint16_t     ua;                  /* unit attention that the change causes, 0 = none */
	uint64_t     ua_except;           /* id of the nexus that does not get it */
	void       (*sealed)(struct lu_job *j); /* in place of run() when another unit takes this one's place; NULL: run() */
};

/* HELD: a frozen range or task ordering keeps it from running; FREEZING: it waits for a freeze of its own; ENDING: its
 * work is done, and it waits for commands that it aborted; PARKED: work that the unit does by itself will end it. */
enum scsi_cmd_state {
	SCSI_CMD_IDLE, SCSI_CMD_WAIT_DATA, SCSI_CMD_HELD, SCSI_CMD_FREEZING, SCSI_CMD_RUNNING, SCSI_CMD_ENDING,
	SCSI_CMD_PARKED, SCSI_CMD_DONE,
};

struct scsi_cmd {
	/* The request: set by the transport before scsi_begin(). */
	struct loop       *loop;
	struct scsi_nexus *nexus;
	uint8_t            lun[8];    /* as on the wire, SAM-5 4.7 */
	uint16_t           cdb_len;   /* bytes given: 16, or more by AHS */
	uint8_t            attr;      /* enum scsi_attr */
	uint8_t            priority;
	uint64_t           tag;       /* unique in the nexus while the command lives */
	uint32_t           room_in;   /* bytes of data-in the initiator has room for */
	uint32_t           room_out;  /* bytes of data-out the initiator offers */
	bool               send_only; /* data-in is sent without being looked at: see BLK_SEND */
	void             (*done)(struct scsi_cmd *c);

	/* Answers of scsi_begin(). */
	uint32_t out_len;             /* bytes of data-out to collect, <= room_out */

	/* Data, in page references (base/page.h). Out: the transport calls scsi_data_alloc(c, out_len) and fills it; of
	 * what it collected before scsi_begin(), the first out_len bytes stay.
	 * In: valid in done(), in_len bytes; the transport sends it and ends with scsi_cmd_fini(). */
	struct iovec *iov;
	int           niov, iov_max;
	uint32_t      in_len;         /* bytes of data-in to send, <= room_in */

	/* The result, valid in done(). */
	uint8_t  status;              /* enum scsi_status */
	bool     fence;               /* the transport keeps it in order with the nexus' other responses, RFC 7143 4.2.2.3.4 */
	uint16_t qualifier;           /* status qualifier, SAM-5 5.3.2; 0 = none */
	bool     aborted;             /* by task management or nexus loss: send nothing */
	uint16_t sense_len;
	uint64_t want_in, want_out;   /* bytes the CDB asked to move: residual = want - room, see RFC 7143 11.4.5 */

	/* Private to scsi/. */
	enum scsi_cmd_state state;
	bool                must_abort;
	bool                background; /* no initiator sent it: a copy that goes on after its command */
	bool                told;     /* its abort is told with TASK ABORTED (TAS) */
	bool                faulted;  /* what its CHECK CONDITION does to others is done */
	struct lu          *lu;
	struct lu_loop     *ll;       /* its part on this loop */
	const struct scsi_op *op;
	struct list         in_nexus, in_lu;
	struct task         task;
	struct lu_job       job;
	struct lu_freeze   *freeze;   /* held by this command, or NULL */
	void              (*resume)(struct scsi_cmd *c); /* when HELD ends */
	uint64_t            seq;      /* order of arrival in ll */
	uint64_t            off, len; /* bytes on the medium while RUNNING: what freezes look at */
	uint64_t            lba, nblk;
	uint64_t            scratch[6]; /* of the op's exec */
	uint8_t             sense[LIM_SENSE];
	struct iovec        iov_inline[SCSI_IOV_INLINE];
	uint8_t             cdb[LIM_CDB]; /* request: zero beyond cdb_len up to 16 at least */
	struct blk_io       io;
};

/* Memory that copies through memory may hold on each loop, bytes; LIM_COPY_MEMORY until it is called: after scsi_init(),
 * before the loops run. What one copy needs is always granted. */
void scsi_copy_budget(uint64_t bytes);

/* Transport side. */
void scsi_cmd_init(struct scsi_cmd *c, struct loop *l); /* cheap: does not clear the whole struct */
void scsi_begin(struct scsi_cmd *c);
void scsi_exec(struct scsi_cmd *c);
/* Collected data turned out bad (digest, length): ends the command with CHECK CONDITION and this sense. */
void scsi_fail(struct scsi_cmd *c, uint8_t key, uint8_t asc, uint8_t ascq);
void scsi_cmd_fini(struct scsi_cmd *c); /* puts pages; after done() */

/* Pages for len bytes, first byte page aligned, into c->iov. -ENOMEM, -EMSGSIZE. */
int  scsi_data_alloc(struct scsi_cmd *c, uint32_t len);
/* The same, keeping the pages and bytes that are there: room for len bytes in all. */
int  scsi_data_extend(struct scsi_cmd *c, uint32_t len);
void scsi_data_free(struct scsi_cmd *c);

/* A command that was begun and has not ended: its transport gives it up while the nexus lives on. done() runs with
 * aborted set when nothing of it can touch the medium; until then later commands that overlap a write of it wait.
 * The nexus hears of it by unit attention 47/7F (RFC 7143 11.14.5). */
void scsi_cmd_drop(struct scsi_cmd *c);

/* Task management, SAM-5 7. done runs on the nexus' loop when nothing of what it aborted can touch the medium. */
enum scsi_tmf_kind {
	SCSI_ABORT_TASK, SCSI_ABORT_TASK_SET, SCSI_CLEAR_ACA, SCSI_CLEAR_TASK_SET, SCSI_LU_RESET,
	SCSI_TARGET_RESET, /* warm and cold; the transport drops connections for cold */
	SCSI_QUERY_TASK, SCSI_QUERY_TASK_SET, SCSI_QUERY_ASYNC_EVENT, SCSI_I_T_NEXUS_RESET,
};
enum scsi_tmf_result { SCSI_TMF_COMPLETE, SCSI_TMF_SUCCEEDED, SCSI_TMF_REJECTED, SCSI_TMF_NO_LUN, SCSI_TMF_NO_TASK };
struct scsi_tmf {
	enum scsi_tmf_kind   kind;
	struct scsi_nexus   *nexus;
	uint8_t              lun[8];
	uint64_t             tag;    /* ABORT TASK, QUERY TASK */
	/* Functions on many tasks: whether a command of its own nexus is one of them; NULL: all are. Called in scsi_tmf(). */
	bool               (*covers)(const struct scsi_tmf *t, const struct scsi_cmd *c);
	enum scsi_tmf_result result; /* valid in done() */
	uint8_t              info[3]; /* additional response information, SAM-5 7.1, likewise */
	void               (*done)(struct scsi_tmf *t);
	/* private */
	struct task     task;
	struct lu_loop *ll;
	struct lu_job   job;
	unsigned        next_lun; /* target reset: the next to reset */
	uint64_t        nexus_id;
	bool            with_data; /* ABORT TASK found its command */
};
void scsi_tmf(struct scsi_tmf *t);

/* An I_T nexus: one initiator port (name + ISID) at one target port group. Lives on its loop. */
struct scsi_nexus *scsi_nexus_new(struct scsi_target *t, struct loop *l, const char *initiator,
	const uint8_t isid[6], uint16_t tpgt);
/* How the transport knows that the initiator is the one it says: nexuses of one initiator name with the same text, of any
 * targets, count as one initiator to copies. Once at its beginning, copied; 0 or -ENOMEM. Without it a nexus stands alone. */
int scsi_nexus_principal(struct scsi_nexus *n, const char *text);
/* What its transport is, once at its beginning. level: iSCSIProtocolLevel. lost: called on its loop, from outside of the
 * transport, when a function of another nexus has marked commands of this one at a LUN; their done() comes later. */
void scsi_nexus_transport(struct scsi_nexus *n, uint8_t level, void (*lost)(void *ctx, const uint8_t lun[8]), void *ctx);
/* I_T nexus loss: aborts its commands (their done() runs with aborted set), releases reservations; gone()
 * runs on the loop when the last has ended and nothing of it can touch the medium. Writes that hang below
 * keep their range frozen for everybody until they end, so that a later overlapping command orders after
 * them. The nexus is freed before gone(). */
void scsi_nexus_close(struct scsi_nexus *n, void (*gone)(void *ctx), void *ctx);

#endif
