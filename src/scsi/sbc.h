/* SPDX-License-Identifier: BSD-3-Clause
 * What the files of block commands share: sbc.c (table, read, write), sbc_write.c, sbc_unmap.c, sbc_medium.c. */
#ifndef LUNETTE_SCSI_SBC_H
#define LUNETTE_SCSI_SBC_H

#include "scsi/priv.h"

enum { SBC_STEP = 1 << 20 }; /* bytes of one request below; a multiple of the page */

void sbc_submit(struct scsi_cmd *c, blk_done_fn *done);
void sbc_flush(struct scsi_cmd *c, blk_done_fn *done);
void sbc_fail(struct scsi_cmd *c, bool writes);
void sbc_read(struct scsi_cmd *c);
void sbc_write(struct scsi_cmd *c);

#endif
