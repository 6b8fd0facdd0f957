/* SPDX-License-Identifier: BSD-3-Clause
 * `lunette bench`: load, latency, logins per second and idle sessions against any iSCSI target, or against the raw
 * protocol of bench/limit.c through the same code. One thread. */
#include "lunette/bench.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

int bench_main(int argc, char **argv);

static const char usage_text[] =
	"usage: lunette bench [options] iscsi://[user%secret@]host[:port]/iqn[/lun]\n"
	"       lunette bench [options] --raw host:port          (the protocol of bench/limit)\n"
	"  --rw read|write|randread|randwrite|mixed   what to do (randread); mixed writes what is new and checks all reads\n"
	"  --bs BYTES        of one I/O (4k)      --depth N         in flight on each session (32)\n"
	"  --sessions N      (1)                  --size BYTES      of the LUN to use (all; raw: 1g)\n"
	"  --time S          measured (5)         --warmup S        before that, not counted (1)\n"
	"  --connections N   of each session (1)  --level 0|1|2     of error recovery (0)\n"
	"  --probe MS        at level 1: without progress for so long a command is looked after (1000)\n"
	"  --digests none|header|data|both        --spin            poll instead of sleeping\n"
	"  --cpu N           pin to core N        --server-pid PID  report its CPU time and memory\n"
	"  --fill            write a pattern over the whole size first\n"
	"  --verify          write the pattern, and check it on every read\n"
	"  --seed N          of the pattern (1)   --json            one line of JSON\n"
	"  --login-storm N   logins per second with N logins at a time\n"
	"  --idle N          hold N idle sessions for --time and report\n";

enum { O_RAW = 256, O_RW, O_BS, O_DEPTH, O_SESSIONS, O_TIME, O_WARMUP, O_DIGESTS, O_SPIN, O_CPU, O_SIZE, O_FILL, O_VERIFY,
	O_STORM, O_IDLE, O_JSON, O_PID, O_SEED, O_HELP, O_CONNECTIONS,
	O_LEVEL, O_PROBE };
static const struct option options[] = {
	{ "raw", 1, 0, O_RAW }, { "rw", 1, 0, O_RW }, { "bs", 1, 0, O_BS }, { "depth", 1, 0, O_DEPTH },
	{ "sessions", 1, 0, O_SESSIONS }, { "time", 1, 0, O_TIME }, { "warmup", 1, 0, O_WARMUP },
	{ "digests", 1, 0, O_DIGESTS }, { "spin", 0, 0, O_SPIN }, { "cpu", 1, 0, O_CPU }, { "size", 1, 0, O_SIZE },
	{ "fill", 0, 0, O_FILL }, { "verify", 0, 0, O_VERIFY }, { "login-storm", 1, 0, O_STORM }, { "idle", 1, 0, O_IDLE },
	{ "json", 0, 0, O_JSON }, { "server-pid", 1, 0, O_PID }, { "seed", 1, 0, O_SEED }, { "connections", 1, 0, O_CONNECTIONS },
	{ "level", 1, 0, O_LEVEL }, { "probe", 1, 0, O_PROBE }, { "help", 0, 0, O_HELP }, { 0 } };

static _Noreturn void fail(const char *what, const char *why)
{
	fprintf(stderr, "lunette bench: %s: %s\n", what, why);
	exit(1);
}

static _Noreturn void usage(const char *what)
{
	fprintf(stderr, "lunette bench: %s; see lunette bench --help\n", what);
	exit(2);
}

/* --- options --- */

static _Noreturn void bad_value(const char *s, const char *why)
{
	char text[160];

	snprintf(text, sizeof(text), "'%.64s' %s", s, why);
	usage(text);
}

static uint64_t number(const char *s, uint64_t max)
{
	static const char units[] = "kmgt";
	char *end;
	uint64_t v = strtoull(s, &end, 0);
	const char *u = *end ? strchr(units, *end | 32) : NULL;

	if (u) {
		v <<= 10 * (u - units + 1);
		end++;
		end += *end == 'i';
		end += *end == 'B';
	}
	if (end == s || *end)
		bad_value(s, "is no number such as 4096 or 64k");
	if (v > max)
		bad_value(s, "is too much");
	return v;
}

static int one_of(const char *s, const char *const *list)
{
	for (int i = 0; list[i]; i++)
		if (!strcmp(s, list[i]))
			return i;
	bad_value(s, "is none of the words that this option knows");
}

static void parse_url(struct url *u, const char *s)
{
	struct err e;

	if (url_parse(u, s, &e))
		usage(e.text);
	if (!*u->target)
		usage("the URL names no target");
}

static void parse_raw(struct url *u, const char *s)
{
	struct err e;

	if (url_parse_host(u, s, strlen(s), "33260", &e))
		usage(e.text);
}

static void parse_one(struct bench_conf *c, int o, const char *v)
{
	static const char *const rws[] = { "read", "write", "randread", "randwrite", "mixed", NULL };
	static const char *const digests[] = { "none", "header", "data", "both", NULL };

	switch (o) {
	case O_RAW: c->raw = true; parse_raw(&c->url, v); break;
	case O_RW: c->rw = (enum bench_rw)one_of(v, rws); break;
	case O_BS: c->bs = (uint32_t)number(v, LIM_TRANSFER); break;
	case O_DEPTH: c->depth = (uint32_t)number(v, BENCH_DEPTH); break;
	case O_SESSIONS: c->sessions = (uint32_t)number(v, BENCH_SESSIONS); break;
	case O_TIME: c->time_s = strtod(v, NULL); break;
	case O_WARMUP: c->warmup_s = strtod(v, NULL); break;
	case O_DIGESTS:
		c->header_digest = one_of(v, digests) & 1;
		c->data_digest = one_of(v, digests) & 2;
		break;
	case O_SPIN: c->spin = true; break;
	case O_CPU: c->cpu = (int)number(v, 1023); break;
	case O_SIZE: c->size = number(v, UINT64_MAX); break;
	case O_FILL: c->fill = true; break;
	case O_VERIFY: c->verify = true; break;
	case O_STORM: c->storm = (unsigned)number(v, BENCH_SESSIONS); break;
	case O_IDLE: c->idle = (unsigned)number(v, BENCH_SESSIONS); break;
	case O_JSON: c->json = true; break;
	case O_PID: c->server_pid = (int)number(v, INT32_MAX); break;
	case O_SEED: c->seed = number(v, UINT64_MAX); break;
	case O_CONNECTIONS: c->connections = (unsigned)number(v, INI_CONNS_MAX); break;
	case O_PROBE: c->probe_ms = (unsigned)number(v, 60000); break;
	case O_LEVEL: c->level = (int)number(v, 2); break;
	case O_HELP: printf("%s", usage_text); exit(0);
	default: exit(2); /* getopt has said which */
	}
}

static void parse(struct bench_conf *c, int argc, char **argv)
{
	static char name[] = "lunette bench";
	int o;

	argv[0] = name; /* for getopt's words */
	*c = (struct bench_conf){ .rw = RW_RANDREAD, .bs = 4096, .depth = 32, .sessions = 1, .time_s = 5, .warmup_s = 1,
		.cpu = -1, .seed = 1, .level = -1 };
	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1)
		parse_one(c, o, optarg);
	if (!c->raw && optind != argc - 1)
		usage("one target expected");
	if (!c->raw)
		parse_url(&c->url, argv[optind]);
	if (c->connections)
		c->url.connections = c->connections;
	if (c->level >= 0)
		c->url.level = (unsigned)c->level;
	c->header_digest |= c->url.header_digest;
	c->data_digest |= c->url.data_digest;
	if (!c->depth || !c->sessions || !c->bs || c->bs % 512 || c->time_s <= 0)
		usage("depth, sessions, bs (a multiple of 512) and time must be above zero");
	if (c->raw && (c->storm || c->idle || c->verify))
		usage("--login-storm, --idle and --verify need an iSCSI target");
}

/* --- sessions --- */

static void check_alive(const struct bench_wire *w)
{
	char status[160];

	if (!w->closed)
		return;
	snprintf(status, sizeof(status), w->status ? "%s (login status %04x)" : "%s", w->why, w->status);
	fail(w->conf->url.host, status);
}

static void ignore(struct bench_io *io)
{
}

static void wait_ready(struct bench_wire *w)
{
	uint64_t end = bench_now_ns() + 20000000000ull;

	while (!w->ready) {
		bench_wire_turn(w, true);
		check_alive(w);
		if (bench_now_ns() > end)
			fail(w->conf->url.host, "login does not end");
	}
}

static void command(struct bench_wire *w, struct iscsi_ini_cmd *cmd)
{
	w->plain_done = false;
	cmd->lun = (uint64_t)w->conf->url.lun << 48;
	cmd->ctx = NULL;
	if (iscsi_ini_cmd(w->ini, cmd))
		fail(w->conf->url.host, "cannot send a command");
	while (!w->plain_done) {
		bench_wire_turn(w, true);
		check_alive(w);
	}
}

/* TEST UNIT READY takes the unit attentions away; READ CAPACITY (16), or (10) where there is no (16). */
static uint64_t capacity(struct bench_wire *w)
{
	struct iscsi_ini_cmd tur = { 0 }, cap = { .cdb = { 0x9e, 0x10, [13] = 32 }, .in_len = 32 };
	uint8_t data[32] = { 0 };

	for (int k = 0; k < 8; k++) {
		command(w, &tur);
		if (!tur.status)
			break;
	}
	cap.in = data;
	command(w, &cap);
	if (!cap.status) {
		w->block = be32(data + 8);
		return (be64(data) + 1) * w->block;
	}
	cap = (struct iscsi_ini_cmd){ .cdb = { 0x25 }, .in = data, .in_len = 8 };
	command(w, &cap);
	if (cap.status || cap.error)
		fail(w->conf->url.target, "the LUN does not tell its capacity");
	w->block = be32(data + 4);
	return ((uint64_t)be32(data) + 1) * w->block;
}

static struct bench_wire *open_one(const struct bench_conf *c, const struct addrinfo *ai, unsigned k)
{
	struct bench_wire *w = bench_wire_open(c, ai, (uint32_t)getpid() << 12 | k, ignore);

	if (!w)
		fail(c->url.host, strerror(errno));
	return w;
}

static void open_all(struct bench_conf *c, const struct addrinfo *ai, struct bench_wire **w)
{
	uint64_t bytes = c->raw ? 1ull << 30 : 0;

	for (unsigned k = 0; k < c->sessions; k++) {
		w[k] = open_one(c, ai, k);
		wait_ready(w[k]);
		if (!c->raw)
			bytes = capacity(w[k]);
		else
			w[k]->block = 512;
		if (!w[k]->block || c->bs % w[k]->block)
			fail(c->url.target, "--bs is no multiple of the block size");
	}
	if (!c->size || (!c->raw && c->size > bytes))
		c->size = bytes;
	if (c->size < c->bs)
		fail(c->url.target, "the LUN is smaller than --bs");
}

/* --- reports --- */

static void report(const struct bench_conf *c, const struct bench_result *r)
{
	double s = (double)r->ns / 1e9, iops = (double)r->ios / s, mib = (double)r->bytes / s / 1048576;
	double cpu = r->ios ? r->cpu_s * 1e6 / (double)r->ios : 0;
	const struct iscsi_ini_stats *f = &r->repairs;

	if (c->json)
		printf("{\"iops\": %.1f, \"mib_s\": %.1f, \"mean_us\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
			"\"p999_us\": %.1f, \"max_us\": %.1f, \"ios\": %lu, \"errors\": %lu, \"mismatches\": %lu, "
			"\"server_cpu_us_per_io\": %.2f, \"server_cpu\": %.3f, \"connections_lost\": %lu, "
			"\"sessions_lost\": %lu, "
			"\"snacks\": %lu, \"commands_resent\": %lu, \"reassigned\": %lu}\n", iops, mib, r->mean_us, r->p50_us,
			r->p99_us, r->p999_us, r->max_us, (unsigned long)r->ios, (unsigned long)r->errors,
			(unsigned long)r->mismatches, cpu, r->cpu_s / s, (unsigned long)f->connections_lost,
			(unsigned long)f->sessions_lost, (unsigned long)(f->data_snacks + f->r2t_snacks + f->status_snacks),
			(unsigned long)f->commands_resent, (unsigned long)f->reassigned);
	else
		printf("%.0f IOPS, %.1f MiB/s; latency us: mean %.1f p50 %.1f p99 %.1f p99.9 %.1f max %.1f; %lu errors,"
			" %lu mismatches\n", iops, mib, r->mean_us, r->p50_us, r->p99_us, r->p999_us, r->max_us,
			(unsigned long)r->errors, (unsigned long)r->mismatches);
}

static int load(struct bench_conf *c, const struct addrinfo *ai)
{
	static struct bench_wire *w[BENCH_SESSIONS];
	struct bench_result r;

	open_all(c, ai, w);
	if (c->fill)
		bench_fill(c, w, c->sessions);
	bench_load(c, w, c->sessions, &r);
	for (unsigned k = 0; k < c->sessions; k++)
		check_alive(w[k]);
	report(c, &r);
	for (unsigned k = 0; k < c->sessions; k++)
		bench_wire_close(w[k], true);
	return r.errors || r.mismatches;
}

/* --- logins per second --- */

static unsigned storm_turn(struct bench_conf *c, const struct addrinfo *ai, struct bench_wire **w, uint32_t *isid)
{
	unsigned done = 0;

	for (unsigned k = 0; k < c->storm; k++) {
		if (!w[k])
			w[k] = open_one(c, ai, (*isid)++ & 0xfff);
		bench_wire_turn(w[k], false);
		check_alive(w[k]);
		if (!w[k]->ready)
			continue;
		bench_wire_close(w[k], true);
		w[k] = NULL;
		done++;
	}
	return done;
}

static int storm(struct bench_conf *c, const struct addrinfo *ai)
{
	static struct bench_wire *w[BENCH_SESSIONS];
	uint32_t isid = 0;
	uint64_t n = 0, now, t0 = bench_now_ns(), warm = t0 + (uint64_t)(c->warmup_s * 1e9);
	uint64_t end = warm + (uint64_t)(c->time_s * 1e9);
	double cpu = bench_cpu_seconds(c->server_pid), s;
	bool counting = false;

	while ((now = bench_now_ns()) < end) {
		if (!counting && now >= warm) {
			counting = true;
			n = 0;
			t0 = now;
			cpu = bench_cpu_seconds(c->server_pid);
		}
		n += storm_turn(c, ai, w, &isid);
		if (!c->spin)
			bench_wait(w, c->storm, 1);
	}
	s = (double)(now - t0) / 1e9;
	cpu = bench_cpu_seconds(c->server_pid) - cpu;
	printf(c->json ? "{\"logins_per_s\": %.1f, \"server_cpu_us_per_login\": %.1f}\n" :
		"%.0f logins per second, %.0f us of the server's CPU each\n", (double)n / s, n ? cpu * 1e6 / (double)n : 0);
	return 0;
}

/* --- idle sessions --- */

static uint64_t rss_bytes(int pid)
{
	char path[64];
	unsigned long pages = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	f = pid ? fopen(path, "r") : NULL;
	if (!f)
		return 0;
	if (fscanf(f, "%*u %lu", &pages) != 1)
		pages = 0;
	fclose(f);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static unsigned alive(struct bench_wire **w, unsigned n)
{
	unsigned sum = 0;

	for (unsigned k = 0; k < n; k++)
		sum += !w[k]->closed;
	return sum;
}

/* Answers the target's pings meanwhile. */
static void hold(struct bench_wire **w, unsigned n, double seconds)
{
	uint64_t end = bench_now_ns() + (uint64_t)(seconds * 1e9), now;

	while ((now = bench_now_ns()) < end) {
		bench_wait(w, n, (int)MIN((end - now) / 1000000 + 1, 1000u));
		for (unsigned k = 0; k < n; k++)
			if (w[k]->due && !w[k]->closed)
				bench_wire_turn(w[k], false);
	}
}

static int idle(struct bench_conf *c, const struct addrinfo *ai)
{
	static struct bench_wire *w[BENCH_SESSIONS];
	struct rlimit lim = { c->idle + 64, c->idle + 64 };
	uint64_t before, after;
	double cpu, each;

	if (setrlimit(RLIMIT_NOFILE, &lim) && c->idle > 900)
		fail("open files", strerror(errno));
	w[0] = open_one(c, ai, 0);
	wait_ready(w[0]);
	hold(w, 1, c->warmup_s);
	before = rss_bytes(c->server_pid);
	for (unsigned k = 1; k < c->idle; k++) {
		w[k] = open_one(c, ai, k);
		wait_ready(w[k]);
	}
	hold(w, c->idle, c->warmup_s);
	after = rss_bytes(c->server_pid);
	cpu = bench_cpu_seconds(c->server_pid);
	hold(w, c->idle, c->time_s);
	cpu = (bench_cpu_seconds(c->server_pid) - cpu) / c->time_s;
	each = c->idle > 1 ? ((double)after - (double)before) / (c->idle - 1) : 0;
	printf(c->json ? "{\"sessions\": %u, \"alive\": %u, \"rss_per_session\": %.0f, \"server_cpu\": %.5f}\n" :
		"%u sessions, %u alive, %.0f bytes of the server's memory each, %.5f of a core in all\n",
		c->idle, alive(w, c->idle), each, cpu);
	return alive(w, c->idle) != c->idle;
}

int bench_main(int argc, char **argv)
{
	static struct bench_conf c;
	struct addrinfo *ai;
	int r;

	parse(&c, argc, argv);
	if (c.cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(c.cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			fail("--cpu", strerror(errno));
	}
	ai = bench_resolve(&c);
	r = c.storm ? storm(&c, ai) : c.idle ? idle(&c, ai) : load(&c, ai);
	freeaddrinfo(ai);
	return r;
}
