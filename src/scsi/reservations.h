/* SPDX-License-Identifier: BSD-3-Clause
 * Persistent reservations of a logical unit as a value that can be shown, kept and copied to another node (SPC-4 5.13),
 * and what the administrator may do with them. Control thread. */
#ifndef LUNETTE_SCSI_RESERVATIONS_H
#define LUNETTE_SCSI_RESERVATIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

struct lu;

enum pr_type { /* SPC-4 table 58; 0 = no reservation */
	PR_WRITE_EX = 1, PR_EX_ACCESS = 3, PR_WRITE_EX_RO = 5, PR_EX_ACCESS_RO = 6, PR_WRITE_EX_AR = 7,
	PR_EX_ACCESS_AR = 8,
};
enum { PR_REGS_MAX = 512 }; /* registrations of one unit; a cluster of 128 nodes with 4 paths */

/* Who is registered: an initiator port at a target port. */
struct pr_who {
	char     initiator[LIM_ISCSI_NAME + 1], target[LIM_ISCSI_NAME + 1];
	uint8_t  isid[6];
	bool     any_isid;   /* the initiator device, whatever its port */
	bool     any_port;   /* ALL_TG_PT: through every target port */
	uint16_t port;       /* relative target port identifier */
};
struct pr_reg { struct pr_who who; uint64_t key; };

struct pr_state {
	uint32_t generation;
	uint8_t  type;       /* enum pr_type */
	bool     aptpl;      /* survives power loss */
	int      holder;     /* index; -1: nobody, or all of them (PR_*_AR) */
	unsigned n;
	struct pr_reg reg[];
};

static inline bool pr_all_registrants(uint8_t type)
{
	return type == PR_WRITE_EX_AR || type == PR_EX_ACCESS_AR;
}

/* done(ctx, s, reserved) on the control loop; s is the callee's for the call, NULL: nobody ever registered. reserved: by
 * RESERVE (6) or (10). */
void lu_pr_show(struct lu *lu, void (*done)(void *ctx, const struct pr_state *s, bool reserved), void *ctx);
/* Removes every registration and reservation, as CLEAR does, and what RESERVE holds; every initiator that loses by it
 * gets a unit attention. done(ctx, 0 or -errno) when every loop obeys and it is durable. */
void lu_pr_clear(struct lu *lu, void (*done)(void *ctx, int result), void *ctx);

#endif
