/* SPDX-License-Identifier: BSD-3-Clause
 * Persistent reservations (SPC-4 5.12, 6.15, 6.16): the state of one logical unit as an immutable value. Home makes
 * a new one for each PERSISTENT RESERVE OUT and publishes it; every loop reads its copy of the pointer. */
#ifndef LUNETTE_SCSI_PR_H
#define LUNETTE_SCSI_PR_H

#include "scsi/priv.h"

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

bool pr_matches(const struct pr_who *w, const struct scsi_nexus *n);
int  pr_find(const struct pr_state *s, const struct scsi_nexus *n); /* index or -1 */

/* pr_state.c: what a service action makes of a state. No I/O, no loops: unit tested as a function. */
struct pr_request {
	uint8_t  action, type;
	uint64_t key, new_key;      /* RESERVATION KEY, SERVICE ACTION RESERVATION KEY */
	bool     aptpl, all_ports, unreg;
	uint16_t port;              /* REGISTER AND MOVE: relative target port */
	const struct pr_who *who;   /* of the nexus that asks */
	const struct pr_who *other; /* SPEC_I_PT; REGISTER AND MOVE: one */
	unsigned nother;
};
struct pr_event { struct pr_who who; uint16_t ua; bool abort; };
struct pr_outcome {
	struct pr_state *next;      /* NULL: nothing changes */
	uint8_t  status;
	uint32_t sense;             /* with CHECK CONDITION */
	struct pr_event *events;    /* who is told, and whose commands end */
	unsigned nevents;
};
/* 0 or -ENOMEM. old may be NULL: nobody registered. The caller frees next and events. */
int pr_apply(const struct pr_state *old, const struct pr_request *r, struct pr_outcome *ret);

/* The saved form. Returns bytes, or -ENOMEM; decode: 0 or -EINVAL. */
int pr_encode(const struct pr_state *s, uint8_t **ret);
int pr_decode(const uint8_t *p, size_t n, struct pr_state **ret);

/* TransportID of iSCSI, SPC-4 7.6.4.6. Returns its length; p has room for PR_TRANSPORT_ID_MAX. */
enum { PR_TRANSPORT_ID_MAX = 4 + 256 };
unsigned pr_transport_id(const struct pr_who *w, uint8_t *p);
int pr_parse_transport_id(const uint8_t *p, size_t n, struct pr_who *ret); /* bytes used or -EINVAL */

#endif
