/* SPDX-License-Identifier: BSD-3-Clause
 * What login negotiated (RFC 7143 section 13), one struct for a connection; and the engine that negotiates it,
 * driven by one table of keys that the target and the initiator share (text.c). No I/O, no time. */
#ifndef LUNETTE_ISCSI_PARAMS_H
#define LUNETTE_ISCSI_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"

enum { ISCSI_DIGEST_NONE, ISCSI_DIGEST_CRC32C };

struct iscsi_params {
	/* connection */
	uint8_t  header_digest, data_digest;
	uint32_t max_recv_segment;      /* we declare */
	uint32_t max_xmit_segment;      /* the peer declared (default 8192) */
	/* session, leading login only */
	bool     discovery;
	uint32_t max_connections, first_burst, max_burst, max_r2t, time2wait, time2retain, erl, protocol_level;
	bool     initial_r2t, immediate_data, pdu_in_order, sequence_in_order;
	bool     task_reporting_rfc3720; /* TaskReporting result, 13.23 */
	bool     fast_abort, response_fence;
	char     initiator[LIM_ISCSI_NAME + 1], initiator_alias[256];
	char     target[LIM_ISCSI_NAME + 1];
	uint16_t tpgt;
};
void iscsi_params_defaults(struct iscsi_params *p); /* RFC defaults, before negotiation */

/* What our side is ready to accept or to offer; the target's come from configuration. */
struct iscsi_offer {
	bool     header_digest, data_digest;      /* true: CRC32C allowed (the initiator's preference decides) */
	bool     require_header_digest, require_data_digest;
	uint32_t max_recv_segment, first_burst, max_burst, max_r2t, max_connections, time2wait, time2retain, erl;
	bool     initial_r2t, immediate_data, pdu_in_order, sequence_in_order;
	bool     fast_abort;                      /* TaskReporting=FastAbort */
	uint32_t protocol_level;
};
void iscsi_offer_defaults(struct iscsi_offer *o); /* fast: see docs */

#endif
