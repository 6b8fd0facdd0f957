/* SPDX-License-Identifier: BSD-3-Clause
 * Text requests, RFC 7143 11.10, 11.11: one exchange at a time on each connection, over as many PDUs as it takes. */
#include <stdio.h>
#include <stdlib.h>

#include "iscsi/impl.h"

static void text_reset(struct iscsi_conn *c)
{
	iscsi_text_free(&c->text);
	iscsi_text_free(&c->text_out);
	c->text_sent = 0;
	c->text_wait = false;
	c->text_itt = ISCSI_NO_TAG;
}

/* The next piece of the answer; C when more follows, then the initiator asks again with our tag. F only when it is
 * the last and the initiator wants no more either (11.11.1). */
static void text_answer(struct iscsi_conn *c, bool more_to_come)
{
	uint32_t left = c->text_out.len - c->text_sent, n = MIN(left, c->params.max_xmit_segment);
	struct iscsi_ctl *k = tx_ctl(c, ISCSI_TEXT_RSP, CTL_STAT_SN);

	if (!k)
		return;
	bool rest = n < left || more_to_come, last = !rest && c->text_final;
	k->bhs[BHS_FLAGS] = last ? FLAG_FINAL : n < left ? FLAG_CONTINUE : 0;
	put_be32(k->bhs + BHS_ITT, c->text_itt);
	put_be32(k->bhs + BHS_TTT, last ? ISCSI_NO_TAG : c->text_ttt);
	if (n) {
		uint8_t *p = malloc(n);
		if (!p) {
			conn_close(c, "out of memory");
			return;
		}
		memcpy(p, c->text_out.buf + c->text_sent, n);
		tx_ctl_data(c, k, p, n);
		c->text_sent += n;
	}
	if (last)
		text_reset(c);
	else if (!rest)
		c->text.len = c->text_out.len = c->text_sent = 0;
}

static void text_complete(struct req *r)
{
	struct iscsi_conn *c = r->c;
	const char *targets = NULL;
	struct iscsi_offer offer;

	iscsi_offer_defaults(&offer);
	if (iscsi_text_negotiate(&c->params, &offer, &c->text, &c->text_out, &targets) < 0) {
		text_reset(c);
		tx_reject(c, REJECT_PROTOCOL, r->h);
		return;
	}
	if (!targets) {
		text_answer(c, false);
		return;
	}
	if (strlen(targets) >= sizeof(c->send_targets)) {
		text_reset(c);
		tx_reject(c, REJECT_INVALID_PDU, r->h);
		return;
	}
	snprintf(c->send_targets, sizeof(c->send_targets), "%s", targets);
	c->text_wait = true;
	conn_event(c, ISCSI_EV_SEND_TARGETS);
}

void text_request(struct req *r)
{
	struct iscsi_conn *c = r->c;
	uint32_t itt = be32(r->h + BHS_ITT), ttt = be32(r->h + BHS_TTT);

	if (c->text_wait) {
		tx_reject(c, REJECT_IN_PROGRESS, r->h);
		return;
	}
	if ((r->h[BHS_FLAGS] & FLAG_FINAL) && (r->h[BHS_FLAGS] & FLAG_CONTINUE)) {
		text_reset(c);
		tx_reject(c, REJECT_PROTOCOL, r->h); /* 11.10.2 */
		return;
	}
	c->text_final = r->h[BHS_FLAGS] & FLAG_FINAL;
	if (ttt == ISCSI_NO_TAG && itt != c->text_itt) {
		text_reset(c); /* 11.10.4: a new negotiation ends the one before */
		c->text_itt = itt;
		if (++c->text_ttt == ISCSI_NO_TAG)
			c->text_ttt = 1;
	} else if (itt != c->text_itt || (ttt != c->text_ttt && ttt != ISCSI_NO_TAG)) {
		tx_reject(c, REJECT_INVALID_PDU, r->h);
		return;
	}
	if (c->text_sent < c->text_out.len) {
		text_answer(c, false);
		return;
	}
	if (r->len && iscsi_text_add(&c->text, r->data, r->len) < 0) {
		text_reset(c);
		tx_reject(c, REJECT_INVALID_PDU, r->h);
		return;
	}
	if (r->h[BHS_FLAGS] & FLAG_CONTINUE)
		text_answer(c, true);
	else
		text_complete(r);
}

void iscsi_conn_targets(struct iscsi_conn *c, struct iscsi_text *answer)
{
	if (c->text_wait) {
		c->text_out.max = LIM_SEND_TARGETS + LIM_LOGIN_TEXT;
		if (iscsi_text_add(&c->text_out, answer->buf, answer->len) < 0)
			conn_close(c, "no memory for the list of targets");
		c->text_wait = false;
		text_answer(c, false);
	}
	iscsi_text_free(answer);
}
