/* SPDX-License-Identifier: BSD-3-Clause
 * Rules that need the whole tree. Each error says where and what to do. */
#include "conf/tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "iscsi/chap.h"
#include "net/net.h"

enum { CHAP_SECRET_MAX = 255 };

static void *find(const struct conf_list *list, size_t bytes, const char *name)
{
	return name && list->n ? bsearch(&name, list->items, list->n, bytes, conf_name_order) : NULL;
}

struct conf_volume *conf_volume(const struct conf *c, const char *name)
{
	return find(&c->volumes, sizeof(struct conf_volume), name);
}

struct conf_target *conf_target(const struct conf *c, const char *name)
{
	return find(&c->targets, sizeof(struct conf_target), name);
}

struct conf_user *conf_user(const struct conf *c, const char *name)
{
	return find(&c->users, sizeof(struct conf_user), name);
}

bool conf_is_loopback(const char *listen)
{
	static const char *const exact[] = { "[::1]", "localhost", "::1" };

	for (unsigned i = 0; i < ARRAY_LEN(exact); i++) {
		size_t n = strlen(exact[i]);
		if (strncmp(listen, exact[i], n) == 0 && (listen[n] == 0 || listen[n] == ':'))
			return true;
	}
	return strncmp(listen, "127.", 4) == 0;
}

/* --- CHAP algorithms ---------------------------------------------------------------------------------- */

static const struct { const char *name; unsigned alg; } algorithms[] = {
	{ "md5", CHAP_MD5 }, { "sha1", CHAP_SHA1 }, { "sha256", CHAP_SHA256 }, { "sha3-256", CHAP_SHA3_256 },
};

static unsigned algorithm_bit(const char *name)
{
	for (unsigned i = 0; i < ARRAY_LEN(algorithms); i++)
		if (strcmp(name, algorithms[i].name) == 0)
			return 1u << algorithms[i].alg;
	return 0;
}

unsigned conf_chap_mask(const struct conf_list *list)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < list->n; i++)
		mask |= algorithm_bit(((char **)list->items)[i]);
	for (unsigned i = 0; list->n == 0 && i < ARRAY_LEN(algorithms); i++)
		mask |= 1u << algorithms[i].alg;
	return mask;
}

void conf_offer(const struct conf_target *t, struct iscsi_offer *o)
{
	iscsi_offer_defaults(o);
	o->header_digest = t->header_digest != CONF_DIGEST_OFF;
	o->data_digest = t->data_digest != CONF_DIGEST_OFF;
	o->require_header_digest = t->header_digest == CONF_DIGEST_REQUIRE;
	o->require_data_digest = t->data_digest == CONF_DIGEST_REQUIRE;
	o->max_connections = (uint32_t)t->max_connections;
	o->erl = (uint32_t)t->erl;
	o->time2retain = o->erl == 2 ? (uint32_t)(t->time2retain_ns / 1000000000) : 0;
	o->initial_r2t = t->initial_r2t;
	o->immediate_data = t->immediate_data;
	if (t->max_recv_segment)
		o->max_recv_segment = (uint32_t)t->max_recv_segment;
	if (t->max_burst)
		o->max_burst = (uint32_t)t->max_burst;
	if (t->first_burst)
		o->first_burst = (uint32_t)t->first_burst;
	if (t->max_r2t)
		o->max_r2t = (uint32_t)t->max_r2t;
	if (o->first_burst > o->max_burst) /* RFC 7143 13.14 */
		o->first_burst = o->max_burst;
}

/* --- rules -------------------------------------------------------------------------------------------- */

static int check_number(const char *text, uint64_t min, uint64_t max, const char *what, struct err *e)
{
	uint64_t v;

	if (parse_uint(text, &v) < 0 || v < min || v > max || (text[0] == '0' && text[1]))
		return err_set(e, -EINVAL, "'%.32s' is no %s: write a number from %llu to %llu", text, what,
			(unsigned long long)min, (unsigned long long)max);
	return 0;
}

static int check_users(const struct conf *c, const struct conf_list *users, const char *mutual, struct err *e)
{
	char at[32];

	for (unsigned i = 0; i < users->n; i++) {
		const char *name = ((char **)users->items)[i];
		if (conf_user(c, name))
			continue;
		snprintf(at, sizeof(at), "users/%u", i);
		return err_at(e, -EINVAL, at, "there is no user '%.64s'; add it under users", name);
	}
	if (!mutual)
		return 0;
	if (!conf_user(c, mutual))
		return err_at(e, -EINVAL, "mutual", "there is no user '%.64s'; add it under users", mutual);
	if (!users->n)
		return err_at(e, -EINVAL, "mutual",
			"mutual CHAP needs one-way CHAP too; name the users that may log in");
	for (unsigned i = 0; i < users->n; i++) { /* RFC 7143 9.2.1: not the same secret both ways */
		const char *name = ((char **)users->items)[i];
		const struct conf_user *u = conf_user(c, name);
		const char *own = conf_user(c, mutual)->secret;
		if (strcmp(u->secret, own) == 0 || (u->previous && strcmp(u->previous, own) == 0))
			return err_at(e, -EINVAL, "mutual",
				"the secret of '%.64s' is also that of '%.64s'; each direction needs its own",
				mutual, name);
	}
	return 0;
}

static int check_path_tags(const struct conf_list *paths, struct err *e)
{
	const struct conf_path *p = paths->items;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < paths->n; i++)
		r = check_number(p[i].name, 1, 65535, "portal group tag", e);
	if (r < 0)
		err_prefix(e, "paths");
	return r;
}

static int check_lun(const struct conf *c, struct conf_lun *l, struct err *e)
{
	int r = check_number(l->name, 0, LIM_LUNS - 1, "logical unit number", e);

	if (r == 0 && !conf_volume(c, l->volume))
		r = err_set(e, -EINVAL, "there is no volume '%.64s'; add it under volumes", l->volume);
	if (r == 0)
		r = check_path_tags(&l->paths, e);
	if (r < 0)
		err_prefix(e, l->name);
	return r;
}

/* Finds two of n texts that are equal, in n log n steps; NULL texts equal nothing. */
struct keyed { const char *text; unsigned i; };

static int by_text(const void *a, const void *b)
{
	const struct keyed *x = a, *y = b;
	int r = strcmp(x->text, y->text);

	return r ? r : x->i < y->i ? -1 : x->i > y->i;
}

static bool find_twins(struct keyed *k, unsigned n, unsigned *ret_first, unsigned *ret_second)
{
	unsigned m = 0;

	for (unsigned i = 0; i < n; i++)
		if (k[i].text)
			k[m++] = k[i];
	if (m)
		qsort(k, m, sizeof(*k), by_text);
	for (unsigned i = 1; i < m; i++) {
		if (strcmp(k[i - 1].text, k[i].text) != 0)
			continue;
		*ret_first = k[i - 1].i;
		*ret_second = k[i].i;
		return true;
	}
	return false;
}

static int check_luns(const struct conf *c, struct conf_target *t, struct err *e)
{
	struct conf_lun *luns = t->luns.items;
	struct keyed *k = calloc(t->luns.n + 1, sizeof(*k));
	int r = k ? 0 : err_set(e, -ENOMEM, "out of memory");
	unsigned a, b;

	for (unsigned i = 0; r == 0 && i < t->luns.n; i++) {
		k[i] = (struct keyed){ luns[i].volume, i };
		r = check_lun(c, &luns[i], e);
	}
	if (r == 0 && find_twins(k, t->luns.n, &a, &b))
		r = err_at(e, -EINVAL, luns[b].name, "volume '%.64s' is LUN %s of this target already", luns[b].volume,
			luns[a].name);
	free(k);
	if (r < 0)
		err_prefix(e, "luns");
	return r;
}

/* A name is folded in place, as those of logins are. A beginning cannot be judged as a whole. */
static int check_initiator(char *name, struct err *e)
{
	size_t n = strlen(name);
	const char *why = "";

	if (n && name[n - 1] == '*') {
		for (; *name; name++)
			if (*name >= 'A' && *name <= 'Z')
				*name |= 32;
		return 0;
	}
	if (iscsi_name_check(name, &why) < 0)
		return err_set(e, -EINVAL, "'%.230s' is no iSCSI name: %s; a beginning of names ends in a star", name, why);
	return 0;
}

static int check_clients(const struct conf_target *t, struct err *e)
{
	struct net_range range;
	char at[32];
	int r = 0;

	for (unsigned i = 0; i < t->initiators.n && r == 0; i++) {
		snprintf(at, sizeof(at), "initiators/%u", i);
		r = check_initiator(((char **)t->initiators.items)[i], e);
	}
	for (unsigned i = 0; i < t->clients.n && r == 0; i++) {
		const char *text = ((char **)t->clients.items)[i];
		snprintf(at, sizeof(at), "clients/%u", i);
		if (net_range_parse(text, &range) < 0)
			r = err_set(e, -EINVAL, "'%.64s' is no address or range such as 192.0.2.0/24 or 2001:db8::1", text);
	}
	if (r < 0)
		err_prefix(e, at);
	return r;
}

static int check_lists(const struct conf_target *t, struct err *e)
{
	char at[32];

	for (unsigned i = 0; i < t->groups.n; i++) {
		int r = check_number(((char **)t->groups.items)[i], 1, 65535, "portal group tag", e);
		if (r < 0) {
			snprintf(at, sizeof(at), "groups/%u", i);
			err_prefix(e, at);
			return r;
		}
	}
	for (unsigned i = 0; i < t->chap.n; i++) {
		const char *name = ((char **)t->chap.items)[i];
		if (algorithm_bit(name))
			continue;
		snprintf(at, sizeof(at), "chap/%u", i);
		return err_at(e, -EINVAL, at, "'%.32s' is none of md5, sha1, sha256, sha3-256", name);
	}
	return 0;
}

static const char *far_portal(const struct conf *c, const struct conf_target *t)
{
	const struct conf_portal *p = c->portals.items;

	for (unsigned i = 0; i < c->portals.n; i++) {
		bool reached = t->groups.n == 0;
		for (unsigned k = 0; k < t->groups.n; k++)
			reached |= strtoul(((char **)t->groups.items)[k], NULL, 10) == p[i].group;
		if (reached && !conf_is_loopback(p[i].listen))
			return p[i].listen;
	}
	return NULL;
}

static int check_open(const struct conf *c, const struct conf_target *t, struct err *e)
{
	const char *listen = t->users.n || t->open ? NULL : far_portal(c, t);

	if (!listen)
		return 0;
	return err_at(e, -EACCES, "users",
		"other machines reach %.64s without a password; name users, or say open: on", listen);
}

/* Whether 1 to 65535 follows. */
static bool is_port(const char *s)
{
	uint64_t port;

	return parse_uint(s, &port) == 0 && port && port <= 65535;
}

/* "192.0.2.1", "::1", "[::1]" get their port, so that an address has one spelling and a reload sees what changed. */
static int give_port(char **addr, struct err *e)
{
	const char *a = *addr, *colon = strchr(a, ':');
	bool bare6 = a[0] != '[' && colon && strchr(colon + 1, ':');
	char *full;

	if (!a[0])
		return err_set(e, -EINVAL, "is empty: write an address, such as 192.0.2.1:3260");
	if (!bare6 && colon && a[strlen(a) - 1] != ']')
		return is_port(strrchr(a, ':') + 1) ? 0 : err_set(e, -EINVAL,
			"'%.80s' has no port from 1 to 65535: write an address, such as 192.0.2.1:3260", a);
	if (asprintf(&full, bare6 ? "[%s]:3260" : "%s:3260", a) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	free(*addr);
	*addr = full;
	return 0;
}

/* What a target offers but could never agree to would be lowered in silence. */
static int check_offer(const struct conf_target *t, struct err *e)
{
	struct iscsi_offer o;

	iscsi_offer_defaults(&o);
	uint64_t max_burst = t->max_burst ? t->max_burst : o.max_burst;
	if (t->first_burst > max_burst)
		return err_at(e, -EINVAL, "first-burst", "%llu is above max-burst, which is %llu: a sequence holds what is "
			"unsolicited (RFC 7143, 13.14)", (unsigned long long)t->first_burst, (unsigned long long)max_burst);
	return 0;
}

static int check_target(const struct conf *c, struct conf_target *t, struct err *e)
{
	const char *why = "";

	if (strlen(t->name) > LIM_ISCSI_NAME)
		return err_set(e, -EINVAL, "the name is longer than %d bytes", LIM_ISCSI_NAME);
	if (iscsi_name_check(t->name, &why) < 0)
		return err_set(e, -EINVAL,
			"'%.230s' is no iSCSI name: %s; write for example iqn.2026-11.com.example:disk", t->name, why);
	int r = check_users(c, &t->users, t->mutual, e);
	if (r == 0 && t->require_mutual && !t->mutual)
		r = err_at(e, -EINVAL, "require-mutual", "needs mutual: the user whose secret the target uses");
	if (r == 0)
		r = check_luns(c, t, e);
	if (r == 0)
		r = check_lists(t, e);
	if (r == 0)
		r = check_clients(t, e);
	if (r == 0)
		r = check_path_tags(&t->paths, e);
	if (r == 0)
		r = check_offer(t, e);
	if (r == 0 && t->redirect && (r = give_port(&t->redirect, e)) < 0)
		err_prefix(e, "redirect");
	if (r == 0 && t->redirect_permanent && !t->redirect)
		r = err_at(e, -EINVAL, "redirect-permanent", "needs redirect: the address to which the target has moved");
	return r < 0 ? r : check_open(c, t, e);
}

static int check_targets(struct conf *c, struct err *e)
{
	struct conf_target *t = c->targets.items;
	char path[ERR_PATH_MAX];

	if (c->targets.n > LIM_TARGETS)
		return err_at(e, -EINVAL, "targets", "more than %d targets", LIM_TARGETS);
	for (unsigned i = 0; i < c->targets.n; i++) {
		snprintf(path, sizeof(path), "targets/%.140s", t[i].name);
		int r = check_target(c, &t[i], e);
		for (unsigned k = 0; r == 0 && k < i; k++)
			if (strcmp(t[k].name, t[i].name) == 0) /* equal once case is folded */
				r = err_set(e, -EINVAL, "is there twice");
		if (r < 0) {
			err_prefix(e, path);
			return r;
		}
	}
	if (c->targets.n) /* case was folded */
		qsort(c->targets.items, c->targets.n, sizeof(struct conf_target), conf_name_order);
	return 0;
}

static int check_portals(const struct conf *c, struct err *e)
{
	struct conf_portal *p = c->portals.items;
	char at[64];

	if (c->portals.n > LIM_PORTALS)
		return err_at(e, -EINVAL, "portals", "more than %d portals", LIM_PORTALS);
	for (unsigned i = 0; i < c->portals.n; i++) {
		const char *field = "listen";
		int r = give_port(&p[i].listen, e);
		for (unsigned k = 0; r == 0 && k < i; k++)
			if (strcmp(p[i].listen, p[k].listen) == 0)
				r = err_set(e, -EINVAL, "%.64s is there twice", p[i].listen);
		if (r == 0 && p[i].redirect && (r = give_port(&p[i].redirect, e)) < 0)
			field = "redirect";
		if (r == 0 && p[i].redirect_permanent && !p[i].redirect) {
			field = "redirect-permanent";
			r = err_set(e, -EINVAL, "needs redirect: the address to which logins are sent");
		}
		if (r < 0) {
			snprintf(at, sizeof(at), "portals/%u/%s", i, field);
			err_prefix(e, at);
			return r;
		}
	}
	return 0;
}

static const char *identity_of(const struct conf_volume *v)
{
	return v->identity ? v->identity : v->name;
}

/* Two disks that tell one identity would be two paths to one disk for an initiator, which writes to either. */
static int check_unlike(const struct conf *c, struct keyed *k, bool serial, struct err *e)
{
	const struct conf_volume *v = c->volumes.items;
	char at[ERR_PATH_MAX];
	unsigned a, b;

	for (unsigned i = 0; i < c->volumes.n; i++)
		k[i] = (struct keyed){ serial ? v[i].lu.serial : identity_of(&v[i]), i };
	if (!find_twins(k, c->volumes.n, &a, &b))
		return 0;
	snprintf(at, sizeof(at), "volumes/%.140s", v[b].name);
	if (serial)
		return err_at(e, -EINVAL, at, "has the same serial as volume '%.64s', whose disk it would be taken for",
			v[a].name);
	return err_at(e, -EINVAL, at, "has the same identity as volume '%.64s'", v[a].name);
}

/* Checksums in memory vouch for nothing after a restart, and protection information is kept with them. */
static int check_integrity(const struct conf_volume *v, struct err *e)
{
	const char *store = v->lu.integrity, *type = v->node.type;

	if (v->lu.pi && !store && !v->filters.n)
		return err_at(e, -EINVAL, "pi",
			"needs integrity: the file that keeps protection information, or memory for a RAM disk");
	if (!store || !type)
		return 0;
	bool memory = strcmp(store, "memory") == 0, volatile_disk = strcmp(type, "ram") == 0 || strcmp(type, "null") == 0;
	if (memory && !volatile_disk)
		return err_at(e, -EINVAL, "integrity", "memory is for disks that end with the program: name a file");
	if (!memory && volatile_disk)
		return err_at(e, -EINVAL, "integrity",
			"a disk that ends with the program keeps its checksums the same way: say memory");
	return 0;
}

static int check_volume(const struct conf_volume *v, struct err *e)
{
	char at[ERR_PATH_MAX];

	snprintf(at, sizeof(at), "volumes/%.140s", v->name);
	if (!v->name[0] || strlen(v->name) > 128)
		return err_at(e, -EINVAL, at, "a volume's name has 1 to 128 bytes");
	if (lu_conf_check(&v->lu, e) < 0 || check_integrity(v, e) < 0) {
		err_prefix(e, at);
		return -EINVAL;
	}
	return 0;
}

static int check_volumes(const struct conf *c, struct err *e)
{
	const struct conf_volume *v = c->volumes.items;
	struct keyed *k = calloc(c->volumes.n + 1, sizeof(*k));
	int r = k ? 0 : err_set(e, -ENOMEM, "out of memory");

	for (unsigned i = 0; r == 0 && i < c->volumes.n; i++)
		r = check_volume(&v[i], e);
	if (r == 0)
		r = check_unlike(c, k, false, e);
	if (r == 0)
		r = check_unlike(c, k, true, e);
	free(k);
	return r;
}

int conf_until(const struct conf_user *u, int64_t *ret_s)
{
	struct tm tm = { 0 };
	const char *end;

	*ret_s = 0;
	if (!u->until)
		return 0;
	end = strptime(u->until, "%Y-%m-%d", &tm);
	if (end && *end)
		end = strptime(end, "T%H:%M:%SZ", &tm);
	struct tm back = tm;
	*ret_s = timegm(&back);
	return end && !*end && *ret_s > 0 && back.tm_mday == tm.tm_mday ? 0 : -EINVAL; /* a 31 February is none */
}

static int check_secret(const char *secret, struct err *e)
{
	if (!secret[0])
		return err_set(e, -EINVAL, "is empty");
	if (strlen(secret) > CHAP_SECRET_MAX)
		return err_set(e, -EINVAL, "is longer than %d bytes", CHAP_SECRET_MAX);
	return 0;
}

static int check_previous(const struct conf_user *u, struct err *e)
{
	int64_t until;

	if (u->until && !u->previous)
		return err_at(e, -EINVAL, "previous-until", "needs previous-secret: the secret that is being replaced");
	if (conf_until(u, &until) < 0)
		return err_at(e, -EINVAL, "previous-until",
			"'%.64s' is no time such as 2027-01-31 or 2027-01-31T18:00:00Z", u->until);
	if (!u->previous)
		return 0;
	int r = check_secret(u->previous, e);
	if (r == 0 && strcmp(u->previous, u->secret) == 0)
		r = err_set(e, -EINVAL, "is the same as secret; set secret to the new one");
	if (r < 0)
		err_prefix(e, "previous-secret");
	return r;
}

static int check_user(const struct conf_user *u, struct err *e)
{
	int r = check_secret(u->secret, e);

	if (r == 0 && (!u->name[0] || strlen(u->name) > 255))
		r = err_set(e, -EINVAL, "a user's name has 1 to 255 bytes");
	if (r < 0)
		err_prefix(e, "secret");
	return r < 0 ? r : check_previous(u, e);
}

static int check_secrets(const struct conf *c, struct err *e)
{
	struct conf_user *u = c->users.items;
	char at[ERR_PATH_MAX];

	for (unsigned i = 0; i < c->users.n; i++) {
		int r = check_user(&u[i], e);
		if (r < 0) {
			snprintf(at, sizeof(at), "users/%.140s", u[i].name);
			err_prefix(e, at);
			return r;
		}
	}
	return 0;
}

int conf_validate(struct conf *c, struct err *e)
{
	int r = check_portals(c, e);

	if (r == 0)
		r = check_secrets(c, e);
	if (r == 0)
		r = check_volumes(c, e);
	if (r == 0) {
		r = check_users(c, &c->discovery.users, c->discovery.mutual, e);
		if (r < 0)
			err_prefix(e, "discovery");
	}
	if (r == 0)
		r = check_targets(c, e);
	return r < 0 ? r : conf_check_paths(c, e);
}
