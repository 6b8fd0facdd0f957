/* SPDX-License-Identifier: BSD-3-Clause
 * What changes make of the access states of a unit: values in, values out. Invariants: 1. tags ascend, each once;
 * 2. access is one of enum alua_access, base never transitioning; 3. there are at most LIM_PORTALS groups. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "scsi/alua.h"

const struct alua_group *alua_find(const struct alua_state *s, uint16_t tag)
{
	for (unsigned i = 0; s && i < s->n; i++)
		if (s->group[i].tag == tag)
			return &s->group[i];
	return NULL;
}

uint8_t alua_access(const struct alua_state *s, uint16_t tag)
{
	const struct alua_group *g = alua_find(s, tag);

	return g ? g->access : ALUA_OPTIMIZED;
}

static struct alua_state *copy(const struct alua_state *old, unsigned room)
{
	unsigned n = old ? old->n : 0;
	struct alua_state *s = calloc(1, sizeof(*s) + (n + room) * sizeof(s->group[0]));

	if (s && old)
		memcpy(s, old, sizeof(*s) + n * sizeof(s->group[0]));
	return s;
}

/* The group of that tag, made if need be; there is room. */
static struct alua_group *get(struct alua_state *s, uint16_t tag)
{
	unsigned i = 0;

	while (i < s->n && s->group[i].tag < tag)
		i++;
	if (i < s->n && s->group[i].tag == tag)
		return &s->group[i];
	memmove(&s->group[i + 1], &s->group[i], (s->n - i) * sizeof(s->group[0]));
	s->group[i] = (struct alua_group){ .tag = tag };
	s->n++;
	return &s->group[i];
}

static int check_size(struct alua_state *s, struct alua_state **ret)
{
	if (s->n > LIM_PORTALS) {
		free(s);
		return -E2BIG;
	}
	*ret = s;
	return 0;
}

int alua_apply(const struct alua_state *old, const struct alua_change *c, unsigned n, enum alua_why why, bool keep,
	struct alua_state **ret)
{
	struct alua_state *s = copy(old, n);

	if (!s)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		struct alua_group *g = get(s, c[i].tag);
		if (g->access != c[i].access)
			g->why = (uint8_t)why;
		g->access = c[i].access;
		g->preferred = c[i].preferred < 0 ? g->preferred : c[i].preferred;
		g->kept = keep && (g->access != g->base || g->preferred != g->base_preferred);
		g->seq = 0;
		g->busy = false;
	}
	return check_size(s, ret);
}

static void rebase(struct alua_group *g, uint8_t base, bool preferred)
{
	if (g->base == base && g->base_preferred == preferred)
		return;
	*g = (struct alua_group){ .tag = g->tag, .access = base, .base = base, .preferred = preferred,
		.base_preferred = preferred };
}

static const struct alua_change *named(const struct alua_change *c, unsigned n, uint16_t tag)
{
	for (unsigned i = 0; i < n; i++)
		if (c[i].tag == tag)
			return &c[i];
	return NULL;
}

int alua_rebase(const struct alua_state *old, const struct alua_change *c, unsigned n, struct alua_state **ret)
{
	struct alua_state *s = copy(old, n);

	if (!s)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		get(s, c[i].tag);
	for (unsigned i = 0; i < s->n; i++) {
		const struct alua_change *x = named(c, n, s->group[i].tag);
		rebase(&s->group[i], x ? x->access : ALUA_OPTIMIZED, x && x->preferred > 0);
	}
	return check_size(s, ret);
}

static bool same(const struct alua_group *a, const struct alua_group *b)
{
	return a->tag == b->tag && a->access == b->access && a->preferred == b->preferred && a->base == b->base &&
		a->base_preferred == b->base_preferred && a->kept == b->kept;
}

bool alua_equal(const struct alua_state *a, const struct alua_state *b)
{
	unsigned na = a ? a->n : 0, nb = b ? b->n : 0;

	for (unsigned i = 0; na == nb && i < na; i++)
		if (!same(&a->group[i], &b->group[i]))
			return false;
	return na == nb;
}

/* --- the saved form: magic, number, records of 8 bytes, big endian --- */

enum { HEAD = 8, RECORD = 8 };
static const uint8_t magic[4] = { 'L', 'A', 'U', 1 };

size_t alua_encode(const struct alua_state *s, uint8_t p[ALUA_SAVE_MAX])
{
	uint16_t n = 0;

	memset(p, 0, ALUA_SAVE_MAX);
	memcpy(p, magic, sizeof(magic));
	for (unsigned i = 0; s && i < s->n; i++) {
		const struct alua_group *g = &s->group[i];
		uint8_t *q = p + HEAD + RECORD * n;
		if (!g->kept)
			continue;
		put_be16(q, g->tag);
		q[2] = g->access;
		q[3] = g->preferred;
		q[4] = g->base;
		q[5] = g->base_preferred;
		q[6] = g->why;
		n++;
	}
	put_be16(p + 4, n);
	return HEAD + RECORD * (size_t)n;
}

static bool known(uint8_t access)
{
	return access <= ALUA_UNAVAILABLE || access == ALUA_OFFLINE;
}

int alua_decode(const uint8_t *p, size_t len, struct alua_state **ret)
{
	uint16_t n = len >= HEAD ? be16(p + 4) : 0;

	if (len < HEAD || memcmp(p, magic, sizeof(magic)) || n > LIM_PORTALS || len != HEAD + (size_t)n * RECORD)
		return -EINVAL;
	struct alua_state *s = copy(NULL, n);
	if (!s)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *q = p + HEAD + RECORD * i;
		if (!known(q[2]) || !known(q[4]) || q[3] > 1 || q[5] > 1 || q[6] > ALUA_IMPLICIT ||
			(i && be16(q) <= s->group[i - 1].tag)) {
			free(s);
			return -EINVAL;
		}
		s->group[s->n++] = (struct alua_group){ .tag = be16(q), .access = q[2], .preferred = q[3], .base = q[4],
			.base_preferred = q[5], .why = q[6], .kept = true };
	}
	*ret = s;
	return 0;
}
