/* SPDX-License-Identifier: BSD-3-Clause
 * Target port groups and persistent reservations: shown and changed by the administrator. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/impl.h"
#include "scsi/alua.h"
#include "scsi/reservations.h"

/* --- one answer from many units: each adds its part to a list, in the order of the configuration --- */

struct gather;
struct item { struct gather *g; json_t *out; struct scsi_ports ports; };
struct gather {
	struct request *r;
	const char *key;
	unsigned n, room, pending;
	struct item **item;
	bool sealed;
};

static void gather_end(struct gather *g)
{
	if (!g->sealed || g->pending)
		return;
	json_t *list = json_array();
	for (unsigned i = 0; i < g->n; i++) {
		json_array_append_new(list, g->item[i]->out);
		free(g->item[i]);
	}
	request_answer(g->r, MHD_HTTP_OK, json_pack("{so}", g->key, list));
	free(g->item);
	free(g);
}

static struct item *gather_add(struct gather *g, const char *target, const struct server_lun *l)
{
	if (g->n == g->room) {
		unsigned room = g->room ? g->room * 2 : 16;
		struct item **more = realloc(g->item, room * sizeof(*more));
		if (!more)
			return NULL;
		g->item = more;
		g->room = room;
	}
	struct item *it = calloc(1, sizeof(*it));
	if (!it)
		return NULL;
	it->g = g;
	it->out = json_pack("{sssiss}", "target", target, "lun", (int)l->lun, "volume", l->volume);
	g->item[g->n++] = it;
	g->pending++;
	return it;
}

static void gather_start(struct request *r, const char *key, void (*fn)(void *ctx, const char *name,
	const struct server_lun *luns, unsigned n))
{
	struct gather *g = calloc(1, sizeof(*g));

	if (!g) {
		request_fail(r, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
		return;
	}
	g->r = r;
	g->key = key;
	server_each_target(r->api->conf.server, fn, g);
	g->sealed = true;
	gather_end(g);
}

static void item_done(struct item *it)
{
	it->g->pending--;
	gather_end(it->g);
}

/* --- paths -------------------------------------------------------------------------------------------- */

static json_t *group_json(const struct alua_state *s, uint16_t tag)
{
	static const char *const why[] = { "configuration", "initiator", "administrator" };
	const struct alua_group *g = alua_find(s, tag);

	return json_pack("{sisssbss}", "group", (int)tag, "access", conf_access_name(g ? g->access : ALUA_OPTIMIZED),
		"preferred", g && g->preferred, "set_by", why[g ? g->why : ALUA_CONFIGURED]);
}

static void have_paths(void *ctx, const struct alua_state *s)
{
	struct item *it = ctx;
	json_t *list = json_array();

	for (unsigned i = 0; i < it->ports.n; i++)
		json_array_append_new(list, group_json(s, it->ports.tag[i]));
	json_object_set_new(it->out, "groups", list);
	item_done(it);
}

static void target_paths(void *ctx, const char *name, const struct server_lun *luns, unsigned n)
{
	struct gather *g = ctx;
	const struct conf *c = server_conf(g->r->api->conf.server);
	const struct conf_target *t = conf_target(c, name);

	for (unsigned i = 0; t && i < n; i++) {
		struct item *it = gather_add(g, name, &luns[i]);
		if (!it)
			continue;
		conf_ports(c, t, &it->ports);
		lu_alua_show(luns[i].lu, have_paths, it);
	}
}

void get_paths(struct request *r)
{
	gather_start(r, "paths", target_paths);
}

static const char *arg(struct request *r, const char *name)
{
	return MHD_lookup_connection_value(r->conn, MHD_GET_ARGUMENT_KIND, name);
}

static struct lu *named_lu(struct request *r)
{
	const char *volume = arg(r, "volume");
	struct lu *lu = volume ? server_lu(r->api->conf.server, volume) : NULL;

	if (!lu)
		request_fail(r, MHD_HTTP_NOT_FOUND, "there is no such volume; see lunette status");
	return lu;
}

static void answer_change(void *ctx, int result)
{
	if (result == -ETIMEDOUT)
		request_fail(ctx, MHD_HTTP_INTERNAL_SERVER_ERROR, "commands that came through this group do not end: "
			"the disk below hangs; the group is unavailable now, and they may still reach the disk");
	else if (result == -EBUSY)
		request_fail(ctx, MHD_HTTP_SERVICE_UNAVAILABLE, "the disk is being replaced by a reload; try again");
	else if (result)
		request_fail(ctx, MHD_HTTP_INTERNAL_SERVER_ERROR, "it cannot be kept in the state directory; nothing changed");
	else
		request_answer(ctx, MHD_HTTP_OK, json_object());
}

static int parse_change(struct request *r, struct alua_change *ret)
{
	const char *group = arg(r, "group"), *access = arg(r, "access"), *preferred = arg(r, "preferred");
	uint64_t tag = 0;
	unsigned i = 0;

	if (!group || parse_uint(group, &tag) < 0 || !tag || tag > 65535)
		return -ENOENT;
	while (access && conf_access_names[i] && strcmp(conf_access_names[i], access) != 0)
		i++;
	if (!access || !conf_access_names[i])
		return -EINVAL;
	if (preferred && strcmp(preferred, "on") != 0 && strcmp(preferred, "off") != 0)
		return -EDOM;
	ret->tag = (uint16_t)tag;
	ret->access = conf_access(i);
	ret->preferred = !preferred ? ALUA_AS_IT_IS : strcmp(preferred, "on") == 0;
	return 0;
}

/* Which targets have the volume, and does one of them report access states to initiators through that group? */
struct search { const struct conf *conf; const char *volume; uint16_t tag; bool found, off; unsigned limit_s; };

static void search_target(void *ctx, const char *name, const struct server_lun *luns, unsigned n)
{
	struct search *s = ctx;
	const struct conf_target *t = conf_target(s->conf, name);
	struct scsi_ports ports;

	if (!t)
		return;
	conf_ports(s->conf, t, &ports);
	for (unsigned i = 0; i < n; i++) {
		if (strcmp(luns[i].volume, s->volume) != 0)
			continue;
		s->off |= !t->alua;
		for (unsigned k = 0; t->alua && k < ports.n; k++)
			if (ports.tag[k] == s->tag) {
				s->found = true;
				s->limit_s = ports.transition_s;
			}
	}
}

void put_paths(struct request *r)
{
	struct alua_change x;
	struct lu *lu = named_lu(r);
	int e = lu ? parse_change(r, &x) : 0;

	if (!lu)
		return;
	struct search s = { server_conf(r->api->conf.server), arg(r, "volume"), x.tag, false, false, 0 };
	if (e == 0)
		server_each_target(r->api->conf.server, search_target, &s);
	if (e == -EINVAL)
		request_fail(r, MHD_HTTP_BAD_REQUEST,
			"access is one of optimized, non-optimized, standby, unavailable, offline");
	else if (e == -EDOM)
		request_fail(r, MHD_HTTP_BAD_REQUEST, "preferred is on or off; without it, it stays as it is");
	else if (e == 0 && !s.found && s.off)
		request_fail(r, MHD_HTTP_CONFLICT, "the target says alua: off, so initiators would not know; set it to implicit");
	else if (e || !s.found)
		request_fail(r, MHD_HTTP_NOT_FOUND, "no target has this volume in that portal group; see lunette paths");
	else
		lu_alua_change(lu, &x, 1, true, s.limit_s, answer_change, r);
}

/* --- reservations ------------------------------------------------------------------------------------- */

static const char *type_name(uint8_t type)
{
	static const char *const names[] = { [PR_WRITE_EX] = "write exclusive", [PR_EX_ACCESS] = "exclusive access",
		[PR_WRITE_EX_RO] = "write exclusive, registrants only",
		[PR_EX_ACCESS_RO] = "exclusive access, registrants only",
		[PR_WRITE_EX_AR] = "write exclusive, all registrants",
		[PR_EX_ACCESS_AR] = "exclusive access, all registrants" };

	return type < ARRAY_LEN(names) && names[type] ? names[type] : "none";
}

static json_t *registration_json(const struct pr_state *s, unsigned i)
{
	const struct pr_who *w = &s->reg[i].who;
	bool holds = s->type && (s->holder == (int)i || s->holder < 0);
	char key[19], isid[13] = "any";

	snprintf(key, sizeof(key), "0x%016llx", (unsigned long long)s->reg[i].key);
	for (unsigned k = 0; !w->any_isid && k < 6; k++)
		snprintf(isid + 2 * k, 3, "%02x", w->isid[k]);
	json_t *o = json_pack("{sssssssb}", "initiator", w->initiator, "isid", isid, "key", key, "holder", holds);
	json_object_set_new(o, "group", w->any_port ? json_null() : json_integer(w->port));
	return o;
}

static void have_reservations(void *ctx, const struct pr_state *s, bool reserved)
{
	struct item *it = ctx;
	json_t *list = json_array();

	for (unsigned i = 0; s && i < s->n; i++)
		json_array_append_new(list, registration_json(s, i));
	json_object_set_new(it->out, "type", json_string(reserved ? "RESERVE" : type_name(s ? s->type : 0)));
	json_object_set_new(it->out, "generation", json_integer(s ? s->generation : 0));
	json_object_set_new(it->out, "survives_power_loss", json_boolean(s && s->aptpl));
	json_object_set_new(it->out, "registrations", list);
	item_done(it);
}

static void target_reservations(void *ctx, const char *name, const struct server_lun *luns, unsigned n)
{
	struct gather *g = ctx;

	for (unsigned i = 0; i < n; i++) {
		struct item *it = gather_add(g, name, &luns[i]);
		if (it)
			lu_pr_show(luns[i].lu, have_reservations, it);
	}
}

void get_reservations(struct request *r)
{
	gather_start(r, "reservations", target_reservations);
}

void delete_reservations(struct request *r)
{
	struct lu *lu = named_lu(r);

	if (lu)
		lu_pr_clear(lu, answer_change, r);
}
