/* SPDX-License-Identifier: BSD-3-Clause */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model.h"
#include "net/initiator.h"
#include "server.h"

enum { RX_BYTES = 16384, RETRY_NS = 50000000 };
#define NOP_NS     (2 * SIM_S)
#define TICK_NS    (SIM_S / 2) /* to look whether a reset took commands */
#define RETRY_FOR  (60 * SIM_S)
#define RESET_WAIT (5 * SIM_S) /* for commands that somebody's LUN reset may have aborted without a word */
enum kind { READ, WRITE, FLUSH, ZERO, UNMAP, SWAP, KINDS };
enum { KEY_MEDIUM = 3, KEY_HARDWARE = 4, KEY_UNIT_ATTENTION = 6, KEY_DATA_PROTECT = 7, KEY_ABORTED = 11,
	KEY_MISCOMPARE = 14 };
enum { GOOD = 0, CHECK_CONDITION = 2, BUSY = 8, TASK_SET_FULL = 0x28 };

struct cmd {
	struct iscsi_ini_cmd ini;
	struct client *client;
	enum kind kind;
	bool      busy, fua;
	unsigned  lba, n;
	uint64_t  id, began, sent_ns;
	uint64_t  content;     /* of a write: what model_write() called it first */
	uint64_t  compare;     /* SWAP: the content that it expects */
	uint8_t  *data;
};

/* A write whose fate is unknown until its session has been replaced. */
struct lost {
	uint64_t id;
	unsigned lba, n;
};

struct client {
	struct client_conf conf;
	struct loop *loop;
	struct net_ini *ini;
	bool     leaving, finished, checking;
	struct timer retry, tick;
	char     name[64], port[8];
	unsigned left, check_at, inflight, sessions;
	struct cmd cmd[DEPTH_MAX];
	struct lost *lost;
	unsigned nlost, lost_room;
	uint64_t seen[SERVER_BLOCKS]; /* what a read found there last */
	bool     tmf_busy, tmf_resets;
};

static uint64_t reset_ns; /* when the last LUN reset of any client ended */

unsigned client_sessions, client_commands;
struct iscsi_ini_stats client_repairs;

/* --- commands --- */

static void put_rw16(struct cmd *k, uint8_t opcode)
{
	k->ini.cdb[0] = opcode;
	k->ini.cdb[1] = k->fua ? 8 : 0;
	put_be64(k->ini.cdb + 2, k->lba);
	put_be32(k->ini.cdb + 10, k->n);
}

static void make_read(struct cmd *k)
{
	put_rw16(k, 0x88);
	k->ini.in = k->data;
	k->ini.in_len = k->n * BLOCK;
	k->began = model_moment();
}

static void make_write(struct cmd *k)
{
	k->fua = sim_chance(25);
	put_rw16(k, 0x8a);
	k->id = model_write(k->lba, k->n, false);
	model_fill(k->id, k->lba, k->n, k->data);
	k->ini.out = k->data;
	k->ini.out_len = k->n * BLOCK;
}

static void make_flush(struct cmd *k)
{
	k->ini.cdb[0] = 0x91;
	k->began = model_moment();
}

/* WRITE SAME (16) of zeros, half of them with UNMAP. */
static void make_zero(struct cmd *k)
{
	put_rw16(k, 0x93);
	k->ini.cdb[1] = sim_chance(50) ? 8 : 0;
	k->id = model_write(k->lba, k->n, true);
	memset(k->data, 0, BLOCK);
	k->ini.out = k->data;
	k->ini.out_len = BLOCK;
}

static void make_unmap(struct cmd *k)
{
	k->ini.cdb[0] = 0x42;
	k->ini.cdb[8] = 24;
	k->id = model_write(k->lba, k->n, true);
	memset(k->data, 0, 24);
	put_be16(k->data, 22);
	put_be16(k->data + 2, 16);
	put_be64(k->data + 8, k->lba);
	put_be32(k->data + 16, k->n);
	k->ini.out = k->data;
	k->ini.out_len = 24;
}

/* COMPARE AND WRITE of one block. */
static void make_swap(struct cmd *k)
{
	k->n = 1;
	k->fua = sim_chance(25);
	put_rw16(k, 0x89);
	put_be32(k->ini.cdb + 10, 0);
	k->ini.cdb[13] = 1;
	k->compare = k->client->seen[k->lba];
	k->id = model_write(k->lba, 1, false);
	model_fill(k->compare, k->lba, 1, k->data);
	model_fill(k->id, k->lba, 1, k->data + BLOCK);
	k->ini.out = k->data;
	k->ini.out_len = 2 * BLOCK;
}

static void (*const make[KINDS])(struct cmd *k) = {
	[READ] = make_read, [WRITE] = make_write, [FLUSH] = make_flush, [ZERO] = make_zero,
	[UNMAP] = make_unmap, [SWAP] = make_swap,
};

static enum kind choose(const struct client *c)
{
	unsigned at = (unsigned)sim_random(100);
	if (c->checking)
		return READ;
	return at < 35 ? READ : at < 72 ? WRITE : at < 82 ? FLUSH : at < 87 ? ZERO : at < 90 ? UNMAP : SWAP;
}

static void choose_range(struct client *c, struct cmd *k)
{
	if (c->checking) {
		k->lba = c->check_at;
		k->n = MIN(64u, SERVER_BLOCKS - k->lba);
		c->check_at += k->n;
		return;
	}
	unsigned most = sim_chance(20) ? c->conf.blocks_max : MIN(16u, c->conf.blocks_max);
	k->n = 1 + (unsigned)sim_random(most);
	k->lba = (unsigned)sim_random(SERVER_BLOCKS - k->n + 1);
}

static bool more(const struct client *c)
{
	return c->checking ? c->check_at < SERVER_BLOCKS : c->left > 0;
}

static void again(struct client *c, const struct cmd *k)
{
	if (!c->checking)
		c->left++;
	else
		c->check_at = MIN(c->check_at, k->lba);
}

static bool is_write(const struct cmd *k)
{
	return k->kind != READ && k->kind != FLUSH;
}

/* The engine has no room: commands that it took back are still in a batch that is being sent. */
static void take_back(struct client *c, struct cmd *k)
{
	k->busy = false;
	c->inflight--;
	if (is_write(k))
		model_write_end(k->id, k->lba, k->n, WRITE_NEVER);
	again(c, k);
}

static void send_cmd(struct client *c, struct cmd *k)
{
	memset(&k->ini, 0, sizeof(k->ini));
	k->client = c;
	k->fua = false;
	k->id = 0;
	k->kind = choose(c);
	choose_range(c, k);
	make[k->kind](k);
	k->ini.attr = 1;
	/* Not what looks at what is there, nor what promises something about what was done before. */
	k->ini.retry = c->conf.retry && k->kind != SWAP && k->kind != FLUSH;
	k->sent_ns = sim_now_ns();
	k->content = k->id;
	k->busy = true;
	c->inflight++;
	c->left -= !c->checking;
	int rc = iscsi_ini_cmd(net_ini_engine(c->ini), &k->ini);
	if (rc && rc != -EBUSY)
		test_fail("%s: the engine refused a command: %s", c->name, strerror(-rc));
	if (rc)
		take_back(c, k);
}

static void send_cmds(struct client *c)
{
	for (unsigned i = 0; i < c->conf.depth && more(c); i++)
		if (!c->cmd[i].busy)
			send_cmd(c, &c->cmd[i]);
}

/* --- results --- */

static void lost_add(struct client *c, const struct cmd *k)
{
	if (c->nlost == c->lost_room) {
		c->lost_room = 2 * c->lost_room + 16;
		c->lost = realloc(c->lost, c->lost_room * sizeof(*c->lost));
		CHECK(c->lost);
	}
	c->lost[c->nlost++] = (struct lost){ k->id, k->lba, k->n };
}

/* The new session is there: nothing of the old one comes any more. */
static void lost_settle(struct client *c)
{
	for (unsigned i = 0; i < c->nlost; i++)
		model_settle(c->lost[i].id, c->lost[i].lba, c->lost[i].n);
	c->nlost = 0;
}

static void cmd_good(struct client *c, struct cmd *k)
{
	char why[2000];
	client_commands++;
	if (k->kind == READ && (k->ini.in_got != k->n * BLOCK || k->ini.underflow || k->ini.overflow))
		test_fail("%s: a good read of %u blocks brought %u bytes, residual %u", c->name, k->n, k->ini.in_got,
			k->ini.resid);
	if (k->kind == READ && !model_read(k->began, k->lba, k->n, k->data, why, sizeof(why)))
		test_fail("%s: wrong data: %s", c->name, why);
	if (k->kind == READ)
		for (unsigned i = 0; i < k->n; i++)
			memcpy(&c->seen[k->lba + i], k->data + i * BLOCK, sizeof(uint64_t));
	if (k->kind == FLUSH)
		model_flushed(k->began);
	if (k->kind == SWAP && !model_compared(k->id, k->lba, k->compare, why, sizeof(why)))
		test_fail("%s: COMPARE AND WRITE is not atomic: %s", c->name, why);
	if (k->kind == UNMAP) /* advice: the target may leave some of it as it was */
		model_write_end(k->id, k->lba, k->n, WRITE_MAYBE);
	else if (is_write(k))
		model_write_end(k->id, k->lba, k->n, k->fua || !c->conf.wce ? WRITE_DURABLE : WRITE_DONE);
}

static unsigned sense_key(const struct cmd *k)
{
	if (k->ini.sense_len < 4)
		return 0;
	return (k->ini.sense[0] & 0x7f) >= 0x72 ? k->ini.sense[1] & 15 : k->ini.sense[2] & 15;
}

/* Whether the target says that it did not even begin. */
static bool refused(const struct cmd *k)
{
	unsigned key = sense_key(k);
	return k->ini.status == BUSY || k->ini.status == TASK_SET_FULL ||
		(k->ini.status == CHECK_CONDITION && (key == KEY_UNIT_ATTENTION || key == KEY_MISCOMPARE));
}

static void cmd_failed(struct client *c, struct cmd *k)
{
	unsigned key = sense_key(k);
	bool medium = key == KEY_MEDIUM || key == KEY_HARDWARE || key == KEY_DATA_PROTECT;
	if (k->ini.status != CHECK_CONDITION || !(medium || key == KEY_ABORTED))
		test_fail("%s: command %02x ended with status %02x key %x asc %02x%02x", c->name, k->ini.cdb[0],
			k->ini.status, key, k->ini.sense[12], k->ini.sense[13]);
	if (medium && !c->conf.errors)
		test_fail("%s: command %02x reports a medium error on a sound disk", c->name, k->ini.cdb[0]);
	if (is_write(k))
		model_write_end(k->id, k->lba, k->n, WRITE_MAYBE);
}

static void cmd_end(struct client *c, struct cmd *k)
{
	k->busy = false;
	c->inflight--;
	sim_note(k->ini.status ^ (uint64_t)k->lba << 16 ^ (uint64_t)(uint32_t)k->ini.error << 32);
	if (k->ini.error && c->conf.recovers && !c->checking)
		test_fail("%s: command %02x was not saved: %s", c->name, k->ini.cdb[0], strerror(-k->ini.error));
	if (k->ini.error) {
		if (is_write(k) && k->ini.error == -ECANCELED) {
			model_write_end(k->id, k->lba, k->n, WRITE_MAYBE); /* the target says that it is over */
		} else if (is_write(k)) {
			model_write_end(k->id, k->lba, k->n, WRITE_LOST);
			lost_add(c, k);
		}
		again(c, k);
	} else if (k->ini.response == 0 && k->ini.status == GOOD) {
		cmd_good(c, k);
	} else if (refused(k)) {
		/* A reset may have ended a first issue of it in the middle; this was a second one, made when its task was gone
		 * after the loss of its connection. */
		if (is_write(k))
			model_write_end(k->id, k->lba, k->n, k->sent_ns <= reset_ns ? WRITE_MAYBE : WRITE_NEVER);
		if (sense_key(k) != KEY_MISCOMPARE || k->kind != SWAP)
			again(c, k);
	} else {
		cmd_failed(c, k);
		if (c->checking)
			again(c, k);
	}
}

/* --- the session --- */

/* Whether a connection or session ended for a reason that is neither the network's nor the clock's. */
static bool is_violation(const struct client *c, const char *why)
{
	static const char *const fine[] = { "logged out", "closed by the target", "target does not answer", "login timed out",
		"a reset took its commands", "closed", "cannot connect", "about to drop it", "session is gone",
		"its connections could not be recovered in time" };
	for (unsigned i = 0; i < ARRAY_LEN(fine); i++)
		if (strstr(why, fine[i]))
			return false;
	if (c->conf.flips && strstr(why, "digest is wrong"))
		return false;
	return strcmp(why, strerror(ECONNRESET)) && strcmp(why, strerror(EPIPE));
}

static void work(struct client *c);

static void ended(void *ctx)
{
	struct client *c = ctx;

	c->ini = NULL;
	if (c->leaving && !more(c))
		c->finished = true;
	else
		loop_timer_set(c->loop, &c->retry, loop_now_ns(c->loop) + 1 + sim_random(RETRY_NS));
	c->leaving = false;
}

/* The engine is about to issue, or to issue again, what waited for the new session. */
static void issued_again(struct client *c)
{
	for (unsigned i = 0; i < c->conf.depth; i++) {
		struct cmd *k = &c->cmd[i];

		if (!k->busy || !is_write(k))
			continue;
		model_write_end(k->id, k->lba, k->n, WRITE_MAYBE);
		k->id = model_write_again(k->content, k->lba, k->n, k->kind == ZERO || k->kind == UNMAP);
	}
}

static void heard_end(struct client *c, const struct iscsi_ini_event *ev)
{
	log_info("%s: %s (%x)", c->name, ev->text, ev->code);
	if (is_violation(c, ev->text))
		test_fail("%s: the target broke the protocol: %s", c->name, ev->text);
	if (c->conf.recovers && c->sessions && !c->checking && !strstr(ev->text, "logged out"))
		test_fail("%s: the session was lost: %s", c->name, ev->text);
	if (c->conf.calm && !c->checking && !strstr(ev->text, "logged out"))
		test_fail("%s: the connection ended without need: %s", c->name, ev->text);
}

static void count_repairs(const struct iscsi_ini_stats *s)
{
	const uint64_t *from = (const uint64_t *)s;
	uint64_t *to = (uint64_t *)&client_repairs;

	for (size_t i = 0; i < sizeof(*s) / sizeof(*to); i++)
		to[i] += from[i];
}

static void event(void *ctx, const struct iscsi_ini_event *ev)
{
	struct client *c = ctx;

	switch (ev->kind) {
	case INI_EV_LOGGED_IN:
		c->tmf_busy = false;
		c->sessions++;
		client_sessions++;
		lost_settle(c);
		issued_again(c);
		break;
	case INI_EV_CMD:
		cmd_end(c, container_of(ev->cmd, struct cmd, ini));
		break;
	case INI_EV_REJECT:
		if (c->conf.flips && ev->code == REJECT_DATA_DIGEST)
			break;
		if (ev->code == REJECT_PROTOCOL && (ev->text[0] & OP_MASK) == ISCSI_SNACK && !(ev->text[1] & 15))
			break; /* 11.16: an R2T that was not lost, only slow, was asked for */
		if (c->conf.aborts_permille && ev->code == REJECT_INVALID_DATA_ACK)
			break; /* of a task that a reset ended meanwhile */
		test_fail("%s: the target rejected a PDU, reason %u", c->name, ev->code);
	case INI_EV_CLOSED:
		heard_end(c, ev);
		count_repairs(iscsi_ini_stats(net_ini_engine(c->ini)));
		net_ini_close(c->ini, ended, c);
		return;
	case INI_EV_DOWN:
		log_info("%s down: %s", c->name, ev->text);
		if (is_violation(c, ev->text))
			test_fail("%s: the target broke the protocol: %s", c->name, ev->text);
		break;
	case INI_EV_TMF:
		c->tmf_busy = false;
		if (c->tmf_resets)
			reset_ns = sim_now_ns();
		break;
	default:
		break;
	}
	work(c);
}

static void abort_some(struct client *c)
{
	struct cmd *k = &c->cmd[sim_random(c->conf.depth)];
	enum iscsi_tmf fn = !sim_random(3) ? TMF_LU_RESET : sim_chance(50) ? TMF_ABORT_TASK_SET : TMF_ABORT_TASK;
	if (c->tmf_busy || (fn == TMF_ABORT_TASK && !k->busy))
		return;
	c->tmf_resets = fn == TMF_LU_RESET;
	c->tmf_busy = !iscsi_ini_tmf(net_ini_engine(c->ini), fn, 0, fn == TMF_ABORT_TASK ? &k->ini : NULL, NULL);
}

/* Another's reset aborts our commands and the target says nothing (TAS is 0): as initiators do, start anew. */
static bool timed_out(const struct client *c)
{
	if (!reset_ns || sim_now_ns() < reset_ns + RESET_WAIT)
		return false;
	for (unsigned i = 0; i < c->conf.depth; i++)
		if (c->cmd[i].busy && c->cmd[i].sent_ns <= reset_ns)
			return true;
	return false;
}

static void work(struct client *c)
{
	struct iscsi_ini *ini = c->ini ? net_ini_engine(c->ini) : NULL;

	if (!ini || !iscsi_ini_ready(ini) || c->leaving)
		return;
	send_cmds(c);
	if (!c->checking && c->inflight && sim_random(1000) < c->conf.aborts_permille)
		abort_some(c);
	if (!more(c) && !c->inflight && !c->tmf_busy) {
		c->leaving = true;
		iscsi_ini_logout(ini);
	}
}

static void tick(struct timer *t)
{
	struct client *c = container_of(t, struct client, tick);

	if (!c->ini)
		return;
	if (timed_out(c)) {
		iscsi_ini_close(net_ini_engine(c->ini), "a reset took its commands");
		net_ini_kick(c->ini);
	}
	loop_timer_set(c->loop, t, loop_now_ns(c->loop) + TICK_NS);
}

static void draw_bytes(void *p, size_t n)
{
	for (uint8_t *b = p; n; n--)
		*b++ = (uint8_t)sim_random(256);
}

static void start(struct client *c)
{
	static const struct iscsi_chap_user user = { .name = SERVER_USER, .secret = SERVER_SECRET };
	static const struct iscsi_chap_user mutual = { .name = SERVER_NAME, .secret = SERVER_NAME_SECRET };
	struct net_ini_conf nc = { .host = "127.0.0.1", .port = c->port, .rx_bytes = RX_BYTES, .socket = sim_socket,
		.event = event, .ctx = c };

	iscsi_ini_conf_defaults(&nc.ini);
	nc.ini.initiator = c->name;
	nc.ini.target = SERVER_TARGET;
	nc.ini.offer = c->conf.offer;
	nc.ini.connections = c->conf.connections;
	nc.ini.retry_ns = c->conf.retry ? RETRY_FOR : 0;
	nc.ini.recover_by_login = sim_chance(50);
	if (c->conf.level)
		iscsi_ini_conf_level(&nc.ini, c->conf.level);
	nc.ini.nop_ns = c->conf.pings ? NOP_NS : 0;
	nc.ini.first_cmd_sn = sim_chance(50) ? 0xfffffff0u : 1;
	nc.ini.random = draw_bytes;
	if (c->conf.chap) {
		nc.ini.chap = &user;
		nc.ini.mutual = sim_chance(50) ? &mutual : NULL;
	}
	nc.ini.isid[5] = (uint8_t)c->conf.number;
	c->ini = net_ini_new(c->loop, &nc);
	CHECK(c->ini);
	if (c->conf.pings) /* without them nothing shall hide a wake-up that was forgotten */
		loop_timer_set(c->loop, &c->tick, loop_now_ns(c->loop) + TICK_NS);
}

static void retry(struct timer *t)
{
	start(container_of(t, struct client, retry));
}

/* --- life --- */

struct client *client_new(const struct client_conf *conf)
{
	struct err e = { 0 };
	struct client *c = calloc(1, sizeof(*c));
	CHECK(c);
	c->conf = *conf;
	c->left = conf->ops;
	snprintf(c->port, sizeof(c->port), "%u", SERVER_PORT);
	c->loop = loop_new(&loop_sim, 100 + conf->number, &e);
	CHECK(c->loop);
	for (unsigned i = 0; i < DEPTH_MAX; i++) {
		c->cmd[i].data = malloc(MAX(conf->blocks_max, 64u) * BLOCK);
		CHECK(c->cmd[i].data);
	}
	snprintf(c->name, sizeof(c->name), "iqn.2026-11.sim:client-%u", conf->number);
	c->retry.fire = retry;
	c->tick.fire = tick;
	loop_timer_set(c->loop, &c->retry, sim_now_ns() + sim_random(SIM_MS));
	return c;
}

void client_free(struct client *c)
{
	loop_timer_clear(c->loop, &c->retry);
	loop_timer_clear(c->loop, &c->tick);
	CHECK(!c->ini);
	for (unsigned i = 0; i < DEPTH_MAX; i++)
		free(c->cmd[i].data);
	loop_free(c->loop);
	free(c->lost);
	free(c);
}

bool client_finished(const struct client *c)
{
	return c->finished;
}

int client_fd(const struct client *c)
{
	return c->ini ? net_ini_fd(c->ini, (unsigned)sim_random(c->conf.connections)) : -1;
}

void client_flip(const struct client *c)
{
	unsigned k = (unsigned)sim_random(c->conf.connections);

	if (c->ini && net_ini_fd(c->ini, k) >= 0 && iscsi_ini_joined(net_ini_engine(c->ini), k))
		sim_flip(net_ini_fd(c->ini, k), sim_chance(50));
}

void client_check_all(struct client *c)
{
	c->checking = true;
	c->check_at = 0;
	c->left = 0;
	c->finished = false;
	loop_timer_set(c->loop, &c->retry, sim_now_ns() + 1);
}

void client_describe(const struct client *c, char *out, size_t room)
{
	int at = snprintf(out, room, "%s: %u to go, %u in flight, %u sessions%s%s;", c->name, c->left, c->inflight,
		c->sessions, c->ini && iscsi_ini_ready(net_ini_engine(c->ini)) ? " logged in" : "", c->leaving ? " leaving" : "");
	const struct iscsi_ini_stats *r = c->ini ? iscsi_ini_stats(net_ini_engine(c->ini)) : NULL;
	if (r && (size_t)at < room)
		at += snprintf(out + at, room - (size_t)at, " lost %llu/%llu, reassigned %llu, resent %llu, pings %llu",
			(unsigned long long)r->connections_lost, (unsigned long long)r->sessions_lost,
			(unsigned long long)r->reassigned, (unsigned long long)r->commands_resent, (unsigned long long)r->pings);
	for (unsigned i = 0; i < DEPTH_MAX && (size_t)at < room; i++)
		if (c->cmd[i].busy)
			at += snprintf(out + at, room - (size_t)at, " %02x@%u+%u", c->cmd[i].ini.cdb[0], c->cmd[i].lba,
				c->cmd[i].n);
}
