/* SPDX-License-Identifier: BSD-3-Clause
 * A logical unit, its device type's tables, and the target device that maps LUNs to logical units.
 * The functions here are called on the control thread unless they say otherwise. A logical unit is used from
 * every I/O loop: state that changes rarely is decided on lu->home and seen by the loops as snapshots that a
 * round (loop/round.h) replaces. */
#ifndef LUNETTE_SCSI_LU_H
#define LUNETTE_SCSI_LU_H

#include "base/schema.h"
#include "scsi/scsi.h"

struct scsi_field { uint8_t at, bytes; };   /* big-endian field in the CDB; bytes 0 = absent */
enum {                                      /* scsi_op.flags */
	SCSI_IN = 1u << 0, SCSI_OUT = 1u << 1, /* data direction */
	SCSI_SA = 1u << 2,                  /* the row also matches on service action */
	SCSI_MEDIUM = 1u << 3,              /* gate: medium present and ready */
	SCSI_WRITES = 1u << 4,              /* gate: write protect */
	SCSI_PR_READ = 1u << 5, SCSI_PR_WRITE = 1u << 6, SCSI_PR_FREE = 1u << 7, /* reservation conflict class */
	SCSI_NO_UA = 1u << 8,               /* runs despite a pending unit attention (INQUIRY, REPORT LUNS ...) */
	SCSI_ANY_LUN = 1u << 9,             /* answers for LUNs without a logical unit */
	SCSI_BLOCKS = 1u << 10,             /* moves nblk blocks of data in its direction */
	SCSI_RES_CONFLICT = 1u << 11,       /* conflicts with RESERVE (SPC-2) although PR_FREE */
	SCSI_PR_START = 1u << 12,           /* free only if it asks to start (START STOP UNIT), or to allow
	                                     * (PREVENT ALLOW): the row's own check decides */
	/* Access states that are not active (SPC-4 5.16.2.4) in which the command is allowed all the same. */
	SCSI_IN_STANDBY = 1u << 13, SCSI_IN_UNAVAILABLE = 1u << 14, SCSI_IN_TRANSITION = 1u << 15,
	SCSI_ANY_STATE = SCSI_IN_STANDBY | SCSI_IN_UNAVAILABLE | SCSI_IN_TRANSITION,
};

/* One row serves dispatch, reserved-bit check, LBA bounds, reservation and unit-attention gates, REPORT
 * SUPPORTED OPERATION CODES, the fuzz dictionary and the conformance coverage report. */
struct scsi_op {
	uint8_t  opcode, action, cdb_len;
	uint32_t flags;
	struct scsi_field lba, nblk;        /* checked against the capacity when present */
	struct scsi_field alloc;            /* data-in commands: allocation length, bytes */
	struct scsi_field param;            /* data-out commands with a parameter list: its length, bytes */
	uint8_t  usage[32];                 /* a bit set outside this mask is INVALID FIELD IN CDB */
	uint8_t  timeout_s;                 /* recommended, 0 = not said */
	/* After the gates of LUN, CDB and LBA fields, before data: may set nblk, off, len; returns the bytes of
	 * data-out that the CDB asks for, or -1 after scsi_fail_field(). NULL: nblk blocks or the parameter list. */
	int64_t (*prepare)(struct scsi_cmd *c);
	void   (*exec)(struct scsi_cmd *c); /* all gates have passed; ends in scsi_reply*() exactly once */
	/* Does the unit have it, as this nexus sees it? NULL: always. prepare() refuses, where there is one. */
	bool   (*offered)(const struct scsi_cmd *c);
	const char *name, *spec;
};

/* VPD page: fill() writes the bytes after the 4-byte header into p[0..n) and returns their number, or -ENOENT
 * when this unit does not have the page. */
struct scsi_page { uint8_t page; int (*fill)(struct scsi_cmd *c, uint8_t *p, size_t n); const char *spec; };

/* Mode page: bytes as on the wire from byte 0 on; a subpage has a header of four. mask: what MODE SELECT may change. A table
 * is in the order of codes. */
enum { MODE_PAGE_MAX = 40, MODE_PAGES_MAX = 16 };
struct lu_pub;
struct scsi_mode_page {
	uint8_t page, sub, len; /* len: whole page, header included; 0 ends a table */
	uint8_t dflt[MODE_PAGE_MAX], mask[MODE_PAGE_MAX];
	const char *spec;
	/* Is the new page possible? Else the byte at fault. NULL: the mask says all. */
	int   (*check)(const uint8_t *p);
	bool  (*has)(const struct lu_pub *p); /* does this unit have the page? NULL: yes */
};

struct lu_type {
	const char *name;
	uint8_t     device_type;              /* SPC peripheral device type */
	const struct scsi_op *const *ops;     /* { spc_ops, sbc_ops, NULL }; later tables override */
	const struct scsi_op *const *pi_ops;  /* the same for units that keep protection information */
	const struct scsi_page *vpd;
	const struct scsi_mode_page *mode;
	int  (*open)(struct lu *lu, struct err *e);
	void (*close)(struct lu *lu);
};

/* What the administrator says of a disk; the fields that follow a comma on the command line. */
struct lu_conf {
	uint64_t bs;         /* logical block, 512 or 4096; 0 = 512, or what the device below demands */
	uint64_t pbs;        /* physical block, bytes; 0 = the device's, at least 4096 for files */
	bool     ro, removable, wce, pr_by_name;
	char    *serial;     /* NULL = random for life, kept in the state directory */
	char    *vendor, *product, *revision;
	char    *integrity;  /* where checksums are kept: a path or "memory"; NULL = there are none */
	uint64_t pi;         /* protection type that a new disk is formatted with */
};
extern const struct conf_field lu_conf_fields[];
/* What the table cannot say: sizes that exist, lengths of texts. lu_open() asks it too. Pure. */
int lu_conf_check(const struct lu_conf *conf, struct err *e);

/* Where identities and saved mode pages are kept; the server gives one, tests give memory. All calls on the
 * control thread. name: the volume's. */
struct lu_store {
	/* Fills id (16 bytes, random at creation, for life); volatile_ = a new one each start. */
	int (*identity)(void *ctx, const char *name, bool volatile_, uint8_t id[16], struct err *e);
	int (*load)(void *ctx, const uint8_t id[16], const char *what, void *buf, size_t len); /* bytes or -errno */
	int (*save)(void *ctx, const uint8_t id[16], const char *what, const void *buf, size_t len); /* durable */
	void *ctx;
	struct loop *control; /* MODE SELECT with SP posts its save here */
};

/* blk NULL: present but NOT READY (02/04/xx) until lu_attach(). The lu owns blk from then on. */
int  lu_open(struct lu **ret, const struct lu_type *type, const char *name, const struct lu_conf *conf,
	struct blk *blk, const struct lu_store *store, struct err *e);
int  lu_attach(struct lu *lu, struct blk *blk, struct err *e);
/* The capacity of the medium below changed: unit attention 2A/09 to every nexus. */
void lu_capacity_changed(struct lu *lu);
/* next, which is in no LUN map yet, gets the persistent reservations and access states of old, which it will replace in
 * every map; from then on commands that change the state of old end with BUSY. done(ctx, 0 or -ENOMEM) on the control
 * loop, never inside but for -ENOMEM. */
void lu_inherit(struct lu *next, struct lu *old, void (*done)(void *ctx, int result), void *ctx);
bool lu_same_identity(const struct lu *a, const struct lu *b);
/* No command reaches it any more once it is in no map; drains what runs, then gone(ctx) on the control loop. */
void lu_close(struct lu *lu, void (*gone)(void *ctx), void *ctx);
/* Bytes that the medium takes below, and that can still be had there: thin units warn initiators when it becomes little. */
void lu_space(struct lu *lu, uint64_t used, uint64_t left);
const char *lu_name(const struct lu *lu);
uint64_t lu_bytes(const struct lu *lu);
struct blk *lu_blk(struct lu *lu);
extern const struct lu_type lu_disk; /* lu_disk.c */

/* errors: every CHECK CONDITION; of them those of the medium or the unit in reads, writes, verifies and other commands. */
enum { LU_STATS = 10 };
struct lu_stats {
	uint64_t read_ops, write_ops, read_bytes, write_bytes, other_ops, errors;
	uint64_t read_errors, write_errors, verify_errors, other_errors;
};
void lu_stats(const struct lu *lu, struct lu_stats *ret); /* any thread; sums per-loop counters */

/* The target device: a name and a LUN map. */
struct scsi_lun { uint16_t lun; struct lu *lu; };
struct scsi_target *scsi_target_new(const char *name);
/* The target port groups: one for each portal group tag, ascending, those of other nodes included. In force with the
 * next scsi_target_set_luns(). tpgs: INQUIRY TPGS, 0 = no asymmetric access is reported. */
struct scsi_ports { uint8_t tpgs, transition_s; unsigned n; uint16_t tag[LIM_PORTALS]; };
void scsi_target_set_ports(struct scsi_target *t, const struct scsi_ports *ports);
/* Replaces the map on every loop; done(ctx) on the control loop when each has it. Nexuses that see a different
 * list get unit attention 3F/0E. */
void scsi_target_set_luns(struct scsi_target *t, const struct scsi_lun *luns, unsigned n,
	void (*done)(void *ctx), void *ctx);
void scsi_target_free(struct scsi_target *t); /* no nexus left */
const char *scsi_target_name(const struct scsi_target *t);

/* Once on the control thread, when loop_group is filled; and the reverse, when no loop runs. */
int  scsi_init(struct loop *control, struct err *e);
void scsi_fini(void);

#endif
