/* SPDX-License-Identifier: BSD-3-Clause
 * A bed for tests of scsi/: two I/O loops and a control loop turned by hand on one thread, a target, logical
 * units over RAM disks, and commands sent byte by byte. Included by one test program each. */
#ifndef LUNETTE_TESTS_SCSI_BED_H
#define LUNETTE_TESTS_SCSI_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/filter/filter.h"
#include "scsi/priv.h"

enum { BED_LOOPS = 2, BED_DATA = 17 << 20 };

struct bed {
	struct loop *control;
	struct scsi_target *target;
	struct lu_store store;
	uint8_t saved[16][8192];
	char saved_name[16][16];
	int saved_len[16], nsaved;
	int save_fails; /* errno for the saves to come, negative */
	uint8_t next_id;
};
static struct bed bed;

/* What a command brought. */
struct answer {
	struct scsi_cmd *cmd;
	int done;
	uint8_t status, key, asc, ascq;
	bool aborted;
	uint32_t out_len;
	uint64_t len, want_in, want_out;
	uint8_t *data; /* in: what was read */
};

static inline int bed_identity(void *ctx, const char *name, bool volatile_, uint8_t id[16], struct err *e)
{
	memset(id, 0xa0 + bed.next_id++, 16);
	return 0;
}

static inline int bed_load(void *ctx, const uint8_t id[16], const char *what, void *buf, size_t len)
{
	for (int i = 0; i < bed.nsaved; i++) {
		if (strcmp(bed.saved_name[i], what))
			continue;
		if (bed.saved_len[i] > 0) /* else an error to be told */
			memcpy(buf, bed.saved[i], MIN(len, (size_t)bed.saved_len[i]));
		return bed.saved_len[i];
	}
	return -ENOENT;
}

static inline int bed_save(void *ctx, const uint8_t id[16], const char *what, const void *buf, size_t len)
{
	int i = 0;

	if (bed.save_fails)
		return bed.save_fails;
	while (i < bed.nsaved && strcmp(bed.saved_name[i], what))
		i++;
	snprintf(bed.saved_name[i], sizeof(bed.saved_name[i]), "%s", what);
	if (len > sizeof(bed.saved[i]))
		return -ENOSPC;
	memcpy(bed.saved[i], buf, len);
	bed.saved_len[i] = (int)len;
	bed.nsaved = MAX(bed.nsaved, i + 1);
	return 0;
}

static inline bool bed_turn(void)
{
	bool ran = loop_turn(bed.control, 0);

	for (unsigned i = 0; i < loop_group.n; i++)
		ran |= loop_turn(loop_group.loop[i], 0);
	return ran;
}

static inline void bed_until(const int *flag)
{
	for (int i = 0; i < 1000000 && !*flag; i++)
		bed_turn();
	assert_true(*flag);
}

/* Lets everything that is under way settle. */
static inline void bed_settle(void)
{
	for (int i = 0; i < 20; i++)
		bed_turn();
}

static inline void bed_count(void *ctx)
{
	++*(int *)ctx;
}

static inline void bed_start(unsigned loops)
{
	struct err e = { 0 };

	memset(&bed, 0, sizeof(bed));
	assert_int_equal(page_arena_init(512 << 20, &e), 0);
	bed.control = loop_new(&loop_epoll, LIM_LOOPS - 1, &e);
	assert_non_null(bed.control);
	loop_group.n = loops;
	for (unsigned i = 0; i < loops; i++)
		loop_group.loop[i] = loop_new(&loop_epoll, i, &e);
	assert_int_equal(scsi_init(bed.control, &e), 0);
	bed.target = scsi_target_new("iqn.2026-01.test:bed");
	bed.store = (struct lu_store){ .identity = bed_identity, .load = bed_load, .save = bed_save,
		.control = bed.control };
}

static inline struct blk *bed_ram(uint64_t size)
{
	struct err e = { 0 };
	struct blk *b;

	if (blk_open(&b, blk_find("ram"), &size, NULL, &e))
		fail_msg("%s", e.text);
	return b;
}

/* A filter that holds requests, fails them, and remembers what passed. */
struct valve {
	struct blk *blk;
	bool hold;
	bool drop;           /* writes and discards end well and do nothing */
	int fail;            /* errno for the next requests, negative */
	unsigned op_seen[8]; /* by enum blk_op */
	uint32_t flags;      /* of the last write */
	const struct blk_extent *map; /* what MAP answers, nmap of them */
	int nmap;
	struct blk_io *held[64];
	unsigned nheld;
};
static struct valve valve;

static inline void valve_submit(struct blk *b, struct blk_io *io)
{
	valve.op_seen[io->req.op]++;
	if (io->req.op == BLK_WRITE || io->req.op == BLK_ZERO || io->req.op == BLK_DISCARD)
		valve.flags = io->req.flags;
	if (valve.fail) {
		io->fail_off = io->req.off;
		blk_done(io, valve.fail);
	} else if (valve.drop && (io->req.op == BLK_WRITE || io->req.op == BLK_DISCARD)) {
		blk_done(io, 0);
	} else if (io->req.op == BLK_MAP && valve.map) {
		memcpy(io->req.map, valve.map, (size_t)valve.nmap * sizeof(*valve.map));
		io->req.nmap = valve.nmap;
		blk_done(io, 0);
	} else if (valve.hold) {
		assert_true(valve.nheld < ARRAY_LEN(valve.held));
		valve.held[valve.nheld++] = io;
	} else {
		blk_pass(b, io);
	}
}

static const struct blk_ops valve_ops = { .name = "valve", .filter = true, .submit = valve_submit };

/* Lets the i-th held request go on. */
static inline void valve_release(unsigned i)
{
	struct blk_io *io = valve.held[i];

	assert_true(i < valve.nheld);
	memmove(valve.held + i, valve.held + i + 1, (--valve.nheld - i) * sizeof(valve.held[0]));
	blk_pass(valve.blk, io);
}

static inline void valve_open(void)
{
	valve.hold = false;
	while (valve.nheld)
		valve_release(0);
}

static inline struct blk *bed_valve(uint64_t size, uint32_t caps_on, uint32_t caps_off)
{
	struct err e = { 0 };

	memset(&valve, 0, sizeof(valve));
	if (blk_open(&valve.blk, &valve_ops, NULL, bed_ram(size), &e))
		fail_msg("%s", e.text);
	valve.blk->caps = (valve.blk->caps | caps_on) & ~caps_off;
	return valve.blk;
}

static inline struct lu *bed_lu(const struct lu_conf *conf, struct blk *blk)
{
	struct lu_conf dflt = { .wce = true };
	struct err e = { 0 };
	struct lu *lu;

	if (lu_open(&lu, &lu_disk, "disk", conf ? conf : &dflt, blk, &bed.store, &e))
		fail_msg("%s", e.text);
	return lu;
}

static inline void bed_map_of(struct scsi_target *t, const struct scsi_lun *luns, unsigned n)
{
	int done = 0;

	scsi_target_set_luns(t, luns, n, bed_count, &done);
	bed_until(&done);
}

static inline void bed_map(const struct scsi_lun *luns, unsigned n)
{
	bed_map_of(bed.target, luns, n);
}

static inline void bed_close(struct lu *lu)
{
	int done = 0;

	lu_close(lu, bed_count, &done);
	bed_until(&done);
}

static inline struct scsi_nexus *bed_nexus_at(struct scsi_target *t, unsigned loop, uint8_t isid, const char *initiator,
	const char *principal)
{
	uint8_t id[6] = { 0x80, 0, 0, 0, 0, isid };
	struct scsi_nexus *n = scsi_nexus_new(t, loop_group.loop[loop], initiator, id, 1);

	assert_non_null(n);
	assert_int_equal(scsi_nexus_principal(n, principal), 0);
	return n;
}

static inline struct scsi_nexus *bed_nexus(unsigned loop, uint8_t isid)
{
	return bed_nexus_at(bed.target, loop, isid, "iqn.2026-01.test:client", "user client");
}

static inline void bed_nexus_close(struct scsi_nexus *n)
{
	int done = 0;

	scsi_nexus_close(n, bed_count, &done);
	bed_until(&done);
}

static inline void bed_stop(void)
{
	bed_settle();
	scsi_target_free(bed.target);
	scsi_fini();
	work_fini(); /* first: a worker may still be about to wake a loop */
	for (unsigned i = 0; i < loop_group.n; i++)
		loop_free(loop_group.loop[i]);
	loop_free(bed.control);
	loop_group.n = 0;
	integrity_fini();
	page_arena_fini();
}

/* --- commands --- */

struct bed_cmd { struct scsi_cmd cmd; struct answer *a; };

static inline void bed_sense(struct answer *a, const struct scsi_cmd *c)
{
	if (!c->sense_len)
		return;
	bool desc = c->sense[0] == 0x72;
	a->key = desc ? c->sense[1] : c->sense[2];
	a->asc = desc ? c->sense[2] : c->sense[12];
	a->ascq = desc ? c->sense[3] : c->sense[13];
}

/* What each row of the command tables ended with, for scsi_cover.py: one line each in the file that SCSI_COVER names. */
static struct { const struct scsi_op *op; uint32_t code; } bed_seen[2048];
static unsigned bed_nseen;

static inline void bed_cover(const struct scsi_cmd *c, const struct answer *a)
{
	uint32_t code = a->status == SCSI_CHECK_CONDITION ? SENSE(a->key, a->asc, a->ascq) : a->status;

	for (unsigned i = 0; i < bed_nseen; i++)
		if (bed_seen[i].op == c->op && bed_seen[i].code == code)
			return;
	if (c->op && !c->aborted && bed_nseen < ARRAY_LEN(bed_seen)) {
		bed_seen[bed_nseen].op = c->op;
		bed_seen[bed_nseen++].code = code;
	}
}

static inline void bed_row(FILE *f, const struct scsi_op *op)
{
	fprintf(f, "row\t%s\t%x\t%d\n", op->name, op->flags, op->lba.bytes);
}

__attribute__((destructor)) static inline void bed_report(void)
{
	FILE *f = getenv("SCSI_COVER") ? fopen(getenv("SCSI_COVER"), "a") : NULL;

	if (!f)
		return;
	for (const struct scsi_op *const *t = lu_disk.ops; *t; t++)
		for (const struct scsi_op *op = *t; op->name; op++)
			bed_row(f, op);
	for (const struct scsi_op *op = pi_ops; op->name; op++)
		if (op->cdb_len == 32) /* the others have the names of rows that they stand over */
			bed_row(f, op);
	for (unsigned i = 0; i < bed_nseen; i++)
		fprintf(f, "seen\t%s\t%06x\n", bed_seen[i].op->name, bed_seen[i].code);
	fclose(f);
}

static inline void bed_done(struct scsi_cmd *c)
{
	struct answer *a = container_of(c, struct bed_cmd, cmd)->a;

	a->done++;
	a->status = c->status;
	a->aborted = c->aborted;
	a->len = c->in_len;
	a->want_in = c->want_in;
	a->want_out = c->want_out;
	assert_true(c->in_len <= c->room_in);
	bed_sense(a, c);
	bed_cover(c, a);
	free(a->data);
	a->data = NULL;
	if (c->in_len) {
		uint64_t have = 0;
		for (int i = 0; i < c->niov; i++)
			have += c->iov[i].iov_len;
		assert_int_equal(have, c->in_len);
		a->data = malloc(c->in_len);
		scsi_data_get(c, 0, a->data, c->in_len);
	}
}

static inline struct scsi_cmd *bed_cmd(struct answer *a, struct scsi_nexus *n, unsigned lun, const void *cdb,
	size_t cdb_len, uint32_t room_in, uint32_t room_out)
{
	struct bed_cmd *b = malloc(sizeof(*b)); /* not cleared: scsi_cmd_init must do */
	static uint64_t tag;

	memset(b, 0xee, sizeof(*b));
	memset(a, 0, sizeof(*a));
	b->a = a;
	scsi_cmd_init(&b->cmd, n->loop);
	a->cmd = &b->cmd;
	b->cmd.nexus = n;
	lun_encode(b->cmd.lun, lun);
	memset(b->cmd.cdb, 0, sizeof(b->cmd.cdb));
	memcpy(b->cmd.cdb, cdb, cdb_len);
	b->cmd.cdb_len = (uint16_t)MAX(cdb_len, (size_t)16);
	b->cmd.attr = SCSI_SIMPLE;
	b->cmd.priority = 0;
	b->cmd.tag = ++tag;
	b->cmd.room_in = room_in;
	b->cmd.room_out = room_out;
	b->cmd.done = bed_done;
	return &b->cmd;
}

/* Begins and, when data-out is wanted, fills it from out (repeated zeros beyond it are not invented). */
static inline void bed_start_cmd(struct scsi_cmd *c, const void *out)
{
	scsi_begin(c);
	if (c->state == SCSI_CMD_WAIT_DATA && c->out_len) {
		assert_int_equal(scsi_data_alloc(c, c->out_len), 0);
		scsi_data_put(c, 0, out, c->out_len);
	}
	container_of(c, struct bed_cmd, cmd)->a->out_len = c->out_len;
	scsi_exec(c);
}

static inline void bed_free(struct answer *a)
{
	scsi_cmd_fini(a->cmd);
	free(container_of(a->cmd, struct bed_cmd, cmd));
	a->cmd = NULL;
}

static inline struct answer bed_run(struct scsi_nexus *n, unsigned lun, const void *cdb, size_t cdb_len,
	const void *out, uint32_t out_len, uint32_t room_in)
{
	static uint8_t *last;
	struct answer a;

	free(last); /* what an answer read is good until the next command */
	bed_start_cmd(bed_cmd(&a, n, lun, cdb, cdb_len, room_in, out_len), out);
	bed_until(&a.done);
	bed_settle();
	assert_int_equal(a.done, 1);
	bed_free(&a);
	last = a.data;
	return a;
}

#define CDB(...) ((const uint8_t[16]){ __VA_ARGS__ }), 16
#define RUN(n, lun, ...) bed_run(n, lun, CDB(__VA_ARGS__), NULL, 0, 1 << 16)

/* READ/WRITE (16). */
static inline struct answer bed_rw(struct scsi_nexus *n, unsigned lun, bool write, uint64_t lba, uint32_t nblk,
	void *data, uint32_t bytes)
{
	uint8_t cdb[16] = { write ? 0x8a : 0x88 };

	put_be64(cdb + 2, lba);
	put_be32(cdb + 10, nblk);
	return bed_run(n, lun, cdb, 16, data, write ? bytes : 0, write ? 0 : bytes);
}

struct bed_tmf { struct scsi_tmf t; int done; };

static inline void bed_tmf_done(struct scsi_tmf *t)
{
	container_of(t, struct bed_tmf, t)->done++;
}

static inline void bed_tmf_start(struct bed_tmf *t, struct scsi_nexus *n, unsigned lun, enum scsi_tmf_kind kind,
	uint64_t tag)
{
	*t = (struct bed_tmf){ .t = { .kind = kind, .nexus = n, .tag = tag, .done = bed_tmf_done } };
	lun_encode(t->t.lun, lun);
	scsi_tmf(&t->t);
}

static inline enum scsi_tmf_result bed_tmf(struct scsi_nexus *n, unsigned lun, enum scsi_tmf_kind kind, uint64_t tag)
{
	struct bed_tmf t;

	bed_tmf_start(&t, n, lun, kind, tag);
	bed_until(&t.done);
	return t.t.result;
}

#define assert_good(a) assert_int_equal((a).status, SCSI_GOOD)
#define assert_sense(a, k, c, q)                                                                   \
	do {                                                                                       \
		struct answer a_ = (a);                                                            \
		assert_int_equal(a_.status, SCSI_CHECK_CONDITION);                                 \
		assert_int_equal(a_.key << 16 | a_.asc << 8 | a_.ascq, (k) << 16 | (c) << 8 | (q)); \
	} while (0)

/* Takes the power-on unit attention away. */
static inline void bed_ready(struct scsi_nexus *n, unsigned lun)
{
	for (int i = 0; i < 4 && RUN(n, lun, 0x00).status; i++)
		;
}

#endif
