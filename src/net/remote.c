/* SPDX-License-Identifier: BSD-3-Clause */
#include "net/remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/initiator.h"

enum { TRIES = 8, CMDS = 256 };
#define RETRY_NS 30000000000ull

/* All sessions of the program turn on one loop: while one is waited for, the others answer their targets. */
static struct loop *loop;
static unsigned users;

struct remote {
	struct url        url;
	struct remote_options options;
	struct net_ini   *net;
	struct iscsi_ini *ini;
	struct iscsi_chap_user chap[2];
	bool              ready, closed, logged_out, have_targets, gone;
	unsigned          status;      /* login status */
	char              why[200];
	char             *targets;
	uint32_t          ntargets;
	struct iscsi_ini_cmd *ended[CMDS];
	unsigned          nended, lost;
};

uint64_t remote_lun(unsigned lun)
{
	return (uint64_t)(lun < 256 ? lun : 0x4000 | lun) << 48;
}

static void keep_targets(struct remote *r, const char *text, uint32_t len)
{
	free(r->targets);
	r->targets = malloc(len + 1u);
	r->ntargets = r->targets ? len : 0;
	r->have_targets = true;
	if (!r->targets)
		return;
	memcpy(r->targets, text, len);
	r->targets[len] = 0; /* whatever the server sent, lines end inside */
}

static void say_down(const struct remote *r, const char *why)
{
	if (r->options.down)
		r->options.down(r->url.host, why);
}

static void event(void *ctx, const struct iscsi_ini_event *ev)
{
	struct remote *r = ctx;

	switch (ev->kind) {
	case INI_EV_LOGGED_IN: r->ready = true; break;
	case INI_EV_CMD: r->ended[r->nended++] = ev->cmd; break;
	case INI_EV_TARGETS: keep_targets(r, ev->text, ev->len); break;
	case INI_EV_LOGOUT: r->logged_out = true; break;
	case INI_EV_DOWN: r->lost++; say_down(r, ev->text); break;
	case INI_EV_CLOSED:
		r->closed = true;
		r->status = ev->code;
		snprintf(r->why, sizeof(r->why), "%s", ev->text);
		break;
	default: break;
	}
}

static void turn(struct remote *r)
{
	net_ini_kick(r->net);
	loop_turn(loop, UINT64_MAX);
}

static int why_lost(const struct remote *r, struct err *e)
{
	static const struct { unsigned status; int code; const char *text; } words[] = {
		{ LOGIN_AUTH_FAILED, -EACCES,
		  "the target refused the user or the secret; give them as iscsi://user%secret@host/..." },
		{ LOGIN_NOT_FOUND, -ENOENT,
		  "the server has no target of that name; lunette discover lists those that it has" },
		{ LOGIN_FORBIDDEN, -EACCES, "this initiator may not use the target" },
		{ LOGIN_REMOVED, -ENOENT, "the target was removed" },
		{ LOGIN_UNAVAILABLE, -EACCES, "the server is about to stop or too busy; try again" },
		{ LOGIN_MOVED_TEMP, -EACCES, "the target has moved for now" },
		{ LOGIN_MOVED_PERM, -EACCES, "the target has moved" },
	};

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (r->status == words[i].status)
			return err_set(e, words[i].code, "%s: %s", r->url.host, words[i].text);
	if (net_ini_errno(r->net))
		return err_set(e, net_ini_errno(r->net), "%s; does a target listen there?", r->why);
	return err_set(e, -ECONNRESET, "%s: %s", r->url.host, r->why);
}

static void print_down(const char *host, const char *why)
{
	fprintf(stderr, "lunette: %s: %s; trying to come back\n", host, why);
}

static const struct remote_options defaults = { "iqn.2025-01.net.lunette:cli", RETRY_NS, 0, print_down };

static int use_loop(struct err *e)
{
	if (!loop)
		loop = loop_new(&loop_epoll, 0, e);
	if (!loop)
		return e->code;
	loop_set_spin(loop, 0);
	users++;
	return 0;
}

int remote_open(struct remote **ret, const struct url *u, const struct remote_options *o, struct err *e)
{
	struct remote *r = calloc(1, sizeof(*r));
	struct net_ini_conf c = { .event = event, .ctx = r };
	int code = r ? use_loop(e) : err_set(e, -ENOMEM, "out of memory");

	if (code) {
		free(r);
		return code;
	}
	r->url = *u;
	r->options = o ? *o : defaults;
	net_ini_use_url(&c, &r->url, r->options.name, r->chap);
	if (!u->retry_set)
		c.ini.retry_ns = r->options.retry_ns;
	c.ini.login_timeout_ns = r->options.login_timeout_ns;
	c.ini.max_cmds = CMDS;
	r->net = net_ini_new(loop, &c);
	r->ini = r->net ? net_ini_engine(r->net) : NULL;
	while (r->net && !r->ready && !r->closed)
		turn(r);
	if (r->ready) {
		*ret = r;
		return 0;
	}
	code = r->net ? why_lost(r, e) : err_set(e, -ENOMEM, "out of memory");
	remote_close(r);
	return code;
}

static void gone(void *ctx)
{
	*(bool *)ctx = true;
}

void remote_close(struct remote *r)
{
	if (!r)
		return;
	if (r->ready && !r->closed && iscsi_ini_logout(r->ini) == 0)
		while (!r->logged_out && !r->closed)
			turn(r);
	if (r->net)
		net_ini_close(r->net, gone, &r->gone);
	while (r->net && !r->gone)
		loop_turn(loop, UINT64_MAX);
	free(r->targets);
	free(r);
	if (--users)
		return;
	loop_free(loop);
	loop = NULL;
}

int remote_targets(struct remote *r, const char **text, uint32_t *len, struct err *e)
{
	r->have_targets = false;
	if (iscsi_ini_send_targets(r->ini, "All"))
		return err_set(e, -EIO, "cannot ask for the targets");
	while (!r->have_targets && !r->closed)
		turn(r);
	if (r->closed)
		return why_lost(r, e);
	*text = r->targets;
	*len = r->ntargets;
	return 0;
}

int remote_submit(struct remote *r, struct iscsi_ini_cmd *cmd, struct err *e)
{
	int code = iscsi_ini_cmd(r->ini, cmd);

	if (code)
		return r->closed ? why_lost(r, e) : err_set(e, code, "cannot send a command: %s", strerror(-code));
	net_ini_kick(r->net);
	return 0;
}

struct iscsi_ini_cmd *remote_next(struct remote *r, struct err *e)
{
	while (!r->nended && !r->closed)
		turn(r);
	if (!r->nended) {
		why_lost(r, e);
		return NULL;
	}
	struct iscsi_ini_cmd *c = r->ended[0];
	memmove(r->ended, r->ended + 1, --r->nended * sizeof(r->ended[0]));
	return c;
}

unsigned remote_lost(const struct remote *r)
{
	return r->lost;
}

unsigned remote_sense(const struct iscsi_ini_cmd *c)
{
	if (c->status != 2 || c->sense_len < 8)
		return 0;
	if ((c->sense[0] & 0x7f) >= 0x72)
		return (c->sense[1] & 15u) << 16 | (unsigned)c->sense[2] << 8 | c->sense[3];
	return (c->sense[2] & 15u) << 16 | (c->sense_len > 13 ? (unsigned)c->sense[12] << 8 | c->sense[13] : 0);
}

static unsigned sense_key(const struct iscsi_ini_cmd *c)
{
	return remote_sense(c) >> 16;
}

int remote_verdict(const struct iscsi_ini_cmd *c, struct err *e)
{
	static const char *const keys[16] = { "no sense", "recovered error", "not ready", "medium error", "hardware error",
		"illegal request", "unit attention", "data protect", "blank check", "vendor specific", "copy aborted",
		"aborted command", "reserved", "volume overflow", "miscompare", "completed" };
	unsigned code = remote_sense(c) & 0xffff;

	if (c->error)
		return err_set(e, c->error, "%s", strerror(-c->error));
	if (c->response || (c->status && c->status != 2))
		return err_set(e, -EIO, "command %02xh ended with status %02xh", c->cdb[0], c->status);
	if (c->status)
		return err_set(e, -EIO, "command %02xh: %s (%02xh/%02xh)", c->cdb[0], keys[sense_key(c)], code >> 8,
			code & 255);
	return 0;
}

int remote_run(struct remote *r, struct iscsi_ini_cmd *cmd, struct err *e)
{
	struct iscsi_ini_cmd ask = *cmd;

	for (int i = 0; i < TRIES; i++) {
		*cmd = ask;
		int code = remote_submit(r, cmd, e);
		if (code)
			return code;
		if (!remote_next(r, e))
			return -ECONNRESET;
		if (sense_key(cmd) != 6)
			break;
	}
	return remote_verdict(cmd, e);
}

int remote_capacity(struct remote *r, unsigned lun, uint64_t *ret_bytes, uint32_t *ret_block, bool *ret_thin,
	struct err *e)
{
	uint8_t d[32] = { 0 };
	struct iscsi_ini_cmd c = { .lun = remote_lun(lun), .cdb = { 0x9e, 0x10, [13] = 32 },
		.in = d, .in_len = 32, .retry = true };
	int code = remote_run(r, &c, e);

	if (code == -EIO && remote_sense(&c) == 0x52500) /* LOGICAL UNIT NOT SUPPORTED */
		return err_set(e, -ENOENT, "the target has no LUN %u; lunette ls lists those that it has", lun);
	if (code)
		return code;
	*ret_block = be32(d + 8);
	*ret_thin = d[14] & 0x80;
	if (c.in_got < 12 || *ret_block < 512 || *ret_block > 65536 || be64(d) >= UINT64_MAX / *ret_block)
		return err_set(e, -EPROTO, "the target tells an impossible capacity");
	*ret_bytes = (be64(d) + 1) * *ret_block;
	return 0;
}

int remote_inquiry(struct remote *r, unsigned lun, int page, uint8_t *buf, uint16_t room, struct err *e)
{
	struct iscsi_ini_cmd c = { .lun = remote_lun(lun), .cdb = { 0x12, page >= 0, page >= 0 ? (uint8_t)page : 0 },
		.in = buf, .in_len = room, .retry = true };

	put_be16(c.cdb + 3, room);
	memset(buf, 0, room);
	int code = remote_run(r, &c, e);
	return code ? code : (int)c.in_got;
}
