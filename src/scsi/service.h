/* SPDX-License-Identifier: BSD-3-Clause
 * What the files of service commands share: commands for the care of a unit rather than for its data. service.c has their
 * table. Like priv.h: private to scsi/. */
#ifndef LUNETTE_SCSI_SERVICE_H
#define LUNETTE_SCSI_SERVICE_H

#include "scsi/priv.h"

/* --- sanitize.c, SBC-4 4.11, 5.30 --- */
enum sanitize_state { SANITIZE_NONE, SANITIZE_RUNNING, SANITIZE_FAILED };
void sanitize_exec(struct scsi_cmd *c);
int64_t sanitize_prepare(struct scsi_cmd *c);
void sanitize_format(struct scsi_cmd *c); /* exec of FORMAT UNIT whose parameter list was found good */

/* --- sbc_format.c: what FORMAT UNIT asks for --- */
void format_exec(struct scsi_cmd *c);
int  format_type(const struct scsi_cmd *c);  /* of protection; -1: no such */
bool format_immed(const struct scsi_cmd *c);
/* 1: blocks are made of this pattern; 0: of zeros. */
int  format_pattern(const struct scsi_cmd *c, uint8_t pattern[4096], uint32_t *ret_len);


/* --- space.c --- */
enum { SPACE_SHIFT = 20, SPACE_PERMILLE = 10 }; /* a threshold set is a mebibyte; the width of a percentage threshold */
bool space_page(const struct lu_pub *p);
int  space_check(const uint8_t *p);
/* home, in a job, which it ends. Bytes below the unit: its own, and what can still be had. */
void space_changed(struct lu_job *j, uint64_t used, uint64_t left);

/* --- log.c --- */
void log_sense(struct scsi_cmd *c);
void log_select(struct scsi_cmd *c);

/* --- selftest.c --- */
void diag_send(struct scsi_cmd *c);
void diag_receive(struct scsi_cmd *c);
void selftest_result(const struct lu_loop *ll, unsigned i, uint8_t p[16]);
void selftest_forget(struct lu *lu); /* home: the results but that of a test under way */

/* --- ident.c --- */
void ident_set(struct scsi_cmd *c);
void ident_report(struct scsi_cmd *c);
void ident_medium(struct scsi_cmd *c);
void time_set(struct scsi_cmd *c);
void time_report(struct scsi_cmd *c);

/* --- buffer.c --- */
void buffer_write(struct scsi_cmd *c);
void buffer_read(struct scsi_cmd *c);

#endif
