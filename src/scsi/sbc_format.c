/* SPDX-License-Identifier: BSD-3-Clause
 * FORMAT UNIT (SBC-4 4.33, 5.4): its CDB and parameter list; sanitize.c does the work. WRITE LONG (5.50, 5.51), which
 * marks a block unreadable, and REASSIGN BLOCKS (5.24), which has nothing to move. On the command's loop. */
#include "scsi/sbc.h"
#include "scsi/service.h"

enum { FMTPINFO = 0xc0, LONGLIST = 0x20, FMTDATA = 0x10 };       /* CDB byte 1 */
enum { FOV = 0x80, OPTIONS = 0x78, IP = 0x08, IMMED = 0x02 };    /* parameter list byte 1 */
enum { LIST_MAX = 8 + 4 + 4096 };

uint8_t format_load(struct lu *lu)
{
	uint8_t type;

	if (lu->store->load && lu->store->load(lu->store->ctx, lu->id, "format", &type, 1) == 1 && type <= 3)
		return type;
	return (uint8_t)lu->conf.pi;
}

/* Short or long header, then the pattern's. */
struct params { uint8_t p[8 + 4]; unsigned head; };

static struct params params_of(const struct scsi_cmd *c)
{
	struct params l = { .head = 0 };

	if (c->cdb[1] & FMTDATA)
		l.head = c->cdb[1] & LONGLIST ? 8 : 4;
	if (l.head)
		scsi_data_get(c, 0, l.p, MIN(sizeof(l.p), (size_t)c->out_len));
	return l;
}

/* SBC-4 table 44, where all types are offered. */
int format_type(const struct scsi_cmd *c)
{
	struct params l = params_of(c);
	unsigned usage = l.head ? l.p[0] & 7 : 0, info = c->cdb[1] >> 6;

	switch (info << 3 | usage) {
	case 0 << 3 | 0: return 0;
	case 2 << 3 | 0: return 1;
	case 3 << 3 | 0: return 2;
	case 3 << 3 | 1: return 3;
	default: return -1;
	}
}

bool format_immed(const struct scsi_cmd *c)
{
	return params_of(c).p[1] & IMMED;
}

static bool has_pattern(const struct params *l)
{
	return l->head && (l->p[1] & (FOV | IP)) == (FOV | IP);
}

int format_pattern(const struct scsi_cmd *c, uint8_t pattern[4096], uint32_t *ret_len)
{
	struct params l = params_of(c);

	*ret_len = 1;
	pattern[0] = 0;
	if (!has_pattern(&l) || l.p[l.head + 1] == 0) /* type 0: the default, zeros */
		return 0;
	*ret_len = be16(l.p + l.head + 2);
	scsi_data_get(c, l.head + 4, pattern, *ret_len);
	return 1;
}

/* The length of the list is nowhere in the CDB: it is what the initiator brings. */
static int64_t format_prepare(struct scsi_cmd *c)
{
	bool data = c->cdb[1] & FMTDATA;

	if (!data && (c->cdb[1] & FMTPINFO))
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 7);
	else if ((c->cdb[1] & FMTPINFO) == 0x40 || ((c->cdb[1] & FMTPINFO) && !c->ll->pub.pi_able))
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 7);
	else if (c->room_out > LIST_MAX)
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
	else
		return data ? (int64_t)c->room_out : 0;
	return -1;
}

static bool bad(struct scsi_cmd *c, unsigned byte, int bit)
{
	scsi_reply_field(c, SENSE_INVALID_PARAM, byte, bit);
	return false;
}

static bool pattern_ok(struct scsi_cmd *c, const struct params *l)
{
	const uint8_t *p = l->p + l->head;
	unsigned len = be16(p + 2);

	if (c->out_len < l->head + 4u || p[1] > 1)
		return bad(c, l->head + (p[1] > 1 ? 1 : 0), -1);
	if (p[1] == 0 ? len != 0 : !len || len > c->ll->pub.bs || c->out_len < l->head + 4 + len)
		return bad(c, l->head + 2, -1);
	return true;
}

static bool list_ok(struct scsi_cmd *c)
{
	struct params l = params_of(c);
	bool is_long = l.head == 8;

	if (!l.head)
		return true;
	if (c->out_len < l.head) {
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return false;
	}
	if (format_type(c) < 0)
		return bad(c, 0, 2);
	if (!(l.p[1] & FOV) && (l.p[1] & OPTIONS))
		return bad(c, 1, 7);
	if (is_long && l.p[3]) /* the interval of protection is the block */
		return bad(c, 3, -1);
	if (is_long ? be32(l.p + 4) : be16(l.p + 2)) /* there are no defects, and none can be told to us */
		return bad(c, is_long ? 4 : 2, -1);
	return !has_pattern(&l) || pattern_ok(c, &l);
}

void format_exec(struct scsi_cmd *c)
{
	if (list_ok(c))
		sanitize_format(c);
}

/* --- WRITE LONG --- */

enum { COR_DIS = 0x80, WR_UNCOR = 0x40, PBLOCK = 0x20 };

static bool long_offered(const struct scsi_cmd *c)
{
	return c->ll->pub.blk && (c->ll->pub.blk->caps & BLK_CAN_TUPLES);
}

/* Only WR_UNCOR is left of it in SBC-4, and it transfers nothing. */
static int64_t sbc_write_long_prepare(struct scsi_cmd *c)
{
	if (!long_offered(c))
		scsi_reply_sense(c, SENSE_INVALID_OPCODE);
	else if ((c->cdb[1] & (COR_DIS | WR_UNCOR | PBLOCK)) != WR_UNCOR)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 6);
	else if (c->lba >= c->ll->pub.nblk)
		scsi_reply_sense(c, SENSE_LBA_RANGE);
	else {
		c->len = 1ull << c->ll->shift; /* freezes and leases hold it back like a write */
		return 0;
	}
	return -1;
}

static void marked(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	if (io->status < 0) {
		sbc_fail(c, true);
		return;
	}
	c->status = SCSI_GOOD;
	scsi_end(c);
}

/* Reads of the block are MEDIUM ERROR until it is written. */
static void sbc_write_long(struct scsi_cmd *c)
{
	c->io.req = (struct blk_req){ .op = BLK_ZERO, .flags = BLK_MARK_BAD, .off = c->off, .len = c->len };
	sbc_submit(c, marked);
}

/* --- REASSIGN BLOCKS --- */

/* The medium below moves blocks by itself, or has nowhere to move them: that a listed block exists is all there is to
 * check. What cannot be read stays so until it is written. */
static void sbc_reassign(struct scsi_cmd *c)
{
	unsigned each = c->cdb[1] & 2 ? 8 : 4; /* LONGLBA */
	uint8_t p[8];
	uint32_t len;

	if (c->out_len < 4) {
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return;
	}
	scsi_data_get(c, 0, p, 4);
	len = c->cdb[1] & 1 ? be32(p) : be16(p + 2); /* LONGLIST */
	if (len % each || len > c->out_len - 4) {
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return;
	}
	for (uint32_t at = 4; at < 4 + len; at += each) {
		scsi_data_get(c, at, p, each);
		uint64_t lba = be_field(p, each);
		struct sense_extra x = { .has_info = true, .info = lba };
		if (lba < c->ll->pub.nblk)
			continue;
		sense_set(c, SENSE_LBA_RANGE, &x);
		scsi_reply(c, SCSI_CHECK_CONDITION);
		return;
	}
	scsi_reply(c, SCSI_GOOD);
}

/* REASSIGN BLOCKS has no length in its CDB either. */
static int64_t sbc_reassign_prepare(struct scsi_cmd *c)
{
	if (c->room_out <= LIST_MAX)
		return c->room_out;
	scsi_reply_sense(c, SENSE_PARAM_LENGTH);
	return -1;
}

#define F2 0xff, 0xff
#define F4 F2, F2

const struct scsi_op format_ops[] = {
	{ .opcode = 0x04, .name = "FORMAT UNIT", .spec = "SBC-4 5.4", .cdb_len = 6,
	  .flags = SCSI_OUT | SCSI_MEDIUM | SCSI_WRITES | SCSI_PR_WRITE, .prepare = format_prepare, .exec = format_exec,
	  .usage = { 0x04, 0xff, 0xff } },
	{ .opcode = 0x07, .name = "REASSIGN BLOCKS", .spec = "SBC-4 5.24", .cdb_len = 6,
	  .flags = SCSI_OUT | SCSI_MEDIUM | SCSI_WRITES | SCSI_PR_WRITE, .prepare = sbc_reassign_prepare,
	  .exec = sbc_reassign, .usage = { 0x07, 0x03 } },
	{ .opcode = 0x3f, .name = "WRITE LONG (10)", .spec = "SBC-4 5.50", .cdb_len = 10,
	  .flags = SCSI_MEDIUM | SCSI_WRITES | SCSI_PR_WRITE, .prepare = sbc_write_long_prepare, .offered = long_offered,
	  .exec = sbc_write_long, .lba = { 2, 4 }, .usage = { 0x3f, 0xe0, F4, 0, F2 } },
	{ .opcode = 0x9f, .action = 0x11, .name = "WRITE LONG (16)", .spec = "SBC-4 5.51", .cdb_len = 16,
	  .flags = SCSI_SA | SCSI_MEDIUM | SCSI_WRITES | SCSI_PR_WRITE, .prepare = sbc_write_long_prepare,
	  .offered = long_offered, .exec = sbc_write_long, .lba = { 2, 8 }, .usage = { 0x9f, 0xf1, F4, F4, 0, 0, F2 } },
	{ .name = NULL },
};
