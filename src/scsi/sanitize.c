/* SPDX-License-Identifier: BSD-3-Clause
 * SANITIZE (SBC-4 4.11, 5.30): destroys what is stored, also what the unit's user cannot address any more. FORMAT UNIT (4.33) is
 * the same work with one pass and other words; sbc_format.c reads its parameter list.
 *
 * 1. A job on the unit's home checks, saves "under way" (it must go on after a restart) and publishes it: from then on
 *    each loop refuses commands, and ends those that wait, with SANITIZE IN PROGRESS. A freeze of everything, thawed at once,
 *    tells when the last older command has ended.
 * 2. The work runs on home without any command: passes of writes (BLOCK ERASE: zeros over what is stored, so that data is
 *    gone and not only out of reach; then the space is given back), a flush, a pass that reads it back. From time to time it
 *    saves where it is.
 * 3. A job saves and publishes the end, and answers the commands that waited for it.
 * Task management ends the command, never the work; closing the unit stops the work where it is, for the next start. */
#include "scsi/service.h"

enum { CHUNK = 1 << 20, ZERO_CHUNK = 1 << 30 };  /* bytes of one request: with data, without */
enum { SAVED_HEAD = 20, SAVED_MAX = SAVED_HEAD + 4096, SAVED_VERSION = 1, SAVES = 16 }; /* SAVES: per pass */
enum { FORMAT = 0, OVERWRITE = 0x01, BLOCK_ERASE = 0x02, EXIT_MODE = 0x1f };
enum { IMMED = 0x80, AUSE = 0x20 };                  /* CDB byte 1 */
enum { INVERT = 0x80, TEST = 0x60, COUNT = 0x1f };   /* parameter list byte 0 */
#define SENSE_SANITIZING SENSE(2, 0x04, 0x1b)
#define SENSE_FORMATTING SENSE(2, 0x04, 0x04)
#define SENSE_FORMAT_CORRUPT SENSE(3, 0x31, 0x00)
#define SENSE_SANITIZE_FAILED SENSE(3, 0x31, 0x03)

enum phase { WRITE, GIVE_BACK, READ_BACK };

struct sanitize {
	struct lu       *lu;
	struct scsi_cmd *cmd;       /* only until it is answered or parked */
	struct lu_job    job;       /* of the end, and of going on after a restart */
	struct lu_job   *starter;   /* the command's, or `job`: ended when the start is published */
	struct task      task;
	struct blk_io    io;
	uint8_t          state, action, pass;
	uint8_t          type;      /* FORMAT: of protection */
	uint64_t         by;        /* id of the nexus that asked */
	bool             ause, invert, stop;
	uint8_t          count;     /* passes of writes */
	enum phase       phase;
	uint64_t         at;        /* bytes of this pass that are done */
	uint64_t         run;       /* end of the extent that is being written, 0 = to be looked up */
	uint64_t         save_at;   /* next position to be saved */
	uint16_t         shown;     /* progress that was told last */
	int              result;
	uint32_t         pattern_len;
	uint8_t          pattern[4096];
	void            *page;      /* of pattern */
	struct iovec     iov[CHUNK / PAGE_BYTES];
	int              niov;
	struct blk_extent map[64];
	uint8_t          tuples[CHUNK / 512 * 8];
	uint8_t          saved[SAVED_MAX];
	int              saved_len;
	void           (*then)(struct sanitize *s); /* after the save */
};

/* --- gate --- */

/* SBC-4 4.11.2. In failure mode another SANITIZE may try. */
static bool allowed(const struct scsi_cmd *c)
{
	static const uint8_t mode[] = { 0x1c, 0x08, 0x0a, 0x18, 0x19 };
	unsigned action = c->cdb[1] & 0x1f;

	if (c->ll->pub.formatting) /* SBC-4 4.33.2, 4.33.3.1 */
		return c->cdb[0] == 0x12 || c->cdb[0] == 0xa0 || c->cdb[0] == 0x03 ||
			(c->cdb[0] == 0x04 && c->ll->pub.sanitize == SANITIZE_FAILED);
	switch (c->cdb[0]) {
	case 0x12: case 0xa0: case 0x03: case 0x25:
		return true;
	case 0x9e:
		return action == 0x10;
	case 0xa3:
		return action == 0x0c || action == 0x0d;
	case 0x1a: case 0x5a:
		return memchr(mode, c->cdb[2] & 0x3f, sizeof(mode)) != NULL;
	case 0x4d:
		return (c->cdb[2] & 0x3f) == 0x0d;
	case 0x48:
		return c->ll->pub.sanitize == SANITIZE_FAILED;
	default:
		return false;
	}
}

uint32_t sanitize_sense(const struct lu_loop *ll, struct sense_extra *x)
{
	*x = (struct sense_extra){ .has_progress = ll->pub.sanitize == SANITIZE_RUNNING, .progress = ll->progress };
	if (ll->pub.formatting && ll->pub.sanitize != SANITIZE_NONE)
		return x->has_progress ? SENSE_FORMATTING : SENSE_FORMAT_CORRUPT;
	return ll->pub.sanitize == SANITIZE_NONE ? 0 : x->has_progress ? SENSE_SANITIZING : SENSE_SANITIZE_FAILED;
}

static void refuse(struct scsi_cmd *c)
{
	struct sense_extra x;

	sense_set(c, sanitize_sense(c->ll, &x), &x);
	scsi_reply(c, SCSI_CHECK_CONDITION);
}

bool sanitize_refuses(struct scsi_cmd *c)
{
	if (allowed(c))
		return false;
	refuse(c);
	return true;
}

/* --- what is saved --- */

static void encode(struct sanitize *s)
{
	uint8_t *p = s->saved;

	memset(p, 0, SAVED_HEAD);
	p[0] = SAVED_VERSION;
	p[1] = s->state;
	p[2] = s->action;
	p[3] = (uint8_t)((s->ause ? 1 : 0) | (s->invert ? 2 : 0));
	p[4] = s->count;
	p[5] = s->pass;
	p[6] = (uint8_t)s->phase;
	p[7] = s->type;
	put_be32(p + 8, s->pattern_len);
	put_be64(p + 12, s->at);
	memcpy(p + SAVED_HEAD, s->pattern, s->pattern_len);
	s->saved_len = (int)(SAVED_HEAD + s->pattern_len);
}

static bool decode(struct sanitize *s, const uint8_t *p, int n)
{
	if (n < SAVED_HEAD || p[0] != SAVED_VERSION || p[1] > SANITIZE_FAILED || p[6] > READ_BACK)
		return false;
	s->state = p[1];
	s->action = p[2];
	s->ause = p[3] & 1;
	s->invert = p[3] & 2;
	s->count = p[4];
	s->pass = p[5];
	s->phase = p[6];
	s->type = p[7] & 3;
	s->pattern_len = be32(p + 8);
	s->at = be64(p + 12);
	if (!s->pattern_len || s->pattern_len > sizeof(s->pattern) || n != (int)(SAVED_HEAD + s->pattern_len))
		return false;
	memcpy(s->pattern, p + SAVED_HEAD, s->pattern_len);
	return true;
}

static void save_over(struct task *t)
{
	struct sanitize *s = container_of(t, struct sanitize, task);

	s->then(s);
}

static void save_on_control(struct task *t)
{
	struct sanitize *s = container_of(t, struct sanitize, task);
	const struct lu_store *st = s->lu->store;

	s->result = 0;
	if (st->save && s->action == FORMAT && s->state == SANITIZE_NONE)
		s->result = st->save(st->ctx, s->lu->id, "format", &s->type, 1);
	if (st->save && s->result == 0)
		s->result = st->save(st->ctx, s->lu->id, "sanitize", s->saved, (size_t)s->saved_len);
	t->run = save_over;
	loop_post(s->lu->home, t);
}

/* Makes the state durable, then goes on with fn on home; s->result says whether it is. */
static void save(struct sanitize *s, void (*fn)(struct sanitize *s))
{
	encode(s);
	s->then = fn;
	s->task.run = save_on_control;
	loop_post(scsi_control, &s->task);
}

/* --- work --- */

static void step(struct sanitize *s);

static uint64_t total(const struct sanitize *s)
{
	return s->lu->pub.nblk * s->lu->pub.bs;
}

static void free_pages(struct sanitize *s)
{
	for (int i = 0; i < s->niov; i++)
		page_put(loop_pages(s->lu->home), s->iov[i].iov_base);
	s->niov = 0;
	if (s->page)
		page_put(loop_pages(s->lu->home), s->page);
	s->page = NULL;
}

/* The work holds its unit. */
static void hold(struct lu *lu)
{
	lu_on(lu, lu->home)->users++;
}

static void let_go(struct lu *lu)
{
	struct lu_loop *ll = lu_on(lu, lu->home);

	ll->users--;
	lu_wait_check(ll);
}

static void forget(struct sanitize *s)
{
	struct lu *lu = s->lu;

	lu->sanitize = NULL;
	free_pages(s);
	free(s);
	let_go(lu);
}

/* Answers the commands that waited, with what the unit says now. */
static void end_leg(struct round_leg *leg, void *ctx)
{
	struct sanitize *s = ctx;
	struct lu_loop *ll = lu_on(s->lu, leg->loop);
	struct scsi_cmd *c, *tmp;

	lu_snapshot(ll);
	ll->progress = 0;
	if (s->action == FORMAT && s->state == SANITIZE_NONE)
		ua_broadcast(ll, UA_CAPACITY_CHANGED, s->by); /* the protection type is part of that data */
	list_for_each_safe(c, tmp, &ll->cmds, in_lu) {
		if (c->state != SCSI_CMD_PARKED || (c->op->exec != sanitize_exec && c->op->exec != format_exec))
			continue;
		c->state = SCSI_CMD_RUNNING;
		if (s->state == SANITIZE_FAILED)
			refuse(c);
		else
			scsi_reply(c, SCSI_GOOD);
	}
	round_leg_done(leg);
}

static void ended(void *ctx)
{
	struct sanitize *s = ctx;

	lu_job_end(&s->job);
}

static void run_end(struct lu_job *j)
{
	struct sanitize *s = container_of(j, struct sanitize, job);

	s->lu->pub.sanitize = s->state;
	s->lu->pub.sanitize_ause = s->ause;
	s->lu->pub.formatting = s->action == FORMAT && s->state != SANITIZE_NONE;
	if (s->action == FORMAT && s->state == SANITIZE_NONE)
		s->lu->format = s->type;
	lu_derive(s->lu);
	round_start(s->lu->home, end_leg, ended, s);
}

static void end_done(struct lu_job *j)
{
	forget(container_of(j, struct sanitize, job));
}

static void end_saved(struct sanitize *s)
{
	lu_job_start(&s->job, s->lu, s->lu->home, run_end, end_done);
}

static void finish(struct sanitize *s, int status)
{
	s->state = status < 0 ? SANITIZE_FAILED : SANITIZE_NONE;
	save(s, end_saved);
}

/* Progress in 65536ths, told to every loop when it has moved by 1/200. */
static void tell_leg(struct round_leg *leg, void *ctx)
{
	struct sanitize *s = ctx;

	lu_on(s->lu, leg->loop)->progress = s->shown;
	round_leg_done(leg);
}

static void told(void *ctx)
{
	step(ctx);
}

/* Passes of writes and one that reads; giving back is quick. */
static uint16_t progress(const struct sanitize *s)
{
	uint64_t all = MAX(total(s), 1u), passes = s->count + 1u;
	uint64_t pass = s->phase == WRITE ? s->pass : s->count;
	uint64_t part = s->phase == GIVE_BACK && s->action != FORMAT ? 0 : MIN(s->at >> 9, all >> 9) * 65535u / MAX(all >> 9, 1u);

	return (uint16_t)((pass * 65535u + part) / passes);
}

static void submit(struct sanitize *s, blk_done_fn *done)
{
	s->io.loop = s->lu->home;
	blk_submit(s->lu->pub.blk, &s->io, done, s);
}

/* A saved position that did not reach the disk only means that more is done twice. */
static void go_on_saved(struct sanitize *s)
{
	step(s);
}

static void moved(struct sanitize *s, uint64_t len)
{
	s->at += len;
	if (s->at >= s->save_at && s->at < total(s)) {
		s->save_at = s->at + MAX(total(s) / SAVES, (uint64_t)ZERO_CHUNK);
		save(s, go_on_saved);
		return;
	}
	uint16_t now = progress(s);
	if (now >= s->shown + 65536 / 200) {
		s->shown = now;
		round_start(s->lu->home, tell_leg, told, s);
		return;
	}
	step(s);
}

static void io_moved(struct blk_io *io, void *ctx)
{
	struct sanitize *s = ctx;

	if (io->status < 0)
		finish(s, io->status);
	else
		moved(s, io->req.len);
}

static void next_pass(struct sanitize *s)
{
	s->at = s->run = 0;
	s->save_at = MAX(total(s) / SAVES, (uint64_t)ZERO_CHUNK);
	if (s->action == FORMAT) {
		finish(s, 0);
		return;
	}
	if (s->phase == WRITE && ++s->pass < s->count)
		;
	else if (s->phase == WRITE && s->action == BLOCK_ERASE)
		s->phase = GIVE_BACK;
	else
		s->phase = READ_BACK;
	save(s, go_on_saved);
}

static void pass_flushed(struct blk_io *io, void *ctx)
{
	struct sanitize *s = ctx;

	if (io->status < 0)
		finish(s, io->status);
	else
		next_pass(s);
}

/* What is stored in front of us: a hole is passed over, where zeros are wanted. */
static void mapped(struct blk_io *io, void *ctx)
{
	struct sanitize *s = ctx;
	uint64_t from = s->at;

	if (io->status < 0 || io->req.nmap < 1) {
		finish(s, io->status < 0 ? io->status : -EIO);
		return;
	}
	int i = 0;
	while (i < io->req.nmap && s->map[i].kind != BLK_DATA)
		i++;
	uint64_t to = i < io->req.nmap ? s->map[i].off : s->map[i - 1].off + s->map[i - 1].len;
	s->run = i < io->req.nmap ? s->map[i].off + s->map[i].len : 0;
	moved(s, MAX(to, from) - from);
}

static bool looks_up(const struct sanitize *s)
{
	return s->action == BLOCK_ERASE && (s->lu->pub.blk->caps & BLK_CAN_MAP);
}

static uint8_t flip(const struct sanitize *s)
{
	unsigned left = s->phase == WRITE ? s->count - s->pass - 1u : 0;

	return s->invert && (left & 1) ? 0xff : 0; /* the last pass is never inverted: SBC-4 5.30.2.2 */
}

/* One page in which every block is the pattern of this pass. */
static bool fill_page(struct sanitize *s)
{
	uint32_t bs = s->lu->pub.bs;
	uint8_t x = flip(s), *p;

	if (!s->page)
		s->page = page_get(loop_pages(s->lu->home));
	p = s->page;
	for (uint32_t i = 0; p && i < PAGE_BYTES; i++)
		p[i] = s->pattern[i % bs % s->pattern_len] ^ x;
	return p != NULL;
}

static void write_some(struct sanitize *s, uint64_t len)
{
	int n = (int)((len + PAGE_BYTES - 1) / PAGE_BYTES);

	if (!s->at || !s->page) {
		if (!fill_page(s)) {
			finish(s, -ENOMEM);
			return;
		}
	}
	for (int i = 0; i < n; i++)
		s->iov[i] = (struct iovec){ s->page, MIN(len - (uint64_t)i * PAGE_BYTES, PAGE_BYTES) };
	s->io.req = (struct blk_req){ .op = BLK_WRITE, .off = s->at, .len = len, .iov = s->iov, .niov = n };
	if (s->lu->pub.blk->caps & BLK_CAN_TUPLES) { /* SBC-4 5.30.2.2: all FFh, inverted like the data */
		memset(s->tuples, 0xff ^ flip(s), sizeof(s->tuples));
		s->io.req.flags = BLK_TUPLES;
		s->io.req.tuples = s->tuples;
	}
	submit(s, io_moved);
}

static void read_done(struct blk_io *io, void *ctx)
{
	struct sanitize *s = ctx;
	bool same = io->status >= 0 && fill_page(s);

	for (int i = 0; same && i < s->niov; i++)
		same = !memcmp(s->iov[i].iov_base, s->page, s->iov[i].iov_len);
	for (int i = 0; i < s->niov; i++)
		page_put(loop_pages(s->lu->home), s->iov[i].iov_base);
	s->niov = 0;
	if (same)
		moved(s, io->req.len);
	else
		finish(s, io->status < 0 ? io->status : -EIO);
}

static void read_some(struct sanitize *s, uint64_t len)
{
	int n = scsi_pages_get(s->lu->home, s->iov, len);

	if (n < 0) {
		finish(s, n);
		return;
	}
	s->niov = n;
	s->io.req = (struct blk_req){ .op = BLK_READ, .off = s->at, .len = len, .iov = s->iov, .niov = n };
	submit(s, read_done);
}

static void give_back_some(struct sanitize *s, uint64_t left)
{
	bool format = s->action == FORMAT; /* zeros by the shortest way, whatever the medium can */

	if (!format && !(s->lu->pub.blk->caps & BLK_CAN_DISCARD)) {
		s->at = total(s);
		step(s);
		return;
	}
	s->io.req = (struct blk_req){ .op = format ? BLK_ZERO : BLK_DISCARD, .flags = format ? BLK_MAY_UNMAP : 0, .off = s->at,
		.len = MIN(left, (uint64_t)ZERO_CHUNK) };
	submit(s, io_moved);
}

/* The next request. From the loop's queue, nothing of ours in flight. */
static void step(struct sanitize *s)
{
	uint64_t left = total(s) - MIN(s->at, total(s));

	if (s->stop) {
		forget(s);
	} else if (!left && s->phase == READ_BACK) {
		finish(s, 0);
	} else if (!left) {
		s->io.req = (struct blk_req){ .op = BLK_FLUSH };
		submit(s, pass_flushed);
	} else if (s->phase == GIVE_BACK) {
		give_back_some(s, left);
	} else if (looks_up(s) && s->run <= s->at) {
		s->io.req = (struct blk_req){ .op = BLK_MAP, .off = s->at, .len = left, .map = s->map,
			.nmap = ARRAY_LEN(s->map) };
		submit(s, mapped);
	} else {
		uint64_t len = MIN(looks_up(s) ? MIN(s->run - s->at, left) : left, (uint64_t)CHUNK);
		(s->phase == WRITE ? write_some : read_some)(s, len);
	}
}

/* --- start --- */

static void quiet(struct lu_freeze *fz)
{
	struct sanitize *s = lu_freeze_ctx(fz);

	lu_thaw(fz);
	step(s);
}

static void begun(void *ctx)
{
	struct sanitize *s = ctx;
	const struct lu_range all[2] = { { .len = UINT64_MAX / 2 } };
	struct lu *lu = s->lu;

	lu_job_end(s->starter);
	if (s->state == SANITIZE_NONE)
		forget(s); /* EXIT FAILURE MODE: no work follows */
	else if (!lu_freeze_ranges(lu_on(lu, lu->home), all, s, quiet))
		finish(s, -ENOMEM);
}

/* Commands that have not begun to run end here; those that run are awaited by the freeze. */
static void begin_leg(struct round_leg *leg, void *ctx)
{
	struct sanitize *s = ctx;
	struct lu_loop *ll = lu_on(s->lu, leg->loop);
	struct scsi_cmd *c, *tmp;

	lu_snapshot(ll);
	ll->progress = 0;
	list_for_each_safe(c, tmp, &ll->cmds, in_lu) {
		bool waits = c->state == SCSI_CMD_WAIT_DATA || c->state == SCSI_CMD_HELD;
		if (!waits || s->state != SANITIZE_RUNNING || allowed(c))
			continue;
		c->state = SCSI_CMD_RUNNING;
		c->len = 0;
		refuse(c);
	}
	round_leg_done(leg);
}

static void begin(struct sanitize *s)
{
	s->lu->pub.sanitize = s->state;
	s->lu->pub.sanitize_ause = s->ause;
	s->lu->pub.formatting = s->action == FORMAT;
	s->save_at = s->at + MAX(total(s) / SAVES, (uint64_t)ZERO_CHUNK);
	lu_derive(s->lu);
	round_start(s->lu->home, begin_leg, begun, s);
}

static void start_saved(struct sanitize *s)
{
	if (s->result < 0) { /* what could not go on after a restart is not begun */
		scsi_job_sense(s->starter, SENSE(4, 0x44, 0x00), -1);
		lu_job_end(s->starter);
		forget(s);
		return;
	}
	begin(s);
}

static void parse_list(struct sanitize *s, const struct scsi_cmd *c)
{
	uint8_t head[4];

	s->count = 1;
	s->pattern_len = 1; /* BLOCK ERASE: zeros */
	if (s->action == FORMAT) {
		s->type = (uint8_t)format_type(c);
		s->count = (uint8_t)format_pattern(c, s->pattern, &s->pattern_len);
		s->phase = s->count ? WRITE : GIVE_BACK;
	}
	if (s->action != OVERWRITE)
		return;
	scsi_data_get(c, 0, head, sizeof(head));
	s->invert = head[0] & INVERT;
	s->count = head[0] & COUNT;
	s->pattern_len = be16(head + 2);
	scsi_data_get(c, 4, s->pattern, s->pattern_len);
}

/* Another nexus' SANITIZE may have been first. EXIT FAILURE MODE only changes what is saved. */
static void run_start(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct lu *lu = j->lu;
	struct lu_pub *p = &lu->pub;
	unsigned action = c->cdb[0] == 0x04 ? FORMAT : c->cdb[1] & 0x1f;

	bool restricted = p->sanitize == SANITIZE_FAILED && !p->sanitize_ause;
	struct sanitize *s = NULL;
	if (lu->sanitize || p->sanitize == SANITIZE_RUNNING)
		scsi_job_sense(j, SENSE_SANITIZING, -1);
	else if (action != FORMAT && restricted && (action == EXIT_MODE || c->cdb[1] & AUSE))
		scsi_job_sense(j, SENSE_INVALID_FIELD, 1);
	else if (action == EXIT_MODE && p->sanitize == SANITIZE_NONE)
		scsi_job_status(j, SCSI_GOOD);
	else if (!(s = calloc(1, sizeof(*s))))
		scsi_job_sense(j, SENSE(0xb, 0x55, 0x03), -1);
	if (!s) {
		lu_job_end(j);
		return;
	}
	s->lu = lu;
	s->starter = j;
	s->action = (uint8_t)action;
	s->by = c->nexus->id;
	s->ause = action != FORMAT && c->cdb[1] & AUSE;
	parse_list(s, c);
	lu->sanitize = s;
	hold(lu);
	s->state = action == EXIT_MODE ? SANITIZE_NONE : SANITIZE_RUNNING;
	save(s, start_saved);
}

/* IMMED: answered as soon as it is certain that the work will be done. Else the command waits without being in its way: a
 * task management function ends it at once. */
static void start_done(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);

	bool immed = c->cdb[0] == 0x04 ? format_immed(c) : c->cdb[1] & IMMED;

	if (c->scratch[0] == SCSI_GOOD && !immed && c->ll->pub.sanitize == SANITIZE_RUNNING && !c->must_abort)
		c->state = SCSI_CMD_PARKED;
	else
		scsi_job_end(j);
}

static bool list_ok(struct scsi_cmd *c)
{
	uint8_t head[4];

	scsi_data_get(c, 0, head, sizeof(head));
	unsigned len = be16(head + 2);
	if (!(head[0] & COUNT))
		scsi_reply_field(c, SENSE_INVALID_PARAM, 0, 4);
	else if (head[0] & TEST)
		scsi_reply_field(c, SENSE_INVALID_PARAM, 0, 6);
	else if (!len || len > c->ll->pub.bs || len + 4 > c->out_len)
		scsi_reply_field(c, SENSE_INVALID_PARAM, 2, -1);
	else
		return true;
	return false;
}

int64_t sanitize_prepare(struct scsi_cmd *c)
{
	uint32_t len = be16(c->cdb + 7), bs = 1u << c->ll->shift;
	bool overwrite = (c->cdb[1] & 0x1f) == OVERWRITE;

	if (overwrite ? len > 4 && len < bs + 5 : !len)
		return len;
	scsi_reply_field(c, SENSE_INVALID_FIELD, 7, -1);
	return -1;
}

void sanitize_format(struct scsi_cmd *c)
{
	c->len = 0;
	scsi_job_with(c, run_start, start_done);
}

void sanitize_exec(struct scsi_cmd *c)
{
	c->len = 0;
	if ((c->cdb[1] & 0x1f) == OVERWRITE) {
		if (c->out_len < be16(c->cdb + 7)) {
			scsi_reply_sense(c, SENSE_PARAM_LENGTH);
			return;
		}
		if (!list_ok(c))
			return;
	}
	scsi_job_with(c, run_start, start_done);
}

/* --- over restarts --- */

int sanitize_load(struct lu *lu, struct err *e)
{
	struct sanitize *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	int n = lu->store->load ? lu->store->load(lu->store->ctx, lu->id, "sanitize", s->saved, sizeof(s->saved)) : -ENOENT;
	if (n == -ENOENT) {
		free(s);
		return 0;
	}
	if (n < 0 || !decode(s, s->saved, n)) {
		free(s);
		return err_set(e, n < 0 ? n : -EBADMSG, "what was saved of a SANITIZE of volume '%s' is damaged; remove "
			"its sanitize file in the state directory to start without it, and erase the volume again", lu->name);
	}
	s->lu = lu;
	lu->pub.sanitize = s->state;
	lu->pub.sanitize_ause = s->ause;
	lu->pub.formatting = s->action == FORMAT && s->state != SANITIZE_NONE;
	if (s->state == SANITIZE_RUNNING)
		lu->sanitize = s;
	else
		free(s);
	return 0;
}

void sanitize_go_on(struct lu_job *j)
{
	struct sanitize *s = j->lu->sanitize;

	if (!s || s->starter || s->stop || !j->lu->pub.blk) {
		lu_publish(j);
		return;
	}
	s->starter = j;
	hold(j->lu);
	begin(s);
}

void sanitize_stop(struct lu *lu)
{
	struct sanitize *s = lu->sanitize;

	if (!s)
		return;
	s->stop = true;
	if (s->starter)
		return; /* it runs: its next step ends it */
	lu->sanitize = NULL;
	free(s);
}
