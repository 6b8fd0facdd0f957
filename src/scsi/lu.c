/* SPDX-License-Identifier: BSD-3-Clause
 * The logical unit: opening, changes by the administrator and closing (control thread), and what its snapshot
 * says (home). Jobs are in job.c, waits for running commands in hold.c. */
#include <stdio.h>

#include "scsi/pr.h"
#include "scsi/service.h"
#include "scsi/token.h"

void lu_derive(struct lu *lu)
{
	struct lu_pub *p = &lu->pub;

	mode_derive(lu);
	p->not_ready = !p->blk ? SENSE(2, 0x04, 0x03) /* manual intervention required */
		: p->ejected ? SENSE(2, 0x3a, 0x02) /* medium not present, tray open */
		: 0;
	p->alert = (p->not_ready ? LU_NOT_READY : 0) | (p->reserved_by ? LU_RESERVED : 0) |
		(p->pr && p->pr->type ? LU_PERSISTENT : 0) | (alua_gated(p->alua) ? LU_PATHS : 0);
	p->naca = (uint8_t)MIN(lu->naca, 255u);
	p->aca_by = lu->naca && !p->tst ? lu->aca[0] : 0;
	p->alert |= (p->sanitize ? LU_SANITIZE : 0) | (p->naca ? LU_ACA : 0);
	if (lu->conf.ro || p->swp || (p->blk && (p->blk->caps & BLK_READ_ONLY)))
		p->alert |= LU_WRITE_PROTECT;
	p->nblk = p->blk ? blk_bytes(p->blk) / p->bs : 0;
	p->pi_type = p->pi_able && !p->formatting ? lu->format : 0;
	if (p->blk)
		blk_tuple_type(p->blk, p->pi_type);
}

int lu_prevent(struct lu *lu, uint64_t id, bool prevent)
{
	unsigned i = 0;

	while (i < lu->npreventers && lu->preventers[i] != id)
		i++;
	if (prevent == (i < lu->npreventers))
		return 0;
	if (!prevent) {
		lu->preventers[i] = lu->preventers[--lu->npreventers];
		return 0;
	}
	uint64_t *more = realloc(lu->preventers, (i + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	lu->preventers = more;
	lu->preventers[lu->npreventers++] = id;
	return 0;
}

void lu_give_up(struct lu_job *j, uint64_t id)
{
	if (j->lu->pub.reserved_by == id)
		j->lu->pub.reserved_by = 0;
	lu_prevent(j->lu, id, false);
	lu_aca_end(j->lu, id);
	lu_publish(j);
}

/* --- opening --- */

static const char *const no_choices[] = { NULL };

const struct conf_field lu_conf_fields[] = {
	{ "bs", CONF_BYTES, 0, offsetof(struct lu_conf, bs), NULL, NULL, NULL,
	  "Logical block: 512 or 4096 bytes; what the device below demands if not given.", no_choices },
	{ "pbs", CONF_BYTES, 0, offsetof(struct lu_conf, pbs), NULL, NULL, NULL,
	  "Physical block in bytes, a power of two; the device's if not given.", no_choices },
	{ "ro", CONF_BOOL, 0, offsetof(struct lu_conf, ro), "off", NULL, NULL, "Write protected.", no_choices },
	{ "removable", CONF_BOOL, 0, offsetof(struct lu_conf, removable), "off", NULL, NULL,
	  "The medium can be ejected and loaded.", no_choices },
	{ "wce", CONF_BOOL, 0, offsetof(struct lu_conf, wce), "on", NULL, NULL,
	  "Write cache: off makes every write durable before its status.", no_choices },
	{ "serial", CONF_TEXT, 0, offsetof(struct lu_conf, serial), NULL, NULL, NULL,
	  "Unit serial number and identity, at most 64 characters; random for life if not given.", no_choices },
	{ "pr-by-name", CONF_BOOL, 0, offsetof(struct lu_conf, pr_by_name), "off", NULL, NULL,
	  "Persistent reservations hold for an initiator's name, whatever ISID it logs in with.", no_choices },
	{ "integrity", CONF_TEXT, 0, offsetof(struct lu_conf, integrity), NULL, NULL, NULL,
	  "File that keeps a checksum (CRC32C) and protection information for each block, made if there is none; memory "
	  "for RAM disks.", no_choices },
	{ "pi", CONF_UINT, 0, offsetof(struct lu_conf, pi), "0", NULL, "3",
	  "Type of T10 protection information that the disk begins with, 0 to 3; needs integrity.", no_choices },
	{ "vendor", CONF_TEXT, 0, offsetof(struct lu_conf, vendor), NULL, NULL, NULL,
	  "INQUIRY vendor, at most 8 characters.", no_choices },
	{ "product", CONF_TEXT, 0, offsetof(struct lu_conf, product), NULL, NULL, NULL,
	  "INQUIRY product, at most 16 characters.", no_choices },
	{ "revision", CONF_TEXT, 0, offsetof(struct lu_conf, revision), NULL, NULL, NULL,
	  "INQUIRY revision, at most 4 characters.", no_choices },
	{ .name = NULL },
};

static int check_text(const char *name, const char *v, size_t max, struct err *e)
{
	if (!v)
		return 0;
	if (!*v || strlen(v) > max)
		return err_at(e, -EINVAL, name, "%s must have 1 to %zu characters", name, max);
	for (; *v; v++)
		if (*v < 0x20 || *v > 0x7e)
			return err_at(e, -EINVAL, name, "%s must be printable ASCII", name);
	return 0;
}

int lu_conf_check(const struct lu_conf *conf, struct err *e)
{
	if (conf->bs && conf->bs != 512 && conf->bs != 4096)
		return err_at(e, -EINVAL, "bs", "block size %llu is neither 512 nor 4096",
			(unsigned long long)conf->bs);
	if (conf->pbs && (conf->pbs < 512 || conf->pbs > 1 << 20 || (conf->pbs & (conf->pbs - 1))))
		return err_at(e, -EINVAL, "pbs", "physical block size %llu is not a power of two from 512 to 1MiB",
			(unsigned long long)conf->pbs);
	if (conf->bs && conf->pbs && conf->pbs < conf->bs)
		return err_at(e, -EINVAL, "pbs", "physical block is smaller than the logical block");
	int r = check_text("serial", conf->serial, 64, e);
	r = r ? r : check_text("vendor", conf->vendor, 8, e);
	r = r ? r : check_text("product", conf->product, 16, e);
	return r ? r : check_text("revision", conf->revision, 4, e);
}

static char *dup_or_null(const char *s)
{
	return s ? strdup(s) : NULL;
}

static void conf_copy(struct lu_conf *to, const struct lu_conf *from)
{
	*to = *from;
	to->serial = dup_or_null(from->serial);
	to->vendor = dup_or_null(from->vendor);
	to->product = dup_or_null(from->product);
	to->revision = dup_or_null(from->revision);
	to->integrity = NULL; /* of the stack below */
}

/* 128 bits from a serial number that the administrator gave: FNV-1a, twice with different seeds. */
static void id_from_serial(uint8_t id[16], const char *serial)
{
	for (unsigned half = 0; half < 2; half++) {
		uint64_t h = 0xcbf29ce484222325u + half * 0x9e3779b97f4a7c15u;
		for (const char *s = serial; *s; s++)
			h = (h ^ (uint8_t)*s) * 0x100000001b3u;
		h ^= h >> 32;
		h *= 0xd6e8feb86659fd93u;
		put_be64(id + half * 8, h ^ h >> 32);
	}
}

static int lu_identify(struct lu *lu, const struct blk *blk, struct err *e)
{
	if (lu->conf.serial) {
		snprintf(lu->serial, sizeof(lu->serial), "%s", lu->conf.serial);
		id_from_serial(lu->id, lu->conf.serial);
		return 0;
	}
	int r = lu->store->identity(lu->store->ctx, lu->name, blk && (blk->caps & BLK_VOLATILE), lu->id, e);
	for (unsigned i = 0; !r && i < 16; i++)
		snprintf(lu->serial + 2 * i, 3, "%02x", lu->id[i]);
	return r;
}

/* Block sizes and what else follows from the medium below. */
struct lu_fit { uint32_t bs, pbs; bool thin, pi; const struct scsi_optab *ops; };

static const struct scsi_optab *optab_of(const struct scsi_op *const *ops);

static int lu_fit(const struct lu *lu, const struct blk *blk, struct lu_fit *fit, struct err *e)
{
	uint64_t bs = lu->conf.bs ? lu->conf.bs : MAX(512u, blk->block_bytes);

	if (bs < blk->block_bytes)
		return err_at(e, -EINVAL, "bs", "block size %llu is below the %u that %s demands",
			(unsigned long long)bs, blk->block_bytes, blk->name);
	fit->bs = (uint32_t)bs;
	fit->pbs = (uint32_t)(lu->conf.pbs ? lu->conf.pbs : MAX(4096u, blk->phys_bytes));
	fit->pbs = MAX(fit->pbs, fit->bs);
	fit->thin = blk->caps & BLK_CAN_DISCARD;
	fit->pi = (blk->caps & BLK_CAN_TUPLES) && blk->block_bytes == bs;
	fit->ops = optab_of(fit->pi && lu->type->pi_ops ? lu->type->pi_ops : lu->type->ops);
	if (lu->conf.pi && !fit->pi)
		return err_at(e, -EINVAL, "pi", "protection information is kept with checksums of whole blocks: give "
			"integrity=PATH (or memory), and the same bs as the checksums have");
	return 0;
}

static void lu_set(struct lu_pub *p, struct blk *blk, const struct lu_fit *fit)
{
	p->blk = blk;
	p->bs = fit->bs;
	p->pbs = fit->pbs;
	p->thin = fit->thin;
	p->pi_able = fit->pi;
	p->ops = fit->ops;
}

static struct lu_loop *lu_loop_new(struct lu *lu, struct loop *l)
{
	struct lu_loop *ll = aligned_alloc(64, (sizeof(*ll) + 63) / 64 * 64);

	if (!ll)
		return NULL;
	memset(ll, 0, sizeof(*ll));
	ll->lu = lu;
	ll->loop = l;
	ll->shift = (uint8_t)__builtin_ctz(lu->pub.bs);
	ll->pub = lu->pub;
	ll->seq = 1;
	list_init(&ll->cmds);
	list_init(&ll->frozen);
	list_init(&ll->waits);
	list_init(&ll->itls);
	return ll;
}

static void lu_free(struct lu *lu)
{
	if (!lu)
		return;
	for (unsigned i = 0; i < lu->nloops; i++)
		free(lu->ll[i]);
	free(lu->conf.serial);
	free(lu->conf.vendor);
	free(lu->conf.product);
	free(lu->conf.revision);
	pr_free(lu);
	tokens_free(lu);
	alua_free(lu);
	free(lu->sanitize);
	free(lu->buffer);
	free(lu->preventers);
	free(lu->aca);
	free(lu->name);
	free(lu);
}

/* One dispatch table per list of rows, made on first use; control thread. */
static const struct scsi_optab *optab_of(const struct scsi_op *const *ops)
{
	static struct { const struct scsi_op *const *ops; struct scsi_optab tab; } known[8];

	for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
		if (known[i].ops == ops)
			return &known[i].tab;
		if (!known[i].ops) {
			known[i].ops = ops;
			scsi_optab_fill(&known[i].tab, ops);
			return &known[i].tab;
		}
	}
	return NULL;
}

static struct lu *lu_alloc(const struct lu_type *type, const char *name, const struct lu_conf *conf,
	const struct lu_store *store)
{
	static unsigned next_home;
	struct lu *lu = calloc(1, sizeof(*lu) + LIM_LOOPS * sizeof(lu->ll[0]));

	if (!lu)
		return NULL;
	lu->type = type;
	lu->name = strdup(name);
	conf_copy(&lu->conf, conf);
	lu->store = store;
	lu->home = loop_group.loop[next_home++ % loop_group.n];
	list_init(&lu->jobs);
	list_init(&lu->freezes);
	if (!lu->name) {
		lu_free(lu);
		return NULL;
	}
	return lu;
}

static int lu_add_loops(struct lu *lu)
{
	for (unsigned i = 0; i < loop_group.n; i++) {
		unsigned at = loop_index(loop_group.loop[i]);
		lu->ll[at] = lu_loop_new(lu, loop_group.loop[i]);
		lu->nloops = MAX(lu->nloops, at + 1);
		if (!lu->ll[at])
			return -ENOMEM;
	}
	return 0;
}

/* --- changes from the control thread --- */

struct control_job { struct lu_job job; struct blk *blk; struct lu_fit fit; };

static void close_start(struct lu *lu);

void lu_hold(struct lu *lu)
{
	lu->control_jobs++;
}

void lu_unhold(struct lu *lu)
{
	if (--lu->control_jobs == 0 && lu->closing)
		close_start(lu);
}

static void control_job_done(struct lu_job *j)
{
	struct lu *lu = j->lu;

	free(container_of(j, struct control_job, job));
	lu_unhold(lu);
}

static int control_job(struct lu *lu, struct blk *blk, const struct lu_fit *fit, void (*run)(struct lu_job *j))
{
	struct control_job *cj = calloc(1, sizeof(*cj));

	if (!cj)
		return -ENOMEM;
	cj->blk = blk;
	if (fit)
		cj->fit = *fit;
	lu_hold(lu);
	lu_job_start(&cj->job, lu, scsi_control, run, control_job_done);
	return 0;
}

int lu_open(struct lu **ret, const struct lu_type *type, const char *name, const struct lu_conf *conf,
	struct blk *blk, const struct lu_store *store, struct err *e)
{
	int r = lu_conf_check(conf, e);
	if (r)
		return r;
	struct lu *lu = lu_alloc(type, name, conf, store);
	if (!lu)
		return err_set(e, -ENOMEM, "out of memory");
	struct lu_fit fit = { conf->bs ? (uint32_t)conf->bs : 512, conf->pbs ? (uint32_t)conf->pbs : 4096, false, false,
		optab_of(type->ops) };
	r = lu_identify(lu, blk, e);
	if (!r && blk)
		r = lu_fit(lu, blk, &fit, e);
	lu->blk = blk;
	lu_set(&lu->pub, blk, &fit);
	if (!r && type->open)
		r = type->open(lu, e);
	r = r ? r : pr_load(lu, e);
	r = r ? r : sanitize_load(lu, e);
	if (!r) {
		lu->format = format_load(lu);
		mode_load(lu);
		ident_load(lu);
		alua_load(lu);
		lu_derive(lu);
		lu->told_nblk = lu->pub.nblk;
		r = lu_add_loops(lu) ? err_set(e, -ENOMEM, "out of memory") : 0;
	}
	if (r) {
		lu_free(lu);
		return r;
	}
	if (blk && lu->sanitize && control_job(lu, NULL, NULL, sanitize_go_on)) {
		lu_free(lu);
		return err_set(e, -ENOMEM, "out of memory");
	}
	*ret = lu;
	return 0;
}

static void run_attach(struct lu_job *j)
{
	const struct control_job *cj = container_of(j, struct control_job, job);

	lu_set(&j->lu->pub, cj->blk, &cj->fit);
	lu_derive(j->lu);
	j->lu->told_nblk = j->lu->pub.nblk;
	j->ua = UA_MEDIUM_CHANGED;
	lu_publish(j);
}

int lu_attach(struct lu *lu, struct blk *blk, struct err *e)
{
	if (lu->blk)
		return err_set(e, -EBUSY, "%s has its medium already", lu->name);
	struct lu_fit fit;
	int r = lu_fit(lu, blk, &fit, e);
	if (r)
		return r;
	r = control_job(lu, blk, &fit, run_attach);
	if (r)
		return err_set(e, r, "out of memory");
	control_job(lu, NULL, NULL, sanitize_go_on);
	lu->blk = blk;
	return 0;
}

static void run_capacity(struct lu_job *j)
{
	struct lu *lu = j->lu;

	lu_derive(lu);
	j->ua = lu->pub.nblk != lu->told_nblk ? UA_CAPACITY_CHANGED : 0;
	lu->told_nblk = lu->pub.nblk;
	lu_publish(j);
}

void lu_capacity_changed(struct lu *lu)
{
	control_job(lu, NULL, NULL, run_capacity); /* out of memory: the next poll of the size tries again */
}

struct space_job { struct lu_job job; uint64_t used, left; };

static void run_space(struct lu_job *j)
{
	const struct space_job *s = container_of(j, struct space_job, job);

	space_changed(j, s->used, s->left);
}

static void space_done(struct lu_job *j)
{
	struct lu *lu = j->lu;

	free(container_of(j, struct space_job, job));
	lu_unhold(lu);
}

/* Told when it moved by a threshold set, and by a thousandth: a round for each block written would be many. */
void lu_space(struct lu *lu, uint64_t used, uint64_t left)
{
	uint64_t moved = left > lu->space_told ? left - lu->space_told : lu->space_told - left;
	struct space_job *s;

	if (lu->space_told && (moved < 1 << SPACE_SHIFT || moved < left / 1024))
		return;
	s = calloc(1, sizeof(*s));
	if (!s)
		return; /* the next poll tries again */
	lu->space_told = MAX(left, 1u);
	*s = (struct space_job){ .used = used, .left = left };
	lu_hold(lu);
	lu_job_start(&s->job, lu, scsi_control, run_space, space_done);
}

/* --- closing --- */

static void close_leg(struct round_leg *leg, void *ctx)
{
	struct lu *lu = ctx;
	struct scsi_cmd *c, *tmp;

	lu_on(lu, leg->loop)->closing = true;
	if (leg->loop == lu->home) {
		sanitize_stop(lu);
		selftest_stop(lu);
		tokens_revoke(lu);
	}
	list_for_each_safe(c, tmp, &lu_on(lu, leg->loop)->cmds, in_lu) /* what they wait for will not end here */
		if (c->state == SCSI_CMD_PARKED)
			scsi_abort(c);
	lu_wait_all(lu_on(lu, leg->loop), leg);
}

static void closed(void *ctx)
{
	struct lu *lu = ctx;
	void (*gone)(void *) = lu->gone;
	void *gone_ctx = lu->gone_ctx;

	if (lu->type->close)
		lu->type->close(lu);
	if (lu->blk)
		blk_close(lu->blk);
	lu_free(lu);
	if (gone)
		gone(gone_ctx);
}

static void close_start(struct lu *lu)
{
	round_start(scsi_control, close_leg, closed, lu);
}

void lu_close(struct lu *lu, void (*gone)(void *ctx), void *ctx)
{
	lu->closing = true;
	lu->gone = gone;
	lu->gone_ctx = ctx;
	if (!lu->control_jobs)
		close_start(lu);
}

/* --- questions --- */

const char *lu_name(const struct lu *lu)
{
	return lu->name;
}

uint64_t lu_bytes(const struct lu *lu)
{
	return lu->blk ? blk_bytes(lu->blk) / 512 * 512 : 0;
}

struct blk *lu_blk(struct lu *lu)
{
	return lu->blk;
}

void lu_stats(const struct lu *lu, struct lu_stats *ret)
{
	uint64_t sum[LU_STATS] = { 0 };

	for (unsigned i = 0; i < lu->nloops; i++)
		for (unsigned k = 0; lu->ll[i] && k < LU_STATS; k++)
			sum[k] += __atomic_load_n(&lu->ll[i]->stat[k], __ATOMIC_RELAXED);
	memcpy(ret, sum, sizeof(*ret));
}
