/* SPDX-License-Identifier: BSD-3-Clause */
#include "conf/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/check.h"
#include "base/log.h"

enum { PATIENCE_STEP_NS = 25000000, PATIENCE_STEPS = 60 };

static const char *node_path(const struct conf_node *n)
{
	for (const struct conf_field *f = n->ops->config; f && f->name; f++)
		if (f->kind == CONF_TEXT && strcmp(f->name, "path") == 0)
			return *(char **)((char *)n->conf + f->at);
	return NULL;
}

static bool is_absent(const struct conf_node *n)
{
	const char *path = node_path(n);
	struct stat st;

	return path && stat(path, &st) < 0 && errno == ENOENT;
}

/* Checksums over the driver. On failure *b stays as it was. */
static int open_integrity(const struct conf_volume *v, struct blk **b, struct err *e)
{
	const struct blk_ops *ops = blk_find("integrity");
	void *conf = calloc(1, ops->conf_bytes);
	struct blk *top;
	char unit[24];
	int r = conf ? schema_defaults(ops->config, conf, e) : err_set(e, -ENOMEM, "out of memory");

	snprintf(unit, sizeof(unit), "%llu", (unsigned long long)(v->lu.bs ? v->lu.bs : MAX(512u, (*b)->block_bytes)));
	if (r == 0)
		r = schema_set(ops->config, conf, "store", v->lu.integrity, e);
	if (r == 0)
		r = schema_set(ops->config, conf, "unit", unit, e);
	if (r == 0)
		r = blk_open(&top, ops, conf, *b, e);
	if (r == 0)
		*b = top;
	if (conf)
		schema_free(ops->config, conf);
	free(conf);
	return r;
}

static int open_stack(struct conf_volume *v, struct blk **ret, struct err *e)
{
	const struct conf_node *f = v->filters.items;
	struct blk *b = NULL, *top;
	int r = blk_open(&b, v->node.ops, v->node.conf, NULL, e);

	if (r == 0 && v->lu.integrity) {
		r = open_integrity(v, &b, e);
		if (r < 0)
			blk_close(b);
	}

	for (unsigned i = 0; r == 0 && i < v->filters.n; i++) {
		r = blk_open(&top, f[i].ops, f[i].conf, b, e);
		if (r == 0)
			b = top;
		else
			blk_close(b);
	}
	if (r == 0)
		*ret = b;
	return r;
}

static void release(struct disk *d, struct store *store)
{
	if (d->claimed)
		store_release(store, d->identity);
	d->claimed = false;
}

/* A disk that lasts has its identity to itself. */
static int claim(struct disk *d, const struct blk *b, struct store *store, struct err *e)
{
	if (b->caps & BLK_VOLATILE)
		return 0;
	int r = store_claim(store, d->identity, e);
	d->claimed = r == 0;
	return r;
}

/* Opens the medium and reserves the identity. A medium that this makes is a new disk: it forgets the old identity,
 * unless initiators may have seen that already. */
static int open_medium(struct disk *d, struct conf_volume *v, struct store *store, struct blk **ret, struct err *e)
{
	bool absent = !d->lu && is_absent(&v->node);
	int r = open_stack(v, ret, e);

	if (r < 0)
		return r;
	r = claim(d, *ret, store, e);
	if (r == 0 && absent)
		r = store_forget(store, d->identity, e);
	if (r < 0) { /* another process may serve it meanwhile */
		blk_close(*ret);
		*ret = NULL;
		release(d, store);
	}
	return r;
}

/* At start: what a killed predecessor had open may be held for some moments more, while the kernel ends its I/O. */
static int open_patiently(struct disk *d, struct conf_volume *v, struct store *store, struct blk **ret, struct err *e)
{
	const struct timespec pause = { .tv_nsec = PATIENCE_STEP_NS };
	int r = open_medium(d, v, store, ret, e);

	for (unsigned i = 0; r == -EBUSY && i < PATIENCE_STEPS; i++) {
		nanosleep(&pause, NULL);
		r = open_medium(d, v, store, ret, e);
	}
	return r;
}

static void not_ready(struct disk *d, const struct err *e)
{
	if (strcmp(d->why, e->text) == 0)
		return;
	snprintf(d->why, sizeof(d->why), "%s", e->text);
	log_warn("disk not ready volume=%s reason=\"%s\"", d->name, d->why);
}

static int fill(struct disk *d, struct conf_volume *v, struct store *store, bool starting, struct err *e)
{
	struct blk *b = NULL;
	struct err why = { 0 };

	d->name = strdup(v->name);
	d->identity = strdup(v->identity ? v->identity : v->name);
	if (!d->name || !d->identity)
		return err_set(e, -ENOMEM, "out of memory");
	int r = starting ? open_patiently(d, v, store, &b, &why) : open_medium(d, v, store, &b, &why);
	if (r < 0 && starting && v->required) {
		*e = why;
		return r;
	}
	if (r < 0)
		not_ready(d, &why);
	r = lu_open(&d->lu, &lu_disk, d->identity, &v->lu, b, store_lu(store), e);
	if (r < 0)
		blk_close(b);
	d->ready = b != NULL;
	return r;
}

int disk_open(struct disk **ret, struct conf_volume *v, struct store *store, bool starting, struct err *e)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(e, -ENOMEM, "out of memory");
	list_init(&d->node);
	d->fresh = true;
	int r = fill(d, v, store, starting, e);
	if (r < 0) {
		disk_free(d, store);
		return r;
	}
	*ret = d;
	return 0;
}

static void attach(struct disk *d, struct conf_volume *v, struct store *store)
{
	struct err e = { 0 };
	struct blk *b;
	int r = open_medium(d, v, store, &b, &e);

	if (r == 0) {
		r = lu_attach(d->lu, b, &e);
		if (r < 0) {
			blk_close(b);
			release(d, store);
		}
	}
	if (r < 0) {
		not_ready(d, &e);
		return;
	}
	d->ready = true;
	d->why[0] = 0;
	log_info("disk ready volume=%s bytes=%llu", d->name, (unsigned long long)lu_bytes(d->lu));
}

/* From the driver upwards; a filter that has no opinion follows the layer below. */
static int poll_stack(struct blk *b)
{
	struct blk *below = b->child[0];

	if (below) {
		bool follows = b->bytes == below->bytes;
		int r = poll_stack(below);
		if (r < 0)
			return r;
		if (follows && !b->ops->poll_size)
			b->bytes = below->bytes;
	}
	return b->ops->poll_size ? b->ops->poll_size(b) : 0;
}

/* What the driver at the bottom found out about the space where it keeps its data. */
static void tell_space(struct disk *d, const struct blk *b)
{
	while (b->child[0])
		b = b->child[0];
	if (b->space_known)
		lu_space(d->lu, b->space_used, b->space_free);
}

static void poll_size(struct disk *d)
{
	struct blk *b = lu_blk(d->lu);
	uint64_t before = b ? b->bytes : 0;
	int r = b ? poll_stack(b) : 0;

	if (r < 0 && r != d->poll_status)
		log_error("disk medium volume=%s reason=\"%s\"", d->name, strerror(-r));
	d->poll_status = r;
	if (r >= 0 && b)
		tell_space(d, b);
	if (!b || b->bytes == before)
		return;
	log_info("disk capacity volume=%s bytes=%llu", d->name, (unsigned long long)b->bytes);
	lu_capacity_changed(d->lu);
}

int disk_grow(struct disk *d, struct conf_volume *v, struct err *e)
{
	struct blk *b = lu_blk(d->lu);

	while (b->child[0])
		b = b->child[0];
	int r = b->ops->grow(b, v->node.conf, e);
	if (r == 0)
		poll_size(d);
	return r;
}

void disk_tick(struct disk *d, struct conf_volume *v, struct store *store)
{
	if (d->ready)
		poll_size(d);
	else
		attach(d, v, store);
}

static bool paths_equal(const struct disk *d, const struct alua_change *c, unsigned n)
{
	for (unsigned i = 0; i < n && n == d->npaths; i++)
		if (c[i].tag != d->paths[i].tag || c[i].access != d->paths[i].access || c[i].preferred != d->paths[i].preferred)
			return false;
	return n == d->npaths;
}

void disk_set_paths(struct disk *d, const struct alua_change *c, unsigned n)
{
	int r = d->fresh ? lu_alua_init(d->lu, c, n) : 0;

	if (r == -EBUSY || (!d->fresh && !paths_equal(d, c, n)))
		lu_alua_configure(d->lu, c, n, NULL, NULL);
	else if (r < 0)
		log_error("access states not set volume=%s reason=\"out of memory\"", d->name);
	d->fresh = false;
	free(d->paths);
	d->paths = n ? malloc(n * sizeof(*c)) : NULL;
	d->npaths = d->paths ? n : 0;
	if (d->paths)
		memcpy(d->paths, c, n * sizeof(*c));
}

static void closed(void *ctx)
{
	struct disk *d = ctx;

	d->lu = NULL;
	d->gone(d);
}

void disk_close(struct disk *d, void (*gone)(struct disk *d), void *ctx)
{
	d->gone = gone;
	d->ctx = ctx;
	d->closing = true;
	lu_close(d->lu, closed, d);
}

void disk_free(struct disk *d, struct store *store)
{
	release(d, store);
	list_del(&d->node);
	free(d->name);
	free(d->identity);
	free(d->paths);
	free(d);
}
