/* SPDX-License-Identifier: BSD-3-Clause
 * A target's life: NEW -> map published -> rules known to net/ (logins possible) ... -> net/ forgot it -> map
 * emptied -> freed. A disk is closed when it is retired and no map has it. */
#include "conf/reconcile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "conf/disk.h"
#include "conf/luns.h"
#include "conf/portals.h"
#include "conf/told.h"

enum { TICK_NS = 1000000000 };

struct map { struct disk **disk; uint16_t *lun; unsigned n; };

struct target {
	struct list node;
	struct server *server;
	char *name;
	struct scsi_target *device;
	struct map map, next; /* published, and being published */
	struct scsi_ports ports;
	bool setting, removing, known; /* known: to net/ */
};

struct server {
	struct loop *control;
	struct store *store;
	struct server_events ev;
	struct conf conf;
	struct list disks, targets, portals;
	struct disk **index; /* those that are not retired, by name */
	unsigned nindex;
	struct timer tick;
	unsigned pending; /* maps that the loops are taking over */
	struct luns *luns;
	bool resting; /* LUNs of the configuration whose numbers rest: since a start, when nobody can be asked */
	struct conf was;  /* while units hand over to those that take their place */
	unsigned inheriting;
	bool started, stopping, announce, names_changed;
	unsigned stops; /* of what server_stop() began: not ended yet */
	struct task announce_task;
	unsigned forced;
	void (*stopped)(void *ctx, unsigned forced);
	void *stopped_ctx;
};

static bool text_equal(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static void settle(struct server *s);

/* --- disks -------------------------------------------------------------------------------------------- */

static int disk_order(const void *a, const void *b)
{
	return strcmp((*(struct disk *const *)a)->name, (*(struct disk *const *)b)->name);
}

static int disk_named(const void *name, const void *d)
{
	return strcmp(name, (*(struct disk *const *)d)->name);
}

static struct disk *disk_find(struct server *s, const char *name)
{
	struct disk **d = s->nindex ? bsearch(name, s->index, s->nindex, sizeof(*d), disk_named) : NULL;

	return d ? *d : NULL;
}

/* After every change of what is retired. */
static void disks_index(struct server *s)
{
	struct disk *d;
	unsigned n = 0;

	list_for_each(d, &s->disks, node)
		n += !d->retired;
	free(s->index);
	s->index = calloc(n + 1, sizeof(*s->index));
	CHECK(s->index);
	s->nindex = 0;
	list_for_each(d, &s->disks, node)
		if (!d->retired)
			s->index[s->nindex++] = d;
	qsort(s->index, n, sizeof(*s->index), disk_order);
}

static void tick_disks(struct server *s, bool waiting_only)
{
	struct disk *d, *tmp;

	if (s->inheriting)
		return; /* units that inherit stay as they are */
	list_for_each_safe(d, tmp, &s->disks, node) {
		struct conf_volume *v = conf_volume(&s->conf, d->name);
		if (v && !d->retired && !(waiting_only && d->ready))
			disk_tick(d, v, s->store);
	}
}

static void disk_gone(struct disk *d)
{
	struct server *s = d->ctx;

	disk_free(d, s->store);
	if (!s->stopping)
		tick_disks(s, true); /* a changed disk waits for its old self to let go of the file */
	settle(s);
}

static void close_retired(struct server *s)
{
	struct disk *d, *tmp;

	list_for_each_safe(d, tmp, &s->disks, node)
		if (d->retired && !d->maps && !d->closing)
			disk_close(d, disk_gone, s);
}

/* --- LUN maps ----------------------------------------------------------------------------------------- */

static void map_release(struct map *m)
{
	for (unsigned i = 0; i < m->n; i++)
		m->disk[i]->maps--;
	free(m->disk);
	free(m->lun);
	*m = (struct map){ 0 };
}

static bool map_equal(const struct map *a, const struct map *b)
{
	return a->n == b->n && (a->n == 0 || (memcmp(a->disk, b->disk, a->n * sizeof(struct disk *)) == 0 &&
		memcmp(a->lun, b->lun, a->n * sizeof(*a->lun)) == 0));
}

static void map_of(struct server *s, const struct conf_target *t, struct map *m)
{
	const struct conf_lun *l = t ? t->luns.items : NULL;
	unsigned n = t ? t->luns.n : 0;

	m->disk = calloc(n + 1, sizeof(struct disk *));
	m->lun = calloc(n + 1, sizeof(*m->lun));
	CHECK(m->disk && m->lun);
	for (unsigned i = 0; i < n; i++) {
		struct disk *d = disk_find(s, l[i].volume);
		if (!d)
			continue;
		if (luns_rest(s->luns, &s->conf, t, &l[i], store_now_s())) {
			s->resting = true;
			continue;
		}
		m->disk[m->n] = d;
		m->lun[m->n++] = (uint16_t)strtoul(l[i].name, NULL, 10);
		d->maps++;
	}
}

static void target_remove(struct target *t);
static void target_rules(struct target *t);

static void target_free(struct target *t)
{
	map_release(&t->map);
	map_release(&t->next);
	if (t->device)
		scsi_target_free(t->device);
	list_del(&t->node);
	free(t->name);
	free(t);
}

static void map_published(void *ctx)
{
	struct target *t = ctx;
	struct server *s = t->server;

	t->setting = false;
	s->pending--;
	map_release(&t->map);
	t->map = t->next;
	t->next = (struct map){ 0 };
	if (t->removing && !t->known && t->map.n == 0)
		target_free(t);
	else if (t->removing)
		target_remove(t);
	else if (!t->known)
		target_rules(t);
	settle(s);
}

static bool ports_equal(const struct scsi_ports *a, const struct scsi_ports *b)
{
	return a->tpgs == b->tpgs && a->transition_s == b->transition_s && a->n == b->n &&
		!memcmp(a->tag, b->tag, a->n * sizeof(a->tag[0]));
}

/* Gives the loops the map that the configuration wants, unless they have it. */
static void target_publish(struct target *t)
{
	struct server *s = t->server;
	struct scsi_lun *luns;
	struct map m = { 0 };

	const struct conf_target *ct = t->removing ? NULL : conf_target(&s->conf, t->name);
	struct scsi_ports ports = { 0 };

	map_of(s, ct, &m);
	if (ct)
		conf_ports(&s->conf, ct, &ports);
	if (map_equal(&m, &t->map) && ports_equal(&ports, &t->ports) && t->known && !t->removing) {
		map_release(&m);
		return;
	}
	t->ports = ports;
	scsi_target_set_ports(t->device, &ports);
	luns = calloc(m.n + 1, sizeof(*luns));
	CHECK(luns);
	for (unsigned i = 0; i < m.n; i++)
		luns[i] = (struct scsi_lun){ .lun = m.lun[i], .lu = m.disk[i]->lu };
	t->next = m;
	t->setting = true;
	s->pending++;
	scsi_target_set_luns(t->device, luns, m.n, map_published, t);
	free(luns);
}

/* --- rules -------------------------------------------------------------------------------------------- */

static struct net_user net_user_of(const struct conf *c, const char *name)
{
	const struct conf_user *u = conf_user(c, name);

	struct net_user n = { .name = u->name, .secret = u->secret, .previous = u->previous };

	conf_until(u, &n.until_s); /* was validated */
	return n;
}

static struct net_user *net_users_of(const struct conf *c, const struct conf_list *names)
{
	struct net_user *u = calloc(names->n + 1, sizeof(*u));

	CHECK(u);
	for (unsigned i = 0; i < names->n; i++)
		u[i] = net_user_of(c, ((char **)names->items)[i]);
	return u;
}

/* Validated: each parses. */
static struct net_range *ranges_of(const struct conf_list *list)
{
	struct net_range *r = calloc(list->n + 1, sizeof(*r));

	CHECK(r);
	for (unsigned i = 0; i < list->n; i++)
		net_range_parse(((char **)list->items)[i], &r[i]);
	return r;
}

static void target_rules(struct target *t)
{
	const struct conf *c = &t->server->conf;
	const struct conf_target *ct = conf_target(c, t->name);
	struct err e = { 0 };
	struct net_user mutual, *users = net_users_of(c, &ct->users);
	uint16_t *tags = told_tags(&ct->groups);
	struct net_range *clients = ranges_of(&ct->clients);
	struct net_target_conf n = {
		.name = ct->name, .alias = ct->alias, .device = t->device, .users = users, .nusers = ct->users.n,
		.require_mutual = ct->require_mutual, .chap_algs = conf_chap_mask(&ct->chap),
		.redirect = ct->redirect, .redirect_permanent = ct->redirect_permanent,
		.balance = (enum net_balance)ct->balance, .clients = clients, .nclients = ct->clients.n,
		.initiators = (const char *const *)ct->initiators.items, .ninitiators = ct->initiators.n,
		.tpgts = ct->groups.n ? tags : NULL, .ntpgts = ct->groups.n,
	};

	conf_offer(ct, &n.offer);
	if (ct->mutual) {
		mutual = net_user_of(c, ct->mutual);
		n.mutual = &mutual;
	}
	if (net_target_set(&n, &e) < 0)
		log_error("target not served name=%s reason=\"%s\"", t->name, e.text);
	else
		t->known = true;
	free(clients);
	free(users);
	free(tags);
}

static int discovery_rules(struct server *s, struct err *e)
{
	const struct conf_discovery *d = &s->conf.discovery;
	struct net_user mutual = { 0 }, *users = net_users_of(&s->conf, &d->users);
	struct conf_list any = { 0 };

	if (d->mutual)
		mutual = net_user_of(&s->conf, d->mutual);
	int r = net_discovery_auth(users, d->users.n, d->mutual ? &mutual : NULL, conf_chap_mask(&any), e);
	free(users);
	return r;
}

/* --- targets ------------------------------------------------------------------------------------------ */

static struct target *target_find(struct server *s, const char *name)
{
	struct target *t;

	list_for_each(t, &s->targets, node)
		if (!t->removing && strcmp(t->name, name) == 0)
			return t;
	return NULL;
}

static int target_add(struct server *s, const char *name, struct err *e)
{
	struct target *t = calloc(1, sizeof(*t));

	if (!t)
		return err_set(e, -ENOMEM, "out of memory");
	t->server = s;
	t->name = strdup(name);
	t->device = scsi_target_new(name);
	list_init(&t->node);
	list_add_tail(&s->targets, &t->node);
	if (t->name && t->device)
		return 0;
	target_free(t);
	return err_set(e, -ENOMEM, "out of memory");
}

static void target_forgotten(void *ctx)
{
	struct target *t = ctx;

	t->known = false;
	target_publish(t); /* an empty map; then it is freed */
}

/* Takes as long as its sessions' commands do. Nothing waits for it: a target of the same name may come meanwhile. */
static void target_remove(struct target *t)
{
	t->removing = true;
	if (t->setting)
		return; /* map_published() comes back here */
	if (!t->known) {
		target_publish(t);
		return;
	}
	if (net_target_remove(t->name, target_forgotten, t) < 0)
		target_forgotten(t);
}

/* --- apply -------------------------------------------------------------------------------------------- */

static bool is_kept(struct server *s, struct conf_volume *v)
{
	struct conf_volume *old = conf_volume(&s->conf, v->name);

	return old && disk_find(s, v->name) && conf_equal(&conf_volume_type, old, v);
}

/* A changed disk is opened anew, which would empty one that ends with the process. */
static int check_contents(struct server *s, const struct conf_volume *v, struct err *e)
{
	struct disk *d = disk_find(s, v->name);
	struct blk *b = d && d->ready ? lu_blk(d->lu) : NULL;

	if (!b || !(b->caps & BLK_VOLATILE))
		return 0;
	return err_set(e, -EBUSY, "its contents would be lost with this change; give the changed disk another name");
}

static json_t *without_size(struct conf_volume *v, uint64_t *ret_size)
{
	json_t *o = conf_to_json(&conf_volume_type, v, true);
	const char *size = json_string_value(json_object_get(o, "size"));

	if (!size || parse_bytes(size, ret_size) < 0)
		*ret_size = (uint64_t)json_integer_value(json_object_get(o, "size"));
	json_object_del(o, "size");
	return o;
}

/* Does each layer follow the driver? One that has a size of its own takes another when it is opened. */
static bool can_grow(struct disk *d)
{
	struct blk *b = lu_blk(d->lu);

	while (b->child[0] && !b->ops->poll_size)
		b = b->child[0];
	return !b->child[0] && b->ops->grow;
}

/* Is all that changes the size of a disk that can grow while it is in use? Its driver refuses less than there is, and
 * the reload with it: to open the disk again would only take it away from who uses it. */
static bool is_resized(struct server *s, struct conf_volume *v)
{
	struct conf_volume *old = conf_volume(&s->conf, v->name);
	struct disk *d = old ? disk_find(s, v->name) : NULL;
	uint64_t before, after;

	if (!d || !d->ready || !can_grow(d) || old->node.ops != v->node.ops)
		return false;
	json_t *x = without_size(old, &before), *y = without_size(v, &after);
	bool same = json_equal(x, y) && before && after && after != before;
	json_decref(x);
	json_decref(y);
	return same;
}

/* Opens the disk if it is new or changed, into `fresh`. A changed one whose old self holds the medium comes up not ready
 * and is attached when that has gone. */
static int disk_make(struct server *s, struct conf_volume *v, struct list *fresh, struct err *e)
{
	struct disk *d;
	int r;

	if (is_kept(s, v))
		return 0;
	if (is_resized(s, v))
		return disk_grow(disk_find(s, v->name), v, e);
	r = check_contents(s, v, e);
	if (r == 0)
		r = disk_open(&d, v, s->store, !s->started, e);
	if (r == 0)
		list_add_tail(fresh, &d->node);
	return r;
}

static int disks_open(struct server *s, struct conf *c, struct list *fresh, struct err *e)
{
	struct conf_volume *v = c->volumes.items;
	char at[ERR_PATH_MAX];

	for (unsigned i = 0; i < c->volumes.n; i++) {
		int r = disk_make(s, &v[i], fresh, e);
		if (r < 0) {
			snprintf(at, sizeof(at), "volumes/%.140s", v[i].name);
			err_prefix(e, at);
			return r;
		}
	}
	return 0;
}

static void fresh_gone(struct disk *d)
{
	disk_free(d, ((struct server *)d->ctx)->store);
}

static void undo(struct server *s, struct list *fresh)
{
	struct disk *d, *tmp;

	list_for_each_safe(d, tmp, fresh, node) {
		list_del(&d->node);
		disk_close(d, fresh_gone, s);
	}
}

static void disks_retire(struct server *s, struct conf *c)
{
	struct disk *d;

	list_for_each(d, &s->disks, node) {
		struct conf_volume *v = conf_volume(c, d->name);
		if (!d->retired && !(v && (is_kept(s, v) || is_resized(s, v))))
			d->retired = true;
	}
}

/* Secrets lie outside the targets: a change of any user renews all rules, which costs nothing. */
static bool rules_changed(const json_t *old, const json_t *new, const char *target)
{
	return !json_equal(json_object_get(old, "users"), json_object_get(new, "users")) ||
		!json_equal(json_object_get(json_object_get(old, "targets"), target),
			json_object_get(json_object_get(new, "targets"), target));
}

static int targets_add(struct server *s, struct conf *c, struct err *e)
{
	const struct conf_target *t = c->targets.items;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < c->targets.n; i++)
		if (!target_find(s, t[i].name))
			r = target_add(s, t[i].name, e);
	return r;
}

/* --- access states ------------------------------------------------------------------------------------ */

/* Fresh disks have their states before any initiator sees them; a disk of two targets has the same in both. */
static void paths_publish(struct server *s)
{
	const struct conf_target *t = s->conf.targets.items;
	struct alua_change c[LIM_PORTALS];
	struct disk *d;

	list_for_each(d, &s->disks, node)
		d->seen = d->retired;
	for (unsigned i = 0; i < s->conf.targets.n; i++) {
		const struct conf_lun *l = t[i].luns.items;
		for (unsigned k = 0; k < t[i].luns.n; k++) {
			d = disk_find(s, l[k].volume);
			if (!d || d->seen)
				continue;
			d->seen = true;
			disk_set_paths(d, c, conf_paths(&t[i], &l[k], c));
		}
	}
	list_for_each(d, &s->disks, node)
		if (!d->seen && (d->npaths || d->fresh))
			disk_set_paths(d, c, 0);
}

static void targets_drop_unknown(struct server *s)
{
	struct target *t, *tmp;

	list_for_each_safe(t, tmp, &s->targets, node)
		if (!t->known && !t->setting && !t->removing)
			target_free(t);
}

static void publish_target(struct target *t, const json_t *old, const json_t *new)
{
	if (t->removing)
		return;
	if (!conf_target(&t->server->conf, t->name)) {
		target_remove(t);
		return;
	}
	if (t->known && rules_changed(old, new, t->name))
		target_rules(t);
	target_publish(t);
}

static bool start_options_changed(const struct conf_server *a, const struct conf_server *b)
{
	return a->cores != b->cores || a->loop != b->loop || !text_equal(a->state, b->state) ||
		!text_equal(a->socket, b->socket);
}

static void publish(struct server *s, struct conf *old)
{
	json_t *x = conf_to_json(&conf_root_type, old, true), *y = conf_to_json(&conf_root_type, &s->conf, true);
	struct target *t, *tmp;
	struct err e = { 0 };

	told_limits(&s->conf.server);
	if (discovery_rules(s, &e) < 0)
		log_error("discovery rules not set reason=\"%s\"", e.text);
	if (s->started && start_options_changed(&old->server, &s->conf.server))
		log_warn("server options changed; they take effect at the next start");
	s->names_changed |= told_names_changed(x, y);
	list_for_each_safe(t, tmp, &s->targets, node)
		publish_target(t, x, y);
	json_decref(x);
	json_decref(y);
}

/* Every unit has what it inherits: the new state may be seen. */
static void inherited(void *ctx, int result)
{
	struct server *s = ctx;

	if (result < 0)
		log_error("reservations not handed over reason=\"%s\"", strerror(-result));
	if (--s->inheriting)
		return;
	if (!s->stopping) {
		paths_publish(s);
		publish(s, &s->was);
		loop_defer(s->control, &s->announce_task); /* settles when nothing was to be published */
	}
	conf_free(&conf_root_type, &s->was);
	s->was = (struct conf){ 0 };
	if (s->stopping)
		settle(s);
}

/* Changed disks take over the reservations of the disks whose identity they have. */
static void hand_over(struct server *s, const struct list *fresh)
{
	struct disk *d, *old;

	s->inheriting = 1;
	list_for_each(d, fresh, node) {
		old = disk_find(s, d->name);
		if (!old || !lu_same_identity(old->lu, d->lu))
			continue;
		s->inheriting++;
		lu_inherit(d->lu, old->lu, inherited, s);
	}
}

static void announce(struct task *task)
{
	struct server *s = container_of(task, struct server, announce_task);

	settle(s);
}

int server_apply(struct server *s, struct conf *c, struct err *e)
{
	struct conf old = s->conf;
	struct err why = { 0 };
	struct list fresh;

	if (s->pending || s->announce || s->stopping)
		return err_set(e, -EAGAIN, "the last change is still being published");
	list_init(&fresh);
	int r = s->started ? luns_check(s->luns, c, store_now_s(), e) : 0;
	if (r == 0)
		r = disks_open(s, c, &fresh, e);
	if (r == 0)
		r = targets_add(s, c, e);
	if (r == 0 && s->started)
		r = portals_open(&s->portals, c, e);
	if (r < 0) {
		undo(s, &fresh);
		targets_drop_unknown(s);
		return r;
	}
	s->announce = true;
	s->was = old;
	hand_over(s, &fresh);
	disks_retire(s, c);
	list_splice_tail(&s->disks, &fresh);
	disks_index(s);
	s->conf = *c;
	*c = (struct conf){ 0 };
	if (!s->started && luns_check(s->luns, &s->conf, store_now_s(), &why) < 0)
		log_warn("LUN not served yet path=%s reason=\"%s\"", why.path, why.text);
	luns_commit(s->luns, &s->conf, store_now_s());
	inherited(s, 0);
	return 0;
}

static void published(struct server *s)
{
	struct err e = { 0 };

	s->announce = false;
	if (!s->started && portals_open(&s->portals, &s->conf, &e) < 0) {
		s->ev.published(s->ev.ctx, &e);
		return;
	}
	s->started = true;
	portals_unwanted(&s->portals);
	portals_redirect(&s->portals, &s->conf);
	if (s->names_changed)
		told_names(&s->conf);
	s->names_changed = false;
	s->ev.published(s->ev.ctx, NULL);
}

/* After every step that ends: what may go now goes, and who waits hears. */
static void settle(struct server *s)
{
	close_retired(s);
	if (s->pending || s->inheriting)
		return;
	if (s->announce)
		published(s);
	if (s->stopped && !s->stops && list_empty(&s->disks) && list_empty(&s->targets)) {
		void (*done)(void *ctx, unsigned forced) = s->stopped;
		s->stopped = NULL;
		done(s->stopped_ctx, s->forced);
	}
}

/* --- life --------------------------------------------------------------------------------------------- */

/* Numbers that have rested long enough: their LUNs appear. */
static void publish_rested(struct server *s)
{
	struct target *t, *tmp;

	s->resting = false;
	luns_commit(s->luns, &s->conf, store_now_s());
	list_for_each_safe(t, tmp, &s->targets, node)
		if (!t->removing)
			target_publish(t);
}

static void tick(struct timer *t)
{
	struct server *s = container_of(t, struct server, tick);

	if (s->stopping)
		return;
	tick_disks(s, false);
	if (s->resting && !s->pending && !s->announce)
		publish_rested(s);
	loop_timer_set(s->control, t, loop_now_ns(s->control) + TICK_NS);
}

int server_new(struct server **ret, struct loop *control, struct store *store, const struct server_events *ev,
	struct err *e)
{
	struct server *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	s->control = control;
	s->store = store;
	s->ev = *ev;
	list_init(&s->disks);
	list_init(&s->targets);
	list_init(&s->portals);
	s->tick.fire = tick;
	s->announce_task.run = announce;
	s->luns = luns_load(store);
	if (!s->luns) {
		free(s);
		return err_set(e, -ENOMEM, "out of memory");
	}
	loop_timer_set(control, &s->tick, loop_now_ns(control) + TICK_NS);
	*ret = s;
	return 0;
}

static void drained(void *ctx, unsigned forced)
{
	struct server *s = ctx;
	struct target *t, *tmp;
	struct disk *d;

	s->forced = forced;
	s->stops--;
	list_for_each(d, &s->disks, node)
		d->retired = true;
	s->nindex = 0;
	list_for_each_safe(t, tmp, &s->targets, node)
		if (!t->removing)
			target_remove(t);
	settle(s);
}

static void names_left(void *ctx)
{
	struct server *s = ctx;

	s->stops--;
	settle(s);
}

void server_stop(struct server *s, uint64_t deadline_ns, void (*done)(void *ctx, unsigned forced), void *ctx)
{
	struct portal *p;

	list_for_each(p, &s->portals, node)
		p->net = NULL; /* net_drain() ends them */
	s->stopping = true;
	s->announce = false;
	s->stopped = done;
	s->stopped_ctx = ctx;
	s->stops = 2;
	loop_timer_clear(s->control, &s->tick);
	net_isns_leave(names_left, s);
	net_drain(deadline_ns, drained, s);
}

void server_free(struct server *s)
{
	if (!s)
		return;
	while (!list_empty(&s->portals))
		portal_drop(list_first(&s->portals, struct portal, node), false);
	loop_timer_clear(s->control, &s->tick);
	conf_free(&conf_root_type, &s->conf);
	free(s->index);
	luns_free(s->luns);
	free(s);
}

const struct conf *server_conf(const struct server *s)
{
	return &s->conf;
}

struct lu *server_lu(struct server *s, const char *volume)
{
	struct disk *d = disk_find(s, volume);

	return d ? d->lu : NULL;
}

void server_each_target(struct server *s, void (*fn)(void *ctx, const char *name, const struct server_lun *luns,
	unsigned n), void *ctx)
{
	struct target *t;

	list_for_each(t, &s->targets, node) {
		struct server_lun *l = calloc(t->map.n + 1, sizeof(*l));
		if (!l || t->removing) {
			free(l);
			continue;
		}
		for (unsigned i = 0; i < t->map.n; i++) {
			const struct disk *d = t->map.disk[i];
			l[i] = (struct server_lun){ t->map.lun[i], d->name, d->lu, d->ready, d->why };
		}
		fn(ctx, t->name, l, t->map.n);
		free(l);
	}
}

void server_each_portal(struct server *s, void (*fn)(void *ctx, const struct server_portal *p), void *ctx)
{
	struct portal *p;

	list_for_each(p, &s->portals, node) {
		if (!p->net)
			continue;
		struct server_portal sp = { net_portal_name(p->net), p->group };
		fn(ctx, &sp);
	}
}
