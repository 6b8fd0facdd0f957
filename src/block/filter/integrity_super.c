/* SPDX-License-Identifier: BSD-3-Clause
 * Opening and closing the integrity store: its superblock, and what a crash left to be done (zeroing that had begun,
 * atomic writes). Control thread, synchronous, on a loop of its own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "block/filter/filter.h"
#include "block/filter/integrity.h"

/* Generations are reserved in the superblock before they are used. */
enum { RESERVE = 1 << 20, SAVE_EVERY = 64, VERSION = 1, SIDE_LOOP = 250 };

static const char MAGIC[8] = "LUNsums1", INTENT_MAGIC[8] = "LUNzero1", SLOT_MAGIC[8] = "LUNredo1";

static struct loop *side; /* of the control thread; kept, because a worker may still be about to wake it */

void integrity_fini(void)
{
	if (side)
		loop_free(side);
	side = NULL;
}

static uint64_t le64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

static void put_le64(void *p, uint64_t v)
{
	memcpy(p, &v, 8);
}

/* A page with a magic in front and a CRC at the end. */
static void seal(uint8_t *p, const char magic[8])
{
	memcpy(p, magic, 8);
	put_le32(p + SUM_PAGE - 4, crc32c(0, p, SUM_PAGE - 4));
}

static bool sealed(const uint8_t *p, const char magic[8])
{
	return !memcmp(p, magic, 8) && le32(p + SUM_PAGE - 4) == crc32c(0, p, SUM_PAGE - 4);
}

static int rw(struct blk *b, enum blk_op op, uint64_t off, uint64_t len, void *p)
{
	struct iovec v = { p, len };
	struct blk_req r = { .op = op, .off = off, .len = len, .iov = &v, .niov = 1 };

	return blk_sync(side, b, &r);
}

static int flush(struct blk *b)
{
	return rw(b, BLK_FLUSH, 0, 0, NULL);
}

/* --- superblock ---
 * 8 version, 16 sequence, 24 unit, 32 bytes of data, 40 flags (1: blank is zeros, 2: closed in order), 48 start,
 * 56 limit of generations, 64 number of loose intervals, 72 those. */

enum { BASE_ZERO = 1, CLEAN = 2 };

static void super_fill(const struct sums *s, uint8_t *p, bool clean)
{
	memset(p, 0, SUM_PAGE);
	put_le64(p + 8, VERSION);
	put_le64(p + 16, s->seq);
	put_le64(p + 24, s->unit);
	put_le64(p + 32, s->bytes);
	put_le64(p + 40, (s->rules.base_zero ? BASE_ZERO : 0u) | (clean ? CLEAN : 0u));
	put_le64(p + 48, s->rules.start);
	put_le64(p + 56, clean ? s->rules.start : s->limit);
	put_le64(p + 64, s->rules.nloose);
	for (unsigned i = 0; i < s->rules.nloose; i++) {
		put_le64(p + 72 + 16 * i, s->rules.loose[i].from);
		put_le64(p + 80 + 16 * i, s->rules.loose[i].to);
	}
	seal(p, MAGIC);
}

static uint64_t super_at(const struct sums *s)
{
	return s->seq % 2 * SUM_PAGE;
}

static int super_write(struct sums *s, bool clean)
{
	s->seq++;
	super_fill(s, s->super_page, clean);
	int r = rw(s->store, BLK_WRITE, super_at(s), SUM_PAGE, s->super_page);
	return r < 0 ? r : flush(s->store);
}

static void super_over(struct sum_req *r)
{
	r->s->super_busy = false;
	r->then(r);
}

static void super_flushed(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (io->status == 0)
		r->s->limit = le64(r->s->super_page + 56);
	super_over(r);
}

static void super_written(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (io->status < 0) {
		super_over(r); /* the next flush tries again */
		return;
	}
	io->req = (struct blk_req){ .op = BLK_FLUSH };
	blk_submit(r->s->store, io, super_flushed, r);
}

static bool super_due(const struct sums *s)
{
	return !s->super_busy && !s->read_only &&
		(s->limit - s->gen < RESERVE / 2 || s->rules.settled > s->rules.start + SAVE_EVERY);
}

void sum_super_save(struct sum_req *r, sum_step_fn *then)
{
	struct sums *s = r->s;
	uint64_t limit = s->limit;

	if (!super_due(s)) {
		then(r);
		return;
	}
	r->then = then;
	s->super_busy = true;
	s->seq++;
	s->rules.start = MAX(s->rules.start, s->rules.settled);
	s->limit = s->gen + RESERVE;
	super_fill(s, s->super_page, false);
	s->limit = limit; /* until that is durable */
	r->iov[0] = (struct iovec){ s->super_page, SUM_PAGE };
	r->sub.loop = r->io->loop;
	r->sub.req = (struct blk_req){ .op = BLK_WRITE, .off = super_at(s), .len = SUM_PAGE, .iov = r->iov, .niov = 1 };
	blk_submit(s->store, &r->sub, super_written, r);
}

/* Takes over the newer of two valid superblocks; -ENOENT: the store is new; -EILSEQ: it is no store. */
static int super_read(struct sums *s, bool *ret_clean, uint64_t *ret_unit, uint64_t *ret_bytes)
{
	static const uint8_t blank[SUM_PAGE];
	uint8_t p[2][SUM_PAGE];
	int best = -1, r = 0;

	for (int i = 0; i < 2 && r == 0; i++)
		r = rw(s->store, BLK_READ, (uint64_t)i * SUM_PAGE, SUM_PAGE, p[i]);
	if (r < 0)
		return r;
	for (int i = 0; i < 2; i++)
		if (sealed(p[i], MAGIC) && (best < 0 || le64(p[i] + 16) > le64(p[best] + 16)))
			best = i;
	if (best < 0)
		return !memcmp(p[0], blank, SUM_PAGE) && !memcmp(p[1], blank, SUM_PAGE) ? -ENOENT : -EILSEQ;
	const uint8_t *b = p[best];
	s->seq = le64(b + 16);
	*ret_unit = le64(b + 24);
	*ret_bytes = le64(b + 32);
	*ret_clean = le64(b + 40) & CLEAN;
	s->rules.base_zero = le64(b + 40) & BASE_ZERO;
	s->rules.start = le64(b + 48);
	s->limit = le64(b + 56);
	s->rules.nloose = (unsigned)MIN(le64(b + 64), (uint64_t)SUM_LOOSE_MAX);
	for (unsigned i = 0; i < s->rules.nloose; i++)
		s->rules.loose[i] = (struct sum_loose){ le64(b + 72 + 16 * i), le64(b + 80 + 16 * i) };
	return 0;
}

/* --- after a crash --- */

void sum_intent_fill(uint8_t page[SUM_PAGE], uint64_t off, uint64_t len)
{
	memset(page, 0, SUM_PAGE);
	put_le64(page + 8, off);
	put_le64(page + 16, len);
	seal(page, INTENT_MAGIC);
}

void sum_slot_fill(uint8_t page[SUM_PAGE], const struct sum_slot *slot, uint32_t crc, uint32_t tuples_crc)
{
	memset(page, 0, SUM_PAGE);
	put_le64(page + 8, slot->off);
	put_le64(page + 16, slot->len);
	put_le64(page + 24, slot->seq);
	put_le32(page + 32, crc);
	put_le32(page + 36, tuples_crc);
	seal(page, SLOT_MAGIC);
}

/* Entries of [unit, end) become `side`, or blank. */
static int entries_set(struct sums *s, uint64_t unit, uint64_t end, const struct sum_side *what)
{
	uint8_t p[SUM_PAGE];

	while (unit < end) {
		uint64_t index = unit / SUM_PER_PAGE, stop = MIN(end, (index + 1) * SUM_PER_PAGE);
		bool whole = unit % SUM_PER_PAGE == 0 && stop - unit == SUM_PER_PAGE;
		int r = whole ? 0 : rw(s->store, BLK_READ, SUM_ENTRIES_AT + index * SUM_PAGE, SUM_PAGE, p);
		if (r < 0)
			return r;
		for (; unit < stop; unit++) {
			struct sum_entry e = { .flags = what ? SUM_USED : 0 };
			if (what)
				e.new = *what++;
			sum_encode(p + unit % SUM_PER_PAGE * SUM_ENTRY, &e);
		}
		r = rw(s->store, BLK_WRITE, SUM_ENTRIES_AT + index * SUM_PAGE, SUM_PAGE, p);
		if (r < 0)
			return r;
	}
	return 0;
}

static int clear_page(struct sums *s, uint64_t off)
{
	static uint8_t blank[SUM_PAGE];
	int r = rw(s->store, BLK_WRITE, off, SUM_PAGE, blank);

	return r < 0 ? r : flush(s->store);
}

/* Zeroing that had begun is done again: nobody was told that it had ended, and nothing was written there since. */
static int redo_intent(struct sums *s)
{
	uint8_t p[SUM_PAGE];
	int r = rw(s->store, BLK_READ, SUM_INTENT_AT, SUM_PAGE, p);
	uint64_t off = le64(p + 8), len = le64(p + 16);

	if (r < 0 || !sealed(p, INTENT_MAGIC) || !len || off > s->bytes || len > s->bytes - off)
		return r;
	r = blk_sync(side, s->data, &(struct blk_req){ .op = BLK_ZERO, .flags = BLK_MAY_UNMAP, .off = off, .len = len });
	r = r < 0 ? r : flush(s->data);
	r = r < 0 ? r : entries_set(s, off >> s->shift, (off + len) >> s->shift, NULL);
	r = r < 0 ? r : flush(s->store);
	return r < 0 ? r : clear_page(s, SUM_INTENT_AT);
}

static int replay_data(struct sums *s, const uint8_t *head, const uint8_t *tuples, uint8_t *data)
{
	uint64_t off = le64(head + 8), len = le64(head + 16), n = len >> s->shift;
	struct sum_side *all = calloc(n, sizeof(*all));
	int r = all ? 0 : -ENOMEM;

	for (uint64_t i = 0; r == 0 && i < n; i++) {
		all[i].crc = crc32c(0, data + (i << s->shift), s->unit);
		memcpy(all[i].tuple, tuples + i * SUM_TUPLE, SUM_TUPLE);
	}
	r = r < 0 ? r : rw(s->data, BLK_WRITE, off, len, data);
	r = r < 0 ? r : flush(s->data);
	r = r < 0 ? r : entries_set(s, off >> s->shift, (off + len) >> s->shift, all);
	free(all);
	return r < 0 ? r : flush(s->store);
}

static int replay_slot(struct sums *s, int slot, uint8_t *p)
{
	uint8_t *tuples = p + SUM_PAGE, *data = p + 2 * SUM_PAGE;
	int r = rw(s->store, BLK_READ, sum_slot_at(slot), SUM_SLOT_BYTES, p);
	uint64_t off = le64(p + 8), len = le64(p + 16);

	if (r < 0)
		return r;
	if (!sealed(p, SLOT_MAGIC) || len > SUM_ATOMIC_MAX || off > s->bytes || len > s->bytes - off || !len ||
	    le32(p + 32) != crc32c(0, data, len) || le32(p + 36) != crc32c(0, tuples, SUM_PAGE))
		return 0; /* it never was complete: nothing of it is on the medium */
	r = replay_data(s, p, tuples, data);
	return r < 0 ? r : clear_page(s, sum_slot_at(slot));
}

/* Live slots do not overlap, so their order does not matter. */
static int replay(struct sums *s)
{
	uint8_t *p = aligned_alloc(SUM_PAGE, SUM_SLOT_BYTES);
	int r = p ? redo_intent(s) : -ENOMEM;

	for (int i = 0; r == 0 && i < SUM_SLOTS; i++)
		r = replay_slot(s, i, p);
	free(p);
	return r;
}

/* --- opening --- */

static uint64_t store_bytes(uint64_t bytes, uint32_t unit)
{
	uint64_t pages = (bytes / unit + SUM_PER_PAGE - 1) / SUM_PER_PAGE;

	return SUM_ENTRIES_AT + pages * SUM_PAGE;
}

static int open_driver(struct blk **ret, const char *driver, const char *path, uint64_t size, struct err *e)
{
	const struct blk_ops *ops = blk_find(driver);
	void *conf = calloc(1, ops->conf_bytes);
	char text[24];
	int r = conf ? schema_defaults(ops->config, conf, e) : err_set(e, -ENOMEM, "out of memory");

	snprintf(text, sizeof(text), "%llu", (unsigned long long)size);
	if (r == 0 && path)
		r = schema_set(ops->config, conf, "path", path, e);
	if (r == 0 && size)
		r = schema_set(ops->config, conf, "size", text, e);
	if (r == 0)
		r = blk_open(ret, ops, conf, NULL, e);
	if (conf)
		schema_free(ops->config, conf);
	free(conf);
	return r;
}

static int store_error(struct err *e, int code, const char *what)
{
	return err_at(e, code, "store", "the integrity store %s", what);
}

/* A store that is too short for its disk grows with it; one that is missing is made. */
static int open_store(struct sums *s, const struct integrity_conf *c, struct err *e)
{
	uint64_t need = store_bytes(s->bytes, s->unit);
	struct stat st;

	if (!strcmp(c->store, "memory"))
		return open_driver(&s->store, "ram", NULL, need, e);
	if (s->data->caps & BLK_VOLATILE)
		return store_error(e, -EINVAL, "of a disk that ends with the process must do so too: give memory");
	if (stat(c->store, &st) < 0)
		return open_driver(&s->store, "file", c->store, need, e);
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size >= SUM_ENTRIES_AT && (uint64_t)st.st_size < need &&
	    !s->read_only && truncate(c->store, (off_t)need) < 0)
		return store_error(e, -errno, "cannot be made longer for the disk that grew");
	return open_driver(&s->store, "file", c->store, 0, e);
}

/* Whether the disk is empty from there on: blank entries then mean zeros. */
static bool is_empty(struct sums *s, uint64_t from)
{
	struct blk_extent x;
	struct blk_req r = { .op = BLK_MAP, .off = from, .len = s->bytes - from, .map = &x, .nmap = 1 };

	return (s->data->caps & BLK_CAN_MAP) && blk_sync(side, s->data, &r) == 0 && r.nmap == 1 && x.kind != BLK_DATA &&
		x.len == s->bytes - from;
}

static int check_fit(const struct sums *s, uint64_t unit, uint64_t bytes, struct err *e)
{
	if (unit != s->unit)
		return err_at(e, -EINVAL, "store", "the integrity store has checksums of %llu bytes, and the disk's "
			"blocks have %u: give the bs that it was made with", (unsigned long long)unit, s->unit);
	if (bytes > s->bytes)
		return err_at(e, -EINVAL, "store", "the integrity store is of a disk of %llu bytes, and this one has "
			"%llu: it belongs to another disk, or the disk was cut short", (unsigned long long)bytes,
			(unsigned long long)s->bytes);
	return 0;
}

static int begin_run(struct sums *s, bool clean)
{
	if (!clean)
		sum_add_loose(&s->rules, s->rules.start, s->limit);
	if (!clean)
		s->rules.start = s->limit;
	s->gen = s->rules.start + 1;
	s->rules.run = s->rules.settled = s->rules.start;
	s->limit = s->rules.start + RESERVE;
	return s->read_only ? 0 : super_write(s, false);
}

static int sum_begin(struct sums *s, const char *path, struct err *e)
{
	uint64_t unit = s->unit, bytes = s->bytes;
	bool clean = true;
	int r = super_read(s, &clean, &unit, &bytes);

	if (r == -EILSEQ)
		return store_error(e, -EINVAL, "is no store, or its head is damaged: choose another path, or remove it if "
			"its checksums may be lost");
	if (r == -ENOENT) {
		s->rules.base_zero = is_empty(s, 0);
		if (!s->rules.base_zero)
			log_warn("integrity store is new store=%s note=\"the disk has data: each block is protected from its "
				"next write on\"", path);
	}
	if (r < 0 && r != -ENOENT)
		return store_error(e, r, "cannot be read: check the storage below it");
	if (check_fit(s, unit, bytes, e) < 0)
		return -EINVAL;
	if (bytes < s->bytes && !is_empty(s, bytes))
		s->rules.base_zero = false; /* it grew by nobody knows what */
	if (!clean && s->read_only)
		return store_error(e, -EROFS, "was not closed in order: serve the disk once with write access");
	r = clean ? 0 : replay(s);
	r = r < 0 ? r : begin_run(s, clean);
	return r < 0 ? store_error(e, r, "cannot be brought up to date: check the storage below it") : 0;
}

int sum_open(struct sums *s, const struct integrity_conf *c, struct blk *store, struct err *e)
{
	static const uint8_t zeros[SUM_PAGE];
	int r = 0;

	if (!side)
		side = loop_new(&loop_epoll, SIDE_LOOP, e);
	if (!side)
		return -ENOMEM;
	s->rules.zero_crc = crc32c(0, zeros, s->unit);
	s->store = store;
	if (!store)
		r = open_store(s, c, e);
	if (r == 0 && blk_bytes(s->store) < store_bytes(s->bytes, s->unit))
		r = store_error(e, -EINVAL, "is too short for this disk: choose another path");
	return r < 0 ? r : sum_begin(s, c->store ? c->store : "-", e);
}

/* Nothing is in flight. The medium is flushed, so that every entry of this run is settled. */
void sum_close(struct sums *s)
{
	if (s->read_only || !side)
		return;
	for (unsigned i = 0; i < s->npages; i++)
		if (s->page[i].dirty)
			rw(s->store, BLK_WRITE, SUM_ENTRIES_AT + s->page[i].index * SUM_PAGE, SUM_PAGE, s->page[i].bytes);
	if (flush(s->data) < 0 || s->stuck_len)
		return; /* not in order: entries keep both candidates, an intent is done at the next opening */
	for (int i = 0; i < SUM_SLOTS; i++)
		if (s->slot[i].live && clear_page(s, sum_slot_at(i)) < 0)
			return;
	s->rules.start = s->gen;
	super_write(s, true);
}
