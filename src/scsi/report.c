/* SPDX-License-Identifier: BSD-3-Clause
 * REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4 6.35, 6.36), made from the tables that
 * dispatch commands. On the command's loop. */
#include "scsi/priv.h"

enum { TIMEOUTS_BYTES = 12 };

/* Command timeouts descriptor, SPC-4 6.35.4. */
static unsigned put_timeouts(uint8_t *p, const struct scsi_op *op)
{
	memset(p, 0, TIMEOUTS_BYTES);
	put_be16(p, TIMEOUTS_BYTES - 2);
	put_be32(p + 8, op->timeout_s);
	return TIMEOUTS_BYTES;
}

static bool is_offered(const struct scsi_cmd *c, const struct scsi_op *op)
{
	return !op->offered || op->offered(c);
}

/* Is the row the one that dispatch would find? Later tables override. */
static bool in_use(const struct scsi_cmd *c, const struct scsi_op *op)
{
	return is_offered(c, op) && scsi_optab_find(c->ll->pub.ops, op->opcode, op->flags & SCSI_SA ? op->action : -1) == op;
}

static unsigned put_command(uint8_t *p, const struct scsi_op *op, bool rctd)
{
	memset(p, 0, 8);
	p[0] = op->opcode;
	put_be16(p + 2, op->action);
	p[5] = (uint8_t)((rctd ? 0x02 : 0) | (op->flags & SCSI_SA ? 0x01 : 0)); /* CTDP, SERVACTV */
	put_be16(p + 6, op->cdb_len);
	return 8 + (rctd ? put_timeouts(p + 8, op) : 0);
}

static void report_all(struct scsi_cmd *c, bool rctd)
{
	uint8_t p[4 + 256 * (8 + TIMEOUTS_BYTES)];
	unsigned n = 4;

	for (const struct scsi_op *const *tab = c->ll->pub.ops->tables; *tab; tab++)
		for (const struct scsi_op *op = *tab; op->name; op++)
			if (in_use(c, op) && n + 8 + TIMEOUTS_BYTES <= sizeof(p))
				n += put_command(p + n, op, rctd);
	put_be32(p, n - 4);
	scsi_reply_data(c, p, n);
}

static void report_one(struct scsi_cmd *c, const struct scsi_op *op, bool rctd)
{
	uint8_t p[4 + 32 + TIMEOUTS_BYTES] = { 0 };
	unsigned n = 4;

	p[1] = 0x01; /* not supported */
	if (op && is_offered(c, op)) {
		p[1] = (uint8_t)(0x03 | (rctd ? 0x80 : 0)); /* supported as the standard says; CTDP */
		put_be16(p + 2, op->cdb_len);
		for (unsigned i = 0; i < op->cdb_len; i++)
			p[4 + i] = scsi_usage(op, i);
		n += op->cdb_len;
		if (rctd)
			n += put_timeouts(p + n, op);
	}
	scsi_reply_data(c, p, n);
}

/* Reporting options: 0 all, 1 opcode alone, 2 opcode and service action, 3 either as the opcode has it. */
void spc_report_opcodes(struct scsi_cmd *c)
{
	bool rctd = c->cdb[2] & 0x80;
	unsigned options = c->cdb[2] & 7, action = be16(c->cdb + 4);
	const struct scsi_op *any = scsi_optab_find(c->ll->pub.ops, c->cdb[3], -1);
	bool has_sa = any && (any->flags & SCSI_SA);

	if (options == 0) {
		report_all(c, rctd);
	} else if (options > 3) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, 2);
	} else if ((options == 1 && has_sa) || (options == 2 && any && !has_sa)) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, 2);
	} else if (has_sa) {
		report_one(c, action > 0x1f ? NULL : scsi_optab_find(c->ll->pub.ops, c->cdb[3], (int)action), rctd);
	} else {
		report_one(c, options == 3 && action ? NULL : any, rctd);
	}
}

void spc_report_tmf(struct scsi_cmd *c)
{
	uint8_t p[16] = { 0 };
	bool repd = c->cdb[2] & 0x80;

	if (be32(c->cdb + 6) < 4) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 6, -1);
		return;
	}
	p[0] = 0xfe; /* ATS, ATSS, CACAS, CTSS, LURS, QTS, TRS; no WAKEUP */
	p[1] = 0x07; /* QAES, QTSS, ITNRS */
	p[3] = repd ? 12 : 0;
	scsi_reply_data(c, p, repd ? 16 : 4);
}
