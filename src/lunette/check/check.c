/* SPDX-License-Identifier: BSD-3-Clause
 * lunette check URL: runs the cases one after the other, each with connections of its own, and tells what came of them. */
#include <errno.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "lunette/check/check.h"
#include "lunette/cli.h"

enum { CASE_MS = 30000, SLOW_MS = 90000, DEAD_MS = 8000 };

struct options {
	const char *suite, *name;
	bool list, json, destructive, quiet, trace;
	uint32_t timeout_ms;
	struct url url;
};

struct run {
	struct check k;
	struct options o;
	unsigned count[CHECK_VERDICTS];
	json_t *results;
	const char *every_why[EVERY_RULES];
	uint8_t *saved;
	uint32_t saved_blocks;
	bool dead;
};

static struct check_case *cases, **cases_end = &cases;
static volatile sig_atomic_t stop;

void check_register(struct check_case *c)
{
	*cases_end = c;
	cases_end = &c->next;
}

uint64_t check_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- what cases use */

void *check_alloc(struct check *k, size_t n)
{
	must(k, k->mem_bytes + n <= CHECK_MEMORY, "the target sends without end");
	if (k->nmem == k->room_mem) {
		unsigned room = k->room_mem ? k->room_mem * 2 : 256;
		void **more = realloc(k->mem, room * sizeof(*more));
		CHECK(more);
		k->mem = more;
		k->room_mem = room;
	}
	void *p = calloc(1, n ? n : 1);
	CHECK(p);
	k->mem[k->nmem++] = p;
	k->mem_bytes += n;
	return p;
}

/* Words of a target go to terminals and into JSON. */
static void printable(char *s)
{
	for (; *s; s++)
		if (*s < ' ' || *s > '~')
			*s = '?';
}

#define LEAVE(name, what)                                                 \
	_Noreturn void name(struct check *k, const char *fmt, ...)        \
	{                                                                 \
		va_list ap;                                               \
		va_start(ap, fmt);                                        \
		vsnprintf(k->why, sizeof(k->why), fmt, ap);               \
		va_end(ap);                                               \
		printable(k->why);                                        \
		k->verdict = what;                                        \
		longjmp(k->out, 1);                                       \
	}
LEAVE(check_fail, CHECK_FAIL)
LEAVE(check_lax, CHECK_LAX)
LEAVE(check_unsupported, CHECK_UNSUPPORTED)

void check_every(struct check *k, enum every_rule rule, const char *fmt, ...)
{
	char words[320], *all = NULL;
	va_list ap;

	if (!k->c || k->run->every_why[rule])
		return;
	va_start(ap, fmt);
	vsnprintf(words, sizeof(words), fmt, ap);
	va_end(ap);
	printable(words);
	if (asprintf(&all, "%s (first seen in %s/%s)", words, k->c->suite, k->c->name) > 0)
		k->run->every_why[rule] = all;
}

/* --- one case */

static void free_case(struct check *k)
{
	for (unsigned i = 0; i < k->nconn; i++)
		hang_up(k->conn[i], false);
	for (unsigned i = 0; i < k->nmem; i++)
		free(k->mem[i]);
	k->nconn = k->nmem = 0;
	k->mem_bytes = 0;
}

static void guarded(struct check *k, void (*fn)(struct check *k), uint32_t ms)
{
	k->verdict = CHECK_PASS;
	k->why[0] = 0;
	k->deadline = check_now() + (uint64_t)ms * 1000000u;
	if (setjmp(k->out) == 0)
		fn(k);
	free_case(k);
}

/* The target serves a fresh session; after a restart of its own it may need a moment. */
static void fresh_session(struct check *k)
{
	session(k, "");
}

static bool usable(struct run *r)
{
	struct check k = r->k;
	uint64_t until = check_now() + DEAD_MS * 1000000ull;

	k.c = NULL;
	do {
		guarded(&k, fresh_session, CASE_MS);
		if (k.verdict == CHECK_PASS)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
	} while (check_now() < until && !stop);
	r->k.next_isid = k.next_isid;
	r->k.mem = k.mem;
	r->k.room_mem = k.room_mem;
	if (k.verdict != CHECK_PASS)
		snprintf(r->k.why, sizeof(r->k.why), "afterwards the target takes no new session: %.400s", k.why);
	return k.verdict == CHECK_PASS;
}

static bool runnable(struct run *r, const struct check_case *c)
{
	struct check *k = &r->k;

	k->verdict = CHECK_SKIPPED;
	if ((c->needs & (NEED_WRITE | NEED_DISRUPT)) && !r->o.destructive)
		snprintf(k->why, sizeof(k->why), "%s; give --destructive", c->needs & NEED_WRITE ? "writes to the LUN" :
			"disturbs other sessions of the target");
	else if ((c->needs & (NEED_LUN | NEED_WRITE)) && k->blocks * k->block < 65536)
		snprintf(k->why, sizeof(k->why), "LUN %u is no disk of 64 KiB or more", r->o.url.lun);
	else
		return true;
	return false;
}

static const char *const verdict_words[] = { "pass", "FAIL", "lax", "not supported", "skipped" };
static const char *const verdict_json[] = { "pass", "fail", "lax", "not supported", "skipped" };

static void tell(struct run *r, const struct check_case *c)
{
	struct check *k = &r->k;
	enum check_verdict v = k->verdict;

	r->count[v]++;
	if (r->o.json) {
		json_array_append_new(r->results, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "suite", c->suite, "case",
			c->name,
			"clause", c->clause, "requirement", c->what, "result", verdict_json[v], "reason", k->why));
		return;
	}
	if (r->o.quiet && v != CHECK_FAIL && v != CHECK_LAX)
		return;
	printf("%-13s  %s/%s\n", verdict_words[v], c->suite, c->name);
	if (v == CHECK_FAIL || v == CHECK_LAX)
		printf("%15s%s (%s)\n", "", c->what, c->clause);
	if (v != CHECK_PASS && v != CHECK_SKIPPED)
		printf("%15s%s%s\n", "", v == CHECK_FAIL || v == CHECK_LAX ? "But: " : "", k->why);
	fflush(stdout);
}

/* list: patterns with ',' between, or NULL for all. */
static bool matches(const char *list, const char *name)
{
	char one[128];

	for (const char *at = list; at && *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ',')) {
		snprintf(one, sizeof(one), "%.*s", (int)strcspn(at, ","), at);
		if (fnmatch(one, name, 0) == 0)
			return true;
	}
	return !list;
}

static bool chosen(const struct options *o, const struct check_case *c)
{
	return matches(o->suite, c->suite) && matches(o->name, c->name);
}

static void run_case(struct run *r, const struct check_case *c)
{
	struct check *k = &r->k;

	k->c = c;
	if (r->o.trace)
		fprintf(stderr, "== %s/%s\n", c->suite, c->name);
	if (r->dead) {
		k->verdict = CHECK_SKIPPED;
		snprintf(k->why, sizeof(k->why), "the target was gone before");
	} else if (runnable(r, c)) {
		guarded(k, c->run, c->needs & NEED_SLOW ? SLOW_MS : CASE_MS);
		char why[sizeof(k->why)];
		memcpy(why, k->why, sizeof(why));
		enum check_verdict v = k->verdict;
		if (usable(r)) {
			k->verdict = v;
			memcpy(k->why, why, sizeof(why));
		} else {
			k->verdict = CHECK_FAIL;
			r->dead = true;
		}
	}
	tell(r, c);
	k->c = NULL;
}

/* --- rules for every PDU of the run */

static const struct check_case every[EVERY_RULES] = {
#define EVERY(n, name_, clause_, what_) [n] = { .suite = "every", .name = name_, .clause = clause_, .what = what_ }
	EVERY(EVERY_STATSN, "statsn", "4.2.2.2, 11.4.9", "StatSN goes up by one with each numbered response"),
	EVERY(EVERY_WINDOW, "window", "4.2.2.1, 11.4.11", "MaxCmdSN is never below ExpCmdSN - 1"),
	EVERY(EVERY_WINDOW_BACK, "window-back", "4.2.2.1, 11.4.10",
		"ExpCmdSN and MaxCmdSN of one connection never go back"),
	EVERY(EVERY_SEGMENT, "segment", "13.12", "no data segment is longer than the MaxRecvDataSegmentLength declared"),
	EVERY(EVERY_NO_AHS, "no-ahs", "11.2.2", "no PDU of a target carries an additional header segment"),
	EVERY(EVERY_NO_DATA, "no-data", "11.6.2, 11.8.1, 11.15.2", "TMF and Logout Responses and R2Ts have no data segment"),
	EVERY(EVERY_HEADER_DIGEST, "header-digest", "13.1", "header digests are right"),
	EVERY(EVERY_DATA_DIGEST, "data-digest", "13.1", "data digests are right"),
	EVERY(EVERY_OPCODE, "opcode", "11.2.1.2", "a target sends target opcodes only"),
	EVERY(EVERY_FINAL, "final", "11.4, 11.6, 11.8, 11.9, 11.15, 11.17, 11.19",
		"byte 1 of responses that have no flags is 80h, and F is set in SCSI Responses"),
	EVERY(EVERY_TTT, "r2t-tag", "11.8.5", "no R2T has the reserved Target Transfer Tag"),
	EVERY(EVERY_ASYNC, "async", "11.9, 11.9.1",
	"each Asynchronous Message has the reserved task tag and an assigned event"),
	EVERY(EVERY_REJECT, "reject", "11.17, 11.17.4", "each Reject has the reserved task tag and the header of the bad PDU"),
};

static void tell_every(struct run *r)
{
	for (unsigned i = 0; i < EVERY_RULES; i++) {
		if (!chosen(&(struct options){ .name = r->o.name }, &every[i]) && r->o.name && !r->every_why[i])
			continue;
		r->k.verdict = r->every_why[i] ? CHECK_FAIL : CHECK_PASS;
		snprintf(r->k.why, sizeof(r->k.why), "%s", r->every_why[i] ? r->every_why[i] : "");
		tell(r, &every[i]);
	}
}

/* --- the medium */

static void measure(struct check *k)
{
	struct conn *c = session(k, "");
	uint8_t cdb[16] = { 0x9e, 0x10 };

	cdb[13] = 32;
	for (unsigned i = 0; i < 8 && tur(c).status; i++) /* unit attentions */
		;
	struct result r = command(c, req_cmd(k, FLAG_FINAL | CMD_READ, 32, cdb, 16), NULL);
	if (r.status == 0 && r.moved >= 12) {
		k->blocks = be64(r.data) + 1;
		k->block = be32(r.data + 8);
		return;
	}
	r = command(c, req_cmd(k, FLAG_FINAL | CMD_READ, 8, "\x25\0\0\0\0\0\0\0\0", 10), NULL);
	if (r.status == 0 && r.moved == 8) {
		k->blocks = be32(r.data) + 1ull;
		k->block = be32(r.data + 4);
	}
}

static bool measured(struct run *r)
{
	struct check *k = &r->k;

	guarded(k, measure, CASE_MS);
	if (k->verdict == CHECK_PASS && (k->block < 512 || k->block > 65536 || (k->block & (k->block - 1))))
		k->block = 0, k->blocks = 0;
	return k->verdict == CHECK_PASS;
}

/* Blocks of the area that cases may write to. */
static uint32_t area_blocks(const struct check *k)
{
	return (uint32_t)MIN(k->blocks, CHECK_AREA / k->block);
}

static void save_area(struct check *k)
{
	struct conn *c = session(k, "");
	uint32_t n = area_blocks(k), step = MAX(65536 / k->block, 1u);

	for (uint32_t at = 0; at < n; at += step) {
		uint32_t m = MIN(step, n - at);
		memcpy(k->run->saved + (size_t)at * k->block, peek(c, at, m), (size_t)m * k->block);
	}
	k->run->saved_blocks = n;
}

static void restore_area(struct check *k)
{
	struct conn *c = session(k, "");
	uint32_t n = k->run->saved_blocks, step = MAX(65536 / k->block, 1u);

	for (uint32_t at = 0; at < n; at += step)
		poke(c, at, MIN(step, n - at), k->run->saved + (size_t)at * k->block);
}

/* --- the command */

static json_t *case_json(const struct check_case *c)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:b}", "suite", c->suite, "case", c->name, "clause", c->clause,
		"requirement", c->what, "destructive", (c->needs & (NEED_WRITE | NEED_DISRUPT)) != 0);
}

/* [{"suite": .., "case": .., "clause": .., "requirement": .., "destructive": ..}] of what is chosen. */
static json_t *chosen_cases(const struct options *o)
{
	json_t *all = json_array();

	for (const struct check_case *c = cases; c; c = c->next)
		if (chosen(o, c))
			json_array_append_new(all, case_json(c));
	for (unsigned i = 0; i < EVERY_RULES; i++)
		if (chosen(o, &every[i]))
			json_array_append_new(all, case_json(&every[i]));
	return all;
}

static void print_cases(json_t *all)
{
	static const char *const heads[] = { "CASE", "CLAUSE", "THE TARGET PASSES WHEN" };
	struct table *t = table_new(heads, 3);
	const char *suite, *name, *clause, *what;
	json_t *c;
	size_t i;
	int destructive;

	json_array_foreach(all, i, c) {
		if (json_unpack(c, "{s:s, s:s, s:s, s:s, s:b}", "suite", &suite, "case", &name, "clause", &clause,
			"requirement", &what, "destructive", &destructive))
			continue;
		table_cell(t, "%s/%s", suite, name);
		table_cell(t, "%s", clause);
		table_cell(t, "%s%s", what, destructive ? " (--destructive)" : "");
	}
	table_print(t);
}

/* Also refuses words that choose nothing: to pass by doing nothing would be no result. */
static int list_cases(const struct options *o)
{
	json_t *all = chosen_cases(o);
	int status = json_array_size(all) ? CLI_OK : CLI_USAGE;

	if (status)
		fprintf(stderr, "lunette: no case has that name; lunette check --list shows all\n");
	else if (o->list && o->json)
		json_dumpf(all, stdout, JSON_INDENT(2)), printf("\n");
	else if (o->list)
		print_cases(all);
	json_decref(all);
	return status;
}

static void summary(struct run *r)
{
	unsigned *n = r->count;

	if (r->o.json) {
		json_t *all = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:O}", "target", r->o.url.target, "passed",
			(int)n[CHECK_PASS],
			"failed", (int)n[CHECK_FAIL], "lax", (int)n[CHECK_LAX], "not_supported", (int)n[CHECK_UNSUPPORTED],
			"skipped",
			(int)n[CHECK_SKIPPED],
			"cases", r->results);
		json_dumpf(all, stdout, JSON_INDENT(2));
		printf("\n");
		json_decref(all);
		return;
	}
	printf("%u passed, %u failed, %u lax, %u not supported, %u skipped%s\n", n[CHECK_PASS], n[CHECK_FAIL], n[CHECK_LAX],
		n[CHECK_UNSUPPORTED],
		n[CHECK_SKIPPED], n[CHECK_SKIPPED] && !r->o.destructive ? " (see --destructive)" : "");
}

static void interrupted(int sig)
{
	stop = sig;
}

static int run_all(struct run *r)
{
	struct check *k = &r->k;

	if (!measured(r)) {
		fprintf(stderr, "lunette: cannot begin: %s\n", k->why);
		return CLI_FAILED;
	}
	if (!k->block)
		fprintf(stderr, "lunette: LUN %u tells no capacity, so nothing is read or written; lunette ls lists the LUNs\n",
			r->o.url.lun);
	if (r->o.destructive && k->block) {
		r->saved = calloc(1, CHECK_AREA);
		CHECK(r->saved);
		guarded(k, save_area, SLOW_MS);
	}
	for (const struct check_case *c = cases; c && !stop; c = c->next)
		if (chosen(&r->o, c))
			run_case(r, c);
	if (!stop)
		tell_every(r);
	if (r->saved_blocks) {
		guarded(k, restore_area, SLOW_MS);
		if (k->verdict != CHECK_PASS)
			fprintf(stderr, "lunette: the first %u blocks of the LUN could not be restored: %s\n",
				r->saved_blocks, k->why);
	}
	summary(r);
	return stop || r->count[CHECK_FAIL] || !(r->count[CHECK_PASS] + r->count[CHECK_UNSUPPORTED]) ? CLI_FAILED : CLI_OK;
}

static const char help_text[] =
	"Usage: lunette check [OPTION]... URL\n"
	"Checks any iSCSI target against RFC 7143 and RFC 7144. A case passes, fails, is not supported, or finds the\n"
	"target lax: it took what an initiator may not send and a target need not refuse (7.10). URL: "
		"iscsi://[USER%SECRET@]HOST[:PORT]/IQN[/LUN].\n\n"
	"  --suite NAME,...   Only those suites; patterns will do.\n"
	"  --case NAME,...    Only those cases; patterns will do.\n"
	"  --destructive      Also what writes to the LUN (saved and restored) and what disturbs other sessions.\n"
	"  --timeout SECONDS  How long one answer may take. Default 5.\n"
	"  --trace            Print each PDU on standard error.\n"
	"  --quiet            Print failures and the summary only.\n"
	"  --json             Print the results, or the list, as JSON.\n"
	"  --list             Print the cases with their clauses, then exit.\n"
	"  --help             Print this help.\n\n"
	"Exit status: 0 no case failed, 1 one did or none could run, 2 wrong usage.\n";

static int bad_usage(const char *what, const char *arg)
{
	fprintf(stderr, "lunette: %s '%.64s'; see lunette check --help\n", what, arg);
	return CLI_USAGE;
}

/* The value of an option that needs one: "--name value" or "--name=value". */
static bool value_of(const char *name, int argc, char **argv, int *i, const char **ret)
{
	size_t n = strlen(name);

	if (strncmp(argv[*i], name, n) == 0 && argv[*i][n] == '=') {
		*ret = argv[*i] + n + 1;
		return true;
	}
	if (strcmp(argv[*i], name) || *i + 1 == argc)
		return false;
	*ret = argv[++*i];
	return true;
}

static int take_options(struct options *o, int argc, char **argv)
{
	const char *seconds = NULL, *url = NULL;
	struct err e = { 0 };

	o->timeout_ms = 5000;
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i];
		if (value_of("--suite", argc, argv, &i, &o->suite) || value_of("--case", argc, argv, &i, &o->name))
			continue;
		if (value_of("--timeout", argc, argv, &i, &seconds)) {
			o->timeout_ms = (uint32_t)strtoul(seconds, NULL, 10) * 1000;
			if (!o->timeout_ms || o->timeout_ms > 20000)
				return bad_usage("the timeout must be 1 to 20 seconds, not", seconds);
		} else if (!strcmp(a, "--destructive")) {
			o->destructive = true;
		} else if (!strcmp(a, "--json")) {
			o->json = true;
		} else if (!strcmp(a, "--trace")) {
			o->trace = true;
		} else if (!strcmp(a, "--quiet")) {
			o->quiet = true;
		} else if (!strcmp(a, "--list")) {
			o->list = true;
		} else if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
			fputs(help_text, stdout);
			exit(CLI_OK);
		} else if (a[0] == '-') {
			return bad_usage("there is no option, or its value is missing:", a);
		} else if (url) {
			return bad_usage("one URL is enough, not also", a);
		} else {
			url = a;
		}
	}
	if (o->list)
		return CLI_OK;
	if (!url)
		return bad_usage("a URL is missing:", "iscsi://host/iqn/lun");
	if (url_parse(&o->url, url, &e)) {
		fprintf(stderr, "lunette: %s\n", e.text);
		return CLI_USAGE;
	}
	return o->url.target[0] ? CLI_OK : bad_usage("the URL must name a target:", url);
}

static void dashes(void)
{
	for (struct check_case *c = cases; c; c = c->next) {
		char *name = strdup(c->name);
		CHECK(name);
		for (char *p = name; *p; p++)
			*p = *p == '_' ? '-' : *p;
		c->name = name;
	}
}

int check_main(int argc, char **argv)
{
	static struct run r;
	struct check *k = &r.k;
	int status = take_options(&r.o, argc, argv);

	dashes();
	if (status == CLI_OK)
		status = list_cases(&r.o);
	if (status != CLI_OK || r.o.list)
		return status;
	signal(SIGINT, interrupted);
	signal(SIGTERM, interrupted);
	r.results = json_array();
	k->run = &r;
	k->url = &r.o.url;
	k->lun = (uint64_t)(k->url->lun < 256 ? k->url->lun : 0x4000 | k->url->lun) << 48;
	k->destructive = r.o.destructive;
	k->trace = r.o.trace;
	k->timeout_ms = r.o.timeout_ms;
	if (getrandom(&k->next_isid, 3, 0) != 3) /* other runs at the same time have other ISIDs */
		k->next_isid = (uint32_t)check_now();
	k->next_isid = (k->next_isid & 0xffffff) << 8;
	status = run_all(&r);
	json_decref(r.results);
	free(k->mem);
	free(r.saved);
	return status;
}
