/* SPDX-License-Identifier: BSD-3-Clause
 * What the copy manager can do: RECEIVE COPY OPERATING PARAMETERS (SPC-4 6.22) and the Third-party Copy VPD page
 * (SPC-4 7.8.17, SBC-4 6.6.9). On the command's loop. */
#include "scsi/copy.h"

#include "scsi/token.h"

static const uint8_t descriptor_types[] = { SEG_BLOCKS, SEG_VERIFY, SEG_OFFSET, SEG_IMAGE, CSCD_IDENTIFICATION };

void copy_parameters(struct scsi_cmd *c)
{
	uint8_t p[44 + sizeof(descriptor_types)] = { 0 };

	put_be32(p, sizeof(p) - 4);
	p[4] = 1; /* SNLID */
	put_be16(p + 8, COPY_CSCDS_MAX);
	put_be16(p + 10, COPY_SEGMENTS_MAX);
	put_be32(p + 12, COPY_LISTS_MAX);
	put_be32(p + 16, COPY_SEGMENT_BYTES);
	put_be16(p + 34, COPY_RESULTS);
	p[36] = COPY_RESULTS;
	p[37] = COPY_GRANULARITY;
	p[43] = sizeof(descriptor_types);
	memcpy(p + 44, descriptor_types, sizeof(descriptor_types));
	scsi_reply_data(c, p, sizeof(p));
}

/* A third-party copy descriptor's head; len: of what follows it. */
static uint8_t *descriptor(uint8_t *p, uint16_t type, unsigned len)
{
	memset(p, 0, 4 + len);
	put_be16(p, type);
	put_be16(p + 2, (uint16_t)len);
	return p;
}

static unsigned rod_limits(const struct scsi_cmd *c, uint8_t *p)
{
	descriptor(p, 0x0000, 32);
	put_be16(p + 10, TOKEN_RANGES_MAX);
	put_be32(p + 12, TOKEN_IDLE_MAX_S);
	put_be32(p + 16, TOKEN_IDLE_DEFAULT_S);
	put_be64(p + 20, COPY_TOKEN_BYTES >> c->ll->shift);
	put_be64(p + 28, COPY_TOKEN_OPTIMAL >> c->ll->shift);
	return 36;
}

static unsigned commands(const struct scsi_cmd *c, uint8_t *p)
{
	static const uint8_t list[] = { 0x83, 5, 0x00, 0x01, 0x10, 0x11, 0x1c, 0x84, 6, 0x00, 0x03, 0x04, 0x05, 0x07, 0x08 };
	unsigned len = (1 + sizeof(list) + 3) & ~3u;

	descriptor(p, 0x0001, len);
	p[4] = sizeof(list);
	memcpy(p + 5, list, sizeof(list));
	return 4 + len;
}

static unsigned parameter_data(const struct scsi_cmd *c, uint8_t *p)
{
	descriptor(p, 0x0004, 28);
	put_be16(p + 8, COPY_CSCDS_MAX);
	put_be16(p + 10, COPY_SEGMENTS_MAX);
	put_be32(p + 12, COPY_LISTS_MAX);
	return 32;
}

static unsigned descriptors(const struct scsi_cmd *c, uint8_t *p)
{
	unsigned len = (1 + sizeof(descriptor_types) + 3) & ~3u;

	descriptor(p, 0x0008, len);
	p[4] = sizeof(descriptor_types);
	memcpy(p + 5, descriptor_types, sizeof(descriptor_types));
	return 4 + len;
}

static unsigned cscd_ids(const struct scsi_cmd *c, uint8_t *p)
{
	descriptor(p, 0x000c, 4);
	put_be16(p + 4, 2);
	put_be16(p + 6, CSCD_SELF);
	return 8;
}

static unsigned rod_features(const struct scsi_cmd *c, uint8_t *p)
{
	descriptor(p, 0x0106, 44 + 48);
	put_be32(p + 16, TOKEN_LIFE_S); /* the lifetime of all */
	put_be32(p + 20, TOKEN_LIFE_S);
	put_be32(p + 24, TOKEN_IDLE_MAX_S);
	put_be16(p + 46, 48);
	p += 48; /* block ROD device type specific features */
	put_be16(p + 2, 0x2c);
	put_be16(p + 6, (uint16_t)(c->ll->pub.pbs >> c->ll->shift));
	put_be64(p + 8, COPY_TOKEN_BYTES);
	put_be64(p + 16, COPY_TOKEN_OPTIMAL);
	put_be64(p + 24, COPY_TOKEN_OPTIMAL);
	put_be64(p + 32, COPY_TOKEN_OPTIMAL);
	return 96;
}

static unsigned rod_types(const struct scsi_cmd *c, uint8_t *p)
{
	enum { TOKEN_IN = 2, TOKEN_OUT = 1 };
	static const struct { uint32_t type; uint8_t flags; } types[] = {
		{ TOKEN_TYPE_DEFAULT, TOKEN_IN | TOKEN_OUT }, { TOKEN_TYPE_VULNERABLE, TOKEN_IN | TOKEN_OUT },
		{ TOKEN_TYPE_ZERO, TOKEN_IN },
	};

	descriptor(p, 0x0108, 4 + 64 * ARRAY_LEN(types));
	put_be16(p + 6, 64 * ARRAY_LEN(types));
	for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
		put_be32(p + 8 + 64 * i, types[i].type);
		p[8 + 64 * i + 4] = types[i].flags;
	}
	return 8 + 64 * ARRAY_LEN(types);
}

static unsigned general(const struct scsi_cmd *c, uint8_t *p)
{
	descriptor(p, 0x8001, 32);
	put_be32(p + 4, COPY_RESULTS);
	put_be32(p + 8, COPY_RESULTS);
	put_be32(p + 12, COPY_SEGMENT_BYTES);
	p[16] = COPY_GRANULARITY;
	return 36;
}

/* In ascending order of their types. */
int copy_vpd(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	static unsigned (*const parts[])(const struct scsi_cmd *c, uint8_t *p) = {
		rod_limits, commands, parameter_data, descriptors, cscd_ids, rod_features, rod_types, general,
	};
	unsigned at = 0;

	for (unsigned i = 0; i < ARRAY_LEN(parts); i++)
		at += parts[i](c, p + at);
	return (int)at;
}

/* --- the table --- */

#define F4 0xff, 0xff, 0xff, 0xff
#define IN (SCSI_IN | SCSI_SA | SCSI_PR_FREE)
#define OUT (SCSI_OUT | SCSI_SA | SCSI_MEDIUM | SCSI_PR_WRITE)

const struct scsi_op copy_ops[] = {
	{ .opcode = 0x83, .action = 0x00, .name = "EXTENDED COPY (LID1)", .spec = "SPC-4 6.5", .cdb_len = 16, .flags = OUT,
	  .param = { 10, 4 }, .exec = copy_extended, .usage = { 0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, F4 } },
	{ .opcode = 0x83, .action = 0x01, .name = "EXTENDED COPY (LID4)", .spec = "SPC-4 6.4", .cdb_len = 16, .flags = OUT,
	  .param = { 10, 4 }, .exec = copy_extended4, .usage = { 0x83, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, F4 } },
	{ .opcode = 0x83, .action = 0x10, .name = "POPULATE TOKEN", .spec = "SBC-4 5.12", .cdb_len = 16,
	  .flags = SCSI_OUT | SCSI_SA | SCSI_MEDIUM | SCSI_PR_READ, .param = { 10, 4 }, .exec = copy_populate,
	  .usage = { 0x83, 0x10, 0, 0, 0, 0, F4, F4, 0x3f } },
	{ .opcode = 0x83, .action = 0x11, .name = "WRITE USING TOKEN", .spec = "SBC-4 5.59", .cdb_len = 16,
	  .flags = OUT | SCSI_WRITES, .param = { 10, 4 }, .exec = copy_use_token,
	  .usage = { 0x83, 0x11, 0, 0, 0, 0, F4, F4, 0x3f } },
	{ .opcode = 0x83, .action = 0x1c, .name = "COPY OPERATION ABORT", .spec = "SPC-4 6.3", .cdb_len = 16,
	  .flags = SCSI_SA | SCSI_PR_FREE, .exec = copy_abort, .usage = { 0x83, 0x1c, F4 } },
	{ .opcode = 0x84, .action = 0x00, .name = "RECEIVE COPY STATUS (LID1)", .spec = "SPC-4 6.25", .cdb_len = 16,
	  .flags = IN, .alloc = { 10, 4 }, .exec = copy_status, .usage = { 0x84, 0x00, 0xff, 0, 0, 0, 0, 0, 0, 0, F4 } },
	{ .opcode = 0x84, .action = 0x03, .name = "RECEIVE COPY OPERATING PARAMETERS", .spec = "SPC-4 6.22", .cdb_len = 16,
	  .flags = IN, .alloc = { 10, 4 }, .exec = copy_parameters,
	  .usage = { 0x84, 0x03, 0xff, 0, 0, 0, 0, 0, 0, 0, F4 } },
	{ .opcode = 0x84, .action = 0x04, .name = "RECEIVE COPY FAILURE DETAILS (LID1)", .spec = "SPC-4 6.23", .cdb_len = 16,
	  .flags = IN, .alloc = { 10, 4 }, .exec = copy_details, .usage = { 0x84, 0x04, 0xff, 0, 0, 0, 0, 0, 0, 0, F4 } },
	{ .opcode = 0x84, .action = 0x05, .name = "RECEIVE COPY STATUS (LID4)", .spec = "SPC-4 6.24", .cdb_len = 16,
	  .flags = IN, .alloc = { 10, 4 }, .exec = copy_status4, .usage = { 0x84, 0x05, F4, 0, 0, 0, 0, F4 } },
	{ .opcode = 0x84, .action = 0x07, .name = "RECEIVE ROD TOKEN INFORMATION", .spec = "SBC-4 5.25", .cdb_len = 16,
	  .flags = IN, .alloc = { 10, 4 }, .exec = copy_tokens, .usage = { 0x84, 0x07, F4, 0, 0, 0, 0, F4 } },
	{ .opcode = 0x84, .action = 0x08, .name = "REPORT ALL ROD TOKENS", .spec = "SPC-4 6.31", .cdb_len = 16, .flags = IN,
	  .alloc = { 10, 4 }, .exec = copy_all_tokens, .usage = { 0x84, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, F4 } },
	{ .name = NULL },
};
