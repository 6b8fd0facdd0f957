/* SPDX-License-Identifier: BSD-3-Clause
 * Life of a command: LUN, dispatch by table, the gates in their one order (CDB -> unit attention ->
 * reservation -> access state -> medium -> write protect -> LBA bounds), execution, end. On the command's loop. */
#include "scsi/priv.h"

/* --- dispatch --- */

static void slot_deny(struct scsi_slot *s)
{
	uint8_t deny[16];

	for (unsigned i = 0; i < 16; i++)
		deny[i] = i < s->op->cdb_len ? (uint8_t)~scsi_usage(s->op, i) : 0;
	deny[0] = 0;
	memcpy(s->deny, deny, 16);
}

void scsi_optab_fill(struct scsi_optab *t, const struct scsi_op *const *tables)
{
	memset(t, 0, sizeof(*t));
	t->tables = tables;
	for (; *tables; tables++) {
		for (const struct scsi_op *op = *tables; op->name; op++) {
			t->slot[op->opcode].op = op;
			slot_deny(&t->slot[op->opcode]);
		}
	}
}

/* action < 0: any row of that opcode. Later tables win. */
const struct scsi_op *scsi_optab_find(const struct scsi_optab *t, uint8_t opcode, int action)
{
	const struct scsi_op *found = NULL;

	for (const struct scsi_op *const *tab = t->tables; *tab; tab++)
		for (const struct scsi_op *op = *tab; op->name; op++)
			if (op->opcode == opcode && (action < 0 || !(op->flags & SCSI_SA) || op->action == action))
				found = op;
	return found;
}

static unsigned first_bit(uint8_t v)
{
	return 31u - (unsigned)__builtin_clz(v);
}

/* Usage mask violated: says where. */
static void begin_bad_field(struct scsi_cmd *c, const struct scsi_op *op)
{
	for (unsigned i = 1; i < op->cdb_len; i++) {
		uint8_t bad = c->cdb[i] & (uint8_t)~scsi_usage(op, i);
		if (bad) {
			scsi_reply_field(c, SENSE_INVALID_FIELD, i, (int)first_bit(bad));
			return;
		}
	}
}

static bool cdb_ok(const struct scsi_cmd *c, const struct scsi_slot *s)
{
	uint64_t cdb[2];

	memcpy(cdb, c->cdb, 16);
	return !((cdb[0] & s->deny[0]) | (cdb[1] & s->deny[1]));
}

/* Rows that also match on service action, or are longer than 16 bytes: by search. */
static const struct scsi_op *find_action(struct scsi_cmd *c)
{
	bool variable = c->cdb[0] == 0x7f; /* SPC-4 4.2.3: length in byte 7, service action in bytes 8 and 9 */
	int action = variable ? be16(c->cdb + 8) : c->cdb[1] & 0x1f;
	const struct scsi_op *op = scsi_optab_find(c->ll->pub.ops, c->cdb[0], action);
	struct scsi_slot s = { .op = op };

	if (!op || (op->offered && !op->prepare && !op->offered(c))) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, variable ? 8 : 1, variable ? -1 : 4);
		return NULL;
	}
	if (variable && (c->cdb_len < op->cdb_len || c->cdb[7] != op->cdb_len - 8)) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 7, -1);
		return NULL;
	}
	slot_deny(&s);
	if (cdb_ok(c, &s))
		return op;
	begin_bad_field(c, op);
	return NULL;
}

/* The row of the command, or NULL after having failed it. */
static inline const struct scsi_op *begin_find(struct scsi_cmd *c)
{
	const struct scsi_slot *s = &c->ll->pub.ops->slot[c->cdb[0]];

	if (unlikely(!s->op)) {
		scsi_reply_sense(c, SENSE_INVALID_OPCODE);
		return NULL;
	}
	if (unlikely(s->op->flags & SCSI_SA))
		return find_action(c);
	if (unlikely(!cdb_ok(c, s))) {
		begin_bad_field(c, s->op);
		return NULL;
	}
	return s->op;
}

/* --- gates that most commands never meet --- */

static bool reservation_allows(const struct scsi_cmd *c)
{
	uint32_t flags = c->op->flags;

	if (c->ll->pub.reserved_by == c->nexus->id)
		return (c->cdb[0] | 1) != 0x5f; /* SPC-2 5.5.1: PERSISTENT RESERVE conflicts for everybody */
	if (flags & SCSI_PR_START) /* SPC-2 table 10: START=1 and PREVENT=0 are allowed */
		return c->cdb[0] == 0x1b ? (c->cdb[4] & 0xf1) == 1 : !(c->cdb[4] & 1);
	return (flags & SCSI_PR_FREE) && !(flags & SCSI_RES_CONFLICT);
}

/* Failed it? */
static bool slow_gates(struct scsi_cmd *c, struct itl *itl)
{
	const struct lu_pub *pub = &c->ll->pub;
	uint32_t flags = c->op->flags;

	if (((pub->alert & LU_ACA) || c->attr >= SCSI_ACA) && task_set_refuses(c, itl))
		return true;
	if (itl->nua && !(flags & SCSI_NO_UA)) {
		uint16_t ua = task_set_ua(c, itl);
		c->fence = ua == UA_CLEARED || ua >> 8 == UA_TARGET_RESET >> 8; /* tasks were ended */
		scsi_reply_sense(c, SENSE(6, 0, 0) | ua);
		return true;
	}
	if ((pub->alert & LU_RESERVED) && !reservation_allows(c)) {
		task_set_status(c, SCSI_RESERVATION_CONFLICT);
		return true;
	}
	if ((pub->alert & LU_PERSISTENT) && !pr_allows(c, itl)) {
		task_set_status(c, SCSI_RESERVATION_CONFLICT);
		return true;
	}
	if ((pub->alert & LU_PATHS) && alua_refuses(c))
		return true;
	if ((pub->alert & LU_SANITIZE) && sanitize_refuses(c))
		return true;
	if ((flags & SCSI_MEDIUM) && (pub->alert & LU_NOT_READY)) {
		scsi_reply_sense(c, pub->not_ready);
		return true;
	}
	if ((flags & SCSI_WRITES) && (pub->alert & LU_WRITE_PROTECT)) {
		scsi_reply_sense(c, pub->swp ? SENSE_SOFT_PROTECTED : SENSE_WRITE_PROTECTED);
		return true;
	}
	return false;
}

/* LBA and number of blocks against the capacity; READ (6) and WRITE (6) say 256 with 0. Failed it? */
static inline bool begin_range(struct scsi_cmd *c)
{
	const struct scsi_op *op = c->op;
	uint64_t cap = c->ll->pub.nblk;

	c->lba = scsi_field(c->cdb, op->lba);
	c->nblk = op->nblk.bytes ? scsi_field(c->cdb, op->nblk) : 0;
	if (op->cdb_len == 6) {
		c->lba &= 0x1fffff;
		c->nblk = c->nblk ? c->nblk : 256;
	}
	if (unlikely(c->lba > cap || c->nblk > cap - c->lba)) {
		struct sense_extra x = { .has_info = true, .info = c->lba };
		sense_set(c, SENSE_LBA_RANGE, &x);
		scsi_reply(c, SCSI_CHECK_CONDITION);
		return true;
	}
	c->off = c->lba << c->ll->shift;
	c->len = c->nblk << c->ll->shift;
	if (unlikely((op->flags & SCSI_BLOCKS) && c->len > LIM_TRANSFER)) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, op->nblk.at, -1);
		return true;
	}
	return false;
}

/* Bytes of data-out that the CDB asks for; -1: failed. */
static inline int64_t begin_want(struct scsi_cmd *c)
{
	const struct scsi_op *op = c->op;

	if (unlikely(op->prepare != NULL))
		return op->prepare(c);
	if (!(op->flags & SCSI_OUT))
		return 0;
	return (int64_t)(op->flags & SCSI_BLOCKS ? c->len : scsi_field(c->cdb, op->param));
}

/* --- begin --- */

/* Rows that answer where there is no logical unit: their gates are the CDB's only. */
static void begin_no_lu(struct scsi_cmd *c)
{
	static const struct scsi_op *const tables[] = { spc_ops, NULL };
	static const struct scsi_optab tab = { .tables = tables };
	const struct scsi_op *op = scsi_optab_find(&tab, c->cdb[0], c->cdb[1] & 0x1f);
	struct scsi_slot s = { .op = op };

	c->ll = NULL;
	c->lu = NULL;
	if (!op || !(op->flags & SCSI_ANY_LUN)) {
		scsi_reply_sense(c, SENSE_NO_LUN);
		return;
	}
	c->op = op;
	slot_deny(&s);
	if (cdb_ok(c, &s))
		op->exec(c);
	else
		begin_bad_field(c, op);
}

void scsi_cmd_init(struct scsi_cmd *c, struct loop *l)
{
	c->loop = l;
	c->iov = c->iov_inline;
	c->niov = 0;
	c->iov_max = SCSI_IOV_INLINE;
	c->out_len = c->in_len = 0;
	c->want_in = c->want_out = 0;
	c->status = SCSI_GOOD;
	c->qualifier = 0;
	c->sense_len = 0;
	c->aborted = c->must_abort = c->told = c->faulted = c->send_only = c->fence = c->background = false;
	c->state = SCSI_CMD_IDLE;
	c->op = NULL;
	c->ll = NULL;
	c->freeze = NULL;
	c->off = c->len = c->nblk = 0;
	c->io.depth = 0;
	c->io.pending = 0;
	c->io.parent = NULL;
}

/* The first command of a nexus for this LUN. NULL after having ended the command. */
static struct itl *begin_first(struct scsi_cmd *c, int lun)
{
	struct itl *itl = NULL;
	int r = lun < 0 ? -ENOENT : nexus_itl(c->nexus, (unsigned)lun, &itl);

	if (r == -ENOENT)
		begin_no_lu(c);
	else if (r)
		scsi_reply(c, SCSI_BUSY); /* out of memory: later, perhaps */
	return itl;
}

void scsi_begin(struct scsi_cmd *c)
{
	struct scsi_nexus *n = c->nexus;
	int lun = lun_decode(c->lun);
	struct lu_loop *ll;
	struct itl *itl;
	int64_t want;

	c->state = SCSI_CMD_RUNNING;
	list_add_tail(&n->cmds, &c->in_nexus);
	if (unlikely(lun < 0) || unlikely(!(itl = nexus_peek(n, (unsigned)lun)))) {
		itl = begin_first(c, lun);
		if (!itl)
			return;
	}
	c->ll = ll = itl->ll;
	c->lu = ll->lu;
	c->seq = ll->seq++;
	ll->ordered += c->attr == SCSI_ORDERED;
	list_add_tail(&ll->cmds, &c->in_lu);

	c->op = begin_find(c);
	if (unlikely(!c->op))
		return;
	if (unlikely(itl->nua | ll->pub.alert | (c->attr & SCSI_ACA)) && slow_gates(c, itl))
		return;
	if (c->op->lba.bytes && unlikely(begin_range(c)))
		return;
	want = begin_want(c);
	if (unlikely(want < 0))
		return;
	c->want_out = (uint64_t)want;
	c->out_len = (uint32_t)MIN((uint64_t)want, c->room_out);
	if (unlikely(c->out_len > LIM_TRANSFER)) {
		c->out_len = 0;
		scsi_reply_field(c, SENSE_INVALID_FIELD, c->op->param.at, -1);
		return;
	}
	if (unlikely(c->out_len < (uint64_t)want && c->op->flags & SCSI_BLOCKS && c->out_len & ((1u << ll->shift) - 1))) {
		c->out_len = 0; /* the transport brings part of a block: nothing is written, rather than less than is said */
		scsi_reply_sense(c, SENSE(0x05, 0x0e, 0x03));
		return;
	}
	if (unlikely(c->niov))
		scsi_data_trim(c, c->out_len); /* what came with a command that had to wait for its turn */
	c->state = SCSI_CMD_WAIT_DATA;
}

void scsi_exec(struct scsi_cmd *c)
{
	if (c->state != SCSI_CMD_WAIT_DATA)
		return; /* ended by a gate or a task management function */
	lu_enter(c, c->op->exec);
}

void scsi_fail(struct scsi_cmd *c, uint8_t key, uint8_t asc, uint8_t ascq)
{
	if (c->state != SCSI_CMD_WAIT_DATA)
		return;
	c->state = SCSI_CMD_RUNNING;
	c->len = 0;
	scsi_reply_sense(c, SENSE(key, asc, ascq));
}

/* --- end --- */

static void count(struct lu_loop *ll, const struct scsi_cmd *c)
{
	uint32_t flags = c->op ? c->op->flags : 0;
	unsigned which = 4;

	if (flags & SCSI_BLOCKS) {
		which = flags & SCSI_WRITES ? 1 : 0;
		uint64_t bytes = which ? MIN(c->want_out, c->room_out) : c->in_len;
		__atomic_store_n(&ll->stat[2 + which], ll->stat[2 + which] + bytes, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&ll->stat[which], ll->stat[which] + 1, __ATOMIC_RELAXED);
}

static void bump(struct lu_loop *ll, unsigned which)
{
	__atomic_store_n(&ll->stat[which], ll->stat[which] + 1, __ATOMIC_RELAXED);
}

/* By struct lu_stats: reads, writes, verifies, others. */
static unsigned error_counter(const struct scsi_cmd *c)
{
	uint32_t flags = c->op ? c->op->flags : 0;

	if (flags & SCSI_WRITES)
		return 7;
	if (!(flags & SCSI_PR_READ) || !c->op->nblk.bytes)
		return 9;
	return flags & SCSI_BLOCKS ? 6 : 8;
}

/* What follows from a CHECK CONDITION comes first? */
static bool check_condition(struct scsi_cmd *c)
{
	if (task_set_fault(c))
		return true;
	bump(c->ll, 5);
	uint8_t key = c->sense[0] & 2 ? c->sense[1] & 0x0f : c->sense[2] & 0x0f; /* descriptor: 72h */
	if (key == 3 || key == 4)
		bump(c->ll, error_counter(c));
	return false;
}

/* An aborted command. */
static void end_aborted(struct scsi_cmd *c)
{
	c->in_len = 0; /* the transport may still be receiving into the pages: it frees them */
	c->aborted = !c->told;
	c->status = SCSI_TASK_ABORTED;
	c->sense_len = 0;
	c->want_in = 0;
}

void scsi_end(struct scsi_cmd *c)
{
	struct lu_loop *ll = c->ll;
	struct scsi_nexus *n = c->nexus;

	if (unlikely(c->status == SCSI_CHECK_CONDITION) && ll && check_condition(c))
		return;
	list_del(&c->in_nexus);
	c->state = SCSI_CMD_DONE;
	if (unlikely(c->freeze != NULL)) {
		lu_thaw(c->freeze);
		c->freeze = NULL;
	}
	if (likely(ll != NULL)) {
		list_del(&c->in_lu);
		count(ll, c);
		if (unlikely(ll->ordered)) {
			ll->ordered -= c->attr == SCSI_ORDERED;
			lu_resume(ll);
		}
	}
	if (unlikely(c->must_abort))
		end_aborted(c);
	c->done(c);
	if (ll && unlikely(!list_empty(&ll->waits)))
		lu_wait_check(ll);
	if (unlikely(n->closing))
		nexus_check(n);
}

static void end_task(struct task *t)
{
	scsi_end(container_of(t, struct scsi_cmd, task));
}

void scsi_reply(struct scsi_cmd *c, enum scsi_status status)
{
	c->status = (uint8_t)status;
	c->qualifier = status == SCSI_BUSY ? 1 : 0; /* again in 100 ms */
	c->task.run = end_task;
	loop_defer(c->loop, &c->task);
}

void scsi_reply_sense(struct scsi_cmd *c, uint32_t sense)
{
	sense_set(c, sense, NULL);
	scsi_reply(c, SCSI_CHECK_CONDITION);
}

void scsi_end_sense(struct scsi_cmd *c, uint32_t sense)
{
	sense_set(c, sense, NULL);
	scsi_end(c);
}

void scsi_reply_field(struct scsi_cmd *c, uint32_t sense, unsigned byte, int bit)
{
	struct sense_extra x = { .has_field = true, .in_cdb = sense == SENSE_INVALID_FIELD,
		.byte = (uint16_t)byte, .bit = bit };

	sense_set(c, sense, &x);
	scsi_reply(c, SCSI_CHECK_CONDITION);
}

/* --- commands that change shared state --- */

enum { JOB_STATUS, JOB_SENSE_BYTE }; /* scratch: status or sense; byte of the field + 1 */

void scsi_job_status(struct lu_job *j, enum scsi_status status)
{
	scsi_job_cmd(j)->scratch[JOB_STATUS] = status;
}

void scsi_job_sense(struct lu_job *j, uint32_t sense, int byte)
{
	scsi_job_cmd(j)->scratch[JOB_STATUS] = (uint64_t)sense << 8 | SCSI_CHECK_CONDITION;
	scsi_job_cmd(j)->scratch[JOB_SENSE_BYTE] = (uint64_t)(byte + 1);
}

void scsi_job_end(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	uint32_t sense = (uint32_t)(c->scratch[JOB_STATUS] >> 8);
	struct sense_extra x = { .has_field = c->scratch[JOB_SENSE_BYTE], .bit = -1,
		.in_cdb = sense == SENSE_INVALID_FIELD, .byte = (uint16_t)(c->scratch[JOB_SENSE_BYTE] - 1) };

	c->status = (uint8_t)c->scratch[JOB_STATUS];
	if (c->status == SCSI_CHECK_CONDITION)
		sense_set(c, sense, &x);
	scsi_end(c);
}

void scsi_job(struct scsi_cmd *c, void (*run)(struct lu_job *j))
{
	scsi_job_with(c, run, scsi_job_end);
}

/* What takes the unit's place would not know of the change: the initiator tries again, and finds that one. */
static void job_sealed(struct lu_job *j)
{
	scsi_job_status(j, SCSI_BUSY);
	lu_job_end(j);
}

void scsi_job_with(struct scsi_cmd *c, void (*run)(struct lu_job *j), void (*done)(struct lu_job *j))
{
	c->scratch[JOB_STATUS] = SCSI_GOOD;
	c->scratch[JOB_SENSE_BYTE] = 0;
	lu_job_start_or(&c->job, c->lu, c->loop, run, job_sealed, done);
}

uint64_t scsi_alloc_len(const struct scsi_cmd *c)
{
	return c->op->alloc.bytes ? scsi_field(c->cdb, c->op->alloc) : UINT64_MAX;
}

void scsi_reply_pages(struct scsi_cmd *c, uint64_t len)
{
	c->want_in = MIN(len, scsi_alloc_len(c));
	c->in_len = (uint32_t)MIN(c->want_in, c->room_in);
	scsi_data_trim(c, c->in_len);
	scsi_reply(c, SCSI_GOOD);
}

void scsi_reply_data(struct scsi_cmd *c, const void *buf, size_t len)
{
	int e = scsi_data_alloc(c, (uint32_t)len);

	if (e) {
		sense_from_errno(c, e, false, UINT64_MAX);
		scsi_reply(c, SCSI_CHECK_CONDITION);
		return;
	}
	scsi_data_put(c, 0, buf, len);
	scsi_reply_pages(c, len);
}

/* Collected data of a command that waits is dropped at once; what runs ends by itself. */
void scsi_abort(struct scsi_cmd *c)
{
	if (c->must_abort)
		return;
	c->must_abort = true;
	if (c->state == SCSI_CMD_RUNNING || c->state == SCSI_CMD_ENDING)
		return;
	c->state = SCSI_CMD_RUNNING; /* until its deferred end */
	c->len = 0;
	scsi_reply(c, SCSI_TASK_ABORTED);
}

void scsi_cmd_fini(struct scsi_cmd *c)
{
	scsi_data_free(c);
	c->state = SCSI_CMD_IDLE;
}

/* --- start and end of the whole --- */

struct scsi_loop *scsi_loops[LIM_LOOPS];
struct loop *scsi_control;

int scsi_init(struct loop *control, struct err *e)
{
	scsi_control = control;
	for (unsigned i = 0; i < loop_group.n; i++) {
		struct scsi_loop *sl = calloc(1, sizeof(*sl));
		if (!sl) {
			scsi_fini();
			return err_set(e, -ENOMEM, "out of memory");
		}
		list_init(&sl->nexuses);
		list_init(&sl->wait_free);
		sl->next_id = (uint64_t)(i + 1) << 48;
		sl->copy_budget = LIM_COPY_MEMORY;
		scsi_loops[loop_index(loop_group.loop[i])] = sl;
	}
	return 0;
}

void scsi_copy_budget(uint64_t bytes)
{
	for (unsigned i = 0; i < loop_group.n; i++)
		scsi_loop(loop_group.loop[i])->copy_budget = bytes;
}

void scsi_fini(void)
{
	for (unsigned i = 0; i < LIM_LOOPS; i++) {
		if (!scsi_loops[i])
			continue;
		scsi_loop_free_iov(scsi_loops[i]);
		freeze_pool_free(scsi_loops[i]);
		free(scsi_loops[i]);
		scsi_loops[i] = NULL;
	}
}
