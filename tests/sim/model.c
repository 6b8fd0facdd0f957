/* SPDX-License-Identifier: BSD-3-Clause */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum { PRUNE_AT = 24 };

struct version {
	uint64_t id, content;  /* content: id, or 0 for zeros */
	uint64_t began, ended; /* UINT64_MAX: still under way, or lost */
	uint64_t directly;     /* what it replaced had ended then (COMPARE AND WRITE), else UINT64_MAX: not known */
	bool certain, durable;
	uint64_t stale;        /* reads that begin after it cannot see this: one has shown that another is the last */
};

struct block {
	struct version *v;
	unsigned n, room;
	uint64_t *base;        /* contents that it may have had before all versions */
	unsigned nbase;
	uint64_t base_stale;
	uint64_t *found;       /* contents that a COMPARE AND WRITE has replaced, since the last power cut */
	unsigned nfound;
};

static struct {
	struct block *block;
	unsigned nblocks;
	uint64_t moment, next_id, cut; /* cut: the moment of the last power cut */
} m;

void model_init(unsigned nblocks)
{
	m.nblocks = nblocks;
	m.block = calloc(nblocks, sizeof(*m.block));
	m.moment = m.next_id = 1;
	m.cut = 0;
	for (unsigned i = 0; i < nblocks; i++) {
		m.block[i].base = calloc(1, sizeof(uint64_t));
		m.block[i].nbase = 1;
		m.block[i].base_stale = UINT64_MAX;
	}
}

void model_fini(void)
{
	for (unsigned i = 0; i < m.nblocks; i++) {
		free(m.block[i].v);
		free(m.block[i].base);
		free(m.block[i].found);
	}
	free(m.block);
}

uint64_t model_moment(void)
{
	return ++m.moment;
}

/* b certainly comes after a: a was over when b began. Or a directly follows what was over then, so that b does not
 * fit in between. */
static bool after(const struct version *b, const struct version *a)
{
	return b->began > a->ended || (b != a && b->began > a->directly);
}

static bool replaced_durably(const struct block *b, const struct version *v)
{
	for (unsigned i = 0; i < b->n; i++)
		if (b->v[i].durable && b->v[i].certain && (!v || after(&b->v[i], v)))
			return true;
	return false;
}

/* Whether a read that began then could no longer see v (NULL: what was before all). */
static bool replaced(const struct block *b, const struct version *v, uint64_t read_began)
{
	for (unsigned i = 0; i < b->n; i++) {
		const struct version *w = &b->v[i];
		if (w != v && w->certain && w->ended < read_began && (!v || after(w, v)))
			return true;
	}
	return false;
}

/* --- writes --- */

static struct version *find(struct block *b, uint64_t id)
{
	for (unsigned i = 0; i < b->n; i++)
		if (b->v[i].id == id)
			return &b->v[i];
	return NULL;
}

static void drop(struct block *b, struct version *v)
{
	*v = b->v[--b->n];
}

/* What can neither be read nor come back. Reads under way are covered by a margin of moments. */
static void prune(struct block *b)
{
	for (unsigned i = b->n; i-- > 0;)
		if (b->v[i].ended + 4096 < m.moment && replaced_durably(b, &b->v[i]) &&
			replaced(b, &b->v[i], m.moment - 2048))
			drop(b, &b->v[i]);
}

static uint64_t begin_write(unsigned lba, unsigned n, bool zero, uint64_t content)
{
	uint64_t id = ++m.next_id, now = model_moment();
	for (unsigned i = lba; i < lba + n; i++) {
		struct block *b = &m.block[i];
		if (b->n >= PRUNE_AT)
			prune(b);
		if (b->n == b->room) {
			b->room = 2 * b->room + 8;
			b->v = realloc(b->v, b->room * sizeof(*b->v));
			CHECK(b->v);
		}
		b->v[b->n++] = (struct version){ .id = id, .content = zero ? 0 : content ? content : id, .began = now, .ended = UINT64_MAX,
			.stale = UINT64_MAX, .directly = UINT64_MAX };
	}
	return id;
}

uint64_t model_write(unsigned lba, unsigned n, bool zero)
{
	return begin_write(lba, n, zero, 0);
}

uint64_t model_write_again(uint64_t content, unsigned lba, unsigned n, bool zero)
{
	return begin_write(lba, n, zero, content);
}

static void version_end(struct block *b, struct version *v, enum write_end how)
{
	if (how == WRITE_NEVER) {
		drop(b, v);
		return;
	}
	if (v->ended > m.moment && how != WRITE_LOST)
		v->ended = m.moment;
	if (how == WRITE_DONE || how == WRITE_DURABLE)
		v->certain = true;
	if (how == WRITE_DURABLE)
		v->durable = true;
}

void model_write_end(uint64_t id, unsigned lba, unsigned n, enum write_end how)
{
	model_moment();
	for (unsigned i = lba; i < lba + n; i++) {
		struct version *v = find(&m.block[i], id);
		if (v)
			version_end(&m.block[i], v, how);
	}
}

void model_settle(uint64_t id, unsigned lba, unsigned n)
{
	model_write_end(id, lba, n, WRITE_MAYBE);
}

/* --- contents --- */

static uint64_t word(uint64_t id, unsigned lba, unsigned k)
{
	uint64_t z = (id << 20 ^ lba) * 0x9e3779b97f4a7c15 + k;
	z = (z ^ z >> 31) * 0xbf58476d1ce4e5b9;
	return z ^ z >> 29;
}

static void block_fill(uint64_t content, unsigned lba, uint64_t *p)
{
	if (!content) {
		memset(p, 0, BLOCK);
		return;
	}
	p[0] = content;
	p[1] = lba;
	for (unsigned k = 2; k < BLOCK / 8; k++)
		p[k] = word(content, lba, k);
}

void model_fill(uint64_t id, unsigned lba, unsigned n, void *data)
{
	uint64_t block[BLOCK / 8];
	for (unsigned i = 0; i < n; i++) {
		block_fill(id, lba + i, block);
		memcpy((char *)data + i * BLOCK, block, BLOCK);
	}
}

/* --- reads --- */

/* The read has shown which of the candidates it was. */
static void learn(struct block *b, struct version *v, uint64_t began)
{
	bool quiet = true;
	if (!v->certain) {
		v->certain = true;
		v->ended = v->ended > m.moment ? m.moment : v->ended;
	}
	for (unsigned i = 0; i < b->n; i++)
		quiet &= b->v[i].ended < began;
	for (unsigned i = 0; quiet && i < b->n; i++)
		if (&b->v[i] != v)
			b->v[i].stale = MIN(b->v[i].stale, m.moment);
	if (quiet)
		b->base_stale = MIN(b->base_stale, m.moment);
}

static bool base_may_be(struct block *b, uint64_t content, uint64_t began)
{
	if (began > b->base_stale || replaced(b, NULL, began))
		return false;
	for (unsigned i = 0; i < b->nbase; i++)
		if (b->base[i] == content)
			return true;
	return false;
}

static bool block_may_be(struct block *b, uint64_t content, uint64_t began)
{
	struct version *match = NULL;
	unsigned n = 0;
	for (unsigned i = 0; i < b->n; i++) {
		struct version *v = &b->v[i];
		if (v->content == content && began < v->stale && !replaced(b, v, began)) {
			match = v;
			n++;
		}
	}
	bool base = base_may_be(b, content, began);
	if (base && !n) {
		b->base[0] = content;
		b->nbase = 1;
	} else if (n == 1 && !base) {
		learn(b, match, began);
	}
	return base || n;
}

static void explain(const struct block *b, uint64_t began, unsigned lba, uint64_t got, char *why, size_t room)
{
	int at = snprintf(why, room, "block %u holds write %llu, read began at %llu; base", lba,
		(unsigned long long)got, (unsigned long long)began);
	for (unsigned i = 0; i < b->nbase && (size_t)at < room; i++)
		at += snprintf(why + at, room - (size_t)at, " %llu", (unsigned long long)b->base[i]);
	for (unsigned i = 0; i < b->n && (size_t)at < room; i++)
		at += snprintf(why + at, room - (size_t)at, "; write %llu [%llu, %lld]%s%s%s",
			(unsigned long long)b->v[i].id, (unsigned long long)b->v[i].began, (long long)b->v[i].ended,
			b->v[i].certain ? " certain" : "", b->v[i].durable ? " durable" : "",
			b->v[i].stale < began ? " stale" : "");
}

static bool block_read(uint64_t began, unsigned lba, const uint64_t *p, char *why, size_t room)
{
	uint64_t want[BLOCK / 8], content = p[0];
	block_fill(content, lba, want);
	if (memcmp(p, want, BLOCK)) {
		snprintf(why, room, "block %u is torn or foreign: begins with write %llu of block %llu", lba,
			(unsigned long long)p[0], (unsigned long long)p[1]);
		return false;
	}
	if (block_may_be(&m.block[lba], content, began))
		return true;
	explain(&m.block[lba], began, lba, content, why, room);
	return false;
}

bool model_read(uint64_t began, unsigned lba, unsigned n, const void *data, char *ret_why, size_t room)
{
	uint64_t block[BLOCK / 8];
	model_moment();
	for (unsigned i = 0; i < n && began > m.cut; i++) {
		memcpy(block, (const char *)data + i * BLOCK, BLOCK);
		if (!block_read(began, lba + i, block, ret_why, room))
			return false;
	}
	return true;
}

static bool found_before(const struct block *b, uint64_t content)
{
	for (unsigned i = 0; i < b->nfound; i++)
		if (b->found[i] == content)
			return true;
	return false;
}

/* When the write of this content was over, if there is no doubt which it was. */
static uint64_t ended_of(const struct block *b, uint64_t content)
{
	uint64_t ended = UINT64_MAX;
	unsigned n = 0;
	for (unsigned i = 0; i < b->n; i++) {
		if (b->v[i].content != content)
			continue;
		ended = b->v[i].ended;
		n++;
	}
	for (unsigned i = 0; i < b->nbase; i++) {
		if (b->base[i] != content)
			continue;
		ended = 0;
		n++;
	}
	return n == 1 && content ? ended : UINT64_MAX;
}

bool model_compared(uint64_t id, unsigned lba, uint64_t content, char *ret_why, size_t room)
{
	struct block *b = &m.block[lba];
	struct version *own = find(b, id);
	model_moment();
	if (!own)
		return true; /* a power cut came in between */
	if (content && found_before(b, content)) {
		snprintf(ret_why, room, "block %u: two COMPARE AND WRITE found write %llu", lba,
			(unsigned long long)content);
		return false;
	}
	if (!block_may_be(b, content, own->began)) {
		explain(b, own->began, lba, content, ret_why, room);
		return false;
	}
	own->directly = ended_of(b, content);
	b->found = realloc(b->found, (b->nfound + 1) * sizeof(*b->found));
	CHECK(b->found);
	b->found[b->nfound++] = content;
	return true;
}

/* --- durability --- */

void model_flushed(uint64_t began)
{
	if (began < m.cut)
		return;
	for (unsigned i = 0; i < m.nblocks; i++) {
		struct block *b = &m.block[i];
		for (unsigned k = 0; k < b->n; k++)
			if (b->v[k].certain && b->v[k].ended < began)
				b->v[k].durable = true;
	}
}

static void block_cut(struct block *b)
{
	uint64_t *base = calloc(b->nbase + b->n, sizeof(*base));
	unsigned n = 0;
	CHECK(base);
	for (unsigned i = 0; i < b->n; i++)
		if (!replaced_durably(b, &b->v[i]))
			base[n++] = b->v[i].content;
	if (!replaced_durably(b, NULL)) {
		memcpy(base + n, b->base, b->nbase * sizeof(*base));
		n += b->nbase;
	}
	CHECK(n);
	free(b->base);
	b->base = base;
	b->nbase = n;
	b->n = 0;
	b->base_stale = UINT64_MAX;
	b->nfound = 0;
}

void model_crash(bool power)
{
	uint64_t now = model_moment();
	for (unsigned i = 0; i < m.nblocks; i++) {
		struct block *b = &m.block[i];
		for (unsigned k = 0; k < b->n; k++)
			b->v[k].ended = b->v[k].ended > now ? now : b->v[k].ended;
		if (power)
			block_cut(b);
	}
	if (power)
		m.cut = now;
}
