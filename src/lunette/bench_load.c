/* SPDX-License-Identifier: BSD-3-Clause
 * Jobs of `lunette bench`: keeps depth I/Os in flight on every session, counts, measures, verifies. */
#include "lunette/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { POOL_BYTES = 4 << 20, HIST_SUB = 64, HIST = 64 * HIST_SUB };

struct job {
	const struct bench_conf *c;
	struct bench_io *ios;
	uint8_t *pool;                    /* source of writes that carry no pattern */
	bool     write, random, pattern, check, once, stop;
	uint32_t *gen;                    /* RW_MIXED: how often each block was written; top bit: is in use */
	uint32_t bs;
	uint64_t next, blocks, rng, now_ns;
	uint64_t inflight;
	uint64_t hist[HIST];
	struct bench_result r;
};
static struct job *job; /* one at a time, one thread */

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t next_random(struct job *j)
{
	j->rng ^= j->rng << 13;
	j->rng ^= j->rng >> 7;
	j->rng ^= j->rng << 17;
	return j->rng;
}

/* What belongs at off: a function of seed and place, the same for every write of it. */
static void pattern(uint64_t seed, uint64_t off, uint8_t *p, uint32_t len)
{
	for (uint32_t k = 0; k < len; k += 8) {
		uint64_t v = mix(seed ^ ((off + k) >> 3) * 0xd1342543de82ef95ull);

		memcpy(p + k, &v, 8);
	}
}

static bool pattern_holds(uint64_t seed, uint64_t off, const uint8_t *p, uint32_t len)
{
	for (uint32_t k = 0; k < len; k += 8) {
		uint64_t v = mix(seed ^ ((off + k) >> 3) * 0xd1342543de82ef95ull);

		if (memcmp(p + k, &v, 8))
			return false;
	}
	return true;
}

/* --- latencies: 32 buckets to a power of two, nanoseconds --- */

static unsigned bucket(uint64_t ns)
{
	unsigned e = ns < HIST_SUB ? 0 : 58 - (unsigned)__builtin_clzll(ns);

	return MIN(e * HIST_SUB + (unsigned)(ns >> e), HIST - 1u);
}

static double bucket_us(unsigned b)
{
	return (double)((uint64_t)(b % HIST_SUB) << b / HIST_SUB) / 1e3;
}

static double percentile(const struct job *j, double p)
{
	uint64_t want = (uint64_t)((double)j->r.ios * p), sum = 0;
	unsigned b = 0;

	for (; b < HIST - 1; b++)
		if ((sum += j->hist[b]) > want)
			break;
	return bucket_us(b);
}

/* --- issuing --- */

static uint64_t next_off(struct job *j)
{
	uint64_t b = j->random ? next_random(j) % j->blocks : j->next++ % j->blocks;

	return b * j->bs;
}

/* Half reads, half writes of something new, each block in one I/O at a time: a read finds the last write or it is wrong. */
enum { GEN_BUSY = 1u << 31 };

static void prepare_mixed(struct job *j, struct bench_io *io)
{
	uint64_t b;

	do
		b = next_random(j) % j->blocks;
	while (j->gen[b] & GEN_BUSY);
	io->write = next_random(j) >> 8 & 1;
	io->len = j->bs;
	io->off = b * j->bs;
	j->gen[b] += io->write;
	io->what = j->c->seed ^ j->gen[b] * 0x9e3779b97f4a7c15ull;
	j->gen[b] |= GEN_BUSY;
	if (io->write)
		pattern(io->what, io->off, io->buf, io->len);
}

static void prepare(struct job *j, struct bench_io *io)
{
	if (j->gen) {
		prepare_mixed(j, io);
		return;
	}
	io->write = j->write;
	io->len = j->bs;
	io->off = next_off(j);
	io->what = j->c->seed;
	if (j->write && j->pattern)
		pattern(j->c->seed, io->off, io->buf, io->len);
	else if (j->write)
		io->buf = j->pool + (next_random(j) % (POOL_BYTES >> 12) << 12);
}

static bool exhausted(const struct job *j)
{
	return j->stop || (j->once && j->next >= j->blocks);
}

static void issue(struct job *j, struct bench_io *io)
{
	if (exhausted(j))
		return;
	prepare(j, io);
	io->start_ns = j->now_ns;
	if (bench_wire_submit(io->wire, io)) {
		j->r.errors++;
		return;
	}
	j->inflight++;
}

static void on_done(struct bench_io *io)
{
	struct job *j = job;
	uint64_t ns = j->now_ns - io->start_ns;

	j->inflight--;
	if (io->failed) {
		if (!j->r.errors++)
			fprintf(stderr, "lunette bench: the first %s that failed: %s, response %02xh, status %02xh, "
				"%u of %u bytes\n",
				io->write ? "write" : "read", io->cmd.error ? strerror(-io->cmd.error) : "answered",
				io->cmd.response, io->cmd.status, io->write ? io->len - io->cmd.resid : io->cmd.in_got, io->len);
		if (io->wire->closed || j->r.errors > 1000) {
			j->stop = true;
			return;
		}
	}
	if (j->check && !io->write && !io->failed && !pattern_holds(io->what, io->off, io->buf, io->len))
		j->r.mismatches++;
	if (j->gen)
		j->gen[io->off / j->bs] &= ~GEN_BUSY;
	j->r.ios++;
	j->r.bytes += io->len;
	j->r.mean_us += (double)ns / 1e3;
	j->r.max_us = MAX(j->r.max_us, (double)ns / 1e3);
	j->hist[bucket(ns)]++;
	issue(j, io);
}

/* --- running --- */

double bench_cpu_seconds(int pid)
{
	unsigned long user, sys;
	char path[64], line[1024], *p;
	double s = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = pid ? fopen(path, "r") : NULL;
	if (!f)
		return 0;
	p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	if (p && sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) == 2)
		s = (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
	fclose(f);
	return s;
}

static void turn_all(struct job *j, struct bench_wire **w, unsigned n)
{
	bool moved = false, block = !j->c->spin && n == 1;

	for (unsigned k = 0; k < n; k++) {
		if (w[k]->closed) {
			j->stop = true;
			continue;
		}
		if (n > 1 && !j->c->spin && !w[k]->due)
			continue;
		w[k]->due = false;
		j->now_ns = bench_now_ns();
		moved |= bench_wire_turn(w[k], block);
	}
	if (!moved && !j->c->spin)
		bench_wait(w, n, 100);
	j->now_ns = bench_now_ns();
}

static void reset_counts(struct job *j)
{
	uint64_t errors = j->r.errors, bad = j->r.mismatches;

	j->r = (struct bench_result){ .errors = errors, .mismatches = bad, .cpu_s = bench_cpu_seconds(j->c->server_pid) };
	memset(j->hist, 0, sizeof(j->hist));
}

static void finish(struct job *j, uint64_t t0)
{
	j->r.ns = bench_now_ns() - t0;
	j->r.cpu_s = bench_cpu_seconds(j->c->server_pid) - j->r.cpu_s;
	j->r.mean_us = j->r.ios ? j->r.mean_us / (double)j->r.ios : 0;
	j->r.p50_us = percentile(j, .5);
	j->r.p99_us = percentile(j, .99);
	j->r.p999_us = percentile(j, .999);
}

static void start(struct job *j, struct bench_wire **w, unsigned n)
{
	unsigned depth = j->c->depth;

	j->ios = calloc((size_t)n * depth, sizeof(*j->ios));
	if (!j->ios)
		abort();
	j->now_ns = bench_now_ns();
	for (unsigned k = 0; k < n * depth; k++) {
		struct bench_io *io = &j->ios[k];

		io->wire = w[k % n];
		io->tag = k / n;
		if (j->pattern || j->check)
			io->buf = aligned_alloc(4096, (j->bs + 4095u) & ~4095u);
		issue(j, io);
	}
	for (unsigned k = 0; k < n; k++)
		w[k]->due = true;
}

static void drain(struct job *j, struct bench_wire **w, unsigned n)
{
	uint64_t end = bench_now_ns() + 10000000000ull;

	j->stop = true;
	while (j->inflight && bench_now_ns() < end) {
		bool alive = false;

		for (unsigned k = 0; k < n; k++)
			alive |= !w[k]->closed;
		if (!alive)
			break;
		turn_all(j, w, n);
	}
	for (unsigned k = 0; k < n * j->c->depth && (j->pattern || j->check); k++)
		free(j->ios[k].buf);
	free(j->ios);
	free(j->gen);
	free(j->pool);
}

static void run_until(struct job *j, struct bench_wire **w, unsigned n, double seconds)
{
	uint64_t end = bench_now_ns() + (uint64_t)(seconds * 1e9);

	while (!j->stop && j->now_ns < end && !(exhausted(j) && !j->inflight))
		turn_all(j, w, n);
}

static void hook(struct job *j, struct bench_wire **w, unsigned n)
{
	job = j;
	j->rng = mix(j->c->seed ^ bench_now_ns()) | 1;
	for (unsigned k = 0; k < n; k++)
		w[k]->done = on_done;
}

/* Writes the pattern over all that will be read, so that no read finds memory that was never touched. */
void bench_fill(const struct bench_conf *c, struct bench_wire **w, unsigned n)
{
	static struct job j;

	j = (struct job){ .c = c, .write = true, .pattern = true, .once = true, .bs = 256 << 10 };
	if (c->size < j.bs)
		j.bs = w[0]->block;
	j.blocks = c->size / j.bs;
	hook(&j, w, n);
	start(&j, w, n);
	run_until(&j, w, n, 600);
	drain(&j, w, n);
	if (j.r.errors || j.r.ios < j.blocks)
		fprintf(stderr, "lunette bench: fill: %lu errors, %lu of %lu writes\n", (unsigned long)j.r.errors,
			(unsigned long)j.r.ios, (unsigned long)j.blocks);
}

/* Every block holds its first generation from the start. */
static void begin_mixed(struct job *j, struct bench_wire **w, unsigned n)
{
	static struct job fill;

	fill = (struct job){ .c = j->c, .write = true, .pattern = true, .once = true, .bs = j->bs, .blocks = j->blocks };
	hook(&fill, w, n);
	start(&fill, w, n);
	run_until(&fill, w, n, 600);
	drain(&fill, w, n);
	j->r.errors = fill.r.errors;
	j->pattern = j->check = true;
	j->gen = calloc(j->blocks, sizeof(*j->gen));
	if (!j->gen || j->blocks < 2ull * n * j->c->depth) {
		fprintf(stderr, "lunette bench: mixed needs at least %llu blocks\n", 2ull * n * j->c->depth);
		exit(2);
	}
}

static void add_repairs(struct bench_result *r, const struct bench_wire *w)
{
	const uint64_t *from = w->ini ? (const uint64_t *)iscsi_ini_stats(w->ini) : NULL;
	uint64_t *to = (uint64_t *)&r->repairs;

	for (size_t i = 0; from && i < sizeof(r->repairs) / sizeof(*to); i++)
		to[i] += from[i];
}

void bench_load(const struct bench_conf *c, struct bench_wire **w, unsigned n, struct bench_result *ret)
{
	static struct job j;
	uint64_t t0;

	j = (struct job){ .c = c, .write = c->rw == RW_WRITE || c->rw == RW_RANDWRITE, .bs = c->bs,
		.random = c->rw == RW_RANDREAD || c->rw == RW_RANDWRITE };
	j.pattern = c->verify && j.write;
	j.check = c->verify && !j.write;
	j.blocks = c->size / c->bs;
	if (c->rw == RW_MIXED)
		begin_mixed(&j, w, n);
	if (j.write && !j.pattern) {
		j.pool = aligned_alloc(4096, POOL_BYTES + ((c->bs + 4095u) & ~4095u));
		pattern(c->seed, 0, j.pool, POOL_BYTES + c->bs);
	}
	hook(&j, w, n);
	start(&j, w, n);
	run_until(&j, w, n, c->warmup_s);
	reset_counts(&j);
	t0 = bench_now_ns();
	run_until(&j, w, n, c->time_s);
	finish(&j, t0);
	*ret = j.r;
	drain(&j, w, n);
	ret->errors = j.r.errors;
	ret->mismatches = j.r.mismatches;
	for (unsigned k = 0; k < n; k++)
		add_repairs(ret, w[k]);
}
