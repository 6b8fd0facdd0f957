/* SPDX-License-Identifier: BSD-3-Clause
 * Linearizability of commands on a few blocks from several loops at once: COMPARE AND WRITE, ORWRITE, WRITE ATOMIC, WRITE and
 * READ behave as if each took effect at one moment between its begin and its end (SBC-4 5.3, 4.27, 4.29): READ and WRITE of
 * several blocks for each block by itself, WRITE ATOMIC for all of them. Short histories of real threads are recorded and searched
 * for such an order (Wing and Gong). */
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "scsi_bed.h"

enum { LOOPS = 3, PER_LOOP = 6, CMDS = LOOPS * PER_LOOP, OPS = 2 * CMDS, BLOCKS = 2, LBA = 63, VALUES = 2, HISTORIES = 400 };

enum kind { READ, WRITE, CAW, OR, ATOMIC, READ_ALL, WRITE_ALL, KINDS };

/* A command in a history. The value of a block is its first byte; the rest repeats it. */
struct event {
	enum kind kind;
	unsigned block;
	uint8_t  arg, expect;       /* what is written; what CAW compares with */
	uint8_t  got[BLOCKS];       /* what was read */
	bool     good, torn;        /* CAW: it was equal; bytes of one block differed */
	uint64_t begin, end;
};

static struct event history[OPS]; /* first the commands, then second blocks */
static unsigned nevents;
static _Atomic uint64_t clock_now;
static _Atomic int running;

struct client {
	struct loop *loop;
	struct scsi_nexus *nexus;
	struct scsi_cmd cmd;
	struct task start;
	uint64_t seed;
	unsigned n;
	struct event *e;
	uint8_t data[1024];
};
static struct client client[LOOPS];

static uint64_t draw(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

static void next(struct client *cl);

/* --- commands --- */

static void choose(struct client *cl, struct event *e)
{
	e->kind = (enum kind)(draw(&cl->seed) % KINDS);
	e->block = (unsigned)(draw(&cl->seed) % BLOCKS);
	e->arg = (uint8_t)(1u << draw(&cl->seed) % VALUES);
	e->expect = (uint8_t)(1u << draw(&cl->seed) % VALUES);
}

static unsigned blocks_of(const struct event *e)
{
	return e->kind >= ATOMIC ? BLOCKS : 1;
}

static void fill_cdb(uint8_t *cdb, const struct event *e)
{
	static const uint8_t op[KINDS] = { 0x88, 0x8a, 0x89, 0x8b, 0x9c, 0x88, 0x8a };

	memset(cdb, 0, 16);
	cdb[0] = op[e->kind];
	put_be64(cdb + 2, LBA + (blocks_of(e) > 1 ? 0 : e->block));
	cdb[13] = (uint8_t)blocks_of(e); /* of all these commands */
}

static uint32_t fill_data(struct client *cl, const struct event *e)
{
	switch (e->kind) {
	case READ: case READ_ALL: return 0;
	case CAW:
		memset(cl->data, e->expect, 512);
		memset(cl->data + 512, e->arg, 512);
		return 1024;
	default:
		memset(cl->data, e->arg, 1024);
		return 512 * blocks_of(e);
	}
}

static void begin(struct client *cl)
{
	struct scsi_cmd *c = &cl->cmd;
	struct event *e = cl->e;
	uint32_t out;

	c->nexus = cl->nexus;
	lun_encode(c->lun, 0);
	fill_cdb(c->cdb, e);
	out = fill_data(cl, e);
	c->cdb_len = 16;
	c->attr = SCSI_SIMPLE;
	c->tag = cl->n;
	c->room_in = out ? 0 : 512 * blocks_of(e);
	c->room_out = out;
	e->begin = atomic_fetch_add(&clock_now, 1);
	scsi_begin(c);
	if (c->state == SCSI_CMD_WAIT_DATA && c->out_len) {
		assert_int_equal(scsi_data_alloc(c, c->out_len), 0);
		scsi_data_put(c, 0, cl->data, c->out_len);
	}
	scsi_exec(c);
}

static void cmd_done(struct scsi_cmd *c)
{
	struct client *cl = container_of(c, struct client, cmd);
	struct event *e = cl->e;

	e->end = atomic_fetch_add(&clock_now, 1);
	e->good = c->status == SCSI_GOOD;
	for (unsigned b = 0; b < c->in_len / 512; b++) {
		scsi_data_get(c, b * 512, cl->data, 512);
		e->got[b] = cl->data[0];
		for (unsigned i = 0; i < 512; i++)
			e->torn |= cl->data[i] != cl->data[0];
	}
	scsi_cmd_fini(c);
	scsi_cmd_init(c, cl->loop);
	next(cl);
}

static void next(struct client *cl)
{
	if (cl->n == PER_LOOP) {
		atomic_fetch_sub(&running, 1);
		return;
	}
	cl->e = &history[(cl - client) * PER_LOOP + cl->n++];
	*cl->e = (struct event){ 0 };
	choose(cl, cl->e);
	begin(cl);
}

static void start(struct task *t)
{
	struct client *cl = container_of(t, struct client, start);

	if (!cl->nexus) {
		cl->nexus = bed_nexus(loop_index(cl->loop), (uint8_t)loop_index(cl->loop));
		scsi_cmd_init(&cl->cmd, cl->loop);
		cl->cmd.done = cmd_done;
		lun_encode(cl->cmd.lun, 0);
	}
	cl->n = 0;
	next(cl);
}

/* --- the search --- */

/* Does the event fit the state? Then the state after it. */
static bool fits(const struct event *e, uint8_t state[BLOCKS])
{
	switch (e->kind) {
	case READ: return !e->torn && e->got[0] == state[e->block];
	case WRITE: state[e->block] = e->arg; return e->good;
	case OR: state[e->block] |= e->arg; return e->good;
	case ATOMIC: memset(state, e->arg, BLOCKS); return e->good;
	case CAW:
		if (e->good != (state[e->block] == e->expect))
			return false;
		if (e->good)
			state[e->block] = e->arg;
		return true;
	default: return false;
	}
}

/* Commands of two blocks that promise nothing between them: as two of one block. */
static void split(void)
{
	nevents = CMDS;
	for (unsigned i = 0; i < CMDS; i++) {
		struct event *e = &history[i], *second;
		if (e->kind < READ_ALL)
			continue;
		second = &history[nevents++];
		e->kind = e->kind == READ_ALL ? READ : WRITE;
		e->block = 0;
		*second = *e;
		second->block = 1;
		second->got[0] = e->got[1];
	}
}

/* An event may be next if none that is left ended before it began. */
static bool may_be_next(uint64_t done, unsigned i)
{
	for (unsigned k = 0; k < nevents; k++)
		if (!(done & 1ull << k) && k != i && history[k].end < history[i].begin)
			return false;
	return true;
}

enum { SEEN = 1 << 16 };
static struct { uint64_t done; uint8_t state[BLOCKS]; bool used; } seen[SEEN];

/* Was this point looked at before? Then it leads nowhere. */
static bool been_here(uint64_t done, const uint8_t *state)
{
	uint32_t at = (uint32_t)((done * 0x9e3779b97f4a7c15ull >> 40) ^ (uint64_t)(state[0] * 31 + state[1] * 131)) % SEEN;

	for (unsigned probes = 0; probes < 64; probes++, at = (at + 1) % SEEN) {
		if (!seen[at].used) {
			seen[at].used = true;
			seen[at].done = done;
			memcpy(seen[at].state, state, BLOCKS);
			return false;
		}
		if (seen[at].done == done && !memcmp(seen[at].state, state, BLOCKS))
			return true;
	}
	return false;
}

static bool search(uint64_t done, const uint8_t *state)
{
	if (done == (1ull << nevents) - 1)
		return true;
	if (been_here(done, state))
		return false;
	for (unsigned i = 0; i < nevents; i++) {
		uint8_t after[BLOCKS];
		memcpy(after, state, BLOCKS);
		if (!(done & 1ull << i) && may_be_next(done, i) && fits(&history[i], after) && search(done | 1ull << i, after))
			return true;
	}
	return false;
}

static bool linearizable(const uint8_t *state)
{
	memset(seen, 0, sizeof(seen));
	return search(0, state);
}

static void print_history(void)
{
	static const char *const name[] = { "READ", "WRITE", "CAW", "OR", "ATOMIC" };

	for (unsigned i = 0; i < nevents; i++) {
		const struct event *e = &history[i];
		print_message("%3llu-%3llu %s block %u arg %02x expect %02x got %02x %02x good %d torn %d\n",
			(unsigned long long)e->begin, (unsigned long long)e->end, name[e->kind], e->block,
			e->arg, e->expect, e->got[0], e->got[1], e->good, e->torn);
	}
}

/* Proves that the search sees what is wrong: a stale read, a lost OR, a CAW that should have missed. */
static void test_search(void **state)
{
	uint8_t zero[BLOCKS] = { 0 };

	nevents = CMDS;
	for (unsigned i = 0; i < CMDS; i++) /* one after the other */
		history[i] = (struct event){ .kind = READ, .good = true, .begin = 2 * i, .end = 2 * i + 1 };
	assert_true(linearizable(zero));
	history[3] = (struct event){ .kind = WRITE, .arg = 4, .good = true, .begin = 6, .end = 7 };
	assert_false(linearizable(zero)); /* the reads behind it are stale */
	history[3].end = 2 * CMDS;
	assert_true(linearizable(zero)); /* it may come last */
	history[3] = (struct event){ .kind = CAW, .expect = 0, .arg = 0, .good = false, .begin = 6, .end = 7 };
	assert_false(linearizable(zero));
	history[3].good = true;
	assert_true(linearizable(zero));
	history[4] = (struct event){ .kind = OR, .arg = 1, .good = true, .begin = 8, .end = 9 };
	history[5] = (struct event){ .kind = READ, .got = { 1 }, .begin = 10, .end = 11 };
	assert_false(linearizable(zero));
	for (unsigned i = 6; i < CMDS; i++)
		history[i].got[0] = 1;
	assert_true(linearizable(zero));
	history[5].torn = true;
	assert_false(linearizable(zero));
}

static void *run_loop(void *l)
{
	loop_run(l);
	return NULL;
}

static void one_history(unsigned seed)
{
	atomic_store(&running, LOOPS);
	for (unsigned i = 0; i < LOOPS; i++) {
		client[i].seed = seed * 7919u + i * 104729u;
		client[i].start.run = start;
		loop_post(client[i].loop, &client[i].start);
	}
	while (atomic_load(&running))
		usleep(50);
}

/* What the blocks hold when nothing is under way: every read of the next history begins there. */
static void settle(struct blk *b, struct loop *l, uint8_t *to)
{
	uint8_t data[512 * BLOCKS];
	struct iovec v = { data, sizeof(data) };
	struct blk_req r = { .op = BLK_READ, .off = LBA * 512, .len = sizeof(data), .iov = &v, .niov = 1 };

	assert_int_equal(blk_sync(l, b, &r), 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		to[i] = data[i * 512];
}

static void histories(struct blk *b)
{
	pthread_t thread[LOOPS];
	uint8_t state[BLOCKS];

	struct lu *lu = bed_lu(NULL, b);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	memset(client, 0, sizeof(client));
	for (unsigned i = 0; i < LOOPS; i++) {
		client[i].loop = loop_group.loop[i];
		pthread_create(&thread[i], NULL, run_loop, client[i].loop);
	}
	one_history(0); /* takes the unit attentions away */
	for (unsigned k = 1; k <= HISTORIES; k++) {
		settle(b, bed.control, state);
		one_history(k);
		split();
		if (linearizable(state))
			continue;
		print_message("begins with %02x %02x\n", state[0], state[1]);
		print_history();
		fail_msg("history %u has no order", k);
	}
	for (unsigned i = 0; i < LOOPS; i++) {
		loop_stop(client[i].loop);
		pthread_join(thread[i], NULL);
	}
	for (unsigned i = 0; i < LOOPS; i++)
		bed_nexus_close(client[i].nexus);
	bed_map(NULL, 0);
	bed_close(lu);
	bed_stop();
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A filter that holds each request for up to 200 us, with the loop awake, so that much is under way at once. */
static void jitter_task(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);

	if (now_ns() < io->scratch[1])
		loop_post(io->loop, &io->task);
	else
		blk_pass((struct blk *)(uintptr_t)io->scratch[0], io);
}

static void jitter_submit(struct blk *b, struct blk_io *io)
{
	static _Thread_local uint64_t seed = 1;

	io->scratch[0] = (uintptr_t)b;
	io->scratch[1] = now_ns() + draw(&seed) % 200000;
	io->task.run = jitter_task;
	loop_post(io->loop, &io->task);
}

static void split_done(struct blk_io *io, void *ctx)
{
	free(ctx);
	blk_done(io, io->status);
}

/* Over it, one that writes block by block: nothing below makes a write of two whole by chance. */
static void split_submit(struct blk *b, struct blk_io *io)
{
	const struct blk_req *r = &io->req;
	struct iovec *v;

	if (r->op != BLK_WRITE || r->len != 512 * BLOCKS) {
		blk_pass(b, io);
		return;
	}
	v = calloc(BLOCKS, sizeof(*v));
	blk_push(io, split_done, v);
	for (unsigned i = 0; i < BLOCKS; i++) {
		v[i] = (struct iovec){ (uint8_t *)r->iov->iov_base + i * 512, 512 };
		blk_fork(io, b->child[0], &(struct blk_req){ .op = BLK_WRITE, .off = r->off + i * 512, .len = 512,
			.iov = &v[i], .niov = 1 });
	}
}

static struct blk *over(const struct blk_ops *ops, struct blk *below)
{
	struct err e = { 0 };
	struct blk *b;

	assert_int_equal(blk_open(&b, ops, NULL, below, &e), 0);
	return b;
}

static struct blk *slow(struct blk *below)
{
	static const struct blk_ops jitter = { .name = "jitter", .filter = true, .submit = jitter_submit };
	static const struct blk_ops split = { .name = "split", .filter = true, .submit = split_submit };

	return over(&split, over(&jitter, below));
}

/* On a RAM disk, which every loop uses at once. */
static void test_ram(void **state)
{
	bed_start(LOOPS);
	histories(bed_ram(1 << 20));
}

/* The same, slower: commands of all loops are under way at the same time. */
static void test_slow(void **state)
{
	bed_start(LOOPS);
	histories(slow(bed_ram(1 << 20)));
}

/* On a disk with checksums, whose requests go to one loop. */
static void test_integrity(void **state)
{
	struct err e = { 0 };
	struct blk *b;

	bed_start(LOOPS);
	assert_int_equal(integrity_open_over(&b, bed_ram(1 << 20), bed_ram(4 << 20), 512, &e), 0);
	histories(b);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_search),
		cmocka_unit_test(test_ram),
		cmocka_unit_test(test_slow),
		cmocka_unit_test(test_integrity),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
