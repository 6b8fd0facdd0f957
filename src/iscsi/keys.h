/* SPDX-License-Identifier: BSD-3-Clause
 * Every text key of RFC 7143 sections 12 and 13 and RFC 7144 in one table, and the rules that negotiate them,
 * for both ends: the target's login.c and text requests, the initiator's initiator.c. No I/O; on the
 * connection's loop. The peer's text is hostile. */
#ifndef LUNETTE_ISCSI_KEYS_H
#define LUNETTE_ISCSI_KEYS_H

#include "iscsi/login.h"

enum { ISCSI_AS_INITIATOR = 1, ISCSI_AS_TARGET = 2 };                 /* bits */
enum { ISCSI_IN_SECURITY = 1, ISCSI_IN_OPERATIONAL = 2, ISCSI_IN_FULL_FEATURE = 4 }; /* bits */

/* Values that a key table cannot judge: kept for the caller. */
enum iscsi_kept {
	KEPT_AUTH_METHOD, KEPT_CHAP_A, KEPT_CHAP_I, KEPT_CHAP_C, KEPT_CHAP_N, KEPT_CHAP_R, KEPT_SEND_TARGETS,
	KEPT_TARGET_ADDRESS, KEPT_TARGET_ALIAS, KEPT_MAX,
};

/* One negotiation: a login phase, or one text exchange. */
struct iscsi_keys {
	/* set by the owner */
	uint8_t role;                     /* ours: ISCSI_AS_... */
	uint8_t stage;                    /* ISCSI_IN_... of the text at hand */
	bool    leading;                  /* first connection of its session: "leading only" keys count */
	const struct iscsi_offer *offer;
	struct iscsi_params *params;      /* results go here */
	/* results */
	const char *kept[KEPT_MAX];       /* into the text last given; NULL = not sent */
	uint16_t    status;               /* enum iscsi_login_status that fits the failure */
	char        why[128];             /* the failure in words */
	/* private */
	uint64_t    seen;                 /* the peer sent it: sending it again is an error */
	uint64_t    sent;                 /* we declared or proposed it */
	uint64_t    settled;              /* negotiated */
	const char *last[2];              /* proposals that depend on others, answered at the end */
};

void iscsi_keys_init(struct iscsi_keys *k, uint8_t role, const struct iscsi_offer *o, struct iscsi_params *p);
/* Only the keys that name the parties and the kind of session; leaves the rest of the text for iscsi_keys_rx(),
 * which then passes over them. 0 or -EPROTO with status and why. */
int iscsi_keys_names(struct iscsi_keys *k, struct iscsi_text *in);
/* One whole text (all its C-bit parts): takes declarations, answers proposals into out, takes answers to our
 * own proposals. 0 or a negative errno with status and why. kept[] is valid while `in` is. */
int iscsi_keys_rx(struct iscsi_keys *k, struct iscsi_text *in, struct iscsi_text *out);
/* Puts our declaration of MaxRecvDataSegmentLength, once; it is in force from then on. */
int iscsi_keys_declare(struct iscsi_keys *k, struct iscsi_text *out);
/* The initiator's proposals of the operational stage: every key that fits this kind of session. */
int iscsi_keys_offer(struct iscsi_keys *k, struct iscsi_text *out);
/* Integrity rules over all keys (6.2) and what our side insists on; at the end of the login phase. 0 or -EPROTO. */
int iscsi_keys_finish(struct iscsi_keys *k);

/* A negotiation in full feature phase: one exchange of texts. What was agreed is in `now`, and takes effect when the exchange
 * is over (6.4). */
struct iscsi_negotiation {
	struct iscsi_keys   keys;
	struct iscsi_offer  offer;
	struct iscsi_params now;
};
void iscsi_text_begin(struct iscsi_negotiation *n, const struct iscsi_params *p, const struct iscsi_offer *o);
/* One whole text of it: takes keys that may change there (13: MaxRecvDataSegmentLength ...), answers the rest
 * NotUnderstood/Reject/Irrelevant into out. SendTargets is left to the caller through *ret_send_targets (NULL when
 * absent). 0 or -EPROTO (then Reject, and nothing of the exchange takes effect). */
int iscsi_text_negotiate(struct iscsi_negotiation *n, struct iscsi_text *in, struct iscsi_text *out,
	const char **ret_send_targets);

/* 6.1 numerical-value: decimal or 0x hex. 0 or -EINVAL. */
int iscsi_number(const char *s, uint64_t *ret);
/* True when item is in the comma-separated list. */
bool iscsi_list_has(const char *list, const char *item);

#endif
