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

#endif
