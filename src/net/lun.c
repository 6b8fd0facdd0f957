/* SPDX-License-Identifier: BSD-3-Clause
 * A disk that is a LUN of another iSCSI target.
 *
 *   option         default  meaning
 *   url            -        iscsi://host[:port]/iqn/lun[?option=value...]
 *   user, secret   -        CHAP: who we are
 *   target-user, target-secret  -  CHAP: what the target must prove
 *   connections    1        of the session
 *   level          0        of error recovery, 0 to 2
 *   digests        none     CRC32C over headers, data or both
 *   retry          30s      how long requests wait for a target that is gone
 *   write-through  off      each write is durable at the target before it is done
 *   ro             off      opened for reading only
 *
 * open() asks the LUN what it is over a session of its own that ends with it; a target that cannot be reached is a disk
 * that is not ready and is tried again. Then a session on the home loop serves, and comes back for ever when it is lost. */
#include "net/lun.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "loop/round.h"
#include "net/net.h"
#include "net/remote.h"

struct lun_conf {
	char    *url, *user, *secret, *target_user, *target_secret;
	uint64_t connections, level, digests, retry_ns;
	bool     write_through, ro;
};

static const char *const digest_words[] = { "none", "header", "data", "both", NULL };

#define FIELD(name, kind, flags, at, dflt, min, max, help, choices) \
	{ name, kind, flags, offsetof(struct lun_conf, at), dflt, min, max, help, choices }
static const struct conf_field lun_fields[] = {
	FIELD("url", CONF_TEXT, CONF_REQUIRED, url, NULL, NULL, NULL, "The LUN: iscsi://HOST[:PORT]/IQN/LUN.", NULL),
	FIELD("user", CONF_TEXT, 0, user, NULL, NULL, NULL, "Name under which this server logs in there by CHAP.", NULL),
	FIELD("secret", CONF_SECRET, 0, secret, NULL, NULL, NULL, "Secret of that name.", NULL),
	FIELD("target-user", CONF_TEXT, 0, target_user, NULL, NULL, NULL, "CHAP name that the target must prove.", NULL),
	FIELD("target-secret", CONF_SECRET, 0, target_secret, NULL, NULL, NULL,
		"Secret by which the target must prove itself.", NULL),
	FIELD("connections", CONF_UINT, 0, connections, "1", "1", "16", "Connections of the session.", NULL),
	FIELD("level", CONF_UINT, 0, level, "0", "0", "2", "Error recovery level that is offered.", NULL),
	FIELD("digests", CONF_ENUM, 0, digests, "none", NULL, NULL, "CRC32C over what is sent and received.", digest_words),
	FIELD("retry", CONF_TIME, 0, retry_ns, "30s", "0s", "1d",
		"How long reads and writes wait for a target that is gone before they fail.", NULL),
	FIELD("write-through", CONF_BOOL, 0, write_through, "off", NULL, NULL,
		"Each write is durable at the target before it is done; else a power cut there loses what was not flushed.",
		NULL),
	FIELD("ro", CONF_BOOL, 0, ro, "off", NULL, NULL, "Read only.", NULL),
	{ 0 },
};

static struct loop *control;
static unsigned     closing;  /* disks whose sockets are still open; the control thread's */

/* --- what the LUN is --- */

struct geometry {
	uint64_t bytes, same_blocks;
	uint32_t block, phys;
	bool     thin, zeroes, read_only, cache;
};

static int read_capacity(struct remote *r, const struct lun *l, struct geometry *g, struct err *e)
{
	uint8_t d[32] = { 0 };
	struct iscsi_ini_cmd c = { .lun = l->lun, .cdb = { 0x9e, 0x10, [13] = 32 }, .in = d, .in_len = 32 };
	int code = remote_run(r, &c, e);

	if (code)
		return code;
	g->block = be32(d + 8);
	if (c.in_got < 12 || g->block < 512 || g->block > PAGE_BYTES || (g->block & (g->block - 1)) ||
	    be64(d) >= (uint64_t)INT64_MAX / g->block)
		return err_set(e, -EPROTO, "the target tells an impossible capacity");
	g->bytes = (be64(d) + 1) * g->block;
	g->phys = g->block << (d[13] & 15);
	g->thin = d[14] & 0x80;
	g->zeroes = d[14] & 0x40;
	return 0;
}

/* Mode page 08h: write cache; header: write protection. A target without the page is taken for one with a cache. */
static void read_modes(struct remote *r, const struct lun *l, struct geometry *g)
{
	uint8_t d[64] = { 0 };
	struct iscsi_ini_cmd c = { .lun = l->lun, .cdb = { 0x1a, 0, 0x08, 0, sizeof(d) }, .in = d, .in_len = sizeof(d) };
	struct err none;
	unsigned at;

	g->cache = true;
	if (remote_run(r, &c, &none) || c.in_got < 4)
		return;
	g->read_only = d[2] & 0x80;
	at = 4u + d[3];
	if (at + 3 <= c.in_got && (d[at] & 0x3f) == 0x08)
		g->cache = d[at + 2] & 0x04;
}

static void read_limits(struct remote *r, const struct lun *l, struct geometry *g)
{
	uint8_t d[64], pages[64];
	struct err none;
	int n = remote_inquiry(r, l->url.lun, 0, pages, sizeof(pages), &none);

	g->same_blocks = 0;
	if (n > 4 && memchr(pages + 4, 0xb0, (size_t)n - 4) &&
	    remote_inquiry(r, l->url.lun, 0xb0, d, sizeof(d), &none) >= 44) {
		uint64_t most = be64(d + 36);

		g->same_blocks = MIN(most ? most : UINT32_MAX, (uint64_t)UINT32_MAX);
	}
	if (n > 4 && memchr(pages + 4, 0xb2, (size_t)n - 4) &&
	    remote_inquiry(r, l->url.lun, 0xb2, d, sizeof(d), &none) >= 6)
		g->thin &= (d[5] & 0x40) != 0; /* WRITE SAME (16) may deallocate */
	else
		g->thin = false;
}

static int ask(struct lun *l, struct geometry *g, struct err *e)
{
	static const struct remote_options o = { "iqn.2025-01.net.lunette:gateway", 0, UINT64_C(5000000000), NULL };
	struct remote *r;
	uint8_t d[96];
	int n, code = remote_open(&r, &l->url, &o, e);

	if (code)
		return code;
	n = remote_inquiry(r, l->url.lun, -1, d, sizeof(d), e);
	if (n >= 0 && (n < 36 || (d[0] & 0x1f) != 0 || d[0] >> 5))
		n = err_set(e, -ENODEV, "the target has no disk as LUN %u; lunette ls lists those that it has", l->url.lun);
	code = n < 0 ? n : read_capacity(r, l, g, e);
	if (!code) {
		read_modes(r, l, g);
		read_limits(r, l, g);
	}
	remote_close(r);
	return code;
}

/* --- life --- */

static int copy_text(char *to, size_t room, const char *from, const char *where, struct err *e)
{
	if (!from)
		return 0;
	if (strlen(from) >= room)
		return err_at(e, -EINVAL, where, "is longer than %zu characters", room - 1);
	memcpy(to, from, strlen(from) + 1);
	return 0;
}

static int use_conf(struct lun *l, const struct lun_conf *c, struct err *e)
{
	struct url *u = &l->url;
	struct err why;
	int r = url_parse(u, c->url, &why);

	if (r)
		return err_at(e, r, "url", "%s", why.text);
	if (*u->secret || *u->target_secret)
		return err_at(e, -EINVAL, "url", "has a secret in it, which would be shown: use the options user and secret");
	if (!*u->target)
		return err_at(e, -EINVAL, "url", "names no target; write iscsi://host/iqn/lun (lunette ls HOST lists them)");
	if (!c->user != !c->secret)
		return err_at(e, -EINVAL, c->user ? "secret" : "user", "is missing: CHAP needs both user and secret");
	u->connections = (unsigned)c->connections;
	u->level = (unsigned)c->level;
	u->header_digest = c->digests & 1;
	u->data_digest = c->digests & 2;
	r = copy_text(u->user, sizeof(u->user), c->user, "user", e);
	r = r ? r : copy_text(u->secret, sizeof(u->secret), c->secret, "secret", e);
	r = r ? r : copy_text(u->target_user, sizeof(u->target_user), c->target_user, "target-user", e);
	r = r ? r : copy_text(u->target_secret, sizeof(u->target_secret), c->target_secret, "target-secret", e);
	l->retry_ns = c->retry_ns;
	l->write_through = c->write_through;
	l->lun = remote_lun(u->lun);
	snprintf(l->shown, sizeof(l->shown), "iscsi://%.120s:%s/%s/%u", u->host, u->port, u->target, u->lun);
	return r;
}

/* From the home loop: the LUN has another size. */
struct news { struct task task; struct lun *lun; uint64_t bytes; };

static void hear_bytes(struct task *t)
{
	struct news *n = container_of(t, struct news, task);

	n->lun->seen_bytes = n->bytes;
	free(n);
}

void lun_tell_bytes(struct lun *l, uint64_t bytes)
{
	struct news *n = malloc(sizeof(*n));

	if (!n) /* the next question for the capacity will try again */
		return;
	*n = (struct news){ .lun = l, .bytes = bytes, .task.run = hear_bytes };
	l->bytes = bytes;
	loop_post(l->control, &n->task);
}

static void gone(struct task *t)
{
	struct lun *l = container_of(t, struct lun, gone);

	closing--;
	free(l);
}

static void show(struct blk *b, const struct lun *l, const struct geometry *g, bool ro)
{
	b->bytes = g->bytes;
	b->block_bytes = g->block;
	b->phys_bytes = MIN(g->phys, (uint32_t)PAGE_BYTES);
	b->caps = (ro || g->read_only ? BLK_READ_ONLY : 0) | (g->cache && !l->write_through ? BLK_WRITE_CACHE : 0);
	if (g->thin && g->zeroes && g->same_blocks)
		b->caps |= BLK_CAN_DISCARD;
	if (g->thin)
		b->caps |= BLK_CAN_MAP;
	b->discard_max = l->same_bytes;
	b->home = l->home;
	snprintf(b->name, sizeof(b->name), "%.63s", l->shown);
}

static int lun_open(struct blk *b, const void *conf, struct err *e)
{
	const struct lun_conf *c = conf;
	struct lun *l = calloc(1, sizeof(*l));
	struct geometry g = { 0 };
	struct err why = { 0 };
	static unsigned next_home;
	int r = l ? use_conf(l, c, e) : err_set(e, -ENOMEM, "out of memory");

	if (!r && (!loop_group.n || !control))
		r = err_set(e, -ENODEV, "no I/O loops");
	if (!r && ask(l, &g, &why))
		r = err_at(e, why.code, "url", "%s", why.text);
	if (r) {
		free(l);
		return r;
	}
	l->home = loop_group.loop[next_home++ % loop_group.n];
	l->control = control;
	l->blk = b;
	l->block = g.block;
	l->bytes = l->seen_bytes = g.bytes;
	l->same_bytes = MIN(g.same_blocks * g.block, (uint64_t)LUN_SAME_BYTES);
	l->start.run = lun_start;
	l->stop.run = lun_stop;
	l->gone.run = gone;
	show(b, l, &g, c->ro);
	*(struct lun **)b->priv = l;
	loop_post(l->home, &l->start);
	return 0;
}

static void lun_close(struct blk *b)
{
	struct lun *l = *(struct lun **)b->priv;

	if (!l)
		return;
	closing++;
	loop_post(l->home, &l->stop);
}

static int lun_poll_size(struct blk *b)
{
	const struct lun *l = *(struct lun **)b->priv;

	if (l->seen_bytes < b->bytes)
		return -ERANGE;
	b->bytes = l->seen_bytes;
	return 0;
}

void net_blk_iscsi_init(struct loop *loop)
{
	control = loop;
}

void net_blk_iscsi_fini(void)
{
	for (unsigned n = 0; closing && n < 300; n++)
		loop_turn(control, loop_now_ns(control) + UINT64_C(10000000));
}

const struct blk_ops net_blk_iscsi = {
	.name = "iscsi",
	.priv_bytes = sizeof(struct lun *),
	.conf_bytes = sizeof(struct lun_conf),
	.config = lun_fields,
	.open = lun_open,
	.close = lun_close,
	.submit = lun_submit,
	.poll_size = lun_poll_size,
};
