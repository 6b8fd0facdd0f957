/* SPDX-License-Identifier: BSD-3-Clause
 * Persistent reservations (SPC-4 5.12, 6.15, 6.16): the state of one logical unit as an immutable value. Home makes
 * a new one for each PERSISTENT RESERVE OUT and publishes it; every loop reads its copy of the pointer. */
#ifndef LUNETTE_SCSI_PR_H
#define LUNETTE_SCSI_PR_H

#include "scsi/priv.h"
#include "scsi/reservations.h"

bool pr_matches(const struct pr_who *w, const struct scsi_nexus *n);
int  pr_find(const struct pr_state *s, const struct scsi_nexus *n); /* index or -1 */

/* pr_state.c: what a service action makes of a state. No I/O, no loops: unit tested as a function. */
struct pr_request {
	uint8_t  action, type;
	uint64_t key, new_key;      /* RESERVATION KEY, SERVICE ACTION RESERVATION KEY */
	bool     aptpl, all_ports, unreg;
	bool     spec_i_pt;         /* `other` was given, though perhaps empty */
	bool     scope;             /* another than of the logical unit */
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

/* Nobody registered any more, as CLEAR leaves it; everybody who was is told. 0 or -ENOMEM. */
int pr_cleared(const struct pr_state *old, struct pr_outcome *ret);

/* The saved form. Returns bytes, or -ENOMEM; decode: 0 or -EINVAL. */
int pr_encode(const struct pr_state *s, uint8_t **ret);
int pr_decode(const uint8_t *p, size_t n, struct pr_state **ret);

/* TransportID of iSCSI, SPC-4 7.6.4.6. Returns its length; p has room for PR_TRANSPORT_ID_MAX. */
enum { PR_TRANSPORT_ID_MAX = 4 + 256 };
unsigned pr_transport_id(const struct pr_who *w, uint8_t *p);
int pr_parse_transport_id(const uint8_t *p, size_t n, struct pr_who *ret); /* bytes used or -EINVAL */

#endif
