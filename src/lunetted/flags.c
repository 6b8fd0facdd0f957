/* SPDX-License-Identifier: BSD-3-Clause */
#include "lunetted/flags.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "conf/text.h"
#include "conf/tree.h"

enum { SECRET_CHARS = 16 }; /* Windows takes 12 to 16; RFC 7143 9.2.1 wants 96 bits */

/* --- pieces of the tree ------------------------------------------------------------------------------- */

/* The map or list of that name in parent, made when absent. */
static json_t *member(json_t *parent, const char *name, bool list)
{
	json_t *v = json_object_get(parent, name);

	if (!v) {
		json_object_set_new(parent, name, list ? json_array() : json_object());
		v = json_object_get(parent, name);
	}
	return v;
}

static int set_text(json_t *map, const char *name, const char *value, struct err *e)
{
	if (json_object_set_new(map, name, json_string(value)) < 0)
		return err_set(e, -EINVAL, "is not UTF-8");
	return 0;
}

static int keep(char **at, const char *value, struct err *e)
{
	if (*at)
		return err_set(e, -EINVAL, "is given twice");
	*at = strdup(value);
	return *at ? 0 : err_set(e, -ENOMEM, "out of memory");
}

/* --- disks -------------------------------------------------------------------------------------------- */

/* Adds "a=b,c,..." to map; ",," is a literal comma, "name" alone is "name=on". */
static int add_options(json_t *map, const char *list, struct err *e)
{
	char item[PATH_MAX + 64];

	while (*list) {
		size_t n = 0;
		for (; *list && !(list[0] == ',' && list[1] != ','); list++) {
			list += *list == ',';
			if (n + 1 >= sizeof(item))
				return err_set(e, -EINVAL, "an option is too long");
			item[n++] = *list;
		}
		item[n] = 0;
		list += *list == ',';
		char *eq = strchr(item, '=');
		if (eq)
			*eq = 0;
		if (!item[0])
			return err_set(e, -EINVAL, "an option is empty: remove a comma");
		if (json_object_get(map, item))
			return err_at(e, -EINVAL, item, "is given twice");
		int r = set_text(map, item, eq ? eq + 1 : "on", e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Identities go by name: a file's is its full path, so that another file on another day is another disk. */
static int add_identity(json_t *volume, const char *path, struct err *e)
{
	char full[PATH_MAX + 2], cwd[PATH_MAX];

	if (realpath(path, full))
		return set_text(volume, "identity", full, e);
	if (path[0] == '/' || !getcwd(cwd, sizeof(cwd)))
		return set_text(volume, "identity", path, e);
	if ((size_t)snprintf(full, sizeof(full), "%s/%s", cwd, path) >= sizeof(full))
		return err_set(e, -EINVAL, "the path is too long");
	return set_text(volume, "identity", full, e);
}

/* Parses the volume alone so that a mistake is named at once, and by its option. */
static int check_volume(json_t *volume, struct err *e)
{
	struct conf_volume v;
	int r = conf_parse(&conf_volume_type, &v, volume, e);

	if (r < 0) {
		e->code = -EINVAL;
		return -EINVAL;
	}
	r = lu_conf_check(&v.lu, e);
	conf_free(&conf_volume_type, &v);
	return r;
}

static int add_disk(struct flags *f, const char *type, const char *first, const char *value, struct err *e)
{
	json_t *volume = json_object();
	char name[16], head[PATH_MAX];
	size_t n = 0;

	while (*value && !(value[0] == ',' && value[1] != ',')) {
		value += *value == ',';
		if (n + 1 >= sizeof(head)) {
			json_decref(volume);
			return err_set(e, -EINVAL, "is too long");
		}
		head[n++] = *value++;
	}
	head[n] = 0;
	int r = set_text(volume, "type", type, e);
	if (r == 0)
		r = set_text(volume, first, head, e);
	if (r == 0)
		r = set_text(volume, "required", "on", e);
	if (r == 0)
		r = add_options(volume, value + (*value == ','), e);
	if (r == 0 && strcmp(first, "path") == 0 && !json_object_get(volume, "identity"))
		r = add_identity(volume, head, e);
	if (r == 0)
		r = check_volume(volume, e);
	if (r < 0) {
		json_decref(volume);
		return r;
	}
	snprintf(name, sizeof(name), "lun%u", f->ndisks++);
	json_object_set_new(member(f->conf, "volumes", false), name, volume);
	return 0;
}

static int flag_ram(struct flags *f, const char *value, struct err *e)
{
	return add_disk(f, "ram", "size", value, e);
}

static int flag_file(struct flags *f, const char *value, struct err *e)
{
	return add_disk(f, "file", "path", value, e);
}

static int flag_block(struct flags *f, const char *value, struct err *e)
{
	return add_disk(f, "block", "path", value, e);
}

static int flag_iscsi(struct flags *f, const char *value, struct err *e)
{
	return add_disk(f, "iscsi", "url", value, e);
}

static int flag_null(struct flags *f, const char *value, struct err *e)
{
	return add_disk(f, "null", "size", value, e);
}

/* --- where and who ------------------------------------------------------------------------------------ */

static int flag_listen(struct flags *f, const char *value, struct err *e)
{
	int n = (int)strcspn(value, ",");
	char full[300];

	if (!n || n > 255)
		return err_set(e, -EINVAL, "write an address, such as 127.0.0.1:3260, [::1] or 0.0.0.0");
	/* ":3261" is another port of the default address, never an address that others reach. */
	snprintf(full, sizeof(full), "%s%.*s", value[0] == ':' ? "127.0.0.1" : "", n, value);
	json_t *portal = json_pack("{ss}", "listen", full);
	int r = portal ? add_options(portal, value + n + (value[n] == ','), e) : err_set(e, -EINVAL, "is not UTF-8");
	if (r < 0)
		json_decref(portal);
	else
		json_array_append_new(member(f->conf, "portals", true), portal);
	return r;
}

static int flag_target(struct flags *f, const char *value, struct err *e)
{
	return keep(&f->target, value, e);
}

/* USER:SECRET, @FILE with that in its first line, or USER:@FILE with the secret in its first line. */
static int add_user(struct flags *f, const char *value, char **ret_name, struct err *e)
{
	char *line = NULL;
	int r = 0;

	if (value[0] == '@')
		r = conf_first_line(value + 1, &line, e);
	else if (!(line = strdup(value)))
		r = err_set(e, -ENOMEM, "out of memory");
	if (r < 0)
		return r;
	char *colon = strchr(line, ':');
	if (!colon || colon == line || !colon[1]) {
		free(line);
		return err_set(e, -EINVAL, "write USER:SECRET, @FILE for a file that contains USER:SECRET, or USER:@FILE");
	}
	*colon = 0;
	r = keep(ret_name, line, e);
	json_t *users = member(f->conf, "users", false);
	if (r == 0 && json_object_get(users, line))
		r = err_set(e, -EINVAL, "user '%.64s' is given twice; the two directions need different users", line);
	if (r == 0 && colon[1] == '@' && value[0] == '@') /* what a file says names no other file */
		r = json_object_set_new(users, line, json_sprintf("@%s", colon + 1)) < 0 ? -EINVAL : 0;
	else if (r == 0)
		r = set_text(users, line, colon + 1, e);
	explicit_bzero(colon + 1, strlen(colon + 1));
	free(line);
	return r;
}

static int flag_chap(struct flags *f, const char *value, struct err *e)
{
	return add_user(f, value, &f->chap_user, e);
}

static int flag_mutual(struct flags *f, const char *value, struct err *e)
{
	return add_user(f, value, &f->mutual_user, e);
}

static int server_option(struct flags *f, const char *name, const char *value, struct err *e)
{
	json_t *server = member(f->conf, "server", false), *probe;
	struct conf c;

	if (json_object_get(server, name))
		return err_set(e, -EINVAL, "is given twice");
	int r = set_text(server, name, value, e);
	if (r < 0)
		return r;
	probe = json_pack("{s{sO}}", "server", name, json_object_get(server, name));
	r = conf_parse(&conf_root_type, &c, probe, e);
	json_decref(probe);
	if (r < 0) {
		e->path[0] = 0;
		return -EINVAL;
	}
	conf_free(&conf_root_type, &c);
	return 0;
}

static int flag_cores(struct flags *f, const char *value, struct err *e)
{
	return server_option(f, "cores", value, e);
}

static int flag_loop(struct flags *f, const char *value, struct err *e)
{
	return server_option(f, "loop", value, e);
}

static int flag_state(struct flags *f, const char *value, struct err *e)
{
	return server_option(f, "state", value, e);
}

static int flag_socket(struct flags *f, const char *value, struct err *e)
{
	return server_option(f, "socket", value, e);
}

static int flag_config(struct flags *f, const char *value, struct err *e)
{
	return keep(&f->config, value, e);
}

static int flag_open(struct flags *f, const char *value, struct err *e)
{
	f->open = true;
	return 0;
}

static int flag_howto(struct flags *f, const char *value, struct err *e)
{
	f->howto = true;
	return 0;
}

static int flag_check(struct flags *f, const char *value, struct err *e)
{
	f->check = true;
	return 0;
}

static int flag_schema(struct flags *f, const char *value, struct err *e)
{
	f->schema = true;
	return 0;
}

static int flag_verbose(struct flags *f, const char *value, struct err *e)
{
	f->verbose = true;
	return 0;
}

static int flag_version(struct flags *f, const char *value, struct err *e)
{
	f->version = true;
	return 0;
}

static int flag_help(struct flags *f, const char *value, struct err *e)
{
	f->help = true;
	return 0;
}

const struct flag flag_table[] = {
	{ "listen", "ADDR[:PORT][,OPT]", "Listen there; group=N, advertise=ADDR; may be repeated. Default 127.0.0.1:3260.",
	  flag_listen },
	{ "target", "IQN", "Name of the target. Default: made from the host name.", flag_target },
	{ "ram", "SIZE[,OPTION]...", "Serve a RAM disk. Each disk becomes the next LUN, from 0.", flag_ram },
	{ "file", "PATH[,size=SIZE][,OPTION]...", "Serve a file; with size= it is made when absent.", flag_file },
	{ "block", "DEV[,OPTION]...", "Serve a disk, partition or logical volume.", flag_block },
	{ "iscsi", "URL[,OPTION]...", "Serve a LUN of another iSCSI server.", flag_iscsi },
	{ "null", "SIZE[,OPTION]...", "Serve a disk that forgets what is written, for measurements.", flag_null },
	{ "chap", "USER:SECRET|@FILE", "Initiators log in by CHAP as USER.", flag_chap },
	{ "mutual", "USER:SECRET|@FILE", "The target proves itself to initiators by CHAP as USER.", flag_mutual },
	{ "open", NULL, "Serve without authentication, also to other machines.", flag_open },
	{ "cores", "N", "I/O threads, one per core. Default: one per CPU the process may use.", flag_cores },
	{ "loop", "auto|uring|epoll", "Kernel interface. Default auto: io_uring where it is allowed.", flag_loop },
	{ "config", "FILE", "Configuration in YAML or JSON, see lunetted.conf(5). SIGHUP reads it again.", flag_config },
	{ "state", "DIR", "Where identities and saved mode pages are kept.", flag_state },
	{ "socket", "PATH", "Control socket for lunette(1).", flag_socket },
	{ "howto", NULL, "Print how to connect, as is done on a terminal.", flag_howto },
	{ "check", NULL, "Check configuration and flags, then exit.", flag_check },
	{ "schema", NULL, "Print the JSON Schema of the configuration file, then exit.", flag_schema },
	{ "verbose", NULL, "Log more.", flag_verbose },
	{ "version", NULL, "Print the version, then exit.", flag_version },
	{ "help", NULL, "Print this help, then exit.", flag_help },
	{ 0 },
};

void flags_help(void)
{
	printf("Usage: lunetted [OPTION]...\nServes disks to iSCSI initiators.\n\n");
	for (const struct flag *f = flag_table; f->name; f++) {
		char left[64];
		snprintf(left, sizeof(left), "--%s%s%s", f->name, f->arg ? " " : "", f->arg ? f->arg : "");
		printf("  %-36s %s\n", left, f->help);
	}
	printf("\nDisk options:\n");
	for (const struct conf_field *f = lu_conf_fields; f->name; f++)
		printf("  %-36s %s\n", f->name, f->help);
	printf("\nExamples:\n"
	       "  lunetted --ram 1G\n"
	       "  lunetted --file /srv/disk.img,size=10G --listen 0.0.0.0 --chap alice:a-long-secret\n"
	       "  lunetted --config /etc/lunette/lunetted.yaml\n"
	       "See lunetted(8) and lunetted.conf(5).\n");
}

/* --- the command line --------------------------------------------------------------------------------- */

static const struct flag *flag_find(const char *name, size_t len)
{
	for (const struct flag *f = flag_table; f->name; f++)
		if (strlen(f->name) == len && strncmp(f->name, name, len) == 0)
			return f;
	return NULL;
}

static bool is_secret(const struct flag *flag)
{
	return flag->set == flag_chap || flag->set == flag_mutual;
}

/* Wrong usage names the flag and, but for secrets, what was given. */
static int usage(const struct flag *flag, const char *value, int r, struct err *e)
{
	char text[ERR_TEXT_MAX + ERR_PATH_MAX];

	err_str(e, text, sizeof(text));
	if (value && !is_secret(flag))
		return err_set(e, r, "--%s %.100s: %.330s", flag->name, value, text);
	return err_set(e, r, "--%s: %.400s", flag->name, text);
}

static int parse_one(struct flags *f, int *i, int argc, char **argv, struct err *e)
{
	const char *arg = argv[*i], *value = NULL;

	if (strcmp(arg, "-h") == 0)
		arg = "--help";
	if (strncmp(arg, "--", 2) != 0 || !arg[2])
		return err_set(e, -EINVAL, "'%.100s' is not understood; see lunetted --help", arg);
	arg += 2;
	const char *eq = strchr(arg, '=');
	const struct flag *flag = flag_find(arg, eq ? (size_t)(eq - arg) : strlen(arg));
	if (!flag)
		return err_set(e, -EINVAL, "there is no option --%.64s; see lunetted --help", arg);
	if (flag->arg) {
		value = eq ? eq + 1 : *i + 1 < argc ? argv[++*i] : NULL;
		if (!value)
			return err_set(e, -EINVAL, "--%s needs a value: %s", flag->name, flag->arg);
	} else if (eq) {
		return err_set(e, -EINVAL, "--%s takes no value", flag->name);
	}
	int r = flag->set(f, value, e);
	if (is_secret(flag)) /* out of sight of ps(1) */
		memset(argv[*i] + (value - argv[*i]), 'x', strlen(value));
	return r < 0 ? usage(flag, value, r, e) : 0;
}

void flags_default_target(char *out, size_t len)
{
	char host[200] = "";
	size_t n = 0;

	if (gethostname(host, sizeof(host) - 1) < 0 || !host[0])
		snprintf(host, sizeof(host), "localhost");
	for (char *p = host; *p; p++) {
		unsigned char c = (unsigned char)tolower((unsigned char)*p);
		host[n++] = isalnum(c) || c == '.' || c == '-' ? (char)c : '-';
	}
	snprintf(out, len, "iqn.2026-11.io.lunette:%s", host);
}

/* The target that the flags' disks, users and name describe. */
static void add_target(struct flags *f)
{
	char name[LIM_ISCSI_NAME + 8], key[16], vol[16];

	if (!f->ndisks && !f->target)
		return;
	flags_default_target(name, sizeof(name));
	json_t *t = member(member(f->conf, "targets", false), f->target ? f->target : name, false);
	for (unsigned i = 0; i < f->ndisks; i++) {
		snprintf(key, sizeof(key), "%u", i);
		snprintf(vol, sizeof(vol), "lun%u", i);
		json_object_set_new(member(t, "luns", false), key, json_pack("{sssb}", "volume", vol, "reuse", 1));
	}
	if (f->chap_user)
		json_object_set_new(t, "users", json_pack("[s]", f->chap_user));
	if (f->mutual_user)
		json_object_set_new(t, "mutual", json_string(f->mutual_user));
	if (f->open)
		json_object_set_new(t, "open", json_true());
}

static int check_together(struct flags *f, struct err *e)
{
	if (f->mutual_user && !f->chap_user)
		return err_set(e, -EINVAL, "--mutual needs --chap too: the initiator proves itself first");
	if (f->open && f->chap_user)
		return err_set(e, -EINVAL, "--open and --chap contradict each other; give one");
	if (!f->config && !f->ndisks)
		return err_set(e, -EINVAL, "there is nothing to serve; give for example --ram 1G, --file PATH,size=10G "
			"or --config FILE; see lunetted --help");
	if (f->config && !f->ndisks && (f->chap_user || f->open || f->target))
		return err_set(e, -EINVAL, "--target, --chap and --open tell of the disks on the command line, and there "
			"are none; write them in the file instead");
	return 0;
}

int flags_parse(struct flags *f, int argc, char **argv, struct err *e)
{
	memset(f, 0, sizeof(*f));
	f->conf = json_object();
	for (int i = 1; i < argc; i++) {
		int r = parse_one(f, &i, argc, argv, e);
		if (r < 0)
			return r;
	}
	if (f->help || f->version || f->schema)
		return 0;
	int r = check_together(f, e);
	if (r == 0)
		add_target(f);
	return r;
}

static void free_secret(char *s)
{
	if (s)
		explicit_bzero(s, strlen(s));
	free(s);
}

void flags_free(struct flags *f)
{
	json_decref(f->conf);
	free(f->config);
	free_secret(f->generated);
	free(f->target);
	free(f->chap_user);
	free(f->mutual_user);
	memset(f, 0, sizeof(*f));
}

/* --- loading ------------------------------------------------------------------------------------------ */

static int make_secret(char **ret, struct err *e)
{
	/* 32 letters and digits that are not mistaken for each other: 5 bits each, 80 bits in all. */
	static const char set[] = "abcdefghjkmnpqrstuvwxyz23456789A";
	uint8_t r[SECRET_CHARS];
	char *s = calloc(1, SECRET_CHARS + 1);

	if (!s || getrandom(r, sizeof(r), 0) != sizeof(r)) {
		free(s);
		return err_set(e, -EIO, "no random numbers");
	}
	for (unsigned i = 0; i < SECRET_CHARS; i++)
		s[i] = set[r[i] % 32];
	*ret = s;
	return 0;
}

static bool listens_far(json_t *doc)
{
	json_t *p;
	size_t i;

	json_array_foreach(json_object_get(doc, "portals"), i, p) {
		const char *listen = json_is_string(p) ? json_string_value(p) :
				json_string_value(json_object_get(p, "listen"));
		if (listen && !conf_is_loopback(listen))
			return true;
	}
	return false;
}

/* Disks of the command line that others can reach, and no word about who may: a secret is made. */
static int protect(struct flags *f, json_t *doc, struct err *e)
{
	if (!f->ndisks || f->chap_user || f->open || !listens_far(doc))
		return 0;
	int r = f->generated ? 0 : make_secret(&f->generated, e);
	if (r < 0)
		return r;
	char name[LIM_ISCSI_NAME + 8];
	flags_default_target(name, sizeof(name));
	json_t *t = member(member(doc, "targets", false), f->target ? f->target : name, false);
	json_object_set_new(t, "users", json_pack("[s]", "lunette"));
	json_object_set_new(member(doc, "users", false), "lunette", json_string(f->generated));
	return 0;
}

static int merge(struct flags *f, json_t **ret, struct err *e)
{
	json_t *doc = NULL;
	int r = f->config ? conf_text_file(f->config, &doc, e) : 0;

	if (r < 0)
		return r;
	if (doc && !json_is_object(doc)) {
		json_decref(doc);
		return err_at(e, -EINVAL, f->config, "must be a map of options");
	}
	if (!doc)
		doc = json_object();
	json_t *mine = json_deep_copy(f->conf);
	json_object_update_recursive(doc, mine);
	json_decref(mine);
	if (!json_object_get(doc, "portals"))
		json_object_set_new(doc, "portals", json_pack("[s]", "127.0.0.1:3260"));
	r = protect(f, doc, e);
	if (r < 0) {
		json_decref(doc);
		return r;
	}
	*ret = doc;
	return 0;
}

int flags_load(struct flags *f, struct conf *ret, struct err *e)
{
	json_t *doc = NULL;
	int r = merge(f, &doc, e);

	if (r < 0)
		return r;
	r = conf_parse(&conf_root_type, ret, doc, e);
	json_decref(doc);
	if (r < 0)
		return r;
	r = conf_secrets(ret, e);
	if (r == 0)
		r = conf_validate(ret, e);
	if (r < 0)
		conf_free(&conf_root_type, ret);
	return r;
}
