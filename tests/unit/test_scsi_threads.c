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

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(counter) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
