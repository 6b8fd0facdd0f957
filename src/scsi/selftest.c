/* SPDX-License-Identifier: BSD-3-Clause
 * SEND DIAGNOSTIC with its self-tests, RECEIVE DIAGNOSTIC RESULTS (SPC-4 5.15, 6.42, 6.29). A self-test reads: the default
 * and the short one a block at the start, in the middle and at the end; the extended one everything. It runs on the unit's
 * home without a command, in the foreground too, so that task management need not wait for it; other commands go on. */
#include "scsi/service.h"

enum { CHUNK = 1 << 20, SAMPLES = 3 };
enum { DEFAULT = 0, BG_SHORT = 1, BG_EXTENDED = 2, ABORT_BG = 4, FG_SHORT = 5, FG_EXTENDED = 6 };
enum { SELFTEST = 0x04, PF = 0x10 };
enum { PASSED = 0, ABORTED_BY_COMMAND = 1, ABORTED = 2, FAILED_SEGMENT = 7, IN_PROGRESS = 0xf };
#define SENSE_SELF_TESTING SENSE(2, 0x04, 0x09)
#define SENSE_SELF_TEST_FAILED SENSE(4, 0x3e, 0x03)

struct selftest {
	struct lu    *lu;
	struct lu_job job;
	struct blk_io io;
	uint8_t       code, result;
	bool          stop;
	uint64_t      at;       /* bytes; of samples, their number */
	uint64_t      fail_lba; /* UINT64_MAX: none */
	uint16_t      shown;
	int           niov;
	struct iovec  iov[CHUNK / PAGE_BYTES];
};

/* --- results --- */

/* The i-th newest as a parameter of log page 10h, after its header; SPC-4 7.3.16.2. */
void selftest_result(const struct lu_loop *ll, unsigned i, uint8_t p[16])
{
	const struct selftest_log *r = &ll->pub.selftests[i];

	if (!r->used)
		return;
	p[0] = (uint8_t)(r->code << 5 | r->result);
	p[1] = r->result == FAILED_SEGMENT ? 1 : 0;
	put_be64(p + 4, r->result == FAILED_SEGMENT ? r->lba : UINT64_MAX);
	if (r->result == FAILED_SEGMENT) {
		p[12] = 3;
		p[13] = 0x11;
	}
}

void selftest_forget(struct lu *lu)
{
	bool runs = lu->selftest;

	memset(lu->pub.selftests + runs, 0, sizeof(lu->pub.selftests) - runs * sizeof(lu->pub.selftests[0]));
}

static void enter_result(struct lu *lu, uint8_t code, uint8_t result, uint64_t lba)
{
	struct selftest_log *r = lu->pub.selftests;

	if (!r[0].used || r[0].result != IN_PROGRESS)
		memmove(r + 1, r, sizeof(lu->pub.selftests) - sizeof(r[0]));
	r[0] = (struct selftest_log){ .used = true, .code = code, .result = result, .lba = lba };
}

uint32_t selftest_sense(const struct lu_loop *ll, struct sense_extra *x)
{
	if (!ll->pub.selftests[0].used || ll->pub.selftests[0].result != IN_PROGRESS)
		return 0;
	*x = (struct sense_extra){ .has_progress = true, .progress = ll->progress };
	return SENSE_SELF_TESTING;
}

/* --- the work: home --- */

static void step(struct selftest *t);

static bool extended(const struct selftest *t)
{
	return t->code == BG_EXTENDED || t->code == FG_EXTENDED;
}

/* Answers the commands that waited for a test in the foreground. */
static void end_leg(struct round_leg *leg, void *ctx)
{
	struct selftest *t = ctx;
	struct lu_loop *ll = lu_on(t->lu, leg->loop);
	struct scsi_cmd *c, *tmp;

	lu_snapshot(ll);
	ll->progress = 0;
	list_for_each_safe(c, tmp, &ll->cmds, in_lu) {
		if (c->state != SCSI_CMD_PARKED || c->op->exec != diag_send)
			continue;
		c->state = SCSI_CMD_RUNNING;
		if (t->result == PASSED)
			scsi_reply(c, SCSI_GOOD);
		else
			scsi_reply_sense(c, SENSE_SELF_TEST_FAILED);
	}
	round_leg_done(leg);
}

static void ended(void *ctx)
{
	struct selftest *t = ctx;

	lu_job_end(&t->job);
}

static void run_end(struct lu_job *j)
{
	struct selftest *t = container_of(j, struct selftest, job);

	enter_result(t->lu, t->code, t->result, t->fail_lba);
	t->lu->selftest = NULL;
	lu_derive(t->lu);
	round_start(t->lu->home, end_leg, ended, t);
}

static void end_done(struct lu_job *j)
{
	struct selftest *t = container_of(j, struct selftest, job);
	struct lu_loop *ll = lu_on(t->lu, t->lu->home);

	free(t);
	ll->users--;
	lu_wait_check(ll);
}

static void finish(struct selftest *t, uint8_t result)
{
	t->result = result;
	lu_job_start(&t->job, t->lu, t->lu->home, run_end, end_done);
}

static void tell_leg(struct round_leg *leg, void *ctx)
{
	struct selftest *t = ctx;

	lu_on(t->lu, leg->loop)->progress = t->shown;
	round_leg_done(leg);
}

static void told(void *ctx)
{
	step(ctx);
}

static void read_done(struct blk_io *io, void *ctx)
{
	struct selftest *t = ctx;
	struct lu_pub *p = &t->lu->pub;

	scsi_pages_put(t->lu->home, t->iov, t->niov);
	t->niov = 0;
	if (io->status < 0) {
		t->fail_lba = (io->fail_off == UINT64_MAX ? io->req.off : io->fail_off) / p->bs;
		finish(t, FAILED_SEGMENT);
		return;
	}
	t->at += extended(t) ? io->req.len : 1;
	uint64_t all = MAX((p->nblk * p->bs) >> 9, 1u);
	uint16_t now = (uint16_t)(extended(t) ? MIN(t->at >> 9, all) * 65535u / all : 0);
	if (now >= t->shown + 65536 / 100) {
		t->shown = now;
		round_start(t->lu->home, tell_leg, told, t);
		return;
	}
	step(t);
}

static void step(struct selftest *t)
{
	struct lu_pub *p = &t->lu->pub;
	uint64_t all = p->nblk * p->bs, off = t->at;

	if (!extended(t))
		off = t->at == 0 ? 0 : t->at == 1 ? p->nblk / 2 * p->bs : all - p->bs;
	uint64_t len = extended(t) ? MIN(all - MIN(off, all), (uint64_t)CHUNK) : p->bs;
	if (t->stop) {
		finish(t, ABORTED_BY_COMMAND);
	} else if (!p->blk || p->not_ready || p->sanitize) {
		finish(t, ABORTED);
	} else if (!len || (!extended(t) && t->at == SAMPLES)) {
		finish(t, PASSED);
	} else {
		t->niov = scsi_pages_get(t->lu->home, t->iov, len);
		if (t->niov < 0) {
			t->niov = 0;
			finish(t, ABORTED);
			return;
		}
		t->io.req = (struct blk_req){ .op = BLK_READ, .off = off, .len = len, .iov = t->iov, .niov = t->niov };
		t->io.loop = t->lu->home;
		blk_submit(p->blk, &t->io, read_done, t);
	}
}

void selftest_stop(struct lu *lu)
{
	if (lu->selftest)
		lu->selftest->stop = true;
}

/* --- SEND DIAGNOSTIC --- */

static void start_leg(struct round_leg *leg, void *ctx)
{
	struct selftest *t = ctx;

	lu_snapshot(lu_on(t->lu, leg->loop));
	lu_on(t->lu, leg->loop)->progress = 0;
	round_leg_done(leg);
}

static void started(void *ctx)
{
	struct selftest *t = ctx;
	struct scsi_cmd *c = (struct scsi_cmd *)(uintptr_t)t->io.scratch[0];

	lu_job_end(&c->job);
	step(t);
}

static void run_start(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct lu *lu = j->lu;
	struct selftest *t = NULL;
	uint8_t code = c->cdb[1] >> 5;

	if (code == ABORT_BG && lu->selftest)
		lu->selftest->stop = true;
	else if (code == ABORT_BG)
		scsi_job_sense(j, SENSE_INVALID_FIELD, 1);
	else if (lu->selftest)
		scsi_job_sense(j, SENSE_SELF_TESTING, -1);
	else if (!(t = calloc(1, sizeof(*t))))
		scsi_job_sense(j, SENSE(0xb, 0x55, 0x03), -1);
	if (!t) {
		lu_job_end(j);
		return;
	}
	t->lu = lu;
	t->code = code;
	t->fail_lba = UINT64_MAX;
	t->io.scratch[0] = (uintptr_t)c;
	lu->selftest = t;
	lu_on(lu, lu->home)->users++;
	enter_result(lu, code, IN_PROGRESS, UINT64_MAX);
	round_start(lu->home, start_leg, started, t);
}

/* In the background: answered at once. In the foreground it waits; a task management function ends it at once. */
static void start_done(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	unsigned code = c->cdb[1] >> 5;
	bool waits = code == DEFAULT || code == FG_SHORT || code == FG_EXTENDED;

	if (waits && c->scratch[0] == SCSI_GOOD && !c->must_abort)
		c->state = SCSI_CMD_PARKED;
	else
		scsi_job_end(j);
}

/* A diagnostic page: only 00h, which is empty, and means that RECEIVE DIAGNOSTIC RESULTS shall list the pages. */
static void take_page(struct scsi_cmd *c)
{
	uint8_t p[4];

	if (c->out_len < sizeof(p)) {
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return;
	}
	scsi_data_get(c, 0, p, sizeof(p));
	if (p[0])
		scsi_reply_field(c, SENSE_INVALID_PARAM, 0, -1);
	else if (be16(p + 2) || c->out_len != sizeof(p))
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
	else
		scsi_reply(c, SCSI_GOOD);
}

void diag_send(struct scsi_cmd *c)
{
	unsigned code = c->cdb[1] >> 5, len = be16(c->cdb + 3);
	bool test = c->cdb[1] & SELFTEST;

	if (code == 3 || code == 7 || (test && code))
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 7);
	else if ((test || code) && len)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 3, -1);
	else if (test || code)
		scsi_job_with(c, run_start, start_done);
	else if (!len)
		scsi_reply(c, SCSI_GOOD);
	else if (!(c->cdb[1] & PF))
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 4);
	else
		take_page(c);
}

/* --- RECEIVE DIAGNOSTIC RESULTS --- */

void diag_receive(struct scsi_cmd *c)
{
	static const uint8_t supported[] = { 0x00, 0, 0, 1, 0x00 };

	if ((c->cdb[1] & 1) && c->cdb[2])
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
	else
		scsi_reply_data(c, supported, sizeof(supported));
}
