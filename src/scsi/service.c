/* SPDX-License-Identifier: BSD-3-Clause
 * The table of service commands. */
#include "scsi/service.h"

#define F2 0xff, 0xff
#define F4 F2, F2

#define F3 F2, 0xff
#define IN(class) .flags = SCSI_IN | SCSI_PR_##class

#define SANITIZE(sa, what)                                                                                   \
	{ .opcode = 0x48, .action = sa, .name = "SANITIZE, " what, .spec = "SBC-4 5.30", .cdb_len = 10,      \
	  .flags = SCSI_OUT | SCSI_SA | SCSI_MEDIUM | SCSI_WRITES | SCSI_PR_WRITE, .param = { 7, 2 },        \
	  .prepare = sanitize_prepare, .exec = sanitize_exec, .usage = { 0x48, 0xa0 | sa, 0, 0, 0, 0, 0, F2 } }

/* CRYPTOGRAPHIC ERASE is absent: there is no key that could be changed. */
const struct scsi_op service_ops[] = {
	SANITIZE(0x01, "OVERWRITE"),
	SANITIZE(0x02, "BLOCK ERASE"),
	SANITIZE(0x1f, "EXIT FAILURE MODE"),
	{ .opcode = 0x4d, .name = "LOG SENSE", .spec = "SPC-4 6.8", .cdb_len = 10,
	  IN(FREE) | SCSI_RES_CONFLICT | SCSI_IN_STANDBY, .alloc = { 7, 2 }, .exec = log_sense, .usage = { 0x4d, 0, F2, 0, F4 } },
	{ .opcode = 0x4c, .name = "LOG SELECT", .spec = "SPC-4 6.7", .cdb_len = 10,
	  .flags = SCSI_OUT | SCSI_PR_WRITE | SCSI_IN_STANDBY,
	  .param = { 7, 2 }, .exec = log_select, .usage = { 0x4c, 0x02, F2, 0, 0, 0, F2 } },
	{ .opcode = 0x1d, .name = "SEND DIAGNOSTIC", .spec = "SPC-4 6.42", .cdb_len = 6,
	  .flags = SCSI_OUT | SCSI_MEDIUM | SCSI_PR_WRITE | SCSI_IN_STANDBY, .param = { 3, 2 }, .exec = diag_send,
	  .usage = { 0x1d, 0xf7, 0, F2 } },
	{ .opcode = 0x1c, .name = "RECEIVE DIAGNOSTIC RESULTS", .spec = "SPC-4 6.29", .cdb_len = 6, IN(READ) | SCSI_IN_STANDBY,
	  .alloc = { 3, 2 }, .exec = diag_receive, .usage = { 0x1c, 0x01, F3 } },
	{ .opcode = 0x3b, .name = "WRITE BUFFER", .spec = "SPC-4 6.49", .cdb_len = 10,
	  .flags = SCSI_OUT | SCSI_PR_WRITE | SCSI_ANY_STATE,
	  .param = { 6, 3 }, .exec = buffer_write, .usage = { 0x3b, 0x1f, F4, F3 } },
	{ .opcode = 0x3c, .name = "READ BUFFER (10)", .spec = "SPC-4 6.18", .cdb_len = 10, IN(READ) | SCSI_ANY_STATE,
	  .alloc = { 6, 3 }, .exec = buffer_read, .usage = { 0x3c, 0x1f, F4, F3 } },
	{ .opcode = 0xa3, .action = 0x05, .name = "REPORT IDENTIFYING INFORMATION", .spec = "SPC-4 6.32", .cdb_len = 12,
	  IN(FREE) | SCSI_SA, .alloc = { 6, 4 }, .exec = ident_report, .usage = { 0xa3, 0x05, 0, 0, 0, 0, F4, 0xfe } },
	{ .opcode = 0xa4, .action = 0x06, .name = "SET IDENTIFYING INFORMATION", .spec = "SPC-4 6.43", .cdb_len = 12,
	  .flags = SCSI_OUT | SCSI_SA | SCSI_PR_WRITE, .param = { 6, 4 }, .exec = ident_set,
	  .usage = { 0xa4, 0x06, 0, 0, 0, 0, F4, 0xfe } },
	{ .opcode = 0xa3, .action = 0x0f, .name = "REPORT TIMESTAMP", .spec = "SPC-4 6.38", .cdb_len = 12,
	  IN(FREE) | SCSI_SA, .alloc = { 6, 4 }, .exec = time_report, .usage = { 0xa3, 0x0f, 0, 0, 0, 0, F4 } },
	{ .opcode = 0xa4, .action = 0x0f, .name = "SET TIMESTAMP", .spec = "SPC-4 6.46", .cdb_len = 12,
	  .flags = SCSI_OUT | SCSI_SA | SCSI_PR_WRITE, .param = { 6, 4 }, .exec = time_set,
	  .usage = { 0xa4, 0x0f, 0, 0, 0, 0, F4 } },
	{ .opcode = 0xab, .action = 0x01, .name = "READ MEDIA SERIAL NUMBER", .spec = "SPC-4 6.20", .cdb_len = 12,
	  IN(READ) | SCSI_SA | SCSI_MEDIUM, .alloc = { 6, 4 }, .exec = ident_medium,
	  .usage = { 0xab, 0x01, 0, 0, 0, 0, F4 } },
	{ .name = NULL },
};
