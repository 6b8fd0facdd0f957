/* SPDX-License-Identifier: BSD-3-Clause
 * Entries of the integrity store: their bytes, and which of their candidates count. Pure. */
#include <errno.h>
#include <isa-l/crc.h>

#include "base/crc32c.h"
#include "block/filter/integrity.h"

enum { CHECK_SEED = 0x4c75, CHECKED = SUM_ENTRY - 2 };

static uint64_t le40(const uint8_t *p)
{
	return le32(p) | (uint64_t)p[4] << 32;
}

static uint16_t check_of(const uint8_t *p)
{
	return (uint16_t)crc32c(CHECK_SEED, p, CHECKED);
}

void sum_encode(uint8_t p[SUM_ENTRY], const struct sum_entry *e)
{
	memset(p, 0, SUM_ENTRY);
	if (!e->flags)
		return;
	put_le32(p, e->old.crc);
	put_le32(p + 4, e->new.crc);
	memcpy(p + 8, e->old.tuple, SUM_TUPLE);
	memcpy(p + 16, e->new.tuple, SUM_TUPLE);
	put_le32(p + 24, (uint32_t)e->gen);
	p[28] = (uint8_t)(e->gen >> 32);
	p[29] = e->flags;
	put_be16(p + CHECKED, check_of(p));
}

int sum_decode(const uint8_t p[SUM_ENTRY], struct sum_entry *e)
{
	static const uint8_t blank[SUM_ENTRY];

	memset(e, 0, sizeof(*e));
	if (!memcmp(p, blank, SUM_ENTRY))
		return 0;
	if (be16(p + CHECKED) != check_of(p) || !(p[29] & SUM_USED))
		return -EBADMSG;
	e->old.crc = le32(p);
	e->new.crc = le32(p + 4);
	memcpy(e->old.tuple, p + 8, SUM_TUPLE);
	memcpy(e->new.tuple, p + 16, SUM_TUPLE);
	e->gen = le40(p + 24);
	e->flags = p[29];
	return 0;
}

enum sum_state sum_state(const struct sum_rules *r, const struct sum_entry *e)
{
	if (!(e->flags & SUM_OLD))
		return SUM_SETTLED;
	if (e->flags & SUM_LOOSE)
		return SUM_UNKNOWN;
	if (e->gen > r->run)
		return e->gen <= r->settled ? SUM_SETTLED : SUM_UNSETTLED;
	for (unsigned i = 0; i < r->nloose; i++)
		if (e->gen > r->loose[i].from && e->gen <= r->loose[i].to)
			return SUM_UNKNOWN;
	return SUM_SETTLED;
}

static void no_tuple(uint8_t *tuple)
{
	memset(tuple, 0xff, SUM_TUPLE);
}

static bool agrees_blank(const struct sum_rules *r, uint32_t crc)
{
	return !r->base_zero || crc == r->zero_crc;
}

static bool agrees_old(const struct sum_rules *r, const struct sum_entry *e, uint32_t crc)
{
	return e->flags & SUM_OLD_BLANK ? agrees_blank(r, crc) : crc == e->old.crc;
}

int sum_verify(const struct sum_rules *r, const uint8_t p[SUM_ENTRY], uint32_t crc, uint8_t *tuple)
{
	struct sum_entry e;

	if (!tuple && (p[29] & (SUM_USED | SUM_BAD)) == SUM_USED && le32(p + 4) == crc)
		return 0; /* nearly always; an entry that agrees with its data is not damaged where it matters */
	if (sum_decode(p, &e) < 0)
		return -EBADMSG;
	if (e.flags & SUM_BAD)
		return -ENOTRECOVERABLE;
	if (!e.flags) {
		if (tuple)
			no_tuple(tuple);
		return agrees_blank(r, crc) ? 0 : -EBADMSG;
	}
	if (crc == e.new.crc) {
		if (tuple)
			memcpy(tuple, e.new.tuple, SUM_TUPLE);
		return 0;
	}
	if (sum_state(r, &e) == SUM_SETTLED || !agrees_old(r, &e, crc))
		return -EBADMSG;
	if (tuple && (e.flags & SUM_OLD_BLANK))
		no_tuple(tuple);
	else if (tuple)
		memcpy(tuple, e.old.tuple, SUM_TUPLE);
	return 0;
}

void sum_replace(uint8_t p[SUM_ENTRY], const struct sum_side *to, uint64_t gen)
{
	struct sum_entry e, n = { .new = *to, .gen = gen, .flags = SUM_USED };

	if (sum_decode(p, &e) == 0 && !(e.flags & SUM_BAD)) {
		n.old = e.new;
		n.flags |= e.flags ? SUM_OLD : SUM_OLD | SUM_OLD_BLANK;
	}
	sum_encode(p, &n);
}

void sum_undo(uint8_t p[SUM_ENTRY])
{
	struct sum_entry e;

	if (sum_decode(p, &e) < 0 || !(e.flags & SUM_OLD))
		return;
	e.new = e.old;
	e.gen = 0;
	e.flags = e.flags & SUM_OLD_BLANK ? 0 : SUM_USED;
	sum_encode(p, &e);
}

void sum_loosen(uint8_t p[SUM_ENTRY])
{
	struct sum_entry e;

	if (sum_decode(p, &e) == 0 && (e.flags & SUM_OLD)) {
		e.flags |= SUM_LOOSE;
		sum_encode(p, &e);
	}
}

void sum_resolve(const struct sum_rules *r, uint8_t p[SUM_ENTRY], uint32_t crc)
{
	struct sum_entry e;

	if (sum_decode(p, &e) < 0 || sum_state(r, &e) != SUM_UNKNOWN)
		return;
	if (crc != e.new.crc && agrees_old(r, &e, crc)) {
		sum_undo(p);
		return;
	}
	e.flags = SUM_USED;
	e.gen = 0;
	sum_encode(p, &e);
}

void sum_mark_bad(uint8_t p[SUM_ENTRY], uint64_t gen)
{
	struct sum_entry e = { .gen = gen, .flags = SUM_USED | SUM_BAD };

	no_tuple(e.new.tuple);
	sum_encode(p, &e);
}

void sum_add_loose(struct sum_rules *r, uint64_t from, uint64_t to)
{
	if (r->nloose == SUM_LOOSE_MAX) { /* the two oldest as one: accepts more than it must, never less */
		r->loose[0].to = r->loose[1].to;
		memmove(r->loose + 1, r->loose + 2, (--r->nloose - 1) * sizeof(r->loose[0]));
	}
	r->loose[r->nloose++] = (struct sum_loose){ from, to };
}

static const uint8_t *walk(struct sum_walk *w, size_t *n)
{
	const uint8_t *p;

	while (w->at == w->v->iov_len) {
		w->v++;
		w->at = 0;
	}
	p = (const uint8_t *)w->v->iov_base + w->at;
	*n = MIN(*n, w->v->iov_len - w->at);
	w->at += *n;
	return p;
}

uint32_t sum_walk_crc(struct sum_walk *w, size_t n)
{
	uint32_t crc = 0;

	for (size_t part; n; n -= part) {
		part = n;
		const uint8_t *p = walk(w, &part);
		crc = crc32c(crc, p, part);
	}
	return crc;
}

uint16_t sum_walk_guard(struct sum_walk *w, size_t n)
{
	uint16_t crc = 0;

	for (size_t part; n; n -= part) {
		part = n;
		const uint8_t *p = walk(w, &part);
		crc = crc16_t10dif(crc, p, part);
	}
	return crc;
}
