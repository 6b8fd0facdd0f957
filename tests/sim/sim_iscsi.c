/* SPDX-License-Identifier: BSD-3-Clause
 * Seeded disasters: the real server and real initiator engines over a simulated network and disk.
 *
 *	sim_iscsi --seeds 1..300     runs the seeds, each in a process of its own; every tenth twice
 *	sim_iscsi --seed 17          one, here, with the server's log
 *	sim_iscsi --recovery ..      runs with nothing but faults of connections, at recovery level 2 (a fifth of all are)
 * LUNETTE_SIM_SEEDS=20000 makes the suite's ranges that many seeds.
 *
 * What it proves, for every seed: no read returns what it may not (RFC 7143 and SBC-4 semantics as model.h has
 * them), nothing that a flush or FUA acknowledged is lost by a power cut, no command is stuck, no PDU is rejected,
 * memory is freed, and the seed repeats exactly. Where only connections fail and both sides have level 2 (7.1.4.3): no command
 * fails and no session ends. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "client.h"
#include "model.h"
#include "server.h"

/* What the seed has drawn for its run. */
struct plan {
	unsigned flips, clients, kills, cuts, disk_events, stalls;
	bool power, errors, hangs;
	unsigned aborts_permille;
	bool recovery;
	struct server_conf server;
};

static struct plan plan;
static bool only_recovery; /* --recovery: every seed draws it */
static struct client *client[CLIENTS_MAX];
static int disk;
static bool restart, restart_power;
static unsigned kills;
static uint64_t seed_now;

void test_fail(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	printf("FAIL sim/seed-%llu (at %.6f s: ", (unsigned long long)seed_now, (double)sim_now_ns() / 1e9);
	vprintf(fmt, ap);
	printf(")\n");
	va_end(ap);
	fflush(stdout);
	_exit(1);
}

/* --- drawing --- */

static uint32_t one_of(const uint32_t *v, unsigned n)
{
	return v[sim_random(n)];
}
#define ONE_OF(...) one_of((const uint32_t[]){ __VA_ARGS__ }, sizeof((uint32_t[]){ __VA_ARGS__ }) / 4)

static void draw_offer(struct iscsi_offer *o)
{
	o->header_digest = sim_chance(50);
	o->data_digest = sim_chance(50);
	o->max_recv_segment = ONE_OF(512, 4096, 8192, 65536, 262144);
	o->max_burst = ONE_OF(4096, 16384, 65536, 262144);
	o->first_burst = ONE_OF(512, 4096, 65536);
	o->first_burst = MIN(o->first_burst, o->max_burst);
	o->max_r2t = ONE_OF(1, 2, 8);
	o->initial_r2t = sim_chance(50);
	o->immediate_data = sim_chance(60);
}

/* Level 2 on both sides, both digests, and nothing but faults of connections: no session may end, no command fail. */
static void draw_recovery(void)
{
	plan.recovery = true;
	plan.clients = 1 + (unsigned)sim_random(2);
	plan.cuts = 1 + (unsigned)sim_random(40);
	plan.flips = (unsigned)sim_random(60);
	plan.server.offer.erl = 2;
	plan.server.offer.header_digest = plan.server.offer.data_digest = true;
	plan.kills = plan.stalls = plan.disk_events = plan.aborts_permille = 0;
	plan.errors = plan.hangs = false;
}

static void draw_plan(void)
{
	iscsi_offer_defaults(&plan.server.offer);
	draw_offer(&plan.server.offer);
	plan.server.loops = 1 + (unsigned)sim_random(3);
	plan.server.wce = sim_chance(75);
	plan.server.chap = sim_chance(25);
	plan.stalls = sim_chance(25) ? 1 + (unsigned)sim_random(3) : 0;
	plan.clients = 1 + (unsigned)sim_random(CLIENTS_MAX);
	plan.server.ram = sim_chance(20);
	plan.kills = plan.server.ram ? 0 : (unsigned)sim_random(4);
	plan.aborts_permille = ONE_OF(0, 0, 5, 50);
	plan.cuts = (unsigned)sim_random(8);
	plan.flips = sim_chance(30) ? (unsigned)sim_random(30) : 0;
	plan.server.offer.erl = ONE_OF(0, 1, 2, 2);
	plan.server.offer.time2retain = 20;
	if (plan.flips)
		plan.server.offer.header_digest = plan.server.offer.data_digest = true;
	plan.power = sim_chance(60);
	plan.errors = sim_chance(25) && !plan.server.ram;
	plan.hangs = sim_chance(20) && !plan.server.ram;
	if (sim_chance(15)) /* nothing but stalls and hangs: no connection may end */
		plan.cuts = plan.kills = plan.aborts_permille = plan.flips = 0;
	plan.disk_events = plan.errors || plan.hangs ? 1 + (unsigned)sim_random(4) : 0;
	if (sim_chance(20) || only_recovery)
		draw_recovery();
}

static void draw_network(void)
{
	struct sim_net_conf n = {
		.latency_ns = ONE_OF(5000, 50000, 500000, 20000000),
		.jitter_ns = ONE_OF(1000, 100000, 2000000),
		.segment_bytes = ONE_OF(48, 1448, 9000, 65536),
		.window_bytes = ONE_OF(8192, 65536, 262144),
		.short_pct = ONE_OF(0, 20, 60),
		.accept_fail_pct = ONE_OF(0, 0, 20),
	};
	sim_net_conf(&n);
}

static void sound_disk(struct sim_disk_conf *d)
{
	*d = (struct sim_disk_conf){ .latency_ns = ONE_OF(1000, 20000, 300000), .jitter_ns = ONE_OF(1000, 300000, 3000000),
		.slow_pct = ONE_OF(0, 1, 10), .short_pct = ONE_OF(0, 5, 30), .writeback_pct = ONE_OF(0, 20, 100) };
}

/* --- fate --- */

static uint64_t some_time(void)
{
	return sim_random(ONE_OF(2, 20, 200) * SIM_MS);
}

static void cut_somebody(void *ctx)
{
	int fd = client[sim_random(plan.clients)] ? client_fd(client[sim_random(plan.clients)]) : -1;
	if (fd >= 0)
		sim_cut(fd, (enum sim_cut)sim_random(3));
}

static void flip_somewhere(void *ctx)
{
	struct client *c = client[sim_random(plan.clients)];
	if (c)
		client_flip(c);
}

static void kill_server(void *ctx)
{
	restart = true;
	/* After a failed sync a new process reads pages that the kernel holds for clean and that are nowhere else; no
	 * server can know. So where syncs fail, a kill takes the cache along. */
	restart_power = plan.errors || (plan.power && sim_chance(70));
}

static void heal(void *ctx)
{
	struct sim_disk_conf d;
	sound_disk(&d);
	sim_disk_conf(disk, &d);
}

static void trouble(void *ctx)
{
	struct sim_disk_conf d;
	sound_disk(&d);
	if (plan.errors) {
		d.read_eio_pct = ONE_OF(0, 10);
		d.write_eio_pct = ONE_OF(0, 10);
		d.enospc_pct = ONE_OF(0, 10);
		d.fsync_eio_pct = ONE_OF(0, 30);
	}
	d.hang = plan.hangs && sim_chance(50);
	sim_disk_conf(disk, &d);
	sim_after(sim_random(3 * SIM_S), heal, NULL);
}

static void stall(void *ctx)
{
	server_stall(sim_random(12 * SIM_S)); /* clients give a login 15 s */
}

static void draw_fate(void)
{
	for (unsigned i = 0; i < plan.stalls; i++)
		sim_after(some_time(), stall, NULL);
	for (unsigned i = 0; i < plan.cuts; i++)
		sim_after(some_time(), cut_somebody, NULL);
	for (unsigned i = 0; i < plan.flips; i++)
		sim_after(some_time(), flip_somewhere, NULL);
	for (unsigned i = 0; i < plan.kills; i++)
		sim_after(some_time(), kill_server, NULL);
	for (unsigned i = 0; i < plan.disk_events; i++)
		sim_after(some_time(), trouble, NULL);
}

/* --- a run --- */

static bool something(void *ctx)
{
	if (restart)
		return true;
	for (unsigned i = 0; i < plan.clients; i++)
		if (!client_finished(client[i]))
			return false;
	return true;
}

static void stuck(void)
{
	char all[4000] = "";
	size_t at = 0;
	for (unsigned i = 0; i < plan.clients && at < sizeof(all); i++) {
		client_describe(client[i], all + at, sizeof(all) - at);
		at += strlen(all + at);
		if (at + 2 < sizeof(all))
			all[at++] = ' ';
	}
	test_fail("stuck: %s", all);
}

static void run_clients(void)
{
	do {
		restart = false;
		if (!sim_run_until(something, NULL, sim_now_ns() + 1000 * SIM_S))
			stuck();
		if (!restart)
			return;
		kills++;
		model_crash(restart_power);
		disk = server_kill(restart_power);
		heal(NULL);
		server_start(&plan.server, disk);
	} while (true);
}

/* Without retries: what recovery does not save fails. */
static void draw_recovering(struct client_conf *c)
{
	c->recovers = true;
	c->retry = false;
	c->level = 2;
	c->connections = ONE_OF(1, 2, 4, 4);
	c->ops = 200 + (unsigned)sim_random(1000);
	c->depth = 4 + (unsigned)sim_random(DEPTH_MAX - 3);
}

static void new_clients(void)
{
	for (unsigned i = 0; i < plan.clients; i++) {
		struct client_conf c = { .number = i, .ops = 20 + (unsigned)sim_random(300),
			.depth = 1 + (unsigned)sim_random(DEPTH_MAX), .blocks_max = ONE_OF(8, 64, 256),
			.aborts_permille = plan.aborts_permille, .wce = plan.server.wce, .errors = plan.errors,
			.pings = plan.cuts || plan.aborts_permille || plan.flips, .flips = plan.flips, .chap = plan.server.chap,
			.calm = !plan.cuts && !plan.kills && !plan.aborts_permille && !plan.flips };
		struct iscsi_ini_conf ic;
		c.connections = ONE_OF(1, 1, 2, 4);
		c.level = ONE_OF(0, 1, 2, 2);
		c.retry = sim_chance(50);
		if (plan.recovery)
			draw_recovering(&c);
		iscsi_ini_conf_defaults(&ic);
		c.offer = ic.offer;
		draw_offer(&c.offer);
		if (plan.flips)
			c.offer.header_digest = c.offer.require_header_digest = c.offer.data_digest =
				c.offer.require_data_digest = true;
		client[i] = client_new(&c);
	}
}

/* After the last power cut everything is read once more by one client. */
static void final_check(void)
{
	if (!plan.server.ram) {
		restart_power = plan.power || plan.errors;
		model_crash(restart_power);
		disk = server_kill(restart_power);
		plan.errors = plan.hangs = false;
		heal(NULL);
		server_start(&plan.server, disk);
	}
	client_check_all(client[0]);
	run_clients();
}

static uint64_t run_seed(uint64_t seed)
{
	struct err e = { 0 };
	seed_now = seed;
	if (page_arena_init(256 << 20, &e))
		test_fail("%s", e.text);
	struct sim *world = sim_new(seed);
	model_init(SERVER_BLOCKS);
	draw_plan();
	draw_network();
	disk = sim_disk_new(SERVER_DISK_BYTES);
	heal(NULL);
	server_start(&plan.server, disk);
	new_clients();
	draw_fate();
	run_clients();
	final_check();
	server_stop();
	for (unsigned i = 0; i < plan.clients; i++)
		client_free(client[i]);
	if (page_used_bytes())
		test_fail("%llu bytes of pages are still in use", (unsigned long long)page_used_bytes());
	uint64_t hash = sim_hash();
	sim_free(world);
	model_fini();
	page_arena_fini();
	return hash;
}

/* --- many --- */

/* The seed in a process of its own. False: it failed and has said so. */
static bool run_apart(uint64_t seed, uint64_t *ret_hash)
{
	int fd[2], status;
	fflush(stdout);
	if (pipe(fd))
		return false;
	pid_t pid = fork();
	if (pid == 0) {
		close(fd[0]);
		alarm(60); /* a run takes milliseconds */
		uint64_t hash = run_seed(seed);
		ssize_t n = write(fd[1], &hash, sizeof(hash));
		exit(n != sizeof(hash));
	}
	close(fd[1]);
	bool ok = read(fd[0], ret_hash, sizeof(*ret_hash)) == sizeof(*ret_hash);
	close(fd[0]);
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		printf("FAIL sim/seed-%llu (signal %d)\n", (unsigned long long)seed, WTERMSIG(status));
	else if (status && !(WEXITSTATUS(status) == 1 && !ok))
		printf("FAIL sim/seed-%llu (status %d)\n", (unsigned long long)seed, WEXITSTATUS(status));
	return ok && !status;
}

static unsigned run_range(uint64_t from, uint64_t to)
{
	unsigned failed = 0;
	for (uint64_t seed = from; seed <= to; seed++) {
		uint64_t a = 0, b = 0;
		if (!run_apart(seed, &a)) {
			failed++;
		} else if (seed % 10 == 0 && (!run_apart(seed, &b) || a != b)) {
			printf("FAIL sim/seed-%llu (does not repeat)\n", (unsigned long long)seed);
			failed++;
		}
	}
	return failed;
}

/* LUNETTE_SIM_SEEDS=N: the suite's shares of SUITE_SEEDS seeds become shares of N. */
static void stretch(unsigned long long *from, unsigned long long *to)
{
	enum { SUITE_SEEDS = 300 };
	const char *n = getenv("LUNETTE_SIM_SEEDS");
	unsigned long long all = n ? strtoull(n, NULL, 10) : 0;
	if (all <= SUITE_SEEDS || *to > SUITE_SEEDS)
		return;
	*from = (*from - 1) * all / SUITE_SEEDS + 1;
	*to = *to * all / SUITE_SEEDS;
}

int main(int argc, char **argv)
{
	unsigned long long from, to;
	log_set_level(LOG_LEVEL_ERROR);
	if (argc == 4 && !strcmp(argv[1], "--recovery")) {
		only_recovery = true;
		argv++;
		argc--;
	}
	if (argc == 3 && !strcmp(argv[1], "--seed") && sscanf(argv[2], "%llu", &from) == 1) {
		log_set_level(LOG_LEVEL_INFO);
		uint64_t hash = run_seed(from);
		printf("ok sim/seed-%llu (hash %016llx, %u clients, %u sessions, %u commands, %u kills)\n", from,
			(unsigned long long)hash, plan.clients, client_sessions, client_commands, kills);
		return 0;
	}
	if (argc != 3 || strcmp(argv[1], "--seeds") || sscanf(argv[2], "%llu..%llu", &from, &to) != 2) {
		fprintf(stderr, "usage: sim_iscsi [--recovery] --seed N | --seeds A..B\n");
		return 2;
	}
	stretch(&from, &to);
	unsigned failed = run_range(from, to);
	if (!failed)
		printf("ok sim/seeds-%llu-%llu\n", from, to);
	return failed != 0;
}
