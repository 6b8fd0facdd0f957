/* SPDX-License-Identifier: BSD-3-Clause
 * What each object of the configuration may contain. */
#include "conf/tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(type_, member, name_, kind_, dflt_, min_, max_, help_)                                \
	{ .name = name_, .kind = kind_, .at = offsetof(struct type_, member), .dflt = dflt_,        \
	  .min = min_, .max = max_, .help = help_ }
#define CHOICE(type_, member, name_, dflt_, choices_, help_)                                        \
	{ .name = name_, .kind = CONF_ENUM, .at = offsetof(struct type_, member), .dflt = dflt_,    \
	  .choices = choices_, .help = help_ }

/* --- server ------------------------------------------------------------------------------------------- */

static const char *const loop_choices[] = { "auto", "uring", "epoll", NULL };
static const struct conf_field server_fields[] = {
	FIELD(conf_server, cores, "cores", CONF_UINT, NULL, NULL, "256",
		"Number of I/O threads; 0 means one per CPU that the process may use. Read at start."),
	CHOICE(conf_server, loop, "loop", "auto", loop_choices,
		"Kernel interface: uring, epoll, or auto for uring where the kernel allows it. Read at start."),
	FIELD(conf_server, state, "state", CONF_TEXT, NULL, NULL, NULL,
		"Directory that keeps disk identities and saved mode pages. Read at start."),
	FIELD(conf_server, socket, "socket", CONF_TEXT, NULL, NULL, NULL,
		"Path of the control socket. Read at start."),
	FIELD(conf_server, lun_rest_ns, "lun-rest", CONF_TIME, "10min", NULL, "1000h",
		"How long a LUN number that a disk gave up is not another disk's, which initiators would take for the first."),
	FIELD(conf_server, max_connections, "max-connections", CONF_UINT, NULL, NULL, "1000000",
		"Connections of all clients; 0 means as many as the limit of open files leaves."),
	FIELD(conf_server, max_per_client, "max-connections-per-client", CONF_UINT, NULL, NULL, "1000000",
		"Connections logged in from one address (IPv6: one /64 network); 0 means half of max-connections."),
	FIELD(conf_server, login_delay_ns, "login-delay", CONF_TIME, "4s", NULL, "4s",
		"After several wrong secrets from one address, the answer to each further one is delayed by up to this time; 0s "
		"means never."),
	{ 0 },
};
static const struct conf_type server_type = {
	.name = "server", .help = "The process itself.", .bytes = sizeof(struct conf_server), .fields = server_fields,
};

/* --- portals and users -------------------------------------------------------------------------------- */

static const struct conf_field portal_fields[] = {
	{ .name = "listen", .kind = CONF_TEXT, .flags = CONF_REQUIRED, .at = offsetof(struct conf_portal, listen),
	  .help = "Address and port to listen on, such as 192.0.2.1:3260 or [::]:3260; the port is 3260 if not given." },
	FIELD(conf_portal, group, "group", CONF_UINT, "1", "1", "65535", "Portal group tag."),
	FIELD(conf_portal, advertise, "advertise", CONF_TEXT, NULL, NULL, NULL,
		"Address told to initiators in its place, for servers behind address translation."),
	FIELD(conf_portal, redirect, "redirect", CONF_TEXT, NULL, NULL, NULL,
		"Answer logins that come here with \"target moved\" and this address; discovery goes on."),
	FIELD(conf_portal, redirect_permanent, "redirect-permanent", CONF_BOOL, "off", NULL, NULL,
		"The move is for good: initiators may remember the new address."),
	{ 0 },
};
static const struct conf_type portal_type = {
	.name = "portal", .help = "An address that listens.", .bytes = sizeof(struct conf_portal),
	.fields = portal_fields, .brief = "listen",
};

static const struct conf_field user_fields[] = {
	{ .name = "secret", .kind = CONF_SECRET, .flags = CONF_REQUIRED, .at = offsetof(struct conf_user, secret),
	  .help = "CHAP secret, best of 12 to 16 characters, or @FILE to read it from the first line of a file." },
	FIELD(conf_user, previous, "previous-secret", CONF_SECRET, NULL, NULL, NULL,
		"Secret that is being replaced, or @FILE: initiators that still use it get in, and the log says which."),
	FIELD(conf_user, until, "previous-until", CONF_TEXT, NULL, NULL, NULL,
		"End of the previous secret, such as 2027-01-31 or 2027-01-31T18:00:00Z (UTC); without it, it is taken as long "
		"as it is set."),
	{ 0 },
};
static const struct conf_type user_type = {
	.name = "user", .help = "A CHAP name and its secret.", .bytes = sizeof(struct conf_user),
	.fields = user_fields, .brief = "secret",
};

static const struct conf_field discovery_fields[] = {
	FIELD(conf_discovery, mutual, "mutual", CONF_TEXT, NULL, NULL, NULL,
		"User whose secret proves the server to initiators in discovery."),
	{ 0 },
};
static const struct conf_link discovery_links[] = {
	{ "users", CONF_NAMES, offsetof(struct conf_discovery, users), NULL,
	  "Users that may discover targets; none means everyone." },
	{ 0 },
};
static const struct conf_type discovery_type = {
	.name = "discovery", .help = "Who may ask for the list of targets.", .bytes = sizeof(struct conf_discovery),
	.fields = discovery_fields, .links = discovery_links,
};

static const struct conf_field isns_fields[] = {
	FIELD(conf_isns, server, "server", CONF_TEXT, NULL, NULL, NULL,
		"Address of the name server, such as 192.0.2.5; the port is 3205 if not given."),
	FIELD(conf_isns, entity, "entity", CONF_TEXT, NULL, NULL, NULL,
		"Name of this server there, unique among its clients; the host name if not given."),
	FIELD(conf_isns, domain, "domain", CONF_TEXT, NULL, NULL, NULL,
		"Discovery domain to which the targets are added, by its name (it is made when it is not there) or its number."),
	{ 0 },
};
static const struct conf_type isns_type = {
	.name = "isns", .help = "Registration with an iSNS name server (RFC 4171).", .bytes = sizeof(struct conf_isns),
	.fields = isns_fields, .brief = "server",
};

/* --- block stacks ------------------------------------------------------------------------------------- */

static int unknown_driver(const char *name, bool filter, struct err *e)
{
	char known[200] = "";

	for (unsigned i = 0; blk_registry[i]; i++) {
		size_t at = strlen(known);
		if (blk_registry[i]->filter != filter)
			continue;
		snprintf(known + at, sizeof(known) - at, "%s%s", at ? ", " : "", blk_registry[i]->name);
	}
	return err_set(e, -EINVAL, "'%.64s' is none of %s", name, known);
}

static int node_choose(struct conf_node *n, const char *value, bool filter, struct err *e)
{
	const struct blk_ops *ops = blk_find(value);

	if (!ops || ops->filter != filter)
		return unknown_driver(value, filter, e);
	n->ops = ops;
	n->conf = calloc(1, n->ops->conf_bytes ? n->ops->conf_bytes : 1);
	if (!n->conf)
		return err_set(e, -ENOMEM, "out of memory");
	return schema_defaults(n->ops->config, n->conf, e);
}

static void node_fini(struct conf_node *n)
{
	free(n->conf); /* its text was freed as a section */
	n->conf = NULL;
	n->ops = NULL;
}

static const struct conf_field filter_fields[] = {
	{ .name = "type", .kind = CONF_TEXT, .at = offsetof(struct conf_node, type),
	  .flags = CONF_REQUIRED, .help = "Name of the filter." },
	{ 0 },
};

static unsigned filter_sections(void *obj, struct conf_section out[CONF_SECTIONS])
{
	struct conf_node *n = obj;

	out[0] = (struct conf_section){ filter_fields, n };
	if (!n->conf)
		return 1;
	out[1] = (struct conf_section){ n->ops->config, n->conf };
	return 2;
}

static int filter_choose(void *obj, const char *value, struct err *e)
{
	return node_choose(obj, value, true, e);
}

static void filter_fini(void *obj)
{
	node_fini(obj);
}

static const struct conf_type filter_type = {
	.name = "filter", .help = "A layer between the logical unit and its driver.", .bytes = sizeof(struct conf_node),
	.fields = filter_fields, .select = true, .sections = filter_sections, .choose = filter_choose,
	.fini = filter_fini,
};

static const struct conf_field volume_fields[] = {
	{ .name = "type", .kind = CONF_TEXT, .at = offsetof(struct conf_volume, node.type), .flags = CONF_REQUIRED,
	  .help = "Kind of disk: the name of a block driver." },
	FIELD(conf_volume, identity, "identity", CONF_TEXT, NULL, NULL, NULL,
		"Name under which the identity of the disk is kept; change the volume's name and keep this, and "
		"initiators see the same disk."),
	FIELD(conf_volume, required, "required", CONF_BOOL, "off", NULL, NULL,
		"At start a failure to open it ends the program; otherwise its LUN is not ready until it appears."),
	{ 0 },
};
static const struct conf_link volume_links[] = {
	{ "filters", CONF_ARRAY, offsetof(struct conf_volume, filters), &filter_type,
	  "Layers over the driver, the lowest first." },
	{ 0 },
};

static unsigned volume_sections(void *obj, struct conf_section out[CONF_SECTIONS])
{
	struct conf_volume *v = obj;

	out[0] = (struct conf_section){ volume_fields, v };
	out[1] = (struct conf_section){ lu_conf_fields, &v->lu };
	if (!v->node.conf)
		return 2;
	out[2] = (struct conf_section){ v->node.ops->config, v->node.conf };
	return 3;
}

static int volume_choose(void *obj, const char *value, struct err *e)
{
	struct conf_volume *v = obj;
	int r = schema_defaults(lu_conf_fields, &v->lu, e);

	return r < 0 ? r : node_choose(&v->node, value, false, e);
}

static void volume_fini(void *obj)
{
	node_fini(&((struct conf_volume *)obj)->node);
}

const struct conf_type conf_volume_type = {
	.name = "volume", .help = "A disk: a driver, its options, and how it shows itself to initiators.",
	.bytes = sizeof(struct conf_volume), .fields = volume_fields, .links = volume_links, .select = true,
	.sections = volume_sections, .choose = volume_choose, .fini = volume_fini,
};

/* --- targets ------------------------------------------------------------------------------------------ */

const char *const conf_access_names[] = { "optimized", "non-optimized", "standby", "unavailable", "offline", NULL };
static const struct conf_field path_fields[] = {
	{ .name = "access", .kind = CONF_ENUM, .at = offsetof(struct conf_path, access), .dflt = "optimized",
	  .choices = conf_access_names, .help = "What may be done through this portal group (SPC-4 5.16.2.4)." },
	FIELD(conf_path, preferred, "preferred", CONF_BOOL, "off", NULL, NULL,
		"Initiators that may choose should take this portal group."),
	{ 0 },
};
static const struct conf_type path_type = {
	.name = "path", .help = "How a portal group reaches a disk; may be changed while it runs by lunette paths.",
	.bytes = sizeof(struct conf_path), .fields = path_fields, .brief = "access",
};

static const struct conf_field lun_fields[] = {
	{ .name = "volume", .kind = CONF_TEXT, .flags = CONF_REQUIRED, .at = offsetof(struct conf_lun, volume),
	  .help = "Name of the volume." },
	FIELD(conf_lun, reuse, "reuse", CONF_BOOL, "off", NULL, NULL,
		"Take the number even if it was another disk's until lately (lun-rest): no initiator has it in use."),
	{ 0 },
};
static const struct conf_link lun_links[] = {
	{ "paths", CONF_MAP, offsetof(struct conf_lun, paths), &path_type,
	  "By portal group tag: this LUN's access, in place of its target's." },
	{ 0 },
};
static const struct conf_type lun_type = {
	.name = "lun", .help = "A logical unit number and the volume behind it.", .bytes = sizeof(struct conf_lun),
	.fields = lun_fields, .links = lun_links, .brief = "volume",
};

static const char *const alua_choices[] = { "off", "implicit", "explicit", "both", NULL };
static const char *const digest_choices[] = { "allow", "require", "off", NULL };
static const char *const balance_choices[] = { "none", "least-sessions", NULL }; /* enum net_balance */
static const struct conf_field target_fields[] = {
	FIELD(conf_target, alias, "alias", CONF_TEXT, NULL, NULL, NULL, "A name for people, told at login."),
	FIELD(conf_target, mutual, "mutual", CONF_TEXT, NULL, NULL, NULL,
		"User whose secret proves the target to initiators (mutual CHAP)."),
	FIELD(conf_target, require_mutual, "require-mutual", CONF_BOOL, "off", NULL, NULL,
		"Refuse initiators that do not ask the target to prove itself."),
	FIELD(conf_target, open, "open", CONF_BOOL, "off", NULL, NULL,
		"Serve without users on addresses that other machines reach."),
	FIELD(conf_target, redirect, "redirect", CONF_TEXT, NULL, NULL, NULL,
		"Answer logins with \"target moved\" and this address."),
	FIELD(conf_target, redirect_permanent, "redirect-permanent", CONF_BOOL, "off", NULL, NULL,
		"The move is for good: initiators may remember the new address."),
	CHOICE(conf_target, balance, "redirect-policy", "none", balance_choices,
		"Send a login that begins a session to the target's portal with the fewest sessions, by \"target moved\"."),
	CHOICE(conf_target, header_digest, "header-digest", "allow", digest_choices,
		"CRC32C over headers: as the initiator wishes, required, or refused."),
	CHOICE(conf_target, data_digest, "data-digest", "allow", digest_choices,
		"CRC32C over data: as the initiator wishes, required, or refused."),
	FIELD(conf_target, max_recv_segment, "max-recv-segment", CONF_BYTES, NULL, "512", "1MiB",
		"Most data in one PDU that the target receives, in bytes."),
	FIELD(conf_target, first_burst, "first-burst", CONF_BYTES, NULL, "512", "16777215",
		"Most unsolicited data of one command, in bytes."),
	FIELD(conf_target, max_burst, "max-burst", CONF_BYTES, NULL, "512", "16777215",
		"Most data of one solicited sequence, in bytes."),
	FIELD(conf_target, max_r2t, "max-r2t", CONF_UINT, NULL, "1", "32", "Outstanding R2Ts of one command."),
	FIELD(conf_target, max_connections, "max-connections", CONF_UINT, "8", "1", "32", "Connections of one session."),
	FIELD(conf_target, erl, "error-recovery-level", CONF_UINT, "0", NULL, "2",
		"Highest ErrorRecoveryLevel: 1 recovers damaged and lost PDUs, 2 also lost connections."),
	FIELD(conf_target, time2retain_ns, "time-to-retain", CONF_TIME, "20s", NULL, "3600s",
		"How long tasks of a lost connection are kept at level 2, if the initiator agrees."),
	FIELD(conf_target, initial_r2t, "initial-r2t", CONF_BOOL, "off", NULL, NULL,
		"Ask initiators not to send unsolicited data."),
	FIELD(conf_target, immediate_data, "immediate-data", CONF_BOOL, "on", NULL, NULL,
		"Accept data with the command."),
	CHOICE(conf_target, alua, "alua", "implicit", alua_choices,
		"Whether initiators hear which portal group to use (asymmetric access), and may change it (explicit, both)."),
	FIELD(conf_target, alua_transition_ns, "alua-transition", CONF_TIME, "20s", NULL, "255s",
		"How long a change of access may take, while commands under way end, and how long initiators should wait for it; "
		"0s: as long as it takes."),
	{ 0 },
};
static const struct conf_link target_links[] = {
	{ "luns", CONF_MAP, offsetof(struct conf_target, luns), &lun_type, "Logical unit numbers from 0 to 16383." },
	{ "users", CONF_NAMES, offsetof(struct conf_target, users), NULL, "Users that may log in; none means no CHAP." },
	{ "groups", CONF_NAMES, offsetof(struct conf_target, groups), NULL,
	  "Portal groups through which the target is reached; none means all." },
	{ "paths", CONF_MAP, offsetof(struct conf_target, paths), &path_type,
	  "By portal group tag: access to the LUNs through it; tags of another server of the same target may be named too." },
	{ "initiators", CONF_NAMES, offsetof(struct conf_target, initiators), NULL,
	  "Names of initiators that may log in, or the beginning of names and a star; none means all." },
	{ "clients", CONF_NAMES, offsetof(struct conf_target, clients), NULL,
	  "Addresses from which initiators may log in, such as 192.0.2.0/24 or 2001:db8::1; none means all." },
	{ "chap", CONF_NAMES, offsetof(struct conf_target, chap), NULL,
	  "CHAP algorithms: md5, sha1, sha256, sha3-256; none means all." },
	{ 0 },
};
static const struct conf_type target_type = {
	.name = "target", .help = "An iSCSI target.", .bytes = sizeof(struct conf_target), .fields = target_fields,
	.links = target_links,
};

/* --- root --------------------------------------------------------------------------------------------- */

static const struct conf_field root_fields[] = { { 0 } };
static const struct conf_link root_links[] = {
	{ "server", CONF_ONE, offsetof(struct conf, server), &server_type, "The process itself." },
	{ "portals", CONF_ARRAY, offsetof(struct conf, portals), &portal_type, "Addresses that listen." },
	{ "users", CONF_MAP, offsetof(struct conf, users), &user_type, "CHAP names and secrets." },
	{ "discovery", CONF_ONE, offsetof(struct conf, discovery), &discovery_type,
	  "Who may ask for the list of targets." },
	{ "isns", CONF_ONE, offsetof(struct conf, isns), &isns_type, "Registration with an iSNS name server." },
	{ "volumes", CONF_MAP, offsetof(struct conf, volumes), &conf_volume_type, "Disks." },
	{ "targets", CONF_MAP, offsetof(struct conf, targets), &target_type, "iSCSI targets by name." },
	{ 0 },
};
const struct conf_type conf_root_type = {
	.name = "configuration", .help = "Desired state of lunetted.", .bytes = sizeof(struct conf),
	.fields = root_fields, .links = root_links,
};
