/* SPDX-License-Identifier: BSD-3-Clause
 * What the files of block commands share: sbc.c (table, read, write), sbc_write.c, sbc_unmap.c, sbc_medium.c. */
#ifndef LUNETTE_SCSI_SBC_H
#define LUNETTE_SCSI_SBC_H

#include "scsi/priv.h"

enum {
	SBC_STEP = 1 << 20,    /* bytes of one request below; a multiple of the page */
	SBC_CAW_MAX = 255,     /* blocks of COMPARE AND WRITE */
	SBC_UNMAP_MAX = 4095,  /* descriptors of UNMAP: what the CDB can say */
	SBC_SAME_MAX = 65535,  /* blocks of WRITE SAME where zeros must be written */
};

void sbc_submit(struct scsi_cmd *c, blk_done_fn *done);
void sbc_flush(struct scsi_cmd *c, blk_done_fn *done);
void sbc_fail(struct scsi_cmd *c, bool writes);
void sbc_read(struct scsi_cmd *c);
void sbc_write(struct scsi_cmd *c);
/* Writes the data-out, with these flags besides the CDB's, then calls fn instead of ending the command. */
void sbc_write_then(struct scsi_cmd *c, uint32_t flags, void (*fn)(struct scsi_cmd *c));
/* BLK_FUA, BLK_DPO as CDB byte 1 and the write cache say. */
uint32_t sbc_write_flags(const struct scsi_cmd *c);

int64_t sbc_verify_prepare(struct scsi_cmd *c);
void sbc_verify(struct scsi_cmd *c);
int64_t sbc_write_verify_prepare(struct scsi_cmd *c);
void sbc_write_verify(struct scsi_cmd *c);
int64_t sbc_caw_prepare(struct scsi_cmd *c);
void sbc_caw(struct scsi_cmd *c);

uint64_t sbc_same_max(const struct lu_pub *p); /* MAXIMUM WRITE SAME LENGTH, blocks */
int64_t sbc_write_same_prepare(struct scsi_cmd *c);
void sbc_write_same(struct scsi_cmd *c);
int64_t sbc_unmap_prepare(struct scsi_cmd *c);
bool sbc_unmap_offered(const struct scsi_cmd *c);
void sbc_unmap(struct scsi_cmd *c);
void sbc_lba_status(struct scsi_cmd *c);

/* Blocks of the longest WRITE ATOMIC, 0 = there is none. */
uint32_t sbc_atomic_max(const struct lu_loop *ll);
bool sbc_atomic_offered(const struct scsi_cmd *c);
int64_t sbc_atomic_prepare(struct scsi_cmd *c);
void sbc_atomic(struct scsi_cmd *c);

void sbc_orwrite(struct scsi_cmd *c);
void sbc_defects(struct scsi_cmd *c);
void sbc_prefetch(struct scsi_cmd *c);
void sbc_start_stop(struct scsi_cmd *c);
void sbc_prevent_allow(struct scsi_cmd *c);

#endif
