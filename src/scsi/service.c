/* SPDX-License-Identifier: BSD-3-Clause
 * The table of service commands. */
#include "scsi/service.h"

#define F2 0xff, 0xff
#define F4 F2, F2

#define SANITIZE(sa, what)                                                                                   \
	{ .opcode = 0x48, .action = sa, .name = "SANITIZE, " what, .spec = "SBC-4 5.30", .cdb_len = 10,      \
	  .flags = SCSI_OUT | SCSI_SA | SCSI_MEDIUM | SCSI_WRITES | SCSI_PR_WRITE, .param = { 7, 2 },        \
	  .prepare = sanitize_prepare, .exec = sanitize_exec, .usage = { 0x48, 0xa0 | sa, 0, 0, 0, 0, 0, F2 } }

/* CRYPTOGRAPHIC ERASE is absent: there is no key that could be changed. */
const struct scsi_op service_ops[] = {
	SANITIZE(0x01, "OVERWRITE"),
	SANITIZE(0x02, "BLOCK ERASE"),
	SANITIZE(0x1f, "EXIT FAILURE MODE"),
	{ .name = NULL },
};
