/* SPDX-License-Identifier: BSD-3-Clause
 * Simulated disks: what reads see, what is durable, and which sectors differ. A sync makes durable what was written
 * before it began and nothing else; a write takes effect when it ends; after a crash the operations in flight have
 * happened or not, sector by sector. */
#include "loop/sim_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512, SLOW = 100, WRITEBACK_RUN = 16 };

/* An operation in flight. */
struct job {
	struct list node;
	struct sim_disk *disk;
	struct op  *op;
	bool        hung;
	/* OP_FSYNC: what it covers: the disk as it was when it began. */
	uint8_t    *cover;
	uint64_t   *version;
};

struct sim_disk {
	int      fd;
	uint64_t bytes, sectors;
	uint8_t  *now, *durable;
	uint64_t *written, *kept; /* version of each sector in now and in durable; equal: clean */
	uint64_t versions;
	struct sim_disk_conf conf;
	struct list jobs;
};

static struct sim_disk *disk_new(uint64_t bytes)
{
	struct sim_disk *d = calloc(1, sizeof(*d));
	CHECK(d && bytes % SECTOR == 0);
	d->bytes = bytes;
	d->sectors = bytes / SECTOR;
	d->now = calloc(1, bytes);
	d->durable = calloc(1, bytes);
	d->written = calloc(d->sectors, sizeof(uint64_t));
	d->kept = calloc(d->sectors, sizeof(uint64_t));
	CHECK(d->now && d->durable && d->written && d->kept);
	d->conf = (struct sim_disk_conf){ .latency_ns = 10 * SIM_US, .jitter_ns = 200 * SIM_US, .slow_pct = 1,
		.short_pct = 5, .writeback_pct = 20 };
	list_init(&d->jobs);
	d->fd = sim_fd_new(NULL, d);
	return d;
}

int sim_disk_new(uint64_t bytes)
{
	return disk_new(bytes)->fd;
}

static void job_free(struct job *j)
{
	list_del(&j->node);
	free(j->cover);
	free(j->version);
	free(j);
}

void sim_disk_free(struct sim_disk *d)
{
	if (!d)
		return;
	while (!list_empty(&d->jobs))
		job_free(list_first(&d->jobs, struct job, node));
	free(d->now);
	free(d->durable);
	free(d->written);
	free(d->kept);
	free(d);
}

const void *sim_disk_bytes(int fd)
{
	return sim_disk_of(fd)->now;
}

/* --- sectors --- */

static void sector_keep(struct sim_disk *d, uint64_t s, const uint8_t *data, uint64_t version)
{
	if (version <= d->kept[s])
		return;
	memcpy(d->durable + s * SECTOR, data, SECTOR);
	d->kept[s] = version;
}

/* The kernel writes back what it likes, when it likes. */
static void writeback(struct sim_disk *d, uint64_t s)
{
	uint64_t end = s + 1 + sim_random(WRITEBACK_RUN);
	for (; s < end && s < d->sectors; s++)
		sector_keep(d, s, d->now + s * SECTOR, d->written[s]);
}

static size_t iov_bytes(const struct op *op)
{
	size_t n = 0;
	for (int i = 0; i < op->niov; i++)
		n += op->iov[i].iov_len;
	return n;
}

/* Moves n bytes between the vector, from byte `skip` on, and p. */
static void iov_move(const struct op *op, size_t skip, uint8_t *p, size_t n, bool to_iov)
{
	for (int i = 0; i < op->niov && n; i++) {
		if (skip >= op->iov[i].iov_len) {
			skip -= op->iov[i].iov_len;
			continue;
		}
		size_t part = MIN(op->iov[i].iov_len - skip, n);
		uint8_t *v = (uint8_t *)op->iov[i].iov_base + skip;
		memcpy(to_iov ? v : p, to_iov ? p : v, part);
		p += part;
		n -= part;
		skip = 0;
	}
}

/* Bytes of a write, punch or zero that fall into sector s (absolute), into what `now` holds. */
static void sector_write(struct sim_disk *d, const struct op *op, uint64_t s, uint64_t len)
{
	uint64_t from = MAX(op->off, s * SECTOR), to = MIN(op->off + len, (s + 1) * SECTOR);
	if (op->kind == OP_WRITEV)
		iov_move(op, from - op->off, d->now + from, to - from, false);
	else
		memset(d->now + from, 0, to - from);
	d->written[s] = ++d->versions;
}

static void write_range(struct sim_disk *d, const struct op *op, uint64_t len, bool durable)
{
	for (uint64_t s = op->off / SECTOR; len && s <= (op->off + len - 1) / SECTOR; s++) {
		sector_write(d, op, s, len);
		if (durable)
			sector_keep(d, s, d->now + s * SECTOR, d->written[s]);
	}
	if (len && sim_chance(d->conf.writeback_pct))
		writeback(d, op->off / SECTOR);
}

/* --- operations --- */

static uint64_t clip(const struct sim_disk *d, uint64_t off, uint64_t len)
{
	return off >= d->bytes ? 0 : MIN(len, d->bytes - off);
}

static uint64_t some_of(const struct sim_disk *d, uint64_t len)
{
	if (len > SECTOR && sim_chance(d->conf.short_pct))
		return (1 + sim_random(len / SECTOR)) * SECTOR;
	return len;
}

static int do_read(struct job *j)
{
	struct op *op = j->op;
	if (sim_chance(j->disk->conf.read_eio_pct))
		return -EIO;
	uint64_t n = some_of(j->disk, clip(j->disk, op->off, iov_bytes(op)));
	iov_move(op, 0, j->disk->now + op->off, n, true);
	return (int)n;
}

static int write_error(const struct sim_disk *d)
{
	return sim_chance(d->conf.write_eio_pct) ? -EIO : sim_chance(d->conf.enospc_pct) ? -ENOSPC : 0;
}

static int do_write(struct job *j)
{
	struct op *op = j->op;
	uint64_t n = some_of(j->disk, clip(j->disk, op->off, iov_bytes(op)));
	int res = write_error(j->disk);
	if (res || !n)
		return res ? res : -ENOSPC;
	write_range(j->disk, op, n, op->flags & OP_DSYNC);
	return (int)n;
}

static int do_clear(struct job *j)
{
	int res = write_error(j->disk);
	if (!res)
		write_range(j->disk, j->op, clip(j->disk, j->op->off, j->op->len), false);
	return res;
}

/* The kernel forgets which pages it could not write: they look clean and are not. */
static void lose_dirty(struct sim_disk *d)
{
	for (uint64_t s = 0; s < d->sectors; s++)
		d->kept[s] = d->written[s];
}

static int do_fsync(struct job *j)
{
	struct sim_disk *d = j->disk;
	if (sim_chance(d->conf.fsync_eio_pct)) {
		lose_dirty(d);
		return -EIO;
	}
	for (uint64_t s = 0; s < d->sectors; s++)
		sector_keep(d, s, j->cover + s * SECTOR, j->version[s]);
	return 0;
}

static int (*const exec[])(struct job *j) = {
	[OP_READV] = do_read, [OP_WRITEV] = do_write, [OP_FSYNC] = do_fsync, [OP_PUNCH] = do_clear,
	[OP_ZERO] = do_clear,
};

static void job_end(void *ctx)
{
	struct job *j = ctx;
	struct op *op = j->op;
	int res = exec[op->kind](j);
	job_free(j);
	sim_op_end(op, res);
}

static void job_start(struct job *j)
{
	const struct sim_disk_conf *c = &j->disk->conf;
	uint64_t ns = c->latency_ns + sim_random(c->jitter_ns + 1);
	sim_after(sim_chance(c->slow_pct) ? ns * SLOW : ns, job_end, j);
}

static void *copy_of(const void *p, size_t n)
{
	void *c = malloc(n);
	CHECK(c);
	return memcpy(c, p, n);
}

void sim_disk_submit(struct op *op)
{
	struct job *j = calloc(1, sizeof(*j));
	CHECK(j && op->kind < ARRAY_LEN(exec) && exec[op->kind]);
	j->disk = sim_disk_of(op->fd);
	j->op = op;
	j->hung = j->disk->conf.hang;
	list_add_tail(&j->disk->jobs, &j->node);
	if (op->kind == OP_FSYNC) {
		j->cover = copy_of(j->disk->now, j->disk->bytes);
		j->version = copy_of(j->disk->written, j->disk->sectors * sizeof(uint64_t));
	}
	if (!j->hung)
		job_start(j);
}

void sim_disk_conf(int fd, const struct sim_disk_conf *c)
{
	struct sim_disk *d = sim_disk_of(fd);
	struct job *j;
	d->conf = *c;
	list_for_each(j, &d->jobs, node) {
		if (!j->hung || c->hang)
			continue;
		j->hung = false;
		job_start(j);
	}
}

/* --- crashes --- */

/* Operations that were in flight: of writes some sectors made it. */
static void crash_jobs(struct sim_disk *d)
{
	struct job *j;
	list_for_each(j, &d->jobs, node) {
		struct op *op = j->op;
		if (op->kind == OP_READV || op->kind == OP_FSYNC)
			continue;
		uint64_t len = clip(d, op->off, op->kind == OP_WRITEV ? iov_bytes(op) : op->len);
		for (uint64_t s = op->off / SECTOR; len && s <= (op->off + len - 1) / SECTOR; s++)
			if (sim_chance(50))
				sector_write(d, op, s, len);
	}
}

int sim_disk_crash(int fd, bool power)
{
	struct sim_disk *old = sim_disk_of(fd), *d = disk_new(old->bytes);
	crash_jobs(old);
	for (uint64_t s = 0; s < d->sectors; s++) {
		bool dirty = old->written[s] != old->kept[s];
		/* A lost sector (see lose_dirty) reads well until it is read from the medium again. */
		bool from_cache = !power || (dirty && sim_chance(50));
		memcpy(d->now + s * SECTOR, (from_cache ? old->now : old->durable) + s * SECTOR, SECTOR);
		if (!power && dirty)
			d->written[s] = ++d->versions;
	}
	if (power) {
		memcpy(d->durable, d->now, d->bytes);
	} else {
		memcpy(d->durable, old->durable, d->bytes);
	}
	d->conf = old->conf;
	sim_note((uint64_t)d->fd << 1 | power);
	return d->fd;
}
