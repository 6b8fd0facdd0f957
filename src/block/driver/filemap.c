/* SPDX-License-Identifier: BSD-3-Clause
 * Reads of a file that is in page cache, without a copy: the reader is lent a mapping of the file. For reads whose data
 * only goes to a socket (BLK_SEND): the kernel reads the mapping, and where the file was cut short meanwhile the send
 * fails and no signal comes.
 *
 * A page that is not in memory must never be touched, since that would stop the loop for the medium. mincore(2)
 * says so exactly, but at 4 KiB it costs as much as the copy that it saves. So short reads ask it for 64 pages at
 * a time and keep the answer, a bit per page. Whether such a page is still there cachestat(2) says (Linux 6.5),
 * which is quick, but also counts pages that are being read just now: when one is found gone, its bit and those of
 * what readahead may fetch behind it are cleared. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "block/driver/file.h"

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

enum {
	SHORT_BYTES = 32 << 10,     /* up to here cachestat() beats mincore() */
	FORGET_BYTES = 16 << 20,    /* readahead goes no further than this */
	FETCH_BYTES = 1024,
	MINCORE_PAGES = 256,        /* one request's worth: 1 MiB */
	WORD = 64,                  /* pages to a word of bits */
};
struct range { uint64_t off, len; };
struct counts { uint64_t cached, dirty, writeback, evicted, recently_evicted; };

static bool cachestat_works(int fd)
{
	struct range r = { 0, PAGE_BYTES };
	struct counts n;

	return syscall(SYS_cachestat, fd, &r, &n, 0) == 0;
}

/* To anyone else mincore() reports everything as resident. */
static bool may_ask(int fd, bool writable)
{
	struct stat st;

	return writable || (fstat(fd, &st) == 0 && (st.st_uid == geteuid() || geteuid() == 0));
}

void filemap_open(struct blk *b)
{
	struct file *f = b->priv;
	uint64_t bytes = blk_bytes(b) & ~(uint64_t)(PAGE_BYTES - 1);
	void *p;

	if (f->op_flags || loop_sim_fd(f->fd) || !bytes || !may_ask(f->fd, !(b->caps & BLK_READ_ONLY)))
		return;
	p = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, f->fd, 0);
	if (p == MAP_FAILED)
		return;
	f->seen = mmap(NULL, bytes / PAGE_BYTES / 8 + 8, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (f->seen == MAP_FAILED) {
		munmap(p, bytes);
		return;
	}
	f->map = p;
	f->map_bytes = bytes;
	f->cachestat = cachestat_works(f->fd);
}

/* A send may still hold addresses of the mapping, for a reader who is slow. The file goes, its addresses are never
 * used again: such a send then fails, where it would send whatever came to lie there. */
static void retire(void *p, size_t bytes)
{
	(void)mmap(p, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void filemap_close(struct blk *b)
{
	struct file *f = b->priv;

	if (!f->map)
		return;
	retire(f->map, f->map_bytes);
	munmap(f->seen, f->map_bytes / PAGE_BYTES / 8 + 8);
	f->map = NULL;
}

static uint64_t pages_end(uint64_t off, uint64_t len)
{
	return (off + len + PAGE_BYTES - 1) / PAGE_BYTES;
}

static bool was_seen(const struct file *f, uint64_t off, uint64_t len)
{
	uint64_t page = off / PAGE_BYTES, end = pages_end(off, len);

	while (page < end && atomic_load_explicit(&f->seen[page / WORD], memory_order_relaxed) >> page % WORD & 1)
		page++;
	return page == end;
}

static void forget(struct file *f, uint64_t off)
{
	uint64_t word = off / PAGE_BYTES / WORD;
	uint64_t end = MIN(off + FORGET_BYTES, f->map_bytes) / PAGE_BYTES / WORD;

	for (; word <= end; word++)
		if (atomic_load_explicit(&f->seen[word], memory_order_relaxed))
			atomic_store_explicit(&f->seen[word], 0, memory_order_relaxed);
}

/* Asks for the pages of one word of bits. */
static void learn(struct file *f, uint64_t word)
{
	uint64_t first = word * WORD, n = MIN((uint64_t)WORD, f->map_bytes / PAGE_BYTES - first), bits = 0;
	unsigned char in[WORD];

	if (mincore(f->map + first * PAGE_BYTES, n * PAGE_BYTES, in))
		return;
	for (uint64_t i = 0; i < n; i++)
		bits |= (uint64_t)(in[i] & 1) << i;
	atomic_store_explicit(&f->seen[word], bits, memory_order_relaxed);
}

static bool short_resident(struct file *f, uint64_t off, uint64_t len)
{
	uint64_t pages = pages_end(off, len) - off / PAGE_BYTES;
	struct range r = { off, len };
	struct counts n;

	if (!f->cachestat)
		return false;
	if (!was_seen(f, off, len))
		learn(f, off / PAGE_BYTES / WORD);
	if (!was_seen(f, off, len)) /* not there, or in two words the second of which is not known */
		return false;
	if (syscall(SYS_cachestat, f->fd, &r, &n, 0) == 0 && n.cached >= pages)
		return true;
	forget(f, off);
	return false;
}

static bool long_resident(struct file *f, uint64_t off, uint64_t len)
{
	uint64_t first = off / PAGE_BYTES, n = pages_end(off, len) - first;
	unsigned char in[MINCORE_PAGES + 1];

	if (n > sizeof(in) || mincore(f->map + first * PAGE_BYTES, n * PAGE_BYTES, in))
		return false;
	for (uint64_t i = 0; i < n; i++)
		if (!(in[i] & 1))
			return false;
	return true;
}

/* The send shall find the beginning in cache; the CPU goes on by itself. Where there is no page nothing happens. */
static void fetch(const char *p, size_t len)
{
	for (size_t at = 0; at < MIN(len, (size_t)FETCH_BYTES); at += 64)
		__builtin_prefetch(p + at);
}

bool filemap_lend(struct blk *b, struct blk_io *io)
{
	struct file *f = b->priv;
	uint64_t off = io->req.off, len = io->req.len;
	int n = 0;

	if (!(io->req.flags & BLK_SEND) || off + len > f->map_bytes)
		return false;
	/* The last page of a file that was cut short is there, with zeros for what is gone. */
	if (off + len > atomic_load_explicit(&f->limit, memory_order_relaxed))
		return false;
	if (!(len <= SHORT_BYTES ? short_resident(f, off, len) : long_resident(f, off, len)))
		return false;
	while (len) {
		size_t part = MIN(len, PAGE_BYTES - (off & (PAGE_BYTES - 1)));

		io->req.iov[n++] = (struct iovec){ f->map + off, part };
		if (io->req.len <= SHORT_BYTES)
			fetch(f->map + off, part);
		off += part;
		len -= part;
	}
	io->req.niov = n;
	return true;
}
