/* SPDX-License-Identifier: BSD-3-Clause
 * What can be asked: one row each. Numbers carry their unit in their name. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/impl.h"
#include "loop/round.h"

enum { NS_PER_S = 1000000000 };

static void set_uint(json_t *o, const char *name, uint64_t v)
{
	json_object_set_new(o, name, json_integer((json_int_t)v));
}

/* --- status ------------------------------------------------------------------------------------------- */

static void add_portal(void *ctx, const struct server_portal *p)
{
	json_array_append_new(ctx, json_pack("{sssI}", "listen", p->name, "group", (json_int_t)p->group));
}

static json_t *lun_json(const struct conf *c, const struct server_lun *l)
{
	const struct conf_volume *v = conf_volume(c, l->volume);
	struct lu_stats st = { 0 };
	json_t *o = json_pack("{sisssbsI}", "lun", (int)l->lun, "volume", l->volume, "ready", l->ready, "bytes",
		(json_int_t)lu_bytes(l->lu));

	if (v)
		json_object_set_new(o, "type", json_string(v->node.type));
	if (!l->ready)
		json_object_set_new(o, "reason", json_string(l->why));
	lu_stats(l->lu, &st);
	set_uint(o, "read_ops", st.read_ops);
	set_uint(o, "read_bytes", st.read_bytes);
	set_uint(o, "write_ops", st.write_ops);
	set_uint(o, "write_bytes", st.write_bytes);
	set_uint(o, "other_ops", st.other_ops);
	set_uint(o, "errors", st.errors);
	return o;
}

struct targets { json_t *out; const struct conf *conf; };

static void add_target(void *ctx, const char *name, const struct server_lun *luns, unsigned n)
{
	struct targets *t = ctx;
	const struct conf_target *ct = conf_target(t->conf, name);
	json_t *list = json_array(), *o = json_pack("{ss}", "name", name);

	if (ct && ct->alias)
		json_object_set_new(o, "alias", json_string(ct->alias));
	json_object_set_new(o, "chap", json_boolean(ct && ct->users.n));
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(list, lun_json(t->conf, &luns[i]));
	json_object_set_new(o, "luns", list);
	json_array_append_new(t->out, o);
}

static json_t *counters(void)
{
	struct net_stats st = { 0 };
	json_t *o = json_object();

	net_stats(&st);
	set_uint(o, "sessions", st.sessions);
	set_uint(o, "connections", st.connections);
	set_uint(o, "logins_ok", st.logins_ok);
	set_uint(o, "logins_refused", st.logins_refused);
	set_uint(o, "digest_errors", st.digest_errors);
	set_uint(o, "rejects", st.rejects);
	return o;
}

static void get_status(struct request *r)
{
	struct api *a = r->api;
	struct targets t = { json_array(), server_conf(a->conf.server) };
	json_t *portals = json_array(), *o = json_object();

	server_each_portal(a->conf.server, add_portal, portals);
	server_each_target(a->conf.server, add_target, &t);
	json_object_set_new(o, "version", json_string(LUNETTE_VERSION));
	set_uint(o, "pid", (uint64_t)getpid());
	set_uint(o, "uptime_seconds", (loop_now_ns(a->conf.control) - a->since_ns) / NS_PER_S);
	json_object_set_new(o, "loop", json_string(loop_backend_name(loop_group.loop[0])));
	set_uint(o, "cores", loop_group.n);
	set_uint(o, "memory_bytes", page_used_bytes());
	json_object_set_new(o, "state", json_string(a->conf.state));
	if (a->conf.config)
		json_object_set_new(o, "config", json_string(a->conf.config));
	json_object_set_new(o, "portals", portals);
	if (net_isns_state())
		json_object_set_new(o, "isns", json_string(net_isns_state()));
	json_object_set_new(o, "targets", t.out);
	json_object_set_new(o, "counters", counters());
	request_answer(r, MHD_HTTP_OK, o);
}

/* --- sessions ----------------------------------------------------------------------------------------- */

static const char *digest_name(uint8_t d)
{
	return d == ISCSI_DIGEST_CRC32C ? "CRC32C" : "None";
}

static json_t *params_json(const struct iscsi_params *p)
{
	json_t *o = json_object();

	json_object_set_new(o, "header_digest", json_string(digest_name(p->header_digest)));
	json_object_set_new(o, "data_digest", json_string(digest_name(p->data_digest)));
	json_object_set_new(o, "initial_r2t", json_boolean(p->initial_r2t));
	json_object_set_new(o, "immediate_data", json_boolean(p->immediate_data));
	set_uint(o, "max_recv_segment_bytes", p->max_recv_segment);
	set_uint(o, "max_xmit_segment_bytes", p->max_xmit_segment);
	set_uint(o, "first_burst_bytes", p->first_burst);
	set_uint(o, "max_burst_bytes", p->max_burst);
	set_uint(o, "max_r2t", p->max_r2t);
	set_uint(o, "error_recovery_level", p->erl);
	return o;
}

static json_t *paths_json(const struct net_session_info *s)
{
	json_t *all = json_array();

	for (unsigned i = 0; i < s->connections; i++) {
		json_t *o = json_object();
		set_uint(o, "cid", s->conn[i].cid);
		json_object_set_new(o, "peer", json_string(s->conn[i].peer));
		json_object_set_new(o, "local", json_string(s->conn[i].local));
		json_array_append_new(all, o);
	}
	return all;
}

static json_t *session_json(const struct net_session_info *s, uint64_t now_ns)
{
	json_t *o = json_object();
	char isid[13];

	for (unsigned i = 0; i < 6; i++)
		snprintf(isid + 2 * i, 3, "%02x", s->isid[i]);
	set_uint(o, "id", s->id);
	json_object_set_new(o, "initiator", json_string(s->initiator));
	json_object_set_new(o, "target", s->discovery ? json_null() : json_string(s->target));
	json_object_set_new(o, "discovery", json_boolean(s->discovery));
	if (s->user[0])
		json_object_set_new(o, "user", json_string(s->user));
	if (s->connections) {
		json_object_set_new(o, "peer", json_string(s->conn[0].peer));
		json_object_set_new(o, "local", json_string(s->conn[0].local));
	}
	json_object_set_new(o, "isid", json_string(isid));
	set_uint(o, "tsih", s->tsih);
	set_uint(o, "group", s->tpgt);
	set_uint(o, "connections", s->connections);
	json_object_set_new(o, "paths", paths_json(s));
	set_uint(o, "loop", s->loop);
	set_uint(o, "age_seconds", now_ns > s->since_ns ? (now_ns - s->since_ns) / NS_PER_S : 0);
	set_uint(o, "commands", s->commands);
	set_uint(o, "in_flight", s->inflight);
	set_uint(o, "bytes_to_initiator", s->bytes_in);
	set_uint(o, "bytes_from_initiator", s->bytes_out);
	json_object_set_new(o, "parameters", params_json(&s->params));
	return o;
}

static int by_id(const void *a, const void *b)
{
	json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "id"));
	json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "id"));

	return x < y ? -1 : x > y;
}

/* Loops answer in any order; people want the oldest first. */
static json_t *sorted(json_t **list, unsigned n)
{
	json_t *out = json_array();

	qsort(list, n, sizeof(json_t *), by_id);
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(out, list[i]);
	return out;
}

static void have_sessions(void *ctx, const struct net_session_info *s, unsigned n)
{
	struct request *r = ctx;
	json_t **list = calloc(n + 1, sizeof(json_t *));

	if (!list) {
		request_fail(r, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
		return;
	}
	for (unsigned i = 0; i < n; i++)
		list[i] = session_json(&s[i], loop_now_ns(r->api->conf.control));
	request_answer(r, MHD_HTTP_OK, json_pack("{so}", "sessions", sorted(list, n)));
	free(list);
}

static void get_sessions(struct request *r)
{
	net_sessions(have_sessions, r);
}

static void kicked(void *ctx, bool found)
{
	if (found)
		request_answer(ctx, MHD_HTTP_OK, json_object());
	else
		request_fail(ctx, MHD_HTTP_NOT_FOUND, "there is no such session; see lunette sessions");
}

static void delete_session(struct request *r)
{
	uint64_t id;

	if (parse_uint(r->tail, &id) < 0)
		request_fail(r, MHD_HTTP_NOT_FOUND, "a session's id is a number; see lunette sessions");
	else
		net_session_kick(id, kicked, r);
}

/* --- configuration ------------------------------------------------------------------------------------ */

static void get_config(struct request *r)
{
	request_answer(r, MHD_HTTP_OK,
		conf_to_json(&conf_root_type, (struct conf *)server_conf(r->api->conf.server), false));
}

static void get_schema(struct request *r)
{
	request_answer(r, MHD_HTTP_OK, conf_json_schema());
}

const struct route api_routes[] = {
	{ "GET", "/api/v1/status", get_status, "The daemon, its portals, targets, LUNs and counters." },
	{ "GET", "/api/v1/sessions", get_sessions, "Sessions, oldest first." },
	{ "DELETE", "/api/v1/sessions/", delete_session, "Closes one session; its initiator may log in again." },
	{ "GET", "/api/v1/paths", get_paths, "Target port groups of each LUN and their access states." },
	{ "PUT", "/api/v1/paths", put_paths,
	  "Changes one: ?volume=&group=&access=&preferred=; answered when nothing runs through a group that left I/O." },
	{ "GET", "/api/v1/reservations", get_reservations, "Persistent reservations of each LUN." },
	{ "DELETE", "/api/v1/reservations", delete_reservations, "Clears those of ?volume=." },
	{ "GET", "/api/v1/config", get_config, "The configuration in force, without secrets." },
	{ "GET", "/api/v1/schema", get_schema, "JSON Schema of the configuration." },
	{ 0 },
};
