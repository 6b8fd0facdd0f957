/* SPDX-License-Identifier: BSD-3-Clause
 * Text requests, RFC 7143 11.10, 11.11: one exchange at a time on each connection, over as many PDUs as it takes. */
#include <stdio.h>
#include <stdlib.h>

#include "iscsi/impl.h"
#include "iscsi/keys.h"

static void text_reset(struct iscsi_conn *c)
{
	iscsi_text_free(&c->text);
	iscsi_text_free(&c->text_out);
	free(c->neg);
	c->neg = NULL;
	c->text_sent = 0;
	c->text_wait = false;
	c->text_itt = ISCSI_NO_TAG;
}

/* 6.4, 7.12: the exchange ends without effect. */
static void text_refuse(struct req *r, uint8_t reason)
{
	text_reset(r->c);
	request_reject(r, reason);
}

/* 6.4: what was agreed holds from now on. Longer PDUs than we declare now may still be on their way. */
static void text_commit(struct iscsi_conn *c)
{
	uint32_t recv = c->params.max_recv_segment;

	if (!c->neg)
		return;
	c->params = c->neg->now;
	c->params.max_recv_segment = MAX(c->params.max_recv_segment, recv);
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
	if (!last)
		memcpy(k->bhs + BHS_LUN, c->text_lun, 8); /* 11.10.4 */
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
	if (last) {
		text_commit(c);
		text_reset(c);
	} else if (!rest) {
		c->text.len = c->text_out.len = c->text_sent = 0;
	}
}

/* The keys of one exchange are judged together: none may come twice (6.4). */
static struct iscsi_negotiation *text_keys(struct iscsi_conn *c)
{
	struct iscsi_offer offer;

	if (c->neg)
		return c->neg;
	c->neg = malloc(sizeof(*c->neg));
	if (!c->neg) {
		conn_close(c, "out of memory");
		return NULL;
	}
	iscsi_offer_defaults(&offer);
	offer.max_recv_segment = c->declare;
	iscsi_text_begin(c->neg, &c->params, &offer);
	return c->neg;
}

/* Our own limit, when it changed: a declaration, which needs no answer. */
static void text_declare(struct iscsi_conn *c)
{
	if (c->declare && iscsi_keys_declare(&c->neg->keys, &c->text_out) == 0)
		c->declare = 0;
}

static void text_complete(struct req *r)
{
	struct iscsi_conn *c = r->c;
	const char *targets = NULL;

	if (!text_keys(c))
		return;
	if (iscsi_text_negotiate(c->neg, &c->text, &c->text_out, &targets) < 0) {
		text_refuse(r, REJECT_PROTOCOL);
		return;
	}
	text_declare(c);
	if (!targets) {
		text_answer(c, false);
		return;
	}
	if (strlen(targets) >= sizeof(c->send_targets)) {
		text_refuse(r, REJECT_INVALID_PDU);
		return;
	}
	snprintf(c->send_targets, sizeof(c->send_targets), "%s", targets);
	c->text_wait = true;
	conn_event(c, ISCSI_EV_SEND_TARGETS);
}

/* 11.10.4: the reserved transfer tag begins anew, whatever was under way. One exception: initiators exist that fetch the
 * rest of a long answer without its tag. */
static bool begins(const struct iscsi_conn *c, const struct req *r)
{
	bool fetches = be32(r->h + BHS_ITT) == c->text_itt && c->text_sent < c->text_out.len && !r->len;

	return be32(r->h + BHS_TTT) == ISCSI_NO_TAG && !fetches;
}

void text_request(struct req *r)
{
	struct iscsi_conn *c = r->c;
	uint32_t itt = be32(r->h + BHS_ITT), ttt = be32(r->h + BHS_TTT);

	if (c->text_wait) {
		request_reject(r, REJECT_IN_PROGRESS);
		return;
	}
	if ((r->h[BHS_FLAGS] & FLAG_FINAL) && (r->h[BHS_FLAGS] & FLAG_CONTINUE)) {
		text_refuse(r, REJECT_PROTOCOL); /* 11.10.2 */
		return;
	}
	if (begins(c, r)) {
		text_reset(c);
		c->text_itt = itt;
		if (++c->text_ttt == ISCSI_NO_TAG)
			c->text_ttt = 1;
	} else if (itt != c->text_itt || (ttt != c->text_ttt && ttt != ISCSI_NO_TAG)) {
		request_reject(r, REJECT_INVALID_PDU);
		return;
	}
	c->text_final = r->h[BHS_FLAGS] & FLAG_FINAL;
	memcpy(c->text_lun, r->h + BHS_LUN, 8);
	if (c->text_sent < c->text_out.len) {
		text_answer(c, false);
		return;
	}
	if (r->len && iscsi_text_add(&c->text, r->data, r->len) < 0) {
		text_refuse(r, REJECT_LONG_OP);
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

void iscsi_conn_declare(struct iscsi_conn *c, uint32_t max_recv_segment, uint16_t seconds)
{
	if (c->state != CONN_FFP || max_recv_segment == c->params.max_recv_segment)
		return;
	c->declare = max_recv_segment;
	iscsi_conn_ask_text(c, seconds);
}
