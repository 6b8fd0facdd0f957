/* SPDX-License-Identifier: BSD-3-Clause
 * lunette attach and detach: a LUN as a disk of this machine's kernel, by the system's open-iscsi (iscsiadm, iscsid). */
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lunette/cli.h"
#include "net/url.h"

enum { WAIT_STEP_NS = 50000000, WAIT_STEPS = 300, ARGS_MAX = 16 };
/* iscsiadm(8), EXIT STATUS */
enum { ADM_DATABASE = 6, ADM_ACCESS = 13, ADM_EXISTS = 15, ADM_NO_DAEMON = 20, ADM_NONE = 21, ADM_AUTH = 24 };

extern char **environ;

/* What its exit statuses mean to whoever called us. */
static const struct { int status, code; const char *text; } words[] = {
	{ 4, -EHOSTUNREACH, "cannot connect; does a target listen there?" },
	{ 5, -EACCES, "the target refused the login; lunette ls tells why" },
	{ 8, -ETIMEDOUT, "the target does not answer" },
	{ ADM_ACCESS, -EACCES, "only root may attach disks: use sudo" },
	{ 19, -EACCES, "the target refused the login; lunette ls tells why" },
	{ 18, -ENOENT, "iscsid does not answer; systemctl restart iscsid" },
	{ ADM_NO_DAEMON, -ENOENT, "iscsid does not run; systemctl start iscsid (Debian: package open-iscsi)" },
	{ ADM_NONE, -ENOENT, "no such session; iscsiadm -m session lists those that there are" },
	{ ADM_AUTH, -EACCES, "the target refused the user or the secret; give them as iscsi://user%secret@host/..." },
	{ 127, -ENOENT, "iscsiadm is not there; install open-iscsi (Debian: apt install open-iscsi)" },
};

static int explain(int status, const struct url *u, struct err *e)
{
	if (status == ADM_DATABASE && geteuid())
		status = ADM_ACCESS; /* what its lock file is to others */
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (words[i].status == status)
			return err_set(e, words[i].code, "%s: %s", u->host, words[i].text);
	return err_set(e, -EIO, "%s: iscsiadm ended with %d; its own words are above", u->host, status);
}

/* Runs iscsiadm -m node -T .. -p .. and these; returns its exit status, 127: it is not there. What it says goes to standard
 * error: standard output is ours. */
static int adm(const struct url *u, const char *const *more)
{
	char portal[300], target[LIM_ISCSI_NAME + 1];
	const char *argv[ARGS_MAX] = { "iscsiadm", "-m", "node", "-T", target, "-p", portal };
	posix_spawn_file_actions_t fa;
	unsigned n = 7;
	pid_t pid;
	int status;

	snprintf(portal, sizeof(portal), strchr(u->host, ':') ? "[%s]:%s" : "%s:%s", u->host, u->port);
	snprintf(target, sizeof(target), "%s", u->target);
	while (*more && n < ARGS_MAX - 1)
		argv[n++] = *more++;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, 2, 1);
	int r = posix_spawnp(&pid, argv[0], &fa, NULL, (char **)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	if (r)
		return 127;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int set(const struct url *u, const char *name, const char *value)
{
	const char *more[] = { "-o", "update", "-n", name, "-v", value, NULL };

	return *value ? adm(u, more) : 0;
}

static int settings(const struct url *u)
{
	const struct { const char *name, *value; } rows[] = {
		{ "node.session.auth.authmethod", *u->user ? "CHAP" : "" },
		{ "node.session.auth.username", u->user },
		{ "node.session.auth.password", u->secret },
		{ "node.session.auth.username_in", u->target_user },
		{ "node.session.auth.password_in", u->target_secret },
		{ "node.conn[0].iscsi.HeaderDigest", u->header_digest ? "CRC32C" : "" },
		{ "node.conn[0].iscsi.DataDigest", u->data_digest ? "CRC32C" : "" },
	};
	int status = 0;

	for (unsigned i = 0; !status && i < sizeof(rows) / sizeof(rows[0]); i++)
		status = set(u, rows[i].name, rows[i].value);
	return status;
}

/* udev names the disk when the kernel has looked at it. */
static int find_disk(const struct url *u, char disk[PATH_MAX], struct err *e)
{
	const struct timespec step = { .tv_nsec = WAIT_STEP_NS };
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/dev/disk/by-path/ip-%s:%s-iscsi-%s-lun-%u", u->host, u->port, u->target, u->lun);
	for (unsigned i = 0; i < WAIT_STEPS; i++) {
		if (realpath(path, disk))
			return 0;
		nanosleep(&step, NULL);
	}
	return err_set(e, -ENOENT, "logged in, but the kernel shows no LUN %u; lunette ls %s lists those that there are", u->lun,
		u->host);
}

static int attach(const struct url *u, bool wait, char disk[PATH_MAX], struct err *e)
{
	static const char *const make[] = { "-o", "new", NULL }, *const login[] = { "--login", NULL };
	int status = adm(u, make);

	status = status ? status : settings(u);
	status = status ? status : adm(u, login);
	if (status && status != ADM_EXISTS)
		return explain(status, u, e);
	return wait ? find_disk(u, disk, e) : 0;
}

static int detach(const struct url *u, struct err *e)
{
	static const char *const logout[] = { "--logout", NULL }, *const forget[] = { "-o", "delete", NULL };
	int status = adm(u, logout);

	if (status && status != ADM_NONE)
		return explain(status, u, e);
	int gone = adm(u, forget);
	return status ? explain(status, u, e) : gone && gone != ADM_NONE ? explain(gone, u, e) : 0;
}

static int parse(struct url *u, int argc, char **argv, struct err *e)
{
	if (argc != 2)
		return err_set(e, -EINVAL, "usage: lunette %s iscsi://HOST/IQN[/LUN]", argv[0]);
	int r = url_parse(u, argv[1], e);
	if (!r && !*u->target)
		r = err_set(e, -EINVAL, "the URL names no target; lunette ls %s lists them", u->host);
	return r;
}

static int end(const struct err *e)
{
	char buf[600];

	fprintf(stderr, "lunette: %s\n", err_str(e, buf, sizeof(buf)));
	switch (e->code) {
	case -EINVAL: return CLI_USAGE;
	case -EACCES: return CLI_DENIED;
	case -ENOENT: return CLI_NOT_FOUND;
	case -EHOSTUNREACH: case -ETIMEDOUT: return CLI_UNREACHABLE;
	default: return CLI_FAILED;
	}
}

int cmd_attach(struct cli *c, int argc, char **argv)
{
	char disk[PATH_MAX] = "";
	struct err e = { 0 };
	struct url u;

	if (parse(&u, argc, argv, &e) || attach(&u, !c->no_wait, disk, &e))
		return end(&e);
	if (c->json)
		printf("{\n  \"disk\": \"%s\"\n}\n", disk);
	else if (*disk)
		printf("%s\n", disk);
	return CLI_OK;
}

int cmd_detach(struct cli *c, int argc, char **argv)
{
	struct err e = { 0 };
	struct url u;

	return parse(&u, argc, argv, &e) || detach(&u, &e) ? end(&e) : CLI_OK;
}
