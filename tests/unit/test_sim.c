/* SPDX-License-Identifier: BSD-3-Clause
 * The simulated world itself: what it promises to the tests that stand on it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "loop/round.h"
#include "loop/sim.h"

enum { LOOPS = 3, DISK = 64 << 10, SECTOR = 512, PORT = 3260, FLOOD = 200000 };

static struct sim *world;
static struct loop *loop[LOOPS];

static void world_begin(uint64_t seed)
{
	struct err e = { 0 };
	world = sim_new(seed);
	for (unsigned i = 0; i < LOOPS; i++) {
		loop[i] = loop_new(&loop_sim, i, &e);
		assert_non_null(loop[i]);
	}
}

static void world_end(void)
{
	for (unsigned i = 0; i < LOOPS; i++)
		loop_free(loop[i]);
	sim_free(world);
}

static int setup(void **state)
{
	struct err e = { 0 };
	return page_arena_init(16 << 20, &e);
}

static int teardown(void **state)
{
	page_arena_fini();
	return 0;
}

struct wait {
	struct op op;
	struct iovec iov;
	bool done;
};

static void wait_done(struct op *op)
{
	struct wait *w = container_of(op, struct wait, op);
	assert_ptr_equal(loop_current(), op->loop);
	assert_false(w->done);
	w->done = true;
}

static bool is_done(void *ctx)
{
	return ((struct wait *)ctx)->done;
}

static void begin(struct wait *w, struct loop *l, enum op_kind kind, int fd, void *p, size_t n, uint64_t off)
{
	*w = (struct wait){ .iov = { p, n } };
	w->op = (struct op){ .kind = kind, .fd = fd, .iov = &w->iov, .niov = 1, .off = off, .len = n, .done = wait_done };
	loop_submit(l, &w->op);
	assert_false(w->done);
}

static int end(struct wait *w)
{
	assert_true(sim_run_until(is_done, w, sim_now_ns() + 10 * SIM_S));
	return w->op.res;
}

static int run(enum op_kind kind, int fd, void *p, size_t n, uint64_t off)
{
	struct wait w;
	begin(&w, loop[0], kind, fd, p, n, off);
	return end(&w);
}

/* Reads or writes in full, however short the pieces. */
static void whole(enum op_kind kind, int fd, void *p, size_t n, uint64_t off)
{
	for (size_t at = 0; at < n;) {
		int res = run(kind, fd, (char *)p + at, n - at, off + at);
		assert_true(res > 0);
		at += (size_t)res;
	}
}

static void connect_pair(struct loop *a, struct loop *b, int listener, int fd[2])
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct wait acc, con = { .op = { .kind = OP_CONNECT, .addr = (struct sockaddr *)&in, .addrlen = sizeof(in),
		.done = wait_done } };
	begin(&acc, b, OP_ACCEPT, listener, NULL, 0, 0);
	con.op.fd = fd[0] = sim_socket();
	loop_submit(a, &con.op);
	assert_int_equal(end(&con), 0);
	fd[1] = end(&acc);
	assert_true(loop_sim_fd(fd[1]));
}

/* --- streams --- */

struct flow {
	struct op op;
	struct iovec iov;
	char *data;
	size_t at;
	bool done;
};

static void flow_next(struct loop *l, struct flow *f)
{
	f->iov = (struct iovec){ f->data + f->at, MIN((size_t)FLOOD - f->at, (size_t)30000) };
	f->op.iov = &f->iov;
	f->op.niov = 1;
	loop_submit(l, &f->op);
}

static void flow_done(struct op *op)
{
	struct flow *f = container_of(op, struct flow, op);
	assert_true(op->res > 0);
	f->at += (size_t)op->res;
	f->done = f->at == FLOOD;
	if (!f->done)
		flow_next(op->loop, f);
}

static bool flow_is_done(void *ctx)
{
	return ((struct flow *)ctx)->done;
}

static uint64_t stream_world(uint64_t seed)
{
	int fd[2];
	world_begin(seed);
	connect_pair(loop[0], loop[1], sim_listen(PORT), fd);
	struct flow tx = { .op = { .kind = OP_SEND, .fd = fd[0], .done = flow_done }, .data = malloc(FLOOD) };
	struct flow rx = { .op = { .kind = OP_RECV, .fd = fd[1], .done = flow_done }, .data = malloc(FLOOD) };
	for (size_t i = 0; i < FLOOD; i++)
		tx.data[i] = (char)(i * 31 + i / 997);
	flow_next(loop[0], &tx);
	flow_next(loop[1], &rx);
	assert_true(sim_run_until(flow_is_done, &rx, 100 * SIM_S));
	assert_memory_equal(tx.data, rx.data, FLOOD);
	free(tx.data);
	free(rx.data);
	loop_forget(loop[0], fd[0]);
	struct wait w;
	char c;
	begin(&w, loop[1], OP_RECV, fd[1], &c, 1, 0);
	assert_int_equal(end(&w), 0); /* and then the end */
	uint64_t hash = sim_hash();
	world_end();
	return hash;
}

/* Bytes arrive complete and in order for any seed, and a seed repeats exactly while others differ. */
static void test_stream_and_seeds(void **state)
{
	uint64_t first[8];
	for (uint64_t seed = 0; seed < ARRAY_LEN(first); seed++) {
		first[seed] = stream_world(seed);
		for (uint64_t i = 0; i < seed; i++)
			assert_true(first[i] != first[seed]);
	}
	for (uint64_t seed = 0; seed < ARRAY_LEN(first); seed++)
		assert_true(stream_world(seed) == first[seed]);
}

/* A reset ends what waits at both ends; a send afterwards is refused. */
static void test_reset(void **state)
{
	int fd[2];
	char c[4] = "abc";
	struct wait a, b;
	world_begin(1);
	connect_pair(loop[0], loop[1], sim_listen(PORT), fd);
	begin(&a, loop[0], OP_RECV, fd[0], c, 4, 0);
	begin(&b, loop[1], OP_RECV, fd[1], c, 4, 0);
	sim_cut(fd[1], SIM_RESET);
	assert_int_equal(end(&a), -ECONNRESET);
	assert_int_equal(end(&b), -ECONNRESET);
	int res = run(OP_SEND, fd[0], c, 4, 0);
	assert_true(res == -EPIPE || res == -ECONNRESET);
	world_end();
}

/* A half-closed stream gives its bytes, then its end, and still carries the other way. */
static void test_half_close(void **state)
{
	int fd[2];
	char c[4] = "abc";
	world_begin(2);
	connect_pair(loop[0], loop[0], sim_listen(PORT), fd);
	whole(OP_SEND, fd[0], c, 4, 0);
	sim_cut(fd[0], SIM_FIN);
	whole(OP_RECV, fd[1], c, 4, 0);
	assert_int_equal(run(OP_RECV, fd[1], c, 4, 0), 0);
	whole(OP_SEND, fd[1], c, 4, 0);
	whole(OP_RECV, fd[0], c, 4, 0);
	world_end();
}

/* In a silence nothing arrives and nobody is told; the waiting operation can be cancelled. */
static void test_silence(void **state)
{
	int fd[2];
	char c[4];
	struct wait w;
	world_begin(3);
	connect_pair(loop[0], loop[1], sim_listen(PORT), fd);
	sim_cut(fd[0], SIM_SILENCE);
	assert_int_equal(run(OP_SEND, fd[1], c, 1, 0), 1);
	begin(&w, loop[0], OP_RECV, fd[0], c, 4, 0);
	assert_false(sim_run_until(is_done, &w, sim_now_ns() + SIM_S));
	loop_cancel(loop[0], &w.op);
	assert_false(w.done);
	assert_int_equal(end(&w), -ECANCELED);
	world_end();
}

/* Nobody listens: the connection is refused. When the listener dies, its connections are reset. */
static void test_kill_listener(void **state)
{
	int fd[2], l;
	char c;
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	world_begin(4);
	l = sim_listen(PORT);
	connect_pair(loop[0], loop[1], l, fd);
	sim_kill_listener(l);
	assert_int_equal(run(OP_RECV, fd[0], &c, 1, 0), -ECONNRESET);
	struct wait con = { .op = { .kind = OP_CONNECT, .fd = sim_socket(), .addr = (struct sockaddr *)&in,
		.addrlen = sizeof(in), .done = wait_done } };
	loop_submit(loop[0], &con.op);
	assert_int_equal(end(&con), -ECONNREFUSED);
	world_end();
}

/* --- disks --- */

static void fill(char *p, char c)
{
	memset(p, c, DISK);
}

/* Counts sectors that hold only a and only b; every sector must be one or the other. */
static void count(const char *p, char a, char b, int *na, int *nb)
{
	*na = *nb = 0;
	for (int s = 0; s < DISK / SECTOR; s++) {
		char first = p[s * SECTOR];
		for (int i = 1; i < SECTOR; i++)
			assert_int_equal(p[s * SECTOR + i], first);
		assert_true(first == a || first == b);
		*(first == a ? na : nb) += 1;
	}
}

/* A power cut loses some of what was not synced, by whole sectors, and nothing that was; a killed process loses
 * nothing that was written. */
static void test_power_cut(void **state)
{
	static char d[DISK];
	int old = 0, new = 0;
	for (uint64_t seed = 0; seed < 10; seed++) {
		world_begin(seed);
		int fd = sim_disk_new(DISK), a, b;
		fill(d, 'a');
		whole(OP_WRITEV, fd, d, DISK, 0);
		assert_int_equal(run(OP_FSYNC, fd, NULL, 0, 0), 0);
		fill(d, 'b');
		whole(OP_WRITEV, fd, d, DISK, 0);
		fd = sim_disk_crash(fd, false);
		count(sim_disk_bytes(fd), 'a', 'b', &a, &b);
		assert_int_equal(a, 0);
		fd = sim_disk_crash(fd, true);
		count(sim_disk_bytes(fd), 'a', 'b', &a, &b);
		old += a;
		new += b;
		whole(OP_READV, fd, d, DISK, 0);
		assert_memory_equal(d, sim_disk_bytes(fd), DISK);
		world_end();
	}
	assert_true(old > 0 && new > 0);
}

/* A sync covers what was written before it began and not what was written meanwhile; OP_DSYNC covers its write. */
static void test_what_sync_covers(void **state)
{
	static char d[DISK];
	int a, b, lost = 0;
	for (uint64_t seed = 0; seed < 10; seed++) {
		world_begin(seed);
		int fd = sim_disk_new(DISK);
		struct sim_disk_conf slow = { .latency_ns = SIM_S };
		struct wait sync;
		fill(d, 'a');
		whole(OP_WRITEV, fd, d, DISK, 0);
		sim_disk_conf(fd, &slow);
		begin(&sync, loop[1], OP_FSYNC, fd, NULL, 0, 0);
		sim_disk_conf(fd, &(struct sim_disk_conf){ 0 });
		fill(d, 'b');
		whole(OP_WRITEV, fd, d, DISK, 0);
		assert_int_equal(end(&sync), 0);
		fd = sim_disk_crash(fd, true);
		count(sim_disk_bytes(fd), 'a', 'b', &a, &b);
		lost += a;
		struct wait w = { .iov = { d, DISK } };
		sim_disk_conf(fd, &(struct sim_disk_conf){ 0 });
		w.op = (struct op){ .kind = OP_WRITEV, .flags = OP_DSYNC, .fd = fd, .iov = &w.iov, .niov = 1,
			.done = wait_done };
		loop_submit(loop[0], &w.op);
		assert_int_equal(end(&w), DISK);
		count(sim_disk_bytes(sim_disk_crash(fd, true)), 'a', 'b', &a, &b);
		assert_int_equal(a, 0);
		world_end();
	}
	assert_true(lost > 0);
}

/* After a failed sync the data is gone although reads still show it and later syncs succeed. */
static void test_sync_error(void **state)
{
	static char d[DISK];
	int a, b;
	world_begin(5);
	int fd = sim_disk_new(DISK);
	sim_disk_conf(fd, &(struct sim_disk_conf){ .fsync_eio_pct = 100 });
	fill(d, 'b');
	whole(OP_WRITEV, fd, d, DISK, 0);
	assert_int_equal(run(OP_FSYNC, fd, NULL, 0, 0), -EIO);
	sim_disk_conf(fd, &(struct sim_disk_conf){ 0 });
	assert_int_equal(run(OP_FSYNC, fd, NULL, 0, 0), 0);
	whole(OP_READV, fd, d, DISK, 0);
	count(d, 0, 'b', &a, &b);
	assert_int_equal(a, 0);
	count(sim_disk_bytes(sim_disk_crash(fd, true)), 0, 'b', &a, &b);
	assert_int_equal(b, 0);
	world_end();
}

/* Errors and hangs are what the test asked for; a punched range reads as zeros. */
static void test_disk_faults(void **state)
{
	char d[2048];
	struct wait w;
	world_begin(6);
	int fd = sim_disk_new(DISK);
	memset(d, 'x', sizeof(d));
	sim_disk_conf(fd, &(struct sim_disk_conf){ .enospc_pct = 100, .read_eio_pct = 100 });
	assert_int_equal(run(OP_WRITEV, fd, d, 2048, 0), -ENOSPC);
	assert_int_equal(run(OP_READV, fd, d, 2048, 0), -EIO);
	sim_disk_conf(fd, &(struct sim_disk_conf){ .hang = true });
	begin(&w, loop[0], OP_WRITEV, fd, d, 2048, 0);
	assert_false(sim_run_until(is_done, &w, sim_now_ns() + 100 * SIM_S));
	sim_disk_conf(fd, &(struct sim_disk_conf){ 0 });
	assert_int_equal(end(&w), 2048);
	assert_int_equal(run(OP_PUNCH, fd, NULL, 512, 512), 0);
	assert_int_equal(run(OP_READV, fd, d, 2048, 0), 2048);
	assert_int_equal(d[511], 'x');
	assert_int_equal(d[512], 0);
	assert_int_equal(d[1024], 'x');
	assert_int_equal(run(OP_READV, fd, d, 512, DISK), 0);
	world_end();
}

/* --- loops --- */

static int fired;

static void fire(struct timer *t)
{
	assert_true(sim_now_ns() >= SIM_S + 7200 * SIM_S);
	fired++;
}

/* Virtual hours pass in no time; nothing ever happens in an empty world. */
static void test_time(void **state)
{
	struct timer t = { .fire = fire };
	world_begin(7);
	fired = 0;
	loop_timer_set(loop[2], &t, sim_now_ns() + 7200 * SIM_S);
	assert_true(!sim_run_until(NULL, NULL, sim_now_ns() + 7100 * SIM_S) && !fired);
	assert_false(sim_run_until(NULL, NULL, UINT64_MAX));
	assert_int_equal(fired, 1);
	world_end();
}

static int stalled_fires;

static void fire_stalled(struct timer *t)
{
	stalled_fires += loop_stalled(loop[0]);
}

/* A loop that got no processor for long is told so when its timers fire, and reads its sockets before. */
static void test_stall(void **state)
{
	struct timer t = { .fire = fire_stalled };
	world_begin(9);
	stalled_fires = 0;
	loop_timer_set(loop[0], &t, sim_now_ns() + SIM_MS);
	sim_stall(loop[0], 5 * SIM_S);
	sim_run_until(NULL, NULL, sim_now_ns() + SIM_S);
	assert_int_equal(stalled_fires, 0);
	sim_run_until(NULL, NULL, sim_now_ns() + 5 * SIM_S);
	assert_int_equal(stalled_fires, 1);
	loop_timer_set(loop[0], &t, sim_now_ns() + SIM_MS);
	sim_run_until(NULL, NULL, sim_now_ns() + SIM_S);
	assert_int_equal(stalled_fires, 1);
	world_end();
}

static int legs;
static bool over;

static void leg(struct round_leg *l, void *ctx)
{
	assert_ptr_equal(loop_current(), l->loop);
	legs++;
	round_leg_done(l);
}

static void round_over(void *ctx)
{
	assert_ptr_equal(loop_current(), loop[0]);
	over = true;
}

static bool is_over(void *ctx)
{
	return over;
}

static void work_answer(struct op *op)
{
	op->res = 42;
}

/* Rounds and workers run in this world too. */
static void test_rounds_and_work(void **state)
{
	world_begin(8);
	loop_group.n = LOOPS;
	memcpy(loop_group.loop, loop, sizeof(loop));
	legs = 0;
	over = false;
	round_start(loop[0], leg, round_over, NULL);
	assert_true(sim_run_until(is_over, NULL, sim_now_ns() + SIM_S));
	assert_int_equal(legs, LOOPS);
	loop_group.n = 0;
	struct wait w = { .op = { .kind = OP_WORK, .work = work_answer, .done = wait_done } };
	loop_submit(loop[1], &w.op);
	assert_int_equal(end(&w), 42);
	world_end();
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_stream_and_seeds), CASE(test_reset), CASE(test_half_close), CASE(test_silence),
		CASE(test_kill_listener), CASE(test_power_cut), CASE(test_what_sync_covers), CASE(test_sync_error),
		CASE(test_disk_faults), CASE(test_time), CASE(test_stall), CASE(test_rounds_and_work),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
