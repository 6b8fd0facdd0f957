/* SPDX-License-Identifier: BSD-3-Clause
 * The desired state: a typed tree of portals, users, volumes, targets. A configuration file, the command line's
 * flags and (later) REST requests are views of it. Tables say what every object may contain (types.c); one
 * walker parses, frees, serializes and describes it as JSON Schema (tree.c). Pure functions: no files, no time.
 *
 * Used by the daemon on its control thread, by tests and by the fuzzer. Whoever parses a tree owns it. */
#ifndef LUNETTE_CONF_TREE_H
#define LUNETTE_CONF_TREE_H

#include <jansson.h>

#include "base/schema.h"
#include "iscsi/login.h"
#include "scsi/alua.h"
#include "scsi/lu.h"

/* --- how objects are described ------------------------------------------------------------------------ */

struct conf_list { void *items; unsigned n; }; /* objects of one type, or char * */

enum conf_link_kind {
	CONF_ONE,   /* the object itself lies at `at` */
	CONF_ARRAY, /* conf_list of objects; paths say the index from 0 */
	CONF_MAP,   /* conf_list of objects that begin with char *name, in conf_name_order() */
	CONF_NAMES, /* conf_list of char * */
};

struct conf_type;
struct conf_link {
	const char *name;            /* NULL ends a table */
	enum conf_link_kind kind;
	uint16_t at;
	const struct conf_type *type; /* NULL for CONF_NAMES */
	const char *help;
};

struct conf_section { const struct conf_field *fields; void *base; };
enum { CONF_SECTIONS = 3 };

struct conf_type {
	const char *name, *help;
	size_t bytes;
	const struct conf_field *fields;
	const struct conf_link *links;
	const char *brief; /* a plain text in the object's place sets this option; NULL = not allowed */
	bool select;       /* option "type" names a block driver that brings further options */
	/* Options with their place, several tables when select is set; NULL: fields alone. */
	unsigned (*sections)(void *obj, struct conf_section out[CONF_SECTIONS]);
	int  (*choose)(void *obj, const char *value, struct err *e);
	void (*fini)(void *obj); /* frees what choose() made */
};

/* --- the objects -------------------------------------------------------------------------------------- */

enum conf_loop { CONF_LOOP_AUTO, CONF_LOOP_URING, CONF_LOOP_EPOLL };

struct conf_server {
	uint64_t cores; /* 0 = one per CPU that the process may use */
	uint64_t loop;  /* enum conf_loop */
	char *state, *socket;
	uint64_t lun_rest_ns;
	uint64_t max_connections, max_per_client; /* 0 = by the limit of open files; half of that */
	uint64_t login_delay_ns;
};

struct conf_portal {
	char *listen, *advertise;
	uint64_t group; /* portal group tag */
	char *redirect; /* address told instead of a login, or NULL */
	bool redirect_permanent;
};

struct conf_user {
	char *name, *secret;          /* secret: the value, or @FILE until conf_secrets() */
	char *previous, *until;       /* secret that is being replaced, likewise, and its end as text */
};

/* A node of a block stack as the file says it: a driver's or a filter's options. */
struct conf_node {
	char *type;
	const struct blk_ops *ops;
	void *conf; /* ops->conf_bytes */
};

struct conf_volume {
	char *name;
	struct conf_node node;
	char *identity; /* key of the identity in the state directory; NULL = name */
	bool required;  /* failing to open it at start ends the program */
	struct lu_conf lu;
	struct conf_list filters; /* struct conf_node, from the driver upwards */
};

enum conf_digest { CONF_DIGEST_ALLOW, CONF_DIGEST_REQUIRE, CONF_DIGEST_OFF };

struct conf_path { char *name; uint64_t access; bool preferred; }; /* name: portal group tag; access: conf_access() */

struct conf_lun {
	char *name; /* the number in decimal */
	char *volume;
	bool reuse; /* the number may have been another disk's a moment ago */
	struct conf_list paths; /* struct conf_path: this LUN's, in place of its target's */
};

struct conf_target {
	char *name, *alias;
	struct conf_list luns;   /* struct conf_lun */
	struct conf_list users;  /* char *: names of users that may log in */
	struct conf_list groups; /* char *: portal group tags; none = all */
	char *mutual;            /* user whose secret proves the target to the initiator */
	bool require_mutual, open;
	char *redirect;          /* address told instead of a login, or NULL */
	bool redirect_permanent;
	uint64_t balance;        /* enum net_balance */
	struct conf_list initiators, clients; /* char *: who may log in; none = all */
	uint64_t header_digest, data_digest; /* enum conf_digest */
	uint64_t max_recv_segment, first_burst, max_burst, max_r2t; /* 0 = default */
	uint64_t max_connections, erl, time2retain_ns;
	bool initial_r2t, immediate_data;
	struct conf_list chap;   /* char *: algorithms; none = all */
	uint64_t alua;           /* INQUIRY TPGS: bit 0 implicit, bit 1 explicit */
	uint64_t alua_transition_ns;
	struct conf_list paths;  /* struct conf_path */
};

struct conf_isns {
	char *server, *entity, *domain; /* server NULL: not used */
};

struct conf_discovery {
	struct conf_list users;
	char *mutual;
};

struct conf {
	struct conf_server server;
	struct conf_discovery discovery;
	struct conf_isns isns;
	struct conf_list portals, users, volumes, targets;
};

extern const struct conf_type conf_root_type, conf_volume_type;

/* --- the walker --------------------------------------------------------------------------------------- */

/* Parses an object of this type; on failure nothing is left to free and the error has the path. */
int  conf_parse(const struct conf_type *type, void *obj, const json_t *json, struct err *e);
void conf_free(const struct conf_type *type, void *obj);
/* What differs from the defaults. secrets false: "(set)" in place of each secret. NULL: out of memory. */
json_t *conf_to_json(const struct conf_type *type, void *obj, bool secrets);
bool conf_equal(const struct conf_type *type, void *a, void *b);
/* JSON Schema (2020-12) of a configuration file. */
json_t *conf_json_schema(void);

/* For qsort and bsearch over objects that begin with their name: numbers by value, then texts. */
int  conf_name_order(const void *a, const void *b);

/* Rules that need the whole tree: references, numbers, names, secrets, open portals. Normalizes the names of targets
 * and gives each portal's address its port. */
int  conf_validate(struct conf *c, struct err *e);
/* An element by name, of a valid tree; NULL when there is none. */
struct conf_volume *conf_volume(const struct conf *c, const char *name);
struct conf_target *conf_target(const struct conf *c, const char *name);
struct conf_user *conf_user(const struct conf *c, const char *name);
/* previous-until in seconds since 1970 (UTC), 0 = not given; -EINVAL. */
int conf_until(const struct conf_user *u, int64_t *ret_s);
/* "127.0.0.1:3260", "[::1]", "localhost": reachable from this machine only. */
bool conf_is_loopback(const char *listen);
/* Mask of 1 << enum for the algorithms a target or discovery accepts. */
unsigned conf_chap_mask(const struct conf_list *algorithms);
void conf_offer(const struct conf_target *t, struct iscsi_offer *o);
/* The target port groups of a target: its portals' tags and those that its paths name. */
void conf_ports(const struct conf *c, const struct conf_target *t, struct scsi_ports *ports);
/* The access states of a LUN; returns how many. */
unsigned conf_paths(const struct conf_target *t, const struct conf_lun *l, struct alua_change out[LIM_PORTALS]);
/* Part of conf_validate(): a disk that two targets export has the same access by tag in both; not too many tags. */
int  conf_check_paths(const struct conf *c, struct err *e);
/* Names of access states, NULL-ended, and what each stands for. */
extern const char *const conf_access_names[];
uint8_t conf_access(uint64_t choice);
const char *conf_access_name(uint8_t access);

#endif
