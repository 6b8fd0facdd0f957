/* SPDX-License-Identifier: BSD-3-Clause
 * Asymmetric access as the configuration says it. Pure functions. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "conf/tree.h"

static const uint8_t codes[] = { ALUA_OPTIMIZED, ALUA_NON_OPTIMIZED, ALUA_STANDBY, ALUA_UNAVAILABLE, ALUA_OFFLINE };

uint8_t conf_access(uint64_t choice)
{
	return choice < ARRAY_LEN(codes) ? codes[choice] : ALUA_OPTIMIZED;
}

const char *conf_access_name(uint8_t access)
{
	for (unsigned i = 0; i < ARRAY_LEN(codes); i++)
		if (codes[i] == access)
			return conf_access_names[i];
	return "transitioning";
}

static uint16_t tag_of(const char *text)
{
	return (uint16_t)strtoul(text, NULL, 10);
}

/* Keeps tags ascending, each once; what is too many was refused before. */
static void add_tag(struct scsi_ports *p, uint16_t tag)
{
	unsigned i = 0;

	while (i < p->n && p->tag[i] < tag)
		i++;
	if (p->n == LIM_PORTALS || (i < p->n && p->tag[i] == tag))
		return;
	memmove(&p->tag[i + 1], &p->tag[i], (p->n - i) * sizeof(p->tag[0]));
	p->tag[i] = tag;
	p->n++;
}

static void add_paths(struct scsi_ports *p, const struct conf_list *paths)
{
	const struct conf_path *path = paths->items;

	for (unsigned i = 0; i < paths->n; i++)
		add_tag(p, tag_of(path[i].name));
}

void conf_ports(const struct conf *c, const struct conf_target *t, struct scsi_ports *ports)
{
	const struct conf_portal *portal = c->portals.items;
	const struct conf_lun *l = t->luns.items;

	memset(ports, 0, sizeof(*ports));
	ports->tpgs = (uint8_t)t->alua;
	ports->transition_s = (uint8_t)(t->alua_transition_ns / 1000000000);
	for (unsigned i = 0; i < t->groups.n; i++)
		add_tag(ports, tag_of(((char **)t->groups.items)[i]));
	for (unsigned i = 0; !t->groups.n && i < c->portals.n; i++)
		add_tag(ports, (uint16_t)portal[i].group);
	add_paths(ports, &t->paths);
	for (unsigned i = 0; i < t->luns.n; i++)
		add_paths(ports, &l[i].paths);
}

static unsigned put(struct alua_change *out, unsigned n, const struct conf_list *paths)
{
	const struct conf_path *p = paths->items;

	for (unsigned i = 0; i < paths->n; i++) {
		struct alua_change x = { tag_of(p[i].name), conf_access(p[i].access), p[i].preferred };
		unsigned k = 0;
		while (k < n && out[k].tag != x.tag)
			k++;
		if (k == LIM_PORTALS)
			continue;
		out[k] = x;
		n += k == n;
	}
	return n;
}

unsigned conf_paths(const struct conf_target *t, const struct conf_lun *l, struct alua_change out[LIM_PORTALS])
{
	unsigned n = put(out, 0, &t->paths);

	return put(out, n, &l->paths);
}

/* --- rules --- */

struct use { const struct conf_target *t; const struct conf_lun *l; };

static int by_volume(const void *a, const void *b)
{
	return strcmp(((const struct use *)a)->l->volume, ((const struct use *)b)->l->volume);
}

static bool covers(const struct alua_change *a, unsigned na, const struct alua_change *b, unsigned nb)
{
	static const struct alua_change dflt = { .access = ALUA_OPTIMIZED };

	for (unsigned i = 0; i < na; i++) {
		const struct alua_change *x = &dflt;
		for (unsigned k = 0; k < nb; k++)
			x = b[k].tag == a[i].tag ? &b[k] : x;
		if (x->access != a[i].access || x->preferred != a[i].preferred)
			return false;
	}
	return true;
}

/* Initiators know a group by disk and tag: two targets that tell different things of one are believed in turn. */
static int check_pair(const struct use *a, const struct use *b, struct err *e)
{
	struct alua_change x[LIM_PORTALS], y[LIM_PORTALS];
	unsigned nx = conf_paths(a->t, a->l, x), ny = conf_paths(b->t, b->l, y);
	char at[ERR_PATH_MAX];

	if (covers(x, nx, y, ny) && covers(y, ny, x, nx))
		return 0;
	snprintf(at, sizeof(at), "targets/%.120s/luns/%.8s", b->t->name, b->l->name);
	return err_at(e, -EINVAL, at, "volume '%.64s' has other paths in target %.230s; give it the same in both, or each "
		"target portal groups of its own", b->l->volume, a->t->name);
}

static int check_count(const struct conf *c, const struct conf_target *t, struct err *e)
{
	struct scsi_ports ports;
	char at[ERR_PATH_MAX];

	conf_ports(c, t, &ports);
	if (ports.n < LIM_PORTALS || (!t->paths.n && t->groups.n <= LIM_PORTALS))
		return 0;
	snprintf(at, sizeof(at), "targets/%.140s/paths", t->name);
	return err_at(e, -EINVAL, at, "more than %d portal groups", LIM_PORTALS - 1);
}

int conf_check_paths(const struct conf *c, struct err *e)
{
	const struct conf_target *t = c->targets.items;
	unsigned n = 0, at = 0;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < c->targets.n; i++) {
		n += t[i].luns.n;
		r = check_count(c, &t[i], e);
	}
	struct use *u = r == 0 ? calloc(n + 1, sizeof(*u)) : NULL;
	if (!u)
		return r < 0 ? r : err_set(e, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < c->targets.n; i++)
		for (unsigned k = 0; k < t[i].luns.n; k++)
			u[at++] = (struct use){ &t[i], (const struct conf_lun *)t[i].luns.items + k };
	qsort(u, n, sizeof(*u), by_volume);
	for (unsigned i = 1; r == 0 && i < n; i++)
		if (by_volume(&u[i - 1], &u[i]) == 0)
			r = check_pair(&u[i - 1], &u[i], e);
	free(u);
	return r;
}
