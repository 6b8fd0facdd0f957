/* SPDX-License-Identifier: BSD-3-Clause
 * The real loops. Every case runs on io_uring (where the kernel has it) and on epoll. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "loop/loop.h"
#include "loop/round.h"

enum { S = 1000000000 };

static struct loop *loop;
static const struct loop_backend *backend;

static int setup(void **state)
{
	struct err e = { 0 };
	backend = *state;
	if (page_arena_init(64 << 20, &e))
		return -1;
	loop = loop_new(backend, 0, &e);
	return loop ? 0 : -1;
}

static int teardown(void **state)
{
	work_fini();
	loop_free(loop);
	page_arena_fini();
	return 0;
}

/* Turns the loop until *flag is at least n; gives up after ten seconds. */
static void turn_until(const int *flag, int n)
{
	uint64_t end = loop_now_ns(loop) + 10ull * S;
	while (*flag < n && loop_now_ns(loop) < end)
		loop_turn(loop, loop_now_ns(loop) + S / 10);
	assert_true(*flag >= n);
}

struct count_op {
	struct op op;
	int done;
};

static void count_done(struct op *op)
{
	container_of(op, struct count_op, op)->done++;
}

static int run_op(struct count_op *c)
{
	c->done = 0;
	c->op.done = count_done;
	loop_submit(loop, &c->op);
	assert_int_equal(c->done, 0); /* never inside submit */
	turn_until(&c->done, 1);
	return c->op.res;
}

static int temp_file(void)
{
	char name[] = "/tmp/lunette-test-XXXXXX";
	int fd = mkstemp(name);
	assert_true(fd >= 0);
	unlink(name);
	return fd;
}

static struct iovec vec(void *p, size_t n)
{
	return (struct iovec){ p, n };
}

/* --- tasks --- */

struct chain {
	struct task task;
	int left, order[8], n;
	bool inside;
};

static void chain_run(struct task *t)
{
	struct chain *c = container_of(t, struct chain, task);
	assert_false(c->inside);
	c->inside = true;
	c->order[c->n++] = c->left;
	if (c->left--)
		loop_defer(loop, t);
	c->inside = false;
}

/* A deferred task runs after the callback that deferred it, and a chain of them within one turn. */
static void test_defer(void **state)
{
	struct chain c = { .task.run = chain_run, .left = 3 };
	loop_defer(loop, &c.task);
	assert_int_equal(c.n, 0);
	loop_turn(loop, 0);
	assert_int_equal(c.n, 4);
	assert_int_equal(c.order[3], 0);
}

static struct chain at_end;

static void deferred_late(struct task *t)
{
	assert_int_equal(at_end.n, 0);
}

/* End-of-turn tasks run after all others of the turn: where sends are gathered. */
static void test_turn_end(void **state)
{
	struct task late = { .run = deferred_late };
	at_end = (struct chain){ .task.run = chain_run };
	loop_at_turn_end(loop, &at_end.task);
	loop_defer(loop, &late);
	loop_turn(loop, 0);
	assert_int_equal(at_end.n, 1);
}

/* --- timers --- */

enum { NTIMERS = 200 };
struct tick {
	struct timer timer;
	uint64_t due;
};
static struct tick tick[NTIMERS];
static uint64_t last_due;
static int fired;

static void tick_fire(struct timer *t)
{
	struct tick *k = container_of(t, struct tick, timer);
	assert_true(k->due >= last_due);
	assert_true(loop_now_ns(loop) >= k->due);
	assert_int_equal(t->heap, 0);
	last_due = k->due;
	fired++;
}

/* Timers fire in order and never early; a cleared one does not fire, a re-armed one at its new time. */
static void test_timers(void **state)
{
	uint64_t now = loop_now_ns(loop);
	uint32_t x = 1;
	fired = 0;
	last_due = 0;
	memset(tick, 0, sizeof(tick));
	for (int i = 0; i < NTIMERS; i++) {
		x = x * 1664525 + 1013904223;
		tick[i].timer.fire = tick_fire;
		tick[i].due = now + x % 20000000;
		loop_timer_set(loop, &tick[i].timer, i % 3 ? tick[i].due : now + 3600ull * S);
	}
	for (int i = 0; i < NTIMERS; i += 3)
		loop_timer_set(loop, &tick[i].timer, tick[i].due);
	for (int i = 0; i < NTIMERS; i += 4)
		loop_timer_clear(loop, &tick[i].timer);
	turn_until(&fired, NTIMERS - NTIMERS / 4);
	loop_turn(loop, loop_now_ns(loop) + 1000000);
	assert_int_equal(fired, NTIMERS - NTIMERS / 4);
}

/* --- posts from other threads --- */

enum { POSTERS = 3, LETTERS = 20000 };
struct letter {
	struct task task;
	int from, number;
};
static int received, last_of[POSTERS];

static void letter_run(struct task *t)
{
	struct letter *m = container_of(t, struct letter, task);
	assert_int_equal(m->number, last_of[m->from]);
	last_of[m->from]++;
	received++;
}

static void *poster(void *arg)
{
	struct letter *m = arg;
	for (int i = 0; i < LETTERS; i++) {
		m[i].task.run = letter_run;
		loop_post(loop, &m[i].task);
		if (i % 1000 == 999)
			nanosleep(&(struct timespec){ .tv_nsec = 300000 }, NULL); /* let the loop fall asleep */
	}
	return NULL;
}

/* No letter of any thread is lost, doubled or reordered, and each wakes a loop that sleeps without end. */
static void test_post(void **state)
{
	pthread_t t[POSTERS];
	static struct letter m[POSTERS][LETTERS];
	received = 0;
	memset(last_of, 0, sizeof(last_of));
	for (int i = 0; i < POSTERS; i++) {
		for (int j = 0; j < LETTERS; j++)
			m[i][j] = (struct letter){ .from = i, .number = j };
		pthread_create(&t[i], NULL, poster, m[i]);
	}
	while (received < POSTERS * LETTERS)
		loop_turn(loop, UINT64_MAX);
	for (int i = 0; i < POSTERS; i++)
		pthread_join(t[i], NULL);
}

static void *runner(void *arg)
{
	loop_run(arg);
	return NULL;
}

/* loop_stop() ends a loop that sleeps, and one that has not begun yet. */
static void test_stop(void **state)
{
	pthread_t t;
	pthread_create(&t, NULL, runner, loop);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	loop_stop(loop);
	pthread_join(t, NULL);
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * S + (uint64_t)ts.tv_nsec;
}

/* An idle loop sleeps: it burns less than a tenth of the time it waits, spinning included. */
static void test_idle(void **state)
{
	struct tick end = { .timer.fire = tick_fire };
	uint64_t cpu = cpu_ns();
	fired = 0;
	last_due = 0;
	end.due = loop_now_ns(loop) + S / 5;
	loop_timer_set(loop, &end.timer, end.due);
	turn_until(&fired, 1);
	assert_true(cpu_ns() - cpu < S / 50);
}

/* --- files --- */

/* What was written is read back, durable or not; a read at the end is 0, one across it is short. */
static void test_file(void **state)
{
	int fd = temp_file();
	char in[3][4096], out[2][8192];
	memset(in[0], 'a', 4096);
	memset(in[1], 'b', 4096);
	memset(in[2], 'c', 4096);
	struct iovec w[] = { vec(in[0], 4096), vec(in[1], 4096) }, d = vec(in[2], 4096);
	struct count_op c = { .op = { .kind = OP_WRITEV, .fd = fd, .iov = w, .niov = 2, .off = 512 } };
	assert_int_equal(run_op(&c), 8192);
	c.op = (struct op){ .kind = OP_WRITEV, .flags = OP_DSYNC, .fd = fd, .iov = &d, .niov = 1, .off = 8704 };
	assert_int_equal(run_op(&c), 4096);
	c.op = (struct op){ .kind = OP_FSYNC, .fd = fd };
	assert_int_equal(run_op(&c), 0);
	struct iovec r[] = { vec(out[0], 8192), vec(out[1], 8192) };
	c.op = (struct op){ .kind = OP_READV, .fd = fd, .iov = r, .niov = 2, .off = 512 };
	assert_int_equal(run_op(&c), 12288);
	assert_memory_equal(out[0], in[0], 4096);
	assert_memory_equal(out[0] + 4096, in[1], 4096);
	assert_memory_equal(out[1], in[2], 4096);
	c.op = (struct op){ .kind = OP_READV, .fd = fd, .iov = r, .niov = 1, .off = 12800 };
	assert_int_equal(run_op(&c), 0);
	close(fd);
}

/* A punched range and a zeroed range read as zeros; their neighbours stay. */
static void test_punch_zero(void **state)
{
	int fd = temp_file();
	char data[4 * 4096], zeros[4096] = { 0 };
	memset(data, 'x', sizeof(data));
	assert_int_equal(pwrite(fd, data, sizeof(data), 0), sizeof(data));
	struct count_op c = { .op = { .kind = OP_PUNCH, .fd = fd, .off = 4096, .len = 4096 } };
	assert_int_equal(run_op(&c), 0);
	c.op = (struct op){ .kind = OP_ZERO, .fd = fd, .off = 8192, .len = 4096 };
	assert_int_equal(run_op(&c), 0);
	assert_int_equal(pread(fd, data, sizeof(data), 0), sizeof(data));
	assert_memory_equal(data + 4096, zeros, 4096);
	assert_memory_equal(data + 8192, zeros, 4096);
	assert_int_equal(data[4095], 'x');
	assert_int_equal(data[12288], 'x');
	close(fd);
}

/* Errors of the kernel arrive as -errno: a descriptor that is none, a write to a read-only one. */
static void test_file_errors(void **state)
{
	char b[512] = { 0 };
	struct iovec v = vec(b, sizeof(b));
	struct count_op c = { .op = { .kind = OP_READV, .fd = 19999, .iov = &v, .niov = 1 } };
	assert_int_equal(run_op(&c), -EBADF);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	c.op = (struct op){ .kind = OP_WRITEV, .fd = fd, .iov = &v, .niov = 1 };
	assert_int_equal(run_op(&c), -EBADF);
	close(fd);
}

enum { MANY = 1500 };
static int many_done;

static void many_op_done(struct op *op)
{
	assert_int_equal(op->res, 64);
	many_done++;
}

/* More operations in one turn than the queues hold all complete. */
static void test_many(void **state)
{
	int fd = temp_file();
	static struct op op[MANY];
	static struct iovec v[MANY];
	static char data[MANY][64];
	many_done = 0;
	for (int i = 0; i < MANY; i++) {
		memset(data[i], i, 64);
		v[i] = vec(data[i], 64);
		op[i] = (struct op){ .kind = OP_WRITEV, .flags = OP_DSYNC * (i % 100 == 0), .fd = fd, .iov = &v[i],
			.niov = 1, .off = (uint64_t)i * 64, .done = many_op_done };
		loop_submit(loop, &op[i]);
	}
	turn_until(&many_done, MANY);
	static char back[MANY][64];
	assert_int_equal(pread(fd, back, sizeof(back), 0), sizeof(back));
	assert_memory_equal(back, data, sizeof(back));
	close(fd);
}

/* --- sockets --- */

static void pair(int fd[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
}

static struct sockaddr_in any_port(void)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int listener(struct sockaddr_in *a)
{
	socklen_t n = sizeof(*a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	*a = any_port();
	assert_int_equal(bind(fd, (struct sockaddr *)a, n), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)a, &n), 0);
	return fd;
}

static void tcp_pair(int fd[2])
{
	struct sockaddr_in a;
	int l = listener(&a);
	struct count_op acc = { .op = { .kind = OP_ACCEPT, .fd = l, .done = count_done } };
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct count_op con = { .op = { .kind = OP_CONNECT, .fd = fd[0], .addr = (struct sockaddr *)&a,
		.addrlen = sizeof(a) } };
	loop_submit(loop, &acc.op);
	loop_turn(loop, 0); /* the accept waits before there is a client */
	assert_int_equal(acc.done, 0);
	assert_int_equal(run_op(&con), 0);
	turn_until(&acc.done, 1);
	fd[1] = acc.op.res;
	assert_true(fd[1] >= 0);
	assert_true(fcntl(fd[1], F_GETFD) & FD_CLOEXEC);
	loop_forget(loop, l);
	close(l);
}

static void pair_close(int fd[2])
{
	for (int i = 0; i < 2; i++) {
		loop_forget(loop, fd[i]);
		close(fd[i]);
	}
}

/* A receive that waits gets the bytes of a later send, in one or two elements; then the end of the stream. */
static void stream_case(int fd[2])
{
	char a[3], b[8], data[] = "hello world";
	struct iovec r[] = { vec(a, 3), vec(b, 8) }, w[] = { vec(data, 5), vec(data + 5, 6) };
	struct count_op rx = { .op = { .kind = OP_RECV, .fd = fd[1], .iov = r, .niov = 2, .done = count_done } };
	loop_submit(loop, &rx.op);
	loop_turn(loop, 0);
	assert_int_equal(rx.done, 0);
	struct count_op tx = { .op = { .kind = OP_SEND, .fd = fd[0], .iov = w, .niov = 2 } };
	assert_int_equal(run_op(&tx), 11);
	turn_until(&rx.done, 1);
	assert_int_equal(rx.op.res, 11);
	assert_memory_equal(a, "hel", 3);
	assert_memory_equal(b, "lo world", 8);
	rx = (struct count_op){ .op = { .kind = OP_RECV, .fd = fd[1], .iov = r, .niov = 1, .done = count_done } };
	loop_submit(loop, &rx.op);
	loop_turn(loop, 0);
	shutdown(fd[0], SHUT_WR);
	turn_until(&rx.done, 1);
	assert_int_equal(rx.op.res, 0);
	assert_int_equal(run_op(&rx), 0); /* and again */
}

static void test_stream(void **state)
{
	int fd[2];
	pair(fd);
	stream_case(fd);
	pair_close(fd);
	tcp_pair(fd);
	stream_case(fd);
	pair_close(fd);
}

enum { FLOOD = 4 << 20 };
struct flow {
	struct op op;
	struct iovec iov;
	char *data;
	size_t at;
	int done;
};

static void flow_next(struct flow *f)
{
	f->iov = vec(f->data + f->at, MIN((size_t)FLOOD - f->at, (size_t)300000));
	f->op.iov = &f->iov;
	f->op.niov = 1;
	loop_submit(loop, &f->op);
}

static void flow_done(struct op *op)
{
	struct flow *f = container_of(op, struct flow, op);
	assert_true(op->res > 0);
	f->at += (size_t)op->res;
	f->done = f->at == FLOOD;
	if (!f->done)
		flow_next(f);
}

/* Megabytes in both roles: full buffers, short sends, partial receives; every byte arrives in order. */
static void test_flood(void **state)
{
	int fd[2];
	tcp_pair(fd);
	struct flow tx = { .op = { .kind = OP_SEND, .fd = fd[0], .done = flow_done }, .data = malloc(FLOOD) };
	struct flow rx = { .op = { .kind = OP_RECV, .fd = fd[1], .done = flow_done }, .data = malloc(FLOOD) };
	for (size_t i = 0; i < FLOOD; i++)
		tx.data[i] = (char)(i * 7 + i / 4096);
	flow_next(&tx);
	loop_turn(loop, 0);
	flow_next(&rx);
	turn_until(&rx.done, 1);
	assert_int_equal(tx.done, 1);
	assert_memory_equal(tx.data, rx.data, FLOOD);
	free(tx.data);
	free(rx.data);
	pair_close(fd);
}

/* A number that is closed and comes back as another connection works at once (no stale readiness). */
static void test_descriptor_reuse(void **state)
{
	int old = -1;
	for (int i = 0; i < 20; i++) {
		int fd[2];
		tcp_pair(fd);
		if (i)
			assert_in_range(fd[1], 0, old + 4);
		old = fd[1];
		char c = 'x', d = 0;
		struct iovec r = vec(&d, 1), w = vec(&c, 1);
		struct count_op rx = { .op = { .kind = OP_RECV, .fd = fd[1], .iov = &r, .niov = 1, .done = count_done } };
		loop_submit(loop, &rx.op);
		loop_turn(loop, 0);
		struct count_op tx = { .op = { .kind = OP_SEND, .fd = fd[0], .iov = &w, .niov = 1 } };
		assert_int_equal(run_op(&tx), 1);
		turn_until(&rx.done, 1);
		assert_int_equal(d, 'x');
		close(fd[0]); /* without loop_forget(): accept and connect tell the loop */
		close(fd[1]);
	}
}

/* A connection reset is an error of the receive that waits; a send to it is -EPIPE, not a signal. */
static void test_reset(void **state)
{
	int fd[2];
	tcp_pair(fd);
	char d[4];
	struct iovec r = vec(d, 4);
	struct count_op rx = { .op = { .kind = OP_RECV, .fd = fd[1], .iov = &r, .niov = 1, .done = count_done } };
	loop_submit(loop, &rx.op);
	loop_turn(loop, 0);
	struct linger hard = { 1, 0 };
	setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	loop_forget(loop, fd[0]);
	close(fd[0]);
	turn_until(&rx.done, 1);
	assert_int_equal(rx.op.res, -ECONNRESET);
	struct count_op tx = { .op = { .kind = OP_SEND, .fd = fd[1], .iov = &r, .niov = 1 } };
	assert_int_equal(run_op(&tx), -EPIPE);
	loop_forget(loop, fd[1]);
	close(fd[1]);
}

/* A refused connection is reported. */
static void test_connect_refused(void **state)
{
	struct sockaddr_in a;
	close(listener(&a));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct count_op c = { .op = { .kind = OP_CONNECT, .fd = fd, .addr = (struct sockaddr *)&a,
		.addrlen = sizeof(a) } };
	assert_int_equal(run_op(&c), -ECONNREFUSED);
	loop_forget(loop, fd);
	close(fd);
}

/* Out of descriptors: the accept says so and ends, instead of trying for ever; later it works. */
static void test_accept_emfile(void **state)
{
	struct sockaddr_in a;
	struct rlimit old, none;
	int l = listener(&a), c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	getrlimit(RLIMIT_NOFILE, &old);
	int next = dup(0);
	close(next);
	none = (struct rlimit){ (rlim_t)next, old.rlim_max };
	connect(c, (struct sockaddr *)&a, sizeof(a));
	setrlimit(RLIMIT_NOFILE, &none);
	struct count_op acc = { .op = { .kind = OP_ACCEPT, .fd = l } };
	int res = run_op(&acc);
	setrlimit(RLIMIT_NOFILE, &old);
	assert_int_equal(res, -EMFILE);
	res = run_op(&acc);
	assert_true(res >= 0);
	close(res);
	close(c);
	loop_forget(loop, l);
	close(l);
}

/* OP_POLL hears of data and leaves it there. */
static void test_poll(void **state)
{
	int fd[2];
	pair(fd);
	struct count_op p = { .op = { .kind = OP_POLL, .fd = fd[0], .done = count_done } };
	for (int i = 0; i < 3; i++) {
		p.done = 0;
		loop_submit(loop, &p.op);
		loop_turn(loop, 0);
		assert_int_equal(p.done, 0);
		assert_int_equal(write(fd[1], "x", 1), 1);
		turn_until(&p.done, 1);
		assert_true(p.op.res > 0);
		char c;
		assert_int_equal(read(fd[0], &c, 1), 1);
	}
	pair_close(fd);
}

/* --- cancel --- */

/* A cancelled operation still completes, once: a receive that waits, one that has not begun, a poll. */
static void test_cancel(void **state)
{
	int fd[2];
	pair(fd);
	char d[4];
	struct iovec r = vec(d, 4);
	for (int waits = 0; waits < 2; waits++) {
		struct count_op c = { .op = { .kind = OP_RECV, .fd = fd[0], .iov = &r, .niov = 1, .done = count_done } };
		loop_submit(loop, &c.op);
		if (waits)
			loop_turn(loop, 0);
		loop_cancel(loop, &c.op);
		assert_int_equal(c.done, 0);
		turn_until(&c.done, 1);
		assert_int_equal(c.op.res, -ECANCELED);
		loop_turn(loop, 0);
		assert_int_equal(c.done, 1);
	}
	struct count_op p = { .op = { .kind = OP_POLL, .fd = fd[0], .done = count_done } };
	loop_submit(loop, &p.op);
	loop_turn(loop, 0);
	loop_cancel(loop, &p.op);
	turn_until(&p.done, 1);
	assert_int_equal(p.op.res, -ECANCELED);
	assert_int_equal(write(fd[1], "abcd", 4), 4); /* nobody steals what comes later */
	struct count_op c = { .op = { .kind = OP_RECV, .fd = fd[0], .iov = &r, .niov = 1 } };
	assert_int_equal(run_op(&c), 4);
	pair_close(fd);
}

/* --- workers --- */

static void work_add(struct op *op)
{
	op->res = (int)op->off + 1;
}

/* OP_WORK runs elsewhere and its result comes back here. */
static void test_work(void **state)
{
	struct count_op c = { .op = { .kind = OP_WORK, .work = work_add, .off = 41 } };
	assert_int_equal(run_op(&c), 42);
}

static pthread_mutex_t hang = PTHREAD_MUTEX_INITIALIZER;

static void work_hang(struct op *op)
{
	pthread_mutex_lock(&hang);
	pthread_mutex_unlock(&hang);
	op->res = 0;
}

/* Jobs that hang, more than the pool has threads at first, do not keep those of another disk from running. */
static void test_work_stuck(void **state)
{
	enum { HUNG = 64 };
	static struct count_op h[HUNG];
	pthread_mutex_lock(&hang);
	for (int i = 0; i < HUNG; i++) {
		h[i] = (struct count_op){ .op = { .kind = OP_WORK, .fd = 100 + i % 8, .work = work_hang,
			.done = count_done } };
		loop_submit(loop, &h[i].op);
	}
	struct count_op c = { .op = { .kind = OP_WORK, .fd = 200, .work = work_add, .off = 1 } };
	assert_int_equal(run_op(&c), 2);
	loop_cancel(loop, &h[HUNG - 1].op); /* not begun: leaves the queue */
	turn_until(&h[HUNG - 1].done, 1);
	assert_int_equal(h[HUNG - 1].op.res, -ECANCELED);
	pthread_mutex_unlock(&hang);
	for (int i = 0; i < HUNG; i++)
		turn_until(&h[i].done, 1);
}

/* --- rounds --- */

enum { LOOPS = 3 };
static int legs_run, rounds_done, nkept;
static struct round_leg *kept;
static pthread_mutex_t legs_lock = PTHREAD_MUTEX_INITIALIZER;

static void leg(struct round_leg *l, void *ctx)
{
	assert_ptr_equal(loop_current(), l->loop);
	pthread_mutex_lock(&legs_lock);
	legs_run++;
	pthread_mutex_unlock(&legs_lock);
	if (!ctx || l->loop != loop) {
		round_leg_done(l);
		return;
	}
	kept = l;
	nkept++;
}

static void round_is_done(void *ctx)
{
	assert_ptr_equal(loop_current(), loop);
	assert_int_equal(legs_run, LOOPS);
	rounds_done++;
}

/* A round visits every loop once and is over when the last leg is, also one that is kept; rounds follow. */
static void test_round(void **state)
{
	struct err e = { 0 };
	pthread_t t[LOOPS];
	loop_group.n = LOOPS;
	loop_group.loop[0] = loop;
	for (unsigned i = 1; i < LOOPS; i++) {
		loop_group.loop[i] = loop_new(backend, i, &e);
		pthread_create(&t[i], NULL, runner, loop_group.loop[i]);
	}
	rounds_done = 0;
	for (int i = 1; i <= 20; i++) {
		legs_run = 0;
		nkept = 0;
		bool keep = i % 2;
		round_start(loop, leg, round_is_done, keep ? loop : NULL);
		assert_int_equal(rounds_done, i - 1);
		if (keep) {
			turn_until(&nkept, 1);
			loop_turn(loop, loop_now_ns(loop) + 1000000);
			assert_int_equal(rounds_done, i - 1);
			round_leg_done(kept);
		}
		turn_until(&rounds_done, i);
	}
	for (unsigned i = 1; i < LOOPS; i++) {
		loop_stop(loop_group.loop[i]);
		pthread_join(t[i], NULL);
		loop_free(loop_group.loop[i]);
	}
	loop_group.n = 0;
}

/* --- stall --- */

static void oversleep(struct task *t)
{
	nanosleep(&(struct timespec){ .tv_nsec = 600000000 }, NULL);
}

/* A turn that finds itself late says so, once. */
static void test_stalled(void **state)
{
	struct task t = { .run = oversleep };
	loop_turn(loop, 0);
	assert_false(loop_stalled(loop));
	loop_defer(loop, &t);
	loop_turn(loop, 0);
	assert_true(loop_stalled(loop));
	loop_turn(loop, 0);
	assert_false(loop_stalled(loop));
}

#define CASE(f) cmocka_unit_test_prestate_setup_teardown(f, setup, teardown, (void *)backend_under_test)

static int run_all(const struct loop_backend *backend_under_test)
{
	const struct CMUnitTest tests[] = {
		CASE(test_defer), CASE(test_turn_end), CASE(test_timers), CASE(test_post), CASE(test_stop),
		CASE(test_idle), CASE(test_file), CASE(test_punch_zero), CASE(test_file_errors), CASE(test_many),
		CASE(test_stream), CASE(test_flood), CASE(test_descriptor_reuse), CASE(test_reset),
		CASE(test_connect_refused), CASE(test_accept_emfile), CASE(test_poll), CASE(test_cancel),
		CASE(test_work), CASE(test_work_stuck), CASE(test_round), CASE(test_stalled),
	};
	return cmocka_run_group_tests_name(backend_under_test->name, tests, NULL, NULL);
}

static bool uring_works(void)
{
	struct err e = { 0 };
	struct loop *l = page_arena_init(64 << 20, &e) ? NULL : loop_new(&loop_uring, 0, &e);
	bool works = l;
	loop_free(l);
	page_arena_fini();
	return works;
}

int main(void)
{
	int failed = run_all(&loop_epoll);
	if (uring_works())
		failed += run_all(&loop_uring);
	return failed;
}
