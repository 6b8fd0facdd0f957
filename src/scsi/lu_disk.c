/* SPDX-License-Identifier: BSD-3-Clause
 * The direct-access block device: its tables. */
#include "scsi/service.h"

/* Control: QERR 10b and UA_INTLCK_CTRL 01b do not exist. */
static int check_control(const uint8_t *p)
{
	if ((p[3] & 0x06) == 0x04)
		return 3;
	return (p[4] & 0x30) == 0x10 ? 4 : -1;
}

/* Informational exceptions: none, or told on request. */
static int check_exceptions(const uint8_t *p)
{
	return (p[3] & 0x0f) == 0 || (p[3] & 0x0f) == 6 ? -1 : 3;
}

/* SPC-4 7.5, SBC-4 6.5. Bytes that are not named are zero; the mask says what MODE SELECT may change: what it changes is
 * honoured. */
const struct scsi_mode_page disk_mode[] = {
	{ .page = 0x01, .len = 12, .spec = "SBC-4 6.5.10", /* read-write error recovery: AWRE, ARRE; LBPERE */
	  .dflt = { 0x01, 0x0a, 0xc0, 0x80 }, .mask = { 0, 0, 0, 0x80 } },
	{ .page = 0x02, .len = 16, .spec = "SPC-4 7.5.10" }, /* disconnect-reconnect: no limits */
	{ .page = 0x08, .len = 20, .spec = "SBC-4 6.5.6", /* caching: WCE (by configuration) */
	  .mask = { 0, 0, 0x04 } },
	{ .page = 0x0a, .len = 12, .spec = "SPC-4 7.5.8", /* control: unrestricted reordering */
	  .dflt = { 0x0a, 0x0a, 0x00, 0x10 }, .mask = { 0, 0, 0x24, 0x06, 0x38, 0x40 }, .check = check_control },
	{ .page = 0x0a, .sub = 0x01, .len = 32, .spec = "SPC-4 7.5.9", /* control extension: TCMOS, SCSIP; sense length */
	  .dflt = { 0x0a, 0x01, 0, 0x1c, 0x06, 0, LIM_SENSE } },
	{ .page = 0x18, .len = 8, .spec = "SPC-4 7.5.15", .dflt = { 0x18, 6, 0x05 } }, /* protocol specific, unit: iSCSI */
	{ .page = 0x19, .len = 8, .spec = "SPC-4 7.5.16", .dflt = { 0x19, 6, 0x05 } }, /* and port */
	{ .page = 0x1a, .len = 40, .spec = "SPC-4 7.5.13" }, /* power condition: no timers */
	{ .page = 0x1c, .len = 12, .spec = "SBC-4 6.5.8", /* informational exceptions: DEXCPT, TEST, MRIE */
	  .mask = { 0, 0, 0x0c, 0x0f }, .check = check_exceptions },
	{ .page = 0x1c, .sub = 0x02, .len = 32, .spec = "SBC-4 6.5.9", .check = space_check, .has = space_page,
	  .dflt = { 0x1c, 0x02, 0, 28, [16] = 0x88, 0x03, 0, 0, 0, 0, 0, 10, [24] = 0x00, 0x01 }, /* 10 %; a number of sets */
	  .mask = { [16] = 0x80, [20] = 0xff, 0xff, 0xff, 0xff, [24] = 0x80, [28] = 0xff, 0xff, 0xff, 0xff } },
	{ .len = 0 },
};

static const struct scsi_op *const disk_ops[] = { spc_ops, sbc_ops, service_ops, copy_ops, format_ops, NULL };

static const struct scsi_op *const disk_pi_ops[] = { spc_ops, sbc_ops, service_ops, copy_ops, format_ops, pi_ops, NULL };

const struct lu_type lu_disk = {
	.name = "disk",
	.device_type = 0x00,
	.ops = disk_ops,
	.pi_ops = disk_pi_ops,
	.vpd = disk_vpd,
	.mode = disk_mode,
};
