/* SPDX-License-Identifier: BSD-3-Clause */
#include "lunette/remote.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RX_BYTES = 256 << 10, TRIES = 8 };

struct remote {
	int               fd;
	struct url        url;
	struct iscsi_ini *ini;
	struct iscsi_chap_user chap;
	bool              ready, closed, logged_out, have_targets;
	unsigned          status;      /* login status */
	char              why[200];
	char             *targets;
	uint32_t          ntargets;
	struct iscsi_ini_cmd *ended[INI_CMDS_MAX / 16];
	unsigned          nended;
	uint8_t           rx[RX_BYTES];
};

static void random_bytes(void *p, size_t n)
{
	if (getrandom(p, n, 0) != (ssize_t)n)
		abort();
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t remote_lun(unsigned lun)
{
	return (uint64_t)(lun < 256 ? lun : 0x4000 | lun) << 48;
}

static int dial(const struct url *u, struct err *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all, *ai;
	int r = getaddrinfo(u->host, u->port, &hints, &all), fd = -1, one = 1, code = 0;

	if (r)
		return err_set(e, -EHOSTUNREACH, "%s: %s", u->host, gai_strerror(r));
	for (ai = all; ai && fd < 0; ai = ai->ai_next) {
		fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, ai->ai_addr, ai->ai_addrlen)) {
			code = errno;
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(all);
	if (fd < 0)
		return err_set(e, -code, "cannot connect to %s port %s: %s; does a target listen there?", u->host, u->port,
			strerror(code));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
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

static void take_events(struct remote *r)
{
	struct iscsi_ini_event ev;

	while (iscsi_ini_next(r->ini, &ev)) {
		switch (ev.kind) {
		case INI_EV_CONNECT: iscsi_ini_up(r->ini, ev.conn); break;
		case INI_EV_HANGUP: iscsi_ini_lost(r->ini, ev.conn, ev.text); break;
		case INI_EV_LOGGED_IN: r->ready = true; break;
		case INI_EV_CMD: r->ended[r->nended++] = ev.cmd; break;
		case INI_EV_TARGETS: keep_targets(r, ev.text, ev.len); break;
		case INI_EV_LOGOUT: r->logged_out = true; break;
		case INI_EV_CLOSED:
			r->closed = true;
			r->status = ev.code;
			snprintf(r->why, sizeof(r->why), "%s", ev.text ? ev.text : "connection lost");
			break;
		default: break;
		}
	}
}

static bool send_all(struct remote *r)
{
	struct iovec *iov;
	int n;

	while ((n = iscsi_ini_tx(r->ini, 0, &iov)) > 0) {
		struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)(n > 1024 ? 1024 : n) };
		ssize_t sent = sendmsg(r->fd, &m, MSG_NOSIGNAL);
		if (sent < 0 && errno != EINTR) {
			iscsi_ini_lost(r->ini, 0, strerror(errno));
			return false;
		}
		if (sent > 0)
			iscsi_ini_tx_done(r->ini, 0, (size_t)sent);
	}
	return true;
}

/* Sends what there is and receives once. */
static void turn(struct remote *r)
{
	struct pollfd p = { .fd = r->fd, .events = POLLIN };

	uint64_t next = iscsi_ini_tick(r->ini, now_ns());
	take_events(r);
	if (!send_all(r)) {
		take_events(r);
		return;
	}
	uint64_t now = now_ns();
	int ms = next == UINT64_MAX ? -1 : next <= now ? 0 : (int)((next - now) / 1000000 + 1);
	if (poll(&p, 1, ms) > 0) {
		ssize_t n = recv(r->fd, r->rx, sizeof(r->rx), 0);
		if (n > 0)
			iscsi_ini_rx(r->ini, 0, r->rx, (size_t)n);
		else if (n == 0 || errno != EINTR)
			iscsi_ini_lost(r->ini, 0, n ? strerror(errno) : "closed by the target");
	}
	take_events(r);
	send_all(r);
}

static int lost(const struct remote *r, struct err *e)
{
	static const struct { unsigned status; const char *text; } words[] = {
		{ LOGIN_AUTH_FAILED, "the target refused the user or the secret; give them as iscsi://user%secret@host/..." },
		{ LOGIN_NOT_FOUND, "the server has no target of that name; lunette discover lists those that it has" },
		{ LOGIN_FORBIDDEN, "this initiator may not use the target" },
		{ LOGIN_REMOVED, "the target was removed" },
		{ LOGIN_UNAVAILABLE, "the server is about to stop or too busy; try again" },
		{ LOGIN_MOVED_TEMP, "the target has moved for now" }, { LOGIN_MOVED_PERM, "the target has moved" },
	};

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (r->status == words[i].status)
			return err_set(e, -EACCES, "%s: %s", r->url.host, words[i].text);
	return err_set(e, -ECONNRESET, "%s: %s", r->url.host, r->why);
}

static int open_once(struct remote **ret, const struct url *u, char moved[300], struct err *e)
{
	struct remote *r = calloc(1, sizeof(*r));
	struct iscsi_ini_conf c;

	if (!r)
		return err_set(e, -ENOMEM, "out of memory");
	r->url = *u;
	r->fd = dial(u, e);
	if (r->fd < 0) {
		int code = r->fd;
		free(r);
		return code;
	}
	iscsi_ini_conf_defaults(&c);
	c.initiator = "iqn.2025-01.net.lunette:cli";
	c.target = *u->target ? r->url.target : NULL;
	c.isid[0] = 0x80;
	random_bytes(c.isid + 1, 5);
	c.max_cmds = sizeof(r->ended) / sizeof(r->ended[0]);
	c.random = random_bytes;
	if (*u->user) {
		r->chap = (struct iscsi_chap_user){ .name = r->url.user, .secret = r->url.secret };
		c.chap = &r->chap;
	}
	r->ini = iscsi_ini_new(&c);
	while (r->ini && !r->ready && !r->closed)
		turn(r);
	if (r->ready) {
		*ret = r;
		return 0;
	}
	int code = r->ini ? lost(r, e) : err_set(e, -ENOMEM, "out of memory");
	if (r->ini && r->status >> 8 == LOGIN_MOVED_TEMP >> 8)
		snprintf(moved, 300, "%s", iscsi_ini_moved(r->ini));
	remote_close(r);
	return code;
}

/* A target that has moved is followed, a few times. */
int remote_open(struct remote **ret, const struct url *u, struct err *e)
{
	struct url to = *u;

	for (int i = 0; i < TRIES; i++) {
		char moved[300] = "";
		int code = open_once(ret, &to, moved, e);
		if (!code || !*moved)
			return code;
		moved[strcspn(moved, ",")] = 0; /* the portal group tag */
		code = url_parse_host(&to, moved, strlen(moved), "3260", e);
		if (code)
			return code;
	}
	return err_set(e, -ELOOP, "%s: the target moves without end", u->host);
}

void remote_close(struct remote *r)
{
	if (!r)
		return;
	if (r->ready && !r->closed && iscsi_ini_logout(r->ini) == 0)
		while (!r->logged_out && !r->closed)
			turn(r);
	close(r->fd);
	iscsi_ini_free(r->ini);
	free(r->targets);
	free(r);
}

int remote_targets(struct remote *r, const char **text, uint32_t *len, struct err *e)
{
	r->have_targets = false;
	if (iscsi_ini_send_targets(r->ini, "All"))
		return err_set(e, -EIO, "cannot ask for the targets");
	while (!r->have_targets && !r->closed)
		turn(r);
	if (r->closed)
		return lost(r, e);
	*text = r->targets;
	*len = r->ntargets;
	return 0;
}

int remote_submit(struct remote *r, struct iscsi_ini_cmd *cmd, struct err *e)
{
	int code = iscsi_ini_cmd(r->ini, cmd);

	if (code)
		return r->closed ? lost(r, e) : err_set(e, code, "cannot send a command: %s", strerror(-code));
	return 0;
}

struct iscsi_ini_cmd *remote_next(struct remote *r, struct err *e)
{
	while (!r->nended && !r->closed)
		turn(r);
	if (!r->nended) {
		lost(r, e);
		return NULL;
	}
	struct iscsi_ini_cmd *c = r->ended[0];
	memmove(r->ended, r->ended + 1, --r->nended * sizeof(r->ended[0]));
	return c;
}

static unsigned sense_key(const struct iscsi_ini_cmd *c)
{
	if (c->status != 2 || c->sense_len < 8)
		return 0;
	return (c->sense[0] & 0x7f) >= 0x72 ? c->sense[1] & 0x0f : c->sense[2] & 0x0f;
}

int remote_verdict(const struct iscsi_ini_cmd *c, struct err *e)
{
	static const char *const keys[16] = { "no sense", "recovered error", "not ready", "medium error", "hardware error",
		"illegal request", "unit attention", "data protect", "blank check", "vendor specific", "copy aborted",
		"aborted command", "reserved", "volume overflow", "miscompare", "completed" };
	bool desc = c->sense_len && (c->sense[0] & 0x7f) >= 0x72;

	if (c->error)
		return err_set(e, c->error, "%s", strerror(-c->error));
	if (c->response || (c->status && c->status != 2))
		return err_set(e, -EIO, "command %02xh ended with status %02xh", c->cdb[0], c->status);
	if (c->status)
		return err_set(e, -EIO, "command %02xh: %s (%02xh/%02xh)", c->cdb[0], keys[sense_key(c)],
			desc ? c->sense[2] : c->sense_len > 13 ? c->sense[12] : 0,
			desc ? c->sense[3] : c->sense_len > 13 ? c->sense[13] : 0);
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
	struct iscsi_ini_cmd c = { .lun = remote_lun(lun), .cdb = { 0x9e, 0x10, [13] = 32 }, .in = d, .in_len = 32 };
	int code = remote_run(r, &c, e);

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
		.in = buf, .in_len = room };

	put_be16(c.cdb + 3, room);
	memset(buf, 0, room);
	int code = remote_run(r, &c, e);
	return code ? code : (int)c.in_got;
}
