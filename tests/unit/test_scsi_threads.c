/* SPDX-License-Identifier: BSD-3-Clause
 * Loops that run on threads of their own, as in the server: COMPARE AND WRITE as a counter that all of them add to,
 * between writes, reads, resets and reservations. The value of the test is that nothing is lost, and what the
 * thread sanitizer says of it. */
#include <pthread.h>
#include <unistd.h>

#include "scsi_bed.h"

#define BYTES(...) ((const uint8_t[16]){ __VA_ARGS__ })

enum { LOOPS = 3, PER_LOOP = 300, COUNTER_LBA = 9, NOISE_LBA = 100 };

/* A client of one loop: read the counter, add one by COMPARE AND WRITE, again until it has won PER_LOOP times. */
struct client {
	struct loop *loop;
	struct scsi_nexus *nexus;
	struct scsi_cmd cmd;
	struct scsi_tmf tmf;
	struct task start;
	uint8_t data[1024];
	unsigned won, lost, step;
	bool busy_tmf;
	_Atomic int *running;
};

static void next(struct client *cl);

static void tmf_done(struct scsi_tmf *t)
{
	struct client *cl = container_of(t, struct client, tmf);

	cl->busy_tmf = false;
	next(cl);
}

static void begin(struct client *cl, const uint8_t *cdb, uint32_t in, uint32_t out)
{
	struct scsi_cmd *c = &cl->cmd;

	c->nexus = cl->nexus;
	lun_encode(c->lun, 0);
	memset(c->cdb, 0, sizeof(c->cdb));
	memcpy(c->cdb, cdb, 16);
	c->cdb_len = 16;
	c->attr = cl->step % 7 == 3 ? SCSI_ORDERED : SCSI_SIMPLE;
	c->tag = cl->step;
	c->room_in = in;
	c->room_out = out;
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
	bool good = !c->aborted && c->status == SCSI_GOOD;

	if (c->cdb[0] == 0x28 && good && c->in_len)
		scsi_data_get(c, 0, cl->data, 512);
	if (c->cdb[0] == 0x89) {
		cl->won += good;
		cl->lost += !good;
	}
	scsi_cmd_fini(c);
	scsi_cmd_init(c, cl->loop);
	next(cl);
}

/* What is not the counter: it must neither be lost in the crowd nor hurt it. */
static bool noise(struct client *cl)
{
	switch (cl->step % 23) {
	case 5: begin(cl, BYTES(0x2a, 0, 0, 0, 0, NOISE_LBA, 0, 0, 2), 0, 1024); return true;
	case 8: begin(cl, BYTES(0x28, 0, 0, 0, 0, 8, 0, 0, 3), 1536, 0); return true;
	case 13: begin(cl, BYTES(0x41, 0, 0, 0, 0, NOISE_LBA, 0, 0, 9), 0, 512); return true;
	case 17: begin(cl, BYTES(0x1a, 0, 0x3f, 0, 255), 255, 0); return true;
	case 19: begin(cl, BYTES(0x35), 0, 0); return true;
	default: return false;
	}
}

static void reset(struct client *cl)
{
	cl->tmf = (struct scsi_tmf){ .kind = cl->step % 2 ? SCSI_LU_RESET : SCSI_ABORT_TASK_SET, .nexus = cl->nexus,
		.done = tmf_done };
	lun_encode(cl->tmf.lun, 0);
	scsi_tmf(&cl->tmf);
}

static void next(struct client *cl)
{
	if (cl->won == PER_LOOP) {
		atomic_fetch_sub(cl->running, 1);
		return;
	}
	if (++cl->step % 101 == 0) {
		reset(cl);
	} else if (!noise(cl) && cl->step % 2) {
		begin(cl, BYTES(0x28, 0, 0, 0, 0, COUNTER_LBA, 0, 0, 1), 512, 0);
	} else if (cl->cmd.state == SCSI_CMD_IDLE) {
		memcpy(cl->data + 512, cl->data, 512);
		put_be64(cl->data + 512, be64(cl->data) + 1);
		begin(cl, BYTES(0x89, 0, 0, 0, 0, 0, 0, 0, 0, COUNTER_LBA, 0, 0, 0, 1), 0, 1024);
	}
}

static void start(struct task *t)
{
	struct client *cl = container_of(t, struct client, start);

	cl->nexus = bed_nexus(loop_index(cl->loop), (uint8_t)loop_index(cl->loop));
	scsi_cmd_init(&cl->cmd, cl->loop);
	cl->cmd.done = cmd_done;
	next(cl);
}

static void *run_loop(void *l)
{
	loop_run(l);
	return NULL;
}

/* Every COMPARE AND WRITE that succeeded added one to what it compared with; SBC-4 5.3, with loops in parallel. */
static void counter(void **state)
{
	static struct client client[LOOPS];
	pthread_t thread[LOOPS];
	_Atomic int running = LOOPS;

	bed_start(LOOPS);
	struct lu *lu = bed_lu(NULL, bed_ram(1 << 20));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	for (unsigned i = 0; i < LOOPS; i++) {
		client[i] = (struct client){ .loop = loop_group.loop[i], .start.run = start, .running = &running };
		pthread_create(&thread[i], NULL, run_loop, client[i].loop);
		loop_post(client[i].loop, &client[i].start);
	}
	while (atomic_load(&running))
		usleep(1000);
	for (unsigned i = 0; i < LOOPS; i++) {
		loop_stop(client[i].loop);
		pthread_join(thread[i], NULL);
	}
	bed_settle();
	bed_ready(client[0].nexus, 0);
	struct answer a = bed_rw(client[0].nexus, 0, false, COUNTER_LBA, 1, NULL, 512);
	assert_good(a);
	assert_int_equal(be64(a.data), LOOPS * PER_LOOP);
	for (unsigned i = 0; i < LOOPS; i++)
		bed_nexus_close(client[i].nexus);
	bed_map(NULL, 0);
	bed_close(lu);
	assert_int_equal(page_used_bytes(), 0);
	bed_stop();
}

/* --- copies, tokens and what writes below them --- */

enum { SLOT = 128, SLOTS = 48, SLOT_BYTES = SLOT * 512, COPY_STEPS = 600 }; /* a slot: blocks that always have one value */

struct copier {
	struct client cl; /* loop, nexus, command; its data is not used */
	uint64_t rng;
	unsigned step, copied, used, cancelled, others;
	bool has_token;
	uint8_t token[512], data[SLOT_BYTES];
};

static void copier_next(struct copier *co);

static unsigned copier_rnd(struct copier *co, unsigned below)
{
	co->rng = co->rng * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(co->rng >> 33) % below;
}

static void copier_tmf_done(struct scsi_tmf *t)
{
	copier_next(container_of(container_of(t, struct client, tmf), struct copier, cl));
}

static void copier_done(struct scsi_cmd *c)
{
	struct copier *co = container_of(container_of(c, struct client, cmd), struct copier, cl);
	bool good = !c->aborted && c->status == SCSI_GOOD, use = c->cdb[0] == 0x83 && c->cdb[1] == 0x11;

	if (c->cdb[0] == 0x84 && good && c->in_len == 550) {
		scsi_data_get(c, 38, co->token, 512);
		co->has_token = true;
	}
	co->copied += good && c->cdb[0] == 0x83 && c->cdb[1] == 1;
	co->used += good && use;
	co->cancelled += use && !good && !c->aborted && c->sense[12] == 0x23;
	co->others += use && !good && !c->aborted && c->sense[12] != 0x23 && (c->sense[2] & 15) != 6;
	scsi_cmd_fini(c);
	scsi_cmd_init(c, co->cl.loop);
	copier_next(co);
}

static void copier_begin(struct copier *co, const uint8_t *cdb, uint32_t in, uint32_t out)
{
	struct scsi_cmd *c = &co->cl.cmd;

	c->nexus = co->cl.nexus;
	lun_encode(c->lun, 0);
	memset(c->cdb, 0, sizeof(c->cdb));
	memcpy(c->cdb, cdb, 16);
	c->cdb_len = 16;
	c->attr = SCSI_SIMPLE;
	c->tag = co->step;
	c->room_in = in;
	c->room_out = out;
	scsi_begin(c);
	if (c->state == SCSI_CMD_WAIT_DATA && c->out_len) {
		assert_int_equal(scsi_data_alloc(c, c->out_len), 0);
		scsi_data_put(c, 0, co->data, c->out_len);
	}
	scsi_exec(c);
}

/* A plain write only goes to slots of its loop: two at once may interleave, which copies must not. */
static void copier_write(struct copier *co)
{
	unsigned slot = copier_rnd(co, SLOTS / LOOPS) * LOOPS + loop_index(co->cl.loop);
	uint8_t cdb[16] = { 0x8a };

	memset(co->data, (int)copier_rnd(co, 256), SLOT_BYTES);
	put_be64(cdb + 2, slot * SLOT);
	put_be32(cdb + 10, SLOT);
	copier_begin(co, cdb, 0, SLOT_BYTES);
}

/* EXTENDED COPY (LID4) within the unit, in the background now and then. */
static void copier_copy(struct copier *co)
{
	uint8_t *p = co->data;

	memset(p, 0, 76);
	p[0] = 1;
	p[3] = 32;
	p[15] = copier_rnd(co, 4) == 0;
	p[16] = 0xff;
	put_be32(p + 20, co->step);
	p[45] = 28;
	p[48] = 2;
	p[51] = 24;
	put_be32(p + 52, UINT32_MAX); /* this unit, both */
	put_be16(p + 58, SLOT);
	put_be64(p + 60, copier_rnd(co, SLOTS) * SLOT);
	put_be64(p + 68, copier_rnd(co, SLOTS) * SLOT);
	if (be64(p + 60) == be64(p + 68))
		put_be16(p + 58, 0);
	copier_begin(co, BYTES(0x83, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 76), 0, 76);
}

static void copier_populate(struct copier *co)
{
	uint8_t *p = co->data;

	memset(p, 0, 32);
	p[1] = 30;
	p[15] = 16;
	put_be64(p + 16, copier_rnd(co, SLOTS) * SLOT);
	put_be32(p + 24, SLOT);
	co->has_token = false;
	copier_begin(co, BYTES(0x83, 0x10, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32), 0, 32);
}

static void copier_use(struct copier *co)
{
	uint8_t *p = co->data;

	memset(p, 0, 552);
	put_be16(p, 550);
	memcpy(p + 16, co->token, 512);
	p[535] = 16;
	put_be64(p + 536, copier_rnd(co, SLOTS) * SLOT);
	put_be32(p + 544, SLOT);
	copier_begin(co, BYTES(0x83, 0x11, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 2, 0x28), 0, 552);
}

static void copier_reset(struct copier *co)
{
	co->cl.tmf = (struct scsi_tmf){ .kind = co->step % 2 ? SCSI_LU_RESET : SCSI_ABORT_TASK_SET, .nexus = co->cl.nexus,
		.done = copier_tmf_done };
	lun_encode(co->cl.tmf.lun, 0);
	scsi_tmf(&co->cl.tmf);
}

static void copier_next(struct copier *co)
{
	unsigned what = copier_rnd(co, 100);

	if (++co->step == COPY_STEPS)
		atomic_fetch_sub(co->cl.running, 1);
	else if (what < 3)
		copier_reset(co);
	else if (what < 20)
		copier_write(co);
	else if (what < 50)
		copier_copy(co);
	else if (what < 60)
		copier_populate(co);
	else if (what < 70)
		copier_begin(co, BYTES(0x84, 7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 4, 0), 1024, 0);
	else if (what < 95 && co->has_token)
		copier_use(co);
	else
		copier_begin(co, BYTES(0x28, 0, 0, 0, 0, 0, 0, 0, SLOT), SLOT_BYTES, 0);
}

static void copier_start(struct task *t)
{
	struct copier *co = container_of(container_of(t, struct client, start), struct copier, cl);

	co->cl.nexus = bed_nexus(loop_index(co->cl.loop), (uint8_t)loop_index(co->cl.loop));
	scsi_cmd_init(&co->cl.cmd, co->cl.loop);
	co->cl.cmd.done = copier_done;
	copier_next(co);
}

/* Copies and uses of tokens on three loops, between writes, resets and each other: each reads a slot that nobody writes
 * meanwhile and writes one whole, so at the end all blocks of a slot are alike; docs/design/0011. */
static void copies(void **state)
{
	static struct copier co[LOOPS];
	pthread_t thread[LOOPS];
	_Atomic int running = LOOPS;
	unsigned copied = 0, used = 0, cancelled = 0;

	bed_start(LOOPS);
	struct lu *lu = bed_lu(NULL, bed_ram(SLOTS * SLOT_BYTES));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	for (unsigned i = 0; i < LOOPS; i++) {
		memset(&co[i], 0, sizeof(co[i]));
		co[i].cl = (struct client){ .loop = loop_group.loop[i], .start.run = copier_start, .running = &running };
		co[i].rng = i + 1;
		pthread_create(&thread[i], NULL, run_loop, co[i].cl.loop);
		loop_post(co[i].cl.loop, &co[i].cl.start);
	}
	while (atomic_load(&running))
		usleep(1000);
	for (unsigned i = 0; i < LOOPS; i++) {
		loop_stop(co[i].cl.loop);
		pthread_join(thread[i], NULL);
		copied += co[i].copied;
		used += co[i].used;
		cancelled += co[i].cancelled;
		assert_int_equal(co[i].others, 0);
	}
	bed_settle();
	assert_true(copied && used && cancelled);
	bed_ready(co[0].cl.nexus, 0);
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		struct answer a = bed_rw(co[0].cl.nexus, 0, false, slot * SLOT, SLOT, NULL, SLOT_BYTES);
		assert_good(a);
		assert_memory_equal(a.data, a.data + 512, SLOT_BYTES - 512);
	}
	for (unsigned i = 0; i < LOOPS; i++)
		bed_nexus_close(co[i].cl.nexus);
	bed_map(NULL, 0);
	bed_close(lu);
	assert_int_equal(page_used_bytes(), 0);
	bed_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(counter), cmocka_unit_test(copies) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
