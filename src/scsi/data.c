/* SPDX-License-Identifier: BSD-3-Clause
 * Data of a command: pages and the vector that names them. 18 entries lie in the command, 256 in a page, and
 * the longest transfer in a block from the loop's free list. On the command's loop. */
#include "scsi/priv.h"

static struct iov_block *iov_block_get(struct scsi_loop *sl)
{
	struct iov_block *b = sl->iov_free;

	if (!b)
		return malloc(sizeof(*b)); /* the list grows to what is in use at once */
	sl->iov_free = b->next;
	sl->niov_free--;
	return b;
}

static void iov_block_put(struct scsi_loop *sl, struct iov_block *b)
{
	if (sl->niov_free == IOV_BLOCKS_KEPT) {
		free(b);
		return;
	}
	b->next = sl->iov_free;
	sl->iov_free = b;
	sl->niov_free++;
}

void scsi_loop_free_iov(struct scsi_loop *sl)
{
	while (sl->iov_free) {
		struct iov_block *b = sl->iov_free;
		sl->iov_free = b->next;
		free(b);
	}
}

static void iov_release(struct scsi_cmd *c)
{
	if (c->iov_max == IOV_PAGE)
		page_put(loop_pages(c->loop), c->iov);
	else if (c->iov_max == IOV_BLOCK)
		iov_block_put(scsi_loop(c->loop), container_of(c->iov, struct iov_block, iov));
	c->iov = c->iov_inline;
	c->iov_max = SCSI_IOV_INLINE;
}

/* Room for n entries; the vector must be empty. */
int scsi_iov_reserve(struct scsi_cmd *c, unsigned n)
{
	void *p;

	if (likely(n <= (unsigned)c->iov_max))
		return 0;
	if (n > IOV_BLOCK)
		return -EMSGSIZE;
	iov_release(c);
	if (n <= IOV_PAGE)
		p = page_get(loop_pages(c->loop));
	else
		p = iov_block_get(scsi_loop(c->loop));
	if (!p)
		return -ENOMEM;
	c->iov = p;
	c->iov_max = n <= IOV_PAGE ? IOV_PAGE : IOV_BLOCK;
	return 0;
}

int scsi_data_alloc(struct scsi_cmd *c, uint32_t len)
{
	struct page_cache *pc = loop_pages(c->loop);
	int e;

	if (len > LIM_TRANSFER)
		return -EMSGSIZE;
	if (c->niov)
		scsi_data_free(c);
	e = scsi_iov_reserve(c, (len + PAGE_BYTES - 1) / PAGE_BYTES);
	if (e)
		return e;
	for (; len; c->niov++) {
		void *p = page_get(pc);
		if (!p) {
			scsi_data_free(c);
			return -ENOMEM;
		}
		c->iov[c->niov] = (struct iovec){ p, MIN(len, PAGE_BYTES) };
		len -= (uint32_t)c->iov[c->niov].iov_len;
	}
	return 0;
}

int scsi_pages_get(struct loop *l, struct iovec *iov, uint64_t len)
{
	int n = 0;

	for (; len; n++) {
		void *p = page_get(loop_pages(l));
		if (!p) {
			scsi_pages_put(l, iov, n);
			return -ENOMEM;
		}
		iov[n] = (struct iovec){ p, MIN(len, PAGE_BYTES) };
		len -= iov[n].iov_len;
	}
	return n;
}

void scsi_pages_put(struct loop *l, const struct iovec *iov, int n)
{
	for (int i = 0; i < n; i++)
		page_put(loop_pages(l), iov[i].iov_base);
}

/* A longer vector with the same entries. */
static int iov_grow(struct scsi_cmd *c, unsigned n)
{
	struct iovec *old = c->iov;
	int max = c->iov_max, r;

	if (n <= (unsigned)max)
		return 0;
	c->iov = c->iov_inline;
	c->iov_max = SCSI_IOV_INLINE;
	r = scsi_iov_reserve(c, n);
	if (r) {
		c->iov = old;
		c->iov_max = max;
		return r;
	}
	memcpy(c->iov, old, (size_t)c->niov * sizeof(*old));
	if (max == IOV_PAGE)
		page_put(loop_pages(c->loop), old);
	else if (max == IOV_BLOCK)
		iov_block_put(scsi_loop(c->loop), container_of(old, struct iov_block, iov));
	return 0;
}

int scsi_data_extend(struct scsi_cmd *c, uint32_t len)
{
	struct page_cache *pc = loop_pages(c->loop);
	uint32_t n = (len + (uint32_t)PAGE_BYTES - 1) / (uint32_t)PAGE_BYTES;

	if (len > LIM_TRANSFER)
		return -EMSGSIZE;
	if (!c->niov)
		return scsi_data_alloc(c, len);
	int r = iov_grow(c, n);
	if (r)
		return r;
	while ((unsigned)c->niov < n) {
		void *p = page_get(pc);
		if (!p)
			return -ENOMEM; /* what there is stays; scsi_cmd_fini() puts it */
		c->iov[c->niov - 1].iov_len = PAGE_BYTES;
		c->iov[c->niov++] = (struct iovec){ p, PAGE_BYTES };
	}
	c->iov[n - 1].iov_len = len - (n - 1) * PAGE_BYTES;
	return 0;
}

void scsi_data_free(struct scsi_cmd *c)
{
	struct page_cache *pc = loop_pages(c->loop);

	for (int i = 0; i < c->niov; i++)
		page_put(pc, c->iov[i].iov_base);
	c->niov = 0;
	if (unlikely(c->iov_max != SCSI_IOV_INLINE))
		iov_release(c);
}

void scsi_data_trim(struct scsi_cmd *c, uint64_t len)
{
	struct page_cache *pc = loop_pages(c->loop);
	int keep = 0;

	for (; keep < c->niov && len; keep++) {
		c->iov[keep].iov_len = MIN(len, c->iov[keep].iov_len);
		len -= c->iov[keep].iov_len;
	}
	for (int i = keep; i < c->niov; i++)
		page_put(pc, c->iov[i].iov_base);
	c->niov = keep;
}

/* Copies between buf and the data at byte `at`, as far as there is data. */
static void data_copy(const struct scsi_cmd *c, size_t at, uint8_t *buf, size_t n, bool put)
{
	for (int i = 0; i < c->niov && n; i++) {
		size_t len = c->iov[i].iov_len;
		if (at >= len) {
			at -= len;
			continue;
		}
		size_t part = MIN(n, len - at);
		uint8_t *p = (uint8_t *)c->iov[i].iov_base + at;
		if (put)
			memcpy(p, buf, part);
		else
			memcpy(buf, p, part);
		buf += part;
		n -= part;
		at = 0;
	}
}

void scsi_data_put(struct scsi_cmd *c, size_t at, const void *src, size_t n)
{
	data_copy(c, at, (uint8_t *)src, n, true);
}

void scsi_data_get(const struct scsi_cmd *c, size_t at, void *dst, size_t n)
{
	data_copy(c, at, dst, n, false);
}
