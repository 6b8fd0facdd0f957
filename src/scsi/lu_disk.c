/* SPDX-License-Identifier: BSD-3-Clause
 * The direct-access block device: its tables. */
#include "scsi/priv.h"

/* SPC-4 7.5, SBC-4 6.5. Bytes that are not named are zero; the mask says what MODE SELECT may change. */
const struct scsi_mode_page disk_mode[] = {
	{ .page = 0x01, .len = 12, .spec = "SBC-4 6.5.10", /* read-write error recovery: AWRE, ARRE */
	  .dflt = { 0x01, 0x0a, 0xc0 } },
	{ .page = 0x08, .len = 20, .spec = "SBC-4 6.5.6", /* caching: WCE (by configuration), DRA */
	  .dflt = { 0x08, 0x12 }, .mask = { 0, 0, 0x04 } },
	{ .page = 0x0a, .len = 12, .spec = "SPC-4 7.5.8", /* control: D_SENSE, SWP; unrestricted reordering */
	  .dflt = { 0x0a, 0x0a, 0x00, 0x10 }, .mask = { 0, 0, 0x04, 0, 0x08 } },
	{ .page = 0x1c, .len = 12, .spec = "SBC-4 6.5.8", /* informational exceptions: MRIE 0 = none reported */
	  .dflt = { 0x1c, 0x0a }, .mask = { 0, 0, 0x08 } },
	{ .len = 0 },
};

static const struct scsi_op *const disk_ops[] = { spc_ops, sbc_ops, service_ops, copy_ops, NULL };

const struct lu_type lu_disk = {
	.name = "disk",
	.device_type = 0x00,
	.ops = disk_ops,
	.vpd = disk_vpd,
	.mode = disk_mode,
};
