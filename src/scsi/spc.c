/* SPDX-License-Identifier: BSD-3-Clause
 * Primary commands (SPC-4 6) that every device type has. On the command's loop. */
#include "scsi/priv.h"

static void pad_copy(uint8_t *p, size_t n, const char *s)
{
	memset(p, ' ', n);
	memcpy(p, s, strnlen(s, n));
}

/* --- INQUIRY --- */

static const uint16_t version_descriptors[] = {
	0x00a0, /* SAM-5 */
	0x0960, /* iSCSI: plus the protocol level, RFC 7144 4.2 */
	0x0460, /* SPC-4 */
	0x04c0, /* SBC-3 */
};

static void inquiry_standard(struct scsi_cmd *c)
{
	const struct lu *lu = c->lu;
	uint8_t p[96] = { 0 };

	p[0] = lu ? alua_qualifier(c) | lu->type->device_type : 0x7f; /* 7Fh: no device here, and none can be */
	p[1] = lu && lu->conf.removable ? 0x80 : 0;
	p[2] = 0x06; /* SPC-4 */
	p[3] = 0x32; /* NORMACA, HISUP, response data format 2 */
	p[4] = sizeof(p) - 5;
	p[5] = (uint8_t)(0x08 | (lu ? c->nexus->map->tpgs << 4 : 0)); /* TPGS; 3PC */
	p[5] |= lu && c->ll->pub.pi_able; /* PROTECT */
	p[7] = 0x02; /* CMDQUE */
	pad_copy(p + 8, 8, lu && lu->conf.vendor ? lu->conf.vendor : "LUNETTE");
	pad_copy(p + 16, 16, lu && lu->conf.product ? lu->conf.product : "VIRTUAL DISK");
	pad_copy(p + 32, 4, lu && lu->conf.revision ? lu->conf.revision : LUNETTE_VERSION);
	for (unsigned i = 0; i < ARRAY_LEN(version_descriptors); i++)
		put_be16(p + 58 + 2 * i, version_descriptors[i]);
	put_be16(p + 60, (uint16_t)(version_descriptors[1] + c->nexus->level));
	scsi_reply_data(c, p, sizeof(p));
}

static void inquiry_vpd(struct scsi_cmd *c)
{
	const struct scsi_page *page = c->lu ? vpd_find(c->lu, c->cdb[2]) : NULL;
	uint8_t p[VPD_MAX];
	int n = page ? page->fill(c, p + 4, sizeof(p) - 4) : -ENOENT;

	if (n < 0) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
		return;
	}
	p[0] = alua_qualifier(c) | c->lu->type->device_type;
	p[1] = c->cdb[2];
	put_be16(p + 2, (uint16_t)n);
	scsi_reply_data(c, p, (size_t)n + 4);
}

void spc_inquiry(struct scsi_cmd *c)
{
	if (c->cdb[1] & 1)
		inquiry_vpd(c);
	else if (c->cdb[2])
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
	else
		inquiry_standard(c);
}

/* --- REPORT LUNS --- */

/* SELECT REPORT: well known units (1), administrative ones (10h) and those subsidiary to one (12h) there are none;
 * 11h adds administrative units to the others (SPC-5 6.37). */
static bool lists_units(uint8_t select)
{
	return select == 0 || select == 2 || select == 0x11;
}

void spc_report_luns(struct scsi_cmd *c)
{
	const struct scsi_nexus *n = c->nexus;
	uint8_t p[8] = { 0 };
	uint32_t len = 8;

	if (c->cdb[2] > 2 && (c->cdb[2] < 0x10 || c->cdb[2] > 0x12)) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
		return;
	}
	for (unsigned i = 0; lists_units(c->cdb[2]) && i < n->map->n; i++)
		len += n->map->lu[i] ? 8 : 0;
	if (scsi_data_alloc(c, len)) {
		scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
		return;
	}
	put_be32(p, len - 8);
	scsi_data_put(c, 0, p, 8);
	for (unsigned i = 0, at = 8; at < len; i++) {
		if (!n->map->lu[i])
			continue;
		lun_encode(p, i);
		scsi_data_put(c, at, p, 8);
		at += 8;
	}
	nexus_luns_seen(c->nexus);
	scsi_reply_pages(c, len);
}

/* --- REQUEST SENSE, TEST UNIT READY --- */

/* SPC-4 6.39: GOOD with the sense data as data; a pending unit attention is reported and cleared. */
void spc_request_sense(struct scsi_cmd *c)
{
	struct itl *itl = c->ll ? scsi_itl(c) : NULL;
	struct sense_extra x = { 0 };
	uint32_t sense = 0;
	uint8_t p[LIM_SENSE];

	if (!c->ll)
		sense = SENSE_NO_LUN;
	else if (itl && itl->nua)
		sense = SENSE(6, 0, 0) | ua_pop(itl);
	else if (c->ll->pub.not_ready)
		sense = c->ll->pub.not_ready;
	else
		sense = sanitize_sense(c->ll, &x);
	if (!sense && c->ll)
		sense = selftest_sense(c->ll, &x);
	if (!sense && c->ll && c->ll->pub.false_alarm)
		sense = SENSE(0, 0x5d, 0xff); /* failure prediction threshold exceeded (false) */
	scsi_reply_data(c, p, sense_fill(p, c->cdb[1] & 1, sense, &x));
}

void spc_test_unit_ready(struct scsi_cmd *c)
{
	scsi_reply(c, SCSI_GOOD);
}

/* --- RESERVE, RELEASE: SPC-2 7.21 to 7.25, the whole unit for this nexus --- */

static void run_reserve(struct lu_job *j)
{
	struct lu_pub *p = &j->lu->pub;
	uint64_t id = scsi_job_cmd(j)->nexus->id;

	if ((p->reserved_by && p->reserved_by != id) || pr_any(p->pr)) {
		scsi_job_status(j, SCSI_RESERVATION_CONFLICT); /* another loop's came first, or its REGISTER did */
		lu_job_end(j);
		return;
	}
	p->reserved_by = id;
	lu_publish(j);
}

static void run_release(struct lu_job *j)
{
	if (j->lu->pub.reserved_by == scsi_job_cmd(j)->nexus->id)
		j->lu->pub.reserved_by = 0;
	lu_publish(j);
}

void spc_reserve(struct scsi_cmd *c)
{
	if (!pr_answers_reserve(c))
		scsi_job(c, run_reserve);
}

/* Of what somebody else holds: GOOD, and nothing happens. */
void spc_release(struct scsi_cmd *c)
{
	if (pr_answers_reserve(c))
		return;
	if (c->ll->pub.reserved_by != c->nexus->id)
		scsi_reply(c, SCSI_GOOD);
	else
		scsi_job(c, run_release);
}

#define ALL2 0xff, 0xff
#define ALL4 ALL2, ALL2

#define PR_IN(sa, what)                                                                                    \
	{ .opcode = 0x5e, .action = sa, .name = "PERSISTENT RESERVE IN, " what, .spec = "SPC-4 6.15", .cdb_len = 10, \
	  .flags = SCSI_IN | SCSI_SA | SCSI_PR_FREE | SCSI_RES_CONFLICT | SCSI_IN_STANDBY, .alloc = { 7, 2 },           \
	  .exec = pr_in, .usage = { 0x5e, sa, 0, 0, 0, 0, 0, ALL2 } }
#define PR_OUT(sa, what)                                                                                   \
	{ .opcode = 0x5f, .action = sa, .name = "PERSISTENT RESERVE OUT, " what, .spec = "SPC-4 6.16", .cdb_len = 10, \
	  .flags = SCSI_OUT | SCSI_SA | SCSI_PR_FREE | SCSI_RES_CONFLICT | SCSI_IN_STANDBY, .param = { 5, 4 },         \
	  .exec = pr_out, .usage = { 0x5f, sa, 0xff, 0, 0, ALL4 } }

const struct scsi_op spc_ops[] = {
	{ .opcode = 0x00, .name = "TEST UNIT READY", .spec = "SPC-4 6.47", .cdb_len = 6,
	  .flags = SCSI_MEDIUM | SCSI_PR_FREE | SCSI_RES_CONFLICT, .exec = spc_test_unit_ready,
	  .usage = { 0x00 } },
	{ .opcode = 0x03, .name = "REQUEST SENSE", .spec = "SPC-4 6.39", .cdb_len = 6, .alloc = { 4, 1 },
	  .flags = SCSI_IN | SCSI_PR_FREE | SCSI_NO_UA | SCSI_ANY_LUN | SCSI_ANY_STATE, .exec = spc_request_sense,
	  .usage = { 0x03, 0x01, 0, 0, 0xff } },
	{ .opcode = 0x12, .name = "INQUIRY", .spec = "SPC-4 6.6", .cdb_len = 6, .alloc = { 3, 2 },
	  .flags = SCSI_IN | SCSI_PR_FREE | SCSI_NO_UA | SCSI_ANY_LUN | SCSI_ANY_STATE, .exec = spc_inquiry,
	  .usage = { 0x12, 0x01, 0xff, ALL2 } },
	{ .opcode = 0x1a, .name = "MODE SENSE (6)", .spec = "SPC-4 6.13", .cdb_len = 6, .alloc = { 4, 1 },
	  .flags = SCSI_IN | SCSI_PR_READ | SCSI_IN_STANDBY, .exec = spc_mode_sense, .usage = { 0x1a, 0x08, 0xff, 0xff, 0xff } },
	{ .opcode = 0x5a, .name = "MODE SENSE (10)", .spec = "SPC-4 6.14", .cdb_len = 10, .alloc = { 7, 2 },
	  .flags = SCSI_IN | SCSI_PR_READ | SCSI_IN_STANDBY, .exec = spc_mode_sense,
	  .usage = { 0x5a, 0x18, 0xff, 0xff, 0, 0, 0, ALL2 } },
	{ .opcode = 0xa0, .name = "REPORT LUNS", .spec = "SPC-4 6.33", .cdb_len = 12, .alloc = { 6, 4 },
	  .flags = SCSI_IN | SCSI_PR_FREE | SCSI_NO_UA | SCSI_ANY_LUN | SCSI_ANY_STATE, .exec = spc_report_luns,
	  .usage = { 0xa0, 0, 0xff, 0, 0, 0, ALL4 } },
	{ .opcode = 0x15, .name = "MODE SELECT (6)", .spec = "SPC-4 6.11", .cdb_len = 6, .param = { 4, 1 },
	  .flags = SCSI_OUT | SCSI_PR_WRITE | SCSI_IN_STANDBY, .exec = spc_mode_select, .usage = { 0x15, 0x11, 0, 0, 0xff } },
	{ .opcode = 0x55, .name = "MODE SELECT (10)", .spec = "SPC-4 6.12", .cdb_len = 10, .param = { 7, 2 },
	  .flags = SCSI_OUT | SCSI_PR_WRITE | SCSI_IN_STANDBY, .exec = spc_mode_select,
	  .usage = { 0x55, 0x11, 0, 0, 0, 0, 0, ALL2 } },
	{ .opcode = 0x16, .name = "RESERVE (6)", .spec = "SPC-2 7.21", .cdb_len = 6, .flags = SCSI_PR_WRITE,
	  .exec = spc_reserve, .usage = { 0x16 } },
	{ .opcode = 0x56, .name = "RESERVE (10)", .spec = "SPC-2 7.22", .cdb_len = 10, .flags = SCSI_PR_WRITE,
	  .exec = spc_reserve, .usage = { 0x56 } },
	{ .opcode = 0x17, .name = "RELEASE (6)", .spec = "SPC-2 7.16", .cdb_len = 6, .flags = SCSI_PR_FREE,
	  .exec = spc_release, .usage = { 0x17 } },
	{ .opcode = 0x57, .name = "RELEASE (10)", .spec = "SPC-2 7.17", .cdb_len = 10, .flags = SCSI_PR_FREE,
	  .exec = spc_release, .usage = { 0x57 } },
	{ .opcode = 0xa3, .action = 0x0c, .name = "REPORT SUPPORTED OPERATION CODES", .spec = "SPC-4 6.35",
	  .cdb_len = 12, .flags = SCSI_IN | SCSI_SA | SCSI_PR_READ, .alloc = { 6, 4 }, .exec = spc_report_opcodes,
	  .usage = { 0xa3, 0x0c, 0x87, 0xff, ALL2, ALL4 } },
	{ .opcode = 0xa3, .action = 0x0d, .name = "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
	  .spec = "SPC-4 6.36", .cdb_len = 12, .flags = SCSI_IN | SCSI_SA | SCSI_PR_READ, .alloc = { 6, 4 },
	  .exec = spc_report_tmf, .usage = { 0xa3, 0x0d, 0x80, 0, 0, 0, ALL4 } },
	{ .opcode = 0xa3, .action = 0x0a, .name = "REPORT TARGET PORT GROUPS", .spec = "SPC-4 6.37", .cdb_len = 12,
	  .flags = SCSI_IN | SCSI_SA | SCSI_PR_FREE | SCSI_ANY_STATE, .alloc = { 6, 4 }, .exec = alua_report,
	  .offered = alua_offered, .usage = { 0xa3, 0xea, 0, 0, 0, 0, ALL4 } },
	{ .opcode = 0xa4, .action = 0x0a, .name = "SET TARGET PORT GROUPS", .spec = "SPC-4 6.45", .cdb_len = 12,
	  .flags = SCSI_OUT | SCSI_SA | SCSI_PR_WRITE | SCSI_IN_STANDBY | SCSI_IN_UNAVAILABLE, .param = { 6, 4 },
	  .exec = alua_set, .offered = alua_set_offered, .usage = { 0xa4, 0x0a, 0, 0, 0, 0, ALL4 } },
	PR_IN(0, "READ KEYS"),
	PR_IN(1, "READ RESERVATION"),
	PR_IN(2, "REPORT CAPABILITIES"),
	PR_IN(3, "READ FULL STATUS"),
	PR_OUT(0, "REGISTER"),
	PR_OUT(1, "RESERVE"),
	PR_OUT(2, "RELEASE"),
	PR_OUT(3, "CLEAR"),
	PR_OUT(4, "PREEMPT"),
	PR_OUT(5, "PREEMPT AND ABORT"),
	PR_OUT(6, "REGISTER AND IGNORE EXISTING KEY"),
	PR_OUT(7, "REGISTER AND MOVE"),
	{ .name = NULL },
};
