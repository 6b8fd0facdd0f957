/* SPDX-License-Identifier: BSD-3-Clause
 * A RAM disk: a sparse table of page numbers, shared by all loops without locks.
 *
 *   option   default  meaning
 *   size     -        capacity, 1 B to 16 PiB; memory is used for what is written, not for the size
 *
 * Invariants
 *  1. An entry is 0 (a hole, reads as zeros) or the number of a page on which the table holds one reference.
 *  2. A page in the table is never written. A write makes or takes another page and swaps the entry; so a lent
 *     page keeps its bytes, and every page that is read is wholly one version of its 4 KiB.
 *  3. A reader takes a reference and then looks at the entry again: when it is unchanged, the table held its
 *     reference at that moment, so the reader's is good.
 *  4. A part of a page changes by compare and swap from the page that was copied, on which the writer holds a
 *     reference, so that two loops that write parts of one page lose nothing.
 *  5. A mark of a region is set before the first entry in it and never cleared: an unmarked region is a hole.
 *     Marks let DISCARD and MAP of a huge empty disk skip what was never written. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "base/copy.h"
#include "block/blk.h"
#include "block/driver/driver.h"

enum {
	MARK_SHIFT = 10,             /* pages per small region: 4 MiB of data, one page of table */
	BIG_SHIFT = MARK_SHIFT + 12, /* pages per large region: 16 GiB of data, one page of marks */
	FETCH_LINES = 16,             /* of a page; the CPU goes on by itself */
	AHEAD = 8,                   /* pages whose memory is fetched before it is needed */
	ATOMIC_BYTES = 1 << 20,      /* any length would do: after a crash all is gone */
	SLICE_PAGES = 4096,          /* entries that DISCARD or MAP visits before others get their turn */
};

struct ram {
	_Atomic uint32_t *entry; /* [pages] */
	_Atomic uint8_t  *mark;  /* [pages >> MARK_SHIFT] */
	_Atomic uint8_t  *big;   /* [pages >> BIG_SHIFT] */
	uint64_t          pages;
};

struct ram_conf {
	uint64_t size;
};

static const struct conf_field ram_fields[] = {
	{ "size", CONF_BYTES, CONF_REQUIRED, offsetof(struct ram_conf, size), NULL, "512", "16PiB",
		"Capacity in bytes.", NULL },
	{ 0 },
};

static void set_mark(struct ram *ram, uint64_t page)
{
	_Atomic uint8_t *m = &ram->mark[page >> MARK_SHIFT];

	if (__builtin_expect(atomic_load_explicit(m, memory_order_relaxed) != 0, 1))
		return;
	atomic_store_explicit(&ram->big[page >> BIG_SHIFT], 1, memory_order_relaxed);
	atomic_store_explicit(m, 1, memory_order_relaxed);
}

/* The first page from `page` on, at most `end`, whose region is marked. */
static uint64_t skip_unmarked(const struct ram *ram, uint64_t page, uint64_t end)
{
	while (page < end) {
		if (!atomic_load_explicit(&ram->big[page >> BIG_SHIFT], memory_order_relaxed))
			page = ((page >> BIG_SHIFT) + 1) << BIG_SHIFT;
		else if (!atomic_load_explicit(&ram->mark[page >> MARK_SHIFT], memory_order_relaxed))
			page = ((page >> MARK_SHIFT) + 1) << MARK_SHIFT;
		else
			return page;
	}
	return end;
}

/* The page behind an entry with a reference of its own, or NULL for a hole. */
static void *ram_take(struct ram *ram, uint64_t page, uint32_t *ret_number, struct page_cache *pc)
{
	for (;;) {
		uint32_t n = atomic_load_explicit(&ram->entry[page], memory_order_acquire);
		void *p;

		*ret_number = n;
		if (!n)
			return NULL;
		p = page_at(n);
		if (!page_try_ref(p))
			continue;
		if (__builtin_expect(atomic_load_explicit(&ram->entry[page], memory_order_acquire) == n, 1))
			return p;
		page_put(pc, p);
	}
}

/* Gives the caller's reference on p (NULL: a hole) to the table. */
static void ram_swap(struct ram *ram, uint64_t page, void *p, struct page_cache *pc)
{
	uint32_t old;

	if (p)
		set_mark(ram, page);
	old = atomic_exchange_explicit(&ram->entry[page], p ? page_number(p) : 0, memory_order_acq_rel);
	if (old)
		page_put(pc, page_at(old));
}

static bool ram_swap_if(struct ram *ram, uint64_t page, uint32_t was, void *p, struct page_cache *pc)
{
	uint32_t expected = was;

	set_mark(ram, page);
	if (!atomic_compare_exchange_strong_explicit(&ram->entry[page], &expected, page_number(p),
		    memory_order_acq_rel, memory_order_relaxed))
		return false;
	if (was)
		page_put(pc, page_at(was));
	return true;
}

/* Where a request's data is, as it goes through its iov. */
struct cursor {
	const struct iovec *iov;
	size_t at; /* in iov[0] */
};

static void *cursor_here(const struct cursor *c)
{
	return (char *)c->iov->iov_base + c->at;
}

static size_t cursor_left(struct cursor *c)
{
	while (c->at == c->iov->iov_len) {
		c->iov++;
		c->at = 0;
	}
	return c->iov->iov_len - c->at;
}

static void cursor_read(struct cursor *c, void *to, size_t len)
{
	while (len) {
		size_t n = MIN(len, cursor_left(c));
		memcpy(to, cursor_here(c), n);
		c->at += n;
		to = (char *)to + n;
		len -= n;
	}
}

static void cursor_write(struct cursor *c, const void *from, size_t len)
{
	while (len) {
		size_t n = MIN(len, cursor_left(c));
		memcpy(cursor_here(c), from, n);
		c->at += n;
		from = (const char *)from + n;
		len -= n;
	}
}

/* Part of a page: data NULL means zeros. */
static int ram_patch(struct ram *ram, uint64_t page, size_t at, size_t len, struct cursor *data,
	struct page_cache *pc)
{
	char *fresh = page_get(pc);
	bool done;

	if (!fresh)
		return -ENOMEM;
	do {
		struct cursor c = data ? *data : (struct cursor){ 0 };
		uint32_t n;
		void *old = ram_take(ram, page, &n, pc);

		if (!old && !data)
			break; /* zeros into a hole */
		copy_cold(fresh, old ? old : page_zero(), PAGE_BYTES);
		if (data)
			cursor_read(&c, fresh + at, len);
		else
			memset(fresh + at, 0, len);
		done = ram_swap_if(ram, page, n, fresh, pc);
		if (old)
			page_put(pc, old);
		if (done) {
			if (data)
				*data = c;
			return 0;
		}
	} while (true);
	page_put(pc, fresh);
	return 0;
}

/* A whole page: taken when it is one and the caller lets us, else copied. */
static int ram_put_page(struct ram *ram, uint64_t page, bool may_take, struct cursor *c, struct page_cache *pc)
{
	size_t left = cursor_left(c);
	void *p = cursor_here(c);

	if (may_take && left >= PAGE_BYTES && ((uintptr_t)p & (PAGE_BYTES - 1)) == 0) {
		page_ref(p);
		c->at += PAGE_BYTES;
	} else {
		void *fresh = page_get(pc);

		if (!fresh)
			return -ENOMEM;
		if (left >= PAGE_BYTES) {
			copy_cold(fresh, p, PAGE_BYTES);
			c->at += PAGE_BYTES;
		} else {
			cursor_read(c, fresh, PAGE_BYTES);
		}
		p = fresh;
	}
	ram_swap(ram, page, p, pc);
	return 0;
}

/* What is random to the reader is a miss for the cache in each of the entry, the count of its page and the data. */
static uint32_t fetch_count(const struct ram *ram, uint64_t page)
{
	uint32_t n = atomic_load_explicit(&ram->entry[page], memory_order_relaxed);

	__builtin_prefetch(&page_arena.refs[n], 1);
	return n;
}

static void fetch_page(const struct ram *ram, uint64_t page)
{
	uint32_t n = fetch_count(ram, page);
	const char *p = page_at(n);

	for (int line = 0; n && line < FETCH_LINES; line++)
		__builtin_prefetch(p + line * 64);
}

static void ram_write(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);
	struct ram *ram = (struct ram *)(uintptr_t)io->scratch[0];
	struct page_cache *pc = loop_pages(io->loop);
	struct cursor c = { .iov = io->req.iov };
	uint64_t off = io->req.off, end = off + io->req.len;
	int r = 0;

	while (off < end) {
		size_t at = off & (PAGE_BYTES - 1), n = MIN(PAGE_BYTES - at, end - off);

		if (off + AHEAD * PAGE_BYTES < end)
			fetch_count(ram, off / PAGE_BYTES + AHEAD);
		if (n == PAGE_BYTES)
			r = ram_put_page(ram, off / PAGE_BYTES, io->req.flags & BLK_PAGES, &c, pc);
		else
			r = ram_patch(ram, off / PAGE_BYTES, at, n, &c, pc);
		if (r < 0)
			break;
		off += n;
	}
	if (r < 0)
		blk_fail_at(io, r, off);
	else
		blk_done(io, 0);
}

static void ram_lend(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);
	struct ram *ram = (struct ram *)(uintptr_t)io->scratch[0];
	struct page_cache *pc = loop_pages(io->loop);
	uint64_t off = io->req.off, end = off + io->req.len;
	int niov = 0;

	while (off < end) {
		size_t at = off & (PAGE_BYTES - 1), n = MIN(PAGE_BYTES - at, end - off);
		uint32_t number;

		if (off + AHEAD * PAGE_BYTES < end)
			fetch_page(ram, off / PAGE_BYTES + AHEAD);
		char *p = ram_take(ram, off / PAGE_BYTES, &number, pc);

		if (!p) {
			p = page_zero();
			page_ref(p);
		}
		io->req.iov[niov++] = (struct iovec){ p + at, n };
		off += n;
	}
	io->req.niov = niov;
	blk_done(io, 0);
}

static void ram_fetch(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);
	struct ram *ram = (struct ram *)(uintptr_t)io->scratch[0];
	uint64_t page = io->req.off / PAGE_BYTES, end = (io->req.off + io->req.len - 1) / PAGE_BYTES + 1;
	bool write = io->req.op == BLK_WRITE;

	for (end = MIN(end, page + AHEAD); page < end; page++) {
		if (write)
			fetch_count(ram, page);
		else
			fetch_page(ram, page);
	}
	io->task.run = write ? ram_write : ram_lend;
	loop_defer(io->loop, t);
}

/* In three steps, each deferred: all commands of a turn take the first, then all take the second, so that their
 * cache misses overlap. */
static void ram_begin(struct ram *ram, struct blk_io *io)
{
	__builtin_prefetch(&ram->entry[io->req.off / PAGE_BYTES], 1);
	io->scratch[0] = (uintptr_t)ram;
	io->task.run = ram_fetch;
	loop_defer(io->loop, &io->task);
}

static void ram_read(struct ram *ram, struct blk_io *io)
{
	struct page_cache *pc = loop_pages(io->loop);
	struct cursor c = { .iov = io->req.iov };
	uint64_t off = io->req.off, end = off + io->req.len;

	if (io->req.flags & BLK_LEND) {
		ram_begin(ram, io);
		return;
	}
	while (off < end) {
		size_t at = off & (PAGE_BYTES - 1), n = MIN(PAGE_BYTES - at, end - off);
		uint32_t number;
		char *p = ram_take(ram, off / PAGE_BYTES, &number, pc);

		cursor_write(&c, (p ? p : (char *)page_zero()) + at, n);
		if (p)
			page_put(pc, p);
		off += n;
	}
	blk_done(io, 0);
}

/* Drops pages from `page` on, at most a slice; returns where it stopped. */
static uint64_t ram_drop_some(struct ram *ram, uint64_t page, uint64_t end, struct page_cache *pc)
{
	for (int i = 0; i < SLICE_PAGES && page < end; i++, page++) {
		if (i == 0 || (page & ((1 << MARK_SHIFT) - 1)) == 0)
			page = skip_unmarked(ram, page, end);
		if (page < end && atomic_load_explicit(&ram->entry[page], memory_order_relaxed))
			ram_swap(ram, page, NULL, pc);
		if (page == end)
			break;
	}
	return page;
}

/* scratch: [0] the disk, [1] the next page, [2] the end. */
static void ram_drop_more(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);
	struct ram *ram = (struct ram *)(uintptr_t)io->scratch[0];

	io->scratch[1] = ram_drop_some(ram, io->scratch[1], io->scratch[2], loop_pages(io->loop));
	if (io->scratch[1] < io->scratch[2])
		loop_at_turn_end(io->loop, &io->task); /* once a turn, so that others get theirs */
	else
		blk_done(io, 0);
}

/* The parts of pages at both ends become zeros, the whole pages between them holes. */
static void ram_drop(struct ram *ram, struct blk_io *io)
{
	struct page_cache *pc = loop_pages(io->loop);
	uint64_t off = io->req.off, end = off + io->req.len;
	uint64_t first = (off + PAGE_BYTES - 1) / PAGE_BYTES, last = end / PAGE_BYTES;
	int r = 0;

	if (off / PAGE_BYTES == end / PAGE_BYTES && (off & (PAGE_BYTES - 1))) {
		r = ram_patch(ram, off / PAGE_BYTES, off & (PAGE_BYTES - 1), end - off, NULL, pc);
	} else {
		if (off & (PAGE_BYTES - 1))
			r = ram_patch(ram, off / PAGE_BYTES, off & (PAGE_BYTES - 1),
				first * PAGE_BYTES - off, NULL, pc);
		if (r == 0 && (end & (PAGE_BYTES - 1)))
			r = ram_patch(ram, last, 0, end & (PAGE_BYTES - 1), NULL, pc);
	}
	if (r < 0) {
		blk_fail_at(io, r, off);
		return;
	}
	io->scratch[0] = (uintptr_t)ram;
	io->scratch[1] = first;
	io->scratch[2] = MAX(first, last);
	io->task.run = ram_drop_more;
	io->task.run(&io->task);
}

static bool ram_is_data(const struct ram *ram, uint64_t page)
{
	return atomic_load_explicit(&ram->entry[page], memory_order_relaxed) != 0;
}

/* Where the run of pages like `page` ends, at most `end`; looks at no more than *budget entries. */
static uint64_t ram_run_end(const struct ram *ram, uint64_t page, uint64_t end, bool data, int *budget)
{
	while (page < end && *budget > 0) {
		if (!data) {
			page = skip_unmarked(ram, page, end);
			if (page == end)
				break;
		}
		if (ram_is_data(ram, page) != data)
			break;
		page++;
		--*budget;
	}
	return page;
}

static void ram_map(struct ram *ram, struct blk_io *io)
{
	uint64_t off = io->req.off, end = off + io->req.len, last = (end + PAGE_BYTES - 1) / PAGE_BYTES;
	int budget = 16 * SLICE_PAGES, n = 0;

	while (off < end && n < io->req.nmap && budget > 0) {
		bool data = ram_is_data(ram, off / PAGE_BYTES);
		uint64_t to = ram_run_end(ram, off / PAGE_BYTES, last, data, &budget) * PAGE_BYTES;

		/* A page that changed between the two looks counts as what it was. */
		to = MIN(MAX(to, (off / PAGE_BYTES + 1) * PAGE_BYTES), end);
		io->req.map[n++] = (struct blk_extent){ off, to - off, data ? BLK_DATA : BLK_HOLE };
		off = to;
	}
	io->req.nmap = n;
	blk_done(io, 0);
}

/* --- copies between RAM disks: a further reference to each page --- */

/* Pages of which neither disk ever held anything. */
static uint64_t both_unmarked(const struct ram *to, uint64_t page, const struct ram *from, uint64_t src, uint64_t n)
{
	return MIN(skip_unmarked(to, page, page + n) - page, skip_unmarked(from, src, src + n) - src);
}

static int copy_part(struct ram *to, uint64_t off, struct ram *from, uint64_t src, size_t n, struct page_cache *pc)
{
	uint32_t number;
	char *p = ram_take(from, src / PAGE_BYTES, &number, pc);
	size_t at = off & (PAGE_BYTES - 1);
	struct iovec v = { p ? p + at : NULL, n };
	struct cursor c = { .iov = &v };

	if (n == PAGE_BYTES) {
		ram_swap(to, off / PAGE_BYTES, p, pc);
		return 0;
	}
	int r = ram_patch(to, off / PAGE_BYTES, at, n, p ? &c : NULL, pc);
	if (p)
		page_put(pc, p);
	return r;
}

/* scratch: [0] the disk, [1] bytes done. */
static void ram_copy_more(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);
	struct ram *to = (struct ram *)(uintptr_t)io->scratch[0], *from = blk_bottom(io->req.from)->priv;
	uint64_t done = io->scratch[1], len = io->req.len;
	int r = 0;

	for (int i = 0; i < SLICE_PAGES && done < len && r == 0; i++) {
		uint64_t off = io->req.off + done, src = io->req.from_off + done;
		size_t n = MIN(PAGE_BYTES - (off & (PAGE_BYTES - 1)), len - done);
		uint64_t skip = (off & ((PAGE_BYTES << MARK_SHIFT) - 1)) && i ? 0 : both_unmarked(to, off / PAGE_BYTES,
			from, src / PAGE_BYTES, (len - done) / PAGE_BYTES);
		if (skip) {
			done += skip * PAGE_BYTES - (off & (PAGE_BYTES - 1));
		} else {
			r = copy_part(to, off, from, src, n, loop_pages(io->loop));
			done += r ? 0 : n;
		}
	}
	io->scratch[1] = done;
	if (r < 0)
		blk_fail_at(io, r, io->req.off + done);
	else if (done < len)
		loop_at_turn_end(io->loop, &io->task); /* once a turn, so that others get theirs */
	else
		blk_done(io, 0);
}

static bool ranges_meet(uint64_t a, uint64_t b, uint64_t len)
{
	return a < b + len && b < a + len;
}

static void ram_copy(struct ram *ram, struct blk_io *io)
{
	const struct blk *from = blk_bottom(io->req.from);

	if (from->ops != &blk_ram || ((io->req.off ^ io->req.from_off) & (PAGE_BYTES - 1)) ||
	    (from->priv == ram && ranges_meet(io->req.off, io->req.from_off, io->req.len))) {
		blk_done(io, -EOPNOTSUPP);
		return;
	}
	io->scratch[0] = (uintptr_t)ram;
	io->scratch[1] = 0;
	io->task.run = ram_copy_more;
	io->task.run(&io->task);
}

static void ram_flush(struct ram *ram, struct blk_io *io)
{
	blk_done(io, 0);
}

static void ram_submit(struct blk *b, struct blk_io *io)
{
	static void (*const exec[BLK_OPS])(struct ram *ram, struct blk_io *io) = {
		[BLK_READ] = ram_read,     [BLK_WRITE] = ram_begin, [BLK_FLUSH] = ram_flush,
		[BLK_DISCARD] = ram_drop, [BLK_ZERO] = ram_drop,   [BLK_MAP] = ram_map,
		[BLK_COPY] = ram_copy,
	};

	exec[io->req.op](b->priv, io);
}

static void *map_table(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static size_t entry_bytes(const struct ram *ram)
{
	return (ram->pages + 1) * sizeof(*ram->entry);
}

static size_t mark_bytes(const struct ram *ram)
{
	return (ram->pages >> MARK_SHIFT) + 1;
}

static size_t big_bytes(const struct ram *ram)
{
	return (ram->pages >> BIG_SHIFT) + 1;
}

static void ram_unmap(struct ram *ram)
{
	if (ram->entry)
		munmap(ram->entry, entry_bytes(ram));
	if (ram->mark)
		munmap(ram->mark, mark_bytes(ram));
	if (ram->big)
		munmap(ram->big, big_bytes(ram));
}

static int ram_open(struct blk *b, const void *conf, struct err *e)
{
	const struct ram_conf *c = conf;
	struct ram *ram = b->priv;

	ram->pages = c->size / PAGE_BYTES + (c->size % PAGE_BYTES != 0);
	ram->entry = map_table(entry_bytes(ram));
	ram->mark = map_table(mark_bytes(ram));
	ram->big = map_table(big_bytes(ram));
	if (!ram->entry || !ram->mark || !ram->big) {
		ram_unmap(ram);
		return err_at(e, -ENOMEM, "size", "no address space for the table of a RAM disk of %llu bytes: "
			"make it smaller, or raise the limit (ulimit -v, vm.overcommit_memory)",
			(unsigned long long)c->size);
	}
	b->bytes = c->size;
	b->caps = BLK_CAN_DISCARD | BLK_CAN_LEND | BLK_CAN_MAP | BLK_CAN_COPY | BLK_VOLATILE;
	b->untorn_bytes = ATOMIC_BYTES;
	b->discard_bytes = PAGE_BYTES;
	return 0;
}

static void ram_close(struct blk *b)
{
	struct ram *ram = b->priv;
	struct page_cache *pc = page_cache_new(); /* the control thread has no loop of its own here */

	for (uint64_t page = 0; pc && page < ram->pages;)
		page = ram_drop_some(ram, page, ram->pages, pc);
	if (pc)
		page_cache_free(pc);
	ram_unmap(ram);
}

const struct blk_ops blk_ram = {
	.name = "ram",
	.priv_bytes = sizeof(struct ram),
	.conf_bytes = sizeof(struct ram_conf),
	.config = ram_fields,
	.open = ram_open,
	.close = ram_close,
	.submit = ram_submit,
};
