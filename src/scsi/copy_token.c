/* SPDX-License-Identifier: BSD-3-Clause
 * POPULATE TOKEN, WRITE USING TOKEN (SBC-4 5.12, 5.59), REPORT ALL ROD TOKENS (SPC-4 6.31). On the command's loop. */
#include "scsi/copy.h"

#include "scsi/sbc.h"
#include "scsi/token.h"

enum { HEAD_POPULATE = 16, HEAD_USE = 536, RANGE_BYTES = 16, LIST_MAX = HEAD_USE + (TOKEN_RANGES_MAX + 1) * RANGE_BYTES };
#define SENSE_TOO_MANY_RANGES SENSE(5, 0x26, 0x08)
#define SENSE_NO_ROOM_FOR_ROD SENSE(5, 0x55, 0x0c)

struct ranges { unsigned n; uint64_t total; struct token_range range[TOKEN_RANGES_MAX]; }; /* total: bytes */

static const struct copy_fault fine = { 0, -1 };

/* --- block device range descriptors, SBC-4 5.12.3 --- */

static bool meets(const struct ranges *r, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < r->n; i++)
		if (len && off < r->range[i].off + r->range[i].len && r->range[i].off < off + len)
			return true;
	return false;
}

static struct copy_fault add_range(const struct lu_loop *ll, const uint8_t *p, int at, struct ranges *r)
{
	uint64_t lba = be64(p), n = be32(p + 8), cap = ll->pub.nblk, len = n << ll->shift;

	if (lba > cap || n > cap - lba)
		return copy_fault(SENSE_LBA_RANGE, -1);
	if (meets(r, lba << ll->shift, len))
		return copy_fault(SENSE_INVALID_PARAM, at);
	if (r->total + len > COPY_TOKEN_BYTES)
		return copy_fault(SENSE_INVALID_PARAM, at + 8);
	if (n)
		r->range[r->n++] = (struct token_range){ lba << ll->shift, len, 0 };
	r->total += len;
	return fine;
}

/* The descriptors that came whole, of the list whose length is at len_at. */
static struct copy_fault parse_ranges(const struct lu_loop *ll, const uint8_t *p, uint32_t len, unsigned len_at,
	struct ranges *r)
{
	unsigned at = len_at + 2, says = be16(p + len_at), n = MIN(says, len - at) / RANGE_BYTES;

	if (says < RANGE_BYTES)
		return copy_fault(SENSE_INVALID_PARAM, (int)len_at);
	if (n > TOKEN_RANGES_MAX)
		return copy_fault(SENSE_TOO_MANY_RANGES, -1);
	for (unsigned i = 0; i < n; i++) {
		struct copy_fault f = add_range(ll, p + at + i * RANGE_BYTES, (int)(at + i * RANGE_BYTES), r);
		if (f.sense)
			return f;
	}
	return fine;
}

/* The parameter list, on the heap; NULL: the command has been answered. An absent one is fine (SBC-4 5.12.1). */
static uint8_t *get_list(struct scsi_cmd *c, uint32_t least)
{
	uint32_t len = be32(c->cdb + 10);

	if (!len) {
		scsi_reply(c, SCSI_GOOD);
		return NULL;
	}
	if (c->out_len < least || c->out_len != len) {
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return NULL;
	}
	uint8_t *p = malloc(c->out_len);
	if (p)
		scsi_data_get(c, 0, p, c->out_len);
	else
		scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
	return p;
}

/* A place for the result, or an answer. */
static struct copy_result *get_result(struct scsi_cmd *c, uint8_t action)
{
	struct copy_result *r;
	uint32_t bad = copy_result_new(c, be32(c->cdb + 6), action, &r);

	if (bad)
		scsi_reply_sense(c, bad);
	else if (!r)
		scsi_reply(c, SCSI_BUSY);
	else
		r->busy = true;
	return r;
}

/* --- POPULATE TOKEN --- */

struct populate { struct scsi_cmd *c; struct copy_result *result; struct token_make make; struct ranges ranges; };

static void keep_token(struct populate *o)
{
	struct copy_result *r = o->result;

	r->token = malloc(TOKEN_BYTES);
	if (r->token)
		memcpy(r->token, o->make.bytes, TOKEN_BYTES);
	r->bytes = o->ranges.total;
	r->state = COPY_DONE;
	r->status = SCSI_GOOD;
}

static void populated(struct token_make *m)
{
	struct populate *o = container_of(m, struct populate, make);
	struct scsi_cmd *c = o->c;
	struct copy_result *r = o->result;

	r->busy = false;
	c->status = SCSI_GOOD;
	if (!m->error)
		keep_token(o);
	if (m->error || !r->token || c->must_abort || r->forget)
		copy_result_drop(r);
	if (m->error)
		sense_set(c, SENSE_NO_ROOM_FOR_ROD, NULL);
	free(o);
	scsi_end(c);
}

static bool type_offered(uint32_t type)
{
	return type == TOKEN_TYPE_DEFAULT || type == TOKEN_TYPE_VULNERABLE || type == TOKEN_TYPE_ANY;
}

static struct copy_fault parse_populate(struct populate *o, const uint8_t *p, uint32_t len)
{
	uint32_t type = p[2] & 2 ? be32(p + 8) : TOKEN_TYPE_ANY;

	o->make.idle_s = be32(p + 4);
	if (be16(p) < 30)
		return copy_fault(SENSE_INVALID_PARAM, 0);
	if (o->make.idle_s > TOKEN_IDLE_MAX_S)
		return copy_fault(SENSE_INVALID_PARAM, 4);
	if (!type_offered(type))
		return copy_fault(SENSE_INVALID_PARAM, 8);
	o->make.type = type == TOKEN_TYPE_ANY ? TOKEN_TYPE_VULNERABLE : type;
	return parse_ranges(o->c->ll, p, len, 14, &o->ranges);
}

/* Nothing is read, so it is over at once: IMMED changes nothing. */
void copy_populate(struct scsi_cmd *c)
{
	uint8_t *p = get_list(c, HEAD_POPULATE);
	struct populate *o = p ? calloc(1, sizeof(*o)) : NULL;

	if (!o) {
		if (p)
			scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
		free(p);
		return;
	}
	o->c = c;
	struct copy_fault f = parse_populate(o, p, c->out_len);
	free(p);
	if (f.sense)
		copy_refuse(c, f);
	else
		o->result = get_result(c, COPY_POPULATE);
	if (!o->result) {
		free(o);
		return;
	}
	o->make.ll = c->ll;
	o->make.range = o->ranges.range;
	o->make.nrange = o->ranges.n;
	o->make.target = scsi_target_name(c->nexus->target);
	o->make.done = populated;
	c->len = 0;
	token_make(&o->make);
}

/* --- WRITE USING TOKEN --- */

struct use {
	struct scsi_cmd   *c;
	uint8_t           *p;            /* the parameter list */
	struct token_use  *token;
	struct copy_third *third;        /* finds the token's unit if the nexus does not see it */
	struct copy_party *party;
	uint64_t           skip;
	bool               immed, del;
	struct ranges      ranges;
};

/* Walks through the bytes that a token represents. No ranges: zeros without end. */
struct source { const struct token_range *range; unsigned n, i; uint64_t at; struct lu_loop *ll; struct copy_party *party; };

static bool source_over(const struct source *s)
{
	return s->ll && s->i == s->n;
}

static void source_skip(struct source *s, uint64_t bytes)
{
	while (s->ll && s->i < s->n && bytes >= s->range[s->i].len - s->at) {
		bytes -= s->range[s->i].len - s->at;
		s->at = 0;
		s->i++;
	}
	if (!source_over(s))
		s->at += bytes;
}

/* The next piece of at most len bytes. */
static struct copy_seg source_piece(struct source *s, struct lu_loop *to, uint64_t off, uint64_t len)
{
	struct copy_seg seg = { .dst = to, .to = off, .len = len, .src_at = 16, .dst_at = -1 };

	if (!s->ll)
		return seg;
	const struct token_range *r = &s->range[s->i];
	seg.src = s->ll;
	seg.src_party = s->party;
	seg.from = r->off + s->at;
	seg.len = MIN(len, r->len - s->at);
	seg.lease = r->lease;
	source_skip(s, seg.len);
	return seg;
}

/* Where the token ends inside a block, the rest of the block is zeros, SBC-4 5.59.2. */
static void pad_block(struct copy *k, struct lu_loop *to, uint64_t off, uint64_t rest)
{
	uint64_t part = off & ((1ull << to->shift) - 1);

	if (part && rest >= (1ull << to->shift) - part)
		k->seg[k->nseg++] = (struct copy_seg){ .dst = to, .to = off, .len = (1ull << to->shift) - part, .src_at = -1,
			.dst_at = -1 };
}

static void fill_segments(struct copy *k, const struct use *u, struct source *from)
{
	struct lu_loop *to = u->c->ll;

	for (unsigned i = 0; i < u->ranges.n; i++) {
		const struct token_range *r = &u->ranges.range[i];
		uint64_t at = 0;
		while (at < r->len && !source_over(from)) {
			struct copy_seg *s = &k->seg[k->nseg++];
			*s = source_piece(from, to, r->off + at, r->len - at);
			at += s->len;
		}
		if (at < r->len) {
			pad_block(k, to, r->off + at, r->len - at);
			return;
		}
	}
}

static uint64_t bytes_in(const struct copy *k)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < k->nseg; i++)
		sum += k->seg[i].len;
	return sum;
}

static void use_ended(struct copy *k)
{
	if (k->token)
		token_close(k->token);
}

static void use_begin(struct use *u)
{
	struct scsi_cmd *c = u->c;
	struct token_use *t = u->token;
	struct source from = { .range = t ? t->range : NULL, .n = t ? t->nrange : 0, .ll = t ? t->ll : NULL,
		.party = u->party };
	struct copy *k = copy_new(c, u->ranges.n + from.n + 2);
	struct copy_result *r = NULL;

	source_skip(&from, t ? u->skip : 0);
	if (!k)
		scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
	else if (source_over(&from))
		copy_refuse(c, copy_fault(SENSE_INVALID_PARAM, 8));
	else
		r = get_result(c, COPY_USE_TOKEN);
	if (!r) {
		if (k)
			copy_free(k);
		if (t)
			token_close(t);
		return;
	}
	fill_segments(k, u, &from);
	k->short_of_data = bytes_in(k) < u->ranges.total;
	k->result = r;
	k->token = t;
	k->third = u->third;
	u->third = NULL;
	k->ended = use_ended;
	if (t)
		t->del = u->del;
	copy_begin(k, u->immed);
}

static void use_free(struct use *u)
{
	if (u->third)
		copy_third_free(u->third);
	free(u->p);
	free(u);
}

static void opened(struct token_use *t)
{
	struct use *u = t->ctx;
	struct scsi_cmd *c = u->c;

	if (t->refused) {
		scsi_reply_sense(c, SENSE_TOKEN(5, t->refused));
		free(t);
	} else if (c->must_abort) {
		token_close(t);
		scsi_reply(c, SCSI_TASK_ABORTED);
	} else {
		use_begin(u);
	}
	use_free(u);
}

static bool is_zero_token(const uint8_t *p)
{
	return be32(p) == TOKEN_TYPE_ZERO;
}

/* In the order of SPC-4 5.17.6.5.2.3. */
static struct copy_fault find_token(struct use *u, const uint8_t *p, struct lu_loop **ret)
{
	struct scsi_nexus *n = u->c->nexus;
	struct itl *itl;

	*ret = NULL;
	if (be16(p + 6) != TOKEN_BYTES - 8)
		return copy_fault(SENSE_TOKEN(5, TOKEN_LENGTH), -1);
	if (is_zero_token(p))
		return fine;
	if (be32(p) != TOKEN_TYPE_DEFAULT && be32(p) != TOKEN_TYPE_VULNERABLE)
		return copy_fault(SENSE_TOKEN(5, TOKEN_TYPE), -1);
	if (p[16] != CSCD_IDENTIFICATION)
		return copy_fault(SENSE_TOKEN(5, TOKEN_CORRUPT), -1);
	itl = copy_unit(n, p + 16);
	u->party = itl ? NULL : copy_third_find(u->third, p + 16);
	if (!itl && !u->party)
		return copy_fault(SENSE_TOKEN(5, TOKEN_UNKNOWN), -1);
	*ret = itl ? itl->ll : u->party->ll;
	return (itl ? copy_allows(n, itl, false) : u->party->reads) ? fine : copy_fault(SENSE_COPY_NOT_REACHABLE, -1);
}

static struct copy_fault parse_use(struct use *u, uint32_t len, struct lu_loop **ret_unit)
{
	const struct lu_loop *ll = u->c->ll;
	const uint8_t *p = u->p;
	uint64_t blocks = be64(p + 8);

	u->del = p[2] & 2;
	u->immed = p[2] & 1;
	if (be16(p) < HEAD_USE + RANGE_BYTES - 2)
		return copy_fault(SENSE_INVALID_PARAM, 0);
	if (be16(p) != be16(p + 534) + HEAD_USE - 2)
		return copy_fault(SENSE_INVALID_PARAM, 534);
	struct copy_fault f = find_token(u, p + 16, ret_unit);
	if (f.sense)
		return f;
	if (blocks > UINT64_MAX >> ll->shift)
		return copy_fault(SENSE_INVALID_PARAM, 8);
	u->skip = blocks << ll->shift;
	return parse_ranges(ll, p, len, 534, &u->ranges);
}

static void open_token(struct use *u, struct lu_loop *ll)
{
	struct token_use *t = calloc(1, sizeof(*t));

	if (!t) {
		scsi_reply_sense(u->c, SENSE(0xb, 0x55, 0x03));
		use_free(u);
		return;
	}
	memcpy(t->bytes, u->p + 16, TOKEN_BYTES);
	t->ll = ll;
	t->done = opened;
	t->ctx = u;
	u->token = t;
	token_open(t);
}

/* The token's unit is known if it can be. */
static void use_list(struct use *u)
{
	struct lu_loop *unit;
	struct copy_fault f = parse_use(u, u->c->out_len, &unit);

	if (!f.sense && unit) {
		open_token(u, unit);
		return;
	}
	if (f.sense)
		copy_refuse(u->c, f);
	else
		use_begin(u);
	use_free(u);
}

static void looked(struct copy_third *t)
{
	struct use *u = t->ctx;

	if (u->c->must_abort) {
		scsi_reply(u->c, SCSI_TASK_ABORTED);
		use_free(u);
	} else if (copy_may_begin(u->c)) {
		use_list(u);
	} else {
		use_free(u);
	}
}

/* Is it a token of a unit that the nexus does not see? */
static bool is_strange(const struct use *u)
{
	const uint8_t *token = u->p + 16;

	return !is_zero_token(token) && token[16] == CSCD_IDENTIFICATION && !copy_unit(u->c->nexus, token + 16);
}

void copy_use_token(struct scsi_cmd *c)
{
	uint8_t *p = copy_may_begin(c) ? get_list(c, HEAD_USE) : NULL;
	struct use *u = p ? calloc(1, sizeof(*u)) : NULL;

	if (!u) {
		if (p)
			scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
		free(p);
		return;
	}
	u->c = c;
	u->p = p;
	c->len = 0;
	u->third = is_strange(u) ? copy_third_new(c, looked, u) : NULL; /* out of memory: a token that is not known */
	if (u->third) {
		copy_third_add(u->third, p + 16 + 16);
		copy_third_go(u->third, c->loop);
	} else {
		use_list(u);
	}
}

/* --- REPORT ALL ROD TOKENS --- */

struct report { struct task task; struct scsi_cmd *c; unsigned n; uint8_t p[8 + TOKENS_MAX * TOKEN_MANAGEMENT_BYTES]; };

static void reported(struct task *t)
{
	struct report *r = container_of(t, struct report, task);

	put_be32(r->p, 4 + r->n * TOKEN_MANAGEMENT_BYTES);
	scsi_reply_data(r->c, r->p, 8 + r->n * TOKEN_MANAGEMENT_BYTES);
	free(r);
}

static void report_home(struct task *t)
{
	struct report *r = container_of(t, struct report, task);

	r->n = tokens_report(r->c->lu, r->p + 8);
	t->run = reported;
	scsi_send(r->c->lu->home, r->c->loop, t);
}

void copy_all_tokens(struct scsi_cmd *c)
{
	struct report *r = calloc(1, sizeof(*r));

	if (!r) {
		scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
		return;
	}
	r->c = c;
	r->task.run = report_home;
	scsi_send(c->loop, c->lu->home, &r->task);
}
