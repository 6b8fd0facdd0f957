/* SPDX-License-Identifier: BSD-3-Clause
 * lunetted's command line: what it means, which mistakes are wrong usage, and that it says nothing a file cannot. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/check.h"
#include "conf/tree.h"
#include "lunetted/flags.h"

enum { WORDS = 24 };

/* Splits at blanks; parses; returns flags_parse()'s answer. */
static int parse(struct flags *f, const char *line, struct err *e)
{
	static char copy[2048];
	char *argv[WORDS + 1] = { "lunetted" };
	int argc = 1;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *p = strtok(copy, " "); p && argc < WORDS; p = strtok(NULL, " "))
		argv[argc++] = p;
	memset(e, 0, sizeof(*e));
	return flags_parse(f, argc, argv, e);
}

static void load(const char *line, struct conf *c)
{
	struct flags f;
	struct err e;

	if (parse(&f, line, &e) < 0 || flags_load(&f, c, &e) < 0)
		fail_msg("%s: %s: %s", line, e.path, e.text);
	flags_free(&f);
}

/* Proves that disks become LUNs from 0 in the order given, with the options after the comma. */
static void test_disks(void **state)
{
	struct conf c;

	load("--ram 1G,bs=4096,ro --file /srv/x,,y,size=2G,wce=off --null=1T", &c);
	struct conf_target *t = c.targets.items;
	assert_int_equal(c.targets.n, 1);
	assert_int_equal(t->luns.n, 3);
	const char *kinds[] = { "ram", "file", "null" };
	for (unsigned i = 0; i < 3; i++) {
		struct conf_lun *l = (struct conf_lun *)t->luns.items + i;
		assert_int_equal(atoi(l->name), i);
		struct conf_volume *v = conf_volume(&c, l->volume);
		assert_string_equal(v->node.type, kinds[i]);
		assert_true(v->required);
	}
	assert_int_equal(conf_volume(&c, "lun0")->lu.bs, 4096);
	assert_true(conf_volume(&c, "lun0")->lu.ro);
	assert_string_equal(conf_volume(&c, "lun1")->identity, "/srv/x,y");
	assert_false(conf_volume(&c, "lun1")->lu.wce);
	conf_free(&conf_root_type, &c);
}

/* Proves that a relative path and its full path are one disk: the identity goes by the full path. */
static void test_identity_path(void **state)
{
	char cwd[PATH_MAX], full[PATH_MAX + 32];
	struct conf c;

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	load("--file no-such-file.img,size=1M", &c);
	snprintf(full, sizeof(full), "%s/no-such-file.img", cwd);
	assert_string_equal(conf_volume(&c, "lun0")->identity, full);
	conf_free(&conf_root_type, &c);
}

/* Proves the defaults: loopback, port 3260, a valid target name of this host, no users. */
static void test_defaults(void **state)
{
	struct conf c;
	char name[LIM_ISCSI_NAME + 8];

	load("--ram 1M", &c);
	flags_default_target(name, sizeof(name));
	assert_non_null(conf_target(&c, name));
	assert_int_equal(c.portals.n, 1);
	assert_string_equal(((struct conf_portal *)c.portals.items)->listen, "127.0.0.1:3260");
	assert_int_equal(c.users.n, 0);
	conf_free(&conf_root_type, &c);
	load("--ram 1M --listen :3261 --listen [::1] --target iqn.2026-11.com.example:T", &c);
	assert_string_equal(((struct conf_portal *)c.portals.items)[0].listen, "127.0.0.1:3261");
	assert_int_equal(c.portals.n, 2);
	assert_string_equal(((struct conf_portal *)c.portals.items)[1].listen, "[::1]:3260");
	assert_non_null(conf_target(&c, "iqn.2026-11.com.example:t"));
	conf_free(&conf_root_type, &c);
	load("--ram 1M --listen :3261,group=7,advertise=192.0.2.1 --listen :3262", &c);
	assert_int_equal(((struct conf_portal *)c.portals.items)[0].group, 7);
	assert_string_equal(((struct conf_portal *)c.portals.items)[0].listen, "127.0.0.1:3261");
	assert_string_equal(((struct conf_portal *)c.portals.items)[0].advertise, "192.0.2.1");
	assert_int_equal(((struct conf_portal *)c.portals.items)[1].group, 1);
	conf_free(&conf_root_type, &c);
}

/* Proves that an address others reach gets a random CHAP secret of at least 12 characters, that it stays the same for
 * the life of the process (SIGHUP), and that --open and --chap are obeyed instead. */
static void test_protect(void **state)
{
	struct flags f;
	struct err e;
	struct conf c;
	char first[64];

	assert_int_equal(parse(&f, "--ram 1M --listen 0.0.0.0", &e), 0);
	assert_int_equal(flags_load(&f, &c, &e), 0);
	struct conf_user *u = conf_user(&c, "lunette");
	assert_non_null(u);
	assert_true(strlen(u->secret) >= 12 && strlen(u->secret) <= 16);
	assert_string_equal(u->secret, f.generated);
	snprintf(first, sizeof(first), "%s", u->secret);
	assert_int_equal(((struct conf_target *)c.targets.items)->users.n, 1);
	conf_free(&conf_root_type, &c);
	assert_int_equal(flags_load(&f, &c, &e), 0);
	assert_string_equal(conf_user(&c, "lunette")->secret, first);
	conf_free(&conf_root_type, &c);
	flags_free(&f);

	load("--ram 1M --listen 0.0.0.0 --open", &c);
	assert_int_equal(c.users.n, 0);
	assert_true(((struct conf_target *)c.targets.items)->open);
	conf_free(&conf_root_type, &c);
	load("--ram 1M --listen 0.0.0.0 --chap alice:@@secret:with:colons --mutual me:another-secret", &c);
	assert_string_equal(conf_user(&c, "alice")->secret, "@secret:with:colons");
	assert_string_equal(((struct conf_target *)c.targets.items)->mutual, "me");
	conf_free(&conf_root_type, &c);
}

/* Proves that a secret in a file is read, and that the command line of ps(1) does not show one. */
static void test_secret_file(void **state)
{
	char path[] = "/tmp/lunette-flags-XXXXXX", line[100], word[] = "bob:visible-secret";
	char *argv[] = { "lunetted", "--ram", "1M", "--chap", word };
	struct flags f;
	struct err e = { 0 };
	struct conf c;
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "alice:from-the-file\nmore\n", 25), 25);
	close(fd);
	snprintf(line, sizeof(line), "--ram 1M --chap @%s", path);
	load(line, &c);
	assert_string_equal(conf_user(&c, "alice")->secret, "from-the-file");
	conf_free(&conf_root_type, &c);
	snprintf(line, sizeof(line), "--ram 1M --chap bob:@%s", path);
	load(line, &c);
	assert_string_equal(conf_user(&c, "bob")->secret, "alice:from-the-file");
	conf_free(&conf_root_type, &c);
	unlink(path);
	assert_int_equal(flags_parse(&f, 5, argv, &e), 0);
	assert_null(strstr(word, "visible"));
	flags_free(&f);
}

static const struct { const char *line, *says; int code; } mistakes[] = {
	{ "", "nothing to serve", -EINVAL },
	{ "--frob", "no option --frob", -EINVAL },
	{ "disk.img", "not understood", -EINVAL },
	{ "--ram", "needs a value", -EINVAL },
	{ "--open=1 --ram 1M", "takes no value", -EINVAL },
	{ "--ram 5x", "--ram 5x: size: '5x' is not understood", -EINVAL },
	{ "--ram 1M,,", "size", -EINVAL },
	{ "--ram 1M,frob=1", "frob: no such option; known are", -EINVAL },
	{ "--ram 1M,bs=513", "bs: block size 513", -EINVAL },
	{ "--ram 1M,ro,ro", "ro: is given twice", -EINVAL },
	{ "--ram 1M,=5", "empty", -EINVAL },
	{ "--file ", "needs a value", -EINVAL },
	{ "--ram 1M --cores x", "--cores x:", -EINVAL },
	{ "--ram 1M --cores 257", "above the maximum", -EINVAL },
	{ "--ram 1M --loop fast", "none of auto, uring, epoll", -EINVAL },
	{ "--ram 1M --loop epoll --loop epoll", "given twice", -EINVAL },
	{ "--ram 1M --target a --target b", "given twice", -EINVAL },
	{ "--ram 1M --chap alice", "USER:SECRET", -EINVAL },
	{ "--ram 1M --chap :x", "USER:SECRET", -EINVAL },
	{ "--ram 1M --mutual a:b", "needs --chap", -EINVAL },
	{ "--ram 1M --chap a:b --mutual a:c", "given twice", -EINVAL },
	{ "--ram 1M --chap a:b --open", "contradict", -EINVAL },
	{ "--config x --open", "write them in the file", -EINVAL },
	{ "--ram 1M --chap @/nonexistent/file", "cannot read /nonexistent/file", -ENOENT },
};

/* Proves that each mistake is told apart from failures (exit status 2, not 1) and explained. */
static void test_mistakes(void **state)
{
	for (unsigned i = 0; i < ARRAY_LEN(mistakes); i++) {
		struct flags f;
		struct err e;
		int r = parse(&f, mistakes[i].line, &e);
		if (r != mistakes[i].code || !strstr(e.text, mistakes[i].says))
			fail_msg("'%s': %d '%s'", mistakes[i].line, r, e.text);
		flags_free(&f);
	}
}

/* Proves that no error repeats a secret. */
static void test_secret_not_told(void **state)
{
	struct flags f;
	struct err e;

	assert_int_equal(parse(&f, "--ram 1M --chap a:hunter2hunter2 --chap a:hunter2hunter2", &e), -EINVAL);
	assert_null(strstr(e.text, "hunter2"));
	flags_free(&f);
}

/* Proves that a bad target name is found before anything starts. */
static void test_bad_target(void **state)
{
	struct flags f;
	struct err e;
	struct conf c;

	assert_int_equal(parse(&f, "--ram 1M --target disk", &e), 0);
	assert_int_equal(flags_load(&f, &c, &e), -EINVAL);
	assert_non_null(strstr(e.text, "no iSCSI name"));
	assert_string_equal(e.path, "targets/disk");
	flags_free(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disks), cmocka_unit_test(test_identity_path), cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_protect), cmocka_unit_test(test_secret_file), cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_secret_not_told), cmocka_unit_test(test_bad_target),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
