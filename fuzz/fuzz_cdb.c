/* SPDX-License-Identifier: BSD-3-Clause
 * Fuzzes the SCSI device: CDBs and parameter data from two nexuses on two loops against a disk of 1 MiB. An input
 * is a row of records:
 *
 *   0      bit 0 nexus, bits 1-2 LUN, bit 3 removable disk (first record), bit 4 4096-byte blocks (first record),
 *          bit 5 do not wait for this command to end, bit 6 close the nexus afterwards
 *   1      task management afterwards, by enum scsi_tmf_kind + 1; 0 = none
 *   2-4    room for data-in, bytes
 *   5-7    data-out offered, bytes; the next bytes of the input, then zeros
 *   8-23   CDB
 *
 * Properties: (1) every command that was begun ends exactly once; (2) never more data than the initiator has room
 * for or offers, and vectors that say what in_len says; (3) CHECK CONDITION has sense data; (4) everything ends: no
 * page stays in use when nexuses and disk are gone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "loop/round.h"
#include "scsi/lu.h"

enum { LOOPS = 2, HEAD = 24, CMDS_MAX = 64, TURNS_MAX = 100000 };

struct flight { struct scsi_cmd cmd; struct scsi_tmf tmf; int done, tmf_done; bool has_tmf; };

static struct loop *control;
static struct scsi_target *target;
static struct scsi_nexus *nexus[2];
static struct flight *flights[CMDS_MAX];
static unsigned nflights;
static bool broken;

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "property broken: %s\n", what);
	broken = true;
	abort();
}

static void turn(void)
{
	loop_turn(control, 0);
	for (unsigned i = 0; i < LOOPS; i++)
		loop_turn(loop_group.loop[i], 0);
}

static void until(const int *flag, const char *what)
{
	for (int i = 0; i < TURNS_MAX && !*flag; i++)
		turn();
	must(*flag == 1, what);
}

static void count(void *ctx)
{
	++*(int *)ctx;
}

static int identity(void *ctx, const char *name, bool volatile_, uint8_t id[16], struct err *e)
{
	memset(id, 0x5a, 16);
	return 0;
}

static int load(void *ctx, const uint8_t id[16], const char *what, void *buf, size_t len)
{
	return -2;
}

static int save(void *ctx, const uint8_t id[16], const char *what, const void *buf, size_t len)
{
	return 0;
}

static void start_once(void)
{
	struct err e = { 0 };

	if (control)
		return;
	page_arena_init(128 << 20, &e);
	control = loop_new(&loop_epoll, LIM_LOOPS - 1, &e);
	loop_group.n = LOOPS;
	for (unsigned i = 0; i < LOOPS; i++)
		loop_group.loop[i] = loop_new(&loop_epoll, i, &e);
	must(!scsi_init(control, &e), "start");
	target = scsi_target_new("iqn.2026-01.test:fuzz");
}

static void cmd_done(struct scsi_cmd *c)
{
	struct flight *f = (struct flight *)c; /* its first member */
	uint64_t have = 0;

	f->done++;
	must(f->done == 1, "a command ends once");
	must(c->in_len <= c->room_in, "data-in within its room");
	if (c->aborted)
		return;
	must(c->status != SCSI_CHECK_CONDITION || c->sense_len >= 8, "CHECK CONDITION has sense data");
	must(c->status != SCSI_CHECK_CONDITION || c->in_len == 0, "no data-in with sense data");
	for (int i = 0; c->in_len && i < c->niov; i++)
		have += c->iov[i].iov_len;
	must(have == c->in_len, "the vector says what in_len says");
}

static void tmf_done(struct scsi_tmf *t)
{
	struct flight *f = (struct flight *)((char *)t - offsetof(struct flight, tmf));

	f->tmf_done++;
}

static uint32_t be24_of(const uint8_t *p)
{
	return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
}

/* Data-out from what follows in the input, zeros beyond. Returns what was taken. */
static size_t give_data(struct scsi_cmd *c, const uint8_t *data, size_t size)
{
	size_t at = 0;

	if (scsi_data_alloc(c, c->out_len)) {
		scsi_fail(c, 0x0b, 0x55, 0x03);
		return 0;
	}
	for (int i = 0; i < c->niov; i++) {
		size_t n = c->iov[i].iov_len < size - at ? c->iov[i].iov_len : size - at;
		memset(c->iov[i].iov_base, 0, c->iov[i].iov_len);
		memcpy(c->iov[i].iov_base, data + at, n);
		at += n;
	}
	return at;
}

static void set_lun(uint8_t lun[8], unsigned n)
{
	memset(lun, 0, 8);
	lun[1] = (uint8_t)n;
}

static size_t one(const uint8_t *p, size_t size)
{
	struct flight *f = calloc(1, sizeof(*f));
	struct scsi_nexus *by = nexus[p[0] & 1];
	struct scsi_cmd *c = &f->cmd;
	size_t used = HEAD;

	memset(c, 0xee, sizeof(*c)); /* scsi_cmd_init() must set what matters */
	flights[nflights++] = f;
	scsi_cmd_init(c, loop_group.loop[p[0] & 1]);
	c->nexus = by;
	set_lun(c->lun, p[0] >> 1 & 3);
	memset(c->cdb, 0, sizeof(c->cdb));
	memcpy(c->cdb, p + 8, 16);
	c->cdb_len = 16;
	c->attr = SCSI_SIMPLE;
	c->tag = nflights;
	c->room_in = be24_of(p + 2);
	c->room_out = be24_of(p + 5);
	c->done = cmd_done;
	scsi_begin(c);
	must(c->out_len <= c->room_out, "data-out within what is offered");
	if (c->state == SCSI_CMD_WAIT_DATA && c->out_len)
		used += give_data(c, p + HEAD, size - HEAD);
	if (p[1] == 0x80) /* data that turned out bad */
		scsi_fail(c, 0x0b, 0x47, 0x05);
	scsi_exec(c);
	if (p[1] && p[1] <= SCSI_I_T_NEXUS_RESET + 1) {
		f->has_tmf = true;
		f->tmf = (struct scsi_tmf){ .kind = p[1] - 1, .nexus = by, .tag = nflights, .done = tmf_done };
		set_lun(f->tmf.lun, p[0] >> 1 & 3);
		scsi_tmf(&f->tmf);
	}
	if (!(p[0] & 0x20))
		until(&f->done, "a command ends");
	return used;
}

static struct scsi_nexus *open_nexus(unsigned i)
{
	static const uint8_t isid[6] = { 0x80 };

	return scsi_nexus_new(target, loop_group.loop[i], "iqn.2026-01.test:client", isid, 1);
}

static void close_nexus(unsigned i)
{
	int gone = 0;

	scsi_nexus_close(nexus[i], count, &gone);
	until(&gone, "a nexus closes");
}

static void all_end(void)
{
	for (unsigned i = 0; i < nflights; i++) {
		until(&flights[i]->done, "every command ends");
		if (flights[i]->has_tmf)
			until(&flights[i]->tmf_done, "every task management function ends");
	}
	for (unsigned i = 0; i < nflights; i++) {
		scsi_cmd_fini(&flights[i]->cmd);
		free(flights[i]);
	}
	nflights = 0;
}

static struct lu *open_disk(uint8_t flags)
{
	static struct lu_store store = { .identity = identity, .load = load, .save = save };
	struct lu_conf conf = { .wce = true, .removable = flags & 0x08, .bs = flags & 0x10 ? 4096 : 512 };
	uint64_t size = 1 << 20;
	struct err e = { 0 };
	struct blk *blk;
	struct lu *lu;

	store.control = control;
	must(!blk_open(&blk, blk_find("ram"), &size, NULL, &e), "the disk opens");
	must(!lu_open(&lu, &lu_disk, "disk", &conf, blk, &store, &e), "the unit opens");
	return lu;
}

static void map(const struct scsi_lun *luns, unsigned n)
{
	int done = 0;

	scsi_target_set_ports(target, &(struct scsi_ports){ .tpgs = 3, .n = 2, .tag = { 1, 2 } });
	scsi_target_set_luns(target, luns, n, count, &done);
	until(&done, "the map is replaced");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int gone = 0;

	if (size < HEAD)
		return 0;
	start_once();
	struct lu *lu = open_disk(data[0]);
	map(&(struct scsi_lun){ 0, lu }, 1);
	for (unsigned i = 0; i < 2; i++)
		nexus[i] = open_nexus(i);
	while (size >= HEAD && nflights < CMDS_MAX) {
		uint8_t flags = data[0];
		size_t used = one(data, size);
		data += used;
		size -= used;
		if (flags & 0x40) {
			close_nexus(flags & 1);
			nexus[flags & 1] = open_nexus(flags & 1);
		}
	}
	all_end();
	close_nexus(0);
	close_nexus(1);
	map(NULL, 0);
	lu_close(lu, count, &gone);
	until(&gone, "the unit closes");
	must(page_used_bytes() == 0, "every page was put");
	return 0;
}
