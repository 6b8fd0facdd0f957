/* SPDX-License-Identifier: BSD-3-Clause
 * What became of copy operations: kept for the nexus that began them, told by RECEIVE COPY STATUS, RECEIVE COPY FAILURE
 * DETAILS and RECEIVE ROD TOKEN INFORMATION; COPY OPERATION ABORT. On the nexus' loop. */
#include "scsi/copy.h"
#include "scsi/token.h"

#define SENSE_IN_PROGRESS SENSE(5, 0x00, 0x16)

/* --- the list --- */

struct copy_result *copy_result_find(const struct scsi_nexus *n, const struct lu *lu, uint32_t id)
{
	struct copy_result *r;

	list_for_each(r, &n->copies, node)
		if (r->lu == lu && r->list_id == id && !r->forget)
			return r;
	return NULL;
}

void copy_result_drop(struct copy_result *r)
{
	list_del(&r->node);
	free(r->token);
	free(r);
}

/* Makes room: the oldest finished one gives way. */
static bool make_room(struct scsi_nexus *n)
{
	struct copy_result *r, *oldest = NULL;
	unsigned count = 0;

	list_for_each(r, &n->copies, node) {
		count++;
		if (!r->busy && !oldest)
			oldest = r;
	}
	if (count < COPY_RESULTS)
		return true;
	if (oldest)
		copy_result_drop(oldest);
	return oldest;
}

static bool is_extended(uint8_t action)
{
	return action == COPY_LID1 || action == COPY_LID4;
}

uint32_t copy_result_new(struct scsi_cmd *c, uint32_t id, uint8_t action, struct copy_result **ret)
{
	struct scsi_nexus *n = c->nexus;
	struct copy_result *old = copy_result_find(n, c->lu, id);

	*ret = NULL;
	if (old && old->busy) /* SPC-4 6.4.3.2, 5.17.4.2 */
		return is_extended(action) && is_extended(old->action) && action != old->action ? SENSE_INVALID_PARAM
			: SENSE_IN_PROGRESS;
	if (old)
		copy_result_drop(old);
	struct copy_result *r = make_room(n) ? calloc(1, sizeof(*r)) : NULL;
	if (!r)
		return 0;
	r->lu = c->lu;
	r->list_id = id;
	r->action = action;
	r->shift = c->ll->shift;
	r->state = COPY_FOREGROUND;
	list_add_tail(&n->copies, &r->node);
	*ret = r;
	return 0;
}

static void forget(struct copy_result *r)
{
	if (r->busy)
		r->forget = true;
	else
		copy_result_drop(r);
}

void copy_forget(struct lu_loop *ll)
{
	struct scsi_nexus *n;
	struct copy_result *r, *tmp;

	list_for_each(n, &scsi_loop(ll->loop)->nexuses, node)
		list_for_each_safe(r, tmp, &n->copies, node)
			if (r->lu == ll->lu)
				forget(r);
}

static bool maps(const struct lun_map *map, const struct lu *lu)
{
	unsigned i = 0;

	while (i < map->n && map->lu[i] != lu)
		i++;
	return i < map->n;
}

void copy_forget_gone(struct scsi_nexus *n)
{
	struct copy_result *r, *tmp;

	list_for_each_safe(r, tmp, &n->copies, node)
		if (!maps(n->map, r->lu))
			forget(r);
}

void copy_forget_all(struct scsi_nexus *n)
{
	while (!list_empty(&n->copies))
		copy_result_drop(list_first(&n->copies, struct copy_result, node));
}

/* --- RECEIVE COPY STATUS (LID1), FAILURE DETAILS (LID1): SPC-4 6.25, 6.23 --- */

static struct copy_result *asked(struct scsi_cmd *c, uint32_t id)
{
	struct copy_result *r = copy_result_find(c->nexus, c->lu, id);

	if (!r)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
	return r;
}

static uint8_t status1(const struct copy_result *r)
{
	return r->busy ? 0x00 : r->state == COPY_DONE ? 0x01 : 0x02;
}

void copy_status(struct scsi_cmd *c)
{
	struct copy_result *r = asked(c, c->cdb[2]);
	uint8_t p[12] = { 0 };

	if (!r)
		return;
	bool kib = r->bytes > UINT32_MAX;
	put_be32(p, 8);
	p[4] = status1(r);
	put_be16(p + 5, (uint16_t)r->segments);
	p[7] = kib; /* TRANSFER COUNT UNITS, SPC-4 table 251 */
	put_be32(p + 8, (uint32_t)MIN(kib ? r->bytes >> 10 : r->bytes, (uint64_t)UINT32_MAX));
	scsi_reply_data(c, p, sizeof(p));
}

/* Nothing is told of what went well. What was told is gone. */
void copy_details(struct scsi_cmd *c)
{
	struct copy_result *r = copy_result_find(c->nexus, c->lu, c->cdb[2]);
	uint8_t p[60 + LIM_SENSE] = { 0 };
	unsigned n = 0;

	if (!r || r->busy || r->action != COPY_LID1) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
		return;
	}
	if (r->status == SCSI_CHECK_CONDITION && r->sense_len) {
		n = 56 + r->sense_len;
		p[56] = r->status;
		put_be16(p + 58, (uint16_t)r->sense_len);
		memcpy(p + 60, r->sense, r->sense_len);
	}
	put_be32(p, n);
	if (n && scsi_alloc_len(c) >= 4 + n)
		r->sense_len = 0;
	scsi_reply_data(c, p, 4 + n);
}

/* --- RECEIVE COPY STATUS (LID4), RECEIVE ROD TOKEN INFORMATION: SPC-4 6.24, 6.26; SBC-4 5.25 --- */

enum { HEAD = 32, UNITS_BLOCKS = 0xf1, UNITS_BYTES = 0x00, DELAY_MS = 100 };

static unsigned shared_head(const struct copy_result *r, uint8_t *p)
{
	unsigned sense = r->busy || r->state == COPY_TERMINATED ? 0 : r->sense_len, field = (sense + 3) & ~3u;
	bool extended = is_extended(r->action);

	memset(p, 0, HEAD + field);
	p[4] = r->action;
	p[5] = r->state;
	put_be16(p + 6, (uint16_t)r->requests);
	put_be32(p + 8, r->busy ? DELAY_MS : 0xfffffffe);
	p[12] = r->busy ? 0 : r->status;
	p[13] = (uint8_t)field;
	p[14] = (uint8_t)sense;
	p[15] = extended ? UNITS_BYTES : UNITS_BLOCKS;
	put_be64(p + 16, extended ? r->bytes : r->bytes >> r->shift);
	put_be16(p + 24, extended ? (uint16_t)r->segments : 0);
	memcpy(p + HEAD, r->sense, sense);
	return HEAD + field;
}

void copy_status4(struct scsi_cmd *c)
{
	struct copy_result *r = asked(c, be32(c->cdb + 2));
	uint8_t p[HEAD + LIM_SENSE + 4];

	if (!r)
		return;
	unsigned n = shared_head(r, p);
	put_be32(p, n - 4);
	scsi_reply_data(c, p, n);
}

void copy_tokens(struct scsi_cmd *c)
{
	struct copy_result *r = asked(c, be32(c->cdb + 2));
	uint8_t p[HEAD + LIM_SENSE + 4 + 4 + 2 + TOKEN_BYTES];

	if (!r)
		return;
	unsigned n = shared_head(r, p), all = r->token && !r->busy ? 2 + TOKEN_BYTES : 0;
	memset(p + n, 0, 4 + 2);
	put_be32(p + n, all);
	if (all)
		memcpy(p + n + 6, r->token, TOKEN_BYTES);
	n += 4 + all;
	put_be32(p, n - 4);
	if (all && (!scsi_alloc_len(c) || MIN(scsi_alloc_len(c), c->room_in) >= n)) { /* told once, SPC-4 6.26 */
		free(r->token);
		r->token = NULL;
	}
	scsi_reply_data(c, p, n);
}

/* --- COPY OPERATION ABORT, SPC-4 6.3 --- */

/* Ends when the operation has. */
void copy_abort(struct scsi_cmd *c)
{
	struct copy_result *r = copy_result_find(c->nexus, c->lu, be32(c->cdb + 2));

	if (!r || !r->copy) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
		return;
	}
	r->copy->cancelled = true;
	list_add_tail(&r->copy->aborters, &c->job.node);
}
