/* SPDX-License-Identifier: BSD-3-Clause
 * The table: target, number, key of the disk's identity, when it was given up (0: it has it). Ascending by target and
 * number, each once. The saved form is a line for each: "TARGET NUMBER KEY TIME". */
#include "conf/luns.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"

struct entry { char *target; uint32_t lun; uint64_t key; int64_t given_up_s; };
struct luns { struct store *store; struct entry *e; unsigned n; };

/* The identity of a volume is kept under this name; FNV-1a of it. */
static uint64_t key_of(const struct conf *c, const char *volume)
{
	const struct conf_volume *v = conf_volume(c, volume);
	uint64_t h = 0xcbf29ce484222325u;

	for (const char *s = v && v->identity ? v->identity : volume; *s; s++)
		h = (h ^ (uint8_t)*s) * 0x100000001b3u;
	return h;
}

static int order(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	int r = strcmp(x->target, y->target);

	return r ? r : x->lun < y->lun ? -1 : x->lun > y->lun;
}

static struct entry *find(const struct luns *l, const char *target, uint32_t lun)
{
	struct entry k = { .target = (char *)target, .lun = lun };

	return l->n ? bsearch(&k, l->e, l->n, sizeof(k), order) : NULL;
}

static uint32_t number_of(const struct conf_lun *lun)
{
	return (uint32_t)strtoul(lun->name, NULL, 10);
}

/* --- questions --- */

static int64_t left(const struct entry *e, int64_t rest_s, int64_t now_s)
{
	int64_t since = e->given_up_s ? now_s - e->given_up_s : 0;

	return since < 0 ? rest_s : since < rest_s ? rest_s - since : 0;
}

static int64_t rest_s(const struct conf *c)
{
	return (int64_t)(c->server.lun_rest_ns / 1000000000);
}

int64_t luns_rest(const struct luns *l, const struct conf *c, const struct conf_target *t, const struct conf_lun *lun,
	int64_t now_s)
{
	const struct entry *e = lun->reuse ? NULL : find(l, t->name, number_of(lun));

	return e && e->key != key_of(c, lun->volume) ? left(e, rest_s(c), now_s) : 0;
}

int luns_check(const struct luns *l, const struct conf *c, int64_t now_s, struct err *e)
{
	const struct conf_target *t = c->targets.items;
	char at[ERR_PATH_MAX + 16];

	for (unsigned i = 0; i < c->targets.n; i++) {
		const struct conf_lun *lun = t[i].luns.items;
		for (unsigned k = 0; k < t[i].luns.n; k++) {
			int64_t wait = luns_rest(l, c, &t[i], &lun[k], now_s);
			if (!wait)
				continue;
			snprintf(at, sizeof(at), "targets/%.130s/luns/%.8s", t[i].name, lun[k].name);
			return err_at(e, -EBUSY, at, "this number was another disk's until lately, for which initiators may "
				"take volume '%.64s'; take another number, wait %lld s, or say reuse: on",
				lun[k].volume, (long long)wait);
		}
	}
	return 0;
}

/* --- changes --- */

static void entries_free(struct entry *e, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		free(e[i].target);
	free(e);
}

static bool add(struct luns *to, const char *target, uint32_t lun, uint64_t key, int64_t given_up_s)
{
	char *name = strdup(target);

	if (!name)
		return false;
	to->e[to->n++] = (struct entry){ name, lun, key, given_up_s };
	return true;
}

/* Those of the configuration that need not wait. */
static bool add_wanted(struct luns *to, const struct luns *l, const struct conf *c, int64_t now_s)
{
	const struct conf_target *t = c->targets.items;
	bool ok = true;

	for (unsigned i = 0; i < c->targets.n; i++) {
		const struct conf_lun *lun = t[i].luns.items;
		for (unsigned k = 0; ok && k < t[i].luns.n; k++)
			if (!luns_rest(l, c, &t[i], &lun[k], now_s))
				ok = add(to, t[i].name, number_of(&lun[k]), key_of(c, lun[k].volume), 0);
	}
	if (to->n)
		qsort(to->e, to->n, sizeof(*to->e), order);
	return ok;
}

/* Those that nobody has now, while they rest. */
static bool add_resting(struct luns *to, const struct luns *l, const struct conf *c, int64_t now_s)
{
	unsigned wanted = to->n;
	bool ok = true;

	for (unsigned i = 0; ok && i < l->n; i++) {
		struct luns have = { .e = to->e, .n = wanted };
		const struct entry *e = &l->e[i];
		if (!find(&have, e->target, e->lun) && left(e, rest_s(c), now_s))
			ok = add(to, e->target, e->lun, e->key, e->given_up_s && e->given_up_s <= now_s ? e->given_up_s : now_s);
	}
	if (to->n)
		qsort(to->e, to->n, sizeof(*to->e), order);
	return ok;
}

static bool equal(const struct luns *a, const struct luns *b)
{
	for (unsigned i = 0; i < a->n && a->n == b->n; i++)
		if (order(&a->e[i], &b->e[i]) || a->e[i].key != b->e[i].key || a->e[i].given_up_s != b->e[i].given_up_s)
			return false;
	return a->n == b->n;
}

static void save(const struct luns *l)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return;
	for (unsigned i = 0; i < l->n; i++)
		fprintf(f, "%s %u %016llx %lld\n", l->e[i].target, l->e[i].lun, (unsigned long long)l->e[i].key,
			(long long)l->e[i].given_up_s);
	int r = fclose(f) ? -ENOMEM : store_put(l->store, "luns", text, len);
	if (r < 0)
		log_warn("LUN numbers not kept reason=\"%s\"", strerror(-r));
	free(text);
}

void luns_commit(struct luns *l, const struct conf *c, int64_t now_s)
{
	const struct conf_target *t = c->targets.items;
	unsigned room = l->n + 1;

	for (unsigned i = 0; i < c->targets.n; i++)
		room += t[i].luns.n;
	struct luns next = { .store = l->store, .e = calloc(room, sizeof(*next.e)) };
	if (!next.e || !add_wanted(&next, l, c, now_s) || !add_resting(&next, l, c, now_s)) {
		entries_free(next.e, next.n);
		log_warn("LUN numbers not kept reason=\"out of memory\"");
		return;
	}
	bool same = equal(l, &next);
	entries_free(l->e, l->n);
	*l = next;
	if (!same)
		save(l);
}

/* --- load --- */

static bool parse_line(struct luns *l, char *line)
{
	char target[LIM_ISCSI_NAME + 1];
	unsigned long long key;
	long long given_up;
	unsigned lun;

	return sscanf(line, "%223s %u %llx %lld", target, &lun, &key, &given_up) == 4 && lun < LIM_LUNS && given_up >= 0 &&
		add(l, target, lun, key, given_up);
}

static void parse(struct luns *l, char *text)
{
	unsigned lines = 0;

	for (const char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	l->e = calloc(lines + 1, sizeof(*l->e));
	for (char *line = text, *end; l->e && (end = strchr(line, '\n')); line = end + 1) {
		*end = 0;
		if (!parse_line(l, line))
			log_warn("LUN number not understood line=\"%.300s\"", line);
	}
	if (l->n)
		qsort(l->e, l->n, sizeof(*l->e), order);
}

struct luns *luns_load(struct store *store)
{
	struct luns *l = calloc(1, sizeof(*l));
	char *text = NULL;

	if (!l)
		return NULL;
	l->store = store;
	if (store_get(store, "luns", &text) >= 0)
		parse(l, text);
	free(text);
	return l;
}

void luns_free(struct luns *l)
{
	if (!l)
		return;
	entries_free(l->e, l->n);
	free(l);
}
