/* SPDX-License-Identifier: BSD-3-Clause
 * What a target is ready to accept unless it is told otherwise, and text requests of full feature phase (6.4). */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "iscsi/keys.h"

void iscsi_offer_defaults(struct iscsi_offer *o)
{
	*o = (struct iscsi_offer){
		.header_digest = true, .data_digest = true,
		.max_recv_segment = LIM_RECV_SEGMENT, .first_burst = 256 << 10, .max_burst = 1 << 20, .max_r2t = LIM_R2T,
		.max_connections = 8, .time2wait = 2, .time2retain = 0, .erl = 0,
		.initial_r2t = false, .immediate_data = true, .pdu_in_order = true, .sequence_in_order = false,
		.fast_abort = true, .protocol_level = 2,
	};
}

/* Appendix C: All, nothing, or a target's name, which is folded in place. */
static bool send_targets_ok(const char *value)
{
	const char *why;

	return !value || !*value || !strcmp(value, "All") || !iscsi_name_check((char *)value, &why);
}

/* Appendix C wants a key that is exactly SendTargets. What only resembles it is taken for a malformed SendTargets and
 * rejected rather than answered NotUnderstood like other unknown keys: initiators that try it know no other answer. */
static bool misspelt_send_targets(struct iscsi_text *in)
{
	static const char name[] = "SendTargets";
	char *key, *value;
	uint32_t pos = 0;
	bool found = false;

	while (iscsi_text_next(in, &pos, &key, &value) == 1) {
		found |= !strncasecmp(key, name, strlen(name)) && strcmp(key, name);
		value[-1] = '=';
	}
	return found;
}

void iscsi_text_begin(struct iscsi_negotiation *n, const struct iscsi_params *p, const struct iscsi_offer *o)
{
	n->offer = *o;
	n->now = *p;
	iscsi_keys_init(&n->keys, ISCSI_AS_TARGET, &n->offer, &n->now);
	n->keys.stage = ISCSI_IN_FULL_FEATURE;
}

int iscsi_text_negotiate(struct iscsi_negotiation *n, struct iscsi_text *in, struct iscsi_text *out,
	const char **ret_send_targets)
{
	struct iscsi_keys *k = &n->keys;

	if (misspelt_send_targets(in) || iscsi_keys_rx(k, in, out) < 0 || !send_targets_ok(k->kept[KEPT_SEND_TARGETS]))
		return -EPROTO;
	*ret_send_targets = k->kept[KEPT_SEND_TARGETS];
	return 0;
}
